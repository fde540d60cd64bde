"""Sensors: the only place that looks at the outside and asks for runs by itself.

One per feed, all alike. A sensor reads the landing folder and the published copy of the ledger, never
the warehouse, so it neither waits for a run nor stops one. What it decides is in `refresh`.
"""

import contextlib
import functools
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from hospital_assets.assets.mirror import MIRROR
from hospital_assets.automation.instance import UNFINISHED, kept_instance
from hospital_assets.automation.jobs import JOBS, full_refresh
from hospital_assets.automation.loading import (
    are_made,
    days_named,
    is_outdated,
    note,
    outcome_of,
    over,
    remember,
    scope_of,
    stopped_in_words,
    wall_clock,
)
from hospital_assets.automation.own_runs import end_dead_runs
from hospital_assets.automation.presence import held, is_watched
from hospital_assets.automation.refresh import PAUSE_SECONDS, Outcome, Pending, Request, State, decide
from hospital_assets.contracts import CONTRACTS
from hospital_assets.files import version_of
from hospital_assets.landing.profile import FEEDS
from hospital_assets.landing.registry import load_profiles
from hospital_assets.landing.waiting import spans
from hospital_assets.landing.zone import LandingResource
from hospital_assets.live.alert_rules import check_signals, run_signal
from hospital_assets.live.monitor import open_monitor
from hospital_assets.partitions import service_periods
from hospital_assets.publishing.policy import usable_policy
from hospital_assets.publishing.pseudonyms import KeyMissingError, load_key
from hospital_assets.settings import Settings
from hospital_assets.sources.memory import pull_lock
from hospital_assets.sources.pull import PULL_SECONDS, pull
from hospital_assets.sources.upstream import report_brought
from hospital_assets.warehouse.loads import last_loaded_at

#: Between two looks at what landed; who wants files within seconds has `hospital watch`. A tick that finds nothing
#: costs Dagster's daemon more than it costs us.
LOOK_SECONDS = 5
#: Between two looks at what can wait: what a run has left to do, and files that come once a day.
FOLLOW_SECONDS = 15
#: On the runs of `refresh_stale_partitions`: which find of stale days they are for, and from which day on.
STALE_TAG = "hospital/stale"
#: A file modified this recently may still be growing.
QUIET_SECONDS = 1.0
#: A look at one source may take so long, whatever the others have taken.
LEAST_PULL_SECONDS = 10.0
#: Files younger than this are left to `hospital watch`, while it runs.
WATCHER_SECONDS = 300.0


def quiet_since_ns() -> int:
    """Files modified later may still be growing, where the system cannot tell."""
    return time.time_ns() - int(QUIET_SECONDS * 1e9)


_Look = Callable[[dg.SensorEvaluationContext], dg.SensorResult | dg.SkipReason]


def _one_at_a_time(look: _Look) -> _Look:
    """Skip a tick while the one before goes on: the daemon gives it up after a minute, but it keeps its thread.

    The code server has few of them, and without a free one no sensor looks and no run begins.
    """
    lock = threading.Lock()

    @functools.wraps(look)
    def tick(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        if not lock.acquire(blocking=False):
            return dg.SkipReason("the look before has not ended")
        try:
            return look(context)
        finally:
            lock.release()

    return tick


def landing_sensor(
    feed: str, settings: Settings, landing: LandingResource, clock: Callable[[], datetime] = wall_clock
) -> dg.SensorDefinition:
    """The sensor of a feed: asks for one run over the service days of the files that wait.

    Args:
        landing: where files land. Not a resource of the sensor, for which Dagster would make an instance at each tick.
        clock: the wall clock, which says how old a file is.
    """
    began_with = version_of(settings.settings_file)

    @dg.sensor(
        name=f"{feed}_files",
        jobs=[job for job in JOBS if job.name in (f"refresh_{feed}", full_refresh.name)],
        minimum_interval_seconds=FOLLOW_SECONDS if feed == "extracts" else LOOK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Asks for a refresh of the days of new {feed} files, when {settings.refresh_after_files}"
            f" wait or one has waited {settings.refresh_after_seconds} s."
        ),
    )
    @_one_at_a_time
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        state = State.model_validate_json(context.cursor) if context.cursor else State()
        held_back = landing.held_back()
        graph = context.repository_def.asset_graph if context.repository_def else None
        now_ns = int(clock().timestamp() * 1e9)
        before_ns = now_ns - int(WATCHER_SECONDS * 1e9) if is_watched(settings) else sys.maxsize
        waiting = landing.waiting(FEEDS[feed], held_back, now_ns - int(QUIET_SECONDS * 1e9), before_ns)
        decision = decide(
            state,
            waiting,
            _outcomes(context, state),
            held_back,
            now_ns=now_ns,
            after_files=settings.refresh_after_files,
            after_seconds=settings.refresh_after_seconds,
        )
        remember(decision, held_back, settings, clock())
        for path in decision.quarantined:
            context.log.error(f"{path}: every run with this file failed; it is quarantined")
        if decision.has_stopped:
            context.log.error(stopped_in_words(list(decision.state.suspects)))
        reason = "no files wait, or their run is under way"
        if is_outdated(settings, began_with):
            reason = (
                f"{settings.settings_file.name} has changed: start `hospital dev`, or hospital-code, again, which go "
                f"by what it was; {reason}"
            )
        return dg.SensorResult(
            run_requests=[
                _run_request(feed, request, settings, graph, kept_instance(context)) for request in decision.requests
            ],
            cursor=decision.state.model_dump_json(),
            skip_reason=None if decision.requests else reason,
        )

    return sensor


def sources_sensor(settings: Settings, clock: Callable[[], datetime] = wall_clock) -> dg.SensorDefinition:
    """The sensor that brings new files from the addresses that profiles name; their feeds' sensors do the rest."""

    @dg.sensor(
        name="sources",
        minimum_interval_seconds=PULL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Brings new files from the addresses that source profiles name into the landing folder.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        with held(pull_lock(settings)) as is_alone:
            # Who waited would keep a thread, as above.
            if not is_alone:
                return dg.SkipReason("another program brings files, or the look before has not ended")
            return dg.SkipReason("; ".join(_brought(context, settings, clock)) or "no profile names an address")

    return sensor


def _brought(context: dg.SensorEvaluationContext, settings: Settings, clock: Callable[[], datetime]) -> Iterator[str]:
    """Look at each source and bring what is new; what each came to, in words."""
    ends = time.monotonic() + PULL_SECONDS / 2
    for name, profile in load_profiles(settings.profiles_folder).items():
        if profile.source is None:
            continue
        try:
            # One that takes all the time, as a server that does not answer, leaves each other one some of its own.
            own = max(ends, time.monotonic() + LEAST_PULL_SECONDS)
            done = pull(settings, profile, clock, time.sleep, partial(_is_after, own))
        except Exception as error:
            # One source must not stop the others; what it is about is not ours to log.
            context.log.error(f"{name}: {type(error).__name__}; hospital pull {name} says more")
            continue
        report_brought(kept_instance(context), name, done)
        yield f"{name}: {done.brought} brought, {done.changed} changed, {done.waiting} still being written"
        if not done.succeeded:
            context.log.error(f"{name}: {done.reason or f'{len(done.failed)} files failed'}; see hospital sources")


def _is_after(moment: float) -> bool:
    return time.monotonic() > moment


def stale_partitions_sensor(settings: Settings, clock: Callable[[], datetime] = wall_clock) -> dg.SensorDefinition:
    """The sensor that refreshes days which another day's records have touched, again where that has failed."""

    @dg.sensor(
        name="stale_partitions",
        job_name="refresh_stale_partitions",
        minimum_interval_seconds=FOLLOW_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Asks for the days that the table stale_partitions names; ends runs whose command was killed.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        if ended := end_dead_runs(settings, kept_instance(context)):
            context.log.warning(f"{ended} runs were ended: the commands that carried them out had been killed")
        found = kept_instance(context).fetch_materializations(dg.AssetKey("stale_partitions"), limit=1)
        if not found.records:
            return dg.SkipReason("nothing was built yet")
        record = found.records[0]
        requests = []
        for span in spans(days_named(record.asset_materialization)):
            asked = {STALE_TAG: f"{record.storage_id} {span[0]}"}
            tries = kept_instance(context).get_run_records(dg.RunsFilter(tags=asked))
            if tries and not _is_to_be_tried_again(tries[0], clock().timestamp()):
                continue
            arguments = over(span, settings)
            arguments["tags"] = asked | arguments.get("tags", {})
            requests.append(dg.RunRequest(run_key=f"stale {asked[STALE_TAG]} {len(tries)}", **arguments))
        if not requests:
            return dg.SkipReason("no day is stale, or their refresh was asked for")
        return dg.SensorResult(run_requests=requests)

    return sensor


def _is_to_be_tried_again(record: dg.RunRecord, now: float) -> bool:
    has_failed = record.dagster_run.status is dg.DagsterRunStatus.FAILURE
    return has_failed and abs(now - (record.end_time or 0.0)) > PAUSE_SECONDS


def publications_sensor(settings: Settings, clock: Callable[[], datetime] = wall_clock) -> dg.SensorDefinition:
    """The sensor that publishes what a build or refresh has changed, once it has ended.

    One try for each change: a publication that fails waits for the next build. Days that did not pass a blocking check
    hold all publications until they do.
    """

    @dg.sensor(
        name="publications",
        job_name="publish",
        minimum_interval_seconds=FOLLOW_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Publishes what was built, unless a blocking check has failed for a day of it.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        policy, instance = usable_policy(settings), kept_instance(context)
        try:
            load_key(settings)
            roles, without_key = list(policy.roles), ""
        except KeyMissingError as error:
            roles = [role for role in policy.roles if not policy.needs_key(role)]
            without_key = f"; for other roles than {', '.join(roles) or 'none'}: {error}"
        news = _news(settings, instance, [f"publication_{role}" for role in roles])
        if not news:
            return dg.SkipReason(f"nothing was built since the last publication{without_key}")
        run_key = f"{news} for {', '.join(roles)}"
        if context.cursor == run_key:
            return dg.SkipReason("what was built was tried to publish; the next build is tried again")
        if instance.get_runs_count(dg.RunsFilter(statuses=UNFINISHED)):
            return dg.SkipReason("waiting for the end of what is running")
        last = instance.get_run_records(dg.RunsFilter(job_name="publish"), limit=1)
        if last and _rests(last[0], clock().timestamp()):
            return dg.SkipReason("a publication has only just ended")
        graph = context.repository_def.asset_graph if context.repository_def else None
        if failed := _held_by(instance, graph, service_periods(settings).get_partition_keys()):
            return dg.SkipReason(f"held until it passes: {failed}")
        request = dg.RunRequest(run_key=run_key, asset_selection=[dg.AssetKey(f"publication_{role}") for role in roles])
        return dg.SensorResult(run_requests=[request], cursor=run_key)

    return sensor


def mirror_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor that mirrors what a build or refresh has changed, once it has ended; one try for each change."""

    @dg.sensor(
        name="mirror",
        target=dg.AssetSelection.assets(MIRROR),
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Writes what was built to the mirror, Delta tables for other engines.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        instance = kept_instance(context)
        news = _news(settings, instance, [MIRROR])
        if not news:
            return dg.SkipReason("nothing was built since the last mirroring")
        if instance.get_runs_count(dg.RunsFilter(statuses=UNFINISHED)):
            return dg.SkipReason("waiting for the end of what is running")
        return dg.RunRequest(run_key=f"mirror {news}")

    return sensor


#: What builds and refreshes end with.
_LAST_TABLES = tuple(name for name, contract in CONTRACTS.items() if contract.layer in ("kpis", "forecasts"))


def _rests(publication: dg.RunRecord, now: float) -> bool:
    """Whether the warehouse is left to others for a while: publishing takes at most a third of its time."""
    if publication.start_time is None or publication.end_time is None:
        return False
    # It ended in the future where a clock was ahead.
    return 0 <= now - publication.end_time < 2 * (publication.end_time - publication.start_time)


def _news(settings: Settings, instance: dg.DagsterInstance, copies: Sequence[str]) -> str:
    """What was built or loaded last, where one of some assets made of all tables is older; else empty."""
    records = instance.get_asset_records([dg.AssetKey(name) for name in (*_LAST_TABLES, *copies)])
    entries = [record.asset_entry for record in records]
    made = {entry.asset_key.path[-1]: last for entry in entries if (last := entry.last_materialization_record)}
    # By number: times are those of clocks, which may have been ahead.
    built = max((made[name].storage_id for name in _LAST_TABLES if name in made), default=0)
    # Who was killed after the commit could not report what was built.
    loaded_at = last_loaded_at(settings.warehouse_file)
    loaded = loaded_at.timestamp() if loaded_at else 0.0
    newest = [made.get(name) for name in copies]
    has_all = all(copy and copy.storage_id >= built and copy.timestamp >= loaded for copy in newest)
    return "" if has_all or not (built or loaded) else f"what was built at {built} and loaded at {loaded}"


def _held_by(instance: dg.DagsterInstance, graph: Any, days: Collection[str]) -> str:
    """The blocking check of a table that has failed for a day and has not passed since; empty where none has.

    Args:
        days: the partitions; what is none any more is not checked again.
    """
    if graph is None:
        return ""
    blocking = [
        key
        for key in graph.asset_check_keys
        if graph.get_check_spec(key).blocking and key.asset_key.path[-1] in CONTRACTS
    ]
    for check, day in failed_checks(instance, blocking):
        if day is None or day in days:
            return f"{check.name} of {check.asset_key.path[-1]}" + (f" of {day}" if day else "")
    return ""


def failed_checks(
    instance: dg.DagsterInstance, checks: Sequence[dg.AssetCheckKey], days: Sequence[str] | None = None
) -> Iterator[tuple[dg.AssetCheckKey, str | None]]:
    """Those of some checks that have failed and not passed since, each with its day, if it is one of days.

    Args:
        days: the partitions that are asked for; None: all.
    """
    for info in instance.event_log_storage.get_asset_check_partition_info(checks, partition_keys=days):
        if info.latest_execution_status is AssetCheckExecutionRecordStatus.FAILED:
            yield info.check_key, info.partition_key


def alerts_sensor(settings: Settings, landing: LandingResource) -> dg.SensorDefinition:
    """The sensor that assesses what lands and sends alerts, unless `hospital watch` does."""

    @dg.sensor(
        name="alerts",
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=("Raises and clears alerts from landed files, waits and silence, and sends what is due."),
    )
    @_one_at_a_time
    def sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
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


def _run_request(
    feed: str, request: Request, settings: Settings, graph: Any, instance: dg.DagsterInstance
) -> dg.RunRequest:
    # The job of a feed refreshes what any of its files changes.
    asked = request if request.days is None else request.model_copy(update={"subjects": frozenset(FEEDS[feed])})
    tables, days = scope_of(asked, graph, settings, partial(are_made, instance))
    job = f"refresh_{feed}" if tables else full_refresh.name
    selection = tables if days is None else None
    arguments = over(days, settings)
    tags = {"hospital/files": str(len(request.files)), **arguments.pop("tags", {})}
    return dg.RunRequest(run_key=request.run_key, job_name=job, tags=tags, asset_selection=selection, **arguments)


def _outcome(context: dg.SensorEvaluationContext, pending: Pending) -> Outcome | None:
    """How the run of a request stands; None where there is none yet."""
    runs = kept_instance(context).get_runs(dg.RunsFilter(tags={"dagster/run_key": pending.run_key}), limit=1)
    if not runs:
        return None
    run = runs[0]
    if run.status == dg.DagsterRunStatus.SUCCESS:
        return "succeeded"
    if run.status == dg.DagsterRunStatus.CANCELED:
        return "stopped"
    if run.status != dg.DagsterRunStatus.FAILURE:
        return "running"
    failures = kept_instance(context).all_logs(run.run_id, of_type={dg.DagsterEventType.STEP_FAILURE})
    return outcome_of([entry.get_dagster_event() for entry in failures])
