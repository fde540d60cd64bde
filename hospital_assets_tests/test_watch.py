"""The live path: a batch is one transaction, alerts come at once, a kill loses and repeats nothing."""

from __future__ import annotations

import asyncio
import errno
import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import duckdb
import polars as pl
import pytest

from hospital_assets.access.users import User
from hospital_assets.alerts.outbox import Outbox, open_outbox, outbox_file
from hospital_assets.assets.facts import vitals as vitals_module
from hospital_assets.automation import watch as watch_module
from hospital_assets.automation.build import BuildReport, refresh
from hospital_assets.automation.instance import dagster_instance
from hospital_assets.automation.loading import Loading
from hospital_assets.automation.presence import is_watched, watch_lock
from hospital_assets.automation.refresh import MOST_TRIES, PAUSE_SECONDS, Request, State, decide
from hospital_assets.automation.sensors import WATCHER_SECONDS, alerts_sensor, landing_sensor, stale_partitions_sensor
from hospital_assets.automation.watch import BatchError, Loader
from hospital_assets.automation.watch import _carry_out as carry_out
from hospital_assets.automation.watch import _step as step
from hospital_assets.cli import main
from hospital_assets.clock import SimulatedClock, hospital_now, is_live, write_simulated_clock
from hospital_assets.contracts import CONTRACTS
from hospital_assets.dashboard.live import LiveBoard
from hospital_assets.definitions import build_definitions
from hospital_assets.landing import zone as zone_module
from hospital_assets.landing.profile import FEEDS
from hospital_assets.landing.quarantine import read_quarantine
from hospital_assets.landing.waiting import Waiting
from hospital_assets.landing.zone import LandingResource, LandingZone
from hospital_assets.live import monitor as monitor_module
from hospital_assets.live.alert_rules import FILE_QUARANTINED, scored_vitals
from hospital_assets.live.board import Patient, read_board
from hospital_assets.live.copies import copy_file, read_copy
from hospital_assets.live.monitor import Look, Monitor, open_monitor
from hospital_assets.settings import Settings, write_settings
from hospital_assets.simulator.live import LiveNetwork, go_live, land_history, prepare, read_network, write_network
from hospital_assets.warehouse.errors import WarehouseError
from hospital_assets_tests.helpers import query, run, tables
from hospital_assets_tests.processes import QUIET, hospital, started, until

#: In the afternoon of the last day of the small network.
NOW = datetime(2026, 3, 12, 20, tzinfo=UTC)


@pytest.fixture
def copied(built: tuple[Settings, BuildReport], tmp_path: Path) -> Settings:
    """The built network, its clock standing on its last afternoon."""
    settings, _ = built
    shutil.copytree(settings.data_dir, tmp_path, dirs_exist_ok=True, copy_function=shutil.copy2)
    copy = replace(settings, data_dir=tmp_path)
    write_simulated_clock(copy, SimulatedClock(0.0, NOW.timestamp(), 0.0))
    return copy


def zone(definitions: dg.Definitions) -> LandingResource:
    found = (definitions.resources or {})["landing"]
    assert isinstance(found, LandingResource)
    return found


@pytest.fixture
def monitor(copied: Settings) -> Iterator[Monitor]:
    opened = open_monitor(copied, zone(build_definitions(copied)), FEEDS)
    yield opened
    opened.outbox.close()


def an_adult(settings: Settings) -> str:
    found = query(
        settings,
        "select patient_id from dimensions.dim_patient where birth_date < date '1980-01-01' order by 1 limit 1",
    )
    return str(found.item())


def observation(name: str, patient: str, minute: int, **values: Any) -> str:
    """A line of the vitals feed, of a well adult unless told otherwise."""
    measured = {
        "heart_rate": 70,
        "respiratory_rate": 16,
        "spo2": 98,
        "systolic_bp": 120,
        "diastolic_bp": 80,
        "temperature": 37.0,
    } | {key: value for key, value in values.items() if key != "on"}
    clock = f"2026-03-12T14:{minute:02d}:00-05:00"
    vitals = {key: {"value": value, "unit": "Cel" if key == "temperature" else None} for key, value in measured.items()}
    vitals |= {"consciousness": "A", "on_oxygen": False}  # type: ignore[dict-item]
    return json.dumps(
        {
            "observation_id": name,
            "visit_id": f"W{name}",
            "patient_id": patient,
            "hospital_id": "H1",
            "device_id": "D1",
            "measured_at": clock,
            "recorded_at": clock,
            "vitals": vitals,
        }
    )


def land(settings: Settings, name: str, *lines: str, folder: str = "vitals") -> Path:
    """By rename, as one should."""
    path = settings.landing / "native" / folder / name
    temporary = path.with_name(f".{name}.tmp")
    temporary.write_text("\n".join(lines) + "\n")
    temporary.replace(path)
    return path


def planned(waiting: Mapping[str, Sequence[Waiting]]) -> list[Request]:
    files = [file for found in waiting.values() for file in found]
    return decide(State(), files, {}, {}, now_ns=time.time_ns(), after_files=1, after_seconds=0).requests


def test_a_batch_is_one_transaction_and_dagster_hears_of_it(
    copied: Settings, monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = an_adult(copied)
    land(copied, "live.json", observation("L1", patient, 1), observation("L2", patient, 2))
    waiting = monitor.look().waiting
    assert {feed: len(files) for feed, files in waiting.items() if files} == {"vitals": 1}
    (file,) = waiting["vitals"]
    assert file.subjects == ("vitals",) and [str(day) for day in file.days] == ["2026-03-12"]
    count = "select count(*) from facts.fact_vitals where observation_id in ('L1', 'L2')"
    others = "select sum(hash(f)::hugeint) from facts.fact_vitals f where service_date < date '2026-03-12'"
    before = query(copied, others).item()
    definitions = build_definitions(copied)
    with dagster_instance(copied) as instance:
        loader = Loader(definitions, copied, instance)
        with monkeypatch.context() as patched:
            patched.setattr(vitals_module, "scored", _break)
            with pytest.raises(BatchError, match="fact_vitals: .*it broke"):
                loader.load(planned(waiting))
        raw = "select count(*) from raw.raw_vitals where source_file like '%live.json'"
        assert query(copied, raw).item() == 0  # the raw rows went back with the rest
        assert query(copied, count).item() == 0
        assert monitor.look().waiting == waiting

        batch = loader.load(planned(waiting))
        assert query(copied, count).item() == 2
        assert query(copied, others).item() == before
        assert not any(monitor.look().waiting.values())
        event = instance.get_latest_materialization_event(dg.AssetKey("fact_vitals"))
        assert event is not None and event.run_id == ""
        assert event.asset_materialization is not None
        assert event.asset_materialization.partition == "2026-03-12"
        names = {check.check_name for check in batch.checks if check.asset_key.path == ["fact_vitals"]}
        assert {"columns", "key", "required"} <= names
        loader.load(planned({"vitals": [file]}))  # the same again, checks and all
    assert query(copied, count).item() == 2


def test_days_that_any_request_of_a_batch_leaves_stale_are_refreshed(
    copied: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    day, other = date(2026, 3, 7), date(2026, 3, 12)
    asked: list[tuple[str, object]] = []
    # The second request is of vitals alone, which look for no stale days; the refresh leaves none.
    named = iter([[day], None, []])
    monkeypatch.setattr(Loader, "_run", lambda _, job, span, *__: asked.append((job, span)))
    monkeypatch.setattr(watch_module, "stale_days", lambda _: next(named))
    with dagster_instance(copied) as instance:
        loader = Loader(build_definitions(copied), copied, instance)
        loader.load([Request(run_key="a", days=(day, day)), Request(run_key="b", days=(other, other))])
    assert [span for job, span in asked if job == "full_refresh"] == [(day, day), (other, other)]
    assert asked[2:] == [("refresh_stale_partitions", (day, day))]


def test_a_day_that_passes_among_others_holds_no_publication(copied: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(**of: Any) -> dg.AssetCheckEvaluation:
        return dg.AssetCheckEvaluation(dg.AssetKey("fact_vitals"), "key", blocking=True, **of)

    passed = SimpleNamespace(
        is_step_failure=False,
        is_step_materialization=False,
        event_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION,
        asset_check_evaluation_data=outcome(passed=True),
    )
    monkeypatch.setattr(watch_module, "execute", lambda *_: SimpleNamespace(all_events=[passed], run_id="r"))
    with dagster_instance(copied) as instance:
        for day in ("2026-03-10", "2026-03-12"):
            instance.report_runless_asset_event(outcome(passed=False, partition=day))
        loader = Loader(build_definitions(copied), copied, instance)
        loader.load([Request(run_key="a", days=(date(2026, 3, 11), date(2026, 3, 12)))])
        info = instance.event_log_storage.get_asset_check_partition_info([outcome(passed=True).asset_check_key])
        status = {day.partition_key: day.latest_execution_status.value for day in info}
    assert (status["2026-03-10"], status["2026-03-12"]) == ("FAILED", "SUCCEEDED")


def _break(*_: object) -> None:
    raise ValueError("it broke")


def test_alerts_come_before_the_load_and_once(copied: Settings, monitor: Monitor) -> None:
    patient = an_adult(copied)
    land(copied, "a.json", observation("A1", patient, 1, respiratory_rate=26))
    assert monitor.look().opened >= 1
    mine = [row for row in monitor.outbox.alerts() if row["subject"] == "WA1"]
    assert [row["state"] for row in mine] == ["open"]
    assert monitor.look().opened == 0  # it waits still, but was assessed
    land(copied, "again.json", observation("A1", patient, 1, respiratory_rate=26))
    assert monitor.look().opened == 0
    other = Monitor(copied, monitor.alerts, monitor.landing, open_outbox(copied), FEEDS)
    assert other.look().opened == 0  # another process
    other.outbox.close()
    line = observation("A1", patient, 9).replace('"observation_id": "A1"', '"observation_id": "A2"')
    land(copied, "well.json", line)
    monitor.look()
    assert "WA1" not in monitor.outbox.open_subjects("critical_vitals")
    # Who is well by now was never critical as far as anybody could have known in time.
    land(copied, "later.json", observation("B1", patient, 9))
    monitor.look()
    late = observation("B1", patient, 1, respiratory_rate=26).replace(
        '"observation_id": "B1"', '"observation_id": "B2"'
    )
    land(copied, "late.json", late)
    assert monitor.look().opened == 0


def test_the_same_bytes_of_two_sources_are_assessed_for_each(
    copied: Settings, monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied.profiles_folder.mkdir(exist_ok=True)
    native = Path(zone_module.__file__).with_name("profiles").joinpath("native.toml").read_text()
    (copied.profiles_folder / "other.toml").write_text(native.replace('name = "native"', 'name = "other"', 1))
    assessed: list[str] = []

    def of_files(_: Monitor, __: LandingZone, ___: pl.DataFrame, new: pl.DataFrame, *____: object) -> Any:
        assessed.extend(new["source_file"])
        return [], []

    monkeypatch.setattr(Monitor, "_of_files", of_files)
    first = land(copied, "same.json", observation("S1", an_adult(copied), 1))
    monitor.look()
    second = copied.landing / "other" / "vitals" / "same.json"
    second.parent.mkdir(parents=True)
    shutil.copyfile(first, second)
    monitor.look()
    monitor.look()
    assert [name for name in assessed if name.endswith("same.json")] == [
        "native/vitals/same.json",
        "other/vitals/same.json",
    ]


def test_only_a_fault_of_its_own_keeps_a_file_from_being_looked_at_again(
    copied: Settings, monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = an_adult(copied)
    wrapped = WarehouseError("what a step reads could not be computed")
    wrapped.__context__ = duckdb.OutOfMemoryException("failed to allocate")
    of_the_moment: list[Exception] = [
        OSError(errno.EIO, "Input/output error"),
        duckdb.IOException("Could not read from file"),
        pl.exceptions.ComputeError("parquet: underlying IO error: No space left on device (os error 28)"),
        MemoryError(),
        wrapped,
    ]

    def look_while(error: Exception, name: str) -> set[str]:
        """Whose alerts are open after a look in which one file fails."""

        def scored(raw: pl.DataFrame, *others: Any) -> pl.DataFrame:
            if raw["source_file"].str.ends_with(name).any():
                raise error
            return scored_vitals(raw, *others)

        with monkeypatch.context() as patched:
            patched.setattr(monitor_module, "scored_vitals", scored)
            monitor.look()
        return monitor.outbox.open_subjects("critical_vitals") & {"WA1", "WB1", "WC1"}

    land(copied, "a.json", observation("A1", patient, 1, respiratory_rate=26))
    land(copied, "b.json", observation("B1", patient, 1, respiratory_rate=26))
    assert [look_while(error, "a.json") for error in of_the_moment] == [{"WB1"}] * len(of_the_moment)
    land(copied, "c.json", observation("C1", patient, 1, respiratory_rate=26))
    assert look_while(ValueError("it is not what it seemed"), "c.json") == {"WA1", "WB1"}
    assert look_while(ValueError(), "no file") == {"WA1", "WB1"}


def test_who_waits_is_seen_by_time_alone(copied: Settings, monitor: Monitor) -> None:
    monitor.look()
    header = (
        "visit_id,patient_id,hospital_id,department,arrival_time,triage_time,triage_level,provider_time,recorded_at"
    )
    land(
        copied,
        "now.csv",
        header,
        "W77,P1,H1,Emergency,2026-03-12 14:50:00,2026-03-12 14:52:00,1,,2026-03-12 14:53:00",
        folder="er_visits",
    )
    monitor.look()
    assert "W77" not in monitor.outbox.open_subjects("critical_wait")

    def at(minute: int) -> None:
        clock = SimulatedClock(0.0, NOW.timestamp() + minute * 60, 0.0)
        write_simulated_clock(copied, clock)
        monitor.see_who_waits()

    at(4)
    assert "W77" not in monitor.outbox.open_subjects("critical_wait")
    at(5)
    assert "W77" in monitor.outbox.open_subjects("critical_wait")
    seen = "W77,P1,H1,Emergency,2026-03-12 14:50:00,2026-03-12 14:52:00,1,2026-03-12 15:06:00,"
    land(copied, "seen.csv", header, seen + "2026-03-12 15:07:00", folder="er_visits")
    monitor.look()
    assert "W77" not in monitor.outbox.open_subjects("critical_wait")


def test_nobody_waits_whose_visit_a_run_knows_to_be_over(copied: Settings, monitor: Monitor) -> None:
    """A message that cancels or ends a visit is no record of the visit."""
    header = "visit_id,patient_id,hospital_id,department,arrival_time,triage_level,recorded_at"
    line = "{},P1,H1,Emergency,2026-03-12 14:40:00,1,2026-03-12 14:53:00".format
    land(copied, "now.csv", header, line("W77"), line("W78"), folder="er_visits")
    monitor.look()
    assert {"W77", "W78"} <= monitor.outbox.open_subjects("critical_wait")
    ended = read_copy(copied.warehouse_file, "ended_visits")
    assert ended is not None
    # As of the record of the visit: a newer one would count again.
    pl.concat([ended, pl.DataFrame([("W77", NOW)], ended.schema, orient="row")]).write_parquet(
        copy_file(copied.warehouse_file, "ended_visits")
    )
    monitor.see_who_waits()
    assert {"W77", "W78"} & monitor.outbox.open_subjects("critical_wait") == {"W78"}


def test_the_board_shows_who_waits_before_their_files_are_loaded(copied: Settings, monitor: Monitor) -> None:
    patient = an_adult(copied)
    header = (
        "visit_id,patient_id,hospital_id,department,arrival_time,triage_time,triage_level,"
        "provider_time,chief_complaint,recorded_at"
    )
    arrived = f"W90,{patient},H1,Emergency,2026-03-12 14:50:00,2026-03-12 14:52:00,3,"
    land(copied, "board.csv", header, f"{arrived},hiccups,2026-03-12 14:53:00", folder="er_visits")

    def row() -> list[Patient]:
        board = read_board(copied.warehouse_file, NOW, b"key")
        return [found for found in board.waiting if found.complaint == "hiccups"]

    assert row() == []
    monitor.look()
    (waiting,) = row()
    assert (waiting.triage_level, waiting.waited_minutes, waiting.band) == (3, 10.0, 2)
    assert waiting.age_years is not None and waiting.age_years >= 46
    land(copied, "board.json", observation("90", patient, 55, respiratory_rate=26))
    monitor.look()
    assert [(found.band, found.has_red) for found in row()] == [(1, True)]
    seen = f"{arrived}2026-03-12 14:57:00,hiccups,2026-03-12 14:58:00"
    land(copied, "board-seen.csv", header, seen, folder="er_visits")
    monitor.look()
    assert row() == []


def test_a_landed_file_is_pushed_to_whoever_watches_the_board(copied: Settings, monitor: Monitor) -> None:
    board = LiveBoard(copied.warehouse_file, lambda: NOW, lambda: True)
    lines = (
        "visit_id,patient_id,hospital_id,department,arrival_time,triage_time,triage_level,chief_complaint,recorded_at",
        f"W91,{an_adult(copied)},H1,Emergency,2026-03-12 14:50:00,2026-03-12 14:52:00,3,hiccups,2026-03-12 14:53:00",
    )

    async def follow() -> list[str]:
        stream = board.stream(User("ann", "admin"))
        events = [await anext(stream) for _ in range(3)]
        land(copied, "pushed.csv", *lines, folder="er_visits")
        await asyncio.to_thread(monitor.look)
        while not events[-1].startswith("event: board"):
            events.append(await asyncio.wait_for(anext(stream), 30))
        await stream.aclose()  # type: ignore[attr-defined]
        return events

    _, first, beat, *_, pushed = asyncio.run(follow())
    assert first.startswith("event: board") and beat.startswith("event: beat")
    assert "hiccups" not in first and "hiccups" in pushed


def test_sensors_leave_fresh_files_to_the_watcher(copied: Settings) -> None:
    landed = land(copied, "live.json", observation("S1", "P1", 1)).stat().st_mtime
    definitions = build_definitions(copied)

    def asked(seconds_later: float) -> list[dg.RunRequest]:
        sensor = landing_sensor(
            "vitals", copied, zone(definitions), lambda: datetime.fromtimestamp(landed + seconds_later, UTC)
        )
        with (
            dagster_instance(copied) as instance,
            dg.build_sensor_context(instance=instance, definitions=definitions) as context,
        ):
            found = sensor.evaluate_tick(context)
        return list(found.run_requests or [])

    assert not is_watched(copied)
    with watch_lock(copied) as is_mine:
        assert is_mine and is_watched(copied)
        with watch_lock(copied) as second:
            assert not second
        assert asked(WATCHER_SECONDS - 1) == []
        assert len(asked(WATCHER_SECONDS + 1)) == 1  # the watcher did not manage
    assert not is_watched(copied)
    assert len(asked(WATCHER_SECONDS - 1)) == 1


@pytest.mark.parametrize("feed", ["vitals", ""])
def test_a_look_that_goes_on_after_its_tick_is_the_only_one(
    feed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would keep a thread of the code server, until no sensor looks any more."""
    said: list[object] = []

    def goes_on(*_: object) -> None:
        said.append(sensor(dg.build_sensor_context()))
        raise TimeoutError

    settings = Settings(tmp_path)
    landing = zone(build_definitions(settings))
    monkeypatch.setattr(LandingResource, "held_back", goes_on)
    monkeypatch.setattr("hospital_assets.automation.sensors.open_monitor", goes_on)
    sensor = landing_sensor(feed, settings, landing) if feed else alerts_sensor(settings, landing)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            sensor(dg.build_sensor_context())
    assert [isinstance(each, dg.SkipReason) and each.skip_message for each in said] == [
        "the look before has not ended"
    ] * 2


def test_who_began_with_other_settings_ends_or_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, said = Settings(tmp_path), list[str]()
    write_settings(settings)
    definitions = build_definitions(settings)
    sensor = landing_sensor("vitals", settings, zone(definitions))

    def skipped() -> str:
        found = sensor(dg.build_sensor_context())
        assert isinstance(found, dg.SensorResult) and found.skip_reason is not None
        return str(found.skip_reason.skip_message)

    def changes(*_: object) -> Iterator[bool]:
        yield False
        settings.settings_file.write_text("first_service_date = ")  # somebody is still writing it
        yield False
        write_settings(settings)
        yield False
        assert "start `hospital dev`" not in skipped()
        assert len(said) == 1
        write_settings(replace(settings, last_service_date=date(2030, 1, 1)))
        yield False
        raise AssertionError

    monkeypatch.setattr(watch_module, "_changes", changes)
    monkeypatch.setattr(Monitor, "look", lambda *_, **__: Look({}, 0))
    watch_module.watch(definitions, settings, threading.Event(), said.append)
    assert len(said) == 2 and "hospital.toml has changed" in said[-1]
    assert "start `hospital dev`" in skipped()


@pytest.mark.parametrize(("has_changed", "waits"), [(True, "QUIET_SECONDS"), (False, "_LOOK_SECONDS")])
def test_a_watcher_looks_again_where_the_system_tells_of_nothing(
    has_changed: bool, waits: str, copied: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a changed file has been quiet, and now and then."""
    stop, looks = threading.Event(), []
    monkeypatch.setattr(watch_module, "_LOOK_SECONDS", 3600.0)
    monkeypatch.setattr(watch_module, waits, 0.3)

    def changes(*_: object) -> Iterator[bool]:
        for tick in range(200):
            if stop.wait(0.05):
                return
            yield has_changed and tick == 0

    def look(self: Monitor, quiet_since_ns: int | None = None) -> Look:
        looks.append(time.monotonic())
        if looks[-1] - looks[0] >= 0.3:
            stop.set()
        return Look({}, 0)

    monkeypatch.setattr(watch_module, "_changes", changes)
    monkeypatch.setattr(Monitor, "look", look)
    watch_module.watch(build_definitions(copied), copied, stop)
    assert stop.is_set()


@pytest.mark.nightly
def test_reference_data_is_loaded_once_by_sensor_and_by_watcher(copied: Settings, monitor: Monitor) -> None:
    definitions = build_definitions(copied)
    folder = copied.landing / "native" / "doctors"
    lines = next(folder.glob("*.csv")).read_text().splitlines()
    others = [name for name, contract in CONTRACTS.items() if contract.layer in ("facts", "kpis")]
    before = {name: rows for name, rows in tables(copied) if name in others}

    def is_known(doctor: str) -> bool:
        return bool(query(copied, f"select count(*) from dimensions.dim_doctor where doctor_id = '{doctor}'").item())

    def newcomer(doctor: str) -> float:
        row = lines[1].replace(lines[1].split(",")[0], doctor, 1)
        return land(copied, f"{doctor}.csv", lines[0], row, folder="doctors").stat().st_mtime

    with dagster_instance(copied) as instance:
        now = newcomer("D-SENSOR") + 60
        sensor = landing_sensor("extracts", copied, zone(definitions), lambda: datetime.fromtimestamp(now, UTC))

        def asked() -> list[dg.RunRequest]:
            with dg.build_sensor_context(instance=instance, definitions=definitions) as context:
                return list(sensor.evaluate_tick(context).run_requests or [])

        (request,) = asked()
        assert request.partition_key is None and request.asset_selection is not None
        job = definitions.resolve_job_def("refresh_extracts")
        assert job.execute_in_process(instance=instance, asset_selection=list(request.asset_selection)).success
        assert is_known("D-SENSOR") and asked() == []

        newcomer("D-WATCH")
        Loader(definitions, copied, instance).load(planned(monitor.look().waiting))
        assert is_known("D-WATCH") and not any(monitor.look().waiting.values())
    assert {name: rows for name, rows in tables(copied) if name in others} == before


@pytest.mark.slow
def test_stale_days_whose_refresh_fails_are_asked_for_again(tmp_path: Path) -> None:
    settings = Settings(tmp_path, date(2026, 3, 1), date(2026, 3, 9))
    definitions = build_definitions(settings)
    job = definitions.resolve_job_def("refresh_stale_partitions")

    with dagster_instance(settings) as instance:

        def asked(later_s: float = 0.0) -> list[dg.RunRequest]:
            sensor = stale_partitions_sensor(settings, lambda: datetime.fromtimestamp(time.time() + later_s, UTC))
            with dg.build_sensor_context(instance=instance, definitions=definitions) as context:
                return list(sensor.evaluate_tick(context).run_requests or [])

        def started_run(request: dg.RunRequest) -> dg.DagsterRun:
            return instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=dict(request.tags))

        assert asked() == []
        days = ["2026-03-02", "2026-03-03", "2026-03-07"]
        instance.report_runless_asset_event(dg.AssetMaterialization("stale_partitions", metadata={"days": days}))
        two, one = asked()
        assert two.tags["dagster/asset_partition_range_end"] == "2026-03-03"
        assert one.partition_key == "2026-03-07"
        started_run(one)
        instance.report_run_failed(started_run(two))
        assert asked() == []
        (again,) = asked(PAUSE_SECONDS + 1)
        assert again.run_key != two.run_key and again.tags == two.tags
        instance.report_run_canceled(started_run(again))
        assert asked(PAUSE_SECONDS + 1) == []
        instance.report_runless_asset_event(dg.AssetMaterialization("stale_partitions", metadata={"days": days}))
        assert [request.tags == two.tags for request in asked()] == [False, False]


def test_reference_data_alone_in_a_new_directory_is_loaded(tmp_path: Path) -> None:
    """What its tables are made of besides was never made: the first load makes all tables, also that of a sensor."""
    settings = Settings(tmp_path, date(2026, 3, 1), date(2026, 3, 2))
    write_settings(settings)
    (settings.landing / "native" / "hospitals").mkdir(parents=True)
    definitions = build_definitions(settings)

    def lands(number: int) -> float:
        row = f"H{number},One,America/Chicago"
        header = "hospital_id,hospital_name,time_zone"
        return land(settings, f"{number}.csv", header, row, folder="hospitals").stat().st_mtime

    def asked(now: float, instance: dg.DagsterInstance) -> dg.RunRequest:
        sensor = landing_sensor("extracts", settings, zone(definitions), lambda: datetime.fromtimestamp(now, UTC))
        with dg.build_sensor_context(instance=instance, definitions=definitions) as context:
            (request,) = sensor.evaluate_tick(context).run_requests or []
        return request

    with dagster_instance(settings) as instance:
        first = asked(lands(1) + 60, instance)
        assert (first.job_name, first.asset_selection) == ("full_refresh", None)
        assert first.tags["dagster/asset_partition_range_end"] == "2026-03-02"
        monitor = open_monitor(settings, zone(definitions), FEEDS)
        Loader(definitions, settings, instance).load(planned(monitor.look().waiting))
        assert query(settings, "select hospital_id from dimensions.dim_hospital where hospital_id = 'H1'").height == 1
        assert not any(monitor.look().waiting.values())
        monitor.outbox.close()
        then = asked(lands(2) + 60, instance)
        assert then.job_name == "refresh_extracts" and then.asset_selection is not None


def break_runs_with(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No run that reads this file gets through."""
    read = LandingZone.read

    def broken(self: LandingZone, subject: str, ledger: pl.DataFrame, period: Any = None) -> Any:
        is_bad = pl.col("source_file").str.ends_with(name) & (pl.col("state") == "ready")
        if subject == "vitals" and ledger.select(is_bad.any()).item():
            raise RuntimeError("it broke")
        return read(self, subject, ledger, period)

    monkeypatch.setattr(LandingZone, "read", broken)


@pytest.mark.nightly
def test_a_file_that_always_fails_is_quarantined_by_the_watcher_and_the_rest_goes_on(
    copied: Settings, monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = an_adult(copied)
    land(copied, "good.json", observation("G1", patient, 1))
    land(copied, "bad.json", observation("B1", patient, 2))
    # The alerts' look reads files, too; here it is the loading that breaks.
    waiting = monitor.look().waiting
    said: list[str] = []
    stop = threading.Event()
    stop.set()  # no pause between the tries
    with dagster_instance(copied) as instance, monkeypatch.context() as patched:
        loader = Loader(build_definitions(copied), copied, instance)
        intake = Loading(copied, monitor.landing, partial(carry_out, loader, monitor, stop, said.append))
        break_runs_with("bad.json", patched)
        while step(intake, [file for found in waiting.values() for file in found], said.append):
            waiting = monitor.look().waiting
    assert sum("quarantined" in line for line in said) == 1
    assert sum("it broke" in line for line in said) == MOST_TRIES
    stored = query(copied, "select observation_id from facts.fact_vitals where observation_id in ('G1', 'B1')")
    assert stored["observation_id"].to_list() == ["G1"]
    assert list(monitor.landing.held_back().values()) == ["quarantined"]
    raised = [row["subject"] for row in monitor.outbox.alerts() if row["rule"] == FILE_QUARANTINED]
    assert raised == ["native/vitals/bad.json"]


KILLED_BY_BAD = """
import os, signal, sys
from hospital_assets.automation.watch import Loader
from hospital_assets.cli import main
load = Loader.load
def killed(self, requests):
    if any(path.endswith("bad.json") for request in requests for path in request.files.values()):
        os.kill(os.getpid(), signal.SIGKILL)
    return load(self, requests)
Loader.load = killed
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.nightly
def test_a_file_that_kills_the_watcher_is_quarantined_by_those_that_begin_after(copied: Settings) -> None:
    patient, deaths = an_adult(copied), 0
    land(copied, "good.json", observation("G1", patient, 1))
    land(copied, "bad.json", observation("B1", patient, 2))
    command = [sys.executable, "-c", KILLED_BY_BAD, "--data-dir", str(copied.data_dir), "watch"]

    def is_over() -> bool:
        return "quarantined" in read_quarantine(copied.warehouse_file.parent).values()

    while not is_over() and deaths < 20:
        with started(command, signal.SIGTERM, **QUIET) as process:
            until(lambda: process.poll() is not None or is_over())
            deaths += process.poll() == -signal.SIGKILL
    assert deaths == 3 * MOST_TRIES and list(read_quarantine(copied.warehouse_file.parent).values()) == ["quarantined"]
    stored = query(copied, "select observation_id from facts.fact_vitals where observation_id in ('G1', 'B1')")
    assert stored["observation_id"].to_list() == ["G1"]


@pytest.mark.slow
def test_for_files_that_cannot_be_read_a_refresh_makes_the_ledger_alone(
    copied: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    land(copied, "page.json", "<html>\n<body>sign in</body>\n</html>\n")
    (copied.landing / "stray.csv").write_text("a,b\n1,2\n")
    definitions = build_definitions(copied)
    report = refresh(definitions, copied, zone(definitions))
    assert report is not None and report.not_loaded == {"unreadable": 1, "unrecognised": 1}
    made = {step.name for step in report.steps if not step.name.endswith("_checks")}
    assert made == {"raw_landed_files", "standing"}
    assert refresh(definitions, copied, zone(definitions)) is None
    assert main(["--data-dir", str(copied.data_dir), "status"]) == 0
    said = capsys.readouterr().out
    assert "page.json: this is an HTML page" in said and "stray.csv: no source profile" in said


@pytest.mark.nightly
def test_a_file_that_always_fails_is_quarantined_by_refresh_and_the_rest_goes_on(
    copied: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = an_adult(copied)
    land(copied, "good.json", observation("G1", patient, 1))
    land(copied, "bad.json", observation("B1", patient, 2))
    definitions = build_definitions(copied)
    with monkeypatch.context() as patched:
        break_runs_with("bad.json", patched)
        report = refresh(definitions, copied, zone(definitions))
    assert report is not None and not report.succeeded
    assert report.quarantined == ["native/vitals/bad.json"]
    assert len(report.failures) == len(set(report.failures)) and "raw_vitals: " in report.failures[0]
    stored = query(copied, "select observation_id from facts.fact_vitals where observation_id in ('G1', 'B1')")
    assert stored["observation_id"].to_list() == ["G1"]
    assert refresh(definitions, copied, zone(definitions)) is None  # it does not wait any more


def test_the_clock(tmp_path: Path) -> None:
    open_ended = Settings(tmp_path)
    wall = datetime(2026, 5, 1, tzinfo=UTC)
    assert hospital_now(open_ended, wall) == wall and is_live(open_ended, wall)
    ended = replace(open_ended, last_service_date=NOW.date())
    assert hospital_now(ended, wall) == datetime(2026, 3, 13, 12, tzinfo=UTC)
    assert not is_live(ended, wall)
    write_simulated_clock(ended, SimulatedClock(wall.timestamp(), NOW.timestamp(), 60.0))
    assert is_live(ended, wall)
    assert hospital_now(ended, wall.replace(second=10)) == NOW.replace(minute=10)


# The live simulation ------------------------------------------------------------------------------


def test_a_stopped_simulation_goes_on_and_lands_every_record_once(tmp_path: Path) -> None:
    start = datetime(2026, 3, 5, tzinfo=UTC)
    network = LiveNetwork(
        start="2026-03-05",
        live_start=start.timestamp() + 15 * 3600,
        days=2,
        scale=0.03,
        seed=3,
        dirty=False,
        landed_until=start.timestamp() + 15 * 3600,
    )
    kept = tmp_path / "live.json"
    land_records = prepare(tmp_path / "landing", network)
    assert land_history(land_records, network) > 5
    until = start.timestamp() + 15 * 3600

    def clock() -> Callable[[], float]:
        moments = iter(range(int(until), int(until) + 40 * 3600, 1800))
        return lambda: float(next(moments))

    looks = iter([False] * 7 + [True])
    go_live(land_records, network, clock(), lambda n: write_network(kept, n), lambda _: next(looks))
    stopped = read_network(kept)
    assert stopped is not None and until < stopped.landed_until < start.timestamp() + 48 * 3600
    until = stopped.landed_until
    go_live(prepare(tmp_path / "landing", stopped), stopped, clock(), lambda n: write_network(kept, n), lambda _: False)

    def lines(root: Path) -> list[str]:
        return sorted(
            line for path in (root / "native" / "vitals").glob("*.json") for line in path.read_text().splitlines()
        )

    whole = prepare(tmp_path / "whole", network)
    whole(float("-inf"), start.timestamp() + 48 * 3600)
    assert lines(tmp_path / "landing") == lines(tmp_path / "whole")
    assert not list((tmp_path / "landing").rglob(".*"))
    visits = [
        line
        for path in (tmp_path / "landing" / "native" / "er_visits").glob("*.csv")
        for line in path.read_text().splitlines()
    ]
    # An open visit is recorded at its stages: some records of the same visit, all different.
    numbers = [line.split(",")[0] for line in visits if not line.startswith("visit_id")]
    assert len(set(visits)) - 1 == len(numbers) > 1.5 * len(set(numbers))


# The process --------------------------------------------------------------------------------------


@pytest.mark.nightly
def test_a_watcher_killed_again_and_again_neither_loses_nor_repeats(
    built: tuple[Settings, BuildReport], tmp_path: Path
) -> None:
    """Files land while `hospital watch` is killed; tables and alerts are those of a quiet watcher."""
    settings, _ = built
    rng = random.Random(20261121)
    last = "2026-03-12"
    names = sorted(p.relative_to(settings.landing) for p in settings.landing.rglob("*.*"))
    late = [n for n in names if last in n.name]
    assert len(late) >= 8

    def start_from(folder: Path) -> Settings:
        other = replace(settings, data_dir=folder)
        for name in names:
            if name not in late:
                bring(other, name)
        shutil.copyfile(settings.settings_file, folder / "hospital.toml")
        write_simulated_clock(other, SimulatedClock(0.0, NOW.timestamp(), 0.0))
        run(other)
        return other

    def bring(other: Settings, name: Path) -> None:
        target = other.landing / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        shutil.copyfile(settings.landing / name, temporary)
        temporary.replace(target)

    def watcher(other: Settings) -> AbstractContextManager[subprocess.Popen[str]]:
        log = (other.data_dir / "watch.log").open("a")
        return started(hospital(other.data_dir, "watch"), stdout=log, stderr=log)

    def settle(other: Settings) -> None:
        """Let a watcher work until nothing waits, then end it politely."""
        landing = zone(build_definitions(other))
        subjects = [s for feed in FEEDS.values() for s in feed]
        with watcher(other) as process:
            until(
                lambda: not landing.waiting(subjects, {}) and not is_behind(other),
                process,
                other.data_dir / "watch.log",
            )
            process.send_signal(signal.SIGTERM)
            assert process.wait(300) == 0

    def is_behind(other: Settings) -> bool:
        with dagster_instance(other) as instance:
            event = instance.get_latest_materialization_event(dg.AssetKey("stale_partitions"))
        assert event is not None and event.asset_materialization is not None
        return bool(event.asset_materialization.metadata["days"].value)

    quiet, killed = start_from(tmp_path / "quiet"), start_from(tmp_path / "killed")
    for name in late:
        bring(quiet, name)
    settle(quiet)
    kills = 0
    for name in late:
        with watcher(killed):
            bring(killed, name)
            time.sleep(rng.uniform(1.5, 7))
        kills += 1
    settle(killed)

    assert kills >= 8
    assert dict(tables(killed)) == dict(tables(quiet))
    # The built network's clock stands later, at the end of its days.
    as_of = {name for name, contract in CONTRACTS.items() if "as_of_at" in contract.column_names}
    as_of |= {"kpi_returns", "kpi_readmissions", "kpi_trends"}
    # Hours count once they have begun.
    as_of |= {"fact_bed_occupancy", "kpi_occupancy_daily", "kpi_department_flow_daily"}
    as_of |= {"kpi_crowding_hourly", "kpi_staffing_hourly"}
    # A day that is not over is none that forecasts are made from.
    as_of |= {name for name, contract in CONTRACTS.items() if contract.layer == "forecasts" or "forecast" in name}

    def timeless(other: Settings) -> dict[str, str]:
        return {name: rows for name, rows in tables(other) if name not in as_of}

    assert timeless(quiet) == timeless(settings)

    def raised(other: Settings) -> set[tuple[str, str]]:
        outbox = Outbox(outbox_file(other))
        rows = outbox.alerts(with_resolved=True)
        outbox.close()
        return {(row["rule"], row["subject"]) for row in rows if row["rule"].startswith("critical")}

    # Files in another order: the same people, whatever was first heard of them.
    assert raised(quiet) and raised(killed) == raised(quiet)
    waiting: list[Waiting] = zone(build_definitions(killed)).waiting(["vitals"], {})
    assert waiting == []


def test_a_file_that_waits_is_read_by_the_first_look_alone(
    copied: Settings, monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    landing, read = zone(build_definitions(copied)), []
    real = LandingZone._count

    def count(self: LandingZone, profile: str, subject: str, ledger: pl.DataFrame, is_todo: pl.Expr) -> pl.DataFrame:
        read.extend(ledger.filter(is_todo)["source_file"])
        return real(self, profile, subject, ledger, is_todo)

    monkeypatch.setattr(LandingZone, "_count", count)

    def look(by: str) -> tuple[list[str], list[str]]:
        """Which files wait, and which of them were read to know."""
        read.clear()
        is_watcher = by == "watcher"
        files = monitor.look().waiting["vitals"] if is_watcher else landing.waiting(["vitals"], {}, time.time_ns())
        assert all(file.days == (NOW.date(),) for file in files)
        return sorted(file.source_file.rpartition("/")[2] for file in files), [*dict.fromkeys(read)]

    patient = an_adult(copied)
    for by in ("watcher", "sensor"):
        land(copied, "d.json", observation("D1", patient, 1))
        assert look(by) == (["d.json"], ["native/vitals/d.json"])
        assert look(by) == (["d.json"], [])
        land(copied, "e.json", observation("E1", patient, 1))
        assert look(by) == (["d.json", "e.json"], ["native/vitals/e.json"])
        path = land(copied, "d.json", observation("D1", patient, 2), observation("D2", patient, 2))
        assert look(by) == (["d.json", "e.json"], ["native/vitals/d.json"])
        path.unlink()
        assert look(by) == (["e.json"], [])
        (copied.landing / "native" / "vitals" / "e.json").unlink()
        assert look(by) == ([], [])


def test_a_sensor_looks_into_files_again_only_where_something_has_changed(
    copied: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    landing, looked = zone(build_definitions(copied)), []
    real = LandingZone.discover

    def discover(self: LandingZone, *arguments: Any) -> pl.DataFrame:
        looked.append(1)
        return real(self, *arguments)

    monkeypatch.setattr(LandingZone, "discover", discover)

    def waits(held_back: Mapping[str, str] = {}, quiet: int | None = None) -> tuple[list[str], bool]:
        """Which files wait, and whether files were looked into for that."""
        looked.clear()
        found = landing.waiting(["vitals"], held_back, time.time_ns() if quiet is None else quiet)
        return [file.source_file for file in found], bool(looked)

    assert waits() == ([], True)
    assert waits() == ([], False)
    # Who asks about others is answered by a look of its own.
    assert landing.waiting(["er_visits"], {}, time.time_ns()) == [] and looked
    # A file that may be growing is seen again, although nothing about it changes.
    a_while_ago = time.time_ns()
    path = land(copied, "b.json", observation("B1", an_adult(copied), 1))
    monkeypatch.setattr("hospital_assets.landing.zone.is_finished", lambda _: False)
    assert waits(quiet=a_while_ago) == ([], True)
    assert waits() == (["native/vitals/b.json"], True)
    # As long as it waits, it is looked at.
    assert waits() == (["native/vitals/b.json"], True)
    path.unlink()
    assert waits() == ([], True) and waits() == ([], False)
    # Held back; the ledger published anew; a profile; another day.
    held = query(copied, "select file_sha256 from raw.raw_landed_files where subject = 'vitals' limit 1").item()
    assert waits({held: "held"}) == (waits({held: "held"})[0], True)
    assert waits()[1] and not waits()[1]
    ledger = copied.warehouse_file.with_name("landed_files.parquet")
    shutil.copyfile(ledger, ledger.with_suffix(".new"))
    ledger.with_suffix(".new").replace(ledger)
    assert waits()[1] and not waits()[1]
    copied.profiles_folder.mkdir(exist_ok=True)
    (copied.profiles_folder / "broken.toml").write_text("x")
    assert waits()[1] and not waits()[1]
    monkeypatch.setattr(LandingResource, "_last_day", lambda _: copied.last_service_date or NOW.date())
    assert not waits()[1]
    monkeypatch.setattr(LandingResource, "_last_day", lambda _: NOW.date().replace(day=1))
    assert waits()[1]


@pytest.mark.slow
def test_a_file_that_could_not_be_opened_is_tried_again(copied: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    landing = zone(build_definitions(copied))
    real = zone_module.sha256

    def refused(path: Path, *size: int) -> str:
        if path.name == "c.json":
            raise PermissionError(13, "Permission denied")
        return real(path, *size)

    land(copied, "c.json", observation("C1", an_adult(copied), 1))
    with monkeypatch.context() as patched:
        patched.setattr(zone_module, "sha256", refused)
        # Somebody has loaded it as what it is then: unreadable.
        run(copied)
        assert landing.waiting(["unknown", "vitals"], {}, time.time_ns()) == []
    # Neither its size nor its time changes when it can be read at last.
    found = landing.waiting(["unknown", "vitals"], {}, time.time_ns())
    assert [file.source_file for file in found] == ["native/vitals/c.json"]
