"""CSV to raw records: text as landed, with file and line.

Parsed by Polars, once per content, and kept as Parquet in the spool.
"""

from __future__ import annotations

import csv
import hashlib
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import polars as pl

from hospital_assets.files import replacing
from hospital_assets.landing.clocks import DAY, MIDNIGHT, MINUTES, NO_DAY, SUM
from hospital_assets.landing.fixed_width import fixed_records
from hospital_assets.landing.headers import below_titles, csv_columns, distinct, with_line_feeds
from hospital_assets.landing.profile import (
    MEASURED,
    DateAndTime,
    Observations,
    Parameter,
    Rest,
    Subject,
    Sum,
    canonical_columns,
)
from hospital_assets.landing.records import LandedFile, is_landed_at, map_table, mapped, problem_sql
from hospital_assets.landing.workbooks import csv_content
from hospital_assets.warehouse.dialect import literal, quoted

#: Raised when tables are read otherwise, so that kept copies are not used any more.
_READER = 2
#: A field may be as long as its file; what that may be is a limit of its own.
csv.field_size_limit(sys.maxsize)


def records_of(text: str, spec: Subject) -> pl.DataFrame:
    """All records of a table's text as a profile says where they begin; see `parse_csv`, `fixed_records`."""
    if spec.fixed_width is not None:
        return fixed_records(text, spec.fixed_width)
    if spec.names_line == 1:
        return parse_csv(text, spec.delimiter)
    return parse_csv(below_titles(with_line_feeds(text), spec), spec.delimiter).with_columns(
        pl.col("@line") + spec.names_line - 1
    )


def parse_csv(text: str, delimiter: str) -> pl.DataFrame:
    """All records of a CSV text, as text.

    Returns:
        the columns as landed, then `@line` (physical line, the header is 1), `@problem`
        (`wrong_field_count`, `unclosed_quote` or null) and `@record` (JSON of the columns as landed).
    """
    text = with_line_feeds(text)
    header = csv_columns(text, delimiter)
    lines = text.count("\n") + (0 if text.endswith("\n") or not text else 1)
    frame: pl.DataFrame | None = None
    if header == distinct(header) and "\n\n" not in text:
        try:
            frame = pl.read_csv(io.BytesIO(text.encode()), separator=delimiter, infer_schema=False)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
            frame = None
    # Polars fills short lines with nulls and says nothing, so the fields are counted too.
    quotes = text.count('"')
    if quotes:
        fields = sum(map(len, csv.reader(io.StringIO(text), delimiter=delimiter)))
    else:
        fields = text.count(delimiter) + lines
    is_regular = fields == lines * len(header) and quotes % 2 == 0
    if frame is not None and is_regular and frame.height == max(lines - 1, 0) and frame.columns == header:
        frame = frame.with_columns(
            pl.lit(None, dtype=pl.String).alias("@problem"),
            pl.int_range(2, frame.height + 2, dtype=pl.Int64).alias("@line"),
        )
    else:
        frame = _parse_csv_carefully(text, delimiter)
    landed = [name for name in frame.columns if not name.startswith("@")]
    if has_blank_rows(text, delimiter, len(header)):
        is_blank = pl.all_horizontal(pl.col(name).is_null() | (pl.col(name) == "") for name in landed)
        frame = frame.filter(~is_blank | pl.col("@problem").is_not_null())
    if "@record" not in frame.columns:
        frame = frame.with_columns(pl.struct(landed).struct.json_encode().alias("@record"))
    return frame


def has_blank_rows(text: str, delimiter: str, width: int) -> bool:
    """Whether some lines are nothing but delimiters, as spreadsheets leave them: they are no records."""
    row = delimiter * (width - 1)
    return width > 1 and (f"\n{row}\n" in text or text.endswith(f"\n{row}"))


def _parse_csv_carefully(text: str, delimiter: str) -> pl.DataFrame:
    """Records one by one, for texts with ragged lines, blank lines or quoted line breaks."""
    lines = io.StringIO(text).readlines()
    header: list[str] | None = None
    sound: list[list[str | None]] = []
    broken: list[tuple[int, str, str]] = []
    numbers: list[int] = []
    for number, fields in _rows(lines, delimiter):
        if fields is None:
            broken.append((number, "unclosed_quote", lines[number - 1].removesuffix("\n")))
        elif header is None:
            header = distinct(fields)
        elif len(fields) == len(header):
            numbers.append(number)
            sound.append([field or None for field in fields])
        elif fields:
            broken.append((number, "wrong_field_count", delimiter.join(fields)))
    good = pl.DataFrame(sound, schema=dict.fromkeys(header or [], pl.String), orient="row").with_columns(
        pl.lit(None, dtype=pl.String).alias("@problem"),
        pl.Series("@line", numbers, dtype=pl.Int64),
        pl.struct(header).struct.json_encode().alias("@record")
        if header
        else pl.lit(None, dtype=pl.String).alias("@record"),
    )
    bad = pl.DataFrame(broken, schema={"@line": pl.Int64, "@problem": pl.String, "@record": pl.String}, orient="row")
    return pl.concat([good, bad], how="diagonal").sort("@line")


def _rows(lines: Sequence[str], delimiter: str) -> Iterator[tuple[int, list[str] | None]]:
    """The fields of each record with its first line, the header first; None for a line with a quote that is not closed.

    It ends nowhere, or amid a record below, which is read as if that line were not there.
    """
    begin, width = 0, 0
    while begin < len(lines):
        reader = csv.reader((lines[at] for at in range(begin, len(lines))), delimiter=delimiter)
        first = begin
        for fields in reader:
            end = begin + reader.line_num
            is_long = end - first > 1
            width = width or len(fields)
            if (is_long and len(fields) != width) or (
                (is_long or end == len(lines)) and not _is_closed(lines[first:end], delimiter)
            ):
                yield first + 1, None
                end = first + 1
                break
            yield first + 1, fields
            first = end
        begin = end


def _is_closed(lines: Sequence[str], delimiter: str) -> bool:
    """Whether each quote that opens a field of a record ends it, too (RFC 4180)."""
    try:
        return len(list(csv.reader(lines, delimiter=delimiter, strict=True))) == 1
    except csv.Error:
        return False


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
        frame = _gathered(frame, spec, spec.observations)
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
        if isinstance(parts, DateAndTime):
            return _csv_date_and_time(parts, landed)
        if isinstance(parts, Sum):
            return _csv_sum(parts, landed)
        return pl.concat_str(
            [
                _csv_part(part, landed)
                if isinstance(part, str)
                else pl.coalesce(*(_csv_part(name, landed) for name in part))
                for part in parts
            ],
            separator="-",
        )
    if name == "observation_id" and spec.is_set_by_time:
        of_record = pl.when(_is_day(spec, landed)).then(pl.col("@record")).map_batches(_digests, pl.String)
        known = [_csv_column(part, spec, landed) for part in ("patient_id", "measured_at")]
        return pl.concat_str(*known, separator="-") + pl.coalesce("-" + of_record, pl.lit(""))
    if name == "payload" and spec.observations:
        return pl.col("@payload")
    if name == "payload" and spec.payload:
        return _payload(spec.payload, landed)
    names = spec.source_names(name)
    if spec.join is not None and name in spec.join.columns:
        names = (_joined_as(name),)
    found = [pl.col(source) for source in names if source in landed]
    value = found[0] if found else pl.lit(None, dtype=pl.String)
    return value.str.extract(spec.patterns[name], 1) if name in spec.patterns else value


def _is_day(spec: Subject, landed: Sequence[str]) -> pl.Expr:
    """Whether vital signs are dated without a time of day, as `clocks.is_day`."""
    at = _csv_column("measured_at", spec, landed)
    return (~at.str.contains(":", literal=True) & at.str.contains(DAY)).fill_null(False)


def _digests(texts: pl.Series) -> pl.Series:
    digests = (text and hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:12] for text in texts)
    return pl.Series(texts.name, digests, dtype=pl.String)


def _csv_part(part: str, landed: Sequence[str]) -> pl.Expr:
    if part.startswith("="):
        return pl.lit(part[1:])
    if part in ("@line", "@part"):
        return pl.col(part).cast(pl.String)
    return pl.col(part) if part in landed else pl.lit(None, dtype=pl.String)


def _csv_date_and_time(parts: DateAndTime, landed: Sequence[str]) -> pl.Expr:
    """A date and a time as one text; the date alone where there is no time."""
    date = _stripped(parts.date, landed).str.replace(MIDNIGHT, "")
    time = _stripped(parts.time, landed).str.replace(NO_DAY, "")
    return pl.concat_str(date, pl.coalesce(pl.concat_str(pl.lit(" "), time), pl.lit("")))


def _csv_sum(parts: Sum, landed: Sequence[str]) -> pl.Expr:
    """A clock and minutes from there, as `split_sums` takes them apart; null where either is not stated."""
    at = parts.at
    written = _stripped(at, landed) if isinstance(at, str) else _csv_date_and_time(at, landed)
    return pl.concat_str(written, pl.lit(SUM), _stripped(parts.plus_minutes, landed), pl.lit(MINUTES))


def _stripped(part: str, landed: Sequence[str]) -> pl.Expr:
    text = _csv_part(part, landed).str.strip_chars()
    return pl.when(text != "").then(text)


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


def _gathered(frame: pl.DataFrame, spec: Subject, long: Observations) -> pl.DataFrame:
    """Observation sets: one row for each key, its observations as JSON in `@payload`."""
    names = {code.strip().upper(): name for code, name in long.gathered.items()}
    # Of a day alone nothing says that two records are of one time.
    own = pl.when(_is_day(spec, frame.columns)).then(pl.col("@line")).alias("@own")
    by = [*long.by, "@own"] if set(long.by) <= set(frame.columns) else ["@line"]
    code = pl.col(long.code).str.strip_chars().str.to_uppercase()
    value = pl.coalesce(*(pl.col(name) for name in long.values if name in frame.columns), pl.lit(None, dtype=pl.String))

    def landed(*sources: str | None) -> pl.Expr:
        known = [pl.col(source) for source in sources if source in frame.columns]
        return pl.coalesce(*known, pl.lit(None, dtype=pl.String))

    is_flag = code.is_in([flag.strip().upper() for flag in long.flags])
    observation = {
        "sign": code.replace_strict(names, default=None, return_dtype=pl.String),
        "code": code,
        "value": pl.when(is_flag).then((value.cast(pl.Float64, strict=False) > 0).cast(pl.String)).otherwise(value),
        "unit": landed(),
        **{part: landed(name) for part, name in long.units.items()},
        "written": landed(*long.written),
        "place": pl.col("@line").cast(pl.String),
        "id": landed(long.id),
        "status": landed(long.status),
        "comparator": landed(long.comparator),
    }
    kept = [name for name in frame.columns if name not in (*by, "@record")]
    joined = pl.col("@record").str.join(",")
    records = pl.when(pl.len() > 1).then(pl.concat_str(pl.lit("["), joined, pl.lit("]"))).otherwise(joined)
    return (
        frame.sort("@line")
        .with_columns(own, pl.struct([value.alias(part) for part, value in observation.items()]).alias("@observation"))
        .group_by(by, maintain_order=True)
        .agg(*(pl.col(name).first() for name in kept), pl.col("@observation"), records.alias("@record"))
        .with_columns(
            pl.struct(pl.col("@observation").alias("observations")).struct.json_encode().alias("@payload"),
            pl.lit(1, dtype=pl.Int64).alias("@part"),
        )
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
            fields.append(
                pl.when(value.is_not_null()).then(pl.struct(value.alias("value"), unit.alias("unit"))).alias(name)
            )
        else:
            fields.append(value.alias(name))
    return pl.struct(fields).struct.json_encode()


def csv_copy(file: LandedFile, subject: str, spec: Subject, spool: Path) -> Path:
    """The Parquet copy of a file's records, made where absent."""
    copy = spool / f"{file.sha256[:32]}.{subject}.{_version(spec)}.parquet"
    if not copy.exists():
        parsed = records_of(csv_content(file.path, spec, file.limits).text, spec)
        _write(to_canonical(parsed, subject, spec, file.sha256), copy)
    return copy


def _version(spec: Subject) -> str:
    return hashlib.sha256(f"{_READER} {spec.model_dump_json()}".encode()).hexdigest()[:8]


def csv_relation(
    connection: duckdb.DuckDBPyConnection,
    subject: str,
    spec: Subject,
    files: Sequence[LandedFile],
    companions: Sequence[LandedFile],
    spool: Path,
) -> duckdb.DuckDBPyRelation:
    """Records of CSV files, from their Parquet copies in the spool (made where absent)."""
    copies: list[Path] = []
    if spec.join is None:
        # Polars lets go of the interpreter while it parses and writes.
        with ThreadPoolExecutor() as pool:
            copies = list(pool.map(lambda file: csv_copy(file, subject, spec, spool), files))
    elif files:
        together = hashlib.sha256("".join(file.sha256 for file in (*files, *companions)).encode()).hexdigest()
        copy = spool / f"{together[:32]}.{subject}.{_version(spec)}.parquet"
        if not copy.exists():
            joined = _joined(spec, files, companions)
            _write(to_canonical(joined, subject, spec, ""), copy)
        copies.append(copy)

    names = map_table(connection, [mapped(file, file.sha256) for file in (*files, *companions)])
    listed = ", ".join(literal(str(copy)) for copy in copies)
    wanted = ", ".join(
        # The copy is of the content; when that was delivered is the file's.
        f"m.landed_at as {quoted(name)}" if is_landed_at(name, spec) else f"r.{quoted(name)}"
        for name in canonical_columns(subject)
    )
    return connection.sql(
        f"select m.source_file, r.source_line, r.source_part, r.record, "
        f"{problem_sql(spec, 'r.problem')} as problem, m._fallback, {wanted} "
        f"from read_parquet([{listed}], hive_partitioning = false) r "
        f"join {names} m on m.handle = r._sha"
    )


def _joined(spec: Subject, files: Sequence[LandedFile], companions: Sequence[LandedFile]) -> pl.DataFrame:
    """Main records with the columns of their companions; a companion without a main one stays."""
    join = spec.join
    assert join is not None  # noqa: S101  (only called for subjects with a join)

    def read(landed: Sequence[LandedFile]) -> pl.DataFrame:
        return pl.concat(
            [
                records_of(csv_content(file.path, spec, file.limits).text, spec).with_columns(
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
        .otherwise(pl.concat_str(pl.lit("["), "@record", pl.lit(","), "@companion_record", pl.lit("]")))
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
    """The name of a companion's column among those of the main file."""
    return f"@joined {column}"


def _write(frame: pl.DataFrame, target: Path) -> None:
    with replacing(target) as temporary:
        frame.write_parquet(temporary, compression="lz4", statistics=False)
