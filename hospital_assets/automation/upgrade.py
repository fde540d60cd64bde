"""Bringing a data directory up to what this program stores: what is to be done, and doing it.

Every table is compared with its contract. A nullable column is added where it stands; any other difference is mended
by building the table anew from the landed files, with all that is made of it. What is kept nowhere else (the ledger,
loaded files, results of checks) is taken over column by column. SQLite files (accounts, audit, alerts, sources) bring
themselves up when they are opened, and copies of tables are written anew by the run that follows.

Belongs here: the comparison, and the order of steps. Does not: how a table is built, or which versions there are
(`directory`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

import dagster as dg
import duckdb

from hospital_assets import directory
from hospital_assets.access.audit import Event, audited, system_actor
from hospital_assets.automation.build import BuildReport, build, layers_of, publish
from hospital_assets.automation.history import HistoryError, step_seconds
from hospital_assets.automation.instance import dagster_instance
from hospital_assets.automation.jobs import TABLES, full_refresh
from hospital_assets.checks.findings import RESULTS
from hospital_assets.contracts import CONTRACTS, LAYERS
from hospital_assets.directory import DirectoryVersion, installed, version_of, write_version
from hospital_assets.partitions import service_periods
from hospital_assets.publishing.publications import published_audiences
from hospital_assets.recovery.snapshots import put_back, snapshots, take_snapshot
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import (
    ASIDE,
    Warehouse,
    WarehouseLockedError,
    definition_of,
    differences,
    holder_of,
    open_warehouse,
    stored_columns,
    wanted_columns,
)
from hospital_assets.warehouse.dialect import quoted
from hospital_assets.warehouse.errors import without_values
from hospital_assets.warehouse.loads import LOADED_FILES, publish_ledger

#: The ledger knows since when each file is there: what no file says.
_LEDGER = "raw_landed_files"
#: Tables without a contract.
_OWN = dict((LOADED_FILES, RESULTS))
_SCHEMAS = {*LAYERS, *(name.partition(".")[0] for name in _OWN)}

#: add: nullable columns. take over: rows into a table of the new shape. build: from the landed files. drop: for good.
Action = Literal["add", "take over", "build", "drop"]


class UpgradeError(ValueError):
    """A directory cannot be upgraded; the message says why and what to do."""


@dataclass(frozen=True)
class Change:
    """What is to be done with a table, and how it differs."""

    table: str
    action: Action
    why: str


@dataclass(frozen=True)
class Plan:
    """What an upgrade would do.

    Attributes:
        built: every table that is built, with all that is made of it, in the order data passes through them.
        days: how many service days; first and last are those of the directory.
        seconds: about how long building takes, by the longest of the last builds; None where there was none.
        unknown: how many of its steps that build did not have.
        lost: raw table -> how many files whose rows it holds are not in the landing folder any more.
    """

    version: DirectoryVersion
    changes: tuple[Change, ...]
    built: tuple[str, ...] = ()
    days: tuple[str, ...] = ()
    seconds: float | None = None
    unknown: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_stamp(self) -> bool:
        """Whether at most the version is to be written down."""
        return not self.changes and self.version.is_finished

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return self.is_stamp and self.version.number == directory.VERSION


def plan_upgrade(definitions: dg.Definitions, settings: Settings, *, fill: bool = False) -> Plan:
    """What an upgrade would do; changes nothing, and opens the warehouse for reading only.

    Args:
        fill: build tables anew that only gain columns, so that days stored before have values in them.

    Raises:
        WarehouseLockedError: another process has the warehouse.
    """
    file = settings.warehouse_file
    if not file.exists():
        return Plan(version_of(file.parent), ())
    try:
        connection = duckdb.connect(str(file), read_only=True)
    except duckdb.IOException as error:
        who = holder_of(file) or "another process"
        raise WarehouseLockedError(f"{file.name} is in use by {who}: let it finish, then run this again") from error
    with contextlib.closing(connection):
        return _plan(connection, definitions, settings, fill=fill)


def _plan(
    connection: duckdb.DuckDBPyConnection, definitions: dg.Definitions, settings: Settings, *, fill: bool
) -> Plan:
    version = version_of(settings.warehouse_file.parent)
    # What a rebuild that was killed has moved away is put back before anything is changed.
    found = stored_columns(connection)
    stored = {name.removesuffix(ASIDE): columns for name, columns in found.items() if name.endswith(ASIDE)}
    stored |= {name: columns for name, columns in found.items() if not name.endswith(ASIDE)}
    since = version.number if version.is_finished else version.before
    anew = {name for number, names in directory.COMPUTED_ANEW.items() if number > since for name in names}
    changes = list(_changes(stored, _views(connection), anew, fill=fill))
    built = _downstream(definitions, {change.table.partition(".")[2] for change in changes if change.action == "build"})
    days = tuple(service_periods(settings).get_partition_keys())
    seconds, unknown = _about(definitions, settings, built, len(days))
    return Plan(version, tuple(changes), built, days, seconds, unknown, _lost(connection, settings, built, stored))


def _changes(
    stored: Mapping[str, Mapping[str, str]], views: frozenset[str], anew: set[str], *, fill: bool
) -> Iterator[Change]:
    """How stored tables, by name with their columns and types, differ from what this program stores."""
    if not stored:
        # Nothing was built yet.
        return
    for contract in CONTRACTS.values():
        name = contract.qualified_name
        if name in views:
            # Its rows are in the lake, which looks after itself.
            continue
        if name not in stored:
            yield Change(name, "build", "is not there yet")
            continue
        gained = [c.name for c in contract.columns if c.name not in stored[name]]
        if differing := differences(stored[name], wanted_columns(contract)):
            as_text = {column: "VARCHAR" if kind == "VARIANT" else kind for column, kind in stored[name].items()}
            keeps_rows = contract.name == _LEDGER or not differences(as_text, wanted_columns(contract))
            yield Change(name, "take over" if keeps_rows else "build", "; ".join(differing))
        elif contract.name in anew:
            yield Change(name, "build", "is computed otherwise since")
        elif gained:
            action: Action = "build" if fill and contract.name != _LEDGER else "add"
            yield Change(name, action, f"gains {', '.join(gained)}")
    with contextlib.closing(duckdb.connect()) as scratch:
        for schema in {name.partition(".")[0] for name in _OWN}:
            scratch.execute(f"create schema {schema}")
        for name, columns in _OWN.items():
            scratch.execute(f"create table {name} ({columns})")
        for name, wanted in stored_columns(scratch).items():
            if name in stored and stored[name] != wanted:
                odd = sorted(set(stored[name].items()) ^ set(wanted.items()))
                yield Change(name, "take over", f"differs in {', '.join(dict.fromkeys(column for column, _ in odd))}")
    known = {*_OWN, *(contract.qualified_name for contract in CONTRACTS.values())}
    for name in sorted(set(stored) - known):
        if name.partition(".")[0] in _SCHEMAS:
            yield Change(name, "drop", "no table of this program is called so")


def _views(connection: duckdb.DuckDBPyConnection) -> frozenset[str]:
    found = connection.execute(
        "select schema_name || '.' || view_name from duckdb_views() where not internal"
    ).fetchall()
    return frozenset(name for (name,) in found)


def _downstream(definitions: dg.Definitions, tables: set[str]) -> tuple[str, ...]:
    """Tables and all that is made of them, in the order data passes through them."""
    if not tables:
        return ()
    selection = dg.AssetSelection.assets(*tables).downstream() & TABLES
    keys = selection.required_multi_asset_neighbors().resolve(definitions.resolve_asset_graph())
    names = {key.path[-1] for key in keys}
    return tuple(name for name in CONTRACTS if name in names)


def _about(
    definitions: dg.Definitions, settings: Settings, built: tuple[str, ...], days: int
) -> tuple[float | None, int]:
    """About how many seconds building some tables takes, and of how many of its steps that is not known."""
    if not built:
        return 0.0, 0
    try:
        had_days, took = step_seconds(settings, full_refresh.name)
    except HistoryError:
        return None, 0
    of_tables = {
        asset.op.name
        for asset in definitions.assets or ()
        if isinstance(asset, dg.AssetsDefinition) and {key.path[-1] for key in asset.keys} & set(built)
    } & set(layers_of(definitions))
    of_checks = {f"{name}_{kind}" for name in built for kind in ("checks", "later_checks")}
    known = (of_tables | of_checks) & set(took)
    if not known:
        return None, len(of_tables)
    return sum(took[step] for step in known) * days / had_days, len(of_tables - known)


def _lost(
    connection: duckdb.DuckDBPyConnection,
    settings: Settings,
    built: tuple[str, ...],
    stored: Mapping[str, Mapping[str, str]],
) -> dict[str, int]:
    """Raw tables that cannot be built whole any more."""
    if not {"subject", "source_file"} <= set(stored.get(LOADED_FILES[0], ())):
        return {}
    loaded = connection.execute(f"select distinct subject, source_file from {LOADED_FILES[0]}").fetchall()
    lost: dict[str, int] = {}
    for subject, name in loaded:
        table = f"raw_{subject}"
        if table in built and not (settings.landing / name).exists():
            lost[table] = lost.get(table, 0) + 1
    return lost


@dataclass(frozen=True)
class Upgraded:
    """What an upgrade did, and why it is not finished: it is run again once that is mended."""

    report: BuildReport | None
    failures: tuple[str, ...]


def upgrade(
    definitions: dg.Definitions,
    settings: Settings,
    now: datetime,
    *,
    keep: int | None,
    fill: bool = False,
    accept_loss: bool = False,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Upgraded:
    """Do what `plan_upgrade` finds; audited. What was cut off is gone on with when it is run again.

    Tables that are to be built are dropped first, all at once: those that are missing are what is left to do.

    Args:
        keep: how many snapshots to keep, with that of before the upgrade; None to take none.
        accept_loss: build raw tables also where files of theirs are gone.

    Raises:
        UpgradeError: rows would be lost, or cannot be taken over; nothing was changed.
        SnapshotError: there is no room for one.
        AuditError: it cannot be audited; then nothing is done.
    """
    folder = settings.warehouse_file.parent
    found = version_of(folder)
    event = Event(system_actor(), "upgrade", statement=f"version {found.number} to {directory.VERSION}")
    # Whoever waits for the warehouse meanwhile finds it upgraded.
    with audited(settings, event) as ending, open_warehouse(settings.warehouse_file) as warehouse:
        for contract in CONTRACTS.values():
            warehouse.put_back(contract)
        plan = _plan(warehouse.connection, definitions, settings, fill=fill)
        if plan.lost and not accept_loss:
            raise UpgradeError(f"{in_words(plan.lost)}; nothing was changed")
        # One that was cut off has its snapshot, of before anything was changed.
        began = replace(found, number=directory.VERSION, program=installed(), is_finished=False)
        if found.is_finished:
            began = replace(began, before=found.number, before_program=found.program, snapshot="")
            if keep is not None and plan.changes:
                snapshot, _ = take_snapshot(settings, now, keep)
                began = replace(began, snapshot=snapshot.file.name)
                say(f"took the snapshot {snapshot.file.name}")
        write_version(folder, began)
        connection = warehouse.connection
        try:
            with without_values("the tables could not be changed; none was"), warehouse.transaction():
                for change in plan.changes:
                    _change(warehouse, change)
                for name in plan.built:
                    warehouse.drop(CONTRACTS[name])
        except Exception:
            write_version(folder, found)
            raise
        report, failures = None, list[str]()
        if plan.built:
            report = build(definitions, settings, select=plan.built, progress=progress)
            failures += report.failures
        left = _changes(stored_columns(connection), _views(connection), set(), fill=False)
        failures += [f"{change.table} {change.why}" for change in left]
        if not failures:
            publish_ledger(warehouse)
        # One that was cut off may have been so while it published.
        if not failures and not plan.is_stamp and published_audiences(settings.data_dir):
            say("publishing")
            failures += publish(definitions, settings, progress=progress).failures
        if not failures:
            _upgrade_history(settings)
            write_version(folder, replace(began, is_finished=True))
        ending.row_count = len(plan.built)
        ending.failure = f"{len(failures)} steps failed" if failures else ""
    return Upgraded(report, tuple(failures))


def in_words(lost: Mapping[str, int]) -> str:
    """Which rows would be lost, and what to do."""
    tables = ", ".join(f"{table} holds rows of {files:,} files" for table, files in lost.items())
    return (
        f"{tables} that are not in the landing folder any more, and would be built without them: put them back, or "
        "give --accept-loss"
    )


def _upgrade_history(settings: Settings) -> None:
    """Bring Dagster's history up to the release of Dagster, where it is of an older one."""
    with dagster_instance(settings) as instance:
        stores = (instance.run_storage, instance.event_log_storage, instance.schedule_storage)
        versions = [store.alembic_version() for store in stores if store is not None]
        if any(version is not None and version[0] != version[1] for version in versions):
            instance.upgrade()


def _change(warehouse: Warehouse, change: Change) -> None:
    """Change a table where it stands; those that are built are dropped by themselves."""
    connection = warehouse.connection
    contract = CONTRACTS.get(change.table.partition(".")[2])
    if change.action == "drop":
        connection.execute(f"drop table {_quoted(change.table)}")
    elif change.action == "add" and contract is not None:
        warehouse.add_gained(contract, stored_columns(connection, contract)[change.table])
    elif change.action == "take over":
        _take_over(connection, change.table, definition_of(contract) if contract else _OWN[change.table])


def _take_over(connection: duckdb.DuckDBPyConnection, table: str, columns: str) -> None:
    """Make a table anew with the rows that it has; columns that it lacked are null or as they default.

    Raises:
        UpgradeError: a value cannot be taken over.
    """
    old = f'{_quoted(table)[:-1]}_before"'
    connection.execute(f"drop table if exists {old}")
    connection.execute(f"alter table {_quoted(table)} rename to {old.rpartition('.')[2]}")
    connection.execute(f"create table {_quoted(table)} ({columns})")
    stored = stored_columns(connection)
    before = stored[f"{table}_before"]
    common = [name for name in stored[table] if name in before]
    # What was stored as VARIANT is stored as its JSON.
    read = (f"cast({quoted(name)} as json)" if before[name] == "VARIANT" else quoted(name) for name in common)
    try:
        connection.execute(
            f"insert into {_quoted(table)} ({', '.join(map(quoted, common))}) select {', '.join(read)} from {old}"
        )
    except (duckdb.ConversionException, duckdb.ConstraintException):
        raise UpgradeError(
            f"the rows of {table} cannot be taken over: the columns that both have cannot be cast, or a column that "
            "must have a value is new; nothing was changed"
        ) from None
    connection.execute(f"drop table {old}")


def _quoted(table: str) -> str:
    schema, _, name = table.partition(".")
    return f"{quoted(schema)}.{quoted(name)}"


def undo(settings: Settings) -> DirectoryVersion:
    """Put the warehouse back to what it was before the last upgrade, audited; returns the version it has again.

    Files that have landed since are loaded again by whatever runs next.

    Raises:
        UpgradeError: there was no upgrade, or no snapshot of before it.
        WarehouseLockedError: another process has the warehouse.
    """
    folder = settings.warehouse_file.parent
    found = version_of(folder)
    if not found.before:
        raise UpgradeError(f"{settings.data_dir} was not upgraded, as far as is known: there is nothing to undo")
    snapshot = next((s for s in snapshots(settings) if s.file.name == found.snapshot), None)
    if snapshot is None:
        raise UpgradeError(
            "there is no snapshot of before the upgrade any more: restore a backup, or move the warehouse folder away "
            "and build anew with the release before"
        )
    before = DirectoryVersion(found.before, found.before_program)
    with audited(
        settings, Event(system_actor(), "upgrade", statement=f"undo: version {found.number} to {before.number}")
    ):
        put_back(settings, snapshot)
        write_version(folder, before)
    return before
