"""Queries of capacity: beds, census, boarding, stays."""

from __future__ import annotations

from datetime import timedelta

from hospital_assets.contracts.kpis_emergency import NEDOCS_LEVELS
from hospital_assets.dashboard.mart import Mart, Measured, OverTime, Row, average, of_hospital, of_months, over_time
from hospital_assets.dashboard.slices import Slice
from hospital_assets.measures.words import sql_list

#: NEDOCS levels from overcrowded on, as a list of SQL.
_OVERCROWDED = sql_list(NEDOCS_LEVELS[NEDOCS_LEVELS.index("overcrowded") :])


def occupancy(mart: Mart, where: Slice) -> OverTime:
    """Occupied of offered bed-minutes in percent, over the departments of the slice; n is beds."""
    return over_time(
        mart,
        where,
        "select service_date as day, "
        "100.0 * sum(occupied_bed_minutes) / nullif(sum(staffed_bed_minutes), 0) as value, "
        "sum(bed_capacity) as beds, sum(staffed_bed_minutes) as offered from kpis.kpi_occupancy_daily "
        "where $hospital in ('all', hospital_id) and staffed_bed_minutes is not null "
        "and (case when $department = 'all' then department_name = 'all inpatient' "
        "else department_name = $department end) "
        "and service_date between $first and $last group by 1",
        {"occupancy": Measured("value", "beds", 1, weight="offered")},
    )


def occupancy_now(mart: Mart, where: Slice) -> list[Row]:
    """Each department on the last day of the slice that is over, or the one in progress: beds, mean, midnight, peak."""
    return mart.sliced(
        "select o.service_date, o.hospital_id, o.department_name, o.bed_capacity, o.midnight_patients_count, "
        "o.midnight_pct, o.time_weighted_pct, o.peak_patients_count, o.peak_pct "
        "from kpis.kpi_occupancy_daily o where o.service_date = (select coalesce("
        "max(service_date) filter (service_date <= $until), max(service_date)) from "
        "kpis.kpi_occupancy_daily where service_date between $first and $last) "
        "and $hospital in ('all', o.hospital_id) and $department in ('all', o.department_name) "
        "and o.department_name <> 'all inpatient' and o.bed_capacity is not null "
        "order by o.hospital_id, o.department_name",
        where,
        until=mart.known.complete_until,
    )


def occupancy_by_hour(mart: Mart, where: Slice) -> list[Row]:
    """Census and staffed beds at the start of each local hour of the last seven days that all hospitals have.

    Clocks that go back have an hour twice, of which the first counts; those that go forward lack one.
    """
    return mart.sliced(
        "select hour_local, sum(patients_count)::bigint as patients_count, sum(beds) as beds from ("
        "select o.hospital_key, o.department_id, o.hour_start_local as hour_local, "
        "arg_min(o.patients_at_start_count, o.hour_start_at) as patients_count, "
        "arg_min(o.staffed_bed_minutes / o.hour_minutes, o.hour_start_at) as beds from facts.fact_bed_occupancy o "
        f"where o.service_date between $since and $last {mart.only(where, 'o')} group by all) "
        "group by 1 qualify count(distinct hospital_key) = max(count(distinct hospital_key)) over () order by 1",
        where,
        since=where.last - timedelta(days=6),
    )


def bed_flow(mart: Mart, where: Slice) -> OverTime:
    """In and out a day, over inpatient departments or the chosen one; the total has their difference."""
    return over_time(
        mart,
        where,
        "select service_date as day, sum(inflow_count) as inflow, sum(outflow_count) as outflow "
        "from kpis.kpi_department_flow_daily where $hospital in ('all', hospital_id) "
        "and (case when $department = 'all' then department_name <> 'Emergency' "
        "else department_name = $department end) "
        "and service_date between $first and $last group by 1",
        {name: Measured(name, name, 0, is_count=True) for name in ("inflow", "outflow")},
        "sum(inflow)::bigint as inflow, (sum(inflow) - sum(outflow))::bigint as net",
    )


def boarding_by_destination(mart: Mart, where: Slice) -> list[Row]:
    """Boarding by the department admitted to: n, average, over four and twelve hours, longest."""
    return mart.sliced(
        "select destination_department, sum(denominator_count)::bigint as denominator_count, "
        f"{average('boarding_sum_minutes', 'denominator_count')} as average_minutes, "
        "sum(numerator_count)::bigint as over_4_hours_count, "
        "sum(over_12_hours_count)::bigint as over_12_hours_count "
        "from kpis.kpi_boarding_daily where hospital_id = $hospital "
        "and destination_department <> 'all' and service_date between $first and $last "
        "group by 1 order by 2 desc, 1",
        where,
    )


def crowding_by_hour(mart: Mart, where: Slice) -> list[Row]:
    """NEDOCS: share of hours at each level, by hospital."""
    return mart.sliced(
        "select hospital_id, count(nedocs_score) as hours_count, median(nedocs_score) as median, "
        "max(nedocs_score) as worst, "
        f"100.0 * count(*) filter (where nedocs_level in {_OVERCROWDED}) / nullif(count(nedocs_score), 0) "
        "as overcrowded_pct "
        "from kpis.kpi_crowding_hourly where $hospital in ('all', hospital_id) "
        "and service_date between $first and $last group by 1 order by 1",
        where,
    )


def stays_by_month(mart: Mart, where: Slice) -> list[Row]:
    """Length of stay by month of discharge and class."""
    columns = (
        "period_month, stay_class, denominator_count, los_hours_median, los_hours_average, los_hcup_days_average, "
        "excluded_open_count"
    )
    return of_months(mart, where, "kpi_length_of_stay", columns, "order by 2, 1")


def overstays(mart: Mart, where: Slice) -> list[Row]:
    """Overstays by department, whole period."""
    columns = "department_name, denominator_count, numerator_count, value_pct, open_numerator_count"
    return of_hospital(
        mart,
        where,
        "kpi_overstays",
        columns,
        "and department_name <> 'all' order by numerator_count desc nulls last, 1",
    )
