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

from hospital_assets.files import replacing
from hospital_assets.landing.profile import Profile, Query
from hospital_assets.settings import Settings
from hospital_assets.sources.memory import Memory, Pulled, memory_file
from hospital_assets.sources.remote import Entry, RemoteError

#: Rows of one landed file: each is read whole when it is loaded.
ROWS_OF_A_FILE = 250_000
_ENDING = ".parquet"
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
    folder = _place(profile, subject)
    # Another query begins anew.
    asked = f"{subject}_{hashlib.sha256(query.sql.encode()).hexdigest()[:8]}"
    until = None
    with _in_words(), session.cursor() as cursor:
        cursor.execute(f"set statement_timeout = '{query.seconds}s'")
        stem = "all"
        if not query.is_full:
            since, until = memory.span(profile.name, asked) or (_begins(query), None)
            until = until or _now(cursor)
            memory.note_span(profile.name, asked, since, until)
            since -= timedelta(minutes=query.overlap_minutes)
            for name, value in (("since", since), ("until", until)):
                cursor.execute("select set_config('hospital.' || $1, $2, false)", (name, value.isoformat()))
                cursor.fetchall()
            stem = f"{since:%Y%m%dT%H%M%SZ}_{until:%Y%m%dT%H%M%SZ}"
        cursor.execute(_BOUND.sub(r"current_setting('hospital.\1')::timestamptz", query.sql))
        # Nothing lands before the last row has come.
        with tempfile.TemporaryDirectory(dir=memory_file(settings).parent, prefix=".query-") as made:
            pieces = _written(cursor.fetch_record_batch(), Path(made), query.most_rows)
            keys = [f"{folder}/{asked}_{stem}_{number:04}{_ENDING}".removeprefix("./") for number in range(len(pieces))]
            for piece, key in zip(pieces, keys, strict=True):
                _land(piece, key, settings.landing / profile.name / key, profile.name, memory, pulled, at)
    if until is not None:
        memory.note_span(profile.name, asked, until, None)
        return
    # What there is less of than before has no further files.
    for key in set(memory.known(profile.name)) - {*keys}:
        if key.removeprefix(f"{folder}/").startswith(f"{asked}_all_"):
            (settings.landing / profile.name / key).unlink(missing_ok=True)
            memory.forget(profile.name, key)


def _begins(query: Query) -> datetime:
    return datetime.combine(query.first, datetime.min.time(), UTC)


def _now(cursor: Any) -> datetime:
    """The database's time: what is committed later is asked for the next time."""
    cursor.execute("select now()")
    found: datetime = cursor.fetchone()[0]
    return found.astimezone(UTC)


def _place(profile: Profile, subject: str) -> PurePosixPath:
    """The folder below the landing folder in which a subject takes Parquet files.

    Raises:
        RemoteError: none of its patterns takes Parquet files of any name.
    """
    for pattern in profile.subjects[subject].files:
        *folders, name = PurePosixPath(pattern).parts
        fixed = not any(set("*?[") & {*part} for part in folders)
        if fixed and PurePosixPath(f"any{_ENDING}").match(name):
            return PurePosixPath(*folders)
    raise RemoteError("`files` of its subject takes no Parquet file of any name; add one, as in 'visits/*.parquet'")


def _written(batches: Any, folder: Path, most_rows: int) -> list[Path]:
    """Files of so many rows each, as they come; none where there are no rows.

    Raises:
        RemoteError: there are too many rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    files: list[Path] = []
    total = of_file = 0
    writer = None
    try:
        for batch in batches:
            if not batch.num_rows:
                continue
            total += batch.num_rows
            if total > most_rows:
                raise RemoteError(f"it gives over {most_rows:,} rows; ask for less, or raise its `most_rows`")
            # Types that Arrow does not know (numeric, json) come as their text.
            plain = [one.storage if isinstance(one, pa.ExtensionArray) else one for one in batch.columns]
            plainly = pa.RecordBatch.from_arrays(plain, names=batch.schema.names)
            if writer is None or of_file >= ROWS_OF_A_FILE:
                if writer is not None:
                    writer.close()
                files.append(folder / f"{len(files)}")
                writer, of_file = pq.ParquetWriter(files[-1], plainly.schema, compression="zstd"), 0
            writer.write_batch(plainly)
            of_file += batch.num_rows
    finally:
        if writer is not None:
            writer.close()
    return files


def _land(piece: Path, key: str, target: Path, source: str, memory: Memory, pulled: Pulled, at: datetime) -> None:
    """Land a file in one step, unless it is there already with what it holds."""
    with piece.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        known = memory.sha256(source, key)
        if sha256 == known and target.exists():
            return
        file.seek(0)
        with replacing(target, is_durable=True) as temporary, temporary.open("wb") as landed:
            shutil.copyfileobj(file, landed)
    memory.note(source, Entry(key, piece.stat().st_size, sha256), "brought", at, sha256=sha256)
    pulled.brought += known is None
    pulled.changed += known is not None


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
    """What a database says may quote values of records: errors have its code, not its text."""
    import pyarrow as pa
    from adbc_driver_postgresql.dbapi import Error

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
