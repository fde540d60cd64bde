"""Facts and KPIs are what plain Python makes of the cleaned rows: on a clean, a dirty and a nasty network."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hospital_assets.settings import Settings, write_settings
from hospital_assets.simulator import simulate
from hospital_assets_tests.helpers import run
from hospital_assets_tests.kpi_oracle import Stored
from hospital_assets_tests.oracle import Oracle, Row
from hospital_assets_tests.test_kpi_oracle import all_differences, same, stored_in

if TYPE_CHECKING:
    from hospital_assets.automation.build import BuildReport

CLEANED = ("departments", "doctors", "doctor_shifts", "er_visits", "adt_events", "diagnoses")


def fact_differences(stored: Stored) -> tuple[list[str], int]:
    """What the facts of a warehouse say otherwise than the oracle, and how many rows were compared."""
    oracle = Oracle({f"cleaned_{name}": stored.rows(f"cleaned.cleaned_{name}") for name in CLEANED})
    doctors, departments = stored.dimension("doctor"), stored.dimension("department")
    # Where two facts are of one visit, only the last would be compared below.
    ids = Counter(row["visit_id"] for row in stored.visits)
    ids += Counter(row["shift_id"] for row in stored.rows("facts.fact_doctor_shifts"))
    doctor_of = {key: row["doctor_id"] if key > 0 else None for key, row in doctors.items()}
    name_of = {key: row["department_name"] for key, row in departments.items()}
    visits = {
        row["visit_id"]: row
        | {
            "doctor_id": doctor_of[row["doctor_key"]],
            "condition": (c["icd_version"], c["icd_code"]) if (c := row["condition"])["condition_key"] > 0 else None,
        }
        for row in stored.visits
    }
    stays = {
        (row["stay_id"], row["stay_class"]): row
        | {
            "segments": [
                (name_of[s["department_key"]], s["segment_start_at"], s["segment_end_at"]) for s in row["segments"]
            ]
        }
        for row in stored.stays
    }
    shifts = {
        row["shift_id"]: row
        | {
            "hospital_id": stored.hospitals[row["hospital_key"]]["hospital_id"],
            "doctor_id": doctor_of[row["doctor_key"]],
            "department_name": name_of[row["department_key"]],
        }
        for row in stored.rows("facts.fact_doctor_shifts")
    }
    compared: dict[str, tuple[dict[Any, Row], dict[Any, Row]]] = {
        "visit": ({row["visit_id"]: row for row in oracle.visits}, visits),
        "stay": ({(row["stay_id"], row["stay_class"]): row for row in oracle.stays}, stays),
        "shift": ({row["shift_id"]: row for row in oracle.shifts}, shifts),
    }
    wrong, count, persons = [f"{one} is there {n} times" for one, n in ids.items() if n > 1], 0, set()
    for name, (expected, found) in compared.items():
        assert expected, name
        wrong += [
            f"{name} {key}: only in the {'facts' if key in found else 'oracle'}"
            for key in expected.keys() ^ found.keys()
        ]
        for key in expected.keys() & found.keys():
            count += 1
            row = dict(expected[key])
            if name != "shift":
                persons.add((row.pop("person"), found[key]["person"]))
            wrong += [
                f"{name} {key} {column}: {value} by the oracle, {found[key][column]} in the facts"
                for column, value in row.items()
                if not same(found[key][column], value)
            ]
    # Numbers of persons are the warehouse's own: each must stand for one person here.
    for side in (0, 1):
        several = [one for one, n in Counter(pair[side] for pair in persons).items() if n > 1]
        wrong += [f"{one} is of several persons" for one in several]
    return wrong, count


def assert_as_the_oracles_have_it(settings: Settings, least: int) -> None:
    stored = stored_in(settings)
    try:
        wrong, compared = fact_differences(stored)
        assert not wrong, wrong[:20]
        assert compared > least
    finally:
        stored.close()


def test_a_dirty_network(built: tuple[Settings, BuildReport]) -> None:
    assert_as_the_oracles_have_it(built[0], 2_000)


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
@pytest.mark.slow_as("hours that are repeated")
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
    assert_as_the_oracles_have_it(settings, 500)
    assert all_differences(settings) == {}
