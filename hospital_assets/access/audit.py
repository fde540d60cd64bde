"""The audit: who did what, when, in which role, to which tables and columns, and whether they might.

One SQLite file, `audit/audit.db` in the data directory: several processes append to it, nobody changes
it. Each entry carries an HMAC over itself and the entry before, under a key that lies outside the data
directory, so an entry that was changed, taken out or put in shows. What a chain cannot show is that its end
was cut off; so the newest entry is also stored outside, next to the key (`anchor_file`). Whoever
can write there, too, can still rewrite history: copy that file somewhere else from time to time.

The log is about patients as soon as somebody searches for one: treat it like the records.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from hospital_assets.access.anchors import PLACES_VARIABLE, Anchor, Anchors, End, log_file_in
from hospital_assets.contracts.facts import AuditAction, AuditOutcome
from hospital_assets.files import why_not_secret, why_of_sqlite
from hospital_assets.publishing.pseudonyms import KeyMissingError, create_key, key_file, load_key
from hospital_assets.settings import Settings, SettingsError

KEY_VARIABLE = "HOSPITAL_AUDIT_KEY"
#: Longer statements are cut; their hash is of the whole.
MOST_STATEMENT_CHARACTERS = 4_000
_COLUMNS = (
    "sequence_number",
    "occurred_at",
    "actor",
    "role",
    "action",
    "audience",
    "version",
    "statement",
    "statement_sha256",
    "objects",
    "row_count",
    "duration_ms",
    "outcome",
    "reason",
    "client",
)
_SCHEMA = """
create table if not exists log (log_id text primary key);
create table if not exists entries (
    sequence_number integer primary key, occurred_at text not null, actor text not null,
    role text not null, action text not null, audience text not null, version text not null,
    statement text not null, statement_sha256 text not null, objects text not null,
    row_count integer, duration_ms real, outcome text not null, reason text not null,
    client text not null, mac text not null);
create trigger if not exists entries_are_not_changed before update on entries
begin select raise(abort, 'the audit is append-only'); end;
create trigger if not exists entries_are_not_deleted before delete on entries
begin select raise(abort, 'the audit is append-only'); end;
create index if not exists findings on entries (sequence_number) where action = 'audit' and outcome = 'failed';
"""


class AuditError(SettingsError):
    """The audit cannot be written or its key not be used; what was to be audited must not happen."""


@dataclass(frozen=True)
class Event:
    """Something to be remembered, in the shape of Snowflake's ACCESS_HISTORY.

    Attributes:
        actor: who: a user of the gateway or the dashboard, or the system's user.
        role: in which role; one at a time.
        audience: whose publication it was about.
        version: which version of it; of a key its id.
        statement: the SQL, or what was asked for.
        objects: base tables -> their columns that were read.
        reason: why it was refused or failed; never a value of a record.
    """

    actor: str
    action: AuditAction
    role: str = ""
    outcome: AuditOutcome = "allowed"
    audience: str = ""
    version: str = ""
    statement: str = ""
    objects: Mapping[str, list[str]] = field(default_factory=dict)
    row_count: int | None = None
    duration_ms: float | None = None
    reason: str = ""
    client: str = ""


#: Writes an entry, or raises: then what the entry is about must not happen. What acts takes one.
Audit = Callable[[Event], object]


@dataclass(frozen=True)
class Verification:
    """What verifying the log found.

    Attributes:
        problems: what is wrong, in words; empty when nothing is.
        head: the newest entry's MAC, to be compared with copies kept elsewhere.
    """

    entries: int
    problems: tuple[str, ...]
    head: str


class AuditLog:
    """The audit of a data directory. Safe to use from several processes and threads at once."""

    def __init__(self, settings: Settings, environment: Mapping[str, str] = os.environ) -> None:
        """Open the log; it and its key are made when absent.

        Raises:
            AuditError: the key is unusable, or the file cannot be opened.
        """
        self._key = _load_or_create_key(settings, environment)
        self._lock = threading.Lock()
        self.anchors = Anchors(
            self._key, key_file(environment).parent, settings.data_dir, environment.get(PLACES_VARIABLE, "")
        )
        self.file = log_file(settings)
        self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._connection = sqlite3.connect(self.file, timeout=30, isolation_level=None, check_same_thread=False)
            self._connection.execute("pragma journal_mode = wal")
            self._connection.execute("pragma synchronous = full")
            self._connection.executescript(_SCHEMA)
            self._connection.execute(
                "insert into log select ? where not exists (select 1 from log)", [secrets.token_hex(8)]
            )
            ((self.log_id,),) = self._connection.execute("select log_id from log").fetchall()
        except sqlite3.Error as error:
            raise AuditError(f"{self.file} cannot be used: {error}: {why_of_sqlite(error)}") from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def append(self, event: Event, occurred_at: datetime | None = None) -> int:
        """Write an entry; on disk when this returns. Returns its number."""
        at = (occurred_at or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="microseconds")
        entry = _entry_of(event, at)
        try:
            with self._lock, self.anchors.alone():
                number, anchor = self._append(entry)
                self.anchors.confirm(anchor)
        except (sqlite3.Error, OSError) as error:
            why = f": {why_of_sqlite(error)}" if isinstance(error, sqlite3.Error) else ""
            raise AuditError(f"{self.file} or its anchor cannot be written: {error}{why}") from error
        return number

    def accept(self, reason: str, actor: str) -> int:
        """Say why what was found is no attack, as in "restored from the backup of 3 March"; in the log for good."""
        return self.append(Event(actor, "audit", statement=reason))

    def _append(self, entry: dict[str, Any]) -> tuple[int, Anchor]:
        """Chain an entry to the last one, in one transaction, after one about what the anchors contradict."""
        self._connection.execute("begin immediate")
        try:
            end = self._end()
            compared = self.anchors.compare(end)
            before = end.mac_of(end.number) or ""
            number, mac, log_id = end.number, before, end.log_ids[-1]
            if compared.problems:
                log_id = secrets.token_hex(8)
                finding = Event(
                    system_actor(),
                    "audit",
                    outcome="failed",
                    version=log_id,
                    statement=" ".join(compared.others),
                    reason="; ".join(compared.problems),
                )
                number, mac = self._insert(_entry_of(finding, entry["occurred_at"]), number, mac)
            number, mac = self._insert(entry, number, mac)
            at, directory = entry["occurred_at"], str(self.file.parent.parent)
            anchor = Anchor(
                log_id, number, mac, end.number, before, compared.next_counter, at, directory, self.anchors.keys
            )
            self.anchors.announce(anchor)
            self._connection.execute("commit")
        except BaseException:
            self._connection.execute("rollback")
            raise
        return number, anchor

    def _insert(self, entry: dict[str, Any], number: int, previous: str) -> tuple[int, str]:
        """Insert an entry after another; its number and MAC."""
        entry["sequence_number"] = number + 1
        mac = self._mac(previous, entry)
        self._connection.execute(
            f"insert into entries ({', '.join(_COLUMNS)}, mac) values ({', '.join('?' for _ in (*_COLUMNS, 'mac'))})",
            [*(entry[name] for name in _COLUMNS), mac],
        )
        return number + 1, mac

    def _end(self) -> End:
        """What the log says about its own end, for the anchors."""
        ((log_id,),) = self._connection.execute("select log_id from log").fetchall()
        ((number,),) = self._connection.execute("select coalesce(max(sequence_number), 0) from entries").fetchall()
        findings = self._connection.execute(
            "select version, statement from entries where action = 'audit' and outcome = 'failed' "
            "order by sequence_number"
        ).fetchall()
        own = [str(log_id), *(version for version, _ in findings)]
        return End(own, {other for _, others in findings for other in others.split()}, int(number), self._mac_of)

    def _mac_of(self, number: int) -> str | None:
        if not number:
            ((log_id,),) = self._connection.execute("select log_id from log").fetchall()
            return str(log_id)
        found = self._connection.execute("select mac from entries where sequence_number = ?", [number]).fetchall()
        return str(found[0][0]) if found else None

    def entries(self, where: str = "true", values: tuple[Any, ...] = ()) -> pl.DataFrame:
        """Entries, oldest first, under a condition of our own code; values are bound."""
        rows = self._connection.execute(
            f"select {', '.join(_COLUMNS)} from entries where {where} order by sequence_number", values
        ).fetchall()
        schema = frame_schema() | {"occurred_at": pl.String()}
        return pl.DataFrame(rows, schema=schema, orient="row").with_columns(
            pl.col("occurred_at").str.to_datetime(time_unit="us", time_zone="UTC")
        )

    def verify(self) -> Verification:
        """Go through the chain, compare its end with the anchors, and tell what was found earlier and not accepted."""
        problems: list[str] = []
        found: list[str] = []
        end = self._end()
        previous, expected = end.log_ids[0], 1
        count = 0
        for row in self._connection.execute(f"select {', '.join(_COLUMNS)}, mac from entries order by sequence_number"):
            entry = dict(zip(_COLUMNS, row, strict=False))
            number, mac = entry["sequence_number"], row[-1]
            if number != expected:
                problems.append(f"entries {expected} to {number - 1} are missing")
            if not hmac.compare_digest(self._mac(previous, entry), mac):
                problems.append(f"entry {number} is not what was written, or not after its predecessor")
            if entry["action"] == "audit":
                is_finding = entry["outcome"] == "failed"
                found = [*found, f"found at {entry['occurred_at']}: {entry['reason']}"] if is_finding else []
            previous, expected = mac, number + 1
            count += 1
        problems += [*self.anchors.compare(end).problems, *found]
        return Verification(count, tuple(problems), previous)

    def copy_to(self, target: Path) -> Verification:
        """Copy the log while nobody appends; returns what verifying it found at that moment."""
        with self._lock, self.anchors.alone():
            found = self.verify()
            with contextlib.closing(sqlite3.connect(target)) as copy:
                self._connection.backup(copy)
        return found

    @property
    def original(self) -> str | None:
        """The data directory whose log this one is a copy of, where it still is."""
        return self.anchors.original(self._end())

    def _mac(self, previous: str, entry: Mapping[str, Any]) -> str:
        text = json.dumps([previous, *(entry[name] for name in _COLUMNS)], ensure_ascii=True)
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


def _entry_of(event: Event, at: str) -> dict[str, Any]:
    """An entry without its number."""
    values = asdict(event)
    statement = values.pop("statement")
    return {
        **values,
        "occurred_at": at,
        "statement": statement[:MOST_STATEMENT_CHARACTERS],
        "statement_sha256": hashlib.sha256(statement.encode()).hexdigest() if statement else "",
        "objects": json.dumps(values["objects"], sort_keys=True),
    }


def record(settings: Settings, event: Event) -> int:
    """Write one entry.

    Raises:
        AuditError: it could not be written; then what it is about must not happen, either.
    """
    with contextlib.closing(AuditLog(settings)) as log:
        return log.append(event)


@dataclass
class Ending:
    """How an act ended, for its second entry in the audit.

    Attributes:
        failure: why it failed although nothing was raised; never a value of a record.
    """

    row_count: int | None = None
    failure: str = ""


@contextlib.contextmanager
def audited(settings: Settings, event: Event) -> Iterator[Ending]:
    """Audit an action twice: before it is done, so that it cannot go unseen, and afterwards with outcome and duration.

    Of what is raised only the name is written down: its words may hold a value.
    """
    record(settings, event)
    ending, started = Ending(), time.perf_counter()
    try:
        yield ending
    except BaseException as error:
        ending.failure = type(error).__name__
        raise
    finally:
        outcome: AuditOutcome = "failed" if ending.failure else "allowed"
        took = (time.perf_counter() - started) * 1_000
        record(
            settings,
            replace(event, row_count=ending.row_count, duration_ms=took, outcome=outcome, reason=ending.failure),
        )


def read_entries(settings: Settings) -> pl.DataFrame:
    """All entries of a data directory, oldest first; none where nothing was ever audited."""
    if not log_file(settings).exists():
        return pl.DataFrame(schema=frame_schema())
    with contextlib.closing(AuditLog(settings)) as log:
        return log.entries()


def about(entry: Mapping[str, Any]) -> str:
    """The subject of an entry in one line: the SQL, the user added, the table restored, the publication."""
    if entry["action"] == "publish":
        # What the policy makes no more has no version, only those that were deleted.
        version = entry["version"] or ("deleted" if entry["statement"] else "")
        return f"{entry['audience']} {version}".strip()
    words = entry["statement"] or entry["audience"]
    return f"{words} {entry['version']}".strip() if entry["action"] == "key" else str(words)


def make_key(settings: Settings, actor: str) -> Path:
    """Make the pseudonym key; audited, also when it is refused. Returns its file.

    Raises:
        KeyMissingError: there is one already, or the place is inside the data directory.
    """
    event = Event(actor, "key", statement="create the pseudonym key")
    with contextlib.closing(AuditLog(settings)) as log:
        try:
            path = create_key(settings)
        except KeyMissingError as error:
            log.append(replace(event, outcome="refused", reason=str(error)))
            raise
        try:
            log.append(replace(event, version=load_key(settings).key_id))
        except AuditError:
            path.unlink()
            raise
    return path


def note_key(settings: Settings, key_id: str) -> bool:
    """Write down that another pseudonym key is in use than the last one that was; says whether it is.

    A key can also be changed by replacing its file or its variable, which no command of ours sees.
    """
    with contextlib.closing(AuditLog(settings)) as log:
        known = log.entries("action = 'key' and outcome = 'allowed'")["version"].to_list()
        if known and known[-1] == key_id:
            return False
        statement = f"the key in use changed from {known[-1]}" if known else "first use of the key"
        log.append(Event(system_actor(), "key", version=key_id, statement=statement))
    return True


def log_file(settings: Settings) -> Path:
    """Where the log is."""
    return log_file_in(settings.data_dir)


def frame_schema() -> dict[str, Any]:
    """The columns of `AuditLog.entries`."""
    return {
        **{name: pl.String() for name in _COLUMNS},
        "sequence_number": pl.Int64(),
        "row_count": pl.Int64(),
        "duration_ms": pl.Float64(),
        "occurred_at": pl.Datetime("us", "UTC"),
    }


def system_actor() -> str:
    """The system user who runs this process."""
    import getpass

    try:
        return f"os:{getpass.getuser()}"
    except (KeyError, OSError):
        return f"os:{os.getuid()}"


def derived_key(settings: Settings, purpose: str, environment: Mapping[str, str] = os.environ) -> bytes | None:
    """A key for another purpose, from which the audit's cannot be found; None where there is no audit's key.

    Raises:
        AuditError: the audit's key is unusable.
    """
    if not environment.get(KEY_VARIABLE, "").strip() and not audit_key_file(environment).exists():
        return None
    key = _load_or_create_key(settings, environment)
    return hmac.new(key, purpose.encode(), hashlib.sha256).digest()


def audit_key_file(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the audit's key is looked for when it is not in the environment."""
    return key_file(environment).with_name("audit.key")


def _load_or_create_key(settings: Settings, environment: Mapping[str, str]) -> bytes:
    text = environment.get(KEY_VARIABLE, "").strip()
    path = audit_key_file(environment)
    if not text:
        if path.resolve().is_relative_to(settings.data_dir):
            raise AuditError(f"{path} lies in the data directory, whose log it is to protect")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            # Another process may do so at the same moment: the first one's key counts, and is whole.
            temporary = path.with_name(f"{path.name}.{os.getpid()}")
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(32) + "\n")
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(temporary)
            temporary.unlink()
        if problem := why_not_secret(path):
            raise AuditError(problem)
        text = path.read_text(encoding="ascii").strip()
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) < 32:
        raise AuditError(f"the audit key must be 64 hex digits: set {KEY_VARIABLE} or see {path}")
    return value
