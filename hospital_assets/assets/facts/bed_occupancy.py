"""fact_bed_occupancy: beds occupied and staffed, by department and hour."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import narwhals as nw

from hospital_assets.assets.declare import all_days, table
from hospital_assets.assets.dimensions.calendar import date_key, local_hours
from hospital_assets.assets.facts.other_days import OtherDays
from hospital_assets.assets.resources import ClockResource
from hospital_assets.contracts import CONTRACTS
from hospital_assets.measures.presence import segment_until
from hospital_assets.warehouse.database import Period
from hospital_assets.warehouse.dialect import Frame, checkpoint, exact_sum, explode_hours, minutes_between
from hospital_assets.warehouse.io_manager import days_of_run


@dg.asset(
    **table("fact_bed_occupancy"),
    # A stay of any earlier day may still occupy a bed.
    ins=all_days("fact_patient_flow"),
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
    period = days_of_run(context)
    # Who is here now need not be here in the evening.
    now = nw.lit(clock.now()).cast(nw.Datetime("us", "UTC"))
    hours = department_hours(dim_department, dim_hospital, dim_date, period)
    hours = checkpoint(hours.filter(nw.col("hour_start_at") <= now))
    return occupied(hours, fact_patient_flow, dim_department, period).select(
        CONTRACTS["fact_bed_occupancy"].column_names
    )


def department_hours(departments: Frame, hospitals: Frame, dates: Frame, period: Period) -> Frame:
    """Every hour of the local service days, for every department, with its capacity then.

    A day has the hours its wall clock had, see `local_hours`: 23 when it goes forward, 25 when it goes back.
    """
    days = (
        dates.filter(
            nw.col("calendar_date") >= nw.lit(period.first - timedelta(days=1)),
            nw.col("calendar_date") <= nw.lit(period.end + timedelta(days=1)),
        )
        .select(_day=nw.col("calendar_date").cast(nw.Datetime("us", "UTC")))
        .with_columns(_day_after=nw.col("_day").dt.offset_by("1d"))
    )
    places = hospitals.select("hospital_id", "hospital_key", "time_zone").filter(nw.col("hospital_key") > 0)
    zones = days.join(places.select("time_zone").unique(), how="cross")
    hours = local_hours(zones, "_day", "_day_after", ["time_zone"])
    hours = hours.with_columns(service_date=nw.col("hour_start_local").dt.date()).filter(period.holds())
    hours = hours.join(places, on="time_zone", how="inner")
    versions = departments.select(
        "hospital_id",
        "department_id",
        "department_key",
        "bed_capacity",
        "first_effective_at",
        "valid_from_at",
        "valid_to_at",
    )
    return (
        hours.join(versions, on="hospital_id", how="inner")
        .filter(nw.col("hour_start_at") >= nw.col("valid_from_at"), nw.col("hour_start_at") < nw.col("valid_to_at"))
        # The first version holds from the beginning, for patients; beds are there from the day the department opens.
        .with_columns(
            bed_capacity=nw.when(nw.col("hour_start_at") < nw.col("first_effective_at"))
            .then(nw.lit(0))
            .otherwise(nw.col("bed_capacity"))
        )
        .with_columns(
            date_key=date_key("hour_start_local"), staffed_bed_minutes=nw.col("bed_capacity") * nw.col("hour_minutes")
        )
    )


def department_stays(flow: Frame, departments: Frame) -> Frame:
    """Who was in which department from when to when: moves from bed to bed within one are no arrivals.

    Returns:
        stay_id, hospital_key, department_id, department_name, segment_start_at, segment_end_at (null: not known), and
        `_until_at`, until when the patient counts as there (`measures.presence`).
    """
    placed = flow.select(
        "stay_id",
        "stay_class",
        "segment_number",
        "hospital_key",
        "department_key",
        "segment_start_at",
        "segment_end_at",
    ).join(departments.select("department_key", "department_id", "department_name"), on="department_key", how="inner")
    order = ["segment_start_at", "segment_number"]
    before = {
        f"_before_{name}": nw.col(name).shift(1).over("stay_id", order_by=order)
        for name in ("department_id", "segment_end_at")
    }
    goes_on = (nw.col("department_id") == nw.col("_before_department_id")) & (
        nw.col("segment_start_at") == nw.col("_before_segment_end_at")
    )
    return (
        placed.with_columns(_until_at=segment_until("segment_start_at", "segment_end_at"), **before)
        .with_columns(_begins=(~nw.coalesce(goes_on, nw.lit(False))).cast(nw.Int64))
        .with_columns(_number=nw.col("_begins").cum_sum().over("stay_id", order_by=order))
        .group_by("stay_id", "department_id", "_number")
        .agg(
            hospital_key=nw.col("hospital_key").max(),
            department_name=nw.col("department_name").max(),
            segment_start_at=nw.col("segment_start_at").min(),
            _last_end_at=nw.col("segment_end_at").max(),
            _open=nw.col("segment_end_at").is_null().cast(nw.Int64).sum(),
            _until_at=nw.col("_until_at").max(),
        )
        .with_columns(segment_end_at=nw.when(nw.col("_open") == 0).then(nw.col("_last_end_at")))
        .drop("_last_end_at", "_open", "_number")
    )


def occupied(hours: Frame, flow: Frame, departments: Frame, period: Period) -> Frame:
    """The hours with the minutes, census, arrivals and departures of the patients in them.

    Args:
        hours: as from `department_hours`.
    """
    # A margin of a day on both sides holds every zone's local days.
    first = nw.lit(datetime.combine(period.first - timedelta(days=1), datetime.min.time(), UTC))
    end = nw.lit(datetime.combine(period.end + timedelta(days=1), datetime.min.time(), UTC))
    stays = (
        department_stays(flow, departments)
        .filter(nw.col("segment_start_at") < end, nw.col("_until_at") >= first)
        .with_columns(
            _start=nw.max_horizontal(nw.col("segment_start_at"), first),
            _end=nw.min_horizontal(nw.col("_until_at"), end),
        )
        # Who leaves as an hour begins leaves in it.
        .with_columns(_to=nw.col("_end").dt.offset_by("1m"))
    )
    # Hours of the wall clock need not begin with those of UTC, by which both are matched.
    of_utc = explode_hours(
        hours.select("department_id", "hour_start_at", "hour_end_at"), "hour_start_at", "hour_end_at", "_utc_hour"
    )
    low = nw.max_horizontal("hour_start_at", "_utc_hour")
    high = nw.min_horizontal("hour_end_at", "_utc_hour_end")
    came, left = nw.col("segment_start_at"), nw.col("segment_end_at")
    came_in = (came >= nw.col("_low")) & (came < nw.col("_high"))
    left_in = (left >= nw.col("_low")) & (left < nw.col("_high"))
    is_there = (nw.col("_start") <= nw.col("hour_start_at")) & (nw.col("_end") > nw.col("hour_start_at"))
    per_hour = (
        explode_hours(stays, "_start", "_to", "_utc_hour")
        .join(of_utc, on=["department_id", "_utc_hour"], how="inner")
        .with_columns(_utc_hour_end=nw.col("_utc_hour").dt.offset_by("1h"))
        .with_columns(_low=low, _high=high)
        .with_columns(_from=nw.max_horizontal("_start", "_low"), _until=nw.min_horizontal("_end", "_high"))
        .with_columns(
            _present=(is_there & (nw.col("hour_start_at") == nw.col("_low"))).cast(nw.Int64),
            _arrived=came_in.cast(nw.Int64),
            _left=nw.coalesce(left_in, nw.lit(False)).cast(nw.Int64),
            _minutes=nw.max_horizontal(minutes_between("_from", "_until"), nw.lit(0.0)),
        )
        .group_by("department_id", "hour_start_at")
        .agg(
            occupied_bed_minutes=exact_sum("_minutes"),
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
