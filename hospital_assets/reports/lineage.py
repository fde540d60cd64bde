"""Column lineage read off the transforms, for the generated file that every run takes it from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
import polars as pl

from hospital_assets.contracts import CONTRACTS
from hospital_assets.reports.explain import tables_of
from hospital_assets.warehouse.database import Warehouse, open_warehouse
from hospital_assets.warehouse.dialect import lazy, recorded_checkpoints, relation_of
from hospital_assets.warehouse.lineage import Sources, column_sources, lineage_text


def lineage_document(definitions: dg.Definitions, partition: str) -> str:
    """Run every transform over empty tables and read off the columns that each column comes from."""
    tables = tables_of(definitions)
    # Raw tables come from files, not from columns.
    computed = [key for asset in tables for key in asset.keys if CONTRACTS[key.path[-1]].layer != "raw"]
    with _empty_warehouse() as warehouse, recorded_checkpoints() as checkpoints:
        reader = _LineageReader(warehouse, checkpoints)
        resources = {**(definitions.resources or {}), "io_manager": reader}
        quiet = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}
        dg.materialize(tables, selection=computed, partition_key=partition, resources=resources, run_config=quiet)
    return lineage_text(reader.sources)


class _LineageReader(dg.IOManager):
    """Hands assets empty tables, and keeps what their results are computed from instead of the rows."""

    def __init__(self, warehouse: Warehouse, checkpoints: dict[str, str]) -> None:
        self.sources: dict[str, Sources] = {}
        self._warehouse, self._checkpoints = warehouse, checkpoints

    def load_input(self, context: dg.InputContext) -> Any:
        """An empty table."""
        frame = self._warehouse.read(CONTRACTS[context.asset_key.path[-1]])
        return frame.collect("polars").to_native() if context.dagster_type.typing_type is pl.DataFrame else frame

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Read the lineage off the plan; what was made in memory has none."""
        relation = relation_of(lazy(obj))
        if relation is not None:
            self.sources[context.asset_key.path[-1]] = column_sources(relation.sql_query(), self._checkpoints)


@contextmanager
def _empty_warehouse() -> Iterator[Warehouse]:
    with TemporaryDirectory() as folder, open_warehouse(Path(folder) / "empty.duckdb") as warehouse:
        for contract in CONTRACTS.values():
            warehouse.replace(contract, lazy(pl.DataFrame(schema=contract.polars_schema)))
        yield warehouse
