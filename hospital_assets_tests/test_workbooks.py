"""Workbooks and Parquet files in the place of CSV: their rows land as from CSV, and what is odd stops nothing else."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from hospital_assets.landing import csv_records
from hospital_assets.landing.content import UnreadableError
from hospital_assets.landing.profile import Subject, parse_profile
from hospital_assets.landing.records import LandedFile
from hospital_assets.landing.workbooks import csv_content
from hospital_assets.landing.zone import LandingZone
from hospital_assets.settings import FileLimits
from hospital_assets.warehouse.database import Warehouse
from hospital_assets_tests.helpers import zone_of as landing_zone_of

openpyxl = pytest.importorskip("openpyxl", reason="openpyxl is not installed (dev extra)")
pytest.importorskip("python_calamine", reason="python-calamine is not installed (extra spreadsheets)")

PROFILE = """
name = "mine"
description = "Workbooks."
time_zone = "America/Chicago"
[subjects.er_visits]
files = ["*.xlsx", "*.ods", "*.xls", "*.parquet", "*.csv"]
date = "arrival_time"
{more}
columns = {{ visit_id = "id", arrival_time = "arrived", triage_level = "level", chief_complaint = "note" }}
"""
HEAD = ["id", "arrived", "level", "note"]
ROWS: list[list[Any]] = [
    ["007", datetime(2026, 3, 1, 9, 30), 3, "cut, left"],
    [8, datetime(2026, 3, 1, 0, 0), "2", None],
    [9.0, "2026-03-01 23:15", 4.0, 'said "no"'],
]
WANTED = [
    ("007", "2026-03-01 09:30:00", "3", "cut, left"),
    ("8", "2026-03-01 00:00:00", "2", None),
    ("9", "2026-03-01 23:15", "4", 'said "no"'),
]


def workbook(*sheets: tuple[str, Sequence[Sequence[Any]]], **options: Any) -> bytes:
    made = openpyxl.Workbook()
    made.remove(made.active)
    for name, rows in sheets:
        sheet = made.create_sheet(name)
        for row in rows:
            sheet.append(row)
        if name.startswith("hidden"):
            sheet.sheet_state = "hidden"
    if options.get("epoch_1904"):
        from openpyxl.utils.datetime import CALENDAR_MAC_1904

        made.epoch = CALENDAR_MAC_1904
    for row in options.get("hidden_rows", ()):
        made.worksheets[0].row_dimensions[row].hidden = True
    buffer = io.BytesIO()
    made.save(buffer)
    return buffer.getvalue()


def with_part(data: bytes, name: str, content: bytes = b"x") -> bytes:
    buffer = io.BytesIO(data)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as parts:
        parts.writestr(name, content)
    return buffer.getvalue()


def zone_of(tmp_path: Path, warehouse: Warehouse, more: str = "", **files: bytes) -> LandingZone:
    return landing_zone_of(tmp_path, warehouse, PROFILE.format(more=more), **files)


def rows_of(zone: LandingZone) -> list[tuple[Any, ...]]:
    read = zone.read("er_visits", zone.discover()).collect("polars").to_native().sort("source_file", "source_line")
    assert read["problem"].null_count() == read.height
    return read.select("visit_id", "arrival_time", "triage_level", "chief_complaint").rows()


def states(zone: LandingZone) -> dict[str, tuple[str, str]]:
    ledger = zone.discover()
    return {
        name.partition("/")[2]: (state, why or "")
        for name, state, why in ledger.select("source_file", "state", "problem").iter_rows()
    }


def test_a_workbook_lands_as_csv_would(tmp_path: Path, warehouse: Warehouse) -> None:
    """Also one that counts days from 1904, and one with hidden rows; not what is hidden before it."""
    sheets = ("notes", []), ("hidden", [["secret"], ["1"]]), ("visits", [HEAD, *ROWS]), ("more", [["x"]])
    options: list[dict[str, Any]] = [{}, {"epoch_1904": True}, {"hidden_rows": (3,)}]
    files = {f"v{n}_xlsx": workbook(*sheets, **more) for n, more in enumerate(options)}
    zone = zone_of(tmp_path, warehouse, **files)
    assert rows_of(zone) == WANTED * 3
    assert zone.discover()["service_dates"].to_list() == [[date(2026, 3, 1)]] * 3
    # The spool may be emptied at any time.
    for path in zone.spool.iterdir():
        path.unlink()
    assert rows_of(zone) == WANTED * 3


@pytest.mark.slow
def test_lines_are_the_rows_of_the_sheet_and_titles_are_not_read(tmp_path: Path, warehouse: Warehouse) -> None:
    title = [["Emergency visits"], [], HEAD]
    zone = zone_of(tmp_path, warehouse, "header_line = 3", v_xlsx=workbook(("a", [*title, ROWS[0], [], *ROWS[1:]])))
    read = zone.read("er_visits", zone.discover()).collect("polars").to_native()
    assert sorted(read["source_line"]) == [4, 6, 7] and sorted(rows_of(zone)) == sorted(WANTED)


def test_the_profile_names_the_sheet(tmp_path: Path, warehouse: Warehouse) -> None:
    both = workbook(("other", [["id"], ["1"]]), ("visits", [HEAD, *ROWS]))
    zone = zone_of(tmp_path, warehouse, 'sheet = "visits"', v_xlsx=both, w_xlsx=workbook(("other", [["id"]])))
    assert rows_of(zone) == WANTED
    assert states(zone)["w.xlsx"][1] == (
        "none of its 1 sheets is called 'visits', as its profile says; deliver that sheet"
    )


def test_times_and_durations_are_written_out(tmp_path: Path) -> None:
    spec = parse_profile(PROFILE.format(more=""), "mine.toml").subjects["er_visits"]
    path = tmp_path / "v.xlsx"
    cells = [date(2026, 3, 1), time(9, 30), timedelta(hours=26, minutes=3), True, 5.25, 1e20, "00012", 2**53 - 1, None]
    path.write_bytes(workbook(("a", [list("abcdefghi"), cells])))
    assert csv_content(path, spec).text.splitlines()[1] == (
        "2026-03-01,09:30:00,26:03:00,true,5.25,1e+20,00012,9007199254740991,"
    )


ODS = """<?xml version="1.0"?><office:document-content
 xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"
 xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0"
 xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"><office:body><office:spreadsheet>
 <table:table table:name="visits">{rows}</table:table></office:spreadsheet></office:body></office:document-content>"""


@pytest.mark.slow
def test_an_open_document_lands_likewise(tmp_path: Path, warehouse: Warehouse) -> None:
    rows = "".join(
        "<table:table-row>"
        + "".join(
            f'<table:table-cell office:value-type="string"><text:p>{cell or ""}</text:p></table:table-cell>'
            for cell in row
        )
        + "</table:table-row>"
        for row in [HEAD, *WANTED]
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as parts:
        parts.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        parts.writestr("content.xml", ODS.format(rows=rows))
        parts.writestr("META-INF/manifest.xml", "<manifest/>")
    assert rows_of(zone_of(tmp_path, warehouse, v_ods=buffer.getvalue())) == WANTED


def parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


@pytest.mark.slow
def test_a_parquet_file_lands_likewise(tmp_path: Path, warehouse: Warehouse) -> None:
    at = [datetime(2026, 3, 1, 9, 30, tzinfo=UTC), None]
    frame = pl.DataFrame(
        {"id": [7, 8], "arrived": at, "level": [3.5, None], "note": ["a,b\n", ""], "day": [date(2026, 3, 1)] * 2}
    )
    zone = zone_of(
        tmp_path, warehouse, v_parquet=parquet(frame), w_parquet=parquet(frame.with_columns(note=pl.lit([[1]])))
    )
    assert [row[:3] for row in rows_of(zone)] == [("7", "2026-03-01 09:30:00.000000+00:00", "3.5"), ("8", None, None)]
    assert states(zone)["w.parquet"][1].startswith("1 of its columns hold lists, structures or bytes")


def test_a_copy_that_was_read_otherwise_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = Subject(files=("*",), columns={"visit_id": "id"})
    path = tmp_path / "v.parquet"
    path.write_bytes(parquet(pl.DataFrame({"id": [7]})))
    file = LandedFile(path, "mine/v.parquet", "f" * 64)
    (tmp_path / "spool").mkdir()
    copy = csv_records.csv_copy(file, "er_visits", spec, tmp_path / "spool")
    assert copy == csv_records.csv_copy(file, "er_visits", spec, tmp_path / "spool")
    monkeypatch.setattr(csv_records, "_READER", csv_records._READER + 1)
    assert copy != csv_records.csv_copy(file, "er_visits", spec, tmp_path / "spool")


def test_numbers_and_clocks_of_parquet_are_written_as_others_write_them(tmp_path: Path) -> None:
    """A column of whole numbers with a gap is one of floats, and one clock beyond the calendar is no clock."""
    path = tmp_path / "v.parquet"
    ends = pl.Series([2**63 - 1, -(2**63) + 1, 0], dtype=pl.Int64)
    frame = pl.DataFrame(
        {
            "id": [1234567890123456.0, None, float("nan")],
            "level": pl.Series([3.0, 2.5, 37.2], dtype=pl.Float32),
            "day": pl.Series([2**31 - 1, -(2**31), 0], dtype=pl.Int32).cast(pl.Date),
            "local": ends.cast(pl.Datetime("us")),
            "instant": ends.cast(pl.Datetime("us", "UTC")),
            "amount": pl.Series(["7.00", None, "0.10"]).cast(pl.Decimal(9, 2)),
        }
    )
    path.write_bytes(parquet(frame))
    assert csv_content(path, Subject(files=("*",), columns={})).text.splitlines()[1:] == [
        "1234567890123456,3,infinity,infinity,infinity,7.00",
        ",2.5,infinity,infinity,infinity,",
        ",37.2,1970-01-01,1970-01-01 00:00:00.000000,1970-01-01 00:00:00.000000+00:00,0.10",
    ]


SOUND = workbook(("visits", [HEAD, *ROWS]))
ODD: dict[str, tuple[bytes, str]] = {
    "macro": (with_part(SOUND, "xl/vbaProject.bin"), "it holds macros"),
    "link": (with_part(SOUND, "xl/externalLinks/externalLink1.xml"), "it links to other files"),
    "torn": (SOUND[: len(SOUND) // 2], "cut off or damaged"),
    "garbled": (SOUND.replace(b"PK\x05\x06", b"PK\x05\x07"), "cut off or damaged"),
    "another document": (with_part(b"", "word/document.xml"), "zip archive"),
    "no sheets": (with_part(workbook(("a", [])), "xl/x"), "empty"),
    "bomb": (with_part(SOUND, "xl/media/x.bin", bytes(3_000_000)), "unpacked, the workbook is over 2 MB"),
    "parquet torn": (parquet(pl.DataFrame({"id": ["1"]}))[:-9], "cut off or damaged"),
    "old and damaged": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(900), "cut off or damaged"),
}


def test_odd_workbooks_say_why_and_stop_no_other(tmp_path: Path, warehouse: Warehouse) -> None:
    files = {f"{kind.replace(' ', '-')}_xlsx": data for kind, (data, _) in ODD.items()}
    zone = replace(zone_of(tmp_path, warehouse, good_xlsx=SOUND, **files), limits=FileLimits(megabytes=2))
    found = states(zone)
    assert found.pop("good.xlsx")[0] == "ready" and len(found) == len(ODD)
    for kind, (_, said) in ODD.items():
        state, why = found[f"{kind.replace(' ', '-')}.xlsx"]
        assert state in ("unreadable", "empty") and said in f"{state} {why}", (kind, state, why)
    assert rows_of(zone) == WANTED


@pytest.mark.slow
def test_a_stray_cell_at_the_end_of_the_sheet_ends_its_reader_only(tmp_path: Path, warehouse: Warehouse) -> None:
    made = openpyxl.Workbook()
    made.active["A1"] = "id"
    made.active["XFD1048576"] = "stray"
    buffer = io.BytesIO()
    made.save(buffer)
    zone = zone_of(tmp_path, warehouse, a_xlsx=buffer.getvalue(), b_xlsx=SOUND)
    found = states(replace(zone, limits=FileLimits(memory_megabytes=2_000)))
    assert found["a.xlsx"][0] == "unreadable" and ("died of it" in found["a.xlsx"][1] or "memory" in found["a.xlsx"][1])
    assert found["b.xlsx"][0] == "ready"


@pytest.mark.parametrize(("fault", "said"), [("PasswordError", "protected by a password"), (None, "pip install")])
def test_what_cannot_be_opened_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str | None, said: str
) -> None:
    import sys

    import python_calamine

    def refuses(_: object) -> object:
        raise getattr(python_calamine, str(fault))

    if fault is None:
        monkeypatch.setitem(sys.modules, "python_calamine", None)
    else:
        monkeypatch.setattr(
            python_calamine, "CalamineWorkbook", type("W", (), {"from_filelike": staticmethod(refuses)})
        )
    path = tmp_path / "v.xlsx"
    path.write_bytes(SOUND)
    spec = parse_profile(PROFILE.format(more=""), "mine.toml").subjects["er_visits"]
    with pytest.raises(UnreadableError, match=said):
        csv_content(path, spec)
