"""A PostgreSQL server for tests: on a socket of its own, in a directory that goes with it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from hospital_assets_tests.processes import started, until


@dataclass
class Server:
    """A PostgreSQL server on a socket of its own, without a password: access is what we test."""

    folder: Path

    def dsn(self, login: str = "postgres") -> str:
        return f"postgresql:///hospital?host={self.folder}&user={login}"


def _binary(name: str) -> str:
    found = shutil.which(name) or next(
        (str(p) for p in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)), None
    )
    if found is None:
        pytest.skip(f"PostgreSQL's {name} is not installed (Debian: apt-get install postgresql)")
    return found


@contextmanager
def postgresql_server() -> Iterator[Server]:
    """A server with an empty database `hospital`, until the block ends; skips where PostgreSQL is not installed."""
    initdb, postgres, psql = _binary("initdb"), _binary("postgres"), _binary("psql")
    # A socket's path may have about 100 characters, so not below pytest's own directory.
    with tempfile.TemporaryDirectory(prefix="pg") as name:
        folder = Path(name)
        who: dict[str, str] = {}
        if os.getuid() == 0:  # initdb refuses root
            who = {"user": "nobody", "group": "nogroup"}
            shutil.chown(folder, **who)
        run = {"check": True, "capture_output": True, "cwd": folder, **who}
        data = folder / "data"
        subprocess.run([initdb, "-D", data, "-A", "trust", "-U", "postgres", "-N"], **run)  # type: ignore[call-overload]
        command = [postgres, "-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
        outputs = {"stdout": subprocess.DEVNULL, "stderr": (folder / "log").open("w")}
        with started(command, signal.SIGTERM, cwd=folder, **outputs, **who) as process:
            ready = [psql, "-h", folder, "-U", "postgres", "-c", "create database hospital"]
            until(lambda: subprocess.run(ready, capture_output=True).returncode == 0, process, folder / "log")
            yield Server(folder)
