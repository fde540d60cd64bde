"""Queries of the workforce page: doctors' load, cover, shifts."""

from __future__ import annotations

from dataclasses import replace

from hospital_assets.contracts.forecasts import DOCTOR, ROSTERS
from hospital_assets.contracts.kpis import ALL
from hospital_assets.dashboard.mart import Mart, Measured, OverTime, Row, of_newest, of_table, over_time
from hospital_assets.dashboard.pages.shared_queries import IS_KNOWN, of_days_over
from hospital_assets.dashboard.slices import Slice


def workload(mart: Mart, where: Slice) -> OverTime:
    """New patients per shift hour, of doctors with shifts: what others see is in nobody's hours."""
    return over_time(
        mart,
        where,
        "select d.service_date as day, sum(d.visit_count) as visits, sum(d.shift_hours) as hours "
        "from kpis.kpi_physician_workload_daily d "
        "join (select doctor_key, hospital_key from kpis.kpi_physician_workload where shift_hours > 0) w "
        "using (doctor_key) "
        f"where doctor_key > 0 {mart.only(replace(where, department=ALL), 'w')} "
        "and d.service_date between $first and $last group by 1",
        {"load": Measured("visits / nullif(hours, 0)", "visits", weight="hours")},
    )


def staff_by_hour(mart: Mart, where: Slice) -> list[Row]:
    """Doctors on shift and arrivals in each local hour of the week, means per hospital; arrivals per doctor if any."""
    return of_table(
        mart,
        of_days_over(mart, where),
        "kpi_staffing_hourly",
        "iso_weekday_number, hour_of_day, "
        "sum(arrivals_count) / nullif(sum(existing_hours_count), 0) as arrivals_per_hour, "
        "sum(attendings_sum_count) / nullif(sum(staffed_hours_count), 0) as doctors, "
        "arrivals_per_hour / nullif(doctors, 0) as per_doctor",
        f"and {IS_KNOWN} group by 1, 2 order by 1, 2",
        is_pooled=False,
    )


def shift_patterns(mart: Mart, where: Slice) -> Row | None:
    """Shifts, long ones, nights that follow a night, short rests; None where there are none."""
    rows = of_table(
        mart,
        where,
        "kpi_shift_patterns_daily",
        "sum(shifts_count)::bigint as shifts_count, sum(long_shifts_count)::bigint as long_count, "
        "sum(nights_count)::bigint as nights_count, sum(nights_after_night_count)::bigint as nights_in_a_row_count, "
        "sum(rests_count)::bigint as rests_count, sum(short_rests_count)::bigint as short_rest_count",
    )
    return rows[0] if rows and rows[0]["shifts_count"] else None


def staff_needed(mart: Mart, where: Slice, role: str) -> list[Row]:
    """The newest need by local hour of the week ahead, sum of the hospitals; as many more are present as is supposed.

    Returns:
        day, hour_of_day, offered_load, needed; of doctors present, short (a surplus of one hospital is of no use to
        another), and suggested, null where a hospital has none.
    """
    return of_newest(
        mart,
        where,
        "staffing_need_hourly",
        "target_date as day, hour_of_day, sum(offered_load) as offered_load, sum(needed_count)::bigint as needed, "
        "sum(greatest(present_count + $more, 0))::bigint as present, "
        "sum(greatest(needed_count - greatest(present_count + $more, 0), 0))::bigint as short, "
        "case when count(*) = count(suggested_count) then sum(suggested_count)::bigint end as suggested",
        "and staff_role = $role group by all order by 1, 2",
        needs="needed_count",
        is_pooled=False,
        role=role,
        more=where.doctors,
    )


def rosters_compared(mart: Mart, where: Slice) -> list[Row]:
    """The newest comparison of rosters, by hospital and roster, the present one first; `seen` of who is expected."""
    if not mart.has("staffing_need_hourly", "expected_arrivals"):
        return []
    columns = (
        "*, (1 - unseen_pct / 100) * (select sum(expected_arrivals) from forecasts.staffing_need_hourly need "
        f"where staff_role = '{DOCTOR}' and need.service_date = kpi_staffing_comparison.service_date "
        "and need.hospital_id = kpi_staffing_comparison.hospital_id) as seen"
    )
    return of_newest(
        mart,
        where,
        "kpi_staffing_comparison",
        columns,
        "order by hospital_id, list_position($rosters, roster)",
        needs="roster",
        is_pooled=False,
        rosters=list(ROSTERS),
    )


def rosters_realised(mart: Mart, where: Slice) -> Row | None:
    """The newest week that is over, its last day: mean wait of who was seen by the roster worked and the suggested one.

    None where no suggestion is of a week that is over.
    """
    seen = "arrivals_count * (1 - unseen_pct / 100)"
    worked, suggested = (
        f"sum(wait_mean_minutes * {seen}) filter (roster = '{roster}') / "
        f"nullif(sum({seen}) filter (roster = '{roster}'), 0)"
        for roster in ("present", "suggested")
    )
    rows = of_newest(
        mart,
        where,
        "kpi_staffing_realised",
        f"service_date as last_day, {worked} as worked, {suggested} as suggested",
        "group by 1",
        needs="arrivals_count",
        is_pooled=False,
    )
    return rows[0] if rows and rows[0]["worked"] is not None else None


def suggested_shifts(mart: Mart, where: Slice) -> list[Row]:
    """The newest suggested shifts beside the present ones, by hospital, day and hour of start, and length."""
    return of_newest(
        mart,
        where,
        "staffing_shifts_suggested",
        "hospital_id, target_date as day, hour_of_day, shift_hours, present_count, suggested_count",
        "order by 1, 3, 4, 2",
        needs="suggested_count",
        is_pooled=False,
    )


def waits_ahead(mart: Mart, where: Slice) -> list[Row]:
    """The newest band of waits by local hour of the days ahead, of one hospital, by the method that ships there."""
    if not mart.has("forecast_wait_methods", "method_reason"):
        return []
    return mart.sliced(
        """
        select target_date as day, hour_of_day, mean_wait_p10_minutes as low, mean_wait_p50_minutes as middle,
               mean_wait_p90_minutes as high, over_60_pct, within_target_pct, days_count, method, method_reason
        from forecasts.forecast_waits_hourly
        join forecasts.forecast_wait_methods using (service_date, hospital_id, method)
        where hospital_id = $hospital
          and target_date >= (select max(service_date) from forecasts.forecast_waits_hourly)
        qualify service_date = max(service_date) over ()
        order by 1, 2
        """,
        where,
    )
