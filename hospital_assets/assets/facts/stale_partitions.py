"""stale_partitions: service days whose stored facts no longer agree with what is known today.

A run refreshes the days it was asked for; this table names the other days it touched, and the job
`refresh_stale_partitions` refreshes them. Each fact declares what to look at (`OTHER_DAYS`). Days that time alone has
changed are named, too (`UNDECIDED`).
"""

from collections.abc import Sequence
from datetime import datetime

import dagster as dg
import narwhals as nw

from hospital_assets.assets.declare import table
from hospital_assets.assets.facts import bed_occupancy, doctor_shifts, emergency_visits, patient_flow, vitals
from hospital_assets.assets.facts.other_days import OtherDays
from hospital_assets.assets.resources import ClockResource
from hospital_assets.clock import last_whole_day, over_everywhere
from hospital_assets.contracts import CONTRACTS
from hospital_assets.landing.registry import Profiles
from hospital_assets.measures.thresholds import LONGEST_PRESENCE_HOURS
from hospital_assets.warehouse.dialect import Frame, checkpoint
from hospital_assets.warehouse.io_manager import MAY_BE_ABSENT

DECLARED: tuple[OtherDays, ...] = (
    *emergency_visits.OTHER_DAYS,
    *vitals.OTHER_DAYS,
    *doctor_shifts.OTHER_DAYS,
    *patient_flow.OTHER_DAYS,
    *bed_occupancy.OTHER_DAYS,
)
#: KPIs of how things stood at `as_of_at` -> counts of whom nothing more need land for another verdict.
UNDECIDED = {
    "kpi_critical_waits_daily": ("excluded_pending_count", "waiting_late_count"),
    "kpi_first_observations_daily": ("excluded_not_due_count",),
    "kpi_news2_response_daily": ("excluded_not_due_count", "waiting_count"),
    "kpi_observation_frequency_daily": ("excluded_not_due_count",),
}
#: Every table that any of them reads, and whether it is one whose stored days they compare.
_INPUTS = (
    {name: False for declared in DECLARED for name in declared.inputs}
    | {declared.fact: True for declared in DECLARED}
    | dict.fromkeys(UNDECIDED, True)
)


@dg.asset(
    **table("stale_partitions"),
    ins={
        # A table that was never built has no day that could be stale.
        name: dg.AssetIn(name, metadata={MAY_BE_ABSENT: True} if is_compared else None)
        for name, is_compared in sorted(_INPUTS.items())
    },
)
def stale_partitions(
    context: dg.AssetExecutionContext, profiles: dg.ResourceParam[Profiles], clock: ClockResource, **tables: Frame
) -> Frame:
    """Days whose facts are not what they would be now."""
    rows = [(declared.fact, declared.rows(tables, profiles)) for declared in DECLARED]
    rows += [(name, overtaken(tables[name], counts, clock.now())) for name, counts in UNDECIDED.items()]
    # Each by itself: together they would all be bound anew whenever one of them puts something aside.
    days = nw.concat([checkpoint(by_day(stale, name)) for name, stale in rows], how="vertical").select(
        CONTRACTS["stale_partitions"].column_names
    )
    found = checkpoint(days.group_by("table_name", "stale_date").agg(nw.col("row_count").sum()))
    listed = found.select("stale_date").unique().sort("stale_date").collect("polars")
    # Sensors read this; the warehouse may be in use by then.
    context.add_output_metadata({"days": [str(day) for day in listed["stale_date"].to_list()]})
    return found


def overtaken(kpi: Frame, undecided: Sequence[str], now: datetime) -> Frame:
    """Rows that may say something else by now, because time has passed.

    Once a day, and the last time when a visit without an end is none of a patient any more.

    Args:
        kpi: with service_date and `as_of_at`.
        undecided: its counts of whom time alone may change.
        now: the hospital's time.
    """
    last = last_whole_day(now)
    daily = nw.lit(over_everywhere(last)).cast(nw.Datetime("us", "UTC"))
    begins = nw.col("service_date").cast(nw.Datetime("us", "UTC"))
    # A day is over everywhere 36 hours after it has begun by UTC.
    settled = begins.dt.offset_by(f"{36 + LONGEST_PRESENCE_HOURS}h")
    return kpi.filter(
        nw.col("service_date") <= nw.lit(last),
        nw.any_horizontal(*(nw.col(count) > 0 for count in undecided), ignore_nulls=True),
        nw.col("as_of_at") < nw.min_horizontal(daily, settled),
    )


def by_day(rows: Frame, name: str) -> Frame:
    """Stale rows of a fact table, counted by service day."""
    return (
        rows.group_by("service_date")
        .agg(row_count=nw.len())
        .with_columns(
            table_name=nw.lit(name), stale_date=nw.col("service_date"), row_count=nw.col("row_count").cast(nw.Int64)
        )
        .drop("service_date")
    )
