"""The IO manager of the hospital's tables: the warehouse's, and what a stored table means to people."""

from __future__ import annotations

from typing import Any

import dagster as dg

from hospital_assets.assets.kpis.trend import trend
from hospital_assets.contracts import Contract
from hospital_assets.live.copies import COPIED_TABLES, publish_copies
from hospital_assets.warehouse.database import Warehouse
from hospital_assets.warehouse.io_manager import WarehouseIOManager


class HospitalIOManager(WarehouseIOManager):
    """Stores tables in the warehouse, renews the live copies made of them and draws a KPI's trend."""

    def _stored(self, warehouse: Warehouse, contract: Contract) -> dict[str, Any]:
        if contract.name in COPIED_TABLES:
            warehouse.after_commit("copies", lambda: publish_copies(warehouse))
        drawn = trend(warehouse, contract)
        return {"trend": dg.MetadataValue.md(drawn)} if drawn else {}
