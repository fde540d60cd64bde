"""What was brought of which source, and until when each was asked; one file of a data directory.

It is noted after a file has landed. Does not belong here: bringing anything.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from hospital_assets.files import in_transaction, make_folder
from hospital_assets.settings import Settings
from hospital_assets.sources.remote import Entry

_SCHEMA = """
create table if not exists entries (
    source text not null, key text not null, version text not null, size integer not null,
    state text not null check (state in ('seen', 'brought', 'refused')), reason text not null default '',
    sha256 text, changed_at text not null, limits text not null default '', primary key (source, key));
create table if not exists looks (
    source text primary key, tried_at text not null, succeeded_at text, listed_all_at text, brought_at text,
    reason text not null default '');
create table if not exists spans (
    source text not null, subject text not null, since text, until text, primary key (source, subject));
create table if not exists gone (
    source text not null, subject text not null, key text not null, gone_at text not null,
    primary key (source, subject, key));
create table if not exists states (source text primary key, state text not null);
"""


@dataclass
class Pulled:
    """What one look at a source came to.

    Attributes:
        brought: files that are new in the landing folder.
        changed: files that have taken the place of an older version of theirs.
        waiting: files that may still be written: the next look brings them.
        other: files that the profile does not read.
        removed: files that went: a changed archive does not hold them any more, or the last of their rows was deleted.
        deleted: rows that were not in their database any more.
        failed: key -> why it could not be brought; it is tried again.
        refused: key -> why it never will be as it is, and within these limits.
        reason: why the source could not be looked at to the end.
        note: what else is to be known of it.
    """

    brought: int = 0
    changed: int = 0
    waiting: int = 0
    other: int = 0
    removed: int = 0
    deleted: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    note: str = ""

    @property
    def succeeded(self) -> bool:
        """Whether all that could be brought was."""
        return not self.reason and not self.failed

    @property
    def has_news(self) -> bool:
        """Whether anything is other in the landing folder than before."""
        return bool(self.brought or self.changed or self.removed)

    @property
    def what_to_do(self) -> str:
        """What failed and what to do about it, of several files the first; empty where nothing failed."""
        if self.reason or not self.failed:
            return self.reason
        (key, why), *others = self.failed.items()
        return f"{key!r}: {why}" + (f" ({len(others):,} more failed)" if others else "")


@dataclass(frozen=True)
class Look:
    """The newest look at a source.

    Attributes:
        succeeded_at: when one last brought all that it could.
        brought_at: when one last brought something.
        complete_at: all that was at the source by then is here, so far as listing it tells.
        reason: what failed and what to do; empty where nothing did.
        brought: entries that are here.
        waiting: entries that may still be written.
    """

    tried_at: datetime
    succeeded_at: datetime | None
    brought_at: datetime | None
    complete_at: datetime | None
    reason: str
    brought: int
    waiting: int
    refused: int


class Memory:
    """What was brought of which source; one file of a data directory."""

    def __init__(self, file: Path) -> None:
        make_folder(file.parent)
        self._connection = sqlite3.connect(file, timeout=30, isolation_level=None)
        self._connection.execute("pragma journal_mode = wal")
        self._connection.execute("pragma synchronous = full")
        self._connection.executescript(_SCHEMA)
        for table, column in (("looks", "complete_at text"), ("entries", "limits text not null default ''")):
            with contextlib.suppress(sqlite3.OperationalError):  # a file of this version has the column
                self._connection.execute(f"alter table {table} add column {column}")

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def known(self, source: str, seen_until: datetime | None = None) -> dict[str, tuple[str, str]]:
        """Key -> version and state; without what was first seen after a moment, and not brought since."""
        rows = self._connection.execute(
            "select key, version, state from entries where source = ? and (state != 'seen' or changed_at <= ?)",
            [source, "9999" if seen_until is None else seen_until.isoformat()],
        )
        return {key: (version, state) for key, version, state in rows}

    def note(
        self, source: str, entry: Entry, state: str, at: datetime, reason: str = "", sha256: str = "", limits: str = ""
    ) -> None:
        """An entry's version is now in a state.

        Args:
            limits: within which it was read and refused; empty where it was not read.
        """
        self._connection.execute(
            "insert or replace into entries (source, key, version, size, state, reason, sha256, changed_at, limits) "
            "values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [source, entry.key, entry.version, entry.size, state, reason, sha256, at.isoformat(), limits],
        )

    def at_once(self) -> contextlib.AbstractContextManager[None]:
        """What is noted in the block is noted together, or none of it."""
        return in_transaction(self._connection)

    def forget(self, source: str, key: str) -> None:
        """An entry is not there any more."""
        self._connection.execute("delete from entries where source = ? and key = ?", [source, key])

    def sha256(self, source: str, key: str) -> str | None:
        """What a file held when it was landed; None where it was not."""
        asked = "select sha256 from entries where source = ? and key = ? and state = 'brought'"
        row = self._connection.execute(asked, [source, key]).fetchone()
        return None if row is None else str(row[0])

    def span(self, source: str, subject: str) -> tuple[datetime, datetime | None] | None:
        """From when a query is to ask next, and until when where the look before has not ended; None: never asked."""
        asked = "select since, until from spans where source = ? and subject = ?"
        row = self._connection.execute(asked, [source, subject]).fetchone()
        if row is None:
            return None
        return datetime.fromisoformat(row[0]), None if row[1] is None else datetime.fromisoformat(row[1])

    def note_span(self, source: str, subject: str, since: datetime, until: datetime | None) -> None:
        """A look at a subject's query begins (it is repeated over the same span until it has ended), or has ended."""
        self._connection.execute(
            "insert or replace into spans values (?, ?, ?, ?)",
            [source, subject, since.isoformat(), None if until is None else until.isoformat()],
        )

    def gone(self, source: str, subject: str) -> set[str]:
        """Keys (as digests) of rows that had vanished from what a query gives."""
        asked = "select key from gone where source = ? and subject = ?"
        return {key for (key,) in self._connection.execute(asked, [source, subject])}

    def note_gone(self, source: str, subject: str, keys: Iterable[str], at: datetime) -> None:
        """Rows with these keys (as digests) have vanished from what a query gives."""
        with self.at_once():
            self._connection.executemany(
                "insert or replace into gone values (?, ?, ?, ?)",
                [(source, subject, key, at.isoformat()) for key in keys],
            )

    def forget_gone(self, source: str, subject: str, before: datetime | None = None, keys: Iterable[str] = ()) -> None:
        """Rows that had vanished before a moment, or with some keys, do not matter any more."""
        with self.at_once():
            which = "delete from gone where source = ? and subject = ?"
            if before is not None:
                self._connection.execute(f"{which} and gone_at < ?", [source, subject, before.isoformat()])
            self._connection.executemany(f"{which} and key = ?", [(source, subject, key) for key in keys])

    def state(self, source: str) -> dict[str, Any] | None:
        """How far a source's export is; None before the first."""
        row = self._connection.execute("select state from states where source = ?", [source]).fetchone()
        return None if row is None else dict(json.loads(row[0]))

    def note_state(self, source: str, state: Mapping[str, object]) -> None:
        """A source's export is so far."""
        self._connection.execute("insert or replace into states values (?, ?)", [source, json.dumps(state)])

    def begins(self, source: str) -> datetime | None:
        """A look begins: when everything was listed last. Until it has ended (`looked`), nobody knows any more.

        Who is killed may have passed a file that failed: the next look lists everything.
        """
        row = self._connection.execute("select listed_all_at from looks where source = ?", [source]).fetchone()
        if row is None or row[0] is None:
            return None
        self._connection.execute("update looks set listed_all_at = null where source = ?", [source])
        return datetime.fromisoformat(row[0])

    def refused(self, source: str) -> dict[str, tuple[str, str]]:
        """The key of each refused entry -> why, and within which limits it was read (empty: it was not)."""
        asked = "select key, reason, limits from entries where source = ? and state = 'refused' order by key"
        return {key: (reason, limits) for key, reason, limits in self._connection.execute(asked, [source])}

    def left(self, source: str) -> list[tuple[str, str, str]]:
        """Files of archives that did not land: the archive's key, the path in it, and why."""
        start = of_archive(source, "")
        asked = """
            select substr(source, ?), key, reason from entries where source >= ? and source < ? and state = 'refused'
            order by source, key
        """
        return self._connection.execute(asked, [len(start) + 1, start, f"{start[:-1]};"]).fetchall()

    def looked(
        self,
        source: str,
        pulled: Pulled,
        at: datetime,
        *,
        complete_at: datetime | None = None,
        listed_all_at: datetime | None = None,
    ) -> None:
        """A look has ended.

        Args:
            complete_at: when it began, where nothing is left to do of what it found.
            listed_all_at: when everything was listed last; without it, the next look lists everything.
        """
        self._connection.execute(
            """
            insert into looks (source, tried_at, succeeded_at, listed_all_at, brought_at, complete_at, reason)
            values (:source, :now, iif(:succeeded, :now, null), :listed_all_at, iif(:brought, :now, null),
                    :complete_at, :reason)
            on conflict (source) do update set
                tried_at = :now, reason = :reason,
                succeeded_at = coalesce(excluded.succeeded_at, succeeded_at),
                listed_all_at = excluded.listed_all_at,
                brought_at = coalesce(excluded.brought_at, brought_at),
                complete_at = coalesce(excluded.complete_at, complete_at)
            """,
            {
                "source": source,
                "now": at.isoformat(),
                "succeeded": pulled.succeeded,
                "listed_all_at": None if listed_all_at is None else listed_all_at.isoformat(),
                "complete_at": None if complete_at is None else complete_at.isoformat(),
                "brought": pulled.has_news,
                "reason": pulled.what_to_do or pulled.note,
            },
        )

    def look(self, source: str) -> Look | None:
        """The newest look at a source, and how many entries are in which state; None before the first."""
        row = self._connection.execute(
            "select tried_at, succeeded_at, brought_at, complete_at, reason from looks where source = ?", [source]
        ).fetchone()
        if row is None:
            return None
        tried, succeeded, brought, complete = (None if at is None else datetime.fromisoformat(at) for at in row[:4])
        states = dict(
            self._connection.execute("select state, count(*) from entries where source = ? group by 1", [source])
        )
        assert tried is not None  # noqa: S101  (the column is not null)
        counts = (states.get(state, 0) for state in ("brought", "seen", "refused"))
        return Look(tried, succeeded, brought, complete, row[4], *counts)


def of_archive(source: str, key: str) -> str:
    """What the files of an archive are noted under as a source of their own."""
    return f"{source}:{key}"


def memory_file(settings: Settings) -> Path:
    """Where a data directory remembers what was brought."""
    return settings.data_dir / "sources" / "pulled.sqlite"


def pull_lock(settings: Settings) -> Path:
    """The side file whose lock is held by who brings files into a data directory, or must have nobody do so."""
    return memory_file(settings).with_suffix(".lock")


@contextlib.contextmanager
def open_memory(settings: Settings) -> Iterator[Memory]:
    """What was brought of which source."""
    with contextlib.closing(Memory(memory_file(settings))) as memory:
        yield memory
