"""The IO manager as Dagster uses it, column lineage, and the event log."""

import os
import sqlite3
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from hospital_assets.assets.declare import table
from hospital_assets.automation.instance import dagster_instance
from hospital_assets.contracts import CONTRACTS
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import Period, open_warehouse
from hospital_assets.warehouse.dialect import Frame, checkpoint
from hospital_assets.warehouse.io_manager import WarehouseIOManager, WarehouseResource
from hospital_assets.warehouse.lineage import column_sources, lineage_of
from hospital_assets_tests.processes import until

DAYS = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-11")
SHIFTS = CONTRACTS["fact_doctor_shifts"]
RANGE = {"dagster/asset_partition_range_start": "2026-01-01", "dagster/asset_partition_range_end": "2026-01-04"}


def shift(number: int, day: int) -> dict[str, Any]:
    return {
        "service_date": date(2026, 1, day),
        "shift_id": f"S{number}",
        "doctor_key": 1,
        "hospital_key": 1,
        "start_date_key": 20260101,
        "shift_start_at": None,
        "shift_end_at": None,
        "shift_hours": 8.0,
    }


def frame(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=SHIFTS.polars_schema)


def shifts_asset(rows: pl.DataFrame | None) -> dg.AssetsDefinition:
    @dg.asset(name="fact_doctor_shifts", partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
    def asset(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]
        if rows is None:
            return None
        keys = [date.fromisoformat(key) for key in context.partition_keys]
        return rows.filter(pl.col("service_date").is_in(keys))

    return asset


@pytest.fixture
def resources(tmp_path: Path) -> dict[str, Any]:
    warehouse = WarehouseResource(database=str(tmp_path / "hospital.duckdb"), wait_seconds=5)
    return {"io_manager": WarehouseIOManager(warehouse=warehouse), "warehouse": warehouse}


def materialized(result: dg.ExecuteInProcessResult) -> dict[str | None, dict[str, Any]]:
    """Metadata by partition."""
    return {
        event.partition: {name: value.value for name, value in event.materialization.metadata.items()}
        for event in result.get_asset_materialization_events()
    }


def test_a_range_is_one_write_and_each_day_has_its_count(resources: dict[str, Any], tmp_path: Path) -> None:
    rows = frame(shift(1, 1), shift(2, 1), shift(3, 3), shift(9, 8))
    result = dg.materialize([shifts_asset(rows)], resources=resources, tags=RANGE)
    found = materialized(result)
    counts = {key: found[key]["dagster/partition_row_count"] for key in found}
    assert counts == {"2026-01-01": 2, "2026-01-02": 0, "2026-01-03": 1, "2026-01-04": 0}
    assert [key for key in found if "preview" in found[key]] == ["2026-01-04"]
    with open_warehouse(tmp_path / "hospital.duckdb") as warehouse:
        assert warehouse.count(SHIFTS) == 3


def test_a_day_written_again_replaces_that_day(resources: dict[str, Any], tmp_path: Path) -> None:
    dg.materialize([shifts_asset(frame(shift(1, 1), shift(2, 2)))], resources=resources, tags=RANGE)
    again = dg.materialize(
        [shifts_asset(frame(shift(5, 2), shift(6, 2)))], resources=resources, partition_key="2026-01-02"
    )
    assert materialized(again)["2026-01-02"]["dagster/partition_row_count"] == 2
    with open_warehouse(tmp_path / "hospital.duckdb") as warehouse:
        stored = warehouse.read(SHIFTS).collect("polars").to_native()
    assert sorted(stored["shift_id"].to_list()) == ["S1", "S5", "S6"]


def downstream(kind: type) -> dg.AssetsDefinition:
    def body(fact_doctor_shifts):  # type: ignore[no-untyped-def]
        assert isinstance(fact_doctor_shifts, kind)
        named = fact_doctor_shifts if kind is pl.DataFrame else fact_doctor_shifts.collect("polars")
        seen.append(len(named))

    body.__annotations__["fact_doctor_shifts"] = kind
    return dg.asset(name="seen", partitions_def=DAYS, io_manager_key="mem")(body)


seen: list[int] = []


@pytest.mark.parametrize("kind", [Frame, pl.DataFrame], ids=["lazy", "polars"])
def test_an_input_is_the_runs_days_as_the_kind_asked_for(resources: dict[str, Any], kind: type) -> None:
    seen.clear()
    dg.materialize(
        [shifts_asset(frame(shift(1, 1), shift(2, 2), shift(3, 2))), downstream(kind)],
        resources={**resources, "mem": dg.mem_io_manager},
        partition_key="2026-01-02",
    )
    assert seen == [2]


def said(result: dg.ExecuteInProcessResult) -> str:
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    return str(failure.step_failure_data.error)


def test_a_missing_table_names_the_asset_to_materialise(resources: dict[str, Any]) -> None:
    job = dg.Definitions(
        [shifts_asset(frame()), downstream(pl.DataFrame)],
        jobs=[dg.define_asset_job("only_seen", "seen")],
        resources={**resources, "mem": dg.mem_io_manager},
    ).resolve_job_def("only_seen")
    result = job.execute_in_process(partition_key="2026-01-02", raise_on_error=False)
    assert "materialise the asset 'fact_doctor_shifts' first" in said(result)


def test_an_asset_that_returns_nothing_is_told_so(resources: dict[str, Any]) -> None:
    result = dg.materialize([shifts_asset(None)], resources=resources, partition_key="2026-01-02", raise_on_error=False)
    assert "fact_doctor_shifts: the asset returned nothing; return a frame" in said(result)


def test_the_file_is_closed_and_checkpoints_are_gone_when_a_run_ends(resources: dict[str, Any], tmp_path: Path) -> None:
    left: list[str] = []

    @dg.asset(name="dim_time")
    def with_checkpoint(warehouse: WarehouseResource) -> Frame:
        return checkpoint(source(warehouse))

    @dg.asset(name="dim_triage")
    def looks(dim_time: Frame, warehouse: WarehouseResource) -> pl.DataFrame:
        connection = warehouse.open().connection
        left.extend(
            name for (name,) in connection.execute("select table_name from duckdb_tables() where temporary").fetchall()
        )
        return pl.DataFrame(schema=CONTRACTS["dim_triage"].polars_schema)

    def source(warehouse: WarehouseResource) -> Frame:
        from hospital_assets.warehouse.dialect import lazy

        empty = pl.DataFrame(schema=CONTRACTS["dim_time"].polars_schema)
        opened = warehouse.open()
        opened.connection.register("nothing", empty)
        return lazy(opened.connection.table("nothing"))

    dg.materialize([with_checkpoint, looks], resources=resources)
    assert left == []
    # Nobody holds it: another process could open it now.
    with open_warehouse(tmp_path / "hospital.duckdb", wait_seconds=0) as warehouse:
        assert warehouse.exists(CONTRACTS["dim_triage"])


# Twelve steps at once -----------------------------------------------------------------------------

TWELVE = sorted(name for name, c in CONTRACTS.items() if not c.partitioned)[:12]


def empty_table(name: str) -> dg.AssetsDefinition:
    @dg.asset(name=name)
    def asset() -> pl.DataFrame:
        return pl.DataFrame(schema=CONTRACTS[name].polars_schema)

    return asset


def twelve_steps() -> dg.JobDefinition:
    warehouse = WarehouseResource(database=os.environ["TWELVE_STEPS_FILE"], wait_seconds=120)
    return dg.Definitions(
        [empty_table(name) for name in TWELVE],
        jobs=[dg.define_asset_job("twelve")],
        resources={"io_manager": WarehouseIOManager(warehouse=warehouse), "warehouse": warehouse},
        executor=dg.multiprocess_executor.configured({"max_concurrent": 12}),
    ).resolve_job_def("twelve")


@pytest.mark.nightly
def test_twelve_parallel_steps_all_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "hospital.duckdb"
    monkeypatch.setenv("TWELVE_STEPS_FILE", str(file))
    with (
        dg.DagsterInstance.local_temp(str(tmp_path)) as instance,
        dg.execute_job(dg.reconstructable(twelve_steps), instance) as result,
    ):
        assert result.success
    with open_warehouse(file) as warehouse:
        assert all(warehouse.exists(CONTRACTS[name]) for name in TWELVE)


# Lineage ------------------------------------------------------------------------------------------


def test_lineage_names_the_base_columns_behind_a_column() -> None:
    sources = column_sources(
        "with v as (select visit_id, arrival_at as a, triage_at from cleaned.cleaned_er_visits) "
        "select visit_id, least(a, triage_at) as first_at, count(*) over () as n, 1 as one from v",
        {},
    )
    table = "cleaned_er_visits"
    assert sources["visit_id"] == ((table, "visit_id"),)
    assert sources["first_at"] == ((table, "arrival_at"), (table, "triage_at"))
    assert sources["one"] == ()


def test_lineage_looks_through_checkpoints() -> None:
    inner = "select visit_id as v, department_name as d from cleaned.cleaned_er_visits"
    outer = "select v || d as label from (select * from temp.main.checkpoint_999001) as t"
    assert column_sources(outer, {"checkpoint_999001": inner})["label"] == (
        ("cleaned_er_visits", "department_name"),
        ("cleaned_er_visits", "visit_id"),
    )


def test_lineage_is_stated_by_the_definition_and_by_each_run(resources: dict[str, Any]) -> None:
    lineage = lineage_of(SHIFTS)
    assert lineage is not None
    (dep,) = lineage.deps_by_column["doctor_key"]
    assert (dep.asset_key.path[-1], dep.column_name) == ("dim_doctor", "doctor_key")
    result = dg.materialize([shifts_asset(frame(shift(1, 1)))], resources=resources, tags=RANGE)
    stated = [
        e.materialization.metadata.get("dagster/column_lineage") for e in result.get_asset_materialization_events()
    ]
    assert [found.value for found in stated if found] == [lineage]
    assert table(SHIFTS.name)["metadata"]["dagster/column_lineage"] == lineage
    assert lineage_of(CONTRACTS["raw_vitals"]) is None


# The event log ------------------------------------------------------------------------------------


def test_a_check_over_a_range_counts_for_each_of_its_days(tmp_path: Path) -> None:
    passes = [True]

    @dg.asset_check(asset="fact_doctor_shifts", name="fits", partitions_def=DAYS)
    def fits() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=passes[-1], metadata={"finding": "x" * 1000})

    @dg.asset(name="fact_doctor_shifts", partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
    def nothing() -> None: ...

    key = dg.AssetCheckKey(dg.AssetKey("fact_doctor_shifts"), "fits")

    def statuses() -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for info in instance.event_log_storage.get_asset_check_partition_info([key]):
            assert info.is_current
            found.setdefault(info.latest_execution_status.value, []).append(info.partition_key or "")
        return {status: sorted(days) for status, days in found.items()}

    with dagster_instance(Settings(tmp_path)) as instance:
        dg.materialize([nothing, fits], instance=instance, tags=RANGE)
        assert statuses() == {"SUCCEEDED": [f"2026-01-0{n}" for n in range(1, 5)]}
        passes.append(False)
        dg.materialize([nothing, fits], instance=instance, partition_key="2026-01-02")
        assert statuses() == {"FAILED": ["2026-01-02"], "SUCCEEDED": ["2026-01-01", "2026-01-03", "2026-01-04"]}
        history = instance.event_log_storage.get_asset_check_execution_history(key, limit=9)
        texts = [record.event for record in history if record.event]
        # The findings are kept once per run, not once per day.
        assert sum("x" * 1000 in str(text) for text in texts) == 2


def test_events_stored_together_are_what_dagster_reads_back(tmp_path: Path) -> None:
    days = [f"2026-01-{n:02d}" for n in range(1, 11)]

    @dg.asset(partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
    def much() -> None: ...

    everything = {"dagster/asset_partition_range_start": days[0], "dagster/asset_partition_range_end": days[-1]}
    with dagster_instance(Settings(tmp_path)) as instance:
        result = dg.materialize([much], instance=instance, tags=everything)
        assert instance.get_materialized_partitions(much.key) == set(days)
        records = instance.fetch_materializations(much.key, limit=100).records
        assert sorted(r.partition_key or "" for r in records) == days
        in_run = instance.all_logs(result.run_id, of_type={dg.DagsterEventType.ASSET_MATERIALIZATION})
        assert len(in_run) == 10


def test_an_event_waits_a_second_at_most_for_others_to_be_stored_with(tmp_path: Path) -> None:
    with dagster_instance(Settings(tmp_path)) as instance:
        run = instance.create_run_for_job(job_def=dg.GraphDefinition(name="nothing").to_job())
        instance.report_engine_event("it goes on", run)
        file = tmp_path / "dagster" / "history" / "runs" / f"{run.run_id}.db"

        def stored() -> int:
            """As another process sees it."""
            with suppress(sqlite3.OperationalError), sqlite3.connect(f"file:{file}?mode=ro", uri=True) as connection:
                return int(connection.execute("select count(*) from event_logs").fetchone()[0])
            return 0

        until(stored)
        assert stored() == 1
        # And the next one, too.
        instance.report_engine_event("and on", run)
        until(lambda: stored() == 2)


def test_events_that_cannot_be_stored_are_not_lost_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with dagster_instance(Settings(tmp_path)) as instance:
        run = instance.create_run_for_job(job_def=dg.GraphDefinition(name="nothing").to_job())
        storage = instance.event_log_storage
        with monkeypatch.context() as full:
            full.setattr(storage, "run_connection", lambda _: (_ for _ in ()).throw(OSError("disk full")))
            instance.report_engine_event("it goes on", run)
            with pytest.raises(OSError, match="disk full"):
                instance.report_run_failed(run)
        assert "it goes on" in str(instance.all_logs(run.run_id))


def test_reading_back_gives_what_was_written(resources: dict[str, Any], tmp_path: Path) -> None:
    rows = frame(shift(1, 1), shift(2, 2))
    dg.materialize([shifts_asset(rows)], resources=resources, tags=RANGE)
    with open_warehouse(tmp_path / "hospital.duckdb") as warehouse:
        period = Period(date(2026, 1, 1), date(2026, 1, 1) + timedelta(days=2))
        stored = warehouse.read(SHIFTS, period).collect("polars").to_native()
    assert_frame_equal(stored, rows, check_row_order=False, check_column_order=False)
