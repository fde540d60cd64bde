"""An OpenSSH server for tests: on a port of its own, with keys of its own, for the user who runs the test."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hospital_assets.sources.remote import SFTP_HOSTS, SFTP_KEY

SSHD = shutil.which("sshd") or ("/usr/sbin/sshd" if Path("/usr/sbin/sshd").exists() else None)


@contextmanager
def sftp_server(folder: Path) -> Iterator[tuple[str, Path, dict[str, str]]]:
    """A server's address, the folder it gives, and an environment that may enter; skips where sshd is missing.

    Args:
        folder: where its keys and what it gives (`in`) are put.
    """
    paramiko = pytest.importorskip("paramiko", reason="paramiko is not installed (extra sftp)")
    if SSHD is None:
        pytest.skip("sshd is not installed (apt install openssh-server)")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    keys = {name: paramiko.ECDSAKey.generate() for name in ("host", "user")}
    for name, key in keys.items():
        key.write_private_key_file(str(folder / name))
    (folder / "authorized").write_text(f"{keys['user'].get_name()} {keys['user'].get_base64()}\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lines = [
        f"HostKey {folder / 'host'}",
        "ListenAddress 127.0.0.1",
        f"Port {port}",
        f"AuthorizedKeysFile {folder / 'authorized'}",
        f"PidFile {folder / 'pid'}",
        "StrictModes no",
        "UsePAM no",
        "PasswordAuthentication no",
        # Clients that are killed before they have entered leave nobody waiting outside.
        "MaxStartups 100",
        "Subsystem sftp internal-sftp",
    ]
    (folder / "sshd_config").write_text("\n".join(lines) + "\n")
    (folder / "known").write_text(f"[127.0.0.1]:{port} {keys['host'].get_name()} {keys['host'].get_base64()}\n")
    given = folder / "in"
    given.mkdir()
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.readline()
    assert "listening" in said, said
    threading.Thread(target=process.stderr.read, daemon=True).start()
    try:
        environment = {SFTP_HOSTS: str(folder / "known"), SFTP_KEY: str(folder / "user")}
        yield f"sftp://{getpass.getuser()}@127.0.0.1:{port}{given}", given, environment
    finally:
        process.terminate()
        process.wait()
