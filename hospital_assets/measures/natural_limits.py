"""Natural limits of a series (XmR chart): what chance alone explains, for KPI tables and the dashboard.

Source: Wheeler, Understanding Variation; NHS England, Making Data Count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import narwhals as nw

#: From moving ranges of two to three standard deviations (Wheeler): 3 / 1.128.
XMR_FACTOR = 2.66
#: This many in a row on one side of the mean are a signal, not chance.
RUN_LENGTH = 8

Verdict = Literal["usual", "improving", "concern", "changed"]

#: Verdict on a point -> its label (Making Data Count).
WORDS: Mapping[Verdict, str] = {
    "usual": "Usual range",
    "improving": "Improving",
    "concern": "Concern",
    "changed": "Changed",
}


def with_natural_limits(
    values: nw.LazyFrame[Any], evaluated: Callable[[nw.LazyFrame[Any]], nw.LazyFrame[Any]] = lambda frame: frame
) -> nw.LazyFrame[Any]:
    """XmR: mean, natural limits and signals of each metric and hospital.

    Args:
        values: metric, hospital_id, period_date, value; a row per day, none missing matters.
        evaluated: evaluates a plan once, for engines that would otherwise compute it for every column.
    """
    series = ["metric", "hospital_id"]
    ranged = evaluated(
        values.with_columns(
            # Rounded, because sums of fractions depend on their order.
            centre=nw.col("value").mean().over(*series).round(9),
            _previous=nw.col("value").shift(1).over(*series, order_by="period_date"),
        ).with_columns(
            _range=(nw.col("value") - nw.col("_previous")).abs(),
            _side=nw.when(nw.col("value") > nw.col("centre"))
            .then(nw.lit(1))
            .otherwise(nw.when(nw.col("value") < nw.col("centre")).then(nw.lit(-1)).otherwise(0)),
        )
    )
    spread = ranged.with_columns(
        _mean_range=nw.col("_range").mean().over(*series).round(9),
        _recent=nw.col("_side").rolling_sum(RUN_LENGTH, min_samples=RUN_LENGTH).over(*series, order_by="period_date"),
    )
    lower = nw.col("centre") - XMR_FACTOR * nw.col("_mean_range")
    limited = spread.with_columns(
        lower_limit=nw.when(lower > 0).then(lower).otherwise(nw.when(~lower.is_null()).then(nw.lit(0.0))),
        upper_limit=nw.col("centre") + XMR_FACTOR * nw.col("_mean_range"),
    )
    outside = (nw.col("value") < nw.col("lower_limit")) | (nw.col("value") > nw.col("upper_limit"))
    return limited.with_columns(
        is_outside=nw.coalesce(outside, nw.lit(False)),
        is_run_of_eight=nw.coalesce(nw.col("_recent").abs() >= RUN_LENGTH, nw.lit(False)),
    )
