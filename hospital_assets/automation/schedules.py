"""What runs by the clock: the daily batch (the net under the sensors), checks, pages."""

import dagster as dg

from hospital_assets.clock import last_whole_day
from hospital_assets.partitions import period_start, service_periods
from hospital_assets.publishing.policy import usable_policy
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
