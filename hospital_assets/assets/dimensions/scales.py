"""dim_triage: triage scales and their time targets, as data."""

from __future__ import annotations

import dagster as dg
import polars as pl

from hospital_assets.assets.declare import table
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.dimensions import UNKNOWN_KEY
from hospital_assets.measures.triage import CRITICAL_LEVELS, SCALES, triage_key


@dg.asset(**table("dim_triage"))
def dim_triage() -> pl.DataFrame:
    """Levels 1 to 5 of each scale, and the untriaged."""
    rows = [
        {
            "triage_key": triage_key(scale, level),
            "scale": scale,
            "level": level,
            "level_name": name,
            "target_minutes": float(target),
            "target_pct": None if share is None else float(share),
            "is_critical": level in CRITICAL_LEVELS,
        }
        for scale, levels in SCALES.items()
        for level, (name, target, share) in enumerate(levels, start=1)
    ]
    unknown = {
        "triage_key": UNKNOWN_KEY,
        "scale": "unknown",
        "level": None,
        "level_name": "Untriaged",
        "target_minutes": None,
        "target_pct": None,
        "is_critical": False,
    }
    return pl.DataFrame([unknown, *rows], schema=CONTRACTS["dim_triage"].polars_schema)
