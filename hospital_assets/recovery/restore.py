"""Backups read: verified where they lie, and restored into an empty folder."""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hospital_assets.access.audit import AuditLog, Event, audit_key_file, audited, derived_key, log_file, system_actor
from hospital_assets.files import StateError, flush, free_bytes, make_folder, read_state, replace_text
from hospital_assets.recovery.backup import (
    LOCK,
    STAGING,
    STAMP,
    Backup,
    Entry,
    Manifest,
    emptied_staging,
    erased_since,
    rows_in,
)
from hospital_assets.recovery.objects import BackupError, check, content_of, fetch, identities_of
from hospital_assets.settings import Settings

#: What an empty folder may hold: of a new file system, and of verifying a backup.
_NOTHING = {"lost+found", LOCK, STAGING}


@dataclass(frozen=True)
class Verified:
    """What verifying a backup found.

    Attributes:
        problems: what is wrong, in words; empty where nothing is.
        objects: how many were read.
        files: how many files came out of them; None where nobody could open it.
        rows: how many rows its databases hold, in all.
        is_stamped: whether it is as this directory's key stamped it; None where the key is not here.
    """

    problems: tuple[str, ...]
    objects: int
    files: int | None
    rows: int
    is_stamped: bool | None


def verify_backup(settings: Settings, folder: Path, backup: Backup, identity: Path | None = None) -> Verified:
    """Read all of a backup: each object's digest and, where it can be opened, each file's, and count its databases.

    Args:
        settings: a data directory, for room to unpack in; it need not be the one that the backup is of.
        identity: the secret key; without it, of an encrypted backup only the objects are compared with the header.

    Raises:
        BackupError: the identity is no key, or not the one.
    """
    is_stamped = _is_stamped(settings, backup)
    problems = ["its header was changed, or it is of a directory with another key"] if is_stamped is False else []
    problems += [problem for name, stored in backup.objects.items() if (problem := check(folder, name, stored))]
    identities = identities_of(identity)
    if problems or (backup.is_encrypted and not identities):
        return Verified(tuple(problems), len(backup.objects), None, 0, is_stamped)
    rows = 0
    with emptied_staging(settings) as staging:
        manifest = _manifest(folder, backup, identities, staging)
        for entry in manifest.files:
            target = staging / f"file{PurePosixPath(entry.path).suffix}"
            try:
                fetch(folder, entry.object, backup.objects[entry.object], target, identities, staging, entry.content)
                _compare_rows(target, entry, manifest)
            except BackupError as error:
                problems.append(str(error))
            target.unlink(missing_ok=True)
            rows += sum(manifest.rows.get(entry.path, {}).values())
    return Verified(tuple(problems), len(backup.objects), len(manifest.files), rows, is_stamped)


def _is_stamped(settings: Settings, backup: Backup) -> bool | None:
    key = derived_key(settings, STAMP)
    return None if key is None else hmac.compare_digest(backup.stamped(key).stamp, backup.stamp)


def _compare_rows(file: Path, entry: Entry, manifest: Manifest) -> None:
    if entry.path in manifest.rows and rows_in(file) != manifest.rows[entry.path]:
        raise BackupError(f"{entry.path} has not the rows that were counted when it was copied")


def _manifest(folder: Path, backup: Backup, identities: Sequence[Any], scratch: Path) -> Manifest:
    """What a backup holds.

    Raises:
        BackupError: it cannot be read, or names a place outside of the directory.
    """
    file = scratch / "manifest"
    fetch(folder, backup.manifest, backup.objects[backup.manifest], file, identities, scratch)
    try:
        stated = json.loads(file.read_bytes())
        files = tuple(Entry(**entry) for entry in stated["files"])
        folders = tuple((str(path), int(mode)) for path, mode in stated["folders"])
        manifest = Manifest(files, folders, stated["rows"], tuple(stated["audit_problems"]))
        for path in [*(entry.path for entry in files), *(path for path, _ in folders)]:
            _check_inside(path)
        if len({entry.path for entry in files}) != len(files) or {entry.object for entry in files} - {*backup.objects}:
            raise BackupError(_NO_MANIFEST)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise error if isinstance(error, BackupError) else BackupError(_NO_MANIFEST) from None
    finally:
        file.unlink()
    return manifest


_NO_MANIFEST = "the manifest of this backup is not what this program writes: use another backup"


def _check_inside(path: str) -> None:
    parts = path.split("/")
    if "\0" in path or path.startswith("/") or not {"", ".", ".."}.isdisjoint(parts):
        raise BackupError("the backup names a place outside of the directory it is restored into: it is not ours")


@dataclass(frozen=True)
class Restored:
    """A data directory that was restored.

    Attributes:
        rows: how many rows its databases hold, in all.
        erased_since: who was erased after the backup was made, and is back, by the hashes of the audit.
        is_accepted: whether the audit goes on from the backup's; not where it was broken when it was copied.
    """

    backup: Backup
    files: int
    rows: int
    erased_since: tuple[str, ...]
    is_accepted: bool


def restore_backup(
    settings: Settings, folder: Path, backup: Backup, identity: Path | None = None, *, needs_stamp: bool = True
) -> Restored:
    """Make a data directory what it was, in an empty folder; audited there.

    What was interrupted goes on where it was. The audit comes first, so that restoring is in it.

    Args:
        settings: the new data directory: not there, empty, or one that this backup was being restored into.
        identity: the secret key of an encrypted backup.
        needs_stamp: whether to refuse a backup that the audit's key did not stamp.

    Raises:
        BackupError: the place is taken, the backup is damaged or was changed, or cannot be opened.
    """
    if needs_stamp and not _is_stamped(settings, backup):
        raise BackupError(
            f"nobody can tell whether {backup.name} was changed: it was not stamped with the audit's key that is used "
            f"here ({audit_key_file()}). Put the keys there first (`--keys FOLDER`), or, where they are lost, restore "
            "it --unstamped: the audit will count as broken from then on"
        )
    here = settings.data_dir
    note = settings.restoring_note
    identities, erased = identities_of(identity), tuple(erased_since(folder, backup))
    begun = _begun(note)
    if begun not in (None, backup.stamp):
        raise BackupError(f"another backup was being restored into {here}: go on with that one, or empty the folder")
    if begun is None and here.exists() and {path.name for path in here.iterdir()} - _NOTHING:
        raise BackupError(f"{here} is not empty: restore into a new folder")
    was_there = here.exists()
    make_folder(here)
    replace_text(note, json.dumps({"backup": backup.name, "stamp": backup.stamp}), is_durable=True, mode=0o600)
    with contextlib.ExitStack() as refusal, emptied_staging(settings) as scratch:
        if begun is None:
            refusal.enter_context(_as_it_was(here, was_there=was_there))
        manifest = _manifest(folder, backup, identities, scratch)
        needed = sum(entry.bytes for entry in manifest.files)
        if begun is None and free_bytes(here) < needed:
            raise BackupError(f"restoring needs {needed / 1e6:,.0f} MB in {here}: make room")
        audit = log_file(settings).relative_to(here).as_posix()

        def put(entry: Entry) -> None:
            target = here / entry.path
            # Whatever was put in the way of a file that goes on being restored is not followed.
            if (
                target.is_file()
                and not target.is_symlink()
                and (entry.path == audit or content_of(target) == entry.content)
            ):
                return
            stored = backup.objects[entry.object]
            fetch(folder, entry.object, stored, target, identities, scratch, entry.content)
            _compare_rows(target, entry, manifest)
            target.chmod(entry.mode)
            os.utime(target, ns=(entry.mtime_ns, entry.mtime_ns))
            flush(target)

        for entry in manifest.files:
            if entry.path == audit:
                put(entry)
        with contextlib.closing(AuditLog(settings)) as log:
            if original := log.original:
                raise BackupError(
                    f"the data directory that this backup is of is still in {original}, and only one of the two can go "
                    "on with its audit. For a rehearsal, give this one keys of its own: set XDG_CONFIG_HOME to a new "
                    "folder, and put copies there with --keys FOLDER"
                )
        # From here on, one that fails goes on where it was.
        refusal.pop_all()
        asked = f"{backup.name} from {folder}"
        with audited(settings, Event(system_actor(), "restore", statement=asked)) as ending:
            for path, _ in manifest.folders:
                make_folder(here / path)
            for entry in manifest.files:
                put(entry)
            for path, mode in reversed(manifest.folders):
                (here / path).chmod(mode)
                flush(here / path)
            ending.row_count = len(manifest.files)
    is_accepted = not manifest.audit_problems
    if is_accepted:
        # What the anchors say against the log is what happened to it: it ends where the backup was made.
        with contextlib.closing(AuditLog(settings)) as log:
            log.accept(f"restored from the backup {asked}; what was audited later is lost", system_actor())
    note.unlink()
    rows = sum(sum(tables.values()) for tables in manifest.rows.values())
    return Restored(backup, len(manifest.files), rows, erased, is_accepted)


@contextlib.contextmanager
def _as_it_was(here: Path, *, was_there: bool) -> Iterator[None]:
    """Leave an empty folder, or none, as it was where restoring into it is refused."""
    try:
        yield
    except BackupError:
        for path in here.iterdir():
            if not was_there or path.name not in _NOTHING:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not was_there:
            here.rmdir()
        raise


def _begun(note: Path) -> str | None:
    """The stamp of the backup that is being restored where the note lies."""
    try:
        return str(read_state(note, "empty the folder and restore into it anew", "stamp")["stamp"])
    except FileNotFoundError:
        return None
    except StateError as error:
        raise BackupError(str(error)) from None
