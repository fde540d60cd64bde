"""Every row of the table of outside cases (`../shared/cases/README.md`): each comes out as it says, on every engine."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import date
from pathlib import Path

import duckdb
import polars as pl
import pytest

from hospital_assets.assets.cleaned.subjects import VALIDATORS
from hospital_assets.assets.dimensions.persons import surviving
from hospital_assets.assets.facts.emergency_visits import ended, measured
from hospital_assets.assets.facts.patient_flow import ended_by_register, folded
from hospital_assets.landing.registry import load_profiles
from hospital_assets.listeners.mllp import Frames, Header, rejection
from hospital_assets.warehouse.database import scratch_connection
from hospital_assets.warehouse.dialect import Frame, hash_keys
from hospital_assets_tests.conftest import shared
from hospital_assets_tests.engines import ENGINES, Engine
from hospital_assets_tests.helpers import zone_in
from hospital_assets_tests.test_hl7_profile import adt

HOSPITALS = "hospital_id,hospital_name,city,state,time_zone\n"
FACILITIES = HOSPITALS + "GENERAL,General,Chicago,IL,America/Chicago\nNORTH,North,Chicago,IL,America/Chicago\n"
Rows = list[tuple[object, ...]]


def collected(frame: Frame) -> pl.DataFrame:
    found: pl.DataFrame = frame.collect("polars").to_native()
    zoned = [name for name, kind in found.schema.items() if isinstance(kind, pl.Datetime) and kind.time_zone]
    return found.with_columns(pl.col(zoned).dt.convert_time_zone("UTC"))


class Case:
    """Files of a case, landed, and what becomes of them on an engine."""

    def __init__(
        self, folder: Path, connection: duckdb.DuckDBPyConnection, on: Engine, profile: str, files: dict[str, bytes]
    ) -> None:
        for name, content in files.items():
            path = folder / "landing" / profile / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.on, self.profiles = on, load_profiles(None)
        days = date(1900, 1, 1), date(2999, 12, 31)
        self.zone = zone_in(folder, connection, self.profiles, days)
        self.ledger = self.zone.discover()
        self._validated: dict[str, pl.DataFrame] = {}

    def validate_on(self, on: Engine) -> None:
        """Forget what was validated, and validate on another engine."""
        self.on, self._validated = on, {}

    def validated(self, subject: str) -> pl.DataFrame:
        if subject not in self._validated:
            raw = collected(self.zone.read(subject, self.ledger))
            hospitals = raw if subject == "hospitals" else self._sound("hospitals")
            # Only visits ask for the messages that merge numbers and move visits.
            more = {"events": self.on(self._sound("adt_events"))} if subject == "er_visits" else {}
            found = VALIDATORS[subject](self.on(raw), self.on(hospitals), self.profiles, **more)
            self._validated[subject] = collected(found)
        return self._validated[subject]

    def _sound(self, subject: str) -> pl.DataFrame:
        return self.validated(subject).filter(pl.col("rule").is_null())

    def cleaned(self, subject: str) -> pl.DataFrame:
        return self.named(subject).filter(pl.col("rule").is_null())

    def rules(self, subject: str, patient: str) -> set[str]:
        return set(self.named(subject).filter(pl.col("patient_id") == patient)["rule"].drop_nulls())

    def codes(self, subject: str, patient: str) -> set[str]:
        listed = self.cleaned(subject).filter(pl.col("patient_id") == patient)["quality_codes"]
        return {code for codes in listed for code in codes.split(";") if code}

    def named(self, subject: str) -> pl.DataFrame:
        """Validated records without the namespace of their numbers."""
        return self.validated(subject).with_columns(pl.col("^.*_id$").str.replace("^[a-z0-9-]+:", ""))

    @functools.cached_property
    def _facts(self) -> dict[str, dict[str, object]]:
        rest = {"birth_date": pl.Date, "_provider_local": pl.Datetime("us"), "_departure_local": pl.Datetime("us")}
        keys = ("doctor_key", "triage_key", "condition_key", "age_at_extract_years")
        visits = self.on(
            self.cleaned("er_visits").with_columns(
                *(pl.lit(None, dtype=kind).alias(name) for name, kind in rest.items()),
                *(pl.lit(None, dtype=pl.Int64).alias(name) for name in keys),
                is_cancelled=pl.lit(False),
            )
        )
        frame = measured(ended(visits, self.on(self.cleaned("adt_events")), self.profiles))
        return {row["visit_id"]: row for row in collected(frame).iter_rows(named=True)}

    def visits(self) -> dict[str, dict[str, object]]:
        """What fact_emergency_visits says of each visit, the dimensions left aside."""
        return self._facts

    @functools.cached_property
    def _segments(self) -> pl.DataFrame:
        segments = folded(self.on(self.cleaned("adt_events")))
        return collected(ended_by_register(segments, self.on(self.cleaned("er_visits"))))

    def flow(self, visit: str) -> Rows:
        """Class, start, end and hours of each segment of a visit."""
        at = (pl.col(name).dt.strftime("%d %H:%M") for name in ("segment_start_at", "segment_end_at"))
        return (
            self._segments.filter(pl.col("stay_id") == visit)
            .sort("segment_number")
            .select("stay_class", *at, "length_of_stay_hours", "is_open")
            .rows()
        )

    def merged(self) -> dict[str, str]:
        """Merged number -> the one it is now."""
        numbers = pl.DataFrame({"patient_id": self.cleaned("patients")["patient_id"].unique()})
        keyed = hash_keys(self.on(numbers), {"patient_durable_key": ["patient_id"]})
        names = dict(collected(keyed).select("patient_durable_key", "patient_id").iter_rows())
        persons = collected(surviving(keyed, self.on(self.cleaned("adt_events"))))
        pairs = persons.filter("is_merged").select("patient_durable_key", "person_key").iter_rows()
        return {names[number]: names[person] for number, person in pairs}

    def signs(self, patient: str, *columns: str) -> Rows:
        return self.cleaned("vitals").filter(pl.col("patient_id") == patient).select(columns).rows()


Check = Callable[[Case], None]
SEGMENTS: Rows = [("emergency", "01 15:00", "01 17:00", 2.0, False)]


def ends_at_the_admission(case: Case, visit: str, at: str, hours: float) -> None:
    assert case.flow(visit) == [
        ("emergency", "01 15:00", at, hours, False),
        ("inpatient", at, "02 15:00", 24 - hours, False),
    ]
    found = case.visits()[visit]
    assert (found["los_minutes"], found["disposition"], found["is_open"]) == (60 * hours, "admitted", False)


def is_an_emergency_visit_only(case: Case) -> None:
    assert case.flow("GENERAL-Ve") == SEGMENTS
    assert case.visits()["GENERAL-Ve"]["los_minutes"] == 120


def is_known_by_its_day(case: Case) -> None:
    found = case.visits()["GENERAL-Vg"]
    assert found["los_minutes"] is None and found["departure_at"] is None and found["is_open"] is False
    assert "departure_time_unknown" in str(found["quality_codes"])
    assert "event_time_unknown" in case.codes("adt_events", "HOSP-Pg")
    assert case.flow("GENERAL-Vg") == [("emergency", "01 15:15", "01 17:15", None, False)]
    assert case.rules("adt_events", "HOSP-Pg") == case.rules("er_visits", "HOSP-Pg") - {"superseded"} == set()


def are_two_persons_and_visits(case: Case) -> None:
    people = {name for name in case.cleaned("patients")["patient_id"] if name.endswith("-15")}
    visits = {name for name in case.visits() if name.endswith("-Vi")}
    assert (people, visits) == ({"GENERAL-15", "NORTH-15"}, {"GENERAL-Vi", "NORTH-Vi"})
    assert case.flow("GENERAL-Vi") == case.flow("NORTH-Vi") == SEGMENTS


def has_no_age(case: Case) -> None:
    born = case.cleaned("patients").filter(pl.col("patient_id") == "HOSP-Pl")["birth_date"]
    assert born.len() > 0 and born.null_count() == born.len()
    assert "placeholder_date" in case.codes("patients", "HOSP-Pl")


def reads_what_is_contained(case: Case) -> None:
    people = dict(case.cleaned("patients").select("patient_id", pl.col("birth_date").cast(pl.String)).iter_rows())
    of = [str(case.visits()[visit]["patient_id"]) for visit in ("e15a", "e15b")]
    assert [people[patient] for patient in of] == ["1950-01-01", "2001-01-01"]


def keeps_the_precision(case: Case) -> None:
    by_day, exact = case.visits()["e20d"], case.visits()["e20z"]
    assert (by_day["los_minutes"], by_day["is_open"], by_day["arrival_at"]) == (None, False, None)
    assert (by_day["arrival_date_key"], by_day["arrival_time_key"]) == (20260501, -1)
    assert {"arrival_time_unknown", "departure_time_unknown"} <= set(str(by_day["quality_codes"]).split(";"))
    assert exact["los_minutes"] == 120
    assert case.rules("er_visits", "p20") == {"arrival_missing"}
    assert case.flow("e20d")[0][3:] == (None, False)


def value(got: object, expected: object) -> None:
    assert got == expected


VITALS = ("heart_rate_bpm", "spo2_pct")
OF_HL7: dict[str, Check] = {
    "a_class_via_A08": lambda case: ends_at_the_admission(case, "GENERAL-Va", "01 16:30", 1.5),
    "c_A04_then_A01": lambda case: ends_at_the_admission(case, "GENERAL-Vc", "01 17:00", 2.0),
    "d_A40_two_groups": lambda case: value(case.merged(), {"HOSP-Pdb": "HOSP-Pda", "HOSP-Pdd": "HOSP-Pdc"}),
    "e_A01_class_E": is_an_emergency_visit_only,
    "f_MSH7_offset": lambda case: value(str(case.visits()["GENERAL-Vf"]["arrival_at"]), "2026-05-01 15:00:00+00:00"),
    "g_day_only": is_known_by_its_day,
    "h_OBX11": lambda case: value(case.signs("HOSP-Ph", *VITALS), [(None, 96.0)]),
    "i_two_facilities": are_two_persons_and_visits,
    "k_SN": lambda case: value(case.signs("HOSP-Pk", "spo2_pct", "systolic_mmhg"), [(95.0, 120.0)]),
    "l_dob1900": has_no_age,
}
OF_FHIR: dict[str, Check] = {
    "fhir_a_set_split": lambda case: value(case.signs("a", *VITALS), [(80.0, 91.0)]),
    "fhir_b_corrected": lambda case: value(case.signs("p30", *VITALS), [(None, 96.0)]),
    "fhir_d_condition_refuted": lambda case: value(
        case.cleaned("diagnoses").filter(pl.col("visit_id") == "e32").rows(), []
    ),
    "fhir_e_contained": reads_what_is_contained,
    "fhir_f_comparator": lambda case: value(
        case.signs("p35", *VITALS, "inexact_values"), [(None, None, "heart_rate >250 /min; spo2 <70 %")]
    ),
    "fhir_g_org_second_type": lambda case: value(case.visits()["e44"]["hospital_id"], "H2"),
    "fhir_h_disposition_second_coding": lambda case: value(
        [case.visits()[f"e52{which}"]["disposition"] for which in ("nubc", "second", "text")],
        ["home", "against_medical_advice", "home"],
    ),
    "fhir_k_precision": keeps_the_precision,
}


@pytest.fixture(scope="module", params=list(ENGINES))
def on(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]


@contextmanager
def landed(folder: Path, on: Engine, profile: str, files: dict[str, bytes]) -> Iterator[Case]:
    with closing(scratch_connection()) as connection:
        yield Case(folder, connection, on, profile, files)


def cases(pattern: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in shared("../cases/interop").glob(pattern)}


@pytest.fixture(scope="module")
def messages(on: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    files = {**cases("*.hl7"), "hospitals.csv": FACILITIES.encode()}
    with landed(tmp_path_factory.mktemp("messages"), on, "hl7v2-adt", files) as found:
        yield found


@pytest.fixture(scope="module")
def resources(on: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    with landed(tmp_path_factory.mktemp("resources"), on, "fhir-r4", cases("fhir_*")) as found:
        yield found


@pytest.mark.fast_as("polars")
@pytest.mark.parametrize("name", OF_HL7)
def test_a_case_of_messages(name: str, messages: Case) -> None:
    OF_HL7[name](messages)


@pytest.mark.fast_as("polars")
@pytest.mark.parametrize("name", OF_FHIR)
def test_a_case_of_resources(name: str, resources: Case) -> None:
    OF_FHIR[name](resources)


#: Bytes as a sender writes them to the MLLP listener.
MESSAGE_BEHIND_A_CR = "mllp_leading_cr.bin"


def test_a_message_behind_an_empty_line_is_accepted() -> None:
    frames = Frames(10_000)
    frames.feed((shared("../cases/interop") / MESSAGE_BEHIND_A_CR).read_bytes())
    (frame,) = frames.complete()
    header = Header.of(frame.content)
    assert header is not None and header[10] == "LCR"
    assert rejection(frame.content, header, ("P",)) is None


def test_each_line_of_synthea_is_a_procedure(tmp_path: Path) -> None:
    """A procedure may be done twice in an encounter at one time; older exports have a date only."""
    places = "Id,NAME,ADDRESS,CITY,STATE,ZIP\no1,H,x,Boston,MA,02101\n"
    visits = "Id,START,STOP,PATIENT,ORGANIZATION,PROVIDER,PAYER,ENCOUNTERCLASS,CODE,DESCRIPTION\n"
    visits += "e1,2026-05-01T10:00:00Z,2026-05-01T12:00:00Z,p1,o1,d1,y,emergency,1,x\n"
    line = "2026-05-01T10:30:00Z,p1,e1,430193006,Medication reconciliation,1.0,,\n"
    head = "PATIENT,ENCOUNTER,CODE,DESCRIPTION,BASE_COST,REASONCODE,REASONDESCRIPTION\n"
    for name, column in (("new", "START"), ("old", "DATE")):
        done = f"{column},{head}" + line * 3
        texts = {"organizations.csv": places, "encounters.csv": visits, "procedures.csv": done}
        files = {file: text.encode() for file, text in texts.items()}
        with landed(tmp_path / name, ENGINES["polars"], "synthea-csv", files) as case:
            assert case.validated("procedures")["rule"].to_list() == [None] * 3


#: Case of landing -> where it lands, and the state of the file.
OF_LANDING = {
    "cr_only.csv": ("er_visits", "ready"),
    "deep.json": ("vitals", "ready"),
    "lone_surrogate_array.json": ("vitals", "unreadable"),
}


@pytest.mark.fast_as("polars")
def test_a_file_that_cannot_be_read_stops_no_other(on: Engine, tmp_path: Path) -> None:
    read = {name: path.read_bytes() for name in OF_LANDING if (path := shared("../cases/landing") / name).exists()}
    files = {f"{OF_LANDING[name][0]}/{name}": content for name, content in read.items()}
    sign = b'{"observation_id": "%s", "patient_id": "P", "hospital_id": "H1", "measured_at": "2026-03-02T10:00:00"}\n'
    files |= {"hospitals/h.csv": f"{HOSPITALS}H1,H,Chicago,IL,America/Chicago\n".encode(), "vitals/z.json": sign % b"z"}
    with landed(tmp_path, on, "native", files) as case:
        states = case.ledger.select(pl.col("source_file").str.split("/").list.last(), "state").rows()
        visits, vitals = case.cleaned("er_visits"), case.validated("vitals")
    assert set(states) >= {(name, state) for name, (_, state) in OF_LANDING.items()} | {("z.json", "ready")}
    assert visits["visit_id"].to_list() == ["V1"]
    assert dict(vitals.select("observation_id", "rule").iter_rows()) == {"O8": "patient_id_missing", "z": None}


#: What messages say between the arrival of number 1 and a later message of number 2 -> whether both are of one visit.
RENUMBERED = {
    "merged": ([adt("A40", "20260501101000", visit="", patient="2", prior="1")], True),
    "merged by a third": (
        [
            adt("A40", "20260501101000", visit="", patient="3", prior="1"),
            adt("A40", "20260501101100", visit="", patient="3", prior="2"),
        ],
        True,
    ),
    "moved": ([adt("A45", "20260501101000", patient="2", prior="1")], True),
    "another visit moved": ([adt("A45", "20260501101000", visit="V2", patient="2", prior="1")], False),
    "others merged": ([adt("A40", "20260501101000", visit="", patient="2", prior="3")], False),
    "nothing": ([], False),
}


@pytest.mark.fast_as("polars")
@pytest.mark.parametrize("name", RENUMBERED)
def test_a_visit_goes_on_under_another_number_of_its_patient(on: Engine, name: str, tmp_path: Path) -> None:
    said, is_one = RENUMBERED[name]
    triage = "PV2|||R07^Chest pain"
    messages = [
        adt("A04", "20260501100000", patient="1", more=triage),
        *said,
        adt("A08", "20260501102000", patient="2", place="SURG^1"),
    ]
    files = {f"{place}.hl7": message.encode() for place, message in enumerate(messages)}
    with landed(tmp_path, on, "hl7v2-adt", {**files, "hospitals.csv": FACILITIES.encode()}) as case:
        (found,) = case.cleaned("er_visits").filter(pl.col("visit_id") == "GENERAL-V1").iter_rows(named=True)
        assert (found["patient_id"], found["department_name"]) == (
            ("H-2", "Surgery") if is_one else ("H-1", "Emergency")
        )
        # What is not said again holds.
        assert found["chief_complaint"] == "Chest pain"
        rules = case.validated("er_visits")["rule"].to_list()
        assert ("visit_id_conflict" in rules) is not is_one


@pytest.mark.fast_as("polars")
def test_an_encounter_whose_subject_is_merged_goes_on(on: Engine, tmp_path: Path) -> None:
    """A server that merges patients lets their resources refer to the one who is left; ids of resources stay."""
    versions = [
        {
            "resourceType": "Encounter",
            "id": "e40",
            "status": status,
            "class": {"code": "EMER"},
            "subject": {"reference": f"Patient/{subject}"},
            "serviceProvider": {"reference": "Organization/H1"},
            "meta": {"lastUpdated": written},
            "period": {"start": "2026-05-01T15:00:00Z", **end},
        }
        for status, subject, written, end in (
            ("in-progress", "unknown", "2026-05-01T15:05:00Z", {}),
            ("finished", "known", "2026-05-01T17:05:00Z", {"end": "2026-05-01T17:00:00Z"}),
        )
    ]
    lines = "".join(json.dumps(version) + "\n" for version in versions)
    files = cases("fhir_00*") | {"merged.ndjson": lines.encode()}
    with landed(tmp_path, on, "fhir-r4", files) as case:
        (found,) = case.cleaned("er_visits").filter(pl.col("visit_id") == "e40").iter_rows(named=True)
        assert found["patient_id"] == "known" and found["departure_at"] is not None
        assert case.flow("e40") == [("emergency", "01 15:00", "01 17:00", 2.0, False)]


def test_every_case_has_a_test() -> None:
    """Those of `files` are in test_source_files.py."""
    there = {path.name for path in shared("../cases/interop").iterdir()} - {"fhir_00_master.ndjson"}
    tested = (MESSAGE_BEHIND_A_CR, *OF_HL7, *OF_FHIR)
    assert [name for name in sorted(there) if not name.startswith(tested)] == []
    assert {path.name for path in shared("../cases/landing").iterdir()} == set(OF_LANDING)
