"""FHIR R4: the same visits through native files and through FHIR give the same facts."""

from __future__ import annotations

import contextlib
import itertools
import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hospital_assets.assets.cleaned.vitals import validate_vitals
from hospital_assets.landing import json_records
from hospital_assets.landing.fhir import json_lines, resource_type
from hospital_assets.landing.registry import load_profiles
from hospital_assets.settings import Settings, write_settings
from hospital_assets.simulator import simulate
from hospital_assets.warehouse.database import scratch_connection
from hospital_assets.warehouse.dialect import lazy
from hospital_assets_tests.fhir_rendering import Rendering, land_bundle, land_ndjson, prepare
from hospital_assets_tests.helpers import query, run, zone_in
from hospital_assets_tests.test_hl7_profile import collected

FIRST = date(2026, 3, 7)  # the day after has 23 hours
FACTS = " or ".join(
    [
        *(f'+key:"{fact}"' for fact in ("fact_emergency_visits", "fact_vitals", "fact_patient_flow")),
        '+key:"cleaned_procedures"',
        *(f'key:"{table}"' for table in ("dim_date", "dim_time", "raw_other_records")),
    ]
)

VISITS = """
    select regexp_replace(v.visit_id, '^fhir-r4:', '') as visit_id, h.hospital_name, d.department_name,
           doctor.full_name, patient.birth_date, c.icd_code, arrival_at, handover_at, triage_at,
           room_at, provider_at, decision_at, departure_at, arrival_mode, v.disposition,
           triage_level, is_critical, is_lwbs, is_open, is_cancelled, age_years, wait_minutes,
           wait_exclusion, treatment_minutes, los_minutes, four_hour_minutes, room_minutes,
           boarding_minutes
    from facts.fact_emergency_visits v
    join dimensions.dim_hospital h using (hospital_key)
    join dimensions.dim_department d using (department_key)
    join dimensions.dim_doctor doctor using (doctor_key)
    join dimensions.dim_patient patient using (patient_key)
    join dimensions.dim_condition c using (condition_key)
    order by 1
"""
VITALS = """
    select regexp_replace(visit_id, '^fhir-r4:', '') as visit_id, measured_at, heart_rate_bpm,
           respiratory_rate_per_min, spo2_pct, systolic_mmhg, diastolic_mmhg, temperature_c,
           consciousness, is_on_oxygen, age_years, news2_score
    from facts.fact_vitals order by 1, 2
"""
SCORES = """
    select regexp_replace(visit_id, '^fhir-r4:', '') as visit_id, measured_at, gcs_score, pain_score
    from cleaned.cleaned_vitals order by 1, 2
"""
FLOW = """
    select regexp_replace(stay_id, '^fhir-r4:', '') as stay_id, segment_number, stay_class,
           d.department_name, segment_start_at, segment_end_at, stay_start_at, stay_end_at, is_open,
           length_of_stay_hours, discharge_disposition
    from facts.fact_patient_flow join dimensions.dim_department d using (department_key)
    order by 1, 2
"""
PROCEDURES = """
    select regexp_replace(procedure_id, '^fhir-r4:', '') as procedure_id, procedure_code, code_system,
           regexp_replace(visit_id, '^fhir-r4:', '') as visit_id, performed_at, service_date
    from cleaned.cleaned_procedures order by 1
"""
PEOPLE = """
    select regexp_replace(patient_id, '^fhir-r4:', '') as patient_id, first_name, last_name, sex, race,
           ethnicity, birth_date, recorded_at
    from cleaned.cleaned_patients order by 1, recorded_at
"""
DOCTORS = """
    select regexp_replace(doctor_id, '^fhir-r4:', '') as doctor_id, full_name, specialty, npi
    from cleaned.cleaned_doctors order by 1
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Settings]:
    """The same three days, landed as native files and as FHIR in every shape, both built."""
    root = tmp_path_factory.mktemp("fhir")
    native = Settings(root / "native", first_service_date=FIRST, last_service_date=date(2026, 3, 9))
    simulate(native.landing, native.ground_truth, start=FIRST, days=3, scale=0.04, seed=5, clean=True)
    prepare(native.landing / "native")
    rendering = Rendering(native.landing / "native")
    fhir = replace(native, data_dir=root / "fhir")
    folder = fhir.landing / "fhir-r4"
    land_ndjson(folder / "masters", "master", rendering.masters)
    visits = list(rendering.visits.values())
    third = len(visits) // 3
    land_ndjson(folder / "bulk", "bulk", itertools.chain(*visits[:third]))
    for number, resources in enumerate(visits[third : third + 3]):
        land_bundle(folder, f"visit-{number}", "transaction", resources, indent=2)
    half = (third + 3 + len(visits)) // 2
    land_bundle(folder, "search", "searchset", itertools.chain(*visits[third + 3 : half]))
    land_bundle(folder, "all", "collection", itertools.chain(*visits[half:]), indent=1)
    for directory in (native, fhir):
        write_settings(directory)
        report = run(directory, select=FACTS)
        assert not report.failures
    return native, fhir


def same(native: pl.DataFrame, fhir: pl.DataFrame) -> None:
    assert native.height > 20
    differing = (
        [name for name in native.columns if not native[name].equals(fhir[name], null_equal=True)]
        if native.height == fhir.height
        else ["number of rows"]
    )
    assert not differing, (native.height, fhir.height)


@pytest.mark.nightly
@pytest.mark.parametrize("facts", [VISITS, VITALS, SCORES, FLOW, PROCEDURES, PEOPLE, DOCTORS])
def test_the_same_visits_give_the_same_facts(both: tuple[Settings, Settings], facts: str) -> None:
    native, fhir = (query(directory, facts) for directory in both)
    same(native, fhir)


# --- laying out as lines ---------------------------------------------------------------------------


def laid_out(text: str) -> list[dict[str, Any]]:
    lines = json_lines(iter(text.splitlines(keepends=True)))
    return [json.loads(line) for line in lines if line]


def resource(number: int) -> dict[str, Any]:
    return {
        "resourceType": "Patient",
        "id": f"p{number}",
        "name": [{"family": 'Zo\u00eb "Q" {[,'}],
        "link": {"reference": f"Patient/p{number + 1}"},
    }


def bundle(resources: list[dict[str, Any]], **entry: Any) -> dict[str, Any]:
    return {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [{"resource": each, **entry} for each in resources],
        "total": 3,
    }


def plain(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in one.items() if name[0] != "@"} for one in found]


@given(st.integers(1, 6), st.sampled_from([None, 0, 1, 2]), st.sampled_from(["\n", "\r\n"]))
def test_every_shape_gives_the_same_resources(count: int, indent: int | None, end: str) -> None:
    resources = [resource(number) for number in range(count)]
    ndjson = "".join(f"{json.dumps(one)}{end}" for one in resources)
    shapes = [
        ndjson,
        json.dumps(bundle(resources), indent=indent).replace("\n", end),
        json.dumps(resources, indent=indent).replace("\n", end),
        "".join(f"{json.dumps(bundle([one]))}{end}" for one in resources),
        f"{json.dumps(bundle(resources[:1]))}{end}" + "".join(f"{json.dumps(one)}{end}" for one in resources[1:]),
        f"{json.dumps(bundle(resources[:1]), indent=indent)}{end}{json.dumps(bundle(resources[1:]))}",
    ]
    for text in shapes:
        found = laid_out(text)
        assert plain(found) == resources
        places = [one.get("@line", number) for number, one in enumerate(found, 1)]
        assert len(set(places)) == count and places == sorted(places)
        for one in found:
            # The record is the resource's own words, layout included.
            assert one.get("@record", "") in text


def test_bulk_lines_pass_untouched() -> None:
    lines = ['{"resourceType": "Patient",  "id": "1"}', "not json", "", '{"a": 1.10}']
    assert list(json_lines(f"{line}\n" for line in lines)) == lines


def test_the_type_of_a_line_is_only_told_where_no_other_could_be_meant() -> None:
    record = json.dumps('a "b\\ {"resourceType": "No"}')
    told = {
        '{"resourceType":"Patient", "id": "1"}': "Patient",
        ' { "resourceType" : "Claim"}': "Claim",
        f'{{"@line": 3, "@record": {record}, "resourceType": "Yes"}}': "Yes",
        '{"contained": [{"resourceType": "Device"}], "resourceType": "Patient"}': "any",
        "torn": "any",
    }
    assert {line: resource_type(line) for line in told} == told


def test_a_resource_of_a_laid_out_bundle_knows_its_line() -> None:
    text = json.dumps(bundle([resource(1), resource(2)]), indent=2)
    for one in laid_out(text):
        assert '"resource": {' in text.splitlines()[one["@line"]]  # the line after its entry opens


def test_references_within_a_transaction_become_ids() -> None:
    entry = [
        {"fullUrl": "urn:uuid:11", "resource": {"resourceType": "Patient", "id": "P"}},
        {
            "fullUrl": "urn:uuid:22",
            "resource": {
                "resourceType": "Encounter",
                "subject": {"reference": "urn:uuid:11"},
                "partOf": {"reference": "urn:uuid:99"},
            },
        },
        {"request": {"method": "DELETE", "url": "Encounter/7"}},
    ]
    patient, encounter, deleted = laid_out(json.dumps({"resourceType": "Bundle", "entry": entry}))
    assert patient["id"] == "P"
    assert encounter["id"] == "22"
    assert encounter["subject"]["reference"] == "Patient/P"
    assert encounter["partOf"]["reference"] == "urn:uuid:99"  # of another Bundle
    assert '"urn:uuid:11"' in encounter["@record"]
    assert (deleted["resourceType"], deleted["type"], deleted["id"]) == ("Deleted", "Encounter", "7")


@pytest.mark.parametrize("indent", [None, 1])
def test_of_a_torn_bundle_the_whole_entries_are_kept_and_the_rest_is_one_problem(indent: int | None) -> None:
    whole = json.dumps(bundle([resource(number) for number in range(4)]), indent=indent)
    cut = whole.index('"id": "p3"')
    found = laid_out(whole[:cut])
    assert [one.get("id") for one in found] == ["p0", "p1", "p2", None]
    assert found[-1]["@problem"] == "unreadable_line"
    assert whole[:cut].endswith(found[-1]["@record"])
    assert len({one["@line"] for one in found}) == 4


@settings(max_examples=200)
@given(st.text(alphabet='{}[]",: \n\\abBundleresourceType0', max_size=60))
def test_no_text_stops_it(text: str) -> None:
    for line in json_lines(iter(text.splitlines(keepends=True))):
        assert "\n" not in line


# --- reading ---------------------------------------------------------------------------------------

DAY = date(2026, 3, 7)
NOON = "2026-03-07T12:00:00-05:00"
LOINC, ICD, SCT = ("http://loinc.org", "http://hl7.org/fhir/sid/icd-10-cm", "http://snomed.info/sct")


def encounter(identity: str, kind: str = "EMER", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Encounter",
        "id": identity,
        "status": "finished",
        "class": {"code": kind},
        "subject": {"reference": "https://fhir.example.org/r4/Patient/P1/_history/3"},
        "serviceProvider": {"reference": "Organization/H1"},
        "period": {"start": "2026-03-07T10:00:00-05:00", "end": "2026-03-07T14:00:00-05:00"},
        **more,
    }


def observation(of: str, code: str, value: float | None = None, **more: Any) -> dict[str, Any]:
    said = {} if value is None else {"valueQuantity": {"value": value, "code": "/min"}}
    return {
        "resourceType": "Observation",
        "id": f"{of}-{code}",
        "status": "final",
        "code": {"coding": [{"system": LOINC, "code": code}]},
        "subject": {"reference": "Patient/P1"},
        "encounter": {"reference": f"Encounter/{of}"},
        "effectiveDateTime": "2026-03-07T10:20:00-05:00",
        **said,
        **more,
    }


def condition(identity: str, of: str | None, *codings: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Condition",
        "id": identity,
        "subject": {"reference": "Patient/P1"},
        **({"encounter": {"reference": f"Encounter/{of}"}} if of else {}),
        "code": {"coding": [{"system": system, "code": code} for system, code in codings]},
        **more,
    }


def ndjson(*resources: dict[str, Any]) -> str:
    return "".join(f"{json.dumps(one)}\n" for one in resources)


ADMITTED = {"dischargeDisposition": {"coding": [{"code": "hosp"}]}}
PLACES = [
    {"location": {"display": "ICU"}, "period": {"start": "2026-03-07T14:00:00-05:00"}},
    {
        "location": {"display": "Room 9"},
        "period": {"start": "2026-03-07T15:00:00-05:00"},
        "physicalType": {"coding": [{"code": "ro"}]},
    },
    {"location": {"reference": "Location/W2"}, "period": {"start": "2026-03-07T16:00:00-05:00"}},
    {"location": {"display": "somewhere, some time"}},
]
PRESSURES = [
    {"code": {"coding": [{"system": LOINC, "code": code}]}, "valueQuantity": {"value": value, "code": "mm[Hg]"}}
    for code, value in (("8480-6", 120), ("8462-4", 70))
]
HOSPITAL = {
    "resourceType": "Organization",
    "id": "H1",
    "name": "General",
    "type": [{"coding": [{"code": "prov"}]}],
    "extension": [{"url": "http://hl7.org/fhir/StructureDefinition/timezone", "valueCode": "America/Denver"}],
}
FILES = {
    "kinds": ndjson(
        encounter("K1"),
        encounter("K2", "AMB"),
        encounter("K3", "IMP"),
        {"resourceType": "Claim"},
        observation("K1", "8867-4", 80),
        observation("K1", "1234-5", 3),
    )
    + "torn {\n[1]\n",
    "status": ndjson(
        encounter("S1", status="cancelled"),
        encounter("S2", status="entered-in-error"),
        encounter("S3", status="planned"),
        encounter("S4", status="in-progress"),
    ),
    "admitted": ndjson(
        encounter("A1", hospitalization=ADMITTED),
        encounter("A2", "IMP", partOf={"reference": "Encounter/A1"}, location=PLACES),
    ),
    "values": ndjson(
        observation("V1", "8867-4", 300, status="entered-in-error", id="wrong"),
        observation("V1", "8867-4", 81),
        observation("V1", "9279-1", dataAbsentReason={"coding": [{"code": "not-performed"}]}),
        observation("V1", "85354-9", component=PRESSURES),
        observation(
            "V1", "2708-6", valueQuantity={"value": 97, "code": "%"}, effectiveDateTime="2026-03-07T11:00:00-05:00"
        ),
        observation("V1", "3151-8", 2),
        observation(
            "V1", "8310-5", valueQuantity={"value": 98.6, "system": "urn:iso:std:iso:11073:10101", "code": "266560"}
        ),
        observation("V1", "9269-2", valueQuantity={"value": 15, "unit": "{score}"}),
        observation("V2", "8480-6", valueQuantity={"value": 16, "unit": "kPa"}, effectiveDateTime=NOON),
        encounter("V1"),
    ),
    "conditions": ndjson(
        condition("C1", "R1", (SCT, "22298006")),
        condition("C2", "R1", (SCT, "29857009"), (ICD, "R07.9")),
        condition("C3", "R1", (ICD, "Z00"), verificationStatus={"coding": [{"code": "entered-in-error"}]}),
        condition("C4", None, (ICD, "I10")),
    ),
    "ranks": ndjson(encounter("R1", diagnosis=[{"condition": {"reference": "Condition/C2"}, "rank": 1}])),
    "triage": ndjson(observation("R1", "54094-8", valueInteger=2)),
    "masters": ndjson(
        HOSPITAL, {**HOSPITAL, "id": "H2", "extension": []}, {"resourceType": "Location", "id": "W2", "name": "Surgery"}
    ),
}

Read = dict[str, pl.DataFrame]


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """What the files above give, by subject, and their ledger; all read in one go."""
    folder = tmp_path_factory.mktemp("landed")
    for name, text in FILES.items():
        path = folder / "landing" / "fhir-r4" / f"{name}.ndjson"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with contextlib.closing(scratch_connection()) as connection:
        zone = zone_in(folder, connection, days=(DAY, DAY))
        ledger = zone.discover()
        subjects = ("er_visits", "vitals", "adt_events", "diagnoses", "hospitals", "other_records")
        found = {name: zone.read(name, ledger).collect("polars").to_native() for name in subjects}
    return {**found, "ledger": ledger}


@pytest.mark.nightly
def test_gathering_some_sets_at_a_time_gives_the_same(
    landed: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "landing" / "fhir-r4"
    folder.mkdir(parents=True)
    for name, text in FILES.items():
        (folder / f"{name}.ndjson").write_text(text)
    monkeypatch.setattr(json_records, "_GATHERED_BYTES", 200)
    passes = []
    in_passes = json_records._gathered_in_passes
    monkeypatch.setattr(json_records, "_gathered_in_passes", lambda *a: passes.append(a[2]) or in_passes(*a))
    with contextlib.closing(scratch_connection()) as connection:
        zone = zone_in(tmp_path, connection, days=(DAY, DAY))
        vitals = zone.read("vitals", zone.discover()).collect("polars").to_native()
    order = ["source_file", "source_line", "source_part"]
    assert passes and max(passes) > 5
    at_once, in_turn = landed["vitals"].sort(order), vitals.sort(order)
    # Where nothing says when it was recorded, that is when the file was written.
    same = [name for name in vitals.columns if at_once[name].equals(in_turn[name])]
    assert set(vitals.columns) - set(same) <= {"recorded_at"}


def of(frame: pl.DataFrame, *files: str) -> pl.DataFrame:
    return frame.filter(pl.col("source_file").is_in([f"fhir-r4/{name}.ndjson" for name in files]))


def test_every_record_is_taken_kept_or_named_as_unreadable(landed: Read) -> None:
    found = {name: of(frame, "kinds") for name, frame in landed.items()}
    others = found["other_records"]
    assert sorted(others.filter(pl.col("problem").is_null())["kind"]) == [
        "Claim",
        "Encounter AMB finished",
        "Observation 1234-5 final",
    ]
    assert others["problem"].drop_nulls().to_list() == ["unreadable_line"] * 2
    assert found["ledger"].filter(subject="other_records")["unreadable_count"].to_list() == [2]
    assert found["er_visits"]["visit_id"].to_list() == ["K1"]
    assert found["vitals"].height == 1
    assert sorted(found["adt_events"]["message_id"]) == ["K1-A03", "K1-A04", "K3-A01", "K3-A03"]
    lines = [
        line for name in ("er_visits", "vitals", "adt_events", "other_records") for line in found[name]["source_line"]
    ]
    assert set(lines) == set(range(1, 9))


def test_references_of_every_form_are_ids(landed: Read) -> None:
    (visit,) = landed["er_visits"].filter(visit_id="K1").rows(named=True)
    assert (visit["patient_id"], visit["hospital_id"]) == ("P1", "H1")
    assert visit["service_date"] == DAY


def test_a_cancelled_or_mistaken_encounter_is_a_cancelled_visit_and_a_planned_one_is_none(landed: Read) -> None:
    assert sorted(of(landed["er_visits"], "status")["visit_id"]) == ["S1", "S2", "S4"]
    cancelled = of(landed["adt_events"], "status").filter(event_type="A11")["visit_id"]
    assert sorted(cancelled) == ["S1", "S2"]
    assert of(landed["other_records"], "status")["kind"].to_list() == ["Encounter EMER planned"]


def test_who_is_admitted_goes_on_in_the_encounter_that_is_part_of_the_visit(landed: Read) -> None:
    events = of(landed["adt_events"], "admitted").sort("event_at", "event_type")
    # Where the patient was at no known time is where the stay began.
    assert sorted(events.select("event_type", "visit_id", "department").rows()) == [
        ("A01", "A1", "somewhere, some time"),
        ("A02", "A1", "ICU"),
        ("A02", "A1", "Surgery"),
        ("A03", "A1", "somewhere, some time"),
        ("A04", "A1", None),
    ]
    assert events["message_id"].n_unique() == 5
    assert events.select("source_file", "source_line", "source_part").n_unique() == 5


def test_what_is_no_value_is_not_used(landed: Read) -> None:
    sets = of(landed["vitals"], "values").sort("measured_at")
    hospitals = pl.DataFrame({"hospital_id": ["fhir-r4:H1"], "time_zone": ["America/Denver"]})
    validated = collected(validate_vitals(lazy(sets), lazy(hospitals), load_profiles(None))).sort("measured_at")
    assert validated.select(
        "heart_rate_bpm", "respiratory_rate_per_min", "systolic_mmhg", "diastolic_mmhg", "is_on_oxygen", "spo2_pct"
    ).rows() == [(81, None, 120, 70, True, None), (None, None, None, None, None, 97), (None, None, 120) + (None,) * 3]
    assert validated.select("temperature_c", "gcs_score").row(0) == (37, 15)  # in units of other systems
    assert sets["hospital_id"].to_list() == ["H1", "H1", None]  # looked up in the encounter
    assert of(landed["other_records"], "values").is_empty()  # what is withdrawn is a version of a vital sign


def test_ranks_hospitals_and_triage_come_from_other_resources(landed: Read) -> None:
    diagnoses = of(landed["diagnoses"], "conditions").sort("diagnosis_id")
    wanted = ("diagnosis_id", "icd_code", "code_system", "sequence", "hospital_id", "service_date")
    assert diagnoses.select(wanted).rows() == [
        ("C1", "22298006", SCT, None, "H1", DAY),
        ("C2", "R07.9", ICD, "1", "H1", DAY),
        ("C3", "Z00", ICD, None, "H1", DAY),  # withdrawn when it is cleaned
    ]
    assert diagnoses["record_status"].to_list() == [None, None, "entered-in-error"]
    assert of(landed["er_visits"], "ranks")["triage_level"].to_list() == ["2"]
    assert sorted(of(landed["other_records"], "conditions", "triage")["kind"]) == [
        "Condition",
        "Observation 54094-8 final",
    ]


def test_a_time_zone_is_read_from_its_extension_or_is_the_default(landed: Read) -> None:
    hospitals = landed["hospitals"].sort("hospital_id")
    assert hospitals["time_zone"].to_list() == ["America/Denver", "America/New_York"]
