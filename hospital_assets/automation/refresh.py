"""The planner: which runs to ask for now, which files to hold back.

Pure: the landing folder, the runs and the clock come in, a decision goes out. The sensors, `hospital
refresh` and `hospital watch` carry it out, each in its way; what becomes of a file whose runs fail is
decided here for all three.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Literal

from pydantic import BaseModel, Field

from hospital_assets.landing.waiting import Waiting, fingerprint, is_due, spans

Outcome = Literal["running", "succeeded", "failed", "stopped"]

#: A file is tried this often; the last time alone.
MOST_TRIES = 3
#: Looks after which a run that never showed up is asked for again.
_PATIENCE = 60


class Pending(BaseModel):
    """A run that was asked for.

    Attributes:
        run_key: what it was asked for as.
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
        blamed: files that the last attempt was counted against; it may have had several runs.
        serial: makes a later request for the same files another one.
    """

    pending: list[Pending] = Field(default_factory=list)
    failures: dict[str, int] = Field(default_factory=dict)
    blamed: list[str] = Field(default_factory=list)
    serial: int = 0


class Request(BaseModel):
    """A run to ask for.

    Attributes:
        run_key: what it is asked for as.
        days: first and last service day; None where the files have no days (reference data, or
            files that are only to be written down).
        files: content hash -> path of the files it loads.
        subjects: what the files feed.
    """

    run_key: str
    days: tuple[date, date] | None
    files: dict[str, str] = Field(default_factory=dict)
    subjects: frozenset[str] = frozenset()


class Decision(BaseModel):
    """What to do now, and what to remember.

    Attributes:
        requests: runs to ask for.
        state: for the next look.
        held_back: content hash -> `held` or `quarantined`; runs leave these files out.
        quarantined: paths of the files that have just been quarantined.
    """

    requests: list[Request]
    state: State
    held_back: dict[str, str]
    quarantined: list[str]


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
    A batch that fails twice is held back and then tried file by file; a file that fails alone for
    the third time is quarantined and the rest goes on.

    Args:
        state: what the last look left.
        waiting: files that wait, of this program's subjects.
        outcomes: run key -> how its run stands; `stopped` for a run that died without failing.
        held_back: content hash -> `held` or `quarantined`.
        now_ns: the clock.
        after_files: ask when this many files wait,
        after_seconds: or when one has waited this long.
    """
    failures, held_back = dict(state.failures), dict(held_back)
    pending: list[Pending] = []
    quarantined: list[str] = []
    blamed = set(state.blamed)
    for run in state.pending:
        outcome = outcomes.get(run.run_key)
        if outcome == "running":
            pending.append(run)
        elif outcome is None and run.looks < _PATIENCE:
            pending.append(run.model_copy(update={"looks": run.looks + 1}))
        elif outcome == "succeeded":
            failures = {sha: n for sha, n in failures.items() if sha not in run.files}
        elif outcome == "failed":
            quarantined += _blame(run, failures, blamed, held_back)

    requests: list[Request] = []
    serial = state.serial
    if not pending:
        free = [file for file in waiting if file.file_sha256 not in held_back]
        # A file that is being tried alone is not waited for, and nothing is mixed into its run.
        alone = [file for file in free if failures.get(file.file_sha256, 0) >= MOST_TRIES - 1][:1]
        held = [sha for sha, why in held_back.items() if why == "held"]
        if alone or is_due(free, now_ns, after_files, after_seconds):
            serial += 1
            blamed = set()
            requests = _requests(alone or free, serial)
        elif held:
            # Give the next held file its chance.
            del held_back[held[0]]
    pending += [Pending(run_key=request.run_key, files=request.files) for request in requests]
    return Decision(
        requests=requests,
        state=State(pending=pending, failures=failures, blamed=sorted(blamed), serial=serial),
        held_back=held_back,
        quarantined=quarantined,
    )


def _blame(run: Pending, failures: dict[str, int], blamed: set[str], held_back: dict[str, str]) -> list[str]:
    """Count a failed run against its files, once an attempt; returns the paths of those that are now quarantined."""
    quarantined = []
    for sha, path in run.files.items():
        # A file of several spans of days has several runs in one attempt.
        if sha in blamed:
            continue
        blamed.add(sha)
        failures[sha] = failures.get(sha, 0) + 1
        if len(run.files) == 1 and failures[sha] >= MOST_TRIES:
            held_back[sha] = "quarantined"
            quarantined.append(path)
        elif len(run.files) > 1 and failures[sha] >= MOST_TRIES - 1:
            held_back[sha] = "held"
    return quarantined


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
