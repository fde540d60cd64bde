"""The lake: all or nothing, also when the writer is killed; every engine reads the same rows."""

from __future__ import annotations

import sys
import time
from datetime import date
from pathlib import Path

import duckdb
import narwhals as nw
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from hospital_assets.contracts import CONTRACTS
from hospital_assets.spark.lake import Lake
from hospital_assets.warehouse.database import Period, SchemaMismatchError, Warehouse
from hospital_assets.warehouse.dialect import Frame, lazy
from hospital_assets.warehouse.errors import WarehouseError
from hospital_assets_tests.engines import spark_session
from hospital_assets_tests.processes import QUIET, started, until
from hospital_assets_tests.test_delta import odd_rows_of, same_bits

pytestmark = pytest.mark.nightly

FLOW = CONTRACTS["kpi_department_flow_daily"]
WHOLE = Period(date(2026, 1, 1), date(2026, 1, 4))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def flow(*days: int, stays: int = 1) -> pl.DataFrame:
    """A row per day; other columns hold something of their type."""
    rows = []
    for day in days:
        row: dict[str, object] = {}
        for column in FLOW.columns:
            value = "x" if column.dtype == pl.String else stays if column.dtype.is_numeric() else True
            row[column.name] = None if column.nullable else value
        rows.append({**row, "service_date": date(2026, 1, day), "department_id": f"D{day}"})
    return pl.DataFrame(rows, schema=FLOW.polars_schema)


def stored(lake: Lake) -> pl.DataFrame:
    """As DuckDB reads it."""
    connection = duckdb.connect()
    connection.execute("set TimeZone = 'UTC'")
    return connection.sql(lake.select_statement(FLOW)).pl().sort("service_date")


def on_spark(frame: pl.DataFrame) -> Frame:
    from hospital_assets.spark.dialect import from_polars

    return lazy(from_polars(spark_session(), frame))


def test_days_are_replaced_and_both_engines_read_the_same(lake: Lake) -> None:
    session = spark_session()
    assert lake.replace(session, FLOW, on_spark(flow(1, 2, 3)), WHOLE) == 3
    second = Period(date(2026, 1, 2), date(2026, 1, 3))
    assert lake.replace(session, FLOW, on_spark(flow(2, stays=7)), second) == 1
    expected = pl.concat([flow(1), flow(2, stays=7), flow(3)])
    assert_frame_equal(stored(lake), expected)
    read = lake.read(session, FLOW, None).collect("polars").to_native()
    assert_frame_equal(read.sort("service_date"), expected)
    only = lake.read(session, FLOW, second).collect("polars").to_native()
    assert_frame_equal(only, flow(2, stays=7))
    # An empty frame empties the days, and nothing else.
    assert lake.replace(session, FLOW, on_spark(flow()), second) == 0
    assert_frame_equal(stored(lake), pl.concat([flow(1), flow(3)]))


def test_a_table_never_written_says_what_to_do(lake: Lake) -> None:
    with pytest.raises(WarehouseError, match="materialise the asset 'kpi_department_flow_daily'"):
        lake.read(spark_session(), FLOW, None)


@pytest.mark.parametrize(
    ("frame", "error", "said"),
    [
        (flow(1).drop("department_id"), SchemaMismatchError, ""),
        (flow(1).with_columns(colour=pl.lit("red")), SchemaMismatchError, ""),
        (flow(1).with_columns(department_id=pl.lit(1.5)), SchemaMismatchError, ""),
        (flow(1, 9), WarehouseError, "1 of 2 rows"),
        (flow(1).with_columns(service_date=pl.lit(None, pl.Date)), WarehouseError, "1 of 1 rows"),
    ],
)
def test_what_does_not_fit_changes_nothing(lake: Lake, frame: pl.DataFrame, error: type[Exception], said: str) -> None:
    session = spark_session()
    lake.replace(session, FLOW, on_spark(flow(1)), WHOLE)
    with pytest.raises(error, match=f"kpi_department_flow_daily: .*{said}"):
        lake.replace(session, FLOW, on_spark(frame), WHOLE)
    assert_frame_equal(stored(lake), flow(1))


def test_a_job_that_fails_midway_leaves_the_old_rows(lake: Lake) -> None:
    session = spark_session()
    lake.replace(session, FLOW, on_spark(flow(1, 2)), WHOLE)
    from pyspark.sql import functions as F  # noqa: N812

    broken = on_spark(flow(1, 2, 3)).to_native()
    # The third row cannot be computed; the first two may already be in files.
    broken = broken.withColumn(
        "department_name", F.when(F.col("department_id") == "D3", F.raise_error(F.lit("no"))).otherwise("x")
    )
    from pyspark.errors import PySparkException

    with pytest.raises(PySparkException):
        lake.replace(session, FLOW, lazy(broken), WHOLE)
    assert_frame_equal(stored(lake), flow(1, 2))


def test_a_reader_keeps_its_version_while_the_next_is_written(lake: Lake) -> None:
    session = spark_session()
    lake.replace(session, FLOW, on_spark(flow(1, 2)), WHOLE)
    statement = lake.select_statement(FLOW)
    lazily = lake.read(session, FLOW, None)
    lake.replace(session, FLOW, on_spark(flow(3)), WHOLE)
    assert duckdb.sql(statement).pl().height == 2
    assert lazily.select(nw.len()).collect("polars").item() == 2
    assert_frame_equal(stored(lake), flow(3))


KILLED = """
import sys, time
from hospital_assets.spark.lake import Lake
from hospital_assets_tests import test_lake as t
lake = Lake(sys.argv[1])
print("ready", flush=True)
t.spark_session()
while True:
    for n in range(2, 6):
        lake.replace(t.spark_session(), t.FLOW, t.on_spark(t.flow(1, 2, 3, stays=n)), t.WHOLE)
"""


def test_a_killed_writer_leaves_a_whole_version(lake: Lake) -> None:
    lake.replace(spark_session(), FLOW, on_spark(flow(1, 2, 3)), WHOLE)
    log = Path(lake.root, "kpis", FLOW.name, "_delta_log")
    first = len(list(log.glob("*.json")))
    command = [sys.executable, "-c", KILLED, lake.root]
    with started(command, cwd=Path(__file__).parents[1], start_new_session=True, **QUIET) as writer:
        until(lambda: len(list(log.glob("*.json"))) > first, writer)
        # From here on one write follows the other; whenever it dies, one whole version stands.
        time.sleep(0.137)
    rows = stored(lake)
    assert rows["service_date"].to_list() == [date(2026, 1, day) for day in (1, 2, 3)]
    number = next(c.name for c in FLOW.columns if c.dtype == pl.Int64)
    assert rows[number].n_unique() == 1
    # The next write goes through.
    lake.replace(spark_session(), FLOW, on_spark(flow(1)), WHOLE)
    assert_frame_equal(stored(lake), flow(1))


def test_types_and_odd_numbers_of_every_contract_survive(lake: Lake) -> None:
    """Instants, wall clocks, lists, JSON, numbers that are none: as they went in, written and read by Spark."""
    period = Period(date(2026, 1, 1), date(2026, 1, 10))
    for contract in CONTRACTS.values():
        frame = odd_rows_of(contract)
        lake.replace(spark_session(), contract, on_spark(frame), period if contract.partitioned else None)
        same_bits(pl.scan_delta(lake.address(contract)).select(contract.column_names).collect(), frame)
        same_bits(lake.read(spark_session(), contract, None).collect("polars").to_native(), frame)


def test_the_warehouse_shows_what_is_in_the_lake(lake: Lake, warehouse: Warehouse) -> None:
    lake.replace(spark_session(), FLOW, on_spark(flow(1, 2)), WHOLE)
    warehouse.replace(FLOW, lazy(flow(3)), WHOLE)  # what DuckDB had stored before
    warehouse.show(FLOW, lake.select_statement(FLOW))
    assert warehouse.count(FLOW) == 2
    assert warehouse.count(FLOW, Period(date(2026, 1, 2), date(2026, 1, 3))) == 1
    with pytest.raises(WarehouseError, match="stored in the lake"):
        warehouse.replace(FLOW, lazy(flow(3)), WHOLE)
    warehouse.drop(FLOW)
    warehouse.replace(FLOW, lazy(flow(3)), WHOLE)
    assert warehouse.count(FLOW) == 1


def test_duckdb_takes_over_a_whole_table_from_the_lake(lake: Lake, warehouse: Warehouse) -> None:
    contract = CONTRACTS["dim_triage"]
    row = {c.name: None for c in contract.columns} | {
        "triage_key": 1,
        "scale": "ESI",
        "level_name": "1",
        "is_critical": True,
    }
    frame = pl.DataFrame([row, row], schema=contract.polars_schema)
    lake.replace(spark_session(), contract, on_spark(frame), None)
    warehouse.show(contract, lake.select_statement(contract))

    def fail(_: duckdb.DuckDBPyConnection) -> None:
        raise OSError("no bookkeeping today")

    with pytest.raises(OSError, match="no bookkeeping"):
        warehouse.replace(contract, lazy(frame[:1]), also=fail)
    assert warehouse.is_view(contract) and warehouse.count(contract) == 2
    warehouse.replace(contract, lazy(frame[:1]))
    assert not warehouse.is_view(contract) and warehouse.count(contract) == 1
