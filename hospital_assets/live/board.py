"""The data of the live board: everybody in the emergency departments, the most urgent first.

Read from the live copies next to the warehouse (see `live.copies`), which are replaced when a batch is
committed and, before that, when landed files were assessed; so it never waits for a run. NEWS2 and its bands
are those of the facts. How it is shown and pushed is the dashboard's matter.
"""

from __future__ import annotations

import hashlib
from base64 import b32encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

import narwhals as nw
import polars as pl

from hospital_assets.contracts.kpis import ALL
from hospital_assets.live.arrivals import Hour, hours_around
from hospital_assets.live.copies import read_copy, read_landed_visits
from hospital_assets.measures import news2, thresholds
from hospital_assets.measures.triage import CRITICAL_IN_SHORT, CRITICAL_LEVELS, SCALE_IN_USE, is_critical, wait_target
from hospital_assets.measures.waits import waiting_since
from hospital_assets.measures.words import span

Status = Literal["waiting", "in treatment", "boarding"]
#: In the order of the board: who waits has nobody yet.
STATUSES: tuple[Status, ...] = ("waiting", "in treatment", "boarding")
#: Bands of the RCP: rank, what to do.
_BANDS = {0: "Emergency response", 1: "Urgent review", 2: ""}
#: The band of each response of NEWS2.
_BAND_OF = {"emergency": 0, "urgent": 1, "urgent_ward_review": 1}
#: Of how many patients a tile names the references.
_MOST_NAMED = 3
#: Records this old in minutes are no picture of the department.
_STALE_MINUTES = 30


@dataclass(frozen=True)
class Patient:
    """Somebody in the department.

    Attributes:
        reference: pseudonym of the visit, the same as long as the server runs.
        status: waits for a provider, is in treatment, or waits for a bed elsewhere.
        hospital_name: where, for people.
        department: routed to.
        bed: where the patient lies; empty where no message tells.
        doctor: the first provider; empty where nobody is known.
        triage_level: 1 to 5; None before triage.
        news2: score; None where it is unknown or does not apply.
        news2_change: how much it differs from the score before; None without one.
        has_red: whether a parameter scores 3.
        is_adult: whether NEWS2 is meant for the patient; None where the age is unknown.
        is_critical: of a critical triage level.
        age_years: on arrival.
        arrived_at: by the hospital's own clock.
        waited_minutes: from the earlier of arrival and triage until a provider came, or until now.
        status_minutes: how long this status has lasted.
        target_minutes: of the level; before triage the time in which triage is to happen.
        band: 0 emergency, 1 urgent, 2 neither.
    """

    reference: str
    status: Status
    hospital_id: str
    hospital_name: str
    department: str
    bed: str
    doctor: str
    triage_level: int | None
    triage_name: str
    news2: int | None
    news2_change: int | None
    has_red: bool
    is_adult: bool | None
    is_critical: bool
    age_years: int | None
    complaint: str
    arrived_at: datetime
    waited_minutes: float
    status_minutes: float
    target_minutes: float | None
    band: int

    @property
    def past_minutes(self) -> float:
        """Minutes a waiting patient is past the target; 0 or less while there is time, or none is known."""
        if self.status != "waiting" or self.target_minutes is None:
            return 0.0
        return self.waited_minutes - self.target_minutes

    @property
    def is_untriaged_late(self) -> bool:
        """Whether nobody has triaged the patient in the time in which it is to happen."""
        return self.triage_level is None and self.past_minutes > 0

    @property
    def action(self) -> str:
        """What to do, in words."""
        if self.band < 2:
            return _BANDS[self.band]
        if self.past_minutes <= 0:
            return ""
        return f"{self.past_minutes:.0f} min past " + ("triage time" if self.triage_level is None else "target")

    @property
    def urgency(self) -> tuple[float, ...]:
        """The place on the board, the smallest first.

        Who is not triaged in time can be anybody, also of a critical level.
        """
        level = CRITICAL_LEVELS[-1] if self.is_untriaged_late else self.triage_level or 9
        return (STATUSES.index(self.status), self.band, level, -self.past_minutes, -self.status_minutes)


@dataclass(frozen=True)
class OpenAlert:
    """An alert that is not resolved.

    Attributes:
        summary: what is the matter; names no patient.
        place: where, in words.
        reference: of the patient on the board it is about; empty where it is about none.
        acknowledged_by: who takes care of it; empty for nobody yet.
    """

    alert_id: str
    severity: str
    summary: str
    place: str
    reference: str
    since_minutes: float
    acknowledged_by: str


class Tile(NamedTuple):
    """A figure above the board: what it counts, and the references of whom."""

    label: str
    value: str
    unit: str
    style: str
    of_whom: str


@dataclass(frozen=True)
class Board:
    """The board at a moment.

    Attributes:
        patients: everybody in the department: who waits, most urgent first, then who is in treatment, then who boards.
        left_open: open records older than anybody waits or stays.
        newest_at: when the newest record was written, also of a visit that is over, of several hospitals that of the
            one silent for longest; None without any.
        newest_of: the name of that hospital.
        zone: the one zone of all hospitals shown; UTC where there are several.
        hours: arrivals by the hour around now; none where hospitals of several zones are shown.
    """

    patients: tuple[Patient, ...]
    left_open: int
    newest_at: datetime | None
    now: datetime
    zone: str = "UTC"
    alerts: tuple[OpenAlert, ...] = ()
    hours: tuple[Hour, ...] = ()
    newest_of: str = ""

    @property
    def waiting(self) -> list[Patient]:
        """Who waits for a provider, most urgent first."""
        return [row for row in self.patients if row.status == "waiting"]

    @property
    def newest_minutes(self) -> float | None:
        """How old the newest record is; None without any."""
        return None if self.newest_at is None else (self.now - self.newest_at).total_seconds() / 60

    @property
    def is_stale(self) -> bool:
        """Whether the records are no picture of the present: somebody may be there of whom they say nothing."""
        return self.newest_minutes is None or self.newest_minutes > _STALE_MINUTES

    def local(self, moment: datetime) -> datetime:
        """A moment by the clock of `zone`."""
        return moment.astimezone(ZoneInfo(self.zone))

    def tiles(self) -> list[Tile]:
        """The figures above the board, each with those it counts."""
        severe, limit = thresholds.NEWS2_EMERGENCY_SCORE, thresholds.CRITICAL_WAIT_MINUTES
        scores = span(thresholds.NEWS2_URGENT_SCORE, severe - 1)

        def counted(label: str, rule: Callable[[Patient], bool], unit: str = "patients", style: str = "") -> Tile:
            found = [row for row in self.patients if rule(row)]
            named = ", ".join(row.reference for row in found[:_MOST_NAMED]) if style else ""
            more = f" and {len(found) - _MOST_NAMED} more" if named and len(found) > _MOST_NAMED else ""
            return Tile(label, f"{len(found)}", unit, style if found else "", named + more)

        longest = max(self.waiting, key=lambda row: row.waited_minutes, default=None)
        return [
            counted("Waiting now", lambda row: row.status == "waiting"),
            counted("In treatment", lambda row: row.status == "in treatment"),
            counted("Boarding", lambda row: row.status == "boarding", "wait for a bed"),
            counted(f"NEWS2 {severe} or more", lambda row: row.band == 0, "emergency response", "emergency"),
            counted(f"NEWS2 {scores} or single red", lambda row: row.band == 1, "urgent review", "urgent"),
            counted(
                f"Level {CRITICAL_IN_SHORT} over {limit} min",
                lambda row: row.status == "waiting" and row.is_critical and row.waited_minutes > limit,
                style="emergency",
            ),
            counted(
                f"Not triaged over {thresholds.TRIAGE_MINUTES} min", lambda row: row.is_untriaged_late, style="urgent"
            ),
            counted(
                "Past triage target", lambda row: row.triage_level is not None and row.past_minutes > 0, style="urgent"
            ),
            Tile("Longest wait", "0", "min", "", "")
            if longest is None
            else Tile("Longest wait", f"{longest.waited_minutes:.0f}", "min", "", longest.reference),
        ]


def read_board(
    warehouse_file: Path, now: datetime, key: bytes, hospital: str = ALL, alerts: Sequence[Mapping[str, Any]] = ()
) -> Board:
    """Everybody in the department, from the live copies.

    Landed records that no run has loaded yet replace older ones of the same visit.

    Args:
        warehouse_file: the warehouse; the copies are next to it.
        key: makes references from visit numbers.
        alerts: those of the outbox that are not resolved; of one hospital only its own are on the board.
    """
    visits = _visits(warehouse_file)
    zones = _zones(warehouse_file, hospital)
    zone = next(iter(zones)) if len(zones) == 1 else "UTC"
    hours = hours_around(warehouse_file, now, hospital, zone) if len(zones) == 1 else ()
    if visits is not None and hospital != ALL:
        visits = visits.filter(pl.col("hospital_id") == hospital)
    names = _names(warehouse_file, "hospitals", "hospital_id", "hospital_name")
    silent, newest_at = _newest_record(warehouse_file, now, hospital)
    board = Board((), 0, newest_at, now, zone, hours=hours, newest_of=names.get(silent, silent))
    if visits is None or visits.is_empty():
        return replace(board, alerts=_alerts(alerts, {}, now, hospital))
    is_there = (
        pl.col("departure_at").is_null() & ~pl.col("is_cancelled").fill_null(False) & (pl.col("arrival_at") <= now)
    )
    is_seen = pl.col("provider_at").is_not_null()
    # As in the figures: of a decision that nobody has stated yet, most are to go home.
    boards = (pl.col("decision_at") <= now) & (pl.col("disposition") == "admitted")
    there = _measured(visits.filter(is_there)).with_columns(
        status=pl.when(boards)
        .then(pl.lit("boarding"))
        .when(is_seen)
        .then(pl.lit("in treatment"))
        .otherwise(pl.lit("waiting"))
    )
    there = there.with_columns(
        waited=_minutes(pl.coalesce("provider_at", pl.lit(now)), pl.col("start_at")),
        minutes=_minutes(
            pl.lit(now),
            pl.when(pl.col("status") == "boarding")
            .then("decision_at")
            .when(pl.col("status") == "in treatment")
            .then("provider_at")
            .otherwise("start_at"),
        ),
        stayed=_minutes(pl.lit(now), pl.col("start_at")),
    )
    longest = (
        pl.when(pl.col("status") == "waiting")
        .then(thresholds.LONGEST_WAITING_HOURS)
        .otherwise(thresholds.LONGEST_PRESENCE_HOURS)
    )
    recent = there.filter(pl.col("stayed") <= 60 * longest)
    targets = _targets(warehouse_file)
    doctors = _names(warehouse_file, "doctors", "doctor_id", "full_name")
    rows = sorted(
        (_patient(row, targets, names, doctors, key) for row in recent.iter_rows(named=True)),
        key=lambda row: row.urgency,
    )
    references = {visit: reference_of(visit, key) for visit in recent["visit_id"]}
    return replace(
        board,
        patients=tuple(rows),
        left_open=there.height - recent.height,
        alerts=_alerts(alerts, references, now, hospital),
    )


def hospitals_on_board(warehouse_file: Path) -> dict[str, str]:
    """The hospitals one can choose: identifier -> name."""
    return dict(sorted(_names(warehouse_file, "hospitals", "hospital_id", "hospital_name").items()))


def _alerts(
    alerts: Sequence[Mapping[str, Any]], references: Mapping[str, str], now: datetime, hospital: str
) -> tuple[OpenAlert, ...]:
    """Open alerts of a hospital, the most urgent first; those nobody takes care of before the others."""
    found = [
        OpenAlert(
            row["alert_id"],
            row["severity"],
            row["summary"],
            " ".join(part for part in (row["hospital_id"], row["department_name"]) if part),
            references.get(row["subject"], ""),
            max(0.0, (now - datetime.fromisoformat(row["opened_at"])).total_seconds() / 60),
            row["acknowledged_by"] or "",
        )
        for row in alerts
        if hospital in (ALL, row["hospital_id"])
    ]
    severities = ("critical", "error", "warning")
    return tuple(sorted(found, key=lambda a: (bool(a.acknowledged_by), severities.index(a.severity), -a.since_minutes)))


def _minutes(until: pl.Expr, since: pl.Expr) -> pl.Expr:
    return (until - since).dt.total_seconds() / 60


def _names(warehouse_file: Path, copy: str, key: str, name: str) -> dict[str, str]:
    frame = read_copy(warehouse_file, copy)
    return {} if frame is None else dict(frame.select(key, name).drop_nulls().iter_rows())


def _zones(warehouse_file: Path, hospital: str) -> set[str]:
    frame = read_copy(warehouse_file, "hospitals")
    if frame is None:
        return set()
    return set(frame.filter((pl.col("hospital_id") == hospital) | (hospital == ALL))["time_zone"].drop_nulls())


def _newest_record(warehouse_file: Path, now: datetime, hospital: str) -> tuple[str, datetime | None]:
    """Of the hospitals of a board the one silent for longest, and when its newest record was written."""
    known = [
        frame.select("hospital_id", "recorded_at")
        for name in ("newest_records", "landed_visits")
        if (frame := read_copy(warehouse_file, name)) is not None
    ]
    newest = (
        pl.concat([pl.DataFrame(schema=_RECORD), *known], how="vertical_relaxed")
        .filter((pl.col("hospital_id") == hospital) | (hospital == ALL))
        .filter(pl.col("recorded_at") <= now + timedelta(minutes=_STALE_MINUTES))
        .drop_nulls()
        .group_by("hospital_id")
        .agg(pl.col("recorded_at").max())
        .sort("recorded_at", "hospital_id")
    )
    return newest.row(0) if newest.height else (hospital, None)


def _visits(warehouse_file: Path) -> pl.DataFrame | None:
    """Open visits of the last commit, overlaid with what has landed since; None where there are no copies."""
    loaded = read_copy(warehouse_file, "open_visits")
    landed = read_landed_visits(warehouse_file)
    known = [frame for frame in (loaded, landed) if frame is not None]
    if not known:
        return None
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
    # What the rest of the board needs and older copies or a landed record lack.
    missing = {name: dtype for name, dtype in _KNOWN.items() if name not in visits.columns}
    visits = visits.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in missing.items())
    visits = visits.drop([name for name in (*_SCORE, "previous_news2_score") if name != "visit_id"], strict=False).join(
        _newest_scores(loaded, read_copy(warehouse_file, "landed_vitals")), on="visit_id", how="left"
    )
    stays = read_copy(warehouse_file, "open_stays")
    if stays is not None and "bed_id" in stays.columns:
        beds = stays.select(pl.col("stay_id").alias("visit_id"), "bed_id").unique("visit_id")
        visits = visits.drop("bed_id").join(beds, on="visit_id", how="left")
    return visits


_INSTANT = pl.Datetime("us", "UTC")
_RECORD = {"hospital_id": pl.String(), "recorded_at": _INSTANT}
_KNOWN = {"decision_at": _INSTANT, "disposition": pl.String(), "doctor_id": pl.String(), "bed_id": pl.String()}
_SCORE = {
    "visit_id": pl.String(),
    "measured_at": _INSTANT,
    "news2_score": pl.Int64(),
    "has_news2_red_parameter": pl.Boolean(),
}


def _newest_scores(loaded: pl.DataFrame | None, landed: pl.DataFrame | None) -> pl.DataFrame:
    """The newest NEWS2 of each visit and, as `previous_news2_score`, the one before."""
    known = [frame.select(*_SCORE) for frame in (loaded, landed) if frame is not None]
    if loaded is not None and "previous_measured_at" in loaded.columns:
        previous = loaded.select(
            "visit_id",
            pl.col("previous_measured_at").alias("measured_at"),
            pl.col("previous_news2_score").alias("news2_score"),
            pl.lit(None, pl.Boolean).alias("has_news2_red_parameter"),
        )
        known.insert(0, previous)
    scores = pl.concat([pl.DataFrame(schema=_SCORE), *known], how="vertical_relaxed").drop_nulls("measured_at")
    return (
        # Of equally new ones the landed one, which is listed last, counts.
        scores.unique(["visit_id", "measured_at"], keep="last", maintain_order=True)
        .sort("measured_at", maintain_order=True)
        .with_columns(previous_news2_score=pl.col("news2_score").shift(1).over("visit_id"))
        .unique("visit_id", keep="last", maintain_order=True)
    )


def _measured(visits: pl.DataFrame) -> pl.DataFrame:
    """Add what the measures say of visits: the start of the wait, NEWS2 where it is meant, its response."""
    # Of an unknown age a score counts: better one look too many.
    is_meant = nw.coalesce(nw.col("is_adult"), nw.lit(True))
    frame = nw.from_native(visits).with_columns(
        start_at=waiting_since(), is_critical=is_critical(), is_adult=news2.applies()
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


def _patient(
    row: dict[str, Any],
    targets: dict[int, tuple[str, float]],
    hospitals: Mapping[str, str],
    doctors: Mapping[str, str],
    key: bytes,
) -> Patient:
    level, score, previous = row["triage_level"], row["news2_score"], row["previous_news2_score"]
    name, target = targets.get(level, ("", None)) if level else ("Not triaged", float(thresholds.TRIAGE_MINUTES))
    return Patient(
        reference=reference_of(row["visit_id"], key),
        status=row["status"],
        hospital_id=row["hospital_id"],
        hospital_name=hospitals.get(row["hospital_id"], row["hospital_id"]),
        department=row["department_name"] or "Unknown",
        bed=row["bed_id"] or "",
        doctor=doctors.get(row["doctor_id"], row["doctor_id"] or ""),
        triage_level=level,
        triage_name=name,
        news2=score,
        news2_change=None if score is None or previous is None else score - previous,
        has_red=row["has_red"],
        is_adult=row["is_adult"],
        is_critical=row["is_critical"],
        age_years=row["age_years"],
        complaint=row.get("chief_complaint") or "",
        arrived_at=row["arrival_local"],
        waited_minutes=max(row["waited"], 0.0),
        status_minutes=max(row["minutes"], 0.0),
        target_minutes=target,
        band=_BAND_OF.get(row["response"], 2),
    )


def reference_of(visit_id: str, key: bytes) -> str:
    """A short name of a visit that says nothing about it, to be read aloud: `K7QF-2M6T`, without 0, 1, 8 and 9."""
    # 40 bits: among a thousand patients no two have the same one but once in two million boards.
    name = b32encode(hashlib.blake2s(visit_id.encode(), key=key, digest_size=5).digest()).decode()
    return f"{name[:4]}-{name[4:]}"
