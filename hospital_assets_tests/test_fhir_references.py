"""FHIR R4: who and what resources refer to, whatever the form of the reference, and what one visit is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest

from hospital_assets.assets.facts.patient_flow import cancelled_visits
from hospital_assets.contracts.dimensions import NOT_YET_KEY, UNKNOWN_KEY
from hospital_assets.landing.fhir import json_lines
from hospital_assets_tests.engines import DUCKDB_SLOW, ENGINES
from hospital_assets_tests.test_cases import Case, collected, landed

AT = {"meta": {"lastUpdated": "2026-05-01T16:00:00-04:00"}}
PROVIDER = {"coding": [{"code": "hospital"}, {"code": "prov"}]}
LOINC = "http://loinc.org"
E1 = {"reference": "Encounter/e1"}
ELEVEN = {"effectiveDateTime": "2026-05-01T11:00:00-04:00"}
HALF_PAST_ELEVEN = {"effectiveDateTime": "2026-05-01T11:30:00-04:00"}


def resource(kind: str, identity: str, **values: Any) -> dict[str, Any]:
    return {"resourceType": kind, "id": identity, **AT, **values}


def measured(identity: str, code: str, quantity: dict[str, Any]) -> dict[str, Any]:
    coded = {"coding": [{"system": LOINC, "code": code}]}
    return rate(identity, 0, encounter=E1, code=coded, valueQuantity=quantity, **HALF_PAST_ELEVEN)


def level(visit: str, value: int, **values: Any) -> dict[str, Any]:
    coded = {"coding": [{"system": LOINC, "code": "54094-8"}]}
    of_visit = {"encounter": {"reference": f"Encounter/{visit}"}, "status": "final"}
    return resource("Observation", f"{visit}-level", **{**of_visit, "code": coded, "valueInteger": value, **values})


def order(visit: str, at: str, **values: Any) -> dict[str, Any]:
    coded = {"coding": [{"code": "10378005"}]}
    of_visit = {"encounter": {"reference": f"Encounter/{visit}"}, "status": "active"}
    authored = {"authoredOn": f"2026-05-01T{at}:00-04:00"}
    return resource("ServiceRequest", f"{visit}-order", **{**of_visit, "code": coded, **authored, **values})


def place(name: str, start: str | None = None, **values: Any) -> dict[str, Any]:
    return {"location": {"display": name}, **({"period": {"start": f"2026-05-01T{start}"}} if start else {}), **values}


ROOM = {"physicalType": {"coding": [{"code": "ro"}]}}


def since(status: str, start: str, end: str | None = None) -> dict[str, Any]:
    """An entry of a status history."""
    clocks = {"start": start, **({"end": end} if end else {})}
    return {"status": status, "period": {name: f"2026-05-01T{clock}:00-04:00" for name, clock in clocks.items()}}


def standing(identity: str, status: str, *history: dict[str, Any]) -> dict[str, Any]:
    """An encounter without an end, whose current status its history does not hold."""
    open_ended = {"period": {"start": "2026-05-01T10:00:00-04:00"}}
    return encounter(identity, "10:00", "", status=status, statusHistory=list(history), **open_ended)


def of(kind: str, system: str | None, value: str) -> dict[str, Any]:
    """A reference by identifier, as FHIR has it; see `queried` for Synthea's form."""
    return {"type": kind, "identifier": {**({"system": system} if system else {}), "value": value}}


def queried(kind: str, token: str) -> dict[str, str]:
    return {"reference": f"{kind}?identifier={token}"}


def identified(system: str, value: str) -> dict[str, Any]:
    return {"identifier": [{"system": "urn:other", "value": "0"}, {"system": system, "value": value}]}


def encounter(identity: str, start: str, end: str, **values: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "status": "finished",
        "class": {"code": "EMER"},
        "subject": {"reference": "Patient/p"},
        "serviceProvider": {"reference": "Organization/h"},
        "location": [{"location": {"reference": "Location/er"}}],
        "period": {"start": f"2026-05-01T{start}:00-04:00", "end": f"2026-05-01T{end}:00-04:00"},
    }
    return resource("Encounter", identity, **usual | values)


def rate(identity: str, value: int, **values: Any) -> dict[str, Any]:
    coded = {"coding": [{"system": LOINC, "code": "55284-4"}, {"system": LOINC, "code": "8867-4"}]}
    usual: dict[str, Any] = {
        "status": "final",
        "code": coded,
        "subject": {"reference": "Patient/p"},
        "effectiveDateTime": "2026-05-01T10:30:00-04:00",
        "valueQuantity": {"value": value, "code": "/min"},
    }
    return resource("Observation", identity, **usual | values)


ARRIVED, TRIAGED = since("arrived", "10:01", "10:05"), since("triaged", "10:05", "10:20")
SEEN_TWICE = [since("in-progress", "11:00"), since("onleave", "10:40", "11:00"), since("in-progress", "10:20"), TRIAGED]


def valued(identity: str, code: str, value: float | None, **values: Any) -> dict[str, Any]:
    coded = {"coding": [{"system": LOINC, "code": code}]}
    quantity = {} if value is None else {"value": value}
    return rate(identity, 0, code=coded, valueQuantity=quantity, encounter=E1, **values)


PRESSURES = [
    {"code": {"coding": [{"system": LOINC, "code": code}]}, "valueQuantity": {"value": value, "code": "mm[Hg]"}}
    for code, value in (("8480-6", 120), ("8462-4", 70))
]

IN_A_BED = {"class": {"code": "IMP"}}
MISTAKEN = {"status": "entered-in-error"}
LANDED = [
    resource("Organization", "h", name="H", type=[PROVIDER], **identified("urn:sites", "7")),
    resource(
        "Location",
        "er",
        name="Emergency",
        managingOrganization=queried("Organization", "urn:sites|7"),
        physicalType={"coding": [{"code": "x"}, {"code": "wa"}]},
        **identified("urn:rooms", "E"),
    ),
    resource("Location", "room", name="Room 1", physicalType={"coding": [{"code": "x"}, {"code": "ro"}]}),
    resource("Practitioner", "dr", name=[{"family": "Low"}], **identified("urn:npi", "99")),
    resource(
        "PractitionerRole",
        "role",
        practitioner=of("Practitioner", "urn:npi", "99"),
        organization=of("Organization", None, "7"),
    ),
    resource("Patient", "p", birthDate="1980-01-02", **identified("urn:mrn", "15")),
    # All by identifier: to what has landed, and to two persons of one number who have not.
    encounter(
        "e1",
        "10:00",
        "12:00",
        subject=of("Patient", "urn:mrn", "15"),
        serviceProvider=of("Organization", "urn:sites", "7"),
        location=[{"location": queried("Location", "urn:rooms|E")}],
        participant=[
            {"type": [{"coding": [{"code": "REF"}]}], "individual": queried("Practitioner", "1")},
            {
                "type": [{"coding": [{"code": "y"}, {"code": "ATND"}]}],
                "individual": of("Practitioner", "urn:npi", "99"),
            },
        ],
        hospitalization={"dischargeDisposition": {"coding": [{"system": "urn:x", "code": "?"}, {"code": "01"}]}},
        **identified("urn:visits", "V"),
    ),
    encounter("e2", "10:00", "11:00", subject=of("Patient", "urn:north", "15")),
    encounter("e3", "10:00", "11:00", subject=queried("Patient", "urn:south|15")),
    rate("o1", 80, subject=queried("Patient", "urn:mrn|15"), encounter=of("Encounter", "urn:visits", "V")),
    rate("o2", 60, subject=of("Patient", "urn:north", "15")),
    # One visit in two encounters, the second of which leads to a bed.
    encounter("whole", "08:00", "15:00", location=[{"location": {"reference": "Location/er"}}]),
    encounter("part", "09:00", "11:00", partOf={"reference": "Encounter/whole"}),
    encounter("part of part", "09:30", "10:30", partOf={"reference": "Encounter/part"}),
    encounter("bed", "15:00", "18:00", partOf={"reference": "Encounter/part of part"}, **{"class": {"code": "IMP"}}),
    encounter("ward", "18:00", "20:00", partOf={"reference": "Encounter/bed"}, **{"class": {"code": "ACUTE"}}),
    # Parts that were entered in error, one of them by a later version.
    encounter("kept", "08:00", "12:00"),
    encounter("wrong bed", "12:00", "13:00", partOf={"reference": "Encounter/kept"}, **IN_A_BED, **MISTAKEN),
    encounter("wrong part", "09:00", "10:00", partOf={"reference": "Encounter/kept"}, **MISTAKEN),
    encounter("undone bed", "13:00", "14:00", partOf={"reference": "Encounter/kept"}, **IN_A_BED),
    encounter("undone part", "10:00", "11:00", partOf={"reference": "Encounter/kept"}),
    encounter("wrong stay", "08:00", "12:00", **IN_A_BED, **MISTAKEN),
    encounter("undone visit", "08:00", "12:00"),
    encounter("its bed", "12:00", "14:00", partOf={"reference": "Encounter/undone visit"}, **IN_A_BED),
    # Two that are part of each other have no whole.
    encounter("egg", "08:00", "09:00", partOf={"reference": "Encounter/hen"}),
    encounter("hen", "10:00", "11:00", partOf={"reference": "Encounter/egg"}),
    encounter("stay", "08:00", "18:00", **{"class": {"code": "IMP"}}),
    encounter("inside", "12:00", "13:00", partOf={"reference": "Encounter/stay"}),
    rate("o3", 70, encounter={"reference": "Encounter/part"}, effectiveDateTime="2026-05-01T09:30:00-04:00"),
    rate("Hz", 0, encounter=E1, valueQuantity={"value": 1.5, "code": "Hz"}, **ELEVEN),
    rate(
        "kPa",
        0,
        encounter=E1,
        valueQuantity={"value": 16.0, "code": "kPa"},
        **ELEVEN,
        code={"coding": [{"system": LOINC, "code": "8480-6"}]},
    ),
    # Places in no order, one of them by another clock; what is planned is no move.
    encounter(
        "moved",
        "10:00",
        "20:00",
        location=[
            place("Surgery", "16:00:00-04:00", status="active"),
            place("Oncology", "09:00:00-04:00", status="reserved"),
            place("Room 2", "12:00:00-04:00", **ROOM),
            place("ICU", "18:00:00Z", status="completed"),
            place("Room 1", "11:00:00-04:00", **ROOM),
            place("Room 3", "10:30:00-04:00", status="planned", **ROOM),
            place("Emergency", "10:00:00-04:00", status="completed"),
            place("Cardiology", "18:00:00-04:00", status="planned"),
        ],
    ),
    encounter("unplaced", "10:00", "20:00", location=[place("ICU", "14:00:00-04:00"), place("Emergency")]),
    *(encounter(f"v{number}", "10:00", "20:00", **identified("urn:versions", str(number))) for number in range(4)),
    *(level(f"v{number}", 2) for number in range(4)),
    *(order(f"v{number}", "11:00") for number in range(4)),
    encounter("split", "10:00", "11:00", partOf={"reference": "Encounter/v3"}),
    rate("o6", 66, encounter=queried("Encounter", "urn:versions|2"), effectiveDateTime="2026-05-01T10:50:00-04:00"),
    standing("seen now", "in-progress", TRIAGED, ARRIVED),
    standing("triaged now", "triaged", ARRIVED),
    standing("seen twice", "in-progress", *SEEN_TWICE),
    standing("seen before", "onleave", *SEEN_TWICE),
    standing("seen somewhen", "in-progress", since("arrived", "10:00")),
    standing("gone somewhen", "finished", ARRIVED, TRIAGED),
    standing("none", "cancelled", ARRIVED, TRIAGED),
    # Of a unit only the text for people is required.
    measured("words Hz", "8867-4", {"value": 2, "unit": "Hz"}),
    measured("words kPa", "8480-6", {"value": 16, "unit": "kPa"}),
    measured("words mmHg", "8462-4", {"value": 70, "unit": "mmHg"}),
    measured("words and code", "8310-5", {"value": 98.6, "unit": "degrees", "code": "[degF]"}),
    measured("words of nothing", "59408-5", {"value": 97, "unit": "furlongs"}),
    # One set, whatever the spelling of its time and its patient.
    rate("s1", 85, encounter=E1, effectiveDateTime="2026-05-01T14:10:00Z"),
    valued("s2", "9279-1", 22, subject=queried("Patient", "urn:mrn|15"), effectiveDateTime="2026-05-01T14:10:00.00Z"),
    valued(
        "s3",
        "59408-5",
        93,
        subject={"reference": "https://srv.example.org/fhir/Patient/p/_history/2"},
        effectiveDateTime="2026-05-01T10:10:00-04:00",
    ),
    # Sets of their own, of a day of which no time is known: one of a resource and its versions.
    rate("d1", 95, encounter=E1, effectiveDateTime="2026-05-01"),
    rate("d2", 150, encounter=E1, effectiveDateTime="2026-05-01"),
    rate(
        "d2",
        96,
        encounter=E1,
        effectiveDateTime="2026-05-01",
        status="amended",
        meta={"lastUpdated": "2026-05-01T17:00:00-04:00"},
    ),
    valued("d3", "85354-9", None, component=PRESSURES, effectiveDateTime="2026-05-01"),
    rate("o4", 71, encounter={"reference": "Encounter/part of part"}, effectiveDateTime="2026-05-01T09:45:00-04:00"),
    rate("o5", 72, encounter={"reference": "Encounter/ward"}, effectiveDateTime="2026-05-01T19:00:00-04:00"),
]


#: An hour later, though not by its text; of the triage level of `v3` at the same moment.
WRITTEN = {"meta": {"lastUpdated": "2026-05-01T15:00:00-06:00"}}
LATER = [
    {**level("v0", 2, status="entered-in-error"), **WRITTEN},
    {**level("v1", 3, status="corrected"), **WRITTEN},
    level("v3", 4, status="amended"),
    {**order("v0", "11:00", status="revoked"), **WRITTEN},
    {**order("v1", "12:00"), **WRITTEN},
    {**encounter("v2", "10:00", "20:00"), **WRITTEN},
    {**encounter("split", "10:00", "11:00"), **WRITTEN},
    {
        **encounter("undone bed", "13:00", "14:00", partOf={"reference": "Encounter/kept"}, **IN_A_BED),
        **MISTAKEN,
        **WRITTEN,
    },
    {**encounter("undone part", "10:00", "11:00", partOf={"reference": "Encounter/kept"}), **MISTAKEN, **WRITTEN},
    {**encounter("undone visit", "08:00", "12:00"), **MISTAKEN, **WRITTEN},
    {**resource("Practitioner", "dr", name=[{"family": "Meyer"}], **identified("urn:npi", "99")), **WRITTEN},
]


@pytest.fixture(scope="module", params=DUCKDB_SLOW)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    # By name the later versions land first.
    files = {"b.ndjson": LANDED, "a.ndjson": LATER}
    content = {name: "\n".join(map(json.dumps, resources)).encode() for name, resources in files.items()}
    with landed(tmp_path_factory.mktemp("fhir"), ENGINES[request.param], "fhir-r4", content) as found:
        yield found


def test_references_by_identifier_lead_to_what_has_landed(case: Case) -> None:
    visits = {row["visit_id"]: row for row in case.cleaned("er_visits").iter_rows(named=True)}
    names = ("patient_id", "hospital_id", "department_name", "doctor_id", "disposition")
    assert [visits["e1"][name] for name in names] == ["p", "h", "Emergency", "dr", "home"]
    (vital,) = case.cleaned("vitals").filter(heart_rate_bpm=80).iter_rows(named=True)
    assert [vital[name] for name in ("patient_id", "visit_id", "hospital_id")] == ["p", "e1", "h"]
    assert case.cleaned("departments").select("department_id", "hospital_id").rows() == [("er", "h")]
    assert case.cleaned("doctors").select("doctor_id", "hospital_id").rows() == [("dr", "h")]


def test_the_status_says_what_its_history_does_not_hold(case: Case) -> None:
    clocks = [pl.col(f"{name}_at").dt.strftime("%H:%M") for name in ("arrival", "triage", "provider")]
    visits = case.cleaned("er_visits").select("visit_id", *clocks, "quality_codes")
    found = {row[0]: row[1:] for row in visits.rows()}
    assert found["seen now"] == ("14:01", "14:05", "14:20", "")
    assert found["triaged now"] == ("14:01", "14:05", None, "")
    assert found["seen twice"] == found["seen before"] == ("14:00", "14:05", "14:20", "")
    assert found["seen somewhen"] == ("14:00", None, None, "provider_time_unknown")
    assert found["gone somewhen"] == ("14:01", "14:05", None, "departure_time_unknown")
    assert found["none"] == ("14:01", "14:05", None, "visit_cancelled")
    facts = case.visits()
    assert [facts[visit]["is_open"] for visit in ("seen now", "gone somewhen")] == [True, False]
    keys = [facts[visit]["provider_date_key"] for visit in ("seen somewhen", "triaged now")]
    assert keys == [UNKNOWN_KEY, NOT_YET_KEY]


def test_of_what_is_looked_up_the_newest_version_counts(case: Case) -> None:
    at = pl.col("decision_at").dt.strftime("%H:%M")
    visits = case.cleaned("er_visits").select("visit_id", "triage_level", at).sort("visit_id")
    assert visits.filter(pl.col("visit_id").str.contains(r"^v\d$")).rows() == [
        ("v0", None, None),
        ("v1", 3, "16:00"),
        ("v2", 2, "15:00"),
        ("v3", 4, "15:00"),
    ]
    assert "split" in set(visits["visit_id"])  # it was a part of another visit, and is no more
    # Its encounter had that identifier before.
    assert case.named("vitals").filter(heart_rate_bpm=66)["visit_id"].to_list() == ["urn:versions|2"]
    assert case.cleaned("doctors")["full_name"].to_list() == ["Meyer"]


def test_a_number_is_one_of_its_system(case: Case) -> None:
    people = dict(case.cleaned("er_visits").select("visit_id", "patient_id").iter_rows())
    assert (people["e2"], people["e3"]) == ("urn:north|15", "urn:south|15")
    assert case.validated("vitals").filter(patient_id="fhir-r4:urn:north|15").height == 1


def test_an_emergency_encounter_that_is_part_of_another_is_no_visit(case: Case) -> None:
    visits = case.visits()
    assert {"whole", "inside", "hen", "egg"} <= set(visits) and not {"part", "part of part"} & set(visits)
    assert visits["whole"]["los_minutes"] == 420
    assert [row[:3] for row in case.flow("whole")] == [
        ("emergency", "01 12:00", "01 13:00"),
        ("emergency", "01 13:00", "01 13:30"),
        ("emergency", "01 13:30", "01 19:00"),
        ("inpatient", "01 19:00", "01 22:00"),
        ("inpatient", "01 22:00", "02 00:00"),
    ]
    of_whole = case.cleaned("vitals").filter(pl.col("heart_rate_bpm").is_between(70, 72))
    assert of_whole["visit_id"].to_list() == ["whole"] * 3


def test_a_part_that_was_entered_in_error_leaves_the_visit_as_it_is(case: Case) -> None:
    assert case.flow("kept") == [("emergency", "01 12:00", "01 16:00", 4.0, False)]
    assert case.visits()["kept"]["los_minutes"] == 240
    events = case.named("adt_events")
    found = events.filter(pl.col("visit_id") == "kept").select("message_id", "rule").sort("message_id").rows()
    # Of an older version nothing counts, neither.
    assert found == [
        ("kept-A03", None),
        ("kept-A04", None),
        ("undone bed-A01", "superseded"),
        ("undone bed-A03", "superseded"),
        ("undone bed-A11", "part_of_visit"),
        ("undone part-A03", "superseded"),
        ("undone part-A04", "superseded"),
        ("undone part-A11", "part_of_visit"),
        ("wrong bed-A11", "part_of_visit"),
        ("wrong part-A11", "part_of_visit"),
    ]
    cancelled = collected(cancelled_visits(case.on(case.cleaned("adt_events"))))["visit_id"].to_list()
    assert {"undone visit", "wrong stay"} <= set(cancelled) and "kept" not in cancelled
    assert case.flow("undone visit") == case.flow("wrong stay") == []


def moves(case: Case, visit: str) -> list[tuple[object, ...]]:
    events = case.cleaned("adt_events").filter(pl.col("visit_id") == visit, pl.col("event_type").is_in(["A04", "A02"]))
    at = pl.col("event_at").dt.strftime("%H:%M")
    return events.sort("event_at").select("event_type", at, "department_name").rows()


def test_places_follow_each_other_by_their_clocks(case: Case) -> None:
    assert moves(case, "moved") == [("A04", "14:00", "Emergency"), ("A02", "18:00", "ICU"), ("A02", "20:00", "Surgery")]
    assert moves(case, "unplaced") == [("A04", "14:00", "Emergency"), ("A02", "18:00", "ICU")]
    rooms = case.cleaned("er_visits").filter(visit_id="moved")
    assert rooms.select("department_name", pl.col("room_at").dt.strftime("%H:%M")).row(0) == ("Emergency", "15:00")


def test_units_are_converted(case: Case) -> None:
    converted = case.cleaned("vitals").filter(heart_rate_bpm=90)
    assert converted.select("heart_rate_bpm", "systolic_mmhg").rows() == [(90.0, 120.0)]


def test_a_unit_is_its_code_else_its_text(case: Case) -> None:
    names = ("systolic_mmhg", "diastolic_mmhg", "temperature_c", "spo2_pct", "inexact_values", "quality_codes")
    (found,) = case.cleaned("vitals").filter(heart_rate_bpm=120).select(names).rows()
    assert found[:5] == (120.0, 70.0, 37.0, None, "spo2 97 furlongs")
    assert set(found[5].split(";")) == {"unit_converted", "fahrenheit_converted", "unit_unknown"}


def test_a_set_is_what_a_patient_has_at_one_time_however_it_is_written(case: Case) -> None:
    (one,) = case.cleaned("vitals").filter(heart_rate_bpm=85).iter_rows(named=True)
    assert (one["respiratory_rate_per_min"], one["spo2_pct"], one["quality_codes"]) == (22, 93, "")


def test_of_a_day_alone_each_resource_is_a_set(case: Case) -> None:
    by_day = case.cleaned("vitals").filter(pl.col("quality_codes").str.contains("measured_time_unknown"))
    names = ("heart_rate_bpm", "systolic_mmhg", "diastolic_mmhg")
    assert sorted(by_day.select(names).rows(), key=str) == [(95, None, None), (96, None, None), (None, 120, 70)]


def test_contained_resources_are_lines_of_their_own() -> None:
    inner = {"resourceType": "Patient", "id": "x", "generalPractitioner": [{"reference": "#"}]}
    whole = {**resource("Encounter", "e", subject={"reference": "#x"}), "contained": [inner]}
    bundle = {"resourceType": "Bundle", "entry": [{"resource": whole}, {"resource": resource("Patient", "y")}]}
    for text in (json.dumps(whole) + "\n" + json.dumps(resource("Patient", "y")), json.dumps(bundle, indent=1)):
        made = [json.loads(line) for line in json_lines(iter(text.splitlines(keepends=True)))]
        assert [one["id"] for one in made] == ["e", "e-x", "y"]
        assert made[0]["subject"] == {"reference": "Patient/e-x"} and made[1]["meta"] == AT["meta"]
        assert made[1]["generalPractitioner"] == [{"reference": "Encounter/e"}]
        lines = [one.get("@line") for one in made if "@line" in one]
        assert lines == sorted(set(lines)) and json.loads(made[1]["@record"]) == inner
