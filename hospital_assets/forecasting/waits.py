"""Waits of the two days ahead: the queue simulated from forecast arrivals and the roster that is known.

Hours are those of the hospital's clock, counted from the end of the as-of day: before it they are below zero. The queue
begins half a day earlier with the patients who came, and goes on with patients who are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from hospital_assets.forecasting.calendar import HOURS_PER_DAY
from hospital_assets.forecasting.counts import Array
from hospital_assets.forecasting.gate import Verdict, verdict
from hospital_assets.forecasting.scores import pinball
from hospital_assets.forecasting.simulate import Care, Patients, Shift, drawn, waits

HOURS_AHEAD = 2 * HOURS_PER_DAY
#: The queue is filled with the patients of so many hours before the end of the as-of day.
HOURS_BEFORE = 12
#: Two days are simulated so often.
REPLICATES = 12
#: A roster is known where it has this share of the usual doctors' hours: a part of one would be a shortage.
LEAST_OF_ROSTER = 0.5
#: Quantiles of the mean wait of an hour.
LEVELS = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Ahead:
    """What is known of a department at the end of the as-of day.

    Attributes:
        rates: expected arrivals of each of the 48 hours.
        before: who came in the last `HOURS_BEFORE`.
        shifts: of the day before the as-of day until three days after it, as they are planned.
    """

    rates: Array
    day_dispersion: float
    care: Care
    before: Patients
    shifts: Sequence[Shift]
    seed: int


@dataclass(frozen=True)
class Bands:
    """Waits by hour ahead; NaN where hardly anybody comes.

    Attributes:
        quantiles: hours x `LEVELS`, of the mean wait of those who come in the hour and are seen, in hours.
        over: chance that this mean is over a limit.
        within: share of those who are seen who are seen within the target of their level.
    """

    quantiles: Array
    over: Array
    within: Array


def simulated(ahead: Ahead, limit: float, replicates: int = REPLICATES) -> Bands:
    """The two days, simulated again and again; mean waits over the limit (in hours) are long."""
    shifts = sorted(ahead.shifts)
    means = np.empty((replicates, HOURS_AHEAD))
    seen, in_time = np.zeros(HOURS_AHEAD), np.zeros(HOURS_AHEAD)
    # A generator for each: one more replicate changes none of the others.
    for n, seed in enumerate(np.random.SeedSequence(ahead.seed).spawn(replicates)):
        drawn_ahead = drawn(np.random.default_rng(seed), ahead.rates, ahead.care, ahead.day_dispersion)
        patients = _in_order(ahead.before, drawn_ahead)
        waited = waits(patients, shifts, ahead.care.places)
        mine = ~np.isnan(waited) & (patients.arrival >= 0)
        hour, of = patients.arrival[mine].astype(int), waited[mine]
        count = np.bincount(hour, minlength=HOURS_AHEAD)
        with np.errstate(invalid="ignore"):
            means[n] = np.bincount(hour, of, HOURS_AHEAD) / count
        seen += count
        in_time += np.bincount(hour[of <= ahead.care.targets[patients.level[mine]]], minlength=HOURS_AHEAD)
    known = (~np.isnan(means)).sum(axis=0)
    is_busy = known >= replicates / 2
    # The hours beside it tell of an hour what a few replicates do not.
    near = np.pad(means, ((0, 0), (1, 1)), constant_values=np.nan)
    near = np.concatenate([near[:, :-2], means, near[:, 2:]])
    quantiles = np.where(is_busy[:, None], _quantiles(near, (~np.isnan(near)).sum(axis=0)), np.nan)
    with np.errstate(invalid="ignore"):
        over, within = (means > limit).sum(axis=0) / known, in_time / seen
    return Bands(quantiles, np.where(is_busy, over, np.nan), np.where(is_busy, within, np.nan))


def _quantiles(means: Array, known: Array) -> Array:
    """Of each column as far as it is known, interpolated: `numpy.nanquantile` takes 20 times as long.

    Args:
        means: replicates x hours; NaN where nothing is known.
        known: how many are, by hour.
    """
    ordered = np.sort(means, axis=0)  # NaN come last.
    at = np.outer(LEVELS, np.maximum(known - 1, 0))
    below = np.floor(at).astype(int)
    low, high = (np.take_along_axis(ordered, rows, axis=0) for rows in (below, np.ceil(at).astype(int)))
    found: Array = (low + (high - low) * (at - below)).T
    return found


def _in_order(before: Patients, after: Patients) -> Patients:
    """All of them, in order of triage."""
    both = {one.name: np.concatenate([getattr(before, one.name), getattr(after, one.name)]) for one in fields(Patients)}
    order = np.argsort(both["triage"], kind="stable")
    return Patients(**{name: values[order] for name, values in both.items()})


def is_rostered(hours_by_day: Sequence[float], usual: float) -> bool:
    """Whether the roster of all days ahead is known.

    Args:
        hours_by_day: doctors' hours of each day ahead, as far as they were planned on the as-of day.
        usual: of a day.
    """
    return usual > 0 and all(hours >= LEAST_OF_ROSTER * usual for hours in hours_by_day)


def losses(actual: Array, bands: Array) -> Array:
    """How far off forecasts were: absolute error of the median, and pinball loss of the 90 % quantile.

    Args:
        actual: n mean waits that came.
        bands: n x `LEVELS`.

    Returns:
        n x 2.
    """
    return np.stack([np.abs(actual - bands[:, 1]), pinball(actual, bands[:, 2], LEVELS[2])], axis=1)


def verdicts(simulation: Array, same_hour: Array) -> tuple[Verdict, Verdict]:
    """What past forecasts show, by each of the two losses; the simulation ships where it passes both.

    Args:
        simulation: origins x 2, mean losses of the newest origins, in the order of time.
        same_hour: likewise, of the same hours.
    """
    median, high = (verdict(simulation[:, n], same_hour[:, n]) for n in range(2))
    return median, high
