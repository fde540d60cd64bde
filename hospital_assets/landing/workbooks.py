"""Workbooks (Excel, OpenDocument) and Parquet files where a subject reads CSV: their table as CSV text.

From there on they are CSV: titles above the header, names of columns, formats of clocks are as a profile has them.
Nothing in a workbook is executed or looked up elsewhere; one that holds macros or links to other files is refused. A
crafted cell can end the process that reads it: these files are always read by the worker first.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from pathlib import Path

import polars as pl

from hospital_assets.landing.content import IN_PARTS, Content, UnreadableError, open_landed, read_content
from hospital_assets.landing.foreign import HEAD_BYTES
from hospital_assets.landing.headers import filled_to_the_right, joined_names, with_one_header
from hospital_assets.landing.profile import Subject
from hospital_assets.settings import DEFAULT_LIMITS, FileLimits

_EXTRA = "pip install 'hospital-assets[spreadsheets]', or save it as CSV (UTF-8) and deliver that"
_DAMAGED = "the workbook is cut off or damaged; deliver it again, or save it as CSV (UTF-8) and deliver that"
#: What must not be in a workbook, by the names of its parts.
_NOT_READ = {
    "vbaProject": "it holds macros, which are never run; save it without them (.xlsx)",
    "externalLinks/": "it links to other files, which are not looked at; save it with values only",
}
_BREAKS = re.compile(r"\s*[\r\n]+\s*")
#: First and last cell, each as row and column.
Range = tuple[tuple[int, int], tuple[int, int]]
#: Whole numbers up to here are exact as floating-point numbers.
_EXACT = 2**53
#: No calendar has more days before or after 1970: beyond stands what databases call infinity.
_MOST_DAYS = 95_000_000
#: Ticks of a day, by unit.
_TICKS = {"ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}


def table_kind(path: Path) -> str | None:
    """Which kind of table a file is, by its first bytes: `workbook` or `parquet`; None for text."""
    with open_landed(path) as file:
        head = file.read(8)
        if head.startswith(b"PAR1"):
            return "parquet"
        if head == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
            return "workbook"
        if head.startswith(b"PK\x03\x04"):
            try:
                names = zipfile.ZipFile(file).namelist()
            except (zipfile.BadZipFile, OSError, ValueError):
                file.seek(0)
                return "workbook" if b"xl/" in file.read(HEAD_BYTES) else None
            return "workbook" if any(n.startswith("xl/workbook.") or n == "content.xml" for n in names) else None
    return None


def csv_content(path: Path, spec: Subject, limits: FileLimits = DEFAULT_LIMITS) -> Content:
    """A file that a subject reads as CSV, as text; see `read_content`.

    Raises:
        UnreadableError: as `read_content`; or a workbook is protected, damaged, too large, holds macros or links, has
            no such sheet, or the extra that reads it is not installed.
    """
    kind = None if spec.fixed_width is not None else table_kind(path)
    if kind is None:
        content = read_content(path, spec.encoding, limits)
        return replace(content, text=with_one_header(content.text, spec)) if spec.header_rows > 1 else content
    text = io.StringIO()
    writer = csv.writer(text, delimiter=spec.delimiter, lineterminator="\n")
    for number, row in enumerate(_READERS[kind](path, spec, limits), start=1):
        if number <= spec.names_line:
            # A name that is broken into lines is one name, on one line.
            row = [_BREAKS.sub(" ", cell) for cell in row]
        # An empty row stays a line, so that lines are the rows of the sheet.
        writer.writerow(row) if any(row) else text.write("\n")
    return Content(text.getvalue(), kind, "none")


def _workbook(path: Path, spec: Subject, limits: FileLimits) -> list[list[str]]:
    try:
        import python_calamine
    except ImportError:
        raise UnreadableError(f"this is a workbook: {_EXTRA}") from None
    with open_landed(path) as file:
        data = io.BytesIO(file.read())
    if zipfile.is_zipfile(data):
        with zipfile.ZipFile(data) as parts:
            _check_parts(parts, limits)
    data.seek(0)
    try:
        workbook = python_calamine.CalamineWorkbook.from_filelike(data)
        sheets = [s.name for s in workbook.sheets_metadata if s.typ == python_calamine.SheetTypeEnum.WorkSheet]
        shown = [
            s.name
            for s in workbook.sheets_metadata
            if s.name in sheets and s.visible == python_calamine.SheetVisibleEnum.Visible
        ]
        if spec.sheet is not None and spec.sheet not in sheets:
            raise UnreadableError(
                f"none of its {len(sheets)} sheets is called '{spec.sheet}', as its profile says; deliver that sheet"
            )
        for name in [spec.sheet] if spec.sheet is not None else shown:
            sheet = workbook.get_sheet_by_name(name)
            rows = sheet.to_python(skip_empty_area=False)
            if any(map(any, rows)):
                cells = _shown(rows)
                return _with_one_header(cells, sheet.merged_cell_ranges, spec) if spec.header_rows > 1 else cells
    except python_calamine.PasswordError:
        raise UnreadableError("the workbook is protected by a password; deliver it without one") from None
    except python_calamine.CalamineError:
        raise UnreadableError(_DAMAGED) from None
    return []


def _with_one_header(rows: list[list[str]], merged: Sequence[Range] | None, spec: Subject) -> list[list[str]]:
    """Rows with the names of a header over several joined on the last of them.

    Args:
        merged: first and last cell of each range of merged cells, as (row, column) from 0.
        spec: says where the header is.
    """
    first, end = spec.header_line - 1, spec.names_line
    header = [list(row) for row in rows[first:end]]
    if len(header) < spec.header_rows:
        return rows
    is_merged = False
    for (top, left), (bottom, right) in merged or ():
        if first <= top < end and (top, left) != (bottom, right):
            is_merged = True
            for row in header[top - first : bottom - first + 1]:
                row[left : right + 1] = [header[top - first][left]] * len(row[left : right + 1])
    # Without any merged cell, names span what is empty beside them, as in CSV.
    names = joined_names(header if is_merged else filled_to_the_right(header))
    return [*rows[: end - 1], names, *rows[end:]]


def _check_parts(parts: zipfile.ZipFile, limits: FileLimits) -> None:
    """Refuse what is too large unpacked, and what is more than values."""
    names = parts.namelist()
    if len(names) != len(set(names)):
        raise UnreadableError(_DAMAGED)
    if sum(part.file_size for part in parts.infolist()) > limits.megabytes * 1_000_000:
        raise UnreadableError(f"unpacked, the workbook is over {limits.megabytes:,} MB; {IN_PARTS}")
    for mark, why in _NOT_READ.items():
        if any(mark in name for name in names):
            raise UnreadableError(why)


def _shown(rows: Sequence[Sequence[object]]) -> list[list[str]]:
    """Cells as they would be exported."""
    # Midnight comes as a date: in a column that has times it is one.
    clocks = {place for row in rows for place, cell in enumerate(row) if isinstance(cell, datetime)}
    return [
        [
            _text(datetime.combine(cell, time()) if place in clocks and type(cell) is date else cell)
            for place, cell in enumerate(row)
        ]
        for row in rows
    ]


def _text(cell: object) -> str:
    match cell:
        case bool():
            return "true" if cell else "false"
        case float() if cell.is_integer() and abs(cell) <= _EXACT:
            return f"{cell:.0f}"
        case datetime():
            return cell.isoformat(" ")
        case timedelta():
            seconds = round(cell.total_seconds())
            return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        case _:
            return str(cell)


def _parquet(path: Path, spec: Subject, limits: FileLimits) -> list[Sequence[str]]:
    try:
        with open_landed(path) as file:
            table = pl.read_parquet(io.BytesIO(file.read()), hive_partitioning=False)
    except pl.exceptions.PolarsError:
        raise UnreadableError("the Parquet file is cut off or damaged; deliver it again") from None
    nested = [name for name, kind in table.schema.items() if kind.is_nested() or kind == pl.Binary]
    if nested:
        raise UnreadableError(
            f"{len(nested)} of its columns hold lists, structures or bytes; deliver plain columns, or JSON lines"
        )
    if table.estimated_size() > limits.megabytes * 1_000_000:
        raise UnreadableError(f"unpacked, it is over {limits.megabytes:,} MB; {IN_PARTS}")
    texts = table.select(_as_text(name, kind).fill_null("").alias(name) for name, kind in table.schema.items())
    return [table.columns, *texts.rows()]


def _as_text(name: str, kind: pl.DataType) -> pl.Expr:
    """A column of a Parquet file as it would be exported; null where there is no value."""
    value = pl.col(name)
    if kind.is_float():
        # An integer column with gaps is written as one of floating-point numbers, gaps as NaN.
        is_whole = (value == value.round()) & (value.abs() <= _EXACT)
        whole = pl.when(is_whole).then(value).cast(pl.Int64, strict=False).cast(pl.String)
        return pl.when(value.is_not_nan()).then(pl.coalesce(whole, value.cast(pl.String)))
    if isinstance(kind, (pl.Date, pl.Datetime)):
        days = value.to_physical() / (_TICKS[kind.time_unit] if isinstance(kind, pl.Datetime) else 1)
        is_moment = days.abs() <= _MOST_DAYS
        moment = pl.when(is_moment).then(value).dt.to_string("iso")
        return pl.when(is_moment).then(moment).when(~is_moment).then(pl.lit("infinity"))
    return value.dt.to_string("iso") if kind.is_temporal() else value.cast(pl.String)


_READERS: dict[str, Callable[[Path, Subject, FileLimits], Sequence[Sequence[str]]]] = {
    "workbook": _workbook,
    "parquet": _parquet,
}
