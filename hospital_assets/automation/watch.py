"""The live path: one long-lived process that takes in files as they land.

It does what the sensors' runs do, with the same jobs, loader and ledger, but without waiting for the
daemon's next look or for a process to start: alerts within a second, then the days of a batch in one
DuckDB transaction, told to Dagster as runless events. While it runs, the sensors leave fresh files to
it. Belongs here: the loop and the batch. What is looked at is `alerts`' matter.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

import dagster as dg
from dagster_shared.record import replace

from hospital_assets.automation.build import MOST_ROUNDS, failure_of, stale_spans
from hospital_assets.automation.instance import dagster_instance
from hospital_assets.automation.jobs import refreshed_by
from hospital_assets.automation.presence import watch_lock
from hospital_assets.automation.sensors import quiet_since_ns
from hospital_assets.landing.profile import FEEDS
from hospital_assets.landing.waiting import Waiting, spans
from hospital_assets.landing.zone import LandingResource
from hospital_assets.live.alert_rules import check_signals
from hospital_assets.live.monitor import Monitor, open_monitor
from hospital_assets.partitions import period_start, range_tags
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import WarehouseLockedError, open_warehouse

_LOG = logging.getLogger("hospital.watch")

#: Files that land together are one batch.
_DEBOUNCE_MS = 50
#: How often to see who waits, when nothing lands.
_TICK_MS = 1000
#: A run may have the warehouse; then the batch is tried again at the next tick.
_WAIT_SECONDS = 0.2
#: Dagster's scratch instance keeps all events in memory, so it is made anew now and then.
_BATCHES_PER_INSTANCE = 50


class BatchError(Exception):
    """A batch could not be loaded; nothing of it is stored."""


@dataclass
class Batch:
    """What a batch has stored, to be told to Dagster."""

    days: list[date]
    files: int
    materializations: list[dg.AssetMaterialization] = field(default_factory=list)
    checks: list[dg.AssetCheckEvaluation] = field(default_factory=list)
    seconds: float = 0.0


def watch(
    definitions: dg.Definitions, settings: Settings, stop: threading.Event, say: Callable[[str], None] = lambda _: None
) -> None:
    """Take in what lands until told to stop.

    Args:
        definitions: what to run.
        settings: the data directory.
        stop: set to end.
        say: told what happens, in words.

    Raises:
        BatchError: another process watches this directory already.
    """
    from watchfiles import watch as changes

    landing = (definitions.resources or {})["landing"]
    assert isinstance(landing, LandingResource)  # noqa: S101  (build_definitions puts it there)
    settings.landing.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if not stack.enter_context(watch_lock(settings)):
            raise BatchError("another process watches this data directory already")
        instance = stack.enter_context(dagster_instance(settings))
        monitor = open_monitor(settings, landing, FEEDS)
        stack.callback(monitor.outbox.close)
        loader = Loader(definitions, settings, instance)
        # Loading takes longer than looking, and a receiver may not answer: neither holds up alerts.
        loading = stack.enter_context(ThreadPoolExecutor(1, "loading"))
        sending = stack.enter_context(ThreadPoolExecutor(1, "sending"))
        load: Future[None] | None = None
        sent: Future[int] | None = None
        given_up: set[str] = set()
        has_news = True
        say(f"watching {settings.landing}")
        for found in changes(
            settings.landing,
            stop_event=stop,
            debounce=_DEBOUNCE_MS,
            step=_DEBOUNCE_MS // 2,
            rust_timeout=_TICK_MS,
            yield_on_timeout=True,
            watch_filter=None,
            raise_interrupt=False,
        ):
            has_news = has_news or bool(found) or load is not None
            opened = 0
            if has_news:
                # A file whose writing the system cannot tell of waits for a quiet second.
                look = monitor.look(quiet_since_ns=quiet_since_ns())
                opened = look.opened
                waiting = {
                    feed: [file for file in files if file.file_sha256 not in given_up]
                    for feed, files in look.waiting.items()
                }
                has_news = any(waiting.values())
                if has_news and load is None:
                    load = loading.submit(_load, loader, monitor, waiting, given_up, say)
            else:
                opened = monitor.see_who_waits()
            if load is not None and load.done():
                load.result()
                load = None
            if opened:
                say(f"{opened} alerts opened")
            if sent is None or sent.done():
                sent = sending.submit(monitor.deliver)


def _load(
    loader: Loader,
    monitor: Monitor,
    waiting: Mapping[str, Sequence[Waiting]],
    given_up: set[str],
    say: Callable[[str], None],
) -> None:
    """Load a batch; one that fails is left to the sensors, which try its files one by one."""
    try:
        batch = loader.load(waiting)
    except WarehouseLockedError:
        return
    except BatchError as error:
        given_up |= {file.file_sha256 for files in waiting.values() for file in files}
        say(f"failed   {error}; the sensors will try these files one by one")
        return
    now = datetime.now(UTC)
    monitor.note(check_signals(batch.checks, now))
    days = f"{batch.days[0]} to {batch.days[-1]}" if batch.days else "no service days"
    say(f"loaded   {batch.files} files, {days}, in {batch.seconds:.1f} s")


class Loader:
    """Refreshes the days of waiting files, each batch in one transaction."""

    def __init__(self, definitions: dg.Definitions, settings: Settings, instance: dg.DagsterInstance) -> None:
        self._definitions = definitions
        self._settings = settings
        self._instance = instance
        self._graph = definitions.resolve_asset_graph()
        self._scratch = dg.DagsterInstance.ephemeral()
        self._batches = 0

    def load(self, waiting: Mapping[str, Sequence[Waiting]]) -> Batch:
        """Load some files and refresh what depends on them.

        Args:
            waiting: files by feed.

        Raises:
            WarehouseLockedError: a run has the warehouse; nothing was done.
            BatchError: a step failed; nothing was stored.
        """
        started = time.perf_counter()
        self._batches += 1
        if self._batches % _BATCHES_PER_INSTANCE == 0:
            self._scratch.dispose()
            self._scratch = dg.DagsterInstance.ephemeral()
        files = {file.file_sha256 for found in waiting.values() for file in found}
        days = sorted({day for found in waiting.values() for file in found for day in file.days})
        batch = Batch(days, len(files))
        with (
            open_warehouse(self._settings.warehouse_file, wait_seconds=_WAIT_SECONDS) as warehouse,
            warehouse.transaction(),
        ):
            subjects = {name for found in waiting.values() for f in found for name in f.subjects}
            selection = refreshed_by(subjects).resolve(self._graph)
            # Without days there is master data, which the daily batch brings to every day.
            for span in spans(days):
                self._run("full_refresh", span, batch, selection)
            if not days:
                self._run("full_refresh", None, batch, {dg.AssetKey("raw_landed_files")})
            for _ in range(MOST_ROUNDS):
                for span in _stale_spans(batch, self._settings):
                    self._run("refresh_stale_partitions", span, batch)
        for materialization in batch.materializations:
            self._instance.report_runless_asset_event(materialization)
        for check in batch.checks:
            self._instance.report_runless_asset_event(check)
        batch.seconds = time.perf_counter() - started
        return batch

    def _run(
        self,
        job_name: str,
        span: tuple[date, date] | None,
        batch: Batch,
        selection: AbstractSet[dg.AssetKey] | None = None,
    ) -> None:
        """A job over some days, as part of the transaction that is open."""
        job = self._definitions.resolve_job_def(job_name)
        first, last = (
            (period_start(day, self._settings).isoformat() for day in span) if span is not None else (None, None)
        )
        result = job.execute_in_process(
            instance=self._scratch,
            raise_on_error=False,
            partition_key=first if first == last else None,
            tags=range_tags(first, last) if first and last and first != last else None,
            asset_selection=sorted(selection) if selection else None,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
        for event in result.all_events:
            if event.is_step_failure:
                raise BatchError(failure_of(event))
            if event.is_step_materialization:
                batch.materializations.append(event.step_materialization_data.materialization)
            elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
                # What it names as its target stands in the scratch instance only.
                batch.checks.append(replace(event.asset_check_evaluation_data, target_materialization_data=None))


def _stale_spans(batch: Batch, settings: Settings) -> list[tuple[date, date]]:
    """The days that the newest `stale_partitions` of a batch names."""
    named = [m for m in batch.materializations if m.asset_key.path == ["stale_partitions"]]
    return stale_spans(named[-1] if named else None, settings)
