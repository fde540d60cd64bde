"""An OpenSSH server for tests: on a port of its own, with keys of its own, for the user who runs the test."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hospital_assets.sources.remote import SFTP_HOSTS, SFTP_KEY
from hospital_assets_tests.processes import free_port, started, until

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
    port = free_port()
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
    command, log = [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], folder / "log"
    with log.open("w") as said, started(command, signal.SIGTERM, stderr=said) as process:
        until(lambda: "listening" in log.read_text(), process, log)
        environment = {SFTP_HOSTS: str(folder / "known"), SFTP_KEY: str(folder / "user")}
        yield f"sftp://{getpass.getuser()}@127.0.0.1:{port}{given}", given, environment


@contextmanager
def password_server(password: str, folder: Path, known: Path) -> Iterator[str]:
    """The address of a server that lets in whoever knows a password, which OpenSSH does for users of the machine only.

    Args:
        password: lets in.
        folder: what it gives.
        known: a file of known hosts, to which its key is added.
    """
    import paramiko

    class Door(paramiko.ServerInterface):
        def get_allowed_auths(self, username: str) -> str:
            return "password"

        def check_auth_password(self, username: str, given: str) -> int:
            return paramiko.AUTH_SUCCESSFUL if given == password else paramiko.AUTH_FAILED

        def check_channel_request(self, kind: str, number: int) -> int:
            return paramiko.OPEN_SUCCEEDED

    class Files(paramiko.SFTPServerInterface):
        def list_folder(self, path: str) -> list[paramiko.SFTPAttributes]:
            return [paramiko.SFTPAttributes.from_stat(p.stat(), p.name) for p in (folder / path.lstrip("/")).iterdir()]

        def lstat(self, path: str) -> paramiko.SFTPAttributes:
            return paramiko.SFTPAttributes.from_stat((folder / path.lstrip("/")).lstat())

        stat = lstat

        def open(self, path: str, flags: int, attributes: object) -> paramiko.SFTPHandle:
            handle = paramiko.SFTPHandle(flags)
            handle.readfile = (folder / path.lstrip("/")).open("rb")
            handle.stat = lambda: self.lstat(path)
            return handle

    key, transports = paramiko.ECDSAKey.generate(), []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with known.open("a") as file:
            file.write(f"[127.0.0.1]:{port} {key.get_name()} {key.get_base64()}\n")

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                transport = paramiko.Transport(connection)
                transport.add_server_key(key)
                transport.set_subsystem_handler("sftp", paramiko.SFTPServer, Files)
                transports.append(transport)
                transport.start_server(event=threading.Event(), server=Door())

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"sftp://asker@127.0.0.1:{port}/"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            for transport in transports:
                transport.close()
