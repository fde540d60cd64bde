"""Snapshots of the warehouse: copies to get a table or a day of it back from.

A snapshot is a copy of the warehouse file, taken while nothing writes: `snapshots/<moment>.duckdb`. It holds
what the warehouse holds, identifiers included, and is as large: `retention.keep_snapshots` of the policy says
how many are kept. Getting something back is `history`'s matter.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from hospital_assets.access.audit import Event, audited, system_actor
from hospital_assets.files import free_bytes, replacing
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import Warehouse, open_warehouse, replacing_warehouse
from hospital_assets.warehouse.dialect import literal, quoted
from hospital_assets.warehouse.errors import redacted
from hospital_assets.warehouse.loads import publish_ledger

_NAME = re.compile(r"\d{8}T\d{12}Z")


class SnapshotError(ValueError):
    """A snapshot cannot be taken; the message says why and what to do."""


@dataclass(frozen=True)
class Snapshot:
    """A copy of the warehouse."""

    file: Path
    taken_at: datetime
    bytes: int


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


def take_snapshot(settings: Settings, taken_at: datetime, keep: int) -> tuple[Snapshot, list[Snapshot]]:
    """Copy the warehouse as it is, audited; returns the snapshot and those that were deleted for it.

    Args:
        keep: how many snapshots to keep, this one included.

    Raises:
        SnapshotError: nothing was ever built, there is not enough room on the disk, or a later one is there.
    """
    if not settings.warehouse_file.exists():
        raise SnapshotError(f"{settings.warehouse_file} is missing: run `hospital build` first")
    event = Event(system_actor(), "snapshot", statement="the warehouse as it is")
    # While it is open here, no other process writes.
    with audited(settings, event), open_warehouse(settings.warehouse_file) as warehouse:
        file = snapshots_folder(settings) / f"{taken_at.astimezone(UTC):%Y%m%dT%H%M%S%f}Z.duckdb"
        for snapshot in snapshots(settings):
            if snapshot.file.name >= file.name:
                raise SnapshotError(
                    f"{snapshot.file} is of this moment or later: is the clock right? If it is, move that file away"
                )
        _copy(warehouse, file)
        every = snapshots(settings)
        old = every[: max(0, len(every) - keep)]
        for snapshot in old:
            snapshot.file.unlink()
    return every[-1], old


def _copy(warehouse: Warehouse, file: Path) -> None:
    """Copy the warehouse file: a snapshot is whole or not there."""
    folder = file.parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    size = settled_size(warehouse)
    if free_bytes(folder) < 2 * size:
        raise SnapshotError(
            f"a snapshot needs {size / 1e6:,.0f} MB and the disk is nearly full: lower "
            "retention.keep_snapshots in the policy, or make room"
        )
    with replacing(file, is_durable=True, mode=0o600) as temporary:
        shutil.copyfile(warehouse.file, temporary)
        read_whole(warehouse.connection, temporary)


def settled_size(warehouse: Warehouse) -> int:
    """Have all that was committed in the file itself, and say how large it is: from now on it can be copied."""
    warehouse.connection.execute("force checkpoint")
    return warehouse.file.stat().st_size


def read_whole(connection: duckdb.DuckDBPyConnection, copy: Path) -> None:
    """Read every value of a copy once: DuckDB compares the checksums of the blocks it reads, and of those only.

    Raises:
        SnapshotError: a block is missing or not what was written; the message names a table it belongs to.
    """
    connection.execute(f"attach {literal(str(copy))} as copied (read_only)")
    try:
        columns: dict[str, list[str]] = {}
        for schema, table, column in connection.execute(
            "select schema_name, table_name, column_name from duckdb_columns() "
            "join duckdb_tables() using (database_name, schema_name, table_name) where database_name = 'copied'"
        ).fetchall():
            columns.setdefault(f"copied.{quoted(schema)}.{quoted(table)}", []).append(
                f"bit_xor(hash({quoted(column)}))"
            )
        for name, values in columns.items():
            try:
                connection.execute(f"select {', '.join(values)} from {name}").fetchall()
            except duckdb.Error as error:
                raise SnapshotError(
                    f"the warehouse file is damaged: {name.removeprefix('copied.')} cannot be read whole "
                    f"({redacted(error)}). No copy was kept: restore an earlier snapshot (`hospital snapshots`), "
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
