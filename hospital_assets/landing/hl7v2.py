"""HL7 v2 messages (ER7) as JSON lines whose keys are HL7's own field names.

Belongs here: the syntax of HL7 v2 (chapter 2: delimiters, repetitions, escapes, nulls, timestamps,
character sets, batches) and nothing about which field means what to us; that is a profile's matter.
An own reader, because none was both well kept and fast enough (docs/hl7.md); the tests compare it
with python-hl7 field by field.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

#: Segments that open a batch or end one; they carry no records of their own.
ENVELOPE = ("FHS", "BHS", "BTS", "FTS")
#: Segments that a message repeats: lists in its record.
LISTS = frozenset({"DG1", "PR1", "OBR", "OBX", "AL1", "NK1", "IN1", "GT1"})
#: Fields whose type is TS or DTM, and those that mean a date whatever their type.
_TIMES = frozenset(
    {
        "MSH-7",
        "EVN-2",
        "EVN-3",
        "EVN-6",
        "PID-29",
        "PID-33",
        "PV1-44",
        "PV1-45",
        "PV2-8",
        "PV2-9",
        "ORC-9",
        "OBR-6",
        "OBR-7",
        "OBR-8",
        "OBR-14",
        "OBR-22",
        "OBX-14",
        "OBX-19",
        "DG1-5",
        "DG1-19",
        "PR1-5",
        "AL1-6",
        "TXA-4",
        "TXA-6",
        "MRG-8",
    }
)
_DATES = frozenset({"PID-7"})
#: Fields that list a person's identifiers; the medical record number stands for the field.
_IDENTIFIERS = frozenset({"PID-3", "MRG-1"})
_RECORD_NUMBER_TYPES = ("MR", "MRN", "PI", "PT")
#: MSH-18 (table 0211) -> Python codec, where the text could not be read as UTF-8.
_CODECS = {
    "8859/1": "latin-1",
    "8859/2": "iso8859-2",
    "8859/3": "iso8859-3",
    "8859/4": "iso8859-4",
    "8859/5": "iso8859-5",
    "8859/6": "iso8859-6",
    "8859/7": "iso8859-7",
    "8859/8": "iso8859-8",
    "8859/9": "iso8859-9",
    "8859/15": "iso8859-15",
    "UNICODE": "utf-8",
    "UNICODE UTF-8": "utf-8",
    "UTF-8": "utf-8",
    "GB 18030-2000": "gb18030",
    "BIG-5": "big5",
    "KS X 1001": "euc_kr",
}
#: The same for sets whose characters are bytes of ASCII behind escape sequences (ISO 2022): delimiters among them are
#: none, so that a message is read by these before it is taken apart.
_ESCAPED_CODECS = dict.fromkeys(("ISO IR13", "ISO IR14", "ISO IR87", "ISO IR159"), "iso2022_jp_ext")
_ESCAPE = "\x1b"

#: HL7's null: delete what you have.
NULL = '""'
#: MLLP's frame bytes, which captured traffic and the listener's files keep.
FRAME_START, FRAME_END = "\x0b", "\x1c"


def framed(message: bytes) -> bytes:
    """A message in MLLP's frame, as the files of listeners keep it: one that was cut off is known by it."""
    return FRAME_START.encode() + message.rstrip(b"\r\n") + b"\r" + FRAME_END.encode() + b"\r"


_FRAMED = re.compile("([\x0b\x1c])")
_SEGMENT_ID = re.compile(r"[A-Z][A-Z0-9]{2}")
_TIMESTAMP = re.compile(r"(\d{4})(\d\d)(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(\.\d{1,9})?)?)?)?([+-]\d{4})?")
_OFFSET = re.compile(r"[+-]\d\d:\d\d$")
_FIELD = re.compile(r"[A-Z][A-Z0-9]{2}-\d+(?:\[\d+\])?(?:\.\d+){0,2}")
#: What the `@` fields are made of.
_NEEDED = frozenset(
    {
        "MSH-7",
        "MSH-9",
        "MSH-9.2",
        "EVN-1",
        "EVN-2",
        "EVN-6",
        "PV1-36",
        "PV1-44",
        "PV1-45",
        "OBR-7",
        "OBX-2",
        "OBX-3",
        "OBX-3.3",
        "OBX-3.4",
        "OBX-3.6",
        "OBX-5",
        "OBX-5.1",
        "OBX-5.2",
        "OBX-5.3",
        "OBX-5.4",
        "OBX-14",
    }
)
_LOINC = re.compile(r"\d{1,7}-\d")
_HEXADECIMAL = re.compile(r"X((?:[0-9A-Fa-f]{2})+)")


@dataclass(frozen=True)
class Delimiters:
    """What MSH-1 and MSH-2 declare for a message."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"

    @staticmethod
    def of(header: str) -> Delimiters | None:
        """Those of a message header segment (MSH, FHS, BHS), or None where they cannot be used."""
        separator, declared = header[3:4], header[4:].split(header[3:4] or "|", 1)[0]
        every = separator + declared[:4]
        if len(declared) < 2 or len(set(every)) < len(every) or any(map(str.isalnum, every)):
            return None
        return Delimiters(separator, *declared[:4])


@dataclass
class _Text:
    """A message, or text that is none, as it stands in the file."""

    line: int
    segments: list[str] = field(default_factory=list)
    problem: str | None = None


_Record = dict[str, Any]


def normalised(lines: Iterable[str], encoding: str = "utf-8", wanted: frozenset[str] | None = None) -> Iterator[str]:
    r"""The messages of a landed HL7 v2 text, each as one JSON object; in bounded memory.

    Keys are `PV1-19` (first component), `PV1-3.4` (component), `PID-5.1.2` (subcomponent) and
    `PID-3[2].1` (a repetition other than the one that stands for the field: the first, or of
    identifiers the medical record number). Segments that repeat are lists under their name, as in
    `OBX`; of others the first counts, and notes (NTE) stand in the record only. Values are decoded;
    `""` (HL7's null: delete what you have) stays `""`, what is absent has no key. Timestamps are
    written as ISO 8601, `PID-7` as a date.

    In addition there are `@line` (physical line of the header), `@record` (the message verbatim, its
    segments separated by CR), `@digest` (of the event and the content, without the rest of MSH, so
    that a message sent again is known again), and what several fields say together:

    - `@event`: MSH-9.2, in old versions EVN-1.
    - `@event_at`: EVN-6, else PV1-44 of A01 and A04, PV1-45 of A03, else EVN-2, else MSH-7.
    - `@arrived_at`: PV1-44, else the event's time of A01 and A04.
    - `@discharged_at`, `@disposition`: PV1-45 (else the event's time of A03) and PV1-36; null of A13.
    - in each OBX, `@order` (which OBR it follows), `@observed_at` (OBX-14, else OBR-7, else MSH-7),
      `@code` (the LOINC code where OBX-3 has one, else OBX-3) and `@value` (OBX-5; of a structured numeric, type SN,
      comparator, number, separator and second number in one text, as in `<70` or `94-96`; `=` goes without saying).

    Each further patient of a message (PID group) is a record of its own with the same MSH and EVN, and so is each
    further MRG with what follows it, and each further record number in an MRG-1.

    What cannot be read has only `@line`, `@record` and `@problem`: `no_message_header`,
    `delimiters_unusable`, `message_type_missing`, `message_cut_off` or `batch_count_wrong`.

    Args:
        lines: the lines of the text with their ends, any of CR, LF, CRLF; MLLP frame bytes may
            stand in them.
        encoding: how the text was decoded; only `latin-1` leaves the choice to MSH-18.
        wanted: names of the fields to return, in addition to the `@` ones and those they derive from; default
            all.
    """
    readers: dict[Delimiters, _Reader] = {}
    last = 0
    for found in _messages(lines):
        for record in _records(found, encoding, wanted, readers):
            # No two records stand on one line, even where a message has more of them than lines.
            record["@line"] = last = max(record["@line"], last + 1)
            yield _as_json(record)


def named_fields(source_names: Iterable[str]) -> frozenset[str] | None:
    """The fields that source names of a profile (JSON paths) point at; None where one says no field."""
    fields = set()
    for name in source_names:
        found = _FIELD.findall(name)
        if not found and "@" not in name:
            return None
        fields.update(found)
    return frozenset(fields)


_as_json = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode


def _messages(lines: Iterable[str]) -> Iterator[_Text]:
    """Messages and what stands between them, each with the line it begins on."""
    splitter = _Splitter()
    for number, landed in enumerate(lines, start=1):
        landed = landed.rstrip("\r\n")
        has_frame = FRAME_START in landed or FRAME_END in landed
        splitter.number = number
        for line in _FRAMED.split(landed) if has_frame else (landed,):
            yield from splitter.take(line.removeprefix("\ufeff"))
    yield from splitter.end()


@dataclass
class _Splitter:
    """Takes the segments of a text one by one and gives the messages they make.

    Attributes:
        number: of the physical line that is taken.
        current: the message that is being read.
        messages: seen since the batch began.
        batches: seen since the file began.
        is_framed: within an MLLP frame.
        is_batch_file: the file began as a batch, and has not ended.
    """

    number: int = 0
    current: _Text | None = None
    messages: int = 0
    batches: int = 0
    is_framed: bool = False
    is_batch_file: bool = False

    def take(self, line: str) -> Iterator[_Text]:
        """Read a segment, a frame mark or a piece of either; gives what it completes."""
        kind = line[:3]
        if line in (FRAME_START, FRAME_END):
            yield from self._finished(is_cut_off=self.is_framed and line == FRAME_START)
            self.is_framed = line == FRAME_START
        elif kind == "MSH":
            yield from self._finished()
            self.messages += 1
            self.current = _Text(self.number, [line])
        elif kind in ENVELOPE:
            yield from self._finished()
            yield from self._envelope(kind, line)
        elif line.strip():
            self._add(kind, line)

    def end(self) -> Iterator[_Text]:
        """The remaining record at the end of the text."""
        yield from self._finished(is_cut_off=self.is_framed)
        if self.is_batch_file:
            # A file that says it is a batch and lacks its trailer was cut off somewhere.
            yield _Text(self.number + 1, [""], "batch_count_wrong")

    def _finished(self, *, is_cut_off: bool = False) -> Iterator[_Text]:
        if self.current is not None:
            if is_cut_off:
                self.current.problem = self.current.problem or "message_cut_off"
            yield self.current
            self.current = None

    def _envelope(self, kind: str, line: str) -> Iterator[_Text]:
        """A batch or file header or trailer; a trailer that counts wrongly is a problem."""
        if kind in ("BTS", "FTS"):
            stated = line.split(line[3:4] or "|")[1:2]
            counted = self.batches if kind == "FTS" else self.messages
            if stated and stated[0].isdecimal() and int(stated[0]) != counted:
                yield _Text(self.number, [line], "batch_count_wrong")
        if kind == "BHS":
            self.batches, self.messages = self.batches + 1, 0
        self.is_batch_file = kind != "FTS" and (self.is_batch_file or kind == "FHS")

    def _add(self, kind: str, line: str) -> None:
        if self.current is None:
            self.current = _Text(self.number, problem="no_message_header")
        is_segment = _SEGMENT_ID.fullmatch(kind) and not line[3:4].isalnum()
        if is_segment or self.current.problem:
            self.current.segments.append(line)
        else:
            # A line break inside a field: senders should escape it, many do not.
            self.current.segments[-1] += f"\n{line}"


def _records(
    found: _Text, encoding: str, wanted: frozenset[str] | None, readers: dict[Delimiters, _Reader]
) -> Iterator[_Record]:
    """The record of a message, or of each patient in it."""
    verbatim = "\r".join(found.segments)
    header = found.segments[0]
    delimiters = None if found.problem else Delimiters.of(header)
    if delimiters is None:
        problem = found.problem or "delimiters_unusable"
        yield {"@line": found.line, "@record": verbatim, "@problem": problem}
        return
    segments = found.segments
    if encoding == "latin-1" and not verbatim.isascii():
        segments = _redecoded(verbatim, _CODECS.get(_charsets(header, delimiters)[0])).split("\r")
    elif _ESCAPE in verbatim and verbatim.isascii():
        # The first set (often left out: ASCII) may be followed by those that are escaped to.
        escaped = next(filter(None, map(_ESCAPED_CODECS.get, _charsets(header, delimiters))), None)
        segments = _redecoded(verbatim, escaped).split("\r")
    read = readers.get(delimiters) or readers.setdefault(delimiters, _Reader(delimiters, wanted))
    common: _Record = {}
    read.offset = ""
    read.into(common, "MSH", segments[0])
    # Chapter 2: an offset in MSH-7 is the default of all times of the message.
    if offset := _OFFSET.search(_stated(common, "MSH-7") or ""):
        read.offset = offset[0]
    if "MSH-9" not in common:
        yield {"@line": found.line, "@record": verbatim, "@problem": "message_type_missing"}
        return
    event = [str(common["MSH-9"]), str(common.get("MSH-9.2"))]
    common["@digest"] = _digest([*event, *segments[1:]])

    patients: list[list[str]] = [[]]
    places = [0]
    for place, segment in enumerate(segments[1:], start=1):
        kind = segment[:3]
        if kind == "EVN":
            read.into(common, kind, segment)
        elif kind == "PID" and any(before[:3] == "PID" for before in patients[-1]):
            patients.append([segment])
            places.append(place)
        else:
            patients[-1].append(segment)
    for place, of_patient in zip(places, patients, strict=True):
        for turn, group in enumerate(_merged_one_by_one(of_patient, read.delimiters)):
            record = _of_patient(group, common, read)
            if place or turn:
                record["@digest"] = _digest([*event, *segments[1:], *group])
            record["@line"] = found.line + place
            record["@record"] = verbatim if place == 0 and turn == 0 else "\r".join([segments[0], *group])
            yield record


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\r".join(texts).encode("utf-8", "replace")).hexdigest()[:12]


def _merged_one_by_one(segments: list[str], delimiters: Delimiters) -> Iterator[list[str]]:
    """The segments of a patient once for each MRG with what follows it, and each record number in its MRG-1."""
    places = [place for place, segment in enumerate(segments) if segment[:3] == "MRG"]
    if not places:
        yield segments
    for place, end in zip(places, [*places[1:], len(segments)], strict=False):
        name, *fields = segments[place].split(delimiters.field)
        for number in _record_numbers(fields[:1], delimiters) or [""]:
            merging = delimiters.field.join([name, number, *fields[1:]])
            yield [*segments[: places[0]], merging, *segments[place + 1 : end]]


def _record_numbers(field_texts: list[str], delimiters: Delimiters) -> list[str]:
    """The repetitions of a list of identifiers that are medical record numbers, else the first."""
    repetitions = [text for whole in field_texts for text in whole.split(delimiters.repetition) if text]
    numbers = [
        text
        for text in repetitions
        if ([*text.split(delimiters.component), *[""] * 4][4] or _RECORD_NUMBER_TYPES[0]) in _RECORD_NUMBER_TYPES
    ]
    return numbers or repetitions[:1]


def _of_patient(segments: list[str], common: _Record, read: _Reader) -> _Record:
    record: _Record = dict(common)
    seen = set()
    order = 0
    ordered_at = None
    for segment in segments:
        kind = segment[:3]
        if kind == "NTE" or not read.wants(kind):
            continue
        if kind in LISTS:
            element: _Record = {}
            read.into(element, kind, segment)
            if kind == "OBR":
                order += 1
                ordered_at = _stated(element, "OBR-7")
            elif kind == "OBX":
                _observed(element, order, ordered_at or _stated(common, "MSH-7"))
            record.setdefault(kind, []).append(element)
        elif kind not in seen:
            seen.add(kind)
            read.into(record, kind, segment)
    _add_combined_fields(record)
    return record


# What several fields say together ------------------------------------------------------------------


def _add_combined_fields(record: _Record) -> None:
    """Add the `@` fields of a message (see `normalised`)."""
    event = record.get("MSH-9.2") or record.get("EVN-1")
    recorded = _stated(record, "EVN-2") or _stated(record, "MSH-7")
    own = {"A01": "PV1-44", "A04": "PV1-44", "A03": "PV1-45"}.get(str(event))
    occurred = _stated(record, "EVN-6") or (own and _stated(record, own)) or recorded
    arrived = _stated(record, "PV1-44") or (occurred if event in ("A01", "A04") else None)
    discharged = record.get("PV1-45") or (occurred if event == "A03" else None)
    disposition = record.get("PV1-36")
    if event == "A13":
        # Whatever the message still carries: the discharge did not happen.
        discharged = disposition = NULL
    together = {
        "@event": event,
        "@event_at": occurred,
        "@arrived_at": arrived,
        "@discharged_at": discharged,
        "@disposition": disposition,
    }
    record.update((name, value) for name, value in together.items() if value)


def _stated(record: _Record, name: str) -> str | None:
    value = record.get(name)
    return None if value is None or value == NULL else str(value)


def _observed(observation: _Record, order: int, ordered_at: str | None) -> None:
    """Add the `@` fields of an OBX."""
    observation["@order"] = order
    value = observation.get("OBX-5")
    if observation.get("OBX-2") == "SN":
        comparator = str(observation.get("OBX-5.1", ""))
        rest = (str(observation.get(f"OBX-5.{place}", "")) for place in (2, 3, 4))
        value = ("" if comparator == "=" else comparator) + "".join(rest)
    if value:
        observation["@value"] = value
    if at := _stated(observation, "OBX-14") or ordered_at:
        observation["@observed_at"] = at
    for system, code in (("OBX-3.3", "OBX-3"), ("OBX-3.6", "OBX-3.4")):
        if str(observation.get(system)).upper() in ("LN", "LOINC") and _LOINC.fullmatch(str(observation.get(code))):
            observation["@code"] = observation[code]
            return
    if "OBX-3" in observation:
        observation["@code"] = observation["OBX-3"]


class _Reader:
    """Takes segments apart by the delimiters of their message."""

    def __init__(self, delimiters: Delimiters, wanted: frozenset[str] | None) -> None:
        d = self.delimiters = delimiters
        self.wanted = wanted and wanted | _NEEDED
        #: Of the message that is read: of times without an offset.
        self.offset = ""
        #: Segment -> places of the fields wanted of it.
        self.places: dict[str, list[int]] | None = None
        if self.wanted is not None:
            self.places = {}
            for name in sorted(self.wanted):
                place = int(re.split(r"[.\[]", name[4:])[0])
                if place not in self.places.setdefault(name[:3], []):
                    self.places[name[:3]].append(place)
        self.is_composed = re.compile(
            "[" + re.escape(d.component + d.repetition + d.escape + d.subcomponent) + "]"
        ).search
        self.escapes = {
            "F": d.field,
            "S": d.component,
            "R": d.repetition,
            "E": d.escape,
            "T": d.subcomponent,
            "H": "",
            "N": "",
            ".br": "\n",
            ".sp": "\n",
            ".ce": "\n",
        }

    def wants(self, kind: str) -> bool:
        """Whether anything is wanted of a segment."""
        return self.places is None or kind in self.places

    def into(self, record: _Record, kind: str, segment: str) -> None:
        """Add the fields of a segment to a record, under their names."""
        values = segment.split(self.delimiters.field)
        names = _names(kind)
        first = 1
        if kind == "MSH":
            values.insert(1, "")
            first = 3
        if len(values) > len(names):
            names = [*names, *(f"{kind}-{place}" for place in range(len(names), len(values)))]
        count = len(values)
        for place in range(first, count) if self.places is None else self.places.get(kind, ()):
            value = values[place] if place < count else ""
            if not value:
                continue
            name = names[place]
            if self.is_composed(value):
                self._composed(record, name, value)
            else:
                if name in _TIMES:
                    value = iso_time(value, self.offset)
                elif name in _DATES:
                    value = iso_time(value)[:10]
                record[name] = value

    def _composed(self, record: _Record, name: str, value: str) -> None:
        d = self.delimiters
        repetitions = value.split(d.repetition) if d.repetition in value else [value]
        chosen = 0
        if len(repetitions) > 1 and name in _IDENTIFIERS:
            chosen = _record_number(repetitions, d.component)
        for place, repetition in enumerate(repetitions):
            if not repetition:
                continue
            if place == chosen:
                self._components(record, name, repetition)
            else:
                self._components(record, f"{name}[{place + 1}]", repetition)

    def _components(self, record: _Record, name: str, value: str) -> None:
        d, wanted = self.delimiters, self.wanted
        for place, component in enumerate(value.split(d.component), start=1):
            if not component:
                continue
            own = f"{name}.{place}"
            if d.subcomponent in component:
                subcomponents = [self.decoded(s) for s in component.split(d.subcomponent)]
                component = subcomponents[0]
                for number, subcomponent in enumerate(subcomponents, start=1):
                    if subcomponent and (wanted is None or f"{own}.{number}" in wanted):
                        record[f"{own}.{number}"] = subcomponent
                if not component:
                    continue
            else:
                component = self.decoded(component)
            if place == 1:
                if name in _TIMES:
                    component = iso_time(component, self.offset)
                elif name in _DATES:
                    component = iso_time(component)[:10]
                if wanted is None or name in wanted:
                    record[name] = component
            if wanted is None or own in wanted:
                record[own] = component

    def decoded(self, value: str) -> str:
        r"""Text without escape sequences; what is no sequence (`\Z12\`, a lone `\`) stays as it is."""
        escape = self.delimiters.escape
        if not escape or escape not in value:
            return value
        pieces = value.split(escape)
        last = len(pieces) - 1
        out = [pieces[0]]
        place = 1
        while place <= last:
            # The piece stands behind an escape character that opens, and before one that closes.
            meant = self._meant(pieces[place]) if place < last else None
            if place == last:
                out += [escape, pieces[place]]
            elif meant is not None:
                out += [meant, pieces[place + 1]]
                place += 1
            elif pieces[place] and place + 1 < last and self._meant(pieces[place + 1]) is not None:
                # Its closing character opens the next one.
                out += [escape, pieces[place]]
            else:
                out += [escape, pieces[place], escape, pieces[place + 1]]
                place += 1
            place += 1
        return "".join(out)

    def _meant(self, sequence: str) -> str | None:
        if sequence in self.escapes:
            return self.escapes[sequence]
        if match := _HEXADECIMAL.fullmatch(sequence):
            return _text_of(bytes.fromhex(match.group(1)))
        if sequence[:3] in (".br", ".sp"):
            return "\n"
        return None


def _text_of(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


@functools.lru_cache(maxsize=512)
def _names(kind: str) -> list[str]:
    return [f"{kind}-{place}" for place in range(64)]


@functools.lru_cache(maxsize=100_000)
def iso_time(value: str, offset_by_default: str = "") -> str:
    """An HL7 timestamp (YYYYMMDD[HH[MM[SS[.S...]]]][+/-ZZZZ]) as ISO 8601; other text as it is.

    A year or a month alone is no day, so it stays as it is, too.

    Args:
        offset_by_default: the offset, as in `-05:00`, of a time that states none.
    """
    match = _TIMESTAMP.fullmatch(value.strip())
    if match is None:
        return value
    year, month, day, hour, minute, second, fraction, offset = match.groups()
    if hour is None:
        return f"{year}-{month}-{day}"
    zone = f"{offset[:3]}:{offset[3:]}" if offset else offset_by_default
    return f"{year}-{month}-{day}T{hour}:{minute or '00'}:{second or '00'}{(fraction or '')[:7]}{zone}"


def _record_number(repetitions: list[str], component: str) -> int:
    """Which identifier is the medical record number (CX.5, table 0203); else the first."""
    types = [repetition.split(component)[4:5] for repetition in repetitions]
    for wanted in _RECORD_NUMBER_TYPES:
        for place, kind in enumerate(types):
            if kind == [wanted] and repetitions[place].split(component)[0]:
                return place
    return next((place for place, text in enumerate(repetitions) if text), 0)


def _charsets(header: str, delimiters: Delimiters) -> list[str]:
    """What MSH-18 names."""
    declared = (header.split(delimiters.field)[17:18] or [""])[0]
    return [name.strip().upper() for name in declared.split(delimiters.repetition)]


def _redecoded(text: str, codec: str | None) -> str:
    """Text of single bytes in the character set that its message declares, else UTF-8 where it fits."""
    for attempt in (codec, "utf-8") if codec else ("utf-8",):
        try:
            return text.encode("latin-1").decode(str(attempt))
        except (UnicodeError, LookupError):
            continue
    return text
