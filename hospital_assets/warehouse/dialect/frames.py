"""What a frame is, whichever engine is behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import duckdb
import narwhals as nw
import polars as pl

if TYPE_CHECKING:
    Frame = nw.LazyFrame[Any]
else:
    # Dagster checks asset arguments against this class and does not know generic aliases.
    Frame = nw.LazyFrame

#: Wall clocks that are always understood, beyond which profiles may add formats.
ISO_WALL_CLOCK_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d")
#: strptime formats: for all rows, or text column -> source -> formats (rows name their source).
Formats = Sequence[str] | Mapping[str, Mapping[str, Sequence[str]]]
#: The column that names a row's source.
SOURCE_COLUMN = "source_profile"
#: A year has four digits (`26-01-05` says none), and words such as `epoch` are no dates.
YEAR = r"^\d{4}|^\S.*\d{4}"
#: The last year that two digits (`%y`) state; the first is 1969, as POSIX has it.
LAST_SHORT_YEAR = 2068
#: A UTC offset at the end of a wall clock.
OFFSET = r"(?:[Zz]|[+-]\d{2}:?\d{2})$"
#: Texts that can have one: it follows a time of day (`2026-03-02-08:15` is a date and a time), or a clock in figures.
HAS_OFFSET = r"(?::\d{2}(?:\.\d+)?|[AaPp][Mm]|^\d{8}[T ]?\d{4}(?:\d{2}(?:\.\d+)?)?) ?(?:[Zz]|[+-]\d{2}:?\d{2})$"
#: ISO 8601 dates and date-times, with `T` or a blank, less their offset.
ISO = r"^\d{4}-\d{1,2}-\d{1,2}([ T]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?)?$"


class NumberFormat(NamedTuple):
    """Clocks that are written as a number of units since a moment.

    Attributes:
        since: the moment.
        minutes: in a unit.
        at_least: the smallest number that is such a clock.
        below: the numbers from here on are none.
        is_utc: the moment is one in UTC; else a wall clock.
    """

    since: datetime
    minutes: float
    at_least: float
    below: float
    is_utc: bool


#: Formats beside strptime's: spreadsheets count days (from 1927 on are clocks here), programs seconds or
#: milliseconds (from 1973 on).
NUMBER_FORMATS: Mapping[str, NumberFormat] = {
    "excel": NumberFormat(datetime(1899, 12, 30), 1440, 10_000, 100_000, is_utc=False),
    "epoch_s": NumberFormat(datetime(1970, 1, 1), 1 / 60, 1e8, 1e10, is_utc=True),
    "epoch_ms": NumberFormat(datetime(1970, 1, 1), 1 / 60_000, 1e11, 1e13, is_utc=True),
}


def states_year(known: str) -> str:
    """A regular expression for texts that write the year as a strptime format asks for.

    All of its digits have to be there; where the format has no year, any digit (DuckDB takes the words
    `epoch` and `infinity` for dates).
    """
    if "%Y" in known:
        return YEAR
    if "%y" not in known:
        return r"\d"
    # A figure next to another one is written in full.
    figure = r"\d\d" if re.search("%[A-Za-z]%", known) else r"\d\d?"
    kinds = {"y": r"\d\d", "f": r"\d+", **dict.fromkeys("bBp", "[A-Za-z]+")}
    fields = re.sub(
        r"%([A-Za-z])|([^\w\s])",
        lambda found: kinds.get(found[1], figure) if found[1] else f"\\{found[2]}",
        known.replace("%-", "%"),
    )
    return f"^{fields}$"


def lazy(native: Any) -> Frame:
    """Wrap a DuckDB relation, a Polars frame or a Spark frame as a lazy Narwhals frame."""
    frame = nw.from_native(native)
    return frame.lazy() if isinstance(frame, nw.DataFrame) else frame


def relation_of(frame: Frame) -> duckdb.DuckDBPyRelation | None:
    """The DuckDB relation behind a frame, or None when another engine is."""
    native = nw.to_native(frame)
    return native if isinstance(native, duckdb.DuckDBPyRelation) else None


def is_on_spark(frame: Frame) -> bool:
    """Whether Spark is behind a frame; tells without importing it."""
    return frame.implementation.is_spark_like()


def polars_of(frame: Frame) -> pl.LazyFrame:
    """The Polars frame behind a frame.

    Raises:
        TypeError: the frame belongs to another engine.
    """
    native = nw.to_native(frame)
    if isinstance(native, pl.LazyFrame):
        return native
    raise TypeError(f"not a Polars frame, but one of {type(native).__module__}")


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """An SQL string literal, for values of our own code; data is always bound instead."""
    return "'" + text.replace("'", "''") + "'"
