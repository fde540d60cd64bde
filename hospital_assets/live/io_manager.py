"""The IO manager of the hospital's tables: the warehouse's, and what a stored table means to people."""

from __future__ import annotations

from functools import partial
from typing import Any

import dagster as dg

from hospital_assets.assets.kpis.trend import trend
from hospital_assets.contracts import Contract
from hospital_assets.live.copies import copies_of, publish_copy
from hospital_assets.warehouse.database import Warehouse
from hospital_assets.warehouse.io_manager import WarehouseIOManager


class HospitalIOManager(WarehouseIOManager):
    """Stores tables in the warehouse, renews the live copies made of them and draws a KPI's trend."""

    def _stored(self, warehouse: Warehouse, contract: Contract) -> dict[str, Any]:
        for copy in copies_of(contract.name):
            warehouse.after_commit(f"copy {copy}", partial(publish_copy, warehouse, copy))
        drawn = trend(warehouse, contract)
        return {"trend": dg.MetadataValue.md(drawn)} if drawn else {}
