"""Landed files to raw records on Spark, so that no single machine holds a day's data.

Imported only where Spark is the engine. Spark reads plain and gzipped UTF-8 files itself, a file per
task (line numbers count within it). What is awkward goes through the careful reader, file by file,
and Spark reads the copy it makes: other encodings, JSON that is not one object a line, CSV with
ragged or blank lines or quoted line breaks, CSV that is joined or nested, files over 128 MB,
names that Spark would take for patterns. Either way the records are the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F  # noqa: N812

from hospital_assets.landing.content import read_content
from hospital_assets.landing.profile import Subject, canonical_columns
from hospital_assets.landing.reader import LandedFile, csv_columns, csv_copies, pieces
from hospital_assets.landing.zone import LandingResource, LandingZone
from hospital_assets.warehouse.dialect import Frame, lazy
from hospital_assets.warehouse.dialect.on_spark import from_polars, without_nan
from hospital_assets.warehouse.lake_io import SparkResource

if TYPE_CHECKING:
    Piece = tuple[Path, str, int, date | None]

_PLAIN_NAME = re.compile(r"[A-Za-z0-9._/=+-]+")
#: Larger CSV files are parsed by the careful reader; larger JSON files it cuts at line ends.
_MOST_BYTES = 128_000_000


@dataclass(frozen=True)
class SparkLandingZone(LandingZone):
    """The landing zone as Spark reads it.

    Attributes:
        session: a Spark session whose executors see the landing folder and the spool.
    """

    session: SparkSession

    def zones(self, ledger: pl.DataFrame) -> dict[str, str]:
        """As for `LandingZone`; master data is small."""
        fields = ("landing", "spool", "first", "last", "connection")
        return LandingZone(**{name: getattr(self, name) for name in fields}).zones(ledger)

    def _landed(self, files: pl.DataFrame) -> list[LandedFile]:
        # Spark unpacks what is called .gz.
        is_read_by_spark = {
            row["source_file"]: row["encoding"] == "utf-8"
            and (row["compression"] == "gzip") == row["source_file"].endswith(".gz")
            and _PLAIN_NAME.fullmatch(str(self.landing / row["source_file"])) is not None
            for row in files.iter_rows(named=True)
        }
        return [
            replace(file, is_plain=is_read_by_spark[file.source_file])
            for file in super()._landed(files)
        ]

    def _declared(self, rows: pl.DataFrame) -> Frame:
        return lazy(from_polars(self.session, rows))

    def _records(
        self,
        subject: str,
        spec: Subject,
        files: Sequence[LandedFile],
        companions: Sequence[LandedFile] = (),
    ) -> Frame:
        if spec.format == "csv":
            return lazy(_csv(self.session, subject, spec, files, companions, self.spool))
        return lazy(_json(self.session, subject, spec, files, self.spool))


class SparkLandingResource(LandingResource):
    """Brings the landing zone; the tables named read it with Spark."""

    spark: SparkResource
    tables_on_spark: list[str]

    def open(self, table: str = "") -> LandingZone:
        """The landing zone as the engine of a table reads it; without a table, as DuckDB does."""
        zone = super().open(table)
        if table not in self.tables_on_spark:
            return zone
        return SparkLandingZone(
            zone.landing,
            zone.spool,
            zone.first,
            zone.last,
            zone.connection,
            self.spark.spark_session,
        )


def _lines(session: SparkSession, read: Sequence[Piece]) -> DataFrame:
    """Lines of text files: source_file, _fallback, source_line, line.

    The last piece of text after the final line end, mostly empty, is a line here, too.
    """
    mapping = from_polars(
        session,
        pl.DataFrame(
            [(path.as_uri(), name, first, day) for path, name, first, day in read],
            schema={
                "handle": pl.String,
                "source_file": pl.String,
                "first_line": pl.Int64,
                "_fallback": pl.Date,
            },
            orient="row",
        ),
    )
    texts = session.read.text([str(path) for path, *_ in read], wholetext=True)
    handle = F.regexp_replace(F.col("_metadata.file_path"), "^file:/+", "file:///")
    return (
        texts.select(handle.alias("handle"), "value")
        .join(F.broadcast(mapping), on="handle")
        .select(
            "source_file", "_fallback", "first_line", F.posexplode(F.split("value", "\n")).alias("place", "line")
        )
        .select("source_file", "_fallback", (F.col("first_line") + F.col("place")).alias("source_line"), "line")
    )  # fmt: skip


def _json(
    session: SparkSession, subject: str, spec: Subject, files: Sequence[LandedFile], spool: Path
) -> DataFrame:
    lines = _lines(session, [piece for file in files for piece in pieces(file, spool)])
    return json_records(lines, subject, spec)


def json_records(lines: DataFrame, subject: str, spec: Subject) -> DataFrame:
    """Records of JSON lines; see `reader.json_relation`, which says what a record is.

    Args:
        lines: source_file, source_line, line, and what else is to be kept beside a record.
        subject: what they are.
        spec: how the source names its fields.
    """
    strict = without_nan(F.col("record"))
    is_sound = (
        F.ltrim("record").startswith("{")
        & F.rtrim("record").endswith("}")
        & F.try_parse_json(strict).isNotNull()
    )
    judged = (
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

    return judged.select(
        *(name for name in judged.columns if name != "_sound"),
        F.when(F.col("_sound").isNull(), "unreadable_line").alias("problem"),
        *(value(name).alias(name) for name in canonical_columns(subject)),
    )


def _csv(
    session: SparkSession,
    subject: str,
    spec: Subject,
    files: Sequence[LandedFile],
    companions: Sequence[LandedFile],
    spool: Path,
) -> DataFrame:
    """Records of CSV files; see `reader.parse_csv`, which says what a record is."""
    wanted = [
        *canonical_columns(subject),
        "source_file",
        "source_line",
        "record",
        "problem",
        "_fallback",
    ]
    frames: list[DataFrame] = []
    careful = list(files)
    if spec.join is None and not spec.payload and not spec.derived:
        regular: dict[tuple[str, ...], list[LandedFile]] = {}
        for file in files:
            if file.is_plain and file.path.stat().st_size <= _MOST_BYTES:
                regular.setdefault(_header(file.path, spec.delimiter), []).append(file)
        for header, group in regular.items():
            parsed = _parsed(session, header, spec.delimiter, group)
            awkward = {
                row[0]
                for row in parsed.where("_is_awkward").select("source_file").distinct().collect()
            }
            if len(set(header)) < len(header) or not all(header):
                awkward = {file.source_file for file in group}
            easy = {file.source_file for file in group} - awkward
            careful = [file for file in careful if file.source_file not in easy]
            if easy:
                sound = parsed.where(
                    F.col("source_file").isin(*easy) & F.col("_fields").isNotNull()
                )
                frames.append(_canonical(sound, subject, spec, header).select(*wanted))
    if careful:
        copies = csv_copies(subject, spec, careful, companions, spool)
        names = pl.DataFrame(
            [(file.sha256, file.source_file, file.fallback) for file in (*careful, *companions)],
            schema={"_sha": pl.String, "source_file": pl.String, "_fallback": pl.Date},
            orient="row",
        ).unique()
        read = session.read.parquet(*(copy.as_uri() for copy in copies))
        frames.append(
            read.join(F.broadcast(from_polars(session, names)), on="_sha").select(*wanted)
        )
    joined = frames[0]
    for frame in frames[1:]:
        joined = joined.unionByName(frame)
    return joined


def _header(path: Path, delimiter: str) -> tuple[str, ...]:
    """The header of a plain or gzipped UTF-8 CSV file."""
    if path.suffix == ".gz":
        return tuple(csv_columns(read_content(path).text, delimiter))
    with path.open(encoding="utf-8") as file:
        return tuple(csv_columns(file.readline(), delimiter))


def _parsed(
    session: SparkSession, header: Sequence[str], delimiter: str, files: Sequence[LandedFile]
) -> DataFrame:
    """Lines below the header with their fields in `_fields`, and whether they are awkward."""
    read: list[Piece] = [(file.path, file.source_file, 1, file.fallback) for file in files]
    fields = ", ".join(f"`{name.replace('`', '``')}` string" for name in header)
    options = {
        "sep": delimiter, "quote": '"', "escape": '"', "mode": "PERMISSIVE",
        "columnNameOfCorruptRecord": "_corrupt",
        # Nothing between two delimiters is null; "" is an empty text.
        "nullValue": "\u0000", "emptyValue": "",
    }  # fmt: skip
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
            (line == "") | line.contains("\r") | (quotes % 2 == 1)
            | F.col("_fields._corrupt").isNotNull() | F.col("_fields").isNull(),
        )
    )  # fmt: skip


def _canonical(parsed: DataFrame, subject: str, spec: Subject, header: Sequence[str]) -> DataFrame:
    """Parsed records under our column names; values untouched. See `reader.to_canonical`."""

    def field(name: str) -> Column:
        return F.col("_fields").getField(name)

    def value(column: str) -> Column:
        if column in spec.constants:
            return F.lit(spec.constants[column])
        found = next((name for name in spec.source_names(column) if name in header), None)
        return field(found) if found is not None else F.lit(None).cast("string")

    record = F.to_json(
        F.struct(*(field(name).alias(name) for name in header)), {"ignoreNullFields": "false"}
    )
    return parsed.select(
        "source_file", "source_line", "_fallback", record.alias("record"),
        F.lit(None).cast("string").alias("problem"),
        *(value(name).alias(name) for name in canonical_columns(subject)),
    )  # fmt: skip
