"""What a frame is, whichever engine is behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import duckdb
import narwhals as nw
import polars as pl

if TYPE_CHECKING:
    Frame = nw.LazyFrame[Any]
else:
    # Dagster checks asset arguments against this class and does not know generic aliases.
    Frame = nw.LazyFrame

#: Wall clocks that are always understood, beyond which profiles may add formats.
ISO_WALL_CLOCK_FORMATS = (
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d",
)
#: strptime formats: for all rows, or text column -> source -> formats (rows name their source).
Formats = Sequence[str] | Mapping[str, Mapping[str, Sequence[str]]]
#: The column that names a row's source.
SOURCE_COLUMN = "source_profile"
#: A year has four digits (`26-01-05` says none), and words such as `epoch` are no dates.
YEAR = r"^\d{4}|^\S.*\d{4}"
#: A UTC offset at the end of a wall clock.
OFFSET = r"(?:[Zz]|[+-]\d{2}:?\d{2})$"


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
