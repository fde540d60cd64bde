"""Who listens at the ports of this machine, as far as its user can see; nothing is sent to anybody."""

from __future__ import annotations

import contextlib
import errno
import pwd
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_PROC = Path("/proc")
_LISTENING = "0A"
#: Addresses of the tables of sockets at which a listener keeps others from 127.0.0.1: that itself, and every address.
_HERE = ("0100007F", "00000000", "0" * 32, "0000000000000000FFFF00000100007F")

#: Commands of ours that listen.
_LISTENERS = ("dashboard", "serve", "listen", "dev")

State = Literal["free", "taken", "forbidden"]


@dataclass(frozen=True)
class Listener:
    """What listens at a port.

    Attributes:
        user: whose process it is.
        process: its number; None where it cannot be seen: it is another user's, or in a container.
        words: its command line. Never shown: it may hold a secret.
    """

    user: str
    process: int | None = None
    words: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command of ours that it is, as in `hospital dashboard` or `dagster_webserver`; empty for others."""
        programs = [word.rpartition("/")[2] for word in self.words[:3]]
        if "dagster_webserver" in programs:
            return "dagster_webserver"
        if "hospital" not in programs and "hospital_assets.cli" not in programs:
            return ""
        return " ".join(["hospital", *(word for word in self.words if word in _LISTENERS)][:2])

    @property
    def data_dir(self) -> Path | None:
        """The data directory that a command of ours works on; None where that cannot be seen."""
        folder = _PROC / str(self.process)
        try:
            if "--data-dir" in self.words[:-1]:
                named = self.words[self.words.index("--data-dir") + 1]
            else:
                environment = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
                named = dict(line.partition("=")[::2] for line in environment).get("HOSPITAL_DATA_DIR") or "data"
            return Path((folder / "cwd").readlink(), named).resolve()
        except OSError:
            return None

    def __str__(self) -> str:
        if self.process is None:
            return f"a process of user {self.user} that cannot be seen from here"
        name = self.command
        if not name:
            with contextlib.suppress(OSError):
                name = (_PROC / str(self.process) / "comm").read_text(errors="replace").strip()
        name = "".join(letter for letter in name if letter.isprintable()) or "a program"
        return f"{name} (process {self.process} of {self.user})"


def state_of(port: int) -> State:
    """Whether a process of this user could listen at a port of 127.0.0.1 now."""
    with socket.socket() as probe:
        # As servers do, so that connections that have just ended do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            return "forbidden"
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return "taken"
    return "free"


def listener_at(port: int) -> Listener | None:
    """Who listens at a port of 127.0.0.1; None where nobody does, or the system does not tell (it is not Linux)."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
                _, local, _, state, _, _, _, user, _, inode, *_ = line.split()
                address, _, number = local.rpartition(":")
                if state == _LISTENING and address in _HERE and int(number, 16) == port:
                    return _with_socket(inode, int(user))
    return None


def _with_socket(inode: str, user: int) -> Listener:
    """The process that has a socket open; the oldest, where it has been handed on."""
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        name = str(user)
    for process in sorted(int(folder.name) for folder in _PROC.glob("[0-9]*")):
        with contextlib.suppress(OSError):
            links = (str(link.readlink()) for link in (_PROC / str(process) / "fd").iterdir())
            if f"socket:[{inode}]" in links:
                return Listener(name, process, command_line(process))
    return Listener(name)


def command_line(process: int) -> tuple[str, ...]:
    """The command line of a process; empty where it has ended or cannot be seen. It may hold secrets."""
    with contextlib.suppress(OSError):
        return tuple((_PROC / str(process) / "cmdline").read_bytes().decode(errors="replace").split("\0"))
    return ()
