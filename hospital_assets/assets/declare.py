"""What every asset tells Dagster about itself, taken from its contract.

`@dg.asset(**table("fact_vitals"))` names, groups and describes the asset; nothing in an asset module
restates a contract. Its partitions belong to a data directory: `layers.table_assets` gives them.
"""

from __future__ import annotations

from typing import Any

import dagster as dg

from hospital_assets.contracts import CONTRACTS, Contract
from hospital_assets.warehouse.lineage import lineage_of, lineage_table

#: DuckDB lets one process write at a time: every step that touches it takes this pool's only slot.
WAREHOUSE_POOL = "warehouse"

#: Which engine makes an asset where `HOSPITAL_ENGINE=mixed`; without the tag it is DuckDB.
ENGINE_TAG = "hospital/engine"
#: Vital signs are most of the bytes: they are the first to outgrow one machine.
_HEAVY = ("raw_vitals", "cleaned_vitals", "quarantine_vitals", "fact_vitals")

_OWNERS = {
    "raw": "team:data-engineering",
    "cleaned": "team:data-engineering",
    "dimensions": "team:data-engineering",
    "facts": "team:data-engineering",
    "kpis": "team:clinical-analytics",
    "forecasts": "team:clinical-analytics",
}
_KINDS = {
    "raw": {"duckdb", "file"},
    "cleaned": {"duckdb", "table"},
    "dimensions": {"duckdb", "table"},
    "facts": {"duckdb", "table"},
    "kpis": {"duckdb", "kpi"},
    "forecasts": {"duckdb", "table"},
}


def table(name: str) -> dict[str, Any]:
    """Keyword arguments of `@dg.asset` for a table with a contract."""
    return {"name": name, **_stated(name), "pool": WAREHOUSE_POOL, **_backfill(CONTRACTS[name])}


def cleaned_and_quarantined(subject: str) -> dict[str, Any]:
    """Keyword arguments of `@dg.multi_asset` for a subject's cleaned and quarantine tables."""
    return several_tables(subject, f"cleaned_{subject}", f"quarantine_{subject}")


def several_tables(step: str, *names: str) -> dict[str, Any]:
    """Keyword arguments of `@dg.multi_asset` for tables of one layer that one step makes."""
    return {
        "name": step,
        "outs": {name: dg.AssetOut(key=name, **_stated(name)) for name in names},
        "pool": WAREHOUSE_POOL,
        **_backfill(CONTRACTS[names[0]]),
    }


def all_days(*tables: str) -> dict[str, dg.AssetIn]:
    """The `ins` of an asset that reads all days of partitioned tables."""
    return {table: dg.AssetIn(partition_mapping=dg.AllPartitionMapping()) for table in tables}


def days_around(table: str, *, before: int, after: int) -> dict[str, dg.AssetIn]:
    """The `ins` of an asset that reads a partitioned table from some periods before its own until some after."""
    mapping = dg.TimeWindowPartitionMapping(-before, after, allow_nonexistent_upstream_partitions=True)
    return {table: dg.AssetIn(partition_mapping=mapping)}


def _stated(name: str) -> dict[str, Any]:
    """What a table tells Dagster, whether its step makes others or not."""
    contract = CONTRACTS[name]
    return {
        "group_name": contract.layer,
        "description": contract.description,
        "owners": [_OWNERS[contract.layer]],
        "kinds": _KINDS[contract.layer],
        "metadata": _metadata(contract),
        "tags": {ENGINE_TAG: "spark"} if name in _HEAVY else {},
    }


def partitions_of(name: str, periods: dg.TimeWindowPartitionsDefinition) -> dg.TimeWindowPartitionsDefinition | None:
    """The partitions of a table and of its checks, in a data directory with these service periods."""
    return periods if CONTRACTS[name].partitioned else None


def _backfill(contract: Contract) -> dict[str, Any]:
    # A range of days is one run and one transaction per table, not a run per day.
    return {"backfill_policy": dg.BackfillPolicy.single_run()} if contract.partitioned else {}


def _metadata(contract: Contract) -> dict[str, Any]:
    lineage = lineage_of(contract)
    return {
        **(
            {"dagster/column_lineage": lineage, "lineage": dg.MetadataValue.md(lineage_table(lineage))}
            if lineage
            else {}
        ),
        "dagster/table_name": contract.qualified_name,
        "dagster/storage_kind": "duckdb",
        "dagster/column_schema": dg.TableSchema(
            columns=[
                dg.TableColumn(
                    name=column.name,
                    type=column.duckdb_type,
                    description=" ".join(
                        part
                        for part in (
                            column.description,
                            f"Unit: {column.unit}." if column.unit else "",
                            f"Source: {column.source}." if column.source else "",
                        )
                        if part
                    ),
                    constraints=dg.TableColumnConstraints(
                        nullable=column.nullable, unique=contract.key == (column.name,)
                    ),
                    tags={"privacy": column.privacy},
                )
                for column in contract.columns
            ],
            constraints=dg.TableConstraints(other=[f"key: {', '.join(contract.key)}"]),
        ),
    }
