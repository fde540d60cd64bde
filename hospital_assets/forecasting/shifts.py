"""Which whole shifts are worth most: an integer programme over one week that repeats, solved by HiGHS.

A roster is a number of shifts by (hour of the week of the start, length in hours). The week is a circle: a shift that
starts on its last evening covers its first morning.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hospital_assets.forecasting.calendar import HOURS_PER_DAY
from hospital_assets.forecasting.counts import Array

if TYPE_CHECKING:
    import numpy.typing as npt

Roster = Mapping[tuple[int, int], int]
#: `time_limit`: the best found until then.
Outcome = Literal["suggested", "time_limit", "infeasible"]

#: Relative difference from the best roster possible at which the search ends: a fifth of it costs twice the time, and
#: simulated waits do not show it.
_GAP = 5e-3
_SECONDS = 20.0
#: An hour of a doctor is moved where it saves at least so many hours of waiting.
KEPT_HOUR = 0.1


class SolverMissingError(RuntimeError):
    """HiGHS is not installed."""


@dataclass(frozen=True)
class Rules:
    """What a roster has to keep to.

    Attributes:
        starts: local hours at which shifts may start.
        lengths: hours that they may last.
        least: doctors on in every hour.
        most: doctors on in any hour.
        distinct_starts: at most so many different hours of the day at which shifts start; 0: any number.
        rest_hours: between two shifts of a doctor; holds where `doctors` is known.
        doctors: how many there are: as many as may be on or resting at a time; 0: not known.
    """

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    least: int = 1
    most: int = 12
    distinct_starts: int = 0
    rest_hours: int = 0
    doctors: int = 0


@dataclass(frozen=True)
class Suggestion:
    """A roster, and why it ends here.

    Attributes:
        roster: empty where the rules cannot be kept.
        gain: sum of the gains of the doctors who are on.
    """

    roster: Roster
    outcome: Outcome
    gain: float


def coverage(roster: Roster, hours: int, rest: int = 0) -> npt.NDArray[np.int64]:
    """Doctors on in each hour of a week that repeats; with those resting for some hours after."""
    on = np.zeros(hours, dtype=np.int64)
    for (start, length), count in roster.items():
        np.add.at(on, np.arange(start, start + length + rest) % hours, count)
    return on


def hours_of(roster: Roster) -> int:
    """Doctors' hours."""
    return sum(length * count for (_, length), count in roster.items())


def hours_moved(before: Roster, after: Roster, hours: int) -> int:
    """Doctors' hours that are worked at another time (or are new, where there are more)."""
    return int(np.maximum(coverage(after, hours) - coverage(before, hours), 0).sum())


def gain_of(roster: Roster, gains: Array) -> float:
    """Sum of the gains of the doctors who are on; those beyond the last column gain nothing."""
    below = np.concatenate([np.zeros((len(gains), 1)), np.cumsum(gains, axis=1)], axis=1)
    on = np.minimum(coverage(roster, len(gains)), gains.shape[1])
    return float(below[np.arange(len(gains)), on].sum())


def suggested(gains: Array, budget: float, rules: Rules, present: Roster | None = None) -> Suggestion:
    """The roster whose doctors gain most within a budget of hours.

    Args:
        gains: hours of the week x doctors: what the first, second, ... doctor on in an hour is worth; falling.
        present: the roster now: its shifts may stay though the rules no longer allow to plan such; they do stay
            where nothing (`KEPT_HOUR`) is gained by moving them.

    Raises:
        SolverMissingError: `highspy` is not installed.
    """
    try:
        import highspy
    except ImportError:
        raise SolverMissingError("install the extra: pip install 'hospital-assets[staffing]'") from None
    now = dict(present or {})
    model = _Model(highspy)
    hours = len(gains)
    allowed = {(h, n) for h in range(hours) if h % HOURS_PER_DAY in rules.starts for n in rules.lengths if n <= hours}
    shifts = {shift: model.column(0.0, _INFINITE, is_whole=True) for shift in sorted(allowed | set(now))}
    for shift, count in sorted(now.items()):
        stays = model.column(KEPT_HOUR * shift[1], float(count))
        model.row({stays: 1.0, shifts[shift]: -1.0}, most=0.0)
    model.row({index: float(length) for (_, length), index in shifts.items()}, most=float(budget))
    limit = min(rules.most, gains.shape[1])
    for hour in range(hours):
        on = _covering(shifts, hour, hours)
        model.row(on, least=float(rules.least), most=float(limit))
        for_gain = {model.column(float(gains[hour, n]), 1.0): 1.0 for n in range(limit)}
        model.row(for_gain | {index: -times for index, times in on.items()}, most=0.0)
        if rules.rest_hours and rules.doctors:
            model.row(_covering(shifts, hour, hours, rules.rest_hours), most=float(rules.doctors))
    if rules.distinct_starts:
        _limit_starts(model, shifts, rules.distinct_starts, budget)
    values, outcome = model.solved()
    roster = {shift: round(values[index]) for shift, index in shifts.items() if round(values[index])} if values else {}
    return Suggestion(roster, outcome, gain_of(roster, gains))


_INFINITE = 1e30
_Shifts = Mapping[tuple[int, int], int]


def _covering(shifts: _Shifts, hour: int, hours: int, rest: int = 0) -> dict[int, float]:
    """Shifts (columns) during which, or in the rest after which, an hour lies, and how many times it does."""
    found = {
        index: (length + rest - 1 - (hour - start) % hours) // hours + 1 for (start, length), index in shifts.items()
    }
    return {index: float(times) for index, times in found.items() if times > 0}


def _limit_starts(model: _Model, shifts: _Shifts, most: int, budget: float) -> None:
    """Not more than so many hours of the day at which shifts start."""
    used = {clock: model.column(0.0, 1.0, is_whole=True) for clock in {start % HOURS_PER_DAY for start, _ in shifts}}
    for (start, length), index in shifts.items():
        model.row({index: 1.0, used[start % HOURS_PER_DAY]: -float(budget // length)}, most=0.0)
    model.row(dict.fromkeys(used.values(), 1.0), most=float(most))


@functools.cache
def _greeted() -> None:
    """Let HiGHS print its greeting, which no option keeps back, once and to nobody."""
    import highspy

    sys.stdout.flush()
    kept, nobody = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nobody, 1)
        highspy.Highs()  # type: ignore[no-untyped-call]
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nobody)


class _Model:
    """Columns and rows of an integer programme that is maximised, for HiGHS."""

    def __init__(self, highspy: Any) -> None:
        self._highspy = highspy
        _greeted()
        self._highs = highs = highspy.Highs()
        options = {"output_flag": False, "threads": 1, "random_seed": 0, "mip_rel_gap": _GAP, "time_limit": _SECONDS}
        for name, value in options.items():
            highs.setOptionValue(name, value)
        highs.changeObjectiveSense(highspy.ObjSense.kMaximize)
        self._columns = 0

    def column(self, gain: float, most: float, *, is_whole: bool = False) -> int:
        """Add a variable from 0 up to a number; its index."""
        index, self._columns = self._columns, self._columns + 1
        self._highs.addVar(0.0, most)
        self._highs.changeColCost(index, gain)
        if is_whole:
            self._highs.changeColIntegrality(index, self._highspy.HighsVarType.kInteger)
        return index

    def row(self, terms: Mapping[int, float], *, most: float, least: float = -_INFINITE) -> None:
        """Bound a sum of variables."""
        self._highs.addRow(least, most, len(terms), list(terms), list(terms.values()))

    def solved(self) -> tuple[list[float], Outcome]:
        """The variables; none where the rows contradict each other."""
        self._highs.run()
        status, found = self._highs.getModelStatus(), self._highs.getSolution()
        kinds = self._highspy.HighsModelStatus
        if status == kinds.kOptimal:
            return list(found.col_value), "suggested"
        if status == kinds.kTimeLimit and found.value_valid:
            return list(found.col_value), "time_limit"
        return [], "infeasible"
