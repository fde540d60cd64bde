"""Queries of the forecast page: forecasts of arrivals and their accuracy, of beds, and how waits are."""

from __future__ import annotations

from datetime import date, timedelta
from zoneinfo import ZoneInfo

from hospital_assets.contracts.forecasts import EXPECTED_ARRIVALS, QUANTILE_COLUMNS, QUEUE, SAME_HOUR, STAFF_NEEDED
from hospital_assets.contracts.kpis import ALL
from hospital_assets.dashboard.mart import Mart, Row, of_newest
from hospital_assets.dashboard.pages.shared_queries import KNOWN_DAYS
from hospital_assets.dashboard.slices import Slice
from hospital_assets.forecasting.slots import SLOT_WEEKS

#: Measure -> the table that its figures show besides those with the definition: what came, why there is no suggestion.
FORECAST_OF = {EXPECTED_ARRIVALS.name: "kpi_arrivals_hourly", STAFF_NEEDED.name: "kpi_staffing_comparison"}
#: What is read of a forecast distribution.
_DISTRIBUTION = ", ".join(
    [
        "method, expected_arrivals as expected",
        *(f"{name} as {name.removesuffix('_count')}" for name in QUANTILE_COLUMNS),
    ]
)
#: Days before the forecast that are shown with it.
_DAYS_BEFORE = 56


def daily_forecast(mart: Mart, where: Slice) -> list[Row]:
    """Arrivals of the last eight weeks by day (`actual`), and what the newest forecast expects of the 14 days after.

    Arrivals are None of a day that one of the hospitals has not delivered; of a day before it began it is none of them.
    """
    ahead = of_newest(
        mart,
        where,
        "forecast_arrivals_daily",
        f"target_date as day, null::double as actual, holiday_name, service_date as as_of, {_DISTRIBUTION}",
        "and is_shipped order by day",
        needs="expected_arrivals",
    )
    if not ahead:
        return []
    before = mart.sliced(
        "select service_date as day, case when bool_and(is_delivered) then sum(arrivals_count)::double end as actual "
        f"from kpis.kpi_arrivals_hourly join {KNOWN_DAYS} using (hospital_id, service_date) "
        "where $hospital in ('all', hospital_id) and service_date between $since and $as_of group by 1 order by 1",
        where,
        since=ahead[0]["as_of"] - timedelta(days=_DAYS_BEFORE - 1),
        as_of=ahead[0]["as_of"],
    )
    return [dict.fromkeys(ahead[0]) | row for row in before] + ahead


def drivers(mart: Mart, where: Slice) -> list[Row]:
    """What moves the newest forecast of the first day after it: day, driver, factor, added."""
    return of_newest(
        mart,
        where,
        "forecast_drivers",
        "target_date as day, driver, factor, added_arrivals as added",
        "qualify target_date = min(target_date) over () order by driver_rank",
        needs="factor",
    )


def triage_forecast(mart: Mart, where: Slice) -> list[Row]:
    """What the newest forecast expects by triage level: of the first day after it, and of seven days (`week`)."""
    return of_newest(
        mart,
        where,
        "forecast_triage_daily",
        "triage_group, min(target_date) as day, sum(expected_arrivals) as week, "
        "min_by(expected_arrivals, target_date) as expected, "
        "min_by(p10_count, target_date) as p10, min_by(p90_count, target_date) as p90",
        "and horizon_days <= 7 group by 1 order by 1",
        needs="expected_arrivals",
    )


def hourly_forecast(mart: Mart, where: Slice) -> list[Row]:
    """What the newest forecast expects of each local hour of the two days after it; hours that exist."""
    return of_newest(
        mart,
        where,
        "forecast_arrivals_hourly",
        f"target_date as day, hour_of_day, {_DISTRIBUTION}",
        "and is_shipped and existing_hours > 0 order by 1, 2",
        needs="expected_arrivals",
    )


def wait_methods(mart: Mart, where: Slice) -> list[Row]:
    """By which method waits are forecast at each hospital on its newest day, why, and how far off both methods were.

    Returns:
        hospital_id, method, method_reason, origins_count, median_skill_pct, high_skill_pct; simulation_error and
        same_hour_error, in minutes over the months there are: None where nothing is over.
    """
    if not (mart.has("kpi_wait_forecast_accuracy", "method") and mart.has("forecast_wait_methods", "method_reason")):
        return []

    def error(method: str) -> str:
        return (
            "(select sum(wait_mae_minutes * forecasts_count) / sum(forecasts_count) "
            "from forecasts.kpi_wait_forecast_accuracy scored where scored.hospital_id = "
            f"forecast_wait_methods.hospital_id and method = '{method}' and horizon_band = '{ALL}')"
        )

    # Of two days ahead: what was made earlier is about days that are over.
    return mart.sliced(
        f"""
        select hospital_id, method, method_reason, origins_count, median_skill_pct, high_skill_pct,
               {error(QUEUE)} as simulation_error, {error(SAME_HOUR)} as same_hour_error
        from forecasts.forecast_wait_methods
        where $hospital in ('all', hospital_id)
          and service_date >= (select max(service_date) - 1 from forecasts.forecast_wait_methods)
        qualify service_date = max(service_date) over (partition by hospital_id)
        order by 1
        """,
        where,
    )


def accuracy(mart: Mart, where: Slice) -> Row | None:
    """How the forecasts of days that shipped have done, over the months there are; None where none is over.

    A method's scores of a month count by how many of its forecasts shipped.

    Returns:
        forecasts_count (that shipped), mean (arrivals a day), mae, bias, pit_80_pct and skill_pct (against the mean of
        eight weeks; None where that is what shipped).
    """
    if not mart.has("kpi_forecast_accuracy", "mae"):
        return None
    (row,) = mart.sliced(
        """
        select sum(shipped_count)::bigint as forecasts_count,
               sum(arrivals_count / forecasts_count * shipped_count) / nullif(sum(shipped_count), 0) as mean,
               sum(mae * shipped_count) / nullif(sum(shipped_count), 0) as mae,
               sum(bias * shipped_count) / nullif(sum(shipped_count), 0) as bias,
               sum(pit_80_pct * shipped_count) / nullif(sum(shipped_count), 0) as pit_80_pct,
               sum(skill_pct * shipped_count) filter (skill_pct is not null)
                   / nullif(sum(shipped_count) filter (skill_pct is not null), 0) as skill_pct
        from forecasts.kpi_forecast_accuracy
        where hospital_id = $hospital and grain = 'day' and horizon_band = 'all' and shipped_count > 0
        """,
        where,
    )
    return row if row["forecasts_count"] else None


def expected(mart: Mart, where: Slice, days: tuple[date, ...]) -> dict[date, Row]:
    """What the newest forecast expects of some days."""
    rows = of_newest(
        mart,
        where,
        "forecast_arrivals_daily",
        f"target_date as day, {_DISTRIBUTION}",
        "and is_shipped and list_contains($days, target_date)",
        needs="expected_arrivals",
        days=list(days),
    )
    return {row["day"]: row for row in rows}


def beds_forecast(mart: Mart, where: Slice) -> list[Row]:
    """Patients in inpatient departments on the seven days after the newest forecast.

    Returns:
        rows with day, expected, low and high (10 and 90 %), over (chance of more than the staffed beds, in percent) and
        beds staffed (None where the source does not say).
    """
    return of_newest(
        mart,
        where,
        "forecast_beds_daily",
        "target_date as day, expected_patients as expected, patients_p10_count as low, patients_p90_count as high, "
        "over_capacity_pct as over, bed_capacity as beds",
        "and department_name = case when $department = 'all' then 'all inpatient' else $department end order by 1",
        needs="expected_patients",
    )


def today(mart: Mart, where: Slice) -> Row | None:
    """Arrivals of the day in progress and of the same weekdays before; None without hospitals or arrivals.

    Each hospital's day and hour are those of its own clock when the data were published; only hours that are over
    count. What came is compared with what came to the same hospitals, in weeks in which all of them delivered the day.

    Returns:
        day and hour (of the first hospital; `is_one_hour` where all have the same), arrivals (None where none of that
        day is published) at so many hospitals (`hospitals_count`) of those that delivered any day (`known_count`),
        weeks, and low, median, high of `so_far`.
    """
    if not mart.has("dim_hospital", "time_zone"):
        return None
    clocks = {
        row["hospital_id"]: mart.data_as_of.astimezone(ZoneInfo(row["time_zone"]))
        for row in mart.sliced(
            "select hospital_id, time_zone from dimensions.dim_hospital where hospital_key > 0 "
            "and time_zone is not null and $hospital in ('all', hospital_id) order by 1",
            where,
        )
    }
    if not clocks:
        return None
    (row,) = mart.rows(
        f"""
        with places as (
            select unnest($hospitals) as hospital_id, unnest($days)::date as today, unnest($hours)::bigint as hour
        ), looked as (
            select hospital_id, service_date - p.today as behind,
                   coalesce(sum(arrivals_count) filter (hour_of_day < p.hour), 0)::bigint as so_far
            from kpis.kpi_arrivals_hourly join places p using (hospital_id)
            join {KNOWN_DAYS} using (hospital_id, service_date)
            where service_date between p.today - 7 * $weeks::integer and p.today and is_delivered
            group by all
        ), summed as (
            select behind, sum(so_far)::bigint as so_far, count(*) as hospitals from looked
            where hospital_id in (select hospital_id from looked where behind = 0)
               or not exists (from looked where behind = 0)
            group by 1
        ), known as (
            select *, behind < 0 and behind % 7 = 0 and hospitals = max(hospitals) over () as is_same from summed
        )
        select max(so_far) filter (behind = 0) as arrivals,
               max(hospitals) as hospitals_count, (select count(distinct hospital_id) from looked) as known_count,
               count(*) filter (is_same) as weeks,
               min(so_far) filter (is_same) as so_far_low, median(so_far) filter (is_same) as so_far_median,
               max(so_far) filter (is_same) as so_far_high
        from known
        """,
        hospitals=list(clocks),
        days=[clock.date() for clock in clocks.values()],
        hours=[clock.hour for clock in clocks.values()],
        weeks=SLOT_WEEKS,
    )
    first = next(iter(clocks.values()))
    hours = {(clock.date(), clock.hour) for clock in clocks.values()}
    return row | {"day": first.date(), "hour": first.hour, "is_one_hour": len(hours) == 1}
