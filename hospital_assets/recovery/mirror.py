"""The mirror: facts, dimensions, KPIs and forecasts of the DuckDB engine as Delta tables, for others and for history.

The warehouse file stays what counts. From the first mirroring on it notes, in the transaction of each write, which
service days of which table changed; mirroring writes those days and nothing else, one commit for each table. A commit
carries a number that the warehouse notes afterwards: where both differ (a crash in between, another address, a file
that was rebuilt or put back from a backup), nobody knows what the mirror holds, and the table is mirrored whole.

Belongs here: what has to be mirrored, and mirroring it. How files become a version of a table is `warehouse.delta`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import duckdb

from hospital_assets.access.audit import Event, audited, system_actor
from hospital_assets.contracts import CONTRACTS, Contract
from hospital_assets.files import emptied
from hospital_assets.settings import Settings, SettingsError
from hospital_assets.warehouse.database import CHANGES, Period, Warehouse
from hospital_assets.warehouse.delta import Days, DeltaTables, assert_installed, in_words, of_damage, where_days
from hospital_assets.warehouse.dialect import literal, quoted
from hospital_assets.warehouse.errors import WarehouseError, without_values

#: What is mirrored; records as they were landed, and their cleaned form, are for nobody else.
LAYERS = ("dimensions", "facts", "kpis", "forecasts")
#: Who commits, as the log of a table has it.
_WRITER = "hospital mirror"
#: What was mirrored last: the number of the commit, and rows, a hash and columns of a table that has no service days.
_MARKS = ("main.mirrored", "table_name varchar not null, number bigint not null, digest varchar not null")


@dataclass(frozen=True)
class Mirroring:
    """What a mirroring did.

    Attributes:
        written: table -> rows that were written to it.
        whole: those of them that were written whole, though they have service days.
        unchanged: how many tables had nothing to write.
        failed: table -> what was wrong, in words; the mirror has the table as it was.
    """

    written: dict[str, int] = field(default_factory=dict)
    whole: list[str] = field(default_factory=list)
    unchanged: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def mirror_of(settings: Settings) -> DeltaTables:
    """The mirror of a data directory.

    Raises:
        SettingsError: there is none, or the package that writes it is not installed.
    """
    if not settings.mirror.address:
        raise SettingsError(
            f"there is no mirror: name its folder or bucket in {settings.settings_file}, in a table [mirror] with "
            'address = "mirror" or address = "s3://bucket/folder"'
        )
    assert_installed("the mirror")
    return DeltaTables(settings.mirror_root, settings.mirror.kept_days)


def mirrored_tables() -> Iterator[Contract]:
    """The tables that a mirror has, once they are built."""
    return (contract for contract in CONTRACTS.values() if contract.layer in LAYERS)


def mirror(settings: Settings, warehouse: Warehouse) -> Mirroring:
    """Bring the mirror up to the warehouse, table by table; audited.

    Args:
        warehouse: open, so that nobody else writes meanwhile.

    Raises:
        SettingsError: there is no mirror, or the package that writes it is not installed.
    """
    tables = mirror_of(settings)
    from deltalake.exceptions import DeltaError

    done = Mirroring()
    unchanged = 0
    with audited(settings, Event(system_actor(), "export", statement=f"mirror to {tables.root}")) as ending:
        warehouse.make_once(*CHANGES)
        warehouse.make_once(*_MARKS)
        for contract in mirrored_tables():
            # What Spark made is in the lake, which is such a table already.
            if not warehouse.exists(contract) or warehouse.is_view(contract):
                continue
            try:
                unchanged += not _mirror(warehouse, tables, contract, done)
            except WarehouseError as error:
                done.failed[contract.name] = str(error)
            except DeltaError as error:
                done.failed[contract.name] = of_damage(tables, contract, error)
            except OSError as error:
                # What holds the mirror is not there: it would be the same for every table.
                raise WarehouseError(
                    f"{contract.name} could not be mirrored to {tables.root}: {str(error).splitlines()[0]}"
                ) from error
        ending.row_count = sum(done.written.values())
        ending.failure = f"{len(done.failed)} tables failed" if done.failed else ""
    return replace(done, unchanged=unchanged)


def _mirror(warehouse: Warehouse, tables: DeltaTables, contract: Contract, done: Mirroring) -> bool:
    """Mirror a table; whether anything had to be written."""
    connection, name = warehouse.connection, contract.name
    noted = connection.execute(
        f"select first_day, end_day, cause from {CHANGES[0]} where table_name = ? order by first_day", [name]
    ).fetchall()
    mark = connection.execute(f"select number, digest from {_MARKS[0]} where table_name = ?", [name]).fetchall()
    committed = tables.last_batch(contract, _WRITER)
    is_known = bool(mark) and mark[0][0] == committed
    if is_known and not noted:
        return False
    days: Days = None
    if is_known and contract.partitioned and all(first is not None for first, _, _ in noted):
        days = _joined([(first, end) for first, end, _ in noted])
    digest = ""
    if not contract.partitioned:
        columns = ", ".join(f"{c.name} {c.duckdb_type} {c.nullable}" for c in contract.columns)
        digest = f"{digest_of(warehouse.rows_of(contract), contract)} {columns}"
    is_same = is_known and digest != "" and mark[0][1] == digest
    number = committed
    if not is_same:
        # Greater than any before it, whatever a warehouse from a backup knows.
        number = max((committed or 0) + 1, time.time_ns() // 1_000)
        note = {
            "rows": str(warehouse.count(contract)),
            "days": in_words(days),
            "cause": ", ".join(sorted({cause for _, _, cause in noted if cause})) or "mirrored whole",
        }
        where, rows = where_days(days), warehouse.rows_of(contract)
        folder = write_rows(warehouse, tables, contract, rows.filter(where) if where else rows)
        done.written[name] = tables.replace_files(
            contract, folder, days, start_over=days is None, batch=(_WRITER, number), note=note
        )
        if contract.partitioned and days is None:
            done.whole.append(name)
    with warehouse.transaction():
        for table in (CHANGES[0], _MARKS[0]):
            connection.execute(f"delete from {table} where table_name = ?", [name])
        connection.execute(f"insert into {_MARKS[0]} values (?, ?, ?)", [name, number, digest])
    return not is_same


def forget_mirrored(warehouse: Warehouse, contract: Contract) -> None:
    """Have the next mirroring write a table whole."""
    warehouse.make_once(*_MARKS)
    warehouse.connection.execute(f"delete from {_MARKS[0]} where table_name = ?", [contract.name])


def _joined(spans: list[tuple[date, date]]) -> tuple[Period, ...]:
    """Spans of days, sorted, without those that touch or overlap."""
    found: list[Period] = []
    for first, end in spans:
        if found and first <= found[-1].end:
            found[-1] = Period(found[-1].first, max(end, found[-1].end))
        else:
            found.append(Period(first, end))
    return tuple(found)


def write_rows(warehouse: Warehouse, tables: DeltaTables, contract: Contract, rows: duckdb.DuckDBPyRelation) -> str:
    """Write rows as Parquet into a fresh folder of a Delta table, and name it.

    Args:
        warehouse: open; the rows are of its connection.
        rows: with at least its columns.
    """
    import pyarrow.fs as arrow_fs

    columns = ", ".join(f"cast({quoted(c.name)} as {c.duckdb_type}) as {quoted(c.name)}" for c in contract.columns)
    system, folder = tables.files()[0], tables.new_folder(contract.column_names)
    target = f"{tables.folder(contract)}/{folder}"
    is_local = isinstance(system, arrow_fs.LocalFileSystem)
    with _room(warehouse.file) as temporary:
        written = (Path(target) if is_local else temporary) / ("" if contract.partitioned else "data_0.parquet")
        if is_local:
            Path(target).mkdir(parents=True)
        how = "partition_by (service_date), overwrite_or_ignore" if contract.partitioned else ""
        with without_values(f"{contract.name} could not be written"):
            rows.query(
                "found",
                f"copy (select {columns} from found) to {literal(str(written))} "
                f"(format parquet, compression zstd{how and ', '}{how})",
            )
        if not is_local:
            # DuckDB reaches no object store without an extension.
            arrow_fs.copy_files(str(temporary), target, destination_filesystem=system)
    return folder


def _room(warehouse_file: Path) -> contextlib.AbstractContextManager[Path]:
    """An empty folder next to the warehouse, for whoever has it open."""
    return emptied(warehouse_file.with_name("mirroring"))


def assert_deletable(settings: Settings) -> None:
    """See to it that the mirror, if there is one, can be reached and made anew.

    Raises:
        SettingsError: the package that writes it is not installed.
        WarehouseError: what holds it cannot be reached.
    """
    if settings.mirror.address:
        tables = mirror_of(settings)
        try:
            _folders(tables)
        except OSError as error:
            raise WarehouseError(f"the mirror {tables.root} cannot be reached: {str(error).splitlines()[0]}") from error


def delete_mirror(settings: Settings) -> None:
    """Delete every table of the mirror with its history; what else lies at its address stays."""
    if settings.mirror.address:
        tables = mirror_of(settings)
        system, _ = tables.files()
        for folder in _folders(tables):
            system.delete_dir(folder)


def _folders(tables: DeltaTables) -> list[str]:
    """Those of its tables that are there."""
    import pyarrow.fs as arrow_fs

    found = tables.files()[0].get_file_info([tables.folder(contract) for contract in mirrored_tables()])
    return [info.path for info in found if info.type != arrow_fs.FileType.NotFound]


@contextlib.contextmanager
def mirror_to_search(settings: Settings) -> Iterator[Path | None]:
    """A folder with the files of a mirror that lies outside the data directory; None where there is none."""
    import pyarrow.fs as arrow_fs

    root = settings.mirror_root
    if not root or ("://" not in root and Path(root).is_relative_to(settings.data_dir.resolve())):
        yield None
    elif "://" not in root:
        yield Path(root)
    else:
        tables = mirror_of(settings)
        system, _ = tables.files()
        with _room(settings.warehouse_file) as temporary:
            for folder in _folders(tables):
                arrow_fs.copy_files(folder, str(temporary / folder.rpartition("/")[2]), source_filesystem=system)
            yield temporary


def digest_of(rows: duckdb.DuckDBPyRelation, contract: Contract) -> str:
    """How many rows there are and a hash of all their values, whatever their order.

    Args:
        rows: with at least the contract's columns.
    """
    values = ", ".join(map(quoted, contract.column_names))
    ((count, digest),) = rows.aggregate(f"count(*), sum(hash({values})::hugeint)").fetchall()
    return f"{count}-{digest}"
