"""What Dagster's history says of runs, read from its database alone: for those that look often and run nothing.

Making an instance of Dagster takes 0.2 CPU seconds and its import two seconds and 60 MB; these are a few short queries,
which no writer waits for (SQLite in WAL mode, PostgreSQL). Belongs here: counts and moments. Does not: a run's own log.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from hospital_assets.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

#: Names a PostgreSQL database for runs, events and schedules; without it they are SQLite files in the home.
POSTGRES_URL = "HOSPITAL_DAGSTER_POSTGRES_URL"
#: Dagster's, in lower case.
RUN_STATUSES = (
    "queued",
    "not_started",
    "managed",
    "starting",
    "started",
    "success",
    "failure",
    "canceling",
    "canceled",
    "suspended",
)
#: Who looks does not wait for longer.
_SECONDS = 3


class HistoryError(ValueError):
    """Dagster's history cannot be read; says why, without its address."""


@dataclass(frozen=True)
class History:
    """How runs stand.

    Attributes:
        runs: status -> how many.
        ended: (job, status) -> when its newest run of that status ended; of `success` and `failure`.
        heartbeat: the newest sign of life of Dagster's daemon; None where there was none yet.
    """

    runs: Mapping[str, int] = field(default_factory=dict)
    ended: Mapping[tuple[str, str], datetime] = field(default_factory=dict)
    heartbeat: datetime | None = None


def is_in_postgres() -> bool:
    """Whether the history is in PostgreSQL: then others than a data directory's own programs may be at work on it."""
    return bool(os.environ.get(POSTGRES_URL))


def read_history(settings: Settings) -> History:
    """How runs stand; empty before the first.

    Raises:
        HistoryError: it cannot be read.
    """
    import sqlalchemy as db

    url = os.environ.get(POSTGRES_URL)
    file = settings.dagster_home / "history" / "runs.db"
    if not url and not file.exists():
        return History()
    # The newest of each by its number: `id` and `status` are looked up in indices, whatever a run's own text holds.
    newest = (
        "select pipeline_name, status, end_time from runs where id in "
        "(select max(id) from runs where status in ('SUCCESS', 'FAILURE') group by pipeline_name, status)"
    )
    with _connected(url, file) as connection:
        counts = connection.execute(db.text("select status, count(*) from runs group by status")).all()
        ended = connection.execute(db.text(newest)).all()
        heartbeat = connection.execute(db.text("select max(timestamp) from daemon_heartbeats")).scalar()
    return History(
        dict.fromkeys(RUN_STATUSES, 0) | {status.lower(): count for status, count in counts},
        {(job, status.lower()): datetime.fromtimestamp(at, UTC) for job, status, at in ended if at is not None},
        # Stored in UTC without saying so; SQLite has text.
        None if heartbeat is None else datetime.fromisoformat(str(heartbeat)).replace(tzinfo=UTC),
    )


def step_seconds(settings: Settings, job: str) -> tuple[int, dict[str, float]]:
    """The newest of a job's successful runs over the most days: how many those were, and how long each step took.

    Raises:
        HistoryError: there is none, or it cannot be read.
    """
    import sqlalchemy as db

    url = os.environ.get(POSTGRES_URL)
    folder = settings.dagster_home / "history"
    if not url and not (folder / "runs.db").exists():
        raise HistoryError("nothing ran yet")
    # Of a run over a range of days the tags say which.
    runs = (
        "select r.run_id, f.value, l.value from runs r "
        "join run_tags f on f.run_id = r.run_id and f.key = 'dagster/asset_partition_range_start' "
        "join run_tags l on l.run_id = r.run_id and l.key = 'dagster/asset_partition_range_end' "
        "where r.pipeline_name = :job and r.status = 'SUCCESS' order by r.id desc limit 100"
    )
    steps = (
        "select step_key, min(timestamp), max(timestamp) from event_logs where run_id = :run "
        "and dagster_event_type in ('STEP_START', 'STEP_SUCCESS') group by step_key having count(*) = 2"
    )
    with _connected(url, folder / "runs.db") as connection:
        found = connection.execute(db.text(runs), {"job": job}).all()
    days = {run: (date.fromisoformat(last) - date.fromisoformat(first)).days + 1 for run, first, last in found}
    if not days:
        raise HistoryError(f"{job} never ran to its end")
    # The first of those with most is the newest.
    run = max(days, key=lambda each: days[each])
    with _connected(url, folder / "runs" / f"{run}.db") as connection:
        timed = connection.execute(db.text(steps), {"run": run}).all()
    moments = [(step, *(datetime.fromisoformat(str(at)) for at in between)) for step, *between in timed]
    return days[run], {step: (ended - started).total_seconds() for step, started, ended in moments}


def database_time() -> datetime | None:
    """What time it is where the history is stored; None where that is on this machine.

    Raises:
        HistoryError: it cannot be asked.
    """
    import sqlalchemy as db

    url = os.environ.get(POSTGRES_URL)
    if not url:
        return None
    with _connected(url, Path()) as connection:
        found: datetime = connection.execute(db.text("select now()")).scalar_one()
    return found.astimezone(UTC)


@contextmanager
def _connected(url: str | None, file: Path) -> Iterator[Connection]:
    """A connection that reads.

    Raises:
        HistoryError: the address is none, or what is asked within the block cannot be read.
    """
    import sqlalchemy as db

    try:
        engine = _postgres(url) if url else db.create_engine("sqlite://", creator=lambda: _read_only(file))
    except (ValueError, db.exc.ArgumentError):  # its text quotes the URL
        raise HistoryError(f"Dagster's history cannot be read: {POSTGRES_URL} is no URL") from None
    try:
        with engine.connect() as connection:
            yield connection
    except db.exc.SQLAlchemyError as error:
        raise HistoryError(f"Dagster's history cannot be read: {type(error).__name__}") from None
    finally:
        engine.dispose()


def _read_only(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=_SECONDS)


def _postgres(url: str) -> Engine:
    import sqlalchemy as db

    return db.create_engine(
        url,
        connect_args={"connect_timeout": _SECONDS, "options": f"-c statement_timeout={_SECONDS * 1000}"},
        poolclass=db.pool.NullPool,
    )
