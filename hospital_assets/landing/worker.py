"""A process that reads large files for this one, and that is ended when a file takes too much time or memory.

Neither a parser nor a decompressor can be stopped from within Python. Files up to some size are read in this
process all the same: their size bounds what they can cost, and a process for each would cost more. Belongs here: the
process, its limits, and from what size on it is asked. What it is asked is the readers' matter.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

from hospital_assets.landing.content import FAILURES, UnreadableError, why_unreadable
from hospital_assets.settings import FileLimits
from hospital_assets.workers import end_with

#: Up to this many bytes files are read in this process. Readers in Python (HL7 v2, FHIR) hold it up, so they get less.
_HERE = {"csv": 64_000_000, "jsonl": 64_000_000}
_HERE_IN_PYTHON = 1_000_000
_LOOK_SECONDS = 0.05
_LENGTH = 8
_READY = b"."
_Result = TypeVar("_Result")


def most_bytes_here(file_format: str) -> int:
    """Up to which size, unpacked, a file of a format is read in this process."""
    return _HERE.get(file_format, _HERE_IN_PYTHON)


class Worker:
    """The process: started when it is first asked, and anew after it had to be ended; ended with the block.

    Args:
        limits: what it may take for one request.
    """

    def __init__(self, limits: FileLimits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def run(self, function: Callable[..., _Result], *arguments: object) -> _Result:
        """The result of a function of a module, computed in the process; requests wait for each other.

        Raises:
            UnreadableError: it raised an error, took too long or too much memory, or the process died of it.
            OSError: what the system said to it, as of a full disk; no fault of what it reads.
        """
        with self._lock:
            process = self._process or self._start()
            assert process.stdin is not None and process.stdout is not None  # noqa: S101  (both are pipes)
            try:
                _send(process.stdin, (function, arguments))
                self._wait(process, process.stdout)
                is_result, value = _receive(process.stdout)
            except UnreadableError:
                self._end()
                raise
            except (OSError, EOFError, pickle.PickleError):
                self._end()
                raise UnreadableError(
                    f"its reader died of it (exit code {process.returncode}); check what was delivered"
                ) from None
        if not is_result:
            raise UnreadableError(value) if isinstance(value, str) else OSError(*value)
        return value  # type: ignore[no-any-return]

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "hospital_assets.landing.worker"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603
        if self._process.stdout is not None:
            # Its imports are not the file's fault.
            self._process.stdout.read(len(_READY))
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _wait(self, process: subprocess.Popen[bytes], answers: IO[bytes]) -> None:
        deadline = time.monotonic() + self._limits.seconds
        while not select.select([answers], [], [], _LOOK_SECONDS)[0]:
            if time.monotonic() > deadline:
                raise UnreadableError(
                    f"reading it took over {self._limits.seconds:,} s and was ended; deliver it in parts, or raise "
                    "most_file_seconds in hospital.toml"
                )
            if _memory(process.pid) > self._limits.memory_megabytes * 1_000_000:
                raise UnreadableError(
                    f"reading it took over {self._limits.memory_megabytes:,} MB of memory and was ended; deliver it in "
                    "parts, or raise most_file_memory_megabytes in hospital.toml"
                )


def _memory(process: int) -> int:
    """Bytes of memory that a process has; 0 where the system does not tell."""
    try:
        resident = Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return 0
    return int(resident) * os.sysconf("SC_PAGE_SIZE")


def _send(file: IO[bytes], message: object) -> None:
    data = pickle.dumps(message)
    file.write(len(data).to_bytes(_LENGTH) + data)
    file.flush()


def _receive(file: IO[bytes]) -> Any:
    length = file.read(_LENGTH)
    if len(length) < _LENGTH:
        raise EOFError
    return pickle.loads(file.read(int.from_bytes(length)))  # noqa: S301  (from our own process)


def _serve() -> None:
    """Answer requests until the one who asks has gone."""
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # Whatever a library prints must not stand among the answers.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    end_with(os.getppid())
    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        answers.write(_READY)
        answers.flush()
        while True:
            function, arguments = _receive(asked)
            answer: tuple[bool, object]
            try:
                answer = (True, function(*arguments))
            except FAILURES as error:
                # What the system says has a number; the name of a file is none of what is told.
                if isinstance(error, OSError) and error.errno is not None:
                    answer = (False, (error.errno, error.strerror))
                else:
                    answer = (False, why_unreadable(error))
            _send(answers, answer)


if __name__ == "__main__":
    _serve()
