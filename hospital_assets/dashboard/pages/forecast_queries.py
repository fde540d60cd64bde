"""Queries of the forecast page: the seasonal baseline and its accuracy."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from hospital_assets.contracts.table import Measure
from hospital_assets.dashboard.mart import Mart, Row
from hospital_assets.dashboard.slices import Slice
from hospital_assets.forecasting.slots import SLOT_WEEKS

#: What the forecasts mean, and the tables they are computed from.
ARRIVALS_FORECAST = Measure(
    "Arrivals by the seasonal baseline",
    f"Median of the arrivals on the same weekday (in the same hour of the week) of the last {SLOT_WEEKS} weeks; "
    "the bands are order statistics of those weeks. Error, bias and coverage are of the same rule a week ahead.",
    "arrivals",
    "arrivals that were not cancelled, by local day and hour (kpi_arrivals_hourly)",
    "seasonal naive baseline",
    variants="a baseline, not a model: it knows no holiday and no trend.",
)
BEDS_FORECAST = Measure(
    "Beds by the seasonal baseline",
    f"Median, lowest and highest of the mean number of occupied beds on the same weekday of the last {SLOT_WEEKS} "
    "weeks, against the beds staffed or assumed.",
    "beds",
    "departments with known beds (kpi_occupancy_daily)",
    "seasonal naive baseline",
    variants="it does not know who will be admitted.",
)
#: Measure -> the table it is computed from.
FORECAST_OF = {ARRIVALS_FORECAST.name: "kpi_arrivals_hourly", BEDS_FORECAST.name: "kpi_occupancy_daily"}


def daily_forecast(mart: Mart, where: Slice) -> list[Row]:
    """Arrivals by day for the next 14 days: the median of the same weekday in the weeks before.

    The bands are order statistics of those n weeks, without any distribution assumed: a new value
    falls within their range with probability (n - 1) / (n + 1), between the second lowest and the
    second highest with (n - 3) / (n + 1), if weeks are exchangeable. Rows of the past carry
    `actual`, and what the same rule would have forecast a week ahead, for its accuracy.
    """
    return mart.sliced(
        """
        with daily as (
            select service_date, sum(arrivals_count)::double as arrivals
            from kpis.kpi_arrivals_hourly
            where $hospital in ('all', hospital_id)
              and service_date between $until::date - 63 - 7 * $weeks::integer and $until
            group by 1
        ), wanted as (
            select $until::date + i::integer as day from range(-55, 15) r(i)
        ), looked as (
            select w.day, d.arrivals
            from wanted w join daily d
              on isodow(d.service_date) = isodow(w.day)
             -- A week ahead at least: what was known when that day was forecast.
             and d.service_date between least(w.day - 7, $until::date) - 7 * $weeks::integer + 1
                                    and least(w.day - 7, $until::date)
        )
        select w.day, a.arrivals as actual, f.n,
               f.baseline, f.low_inner, f.high_inner, f.low_outer, f.high_outer
        from wanted w
        left join daily a on a.service_date = w.day
        left join (
            select day, count(*) as n, median(arrivals) as baseline,
                   case when count(*) > 3 then list_sort(list(arrivals))[2] end as low_inner,
                   case when count(*) > 3 then list_sort(list(arrivals))[-2] end as high_inner,
                   min(arrivals) as low_outer, max(arrivals) as high_outer
            from looked group by 1
        ) f using (day)
        where a.arrivals is not null or w.day > $until
        order by 1
        """,
        where,
        until=mart.known.complete_until,
        weeks=SLOT_WEEKS,
    )


def beds_forecast(mart: Mart, where: Slice) -> list[Row]:
    """Beds occupied on each of the next 14 days, mean of the day: as `daily_forecast` does arrivals.

    Returns:
        rows with day, n (weeks), baseline, low, high (lowest and highest of those weeks), and the beds staffed on
        the last day that is over.
    """
    return mart.sliced(
        """
        with daily as (
            select service_date, sum(occupied_bed_minutes) / 1440.0 as occupied,
                   sum(bed_capacity)::bigint as beds
            from kpis.kpi_occupancy_daily
            where $hospital in ('all', hospital_id) and staffed_bed_minutes is not null
              and (case when $department = 'all' then department_name = 'all inpatient'
                   else department_name = $department end)
              and service_date between $until::date - 7 * $weeks::integer + 1 and $until
            group by 1
        )
        select w.day, count(*) as n, median(d.occupied) as baseline, min(d.occupied) as low,
               max(d.occupied) as high, (select max_by(beds, service_date) from daily) as beds
        from (select $until::date + 1 + i::integer as day from range(14) r(i)) w
        join daily d on isodow(d.service_date) = isodow(w.day)
        group by 1 order by 1
        """,
        where,
        until=mart.known.complete_until,
        weeks=SLOT_WEEKS,
    )


def hourly_forecast(mart: Mart, where: Slice) -> list[Row]:
    """Arrivals by hour for the next 48 hours: the median of the same hour of the week."""
    return mart.sliced(
        """
        with hourly as (
            select service_date, hour_of_day, sum(arrivals_count)::double as arrivals
            from kpis.kpi_arrivals_hourly
            where $hospital in ('all', hospital_id) and existing_hours_count > 0
              and service_date between $until::date - 7 * $weeks::integer + 1 and $until
            group by 1, 2
        )
        select w.day, w.hour_of_day, count(h.arrivals) as n, median(h.arrivals) as baseline,
               min(h.arrivals) as low_outer, max(h.arrivals) as high_outer
        from (select $until::date + 1 + (i // 24)::integer as day, (i % 24)::bigint as hour_of_day
              from range(48) r(i)) w
        left join hourly h on isodow(h.service_date) = isodow(w.day)
         and h.hour_of_day = w.hour_of_day
        group by 1, 2 order by 1, 2
        """,
        where,
        until=mart.known.complete_until,
        weeks=SLOT_WEEKS,
    )


def today(mart: Mart, where: Slice) -> Row | None:
    """Arrivals of the day in progress and of the same weekdays before; None without hospitals or arrivals.

    Each hospital's day and hour are those of its own clock when the data were published; only hours that are over
    count. Expected is what `daily_forecast` expects: the median of the same weekday.

    Returns:
        day and hour (of the first hospital; `is_one_hour` where all have the same), arrivals (None where none of that
        day is published), weeks, and low, median, high of `so_far`, `today` and `tomorrow`.
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
        """
        with places as (
            select unnest($hospitals) as hospital_id, unnest($days)::date as today, unnest($hours)::bigint as hour
        ), looked as (
            select a.service_date - p.today as behind, sum(arrivals_count)::bigint as arrivals,
                   coalesce(sum(arrivals_count) filter (hour_of_day < p.hour), 0)::bigint as so_far
            from kpis.kpi_arrivals_hourly a join places p using (hospital_id)
            where a.service_date between p.today - 7 * $weeks::integer and p.today
            group by 1
        ), known as (
            select behind, so_far, arrivals, behind < 0 and behind % 7 = 0 as is_same, (behind - 1) % 7 = 0 as is_next
            from looked
        )
        select max(so_far) filter (behind = 0) as arrivals,
               count(*) filter (is_same) as weeks, count(*) filter (is_next) as tomorrow_weeks,
               min(so_far) filter (is_same) as so_far_low, median(so_far) filter (is_same) as so_far_median,
               max(so_far) filter (is_same) as so_far_high,
               min(arrivals) filter (is_same) as today_low, median(arrivals) filter (is_same) as today_median,
               max(arrivals) filter (is_same) as today_high,
               min(arrivals) filter (is_next) as tomorrow_low, median(arrivals) filter (is_next) as tomorrow_median,
               max(arrivals) filter (is_next) as tomorrow_high
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
