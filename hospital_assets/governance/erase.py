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
import re
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hospital_assets.alerts.outbox import outbox_file
from hospital_assets.contracts import CONTRACTS
from hospital_assets.governance.history import kept_folder
from hospital_assets.governance.publications import published_folder
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import Warehouse
from hospital_assets.warehouse.dialect import quoted

_GZIP = b"\x1f\x8b"
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
    """

    record_numbers: tuple[str, ...]
    visit_numbers: tuple[str, ...]

    @property
    def pattern(self) -> re.Pattern[bytes]:
        """Finds any of the numbers where it is not part of a longer one."""
        numbers = sorted({*self.record_numbers, *self.visit_numbers}, key=len, reverse=True)
        any_number = b"|".join(re.escape(number.encode()) for number in numbers)
        return re.compile(rb"(?<![A-Za-z0-9])(?:" + any_number + rb")(?![A-Za-z0-9])")


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
        for path in sorted(p for p in settings.landing.rglob("*") if p.is_file()):
            data = path.read_bytes()
            is_packed = data.startswith(_GZIP)
            text = gzip.decompress(data) if is_packed else data
            if not pattern.search(text):
                continue
            kept, taken = _without(text, pattern, is_csv=".csv" in path.name.lower())
            if kept is None or pattern.search(kept):
                stubborn.append(str(path.relative_to(settings.landing)))
                continue
            temporary = path.with_name(f".{path.name}.erasing")
            temporary.write_bytes(gzip.compress(kept, mtime=0) if is_packed else kept)
            ready.append((path, temporary, taken))
        if stubborn:
            raise EraseError(
                "these files are not one record per line, so take the person out of them yourself, "
                f"then try again; nothing was changed: {', '.join(stubborn[:10])}"
            )
    except BaseException:
        for _, temporary, _ in ready:
            temporary.unlink(missing_ok=True)
        raise
    for path, temporary, _ in ready:
        temporary.replace(path)
    return [Stripped(str(p.relative_to(settings.landing)), taken) for p, _, taken in ready]


def _without(text: bytes, pattern: re.Pattern[bytes], *, is_csv: bool) -> tuple[bytes | None, int]:
    """A file's text without the records that match, and how many those were."""
    first = text.lstrip()[:4]
    if first.startswith((b"MSH", b"FHS", b"BHS", b"<", b"[")):
        return None, 0
    kept, taken = [], 0
    for record in _records(text, is_csv):
        if not pattern.search(record):
            kept.append(record)
        elif b'"Bundle"' in record:
            # A bundle holds other persons, too.
            return None, 0
        else:
            taken += 1
    # A document over several lines would fall apart.
    is_document = (
        not is_csv
        and first.startswith(b"{")
        and not text.split(b"\n", 1)[0].rstrip().endswith(b"}")
    )
    return (None, 0) if is_document else (b"".join(kept), taken)


def _records(text: bytes, is_csv: bool) -> Iterator[bytes]:
    """Physical lines; of CSV those that a quoted line break splits are one."""
    pending = b""
    for line in text.splitlines(keepends=True):
        pending += line
        if is_csv and pending.count(b'"') % 2:
            continue
        yield pending
        pending = b""
    if pending:
        yield pending


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
            name
            for (name,) in connection.execute(
                "select name from sqlite_master where type = 'table'"
            ).fetchall()
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
    numbers = [*person.record_numbers, *person.visit_numbers]
    escaped = "|".join(re.escape(number) for number in numbers)
    pattern = f"(^|[^A-Za-z0-9])({escaped})([^A-Za-z0-9]|$)"
    rows = warehouse.connection.execute(
        "select schema_name, table_name, column_name from duckdb_columns() "
        "where not internal and database_name = current_database() "
        "and (data_type in ('VARCHAR', 'JSON', 'VARIANT') or data_type like '%[]')"
    ).fetchall()
    for schema, table, column in rows:
        name = f"{quoted(schema)}.{quoted(table)}"
        ((count,),) = warehouse.connection.execute(
            f"select count(*) from {name} where regexp_matches({quoted(column)}::varchar, ?)",
            [pattern],
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
