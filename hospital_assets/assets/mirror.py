"""The mirror as a Dagster asset: the tables as Delta, for other engines; where the settings name one."""

from __future__ import annotations

import dagster as dg

from hospital_assets.assets.declare import WAREHOUSE_POOL
from hospital_assets.recovery.mirror import mirror, mirrored_tables
from hospital_assets.settings import Settings
from hospital_assets.warehouse.errors import WarehouseError
from hospital_assets.warehouse.io_manager import WarehouseResource

MIRROR = "delta_mirror"


def mirror_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The asset of a data directory's mirror, where there is one."""
    if not settings.mirror.address:
        return []

    @dg.asset(
        name=MIRROR,
        group_name="mirror",
        description=f"Facts, dimensions, KPIs and forecasts as Delta tables in {settings.mirror_root}, with history.",
        owners=["team:data-engineering"],
        kinds={"deltalake", "parquet"},
        deps=[contract.name for contract in mirrored_tables()],
        pool=WAREHOUSE_POOL,
    )
    def delta_mirror(warehouse: WarehouseResource) -> dg.MaterializeResult[None]:
        done = mirror(settings, warehouse.open_for_reading())
        if done.failed:
            raise WarehouseError("; ".join(f"{table} was not mirrored: {why}" for table, why in done.failed.items()))
        return dg.MaterializeResult(
            metadata={
                "rows": sum(done.written.values()),
                "tables_written": dg.MetadataValue.json(done.written),
                "tables_unchanged": done.unchanged,
            }
        )

    return [delta_mirror]
