"""The IO manager: the bridge between Dagster's assets and the warehouse.

Belongs here: which partition a run reads or writes, what an input looks like (a lazy frame), and
what a materialisation says about itself (rows, seconds, preview, lineage). How a table is written
is `database`'s matter, what it means the contract's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import polars as pl
from dagster_duckdb import DuckDBResource
from pydantic import PrivateAttr

from hospital_assets.contracts import CONTRACTS, Contract
from hospital_assets.contracts.raw import LOADS
from hospital_assets.settings import EngineSettings
from hospital_assets.warehouse.database import RUN_WAIT_SECONDS, Period, Warehouse, Written, open_warehouse
from hospital_assets.warehouse.dialect import Frame, lazy
from hospital_assets.warehouse.errors import WarehouseError
from hospital_assets.warehouse.lineage import lineage_of
from hospital_assets.warehouse.loads import complete_loads, publish_ledger_at_last, record_loads

#: Bookkeeping that is stored together with the rows.
Also = Callable[[duckdb.DuckDBPyConnection], None]
#: Metadata of an input that an asset can do without: where the table was never written, it has no rows.
MAY_BE_ABSENT = "hospital/may_be_absent"
#: Classes of columns a preview may show: nothing that tells who a row is about.
PREVIEW_PRIVACY = {"operational"}
_PREVIEW_ROWS = 5
#: Dagster takes longer per key the more keys a run has; longer ranges only state their total.
_MOST_KEYS_COUNTED = 100


class WarehouseResource(DuckDBResource):
    """The warehouse file, opened for the length of a run and shared by all that need it.

    A `DuckDBResource` (`get_connection` works as in dagster-duckdb) that waits its turn at the
    file lock, names the holder, and keeps one connection for as long as lazy frames live.
    """

    wait_seconds: float = RUN_WAIT_SECONDS
    memory_limit: str = "1GB"
    in_memory_rows: int = EngineSettings.in_memory_rows

    _stack: contextlib.ExitStack = PrivateAttr(default_factory=contextlib.ExitStack)
    _warehouse: Warehouse | None = PrivateAttr(default=None)
    _has_written: bool = PrivateAttr(default=False)
    _has_loaded: bool = PrivateAttr(default=False)

    def open(self) -> Warehouse:
        """The open warehouse; opened at the first call, closed when the run ends."""
        if self._warehouse is None:
            self._warehouse = self._stack.enter_context(
                open_warehouse(
                    Path(self.database),
                    wait_seconds=self.wait_seconds,
                    memory_limit=self.memory_limit,
                    in_memory_rows=self.in_memory_rows,
                    say=dg.get_dagster_logger().info,
                )
            )
        return self._warehouse

    def open_for_reading(self) -> Warehouse:
        """As `open`, at the start of a step: what an earlier step checkpointed is dropped."""
        warehouse = self.open()
        if self._has_written:
            warehouse.forget_checkpoints()
            self._has_written = False
        return warehouse

    def open_for_writing(self) -> Warehouse:
        """As `open`, when a step stores its outputs."""
        self._has_written = True
        return self.open()

    def note_loads(self) -> None:
        """Landed files were loaded in this run; they count when all of its steps are done."""
        self._has_loaded = True

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Close the file, so that the next run can have it."""
        run = context.run
        if self._has_loaded and self._warehouse and run and _is_done(context, run):
            complete_loads(self._warehouse, run.run_id)
        self._has_loaded = False
        self._warehouse = None
        self._stack.close()

    @contextlib.contextmanager
    def get_connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection to the warehouse file, closed again afterwards, whatever happens."""
        with open_warehouse(
            Path(self.database), wait_seconds=self.wait_seconds, memory_limit=self.memory_limit
        ) as warehouse:
            yield warehouse.connection


def _is_done(context: dg.InitResourceContext, run: dg.DagsterRun) -> bool:
    """Whether every step the run was to execute has succeeded."""
    instance = context.instance
    if instance is None or run.execution_plan_snapshot_id is None:
        return False
    plan = instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
    succeeded = {entry.step_key for entry in instance.all_logs(run.run_id, of_type={dg.DagsterEventType.STEP_SUCCESS})}
    return set(plan.step_keys_to_execute) <= succeeded


def period_of(context: Any) -> Period | None:
    """The service days a run covers for an asset, or None where it is not partitioned.

    `context` is an input, output, asset or asset-check execution context. One key or a
    contiguous range of keys.
    """
    if isinstance(context, dg.InputContext | dg.OutputContext):
        if not context.has_asset_partitions:
            return None
        window = context.asset_partitions_time_window
    else:
        if not context.has_partition_key and not context.has_partition_key_range:
            return None
        window = context.partition_time_window
    return _days(window)


def days_of_run(context: dg.AssetExecutionContext) -> Period:
    """As `period_of`, for an asset that is partitioned."""
    period = period_of(context)
    assert period is not None  # noqa: S101  (the asset is partitioned)
    return period


def _period_read(step: Any, name: str) -> Period | None:
    """The service days of an input that a step reads; None where it reads the whole table."""
    if not step.has_asset_partitions_for_input(name):
        return None
    window = step.asset_partitions_time_window_for_input(name)
    return _days(window)


def _days(window: dg.TimeWindow) -> Period:
    return Period(window.start.date(), window.end.date())


class WarehouseIOManager(dg.ConfigurableIOManager):
    """Stores every asset as a DuckDB table by its contract; hands assets lazy Narwhals frames.

    An asset returns a lazy Narwhals frame or a Polars frame. An input annotated
    `pl.DataFrame` is collected; any other is a lazy frame over the table (over the run's service
    days where both sides are partitioned), so that the transform runs inside DuckDB; or, where all
    that a step reads is small, in memory by Polars: the results are the same.
    """

    warehouse: WarehouseResource
    #: The step that read last, as run and step, and whether it is computed in memory.
    _decided: tuple[tuple[str, str], bool] | None = PrivateAttr(default=None)

    def load_input(self, context: dg.InputContext) -> Frame | pl.DataFrame:
        """A frame over the upstream table."""
        frame = self._read(
            context,
            contract_of(context.asset_key),
            period_of(context),
            may_be_absent=MAY_BE_ABSENT in (context.definition_metadata or {}),
        )
        if context.dagster_type.typing_type is pl.DataFrame:
            return frame.collect("polars").to_native()  # type: ignore[no-any-return]
        return frame

    def _read(
        self, context: dg.InputContext, contract: Contract, period: Period | None, *, may_be_absent: bool
    ) -> Frame:
        """The upstream table, on the engine that the step runs on."""
        warehouse = self.warehouse.open_for_reading()
        if self._is_in_memory(context, warehouse):
            return warehouse.in_memory(contract, period, may_be_absent=may_be_absent)
        return warehouse.read(contract, period, may_be_absent=may_be_absent)

    def _is_in_memory(self, context: dg.InputContext, warehouse: Warehouse) -> bool:
        """Whether all that the asking step reads is so small that it is computed in memory."""
        step = context.step_context
        if step.assets_def is None:
            return False
        if self._decided is None or self._decided[0] != (step.run_id, step.step.key):
            inputs = step.assets_def.keys_by_input_name.items()
            fits = warehouse.fits_in_memory((contract_of(key), _period_read(step, name)) for name, key in inputs)
            self._decided = ((step.run_id, step.step.key), fits)
        return self._decided[1]

    def _replace(
        self, warehouse: Warehouse, contract: Contract, frame: Frame, period: Period | None, also: Also, cause: str
    ) -> Written:
        """Store the rows where the table lives; `also` belongs to it, `cause` is the run."""
        return warehouse.replace(contract, frame, period, also=also, cause=cause)

    def _bytes_on_disk(self, warehouse: Warehouse, contract: Contract) -> int:
        """Size of what holds the table."""
        return warehouse.bytes_on_disk()

    def _stored(self, warehouse: Warehouse, contract: Contract) -> dict[str, Any]:
        """Hook for subclasses, called after a table was stored; returns extra metadata."""
        return {}

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Replace the table, or the run's service days of it."""
        contract = contract_of(context.asset_key)
        if obj is None:
            raise WarehouseError(f"{contract.name}: the asset returned nothing; return a frame")
        frame = lazy(obj)
        warehouse = self.warehouse.open_for_writing()
        period = period_of(context)
        if (period is not None) != contract.partitioned:
            raise WarehouseError(f"{contract.name}: the contract and the asset disagree on being partitioned")
        is_landed = contract.name in LOADS
        written = self._replace(
            warehouse,
            contract,
            frame,
            period,
            lambda _: record_loads(warehouse, contract, period, context.run_id) if is_landed else None,
            f"run {context.run_id}",
        )
        if contract.layer == "raw":
            publish_ledger_at_last(warehouse)
        if is_landed:
            self.warehouse.note_loads()
        details: dict[str, Any] = {
            "seconds": round(written.seconds, 3),
            "warehouse_bytes": self._bytes_on_disk(warehouse, contract),
            "preview": dg.MetadataValue.md(_preview(warehouse, contract, period)),
            **self._stored(warehouse, contract),
        }
        if (lineage := lineage_of(contract)) is not None:
            details["dagster/column_lineage"] = lineage
        if period is None:
            context.add_output_metadata({"dagster/row_count": written.rows, **details})
            return
        keys = context.asset_partition_keys
        if len(keys) == 1:
            context.add_output_metadata({"dagster/partition_row_count": written.rows, **details})
            return
        # A run over a range writes one event per partition: details go on the last one only.
        context.add_output_metadata({"rows_in_run": written.rows})
        step = context.step_context
        step.add_asset_metadata(details, context.asset_key, keys[-1])
        if len(keys) <= _MOST_KEYS_COUNTED:
            counts = warehouse.count_by_key(contract, keys)
            for key in keys:
                step.add_asset_metadata({"dagster/partition_row_count": counts[key]}, context.asset_key, key)


def contract_of(key: dg.AssetKey) -> Contract:
    """The contract of an asset.

    Raises:
        WarehouseError: no contract has the asset's name.
    """
    name = key.path[-1]
    if name not in CONTRACTS:
        raise WarehouseError(f"asset {name} has no contract; add one to hospital_assets/contracts")
    return CONTRACTS[name]


def _preview(warehouse: Warehouse, contract: Contract, period: Period | None) -> str:
    """A few rows as Markdown, without any column that tells about a person."""
    shown = [c.name for c in contract.columns if c.privacy in PREVIEW_PRIVACY and not c.name.endswith("[]")]
    rows = warehouse.head(contract, period, shown, _PREVIEW_ROWS)
    if rows.is_empty():
        return "No rows."
    head = f"| {' | '.join(shown)} |\n|{'---|' * len(shown)}\n"
    body = "\n".join(
        f"| {' | '.join('' if value is None else str(value)[:40] for value in row)} |" for row in rows.iter_rows()
    )
    return head + body
