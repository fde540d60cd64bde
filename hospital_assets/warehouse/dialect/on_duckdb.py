"""The dialect inside DuckDB; the package documents what each function does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import duckdb
import narwhals as nw
from duckdb import SQLExpression, StarExpression

from hospital_assets.warehouse.dialect.frames import (
    HAS_OFFSET,
    ISO,
    OFFSET,
    SOURCE_COLUMN,
    Formats,
    Frame,
    lazy,
    literal,
    quoted,
    relation_of,
    states_year,
)
from hospital_assets.warehouse.errors import without_values

_checkpoint_numbers = itertools.count(1)

#: What filled each checkpoint, while somebody wants to know.
_recorded: dict[str, str] | None = None


@contextmanager
def recorded_checkpoints() -> Iterator[dict[str, str]]:
    """Note what fills each checkpoint (name -> query), so that lineage can look through it."""
    global _recorded
    _recorded = {}
    try:
        yield _recorded
    finally:
        _recorded = None


def _relation(frame: Frame) -> duckdb.DuckDBPyRelation:
    relation = relation_of(frame)
    if relation is None:
        raise TypeError("the frame is not over a DuckDB relation")
    return relation


def with_sql(frame: Frame, expressions: Mapping[str, str]) -> Frame:
    """Add columns given as DuckDB expressions."""
    relation = _relation(frame)
    keep = StarExpression(exclude=[name for name in expressions if name in relation.columns])
    added = [SQLExpression(sql).alias(name) for name, sql in expressions.items()]
    return lazy(relation.select(keep, *added))


def parse_numbers(frame: Frame, columns: Mapping[str, str]) -> Frame:
    number = "try_cast(trim({}) as double)"
    return with_sql(
        frame,
        {
            out: f"case when isfinite({number.format(quoted(src))}) then {number.format(quoted(src))} end"
            for out, src in columns.items()
        },
    )


def parse_dates(frame: Frame, columns: Mapping[str, str], formats: Formats) -> Frame:
    return with_sql(
        frame, {out: f"cast({_strptime(f'trim({quoted(src)})', src, formats)} as date)" for out, src in columns.items()}
    )


def _strptime(text: str, column: str, formats: Formats) -> str:
    """SQL that reads a text by the formats of its column, and of its row's source."""

    def strptime(known: Sequence[str]) -> str:
        return f"try_strptime({text}, [{', '.join(literal(f) for f in known)}])"

    def read(known: Sequence[str]) -> str:
        # strptime takes fewer digits for a year and reads words, and takes long over what does not fit.
        by_year: dict[str, list[str]] = {}
        for one in known:
            by_year.setdefault(states_year(one), []).append(one)
        guarded = (
            f"case when regexp_matches({text}, {literal(year)}) then {strptime(fs)} end" for year, fs in by_year.items()
        )
        return f"coalesce({', '.join(guarded)})"

    if not isinstance(formats, Mapping):
        return read(formats) if formats else "cast(null as timestamp)"
    by_source = {name: known for name, known in formats.get(column, {}).items() if known}
    if not by_source:
        return "cast(null as timestamp)"
    cases = " ".join(f"when {literal(n)} then {read(known)}" for n, known in by_source.items())
    return f"case {SOURCE_COLUMN} {cases} end"


def parse_wall_clocks(frame: Frame, columns: Mapping[str, str], formats: Formats) -> Frame:
    # Step by step, because DuckDB computes what stands in several places of a CASE anew in each.
    endings: dict[str, str] = {}
    unzoned: dict[str, str] = {}
    parts: dict[str, str] = {}
    for out, src in columns.items():
        text, ending, bare = f"trim({quoted(src)})", quoted(f"{out}_ending"), quoted(out)
        endings[f"{out}_ending"] = (
            f"case when regexp_matches({text}, {literal(HAS_OFFSET)}) "
            f"then regexp_extract({text}, {literal(OFFSET)}) else '' end"
        )
        # Its `T` stays: months and days of the week are written with one, too.
        unzoned[out] = f"left({text}, length({text}) - length({ending}))"
        # A cast alone would read "10:00 PM" as ten in the morning and 24:00 as the next day.
        parts[out] = (
            f"case when regexp_matches(rtrim({bare}), {literal(ISO)}) and not contains({bare}, ' 24:')"
            f" and not contains({bare}, 'T24:')"
            f" then try_cast({bare} as timestamp) end"
        )
        if formats:
            parts[out] = f"coalesce({parts[out]}, {_strptime(bare, src, formats)})"
        parts[f"{out}_offset_minutes"] = (
            f"case when {ending} = '' then null when upper({ending}) = 'Z' then 0 "
            f"else case when starts_with({ending}, '-') then -1 else 1 end "
            f"* (cast(substr({ending}, 2, 2) as integer) * 60 "
            f"+ cast(right({ending}, 2) as integer)) end"
        )
    stepwise = with_sql(with_sql(frame, endings), unzoned)
    return with_sql(stepwise, parts).drop(*endings)


def plus_minutes(frame: Frame, clocks: Mapping[str, str]) -> Frame:
    return with_sql(
        frame,
        {
            clock: f"{quoted(clock)} + to_microseconds(cast(round({quoted(minutes)} * 60000000) as bigint))"
            for clock, minutes in clocks.items()
        },
    )


def json_fields(frame: Frame, column: str, fields: Mapping[str, str]) -> Frame:
    # All paths in one go: the text of a record is parsed once, not once per field.
    paths = ", ".join(literal(path) for path in fields.values())
    found = with_sql(frame, {"_found": f"json_extract_string({quoted(column)}, [{paths}])"})
    return with_sql(found, {out: f"_found[{place}]" for place, out in enumerate(fields, start=1)}).drop("_found")


def json_rows(frame: Frame, column: str, items: str, fields: Sequence[str]) -> Frame:
    listed = f"json_extract({quoted(column)}, {literal(f'$.{items}[*]')})"
    rows = lazy(
        _relation(frame).select(StarExpression(exclude=[column]), SQLExpression(f"unnest({listed})").alias("_item"))
    )
    return json_fields(rows, "_item", {name: f"$.{name}" for name in fields}).drop("_item")


def hash_keys(frame: Frame, keys: Mapping[str, Sequence[str]]) -> Frame:
    return with_sql(
        frame,
        {
            out: "cast('0x' || left(md5(" + " || '|' || ".join(quoted(part) for part in parts) + "), 15) as bigint)"
            for out, parts in keys.items()
        },
    )


def checkpoint(frame: Frame) -> Frame:
    """Put the rows into a temporary table, which may spill to disk."""
    relation = _relation(frame)
    name, query = f"checkpoint_{next(_checkpoint_numbers)}", relation.sql_query()
    if _recorded is not None:
        _recorded[name] = query
    # A private name, pinned by a test: what `relation.query` returns would keep the whole plan that led to it.
    connection = relation._con
    with without_values("what a step reads could not be computed"):
        connection.execute(f"create temp table {name} as {query}")
    return lazy(connection.table(f"temp.main.{name}"))


#: No change of a clock is longer than this, and none follows another as soon.
_BEFORE_A_CHANGE = "interval 3 hours"


def resolve_instants(frame: Frame, instants: Mapping[str, str], zone: str) -> Frame:
    # Step by step, because each conversion costs, and would be computed anew in each place.
    read: dict[str, str] = {}
    shown: dict[str, str] = {}
    added: dict[str, str] = {}
    tz, before = quoted(zone), _BEFORE_A_CHANGE
    for out, clock in instants.items():
        local, at = quoted(clock), quoted(out)
        offset = quoted(f"{clock}_offset_minutes")
        earlier, shows = quoted(f"{out}_earlier"), quoted(f"{out}_shows")
        is_written = f"{offset} is not null"
        read[out] = (
            f"case when {is_written} then timezone('UTC', {local}) - {offset} * interval 1 minute "
            f"else timezone({tz}, {local}) end"
        )
        # ICU reads a repeated hour the second time, and a skipped one by the old offset. By the offset of some time
        # before it is read the first time, whether an hour repeats or half of one.
        first = f"timezone({tz}, {local} - {before}) + {before}"
        shown[f"{out}_earlier"] = (
            f"case when {is_written} then {at} when timezone({tz}, {first}) = {local} then {first} else {at} end"
        )
        shown[f"{out}_shows"] = f"case when {is_written} then {local} else timezone({tz}, {at}) end"
        added[f"{out}_second"] = at
        added[f"{out}_is_missing"] = f"coalesce({shows} <> {local}, false)"
        added[out] = earlier
    return with_sql(with_sql(with_sql(frame, read), shown), added).drop(*shown)


def local_clocks(frame: Frame, clocks: Mapping[str, str], zone: str) -> Frame:
    return with_sql(frame, {out: f"timezone({quoted(zone)}, {quoted(src)})" for out, src in clocks.items()})


def join_valid(frame: Frame, versions: Frame, on: str, at: str, valid: tuple[str, str]) -> Frame:
    left, right = _relation(frame).set_alias("lhs"), _relation(versions).set_alias("rhs")
    start, end = map(quoted, valid)
    condition = (
        f"lhs.{quoted(on)} = rhs.{quoted(on)} and lhs.{quoted(at)} >= rhs.{start} and lhs.{quoted(at)} < rhs.{end}"
    )
    columns = [f"lhs.{quoted(name)}" for name in left.columns]
    columns += [f"rhs.{quoted(name)}" for name in right.columns if name not in (on, *valid)]
    return lazy(left.join(right, condition, how="left").select(", ".join(columns)))


def explode_hours(frame: Frame, start: str, end: str, hour: str) -> Frame:
    relation = _relation(frame.filter(nw.col(end) > nw.col(start)))
    series = (
        f"unnest(generate_series(date_trunc('hour', {quoted(start)}), "
        f"{quoted(end)} - interval 1 microsecond, interval 1 hour))"
    )
    return lazy(relation.select(StarExpression(), SQLExpression(series).alias(hour)))


def explode_days(frame: Frame, first: str, last: str, day: str) -> Frame:
    relation = _relation(frame.filter(nw.col(last) >= nw.col(first)))
    series = (
        f"cast(unnest(generate_series(cast({quoted(first)} as timestamp), "
        f"cast({quoted(last)} as timestamp), interval 1 day)) as date)"
    )
    return lazy(relation.select(StarExpression(), SQLExpression(series).alias(day)))
