"""Where the records of a landed text begin and end, as its reader sees them, and the text without some of them.

A record is a row of a table, a line of NDJSON, an entry of a FHIR bundle, an object of a JSON array, or what an HL7 v2
message says of one patient. Text in, text out; whose records they are is `whose`.
"""

from __future__ import annotations

import bisect
import csv
import json
import re
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property

from hospital_assets.landing.hl7v2 import ENVELOPE, FRAME_END, FRAME_START
from hospital_assets.landing.profile import Subject

_JSON = json.JSONDecoder(strict=False)
_SPACE = re.compile(r"[ \t\r\n]*")
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
#: Where a message, or a segment of the envelope around messages, begins.
_HL7_PIECE = re.compile(r"(?:(?<=[\r\n\x1c])|^)\x0b?(?=(?:MSH|FHS|BHS|BTS|FTS)\W)")
_HL7_COUNT = re.compile(r"(BTS\W)([0-9]+)")


@dataclass(frozen=True)
class Record:
    """A record.

    Attributes:
        head: of HL7 v2, the segments of its message that all its patients share.
        is_distinct: whether where it begins and ends is beyond doubt.
        is_last: whether nothing stands behind it: it may have been cut off.
    """

    start: int
    end: int
    head: str = ""
    is_distinct: bool = True
    is_last: bool = False


@dataclass(frozen=True)
class Block:
    """Records that stand together: those of an array or a message; else one.

    Attributes:
        records: in their order; none of the envelope around messages.
        is_array: whether commas stand between them.
    """

    start: int
    end: int
    records: tuple[Record, ...] = ()
    is_array: bool = False


@dataclass(frozen=True)
class Text:
    """A landed text and its records."""

    text: str
    blocks: tuple[Block, ...]

    @property
    def records(self) -> Iterator[Record]:
        """All records."""
        return (record for block in self.blocks for record in block.records)

    def of(self, record: Record) -> str:
        """The text of a record."""
        return self.text[record.start : record.end]

    def whole(self, record: Record) -> str:
        """The text of a record as if it stood alone: of one patient of a message, the message."""
        text = f"{record.head}{self.of(record)}"
        return text.strip(f"{FRAME_START}{FRAME_END}\r\n") if text.lstrip(FRAME_START).startswith("MSH") else text

    def line_of(self, place: int) -> int:
        """The physical line on which something stands."""
        return bisect.bisect_right(self._line_starts, place)

    @cached_property
    def _line_starts(self) -> list[int]:
        return [found.start() for found in _LINE.finditer(self.text)]

    def outside(self, gone: AbstractSet[Record]) -> Iterator[tuple[int, str]]:
        """What stands outside of all records, and stays when some go: where, and the text."""
        place = 0
        for block in self.blocks:
            is_cut = not block.is_array and set(block.records) <= gone
            for part in [block] if is_cut and block.records else block.records:
                yield place, self.text[place : part.start]
                place = part.end
        yield place, self.text[place:]

    def without(self, gone: AbstractSet[Record]) -> str:
        """The text without some records, every other character kept; what a batch says of their number follows."""
        parts, at, messages = [], 0, 0
        for block in self.blocks:
            kept = [record for record in block.records if record not in gone]
            if not block.records:
                count = _HL7_COUNT.match(self.text, block.start, block.end)
                if count is not None:
                    if messages:
                        parts += [self.text[at : count.start(2)], str(max(0, int(count[2]) - messages))]
                        at = count.end()
                    messages = 0
                continue
            if block.is_array:
                cuts = _of_array(block.records, gone)
            elif kept:
                cuts = [(record.start, record.end) for record in block.records if record in gone]
            else:
                cuts = [(block.start, block.end)]
                messages += 1
            for start, end in cuts:
                parts.append(self.text[at:start])
                at = end
        return "".join([*parts, self.text[at:]])


def _of_array(records: Sequence[Record], gone: AbstractSet[Record]) -> list[tuple[int, int]]:
    """What to cut out of an array: elements, each with a comma for as long as others stay."""
    if all(record in gone for record in records):
        return [(records[0].start, records[-1].end)]
    cuts, is_first = [], True
    for place, record in enumerate(records):
        if record not in gone:
            is_first = False
        elif is_first:
            cuts.append((record.start, records[place + 1].start))
        else:
            cuts.append((records[place - 1].end, record.end))
    return cuts


def taken_apart(text: str, spec: Subject, *, is_exported: bool = False) -> Text:
    """A landed text with its records.

    Args:
        spec: how its reader reads it.
        is_exported: of a table that we wrote ourselves as CSV, with every quotation mark where it belongs.
    """
    if spec.format == "hl7v2":
        blocks = list(_messages(text))
    elif spec.format == "csv":
        rows = _lines_of_fixed_width(text, spec) if spec.fixed_width else _rows(text, spec, is_exported=is_exported)
        blocks = [Block(record.start, record.end, (record,)) for record in rows]
    else:
        blocks = list(_objects(text))
    return Text(text, tuple(blocks))


def _lines(text: str, start: int = 0) -> list[tuple[int, int]]:
    """Where physical lines begin and end."""
    return [(found.start(), found.end()) for found in _LINE.finditer(text, start)]


def _lines_of_fixed_width(text: str, spec: Subject) -> Iterator[Record]:
    assert spec.fixed_width is not None  # noqa: S101  (the caller has looked)
    for start, end in _lines(text)[spec.fixed_width.first_line - 1 :]:
        if text[start:end].strip():
            yield Record(start, end, is_last=end == len(text))


def _rows(text: str, spec: Subject, *, is_exported: bool) -> Iterator[Record]:
    """Rows as the reader of CSV has them: a quotation mark means something at the beginning of a field only."""
    lines = _lines(text)[spec.names_line - 1 :]
    reader = csv.reader((_with_line_feed(text[start:end]) for start, end in lines), delimiter=spec.delimiter)
    width, first = 0, 0
    while True:
        try:
            row = next(reader, None)
            is_damaged = False
        except csv.Error:
            row, is_damaged = [""], True
        if row is None:
            return
        own = lines[first:] if is_damaged else lines[first : reader.line_num]
        if first == 0:
            width = len(row)
        elif row:
            # A mark that was never closed swallows whole rows: of those, nobody can tell whose text is whose.
            swallows = len(own) > 1 and (
                len(row) != width or any(_width(text[start:end], spec) == width > 1 for start, end in own[1:])
            )
            end = own[-1][1]
            yield Record(
                own[0][0], end, is_distinct=is_exported or not (is_damaged or swallows), is_last=end == len(text)
            )
        first = reader.line_num
        if is_damaged:
            return


def _with_line_feed(line: str) -> str:
    bare = line.rstrip("\r\n")
    return line if bare == line else f"{bare}\n"


def _width(line: str, spec: Subject) -> int:
    try:
        return len(next(csv.reader([line.rstrip("\r\n")], delimiter=spec.delimiter), []))
    except csv.Error:
        return 0


def _objects(text: str) -> Iterator[Block]:
    """Objects of an array, entries of a bundle, or lines, of which each may be a bundle, too."""
    if (found := entries_of(text)) is not None:
        yield from _array(found)
        return
    first = text.strip().split("\n", 1)[0].rstrip()
    if first.startswith(("{", "[")) and not first.endswith("}"):
        # A document over several lines would fall apart.
        yield Block(0, len(text), (Record(0, len(text), is_distinct=False),))
        return
    for start, end in _lines(text):
        line = text[start:end]
        if not line.strip():
            continue
        if (found := entries_of(line)) is not None:
            yield from _array([(start + first, start + last) for first, last in found])
        else:
            yield Block(start, end, (Record(start, end, is_last=end == len(text)),))


def _array(elements: Sequence[tuple[int, int]]) -> Iterator[Block]:
    records = tuple(Record(start, end) for start, end in elements)
    if records:
        yield Block(records[0].start, records[-1].end, records, is_array=True)


def _messages(text: str) -> Iterator[Block]:
    """HL7 v2 messages and the segments around them."""
    starts = [found.start() for found in _HL7_PIECE.finditer(text)]
    for start, end in zip([0, *starts], [*starts, len(text)], strict=True):
        kind = text[start:end].lstrip(f"\ufeff{FRAME_START} \t\r\n")[:3]
        if kind == "MSH":
            yield Block(start, end, tuple(_patients_of(text, start, end)))
        elif kind in ENVELOPE:
            yield Block(start, end)
        elif text[start:end].strip():
            yield Block(start, end, (Record(start, end, is_distinct=False),))


def _patients_of(text: str, start: int, end: int) -> Iterator[Record]:
    """What a message says of each of its patients: a PID and what follows it."""
    frame = text.find(FRAME_END, start, end)
    last = end if frame < 0 else frame
    places = [place for place, _ in _lines(text[:last], start) if re.match(r"PID\W", text[place : place + 4])]
    if len(places) < 2:
        yield Record(start, end)
        return
    head = text[start : places[0]]
    for first, behind in zip(places, [*places[1:], last], strict=True):
        yield Record(first, behind, head)


def entries_of(text: str) -> list[tuple[int, int]] | None:
    """Where the entries of a FHIR bundle, or the objects of a JSON array, begin and end.

    None where the text is neither; empty where nothing is in it.
    """
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        at = _space(text, 0)
        if text[at] == "{":
            members = dict(_members(text, at))
            kind = members.get('"resourceType"')
            if kind is None or text[kind[0] : kind[1]] != '"Bundle"' or '"entry"' not in members:
                return None
            at = members['"entry"'][0]
        found = list(_elements(text, at))
    except (ValueError, IndexError, StopIteration, RecursionError):
        return None
    return found if all(text[start] == "{" for start, _ in found) else None


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
