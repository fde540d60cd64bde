"""Backups of a whole data directory, made while it is at work.

A backup is a header (`<moment>.json`, in the clear: which objects it is made of, stamped with a key made of the
audit's), a manifest (an object: every file's path, size, digest, times, and the rows of each database), and objects,
each content of a file once (`objects`). So what has landed, was published or snapshot is stored when it is new;
what changed is stored whole. A backup counts once its header is there, which is written last.

What must fit together is copied while this process is the one writer of the warehouse: databases of SQLite, the
audit, the warehouse with the files beside it. Files that only ever appear (landed ones, publications, snapshots) come
after it: a landed file that the copy of the warehouse does not know is one that waits, nothing else.

Belongs here: what a backup is, how it is made, and how long it is kept. Does not: reading one (`restore`); keys, which
lie outside the data directory and are in no backup (`key_copies`).
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import shutil
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import duckdb

from hospital_assets.access.audit import AuditLog, Event, audited, derived_key, log_file, record, system_actor
from hospital_assets.files import (
    StateError,
    append_text,
    emptied,
    free_bytes,
    links_below,
    locked,
    make_folder,
    read_state,
    replace_text,
)
from hospital_assets.publishing.publications import published_folder
from hospital_assets.recovery.objects import OBJECT_NAME, BackupError, ChangedError, Content, Objects, content_of, sweep
from hospital_assets.recovery.snapshots import read_whole, settled_size
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import Warehouse, open_warehouse, scratch_connection
from hospital_assets.warehouse.dialect import quoted
from hospital_assets.warehouse.loads import read_ledger_copy

_FORMAT = 1
#: Beside the backups: who was erased, and when, a line each.
_ERASED = "erased.txt"
#: And how verifying them went.
_VERIFIED = "verified.json"
#: Who looks how they stand does not wait for longer.
_LOOK_SECONDS = 3.0
#: What the key that stamps headers is for.
STAMP = "backup stamp"
_NAME = "%Y%m%dT%H%M%SZ"
#: Where copies are until they are stored, below the data directory; nobody else reads it.
STAGING = "backup-staging"
#: And who works there.
LOCK = ".backup.lock"
#: What is in no backup, because it is made again when it is needed: path below the data directory -> what it is.
LEFT_OUT: Mapping[str, str] = {
    "warehouse/spool": "copies of landed files in another form, made when they are read",
    "warehouse/spill": "what DuckDB had no memory for",
    "warehouse/java": "a wrapper around Java",
    "java": "a Java that was downloaded",
    "live_vitals": "what the Spark stream makes of landed vital signs",
    "dagster/storage": "what runs printed",
    "dagster/logs": "what Dagster's processes printed",
    "dagster/.logs_queue": "Dagster's telemetry, which is off",
    "dagster/.telemetry": "Dagster's telemetry, which is off",
    "access/audit-anchor.json": "where the audit ended, written with each entry",
    STAGING: "copies on their way into a backup",
}
#: Folders of files that others made: they are copied as they are, whatever they hold.
_AS_THEY_ARE = ("landing", "published", "snapshots", "lake", "ground_truth")
_SQLITE = b"SQLite format 3\0"
#: What SQLite and DuckDB keep beside a database; its content is in the copy.
_BESIDE = ("-wal", "-shm", "-journal", ".wal")
#: A run over months may hold the warehouse for long.
_WAIT_SECONDS = 3_600.0
#: So often publications may be switched while they are copied.
_MOST_PASSES = 10
Rows = dict[str, int]


@dataclass(frozen=True)
class Entry:
    """A file of a backup.

    Attributes:
        path: below the data directory.
        mtime_ns: when it was last modified; the ledger knows landed files by it.
    """

    path: str
    bytes: int
    sha256: str
    mtime_ns: int
    mode: int
    object: str

    @property
    def content(self) -> Content:
        """What it holds."""
        return Content(self.bytes, self.sha256)


@dataclass(frozen=True)
class Manifest:
    """What a backup holds.

    Attributes:
        folders: every folder, with its permissions.
        rows: rows of the tables of each database.
        audit_problems: what verifying the audit found when it was copied, in words.
    """

    files: tuple[Entry, ...]
    folders: tuple[tuple[str, int], ...]
    rows: dict[str, Rows]
    audit_problems: tuple[str, ...]


@dataclass(frozen=True)
class Backup:
    """A backup, as its header says.

    Attributes:
        name: the moment, as in `20260314T020000Z`.
        log_id: of the audit of the directory that it is of.
        program: the version that made it.
        manifest: the object that says what it holds.
        objects: all of its objects, the manifest's included.
        stamp: a keyed hash of the header.
    """

    name: str
    log_id: str
    program: str
    manifest: str
    objects: dict[str, Content]
    stamp: str

    @property
    def taken_at(self) -> datetime:
        """When it was begun."""
        return moment(self.name)

    @property
    def is_encrypted(self) -> bool:
        """Whether a secret key is needed to read it."""
        return self.manifest.endswith(".age")

    @property
    def size(self) -> int:
        """Bytes of all its objects, which others may share."""
        return sum(stored.bytes for stored in self.objects.values())

    def stamped(self, key: bytes) -> Backup:
        """With its stamp."""
        return replace(
            self, stamp=hmac.new(key, json.dumps(self._stated(), sort_keys=True).encode(), sha256).hexdigest()
        )

    def _stated(self) -> dict[str, Any]:
        return {**asdict(self), "format": _FORMAT, "stamp": ""}

    def text(self) -> str:
        """The header."""
        return json.dumps({**self._stated(), "stamp": self.stamp}) + "\n"


Depth = Literal["digests", "content"]
#: How a backup may be verified, from shallow to deep: as it lies there, and opened and counted.
DEPTHS: tuple[Depth, ...] = get_args(Depth)


@dataclass(frozen=True)
class Standing:
    """How the backups of a folder stand.

    Attributes:
        verified: depth -> when one of them was last verified so and found whole; None: never.
        damaged: how many were not whole when they were last verified.
    """

    count: int
    newest: Backup | None
    verified: Mapping[Depth, datetime | None]
    damaged: int


@dataclass(frozen=True)
class Made:
    """A backup that was made.

    Attributes:
        added: bytes of objects that were not in the folder before.
        held_seconds: how long nobody else could write the warehouse.
        deleted: names of those that were deleted for it.
        remarks: what is not in it although it cannot be made again, and what is wrong with it, in words.
    """

    backup: Backup
    files: int
    bytes: int
    added: int
    held_seconds: float
    deleted: tuple[str, ...]
    remarks: tuple[str, ...]


def staging_folder(settings: Settings) -> Path:
    """Where a backup keeps copies while it is made; left only by one that was killed."""
    return settings.data_dir / STAGING


def backups(folder: Path) -> list[Backup]:
    """Those in a folder, oldest first.

    Raises:
        BackupError: a header is not what was written.
    """
    return [_header(file) for file in sorted(folder.glob("*Z.json"))]


def standing(folder: Path) -> Standing:
    """How the backups of a folder stand; reads one header and what was noted of verifying them.

    Raises:
        BackupError: the newest header, or what was noted, is not what was written.
        TimeoutError: the folder does not answer; a share whose server is away hangs without end.
    """
    if not _looking.acquire(blocking=False):
        raise TimeoutError(f"{folder} has not answered since it was last looked at")
    found: list[Standing | Exception] = []

    def look() -> None:
        try:
            headers = sorted(folder.glob("*Z.json"))
            noted = _noted(folder) if headers else {}
            kept = [noted[file.stem] for file in headers if file.stem in noted]
            verified = {
                depth: max((moment(one[depth][0]) for one in kept if depth in one and one[depth][1]), default=None)
                for depth in DEPTHS
            }
            damaged = sum(map(_is_damaged, kept))
            found.append(Standing(len(headers), _header(headers[-1]) if headers else None, verified, damaged))
        except Exception as error:
            found.append(error)
        finally:
            _looking.release()

    # Nothing interrupts a look at such a share; while one hangs, there is no other.
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(_LOOK_SECONDS)
    if not found:
        raise TimeoutError(f"{folder} does not answer: is what it lies on mounted, and its server up?")
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


_looking = threading.Lock()


def note_verification(folder: Path, backup: Backup, at: datetime, depth: Depth, *, is_whole: bool) -> None:
    """Write down beside the backups that one was verified, for who looks how they stand.

    Args:
        depth: how; whose content came out whole has the right digests, too.

    Raises:
        BackupError: what was noted before is not what was written.
        OSError: the folder cannot be written.
    """
    noted = _noted(folder)
    place, when = DEPTHS.index(depth), at.astimezone(UTC).strftime(_NAME)
    # What is whole in depth is so above it; of what is not whole, nothing is known below.
    earlier = noted.get(backup.name, {})
    of_it: dict[str, tuple[str, bool]] = {
        each: earlier[each] for each in DEPTHS[place:] if is_whole and each in earlier
    }
    of_it |= dict.fromkeys(DEPTHS[:place], (when, True))
    noted[backup.name] = {**of_it, depth: (when, is_whole)}
    kept = {file.stem for file in folder.glob("*Z.json")}
    replace_text(folder / _VERIFIED, json.dumps({n: of for n, of in noted.items() if n in kept}) + "\n", mode=0o600)


def _noted(folder: Path) -> dict[str, dict[str, tuple[str, bool]]]:
    """Backup -> depth -> when it was last verified so, and whether it was whole."""
    try:
        stated = read_state(folder / _VERIFIED, "delete it, and verify the backups again")
        return {
            str(name): {depth: (moment(at).strftime(_NAME), is_whole is True) for depth, (at, is_whole) in of.items()}
            for name, of in stated.items()
        }
    except FileNotFoundError:
        return {}
    except StateError as error:
        raise BackupError(str(error)) from None
    except (ValueError, TypeError, AttributeError):
        raise BackupError(f"{folder / _VERIFIED} is not what was written there: delete it") from None


def _is_damaged(noted: Mapping[str, tuple[str, bool]]) -> bool:
    """Whether a backup was not whole when it was last verified, by what was noted of it."""
    return any(not is_whole for _, is_whole in noted.values())


def _is_doubted(folder: Path, of: Sequence[Backup]) -> bool:
    """Whether one of the backups in a folder was not whole when it was last verified, as far as can be read."""
    try:
        noted = _noted(folder)
    except BackupError:
        return True
    return any(_is_damaged(noted.get(backup.name, {})) for backup in of)


def moment(name: str) -> datetime:
    """The moment that a name is."""
    return datetime.strptime(name, _NAME).replace(tzinfo=UTC)


def backup_named(folder: Path, name: str | None) -> Backup:
    """A backup by its name; the newest where none is given.

    Raises:
        BackupError: it is not there.
    """
    found = [backup for backup in backups(folder) if name in (None, backup.name)]
    if not found:
        raise BackupError(f"there is no backup{f' {name}' if name else ''} in {folder}: `hospital backup list`")
    return found[-1]


def note_erasure(settings: Settings, person: str, at: datetime) -> None:
    """Write down beside the backups that somebody was erased: those made before still hold them.

    Args:
        settings: the data directory; nothing is done where it names no folder of backups.
        person: a keyed hash, as the audit has it.

    Raises:
        OSError: the folder cannot be written.
    """
    if settings.backup.folder:
        append_text(Path(settings.backup.folder) / _ERASED, f"{at.astimezone(UTC).strftime(_NAME)} {person}\n")


def erased_since(folder: Path, backup: Backup) -> list[str]:
    """Who was erased after a backup was begun, by the hashes of the audit; a restore of it brings them back."""
    try:
        noted = (line.split(" ") for line in (folder / _ERASED).read_text("ascii").splitlines())
        return sorted({person for at, person in noted if at >= backup.name})
    except FileNotFoundError:
        return []
    except ValueError:
        raise BackupError(f"{folder / _ERASED} is not what was written there: see who was erased lately") from None


def _header(file: Path) -> Backup:
    remedy = "take another copy of this file, or delete it to do without this backup"
    try:
        stated = read_state(file, remedy, "format", "program", "objects")
        if stated.pop("format") != _FORMAT:
            raise BackupError(f"{file} was made by another version of this program ({stated['program']}): use that one")
        objects = {str(name): Content(**stored) for name, stored in stated.pop("objects").items()}
        backup = Backup(objects=objects, **stated)
        is_ours = all(map(OBJECT_NAME.fullmatch, objects)) and backup.manifest in objects
        if backup.name != file.stem or not is_ours:
            raise StateError(f"{file} is not what was written there: {remedy}")
    except StateError as error:
        raise BackupError(str(error)) from None
    except (TypeError, AttributeError, OSError):
        raise BackupError(f"{file} is not what was written there: {remedy}") from None
    return backup


def create_backup(
    settings: Settings,
    folder: Path,
    taken_at: datetime,
    *,
    recipients: Sequence[str] = (),
    keep: int,
    say: Callable[[str], None] = lambda _: None,
) -> Made:
    """Back a data directory up, and delete the oldest backups; audited. It may be at work meanwhile.

    Args:
        folder: of its backups, and of no other directory's.
        recipients: public keys of those who can open it; none: it is not encrypted.
        keep: how many backups to keep, this one included.

    Raises:
        BackupError: the folder is not one for it, there is no room for copies, or a database is damaged.
        WarehouseError: the warehouse is damaged, or another process keeps it.
    """
    name = taken_at.astimezone(UTC).strftime(_NAME)
    _check_apart(settings, folder)
    with audited(settings, Event(system_actor(), "backup", statement=f"{name} into {folder}")) as ending:
        make_folder(folder)
        with (
            locked(folder / ".lock"),
            contextlib.closing(AuditLog(settings)) as log,
            emptied_staging(settings) as staging,
        ):
            earlier = backups(folder)
            if any(backup.log_id != log.log_id for backup in earlier):
                raise BackupError(
                    f"{folder} holds backups of another data directory, or of this one with another audit: name a new "
                    "folder; those of one folder are kept and deleted together"
                )
            if any(backup.name >= name for backup in earlier):
                raise BackupError(f"{folder} holds a backup of this second or later: is the clock right?")
            objects = Objects(
                folder, _key(settings, "backup names"), tuple(recipients), _known(earlier), _is_doubted(folder, earlier)
            )
            sweep(folder, objects.known)
            held, problems = _stage(settings, staging, log, say)
            rows = _rows_of(staging)
            files, folders = _store(settings, staging, objects)
            manifest = Manifest(tuple(files), tuple(folders), rows, problems)
            replace_text(staging / "manifest", json.dumps(asdict(manifest)))
            said = objects.put(staging / "manifest", content_of(staging / "manifest"))
            objects.flush()
            used = {said, *(entry.object for entry in files)}
            backup = Backup(
                name,
                log.log_id,
                version("hospital-assets"),
                said,
                {one: objects.known[one] for one in sorted(used)},
                "",
            ).stamped(_key(settings, STAMP))
            replace_text(folder / f"{name}.json", backup.text(), is_durable=True, mode=0o600)
            deleted = tuple(_delete_oldest(settings, folder, [*earlier, backup], keep))
        ending.row_count = len(files)
    total = sum(entry.bytes for entry in files)
    return Made(backup, len(files), total, objects.added, held, deleted, tuple(_remarks(settings, problems)))


def _check_apart(settings: Settings, folder: Path) -> None:
    here, there = settings.data_dir.resolve(), folder.resolve()
    if there.is_relative_to(here) or here.is_relative_to(there):
        raise BackupError(f"{folder} and the data directory lie in each other: name a folder on another disk")
    if not settings.data_dir.is_dir():
        raise BackupError(f"{settings.data_dir} is not there")
    if settings.restoring_note.exists():
        raise BackupError(f"a backup is being restored into {settings.data_dir}: finish that first")


def _key(settings: Settings, purpose: str) -> bytes:
    key = derived_key(settings, purpose)
    assert key is not None  # noqa: S101  (an entry of the audit has been written)
    return key


def _known(of: Sequence[Backup]) -> dict[str, Content]:
    return {name: stored for backup in of for name, stored in backup.objects.items()}


@contextlib.contextmanager
def emptied_staging(settings: Settings) -> Iterator[Path]:
    """The folder of copies, without what a killed process left there; one process at a time, and gone afterwards."""
    with locked(settings.data_dir / LOCK), emptied(staging_folder(settings), 0o700) as staging:
        yield staging


def _stage(
    settings: Settings, staging: Path, log: AuditLog, say: Callable[[str], None]
) -> tuple[float, tuple[str, ...]]:
    """Copy what must fit together, as the one writer of the warehouse.

    Returns:
        for how many seconds that was, and what verifying the audit found.
    """
    problems: tuple[str, ...] = ()
    warehouse_file, folder = settings.warehouse_file, settings.warehouse_file.parent
    with contextlib.ExitStack() as stack:
        warehouse: Warehouse | None = None
        if warehouse_file.exists():
            warehouse = stack.enter_context(open_warehouse(warehouse_file, wait_seconds=_WAIT_SECONDS, say=say))
        since = datetime.now(UTC)
        size = settled_size(warehouse) if warehouse else 0
        ours = _walk(settings, without=_AS_THEY_ARE)[0]
        databases = {below: path for below, path in ours if _is_database(path)}
        needed = size + sum(path.stat().st_size for path in databases.values() if path.exists())
        if free_bytes(settings.data_dir) < 1.1 * needed:
            raise BackupError(
                f"copies of the databases need {needed / 1e6:,.0f} MB in {settings.data_dir}, and the disk is nearly "
                "full: make room"
            )
        for below, path in databases.items():
            if path == log_file(settings):
                problems = log.copy_to(_made(staging, below)).problems
            elif path.exists():
                _copy_database(path, _made(staging, below))
        if warehouse is not None:
            for below, path in ours:
                if path.is_relative_to(folder) and path != warehouse_file:
                    with contextlib.suppress(FileNotFoundError):
                        shutil.copy2(path, _made(staging, below))
            shutil.copyfile(warehouse_file, _made(staging, warehouse_file.relative_to(settings.data_dir).as_posix()))
        held = (datetime.now(UTC) - since).total_seconds()
    return held, problems


def _made(staging: Path, below: str) -> Path:
    target = staging / below
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _is_database(path: Path) -> bool:
    """Whether a file of this program's is a SQLite database; what others landed is never opened as one."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE
    return False


def _copy_database(source: Path, target: Path) -> None:
    """Copy a database that others may be writing: all of its pages at once, or they would have it start again.

    Raises:
        BackupError: it is damaged.
    """
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=rw", uri=True, timeout=60)) as old,
            contextlib.closing(sqlite3.connect(target)) as new,
        ):
            old.backup(new)
    except sqlite3.DatabaseError as error:
        raise BackupError(f"{source} cannot be copied ({error}): it is damaged, or another program has it") from None


def _rows_of(staging: Path) -> dict[str, Rows]:
    """Rows of each table of each database that was copied; all of them were read whole."""
    found = {}
    for path in sorted(path for path in staging.rglob("*") if path.is_file()):
        below = path.relative_to(staging).as_posix()
        if (rows := rows_in(path)) is not None:
            found[below] = rows
            if path.suffix == ".duckdb":
                with contextlib.closing(scratch_connection(memory_limit="1GB")) as connection:
                    read_whole(connection, path)
    return found


def rows_in(file: Path) -> Rows | None:
    """Rows of each table of a database; None for any other file.

    Raises:
        BackupError: it is damaged.
    """
    try:
        if file.suffix == ".duckdb":
            with contextlib.closing(duckdb.connect(str(file), read_only=True)) as connection:
                tables = connection.execute(
                    "select schema_name, table_name from duckdb_tables() where not internal"
                ).fetchall()
                return {f"{s}.{t}": _count(connection, f"{quoted(s)}.{quoted(t)}") for s, t in tables}
        with file.open("rb") as opened:
            if opened.read(len(_SQLITE)) != _SQLITE:
                return None
        # Nobody writes a copy: no files are made beside it.
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?immutable=1", uri=True)) as sqlite:
            if sqlite.execute("pragma quick_check(1)").fetchall() != [("ok",)]:
                raise sqlite3.DatabaseError("a page is not what was written")
            names = sqlite.execute("select name from sqlite_master where type = 'table'").fetchall()
            return {name: _count(sqlite, quoted(name)) for (name,) in names}
    except (duckdb.Error, sqlite3.Error):
        raise BackupError(f"{file.name} is damaged: not all of it can be read") from None


def _count(connection: duckdb.DuckDBPyConnection | sqlite3.Connection, table: str) -> int:
    ((count,),) = connection.execute(f"select count(*) from {table}").fetchall()
    return int(count)


def _walk(settings: Settings, without: Sequence[str] = ()) -> tuple[list[tuple[str, Path]], list[tuple[str, int]]]:
    """Every file that belongs into a backup, by its path below the data directory, and every folder with its mode.

    Some folders may be left out. One directly below the data directory may be a link to another disk; no other link is
    followed.
    """
    files: list[tuple[str, Path]] = []
    folders: list[tuple[str, int]] = []
    for top in sorted(path for path in settings.data_dir.iterdir() if path.name not in without):
        for root, inside, names in os.walk(top) if top.is_dir() else [(str(settings.data_dir), [], [top.name])]:
            base = PurePosixPath(root).relative_to(settings.data_dir)
            if top.is_dir():
                if str(base) in LEFT_OUT or base.name.startswith(".building-"):
                    inside.clear()
                    continue
                folders.append((str(base), stat.S_IMODE(Path(root).stat().st_mode)))
            inside.sort()
            for name in sorted(names):
                below, path = str(base / name), Path(root, name)
                if below not in LEFT_OUT and _belongs(below, path):
                    files.append((below, path))
    return files, folders


def _belongs(below: str, path: Path) -> bool:
    name = path.name
    if name.startswith(".") and name.endswith(".tmp"):
        return False
    if not below.startswith("landing/") and name.endswith((".lock", *_BESIDE)):
        return False
    with contextlib.suppress(OSError):
        return stat.S_ISREG(path.lstat().st_mode)
    return False


def _store(settings: Settings, staging: Path, objects: Objects) -> tuple[list[Entry], list[tuple[str, int]]]:
    """Put everything into the folder: the copies, and all other files as they are found."""
    staged: dict[str, Entry] = {}
    for path in sorted(path for path in staging.rglob("*") if path.is_file()):
        below = path.relative_to(staging).as_posix()
        with contextlib.suppress(FileNotFoundError):
            path.chmod(stat.S_IMODE((settings.data_dir / below).stat().st_mode))
        if entry := _put(below, path, objects):
            staged[below] = entry
        path.unlink()
    warehouse = settings.warehouse_file.relative_to(settings.data_dir)
    beside = f"{warehouse.parent}/" if warehouse.as_posix() in staged else "//"
    ledger = _ledger(settings)
    seen: dict[tuple[str, int, int], Entry] = {}
    for _ in range(_MOST_PASSES):
        switches = _switches(settings)
        files, folders = _walk(settings)
        found: dict[str, Entry] = {}
        for below, path in files:
            # What was beside the warehouse when it was copied fits it; a database that is new belongs to later.
            if below in staged or below.startswith(beside):
                continue
            if below.partition("/")[0] not in _AS_THEY_ARE and _is_database(path):
                continue
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                at = below, status.st_size, status.st_mtime_ns
                entry = seen.get(at) or _put(below, path, objects, ledger.get(at))
                if entry is not None:
                    found[below] = seen[below, entry.bytes, entry.mtime_ns] = entry
        # A publication counts by the file that names it: both are there, or it is copied again.
        if switches == _switches(settings):
            return [*staged.values(), *found.values()], folders
    raise BackupError("publications are switched faster than they can be copied: back up while nobody publishes")


def _switches(settings: Settings) -> dict[str, int]:
    """Which versions of publications count."""
    found = {}
    for path in published_folder(settings.data_dir).glob("*/current.json"):
        with contextlib.suppress(FileNotFoundError):
            found[str(path)] = path.stat().st_ino
    return found


def _ledger(settings: Settings) -> dict[tuple[str, int, int], str]:
    """Digests of landed files that are in the ledger, by path, size and time: those need not be read again."""
    ledger = read_ledger_copy(settings.warehouse_file)
    return {
        (f"landing/{name}", size, modified): digest
        for name, size, modified, digest in ledger.select(
            "source_file", "file_bytes", "file_modified_ns", "file_sha256"
        ).iter_rows()
        if digest
    }


def _put(below: str, path: Path, objects: Objects, digest: str | None = None) -> Entry | None:
    """Store a file, as often as it changes meanwhile; None where it is gone."""
    for _ in range(_MOST_PASSES):
        try:
            status = path.stat()
            content = Content(status.st_size, digest) if digest else content_of(path, status.st_size)
            name = objects.put(path, content)
        except FileNotFoundError:
            return None
        except ChangedError:
            digest = None
            continue
        return Entry(below, content.bytes, content.sha256, status.st_mtime_ns, stat.S_IMODE(status.st_mode), name)
    raise BackupError("a file below the data directory changes faster than it can be copied; try again")


def _delete_oldest(settings: Settings, folder: Path, every: Sequence[Backup], keep: int) -> Iterator[str]:
    """Delete the oldest backups, and the objects that are in no other; audited each."""
    for backup in every[: max(0, len(every) - keep)]:
        record(
            settings, Event(system_actor(), "backup", statement=f"delete {backup.name} from {folder}: {keep} are kept")
        )
        (folder / f"{backup.name}.json").unlink()
        yield backup.name
    sweep(folder, _known(every[-keep:]))


def _remarks(settings: Settings, audit_problems: Sequence[str]) -> Iterator[str]:
    if os.environ.get("HOSPITAL_DAGSTER_POSTGRES_URL"):
        yield "Dagster's history is in PostgreSQL: back it up there at the same time (pg_dump)"
    if os.environ.get("HOSPITAL_LAKE"):
        yield "the lake that HOSPITAL_LAKE names is not in it"
    if links := sum(link.parent != settings.data_dir for link in links_below(settings.data_dir)):
        yield f"{links} links below the folders of the data directory are not in it, nor what they lead to"
    if audit_problems:
        yield f"the audit is broken as it was copied ({len(audit_problems)} problems): `hospital audit verify`"
