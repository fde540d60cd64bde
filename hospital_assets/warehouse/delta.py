"""Tables in the open format Delta Lake: engines write Parquet files, one function commits them.

Belongs here: the schema a contract gives, which files are a version of a table, and the commit that
exchanges files of some service days for others. Knows contracts; does not know Spark or Dagster.

Only `_commit` writes to the log, one strict step from the version it read: delta-rs' own retries,
overwriting by filter and `optimize` were seen to commit mixtures of two writers' rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hospital_assets.contracts import PARTITION_COLUMN, Column, Contract
from hospital_assets.settings import SettingsError
from hospital_assets.warehouse.database import Period, SchemaMismatchError, assert_stored
from hospital_assets.warehouse.dialect import literal, quoted
from hospital_assets.warehouse.errors import WarehouseError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as arrow_dataset
    import pyarrow.fs as arrow_fs
    from deltalake import DeltaTable, Schema
    from deltalake.transaction import AddAction

#: Service days of a table; None for all.
Days = Period | tuple[Period, ...] | None
#: How long replaced files stay, so that readers and questions about the past find them.
KEPT_DAYS = 90
#: Files below are put together, up to the size of one file.
SMALL_FILE_BYTES, FILE_BYTES = 128 * 2**20, 2**30
#: Another writer was first: how often the commit is tried on what it left.
_TRIES = 50
_READER_FEATURES = frozenset({"timestampNtz"})
#: The highest reader version without features; the next one brings column mapping.
_PLAIN_READER = 1
_DAY = re.compile(rf"{PARTITION_COLUMN}=([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})/")
#: The folder of a write says which columns its files have: whoever reads many need not open each to see.
_COLUMNS = re.compile(r"w-([0-9a-f]{8})-")
#: What the log says of a version that holds the same rows in fewer files.
COMPACTED = {"cause": "small files put together"}
_TYPES = {
    "VARCHAR": "string",
    "BOOLEAN": "boolean",
    "SMALLINT": "short",
    "INTEGER": "integer",
    "BIGINT": "long",
    "DOUBLE": "double",
    "DATE": "date",
    "TIMESTAMP": "timestamp_ntz",
    "TIMESTAMPTZ": "timestamp",
}


def assert_installed(what: str) -> None:
    """See to it that the package is there that reads and writes Delta.

    Raises:
        SettingsError: it is not; says how to get it.
    """
    if find_spec("deltalake") is None:
        raise SettingsError(f"{what} needs deltalake: pip install 'hospital-assets[delta]'")


def delta_schema(contract: Contract) -> Schema:
    """A contract as a Delta schema; JSON is text."""
    from deltalake import Field, Schema
    from deltalake.schema import ArrayType, PrimitiveType

    def kind(name: str) -> Any:
        if name.endswith("[]"):
            return ArrayType(kind(name[:-2]), contains_null=True)
        return PrimitiveType(_TYPES.get(name) or name.lower())

    return Schema(
        [
            Field(
                c.name,
                kind(c.duckdb_type),
                nullable=c.nullable and c.name != PARTITION_COLUMN,
                metadata={"comment": c.description},
            )
            for c in contract.columns
        ]
    )


@dataclass(frozen=True)
class Version:
    """A version of a table.

    Attributes:
        at: when it was committed.
        rows: of the whole table; None where the writer did not say.
        days: the service days that were replaced, in words; empty for all.
        cause: what changed them, as in the id of a run.
    """

    number: int
    at: datetime
    rows: int | None
    days: str
    cause: str


@dataclass(frozen=True)
class DeltaTables:
    """The folder (or object store address) that all tables are below.

    Attributes:
        root: a path, or an address such as `s3://bucket/folder`. On a cluster every executor must
            see it under the same name. Keys and endpoint of a store come from its usual environment.
    """

    root: str
    kept_days: int = KEPT_DAYS

    def files(self) -> tuple[arrow_fs.FileSystem, str]:
        """Arrow's file system, and the root as it calls it."""
        import pyarrow.fs as arrow_fs

        if "://" in self.root:
            system, path = arrow_fs.FileSystem.from_uri(self.root)
            return system, path
        return arrow_fs.LocalFileSystem(), self.root

    def address(self, contract: Contract) -> str:
        """Where a table is."""
        return f"{self.root.rstrip('/')}/{contract.layer}/{contract.name}"

    def folder(self, contract: Contract) -> str:
        """Where a table is, as Arrow's file system calls it."""
        return f"{self.files()[1]}/{contract.layer}/{contract.name}"

    def open(self, contract: Contract, version: int | None = None) -> DeltaTable | None:
        """A version of a table, the newest unless one is named, or None where it was never written.

        Raises:
            WarehouseError: the table uses what we do not read, such as deletion vectors.
        """
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        try:
            table = DeltaTable(self.address(contract), version=version)
        except TableNotFoundError:
            return None
        protocol = table.protocol()
        unknown = sorted(set(protocol.reader_features or ()) - _READER_FEATURES)
        if protocol.reader_features is None and protocol.min_reader_version > _PLAIN_READER:
            unknown = ["columnMapping"]
        if unknown:
            raise WarehouseError(
                f"{contract.name}: the Delta table uses {', '.join(unknown)}, which this platform does not read; "
                "rewrite it without, or build it anew in another folder (HOSPITAL_LAKE)"
            )
        return table

    def live(self, contract: Contract, table: DeltaTable, days: Days = None) -> list[str]:
        """The files of a version, or of some service days of it, below the table's folder.

        Raises:
            WarehouseError: a file does not lie in the folder of its service day.
        """
        where = where_days(days, quote="'") if contract.partitioned else None
        found = sorted(uri.rsplit(f"/{contract.name}/", 1)[-1] for uri in table.file_uris(file_pruning_predicate=where))
        for path in found if contract.partitioned else ():
            _day_of(contract, path)
        return found

    def new_folder(self, columns: Iterable[str] = ()) -> str:
        """Where a write goes, below the table's folder; nothing in it counts before it is committed.

        Args:
            columns: what every file in it will have; none: readers open each file to see.
        """
        return f"w-{_named(columns)}{uuid.uuid4().hex}"

    def replace_files(
        self,
        contract: Contract,
        folder: str,
        days: Days,
        *,
        start_over: bool = False,
        append: bool = False,
        batch: tuple[str, int] | None = None,
        note: Mapping[str, str] | None = None,
    ) -> int:
        """Make the files of a folder the rows of a table, or of some service days; returns their rows.

        Whatever fails, also when the process is killed, the old rows stay. Of two writers one is first, and
        the other replaces what that one left.

        Args:
            folder: from `new_folder`, with Parquet files, in `service_date=` folders where it is partitioned.
            start_over: a table with other columns is replaced whole, instead of refused.
            append: the rows that are there stay, too.
            batch: of a stream, as its name and number; one that was committed before changes nothing.
            note: what the log says of this version, for `history`.

        Raises:
            SchemaMismatchError: a file, or the stored table, differs from the contract.
            WarehouseError: rows lie outside `days`, or others wrote to the table all the time.
        """
        from deltalake import DeltaTable

        schema = delta_schema(contract)
        adds, rows, outside = [], 0, 0
        for path, size in self._written(contract, folder):
            count, stats = self._footer(contract, schema, path)
            day = _DAY.search(path)
            values = {PARTITION_COLUMN: day.group(1)} if day else {}
            if contract.partitioned and not (day and _is_inside(day.group(1), days)):
                outside += count
            rows += count
            if count:
                adds.append(_add(path, size, values, stats, changes=True))
        if outside:
            raise WarehouseError(
                f"{contract.name}: {outside:,} of {rows:,} rows have a "
                f"{PARTITION_COLUMN} outside {in_words(days) or 'the calendar'} or none; nothing was written"
            )
        partition_by = [PARTITION_COLUMN] if contract.partitioned else []

        def attempt() -> bool:
            table = self.open(contract)
            if table is None:
                table = DeltaTable.create(
                    self.address(contract),
                    schema,
                    mode="ignore",
                    partition_by=partition_by,
                    name=contract.name,
                    description=contract.summary,
                    configuration=_properties(contract, self.kept_days),
                )
            done = None if batch is None else table.transaction_version(batch[0])
            if batch is not None and done is not None and done >= batch[1]:
                return True
            if start_over or not partition_by:
                if table.schema() != schema:
                    return _commit(contract, table, {}, adds, schema=schema, batch=batch, note=note)
            elif _evolve(contract, table, schema):
                return False
            replaced = {} if append else self._sizes(contract, self.live(contract, table, days))
            return _commit(contract, table, replaced, adds, batch=batch, note=note)

        _until_first(contract, attempt)
        return rows

    def last_batch(self, contract: Contract, writer: str) -> int | None:
        """The highest number that a writer committed; None before its first."""
        table = self.open(contract)
        return None if table is None else table.transaction_version(writer)

    def compact(self, contract: Contract) -> int:
        """Put the small files of each service day together; returns how many there are fewer. No row changes."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = self.open(contract)
        if table is None:
            return 0
        system, base = self.files()[0], self.folder(contract)
        groups: dict[str, list[tuple[str, int]]] = {}
        for path, size in self._sizes(contract, self.live(contract, table)).items():
            if size < SMALL_FILE_BYTES:
                groups.setdefault(_day_of(contract, path) if contract.partitioned else "", []).append((path, size))
        schema, stored = delta_schema(contract), pa.schema(table.schema().to_arrow())
        merged: list[tuple[list[str], AddAction]] = []
        for day, members in groups.items():
            taken, total = [], 0
            for path, size in members:
                if total + size <= FILE_BYTES:
                    taken.append(path)
                    total += size
            if len(taken) < 2:
                continue
            read = [pq.read_table(system.open_input_file(f"{base}/{path}"), partitioning=None) for path in taken]
            rows = pa.concat_tables(read, promote_options="default")
            for gained in stored:
                if gained.name not in (*rows.column_names, PARTITION_COLUMN):
                    rows = rows.append_column(gained, pa.nulls(rows.num_rows, gained.type))
            order = [(name, "ascending") for name in contract.order_by if name in rows.column_names]
            values = {PARTITION_COLUMN: day} if day else {}
            target = self.new_folder(rows.column_names) + (f"/{PARTITION_COLUMN}={day}" if day else "")
            system.create_dir(f"{base}/{target}", recursive=True)
            path = f"{target}/compacted.parquet"
            pq.write_table(
                rows.sort_by(order) if order else rows, f"{base}/{path}", filesystem=system, compression="zstd"
            )
            _, stats = self._footer(contract, schema, path)
            add = _add(path, system.get_file_info(f"{base}/{path}").size, values, stats, changes=False)
            merged.append((taken, add))
        spared = 0

        def attempt() -> bool:
            nonlocal spared
            table = self.open(contract)
            live = set(self.live(contract, table)) if table else set()
            # Files that were replaced meanwhile stay replaced.
            usable = [(taken, add) for taken, add in merged if live.issuperset(taken)]
            old = [path for taken, _ in usable for path in taken]
            spared = len(old) - len(usable)
            if table is None or not usable:
                return True
            sizes = self._sizes(contract, old)
            return _commit(contract, table, sizes, [add for _, add in usable], changes=False, note=COMPACTED)

        if merged:
            _until_first(contract, attempt)
        return spared

    def vacuum(self, contract: Contract, kept_days: int | None = None, *, dry_run: bool = False) -> list[str]:
        """Delete files that no version of the last days has, those of killed writers too; returns them.

        Args:
            kept_days: must exceed the longest build, whose files are not committed yet; None for the table's.
        """
        table = self.open(contract)
        if table is None:
            return []
        stated = _kept(self.kept_days)
        if not dry_run and not stated.items() <= table.metadata().configuration.items():
            table.alter.set_table_properties(stated)
        days = self.kept_days if kept_days is None else kept_days
        found = table.vacuum(retention_hours=24 * days, dry_run=dry_run, enforce_retention_duration=False, full=True)
        if not dry_run and "://" not in self.root:
            # Only a disk has folders of their own: empty ones would stay for ever.
            for path in found:
                for folder in Path(path).parents[:-1]:
                    with contextlib.suppress(OSError):
                        Path(self.folder(contract), folder).rmdir()
        # A list of a store that was asked for again names files twice.
        return sorted(set(found))

    def versions(self, contract: Contract) -> list[Version]:
        """The versions of a table that the log knows, oldest first; the first of all, which is empty, is none."""
        table = self.open(contract)
        if table is None:
            return []
        found = []
        for entry in reversed(table.history()):
            if entry["version"] > 0:
                at = datetime.fromtimestamp(entry["timestamp"] / 1000, UTC)
                rows = entry.get("rows")
                noted = (str(entry.get("days", "")), str(entry.get("cause", "")))
                found.append(Version(entry["version"], at, None if rows is None else int(rows), *noted))
        return found

    def rows(self, contract: Contract, source: int | str, days: Days = None) -> arrow_dataset.Dataset:
        """The rows of a version, or of some service days of it, as Arrow reads them: nothing is read yet.

        Args:
            source: the version; or a folder from `new_folder`, whose files no version has yet.

        Raises:
            WarehouseError: its files were deleted, because they were older than is kept.
        """
        import pyarrow as pa
        import pyarrow.dataset as arrow_dataset
        import pyarrow.fs as arrow_fs

        table = self.open(contract, source if isinstance(source, int) else None)
        if table is None:
            raise WarehouseError(f"{contract.name} is not in {self.root}")
        if isinstance(source, int):
            schema, found = table.schema(), self.live(contract, table, days)
        else:
            schema, found = delta_schema(contract), [path for path, _ in self._written(contract, source)]
        system, base = self.files()[0], self.folder(contract)
        paths = [f"{base}/{path}" for path in found]
        if any(info.type == arrow_fs.FileType.NotFound for info in system.get_file_info(paths)):
            raise WarehouseError(
                f"version {source} of {contract.name} is not kept any more: its files were deleted after "
                f"{self.kept_days} days"
            )
        schema = pa.schema(schema.to_arrow())
        if not paths:
            return arrow_dataset.dataset(schema.empty_table())
        hive = pa.schema([schema.field(PARTITION_COLUMN)]) if contract.partitioned else None
        return arrow_dataset.dataset(
            paths,
            schema=schema,
            filesystem=system,
            format="parquet",
            partitioning=arrow_dataset.partitioning(hive, flavor="hive") if hive else None,
        )

    def gone(self, contract: Contract) -> list[str]:
        """The files of the newest version, below the table's folder, that are not there."""
        table = self.open(contract)
        if table is None:
            return []
        there = {path for path, _ in self._written(contract)}
        return [path for path in self.live(contract, table) if path not in there]

    def bytes_on_disk(self, contract: Contract) -> int:
        """Size of a table's files, those of versions before included."""
        import pyarrow.fs as arrow_fs

        selector = arrow_fs.FileSelector(self.folder(contract), recursive=True, allow_not_found=True)
        return sum(info.size or 0 for info in self.files()[0].get_file_info(selector))

    def select_statement(self, contract: Contract, version: int | None = None) -> str:
        """What DuckDB reads a version with: types, names and order as in the contract.

        It goes on reading this version, whatever is committed later.
        """
        # The empty relation gives columns that no file has yet, and their types.
        nothing = ", ".join(f"cast(null as {c.duckdb_type}) as {quoted(c.name)}" for c in contract.columns)
        sources = [f"select {nothing} where false"]
        table = self.open(contract, version)
        alike: dict[str, list[str]] = {}
        # By day, so that the one file that DuckDB opens to see the columns is always the same.
        order = (lambda path: (_day_of(contract, path), path)) if contract.partitioned else None
        for path in sorted(self.live(contract, table), key=order) if table is not None else ():
            known = _COLUMNS.match(path)
            alike.setdefault(known.group(1) if known else "", []).append(path)
        days = (
            f"hive_partitioning = true, hive_types = {{'{PARTITION_COLUMN}': DATE}}"
            if contract.partitioned
            else "hive_partitioning = false"
        )
        for known_columns, paths in alike.items():
            listed = ", ".join(literal(f"{self.address(contract)}/{path}") for path in paths)
            # By name, DuckDB opens every file at every query.
            sources.append(f"select * from read_parquet([{listed}], {days}, union_by_name = {not known_columns})")
        selected = ", ".join(map(quoted, contract.column_names))
        return f"select {selected} from ({' union all by name '.join(sources)})"

    def _written(self, contract: Contract, folder: str = "") -> list[tuple[str, int]]:
        """The Parquet files below a folder of a table, or of the whole table, and their sizes."""
        import pyarrow.fs as arrow_fs

        system, base = self.files()[0], f"{self.folder(contract)}/"
        selector = arrow_fs.FileSelector(f"{base}{folder}".rstrip("/"), recursive=True, allow_not_found=True)
        return sorted(
            (info.path.removeprefix(base), info.size)
            for info in system.get_file_info(selector)
            if info.path.endswith(".parquet")
        )

    def _sizes(self, contract: Contract, paths: Sequence[str]) -> dict[str, int]:
        """Bytes of some files of a table."""
        base = self.folder(contract)
        found = self.files()[0].get_file_info([f"{base}/{path}" for path in paths])
        return {path: info.size or 0 for path, info in zip(paths, found, strict=True)}

    def _footer(self, contract: Contract, schema: Schema, path: str) -> tuple[int, str]:
        """Rows of a file, and its statistics for the log.

        Raises:
            SchemaMismatchError: its columns are not the contract's, or one that is required has gaps.
        """
        import pyarrow.parquet as pq
        from deltalake import Schema as DeltaSchema

        system, base = self.files()[0], self.folder(contract)
        with pq.ParquetFile(system.open_input_file(f"{base}/{path}")) as file:
            footer, delivered = file.metadata, file.schema_arrow
        wanted = {f.name: f for f in schema.fields if not contract.partitioned or f.name != PARTITION_COLUMN}
        found = {f.name: f.type for f in DeltaSchema.from_arrow(_plain(delivered)).fields}
        problems = [
            f"column {name} is {found.get(name, 'missing')} but the contract says {field.type}"
            for name, field in wanted.items()
            if found.get(name) != field.type and (name in found or not field.nullable)
        ]
        problems += [f"unknown column {name}" for name in found if name not in wanted]
        if _COLUMNS.match(path) and not path.startswith(f"w-{_named(found)}"):
            problems.append("a file has not the columns that its folder says")
        nulls, least, greatest = _bounds(footer)
        problems += [
            f"column {name} is null in {nulls[name]:,} rows"
            for name, f in wanted.items()
            if not f.nullable and nulls.get(name)
        ]
        if problems:
            raise SchemaMismatchError(f"{contract.name}: {'; '.join(problems)}; nothing was written")
        open_columns = {c.name for c in contract.columns if _may_be_bounded(c)}
        stats = {
            "numRecords": footer.num_rows,
            "minValues": {name: _spelled(value) for name, value in least.items() if name in open_columns},
            "maxValues": {name: _spelled(value) for name, value in greatest.items() if name in open_columns},
            "nullCount": {name: count for name, count in nulls.items() if name in open_columns},
        }
        return footer.num_rows, json.dumps(stats, allow_nan=False)


def _named(columns: Iterable[str]) -> str:
    """Columns as the name of a folder has them; nothing for none."""
    names = sorted(set(columns) - {PARTITION_COLUMN})
    return f"{hashlib.sha256(','.join(names).encode()).hexdigest()[:8]}-" if names else ""


def _plain(schema: pa.Schema) -> pa.Schema:
    """Without what writers note about columns, which would count as a difference."""
    import pyarrow as pa

    return pa.schema([pa.field(f.name, f.type) for f in schema])


def _may_be_bounded(column: Column) -> bool:
    """Whether the log may hold a column's smallest and largest value: it is in clear, and stays after a deletion.

    Figures that can be NaN are left out: one such bound, and nobody can open the table any more.
    """
    return (
        column.privacy == "operational"
        and column.name != PARTITION_COLUMN
        and column.duckdb_type in ("BIGINT", "INTEGER", "SMALLINT", "DATE", "TIMESTAMP", "TIMESTAMPTZ")
    )


def _bounds(footer: Any) -> tuple[dict[str, int], dict[str, Any], dict[str, Any]]:
    """Nulls, smallest and largest value of each column that has statistics in every row group."""
    nulls: dict[str, int] = {}
    least: dict[str, Any] = {}
    greatest: dict[str, Any] = {}
    for place in range(footer.num_columns):
        chunks = [footer.row_group(group).column(place) for group in range(footer.num_row_groups)]
        name = footer.schema.column(place).path
        statistics = [chunk.statistics for chunk in chunks]
        if "." in name or not statistics or any(s is None or s.null_count is None for s in statistics):
            continue
        nulls[name] = sum(s.null_count for s in statistics)
        filled = [s for s, chunk in zip(statistics, chunks, strict=True) if s.null_count < chunk.num_values]
        if filled and all(s.has_min_max for s in filled):
            least[name], greatest[name] = min(s.min for s in filled), max(s.max for s in filled)
    return nulls, least, greatest


def _spelled(value: Any) -> int | str:
    """A bound as the log has it."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            return value.isoformat(timespec="microseconds")
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return value.isoformat() if isinstance(value, date) else int(value)


def _kept(days: int) -> dict[str, str]:
    return dict.fromkeys(("delta.deletedFileRetentionDuration", "delta.logRetentionDuration"), f"interval {days} days")


def _properties(contract: Contract, kept_days: int) -> dict[str, str | None]:
    bounded = [c.name for c in contract.columns if _may_be_bounded(c)]
    return {
        **_kept(kept_days),
        "delta.checkpointInterval": "100",
        # Other writers, too, must put no identifier into the log.
        **(
            {"delta.dataSkippingStatsColumns": ",".join(bounded)}
            if bounded
            else {"delta.dataSkippingNumIndexedCols": "0"}
        ),
        **({"delta.enableChangeDataFeed": "true"} if contract.layer == "facts" else {}),
    }


def _day_of(contract: Contract, path: str) -> str:
    found = _DAY.search(path)
    if found is None:
        raise WarehouseError(
            f"{contract.name}: a file of the Delta table is in no {PARTITION_COLUMN}= folder, so another program wrote "
            f"it. Build the table anew: hospital build --rebuild {contract.name}"
        )
    return found.group(1)


def _is_inside(day: str, days: Days) -> bool:
    return days is None or any(p.first <= date.fromisoformat(day) < p.end for p in _periods(days))


def _periods(days: Period | tuple[Period, ...]) -> tuple[Period, ...]:
    return (days,) if isinstance(days, Period) else days


def where_days(days: Days, *, quote: str = "date '") -> str | None:
    """The condition that a row is of some service days, as SQL; None for all."""
    if days is None:
        return None
    return " or ".join(
        f"({PARTITION_COLUMN} >= {quote}{p.first}' and {PARTITION_COLUMN} < {quote}{p.end}')" for p in _periods(days)
    )


def in_words(days: Days) -> str:
    """Service days as people write them; empty for all."""
    found = [(p.first, p.end - timedelta(days=1)) for p in _periods(days)] if days else []
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in found)


def _add(path: str, size: int, values: Mapping[str, str | None], stats: str, *, changes: bool) -> AddAction:
    from deltalake.transaction import AddAction

    return AddAction(path, size, values, int(time.time() * 1000), changes, stats)


def _evolve(contract: Contract, table: DeltaTable, schema: Schema) -> bool:
    """Add new nullable columns to a table; whether there were any.

    Raises:
        SchemaMismatchError: it differs in another way.
    """
    stored, wanted = {f.name: f for f in table.schema().fields}, {f.name: f for f in schema.fields}
    assert_stored(
        contract,
        {name: f.type for name, f in stored.items()},
        {name: (f.type, f.nullable) for name, f in wanted.items()},
        *(
            f"{name} may be null as stored but not by the contract"
            for name, f in wanted.items()
            if name in stored and stored[name].nullable and not f.nullable
        ),
    )
    new = [f for name, f in wanted.items() if name not in stored]
    if new:
        table.alter.add_columns(new)
    return bool(new)


def _commit(
    contract: Contract,
    table: DeltaTable,
    removed: Mapping[str, int],
    adds: Sequence[AddAction],
    *,
    changes: bool = True,
    schema: Schema | None = None,
    batch: tuple[str, int] | None = None,
    note: Mapping[str, str] | None = None,
) -> bool:
    """Exchange files in the version after the one that `table` is; False where somebody else made that version.

    With a schema, all files are replaced and the table has these columns from then on.
    """
    from deltalake.exceptions import CommitFailedError
    from deltalake.transaction import CommitProperties, RemoveAction, Transaction

    now = int(time.time() * 1000)
    old = [
        RemoveAction(
            path, changes, now, size, {PARTITION_COLUMN: _day_of(contract, path)} if contract.partitioned else {}
        )
        for path, size in removed.items()
    ]
    if not old and not adds and schema is None and batch is None:
        return True
    try:
        table.create_write_transaction(
            [*old, *adds],
            "append" if schema is None else "overwrite",
            schema or table.schema(),
            [PARTITION_COLUMN] if contract.partitioned else [],
            commit_properties=CommitProperties(
                dict(note or {}), max_commit_retries=0, app_transactions=[Transaction(*batch)] if batch else None
            ),
        )
    except CommitFailedError:
        return False
    return True


def of_damage(tables: DeltaTables, contract: Contract, error: Exception) -> str:
    """What to say of a table whose log or files are not what was written."""
    return (
        f"{contract.name} cannot be read at {tables.folder(contract)} ({str(error).splitlines()[0]}). Put its folder "
        "back from a copy, or remove it: the mirror gets it anew without its history, `hospital build` makes a lake's"
    )


def _until_first(contract: Contract, attempt: Callable[[], bool]) -> None:
    from deltalake.exceptions import CommitFailedError

    for number in range(_TRIES):
        # Whoever made or changed the table meanwhile was first, too.
        with contextlib.suppress(CommitFailedError):
            if attempt():
                return
        time.sleep(random.uniform(0, min(1.0, 0.02 * 2**number)))  # noqa: S311  (so that writers part)
    raise WarehouseError(
        f"{contract.name}: others wrote to the table all the time, {_TRIES} tries were overtaken; it is "
        "unchanged. Run this again when they are done"
    )
