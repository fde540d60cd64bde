"""The Dagster instance of a data directory: its home, how it runs, and where its history is stored.

Belongs here: `DAGSTER_HOME` and what is written into it. Does not: what is run. Whatever makes or opens an instance
raises SettingsError where PostgreSQL is asked for in a way that cannot work.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dagster as dg

from hospital_assets.automation.history import POSTGRES_URL, is_in_postgres
from hospital_assets.files import locked, replace_text
from hospital_assets.settings import Settings, SettingsError

#: What runs of a command are configured by: as all, but that what they print is not kept.
_OF_COMMANDS, _NO_LOGS = "commands.yaml", "no-compute-logs.yaml"
#: SQLAlchemy takes `postgresql://` for psycopg 3; dagster-postgres is made for psycopg 2.
_SCHEME = "postgresql+psycopg2://"


def scratch_instance(home: Path) -> dg.DagsterInstance:
    """An instance in a folder of its own, for runs whose events are read from their results."""
    _configure(home, "storage-scratch.yaml", _NO_LOGS)
    return dg.DagsterInstance.from_config(str(home))


@contextmanager
def dagster_instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance of a data directory, for this process: what its runs print is the terminal's alone."""
    os.environ.update(dagster_environment(settings))
    # Else Dagster has two processes for each run which a Ctrl-C ends with a traceback.
    _configure(settings.dagster_home, _storage(), _NO_LOGS, file=_OF_COMMANDS)
    with dg.DagsterInstance.from_config(os.environ["DAGSTER_HOME"], _OF_COMMANDS) as instance:
        yield instance


def make_history(settings: Settings) -> None:
    """Make the files of Dagster's history where there are none yet, by one process at a time.

    Services start together, and two that make them at once leave a history that none of them can open. A server of
    PostgreSQL sees to that itself.
    """
    home = prepare_dagster_home(settings)
    if is_in_postgres():
        return
    with locked(home / ".history.lock"):
        if not (home / "history" / "runs.db").exists():
            with dagster_instance(settings):
                pass


def end_unfinished_runs(settings: Settings, why: str) -> int:
    """Have Dagster know that no run of a data directory is at work any more; returns how many it thought were.

    A history in PostgreSQL is left alone: it did not come with the directory, and another one may be at work on it.
    """
    if is_in_postgres():
        return 0
    with dagster_instance(settings) as instance:
        runs = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
        end(instance, runs, why)
    return len(runs)


def end(instance: dg.DagsterInstance, runs: Iterable[dg.DagsterRun], why: str) -> None:
    """Have Dagster know that some runs are at work no more."""
    for run in runs:
        instance.report_run_failed(run, why)
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


#: States of runs that have not ended.
UNFINISHED = [dg.DagsterRunStatus[name] for name in ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")]
#: What an instance was made from, and it.
_kept: list[tuple[Any, dg.DagsterInstance]] = []


def kept_instance(context: dg.SensorEvaluationContext) -> dg.DagsterInstance:
    """The instance of a sensor, kept between its ticks: to make one takes 0.2 CPU seconds, a thousand times an hour."""
    ref = context.instance_ref
    if ref is None:
        return context.instance
    found = next((instance for known, instance in _kept if known == ref), None)
    if found is None:
        found = dg.DagsterInstance.from_ref(ref)
        _kept.append((ref, found))
    return found


def dagster_environment(settings: Settings) -> dict[str, str]:
    """What a Dagster process of a data directory needs in its environment; makes its home."""
    return {"DAGSTER_HOME": str(prepare_dagster_home(settings))}


def prepare_dagster_home(settings: Settings) -> Path:
    """Make `<data>/dagster` with the package's dagster.yaml for the storage in use, and return it.

    Raises:
        SettingsError: PostgreSQL is asked for with an address or an installation that cannot work.
    """
    home = settings.dagster_home
    _configure(home, _storage())
    return home


def _configure(home: Path, *parts: str, file: str = "dagster.yaml") -> None:
    texts = [(files(__package__) / name).read_text(encoding="utf-8") for name in ("dagster.yaml", *parts)]
    written, text = home / file, "\n".join(texts)
    # What only reads must not fail where nothing can be written.
    if not written.exists() or written.read_text(encoding="utf-8") != text:
        replace_text(written, text)


def _is_url(url: str) -> bool:
    """Whether it can be read as one; errors about one quote its password."""
    from sqlalchemy import exc, make_url

    try:
        make_url(url)
    except (ValueError, exc.ArgumentError):
        return False
    return True


def _storage() -> str:
    """The part of dagster.yaml that says where the history is stored."""
    url = os.environ.get(POSTGRES_URL)
    if not url:
        return "storage-sqlite.yaml"
    if not (url.startswith(_SCHEME) and _is_url(url)):
        raise SettingsError(f"{POSTGRES_URL} must begin with {_SCHEME}, as in {_SCHEME}USER:PASSWORD@HOST/DATABASE")
    if find_spec("dagster_postgres") is None:
        raise SettingsError(f"{POSTGRES_URL} needs dagster-postgres: pip install 'hospital-assets[dagster-postgres]'")
    return "storage-postgres.yaml"
