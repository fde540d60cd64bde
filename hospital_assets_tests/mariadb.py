"""A MariaDB server for tests: on a socket of its own, in a directory that goes with it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hospital_assets_tests.processes import started, until

DRIVER = Path("/usr/lib/x86_64-linux-gnu/odbc/libmaodbc.so")


@contextmanager
def mariadb_server() -> Iterator[str]:
    """The ODBC connection string of a server with an empty database; skips where MariaDB or its driver is missing."""
    install, server, client = (shutil.which(name) for name in ("mariadb-install-db", "mariadbd", "mariadb"))
    if install is None or server is None or client is None or not DRIVER.exists():
        pytest.skip("MariaDB and its driver are not installed (Debian: apt-get install mariadb-server odbc-mariadb)")
    with tempfile.TemporaryDirectory(prefix="my") as name:
        folder, who = Path(name), []
        if os.getuid() == 0:  # the server refuses root
            who = ["--user=mysql"]
            shutil.chown(folder, "mysql")
        socket, data = folder / "s", folder / "data"
        rights = ["--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run([install, "--no-defaults", f"--datadir={data}", *who, *rights], check=True, capture_output=True)
        with (folder / "log").open("w") as log:
            command = [server, "--no-defaults", f"--datadir={data}", f"--socket={socket}", "--skip-networking", *who]
            with started(command, signal.SIGTERM, stdout=log, stderr=log) as process:
                asked = [client, "--no-defaults", "-S", socket, "-u", "root", "-e", "create database hospital"]
                until(lambda: subprocess.run(asked, capture_output=True).returncode == 0, process, folder / "log")
                yield f"Driver={DRIVER};Socket={socket};Database=hospital;UID=root"
