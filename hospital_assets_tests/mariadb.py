"""A MariaDB server for tests: on a socket of its own, in a directory that goes with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

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
            process = subprocess.Popen(
                [server, "--no-defaults", f"--datadir={data}", f"--socket={socket}", "--skip-networking", *who],
                stdout=log,
                stderr=log,
            )
            try:
                asked = [client, "--no-defaults", "-S", socket, "-u", "root", "-e", "create database hospital"]
                while subprocess.run(asked, capture_output=True).returncode:
                    assert process.poll() is None, (folder / "log").read_text()
                    threading.Event().wait(0.05)
                yield f"Driver={DRIVER};Socket={socket};Database=hospital;UID=root"
            finally:
                process.terminate()
                process.wait()
