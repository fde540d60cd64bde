"""Clocks that a source states in pieces, as text in the raw tables.

Belongs here: how such a text is written and taken apart. Does not: reading a wall clock (`warehouse.dialect`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import narwhals as nw

from hospital_assets.warehouse.dialect import Frame

#: Between a clock and minutes from there, and behind these: `02.03.2026 00:10 + 20 min`.
SUM, MINUTES = " + ", " min"
#: The midnight that spreadsheets write behind a date.
MIDNIGHT = r"[ T]0{1,2}:00(:00(\.0+)?)?$"
#: The day that they write before a time of day.
NO_DAY = r"^(1899-12-3[01]|1900-01-0[01])[ T]"
#: A date without a time of day: figures in three groups or one, or a month by name; a whole number of days.
DAY = (
    r"^\s*(\d{1,2}[./ -]\d{1,2}[./ -]\d{2,4}|\d{4}[./ -]\d{1,2}[./ -]\d{1,2}|\d{8}|\d{5,6}"
    r"|[0-9., -]*[A-Za-z]{3,}[0-9., -]*)\s*$"
)


def split_sums(frame: Frame, columns: Mapping[str, str], summed: Collection[str]) -> tuple[Frame, dict[str, str]]:
    """Take sums apart, so that both pieces can be read.

    Args:
        columns: new wall clock column -> text column.
        summed: text columns that may hold sums.

    Returns:
        the frame with a text for each clock of a sum and one for its minutes, and these by the clock they are of:
        `<clock>_base` and `<clock>_minutes`.
    """
    sums = {clock: text for clock, text in columns.items() if text in summed}
    pieces = {}
    for clock, text in sums.items():
        pieces[f"{clock}_base"] = nw.col(text).str.replace_all(r" \+ .* min$", "")
        pieces[f"{clock}_minutes"] = nw.when(nw.col(text).str.contains(r" \+ .* min$")).then(
            nw.col(text).str.replace_all(r"^.* \+ ", "").str.replace_all(r" min$", "")
        )
    return (frame.with_columns(**pieces) if pieces else frame), {
        clock: f"{clock}_base" if clock in sums else text for clock, text in columns.items()
    }


def without_sum_is_zero(frame: Frame, sums: Mapping[str, str]) -> Frame:
    """Minutes to add, by their text: none for a clock that is no sum; null where they cannot be read."""
    return frame.with_columns(
        **{
            minutes: nw.when(nw.col(text).is_null()).then(nw.lit(0.0)).otherwise(nw.col(minutes))
            for minutes, text in sums.items()
        }
    )


def is_day(text: str) -> nw.Expr:
    """Whether a text is a date without a time of day; such a clock is an unknown time, not midnight."""
    return ~nw.col(text).str.contains(":", literal=True) & nw.col(text).str.contains(DAY)


def with_point(number: nw.Expr) -> nw.Expr:
    """A number written with a decimal comma, with a point instead; with both marks it groups thousands, and stays."""
    pointed = number.str.replace_all(",", ".", literal=True)
    return nw.when(~number.str.contains(".", literal=True)).then(pointed).otherwise(number)
