"""What messages and resources say together: versions, classes, identities and times, whoever sends them."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from hospital_assets.assets.dimensions.persons import surviving
from hospital_assets.assets.facts.patient_flow import other_segments, visit_ends
from hospital_assets.warehouse.dialect import hash_keys, lazy
from hospital_assets_tests.engines import Engine
from hospital_assets_tests.test_hl7_profile import Read, adt, collected, read

FIRST = "20260501100000"


def hl7(folder: Path, *messages: str, facilities: str = "GENERAL") -> Read:
    return read(folder, {"m.hl7": "".join(messages).encode()}, facilities)


def flow(found: Read) -> list[tuple[str, str, str, str | None]]:
    """Class, department, start and end of each segment, in Chicago's time."""

    def chicago(column: str) -> pl.Expr:
        return pl.col(column).dt.convert_time_zone("America/Chicago").dt.strftime("%d %H:%M")

    return (
        found.segments()
        .select("stay_class", "department_name", chicago("segment_start_at"), chicago("segment_end_at"))
        .rows()
    )


def left(found: Read) -> list[tuple[str | None, str | None]]:
    ends = collected(visit_ends(lazy(found.cleaned("adt_events"))))
    local = pl.col("left_at").dt.convert_time_zone("America/Chicago").dt.strftime("%d %H:%M")
    return ends.select(local, "left_as").rows()


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


@pytest.mark.parametrize("case", CLASSES)
def test_one_visit_number_goes_through_the_classes(case: str, tmp_path: Path) -> None:
    messages, expected, ended = CLASSES[case]
    found = hl7(tmp_path, *reversed(messages))
    assert flow(found) == expected
    assert left(found) == [ended]


def test_a_message_of_another_day_closes_the_stay_that_is_stored(tmp_path: Path, on: Engine) -> None:
    late = adt("A03", "20260502100000", start="", end="20260502100000")
    found = hl7(tmp_path, adt("A01", FIRST, cls="I"), late)
    assert [str(day)[-2:] for day in found.cleaned("adt_events")["service_date"]] == ["01", "02"]
    assert flow(found) == [("inpatient", "Emergency", "01 10:00", "02 10:00")]
    # As the first day had it before the second was landed.
    instant = pl.Datetime("us", "UTC")
    before = found.segments().with_columns(
        segment_end_at=pl.lit(None, dtype=instant), stay_end_at=pl.lit(None, dtype=instant)
    )
    events = found.cleaned("adt_events")
    register = on(found.cleaned("er_visits").clear())
    stale = collected(other_segments(on(before), on(events), register))
    assert {str(day) for day in stale["service_date"]} == {"2026-05-01"}
    assert collected(other_segments(on(found.segments()), on(events), register)).is_empty()


# --- whose numbers they are -------------------------------------------------------------------------


def of_facility(message: str, facility: str) -> str:
    return message.replace("|GENERAL|", f"|{facility}|").replace("^^^H^MR", f"^^^{facility}^MR")


def test_the_same_numbers_of_two_facilities_are_two_persons_and_two_visits(tmp_path: Path) -> None:
    both = [of_facility(adt(kind, at, end=end), name) for name in ("GENERAL", "NORTH") for kind, at, end in
            (("A04", FIRST, ""), ("A03", "20260501120000", "20260501120000"))]  # fmt: skip
    found = hl7(tmp_path, *both, facilities="GENERAL,NORTH")
    for subject in ("er_visits", "adt_events"):
        raw = found.raw[subject]
        assert set(raw["visit_id"]) == {"GENERAL-V1", "NORTH-V1"}
        assert set(raw["patient_id"]) == {"GENERAL-7", "NORTH-7"}
    assert len(flow(found)) == 2 and found.cleaned("er_visits").height == 2


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


# --- times ------------------------------------------------------------------------------------------


def test_the_offset_of_the_message_is_that_of_times_without_one(tmp_path: Path) -> None:
    in_utc = {"sent": "20260501150000+0000"}
    utc = adt("A04", "20260501150000", start="20260501150000", **in_utc).replace("EVN||20260501150000+0000", "EVN||")
    own = adt("A04", "20260501150000", "V2", start="20260501150000-0400", **in_utc)
    found = hl7(tmp_path, utc, own)
    at = dict(found.cleaned("er_visits").select("visit_id", pl.col("arrival_at").dt.strftime("%H:%M")).iter_rows())
    assert at == {"V1": "15:00", "V2": "19:00"}
