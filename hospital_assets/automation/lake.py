"""The upkeep of the lake: small files put together, old ones deleted; by the clock, audited."""

from collections.abc import Collection

import dagster as dg

from hospital_assets.access.audit import Event, audited, system_actor
from hospital_assets.contracts import CONTRACTS
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import open_warehouse
from hospital_assets.warehouse.delta import KEPT_DAYS, DeltaTables


def maintain(settings: Settings, lake: DeltaTables, tables: Collection[str]) -> dict[str, int]:
    """Compact and vacuum tables of the lake; returns how many files were spared and deleted.

    Raises:
        AuditError: it cannot be audited; then nothing is done.
        WarehouseError: a table uses features of Delta that we do not read.
    """
    done = {"spared_files": 0, "deleted_files": 0}
    asked = f"compact and vacuum the lake, keeping {KEPT_DAYS} days"
    with audited(settings, Event(system_actor(), "lake", statement=asked)):
        for contract in (CONTRACTS[name] for name in sorted(tables)):
            done["spared_files"] += lake.compact(contract)
            # The view names files, so it follows before any can be deleted.
            with open_warehouse(settings.warehouse_file) as warehouse:
                if warehouse.is_view(contract):
                    warehouse.show(contract, lake.select_statement(contract))
            done["deleted_files"] += len(lake.vacuum(contract))
    return done


def lake_schedule(settings: Settings, root: str, tables: Collection[str]) -> dg.ScheduleDefinition:
    """Maintain the lake every night."""

    @dg.op(name="maintain_lake", description="Put small files of the lake together, and delete old ones.")
    def maintain_lake(context: dg.OpExecutionContext) -> None:
        context.add_output_metadata(dict(maintain(settings, DeltaTables(root), tables)))

    @dg.job(name="lake_maintenance", description="Put small files of the lake together, and delete old ones.")
    def lake_maintenance() -> None:
        maintain_lake()

    return dg.ScheduleDefinition(
        name="lake_maintenance_schedule",
        job=lake_maintenance,
        cron_schedule="40 3 * * *",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="At 03:40 UTC, put small files of the lake together, and delete those that no kept version has.",
    )
