"""The live path: one long-lived process that takes in files as they land.

It does what the sensors' runs do, with the same jobs, loader and ledger, but without waiting for the
daemon's next look or for a process to start: alerts within a second, then the days of a batch in one
DuckDB transaction, reported to Dagster as runless events. While it runs, the sensors leave fresh files to
it. Belongs here: the loop and the batch. What is looked at is `alerts`' matter.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg

from hospital_assets.automation.failures import in_words
from hospital_assets.automation.instance import dagster_instance, scratch_instance
from hospital_assets.automation.loading import (
    Loading,
    Span,
    execute,
    failure_of,
    is_outdated,
    outcome_of,
    over,
    refresh_stale,
    scope_of,
    stale_days,
    wall_clock,
)
from hospital_assets.automation.presence import watch_lock
from hospital_assets.automation.refresh import Outcome, Request
from hospital_assets.automation.sensors import QUIET_SECONDS, failed_checks, quiet_since_ns
from hospital_assets.contracts import CONTRACTS
from hospital_assets.files import version_of
from hospital_assets.landing.content import FAILURES
from hospital_assets.landing.listing import folders
from hospital_assets.landing.profile import FEEDS
from hospital_assets.landing.quarantine import label_of
from hospital_assets.landing.waiting import Waiting
from hospital_assets.landing.zone import LandingResource
from hospital_assets.live.alert_rules import check_signals
from hospital_assets.live.monitor import Monitor, open_monitor
from hospital_assets.logs import is_json
from hospital_assets.partitions import period_start, service_periods
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import WarehouseLockedError, open_warehouse

_LOG = logging.getLogger("hospital.watch")

#: Files that land together are one batch.
_DEBOUNCE_MS = 50
#: How often to see who waits, when nothing lands.
_TICK_MS = 1000
#: How often to look although the system tells of no change: it tells nothing of what other machines write to a share.
_LOOK_SECONDS = 30.0
#: Between two looks, however long one takes: alerts come with them.
_MOST_REST_SECONDS = 1.0
#: A run may have the warehouse; then the batch is tried again at the next tick.
_WAIT_SECONDS = 0.2
#: After a failure: what was wrong for a moment must not condemn a file.
_PAUSE_SECONDS = 10.0


class BatchError(ValueError):
    """A batch could not be loaded; nothing of it is stored.

    Attributes:
        outcome: what that says about the files of the request that failed.
        run_key: that request's; None where all of them are concerned.
    """

    def __init__(self, message: str, outcome: Outcome = "failed") -> None:
        super().__init__(message)
        self.outcome: Outcome = outcome
        self.run_key: str | None = None


@dataclass
class Batch:
    """What a batch has stored, to be reported to Dagster.

    Attributes:
        over: the checks of each job that ran over days, and these.
    """

    days: list[date]
    files: int
    materializations: list[dg.AssetMaterialization] = field(default_factory=list)
    checks: list[dg.AssetCheckEvaluation] = field(default_factory=list)
    over: list[tuple[Span, list[dg.AssetCheckEvaluation]]] = field(default_factory=list)
    seconds: float = 0.0


def watch(
    definitions: dg.Definitions, settings: Settings, stop: threading.Event, say: Callable[[str], None] = lambda _: None
) -> None:
    """Load files as they land, until `stop` is set or `hospital.toml` changes.

    Raises:
        BatchError: another process watches this directory already.
    """
    landing = (definitions.resources or {})["landing"]
    assert isinstance(landing, LandingResource)  # noqa: S101  (build_definitions puts it there)
    settings.landing.mkdir(parents=True, exist_ok=True)
    began_with = version_of(settings.settings_file)
    with contextlib.ExitStack() as stack:
        if not stack.enter_context(watch_lock(settings)):
            raise BatchError("another process watches this data directory already")
        instance = stack.enter_context(dagster_instance(settings))
        monitor = open_monitor(settings, landing, FEEDS)
        stack.callback(monitor.outbox.close)
        loader = Loader(definitions, settings, instance)
        under_way = settings.warehouse_file.with_name("loading.json")
        intake = Loading(settings, landing, partial(_carry_out, loader, monitor, stop, say), under_way)
        # Loading takes longer than looking, and a receiver may not answer: neither holds up alerts.
        loading = stack.enter_context(ThreadPoolExecutor(1, "loading"))
        sending = stack.enter_context(ThreadPoolExecutor(1, "sending"))
        load: Future[bool] | None = None
        sent: Future[int] | None = None
        has_news = True
        look_at = time.monotonic()
        say(f"watching {settings.landing}")
        for has_changed in _changes(settings.landing, stop):
            if is_outdated(settings, began_with):
                say(f"{settings.settings_file.name} has changed: this watcher ends, and the next one goes by it")
                return
            is_due = time.monotonic() >= look_at
            # What is being loaded is no news until that has ended.
            looks = has_changed or is_due or (has_news and load is None) or intake.resumes(wall_clock())
            began = time.monotonic()
            if has_changed or is_due:
                # A file that somebody may be writing waits for a quiet second, whose end nothing tells of.
                look_at = time.monotonic() + (QUIET_SECONDS if has_changed else _LOOK_SECONDS)
            opened = 0
            try:
                if looks:
                    look = monitor.look(quiet_since_ns=quiet_since_ns())
                    opened = look.opened
                    waiting = [file for files in look.waiting.values() for file in files]
                    has_news = any(file.file_sha256 not in landing.held_back() for file in waiting)
                    if load is None:
                        load = loading.submit(_step, intake, waiting, say)
                else:
                    opened = monitor.see_who_waits()
                if load is not None and load.done():
                    done, load = load, None
                    has_news = done.result() or has_news
                if sent is None or sent.done():
                    done_sending, sent = sent, sending.submit(monitor.deliver)
                    if done_sending is not None:
                        done_sending.result()
            except FAILURES as error:
                # Whatever it is: people rely on the next look.
                words = in_words(error) or ""
                if not words or (is_json() and str(settings.landing) in words):
                    words = f"a look ended in {type(error).__name__}"
                say(f"failed   {words}; it goes on")
                _LOG.debug("a look failed", exc_info=error)
                has_news, look_at = True, time.monotonic()
                stop.wait(_PAUSE_SECONDS)
            if opened:
                say(f"{opened} alerts opened")
            # Who loads what was found has the processor for as long as the look took.
            stop.wait(min(time.monotonic() - began, _MOST_REST_SECONDS))


def _changes(landing: Path, stop: threading.Event) -> Iterator[bool]:
    """Whether anything has changed below the landing folder; at least every second, until stopped.

    Each folder is watched by itself: in a tree that is watched as a whole, links would be followed.
    """
    from watchfiles import watch as changes

    while not stop.is_set():
        watched = set(folders(landing))
        # What has landed before they were watched.
        yield True
        try:
            for found in changes(
                *watched,
                stop_event=stop,
                debounce=_DEBOUNCE_MS,
                step=_DEBOUNCE_MS // 2,
                rust_timeout=_TICK_MS,
                yield_on_timeout=True,
                watch_filter=None,
                raise_interrupt=False,
                recursive=False,
            ):
                yield bool(found)
                paths = [Path(path) for _, path in found]
                if any(path in watched or (path.is_dir() and not path.is_symlink()) for path in paths):
                    break
        except OSError:
            # A folder has gone meanwhile, or the system watches no more of them: looking helps, too.
            stop.wait(_TICK_MS / 1000)


def _step(intake: Loading, waiting: Sequence[Waiting], say: Callable[[str], None]) -> bool:
    """Load what waits; returns whether there is more to do."""
    step = intake.step(waiting, wall_clock())
    # A file's name may hold a patient's: people at a terminal may see it, programs that gather logs may not.
    for words in step.in_words(label_of if is_json() else str):
        say(words)
    return step.is_unfinished


def _carry_out(
    loader: Loader, monitor: Monitor, stop: threading.Event, say: Callable[[str], None], requests: Sequence[Request]
) -> dict[str, Outcome]:
    """Load a batch and say how that ended, for each request: nothing of it is stored where one failed."""
    keys = [request.run_key for request in requests]
    try:
        batch = loader.load(requests)
    except WarehouseLockedError:
        return dict.fromkeys(keys, "stopped")
    except BatchError as error:
        say(f"failed   {error}; its files are tried again")
        stop.wait(_PAUSE_SECONDS)
        failed = {key for key in keys if error.run_key in (None, key)}
        return {key: error.outcome if key in failed else "stopped" for key in keys}
    now = datetime.now(UTC)
    monitor.note(check_signals(batch.checks, now))
    days = f"{batch.days[0]} to {batch.days[-1]}" if batch.days else "no service days"
    say(f"loaded   {batch.files} files, {days}, in {batch.seconds:.1f} s")
    return dict.fromkeys(keys, "succeeded")


class Loader:
    """Refreshes the days of waiting files, each batch in one transaction."""

    def __init__(self, definitions: dg.Definitions, settings: Settings, instance: dg.DagsterInstance) -> None:
        self._definitions = definitions
        self._settings = settings
        self._instance = instance
        self._graph = definitions.resolve_asset_graph()
        self._home = TemporaryDirectory(prefix="hospital-watch-")
        self._scratch = scratch_instance(Path(self._home.name))

    def load(self, requests: Sequence[Request]) -> Batch:
        """Load some files and refresh what depends on them.

        Raises:
            WarehouseLockedError: a run has the warehouse; nothing was done.
            BatchError: a step failed; nothing was stored.
        """
        started = time.perf_counter()
        days = sorted({day for request in requests for day in request.days or ()})
        batch = Batch(days, len({sha for request in requests for sha in request.files}))
        stale: list[date] = []
        with (
            open_warehouse(self._settings.warehouse_file, wait_seconds=_WAIT_SECONDS) as warehouse,
            warehouse.transaction(),
        ):
            for request in requests:
                selection, span = scope_of(
                    request,
                    self._graph,
                    self._settings,
                    lambda tables: all(warehouse.exists(CONTRACTS[key.path[-1]]) for key in tables),
                )
                try:
                    found = stale_days(self._run("full_refresh", span, batch, selection))
                except BatchError as error:
                    error.run_key = request.run_key
                    raise
                # Reference data and vitals leave out the table that names stale days.
                stale = stale if found is None else found
            refresh_stale(
                stale, lambda span: stale_days(self._run("refresh_stale_partitions", span, batch)), self._settings
            )
        for materialization in batch.materializations:
            self._instance.report_runless_asset_event(materialization)
        for check in [*batch.checks, *(found for each in batch.over for found in self._passed_since(*each))]:
            self._instance.report_runless_asset_event(check)
        batch.seconds = time.perf_counter() - started
        return batch

    def _run(
        self, job_name: str, span: Span | None, batch: Batch, selection: Collection[dg.AssetKey] = ()
    ) -> Sequence[dg.DagsterEvent]:
        """A job over some days, as part of the transaction that is open; its events."""
        job = self._definitions.resolve_job_def(job_name)
        result = execute(job, self._scratch, over(span, self._settings), selection)
        self._scratch.delete_run(result.run_id)
        failed = [event for event in result.all_events if event.is_step_failure]
        if failed:
            raise BatchError(failure_of(failed[0]), outcome_of(failed))
        checks = []
        for event in result.all_events:
            if event.is_step_materialization:
                batch.materializations.append(event.step_materialization_data.materialization)
            elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
                checks.append(event.asset_check_evaluation_data)
        batch.checks += checks
        if span is not None:
            batch.over.append((span, checks))
        return result.all_events

    def _passed_since(self, span: Span, checks: Sequence[dg.AssetCheckEvaluation]) -> Iterator[dg.AssetCheckEvaluation]:
        """Blocking checks that passed over several days, for each of these that had failed and holds publications."""
        first, last = (period_start(day, self._settings).isoformat() for day in span)
        days = [day for day in service_periods(self._settings).get_partition_keys() if first <= day <= last]
        passed = [c.asset_check_key for c in checks if c.partition is None and c.blocking and c.passed]
        for check, day in failed_checks(self._instance, passed, days):
            yield dg.AssetCheckEvaluation(check.asset_key, check.name, passed=True, blocking=True, partition=day)
