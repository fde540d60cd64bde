"""How an installation stands, as Prometheus metrics: the one list of them, and how each is read.

Read without the warehouse: from the ledger's copy, the live copies, the gathered quality, Dagster's database and the
outbox, all of which can be read while a run writes. So nobody waits for a scrape, and a scrape for nobody. What cannot
be read is missing and said (`hospital_part_readable`); the rest is there.

Belongs here: what is measured. Does not: who may read it (`access.monitoring`), what to alert on (`monitoring`).
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import polars as pl

from hospital_assets.files import free_bytes, read_state
from hospital_assets.operations import WAREHOUSE_COMMANDS
from hospital_assets.operations.ports import command_line
from hospital_assets.settings import Settings, SettingsError

if TYPE_CHECKING:
    from prometheus_client import Metric as Family

_LOG = logging.getLogger("hospital.metrics")

#: Seconds, from a page that is remembered to a query that takes its time.
_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
#: Who asks again sooner gets the same answer.
_KEPT_SECONDS = 5.0
#: Counts of alerts are stated in tens, rounded up: one alert is about one patient.
_ALERTS_IN = 10
#: Landed files that no run has seen yet, besides the states of the ledger.
NEW = "new"

Kind = Literal["gauge", "histogram"]


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        name: with its unit, as Prometheus names metrics.
        part: what it is read from; where that cannot be read, it is missing.
        labels: each with few values: subjects, states, hospitals; never a person, a path or an identifier.
        kind: as Prometheus has it.
    """

    name: str
    part: str
    help: str
    labels: tuple[str, ...] = ()
    kind: Kind = "gauge"


METRICS = (
    Metric("hospital_info", "program", "The installed version; always 1.", ("version",)),
    Metric("hospital_collected_timestamp_seconds", "program", "When these figures were collected."),
    Metric("hospital_collect_duration_seconds", "program", "How long collecting them took."),
    Metric(
        "hospital_part_readable", "program", "Whether a part could be read; at 0 its metrics are missing.", ("part",)
    ),
    Metric("hospital_runs", "runs", "Dagster's runs in its history.", ("status",)),
    Metric("hospital_run_success_timestamp_seconds", "runs", "When a job's newest success ended.", ("dagster_job",)),
    Metric("hospital_run_failure_timestamp_seconds", "runs", "When a job's newest failure ended.", ("dagster_job",)),
    Metric("hospital_daemon_heartbeat_timestamp_seconds", "runs", "The newest sign of life of Dagster's daemon."),
    Metric("hospital_watching", "presence", "Whether `hospital watch` is at work."),
    Metric("hospital_feed_landed_timestamp_seconds", "files", "When a subject's newest file landed.", ("subject",)),
    Metric(
        "hospital_feed_loaded_timestamp_seconds", "files", "When a subject's newest loaded file landed.", ("subject",)
    ),
    Metric(
        "hospital_feed_waiting_timestamp_seconds",
        "files",
        "When the oldest file of a subject landed that waits to be loaded; missing where none does.",
        ("subject",),
    ),
    Metric(
        "hospital_landed_files",
        "files",
        "Landed files of a subject by what became of them; new: no run has seen them yet.",
        ("subject", "state"),
    ),
    Metric("hospital_loaded_files", "files", "Files of a subject whose records are stored.", ("subject",)),
    Metric("hospital_waiting_files", "files", "Files of a subject that wait to be loaded.", ("subject",)),
    Metric("hospital_quarantined_records", "quarantine", "Records in quarantine, copies left out.", ("subject",)),
    Metric("hospital_duplicate_records", "quarantine", "Records that are copies of others.", ("subject",)),
    Metric("hospital_checks", "checks", "Single checks, each as last evaluated.", ("severity", "status")),
    Metric("hospital_checks_timestamp_seconds", "checks", "When the results of the checks were last gathered."),
    Metric("hospital_alerts_open", "alerts", "Open alerts, in tens, rounded up.", ("severity",)),
    Metric("hospital_alert_messages", "alerts", "Messages about alerts, in tens, rounded up.", ("state",)),
    Metric(
        "hospital_alert_message_waiting_timestamp_seconds",
        "alerts",
        "When the oldest message that waits, and was not silenced, was queued; missing where none does.",
    ),
    Metric(
        "hospital_forecast_mase_ratio",
        "forecasts",
        "Error over that of the same slot a week before, in the newest month, by the method that shipped most.",
        ("target", "hospital"),
    ),
    Metric(
        "hospital_forecast_coverage_ratio",
        "forecasts",
        "Share within the middle 80 % of the forecasts, in the newest month, by the method that shipped most.",
        ("target", "hospital"),
    ),
    Metric("hospital_publications", "publications", "Audiences that have a publication."),
    Metric("hospital_publication_timestamp_seconds", "publications", "When the oldest of their publications was made."),
    Metric("hospital_disk_free_bytes", "storage", "Free space where the data directory lies."),
    Metric("hospital_warehouse_size_bytes", "storage", "Size of the warehouse with its log of the last writes."),
    Metric("hospital_warehouse_held", "storage", "Which command has the warehouse; missing where none has.", ("by",)),
    Metric(
        "hospital_warehouse_held_timestamp_seconds",
        "storage",
        "Since when the warehouse is held; missing where it is not.",
    ),
    Metric("hospital_warehouse_waited_for", "storage", "Whether a process waits for another to leave the warehouse."),
    Metric("hospital_snapshot_timestamp_seconds", "snapshots", "When the newest snapshot of the warehouse was taken."),
    Metric("hospital_backups", "backups", "Backups in the folder that the settings name."),
    Metric("hospital_backup_timestamp_seconds", "backups", "When the newest backup was begun."),
    Metric("hospital_backup_size_bytes", "backups", "Size of the newest backup with all that it shares with others."),
    Metric("hospital_backup_encrypted", "backups", "Whether a secret key is needed to read the newest backup."),
    Metric(
        "hospital_backup_verified_timestamp_seconds",
        "backups",
        "When a backup was last found whole, by its digests or by opening it; 0: never.",
        ("depth",),
    ),
    Metric("hospital_backups_damaged", "backups", "Backups that were not whole when they were last verified."),
    Metric("hospital_certificate_expiry_timestamp_seconds", "certificates", "When the first of the certificates ends."),
    Metric(
        "hospital_request_duration_seconds",
        "requests",
        "Time until the answer to a request began; of this process.",
        ("page", "status"),
        "histogram",
    ),
)

_BY_NAME = {metric.name: metric for metric in METRICS}


@dataclass(frozen=True)
class Value:
    """A value of a metric.

    Attributes:
        labels: of the metric, in its order.
    """

    metric: str
    value: float
    labels: tuple[str, ...] = ()


# --- reading: one function for each part


def _runs(settings: Settings) -> Iterator[Value]:
    from hospital_assets.automation.history import read_history

    history = read_history(settings)
    for status, count in history.runs.items():
        yield Value("hospital_runs", count, (status,))
    for (job, status), at in history.ended.items():
        yield Value(f"hospital_run_{status}_timestamp_seconds", at.timestamp(), (job,))
    if history.heartbeat is not None:
        yield Value("hospital_daemon_heartbeat_timestamp_seconds", history.heartbeat.timestamp())


def _presence(settings: Settings) -> Iterator[Value]:
    from hospital_assets.automation.presence import is_watched

    yield Value("hospital_watching", is_watched(settings))


def _files(settings: Settings) -> Iterator[Value]:
    """The ledger as last stored, and what lies in the landing folder and is not in it."""
    from hospital_assets.landing.listing import listed
    from hospital_assets.landing.profile import UNRECOGNISED
    from hospital_assets.landing.registry import load_profiles
    from hospital_assets.landing.waiting import waiting_files
    from hospital_assets.partitions import latest_day
    from hospital_assets.warehouse.loads import ledger_copy

    ledger = _parquet(ledger_copy(settings.warehouse_file), _LEDGER)
    found = listed(settings.landing, settings.limits)
    landed, loaded = Counter[tuple[str, str]](), Counter[str]()
    newest: dict[str, dict[str, float]] = {"landed": {}, "loaded": {}}
    # Subject and when it landed, of each file that waits.
    waiting: list[tuple[str, float]] = []
    if ledger is not None:
        found = found.join(ledger, on=["source_file", "file_bytes", "file_modified_ns"], how="anti")
        for subject, state, is_loaded, count, last in (
            ledger.group_by("subject", "state", "is_loaded")
            .agg(pl.len(), pl.col("first_seen_at").max().alias("last"))
            .iter_rows()
        ):
            landed[subject, state] += count
            _keep(newest["landed"], subject, last.timestamp())
            if is_loaded:
                loaded[subject] += count
                _keep(newest["loaded"], subject, last.timestamp())
        last_day = settings.last_service_date or latest_day(datetime.now(UTC))
        subjects = ledger["subject"].unique().to_list()
        left = waiting_files(ledger, ledger, subjects, last_day, is_open_ended=settings.last_service_date is None)
        waiting += [(subject, file.since_ns / 1e9) for file in left for subject in file.subjects]
    profiles = load_profiles(settings.profiles_folder) if found.height else {}
    for source_file, modified_ns in found.select("source_file", "file_modified_ns").iter_rows():
        folder, _, inside = source_file.partition("/")
        feeds = profiles[folder].feeds(inside) if folder in profiles else []
        for subject in {feed.subject for feed in feeds} or {UNRECOGNISED}:
            landed[subject, NEW] += 1
            _keep(newest["landed"], subject, modified_ns / 1e9)
            waiting.append((subject, modified_ns / 1e9))
    waits = Counter(subject for subject, _ in waiting)
    for (subject, state), count in landed.items():
        yield Value("hospital_landed_files", count, (subject, state))
    for subject in {subject for subject, _ in landed}:
        yield Value("hospital_loaded_files", loaded[subject], (subject,))
        yield Value("hospital_waiting_files", waits[subject], (subject,))
    for what, moments in newest.items():
        for subject, at in moments.items():
            yield Value(f"hospital_feed_{what}_timestamp_seconds", at, (subject,))
    for subject in waits:
        oldest = min(at for of, at in waiting if of == subject)
        yield Value("hospital_feed_waiting_timestamp_seconds", oldest, (subject,))


#: Columns of the ledger's copy that are needed: what a file is, and whether it waits.
_LEDGER = [
    *("source_file", "file_bytes", "file_modified_ns", "source_profile", "subject", "file_sha256", "state"),
    *("first_seen_at", "service_dates", "is_loaded", "loaded_dates", "loaded_row_count", "row_count", "outdated_dates"),
]


def _keep(known: dict[str, float], subject: str, at: float) -> None:
    known[subject] = max(at, known.get(subject, at))


def _quarantine(settings: Settings) -> Iterator[Value]:
    copy = _copy(settings, "quarantined", "subject", "records", "duplicates")
    for subject, records, duplicates in () if copy is None else copy.iter_rows():
        yield Value("hospital_quarantined_records", records, (subject,))
        yield Value("hospital_duplicate_records", duplicates, (subject,))


def _checks(settings: Settings) -> Iterator[Value]:
    try:
        gathered = read_state(settings.gathered_quality, "run `hospital report quality`")
        at = settings.gathered_quality.stat().st_mtime
    except FileNotFoundError:
        return
    if "checks" not in gathered:
        return  # gathered by an older version
    counts = {(row["severity"], row["status"]): row["checks"] for row in gathered["checks"]}
    for severity in ("ERROR", "WARN"):
        for status in ("Passed", "Failed", "Error", "NotApplicable"):
            labels = (severity.lower(), status.lower())
            yield Value("hospital_checks", counts.get((severity, status), 0), labels)
    yield Value("hospital_checks_timestamp_seconds", at)


def _alerts(settings: Settings) -> Iterator[Value]:
    from hospital_assets.alerts.outbox import standing
    from hospital_assets.alerts.settings import SEVERITIES

    found = standing(settings)
    for severity in SEVERITIES:
        yield Value("hospital_alerts_open", _in_tens(found.open.get(severity, 0)), (severity,))
    for state in ("sent", "waiting", "given_up"):
        yield Value("hospital_alert_messages", _in_tens(found.messages.get(state, 0)), (state,))
    if found.waits_since is not None:
        yield Value("hospital_alert_message_waiting_timestamp_seconds", found.waits_since.timestamp())


def _in_tens(count: int) -> int:
    return -(-count // _ALERTS_IN) * _ALERTS_IN


def _forecasts(settings: Settings) -> Iterator[Value]:
    copy = _copy(settings, "forecast_accuracy", "target", "hospital_id", "mase", "inside_80_pct")
    for target, hospital, mase, inside in () if copy is None else copy.iter_rows():
        if mase is not None:
            yield Value("hospital_forecast_mase_ratio", mase, (target, hospital))
        if inside is not None:
            yield Value("hospital_forecast_coverage_ratio", inside / 100, (target, hospital))


def _publications(settings: Settings) -> Iterator[Value]:
    from hospital_assets.publishing.publications import publication_moments

    moments = publication_moments(settings.data_dir)
    yield Value("hospital_publications", len(moments))
    if moments:
        yield Value("hospital_publication_timestamp_seconds", min(moments).timestamp())


def _storage(settings: Settings) -> Iterator[Value]:
    from hospital_assets.warehouse.database import held_since, is_waited_for

    file = settings.warehouse_file
    yield Value("hospital_disk_free_bytes", free_bytes(settings.data_dir))
    sizes = [path.stat().st_size for path in (file, file.with_name(f"{file.name}.wal")) if path.exists()]
    yield Value("hospital_warehouse_size_bytes", sum(sizes))
    held = held_since(file)
    if held is not None:
        yield Value("hospital_warehouse_held", 1, (_command_of(held[0]),))
        yield Value("hospital_warehouse_held_timestamp_seconds", held[1].timestamp())
    yield Value("hospital_warehouse_waited_for", is_waited_for(file))


#: Commands that may have the warehouse, besides Dagster's runs; others are `other`.
_HOLDERS = (*WAREHOUSE_COMMANDS, "backup", "upgrade")


def _command_of(process: int) -> str:
    """What a process is, of the commands that are known; its arguments are looked at, not shown."""
    words = command_line(process)
    if "dagster" in words or any(word.rpartition("/")[2].startswith("dagster") for word in words[:2]):
        return "dagster"
    return next((word for word in words[1:] if word in _HOLDERS), "other")


def _snapshots(settings: Settings) -> Iterator[Value]:
    from hospital_assets.recovery.snapshots import snapshots

    if kept := snapshots(settings):
        yield Value("hospital_snapshot_timestamp_seconds", kept[-1].taken_at.timestamp())


def _backups(settings: Settings) -> Iterator[Value]:
    from hospital_assets.recovery.backup import standing

    if not settings.backup.folder:
        return
    found = standing(Path(settings.backup.folder))
    yield Value("hospital_backups", found.count)
    yield Value("hospital_backups_damaged", found.damaged)
    if found.newest is not None:
        yield Value("hospital_backup_timestamp_seconds", found.newest.taken_at.timestamp())
        yield Value("hospital_backup_size_bytes", found.newest.size)
        yield Value("hospital_backup_encrypted", found.newest.is_encrypted)
        for depth, at in found.verified.items():
            yield Value("hospital_backup_verified_timestamp_seconds", at.timestamp() if at else 0, (depth,))


def _copy(settings: Settings, name: str, *columns: str) -> pl.DataFrame | None:
    from hospital_assets.live.copies import copy_file

    return _parquet(copy_file(settings.warehouse_file, name), list(columns))


def _parquet(file: Path, columns: list[str]) -> pl.DataFrame | None:
    """Columns of a file of ours next to the warehouse; None before it was first written."""
    from hospital_assets.warehouse.loads import read_at_once

    try:
        return read_at_once(file, columns)
    except FileNotFoundError:
        return None


_PARTS: Mapping[str, Callable[[Settings], Iterator[Value]]] = {
    "runs": _runs,
    "presence": _presence,
    "files": _files,
    "quarantine": _quarantine,
    "checks": _checks,
    "alerts": _alerts,
    "forecasts": _forecasts,
    "publications": _publications,
    "storage": _storage,
    "snapshots": _snapshots,
    "backups": _backups,
}


def collect(settings: Settings, certificates: tuple[Path, ...] = ()) -> Iterator[Value]:
    """How a data directory stands now; what cannot be read is left out, said and logged."""

    def of_certificates(_: Settings) -> Iterator[Value]:
        ends = [_certificate_end(file, file.stat().st_mtime_ns) for file in certificates]
        if ends:
            yield Value("hospital_certificate_expiry_timestamp_seconds", min(ends).timestamp())

    started = time.monotonic()
    yield Value("hospital_info", 1, (version("hospital-assets"),))
    for part, read in {**_PARTS, "certificates": of_certificates}.items():
        try:
            values, is_readable = list(read(settings)), True
        except Exception as error:
            # Its text could hold a value of what was read.
            _LOG.warning("metrics of %s cannot be read: %s", part, type(error).__name__)
            values, is_readable = [], False
        yield Value("hospital_part_readable", is_readable, (part,))
        yield from values
    yield Value("hospital_collected_timestamp_seconds", datetime.now(UTC).timestamp())
    yield Value("hospital_collect_duration_seconds", time.monotonic() - started)


@functools.lru_cache(maxsize=8)
def _certificate_end(file: Path, _: int) -> datetime:
    from hospital_assets.operations.doctor import certificate_end

    return certificate_end(file)


# --- writing


def is_installed() -> bool:
    """Whether the extra `metrics` is."""
    return find_spec("prometheus_client") is not None


class Exposition:
    """The metrics of a data directory as text, with the durations that this process has observed."""

    def __init__(self, settings: Settings, certificates: tuple[Path, ...] = ()) -> None:
        """Prepare; nothing is read yet.

        Raises:
            SettingsError: the extra `metrics` is not installed.
        """
        if not is_installed():
            raise SettingsError("metrics need prometheus-client: pip install 'hospital-assets[metrics]'")
        from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics

        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._settings, self._certificates = settings, certificates
        self._registry = CollectorRegistry()
        self._registry.register(self)
        metric = _BY_NAME["hospital_request_duration_seconds"]
        self._durations = Histogram(metric.name, metric.help, metric.labels, buckets=_BUCKETS, registry=self._registry)
        self._lock = threading.Lock()
        self._made: tuple[float, bytes] | None = None

    def observe(self, page: str, status: str, seconds: float) -> None:
        """Note how long an answer took.

        Args:
            page: which, of few.
            status: the kind of answer: `2xx`.
            seconds: until it began.
        """
        self._durations.labels(page, status).observe(seconds)

    def collect(self) -> Iterator[Family]:
        """Metric families, for the registry."""
        from prometheus_client.core import GaugeMetricFamily

        families: dict[str, Family] = {}
        for value in sorted(collect(self._settings, self._certificates), key=lambda v: (v.metric, v.labels)):
            metric = _BY_NAME[value.metric]
            if metric.name not in families:
                families[metric.name] = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
            families[metric.name].add_metric(value.labels, float(value.value))  # type: ignore[attr-defined]
        yield from families.values()

    def describe(self) -> Iterable[Family]:
        """Nothing: otherwise the registry would read everything to learn the names."""
        return ()

    def text(self, *, kept_seconds: float = _KEPT_SECONDS) -> bytes:
        """All metrics in Prometheus' text format.

        Args:
            kept_seconds: an answer not older than this is given again.
        """
        from prometheus_client import generate_latest

        with self._lock:
            if self._made is None or time.monotonic() - self._made[0] >= kept_seconds:
                self._made = (time.monotonic(), generate_latest(self._registry))
            return self._made[1]
