"""Distributions of counts: Poisson, and negative binomial with variance m + a m²; without scipy.

All functions take arrays of means and a dispersion a >= 0 (0 is Poisson), one or one each. A quantile is the smallest
whole number k with CDF(k) >= q.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: What the forecasts state of each distribution.
QUANTILES = (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)
#: A CDF this little below q has reached it: sums of 16ths and the like are to be exact.
ROUNDING = 1e-12
#: Standard deviations above the mean that hold all of a count's distribution (the NB tail is exponential).
_TAIL = 12.0
_LEAST_SUPPORT = 20
_LEAST_DISPERSION = 1e-12
#: Distributions whose quantiles are found together: a table of theirs stays in the processor's cache.
_AT_A_TIME = 1000


def pmf(means: Array, dispersion: float | Array, support: int | None = None) -> Array:
    """Probabilities of 0, 1, ... support - 1.

    Args:
        means: n means >= 0.
        dispersion: a in variance = m + a m², of all or of each.
        support: how many counts; default: enough for the widest of the distributions.

    Returns:
        n x support.
    """
    size = support or support_of(means, dispersion)
    k = np.arange(1, size, dtype=np.float64)
    # Poisson is the limit of a = 0; from here on its difference is below what a float holds.
    a = np.maximum(np.atleast_1d(dispersion), _LEAST_DISPERSION)[:, None]
    with np.errstate(divide="ignore"):
        # p(k) / p(k-1) = (1 + a (k-1)) m / (k (1 + a m))
        start = -np.log1p(a[:, 0] * means) / a[:, 0]
        growth = np.log(means / (1 + a[:, 0] * means))
    steps = np.log1p(a * (k - 1)) - np.log(k)
    logs = np.empty((len(means), size))
    logs[:, 0] = start
    logs[:, 1:] = start[:, None] + np.cumsum(steps, axis=1) + k[None, :] * growth[:, None]
    return np.exp(logs)


def support_of(means: Array, dispersion: float | Array) -> int:
    """How many counts hold the widest of the distributions."""
    return int(_supports(means, dispersion).max(initial=_LEAST_SUPPORT))


def _supports(means: Array, dispersion: float | Array) -> npt.NDArray[np.int64]:
    spread = np.sqrt(means + dispersion * means * means)
    return (means + _TAIL * spread * (1 + dispersion)).astype(np.int64) + _LEAST_SUPPORT


def cdf(means: Array, dispersion: float | Array, support: int | None = None) -> Array:
    """P(Y <= k) for k = 0, 1, ...; n x support."""
    return np.minimum(np.cumsum(pmf(means, dispersion, support), axis=1), 1.0)


def quantiles(means: Array, dispersion: float | Array, levels: Sequence[float] = QUANTILES) -> npt.NDArray[np.int64]:
    """The smallest whole numbers k with CDF(k) >= q; n x levels."""
    each = np.broadcast_to(dispersion, means.shape)
    found = np.empty((len(means), len(levels)), dtype=np.int64)
    # Wide ones beside narrow ones would make all of them wide.
    by_width = np.argsort(_supports(means, each), kind="stable")
    for some in np.split(by_width, range(_AT_A_TIME, len(means), _AT_A_TIME)):
        below = cdf(means[some], each[some])
        found[some] = np.stack([(below < q - ROUNDING).sum(axis=1) for q in levels], axis=1)
    return found


def estimated_dispersion(actual: Array, means: Array) -> float:
    """A by moments: max(0, sum((y - m)² - m) / sum(m²)); 0 where nothing was expected."""
    squares = float(np.sum(means * means))
    return max(0.0, float(np.sum((actual - means) ** 2 - means)) / squares) if squares > 0 else 0.0
