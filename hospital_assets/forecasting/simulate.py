"""A simulated emergency department that tells how a roster would do: a queue by triage level, event by event.

Who is triaged waits for a doctor: the most urgent first, then in order of triage. A doctor on shift takes the next
patient while having fewer than `places`; who has waited longer than the patience there is leaves. A patient of level
1 is seen by a doctor on shift in any case. A doctor whose shift has ended finishes with the patients there are.

Times are hours since the beginning. Only the random numbers that are given are used: the same patients can be seen by
different rosters.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from hospital_assets.forecasting.calendar import HOURS_PER_DAY
from hospital_assets.forecasting.counts import Array
from hospital_assets.forecasting.shifts import Roster

LEVELS = 5
#: Begin and end of a doctor's shift.
Shift = tuple[float, float]


@dataclass(frozen=True)
class Care:
    """What patients of a department are like, by triage level 1 to 5.

    Attributes:
        shares: of arrivals.
        treatments: durations from first provider to decision, in hours; as they were seen.
        leaving: of those who wait, how many leave an hour.
        to_triage: mean hours from arrival to triage.
        places: patients whom a doctor treats at a time.
        targets: longest wait for a doctor, in hours.
    """

    shares: Array
    treatments: tuple[Array, ...]
    leaving: Array
    to_triage: Array
    places: int
    targets: Array

    @property
    def stays(self) -> Array:
        """Treatments of all levels as often as they come, in hours: 500 quantiles."""
        counts = np.round(self.shares * 500).astype(int)
        levels = (np.arange(1, n + 1) - 0.5 for n in counts)
        return np.concatenate(
            [np.quantile(seen, at / n) for seen, at, n in zip(self.treatments, levels, counts, strict=True) if n]
        )

    @property
    def mean_leaving(self) -> float:
        """Of those who wait, how many leave an hour; over all levels."""
        return float(self.shares @ self.leaving)


@dataclass(frozen=True)
class Patients:
    """Patients in order of triage.

    Attributes:
        arrival: hour.
        triage: hour.
        level: 0 (most urgent) to 4.
        treatment: hours from first provider to decision.
        patience: hours from arrival until the patient leaves unseen; infinite: never.
    """

    arrival: Array
    triage: Array
    level: npt.NDArray[np.int64]
    treatment: Array
    patience: Array

    def __len__(self) -> int:
        return len(self.arrival)

    def moved(self, hours: float) -> Patients:
        """The same patients, so many hours later."""
        return replace(self, arrival=self.arrival + hours, triage=self.triage + hours)


def drawn(rng: np.random.Generator, rates: Array, care: Care, day_dispersion: float = 0.0) -> Patients:
    """Patients who could come.

    Args:
        rates: mean arrivals by hour.
        day_dispersion: variance of the factor by which whole days are busier or quieter than expected.
    """
    days = -(-len(rates) // HOURS_PER_DAY)
    factors = rng.gamma(1 / day_dispersion, day_dispersion, days) if day_dispersion > 0 else np.ones(days)
    counts = rng.poisson(rates * np.repeat(factors, HOURS_PER_DAY)[: len(rates)])
    n = int(counts.sum())
    arrival = np.repeat(np.arange(len(rates)), counts) + rng.random(n)
    level = rng.choice(LEVELS, n, p=care.shares)
    at = rng.random(n)
    treatment, patience = np.empty(n), np.full(n, math.inf)
    for number, seen in enumerate(care.treatments):
        mine = level == number
        if mine.any():
            treatment[mine] = seen[(at[mine] * len(seen)).astype(int)]
    leaves = care.leaving[level]
    patience[leaves > 0] = rng.exponential(1.0, n)[leaves > 0] / leaves[leaves > 0]
    triage = arrival + care.to_triage[level] * rng.gamma(2.0, 0.5, n)
    order = np.argsort(triage, kind="stable")
    return Patients(arrival[order], triage[order], level[order], treatment[order], patience[order])


def waits(patients: Patients, shifts: Sequence[Shift], places: int) -> Array:
    """Hours from arrival to the first provider; NaN for who leaves unseen or is never seen.

    Args:
        patients: in order of triage.
        shifts: in order of their begin.
        places: patients whom a doctor treats at a time; level 1 is seen beyond that.
    """
    found = [math.nan] * len(patients)
    # Each list ends with what never comes, so that no end has to be looked for.
    triage, treatment = [*patients.triage.tolist(), math.inf], patients.treatment.tolist()
    arrival, gives_up = patients.arrival.tolist(), (patients.arrival + patients.patience).tolist()
    starts, ends = [*(begin for begin, _ in shifts), math.inf], [end for _, end in shifts]
    # Who is called first: one number by level and then by triage, which is the order of patients.
    n = len(found)
    rank = (patients.level * n + np.arange(n)).tolist()
    waiting: list[int] = []
    busy: list[tuple[float, int]] = [(math.inf, -1)]
    load = [0] * len(shifts)
    on: list[int] = []
    first_end = math.inf
    begun = come = 0
    is_full = False
    push, pop = heapq.heappush, heapq.heappop
    while come < n or waiting:
        now = triage[come]
        # Nothing else matters while nobody waits. Builtins would take a third of the time.
        if waiting:
            if busy[0][0] < now:
                now = busy[0][0]
            if starts[begun] < now:
                now = starts[begun]
            if now == math.inf:
                break
        while starts[begun] <= now:
            on.append(begun)
            first_end = min(first_end, ends[begun])
            begun += 1
            is_full = False
        while busy[0][0] <= now:
            load[pop(busy)[1]] -= 1
            is_full = False
        while triage[come] <= now:
            push(waiting, rank[come])
            come += 1
        # Who comes to doctors who all have their places taken waits, but for the most urgent.
        if is_full and waiting[0] >= n:
            continue
        if first_end <= now:
            on = [doctor for doctor in on if ends[doctor] > now]
            first_end = min((ends[doctor] for doctor in on), default=math.inf)
        while waiting and on:
            free = min(on, key=load.__getitem__)
            if load[free] >= places and waiting[0] >= n:
                is_full = True
                break
            patient = pop(waiting) % n
            if gives_up[patient] < now:
                continue
            found[patient] = now - arrival[patient]
            load[free] += 1
            push(busy, (now + treatment[patient], free))
    return np.array(found)


#: The measures of a simulated week, as tables and pages call them.
MEASURES = ("wait_mean_minutes", "wait_p90_minutes", "unseen_pct", "within_target_pct")


def measured(patients: Patients, waited: Array, care: Care, first: float, last: float) -> Array:
    """`MEASURES` of who arrived within a span of hours; NaN where nobody did.

    The wait is of who was seen; who left unseen was not within the target.
    """
    mine = (patients.arrival >= first) & (patients.arrival < last)
    of, level = waited[mine], patients.level[mine]
    seen = of[~np.isnan(of)]
    if not len(seen):
        return np.full(len(MEASURES), math.nan)
    within = np.nan_to_num(of, nan=math.inf) <= care.targets[level]
    return np.array(
        [60 * seen.mean(), 60 * np.quantile(seen, 0.9), 100 * (1 - len(seen) / len(of)), 100 * within.mean()]
    )


@dataclass(frozen=True)
class Week:
    """A week that is simulated again and again, after a day of the roster that there is.

    Attributes:
        rates: mean arrivals by hour of the day before and the seven days.
        day_dispersion: see `drawn`.
        before: shifts of the days before, at hours below zero.
    """

    rates: Array
    care: Care
    day_dispersion: float
    before: Sequence[Shift]
    replicates: int
    seed: int
    _patients: list[Patients] = field(default_factory=list, init=False, repr=False, compare=False)

    def results(self, roster: Sequence[Shift]) -> Array:
        """`MEASURES` of each replicate; each roster sees the same patients."""
        if not self._patients:
            # A generator for each: one more replicate changes none of the others.
            seeds = np.random.SeedSequence(self.seed).spawn(self.replicates)
            for seed in seeds:
                patients = drawn(np.random.default_rng(seed), self.rates, self.care, self.day_dispersion)
                self._patients.append(patients)
        end = len(self.rates)
        shifts = around(self.before, roster, end - HOURS_PER_DAY)
        return np.stack(
            [
                measured(one, waits(one, shifts, self.care.places), self.care, HOURS_PER_DAY, end)
                for one in self._patients
            ]
        )


def placed(roster: Roster) -> list[Shift]:
    """Each shift of a roster, in order of begin."""
    return sorted(
        (float(start), float(start + length)) for (start, length), count in roster.items() for _ in range(count)
    )


def rounded(shifts: Sequence[Shift], hours: int) -> Roster:
    """Shifts as a roster of whole hours of a week that repeats itself, as rosters are planned.

    Begins and ends are rounded alike, so that shifts that follow each other still do; halves go down, so that nothing
    is left of a handover of half an hour.
    """
    whole = [(math.ceil(begin - 0.5), math.ceil(end - 0.5)) for begin, end in shifts]
    found = Counter((begin % hours, min(max(end - begin, 1), HOURS_PER_DAY)) for begin, end in whole)
    return dict(sorted(found.items()))


def hours_on(shifts: Sequence[Shift]) -> float:
    """Doctors' hours of shifts."""
    return round(math.fsum(end - begin for begin, end in shifts), 6)


def around(before: Sequence[Shift], roster: Sequence[Shift], hours: float) -> list[Shift]:
    """Shifts before a roster, its own, and those of its first day again after it; from a day before it on.

    Who waits when the roster ends is seen by the doctors who come then: with none, all of them would count as unseen,
    and a roster would do better only because a shift of it ends later.

    Args:
        before: at hours below zero.
        hours: from the begin of the roster to its end.
    """
    again = [(begin + hours, end + hours) for begin, end in roster if begin < HOURS_PER_DAY]
    return sorted((begin + HOURS_PER_DAY, end + HOURS_PER_DAY) for begin, end in (*before, *roster, *again))
