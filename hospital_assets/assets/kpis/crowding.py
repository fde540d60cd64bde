"""Crowding of emergency departments, hour by hour: NEDOCS and EDWIN."""

from datetime import date, timedelta

import dagster as dg
import narwhals as nw

from hospital_assets.assets.declare import table
from hospital_assets.assets.dedupe import newest_of_each
from hospital_assets.assets.facts.bed_occupancy import department_hours
from hospital_assets.assets.kpis.occupancy import EMERGENCY
from hospital_assets.contracts import CONTRACTS
from hospital_assets.measures.thresholds import LONGEST_PRESENCE_HOURS
from hospital_assets.warehouse.database import Period
from hospital_assets.warehouse.dialect import Frame, checkpoint, explode_hours

#: ICD-10-PCS 5A19: performance of respiratory ventilation.
VENTILATION = "5A19"

_NEDOCS_BANDS = (
    (20, "not_busy"),
    (60, "busy"),
    (100, "extremely_busy"),
    (140, "overcrowded"),
    (180, "severely_overcrowded"),
)


@dg.asset(**table("kpi_crowding_hourly"))
def kpi_crowding_hourly(
    fact_emergency_visits: Frame,
    fact_doctor_shifts: Frame,
    cleaned_procedures: Frame,
    dim_hospital: Frame,
    dim_department: Frame,
    dim_doctor: Frame,
    dim_date: Frame,
) -> Frame:
    """Crowding of each emergency department at the start of every hour of the days with visits.

    Not partitioned: who arrived on one day is still there on the next.
    """
    span = fact_emergency_visits.select(
        _first=nw.col("service_date").min(), _last=nw.col("service_date").max()
    ).collect("polars")
    first, last = span["_first"].item(), span["_last"].item()
    if first is None:
        # Nobody ever came: no day, no hour.
        first = last = date(1970, 1, 1)
    period = Period(first, last + timedelta(days=1))
    beds = department_hours(dim_department, dim_hospital, dim_date, period).join(
        dim_department.select("department_key", "department_name"), on="department_key", how="left"
    )
    visits = fact_emergency_visits.filter(~nw.col("is_cancelled")).join(
        dim_hospital.select("hospital_key", "hospital_id"), on="hospital_key", how="left"
    )
    ventilated = (
        newest_of_each(cleaned_procedures, ["procedure_id"])
        .filter(nw.col("procedure_code").str.starts_with(VENTILATION))
        .group_by("visit_id")
        .agg(ventilated_at=nw.col("performed_at").min())
    )
    doctors = dim_doctor.join(
        dim_department.filter(nw.col("is_current")).select("department_id", "department_name"),
        on="department_id",
        how="left",
    )
    shifts = (
        fact_doctor_shifts.join(doctors.select("doctor_key", "department_name"), on="doctor_key", how="left")
        .filter(nw.col("department_name") == EMERGENCY)
        .join(dim_hospital.select("hospital_key", "hospital_id"), on="hospital_key", how="left")
    )
    visits = visits.join(ventilated, on="visit_id", how="left")
    visits = checkpoint(visits)
    # De-identified data lie decades apart; a day without anybody is not looked at.
    days = visits.select("service_date", "hospital_id").unique()
    beds = checkpoint(beds.join(days, on=["service_date", "hospital_id"], how="semi"))
    return crowding(beds, visits, checkpoint(shifts)).select(nw.col(*CONTRACTS["kpi_crowding_hourly"].column_names))


def crowding(beds: Frame, visits: Frame, shifts: Frame) -> Frame:
    """The state of each emergency department at the start of every hour, and its scores.

    Args:
        beds: service_date, hospital_id, department_name, hour_start_at, bed_capacity.
        visits: hospital_id, arrival_at, departure_at (null: open), room_at, decision_at,
            disposition, triage_level, ventilated_at.
        shifts: hospital_id, shift_start_at, shift_end_at of emergency doctors.
    """
    key = ["hospital_id", "hour_start_at"]
    is_ed = nw.col("department_name") == EMERGENCY
    grid = beds.group_by("service_date", *key).agg(
        ed_bed_count=nw.when(is_ed).then(nw.col("bed_capacity")).sum(),
        hospital_bed_count=nw.when(~is_ed).then(nw.col("bed_capacity")).sum(),
    )
    stay_end = nw.col("arrival_at").dt.offset_by(f"{LONGEST_PRESENCE_HOURS}h")
    present = explode_hours(
        visits.with_columns(_until_at=nw.min_horizontal(nw.coalesce(nw.col("departure_at"), stay_end), stay_end)),
        "arrival_at",
        "_until_at",
        "hour_start_at",
    ).filter(nw.col("hour_start_at") >= nw.col("arrival_at"))
    hour = nw.col("hour_start_at")
    boards = nw.coalesce((nw.col("disposition") == "admitted") & (nw.col("decision_at") <= hour), nw.lit(False))
    present = checkpoint(
        present.with_columns(
            _boards=boards.cast(nw.Int64),
            _boarded_hours=nw.when(boards).then((hour - nw.col("decision_at")).dt.total_microseconds() / 3_600_000_000),
            _ventilated=nw.coalesce(nw.col("ventilated_at") <= hour, nw.lit(False)).cast(nw.Int64),
            _weight=6 - nw.col("triage_level"),
            _roomed_at=nw.when(nw.col("room_at") <= hour).then(nw.col("room_at")),
            _door_to_bed_hours=(nw.col("room_at") - nw.col("arrival_at")).dt.total_microseconds() / 3_600_000_000,
        )
    )
    counts = present.group_by(*key).agg(
        ed_patients_count=nw.len(),
        boarders_count=nw.col("_boards").sum(),
        ventilated_count=nw.col("_ventilated").sum(),
        longest_boarding_hours=nw.col("_boarded_hours").max(),
        triage_weight_sum=nw.col("_weight").sum(),
        _last_roomed_at=nw.col("_roomed_at").max(),
    )
    last_roomed = (
        present.join(counts.select(*key, "_last_roomed_at"), on=key, how="inner")
        .filter(nw.col("_roomed_at") == nw.col("_last_roomed_at"))
        .group_by(*key)
        .agg(last_door_to_bed_hours=nw.col("_door_to_bed_hours").max())
    )
    attending = (
        explode_hours(shifts, "shift_start_at", "shift_end_at", "hour_start_at")
        .filter(nw.col("hour_start_at") >= nw.col("shift_start_at"))
        .group_by(*key)
        .agg(attendings_count=nw.len())
    )
    zero = {
        name: nw.coalesce(nw.col(name), nw.lit(0))
        for name in ("ed_patients_count", "boarders_count", "ventilated_count", "triage_weight_sum", "attendings_count")
    } | {name: nw.coalesce(nw.col(name), nw.lit(0.0)) for name in ("longest_boarding_hours", "last_door_to_bed_hours")}
    frame = (
        grid.join(counts, on=key, how="left")
        .join(last_roomed, on=key, how="left")
        .join(attending, on=key, how="left")
        .with_columns(**zero)
    )
    return frame.with_columns(
        occupancy_ratio=nw.when(nw.col("ed_bed_count") > 0).then(nw.col("ed_patients_count") / nw.col("ed_bed_count")),
        nedocs_score=nedocs(),
        edwin_score=edwin(),
    ).with_columns(nedocs_level=nedocs_level("nedocs_score"), edwin_level=edwin_level("edwin_score"))


def nedocs() -> nw.Expr:
    """NEDOCS (Weiss 2004), held within 0 to 200; null where beds are unknown."""
    raw = (
        85.8 * nw.col("ed_patients_count") / nw.col("ed_bed_count")
        + 600.0 * nw.col("boarders_count") / nw.col("hospital_bed_count")
        + 13.4 * nw.col("ventilated_count")
        + 0.93 * nw.col("longest_boarding_hours")
        + 5.64 * nw.col("last_door_to_bed_hours")
        - 20.0
    )
    held = nw.when(raw < 0).then(nw.lit(0.0)).otherwise(nw.when(raw > 200).then(nw.lit(200.0)).otherwise(raw))
    return nw.when((nw.col("ed_bed_count") > 0) & (nw.col("hospital_bed_count") > 0)).then(held)


def nedocs_level(score: str) -> nw.Expr:
    """What a NEDOCS score means: whole points, each band up to and with its upper bound."""
    points = (nw.col(score) + 0.5).floor()
    return nw.coalesce(
        *(nw.when(points <= upper).then(nw.lit(name)) for upper, name in _NEDOCS_BANDS),
        nw.when(~points.is_null()).then(nw.lit("dangerously_overcrowded")),
    )


def edwin() -> nw.Expr:
    """EDWIN (Bernstein 2003) on ESI reversed (6 - level); null without doctors or free beds."""
    free = nw.col("ed_bed_count") - nw.col("boarders_count")
    return nw.when((nw.col("attendings_count") > 0) & (free > 0)).then(
        nw.col("triage_weight_sum") * 1.0 / (nw.col("attendings_count") * free)
    )


def edwin_level(score: str) -> nw.Expr:
    """What an EDWIN score means."""
    value = nw.col(score)
    return nw.coalesce(
        nw.when(value < 1.5).then(nw.lit("manageable")),
        nw.when(value <= 2).then(nw.lit("busy")),
        nw.when(value > 2).then(nw.lit("crowded")),
    )
