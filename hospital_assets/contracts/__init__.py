"""What each table is: one Pandera model per table, one module per layer.

Belongs here: columns, types, units, meaning, keys, allowed values. The DuckDB
types, Dagster's Columns tab, the asset checks, the data dictionary and the test frames are derived from
the contract; nothing restates it. Does not belong here: how a table is computed, stored or checked.
"""

from __future__ import annotations

from hospital_assets.contracts import (
    cleaned,
    dimensions,
    facts,
    forecasts,
    kpis,
    kpis_deterioration,
    kpis_emergency,
    kpis_flow,
    kpis_pathways,
    kpis_shifts,
    raw,
)
from hospital_assets.contracts.table import LAYERS, PARTITION_COLUMN, RECORD_PLACE, Column, Contract, Layer, Table

#: Every contract by table name, in the order data passes through them.
CONTRACTS: dict[str, Contract] = {
    model.contract().name: model.contract()
    for layer in (
        raw,
        cleaned,
        dimensions,
        facts,
        kpis,
        kpis_emergency,
        kpis_pathways,
        kpis_deterioration,
        kpis_flow,
        kpis_shifts,
        forecasts,
    )
    for model in layer.TABLES
}

__all__ = ["CONTRACTS", "LAYERS", "PARTITION_COLUMN", "RECORD_PLACE", "Column", "Contract", "Layer", "Table"]
