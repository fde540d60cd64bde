"""What registration and the EHR land: reference data, shifts, patients' extracts and visits."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
from faker import Faker

from hospital_assets.landing.profile import VISIT_CLOCKS, canonical_columns
from hospital_assets.simulator import dirt, feeds, people
from hospital_assets.simulator.feeds import CSV_CLOCK, ISO_CLOCK, clock_text
from hospital_assets.simulator.network import EPOCH, HOSPITALS, Network, midnight_utc

#: What registration systems deliver of a visit; what FHIR says besides, they do not know.
_VISIT_COLUMNS = [name for name in canonical_columns("er_visits") if name not in ("part_of_visit_id", "visit_status")]


def write_reference_data(landed: feeds.Landed, network: Network, ahead: pl.DataFrame, window: range, end: int) -> None:
    """Hospitals, departments, doctors, and the roster: who is ill stays in it, who comes from the bank is added.

    Args:
        ahead: the roster of the days after the window, as far as it is known by `end`.
        window: the days (since 1970).
        end: nothing is known after it (UTC seconds).
    """
    landed.write("hospitals/hospitals.csv", feeds.csv_bytes(network.hospitals))
    landed.write("departments/departments.csv", feeds.csv_bytes(network.departments))
    landed.write("doctors/doctors.csv", feeds.csv_bytes(network.doctors))
    numbers = {name: number for number, name in enumerate(HOSPITALS)}
    shifts = (
        pl.concat([network.roster, ahead])
        .with_columns(hospital=pl.col("hospital_id").replace_strict(numbers, return_dtype=pl.Int64))
        .with_columns(_day=feeds.local_day("start", "hospital"))
    )
    shifts = shifts.filter(pl.col("_day") >= window.start, pl.col("recorded") < end).with_columns(
        shift_start=clock_text("start", "hospital", CSV_CLOCK),
        shift_end=clock_text("end", "hospital", CSV_CLOCK),
        recorded_at=clock_text("recorded", "hospital", CSV_CLOCK),
    )
    landed.csv_feed("doctor_shifts", dirt.clean_frame(shifts), canonical_columns("doctor_shifts"), "shift_id")


def write_patients(
    landed: feeds.Landed,
    rng: np.random.Generator,
    faker: Faker,
    visits: pl.DataFrame,
    pool: pl.DataFrame,
    window: range,
    end: int,
    clean: bool,
) -> int:
    """The EHR's daily extracts; its clocks carry their offset."""
    first_seen = visits.group_by("index", maintain_order=True).agg(pl.col("arrival").min(), pl.col("hospital").first())
    records = people.record_versions(rng, faker, pool, first_seen, end).sort("recorded", "index")
    born = pl.from_epoch(pl.col("birth_day").cast(pl.Int32), time_unit="d")
    records = records.with_columns(
        _day=feeds.local_day("recorded", "hospital").clip(window[0], window[-1]),
        birth_date=born.dt.to_string("%Y-%m-%d"),
        age_years=((pl.col("recorded") / 86_400 - pl.col("birth_day")) / 365.2425)
        .floor()
        .cast(pl.Int64)
        .cast(pl.String),
        recorded_at=clock_text("recorded", "hospital", ISO_CLOCK),
        recorded_date=clock_text("recorded", "hospital", "%Y-%m-%d"),
        pre_existing_condition=pl.when(pl.col("pre_existing_condition") != "").then("pre_existing_condition"),
    )
    records = dirt.clean_frame(records)
    count = records.height
    alter = None
    if not clean:
        records = dirt.spoil(records, dirt.PATIENTS, rng)
        records = records.with_columns(
            birth_date=pl.when(pl.col("_kind").is_in(["age_negative", "age_over_120"]))
            .then(pl.lit(None, dtype=pl.String))
            .otherwise("birth_date")
        )
        records = dirt.repeated(records, 0.003, "duplicate_row", window[-1], rng)
        alter = feeds.dirty_files(landed, "patients", window, canonical_columns("patients"), rng)
    landed.csv_feed("patients", records, canonical_columns("patients"), "patient_id", alter)
    return count


def write_visits(
    landed: feeds.Landed,
    rng: np.random.Generator,
    visits: pl.DataFrame,
    window: range,
    end: int,
    clean: bool,
    live_from: int | None,
) -> int:
    """Registration's daily files: closed visits by day of departure, open ones at midnight.

    Live, an open visit is also recorded at arrival, triage and first provider contact.
    """
    closed = (
        visits.filter(pl.col("departure") < end)
        .with_columns(recorded=pl.min_horizontal(pl.col("departure") + 240, pl.lit(end - 1)))
        .with_columns(_day=feeds.local_day("recorded", "hospital"))
    )
    arrival_day = feeds.local_day("arrival", "hospital")
    departure_day = feeds.local_day("departure", "hospital")
    # What crosses midnight is first landed as it stood at the end of its day.
    crossing = visits.filter((arrival_day != departure_day) | (pl.col("departure") >= end))
    moments = crossing.join(_midnights(crossing.with_columns(_arrival_day=arrival_day), end), on="visit")
    if live_from is not None:
        # Clocks of one visit may coincide.
        moments = pl.concat([moments, *_stages(visits, live_from)]).unique(
            ["visit", "recorded"], keep="first", maintain_order=True
        )
    open_records = moments.with_columns(
        **{
            name: pl.when(pl.col(name) <= pl.col("recorded")).then(name).otherwise(-1)
            for name in ("handover", "triage", "room", "provider", "decision")
        }
    ).with_columns(
        departure=pl.lit(-1, dtype=pl.Int64),
        # Who is to be admitted is registered for a bed; how others leave is known when they do.
        disposition=pl.when(pl.col("decision") >= 0, pl.col("disposition") == "admitted").then("disposition"),
        doctor_id=pl.when(pl.col("provider") >= 0).then("doctor_id"),
        level=pl.when(pl.col("triage") >= 0).then("level"),
        _day=feeds.local_day("arrival", "hospital"),
    )
    corrected = closed.filter(pl.Series(rng.random(closed.height) < 0.01)).with_columns(
        recorded=pl.col("recorded") + 26 * 3600, level=pl.col("level").cast(pl.Int64)
    )
    corrected = corrected.with_columns(_day=feeds.local_day("recorded", "hospital")).filter(pl.col("recorded") < end)
    columns = closed.columns
    if not clean:
        closed = _mistaken(closed, corrected["visit"], window)
    records = pl.concat([closed, open_records.select(columns), corrected.select(columns)])
    records = records.with_columns(
        _day=pl.col("_day").clip(window[0], window[-1]),
        department=pl.col("routed"),
        arrival_mode=pl.col("mode"),
        triage_level=pl.col("level").cast(pl.String),
        chief_complaint=pl.col("complaint"),
        recorded_at=clock_text("recorded", "hospital", CSV_CLOCK),
        **{f"{name}_time": clock_text(name, "hospital", CSV_CLOCK) for name in VISIT_CLOCKS},
    ).sort("_day", "recorded", "visit")
    records = dirt.clean_frame(records)
    alter = None
    if not clean:
        # A closed record is final; spoiling an open one would be corrected by the next.
        is_final = (pl.col("departure") >= 0) & ~pl.col("visit").is_in(corrected["visit"].to_list())
        final, rest = records.filter(is_final), records.filter(~is_final)
        final = dirt.spoil(final, dirt.ER_VISITS, rng)
        final = dirt.late(final, 0.005, "late_record", 6, window[-1], rng)
        final = dirt.repeated(final, 0.006, "duplicate_row", window[-1], rng)
        final = _conflicting(final, rng, window)
        records = pl.concat([final, rest]).sort("_day", "recorded", "visit", maintain_order=True)
        alter = feeds.dirty_files(landed, "er_visits", window, _VISIT_COLUMNS, rng)
    landed.csv_feed("er_visits", records, _VISIT_COLUMNS, "visit_id", alter)
    return records.height


def _mistaken(closed: pl.DataFrame, corrected: pl.Series, window: range) -> pl.DataFrame:
    """First records as their corrections find them: a fourth of a day too early, a fourth of another department."""
    turn = pl.col("visit").replace_strict(
        {visit: number % 4 for number, visit in enumerate(corrected)}, default=None, return_dtype=pl.Int64
    )
    is_day_wrong = (turn == 0) & (feeds.local_day("arrival", "hospital") > window[0])
    return closed.with_columns(
        arrival=pl.when(is_day_wrong).then(pl.col("arrival") - 86_400).otherwise("arrival"),
        routed=pl.when(turn == 1, pl.col("routed") != "Surgery").then(pl.lit("Surgery")).otherwise("routed"),
    )


def _stages(visits: pl.DataFrame, live_from: int) -> list[pl.DataFrame]:
    """Visits at the moments when their open record is written anew."""
    return [
        visits.with_columns(recorded=pl.col(clock) + 20).filter(
            pl.col(clock) >= 0, pl.col("recorded") >= live_from, pl.col("recorded") < pl.col("departure")
        )
        for clock in ("arrival", "triage", "provider")
    ]


def _midnights(crossing: pl.DataFrame, end: int) -> pl.DataFrame:
    """For each visit the last second of its arrival day, in UTC."""
    cache: dict[tuple[int, int], int] = {}
    zones = [spec[3] for spec in HOSPITALS.values()]
    moments = []
    for visit, hospital, day in crossing.select("visit", "hospital", "_arrival_day").iter_rows():
        key = (hospital, day)
        if key not in cache:
            cache[key] = midnight_utc(EPOCH + timedelta(days=day + 1), zones[hospital]) - 1
        moments.append((visit, min(cache[key], end - 1)))
    return pl.DataFrame(moments, schema={"visit": pl.UInt32, "recorded": pl.Int64}, orient="row")


def _conflicting(final: pl.DataFrame, rng: np.random.Generator, window: range) -> pl.DataFrame:
    """Records of other patients under a visit number that is taken, recorded later that day."""
    hit = dirt.choose(final, 0.0005, rng, among=pl.col("arrival_time").is_not_null())
    wrong = final.filter(pl.Series(hit))
    others = final.filter(pl.col("_kind").is_null())["patient_id"].to_numpy()
    wrong = wrong.with_columns(
        _true=pl.col("patient_id"),
        patient_id=pl.Series(others[rng.integers(0, len(others), wrong.height)].tolist(), dtype=pl.String),
        recorded=pl.col("recorded") + 1800,
        _kind=pl.lit("conflicting_id"),
        _column=pl.lit("patient_id"),
        _expected=pl.lit("quarantine"),
    ).with_columns(_landed=pl.col("patient_id"), recorded_at=clock_text("recorded", "hospital", CSV_CLOCK))
    return pl.concat([final, wrong.filter(pl.col("_true") != pl.col("patient_id"))])
