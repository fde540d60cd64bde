"""The dialect on Polars; the package documents what each function does."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from hospital_assets.warehouse.dialect.frames import (
    HAS_OFFSET,
    ISO_WALL_CLOCK_FORMATS,
    LAST_SHORT_YEAR,
    OFFSET,
    SOURCE_COLUMN,
    Formats,
    Frame,
    lazy,
    polars_of,
    states_year,
)
from hospital_assets.warehouse.errors import without_values


def parse_numbers(frame: Frame, columns: Mapping[str, str]) -> Frame:
    numbers = {out: pl.col(src).str.strip_chars().cast(pl.Float64, strict=False) for out, src in columns.items()}
    return lazy(
        polars_of(frame).with_columns(
            **{out: pl.when(number.is_finite()).then(number) for out, number in numbers.items()}
        )
    )


def parse_dates(frame: Frame, columns: Mapping[str, str], formats: Formats) -> Frame:
    def date(source: str) -> pl.Expr:
        text = pl.col(source).str.strip_chars(" ")
        return _first_format(
            source,
            formats,
            lambda known: _short_year(_dated(text, known).str.to_date(known, strict=False), known),
            pl.Date(),
        )

    return lazy(polars_of(frame).with_columns(**{o: date(src) for o, src in columns.items()}))


def _dated(text: pl.Expr, known: str) -> pl.Expr:
    """Texts that state the year a format asks for."""
    return pl.when(text.str.contains(states_year(known))).then(text)


def _short_year(read: pl.Expr, known: str) -> pl.Expr:
    """A year of two digits as everybody else has it: Polars takes 69 for 2069."""
    if "%y" not in known:
        return read
    is_late = read.dt.year() > LAST_SHORT_YEAR
    return pl.when(is_late).then(read.dt.offset_by("-100y")).otherwise(read)


def _first_format(column: str, formats: Formats, read: Callable[[str], pl.Expr], dtype: pl.DataType) -> pl.Expr:
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


def parse_wall_clocks(frame: Frame, columns: Mapping[str, str], formats: Formats) -> Frame:
    expressions: dict[str, pl.Expr] = {}
    for out, src in columns.items():
        written = pl.col(src).str.strip_chars(" ")
        ending = pl.when(written.str.contains(HAS_OFFSET)).then(written.str.extract(f"({OFFSET})", 1))
        unzoned = pl.when(ending.is_null()).then(written).otherwise(written.str.replace(OFFSET, ""))
        # Polars would turn a leap second into the next minute; DuckDB knows none.
        unzoned = pl.when(~unzoned.str.contains(":60", literal=True)).then(unzoned.str.strip_chars(" "))
        iso = _dated(unzoned, "%Y").str.replace("T", " ", literal=True)
        expressions[out] = pl.coalesce(
            *(iso.str.to_datetime(f, time_unit="us", strict=False) for f in ISO_WALL_CLOCK_FORMATS),
            _first_format(
                src,
                formats,
                lambda known, text=unzoned: _short_year(  # type: ignore[misc]
                    _dated(text, known).str.to_datetime(known, time_unit="us", strict=False), known
                ),
                pl.Datetime("us"),
            ),
        )
        figures = ending.str.replace(":", "", literal=True)
        minutes = figures.str.slice(1, 2).cast(pl.Int32, strict=False) * 60 + figures.str.slice(3, 2).cast(
            pl.Int32, strict=False
        )
        expressions[f"{out}_offset_minutes"] = (
            pl.when(ending.str.to_uppercase() == "Z")
            .then(pl.lit(0, dtype=pl.Int32))
            .when(figures.str.starts_with("-"))
            .then(-minutes)
            .otherwise(minutes)
        )
    return lazy(polars_of(frame).with_columns(**expressions))


def plus_minutes(frame: Frame, clocks: Mapping[str, str]) -> Frame:
    def later(clock: str, minutes: str) -> pl.Expr:
        return pl.col(clock) + pl.duration(microseconds=(pl.col(minutes) * 60_000_000).round().cast(pl.Int64))

    return lazy(polars_of(frame).with_columns(**{clock: later(clock, minutes) for clock, minutes in clocks.items()}))


def json_fields(frame: Frame, column: str, fields: Mapping[str, str]) -> Frame:
    strict = pl.col(column).map_batches(_strict_json, return_dtype=pl.String)
    # By itself, or every field would make it anew.
    read = polars_of(frame).with_columns(_strict=strict)
    found = {out: pl.col("_strict").str.json_path_match(path) for out, path in fields.items()}
    return lazy(read.with_columns(**found).drop("_strict"))


#: A string, which is left alone, or a number that is none.
_NO_NUMBER = re.compile(r'"(?:\\.|[^"\\])*"|(-?(?:NaN|Infinity))\b')


def _strict_json(texts: pl.Series) -> pl.Series:
    """JSON as Polars reads it: the NaN that many writers produce is text, as DuckDB gives it."""
    holds_none = texts.str.contains("NaN|Infinity").fill_null(False)
    if not holds_none.any():
        return texts

    def strict(text: str) -> str:
        return _NO_NUMBER.sub(lambda found: f'"{found[1]}"' if found[1] else found[0], text)

    made = texts.filter(holds_none).map_elements(strict, return_dtype=pl.String)
    return texts.scatter(holds_none.arg_true(), made)


def json_rows(frame: Frame, column: str, items: str, fields: Sequence[str]) -> Frame:
    item = pl.Struct(dict.fromkeys(fields, pl.String))
    rows = (
        polars_of(frame)
        .with_columns(_item=pl.col(column).str.json_decode(pl.Struct({items: pl.List(item)})).struct.field(items))
        .drop(column)
        .explode("_item")
        .filter(pl.col("_item").is_not_null())
    )
    return lazy(rows.with_columns(pl.col("_item").struct.field(*fields)).drop("_item"))


def hash_keys(frame: Frame, keys: Mapping[str, Sequence[str]]) -> Frame:
    return lazy(
        polars_of(frame).with_columns(
            **{
                out: pl.concat_str(list(parts), separator="|").map_batches(_md5_keys, return_dtype=pl.Int64)
                for out, parts in keys.items()
            }
        )
    )


def _md5_keys(texts: pl.Series) -> pl.Series:
    return pl.Series(
        texts.name,
        [
            None if text is None else int(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:15], 16)
            for text in texts
        ],
        dtype=pl.Int64,
    )


def checkpoint(frame: Frame) -> Frame:
    """Collect the rows."""
    return lazy(_collected(polars_of(frame)))


def _collected(plan: pl.LazyFrame) -> pl.DataFrame:
    with without_values("what a step reads could not be computed"):
        return plan.collect()


def resolve_instants(frame: Frame, instants: Mapping[str, str], zone: str) -> Frame:
    plan = polars_of(frame)
    zones = _zones(plan, zone)
    expressions: dict[str, pl.Expr] = {}
    for out, clock in instants.items():
        by_offset = (pl.col(clock) - pl.duration(minutes=pl.col(f"{clock}_offset_minutes"))).dt.replace_time_zone("UTC")
        expressions[out] = pl.coalesce(by_offset, _read_in_zones(clock, zone, zones, "earliest"))
        expressions[f"{out}_second"] = pl.coalesce(by_offset, _read_in_zones(clock, zone, zones, "latest"))
        missing = _read_in_zones(clock, zone, zones, "earliest", forward=False).is_null()
        expressions[f"{out}_is_missing"] = (
            pl.col(f"{clock}_offset_minutes").is_null()
            & pl.col(clock).is_not_null()
            & pl.col(zone).is_not_null()
            & missing
        )
    return lazy(plan.with_columns(**expressions))


def _zones(plan: pl.LazyFrame, zone: str) -> list[str]:
    found: list[str] = _collected(plan.select(pl.col(zone).unique())).to_series().drop_nulls().to_list()
    return found


def _read_in_zones(clock: str, zone: str, zones: Sequence[str], reading: Any, *, forward: bool = True) -> pl.Expr:
    """The instant of a wall clock in the row's zone; `forward` also reads skipped hours."""
    read: list[pl.Expr] = []
    for name in zones:

        def localized(local: pl.Expr, name: str = name) -> pl.Expr:
            return local.dt.replace_time_zone(name, ambiguous=reading, non_existent="null").dt.convert_time_zone("UTC")

        instant = localized(pl.col(clock))
        if forward:
            # A skipped time is read by the old offset: that of the day before (Apia skipped a whole one).
            before = pl.duration(hours=24)
            instant = pl.coalesce(instant, localized(pl.col(clock) - before) + before)
        read.append(pl.when(pl.col(zone) == name).then(instant))
    none = pl.lit(None, dtype=pl.Datetime("us", "UTC"))
    return pl.coalesce(*read, none)


def local_clocks(frame: Frame, clocks: Mapping[str, str], zone: str) -> Frame:
    plan = polars_of(frame)
    zones = _zones(plan, zone)
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


def join_valid(frame: Frame, versions: Frame, on: str, at: str, valid: tuple[str, str]) -> Frame:
    start, end = valid
    # Collected, because a plan that is run twice may number its rows differently.
    numbered = _collected(polars_of(frame)).with_row_index("_row").lazy()
    found = (
        numbered.select("_row", on, at)
        .join(polars_of(versions), on=on)
        .filter(pl.col(at) >= pl.col(start), pl.col(at) < pl.col(end))
        .drop(on, at, start, end)
    )
    return lazy(numbered.join(found, on="_row", how="left").drop("_row"))


def explode_hours(frame: Frame, start: str, end: str, hour: str) -> Frame:
    return lazy(
        polars_of(frame)
        .filter(pl.col(end) > pl.col(start))
        .with_columns(
            pl.datetime_ranges(
                pl.col(start).dt.truncate("1h"), pl.col(end) - pl.duration(microseconds=1), interval="1h"
            ).alias(hour)
        )
        .explode(hour)
    )


def explode_days(frame: Frame, first: str, last: str, day: str) -> Frame:
    return lazy(
        polars_of(frame)
        .filter(pl.col(last) >= pl.col(first))
        .with_columns(pl.date_ranges(pl.col(first), pl.col(last), interval="1d").alias(day))
        .explode(day)
    )
