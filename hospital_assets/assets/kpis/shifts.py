"""Doctors' shifts: how long, how many nights in a row, how much rest; and staff against arrivals by hour."""

import dagster as dg
import narwhals as nw

from hospital_assets.assets.declare import table
from hospital_assets.assets.kpis.totals import count_if, with_totals
from hospital_assets.assets.resources import ClockResource
from hospital_assets.clock import last_whole_day
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.dimensions import UNKNOWN_KEY
from hospital_assets.measures.thresholds import (
    LONG_SHIFT_HOURS,
    NIGHT_AFTER_NIGHT_HOURS,
    NIGHT_STARTS_HOUR,
    SHORTEST_REST_HOURS,
)
from hospital_assets.warehouse.dialect import Frame, checkpoint, hours_between, local_clocks


@dg.asset(**table("kpi_shift_patterns_daily"))
def kpi_shift_patterns_daily(fact_doctor_shifts: Frame, dim_hospital: Frame) -> Frame:
    """Shifts of each day, and the rest before them.

    Not partitioned: the shift before lies on another day.
    """
    shifts = fact_doctor_shifts.join(
        dim_hospital.select("hospital_key", "hospital_id", "time_zone"), on="hospital_key", how="left"
    )
    return shift_patterns(shifts).select(CONTRACTS["kpi_shift_patterns_daily"].column_names)


def shift_patterns(shifts: Frame) -> Frame:
    """Long shifts, nights and short rests, by the day that a shift starts.

    Args:
        shifts: service_date, hospital_id, time_zone, doctor_key, shift_id, shift_start_at, shift_end_at, shift_hours.
    """
    frame = local_clocks(shifts, {"_start_local": "shift_start_at"}, "time_zone").with_columns(
        _is_night=(nw.col("_start_local").dt.hour() >= NIGHT_STARTS_HOUR).cast(nw.Int64)
    )
    order = ["shift_start_at", "shift_id"]
    frame = checkpoint(
        frame.with_columns(
            # A shift may lie within an earlier one, which then ends last.
            _end_at=nw.col("shift_end_at").cum_max().over("doctor_key", order_by=order),
            _night_end_at=nw.when(nw.col("_is_night") == 1).then(nw.col("shift_end_at")),
        )
        .with_columns(_night_end_at=nw.col("_night_end_at").cum_max().over("doctor_key", order_by=order))
        .with_columns(
            _last_end_at=nw.col("_end_at").shift(1).over("doctor_key", order_by=order),
            _last_night_end_at=nw.col("_night_end_at").fill_null(strategy="forward").over("doctor_key", order_by=order),
        )
        .with_columns(
            _last_night_end_at=nw.col("_last_night_end_at").shift(1).over("doctor_key", order_by=order),
            _rest_hours=hours_between("_last_end_at", "shift_start_at"),
        )
    )
    # All unknown doctors have one key: whose shift was before, nobody knows.
    rest = nw.when(nw.col("doctor_key") != UNKNOWN_KEY).then(nw.col("_rest_hours"))
    is_night = nw.col("_is_night") == 1
    return with_totals(
        frame,
        ("service_date",),
        ("hospital_id",),
        {
            "shifts_count": nw.len(),
            "long_shifts_count": count_if(nw.col("shift_hours") >= LONG_SHIFT_HOURS),
            "nights_count": count_if(is_night),
            "nights_after_night_count": count_if(
                is_night
                & (nw.col("_last_night_end_at") == nw.col("_last_end_at"))
                & (rest >= 0)
                & (rest < NIGHT_AFTER_NIGHT_HOURS)
            ),
            "rests_count": count_if(rest >= 0),
            "short_rests_count": count_if((rest >= 0) & (rest < SHORTEST_REST_HOURS)),
            "excluded_first_count": count_if(rest.is_null()),
            "excluded_overlapping_count": count_if(rest < 0),
        },
    )


@dg.asset(**table("kpi_staffing_hourly"))
def kpi_staffing_hourly(
    kpi_arrivals_hourly: Frame, kpi_crowding_hourly: Frame, dim_hospital: Frame, clock: ClockResource
) -> Frame:
    """Arrivals in each local hour of each day that is over, and the doctors on shift at its start."""
    hours = local_clocks(
        kpi_crowding_hourly.join(dim_hospital.select("hospital_id", "time_zone"), on="hospital_id", how="left"),
        {"_hour_local": "hour_start_at"},
        "time_zone",
    )
    key = ["service_date", "hospital_id", "hour_of_day"]
    doctors = (
        hours.with_columns(hour_of_day=nw.col("_hour_local").dt.hour().cast(nw.Int64))
        .group_by(*key)
        .agg(staffed_hours_count=nw.len(), attendings_sum_count=nw.col("attendings_count").sum())
    )
    zero = {name: nw.coalesce(nw.col(name), nw.lit(0)) for name in ("staffed_hours_count", "attendings_sum_count")}
    arrivals = kpi_arrivals_hourly.filter(nw.col("service_date") <= nw.lit(last_whole_day(clock.now())))
    found = arrivals.join(doctors, on=key, how="left").with_columns(**zero)
    return found.select(CONTRACTS["kpi_staffing_hourly"].column_names)
