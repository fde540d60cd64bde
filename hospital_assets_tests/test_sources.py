"""Built-in source profiles end to end: landed files to facts, with golden numbers; and side by side."""

from __future__ import annotations

import csv
import json
import random
import subprocess
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from hospital_assets.settings import Settings, load_settings, write_settings
from hospital_assets_tests.conftest import shared
from hospital_assets_tests.helpers import query, run
from hospital_assets_tests.processes import hospital

FIRST, LAST = date(2026, 2, 2), date(2026, 2, 12)
#: What is built: from the files to the facts, and what is counted of them.
#: The first time without a KPI that stale_partitions compares with stored observations.
TO_FACTS = "group:raw or group:cleaned or group:dimensions or group:facts"


def write_csv(path: Path, rows: Sequence[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def clock(rng: random.Random) -> datetime:
    return datetime(2026, 2, 2) + timedelta(minutes=rng.randrange(7 * 24 * 60))


def two_files(folder: Path, rng: random.Random) -> None:
    """The two-file extract; 258 visits of level 1 and 746 of level 2 among 5,000."""
    groups = ["O+", "O-", "A+", "A-", "B+", "B-", "AB+", "AB-"]
    write_csv(
        folder / "patients_data.csv",
        [
            {
                "patient_id": f"P{n}",
                "age": rng.randrange(100),
                "gender": rng.choice(["Male", "Female"]),
                "blood_group": rng.choice(groups),
                "pre_existing_condition": rng.choice(["None", "Asthma"]),
            }
            for n in range(800)
        ],
    )
    levels = [1] * 258 + [2] * 746 + [3] * 2000 + [4] * 1500 + [5] * 496
    rng.shuffle(levels)
    departments = ["Cardiology", "Trauma", "Neurology", "Orthopedics", "General"]
    write_csv(
        folder / "er_visits_data.csv",
        [
            {
                "visit_id": f"V{n}",
                "patient_id": f"P{rng.randrange(800)}",
                "doctor_id": f"D{n % 20}",
                "arrival_time": f"{clock(rng):%Y-%m-%d %H:%M:%S}",
                "triage_level": level,
                "wait_time_minutes": rng.randrange(5, 120),
                "department_routed": rng.choice(departments),
            }
            for n, level in enumerate(levels)
        ],
    )


def flat_log(folder: Path, rng: random.Random) -> None:
    rows: list[dict[str, object]] = []
    for n in range(400):
        arrival = clock(rng)
        seen, gone = arrival + timedelta(minutes=20), arrival + timedelta(minutes=200)
        rows.append(
            {
                "patient_id": f"P{n % 300}",
                "hospital_id": 1 + n % 2,
                "arrival_time": arrival,
                "triage_level": ["Critical", "High", "Medium", "Low"][n % 4],
                "condition": "Chest pain",
                "doctor_assigned": "D1",
                "treatment_start_time": seen,
                "discharge_time": gone,
                "outcome": ["Discharged", "Admitted"][n % 2],
            }
        )
    write_csv(folder / "er_log.csv", rows)


def flow_events(folder: Path, rng: random.Random) -> dict[str, int]:
    """The events of the streaming tutorials; returns how many of each dirt were planted."""
    folder.mkdir(parents=True)
    wards = ["Emergency", "Surgery", "ICU", "Pediatrics", "Maternity", "Oncology", "Cardiology"]
    now = datetime.now(UTC).replace(tzinfo=None)
    planted = dict.fromkeys(["old", "future", "reversed"], 0)
    lines = []
    for n in range(1000):
        admitted, age = clock(rng), rng.randint(1, 100)
        discharged = admitted + timedelta(hours=rng.randint(1, 72))
        if n % 20 == 7:
            age, planted["old"] = rng.randint(101, 150), planted["old"] + 1
        if n % 20 == 13:
            admitted, planted["future"] = (now + timedelta(hours=rng.randint(1, 72)), planted["future"] + 1)
            discharged = admitted + timedelta(hours=5)
        elif n % 25 == 3:
            discharged, planted["reversed"] = admitted - timedelta(hours=1), planted["reversed"] + 1
        lines.append(
            json.dumps(
                {
                    "patient_id": f"P{n}",
                    "gender": rng.choice(["Male", "Female"]),
                    "age": age,
                    "department": rng.choice(wards),
                    "admission_time": admitted.isoformat(),
                    "discharge_time": discharged.isoformat(),
                    "bed_id": rng.randint(1, 500),
                    "hospital_id": rng.randint(1, 7),
                }
            )
        )
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
    return planted


def native(folder: Path) -> None:
    """A small hospital of the network's own, with numbers that the others use, too."""
    write_csv(
        folder / "hospitals" / "h.csv",
        [
            {
                "hospital_id": "1",
                "hospital_name": "Ours",
                "city": "",
                "state": "",
                "time_zone": "America/Chicago",
                "trauma_level": "",
                "annual_ed_visits_band": "",
            }
        ],
    )
    write_csv(
        folder / "departments" / "d.csv",
        [
            {
                "department_id": "1-Emergency",
                "hospital_id": "1",
                "department_name": "Emergency",
                "bed_capacity": 9,
                "mean_stay_hours": 4,
                "effective_date": "2020-01-01",
            }
        ],
    )
    write_csv(
        folder / "patients" / "p.csv",
        [
            {
                "patient_id": f"P{n}",
                "birth_date": "1931-05-04",
                "sex": "F",
                "blood_group": "AB-",
                "recorded_at": "2026-02-02 00:00:00",
            }
            for n in range(30)
        ],
    )
    write_csv(
        folder / "er_visits" / "v.csv",
        [
            {
                "visit_id": f"V{n}",
                "patient_id": f"P{n}",
                "hospital_id": "1",
                "department": "Emergency",
                "arrival_time": "2026-02-03 10:00:00",
                "recorded_at": "2026-02-03 18:00:00",
            }
            for n in range(30)
        ],
    )
    write_csv(
        folder / "diagnoses" / "x.csv",
        [
            {
                "diagnosis_id": f"X{n}",
                "visit_id": f"V{n}",
                "patient_id": f"P{n}",
                "hospital_id": "1",
                "encounter_date": "2026-02-03",
                "sequence": 1,
                "icd10_code": "J18.9",
                "description": "P",
            }
            for n in range(30)
        ],
    )
    folder.joinpath("adt_events").mkdir()
    # P1 was P2 all along: in this hospital, and nowhere else.
    (folder / "adt_events" / "a.json").write_text(
        json.dumps(
            {
                "message_id": "M1",
                "event_type": "A40",
                "visit_id": "V1",
                "patient_id": "P1",
                "prior_patient_id": "P2",
                "hospital_id": "1",
                "department": "Emergency",
                "event_at": "2026-02-03 12:00:00",
                "visit_start_at": "2026-02-03 10:00:00",
                "recorded_at": "2026-02-03 12:00:00",
            }
        )
        + "\n"
    )


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, dict[str, int]]:
    """Four sources whose numbers collide, in one network, built."""
    settings = Settings(tmp_path_factory.mktemp("sources"), FIRST, LAST)
    write_settings(settings)
    rng = random.Random(4)
    two_files(settings.landing / "er-visits-csv", rng)
    flat_log(settings.landing / "er-log-csv", rng)
    planted = flow_events(settings.landing / "patient-flow-json", rng)
    native(settings.landing / "native")
    report = run(settings, select=TO_FACTS)
    assert report.failures == []
    assert report.failed_checks == []
    return settings, planted


Network = tuple[Settings, dict[str, int]]


def of_source(settings: Settings, select: str, source: str) -> tuple[object, ...]:
    """One row about the visits of a source."""
    return query(
        settings,
        f"select {select} from facts.fact_emergency_visits f "
        "join cleaned.cleaned_er_visits v using (visit_id) "
        f"where v.source_profile = '{source}'",
    ).row(0)


@pytest.mark.slow
def test_every_landed_record_is_in_one_place(network: Network) -> None:
    settings, _ = network
    for subject in ("patients", "er_visits", "adt_events", "hospitals", "diagnoses"):
        counts = query(
            settings,
            f"select (select count(*) from raw.raw_{subject}) as raw, "
            f"(select count(*) from cleaned.cleaned_{subject}) "
            f"+ (select count(*) from cleaned.quarantine_{subject}) as placed, "
            f"(select sum(row_count) from raw.raw_landed_files where subject = '{subject}') as said",
        ).row(0)
        declared = 1 if subject == "hospitals" else 0  # the two-file extract declares its own
        assert counts[0] == counts[1] == counts[2] + declared


@pytest.mark.slow
def test_the_two_file_extract_has_exactly_its_critical_visits(network: Network) -> None:
    settings, _ = network
    assert of_source(
        settings,
        "count(*), count(*) filter (f.is_critical), count(*) filter (f.triage_level = 1), "
        "count(*) filter (f.department_key > 0)",
        "er-visits-csv",
    ) == (5000, 1004, 258, 5000)
    landed = pl.read_csv(settings.landing / "er-visits-csv" / "er_visits_data.csv")
    (waited, shortest, derived) = of_source(
        settings,
        "avg(f.wait_minutes), min(f.wait_minutes), count(*) filter (f.quality_codes like '%clock_derived%')",
        "er-visits-csv",
    )
    assert waited == pytest.approx(landed["wait_time_minutes"].mean())
    assert (shortest, derived) == (landed["wait_time_minutes"].min(), 5000)
    ages = query(
        settings,
        "select count(*), count(birth_date), count(age_at_extract_years) "
        "from dimensions.dim_patient where patient_id like 'er-visits-csv:%'",
    )
    assert ages.row(0) == (800, 0, 800)  # ages as landed; no birth date is made of them


@pytest.mark.slow
def test_the_flat_log_has_named_levels(network: Network) -> None:
    settings, _ = network
    assert of_source(
        settings,
        "count(*), count(*) filter (f.is_critical), avg(f.wait_minutes), avg(f.los_minutes), "
        "count(*) filter (f.disposition = 'admitted'), count(distinct f.hospital_key)",
        "er-log-csv",
    ) == (400, 200, 20.0, 200.0, 200, 2)
    derived = of_source(settings, "count(*) filter (f.quality_codes <> '')", "er-log-csv")
    assert derived == (0,)


@pytest.mark.slow
def test_the_tutorials_dirt_is_quarantined_and_not_clamped(network: Network) -> None:
    settings, planted = network
    rules = dict(
        query(
            settings,
            "select 'patients ' || rule, count(*) from cleaned.quarantine_patients "
            "where source_profile = 'patient-flow-json' group by 1 union all "
            "select 'events ' || rule, count(*) from cleaned.quarantine_adt_events "
            "where source_profile = 'patient-flow-json' group by 1",
        ).iter_rows()
    )
    # A future stay is two events: its admission, and a discharge that is later still.
    assert rules == {
        "patients outside_limits": planted["old"],
        "events event_in_future": 2 * planted["future"],
        "events event_before_visit": planted["reversed"],
    }
    stays = query(
        settings,
        "select count(*), max(age_at_extract_years) from facts.fact_patient_flow "
        "left join dimensions.dim_patient using (patient_key) "
        "where stay_id like 'patient-flow-json:%'",
    )
    assert stays.row(0) == (1000 - planted["future"], 100)


@pytest.mark.slow
def test_the_same_numbers_of_two_sources_are_two_people(network: Network) -> None:
    settings, _ = network
    ours = query(
        settings,
        "select f.visit_id, p.patient_id, p.birth_date, h.hospital_name, f.condition_key > 0 as coded "
        "from facts.fact_emergency_visits f join dimensions.dim_patient p using (patient_key) "
        "join dimensions.dim_hospital h using (hospital_key) "
        "where f.visit_id in ('V1', 'er-visits-csv:V1')",
    ).sort("visit_id")
    assert ours["visit_id"].to_list() == ["V1", "er-visits-csv:V1"]
    assert ours["birth_date"].to_list() == [date(1931, 5, 4), None]
    assert ours["patient_id"][1].startswith("er-visits-csv:P")
    assert ours["hospital_name"].to_list() == ["Ours", "Hospital of the ER extract"]
    assert ours["coded"].to_list() == [True, False]  # our diagnosis is not their visit's
    hospitals = query(settings, "select hospital_id from dimensions.dim_hospital")
    assert {"1", "er-visits-csv:1", "er-log-csv:1", "patient-flow-json:1"} <= set(hospitals["hospital_id"])
    # The merge of P2 into P1 is this hospital's; everybody else's P2 stays who they are.
    merged = query(
        settings,
        "select patient_id from dimensions.dim_person join dimensions.dim_patient "
        "using (patient_durable_key) where is_merged",
    )
    assert merged["patient_id"].to_list() == ["P2"]
    versions = query(
        settings,
        "select patient_id, count(distinct patient_durable_key) from dimensions.dim_patient "
        "where patient_id like '%P5' and length(split_part(patient_id, ':', -1)) = 2 group by 1",
    )
    assert versions.height == 4 and set(versions[:, 1]) == {1}


@pytest.mark.nightly
def test_synthea_from_export_to_facts(tmp_path: Path) -> None:
    samples = shared("synthea_dbt_seeds")

    # Processes of their own: partitions follow the data directory, once, at import.
    subprocess.run(hospital(tmp_path, "import", "synthea-csv", str(samples)), check=True, capture_output=True)
    settings = load_settings(tmp_path)
    assert settings.partitions == "yearly"
    facts = "key:fact_emergency_visits or key:fact_patient_flow or key:fact_vitals"
    layers = "group:raw or group:cleaned or group:dimensions"
    build = hospital(tmp_path, "build", "--select", f"{layers} or {facts} or key:kpi_readmissions")
    subprocess.run(build, check=True, capture_output=True)
    counts = query(
        settings,
        "select (select count(*) from facts.fact_emergency_visits), "
        "(select count(*) from cleaned.cleaned_patients), "
        "(select count(*) from cleaned.cleaned_diagnoses where icd_version = 0), "
        "(select count(*) from cleaned.cleaned_procedures), "
        "(select count(*) from cleaned.cleaned_vitals), "
        "(select count(*) from raw.raw_other_records)",
    )
    # 604 encounters: 17 emergencies, 11 inpatient, 576 others. 990 observations: 136 vital signs.
    assert counts.row(0) == (17, 27, 438, 249, 28, 576 + 854)
    stays = query(
        settings,
        "select stay_class, count(*), avg(length_of_stay_hours) / 24 "
        "from facts.fact_patient_flow group by 1 order by 1",
    )
    assert stays.rows() == [
        ("emergency", 17, pytest.approx(1 / 24)),
        ("inpatient", 11, pytest.approx(1.25679, abs=1e-5)),
    ]
    mapped = query(settings, "select distinct chapter_name, code_system from dimensions.dim_condition")
    assert set(mapped.rows()) == {("Unmapped", "SNOMED CT"), ("Unmapped", "none")}
    again = query(
        settings,
        "select sum(denominator_count), sum(excluded_undelivered_count) from kpis.kpi_readmissions "
        "where hospital_id = 'all'",
    )
    # Synthea does not say how a stay ended: whether anybody died or was transferred cannot be judged.
    assert again.row(0) == (0, 11)
    quarantined = query(settings, "select count(*) from cleaned.quarantine_er_visits, cleaned.quarantine_diagnoses")
    assert quarantined.item() == 0
