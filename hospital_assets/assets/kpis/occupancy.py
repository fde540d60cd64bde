"""Beds: occupancy in its named variants, what flows through a department, how beds turn over."""

from datetime import datetime, timedelta

import dagster as dg
import narwhals as nw

from hospital_assets.assets.declare import all_days, several_tables
from hospital_assets.assets.facts.bed_occupancy import department_stays
from hospital_assets.contracts import CONTRACTS
from hospital_assets.measures.thresholds import BOTTLENECK_PCT
from hospital_assets.warehouse.database import Period
from hospital_assets.warehouse.dialect import (
    Frame,
    checkpoint,
    divided,
    exact_mean,
    exact_sum,
    explode_days,
    hours_between,
    local_clocks,
    resolve_instants,
)
from hospital_assets.warehouse.io_manager import period_of

EMERGENCY = "Emergency"
ALL_INPATIENT = "all inpatient"


def in_emergency(rows: Frame, departments: Frame) -> Frame:
    """Rows of emergency departments, by `department_key`."""
    own = departments.filter(nw.col("department_name") == EMERGENCY).select("department_key")
    return rows.join(own, on="department_key", how="semi")


@dg.multi_asset(
    **several_tables("bed_use", "kpi_occupancy_daily", "kpi_department_flow_daily"),
    # A stay of any earlier day may still occupy a bed.
    ins=all_days("fact_patient_flow"),
)
def bed_use(
    context: dg.AssetExecutionContext,
    fact_bed_occupancy: Frame,
    fact_patient_flow: Frame,
    dim_department: Frame,
    dim_hospital: Frame,
) -> tuple[Frame, Frame]:
    """How full every department was on each day, also all inpatient departments together, and who went through it."""
    until = end_of(fact_bed_occupancy)
    hours = checkpoint(labelled_hours(fact_bed_occupancy, dim_department))
    segments = checkpoint(on_days(fact_patient_flow, dim_department, dim_hospital, period_of(context), until))
    all_hours, all_segments = (
        checkpoint(nw.concat([frame, pooled(frame)], how="vertical")) for frame in (hours, segments)
    )
    return (
        occupancy(all_hours, all_segments).select(CONTRACTS["kpi_occupancy_daily"].column_names),
        department_flow(hours, segments).select(CONTRACTS["kpi_department_flow_daily"].column_names),
    )


def labelled_hours(hours: Frame, departments: Frame) -> Frame:
    """Hours of fact_bed_occupancy with the names of their department."""
    return hours.join(
        departments.select("department_key", "hospital_id", "department_name", "bed_capacity"),
        on="department_key",
        how="left",
    ).select(
        "service_date",
        "hospital_id",
        "department_id",
        "department_name",
        "hour_start_at",
        "hour_minutes",
        "bed_capacity",
        "occupied_bed_minutes",
        "staffed_bed_minutes",
    )


def end_of(hours: Frame) -> datetime | None:
    """When the last of the hours ends; of a day in progress not all hours have begun."""
    minutes = (nw.col("hour_minutes") * 60_000_000).cast(nw.Int64)
    ends = hours.select(nw.col("hour_start_at"), minutes.alias("_microseconds")).sort("hour_start_at", descending=True)
    last = ends.head(1).collect("polars")
    if last.is_empty():
        return None
    end: datetime = last["hour_start_at"].item() + timedelta(microseconds=last["_microseconds"].item())
    return end


def on_days(flow: Frame, departments: Frame, hospitals: Frame, period: Period | None, until: datetime | None) -> Frame:
    """Patients' stays in departments on each local day they touch, cut at midnight.

    Args:
        until: where the day in progress is cut, as the hours of fact_bed_occupancy are; None: there
            are no days.

    Returns:
        service_date, hospital_id, department_id, department_name, `from_at` and `until_at` (within
        the day), `starts` and `ends` (in it), `lapses` (counted no longer, for want of an end), `lasts` (beyond its
        end), `is_eve` (there at its end only: begins at midnight sharp, and is the next day's).
    """
    placed = department_stays(flow, departments).join(
        hospitals.select("hospital_key", "hospital_id", "time_zone"), on="hospital_key", how="inner"
    )
    if period is not None:
        # A margin of a day holds every zone's local days.
        first = nw.lit(period.first).cast(nw.Datetime("us", "UTC")).dt.offset_by("-1d")
        end = nw.lit(period.end).cast(nw.Datetime("us", "UTC")).dt.offset_by("1d")
        placed = placed.filter(nw.col("segment_start_at") < end, nw.col("_until_at") >= first).with_columns(
            _from_at=nw.max_horizontal(nw.col("segment_start_at"), first),
            _last_at=nw.min_horizontal(nw.col("_until_at"), end),
        )
    else:
        placed = placed.with_columns(_from_at=nw.col("segment_start_at"), _last_at=nw.col("_until_at"))
    placed = local_clocks(placed, {"_from_local": "_from_at", "_until_local": "_last_at"}, "time_zone")
    # Who comes at midnight sharp is there at 24:00 of the day before, too: intervals are half-open.
    eve = nw.col("_from_local").dt.offset_by("-1us").dt.date()
    days = explode_days(
        placed.with_columns(_first_day=eve, _last_day=nw.col("_until_local").dt.date()),
        "_first_day",
        "_last_day",
        "service_date",
    )
    if period is not None:
        days = days.filter(period.holds())
    begun = nw.lit(until).cast(nw.Datetime("us", "UTC"))
    days = local_midnights(days, "service_date", "time_zone").with_columns(
        day_end_at=nw.min_horizontal(nw.col("day_end_at"), begun)
    )
    # Who is there when the day begins did not start in it, and an end at 24:00 is the day's.
    is_after = nw.col("_until_at") > nw.col("day_end_at")
    starts = nw.col("segment_start_at") >= nw.col("day_start_at")
    passes_through = starts & (nw.col("segment_start_at") == nw.col("_until_at"))
    return (
        days.with_columns(
            from_at=nw.max_horizontal("segment_start_at", "day_start_at"),
            until_at=nw.when(is_after).then(nw.col("day_end_at")).otherwise(nw.col("_until_at")),
            starts=starts.cast(nw.Int64),
            ends=(~is_after & ~nw.col("segment_end_at").is_null()).cast(nw.Int64),
            lapses=(~is_after & nw.col("segment_end_at").is_null()).cast(nw.Int64),
            lasts=is_after.cast(nw.Int64),
            is_eve=nw.col("segment_start_at") == nw.col("day_end_at"),
            _passes=passes_through,
        )
        # Who comes and goes at one moment has been there.
        .filter(
            (nw.col("from_at") < nw.col("until_at"))
            | (nw.col("is_eve") & is_after)
            | (nw.col("_passes") & (nw.col("segment_start_at") < nw.col("day_end_at")))
        )
        .select(
            "service_date",
            "hospital_id",
            "department_id",
            "department_name",
            "from_at",
            "until_at",
            "starts",
            "ends",
            "lapses",
            "lasts",
            "is_eve",
        )
    )


def local_midnights(frame: Frame, day: str, zone: str) -> Frame:
    """Add `day_start_at` and `day_end_at`: the local midnights around a day, as instants."""
    none = nw.lit(None).cast(nw.Int32)
    frame = frame.with_columns(
        _midnight=nw.col(day).cast(nw.Datetime("us")),
        _next_midnight=nw.col(day).cast(nw.Datetime("us")).dt.offset_by("1d"),
        _midnight_offset_minutes=none,
        _next_midnight_offset_minutes=none,
    )
    return resolve_instants(frame, {"day_start_at": "_midnight", "day_end_at": "_next_midnight"}, zone)


def pooled(frame: Frame) -> Frame:
    """The same rows under their hospital's inpatient departments together."""
    return frame.filter(nw.col("department_name") != EMERGENCY).with_columns(
        department_id=nw.concat_str(nw.col("hospital_id"), nw.lit("-INPATIENT")), department_name=nw.lit(ALL_INPATIENT)
    )


def occupancy(hours: Frame, segments: Frame) -> Frame:
    """Occupancy of each day and department.

    Args:
        hours: department hours with occupied and staffed minutes and capacity (several rows of one
            department and hour, of pooled departments, add up).
        segments: as from `on_days`.
    """
    day = ["service_date", "department_id"]
    per_hour = checkpoint(
        hours.group_by(*day, "hospital_id", "department_name", "hour_start_at").agg(
            _occupied=exact_sum("occupied_bed_minutes"),
            _staffed=exact_sum("staffed_bed_minutes"),
            _beds=nw.col("bed_capacity").sum(),
        )
    )
    per_day = (
        per_hour.with_columns(
            _share=nw.when(nw.col("_staffed") > 0).then(nw.col("_occupied") * 100.0 / nw.col("_staffed"))
        )
        .group_by(*day, "hospital_id", "department_name")
        .agg(
            occupied_bed_minutes=exact_sum("_occupied"),
            staffed_bed_minutes=exact_sum("_staffed"),
            hourly_mean_pct=exact_mean("_share"),
            _last_hour=nw.col("hour_start_at").max(),
        )
    )
    at_end = per_hour.select(*day, nw.col("hour_start_at").alias("_last_hour"), bed_capacity=nw.col("_beds"))
    census = segments.group_by(*day).agg(
        midnight_patients_count=nw.col("lasts").sum(), came_at_midnight_count=nw.col("is_eve").cast(nw.Int64).sum()
    )
    frame = (
        per_day.join(at_end, on=[*day, "_last_hour"], how="left")
        .join(census, on=day, how="left")
        .join(peaks(segments), on=day, how="left")
        .with_columns(
            midnight_patients_count=nw.coalesce(nw.col("midnight_patients_count"), nw.lit(0)),
            came_at_midnight_count=nw.coalesce(nw.col("came_at_midnight_count"), nw.lit(0)),
            peak_patients_count=nw.coalesce(nw.col("peak_patients_count"), nw.lit(0)),
        )
    )
    has_beds = nw.col("bed_capacity") > 0
    return frame.with_columns(
        bed_capacity=nw.col("bed_capacity").cast(nw.Int64),
        time_weighted_pct=nw.when(nw.col("staffed_bed_minutes") > 0).then(
            nw.col("occupied_bed_minutes") * 100.0 / nw.col("staffed_bed_minutes")
        ),
        midnight_pct=nw.when(has_beds).then(nw.col("midnight_patients_count") * 100.0 / nw.col("bed_capacity")),
        peak_pct=nw.when(has_beds).then(nw.col("peak_patients_count") * 100.0 / nw.col("bed_capacity")),
    )


def peaks(segments: Frame) -> Frame:
    """The most patients at one moment of each day and department.

    Who leaves at a moment is gone before who comes then: a bed handed over is one bed.
    """
    day = ["service_date", "department_id"]
    segments = segments.filter(~nw.col("is_eve"))
    came = segments.select(*day, _at=nw.col("from_at"), _change=nw.lit(1))
    left = segments.filter(nw.col("lasts") == 0).select(*day, _at=nw.col("until_at"), _change=nw.lit(-1))
    changes = nw.concat([came, left], how="vertical").group_by(*day, "_at").agg(_change=nw.col("_change").sum())
    return (
        changes.with_columns(_present=nw.col("_change").cum_sum().over(*day, order_by="_at"))
        .group_by(*day)
        .agg(peak_patients_count=nw.col("_present").max())
    )


def department_flow(hours: Frame, segments: Frame) -> Frame:
    """What came, went and was there; L = lambda x W within the day; turnover."""
    day = ["service_date", "department_id"]
    offered = hours.group_by(*day, "hospital_id", "department_name").agg(
        window_hours=divided(nw.col("hour_minutes").sum(), 60), _staffed=exact_sum("staffed_bed_minutes")
    )
    flow = (
        segments.filter(~nw.col("is_eve"))
        .with_columns(_hours=hours_between("from_at", "until_at"))
        .group_by(*day)
        .agg(
            patients_count=nw.len(),
            inflow_count=nw.col("starts").sum(),
            outflow_count=nw.col("ends").sum(),
            lapsed_count=nw.col("lapses").sum(),
            patient_hours=exact_sum("_hours"),
        )
    )
    counts = ("patients_count", "inflow_count", "outflow_count", "lapsed_count")
    frame = offered.join(flow, on=day, how="left").with_columns(
        patient_hours=nw.coalesce(nw.col("patient_hours"), nw.lit(0.0)),
        **{name: nw.coalesce(nw.col(name), nw.lit(0)) for name in counts},
    )
    frame = frame.with_columns(_beds=divided(nw.col("_staffed"), 60) / nw.col("window_hours"))
    return frame.with_columns(
        mean_census_count=nw.col("patient_hours") / nw.col("window_hours"),
        patients_per_hour=nw.col("patients_count") / nw.col("window_hours"),
        mean_hours_per_patient=nw.when(nw.col("patients_count") > 0).then(
            nw.col("patient_hours") / nw.col("patients_count")
        ),
        turnover_per_bed=nw.when(nw.col("_beds") > 0).then(nw.col("outflow_count") / nw.col("_beds")),
        turnover_interval_hours=nw.when((nw.col("_beds") > 0) & (nw.col("outflow_count") > 0)).then(
            (divided(nw.col("_staffed"), 60) - nw.col("patient_hours")) / nw.col("outflow_count")
        ),
        is_bottleneck=nw.coalesce(
            nw.col("patient_hours") * 6_000.0 >= float(BOTTLENECK_PCT) * nw.col("_staffed"), nw.lit(False)
        )
        & (nw.col("_beds") > 0),
    )
