"""The upkeep of the lake: fewer files, the same rows, an audit, and views that follow."""

from __future__ import annotations

import json
import os
from datetime import date
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from deltalake import DeltaTable
from polars.testing import assert_frame_equal

from hospital_assets.access.audit import read_entries
from hospital_assets.assets.mirror import mirror_assets
from hospital_assets.automation.instance import dagster_instance
from hospital_assets.automation.lake import lake_schedule, maintain
from hospital_assets.automation.sensors import mirror_sensor
from hospital_assets.definitions import build_definitions
from hospital_assets.recovery.mirror import mirror, mirror_of
from hospital_assets.settings import MirrorSettings, Settings
from hospital_assets.warehouse.database import open_warehouse
from hospital_assets.warehouse.delta import KEPT_DAYS, DeltaTables
from hospital_assets.warehouse.dialect import lazy
from hospital_assets.warehouse.errors import WarehouseError
from hospital_assets.warehouse.io_manager import WarehouseResource
from hospital_assets.warehouse.loads import ledger_copy
from hospital_assets_tests.test_delta import FLOW, WHOLE, live, put, rows_of, stored


def two_files_a_day(lake: DeltaTables) -> None:
    folder = lake.new_folder()
    for part in (1, 2):
        path = Path(lake.address(FLOW), folder, "service_date=2026-01-02", f"{part}.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        rows_of(FLOW, 2, number=part).drop("service_date").write_parquet(path)
    lake.replace_files(FLOW, folder, WHOLE)


def age(lake: DeltaTables, days: int) -> None:
    """Let the log say that files were replaced days earlier than they were."""
    for entry in Path(lake.address(FLOW), "_delta_log").glob("*.json"):
        lines = [json.loads(line) for line in entry.read_text().splitlines()]
        for line in lines:
            if "remove" in line:
                line["remove"]["deletionTimestamp"] -= days * 86_400_000
        entry.write_text("\n".join(map(json.dumps, lines)) + "\n")


def test_small_files_go_and_old_ones_after_the_kept_days(tmp_path: Path) -> None:
    settings = Settings(tmp_path, first_service_date=date(2026, 1, 1))
    lake = DeltaTables(str(tmp_path / "lake"))
    two_files_a_day(lake)
    old = live(lake)
    with open_warehouse(settings.warehouse_file) as warehouse:
        warehouse.show(FLOW, lake.select_statement(FLOW))
    assert maintain(settings, lake, [FLOW.name, "kpi_waits_daily"]) == {"spared_files": 1, "deleted_files": 0}
    assert all(Path(lake.address(FLOW), path).exists() for path in old)
    # Replaced long ago: age the files and what the log says of them.
    age(lake, KEPT_DAYS + 1)
    assert maintain(settings, lake, [FLOW.name]) == {"spared_files": 0, "deleted_files": 2}
    assert not any(Path(lake.address(FLOW), path).exists() for path in old)
    with open_warehouse(settings.warehouse_file) as warehouse:
        assert warehouse.count(FLOW) == 2
    assert stored(lake, FLOW)["patients_count"].sort().to_list() == [1, 2]
    audited = read_entries(settings).filter(pl.col("action") == "lake")
    assert audited.height == 4 and set(audited["outcome"]) == {"allowed"}


def test_the_schedule_runs_it(tmp_path: Path) -> None:
    settings = Settings(tmp_path, first_service_date=date(2026, 1, 1))
    lake = DeltaTables(str(tmp_path / "lake"))
    two_files_a_day(lake)
    before = stored(lake, FLOW)
    job = lake_schedule(settings, [(lake, [FLOW.name])]).job
    assert isinstance(job, dg.JobDefinition)
    assert job.execute_in_process().success
    assert len(live(lake)) == 1
    assert_frame_equal(stored(lake, FLOW), before, check_row_order=False)


def test_what_was_built_is_mirrored_once_it_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(tmp_path)
    sensor = mirror_sensor(settings)
    with dagster_instance(settings) as instance:

        def asked() -> str:
            answer = sensor(dg.build_sensor_context(instance))
            if isinstance(answer, dg.SkipReason):
                return str(answer.skip_message)
            assert isinstance(answer, dg.RunRequest) and answer.run_key
            return answer.run_key

        assert "nothing was built" in asked()
        instance.report_runless_asset_event(dg.AssetMaterialization("kpi_waits_rolling"))
        first = asked()
        assert first.startswith("mirror what was built at") and asked() == first
        # A clock was ahead then.
        with monkeypatch.context() as patched:
            patched.setattr("dagster._time._mockable_get_current_timestamp", lambda: 9e9)
            instance.report_runless_asset_event(dg.AssetMaterialization("delta_mirror"))
        assert "nothing was built" in asked()
        instance.report_runless_asset_event(dg.AssetMaterialization("kpi_conditions"))
        assert first != (second := asked()) and second.startswith("mirror what")
        # Whoever loaded was killed before it had reported what it built.
        instance.report_runless_asset_event(dg.AssetMaterialization("delta_mirror"))
        assert "nothing was built" in asked()
        loaded = ledger_copy(settings.warehouse_file)
        loaded.parent.mkdir(parents=True)
        loaded.touch()
        os.utime(loaded, (2e9, 2e9))
        killed = asked()
        assert killed not in (first, second) and killed.startswith("mirror what") and asked() == killed


def test_the_asset_mirrors_and_says_what_it_wrote(tmp_path: Path) -> None:
    settings = Settings(tmp_path, mirror=MirrorSettings("mirror"))
    with open_warehouse(settings.warehouse_file) as warehouse:
        warehouse.replace(FLOW, lazy(rows_of(FLOW, 1, 2)), WHOLE)
    (asset,) = mirror_assets(settings)
    resources = {"warehouse": WarehouseResource(database=str(settings.warehouse_file))}
    done = dg.materialize([asset], resources=resources)
    (event,) = done.asset_materializations_for_node("delta_mirror")
    assert event.metadata["rows"].value == 2
    with open_warehouse(settings.warehouse_file) as warehouse:
        warehouse.replace(FLOW, lazy(rows_of(FLOW, 1)), WHOLE)
        warehouse.connection.execute(f"update {FLOW.qualified_name} set patients_count = null")
    assert not dg.materialize([asset], resources=resources, raise_on_error=False).success


def test_a_file_that_is_gone_from_the_mirror_is_said_and_comes_back(tmp_path: Path) -> None:
    settings = Settings(tmp_path, mirror=MirrorSettings("mirror"))
    tables = mirror_of(settings)
    names = [FLOW.name, "fact_vitals"]
    with open_warehouse(settings.warehouse_file) as warehouse:
        warehouse.replace(FLOW, lazy(rows_of(FLOW, 1, 2)), WHOLE)
        mirror(settings, warehouse)
        before = stored(tables, FLOW)
    assert maintain(settings, tables, names) == {"spared_files": 0, "deleted_files": 0}
    Path(tables.address(FLOW), live(tables)[0]).unlink()
    with pytest.raises(WarehouseError, match=f"{FLOW.name}: 1 of its files are gone"):
        maintain(settings, tables, names)
    with open_warehouse(settings.warehouse_file) as warehouse:
        assert mirror(settings, warehouse).whole == [FLOW.name]
    assert_frame_equal(stored(tables, FLOW), before, check_row_order=False)
    assert maintain(settings, tables, names)["spared_files"] == 0


def test_writing_goes_on_after_it(tmp_path: Path) -> None:
    settings = Settings(tmp_path, first_service_date=date(2026, 1, 1))
    lake = DeltaTables(str(tmp_path / "lake"))
    two_files_a_day(lake)
    maintain(settings, lake, [FLOW.name])
    put(lake, FLOW, rows_of(FLOW, 1, 3))
    assert_frame_equal(stored(lake, FLOW), rows_of(FLOW, 1, 3))


def test_the_mirror_is_kept_for_as_long_as_its_settings_say(tmp_path: Path) -> None:
    settings = Settings(tmp_path, mirror=MirrorSettings("mirror", kept_days=2))
    with open_warehouse(settings.warehouse_file) as warehouse:
        for number in (1, 2):
            warehouse.replace(FLOW, lazy(rows_of(FLOW, 1, 2, number=number)), WHOLE)
            mirror(settings, warehouse)
    tables = mirror_of(settings)
    assert tables.kept_days == 2
    two_files_a_day(tables)
    old = len(list(Path(tables.address(FLOW)).rglob("*.parquet")))
    definitions = build_definitions(settings)
    job = definitions.resolve_job_def("lake_maintenance")
    assert job.execute_in_process().success
    assert len(live(tables)) == 1 and len(list(Path(tables.address(FLOW)).rglob("*.parquet"))) == old + 1
    assert tables.versions(FLOW)[-1].cause == "small files put together"
    age(tables, 3)
    assert job.execute_in_process().success
    assert len(list(Path(tables.address(FLOW)).rglob("*.parquet"))) == 1
    for kept_days in (2, 30):
        DeltaTables(tables.root, kept_days).vacuum(FLOW)
        configuration = DeltaTable(tables.address(FLOW)).metadata().configuration
        assert configuration["delta.logRetentionDuration"] == f"interval {kept_days} days"
    put(tables, FLOW, rows_of(FLOW, 1))
    assert {"delta_mirror"} == {k.path[-1] for k in definitions.resolve_asset_graph().get_all_asset_keys()} - {
        k.path[-1] for k in build_definitions(Settings(tmp_path)).resolve_asset_graph().get_all_asset_keys()
    }
