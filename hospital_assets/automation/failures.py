"""Failures of the machine in words: what happened, and what to do.

Belongs here: what a person who runs a command can mend. A mistake in this program has no words here: its traceback
tells those who can mend it where to look.
"""

from __future__ import annotations

import errno
import sqlite3

import duckdb
import polars as pl

from hospital_assets.files import RIGHTS, why_of_sqlite
from hospital_assets.publishing.publications import PublicationError
from hospital_assets.warehouse.errors import WarehouseError, causes_of, redacted

_FULL = (
    "the disk is full: make room (the folders `spool` and `spill` in the warehouse's may be emptied), then run this "
    "again. What is stored is whole: a step that failed has changed nothing"
)
#: How the system and the databases word it.
FULL_DISK = ("no space left on device", "disk is full", "quota exceeded")
_SQLITE = "a database of the data directory cannot be used"
#: What the system says of a file or a disk, in words that need no others.
_OF_FILES = (errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENAMETOOLONG)
#: How DuckDB and the system word that somebody may not.
_FORBIDDEN = ("permission denied", "read-only file system")


def in_words(error: BaseException) -> str | None:
    """What happened and what to do; None where only a programmer can tell."""
    causes = causes_of(error)
    if any(isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT) for cause in causes) or any(
        isinstance(cause, _OF_THE_MACHINE) and any(words in str(cause).lower() for words in FULL_DISK)
        for cause in causes
    ):
        return _FULL
    for cause in causes:
        match cause:
            case WarehouseError() | PublicationError():
                return with_remedy(str(cause))
            case MemoryError() | duckdb.OutOfMemoryException():
                return "there is not enough memory: end other programs, or build fewer days at once (--from, --to)"
            case duckdb.Error() if "orrupt database file" in str(cause):
                return f"the warehouse file is damaged ({redacted(cause)}); {RESTORE}"
            case duckdb.FatalException() | duckdb.InternalException() | duckdb.SerializationException():
                return f"the warehouse file is damaged or was changed by another program ({redacted(cause)}); {RESTORE}"
            case duckdb.Error() if any(words in str(cause).lower() for words in _FORBIDDEN):
                return f"the warehouse may not be read or written ({redacted(cause)}): {RIGHTS}"
            case duckdb.IOException() if "enough bytes" in str(cause):
                return f"the warehouse file is cut short ({redacted(cause)}); {RESTORE}"
            case duckdb.IOException():
                return f"the warehouse cannot be read or written ({redacted(cause)})"
            case sqlite3.Error():
                return f"{_SQLITE} ({cause}): {why_of_sqlite(cause)}"
            case PermissionError() | NotADirectoryError() | IsADirectoryError():
                return f"{cause.filename}: {cause.strerror}"
            case OSError() if cause.errno in _OF_FILES:
                return f"{cause.filename or 'the disk'}: {cause.strerror}"
    return None


_OF_THE_MACHINE = (OSError, duckdb.Error, sqlite3.Error, pl.exceptions.PolarsError, WarehouseError)
RESTORE = (
    "restore a snapshot (`hospital snapshots`), or move the file away and run `hospital build`, made anew "
    "from the landed files"
)


#: How DuckDB, and we, word that a file is not the one that was written.
_DAMAGED = ("cannot be opened", "enough bytes", "not a valid DuckDB", "orrupt database file", "has been invalidated")


def with_remedy(failure: str) -> str:
    """What failed, and what to do where the warehouse file is damaged, or may not be used."""
    remedy = remedy_of(failure)
    return f"{failure.rstrip('. ')}. {remedy[0].upper()}{remedy[1:]}" if remedy and remedy not in failure else failure


def remedy_of(failure: str) -> str:
    """What to do about a warehouse file that cannot be opened; empty where it is something else that failed."""
    if any(words in failure.lower() for words in _FORBIDDEN):
        return RIGHTS
    return RESTORE if any(words in failure for words in _DAMAGED) else ""
