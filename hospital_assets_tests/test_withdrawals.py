"""What is corrected or withdrawn leaves open alerts and the live board, as it leaves the facts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from hospital_assets.alerts.outbox import Outbox
from hospital_assets.alerts.settings import AlertSettings
from hospital_assets.live.board import read_board
from hospital_assets.live.copies import read_copy
from hospital_assets.live.monitor import Monitor
from hospital_assets.settings import Settings
from hospital_assets_tests.engines import ENGINES
from hospital_assets_tests.test_alerts import NOW as WINTER
from hospital_assets_tests.test_alerts import PATIENTS, landed_vitals
from hospital_assets_tests.test_cases import FACILITIES, Case, landed
from hospital_assets_tests.test_hl7_profile import adt
from hospital_assets_tests.test_interop import oru

NOW = datetime(2026, 5, 1, 16, 0, tzinfo=UTC)
HOSPITALS = pl.DataFrame({"hospital_id": ["hl7v2-adt:GENERAL", "H1"], "time_zone": ["America/Chicago"] * 2})
LATER, BEFORE = "20260501103000", "20260430235000"

#: Case -> messages in the order in which they land, each as a file, and after each whether an alert is open.
TOLD: dict[str, list[tuple[str, bool]]] = {
    "posted as wrong": [
        (oru("20260501101000", ("spo2", "69", "F")), True),
        (oru("20260501101500", ("spo2", "69", "W")), False),
    ],
    "corrected, of a set that is not whole": [
        (oru("20260501101000", ("spo2", "69", "F"), ("hr", "80", "F")), True),
        (oru("20260501101600", ("spo2", "96", "C")), False),
    ],
    "one of two critical values": [
        (oru("20260501101000", ("spo2", "69", "F"), ("hr", "150", "F")), True),
        (oru("20260501101500", ("spo2", "69", "D")), True),
    ],
    "posted as wrong, by another spelling of its time": [
        (oru("20260501101000", ("spo2", "69", "F")), True),
        (oru("20260501101500", ("spo2", "69", "W"), at="20260501110500-0400"), False),
    ],
    "of a day alone": [
        (oru("20260501101000", ("spo2", "69", "F"), at="20260501"), False),
        (oru("20260501101500", ("spo2", "69", "F")), True),
        (oru("20260501102000", ("spo2", "69", "W"), at="20260501"), True),
    ],
    "the newest of two sets": [
        (oru("20260501101000", ("spo2", "69", "F")), True),
        (oru(LATER, ("spo2", "60", "F"), at=LATER), True),
        (oru("20260501103100", ("spo2", "60", "W"), at=LATER), True),  # the first stands
        (oru("20260501103200", ("spo2", "69", "W")), False),
    ],
    "an older set, of the day before": [
        (oru(BEFORE, ("spo2", "97", "F"), at=BEFORE), False),
        (oru("20260501101000", ("spo2", "69", "F")), True),
        (oru("20260501101500", ("spo2", "96", "C"), ("hr", "80", "F"), at=BEFORE), True),
        (oru("20260501102000", ("spo2", "96", "W"), at=BEFORE), True),
    ],
    "the newest of two sets, the other of the day before": [
        (oru(BEFORE, ("spo2", "60", "F"), at=BEFORE), True),
        (oru("20260501101000", ("spo2", "69", "F")), True),
        (oru("20260501101500", ("spo2", "69", "W")), True),
        (oru("20260501102000", ("spo2", "60", "W"), at=BEFORE), False),
    ],
}


@pytest.fixture(
    params=[told if told == "posted as wrong" else pytest.param(told, marks=pytest.mark.slow) for told in TOLD]
)
def told(request: pytest.FixtureRequest) -> list[tuple[str, bool]]:
    return TOLD[request.param]


@pytest.fixture
def case(told: list[tuple[str, bool]], tmp_path: Path) -> Iterator[Case]:
    files = {f"{place}.hl7": message.encode() for place, (message, _) in enumerate(told)}
    visit = adt("A04", "20260501100000").encode()
    with landed(
        tmp_path, ENGINES["polars"], "hl7v2-adt", {**files, "visit.hl7": visit, "hospitals.csv": FACILITIES.encode()}
    ) as found:
        yield found


#: Of one visit, messages in the order in which they land, and after each who is on the board with what department.
MOVES: dict[str, list[tuple[str, str | None]]] = {
    "an end that a later message does not repeat": [
        (adt("A04", "20260501100000"), "Emergency"),
        (adt("A03", "20260501103000", end="20260501103000", disposition="01"), None),
        (adt("A08", "20260501104000", place=""), None),
    ],
    "a discharge that is cancelled": [
        (adt("A04", "20260501100000"), "Emergency"),
        (adt("A03", "20260501103000", end="20260501103000", disposition="01"), None),
        (adt("A13", "20260501104000", end='""', disposition='""'), "Emergency"),
    ],
    "a number that is merged into another": [
        (adt("A04", "20260501100000", patient="unknown"), "Emergency"),
        (adt("A40", "20260501101000", visit="", prior="unknown"), "Emergency"),
        (adt("A08", "20260501102000", place="SURG^1"), "Surgery"),
        (adt("A03", "20260501103000", end="20260501103000", disposition="01"), None),
    ],
    "an update that says no place": [
        (adt("A04", "20260501100000"), "Emergency"),
        (adt("A08", "20260501104000", place=""), "Emergency"),
    ],
}


@pytest.mark.parametrize("name", MOVES)
def test_the_board_knows_what_earlier_messages_said(name: str, tmp_path: Path) -> None:
    """Each message is a file that is looked at by itself, and none is loaded yet."""
    files = {f"{place}.hl7": message.encode() for place, (message, _) in enumerate(MOVES[name])}
    with (
        landed(tmp_path, ENGINES["polars"], "hl7v2-adt", {**files, "hospitals.csv": FACILITIES.encode()}) as case,
        monitored(case, tmp_path) as assess,
    ):
        for place, (_, department) in enumerate(MOVES[name]):
            assess(f"{place}.hl7")
            board = read_board(tmp_path / "warehouse" / "hospital.duckdb", NOW, b"key")
            assert [row.department for row in board.patients] == [department] * (department is not None), place


@contextmanager
def monitored(
    case: Case, folder: Path, profile: str = "hl7v2-adt", now: datetime = NOW
) -> Iterator[Callable[[str], bool]]:
    """Lets a monitor see what is asked for; gives whether an alert is open."""
    warehouse = folder / "warehouse" / "hospital.duckdb"
    (warehouse.parent / "live").mkdir(parents=True)
    outbox = Outbox(folder / "outbox.sqlite")
    landing: Any = SimpleNamespace(warehouse=SimpleNamespace(database=str(warehouse)))
    monitor = Monitor(Settings(folder), AlertSettings(), landing, outbox, {})
    there = [f"{profile}/hospitals.csv"]

    def assess(file: str) -> bool:
        there.append(f"{profile}/{file}")
        ledger = case.ledger.filter(pl.col("source_file").is_in(there))
        new = ledger.filter(pl.col("source_file") == there[-1])
        signals, _ = monitor._of_files(case.zone, ledger, new, HOSPITALS, PATIENTS.clear(), now - timedelta(days=1))
        outbox.record(signals, now)
        return bool(outbox.open_subjects("critical_vitals"))

    yield assess
    outbox.close()


def test_a_withdrawal_in_the_hour_that_is_repeated(tmp_path: Path) -> None:
    at = "20261101011500"
    told = [oru("20261101012000", ("spo2", "69", "F"), at=at), oru("20261101013000", ("spo2", "69", "W"), at=at)]
    files = {f"{place}.hl7": message.encode() for place, message in enumerate(told)}
    now = datetime(2026, 11, 1, 8, tzinfo=UTC)
    with (
        landed(tmp_path, ENGINES["polars"], "hl7v2-adt", {**files, "hospitals.csv": FACILITIES.encode()}) as case,
        monitored(case, tmp_path, now=now) as assess,
    ):
        assert [assess(f"{place}.hl7") for place in range(2)] == [True, False]


@pytest.mark.parametrize(
    "rates",
    [
        pytest.param([(150, 0, True), (70, 5, False)], id="corrected"),
        pytest.param([(70, 5, False), (150, 0, False)], id="the correction lands first"),
        pytest.param([(70, 0, False), (150, 5, True)], id="corrected to critical"),
        pytest.param([(150, 5, True), (70, 0, True)], id="so, and the correction lands first"),
    ],
)
def test_a_whole_set_that_is_recorded_again_is_corrected(rates: list[tuple[int, int, bool]], tmp_path: Path) -> None:
    """Of a set with a number of its own that is written last stands, whatever moment it is of."""
    files = {}
    for place, (rate, minute, _) in enumerate(rates):
        record = landed_vitals(heart_rate=rate)
        told = {name: record[name] for name in ("observation_id", "visit_id", "patient_id", "hospital_id")}
        told |= {"measured_at": record["measured_at"], "recorded_at": f"2026-01-15T06:{minute:02d}:30-06:00"}
        files[f"vitals/{place}.json"] = (json.dumps(told | {"vitals": json.loads(record["payload"])}) + "\n").encode()
    with (
        landed(tmp_path, ENGINES["polars"], "native", files) as case,
        monitored(case, tmp_path, "native", WINTER) as assess,
    ):
        assert [assess(f"vitals/{place}.json") for place in range(len(rates))] == [is_open for *_, is_open in rates]


def test_a_withdrawal_ends_what_the_value_raised(case: Case, told: list[tuple[str, bool]], tmp_path: Path) -> None:
    warehouse = tmp_path / "warehouse" / "hospital.duckdb"
    with monitored(case, tmp_path) as assess:
        assess("visit.hl7")
        for place, (_, is_open) in enumerate(told):
            assert assess(f"{place}.hl7") is is_open, place
        scores = read_copy(warehouse, "landed_vitals")
        assert scores is not None and scores["visit_id"].to_list() == ["hl7v2-adt:GENERAL-V1"]
        assert len(read_board(warehouse, NOW, b"key").waiting) == 1


def test_a_value_that_lands_after_its_withdrawal_raises_nothing_for_long(
    case: Case, told: list[tuple[str, bool]], tmp_path: Path
) -> None:
    """Whatever the order in which messages land, in the end that is open which would be in the order of writing."""
    with monitored(case, tmp_path) as assess:
        assess("visit.hl7")
        found = [assess(f"{place}.hl7") for place in reversed(range(len(told)))]
    assert found[-1] is told[-1][1]
