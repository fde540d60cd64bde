"""How the clocks of a column are written, as far as its values tell, and what about them is doubtful.

Pure functions of texts. Belongs here: formats of dates and times. Does not: what a column is (`draft`).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from hospital_assets.warehouse.dialect import NUMBER_FORMATS
from hospital_assets.warehouse.dialect.frames import HAS_OFFSET, OFFSET
from hospital_assets.warehouse.dialect.frames import ISO as ISO_CLOCK

#: ISO 8601, which needs no format.
ISO = "iso"
#: Formats of days; in pairs that swap day and month, the commoner one outside the United States first.
DAYS = (
    "%d.%m.%Y",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%Y/%m/%d",
    "%Y.%m.%d",
    "%d %m %Y",
    "%d-%b-%Y",
    "%d %b %Y",
    "%d %B %Y",
    "%d.%m.%y",
    "%d/%m/%y",
    "%m/%d/%y",
    "%d-%b-%y",
)
_TIMES = ("%H:%M:%S", "%H:%M", "%I:%M:%S %p", "%I:%M %p", "%I:%M:%S%p", "%I:%M%p", "%H%M", "%H.%M", "%Hh%M")
#: Digits alone, or with a mark between: how many -> the format.
_FIGURES = {
    "8": "%Y%m%d",
    "12": "%Y%m%d%H%M",
    "14": "%Y%m%d%H%M%S",
    "8 4": "%Y%m%d %H%M",
    "8 6": "%Y%m%d %H%M%S",
    "8T4": "%Y%m%dT%H%M",
    "8T6": "%Y%m%dT%H%M%S",
}
#: Years that a clock of a hospital can have; those of de-identified data lie ahead.
_YEARS = range(1900, 2300)
#: What share of values a reading must fit to be that of the column.
_MOST = 0.9
#: A reading of fewer values than this is a misprint.
_FEW = 0.02


@dataclass(frozen=True)
class Reading:
    """How the clocks of a column are written.

    Attributes:
        formats: beyond ISO 8601, the likeliest first.
        doubts: what a person has to decide, in words.
        share: of the values that can be read.
        days: share of those read that have no time of day.
    """

    formats: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    share: float = 0.0
    days: float = 0.0
    span: timedelta = field(default=timedelta(0))


@functools.lru_cache(maxsize=100_000)
def readings(text: str) -> tuple[str, ...]:
    """The formats a text can be read by: `iso`, strptime's, or those of numbers."""
    unzoned = _unzoned(text)
    known = _FIGURES.get(re.sub(r"\d+", lambda digits: str(len(digits[0])), unzoned), "")
    if known and _read(unzoned, known):
        return (known,)
    if re.fullmatch(r"\d+([.,]\d+)?", text):
        number = float(text.replace(",", "."))
        return tuple(n for n, known in NUMBER_FORMATS.items() if known.at_least <= number < known.below)
    if re.match(f"{ISO_CLOCK[:-1]} ?({OFFSET})?$" if ":" in text else ISO_CLOCK, text):
        with contextlib.suppress(ValueError):
            datetime.fromisoformat(text)
            return (ISO,)
    candidates = itertools.chain(DAYS, (f"{day} {time}" for day in DAYS for time in _TIMES))
    has_letters = any(letter.isalpha() for letter in text)
    found = tuple(
        known
        for known in candidates
        if known[2] in text and (has_letters or not re.search("%[bBp]|h", known)) and _read(unzoned, known)
    )
    # Whoever writes AM and PM writes the month first.
    month_first = tuple(known for known in found if "%p" in known and known.startswith("%m"))
    return month_first or found


def _unzoned(text: str) -> str:
    return re.sub(OFFSET, "", text).rstrip() if re.search(HAS_OFFSET, text) else text


def _read(text: str, known: str) -> datetime | None:
    try:
        read = datetime.strptime(text, known)
    except ValueError:
        return None
    return read if read.year in _YEARS else None


def _moment(text: str, known: str) -> datetime | None:
    if known in NUMBER_FORMATS:
        number = NUMBER_FORMATS[known]
        return number.since + timedelta(minutes=float(text.replace(",", ".")) * number.minutes)
    return datetime.fromisoformat(text).replace(tzinfo=None) if known == ISO else _read(_unzoned(text), known)


def has_no_time(known: str, text: str) -> bool:
    """Whether a text that a format reads states a day and no time of day."""
    if known == ISO:
        return bool(re.fullmatch(r"\d{4}-?\d{2}-?\d{2}", text))
    if known == "excel":
        return "." not in text and "," not in text
    return known not in NUMBER_FORMATS and not re.search("%[HI]", known)


def reading_of(values: Sequence[str], name: str, *, is_american: bool = False) -> Reading:
    """How a column's clocks are written.

    Args:
        values: of the column, without blanks.
        name: of the column, for doubts.
        is_american: whether the month is likelier to be first where nothing else tells.
    """
    counts: Counter[str] = Counter()
    for value in values:
        counts.update(readings(value))
    whole = [known for known, count in counts.items() if count >= _MOST * len(values)]
    if whole:
        return _in_one_way(values, name, whole, is_american=is_american)
    if not counts:
        return Reading()
    return _in_many_ways(values, name)


def _in_one_way(values: Sequence[str], name: str, whole: Sequence[str], *, is_american: bool) -> Reading:
    """The reading of a column that each of some formats reads (nearly) whole."""
    ranked = sorted(whole, key=lambda known: (_span(values, known), known.startswith("%d") == is_american))
    best = ranked[0]
    others = [
        known
        for known in ranked[1:]
        if any(_moment(v, known) != _moment(v, best) for v in values if {best, known} <= set(readings(v)))
    ]
    doubts = []
    if others:
        doubts.append(
            f"clocks as in '{name}' fit {' and '.join([best, *others])}; the first is taken, and those that others "
            "read, too, are flagged (clock_ambiguous): keep the right one in the profile"
        )
    read = [value for value in values if best in readings(value)]
    days = sum(has_no_time(best, value) for value in read) / len(read)
    formats = tuple(known for known in (best, *others) if known != ISO)
    return Reading(formats, tuple(doubts), len(read) / len(values), days, _span(values, best))


def _in_many_ways(values: Sequence[str], name: str) -> Reading:
    """The readings that together read a column whose values change how they are written."""
    left = list(values)
    used: list[tuple[str, int]] = []
    while left:
        counts = Counter(known for value in left for known in readings(value))
        if not counts:
            break
        best, count = counts.most_common(1)[0]
        if count < _FEW * len(values):
            break
        used.append((best, count))
        left = [value for value in left if best not in readings(value)]
    formats = tuple(known for known, _ in used if known != ISO)
    listed = ", ".join(f"{count} as {'ISO 8601' if known == ISO else known}" for known, count in used)
    doubt = f"'{name}' mixes readings: {listed}"
    if any(known == ISO for known, _ in used) and any(known[:2] in ("%d", "%m") for known in formats):
        doubt += (
            "; a spreadsheet may have swapped day and month in those that are ISO 8601 now (they are flagged, "
            "clock_ambiguous): get the file as it was before the spreadsheet"
        )
    read = [(value, known) for value in values for known in readings(value)[:1]]
    days = sum(has_no_time(known, value) for value, known in read) / len(read) if read else 0.0
    return Reading(formats, (doubt,), 1 - len(left) / len(values), days)


def _span(values: Sequence[str], known: str) -> timedelta:
    """From the first moment to the last: the right reading of a file puts its records close together."""
    moments = [moment for value in values if known in readings(value) and (moment := _moment(value, known))]
    return max(moments) - min(moments) if moments else timedelta.max
