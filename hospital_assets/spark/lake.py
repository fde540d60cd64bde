"""Tables as Parquet files that Spark writes and every engine reads.

Belongs here: where the files of a table are, and how a new version takes the place of the old one.
Knows contracts; does not know Dagster.

A write goes to a folder of its own; then a small manifest that lists the folders of each service
day is replaced in one step (a rename, or one put on an object store). Until then the old version
is the table, and a reader sees all of one version or all of the other.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

import narwhals as nw

from hospital_assets.contracts import PARTITION_COLUMN, Contract
from hospital_assets.warehouse.database import PartitionMismatchError, Period, assert_columns
from hospital_assets.warehouse.dialect import Frame, lazy, literal, polars_of, quoted, with_sql
from hospital_assets.warehouse.dialect.frames import is_on_spark, relation_of
from hospital_assets.warehouse.errors import WarehouseError, without_values

if TYPE_CHECKING:
    import pyarrow.fs as arrow_fs
    from pyspark.sql import DataFrame, SparkSession

#: Where the rows of an unpartitioned table are listed in its manifest.
_WHOLE = ""
#: A copy of the partition column, because Spark takes what it makes folders of out of the files.
_FOLDER_COLUMN = "_day"
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """Which folders make up a table.

    Attributes:
        folders: service day (or nothing, for a whole table) -> folder below the table's.
        rows: the same keys -> how many rows.
        previous: folders of the version before; readers may still be in them.
    """

    folders: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    previous: tuple[str, ...] = ()

    def inside(self, period: Period | None) -> list[str]:
        """The folders of some service days, or all."""
        return [
            folder
            for day, folder in sorted(self.folders.items())
            if period is None or not day or period.first <= date.fromisoformat(day) < period.end
        ]


@dataclass(frozen=True)
class Lake:
    """The folder (or object store address) that all tables are below.

    Attributes:
        root: a path, or an address such as `s3://bucket/folder`. On a cluster every executor must
            see it under the same name.
    """

    root: str

    def _files(self) -> tuple[arrow_fs.FileSystem, str]:
        import pyarrow.fs as arrow_fs

        if "://" in self.root:
            system, path = arrow_fs.FileSystem.from_uri(self.root)
            return system, path
        return arrow_fs.LocalFileSystem(), self.root

    def _table(self, contract: Contract) -> str:
        return f"{self._files()[1]}/{contract.layer}/{contract.name}"

    def _address(self, path: str) -> str:
        """A path of our file system as Spark calls it."""
        scheme, found, _ = self.root.partition("://")
        if not found:
            return f"file://{path}"
        return f"{'s3a' if scheme == 's3' else scheme}://{path}"

    def manifest(self, contract: Contract) -> Manifest | None:
        """The table as it is now, or None where it was never written."""
        files, _ = self._files()
        try:
            with files.open_input_stream(f"{self._table(contract)}/{_MANIFEST}") as stream:
                stored = json.loads(stream.read())
        except FileNotFoundError:
            return None
        return Manifest(stored["folders"], stored["rows"], tuple(stored["previous"]))

    def read(self, session: SparkSession, contract: Contract, period: Period | None) -> Frame:
        """A lazy Spark frame over a table, or over some service days of it; its plan names the table.

        Raises:
            WarehouseError: the table was never written.
        """
        manifest = self.manifest(contract)
        if manifest is None:
            raise WarehouseError(
                f"{contract.name} is not in the lake yet: materialise the asset '{contract.name}' first"
            )
        folders = manifest.inside(period if contract.partitioned else None)
        return lazy(self._frame(session, contract, folders).alias(contract.name))

    def _frame(self, session: SparkSession, contract: Contract, folders: list[str]) -> DataFrame:
        from hospital_assets.spark.dialect import schema_of

        schema = schema_of(contract.polars_schema)
        if not folders:
            return session.createDataFrame([], schema)
        table = self._table(contract)
        return session.read.schema(schema).parquet(*(self._address(f"{table}/{folder}") for folder in folders))

    def replace(self, session: SparkSession, contract: Contract, frame: Frame, period: Period | None) -> int:
        """Replace a table, or some service days of it; returns the rows now in it.

        Whatever fails, also when the process is killed, the old rows stay.

        Raises:
            SchemaMismatchError: columns are missing, extra, or would change their values.
            PartitionMismatchError: rows lie outside `period`.
        """
        from hospital_assets.spark.dialect import duckdb_types, from_polars, schema_of

        if not is_on_spark(frame):
            frame = lazy(from_polars(session, polars_of(frame).collect()))
        native: DataFrame = nw.to_native(frame)
        assert_columns(contract, duckdb_types(native))
        version = f"v-{uuid.uuid4().hex}"
        target = f"{self._table(contract)}/{version}"
        rows = native.select(
            *(native[f.name].cast(f.dataType).alias(f.name) for f in schema_of(contract.polars_schema))
        )
        order = [name for name in contract.order_by if name in rows.columns]
        if period is None:
            rows = rows.hint("rebalance")
            if order:
                rows = rows.sortWithinPartitions(*order)
            rows.write.option("compression", "zstd").parquet(self._address(target))
            written = {_WHOLE: version}
        else:
            rows = rows.withColumn(_FOLDER_COLUMN, rows[PARTITION_COLUMN])
            rows = rows.hint("rebalance", _FOLDER_COLUMN)
            rows = rows.sortWithinPartitions(_FOLDER_COLUMN, *order)
            rows.write.option("compression", "zstd").partitionBy(_FOLDER_COLUMN).parquet(self._address(target))
            written = {day: f"{version}/{_FOLDER_COLUMN}={day}" for day in self._days(target)}
        counts = self._count(session, contract, written)
        if period is not None:
            self._assert_inside(contract, counts, period)
        before = self.manifest(contract) or Manifest()
        kept = {
            day: folder
            for day, folder in before.folders.items()
            if period is not None and not period.first <= date.fromisoformat(day) < period.end
        }
        after = Manifest(
            {**kept, **written},
            {**{day: before.rows[day] for day in kept}, **counts},
            tuple(sorted(set(before.folders.values()) - set(kept.values()))),
        )
        self._switch(contract, after)
        self._forget_all_but(contract, after)
        return sum(counts.values())

    def _days(self, target: str) -> list[str]:
        """The service days that a write made folders for."""
        import pyarrow.fs as arrow_fs

        found = self._files()[0].get_file_info(arrow_fs.FileSelector(target))
        return [info.base_name.partition("=")[2] for info in found if info.base_name.startswith(f"{_FOLDER_COLUMN}=")]

    def _count(self, session: SparkSession, contract: Contract, written: Mapping[str, str]) -> dict[str, int]:
        """Rows per key, from the files' own footers."""
        if not written:
            return {}
        if not contract.partitioned:
            return {_WHOLE: self._frame(session, contract, list(written.values())).count()}
        # A missing day stands as Spark writes it, and is counted under that name.
        frame = session.read.option("basePath", self._address(self._table(contract))).parquet(
            *(self._address(f"{self._table(contract)}/{folder}") for folder in written.values())
        )
        counted = {str(row[0]): int(row[1]) for row in frame.groupBy(_FOLDER_COLUMN).count().collect()}
        return {day: counted.get(day, counted.get("None", 0)) for day in written}

    @staticmethod
    def _assert_inside(contract: Contract, counts: Mapping[str, int], period: Period) -> None:
        def is_inside(day: str) -> bool:
            try:
                return period.first <= date.fromisoformat(day) < period.end
            except ValueError:
                return False

        outside = sum(rows for day, rows in counts.items() if not is_inside(day))
        if outside:
            raise PartitionMismatchError(
                f"{contract.name}: {outside:,} of {sum(counts.values()):,} rows have a "
                f"{PARTITION_COLUMN} outside {period} or none; nothing was written"
            )

    def _switch(self, contract: Contract, manifest: Manifest) -> None:
        files, _ = self._files()
        table = self._table(contract)
        temporary = f"{table}/.{_MANIFEST}.{uuid.uuid4().hex}"
        stored = {"folders": manifest.folders, "rows": manifest.rows, "previous": manifest.previous}
        with files.open_output_stream(temporary) as stream:
            stream.write(json.dumps(stored, indent=0).encode())
        files.move(temporary, f"{table}/{_MANIFEST}")

    def _forget_all_but(self, contract: Contract, manifest: Manifest) -> None:
        """Delete versions that neither this manifest nor the one before it names."""
        import pyarrow.fs as arrow_fs

        files, _ = self._files()
        named = {*manifest.folders.values(), *manifest.previous}
        versions = {folder.partition("/")[0] for folder in named}
        for info in files.get_file_info(arrow_fs.FileSelector(self._table(contract))):
            if info.type == arrow_fs.FileType.Directory and info.base_name not in versions:
                files.delete_dir(info.path)

    def bytes_on_disk(self, contract: Contract) -> int:
        """Size of a table's files, those of the version before included."""
        import pyarrow.fs as arrow_fs

        selector = arrow_fs.FileSelector(self._table(contract), recursive=True, allow_not_found=True)
        return sum(info.size or 0 for info in self._files()[0].get_file_info(selector))

    def select_statement(self, contract: Contract) -> str:
        """What DuckDB reads the table with: types, names and order as in the contract."""
        nothing = ", ".join(
            f"cast(null as {'VARCHAR' if c.duckdb_type == 'VARIANT' else c.duckdb_type}) as {quoted(c.name)}"
            for c in contract.columns
        )
        source = f"(select {nothing} where false)"
        manifest = self.manifest(contract) or Manifest()
        if manifest.folders:
            table = f"{self.root.rstrip('/')}/{contract.layer}/{contract.name}"
            listed = ", ".join(literal(f"{table}/{folder}/*.parquet") for folder in manifest.inside(None))
            # The empty relation gives columns that no file has yet, and their types.
            source = (
                f"({source} union all by name select * from read_parquet([{listed}], "
                "hive_partitioning = false, union_by_name = true))"
            )
        selected = ", ".join(
            f"cast({quoted(c.name)} as json)::variant as {quoted(c.name)}"
            if c.duckdb_type == "VARIANT"
            else quoted(c.name)
            for c in contract.columns
        )
        return f"select {selected} from {source}"

    def lend(self, session: SparkSession, frame: Frame, name: str) -> Frame:
        """Bring a DuckDB frame to Spark, through a file in the lake that the next loan replaces."""
        relation = relation_of(frame)
        if relation is None:
            return frame
        variants = [
            column for column, kind in zip(relation.columns, relation.types, strict=True) if str(kind) == "VARIANT"
        ]
        if variants:
            frame = with_sql(frame, {c: f"cast(cast({quoted(c)} as json) as varchar)" for c in variants})
        files, root = self._files()
        files.create_dir(f"{root}/.lent", recursive=True)
        file = f".lent/{name}.{uuid.uuid4().hex}.parquet"
        with without_values(f"{name} could not be brought to Spark"):
            frame.to_native().write_parquet(f"{self.root}/{file}")
        return lazy(session.read.parquet(self._address(f"{root}/{file}")).alias(name))

    def forget_loans(self) -> None:
        """Delete what `lend` wrote; lazy frames over it must be done."""
        import pyarrow.fs as arrow_fs

        files, root = self._files()
        if files.get_file_info(f"{root}/.lent").type == arrow_fs.FileType.Directory:
            files.delete_dir(f"{root}/.lent")
