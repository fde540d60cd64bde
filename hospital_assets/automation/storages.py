"""Dagster's SQLite storages of runs and schedules, over kept connections.

Dagster's own make an engine and open the file for each statement, and ask before most of them which tables and
migrations there are: a third of what the daemon does while nothing happens. Named in storage-sqlite.yaml; nothing else
knows of them. Every private name that they lean on is pinned by a test (test_upstream).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import sqlalchemy as db
from dagster._core.storage.runs.sqlite import SqliteRunStorage
from dagster._core.storage.schedules.sqlite import SqliteScheduleStorage

from hospital_assets.automation.event_log import BUSY_TIMEOUT_SECONDS, history_home, remembered


class _Kept:
    """A storage whose connections stay open, and which remembers what is there: nothing of that ever goes."""

    def __init__(self, conn_string: str, inst_data: Any = None) -> None:
        # As many connections as there are threads that want one at a time.
        self._engine = db.create_engine(
            conn_string, max_overflow=-1, connect_args={"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False}
        )
        self._there: set[tuple[str, ...]] = set()
        super().__init__(conn_string, inst_data)  # type: ignore[call-arg]

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        """No configuration: they live where Dagster's default storages put them."""
        return {}

    @contextmanager
    def connect(self) -> Iterator[db.Connection]:
        """A connection, in a transaction."""
        with self._engine.begin() as connection:
            yield connection

    def has_built_index(self, migration_name: str) -> bool:
        """Whether a migration of the storage was made."""
        return remembered(self._there, "migration", super().has_built_index, migration_name)  # type: ignore[misc]

    def dispose(self) -> None:
        """Close what is open."""
        super().dispose()  # type: ignore[misc]
        self._engine.dispose()


class HospitalRunStorage(_Kept, SqliteRunStorage):
    """The runs of a data directory."""

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Mapping[str, Any]) -> HospitalRunStorage:
        """Make the storage in `$DAGSTER_HOME/history`; without it, in the data directory."""
        return cls.from_local(str(history_home() / "history"), inst_data)

    def has_run_stats_index_cols(self) -> bool:
        """Whether runs say when they began and ended."""
        return remembered(self._there, "columns", super().has_run_stats_index_cols)


class HospitalScheduleStorage(_Kept, SqliteScheduleStorage):
    """The ticks and states of a data directory's sensors and schedules.

    Moments to come are passed over. A clock that was ahead has noted them, and Dagster evaluates nothing until then.
    """

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Mapping[str, Any]) -> HospitalScheduleStorage:
        """Make the storage in `$DAGSTER_HOME/schedules`; without it, in the data directory."""
        return cls.from_local(str(history_home() / "schedules"), inst_data)  # type: ignore[return-value]

    def _has_instigators_table(self, conn: db.Connection) -> bool:
        return remembered(self._there, "table", partial(super()._has_instigators_table, conn))

    def get_instigator_state(self, origin_id: str, selector_id: str) -> Any:
        """What is noted of a sensor or schedule."""
        state = super().get_instigator_state(origin_id, selector_id)
        return None if state is None else _until_now(state)

    def all_instigator_state(self, *args: Any, **named: Any) -> Sequence[Any]:
        """What is noted of some sensors and schedules."""
        return [_until_now(state) for state in super().all_instigator_state(*args, **named)]

    def get_ticks(
        self,
        origin_id: str,
        selector_id: str,
        before: float | None = None,
        after: float | None = None,
        limit: int | None = None,
        statuses: Sequence[Any] | None = None,
    ) -> Sequence[Any]:
        """The newest evaluations of a sensor or schedule."""
        return super().get_ticks(origin_id, selector_id, min(before or math.inf, time.time()), after, limit, statuses)


def _until_now(state: Any) -> Any:
    """A state without the moments that are still to come."""
    data = state.instigator_data
    noted = data._asdict() if data else {}
    ahead = [name for name, at in noted.items() if name.endswith("_timestamp") and (at or 0.0) > time.time()]
    return state.with_data(data._replace(**dict.fromkeys(ahead))) if ahead else state
