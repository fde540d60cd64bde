"""The data of the live board: patients waiting in the emergency departments, in order.

Read from the live copies next to the warehouse (see `live.copies`), which are replaced when a batch is
committed and, before that, when landed files were assessed; so it never waits for a run. NEWS2 and its bands
are those of the facts. How it is shown and pushed is the dashboard's matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl

from hospital_assets.contracts.kpis import ALL
from hospital_assets.live.copies import read_copy
from hospital_assets.measures import news2, thresholds
from hospital_assets.measures.triage import CRITICAL_IN_SHORT, SCALE_IN_USE, is_critical, wait_target
from hospital_assets.measures.waits import wait_start
from hospital_assets.measures.words import span

#: Bands of the RCP: rank, what to do.
_BANDS = {0: "Emergency response", 1: "Urgent review", 2: ""}
#: The band of each response of NEWS2.
_BAND_OF = {"emergency": 0, "urgent": 1, "urgent_ward_review": 1}


@dataclass(frozen=True)
class Waiting:
    """Somebody who waits for a provider.

    Attributes:
        reference: pseudonym of the visit, the same as long as the server runs.
        hospital_id: where.
        department: routed to.
        triage_level: 1 to 5; None before triage.
        triage_name: of the level.
        news2: score; None where it is unknown or does not apply.
        has_red: whether a parameter scores 3.
        is_adult: whether NEWS2 is meant for the patient; None where the age is unknown.
        is_critical: of a critical triage level.
        age_years: on arrival.
        complaint: in words.
        waited_minutes: since the earlier of arrival and triage.
        target_minutes: of the level; None before triage.
        band: 0 emergency, 1 urgent, 2 neither.
    """

    reference: str
    hospital_id: str
    department: str
    triage_level: int | None
    triage_name: str
    news2: int | None
    has_red: bool
    is_adult: bool | None
    is_critical: bool
    age_years: int | None
    complaint: str
    waited_minutes: float
    target_minutes: float | None
    band: int

    @property
    def past_minutes(self) -> float:
        """Minutes past the target; below 0 while there is time."""
        return self.waited_minutes - (self.target_minutes or float("inf"))

    @property
    def action(self) -> str:
        """What to do, in words."""
        if self.band < 2:
            return _BANDS[self.band]
        return f"{self.past_minutes:.0f} min past target" if self.past_minutes > 0 else ""


@dataclass(frozen=True)
class Board:
    """The board at a moment.

    Attributes:
        waiting: who waits, most urgent first.
        left_open: open records older than anybody waits.
        arrivals: arrivals in each of the last six hours, oldest first, of those still known.
        newest_at: when the newest record was written; None without any.
        now: the hospital's time.
    """

    waiting: tuple[Waiting, ...]
    left_open: int
    newest_at: datetime | None
    now: datetime

    def tiles(self) -> list[tuple[str, str, str, str]]:
        """Label, value, unit, style."""
        count = len(self.waiting)

        def how_many(rule: Callable[[Waiting], bool]) -> int:
            return sum(rule(row) for row in self.waiting)

        emergency = how_many(lambda row: row.band == 0)
        urgent = how_many(lambda row: row.band == 1)
        limit = thresholds.CRITICAL_WAIT_MINUTES
        critical = how_many(lambda row: row.is_critical and row.waited_minutes > limit)
        severe = thresholds.NEWS2_EMERGENCY_SCORE
        scores = span(thresholds.NEWS2_URGENT_SCORE, severe - 1)
        late = how_many(lambda row: row.past_minutes > 0)
        longest = max((row.waited_minutes for row in self.waiting), default=0)
        return [
            ("Waiting now", f"{count}", "patients", ""),
            (f"NEWS2 {severe} or more", f"{emergency}", "emergency response", "emergency" if emergency else ""),
            (f"NEWS2 {scores} or single red", f"{urgent}", "urgent review", "urgent" if urgent else ""),
            (f"Level {CRITICAL_IN_SHORT} over {limit} min", f"{critical}", "patients", "emergency" if critical else ""),
            ("Past triage target", f"{late}", "patients", "urgent" if late else ""),
            ("Longest wait", f"{longest:.0f}", "min", ""),
        ]


def read_board(warehouse_file: Path, now: datetime, key: bytes, hospital: str = ALL) -> Board:
    """The waiting patients, from the live copies.

    Landed records that no run has loaded yet replace older ones of the same visit.

    Args:
        warehouse_file: the warehouse; the copies are next to it.
        now: the hospital's time.
        key: makes references from visit numbers.
        hospital: its identifier, or `all`.
    """
    visits, newest_at = _visits(warehouse_file)
    if visits is None or visits.is_empty():
        return Board((), 0, newest_at, now)
    if hospital != ALL:
        visits = visits.filter(pl.col("hospital_id") == hospital)
    is_waiting = (
        pl.col("provider_at").is_null()
        & pl.col("departure_at").is_null()
        & ~pl.col("is_cancelled").fill_null(False)
        & (pl.col("arrival_at") <= now)
    )
    waits = _measured(visits.filter(is_waiting)).with_columns(
        minutes=(pl.lit(now) - pl.col("start_at")).dt.total_seconds() / 60
    )
    recent = waits.filter(pl.col("minutes") <= 60 * thresholds.LONGEST_WAITING_HOURS)
    targets = _targets(warehouse_file)
    rows = sorted(
        (_waiting(row, targets, key) for row in recent.iter_rows(named=True)),
        key=lambda row: (row.band, row.triage_level or 9, -row.past_minutes, -row.waited_minutes),
    )
    return Board(tuple(rows), waits.height - recent.height, newest_at, now)


def _visits(warehouse_file: Path) -> tuple[pl.DataFrame | None, datetime | None]:
    """Open visits of the last commit, overlaid with what has landed since; and how new that is."""
    loaded = read_copy(warehouse_file, "open_visits")
    landed = read_copy(warehouse_file, "landed_visits")
    known = [frame for frame in (loaded, landed) if frame is not None]
    if not known:
        return None, None
    visits = (
        pl.concat(known, how="diagonal_relaxed")
        # Of equally new records the landed one, which is listed last, knows more.
        .sort("recorded_at", maintain_order=True)
        .unique("visit_id", keep="last", maintain_order=True)
    )
    if landed is not None and loaded is not None:
        # What only a run knows (cancellations) holds for whatever landed of the same visit.
        cancelled = loaded.filter("is_cancelled")["visit_id"]
        visits = visits.with_columns(is_cancelled=pl.col("visit_id").is_in(cancelled.to_list()))
    if "is_cancelled" not in visits.columns:
        visits = visits.with_columns(is_cancelled=pl.lit(False))
    scores = [
        frame.select("visit_id", "measured_at", "news2_score", "has_news2_red_parameter")
        for frame in (loaded, read_copy(warehouse_file, "landed_vitals"))
        if frame is not None
    ]
    if not scores:
        visits = visits.with_columns(
            news2_score=pl.lit(None, dtype=pl.Int64), has_news2_red_parameter=pl.lit(None, dtype=pl.Boolean)
        )
    else:
        newest = (
            pl.concat(scores, how="vertical_relaxed")
            .drop_nulls("measured_at")
            .sort("measured_at")
            .unique("visit_id", keep="last")
        )
        visits = visits.drop(["measured_at", "news2_score", "has_news2_red_parameter"], strict=False).join(
            newest, on="visit_id", how="left"
        )
    newest_at = visits["recorded_at"].max()
    return visits, newest_at if isinstance(newest_at, datetime) else None


def _measured(visits: pl.DataFrame) -> pl.DataFrame:
    """Add what the measures say of visits: the start of the wait, NEWS2 where it is meant, its response."""
    # Of an unknown age a score counts: better one look too many.
    is_meant = nw.coalesce(nw.col("is_adult"), nw.lit(True))
    frame = nw.from_native(visits).with_columns(
        start_at=wait_start(), is_critical=is_critical(), is_adult=news2.applies()
    )
    frame = frame.with_columns(
        news2_score=nw.when(is_meant).then(nw.col("news2_score")),
        has_red=nw.coalesce(nw.col("has_news2_red_parameter"), nw.lit(False)) & is_meant,
    )
    return frame.with_columns(response=news2.response(nw.col("news2_score"), nw.col("has_red"))).to_native()


def _targets(warehouse_file: Path) -> dict[int, tuple[str, float]]:
    """Level -> name of the level, and the wait that meets its target."""
    scales = read_copy(warehouse_file, "triage_targets")
    if scales is None:
        return {}
    targets = nw.from_native(scales.filter(pl.col("scale") == SCALE_IN_USE)).with_columns(target=wait_target())
    return {row["level"]: (row["level_name"], row["target"]) for row in targets.iter_rows(named=True)}


def _waiting(row: dict[str, Any], targets: dict[int, tuple[str, float]], key: bytes) -> Waiting:
    level = row["triage_level"]
    name, target = targets.get(level, ("Not triaged", None))
    return Waiting(
        reference=reference_of(row["visit_id"], key),
        hospital_id=row["hospital_id"],
        department=row["department_name"] or "Unknown",
        triage_level=level,
        triage_name=name,
        news2=row["news2_score"],
        has_red=row["has_red"],
        is_adult=row["is_adult"],
        is_critical=row["is_critical"],
        age_years=row["age_years"],
        complaint=row.get("chief_complaint") or "",
        waited_minutes=max(row["minutes"], 0.0),
        target_minutes=target,
        band=_BAND_OF.get(row["response"], 2),
    )


def reference_of(visit_id: str, key: bytes) -> str:
    """A short name of a visit that says nothing about it."""
    digest = hashlib.blake2s(visit_id.encode(), key=key, digest_size=4).digest()
    return f"V{int.from_bytes(digest) % 1_000_000:06d}"
