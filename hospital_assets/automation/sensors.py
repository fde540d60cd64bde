"""Sensors: the only place that looks at the outside and asks for runs by itself.

One per feed, all alike. A sensor reads the landing folder and the published copy of the ledger, never
the warehouse, so it neither waits for a run nor stops one. What it decides is in `refresh`.
"""

import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from hospital_assets.automation.loading import days_named, note, outcome_of, over, remember, wall_clock, without_days
from hospital_assets.automation.presence import is_watched
from hospital_assets.automation.refresh import Outcome, Pending, Request, State, decide
from hospital_assets.landing.profile import FEEDS
from hospital_assets.landing.waiting import spans
from hospital_assets.landing.zone import LandingResource
from hospital_assets.live.alert_rules import check_signals, run_signal
from hospital_assets.live.monitor import open_monitor
from hospital_assets.settings import Settings

#: A file modified this recently may still be growing.
QUIET_SECONDS = 1.0
#: The daemon calls a sensor every five seconds; in between the sensor looks for itself.
LOOK_SECONDS = 4.0
PAUSE_SECONDS = 0.25
#: Files younger than this are left to `hospital watch`, while it runs.
WATCHER_SECONDS = 30.0


def quiet_since_ns() -> int:
    """Files modified later may still be growing, where the system cannot tell."""
    return time.time_ns() - int(QUIET_SECONDS * 1e9)


def landing_sensor(feed: str, settings: Settings, clock: Callable[[], datetime] = wall_clock) -> dg.SensorDefinition:
    """The sensor of a feed: asks for one run over the service days of the files that wait.

    Args:
        feed: one of `FEEDS`.
        settings: the data directory.
        clock: the wall clock, which says how old a file is.
    """

    @dg.sensor(
        name=f"{feed}_files",
        job_name=f"refresh_{feed}",
        minimum_interval_seconds=1,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Asks for a refresh of the days of new {feed} files, when {settings.refresh_after_files}"
            f" wait or one has waited {settings.refresh_after_seconds} s."
        ),
    )
    def sensor(context: dg.SensorEvaluationContext, landing: LandingResource) -> dg.SensorResult:
        state = State.model_validate_json(context.cursor) if context.cursor else State()
        held_back = landing.held_back()
        graph = context.repository_def.asset_graph if context.repository_def else None
        until = time.monotonic() + LOOK_SECONDS
        while True:
            started = time.monotonic()
            now_ns = int(clock().timestamp() * 1e9)
            waiting = landing.waiting(FEEDS[feed], held_back, now_ns - int(QUIET_SECONDS * 1e9))
            if is_watched(settings):
                waiting = [file for file in waiting if file.since_ns < now_ns - int(WATCHER_SECONDS * 1e9)]
            decision = decide(
                state,
                waiting,
                _outcomes(context, state),
                held_back,
                now_ns=now_ns,
                after_files=settings.refresh_after_files,
                after_seconds=settings.refresh_after_seconds,
            )
            took = time.monotonic() - started
            if decision.requests or decision.held_back != held_back or started + took >= until:
                break
            # At most a tenth of a core, however many files there are.
            time.sleep(max(PAUSE_SECONDS, 10 * took))
        remember(decision, held_back, settings, clock())
        for path in decision.quarantined:
            context.log.error(f"{path}: every run with this file failed; it is quarantined")
        return dg.SensorResult(
            run_requests=[_run_request(request, settings, graph) for request in decision.requests],
            cursor=decision.state.model_dump_json(),
            skip_reason=None if decision.requests else "no files wait, or their run is under way",
        )

    return sensor


def stale_partitions_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor that refreshes days which another day's records have touched."""

    @dg.sensor(
        name="stale_partitions",
        job_name="refresh_stale_partitions",
        minimum_interval_seconds=1,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Asks for the days that the table stale_partitions names.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        found = context.instance.fetch_materializations(dg.AssetKey("stale_partitions"), limit=1)
        if not found.records:
            return dg.SkipReason("nothing was built yet")
        record = found.records[0]
        days = days_named(record.asset_materialization)
        if not days or str(record.storage_id) == context.cursor:
            return dg.SkipReason("no day is stale, or their refresh was asked for")
        requests = [
            dg.RunRequest(run_key=f"stale-{record.storage_id}-{span[0]}", **over(span, settings))
            for span in spans(days)
        ]
        return dg.SensorResult(run_requests=requests, cursor=str(record.storage_id))

    return sensor


def alerts_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor that assesses what lands and sends alerts, unless `hospital watch` does."""

    @dg.sensor(
        name="alerts",
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=("Raises and clears alerts from landed files, waits and silence, and sends what is due."),
    )
    def sensor(context: dg.SensorEvaluationContext, landing: LandingResource) -> dg.SkipReason:
        if is_watched(settings):
            return dg.SkipReason("hospital watch is at work")
        monitor = open_monitor(settings, landing, FEEDS)
        with contextlib.closing(monitor.outbox):
            look = monitor.look(quiet_since_ns=quiet_since_ns())
            sent = monitor.deliver()
        return dg.SkipReason(f"{look.opened} alerts opened, {sent} messages sent")

    return sensor


def run_outcome_sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """Sensors that see how runs end: failed runs and failed checks become alerts, and clear them."""

    def note_end(context: dg.RunStatusSensorContext, has_failed: bool) -> None:
        run, instance = context.dagster_run, context.instance
        record = instance.get_run_record_by_id(run.run_id)
        ended = datetime.fromtimestamp((record and record.end_time) or time.time(), UTC)
        failed = None
        if has_failed:
            steps = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
            failed = [entry.step_key or "" for entry in steps]
        entries = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
        evaluations = [entry.get_dagster_event().asset_check_evaluation_data for entry in entries]
        note(settings, [run_signal(run.job_name, run.run_id, failed, ended), *check_signals(evaluations, ended)])

    @dg.run_failure_sensor(
        name="failed_runs",
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Raises an alert for a failed run and for the checks that failed in it.",
    )
    def failed_runs(context: dg.RunFailureSensorContext) -> None:
        note_end(context, has_failed=True)

    @dg.run_status_sensor(
        run_status=dg.DagsterRunStatus.SUCCESS,
        name="succeeded_runs",
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Clears the alert of a failed run; raises and clears those of checks.",
    )
    def succeeded_runs(context: dg.RunStatusSensorContext) -> None:
        note_end(context, has_failed=False)

    return [failed_runs, succeeded_runs]


def _outcomes(context: dg.SensorEvaluationContext, state: State) -> dict[str, Outcome]:
    found = {run.run_key: _outcome(context, run) for run in state.pending}
    return {run_key: outcome for run_key, outcome in found.items() if outcome is not None}


def _run_request(request: Request, settings: Settings, graph: Any) -> dg.RunRequest:
    arguments = over(request.days, settings)
    tags = {"hospital/files": str(len(request.files)), **arguments.pop("tags", {})}
    if request.days is None:
        arguments["asset_selection"] = without_days(graph, request.subjects)
    return dg.RunRequest(run_key=request.run_key, tags=tags, **arguments)


def _outcome(context: dg.SensorEvaluationContext, pending: Pending) -> Outcome | None:
    """How the run of a request stands; None where there is none yet."""
    runs = context.instance.get_runs(dg.RunsFilter(tags={"dagster/run_key": pending.run_key}), limit=1)
    if not runs:
        return None
    run = runs[0]
    if run.status == dg.DagsterRunStatus.SUCCESS:
        return "succeeded"
    if run.status == dg.DagsterRunStatus.CANCELED:
        return "stopped"
    if run.status != dg.DagsterRunStatus.FAILURE:
        return "running"
    failures = context.instance.all_logs(run.run_id, of_type={dg.DagsterEventType.STEP_FAILURE})
    return outcome_of([entry.get_dagster_event() for entry in failures])
