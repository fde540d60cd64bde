"""Tables whose columns stand at fixed places, and headers over several rows: they land as from plain CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hospital_assets.landing.fixed_width import fixed_records, with_gaps
from hospital_assets.landing.headers import filled_to_the_right, joined_names
from hospital_assets.landing.profile import FixedWidth, Place, ProfileError, parse_profile
from hospital_assets.landing.registry import Profiles
from hospital_assets.landing.zone import LandingZone
from hospital_assets.sources.draft import draft_profile
from hospital_assets.sources.dry_run import try_profile
from hospital_assets.warehouse.database import Warehouse
from hospital_assets_tests.helpers import zone_of

PROFILE = """
name = "mine"
description = "Tables."
time_zone = "Europe/Berlin"
timestamp_formats = ["%d.%m.%Y %H:%M"]
[[subjects.hospitals.rows]]
hospital_id = "1"
hospital_name = "H"
time_zone = "Europe/Berlin"
[subjects.er_visits]
files = ["*"]
constants = {{ hospital_id = "1" }}
date = "arrival_time"
required = ["patient_id"]
{more}
[subjects.er_visits.columns]
visit_id = "case"
patient_id = "who"
arrival_time = "came"
chief_complaint = "note"
recorded_at = "@landed_at"
"""
FIXED = """
[subjects.er_visits.fixed_width]
{more}
[subjects.er_visits.fixed_width.columns]
case = {{ start = 1, width = 4 }}
who = {{ start = 5, width = 6 }}
came = {{ start = 15, width = 16 }}
note = {{ start = 31, width = 10 }}
"""
#      123456789 123456789 123456789 123456789 1
LINES = """
F001770001    02.03.2026 08:05Brustschm.
F002770002    02.03.2026 08:40Übelkeit  
F003770003 W5 02.03.2026 09:15          tail
F004770004    02.03.2026 13:
F005 77 05    03.03.2026 00:10  Fieber  

F006770006    03.03.2026 11:10Prellung  
"""[1:]  # noqa: W291
ROWS = [
    (1, "F001", "770001", "02.03.2026 08:05", "Brustschm."),
    (2, "F002", "770002", "02.03.2026 08:40", "Übelkeit"),
    (3, "F003", "770003", "02.03.2026 09:15", None),
    (4, None, None, None, None),
    (5, "F005", "77 05", "03.03.2026 00:10", "Fieber"),
    (7, "F006", "770006", "03.03.2026 11:10", "Prellung"),
]
SHOWN = ("source_line", "visit_id", "patient_id", "arrival_time", "chief_complaint")


def read(zone: LandingZone) -> pl.DataFrame:
    found: pl.DataFrame = zone.read("er_visits", zone.discover()).collect("polars").to_native()
    return found.sort("source_file", "source_line")


# Fixed width ------------------------------------------------------------------------------------------------


def fixed(more: str = "") -> str:
    return PROFILE.format(more="") + FIXED.format(more=more)


def test_columns_at_fixed_places_land_as_from_csv(tmp_path: Path, warehouse: Warehouse) -> None:
    """In every encoding and with every line end; lines are those of the file, and one that is too short says so."""
    files = {
        "utf8_txt": LINES.encode(),
        "bom_txt": LINES.encode("utf-8-sig"),
        "wide_txt": LINES.encode("utf-16"),
        "windows_txt": LINES.replace("\n", "\r\n").encode("cp1252"),
        "old_txt": LINES.replace("\n", "\r").rstrip("\r").encode("cp1252"),
    }
    zone = zone_of(tmp_path, warehouse, fixed(), **files)
    found = read(zone)
    for name in files:
        of_file = found.filter(pl.col("source_file") == f"mine/{name.replace('_', '.')}")
        assert of_file.select(SHOWN).rows() == ROWS, name
        assert of_file["problem"].to_list() == [None] * 3 + ["wrong_field_count"] + [None] * 2
    ledger = zone.discover()
    assert set(ledger["state"]) == {"ready"} and set(ledger["unreadable_count"]) == {1}
    # The line that cannot be read stands on the day its file came.
    assert ledger["service_dates"].list.head(2).to_list() == [[date(2026, 3, 2), date(2026, 3, 3)]] * len(files)
    # What stands where no column is declared is a column that nobody reads.
    assert set(ledger["unknown_columns"]) == {"11-14,41-"}


def test_a_record_of_fixed_width_is_kept_word_for_word(tmp_path: Path, warehouse: Warehouse) -> None:
    found = read(zone_of(tmp_path, warehouse, fixed(), a_txt=LINES.encode()))
    lines = LINES.split("\n")
    order = ["case", "who", "11-14", "came", "note", "41-"]
    for line, problem, record in found.select("source_line", "problem", "record").iter_rows():
        said = record if problem else "".join(json.loads(record)[name] for name in order)
        assert said == lines[line - 1]


def test_titles_lines_that_end_early_and_blanks_that_count(tmp_path: Path, warehouse: Warehouse) -> None:
    text = "Notaufnahme\n\n" + "\n".join(line.rstrip() for line in LINES.split("\n"))
    profile = fixed("first_line = 3\nis_stripped = true").replace(
        "start = 5, width = 6", "start = 5, width = 6, trim = false"
    )
    found = read(zone_of(tmp_path, warehouse, profile, a_txt=text.encode()))
    assert found["problem"].null_count() == found.height == 6
    assert found["source_line"].to_list() == [3, 4, 5, 6, 7, 9]
    assert found["patient_id"].to_list()[4] == " 77 05"
    # Cut off or ended early, nobody knows: what is there is read.
    assert found["arrival_time"].to_list()[3] == "02.03.2026 13:"


def test_a_file_in_which_every_line_is_too_short_is_not_one_of_its_kind(tmp_path: Path, warehouse: Warehouse) -> None:
    zone = zone_of(tmp_path, warehouse, fixed(), a_txt=b"F001\nF002\n", b_txt=LINES.encode(), c_xlsx=b"PK\x03\x04xl/")
    states = dict(zone.discover().select("source_file", "state").iter_rows())
    assert states == {"mine/a.txt": "unreadable", "mine/b.txt": "ready", "mine/c.xlsx": "unreadable"}


def test_other_records_of_fixed_width_are_kept(tmp_path: Path, warehouse: Warehouse) -> None:
    profile = fixed().replace('required = ["patient_id"]', 'where = { case = ["F001"] }')
    zone = zone_of(tmp_path, warehouse, profile, a_txt=LINES.encode())
    ledger = zone.discover()
    assert zone.read("er_visits", ledger).collect("polars").to_native()["visit_id"].to_list() == ["F001"]
    rest = zone.read("other_records", ledger).collect("polars").to_native()
    assert sorted(rest["source_line"]) == [2, 3, 4, 5, 7]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('visit_id = "case"', 'visit_id = "cse"'), "'cse' has no place in `fixed_width`; it has case, who"),
        (('files = ["*"]', 'files = ["*"]\nheader_line = 2'), "it has no header, delimiter or sheet"),
        (('files = ["*"]', 'files = ["*"]\ndelimiter = ";"'), "it has no header, delimiter or sheet"),
        (("start = 1, width", "start = 0, width"), "greater than or equal to 1"),
        (("case = {", '"@case" = {'), "begins with no @"),
        (("case = {", '"9-12" = {'), "is no place as 9-12"),
        (('files = ["*"]', 'files = ["*"]\nformat = "jsonl"'), "only files in the place of CSV have it"),
    ],
)
def test_what_does_not_go_with_fixed_width_is_refused(change: tuple[str, str], said: str) -> None:
    with pytest.raises(ProfileError, match=said):
        parse_profile(fixed().replace(*change), "mine.toml")


TEXT = st.text(st.characters(blacklist_characters="\n\r", blacklist_categories=("Cs",)), max_size=30)
PLACES = st.dictionaries(
    st.sampled_from("abcdef"), st.builds(Place, start=st.integers(1, 12), width=st.integers(1, 6)), min_size=1
)


@given(lines=st.lists(TEXT, max_size=6), places=PLACES, is_stripped=st.booleans())
def test_places_are_counted_in_characters(lines: Sequence[str], places: dict[str, Place], is_stripped: bool) -> None:
    spec = FixedWidth(columns=places, is_stripped=is_stripped)
    found = fixed_records("\n".join(lines), spec)
    blanks = " \t\x1a"
    wanted = [(n, line) for n, line in enumerate(lines, 1) if line.strip(blanks)]
    assert found["@line"].to_list() == [n for n, _ in wanted]
    for (_, line), row in zip(wanted, found.iter_rows(named=True), strict=True):
        is_short = len(line) < spec.end and not is_stripped
        assert (row["@problem"] == "wrong_field_count") == is_short
        for name, place in places.items():
            value = line[place.start - 1 : place.start - 1 + place.width].strip(blanks)
            assert row[name] == (None if is_short else value or None)
        if not is_short and not _overlap(places):
            assert set("".join(json.loads(row["@record"]).values())) >= set(line) - set(blanks)
        assert with_gaps(line, spec).replace("\n", "") == line


def _overlap(places: dict[str, Place]) -> bool:
    return any(a.start <= b.start < a.start + a.width for n, a in places.items() for m, b in places.items() if n != m)


# Headers over several rows -----------------------------------------------------------------------------------

NAMES = """
visit_id = "Case number"
patient_id = "Patient ID"
arrival_time = "Arrived"
chief_complaint = "Vital signs Note"
recorded_at = "@landed_at"
"""
TWO_ROWS = PROFILE.format(more="header_line = 3\nheader_rows = 2").partition("[subjects.er_visits.columns]")[0] + (
    "[subjects.er_visits.columns]" + NAMES
)
HEADER = [
    ["Emergency department, March"],
    [],
    ["Case number", "Patient", "", "Arrived", "Vital signs", "", ""],
    ["", "ID", "Sex", "", "HR", "SpO2", "Note"],
]
VISITS = [
    ["F1", "770001", "M", "02.03.2026 08:05", "80", "97", "cough"],
    ["F2", "770002", "W", "02.03.2026 08:40", "90", "98", ""],
]


def as_csv(rows: Sequence[Sequence[str]], delimiter: str = ",") -> str:
    made = io.StringIO()
    csv.writer(made, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return made.getvalue()


def seen(zone: LandingZone) -> list[tuple[Any, ...]]:
    return read(zone).select("source_line", "visit_id", "patient_id", "arrival_time", "chief_complaint").rows()


WANTED = [(5, "F1", "770001", "02.03.2026 08:05", "cough"), (6, "F2", "770002", "02.03.2026 08:40", None)]


def test_names_over_two_rows_are_joined(tmp_path: Path, warehouse: Warehouse) -> None:
    text = as_csv([*HEADER, *VISITS])
    # In CSV an empty cell belongs to its left, so a column of its own says so itself.
    zone = zone_of(
        tmp_path, warehouse, TWO_ROWS, a_csv=text.encode(), b_csv=text.replace("\n", "\r\n").encode("utf-16")
    )
    assert seen(zone) == WANTED * 2
    columns = zone.discover()["columns"].to_list()
    assert (
        columns == ["Case number,Patient ID,Patient Sex,Arrived,Vital signs HR,Vital signs SpO2,Vital signs Note"] * 2
    )


def test_merged_cells_of_a_workbook_say_what_belongs_together(tmp_path: Path, warehouse: Warehouse) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl is not installed (dev extra)")
    pytest.importorskip("python_calamine", reason="python-calamine is not installed (extra spreadsheets)")

    def workbook(header: Sequence[Sequence[str]], *merged: str) -> bytes:
        made = openpyxl.Workbook()
        for row in [*header, *VISITS]:
            made.active.append([cell or None for cell in row])
        for cells in merged:
            made.active.merge_cells(cells)
        buffer = io.BytesIO()
        made.save(buffer)
        return buffer.getvalue()

    # "Arrived" stands below nothing, right of a group: only the merged cells say that it is not of that group.
    lower = [*HEADER[:2], ["Case number", "Patient", "", "", "Vital\nsigns", "", ""]]
    lower.append(["", "ID", "Sex", "Arrived", "HR", "SpO2", " Note "])
    files = {"merged_xlsx": workbook(lower, "A1:G1", "A3:A4", "B3:C3", "E3:G3"), "plain_xlsx": workbook(HEADER)}
    zone = zone_of(tmp_path, warehouse, TWO_ROWS, **files)
    assert seen(zone) == WANTED * 2


def test_three_rows_and_where_a_group_ends() -> None:
    rows = [["A", "", "B", "", ""], ["x", "", "", "y", ""], ["1", "2", "3", "4", "5"]]
    assert joined_names(filled_to_the_right(rows)) == ["A x 1", "A x 2", "B 3", "B y 4", "B y 5"]
    assert joined_names(filled_to_the_right([["", "V", ""], ["Case", "HR"]])) == ["Case", "V HR", "V"]


def test_a_file_without_the_whole_header_says_what_it_lacks(tmp_path: Path, warehouse: Warehouse) -> None:
    zone = zone_of(tmp_path, warehouse, TWO_ROWS, a_csv=b"title\n\nCase number,Patient\n", b_csv=b"x\n")
    states = dict(zone.discover().select("source_file", "state").iter_rows())
    assert set(states.values()) <= {"missing_column", "empty", "unreadable"} and len(states) == 2


def test_a_profile_is_tried_on_them_as_on_any_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(as_csv([*HEADER, *VISITS]))
    (tmp_path / "b.txt").write_text(LINES)
    for profile, name, count in ((TWO_ROWS, "a.csv", 2), (fixed(), "b.txt", 6)):
        trials = try_profile(Profiles({"mine": parse_profile(profile, "mine.toml")}), "mine", tmp_path / name)
        assert [trial.records for trial in trials if trial.subject == "er_visits"] == [count]


DRAFTED = {
    "empty below": (["Visit ID", "Patient", "", "Arrival"], ["", "ID", "Sex", "Time"], 2),
    "empty above": (["Visit ID", "Patient", "", ""], ["", "ID", "Sex", "Arrival Time"], 2),
    "repeated below": (["Visit", "Patient", "Arrival", "Exit"], ["ID", "ID", "Time", "Time"], 2),
    "one row": (["Visit ID", "Patient ID", "Sex", "Arrival Time"], None, 1),
    "an index": (["", "Visit ID", "Patient ID", "Arrival Time"], None, 1),
}


@pytest.mark.parametrize("kind", DRAFTED)
def test_a_draft_finds_a_header_over_two_rows(kind: str, tmp_path: Path) -> None:
    upper, lower, header_rows = DRAFTED[kind]
    rows = [[str(n), f"P{n}", "M", f"2026-03-0{n} 08:00"] for n in range(1, 6)]
    header = [row for row in (upper, lower) if row]
    (tmp_path / "visits.csv").write_text("Emergency department\n" + as_csv([*header, *rows]))
    draft = draft_profile("mine", tmp_path / "visits.csv")
    spec = draft.profile.subjects["er_visits"]
    assert (spec.header_line, spec.header_rows) == (2, header_rows)
    assert {"er_visits"} <= set(draft.subjects), draft.text


def test_a_draft_of_lines_without_delimiters_says_what_to_write(tmp_path: Path) -> None:
    (tmp_path / "visits.txt").write_text(LINES)
    with pytest.raises(ValueError, match="fixed_width"):
        draft_profile("mine", tmp_path / "visits.txt")


@pytest.mark.nightly
def test_spark_reads_them_alike(tmp_path: Path, warehouse: Warehouse) -> None:
    from hospital_assets.spark.lake import Lake
    from hospital_assets.spark.landing import SparkLandingZone
    from hospital_assets_tests.engines import spark_session
    from hospital_assets_tests.test_transforms import collect

    for number, (profile, text) in enumerate(((fixed(), LINES), (TWO_ROWS, as_csv([*HEADER, *VISITS])))):
        zone = zone_of(tmp_path / str(number), warehouse, profile, a_csv=text.encode())
        values = {field.name: getattr(zone, field.name) for field in fields(LandingZone) if field.init}
        on_spark = SparkLandingZone(**values, session=spark_session(), lake=Lake(str(zone.spool / "lake")))
        ledger = zone.discover()
        wanted = collect(zone.read("er_visits", ledger)).sort("source_line")
        assert collect(on_spark.read("er_visits", ledger)).sort("source_line").equals(wanted) and wanted.height
