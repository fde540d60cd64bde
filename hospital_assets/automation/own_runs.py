"""Runs that nobody carries out any more, as Dagster does not know by itself: others would wait for them for hours.

A command that carries out runs itself, as `hospital build` does, holds a lock for each; the system lets go of it
whatever happens. What the daemon has launched goes with the code server that carries it out.
"""

from __future__ import annotations

import contextlib
import json
import socket as connections
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
from dagster._core.storage.tags import GRPC_INFO_TAG

from hospital_assets.automation.history import is_in_postgres
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
    """Have Dagster know of runs whose command was killed; returns how many."""
    runs = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED, tags=OF_COMMAND))
    dead = [run for run in runs if not is_locked(_run_file(settings, run.run_id))]
    if is_in_postgres():
        # It may hold runs of other directories: of ours, the one who was killed has left the lock's file.
        dead = [run for run in dead if _run_file(settings, run.run_id).exists()]
    end(instance, dead, "the command that carried it out was killed")
    for run in dead:
        _run_file(settings, run.run_id).unlink(missing_ok=True)
    return len(dead)


def end_unserved_runs(instance: dg.DagsterInstance, socket: Path) -> int:
    """Have Dagster know of runs whose code server has gone; returns how many. Called where one is about to start.

    Args:
        socket: where it will listen.
    """
    runs = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
    served = [
        (run, str(json.loads(run.tags[GRPC_INFO_TAG]).get("socket"))) for run in runs if GRPC_INFO_TAG in run.tags
    ]
    if is_in_postgres():
        # It may hold runs of other machines, whose sockets nobody sees from here.
        served = [(run, place) for run, place in served if place == str(socket)]
    dead = [run for run, place in served if not _answers(place)]
    end(instance, dead, "the code server that carried it out has gone")
    return len(dead)


def _answers(socket: str) -> bool:
    with connections.socket(connections.AF_UNIX) as probe:
        return probe.connect_ex(socket) == 0


def _run_file(settings: Settings, run_id: str) -> Path:
    return settings.dagster_home / "at_work" / f"{run_id}.lock"
