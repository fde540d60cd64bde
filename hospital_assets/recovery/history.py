"""Kept states of the warehouse, and getting a table or a day of it back from one.

A state is a copy of the warehouse file, taken while nothing writes: `kept/<moment>.duckdb`. It holds what
the warehouse holds, identifiers included, and is as large: `retention.keep_states` says how many are kept.
Publications have versions of their own (`publications`); this is for undoing.

Every table is a function of the landed files and the hospital's time, and the ledger knows when each file
was first seen. So what was known at a moment is what the files seen by then say: `as_known` makes a data
directory of those, which a build turns into every table and figure as they were known.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl

from hospital_assets.clock import SimulatedClock, hospital_now, write_simulated_clock
from hospital_assets.contracts import CONTRACTS, PARTITION_COLUMN, Contract
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import Period, Warehouse, without_values
from hospital_assets.warehouse.dialect import literal, quoted
from hospital_assets.warehouse.loads import read_ledger_copy

_STATE = re.compile(r"\d{8}T\d{12}Z")


class HistoryError(ValueError):
    """A state cannot be kept or restored; the message says why and what to do."""


@dataclass(frozen=True)
class State:
    """A kept state.

    Attributes:
        file: the copy.
        kept_at: when it was taken.
        bytes: its size.
    """

    file: Path
    kept_at: datetime
    bytes: int


@dataclass(frozen=True)
class Restored:
    """What a restore did.

    Attributes:
        table: which.
        state: from which state.
        rows_before: rows in the table or its days before.
        rows_after: and afterwards: those of the state, compared value by value.
        was_different: whether anything had changed.
    """

    table: str
    state: State
    rows_before: int
    rows_after: int
    was_different: bool


def kept_folder(settings: Settings) -> Path:
    """Where states are kept."""
    return settings.data_dir / "kept"


def states(settings: Settings) -> list[State]:
    """Kept states, oldest first."""
    found = []
    for file in sorted(kept_folder(settings).glob("*.duckdb")):
        if _STATE.fullmatch(file.stem):
            moment = datetime.strptime(file.stem, "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)
            found.append(State(file, moment, file.stat().st_size))
    return found


def keep_state(
    warehouse: Warehouse, settings: Settings, kept_at: datetime, keep_states: int
) -> tuple[State, list[State]]:
    """Copy the warehouse as it is; returns the state and those that were deleted for it.

    Args:
        warehouse: open, so that nobody else writes.
        settings: the data directory.
        kept_at: the wall clock.
        keep_states: how many to keep, this one included.

    Raises:
        HistoryError: there is not enough room on the disk.
    """
    folder = kept_folder(settings)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    warehouse.connection.execute("force checkpoint")
    size = warehouse.file.stat().st_size
    if shutil.disk_usage(folder).free < 2 * size:
        raise HistoryError(
            f"a state needs {size / 1e6:,.0f} MB and the disk is nearly full: lower "
            "retention.keep_states in the policy, or make room"
        )
    file = folder / f"{kept_at.astimezone(UTC):%Y%m%dT%H%M%S%f}Z.duckdb"
    temporary = file.with_suffix(".tmp")
    shutil.copyfile(warehouse.file, temporary)
    temporary.chmod(0o600)
    with temporary.open("rb") as copied:
        os.fsync(copied.fileno())
    temporary.replace(file)
    every = states(settings)
    old = every[: max(0, len(every) - keep_states)]
    for state in old:
        state.file.unlink()
    return every[-1], old


def state_of(settings: Settings, as_of: datetime | None) -> State:
    """The newest state, or the newest of a time or before.

    Raises:
        HistoryError: there is none.
    """
    every = states(settings)
    if not every:
        raise HistoryError("no state is kept: `hospital keep` takes one")
    found = [state for state in every if as_of is None or state.kept_at <= as_of]
    if not found:
        raise HistoryError(
            f"no state from {as_of:%Y-%m-%d %H:%M} or before is kept; the oldest is of "
            f"{every[0].kept_at:%Y-%m-%d %H:%M} UTC"
        )
    return found[-1]


def restore(warehouse: Warehouse, state: State, contract: Contract, period: Period | None = None) -> Restored:
    """Make a table, or some days of it, what it was; all or nothing, and compared afterwards.

    Args:
        warehouse: open.
        state: what to go back to.
        contract: the table.
        period: the service days; None for the whole table.

    Raises:
        HistoryError: the table has no days, or was not there then.
    """
    if period is not None and not contract.partitioned:
        raise HistoryError(f"{contract.name} has no service days; restore all of it")
    connection = warehouse.connection
    with without_values(f"restoring {contract.name}"):
        connection.execute(f"attach {literal(str(state.file))} as kept (read_only)")
        try:
            stored = {
                (database, column)
                for database, column in connection.execute(
                    "select database_name, column_name from duckdb_columns() where schema_name = ? and table_name = ?",
                    [contract.layer, contract.name],
                ).fetchall()
            }
            columns = [c.name for c in contract.columns if ("kept", c.name) in stored]
            if not columns or not warehouse.exists(contract):
                raise HistoryError(f"{contract.name} was not in the warehouse then, or is not now")
            names = ", ".join(quoted(name) for name in columns)
            where, days = "", list[date]()
            if period is not None:
                day = quoted(PARTITION_COLUMN)
                where, days = f" where {day} >= ? and {day} < ?", [period.first, period.end]
            here, there = contract.qualified_name, f"kept.{contract.qualified_name}"
            before = _content(warehouse, here, columns, where, days)
            wanted = _content(warehouse, there, columns, where, days)
            with warehouse.transaction():
                warehouse.writes += 1
                connection.execute(f"delete from {here}{where}", days)
                connection.execute(f"insert into {here} by name select {names} from {there}{where}", days)
                after = _content(warehouse, here, columns, where, days)
                if after != wanted:
                    raise HistoryError(f"{contract.name}: the rows are not those of the state")
        finally:
            connection.execute("detach kept")
    return Restored(contract.name, state, before[0], after[0], before != wanted)


def _content(
    warehouse: Warehouse, table: str, columns: list[str], where: str, days: Sequence[object]
) -> tuple[int, int]:
    """How many rows there are, and a hash of all their values, whatever their order."""
    values = ", ".join(f"coalesce({quoted(name)}::varchar, '~')" for name in columns)
    ((rows, digest),) = warehouse.connection.execute(
        f"select count(*), coalesce(sum(hash(concat_ws('|', {values}))::hugeint), 0) from {table}{where}", days
    ).fetchall()
    return int(rows), int(digest)


@dataclass(frozen=True)
class Known:
    """A data directory of what had landed by a moment.

    Attributes:
        settings: of the directory.
        files: how many files it holds.
        later: how many landed afterwards, and are not in it.
    """

    settings: Settings
    files: int
    later: int


def as_known(settings: Settings, moment: datetime, into: Path) -> Known:
    """Make a data directory of the files that had been seen by a moment; nothing is built in it.

    Files are linked where the disk allows it, else copied. Its clock stands at the hospital's time of
    that moment, so that what was still open then is open there.

    Args:
        settings: the data directory.
        moment: of the wall clock.
        into: the new one; must not be there, or be empty.

    Raises:
        HistoryError: nothing had been seen by then, a file is no longer what it was, or the place is
            taken.
    """
    if into.exists() and any(into.iterdir()):
        raise HistoryError(f"{into} is not empty; name a new folder")
    ledger = read_ledger_copy(settings.warehouse_file).unique("source_file")
    seen = ledger.filter(pl.col("first_seen_at") <= moment)
    if seen.is_empty():
        first = ledger.select(pl.col("first_seen_at").min()).item()
        since = f"the first was at {first:%Y-%m-%d %H:%M}" if first else "nothing was built yet"
        raise HistoryError(f"no landed file had been seen by {moment:%Y-%m-%d %H:%M} UTC; {since}")
    changed = [
        row["source_file"]
        for row in seen.iter_rows(named=True)
        if not _is_as_seen(settings.landing / row["source_file"], row)
    ]
    if changed:
        raise HistoryError(
            f"{len(changed)} landed files are not what they were when they were seen, so what was known "
            f"then cannot be made again: {', '.join(sorted(changed)[:5])}"
        )
    known = Settings(into.resolve(), settings.first_service_date, settings.last_service_date)
    into.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in seen["source_file"]:
        target = known.landing / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.hardlink_to(settings.landing / name)
        except OSError:
            shutil.copy2(settings.landing / name, target)
    if settings.settings_file.exists():
        shutil.copyfile(settings.settings_file, known.settings_file)
    then = hospital_now(settings, moment).timestamp()
    write_simulated_clock(known, SimulatedClock(0.0, then, 0.0))
    return Known(known, len(seen), len(ledger) - len(seen))


def _is_as_seen(path: Path, row: dict[str, object]) -> bool:
    """Whether a landed file has the size and time the ledger knows."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return (found.st_size, found.st_mtime_ns) == (row["file_bytes"], row["file_modified_ns"])


def contract_named(name: str) -> Contract:
    """The contract of a table, with or without its schema.

    Raises:
        HistoryError: there is none.
    """
    found = CONTRACTS.get(name.rpartition(".")[2])
    if found is None:
        raise HistoryError(f"no table is called '{name}'")
    return found
