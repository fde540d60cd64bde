"""How far a count lies from what is expected by chance alone: three standard deviations of a Poisson count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import narwhals as nw

from hospital_assets.measures.funnel_limits import SIGMAS


def with_poisson_limits(
    frame: nw.LazyFrame[Any], besides: Callable[[nw.Expr], nw.Expr] | None = None
) -> nw.LazyFrame[Any]:
    """Add lower_limit_count (not below 0), upper_limit_count and is_outside; null where nothing is expected.

    Args:
        frame: visit_count and expected_visit_count.
        besides: the variance of a count besides that of chance, by what is expected of it; None for none.
    """
    expected, count = nw.col("expected_visit_count"), nw.col("visit_count")
    reach = SIGMAS * (expected if besides is None else expected + besides(expected)).sqrt()
    lower = expected - reach
    return frame.with_columns(
        lower_limit_count=nw.when(lower > 0).then(lower).otherwise(nw.when(~lower.is_null()).then(nw.lit(0.0))),
        upper_limit_count=expected + reach,
    ).with_columns(is_outside=(count < nw.col("lower_limit_count")) | (count > nw.col("upper_limit_count")))
