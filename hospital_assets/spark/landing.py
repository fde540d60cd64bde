"""Landed files to raw records on Spark, so that no single machine holds a day's data.

Imported only where Spark is the engine. Spark reads plain and gzipped UTF-8 files itself, a file per
task (line numbers count within it): CSV and JSON lines whose records are rows, column by column.
What is awkward goes through the careful reader of `LandingZone`, and Spark reads the Parquet copy
it makes: other encodings and formats, ragged or blank CSV lines, quoted line breaks, files over
128 MB, names that Spark would take for patterns, and profiles that join, pick, gather or derive.
Either way the records are the same.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F  # noqa: N812

from hospital_assets.landing.content import read_content
from hospital_assets.landing.headers import csv_columns
from hospital_assets.landing.profile import Profile, Subject, canonical_columns
from hospital_assets.landing.records import LandedFile
from hospital_assets.landing.zone import LandingResource, LandingZone
from hospital_assets.spark.dialect import from_polars, without_nan
from hospital_assets.spark.io_manager import SparkResource
from hospital_assets.spark.lake import Lake
from hospital_assets.warehouse.dialect import Frame, lazy

if TYPE_CHECKING:
    Piece = tuple[Path, str, int, date | None]

_PLAIN_NAME = re.compile(r"[A-Za-z0-9._/=+-]+")
_MOST_BYTES = 128_000_000
#: What a declaration may say for Spark to read its files itself.
_SIMPLE = frozenset(
    {
        "files",
        "format",
        "delimiter",
        "decimal",
        "columns",
        "required",
        "constants",
        "formats",
        "date",
        "date_from",
        "is_undated",
        "is_partial",
        "unavailable",
        "unused",
    }
)


@dataclass(frozen=True)
class SparkLandingZone(LandingZone):
    """The landing zone as Spark reads it.

    Attributes:
        session: a Spark session whose executors see the landing folder.
        lake: where the copies of awkward files go.
    """

    session: SparkSession
    lake: Lake

    @property
    def _careful(self) -> LandingZone:
        return LandingZone(**_stated(self))

    def zones(self, ledger: pl.DataFrame, profile: Profile) -> dict[str, str]:
        """As for `LandingZone`; reference data is small."""
        return self._careful.zones(ledger, profile)

    def _frames(
        self, profile: Profile, subject: str, files: pl.DataFrame, ledger: pl.DataFrame, *, for_dates: bool = False
    ) -> list[Frame]:
        spec = profile.subjects.get(subject)
        if spec is not None and _is_simple(spec):
            return super()._frames(profile, subject, files, ledger, for_dates=for_dates)
        frames = self._careful._frames(profile, subject, files, ledger, for_dates=for_dates)
        return [self._lent(frame, subject) for frame in frames]

    def _lent(self, frame: Frame, subject: str) -> Frame:
        return self.lake.lend(self.session, frame, f"raw_{subject}")

    def _relation(
        self,
        profile: Profile,
        subject: str,
        spec: Subject,
        files: Sequence[LandedFile],
        companions: Sequence[LandedFile] = (),
    ) -> Any:
        easy = [file for file in files if _is_easy(file)]
        read: list[DataFrame] = []
        if spec.format == "csv":
            parsed, easy = _csv(self.session, subject, spec, easy)
            read.extend(parsed)
        elif easy:
            pieces: list[Piece] = [(f.path, f.source_file, 1, f.fallback) for f in easy]
            read.append(json_records(_lines(self.session, pieces), subject, spec))
        awkward = [file for file in files if file not in easy]
        if awkward:
            careful = self._careful._relation(profile, subject, spec, awkward, companions)
            read.append(self._lent(lazy(careful), subject).to_native())
        joined = read[0]
        for frame in read[1:]:
            joined = joined.unionByName(frame)
        return joined


class SparkLandingResource(LandingResource):
    """Brings the landing zone; the tables named read it with Spark."""

    spark: SparkResource
    lake: str
    tables_on_spark: list[str]

    def open(self, table: str = "") -> LandingZone:
        """The landing zone as the engine of a table reads it; without a table, as DuckDB does."""
        zone = super().open(table)
        if table not in self.tables_on_spark:
            return zone
        return SparkLandingZone(**_stated(zone), session=self.spark.spark_session, lake=Lake(self.lake))


def _stated(zone: LandingZone) -> dict[str, Any]:
    """What any landing zone is made with."""
    return {field.name: getattr(zone, field.name) for field in dataclasses.fields(LandingZone) if field.init}


def _is_simple(spec: Subject) -> bool:
    """Whether a record is a row, and a column what one of its fields says."""
    names = [name for column in spec.columns for name in spec.source_names(column)]
    paths = [name for name in names if name.startswith("$.")]
    return (
        set(spec.model_dump(exclude_defaults=True)) <= _SIMPLE
        and (spec.format == "csv" or (spec.format == "jsonl" and bool(paths) and paths == names))
        and not any(re.search(r"[@=*\[]", name) for name in names)
    )


def _is_easy(file: LandedFile) -> bool:
    """Whether Spark can read a file as it is: UTF-8, not large, and .gz where it is packed."""
    if file.path.stat().st_size > _MOST_BYTES or not _PLAIN_NAME.fullmatch(str(file.path)):
        return False
    if file.is_plain:
        return file.path.suffix != ".gz"
    return file.path.suffix == ".gz" and file.is_packed


def _lines(session: SparkSession, read: Sequence[Piece]) -> DataFrame:
    """Lines of text files: source_file, _fallback, source_line, line.

    The last piece of text after the final line end, mostly empty, is a line here, too.
    """
    mapping = from_polars(
        session,
        pl.DataFrame(
            [(path.as_uri(), name, first, day) for path, name, first, day in read],
            schema={"handle": pl.String, "source_file": pl.String, "first_line": pl.Int64, "_fallback": pl.Date},
            orient="row",
        ),
    )
    texts = session.read.text([str(path) for path, *_ in read], wholetext=True)
    handle = F.regexp_replace(F.col("_metadata.file_path"), "^file:/+", "file:///")
    return (
        texts.select(handle.alias("handle"), "value")
        .join(F.broadcast(mapping), on="handle")
        .select("source_file", "_fallback", "first_line", F.posexplode(F.split("value", "\n")).alias("place", "line"))
        .select("source_file", "_fallback", (F.col("first_line") + F.col("place")).alias("source_line"), "line")
    )


def json_records(lines: DataFrame, subject: str, spec: Subject) -> DataFrame:
    """Records of JSON lines; `json_records` says what a record is.

    Args:
        lines: source_file, source_line, line, and what else is to be stored with a record.
    """
    strict = without_nan(F.col("record"))
    is_sound = (
        F.ltrim("record").startswith("{") & F.rtrim("record").endswith("}") & F.try_parse_json(strict).isNotNull()
    )
    validated = (
        lines.withColumnRenamed("line", "record")
        .withColumn("record", F.regexp_replace("record", "\r+$", ""))
        .where(F.regexp_replace("record", "[ \t\r]", "") != "")
        .withColumn("_sound", F.when(is_sound, strict))
    )

    def value(column: str) -> Column:
        if column in spec.constants:
            return F.lit(spec.constants[column])
        found = [F.get_json_object("_sound", path) for path in spec.source_names(column)]
        return F.coalesce(*found) if found else F.lit(None).cast("string")

    return validated.select(
        *(name for name in validated.columns if name != "_sound"),
        F.lit(1).cast("bigint").alias("source_part"),
        F.when(F.col("_sound").isNull(), "unreadable_line").alias("problem"),
        *(value(name).alias(name) for name in canonical_columns(subject)),
    )


def _csv(
    session: SparkSession, subject: str, spec: Subject, files: Sequence[LandedFile]
) -> tuple[list[DataFrame], list[LandedFile]]:
    """Records of CSV files, `csv_records.parse_csv` says what one is, and the files they are of."""
    frames: list[DataFrame] = []
    taken: list[LandedFile] = []
    by_header: dict[tuple[str, ...], list[LandedFile]] = {}
    for file in files:
        by_header.setdefault(_header(file.path, spec.delimiter), []).append(file)
    for header, group in by_header.items():
        if len(set(header)) < len(header) or not all(header):
            continue
        parsed = _parsed(session, header, spec.delimiter, group)
        found = parsed.where("_is_awkward").select("source_file").distinct().collect()
        awkward = {row[0] for row in found}
        easy = [file for file in group if file.source_file not in awkward]
        if easy:
            names = [file.source_file for file in easy]
            sound = parsed.where(F.col("source_file").isin(names))
            frames.append(_canonical(sound, subject, spec, header))
            taken.extend(easy)
    return frames, taken


def _header(path: Path, delimiter: str) -> tuple[str, ...]:
    """The header of a plain or gzipped UTF-8 CSV file."""
    if path.suffix == ".gz":
        return tuple(csv_columns(read_content(path).text, delimiter))
    with path.open(encoding="utf-8") as file:
        return tuple(csv_columns(file.readline(), delimiter))


def _parsed(session: SparkSession, header: Sequence[str], delimiter: str, files: Sequence[LandedFile]) -> DataFrame:
    """Lines below the header with their fields in `_fields`, and whether they are awkward."""
    read: list[Piece] = [(file.path, file.source_file, 1, file.fallback) for file in files]
    fields = ", ".join(f"`{name.replace('`', '``')}` string" for name in header)
    options = {
        "sep": delimiter,
        "quote": '"',
        "escape": '"',
        "mode": "PERMISSIVE",
        "columnNameOfCorruptRecord": "_corrupt",
        # Nothing between two delimiters is null; "" is an empty text.
        "nullValue": "\u0000",
        "emptyValue": "",
    }
    line = F.col("line")
    last = F.max("source_line").over(Window.partitionBy("source_file"))
    quotes = F.length(line) - F.length(F.replace(line, F.lit('"'), F.lit("")))
    is_end = (F.col("source_line") == F.col("_last")) & (line == "")
    return (
        _lines(session, read)
        .withColumn("_last", last)
        .where((F.col("source_line") > 1) & ~is_end)
        .withColumn("_fields", F.from_csv(line, F.lit(f"{fields}, _corrupt string"), options))
        .withColumn(
            "_is_awkward",
            (line == "")
            | (line == delimiter * (len(header) - 1))
            | line.contains("\r")
            | (quotes % 2 == 1)
            | F.col("_fields._corrupt").isNotNull()
            | F.col("_fields").isNull(),
        )
    )


def _canonical(parsed: DataFrame, subject: str, spec: Subject, header: Sequence[str]) -> DataFrame:
    """Parsed records under our column names; values untouched."""

    def field(name: str) -> Column:
        return F.col("_fields").getField(name)

    def value(column: str) -> Column:
        if column in spec.constants:
            return F.lit(spec.constants[column])
        found = next((name for name in spec.source_names(column) if name in header), None)
        return field(found) if found is not None else F.lit(None).cast("string")

    record = F.to_json(F.struct(*(field(name).alias(name) for name in header)), {"ignoreNullFields": "false"})
    return parsed.select(
        "source_file",
        "source_line",
        "_fallback",
        record.alias("record"),
        F.lit(1).cast("bigint").alias("source_part"),
        F.lit(None).cast("string").alias("problem"),
        *(value(name).alias(name) for name in canonical_columns(subject)),
    )
