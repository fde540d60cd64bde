"""Who is at work on a data directory: a watcher, so that sensors leave fresh files to it, or Dagster's daemon.

A watcher holds a lock for as long as the process lives: the system lets go of it whatever happens. The daemon
leaves a heartbeat in its instance.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from hospital_assets.automation.history import read_history
from hospital_assets.files import is_locked
from hospital_assets.settings import Settings

#: A daemon that lives has left a heartbeat within this time: Dagster writes one every 30 seconds.
_HEARTBEAT_SECONDS = 90


def watch_lock(settings: Settings) -> contextlib.AbstractContextManager[bool]:
    """Hold the place of the one watcher of a data directory; False where another has it."""
    return held(_lock_file(settings))


def dev_lock(settings: Settings) -> contextlib.AbstractContextManager[bool]:
    """Hold the place of the one `hospital dev` of a data directory; False where another has it."""
    return held(_dev_file(settings))


@contextlib.contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold a lock for as long as this process lives; False where another has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for pause in (*[0.02] * 5, None):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if pause is None:
                    yield False
                    return
                # Somebody who only looks has it for less than that.
                time.sleep(pause)
            else:
                break
        yield True


def is_watched(settings: Settings) -> bool:
    """Whether a watcher is at work on the data directory."""
    return is_locked(_lock_file(settings))


def is_served(settings: Settings) -> bool:
    """Whether `hospital dev` is at work on the data directory."""
    return is_locked(_dev_file(settings))


def has_daemon(settings: Settings, now: datetime) -> bool:
    """Whether Dagster's daemon is at work on the data directory, or was a moment ago.

    Raises:
        HistoryError: nobody can tell.
    """
    beat = read_history(settings).heartbeat
    # One of a clock that was ahead is none.
    return beat is not None and abs((now - beat).total_seconds()) < _HEARTBEAT_SECONDS


def at_work(settings: Settings, now: datetime) -> list[str]:
    """What loads or publishes by itself in a data directory, in words: for commands that must be alone.

    Raises:
        HistoryError: see `has_daemon`.
    """
    found = ["the watcher (`hospital watch`)"] if is_watched(settings) else []
    if is_served(settings):
        return [*found, "`hospital dev`"]
    return [*found, "Dagster's daemon"] if has_daemon(settings, now) else found


def _dev_file(settings: Settings) -> Path:
    return settings.warehouse_file.with_name("dev.lock")


def _lock_file(settings: Settings) -> Path:
    return settings.warehouse_file.with_name("watch.lock")
