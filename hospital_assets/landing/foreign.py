"""Files that are no text: which kind they are, and how the source can deliver them instead.

Belongs here: the first bytes by which kinds are known. Does not: reading any of them.
"""

from __future__ import annotations

import re

_AS_CSV = "save or export it as CSV (UTF-8) and deliver that"
_UNPACK = (
    "from outside of the landing folder, `hospital import` lands the files in it, and `hospital pull` does where the "
    "profile names it in `archives`; a profile is drafted from a file in it"
)
#: What is said of an archive that stands in the landing folder itself.
ARCHIVE_HERE = f"this is an archive, and is not opened here; {_UNPACK}"
#: First bytes of a file -> its kind and the remedy.
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a zip archive", _UNPACK),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook (.xls)", _AS_CSV),
    (b"PAR1", "a Parquet file", _AS_CSV),
    (b"ORC", "an ORC file", _AS_CSV),
    (b"ARROW1", "an Arrow file", _AS_CSV),
    (b"Obj\x01", "an Avro file", "export it as JSON lines and deliver that"),
    (b"%PDF-", "a PDF document", "ask the source for the data as CSV"),
    (b"SQLite format 3", "an SQLite database", "export its tables as CSV and deliver those"),
    (b"{\\rtf", "an RTF document", _AS_CSV),
    (b"BZh", "packed with bzip2", "deliver it plain or as gzip (.gz)"),
    (b"\xfd7zXZ", "packed with xz", "deliver it plain or as gzip (.gz)"),
    (b"\x28\xb5\x2f\xfd", "packed with Zstandard", "deliver it plain or as gzip (.gz)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it and deliver the files in it"),
    (b"Rar!", "a RAR archive", "unpack it and deliver the files in it"),
    (b"$FL2", "an SPSS file", _AS_CSV),
    (b"<stata_dta>", "a Stata file", _AS_CSV),
)
_HTML = re.compile(rb"^\s*(<!doctype\s+html|<html\b|<table\b|<head\b)", re.IGNORECASE)
_XML = re.compile(rb"^\s*<\?xml\b")
#: How much of a file is looked at.
HEAD_BYTES = 4096


def foreign_kind(head: bytes) -> str | None:
    """What is wrong with a file that is of another kind, and what to do; None for what may be text of ours.

    Args:
        head: the first `HEAD_BYTES` of the file, once gzip is undone.
    """
    if head.startswith(b"PK\x03\x04") and (b"xl/" in head or b"[Content_Types].xml" in head):
        return f"this is an Excel workbook (.xlsx) or another office document, not CSV; {_AS_CSV}"
    if head[257:262] == b"ustar":
        return f"this is a tar archive, not CSV, JSON or HL7; {_UNPACK}"
    for beginning, kind, remedy in _KINDS:
        if head.startswith(beginning):
            return f"this is {kind}, not CSV, JSON or HL7; {remedy}"
    if _HTML.match(head.removeprefix(b"\xef\xbb\xbf")):
        return (
            "this is an HTML page, not CSV; it may be a login or error page instead of the export, or an export "
            f"for Excel: {_AS_CSV}"
        )
    if _XML.match(head.removeprefix(b"\xef\xbb\xbf")):
        return "this is XML, not CSV, JSON or HL7 v2 with delimiters; deliver CSV, JSON (FHIR as JSON) or ER7"
    return None
