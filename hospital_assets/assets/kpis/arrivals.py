"""Peak hours: arrivals by local hour and weekday, per hour that existed."""

from datetime import date

import dagster as dg
import narwhals as nw

from hospital_assets.assets.declare import table
from hospital_assets.assets.dimensions.calendar import local_hours
from hospital_assets.assets.kpis.totals import with_totals
from hospital_assets.assets.resources import ClockResource
from hospital_assets.clock import last_whole_day
from hospital_assets.contracts import CONTRACTS
from hospital_assets.measures.thresholds import LONGEST_QUIET_DAYS
from hospital_assets.warehouse.dialect import Frame, checkpoint, explode_days, explode_hours
from hospital_assets.warehouse.io_manager import days_of_run


@dg.asset(**table("kpi_arrivals_hourly"))
def kpi_arrivals_hourly(
    context: dg.AssetExecutionContext, fact_emergency_visits: Frame, dim_hospital: Frame, dim_date: Frame
) -> Frame:
    """Arrivals in every local hour of each of the run's days, at every hospital, whether or not anybody came.

    The hours of a day are counted on the clock: the hour that is skipped in spring has existed 0
    times, the one repeated in autumn twice.
    """
    visits = checkpoint(
        fact_emergency_visits.filter(~nw.col("is_cancelled"))
        .join(dim_hospital.select("hospital_key", "hospital_id"), on="hospital_key", how="left")
        .select("service_date", "hospital_id", "arrival_local")
    )
    period = days_of_run(context)
    run_days = dim_date.filter(
        nw.col("calendar_date") >= nw.lit(period.first), nw.col("calendar_date") < nw.lit(period.end)
    ).select(service_date=nw.col("calendar_date"))
    days = checkpoint(at_hospitals(run_days, dim_hospital, dim_date))
    return arrivals_by_hour(visits, days).select(CONTRACTS["kpi_arrivals_hourly"].column_names)


def at_hospitals(days: Frame, hospitals: Frame, dates: Frame) -> Frame:
    """Days at every hospital: service_date, hospital_id, time_zone, iso_weekday_number."""
    return (
        days.join(
            dates.select("iso_weekday_number", service_date=nw.col("calendar_date")), on="service_date", how="inner"
        )
        .join(hospitals.filter(nw.col("hospital_key") > 0).select("hospital_id", "time_zone"), how="cross")
        .filter(~nw.col("time_zone").is_null())
    )


def days_of_hospitals(hourly: Frame) -> Frame:
    """The days on which a hospital's arrivals are known: service_date, hospital_id.

    From its first arrival on; days without any in gaps that are no gaps in the data are days on which nobody came.
    """
    day, at = nw.col("service_date"), ["hospital_id", "service_date"]
    came = (
        hourly.group_by(*at)
        .agg(_came=nw.col("arrivals_count").sum())
        .with_columns(_all=nw.lit(1))
        .with_columns(_end=day.max().over("_all").dt.offset_by("1d").cast(nw.Date))
        .filter(nw.col("_came") > 0)
    )
    following = came.with_columns(
        _next=nw.coalesce(day.shift(-1).over("hospital_id", order_by="service_date"), nw.col("_end"))
    )
    is_gap = nw.col("_next") > day.dt.offset_by(f"{LONGEST_QUIET_DAYS}d")
    spans = following.select(
        "hospital_id",
        _first=day,
        _last=nw.when(is_gap).then(day).otherwise(nw.col("_next").dt.offset_by("-1d").cast(nw.Date)),
    )
    return explode_days(spans, "_first", "_last", "service_date").select(*at)


def arrivals_by_hour(visits: Frame, days: Frame) -> Frame:
    """Arrivals and existing hours for each of `days` (with its zone) and hour of the day.

    Args:
        visits: service_date, hospital_id, arrival_local.
        days: service_date, hospital_id, time_zone, iso_weekday_number.
    """
    midnight = nw.col("service_date").cast(nw.Datetime("us", "UTC"))
    # From a day before to a day after in UTC holds the local day in every zone.
    around = days.with_columns(_from=midnight.dt.offset_by("-1d"), _until=midnight.dt.offset_by("2d"))
    existing = (
        local_hours(around, "_from", "_until", ["service_date", "hospital_id"])
        .filter(nw.col("hour_start_local").dt.date() == nw.col("service_date"))
        .with_columns(hour_of_day=nw.col("hour_start_local").dt.hour().cast(nw.Int64))
        .group_by("service_date", "hospital_id", "hour_of_day")
        .agg(existing_hours_count=nw.len())
    )
    # All 24 labels of each day, also the one the clock skipped.
    labels = explode_hours(
        days.with_columns(_from=midnight, _until=midnight.dt.offset_by("1d")), "_from", "_until", "_label_at"
    ).select(
        "service_date", "hospital_id", "iso_weekday_number", hour_of_day=nw.col("_label_at").dt.hour().cast(nw.Int64)
    )
    arrived = (
        visits.with_columns(hour_of_day=nw.col("arrival_local").dt.hour().cast(nw.Int64))
        .group_by("service_date", "hospital_id", "hour_of_day")
        .agg(arrivals_count=nw.len())
    )
    key = ["service_date", "hospital_id", "hour_of_day"]
    return (
        labels.join(existing, on=key, how="left")
        .join(arrived, on=key, how="left")
        .with_columns(
            existing_hours_count=nw.coalesce(nw.col("existing_hours_count"), nw.lit(0)),
            arrivals_count=nw.coalesce(nw.col("arrivals_count"), nw.lit(0)),
        )
    )


@dg.asset(**table("kpi_peak_hours"))
def kpi_peak_hours(kpi_arrivals_hourly: Frame, dim_hospital: Frame, dim_date: Frame, clock: ClockResource) -> Frame:
    """Arrivals per existing hour by weekday and hour, for each hospital and all of them."""
    return peak_hours(kpi_arrivals_hourly, dim_hospital, dim_date, last_whole_day(clock.now())).select(
        nw.col(*CONTRACTS["kpi_peak_hours"].column_names)
    )


def peak_hours(hourly: Frame, hospitals: Frame, dates: Frame, last: date) -> Frame:
    """Arrivals per hour that existed, days on which nobody came among them.

    Args:
        hourly: as kpi_arrivals_hourly.
        last: the last day that is over; of later ones there are hours still to come.
    """
    at = ["hospital_id", "service_date"]
    hourly = hourly.filter(nw.col("service_date") <= nw.lit(last))
    known = checkpoint(days_of_hospitals(hourly))
    # Of days without a record of anybody there are no hours yet.
    quiet = known.join(hourly.select(*at).unique(), on=at, how="anti")
    quiet = at_hospitals(quiet.select("service_date").unique(), hospitals, dates).join(quiet, on=at, how="semi")
    nobody = hourly.filter(nw.col("arrivals_count") < 0).select(
        "service_date", "hospital_id", arrival_local=nw.col("service_date").cast(nw.Datetime("us"))
    )
    hours = [hourly.join(known, on=at, how="semi"), arrivals_by_hour(nobody, checkpoint(quiet))]
    counts = ("iso_weekday_number", "hour_of_day", "existing_hours_count", "arrivals_count")
    all_hours = nw.concat(
        [frame.select("hospital_id", *(nw.col(name).cast(nw.Int64) for name in counts)) for frame in hours],
        how="vertical",
    )
    summed = checkpoint(
        with_totals(
            all_hours,
            ("iso_weekday_number", "hour_of_day"),
            ("hospital_id",),
            {
                "existing_hours_count": nw.col("existing_hours_count").sum(),
                "arrivals_count": nw.col("arrivals_count").sum(),
            },
        ).with_columns(
            arrivals_per_hour=nw.when(nw.col("existing_hours_count") > 0).then(
                nw.col("arrivals_count") * 1.0 / nw.col("existing_hours_count")
            )
        )
    )
    return summed.with_columns(
        busiest_rank=nw.coalesce(nw.col("arrivals_per_hour"), nw.lit(0.0))
        .rank("min", descending=True)
        .over("hospital_id")
        .cast(nw.Int64)
    )
