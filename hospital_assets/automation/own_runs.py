"""Runs that a command carries out itself, as `hospital build` does: nobody else knows when it was killed.

A command holds a lock for each of its runs; the system lets go of it whatever happens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from hospital_assets.automation.instance import UNFINISHED, end
from hospital_assets.automation.presence import held
from hospital_assets.files import is_locked
from hospital_assets.settings import Settings

#: Tag of a run that a command carries out itself: nobody but the command can end it.
OF_COMMAND = {"hospital/process": "command"}


@contextlib.contextmanager
def run_lock(settings: Settings, run_id: str) -> Iterator[None]:
    """Show for as long as a command carries out a run that it does."""
    path = _run_file(settings, run_id)
    try:
        with held(path):
            yield
    finally:
        path.unlink(missing_ok=True)


def end_dead_runs(settings: Settings, instance: dg.DagsterInstance) -> int:
    """Have Dagster know of runs whose command was killed; returns how many. Others would wait for them for hours."""
    runs = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED, tags=OF_COMMAND))
    dead = [run for run in runs if not is_locked(_run_file(settings, run.run_id))]
    end(instance, dead, "the command that carried it out was killed")
    for run in dead:
        _run_file(settings, run.run_id).unlink(missing_ok=True)
    return len(dead)


def _run_file(settings: Settings, run_id: str) -> Path:
    return settings.dagster_home / "at_work" / f"{run_id}.lock"
