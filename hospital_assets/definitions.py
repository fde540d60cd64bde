"""Everything Dagster sees, wired in one place.

`definitions` holds the assets, checks, jobs and resources of the data directory named by
`HOSPITAL_DATA_DIR`. Nothing imports this module; `build_definitions` makes a fresh one for tests.
"""

from __future__ import annotations

import warnings

import dagster as dg

# `partitions_def` of asset checks is new in dagster 1.13 and says so on every use.
warnings.filterwarnings("ignore", category=dg.PreviewWarning)
# Single-run backfills are beta; an upstream change shows in the tests of the IO manager.
warnings.filterwarnings("ignore", category=dg.BetaWarning)

from hospital_assets.assets import cleaned, dimensions, facts, kpis, raw  # noqa: E402
from hospital_assets.automation.jobs import JOBS  # noqa: E402
from hospital_assets.automation.schedules import daily_batch_schedule  # noqa: E402
from hospital_assets.automation.sensors import FEEDS, landing_sensor, settling_sensor  # noqa: E402
from hospital_assets.checks.accounting import accounting_checks  # noqa: E402
from hospital_assets.checks.contract_checks import contract_checks  # noqa: E402
from hospital_assets.landing.zone import LandingResource  # noqa: E402
from hospital_assets.partitions import SERVICE_PERIODS  # noqa: E402
from hospital_assets.settings import Settings, load_settings  # noqa: E402
from hospital_assets.warehouse.io_manager import (  # noqa: E402
    WarehouseIOManager,
    WarehouseResource,
)


def build_definitions(settings: Settings | None = None) -> dg.Definitions:
    """Definitions over a data directory."""
    settings = settings or load_settings()
    warehouse = WarehouseResource(database=str(settings.warehouse_file))
    last = settings.last_service_date or SERVICE_PERIODS.get_last_partition_window()
    return dg.Definitions(
        assets=[
            asset
            for layer in (raw, cleaned, dimensions, facts, kpis)
            for asset in dg.load_assets_from_package_module(layer)
        ],
        asset_checks=[*contract_checks(), *accounting_checks()],
        jobs=JOBS,
        schedules=[daily_batch_schedule(settings)],
        sensors=[*(landing_sensor(feed, settings) for feed in FEEDS), settling_sensor(settings)],
        resources={
            "warehouse": warehouse,
            "io_manager": WarehouseIOManager(warehouse=warehouse),
            "landing": LandingResource(
                warehouse=warehouse,
                landing=str(settings.landing),
                first_service_date=settings.first_service_date.isoformat(),
                last_service_date=str(last)[:10],
            ),
        },
        executor=dg.in_process_executor,
    )


definitions = build_definitions()
