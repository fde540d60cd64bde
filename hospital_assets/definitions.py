"""Everything Dagster sees, wired in one place.

Importing this module makes nothing. Dagster calls `definitions`, which reads the environment; the
commands and tests call `build_definitions` for a directory of theirs. Nothing else imports it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import dagster as dg

from hospital_assets import reports
from hospital_assets.alerts.outbox import outbox_file
from hospital_assets.assets.declare import ENGINE_TAG
from hospital_assets.assets.layers import table_assets
from hospital_assets.assets.mirror import mirror_assets
from hospital_assets.assets.publications import publications_asset
from hospital_assets.assets.resources import AuditResource, ClockResource, OutboxResource, profiles_resource
from hospital_assets.automation.jobs import JOBS
from hospital_assets.automation.lake import lake_schedule
from hospital_assets.automation.schedules import (
    daily_batch_schedule,
    overview_page_schedule,
    quality_page_schedule,
    standing_checks_schedule,
)
from hospital_assets.automation.sensors import (
    alerts_sensor,
    landing_sensor,
    mirror_sensor,
    publications_sensor,
    run_outcome_sensors,
    sources_sensor,
    stale_partitions_sensor,
)
from hospital_assets.checks.standing import standing_check
from hospital_assets.checks.table_checks import table_checks
from hospital_assets.contracts import CONTRACTS
from hospital_assets.directory import require_current
from hospital_assets.files import keep_private
from hospital_assets.landing.profile import FEEDS
from hospital_assets.landing.registry import load_profiles
from hospital_assets.landing.zone import LandingResource
from hospital_assets.live.io_manager import HospitalIOManager
from hospital_assets.logs import start_logging
from hospital_assets.partitions import service_periods
from hospital_assets.publishing.policy import usable_policy
from hospital_assets.recovery.mirror import mirror_of, mirrored_tables
from hospital_assets.reports.folder import ReportsResource
from hospital_assets.reports.overview import overview_report
from hospital_assets.settings import (
    EngineSettings,
    Settings,
    data_dir_from_environment,
    engine_from_environment,
    load_settings,
)
from hospital_assets.sources.upstream import below_sources, source_assets
from hospital_assets.warehouse.delta import DeltaTables
from hospital_assets.warehouse.io_manager import WarehouseResource


def build_definitions(settings: Settings, engine: EngineSettings | None = None) -> dg.Definitions:
    """Definitions over a data directory, on an engine; made of nothing but these arguments."""
    periods = service_periods(settings)
    tables = table_assets(periods)
    policy = usable_policy(settings)
    sources = source_assets(load_profiles(settings.profiles_folder).values())
    engine = engine or EngineSettings()
    engine_resources = _engine_resources(settings, engine, tables)
    landing = engine_resources["landing"]
    pages = [*dg.load_assets_from_package_module(reports), overview_report(policy)]
    return dg.Definitions(
        # Each with the file and line of its code, for the link in the UI.
        assets=[
            *dg.with_source_code_references(
                [*below_sources(tables, sources), *pages, publications_asset(policy), *mirror_assets(settings)]
            ),
            *sources,
        ],
        asset_checks=[*table_checks(periods), standing_check(periods)],
        jobs=JOBS,
        schedules=[
            daily_batch_schedule(settings),
            standing_checks_schedule,
            quality_page_schedule,
            overview_page_schedule(settings),
            *_lake_schedules(settings, engine, engine_resources),
        ],
        sensors=[
            *(landing_sensor(feed, settings, landing) for feed in FEEDS),
            sources_sensor(settings),
            stale_partitions_sensor(settings),
            publications_sensor(settings),
            *([mirror_sensor(settings)] if settings.mirror.address else []),
            alerts_sensor(settings, landing),
            *run_outcome_sensors(settings),
        ],
        resources={
            **engine_resources,
            "audit": AuditResource(data_dir=str(settings.data_dir)),
            "clock": ClockResource(
                data_dir=str(settings.data_dir),
                baselines_from=[day.isoformat() for day in settings.baselines_from],
                holiday_calendars=dict(settings.holiday_calendars),
                forecast_challengers=list(settings.forecast_challengers),
                **_service_days(settings),
            ),
            "profiles": profiles_resource(settings.profiles_folder),
            "rostering": dg.ResourceDefinition.hardcoded_resource(settings.staffing, "The rules of rosters."),
            "reports": ReportsResource(folder=str(settings.reports)),
            "outbox": OutboxResource(file=str(outbox_file(settings))),
        },
        executor=dg.in_process_executor,
    )


def _engine_resources(
    settings: Settings, engine: EngineSettings, assets: Sequence[dg.AssetsDefinition]
) -> dict[str, Any]:
    """Where tables are read and written, by the engine that computes them."""
    # Polars knows no summer time after 2037; de-identified days may lie there.
    is_known = settings.last_service_date is None or settings.last_service_date.year < 2037
    rows = engine.in_memory_rows if is_known else 0
    warehouse = WarehouseResource(database=str(settings.warehouse_file), in_memory_rows=rows)
    landing: dict[str, Any] = {
        "warehouse": warehouse,
        "landing": str(settings.landing),
        "profiles": str(settings.profiles_folder),
        "limits": asdict(settings.limits),
        **_service_days(settings),
    }
    if engine.engine == "duckdb":
        return {
            "warehouse": warehouse,
            "io_manager": HospitalIOManager(warehouse=warehouse),
            "landing": LandingResource(**landing),
        }
    from hospital_assets.spark.io_manager import LakeIOManager, spark_resource
    from hospital_assets.spark.landing import SparkLandingResource

    lake = engine.lake_of(settings)
    spark = spark_resource(engine.spark_master, settings.data_dir)
    tables = [
        key.path[-1]
        for asset in assets
        for key, tags in asset.tags_by_key.items()
        if key.path[-1] in CONTRACTS and (engine.engine == "spark" or tags.get(ENGINE_TAG) == "spark")
    ]
    on_spark: dict[str, Any] = {"spark": spark, "lake": lake, "tables_on_spark": tables}
    return {
        "warehouse": warehouse,
        "spark": spark,
        "io_manager": LakeIOManager(warehouse=warehouse, **on_spark),
        "landing": SparkLandingResource(**landing, **on_spark),
    }


def _lake_schedules(
    settings: Settings, engine: EngineSettings, resources: Mapping[str, Any]
) -> list[dg.ScheduleDefinition]:
    """What maintains the lake and the mirror, where there is one."""
    kept: list[tuple[DeltaTables, list[str]]] = []
    if engine.engine != "duckdb":
        kept.append((DeltaTables(engine.lake_of(settings)), resources["io_manager"].tables_on_spark))
    if settings.mirror.address:
        kept.append((mirror_of(settings), [contract.name for contract in mirrored_tables()]))
    return [lake_schedule(settings, kept)] if kept else []


def _service_days(settings: Settings) -> dict[str, Any]:
    """Which service days a data directory covers, as resources are configured with."""
    last = settings.last_service_date
    return {
        "first_service_date": settings.first_service_date.isoformat(),
        "last_service_date": None if last is None else last.isoformat(),
    }


@dg.definitions
def definitions() -> dg.Definitions:
    """What Dagster loads: the data directory and the engine that the environment names."""
    keep_private()
    start_logging("hospital", "hospital_assets")
    settings = load_settings(data_dir_from_environment())
    require_current(settings.warehouse_file.parent)
    return build_definitions(settings, engine_from_environment())
