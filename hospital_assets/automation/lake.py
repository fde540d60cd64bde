"""The upkeep of the lake and of the mirror: small files put together, old ones deleted; by the clock, audited."""

from collections.abc import Collection, Sequence

import dagster as dg

from hospital_assets.access.audit import Event, audited, system_actor
from hospital_assets.contracts import CONTRACTS
from hospital_assets.recovery.mirror import forget_mirrored
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import open_warehouse
from hospital_assets.warehouse.delta import DeltaTables, of_damage
from hospital_assets.warehouse.errors import WarehouseError


def maintain(settings: Settings, lake: DeltaTables, tables: Collection[str]) -> dict[str, int]:
    """Compact and vacuum tables of the lake or of the mirror; returns how many files were spared and deleted.

    Raises:
        AuditError: it cannot be audited; then nothing is done.
        WarehouseError: tables lack files, are damaged, or use features of Delta that we do not read; others are done.
    """
    from deltalake.exceptions import DeltaError

    done, failed = {"spared_files": 0, "deleted_files": 0}, []
    asked = f"compact and vacuum {lake.root}, keeping {lake.kept_days} days"
    with audited(settings, Event(system_actor(), "lake", statement=asked)):
        is_mirror = lake.root == settings.mirror_root
        for contract in (CONTRACTS[name] for name in sorted(tables)):
            try:
                if is_mirror and (gone := lake.gone(contract)):
                    with open_warehouse(settings.warehouse_file) as warehouse:
                        forget_mirrored(warehouse, contract)
                    failed.append(
                        f"{contract.name}: {len(gone)} of its files are gone from {lake.root}; the next mirroring, "
                        "after a build or by `hospital mirror`, writes it whole"
                    )
                    continue
                done["spared_files"] += lake.compact(contract)
                if not is_mirror:
                    # The view names files, so it follows before any can be deleted.
                    with open_warehouse(settings.warehouse_file) as warehouse:
                        if warehouse.is_view(contract):
                            warehouse.show(contract, lake.select_statement(contract))
                done["deleted_files"] += len(lake.vacuum(contract))
            except WarehouseError as error:
                failed.append(str(error))
            except (DeltaError, FileNotFoundError) as error:
                failed.append(of_damage(lake, contract, error))
        if failed:
            raise WarehouseError("; ".join(failed))
    return done


def lake_schedule(settings: Settings, kept: Sequence[tuple[DeltaTables, Collection[str]]]) -> dg.ScheduleDefinition:
    """Maintain the lake and the mirror, as far as there are any, every night."""

    @dg.op(name="maintain_lake", description="Put small files of Delta tables together, and delete old ones.")
    def maintain_lake(context: dg.OpExecutionContext) -> None:
        context.add_output_metadata({tables.root: maintain(settings, tables, names) for tables, names in kept})

    @dg.job(name="lake_maintenance", description="Put small files of Delta tables together, and delete old ones.")
    def lake_maintenance() -> None:
        maintain_lake()

    return dg.ScheduleDefinition(
        name="lake_maintenance_schedule",
        job=lake_maintenance,
        cron_schedule="40 3 * * *",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="At 03:40 UTC, put small files of Delta tables together, and delete those no kept version has.",
    )
