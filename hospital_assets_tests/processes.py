"""Other processes in tests: how ours is called, and how any is waited for and ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def hospital(data_dir: Path, *words: str) -> list[str]:
    """The command line of `hospital` over a data directory."""
    return [sys.executable, "-m", "hospital_assets.cli", "--data-dir", str(data_dir), *words]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def started(
    command: Sequence[str | Path], ends: signal.Signals = signal.SIGKILL, **options: Any
) -> Iterator[subprocess.Popen[Any]]:
    """A process that ends with the block, as does its group where it leads one (`start_new_session`)."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            if options.get("start_new_session") and process.poll() is None:
                os.killpg(process.pid, ends)
            process.send_signal(ends)


def until(found: Callable[[], Any], process: subprocess.Popen[Any] | None = None, log: Path | None = None) -> Any:
    """Wait for an answer, as long as a process lives that is to give it; how long that takes decides nothing."""
    gives_up = time.monotonic() + 900
    while not (answer := found()):
        is_hopeless = time.monotonic() > gives_up or (process is not None and process.poll() is not None)
        assert not is_hopeless, log.read_text(errors="replace")[-3000:] if log else "never came"
        time.sleep(0.05)
    return answer
