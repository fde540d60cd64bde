"""Which share of arrivals has which triage level, by hour of the day.

A share of a Poisson or negative binomial count is a count with the same dispersion, so that the distribution of a
level's arrivals follows from its mean; and means of all levels add up to those of the arrivals.
"""

from __future__ import annotations

import numpy as np

from hospital_assets.forecasting.calendar import HOURS_PER_DAY
from hospital_assets.forecasting.counts import Array

#: Shares of a year are learned.
SHARE_DAYS = 365
#: Arrivals at the shares of the whole day that each hour is given beforehand: nights are thin.
_PRIOR_ARRIVALS = 50.0


def shares(counts: Array) -> Array:
    """The share of each triage level among those who arrive in an hour of the day.

    Args:
        counts: days x 24 x levels, the days that are known.

    Returns:
        24 x levels; rows sum to 1. Of no arrivals at all, the last level has them.
    """
    by_hour = counts[-SHARE_DAYS:].reshape(-1, HOURS_PER_DAY, counts.shape[2]).sum(axis=0)
    total = by_hour.sum()
    if total == 0:
        return np.tile(np.eye(counts.shape[2])[-1], (HOURS_PER_DAY, 1))
    usual = by_hour.sum(axis=0) / total
    return np.asarray((by_hour + _PRIOR_ARRIVALS * usual) / (by_hour.sum(axis=1, keepdims=True) + _PRIOR_ARRIVALS))
