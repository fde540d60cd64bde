"""The DuckDB file: one connection per process, one writer at a time, all-or-nothing writes.

Belongs here: opening and locking the file, and replacing a table or a span of its service days in
one transaction. Knows contracts; does not know Dagster.

DuckDB lets one process open a file for writing and then no other process open it at all. So a
process first takes an advisory lock on a side file, waits its turn there, and says who holds it.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import fcntl
import json
import os
import random
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import IO, Any, ClassVar

import duckdb
import narwhals as nw
import polars as pl

from hospital_assets.contracts import LAYERS, PARTITION_COLUMN, Contract
from hospital_assets.directory import refuse_newer, stamp_new
from hospital_assets.files import StateError, is_locked, read_state, replacing
from hospital_assets.settings import EngineSettings
from hospital_assets.warehouse.dialect import Frame, lazy, polars_of, quoted, relation_of, with_sql
from hospital_assets.warehouse.errors import WarehouseError, redacted, without_values

#: Stored type <- delivered types that become it without changing a value.
_LOSSLESS: dict[str, frozenset[str]] = {
    "BIGINT": frozenset(
        {"TINYINT", "SMALLINT", "INTEGER", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "DECIMAL(38,0)"}
    ),
    "INTEGER": frozenset({"TINYINT", "SMALLINT", "UTINYINT", "USMALLINT"}),
    "DOUBLE": frozenset({"FLOAT", "TINYINT", "SMALLINT", "INTEGER", "DECIMAL(38,0)", "HUGEINT", "BIGINT"}),
    "VARCHAR": frozenset({"JSON"}),
}


#: How long a run waits: longer than a batch of the watcher takes on a busy machine, since a run that gives up has to be
#: asked for again.
RUN_WAIT_SECONDS = 600.0


class SchemaMismatchError(WarehouseError):
    """A frame, or a stored table, does not have exactly the columns and types of its contract."""


class WarehouseLockedError(WarehouseError):
    """Another process kept the warehouse file for longer than we wait."""


@dataclass(frozen=True)
class Period:
    """A span of local service days, half-open."""

    first: date
    end: date

    def __str__(self) -> str:
        return f"[{self.first}, {self.end})"

    def holds(self) -> nw.Expr:
        """Whether a row's service day is one of these."""
        day = nw.col(PARTITION_COLUMN)
        return (day >= nw.lit(self.first)) & (day < nw.lit(self.end))


@dataclass(frozen=True)
class Written:
    """What a write did: rows now in the table or period, and seconds it took."""

    rows: int
    seconds: float


@dataclass
class Warehouse:
    """The warehouse file opened by this process. Use `open_warehouse`.

    Attributes:
        in_memory_rows: how many rows at most are read into memory to be computed there.
        writes: how often tables were replaced or dropped since it was opened.
    """

    file: Path
    connection: duckdb.DuckDBPyConnection
    in_memory_rows: int = EngineSettings.in_memory_rows
    writes: int = 0
    _known_tables: set[str] = field(default_factory=set)
    _kinds: dict[str, str] | None = None
    _counts: dict[str, dict[Period | None, int]] = field(default_factory=dict)
    _frames: dict[str, dict[Period | None, pl.DataFrame]] = field(default_factory=dict)
    _is_in_transaction: bool = False
    _after_commit: dict[str, tuple[bool, Callable[[], None]]] = field(default_factory=dict)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """All or nothing; inside another transaction it is part of that one."""
        if self._is_in_transaction:
            yield self.connection
            return
        self.connection.begin()
        self._is_in_transaction = True
        try:
            yield self.connection
            self.connection.commit()
        except BaseException:
            # The connection may already have rolled back (or be gone) after a fatal error.
            with contextlib.suppress(duckdb.Error):
                self.connection.rollback()
            self._after_commit.clear()
            self._known_tables.clear()
            self._kinds = None
            self._counts.clear()
            self._frames.clear()
            raise
        finally:
            self._is_in_transaction = False
        while self._after_commit:
            name = min(self._after_commit, key=lambda name: self._after_commit[name][0])
            self._after_commit.pop(name)[1]()

    def goes_on(self) -> bool:
        """Whether more can be done after an error: a transaction ends with its first."""
        try:
            self.connection.execute("select 1")
        except duckdb.Error:
            return False
        return True

    @contextlib.contextmanager
    def second_connection(self) -> Iterator[Warehouse]:
        """The same file on a connection of its own, for another thread; so are its temporary tables."""
        with contextlib.closing(self.connection.cursor()) as connection:
            _set_session(connection)
            yield Warehouse(self.file, connection, self.in_memory_rows, self.writes)

    def after_commit(self, name: str, action: Callable[[], None], *, is_last: bool = False) -> None:
        """Do something once the rows are stored: now, or when the transaction around it ends.

        Args:
            name: what it is; asked for twice in a transaction, it is done once.
            action: what to do; it is not done when the transaction fails.
            is_last: do it after all others: it says that they are done.
        """
        if self._is_in_transaction:
            self._after_commit[name] = is_last, action
        else:
            action()

    def exists(self, contract: Contract) -> bool:
        """Whether the table has ever been written."""
        return contract.qualified_name in self.stored_kinds()

    def make_once(self, qualified_name: str, columns: str) -> None:
        """Make a table that no contract describes, with columns as SQL has them, unless it is there.

        Even where it is, `create if not exists` would have every lazy frame bound anew.
        """
        if qualified_name not in self.stored_kinds():
            self.connection.execute(f"create schema if not exists {qualified_name.partition('.')[0]}")
            self.connection.execute(f"create table {qualified_name} ({columns})")
            self.stored_kinds()[qualified_name] = "BASE TABLE"

    def is_view(self, contract: Contract) -> bool:
        """Whether the rows are stored elsewhere, and the table only shows them."""
        return self.stored_kinds().get(contract.qualified_name) == "VIEW"

    def stored_kinds(self) -> dict[str, str]:
        """Qualified name -> `BASE TABLE` or `VIEW`, remembered until a transaction is rolled back."""
        if self._kinds is None:
            self._kinds = dict(
                self.connection.execute(
                    "select table_schema || '.' || table_name, table_type from information_schema.tables "
                    "where table_catalog = current_database()"
                ).fetchall()
            )
        return self._kinds

    def read(self, contract: Contract, period: Period | None = None, *, may_be_absent: bool = False) -> Frame:
        """A lazy frame over a table, or over some service days of it.

        A nullable column that the contract has gained since the table was last written is null.

        Args:
            may_be_absent: whether a table that was never written has no rows.

        Raises:
            WarehouseError: the table was never written.
        """
        if not self.exists(contract):
            if may_be_absent:
                columns = ", ".join(f"cast(null as {c.duckdb_type}) as {quoted(c.name)}" for c in contract.columns)
                return lazy(self.connection.sql(f"select {columns} where false"))
            raise WarehouseError(
                f"{contract.name} is not in the warehouse yet: materialise the asset '{contract.name}' first"
            )
        table = self.connection.table(_qualified(contract))
        gained = {
            c.name: f"cast(null as {c.duckdb_type})"
            for c in contract.columns
            if c.nullable and c.name not in table.columns
        }
        frame = with_sql(lazy(table), gained) if gained else lazy(table)
        if period is not None and contract.partitioned:
            frame = frame.filter(period.holds())
        return frame

    def fits_in_memory(self, asked: Iterable[tuple[Contract, Period | None]]) -> bool:
        """Whether tables, or some service days of them, are so small together that memory is the quicker place."""
        rows = 0
        for contract, period in asked:
            counts = self._counts.setdefault(contract.name, {})
            if period not in counts:
                counts[period] = self.count(contract, period) if self.exists(contract) else 0
            rows += counts[period]
        return rows <= self.in_memory_rows

    def in_memory(self, contract: Contract, period: Period | None = None, *, may_be_absent: bool = False) -> Frame:
        """As `read`, as a Polars frame; read once for all that ask until the table is written."""
        frames = self._frames.setdefault(contract.name, {})
        if period not in frames:
            frame = self.read(contract, period, may_be_absent=may_be_absent)
            read: pl.DataFrame = frame.collect("polars").to_native()
            if sum(known.height for of_table in self._frames.values() for known in of_table.values()) > (
                _MOST_REMEMBERED * self.in_memory_rows
            ):
                self._frames.clear()
                frames = self._frames.setdefault(contract.name, {})
            frames[period] = read
        return lazy(frames[period])

    def wrote(self, contract: Contract) -> None:
        """The rows of a table change: what was remembered of it goes."""
        self.writes += 1
        self._counts.pop(contract.name, None)
        self._frames.pop(contract.name, None)

    def replace(
        self,
        contract: Contract,
        frame: Frame,
        period: Period | None = None,
        *,
        also: Callable[[duckdb.DuckDBPyConnection], None] = lambda _: None,
        cause: str = "",
    ) -> Written:
        """Replace a table, or some service days of it, by the rows of a frame.

        One transaction: after any failure (also a killed process) the old rows are still there.
        An empty frame leaves an empty table or period.

        Args:
            frame: exactly the contract's columns, in any order.
            also: bookkeeping that belongs to the same transaction.
            cause: why, as in the id of a run; for the history of a mirror.

        Raises:
            SchemaMismatchError: columns are missing, extra, or would change their values.
            WarehouseError: rows lie outside `period`, the stored table differs from the contract, or the rows could not
                be computed (DuckDB's reason is the cause).
        """
        started = time.perf_counter()
        self.wrote(contract)
        shown_from_lake = self.is_view(contract)
        if shown_from_lake and period is not None:
            # Its other days would have to be copied, and may be more than this file should hold.
            raise WarehouseError(
                f"{contract.name} is stored in the lake, where Spark wrote it. Go on with the engine "
                f"it was built with, or build it anew: hospital build --rebuild {contract.name}"
            )
        source = relation_of(frame)
        if source is None:
            with without_values(f"{contract.name}: the rows could not be computed; the table is unchanged"):
                collected = polars_of(frame).collect()
            source = self.connection.from_arrow(collected.to_arrow())
        assert_columns(contract, dict(zip(source.columns, map(str, source.types), strict=True)))
        selected = ", ".join(map(quoted, contract.column_names))
        order = ", ".join(quoted(name) for name in contract.order_by)
        try:
            with self.transaction() as connection:
                if period is None:
                    if shown_from_lake:
                        connection.execute(f"drop view {_qualified(contract)}")
                    connection.execute(f"create or replace table {_definition(contract)}")
                    self.stored_kinds()[contract.qualified_name] = "BASE TABLE"
                else:
                    self._prepare_partitioned(contract)
                    _delete(connection, contract, period)
                rows = _insert(connection, contract, source, selected, order)
                if period is not None:
                    inside = self.count(contract, period)
                    if inside != rows:
                        raise WarehouseError(
                            f"{contract.name}: {rows - inside:,} of {rows:,} rows have a "
                            f"{PARTITION_COLUMN} outside {period} or none; nothing was written"
                        )
                self._note_change(contract, period, cause)
                also(connection)
        except duckdb.Error as error:
            raise WarehouseError(
                f"{contract.name}: the rows could not be computed or stored ({redacted(error)}); the table is unchanged"
            ) from None
        return Written(rows=rows, seconds=time.perf_counter() - started)

    def count(self, contract: Contract, period: Period | None = None) -> int:
        """Rows of a table, or of some service days of it."""
        ((rows,),) = self.connection.execute(f"select count(*) from {_rows_of(contract, period)}").fetchall()
        return int(rows)

    def rows_of(self, contract: Contract, period: Period | None = None) -> duckdb.DuckDBPyRelation:
        """The rows of a table, or of some service days of it, as they are stored."""
        return self.connection.sql(f"from {_rows_of(contract, period)}")

    def head(self, contract: Contract, period: Period | None, columns: Sequence[str], rows: int) -> pl.DataFrame:
        """Some rows of a table, or of some service days of it."""
        selected = ", ".join(map(quoted, columns))
        query = f"select {selected} from {_rows_of(contract, period)} limit {rows:d}"
        found: pl.DataFrame = self.connection.sql(query).pl()
        return found

    def count_by_key(self, contract: Contract, keys: Sequence[str]) -> dict[str, int]:
        """Rows of each partition of a contiguous range; keys are the first days of periods."""
        starts = sorted(date.fromisoformat(key) for key in keys)
        counted = self.connection.execute(
            f"select {quoted(PARTITION_COLUMN)}, count(*) from {_qualified(contract)} "
            f"where {quoted(PARTITION_COLUMN)} >= ? group by all",
            [starts[0]],
        ).fetchall()
        counts = dict.fromkeys(keys, 0)
        for day, rows in counted:
            place = bisect.bisect_right(starts, day) - 1
            counts[starts[place].isoformat()] += rows
        return counts

    def bytes_on_disk(self) -> int:
        """Size of the database file and its write-ahead log."""
        wal = self.file.with_name(self.file.name + ".wal")
        return sum(path.stat().st_size for path in (self.file, wal) if path.exists())

    def forget_checkpoints(self) -> None:
        """Drop the temporary tables that `dialect.checkpoint` made."""
        for (name,) in self.connection.execute(
            "select table_name from duckdb_tables() where temporary and table_name like 'checkpoint_%'"
        ).fetchall():
            self.connection.execute(f"drop table temp.main.{quoted(name)}")

    def _prepare_partitioned(self, contract: Contract) -> None:
        """Make the table, or bring an older one up to the contract where that loses nothing."""
        if contract.name in self._known_tables:
            return
        if not self.exists(contract):
            self.connection.execute(f"create table {_definition(contract)}")
            self.stored_kinds()[contract.qualified_name] = "BASE TABLE"
        stored = stored_columns(self.connection, contract)[contract.qualified_name]
        self.add_gained(contract, stored)
        assert_stored(contract, stored, wanted_columns(contract))
        self._known_tables.add(contract.name)

    def add_gained(self, contract: Contract, stored: Collection[str]) -> None:
        """Add the nullable columns that a stored table, whose columns are given, lacks; no row is written anew."""
        for column in contract.columns:
            if column.name not in stored and column.nullable:
                self.connection.execute(
                    f"alter table {_qualified(contract)} add column {quoted(column.name)} {column.duckdb_type}"
                )

    def drop(self, contract: Contract) -> None:
        """Remove a table, so that the next write makes it anew."""
        self.wrote(contract)
        kind = "view" if self.is_view(contract) else "table"
        self.connection.execute(f"drop {kind} if exists {_qualified(contract)}")
        self._note_change(contract, None, "rebuilt")
        self._known_tables.discard(contract.name)
        self.stored_kinds().pop(contract.qualified_name, None)

    def move_away(self, contract: Contract) -> None:
        """Move a table away, so that the next write makes it anew; see `put_back`."""
        self.put_back(contract)
        if not self.exists(contract) or self.is_view(contract):
            # Rows of a view are stored elsewhere.
            self.drop(contract)
            return
        self.wrote(contract)
        with self.transaction() as connection:
            connection.execute(f"alter table {_qualified(contract)} rename to {quoted(contract.name + ASIDE)}")
            self._note_change(contract, None, "rebuilt")
        self._known_tables.discard(contract.name)
        self._kinds = None

    def put_back(self, contract: Contract) -> None:
        """Have a table again that was moved away, unless it was made anew."""
        if contract.qualified_name + ASIDE not in self.stored_kinds():
            return
        aside = f"{quoted(contract.layer)}.{quoted(contract.name + ASIDE)}"
        with self.transaction() as connection:
            if self.exists(contract):
                connection.execute(f"drop table {aside}")
            else:
                connection.execute(f"alter table {aside} rename to {quoted(contract.name)}")
                self._note_change(contract, None, "put back")
        self._kinds = None

    def _note_change(self, contract: Contract, period: Period | None, cause: str) -> None:
        """Note what has to be mirrored, from the first mirroring on; belongs to the transaction of the change."""
        if CHANGES[0] not in self.stored_kinds():
            return
        days = [None, None] if period is None else [period.first, period.end]
        # Who wrote them last made them what they are; a note of each would grow for as long as nothing is mirrored.
        self.connection.execute(
            f"delete from {CHANGES[0]} where table_name = ? "
            "and (?::date is null or (first_day >= ?::date and end_day <= ?::date))",
            [contract.name, days[0], *days],
        )
        self.connection.execute(f"insert into {CHANGES[0]} values (?, ?, ?, ?)", [contract.name, *days, cause])

    def show(
        self, contract: Contract, select: str, *, also: Callable[[duckdb.DuckDBPyConnection], None] = lambda _: None
    ) -> None:
        """Make a table of rows that are stored elsewhere.

        Args:
            select: how DuckDB reads them.
            also: bookkeeping that belongs to the same transaction.
        """
        self.wrote(contract)
        with without_values(f"{contract.name} cannot be read"), self.transaction() as connection:
            if not self.is_view(contract):
                self.drop(contract)
            connection.execute(f"create or replace view {_qualified(contract)} as {select}")
            self.stored_kinds()[contract.qualified_name] = "VIEW"
            also(connection)


#: What changed since it was mirrored: a table and service days of it, null for all.
CHANGES = ("main.unmirrored", "table_name varchar not null, first_day date, end_day date, cause varchar not null")
#: Rows of tables that stay in memory for the next step, as a multiple of those that one step may read there.
_MOST_REMEMBERED = 4


def stored_columns(
    connection: duckdb.DuckDBPyConnection, contract: Contract | None = None
) -> dict[str, dict[str, str]]:
    """Stored table, as `schema.table`, -> its columns and their types as contracts spell them; views are left out."""
    of_one = "and schema_name = ? and table_name = ?" if contract else ""
    found: dict[str, dict[str, str]] = {}
    for table, column, kind in connection.execute(
        "select schema_name || '.' || table_name, column_name, data_type "
        "from duckdb_columns() join duckdb_tables() using (database_name, schema_name, table_name) "
        f"where database_name = current_database() {of_one} order by all",
        [contract.layer, contract.name] if contract else [],
    ).fetchall():
        found.setdefault(table, {})[column] = as_contracts_say(kind)
    return found


def wanted_columns(contract: Contract) -> dict[str, tuple[str, bool]]:
    """Column -> type, and whether it may be null, as `assert_stored` takes them."""
    return {c.name: (c.duckdb_type, c.nullable) for c in contract.columns}


def differences(stored: Mapping[str, object], wanted: Mapping[str, tuple[object, bool]]) -> list[str]:
    """How a stored table, as column -> type, is not as its contract has it, but for nullable columns that it lacks."""
    return [
        *(f"{name} is stored but not in the contract" for name in sorted(set(stored) - set(wanted))),
        *(
            f"{name} is required by the contract but not stored"
            for name, (_, is_nullable) in wanted.items()
            if name not in stored and not is_nullable
        ),
        *(
            f"{name} is stored as {stored[name]} but the contract says {kind}"
            for name, (kind, _) in wanted.items()
            if name in stored and stored[name] != kind
        ),
    ]


def assert_stored(
    contract: Contract, stored: Mapping[str, object], wanted: Mapping[str, tuple[object, bool]], *others: str
) -> None:
    """Refuse a stored table that is not as its contract has it, but for nullable columns that it lacks.

    Args:
        stored: column -> type.
        wanted: column -> type, and whether it may be null.
        others: other differences, in words.

    Raises:
        SchemaMismatchError: it differs; says how, and the remedy.
    """
    if differing := [*differences(stored, wanted), *others]:
        raise SchemaMismatchError(
            f"{contract.name}: the stored table differs from the contract ({'; '.join(differing)}). "
            f"Rebuild it: hospital build --rebuild {contract.name}, or after an "
            "upgrade of the program all that changed: hospital upgrade"
        )


def as_contracts_say(catalog_type: str) -> str:
    """A type of DuckDB's catalog as contracts spell it."""
    return catalog_type.replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ")


def _rows_of(contract: Contract, period: Period | None) -> str:
    """The rows of a table, or of some service days of it, as they follow `from`."""
    if period is None or not contract.partitioned:
        return _qualified(contract)
    day = quoted(PARTITION_COLUMN)
    return f"{_qualified(contract)} where {day} >= date '{period.first}' and {day} < date '{period.end}'"


#: Behind the name of a table while it is made anew.
ASIDE = "__aside"


def _qualified(contract: Contract) -> str:
    return f"{quoted(contract.layer)}.{quoted(contract.name)}"


def _definition(contract: Contract) -> str:
    return f"{_qualified(contract)} ({definition_of(contract)})"


def definition_of(contract: Contract) -> str:
    """The columns of a table as `create table` takes them."""
    return ", ".join(
        f"{quoted(c.name)} {c.duckdb_type}" + (f" using compression {c.compression}" if c.compression else "")
        for c in contract.columns
    )


def _delete(connection: duckdb.DuckDBPyConnection, contract: Contract, period: Period) -> None:
    connection.execute(
        f"delete from {_qualified(contract)} where {quoted(PARTITION_COLUMN)} >= ? and {quoted(PARTITION_COLUMN)} < ?",
        [period.first, period.end],
    )


def _insert(
    connection: duckdb.DuckDBPyConnection,
    contract: Contract,
    source: duckdb.DuckDBPyRelation,
    selected: str,
    order: str,
) -> int:
    statement = f"insert into {_qualified(contract)} by name select {selected} from source" + (
        f" order by {order}" if order else ""
    )
    return int(connection.execute(statement).fetchall()[0][0])


def assert_columns(contract: Contract, delivered: Mapping[str, str]) -> None:
    """Compare the columns of a frame, with their DuckDB types, with its contract.

    Raises:
        SchemaMismatchError: columns are missing, extra, or would change their values.
    """
    wanted = {c.name: c.duckdb_type for c in contract.columns}
    problems = [
        *(f"missing column {name} ({wanted[name]})" for name in wanted if name not in delivered),
        *(f"unknown column {name}" for name in delivered if name not in wanted),
        *(
            f"column {name} is {delivered[name]} but the contract says {kind}"
            for name, kind in wanted.items()
            if name in delivered and not _storable(delivered[name], kind)
        ),
    ]
    if problems:
        raise SchemaMismatchError(f"{contract.name}: {'; '.join(problems)}; nothing was written")


def _storable(delivered: str, wanted: str) -> bool:
    if as_contracts_say(delivered) == as_contracts_say(wanted) or delivered == '"NULL"':
        return True
    return delivered in _LOSSLESS.get(wanted, frozenset())


class _FileLock:
    """An advisory lock on a side file that tells who holds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def try_acquire(self) -> bool:
        file = self.path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        file.seek(0)
        file.truncate()
        json.dump({"pid": os.getpid(), "since": time.strftime("%H:%M:%S")}, file)
        file.flush()
        self._file = file
        return True

    def holder(self) -> str:
        said = self.said()
        return f"process {said['pid']} since {said['since']}" if said else "another process"

    def said(self) -> dict[str, Any]:
        """What the holder has written; empty where it is just being written."""
        try:
            return read_state(self.path, "remove it", "pid", "since")
        except (OSError, StateError):
            return {}

    def release(self) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._file.close()
            self._file = None


def holder_of(file: Path) -> str:
    """Which process has the warehouse file open for writing; empty where none has."""
    lock = _FileLock(_lock_file(file))
    return lock.holder() if is_locked(lock.path) else ""


def held_since(file: Path) -> tuple[int, datetime] | None:
    """The process that has the warehouse file open for writing (0: not known), and since when; None where none has."""
    lock = _FileLock(_lock_file(file))
    if not is_locked(lock.path):
        return None
    process = lock.said().get("pid")
    since = datetime.fromtimestamp(lock.path.stat().st_mtime, UTC)
    return process if isinstance(process, int) else 0, since


def is_waited_for(file: Path) -> bool:
    """Whether a process waits for the warehouse file, which another has open."""
    return is_locked(_waiting_file(file), exclusive=True)


def _lock_file(file: Path) -> Path:
    return file.with_name(file.name + ".lock")


def _waiting_file(file: Path) -> Path:
    return file.with_name(file.name + ".waiting")


@dataclass
class _Opened:
    """A warehouse this process has open, and for how many users."""

    warehouse: Warehouse
    lock: _FileLock
    users: int = 0
    by_file: ClassVar[dict[Path, _Opened]] = {}


@contextlib.contextmanager
def open_warehouse(
    file: Path,
    *,
    wait_seconds: float = 60.0,
    memory_limit: str = "1GB",
    in_memory_rows: int = EngineSettings.in_memory_rows,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Warehouse]:
    """Open the warehouse; users within one process share one connection.

    Args:
        file: the DuckDB file; made with its folder when absent.
        wait_seconds: how long to wait while another process has it.
        memory_limit: DuckDB's limit; beyond it, it spills to disk next to the file.
        in_memory_rows: how many rows at most are computed in memory; the first user decides.
        say: called once with a message when we have to wait.

    Raises:
        WarehouseLockedError: still locked after `wait_seconds`; names the holder.
        DirectoryVersionError: a newer program has written the directory.
    """
    file = file.resolve()
    opened = _Opened.by_file.get(file)
    if opened is None:
        opened = _open(file, wait_seconds, memory_limit, in_memory_rows, say)
        _Opened.by_file[file] = opened
    opened.users += 1
    try:
        yield opened.warehouse
    finally:
        opened.users -= 1
        if opened.users == 0:
            del _Opened.by_file[file]
            try:
                opened.warehouse.connection.close()
            finally:
                opened.lock.release()


def _open(
    file: Path, wait_seconds: float, memory_limit: str, in_memory_rows: int, say: Callable[[str], None]
) -> _Opened:
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = _FileLock(_lock_file(file))
    deadline = time.monotonic() + wait_seconds
    waiting = contextlib.ExitStack()
    is_announced = False

    def wait(holder: str) -> None:
        nonlocal is_announced
        if time.monotonic() >= deadline:
            raise WarehouseLockedError(
                f"{file.name} is in use by {holder}; waited {wait_seconds:g} s. Let it finish or "
                "end it, then run this again. To read while runs write, open a published copy."
            )
        if not is_announced:
            say(f"waiting for {file.name}, in use by {holder}")
            # Whoever looks sees by this lock that somebody waits.
            fcntl.flock(waiting.enter_context(_waiting_file(file).open("a")), fcntl.LOCK_SH)
            is_announced = True
        # Without jitter, waiters would wake together and collide again.
        time.sleep(random.uniform(0.05, 0.15))  # noqa: S311

    with waiting:
        while not lock.try_acquire():
            wait(lock.holder())
        try:
            # Who waited may have waited for an upgrade.
            refuse_newer(file.parent)
            if not file.exists():
                stamp_new(file.parent)
            while True:
                try:
                    connection = _connect(file, memory_limit)
                    break
                except duckdb.IOException as error:
                    # A program that does not know our lock (a DuckDB shell, a BI tool) has the file.
                    holder = re.search(r"PID (\d+)", str(error))
                    if "lock" not in str(error).lower():
                        raise WarehouseError(f"{file} cannot be opened: {error}") from error
                    wait(f"process {holder.group(1)}" if holder else "another process")
        except BaseException:
            lock.release()
            raise
    return _Opened(Warehouse(file, connection, in_memory_rows), lock)


@contextlib.contextmanager
def replacing_warehouse(file: Path) -> Iterator[Path]:
    """A file to write instead of the warehouse, which nobody has open; see `files.replacing`.

    Raises:
        WarehouseLockedError: a process has it.
    """
    lock = _FileLock(_lock_file(file))
    if file.resolve() in _Opened.by_file or not lock.try_acquire():
        raise WarehouseLockedError(f"{file.name} is in use by {lock.holder()}: let it finish, then run this again")
    try:
        with replacing(file, is_durable=True, mode=0o600) as temporary:
            yield temporary
            # The last writes of what is replaced are not for what replaces it.
            file.with_name(file.name + ".wal").unlink(missing_ok=True)
    finally:
        lock.release()


#: It multiplies expressions out along our chains of steps: seconds of planning for ten rows.
_PLANNING = {"disabled_optimizers": "partial_aggregate_pushdown"}


def scratch_connection(**config: str) -> duckdb.DuckDBPyConnection:
    """A connection without a file that plans, and reads clocks, as the warehouse's do."""
    connection = duckdb.connect(config={**_PLANNING, **config})
    connection.execute("set TimeZone = 'UTC'")
    return connection


def _connect(file: Path, memory_limit: str) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        str(file),
        config={
            "memory_limit": memory_limit,
            "temp_directory": str(file.parent / "spill"),
            # No table's meaning depends on the order of its rows; sorted inserts stay sorted.
            "preserve_insertion_order": False,
            **_PLANNING,
        },
    )
    for layer in LAYERS:
        connection.execute(f"create schema if not exists {quoted(layer)}")
    _set_session(connection)
    return connection


def _set_session(connection: duckdb.DuckDBPyConnection) -> None:
    """Settings that every connection needs."""
    # Instants are UTC everywhere; local time is resolved once, by zone, as data.
    connection.execute("set TimeZone = 'UTC'")
    connection.execute(f"set search_path = '{','.join(['main', *LAYERS])}'")
