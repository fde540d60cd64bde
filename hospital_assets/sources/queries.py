"""Queries of a reporting database: what was written since the last look lands as Parquet files, whole or not at all.

The database's own clock says until when a look goes; the next begins so much earlier as a transaction may stay open,
and cleaning knows repeated records. A look that was killed is repeated over the same span, into files of the same
names. Rows that are not in the database any more go from the files where a profile asks for it. How a database is asked
stands in `databases`, how rows are compared in `deletions`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from hospital_assets.files import replacing
from hospital_assets.landing.content import sha256
from hospital_assets.landing.profile import Profile, Query
from hospital_assets.settings import Settings
from hospital_assets.sources.databases import ONE_NAME, Database, of_query, open_database
from hospital_assets.sources.deletions import Comparison, compared, write_rows
from hospital_assets.sources.memory import Memory, Pulled, memory_file
from hospital_assets.sources.remote import Entry, RemoteError

#: Rows of one landed file: each is read whole when it is loaded.
ROWS_OF_A_FILE = 250_000
_ENDING = ".parquet"
#: What the folder of rows that have not landed yet begins with.
_UNLANDED = ".query-"
#: How long a query that a profile is drafted from may take.
_SAMPLE_SECONDS = 60
#: Between two looks for deleted rows.
_COMPARE = timedelta(hours=1)
#: No two clocks differ by more.
_ZONES = timedelta(days=1)


def pull_queries(
    settings: Settings,
    profile: Profile,
    memory: Memory,
    pulled: Pulled,
    at: datetime,
    environment: Mapping[str, str] = os.environ,
    *,
    compares_all: bool = False,
) -> None:
    """Run a profile's queries and land what they give.

    Args:
        memory: until when each query was asked.
        pulled: what it comes to: files brought; a query that fails is in `failed` and stops no other.
        compares_all: look for deleted rows, also where it was done within the hour.

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
                one = _Question(database, settings, profile, subject, query, memory, pulled, at)
                one.pull()
                if query.deleted_days is not None:
                    one.drop_vanished(query.deleted_days, is_due=compares_all)
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


@dataclass(frozen=True)
class _Question:
    """One query of a look; what it comes to is in `pulled`."""

    database: Database
    settings: Settings
    profile: Profile
    subject: str
    query: Query
    memory: Memory
    pulled: Pulled
    at: datetime

    @functools.cached_property
    def asked(self) -> str:
        """What its files and spans are called: another query begins anew."""
        return f"{self.subject}_{hashlib.sha256(self.query.sql.encode()).hexdigest()[:8]}"

    @functools.cached_property
    def folder(self) -> PurePosixPath:
        """Where its files land, below the profile's landing folder."""
        return _place(self.profile, self.subject)

    def pull(self) -> None:
        """Land what was written since the last look, or everything."""
        if self.query.is_full:
            self._pull_all()
            return
        since, until = self.memory.span(self.profile.name, self.asked) or (_begins(self.query), None)
        if until is not None:
            # As it was asked by one who was killed; what was written meanwhile is asked for next.
            self._pull_span(since, until)
            since = until
        # What is committed later is asked for the next time. A clock that was ahead has noted a time to come.
        now = self.database.now()
        self._pull_span(min(since, now), now)

    def _pull_span(self, since: datetime, until: datetime) -> None:
        """Land what was written from one moment, and the overlap before it, to another."""
        name, query, memory = self.profile.name, self.query, self.memory
        memory.note_span(name, self.asked, since, until)
        since -= timedelta(minutes=query.overlap_minutes)
        # Two looks within a second are two.
        self._land_found({"since": since, "until": until}, f"{since:%Y%m%dT%H%M%SZ}_{until:%Y%m%dT%H%M%S.%fZ}")
        memory.note_span(name, self.asked, until, None)

    def _land_found(self, moments: Mapping[str, datetime], stem: str) -> list[str]:
        """Land what the query gives; nothing before the last row has come."""
        batches = self.database.batches(self.query.sql, moments, self.query.seconds)
        with self._room() as room:
            return self._land_all(_written(batches, room, self.query), stem)

    def _pull_all(self) -> None:
        """Land everything the query gives, in the place of what it gave before."""
        name, query, memory, folder = self.profile.name, self.query, self.memory, self.folder
        keys = self._land_found({}, "all")
        # What there is less of than before has no further files, nor has a query that was written otherwise.
        whole = f"{self.subject}_????????_all_*{_ENDING}"
        before = [key for key in memory.known(name) if fnmatch(key.removeprefix(f"{folder}/"), whole)]
        if before and not keys and query.most_deleted_percent < 100:
            raise RemoteError(
                "it gives no row, and gave some before: nothing was deleted; look whether the table is whole, or say "
                "`most_deleted_percent = 100`"
            )
        for key in set(before) - {*keys}:
            (self.settings.landing / name / key).unlink(missing_ok=True)
            memory.forget(name, key)

    def drop_vanished(self, days: int, *, is_due: bool) -> None:
        """Take rows that are not in the database any more out of the landed files, and bring back those that are again.

        What was taken out is noted before. A row is taken out of the newest file last: who is killed before finds it
        once more.

        Args:
            days: how long ago rows may have been written that are looked for, before the last time that this was done.
            is_due: do it, also where it was done within the hour.

        Raises:
            RemoteError: more than is believed to be deleted has vanished; or it fails. Nothing was deleted.
        """
        query, memory, name, done = self.query, self.memory, self.profile.name, f"{self.asked}_keys"
        now = self.database.now()
        last, _ = memory.span(name, done) or (None, None)
        if last is not None and timedelta() <= now - last < _COMPARE and not is_due:
            return
        # A clock that was ahead has noted a time to come.
        last = min(last or now, now)
        since = last - timedelta(days=days)
        # What has vanished was written within the days before that, and may be there again as it was.
        earliest = since - timedelta(days=days) if memory.gone(name, self.asked) else since
        # Clocks of landed rows may have no zone. What is written during the query is there, too.
        moments = {"since": earliest - _ZONES, "until": now + _ZONES}
        # Of a query that was written otherwise, too.
        landed = sorted(
            (self.settings.landing / name / self.folder).glob(f"{self.subject}_????????_*{_ENDING}"), key=_until
        )
        if landed:
            with self._room() as room:
                keys = self.database.batches(of_query(query.sql, query.key), moments, query.seconds)
                there = _written(keys, room, query)
                with compared(query, landed, there, since, room) as comparison:
                    comparison.assert_few()
                    self._bring_back(comparison, {**moments, "until": now}, room / "again")
                    memory.note_gone(name, self.asked, comparison.vanished, self.at)
                    for file, rows in comparison.rows(landed, comparison.vanished):
                        self._drop(file, rows)
                    self.pulled.deleted += len(comparison.vanished)
        memory.forget_gone(name, self.asked, self.at - timedelta(days=days) - (now - last))
        memory.note_span(name, done, now, None)

    def _drop(self, file: Path, rows: Sequence[int]) -> None:
        """Write a landed file anew without some rows; one without rows is none."""
        key = file.relative_to(self.settings.landing / self.profile.name).as_posix()
        with replacing(file, is_durable=True) as temporary:
            count = write_rows(file, temporary, rows, is_kept=False)
            size, digest = temporary.stat().st_size, sha256(temporary, temporary.stat().st_size)
        if count:
            self.memory.note(self.profile.name, Entry(key, size, digest), "brought", self.at, sha256=digest)
            self.pulled.changed += 1
        else:
            file.unlink()
            self.memory.forget(self.profile.name, key)
            self.pulled.removed += 1

    def _bring_back(self, comparison: Comparison, moments: Mapping[str, datetime], room: Path) -> None:
        """Land rows that had vanished and are there again, also where they say that they were written long ago."""
        again = comparison.there(self.memory.gone(self.profile.name, self.asked))
        if missing := again - comparison.here(again):
            room.mkdir()
            asked = _written(self.database.batches(self.query.sql, moments, self.query.seconds), room, self.query)
            found = [room / f"again_{number}" for number in range(len(asked))]
            for target, (file, rows) in zip(found, comparison.rows(asked, missing), strict=False):
                write_rows(file, target, rows, is_kept=True)
            stem = "{since:%Y%m%dT%H%M%SZ}_{until:%Y%m%dT%H%M%S.%fZ}_again".format(**moments)
            self._land_all([file for file in found if file.exists()], stem)
        self.memory.forget_gone(self.profile.name, self.asked, keys=again)

    @contextlib.contextmanager
    def _room(self) -> Iterator[Path]:
        """A folder for rows that have not landed yet."""
        with tempfile.TemporaryDirectory(dir=memory_file(self.settings).parent, prefix=_UNLANDED) as made:
            yield Path(made)

    def _land_all(self, pieces: Sequence[Path], stem: str) -> list[str]:
        """Land files of rows; their paths below the profile's folder."""
        name, keys = self.profile.name, []
        for number, piece in enumerate(pieces):
            keys.append(f"{self.folder}/{self.asked}_{stem}_{number:04}{_ENDING}".removeprefix("./"))
            _land(piece, keys[-1], self.settings.landing / name / keys[-1], name, self.memory, self.pulled, self.at)
        return keys


def _until(file: Path) -> str:
    """Until when the rows of a landed file were asked for, in order of time."""
    return file.name.rsplit("Z_", 1)[0].rpartition("_")[2]


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
            if len(set(batch.schema.names)) < batch.num_columns:
                raise RemoteError(ONE_NAME)
            total += batch.num_rows
            size += batch.nbytes
            if total > query.most_rows:
                raise RemoteError(f"it gives over {query.most_rows:,} rows; ask for less, or raise its `most_rows`")
            if size > query.most_megabytes * 1_000_000:
                raise RemoteError(
                    f"it gives over {query.most_megabytes:,} MB; ask for less, or raise its `most_megabytes`"
                )
            # Types that Arrow does not know (numeric, json) come as their texts.
            plain = [one.storage if isinstance(one, pa.ExtensionArray) else one for one in batch.columns]
            plainly = pa.RecordBatch.from_arrays(plain, names=batch.schema.names)
            if writer is None or of_file >= ROWS_OF_A_FILE:
                if writer is not None:
                    writer.close()
                files.append(folder / f"{len(files)}{_ENDING}")
                writer, of_file = pq.ParquetWriter(files[-1], plainly.schema, compression="zstd"), 0
            writer.write_batch(plainly)
            of_file += batch.num_rows
    except pa.ArrowException:
        raise RemoteError("it gives columns of kinds that a file cannot hold; cast them to text in the query") from None
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
