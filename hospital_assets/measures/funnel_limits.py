"""Limits of a funnel plot: how far the rates of units of different size differ by chance.

Units differ by more than chance alone: by who comes to them, by what they count. From `LEAST_UNITS` units on, that
spread (overdispersion) is estimated and added to the limits of each, so that those outside are out of the ordinary.

Source: Spiegelhalter, Statistics in Medicine 2005 (funnel plots) and 2012 (additive random effects); scale and
winsorising as in FunnelPlotR.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import narwhals as nw

#: Limits are so many standard deviations away.
SIGMAS = 3.0
#: Of fewer units, how much they spread cannot be told: their limits are those of chance alone (binomial).
LEAST_UNITS = 10
#: Scores beyond these quantiles are taken for these quantiles, so that outliers do not widen their own limits.
WINSORISED = 0.1
#: Abramowitz and Stegun 4.4.46: arcsine in [0, 1], off by 2e-8 at most.
_ARCSINE = (
    1.5707963050,
    -0.2145988016,
    0.0889789874,
    -0.0501743046,
    0.0308918810,
    -0.0170881256,
    0.0066700901,
    -0.0012624911,
)
_HALF_PI = 1.5707963267948966


def with_funnel_limits(
    units: nw.LazyFrame[Any],
    evaluated: Callable[[nw.LazyFrame[Any]], nw.LazyFrame[Any]] = lambda frame: frame,
    besides: Callable[[nw.Expr], nw.Expr] | None = None,
) -> nw.LazyFrame[Any]:
    """The rate of all units of a metric, and the limits of each for its size; shares, not percents.

    Adds centre, lower, upper, unit_count, dispersion (phi: 1 is chance alone) and between_variance (tau squared, on the
    arcsine scale; null where it is not estimated).

    Args:
        units: metric, hospital_id, numerator_count, denominator_count; a row per unit.
        evaluated: evaluates a plan once, for engines that would otherwise compute it for every column.
        besides: the variance of a count besides that of chance, by what is expected of it, for limits that are not
            estimated; None for none.
    """
    n, count = nw.col("denominator_count"), nw.col("numerator_count")
    counted = nw.when(n > 0)
    scored = evaluated(
        units.with_columns(
            centre=count.sum().over("metric") / nw.when(n.sum().over("metric") > 0).then(n.sum().over("metric")),
            unit_count=counted.then(1).otherwise(0).sum().over("metric"),
            _weight=counted.then(4.0 * n),
            _rate=counted.then(count / n),
        )
        .with_columns(_centre=_arcsine(nw.col("centre").sqrt()))
        .with_columns(_score=(_arcsine(nw.col("_rate").sqrt()) - nw.col("_centre")) * nw.col("_weight").sqrt())
    )
    score = nw.col("_score")
    tails = scored.group_by("metric").agg(
        _low=score.quantile(WINSORISED, interpolation="linear"),
        _high=score.quantile(1 - WINSORISED, interpolation="linear"),
        _sum=nw.col("_weight").sum(),
        _sum_of_squares=(nw.col("_weight") * nw.col("_weight")).sum(),
    )
    kept = nw.when(score < nw.col("_low")).then(nw.col("_low")).otherwise(score)
    kept = nw.when(score > nw.col("_high")).then(nw.col("_high")).otherwise(kept)
    k = nw.col("unit_count")
    excess = (k * nw.col("dispersion") - (k - 1)) / (nw.col("_sum") - nw.col("_sum_of_squares") / nw.col("_sum"))
    spread = evaluated(
        evaluated(scored.join(tails, on="metric", how="inner"))
        # Rounded, because sums of fractions depend on their order.
        .with_columns(dispersion=(kept * kept).mean().over("metric").round(9))
        .with_columns(_excess=nw.when(excess > 0).then(excess).otherwise(nw.lit(0.0)))
        .with_columns(between_variance=nw.when(k >= LEAST_UNITS).then(nw.col("_excess").round(12)))
    )
    centre = nw.col("centre")
    rest = 1.0 - centre
    variance = centre * rest / n
    if besides is not None:
        variance = variance + (rest * rest * besides(n * centre) + centre * centre * besides(n * rest)) / (n * n)
    chance = variance.sqrt()
    reach = SIGMAS * (1.0 / nw.col("_weight") + nw.col("between_variance")).sqrt()
    low, high = nw.col("_centre") - reach, nw.col("_centre") + reach
    dispersed = ~nw.col("between_variance").is_null()
    lower = nw.when(dispersed).then(nw.when(low > 0).then(low.sin() * low.sin()).otherwise(nw.lit(0.0)))
    upper = nw.when(dispersed).then(nw.when(high < _HALF_PI).then(high.sin() * high.sin()).otherwise(nw.lit(1.0)))
    plain_low, plain_high = centre - SIGMAS * chance, centre + SIGMAS * chance
    return spread.with_columns(
        lower=counted.then(nw.coalesce(lower, nw.when(plain_low > 0).then(plain_low).otherwise(nw.lit(0.0)))),
        upper=counted.then(nw.coalesce(upper, nw.when(plain_high < 1).then(plain_high).otherwise(nw.lit(1.0)))),
    )


def _arcsine(share: nw.Expr) -> nw.Expr:
    """The arcsine of a number from 0 to 1; no engine's Narwhals has one."""
    polynomial = nw.lit(0.0)
    for coefficient in reversed(_ARCSINE):
        polynomial = polynomial * share + coefficient
    return _HALF_PI - (1.0 - share).sqrt() * polynomial
