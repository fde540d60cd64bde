"""The commands of who runs an installation: doctor, metrics, and Dagster's processes one by one."""

from __future__ import annotations

import argparse
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hospital_assets.cli.serving import port_number
from hospital_assets.settings import Settings, engine_from_environment

if TYPE_CHECKING:
    from hospital_assets.cli.console import Commands

#: How long Dagster's other processes wait for the code server before they start without it.
_CODE_SECONDS = 60


def add_commands(commands: Commands) -> None:
    """Add these commands to the parser."""
    doctor = commands.add_parser(
        "doctor", _doctor, help="say what is missing or wrong with the installation, and what to do"
    )
    doctor.add_argument(
        "--certificate", type=Path, action="append", default=[], help="PEM file of a service whose end to look at"
    )
    doctor.add_argument(
        "--port", type=port_number, action="append", default=[], help="where a service will listen, besides the usual"
    )
    doctor.add_argument(
        "--sources", action="store_true", help="ask each source elsewhere whether it answers, and what time it is there"
    )

    metrics = commands.add_parser("metrics", _metrics, help="say how things stand as Prometheus metrics")
    metrics.add_argument(
        "--textfile", type=Path, metavar="FILE", help="replace this file of node_exporter's, which ends in .prom"
    )
    metrics.add_argument(
        "--certificate", type=Path, action="append", default=[], help="PEM file of a service whose end to state"
    )

    dagster = commands.add_parser("dagster", _dagster, help="run one of Dagster's processes alone, as a service does")
    dagster.add_argument("process", choices=["code", "webserver", "daemon"])
    dagster.add_argument(
        "--port", type=port_number, default=3000, help="of the webserver, on this machine only (default 3000)"
    )
    dagster.add_argument(
        "--path-prefix", default="", help="path under which a proxy shows the webserver, as in /dagster"
    )


def _doctor(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.operations.doctor import examine

    marks = {"ok": "ok     ", "warning": "WARNING", "error": "ERROR  "}
    levels = []
    for finding in examine(
        settings,
        engine_from_environment(),
        lambda: datetime.now(UTC),
        tuple(options.certificate),
        tuple(options.port),
        asks_sources=options.sources,
    ):
        levels.append(finding.level)
        print(f"{marks[finding.level]}  {finding.subject}: {finding.what}", flush=True)
        if finding.remedy:
            print(f"         {finding.remedy}")
    return int("error" in levels)


def _metrics(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.files import replace_bytes
    from hospital_assets.operations.metrics import Exposition

    if options.textfile and options.textfile.suffix != ".prom":
        raise ValueError(f"{options.textfile}: node_exporter reads files that end in .prom only")
    text = Exposition(settings, tuple(options.certificate)).text()
    if options.textfile is None:
        print(text.decode(), end="")
    else:
        # It runs as another user.
        replace_bytes(options.textfile, text, mode=0o644)
    return 0


def _dagster(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.automation.instance import dagster_instance, make_history
    from hospital_assets.automation.own_runs import end_unserved_runs
    from hospital_assets.automation.presence import is_served
    from hospital_assets.automation.processes import code_socket, command_of, environment_of

    if options.process == "daemon" and is_served(settings):
        raise ValueError(f"hospital dev is at work on {settings.data_dir}, with a daemon of its own: end it first")
    make_history(settings)
    environment, socket = environment_of(settings), code_socket(settings)
    if options.process == "code":
        with dagster_instance(settings) as instance:
            end_unserved_runs(instance, socket)
    else:
        # What starts with it, as units do, would log that it cannot be reached.
        ends = time.monotonic() + _CODE_SECONDS
        while not socket.exists() and time.monotonic() < ends:
            time.sleep(0.2)
    command = command_of(options.process, settings, socket, options.port, options.path_prefix)
    # In its place, so that signals and the exit code are its own.
    os.execve(command[0], command, environment)  # noqa: S606
