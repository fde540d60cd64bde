"""Taking the records that match a pattern out of a landed file's text; every other byte stays.

A record is a line of CSV or NDJSON, a message of HL7 v2, an entry of a FHIR bundle, an object of a JSON array. Text
in, text out; which files and whose records is `erase`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from hospital_assets.recovery.spellings import Finder

_JSON = json.JSONDecoder(strict=False)
_SPACE = re.compile(r"[ \t\r\n]*")
#: Where a message, or a segment of the envelope around messages, begins.
_HL7_PIECE = re.compile(rb"(?:(?<=[\r\n\x1c])|^)\x0b?(?=(?:MSH|FHS|BHS|BTS|FTS)\W)")
_HL7_COUNT = re.compile(rb"^(BTS\W)([0-9]+)")


def without_records(text: bytes, pattern: Finder, *, is_csv: bool) -> tuple[bytes | None, int]:
    """A file's text without the records that match, every other byte kept, and how many those were.

    A record is a line, an HL7 message, an entry of a FHIR bundle or an object of a JSON array. None where
    the text has no such records.
    """
    first = text.lstrip(b"\xef\xbb\xbf\x0b \t\r\n")[:4]
    if first.startswith(b"<"):
        return None, 0
    if first.startswith((b"MSH", b"FHS", b"BHS")):
        return _without_messages(text, pattern)
    if not is_csv and (entries := entries_of(text)) is not None:
        return _without_elements(text, entries, pattern)
    # A document over several lines would fall apart.
    one_line = text.strip().split(b"\n", 1)[0].rstrip()
    if not is_csv and first.startswith((b"{", b"[")) and not one_line.endswith(b"}"):
        return None, 0
    kept, taken = [], 0
    for start, end in lines_of(text, is_csv):
        record = text[start:end]
        if not pattern.search(record):
            kept.append(record)
        elif (entries := None if is_csv else entries_of(record)) is not None:
            rest, number = _without_elements(record, entries, pattern)
            if rest is None:
                return None, 0
            kept.append(rest)
            taken += number
        elif _others(record, pattern):
            return None, 0
        else:
            taken += 1
    return b"".join(kept), taken


def lines_of(text: bytes, is_csv: bool) -> Iterator[tuple[int, int]]:
    """Where physical lines begin and end; of CSV those that a quoted line break splits are one."""
    start = position = quotes = 0
    for line in text.splitlines(keepends=True):
        position += len(line)
        quotes += line.count(b'"') if is_csv else 0
        if quotes % 2 == 0:
            yield start, position
            start, quotes = position, 0
    if start < position:
        yield start, position


def _without_messages(text: bytes, pattern: Finder) -> tuple[bytes | None, int]:
    """HL7 v2 without the messages that match; what a batch says of their number follows."""
    starts = [m.start() for m in _HL7_PIECE.finditer(text)]
    pieces = [text[start:end] for start, end in zip([0, *starts], [*starts, len(text)], strict=True) if end > start]
    kept, taken, taken_of_batch = [], 0, 0
    for piece in pieces:
        kind = piece.lstrip(b"\xef\xbb\xbf\x0b \t\r\n")[:3]
        if kind == b"MSH" and pattern.search(piece):
            taken, taken_of_batch = taken + 1, taken_of_batch + 1
            continue
        if kind == b"BTS" and (count := _HL7_COUNT.match(piece)):
            left = max(0, int(count[2]) - taken_of_batch)
            piece = count[1] + (b"%d" % left if taken_of_batch else count[2]) + piece[count.end() :]
            taken_of_batch = 0
        kept.append(piece)
    return b"".join(kept), taken


def _without_elements(text: bytes, elements: list[tuple[int, int]], pattern: Finder) -> tuple[bytes | None, int]:
    """A JSON text without those elements of an array that match."""
    kept = [n for n, (start, end) in enumerate(elements) if not pattern.search(text, start, end)]
    if len(kept) == len(elements):
        return None, 0
    for number, (start, end) in enumerate(elements):
        # Of the person and of somebody else: whose it is, a machine cannot tell.
        if number not in kept and _others(text[start:end], pattern):
            return None, 0
    parts = [text[: elements[0][0]]]
    for place, number in enumerate(kept):
        start, end = elements[number]
        if place:
            parts.append(text[elements[number - 1][1] : start])
        parts.append(text[start:end])
    parts.append(text[elements[-1][1] :])
    return b"".join(parts), len(elements) - len(kept)


def _others(piece: bytes, pattern: Finder) -> bool:
    """Whether a FHIR resource refers to patients that the pattern does not know, as a Group does."""
    if b'"resourceType"' not in piece:
        return False
    named = re.findall(rb'"reference"\s*:\s*"([^"]*)"', piece)
    return any(b"Patient/" in name and not pattern.search(name) for name in named)


def entries_of(text: bytes) -> list[tuple[int, int]] | None:
    """Where the entries of a FHIR bundle, or the objects of a JSON array, begin and end, in bytes.

    None where the text is neither.
    """
    if text.lstrip()[:1] not in (b"{", b"["):
        return None
    try:
        # A character for every byte, so that places are the same; what is inside text does not matter.
        decoded = text.decode("latin-1")
        at = _space(decoded, 0)
        if decoded[at] == "{":
            members = dict(_members(decoded, at))
            kind = members.get('"resourceType"')
            if kind is None or decoded[kind[0] : kind[1]] != '"Bundle"' or '"entry"' not in members:
                return None
            at = members['"entry"'][0]
        found = list(_elements(decoded, at))
    except (ValueError, IndexError, StopIteration):
        return None
    return found if found and all(decoded[start] == "{" for start, _ in found) else None


def _members(text: str, at: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """The members of a JSON object: name as written, where its value begins and ends."""
    at = _space(text, at + 1)
    while text[at] != "}":
        _, end = _JSON.raw_decode(text, at)
        name, at = text[at:end], _space(text, _space(text, end) + 1)
        _, end = _JSON.raw_decode(text, at)
        yield name, (at, end)
        at = _space(text, end)
        if text[at] == ",":
            at = _space(text, at + 1)


def _elements(text: str, at: int) -> Iterator[tuple[int, int]]:
    """Where the elements of a JSON array begin and end."""
    at = _space(text, at + 1)
    while text[at] != "]":
        _, end = _JSON.raw_decode(text, at)
        yield at, end
        at = _space(text, end)
        if text[at] == ",":
            at = _space(text, at + 1)


def _space(text: str, at: int) -> int:
    """Behind white space."""
    found = _SPACE.match(text, at)
    return found.end() if found else at
