"""The profile hl7v2-adt: from landed messages to visits, stays, vitals and persons."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from hospital_assets.assets.cleaned.adt_events import validate_adt_events
from hospital_assets.assets.cleaned.diagnoses_and_procedures import validate_diagnoses, validate_procedures
from hospital_assets.assets.cleaned.er_visits import validate_er_visits
from hospital_assets.assets.cleaned.patients import validate_patients
from hospital_assets.assets.cleaned.reference_data import validate_hospitals
from hospital_assets.assets.cleaned.vitals import validate_vitals
from hospital_assets.assets.dimensions.patients import dim_patient
from hospital_assets.assets.dimensions.persons import surviving
from hospital_assets.assets.facts.patient_flow import cancelled_visits, folded, of_their_patient
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.cleaned import ADT_EVENTS
from hospital_assets.landing.registry import load_profiles
from hospital_assets.settings import Settings, write_settings
from hospital_assets.warehouse.database import Period, open_warehouse, scratch_connection
from hospital_assets.warehouse.dialect import Frame, hash_keys, lazy
from hospital_assets_tests.helpers import query, zone_in
from hospital_assets_tests.processes import hospital
from hospital_assets_tests.test_hl7v2 import samples  # noqa: F401

FIRST, LAST = date(2015, 1, 1), date(2030, 12, 31)
ALL_DAYS = Period(FIRST, date(2031, 1, 1))
HOSPITALS = "hospital_id,hospital_name,city,state,time_zone\n"


@dataclass
class Read:
    """What became of some landed files."""

    ledger: pl.DataFrame
    raw: dict[str, pl.DataFrame] = field(default_factory=dict)
    validated: dict[str, pl.DataFrame] = field(default_factory=dict)

    def cleaned(self, subject: str) -> pl.DataFrame:
        # Without the namespace and the authority that make the source's numbers its own.
        return (
            self.validated[subject]
            .filter(pl.col("rule").is_null())
            .with_columns(pl.col("^.*_id$").str.replace("^hl7v2-adt:((H|GENERAL)-)?", ""))
        )

    def quarantined(self, subject: str) -> dict[str, int]:
        broken = self.validated[subject].filter(pl.col("rule").is_not_null())
        return Counter(broken["rule"].to_list())

    def segments(self) -> pl.DataFrame:
        events = lazy(self.cleaned("adt_events"))
        frame = of_their_patient(folded(events), events)
        return collected(frame).sort("stay_id", "segment_number")


def collected(frame: Frame) -> pl.DataFrame:
    out: pl.DataFrame = frame.collect("polars").to_native()
    return out


def read(folder: Path, files: dict[str, bytes], facilities: str = "GENERAL", only: tuple[str, ...] = ()) -> Read:
    landing = folder / "landing" / "hl7v2-adt"
    landing.mkdir(parents=True)
    rows = "".join(f"{name},{name},Chicago,IL,America/Chicago\n" for name in facilities.split(","))
    (landing / "hospitals.csv").write_text(HOSPITALS + rows)
    for name, content in files.items():
        (landing / name).parent.mkdir(parents=True, exist_ok=True)
        (landing / name).write_bytes(content)
    with open_warehouse(folder / "warehouse" / "hospital.duckdb") as warehouse:
        zone = zone_in(folder, warehouse.connection, days=(FIRST, LAST))
        found = Read(zone.discover())
        hospitals = lazy(collected(validate_hospitals(zone.read("hospitals", found.ledger), zone.profiles)))
        validators = {
            "adt_events": lambda raw: validate_adt_events(raw, hospitals, zone.profiles),
            "er_visits": lambda raw: validate_er_visits(raw, hospitals, zone.profiles),
            "vitals": lambda raw: validate_vitals(raw, hospitals, zone.profiles),
            "diagnoses": lambda raw: validate_diagnoses(raw, hospitals, zone.profiles),
            "procedures": lambda raw: validate_procedures(raw, hospitals, zone.profiles),
            "patients": lambda raw: validate_patients(raw, zone.profiles),
        }
        for subject in only or (*validators, "other_records"):
            raw = collected(zone.read(subject, found.ledger, ALL_DAYS))
            found.raw[subject] = raw
            if subject in validators:
                found.validated[subject] = collected(validators[subject](lazy(raw)))
    return found


# --- messages of a small hospital ---------------------------------------------------------------------


def adt(
    event: str,
    at: str,
    visit: str = "V1",
    *,
    patient: str = "7",
    cls: str = "E",
    place: str = "ED^1^A",
    start: str = "20260501100000",
    end: str = "",
    disposition: str = "",
    prior: str = "",
    sent: str = "",
    more: str = "",
) -> str:
    number = f"{event}{visit}{at}"
    pv1 = ["PV1", "1", cls, place, *[""] * 15, visit, *[""] * 16, disposition, *[""] * 7, start, end]
    return "\r".join(
        [
            f"MSH|^~\\&|ADT|GENERAL|ED|HERE|{sent or at}||ADT^{event}|{number}|P|2.4",
            f"EVN||{sent or at}||||{at}",
            f"PID|1||{patient}^^^H^MR||Name{patient}^First||19800102|F",
            *([f"MRG|{prior}^^^H^MR"] if prior else []),
            *(["|".join(pv1)] if visit else []),
            *([more] if more else []),
            "",
        ]
    )


ARRIVES = adt("A04", "20260501100000")
LEAVES = adt("A03", "20260501140000", end="20260501140000", disposition="01")
STAYS = ("V1", "emergency", "01 10:00", None)
LEFT = ("V1", "emergency", "01 10:00", "01 14:00")

MOVED = [ARRIVES, adt("A02", "20260501203000", place="SURG^2^C")]

#: Messages -> segments, one entry or more for every trigger event of the model.
EFFECTS: dict[str, tuple[list[str], list[tuple[str, str, str, str | None]]]] = {
    "A04": ([ARRIVES], [STAYS]),
    "A01": ([adt("A01", "20260501100000", cls="I")], [("V1", "inpatient", "01 10:00", None)]),
    "A02": (
        [ARRIVES, adt("A02", "20260501120000", place="SURG")],
        [("V1", "emergency", "01 10:00", "01 12:00"), ("V1", "emergency", "01 12:00", None)],
    ),
    "A03": ([ARRIVES, LEAVES], [LEFT]),
    "A05": ([adt("A05", "20260501090000", start="20260501090000")], []),
    "A06": (
        [ARRIVES, adt("A06", "20260501130000", cls="I", place="SURG")],
        [("V1", "emergency", "01 10:00", "01 13:00"), ("V1", "inpatient", "01 13:00", None)],
    ),
    "A07": (
        [adt("A01", "20260501100000", cls="I"), adt("A07", "20260501130000", cls="E")],
        [("V1", "inpatient", "01 10:00", "01 13:00"), ("V1", "emergency", "01 13:00", None)],
    ),
    "A08": ([ARRIVES, adt("A08", "20260501120000", place="SURG")], [STAYS]),
    "A11": ([ARRIVES, adt("A11", "20260501101000")], []),
    "A11, as of what it cancels": ([*MOVED, adt("A11", "20260501100000", sent="20260501210000")], []),
    "A11, and registered again": (
        [*MOVED, adt("A11", "20260501210000"), adt("A04", "20260501100000", sent="20260501211000")],
        [STAYS],
    ),
    "A11, and registered later": (
        [*MOVED, adt("A11", "20260501100000", sent="20260501210000"), adt("A04", "20260501220000")],
        [("V1", "emergency", "01 22:00", None)],
    ),
    "A11, and a message from before that lands later": (
        [adt("A11", "20260501100000", sent="20260501210000"), *MOVED],
        [],
    ),
    "A11, of an admission": (
        [ARRIVES, adt("A01", "20260501120000", cls="I", place="SURG"), adt("A11", "20260501123000", cls="I"), LEAVES],
        [LEFT],
    ),
    "A12": ([ARRIVES, adt("A02", "20260501120000"), adt("A12", "20260501121000")], [STAYS]),
    "A13": ([ARRIVES, LEAVES, adt("A13", "20260501150000", end="20260501140000")], [STAYS]),
    "A12, and another transfer of before": (
        [
            ARRIVES,
            adt("A02", "20260501120000", place="SURG"),
            adt("A12", "20260501130000"),
            adt("A02", "20260501123000", place="ICU", sent="20260501130500"),
        ],
        [("V1", "emergency", "01 10:00", "01 12:30"), ("V1", "emergency", "01 12:30", None)],
    ),
    "A13, and a corrected discharge": (
        [
            ARRIVES,
            adt("A03", "20260501120000", end="20260501120000", disposition="01"),
            adt("A13", "20260501150000"),
            adt("A03", "20260501140000", end="20260501140000", disposition="01", sent="20260501150500"),
        ],
        [LEFT],
    ),
    "A21": ([ARRIVES, adt("A21", "20260501120000"), LEAVES], [LEFT]),
    "A22": ([ARRIVES, adt("A21", "20260501120000"), adt("A22", "20260501130000"), LEAVES], [LEFT]),
    "A28": ([adt("A28", "20260501100000", visit="")], []),
    "A31": ([ARRIVES, adt("A31", "20260501120000", visit="")], [STAYS]),
    "A40": ([ARRIVES, adt("A40", "20260501120000", visit="", patient="8", prior="7")], [STAYS]),
    "A45": ([ARRIVES, adt("A45", "20260501120000", patient="8", prior="7")], [STAYS]),
    "outpatients": ([adt("A04", "20260501100000", cls="O")], []),
}


def test_every_event_of_the_model_is_tried() -> None:
    assert {event.split(",")[0] for event in EFFECTS} - {"outpatients"} == set(ADT_EVENTS)
    wanted = load_profiles(None)["hl7v2-adt"].subjects["adt_events"].where['$."@event"']
    assert set(wanted) == {*ADT_EVENTS, "A17", "A18", "A34", "A44", "A47"}


@pytest.fixture(scope="module")
def effects(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """All of them at once, each with visits of its own."""
    text = "".join(
        message.replace("|V1|", f"|{event}|") for event, (messages, _) in EFFECTS.items() for message in messages
    )
    return read(tmp_path_factory.mktemp("effects"), {"m.hl7": text.encode()})


@pytest.mark.parametrize("event", EFFECTS)
def test_what_each_event_does_to_stays(event: str, effects: Read) -> None:
    _, expected = EFFECTS[event]

    def chicago(column: str) -> pl.Expr:
        return pl.col(column).dt.convert_time_zone("America/Chicago").dt.strftime("%d %H:%M")

    flow = effects.segments().filter(pl.col("stay_id") == event)
    cancelled = collected(cancelled_visits(lazy(effects.cleaned("adt_events"))))["visit_id"]
    assert (event in cancelled) is (event.startswith("A11") and not expected)
    assert (
        flow.select(pl.lit("V1"), "stay_class", chicago("segment_start_at"), chicago("segment_end_at")).rows()
        == expected
    )


def test_no_event_is_set_aside(effects: Read) -> None:
    assert not effects.quarantined("adt_events")
    assert set(effects.cleaned("adt_events")["event_type"]) == set(ADT_EVENTS)


def test_a_merge_makes_one_person_and_a_moved_visit_changes_hands(tmp_path: Path) -> None:
    messages = [
        ARRIVES,
        adt("A04", "20260502100000", "V2", patient="9", start="20260502100000"),
        adt("A40", "20260503100000", visit="", patient="8", prior="7"),
        adt("A45", "20260503110000", "V2", patient="8", prior="9", start="20260502100000"),
    ]
    found = read(tmp_path, {"m.hl7": "".join(messages).encode()})
    events = lazy(found.cleaned("adt_events"))
    assert dict(found.segments().select("stay_id", "patient_id").iter_rows()) == {"V1": "7", "V2": "8"}
    numbers = pl.DataFrame({"patient_id": ["7", "8", "9"]})
    keyed = hash_keys(lazy(numbers), {"patient_durable_key": ["patient_id"]})
    persons = collected(surviving(keyed, events))
    assert persons["is_merged"].sum() == 1 and persons["person_key"].n_unique() == 2


# --- one visit, many messages ----------------------------------------------------------------------------

VISIT = [
    adt("A04", "20260501100000", more="PV2|||^Chest pain"),
    adt("A08", "20260501101500", place="", start="", more="PV2|||^" + "|" * 35 + "A"),
    adt("A02", "20260501120000", place="SURG"),
    adt("A03", "20260501140000", end="20260501140000", disposition="01"),
    adt("A13", "20260501141000"),
    adt("A03", "20260501160000", end="20260501155500", disposition="09"),
    adt("A04", "20260501110000", "V2", patient="8", start="20260501110000"),
    adt("A11", "20260501110500", "V2", patient="8", start="20260501110000"),
    adt("A04", "20260501230000", "V3", patient="9", start="20260501230000"),
    adt("A03", "20260502020000", "V3", patient="9", start="20260501230000", end="20260502020000", disposition="20"),
    adt("A40", "20260503100000", visit="", patient="7", prior="9"),
]


@pytest.fixture(scope="module")
def visit_in_order(tmp_path_factory: pytest.TempPathFactory) -> Read:
    return read(tmp_path_factory.mktemp("told"), {"m.hl7": "".join(VISIT).encode()})


def test_a_visit_is_what_its_messages_say_together(visit_in_order: Read) -> None:
    found = visit_in_order
    visits = {row["visit_id"]: row for row in found.cleaned("er_visits").iter_rows(named=True)}
    assert set(visits) == {"V1", "V2", "V3"}
    first = visits["V1"]
    assert str(first["arrival_local"]) == "2026-05-01 10:00:00"
    assert (first["departure_at"] - first["arrival_at"]).total_seconds() == (5 * 60 + 55) * 60
    assert (first["disposition"], first["chief_complaint"]) == ("admitted", "Chest pain")
    assert visits["V2"]["departure_at"] is None
    assert visits["V3"]["disposition"] == "expired"
    cancelled = collected(cancelled_visits(lazy(found.cleaned("adt_events"))))
    assert cancelled["visit_id"].to_list() == ["V2"]


@pytest.mark.slow
def test_duckdb_completes_visits_as_polars_does(visit_in_order: Read, tmp_path: Path) -> None:
    names = ["visit_id", "arrival_at", "departure_at", "disposition", "chief_complaint", "rule"]
    by = ["visit_id", "departure_at", "rule", "disposition"]
    expected = visit_in_order.validated["er_visits"].select(names).sort(by)
    hospitals = pl.DataFrame({"hospital_id": ["hl7v2-adt:GENERAL"], "time_zone": ["America/Chicago"]})
    with scratch_connection() as connection:
        raw, known = (
            lazy(connection.from_arrow(frame.to_arrow())) for frame in (visit_in_order.raw["er_visits"], hospitals)
        )
        assert_frame_equal(
            collected(validate_er_visits(raw, known, load_profiles(None))).select(names).sort(by), expected
        )


def test_a_cancelled_discharge_leaves_the_visit_open(tmp_path: Path) -> None:
    (visit,) = read(tmp_path, {"m.hl7": "".join(VISIT[:5]).encode()}).cleaned("er_visits").iter_rows(named=True)
    assert visit["departure_at"] is None and visit["disposition"] is None
    assert visit["chief_complaint"] == "Chest pain"


def test_null_deletes_what_an_earlier_message_said(tmp_path: Path) -> None:
    later = adt("A08", "20260501103000", more='PV2|||""^""')
    (visit,) = read(tmp_path, {"m.hl7": (VISIT[0] + later).encode()}).cleaned("er_visits").iter_rows(named=True)
    assert visit["chief_complaint"] is None and visit["department_name"] == "Emergency"


def test_a_sparse_pid_deletes_nothing(tmp_path: Path) -> None:
    """PID-7 and PID-8 that are not there change nothing, `""` deletes; parts of a name or an address go together."""
    whole = "PID|1||7^^^H^MR||Doe^Jo||19400102|F|||1 Main St^^Chicago^IL^60601||555"
    pids = [
        ("A04", "20260501100000", whole),
        # Of the same second, and later in the file.
        ("A08", "20260501100000", "PID|1||7^^^H^MR||Doe^Jo"),
        ("A08", "20260501103000", "PID|1||7^^^H^MR||Doe^Jo"),
        ("A08", "20260501110000", 'PID|1||7^^^H^MR||Doe^Jo||""||||2 Oak St^^Boston'),
        ("A40", "20260503110000", "PID|1||7^^^H^MR\rMRG|8^^^H^MR"),
        ("A31", "20260503120000", 'PID|1||7^^^H^MR||""'),
    ]
    messages = [
        f"MSH|^~\\&|ADT|GENERAL|ED|HERE|{at}||ADT^{event}|{number}|P|2.4\rEVN||{at}\r{pid}\r"
        for number, (event, at, pid) in enumerate(pids)
    ]
    found = read(tmp_path, {"m.hl7": "".join(messages).encode()}, only=("patients",))
    assert found.quarantined("patients") == {"duplicate": 1}
    transform: Any = dim_patient.op.compute_fn.decorated_fn  # type: ignore[union-attr]
    patients = found.cleaned("patients").select(CONTRACTS["cleaned_patients"].column_names)
    versions = collected(transform(lazy(patients))).filter(pl.col("patient_key") != -1).sort("version_number")
    names = ["last_name", "first_name", "birth_date", "sex", "street", "city", "zip_code", "phone"]
    assert versions.select(names).rows() == [
        ("Doe", "Jo", date(1940, 1, 2), "female", "1 Main St", "Chicago", "60601", "555"),
        ("Doe", "Jo", None, "female", "2 Oak St", "Boston", None, "555"),
        (None, None, None, "female", "2 Oak St", "Boston", None, "555"),
    ]


@pytest.mark.parametrize("profile", ["hl7v2-adt", "fhir-r4"])
def test_who_goes_to_court_or_jail_goes_home(profile: str) -> None:
    """As in the Discharge Code of CMS's measures, so that OP-18 counts them; with a planned readmission, too."""
    dispositions = load_profiles(None)[profile].code_maps["disposition"]
    assert {dispositions[code] for code in ("01", "21", "81", "87")} == {"home"}


def _told(found: Read) -> tuple[pl.DataFrame, ...]:
    """What must not depend on how the messages were landed."""
    place = ["source_file", "source_line", "source_part"]
    visits = found.cleaned("er_visits").select(
        "visit_id",
        "patient_id",
        "arrival_at",
        "departure_at",
        "disposition",
        "department_name",
        "arrival_mode",
        "chief_complaint",
    )
    flow = (
        found.segments()
        .drop(place, strict=False)
        .select(
            "stay_id",
            "segment_number",
            "patient_id",
            "stay_class",
            "segment_start_at",
            "segment_end_at",
            "is_open",
            "department_name",
            "discharge_disposition",
        )
    )
    people = found.cleaned("patients").select("patient_id", "last_name", "birth_date").unique()
    return visits.sort("visit_id"), flow, people.sort("patient_id")


@pytest.mark.nightly
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rng=st.randoms(use_true_random=False))
def test_the_order_repetition_and_files_of_messages_do_not_matter(
    visit_in_order: Read, tmp_path_factory: pytest.TempPathFactory, rng: random.Random
) -> None:
    expected = _told(visit_in_order)
    again = [*VISIT, *rng.sample(VISIT, 4)]
    rng.shuffle(again)
    files: dict[str, bytes] = {}
    for place, message in enumerate(again):
        name = f"{rng.choice('abc')}/{rng.randrange(3)}.hl7"
        ending = rng.choice(["\r", "\n", "\r\n"])
        said = message.replace("\r", ending).encode()
        framed = b"\x0b" + said + b"\x1c\r" if place % 2 else said
        files[name] = files.get(name, b"") + framed
    found = read(tmp_path_factory.mktemp("again"), files)
    for ours, theirs in zip(_told(found), expected, strict=True):
        assert_frame_equal(ours, theirs)


def test_a_resend_is_the_same_message_and_a_reused_control_id_is_not(tmp_path: Path) -> None:
    resent = adt("A04", "20260501100000", sent="20260501103000").replace("EVN||20260501103000", "EVN||20260501100000")
    reused = adt("A04", "20260501100000", "V9", patient="8").replace("A04V9", "A04V1")
    found = read(tmp_path, {"m.hl7": "".join([ARRIVES, ARRIVES, resent, reused]).encode()})
    assert found.cleaned("adt_events")["visit_id"].sort().to_list() == ["V1", "V9"]
    assert found.quarantined("adt_events") == {"duplicate": 2}


# --- vital signs and codes -----------------------------------------------------------------------------------


def test_numbers_are_those_of_their_authority_however_it_is_named(tmp_path: Path) -> None:
    numbered = "7^^^H^MR", "7^^^&1.2.3&ISO^MR", "7^^^&1.2.4&ISO^MR", "7^^^H&1.2.3&ISO^MR", "7"
    facilities = {"GENERAL": "GENERAL", "^1.2.5^ISO": "1.2.5", "^1.2.6^ISO": "1.2.6"}
    told = [
        adt("A40", "20260501100000", visit="V1", prior="8", more="OBX|1|NM|8867-4^Heart rate^LN||80|/min\rPR1|1||X")
        .replace("|GENERAL|", f"|{facility}|")
        .replace("7^^^H^MR", number)
        .replace("8^^^H^MR", number.replace("7", "8", 1))
        .replace("|V1|", f"|{number.replace('7', 'V1', 1)}|")
        for facility in facilities
        for number in numbered
    ]
    found = read(tmp_path, {"m.hl7": "".join(told).encode()}, ",".join(facilities.values()))
    authorities = {"H", "1.2.3", "1.2.4", *facilities.values()}
    events = found.raw["adt_events"]
    assert set(events["hospital_id"]) == set(facilities.values())
    assert set(events["patient_id"]) == {f"{authority}-7" for authority in authorities}
    assert set(events["prior_patient_id"]) == {f"{authority}-8" for authority in authorities}
    assert set(events["visit_id"]) == {f"{authority}-V1" for authority in authorities}
    for subject in ("patients", "vitals", "procedures"):
        assert set(found.raw[subject]["patient_id"]) == set(events["patient_id"]), subject
    assert found.raw["vitals"]["observation_id"].n_unique() == len(authorities)
    assert found.raw["procedures"]["procedure_id"].n_unique() == len(authorities)


def test_vital_signs_come_in_sets(tmp_path: Path) -> None:
    said = "\r".join(
        [
            "MSH|^~\\&|MON|GENERAL|ED|HERE|20260501101500||ORU^R01|M1|P|2.5",
            "PID|1||7^^^H^MR",
            "PV1|1|E|ED|" + "|" * 15 + "V1",
            "OBR|1|||85353-1^Vital signs^LN|||20260501101000-0500",
            "OBX|1|NM|8867-4^Heart rate^LN||88|/min|||||F",
            "OBX|2|NM|BT^Temp^L^8310-5^Body temperature^LN||100.4|[degF]|||||F",
            "NTE|1||noise",
            "OBX|3|ST|80288-4^AVPU^LN||Voice||||||F",
            "OBX|4|NM|8867-4^Heart rate^LN||95|/min|||||F|||20260501101400",
            "OBR|2|||85353-1^Vital signs^LN|||20260501101200",
            "OBX|1|NM|150456^MDC_SPO2^MDC||97|%",
            "OBX|2|NM|2951-2^Sodium^LN||140|mmol/L",
            "",
        ]
    )
    found = read(tmp_path, {"m.hl7": said.encode()})
    sets = (
        found.cleaned("vitals")
        .sort("measured_at")
        .select(
            pl.col("measured_local").cast(pl.String).str.slice(11, 5),
            "visit_id",
            "heart_rate_bpm",
            "temperature_c",
            "consciousness",
            "spo2_pct",
        )
    )
    assert sets.rows() == [
        ("10:10", "V1", 88.0, 38.0, "V", None),
        ("10:12", "V1", None, None, None, 97.0),
        ("10:14", "V1", 95.0, None, None, None),
    ]


#: OBX-6 -> the rate of 90 /min, or none where no name of it is known.
UNITS = {
    "90|264864^MDC_DIM_BEAT_PER_MIN^MDC": 90.0,
    "90|^MDC_DIM_BEAT_PER_MIN^MDC": 90.0,
    "90|0264-0aa0^bpm^L": 90.0,
    "1.5|f^frequency^L^264640^MDC_DIM_HZ^MDC": 90.0,
    "1.5|f^frequency^L^f^Hz^UCUM": 90.0,
    # Names of units of something else are none of this one's.
    "90|%^mmHg^L^/min^^UCUM": 90.0,
    "90|266016^MDC_DIM_MMHG^MDC": None,
}


def test_a_unit_is_known_by_any_of_its_names(tmp_path: Path) -> None:
    told = [
        f"MSH|^~\\&|MON|GENERAL|ED|HERE|20260501101500||ORU^R01^ORU_R01|M{number}|P|2.6\rPID|1||{number}^^^H^MR\r"
        f"OBR|1|||182777000^monitoring^SCT|||20260501101000\r"
        f"OBX|1|NM|147842^MDC_ECG_HEART_RATE^MDC|1.7.4.147842|{unit}|||||F\r"
        for number, unit in enumerate(UNITS)
    ]
    found = read(tmp_path, {"m.hl7": "".join(told).encode()}, only=("vitals",))
    rates = dict(found.cleaned("vitals").select("patient_id", "heart_rate_bpm").iter_rows())
    assert [rates[str(number)] for number in range(len(UNITS))] == list(UNITS.values())
    unknown = found.cleaned("vitals").filter(pl.col("heart_rate_bpm").is_null())
    assert unknown.select("quality_codes", "inexact_values").rows() == [("unit_unknown", "heart_rate 90 266016")]


def test_diagnoses_and_procedures(tmp_path: Path) -> None:
    more = "\r".join(
        [
            "DG1|1|I10|J20.9^Acute bronchitis^I10||20260501",
            "DG1|2||I10^Hypertension^ICD-10",
            "DG1|3||422504002^Stroke^SCT",
            "PR1|1||0W9G3ZZ^Drainage^I10P||20260501113000",
        ]
    )
    found = read(tmp_path, {"m.hl7": adt("A04", "20260501100000", more=more).encode()})
    codes = found.cleaned("diagnoses").sort("sequence")
    assert codes.select("sequence", "icd_code", "icd_version", "code_system").rows() == [
        (1, "J209", 10, "ICD-10-CM"),
        (2, "I10", 10, "ICD-10-CM"),
        (3, "422504002", 0, "SNOMED CT"),
    ]
    assert found.cleaned("procedures")["procedure_code"].to_list() == ["0W9G3ZZ"]


# --- the samples ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_recorded_run_has_its_golden_numbers(samples: Path, tmp_path: Path) -> None:  # noqa: F811
    content = (samples / "simhospital" / "messages.out").read_bytes()
    found = read(tmp_path, {"run.hl7": content}, "SFAC")
    rows = {row["subject"]: row["row_count"] for row in found.ledger.iter_rows(named=True)}
    assert {s: n for s, n in rows.items() if n} == {
        "hospitals": 1,
        "patients": 1011,
        "vitals": 61,
        "adt_events": 401,
        "other_records": 2,
    }
    events = found.cleaned("adt_events")
    assert Counter(events["event_type"]) == {"A01": 400, "A40": 1}
    assert found.raw["other_records"]["kind"].to_list() == ["MDM T02 O"] * 2
    # 403 patients: 401 in ADT and ORU messages, two only in documents (MDM), which no subject takes.
    known = set(found.cleaned("patients")["patient_id"])
    others = {
        match.group(1)
        for record in found.raw["other_records"]["record"]
        if (match := re.search(r"PID\|1\|(\d+)", record))
    }
    assert (len(known), len(known | others)) == (401, 403)
    flow = found.segments()
    assert flow.height == 400 and flow["is_open"].all() and set(flow["stay_class"]) == {"inpatient"}
    vitals = found.cleaned("vitals")
    assert vitals.height == 61 == vitals["observation_id"].n_unique()
    measured = ["heart_rate_bpm", "spo2_pct", "systolic_mmhg", "diastolic_mmhg", "temperature_c", "consciousness"]
    assert vitals.select(pl.col(measured).count()).row(0) == (61,) * 6
    # Respiratory rate stands in the OBX without a value, 61 times.
    assert vitals["respiratory_rate_per_min"].count() == 0
    assert vitals["quality_codes"].str.contains("pain_not_numeric").sum() == 60


@pytest.mark.slow
def test_the_sample_messages_are_all_accounted_for(samples: Path, tmp_path: Path) -> None:  # noqa: F811
    folder = samples / "fhir_converter"
    files = {path.name: path.read_bytes() for path in folder.glob("*.hl7")}
    found = read(tmp_path, files, "GHHSFacility,1,RDX,NINTENDO,Ntierprise Clinic")
    placed = pl.concat(
        found.raw[name].select("source_file", "source_line")
        for name in ("adt_events", "patients", "vitals", "er_visits", "other_records")
    ).unique()
    assert placed.height == 81, "77 messages, three of which tell of two patients, and one of two visits"
    assert Counter(found.raw["adt_events"]["event_type"]) == {
        "A01": 4,
        "A02": 2,
        "A03": 2,
        "A04": 5,
        "A05": 2,
        "A06": 2,
        "A07": 2,
        "A08": 2,
        "A11": 2,
        "A13": 2,
        "A28": 2,
        "A31": 2,
        "A40": 3,
        "A45": 3,
        "A47": 3,
    }
    kinds = Counter(kind[:7] for kind in found.raw["other_records"]["kind"])
    assert kinds == {
        "ADT A09": 2,
        "ADT A10": 2,
        "ADT A14": 2,
        "ADT A15": 2,
        "ADT A16": 2,
        "ADT A25": 2,
        "ADT A26": 2,
        "ADT A27": 2,
        "ADT A29": 2,
        "ADT A41": 3,
        "ADT A60": 3,
        "SIU S12": 3,
        "SIU S13": 2,
        "SIU S14": 2,
        "SIU S15": 2,
        "SIU S16": 2,
        "SIU S17": 2,
        "SIU S26": 2,
    }
    assert not found.raw["other_records"]["problem"].count()
    # One sender is no hospital of the network, and an A45 moves a visit before it begins.
    assert found.quarantined("adt_events") == {"hospital_unknown": 1, "event_before_visit": 1}
    # One message tells of a whole emergency visit, in class E.
    assert found.cleaned("er_visits")["source_file"].to_list() == ["hl7v2-adt/ADT04-251.hl7"]
    # Two messages tell of a day alone, each of its own time; the others of ten years after they were sent.
    by_day = found.cleaned("vitals").select("heart_rate_bpm", "quality_codes").rows()
    assert by_day == [(44.0, "measured_time_unknown")] * 2


def test_deliberately_invalid_messages(samples: Path, tmp_path: Path) -> None:  # noqa: F811
    text = (samples / "simhospital" / "invalid_messages.yml").read_text()
    lines = [line.strip()[3:-1].replace("\\\\", "\\") for line in text.splitlines() if line.strip().startswith('- "')]
    said = "\r".join(lines).replace("|%s||", "|20200501120000||").replace("|%s|", "|77|") + "\r"
    found = read(tmp_path, {"invalid.hl7": said.encode()}, "SFAC")
    placed = sum(found.raw[name].height for name in ("patients", "other_records"))
    assert placed == said.count("MSH|")


@pytest.mark.nightly
def test_the_recorded_run_through_the_whole_graph(samples: Path, tmp_path: Path) -> None:  # noqa: F811
    landing = tmp_path / "landing" / "hl7v2-adt"
    landing.mkdir(parents=True)
    (landing / "hospitals.csv").write_text(HOSPITALS + "SFAC,Simulated Hospital,London,,Europe/London\n")
    shutil.copyfile(samples / "simhospital" / "messages.out", landing / "run.hl7")
    settings = Settings(tmp_path, date(2019, 1, 1), date(2020, 12, 31), partitions="yearly")
    write_settings(settings)
    # A process of its own: partitions follow the data directory, once, at import.
    subprocess.run(hospital(tmp_path, "build"), check=True, capture_output=True)
    assert query(settings, "select count(*) from facts.fact_vitals").item() == 61
    stays = "select count(*), count(distinct stay_id) from facts.fact_patient_flow"
    assert query(settings, stays).row(0) == (400, 400)
    merged = "select count(*) from dimensions.dim_person where is_merged"
    assert query(settings, merged).item() == 1


@pytest.mark.slow
def test_awkward_contents_stop_nothing(tmp_path: Path) -> None:
    document = "OBX|1|ED|PDF^Report^L||^application^pdf^Base64^" + "QUJD" * 700_000
    awkward = [
        adt("A04", "20260501100000", "LONG", more=document),
        adt("A04", "20260501100000", "NUL", more="PV2|||^a\0b"),
        adt("A04", "20260501100000", "LINE", more="PV2|||^a\u2028b\x85c"),
        adt("A04", "20260501100000", "QUOTE", more='PV2|||^say "no", \t and {"a": [1]}'),
        adt("A04", "20260501100000", "EMOJI", more="PV2|||^\U0001f600"),
        "MSH|^~\\&|ADT|GENERAL\r",
        "junk\r",
    ]
    found = read(tmp_path, {"m.hl7": "".join(awkward).encode()})
    told = dict(found.cleaned("er_visits").select("visit_id", "chief_complaint").iter_rows())
    assert told == {
        "LONG": None,
        "NUL": "a\0b",
        "LINE": "a\u2028b\x85c",
        "EMOJI": "\U0001f600",
        "QUOTE": 'say "no", \t and {"a": [1]}',
    }
    assert found.raw["other_records"]["problem"].to_list() == ["message_type_missing"]
