"""Queries of a reporting database: what was written since the last look lands as Parquet files, whole or not at all.

The database's own clock says until when a look goes; the next begins so much earlier as a transaction may stay open,
and cleaning knows repeated records. A look that was killed is repeated over the same span, into files of the same
names. How a database is asked stands in `databases`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from hospital_assets.files import replacing
from hospital_assets.landing.profile import Profile, Query
from hospital_assets.settings import Settings
from hospital_assets.sources.databases import Database, open_database
from hospital_assets.sources.memory import Memory, Pulled, memory_file
from hospital_assets.sources.remote import Entry, RemoteError

#: Rows of one landed file: each is read whole when it is loaded.
ROWS_OF_A_FILE = 250_000
_ENDING = ".parquet"
#: What the folder of rows that have not landed yet begins with.
_UNLANDED = ".query-"
#: How long a query that a profile is drafted from may take.
_SAMPLE_SECONDS = 60


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
    # Rows that one who was killed had asked for; the caller holds the lock.
    for left in memory_file(settings).parent.glob(f"{_UNLANDED}*"):
        shutil.rmtree(left)
    with open_database(url_of(source.database, environment)) as database:
        for subject, query in source.queries.items():
            try:
                _pull_one(database, settings, profile, subject, query, memory, pulled, at)
            except RemoteError as error:
                pulled.failed[subject] = str(error)
            finally:
                database.end()


def url_of(variable: str, environment: Mapping[str, str] = os.environ) -> str:
    """A database's URL or connection string, from the environment.

    Raises:
        RemoteError: the variable is not set.
    """
    if url := environment.get(variable):
        return url
    raise RemoteError(
        f"set {variable} to the database's URL, as in postgresql://login@host/name, or a connection string of ODBC"
    )


def _pull_one(
    database: Database,
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
    until, stem = None, "all"
    moments: dict[str, datetime] = {}
    if not query.is_full:
        since, until = memory.span(profile.name, asked) or (_begins(query), None)
        # What is committed later is asked for the next time.
        until = until or database.now()
        memory.note_span(profile.name, asked, since, until)
        since -= timedelta(minutes=query.overlap_minutes)
        moments = {"since": since, "until": until}
        # Two looks within a second are two.
        stem = f"{since:%Y%m%dT%H%M%SZ}_{until:%Y%m%dT%H%M%S.%fZ}"
    # Nothing lands before the last row has come.
    with tempfile.TemporaryDirectory(dir=memory_file(settings).parent, prefix=_UNLANDED) as made:
        pieces = _written(database.batches(query.sql, moments, query.seconds), Path(made), query)
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


def sample_of(variable: str, sql: str, folder: Path, rows: int) -> Path:
    """The first rows of a query as a Parquet file, to draft a profile from.

    Args:
        variable: of the environment, with the database's URL.
        sql: what is asked; `:since` and `:until` take in everything until now.
        folder: where the file is made.
        rows: about so many.

    Raises:
        RemoteError: it fails, in words, or there are no rows.
    """
    with open_database(url_of(variable)) as database:
        moments = {"since": datetime(2000, 1, 1, tzinfo=UTC), "until": database.now()}
        found: list[Any] = []
        for batch in database.batches(sql, moments, _SAMPLE_SECONDS):
            found.append(batch)
            if sum(one.num_rows for one in found) >= rows:
                break
        pieces = _written(iter(found), folder, Query(sql=sql))
    if not pieces:
        raise RemoteError("the query gives no row to draft from")
    return pieces[0]


def _written(batches: Iterable[Any], folder: Path, query: Query) -> list[Path]:
    """Files of so many rows each, as they come; none where there are no rows.

    Raises:
        RemoteError: there are too many rows or bytes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    files: list[Path] = []
    total = of_file = size = 0
    writer = None
    try:
        for batch in batches:
            if not batch.num_rows:
                continue
            total += batch.num_rows
            size += batch.nbytes
            if total > query.most_rows:
                raise RemoteError(f"it gives over {query.most_rows:,} rows; ask for less, or raise its `most_rows`")
            if size > query.most_megabytes * 1_000_000:
                raise RemoteError(
                    f"it gives over {query.most_megabytes:,} MB; ask for less, or raise its `most_megabytes`"
                )
            # Types that Arrow does not know (numeric, json) come as their text.
            plain = [one.storage if isinstance(one, pa.ExtensionArray) else one for one in batch.columns]
            plainly = pa.RecordBatch.from_arrays(plain, names=batch.schema.names)
            if writer is None or of_file >= ROWS_OF_A_FILE:
                if writer is not None:
                    writer.close()
                files.append(folder / f"{len(files)}{_ENDING}")
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
