"""The warehouse: all-or-nothing writes by name and by the contract's types."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from hospital_assets.contracts import CONTRACTS, Table, fields
from hospital_assets.contracts.table import duckdb_type
from hospital_assets.warehouse.database import (
    Period,
    SchemaMismatchError,
    Warehouse,
    WarehouseLockedError,
    open_warehouse,
)
from hospital_assets.warehouse.dialect import lazy
from hospital_assets.warehouse.errors import WarehouseError, redacted

SHIFTS = CONTRACTS["fact_doctor_shifts"]
HOSPITALS = CONTRACTS["dim_hospital"]
DAY_1, DAY_2 = date(2026, 1, 1), date(2026, 1, 2)
ONE_DAY = Period(DAY_1, DAY_2)
TWO_DAYS = Period(DAY_1, date(2026, 1, 3))


def shifts(day: date, count: int, hours: float = 8.0, prefix: str = "s") -> pl.DataFrame:
    return pl.DataFrame(
        {
            "service_date": [day] * count,
            "shift_id": [f"{prefix}{day}-{n}" for n in range(count)],
            "doctor_key": range(count),
            "hospital_key": [1] * count,
            "department_key": [1] * count,
            "start_date_key": [20260101] * count,
            "shift_start_at": [datetime(2026, 1, 1, 7, tzinfo=UTC)] * count,
            "shift_end_at": [datetime(2026, 1, 1, 15, tzinfo=UTC)] * count,
            "shift_hours": [hours] * count,
            "recorded_at": [datetime(2025, 12, 25, tzinfo=UTC)] * count,
        },
        schema=SHIFTS.polars_schema,
    )


def stored(warehouse: Warehouse, period: Period | None = None) -> pl.DataFrame:
    frame = warehouse.read(SHIFTS, period).collect("polars").to_native()
    return frame.sort("service_date", "shift_id")


def with_two_days(warehouse: Warehouse) -> None:
    both = pl.concat([shifts(DAY_1, 3), shifts(DAY_2, 2)])
    warehouse.replace(SHIFTS, lazy(both), TWO_DAYS)


def test_replacing_a_day_leaves_its_neighbours(warehouse: Warehouse) -> None:
    with_two_days(warehouse)
    written = warehouse.replace(SHIFTS, lazy(shifts(DAY_1, 1, 12.0, "n")), ONE_DAY)
    assert written.rows == 1
    assert stored(warehouse)["shift_hours"].to_list() == [12.0, 8.0, 8.0]


def test_writing_twice_changes_nothing(warehouse: Warehouse) -> None:
    with_two_days(warehouse)
    before = stored(warehouse)
    with_two_days(warehouse)
    assert_frame_equal(stored(warehouse), before)


def test_an_empty_frame_empties_its_day_only(warehouse: Warehouse) -> None:
    warehouse.replace(SHIFTS, lazy(shifts(DAY_1, 0)), ONE_DAY)
    assert warehouse.count(SHIFTS) == 0  # the table exists, also after a first empty write
    with_two_days(warehouse)
    warehouse.replace(SHIFTS, lazy(shifts(DAY_1, 0)), ONE_DAY)
    assert stored(warehouse)["service_date"].unique().to_list() == [DAY_2]


def test_what_says_that_all_is_done_comes_last(warehouse: Warehouse) -> None:
    done: list[str] = []
    with warehouse.transaction():
        warehouse.after_commit("ledger", lambda: done.append("ledger"), is_last=True)
        warehouse.after_commit("copy", lambda: done.append("copy"))
        assert done == []
    assert done == ["copy", "ledger"]
    warehouse.after_commit("copy", lambda: done.append("at once"))
    assert done[2:] == ["at once"]


def test_columns_are_stored_by_name(warehouse: Warehouse) -> None:
    frame = shifts(DAY_1, 2).with_columns(doctor_key=pl.lit(70), hospital_key=pl.lit(95))
    frame = frame.with_columns(pl.col("doctor_key", "hospital_key").cast(pl.Int64))
    warehouse.replace(SHIFTS, lazy(frame.select(reversed(frame.columns))), ONE_DAY)
    assert stored(warehouse)["doctor_key"].to_list() == [70, 70]
    assert stored(warehouse)["hospital_key"].to_list() == [95, 95]


# What the stock DuckDB IO manager stores wrongly, or refuses only after the old rows are gone.
DRIFT = {
    "renamed column": lambda f: f.rename({"shift_hours": "hours"}),
    "missing column": lambda f: f.drop("hospital_key"),
    "extra column": lambda f: f.with_columns(extra=1),
    "float into BIGINT": lambda f: f.with_columns(doctor_key=pl.lit(70.7)),
    "numeric text into BIGINT": lambda f: f.with_columns(doctor_key=pl.lit("71")),
    "text into BIGINT": lambda f: f.with_columns(doctor_key=pl.lit("abc")),
    "naive clock into instant": lambda f: f.with_columns(pl.col("shift_start_at").dt.replace_time_zone(None)),
    "boolean into BIGINT": lambda f: f.with_columns(doctor_key=pl.lit(True)),
    "date into text": lambda f: f.with_columns(shift_id=pl.col("service_date")),
}


@pytest.mark.parametrize("drift", DRIFT.values(), ids=DRIFT)
def test_drift_is_refused_and_the_old_rows_stay(warehouse: Warehouse, drift: object) -> None:
    with_two_days(warehouse)
    before = stored(warehouse)
    with pytest.raises(SchemaMismatchError, match="fact_doctor_shifts.*nothing was written"):
        warehouse.replace(SHIFTS, lazy(drift(shifts(DAY_1, 4))), ONE_DAY)  # type: ignore[operator]
    assert_frame_equal(stored(warehouse), before)


def test_widening_integers_and_sums_are_taken(warehouse: Warehouse) -> None:
    narrow = shifts(DAY_1, 2).with_columns(pl.col("doctor_key").cast(pl.Int16))
    warehouse.replace(SHIFTS, lazy(narrow), ONE_DAY)
    summed = warehouse.connection.sql(
        "select * replace ((select sum(doctor_key) from facts.fact_doctor_shifts) as doctor_key) "
        "from facts.fact_doctor_shifts"
    )
    assert "HUGEINT" in [str(t) for t in summed.types]
    # The sum reads the table itself, so it is evaluated before its rows are replaced.
    materialised = lazy(summed.pl().with_columns(pl.col("doctor_key").cast(pl.Int64)))
    warehouse.replace(SHIFTS, materialised, ONE_DAY)
    assert stored(warehouse)["doctor_key"].to_list() == [1, 1]


def test_an_all_null_first_partition_keeps_the_contracts_types(warehouse: Warehouse) -> None:
    contract = CONTRACTS["fact_bed_occupancy"]
    row = dict.fromkeys(contract.column_names) | {"service_date": DAY_1}
    warehouse.replace(contract, lazy(pl.DataFrame([row], schema=contract.polars_schema)), ONE_DAY)
    types = dict(
        warehouse.connection.execute(
            "select column_name, data_type from duckdb_columns() where table_name = ?", [contract.name]
        ).fetchall()
    )
    assert types["department_id"] == "VARCHAR"
    assert types["hour_start_at"] == "TIMESTAMP WITH TIME ZONE"


def test_rows_outside_the_period_are_refused(warehouse: Warehouse) -> None:
    with_two_days(warehouse)
    before = stored(warehouse)
    for foreign in (shifts(date(2026, 1, 5), 1), shifts(DAY_1, 1).with_columns(service_date=None)):
        frame = pl.concat([shifts(DAY_1, 1), foreign.cast(SHIFTS.polars_schema)])  # type: ignore[arg-type]
        with pytest.raises(WarehouseError, match="1 of 2 rows"):
            warehouse.replace(SHIFTS, lazy(frame), ONE_DAY)
        assert_frame_equal(stored(warehouse), before)


def test_a_failing_plan_keeps_the_old_rows_and_shows_no_value(warehouse: Warehouse) -> None:
    with_two_days(warehouse)
    before = stored(warehouse)
    secret = "Jane Doe 4711"  # noqa: S105
    columns = ", ".join(c for c in SHIFTS.column_names if c != "doctor_key")
    failing = warehouse.connection.sql(
        f"select {columns}, cast('{secret}' || shift_id as bigint) as doctor_key from "
        "(values (date '2026-01-01', 's', 1, 1, 1, now(), now(), 1.0::double, now())) "
        "t(service_date, shift_id, hospital_key, department_key, start_date_key, shift_start_at, shift_end_at, "
        "shift_hours, recorded_at)"
    )
    with pytest.raises(WarehouseError, match="fact_doctor_shifts.*unchanged") as raised:
        warehouse.replace(SHIFTS, lazy(failing), ONE_DAY)
    assert "Jane" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert_frame_equal(stored(warehouse), before)
    with_two_days(warehouse)  # the connection is still of use


def test_redacted_errors_keep_columns_and_drop_values() -> None:
    error = duckdb.ConversionException(
        'Could not convert string "Jane 1234567" in column "doctor_key"\nInput: {"name": "Jane"}'
    )
    said = redacted(error)
    assert "doctor_key" in said
    assert "Jane" not in said
    assert "1234567" not in said


def test_reading_a_table_that_was_never_written_names_the_asset(warehouse: Warehouse) -> None:
    with pytest.raises(WarehouseError, match="materialise the asset 'dim_hospital' first"):
        warehouse.read(HOSPITALS)


# Crashes -----------------------------------------------------------------------------------------

CHILD = """
import os, signal, sys
from datetime import date
from pathlib import Path
import duckdb, polars as pl
sys.path.insert(0, {root!r})
from hospital_assets.warehouse import database
from hospital_assets.warehouse.database import Period, open_warehouse
from hospital_assets.warehouse.dialect import lazy
from hospital_assets_tests.test_warehouse import SHIFTS, DAY_1, ONE_DAY, TWO_DAYS, shifts

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

where = {where!r}
with open_warehouse(Path({file!r})) as warehouse:
    frame = lazy(shifts(DAY_1, 50_000, 12.0, "n"))
    insert = database._insert
    if where == "between delete and insert":
        database._insert = die
    elif where == "in mid-insert":
        def row(n: int) -> int:
            if n > 40_000:
                die()
            return n
        warehouse.connection.create_function("row_or_die", row, ["BIGINT"], "BIGINT")
        base = warehouse.connection.from_arrow(shifts(DAY_1, 50_000, 12.0, "n").to_arrow())
        frame = lazy(base.query("b", "select * replace (row_or_die(doctor_key) as doctor_key) from b"))
    elif where == "before commit":
        def after(*arguments):
            insert(*arguments)
            die()
        database._insert = after
    warehouse.replace(SHIFTS, frame, ONE_DAY if {partitioned!r} else None)
print("survived")
"""


@pytest.mark.fast_as("mid-insert-True", "commit-False")
@pytest.mark.parametrize("partitioned", [True, False])
@pytest.mark.parametrize("where", ["between delete and insert", "in mid-insert", "before commit"])
def test_kill_9_keeps_the_old_rows(tmp_path: Path, where: str, partitioned: bool) -> None:
    file = tmp_path / "hospital.duckdb"
    with open_warehouse(file) as warehouse:
        with_two_days(warehouse)
        before = stored(warehouse)
    root = str(Path(__file__).parents[1])
    script = CHILD.format(root=root, file=str(file), where=where, partitioned=partitioned)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert "survived" not in done.stdout
    with open_warehouse(file, wait_seconds=5) as warehouse:
        assert_frame_equal(stored(warehouse), before)
        warehouse.replace(SHIFTS, lazy(shifts(DAY_1, 4)), ONE_DAY)
        assert warehouse.count(SHIFTS, ONE_DAY) == 4


# Locks -------------------------------------------------------------------------------------------


def _hold(file: str, foreign: bool, ready: object, seconds: float) -> None:
    if foreign:
        connection = duckdb.connect(file)
        ready.set()  # type: ignore[attr-defined]
        time.sleep(seconds)
        connection.close()
        return
    with open_warehouse(Path(file)):
        ready.set()  # type: ignore[attr-defined]
        time.sleep(seconds)


def _holder(file: Path, foreign: bool, seconds: float) -> multiprocessing.process.BaseProcess:
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Event()
    process = spawn.Process(target=_hold, args=(str(file), foreign, ready, seconds), daemon=True)
    process.start()
    assert ready.wait(300)
    return process


@pytest.mark.parametrize("foreign", [False, True], ids=["our lock", "a foreign connection"])
def test_a_second_process_waits_its_turn_and_says_for_whom(tmp_path: Path, foreign: bool) -> None:
    file = tmp_path / "hospital.duckdb"
    with open_warehouse(file):
        pass
    holder = _holder(file, foreign, 600)
    said: list[str] = []
    with (
        pytest.raises(WarehouseLockedError, match=f"process {holder.pid}"),
        open_warehouse(file, wait_seconds=0.5, say=said.append),
    ):
        pass
    assert said and str(holder.pid) in said[0]
    # Whoever holds it and dies does not hold it any longer.
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join(60)
    with open_warehouse(file, wait_seconds=5) as warehouse:
        with_two_days(warehouse)


def _write_one(file: str, number: int) -> None:
    with open_warehouse(Path(file), wait_seconds=300) as warehouse:
        day = date(2026, 1, 1 + number)
        warehouse.replace(SHIFTS, lazy(shifts(day, 10)), Period(day, date(2026, 1, 2 + number)))


@pytest.mark.nightly
def test_twelve_processes_at_once_all_write(tmp_path: Path) -> None:
    file = tmp_path / "hospital.duckdb"
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write_one, args=(str(file), n)) for n in range(12)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(100)
    assert [writer.exitcode for writer in writers] == [0] * 12
    with open_warehouse(file) as warehouse:
        assert warehouse.count(SHIFTS) == 120


def test_users_within_a_process_share_one_connection(tmp_path: Path) -> None:
    file = tmp_path / "hospital.duckdb"
    with open_warehouse(file) as first, open_warehouse(file) as second:
        assert first.connection is second.connection
    with pytest.raises(duckdb.ConnectionException):
        first.connection.execute("select 1")


# Types -------------------------------------------------------------------------------------------


class EveryType(Table, name="every_type", layer="facts", grain="one row", key=("id",)):
    """A column of every type that contracts use."""

    id = fields.whole("Key.")
    text = fields.text("Text.", nullable=True)
    flag = fields.flag("Flag.", nullable=True)
    small = fields.Field(pl.Int16, "Small.", nullable=True)
    middle = fields.Field(pl.Int32, "Middle.", nullable=True)
    real = fields.real("Real.", nullable=True)
    day = fields.day("Day.", nullable=True)
    instant = fields.instant("Instant.", nullable=True)
    clock = fields.wall_clock("Clock.", nullable=True)
    days = fields.days("Days.", nullable=True)


_dates = st.dates(date(1800, 1, 1), date(2299, 12, 31))
_clocks = st.datetimes(datetime(1800, 1, 1), datetime(2299, 12, 31))
_rows = st.lists(
    st.tuples(
        st.none() | st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00")),
        st.none() | st.booleans(),
        st.none() | st.integers(-(2**15), 2**15 - 1),
        st.none() | st.integers(-(2**31), 2**31 - 1),
        st.none() | st.floats(allow_nan=False, allow_infinity=False),
        st.none() | _dates,
        st.none() | _clocks.map(lambda c: c.replace(tzinfo=UTC)),
        st.none() | _clocks,
        st.none() | st.lists(_dates, max_size=3),
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=_rows)
def test_every_type_survives_the_round_trip(warehouse: Warehouse, rows: list[tuple]) -> None:  # type: ignore[type-arg]
    contract = EveryType.contract()
    frame = pl.DataFrame([(n, *row) for n, row in enumerate(rows)], schema=contract.polars_schema, orient="row")
    warehouse.replace(contract, lazy(frame))
    read = warehouse.read(contract).collect("polars").to_native().sort("id")
    read = read.with_columns(pl.col("instant").dt.convert_time_zone("UTC"))
    assert_frame_equal(read.select(frame.columns), frame)


def test_types_that_would_not_survive_cannot_be_declared() -> None:
    for dtype in (pl.Duration("us"), pl.Categorical(), pl.Object()):
        with pytest.raises(TypeError, match="do not support"):
            duckdb_type(dtype)


# Evolution ---------------------------------------------------------------------------------------


def test_a_new_nullable_column_is_null_in_history(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wider(SHIFTS.model, name="fact_doctor_shifts", layer="facts", grain="x", key=("shift_id",), partitioned=True):  # type: ignore[misc, name-defined]
        """Shifts with a note."""

        note = fields.text("A note.", nullable=True)

    with_two_days(warehouse)
    warehouse._known_tables.clear()
    wider = Wider.contract()
    frame = shifts(DAY_1, 1).with_columns(note=pl.lit("new"))
    warehouse.replace(wider, lazy(frame), ONE_DAY)
    notes = warehouse.read(wider).sort("service_date").select("note").collect("polars").to_native()
    assert notes["note"].to_list() == ["new", None, None]


def test_a_stored_table_that_differs_is_refused_with_the_remedy(warehouse: Warehouse) -> None:
    warehouse.connection.execute("create table facts.fact_doctor_shifts (service_date date, shift_id integer)")
    with pytest.raises(WarehouseError, match="hospital build --rebuild fact_doctor_shifts"):
        with_two_days(warehouse)
    warehouse.drop(SHIFTS)
    with_two_days(warehouse)
    assert warehouse.count(SHIFTS) == 5


def test_rows_by_partition_key(warehouse: Warehouse) -> None:
    with_two_days(warehouse)
    keys = ["2026-01-01", "2026-01-02", "2026-01-03"]
    assert warehouse.count_by_key(SHIFTS, keys) == {"2026-01-01": 3, "2026-01-02": 2, "2026-01-03": 0}


def test_variant_payloads_come_back_as_json(warehouse: Warehouse) -> None:
    from hospital_assets.warehouse.dialect import json_fields

    contract = CONTRACTS["raw_vitals"]
    row = dict.fromkeys(contract.column_names)
    row |= {
        "service_date": DAY_1,
        "source_profile": "native",
        "source_file": "f",
        "source_line": 1,
        "source_part": 1,
        "payload": '{"heart_rate": {"value": 88, "unit": "/min"}, "pain": null}',
    }
    warehouse.replace(contract, lazy(pl.DataFrame([row], schema=contract.polars_schema)), ONE_DAY)
    read = json_fields(
        warehouse.read(contract), "payload", {"hr": "$.heart_rate.value", "pain": "$.pain", "none": "$.x"}
    )
    assert read.select("hr", "pain", "none").collect("polars").to_native().rows() == [("88", None, None)]
