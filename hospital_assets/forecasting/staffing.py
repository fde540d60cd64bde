"""What a department needs by the hour of the coming week, the roster that is suggested for it, and how both would do.

The week is the seven local days after the as-of day, hour by hour of the clock. Three rosters are compared on the same
patients, who are drawn from the forecast: the present one; the one suggested from the forecast; and the one that the
same programme makes from the means of the last weeks, without forecast: what that one gains, the shape of the day does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from hospital_assets.forecasting import queues
from hospital_assets.forecasting.calendar import HOURS_PER_DAY
from hospital_assets.forecasting.counts import Array
from hospital_assets.forecasting.shifts import Roster, Rules, SolverMissingError, Suggestion, suggested
from hospital_assets.forecasting.simulate import MEASURES, Care, Shift, Week, placed, rounded

WEEK_DAYS = 7
WEEK_HOURS = WEEK_DAYS * HOURS_PER_DAY
#: Days whose factor is the 90 % quantile (normal) are planned for: one in ten is busier.
_BUSY_DAY_DEVIATIONS = 1.2816
#: An hour of a weekday differs from that hour of all days by so many arrivals' worth of doubt (a prior of 10 %).
_PRIOR_ARRIVALS = 100.0
#: An hour: an overload lasts about two, before it is made up for; without such an end the most loaded hours would gain
#: as much as if they never ended.
_OVERLOAD_ENDS = 0.5
#: Loads at which the queue is computed; in between it is interpolated.
_LOADS = 40
#: A week is simulated so often.
REPLICATES = 20


@dataclass(frozen=True)
class Target:
    """What patients are to be given.

    Attributes:
        share: of those who come are to be seen ...
        within_hours: ... so fast.
    """

    share: float
    within_hours: float


@dataclass(frozen=True)
class Department:
    """What is known of a department on the as-of day.

    Attributes:
        history: arrivals of the days up to it x 24; NaN where nothing is known.
        day_means: what is forecast of the seven days.
        worked: the shifts of the last seven days, at hours of that week.
        budget: doctors' hours of a week.
    """

    history: Array
    day_means: Array
    day_dispersion: float
    care: Care
    worked: Sequence[Shift]
    rules: Rules
    budget: float
    target: Target
    seed: int

    @cached_property
    def present(self) -> Roster:
        """The roster of the last seven days in whole hours."""
        return rounded(self.worked, WEEK_HOURS)

    @cached_property
    def rates(self) -> Array:
        """Expected arrivals by hour of the week ahead."""
        return spread_over_hours(self.day_means, self.history).ravel()

    @cached_property
    def load(self) -> Array:
        """Places that would be busy by hour of the week ahead, if there were always one free."""
        return offered_load(self.rates, self.care)

    @cached_property
    def planned_load(self) -> Array:
        """The same on a busy day."""
        return self.load * (1 + _BUSY_DAY_DEVIATIONS * math.sqrt(self.day_dispersion))

    def needed(self) -> npt.NDArray[np.int64]:
        """Doctors by hour with whom the target is met on a busy day, the least staff at least."""
        service = float(self.care.stays.mean())
        target = self.target
        servers = (
            queues.servers_needed(load, service, target.within_hours, target.share) for load in self.planned_load
        )
        return np.array([max(self.rules.least, -(-n // self.care.places)) for n in servers])

    def suggest(self, rates: Array | None = None) -> Suggestion:
        """The roster that saves most waiting.

        Args:
            rates: expected arrivals by hour of the week; default: those forecast.

        Raises:
            SolverMissingError: `highspy` is not installed.
        """
        load = self.planned_load if rates is None else offered_load(rates, self.care)
        gains = waiting_saved(load, self.care, self.rules.most)
        return suggested(gains, self.budget, self.rules, self.present)

    def suggest_by_shape(self) -> Suggestion:
        """The roster that the same programme makes from the means of the last weeks, without forecast."""
        return self.suggest(spread_over_hours(weekday_means(self.history), self.history).ravel())

    def week(self, replicates: int = REPLICATES) -> Week:
        """The week ahead, to be simulated."""
        last_day = np.nan_to_num(self.history[-1], nan=0.0)
        last = WEEK_HOURS - 2 * HOURS_PER_DAY
        before = [(begin - WEEK_HOURS, end - WEEK_HOURS) for begin, end in self.worked if begin >= last]
        rates = np.concatenate([last_day, self.rates])
        return Week(rates, self.care, self.day_dispersion, before, replicates, self.seed)


@dataclass(frozen=True)
class Plan:
    """What is suggested for a week.

    Attributes:
        outcome: how the search for a roster ended (`shifts.Outcome`); `no_gain`: the present roster does as well;
            `solver_missing`: HiGHS is not installed.
        rosters: `present`, and where there is one `suggested` and `by_shape`; in whole hours.
        results: of the same, `present` as it was worked; replicates x `simulate.MEASURES`.
    """

    outcome: str
    rosters: Mapping[str, Roster]
    results: Mapping[str, Array]


def plan(department: Department, replicates: int = REPLICATES) -> Plan:
    """The rosters that are compared, and how each does; what does not do better is not suggested."""
    week = department.week(replicates)
    rosters = {"present": department.present}
    results = {"present": week.results(department.worked)}
    try:
        found = department.suggest()
    except SolverMissingError:
        return Plan("solver_missing", rosters, results)
    if not found.roster:
        return Plan(found.outcome, rosters, results)
    after = week.results(placed(found.roster))
    # What is gained by whole hours alone, the suggestion does not gain.
    whole = placed(department.present)
    in_whole = results["present"] if whole == [*department.worked] else week.results(whole)
    if not mean_wait(after) < min(mean_wait(results["present"]), mean_wait(in_whole)):
        return Plan("no_gain", rosters, results)
    rosters["suggested"], results["suggested"] = found.roster, after
    by_shape = department.suggest_by_shape()
    if by_shape.roster:
        rosters["by_shape"], results["by_shape"] = by_shape.roster, week.results(placed(by_shape.roster))
    return Plan(found.outcome, rosters, results)


def mean_wait(results: Array) -> float:
    """Mean wait over replicates, in minutes; NaN where nobody came."""
    waited = results[:, MEASURES.index("wait_mean_minutes")]
    return float(waited[~np.isnan(waited)].mean()) if not np.isnan(waited).all() else math.nan


def offered_load(rates: Array, care: Care) -> Array:
    """Places that are busy by hour of a week that repeats itself."""
    present = queues.presence(care.stays, WEEK_HOURS)
    return queues.offered_load(np.tile(rates, 2), present)[len(rates) :]


def waiting_saved(load: Array, care: Care, most: int) -> Array:
    """Patients fewer who wait, on average, with the first, second, ... doctor on; hours x doctors.

    The queue of each hour is taken as if its load lasted a while (`_OVERLOAD_ENDS`).
    """
    grid = np.linspace(float(load.min()), float(load.max()), _LOADS)
    leaving = max(care.mean_leaving, _OVERLOAD_ENDS) * float(care.stays.mean())
    waiting = np.array(
        [[queues.erlang_a(doctors * care.places, at, leaving).waiting for doctors in range(most + 1)] for at in grid]
    )
    saved = -np.diff(waiting, axis=1)
    return np.stack([np.interp(load, grid, saved[:, doctor]) for doctor in range(most)], axis=1)


def spread_over_hours(day_means: Array, history: Array) -> Array:
    """Each day's expected arrivals by hour, as the same weekdays of the history were spread.

    Args:
        day_means: of the days after the history.
        history: days x 24; NaN where nothing is known.

    Returns:
        days x 24, whose sums are the means.
    """
    known = history[~np.isnan(history).any(axis=1)]
    overall = known.sum(axis=0) + 1e-9
    shares = overall / overall.sum()
    found = np.empty((len(day_means), HOURS_PER_DAY))
    for n, mean in enumerate(day_means):
        same = _same_weekday(history, n)
        expected = same.sum() * shares
        of_day = shares * (same.sum(axis=0) + _PRIOR_ARRIVALS) / (expected + _PRIOR_ARRIVALS)
        found[n] = mean * of_day / of_day.sum()
    return found


def weekday_means(history: Array) -> Array:
    """Mean arrivals of the weekdays of the seven days after the history."""
    overall = float(np.nanmean(np.nansum(history, axis=1)))
    days = [_same_weekday(history, n).sum(axis=1) for n in range(WEEK_DAYS)]
    return np.array([of.mean() if len(of) else overall for of in days])


def _same_weekday(history: Array, ahead: int) -> Array:
    """The known days of the history with the weekday of a day after it."""
    weekdays = np.arange(len(history)) - len(history)
    rows = history[weekdays % WEEK_DAYS == ahead % WEEK_DAYS]
    found: Array = rows[~np.isnan(rows).any(axis=1)]
    return found


def nurses_needed(
    rates: Array, shares: Array, stays: Sequence[Array], patients_per_nurse: Sequence[float], fixed: int
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Patients present and nurses needed by hour of a week that repeats itself.

    Args:
        rates: expected arrivals by hour.
        shares: of arrivals, by triage level.
        stays: hours in the department, by triage level.
        patients_per_nurse: by triage level.
        fixed: posts besides.
    """
    present = np.stack(
        [
            queues.offered_load(np.tile(rates * share, 2), queues.presence(stay, WEEK_HOURS))[len(rates) :]
            if len(stay)
            else np.zeros(len(rates))
            for share, stay in zip(shares, stays, strict=True)
        ]
    )
    needed = [queues.nurses_needed(hour.tolist(), patients_per_nurse, fixed) for hour in present.T]
    return present.sum(axis=0), np.array(needed)
