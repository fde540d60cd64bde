"""Door-to-provider waits: by day, over the period, and rolling over seven days."""

from __future__ import annotations

import dagster as dg
import narwhals as nw

from hospital_assets.assets.declare import table
from hospital_assets.assets.kpis.totals import with_totals
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.kpis import ALL
from hospital_assets.measures.triage import triage_group
from hospital_assets.measures.waits import WAIT_EXCLUSIONS
from hospital_assets.warehouse.dialect import Frame, checkpoint, exact_median, exact_quantile, exact_sum

ROLLING_DAYS = 7
GROUPS = ("hospital_id", "department_name", "triage_group")


@dg.asset(**table("kpi_waits_daily"))
def kpi_waits_daily(fact_emergency_visits: Frame, dim_hospital: Frame, dim_department: Frame) -> Frame:
    """Waits of each day by hospital, department and triage level, with totals."""
    visits = labelled(fact_emergency_visits, dim_hospital, dim_department)
    return wait_figures(visits, by=("service_date",)).select(CONTRACTS["kpi_waits_daily"].column_names)


@dg.asset(**table("kpi_waits"))
def kpi_waits(fact_emergency_visits: Frame, dim_hospital: Frame, dim_department: Frame) -> Frame:
    """Waits of the whole period by hospital, department and triage level, with totals."""
    visits = labelled(fact_emergency_visits, dim_hospital, dim_department)
    return wait_figures(visits, by=()).select(CONTRACTS["kpi_waits"].column_names)


@dg.asset(**table("kpi_waits_rolling"))
def kpi_waits_rolling(kpi_waits_daily: Frame) -> Frame:
    """Seven-day pooled average: the sums of the days over the counts of the days."""
    days = checkpoint(
        kpi_waits_daily.filter(nw.col("department_name") == ALL, nw.col("triage_group") == ALL).select(
            "service_date", "hospital_id", "wait_count", "wait_sum_minutes"
        )
    )
    window = days.select(
        "hospital_id",
        nw.col("service_date").alias("_day"),
        nw.col("wait_count").alias("_count"),
        nw.col("wait_sum_minutes").alias("_sum"),
    )
    # By calendar, not by row: a day without visits still takes its place in the window.
    pooled = (
        days.select("service_date", "hospital_id")
        .join(window, on="hospital_id", how="inner")
        .filter(
            nw.col("_day") <= nw.col("service_date"),
            nw.col("_day") > nw.col("service_date").dt.offset_by(f"-{ROLLING_DAYS}d"),
        )
        .group_by("service_date", "hospital_id")
        .agg(
            rolling_wait_count=nw.col("_count").sum(),
            rolling_wait_sum_minutes=exact_sum("_sum"),
            days_in_window_count=nw.len(),
        )
    )
    return (
        days.join(pooled, on=["service_date", "hospital_id"], how="inner")
        .with_columns(
            day_wait_count=nw.col("wait_count"),
            day_wait_sum_minutes=nw.col("wait_sum_minutes"),
            rolling_wait_average_minutes=nw.when(nw.col("rolling_wait_count") > 0).then(
                nw.col("rolling_wait_sum_minutes") / nw.col("rolling_wait_count")
            ),
        )
        .select(CONTRACTS["kpi_waits_rolling"].column_names)
    )


def labelled(visits: Frame, hospitals: Frame, departments: Frame) -> Frame:
    """Visits with the names that KPIs group by."""
    return (
        visits.join(hospitals.select("hospital_key", "hospital_id"), on="hospital_key", how="left")
        .join(departments.select("department_key", "department_name"), on="department_key", how="left")
        .with_columns(triage_group=triage_group())
    )


def wait_figures(visits: Frame, by: tuple[str, ...]) -> Frame:
    """The figures of waits for each group and its totals; exclusions are counted by reason."""
    excluded = {f"excluded_{reason}_count": (nw.col("wait_exclusion") == reason) for reason in WAIT_EXCLUSIONS}
    needed = visits.select(
        *by,
        *GROUPS,
        "wait_minutes",
        **{name: nw.coalesce(holds, nw.lit(False)).cast(nw.Int64) for name, holds in excluded.items()},
    )
    return with_totals(
        checkpoint(needed),
        by,
        GROUPS,
        {
            "visit_count": nw.len(),
            "wait_count": nw.col("wait_minutes").count(),
            **{name: nw.col(name).sum() for name in excluded},
            "wait_sum_minutes": exact_sum("wait_minutes"),
            "wait_median_minutes": exact_median("wait_minutes"),
            "wait_p90_minutes": exact_quantile("wait_minutes", 0.9),
            "wait_max_minutes": nw.col("wait_minutes").max(),
        },
    ).with_columns(
        wait_sum_minutes=nw.coalesce(nw.col("wait_sum_minutes"), nw.lit(0.0)),
        wait_average_minutes=nw.when(nw.col("wait_count") > 0).then(nw.col("wait_sum_minutes") / nw.col("wait_count")),
    )
