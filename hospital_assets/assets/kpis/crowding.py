"""Crowding of emergency departments, hour by hour: NEDOCS and EDWIN."""

from datetime import UTC, date, datetime, timedelta

import dagster as dg
import narwhals as nw

from hospital_assets.assets.declare import table
from hospital_assets.assets.dedupe import newest_of_each
from hospital_assets.assets.facts.bed_occupancy import department_hours
from hospital_assets.assets.facts.undelivered import lacks_any
from hospital_assets.assets.kpis.occupancy import EMERGENCY, in_emergency
from hospital_assets.assets.resources import ClockResource
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.dimensions import UNKNOWN_KEY
from hospital_assets.contracts.kpis_emergency import BOARDERS_NEED, EDWIN_NEEDS, NEDOCS_NEEDS
from hospital_assets.measures.presence import visit_until
from hospital_assets.warehouse.database import Period
from hospital_assets.warehouse.dialect import Frame, checkpoint, explode_hours, hours_between, hours_of

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
    dim_date: Frame,
    clock: ClockResource,
) -> Frame:
    """Crowding of each emergency department at the start of every hour of the days on which somebody came or was there.

    Not partitioned: who arrived on one day is still there on the next.
    """
    period = days_looked_at(fact_emergency_visits, clock.now(), clock.settings.last_service_date)
    beds = department_hours(dim_department, dim_hospital, dim_date, period).join(
        dim_department.select("department_key", "department_name"), on="department_key", how="left"
    )
    # Of an arrival or departure known by its day only nobody can say at which hours the patient was there.
    is_timed = ~nw.col("arrival_at").is_null() & (nw.col("is_open") | ~nw.col("departure_at").is_null())
    visits = fact_emergency_visits.filter(~nw.col("is_cancelled"), is_timed).join(
        dim_hospital.select("hospital_key", "hospital_id"), on="hospital_key", how="left"
    )
    ventilated = (
        newest_of_each(cleaned_procedures, ["procedure_id"])
        .filter(nw.col("procedure_code").str.starts_with(VENTILATION))
        .group_by("visit_id")
        .agg(ventilated_at=nw.col("performed_at").min())
    )
    shifts = in_emergency(fact_doctor_shifts, dim_department).join(
        dim_hospital.select("hospital_key", "hospital_id"), on="hospital_key", how="left"
    )
    now = nw.lit(clock.now()).cast(nw.Datetime("us", "UTC"))
    visits = checkpoint(with_presence(visits.join(ventilated, on="visit_id", how="left"), period))
    beds = checkpoint(on_days_with_patients(beds.filter(nw.col("hour_start_at") <= now), visits))
    return crowding(beds, visits, checkpoint(shifts)).select(CONTRACTS["kpi_crowding_hourly"].column_names)


def days_looked_at(visits: Frame, now: datetime, last_service_date: date | None) -> Period:
    """The days from the first arrival until the last patient was gone, of those that the directory covers.

    Args:
        now: the hospital's time; nobody is known to be there later.
        last_service_date: the last day of which arrivals are landed; None: there is none.
    """
    until = visit_until("arrival_at", "departure_at")
    span = visits.select(
        _first=nw.col("service_date").min(), _last=nw.col("service_date").max(), _until=until.max()
    ).collect("polars")
    first, last, gone = span["_first"].item(), span["_last"].item(), span["_until"].item()
    if first is None:
        # Nobody ever came: no day, no hour.
        return Period(date(1970, 1, 1), date(1970, 1, 2))
    covered = min(now.date(), last_service_date or now.date())
    if gone is not None:
        # No local day is more than this ahead of the day in UTC.
        last = max(last, min((gone + timedelta(hours=14)).date(), covered))
    return Period(first, last + timedelta(days=1))


def with_presence(visits: Frame, period: Period) -> Frame:
    """Add until when each visit counts as present (`_until_at`), at most until the end of the days looked at."""
    # A margin of a day holds every zone's local days.
    end = datetime.combine(period.end + timedelta(days=1), datetime.min.time(), UTC)
    return visits.with_columns(
        _until_at=nw.min_horizontal(
            visit_until("arrival_at", "departure_at"), nw.lit(end).cast(nw.Datetime("us", "UTC"))
        )
    )


def on_days_with_patients(beds: Frame, visits: Frame) -> Frame:
    """The hours of the days of each hospital on which somebody came or was there.

    De-identified data lie decades apart; a day without anybody is not looked at.
    """
    day = ["service_date", "hospital_id"]
    there = explode_hours(visits.select("hospital_id", "arrival_at", "_until_at"), "arrival_at", "_until_at", "_hour")
    there = there.select("hospital_id", "_hour").unique()
    hours = beds.select(*day, _hour=nw.col("hour_start_at").dt.truncate("1h")).unique()
    occupied = hours.join(there, on=["hospital_id", "_hour"], how="semi").select(*day)
    days = nw.concat([visits.select(*day), occupied], how="vertical").unique()
    return beds.join(days, on=day, how="semi")


def crowding(beds: Frame, visits: Frame, shifts: Frame) -> Frame:
    """The state of each emergency department at the start of every hour, and its scores.

    Args:
        beds: service_date, hospital_id, department_name, hour_start_at, bed_capacity.
        visits: hospital_id, arrival_at, `_until_at` (until when it counts as present), room_at, decision_at,
            disposition, triage_level, ventilated_at, undelivered.
        shifts: hospital_id, doctor_key, shift_id, shift_start_at, shift_end_at of shifts in the department.
    """
    key = ["hospital_id", "hour_start_at"]
    is_ed = nw.col("department_name") == EMERGENCY
    grid = beds.group_by("service_date", *key).agg(
        ed_bed_count=nw.when(is_ed).then(nw.col("bed_capacity")).sum(),
        hospital_bed_count=nw.when(~is_ed).then(nw.col("bed_capacity")).sum(),
    )
    present = explode_at(grid, visits, "arrival_at", "_until_at")
    hour = nw.col("hour_start_at")
    boards = nw.coalesce((nw.col("disposition") == "admitted") & (nw.col("decision_at") <= hour), nw.lit(False))
    present = checkpoint(
        present.with_columns(
            _boards=boards.cast(nw.Int64),
            _boarded_hours=nw.when(boards).then(hours_of(hour - nw.col("decision_at"))),
            _ventilated=nw.coalesce(nw.col("ventilated_at") <= hour, nw.lit(False)).cast(nw.Int64),
            _weight=6 - nw.col("triage_level"),
            _roomed_at=nw.when(nw.col("room_at") <= hour).then(nw.col("room_at")),
            _door_to_bed_hours=hours_between("arrival_at", "room_at"),
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
    # Two shifts of one doctor are one doctor; all unknown doctors have one key.
    doctor = (
        nw.when(nw.col("doctor_key") == UNKNOWN_KEY)
        .then(nw.col("shift_id"))
        .otherwise(nw.col("doctor_key").cast(nw.String))
    )
    attending = (
        explode_at(grid, shifts.with_columns(_doctor=doctor), "shift_start_at", "shift_end_at")
        .group_by(*key)
        .agg(attendings_count=nw.col("_doctor").n_unique())
    )
    # A source without an input says nothing of its hospital, at any hour.
    nedocs_lacks, edwin_lacks = (
        lacks_any(*f"{BOARDERS_NEED} {needs}".split()).cast(nw.Int64).max() for needs in (NEDOCS_NEEDS, EDWIN_NEEDS)
    )
    sources = visits.group_by("hospital_id").agg(_nedocs_lacks=nedocs_lacks, _edwin_lacks=edwin_lacks)
    zero = {
        name: nw.coalesce(nw.col(name), nw.lit(0))
        for name in ("ed_patients_count", "boarders_count", "ventilated_count", "triage_weight_sum", "attendings_count")
    } | {name: nw.coalesce(nw.col(name), nw.lit(0.0)) for name in ("longest_boarding_hours", "last_door_to_bed_hours")}
    frame = (
        grid.join(counts, on=key, how="left")
        .join(sources, on="hospital_id", how="left")
        .join(last_roomed, on=key, how="left")
        .join(attending, on=key, how="left")
        .with_columns(**zero)
    )
    return frame.with_columns(
        occupancy_ratio=nw.when(nw.col("ed_bed_count") > 0).then(nw.col("ed_patients_count") / nw.col("ed_bed_count")),
        nedocs_score=nw.when(nw.coalesce(nw.col("_nedocs_lacks"), nw.lit(0)) == 0).then(nedocs()),
        edwin_score=nw.when(nw.coalesce(nw.col("_edwin_lacks"), nw.lit(0)) == 0).then(edwin()),
    ).with_columns(nedocs_level=nedocs_level("nedocs_score"), edwin_level=edwin_level("edwin_score"))


def explode_at(grid: Frame, spans: Frame, start: str, end: str) -> Frame:
    """One row for each hour of the grid in whose first moment a span of its hospital goes on.

    Args:
        grid: hospital_id, hour_start_at.
        spans: hospital_id and the instants `start` and `end`.
        start: from when (included).
        end: until when (excluded).
    """
    hours = grid.select("hospital_id", "hour_start_at", _hour=nw.col("hour_start_at").dt.truncate("1h"))
    return (
        explode_hours(spans, start, end, "_hour")
        .join(hours, on=["hospital_id", "_hour"], how="inner")
        .filter(nw.col("hour_start_at") >= nw.col(start), nw.col("hour_start_at") < nw.col(end))
        .drop("_hour")
    )


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
