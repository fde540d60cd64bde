"""Natural limits of a series (XmR chart): what chance alone explains, for KPI tables and the dashboard.

Limits come from the baseline of a series, its first `BASELINE_POINTS` points, and stay as they are: neither later
points nor what somebody chooses to look at moves them. They are set anew only on purpose, from a stated day on
(`baselines_from` in `hospital.toml`), after a change that is understood.

Source: Wheeler, Understanding Variation; NHS England, Making Data Count; screening and rules as in NHSRplotthedots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any, Literal

import narwhals as nw

#: Mean moving range of two, over the standard deviation of what moves.
RANGE_PER_DEVIATION = 1.128
#: From moving ranges of two to three standard deviations, as Wheeler rounds it.
XMR_FACTOR = round(3 / RANGE_PER_DEVIATION, 2)
#: Two thirds of the way to a limit.
NEAR_FACTOR = 1.773
#: Moving ranges of so many times their mean are no chance (upper limit of a moving range); dropped once.
SCREEN_FACTOR = 3.267
#: This many in a row on one side of the mean, or rising, or falling, are a signal, not chance.
RUN_LENGTH = 7
#: The first points of a series, from which its limits are computed: four whole weeks where a point is a day.
BASELINE_POINTS = 28
#: Fewer points have no limits: nothing can be told from so few.
LEAST_POINTS = 12

Verdict = Literal["usual", "improving", "concern", "changed"]
Better = Literal["lower", "higher", "neither"]
Assurance = Literal["met", "missed", "either"]

#: Verdict on a point -> its label (Making Data Count).
WORDS: Mapping[Verdict, str] = {
    "usual": "Usual range",
    "improving": "Improving",
    "concern": "Concern",
    "changed": "Changed",
}

#: What the limits say of a target -> in words (Making Data Count).
ASSURANCES: Mapping[Assurance, str] = {
    "met": "target consistently met",
    "missed": "target consistently missed",
    "either": "target hit or miss",
}


def verdict_of(direction: int, better: Better) -> Verdict:
    """What a signal means: upwards (1), downwards (-1) or none (0)."""
    if not direction:
        return "usual"
    if better == "neither":
        return "changed"
    return "improving" if (direction < 0) == (better == "lower") else "concern"


def assurance(target: float | None, lower: float, upper: float, better: Better) -> Assurance | None:
    """Whether a process within its limits meets a target; None without a target or where no way is better."""
    if target is None or better == "neither":
        return None
    if lower < target < upper:
        return "either"
    return "met" if (upper <= target) == (better == "lower") else "missed"


def with_natural_limits(
    values: nw.LazyFrame[Any],
    evaluated: Callable[[nw.LazyFrame[Any]], nw.LazyFrame[Any]] = lambda frame: frame,
    baselines_from: Sequence[date] = (),
    baseline_points: int = BASELINE_POINTS,
) -> nw.LazyFrame[Any]:
    """XmR: baseline, mean, natural limits and signals of each metric and hospital.

    All points of a run or trend are signals, and of two out of three near one limit those two. `signal_direction` is 1
    or -1 for the way of a signal, 0 where there is none. A series that stands at its least or most on most days of its
    baseline (rare events, or all within a target) has no runs. Of fewer than `LEAST_POINTS` points there are no limits
    and no signals.

    Args:
        values: metric, hospital_id, period_date, value; a row per day, none missing matters.
        evaluated: evaluates a plan once, for engines that would otherwise compute it for every column.
        baselines_from: days from which limits are computed anew.
        baseline_points: how many first points limits are computed from.
    """
    baseline = nw.lit(0)
    for start in baselines_from:
        baseline = baseline + nw.when(nw.col("period_date") >= nw.lit(start)).then(1).otherwise(0)
    series = ["metric", "hospital_id", "_baseline"]
    ranged = evaluated(
        values.with_columns(_baseline=baseline).with_columns(
            _place=nw.col("value").cum_count().over(*series, order_by="period_date"),
            _step=nw.col("value") - nw.col("value").shift(1).over(*series, order_by="period_date"),
        )
    )
    of_baseline = nw.col("_place") <= baseline_points
    base = nw.when(of_baseline).then(nw.col("value"))
    spread = ranged.with_columns(
        _count=nw.col("value").count().over(*series),
        _range=nw.when(of_baseline).then(nw.col("_step").abs()),
        _day=nw.when(of_baseline).then(nw.col("period_date")),
        _base=base,
        # Rounded, because sums of fractions depend on their order.
        centre=base.mean().over(*series).round(9),
    )
    screened = nw.col("_range") < (SCREEN_FACTOR * nw.col("_mean_range")).round(9)
    limited = evaluated(
        spread.with_columns(
            _mean_range=nw.col("_range").mean().over(*series).round(9),
            baseline_first_date=nw.col("_day").min().over(*series),
            baseline_last_date=nw.col("_day").max().over(*series),
            _least=nw.col("_base").min().over(*series),
            _most=nw.col("_base").max().over(*series),
        )
        .with_columns(
            _is_least=nw.when(nw.col("_base") == nw.col("_least")).then(1.0).otherwise(0.0),
            _is_most=nw.when(nw.col("_base") == nw.col("_most")).then(1.0).otherwise(0.0),
            _places=nw.col("_base").count().over(*series),
        )
        .with_columns(
            # Most days without an event, or all of it: the mean is beside where the series usually stands.
            _is_capped=nw.max_horizontal(
                nw.col("_is_least").sum().over(*series), nw.col("_is_most").sum().over(*series)
            )
            > nw.col("_places") / 2
        )
        .with_columns(_screened=nw.when(screened).then(nw.col("_range")).mean().over(*series).round(9))
        .with_columns(
            # Of rare events nothing but the events moves: without them, each would be outside, and each day between.
            _mean_range=nw.when(nw.col("_count") >= LEAST_POINTS).then(
                nw.when(nw.col("_screened") > 0).then(nw.col("_screened")).otherwise(nw.col("_mean_range"))
            )
        )
    )
    lower = nw.col("centre") - XMR_FACTOR * nw.col("_mean_range")
    return _with_signals(
        limited.with_columns(
            lower_limit=nw.when(lower > 0).then(lower).otherwise(nw.when(~lower.is_null()).then(nw.lit(0.0))),
            upper_limit=nw.col("centre") + XMR_FACTOR * nw.col("_mean_range"),
        ),
        series,
        evaluated,
    )


def _with_signals(
    limited: nw.LazyFrame[Any], series: Sequence[str], evaluated: Callable[[nw.LazyFrame[Any]], nw.LazyFrame[Any]]
) -> nw.LazyFrame[Any]:
    """The four rules: outside, run, trend, two of three near a limit."""

    def side(by: nw.Expr, of: nw.Expr) -> nw.Expr:
        return nw.when(by > of).then(nw.lit(1)).otherwise(nw.when(by < -of).then(nw.lit(-1)).otherwise(nw.lit(0)))

    def shifted(name: str, by: int) -> nw.Expr:
        return nw.coalesce(nw.col(name).shift(by).over(*series, order_by="period_date"), nw.lit(0))

    away = nw.col("value") - nw.col("centre")
    outside = (nw.col("value") < nw.col("lower_limit")) | (nw.col("value") > nw.col("upper_limit"))
    sided = limited.with_columns(
        _side=side(away, nw.lit(0.0)),
        _way=side(nw.col("_step"), nw.lit(0.0)),
        is_outside=nw.coalesce(outside, nw.lit(False)),
    ).with_columns(
        _near=nw.when(~nw.col("is_outside")).then(side(away, NEAR_FACTOR * nw.col("_mean_range"))).otherwise(nw.lit(0))
    )
    # Points in a row are those with as many turns before them.
    turned = evaluated(
        sided.with_columns(
            _turn=nw.when(nw.col("_side") == shifted("_side", 1)).then(0).otherwise(1),
            _bend=nw.when(nw.col("_way") == shifted("_way", 1)).then(0).otherwise(1),
            _is_pair=nw.any_horizontal(
                *(nw.col("_near") == shifted("_near", by) for by in (-2, -1, 1, 2)), ignore_nulls=True
            ),
        ).with_columns(
            _turn=nw.col("_turn").cum_sum().over(*series, order_by="period_date"),
            _bend=nw.col("_bend").cum_sum().over(*series, order_by="period_date"),
        )
    )
    known = ~nw.col("_mean_range").is_null()
    run = nw.col("value").count().over(*series, "_turn") >= RUN_LENGTH
    # Seven points are six steps, and the first of them is where the first step starts.
    steps = nw.col("value").count().over(*series, "_bend") >= RUN_LENGTH - 1
    return (
        turned.with_columns(
            is_run=known & ~nw.col("_is_capped") & (nw.col("_side") != 0) & run,
            is_two_of_three=known & (nw.col("_near") != 0) & nw.col("_is_pair"),
            _trend=nw.when(known & steps).then(nw.col("_way")).otherwise(nw.lit(0)),
        )
        .with_columns(_trend=nw.when(nw.col("_trend") != 0).then(nw.col("_trend")).otherwise(shifted("_trend", -1)))
        .with_columns(
            is_trend=nw.col("_trend") != 0,
            signal_direction=nw.when(nw.col("is_outside") | nw.col("is_run") | nw.col("is_two_of_three"))
            .then(nw.col("_side"))
            .otherwise(nw.col("_trend")),
        )
    )
