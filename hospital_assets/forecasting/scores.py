"""How good forecasts of counts were: errors against the median and the mean, pinball, CRPS, calibration, the floor.

Point forecasts: the median for absolute errors, the mean for bias and sums. Coverage is that of the randomised PIT:
the probability that a uniform draw between CDF(y - 1) and CDF(y) lies in the band, taken exactly instead of drawn, so
that it is the same in every run. Closed coverage, low <= y <= high, is above the nominal one for small counts even of a
perfect forecast (Poisson 2: [q.1, q.9] holds .947) and must not be compared with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hospital_assets.forecasting.counts import ROUNDING, Array, cdf, pmf, support_of


@dataclass(frozen=True)
class Outcomes:
    """Each forecast with what came; arrays of one length, to be pooled as wanted.

    Attributes:
        actual: counts that came.
        mean: forecast means.
        median: forecast medians.
        crps: continuous ranked probability score, in counts.
        expected_crps: what it is in the mean where the forecast is the truth.
        pit_low: CDF(y - 1).
        pit_high: CDF(y).
        floor: the absolute error to be expected if the mean were known and counts were Poisson.
    """

    actual: Array
    mean: Array
    median: Array
    crps: Array
    expected_crps: Array
    pit_low: Array
    pit_high: Array
    floor: Array

    @property
    def mae(self) -> float:
        """Mean absolute error of the median."""
        return float(np.mean(np.abs(self.actual - self.median)))

    @property
    def bias(self) -> float:
        """Mean of forecast mean minus actual: positive means too many were forecast."""
        return float(np.mean(self.mean - self.actual))

    def coverage(self, low: float, high: float) -> float:
        """Share of randomised PIT values between two levels."""
        return float(np.mean(pit_share(self.pit_low, self.pit_high, low, high)))


def outcomes(actual: Array, means: Array, dispersion: float | Array) -> Outcomes:
    """Score forecasts.

    Args:
        actual: n counts that came.
        means: n forecast means.
        dispersion: a, of all or of each.
    """
    below = cdf_up_to(actual, means, dispersion)
    at = actual.astype(np.int64)
    rows = np.arange(len(at))
    high = below[rows, at]
    low = np.where(at > 0, below[rows, np.maximum(at - 1, 0)], 0.0)
    median = (below < 0.5 - ROUNDING).sum(axis=1).astype(np.float64)
    # The mean of the CRPS over counts of the distribution itself: the sum of F (1 - F).
    expected = (below * (1 - below)).sum(axis=1)
    return Outcomes(actual, means, median, crps(actual, below), expected, low, high, poisson_floor(means))


def cdf_up_to(actual: Array, means: Array, dispersion: float | Array) -> Array:
    """P(Y <= k), as far as the distributions and the counts that came reach."""
    return cdf(means, dispersion, max(int(actual.max(initial=0.0)) + 2, support_of(means, dispersion)))


def crps(actual: Array, below: Array) -> Array:
    """Continuous ranked probability score: the sum over k of (CDF(k) - 1{y <= k})².

    Args:
        actual: n counts that came.
        below: n x support, P(Y <= k).
    """
    came = actual[:, None] <= np.arange(below.shape[1])[None, :]
    return np.asarray(((below - came) ** 2).sum(axis=1), dtype=np.float64)


def pit_share(low: Array, high: Array, least: float, most: float) -> Array:
    """Probability that a uniform draw in (low, high) lies in (least, most)."""
    width = np.maximum(high - low, 1e-300)
    return np.clip((np.minimum(high, most) - np.maximum(low, least)) / width, 0.0, 1.0)


def poisson_floor(means: Array) -> Array:
    """Mean absolute error of the median of a Poisson count whose mean is known: what no forecast can beat."""
    probabilities = pmf(means, 0.0)
    median = (np.cumsum(probabilities, axis=1) < 0.5 - ROUNDING).sum(axis=1, keepdims=True)
    k = np.arange(probabilities.shape[1], dtype=np.float64)
    return np.asarray((probabilities * np.abs(k[None, :] - median)).sum(axis=1), dtype=np.float64)


def pinball(actual: Array, forecast: Array, level: float) -> Array:
    """Pinball loss of a quantile forecast."""
    return np.maximum(level * (actual - forecast), (level - 1) * (actual - forecast))
