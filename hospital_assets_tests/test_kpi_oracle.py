"""Every KPI table against its oracle: on a dirty network, a clean one, and one where everything goes wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import narwhals as nw
import polars as pl
import pytest

from hospital_assets.assets.facts.emergency_visits import principal_conditions
from hospital_assets.assets.kpis.readmissions import inpatient_stays, readmissions
from hospital_assets.assets.kpis.returns import persons_of
from hospital_assets.automation.build import BuildReport
from hospital_assets.clock import last_whole_day
from hospital_assets.contracts import CONTRACTS
from hospital_assets.settings import Settings, write_settings
from hospital_assets.simulator import network as simulated
from hospital_assets.simulator import simulate
from hospital_assets.warehouse.dialect import Frame, lazy
from hospital_assets_tests.helpers import run, warehouse_copy
from hospital_assets_tests.kpi_oracle import ORACLES, Expected, Stored

KPIS = [name for name, contract in CONTRACTS.items() if contract.layer == "kpis"]
#: Offsets of half and quarter hours, half-hour changes of the clock, the hemispheres' own changes.
ODD_ZONES = (
    "Europe/London",
    "Australia/Lord_Howe",
    "America/St_Johns",
    "Asia/Kathmandu",
    "Australia/Adelaide",
    "America/New_York",
    "Pacific/Chatham",
)
#: One more quality code of a record.
_CODE = "concat_ws(';', nullif(quality_codes, ''), '{}')"
_VISITS = (
    "departure_at = null, disposition = null",
    "departure_at = arrival_at - interval 10 minute",
    "departure_at = departure_at + interval 100 hour",
    "provider_at = null",
    "provider_at = departure_at + interval 30 minute",
    "disposition = null",
    "disposition = 'eloped', provider_at = null",
    "disposition = 'against_medical_advice'",
    "arrival_mode = 'ambulance', handover_at = arrival_at - interval 5 minute",
    "triage_level = null, triage_at = null",
    "triage_at = arrival_at - interval 20 minute",
    "decision_at = null, disposition = 'admitted'",
    "decision_at = departure_at + interval 1 minute, disposition = 'admitted'",
    "disposition = 'observation'",
    "disposition = 'expired'",
    "disposition = 'transferred'",
    "disposition = 'other'",
    "departure_at = arrival_at",
    "disposition = 'left_without_being_seen', provider_at = null, departure_at = arrival_at + interval 15 minute",
    "patient_id = 'nobody'",
    f"departure_at = null, quality_codes = {_CODE.format('departure_time_unknown')}",
    f"arrival_at = null, arrival_local = null, quality_codes = {_CODE.format('arrival_time_unknown')}",
)
#: A few persons for everything, so that their visits and stays follow, nest in and overlap each other.
_FEW_PERSONS = """
    update cleaned.cleaned_{table} t set patient_id = p.patient_id from few p
    where p.number = hash(t.visit_id, 1) % 70 and hash(t.visit_id, 2) % 3 > 0 and t.patient_id <> 'nobody'
"""
_STAYS = (
    "delete from cleaned.cleaned_adt_events where event_type = 'A03' and hash(visit_id) % 10 = 0",
    *(
        f"update cleaned.cleaned_adt_events set {change} where event_type = 'A03' and hash(visit_id) % 10 = {number}"
        for number, change in enumerate(
            (
                "event_at = event_at + interval 40 day",
                "event_at = event_at + interval 2 day",
                "discharge_disposition = 'expired'",
                "discharge_disposition = 'against_medical_advice'",
                "discharge_disposition = 'transferred'",
            ),
            start=1,
        )
    ),
    # Planned care, cancer, a benign neoplasm, neither, one of uncertain behaviour.
    *(
        f"update cleaned.cleaned_diagnoses d set icd_code = '{code}' where sequence = 1 and icd_version = 10 "
        f"and hash(visit_id, 3) % 10 = {number} and not exists "
        f"(from cleaned.cleaned_diagnoses o where o.visit_id = d.visit_id and o.icd_code = '{code}')"
        for number, code in enumerate(("Z5111", "C349", "D259", "I10", "D391"))
    ),
)
_OTHERS = (
    "update cleaned.cleaned_doctor_shifts set shift_start_at = shift_start_at - interval 5 hour "
    "where hash(shift_id) % 4 = 0",
    "update cleaned.cleaned_doctor_shifts set doctor_id = 'nobody' where hash(shift_id) % 11 = 0",
    "update cleaned.cleaned_vitals set measured_at = measured_at + interval 30 hour where hash(observation_id) % 9 = 0",
)


def same(found: Any, expected: Any) -> bool:
    if isinstance(found, float) and isinstance(expected, int | float):
        return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-6)
    return bool(found == expected)


def differences(stored: Stored, table: str) -> list[str]:
    """What of a table is not as its oracle has it: rows missing, rows too many, other figures."""
    contract = CONTRACTS[table]
    expected: Expected = ORACLES[table](stored)
    found = {tuple(row[name] for name in contract.key): row for row in stored.rows(contract.qualified_name)}
    wrong = [f"missing: {key}" for key in expected.keys() - found.keys()]
    wrong += [f"too many: {key}" for key in found.keys() - expected.keys()]
    wrong += [
        f"{key} {name}: {found[key][name]} instead of {value}"
        for key in expected.keys() & found.keys()
        for name, value in expected[key].items()
        if not same(found[key][name], value)
    ]
    return sorted(wrong)


def stored_in(settings: Settings) -> Stored:
    """The tables of a built directory; the moment they are as of is the one that they state."""
    stored = Stored(settings.warehouse_file, datetime.min.replace(tzinfo=UTC))
    (stored.as_of,) = {row["as_of_at"] for row in stored.rows("kpis.kpi_critical_waits_daily")}
    stored.last_day = settings.last_service_date
    return stored


def all_differences(settings: Settings) -> dict[str, list[str]]:
    stored = stored_in(settings)
    try:
        return {table: wrong[:5] for table in KPIS if (wrong := differences(stored, table))}
    finally:
        stored.close()


@pytest.fixture(scope="module")
def dirty(built: tuple[Settings, BuildReport]) -> Iterator[Stored]:
    stored = stored_in(built[0])
    yield stored
    stored.close()


@pytest.mark.parametrize("table", KPIS)
def test_a_dirty_network_has_the_oracles_figures(dirty: Stored, table: str) -> None:
    assert dirty.rows(CONTRACTS[table].qualified_name)
    assert differences(dirty, table) == []


def test_readmissions_once_every_discharge_has_run_out(built: tuple[Settings, BuildReport], tmp_path: Path) -> None:
    """Of eight days none has: forty days later they have, and few persons have many stays, planned ones among them."""
    settings = warehouse_copy(built[0], tmp_path / "later")
    with duckdb.connect(str(settings.warehouse_file)) as connection:
        connection.execute(
            "update facts.fact_patient_flow f set patient_key = p.patient_key from (select patient_key, row_number() "
            "over (order by patient_key) as number from dimensions.dim_patient where patient_key > 0) p "
            "where p.number = 1 + hash(f.stay_id) % 70"
        )
        for table in ("cleaned.cleaned_diagnoses", "dimensions.dim_condition"):
            connection.execute(f"update {table} set icd_code = 'Z511' || icd_code where hash(icd_code) % 4 = 0")
        connection.execute(
            "insert into cleaned.cleaned_procedures select p.* replace (s.stay_id as visit_id, s.stay_id as "
            "procedure_id, '0TY00Z0' as procedure_code) from (from cleaned.cleaned_procedures limit 1) p, "
            "(select distinct stay_id from facts.fact_patient_flow) s where hash(s.stay_id, 2) % 5 = 0"
        )
    stored = stored_in(settings)
    stored.as_of += timedelta(days=40)
    with duckdb.connect(str(settings.warehouse_file), read_only=True) as connection:
        connection.execute("set TimeZone = 'UTC'")

        def table(name: str) -> Frame:
            return lazy(connection.table(CONTRACTS[name].qualified_name))

        conditions, hospitals = table("dim_condition"), table("dim_hospital")
        coded = principal_conditions(table("cleaned_diagnoses"), conditions)
        stays = inpatient_stays(
            table("fact_patient_flow"), coded, table("cleaned_procedures"), hospitals, conditions
        ).join(persons_of(table("dim_patient"), table("dim_person")), on="patient_key", how="left")
        data_end = nw.lit(last_whole_day(stored.as_of)).cast(nw.Date)
        found = readmissions(stays, data_end).collect("polars").to_native()
    stored.rows("kpis.kpi_readmissions")[:] = found.to_dicts()
    (total,) = found.filter(pl.col("hospital_id") == "all")["numerator_count"]
    assert total > 5
    assert differences(stored, "kpi_readmissions") == []


def test_an_oracle_notices_one_visit(dirty: Stored) -> None:
    row = dirty.rows("kpis.kpi_lwbs_daily")[0]
    row["numerator_count"] += 1
    try:
        (wrong,) = differences(dirty, "kpi_lwbs_daily")
        assert f"numerator_count: {row['numerator_count']} instead of" in wrong
    finally:
        row["numerator_count"] -= 1


def landed(folder: Path, *, clean: bool) -> Settings:
    """Forty days over every change of the clock in spring and autumn, of few patients a day."""
    first, days = date(2026, 3, 1), 40
    settings = Settings(folder, first_service_date=first, last_service_date=first + timedelta(days=days - 1))
    simulate(settings.landing, settings.ground_truth, start=first, days=days, scale=0.03, seed=7, clean=clean)
    write_settings(settings)
    return settings


@pytest.mark.nightly
def test_a_clean_network_has_the_oracles_figures(tmp_path: Path) -> None:
    settings = landed(tmp_path, clean=True)
    assert run(settings).succeeded
    assert all_differences(settings) == {}


@pytest.mark.slow
def test_a_network_where_everything_goes_wrong_has_the_oracles_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for (hospital, row), zone in zip(list(simulated.HOSPITALS.items()), ODD_ZONES, strict=True):
        monkeypatch.setitem(simulated.HOSPITALS, hospital, (*row[:3], zone, *row[4:]))
    settings = landed(tmp_path, clean=False)
    assert run(settings).succeeded
    assert all_differences(settings) == {}
    with duckdb.connect(str(settings.warehouse_file)) as connection:
        for number, change in enumerate(_VISITS):
            connection.execute(
                f"update cleaned.cleaned_er_visits set {change} where hash(visit_id) % {len(_VISITS) + 4} = {number}"
            )
        connection.execute(
            "create temp table few as select patient_id, row_number() over (order by patient_id) - 1 as number "
            "from (select distinct patient_id from cleaned.cleaned_patients) qualify number < 70"
        )
        for statement in (_FEW_PERSONS.format(table="er_visits"), _FEW_PERSONS.format(table="adt_events")):
            connection.execute(statement)
        for statement in (*_STAYS, *_OTHERS):
            connection.execute(statement)
    # Checks may well fail over such records; every step has to run.
    assert not run(replace(settings), select="group:dimensions or group:facts or group:kpis").failures
    assert all_differences(settings) == {}
