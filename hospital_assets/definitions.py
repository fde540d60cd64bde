"""Everything Dagster sees, wired in one place.

`definitions` holds the assets, checks, jobs and resources of the data directory named by
`HOSPITAL_DATA_DIR`. Nothing imports this module; `build_definitions` makes a fresh one for tests.
"""

from __future__ import annotations

import dagster as dg

from hospital_assets import reports
from hospital_assets.alerts.outbox import OutboxResource, outbox_file
from hospital_assets.assets import cleaned, dimensions, facts, kpis, raw
from hospital_assets.automation.jobs import JOBS
from hospital_assets.automation.schedules import (
    daily_batch_schedule,
    quality_page_schedule,
    standing_checks_schedule,
)
from hospital_assets.automation.sensors import (
    FEEDS,
    alerts_sensor,
    landing_sensor,
    run_outcome_sensors,
    settling_sensor,
)
from hospital_assets.checks.accounting import accounting_checks
from hospital_assets.checks.contract_checks import contract_checks
from hospital_assets.checks.quality import quality_checks
from hospital_assets.checks.standing import standing
from hospital_assets.clock import ClockResource
from hospital_assets.governance.assets import publication_assets
from hospital_assets.governance.audit import AuditResource
from hospital_assets.governance.policy import shipped_policy
from hospital_assets.landing.zone import LandingResource
from hospital_assets.partitions import SERVICE_PERIODS
from hospital_assets.reports.folder import ReportsResource
from hospital_assets.settings import Settings, load_settings
from hospital_assets.warehouse.io_manager import (
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
            *(
                asset
                for layer in (raw, cleaned, dimensions, facts, kpis, reports)
                for asset in dg.load_assets_from_package_module(layer)
            ),
            *publication_assets(shipped_policy()),
        ],
        asset_checks=[*contract_checks(), *quality_checks(), *accounting_checks(), standing],
        jobs=JOBS,
        schedules=[
            daily_batch_schedule(settings),
            standing_checks_schedule,
            quality_page_schedule,
        ],
        sensors=[
            *(landing_sensor(feed, settings) for feed in FEEDS),
            settling_sensor(settings),
            alerts_sensor(settings),
            *run_outcome_sensors(settings),
        ],
        resources={
            "warehouse": warehouse,
            "io_manager": WarehouseIOManager(warehouse=warehouse),
            "audit": AuditResource(data_dir=str(settings.data_dir)),
            "clock": ClockResource(data_dir=str(settings.data_dir)),
            "reports": ReportsResource(folder=str(settings.reports)),
            "outbox": OutboxResource(file=str(outbox_file(settings))),
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
