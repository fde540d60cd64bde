"""The four-hour standard: when its clock starts (NHS England ECDS; AIHW NEAT 489630)."""

from __future__ import annotations

import narwhals as nw

from hospital_assets.measures import thresholds


def four_hour_start() -> nw.Expr:
    """Arrival; with an ambulance its handover, at the latest some minutes after arrival.

    A handover before arrival cannot be, and counts as none.
    """
    latest = nw.col("arrival_at").dt.offset_by(f"{thresholds.HANDOVER_GRACE_MINUTES}m")
    handover = nw.col("handover_at")
    return (
        nw.when(nw.col("arrival_mode") == "ambulance")
        .then(nw.min_horizontal(nw.when(handover >= nw.col("arrival_at")).then(handover), latest))
        .otherwise(nw.col("arrival_at"))
    )


def is_within_four_hours() -> nw.Expr:
    """Whether a departure met the standard, by `four_hour_minutes`."""
    return nw.col("four_hour_minutes") <= thresholds.FOUR_HOUR_MINUTES
