"""Dagster's SQLite event log, storing a batch of events with one statement per database.

A run over 90 days writes a planned and a materialised event per day and asset. Dagster hands them
over in batches, but its SQLite storage then stores them one by one, with three connections each.
Named in dagster.yaml; nothing else knows of it. Belongs here: only that.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as db
from dagster import EventLogEntry
from dagster._core.events import ASSET_EVENTS
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._serdes import ConfigurableClassData

from hospital_assets.settings import load_settings

_BATCH_SIZE = "1000"


class BatchingSqliteEventLogStorage(SqliteEventLogStorage):
    """As Dagster's own, but a batch is one transaction in the run's database and one in the index."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir, inst_data)
        # Dagster batches only when told so.
        os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", _BATCH_SIZE)

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        """No configuration: events live where Dagster's default storage puts them."""
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> BatchingSqliteEventLogStorage:
        """Make the storage in `$DAGSTER_HOME/history/runs`; without it, in the data directory."""
        home = Path(os.environ.get("DAGSTER_HOME") or load_settings().dagster_home)
        return cls(str(home / "history" / "runs"), inst_data)

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store planned and materialised events of one run; any other batch one by one."""
        run_id = events[0].run_id
        if not all(
            event.run_id == run_id
            and event.is_dagster_event
            and event.dagster_event_type in ASSET_EVENTS
            for event in events
        ):
            super().store_event_batch(events)
            return
        rows = [self._event_to_row(event) for event in events]
        with self.run_connection(run_id) as connection:
            connection.execute(SqlEventLogStorageTable.insert(), rows)
        with self.index_transaction() as connection:
            connection.execute(SqlEventLogStorageTable.insert(), rows)
            last = connection.execute(db.select(db.func.max(SqlEventLogStorageTable.c.id))).scalar()
            assert last is not None  # noqa: S101  (rows were just inserted)
            # One transaction inserts in order, so the ids are the last ones, without gaps.
            ids = range(last - len(events) + 1, last + 1)
            self._store_asset_event_tags(connection, events, list(ids))
            newest = {
                (event.get_dagster_event().asset_key, event.dagster_event_type): (event, event_id)
                for event, event_id in zip(events, ids, strict=True)
            }
            for event, event_id in newest.values():
                self._store_asset_event(connection, event, event_id)
