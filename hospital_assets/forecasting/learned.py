"""What a simulated department has to know of the real one, learned from visits and shifts of the last weeks.

Times are hours of any clock without jumps (NaN where there is none), levels 1 to 5 (0 where not triaged).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hospital_assets.forecasting.counts import Array
from hospital_assets.forecasting.simulate import LEVELS, Care, Patients

#: A queue shows how many patients a doctor takes: moments with so many who have waited so long (hours) ...
_QUEUE, _QUEUE_HOURS = 2, 1 / 6
#: ... of which there have to be so many, ...
LEAST_MOMENTS = 20
#: ... and of which the lower quartile counts: doctors who have gone home finish with their patients (too many for each
#: at most moments), and who is ill is in the roster all the same (too few at some).
_LOWEST = 0.25
#: Moments that are looked at, in hours.
_STEP = 0.25
#: Visits from which on anything is learned.
LEAST_VISITS = 100


@dataclass(frozen=True)
class Visits:
    """Visits of an emergency department.

    Attributes:
        arrival: of all of them.
        triage: where it happened.
        provider: first seen by; NaN: never, or not yet.
        decision: end of the treatment.
        departure: NaN while there.
        level: 1 to 5; 0: not triaged.
        unseen: whether the patient left without being seen.
    """

    arrival: Array
    triage: Array
    provider: Array
    decision: Array
    departure: Array
    level: npt.NDArray[np.int64]
    unseen: npt.NDArray[np.bool_]


def leaving_rate(left: int, waited_hours: float) -> float:
    """How many of those who wait leave an hour: those who left, over the hours that all have waited.

    Who was seen would have left later (a censored exponential): the mean wait of the leavers alone is too short.
    """
    return left / waited_hours if waited_hours > 0 else 0.0


def there_at(moments: Array, begin: Array, end: Array) -> npt.NDArray[np.int64]:
    """How many spans go on at each moment; those without a begin, or that end before it, are none."""
    used = end > begin
    begun = np.searchsorted(np.sort(begin[used]), moments, side="right")
    found: npt.NDArray[np.int64] = begun - np.searchsorted(np.sort(end[used]), moments, side="right")
    return found


def places_per_doctor(visits: Visits, shift_begin: Array, shift_end: Array) -> int | None:
    """Patients whom a doctor treats at a time; None where there hardly ever was a queue that would show it.

    The lower quartile, over moments at which at least two have waited for ten minutes since triage, of the patients
    in treatment for each doctor on shift.
    """
    if not len(visits.arrival) or not len(shift_begin):
        return None
    moments = np.arange(visits.arrival.min(), visits.arrival.max(), _STEP)
    seen_or_gone = np.where(np.isnan(visits.provider), visits.departure, visits.provider)
    waiting = there_at(moments, visits.triage + _QUEUE_HOURS, seen_or_gone)
    treated = there_at(moments, visits.provider, visits.decision)
    doctors = there_at(moments, shift_begin, shift_end)
    is_queue = (waiting >= _QUEUE) & (doctors > 0)
    if is_queue.sum() < LEAST_MOMENTS:
        return None
    return max(1, round(float(np.quantile(treated[is_queue] / doctors[is_queue], _LOWEST))))


def care_of(visits: Visits, places: int, targets: Array) -> Care | None:
    """What patients are like; None where there are too few to say.

    Args:
        visits: of the last weeks.
        places: see `places_per_doctor`.
        targets: longest wait for a doctor by level, in hours.
    """
    treatment = visits.decision - visits.provider
    waited = np.where(visits.unseen, visits.departure, visits.provider) - visits.arrival
    to_triage = visits.triage - visits.arrival
    known = treatment[treatment > 0]
    if len(known) < LEAST_VISITS or not (visits.level > 0).any():
        return None
    treatments, leaving, delays = [], np.zeros(LEVELS), np.zeros(LEVELS)
    for number in range(LEVELS):
        mine = visits.level == number + 1
        own = treatment[mine & (treatment > 0)]
        treatments.append(own if len(own) else known)
        hours = waited[mine & (waited >= 0)]
        leaving[number] = leaving_rate(int(visits.unseen[mine].sum()), float(hours.sum()))
        own_delay = to_triage[mine & (to_triage >= 0)]
        delays[number] = own_delay.mean() if len(own_delay) else 0.0
    counts = np.bincount(visits.level[visits.level > 0] - 1, minlength=LEVELS)
    return Care(counts / counts.sum(), tuple(treatments), leaving, delays, places, targets)


def stays_by_level(visits: Visits) -> tuple[Array, ...]:
    """Hours from arrival until the treatment ended or the patient left unseen, by triage level.

    Who boards afterwards is not counted.
    """
    until = np.where(visits.unseen, visits.departure, visits.decision)
    stays = until - visits.arrival
    return tuple(stays[(visits.level == level) & (stays > 0)] for level in range(1, LEVELS + 1))


def _longer(durations: Array, least: float, share: float) -> float:
    """The one at a share of those durations that are longer; of all where none is: nobody has recorded an end.

    Args:
        durations: rising.
    """
    found = durations[np.searchsorted(durations, least, side="right") :]
    found = found if len(found) else durations
    return float(found[int(share * len(found))])


def came(visits: Visits, care: Care, first: float, last: float, rng: np.random.Generator) -> Patients:
    """The patients who came within a span of hours, as they were: with other doctors they would be the same.

    What cannot have been seen is drawn: the treatment of who left, and of who is still in it, one longer than it has
    lasted; how much longer those would have waited who were seen or wait; the level of who was not triaged.

    Args:
        visits: as they were known at the last hour.
        first: arrivals from this hour on; times of the result count from it.
        last: until this hour.
    """
    rows = np.flatnonzero((visits.arrival >= first) & (visits.arrival < last))
    arrival, level = visits.arrival[rows], visits.level[rows] - 1
    level = np.where(level < 0, rng.choice(LEVELS, len(rows), p=care.shares), level)
    treatment = visits.decision[rows] - visits.provider[rows]
    seen = [np.sort(of_level) for of_level in care.treatments]
    lasted = np.where(np.isnan(treatment), np.nan_to_num(last - visits.provider[rows]), 0.0)
    drawn = [_longer(seen[of], least, u) for of, least, u in zip(level, lasted, rng.random(len(rows)), strict=True)]
    longer = rng.exponential(1.0, len(rows))
    with np.errstate(divide="ignore"):
        longer = longer / care.leaving[level]
    there = np.where(np.isnan(visits.departure[rows]), last, visits.departure[rows])
    waited = np.where(visits.unseen[rows] | np.isnan(visits.provider[rows]), there, visits.provider[rows]) - arrival
    left = np.where(visits.unseen[rows], waited, waited + longer)
    triage = np.where(np.isnan(visits.triage[rows]), arrival, visits.triage[rows])
    order = np.argsort(triage, kind="stable")
    return Patients(
        (arrival - first)[order],
        (triage - first)[order],
        level[order],
        np.where(treatment > 0, treatment, drawn)[order],
        left[order],
    )
