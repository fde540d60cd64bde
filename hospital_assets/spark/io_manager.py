"""The IO manager for assets that run on Spark: their tables are Delta in the lake.

Imported only where Spark is the engine. The warehouse file keeps the bookkeeping, and a view of every
table in the lake, so that checks, reports and people read all tables in one place; a table of
an asset that runs on DuckDB is stored in the file as ever, whichever engine its neighbours have.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_pyspark import LazyPySparkResource
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from hospital_assets.contracts import Contract
from hospital_assets.live.io_manager import HospitalIOManager
from hospital_assets.spark import dialect as on_spark
from hospital_assets.spark.lake import Lake
from hospital_assets.spark.session import configuration, prepare_java, stated_defaults
from hospital_assets.warehouse.database import Period, Warehouse, Written
from hospital_assets.warehouse.delta import assert_installed
from hospital_assets.warehouse.dialect import Frame
from hospital_assets.warehouse.errors import WarehouseError
from hospital_assets.warehouse.io_manager import Also


class SparkResource(LazyPySparkResource):
    """dagster-pyspark's lazy session, on the Java that is here and with the settings we rely on.

    The session outlives a run: the next one in this process does not wait for it again.
    """

    wrapped_java: str

    @property
    def spark_session(self) -> SparkSession:
        """The session; the first call starts it (some seconds).

        Raises:
            SparkUnavailableError: there is no Java; says how to get one.
        """
        is_new = self._spark_session is None
        if is_new:
            prepare_java(Path(self.wrapped_java))
        session: SparkSession = super().spark_session
        if is_new:
            session.sparkContext.setLogLevel("ERROR")
        return session


def spark_resource(master: str, data_dir: Path) -> SparkResource:
    """The session on a master, for a data directory.

    Raises:
        SettingsError: the package that the lake is written with is not installed.
    """
    assert_installed("HOSPITAL_ENGINE")
    return SparkResource(
        spark_config=configuration(master, stated=stated_defaults()), wrapped_java=str(data_dir / "warehouse" / "java")
    )


class LakeIOManager(HospitalIOManager):
    """Stores what some assets return in the lake, and hands those assets lazy Spark frames."""

    spark: SparkResource
    lake: str
    tables_on_spark: list[str]

    def _read(
        self, context: dg.InputContext, contract: Contract, period: Period | None, *, may_be_absent: bool
    ) -> Frame:
        if not self._is_on_spark(context):
            return super()._read(context, contract, period, may_be_absent=may_be_absent)
        on_spark.forget_checkpoints()
        session, lake = self.spark.spark_session, Lake(self.lake)
        if contract.name in self.tables_on_spark:
            return lake.read(session, contract, period)
        stored = self.warehouse.open_for_reading().read(contract, period, may_be_absent=may_be_absent)
        return lake.lend(session, stored, contract.name)

    def _is_on_spark(self, context: dg.InputContext) -> bool:
        """Whether the step that asks makes tables on Spark; checks read through DuckDB."""
        made = context.step_context.assets_def.keys if context.step_context.assets_def else ()
        return any(key.path[-1] in self.tables_on_spark for key in made)

    def _replace(
        self, warehouse: Warehouse, contract: Contract, frame: Frame, period: Period | None, also: Also, cause: str
    ) -> Written:
        if contract.name not in self.tables_on_spark:
            return super()._replace(warehouse, contract, frame, period, also, cause)
        started = time.perf_counter()
        lake = Lake(self.lake)
        try:
            # `--rebuild` drops the view: then a table of other columns may be begun anew.
            rows = lake.replace(
                self.spark.spark_session,
                contract,
                frame,
                period,
                start_over=not warehouse.is_view(contract),
                cause=cause,
            )
        except PySparkException as error:
            raise WarehouseError(
                f"{contract.name}: the rows could not be computed or stored ({redacted(error)}); the table is unchanged"
            ) from None
        warehouse.show(contract, lake.select_statement(contract), also=also)
        return Written(rows=rows, seconds=time.perf_counter() - started)

    def _bytes_on_disk(self, warehouse: Warehouse, contract: Contract) -> int:
        if contract.name in self.tables_on_spark:
            return Lake(self.lake).bytes_on_disk(contract)
        return super()._bytes_on_disk(warehouse, contract)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Let go of what only this run needed."""
        on_spark.forget_checkpoints()
        Lake(self.lake).forget_loans()


def redacted(error: PySparkException) -> str:
    """What Spark says of an error, without any value: only its class, and its name in Spark's list."""
    condition: Any = error.getCondition()
    return f"{type(error).__name__}: {condition or 'no further reason is given'}"
