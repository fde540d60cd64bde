"""The slicers of a page, and a reader's choice.

Nothing that a browser says becomes a name in a statement: what is asked for is matched against the values
the publication holds. Belongs here: periods and slices. Does not: SQL, words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Literal

from hospital_assets.contracts.kpis import ALL

Grain = Literal["day", "week", "month"]

#: A series of more days is shown by week, of more weeks by month.
MOST_POINTS = 130
#: Nobody supposes more beds, nor so many doctors more or fewer.
MOST_BEDS, MOST_DOCTORS = 9999, 9
_PRESETS = {"last-7": 7, "last-28": 28, "last-90": 90}


@dataclass(frozen=True)
class Known:
    """The values a publication can be sliced by.

    Attributes:
        complete_until: the last day that was over when the data were published.
        hospitals: id -> name.
        departments: names.
        triage: level -> its name, levels as text.
        targets_minutes: level -> longest wait, of the scale in use.
        targets_pct: level -> the share that is to be seen within it.
    """

    first: date
    last: date
    complete_until: date
    hospitals: Mapping[str, str]
    departments: tuple[str, ...]
    triage: Mapping[str, str]
    targets_minutes: Mapping[str, float]
    targets_pct: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Slice:
    """A reader's choice of period, hospital, department and triage level.

    Attributes:
        period: `all`, `last-7`, `last-28`, `last-90`, a year, a month, or `days`.
        hospital: id or `all`.
        department: name or `all`.
        triage: level or `all`.
        beds: staffed beds to suppose (Forecast); 0 for those there are.
        doctors: so many more (or, below zero, fewer) in every hour to suppose (Workforce).
        is_whole: whether the days are all there are.
    """

    period: str
    first: date
    last: date
    hospital: str = ALL
    department: str = ALL
    triage: str = ALL
    beds: int = 0
    doctors: int = 0
    is_whole: bool = False

    @property
    def days(self) -> int:
        """How many days it covers."""
        return (self.last - self.first).days + 1

    @property
    def grain(self) -> Grain:
        """The period of one point of a series: longer for long slices, so that charts stay readable."""
        if self.days <= MOST_POINTS:
            return "day"
        return "week" if self.days <= 7 * MOST_POINTS else "month"


def read_slice(asked: Mapping[str, str], known: Known) -> Slice:
    """The slice that a query string asks for; what is not known falls back to everything."""
    first, last = known.first, known.last
    period = asked.get("period", ALL)
    if period in _PRESETS:
        # Not the day in progress: it would stand beside whole ones.
        last = max(first, known.complete_until)
        first = max(first, last - timedelta(days=_PRESETS[period] - 1))
    elif period == "days":
        start, end = _day(asked.get("from"), first), _day(asked.get("to"), last)
        start, end = sorted((min(max(start, first), last), min(max(end, first), last)))
        first, last = start, end
    elif period in periods(known):
        start, end = _calendar(period)
        first, last = max(first, start), min(last, end)
    else:
        period = ALL
    # Who has one hospital's rows only is shown these, not pools of what others have.
    own = next(iter(known.hospitals)) if len(known.hospitals) == 1 else ""
    return Slice(
        period,
        first,
        last,
        own or _among(asked.get("hospital"), known.hospitals),
        _among(asked.get("department"), known.departments),
        _among(asked.get("triage"), known.triage),
        beds=_supposed(asked.get("beds", ""), 0, MOST_BEDS),
        doctors=_supposed(asked.get("doctors", ""), -MOST_DOCTORS, MOST_DOCTORS),
        is_whole=(first, last) == (known.first, known.last),
    )


def not_found(asked: Mapping[str, str], known: Known) -> str:
    """Which values of a query string a publication does not hold, in words; empty where it holds all."""
    values: dict[str, Any] = {
        "period": {*_PRESETS, *periods(known), "days"},
        "hospital": known.hospitals,
        "department": known.departments,
        "triage": known.triage,
    }
    missing = [f"{name} {asked[name][:40]}" for name in values if asked.get(name, ALL) not in {*values[name], ALL, ""}]
    if not missing:
        return ""
    text = " and ".join(missing)
    return f"{text[0].upper()}{text[1:]} {'was' if len(missing) == 1 else 'were'} not found; showing all that there is."


def periods(known: Known) -> dict[str, str]:
    """Value -> label of the calendar years and months with data, newest first."""
    found = {}
    for year in range(known.last.year, known.first.year - 1, -1):
        if known.first.year != known.last.year:
            found[str(year)] = str(year)
        for month in range(12, 0, -1):
            start, end = _calendar(f"{year}-{month:02d}")
            if start <= known.last and end >= known.first:
                found[f"{year}-{month:02d}"] = f"{start:%B %Y}"
    return found


def _calendar(period: str) -> tuple[date, date]:
    year, _, month = period.partition("-")
    start = date(int(year), int(month or 1), 1)
    after = date(start.year + 1, 1, 1) if not month else (start + timedelta(days=32)).replace(day=1)
    return start, after - timedelta(days=1)


def _supposed(value: str, least: int, most: int) -> int:
    """A whole number within limits; 0 for what is none."""
    digits = value.removeprefix("-")
    return min(max(int(value), least), most) if digits.isascii() and digits.isdigit() else 0


def _among(value: str | None, known: Any) -> str:
    return value if value is not None and value in known else ALL


def _day(value: str | None, default: date) -> date:
    try:
        return date.fromisoformat(value or "")
    except ValueError:
        return default
