"""The three processes of Dagster for a data directory: the code server, the webserver and the daemon.

The code server holds the definitions; the webserver shows them; the daemon runs sensors, schedules and the queue. They
meet at a socket that only the owner of the directory can open: whoever reaches a code server can run anything. Belongs
here: how each is started. Does not: who starts them (`hospital dev` together, systemd each).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from hospital_assets.automation.instance import dagster_environment
from hospital_assets.files import replace_text
from hospital_assets.logs import is_json
from hospital_assets.settings import Settings, SettingsError

Process = Literal["code", "webserver", "daemon"]
#: Where the code server listens; without it, in the Dagster home.
CODE_SOCKET = "HOSPITAL_CODE_SOCKET"
#: The longest name that the system gives a socket, less the mark of its kind.
_LONGEST_SOCKET = 100
#: Of `prctl`: PR_SET_PDEATHSIG.
_SET_SIGNAL_AT_PARENT_S_END = 1
_WORKSPACE = """\
# Written at each start. Where Dagster's webserver and daemon find the definitions.
load_from:
  - grpc_server:
      socket: {socket}
      location_name: hospital_assets
"""


def code_socket(settings: Settings) -> Path:
    """Where the code server of a data directory listens.

    Raises:
        SettingsError: the path is longer than the system takes.
    """
    socket = Path(os.environ.get(CODE_SOCKET) or settings.dagster_home.resolve() / "code.sock")
    if len(str(socket)) > _LONGEST_SOCKET:
        raise SettingsError(f"{socket} is too long for a socket: set {CODE_SOCKET} to a shorter path")
    return socket


def command_of(process: Process, settings: Settings, socket: Path, port: int = 3000, prefix: str = "") -> list[str]:
    """How a process is started, as a module of this Python: the scripts need not be on the path.

    Args:
        port: of the webserver, on this machine only: it has no sign-in of its own.
        prefix: path under which a proxy shows the webserver, as in /dagster.
    """
    module = [sys.executable, "-m"]
    # In Dagster's own words: `event`, `level`, `timestamp`.
    as_json = ["--log-format", "json"] if is_json() else []
    if process == "code":
        definitions = ["-m", "hospital_assets.definitions", "--location-name", "hospital_assets"]
        return [
            *(*module, "dagster", "code-server", "start", "--socket", str(socket), *definitions),
            *("--use-python-environment-entry-point", "--log-level", "warning", *as_json),
        ]
    workspace = settings.dagster_home / "workspace.yaml"
    replace_text(workspace, _WORKSPACE.format(socket=socket))
    if process == "daemon":
        return [*module, "dagster._daemon", "run", "-w", str(workspace), "--log-level", "warning", *as_json]
    at = ["-h", "127.0.0.1", "-p", str(port), *(["--path-prefix", prefix] if prefix else [])]
    quiet = ["--uvicorn-log-level", "warning", "--dagster-log-level", "warning", *as_json]
    return [*module, "dagster_webserver", "-w", str(workspace), *at, *quiet]


def end_with_parent() -> None:
    """Have the system end this process when the one that starts it has gone, however it went: on Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_SIGNAL_AT_PARENT_S_END, signal.SIGTERM)


def environment_of(settings: Settings) -> Mapping[str, str]:
    """The environment that a process of Dagster runs in; makes its home.

    Raises:
        SettingsError: see `prepare_dagster_home`.
    """
    return {**os.environ, **dagster_environment(settings), "HOSPITAL_DATA_DIR": str(settings.data_dir.resolve())}
