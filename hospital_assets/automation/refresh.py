"""What a sensor decides at a look: which runs to ask for, which files to hold back.

Pure: the landing folder, the runs and the clock come in, a decision goes out. Sensors carry it out.
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
    """What a sensor remembers between looks; its cursor.

    Attributes:
        pending: runs asked for and not yet ended.
        failures: content hash -> runs that failed with this file.
        serial: makes a later request for the same files another one.
    """

    pending: list[Pending] = Field(default_factory=list)
    failures: dict[str, int] = Field(default_factory=dict)
    serial: int = 0


class Request(BaseModel):
    """A run to ask for: over a span of service days, or of the ledger alone (`days` is None)."""

    run_key: str
    days: tuple[date, date] | None
    files: int


class Decision(BaseModel):
    """What to do now, and what to remember."""

    requests: list[Request]
    state: State
    set_aside: dict[str, str]
    poisoned: list[str]


def decide(
    state: State,
    waiting: Sequence[Waiting],
    outcomes: Mapping[str, Outcome],
    set_aside: Mapping[str, str],
    *,
    now_ns: int,
    after_files: int,
    after_seconds: float,
) -> Decision:
    """Ask for runs when enough files wait; try again what failed; set aside what always fails.

    A file leaves the waiting ones only when its rows are committed, so nothing here can lose one.
    A batch that fails twice is held back and then tried file by file; a file that fails alone for
    the third time is poisoned and the rest goes on.

    Args:
        state: what the last look left.
        waiting: files that wait, of this sensor's subjects.
        outcomes: run key -> how its run stands; `stopped` for a run that died without failing.
        set_aside: content hash -> `held` or `poisoned`.
        now_ns: the clock.
        after_files: ask when this many files wait,
        after_seconds: or when one has waited this long.
    """
    failures, aside = dict(state.failures), dict(set_aside)
    pending: list[Pending] = []
    poisoned: list[str] = []
    for run in state.pending:
        outcome = outcomes.get(run.run_key)
        if outcome is None and run.looks < _PATIENCE:
            pending.append(run.model_copy(update={"looks": run.looks + 1}))
        elif outcome == "running":
            pending.append(run)
        elif outcome == "succeeded":
            failures = {sha: n for sha, n in failures.items() if sha not in run.files}
        elif outcome == "failed":
            for sha, path in run.files.items():
                failures[sha] = failures.get(sha, 0) + 1
                if len(run.files) == 1 and failures[sha] >= MOST_TRIES:
                    aside[sha] = "poisoned"
                    poisoned.append(path)
                elif len(run.files) > 1 and failures[sha] >= MOST_TRIES - 1:
                    aside[sha] = "held"

    busy = {sha for run in pending for sha in run.files}
    free = [f for f in waiting if f.file_sha256 not in busy and f.file_sha256 not in aside]
    held = [sha for sha, why in aside.items() if why == "held"]
    requests: list[Request] = []
    serial = state.serial
    # A file that is being tried alone is not waited for, and nothing is mixed into its run.
    alone = [f for f in free if failures.get(f.file_sha256, 0) >= MOST_TRIES - 1]
    batch = alone[:1] or free
    if batch and not pending and (alone or is_due(batch, now_ns, after_files, after_seconds)):
        serial += 1
        days = sorted({day for file in batch for day in file.days})
        asked: list[tuple[date, date] | None] = [*spans(days)] or [None]
        for span in asked:
            of_span = [
                file
                for file in batch
                if span is None or not file.days or any(span[0] <= day <= span[1] for day in file.days)
            ]
            run_key = fingerprint(of_span, span, serial)
            requests.append(Request(run_key=run_key, days=span, files=len(of_span)))
            pending.append(Pending(run_key=run_key, files={f.file_sha256: f.source_file for f in of_span}))
    elif held and not pending:
        # Give the next held file its chance.
        del aside[held[0]]
    return Decision(
        requests=requests,
        state=State(pending=pending, failures=failures, serial=serial),
        set_aside=aside,
        poisoned=poisoned,
    )
