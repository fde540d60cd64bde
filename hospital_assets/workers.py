"""Processes that work for this one, and end with it.

Belongs here: how work is spread over the processors, and that no process is left behind. Does not: what is done.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

#: Fewer pieces than this are done here: a process takes half a second to start.
_LEAST_PIECES = 12
#: A simulation needs little memory, but not nothing.
_MOST_PROCESSES = 8
_Piece = TypeVar("_Piece")
_Result = TypeVar("_Result")


def spread(function: Callable[[_Piece], _Result], pieces: Iterable[_Piece]) -> list[_Result]:
    """As `map`, over all processors where there is enough to do.

    For work in Python alone: threads would take turns at it.

    Args:
        function: of a module, not of another function: processes find it by its name.
        pieces: what it is given, one by one; a second or less of work each.

    Raises:
        BrokenProcessPool: the system has ended a process, as for want of memory.
    """
    todo = list(pieces)
    processes = min(os.cpu_count() or 1, _MOST_PROCESSES)
    if processes < 2 or len(todo) < _LEAST_PIECES:
        return list(map(function, todo))
    with ProcessPoolExecutor(processes, get_context("spawn"), end_with, (os.getpid(),)) as pool:
        return list(pool.map(function, todo))


def end_with(parent: int) -> None:
    """End this process when the one that started it has gone, as nobody else would, and not before.

    A terminal sends Ctrl-C to it, too, so that its end would be taken for a fault of what it is asked.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_wait_for, args=(parent,), daemon=True).start()


def _wait_for(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
