"""How texts write the numbers of `thresholds`."""

from __future__ import annotations

_SMALL = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def in_words(number: float) -> str:
    """A number as running text has it: in words up to twelve, in figures otherwise."""
    return _SMALL[int(number)] if number in range(len(_SMALL)) else f"{number:,g}"


def in_hours(minutes: float) -> str:
    """Minutes as hours in running text: `four hours`."""
    return f"{in_words(minutes / 60)} hour{'' if minutes == 60 else 's'}"


def span(first: int, last: int) -> str:
    """From one whole number to another: `5-6` with an en dash, `5` where they are the same."""
    return f"{first}" if first == last else f"{first}\N{EN DASH}{last}"
