"""Files on disk: replaced whole or not at all, and still there after the power went where that matters.

Belongs here: how a file is written and where in a text a mistake is. Does not: what is in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import json
import os
import platform
import re
import shutil
import sqlite3
import stat
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: What a file that is being written is called, after the name it will have: machine, process, number.
_TEMPORARY = re.compile(r"\..*\.(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-\d+\.tmp")
_NUMBERS = itertools.count(1)
#: A name has 255 bytes at most, and those that are being written are longer than what they will be.
_LONGEST_STEM = 180
#: Nobody writes one file for longer without a pause.
_LONGEST_WRITING_SECONDS = 2 * 86_400
#: Folders in which this process has looked for what killed writers left.
_SWEPT: set[Path] = set()


@contextlib.contextmanager
def replacing(path: Path, *, is_durable: bool = False, mode: int | None = None) -> Iterator[Path]:
    """A file to write instead of `path`; it takes that place in one step when the block has ended.

    Readers see all of it or what was there before. Until then it has a name that no other writer uses, which
    begins with a dot and ends in `.tmp`. An error removes it; what a killed process left, the next one on the
    same machine removes when it first writes into that folder, or any one days later.

    Args:
        path: the file; its folder is made.
        is_durable: whether it must survive a crash of the machine from then on: flushed to disk, its name, too.
        mode: permissions of the file from its first byte on; None for the usual ones.
    """
    temporary = _temporary(path, is_durable=is_durable)
    try:
        if mode is not None:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            # The mask of a process that keeps its files private is for those that say nothing.
            os.fchmod(handle, mode)
            os.close(handle)
        yield temporary
        if is_durable:
            flush(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if is_durable:
        flush(path.parent)


@contextlib.contextmanager
def room_beside(path: Path) -> Iterator[Path]:
    """A folder beside `path` to make ready in what is to stand there; afterwards it is gone, with what is left in it.

    It is called as what `replacing` writes is: readers pass it by, and the next process removes what a killed one left.
    """
    with emptied(_temporary(path)) as room:
        yield room


@contextlib.contextmanager
def emptied(folder: Path, mode: int = 0o777) -> Iterator[Path]:
    """An empty folder for the block, without what a killed process left in it; gone afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode, parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def is_unfinished(name: str) -> bool:
    """Whether a file or folder of this name is one that `replacing` or `room_beside` is making."""
    return _TEMPORARY.fullmatch(name) is not None


def _temporary(path: Path, *, is_durable: bool = False) -> Path:
    """A name beside `path` that nobody else uses, in a folder without what killed processes left."""
    make_folder(path.parent, is_durable=is_durable)
    _sweep(path.parent)
    stem = path.name.encode("utf-8", "surrogateescape")[:_LONGEST_STEM].decode("utf-8", "ignore")
    return path.with_name(f".{stem}.{_machine()}-{os.getpid()}-{next(_NUMBERS)}.tmp")


def replace_text(path: Path, text: str, *, is_durable: bool = False, mode: int | None = None) -> None:
    """Write a small file of UTF-8 in one step; see `replacing`."""
    with replacing(path, is_durable=is_durable, mode=mode) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def replace_bytes(path: Path, data: bytes, *, is_durable: bool = False, mode: int | None = None) -> None:
    """Write a small file in one step; see `replacing`."""
    with replacing(path, is_durable=is_durable, mode=mode) as temporary:
        temporary.write_bytes(data)


def keep_private() -> None:
    """Let nobody but the owner read what this process and its children create from now on; called where one begins."""
    os.umask(os.umask(0o777) | 0o077)


def open_to_others(folder: Path) -> Iterator[Path]:
    """Files and folders in a folder, itself included, that others than their owner may read, write or enter."""
    if folder.exists() and folder.lstat().st_mode & 0o077:
        yield folder
    for root, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(root, name)
            with contextlib.suppress(OSError):
                mode = path.lstat().st_mode
                if not stat.S_ISLNK(mode) and mode & 0o077:
                    yield path


def version_of(file: Path) -> tuple[int, ...]:
    """What changes whenever a file is replaced or written to; empty where it is not there."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


@contextlib.contextmanager
def in_transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All that the block does in a SQLite file of our own, or nothing of it; nobody else writes meanwhile.

    Args:
        connection: one that begins no transaction by itself (`isolation_level=None`).
    """
    connection.execute("begin immediate")
    try:
        yield
        # Where the disk is full it fails, and the transaction is still open.
        connection.execute("commit")
    except BaseException:
        if connection.in_transaction:
            connection.execute("rollback")
        raise


#: What to do where this user may not use what is in the data directory.
RIGHTS = (
    "the user who runs this must be able to read and write it and its folder. What another user made, as by a command "
    "that was run as root, is made this one's by `chown -R USER` of the data directory"
)


def why_of_sqlite(error: sqlite3.Error) -> str:
    """Why a SQLite file of ours may be of no use, and what to do."""
    # Errors of Python's own module have no name.
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return RIGHTS
    if name.startswith(("SQLITE_IOERR", "SQLITE_FULL")):
        return "the disk is full, or fails: make room, then run this again"
    return "another program has it, or it is damaged"


def why_not_secret(path: Path) -> str:
    """What to do about a secret file that others can read; empty where only its owner can."""
    return f"others can read {path}: chmod 600 {path}" if path.stat().st_mode & 0o077 else ""


def links_below(folder: Path) -> Iterator[Path]:
    """Every symbolic link below a folder; none is followed."""
    for root, folders, names in os.walk(folder):
        yield from (path for name in (*folders, *names) if (path := Path(root, name)).is_symlink())


def free_bytes(folder: Path) -> int:
    """Free space where a folder lies, or would."""
    return shutil.disk_usage(next(place for place in (folder, *folder.resolve().parents) if place.exists())).free


class StateError(ValueError):
    """A file that this program wrote is not what it wrote; the message names it and says what to do."""


def read_state(path: Path, remedy: str, *keys: str) -> dict[str, Any]:
    """A JSON object that this program wrote for itself.

    Args:
        remedy: what to do when it is something else.
        keys: what it must have.

    Raises:
        FileNotFoundError: it is not there.
        StateError: it is something else.
    """
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not found.keys() >= set(keys):
        raise StateError(f"{path} is not what was written there: {remedy}")
    return found


def append_text(path: Path, text: str) -> None:
    """Append to a file that only its owner can read, in one write; a link in its place is not followed.

    Raises:
        OSError: it cannot be written, or a link is in its place.
    """
    make_folder(path.parent)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for a lock on a side file and hold it: one process or thread at a time changes what it stands for."""
    make_folder(path.parent)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def is_locked(path: Path, *, exclusive: bool = False) -> bool:
    """Whether a process holds the lock of a side file; asked without waiting, and without writing into it.

    Args:
        path: the side file; where it is not there, nobody holds it.
        exclusive: whether holders that share the lock count, too.
    """
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        with path.open("rb") as file:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@functools.cache
def _machine() -> str:
    """Where numbers of processes mean the same: this machine, or one container of it."""
    try:
        numbered = os.readlink("/proc/self/ns/pid")  # noqa: PTH115  (no path: `pid:[4026531836]`)
    except OSError:
        numbered = ""
    return f"{zlib.crc32((platform.node() + numbered).encode()):08x}"


def _sweep(folder: Path) -> None:
    """Remove what killed writers left in a folder; once a process, however many files there are."""
    if folder in _SWEPT:
        return
    _SWEPT.add(folder)
    for entry in os.scandir(folder):
        if _is_left(entry):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
                continue
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.path)  # noqa: PTH108  (a hundred thousand entries are normal)


def _is_left(entry: os.DirEntry[str]) -> bool:
    """Whether a killed writer left it: one of this machine, or of a container or machine that may be no more."""
    found = _TEMPORARY.fullmatch(entry.name)
    if not found:
        return False
    if found["machine"] == _machine():
        return not _is_alive(int(found["process"]))
    with contextlib.suppress(FileNotFoundError):
        # Of a copy the time of modification may be that of what was copied.
        return time.time() - entry.stat(follow_symlinks=False).st_ctime > _LONGEST_WRITING_SECONDS
    return False


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        # It is somebody else's, or no number of a process: what it left is not ours to remove.
        pass
    return True


def make_folder(folder: Path, *, is_durable: bool = False) -> None:
    """Create a folder and its parents; durably, if a crash of the machine must not undo it."""
    if folder.is_dir():
        return
    make_folder(folder.parent, is_durable=is_durable)
    folder.mkdir(exist_ok=True)
    if is_durable:
        flush(folder.parent)


def flush(path: Path) -> None:
    """Have a file's content, or the names in a folder, on disk."""
    is_folder = path.is_dir()
    handle = os.open(path, os.O_RDONLY)
    try:
        # Some network file systems cannot flush folders, and write names through.
        with contextlib.suppress(OSError) if is_folder else contextlib.nullcontext():
            os.fsync(handle)
    finally:
        os.close(handle)


def flush_all(folder: Path) -> None:
    """Have everything in a folder on disk."""
    for path in [*folder.rglob("*"), folder]:
        flush(path)
