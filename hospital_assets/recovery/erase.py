"""Removing a person from a data directory, and proving it.

The records are taken out of the landed files, because whatever is built comes from them; what was derived from them
(the warehouse, snapshots, publications, the lake, pages) is thrown away as files, so that nothing stays in free
blocks, and built anew. Then everything is searched for the person's numbers.

A person is every record number that merges made one, and every visit under any of them. Once records are gone,
nothing but a note knows whose they were: it is written before the first file changes, and deleted when nothing of
the person is found any more, so that an erasure that was interrupted anywhere can be run again to its end. The audit
is append-only: it keeps that somebody was erased, by a keyed hash of the number, and what was asked before.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import hmac
import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hospital_assets.access.audit import Event, audited, system_actor
from hospital_assets.alerts.outbox import outbox_file
from hospital_assets.contracts import CONTRACTS
from hospital_assets.files import read_state, replace_text
from hospital_assets.publishing.pseudonyms import SecretKey
from hospital_assets.publishing.publications import published_audiences, published_folder
from hospital_assets.recovery.records import entries_of, lines_of, without_records
from hospital_assets.recovery.snapshots import snapshots_folder
from hospital_assets.settings import EngineSettings, Settings
from hospital_assets.warehouse.database import Warehouse, open_warehouse
from hospital_assets.warehouse.dialect import quoted

_GZIP = b"\x1f\x8b"
#: Columns by which a record says whose it is.
_RECORD_COLUMNS = ("patient_id", "prior_patient_id")
_UNFINISHED = ".erasing"


class EraseError(ValueError):
    """A person cannot be erased; nothing was changed, or nothing more."""


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

    def __or__(self, other: Person) -> Person:
        """Everything that either is called."""
        return Person(
            tuple(sorted({*self.record_numbers, *other.record_numbers})),
            tuple(sorted({*self.visit_numbers, *other.visit_numbers})),
            tuple(sorted({*self.references, *other.references})),
        )

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
class Erasure:
    """An erasure that can be done: it may have been begun before, and interrupted.

    Attributes:
        person: who.
        hashed: a keyed hash of the record number it was first asked for, which stands in the audit.
        was_published: whether there was a publication, so that there is to be one again.
        was_begun: whether it was begun before.
    """

    person: Person
    hashed: str
    was_published: bool
    was_begun: bool = False


@dataclass(frozen=True)
class Erased:
    """The result of an erasure.

    Attributes:
        stripped: what was taken out of landed files, this time.
        alerts: how many rows of alerts were deleted.
        failures: what failed when everything was built anew.
        left: where the person still is.
    """

    stripped: tuple[Stripped, ...]
    alerts: int
    failures: tuple[str, ...]
    left: tuple[str, ...]

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return not (self.failures or self.left)


@dataclass(frozen=True)
class Stripped:
    """The records removed from a landed file.

    Attributes:
        file: below the landing folder.
        records: how many.
    """

    file: str
    records: int


def plan_erasure(settings: Settings, record_number: str, key: SecretKey) -> Erasure:
    """Find the person of a record number, and whether their erasure was started before; changes nothing.

    Args:
        settings: the data directory.
        record_number: any of the person's.
        key: of pseudonyms; the number is hashed under a key made of it.

    Raises:
        EraseError: nobody has the number, or nothing was ever built.
    """
    begun = next((e for e in _begun(settings) if record_number in e.person.record_numbers), None)
    if begun is None and not settings.warehouse_file.exists():
        raise EraseError(f"{settings.warehouse_file} is missing: run `hospital build` first")
    if begun is None:
        with open_warehouse(settings.warehouse_file) as warehouse:
            person = find_person(warehouse, record_number)
        hashed = hmac.new(key.derived("erased"), record_number.encode(), hashlib.sha256).hexdigest()[:16]
        begun = Erasure(person, hashed, bool(published_audiences(settings.data_dir)))
    elif settings.warehouse_file.exists():
        # More of the person may have landed since.
        with contextlib.suppress(EraseError), open_warehouse(settings.warehouse_file) as warehouse:
            begun = replace(begun, person=begun.person | find_person(warehouse, record_number))
    return replace(begun, person=with_references(settings, begun.person))


def erase_person(settings: Settings, erasure: Erasure, rebuild: Callable[[bool], Sequence[str]]) -> Erased:
    """Remove a person from everything in a data directory, and look for what is left; audited.

    What was interrupted is done from the start again, with what the person was called then.

    Args:
        settings: the data directory.
        erasure: as `plan_erasure` found it.
        rebuild: rebuilds every table, and publishes if asked to; returns what failed.

    Raises:
        EraseError: a landed file holds the person in a way that cannot be taken out; nothing was changed.
        AuditError: it cannot be audited; then nothing is changed.
    """
    person = erasure.person
    with audited(settings, Event(system_actor(), "erase", statement=f"person {erasure.hashed}")) as ending:
        note = _write_note(settings, erasure)
        try:
            stripped = strip_landing(settings, person)
        except EraseError:
            if not erasure.was_begun:
                note.unlink()
            raise
        alerts = delete_alerts(settings, person)
        delete_derived_files(settings)
        failures = tuple(rebuild(erasure.was_published))
        with open_warehouse(settings.warehouse_file) as warehouse:
            left = tuple(find_traces(warehouse, settings, person))
        erased = Erased(tuple(stripped), alerts, failures, left)
        ending.row_count = sum(file.records for file in stripped)
        ending.failure = "; ".join([*(f"left in {place}" for place in left), *["the build failed"][: len(failures)]])
        if erased.is_done:
            note.unlink()
    return erased


def _notes_folder(settings: Settings) -> Path:
    """The folder of running erasures: a file for each person, from the first change until the search finds nothing."""
    return settings.data_dir / "erasures"


def _begun(settings: Settings) -> Iterator[Erasure]:
    """Erasures that were begun and are not done."""
    for note in sorted(_notes_folder(settings).glob("*.json")):
        noted = read_state(note, "an erasure is not finished; restore the note or erase the person anew", "person")
        names = {name: tuple(listed) for name, listed in noted["person"].items()}
        yield Erasure(Person(**names), note.stem, noted["was_published"], was_begun=True)


def _write_note(settings: Settings, erasure: Erasure) -> Path:
    """Write down who is to be erased, on disk when this returns."""
    folder = _notes_folder(settings)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    note = folder / f"{erasure.hashed}.json"
    noted = {"person": asdict(erasure.person), "was_published": erasure.was_published}
    replace_text(note, json.dumps(noted), is_durable=True, mode=0o600)
    return note


def find_person(warehouse: Warehouse, record_number: str) -> Person:
    """Find the person of a record number.

    Raises:
        EraseError: nobody is.
    """
    connection = warehouse.connection
    numbers: set[str] = set()
    # A build that was interrupted has left some tables out.
    if all(warehouse.exists(CONTRACTS[name]) for name in ("dim_patient", "dim_person")):
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
    references = set(person.references)
    while True:
        known = replace(person, references=tuple(sorted(references)))
        pattern, before = known.pattern, len(references)
        for _, text in _landed(settings):
            if b'"resourceType"' not in text or not pattern.search(text):
                continue
            pieces = entries_of(text)
            for start, end in pieces or lines_of(text, is_csv=False):
                if not pattern.search(text, start, end):
                    continue
                # A line may be a bundle, too.
                inner = entries_of(text[start:end]) if not pieces else None
                for first, last in inner or [(0, end - start)]:
                    piece = text[start + first : start + last]
                    if pattern.search(piece):
                        references |= _names_of(piece)
        if len(references) == before:
            return known


def _names_of(piece: bytes) -> set[str]:
    """What other resources call a patient or an encounter."""
    with contextlib.suppress(ValueError):
        parsed = json.loads(piece)
        if isinstance(parsed, dict):
            resource = parsed.get("resource", parsed)
            kind = resource.get("resourceType") if isinstance(resource, dict) else None
            if kind in ("Patient", "Encounter"):
                named = [f"{kind}/{resource['id']}"] if resource.get("id") else []
                url = parsed.get("fullUrl")
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
    for unfinished in settings.landing.rglob(f".*{_UNFINISHED}"):
        unfinished.unlink()
    ready: list[tuple[Path, Path, int]] = []
    stubborn = []
    pattern = person.pattern
    try:
        for path, text in _landed(settings):
            if not pattern.search(text):
                continue
            kept, taken = without_records(text, pattern, is_csv=".csv" in path.name.lower())
            if kept is None or pattern.search(kept):
                stubborn.append(str(path.relative_to(settings.landing)))
                continue
            with path.open("rb") as file:
                is_packed = file.read(2) == _GZIP
            temporary = path.with_name(f".{path.name}{_UNFINISHED}")
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


def delete_derived_files(settings: Settings) -> list[str]:
    """Delete every file that was derived from landed ones; returns what was deleted."""
    gone = []
    for folder in (
        settings.warehouse_file.parent,
        snapshots_folder(settings),
        published_folder(settings.data_dir),
        settings.reports,
        Path(EngineSettings().lake_of(settings)),
        settings.streamed_vitals,
    ):
        if folder.exists():
            gone.append(folder.name)
            shutil.rmtree(folder)
    return gone


def delete_alerts(settings: Settings, person: Person) -> int:
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


def find_traces(warehouse: Warehouse, settings: Settings, person: Person) -> list[str]:
    """Where the person still is: tables and columns of the warehouse, landed and other files.

    Every text of every table is searched, and every file but the audit, the notes of erasures, and compressed copies
    of tables, which are as new as the tables.
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
        if path.suffix in (".duckdb", ".wal", ".parquet"):
            continue
        if path.relative_to(settings.data_dir).parts[0] in ("audit", _notes_folder(settings).name):
            continue
        data = path.read_bytes()
        if data.startswith(_GZIP):
            data = gzip.decompress(data)
        if searched.search(data):
            found.append(str(path.relative_to(settings.data_dir)))
    return found
