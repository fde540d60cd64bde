"""Files to raw records: text as landed, with file and line, dated by content.

Belongs here: parsing CSV (Polars, once per content, kept as Parquet in the spool), reading JSON
lines (DuckDB, as text; other formats are laid out as JSON lines first), and the rule that gives a
record its service day. Nothing is skipped: what cannot be read becomes a record with a `problem`.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import NamedTuple

import duckdb
import narwhals as nw
import polars as pl

from hospital_assets.landing.content import (
    as_json_lines,
    open_lines,
    read_content,
    shape_of,
)
from hospital_assets.landing.formats import ANY_KIND, normaliser
from hospital_assets.landing.profile import (
    ELEMENT,
    MEASURED,
    Event,
    Observations,
    Parameter,
    Profile,
    Rest,
    Subject,
    Sum,
    canonical_columns,
)
from hospital_assets.warehouse.dialect import (
    ISO_WALL_CLOCK_FORMATS,
    Frame,
    literal,
    local_clocks,
    parse_wall_clocks,
    quoted,
    resolve_instants,
)

#: How much JSON text is held in memory at once; longer files are cut at line ends. Each batch ends
#: in a partial row group that the next checkpoint rewrites, so smaller batches cost time.
_BATCH_BYTES = 128_000_000
_SMALL_BATCH = 16_000_000
#: Into how many files the records of a batch are sorted at most.
_MOST_KINDS = 100
#: What is looked at of each end of a file, to see what its columns hold.
_SAMPLE_LINES = 15
_SAMPLE_CHARACTERS = 20_000
_map_numbers = itertools.count(1)
#: How much text of observations is gathered into sets at once.
_GATHERED_BYTES = 100_000_000
#: What DuckDB reads, and of the file it stands for: name, first line, fallback, when it landed.
_MapRow = tuple[str, str, int, date | None, str]


@dataclass(frozen=True)
class LandedFile:
    """A file to read.

    Attributes:
        path: where it is.
        source_file: what it is called in the tables.
        sha256: its content hash.
        is_plain: UTF-8 without compression or byte-order mark: readable as it is.
        is_packed: the same in gzip.
        fallback: the service day of its records that state none.
        modified_ns: when it was delivered.
    """

    path: Path
    source_file: str
    sha256: str
    is_plain: bool = True
    is_packed: bool = False
    fallback: date | None = None
    modified_ns: int = 0

    @property
    def landed_at(self) -> str:
        """When it was delivered, as ISO 8601 in UTC."""
        return datetime.fromtimestamp(self.modified_ns / 1e9, UTC).isoformat(timespec="seconds")


def csv_columns(text: str, delimiter: str) -> list[str]:
    """The header of a CSV text."""
    return next(csv.reader(io.StringIO(text.split("\n", 1)[0]), delimiter=delimiter), [])


def parse_csv(text: str, delimiter: str) -> pl.DataFrame:
    """All records of a CSV text, as text.

    Returns:
        the columns as landed, then `@line` (physical line, the header is 1), `@problem`
        (`wrong_field_count` or null) and `@record` (JSON of the columns as landed).
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    header = csv_columns(text, delimiter)
    lines = text.count("\n") + (0 if text.endswith("\n") or not text else 1)
    frame: pl.DataFrame | None = None
    if len(set(header)) == len(header) and "\n\n" not in text:
        try:
            frame = pl.read_csv(io.BytesIO(text.encode()), separator=delimiter, infer_schema=False)
        except pl.exceptions.PolarsError:
            frame = None
    # Polars fills short lines with nulls and says nothing, so the fields are counted too.
    if '"' in text:
        fields = sum(map(len, csv.reader(io.StringIO(text), delimiter=delimiter)))
    else:
        fields = text.count(delimiter) + lines
    is_regular = fields == lines * len(header)
    if (
        frame is not None
        and is_regular
        and frame.height == max(lines - 1, 0)
        and frame.columns == header
    ):
        frame = frame.with_columns(
            pl.lit(None, dtype=pl.String).alias("@problem"),
            pl.int_range(2, frame.height + 2, dtype=pl.Int64).alias("@line"),
        )
    else:
        frame = _parse_csv_carefully(text, delimiter)
    landed = [name for name in frame.columns if not name.startswith("@")]
    if "@record" not in frame.columns:
        frame = frame.with_columns(pl.struct(landed).struct.json_encode().alias("@record"))
    return frame


def _parse_csv_carefully(text: str, delimiter: str) -> pl.DataFrame:
    """Records one by one, for texts with ragged lines, blank lines or quoted line breaks."""
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    header = _unique(next(reader, []))
    sound: list[list[str | None]] = []
    broken: list[tuple[int, str]] = []
    numbers: list[int] = []
    before = reader.line_num
    try:
        for fields in reader:
            number, before = before + 1, reader.line_num
            if not fields:
                continue
            if len(fields) == len(header):
                numbers.append(number)
                sound.append([field or None for field in fields])
            else:
                broken.append((number, delimiter.join(fields)))
    except csv.Error:
        broken.append((before + 1, ""))
    good = pl.DataFrame(sound, schema=dict.fromkeys(header, pl.String), orient="row").with_columns(
        pl.lit(None, dtype=pl.String).alias("@problem"),
        pl.Series("@line", numbers, dtype=pl.Int64),
        pl.struct(header).struct.json_encode().alias("@record")
        if header
        else pl.lit(None, dtype=pl.String).alias("@record"),
    )
    bad = pl.DataFrame(
        {
            "@problem": ["wrong_field_count"] * len(broken),
            "@line": [number for number, _ in broken],
            "@record": [line for _, line in broken],
        },
        schema={"@problem": pl.String, "@line": pl.Int64, "@record": pl.String},
    )
    return pl.concat([good, bad], how="diagonal").sort("@line")


def _unique(names: Sequence[str]) -> list[str]:
    """Header names, repeated ones numbered, so that no column hides another."""
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return out


def to_canonical(frame: pl.DataFrame, subject: str, spec: Subject, sha: str) -> pl.DataFrame:
    """Parsed CSV records under our column names; values untouched.

    Returns:
        the subject's canonical columns, `source_line`, `source_part`, `record`, `problem`, `_sha`.
    """
    frame = frame.with_columns(pl.lit(1, dtype=pl.Int64).alias("@part"))
    if "@sha" not in frame.columns:
        frame = frame.with_columns(pl.lit(sha).alias("@sha"))
    if isinstance(spec, Rest):
        taken = pl.any_horizontal(pl.lit(False), *(_takes(t, frame.columns) for t in spec.takers))
        frame = frame.filter(pl.col("@problem").is_not_null() | ~taken)
    elif spec.is_selective:
        frame = frame.filter(pl.col("@problem").is_null() & _takes(spec, frame.columns))
    if spec.observations is not None:
        frame = _gathered(frame, spec.observations)
    if spec.events:
        made = _made_events(spec, frame.columns)
        return pl.concat(
            [
                _selected(
                    frame.filter(is_made).with_columns(pl.lit(part, dtype=pl.Int64).alias("@part")),
                    subject,
                    spec.of_event(event),
                    suffix=f"-{event.event_type}",
                )
                for part, (event, is_made) in enumerate(zip(spec.events, made, strict=True), 1)
            ]
        )
    return _selected(frame, subject, spec)


def _selected(frame: pl.DataFrame, subject: str, spec: Subject, suffix: str = "") -> pl.DataFrame:
    """Our columns from the source's; `suffix` makes the message ids of one record's events differ."""
    columns = {name: _csv_column(name, spec, frame.columns) for name in canonical_columns(subject)}
    if suffix:
        columns["message_id"] = columns["message_id"] + suffix
    return frame.select(
        **columns,
        source_line=pl.col("@line"),
        source_part=pl.col("@part"),
        record=pl.col("@record"),
        problem=pl.col("@problem"),
        _sha=pl.col("@sha"),
    )


def _csv_column(name: str, spec: Subject, landed: Sequence[str]) -> pl.Expr:
    """One of our columns from the columns as landed."""
    if name in spec.constants:
        return pl.lit(spec.constants[name])
    if isinstance(spec, Rest) and name == "kind":
        kinds = [pl.col(kind) for kind in spec.kinds if kind in landed]
        return pl.concat_str(pl.lit(""), *kinds, separator=" ", ignore_nulls=True).str.strip_chars()
    if name in spec.derived:
        parts = spec.derived[name]
        if isinstance(parts, Sum):
            return _csv_sum(parts, spec.formats.get(name, ()), landed)
        return pl.concat_str(
            [
                _csv_part(part, landed)
                if isinstance(part, str)
                else pl.coalesce(*(_csv_part(name, landed) for name in part))
                for part in parts
            ],
            separator="-",
        )
    if name == "payload" and (spec.payload or spec.observations):
        parameters = spec.payload or _gathered_payload(spec.observations)
        return _payload(parameters, landed)
    names = spec.source_names(name)
    if spec.join is not None and name in spec.join.columns:
        names = (_joined_as(name),)
    found = [pl.col(source) for source in names if source in landed]
    value = found[0] if found else pl.lit(None, dtype=pl.String)
    return value.str.extract(spec.patterns[name], 1) if name in spec.patterns else value


def _csv_part(part: str, landed: Sequence[str]) -> pl.Expr:
    if part.startswith("="):
        return pl.lit(part[1:])
    if part in ("@line", "@part"):
        return pl.col(part).cast(pl.String)
    return pl.col(part) if part in landed else pl.lit(None, dtype=pl.String)


def _csv_sum(parts: Sum, formats: Sequence[str], landed: Sequence[str]) -> pl.Expr:
    """A clock some minutes after another one; null where either cannot be read."""
    if parts.at not in landed or parts.plus_minutes not in landed:
        return pl.lit(None, dtype=pl.String)
    written = pl.col(parts.at).str.strip_chars()
    at = pl.coalesce(
        *(
            written.str.replace("T", " ", literal=True).str.to_datetime(
                known, time_unit="us", strict=False
            )
            for known in ISO_WALL_CLOCK_FORMATS
        ),
        *(written.str.to_datetime(known, time_unit="us", strict=False) for known in formats),
    )
    minutes = pl.col(parts.plus_minutes).str.strip_chars().cast(pl.Float64, strict=False)
    seconds = (pl.when(minutes.is_finite()).then(minutes) * 60).round().cast(pl.Int64)
    return (at + pl.duration(seconds=seconds)).dt.strftime("%Y-%m-%d %H:%M:%S")


def _is_among(values: pl.Expr, wanted: Sequence[str]) -> pl.Expr:
    listed = [value.strip().upper() for value in wanted]
    has = values.str.strip_chars().str.to_uppercase()
    allowed = [value for value in listed if not value.startswith("!")]
    held = pl.lit(True)
    if "*" in allowed:
        held = (has != "").fill_null(False)
    elif allowed:
        held = has.is_in(allowed).fill_null(False)
    denied = [value[1:] for value in listed if value.startswith("!")]
    return held & ~has.is_in(denied).fill_null(False)


def _where(conditions: Mapping[str, Sequence[str]], landed: Sequence[str]) -> pl.Expr:
    return pl.all_horizontal(
        pl.lit(True),
        *(
            _is_among(pl.col(name) if name in landed else pl.lit(None, dtype=pl.String), values)
            for name, values in conditions.items()
        ),
    )


def _takes(spec: Subject, landed: Sequence[str]) -> pl.Expr:
    """Whether a subject takes a record."""
    taken = _where(spec.where, landed)
    if spec.observations is not None:
        code = spec.observations.code
        known = _is_among(pl.col(code), tuple(spec.observations.gathered))
        taken &= known if code in landed else pl.lit(False)
    if spec.events:
        taken &= pl.any_horizontal(*(_where(event.where, landed) for event in spec.events))
    return taken


def _made_events(spec: Subject, landed: Sequence[str]) -> list[pl.Expr]:
    """For each declared event, whether a record makes it: the first in any case, others if timed."""
    made: list[pl.Expr] = []
    applies: list[pl.Expr] = []
    for event in spec.events:
        here = _where(event.where, landed)
        has_time = (
            pl.col(event.event_at).str.strip_chars().str.len_chars().fill_null(0) > 0
            if event.event_at in landed
            else pl.lit(False)
        )
        made.append(here & (has_time | ~pl.any_horizontal(pl.lit(False), *applies)))
        applies.append(here)
    return made


def _gathered_payload(observations: Observations | None) -> dict[str, Parameter]:
    """The flat columns that `_gathered` makes, as a declaration of a payload."""
    assert observations is not None  # noqa: S101  (only called where there are observations)
    return {
        name: Parameter(column=f"@{name}") for name in dict.fromkeys(observations.gathered.values())
    }


def _gathered(frame: pl.DataFrame, long: Observations) -> pl.DataFrame:
    """Observation sets: one row for each key, a column for each vital sign and one for its unit."""
    names = {code.strip().upper(): name for code, name in long.gathered.items()}
    by = list(long.by) if set(long.by) <= set(frame.columns) else ["@line"]
    values = [pl.col(name) for name in long.values if name in frame.columns]
    frame = frame.sort("@line").with_columns(
        pl.col(long.code)
        .str.strip_chars()
        .str.to_uppercase()
        .replace_strict(names, default=None, return_dtype=pl.String)
        .alias("@name"),
        pl.coalesce(*values, pl.lit(None, dtype=pl.String)).alias("@value"),
        (pl.col(long.unit) if long.unit in frame.columns else pl.lit(None, dtype=pl.String)).alias(
            "@unit"
        ),
    )
    kept = [n for n in frame.columns if n not in (*by, "@record", "@name", "@value", "@unit")]
    found = [
        pl.col(source).filter(pl.col("@name") == name, pl.col("@value").is_not_null()).first()
        .alias(f"@{name}{suffix}")
        for name in dict.fromkeys(names.values())
        for source, suffix in (("@value", ""), ("@unit", "_unit"))
    ]  # fmt: skip
    joined = pl.col("@record").str.join(",")
    records = (
        pl.when(pl.len() > 1)
        .then(pl.concat_str(pl.lit("["), joined, pl.lit("]")))
        .otherwise(joined)
    )
    return (
        frame.group_by(by, maintain_order=True)
        .agg(*(pl.col(name).first() for name in kept), *found, records.alias("@record"))
        .with_columns(
            (pl.col(f"@{name}").cast(pl.Float64, strict=False) > 0)
            .cast(pl.String)
            .alias(f"@{name}")
            for name in dict.fromkeys(long.flags.values())
        )
        .with_columns(pl.lit(1, dtype=pl.Int64).alias("@part"))
    )


def _payload(parameters: Mapping[str, Parameter], landed: Sequence[str]) -> pl.Expr:
    """Flat vital-sign columns as the nested JSON that the native feed has."""
    fields = []
    for name, parameter in parameters.items():
        if parameter.column not in landed:
            continue
        value = pl.col(parameter.column)
        if name in MEASURED:
            unit = pl.lit(parameter.unit, dtype=pl.String)
            if f"{parameter.column}_unit" in landed and parameter.column.startswith("@"):
                unit = pl.col(f"{parameter.column}_unit")
            fields.append(
                pl.when(value.is_not_null())
                .then(pl.struct(value.alias("value"), unit.alias("unit")))
                .alias(name)
            )
        else:
            fields.append(value.alias(name))
    return pl.struct(fields).struct.json_encode()


def csv_relation(
    connection: duckdb.DuckDBPyConnection,
    subject: str,
    spec: Subject,
    files: Sequence[LandedFile],
    companions: Sequence[LandedFile],
    spool: Path,
) -> duckdb.DuckDBPyRelation:
    """Records of CSV files, from their Parquet copies in the spool (made where absent)."""
    version = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:8]
    copies: list[Path] = []
    if spec.join is None:
        copies = [spool / f"{file.sha256[:32]}.{subject}.{version}.parquet" for file in files]

        def copied(file: LandedFile, copy: Path) -> None:
            content = read_content(file.path, spec.encoding)
            parsed = parse_csv(content.text, spec.delimiter)
            _write(to_canonical(parsed, subject, spec, file.sha256), copy)

        absent = {copy: file for file, copy in zip(files, copies, strict=True) if not copy.exists()}
        # Polars lets go of the interpreter while it parses and writes.
        with ThreadPoolExecutor() as pool:
            list(pool.map(copied, absent.values(), absent.keys()))
    elif files:
        together = hashlib.sha256(
            "".join(file.sha256 for file in (*files, *companions)).encode()
        ).hexdigest()
        copy = spool / f"{together[:32]}.{subject}.{version}.parquet"
        if not copy.exists():
            joined = _joined(spec, files, companions)
            _write(to_canonical(joined, subject, spec, ""), copy)
        copies.append(copy)

    names = _map_table(connection, [_mapped(file, file.sha256) for file in (*files, *companions)])
    listed = ", ".join(literal(str(copy)) for copy in copies)
    wanted = ", ".join(
        # The copy is of the content; when that was delivered is the file's.
        f"m.landed_at as {quoted(name)}" if _is_landed_at(name, spec) else f"r.{quoted(name)}"
        for name in canonical_columns(subject)
    )
    return connection.sql(
        f"select m.source_file, r.source_line, r.source_part, r.record, "
        f"{_judged_problem(spec, 'r.problem')} as problem, m._fallback, {wanted} "
        f"from read_parquet([{listed}], hive_partitioning = false) r "
        f"join {names} m on m.handle = r._sha"
    )


def _is_landed_at(column: str, spec: Subject) -> bool:
    return spec.source_names(column) == ("@landed_at",) and column not in spec.constants


def _judged_problem(spec: Subject, problem: str, of: Mapping[str, str] | None = None) -> str:
    """The problem of a record, once its numbers are compared with what the source can mean.

    Args:
        spec: with the limits.
        problem: SQL of the problem found so far.
        of: SQL of our columns; default their names.
    """
    outside = []
    for column, limits in spec.limits.items():
        number = f"try_cast(trim({(of or {}).get(column) or quoted(column)}) as double)"
        if limits.at_least is not None:
            outside.append(f"{number} < {limits.at_least!r}")
        if limits.at_most is not None:
            outside.append(f"{number} > {limits.at_most!r}")
    if not outside:
        return problem
    return f"coalesce({problem}, case when {' or '.join(outside)} then 'outside_limits' end)"


def _joined(
    spec: Subject, files: Sequence[LandedFile], companions: Sequence[LandedFile]
) -> pl.DataFrame:
    """Main records with the columns of their companions; a companion without a main one stays."""
    join = spec.join
    assert join is not None  # noqa: S101  (only called for subjects with a join)

    def read(landed: Sequence[LandedFile]) -> pl.DataFrame:
        return pl.concat(
            [
                parse_csv(read_content(file.path, spec.encoding).text, spec.delimiter).with_columns(
                    pl.lit(file.sha256).alias("@sha")
                )
                for file in landed
            ],
            how="diagonal",
        )

    main = read(files)
    if not companions:
        return main
    # Both may have columns of the same name that mean different things.
    companion = read(companions).unique(join.companion_key, keep="first", maintain_order=True)
    taken = companion.select(
        pl.col(join.companion_key).alias(join.on),
        *(pl.col(source).alias(_joined_as(ours)) for ours, source in join.columns.items()),
        pl.col("@line").alias("@companion_line"),
        pl.col("@problem").alias("@companion_problem"),
        pl.col("@sha").alias("@companion_sha"),
        pl.col("@record").alias("@companion_record"),
    )
    matched = main.join(taken, on=join.on, how="left", maintain_order="left")
    if join.is_lookup:
        return matched
    matched = matched.with_columns(
        # Both originals stay together, word for word.
        pl.when(pl.col("@companion_record").is_null())
        .then(pl.col("@record"))
        .otherwise(
            pl.concat_str(pl.lit("["), "@record", pl.lit(","), "@companion_record", pl.lit("]"))
        )
        .alias("@record")
    )
    alone = taken.join(main.select(join.on), on=join.on, how="anti").select(
        join.on,
        *map(_joined_as, join.columns),
        pl.col("@companion_line").alias("@line"),
        pl.col("@companion_record").alias("@record"),
        pl.col("@companion_sha").alias("@sha"),
        pl.coalesce("@companion_problem", pl.lit("unmatched_join")).alias("@problem"),
    )
    return pl.concat([matched, alone], how="diagonal")


def _joined_as(column: str) -> str:
    """What a companion's column is called beside those of the main file."""
    return f"@joined {column}"


def json_relation(
    connection: duckdb.DuckDBPyConnection,
    names: Sequence[str],
    spec: Subject,
    files: Sequence[LandedFile],
    spool: Path,
    told: frozenset[str] = frozenset(),
) -> duckdb.DuckDBPyRelation:
    """The columns `names` of JSON-lines files, read as text and taken apart inside DuckDB.

    A line that is not one JSON object is a record with the problem `unreadable_line`. NaN, which
    JSON does not have but many writers produce, stands for a value that is not a number. Files of
    other formats are read from their normalised lines, which need to hold no more than the source
    names in `told`.
    """
    laid_out = normaliser(spec.format)
    if laid_out is not None:
        pieces = [piece for file in files for piece in _pieces(file, spec, spool, told)]
        lines = _numbered_lines(connection, pieces, laid_out.is_numbered) if pieces else _NO_LINES
        judged = lines if laid_out.is_numbered else _judged_lines(lines)
        passes = math.ceil(sum(piece.stat().st_size for piece, *_ in pieces) / _GATHERED_BYTES)
        if spec.observations is not None and passes > 1 and "payload" in names:
            return _gathered_in_passes(connection, json_query(names, spec, judged), passes)
        return connection.sql(json_query(names, spec, judged).sql)
    sources = []
    for pieces in _batches([piece for file in files for piece in _pieces(file, spec, spool, told)]):
        of_file = _map_table(
            connection, [_mapped(file, str(path), line) for path, file, line in pieces]
        )
        listed = ", ".join(literal(str(path)) for path, *_ in pieces)
        sources.append(
            f"""
            select m.source_file, m._fallback, m.landed_at, m.first_line + place as source_line,
                   case when ends_with(line, chr(13)) then rtrim(line, chr(13)) else line end
                       as record
            -- Not `unnest(lines)`: what is asked of its rows, DuckDB would find out of all lines of
            -- the file at once, and again for every two thousand of them.
            from (select filename, lines[place + 1] as line, place
                  from (select filename, lines, unnest(range(len(lines))) as place
                        from (select filename, string_split(content, chr(10)) as lines
                              from read_text([{listed}])))) l
            join {of_file} m on m.handle = l.filename
            -- Trimming long lines is slow, and a line that starts with a letter is not blank.
            where ascii(line) > 32 or trim(line, chr(32) || chr(9) || chr(13)) <> ''"""
        )
    judged = _judged_lines(" union all ".join(sources) or _NO_LINES)
    return connection.sql(json_query(names, spec, judged).sql)


#: No file may hold the kind of record that is asked for.
_NO_LINES = (
    "select cast(null as varchar) as source_file, cast(null as date) as _fallback, "
    "cast(null as varchar) as landed_at, cast(null as bigint) as source_line, "
    "cast(null as varchar) as record, true as is_sound where false"
)


def _judged_lines(lines: str) -> str:
    """SQL of lines with whether each is a JSON object."""
    return f"""
        -- JSON is an object when it opens like one (123 is the brace); json_type would parse it
        -- once more, and raises on text that is not JSON.
        select source_file, _fallback, landed_at, source_line, record,
               case when ascii(record) = 123 then json_valid(record)
                    when json_valid(record) then json_type(record) = 'OBJECT' else false end as is_sound
        from ({lines})"""


def _numbered_lines(
    connection: duckdb.DuckDBPyConnection,
    pieces: Sequence[tuple[Path, LandedFile, int]],
    is_sound: bool,
) -> str:
    """SQL of the lines of normalised copies: streamed, in parallel, in bounded memory.

    Sound lines say in their JSON where they stood; before others stand their number and a tab.
    """
    names = _map_table(connection, [_mapped(file, str(path), line) for path, file, line in pieces])
    listed = ", ".join(literal(str(path)) for path, *_ in pieces)
    longest = max(int((path.parent / _done(path)).read_text() or 0) for path, *_ in pieces)
    number, text = "m.first_line", "l.line"
    if not is_sound:
        number = "cast(l.line[:strpos(l.line, chr(9)) - 1] as bigint)"
        text = "l.line[strpos(l.line, chr(9)) + 1:]"
    return f"""
        select m.source_file, m._fallback, m.landed_at, {number} as source_line, {text} as record,
               true as is_sound
        -- One column that nothing ends but the line.
        from read_csv([{listed}], columns = {{'line': 'varchar'}}, auto_detect = false, delim = '',
                      quote = '', escape = '', header = false, null_padding = false,
                      filename = true, max_line_size = {max(longest, 2_097_152)}) l
        join {names} m on m.handle = l.filename"""


def _done(piece: Path) -> str:
    """The file that says that all pieces of a copy are there, and how long their lines can be."""
    return f"{piece.name.rsplit('.', 3)[0]}.done"


class _Paths:
    """Texts at JSON paths, all found in one go: the text of a record is parsed once."""

    def __init__(self, source: str, found: str) -> None:
        self._source, self._found = source, found
        self._places: dict[str, int] = {}
        self._picked: dict[str, int] = {}

    def __getitem__(self, path: str) -> str:
        if _PICK.search(path):
            place = self._picked.setdefault(path, len(self._picked) + 1)
            return f"{self._found}_picked[{place}]"
        place = self._places.setdefault(path, len(self._places) + 1)
        return f"{self._found}[{place}]"

    def __len__(self) -> int:
        return len(self._places) + len(self._picked)

    def sql(self) -> str:
        listed = ", ".join(literal(path) for path in self._places)
        plain = f"json_extract_string({self._source}, [{listed}])" if listed else "[]"
        picked = ", ".join(_text_at(self._source, path) for path in self._picked)
        return (
            f"cast({plain} as varchar[]) as {self._found}, "
            f"cast([{picked}] as varchar[]) as {self._found}_picked"
        )


#: `[key=value]` or `[key!=value]` in a path; the key may be a path itself.
_PICK = re.compile(
    r"\[(?P<key>[A-Za-z_@][^\]=!]*(?:\[\d+\][^\]=!]*)*)(?P<sign>!?=)(?P<value>[^\]]*)\]"
)


def _elements_at(source: str, path: str, depth: int = 0) -> str:
    """SQL of the list of JSON values at a path: all elements of a list, those picked, or one value."""
    pick = _PICK.search(path)
    if pick is None:
        return f"json_extract({source}, {literal(path if '[*]' in path else f'{path}[*]')})"
    element = f"e{depth}"
    has = f"json_extract_string({element}, {literal('$.' + pick['key'])})"
    sign = "is not distinct from" if pick["sign"] == "=" else "is distinct from"
    found = f"json_extract({source}, {literal(path[: pick.start()] + '[*]')})"
    picked = f"list_filter({found}, lambda {element}: {has} {sign} {literal(pick['value'])})"
    rest = path[pick.end() :]
    if not rest:
        return picked
    if rest.startswith("[") and not _PICK.match(rest):  # the n-th of them
        place, _, rest = rest[1:].partition("]")
        picked = f"list_slice({picked}, {int(place) + 1}, {int(place) + 1})"
        if not rest:
            return picked
    inner = f"i{depth}"
    if _PICK.search(rest):
        return f"flatten(list_transform({picked}, lambda {inner}: {_elements_at(inner, '$' + rest, depth + 1)}))"
    return (
        f"list_filter(list_transform({picked}, lambda {inner}: "
        f"json_extract({inner}, {literal('$' + rest)})), lambda {inner}: {inner} is not null)"
    )


def _text_at(source: str, path: str) -> str:
    """SQL of the text at a path that picks elements: of the first one that has any."""
    return f"json_extract_string({_elements_at(source, path)}[1], '$')"


class _JsonReading:
    """The SQL of a subject's columns over `judged` lines (see `json_query`)."""

    def __init__(self, spec: Subject) -> None:
        self.spec = spec
        self.whole = _Paths("case when is_sound then record end", "found")
        self.element = _Paths("element", "found_each")
        is_normalised = normaliser(spec.format) is not None
        self.line = "source_line"
        self.record = "record"
        self.problem = "case when not is_sound then 'unreadable_line' end"
        if is_normalised:
            line, record, problem = (
                self.whole[f'$."@{name}"'] for name in ("line", "record", "problem")
            )
            self.line = f"coalesce(try_cast({line} as bigint), source_line)"
            self.record = f"coalesce({record}, record)"
            self.problem = f"coalesce({self.problem}, {problem})"

    def source(self, name: str) -> str:
        """The text under a source name."""
        if name in ("@line", "@part"):
            return f"cast({self.line if name == '@line' else 'part'} as varchar)"
        if name == "@landed_at":
            return "landed_at"
        if name.startswith("="):
            return literal(name[1:])
        if name.startswith(ELEMENT):
            return self.element["$" + name.removeprefix(ELEMENT)]
        return self.whole[name]

    def column(self, name: str, spec: Subject) -> str:
        """One of our columns."""
        if name in spec.constants:
            return literal(spec.constants[name])
        if isinstance(spec, Rest) and name == "kind":
            kinds = ", ".join(self.source(kind) for kind in spec.kinds)
            return f"concat_ws(' ', {kinds})" if kinds else "cast(null as varchar)"
        if name in spec.derived:
            parts = spec.derived[name]
            if isinstance(parts, Sum):
                return self._sum(parts, spec.formats.get(name, ()))
            return " || '-' || ".join(
                self.source(part)
                if isinstance(part, str)
                else f"coalesce({', '.join(self.source(name) for name in part)})"
                for part in parts
            )
        if name == "payload" and spec.payload:
            return self._payload(
                {
                    vital_sign: (
                        self.source(parameter.column),
                        literal(parameter.unit) if parameter.unit else "null",
                    )
                    for vital_sign, parameter in spec.payload.items()
                }
            )
        found = [self.source(source) for source in spec.source_names(name)]
        if not found:
            return "cast(null as varchar)"
        value = found[0] if len(found) == 1 else f"coalesce({', '.join(found)})"
        if name in spec.patterns:
            return f"nullif(regexp_extract({value}, {literal(spec.patterns[name])}, 1), '')"
        return value

    def _sum(self, parts: Sum, formats: Sequence[str]) -> str:
        at, minutes = self.source(parts.at), self.source(parts.plus_minutes)
        clock = f"try_cast({at} as timestamp)"
        if formats:
            listed = ", ".join(literal(known) for known in formats)
            clock = f"coalesce({clock}, try_strptime({at}, [{listed}]))"
        seconds = f"cast(round(try_cast({minutes} as double) * 60) as bigint)"
        return f"strftime({clock} + to_seconds({seconds}), '%Y-%m-%d %H:%M:%S')"

    @staticmethod
    def _payload(values: Mapping[str, tuple[str, str]]) -> str:
        fields = []
        for name, (value, unit) in values.items():
            nested = f"json_object('value', {value}, 'unit', {unit})"
            whole = (
                f"case when {value} is not null then {nested} end" if name in MEASURED else value
            )
            fields.append(f"{literal(name)}, {whole}")
        return f"cast(json_object({', '.join(fields)}) as varchar)"

    def where(self, conditions: Mapping[str, Sequence[str]]) -> str:
        """Whether a record has one of the values in each."""
        return (
            " and ".join(
                _has_one_of(f"upper(trim({self.source(name)}))", values)
                for name, values in conditions.items()
            )
            or "true"
        )

    def takes(self, spec: Subject) -> str:
        """Whether a subject takes a record: no row may come of one that it takes, and none else."""
        terms = [f"({self.where(spec.where)})"]
        if spec.observations is not None:
            codes = f"({_listed(tuple(spec.observations.gathered))})"
            code = spec.observations.code
            if code.startswith(ELEMENT):
                path = "$" + code.removeprefix(ELEMENT)
                text = (
                    _text_at("element", path)
                    if _PICK.search(path)
                    else f"json_extract_string(element, {literal(path)})"
                )
                terms.append(
                    f"len(list_filter({self.elements(spec)}, lambda element: "
                    f"upper(trim({text})) in {codes})) > 0"
                )
            else:
                terms.append(f"upper(trim({self.source(code)})) in {codes}")
        elif spec.each:
            terms.append(f"len({self.elements(spec)}) > 0")
        if spec.events:
            terms.append(f"({' or '.join(f'({self.where(e.where)})' for e in spec.events)})")
        return " and ".join(f"coalesce({term}, false)" for term in terms)

    @staticmethod
    def elements(spec: Subject | Event) -> str:
        """The elements that make rows of a record."""
        assert spec.each is not None  # noqa: S101  (only called where there is a list)
        record = "case when is_sound then record end"
        listed = f"coalesce({_elements_at(record, spec.each)}, [])"
        if isinstance(spec, Subject) and spec.is_element_itself:
            return f"list_append({listed}, cast({record} as json))"
        return listed

    def made_events(self) -> list[str]:
        """For each declared event, whether a record makes it, as `_made_events` for CSV."""
        made: list[str] = []
        applies: list[str] = []
        for event in self.spec.events:
            here = f"({self.where(event.where)})"
            has_time = f"coalesce(trim({self.source(event.event_at)}) <> '', false)"
            is_first = f"not ({' or '.join(applies) or 'false'})"
            made.append(f"({here} and ({has_time}{'' if event.each else f' or {is_first}'}))")
            applies.append(here)
        return made


class JsonQuery(NamedTuple):
    """SQL from lines of JSON to raw records.

    Attributes:
        lines: the common table expressions before.
        rows: what records are made of.
        records: the columns of the records.
        kept: which rows count, and how they are grouped.
        by: what groups them, where they are grouped.
    """

    lines: str
    rows: str
    records: str
    kept: str
    by: str = ""

    @property
    def sql(self) -> str:
        """All of it."""
        return f"{self.lines} select {self.records} from ({self.rows}) {self.kept}"


def _gathered_in_passes(
    connection: duckdb.DuckDBPyConnection, query: JsonQuery, passes: int
) -> duckdb.DuckDBPyRelation:
    """Grouped records of more text than fits in memory: some of the groups at a time.

    The rows and the records are kept in temporary tables, which DuckDB moves to disk where it must; what it
    is grouping it has to hold.
    """
    number = next(_map_numbers)
    rows, records = f"temp.main.checkpoint_rows_{number}", f"temp.main.checkpoint_records_{number}"
    connection.execute(
        f"create temp table {rows} as {query.lines} "
        f"select *, hash({query.by}) % {passes} as _pass from ({query.rows})"
    )
    for turn in range(passes):
        into = f"insert into {records}" if turn else f"create temp table {records} as"
        connection.execute(
            f"{into} select {query.records} from (from {rows} where _pass = {turn}) {query.kept}"
        )
    connection.execute(f"drop table {rows}")
    return connection.table(records)


def json_query(names: Sequence[str], spec: Subject, judged: str) -> JsonQuery:
    """SQL from lines of JSON to a subject's raw records.

    Args:
        names: the columns wanted.
        spec: its declaration.
        judged: SQL of the lines: `source_file`, `_fallback`, `landed_at`, `source_line`, `record`,
            and `is_sound`, whether that is a JSON object.
    """
    reading = _JsonReading(spec)
    if isinstance(spec, Rest):
        taken = " or ".join(f"({reading.takes(taker)})" for taker in spec.takers) or "false"
        wanted = f"({reading.problem}) is not null or not ({taken})"
    elif spec.is_selective:
        wanted = f"({reading.problem}) is null and {reading.takes(spec)}"
    else:
        wanted = "true"

    rows, kept = "select *, 1 as part from parsed", ""
    if spec.each and not isinstance(spec, Rest):
        rows = (
            "select *, unnest(elements) as element, unnest(range(1, len(elements) + 1)) as part "
            f"from (select *, {reading.elements(spec)} as elements from parsed)"
        )
    fields = {name: reading.column(name, spec) for name in names}
    if spec.events:
        made = reading.made_events()
        by_event = [
            {name: reading.column(name, spec.of_event(event)) for name in names}
            for event in spec.events
        ]
        for event, of_event in zip(spec.events, by_event, strict=True):
            place = " || '-' || (part // 1000)" if event.each else ""
            of_event["message_id"] = (
                f"{of_event['message_id']} || {literal('-' + event.event_type)}{place}"
            )
        fields = {
            name: "case part % 1000 "
            + " ".join(f"when {n} then {of_event[name]}" for n, of_event in enumerate(by_event, 1))
            + " end"
            for name in names
        }
        cases = " ".join(f"when {part} then {is_made}" for part, is_made in enumerate(made, 1))
        # The events of a list have the place of their element in their part, too.
        elements = " ".join(
            f"when {part} then ({reading.elements(event)})[{event.from_element}:]"
            for part, event in enumerate(spec.events, 1)
            if event.each
        )
        parts = ", ".join(f"({part})" for part in range(1, len(made) + 1))
        rows = f"select * from parsed, (values {parts}) as events(part)"
        if elements:
            rows = (
                "select * exclude (part, elements), unnest(elements) as element, "
                "part + 1000 * unnest(case when is_list then range(1, len(elements) + 1) else [0] end) "
                "as part from (select *, part in "
                f"({', '.join(str(n) for n, event in enumerate(spec.events, 1) if event.each)}) "
                f"as is_list, case part {elements} else [cast(null as json)] end as elements from ({rows}))"
            )
        kept = f"where case part % 1000 {cases} end"
    head = f"source_file, {reading.line} as source_line, cast(part as bigint) as source_part, "
    head += f"{reading.record} as record, _fallback, "
    judged_problem = _judged_problem(spec, reading.problem, fields)
    last = f"{head} {judged_problem} as problem, " + ", ".join(
        f"{sql} as {quoted(name)}" for name, sql in fields.items()
    )
    by = ""
    if spec.observations is not None:
        last, kept, by = _gathered_sql(reading, spec.observations, names, fields)
    if reading.element:
        rows = f"select *, {reading.element.sql()} from ({rows})"
    lines = f"""
        with judged as ({judged}
        ), parsed as (
            select * from (select *, {reading.whole.sql()} from judged) where {wanted}
        )"""
    return JsonQuery(lines, rows, last, kept, by)


def _gathered_sql(
    reading: _JsonReading, long: Observations, names: Sequence[str], fields: Mapping[str, str]
) -> tuple[str, str, str]:
    """What to select, how to group it, and by what: `_gathered` for JSON."""
    place = f"({reading.line} * 1000000 + part)"
    code = f"upper(trim({reading.source(long.code)}))"
    value = f"coalesce({', '.join(reading.source(v) for v in long.values)}, null)"
    unit = reading.source(long.unit) if long.unit else "cast(null as varchar)"
    values = {}
    for name in dict.fromkeys(long.gathered.values()):
        codes = _listed([c for c, n in long.gathered.items() if n == name])
        these = f"filter (where {code} in ({codes}) and {value} is not null)"
        values[name] = (
            _flagged(f"arg_min({value}, {place}) {these}", name in long.flags.values()),
            f"arg_min({unit}, {place}) {these}",
        )  # fmt: skip
    selected = {
        name: reading._payload(values) if name == "payload" else f"arg_min({sql}, {place})"
        for name, sql in fields.items()
    }
    listed = (
        # Elements share their record.
        f"string_agg(distinct {reading.record}, ',' order by {reading.record})"
        if reading.spec.each
        else f"string_agg({reading.record}, ',' order by {place})"
    )
    record = (
        f"case when count(distinct {reading.line}) = 1 then any_value({reading.record}) "
        f"else '[' || {listed} || ']' end"
    )
    known = _listed(tuple(long.gathered))
    by = ", ".join(["source_file", "_fallback", *(reading.source(name) for name in long.by)])
    last = (
        f"source_file, min({reading.line}) as source_line, "
        f"cast(min({place}) % 1000000 as bigint) as source_part, {record} as record, _fallback, "
        "cast(null as varchar) as problem, "
        + ", ".join(f"{selected[name]} as {quoted(name)}" for name in names)
    )
    return last, f"where {code} in ({known}) group by {by}", by


def _flagged(value: str, is_flag: bool) -> str:
    """A number as whether it is above 0."""
    return f"cast(try_cast({value} as double) > 0 as varchar)" if is_flag else value


def _has_one_of(text: str, values: Sequence[str]) -> str:
    """Whether a text in capitals is one of the values, as `_is_among` for CSV."""
    allowed = [value for value in values if not value.startswith("!")]
    denied = [value[1:] for value in values if value.startswith("!")]
    terms = []
    if "*" in allowed:
        terms.append(f"coalesce({text} <> '', false)")
    elif allowed:
        terms.append(f"coalesce({text} in ({_listed(allowed)}), false)")
    if denied:
        terms.append(f"coalesce({text} not in ({_listed(denied)}), true)")
    return f"({' and '.join(terms) or 'true'})"


def _listed(values: Sequence[str]) -> str:
    return ", ".join(literal(value.strip().upper()) for value in values)


def _pieces(
    file: LandedFile, spec: Subject, spool: Path, names: frozenset[str] = frozenset()
) -> list[tuple[Path, LandedFile, int]]:
    """What is read for a file (itself, or normalised copies in the spool), with its first line."""
    laid_out = normaliser(spec.format, names)
    if laid_out is not None:
        stem = f"{file.sha256[:32]}.{spec.format}{laid_out.version}{laid_out.variant}"

        def records() -> Iterator[str]:
            # Only once: to find out how a file is to be read takes reading it.
            with open_lines(file.path, shape_of(file.path, spec.encoding)) as lines:
                yield from laid_out.lines(lines)

        pieces = _cut(
            records(),
            laid_out.kind,
            spool,
            stem,
            _BATCH_BYTES,
            with_numbers=not laid_out.is_numbered,
        )
        if wanted := _kinds(spec, laid_out.kind_path):
            pieces = [piece for piece in pieces if piece.name.split(".")[-3].upper() in wanted]
    elif file.is_plain and file.path.stat().st_size <= _BATCH_BYTES:
        return [(file.path, file, 1)]
    else:
        text = as_json_lines(read_content(file.path, spec.encoding).text)
        lines = (line.removesuffix("\n") for line in io.StringIO(text))
        pieces = _cut(lines, lambda line: ANY_KIND, spool, file.sha256[:32], _BATCH_BYTES)
    return [(piece, file, int(piece.name.split(".")[-2])) for piece in pieces]


def _kinds(spec: Subject, kind_path: str) -> set[str]:
    """The kinds of records a subject can take, in capitals; empty where it could be any."""
    named = spec.where.get(kind_path, ())
    if isinstance(spec, Rest) or not named or any(value[:1] in ("!", "*") for value in named):
        return set()
    return {ANY_KIND.upper(), *(value.strip().upper() for value in named)}


def _cut(
    lines: Iterator[str],
    kind: Callable[[str], str],
    spool: Path,
    stem: str,
    most_bytes: int,
    *,
    with_numbers: bool = False,
) -> list[Path]:
    """Lines as files of bounded size, by kind and first line; kept ones are not made again.

    The last file to appear says that all are there.

    Args:
        lines: without line ends.
        kind: of a line; each has files of its own.
        spool: where to.
        stem: how the files' names begin.
        most_bytes: of all files that begin at the same line.
        with_numbers: write the number of the line and a tab before each, and no blank line; else its
            place in the file is its number, and there may be only one kind.
    """
    done = spool / f"{stem}.done"
    if not done.exists():
        spool.mkdir(parents=True, exist_ok=True)
        held: dict[str, list[str]] = {}
        number, first, size, longest = 0, 1, 0, 0

        def write() -> None:
            for name, texts in held.items():
                _write_text("".join(texts), spool / f"{stem}.{name}.{first:012d}.jsonl")

        for line in lines:
            name = kind(line)
            if name not in held and len(held) >= _MOST_KINDS:
                name = ANY_KIND
            number += 1
            if not with_numbers or line.strip():
                numbered = f"{number}\t" if with_numbers else ""
                held.setdefault(name, []).append(f"{numbered}{line}\n")
            longest = max(longest, len(line))
            size += len(line) + 1
            if size >= most_bytes:
                write()
                held, first, size = {}, number + 1, 0
        if held or number == 0:
            held = held or {ANY_KIND: []}
            write()
        # In bytes a character takes four at most; a number and its tab take few.
        _write_text(str(4 * longest + 32), done)
    return sorted(spool.glob(f"{stem}.*.jsonl"))


def _mapped(file: LandedFile, handle: str, first_line: int = 1) -> _MapRow:
    return handle, file.source_file, first_line, file.fallback, file.landed_at


def _batches(
    pieces: Sequence[tuple[Path, LandedFile, int]],
) -> list[list[tuple[Path, LandedFile, int]]]:
    """Pieces in batches of bounded, about equal size: DuckDB holds the texts of a batch at once."""
    total = sum(piece[0].stat().st_size for piece in pieces)
    # One core reads one batch.
    count = max(math.ceil(total / _BATCH_BYTES), min(os.cpu_count() or 1, total // _SMALL_BATCH), 1)
    wanted = max(total // count, 1)
    batches: list[list[tuple[Path, LandedFile, int]]] = []
    size = wanted
    for piece in pieces:
        if size >= wanted:
            batches.append([])
            size = 0
        batches[-1].append(piece)
        size += piece[0].stat().st_size
    return batches


def dated(
    frame: Frame,
    spec: Subject,
    profile: Profile,
    zones: Mapping[str, str],
    first: date,
    last: date,
) -> Frame:
    """Add `_day`: the local day of the record's own clock.

    Where that is missing, unreadable or outside the data directory's period: the day of
    `recorded_at`; else null, and the record takes its file's commonest day (`_fallback`). Never the
    file's name, never today.

    Args:
        frame: raw records with `source_file`.
        spec: the subject; `spec.date` names the clock.
        profile: for its formats and its zone where the hospital has none.
        zones: IANA zone by hospital_id.
        first: first service day.
        last: last service day, inclusive.
    """
    names = set(frame.collect_schema().names())
    clocks = {}
    if spec.date_from is not None:
        clocks["_found"] = "_looked_up"
    if spec.date is not None:
        clocks["_own"] = spec.date
    if "recorded_at" in names and "recorded_at" not in clocks.values() and not spec.is_undated:
        clocks["_written"] = "recorded_at"
    zone: nw.Expr = nw.lit(profile.time_zone)
    if "hospital_id" in names and zones:
        zone = nw.coalesce(
            nw.col("hospital_id").replace_strict(
                list(zones), list(zones.values()), default=None, return_dtype=nw.String
            ),
            nw.lit(profile.time_zone),
        )
    frame = frame.with_columns(_zone=zone)
    for clock, text in clocks.items():
        formats = spec.formats.get(text, profile.timestamp_formats)
        frame = parse_wall_clocks(frame, {clock: text}, formats)
    frame = resolve_instants(frame, {f"{c}_at": c for c in clocks}, "_zone")
    frame = local_clocks(frame, {f"{c}_local": f"{c}_at" for c in clocks}, "_zone")
    in_period = {
        clock: nw.when(
            (nw.col(f"{clock}_local") >= nw.lit(first).cast(nw.Datetime("us")))
            & (nw.col(f"{clock}_local").dt.date() <= nw.lit(last))
        ).then(nw.col(f"{clock}_local").dt.date())
        for clock in clocks
    }
    kept = [name for name in frame.collect_schema().names() if not name.startswith("_")]
    days = nw.coalesce(*in_period.values(), nw.lit(None).cast(nw.Date))
    return frame.with_columns(_day=days).select(*kept, "_day", "_fallback")


def _map_table(connection: duckdb.DuckDBPyConnection, rows: Sequence[_MapRow]) -> str:
    """A temporary table from what DuckDB reads to the file it stands for."""
    name = f"checkpoint_files_{next(_map_numbers)}"
    mapping = pl.DataFrame(
        rows,
        schema={
            "handle": pl.String,
            "source_file": pl.String,
            "first_line": pl.Int64,
            "_fallback": pl.Date,
            "landed_at": pl.String,
        },
        orient="row",
    )
    connection.register("_mapping", mapping)
    connection.execute(f"create temp table {name} as select distinct * from _mapping")
    connection.unregister("_mapping")
    return f"temp.main.{name}"


def _write(frame: pl.DataFrame, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".tmp")
    frame.write_parquet(temporary, compression="lz4", statistics=False)
    temporary.replace(target)


def _write_text(text: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8", newline="")
    temporary.replace(target)


def declared_rows(subject: str, profile: Profile) -> pl.DataFrame:
    """Raw records that a profile declares itself, for sources without master data."""
    names = canonical_columns(subject)
    rows = [
        {
            **{name: row.get(name) for name in names},
            "source_file": f"profiles/{profile.name}.toml",
            "source_line": number,
            "source_part": 1,
        }
        for number, row in enumerate(profile.subjects[subject].rows, start=1)
    ]
    schema = {
        **dict.fromkeys(names, pl.String),
        "source_file": pl.String,
        "source_line": pl.Int64,
        "source_part": pl.Int64,
    }
    return pl.DataFrame(rows, schema=schema).with_columns(
        record=pl.struct(names).struct.json_encode() if rows else pl.lit(None, dtype=pl.String),
        problem=pl.lit(None, dtype=pl.String),
    )


@dataclass(frozen=True)
class Verified:
    """What was found in a file before its records are read.

    Attributes:
        encoding: of the text, and how its records are laid out.
        compression: `gzip` or `none`.
        is_blank: there is nothing but blanks in it.
        sample: some values of each column (CSV) or field (JSON lines).
    """

    encoding: str
    compression: str
    is_blank: bool
    sample: Mapping[str, Sequence[str]] = field(default_factory=dict)


def verified(path: Path, spec: Subject) -> Verified:
    """How a file is to be read, and what its columns hold.

    Raises `UnreadableError` as `read_content`. A JSON file that is not one object a line says so in
    its `encoding`.
    """
    if normaliser(spec.format) is not None:
        shape = shape_of(path, spec.encoding)
        return Verified(f"{shape.encoding}, {spec.format}", shape.compression, shape.is_blank)
    content = read_content(path, spec.encoding)
    encoding, is_blank = content.encoding, not content.text.strip()
    if spec.format == "csv":
        return Verified(encoding, content.compression, is_blank, _csv_sample(content.text, spec))
    laid_out = as_json_lines(content.text)
    if laid_out != content.text:
        encoding = f"{encoding}, one JSON text"
    return Verified(encoding, content.compression, is_blank, _json_sample(laid_out))


def _csv_sample(text: str, spec: Subject) -> dict[str, list[str]]:
    header = csv_columns(text, spec.delimiter)
    rows = csv.reader(io.StringIO("\n".join(_sampled(text)[1:])), delimiter=spec.delimiter)
    whole = [row for row in rows if len(row) == len(header)]
    return {name: [row[n] for row in whole] for n, name in enumerate(header)}


def _json_sample(text: str) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for line in _sampled(text):
        with contextlib.suppress(ValueError):
            landed = json.loads(line)
            for name, value in landed.items() if isinstance(landed, dict) else ():
                values = fields.setdefault(name, [])
                if value is not None:
                    values.append(value if isinstance(value, str) else json.dumps(value))
    return dict(sorted(fields.items()))


def _sampled(text: str) -> list[str]:
    """Some lines from the start and the end of a text: a feed that changes in a file shows there."""
    if len(text) <= 2 * _SAMPLE_CHARACTERS:
        lines = text.splitlines()
        return (
            lines
            if len(lines) <= 2 * _SAMPLE_LINES
            else [*lines[:_SAMPLE_LINES], *lines[-_SAMPLE_LINES:]]
        )
    # The line that each piece cuts is left out.
    first = text[:_SAMPLE_CHARACTERS].splitlines()[:-1]
    last = text[-_SAMPLE_CHARACTERS:].splitlines()[1:]
    return [*first[:_SAMPLE_LINES], *last[-_SAMPLE_LINES:]]
