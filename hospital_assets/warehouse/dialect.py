"""What the engines do differently, so that transforms are written once.

Transforms use Narwhals; the few things it lacks (tolerant parsing of text, JSON paths, stable
hashes, evaluating a plan once) stand here, each as a function from frame to frame that works for
DuckDB relations and Polars frames alike. Does not belong here: any rule about hospital data.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import duckdb
import narwhals as nw
import polars as pl
from duckdb import SQLExpression, StarExpression

if TYPE_CHECKING:
    Frame = nw.LazyFrame[Any]
else:
    # Dagster checks asset arguments against this class and does not know generic aliases.
    Frame = nw.LazyFrame

#: Wall clocks beyond ISO 8601 that profiles may add to.
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
_OFFSET = r"(?:[Zz]|[+-]\d{2}:?\d{2})$"

_checkpoint_numbers = itertools.count(1)

#: What filled each DuckDB checkpoint of this process, so that lineage can look through it.
CHECKPOINT_QUERIES: dict[str, str] = {}


def lazy(native: Any) -> Frame:
    """Wrap a DuckDB relation or a Polars frame as a lazy Narwhals frame."""
    frame = nw.from_native(native)
    return frame.lazy() if isinstance(frame, nw.DataFrame) else frame


def relation_of(frame: Frame) -> duckdb.DuckDBPyRelation | None:
    """The DuckDB relation behind a frame, or None when another engine is."""
    native = nw.to_native(frame)
    return native if isinstance(native, duckdb.DuckDBPyRelation) else None


def polars_of(frame: Frame) -> pl.LazyFrame:
    """The Polars frame behind a frame.

    Raises:
        TypeError: the frame belongs to an engine this module does not know.
    """
    native = nw.to_native(frame)
    if isinstance(native, pl.LazyFrame):
        return native
    raise TypeError(f"no dialect for frames of {type(native).__module__}")


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """An SQL string literal, for values of our own code; data is always bound instead."""
    return "'" + text.replace("'", "''") + "'"


def with_sql(frame: Frame, expressions: Mapping[str, str]) -> Frame:
    """Add columns given as DuckDB expressions to a frame over a DuckDB relation."""
    relation = relation_of(frame)
    if relation is None:
        raise TypeError("with_sql needs a DuckDB relation")
    keep = StarExpression(exclude=[name for name in expressions if name in relation.columns])
    added = [SQLExpression(sql).alias(name) for name, sql in expressions.items()]
    return lazy(relation.select(keep, *added))


def parse_numbers(frame: Frame, columns: Mapping[str, str]) -> Frame:
    """Add Float64 columns read from text columns; what is not a finite number becomes null.

    Args:
        frame: any frame.
        columns: new column -> text column.
    """
    if relation_of(frame) is not None:
        number = "try_cast(trim({}) as double)"
        return with_sql(
            frame,
            {
                out: f"case when isfinite({number.format(quoted(src))}) "
                f"then {number.format(quoted(src))} end"
                for out, src in columns.items()
            },
        )
    numbers = {
        out: pl.col(src).str.strip_chars().cast(pl.Float64, strict=False)
        for out, src in columns.items()
    }
    return lazy(
        polars_of(frame).with_columns(
            **{out: pl.when(number.is_finite()).then(number) for out, number in numbers.items()}
        )
    )


def parse_dates(
    frame: Frame, columns: Mapping[str, str], formats: Formats = ("%Y-%m-%d",)
) -> Frame:
    """Add Date columns read from text columns, trying the formats in turn; else null."""
    if relation_of(frame) is not None:
        return with_sql(
            frame,
            {
                out: f"cast({_strptime(f'trim({quoted(src)})', src, formats)} as date)"
                for out, src in columns.items()
            },
        )
    return lazy(
        polars_of(frame).with_columns(
            **{
                out: _first_format(
                    src,
                    formats,
                    lambda known, src=src: (
                        pl.col(src)  # type: ignore[misc]
                        .str.strip_chars()
                        .str.to_date(known, strict=False)
                    ),
                    pl.Date(),
                )
                for out, src in columns.items()
            }
        )
    )


def _strptime(text: str, column: str, formats: Formats) -> str:
    """SQL that reads a text by the formats of its column, and of its row's source."""

    def read(known: Sequence[str]) -> str:
        return f"try_strptime({text}, [{', '.join(literal(f) for f in known)}])"

    if not isinstance(formats, Mapping):
        return read(formats) if formats else "cast(null as timestamp)"
    by_source = {name: known for name, known in formats.get(column, {}).items() if known}
    if not by_source:
        return "cast(null as timestamp)"
    cases = " ".join(f"when {literal(n)} then {read(known)}" for n, known in by_source.items())
    return f"case {SOURCE_COLUMN} {cases} end"


def _first_format(
    column: str, formats: Formats, read: Callable[[str], pl.Expr], dtype: pl.DataType
) -> pl.Expr:
    """The first reading that succeeds, by the formats of the column, and of the row's source."""
    none = pl.lit(None, dtype=dtype)
    if not isinstance(formats, Mapping):
        return pl.coalesce(*map(read, formats), none)
    return pl.coalesce(
        *(
            pl.when(pl.col(SOURCE_COLUMN) == source).then(pl.coalesce(*map(read, known), none))
            for source, known in formats.get(column, {}).items()
        ),
        none,
    )


def parse_wall_clocks(frame: Frame, columns: Mapping[str, str], formats: Formats = ()) -> Frame:
    """Add wall clocks read from text, and the UTC offset where the text states one.

    For each `out` the frame gains `out` (naive Datetime, the clock as written) and
    `out_offset_minutes` (Int32; 0 for Z; null where no offset is written). ISO 8601 is always
    understood (with `T` or a space, seconds and fractions optional); `formats` adds others in
    strptime notation. Unreadable text becomes null.
    """
    if relation_of(frame) is not None:
        return _wall_clocks_in_duckdb(frame, columns, formats)

    expressions: dict[str, pl.Expr] = {}
    for out, src in columns.items():
        written = pl.col(src).str.strip_chars()
        ending = pl.when(written.str.contains(":", literal=True)).then(
            written.str.extract(f"({_OFFSET})", 1)
        )
        unzoned = (
            pl.when(ending.is_null()).then(written).otherwise(written.str.replace(_OFFSET, ""))
        )
        # Polars would turn a leap second into the next minute; DuckDB knows none.
        unzoned = pl.when(~unzoned.str.contains(":60", literal=True)).then(
            unzoned.str.strip_chars()
        )
        iso = unzoned.str.replace("T", " ", literal=True)
        expressions[out] = pl.coalesce(
            *(iso.str.to_datetime(f, time_unit="us", strict=False) for f in ISO_WALL_CLOCK_FORMATS),
            _first_format(
                src,
                formats,
                lambda known, text=unzoned: text.str.to_datetime(  # type: ignore[misc]
                    known, time_unit="us", strict=False
                ),
                pl.Datetime("us"),
            ),
        )
        figures = ending.str.replace(":", "", literal=True)
        minutes = figures.str.slice(1, 2).cast(pl.Int32, strict=False) * 60 + figures.str.slice(
            3, 2
        ).cast(pl.Int32, strict=False)
        expressions[f"{out}_offset_minutes"] = (
            pl.when(ending.str.to_uppercase() == "Z")
            .then(pl.lit(0, dtype=pl.Int32))
            .when(figures.str.starts_with("-"))
            .then(-minutes)
            .otherwise(minutes)
        )
    return lazy(polars_of(frame).with_columns(**expressions))


def _wall_clocks_in_duckdb(frame: Frame, columns: Mapping[str, str], formats: Formats) -> Frame:
    # Step by step, because DuckDB computes what stands in several places of a CASE anew in each.
    endings: dict[str, str] = {}
    unzoned: dict[str, str] = {}
    parts: dict[str, str] = {}
    for out, src in columns.items():
        text, ending, bare = f"trim({quoted(src)})", quoted(f"{out}_ending"), quoted(out)
        # A date alone may end in "-2026"; only what has a time of day can have an offset.
        endings[f"{out}_ending"] = (
            f"case when contains({text}, ':') "
            f"then regexp_extract({text}, {literal(_OFFSET)}) else '' end"
        )
        unzoned[out] = f"replace(left({text}, length({text}) - length({ending})), 'T', ' ')"
        # A cast alone would read "10:00 PM" as ten in the morning and 24:00 as the next day.
        parts[out] = (
            f"case when regexp_full_match({bare}, '[0-9: .-]+') and not contains({bare}, ' 24:')"
            f" then try_cast({bare} as timestamp) end"
        )
        if formats:
            # strptime reads the word "epoch", and takes long over what does not fit.
            parts[out] = (
                f"coalesce({parts[out]}, case when lower({bare}) not in "
                f"('epoch', 'infinity', '-infinity') then {_strptime(bare, src, formats)} end)"
            )
        parts[f"{out}_offset_minutes"] = (
            f"case when {ending} = '' then null when upper({ending}) = 'Z' then 0 "
            f"else case when starts_with({ending}, '-') then -1 else 1 end "
            f"* (cast(substr({ending}, 2, 2) as integer) * 60 "
            f"+ cast(right({ending}, 2) as integer)) end"
        )
    stepwise = with_sql(with_sql(frame, endings), unzoned)
    return with_sql(stepwise, parts).drop(*endings)


def json_fields(frame: Frame, column: str, fields: Mapping[str, str]) -> Frame:
    """Add text columns taken from a JSON column by path (`$.a.b`); null where absent.

    The column may be JSON text, or DuckDB's VARIANT.
    """
    relation = relation_of(frame)
    if relation is not None:
        stored = dict(zip(relation.columns, relation.types, strict=True))[column]
        source = quoted(column)
        if str(stored) == "VARIANT":
            # Single fields of a VARIANT read faster only while every row has them in one type.
            source = f"cast({source} as json)"
        # All paths in one go: the text of a record is parsed once, not once per field.
        paths = ", ".join(literal(path) for path in fields.values())
        found = with_sql(frame, {"_found": f"json_extract_string({source}, [{paths}])"})
        return with_sql(
            found, {out: f"_found[{place}]" for place, out in enumerate(fields, start=1)}
        ).drop("_found")
    # Polars takes JSON at its word; DuckDB reads the NaN that many writers produce.
    strict = pl.col(column).str.replace_all(r"([:\[,]\s*)-?(?:NaN|Infinity)\b", "${1}null")
    return lazy(
        polars_of(frame).with_columns(
            **{out: strict.str.json_path_match(path) for out, path in fields.items()}
        )
    )


def hash_keys(frame: Frame, keys: Mapping[str, Sequence[str]]) -> Frame:
    """Add surrogate keys: positive 60-bit integers that depend on the text columns' values only.

    The same natural key gives the same surrogate in every rebuild and on every engine (the first
    15 hex digits of the MD5 of the parts joined by `|`). A null part makes the key null.
    """
    if relation_of(frame) is not None:
        return with_sql(
            frame,
            {
                out: "cast('0x' || left(md5("
                + " || '|' || ".join(quoted(part) for part in parts)
                + "), 15) as bigint)"
                for out, parts in keys.items()
            },
        )
    return lazy(
        polars_of(frame).with_columns(
            **{
                out: pl.concat_str(list(parts), separator="|").map_batches(
                    _md5_keys, return_dtype=pl.Int64
                )
                for out, parts in keys.items()
            }
        )
    )


def _md5_keys(texts: pl.Series) -> pl.Series:
    return pl.Series(
        texts.name,
        [
            None
            if text is None
            else int(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:15], 16)
            for text in texts
        ],
        dtype=pl.Int64,
    )


def checkpoint(frame: Frame) -> Frame:
    """Evaluate a plan once, for frames that several outputs are made from.

    Polars collects it; DuckDB puts it into a temporary table, which may spill to disk.
    """
    relation = relation_of(frame)
    if relation is None:
        return lazy(polars_of(frame).collect())
    name = f"checkpoint_{next(_checkpoint_numbers)}"
    CHECKPOINT_QUERIES[name] = relation.sql_query()
    relation.query("plan", f"create temp table {name} as from plan")
    return lazy(relation.query("plan", f"from temp.main.{name}"))


def minutes_between(start: str, end: str) -> nw.Expr:
    """Minutes from one instant column to another, with their fraction; null when either is."""
    return (nw.col(end) - nw.col(start)).dt.total_microseconds() / 60_000_000


def resolve_instants(frame: Frame, instants: Mapping[str, str], zone: str) -> Frame:
    """Turn wall clocks into UTC instants by a time zone column, flagging what DST makes unclear.

    For each `out -> clock` the frame (which has `clock` and `clock_offset_minutes`, see
    `parse_wall_clocks`) gains `out` (the instant), `out_second` (the later reading of an hour
    that happens twice; otherwise the same instant) and `out_is_missing` (the wall clock never
    showed this time because it went forward; the instant then is that of the old offset). A
    written offset decides by itself. Null clock or zone gives null.

    Args:
        frame: any frame; `zone` must hold IANA names.
        instants: new instant column -> wall clock column.
        zone: column with the IANA zone.
    """
    if relation_of(frame) is not None:
        added: dict[str, str] = {}
        for out, clock in instants.items():
            local, tz = quoted(clock), quoted(zone)
            offset = quoted(f"{clock}_offset_minutes")
            read = f"timezone({tz}, {local})"
            hour = "interval 1 hour"
            written = f"timezone('UTC', {local}) - {offset} * interval 1 minute"
            added[out] = (
                f"case when {offset} is not null then {written} "
                f"when timezone({tz}, {read} - {hour}) = {local} then {read} - {hour} "
                f"else {read} end"
            )
            added[f"{out}_second"] = (
                f"case when {offset} is not null then {written} "
                f"when timezone({tz}, {read} + {hour}) = {local} then {read} + {hour} "
                f"else {read} end"
            )
            added[f"{out}_is_missing"] = (
                f"coalesce({offset} is null and timezone({tz}, {read}) <> {local}, false)"
            )
        return with_sql(frame, added)

    plan = polars_of(frame)
    zones = plan.select(pl.col(zone).unique()).collect().to_series().drop_nulls().to_list()
    expressions: dict[str, pl.Expr] = {}
    for out, clock in instants.items():
        by_offset = (
            pl.col(clock) - pl.duration(minutes=pl.col(f"{clock}_offset_minutes"))
        ).dt.replace_time_zone("UTC")
        expressions[out] = pl.coalesce(by_offset, _read_in_zones(clock, zone, zones, "earliest"))
        expressions[f"{out}_second"] = pl.coalesce(
            by_offset, _read_in_zones(clock, zone, zones, "latest")
        )
        missing = _read_in_zones(clock, zone, zones, "earliest", forward=False).is_null()
        expressions[f"{out}_is_missing"] = (
            pl.col(f"{clock}_offset_minutes").is_null()
            & pl.col(clock).is_not_null()
            & pl.col(zone).is_not_null()
            & missing
        )
    return lazy(plan.with_columns(**expressions))


def _read_in_zones(
    clock: str, zone: str, zones: Sequence[str], reading: Any, *, forward: bool = True
) -> pl.Expr:
    """The instant of a wall clock in the row's zone; `forward` also reads skipped hours."""
    read: list[pl.Expr] = []
    for name in zones:

        def localized(local: pl.Expr, name: str = name) -> pl.Expr:
            return local.dt.replace_time_zone(
                name, ambiguous=reading, non_existent="null"
            ).dt.convert_time_zone("UTC")

        instant = localized(pl.col(clock))
        if forward:
            # A skipped 02:30 is 03:30 under the new offset: one hour on, one hour back.
            hour = pl.duration(hours=1)
            instant = pl.coalesce(instant, localized(pl.col(clock) + hour))
        read.append(pl.when(pl.col(zone) == name).then(instant))
    none = pl.lit(None, dtype=pl.Datetime("us", "UTC"))
    return pl.coalesce(*read, none)


def local_clocks(frame: Frame, clocks: Mapping[str, str], zone: str) -> Frame:
    """Add wall clocks (naive) of instant columns in the row's IANA zone.

    Args:
        frame: any frame.
        clocks: new wall clock column -> instant column.
        zone: column with the IANA zone.
    """
    if relation_of(frame) is not None:
        return with_sql(
            frame,
            {out: f"timezone({quoted(zone)}, {quoted(src)})" for out, src in clocks.items()},
        )
    plan = polars_of(frame)
    zones = plan.select(pl.col(zone).unique()).collect().to_series().drop_nulls().to_list()
    none = pl.lit(None, dtype=pl.Datetime("us"))
    return lazy(
        plan.with_columns(
            **{
                out: pl.coalesce(
                    *(
                        pl.when(pl.col(zone) == name).then(
                            pl.col(src).dt.convert_time_zone(name).dt.replace_time_zone(None)
                        )
                        for name in zones
                    ),
                    none,
                )
                for out, src in clocks.items()
            }
        )
    )


def explode_hours(frame: Frame, start: str, end: str, hour: str) -> Frame:
    """One row per UTC hour that `[start, end)` touches; adds `hour`, the start of that hour.

    Rows whose end is not after their start give none.
    """
    if relation_of(frame) is not None:
        relation = relation_of(frame.filter(nw.col(end) > nw.col(start)))
        assert relation is not None  # noqa: S101  (a filter does not change the engine)
        series = (
            f"unnest(generate_series(date_trunc('hour', {quoted(start)}), "
            f"{quoted(end)} - interval 1 microsecond, interval 1 hour))"
        )
        return lazy(relation.select(StarExpression(), SQLExpression(series).alias(hour)))
    return lazy(
        polars_of(frame)
        .filter(pl.col(end) > pl.col(start))
        .with_columns(
            pl.datetime_ranges(
                pl.col(start).dt.truncate("1h"),
                pl.col(end) - pl.duration(microseconds=1),
                interval="1h",
            ).alias(hour)
        )
        .explode(hour)
    )


def explode_days(frame: Frame, first: str, last: str, day: str) -> Frame:
    """One row per calendar day from `first` to `last`, both included; adds `day`.

    Rows whose last day is before their first, or unknown, give none.
    """
    ordered = frame.filter(nw.col(last) >= nw.col(first))
    relation = relation_of(ordered)
    if relation is not None:
        series = (
            f"cast(unnest(generate_series(cast({quoted(first)} as timestamp), "
            f"cast({quoted(last)} as timestamp), interval 1 day)) as date)"
        )
        return lazy(relation.select(StarExpression(), SQLExpression(series).alias(day)))
    return lazy(
        polars_of(ordered)
        .with_columns(pl.date_ranges(pl.col(first), pl.col(last), interval="1d").alias(day))
        .explode(day)
    )
