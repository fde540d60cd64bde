"""Snapshots of the warehouse, and getting a table or a day of it back from one.

A snapshot is a copy of the warehouse file, taken while nothing writes: `snapshots/<moment>.duckdb`. It holds
what the warehouse holds, identifiers included, and is as large: `retention.keep_snapshots` of the policy says
how many are kept. For undoing; what was known at a moment is `as_of`, and publications have versions of their own.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb

from hospital_assets.access.audit import Event, audited, system_actor
from hospital_assets.contracts import CONTRACTS, PARTITION_COLUMN, Contract
from hospital_assets.files import replacing
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import Period, Warehouse, open_warehouse, replacing_warehouse
from hospital_assets.warehouse.dialect import literal, quoted
from hospital_assets.warehouse.errors import redacted, without_values
from hospital_assets.warehouse.loads import publish_ledger

_NAME = re.compile(r"\d{8}T\d{12}Z")


class SnapshotError(ValueError):
    """A snapshot cannot be taken or restored; the message says why and what to do."""


@dataclass(frozen=True)
class Snapshot:
    """A copy of the warehouse.

    Attributes:
        file: the copy.
        taken_at: when it was taken.
        bytes: its size.
    """

    file: Path
    taken_at: datetime
    bytes: int


@dataclass(frozen=True)
class Restored:
    """The result of a restore.

    Attributes:
        table: which.
        snapshot: from which.
        rows_before: rows in the table or its days before.
        rows_after: and afterwards: those of the snapshot, compared value by value.
        was_different: whether anything had changed.
    """

    table: str
    snapshot: Snapshot
    rows_before: int
    rows_after: int
    was_different: bool


def snapshots_folder(settings: Settings) -> Path:
    """Where snapshots are."""
    return settings.data_dir / "snapshots"


def snapshots(settings: Settings) -> list[Snapshot]:
    """Those that are kept, oldest first."""
    return [
        Snapshot(file, datetime.strptime(file.stem, "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC), file.stat().st_size)
        for file in sorted(snapshots_folder(settings).glob("*.duckdb"))
        if _NAME.fullmatch(file.stem)
    ]


def snapshot_of(settings: Settings, as_of: datetime | None) -> Snapshot:
    """The newest snapshot, or the newest of a time or before.

    Raises:
        SnapshotError: there is none.
    """
    every = snapshots(settings)
    if not every:
        raise SnapshotError("there is no snapshot: `hospital snapshot` takes one")
    found = [snapshot for snapshot in every if as_of is None or snapshot.taken_at <= as_of]
    if not found:
        raise SnapshotError(
            f"there is no snapshot from {as_of:%Y-%m-%d %H:%M} or before; the oldest is of "
            f"{every[0].taken_at:%Y-%m-%d %H:%M} UTC"
        )
    return found[-1]


def take_snapshot(settings: Settings, taken_at: datetime, keep: int) -> tuple[Snapshot, list[Snapshot]]:
    """Copy the warehouse as it is, audited; returns the snapshot and those that were deleted for it.

    Args:
        settings: the data directory.
        taken_at: the wall clock.
        keep: how many snapshots to keep, this one included.

    Raises:
        SnapshotError: nothing was ever built, or there is not enough room on the disk.
        AuditError: it cannot be audited; then no snapshot is taken.
    """
    if not settings.warehouse_file.exists():
        raise SnapshotError(f"{settings.warehouse_file} is missing: run `hospital build` first")
    event = Event(system_actor(), "snapshot", statement="the warehouse as it is")
    # While it is open here, no other process writes.
    with audited(settings, event), open_warehouse(settings.warehouse_file) as warehouse:
        _copy(warehouse, settings, taken_at)
        every = snapshots(settings)
        old = every[: max(0, len(every) - keep)]
        for snapshot in old:
            snapshot.file.unlink()
    return every[-1], old


def _copy(warehouse: Warehouse, settings: Settings, taken_at: datetime) -> None:
    """Copy the warehouse file: a snapshot is whole or not there."""
    folder = snapshots_folder(settings)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    warehouse.connection.execute("force checkpoint")
    size = warehouse.file.stat().st_size
    if shutil.disk_usage(folder).free < 2 * size:
        raise SnapshotError(
            f"a snapshot needs {size / 1e6:,.0f} MB and the disk is nearly full: lower "
            "retention.keep_snapshots in the policy, or make room"
        )
    file = folder / f"{taken_at.astimezone(UTC):%Y%m%dT%H%M%S%f}Z.duckdb"
    with replacing(file, is_durable=True, mode=0o600) as temporary:
        shutil.copyfile(warehouse.file, temporary)
        _read_whole(warehouse.connection, temporary)


def _read_whole(connection: duckdb.DuckDBPyConnection, copy: Path) -> None:
    """Read every value of a copy once: DuckDB compares the checksums of the blocks it reads, and of those only.

    Raises:
        SnapshotError: a block is missing or not what was written; the message names a table it belongs to.
    """
    connection.execute(f"attach {literal(str(copy))} as copied (read_only)")
    try:
        columns: dict[str, list[str]] = {}
        for schema, table, column, kind in connection.execute(
            "select schema_name, table_name, column_name, data_type from duckdb_columns() c "
            "join duckdb_tables() using (database_name, schema_name, table_name) where database_name = 'copied'"
        ).fetchall():
            value = f"{quoted(column)}::varchar" if kind == "VARIANT" else quoted(column)
            columns.setdefault(f"copied.{quoted(schema)}.{quoted(table)}", []).append(f"bit_xor(hash({value}))")
        for name, values in columns.items():
            try:
                connection.execute(f"select {', '.join(values)} from {name}").fetchall()
            except duckdb.Error as error:
                raise SnapshotError(
                    f"the warehouse file is damaged: {name.removeprefix('copied.')} cannot be read whole "
                    f"({redacted(error)}). No snapshot was taken: restore an earlier one (`hospital snapshots`), "
                    "or move the file away and run `hospital build`, made anew from the landed files"
                ) from None
    finally:
        connection.execute("detach copied")


def put_back(settings: Settings, snapshot: Snapshot) -> None:
    """Make the whole warehouse what it was at a snapshot; what it is now is gone.

    Raises:
        WarehouseLockedError: another process has it.
    """
    with replacing_warehouse(settings.warehouse_file) as temporary:
        shutil.copyfile(snapshot.file, temporary)
    with open_warehouse(settings.warehouse_file) as warehouse:
        publish_ledger(warehouse)


def restore_table(settings: Settings, snapshot: Snapshot, contract: Contract, period: Period | None = None) -> Restored:
    """Make a table, or some days of it, what it was; all or nothing, compared afterwards, audited.

    Args:
        settings: the data directory.
        snapshot: what to go back to.
        contract: the table.
        period: the service days; None for the whole table.

    Raises:
        SnapshotError: the table has no days, or was not there then.
        AuditError: it cannot be audited; then nothing is restored.
    """
    if period is not None and not contract.partitioned:
        raise SnapshotError(f"{contract.name} has no service days; restore all of it")
    asked = f"{contract.name} {period or 'all'} as of {snapshot.taken_at:%Y-%m-%d %H:%M:%S} UTC"
    with (
        audited(settings, Event(system_actor(), "restore", statement=asked)) as outcome,
        open_warehouse(settings.warehouse_file) as warehouse,
    ):
        done = _restore(warehouse, snapshot, contract, period)
        outcome.row_count = done.rows_after
    return done


def _restore(warehouse: Warehouse, snapshot: Snapshot, contract: Contract, period: Period | None) -> Restored:
    connection = warehouse.connection
    with without_values(f"restoring {contract.name}"):
        connection.execute(f"attach {literal(str(snapshot.file))} as snapshot (read_only)")
        try:
            stored = {
                (database, column)
                for database, column in connection.execute(
                    "select database_name, column_name from duckdb_columns() where schema_name = ? and table_name = ?",
                    [contract.layer, contract.name],
                ).fetchall()
            }
            columns = [c.name for c in contract.columns if ("snapshot", c.name) in stored]
            if not columns or not warehouse.exists(contract):
                raise SnapshotError(f"{contract.name} was not in the warehouse then, or is not now")
            names = ", ".join(quoted(name) for name in columns)
            where, days = "", list[date]()
            if period is not None:
                day = quoted(PARTITION_COLUMN)
                where, days = f" where {day} >= ? and {day} < ?", [period.first, period.end]
            here, there = contract.qualified_name, f"snapshot.{contract.qualified_name}"
            before = _content(warehouse, here, columns, where, days)
            wanted = _content(warehouse, there, columns, where, days)
            with warehouse.transaction():
                warehouse.wrote(contract)
                connection.execute(f"delete from {here}{where}", days)
                connection.execute(f"insert into {here} by name select {names} from {there}{where}", days)
                after = _content(warehouse, here, columns, where, days)
                if after != wanted:
                    raise SnapshotError(f"{contract.name}: the rows are not those of the snapshot")
        finally:
            connection.execute("detach snapshot")
    return Restored(contract.name, snapshot, before[0], after[0], before != wanted)


def _content(
    warehouse: Warehouse, table: str, columns: list[str], where: str, days: Sequence[object]
) -> tuple[int, int]:
    """How many rows there are, and a hash of all their values, whatever their order."""
    values = ", ".join(f"coalesce({quoted(name)}::varchar, '~')" for name in columns)
    ((rows, digest),) = warehouse.connection.execute(
        f"select count(*), coalesce(sum(hash(concat_ws('|', {values}))::hugeint), 0) from {table}{where}", days
    ).fetchall()
    return int(rows), int(digest)


def contract_named(name: str) -> Contract:
    """The contract of a table, with or without its schema.

    Raises:
        SnapshotError: there is none.
    """
    found = CONTRACTS.get(name.rpartition(".")[2])
    if found is None:
        raise SnapshotError(f"no table is called '{name}'")
    return found
