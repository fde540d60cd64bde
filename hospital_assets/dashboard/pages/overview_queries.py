"""Queries of the overview: visits, waits, arrivals."""

from __future__ import annotations

from hospital_assets.dashboard.mart import Mart, Measured, OverTime, Row, average, over_time
from hospital_assets.dashboard.pages.shared_queries import IS_KNOWN, of_days_over
from hospital_assets.dashboard.slices import Slice
from hospital_assets.measures.triage import CRITICAL_LEVELS
from hospital_assets.measures.words import sql_list

#: Visits are those that were not cancelled, as everywhere beside them; the tables count these, too, to account for all.
_KPI_WAITS, _KPI_WAITS_DAILY = (
    f"(select * replace (visit_count - excluded_cancelled_count as visit_count) from kpis.{table})"
    for table in ("kpi_waits", "kpi_waits_daily")
)

_WAITS = f"""
from {_KPI_WAITS_DAILY}
where hospital_id = $hospital and department_name = $department and triage_group = $triage
  and service_date between $first and $last
"""

#: Sums and typical values of waits over days; `wait_count` is the n of the average.
_WAIT_TOTALS = f"""
coalesce(sum(visit_count), 0)::bigint as visit_count,
coalesce(sum(wait_count) filter (wait_sum_minutes is not null), 0)::bigint as wait_count,
{average("wait_sum_minutes", "wait_count")} as wait_average_minutes,
median(wait_median_minutes) as wait_median_minutes, median(wait_p90_minutes) as wait_p90_minutes,
max(wait_max_minutes) as wait_max_minutes,
coalesce(bool_and(wait_count = 0 or wait_max_minutes is not null), true) as has_all_days, false as is_exact
"""

#: The critical levels as a list of SQL; KPIs have levels as text.
_CRITICAL = sql_list(CRITICAL_LEVELS)


def waits(mart: Mart, where: Slice) -> OverTime:
    """Visits and waits (average, median) over time; its total see `waits_in_total`."""
    found = over_time(
        mart,
        where,
        f"select service_date as day, * {_WAITS}",
        {
            "visits": Measured("visit_count", "visit_count", 1, is_count=True),
            **{name: Measured(f"wait_{name}_minutes", "wait_count") for name in ("average", "median")},
        },
        _WAIT_TOTALS,
    )
    return OverTime(found.points, waits_in_total(mart, where)) if where.is_whole else found


def waits_in_total(mart: Mart, where: Slice) -> Row:
    """The slice in one row.

    The whole period has its exact median and 90th percentile (`kpi_waits`); of other periods they
    are the medians over the days, and `is_exact` is false.
    """
    if where.is_whole:
        found = mart.sliced(
            "select visit_count, wait_count, wait_average_minutes, wait_median_minutes, wait_p90_minutes, "
            f"wait_max_minutes, true as has_all_days, true as is_exact from {_KPI_WAITS} "
            "where hospital_id = $hospital and department_name = $department and triage_group = $triage",
            where,
        )
        if found:
            return found[0]
    (row,) = mart.sliced(f"select {_WAIT_TOTALS} {_WAITS}", where)
    return row


def visits_by_triage(mart: Mart, where: Slice) -> list[Row]:
    """Visits of each triage level of the slice, the untriaged last."""
    return mart.sliced(
        "select triage_group, sum(visit_count)::bigint as visit_count "
        f"from {_KPI_WAITS_DAILY} where hospital_id = $hospital "
        "and department_name = $department and triage_group <> 'all' "
        "and service_date between $first and $last group by 1 order by 1",
        where,
    )


def waits_by_department(mart: Mart, where: Slice) -> list[Row]:
    """Visits and waits of each department; exact medians where the period is whole."""
    source, columns = (
        (_KPI_WAITS, "wait_median_minutes, wait_p90_minutes")
        if where.is_whole
        else (
            _KPI_WAITS_DAILY,
            "median(wait_median_minutes) as wait_median_minutes, median(wait_p90_minutes) as wait_p90_minutes",
        )
    )
    return mart.sliced(
        "select department_name, sum(visit_count)::bigint as visit_count, "
        "sum(wait_count)::bigint as wait_count, "
        "sum(excluded_no_provider_count)::bigint as excluded_no_provider_count, "
        f"{columns} "
        f"from {source} where hospital_id = $hospital and triage_group = $triage "
        "and department_name <> 'all' "
        + (
            "group by department_name, wait_median_minutes, wait_p90_minutes "
            if where.is_whole
            else "and service_date between $first and $last group by department_name "
        )
        + "order by visit_count desc, department_name",
        where,
    )


def arrivals_by_hour(mart: Mart, where: Slice) -> list[Row]:
    """Arrivals per hospital and hour that existed on days that are over, by weekday and local hour."""
    return mart.sliced(
        "select iso_weekday_number, hour_of_day, sum(arrivals_count)::bigint as arrivals_count, "
        "sum(existing_hours_count)::bigint as existing_hours_count, "
        "sum(arrivals_count) / nullif(sum(existing_hours_count), 0) as arrivals_per_hour "
        "from kpis.kpi_arrivals_hourly where $hospital in ('all', hospital_id) "
        f"and service_date between $first and $last and {IS_KNOWN} group by all order by 1, 2",
        of_days_over(mart, where),
    )


def critical(mart: Mart, where: Slice) -> OverTime:
    """Visits of critical patients; none on a day with visits is 0."""
    return over_time(
        mart,
        where,
        "select service_date as day, coalesce(sum(visit_count) filter "
        f"(where triage_group in {_CRITICAL} and $triage in ('all', triage_group)), 0) as visit_count "
        f"from {_KPI_WAITS_DAILY} where hospital_id = $hospital and department_name = $department "
        "and service_date between $first and $last group by 1",
        {"critical": Measured("visit_count", "visit_count", 0, is_count=True)},
        "coalesce(sum(visit_count), 0)::bigint as visit_count",
    )
