"""Queries of a reporting database: what was written since the last look lands as Parquet files, whole or not at all.

The database's own clock says until when a look goes; the next begins so much earlier as a transaction may stay open,
and cleaning knows repeated records. A look that was killed is repeated over the same span, into files of the same
names. PostgreSQL by ADBC (extra `postgres`): rows stream through bounded memory. The session is read-only and has a
time limit; the real fence is a login that may only select.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from hospital_assets.files import make_folder, replacing
from hospital_assets.landing.profile import Profile, Query
from hospital_assets.settings import Settings
from hospital_assets.sources.memory import Memory, Pulled
from hospital_assets.sources.remote import Entry, RemoteError

#: Rows of one landed file: each is read whole when it is loaded.
ROWS_OF_A_FILE = 250_000
_BOUND = re.compile(r"(?<!:):(since|until)\b")
#: SQLSTATE, or its class, -> what to do.
_WORDS = {
    "57014": "it took longer than its `seconds`; ask for less at a time, or raise them",
    "25006": "it writes, and the session is read-only; ask with select",
    "28": "the login is refused; correct the URL in the environment",
    "3D": "there is no such database; correct the URL in the environment",
    "42501": "the login may not read a table of it; let it select",
    "42": "the database does not understand it; try it there",
    "22": "a value cannot be read as its type; cast in the query",
    "53": "the database has too many connections or too little memory; try later",
    "08": "the database cannot be reached; check the URL and the network",
}


def pull_queries(
    settings: Settings,
    profile: Profile,
    memory: Memory,
    pulled: Pulled,
    at: datetime,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Run a profile's queries and land what they give.

    Args:
        settings: the data directory.
        profile: whose source names a database.
        memory: until when each query was asked.
        pulled: what it comes to: files brought; a query that fails is in `failed` and stops no other.
        at: the wall clock.
        environment: has the database's URL.

    Raises:
        RemoteError: the database cannot be reached.
    """
    source = profile.source
    assert source is not None and source.database is not None  # noqa: S101  (the caller has looked)
    url = environment.get(source.database)
    if not url:
        raise RemoteError(f"set {source.database} to the database's URL, as in postgresql://login@host/name")
    with _session(url) as session:
        for subject, query in source.queries.items():
            try:
                _pull_one(session, settings, profile, subject, query, memory, pulled, at)
            except RemoteError as error:
                pulled.failed[subject] = str(error)
            finally:
                session.rollback()


def _pull_one(
    session: Any,
    settings: Settings,
    profile: Profile,
    subject: str,
    query: Query,
    memory: Memory,
    pulled: Pulled,
    at: datetime,
) -> None:
    folder, ending = _place(profile, subject)
    landing = settings.landing / profile.name
    with _in_words(), session.cursor() as cursor:
        cursor.execute(f"set statement_timeout = '{query.seconds}s'")
        if query.is_full:
            since = until = None
        else:
            since, until = memory.span(profile.name, subject) or (_begins(query), None)
            until = until or _now(cursor)
            memory.note_span(profile.name, subject, since, until)
            since -= timedelta(minutes=query.overlap_minutes)
            for name, value in (("since", since), ("until", until)):
                cursor.execute("select set_config('hospital.' || $1, $2, false)", (name, value.isoformat()))
                cursor.fetchall()
        cursor.execute(_BOUND.sub(r"current_setting('hospital.\1')::timestamptz", query.sql))
        stem = "all" if until is None else f"{since:%Y%m%dT%H%M%SZ}_{until:%Y%m%dT%H%M%SZ}"
        rows = 0
        for number, batches in enumerate(_files(cursor.fetch_record_batch())):
            target = landing / folder / f"{stem}_{number:04}{ending}"
            rows += sum(batch.num_rows for batch in batches)
            if rows > query.most_rows:
                raise RemoteError(f"it gives over {query.most_rows:,} rows; ask for less, or raise its `most_rows`")
            entry = Entry(target.relative_to(landing).as_posix(), sum(b.nbytes for b in batches), stem)
            known = memory.sha256(profile.name, entry.key)
            sha256 = _land(batches, target, known)
            if sha256 != known or not target.exists():
                memory.note(profile.name, entry, "brought", at, sha256=sha256)
                pulled.brought += known is None
                pulled.changed += known is not None
    if until is not None:
        memory.note_span(profile.name, subject, until, None)


def _begins(query: Query) -> datetime:
    return datetime.combine(query.first, datetime.min.time(), UTC)


def _now(cursor: Any) -> datetime:
    """The database's time: what is committed later is asked for the next time."""
    cursor.execute("select now()")
    found: datetime = cursor.fetchone()[0]
    return found.astimezone(UTC)


def _place(profile: Profile, subject: str) -> tuple[PurePosixPath, str]:
    """The folder below the landing folder, and the ending of names, that a subject takes.

    Raises:
        RemoteError: none of its patterns takes Parquet files of any name.
    """
    for pattern in profile.subjects[subject].files:
        *folders, name = PurePosixPath(pattern).parts
        fixed = not any(set("*?[") & {*part} for part in folders)
        if fixed and PurePosixPath("any.parquet").match(name):
            return PurePosixPath(*folders), ".parquet"
    raise RemoteError("`files` of its subject takes no Parquet file of any name; add one, as in 'visits/*.parquet'")


def _files(batches: Any) -> Iterator[list[Any]]:
    """Batches by the file they go into; none where there are no rows."""
    import pyarrow as pa

    waiting: list[Any] = []
    for batch in batches:
        # Types that Arrow does not know (numeric, json) come as their text.
        plain = [c.storage if isinstance(c, pa.ExtensionArray) else c for c in batch.columns]
        waiting.append(pa.RecordBatch.from_arrays(plain, names=batch.schema.names))
        if sum(one.num_rows for one in waiting) >= ROWS_OF_A_FILE:
            yield waiting
            waiting = []
    if sum(one.num_rows for one in waiting):
        yield waiting


def _land(batches: list[Any], target: Path, known: str | None) -> str:
    """Write a file in one step, unless it holds what it held before; the SHA-256 of what it holds."""
    import pyarrow.parquet as pq

    make_folder(target.parent)
    with tempfile.TemporaryFile(dir=target.parent) as made:
        with pq.ParquetWriter(made, batches[0].schema, compression="zstd") as writer:
            for batch in batches:
                writer.write_batch(batch)
        made.seek(0)
        sha256 = hashlib.file_digest(made, "sha256").hexdigest()
        if sha256 != known or not target.exists():
            made.seek(0)
            with replacing(target, is_durable=True) as temporary, temporary.open("wb") as file:
                shutil.copyfileobj(made, file)
    return sha256


@contextlib.contextmanager
def _session(url: str) -> Iterator[Any]:
    if not url.startswith(("postgresql://", "postgres://")):
        raise RemoteError("only PostgreSQL is read: a URL begins with postgresql://")
    try:
        from adbc_driver_postgresql import dbapi
    except ImportError:
        raise RemoteError("install the extra: pip install 'hospital-assets[postgres]'") from None
    with _in_words():
        connection = dbapi.connect(url)
    try:
        with _in_words(), connection.cursor() as cursor:
            for setting in ("default_transaction_read_only = on", "TimeZone = 'UTC'"):
                cursor.execute(f"set {setting}")
            connection.commit()
        yield connection
    finally:
        with contextlib.suppress(Exception):
            connection.close()


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """What a database says may quote values of records: its code is told, not its text."""
    import pyarrow as pa
    from adbc_driver_manager import Error

    try:
        yield
    except Error as error:
        code = str(getattr(error, "sqlstate", None) or "08000")
        words = next((_WORDS[part] for part in (code, code[:2]) if part in _WORDS), "the database gives it up")
        raise RemoteError(f"{words} (SQLSTATE {code})") from None
    except pa.ArrowException as error:
        _in_midstream(error)
    except OSError as error:
        if error.errno is not None:
            raise
        _in_midstream(error)


def _in_midstream(error: Exception) -> NoReturn:
    """What goes wrong while rows are sent comes as a text that may quote them."""
    if "statement timeout" in str(error):
        raise RemoteError(_WORDS["57014"]) from None
    raise RemoteError("it gave up while it sent rows; a value may not be read as its type: try it there") from None
