"""The engines transforms are tested on, each as a function that brings a Polars frame to it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import duckdb
import polars as pl
import pytest

from hospital_assets.spark.session import SparkUnavailableError, start_session
from hospital_assets.warehouse.database import scratch_connection
from hospital_assets.warehouse.dialect import Frame, lazy

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Engine = Callable[[pl.DataFrame], Frame]


@functools.cache
def _connection() -> duckdb.DuckDBPyConnection:
    return scratch_connection()


_numbers = itertools.count()


def _on_duckdb(frame: pl.DataFrame) -> Frame:
    name = f"t{next(_numbers)}"
    _connection().register("given", frame)
    _connection().execute(f"create table {name} as from given")
    return lazy(_connection().table(name))


#: With a handful of rows most of the time goes into planning and compiling plans.
TINY = {
    "spark.sql.shuffle.partitions": "1",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
}


def spark_session() -> SparkSession:
    """The session that all tests of this process share."""
    try:
        return start_session("local[2]", TINY)
    except SparkUnavailableError as missing:
        pytest.skip(str(missing))


def _on_spark(frame: pl.DataFrame) -> Frame:
    from hospital_assets.spark.dialect import from_polars

    return lazy(from_polars(spark_session(), frame))


#: The engines every machine has.
ENGINES: dict[str, Engine] = {"polars": lambda frame: lazy(frame), "duckdb": _on_duckdb}
ALL_ENGINES: dict[str, Engine] = {**ENGINES, "spark": _on_spark}
#: Their names, for what takes seconds to plan on DuckDB: there it is slow.
DUCKDB_SLOW = ["polars", pytest.param("duckdb", marks=pytest.mark.slow)]
