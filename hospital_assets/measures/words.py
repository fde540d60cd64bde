"""How texts and queries write the numbers of `thresholds`."""

from __future__ import annotations

from collections.abc import Iterable

_SMALL = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def sql_list(texts: Iterable[object]) -> str:
    """Our own constants as a list of texts in SQL: `('1', '2')`."""
    return f"({', '.join(repr(str(text)) for text in texts)})"


def in_words(number: float) -> str:
    """A number as running text has it: in words up to twelve, in figures otherwise."""
    return _SMALL[int(number)] if number in range(len(_SMALL)) else f"{number:,g}"


def in_hours(minutes: float) -> str:
    """Minutes as hours in running text: `four hours`."""
    return f"{in_words(minutes / 60)} hour{'' if minutes == 60 else 's'}"


def lasted(minutes: float) -> str:
    """A length of time as it is read at a glance: `45 min`, `7 h`, `3 days`."""
    minutes = max(minutes, 0)  # clocks differ
    for most, unit, of in ((120, "min", 1), (2 * 1440, "h", 60)):
        if minutes < most:
            return f"{minutes / of:,.0f} {unit}"
    return f"{minutes / 1440:,.0f} days"


def span(first: int, last: int) -> str:
    """From one whole number to another: `5-6` with an en dash, `5` where they are the same."""
    return f"{first}" if first == last else f"{first}\N{EN DASH}{last}"
