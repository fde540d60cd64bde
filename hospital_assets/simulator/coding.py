"""What coders land after a visit: diagnoses and procedures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from hospital_assets.simulator import clinical, dirt, feeds
from hospital_assets.simulator.feeds import CSV_CLOCK, clock_text


def write_diagnoses_and_procedures(
    landed: feeds.Landed,
    rng: Callable[[], np.random.Generator],
    visits: pl.DataFrame,
    window: range,
    end: int,
    clean: bool,
) -> None:
    """Diagnoses and procedures, coded the day after the visit."""
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
