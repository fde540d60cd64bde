"""Upgrades: a directory as an older release left it becomes what a clean build makes, or is refused."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import duckdb
import pytest
from alembic.script import ScriptDirectory
from dagster._core.storage.runs import sqlite
from dagster._core.storage.sql import get_alembic_config

from hospital_assets import directory
from hospital_assets.access.audit import read_entries
from hospital_assets.automation.build import BuildReport, publish
from hospital_assets.automation.instance import dagster_instance
from hospital_assets.automation.upgrade import Plan, UpgradeError, _upgrade_history, plan_upgrade, undo, upgrade
from hospital_assets.checks.findings import newest_results
from hospital_assets.checks.table_checks import every_kind
from hospital_assets.cli import _OF_ANY_VERSION, main
from hospital_assets.contracts import CONTRACTS
from hospital_assets.definitions import build_definitions
from hospital_assets.directory import DirectoryVersion, DirectoryVersionError, version_of, write_version
from hospital_assets.publishing.pseudonyms import KEY_VARIABLE
from hospital_assets.publishing.publications import current_version
from hospital_assets.recovery.snapshots import snapshots
from hospital_assets.settings import Settings, write_settings
from hospital_assets.simulator import simulate
from hospital_assets.warehouse.database import WarehouseLockedError, open_warehouse, stored_columns
from hospital_assets_tests.dashboards import KEY
from hospital_assets_tests.helpers import copy_of, query, run, tables, warehouse_copy
from hospital_assets_tests.processes import QUIET, hospital, started

FIRST, LAST = date(2026, 3, 6), date(2026, 3, 9)
NOW = datetime(2026, 3, 14, 9, 0, tzinfo=UTC)
#: What an older release stored otherwise, as SQL.
OLDER = {
    "a column less": "alter table kpis.kpi_waits drop column wait_median_minutes",
    "a required column less": "alter table kpis.kpi_procedures drop column visit_count",
    "a column more": "alter table kpis.kpi_length_of_stay add column old_name varchar",
    "another type": "alter table facts.fact_bed_occupancy alter patients_at_start_count type varchar",
    "a table less": "drop table kpis.kpi_returns",
    "another name": "alter table dimensions.dim_time rename to dim_clock",
    "results of another shape": "alter table quality.dq_results drop column denominator_count",
    "a ledger of another shape": "alter table raw.raw_landed_files alter file_bytes type varchar",
    "JSON as VARIANT": "create or replace table raw.raw_vitals as "
    "select * replace (cast(payload as json)::variant as payload) from raw.raw_vitals",
}


def made_older(settings: Settings, *names: str) -> None:
    """Change stored tables to what a release before could have written."""
    with duckdb.connect(str(settings.warehouse_file)) as connection:
        for name in names or OLDER:
            connection.execute(OLDER[name])


@functools.cache
def graph() -> dg.Definitions:
    """The same for every directory, but for where it would build."""
    return build_definitions(Settings(Path("nowhere"), date(2026, 3, 5), date(2026, 3, 12)))


def plan(settings: Settings, **options: bool) -> Plan:
    return plan_upgrade(graph(), settings, **options)


def state(folder: Path) -> dict[str, str]:
    """Every file of a directory with a hash of its content; SQLite's marks of who reads are nobody's content."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }


def test_a_directory_as_it_should_be_has_nothing_to_upgrade(
    built: tuple[Settings, BuildReport], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = warehouse_copy(built[0], tmp_path)
    assert plan(settings).is_empty and plan(settings, fill=True).is_empty
    before = state(tmp_path)
    assert main(["--data-dir", str(tmp_path), "upgrade", "--yes"]) == 0
    assert "up to date: version 1" in capsys.readouterr().out
    assert state(tmp_path) == before
    # Nor has one in which nothing was built yet.
    empty = Settings(tmp_path / "empty")
    assert plan(empty).is_empty and not empty.data_dir.exists()


def test_a_dry_run_names_tables_days_and_time_and_changes_no_byte(
    built: tuple[Settings, BuildReport], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = warehouse_copy(built[0], tmp_path)
    shutil.copytree(built[0].dagster_home, settings.dagster_home)
    made_older(settings)
    before = state(tmp_path)
    assert main(["--data-dir", str(tmp_path), "upgrade"]) == 0
    assert state(tmp_path) == before
    said = capsys.readouterr().out
    found = plan(settings)
    assert {change.table: change.action for change in found.changes} == {
        "kpis.kpi_waits": "add",
        "kpis.kpi_procedures": "build",
        "kpis.kpi_length_of_stay": "build",
        "facts.fact_bed_occupancy": "build",
        "kpis.kpi_returns": "build",
        "dimensions.dim_time": "build",
        "dimensions.dim_clock": "drop",
        "quality.dq_results": "take over",
        "raw.raw_landed_files": "take over",
        "raw.raw_vitals": "take over",
    }
    for change in found.changes:
        assert f"{change.action:<9} {change.table}: {change.why}" in said
    # With what is made of them, and nothing else.
    assert set(found.built) == {
        "dim_time",
        "fact_bed_occupancy",
        "stale_partitions",
        "kpi_procedures",
        "kpi_length_of_stay",
        "kpi_returns",
        "kpi_occupancy_daily",
        "kpi_department_flow_daily",
    }
    assert "8 tables are built" in said and "2026-03-05 to 2026-03-12, about 0:" in said
    assert found.seconds is not None and 0.1 < found.seconds < sum(step.seconds for step in built[1].steps)
    assert "kpi_waits" in plan(settings, fill=True).built


def test_what_a_killed_rebuild_has_moved_away_is_put_back(built: tuple[Settings, BuildReport], tmp_path: Path) -> None:
    settings = warehouse_copy(built[0], tmp_path)
    before = query(settings, "from dimensions.dim_date order by all")
    with open_warehouse(settings.warehouse_file) as warehouse:
        warehouse.move_away(CONTRACTS["dim_date"])
    assert plan(settings).is_empty
    assert upgrade(graph(), settings, NOW, keep=None).failures == ()
    assert query(settings, "from dimensions.dim_date order by all").equals(before)


def test_what_was_taken_over_is_the_same(built: tuple[Settings, BuildReport], tmp_path: Path) -> None:
    settings = warehouse_copy(built[0], tmp_path)
    ledger = "select * from raw.raw_landed_files order by source_file, subject"
    rules = "select * exclude (denominator_count) from quality.dq_results order by all"
    # The same JSON, whatever the order of its members.
    payloads = "select * replace (cast(payload::json::variant as json) as payload) from raw.raw_vitals order by all"
    known, found, vitals = (query(settings, sql) for sql in (ledger, rules, payloads))
    made_older(settings, "a ledger of another shape", "results of another shape", "a column less", "JSON as VARIANT")
    with duckdb.connect(str(settings.warehouse_file)) as connection:
        connection.execute("create table main.somebodys as select 1")
    done = upgrade(graph(), settings, NOW, keep=None)
    assert done.report is None and done.failures == ()
    assert query(settings, ledger).equals(known) and query(settings, rules).equals(found)
    assert vitals["payload"].null_count() < vitals.height and query(settings, payloads).equals(vitals)
    assert query(settings, "select count(wait_median_minutes) from kpis.kpi_waits").item() == 0
    # What no schema of ours holds is nobody's business.
    assert query(settings, "from main.somebodys").item() == 1
    assert not snapshots(settings) and plan(settings).is_empty
    with pytest.raises(UpgradeError, match="no snapshot of before"):
        undo(settings)


def test_rows_that_cannot_be_taken_over_stop_it_before_anything_is_changed(
    built: tuple[Settings, BuildReport], tmp_path: Path
) -> None:
    settings = warehouse_copy(built[0], tmp_path)
    made_older(settings, "a ledger of another shape", "another name")
    with duckdb.connect(str(settings.warehouse_file)) as connection:
        connection.execute("update raw.raw_landed_files set file_bytes = 'much'")
        stored = stored_columns(connection)
    with pytest.raises(UpgradeError, match="raw_landed_files cannot be taken over") as raised:
        upgrade(graph(), settings, NOW, keep=None)
    assert "much" not in str(raised.value)
    assert version_of(settings.warehouse_file.parent).is_finished
    with duckdb.connect(str(settings.warehouse_file)) as connection:
        assert stored_columns(connection) == stored


def test_rows_of_files_that_are_gone_are_not_lost_unasked(
    built: tuple[Settings, BuildReport], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # No landed file is there.
    settings = warehouse_copy(built[0], tmp_path)
    with duckdb.connect(str(settings.warehouse_file)) as connection:
        connection.execute("alter table raw.raw_vitals add column old_name varchar")
    found = plan(settings)
    assert set(found.lost) == {"raw_vitals"} and found.lost["raw_vitals"] > 8
    assert main(["--data-dir", str(tmp_path), "upgrade"]) == 0
    assert f"raw_vitals holds rows of {found.lost['raw_vitals']} files" in capsys.readouterr().out
    before = dict(tables(settings))
    assert main(["--data-dir", str(tmp_path), "upgrade", "--yes"]) == 2
    assert "put them back, or give --accept-loss; nothing was changed" in capsys.readouterr().err
    assert dict(tables(settings)) == before and not snapshots(settings)


def test_an_upgrade_is_undone(built: tuple[Settings, BuildReport], tmp_path: Path) -> None:
    settings = warehouse_copy(built[0], tmp_path)
    with pytest.raises(UpgradeError, match="nothing to undo"):
        undo(settings)
    made_older(settings, "a column less", "results of another shape")
    with duckdb.connect(str(settings.warehouse_file)) as connection:
        stored = stored_columns(connection)
    write_version(settings.warehouse_file.parent, DirectoryVersion(1, "0.0.9"))
    assert upgrade(graph(), settings, NOW, keep=1).failures == ()
    folder = settings.warehouse_file.parent
    assert version_of(folder) == DirectoryVersion(
        1, directory.installed(), True, 1, "0.0.9", snapshots(settings)[-1].file.name
    )
    # A write of afterwards, which is still in the log, goes, too.
    wal = settings.warehouse_file.with_name("hospital.duckdb.wal")
    wal.write_bytes(b"of what is replaced")
    assert undo(settings) == DirectoryVersion(1, "0.0.9") == version_of(folder)
    with duckdb.connect(str(settings.warehouse_file)) as connection:
        assert stored_columns(connection) == stored
    actions = read_entries(settings)
    said = actions.filter(actions["action"] == "upgrade")
    assert said["statement"].to_list() == [*["version 1 to 1"] * 2, *["undo: version 1 to 1"] * 2]
    with open_warehouse(settings.warehouse_file), pytest.raises(WarehouseLockedError):
        write_version(folder, DirectoryVersion(1, "", True, 1, "0.0.9", snapshots(settings)[-1].file.name))
        undo(settings)


def newer(settings: Settings) -> None:
    write_version(settings.warehouse_file.parent, DirectoryVersion(directory.VERSION + 1, "9.1.0"))


#: A command of each kind, with what has to follow it.
REFUSED = [
    ["build"],
    ["refresh"],
    ["watch"],
    ["dashboard"],
    ["serve"],
    ["listen", "hl7"],
    ["publish"],
    ["snapshot"],
    ["upgrade", "--yes"],
    ["status"],
    ["users", "add", "ann", "analyst"],
    ["import", "native", "."],
    ["doctor"],
]


@pytest.mark.parametrize("command", REFUSED, ids=" ".join)
def test_a_newer_directory_is_refused(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(tmp_path, FIRST, LAST)
    newer(settings)
    settings.landing.mkdir()
    before = state(tmp_path)
    assert main(["--data-dir", str(tmp_path), *command]) == 2
    said = capsys.readouterr().err
    assert "was written by hospital-assets 9.1.0 and has version 2" in said
    assert f"this is {directory.installed()}" in said and "pip install 'hospital-assets>=9.1.0'" in said
    assert state(tmp_path) == before


def test_dagster_refuses_a_newer_directory_and_one_that_waits_for_an_upgrade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hospital_assets.definitions import definitions

    settings = Settings(tmp_path)
    monkeypatch.setenv("HOSPITAL_DATA_DIR", str(tmp_path))
    newer(settings)
    with pytest.raises(DirectoryVersionError, match="9.1.0"):
        definitions()
    write_version(settings.warehouse_file.parent, DirectoryVersion(directory.VERSION - 1))
    with pytest.raises(DirectoryVersionError, match="run `hospital upgrade`"):
        definitions()


def test_a_process_that_was_there_before_does_not_write_after_the_upgrade(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    with open_warehouse(settings.warehouse_file):
        assert version_of(settings.warehouse_file.parent).number == directory.VERSION
    newer(settings)
    with pytest.raises(DirectoryVersionError), open_warehouse(settings.warehouse_file):
        pass
    # And has let go of it.
    write_version(settings.warehouse_file.parent, DirectoryVersion(directory.VERSION))
    with open_warehouse(settings.warehouse_file):
        pass


def test_an_older_directory_waits_for_its_upgrade(
    built: tuple[Settings, BuildReport],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = warehouse_copy(built[0], tmp_path)
    monkeypatch.setattr(directory, "VERSION", 2)
    here = ["--data-dir", str(tmp_path)]
    assert main([*here, "build"]) == 2 and main([*here, "dashboard"]) == 2
    assert "has version 1 of a data directory, and this program works on 2" in capsys.readouterr().err
    assert main([*here, "snapshots"]) == 0
    main([*here, "doctor"])
    assert f"ERROR    version: {tmp_path} has version 1" in capsys.readouterr().out
    assert not plan(settings).is_empty
    assert main([*here, "upgrade", "--yes"]) == 0
    assert version_of(settings.warehouse_file.parent).number == 2
    assert version_of(settings.warehouse_file.parent).before == 1
    assert main([*here, "status"]) == 0
    # What was begun is not used before it is finished.
    write_version(settings.warehouse_file.parent, DirectoryVersion(2, "0.2.0", is_finished=False, before=1))
    capsys.readouterr()
    assert main([*here, "build"]) == 2
    assert "was begun and is not finished" in capsys.readouterr().err


def test_tables_that_are_computed_otherwise_since_a_version_are_built_anew(
    built: tuple[Settings, BuildReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = warehouse_copy(built[0], tmp_path)
    monkeypatch.setattr(directory, "VERSION", 3)
    monkeypatch.setattr(directory, "COMPUTED_ANEW", {2: ("kpi_waits_daily",), 3: ("kpi_units",)})
    assert plan(settings).built == ("kpi_waits_daily", "kpi_waits_rolling", "kpi_trends", "kpi_units")
    write_version(settings.warehouse_file.parent, DirectoryVersion(2))
    assert plan(settings).built == ("kpi_units",)
    write_version(settings.warehouse_file.parent, DirectoryVersion(3, "", is_finished=False, before=1))
    assert "kpi_trends" in plan(settings).built


def test_the_log_of_a_killed_writer_is_read_and_left_alone(built: tuple[Settings, BuildReport], tmp_path: Path) -> None:
    settings = warehouse_copy(built[0], tmp_path)
    change = (
        "import duckdb, os, sys; writer = duckdb.connect(sys.argv[1]); "
        "writer.execute('alter table kpis.kpi_waits drop column wait_median_minutes'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", change, str(settings.warehouse_file)])
    wal = settings.warehouse_file.with_name("hospital.duckdb.wal")
    before = state(tmp_path), wal.read_bytes()
    assert [change.table for change in plan(settings).changes] == ["kpis.kpi_waits"]
    assert before == (state(tmp_path), wal.read_bytes()) and before[1]


def test_the_history_of_an_older_dagster_is_brought_up(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    with dagster_instance(settings) as instance:
        version = instance.run_storage.alembic_version()
    assert version is not None and version[0] == version[1]
    with contextlib.closing(sqlite3.connect(settings.dagster_home / "history" / "runs.db")) as history:
        # What that revision brings is there already, which Dagster looks for.
        history.execute("update alembic_version set version_num = ?", [older_revision(str(version[1]))])
        history.commit()
    with dagster_instance(settings) as instance:
        assert instance.run_storage.alembic_version() != version
    _upgrade_history(settings)
    with dagster_instance(settings) as instance:
        assert instance.run_storage.alembic_version() == version


def older_revision(head: str) -> str:
    """The revision of Dagster's runs before the newest."""
    scripts = ScriptDirectory.from_config(get_alembic_config(sqlite.__file__))
    return str(scripts.get_revision(head).down_revision)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"number": "2"}', '{"number": 1, "snapshot": 3}'])
def test_a_damaged_version_is_said(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "warehouse").mkdir()
    (tmp_path / "warehouse" / "version.json").write_text(content)
    assert main(["--data-dir", str(tmp_path), "status"]) == 2
    assert "version.json is not what was written there" in capsys.readouterr().err


def test_every_command_that_may_run_before_an_upgrade_exists() -> None:
    from hospital_assets.cli import GROUPS

    assert set(_OF_ANY_VERSION) <= {name for names, _ in GROUPS.values() for name in names}


def test_results_of_rules_that_are_no_more_are_not_current(built: tuple[Settings, BuildReport], tmp_path: Path) -> None:
    settings = warehouse_copy(built[0], tmp_path)
    with open_warehouse(settings.warehouse_file) as warehouse:
        before = newest_results(warehouse, every_kind())
        for change in (
            # A rule that its kind does not ask any more, a kind that the table has no more, and a table that is gone.
            "rule = 'of a release before', checked_at = checked_at - interval 1 day",
            "kind = 'blood_mix', rule = 'of a release before'",
            "table_name = 'kpi_of_before', rule = 'of a release before'",
        ):
            warehouse.connection.execute(
                "insert into quality.dq_results by name select * from (select * from quality.dq_results "
                "where table_name = 'kpi_waits' and kind = 'values' limit 1)"
            )
            warehouse.connection.execute(
                f"update quality.dq_results set status = 'Failed', {change} where rowid = "
                "(select max(rowid) from quality.dq_results)"
            )
        after = newest_results(warehouse, every_kind())
        assert warehouse.connection.execute(
            "select count(*) from quality.dq_results where rule = 'of a release before'"
        ).fetchall() == [(3,)]
    assert before.height > 1_000 and after.sort(after.columns).equals(before.sort(before.columns))


@pytest.fixture(scope="module")
def secret() -> Iterator[None]:
    """A secret key of pseudonyms: without it little is published."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, KEY.value.hex())
        yield


@pytest.fixture(scope="module")
def clean(secret: None, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Four days, built and published."""
    settings = Settings(tmp_path_factory.mktemp("clean"), FIRST, LAST)
    simulate(settings.landing, settings.ground_truth, start=FIRST, days=4, scale=0.1, seed=11)
    write_settings(settings)
    run(settings)
    assert publish(build_definitions(settings), settings, ["executive"]).failures == []
    return settings


@pytest.fixture
def old(clean: Settings, tmp_path: Path) -> Iterator[Settings]:
    """A copy of it as an older release had left it."""
    settings = copy_of(clean, tmp_path / "old")
    for folder in ("warehouse", "published"):
        shutil.copytree(clean.data_dir / folder, settings.data_dir / folder)
    made_older(settings)
    with duckdb.connect(str(settings.warehouse_file)) as connection:
        connection.execute("alter table raw.raw_vitals add column old_name varchar")
    yield settings


@pytest.mark.slow
def test_after_an_upgrade_every_table_is_as_a_clean_build_makes_it(clean: Settings, old: Settings) -> None:
    definitions = build_definitions(old)
    published = current_version(old.data_dir, "executive")
    done = upgrade(definitions, old, NOW, keep=2, fill=True)
    assert done.failures == () and done.report is not None
    assert dict(tables(old)) == dict(tables(clean))
    assert plan(old).is_empty and len(snapshots(old)) == 1
    # Pages of this program read what it has published itself.
    assert current_version(old.data_dir, "executive") > published
    files = "select subject, source_file, service_date, row_count, is_complete from raw.loaded_files order by all"
    assert query(old, files).equals(query(clean, files))
    assert query(old, "select count(*) from duckdb_tables() where table_name in ('dim_clock')").item() == 0
    # A second one does nothing, and the next build goes on.
    assert run(old, select="key:fact_vitals").failures == []


@pytest.mark.nightly
def test_an_upgrade_killed_anywhere_is_run_again_to_its_end(clean: Settings, old: Settings) -> None:
    command = hospital(old.data_dir, "upgrade", "--fill", "--yes")
    kills = 0
    for seconds in (4, 6, 8, 10, 14, 18):
        with started(command, **QUIET) as process, contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        kills += process.returncode == -signal.SIGKILL
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert kills >= 2
    assert dict(tables(old)) == dict(tables(clean))
    assert len(snapshots(old)) == 1 and version_of(old.warehouse_file.parent).is_finished
