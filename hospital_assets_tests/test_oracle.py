"""Every row of the KPIs is what plain Python makes of the cleaned rows: on a clean, a dirty and a nasty network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from hospital_assets.clock import hospital_now
from hospital_assets.settings import Settings, write_settings
from hospital_assets.simulator import simulate
from hospital_assets_tests.helpers import run
from hospital_assets_tests.oracle import Oracle, Row

if TYPE_CHECKING:
    from hospital_assets.automation.build import BuildReport

TABLES = {
    "cleaned": (
        *("cleaned_hospitals", "cleaned_departments", "cleaned_doctors", "cleaned_doctor_shifts"),
        *("cleaned_er_visits", "cleaned_adt_events", "cleaned_diagnoses", "cleaned_procedures"),
    ),
    "dimensions": ("dim_condition",),
}


def rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[Row]:
    found = connection.execute(sql)
    names = [column[0] for column in found.description or ()]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def is_same(expected: Any, stored: Any) -> bool:
    if isinstance(expected, float) and stored is not None:
        return math.isclose(expected, stored, rel_tol=1e-9, abs_tol=1e-6)
    return bool(expected == stored)


def differences(settings: Settings, now: datetime) -> tuple[list[str], int]:
    """What the KPI tables of a warehouse say otherwise than the oracle, and how many rows were compared."""
    with duckdb.connect(str(settings.warehouse_file), read_only=True) as connection:
        connection.execute("set TimeZone = 'UTC'")
        tables = {
            name: rows(connection, f"select * from {schema}.{name}")
            for schema, names in TABLES.items()
            for name in names
        }
        oracle = Oracle(tables, now)

        def stored(table: str, *key: str, where: str = "true") -> dict[Any, Row]:
            found = rows(connection, f"select * from kpis.{table} where {where}")
            return {tuple(row[name] for name in key): row for row in found}

        day = ("service_date", "hospital_id")
        hours = stored("kpi_crowding_hourly", "hospital_id", "hour_start_at")
        flow = rows(
            connection,
            "select * from kpis.kpi_occupancy_daily "
            "join kpis.kpi_department_flow_daily using (service_date, department_id)",
        )
        noon = rows(
            connection,
            "select period_date, hospital_id, sum(numerator_count)::bigint as numerator_count, "
            "sum(denominator_count)::bigint as denominator_count from kpis.kpi_discharge_before_noon_daily "
            "group by all having sum(denominator_count) > 0",
        )
        beds = {
            (r["service_date"], r["department_id"]): r
            for r in flow
            if r["patients_count"] or r["midnight_patients_count"]
        }
        worked = rows(
            connection,
            "select w.*, d.doctor_id from kpis.kpi_physician_workload_daily w join dimensions.dim_doctor d "
            "using (doctor_key) where doctor_key > 0",
        )
        compared: dict[str, tuple[Mapping[Any, Row], Mapping[Any, Row]]] = {
            "lwbs": (oracle.lwbs(), stored("kpi_lwbs_daily", *day)),
            "four_hour": (
                oracle.four_hour(),
                stored("kpi_four_hour_daily", "service_date", "period_date", "hospital_id"),
            ),
            "waits": (oracle.waits(), stored("kpi_waits_daily", *day, "department_name", "triage_group")),
            "seen_on_time": (oracle.seen_on_time(), stored("kpi_seen_on_time_daily", *day, "scale", "triage_group")),
            "critical_waits": (oracle.critical_waits(), stored("kpi_critical_waits_daily", *day)),
            "boarding": (
                oracle.boarding(),
                stored("kpi_boarding_daily", *day, "destination_department", where="destination_department = 'all'"),
            ),
            "op18": (oracle.op18(), stored("kpi_op18", "period_month", "hospital_id", "stratum")),
            "ecat": (
                oracle.ecat(),
                stored("kpi_ecat", "period_year", "hospital_id", "stratum", where="stratum = 'all'"),
            ),
            "returns": (oracle.returns(), stored("kpi_returns", "period_month", "hospital_id", "variant")),
            "arrivals": (
                oracle.arrivals(),
                stored("kpi_arrivals_hourly", *day, "hour_of_day", where="arrivals_count > 0"),
            ),
            "workload": (oracle.workload(), {(r["service_date"], r["doctor_id"]): r for r in worked}),
            "length_of_stay": (
                oracle.length_of_stay(),
                stored("kpi_length_of_stay", "period_month", "hospital_id", "stay_class"),
            ),
            "before_noon": (oracle.before_noon(), {(r["period_date"], r["hospital_id"]): r for r in noon}),
            "overstays": (oracle.overstays(), stored("kpi_overstays", "hospital_id", "department_name")),
            "readmissions": (oracle.readmissions(), stored("kpi_readmissions", "period_month", "hospital_id")),
            # Days outside of the service days are in no table.
            "occupancy": (
                {key: row for key, row in oracle.occupancy().items() if key in beds or is_told(key[0], row, settings)},
                beds,
            ),
            "crowding": (oracle.crowding(hours), hours),
        }
    wrong, count = [], 0
    for name, (expected, found) in compared.items():
        assert expected, name
        wrong += [
            f"{name} {key}: only in the {'tables' if key in found else 'oracle'}"
            for key in expected.keys() ^ found.keys()
        ]
        for key in expected.keys() & found.keys():
            count += 1
            wrong += [
                f"{name} {key} {column}: {figure} by the oracle, {found[key][column]} in the table"
                for column, figure in expected[key].items()
                if not is_same(figure, found[key][column])
            ]
    return wrong, count


def is_told(day: date, row: Row, settings: Settings) -> bool:
    """Whether the tables must have a row of a department: somebody was there on a service day."""
    last = settings.last_service_date
    assert last is not None
    return settings.first_service_date <= day <= last and bool(row["patients_count"] or row["midnight_patients_count"])


def test_a_dirty_network(built: tuple[Settings, BuildReport]) -> None:
    settings, _ = built
    wrong, compared = differences(settings, hospital_now(settings))
    assert not wrong, wrong[:20]
    assert compared > 5_000


#: Zones of the network's hospitals, in their place in the file, instead of those that were simulated.
NASTY_ZONES = ("Europe/London", "Australia/Lord_Howe", "America/St_Johns", "Asia/Kathmandu", "Pacific/Chatham")


def landed(folder: Path, first: date, days: int, *, clean: bool, zones: tuple[str, ...] = ()) -> Settings:
    """A small network, its wall clocks read as those of other zones where `zones` are given."""
    settings = Settings(folder, first_service_date=first, last_service_date=first + timedelta(days=days - 1))
    simulate(settings.landing, settings.ground_truth, start=first, days=days, scale=0.05, seed=11, clean=clean)
    (file,) = settings.landing.glob("native/hospitals/*.csv")
    header, *lines = file.read_text().splitlines()
    place = header.split(",").index("time_zone")
    for number, zone in enumerate(zones):
        fields = lines[number].split(",")
        fields[place] = zone
        lines[number] = ",".join(fields)
    file.write_text("\n".join([header, *lines]) + "\n")
    write_settings(settings)
    return settings


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "days", "clean", "zones"),
    [
        pytest.param(date(2026, 3, 5), 5, True, (), id="clean, with the day of 23 hours"),
        # London repeats an hour on 25 October, St John's and Chicago on 1 November.
        pytest.param(date(2026, 10, 24), 10, False, NASTY_ZONES, id="hours that are repeated"),
        # Lord Howe repeats half an hour on 5 April, Chatham an hour.
        pytest.param(date(2026, 4, 4), 3, False, NASTY_ZONES, id="half an hour that is repeated"),
        pytest.param(date(2028, 2, 28), 3, False, NASTY_ZONES, id="29 February"),
    ],
)
def test_a_network(tmp_path: Path, first: date, days: int, clean: bool, zones: tuple[str, ...]) -> None:
    settings = landed(tmp_path, first, days, clean=clean, zones=zones)
    report = run(settings)
    assert not report.failures
    silent = [
        f"{check.table}.{check.name}" for check in report.failed_checks + report.warnings if not check.description
    ]
    assert not silent, "a check that does not pass says why"
    assert not [check for check in report.failed_checks if check.name == "reconciles"]
    wrong, compared = differences(settings, hospital_now(settings))
    assert not wrong, wrong[:20]
    assert compared > 1_000
