"""A generated hospital network that lands files like a real one, with dirt and its ground truth.

Belongs here: the network, its people, flow and clinical content, the feeds it lands and the dirt
in them. Does not belong here: anything that reads those files; no asset imports this package.
Everything follows from the arguments: the same ones give the same bytes.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from faker import Faker

from hospital_assets.simulator import clinical, dirt, feeds, flow, people
from hospital_assets.simulator.feeds import CSV_CLOCK, ISO_CLOCK, clock_text, hospital_text
from hospital_assets.simulator.network import DEPARTMENTS, HOSPITALS, Network, build_network, midnight_utc

_EPOCH = date(1970, 1, 1)
_NETWORK_ZONE = "America/Chicago"
_PATIENT_COLUMNS = (
    "patient_id",
    "first_name",
    "last_name",
    "birth_date",
    "age_years",
    "sex",
    "race",
    "ethnicity",
    "blood_group",
    "street",
    "city",
    "state",
    "zip",
    "phone",
    "insurer",
    "pre_existing_condition",
    "recorded_at",
)
_VISIT_COLUMNS = (
    "visit_id",
    "patient_id",
    "hospital_id",
    "department",
    "doctor_id",
    "arrival_mode",
    "arrival_time",
    "handover_time",
    "triage_time",
    "triage_level",
    "room_time",
    "provider_time",
    "decision_time",
    "departure_time",
    "disposition",
    "chief_complaint",
    "recorded_at",
)


@dataclass(frozen=True)
class SimulationSummary:
    """What a simulation landed."""

    first: date
    last: date
    visits: int
    vitals: int
    patients: int
    adt_events: int
    files: int
    bytes: int
    dirt: dict[str, int]


def simulate(
    landing: Path,
    ground_truth: Path,
    *,
    start: date = date(2026, 1, 1),
    days: int = 90,
    scale: float = 1.0,
    seed: int = 20260101,
    clean: bool = False,
) -> SimulationSummary:
    """Land the files of `days` service days of the network and write the ground truth.

    Args:
        landing: landing folder; `native/` below it is replaced.
        ground_truth: folder for `dirt.parquet` and `visits.parquet`.
        start: first local service day.
        days: how many.
        scale: multiplies visits, staff and beds; 1 is about 1,370 visits a day.
        seed: decides everything else.
        clean: without dirt.
    """
    if (landing / "native").exists():
        shutil.rmtree(landing / "native")
    landed = feeds.Landed(landing)
    counts, visits = feed_network(landed, start, days, scale, seed, clean)

    ground_truth.mkdir(parents=True, exist_ok=True)
    truth = pl.concat([feeds.truth_frame([]), *landed.truth]).sort("subject", "kind", "file", "line", "record_id")
    truth.write_parquet(ground_truth / "dirt.parquet")
    visits.drop("weight", strict=False).write_parquet(ground_truth / "visits.parquet")
    return SimulationSummary(
        first=start,
        last=start + timedelta(days=days - 1),
        visits=visits.height,
        **counts,
        files=landed.files,
        bytes=landed.size,
        dirt=dict(truth.group_by("kind").len().sort("kind").iter_rows()),
    )


def feed_network(
    landed: feeds.Landed, start: date, days: int, scale: float, seed: int, clean: bool, live_from: int | None = None
) -> tuple[dict[str, int], pl.DataFrame]:
    """Give every record of a network to `landed`; returns counts, and the true visits.

    Args:
        landed: takes the feeds.
        start: first local service day.
        days: how many.
        scale: as for `simulate`.
        seed: as for `simulate`.
        clean: without dirt.
        live_from: from this moment (UTC seconds), visits are recorded at each of their stages and
            not only when they are over.
    """
    seeds = iter(np.random.SeedSequence(seed).spawn(32))
    faker = Faker("en_US")
    faker.seed_instance(seed)

    def rng() -> np.random.Generator:
        return np.random.default_rng(next(seeds))

    network = build_network(rng(), faker, start, days, scale)
    begin = midnight_utc(start, "America/New_York")
    # Nothing is known after the last day ended everywhere.
    end = midnight_utc(start + timedelta(days=days), "America/Los_Angeles")
    visits, pool = _visits(rng, faker, network, start, days, scale, begin, end)
    vitals = clinical.vitals(rng(), visits, end)
    window = range((start - _EPOCH).days, (start - _EPOCH).days + days)
    _write_masters(landed, network, window, end)
    versions = _write_patients(landed, rng(), faker, visits, pool, window, end, clean)
    _write_visits(landed, rng(), visits, window, end, clean, live_from)
    vital_lines = _write_vitals(landed, rng(), visits, vitals, window, clean)
    events = _write_events(landed, rng(), visits, window, end, clean)
    _write_codes(landed, rng, visits, window, end, clean)
    return {"vitals": vital_lines, "patients": versions, "adt_events": events}, visits


def _visits(
    rng: object, faker: Faker, network: Network, start: date, days: int, scale: float, begin: int, end: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The true visits: who, when, why, and everything that happened; and the pool of patients."""
    assert callable(rng)  # noqa: S101
    visits = flow.arrivals(rng(), start, days, scale)
    by_hospital = {name: int((visits["hospital"] == number).sum()) for number, name in enumerate(HOSPITALS)}
    pool = people.build_pool(rng(), faker, by_hospital, (start - _EPOCH).days)
    person = _base_persons(rng(), visits, pool)
    birth = pool["birth_day"].to_numpy()
    visits = visits.with_columns(
        group=pl.Series(pool["group"].to_numpy()[person]),
        age_years=pl.Series((visits["arrival"].to_numpy() / 86_400 - birth[person]) / 365.25),
    )
    visits = flow.draw_urgency(rng(), visits)
    visits = flow.queue(rng(), visits, network)
    stays = flow.ward_stays(rng(), visits, network, begin)
    visits = visits.join(stays, on="visit", how="left", maintain_order="left").with_columns(
        departure=pl.coalesce("ward_from", "departure")
    )
    visits = visits.with_columns(left_ed=pl.col("departure"), left=pl.coalesce("ward_until", "departure"))
    arrival, left = visits["arrival"].to_numpy(), visits["left"].to_numpy()
    person, parent = flow.link_returns(rng(), visits, person, left)
    # Whoever would be in two places at once is somebody else, who comes only this time.
    died = (visits["disposition"] == "expired").fill_null(False).to_numpy()
    # Who died in the department does not come again, either.
    clash = flow.without_overlaps(person, arrival, np.where(died, flow.NEVER, left))
    strangers = _strangers(pool, person, np.flatnonzero(clash))
    pool = pl.concat([pool, strangers])
    person[clash] = strangers["index"].to_numpy()
    parent[clash] = -1
    patient = pool.select("index", "patient_id", "sex", "birth_day", "pre_existing_condition")
    visits = (
        visits.with_columns(index=pl.Series(person), follows=pl.Series(parent))
        .join(patient, on="index", how="left", maintain_order="left")
        .with_columns(
            visit_id=pl.format("V{}", pl.col("visit").cast(pl.String).str.zfill(8)), hospital_id=hospital_text()
        )
    )
    visits = clinical.draw_conditions(rng(), visits, parent)
    return visits.filter(pl.col("arrival") < end), pool


def _base_persons(rng: np.random.Generator, visits: pl.DataFrame, pool: pl.DataFrame) -> np.ndarray:
    """Who comes: mostly people of the hospital's own area, the frequent ones more often."""
    person = np.zeros(visits.height, dtype=np.int64)
    hospital = visits["hospital"].to_numpy()
    home = pool["home"].to_numpy()
    weight = pool["weight"].to_numpy()
    place = np.where(rng.random(visits.height) < 0.985, hospital, rng.integers(0, len(HOSPITALS), visits.height))
    for number in range(len(HOSPITALS)):
        own = np.flatnonzero(home == number)
        mine = np.flatnonzero(place == number)
        edges = np.cumsum(weight[own])
        person[mine] = own[np.minimum(np.searchsorted(edges, rng.random(len(mine)) * edges[-1]), len(own) - 1)]
    return person


def _strangers(pool: pl.DataFrame, person: np.ndarray, visits: np.ndarray) -> pl.DataFrame:
    """New people like those who could not be in two places."""
    like = pool[person[visits]]
    first = pool.height
    numbers = np.arange(first, first + len(visits))
    strangers: pl.DataFrame = like.with_columns(
        index=pl.Series(numbers),
        patient_id=pl.Series([f"P{number + 1:07d}" for number in numbers], dtype=pl.String),
        phone=pl.col("phone").str.reverse(),
    )
    return strangers


def _write_masters(landed: feeds.Landed, network: Network, window: range, end: int) -> None:
    landed.write("hospitals/hospitals.csv", feeds.csv_bytes(network.hospitals))
    landed.write("departments/departments.csv", feeds.csv_bytes(network.departments))
    landed.write("doctors/doctors.csv", feeds.csv_bytes(network.doctors))
    numbers = {name: number for number, name in enumerate(HOSPITALS)}
    shifts = network.shifts.with_columns(
        hospital=pl.col("hospital_id").replace_strict(numbers, return_dtype=pl.Int64),
        recorded=pl.col("start") - 7 * 86_400,
    ).with_columns(_day=feeds.local_day("start", "hospital"))
    shifts = shifts.filter(pl.col("_day").is_in(list(window))).with_columns(
        shift_start=clock_text("start", "hospital", CSV_CLOCK),
        shift_end=clock_text("end", "hospital", CSV_CLOCK),
        recorded_at=clock_text("recorded", "hospital", CSV_CLOCK),
    )
    landed.csv_feed(
        "doctor_shifts",
        dirt.clean_frame(shifts),
        ("shift_id", "doctor_id", "hospital_id", "department_id", "shift_start", "shift_end", "recorded_at"),
        "shift_id",
    )


def _write_patients(
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
        alter = feeds.dirty_files(landed, "patients", window, _PATIENT_COLUMNS, rng)
    landed.csv_feed("patients", records, _PATIENT_COLUMNS, "patient_id", alter)
    return count


def _write_visits(
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
    day_ends = crossing.select(pl.col("visit"), _arrival_day=feeds.local_day("arrival", "hospital"))
    midnights = _midnights(crossing.join(day_ends, on="visit"), end)
    moments = crossing.join(midnights, on="visit")
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
        disposition=pl.lit(None, dtype=pl.String),
        doctor_id=pl.when(pl.col("provider") >= 0).then("doctor_id"),
        level=pl.when(pl.col("triage") >= 0).then("level"),
        _day=feeds.local_day("arrival", "hospital"),
    )
    corrected = closed.filter(pl.Series(rng.random(closed.height) < 0.01)).with_columns(
        recorded=pl.col("recorded") + 26 * 3600, level=pl.col("level").cast(pl.Int64)
    )
    corrected = corrected.with_columns(_day=feeds.local_day("recorded", "hospital")).filter(pl.col("recorded") < end)
    columns = closed.columns
    records = pl.concat([closed, open_records.select(columns), corrected.select(columns)])
    records = records.with_columns(
        _day=pl.col("_day").clip(window[0], window[-1]),
        department=pl.col("routed"),
        arrival_mode=pl.col("mode"),
        triage_level=pl.col("level").cast(pl.String),
        chief_complaint=pl.col("complaint"),
        recorded_at=clock_text("recorded", "hospital", CSV_CLOCK),
        **{
            f"{name}_time": clock_text(name, "hospital", CSV_CLOCK)
            for name in ("arrival", "handover", "triage", "room", "provider", "decision", "departure")
        },
    ).sort("_day", "recorded", "visit")
    records = dirt.clean_frame(records)
    alter = None
    if not clean:
        # A closed record is final; spoiling an open one would be mended by the next.
        is_final = pl.col("departure") >= 0
        final = records.filter(is_final & ~pl.col("visit").is_in(corrected["visit"].to_list()))
        rest = records.filter(~(is_final & ~pl.col("visit").is_in(corrected["visit"].to_list())))
        final = dirt.spoil(final, dirt.ER_VISITS, rng)
        final = dirt.late(final, 0.005, "late_record", 6, window[-1], rng)
        final = dirt.repeated(final, 0.006, "duplicate_row", window[-1], rng)
        final = _conflicting(final, rng, window)
        records = pl.concat([final, rest]).sort("_day", "recorded", "visit", maintain_order=True)
        alter = feeds.dirty_files(landed, "er_visits", window, _VISIT_COLUMNS, rng)
    landed.csv_feed("er_visits", records, _VISIT_COLUMNS, "visit_id", alter)
    return records.height


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
            cache[key] = midnight_utc(_EPOCH + timedelta(days=day + 1), zones[hospital]) - 1
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


def _write_vitals(
    landed: feeds.Landed,
    rng: np.random.Generator,
    visits: pl.DataFrame,
    vitals: pl.DataFrame,
    window: range,
    clean: bool,
) -> int:
    """The monitors' files: one observation set a line, six hours a file."""
    who = visits.select("visit", "visit_id", "patient_id", "hospital", "hospital_id")
    sets = vitals.join(who, on="visit", how="left", maintain_order="left").sort("measured", "visit")
    n = sets.height
    # Hospitals H6 and H7 measure in Celsius, the others in Fahrenheit.
    celsius = pl.col("hospital") >= 5
    sets = sets.with_columns(
        observation_id=pl.format("O{}-{}", pl.col("visit"), pl.col("number")),
        device_id=pl.format("{}-MON-{}", "hospital_id", pl.col("visit") % 40 + 1),
        recorded=pl.col("measured") + pl.Series(rng.integers(2, 40, n)),
        temperature=pl.when(celsius).then("temperature_c").otherwise((pl.col("temperature_c") * 1.8 + 32).round(1)),
        temperature_unit=pl.when(celsius).then(pl.lit("Cel")).otherwise(pl.lit("[degF]")),
        spo2_unit=pl.lit("%"),
    )
    sets = sets.with_columns(
        measured_at=clock_text("measured", "hospital", ISO_CLOCK),
        recorded_at=clock_text("recorded", "hospital", ISO_CLOCK),
        _local=pl.from_epoch("recorded", time_unit="s").dt.replace_time_zone("UTC").dt.convert_time_zone(_NETWORK_ZONE),
    ).with_columns(
        _day=pl.col("_local").dt.date().cast(pl.Int32).cast(pl.Int64).clip(window[0], window[-1]),
        _part=pl.col("_local").dt.hour() // 6,
    )
    sets = dirt.clean_frame(sets.drop("_local"))
    alter = None
    if not clean:
        sets = _spoiled_vitals(sets, rng)
        alter = feeds.dirty_json_files(landed, "vitals", window, rng)
    etco2_from = window[len(window) * 2 // 3]
    sets = sets.with_columns(_text=_vitals_line(None))
    if not clean:
        sets = sets.with_columns(
            _text=pl.when(pl.col("_day") >= etco2_from).then(_vitals_line(pl.lit(36.0))).otherwise("_text")
        )
        broken = dirt.choose(sets, 0.0005, rng)
        how = rng.integers(0, 3, n)
        text = pl.col("_text")
        sets = dirt.mark(sets, broken & (how < 2), "broken_json", "quarantine")
        sets = dirt.mark(sets, broken & (how == 2), "nan_literal", "flag").with_columns(
            _text=pl.when(pl.Series(broken & (how == 0)))
            .then(text.str.head(-2))
            .when(pl.Series(broken & (how == 1)))
            .then(pl.lit("ERROR: ") + text)
            .when(pl.Series(broken & (how == 2)))
            .then(text.str.replace(r'"gcs":(\d+|null)', '"gcs":NaN'))
            .otherwise(text)
        )
        sets = dirt.late(sets, 0.003, "late_line", 3, window[-1], rng)
        sets = dirt.repeated(sets, 0.005, "duplicate_line", window[-1], rng)
        sets = sets.sort("_day", "_part", "recorded", "visit", maintain_order=True)
    keep = ["_text", "_day", "_part", "recorded", "observation_id", *dirt.DIRT_COLUMNS]
    landed.json_feed("vitals", sets.select(keep), "observation_id", alter)
    return n


def _vitals_line(etco2: pl.Expr | None) -> pl.Expr:
    """An observation set as JSON."""

    def measured(name: str, unit: pl.Expr) -> pl.Expr:
        return (
            pl.when(pl.col(name).is_not_null())
            .then(pl.struct(pl.col(name).alias("value"), unit.alias("unit")))
            .alias(name)
        )

    values = [
        measured("heart_rate", pl.lit("/min")),
        measured("respiratory_rate", pl.lit("/min")),
        measured("spo2", pl.col("spo2_unit")),
        measured("systolic_bp", pl.lit("mm[Hg]")),
        measured("diastolic_bp", pl.lit("mm[Hg]")),
        measured("temperature", pl.col("temperature_unit")),
        *(pl.col(n) for n in ("consciousness", "on_oxygen", "spo2_scale", "gcs", "pain")),
    ]
    if etco2 is not None:
        values.append(pl.struct(etco2.alias("value"), pl.lit("mm[Hg]").alias("unit")).alias("etco2"))
    return pl.struct(
        "observation_id",
        "visit_id",
        "patient_id",
        "hospital_id",
        "device_id",
        "measured_at",
        "recorded_at",
        pl.struct(values).alias("vitals"),
    ).struct.json_encode()


def _spoiled_vitals(sets: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Record-level dirt of monitors: units, impossible values, swapped pressures, wrong clocks."""

    def change(
        sets: pl.DataFrame, rate: float, kind: str, expected: str, among: pl.Expr, **new: pl.Expr
    ) -> pl.DataFrame:
        hit = dirt.choose(sets, rate, rng, among=among)
        column = next(iter(new))
        flag = pl.Series(hit)
        return dirt.mark(
            sets.with_columns(
                _column=pl.when(flag).then(pl.lit(column)).otherwise("_column"),
                _true=pl.when(flag).then(pl.col(column).cast(pl.String)).otherwise("_true"),
                **{name: pl.when(flag).then(value).otherwise(name) for name, value in new.items()},
            ).with_columns(_landed=pl.when(flag).then(pl.col(column).cast(pl.String)).otherwise("_landed")),
            hit,
            kind,
            expected,
        )

    has_temperature = pl.col("temperature").is_not_null()
    fahrenheit = has_temperature & (pl.col("temperature_unit") == "[degF]")
    none = pl.lit(None, dtype=pl.String)
    sets = change(sets, 0.01, "fahrenheit_without_unit", "correct", fahrenheit, temperature_unit=none)
    sets = change(sets, 0.002, "fahrenheit_labelled_celsius", "correct", fahrenheit, temperature_unit=pl.lit("Cel"))
    sets = change(
        sets,
        0.005,
        "spo2_fraction",
        "correct",
        pl.col("spo2").is_not_null(),
        spo2=pl.col("spo2") / 100,
        spo2_unit=pl.lit("1"),
    )
    sets = change(
        sets, 0.001, "implausible_value", "flag", pl.col("heart_rate").is_not_null(), heart_rate=pl.lit(999.0)
    )
    sets = change(
        sets, 0.001, "implausible_value", "flag", pl.col("systolic_bp").is_not_null(), systolic_bp=pl.lit(1126.0)
    )
    sets = change(
        sets,
        0.0005,
        "pressures_swapped",
        "flag",
        pl.col("diastolic_bp").is_not_null() & pl.col("systolic_bp").is_not_null(),
        diastolic_bp=pl.col("systolic_bp"),
        systolic_bp=pl.col("diastolic_bp"),
    )
    sets = change(
        sets,
        0.0005,
        "future_measured_at",
        "quarantine",
        pl.lit(True),
        measured_at=pl.lit("2041") + pl.col("measured_at").str.slice(4),
    )
    return change(sets, 0.0005, "unknown_visit", "keep", pl.lit(True), visit_id=pl.lit("V99999999"))


def _write_events(
    landed: feeds.Landed, rng: np.random.Generator, visits: pl.DataFrame, window: range, end: int, clean: bool
) -> int:
    """ADT messages of every visit, with cancellations; all carry the start of their visit."""
    base = visits.select(
        "visit",
        "visit_id",
        "patient_id",
        "hospital",
        "hospital_id",
        "arrival",
        "departure",
        "disposition",
        "ward",
        "bed_id",
        "ward_from",
        "ward_until",
        "moves_to",
        "moved_at",
    )
    none = pl.lit(None, dtype=pl.String)

    def events(
        frame: pl.DataFrame,
        kind: str,
        at: pl.Expr,
        department: pl.Expr,
        bed: pl.Expr = none,
        disposition: pl.Expr = none,
    ) -> pl.DataFrame:
        return frame.select(
            "visit",
            "visit_id",
            "patient_id",
            "hospital",
            "hospital_id",
            "arrival",
            event_type=pl.lit(kind),
            at=at,
            department=department,
            bed_id=bed,
            discharge_disposition=disposition,
        )

    emergency = pl.lit("Emergency")
    admitted = base.filter(pl.col("ward").is_not_null())
    home = base.filter(pl.col("ward").is_null())
    moved = admitted.filter(pl.col("moved_at") >= 0)
    last_ward = pl.coalesce("moves_to", "ward")
    after_ward = pl.Series(
        rng.choice(
            np.array(["home", "facility", "rehab", "expired", "against_medical_advice"]),
            admitted.height,
            p=[0.76, 0.13, 0.07, 0.03, 0.01],
        )
    )
    parts = [
        events(
            base, "A04", pl.col("arrival"), emergency, pl.format("{}-EMER-{}", "hospital_id", pl.col("visit") % 60 + 1)
        ),
        events(home, "A03", pl.col("departure"), emergency, none, pl.col("disposition")),
        events(admitted, "A06", pl.col("ward_from"), pl.col("ward"), pl.col("bed_id")),
        events(moved, "A02", pl.col("moved_at"), pl.col("moves_to"), none),
        events(
            admitted.with_columns(_after=after_ward), "A03", pl.col("ward_until"), last_ward, none, pl.col("_after")
        ),
    ]
    # A transfer entered by mistake is taken back; a discharge too, and then happens later.
    mistaken = admitted.filter(
        pl.Series(rng.random(admitted.height) < 0.01)
        & (pl.col("moved_at") < 0)
        & (pl.col("ward_until") - pl.col("ward_from") > 20_000)
    )
    parts.append(events(mistaken, "A02", pl.col("ward_from") + 7200, pl.lit("Surgery")))
    parts.append(events(mistaken, "A12", pl.col("ward_from") + 9000, pl.col("ward"), pl.col("bed_id")))
    reopened = home.filter(
        pl.Series(rng.random(home.height) < 0.003) & (pl.col("departure") - pl.col("arrival") > 7200)
    )
    parts.append(events(reopened, "A03", pl.col("departure") - 3000, emergency, none, pl.col("disposition")))
    parts.append(events(reopened, "A13", pl.col("departure") - 1500, emergency))
    updates = base.filter(pl.Series(rng.random(base.height) < 0.02))
    parts.append(events(updates, "A08", pl.col("arrival") + 900, emergency))
    parts.append(_cancelled(base, rng, events))
    messages = pl.concat(parts).filter(pl.col("at") < end).sort("at", "visit", "event_type")
    n = messages.height
    messages = messages.with_columns(
        message_id=pl.format("M{}", pl.int_range(n, eager=True).cast(pl.String).str.zfill(9)),
        recorded=pl.col("at") + pl.Series(rng.integers(1, 120, n)),
        prior_patient_id=none,
    ).with_columns(
        event_at=clock_text("at", "hospital", ISO_CLOCK), visit_start_at=clock_text("arrival", "hospital", ISO_CLOCK)
    )
    messages = dirt.clean_frame(messages)
    alter = None
    if not clean:
        messages = _spoiled_events(messages, rng)
        alter = feeds.dirty_json_files(landed, "adt_events", window, rng)
    local = pl.from_epoch("recorded", time_unit="s").dt.replace_time_zone("UTC").dt.convert_time_zone(_NETWORK_ZONE)
    messages = messages.with_columns(
        recorded_at=clock_text("recorded", "hospital", ISO_CLOCK),
        _day=local.dt.date().cast(pl.Int32).cast(pl.Int64).clip(window[0], window[-1]),
        _part=local.dt.hour() // 6,
    )
    messages = messages.with_columns(
        _text=pl.struct(
            "message_id",
            "event_type",
            "visit_id",
            "patient_id",
            "prior_patient_id",
            "hospital_id",
            "department",
            "bed_id",
            "event_at",
            "visit_start_at",
            "recorded_at",
            "discharge_disposition",
        ).struct.json_encode()
    )
    if not clean:
        messages = dirt.late(messages, 0.005, "late_message", 4, window[-1], rng)
        messages = dirt.repeated(messages, 0.005, "duplicate_message", window[-1], rng)
    messages = messages.sort("_day", "_part", "recorded", "message_id", maintain_order=True)
    keep = ["_text", "_day", "_part", "recorded", "message_id", *dirt.DIRT_COLUMNS]
    landed.json_feed("adt_events", messages.select(keep), "message_id", alter)
    return n


def _cancelled(base: pl.DataFrame, rng: np.random.Generator, events: object) -> pl.DataFrame:
    """Registrations made by mistake: an A04 and its A11; no visit follows."""
    assert callable(events)  # noqa: S101
    wrong = base.filter(pl.Series(rng.random(base.height) < 0.003)).with_columns(
        visit_id=pl.format("X{}", pl.col("visit").cast(pl.String).str.zfill(8)), arrival=pl.col("arrival") + 120
    )
    emergency = pl.lit("Emergency")
    registered: pl.DataFrame = events(wrong, "A04", pl.col("arrival"), emergency)
    cancelled: pl.DataFrame = events(wrong, "A11", pl.col("arrival") + 600, emergency)
    return pl.concat([registered, cancelled])


def _spoiled_events(messages: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Discharges before their visit (a corrected one follows) and unknown trigger events."""
    hit = dirt.choose(messages, 0.001, rng, among=pl.col("event_type") == "A03")
    wrong = (
        messages.filter(pl.Series(hit))
        .with_columns(
            message_id=pl.concat_str("message_id", pl.lit("E")),
            recorded=pl.col("recorded") - 1,
            _true=pl.col("event_at"),
            before=pl.col("arrival") - 3600,
            _kind=pl.lit("discharge_before_start"),
            _column=pl.lit("event_at"),
            _expected=pl.lit("quarantine"),
        )
        .with_columns(event_at=clock_text("before", "hospital", ISO_CLOCK))
        .drop("before")
    )
    wrong = wrong.with_columns(_landed=pl.col("event_at"))
    messages = pl.concat([messages, wrong])
    odd = dirt.choose(messages, 0.01, rng, among=pl.col("event_type") == "A08")
    return dirt.mark(
        messages.with_columns(event_type=pl.when(pl.Series(odd)).then(pl.lit("A99")).otherwise("event_type")),
        odd,
        "unknown_event_type",
        "quarantine",
    )


def _write_codes(landed: feeds.Landed, rng: object, visits: pl.DataFrame, window: range, end: int, clean: bool) -> None:
    """Diagnoses and procedures, coded the day after the visit."""
    assert callable(rng)  # noqa: S101
    who = visits.select("visit", "visit_id", "patient_id", "hospital", "hospital_id", "arrival", "left_ed")
    for subject, frame, code, columns in (
        (
            "diagnoses",
            clinical.diagnoses(rng(), visits),
            "icd10_code",
            (
                "diagnosis_id",
                "visit_id",
                "patient_id",
                "hospital_id",
                "encounter_date",
                "sequence",
                "icd10_code",
                "description",
                "recorded_at",
            ),
        ),
        (
            "procedures",
            clinical.procedures(rng(), visits),
            "procedure_code",
            (
                "procedure_id",
                "visit_id",
                "patient_id",
                "hospital_id",
                "encounter_date",
                "performed_at",
                "procedure_code",
                "description",
                "recorded_at",
            ),
        ),
    ):
        rows = frame.join(who, on="visit", how="left", maintain_order="left")
        rows = rows.filter(pl.col("left_ed") + 7200 < end).with_columns(
            recorded=pl.col("left_ed") + 7200,
            encounter_date=clock_text("arrival", "hospital", "%Y-%m-%d"),
            description=pl.col("title"),
        )
        number = pl.int_range(rows.height, eager=True).cast(pl.String).str.zfill(9)
        extra: dict[str, pl.Expr] = (
            {"sequence": pl.col("sequence").cast(pl.String), "diagnosis_id": pl.format("X{}", number)}
            if code == "icd10_code"
            else {
                "performed_at": clock_text("performed", "hospital", CSV_CLOCK),
                "procedure_id": pl.format("R{}", number),
            }
        )
        rows = rows.with_columns(
            recorded_at=clock_text("recorded", "hospital", CSV_CLOCK),
            _day=feeds.local_day("recorded", "hospital").clip(window[0], window[-1]),
            **extra,
        )
        rows = dirt.clean_frame(rows)
        generator = rng()
        alter = None if clean else feeds.dirty_files(landed, subject, window, columns, generator)
        landed.csv_feed(subject, rows, columns, columns[0], alter)


__all__ = ["DEPARTMENTS", "SimulationSummary", "simulate"]
