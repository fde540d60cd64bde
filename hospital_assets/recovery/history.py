"""The history of a table: its versions, one of them as it was, and days of it put back.

Versions are those of the mirror, of the lake that Spark writes, and what the snapshots hold of the table. One way to
choose a version, one to look into it and one to put it back, wherever it lies; what was known at a moment is `as_of`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb

from hospital_assets.access.audit import Event, audited, system_actor
from hospital_assets.contracts import CONTRACTS, Contract
from hospital_assets.files import replacing
from hospital_assets.recovery.mirror import digest_of, mirror_of, write_rows
from hospital_assets.recovery.snapshots import snapshots
from hospital_assets.settings import EngineSettings, Settings
from hospital_assets.warehouse.database import (
    Period,
    SchemaMismatchError,
    assert_columns,
    open_warehouse,
    scratch_connection,
)
from hospital_assets.warehouse.delta import DeltaTables, Version, assert_installed, in_words, where_days
from hospital_assets.warehouse.dialect import lazy, literal, quoted
from hospital_assets.warehouse.errors import without_values


class HistoryError(ValueError):
    """A version cannot be had or put back; the message says why and what to do."""


@dataclass(frozen=True)
class TableVersion(Version):
    """A table as it was: a version of a log, or a snapshot, whose number is 0.

    Attributes:
        source: the mirror or the lake, whose log has it; or the snapshot's file.
    """

    source: DeltaTables | Path


@dataclass(frozen=True)
class Restored:
    """The result of a restore.

    Attributes:
        rows_before: rows in the table or its days before.
        rows_after: and afterwards: those of the version, compared value by value.
        was_different: whether anything had changed.
    """

    version: TableVersion
    rows_before: int
    rows_after: int
    was_different: bool


def contract_named(name: str) -> Contract:
    """The contract of a table, with or without its schema.

    Raises:
        HistoryError: there is none.
    """
    found = CONTRACTS.get(name.rpartition(".")[2])
    if found is None:
        raise HistoryError(f"no table is called '{name}'")
    return found


def versions_of(settings: Settings, contract: Contract, engine: EngineSettings | None = None) -> list[TableVersion]:
    """Every version that is kept, oldest first; a snapshot is listed whatever is in it.

    Args:
        engine: names the lake; default `lake/` in the data directory.

    Raises:
        SettingsError: there is a mirror or a lake, but not the package that reads it.
    """
    logs = [mirror_of(settings)] if settings.mirror.address else []
    lake = _lake_of(settings, engine)
    # Without a lake, nothing of Delta need be installed.
    if "://" in lake.root or Path(lake.root).is_dir():
        assert_installed("the lake")
        logs.append(lake)
    found = [TableVersion(0, s.taken_at, None, "", f"snapshot {s.file.name}", s.file) for s in snapshots(settings)]
    found += [TableVersion(**vars(version), source=log) for log in logs for version in log.versions(contract)]
    return sorted(found, key=lambda version: (version.at, version.number))


def _lake_of(settings: Settings, engine: EngineSettings | None) -> DeltaTables:
    return DeltaTables((engine or EngineSettings()).lake_of(settings))


def version_at(
    settings: Settings, contract: Contract, moment: datetime, now: datetime, engine: EngineSettings | None = None
) -> TableVersion:
    """The version that was the newest at a moment; arguments as of `versions_of`.

    Raises:
        HistoryError: the moment is still to come, or nothing as old is kept.
    """
    if moment > now:
        raise HistoryError(f"{moment:%Y-%m-%d %H:%M:%S} UTC is still to come; name a time before now")
    every = versions_of(settings, contract, engine)
    if not every:
        raise HistoryError(
            f"no version of {contract.name} is kept: `hospital snapshot` copies every table, and `hospital mirror` "
            "keeps the versions of facts, dimensions, KPIs and forecasts"
        )
    found = [version for version in every if version.at <= moment]
    if not found:
        raise HistoryError(
            f"no version of {contract.name} is kept from {moment:%Y-%m-%d %H:%M:%S} UTC or before; the oldest is of "
            f"{every[0].at:%Y-%m-%d %H:%M:%S} UTC"
        )
    return found[-1]


@contextlib.contextmanager
def _rows(
    connection: duckdb.DuckDBPyConnection, contract: Contract, version: TableVersion, period: Period | None
) -> Iterator[duckdb.DuckDBPyRelation]:
    """The rows of a version in the contract's columns, as a relation that lives as long as the block.

    Raises:
        HistoryError: the table has no service days, or was not there then.
        SchemaMismatchError: it had other columns, or gaps that the contract does not allow.
    """
    if period is not None and not contract.partitioned:
        raise HistoryError(f"{contract.name} has no service days; leave out --days for all of it")
    with contextlib.ExitStack() as stack, without_values(f"{contract.name} as it was"):
        if isinstance(version.source, DeltaTables):
            found = connection.from_arrow(version.source.rows(contract, version.number, period))
        else:
            connection.execute(f"attach {literal(str(version.source))} as snapshot (read_only)")
            stack.callback(connection.execute, "detach snapshot")
            try:
                found = connection.table(f"snapshot.{contract.qualified_name}")
            except duckdb.CatalogException:
                raise HistoryError(f"{contract.name} was not in the warehouse then") from None
        gained = [c for c in contract.columns if c.nullable and c.name not in found.columns]
        if gained:
            found = found.select(
                "*, " + ", ".join(f"cast(null as {c.duckdb_type}) as {quoted(c.name)}" for c in gained)
            )
        where = where_days(period)
        found = found.filter(where) if where else found
        gaps = [c.name for c in contract.columns if not c.nullable and c.name in found.columns]
        if gaps:
            counted = found.aggregate(", ".join(f"count(*) - count({quoted(name)})" for name in gaps)).fetchall()[0]
            if missing := [f"{name} is null in {n:,} rows" for name, n in zip(gaps, counted, strict=True) if n]:
                raise SchemaMismatchError(
                    f"{contract.name} of {version.at:%Y-%m-%d %H:%M:%S} UTC is not what the contract allows now: "
                    f"{'; '.join(missing)}"
                )
        yield found


def export_version(
    settings: Settings, contract: Contract, version: TableVersion, into: Path | None, period: Period | None = None
) -> int:
    """Write a table as it was to a file, or only count its rows; returns them. Audited.

    Args:
        into: a `.parquet` or `.csv` file, which is replaced; None to count.

    Raises:
        HistoryError: the table has no service days, was not there then, or the file is of another kind.
        WarehouseError: the version is not kept any more.
    """
    formats = {".parquet": "format parquet, compression zstd", ".csv": "format csv, header"}
    if into is not None and into.suffix not in formats:
        raise HistoryError(f"{into} must end in .parquet or .csv")
    days = in_words(period) or "all days"
    asked = f"{contract.name} as of {version.at.isoformat()}, {days}, {'into ' + str(into) if into else 'counted'}"
    with (
        audited(settings, Event(system_actor(), "export", statement=asked)) as outcome,
        contextlib.closing(scratch_connection()) as connection,
        _rows(connection, contract, version, period) as found,
    ):
        ((count,),) = found.aggregate("count(*)").fetchall()
        if into is not None:
            with replacing(into, mode=0o600) as temporary:
                found.create_view("found")
                connection.execute(
                    f"copy found to {literal(str(temporary))} ({formats[into.suffix]}, use_tmp_file false)"
                )
        outcome.row_count = int(count)
    return int(count)


def restore(
    settings: Settings,
    contract: Contract,
    version: TableVersion,
    period: Period | None = None,
    engine: EngineSettings | None = None,
) -> Restored:
    """Make a table, or some days of it, what it was, where it is stored now; all or nothing, compared, audited.

    Raises:
        HistoryError: the table has no days, was not there then, is not now or lies in another lake, or the rows are
            not those of the version.
        SchemaMismatchError: the version is not what the contract says now.
        WarehouseError: the version is not kept any more.
    """
    asked = f"{contract.name} {period or 'all'} as of {version.at:%Y-%m-%d %H:%M:%S} UTC"
    with (
        audited(settings, Event(system_actor(), "restore", statement=asked)) as outcome,
        open_warehouse(settings.warehouse_file) as warehouse,
        _rows(warehouse.connection, contract, version, period) as found,
    ):
        if not warehouse.exists(contract):
            raise HistoryError(f"{contract.name} is not in the warehouse now: `hospital build` makes it")
        lake, cause = _lake_of(settings, engine), f"restored as of {version.at:%Y-%m-%d %H:%M:%S} UTC"
        assert_columns(contract, dict(zip(found.columns, map(str, found.types), strict=True)))
        before, wanted = (digest_of(rows, contract) for rows in (warehouse.rows_of(contract, period), found))

        def compare(rows: duckdb.DuckDBPyRelation) -> None:
            if digest_of(rows, contract) != wanted:
                raise HistoryError(f"{contract.name}: the rows are not those of the version; nothing was changed")

        if not warehouse.is_view(contract):
            with warehouse.transaction():
                warehouse.replace(contract, lazy(found), period, cause=cause)
                compare(warehouse.rows_of(contract, period))
        elif lake.open(contract) is None:
            raise HistoryError(f"{contract.name} is not in {lake.root}: name the lake it is in, in HOSPITAL_LAKE")
        else:
            folder = write_rows(warehouse, lake, contract, found)
            compare(warehouse.connection.from_arrow(lake.rows(contract, folder)))
            note = {"days": in_words(period), "cause": cause}
            lake.replace_files(contract, folder, period, start_over=period is None, note=note)
            warehouse.show(contract, lake.select_statement(contract))
        rows = [int(digest.partition("-")[0]) for digest in (before, wanted)]
        outcome.row_count = rows[1]
    return Restored(version, rows[0], rows[1], before != wanted)
