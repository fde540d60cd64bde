"""Files to raw records: text as landed, with file and line, dated by content.

Belongs here: parsing CSV (Polars, once per content, kept as Parquet in the spool), reading JSON
lines (DuckDB, as text), and the rule that gives a record its service day. Nothing is skipped: what
cannot be read becomes a record with a `problem`.
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
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import duckdb
import narwhals as nw
import polars as pl

from hospital_assets.landing.content import Content, as_json_lines, read_content
from hospital_assets.landing.profile import Profile, Subject, canonical_columns
from hospital_assets.warehouse.dialect import (
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
#: What is looked at of each end of a file, to see what its columns hold.
_SAMPLE_LINES = 15
_SAMPLE_CHARACTERS = 20_000
_map_numbers = itertools.count(1)


@dataclass(frozen=True)
class LandedFile:
    """A file to read.

    Attributes:
        path: where it is.
        source_file: what it is called in the tables.
        sha256: its content hash.
        is_plain: UTF-8 without compression or byte-order mark: readable as it is.
        fallback: the service day of its records that state none.
    """

    path: Path
    source_file: str
    sha256: str
    is_plain: bool = True
    fallback: date | None = None


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
        the subject's canonical columns, `source_line`, `record`, `problem`, and `_sha`.
    """
    columns = {}
    for name in canonical_columns(subject):
        names = spec.source_names(name)
        if spec.join is not None and name in spec.join.columns:
            names = (spec.join.columns[name],)
        found = next((source for source in names if source in frame.columns), None)
        if name in spec.constants:
            columns[name] = pl.lit(spec.constants[name])
        elif name in spec.derived:
            columns[name] = pl.concat_str(
                [
                    pl.col("@line").cast(pl.String) if part == "@line" else pl.col(part)
                    for part in spec.derived[name]
                ],
                separator="-",
            )
        elif name == "payload" and spec.payload:
            columns[name] = _payload(spec, frame.columns)
        elif found is not None:
            columns[name] = pl.col(found)
        else:
            columns[name] = pl.lit(None, dtype=pl.String)
    return frame.select(
        **columns,
        source_line=pl.col("@line"),
        record=pl.col("@record"),
        problem=pl.col("@problem"),
        _sha=pl.col("@sha") if "@sha" in frame.columns else pl.lit(sha),
    )


def _payload(spec: Subject, landed: Sequence[str]) -> pl.Expr:
    """Flat vital-sign columns as the nested JSON that the native feed has."""
    fields = []
    for name, parameter in spec.payload.items():
        if parameter.column not in landed:
            continue
        value = pl.col(parameter.column)
        if name in ("consciousness", "on_oxygen", "spo2_scale", "gcs", "pain"):
            fields.append(value.alias(name))
        else:
            unit = pl.lit(parameter.unit, dtype=pl.String)
            fields.append(
                pl.when(value.is_not_null())
                .then(pl.struct(value.alias("value"), unit.alias("unit")))
                .alias(name)
            )
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
            parsed = parse_csv(read_content(file.path).text, spec.delimiter)
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

    names = _map_table(
        connection,
        [(file.sha256, file.source_file, 1, file.fallback) for file in (*files, *companions)],
    )
    listed = ", ".join(literal(str(copy)) for copy in copies)
    wanted = ", ".join(quoted(name) for name in canonical_columns(subject))
    return connection.sql(
        f"select m.source_file, r.source_line, r.record, r.problem, m._fallback, {wanted} "
        f"from read_parquet([{listed}], hive_partitioning = false) r "
        f"join {names} m on m.handle = r._sha"
    )


def _joined(
    spec: Subject, files: Sequence[LandedFile], companions: Sequence[LandedFile]
) -> pl.DataFrame:
    """Main records with the columns of their companions; a companion without a main one stays."""
    join = spec.join
    assert join is not None  # noqa: S101  (only called for subjects with a join)

    def read(landed: Sequence[LandedFile]) -> pl.DataFrame:
        return pl.concat(
            [
                parse_csv(read_content(file.path).text, spec.delimiter).with_columns(
                    pl.lit(file.sha256).alias("@sha")
                )
                for file in landed
            ],
            how="diagonal",
        )

    main = read(files)
    if not companions:
        return main
    companion = read(companions).unique(join.on, keep="first", maintain_order=True)
    taken = companion.select(
        join.on,
        *join.columns.values(),
        pl.col("@record").alias("@companion_record"),
    )
    matched = main.join(taken, on=join.on, how="left", maintain_order="left").with_columns(
        # Both originals stay together, word for word.
        pl.when(pl.col("@companion_record").is_null())
        .then(pl.col("@record"))
        .otherwise(
            pl.concat_str(pl.lit("["), "@record", pl.lit(","), "@companion_record", pl.lit("]"))
        )
        .alias("@record")
    )
    alone = companion.join(main.select(join.on), on=join.on, how="anti").select(
        join.on,
        *join.columns.values(),
        "@line",
        "@record",
        "@sha",
        pl.coalesce("@problem", pl.lit("unmatched_join")).alias("@problem"),
    )
    return pl.concat([matched.drop("@companion_record"), alone], how="diagonal")


def json_relation(
    connection: duckdb.DuckDBPyConnection,
    subject: str,
    spec: Subject,
    files: Sequence[LandedFile],
    spool: Path,
) -> duckdb.DuckDBPyRelation:
    """Records of JSON-lines files, read as text and taken apart inside DuckDB.

    A line that is not one JSON object is a record with the problem `unreadable_line`. NaN, which
    JSON does not have but many writers produce, stands for a value that is not a number.
    """
    sources = []
    for pieces in _batches([piece for file in files for piece in _pieces(file, spool)]):
        names = _map_table(connection, [(str(p), name, n, day) for p, name, n, day in pieces])
        listed = ", ".join(literal(str(path)) for path, *_ in pieces)
        sources.append(
            f"""
            select m.source_file, m._fallback, m.first_line + place as source_line,
                   case when ends_with(line, chr(13)) then rtrim(line, chr(13)) else line end
                       as record
            from (select filename, unnest(string_split(content, chr(10))) as line,
                         unnest(range(len(string_split(content, chr(10))))) as place
                  from read_text([{listed}])) l
            join {names} m on m.handle = l.filename
            -- Trimming long lines is slow, and a line that starts with a letter is not blank.
            where ascii(line) > 32 or trim(line, chr(32) || chr(9) || chr(13)) <> ''"""
        )
    paths = sorted(
        {path for name in canonical_columns(subject) for path in spec.source_names(name)}
    )
    fields = ", ".join(
        f"{_json_field(spec, name, paths)} as {quoted(name)}" for name in canonical_columns(subject)
    )
    listed = ", ".join(literal(path) for path in paths)
    return connection.sql(
        f"""
        with judged as (
            -- JSON is an object when it opens like one (123 is the brace); json_type would parse it
            -- once more, and raises on text that is not JSON.
            select *, case when ascii(record) = 123 then json_valid(record)
                when json_valid(record) then json_type(record) = 'OBJECT' else false end as is_sound
            from ({" union all ".join(sources)})
        ), parsed as (
            select *, json_extract_string(case when is_sound then record end, [{listed}]) as found
            from judged
        )
        select source_file, source_line, record, _fallback,
               case when not is_sound then 'unreadable_line' end as problem, {fields}
        from parsed
        """
    )


def _json_field(spec: Subject, column: str, paths: Sequence[str]) -> str:
    """A column from `found`, the texts at `paths` of a record."""
    if column in spec.constants:
        return literal(spec.constants[column])
    found = [f"found[{paths.index(path) + 1}]" for path in spec.source_names(column)]
    if not found:
        return "cast(null as varchar)"
    return found[0] if len(found) == 1 else f"coalesce({', '.join(found)})"


def _pieces(file: LandedFile, spool: Path) -> list[tuple[Path, str, int, date | None]]:
    """What is read for a file (itself, or normalised copies in the spool), with its first line."""
    if file.is_plain and file.path.stat().st_size <= _BATCH_BYTES:
        return [(file.path, file.source_file, 1, file.fallback)]
    existing = sorted(spool.glob(f"{file.sha256[:32]}.*.jsonl"))
    if not existing:
        text = as_json_lines(read_content(file.path).text)
        first, start = 1, 0
        while start < len(text) or start == 0:
            end = text.find("\n", start + _BATCH_BYTES)
            end = len(text) if end < 0 else end + 1
            piece = spool / f"{file.sha256[:32]}.{first:012d}.jsonl"
            _write_text(text[start:end], piece)
            existing.append(piece)
            first += text.count("\n", start, end)
            start = max(end, 1)
    return [
        (piece, file.source_file, int(piece.name.split(".")[1]), file.fallback)
        for piece in existing
    ]


def _batches(
    pieces: Sequence[tuple[Path, str, int, date | None]],
) -> list[list[tuple[Path, str, int, date | None]]]:
    """Pieces in batches of bounded, about equal size: DuckDB holds the texts of a batch at once."""
    total = sum(piece[0].stat().st_size for piece in pieces)
    # One core reads one batch.
    count = max(math.ceil(total / _BATCH_BYTES), min(os.cpu_count() or 1, total // _SMALL_BATCH), 1)
    wanted = max(total // count, 1)
    batches: list[list[tuple[Path, str, int, date | None]]] = []
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
    has_recorded = "recorded_at" in names and spec.date != "recorded_at"
    clocks = {"_own": spec.date or "_looked_up"}
    if has_recorded:
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
    frame = parse_wall_clocks(frame, clocks, profile.timestamp_formats)
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


def _map_table(
    connection: duckdb.DuckDBPyConnection, rows: Sequence[tuple[str, str, int, date | None]]
) -> str:
    """A temporary table from what DuckDB reads to the file it stands for."""
    name = f"checkpoint_files_{next(_map_numbers)}"
    mapping = pl.DataFrame(
        rows,
        schema={
            "handle": pl.String,
            "source_file": pl.String,
            "first_line": pl.Int64,
            "_fallback": pl.Date,
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
        }
        for number, row in enumerate(profile.subjects[subject].rows, start=1)
    ]
    schema = {**dict.fromkeys(names, pl.String), "source_file": pl.String, "source_line": pl.Int64}
    return pl.DataFrame(rows, schema=schema).with_columns(
        record=pl.struct(names).struct.json_encode() if rows else pl.lit(None, dtype=pl.String),
        problem=pl.lit(None, dtype=pl.String),
    )


def verified(path: Path, spec: Subject) -> tuple[Content, dict[str, list[str]]]:
    """A file's content, and a sample of its values by column (CSV) or field (JSON).

    Raises `UnreadableError` as `read_content`. A JSON file that is not one object a line says so in
    its `encoding`.
    """
    content = read_content(path)
    if spec.format == "csv":
        header = csv_columns(content.text, spec.delimiter)
        rows = csv.reader(
            io.StringIO("\n".join(_sampled(content.text)[1:])), delimiter=spec.delimiter
        )
        whole = [row for row in rows if len(row) == len(header)]
        return content, {name: [row[n] for row in whole] for n, name in enumerate(header)}
    laid_out = as_json_lines(content.text)
    if laid_out != content.text:
        content = Content(laid_out, f"{content.encoding}, one JSON text", content.compression)
    fields: dict[str, list[str]] = {}
    for line in _sampled(laid_out):
        with contextlib.suppress(ValueError):
            landed = json.loads(line)
            for name, value in landed.items() if isinstance(landed, dict) else ():
                values = fields.setdefault(name, [])
                if value is not None:
                    values.append(value if isinstance(value, str) else json.dumps(value))
    return content, dict(sorted(fields.items()))


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
