"""What the programs that load files share: the sensors, `hospital refresh` and `hospital watch`.

What to run is the planner's decision (`refresh`). Belongs here: how a request becomes a run, what the
end of a run says about its files, who must know of a quarantined file, and the loop that refreshes the
days which runs have left stale.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg

from hospital_assets.alerts.outbox import Signal, open_outbox
from hospital_assets.automation.failures import FULL_DISK, with_remedy
from hospital_assets.automation.jobs import refreshed_by
from hospital_assets.automation.refresh import MOST_TRIES, Decision, Outcome, Request, State, decide, held_in
from hospital_assets.clock import hospital_now
from hospital_assets.contracts import CONTRACTS
from hospital_assets.files import replace_text, version_of
from hospital_assets.landing.profile import DATED, LANDED
from hospital_assets.landing.quarantine import change_quarantine
from hospital_assets.landing.service_day import DAYS_AHEAD
from hospital_assets.landing.waiting import Waiting, spans
from hospital_assets.landing.zone import LandingResource
from hospital_assets.live.alert_rules import loading_stopped, quarantined_file
from hospital_assets.partitions import period_start, range_tags, service_periods
from hospital_assets.settings import Settings, load_settings

#: First and last service day.
Span = tuple[date, date]

#: A refreshed day can make another stale only through the beds; this is never reached in practice.
_MOST_ROUNDS = 5

#: Failures that say nothing about the file: the machine's or the warehouse's.
_NOT_THE_FILES_FAULT = (*FULL_DISK, "warehouselockederror", "read-only file system", "database has been invalidated")

_STALE_DAYS = dg.AssetKey("stale_partitions")


@dataclass(frozen=True)
class Step:
    """What a program that loads files has come to.

    Attributes:
        is_unfinished: there is more to do: a file to try again, or alone.
        quarantined: paths of files that are now quarantined.
        suspects: paths of files that failed alone, one after the other, until loading stopped: the fault is in none.
    """

    is_unfinished: bool
    quarantined: list[str]
    suspects: list[str]

    def in_words(self, name: Callable[[str], str] = str) -> list[str]:
        """What a person should know of it."""
        lines = [
            f"quarantined  {name(path)}: every run with it failed; deliver a corrected file, or `hospital retry`"
            for path in self.quarantined
        ]
        return [*lines, stopped_in_words(self.suspects)] if self.suspects else lines


def stopped_in_words(suspects: Sequence[str]) -> str:
    """That loading has stopped, and why."""
    return (
        f"stopped  {len(suspects)} files failed alone, one after the other, and none got through: the fault is likely "
        "in no file. Nothing was quarantined for it. See the errors above, mend their cause and run `hospital "
        "refresh`; `hospital watch` and the sensors try again every ten minutes"
    )


class Loading:
    """A program's way of loading files in its own process, one look after the other.

    Args:
        run: carries out the requests of a look and says how each ended, by its run key.
        note: where to note what is under way, for who begins after this one has died; one program at a time has it.
    """

    def __init__(
        self,
        settings: Settings,
        landing: LandingResource,
        run: Callable[[Sequence[Request]], Mapping[str, Outcome]],
        note: Path | None = None,
    ) -> None:
        self._settings, self._landing, self._run, self._note = settings, landing, run, note
        left = State()
        if note is not None:
            # Of another shape, it says nothing.
            with contextlib.suppress(FileNotFoundError, ValueError):
                left = State.model_validate_json(note.read_bytes())
        # What was held back by a program that has ended.
        held = dict.fromkeys(held_in(landing.held_back()), MOST_TRIES - 1)
        self._state = left.model_copy(update={"failures": held | left.failures})
        self._outcomes: Mapping[str, Outcome] = {run.run_key: "died" for run in left.pending}

    def _carried_out(self, decision: Decision) -> Mapping[str, Outcome]:
        if self._note is None:
            return self._run(decision.requests)
        replace_text(self._note, decision.state.model_dump_json())
        try:
            return self._run(decision.requests)
        finally:
            self._note.unlink(missing_ok=True)

    def resumes(self, now: datetime) -> bool:
        """Whether loading had stopped, and the pause is over."""
        return 0 < self._state.stopped_until_ns <= _nanoseconds(now)

    def step(self, waiting: Sequence[Waiting], now: datetime) -> Step:
        """Load what waits, as far as the planner asks for it."""
        held_back = self._landing.held_back()
        decision = decide(
            self._state, waiting, self._outcomes, held_back, now_ns=_nanoseconds(now), after_files=1, after_seconds=0.0
        )
        remember(decision, held_back, self._settings, now)
        self._outcomes = self._carried_out(decision) if decision.requests else {}
        self._state = decision.state
        outcomes = set(self._outcomes.values())
        # A held file waits for its try, and one that was let go for the next look.
        has_own = not decision.state.failures.keys().isdisjoint(held_in(decision.held_back))
        is_held = has_own or not held_back.keys() <= decision.held_back.keys()
        is_at_rest = "stopped" in outcomes or _nanoseconds(now) < decision.state.stopped_until_ns
        is_unfinished = "failed" in outcomes or (is_held and not is_at_rest)
        return Step(is_unfinished, decision.quarantined, list(decision.state.suspects.values()) * decision.has_stopped)


def is_outdated(settings: Settings, began: tuple[int, ...]) -> bool:
    """Whether `hospital.toml` says something else than a program began with, and something that it could begin with.

    Args:
        began: its version (`version_of`) then.
    """
    if version_of(settings.settings_file) == began:
        return False
    try:
        return load_settings(settings.data_dir) != settings
    except ValueError:
        # Somebody is still writing it; or it is wrong, and every command says so.
        return False


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1e9)


def remember(decision: Decision, held_back: dict[str, str], settings: Settings, now: datetime) -> None:
    """Store which files runs must leave out from now on, and raise an alert for a quarantined file."""
    if list(decision.held_back.items()) != list(held_back.items()):
        change_quarantine(settings.warehouse_file.parent, held_back, decision.held_back)
    signals = [quarantined_file(path, now) for path in decision.quarantined]
    if decision.has_stopped:
        signals.append(loading_stopped(len(decision.state.suspects), now))
    elif decision.has_resumed:
        signals.append(loading_stopped(0, now))
    if signals:
        note(settings, signals)


def note(settings: Settings, signals: Sequence[Signal]) -> None:
    """Raise and clear alerts."""
    with contextlib.closing(open_outbox(settings)) as outbox:
        outbox.record(signals, hospital_now(settings))


def over(days: Span | None, settings: Settings) -> dict[str, Any]:
    """The arguments of a run over some service days: `partition_key` of one partition, `tags` of more."""
    if days is None:
        return {}
    first, last = (period_start(day, settings).isoformat() for day in days)
    return {"partition_key": first} if first == last else {"tags": range_tags(first, last)}


def undated(subjects: Collection[str]) -> set[str]:
    """Of some subjects those of reference data, which have no service days."""
    return set(subjects) & set(LANDED) - DATED


def without_days(graph: Any, subjects: Collection[str]) -> list[dg.AssetKey]:
    """What files without service days change: the ledger, reference data up to its dimensions, and the roster ahead.

    Args:
        graph: the asset graph (Dagster's type for it is not public).
    """
    raw = [f"raw_{name}" for name in undated(subjects)]
    selection = dg.AssetSelection.assets(*raw).downstream() & dg.AssetSelection.groups("raw", "cleaned", "dimensions")
    found = selection.resolve(graph) if raw else set()
    tables = {key for key in found if not CONTRACTS[key.path[-1]].partitioned}
    ahead = {
        dg.AssetKey(f"{layer}_{name}_ahead") for name in subjects if name in DAYS_AHEAD for layer in ("raw", "fact")
    }
    return sorted({dg.AssetKey("raw_landed_files"), *tables, *ahead})


def inputs_of(graph: Any, selection: Collection[dg.AssetKey]) -> set[dg.AssetKey]:
    """The other tables that some tables read. Where one was never made, as in a new data directory, all have to be."""
    parents = {parent for key in selection for parent in graph.get(key).parent_keys} - set(selection)
    return {parent for parent in parents if parent.path[-1] in CONTRACTS}


def are_made(instance: dg.DagsterInstance, tables: Collection[dg.AssetKey]) -> bool:
    """Whether Dagster knows that each of some tables was made."""
    entries = [record.asset_entry for record in instance.get_asset_records(sorted(tables, key=dg.AssetKey.to_string))]
    return set(tables) <= {entry.asset_key for entry in entries if entry.last_materialization}


def scope_of(
    request: Request, graph: Any, settings: Settings, is_made: Callable[[Collection[dg.AssetKey]], bool]
) -> tuple[list[dg.AssetKey], Span | None]:
    """The tables that a request refreshes, and over which service days; None of tables that have none.

    No tables are all of them: one that they read was never made.
    """
    if request.days is None:
        selection = without_days(graph, request.subjects)
    else:
        selection = sorted(refreshed_by(request.subjects).resolve(graph))
    if is_made(inputs_of(graph, selection)):
        return selection, request.days
    return [], request.days or all_days(settings)


def all_days(settings: Settings) -> Span:
    """The service days of a data directory."""
    keys = service_periods(settings).get_partition_keys()
    return date.fromisoformat(keys[0]), date.fromisoformat(keys[-1])


def execute(
    job: dg.JobDefinition,
    instance: dg.DagsterInstance,
    days: Mapping[str, Any],
    selection: Iterable[dg.AssetKey] | None = None,
    run_id: str | None = None,
) -> dg.ExecuteInProcessResult:
    """A run in this process; its failures are in its result.

    Args:
        days: the partitions, as `over` makes them.
        selection: some of the job's tables; default all.
    """
    return job.execute_in_process(
        instance=instance,
        run_id=run_id,
        raise_on_error=False,
        asset_selection=sorted(selection) if selection else None,
        # The report says what failed; Dagster's own log is in the UI.
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        **days,
    )


def outcome_of(failed_steps: Sequence[dg.DagsterEvent]) -> Outcome:
    """The outcome for the files of a failed run, by its failed steps.

    Returns:
        `failed`; `stopped` where it says nothing about them, as a warehouse in use; `died` where no step has failed.
    """
    if not failed_steps:
        return "died"
    errors = [str(event.step_failure_data.error).lower() for event in failed_steps]
    return "failed" if any(not any(name in text for name in _NOT_THE_FILES_FAULT) for text in errors) else "stopped"


def failure_of(event: dg.DagsterEvent) -> str:
    """A failed step's name and the message at the root of its error; for a damaged warehouse file, what to do."""
    cause = event.step_failure_data.error
    while cause is not None and cause.cause is not None:
        cause = cause.cause
    return with_remedy(f"{event.step_key}: {cause.message.strip() if cause else 'failed'}")


def refresh_stale(days: Collection[date], run: Callable[[Span], list[date] | None], settings: Settings) -> None:
    """Refresh the days that runs have left stale, and those that this leaves stale in turn.

    Args:
        run: refreshes a span of days; returns which are stale then, None to stop here.
    """
    for _ in range(_MOST_ROUNDS):
        left: list[date] = []
        for span in spans({period_start(day, settings) for day in days}):
            found = run(span)
            if found is None:
                return
            left = found
        days = left


def stale_days(events: Iterable[dg.DagsterEvent]) -> list[date] | None:
    """The service days that the last one of some events names as stale; None where none of them looked for any."""
    found: list[date] | None = None
    for event in events:
        if event.is_step_materialization:
            materialization = event.step_materialization_data.materialization
            if materialization.asset_key == _STALE_DAYS:
                found = days_named(materialization)
    return found


def days_named(materialization: dg.AssetMaterialization | None) -> list[date]:
    """The days that a materialisation of `stale_partitions` names."""
    if materialization is None:
        return []
    named = materialization.metadata["days"].value
    return [date.fromisoformat(str(day)) for day in named]  # type: ignore[union-attr]


def wall_clock() -> datetime:
    """The time now, in UTC."""
    return datetime.now(UTC)
