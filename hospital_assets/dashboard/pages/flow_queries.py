"""Queries of flow and waits: stages, pathways, handovers, standards."""

from __future__ import annotations

from hospital_assets.dashboard.mart import Mart, Row, average, of_months, of_table, of_visits
from hospital_assets.dashboard.slices import Slice


def stages(mart: Mart, where: Slice) -> dict[str, Row]:
    """How many visits reached each stage, and the minutes since the stage before; by stage.

    Medians and 90th percentiles are those of a typical day: the median over the days.
    """
    rows = of_table(
        mart,
        where,
        "kpi_stages_daily",
        "stage, sum(denominator_count)::bigint as visit_count, sum(numerator_count)::bigint as reached_count, "
        f"{average('stage_sum_minutes', 'timed_count')} as average, "
        "median(stage_median_minutes) as median, median(stage_p90_minutes) as p90, "
        "sum(timed_count)::bigint as timed_count",
        "group by stage",
    )
    return {row["stage"]: row for row in rows}


def pathways(mart: Mart, where: Slice) -> list[Row]:
    """Visits by arrival mode, triage level (None: untriaged) and how they ended."""
    return of_table(
        mart,
        where,
        "kpi_pathways_daily",
        "arrival_mode, try_cast(triage_group as bigint) as triage_level, disposition, "
        "sum(visit_count)::bigint as visit_count",
        "group by all having sum(visit_count) > 0 order by visit_count desc, 1, 2, 3",
        is_pooled=False,
    )


def wait_histogram(mart: Mart, where: Slice) -> list[Row]:
    """Visits by wait in steps of 30 minutes, the last from 4 hours on."""
    return of_visits(
        mart,
        where,
        "least(floor(f.wait_minutes / 30), 8)::bigint as step, count(*) as visit_count",
        "and f.wait_minutes is not null group by 1 order by 1",
    )


def waits_by_hour(mart: Mart, where: Slice) -> list[Row]:
    """Wait by local hour of arrival: n, median, 10th and 90th percentile."""
    return of_visits(
        mart,
        where,
        "hour(f.arrival_local) as hour_of_day, count(f.wait_minutes) as wait_count, "
        "quantile_cont(f.wait_minutes, 0.1) as p10, median(f.wait_minutes) as median, "
        "quantile_cont(f.wait_minutes, 0.9) as p90",
        "and f.arrival_local is not null group by 1 order by 1",
    )


def handovers(mart: Mart, where: Slice) -> Row | None:
    """Ambulance handovers, how many were over each limit, and the average; None where not published."""
    rows = of_table(
        mart,
        where,
        "kpi_handovers_daily",
        "coalesce(sum(denominator_count), 0)::bigint as n, sum(numerator_count)::bigint as over, "
        "sum(over_30_minutes_count)::bigint as late, sum(over_60_minutes_count)::bigint as long, "
        "sum(excluded_no_handover_count + excluded_negative_count)::bigint as unknown, "
        f"{average('handover_sum_minutes', 'denominator_count')} as average",
    )
    return rows[0] if rows else None


def op18_by_month(mart: Mart, where: Slice) -> list[Row]:
    """OP-18b by month of departure."""
    columns = "period_month, denominator_count, median_minutes"
    return of_months(mart, where, "kpi_op18", columns, "and stratum = 'reported' order by 1")


def units(mart: Mart, metric: str) -> list[Row]:
    """Hospitals against the limits for their n, whole period."""
    dispersion = "dispersion" if mart.has("kpi_units", "dispersion") else "null"
    return mart.rows(
        f"select hospital_id, denominator_count, numerator_count, value_pct, centre_pct, {dispersion} as dispersion, "
        "lower_limit_pct, upper_limit_pct, is_outside from kpis.kpi_units where metric = $metric "
        "order by hospital_id",
        metric=metric,
    )
