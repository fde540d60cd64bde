"""A day that is built alone, or refreshed for what has landed since, is what a build of all days makes of it.

Visits and stays over midnight, numbers used again, corrections on other days: what a run over some days reads of other
days decides about each of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hospital_assets.automation.build import refresh
from hospital_assets.definitions import build_definitions
from hospital_assets.settings import Settings, load_settings
from hospital_assets_tests.helpers import query, run, tables

SETTINGS = "first_service_date = 2026-01-10\nlast_service_date = 2026-01-14\n"
HEAD = (
    "visit_id,patient_id,hospital_id,department,doctor_id,arrival_mode,arrival_time,handover_time,triage_time,"
    "triage_level,room_time,provider_time,decision_time,departure_time,disposition,chief_complaint,recorded_at\n"
)
CODES = "diagnosis_id,visit_id,patient_id,hospital_id,encounter_date,sequence,icd10_code,description,recorded_at\n"
PLACES = {
    "native/hospitals/h.csv": "hospital_id,hospital_name,city,state,time_zone\nH1,Lake,Chicago,IL,America/Chicago\n",
    "native/departments/d.csv": "department_id,hospital_id,department_name,bed_capacity,effective_date\n"
    "H1-ED,H1,Emergency,10,2020-01-01\nH1-IC,H1,ICU,4,2020-01-01\n",
    "hl7v2-adt/hospitals.csv": "hospital_id,hospital_name,city,state,time_zone\n"
    "GEN,General,Chicago,IL,America/Chicago\n",
    "hl7v2-adt/departments.csv": "department_id,hospital_id,department_name,bed_capacity,effective_date\n"
    "GEN-ED,GEN,Emergency,10,2020-01-01\nGEN-IC,GEN,ICU,4,2020-01-01\nGEN-SU,GEN,Surgery,6,2020-01-01\n",
}


def visit(number: str, patient: str, arrived: str, seen: str, left: str) -> str:
    return f"{number},{patient},H1,Emergency,,walk_in,{arrived},,,3,,{seen},,{left},home,,{left}\n"


def code(number: str, visit_id: str, patient: str) -> str:
    return f"{number},{visit_id},{patient},H1,2026-01-12,1,F32.9,depression,2026-01-12 12:00:00\n"


def message(event: str, at: str, number: str, of: str = "", **told: str) -> str:
    """An ADT message; `told` are class, place, disposition, start of the visit, and when it was written."""
    fields = [""] * 46
    values = {2: told.get("cls", "E"), 3: told.get("place", "ED"), 19: number, 36: told.get("as_", ""), 44: of}
    for place, value in values.items():
        fields[place] = value
    written = told.get("written", at)
    return "\r".join(
        [
            rf"MSH|^~\&|ADT|GEN|ED|HERE|{written}||ADT^{event}|{number}-{event}-{written}|P|2.5",
            f"EVN||{written}||||{at}",
            f"PID|1||P{number}^^^GEN^MR||{told.get('said', 'Doe^Jo||19800102|F')}",
            "PV1|" + "|".join(fields[1:]),
            f"PV2|1||^Chest pain{'|' * 35}A" if told.get("is_told") else "",
            "",
        ]
    ).replace("\r\r", "\r")


def resource(kind: str, key: str, /, **told: Any) -> str:
    written = {"lastUpdated": "2026-01-13T12:00:00Z"}
    return json.dumps({"resourceType": kind, "id": key, "meta": written, **told}) + "\n"


def encounter(name: str, of: str, place: str, start: str, end: str, left_to: str, **told: Any) -> str:
    return resource(
        "Encounter",
        name,
        status="finished",
        **{"class": {"code": of}},
        serviceProvider={"reference": "Organization/H"},
        subject={"reference": "Patient/P1"},
        period={"start": f"{start}-06:00", "end": f"{end}-06:00"},
        location=[{"location": {"reference": f"Location/{place}"}, "period": {"start": f"{start}-06:00"}}],
        hospitalization={"dischargeDisposition": {"coding": [{"code": left_to}]}},
        **told,
    )


ZONE = {"url": "http://hl7.org/fhir/StructureDefinition/timezone", "valueCode": "America/Chicago"}
FIRST = {
    **PLACES,
    "native/er_visits/a.csv": HEAD
    + visit("V1", "P1", "2026-01-11 10:00:00", "2026-01-11 10:30:00", "2026-01-11 12:00:00")
    + visit("V2", "P2", "2026-01-11 23:00:00", "2026-01-11 23:20:00", "2026-01-12 01:00:00")
    + visit("V3", "P3", "2026-01-12 09:00:00", "2026-01-12 09:20:00", "2026-01-12 11:00:00"),
    "native/diagnoses/a.csv": CODES + code("D2", "V2", "P2") + code("D3", "V3", "P3"),
    # A stay whose messages do not say when it began, one whose end is corrected, two visits over midnight.
    "hl7v2-adt/a.hl7": message("A02", "20260112110000", "S1", cls="I", place="SURG")
    + message("A03", "20260113120000", "S1", cls="I", place="SURG", as_="01")
    + message("A01", "20260111100000", "S2", cls="I", place="ICU")
    + message("A03", "20260113120000", "S2", cls="I", place="ICU", as_="01")
    + message("A04", "20260111235000", "E1", "20260111235000", is_told="yes")
    + message("A03", "20260112020000", "E1", "20260111235000", as_="01")
    + message("A04", "20260111230000", "E2")
    # Nobody has stated the patient's birth date yet; the telephone number is new.
    + message("A04", "20260114090000", "E3", "20260114090000", said="Doe^Jo||||||||555")
    + message("A03", "20260114100000", "E3", "20260114090000", as_="01", said="Doe^Jo"),
    # Who boards over midnight is part of one encounter, and then of another.
    "fhir-r4/a.ndjson": resource("Organization", "H", type=[{"coding": [{"code": "prov"}]}], name="H", extension=[ZONE])
    + resource("Location", "ED", name="Emergency", managingOrganization={"reference": "Organization/H"})
    + resource("Location", "IC", name="ICU", managingOrganization={"reference": "Organization/H"})
    + encounter("E1", "EMER", "ED", "2026-01-11T22:00:00", "2026-01-12T02:00:00", "hosp")
    + encounter(
        "E2", "IMP", "IC", "2026-01-12T02:00:00", "2026-01-13T09:00:00", "home", partOf={"reference": "Encounter/E1"}
    ),
}
#: What was known of a patient three days before.
KNOWN = message("A31", "20260111080000", "E3", said="Doe^Jo||19400102|F")
LATER = {
    # The number of another patient's visit; a visit known by its day; a diagnosis that is withdrawn.
    "native/er_visits/b.csv": HEAD
    + visit("V1", "P9", "2026-01-12 09:00:00", "2026-01-12 09:40:00", "2026-01-12 11:00:00")
    + visit("V4", "P4", "2026-01-12", "2026-01-12 10:20:00", "2026-01-12 12:00:00"),
    "native/diagnoses/a.csv": CODES + code("D3", "V3", "P3"),
    "hl7v2-adt/b.hl7": message("A01", "20260111100000", "S1", cls="I", place="ICU")
    + message("A03", "20260113120000", "S2", cls="I", place="ICU", as_="20", written="20260113150000")
    + message("A08", "20260112030000", "E1", "20260112000500")
    + message("A03", "20260112010000", "E2", as_="01")
    + KNOWN,
}


def landed(folder: Path, *files: Mapping[str, str]) -> Settings:
    folder.mkdir(exist_ok=True)
    (folder / "hospital.toml").write_text(SETTINGS)
    for name, text in (pair for one in files for pair in one.items()):
        path = folder / "landing" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, newline="")
    return load_settings(folder)


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = landed(tmp_path_factory.mktemp("once"), FIRST, LATER)
    report = run(settings)
    assert report.succeeded, report.failures or report.failed_checks
    return settings


@pytest.mark.slow
def test_what_happened_is_counted_once_and_on_its_day(at_once: Settings) -> None:
    visits = query(
        at_once,
        "select visit_id, cast(service_date as varchar) as day, arrival_mode, wait_minutes, los_minutes, "
        "condition_key > 0 as coded from facts.fact_emergency_visits order by 1",
    )
    assert visits.rows() == [
        ("V1", "2026-01-11", "walk_in", 30.0, 120.0, False),
        ("V2", "2026-01-11", "walk_in", 20.0, 120.0, False),
        ("V3", "2026-01-12", "walk_in", 20.0, 120.0, True),
        ("V4", "2026-01-12", "walk_in", None, None, False),
        ("fhir-r4:E1", "2026-01-11", "unknown", None, 240.0, False),
        ("hl7v2-adt:GEN-E1", "2026-01-12", "ambulance", None, 115.0, False),
        ("hl7v2-adt:GEN-E2", "2026-01-11", "unknown", None, 120.0, False),
        ("hl7v2-adt:GEN-E3", "2026-01-14", "unknown", None, 60.0, False),
    ]
    ages = query(at_once, "select age_years from facts.fact_emergency_visits where visit_id = 'hl7v2-adt:GEN-E3'")
    assert ages["age_years"].to_list() == [86]
    (left_out,) = query(at_once, "select violated_count from quality.dq_results where kind = 'one_patient'").rows()
    assert left_out == (1,)
    boarded = "select destination_department from kpis.kpi_boarding_daily where hospital_id = 'all'"
    assert {"ICU"} <= set(query(at_once, boarded)["destination_department"])
    leaving = query(
        at_once,
        "select population_count, excluded_expired_count from kpis.kpi_discharge_before_noon_daily "
        "where hospital_id = 'hl7v2-adt:GEN'",
    )
    assert (leaving["population_count"].sum(), leaving["excluded_expired_count"].sum()) == (2, 1)


@pytest.mark.slow
@pytest.mark.slow_as("1")
@pytest.mark.parametrize("offset", [1, 2])
def test_a_day_built_again_alone_is_the_same(at_once: Settings, offset: int) -> None:
    before = dict(tables(at_once))
    day = at_once.first_service_date + timedelta(days=offset)
    report = run(at_once, first=day, last=day)
    assert report.succeeded, report.failures or report.failed_checks
    assert {name for name, rows in tables(at_once) if before[name] != rows} == set()


#: The first message of a stay alone: the numbers of its other days' segments move.
BEGUN = {"hl7v2-adt/c.hl7": message("A01", "20260111100000", "S1", cls="I", place="ICU") + KNOWN}


@pytest.mark.slow
@pytest.mark.slow_as("much")
@pytest.mark.parametrize("later", [LATER, BEGUN], ids=["much", "the beginning of a stay"])
def test_what_lands_later_is_as_if_it_had_been_there(
    later: Mapping[str, str], at_once: Settings, tmp_path: Path
) -> None:
    if later is not LATER:
        at_once = landed(tmp_path / "once", FIRST, later)
        assert run(at_once).succeeded
    in_turn = landed(tmp_path / "later", FIRST)
    assert run(in_turn).succeeded
    landed(in_turn.data_dir, later)
    definitions = build_definitions(in_turn)
    report = refresh(definitions, in_turn, (definitions.resources or {})["landing"])
    assert report is not None and report.succeeded, report and (report.failures or report.failed_checks)
    once = dict(tables(at_once))
    assert {name for name, rows in tables(in_turn) if once[name] != rows} == set()
