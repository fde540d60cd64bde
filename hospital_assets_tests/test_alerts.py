"""Alerts: the outbox, the rules, delivery to a real HTTP receiver, and what must never be said."""

from __future__ import annotations

import hashlib
import json
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hospital_assets.alerts.notifiers import deliver
from hospital_assets.alerts.outbox import REMEMBERED, Outbox, Signal, VisitState
from hospital_assets.alerts.settings import AlertSettings, Level, NotifierSettings, load_alert_settings
from hospital_assets.assets.cleaned.er_visits import PROVIDER_TIME_UNKNOWN
from hospital_assets.assets.facts.alerts import dated
from hospital_assets.assets.resources import OutboxResource
from hospital_assets.contracts import CONTRACTS
from hospital_assets.landing.registry import load_profiles
from hospital_assets.live.alert_rules import (
    CRITICAL_WAIT,
    board_vitals,
    check_signals,
    critical_waits,
    files_waiting,
    full_departments,
    landed_visits,
    not_lapsed,
    overstays,
    places,
    quarantined_file,
    run_signal,
    scored_vitals,
    silent_feeds,
    unreadable_files,
    visit_states,
    vital_signals,
)
from hospital_assets.live.copies import publish_copy, read_copy
from hospital_assets.live.monitor import Monitor
from hospital_assets.settings import Settings, SettingsError
from hospital_assets.warehouse.database import open_warehouse
from hospital_assets.warehouse.dialect import lazy

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
LOG = NotifierSettings(name="log", kind="log")


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    opened = Outbox(tmp_path / "outbox.sqlite", [LOG])
    yield opened
    opened.close()


def signal(raised: bool | None, at: datetime = NOW, subject: str = "V1", value: float | None = None) -> Signal:
    return Signal("critical_vitals", subject, at, raised, "critical", "so it is", value, 7.0, "NEWS2", "H1")


def states(outbox: Outbox) -> list[tuple[str, str]]:
    return [(row["subject"], row["state"]) for row in outbox.alerts(with_resolved=True)]


# The outbox ---------------------------------------------------------------------------------------


def test_an_alert_is_opened_once_and_resolved(outbox: Outbox) -> None:
    assert outbox.record([signal(True, value=8)], NOW) == 1
    assert outbox.record([signal(True, value=8)], NOW) == 0  # the same again
    assert outbox.record([signal(True, NOW + MINUTE, value=11)], NOW + MINUTE) == 0
    assert outbox.record([signal(True, NOW + 2 * MINUTE, value=9)], NOW + 2 * MINUTE) == 0
    (row,) = outbox.alerts()
    assert (row["value"], row["worst_value"], row["state"]) == (9, 11, "open")
    assert outbox.acknowledge(row["alert_id"], "nurse", NOW)
    assert not outbox.acknowledge(row["alert_id"], "nurse", NOW)
    outbox.record([signal(False, NOW + 3 * MINUTE)], NOW + 3 * MINUTE)
    assert states(outbox) == [("V1", "resolved")]
    assert outbox.record([signal(False, NOW + 4 * MINUTE)], NOW + 4 * MINUTE) == 0


def test_an_older_signal_never_overrules_a_newer_one(outbox: Outbox) -> None:
    outbox.record([signal(True, NOW)], NOW)
    outbox.record([signal(False, NOW - MINUTE)], NOW)
    assert states(outbox) == [("V1", "open")]


def test_a_clock_that_was_ahead_silences_nothing(outbox: Outbox, tmp_path: Path) -> None:
    wall = datetime.now(UTC)
    ahead, later = wall + timedelta(days=400), wall + MINUTE
    outbox.record([signal(True, ahead), signal(True, wall, "V3")], ahead)
    outbox.due(ahead)
    (third,) = (row["alert_id"] for row in outbox.alerts() if row["subject"] == "V3")
    outbox.silence(timedelta(hours=1), "a drill", "nurse", ahead, alert_id=third)
    outbox.record([signal(False, later), signal(False, ahead, "V2")], later)
    assert sorted(states(outbox)) == [("V1", "resolved"), ("V3", "open")]
    outbox.record([signal(True, later, "V2"), signal(False, wall - MINUTE, "V3")], later)
    assert sorted(states(outbox)) == [("V1", "resolved"), ("V2", "open"), ("V3", "open")]
    # What was being sent then, and what is new.
    assert outbox.silences(later) == [] and deliver(outbox, [LOG], tmp_path) == 3
    # What stands a little ahead is of a device, whose newest set counts.
    for raised, minutes in ((True, 60), (False, 0)):
        outbox.record([signal(raised, wall + minutes * MINUTE, "V4")], wall)
    assert ("V4", "open") in states(outbox)


def test_a_snapshot_ends_what_a_clock_that_was_ahead_has_seen(outbox: Outbox) -> None:
    wall = datetime.now(UTC)
    for at, names in ((wall + timedelta(days=400), "ab"), (wall, "b"), (wall + MINUTE, "a")):
        waits = [Signal(CRITICAL_WAIT, name, at, True, "critical", "waits") for name in names]
        outbox.record(waits, at, snapshots={CRITICAL_WAIT: at})
        assert {row["subject"] for row in outbox.alerts()} == set(names)


def test_a_correction_overrules_what_it_takes_into_account_alone(outbox: Outbox) -> None:
    outbox.record([signal(True, NOW)], NOW)
    outbox.record([replace(signal(False, NOW - MINUTE), corrects=frozenset([NOW - MINUTE]))], NOW)
    assert states(outbox) == [("V1", "open")]
    outbox.record([replace(signal(False, NOW - MINUTE), corrects=frozenset([NOW - MINUTE, NOW]))], NOW)
    assert states(outbox) == [("V1", "resolved")]


def test_what_was_said_long_ago_is_forgotten_unless_it_is_still_open(outbox: Outbox) -> None:
    visit = VisitState("V1", "H1", "Emergency", 2, NOW, True, NOW)
    signals = [signal(True), signal(True, subject="V2"), signal(False, NOW + MINUTE, subject="V2")]
    outbox.record(signals, NOW, visits=[visit, replace(visit, visit_id="V3", start_at=NOW + MINUTE)])

    def known(days: timedelta) -> list[list[str]]:
        outbox.record([], NOW + days)
        return [
            [row[0] for row in outbox._rows(f"select {column} from {table} order by 1")]
            for table, column in (("signals", "alert_key"), ("visits", "visit_id"))
        ]

    assert known(REMEMBERED) == [["critical_vitals|V1", "critical_vitals|V2"], ["V1", "V3"]]
    assert known(REMEMBERED + 2 * MINUTE) == [["critical_vitals|V1"], []]
    assert states(outbox) == [("V1", "open"), ("V2", "resolved")]


def test_what_comes_back_within_its_cooldown_is_the_same_alert(outbox: Outbox) -> None:
    cooldown = 30 * MINUTE
    for minute, raised in ((0, True), (5, False), (10, True), (15, False), (60, True)):
        at = NOW + minute * MINUTE
        outbox.record([signal(raised, at)], at, cooldown=cooldown)
        for row in outbox.alerts():
            # Whoever took care of it before is asked again.
            assert row["acknowledged_by"] is None
            outbox.acknowledge(row["alert_id"], "nurse", at)
    rows = outbox.alerts(with_resolved=True)
    assert [(row["state"], row["occurrence_count"]) for row in rows] == [("acknowledged", 1), ("resolved", 2)]


def test_what_a_withdrawal_brings_back_is_open_again(outbox: Outbox, tmp_path: Path) -> None:
    """The newest set that stands is the one that opened the alert."""
    outbox.record([signal(True, value=9)], NOW)
    deliver(outbox, [LOG], tmp_path)
    outbox.record([signal(False, NOW + 30 * MINUTE)], NOW + 30 * MINUTE)
    deliver(outbox, [LOG], tmp_path)
    (row,) = outbox.alerts(with_resolved=True)
    assert row["state"] == "resolved"
    back = replace(signal(True, value=9), corrects=frozenset([NOW, NOW + 30 * MINUTE]))
    for _ in range(2):
        assert outbox.record([back], NOW + 75 * MINUTE, cooldown=30 * MINUTE) == 0
    (row,) = outbox.alerts(with_resolved=True)
    assert (row["state"], row["resolved_at"], row["occurrence_count"]) == ("open", None, 2)
    assert [row["event"] for row in outbox._rows("select event from deliveries order by rowid")] == [
        "opened",
        "resolved",
        "opened",
    ]
    outbox.record([signal(False, NOW + 80 * MINUTE)], NOW + 80 * MINUTE)
    assert states(outbox) == [("V1", "resolved")]


def test_an_older_alert_that_is_open_again_is_the_one_that_ends(outbox: Outbox) -> None:
    for hour, raised in ((0, True), (1, False), (2, True), (3, False)):
        outbox.record([signal(raised, NOW + hour * 60 * MINUTE)], NOW + hour * 60 * MINUTE)
    moments = frozenset([NOW, NOW + 180 * MINUTE])
    outbox.record([replace(signal(True), corrects=moments)], NOW + 240 * MINUTE)
    assert [row["opened_at"] for row in outbox.alerts()] == [outbox.alerts(with_resolved=True)[-1]["opened_at"]]
    outbox.record([signal(False, NOW + 300 * MINUTE)], NOW + 300 * MINUTE)
    assert states(outbox) == [("V1", "resolved")] * 2


def delivery_counts(outbox: Outbox) -> dict[str, int]:
    """Messages by how they stand: delivered, waiting, given_up."""
    rows = outbox._rows(
        "select case when delivered_at is not null then 'delivered' when given_up_at is not null then 'given_up' "
        "else 'waiting' end, count(*) from deliveries group by 1"
    )
    return dict(tuple(row) for row in rows)


def test_what_was_over_before_anybody_was_told_is_not_told(outbox: Outbox, tmp_path: Path) -> None:
    outbox.record([signal(True), signal(False, NOW + MINUTE)], NOW + MINUTE)
    assert delivery_counts(outbox) == {}
    outbox.record([signal(True, subject="V2")], NOW)
    assert deliver(outbox, [LOG], tmp_path) == 1
    outbox.record([signal(False, NOW + MINUTE, subject="V2")], NOW + MINUTE)
    assert deliver(outbox, [LOG], tmp_path) == 1  # who was told hears that it is over
    assert delivery_counts(outbox) == {"delivered": 2}


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ("raised over raised", ["opened"]),
        ("raised sent over raised", ["opened"]),
        ("raised sent over sent raised", ["opened", "resolved", "opened"]),
        ("raised sent over sent raised over raised", ["opened", "resolved", "opened"]),
        ("raised sent over sent raised sent over", ["opened", "resolved", "opened", "resolved"]),
        ("raised over", []),
    ],
)
def test_the_last_word_is_how_it_stands(outbox: Outbox, tmp_path: Path, turns: str, said: list[str]) -> None:
    """Also of what comes back within its cooldown."""
    for minute, turn in enumerate(turns.split()):
        at = NOW + minute * MINUTE
        if turn == "sent":
            deliver(outbox, [LOG], tmp_path)
        else:
            outbox.record([signal(turn == "raised", at)], at, cooldown=30 * MINUTE)
    deliver(outbox, [LOG], tmp_path)
    events = [row["event"] for row in outbox._rows("select event from deliveries order by rowid")]
    assert events == said


def test_each_notifier_is_told_what_it_does_not_know(tmp_path: Path) -> None:
    """One that has not heard of an alert yet does not keep another from hearing of its end."""
    both = Outbox(tmp_path / "outbox.sqlite", [LOG, LOG.model_copy(update={"name": "other"})])
    both.record([signal(True)], NOW)
    both._connection.execute("update deliveries set delivered_at = created_at where notifier = 'log'")
    both.record([signal(False, NOW + MINUTE)], NOW + MINUTE)
    rows = both._rows("select notifier, event from deliveries order by rowid")
    assert [tuple(row) for row in rows] == [(LOG.name, "opened"), (LOG.name, "resolved")]
    both.close()


def test_what_comes_back_in_a_silence_is_sent_when_it_ends(outbox: Outbox) -> None:
    outbox.silence(timedelta(hours=1), "the sensor is changed", "nurse", datetime.now(UTC), rule="critical_vitals")
    for minute, raised in enumerate((True, False, True)):
        outbox.record([signal(raised, NOW + minute * MINUTE)], NOW + minute * MINUTE, cooldown=30 * MINUTE)
    assert delivery_counts(outbox) == {"waiting": 1}


def test_a_snapshot_ends_what_it_does_not_name(outbox: Outbox) -> None:
    waits = [Signal(CRITICAL_WAIT, name, NOW, True, "critical", "waits") for name in "ab"]
    outbox.record(waits, NOW, snapshots={CRITICAL_WAIT: NOW})
    later = NOW + MINUTE
    outbox.record([Signal(CRITICAL_WAIT, "a", later, None, "critical", "")], later, snapshots={CRITICAL_WAIT: later})
    assert sorted(states(outbox)) == [("a", "open"), ("b", "resolved")]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 6), st.booleans()), max_size=12), st.data())
def test_records_cut_anywhere_and_repeated_leave_the_same_alerts(
    tmp_path_factory: pytest.TempPathFactory, found: list[tuple[str, int, bool]], data: st.DataObject
) -> None:
    """A restart repeats what was being recorded: nothing is lost, nothing comes twice."""
    by_moment = {(name, minute): raised for name, minute, raised in found}
    signals = [
        signal(raised, NOW + minute * MINUTE, name)
        for (name, minute), raised in sorted(by_moment.items(), key=lambda item: item[0][1])
    ]
    folder = tmp_path_factory.mktemp("outbox")
    once = Outbox(folder / "once.sqlite", [LOG])
    for one in signals:
        once.record([one], one.observed_at)
    cut = data.draw(st.integers(0, len(signals)))
    again = Outbox(folder / "again.sqlite", [LOG])
    for one in signals[:cut]:
        again.record([one], one.observed_at)
    again.close()
    again = Outbox(folder / "again.sqlite", [LOG])
    for one in signals:
        again.record([one], one.observed_at)

    def told(outbox: Outbox) -> list[tuple[Any, ...]]:
        rows = outbox.alerts(with_resolved=True)
        return sorted((r["alert_id"], r["state"], r["occurrence_count"]) for r in rows)

    assert told(once) == told(again)
    once.close()
    again.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 4), st.booleans()), max_size=10))
def test_who_is_critical_does_not_depend_on_the_order_in_which_it_is_heard(
    tmp_path_factory: pytest.TempPathFactory, found: list[tuple[str, int, bool]]
) -> None:
    """What was observed last holds; of two sets of one moment the critical one."""
    outbox = Outbox(tmp_path_factory.mktemp("outbox") / "outbox.sqlite", [LOG])
    for name, minute, raised in found:
        outbox.record([signal(raised, NOW + minute * MINUTE, name)], NOW)
    newest = {name: max((minute, raised) for of, minute, raised in found if of == name) for name, _, _ in found}
    assert outbox.open_subjects("critical_vitals") == {name for name, (_, raised) in newest.items() if raised}
    outbox.close()


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    first, second = (Outbox(tmp_path / "outbox.sqlite", [LOG]) for _ in range(2))
    found = [signal(True, subject=f"V{number}") for number in range(20)]
    threads = [
        threading.Thread(target=box.record, args=(found, NOW), kwargs={"assessed": ["sha"]}) for box in (first, second)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(first.alerts()) == 20
    assert first.not_assessed(["sha", "other"]) == {"other"}
    # Older programs noted the hash of the content alone.
    digest = hashlib.sha256().hexdigest()
    first.record([], NOW, assessed=[digest])
    assert first.not_assessed([f"native:{digest}", f"native:{digest[::-1]}"]) == {f"native:{digest[::-1]}"}
    wall = datetime.now(UTC)
    assert len(first.due(wall)) + len(second.due(wall)) == 20
    first.close()
    second.close()


def test_threads_share_one_outbox(outbox: Outbox) -> None:
    """As looking, loading and sending do in a process that watches."""

    def work(name: int) -> int:
        found = 0
        for minute in range(100):
            at = NOW + minute * MINUTE
            found += outbox.record([signal(minute % 2 == 0, at, f"V{name}")], at, assessed=[f"{name}-{minute}"])
            assert not outbox.not_assessed([f"{name}-{minute}"])
            for delivery in outbox.due(datetime.now(UTC)):
                outbox.delivered(delivery, datetime.now(UTC))
        return found

    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(work, range(3))) == [50] * 3
    assert outbox.alerts() == []


# The rules ----------------------------------------------------------------------------------------

HOSPITALS = pl.DataFrame({"hospital_id": ["H1"], "time_zone": ["America/Chicago"]})
ALWAYS = (datetime(1900, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))
PATIENTS = pl.DataFrame(
    {
        "patient_id": ["adult", "child"],
        "patient_key": [1, 2],
        "birth_date": [date(1960, 1, 1), date(2020, 1, 1)],
        "age_at_extract_years": [65, 5],
        "valid_from_at": [ALWAYS[0]] * 2,
        "valid_to_at": [ALWAYS[1]] * 2,
    },
    schema_overrides={"valid_from_at": pl.Datetime("us", "UTC"), "valid_to_at": pl.Datetime("us", "UTC")},
)
WELL = {
    "respiratory_rate": 16,
    "spo2": 98,
    "systolic_bp": 120,
    "diastolic_bp": 80,
    "heart_rate": 70,
    "temperature": 37.0,
}


def landed_vitals(patient: str = "adult", minute: int = 0, **values: Any) -> dict[str, Any]:
    measured = {name: value for name, value in {**WELL, **values}.items() if name in WELL}
    payload = {
        name: {"value": value, "unit": "Cel" if name == "temperature" else None}
        for name, value in measured.items()
        if value is not None
    } | {"consciousness": values.get("consciousness", "A"), "on_oxygen": values.get("on_oxygen", False)}
    return {
        "observation_id": f"O{patient}{minute}",
        "visit_id": f"V-{patient}",
        "patient_id": patient,
        "hospital_id": "H1",
        "payload": json.dumps(payload),
        "measured_at": f"2026-01-15T06:{minute:02d}:00-06:00",
        "recorded_at": f"2026-01-15T06:{minute:02d}:05-06:00",
        "source_profile": "native",
        "source_file": "f",
        "source_line": minute + 1,
        "source_part": 1,
        "service_date": date(2026, 1, 15),
    }


def raw(table: str, *rows: dict[str, Any]) -> pl.DataFrame:
    schema = CONTRACTS[table].polars_schema
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)


def copies_of(folder: Path, tables: Mapping[str, Sequence[dict[str, Any]]], *names: str) -> list[pl.DataFrame]:
    """The copies of a warehouse that has some rows of these tables."""
    file = folder / "warehouse" / "hospital.duckdb"
    with open_warehouse(file) as warehouse:
        for name, rows in tables.items():
            contract = CONTRACTS[name]
            frame = raw(name, *rows) if rows else pl.DataFrame(schema=contract.polars_schema)
            warehouse.connection.register("given", frame.to_arrow())
            warehouse.connection.execute(f"create schema if not exists {contract.layer}")
            warehouse.connection.execute(f"create table {contract.layer}.{name} as from given")
        for name in names:
            publish_copy(warehouse, name)
    found = [read_copy(file, name) for name in names]
    return [copy for copy in found if copy is not None]


@pytest.mark.parametrize(
    ("patient", "values", "raised", "says"),
    [
        ("adult", {}, False, ""),
        (
            "adult",
            {"respiratory_rate": 22, "spo2": 95, "systolic_bp": 105, "heart_rate": 112, "temperature": 38.5},
            True,
            "NEWS2 7",
        ),
        ("adult", {"respiratory_rate": 25}, True, "3 points"),
        ("adult", {"temperature": 40.0}, True, "temperature 40.0"),
        ("adult", {"heart_rate": None}, None, ""),  # what is missing may be what was critical
        ("child", {"heart_rate": 150}, False, ""),  # NEWS2 and its limits are not for children
        ("child", {"spo2": 88}, True, "SpO2 88.0 % (limit 90)"),
        ("nobody", {"heart_rate": 150}, True, "heart rate 150"),  # unknown age: better once too often
        ("nobody", {}, False, ""),  # and what was raised clears
        ("nobody", {"heart_rate": None}, None, ""),
        ("adult", {"heart_rate": 0}, True, "a vital sign of 0"),  # asystole, or the lead is off
        ("child", {"respiratory_rate": 0}, True, "a vital sign of 0"),
        ("nobody", {"spo2": 0}, True, "a vital sign of 0"),
        ("adult", {"systolic_bp": 0}, True, "a vital sign of 0"),
        ("adult", {"diastolic_bp": 0}, False, ""),  # sounds that are heard down to 0
    ],
)
def test_critical_vitals(patient: str, values: dict[str, Any], raised: bool | None, says: str) -> None:
    rows = raw("raw_vitals", landed_vitals(patient, **values))
    (found,) = vital_signals(scored_vitals(rows, HOSPITALS, PATIENTS, load_profiles(None)), AlertSettings())
    assert found.is_raised is raised
    assert found.observed_at == NOW
    assert says in found.summary
    assert patient not in found.summary


#: FHIR R4, encounter-status.
STATUSES = ("arrived", "triaged", "in-progress", "onleave", "finished", "cancelled", "entered-in-error", "unknown")


def test_vital_signs_of_a_day_alone_have_no_score_and_say_nothing_of_now() -> None:
    by_day = landed_vitals(spo2=70) | {"measured_at": "2026-01-15"}
    rows = raw("raw_vitals", by_day, landed_vitals("nobody", heart_rate=150) | {"measured_at": "2026-01-15"})
    observed = scored_vitals(rows, HOSPITALS, PATIENTS, load_profiles(None))
    (adult,) = observed.filter(patient_id="adult").iter_rows(named=True)
    assert (adult["spo2_pct"], adult["quality_codes"]) == (70, "measured_time_unknown")
    assert adult["measured_at"] == NOW + timedelta(seconds=5)  # when its record was written
    assert (adult["news2_score"], adult["news2_missing_count"], adult["news2_response"]) == (None, 7, None)
    assert vital_signals(observed, AlertSettings()) == [] and board_vitals(observed).is_empty()


def test_in_the_hour_that_is_repeated_no_critical_set_is_taken_for_an_older_one(outbox: Outbox) -> None:
    """A clock without an offset does not say whether 01:15 is before or after 01:50."""
    for minute, rate, is_open in ((110, 70, False), (75, 150, True), (100, 70, True), (121, 70, False)):
        clock = f"2026-11-01T{minute // 60:02d}:{minute % 60:02d}:00"
        record = landed_vitals(minute=minute, heart_rate=rate) | {"measured_at": clock, "recorded_at": clock}
        observed = scored_vitals(raw("raw_vitals", record), HOSPITALS, PATIENTS, load_profiles(None))
        outbox.record(vital_signals(observed, AlertSettings()), datetime(2026, 11, 1, 7, 30, tzinfo=UTC))
        assert bool(outbox.alerts()) is is_open, minute


def test_the_newest_scores_of_who_is_there_are_of_known_times(tmp_path: Path) -> None:
    at = NOW - timedelta(hours=1)
    visit = {"visit_id": "V", "service_date": at.date(), "is_open": True, "department_key": 1}
    sets = [{"visit_id": "V", "service_date": at.date(), "news2_score": n, "measured_at": at} for n in (3, None)]
    sets[0]["quality_codes"], sets[1]["quality_codes"] = "unit_converted", "measured_time_unknown"
    sets[1]["measured_at"] = NOW
    rows: dict[str, list[dict[str, Any]]] = {
        "fact_emergency_visits": [visit],
        "cleaned_er_visits": [{"visit_id": "V", "service_date": at.date()}],
        "fact_vitals": sets,
        "dim_department": [{"department_key": 1}],
        "dim_doctor": [],
    }
    (copy,) = copies_of(tmp_path, rows, "open_visits")
    assert copy.select("news2_score", "previous_news2_score").rows() == [(3, None)]


def test_a_visit_waits_until_it_is_seen_or_gone() -> None:
    def record(visit: str, minute: int, **values: str) -> dict[str, Any]:
        return {
            "visit_id": visit,
            "patient_id": f"P-{visit}",
            "hospital_id": "H1",
            "department": "Emergency",
            "arrival_time": "2026-01-15 06:00:00",
            "triage_level": "2",
            "triage_time": "2026-01-15 05:58:00",
            "source_profile": "native",
            "source_file": "f",
            "recorded_at": f"2026-01-15 06:{minute:02d}:00",
            "source_line": minute,
            "source_part": 1,
            "service_date": date(2026, 1, 15),
            **values,
        }

    rows = raw(
        "raw_er_visits",
        record("waits", 1),
        record("seen", 1),
        record("seen", 9, provider_time="2026-01-15 06:08:00"),
        record("left", 1, departure_time="2026-01-15 06:20:00"),
        record("left that day", 1, departure_time="2026-01-15"),
        record("left that day, written nobody knows when", 1, departure_time="2026-01-15", recorded_at=None),
        record("minor", 1, triage_level="4"),
        record("seen that day", 1, provider_time="2026-01-15"),
        *(record(status, 1, visit_status=status) for status in STATUSES),
    )
    visits = {visit.visit_id: visit for visit in visit_states(landed_visits(rows, HOSPITALS, load_profiles(None)))}
    assert sorted(name for name, visit in visits.items() if visit.is_waiting) == [
        "arrived",
        "triaged",
        "unknown",
        "waits",
    ]
    assert visits["waits"].start_at == NOW - 2 * MINUTE  # triage came before registration

    level = Level(raise_at=15, clear_at=12)
    for minutes, raised in ((10, False), (11, None), (12, None), (13, True)):
        (found,) = critical_waits([visits["waits"]], NOW + minutes * MINUTE, level)
        assert found.is_raised is raised, minutes
        assert "waits" not in found.summary.split() and found.department_name == "Emergency"


def test_who_was_seen_at_an_unknown_time_is_seen_in_the_copy_of_a_run(tmp_path: Path) -> None:
    def row(table: str, **values: Any) -> dict[str, Any]:
        return {**dict.fromkeys(CONTRACTS[table].column_names), "service_date": NOW.date(), **values}

    def visit(name: str, codes: str) -> tuple[dict[str, Any], dict[str, Any]]:
        is_cancelled = name == "cancelled"
        fact = {"visit_id": name, "is_open": True, "is_cancelled": is_cancelled, "department_key": 1, "arrival_at": NOW}
        cleaned = {"visit_id": name, "quality_codes": codes, "recorded_at": NOW + MINUTE}
        return row("fact_emergency_visits", **fact), row("cleaned_er_visits", **cleaned)

    seen = visit("seen", f"x;{PROVIDER_TIME_UNKNOWN.name}")
    facts, cleaned = zip(seen, visit("waits", ""), visit("cancelled", ""), strict=True)
    department = {**dict.fromkeys(CONTRACTS["dim_department"].column_names), "department_key": 1}
    tables = {"fact_emergency_visits": facts, "cleaned_er_visits": cleaned, "dim_department": [department]}
    tables |= {"fact_vitals": (), "dim_doctor": ()}
    copy, ended = copies_of(tmp_path, tables, "open_visits", "ended_visits")
    provider_at = dict(copy.select("visit_id", "provider_at").iter_rows())
    assert provider_at == {"seen": NOW + MINUTE, "waits": None, "cancelled": None}
    # Nobody waits who never came.
    assert ended.rows() == [("cancelled", NOW + MINUTE)]


def test_who_came_three_days_ago_may_still_be_there(tmp_path: Path) -> None:
    """As long as anybody counts as present; those who came then and have left are known, too."""
    days = {"west": 4, "boards": 3, "left": 3, "newest": 0}
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ("fact_vitals", "dim_doctor")}
    on = {name: NOW.date() - timedelta(days=ago) for name, ago in days.items()}
    rows["fact_emergency_visits"] = [
        {"visit_id": name, "service_date": day, "is_open": name != "left", "is_cancelled": False, "department_key": 1}
        for name, day in on.items()
    ]
    rows["cleaned_er_visits"] = [{"visit_id": name, "service_date": day} for name, day in on.items()]
    rows["dim_department"] = [{"department_key": 1}]
    there, ended = copies_of(tmp_path, rows, "open_visits", "ended_visits")
    assert set(there["visit_id"]) == {"west", "boards", "newest"} and ended["visit_id"].to_list() == ["left"]


def test_the_newest_record_of_each_hospital_that_delivers_is_known(tmp_path: Path) -> None:
    visits = [("H1", 0, NOW - MINUTE), ("H1", 0, NOW - 2 * MINUTE), ("H2", 31, None), ("closed", 32, NOW)]
    rows = [
        {"hospital_id": hospital, "service_date": at.date(), "arrival_at": at, "recorded_at": recorded_at}
        for hospital, days, recorded_at in visits
        for at in [NOW - timedelta(days=days)]
    ]
    (copy,) = copies_of(tmp_path, {"cleaned_er_visits": rows}, "newest_records")
    assert set(copy.iter_rows()) == {("H1", NOW - MINUTE), ("H2", NOW - timedelta(days=31))}


def test_an_open_stay_is_beside_the_beds_of_today(tmp_path: Path) -> None:
    """Beds that are planned are no beds yet."""
    span = [ALWAYS[0], NOW - MINUTE, NOW + MINUTE, ALWAYS[1]]
    versions = [
        {"department_key": key, "department_id": "ICU", "hospital_id": "H1", "department_name": "ICU"}
        | {"valid_from_at": span[key], "valid_to_at": span[key + 1], "is_current": key == 2, "bed_capacity": beds}
        for key, beds in enumerate((4, 5, 9))
    ]
    stay = {"stay_id": "V1", "department_key": 0, "is_open": True, "segment_start_at": NOW, "service_date": NOW.date()}
    tables = {"fact_patient_flow": [stay], "dim_department": versions, "dim_patient": []}
    (copy,) = copies_of(tmp_path, tables, "open_stays")
    assert copy.select("stay_id", "bed_capacity").rows() == [("V1", 5)]


def test_waiting_visits_are_remembered_by_their_newest_record(outbox: Outbox) -> None:
    def visit(is_waiting: bool, minute: int) -> VisitState:
        at = NOW + minute * MINUTE
        return VisitState("V1", "H1", "Emergency", 1, NOW, is_waiting, at)

    outbox.record([], NOW, visits=[visit(True, 1)])
    assert [v.visit_id for v in outbox.waiting_visits(NOW)] == ["V1"]
    outbox.record([], NOW, visits=[visit(False, 5)])
    outbox.record([], NOW, visits=[visit(True, 2)])  # an older record lands late
    assert outbox.waiting_visits(NOW) == []
    # Of a source that does not say when it writes, each record is as of the arrival.
    outbox.record([], NOW, visits=[replace(visit(True, 0), visit_id="V2")])
    outbox.record([], NOW, visits=[replace(visit(False, 0), visit_id="V2")])
    assert outbox.waiting_visits(NOW) == []


def test_departments() -> None:
    stays = pl.DataFrame(
        {
            "hospital_id": "H1",
            "department_id": ["icu"] * 3 + ["ed"] * 2,
            "department_name": ["ICU"] * 3 + ["Emergency"] * 2,
            "bed_capacity": [3] * 3 + [4] * 2,
            "stay_class": ["emergency"] * 3 + ["inpatient", "emergency"],
            "stay_start_at": [NOW - timedelta(hours=h) for h in (50, 51, 99, 500, 2)],
        }
    ).with_columns(
        segment_start_at=pl.lit(NOW - timedelta(hours=1)), segment_end_at=pl.lit(None, dtype=pl.Datetime("us", "UTC"))
    )
    limits = AlertSettings().overstay_hours
    (over,) = overstays(stays, NOW, limits)
    assert (over.subject, over.value) == ("icu", 2.0) and "the longest 99 h" in over.summary
    # Who lies in a ward for three weeks is one; who was placed there longer ago than anybody stays is no patient.
    later = NOW + timedelta(hours=5)
    assert {s.subject for s in overstays(not_lapsed(stays, later), later, limits)} == {"icu", "ed"}
    long_ago = stays.with_columns(segment_start_at=pl.lit(NOW - timedelta(hours=73)))
    assert not_lapsed(long_ago, NOW)["stay_class"].to_list() == ["inpatient"]
    full = {s.subject: s for s in full_departments(stays, NOW, Level(raise_at=100, clear_at=95))}
    assert full["icu"].is_raised is True and full["icu"].value == 100.0
    assert full["ed"].is_raised is False


def test_sets_of_one_patient_are_of_one_visit_and_say_where() -> None:
    stays = pl.DataFrame({"stay_id": ["V-adult"], "patient_id": ["adult"], "department_name": ["ICU"], "bed_id": ["7"]})
    visits = pl.DataFrame(
        {"visit_id": ["V-adult", "V-child"], "patient_id": ["adult", "child"], "department_name": ["Emergency"] * 2}
    ).with_columns(departure_at=pl.lit(None, pl.Datetime("us", "UTC")))
    where = places(stays, visits)
    rows = raw(
        "raw_vitals",
        landed_vitals("adult", 0, spo2=80),
        landed_vitals("adult", 1, spo2=81) | {"visit_id": None},
        landed_vitals("child", 2, spo2=82) | {"visit_id": None},
    )
    observed = scored_vitals(rows, HOSPITALS, PATIENTS, load_profiles(None))
    found = vital_signals(observed, AlertSettings(), where)
    assert {(s.subject, s.department_name, s.summary.startswith("bed 7, ")) for s in found} == {
        ("V-adult", "ICU", True),
        ("V-child", "Emergency", False),
    }
    assert {s.department_name for s in vital_signals(observed, AlertSettings(), places(None))} == {None}


def test_limits_are_inclusive_as_the_documentation_says() -> None:
    (feed,) = silent_feeds({"vitals": NOW - 60 * MINUTE}, {"vitals": 60}, NOW)
    since = int((NOW - 15 * MINUTE).timestamp() * 1e9)
    assert feed.is_raised and files_waiting([since], 15, NOW)[0].is_raised
    assert not files_waiting([], 0, NOW)[0].is_raised


def test_silence_and_files_left_waiting() -> None:
    feeds = {"vitals": NOW - 61 * MINUTE, "adt": NOW - 59 * MINUTE, "other": NOW - timedelta(days=9)}
    found = {s.subject: s.is_raised for s in silent_feeds(feeds, {"vitals": 60, "adt": 60}, NOW)}
    assert found == {"vitals": True, "adt": False}
    since = int((NOW - 16 * MINUTE).timestamp() * 1e9)
    assert files_waiting([since], 15, NOW)[0].is_raised is True
    assert files_waiting([], 15, NOW)[0].is_raised is False


def test_a_file_of_the_future_hides_no_silence() -> None:
    """By its own time, which another machine's clock may have given it."""
    rows = [
        ("vitals", NOW - 90 * MINUTE, NOW - 89 * MINUTE),
        ("vitals", NOW + timedelta(days=400), NOW - 80 * MINUTE),
        ("vitals", NOW + timedelta(days=400), NOW + timedelta(days=400)),
        ("adt", NOW + timedelta(days=400), NOW + timedelta(days=400)),
    ]
    ledger = pl.DataFrame(
        [(subject, int(modified.timestamp()) * 10**9, seen) for subject, modified, seen in rows],
        schema={"subject": pl.String, "file_modified_ns": pl.Int64, "first_seen_at": pl.Datetime("us", "UTC")},
        orient="row",
    )
    feeds = SimpleNamespace(feeds={"vitals": ("vitals",), "adt": ("adt",)})
    assert Monitor._newest_files(feeds, ledger, NOW) == {"vitals": NOW - 80 * MINUTE}  # type: ignore[arg-type]


def test_runs_and_checks() -> None:
    assert run_signal("daily_batch", "abcdef123456", ["fact_vitals"], NOW).is_raised is True
    assert run_signal("daily_batch", "abcdef123456", None, NOW).is_raised is False

    def evaluation(name: str, passed: bool, severity: dg.AssetCheckSeverity) -> dg.AssetCheckEvaluation:
        return dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey("fact_vitals"), check_name=name, passed=passed, severity=severity, metadata={}
        )

    error, warn = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
    found = check_signals(
        [
            evaluation("key", False, error),
            evaluation("values", True, error),
            evaluation("plausible", False, warn),
            evaluation("stream_offsets", False, warn),
        ],
        NOW,
    )
    # Of warnings only those that say what a source did.
    assert {s.subject: s.is_raised for s in found} == {
        "fact_vitals.key": True,
        "fact_vitals.values": False,
        "fact_vitals.stream_offsets": True,
    }


# Delivery -----------------------------------------------------------------------------------------


class Receiver:
    """A local HTTP receiver that answers as told and keeps what it was sent."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.received: list[tuple[dict[str, str], Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.received.append((dict(self.headers), body))
                self.send_response(outer.answers.pop(0) if outer.answers else 200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/SECRET-TOKEN"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


def overdue(outbox: Outbox) -> None:
    """Let the pause before the next attempt be over."""
    outbox._connection.execute("update deliveries set next_attempt_at = '2000-01-01T00:00:00.0Z'")


def test_two_503_and_then_success_is_one_delivery(
    receiver: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hook = NotifierSettings(name="hook", kind="webhook", url=receiver.url)
    outbox = Outbox(tmp_path / "outbox.sqlite", [hook])
    outbox.record([signal(True, value=9)], NOW)
    outbox.record([signal(True, value=9)], NOW)  # a duplicate
    receiver.answers = [503, 503]
    assert deliver(outbox, [hook], tmp_path) == 0
    assert deliver(outbox, [hook], tmp_path) == 0  # not yet: it pauses
    assert len(receiver.received) == 1
    overdue(outbox)
    assert deliver(outbox, [hook], tmp_path) == 0
    overdue(outbox)
    assert deliver(outbox, [hook], tmp_path) == 1
    overdue(outbox)
    assert deliver(outbox, [hook], tmp_path) == 0
    assert delivery_counts(outbox) == {"delivered": 1}
    keys = {headers["Idempotency-Key"] for headers, _ in receiver.received}
    assert len(receiver.received) == 3 and len(keys) == 1
    body = receiver.received[-1][1]
    assert body["value"] == 9 and body["hospital_id"] == "H1"
    assert "V1" not in json.dumps(body)
    assert "SECRET" not in caplog.text and receiver.url not in caplog.text
    assert "SECRET" not in repr(hook)
    outbox.close()


def test_redirects_are_not_followed(receiver: Receiver, tmp_path: Path) -> None:
    hook = NotifierSettings(name="hook", kind="webhook", url=receiver.url)
    outbox = Outbox(tmp_path / "outbox.sqlite", [hook])
    outbox.record([signal(True)], NOW)
    receiver.answers = [307]
    assert deliver(outbox, [hook], tmp_path) == 0 and len(receiver.received) == 1
    (alert,) = outbox.alerts()
    assert "redirects are not followed" in "".join(outbox.explain(alert["alert_id"], NOW))
    outbox.close()


def test_files_stay_in_the_data_directory(tmp_path: Path) -> None:
    for path in ("/etc/cron.d/x", "../x", "a/../../x", ""):
        with pytest.raises(ValidationError, match="below the data directory"):
            NotifierSettings(name="file", kind="file", path=path)
    data = tmp_path / "data"
    data.mkdir()
    (data / "out").symlink_to(tmp_path)
    (data / "link.jsonl").symlink_to(tmp_path / "elsewhere.jsonl")
    for path, arrives in (("out/x.jsonl", 0), ("link.jsonl", 0), ("own/x.jsonl", 1)):
        notifier = NotifierSettings(name="file", kind="file", path=path)
        outbox = Outbox(data / f"{arrives}{path[:3]}.sqlite", [notifier])
        outbox.record([signal(True)], NOW)
        assert deliver(outbox, [notifier], data) == arrives
        outbox.close()
    assert stat.S_IMODE((data / "own" / "x.jsonl").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_somebody_can_have_it_silent_and_sees_why(tmp_path: Path) -> None:
    wall = datetime.now(UTC)
    outbox = Outbox(tmp_path / "outbox.sqlite", [LOG])
    outbox.record([signal(True)], NOW)
    (alert,) = outbox.alerts()
    number = outbox.silence(2 * 60 * MINUTE, "the sensor is being changed", "ann", wall, alert_id=alert["alert_id"])
    outbox.silence(60 * MINUTE, "a drill", "bob", wall, rule="critical_vitals", hospital_id="H2")
    assert deliver(outbox, [LOG], tmp_path) == 0
    words = "\n".join(outbox.explain(alert["alert_id"], wall))
    assert "by ann: the sensor is being changed" in words and "opened, log: next attempt" in words
    # Others go out; at its end, or when it is ended, what is open is sent.
    outbox.record([signal(True, subject="V2")], NOW)
    assert deliver(outbox, [LOG], tmp_path) == 1
    assert [delivery.notifier for delivery in outbox.due(wall + 3 * 60 * MINUTE)] == ["log"]
    assert outbox.end_silence(number, wall) and not outbox.end_silence(number, wall)
    assert len(outbox.silences(wall)) == 1
    # What is over before it ends needs no message at all.
    outbox.record([signal(True, subject="V3")], NOW)
    (third,) = (row for row in outbox.alerts() if row["subject"] == "V3")
    outbox.silence(MINUTE, "a drill", "bob", wall, alert_id=third["alert_id"])
    outbox.record([signal(False, NOW + MINUTE, "V3")], NOW)
    assert not outbox.explain(third["alert_id"], wall)[2:]
    for wrong in (
        {"span": timedelta(days=2), "reason": "x", "rule": "occupancy"},
        {"span": MINUTE, "reason": " ", "rule": "occupancy"},
        {"span": MINUTE, "reason": "x"},
        {"span": MINUTE, "reason": "x", "alert_id": "none"},
    ):
        with pytest.raises(ValueError, match="silence|silent|no alert"):
            outbox.silence(by="ann", wall=wall, **wrong)  # type: ignore[arg-type]
    outbox.close()


def test_slack_form(receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", receiver.url)
    hook = NotifierSettings(name="hook", kind="webhook", url_env="HOOK", form="slack")
    outbox = Outbox(tmp_path / "outbox.sqlite", [hook])
    outbox.record([signal(True)], NOW)
    assert deliver(outbox, [hook], tmp_path) == 1
    ((_, body),) = receiver.received
    assert set(body) == {"text"} and "H1: so it is" in body["text"]
    outbox.close()


def test_a_receiver_that_is_down_is_tried_again_and_fails_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hook = NotifierSettings(name="hook", kind="webhook", url="http://127.0.0.1:9/SECRET")
    file = NotifierSettings(name="file", kind="file", path="out/alerts.jsonl")
    nowhere = NotifierSettings(name="nowhere", kind="webhook", url_env="IS_NOT_SET")
    extra = NotifierSettings(name="extra", kind="apprise", url="json://127.0.0.1:9/SECRET")
    notifiers = [hook, file, nowhere, extra]
    outbox = Outbox(tmp_path / "outbox.sqlite", notifiers)
    outbox.record([signal(True)], NOW)
    assert deliver(outbox, notifiers, tmp_path) == 1
    said = json.loads((tmp_path / "out" / "alerts.jsonl").read_text())
    assert said["event"] == "opened" and said["rule"] == "critical_vitals"
    assert delivery_counts(outbox) == {"delivered": 1, "waiting": 3}
    errors = [row["last_error"] for row in outbox._rows("select last_error from deliveries")]
    assert any("cannot be reached" in (error or "") for error in errors)
    assert any("set IS_NOT_SET" in (error or "") for error in errors)
    assert "SECRET" not in caplog.text + str(errors)
    outbox.close()


def test_the_pause_grows_and_ends(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.sqlite", [LOG])
    outbox.record([signal(True)], NOW)
    wall = datetime.now(UTC)
    pauses = []
    for _ in range(30):
        wall += timedelta(hours=1)
        (delivery,) = outbox.due(wall)
        outbox.not_delivered(delivery, wall, "no")
        (row,) = outbox._rows("select * from deliveries")
        pauses.append(datetime.fromisoformat(row["next_attempt_at"]) - wall)
    assert [pause.total_seconds() for pause in pauses[:3]] == [2, 4, 8]
    assert max(pauses) == timedelta(minutes=10)
    assert outbox.due(wall + timedelta(days=1)) == []
    assert delivery_counts(outbox) == {"given_up": 1}
    outbox.close()


def test_an_end_is_not_told_before_its_beginning(receiver: Receiver, tmp_path: Path) -> None:
    hook = NotifierSettings(name="hook", kind="webhook", url=receiver.url)
    outbox = Outbox(tmp_path / "outbox.sqlite", [hook])
    receiver.answers = [503]
    outbox.record([signal(True)], NOW)
    assert deliver(outbox, [hook], tmp_path) == 0
    outbox.record([signal(False, NOW + MINUTE)], NOW + MINUTE)
    assert deliver(outbox, [hook], tmp_path) == 0  # the first one pauses
    overdue(outbox)
    assert [deliver(outbox, [hook], tmp_path) for _ in range(3)] == [1, 1, 0]
    assert [body["event"] for _, body in receiver.received] == ["opened", "opened", "resolved"]
    outbox.close()


def test_a_receiver_that_is_away_keeps_no_other_waiting(tmp_path: Path) -> None:
    away = NotifierSettings(name="away", kind="webhook", url="http://127.0.0.1:9/")
    pager = NotifierSettings(name="pager", kind="file", path="pager.jsonl")
    before = Outbox(tmp_path / "outbox.sqlite", [away])
    before.record([signal(True, subject=f"V{number}") for number in range(120)], NOW)
    before.close()
    outbox = Outbox(tmp_path / "outbox.sqlite", [away, pager])
    outbox.record([signal(True, subject="W")], NOW)
    assert deliver(outbox, [away, pager], tmp_path) == 1
    # It was tried once, for all of them.
    assert outbox._rows("select sum(attempt_count) from deliveries where notifier = 'away'")[0][0] == 1
    outbox.close()


def test_a_message_that_is_refused_holds_up_no_other_for_long(receiver: Receiver, tmp_path: Path) -> None:
    hook = NotifierSettings(name="hook", kind="webhook", url=receiver.url)
    outbox = Outbox(tmp_path / "outbox.sqlite", [hook])
    outbox.record([signal(True, subject=name) for name in "abc"], NOW)
    receiver.answers = [400, 200, 200, 400]
    arrived = []
    for _ in range(3):
        arrived.append(deliver(outbox, [hook], tmp_path))
        overdue(outbox)
    assert arrived == [0, 2, 1]
    outbox.close()


def test_notifiers_hear_what_they_asked_for(tmp_path: Path) -> None:
    ward = NotifierSettings(name="ward", kind="log", least_severity="critical", says_resolved=False)
    outbox = Outbox(tmp_path / "outbox.sqlite", [ward])
    late = Signal("feed_silent", "vitals", NOW, True, "error", "silent")
    outbox.record([signal(True), late], NOW)
    assert deliver(outbox, [ward], tmp_path) == 1
    outbox.record([signal(False, NOW + MINUTE)], NOW)
    assert deliver(outbox, [ward], tmp_path) == 0
    outbox.close()


# Settings and the fact ----------------------------------------------------------------------------


def test_settings(tmp_path: Path) -> None:
    where = Settings(tmp_path)
    assert load_alert_settings(where) == AlertSettings()
    path = tmp_path / "alerts.toml"
    path.write_text('news2_score = 5\n[[notify]]\nname = "ward"\nkind = "webhook"\nurl_env = "HOOK"\n')
    found = load_alert_settings(where)
    assert found.news2_score == 5 and found.notify[0].name == "ward"
    for text, says in (
        ("news2 = 5", "'news2': extra inputs"),
        ('[[notify]]\nname = "a"\nkind = "webhook"\nurl = ["https://SECRET"]', "notify.0.url"),
        ("occupancy_pct = {raise_at = 90, clear_at = 95}", "must clear at or below"),
        ("x = ", "not valid TOML"),
        ('notify = [{name = "a", kind = "log"}, {name = "a", kind = "file"}]', "the same name"),
    ):
        path.write_text(text)
        with pytest.raises(SettingsError, match=says) as error:
            load_alert_settings(where)
        assert "SECRET" not in str(error.value)


def test_fact_alerts(tmp_path: Path) -> None:
    file = tmp_path / "outbox.sqlite"
    assert OutboxResource(file=str(file)).alerts().is_empty()
    outbox = Outbox(file)
    outbox.record([signal(True, value=8), Signal("run_failed", "settle", NOW, True, "error", "")], NOW)
    outbox.record([signal(False, NOW + 5 * MINUTE, value=2)], NOW + 5 * MINUTE)
    outbox.close()
    hospitals = pl.DataFrame({"hospital_id": ["H1"], "hospital_key": [7]})
    rows = (
        dated(lazy(OutboxResource(file=str(file)).alerts()), lazy(hospitals)).collect("polars").to_native().sort("rule")
    )
    assert rows.columns == CONTRACTS["fact_alerts"].column_names
    assert rows["hospital_key"].to_list() == [7, -1]
    assert rows["open_minutes"].to_list() == [5.0, None]


def test_an_alert_does_not_repeat_the_name_of_a_file() -> None:
    """Somebody may have landed it under a patient's name."""
    path = "native/vitals/smith_john_1961.json"
    ledger = pl.DataFrame(
        {"state": ["unreadable"], "source_file": [path], "source_profile": ["native"], "problem": ["torn"]}
    )
    signals = [quarantined_file(path, NOW), *unreadable_files(ledger, NOW)]
    number = hashlib.sha256(path.encode()).hexdigest()[:8]
    for signal in signals:
        assert "smith" not in signal.summary and f"file {number} of native" in signal.summary
