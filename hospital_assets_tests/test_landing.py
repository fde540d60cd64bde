"""Landing: what each kind of file becomes, which files wait, and what sensors decide."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hospital_assets.automation.loading import Loading
from hospital_assets.automation.refresh import _LONG, MOST_IN_A_ROW, MOST_TRIES, Outcome, Request, State, decide
from hospital_assets.contracts import CONTRACTS
from hospital_assets.landing.quarantine import change_quarantine, read_quarantine
from hospital_assets.landing.service_day import days_ahead
from hospital_assets.landing.waiting import Waiting, is_due, spans
from hospital_assets.landing.zone import LandingZone, look_again
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import Period, Warehouse
from hospital_assets.warehouse.loads import complete_loads, publish_ledger, read_ledger_copy, record_loads
from hospital_assets_tests.helpers import zone_in

DAY = date(2026, 1, 15)
#: A modification time before it.
DAY_BEFORE_NS = int(datetime(2026, 1, 14, tzinfo=UTC).timestamp() * 1e9)
HOSPITALS = (
    "hospital_id,hospital_name,city,state,time_zone,trauma_level,annual_ed_visits_band\n"
    "H1,One,Chicago,IL,America/Chicago,1,\nH2,Two,Phoenix,AZ,America/Phoenix,1,\n"
)


def observation(number: int, at: str = "2026-01-15T10:00:00-06:00", hospital: str = "H1") -> str:
    return json.dumps(
        {
            "observation_id": f"O{number}",
            "visit_id": "V1",
            "patient_id": "P1",
            "hospital_id": hospital,
            "device_id": "D1",
            "measured_at": at,
            "recorded_at": at,
            "vitals": {"heart_rate": {"value": 80.0 + number, "unit": "/min"}, "gcs": 15},
        }
    )


TEN = [observation(number) for number in range(10)]
TEXT = "\n".join(TEN) + "\n"


@pytest.fixture
def zone(tmp_path: Path, warehouse: Warehouse) -> LandingZone:
    native = tmp_path / "landing" / "native"
    for folder in ("vitals", "hospitals", "er_visits", "diagnoses"):
        (native / folder).mkdir(parents=True)
    (native / "hospitals" / "hospitals.csv").write_text(HOSPITALS)
    return zone_in(tmp_path, warehouse.connection)


def vitals_file(zone: LandingZone, content: bytes, name: str = "file.json") -> Path:
    path = zone.landing / "native" / "vitals" / name
    path.write_bytes(content)
    return path


def entry(ledger: pl.DataFrame, name: str) -> dict[str, object]:
    return ledger.row(by_predicate=pl.col("source_file") == name, named=True)


# Kind of file -> bytes, state, rows, rows that are no records (reliability table 3a: ten good rows).
KINDS: Mapping[str, tuple[bytes, str, int, int]] = {
    "sound": (TEXT.encode(), "ready", 10, 0),
    "torn tail": ((TEXT + TEN[0][:40]).encode(), "ready", 11, 1),
    "corrupt line in the middle": ("\n".join([*TEN[:5], '{"observation_id": ', *TEN[5:]]).encode(), "ready", 11, 1),
    "UTF-8 BOM": (b"\xef\xbb\xbf" + TEXT.encode(), "ready", 10, 0),
    "UTF-16": (TEXT.encode("utf-16"), "ready", 10, 0),
    "Latin-1 byte": (TEXT.replace("D1", "Gerät").encode("latin-1"), "ready", 10, 0),
    "NUL bytes": ((TEXT + "\x00\x00\x00\n").encode(), "ready", 11, 1),
    "JSON array": (("[" + ",".join(TEN) + "]").encode(), "ready", 10, 0),
    "pretty-printed array": (json.dumps([json.loads(line) for line in TEN], indent=2).encode(), "ready", 10, 0),
    "pretty-printed object": (json.dumps(json.loads(TEN[0]), indent=2).encode(), "ready", 1, 0),
    "wrong types": ((TEXT + '{"observation_id": 11, "measured_at": 5}\n').encode(), "ready", 11, 0),
    "a line that is no object": ((TEXT + "[1, 2]\n").encode(), "ready", 11, 1),
    "extra field": (TEXT.replace('"gcs"', '"new_field": 1, "gcs"').encode(), "ready", 10, 0),
    "duplicate key": (TEXT.replace('"gcs": 15', '"gcs": 15, "gcs": 14').encode(), "ready", 10, 0),
    "NaN literal": (TEXT.replace('"gcs": 15', '"gcs": NaN').encode(), "ready", 10, 0),
    "a 20 MB line": (
        (TEXT + json.dumps({"observation_id": "O11", "note": "x" * 20_000_000}) + "\n").encode(),
        "ready",
        11,
        0,
    ),
    "CRLF": (TEXT.replace("\n", "\r\n").encode(), "ready", 10, 0),
    "blank lines": (TEXT.replace("\n", "\n\n  \n").encode(), "ready", 10, 0),
    "empty": (b"", "empty", 0, 0),
    "only blanks": (b"\n  \n", "empty", 0, 0),
    "gzip named .json": (gzip.compress(TEXT.encode()), "ready", 10, 0),
    "truncated gzip": (gzip.compress(TEXT.encode() * 200)[:-20], "unreadable", 0, 0),
    "truncated array": (("[" + ",".join(TEN)).encode(), "unreadable", 0, 0),
    "an HTML page": (b"<html>\n<body>sign in</body>\n</html>\n", "unreadable", 0, 0),
    "a picture": (bytes(range(256)) * 20, "unreadable", 0, 0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_file_ends_where_one_expects(zone: LandingZone, kind: str) -> None:
    content, state, rows, broken = KINDS[kind]
    vitals_file(zone, content)
    vitals_file(zone, observation(99).encode(), "good.json")
    ledger = zone.discover()
    found = entry(ledger, "native/vitals/file.json")
    assert (found["state"], found["row_count"], found["unreadable_count"]) == (state, rows, broken)
    assert (state == "ready") == (found["problem"] is None)
    raw = zone.read("vitals", ledger, Period(date(2026, 1, 1), date(2027, 1, 1)))
    stored = raw.collect("polars").to_native().group_by("source_file").len()
    # Nothing is lost, and the good file beside it is there whatever happened.
    assert dict(stored.iter_rows()) == {
        "native/vitals/good.json": 1,
        **({"native/vitals/file.json": rows} if rows else {}),
    }


def test_no_message_quotes_what_a_file_holds(zone: LandingZone) -> None:
    for number, (content, *_) in enumerate(KINDS.values()):
        vitals_file(zone, content, f"{number}.json")
    said = " ".join(zone.discover()["problem"].drop_nulls().to_list())
    assert "P1" not in said and "observation" not in said and "sign in" not in said


def test_a_service_day_is_the_hospitals_own(zone: LandingZone) -> None:
    lines = [
        observation(1, "2026-01-15T23:59:59-06:00"),  # still the 15th in Chicago
        observation(2, "2026-01-16T06:00:00Z"),  # midnight in Chicago: the 16th
        observation(3, "2026-01-16T05:59:59Z"),  # a second earlier: the 15th
        observation(4, "2026-01-16T06:30:00Z", "H2"),  # 23:30 in Phoenix: the 15th
        observation(5, "2026-03-08T05:59:59Z"),  # before the day of 23 hours
        observation(6, "2026-03-09T04:59:59Z"),  # 23:59:59 on the day of 23 hours
        observation(7, "2026-03-09T05:00:00Z"),  # the next day, under the new offset
    ]
    vitals_file(zone, "\n".join(lines).encode())
    raw = zone.read("vitals", zone.discover(), Period(date(2026, 1, 1), date(2027, 1, 1)))
    days = raw.select("observation_id", "service_date").collect("polars").to_native()
    assert dict(days.iter_rows()) == {
        "O1": date(2026, 1, 15),
        "O2": date(2026, 1, 16),
        "O3": date(2026, 1, 15),
        "O4": date(2026, 1, 15),
        "O5": date(2026, 3, 7),
        "O6": date(2026, 3, 8),
        "O7": date(2026, 3, 9),
    }


def test_the_same_content_is_loaded_once_whatever_its_name(zone: LandingZone) -> None:
    first = vitals_file(zone, TEXT.encode(), "a.json")
    vitals_file(zone, TEXT.encode(), "b.json")
    ledger = zone.discover()
    assert entry(ledger, "native/vitals/b.json")["state"] == "duplicate"
    # When the original goes, its copy takes its place.
    first.unlink()
    assert entry(zone.discover(ledger), "native/vitals/b.json")["state"] == "ready"


def test_only_a_file_of_the_same_source_that_is_loaded_makes_another_a_copy(zone: LandingZone) -> None:
    def landed(name: str, content: str) -> str:
        path = zone.landing / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return name

    # In a folder without a profile, of another source, called as another subject: it was never loaded from there.
    landed("typo/vitals/file.json", TEXT)
    landed("native/er_visits/hospitals.csv", HOSPITALS)
    other = landed("hl7v2-adt/hospitals/hospitals.csv", HOSPITALS)
    first = zone.discover()
    assert entry(first, "typo/vitals/file.json")["state"] == "unrecognised"
    assert entry(first, "native/er_visits/hospitals.csv")["state"] == "missing_column"
    assert {entry(first, name)["state"] for name in ("native/hospitals/hospitals.csv", other)} == {"ready"}
    late = landed("native/vitals/late.json", TEXT)
    again = zone.discover(first)
    assert entry(again, late)["state"] == "ready"
    # What an older version took for copies of them.
    was = pl.col("source_file").is_in([late, other])
    wrong = again.with_columns(state=pl.when(was).then(pl.lit("duplicate")).otherwise("state"))
    healed = zone.discover(wrong)
    assert {entry(healed, name)["state"] for name in (late, other)} == {"ready"}


@pytest.mark.parametrize("content", [b"\x00" * 100, b"no record\n" * 3], ids=["as a whole", "line by line"])
def test_copies_of_what_cannot_be_read_cannot_be_read_either(zone: LandingZone, content: bytes) -> None:
    names = {f"native/vitals/{vitals_file(zone, content, f'{n}.json').name}" for n in range(4)}
    ledger = zone.discover()
    assert {entry(ledger, name)["state"] for name in names} == {"unreadable"}
    assert zone.discover(ledger).equals(ledger)


def test_a_file_set_aside_is_left_out_until_it_is_let_in(zone: LandingZone) -> None:
    vitals_file(zone, TEXT.encode())
    ledger = zone.discover()
    name = "native/vitals/file.json"
    digest = str(entry(ledger, name)["file_sha256"])
    held_back = zone.discover(ledger, {digest: "quarantined"})
    assert entry(held_back, name)["state"] == "quarantined"
    assert entry(zone.discover(held_back), name)["state"] == "ready"


# What waits ---------------------------------------------------------------------------------------


def load(
    warehouse: Warehouse,
    zone: LandingZone,
    period: Period,
    run_id: str = "run",
    is_done: bool = True,
    subject: str = "vitals",
) -> None:
    """What a run does for a subject: the ledger, then the days."""
    stored = CONTRACTS["raw_landed_files"]
    ledger = zone.discover()
    from hospital_assets.warehouse.dialect import lazy

    warehouse.replace(stored, lazy(ledger))
    contract = CONTRACTS[f"raw_{subject}"]
    warehouse.replace(
        contract,
        zone.read(subject, ledger, period),
        period,
        also=lambda _: record_loads(warehouse, contract, period, run_id),
    )
    publish_ledger(warehouse)
    if is_done:
        complete_loads(warehouse, run_id)


def waiting(warehouse: Warehouse, zone: LandingZone) -> dict[str, tuple[date, ...]]:
    published = read_ledger_copy(warehouse.file)
    found = zone.waiting(zone.discover(published), published, ["vitals"])
    return {file.source_file.rpartition("/")[2]: file.days for file in found}


def test_a_file_waits_until_all_its_days_are_loaded(zone: LandingZone, warehouse: Warehouse) -> None:
    second = date(2026, 1, 16)
    vitals_file(zone, "\n".join([TEN[0], observation(1, "2026-01-16T10:00:00-06:00")]).encode())
    assert waiting(warehouse, zone) == {"file.json": (DAY, second)}
    load(warehouse, zone, Period(DAY, second))
    assert waiting(warehouse, zone) == {"file.json": (second,)}
    load(warehouse, zone, Period(second, date(2026, 1, 17)))
    assert waiting(warehouse, zone) == {}


SHIFTS = ("shift_id", "doctor_id", "hospital_id", "department_id", "shift_start", "shift_end", "recorded_at")


def shifts_file(zone: LandingZone, *days: date) -> Path:
    """A roster that was written on `DAY`."""
    path = zone.landing / "native" / "doctor_shifts" / "roster.csv"
    path.parent.mkdir(exist_ok=True)
    rows = [f"S{d:%m%d},D1,H1,H1-EMER,{d} 07:00:00,{d} 15:00:00,{DAY} 06:00:00" for d in days]
    path.write_text("\n".join([",".join(SHIFTS), *rows, ""]))
    return path


@pytest.mark.parametrize("is_open_ended", [True, False])
def test_a_roster_waits_for_its_days_to_come(zone: LandingZone, warehouse: Warehouse, is_open_ended: bool) -> None:
    """It was landed before its days: each is loaded once it is a service day, and only then has the file waited."""
    first, second, third = (DAY + timedelta(days=n) for n in (0, 1, 40))
    landed = shifts_file(zone, first, second, third)
    zone = replace(zone, last=first, is_open_ended=is_open_ended)

    def waits(zone: LandingZone) -> list[Waiting]:
        published = read_ledger_copy(warehouse.file)
        return zone.waiting(zone.discover(published), published, ["doctor_shifts"])

    assert [file.days for file in waits(zone)] == [(first,)]
    assert entry(zone.discover(), "native/doctor_shifts/roster.csv")["service_dates"] == [first, second, third]
    ahead = zone.read("doctor_shifts", zone.discover(), days_ahead("doctor_shifts", Period(zone.first, second)))
    assert sorted(ahead.collect("polars").to_native()["shift_id"]) == ["S0116", "S0224"]
    load(warehouse, zone, Period(first, second), subject="doctor_shifts")
    assert waits(zone) == []
    assert warehouse.connection.sql("select shift_id from raw.raw_doctor_shifts").fetchall() == [("S0115",)]
    # The day after; had the file landed at midnight, the day would have begun first where it does so first.
    os.utime(landed, ns=(DAY_BEFORE_NS, DAY_BEFORE_NS))
    load(warehouse, zone, Period(first, second), subject="doctor_shifts")
    (waiting,) = waits(replace(zone, last=second))
    assert waiting.days == (second,)
    began = int(datetime(2026, 1, 15, 10, tzinfo=UTC).timestamp() * 1e9)
    assert waiting.since_ns == (began if is_open_ended else DAY_BEFORE_NS)
    tomorrow = replace(zone, last=second)
    load(warehouse, tomorrow, Period(second, second + timedelta(days=1)), subject="doctor_shifts")
    assert waits(tomorrow) == []


def test_what_is_planned_for_after_a_year_is_not_read_as_a_roster(zone: LandingZone) -> None:
    shifts_file(zone, DAY, DAY + timedelta(days=400))
    row = entry(replace(zone, last=DAY).discover(), "native/doctor_shifts/roster.csv")
    assert row["service_dates"] == [DAY]
    assert days_ahead("doctor_shifts", Period(zone.first, DAY)) == Period(DAY, date(2027, 1, 16))
    assert days_ahead("vitals", Period(zone.first, DAY)) == Period(DAY, DAY)
    assert entry(replace(zone, last=date.max).discover(), "native/doctor_shifts/roster.csv")["row_count"] == 2


def test_a_changed_file_refreshes_the_days_it_left(zone: LandingZone, warehouse: Warehouse) -> None:
    path = vitals_file(zone, TEN[0].encode())
    load(warehouse, zone, Period(DAY, date(2026, 1, 16)))
    path.write_text(observation(0, "2026-02-01T10:00:00-06:00"))
    moved = date(2026, 2, 1)
    assert waiting(warehouse, zone) == {"file.json": (DAY, moved)}
    load(warehouse, zone, Period(moved, date(2026, 2, 2)))
    assert waiting(warehouse, zone) == {"file.json": (DAY,)}  # its old rows are still there
    load(warehouse, zone, Period(DAY, date(2026, 1, 16)))
    assert waiting(warehouse, zone) == {}


def test_a_crash_between_ledger_and_rows_leaves_the_file_waiting(zone: LandingZone, warehouse: Warehouse) -> None:
    from hospital_assets.warehouse.dialect import lazy

    vitals_file(zone, TEXT.encode())
    warehouse.replace(CONTRACTS["raw_landed_files"], lazy(zone.discover()))
    publish_ledger(warehouse)
    assert waiting(warehouse, zone) == {"file.json": (DAY,)}
    contract = CONTRACTS["raw_vitals"]
    period = Period(DAY, date(2026, 1, 16))

    def crash(_: duckdb.DuckDBPyConnection) -> None:
        record_loads(warehouse, contract, period, "run")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        warehouse.replace(contract, zone.read("vitals", zone.discover(), period), period, also=crash)
    publish_ledger(warehouse)
    assert waiting(warehouse, zone) == {"file.json": (DAY,)}


def test_a_run_that_dies_after_its_raw_rows_leaves_its_files_waiting(zone: LandingZone, warehouse: Warehouse) -> None:
    vitals_file(zone, TEXT.encode())
    period = Period(DAY, date(2026, 1, 16))
    load(warehouse, zone, period, "killed", is_done=False)
    assert waiting(warehouse, zone) == {"file.json": (DAY,)}
    load(warehouse, zone, period, "whole")
    assert waiting(warehouse, zone) == {}
    # Nothing is new to a later run over the day, whether it dies or is still at work.
    load(warehouse, zone, period, "killed again", is_done=False)
    assert waiting(warehouse, zone) == {}


def test_a_run_that_dies_takes_back_the_days_that_lack_something(zone: LandingZone, warehouse: Warehouse) -> None:
    path, other = vitals_file(zone, TEXT.encode()), vitals_file(zone, TEN[1].encode(), "other.json")
    second, period = date(2026, 1, 16), Period(DAY, date(2026, 1, 17))
    later = vitals_file(zone, observation(1, "2026-01-16T10:00:00-06:00").encode(), "later.json")
    load(warehouse, zone, period)
    vitals_file(zone, TEN[2].encode(), "new.json")
    load(warehouse, zone, period, "killed", is_done=False)
    assert waiting(warehouse, zone) == {"new.json": (DAY,)}
    load(warehouse, zone, period, "whole")
    other.unlink()
    load(warehouse, zone, period, "killed", is_done=False)
    assert waiting(warehouse, zone) == {path.name: (DAY,), "new.json": (DAY,)}
    load(warehouse, zone, period, "whole")
    later.write_text(observation(2, "2026-01-16T11:00:00-06:00"))
    load(warehouse, zone, period, "killed", is_done=False)
    assert waiting(warehouse, zone) == {"later.json": (second,)}


def test_files_without_records_wait_only_to_be_recorded(zone: LandingZone, warehouse: Warehouse) -> None:
    vitals_file(zone, b"")
    assert waiting(warehouse, zone) == {"file.json": ()}
    load(warehouse, zone, Period(DAY, date(2026, 1, 16)))
    assert waiting(warehouse, zone) == {}


def test_a_file_that_is_looked_at_anew_was_still_first_seen_then(zone: LandingZone) -> None:
    path = vitals_file(zone, TEXT.encode())
    known = zone.discover().with_columns(first_seen_at=pl.lit(datetime(2026, 1, 1, tzinfo=UTC)))
    digest = str(entry(known, "native/vitals/file.json")["file_sha256"])
    held = entry(zone.discover(known, {digest: "held"}), "native/vitals/file.json")
    assert (held["state"], held["first_seen_at"]) == ("held", datetime(2026, 1, 1, tzinfo=UTC))
    path.write_text(TEXT + "\n")
    assert entry(zone.discover(known), "native/vitals/file.json")["first_seen_at"] != held["first_seen_at"]


def test_a_growing_file_is_left_for_the_next_look(zone: LandingZone) -> None:
    path = vitals_file(zone, TEXT.encode())
    now = path.stat().st_mtime_ns
    with path.open("a"):
        assert zone.discover(quiet_since_ns=now - 1)["subject"].to_list().count("vitals") == 0
        ledger = zone.discover(quiet_since_ns=now)  # written long ago, whoever has it open
        assert entry(ledger, "native/vitals/file.json")["state"] == "ready"
        # Nor is one ever quiet that says it is of next year.
        os.utime(path, ns=(now, now + 10**16))
        assert entry(zone.discover(quiet_since_ns=now), "native/vitals/file.json")["state"] == "ready"
        os.utime(path, ns=(now, now))
    # Nobody writes it any more, and the system says so.
    ledger = zone.discover(quiet_since_ns=now - 1)
    assert entry(ledger, "native/vitals/file.json")["state"] == "ready"
    path.rename(path.with_name("file.json.part"))
    assert zone.discover().filter(pl.col("subject") == "vitals").is_empty()


# What sensors decide ------------------------------------------------------------------------------

SECOND = 1_000_000_000


def file(name: str, *days: int, since: int = 0) -> Waiting:
    return Waiting(name, f"sha-{name}", since, tuple(date(2026, 1, day) for day in days))


def look(
    state: State,
    files: list[Waiting],
    outcomes: Mapping[str, Outcome] | None = None,
    held_back: Mapping[str, str] | None = None,
    now: float = 60,
):  # type: ignore[no-untyped-def]
    return decide(
        state, files, outcomes or {}, held_back or {}, now_ns=int(now * SECOND), after_files=5, after_seconds=5
    )


def test_a_run_is_asked_for_when_enough_wait_or_one_has_waited_long() -> None:
    fresh = [file(f"f{n}", 1, since=58 * SECOND) for n in range(4)]
    assert look(State(), fresh).requests == []
    assert len(look(State(), [*fresh, file("f4", 1, since=59 * SECOND)]).requests) == 1
    assert len(look(State(), fresh, now=63).requests) == 1
    assert not is_due([], 10**18, 1, 0)
    # It says that it is modified later than now.
    assert len(look(State(), [file("ahead", 1, since=10**6 * SECOND)]).requests) == 1


def test_far_days_are_runs_of_their_own_and_neighbours_are_one() -> None:
    decision = look(State(), [file("a", 1, 2), file("b", 3), file("c", 20)])
    assert [request.days for request in decision.requests] == [
        (date(2026, 1, 1), date(2026, 1, 3)),
        (date(2026, 1, 20), date(2026, 1, 20)),
    ]
    assert spans([]) == []


def test_nothing_is_asked_twice_while_it_runs_and_again_after_it_failed() -> None:
    files = [file("a", 1), file("b", 1)]
    first = look(State(), files)
    (request,) = first.requests
    assert look(first.state, files, {request.run_key: "running"}).requests == []
    assert look(first.state, files).requests == []  # not started yet
    again = look(first.state, files, {request.run_key: "failed"})
    assert [r.run_key for r in again.requests] != [request.run_key]
    # A run that found the warehouse in use, or died once, says nothing about its files.
    for outcome in ("stopped", "died"):
        ended = look(first.state, files, {request.run_key: outcome})
        assert ended.requests and ended.state.failures == {}


@pytest.mark.parametrize(("outcome", "tries"), [("failed", MOST_TRIES), ("died", 3 * MOST_TRIES)])
def test_a_quarantined_file_is_found_and_the_rest_goes_on(outcome: Outcome, tries: int) -> None:
    everything = {name: file(name, 1) for name in ("good", "bad", "fine")}
    state, held_back, loaded, quarantined = State(), {}, set(), []
    outcomes: dict[str, Outcome] = {}
    broken = 0
    for _ in range(40):
        held = {f"sha-{name}" for name in everything} & set(held_back)
        files = [f for n, f in everything.items() if n not in loaded and f.file_sha256 not in held]
        decision = look(state, files, outcomes, held_back)
        state, held_back = decision.state, decision.held_back
        quarantined += decision.quarantined
        for run in state.pending:
            is_bad = "bad" in run.files.values()
            broken += is_bad
            outcomes[run.run_key] = outcome if is_bad else "succeeded"
            if not is_bad:
                loaded |= set(run.files.values())
    assert (loaded, quarantined, broken) == ({"good", "fine"}, ["bad"], tries)
    assert held_back == {"sha-bad": "quarantined"}
    assert state.failures["sha-bad"] == MOST_TRIES


def test_files_held_by_another_program_are_its_own_and_have_their_turn_though_others_always_land() -> None:
    states = {"watcher": State(), "idle sensor": State()}
    held_back, loaded, outcomes, failed = {}, set[str](), dict[str, Outcome](), 0
    for n in range(40):
        landed = [file(name, 1) for name in ("bad", "companion", *(f"new{m}" for m in range(n)))]
        waiting = [f for f in landed if f.source_file not in loaded and f.file_sha256 not in held_back]
        for name, files in (("watcher", waiting), ("idle sensor", [])):
            decision = look(states[name], files, outcomes, held_back)
            states[name], held_back = decision.state, decision.held_back
        for run in states["watcher"].pending:
            is_bad = "bad" in run.files.values()
            failed += is_bad
            outcomes[run.run_key] = "failed" if is_bad else "succeeded"
            loaded |= set() if is_bad else set(run.files.values())
    assert held_back == {"sha-bad": "quarantined"} and failed == MOST_TRIES
    assert {"companion", "new0", "new30"} <= loaded


def test_files_held_by_a_program_that_has_ended_are_tried_after_long() -> None:
    state, held_back, looks = State(), {"sha-left": "held"}, 0
    while held_back:
        decision = look(state, [], {}, held_back)
        state, held_back, looks = decision.state, decision.held_back, looks + 1
    assert looks == _LONG + 1
    assert look(state, [file("left", 1)], {}, held_back).requests


def test_a_file_of_several_spans_of_days_is_tried_as_often_as_any() -> None:
    state, held_back, quarantined = State(), dict[str, str](), list[str]()
    for _ in range(MOST_TRIES):
        assert not held_back
        state = look(state, [file("a", 1, 10, 20)]).state
        assert len(state.pending) == 3
        # Runs of one attempt end at different looks.
        for run in state.pending:
            decision = look(state, [], {run.run_key: "failed"}, held_back)
            state, held_back = decision.state, decision.held_back
            quarantined += decision.quarantined
    assert (quarantined, held_back) == (["a"], {"sha-a": "quarantined"})
    assert state.failures == {"sha-a": MOST_TRIES}


class OneIsBad:
    """A landing folder with a good file and a bad one, and a program that loads them.

    Args:
        meets_bad: what comes of a run that has the bad one.
        note: see `Loading`.
    """

    def __init__(self, settings: Settings, meets_bad: Callable[[], Outcome], note: Path | None = None) -> None:
        self.folder, self.meets_bad, self.loaded = settings.warehouse_file.parent, meets_bad, set[str]()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.begin = partial(Loading, settings, self, self.run, note)  # type: ignore[arg-type]

    def held_back(self) -> dict[str, str]:
        return read_quarantine(self.folder)

    def run(self, requests: Sequence[Request]) -> dict[str, Outcome]:
        paths = {path for request in requests for path in request.files.values()}
        outcome: Outcome = self.meets_bad() if "bad" in paths else "succeeded"
        if outcome == "succeeded":
            self.loaded |= paths
        return dict.fromkeys([request.run_key for request in requests], outcome)

    def step(self, program: Loading) -> bool:
        """Whether there is more to do."""
        held, everything = self.held_back(), [file("bad", 1), file("good", 1)]
        waiting = [f for f in everything if f.source_file not in self.loaded and f.file_sha256 not in held]
        return program.step(waiting, datetime(2026, 1, 2, tzinfo=UTC)).is_unfinished


def test_a_program_goes_on_until_only_the_bad_file_is_left(tmp_path: Path) -> None:
    folder = OneIsBad(Settings(tmp_path), lambda: "failed")
    program = folder.begin()
    for _ in range(20):
        if not folder.step(program):
            break
    assert folder.loaded == {"good"} and folder.held_back() == {"sha-bad": "quarantined"}


def test_a_file_that_no_process_survives_is_quarantined_by_those_that_begin_after(tmp_path: Path) -> None:
    note = tmp_path / "loading.json"
    deaths: list[bytes] = []

    class DiedError(BaseException):
        pass

    def die() -> Outcome:
        deaths.append(note.read_bytes())
        raise DiedError

    folder = OneIsBad(Settings(tmp_path), die, note)
    for _ in range(20):
        program = folder.begin()
        try:
            for _ in range(20):
                folder.step(program)
        except DiedError:
            # It would not have come to take its note away.
            note.write_bytes(deaths[-1])
    assert folder.loaded == {"good"} and folder.held_back() == {"sha-bad": "quarantined"}
    assert len(deaths) == 3 * MOST_TRIES and not note.exists()
    for content in (b"", b"[]", b'{"pending": 3}', b"\xff", b"[" * 20_000):
        note.write_bytes(content)
        folder.step(folder.begin())


def test_a_fault_that_is_no_files_condemns_none_and_good_files_get_in_when_it_is_over() -> None:
    names = [f"f{n}" for n in range(10)]
    state, held_back, outcomes, loaded, tries = State(), {}, dict[str, Outcome](), set(), 0
    stops = []

    def step(broken: set[str], now: float) -> None:
        nonlocal state, held_back, tries
        files = [file(name, 1) for name in names if name not in loaded and f"sha-{name}" not in held_back]
        decision = look(state, files, outcomes, held_back, now=now)
        state, held_back = decision.state, decision.held_back
        tries += len(decision.requests)
        stops.extend([now] * decision.has_stopped)
        for run in state.pending:
            paths = set(run.files.values())
            outcomes[run.run_key] = "failed" if paths & broken else "succeeded"
            loaded.update(paths - broken if not paths & broken else ())

    for now in range(60, 160):  # the disk is full
        step(set(names), now)
    assert tries == 2 + MOST_IN_A_ROW and len(stops) == 1
    assert set(held_back.values()) == {"held"}
    for now in range(2000, 2020):  # nobody has mended it yet: one try a pause
        step(set(names), now)
    assert tries == 3 + MOST_IN_A_ROW and len(stops) == 2
    for now in range(4000, 4100):  # now; and one file really is bad
        step({"f0"}, now)
    assert loaded == set(names) - {"f0"} and held_back == {"sha-f0": "quarantined"}
    # A pause that a clock has noted which was ahead is no longer than another.
    stopped = look(State(stopped_until_ns=10**9 * SECOND), [file("a", 1)])
    assert not stopped.requests and look(stopped.state, [file("a", 1)], now=661).requests


def test_each_run_of_a_look_has_its_own_outcome(tmp_path: Path) -> None:
    files = [file("near", 1), file("far", 20)]
    blamed = []

    class Landing:
        def held_back(self) -> dict[str, str]:
            return {}

    def run(requests: Sequence[Request]) -> dict[str, Outcome]:
        blamed.append([list(request.files.values()) for request in requests])
        return {r.run_key: "failed" if "far" in r.files.values() else "succeeded" for r in requests}

    program = Loading(Settings(tmp_path), Landing(), run)  # type: ignore[arg-type]
    program.step(files, datetime(2026, 1, 2, tzinfo=UTC))
    program.step(files[1:], datetime(2026, 1, 2, tzinfo=UTC))
    assert program._state.failures == {"sha-far": 1}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.sampled_from(["succeeded", "failed", "died", "stopped", "running"])),
        max_size=60,
    )
)
def test_every_file_ends_loaded_or_quarantined_whatever_happens(events: list[tuple[str, Outcome]]) -> None:
    """After any history of outcomes, sound files get in as soon as runs succeed."""
    names = sorted({name for name, _ in events})
    state, held_back, loaded = State(), {}, set()
    outcomes: dict[str, Outcome] = {}

    clock = itertools.count(60, 1000)

    def step(outcome: Outcome) -> None:
        nonlocal state, held_back
        files = [file(n, ord(n) - 96) for n in names if n not in loaded and f"sha-{n}" not in held_back]
        decision = look(state, files, outcomes, held_back, now=next(clock))
        state, held_back = decision.state, decision.held_back
        for run in state.pending:
            outcomes[run.run_key] = outcome
            if outcome == "succeeded":
                loaded.update(run.files.values())

    for _, outcome in events:
        step(outcome)
    for _ in range(40):
        step("succeeded")
    quarantined = {sha for sha, why in held_back.items() if why == "quarantined"}
    assert {f"sha-{name}" for name in names} == {f"sha-{name}" for name in loaded} | quarantined
    assert "held" not in held_back.values()


def test_retry_lets_a_quarantined_file_in_again(
    zone: LandingZone, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hospital_assets.cli import main

    folder = tmp_path / "data" / "warehouse"
    monkeypatch.setenv("HOSPITAL_DATA_DIR", str(tmp_path / "data"))
    vitals_file(zone, TEXT.encode())
    ledger = zone.discover(None, {})
    digest = str(entry(ledger, "native/vitals/file.json")["file_sha256"])
    change_quarantine(folder, {}, {digest: "quarantined", "another": "held"})
    none = pl.lit([], dtype=pl.List(pl.Date))
    ledger.with_columns(is_loaded=pl.lit(False), loaded_dates=none, outdated_dates=none).write_parquet(
        folder / "landed_files.parquet"
    )
    assert main(["retry", "native/vitals/other.json"]) == 2
    assert main(["retry", "native/vitals/file.json"]) == 0
    assert "let in   native/vitals/file.json" in capsys.readouterr().out
    assert read_quarantine(folder) == {"another": "held"}


def test_programs_that_hold_files_back_at_once_do_not_undo_each_other(tmp_path: Path) -> None:
    change_quarantine(tmp_path, {}, {"a": "held", "b": "held", "c": "held"})
    before = read_quarantine(tmp_path)
    # A person lets `a` in, another program quarantines `c`, while this one decides about all three.
    change_quarantine(tmp_path, before, {"b": "held", "c": "held"})
    change_quarantine(tmp_path, {"c": "held"}, {"c": "quarantined"})
    change_quarantine(tmp_path, before, {"c": "held", "b": "held", "a": "quarantined", "d": "held"})
    assert list(read_quarantine(tmp_path).items()) == [("c", "quarantined"), ("b", "held"), ("d", "held")]
    threads = [
        threading.Thread(target=change_quarantine, args=(tmp_path, {}, {f"f{n}": "quarantined"})) for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {f"f{n}" for n in range(20)} <= set(read_quarantine(tmp_path))


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": 1}', "[" * 100_000, "\x00", '{"a": "other"}'])
def test_a_damaged_list_of_quarantined_files_holds_back_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "quarantine.json").write_text(content)
    assert read_quarantine(tmp_path) == {}
    change_quarantine(tmp_path, {}, {"a": "held"})
    assert read_quarantine(tmp_path) == {"a": "held"}


def test_other_service_days_date_files_anew(zone: LandingZone) -> None:
    vitals_file(zone, TEXT.encode())
    before = replace(zone, first=date(2026, 12, 1)).discover()
    row = entry(before, "native/vitals/file.json")
    # No record lies in the service days: all stand on the first one.
    assert row["service_dates"] == [date(2026, 12, 1)]
    assert entry(zone.discover(before), "native/vitals/file.json")["service_dates"] != row["service_dates"]
    # An open end moves on by itself: nothing is read anew for that.
    open_ended = replace(zone, is_open_ended=True)
    versions = [
        replace(open_ended, last=last).discover()["profile_sha256"].to_list() for last in (zone.last, zone.first)
    ]
    assert versions[0] == versions[1]


def test_files_that_were_only_copied_are_hashed_and_no_more(zone: LandingZone, monkeypatch: pytest.MonkeyPatch) -> None:
    vitals_file(zone, TEXT.encode(), "a.json")
    vitals_file(zone, TEXT.encode(), "a copy of it.json")
    vitals_file(zone, b"", "empty.json")
    vitals_file(zone, b"\x00" * 100, "broken.json")
    before = zone.discover()
    files = [zone.landing / name for name in before["source_file"]]
    for path in files:
        os.utime(path, ns=(DAY_BEFORE_NS, DAY_BEFORE_NS))
    looked: list[str] = []
    real = LandingZone._examined

    def examined(self: LandingZone, entry: Mapping[str, object], *others: Any) -> list[dict[str, object]]:
        looked.append(str(entry["source_file"]))
        return real(self, entry, *others)

    monkeypatch.setattr(LandingZone, "_examined", examined)
    after = zone.discover(before)
    assert set(after["file_modified_ns"]) == {DAY_BEFORE_NS}
    assert after.drop("file_modified_ns").equals(before.drop("file_modified_ns"))
    # Who sends once more what could not be read wants it read once more.
    assert looked == ["native/vitals/broken.json"]
    assert zone.discover(after).equals(after) and len(looked) == 1
    # Other content is read, whatever its time.
    path = vitals_file(zone, "\n".join(TEN[:3]).encode(), "a.json")
    os.utime(path, ns=(DAY_BEFORE_NS, DAY_BEFORE_NS))
    assert entry(zone.discover(after), "native/vitals/a.json")["row_count"] == 3


def test_who_asks_for_one_feed_dates_its_files_as_who_asks_for_all(zone: LandingZone) -> None:
    # Still the evening before in Phoenix.
    vitals_file(zone, observation(1, "2026-01-16T06:30:00+00:00", "H2").encode())
    (zone.landing / "native" / "er_visits" / "er_visits.csv").write_text("visit_id\nV1\n")
    found = zone.discover(subjects=["vitals"])
    assert entry(found, "native/vitals/file.json")["service_dates"] == [DAY]
    assert "native/er_visits/er_visits.csv" not in found["source_file"]
    # Diagnoses of this source are dated by their visits, of another feed's kind of file.
    source = zone.landing / "mimic-iv-ed"
    source.mkdir()
    for name in ("edstays.csv", "diagnosis.csv", "vitalsign.csv"):
        (source / name).write_text("subject_id,stay_id\n1,2\n")
    asked = {name.split("/")[-1] for name in zone.discover(subjects=["diagnoses"])["source_file"]}
    assert asked == {"hospitals.csv", "edstays.csv", "diagnosis.csv"}


def test_records_are_dated_anew_when_their_hospital_s_zone_is_corrected(
    zone: LandingZone, warehouse: Warehouse
) -> None:
    next_day = DAY + timedelta(days=1)
    # The evening before in Phoenix, the morning in Berlin; the others are of the day in both.
    both = [observation(1, "2026-01-16T06:30:00+00:00", "H2"), observation(2, hospital="H2"), observation(3)]
    vitals_file(zone, "\n".join(both).encode())
    vitals_file(zone, observation(4, f"{next_day}T12:00:00+00:00").encode(), "of_the_next_day.json")
    load(warehouse, zone, Period(DAY, next_day + timedelta(days=1)))
    assert waiting(warehouse, zone) == {}
    hospitals = zone.landing / "native" / "hospitals" / "hospitals.csv"
    hospitals.write_text(HOSPITALS.replace("America/Phoenix", "Europe/Berlin"))
    # Looks come to the same while nothing is stored, whoever looks again.
    for _ in range(2):
        published = read_ledger_copy(warehouse.file)
        ledger = look_again(zone, published, {}, subjects=["vitals"])
        assert entry(ledger, "native/vitals/file.json")["service_dates"] == [DAY, next_day]
        (waits,) = zone.waiting(ledger, published, ["vitals"])
        assert waits.days == (DAY, next_day)
    # A run over one of the days leaves no record behind, and none twice for long.
    for day, left in ((next_day, {"file.json": (DAY, next_day)}), (DAY, {})):
        load(warehouse, zone, Period(day, day + timedelta(days=1)))
        assert waiting(warehouse, zone) == left
    rows = "select observation_id, service_date from raw.raw_vitals order by all"
    assert warehouse.connection.sql(rows).fetchall() == [("O1", next_day), ("O2", DAY), ("O3", DAY), ("O4", next_day)]


def test_a_record_that_left_a_day_for_one_its_file_had_already_is_not_lost(
    zone: LandingZone, warehouse: Warehouse
) -> None:
    next_day = DAY + timedelta(days=1)
    three = [observation(n, f"{day}:30:00+00:00", "H2") for n, day in enumerate(("2026-01-15T10", "2026-01-16T06"))]
    vitals_file(zone, "\n".join([*three, observation(2, "2026-01-16T20:00:00+00:00", "H2")]).encode())
    load(warehouse, zone, Period(DAY, next_day + timedelta(days=1)))
    hospitals = zone.landing / "native" / "hospitals" / "hospitals.csv"
    hospitals.write_text(HOSPITALS.replace("America/Phoenix", "Europe/Berlin"))
    load(warehouse, zone, Period(DAY, next_day))
    assert warehouse.connection.sql("select count(*) from raw.raw_vitals").fetchall() == [(2,)]
    assert waiting(warehouse, zone) == {"file.json": (DAY, next_day)}
    load(warehouse, zone, Period(DAY, next_day + timedelta(days=1)))
    assert waiting(warehouse, zone) == {}
    assert warehouse.connection.sql("select count(*) from raw.raw_vitals").fetchall() == [(3,)]


def test_a_diagnosis_moves_to_the_day_of_its_visit_when_that_lands(zone: LandingZone, warehouse: Warehouse) -> None:
    source = zone.landing / "mimic-iv-ed"
    source.mkdir()
    head = "subject_id,hadm_id,stay_id,intime,outtime,gender,race,arrival_transport,disposition\n"
    (source / "edstays.csv").write_text(f"{head}1,,7,2026-01-20 10:00:00,2026-01-20 12:00:00,F,WHITE,WALK IN,HOME\n")
    codes = "subject_id,stay_id,seq_num,icd_code,icd_version,icd_title\n1,7,1,I10,10,x\n2,8,1,J18,10,y\n"
    (source / "diagnosis.csv").write_text(codes)
    before = zone.discover()
    name = "mimic-iv-ed/diagnosis.csv"
    # One whose visit is not known stands with the others of its file.
    assert entry(before, name)["service_dates"] == [date(2026, 1, 20)]
    (source / "edstays.csv").write_text(
        f"{head}1,,7,2026-01-20 10:00:00,2026-01-20 12:00:00,F,WHITE,WALK IN,HOME\n"
        "2,,8,2026-01-22 10:00:00,2026-01-22 12:00:00,F,WHITE,WALK IN,HOME\n"
    )
    after = zone.discover(before)
    assert entry(after, name)["service_dates"] == [date(2026, 1, 20), date(2026, 1, 22)]
    assert after.equals(zone.discover(after))
