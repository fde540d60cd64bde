"""Kept states: what was destroyed is what it was again, and nothing else has changed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from hospital_assets.access.audit import AuditLog
from hospital_assets.automation.build import BuildReport
from hospital_assets.cli import main
from hospital_assets.contracts import CONTRACTS
from hospital_assets.recovery.history import HistoryError, as_known, keep_state, restore, state_of, states
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import Period, Warehouse, WarehouseError, open_warehouse
from hospital_assets_tests.helpers import copy_of, query, run, tables, warehouse_copy

NOW = datetime(2026, 3, 14, 9, 0, tzinfo=UTC)
VISITS = CONTRACTS["fact_emergency_visits"]


@pytest.fixture
def kept(built: tuple[Settings, BuildReport], tmp_path: Path) -> Iterator[tuple[Settings, Warehouse]]:
    network, _ = built
    settings = warehouse_copy(network, tmp_path)
    with open_warehouse(settings.warehouse_file) as warehouse:
        keep_state(warehouse, settings, NOW, 3)
        yield settings, warehouse


def contents(settings: Settings) -> dict[str, str]:
    return dict(tables(settings))


def test_what_was_destroyed_comes_back(built: tuple[Settings, BuildReport], tmp_path: Path) -> None:
    network, _ = built
    settings = warehouse_copy(network, tmp_path)
    before = contents(settings)
    with open_warehouse(settings.warehouse_file) as warehouse:
        state, _ = keep_state(warehouse, settings, NOW, 3)
        # What a demo once did: every visit becomes critical, and nobody undoes it.
        warehouse.connection.execute("update facts.fact_emergency_visits set triage_level = 1")
        warehouse.connection.execute("delete from raw.raw_vitals")
        done = restore(warehouse, state, VISITS)
        assert done.was_different and done.rows_before == done.rows_after
        again = restore(warehouse, state, CONTRACTS["raw_vitals"])
        assert again.rows_before == 0 and again.rows_after > 0
        assert not restore(warehouse, state, VISITS).was_different
    assert contents(settings) == before


def test_a_day_is_restored_alone(kept: tuple[Settings, Warehouse]) -> None:
    settings, warehouse = kept
    warehouse.connection.execute("update facts.fact_emergency_visits set triage_level = 1")
    day = date(2026, 3, 6)
    restore(warehouse, state_of(settings, None), VISITS, Period(day, day + timedelta(days=1)))
    levels = dict(
        warehouse.connection.execute(
            "select service_date, count(distinct triage_level) from facts.fact_emergency_visits group by 1"
        ).fetchall()
    )
    assert levels.pop(day) > 1 and set(levels.values()) == {1}


def test_states_are_chosen_by_time_and_old_ones_go(kept: tuple[Settings, Warehouse]) -> None:
    settings, warehouse = kept
    for hours in (1, 2, 3):
        keep_state(warehouse, settings, NOW + timedelta(hours=hours), 3)
    assert [s.kept_at for s in states(settings)] == [NOW + timedelta(hours=h) for h in (1, 2, 3)]
    assert state_of(settings, NOW + timedelta(hours=2, minutes=30)).kept_at.hour == 11
    with pytest.raises(HistoryError, match="the oldest is of 2026-03-14 10:00"):
        state_of(settings, NOW)
    assert all(s.file.stat().st_mode & 0o077 == 0 for s in states(settings))


def test_a_restore_that_fails_changes_nothing(
    kept: tuple[Settings, Warehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, warehouse = kept
    state = state_of(settings, None)
    warehouse.connection.execute("update facts.fact_emergency_visits set triage_level = 1")
    import hospital_assets.recovery.history as history

    real, calls = history._content, []

    def wrong(*args: object) -> tuple[int, int]:
        calls.append(args)
        found = real(*args)  # type: ignore[arg-type]
        return found if len(calls) < 3 else (0, 0)

    monkeypatch.setattr(history, "_content", wrong)
    with pytest.raises(HistoryError, match="not those of the state"):
        restore(warehouse, state, VISITS)
    ((levels,),) = warehouse.connection.execute(
        "select count(distinct triage_level) from facts.fact_emergency_visits"
    ).fetchall()
    assert levels == 1
    monkeypatch.undo()
    assert restore(warehouse, state, VISITS).was_different


def test_what_cannot_be_restored_says_so(kept: tuple[Settings, Warehouse], tmp_path: Path) -> None:
    settings, warehouse = kept
    state = state_of(settings, None)
    with pytest.raises(HistoryError, match="has no service days"):
        restore(warehouse, state, CONTRACTS["dim_patient"], Period(date(2026, 3, 6), date(2026, 3, 7)))
    with pytest.raises(HistoryError, match="hospital keep"):
        state_of(Settings(tmp_path / "none"), None)
    warehouse.drop(VISITS)
    with pytest.raises((HistoryError, WarehouseError), match="fact_emergency_visits"):
        restore(warehouse, state, VISITS)


def test_the_commands_keep_restore_and_are_audited(
    kept: tuple[Settings, Warehouse], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, warehouse = kept
    monkeypatch.setenv("HOSPITAL_DATA_DIR", str(settings.data_dir))
    assert main(["keep"]) == 0
    assert capsys.readouterr().out.count("kept") == 2
    warehouse.connection.execute("update facts.fact_emergency_visits set triage_level = 1")
    command = ["restore", "--table", "fact_emergency_visits", "--as-of", "2026-03-15T00:00"]
    assert main([*command, "--partition", "2026-03-06"]) == 0
    assert "fact_emergency_visits+" in capsys.readouterr().out
    assert main(["restore", "--table", "no_such_table"]) == 2
    with contextlib.closing(AuditLog(settings)) as log:
        (entry,) = log.entries().to_dicts()
    assert entry["action"] == "restore" and "fact_emergency_visits [2026-03-06" in entry["statement"]


def seen(settings: Settings) -> datetime:
    """The moment after the last look."""
    found = query(settings, "select max(first_seen_at) from raw.raw_landed_files").item()
    assert isinstance(found, datetime)
    return found.replace(tzinfo=UTC)


def test_only_what_had_been_seen_is_taken(built: tuple[Settings, BuildReport], tmp_path: Path) -> None:
    network, _ = built
    into = tmp_path / "then"
    known = as_known(network, seen(network), into)
    assert known.later == 0 and known.files == len(list(into.glob("landing/**/*.*")))
    assert (into / "hospital.toml").read_text() == network.settings_file.read_text()
    with pytest.raises(HistoryError, match="not empty"):
        as_known(network, seen(network), into)
    with pytest.raises(HistoryError, match="no landed file had been seen"):
        as_known(network, datetime(2000, 1, 1, tzinfo=UTC), tmp_path / "early")


@pytest.mark.slow
def test_a_past_figure_is_made_again_as_it_was_known(
    built: tuple[Settings, BuildReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, _ = built
    settings = copy_of(network, tmp_path / "now")
    assert run(settings).succeeded
    before, moment = dict(tables(settings)), seen(settings)
    first = settings.first_service_date
    visit, patient, hospital = query(
        settings,
        "select visit_id, patient_id, e.hospital_id from facts.fact_emergency_visits v "
        "join cleaned.cleaned_er_visits e using (visit_id) join dimensions.dim_condition using "
        f"(condition_key) where v.service_date = '{first}' and icd_code <> 'A419' "
        "order by visit_id limit 1",
    ).row(0)
    # A correction that comes late changes a figure and the patient's history.
    (settings.landing / "native" / "diagnoses" / "late.csv").write_text(
        "diagnosis_id,visit_id,patient_id,hospital_id,encounter_date,sequence,icd_code,"
        "icd_version,description,recorded_at\n"
        f"late-1,{visit},{patient},{hospital},{first},1,A41.9,10,Sepsis,2026-06-01 00:00:00\n"
    )
    assert run(settings, first=first, last=first).succeeded
    after = dict(tables(settings))
    assert after["kpi_conditions"] != before["kpi_conditions"]
    monkeypatch.setenv("HOSPITAL_DATA_DIR", str(settings.data_dir))
    into = tmp_path / "then"
    assert main(["as-known", moment.isoformat(), "--into", str(into)]) == 0
    then = dict(tables(replace(settings, data_dir=into)))
    assert then == before
    with contextlib.closing(AuditLog(settings)) as log:
        (entry,) = log.entries("action = 'export'").to_dicts()
    assert moment.isoformat() in entry["statement"]
