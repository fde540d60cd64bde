"""Snapshots and what is restored from them: what was destroyed is what it was again, and nothing else has changed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from hospital_assets.access.audit import AuditLog
from hospital_assets.automation.build import BuildReport
from hospital_assets.cli import main
from hospital_assets.contracts import CONTRACTS, Contract
from hospital_assets.recovery import history as module
from hospital_assets.recovery.history import HistoryError, restore, version_at
from hospital_assets.recovery.snapshots import SnapshotError, snapshots, take_snapshot
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import Period, Warehouse, open_warehouse
from hospital_assets_tests.helpers import tables, warehouse_copy

NOW = datetime(2026, 3, 14, 9, 0, tzinfo=UTC)
DAY = timedelta(days=1)
VISITS = CONTRACTS["fact_emergency_visits"]


@pytest.fixture
def taken(built: tuple[Settings, BuildReport], tmp_path: Path) -> Iterator[tuple[Settings, Warehouse]]:
    network, _ = built
    settings = warehouse_copy(network, tmp_path)
    with open_warehouse(settings.warehouse_file) as warehouse:
        take_snapshot(settings, NOW, 3)
        yield settings, warehouse


def restored(settings: Settings, contract: Contract, period: Period | None = None) -> module.Restored:
    return restore(settings, contract, version_at(settings, contract, NOW + DAY, NOW + DAY), period)


def contents(settings: Settings) -> dict[str, str]:
    return dict(tables(settings))


def test_what_was_destroyed_comes_back(built: tuple[Settings, BuildReport], tmp_path: Path) -> None:
    network, _ = built
    settings = warehouse_copy(network, tmp_path)
    before = contents(settings)
    with open_warehouse(settings.warehouse_file) as warehouse:
        take_snapshot(settings, NOW, 3)
        # What a demo once did: every visit becomes critical, and nobody undoes it.
        warehouse.connection.execute("update facts.fact_emergency_visits set triage_level = 1")
        warehouse.connection.execute("delete from raw.raw_vitals")
        done = restored(settings, VISITS)
        assert done.was_different and done.rows_before == done.rows_after
        again = restored(settings, CONTRACTS["raw_vitals"])
        assert again.rows_before == 0 and again.rows_after > 0
        assert not restored(settings, VISITS).was_different
    assert contents(settings) == before


def test_a_day_is_restored_alone(taken: tuple[Settings, Warehouse]) -> None:
    settings, warehouse = taken
    warehouse.connection.execute("update facts.fact_emergency_visits set triage_level = 1")
    day = date(2026, 3, 6)
    restored(settings, VISITS, Period(day, day + DAY))
    levels = dict(
        warehouse.connection.execute(
            "select service_date, count(distinct triage_level) from facts.fact_emergency_visits group by 1"
        ).fetchall()
    )
    assert levels.pop(day) > 1 and set(levels.values()) == {1}


def test_snapshots_are_chosen_by_time_and_old_ones_go(taken: tuple[Settings, Warehouse]) -> None:
    settings, _ = taken
    for hours in (1, 2, 3):
        take_snapshot(settings, NOW + timedelta(hours=hours), 3)
    assert [s.taken_at for s in snapshots(settings)] == [NOW + timedelta(hours=h) for h in (1, 2, 3)]
    assert version_at(settings, VISITS, NOW + timedelta(hours=2, minutes=30), NOW + DAY).at.hour == 11
    # A clock that was ahead has named one: of others it would count as the newest.
    with pytest.raises(SnapshotError, match="is the clock right"):
        take_snapshot(settings, NOW + timedelta(hours=2), 3)
    assert len(snapshots(settings)) == 3
    with pytest.raises(HistoryError, match="the oldest is of 2026-03-14 10:00"):
        version_at(settings, VISITS, NOW, NOW + DAY)
    with pytest.raises(HistoryError, match="still to come"):
        version_at(settings, VISITS, NOW + DAY, NOW)
    assert all(s.file.stat().st_mode & 0o077 == 0 for s in snapshots(settings))


def test_a_restore_that_fails_changes_nothing(
    taken: tuple[Settings, Warehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, warehouse = taken
    warehouse.connection.execute("update facts.fact_emergency_visits set triage_level = 1")
    real, calls = module.digest_of, []

    def wrong(*args: object) -> str:
        calls.append(args)
        found = real(*args)  # type: ignore[arg-type]
        return found if len(calls) < 3 else "0-0"

    monkeypatch.setattr(module, "digest_of", wrong)
    with pytest.raises(HistoryError, match="not those of the version"):
        restored(settings, VISITS)
    ((levels,),) = warehouse.connection.execute(
        "select count(distinct triage_level) from facts.fact_emergency_visits"
    ).fetchall()
    assert levels == 1
    monkeypatch.undo()
    with contextlib.closing(AuditLog(settings)) as log:
        begun, ended = log.entries("action = 'restore'").to_dicts()
    assert (begun["outcome"], ended["outcome"], ended["reason"]) == ("allowed", "failed", "HistoryError")
    assert restored(settings, VISITS).was_different


def test_what_cannot_be_restored_says_so(taken: tuple[Settings, Warehouse], tmp_path: Path) -> None:
    settings, warehouse = taken
    with pytest.raises(HistoryError, match="has no service days"):
        restored(settings, CONTRACTS["dim_patient"], Period(date(2026, 3, 6), date(2026, 3, 7)))
    with pytest.raises(HistoryError, match="hospital snapshot"):
        version_at(Settings(tmp_path / "none"), VISITS, NOW, NOW)
    warehouse.drop(VISITS)
    with pytest.raises(HistoryError, match="fact_emergency_visits is not in the warehouse now"):
        restored(settings, VISITS)


def test_the_commands_take_list_restore_and_are_audited(
    taken: tuple[Settings, Warehouse], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, warehouse = taken
    monkeypatch.setenv("HOSPITAL_DATA_DIR", str(settings.data_dir))
    assert main(["snapshot"]) == 0
    assert capsys.readouterr().out.count(".duckdb") == 2
    assert main(["snapshots"]) == 0
    assert capsys.readouterr().out.count(".duckdb") == 2
    warehouse.connection.execute("update facts.fact_emergency_visits set triage_level = 1")
    assert main(["history", "list", "fact_emergency_visits"]) == 0
    assert capsys.readouterr().out.count("snapshot 2026") == 2
    command = ["history", "restore", "fact_emergency_visits", "--as-of", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}"]
    assert main([*command, "--days", "2026-03-06"]) == 0
    assert "fact_emergency_visits+" in capsys.readouterr().out
    assert main([*command, "--days", "2026-03-06", "2026-03-05"]) == 2
    assert main(["history", "list", "no_such_table"]) == 2
    with contextlib.closing(AuditLog(settings)) as log:
        entries = log.entries().to_dicts()
    acts = [(entry["action"], entry["outcome"]) for entry in entries]
    # The fixture's snapshot, the command's, the restore: begun and ended.
    assert acts == [("snapshot", "allowed")] * 4 + [("restore", "allowed")] * 2
    assert "fact_emergency_visits [2026-03-06" in entries[-1]["statement"]
    assert entries[-2]["row_count"] is None and entries[-1]["row_count"] > 0
    assert entries[-2]["duration_ms"] is None and entries[-1]["duration_ms"] > 0
