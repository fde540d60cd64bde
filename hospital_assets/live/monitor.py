"""The look: assess what has landed since the last one, see how long people wait, tell who must know.

One function for the long-lived watcher and for Dagster's sensor. What it has assessed stands in the
outbox, so they share the work, and a restart goes on where the last look ended.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl

from hospital_assets.alerts.notifiers import deliver
from hospital_assets.alerts.outbox import Outbox, Signal, VisitState, open_outbox
from hospital_assets.alerts.settings import AlertSettings, load_alert_settings
from hospital_assets.assets.cleaned.rules import layouts_of
from hospital_assets.clock import hospital_now, is_live
from hospital_assets.contracts import PARTITION_COLUMN, RECORD_PLACE
from hospital_assets.landing.content import FAILURES
from hospital_assets.landing.quarantine import label_of
from hospital_assets.landing.registry import Profiles
from hospital_assets.landing.waiting import Waiting
from hospital_assets.landing.zone import LandingResource, LandingZone, look_again
from hospital_assets.live.alert_rules import (
    CRITICAL_VITALS,
    CRITICAL_WAIT,
    FEED_SILENT,
    FILES_UNREADABLE,
    OCCUPANCY,
    OVERSTAY,
    board_visits,
    board_vitals,
    corrected_vitals,
    corrections,
    critical_waits,
    files_waiting,
    full_departments,
    landed_again,
    landed_visits,
    not_lapsed,
    older_perhaps,
    overstays,
    places,
    scored_vitals,
    silent_feeds,
    unreadable_files,
    visit_states,
    vital_signals,
)
from hospital_assets.live.copies import merge_landed, not_over, read_copy, read_landed_visits
from hospital_assets.settings import Settings
from hospital_assets.warehouse.errors import causes_of, heed_interruption
from hospital_assets.warehouse.loads import read_ledger_copy

_LOG = logging.getLogger("hospital.alerts")

#: A landed record this much older than the lookback can still be of a day within it (time zones).
_ZONES = timedelta(days=1)
#: No clock is further behind UTC.
_FARTHEST_WEST = timedelta(hours=12)
#: What fails for a moment, whatever file is read.
_OF_THE_MACHINE = (OSError, MemoryError, duckdb.IOException, duckdb.OutOfMemoryException, sqlite3.Error)
_BY_SYSTEM = "(os error "


@dataclass(frozen=True)
class Look:
    """The findings of one look: files that wait to be loaded, by feed, and how many alerts it has opened."""

    waiting: Mapping[str, list[Waiting]]
    opened: int


@dataclass
class Monitor:
    """Watches over a data directory. Use `open_monitor`."""

    settings: Settings
    alerts: AlertSettings
    landing: LandingResource
    outbox: Outbox
    feeds: Mapping[str, Sequence[str]]

    def look(self, quiet_since_ns: int | None = None, wall: datetime | None = None) -> Look:
        """Assess new files, raise and clear alerts; sends nothing."""
        wall = wall or datetime.now(UTC)
        now = hospital_now(self.settings, wall)
        warehouse_file = Path(self.landing.warehouse.database)
        published = read_ledger_copy(warehouse_file)
        zone = self.landing.without_warehouse()
        with contextlib.closing(zone.connection):
            ledger = look_again(zone, published, self.landing.held_back(), quiet_since_ns)
            waiting = {feed: zone.waiting(ledger, published, subjects) for feed, subjects in self.feeds.items()}
            if not is_live(self.settings, wall):
                return Look(waiting, 0)
            signals, visits, assessed = self._assess(zone, ledger, now)
        since = [file.since_ns for files in waiting.values() for file in files]
        signals += files_waiting(since, self.alerts.waiting_minutes, wall)
        signals += unreadable_files(ledger, wall)
        signals += silent_feeds(self._newest_files(ledger, wall), self.alerts.feed_silence_minutes, wall)
        cooldown = timedelta(minutes=self.alerts.cooldown_minutes)
        opened = self.outbox.record(
            signals,
            now,
            cooldown=cooldown,
            assessed=assessed,
            visits=visits,
            snapshots={FEED_SILENT: wall, FILES_UNREADABLE: wall},
        )
        return Look(waiting, opened + self.see_who_waits(wall))

    def see_who_waits(self, wall: datetime | None = None) -> int:
        """What changes by time alone: waits, overstays, full departments; returns alerts opened."""
        wall = wall or datetime.now(UTC)
        if not is_live(self.settings, wall):
            return 0
        now = hospital_now(self.settings, wall)
        since = now - timedelta(hours=self.alerts.lookback_hours)
        warehouse_file = Path(self.landing.warehouse.database)
        waiting = self.outbox.waiting_visits(since)
        recorded = pl.DataFrame(
            [(visit.visit_id, visit.recorded_at) for visit in waiting],
            schema={"visit_id": pl.String, "recorded_at": pl.Datetime("us", "UTC")},
            orient="row",
        )
        still = set(not_over(recorded, warehouse_file)["visit_id"])
        waiting = [visit for visit in waiting if visit.visit_id in still]
        signals = critical_waits(waiting, now, self.alerts.critical_wait_minutes)
        snapshots = {CRITICAL_WAIT: now}
        stays = read_copy(warehouse_file, "open_stays")
        if stays is not None:
            stays = not_lapsed(stays, now)
            signals += overstays(stays, now, self.alerts.overstay_hours)
            signals += full_departments(stays, now, self.alerts.occupancy_pct)
            snapshots |= {OVERSTAY: now, OCCUPANCY: now}
        return self.outbox.record(
            signals, now, cooldown=timedelta(minutes=self.alerts.cooldown_minutes), snapshots=snapshots
        )

    def note(self, signals: Sequence[Signal]) -> int:
        """Take in what others have found; returns alerts opened."""
        now = hospital_now(self.settings)
        return self.outbox.record(signals, now, cooldown=timedelta(minutes=self.alerts.cooldown_minutes))

    def deliver(self) -> int:
        """Send what is due; returns how many messages arrived."""
        return deliver(self.outbox, self.alerts.notify, self.settings.data_dir)

    def _assess(
        self, zone: LandingZone, ledger: pl.DataFrame, now: datetime
    ) -> tuple[list[Signal], list[VisitState], set[str]]:
        """Signals and visits of files that are news and were not assessed yet, and which of them now are."""
        oldest = (now - timedelta(hours=self.alerts.lookback_hours) - _ZONES).date()
        news = ledger.filter(
            pl.col("subject").is_in(["vitals", "er_visits"]),
            pl.col("state") == "ready",
            pl.col("service_dates").list.max() >= oldest,
        )
        # The same bytes of two sources are of two patients.
        file = pl.format("{}:{}", "source_profile", "file_sha256")
        todo = self.outbox.not_assessed(news.select(file).to_series().to_list())
        if not todo:
            return [], [], set()
        warehouse_file = Path(self.landing.warehouse.database)
        hospitals = read_copy(warehouse_file, "hospitals")
        patients = read_copy(warehouse_file, "patients")
        if hospitals is None or patients is None:
            # Nothing was ever built: without time zones and ages nothing can be assessed.
            return [], [], set()
        since = now - timedelta(hours=self.alerts.lookback_hours)
        new = news.filter(file.is_in(list(todo)))
        try:
            return *self._of_files(zone, ledger, new, hospitals, patients, since), todo
        except FAILURES as error:
            heed_interruption(error)
        # One of them: each by itself (and not while that error is handled: it would count as what led to theirs). What
        # is wrong with a file says the run that loads it; it is not looked at again.
        signals: list[Signal] = []
        visits: list[VisitState] = []
        again: set[str] = set()
        for (name,), rows in new.group_by(file.alias("file"), maintain_order=True):
            try:
                found = self._of_files(zone, ledger, rows, hospitals, patients, since)
            except FAILURES as error:
                heed_interruption(error)
                outcome = "raises no alerts"
                if _is_of_the_moment(error):
                    again.add(str(name))
                    outcome = "is looked at again"
                _LOG.warning("%s %s: %s", label_of(rows["source_file"][0]), outcome, type(error).__name__)
                _LOG.debug("file %s", name, exc_info=error)
                continue
            signals += found[0]
            visits += found[1]
        return signals, visits, todo - again

    def _of_files(
        self,
        zone: LandingZone,
        ledger: pl.DataFrame,
        new: pl.DataFrame,
        hospitals: pl.DataFrame,
        patients: pl.DataFrame,
        since: datetime,
    ) -> tuple[list[Signal], list[VisitState]]:
        """Signals and visits of some files (`new`) of those that have landed."""
        hospital_files = ledger.filter(pl.col("subject") == "hospitals")
        warehouse_file = Path(self.landing.warehouse.database)

        def records(subject: str) -> pl.DataFrame:
            files = new.filter(pl.col("subject") == subject)
            frame = zone.read(subject, pl.concat([hospital_files, files]))
            return frame.collect("polars").to_native()  # type: ignore[no-any-return]

        subjects = set(new["subject"].to_list())
        signals: list[Signal] = []
        visits: list[VisitState] = []
        if "vitals" in subjects:
            landed = records("vitals")
            observed = scored_vitals(landed, hospitals, patients, zone.profiles)
            merge_landed(warehouse_file, "landed_vitals", board_vitals(observed), "visit_id", "measured_at", since)
            loaded = (read_copy(warehouse_file, name) for name in ("open_stays", "open_visits"))
            where = places(*loaded, read_landed_visits(warehouse_file))
            signals = vital_signals(observed, self.alerts, where)
            known = self.outbox.open_subjects(CRITICAL_VITALS)
            late = older_perhaps(observed, signals, known, where, zone.profiles)
            again = landed_again(observed, read_copy(warehouse_file, "landed_sets"), zone.profiles)
            sets = observed.select("observation_id", "measured_at")
            merge_landed(warehouse_file, "landed_sets", sets, "observation_id", "measured_at", since)
            corrected = pl.concat([corrections(landed, zone.profiles), late, again]).unique()
            if not corrected.is_empty():
                versions = zone.read("vitals", pl.concat([hospital_files, _of_who_is_there(ledger, new, since)]))
                stands = corrected_vitals(
                    versions.collect("polars").to_native(),
                    corrected,
                    hospitals,
                    patients,
                    zone.profiles,
                    self.alerts,
                    where,
                )
                merge_landed(warehouse_file, "landed_vitals", stands.board, "visit_id", "measured_at", since)
                signals = [signal for signal in signals if signal.subject not in stands.subjects] + stands.signals
        if "er_visits" in subjects:
            landed = _with_earlier(warehouse_file, records("er_visits"), zone.profiles, (since - _ZONES).date())
            arrived = landed_visits(landed, hospitals, zone.profiles)
            merge_landed(
                warehouse_file, "landed_visits", board_visits(arrived, patients), "visit_id", "recorded_at", since
            )
            visits = visit_states(arrived)
        return signals, visits

    def _newest_files(self, ledger: pl.DataFrame, wall: datetime) -> dict[str, datetime]:
        newest = {}
        # A file says itself when it was modified, by a clock that may be ahead: it landed no later than it was seen.
        modified_at = pl.from_epoch("file_modified_ns", "ns").dt.replace_time_zone("UTC").dt.cast_time_unit("us")
        at = pl.min_horizontal(modified_at, "first_seen_at")
        for feed, subjects in self.feeds.items():
            landed = ledger.filter(pl.col("subject").is_in(list(subjects)), at <= wall).select(at.max()).item()
            if landed is not None:
                newest[feed] = landed
        return newest


def _is_of_the_moment(error: BaseException) -> bool:
    """Whether the machine is at fault (a share that is away, a full disk, memory), and not the file that was read."""
    return any(
        isinstance(cause, _OF_THE_MACHINE)
        # Polars has no class of its own for what the system refuses, but ends with the system's number for it.
        or (isinstance(cause, pl.exceptions.PolarsError) and _BY_SYSTEM in str(cause))
        for cause in causes_of(error)
    )


def _with_earlier(warehouse_file: Path, landed: pl.DataFrame, profiles: Profiles, since: date) -> pl.DataFrame:
    """Landed records of visits, with the earlier ones of those whose source states only what is news."""
    partial = [name for name, layout in layouts_of(profiles, "er_visits") if layout.is_partial]
    news = landed.filter(pl.col("source_profile").is_in(partial)).with_columns(record=pl.lit(None, pl.String))
    if news.is_empty():
        return landed
    kept = merge_landed(warehouse_file, "landed_messages", news, RECORD_PLACE, PARTITION_COLUMN, since)
    whole = (
        pl.concat([landed, kept], how="diagonal_relaxed")
        .unique(RECORD_PLACE, keep="first", maintain_order=True)
        .join(landed.select("source_profile", "visit_id").unique(), on=["source_profile", "visit_id"], how="semi")
    )
    # Numbers are merged and visits move while the patient is there: whose it is now says the newest message of it.
    whose = pl.col("patient_id").sort_by("recorded_at").drop_nulls().last().over("source_profile", "visit_id")
    return whole.with_columns(
        patient_id=pl.when(pl.col("source_profile").is_in(partial)).then(whose).otherwise("patient_id")
    )


def _of_who_is_there(ledger: pl.DataFrame, new: pl.DataFrame, since: datetime) -> pl.DataFrame:
    """The landed vital signs among which is what stands of a patient of the new ones.

    Of all sources, and of the days before and after a correction, too: another set of the patient may be newer, or be
    the newest one that is left.
    """
    is_read = (pl.col("subject") == "vitals") & (pl.col("state") == "ready")
    days: list[date] = new.filter(is_read)["service_dates"].explode().drop_nulls().to_list()
    return ledger.filter(is_read, pl.col("service_dates").list.max() >= min([*days, (since - _FARTHEST_WEST).date()]))


def open_monitor(settings: Settings, landing: LandingResource, feeds: Mapping[str, Sequence[str]]) -> Monitor:
    """A monitor over a data directory; close its outbox when done."""
    alerts = load_alert_settings(settings)
    return Monitor(settings, alerts, landing, open_outbox(settings, alerts), feeds)
