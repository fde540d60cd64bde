"""What messages and resources say together: versions, classes, identities and times, whoever sends them."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from hospital_assets.assets.cleaned.vitals import HARD_BOUNDS, validate_vitals
from hospital_assets.assets.dimensions.persons import surviving
from hospital_assets.assets.facts.patient_flow import other_segments, visit_ends
from hospital_assets.contracts import CONTRACTS
from hospital_assets.landing.registry import load_profiles
from hospital_assets.warehouse.dialect import hash_keys, lazy
from hospital_assets_tests.engines import Engine
from hospital_assets_tests.test_hl7_profile import Read, adt, collected, read

#: Whole deliveries, read to the stays they make; messages by themselves are in test_hl7v2 and test_hl7_profile.
pytestmark = pytest.mark.slow

FIRST = "20260501100000"


def hl7(folder: Path, *messages: str, facilities: str = "GENERAL", only: tuple[str, ...] = ()) -> Read:
    return read(folder, {"m.hl7": "".join(messages).encode()}, facilities, only)


def flow(found: Read, visit: str = "V1") -> list[tuple[str, str, str, str | None]]:
    """Class, department, start and end of each segment, in Chicago's time."""

    def chicago(column: str) -> pl.Expr:
        return pl.col(column).dt.convert_time_zone("America/Chicago").dt.strftime("%d %H:%M")

    return (
        found.segments()
        .filter(pl.col("stay_id") == visit)
        .select("stay_class", "department_name", chicago("segment_start_at"), chicago("segment_end_at"))
        .rows()
    )


def left(found: Read, visit: str) -> list[tuple[str | None, str | None]]:
    ends = collected(visit_ends(lazy(found.cleaned("adt_events"))))
    local = pl.col("left_at").dt.convert_time_zone("America/Chicago").dt.strftime("%d %H:%M")
    return ends.filter(pl.col("visit_id") == visit).select(local, "left_as").rows()


# --- one visit number through the classes (PV1-2, table 0004) --------------------------------------

ARRIVED = adt("A04", FIRST)
OVER = adt("A03", "20260502100000", cls="I", place="SURG", end="20260502100000", disposition="01")
Segments = list[tuple[str, str, str, str | None]]
IN_SURGERY: Segments = [
    ("emergency", "Emergency", "01 10:00", "01 12:00"),
    ("inpatient", "Surgery", "01 12:00", "02 10:00"),
]


def admitted(event: str, start: str = FIRST) -> list[str]:
    return [ARRIVED, adt(event, "20260501120000", cls="I", place="SURG", start=start), OVER]


CLASSES: dict[str, tuple[list[str], Segments, tuple[str | None, str | None]]] = {
    "admitted by A08": (
        [ARRIVED, adt("A08", "20260501120000", cls="I", place="SURG"), OVER],
        IN_SURGERY,
        ("01 12:00", "admitted"),
    ),
    "admitted by A06": (
        [ARRIVED, adt("A06", "20260501120000", cls="I", place="SURG"), OVER],
        IN_SURGERY,
        ("01 12:00", "admitted"),
    ),
    "admitted by A01, PV1-44 as it was": (admitted("A01"), IN_SURGERY, ("01 12:00", "admitted")),
    "admitted by A01, PV1-44 that of the admission": (
        admitted("A01", start="20260501120000"),
        IN_SURGERY,
        ("01 12:00", "admitted"),
    ),
    "admitted by A02": (
        [ARRIVED, adt("A02", "20260501120000", cls="I", place="SURG"), OVER],
        IN_SURGERY,
        ("01 12:00", "admitted"),
    ),
    "other details changed": (
        [ARRIVED, adt("A08", "20260501110000", place="SURG"), adt("A08", "20260501113000", cls="", place="SURG")],
        [("emergency", "Emergency", "01 10:00", None)],
        (None, None),
    ),
    "discharged without a class": (
        [ARRIVED, adt("A03", "20260501140000", cls="", place="", end="20260501140000", disposition="01")],
        [("emergency", "Emergency", "01 10:00", "01 14:00")],
        ("01 14:00", "home"),
    ),
    "admitted in class E": (
        [adt("A01", FIRST), adt("A03", "20260501120000", end="20260501120000", disposition="01")],
        [("emergency", "Emergency", "01 10:00", "01 12:00")],
        ("01 12:00", "home"),
    ),
    "became an outpatient": (
        [ARRIVED, adt("A08", "20260501120000", cls="O"), adt("A03", "20260501150000", cls="O", end="20260501150000")],
        [("emergency", "Emergency", "01 10:00", "01 12:00")],
        ("01 12:00", None),
    ),
}


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """All of them at once, each with a visit of its own, the newest message first."""
    texts = [message.replace("|V1|", f"|{case}|") for case, (told, *_) in CLASSES.items() for message in reversed(told)]
    return hl7(tmp_path_factory.mktemp("classes"), *texts, only=("adt_events",))


@pytest.mark.parametrize("case", CLASSES)
def test_one_visit_number_goes_through_the_classes(case: str, classes: Read) -> None:
    _, expected, ended = CLASSES[case]
    assert flow(classes, case) == expected
    assert left(classes, case) == [ended]


@pytest.mark.fast_as("polars")
def test_a_message_of_another_day_closes_the_stay_that_is_stored(tmp_path: Path, on: Engine) -> None:
    late = adt("A03", "20260502100000", start="", end="20260502100000")
    found = hl7(tmp_path, adt("A01", FIRST, cls="I"), late, only=("adt_events", "er_visits"))
    assert [str(day)[-2:] for day in found.cleaned("adt_events")["service_date"].sort()] == ["01", "02"]
    assert flow(found) == [("inpatient", "Emergency", "01 10:00", "02 10:00")]
    # As the first day had it before the second was landed.
    instant = pl.Datetime("us", "UTC")
    before = found.segments().with_columns(
        segment_end_at=pl.lit(None, dtype=instant), stay_end_at=pl.lit(None, dtype=instant)
    )
    events = found.cleaned("adt_events")
    register = on(found.cleaned("er_visits").clear())
    stale = collected(other_segments(on(before), on(events), register, load_profiles(None)))
    assert {str(day) for day in stale["service_date"]} == {"2026-05-01"}
    assert collected(other_segments(on(found.segments()), on(events), register, load_profiles(None))).is_empty()


# --- whose numbers they are -------------------------------------------------------------------------


def of_facility(message: str, facility: str) -> str:
    return message.replace("|GENERAL|", f"|{facility}|").replace("^^^H^MR", f"^^^{facility}^MR")


def test_the_same_numbers_of_two_facilities_are_two_persons_and_two_visits(tmp_path: Path) -> None:
    both = [
        of_facility(adt(kind, at, end=end), name)
        for name in ("GENERAL", "NORTH")
        for kind, at, end in (("A04", FIRST, ""), ("A03", "20260501120000", "20260501120000"))
    ]
    found = hl7(tmp_path, *both, facilities="GENERAL,NORTH")
    for subject in ("er_visits", "adt_events"):
        raw = found.raw[subject]
        assert set(raw["visit_id"]) == {"GENERAL-V1", "NORTH-V1"}
        assert set(raw["patient_id"]) == {"GENERAL-7", "NORTH-7"}
    assert found.segments().height == 2 and found.cleaned("er_visits").height == 2


def test_a_number_without_an_authority_is_its_facilitys(tmp_path: Path) -> None:
    bare = adt("A04", FIRST).replace("7^^^H^MR", "7")
    found = hl7(tmp_path, bare, of_facility(bare, "NORTH"), facilities="GENERAL,NORTH")
    assert set(found.raw["patients"]["patient_id"]) == {"GENERAL-7", "NORTH-7"}
    shared = hl7(tmp_path / "shared", ARRIVED, ARRIVED.replace("|GENERAL|", "|NORTH|"), facilities="GENERAL,NORTH")
    assert set(shared.raw["patients"]["patient_id"]) == {"H-7"}, "one authority, one person"


def merged_away(found: Read, *numbers: str) -> dict[str, str]:
    keyed = hash_keys(lazy(pl.DataFrame({"patient_id": numbers})), {"patient_durable_key": ["patient_id"]})
    names = dict(collected(keyed).select("patient_durable_key", "patient_id").iter_rows())
    persons = collected(surviving(keyed, lazy(found.cleaned("adt_events"))))
    return {
        names[number]: names[person]
        for number, person in persons.select("patient_durable_key", "person_key").iter_rows()
        if number != person
    }


def test_every_group_of_a_merge_and_every_number_in_it_counts(tmp_path: Path) -> None:
    head = adt("A40", "20260501130000", visit="", patient="1", prior="2")
    groups = "PID|2||3^^^H^MR\rMRG|4^^^H^MR~5^^^H^MR~999^^^H^SS\r"
    found = hl7(tmp_path, head + groups, ARRIVED)
    assert merged_away(found, *"123459") == {"2": "1", "4": "3", "5": "3"}
    assert found.validated["adt_events"]["rule"].null_count() == 4


def test_what_neighbours_of_an_event_say_is_applied(tmp_path: Path) -> None:
    merges = [
        adt("A18", "20260501130000", visit="", patient="1", prior="2"),
        adt("A47", "20260501130000", visit="", patient="3", prior="4"),
    ]
    account = adt("A44", "20260501140000", visit="V1", patient="8", prior="7")
    # Two patients swap their beds: a group for each.
    swap = adt("A17", "20260501150000", "V2", patient="9", place="SURG^1^A")
    swap += adt("A17", "20260501150000", "V3", patient="10", place="ED^2^A").split("\r", 2)[2]
    arrivals = [adt("A04", FIRST), adt("A04", FIRST, "V2", patient="9"), adt("A04", FIRST, "V3", patient="10")]
    found = hl7(tmp_path, *merges, account, swap, *arrivals, only=("adt_events",))
    assert merged_away(found, *"1234") == {"2": "1", "4": "3"}
    assert found.segments().filter(pl.col("stay_id") == "V1")["patient_id"].to_list() == ["8"]
    assert [row[1:3] for row in flow(found, "V2")] == [("Emergency", "01 10:00"), ("Surgery", "01 15:00")]
    assert [row[1:3] for row in flow(found, "V3")] == [("Emergency", "01 10:00"), ("Emergency", "01 15:00")]
    assert found.quarantined("adt_events") == {}


# --- times ------------------------------------------------------------------------------------------


def test_the_offset_of_the_message_is_that_of_times_without_one(tmp_path: Path) -> None:
    in_utc = {"sent": "20260501150000+0000"}
    utc = adt("A04", "20260501150000", start="20260501150000", **in_utc).replace("EVN||20260501150000+0000", "EVN||")
    own = adt("A04", "20260501150000", "V2", start="20260501150000-0400", **in_utc)
    found = hl7(tmp_path, utc, own)
    at = dict(found.cleaned("er_visits").select("visit_id", pl.col("arrival_at").dt.strftime("%H:%M")).iter_rows())
    assert at == {"V1": "15:00", "V2": "19:00"}


# --- versions, withdrawals and sets of vital signs ----------------------------------------------------

SIGNS = {"hr": ("8867-4", "/min"), "rr": ("9279-1", "/min"), "spo2": ("59408-5", "%"), "sbp": ("8480-6", "mm[Hg]")}


def oru(sent: str, *observations: tuple[str, str, str], at: str = "20260501100500", kind: str = "NM") -> str:
    """A message of observations: which, its value (with its unit, if it is another), its status (OBX-11)."""
    obx = []
    for place, (sign, value, status) in enumerate(observations, 1):
        code, unit = SIGNS[sign]
        number, _, other = value.partition(" ")
        obx.append(f"OBX|{place}|{kind}|{code}^{sign}^LN||{number}|{other or unit}|||||{status}")
    return "\r".join(
        [
            f"MSH|^~\\&|MON|GENERAL|ED|HERE|{sent}||ORU^R01|M{sent}{len(obx)}|P|2.5.1",
            "PID|1||7^^^H^MR",
            f"PV1|1|E|ED{'|' * 16}V1",
            f"OBR|1|{sent}||VS^Vital signs^L|||{at}",
            *obx,
            "",
        ]
    )


def of_patient(message: str, number: int) -> str:
    return message.replace("PID|1||7^", f"PID|1||{number}^")


FIVE_PAST = "20260501100500"


COLUMNS = ("heart_rate_bpm", "respiratory_rate_per_min", "spo2_pct", "systolic_mmhg")


def sets(found: Read, number: int = 7) -> list[tuple[float | None, ...]]:
    of = pl.col("patient_id") == str(number)
    return found.cleaned("vitals").filter(of).sort("measured_at", *COLUMNS).select(COLUMNS).rows()


VERSIONS: dict[str, tuple[list[str], list[tuple[float | None, ...]]]] = {
    "posted as wrong, then corrected": (
        [
            oru("20260501101000", ("spo2", "69", "F")),
            oru("20260501101500", ("spo2", "69", "W")),
            oru("20260501101600", ("spo2", "96", "C")),
        ],
        [(None, None, 96, None)],
    ),
    "withdrawn wholly": ([oru("20260501101000", ("spo2", "69", "F")), oru("20260501101500", ("spo2", "69", "D"))], []),
    "one of a set withdrawn": (
        [oru("20260501101000", ("spo2", "69", "F"), ("hr", "80", "F")), oru("20260501101500", ("spo2", "", "X"))],
        [(80, None, None, None)],
    ),
    "never counted": ([oru("20260501101000", ("spo2", "69", "N"), ("hr", "80", "F"))], [(80, None, None, None)]),
    "split over messages": (
        [oru("20260501101000", ("spo2", "91", "F")), oru("20260501101001", ("hr", "80", "F"), ("rr", "20", "P"))],
        [(80, 20, 91, None)],
    ),
    "of two times": (
        [oru("20260501101000", ("hr", "80", "F")), oru("20260501101000", ("hr", "90", "F"), at="20260501101000")],
        [(80, None, None, None), (90, None, None, None)],
    ),
    "taken back by another spelling of its time": (
        [
            oru("20260501101000", ("spo2", "69", "F")),
            oru("20260501101500", ("spo2", "69", "W"), at=f"{FIVE_PAST}-0500"),
        ],
        [],
    ),
    "by another offset": (
        [
            oru("20260501101000", ("spo2", "69", "F")),
            oru("20260501101500", ("spo2", "69", "D"), at="20260501150500.000+0000"),
        ],
        [],
    ),
    "by the offset of its message": (
        [oru("20260501101000", ("spo2", "69", "F")), oru("20260501101500-0500", ("spo2", "96", "C"))],
        [(None, None, 96, None)],
    ),
    "split over messages, in several spellings": (
        [
            oru("20260501101000", ("spo2", "91", "F")),
            oru("20260501101000-0500", ("hr", "80", "F")),
            oru("20260501101000", ("rr", "20", "F"), at="20260501110500-0400"),
        ],
        [(80, 20, 91, None)],
    ),
    "not of a fraction of a second later": (
        [oru("20260501101000", ("hr", "80", "F")), oru("20260501101000", ("hr", "90", "F"), at=f"{FIVE_PAST}.500")],
        [(80, None, None, None), (90, None, None, None)],
    ),
    "of a day alone": (
        [
            oru("20260501101000", ("hr", "150", "F"), ("rr", "30", "F"), at="20260501"),
            oru("20260501141000", ("hr", "80", "F"), at="20260501"),
        ],
        [(150, 30, None, None), (80, None, None, None)],
    ),
    "of a day alone, written at one moment": (
        [
            oru("20260501101000", ("hr", "150", "F"), at="20260501"),
            oru("20260501101000", ("hr", "80", "F"), ("rr", "20", "F"), at="20260501"),
        ],
        [(80, 20, None, None), (150, None, None, None)],
    ),
    "of a day alone, sent twice": (
        [oru("20260501101000", ("hr", "150", "F"), at="20260501")] * 2,
        [(150, None, None, None)],
    ),
    "of a day alone, and at its midnight": (
        [
            oru("20260501101000", ("hr", "90", "F"), at="20260501000000"),
            oru("20260501101000", ("hr", "80", "F"), at="20260501"),
        ],
        [(90, None, None, None), (80, None, None, None)],
    ),
    "of a day alone, taken back": (
        [
            oru("20260501101000", ("hr", "150", "F"), ("rr", "20", "F"), at="20260501"),
            oru("20260501121000", ("hr", "150", "W"), at="20260501"),
            oru("20260501141000", ("hr", "80", "F"), at="20260501"),
        ],
        [(None, 20, None, None), (80, None, None, None)],
    ),
    "of a day alone, corrected": (
        [
            oru("20260501101000", ("spo2", "69", "F"), at="20260501"),
            oru("20260501121000", ("spo2", "96", "C"), at="20260501"),
        ],
        [(None, None, 96, None)],
    ),
    "of an order without a time": ([oru("20260501101000", ("hr", "80", "F"), at='""')], [(80, None, None, None)]),
    "status final without the value again": (
        [oru("20260501101000", ("hr", "80", "P")), oru("20260501101100", ("hr", "", "U"))],
        [(80, None, None, None)],
    ),
}


@pytest.mark.parametrize("files", [1, 4])
def test_the_newest_version_of_each_vital_sign_counts(files: int, tmp_path: Path) -> None:
    by_file: dict[str, bytes] = {}
    for number, (messages, _) in enumerate(VERSIONS.values()):
        for place, message in enumerate(messages):
            name = f"{place % files}.hl7"
            by_file[name] = by_file.get(name, b"") + of_patient(message, number).encode()
    found = read(tmp_path, by_file, only=("vitals",))
    got = {case: sets(found, number) for number, case in enumerate(VERSIONS)}
    assert got == {case: expected for case, (_, expected) in VERSIONS.items()}
    assert set(found.quarantined("vitals")) <= {"merged_into_set", "withdrawn"}


_versions = st.tuples(st.sampled_from(list(SIGNS)), st.integers(40, 69), st.sampled_from("FFFPCWDX"))


@pytest.mark.nightly
@settings(max_examples=4)
@given(told=st.lists(_versions, min_size=2, max_size=8), data=st.data())
def test_versions_in_any_order_and_any_files_give_the_same_set(
    told: list[tuple[str, int, str]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    messages = [oru(f"202605011010{n:02}", (sign, str(value), status)) for n, (sign, value, status) in enumerate(told)]
    newest: dict[str, float | None] = dict.fromkeys(SIGNS)
    for sign, value, status in told:
        newest[sign] = None if status in "WDX" else value
    expected = [tuple(newest.values())] if any(value is not None for value in newest.values()) else []
    files: dict[str, bytes] = {}
    for message in data.draw(st.permutations(messages + messages[:2])):
        name = f"{data.draw(st.integers(0, 2))}.hl7"
        files[name] = files.get(name, b"") + message.encode()
    found = read(tmp_path_factory.mktemp("versions"), files, only=("vitals",))
    assert sets(found) == expected


@pytest.mark.fast_as("polars")
def test_sets_are_made_alike_on_every_engine(tmp_path: Path, on: Engine) -> None:
    told = [of_patient(text, n) for n, (messages, _) in enumerate(VERSIONS.values()) for text in messages]
    found = read(tmp_path, {f"{n % 3}.hl7": text.encode() for n, text in enumerate(told)}, only=("vitals",))
    hospitals = pl.DataFrame({"hospital_id": ["hl7v2-adt:GENERAL"], "time_zone": ["America/Chicago"]})
    names = ["observation_id", "rule", "quality_codes", *COLUMNS]
    again = collected(validate_vitals(on(found.raw["vitals"]), on(hospitals), load_profiles(None))).select(names)
    by = ["observation_id", "rule"]
    assert_frame_equal(again.sort(by), found.validated["vitals"].select(names).sort(by))


VALUES: dict[str, tuple[str, str, tuple[float | None, ...], str, str | None]] = {
    "structured numeric": ("SN", "^95", (None, None, 95, None), "", None),
    "structured range": ("SN", "94^-^96", (None,) * 4, "value_inexact", "spo2 94-96 %"),
    "structured range, no comparator": ("SN", "^94^-^96", (None,) * 4, "value_inexact", "spo2 94-96 %"),
    "structured comparator": ("SN", "<^70", (None,) * 4, "value_inexact", "spo2 <70 %"),
    "equal": ("SN", "=^95", (None, None, 95, None), "", None),
    "comparator in a text": ("ST", ">95", (None,) * 4, "value_inexact", "spo2 >95 %"),
    "unit of something else": ("NM", "95 mmol/L", (None,) * 4, "unit_unknown", "spo2 95 mmol/L"),
    "unit by its text alone": ("NM", "95 ^%", (None, None, 95, None), "", None),
    "unknown unit by its text alone": ("NM", "95 ^mmol/L", (None,) * 4, "unit_unknown", "spo2 95 mmol/L"),
}


def test_what_is_no_exact_value_in_a_known_unit_is_kept_and_not_used(tmp_path: Path) -> None:
    told = [
        of_patient(oru("20260501101000", ("spo2", value, "F"), kind=kind), number)
        for number, (kind, value, *_) in enumerate(VALUES.values())
    ]
    found = hl7(tmp_path, *told, only=("vitals",))
    rows = {row["patient_id"]: row for row in found.cleaned("vitals").iter_rows(named=True)}
    for number, (case, (_, _, expected, code, kept)) in enumerate(VALUES.items()):
        row = rows[str(number)]
        got = tuple(row[name] for name in COLUMNS)
        assert (got, row["quality_codes"], row["inexact_values"]) == (expected, code, kept), case


UNITS_TRIED = {
    ("systolic_bp", "16.0", "kPa"): 120.0,
    ("systolic_bp", "160", "mbar"): 120.0,
    ("systolic_bp", "120", "mmHg"): 120.0,
    ("heart_rate", "1.5", "Hz"): 90.0,
    ("heart_rate", "80", "MDC_DIM_BEAT_PER_MIN"): 80.0,
    ("heart_rate", "80", "264864"): 80.0,
    ("heart_rate", "1.5", "264640"): 90.0,
    ("respiratory_rate", "0.25", "/s"): 15.0,
    ("respiratory_rate", "16", "264928"): 16.0,
    ("systolic_bp", "120", "266016"): 120.0,
    ("systolic_bp", "16.0", "265987"): 120.0,
    ("spo2", "97", "262688"): 97.0,
    ("temperature", "98.6", "266560"): 37.0,
    ("temperature", "37", "268192"): 37.0,
    ("temperature", "310.15", "266528"): 37.0,
    ("heart_rate", "80", "266016"): None,
    ("spo2", "0.97", "mol/mol"): 97.0,
    ("temperature", "98.6", "[degF]"): 37.0,
    ("temperature", "310.15", "K"): 37.0,
    ("temperature", "98.6", "°F"): 37.0,
    ("temperature", "37", "Deg C"): 37.0,
    ("heart_rate", "80", "beats/minute"): 80.0,
    ("respiratory_rate", "15", "breaths/minute"): 15.0,
    ("respiratory_rate", "15", "insp/min"): 15.0,
    ("spo2", "97", "%O2"): 97.0,
    ("temperature", "37", "mol"): None,
    ("heart_rate", "80", "mm[Hg]"): None,
    ("systolic_bp", "5", "mol"): None,
}


def test_units_are_converted_or_the_value_is_not_used(on: Engine) -> None:
    rows = [
        {
            **dict.fromkeys(CONTRACTS["raw_vitals"].column_names),
            "source_profile": "native",
            "source_file": "native/v.json",
            "source_line": place,
            "source_part": 1,
            "service_date": date(2026, 5, 1),
            "observation_id": f"O{place:02}",
            "patient_id": "P",
            "hospital_id": "H1",
            "measured_at": "2026-05-01T10:00:00Z",
            "recorded_at": "2026-05-01T10:00:00Z",
            "payload": json.dumps({sign: {"value": value, "unit": unit}}),
        }
        for place, (sign, value, unit) in enumerate(UNITS_TRIED)
    ]
    raw = pl.DataFrame(rows, schema=CONTRACTS["raw_vitals"].polars_schema)
    hospitals = on(pl.DataFrame({"hospital_id": ["H1"], "time_zone": ["America/Chicago"]}))
    found = collected(validate_vitals(on(raw), hospitals, load_profiles(None))).sort("observation_id")
    columns = {parameter: column for parameter, (column, *_) in HARD_BOUNDS.items()}
    got = [row[columns[sign]] for row, (sign, *_) in zip(found.iter_rows(named=True), UNITS_TRIED, strict=True)]
    assert got == list(UNITS_TRIED.values())
    assert found["rule"].null_count() == len(rows)
