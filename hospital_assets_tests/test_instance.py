"""The Dagster instance of a data directory: its home, and where its history is stored."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import socket as connections
import sqlite3
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from dagster._core.storage.runs.sqlite import SqliteRunStorage
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._daemon.sensor import get_elapsed

from hospital_assets.automation.event_log import HospitalEventLogStorage
from hospital_assets.automation.history import RUN_STATUSES, HistoryError, read_history
from hospital_assets.automation.instance import (
    POSTGRES_URL,
    dagster_instance,
    end_unfinished_runs,
    prepare_dagster_home,
)
from hospital_assets.automation.own_runs import OF_COMMAND, end_dead_runs, end_unserved_runs, run_lock
from hospital_assets.automation.storages import HospitalRunStorage, HospitalScheduleStorage
from hospital_assets.settings import Settings, SettingsError
from hospital_assets_tests.postgresql import postgresql_server


def test_a_home_has_the_package_s_settings_and_its_history_in_files(tmp_path: Path) -> None:
    with dagster_instance(Settings(tmp_path)) as instance:
        assert isinstance(instance.event_log_storage, HospitalEventLogStorage)
        assert isinstance(instance.run_storage, HospitalRunStorage)
        assert isinstance(instance.schedule_storage, HospitalScheduleStorage)
        assert not instance.telemetry_enabled
        # Its processes would say a traceback at Ctrl-C.
        assert isinstance(instance.compute_log_manager, NoOpComputeLogManager)
    # Where Dagster's own would put them: a directory of an older release keeps its history.
    files = {str(path.relative_to(tmp_path / "dagster")) for path in tmp_path.rglob("*.db")}
    assert {"history/runs.db", "history/runs/index.db", "schedules/schedules.db"} <= files
    written = yaml.safe_load((tmp_path / "dagster" / "dagster.yaml").read_text())
    assert written["concurrency"]["pools"]["default_limit"] == 1


def test_a_clock_that_was_ahead_holds_up_no_sensor_and_no_schedule(tmp_path: Path) -> None:
    now = time.time()
    location = GrpcServerCodeLocationOrigin("localhost", socket="s", location_name="here")
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "all"), "files")
    who = origin.get_id(), origin.get_selector().get_id()

    def noted(instance: dg.DagsterInstance, at: float) -> float | None:
        data = SensorInstigatorData(last_tick_timestamp=at, cursor="c", last_tick_start_timestamp=at)
        instance.update_instigator_state(InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, data))
        (state,) = instance.all_instigator_state()
        assert state == instance.get_instigator_state(*who) and state.instigator_data.cursor == "c"  # type: ignore[union-attr]
        return get_elapsed(state)

    with dagster_instance(Settings(tmp_path)) as instance:
        data = SensorInstigatorData(last_sensor_start_timestamp=now)
        instance.add_instigator_state(InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, data))
        assert noted(instance, now - 60) == pytest.approx(60, abs=30)
        # Never, as far as is known: at once.
        assert noted(instance, now + 86_400) is None
        for at in (now - 60, now + 86_400):
            instance.create_tick(
                TickData(who[0], "files", InstigatorType.SENSOR, TickStatus.SKIPPED, at, selector_id=who[1])
            )
        assert [tick.timestamp for tick in instance.get_ticks(*who)] == [now - 60]
        assert instance.get_ticks(*who, before=now - 120) == []


@pytest.mark.parametrize(
    "url", ["postgresql://ada@db/dagster", "mysql://ada@db/dagster", "postgresql+psycopg2://u@db:ada/dagster"]
)
def test_an_address_that_sqlalchemy_would_misread_is_refused_without_being_repeated(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(POSTGRES_URL, url)
    with pytest.raises(SettingsError, match=r"must begin with postgresql\+psycopg2://") as refused:
        prepare_dagster_home(Settings(tmp_path))
    assert "ada" not in str(refused.value)


def test_a_history_whose_address_is_none_is_not_read_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(POSTGRES_URL, "postgresql+psycopg2://u@db:ada/dagster")
    with pytest.raises(HistoryError, match="is no URL") as refused:
        read_history(Settings(tmp_path))
    assert "ada" not in str(refused.value)


@dg.asset(partitions_def=dg.DailyPartitionsDefinition("2026-01-01"))
def some_table() -> None: ...


@dg.asset_check(asset=some_table)
def has_rows() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


def test_history_is_read_as_dagster_tells_it(tmp_path: Path) -> None:
    assert {status.value.lower() for status in dg.DagsterRunStatus} == set(RUN_STATUSES)
    settings = Settings(tmp_path)
    assert read_history(settings).runs == {}
    with dagster_instance(settings) as instance:
        assert dg.materialize([some_table], instance=instance, partition_key="2026-01-01").success
        assert not dg.materialize([fails], instance=instance, raise_on_error=False).success
        found = read_history(settings)
        for status in dg.DagsterRunStatus:
            assert found.runs[status.value.lower()] == instance.get_runs_count(dg.RunsFilter(statuses=[status]))
        ended = {status: at.timestamp() for (_, status), at in found.ended.items()}
        assert ended == {
            record.dagster_run.status.value.lower(): pytest.approx(record.end_time, abs=1e-3)
            for record in instance.get_run_records()
        }


@dg.asset
def fails() -> None:
    raise RuntimeError


@pytest.mark.nightly
def test_history_can_be_in_postgresql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    postgres = pytest.importorskip("dagster_postgres", reason="dagster-postgres is not installed (dev extra)")
    days = ("2026-01-01", "2026-01-02")
    with postgresql_server() as server:
        url = f"postgresql+psycopg2://postgres@/hospital?host={server.folder}"
        monkeypatch.setenv(POSTGRES_URL, url)
        with dagster_instance(Settings(tmp_path)) as instance:
            assert isinstance(instance.run_storage, postgres.PostgresRunStorage)
            assert isinstance(instance.event_log_storage, postgres.PostgresEventLogStorage)
            assert isinstance(instance.schedule_storage, postgres.PostgresScheduleStorage)
            for day in days:
                assert dg.materialize([some_table, has_rows], instance=instance, partition_key=day).success
        # Another process, another data directory: the history is in the database.
        with dagster_instance(Settings(tmp_path / "other")) as instance:
            assert instance.get_materialized_partitions(some_table.key) == set(days)
            assert len(instance.get_run_records()) == 2
            checks = instance.event_log_storage.get_asset_check_execution_history(has_rows.check_key, limit=9)
            # The stock event log leaves a line of each day as planned beside its outcome.
            assert [record.status.value for record in checks].count("SUCCEEDED") == 2
        history = read_history(Settings(tmp_path / "other"))
        assert history.runs["success"] == 2 and history.heartbeat is None
        ((job, status), at), *more = history.ended.items()
        assert (job, status, more) == ("__ephemeral_asset_job__", "success", [])
        assert timedelta(0) <= datetime.now(UTC) - at < timedelta(minutes=30)
        assert not (tmp_path / "dagster" / "history").exists()
        # The address, which may hold a password, is written nowhere.
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and url.encode() in path.read_bytes()]
    with pytest.raises(HistoryError) as gone:
        read_history(Settings(tmp_path))
    assert str(server.folder) not in str(gone.value)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="NOT TESTED: no list of open files here")
def test_files_of_runs_that_were_looked_at_are_closed(tmp_path: Path) -> None:
    """A webserver that was up for a day had three open for each run that it had shown."""
    storage = HospitalEventLogStorage(str(tmp_path))

    def open_files() -> int:
        links = (Path(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd"))  # noqa: PTH208
        return sum(str(tmp_path) in os.readlink(link) for link in links if link.is_symlink())  # noqa: PTH115

    gc.disable()
    try:
        found = []
        for number in range(12):
            storage.get_logs_for_run(f"run-{number}")
            found.append(open_files())
    finally:
        gc.enable()
        storage.dispose()
    assert found[-1] == found[5] > 0 and open_files() == 0


@pytest.mark.slow
def test_services_that_start_together_make_one_history(tmp_path: Path) -> None:
    # Whoever comes between the tables and the note of their version takes them for some of an older version.
    make = (
        "import sys, time; from pathlib import Path; from hospital_assets.automation.instance import make_history; "
        "from hospital_assets.settings import Settings; "
        "import dagster._core.storage.runs.sqlite.sqlite_run_storage as s; "
        "real = s.stamp_alembic_rev; s.stamp_alembic_rev = lambda *a, **k: (time.sleep(3), real(*a, **k)); "
        "print('ready', flush=True); sys.stdin.read(1); time.sleep(float(sys.argv[2])); "
        "make_history(Settings(Path(sys.argv[1])))"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-c", make, str(tmp_path)]
    started = [subprocess.Popen([*command, f"{n * 0.7}"], **pipes) for n in range(4)]  # type: ignore[call-overload]
    for process in started:
        assert process.stdout.readline() == b"ready\n"
    for process in started:
        process.stdin.write(b"x")
        process.stdin.flush()
    said = [process.communicate(timeout=300)[1].decode() for process in started]
    assert [process.returncode for process in started] == [0] * 4, said
    databases = list((tmp_path / "dagster").rglob("*.db"))
    assert {"runs.db", "schedules.db"} <= {path.name for path in databases}
    for path in databases:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("select count(*) from alembic_version").fetchall() == [(1,)], path
    with dagster_instance(Settings(tmp_path)) as instance:
        assert instance.get_runs_count() == 0


def test_runs_and_ticks_are_seen_by_all_who_look(tmp_path: Path) -> None:
    def run(name: str) -> dg.DagsterRun:
        return dg.DagsterRun("job", run_id=str(uuid.uuid5(uuid.NAMESPACE_OID, name)))

    with dagster_instance(Settings(tmp_path)) as ours, dagster_instance(Settings(tmp_path)) as others:
        stock = SqliteRunStorage.from_local(str(tmp_path / "dagster" / "history"))
        assert not ours.get_runs() and not others.get_runs() and not stock.get_runs()
        for number, writer in enumerate([ours.run_storage, others.run_storage, stock]):
            writer.add_run(run(str(number)))
            found = [{r.run_id for r in reader.get_runs()} for reader in (ours, others, stock)]
            assert found == [{run(str(n)).run_id for n in range(number + 1)}] * 3
        # What failed in a transaction is not there.
        with pytest.raises(ZeroDivisionError), ours.run_storage.connect() as connection:
            connection.exec_driver_sql("delete from runs")
            _ = 1 / 0
        assert ours.get_runs_count() == others.get_runs_count() == 3
        # Threads wait for each other, and none is refused.
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda n: (ours.run_storage.add_run(run(f"t{n}")), others.get_runs_count()), range(64)))
        assert stock.get_runs_count() == 67


def begun(instance: dg.DagsterInstance, name: str, tags: dict[str, str], status: str = "STARTED") -> str:
    """A run that Dagster knows of; its number."""
    run_id = str(uuid.uuid5(uuid.NAMESPACE_OID, name))
    instance.add_run(dg.DagsterRun("job", run_id=run_id, status=dg.DagsterRunStatus[status], tags=tags))
    return run_id


@pytest.mark.parametrize("is_shared", [False, True])
def test_runs_go_with_their_code_server(is_shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, lives = tmp_path / "gone", tmp_path / "lives"

    def served_at(socket: Path) -> dict[str, str]:
        return {GRPC_INFO_TAG: json.dumps({"host": "localhost", "socket": str(socket)})}

    def ended(socket: Path) -> set[str]:
        with monkeypatch.context() as patched:
            if is_shared:
                patched.setenv(POSTGRES_URL, "postgresql+psycopg2://ada@db/dagster")
            count = end_unserved_runs(instance, socket)
        found = {run.run_id for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))}
        assert count == len(found)
        return found

    with (
        dagster_instance(Settings(tmp_path)) as instance,
        contextlib.closing(connections.socket(connections.AF_UNIX)) as killed,
        contextlib.closing(connections.socket(connections.AF_UNIX)) as server,
    ):
        # It leaves its file, and nobody answers there.
        killed.bind(str(gone))
        server.bind(str(lives))
        server.listen()
        left = {begun(instance, status, served_at(gone), status) for status in ("STARTING", "STARTED", "CANCELING")}
        begun(instance, "lives", served_at(lives))
        begun(instance, "not yet", {}, "NOT_STARTED")
        begun(instance, "of a command", OF_COMMAND)
        assert ended(lives) == (set() if is_shared else left)
        if is_shared:
            assert ended(gone) == left


def test_a_run_whose_command_was_killed_is_ended_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(tmp_path)
    with dagster_instance(settings) as instance:
        killed, at_work, of_the_daemon = (
            begun(instance, name, tags) for name, tags in (("a", OF_COMMAND), ("b", OF_COMMAND), ("c", {}))
        )
        with run_lock(settings, at_work):
            assert end_dead_runs(settings, instance) == 1
            assert end_dead_runs(settings, instance) == 0
            states = {name: instance.get_run_by_id(name) for name in (killed, at_work, of_the_daemon)}
        assert {name: run and run.status for name, run in states.items()} == {
            killed: dg.DagsterRunStatus.FAILURE,
            at_work: dg.DagsterRunStatus.STARTED,
            of_the_daemon: dg.DagsterRunStatus.STARTED,
        }
        assert end_dead_runs(settings, instance) == 1
        # In PostgreSQL may be runs of another directory, of which there is nothing here.
        of_another, killed_here = begun(instance, "d", OF_COMMAND), begun(instance, "e", OF_COMMAND)
        (settings.dagster_home / "at_work" / f"{killed_here}.lock").touch()
        monkeypatch.setenv(POSTGRES_URL, "postgresql+psycopg2://ada@db/dagster")
        assert end_dead_runs(settings, instance) == 1
        assert end_unfinished_runs(settings, "restored") == 0
        found = instance.get_run_by_id(of_another)
        assert found is not None and found.status is dg.DagsterRunStatus.STARTED
    assert list((settings.dagster_home / "at_work").iterdir()) == []
