"""Queries of the workforce page: doctors' load, cover, shifts."""

from __future__ import annotations

from dataclasses import replace

from hospital_assets.contracts.kpis import ALL
from hospital_assets.dashboard.mart import Mart, Measured, OverTime, Row, over_time
from hospital_assets.dashboard.slices import Slice


def workload(mart: Mart, where: Slice) -> OverTime:
    """New patients per shift hour."""
    return over_time(
        mart,
        where,
        "select d.service_date as day, sum(d.visit_count) as visits, sum(d.shift_hours) as hours "
        "from kpis.kpi_physician_workload_daily d "
        "join (select doctor_key, hospital_key from kpis.kpi_physician_workload) w using (doctor_key) "
        f"where doctor_key > 0 {mart.only(replace(where, department=ALL), 'w')} "
        "and d.service_date between $first and $last group by 1",
        {"load": Measured("visits / nullif(hours, 0)", "visits")},
    )


def staff_by_hour(mart: Mart, where: Slice) -> list[Row]:
    """Doctors on shift and arrivals in each local hour of the week, means per hospital."""
    return mart.sliced(
        "select c.iso_weekday_number, c.hour_of_day, c.arrivals_per_hour, s.doctors "
        "from (select iso_weekday_number, hour_of_day, "
        "sum(arrivals_count) / nullif(sum(existing_hours_count), 0) as arrivals_per_hour "
        "from kpis.kpi_arrivals_hourly where $hospital in ('all', hospital_id) "
        "and service_date between $first and $last group by all) c "
        "left join (select isodow(timezone(h.time_zone, k.hour_start_at)) as iso_weekday_number, "
        "hour(timezone(h.time_zone, k.hour_start_at)) as hour_of_day, "
        "avg(k.attendings_count) as doctors "
        "from kpis.kpi_crowding_hourly k join dimensions.dim_hospital h using (hospital_id) "
        "where $hospital in ('all', k.hospital_id) and k.service_date between $first and $last "
        "group by all) s using (iso_weekday_number, hour_of_day) order by 1, 2",
        where,
    )


def shift_patterns(mart: Mart, where: Slice) -> Row | None:
    """Shifts, long ones, and nights that follow a night; None where shifts are not published."""
    if not mart.has("fact_doctor_shifts", "shift_start_at"):
        return None
    (row,) = mart.sliced(
        "with shifts as (select s.*, hour(timezone(h.time_zone, s.shift_start_at)) >= 21 as is_night "
        "from facts.fact_doctor_shifts s join dimensions.dim_hospital h using (hospital_key) "
        "where $hospital in ('all', h.hospital_id) and s.service_date between $first and $last), "
        "followed as (select *, lead(shift_start_at) over w - shift_end_at as rest, "
        "lead(is_night) over w as next_is_night from shifts "
        "window w as (partition by doctor_key order by shift_start_at)) "
        "select count(*) as shifts_count, "
        "count(*) filter (where shift_hours >= 12) as long_count, "
        "count(*) filter (where is_night) as nights_count, "
        "count(*) filter (where is_night and next_is_night and rest < interval 24 hours) "
        "as nights_in_a_row_count, "
        "count(*) filter (where rest < interval 11 hours) as short_rest_count from followed",
        where,
    )
    return row
