"""What the interface engine lands: ADT messages of every visit, with cancellations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from hospital_assets.landing.profile import canonical_columns
from hospital_assets.simulator import dirt, feeds
from hospital_assets.simulator.feeds import ISO_CLOCK, clock_text

#: What the messages of this network say; classes of patients and parts of visits they do not know.
_COLUMNS = [name for name in canonical_columns("adt_events") if name not in ("patient_class", "part_of_visit_id")]


def write_events(
    landed: feeds.Landed, rng: np.random.Generator, visits: pl.DataFrame, window: range, end: int, clean: bool
) -> int:
    """ADT messages of every visit, with cancellations; all carry the start of their visit."""
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
    admitted = visits.filter(pl.col("ward").is_not_null())
    home = visits.filter(pl.col("ward").is_null())
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
            visits,
            "A04",
            pl.col("arrival"),
            emergency,
            pl.format("{}-EMER-{}", "hospital_id", pl.col("visit") % 60 + 1),
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
        pl.Series(rng.random(admitted.height) < 0.03)
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
    updates = visits.filter(pl.Series(rng.random(visits.height) < 0.02))
    parts.append(events(updates, "A08", pl.col("arrival") + 900, emergency))
    parts.append(_cancelled(visits, rng, events))
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
    messages = messages.with_columns(
        recorded_at=clock_text("recorded", "hospital", ISO_CLOCK), **feeds.six_hours(window)
    )
    messages = messages.with_columns(_text=pl.struct(_COLUMNS).struct.json_encode())
    if not clean:
        messages = dirt.late(messages, 0.005, "late_message", 4, window[-1], rng)
        messages = dirt.repeated(messages, 0.005, "duplicate_message", window[-1], rng)
    messages = messages.sort("_day", "_part", "recorded", "message_id", maintain_order=True)
    keep = ["_text", "_day", "_part", "recorded", "message_id", *dirt.DIRT_COLUMNS]
    landed.json_feed("adt_events", messages.select(keep), "message_id", alter)
    return n


def _cancelled(visits: pl.DataFrame, rng: np.random.Generator, events: Callable[..., pl.DataFrame]) -> pl.DataFrame:
    """Registrations made by mistake: an A04 and its A11; no visit follows."""
    wrong = visits.filter(pl.Series(rng.random(visits.height) < 0.003)).with_columns(
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
