"""Age in completed years, as clinical rules and privacy rules count it."""

from __future__ import annotations

import narwhals as nw


def age_in_years(birth_date: str, on: str, otherwise: str) -> nw.Expr:
    """Completed years from a birth date to a local day; the age at extract where none is known.

    The birthday itself completes the year; a child born after `on` has no age.
    """
    born, day = nw.col(birth_date), nw.col(on)
    before_birthday = (day.dt.month() < born.dt.month()) | (
        (day.dt.month() == born.dt.month()) & (day.dt.day() < born.dt.day())
    )
    years = (day.dt.year() - born.dt.year()).cast(nw.Int64) - before_birthday.cast(nw.Int64)
    completed = nw.when(years >= 0).then(years)
    return nw.when(born.is_null()).then(nw.col(otherwise)).otherwise(completed)
