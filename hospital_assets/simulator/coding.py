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
    for subject, frame, own, code in (
        ("diagnoses", clinical.diagnoses(rng(), visits), "sequence", "icd10_code"),
        ("procedures", clinical.procedures(rng(), visits), "performed_at", "procedure_code"),
    ):
        identity, letter = ("diagnosis_id", "X") if subject == "diagnoses" else ("procedure_id", "R")
        rows = frame.join(who, on="visit", how="left", maintain_order="left").filter(pl.col("left_ed") + 7200 < end)
        number = pl.int_range(rows.height, eager=True).cast(pl.String).str.zfill(9)
        rows = rows.with_columns(recorded=pl.col("left_ed") + 7200).with_columns(
            pl.col("sequence").cast(pl.String)
            if own == "sequence"
            else clock_text("performed", "hospital", CSV_CLOCK).alias(own),
            pl.format(f"{letter}{{}}", number).alias(identity),
            encounter_date=clock_text("arrival", "hospital", "%Y-%m-%d"),
            description=pl.col("title"),
            recorded_at=clock_text("recorded", "hospital", CSV_CLOCK),
            _day=feeds.local_day("recorded", "hospital").clip(window[0], window[-1]),
        )
        whose = ("visit_id", "patient_id", "hospital_id", "encounter_date")
        columns = (identity, *whose, own, code, "description", "recorded_at")
        generator = rng()
        alter = None if clean else feeds.dirty_files(landed, subject, window, columns, generator)
        landed.csv_feed(subject, dirt.clean_frame(rows), columns, identity, alter)
