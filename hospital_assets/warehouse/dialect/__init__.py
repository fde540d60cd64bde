"""What the engines do differently, so that transforms are written once.

Transforms use Narwhals; the few things it lacks (tolerant parsing of text, JSON paths, stable
hashes, evaluating a plan once) stand here, each as a function from frame to frame that means the
same on every engine; `exact` holds arithmetic that is the same to the last digit. `on_duckdb` and
`on_polars` say how those engines do it; the package `spark` brings its own half and adds itself.
Does not belong here: any rule about hospital data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import narwhals as nw

from hospital_assets.warehouse.dialect import on_duckdb, on_polars
from hospital_assets.warehouse.dialect.exact import (
    divided,
    exact_mean,
    exact_median,
    exact_quantile,
    exact_sum,
    hours_between,
    hours_of,
    minutes_between,
    minutes_of,
)
from hospital_assets.warehouse.dialect.frames import (
    ISO_WALL_CLOCK_FORMATS,
    NUMBER_FORMATS,
    SOURCE_COLUMN,
    Formats,
    Frame,
    NumberFormat,
    is_on_spark,
    lazy,
    literal,
    polars_of,
    quoted,
    relation_of,
)
from hospital_assets.warehouse.dialect.on_duckdb import recorded_checkpoints, with_sql

__all__ = [
    "ISO_WALL_CLOCK_FORMATS",
    "NUMBER_FORMATS",
    "SOURCE_COLUMN",
    "Engine",
    "Formats",
    "Frame",
    "add_engine",
    "checkpoint",
    "divided",
    "exact_mean",
    "exact_median",
    "exact_quantile",
    "exact_sum",
    "explode_days",
    "explode_hours",
    "hash_keys",
    "hours_between",
    "hours_of",
    "is_on_spark",
    "join_valid",
    "json_fields",
    "json_rows",
    "lazy",
    "literal",
    "local_clocks",
    "minutes_between",
    "minutes_of",
    "parse_dates",
    "parse_numbers",
    "parse_wall_clocks",
    "plus_minutes",
    "polars_of",
    "quoted",
    "recorded_checkpoints",
    "relation_of",
    "resolve_instants",
    "with_sql",
]


class Engine(Protocol):
    """What a module must offer to run our transforms: the functions of this package, by name."""

    def parse_numbers(self, frame: Frame, columns: Mapping[str, str], /) -> Frame: ...
    def parse_dates(self, frame: Frame, columns: Mapping[str, str], formats: Formats, /) -> Frame: ...
    def parse_wall_clocks(self, frame: Frame, columns: Mapping[str, str], formats: Formats, /) -> Frame: ...
    def plus_minutes(self, frame: Frame, clocks: Mapping[str, str], /) -> Frame: ...
    def json_fields(self, frame: Frame, column: str, fields: Mapping[str, str], /) -> Frame: ...
    def json_rows(self, frame: Frame, column: str, items: str, fields: Sequence[str], /) -> Frame: ...
    def hash_keys(self, frame: Frame, keys: Mapping[str, Sequence[str]], /) -> Frame: ...
    def checkpoint(self, frame: Frame, /) -> Frame: ...
    def resolve_instants(self, frame: Frame, instants: Mapping[str, str], zone: str, /) -> Frame: ...
    def local_clocks(self, frame: Frame, clocks: Mapping[str, str], zone: str, /) -> Frame: ...
    def join_valid(self, frame: Frame, versions: Frame, on: str, at: str, valid: tuple[str, str], /) -> Frame: ...
    def explode_hours(self, frame: Frame, start: str, end: str, hour: str, /) -> Frame: ...
    def explode_days(self, frame: Frame, first: str, last: str, day: str, /) -> Frame: ...


_ENGINES: dict[nw.Implementation, Engine] = {nw.Implementation.DUCKDB: on_duckdb, nw.Implementation.POLARS: on_polars}


def add_engine(implementation: nw.Implementation, engine: Engine) -> None:
    """Let frames of another engine use this dialect; called by the package that makes such frames."""
    _ENGINES[implementation] = engine


def _engine(frame: Frame) -> Engine:
    return _ENGINES[frame.implementation]


def parse_numbers(frame: Frame, columns: Mapping[str, str]) -> Frame:
    """Add Float64 columns read from text columns; what is not a finite number becomes null.

    Args:
        columns: new column -> text column.
    """
    return _engine(frame).parse_numbers(frame, columns)


def parse_dates(frame: Frame, columns: Mapping[str, str], formats: Formats = ("%Y-%m-%d",)) -> Frame:
    """Add Date columns read from text columns, trying the formats in turn; else null.

    A format is in strptime notation, or one of `NUMBER_FORMATS`.
    """
    written, numbers = _by_kind(columns.values(), formats)
    frame = _engine(frame).parse_dates(frame, columns, written)
    for out, text in columns.items():
        if text in numbers:
            frame = _parse_counted(frame, f"_{out}_counted", text, numbers[text])
            frame = frame.with_columns(nw.coalesce(nw.col(out), nw.col(f"_{out}_counted").dt.date()).alias(out))
            frame = frame.drop(f"_{out}_counted", f"_{out}_counted_is_utc")
    return frame


def parse_wall_clocks(frame: Frame, columns: Mapping[str, str], formats: Formats = ()) -> Frame:
    """Add wall clocks read from text, and the UTC offset where the text states one.

    For each `out` the frame gains `out` (naive Datetime, the clock as written) and
    `out_offset_minutes` (Int32; 0 for Z; null where no offset is written: one can only stand behind a
    time of day). ISO 8601 is always understood (with `T` or a space, seconds and fractions optional);
    `formats` adds others in strptime notation, or those of `NUMBER_FORMATS`. Unreadable text becomes null.
    """
    written, numbers = _by_kind(columns.values(), formats)
    frame = _engine(frame).parse_wall_clocks(frame, columns, written)
    for out, text in columns.items():
        if text in numbers:
            offset = f"{out}_offset_minutes"
            frame = _parse_counted(frame, f"_{out}_counted", text, numbers[text])
            in_utc = nw.when(nw.col(f"_{out}_counted_is_utc")).then(nw.lit(0).cast(nw.Int32))
            frame = frame.with_columns(
                nw.coalesce(nw.col(f"_{out}_counted"), nw.col(out)).alias(out),
                nw.coalesce(in_utc, nw.col(offset)).alias(offset),
            ).drop(f"_{out}_counted", f"_{out}_counted_is_utc")
    return frame


def _by_kind(columns: Iterable[str], formats: Formats) -> tuple[Formats, dict[str, dict[str | None, list[str]]]]:
    """Formats in strptime notation, and those of numbers: text column -> source (None: any) -> names."""
    if not isinstance(formats, Mapping):
        counted = [known for known in formats if known in NUMBER_FORMATS]
        written = tuple(known for known in formats if known not in NUMBER_FORMATS)
        return written, {column: {None: counted} for column in columns} if counted else {}
    numbers: dict[str, dict[str | None, list[str]]] = {}
    for column, by_source in formats.items():
        for source, known in by_source.items():
            if counted := [one for one in known if one in NUMBER_FORMATS]:
                numbers.setdefault(column, {})[source] = counted
    if not numbers:
        return formats, {}
    return {
        column: {source: tuple(f for f in known if f not in NUMBER_FORMATS) for source, known in by_source.items()}
        for column, by_source in formats.items()
    }, numbers


def _parse_counted(frame: Frame, out: str, text: str, by_source: Mapping[str | None, Sequence[str]]) -> Frame:
    """Add `out`, the clock that a number states, to the second; and `out_is_utc`."""
    number = f"{out}_number"
    frame = parse_numbers(frame, {number: text})
    fits: list[tuple[nw.Expr, NumberFormat]] = []
    for source, names in by_source.items():
        of_source = nw.lit(True) if source is None else nw.col(SOURCE_COLUMN) == source
        for known in map(NUMBER_FORMATS.__getitem__, names):
            in_range = (nw.col(number) >= known.at_least) & (nw.col(number) < known.below)
            fits.append((of_source & in_range, known))

    def chosen(value: Callable[[NumberFormat], nw.Expr]) -> nw.Expr:
        return nw.coalesce(*(nw.when(condition).then(value(known)) for condition, known in fits))

    frame = frame.with_columns(
        chosen(lambda known: nw.lit(known.since).cast(nw.Datetime("us"))).alias(out),
        # Days with six digits behind the point are no whole seconds.
        divided(chosen(lambda known: nw.col(number) * (known.minutes * 60)).round(0), 60).alias(number),
        chosen(lambda known: nw.lit(known.is_utc)).alias(f"{out}_is_utc"),
    )
    return plus_minutes(frame, {out: number}).drop(number)


def plus_minutes(frame: Frame, clocks: Mapping[str, str]) -> Frame:
    """Clocks or instants some minutes later, to the microsecond; null where either is.

    Args:
        clocks: column -> column with the minutes, which may have a fraction.
    """
    return _engine(frame).plus_minutes(frame, clocks)


def json_fields(frame: Frame, column: str, fields: Mapping[str, str]) -> Frame:
    """Add text columns taken from a column of JSON texts by path (`$.a.b`); null where absent."""
    return _engine(frame).json_fields(frame, column, fields)


def json_rows(frame: Frame, column: str, items: str, fields: Sequence[str]) -> Frame:
    """One row per object in a list that a JSON column holds, in place of the column.

    Args:
        column: the JSON column, of objects; rows whose list is empty or missing give none.
        items: the member that is the list.
        fields: members of the objects in it, all texts; added as columns.
    """
    return _engine(frame).json_rows(frame, column, items, fields)


def hash_keys(frame: Frame, keys: Mapping[str, Sequence[str]]) -> Frame:
    """Add surrogate keys: positive 60-bit integers that depend on the text columns' values only.

    The same natural key gives the same surrogate in every rebuild and on every engine (the first
    15 hex digits of the MD5 of the parts joined by `|`). A null part makes the key null.
    """
    return _engine(frame).hash_keys(frame, keys)


def checkpoint(frame: Frame) -> Frame:
    """Evaluate a plan once, for frames that several outputs are made from."""
    return _engine(frame).checkpoint(frame)


def resolve_instants(frame: Frame, instants: Mapping[str, str], zone: str) -> Frame:
    """Turn wall clocks into UTC instants by a time zone column, flagging what DST makes unclear.

    For each `out -> clock` the frame (which has `clock` and `clock_offset_minutes`, see
    `parse_wall_clocks`) gains `out` (the instant), `out_second` (the later reading of an hour
    that happens twice; otherwise the same instant) and `out_is_missing` (the wall clock never
    showed this time because it went forward; the instant then is that of the old offset). A
    written offset decides by itself. Null clock or zone gives null. Where the frame has
    `clock_plus_minutes`, they are added to the instant, not to the wall clock.

    Args:
        frame: any frame; `zone` must hold IANA names.
        instants: new instant column -> wall clock column.
        zone: column with the IANA zone.
    """
    frame = _engine(frame).resolve_instants(frame, instants, zone)
    names = set(frame.columns)
    later = {
        name: f"{clock}_plus_minutes"
        for out, clock in instants.items()
        if f"{clock}_plus_minutes" in names
        for name in (out, f"{out}_second")
    }
    return plus_minutes(frame, later) if later else frame


def local_clocks(frame: Frame, clocks: Mapping[str, str], zone: str) -> Frame:
    """Add wall clocks (naive) of instant columns in the row's IANA zone.

    Args:
        clocks: new wall clock column -> instant column.
        zone: column with the IANA zone.
    """
    return _engine(frame).local_clocks(frame, clocks, zone)


def join_valid(frame: Frame, versions: Frame, *, on: str, at: str, valid: tuple[str, str]) -> Frame:
    """Add the columns of the version that held at an instant; null where none did. Every row stays.

    Args:
        versions: of the same engine; its other columns are new to the frame.
        on: column of both that says of what it is a version.
        at: instant column of the frame.
        valid: columns of `versions` from which (included) to which (excluded) one holds.
    """
    return _engine(frame).join_valid(frame, versions, on, at, valid)


def explode_hours(frame: Frame, start: str, end: str, hour: str) -> Frame:
    """One row per UTC hour that `[start, end)` touches; adds `hour`, the start of that hour.

    Rows whose end is not after their start give none.
    """
    return _engine(frame).explode_hours(frame, start, end, hour)


def explode_days(frame: Frame, first: str, last: str, day: str) -> Frame:
    """One row per calendar day from `first` to `last`, both included; adds `day`.

    Rows whose last day is before their first, or unknown, give none.
    """
    return _engine(frame).explode_days(frame, first, last, day)
