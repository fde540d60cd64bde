"""The planner: which runs to ask for now, which files to hold back.

Pure: the landing folder, the runs and the clock come in, a decision goes out. The sensors, `hospital
refresh` and `hospital watch` carry it out, each in its way; what becomes of a file whose runs fail is
decided here for all three.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from datetime import date
from typing import Literal

from pydantic import BaseModel, Field

from hospital_assets.landing.waiting import Waiting, fingerprint, is_due, spans

#: died: its process ended, and no step of it failed. stopped: what it ended with says nothing about its files.
Outcome = Literal["running", "succeeded", "failed", "died", "stopped"]

#: A file is tried this often; the last time alone.
MOST_TRIES = 3
#: A run that dies may have met a power cut, or a file that no process survives: every so manieth counts as failed.
_DEATHS = 3
#: When this many different files have failed alone and no run has succeeded meanwhile, the fault is no file's: a full
#: disk, a table that cannot be written, a mistake in this program.
MOST_IN_A_ROW = 3
#: Then nothing is tried for this long.
PAUSE_SECONDS = 600
_PAUSE_NS = PAUSE_SECONDS * 1_000_000_000
#: Looks after which a run that never showed up is asked for again.
_PATIENCE = 60
#: Looks after which files are tried that somebody else holds back: who did that may have ended.
_LONG = 4 * _PATIENCE


class Pending(BaseModel):
    """A run that was asked for.

    Attributes:
        files: content hash -> path of the files it loads.
        looks: how often it was looked for in vain.
    """

    run_key: str
    files: dict[str, str]
    looks: int = 0


class State(BaseModel):
    """What a program that loads files remembers between looks; a sensor's cursor.

    Attributes:
        pending: runs asked for and not yet ended.
        failures: content hash -> attempts that failed with this file.
        deaths: content hash -> attempts that died with this file.
        blamed: files that the last attempt was counted against; it may have had several runs.
        serial: makes a later request for the same files another one.
        suspects: content hash -> path of files that failed alone; no run has succeeded since.
        doubted: files that were suspects when loading stopped, before a run succeeded again: they are tried once more.
        stopped_until_ns: nothing is tried before; 0 where nothing has stopped.
        strange: content hash -> looks at a file that another program holds back.
    """

    pending: list[Pending] = Field(default_factory=list)
    failures: dict[str, int] = Field(default_factory=dict)
    deaths: dict[str, int] = Field(default_factory=dict)
    blamed: list[str] = Field(default_factory=list)
    serial: int = 0
    suspects: dict[str, str] = Field(default_factory=dict)
    doubted: list[str] = Field(default_factory=list)
    stopped_until_ns: int = 0
    strange: dict[str, int] = Field(default_factory=dict)


class Request(BaseModel):
    """A run to ask for.

    Attributes:
        days: first and last service day; None where the files have no days (reference data, or
            files that are only to be written down).
        files: content hash -> path of the files it loads.
    """

    run_key: str
    days: tuple[date, date] | None
    files: dict[str, str] = Field(default_factory=dict)
    subjects: frozenset[str] = frozenset()


class Decision(BaseModel):
    """What to do now, and what to remember.

    Attributes:
        requests: runs to ask for.
        held_back: content hash -> `held` or `quarantined`; runs leave these files out.
        quarantined: paths of the files that have just been quarantined.
        has_stopped: it has just turned out that the fault is no file's.
        has_resumed: it had, and a run has succeeded.
    """

    requests: list[Request]
    state: State
    held_back: dict[str, str]
    quarantined: list[str]
    has_stopped: bool = False
    has_resumed: bool = False


def decide(
    state: State,
    waiting: Sequence[Waiting],
    outcomes: Mapping[str, Outcome],
    held_back: Mapping[str, str],
    *,
    now_ns: int,
    after_files: int,
    after_seconds: float,
) -> Decision:
    """Ask for runs when enough files wait; try again what failed; quarantine what always fails.

    A file leaves the waiting ones only when its rows are committed, so nothing here can lose one.
    A batch that fails twice is held back and then tried file by file. A file that fails alone for the
    third time is quarantined as soon as another one gets through, or where there is no other, and the
    rest goes on. Where `MOST_IN_A_ROW` files fail alone and none gets through, nothing is quarantined:
    after a pause the others have their turn, one after the other, then these again. Once one gets
    through, these are tried once more: the fault may have been mended since. Files that another program
    holds back are its own to try.

    Args:
        waiting: files that wait, of this program's subjects.
        outcomes: run key -> how its run stands.
        held_back: content hash -> `held` or `quarantined`.
        after_files: ask when this many files wait,
        after_seconds: or when one has waited this long.
    """
    failures, deaths, held_back = dict(state.failures), dict(state.deaths), dict(held_back)
    pending: list[Pending] = []
    quarantined: list[str] = []
    blamed = set(state.blamed)
    # Whoever was let in by hand is no suspect any more.
    known = {*held_back, *(sha for run in state.pending for sha in run.files)}
    suspects = {sha: path for sha, path in state.suspects.items() if sha in known}
    doubted = set(state.doubted)
    # A clock that was ahead has noted a time to come.
    stopped_until_ns, has_stopped = min(state.stopped_until_ns, now_ns + _PAUSE_NS), False
    has_succeeded = False
    strange = {sha: state.strange.get(sha, 0) + 1 for sha in held_in(held_back) if sha not in failures}
    failures |= {sha: MOST_TRIES - 1 for sha, looks in strange.items() if looks > _LONG}
    for run in state.pending:
        outcome = outcomes.get(run.run_key)
        if outcome == "running":
            pending.append(run)
        elif outcome is None and run.looks < _PATIENCE:
            pending.append(run.model_copy(update={"looks": run.looks + 1}))
        elif outcome == "succeeded":
            has_succeeded = True
            failures = {sha: n for sha, n in failures.items() if sha not in run.files}
            deaths = {sha: n for sha, n in deaths.items() if sha not in run.files}
            if stopped_until_ns:
                doubted |= suspects.keys()
                suspects, stopped_until_ns = {}, 0
            doubted -= run.files.keys()
            quarantined += _convict(suspects, held_back, spared=run.files.keys())
        elif outcome in ("failed", "died") and _blame(
            run, failures, deaths if outcome == "died" else None, blamed, held_back, suspects
        ):
            if doubted & run.files.keys():
                quarantined += _convict(suspects, held_back, spared=suspects.keys() - run.files.keys())
            has_stopped = len(suspects) >= MOST_IN_A_ROW
            stopped_until_ns = now_ns + _PAUSE_NS if has_stopped else stopped_until_ns

    requests: list[Request] = []
    serial = state.serial
    if not pending and now_ns >= stopped_until_ns:
        free = [file for file in waiting if file.file_sha256 not in held_back]
        # A file that is being tried alone is not waited for, and nothing is mixed into its run.
        alone = [file for file in free if failures.get(file.file_sha256, 0) >= MOST_TRIES - 1][:1]
        held = sorted(filter(failures.__contains__, held_in(held_back)), key=suspects.__contains__)
        if alone or is_due(free, now_ns, after_files, after_seconds):
            serial += 1
            blamed = set()
            requests = _requests(alone or free, serial)
        if not requests and held and len(suspects) < MOST_IN_A_ROW and set(held) <= set(suspects):
            # There is no other to compare with.
            quarantined += _convict(suspects, held_back)
        elif held and (has_succeeded or not requests):
            # The next held file is tried at the next look, also where others always wait.
            del held_back[held[0]]
    pending += [Pending(run_key=request.run_key, files=request.files) for request in requests]
    return Decision(
        requests=requests,
        state=State(
            pending=pending,
            failures=failures,
            deaths=deaths,
            blamed=sorted(blamed),
            serial=serial,
            suspects=suspects,
            doubted=sorted(doubted),
            stopped_until_ns=stopped_until_ns,
            strange={sha: looks for sha, looks in strange.items() if sha not in failures},
        ),
        held_back=held_back,
        quarantined=quarantined,
        has_stopped=has_stopped,
        has_resumed=state.stopped_until_ns > 0 and stopped_until_ns == 0,
    )


def held_in(held_back: Mapping[str, str]) -> list[str]:
    """Of the files that are held back, those that are to be tried again, in their turn."""
    return [sha for sha, why in held_back.items() if why == "held"]


def _blame(
    run: Pending,
    failures: dict[str, int],
    deaths: dict[str, int] | None,
    blamed: set[str],
    held_back: dict[str, str],
    suspects: dict[str, str],
) -> bool:
    """Count a failed run against its files, once an attempt; returns whether a file has failed alone to the end.

    Args:
        deaths: of a run that died.
    """
    is_last_try = False
    for sha, path in run.files.items():
        # A file of several spans of days has several runs in one attempt.
        if sha in blamed:
            continue
        blamed.add(sha)
        if deaths is not None:
            deaths[sha] = deaths.get(sha, 0) + 1
            if deaths[sha] % _DEATHS:
                continue
        failures[sha] = failures.get(sha, 0) + 1
        if len(run.files) == 1 and failures[sha] >= MOST_TRIES:
            # Behind the others: their turn is first.
            held_back.pop(sha, None)
            held_back[sha] = "held"
            suspects[sha] = path
            is_last_try = True
        elif len(run.files) > 1 and failures[sha] >= MOST_TRIES - 1:
            held_back[sha] = "held"
    return is_last_try


def _convict(suspects: dict[str, str], held_back: dict[str, str], spared: Set[str] = frozenset()) -> list[str]:
    """Quarantine the files that failed alone, but those spared; returns their paths."""
    convicted = {sha: suspects.pop(sha) for sha in list(suspects) if sha not in spared}
    held_back.update(dict.fromkeys(convicted, "quarantined"))
    return list(convicted.values())


def _requests(batch: Sequence[Waiting], serial: int) -> list[Request]:
    """A run for each contiguous span of the days of some files; one without days where none has any."""
    found: list[Request] = []
    all_spans: list[tuple[date, date] | None] = [*spans({day for file in batch for day in file.days})]
    for span in all_spans or [None]:
        files = [
            file
            for file in batch
            if span is None or not file.days or any(span[0] <= day <= span[1] for day in file.days)
        ]
        found.append(
            Request(
                run_key=fingerprint(files, span, serial),
                days=span,
                files={file.file_sha256: file.source_file for file in files},
                subjects=frozenset(name for file in files for name in file.subjects),
            )
        )
    return found
