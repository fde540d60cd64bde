"""Queries of several pages: rates, doctors, people."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from hospital_assets.dashboard.mart import Mart, Measured, OverTime, Row, of_hospital, of_visits, over_time
from hospital_assets.dashboard.slices import Slice
from hospital_assets.forecasting.slots import EMPTY_DAY_MEAN
from hospital_assets.measures.observations import FIRST_SET_LIMITS
from hospital_assets.measures.thresholds import LONGEST_QUIET_DAYS

#: The days from a hospital's first on, as in `kpi_peak_hours`, and whether it delivered them: hospital_id,
#: service_date, is_delivered. A day without any visit is delivered where so few come that there are such days.
KNOWN_DAYS = f"""
(
    select hospital_id, service_date, service_date = came_on or is_small as is_delivered
    from (
        select hospital_id, service_date as came_on, is_small, unnest(range(
            service_date, if(next - service_date > {LONGEST_QUIET_DAYS}, service_date + 1, next), interval 1 day
        ))::date as service_date
        from (
            select hospital_id, service_date,
                   lead(service_date, 1, (select max(service_date) + 1 from kpis.kpi_waits_daily)) over (
                       partition by hospital_id order by service_date
                   ) as next,
                   avg(visit_count - excluded_cancelled_count) over (partition by hospital_id) < {EMPTY_DAY_MEAN}
                       as is_small
            from kpis.kpi_waits_daily
            where hospital_id <> 'all' and department_name = 'all' and triage_group = 'all'
        )
    )
)
"""
#: Whether the arrivals of a row's hospital are known on its day.
IS_KNOWN = f"(hospital_id, service_date) in (select hospital_id, service_date from {KNOWN_DAYS})"

#: Of a day on which nobody came to the hospital there is none: who leaves then is only who stayed over night.
_SHARE = "case when is_landed then 100.0 * numerator_count / nullif(denominator_count, 0) end"

_SHARE_TOTALS = (
    "coalesce(sum(numerator_count), 0)::bigint as numerator_count, "
    "coalesce(sum(denominator_count), 0)::bigint as denominator_count, "
    "coalesce(sum(undelivered_count), 0)::bigint as undelivered_count"
)

#: Rates by hospital and day -> table, its day, its numerator, further conditions.
_RATES = {
    "on_time": (
        "kpi_seen_on_time_daily",
        "service_date",
        "numerator_count",
        "and scale = $scale and triage_group = $triage",
    ),
    "four_hour": ("kpi_four_hour_daily", "period_date", "numerator_count", ""),
    "twelve": ("kpi_four_hour_daily", "period_date", "over_12_hours_count", ""),
    "lwbs": ("kpi_lwbs_daily", "service_date", "numerator_count", ""),
    "critical": ("kpi_critical_waits_daily", "service_date", "numerator_count", ""),
    "boarded": ("kpi_boarding_daily", "service_date", "numerator_count", "and destination_department = 'all'"),
    "first_15": (
        "kpi_first_observations_daily",
        "service_date",
        "numerator_count",
        f"and department_name = $department and limit_minutes = {FIRST_SET_LIMITS[0]}",
    ),
    "first_60": (
        "kpi_first_observations_daily",
        "service_date",
        "numerator_count",
        f"and department_name = $department and limit_minutes = {FIRST_SET_LIMITS[1]}",
    ),
    "response": ("kpi_news2_response_daily", "service_date", "numerator_count", "and department_name = $department"),
    "frequency": (
        "kpi_observation_frequency_daily",
        "service_date",
        "numerator_count",
        "and department_name = $department and news2_band = 'all'",
    ),
    "before_noon": ("kpi_discharge_before_noon_daily", "period_date", "numerator_count", ""),
}


def rate(mart: Mart, where: Slice, name: str) -> OverTime:
    """A rate in percent, by the day it counts for; its total has how many a source does not deliver, too."""
    table, day, numerator, condition = _RATES[name]
    if not mart.has(table, numerator):
        return OverTime({name: []}, {"numerator_count": 0, "denominator_count": 0, "undelivered_count": 0})
    column = "excluded_undelivered_count"
    undelivered = column if mart.has(table, column) else "0"
    came = f"(hospital_id, {day}) in (select hospital_id, service_date from kpis.kpi_waits_daily)"
    is_landed = f"bool_or({came})" if table == "kpi_four_hour_daily" else "true"
    return over_time(
        mart,
        where,
        f"select {day} as day, sum({numerator}) as numerator_count, "
        f"sum(denominator_count) as denominator_count, sum({undelivered}) as undelivered_count, "
        f"{is_landed} as is_landed from kpis.{table} "
        f"where hospital_id = $hospital and {day} between $first and $last {condition} group by 1",
        {name: Measured(_SHARE, "denominator_count")},
        _SHARE_TOTALS,
    )


def of_days_over(mart: Mart, where: Slice) -> Slice:
    """A slice without days that were not over when the data were published: hours of theirs are still to come."""
    return replace(where, last=min(where.last, mart.known.complete_until))


def is_covered(mart: Mart, where: Slice) -> bool:
    """Whether every hospital of a slice of which any day is known has delivered all of its days."""
    (row,) = mart.sliced(
        f"""
        select coalesce(bool_and(days = $days), false) as is_covered
        from (
            select count_if(is_delivered) as days from {KNOWN_DAYS}
            where $hospital in ('all', hospital_id) and service_date between $first and $last group by hospital_id
        )
        """,
        where,
        days=where.days,
    )
    return bool(row["is_covered"])


def physicians(mart: Mart, where: Slice) -> list[Row]:
    """Doctors against the chance limits for their hours, whole period; codes, no names."""
    return mart.sliced(
        "select doctor_id, visit_count, shift_hours, visits_per_shift_hour, expected_visit_count, "
        "lower_limit_count, upper_limit_count, is_outside "
        "from kpis.kpi_physician_workload w join dimensions.dim_hospital h using (hospital_key) "
        "where doctor_key > 0 and $hospital in ('all', h.hospital_id) "
        "order by expected_visit_count, doctor_id",
        where,
    )


def active_doctors(mart: Mart, where: Slice) -> Row:
    """Doctors with a shift or a patient in the period, their visits, and those of doctors who have shifts at all.

    Of days that are over.
    """
    (row,) = mart.sliced(
        "select count(distinct doctor_key)::bigint as doctors_count, "
        "coalesce(sum(d.visit_count), 0)::bigint as visit_count, "
        "coalesce(sum(d.visit_count) filter (w.hours > 0), 0)::bigint as rostered_visit_count, "
        "coalesce(sum(d.shift_hours), 0) as shift_hours "
        "from kpis.kpi_physician_workload_daily d "
        "join (select doctor_key, hospital_key, shift_hours as hours from kpis.kpi_physician_workload) w "
        "using (doctor_key) "
        "join dimensions.dim_hospital h using (hospital_key) "
        "where doctor_key > 0 and (d.visit_count > 0 or d.shift_hours > 0) "
        "and $hospital in ('all', h.hospital_id) and service_date between $first and $last",
        of_days_over(mart, where),
    )
    return row


def blood_groups(mart: Mart, where: Slice) -> list[Row]:
    """Patients by blood group, with the reference mix, whole period."""
    columns = "blood_group, patient_count, share_pct, reference_share_pct, known_patient_count"
    return of_hospital(mart, where, "kpi_blood_groups", columns, "order by patient_count desc nulls last")


def demographics(mart: Mart, where: Slice) -> list[Row]:
    """Visits and patients by characteristic and category, whole period."""
    columns = "characteristic, category, patient_count, visit_count, share_of_visits_pct"
    return of_hospital(mart, where, "kpi_demographics", columns, "order by 1, 2")


#: Patients are many: who they are is looked up while a page's other queries run.
_BESIDE = ThreadPoolExecutor(1, "people")


def people(mart: Mart, where: Slice) -> Future[list[Row]]:
    """Visits of the last days of the slice by ten-year age band and sex; none without patients."""
    return _BESIDE.submit(
        of_visits,
        mart,
        where,
        "least(f.age_years // 10, 9)::bigint as decade, p.sex, count(*) as visit_count",
        "and f.age_years is not null group by 1, 2 order by 1, 2",
        ("sex",),
    )


def equity(mart: Mart, where: Slice) -> Future[list[Row]]:
    """As `people`, and the same visits' waits by who people are: n, average and its standard error.

    These rows have a `characteristic` (race, ethnicity, sex) and its `category` instead of a `decade`.
    """
    return _BESIDE.submit(
        of_visits,
        mart,
        where,
        "least(f.age_years // 10, 9)::bigint as decade, p.sex, "
        "case when grouping(p.race) = 0 then 'race' when grouping(p.ethnicity) = 0 then 'ethnicity' "
        "when grouping(decade) = 1 then 'sex' end as characteristic, "
        "coalesce(p.race, p.ethnicity, p.sex) as category, count(f.age_years) as visit_count, "
        "count(f.wait_minutes) as wait_count, avg(f.wait_minutes) as average, "
        "stddev_samp(f.wait_minutes) / sqrt(count(f.wait_minutes)) as error",
        "group by grouping sets ((decade, p.sex), (p.race), (p.ethnicity), (p.sex)) order by 3, 1, 2, 4",
        ("sex", "race", "ethnicity"),
    )
