"""The dialect on Spark; what each function does is described in `warehouse.dialect`.

Imported by those who have a Spark frame only. The session's time zone must be UTC: then casting
between Spark's TIMESTAMP (an instant) and TIMESTAMP_NTZ (a wall clock) changes no figure.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import narwhals as nw
import polars as pl
from narwhals._spark_like.expr import SparkLikeExpr
from narwhals._spark_like.expr_dt import SparkLikeExprDateTimeNamespace
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812  (as everybody calls it)
from pyspark.sql import types as T  # noqa: N812

from hospital_assets.warehouse.dialect import add_engine
from hospital_assets.warehouse.dialect.frames import (
    HAS_OFFSET,
    ISO,
    LAST_SHORT_YEAR,
    OFFSET,
    SOURCE_COLUMN,
    Formats,
    Frame,
    lazy,
    states_year,
)

#: What is readable as a number everywhere; Java's own reader would also take `1d` and `0x1p3`.
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
#: strptime directive -> Java pattern, between separators and next to another directive.
_JAVA = {
    "%Y": ("yyyy", "yyyy"),
    "%y": ("yy", "yy"),
    "%m": ("M", "MM"),
    "%d": ("d", "dd"),
    "%H": ("H", "HH"),
    "%M": ("m", "mm"),
    "%S": ("s", "ss"),
    "%I": ("h", "hh"),
    "%p": ("a", "a"),
    "%b": ("MMM", "MMM"),
    "%B": ("MMMM", "MMMM"),
    "%f": ("SSSSSS", "SSSSSS"),
}

_TYPES: Mapping[type[pl.DataType], type[T.DataType]] = {
    pl.String: T.StringType,
    pl.Boolean: T.BooleanType,
    pl.Int8: T.ByteType,
    pl.Int16: T.ShortType,
    pl.Int32: T.IntegerType,
    pl.Int64: T.LongType,
    pl.Float32: T.FloatType,
    pl.Float64: T.DoubleType,
    pl.Date: T.DateType,
    pl.Null: T.NullType,
}

#: Frames that `checkpoint` keeps, until the step that made them is over.
_checkpoints: list[DataFrame] = []


# What Narwhals (2.28) does not do on Spark, and our transforms need.


def _total_microseconds(self: SparkLikeExprDateTimeNamespace) -> object:
    """The length of a day-time interval."""

    def total(interval: Column) -> Column:
        def part(name: str) -> Column:
            return F.extract(F.lit(name), interval)

        minutes = (part("DAY").cast("bigint") * 24 + part("HOUR")) * 60 + part("MINUTE")
        return minutes * 60_000_000 + (part("SECOND") * 1_000_000).cast("bigint")

    return self.compliant._with_elementwise(total)


def _first(self: SparkLikeExpr, value: Column, *order_by: str) -> Column:
    """The value of the first row in an order."""
    return F.min_by(value, F.struct(*order_by))


SparkLikeExprDateTimeNamespace.total_microseconds = _total_microseconds  # type: ignore[assignment]
SparkLikeExpr._first = _first  # type: ignore[method-assign,assignment]


def spark_type(dtype: pl.DataType) -> T.DataType:
    """The Spark type that holds a Polars type without loss.

    Raises:
        TypeError: no contract may use this type.
    """
    if isinstance(dtype, pl.Datetime):
        return T.TimestampType() if dtype.time_zone else T.TimestampNTZType()
    if isinstance(dtype, pl.List):
        inner = dtype.inner
        return T.ArrayType(spark_type(inner() if isinstance(inner, type) else inner))
    if isinstance(dtype, pl.Decimal):
        return T.DecimalType(dtype.precision or 38, dtype.scale)
    try:
        return _TYPES[type(dtype)]()
    except KeyError:
        raise TypeError(f"no Spark type for the Polars type {dtype}") from None


def schema_of(schema: Mapping[str, pl.DataType]) -> T.StructType:
    """A Polars schema as Spark's."""
    return T.StructType([T.StructField(name, spark_type(dtype)) for name, dtype in schema.items()])


def from_polars(session: SparkSession, frame: pl.DataFrame) -> DataFrame:
    """A Polars frame in Spark, with its types."""
    return session.createDataFrame(frame.to_arrow(), schema_of(frame.schema))


def duckdb_types(frame: DataFrame) -> dict[str, str]:
    """Column -> the DuckDB type that its Spark type is."""
    return {field.name: _duckdb_type(field.dataType) for field in frame.schema}


def _duckdb_type(kind: T.DataType) -> str:
    if isinstance(kind, T.ArrayType):
        return f"{_duckdb_type(kind.elementType)}[]"
    if isinstance(kind, T.DecimalType):
        return f"DECIMAL({kind.precision},{kind.scale})"
    names = {
        "string": "VARCHAR",
        "tinyint": "TINYINT",
        "smallint": "SMALLINT",
        "int": "INTEGER",
        "timestamp": "TIMESTAMP WITH TIME ZONE",
        "timestamp_ntz": "TIMESTAMP",
        "void": '"NULL"',
    }
    return names.get(kind.simpleString(), kind.simpleString().upper())


def _native(frame: Frame) -> DataFrame:
    native: DataFrame = nw.to_native(frame)
    return native


def _with(frame: Frame, columns: Mapping[str, Column]) -> Frame:
    return lazy(_native(frame).withColumns(dict(columns)))


def _col(name: str) -> Column:
    return F.col(f"`{name}`")


def parse_numbers(frame: Frame, columns: Mapping[str, str]) -> Frame:
    def number(source: str) -> Column:
        text = F.trim(_col(source))
        value = F.when(text.rlike(_NUMBER), text.try_cast("double"))
        return F.when(F.abs(value) < F.lit(float("inf")), value)

    return _with(frame, {out: number(source) for out, source in columns.items()})


def parse_dates(frame: Frame, columns: Mapping[str, str], formats: Formats) -> Frame:
    return _with(
        frame, {out: _first_format(F.trim(_col(src)), src, formats).cast("date") for out, src in columns.items()}
    )


def _first_format(text: Column, column: str, formats: Formats) -> Column:
    """The first reading that succeeds, by the formats of the column, and of the row's source."""
    none = F.lit(None).cast("timestamp")
    if not isinstance(formats, Mapping):
        return F.coalesce(*(_strptime(text, known) for known in formats), none)
    return F.coalesce(
        *(
            F.when(_col(SOURCE_COLUMN) == source, F.coalesce(*(_strptime(text, pattern) for pattern in known), none))
            for source, known in formats.get(column, {}).items()
        ),
        none,
    )


def _strptime(text: Column, pattern: str) -> Column:
    """The wall clock (as an instant in UTC) that a text states in a strptime format, or null."""
    java = ""
    place = 0
    was_directive = False
    known, pattern = pattern, pattern.replace("%-", "%")
    while place < len(pattern):
        directive = pattern[place : place + 2]
        if directive in _JAVA:
            meets_another = was_directive or pattern[place + 2 : place + 4] in _JAVA
            java += _JAVA[directive][meets_another]
            place, was_directive = place + 2, True
        else:
            letter = pattern[place]
            if letter == "%":
                raise ValueError(f"no Spark pattern for {directive} in the format {known}")
            java += f"'{letter}'" if letter.isalpha() else letter
            place, was_directive = place + 1, False
    read = F.try_to_timestamp(F.when(text.rlike(states_year(known)), text), F.lit(java))
    if "%y" not in known:
        return read
    # Java's two digits are of this century.
    is_late = F.year(read) > LAST_SHORT_YEAR
    return F.when(is_late, read - F.make_ym_interval(F.lit(100))).otherwise(read)


def parse_wall_clocks(frame: Frame, columns: Mapping[str, str], formats: Formats) -> Frame:
    # Step by step, because Spark computes what stands in several places of a condition anew in each.
    endings: dict[str, Column] = {}
    unzoned: dict[str, Column] = {}
    parsed: dict[str, Column] = {}
    for out, src in columns.items():
        text = F.trim(_col(src))
        endings[f"{out}_ending"] = F.when(text.rlike(HAS_OFFSET), F.regexp_extract(text, f"({OFFSET})", 1)).otherwise(
            ""
        )
        ending, bare = _col(f"{out}_ending"), _col(out)
        unzoned[out] = F.trim(F.left(text, F.length(text) - F.length(ending)))
        iso = F.when(bare.rlike(ISO), bare.try_cast("timestamp_ntz"))
        parsed[out] = F.coalesce(iso, _first_format(bare, src, formats).cast("timestamp_ntz"))
        figures = F.replace(F.substring(ending, 2, 5), F.lit(":"))
        minutes = F.left(figures, F.lit(2)).cast("int") * 60 + F.right(figures, F.lit(2)).cast("int")
        parsed[f"{out}_offset_minutes"] = (
            F.when(ending == "", None)
            .when(F.upper(ending) == "Z", 0)
            .otherwise(F.when(ending.startswith("-"), -1).otherwise(1) * minutes)
            .cast("int")
        )
    return _with(_with(_with(frame, endings), unzoned), parsed).drop(*endings)


def plus_minutes(frame: Frame, clocks: Mapping[str, str]) -> Frame:
    def later(clock: str, minutes: str) -> Column:
        microseconds = F.round(_col(minutes) * 60_000_000).cast("bigint")
        # Seconds as a decimal keep all of them.
        return _col(clock) + F.make_dt_interval(secs=(microseconds / F.lit(1_000_000)).cast("decimal(18,6)"))

    return _with(frame, {clock: later(clock, minutes) for clock, minutes in clocks.items()})


def without_nan(text: Column) -> Column:
    """JSON text whose NaN and Infinity, which many writers produce and JSON lacks, are strings."""
    quoted_nan = F.regexp_replace(text, r"([:\[,]\s*)(-?(?:NaN|Infinity))\b", '$1"$2"')
    may_have_some = text.contains("NaN") | text.contains("Infinity")
    is_strict = ~may_have_some | F.get_json_object(text, "$").isNotNull()
    return F.when(is_strict, text).otherwise(quoted_nan)


#: Many writers produce NaN, which is read as the text it is; Spark puts it into quotes.
_ANY_NUMBER = {"allowNonNumericNumbers": "true"}
_QUOTED_NAN = r'^"(-?(?:NaN|Infinity))"$'


def json_fields(frame: Frame, column: str, fields: Mapping[str, str]) -> Frame:
    # One schema for all paths: the text of a record is parsed once, not once per field.
    below = {out: path.removeprefix("$.") for out, path in fields.items()}
    schema = _schema_of_paths([path.split(".") for path in below.values()])
    parsed = _with(frame, {"_found": F.from_json(_col(column), schema, _ANY_NUMBER)})
    found = {out: F.regexp_replace(F.col(f"_found.{path}"), _QUOTED_NAN, "$1") for out, path in below.items()}
    return _with(parsed, found).drop("_found")


def json_rows(frame: Frame, column: str, items: str, fields: Sequence[str]) -> Frame:
    item = T.StructType([T.StructField(name, T.StringType()) for name in fields])
    schema = T.StructType([T.StructField(items, T.ArrayType(item))])
    parsed = _native(_with(frame, {"_found": F.from_json(_col(column), schema, _ANY_NUMBER)})).drop(column)
    rows = lazy(parsed.withColumn("_item", F.explode(F.col(f"_found.{items}"))).drop("_found"))
    return _with(rows, {name: F.col(f"_item.{name}") for name in fields}).drop("_item")


def _schema_of_paths(paths: Sequence[Sequence[str]]) -> T.StructType:
    """Objects in objects, as deep as the paths, with texts at their ends."""
    below: dict[str, list[Sequence[str]]] = {}
    for first, *rest in paths:
        below.setdefault(first, []).append(rest)
    return T.StructType(
        [T.StructField(name, _schema_of_paths(rest) if all(rest) else T.StringType()) for name, rest in below.items()]
    )


def hash_keys(frame: Frame, keys: Mapping[str, Sequence[str]]) -> Frame:
    def key(parts: Sequence[str]) -> Column:
        joined = _col(parts[0])
        for part in parts[1:]:
            joined = F.concat(joined, F.lit("|"), _col(part))
        return F.conv(F.left(F.md5(joined), F.lit(15)), 16, 10).cast("bigint")

    return _with(frame, {out: key(parts) for out, parts in keys.items()})


def checkpoint(frame: Frame) -> Frame:
    """Keep the rows once they are computed; an executor that is lost has them computed anew."""
    kept = _native(frame).persist()
    _checkpoints.append(kept)
    return lazy(kept)


def forget_checkpoints() -> None:
    """Let go of what `checkpoint` kept."""
    while _checkpoints:
        _checkpoints.pop().unpersist()


def resolve_instants(frame: Frame, instants: Mapping[str, str], zone: str) -> Frame:
    # An hour repeats, or half of one; no change of a clock is longer than three hours.
    after = F.expr("interval 3 hours")
    first: dict[str, Column] = {}
    rest: dict[str, Column] = {}
    for out, clock in instants.items():
        local, offset = _col(clock), _col(f"{clock}_offset_minutes")
        written = local.cast("timestamp") - F.make_dt_interval(mins=offset)
        # Java reads a repeated hour the first time, and a skipped one by the old offset.
        read = F.to_utc_timestamp(local.cast("timestamp"), _col(zone))
        first[out] = F.when(offset.isNotNull(), written).otherwise(read)

        def shown(instant: Column) -> Column:
            return F.from_utc_timestamp(instant, _col(zone)).cast("timestamp_ntz")

        # By the offset of some time after it, it is read the second time.
        second = F.to_utc_timestamp((local + after).cast("timestamp"), _col(zone)) - after
        rest[f"{out}_second"] = F.when(offset.isNull() & (shown(second) == local), second).otherwise(_col(out))
        rest[f"{out}_is_missing"] = F.coalesce(offset.isNull() & (shown(_col(out)) != local), F.lit(False))
    return _with(_with(frame, first), rest)


def local_clocks(frame: Frame, clocks: Mapping[str, str], zone: str) -> Frame:
    return _with(
        frame, {out: F.from_utc_timestamp(_col(src), _col(zone)).cast("timestamp_ntz") for out, src in clocks.items()}
    )


def join_valid(frame: Frame, versions: Frame, on: str, at: str, valid: tuple[str, str]) -> Frame:
    left, right = _native(frame).alias("lhs"), _native(versions).alias("rhs")
    (start, end), moment = (F.col(f"rhs.`{name}`") for name in valid), F.col(f"lhs.`{at}`")
    is_of = F.col(f"lhs.`{on}`") == F.col(f"rhs.`{on}`")
    joined = left.join(right, is_of & (moment >= start) & (moment < end), "left")
    return lazy(joined.select("lhs.*", *(F.col(f"rhs.`{n}`") for n in right.columns if n not in (on, *valid))))


def explode_hours(frame: Frame, start: str, end: str, hour: str) -> Frame:
    hours = F.sequence(
        F.date_trunc("hour", _col(start)), _col(end) - F.expr("interval 1 microsecond"), F.expr("interval 1 hour")
    )
    return _with(frame.filter(nw.col(end) > nw.col(start)), {hour: F.explode(hours)})


def explode_days(frame: Frame, first: str, last: str, day: str) -> Frame:
    days = F.sequence(_col(first), _col(last), F.expr("interval 1 day"))
    return _with(frame.filter(nw.col(last) >= nw.col(first)), {day: F.explode(days)})


add_engine(nw.Implementation.PYSPARK, sys.modules[__name__])
