"""A whole build in one process: every table for a range of service days, every check, a summary.

Belongs here: running the graph outside Dagster's daemon and saying what happened. The runs are
ordinary Dagster runs: they stand in the UI's history like any other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import get_args

import dagster as dg
from dagster._core.definitions.asset_selection import DagsterInvalidAssetSelectionError

from hospital_assets.automation.instance import dagster_instance
from hospital_assets.automation.jobs import TABLES
from hospital_assets.automation.sensors import days_named
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.table import Layer
from hospital_assets.landing.profile import LANDED
from hospital_assets.landing.waiting import spans
from hospital_assets.landing.zone import LandingResource
from hospital_assets.partitions import period_start, range_tags, service_periods
from hospital_assets.publishing.policy import RoleName
from hospital_assets.settings import Settings

#: A refreshed day can make another stale only through the beds; this is never reached in practice.
MOST_ROUNDS = 5
#: Where the seconds of checks are counted, beside the layers.
CHECKS = "checks"


class BuildError(Exception):
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
    """What a build did."""

    first: date
    last: date
    steps: list[Step] = field(default_factory=list)
    checks: list[CheckOutcome] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
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
    select: str | None = None,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> BuildReport:
    """Materialise and check tables for the service days from `first` to `last`.

    Args:
        definitions: what to run.
        settings: the data directory.
        first: first service day; default the directory's first.
        last: last service day, inclusive; default the directory's last.
        select: a Dagster asset selection such as `group:kpis` or `+key:fact_vitals`; default all.
        progress: told the name of each finished step, how many are done and how many there are.

    Raises:
        BuildError: nothing has landed, or the selection or the days are not there.
    """
    if not settings.landing.exists():
        raise BuildError(
            f"nothing has landed in {settings.landing}: run `hospital simulate`, or "
            "`hospital import PROFILE PATH`, or put files there"
        )
    return _build_spans(definitions, settings, [(first, last)], select, progress)


def check(
    definitions: dg.Definitions,
    settings: Settings,
    *,
    first: date | None = None,
    last: date | None = None,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> BuildReport:
    """Run every check on what is stored for the days from `first` to `last`; builds nothing.

    Args:
        definitions: what to run.
        settings: the data directory.
        first: first service day; default the directory's first.
        last: last service day, inclusive; default the directory's last.
        progress: as for `build`.

    Raises:
        BuildError: nothing was ever built.
    """
    if not settings.warehouse_file.exists():
        raise BuildError(f"{settings.warehouse_file} is missing: run `hospital build` first")
    keys = _partition_keys(settings, first, last)
    report = BuildReport(date.fromisoformat(keys[0]), date.fromisoformat(keys[-1]))
    started = time.perf_counter()
    with dagster_instance(settings) as instance:
        job = definitions.resolve_job_def("all_checks")
        _run(job, instance, keys, None, report, progress)
    report.seconds = time.perf_counter() - started
    return report


def publish(
    definitions: dg.Definitions,
    settings: Settings,
    roles: Sequence[RoleName] = (),
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> BuildReport:
    """Publish what is stored to the audiences of some roles.

    Args:
        definitions: what to run.
        settings: the data directory.
        roles: whose publications; default everybody's.
        progress: as for `build`.

    Raises:
        BuildError: nothing was ever built.
    """
    if not settings.warehouse_file.exists():
        raise BuildError(f"{settings.warehouse_file} is missing: run `hospital build` first")
    report = BuildReport(date.today(), date.today())
    started = time.perf_counter()
    selection = {dg.AssetKey(f"publication_{role}") for role in roles} or None
    with dagster_instance(settings) as instance:
        _run(definitions.resolve_job_def("publish"), instance, (), selection, report, progress)
    report.seconds = time.perf_counter() - started
    return report


def refresh(
    definitions: dg.Definitions,
    settings: Settings,
    landing: LandingResource,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> BuildReport | None:
    """Load the files that wait and refresh their days, as the sensors would; None when none wait.

    Args:
        definitions: what to run.
        settings: the data directory.
        landing: its landing zone.
        progress: as for `build`.
    """
    files = landing.waiting([*LANDED, "unknown"], landing.set_aside())
    if not files:
        return None
    days = {day for file in files for day in file.days}
    # Without days there is master data, which concerns every day, or files to write down.
    asked: list[tuple[date | None, date | None]] = [*spans(days)] or [(None, None)]
    return _build_spans(definitions, settings, asked, None, progress)


def _build_spans(
    definitions: dg.Definitions,
    settings: Settings,
    asked: Sequence[tuple[date | None, date | None]],
    select: str | None,
    progress: Callable[[str, int, int], None],
) -> BuildReport:
    """A run for each span of days, then the days that those have made stale."""
    ranges = [_partition_keys(settings, first, last) for first, last in asked]
    report = BuildReport(date.fromisoformat(ranges[0][0]), date.fromisoformat(ranges[-1][-1]))
    started = time.perf_counter()
    with dagster_instance(settings) as instance:
        job = definitions.resolve_job_def("full_refresh")
        selection = _selection(definitions, select)
        for keys in ranges:
            _run(job, instance, keys, selection, report, progress)
        if select is None:
            _refresh_stale_partitions(definitions, settings, instance, report, progress)
    report.seconds = time.perf_counter() - started
    return report


def _refresh_stale_partitions(
    definitions: dg.Definitions,
    settings: Settings,
    instance: dg.DagsterInstance,
    report: BuildReport,
    progress: Callable[[str, int, int], None],
) -> None:
    """Refresh the days that the runs so far have made stale."""
    job = definitions.resolve_job_def("refresh_stale_partitions")
    for _ in range(MOST_ROUNDS):
        left = _stale_spans(instance, settings)
        if not left or report.failures:
            return
        for low, high in left:
            keys = _partition_keys(settings, low, high)
            _run(job, instance, keys, None, report, progress)


def _run(
    job: dg.JobDefinition,
    instance: dg.DagsterInstance,
    keys: Sequence[str],
    selection: set[dg.AssetKey] | None,
    report: BuildReport,
    progress: Callable[[str, int, int], None],
) -> None:
    """One run, over a range of partitions where there are any, told to the report."""
    run_id = dg.DagsterRun(job_name=job.name).run_id
    steps = job.get_subset(asset_selection=selection) if selection else job
    listener = _Listener(report, len(report.steps) + len(list(steps.graph.nodes)), progress)
    instance.add_event_listener(run_id, listener)
    result = job.execute_in_process(
        instance=instance,
        run_id=run_id,
        raise_on_error=False,
        asset_selection=sorted(selection) if selection else None,
        # The report says what failed; Dagster's own log is in the UI.
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        tags=range_tags(keys[0], keys[-1]) if keys else {},
    )
    for event in result.all_events:
        if event.is_step_failure and not _is_blocked_check(event):
            report.failures.append(failure_of(event))


def failure_of(event: dg.DagsterEvent) -> str:
    """What a failed step says: its name and the message at the root of its error."""
    cause = event.step_failure_data.error
    while cause is not None and cause.cause is not None:
        cause = cause.cause
    return f"{event.step_key}: {cause.message.strip() if cause else 'failed'}"


def stale_spans(materialization: dg.AssetMaterialization | None, settings: Settings) -> list[tuple[date, date]]:
    """Spans of days that a materialisation of `stale_partitions` names."""
    return spans({period_start(day, settings) for day in days_named(materialization)})


def _stale_spans(instance: dg.DagsterInstance, settings: Settings) -> list[tuple[date, date]]:
    """Spans of days that the last run has made stale, as it said itself."""
    event = instance.get_latest_materialization_event(dg.AssetKey("stale_partitions"))
    return stale_spans(event.asset_materialization if event else None, settings)


def _is_blocked_check(event: dg.DagsterEvent) -> bool:
    """A failed blocking check also fails its step; the check itself tells the story."""
    error = event.step_failure_data.error
    return error is not None and "DagsterAssetCheckFailedError" in (error.cls_name or "")


def _partition_keys(settings: Settings, first: date | None, last: date | None) -> list[str]:
    all_keys = list(service_periods(settings).get_partition_keys())
    low = period_start(first, settings).isoformat() if first else all_keys[0]
    high = period_start(last, settings).isoformat() if last else all_keys[-1]
    keys = [key for key in all_keys if low <= key <= high]
    if not keys:
        raise BuildError(
            f"no service day between {low} and {high}: the data directory covers "
            f"{all_keys[0]} to {all_keys[-1]} (see {settings.settings_file})"
        )
    return keys


def _selection(definitions: dg.Definitions, select: str | None) -> set[dg.AssetKey] | None:
    if select is None:
        return None
    graph = definitions.resolve_asset_graph()
    try:
        # A cleaned table and its quarantine come from one step.
        selection = dg.AssetSelection.from_string(select).required_multi_asset_neighbors()
        keys = set((selection & TABLES).resolve(graph))
    except (DagsterInvalidAssetSelectionError, dg.DagsterInvalidSubsetError):
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
