"""A whole build in one process: every table for a range of service days, every check, a summary.

Belongs here: running the graph outside Dagster's daemon and saying what happened. The runs are
ordinary Dagster runs: they stand in the UI's history like any other.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import partial
from typing import get_args

import dagster as dg
import narwhals as nw

from hospital_assets.assets.cleaned.rules import OUTSIDE_PERIOD
from hospital_assets.assets.cleaned.subjects import RULES
from hospital_assets.automation.instance import UNFINISHED, dagster_instance
from hospital_assets.automation.jobs import TABLES
from hospital_assets.automation.loading import (
    Loading,
    Span,
    are_made,
    execute,
    failure_of,
    outcome_of,
    refresh_stale,
    scope_of,
    stale_days,
    undated,
    wall_clock,
)
from hospital_assets.automation.own_runs import OF_COMMAND, end_dead_runs, run_lock
from hospital_assets.automation.refresh import Outcome, Request
from hospital_assets.checks.accounting import NOT_LOADED
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.table import Contract, Layer
from hospital_assets.landing.profile import LANDED, UNRECOGNISED
from hospital_assets.landing.waiting import Waiting
from hospital_assets.landing.zone import LandingResource
from hospital_assets.partitions import period_start, range_tags, service_periods
from hospital_assets.publishing.policy import RoleName
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import RUN_WAIT_SECONDS, Period, Warehouse, WarehouseLockedError, open_warehouse
from hospital_assets.warehouse.errors import INTERRUPTED
from hospital_assets.warehouse.loads import read_ledger_copy

#: A daemon beside it would end it after some hours, as it does runs of its own.
_TAGS = {**OF_COMMAND, dg.MAX_RUNTIME_SECONDS_TAG: "0"}
#: The name under which seconds of checks are counted, in addition to the layers.
CHECKS = "checks"


class BuildError(ValueError):
    """The build cannot start; the message says what to do."""


@dataclass
class Step:
    """One finished step: what it was and how long it took."""

    name: str
    seconds: float


@dataclass
class CheckOutcome:
    """One evaluated check."""

    table: str
    name: str
    passed: bool
    severity: str
    blocking: bool
    description: str


@dataclass
class BuildReport:
    """What a build did.

    `outside` counts, by subject, the records left out because their day is no service day, and `uncounted` is why
    they could not be counted; `not_loaded`, by state, the landed files that nothing was loaded of, whatever was
    selected and checked.
    """

    first: date
    last: date
    steps: list[Step] = field(default_factory=list)
    checks: list[CheckOutcome] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    quarantined: list[str] = field(default_factory=list)
    suspects: list[str] = field(default_factory=list)
    outside: dict[str, int] = field(default_factory=dict)
    uncounted: str = ""
    not_loaded: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def failed_checks(self) -> list[CheckOutcome]:
        """Checks that did not pass with severity ERROR."""
        return [c for c in self.checks if not c.passed and c.severity == "ERROR"]

    @property
    def warnings(self) -> list[CheckOutcome]:
        """Checks that did not pass with severity WARN."""
        return [c for c in self.checks if not c.passed and c.severity == "WARN"]

    @property
    def succeeded(self) -> bool:
        """Whether every step ran and no ERROR check failed."""
        return not self.failures and not self.failed_checks


def build(
    definitions: dg.Definitions,
    settings: Settings,
    *,
    first: date | None = None,
    last: date | None = None,
    select: str | Collection[str] | None = None,
    rebuild: Collection[str] = (),
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> BuildReport:
    """Materialise and check tables for the service days from `first` to `last`.

    Args:
        first: first service day; default the directory's first.
        last: last service day, inclusive; default the directory's last.
        select: a Dagster asset selection such as `group:kpis` or `+key:fact_vitals`, or names of tables; default all.
        rebuild: tables to make anew, since their contracts changed; they must be built with all their days. What is
            not made is what it was.
        progress: is given the name of each finished step, how many are done and how many there are.

    Raises:
        BuildError: nothing has landed, or the selection or the days are not there.
    """
    if not settings.landing.exists():
        raise BuildError(
            f"nothing has landed in {settings.landing}: run `hospital simulate`, or "
            "`hospital import PROFILE PATH`, or put files there"
        )
    days, selection = _days(settings, first, last), _selection(definitions, select)
    for name in rebuild:
        _refuse_to_drop(name, selection, is_whole=days == _days(settings, None, None))
    with _Runs(definitions, settings, days, progress) as runs:
        runs.put_back()
        _each(Warehouse.move_away, rebuild, settings)
        try:
            runs.run("full_refresh", days, selection)
            if select is None:
                runs.refresh_stale()
        finally:
            _each(Warehouse.put_back, rebuild, settings)
    try:
        runs.report.outside = _outside_period(settings, days)
    except WarehouseLockedError as error:
        # All is built; whoever has the warehouse now may have it for long.
        runs.report.uncounted = str(error)
    runs.report.not_loaded = _not_loaded(settings)
    return runs.report


def _each(
    change: Callable[[Warehouse, Contract], None],
    names: Collection[str],
    settings: Settings,
    wait_seconds: float = RUN_WAIT_SECONDS,
) -> None:
    """Change the warehouse for each of some tables."""
    if names:
        with open_warehouse(settings.warehouse_file, wait_seconds=wait_seconds) as warehouse:
            for name in names:
                change(warehouse, CONTRACTS[name])


def _refuse_to_drop(name: str, selection: Collection[dg.AssetKey], *, is_whole: bool) -> None:
    """Refuse to drop a table that the build would not make whole again.

    Raises:
        BuildError: it would not, or there is no such table.
    """
    if name not in CONTRACTS:
        raise BuildError(f"there is no table '{name}'; docs/data-dictionary lists all. Nothing was dropped")
    if name == "raw_landed_files":
        raise BuildError(
            f"{name} knows when each file was first seen, which no file says: `hospital upgrade` keeps that"
        )
    if selection and dg.AssetKey(name) not in selection:
        raise BuildError(f"--select does not build {name}, which would be gone: select it, too. Nothing was dropped")
    if CONTRACTS[name].partitioned and not is_whole:
        raise BuildError(
            f"all days of {name} would be dropped, and only some built: leave out --partition, --from and --to. "
            "Nothing was dropped"
        )


def _outside_period(settings: Settings, days: Span) -> dict[str, int]:
    """Subject -> how many stored records of some days are left out because their day is no service day."""
    subjects = [subject for subject, rules in RULES.items() if OUTSIDE_PERIOD in rules]
    found = {}
    with open_warehouse(settings.warehouse_file) as warehouse:
        for subject in subjects:
            contract = CONTRACTS[f"quarantine_{subject}"]
            if warehouse.exists(contract):
                rows = warehouse.read(contract, Period(days[0], days[1] + timedelta(days=1)))
                left_out = rows.filter(nw.col("rule") == OUTSIDE_PERIOD.name).select(nw.len())
                found[subject] = int(left_out.collect("polars").item())
    return {subject: count for subject, count in found.items() if count}


def _not_loaded(settings: Settings) -> dict[str, int]:
    """State -> how many landed files nothing is loaded of until somebody does something."""
    states = read_ledger_copy(settings.warehouse_file)["state"]
    return {state: count for state in NOT_LOADED if (count := int((states == state).sum()))}


def check(
    definitions: dg.Definitions,
    settings: Settings,
    *,
    first: date | None = None,
    last: date | None = None,
    table: str | None = None,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> BuildReport:
    """Run every check on what is stored for the days from `first` to `last`; builds nothing.

    Args:
        first: first service day; default the directory's first.
        last: last service day, inclusive; default the directory's last.
        table: only the checks of this one.

    Raises:
        BuildError: nothing was ever built, or there is no such table.
    """
    if not settings.warehouse_file.exists():
        raise BuildError(f"{settings.warehouse_file} is missing: run `hospital build` first")
    days = _days(settings, first, last)
    graph = definitions.resolve_asset_graph()
    checks = graph.get_check_keys_for_assets({dg.AssetKey(table)}) if table else set()
    if table and not checks:
        raise BuildError(f"there is no table '{table}'; docs/data-dictionary lists all")
    with _Runs(definitions, settings, days, progress) as runs:
        runs.run("all_checks", days, checks=checks)
    return runs.report


def publish(
    definitions: dg.Definitions,
    settings: Settings,
    roles: Sequence[RoleName] = (),
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> BuildReport:
    """Publish what is stored to the audiences of some roles.

    Args:
        roles: whose publications; default everybody's.

    Raises:
        BuildError: nothing was ever built.
    """
    if not settings.warehouse_file.exists():
        raise BuildError(f"{settings.warehouse_file} is missing: run `hospital build` first")
    selection = {dg.AssetKey(f"publication_{role}") for role in roles}
    with _Runs(definitions, settings, (date.today(), date.today()), progress) as runs:
        runs.run("publish", None, selection)
    return runs.report


def refresh(
    definitions: dg.Definitions,
    settings: Settings,
    landing: LandingResource,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
    clock: Callable[[], datetime] = wall_clock,
) -> BuildReport | None:
    """Load the files that wait and refresh their days, as the sensors would; None when none wait.

    A file whose runs fail is tried again, then alone, and then quarantined, so that the rest goes on.
    """
    with _Runs(definitions, settings, _days(settings, None, None), progress) as runs:
        loading = Loading(settings, landing, runs.load)
        is_unfinished, tried = True, list[Waiting]()
        while is_unfinished:
            steps = len(runs.report.steps)
            waiting = landing.waiting([*LANDED, UNRECOGNISED], landing.held_back())
            step = loading.step(waiting, clock())
            # What was loaded may have given other records other days.
            is_unfinished = step.is_unfinished or (len(runs.report.steps) > steps and waiting != tried)
            tried = waiting
            runs.report.quarantined += step.quarantined
            runs.report.suspects += step.suspects
        runs.refresh_stale()
    if runs.report.steps:
        runs.report.not_loaded = _not_loaded(settings)
    return runs.report if runs.report.steps or runs.report.quarantined else None


class _Runs:
    """Runs in this process, one after the other, and what they did."""

    def __init__(
        self, definitions: dg.Definitions, settings: Settings, days: Span, progress: Callable[[str, int, int], None]
    ) -> None:
        self.report = BuildReport(*days)
        self._definitions, self._settings, self._progress = definitions, settings, progress
        self._loaded: list[Span] = []
        self._stale: list[date] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> _Runs:
        self._started = time.perf_counter()
        self._instance = self._stack.enter_context(dagster_instance(self._settings))
        end_dead_runs(self._settings, self._instance)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self.report.seconds = time.perf_counter() - self._started

    def put_back(self) -> None:
        """Have the tables again that a rebuild which was killed has moved away, unless one may be at work."""
        is_alone = not self._instance.get_runs_count(dg.RunsFilter(statuses=UNFINISHED, tags=OF_COMMAND))
        if is_alone and self._settings.warehouse_file.exists():
            # Whoever has the warehouse may be at work; that is said where it is waited for.
            with suppress(WarehouseLockedError):
                _each(Warehouse.put_back, CONTRACTS, self._settings, wait_seconds=0.0)

    def run(
        self,
        job_name: str,
        days: Span | None,
        selection: Collection[dg.AssetKey] = (),
        checks: Collection[dg.AssetCheckKey] = (),
    ) -> Outcome:
        """One run, over a span of service days if it has partitions, added to the report."""
        job = self._definitions.resolve_job_def(job_name)
        run_id = dg.DagsterRun(job_name=job.name).run_id
        if checks:
            job = job.get_subset(asset_check_selection=set(checks))
        steps = job.get_subset(asset_selection=set(selection)) if selection else job
        planned = [node.name for node in steps.graph.nodes]
        total = len(self.report.steps) + len(planned)
        self._instance.add_event_listener(run_id, _Listener(self.report, total, self._progress))
        # A range, also of one day: a job of checks alone has no partitions of its own.
        over = {"tags": _TAGS | (range_tags(*(day.isoformat() for day in days)) if days else {})}
        ran = len(self.report.steps)
        try:
            with run_lock(self._settings, run_id):
                result = execute(job, self._instance, over, selection, run_id)
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
            raise BuildError(_interrupted(planned, {step.name for step in self.report.steps[ran:]})) from None
        failed = [event for event in result.all_events if event.is_step_failure]
        if not result.success and (not failed or any(map(_is_interrupted, failed))):
            raise BuildError(_interrupted(planned, {e.step_key for e in result.all_events if e.is_step_success}))
        broken = [failure_of(event) for event in failed if not _is_blocked_check(event)]
        # What is tried again fails in the same words.
        self.report.failures = list(dict.fromkeys([*self.report.failures, *broken]))
        if not broken and (found := stale_days(result.all_events)) is not None:
            self._stale = found
        return outcome_of(failed) if failed else "succeeded"

    def load(self, requests: Sequence[Request]) -> dict[str, Outcome]:
        """The runs of a look at the landing folder."""
        outcomes: dict[str, Outcome] = {}
        graph = self._definitions.resolve_asset_graph()
        for request in requests:
            # Who asks by hand has reference data count for every day, and hospitals have every day's time zones.
            selection: list[dg.AssetKey] = []
            span: Span | None = None
            if "hospitals" not in request.subjects and (request.days is not None or not undated(request.subjects)):
                selection, span = scope_of(request, graph, self._settings, partial(are_made, self._instance))
            days = _days(self._settings, *(span or (None, None)))
            self._loaded.append(days)
            self.report.first = min(first for first, _ in self._loaded)
            self.report.last = max(last for _, last in self._loaded)
            outcomes[request.run_key] = self.run("full_refresh", days if span or not selection else None, selection)
        return outcomes

    def refresh_stale(self) -> None:
        """Refresh the days that the runs which did not fail have left stale."""

        def run(days: Span) -> list[date] | None:
            self._stale = None
            self.run("refresh_stale_partitions", _days(self._settings, *days))
            return self._stale

        refresh_stale(self._stale or [], run, self._settings)


def _interrupted(planned: Sequence[str], ran: Collection[str | None]) -> str:
    """What did not run, in words."""
    missing = [name for name in planned if name not in ran]
    more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
    return (
        f"interrupted: {len(planned) - len(missing)} of {len(planned)} steps ran and are stored whole; not "
        f"{', '.join(missing[:10])}{more}. Run it again"
    )


def _is_interrupted(event: dg.DagsterEvent) -> bool:
    error = event.step_failure_data.error
    was_heard = error is not None and error.cls_name == dg.DagsterExecutionInterruptedError.__name__
    return was_heard or _was_querying(event)


def _was_querying(event: dg.DagsterEvent) -> bool:
    """Whether a signal met DuckDB at work, which makes an error of its own of it."""
    error = event.step_failure_data.error
    while error is not None and INTERRUPTED not in error.message:
        error = error.cause
    return error is not None


def _is_blocked_check(event: dg.DagsterEvent) -> bool:
    """A failed blocking check also fails its step; the check itself tells the story."""
    error = event.step_failure_data.error
    return error is not None and "DagsterAssetCheckFailedError" in (error.cls_name or "")


def _days(settings: Settings, first: date | None, last: date | None) -> Span:
    """First and last day of the partitions from `first` to `last`; default all there are."""
    all_keys = list(service_periods(settings).get_partition_keys())
    low = period_start(first, settings).isoformat() if first else all_keys[0]
    high = period_start(last, settings).isoformat() if last else all_keys[-1]
    keys = [key for key in all_keys if low <= key <= high]
    if not keys:
        raise BuildError(
            f"no service day between {low} and {high}: the data directory covers "
            f"{all_keys[0]} to {all_keys[-1]} (see {settings.settings_file})"
        )
    return date.fromisoformat(keys[0]), date.fromisoformat(keys[-1])


def _selection(definitions: dg.Definitions, select: str | Collection[str] | None) -> set[dg.AssetKey]:
    if select is None:
        return set()
    if not isinstance(select, str):
        return {dg.AssetKey(name) for name in select}
    graph = definitions.resolve_asset_graph()
    try:
        # A cleaned table and its quarantine come from one step.
        selection = dg.AssetSelection.from_string(select).required_multi_asset_neighbors()
        keys = set((selection & TABLES).resolve(graph))
    except dg.DagsterError:
        keys = set()
    if not keys:
        raise BuildError(f"no table matches '{select}', as in 'group:kpis' or '+key:fact_vitals'")
    return keys


class _Listener:
    """Turns the events of a run into a report while it runs."""

    def __init__(self, report: BuildReport, total: int, progress: Callable[[str, int, int], None]) -> None:
        self.report = report
        self.progress = progress
        self.started: dict[str, float] = {}
        self.total = total

    def __call__(self, entry: dg.EventLogEntry) -> None:
        event = entry.dagster_event
        if event is None:
            return
        step = event.step_key or ""
        if event.event_type == dg.DagsterEventType.STEP_START:
            self.started[step] = entry.timestamp
        elif event.is_step_failure and _was_querying(event):
            # Dagster has not heard of it, and would go on.
            signal.raise_signal(signal.SIGINT)
        elif event.is_step_materialization:
            found = event.step_materialization_data.materialization
            name = found.asset_key.path[-1]
            for label in ("rows_in_run", "dagster/row_count", "dagster/partition_row_count"):
                if label in found.metadata:
                    self.report.rows[name] = int(found.metadata[label].value)  # type: ignore[arg-type]
                    break
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            found_check = event.asset_check_evaluation_data
            self.report.checks.append(
                CheckOutcome(
                    found_check.asset_key.path[-1],
                    found_check.check_name,
                    found_check.passed,
                    found_check.severity.value,
                    bool(found_check.blocking),
                    found_check.description or "",
                )
            )
        elif event.is_step_success or event.is_step_failure:
            seconds = entry.timestamp - self.started.get(step, entry.timestamp)
            self.report.steps.append(Step(step, seconds))
            self.progress(step, len(self.report.steps), self.total)


def layers_of(definitions: dg.Definitions) -> dict[str, str]:
    """Step -> layer of the tables that it makes; a step of a build that makes none is a check."""
    return {
        asset.op.name: CONTRACTS[key.path[-1]].layer
        for asset in definitions.assets or ()
        if isinstance(asset, dg.AssetsDefinition)
        for key in asset.keys
        if key.path[-1] in CONTRACTS
    }


def seconds_by_layer(steps: Sequence[Step], layers: Mapping[str, str]) -> dict[str, float]:
    """Seconds spent in each layer, in the order of the graph, the checks last."""
    spent = dict.fromkeys((*get_args(Layer), CHECKS), 0.0)
    for step in steps:
        spent[layers.get(step.name, CHECKS)] += step.seconds
    return spent
