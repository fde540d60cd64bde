"""Peak hours: arrivals by local hour and weekday, per hour that existed."""

from __future__ import annotations

import dagster as dg
import narwhals as nw

from hospital_assets.assets.declare import table
from hospital_assets.assets.dimensions.calendar import local_hours
from hospital_assets.assets.kpis.totals import with_totals
from hospital_assets.contracts import CONTRACTS
from hospital_assets.warehouse.dialect import Frame, checkpoint, explode_hours


@dg.asset(**table("kpi_arrivals_hourly"))
def kpi_arrivals_hourly(fact_emergency_visits: Frame, dim_hospital: Frame, dim_date: Frame) -> Frame:
    """Arrivals in every local hour of each day on which the hospital had visits.

    The hours of a day are counted on the clock: the hour that is skipped in spring has existed 0
    times, the one repeated in autumn twice.
    """
    visits = checkpoint(
        fact_emergency_visits.filter(~nw.col("is_cancelled"))
        .join(dim_hospital.select("hospital_key", "hospital_id", "time_zone"), on="hospital_key", how="left")
        .select("service_date", "hospital_id", "time_zone", "arrival_local")
    )
    days = (
        visits.select("service_date", "hospital_id", "time_zone")
        .unique()
        .join(
            dim_date.select(nw.col("calendar_date").alias("service_date"), "iso_weekday_number"),
            on="service_date",
            how="inner",
        )
    )
    return arrivals_by_hour(visits, checkpoint(days)).select(nw.col(*CONTRACTS["kpi_arrivals_hourly"].column_names))


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
def kpi_peak_hours(kpi_arrivals_hourly: Frame) -> Frame:
    """Arrivals per existing hour by weekday and hour, for each hospital and all of them."""
    summed = checkpoint(
        with_totals(
            kpi_arrivals_hourly,
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
    ).select(nw.col(*CONTRACTS["kpi_peak_hours"].column_names))
