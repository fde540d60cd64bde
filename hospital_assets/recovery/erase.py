"""Removing a person from everything that is kept, and proving it.

The records are taken out of the landed files, because whatever is built comes from them; what was derived
from them (the warehouse, kept states, publications, copies) is thrown away as files, so that nothing stays in
free blocks, and built anew. Then everything is searched for the person's numbers.

A person is every record number that merges made one, and every visit under any of them. The audit is
append-only: it keeps that somebody was erased, by a keyed hash of the number, and what was asked before.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from hospital_assets.alerts.outbox import outbox_file
from hospital_assets.contracts import CONTRACTS
from hospital_assets.publishing.publications import published_folder
from hospital_assets.recovery.history import kept_folder
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import Warehouse
from hospital_assets.warehouse.dialect import quoted

_GZIP = b"\x1f\x8b"
_JSON = json.JSONDecoder(strict=False)
_SPACE = re.compile(r"[ \t\r\n]*")
#: Where a message, or a segment of the envelope around messages, begins.
_HL7_PIECE = re.compile(rb"(?:(?<=[\r\n\x1c])|^)\x0b?(?=(?:MSH|FHS|BHS|BTS|FTS)\W)")
_HL7_COUNT = re.compile(rb"^(BTS\W)([0-9]+)")
#: Columns by which a record says whose it is.
_RECORD_COLUMNS = ("patient_id", "prior_patient_id")
_VISIT_COLUMNS = ("visit_id", "stay_id")


class EraseError(ValueError):
    """A person cannot be erased; nothing was changed."""


@dataclass(frozen=True)
class Person:
    """Everything a person is called.

    Attributes:
        record_numbers: of the person, merged ones included.
        visit_numbers: of all visits under any of them.
        references: what FHIR resources call the person and the visits, as in `Patient/17`.
    """

    record_numbers: tuple[str, ...]
    visit_numbers: tuple[str, ...]
    references: tuple[str, ...] = ()

    @property
    def pattern(self) -> re.Pattern[bytes]:
        """Finds any of the numbers or references where it is not part of a longer one."""
        found = [(self.record_numbers + self.visit_numbers, rb"A-Za-z0-9")]
        if self.references:
            found.append((self.references, rb"A-Za-z0-9.\-"))
        return re.compile(
            b"|".join(
                rb"(?<![A-Za-z0-9])(?:"
                + b"|".join(re.escape(name.encode()) for name in sorted(names, key=len, reverse=True))
                + rb")(?!["
                + more
                + rb"])"
                for names, more in found
            )
        )


@dataclass(frozen=True)
class Stripped:
    """What was taken out of a landed file.

    Attributes:
        file: below the landing folder.
        records: how many.
    """

    file: str
    records: int


def find_person(warehouse: Warehouse, record_number: str) -> Person:
    """Who is meant by a record number.

    Raises:
        EraseError: nobody is.
    """
    connection = warehouse.connection
    numbers = {
        n
        for (n,) in connection.execute(
            "select distinct p.patient_id from dimensions.dim_patient p "
            "join dimensions.dim_person d using (patient_durable_key) where d.person_key in ("
            "select d.person_key from dimensions.dim_patient p "
            "join dimensions.dim_person d using (patient_durable_key) where p.patient_id = ?) "
            "and p.patient_key > 0",
            [record_number],
        ).fetchall()
    }
    visits: set[str] = set()
    for contract in CONTRACTS.values():
        names = set(contract.column_names)
        if contract.layer not in ("raw", "cleaned") or not warehouse.exists(contract):
            continue
        for record in set(_RECORD_COLUMNS) & names:
            if "visit_id" in names:
                visits |= {
                    v
                    for (v,) in connection.execute(
                        f"select distinct visit_id from {contract.qualified_name} "
                        f"where {record} in (select unnest(?)) and visit_id is not null",
                        [[record_number, *numbers]],
                    ).fetchall()
                }
    if not numbers and not visits:
        raise EraseError("nobody has this record number; nothing was changed")
    return Person(tuple(sorted({record_number, *numbers})), tuple(sorted(visits)))


def with_references(settings: Settings, person: Person) -> Person:
    """The person with what the landed FHIR resources call them and their visits.

    An observation names its patient by reference; it is the person's all the same.
    """
    references: set[str] = set()
    while True:
        known = replace(person, references=tuple(sorted(references)))
        pattern, before = known.pattern, len(references)
        for _, text in _landed(settings):
            if b'"resourceType"' not in text or not pattern.search(text):
                continue
            pieces = _entries(text)
            for start, end in pieces or _lines(text, is_csv=False):
                if not pattern.search(text, start, end):
                    continue
                # A line may be a bundle, too.
                inner = _entries(text[start:end]) if not pieces else None
                for first, last in inner or [(0, end - start)]:
                    piece = text[start + first : start + last]
                    if pattern.search(piece):
                        references |= _names_of(piece)
        if len(references) == before:
            return known


def _names_of(piece: bytes) -> set[str]:
    """What other resources call a patient or an encounter."""
    with contextlib.suppress(ValueError):
        said = json.loads(piece)
        if isinstance(said, dict):
            resource = said.get("resource", said)
            kind = resource.get("resourceType") if isinstance(resource, dict) else None
            if kind in ("Patient", "Encounter"):
                named = [f"{kind}/{resource['id']}"] if resource.get("id") else []
                url = said.get("fullUrl")
                return {*named, *([url] if isinstance(url, str) and url else [])}
    return set()


def _landed(settings: Settings) -> Iterator[tuple[Path, bytes]]:
    """Every landed file with its text, unpacked."""
    for path in sorted(p for p in settings.landing.rglob("*") if p.is_file()):
        data = path.read_bytes()
        yield path, gzip.decompress(data) if data.startswith(_GZIP) else data


def strip_landing(settings: Settings, person: Person) -> list[Stripped]:
    """Take the person's records out of the landed files; every other record stays as it is.

    All files are made ready before the first is replaced.

    Raises:
        EraseError: a file names the person in a way that cannot be taken out record by record.
    """
    ready: list[tuple[Path, Path, int]] = []
    stubborn = []
    pattern = person.pattern
    try:
        for path, text in _landed(settings):
            if not pattern.search(text):
                continue
            kept, taken = _without(text, pattern, is_csv=".csv" in path.name.lower())
            if kept is None or pattern.search(kept):
                stubborn.append(str(path.relative_to(settings.landing)))
                continue
            with path.open("rb") as file:
                is_packed = file.read(2) == _GZIP
            temporary = path.with_name(f".{path.name}.erasing")
            temporary.write_bytes(gzip.compress(kept, mtime=0) if is_packed else kept)
            ready.append((path, temporary, taken))
        if stubborn:
            raise EraseError(
                "these files hold the person together with others in one record, or in a form that has "
                "no records, so take the person out of them yourself, then try again; nothing was "
                f"changed: {', '.join(stubborn[:10])}"
            )
    except BaseException:
        for _, temporary, _ in ready:
            temporary.unlink(missing_ok=True)
        raise
    for path, temporary, _ in ready:
        temporary.replace(path)
    return [Stripped(str(p.relative_to(settings.landing)), taken) for p, _, taken in ready]


def _without(text: bytes, pattern: re.Pattern[bytes], *, is_csv: bool) -> tuple[bytes | None, int]:
    """A file's text without the records that match, every other byte kept, and how many those were.

    A record is a line, an HL7 message, an entry of a FHIR bundle or an object of a JSON array. None where
    the text has no such records.
    """
    first = text.lstrip(b"\xef\xbb\xbf\x0b \t\r\n")[:4]
    if first.startswith(b"<"):
        return None, 0
    if first.startswith((b"MSH", b"FHS", b"BHS")):
        return _without_messages(text, pattern)
    if not is_csv and (entries := _entries(text)) is not None:
        return _without_elements(text, entries, pattern)
    # A document over several lines would fall apart.
    one_line = text.strip().split(b"\n", 1)[0].rstrip()
    if not is_csv and first.startswith((b"{", b"[")) and not one_line.endswith(b"}"):
        return None, 0
    kept, taken = [], 0
    for start, end in _lines(text, is_csv):
        record = text[start:end]
        if not pattern.search(record):
            kept.append(record)
        elif (entries := None if is_csv else _entries(record)) is not None:
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


def _lines(text: bytes, is_csv: bool) -> Iterator[tuple[int, int]]:
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


def _without_messages(text: bytes, pattern: re.Pattern[bytes]) -> tuple[bytes | None, int]:
    """HL7 v2 without the messages that match; what a batch says of their number follows."""
    starts = [m.start() for m in _HL7_PIECE.finditer(text)]
    pieces = [text[start:end] for start, end in zip([0, *starts], [*starts, len(text)], strict=True) if end > start]
    kept, taken, taken_of_batch = [], 0, 0
    for piece in pieces:
        kind = piece.lstrip(b"\xef\xbb\xbf\x0b \t\r\n")[:3]
        if kind == b"MSH" and pattern.search(piece):
            taken, taken_of_batch = taken + 1, taken_of_batch + 1
            continue
        if kind == b"BTS" and (said := _HL7_COUNT.match(piece)):
            left = max(0, int(said[2]) - taken_of_batch)
            piece = said[1] + (b"%d" % left if taken_of_batch else said[2]) + piece[said.end() :]
            taken_of_batch = 0
        kept.append(piece)
    return b"".join(kept), taken


def _without_elements(
    text: bytes, elements: list[tuple[int, int]], pattern: re.Pattern[bytes]
) -> tuple[bytes | None, int]:
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


def _others(piece: bytes, pattern: re.Pattern[bytes]) -> bool:
    """Whether a FHIR resource refers to patients that the pattern does not know, as a Group does."""
    if b'"resourceType"' not in piece:
        return False
    named = re.findall(rb'"reference"\s*:\s*"([^"]*)"', piece)
    return any(b"Patient/" in name and not pattern.search(name) for name in named)


def _entries(text: bytes) -> list[tuple[int, int]] | None:
    """Where the entries of a FHIR bundle, or the objects of a JSON array, begin and end, in bytes.

    None where the text is neither.
    """
    if text.lstrip()[:1] not in (b"{", b"["):
        return None
    try:
        # A character for every byte, so that places are the same; what is inside text does not matter.
        said = text.decode("latin-1")
        at = _space(said, 0)
        if said[at] == "{":
            members = dict(_members(said, at))
            kind = members.get('"resourceType"')
            if kind is None or said[kind[0] : kind[1]] != '"Bundle"' or '"entry"' not in members:
                return None
            at = members['"entry"'][0]
        found = list(_elements(said, at))
    except (ValueError, IndexError, StopIteration):
        return None
    return found if found and all(said[start] == "{" for start, _ in found) else None


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


def throw_away(settings: Settings) -> list[str]:
    """Delete every file that was derived from landed ones; returns what was deleted."""
    gone = []
    for folder in (
        settings.warehouse_file.parent,
        kept_folder(settings),
        published_folder(settings.data_dir),
        settings.data_dir / "reports",
    ):
        if folder.exists():
            gone.append(folder.name)
            shutil.rmtree(folder)
    return gone


def forget_alerts(settings: Settings, person: Person) -> int:
    """Delete alerts and what they were about where they concern the person; returns how many."""
    file = outbox_file(settings)
    if not file.exists():
        return 0
    pattern = person.pattern
    with contextlib.closing(sqlite3.connect(file, timeout=30)) as connection:
        connection.execute("pragma secure_delete = on")
        deleted = 0
        tables = [
            name for (name,) in connection.execute("select name from sqlite_master where type = 'table'").fetchall()
        ]
        for table in tables:
            rows = connection.execute(f"select rowid, * from {quoted(table)}").fetchall()
            hits = [(r[0],) for r in rows if any(pattern.search(str(v).encode()) for v in r[1:])]
            connection.executemany(f"delete from {quoted(table)} where rowid = ?", hits)
            deleted += len(hits)
        connection.commit()
        connection.execute("vacuum")
        connection.execute("pragma wal_checkpoint(truncate)")
    return deleted


def prove(warehouse: Warehouse, settings: Settings, person: Person) -> list[str]:
    """Where the person still is: tables and columns of the warehouse, landed and other files.

    Every text of every table is searched, and every file but the audit and compressed copies of tables, which
    are as new as the tables.
    """
    found = []
    found_in_text = [
        "(" + "|".join(re.escape(name) for name in names) + f")([^{more}]|$)"
        for names, more in (
            ((*person.record_numbers, *person.visit_numbers), "A-Za-z0-9"),
            (person.references, "A-Za-z0-9.-"),
        )
        if names
    ]
    pattern = f"(^|[^A-Za-z0-9])({'|'.join(found_in_text)})"
    rows = warehouse.connection.execute(
        "select schema_name, table_name, column_name from duckdb_columns() "
        "where not internal and database_name = current_database() "
        "and (data_type in ('VARCHAR', 'JSON', 'VARIANT') or data_type like '%[]')"
    ).fetchall()
    for schema, table, column in rows:
        name = f"{quoted(schema)}.{quoted(table)}"
        ((count,),) = warehouse.connection.execute(
            f"select count(*) from {name} where regexp_matches({quoted(column)}::varchar, ?)", [pattern]
        ).fetchall()
        if count:
            found.append(f"{schema}.{table}.{column} ({count} rows)")
    searched = person.pattern
    for path in sorted(p for p in settings.data_dir.rglob("*") if p.is_file()):
        if path.suffix in (".duckdb", ".wal", ".parquet") or "audit" in path.parts:
            continue
        data = path.read_bytes()
        if data.startswith(_GZIP):
            data = gzip.decompress(data)
        if searched.search(data):
            found.append(str(path.relative_to(settings.data_dir)))
    return found
