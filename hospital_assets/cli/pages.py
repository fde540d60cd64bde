"""The commands that serve or write pages: dev, dashboard and docs."""

from __future__ import annotations

import argparse
import os
import signal
import socket as connections
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hospital_assets.cli.console import stopped_by_signals
from hospital_assets.cli.serving import add_address, address_of, metrics_of, port_number
from hospital_assets.settings import Settings, SettingsError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence

    from hospital_assets.cli.console import Commands


#: A program of `hospital dev` has this long to end before those that it started are told, too.
_END_SECONDS = 10.0


def add_commands(commands: Commands) -> None:
    """Add these commands to the parser."""
    dev = commands.add_parser("dev", _dev, help="start the Dagster UI and the dashboard")
    dev.add_argument("--port", type=port_number, default=3000)
    dev.add_argument("--dashboard-port", type=port_number, default=8000, help="port of the dashboard; 0 starts none")

    dashboard = commands.add_parser("dashboard", _dashboard, help="serve the dashboard")
    add_address(dashboard, 8000)
    dashboard.add_argument(
        "--audience",
        help="whose publication to show as long as there are no users, as in executive or doctor-H1 "
        "(default: the first role of the policy)",
    )

    docs = commands.add_parser("docs", _docs, help="write the generated documentation")
    docs.add_argument("--check", action="store_true", help="write nothing; only check whether it is up to date")
    docs.add_argument("--into", type=Path, metavar="DIR", help="target folder (default: docs/ of the current checkout)")


def _dev(options: argparse.Namespace, settings: Settings) -> int:
    import threading

    from hospital_assets.access.audit import make_key, system_actor
    from hospital_assets.automation.instance import dagster_instance
    from hospital_assets.automation.own_runs import end_unserved_runs
    from hospital_assets.automation.presence import dev_lock, has_daemon
    from hospital_assets.automation.processes import command_of, environment_of
    from hospital_assets.operations.ports import listener_at
    from hospital_assets.publishing.pseudonyms import KEEP_KEY, has_key

    ports = {"Dagster": options.port, "the dashboard": options.dashboard_port}
    ports = {name: port for name, port in ports.items() if port}
    if options.port == options.dashboard_port != 0:
        raise SettingsError(f"Dagster and the dashboard cannot share port {options.port}: choose another for one")
    for name, port in ports.items():
        if _answers(port):
            by = listener_at(port)
            raise SettingsError(
                f"port {port}, where {name} would be, is in use by {by or 'another program'}: end it, or choose "
                "another with --port or --dashboard-port"
            )
    stop = threading.Event()
    with (
        dev_lock(settings) as is_the_only_one,
        stopped_by_signals(stop),
        # Its name is short, as a socket's must be, and only the owner may enter it.
        tempfile.TemporaryDirectory(prefix="hospital-") as folder,
    ):
        if not is_the_only_one:
            raise SettingsError(f"hospital dev runs on {settings.data_dir} already: use that one, or end it first")
        if has_daemon(settings, datetime.now(UTC)):
            raise SettingsError(
                f"Dagster's daemon is at work on {settings.data_dir}, and there may be only one: use that one, or end "
                "it, wait two minutes, and run this again"
            )
        if not has_key():
            # Without it, most publications would wait for one.
            print(f"hospital: made the secret key of pseudonyms: {make_key(settings, system_actor())} {KEEP_KEY}")

        def answers(name: str) -> Callable[[], bool]:
            return lambda: name not in ports or _answers(ports[name])

        socket = Path(folder) / "code.sock"
        environment = environment_of(settings)
        programs = {
            # The others look for the definitions at their start.
            "Dagster's code server": (command_of("code", settings, socket), socket.exists),
            "Dagster": (command_of("webserver", settings, socket, options.port), answers("Dagster")),
            "Dagster's daemon": (command_of("daemon", settings, socket), lambda: True),
        }
        if "the dashboard" in ports:
            dashboard = [sys.executable, *f"-m hospital_assets.cli dashboard --port {options.dashboard_port}".split()]
            programs["the dashboard"] = (dashboard, answers("the dashboard"))
        urls = ", ".join(f"{name} http://localhost:{port}" for name, port in ports.items())
        with dagster_instance(settings) as instance:
            end_unserved_runs(instance, socket)
            try:
                return _run_together(programs, environment, f"ready: {urls} (Ctrl-C ends both)", stop)
            finally:
                # The next one need not wait until its daemon's last sign of life is old.
                instance.wipe_daemon_heartbeats()


def _run_together(
    programs: Mapping[str, tuple[Sequence[str], Callable[[], bool]]],
    environment: Mapping[str, str],
    announcement: str,
    stop: threading.Event,
) -> int:
    """Run programs, the others after the first is ready, until one ends or a signal to stop comes; then end all."""
    from hospital_assets.automation.processes import end_with_parent

    running: dict[str, subprocess.Popen[bytes]] = {}
    first, *others = programs
    starting = [first]
    is_announced = False
    try:
        while True:
            for name in starting:
                # A terminal's Ctrl-C is for this process, which ends them: each would answer it with a traceback.
                running[name] = subprocess.Popen(  # noqa: S603
                    programs[name][0], env=environment, preexec_fn=end_with_parent, process_group=0
                )
            starting = []
            if stop.wait(0.2):
                return 0
            ended = [name for name, process in running.items() if process.poll() is not None]
            if ended:
                print(f"hospital: {ended[0]} has ended, see above; stopping the rest", file=sys.stderr)
                return 1
            ready = [is_ready() for name, (_, is_ready) in programs.items() if name in running]
            if all(ready) and len(running) == 1:
                starting = others
            elif all(ready) and not is_announced:
                print(f"hospital: {announcement}", flush=True)
                is_announced = True
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                # A code server that was just starting waits for a child that nobody told.
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()


def _answers(port: int) -> bool:
    """Whether something listens at a port of this machine."""
    with connections.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _dashboard(options: argparse.Namespace, settings: Settings) -> int:
    from contextlib import closing

    from hospital_assets.access.audit import AuditLog
    from hospital_assets.access.serving import run
    from hospital_assets.dashboard.app import create_app
    from hospital_assets.dashboard.serve import dashboard_of, publish_first
    from hospital_assets.logs import teller
    from hospital_assets.publishing.policy import load_policy

    address = address_of(options)
    audience = options.audience or next(iter(load_policy(settings).roles))
    with closing(AuditLog(settings)) as log:
        dashboard = dashboard_of(settings, audience, log.append, address)
        name = "hospital.dashboard"
        publish_first(settings, audience, teller(name, lambda line: f"hospital: {line}", to=sys.stderr))
        teller(name)(str(address))
        run(create_app(dashboard, metrics_of(settings, address)), address, graceful_seconds=2)
    return 0


def generated_documents() -> dict[str, str]:
    """Every document that the code says, by its file name."""
    from hospital_assets.operations.monitoring import document
    from hospital_assets.reports.reference import documents

    return {**documents(), "monitoring.md": document()}


def _docs(options: argparse.Namespace, settings: Settings) -> int:
    from tempfile import TemporaryDirectory

    from hospital_assets.definitions import build_definitions
    from hospital_assets.reports.lineage import lineage_document
    from hospital_assets.warehouse.lineage import LINEAGE_FILE

    folder = options.into or Path("docs")
    if options.into is None and not folder.is_dir():
        raise FileNotFoundError(f"there is no {folder}/ here: say where to with --into DIR")
    stale = []
    written = {folder / name: text for name, text in generated_documents().items()}
    if options.into is None:
        # Lineage is part of the package, because every run states it.
        with TemporaryDirectory() as empty:
            nowhere = Settings(Path(empty))
            written[LINEAGE_FILE] = lineage_document(build_definitions(nowhere), nowhere.first_service_date.isoformat())
    for path, text in written.items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path)
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for path in stale:
        print(f"{'stale' if options.check else 'wrote'} {path}")
    return 1 if stale and options.check else 0
