"""fact_bed_occupancy: beds occupied and staffed, by department and hour."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import narwhals as nw

from hospital_assets.assets.declare import table
from hospital_assets.assets.dimensions.calendar import date_key
from hospital_assets.assets.facts.other_days import OtherDays
from hospital_assets.assets.resources import ClockResource
from hospital_assets.contracts import CONTRACTS
from hospital_assets.warehouse.database import Period
from hospital_assets.warehouse.dialect import Frame, checkpoint, explode_hours, local_clocks, minutes_between
from hospital_assets.warehouse.io_manager import period_of


@dg.asset(
    **table("fact_bed_occupancy"),
    # A stay of any earlier day may still occupy a bed.
    ins={"fact_patient_flow": dg.AssetIn(partition_mapping=dg.AllPartitionMapping())},
)
def fact_bed_occupancy(
    context: dg.AssetExecutionContext,
    fact_patient_flow: Frame,
    dim_department: Frame,
    dim_hospital: Frame,
    dim_date: Frame,
    clock: ClockResource,
) -> Frame:
    """Occupancy of every department in every hour of the run's service days that has begun."""
    period = period_of(context)
    assert period is not None  # noqa: S101  (the asset is partitioned)
    # Who is here now need not be here in the evening.
    now = nw.lit(clock.now()).cast(nw.Datetime("us", "UTC"))
    hours = department_hours(dim_department, dim_hospital, dim_date, period)
    hours = checkpoint(hours.filter(nw.col("hour_start_at") <= now))
    return occupied(hours, fact_patient_flow, dim_department, period).select(
        nw.col(*CONTRACTS["fact_bed_occupancy"].column_names)
    )


def department_hours(departments: Frame, hospitals: Frame, dates: Frame, period: Period) -> Frame:
    """Every hour of the local service days, for every department, with its capacity then.

    A day has the hours its wall clock had: 23 when it goes forward, 25 when it goes back.
    """
    days = (
        dates.filter(
            nw.col("calendar_date") >= nw.lit(period.first - timedelta(days=1)),
            nw.col("calendar_date") <= nw.lit(period.end + timedelta(days=1)),
        )
        .select(_day=nw.col("calendar_date").cast(nw.Datetime("us", "UTC")))
        .with_columns(_day_after=nw.col("_day").dt.offset_by("1d"))
    )
    hours = explode_hours(days, "_day", "_day_after", "hour_start_at").select("hour_start_at")
    hours = hours.join(
        hospitals.select("hospital_id", "hospital_key", "time_zone").filter(nw.col("hospital_key") > 0), how="cross"
    )
    hours = local_clocks(hours, {"hour_start_local": "hour_start_at"}, "time_zone")
    hours = hours.with_columns(service_date=nw.col("hour_start_local").dt.date()).filter(
        nw.col("service_date") >= nw.lit(period.first), nw.col("service_date") < nw.lit(period.end)
    )
    versions = departments.select(
        "hospital_id", "department_id", "department_key", "bed_capacity", "valid_from_at", "valid_to_at"
    )
    return (
        hours.join(versions, on="hospital_id", how="inner")
        .filter(nw.col("hour_start_at") >= nw.col("valid_from_at"), nw.col("hour_start_at") < nw.col("valid_to_at"))
        .with_columns(date_key=date_key("hour_start_local"), staffed_bed_minutes=nw.col("bed_capacity") * 60.0)
    )


def occupied(hours: Frame, flow: Frame, departments: Frame, period: Period) -> Frame:
    """The hours with the minutes, census, arrivals and departures of the segments in them.

    A segment without an end occupies its bed until the end of the period.
    """
    # A margin of a day on both sides holds every zone's local days.
    first = datetime.combine(period.first - timedelta(days=1), datetime.min.time(), UTC)
    end = datetime.combine(period.end + timedelta(days=1), datetime.min.time(), UTC)
    segments = (
        flow.select("department_key", "segment_start_at", "segment_end_at")
        .filter(
            nw.col("segment_start_at") < nw.lit(end),
            nw.col("segment_end_at").is_null() | (nw.col("segment_end_at") > nw.lit(first)),
        )
        .join(departments.select("department_key", "department_id"), on="department_key")
        .with_columns(
            _start=nw.max_horizontal(nw.col("segment_start_at"), nw.lit(first)),
            _end=nw.min_horizontal(nw.coalesce(nw.col("segment_end_at"), nw.lit(end)), nw.lit(end)),
        )
    )
    per_hour = (
        explode_hours(segments, "_start", "_end", "hour_start_at")
        .with_columns(_hour_end=nw.col("hour_start_at").dt.offset_by("1h"))
        .with_columns(
            _from=nw.max_horizontal("_start", "hour_start_at"),
            _until=nw.min_horizontal("_end", "_hour_end"),
            _present=((nw.col("_start") <= nw.col("hour_start_at")) & (nw.col("_end") > nw.col("hour_start_at"))).cast(
                nw.Int64
            ),
            _arrived=(nw.col("segment_start_at") >= nw.col("hour_start_at")).cast(nw.Int64),
            _left=nw.coalesce(nw.col("segment_end_at") <= nw.col("_hour_end"), nw.lit(False)).cast(nw.Int64),
        )
        .with_columns(_minutes=minutes_between("_from", "_until"))
        .group_by("department_id", "hour_start_at")
        .agg(
            occupied_bed_minutes=(nw.col("_minutes") * 1e9).round().cast(nw.Int64).sum() / 1e9,
            patients_at_start_count=nw.col("_present").sum(),
            arrivals_count=nw.col("_arrived").sum(),
            departures_count=nw.col("_left").sum(),
        )
    )
    return hours.join(per_hour, on=["department_id", "hour_start_at"], how="left").with_columns(
        occupied_bed_minutes=nw.coalesce(nw.col("occupied_bed_minutes"), nw.lit(0.0)),
        patients_at_start_count=nw.coalesce(nw.col("patients_at_start_count"), nw.lit(0)),
        arrivals_count=nw.coalesce(nw.col("arrivals_count"), nw.lit(0)),
        departures_count=nw.coalesce(nw.col("departures_count"), nw.lit(0)),
    )


#: Occupied minutes that differ by less are the same, summed in another order.
_SAME_MINUTES = 1e-6


def other_occupancy(stored: Frame, flow: Frame, departments: Frame, hospitals: Frame, dates: Frame) -> Frame:
    """Hours in which a department's stored occupancy is not what the flow says now."""
    span = stored.select(_first=nw.col("service_date").min(), _last=nw.col("service_date").max()).collect("polars")
    first, last = span["_first"].item(), span["_last"].item()
    if first is None:
        return stored
    period = Period(first, last + timedelta(days=1))
    hours = checkpoint(department_hours(departments, hospitals, dates, period))
    now = occupied(hours, flow, departments, period).select(
        "department_id",
        "hour_start_at",
        *(
            nw.col(c).alias(f"_{c}")
            for c in (
                "department_key",
                "patients_at_start_count",
                "arrivals_count",
                "departures_count",
                "occupied_bed_minutes",
            )
        ),
    )
    both = stored.join(now, on=["department_id", "hour_start_at"], how="inner")
    differs = nw.any_horizontal(
        nw.col("department_key") != nw.col("_department_key"),
        nw.col("patients_at_start_count") != nw.col("_patients_at_start_count"),
        nw.col("arrivals_count") != nw.col("_arrivals_count"),
        nw.col("departures_count") != nw.col("_departures_count"),
        (nw.col("occupied_bed_minutes") - nw.col("_occupied_bed_minutes")).abs() > _SAME_MINUTES,
        ignore_nulls=True,
    )
    return both.filter(differs)


OTHER_DAYS = (
    OtherDays(
        "fact_bed_occupancy",
        ("fact_patient_flow", "dim_department", "dim_hospital", "dim_date"),
        lambda t, _: other_occupancy(
            t["fact_bed_occupancy"], t["fact_patient_flow"], t["dim_department"], t["dim_hospital"], t["dim_date"]
        ),
    ),
)
