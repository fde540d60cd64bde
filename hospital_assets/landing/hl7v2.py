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
from collections.abc import Iterator
from dataclasses import dataclass, field

#: Segments that open a batch or end one; they carry no records of their own.
ENVELOPE = ("FHS", "BHS", "BTS", "FTS")
#: Segments of which each becomes a record of its own; an OBR takes the OBX that follow it along.
PARTS = ("DG1", "PR1", "OBR")
#: Fields whose type is TS or DTM, and those that mean a date whatever their type.
_TIMES = frozenset({
    "MSH-7", "EVN-2", "EVN-3", "EVN-6", "PID-29", "PID-33", "PV1-44", "PV1-45", "PV2-8", "PV2-9",
    "ORC-9", "OBR-6", "OBR-7", "OBR-8", "OBR-14", "OBR-22", "OBX-14", "OBX-19", "DG1-5", "DG1-19",
    "PR1-5", "AL1-6", "TXA-4", "TXA-6", "MRG-8",
})  # fmt: skip
_DATES = frozenset({"PID-7"})
#: Fields that list a person's identifiers; the medical record number stands for the field.
_IDENTIFIERS = frozenset({"PID-3", "MRG-1"})
_RECORD_NUMBER_TYPES = ("MR", "MRN", "PI", "PT")
#: MSH-18 (table 0211) -> Python codec, where the text could not be read as UTF-8.
_CODECS = {
    "8859/1": "latin-1", "8859/2": "iso8859-2", "8859/3": "iso8859-3", "8859/4": "iso8859-4",
    "8859/5": "iso8859-5", "8859/6": "iso8859-6", "8859/7": "iso8859-7", "8859/8": "iso8859-8",
    "8859/9": "iso8859-9", "8859/15": "iso8859-15", "UNICODE": "utf-8", "UNICODE UTF-8": "utf-8",
    "UTF-8": "utf-8", "GB 18030-2000": "gb18030", "BIG-5": "big5", "ISO IR87": "iso2022_jp",
    "KS X 1001": "euc_kr",
}  # fmt: skip

#: MLLP's frame bytes, which captured traffic and the listener's files keep.
FRAME_START, FRAME_END = "\x0b", "\x1c"
_TOKEN = re.compile("[^\r\n\x0b\x1c]+|\x0b|\x1c")
_BREAK = re.compile(r"\r\n|\r|\n")
_SEGMENT_ID = re.compile(r"[A-Z][A-Z0-9]{2}")
_TIMESTAMP = re.compile(
    r"(\d{4})(\d\d)(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(\.\d{1,9})?)?)?)?([+-]\d{4})?"
)
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
    segments: list[tuple[int, str]] = field(default_factory=list)
    problem: str | None = None

    @property
    def verbatim(self) -> str:
        return "\r".join(segment for _, segment in self.segments)


def normalised(text: str, encoding: str = "utf-8") -> Iterator[str]:
    r"""The records of a landed HL7 v2 text, each as one JSON object.

    A message is a record (`@segment` is `MSH`), and so is each DG1, PR1 and OBR group in it and each
    PID group after the first (`@segment` says which): these carry the fields of the message's header
    too. Keys are `PV1-19` (first component), `PV1-3.4` (component), `PID-5.1.2` (subcomponent) and
    `PID-3[2].1` (second repetition); a repeated identifier is represented by the medical record
    number. Values are decoded; `""` (HL7's null: delete what you have) stays `""`, what is absent
    has no key. Timestamps are written as ISO 8601, `PID-7` as a date. `OBX` is a list of objects.

    Beside them stand `@line` (physical line of the segment), `@record` (the segments verbatim,
    separated by CR), `@digest` (of the event and its content, without the rest of MSH, so that a
    message sent again is known again), `@event_at` (see `occurred`) and, where something cannot be
    read, `@problem`: `no_message_header`, `delimiters_unusable`, `message_type_missing`,
    `message_cut_off` or `batch_count_wrong`.

    Args:
        text: the file's text, line ends and MLLP frame bytes as landed.
        encoding: how the text was decoded. Only `latin-1` leaves the choice to MSH-18.
    """
    for found in _messages(text):
        yield from map(_as_json, _records(found, encoding))


_as_json = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode


def _messages(text: str) -> Iterator[_Text]:
    """Messages and what stands between them, each with the line it begins on."""
    current: _Text | None = None
    messages = batches = 0
    is_framed = is_batch_file = False
    number, position = 1, 0
    for match in _TOKEN.finditer(text):
        start = match.start()
        if start > position:
            number += len(_BREAK.findall(text, position, start))
        position = match.end()
        line = match.group()
        if line == FRAME_START or line == FRAME_END:
            if current is not None:
                if is_framed and line == FRAME_START:
                    current.problem = current.problem or "message_cut_off"
                yield current
                current = None
            is_framed = line == FRAME_START
            continue
        if start == 0:
            line = line.removeprefix("\ufeff")
        kind = line[:3]
        if kind == "MSH":
            if current is not None:
                yield current
            messages += 1
            current = _Text(number, [(number, line)])
        elif kind in ENVELOPE:
            if current is not None:
                yield current
                current = None
            said = line.split(line[3:4] or "|")[1:2]
            counted = batches if kind == "FTS" else messages
            if kind in ("BTS", "FTS") and said and said[0].isdecimal() and int(said[0]) != counted:
                yield _Text(number, [(number, line)], "batch_count_wrong")
            if kind == "BHS":
                batches, messages = batches + 1, 0
            is_batch_file = kind != "FTS" and (is_batch_file or kind == "FHS")
        elif line.strip():
            if current is None:
                current = _Text(number, problem="no_message_header")
            is_segment = _SEGMENT_ID.fullmatch(kind) and not line[3:4].isalnum()
            if is_segment or current.problem:
                current.segments.append((number, line))
            else:
                # A line break inside a field: senders should escape it, many do not.
                where, before = current.segments[-1]
                current.segments[-1] = (where, f"{before}\n{line}")
    if current is not None:
        if is_framed:
            current.problem = current.problem or "message_cut_off"
        yield current
    if is_batch_file:
        # A file that says it is a batch and lacks its trailer was cut off somewhere.
        yield _Text(number + 1, [(number + 1, "")], "batch_count_wrong")


def _records(found: _Text, encoding: str) -> Iterator[dict[str, object]]:
    """A message's records."""
    header = found.segments[0][1]
    delimiters = None if found.problem else Delimiters.of(header)
    if delimiters is None:
        problem = found.problem or "delimiters_unusable"
        yield {"@line": found.line, "@record": found.verbatim, "@problem": problem}
        return
    charset = header.split(delimiters.field)[17:18]
    if encoding == "latin-1":
        codec = _codec(charset[0].split(delimiters.repetition)[0] if charset else "")
        found.segments = [(n, _redecoded(segment, codec)) for n, segment in found.segments]
        header = found.segments[0][1]
    read = _Reader.of(delimiters)
    always: dict[str, object] = {"@segment": "MSH", "@line": found.line}
    read.into(always, "MSH", header)
    if "MSH-9" not in always:
        yield {"@line": found.line, "@record": found.verbatim, "@problem": "message_type_missing"}
        return
    content = "\r".join(segment for _, segment in found.segments[1:])
    event = f"{always.get('MSH-9')}^{always.get('MSH-9.2')}\r{content}"
    always["@digest"] = hashlib.sha256(event.encode("utf-8", "replace")).hexdigest()[:12]

    whole = dict(always, **{"@record": found.verbatim})
    carried = {key: value for key, value in always.items() if key[0] != "@" or key == "@digest"}
    seen = {"MSH"}
    parts: list[dict[str, object]] = []
    group: list[str] = []
    open_part: dict[str, object] | None = None
    is_first = True

    def finish() -> Iterator[dict[str, object]]:
        whole["@event_at"] = occurred(whole)
        yield whole
        for part in parts:
            yield {**carried, "@event_at": whole["@event_at"], **part}

    for number, segment in found.segments[1:]:
        kind = segment[:3]
        if kind == "PID" and "PID" in seen:
            # Another patient: the header's MSH and EVN hold for this one, too.
            yield from finish()
            kept = {k: v for k, v in carried.items() if k[:3] in ("MSH", "EVN") or k[0] == "@"}
            carried = kept
            whole = {**kept, "@segment": "PID", "@line": number, "@record": segment}
            parts, open_part, is_first = [], None, False
            seen = {"MSH", "EVN"}
        elif not is_first:
            whole["@record"] = f"{whole['@record']}\r{segment}"
        if kind in PARTS:
            group = [segment]
            open_part = {"@segment": kind, "@line": number, "@record": segment}
            read.into(open_part, kind, segment)
            parts.append(open_part)
        elif kind in ("OBX", "NTE"):
            if open_part is None and kind == "OBX":
                # Observations of an ADT message stand outside of any order.
                group = []
                open_part = {"@segment": "OBX", "@line": number, "@record": ""}
                parts.append(open_part)
            if kind == "OBX" and open_part is not None and open_part["@segment"] in ("OBR", "OBX"):
                observation: dict[str, object] = {}
                read.into(observation, "OBX", segment)
                listed = open_part.setdefault("OBX", [])
                assert isinstance(listed, list)  # noqa: S101  (made one line above)
                listed.append(observation)
            if open_part is not None:
                group.append(segment)
                open_part["@record"] = "\r".join(group)
        elif kind not in seen:
            seen.add(kind)
            fields: dict[str, object] = {}
            read.into(fields, kind, segment)
            whole.update(fields)
            if kind in ("EVN", "PID", "MRG", "PV1", "PV2"):
                carried.update(fields)
    yield from finish()


def occurred(record: dict[str, object]) -> object:
    """When a message's event happened: EVN-6; else, of an admission or registration, PV1-44, and of
    a discharge, PV1-45; else when it was recorded (EVN-2), else when it was sent (MSH-7)."""
    event = record.get("MSH-9.2") or record.get("EVN-1")
    own = {"A01": "PV1-44", "A04": "PV1-44", "A03": "PV1-45"}.get(str(event))
    for name in ("EVN-6", own, "EVN-2", "MSH-7"):
        if name is not None and record.get(name, '""') != '""':
            return record[name]
    return None


class _Reader:
    """Takes segments apart by the delimiters of their message."""

    def __init__(self, delimiters: Delimiters) -> None:
        d = self.delimiters = delimiters
        self.is_composed = re.compile(
            "[" + re.escape(d.component + d.repetition + d.escape + d.subcomponent) + "]"
        ).search
        self.escapes = {
            "F": d.field, "S": d.component, "R": d.repetition, "E": d.escape,
            "T": d.subcomponent, "H": "", "N": "", ".br": "\n", ".sp": "\n", ".ce": "\n",
        }  # fmt: skip

    @staticmethod
    @functools.lru_cache(maxsize=64)
    def of(delimiters: Delimiters) -> _Reader:
        return _Reader(delimiters)

    def into(self, record: dict[str, object], kind: str, segment: str) -> None:
        """Add the fields of a segment to a record, under their names."""
        values = segment.split(self.delimiters.field)
        names = _names(kind)
        first = 1
        if kind in ("MSH", "FHS", "BHS"):
            record["MSH-2"] = values[1]
            values.insert(1, "")
            first = 3
        if len(values) > len(names):
            names = [*names, *(f"{kind}-{place}" for place in range(len(names), len(values)))]
        for place in range(first, len(values)):
            value = values[place]
            if not value:
                continue
            name = names[place]
            if self.is_composed(value):
                self._composed(record, name, value)
            else:
                if name in _TIMES:
                    value = iso_time(value)
                elif name in _DATES:
                    value = iso_time(value)[:10]
                record[name] = value

    def _composed(self, record: dict[str, object], name: str, value: str) -> None:
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
            if len(repetitions) > 1:
                self._components(record, f"{name}[{place + 1}]", repetition)

    def _components(self, record: dict[str, object], name: str, value: str) -> None:
        d = self.delimiters
        for place, component in enumerate(value.split(d.component), start=1):
            if not component:
                continue
            if d.subcomponent in component:
                subcomponents = [self.decoded(s) for s in component.split(d.subcomponent)]
                component = subcomponents[0]
                for number, subcomponent in enumerate(subcomponents, start=1):
                    if subcomponent:
                        record[f"{name}.{place}.{number}"] = subcomponent
                if not component:
                    continue
            else:
                component = self.decoded(component)
            if place == 1:
                if name in _TIMES:
                    component = iso_time(component)
                elif name in _DATES:
                    component = iso_time(component)[:10]
                record[name] = component
            record[f"{name}.{place}"] = component

    def decoded(self, value: str) -> str:
        r"""Text without escape sequences; what is no sequence (`\Z12\`, a lone `\`) stays as it is."""
        escape = self.delimiters.escape
        if not escape or escape not in value:
            return value
        out: list[str] = []
        rest = value
        while True:
            before, opened, rest = rest.partition(escape)
            out.append(before)
            if not opened:
                return "".join(out)
            sequence, closed, after = rest.partition(escape)
            if not closed:
                return "".join([*out, opened, rest])
            meant = self._meant(sequence)
            if meant is None:
                # Its closing character may open the next one.
                out.append(opened + sequence)
                rest = escape + after
                if not sequence or not self._opens(after):
                    out.append(escape)
                    rest = after
            else:
                out.append(meant)
                rest = after

    def _opens(self, after: str) -> bool:
        sequence, closed, _ = after.partition(self.delimiters.escape)
        return bool(closed) and self._meant(sequence) is not None

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
def iso_time(value: str) -> str:
    """An HL7 timestamp (YYYYMMDD[HH[MM[SS[.S...]]]][+/-ZZZZ]) as ISO 8601; other text as it is.

    A year or a month alone is no day, so it stays as it is, too.
    """
    match = _TIMESTAMP.fullmatch(value.strip())
    if match is None:
        return value
    year, month, day, hour, minute, second, fraction, offset = match.groups()
    if hour is None:
        return f"{year}-{month}-{day}"
    zone = f"{offset[:3]}:{offset[3:]}" if offset else ""
    return (
        f"{year}-{month}-{day}T{hour}:{minute or '00'}:{second or '00'}{(fraction or '')[:7]}{zone}"
    )


def _record_number(repetitions: list[str], component: str) -> int:
    """Which identifier is the medical record number (CX.5, table 0203); else the first."""
    types = [repetition.split(component)[4:5] for repetition in repetitions]
    for wanted in _RECORD_NUMBER_TYPES:
        for place, kind in enumerate(types):
            if kind == [wanted] and repetitions[place].split(component)[0]:
                return place
    return next((place for place, text in enumerate(repetitions) if text), 0)


def _codec(charset: str) -> str | None:
    return _CODECS.get(charset.strip().upper())


def _redecoded(text: str, codec: str | None) -> str:
    """Text of single bytes in the character set that its message declares, else UTF-8 where it fits."""
    if text.isascii():
        return text
    for attempt in (codec, "utf-8") if codec else ("utf-8",):
        try:
            return text.encode("latin-1").decode(str(attempt))
        except (UnicodeError, LookupError):
            continue
    return text
