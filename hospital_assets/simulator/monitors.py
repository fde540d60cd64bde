"""What bedside monitors land: observation sets as JSON lines, six hours a file."""

from __future__ import annotations

import numpy as np
import polars as pl

from hospital_assets.landing.profile import SCORED
from hospital_assets.simulator import dirt, feeds
from hospital_assets.simulator.feeds import ISO_CLOCK, clock_text


def write_vitals(
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
        **feeds.six_hours(window),
    )
    sets = dirt.clean_frame(sets)
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
        *(pl.col(name) for name in SCORED),
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
