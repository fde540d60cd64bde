"""Gold history in Delta Lake: every version of KPI and fact tables, for as long as somebody wants them.

An extra (`pip install 'hospital-assets[delta]'`), because deltalake is large and few need it: a version
is there for readers of Delta tables (Spark, Polars, Trino), several processes may write at once, and any
version can be read or made the newest again. Tables are `history/<layer>/<table>` in the data directory. They hold
what the warehouse holds, so they are for those who may see that.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hospital_assets.contracts import CONTRACTS, Contract
from hospital_assets.recovery.history import HistoryError
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import Warehouse
from hospital_assets.warehouse.dialect import quoted

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

#: Of these layers a history is worth its room.
LAYERS = ("facts", "kpis")
#: How often a write that another process got in the way of is tried.
_MOST_TRIES = 20


@dataclass(frozen=True)
class Version:
    """A version of a table.

    Attributes:
        table: which.
        number: its number, counted from 0.
        written_at: when.
        what: how it came about, as Delta calls it (WRITE, RESTORE).
        rows: rows it wrote, where Delta says so.
    """

    table: str
    number: int
    written_at: datetime
    what: str
    rows: int | None


def history_folder(settings: Settings) -> Path:
    """Where the Delta tables are."""
    return settings.data_dir / "history"


def keep_versions(warehouse: Warehouse, settings: Settings, contracts: Sequence[Contract] = ()) -> list[Version]:
    """Append what tables hold now as a new version of each; returns these.

    Args:
        warehouse: open.
        settings: the data directory.
        contracts: which tables; default every fact and KPI table that is there.

    Raises:
        HistoryError: the extra is not installed, a table is not there, or others write all the time.
    """
    wanted = contracts or [
        contract for contract in CONTRACTS.values() if contract.layer in LAYERS and warehouse.exists(contract)
    ]
    return [_append(warehouse, settings, contract) for contract in wanted]


def _append(warehouse: Warehouse, settings: Settings, contract: Contract) -> Version:
    deltalake = _library()
    if not warehouse.exists(contract):
        raise HistoryError(f"{contract.name} is not in the warehouse yet: build it first")
    names = ", ".join(quoted(name) for name in contract.column_names)
    target = _folder(settings, contract)
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    for _ in range(_MOST_TRIES):
        rows = warehouse.connection.sql(f"select {names} from {contract.qualified_name}")
        try:
            with _alone(target):
                deltalake.write_deltalake(str(target), rows, mode="overwrite", schema_mode="overwrite")
                return versions_of(settings, contract)[-1]
        except deltalake.exceptions.CommitFailedError:
            # Another process has written since this one looked; what it wrote is a version, too.
            continue
    raise HistoryError(f"{contract.name}: other processes kept writing; try again")


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """While no other process of ours writes the table.

    Delta finds out that two overwrites met by the files that both remove. The first two remove none: they
    would become one version with the rows of both.
    """
    with target.with_name(f"{target.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def versions_of(settings: Settings, contract: Contract) -> list[Version]:
    """The versions of a table, oldest first; none where no history is kept."""
    deltalake = _library()
    target = str(_folder(settings, contract))
    if not deltalake.DeltaTable.is_deltatable(target):
        return []
    return sorted(
        (
            Version(
                contract.name,
                entry["version"],
                datetime.fromtimestamp(entry["timestamp"] / 1000, UTC),
                entry["operation"],
                entry.get("operationMetrics", {}).get("num_added_rows"),
            )
            for entry in deltalake.DeltaTable(target).history()
        ),
        key=lambda version: version.number,
    )


def read_version(settings: Settings, contract: Contract, version: int | datetime) -> pa.Table:
    """A table as it was: in a version, or at a time.

    Raises:
        HistoryError: there is no such version.
    """
    found: pa.Table = _opened(settings, contract, version).to_pyarrow_table()
    return found


def restore_version(settings: Settings, contract: Contract, version: int) -> Version:
    """Make an old version the newest of the history; those between stay. The warehouse is not touched.

    Raises:
        HistoryError: there is no such version.
    """
    _opened(settings, contract, version)
    _opened(settings, contract, None).restore(version)
    return versions_of(settings, contract)[-1]


def _opened(settings: Settings, contract: Contract, version: int | datetime | None) -> DeltaTable:
    deltalake = _library()
    target = str(_folder(settings, contract))
    if not deltalake.DeltaTable.is_deltatable(target):
        raise HistoryError(f"no history of {contract.name} is kept: hospital history keep")
    try:
        table: DeltaTable = deltalake.DeltaTable(target)
        if version is not None:
            table.load_as_version(version)
    except deltalake.exceptions.DeltaError as error:
        raise HistoryError(f"{contract.name} has no version {version}") from error
    return table


def _folder(settings: Settings, contract: Contract) -> Path:
    return history_folder(settings) / contract.layer / contract.name


def _library() -> Any:
    try:
        import deltalake
    except ModuleNotFoundError:
        raise HistoryError("history in Delta needs an extra: pip install 'hospital-assets[delta]'") from None
    return deltalake
