"""How long patients stay, and how many will be there: Kaplan-Meier and the sum of many small chances.

Source: Kaplan and Meier 1958; survivors of those who are in plus those still to come, as an M/G/infinity queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from hospital_assets.forecasting.counts import ROUNDING, Array, pmf

#: Beyond the longest stay that was seen, stays end at the rate at which all end.
_LEAST_SURVIVAL = 1e-9


@dataclass(frozen=True)
class Stays:
    """How long stays last.

    Attributes:
        survival: share that last longer than 0, 1, 2, ... hours.
        mean_hours: what a stay lasts on average, of the hours seen per stay that ended.
    """

    survival: Array
    mean_hours: float

    def beyond(self, hours: Array) -> Array:
        """Share of stays that last longer than some hours; between whole hours by interpolation."""
        last = len(self.survival) - 1
        found: Array = np.interp(hours, np.arange(last + 1), self.survival)
        later = np.maximum(hours - last, 0.0)
        return np.asarray(np.maximum(found, _LEAST_SURVIVAL) * np.exp(-later / self.mean_hours), dtype=np.float64)


def kaplan_meier(hours: Array, has_ended: Array) -> Stays | None:
    """The survival of stays by Kaplan and Meier; None where none has ended."""
    ended = has_ended.sum()
    if ended == 0:
        return None
    times = np.unique(hours[has_ended > 0])
    events = np.searchsorted(np.sort(hours[has_ended > 0]), times, side="right")
    events = np.diff(events, prepend=0)
    at_risk = len(hours) - np.searchsorted(np.sort(hours), times, side="left")
    after = np.cumprod(1 - events / at_risk)
    whole = np.arange(np.ceil(times[-1]) + 1)
    survival = np.concatenate([[1.0], after])[np.searchsorted(times, whole, side="right")]
    return Stays(survival, max(float(hours.sum() / ended), 1.0))


def still_there(stays: Stays, ages: Array, ahead: Array) -> Array:
    """The chance that each of those who are in is there later; patients x times.

    Args:
        ages: hours that each has been in.
        ahead: hours from now.
    """
    found: Array = stays.beyond(ages[:, None] + ahead[None, :]) / stays.beyond(ages)[:, None]
    return np.minimum(found, 1.0)


def come_and_there(stays: Stays, rates: Array, ahead: Array) -> Array:
    """How many of those who come from now on are there later.

    Args:
        rates: expected to come in each hour from now on.
        ahead: whole hours from now, at most as many as rates.
    """
    reached = stays.beyond(np.arange(len(rates), dtype=np.float64) + 0.5)
    both: Array = np.convolve(rates, reached)[: len(rates)]
    later: Array = np.concatenate([[0.0], both])[ahead.astype(int)]
    return later


def count_of(chances: Array) -> Array:
    """Probabilities of 0, 1, 2, ... patients who are there, each with a chance that does not depend on the others.

    Args:
        chances: patients x times.

    Returns:
        times x (patients + 1).
    """
    found = np.zeros((chances.shape[1], len(chances) + 1))
    found[:, 0] = 1
    for before, chance in enumerate(chances[:, :, None], start=1):
        one_more = found[:, :before] * chance
        found[:, :before] *= 1 - chance
        found[:, 1 : before + 1] += one_more
    return found


def census(those_in: Sequence[Array], expected: Array) -> list[Array]:
    """Probabilities of 0, 1, 2, ... patients in some departments together, at each of some times.

    Args:
        those_in: of each department, as from `count_of`.
        expected: means of those who are still to come, Poisson numbers.
    """
    coming = pmf(np.maximum(expected, 0.0), 0.0)
    return [reduce(np.convolve, of_time) for of_time in zip(coming, *those_in, strict=True)]


def quantiles(probabilities: Array, levels: Sequence[float]) -> list[int]:
    """The smallest numbers that are not exceeded with some probabilities."""
    below = np.cumsum(probabilities)
    return [int((below < level - ROUNDING).sum()) for level in levels]
