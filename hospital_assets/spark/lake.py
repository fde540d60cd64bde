"""Tables as Delta that Spark writes and every engine reads.

Belongs here: how Spark writes the files of a table and reads them. What makes files a table is
`warehouse.delta`. Knows contracts; does not know Dagster.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import narwhals as nw

from hospital_assets.contracts import PARTITION_COLUMN, Contract
from hospital_assets.warehouse.database import Period, assert_columns
from hospital_assets.warehouse.delta import DeltaTables, in_words
from hospital_assets.warehouse.dialect import Frame, lazy
from hospital_assets.warehouse.dialect.frames import is_on_spark, relation_of
from hospital_assets.warehouse.errors import WarehouseError, without_values

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


@dataclass(frozen=True)
class Lake(DeltaTables):
    """The tables of Spark, below one root."""

    def _address(self, path: str) -> str:
        """A path of our file system as Spark calls it."""
        scheme, found, _ = self.root.partition("://")
        if not found:
            return f"file://{path}"
        return f"{'s3a' if scheme == 's3' else scheme}://{path}"

    def _folder(self, contract: Contract) -> str:
        return self._address(self.folder(contract))

    def read(self, session: SparkSession, contract: Contract, period: Period | None) -> Frame:
        """A lazy Spark frame over a table, or over some service days of it; its plan names the table.

        Raises:
            WarehouseError: the table was never written, or uses features of Delta that we do not read.
        """
        table = self.open(contract)
        if table is None:
            raise WarehouseError(
                f"{contract.name} is not in the lake yet: materialise the asset '{contract.name}' first"
            )
        return lazy(self._frame(session, contract, self.live(contract, table, period)).alias(contract.name))

    def _frame(self, session: SparkSession, contract: Contract, files: list[str]) -> DataFrame:
        from pyspark.sql import functions as F  # noqa: N812

        from hospital_assets.spark.dialect import schema_of

        if not files:
            return session.createDataFrame([], schema_of(contract.polars_schema))
        folder = self._folder(contract)
        stored = {n: t for n, t in contract.polars_schema.items() if not contract.partitioned or n != PARTITION_COLUMN}
        frame = session.read.schema(schema_of(stored)).parquet(*(f"{folder}/{path}" for path in files))
        if contract.partitioned:
            # Spark's own reading of the folders gives null days for a list of files.
            day = F.regexp_extract(F.col("_metadata.file_path"), f"{PARTITION_COLUMN}=([0-9-]{{10}})", 1)
            frame = frame.withColumn(PARTITION_COLUMN, day.cast("date"))
        return frame.select(*contract.column_names)

    def replace(
        self,
        session: SparkSession,
        contract: Contract,
        frame: Frame,
        period: Period | None,
        *,
        start_over: bool = False,
        cause: str = "",
        batch: tuple[str, int] | None = None,
    ) -> int:
        """Replace a table, or some service days of it; returns the rows now in it.

        Raises and promises what `replace_files` does, which commits what Spark has written. A batch of a stream is
        added, once.
        """
        from hospital_assets.spark.dialect import duckdb_types, from_polars, schema_of

        if not is_on_spark(frame):
            # Polars; or DuckDB, where nothing of a subject has landed.
            frame = lazy(from_polars(session, frame.collect("polars").to_native()))
        native: DataFrame = nw.to_native(frame)
        assert_columns(contract, duckdb_types(native))
        rows = native.select(
            *(native[f.name].cast(f.dataType).alias(f.name) for f in schema_of(contract.polars_schema))
        )
        days = [PARTITION_COLUMN] if contract.partitioned else []
        order = [*days, *(name for name in contract.order_by if name in rows.columns and name not in days)]
        rows = rows.hint("rebalance", *days)
        if order:
            rows = rows.sortWithinPartitions(*order)
        # A folder of its own: two jobs that write into one share Spark's temporary files.
        folder = self.new_folder(contract.column_names)
        writer = rows.write.option("compression", "zstd").partitionBy(*days)
        writer.parquet(f"{self._folder(contract)}/{folder}")
        note = {"days": in_words(period), "cause": cause}
        return self.replace_files(
            contract, folder, period, start_over=start_over, append=batch is not None, batch=batch, note=note
        )

    def lend(self, session: SparkSession, frame: Frame, name: str) -> Frame:
        """Bring a DuckDB frame to Spark, through a file in the lake that the next loan replaces."""
        relation = relation_of(frame)
        if relation is None:
            return frame
        files, root = self.files()
        files.create_dir(f"{root}/.lent", recursive=True)
        file = f".lent/{name}.{uuid.uuid4().hex}.parquet"
        with without_values(f"{name} could not be brought to Spark"):
            frame.to_native().write_parquet(f"{self.root}/{file}")
        return lazy(session.read.parquet(self._address(f"{root}/{file}")).alias(name))

    def forget_loans(self) -> None:
        """Delete what `lend` wrote; lazy frames over it must be done."""
        import pyarrow.fs as arrow_fs

        files, root = self.files()
        if files.get_file_info(f"{root}/.lent").type == arrow_fs.FileType.Directory:
            files.delete_dir(f"{root}/.lent")
