"""Whether a watcher is at work, so that sensors leave fresh files to it.

A lock held for as long as the process lives: the system lets go of it whatever happens.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from hospital_assets.settings import Settings


def watch_lock(settings: Settings) -> contextlib.AbstractContextManager[bool]:
    """Hold the place of the one watcher of a data directory; False where another has it."""
    return _held(_lock_file(settings))


def dev_lock(settings: Settings) -> contextlib.AbstractContextManager[bool]:
    """Hold the place of the one `hospital dev` of a data directory; False where another has it."""
    return _held(_dev_file(settings))


@contextlib.contextmanager
def _held(path: Path) -> Iterator[bool]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def is_watched(settings: Settings) -> bool:
    """Whether a watcher is at work on the data directory."""
    return _is_held(_lock_file(settings))


def is_served(settings: Settings) -> bool:
    """Whether `hospital dev` is at work on the data directory."""
    return _is_held(_dev_file(settings))


def _is_held(path: Path) -> bool:
    try:
        with path.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _dev_file(settings: Settings) -> Path:
    return settings.warehouse_file.with_name("dev.lock")


def _lock_file(settings: Settings) -> Path:
    return settings.warehouse_file.with_name("watch.lock")
