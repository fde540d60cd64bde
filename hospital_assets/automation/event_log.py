"""Dagster's SQLite event log, made for runs over many days.

A run over 90 days writes a planned and a materialised event per day and asset, plans every check for every day, and
reports some five hundred checks. Dagster's own storage opens a connection per statement, stores events one by one, and
reports a check over a range only once, so that its days stay "planned" for ever. Here connections are kept, events
wait for a second at most to be stored together (whoever reads has them stored first), the newest records of assets,
which each step asks for, are remembered until something is written of them, and the outcome of a check over a range
counts for each of its days. Named in dagster.yaml; nothing else knows of it. Belongs here: only that.
Every private name that it leans on is pinned by a test (test_upstream).
"""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import sqlalchemy as db
from dagster import AssetCheckEvaluation, AssetKey, DagsterEventType, EventLogEntry
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS, EVENT_TYPE_TO_PIPELINE_RUN_STATUS
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log import AssetRecord, InMemoryEventLogStorage, SqliteEventLogStorage
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME
from dagster._serdes import ConfigurableClassData, serialize_value

from hospital_assets.settings import data_dir_from_environment, load_settings

#: What Dagster looks for across runs: stored in the index of all runs, too.
_INDEXED = {*ASSET_EVENTS, *ASSET_CHECK_EVENTS, *EVENT_TYPE_TO_PIPELINE_RUN_STATUS}
#: SQLite waits so long for another process that writes.
BUSY_TIMEOUT_SECONDS = 300
#: Events wait for others this long, and no longer than until there are so many.
_WAIT_SECONDS = 1.0
_MOST_WAITING = 1000
#: Of an `AssetCheckEvaluation`, as its constructor takes them.
_FIELDS = tuple(inspect.signature(AssetCheckEvaluation).parameters)
#: The index of all runs and a few runs: each is a file.
_MOST_CONNECTIONS = 4

_CHECKS, _EVENTS = AssetCheckExecutionsTable.c, SqlEventLogStorageTable.c
#: The days of a check that a run planned. Statements are made once: making them costs more than running them.
_OF_RANGE = db.and_(
    _CHECKS.asset_key == db.bindparam("of_asset"),
    _CHECKS.check_name == db.bindparam("of_check"),
    _CHECKS.run_id == db.bindparam("of_run"),
    _CHECKS.partition.is_not(None),
)
_LAST_OF_RANGE = db.select(db.func.max(_CHECKS.id)).where(_OF_RANGE)
_ALL_OF_RANGE = (
    AssetCheckExecutionsTable.update()
    .where(_OF_RANGE)
    .values(
        **{
            name: db.bindparam(name)
            for name in (
                "execution_status",
                "evaluation_event",
                "evaluation_event_timestamp",
                "evaluation_event_storage_id",
            )
        },
        materialization_event_storage_id=db.select(db.func.max(_EVENTS.id))
        .where(
            _EVENTS.asset_key == db.bindparam("of_asset"),
            _EVENTS.dagster_event_type == DagsterEventType.ASSET_MATERIALIZATION.value,
            _EVENTS.partition == _CHECKS.partition,
        )
        .scalar_subquery(),
    )
)
_FINDINGS = (
    AssetCheckExecutionsTable.update()
    .where(_CHECKS.id == db.bindparam("of_id"))
    .values(evaluation_event=db.bindparam("evaluation_event"))
)


def history_home() -> Path:
    """Where Dagster's history lies: `$DAGSTER_HOME`; without it, in the data directory."""
    return Path(os.environ.get("DAGSTER_HOME") or load_settings(data_dir_from_environment()).dagster_home)


def remembered(there: set[tuple[str, ...]], kind: str, is_there: Callable[..., bool], *name: str) -> bool:
    """Whether something of a storage is there, asked for until it is: nothing ever goes."""
    if (kind, *name) not in there and is_there(*name):
        there.add((kind, *name))
    return (kind, *name) in there


class HospitalEventLogStorage(SqliteEventLogStorage):
    """As Dagster's own, with kept connections, events stored together, and checks that cover their range."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._kept: dict[str, db.Connection] = {}
        self._under_way: dict[str, db.Connection] = {}
        self._there: set[tuple[str, ...]] = set()
        #: What is newest of an asset, by what was asked: its record, or tags of its partitions.
        self._newest: dict[AssetKey, dict[Hashable, Any]] = {}
        self._known_at: tuple[int, int] | None = None
        self._waiting: list[EventLogEntry] = []
        self._rows: dict[int, dict[str, Any]] = {}
        self._timer: threading.Timer | None = None
        super().__init__(base_dir, inst_data)
        # What is stored together takes part in one transaction.
        self._db_lock: Any = threading.RLock()

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        """No configuration: events live where Dagster's default storage puts them."""
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> HospitalEventLogStorage:
        """Make the storage in `$DAGSTER_HOME/history/runs`; without it, in the data directory."""
        return cls(str(history_home() / "history" / "runs"), inst_data)

    def has_table(self, table_name: str) -> bool:
        """Whether the index has a table; Dagster asks at each event of a check, and none ever goes."""
        return remembered(self._there, "table", super().has_table, table_name)

    def has_secondary_index(self, name: str) -> bool:
        """Whether a migration of the index was made; none is ever unmade."""
        return remembered(self._there, "migration", super().has_secondary_index, name)

    def has_asset_key_col(self, column_name: str) -> bool:
        """Whether the table of assets has a column; Dagster looks at each record that it reads, and none ever goes."""
        return remembered(self._there, "column", super().has_asset_key_col, column_name)

    def get_asset_records(self, asset_keys: Sequence[AssetKey] | None = None) -> Sequence[AssetRecord]:
        """The newest records of assets: as read before, where nothing was written since."""
        if asset_keys is None:
            return super().get_asset_records()
        with self._up_to_date(asset_keys):
            unknown = [key for key in asset_keys if "record" not in self._newest.get(key, {})]
            if unknown:
                found = {record.asset_entry.asset_key: record for record in super().get_asset_records(unknown)}
                for key in unknown:
                    self._newest.setdefault(key, {})["record"] = found.get(key)
            known = sorted(set(asset_keys), key=AssetKey.to_string)
            return [record for key in known if (record := self._newest[key]["record"])]

    def get_latest_tags_by_partition(
        self,
        asset_key: AssetKey,
        event_type: DagsterEventType,
        tag_keys: Sequence[str],
        asset_partitions: Sequence[str] | None = None,
        before_cursor: int | None = None,
        after_cursor: int | None = None,
    ) -> Mapping[str, Mapping[str, str]]:
        """Tags of the newest events of partitions, such as data versions: as read before, where nothing was written."""
        partitions = None if asset_partitions is None else tuple(asset_partitions)
        asked = event_type, tuple(tag_keys), partitions, before_cursor, after_cursor
        with self._up_to_date([asset_key]):
            if asked not in self._newest.get(asset_key, {}):
                found = super().get_latest_tags_by_partition(asset_key, event_type, tag_keys, *asked[2:])
                self._newest.setdefault(asset_key, {})[asked] = found
            tags: Mapping[str, Mapping[str, str]] = self._newest[asset_key][asked]
            return tags

    @contextmanager
    def _up_to_date(self, asset_keys: Sequence[AssetKey]) -> Iterator[None]:
        """What is remembered of assets holds, and nobody writes."""
        with self._db_lock:
            if any(_asset_key(event) in asset_keys for event in self._waiting):
                self._store_waiting()
            if self._known_at != (now := self._writes()):
                self._newest.clear()
                self._known_at = now
            yield

    def _writes(self) -> tuple[int, int] | None:
        """Numbers that change with every write to the index, here or by another process; None where it is closed."""
        if INDEX_SHARD_NAME not in self._kept:
            return None
        raw: Any = self._kept[INDEX_SHARD_NAME].connection.driver_connection
        return raw.total_changes, raw.execute("pragma data_version").fetchone()[0]

    @contextmanager
    def _connect(self, shard: str) -> Iterator[db.Connection]:
        with self._db_lock:
            self._store_waiting()
            if shard in self._under_way:
                yield self._under_way[shard]
                return
            connection = self._kept.pop(shard, None)
            if connection is None or not Path(self.path_for_shard(shard)).exists():
                connection = self._opened(shard)
            # Put back last, so that the first is the one unused for longest.
            self._kept[shard] = connection
            if len(self._kept) > _MOST_CONNECTIONS:
                _close(self._kept.pop(next(name for name in self._kept if name not in self._under_way)))
            self._under_way[shard] = connection
            try:
                with connection.begin():
                    yield connection
            finally:
                del self._under_way[shard]

    def _opened(self, shard: str) -> db.Connection:
        if shard == INDEX_SHARD_NAME:
            self._newest.clear()
        engine = db.create_engine(
            self.conn_string_for_shard(shard),
            poolclass=db.pool.StaticPool,
            # `_db_lock` lets one thread in at a time.
            connect_args={"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
        )
        # With a write-ahead log a power cut can lose the last events, never damage the file.
        db.event.listen(engine, "connect", lambda raw, _: raw.execute("pragma synchronous = normal"))
        if shard not in self._initialized_dbs:
            self._initdb(engine)
            self._initialized_dbs.add(shard)
        return engine.connect()

    def dispose(self) -> None:
        """Store what waits, and close what is open."""
        with self._db_lock:
            self._store_waiting()
            super().dispose()
            while self._kept:
                _, connection = self._kept.popitem()
                _close(connection)

    def store_event(self, event: EventLogEntry) -> None:
        """Store an event soon: at once where it ends or begins a run, else together with the next ones."""
        with self._db_lock:
            self._waiting.append(event)
            if event.dagster_event_type in EVENT_TYPE_TO_PIPELINE_RUN_STATUS or len(self._waiting) >= _MOST_WAITING:
                self._store_waiting()
            elif self._timer is None:
                self._timer = threading.Timer(_WAIT_SECONDS, self._store_in_time)
                self._timer.daemon = True
                self._timer.start()

    def _store_in_time(self) -> None:
        # What cannot be stored is still waiting: whoever stores or reads next is told.
        with self._db_lock, suppress(db.exc.SQLAlchemyError, OSError):
            self._timer = None
            self._store_waiting()

    def _store_waiting(self) -> None:
        if self._rows or not self._waiting:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # Each event is serialised once, though it is stored in up to three places.
        self._rows = {id(event): self._event_to_row(event) for event in self._waiting}
        try:
            for run_id, events in groupby(self._waiting, lambda event: event.run_id):
                with self.run_connection(run_id) as connection:
                    connection.execute(SqlEventLogStorageTable.insert(), [self._rows[id(event)] for event in events])
            indexed = [e for e in self._waiting if e.is_dagster_event and e.dagster_event_type in _INDEXED]
            if indexed:
                self._store_in_index(indexed)
            self._waiting.clear()
        finally:
            self._rows = {}

    def _store_in_index(self, events: Sequence[EventLogEntry]) -> None:
        with self.index_transaction() as connection:
            known = self._known_at == self._writes()
            connection.execute(SqlEventLogStorageTable.insert(), [self._rows[id(event)] for event in events])
            last = connection.execute(db.select(db.func.max(SqlEventLogStorageTable.c.id))).scalar()
            assert last is not None  # noqa: S101  (rows were just inserted)
            # One transaction inserts in order, so the ids are the last ones, without gaps.
            numbered = list(zip(events, range(last - len(events) + 1, last + 1), strict=True))
            of_assets = [(event, number) for event, number in numbered if event.dagster_event_type in ASSET_EVENTS]
            if of_assets:
                self._store_asset_event_tags(connection, *map(list, zip(*of_assets, strict=True)))
            newest = {(_asset_key(e), e.dagster_event_type): (e, number) for e, number in of_assets}
            for event, number in newest.values():
                self._store_asset_event(connection, event, number)
            for event, number in numbered:
                if event.dagster_event_type in ASSET_CHECK_EVENTS:
                    self.store_asset_check_event(event, number)
            for asset_key, _ in newest:
                self._newest.pop(asset_key, None)
            if known:
                self._known_at = self._writes()

    def _store_asset_check_evaluation_planned(self, event: EventLogEntry, event_id: int | None) -> None:
        planned = event.get_dagster_event().asset_check_planned_data
        subset = planned.partitions_subset
        row = {
            "asset_key": planned.asset_key.to_string(),
            "check_name": planned.check_name,
            "run_id": event.run_id,
            "execution_status": AssetCheckExecutionRecordStatus.PLANNED.value,
            "evaluation_event": self._rows[id(event)]["event"],
            "evaluation_event_timestamp": _written_at(event),
            "evaluation_event_storage_id": event_id,
        }
        keys = list(subset.get_partition_keys()) if subset else [None]
        with self.index_connection() as connection:
            connection.execute(AssetCheckExecutionsTable.insert(), [{**row, "partition": key} for key in keys])

    def _update_asset_check_evaluation(self, event: EventLogEntry, event_id: int | None) -> None:
        evaluation = event.get_dagster_event().asset_check_evaluation_data
        if evaluation.partition is None and self._store_for_range(event, event_id):
            return
        super()._update_asset_check_evaluation(event, event_id)

    def _store_runless_asset_check_evaluation(self, event: EventLogEntry, event_id: int | None) -> None:
        """As Dagster's own, which takes one outcome per day without a run, ever: the newest counts."""
        evaluation = event.get_dagster_event().asset_check_evaluation_data
        checks = AssetCheckExecutionsTable.c
        with self.index_connection() as connection:
            connection.execute(
                AssetCheckExecutionsTable.delete().where(
                    checks.asset_key == evaluation.asset_key.to_string(),
                    checks.check_name == evaluation.check_name,
                    checks.run_id == event.run_id,
                    checks.partition == evaluation.partition,
                )
            )
        super()._store_runless_asset_check_evaluation(event, event_id)

    def _store_for_range(self, event: EventLogEntry, event_id: int | None) -> bool:
        """Give every planned day of the run the outcome; False where none was planned."""
        evaluation = event.get_dagster_event().asset_check_evaluation_data
        of_range = {
            "of_asset": evaluation.asset_key.to_string(),
            "of_check": evaluation.check_name,
            "of_run": event.run_id,
        }
        status = AssetCheckExecutionRecordStatus
        with self.index_connection() as connection:
            last = connection.execute(_LAST_OF_RANGE, of_range).scalar()
            if last is None:
                return False
            # Every day of the range has the outcome; the findings stand once, on the last one.
            outcome = {
                "execution_status": (status.SUCCEEDED if evaluation.passed else status.FAILED).value,
                "evaluation_event": serialize_value(_without_findings(event)),
                "evaluation_event_timestamp": _written_at(event),
                "evaluation_event_storage_id": event_id,
            }
            connection.execute(_ALL_OF_RANGE, of_range | outcome)
            connection.execute(_FINDINGS, {"of_id": last, "evaluation_event": self._rows[id(event)]["event"]})
        return True


class ScratchEventLogStorage(InMemoryEventLogStorage):
    """Keeps which steps succeeded until the run is deleted, and nothing else.

    For runs whose events are read from their results and stored elsewhere; the warehouse asks at a run's end whether
    all steps succeeded.
    """

    @property
    def asset_records_have_last_observation(self) -> bool:
        """What there is stands in the records, so that Dagster looks for nothing else."""
        return True

    def store_event(self, event: EventLogEntry) -> None:
        """Forget it, unless a step succeeded."""
        if event.dagster_event_type == DagsterEventType.STEP_SUCCESS:
            super().store_event(event)  # type: ignore[no-untyped-call]

    def get_asset_records(self, asset_keys: Sequence[AssetKey] | None = None) -> Sequence[AssetRecord]:
        """None of any asset."""
        return []


def _close(connection: db.Connection) -> None:
    """Close the file, too: a pool of one connection keeps it open otherwise."""
    connection.close()
    connection.engine.dispose()


def _asset_key(event: EventLogEntry) -> AssetKey:
    key = event.dagster_event and event.dagster_event.asset_key
    return key or AssetKey([])


def _without_findings(event: EventLogEntry) -> EventLogEntry:
    dagster_event = event.get_dagster_event()
    evaluation = dagster_event.asset_check_evaluation_data
    slim = AssetCheckEvaluation(**{**{name: getattr(evaluation, name) for name in _FIELDS}, "metadata": {}})
    return event._replace(dagster_event=dagster_event._replace(event_specific_data=slim))


def _written_at(event: EventLogEntry) -> datetime:
    """As Dagster stores it: UTC without a zone."""
    return datetime.fromtimestamp(event.timestamp, UTC).replace(tzinfo=None)
