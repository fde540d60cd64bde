"""Dirt: what goes wrong on the way, each kind at its own rate, each spoiled record on record.

The ground truth names the record, the file and line it landed in, what it should have been, and
what the platform is expected to do with it. Rates are shares of records.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

_Value = Callable[[pl.DataFrame, np.random.Generator], pl.Series]


@dataclass(frozen=True)
class Spoil:
    """One kind of record-level dirt.

    Attributes:
        expected: quarantine, correct, flag, duplicate or keep.
        value: the spoiled text, from the frame of chosen records and randomness.
    """

    kind: str
    rate: float
    column: str
    expected: str
    value: _Value


DIRT_COLUMNS = ("_kind", "_column", "_true", "_landed", "_expected")
DEPARTMENT_SPELLINGS = {
    "Emergency": ["ER", "E.R.", "emergency dept.", "EMERGENCY ", "Emergency Room", "ED", "emerg"],
    "Surgery": ["surg.", "General Surgery", "SURGERY", "Surgical"],
    "ICU": ["Intensive Care Unit", "icu", "I.C.U.", "Critical Care"],
    "Pediatrics": ["Paediatrics", "peds", "PEDIATRIC", "Children"],
    "Maternity": ["Labor & Delivery", "L&D", "Obstetrics", "maternity "],
    "Oncology": ["Onc", "ONCOLOGY", "Cancer Center"],
    "Cardiology": ["cardio", "Cardiac", "Heart", "CARDIOLOGY"],
}
_BLOOD_SPELLINGS = {
    "O+": ["O pos", "0+", "O positive"],
    "O-": ["O neg", "0-"],
    "A+": ["A pos", "a+"],
    "A-": ["A neg"],
    "B+": ["B pos"],
    "B-": ["B neg"],
    "AB+": ["AB pos"],
    "AB-": ["AB neg"],
}
_SEX_SPELLINGS = {"male": ["M", "Male ", "m", "MALE"], "female": ["F", "f", "Female", "FEMALE "]}


def _one_of(*values: str) -> _Value:
    return lambda frame, rng: pl.Series(rng.choice(np.array(values), frame.height).tolist(), dtype=pl.String)


def _respelled(column: str, spellings: dict[str, list[str]]) -> _Value:
    def value(frame: pl.DataFrame, rng: np.random.Generator) -> pl.Series:
        draws = rng.random(frame.height)
        return pl.Series(
            [
                spellings[text][int(draw * len(spellings[text]))]
                for text, draw in zip(frame[column], draws, strict=True)
            ],
            dtype=pl.String,
        )

    return value


def _shifted(source: str, low: int, high: int) -> _Value:
    """The wall clock of another column, moved by some minutes."""

    def value(frame: pl.DataFrame, rng: np.random.Generator) -> pl.Series:
        clock = frame[source].str.to_datetime("%Y-%m-%d %H:%M:%S")
        minutes = pl.Series(rng.integers(low, high, frame.height) * 60_000_000).cast(pl.Duration("us"))
        return (clock + minutes).dt.to_string("%Y-%m-%d %H:%M:%S")

    return value


def _years_ahead(column: str) -> _Value:
    def value(frame: pl.DataFrame, rng: np.random.Generator) -> pl.Series:
        year = frame[column].str.slice(0, 4).cast(pl.Int64) + pl.Series(rng.integers(5, 20, frame.height))
        # 29 February exists in few of those years.
        rest = frame[column].str.slice(4).str.replace("^-02-29", "-02-28")
        return year.cast(pl.String) + rest

    return value


def _american(column: str) -> _Value:
    return lambda frame, rng: frame[column].str.to_datetime("%Y-%m-%d %H:%M:%S").dt.to_string("%m/%d/%Y %H:%M:%S")


def _blank(frame: pl.DataFrame, rng: np.random.Generator) -> pl.Series:
    return pl.Series([None] * frame.height, dtype=pl.String)


ER_VISITS = (
    Spoil("missing_arrival", 0.002, "arrival_time", "quarantine", _blank),
    Spoil("future_arrival", 0.001, "arrival_time", "quarantine", _years_ahead("arrival_time")),
    Spoil("reversed_departure", 0.004, "departure_time", "flag", _shifted("arrival_time", -240, -5)),
    Spoil("reversed_provider", 0.002, "provider_time", "flag", _shifted("arrival_time", -30, -2)),
    Spoil("department_spelling", 0.04, "department", "correct", _respelled("department", DEPARTMENT_SPELLINGS)),
    Spoil("unknown_department", 0.0005, "department", "flag", _one_of("Cafeteria", "???", "Ward 13")),
    Spoil("hospital_out_of_range", 0.001, "hospital_id", "quarantine", _one_of("H9", "0", "H17")),
    Spoil("invalid_triage_level", 0.002, "triage_level", "flag", _one_of("0", "7", "ESI ?")),
    Spoil("time_format", 0.003, "arrival_time", "correct", _american("arrival_time")),
)
PATIENTS = (
    Spoil("age_negative", 0.001, "age_years", "flag", _one_of("-5")),
    Spoil("age_over_120", 0.002, "age_years", "flag", _one_of("121", "137", "150", "999")),
    Spoil("birth_date_missing", 0.02, "birth_date", "keep", _blank),
    Spoil("future_birth_date", 0.0005, "birth_date", "flag", _years_ahead("recorded_date")),
    Spoil("sex_spelling", 0.03, "sex", "correct", _respelled("sex", _SEX_SPELLINGS)),
    Spoil("blood_group_spelling", 0.02, "blood_group", "correct", _respelled("blood_group", _BLOOD_SPELLINGS)),
)


def clean_frame(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with empty dirt columns."""
    return frame.with_columns(**{name: pl.lit(None, dtype=pl.String) for name in DIRT_COLUMNS})


def spoil(frame: pl.DataFrame, spoils: tuple[Spoil, ...], rng: np.random.Generator) -> pl.DataFrame:
    """Apply record-level dirt; a record carries at most one kind."""
    for kind in spoils:
        rows = np.flatnonzero(choose(frame, kind.rate, rng, among=pl.col(kind.column).is_not_null()))
        if len(rows) == 0:
            continue
        picked = frame[rows]
        landed = kind.value(picked, rng)
        change = pl.DataFrame({"_row": rows, "_new": landed, "_was": picked[kind.column]})
        frame = (
            frame.with_row_index("_row")
            .with_columns(pl.col("_row").cast(pl.Int64))
            .join(change, on="_row", how="left", maintain_order="left")
            .with_columns(_hit=pl.col("_row").is_in(rows.tolist()))
            .with_columns(
                pl.when("_hit").then("_new").otherwise(kind.column).alias(kind.column),
                pl.when("_hit").then(pl.lit(kind.kind)).otherwise("_kind").alias("_kind"),
                pl.when("_hit").then(pl.lit(kind.column)).otherwise("_column").alias("_column"),
                pl.when("_hit").then("_was").otherwise("_true").alias("_true"),
                pl.when("_hit").then("_new").otherwise("_landed").alias("_landed"),
                pl.when("_hit").then(pl.lit(kind.expected)).otherwise("_expected").alias("_expected"),
            )
            .drop("_row", "_new", "_was", "_hit")
        )
    return frame


def mark(frame: pl.DataFrame, hit: np.ndarray, kind: str, expected: str) -> pl.DataFrame:
    """Record a kind of dirt for rows whose values were changed elsewhere."""
    flag = pl.Series(hit)
    return frame.with_columns(
        _kind=pl.when(flag).then(pl.lit(kind)).otherwise("_kind"),
        _expected=pl.when(flag).then(pl.lit(expected)).otherwise("_expected"),
    )


def choose(frame: pl.DataFrame, rate: float, rng: np.random.Generator, *, among: pl.Expr | None = None) -> np.ndarray:
    """Rows without dirt so far that a kind of the given rate happens to; at least one, so that each can be seen."""
    fits = pl.col("_kind").is_null() & (pl.lit(True) if among is None else among)
    possible = frame.select(p=fits.fill_null(False))["p"].to_numpy()
    chosen = possible & (rng.random(frame.height) < rate)
    if not chosen.any() and possible.any():
        chosen[rng.choice(np.flatnonzero(possible))] = True
    return chosen


def repeated(frame: pl.DataFrame, rate: float, kind: str, last_day: int, rng: np.random.Generator) -> pl.DataFrame:
    """Append copies of some records, landing in the same day's file or one or two days later."""
    hit = choose(frame, rate, rng)
    copies = frame.filter(pl.Series(hit)).with_columns(_kind=pl.lit(kind), _expected=pl.lit("duplicate"))
    delay = pl.Series(rng.integers(0, 3, copies.height))
    copies = copies.with_columns(_day=pl.min_horizontal(pl.col("_day") + delay, pl.lit(last_day)))
    return pl.concat([frame, copies])


def late(
    frame: pl.DataFrame, rate: float, kind: str, most_days: int, last_day: int, rng: np.random.Generator
) -> pl.DataFrame:
    """Let some records land days after they should have."""
    hit = choose(frame, rate, rng)
    delay = pl.Series(np.where(hit, rng.integers(1, most_days + 1, frame.height), 0))
    frame = mark(frame, hit, kind, "keep")
    return frame.with_columns(_day=pl.min_horizontal(pl.col("_day") + delay, pl.lit(last_day)))
