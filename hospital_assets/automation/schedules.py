"""What runs by the clock: the daily batch (the net under the sensors), checks, publications, pages."""

import dagster as dg

from hospital_assets.clock import last_whole_day
from hospital_assets.contracts import CONTRACTS
from hospital_assets.partitions import period_start, service_periods
from hospital_assets.publishing.policy import usable_policy
from hospital_assets.publishing.pseudonyms import KeyMissingError, load_key
from hospital_assets.publishing.publications import PublicationError, current_version
from hospital_assets.settings import Settings


def daily_batch_schedule(settings: Settings) -> dg.ScheduleDefinition:
    """Refresh yesterday, once it has ended in every time zone: what a sensor missed is in then."""
    periods = service_periods(settings)

    @dg.schedule(
        name="daily_batch_schedule",
        job_name="daily_batch",
        cron_schedule="30 12 * * *",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="At 12:30 UTC, when the day before is over everywhere, refresh everything for it.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        yesterday = last_whole_day(context.scheduled_execution_time)
        key = period_start(yesterday, settings).isoformat()
        if not periods.has_partition_key(key):
            return dg.SkipReason(f"{yesterday} is not a service day of this data directory")
        return dg.RunRequest(run_key=f"{context.scheduled_execution_time:%Y-%m-%d}", partition_key=key)

    return schedule


def publish_schedule(settings: Settings) -> dg.ScheduleDefinition:
    """Publish every hour in which something was built; without a pseudonym key, say how to make one."""

    @dg.schedule(
        name="publish_schedule",
        job_name="publish",
        cron_schedule="37 * * * *",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Every hour, publish what was built since the last time.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        try:
            load_key(settings)
        except KeyMissingError as error:
            return dg.SkipReason(str(error))
        published = _last_made(context.instance, f"publication_{next(iter(usable_policy(settings).roles))}")
        built = max(filter(None, (_last_made(context.instance, kpi) for kpi in _KPIS)), default=None)
        if built is None or (published is not None and published > built):
            return dg.SkipReason("nothing was built since the last publication")
        return dg.RunRequest(run_key=f"built at {built}")

    return schedule


def overview_page_schedule(settings: Settings) -> dg.ScheduleDefinition:
    """Write the overview every morning; without a publication to make it of, say what to do."""

    @dg.schedule(
        name="overview_page_schedule",
        job_name="overview_page",
        cron_schedule="10 6 * * *",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Every morning at 06:10, write the overview of the newest publication it is made of.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        try:
            current_version(settings.data_dir, usable_policy(settings).overview)
        except PublicationError as error:
            return dg.SkipReason(str(error))
        return dg.RunRequest(run_key=f"{context.scheduled_execution_time:%Y-%m-%d}")

    return schedule


#: What builds and refreshes end with.
_KPIS = tuple(name for name, contract in CONTRACTS.items() if contract.layer == "kpis")


def _last_made(instance: dg.DagsterInstance, asset: str) -> float | None:
    event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    return None if event is None else event.timestamp


standing_checks_schedule = dg.ScheduleDefinition(
    name="standing_checks_schedule",
    job_name="standing_checks",
    cron_schedule="7 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every hour, see whether anything is left behind, late or missing.",
)

quality_page_schedule = dg.ScheduleDefinition(
    name="quality_page_schedule",
    job_name="quality_page",
    cron_schedule="0 6 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every morning at 06:00, write the data quality page.",
)
