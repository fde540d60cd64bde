"""The `hospital` command: thin, over functions of the other packages."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hospital_assets.governance import commands as governance
from hospital_assets.settings import (
    Settings,
    SettingsError,
    load_settings,
    replace_text,
    write_settings,
)

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from rich.console import Console

    from hospital_assets.automation.build import BuildReport
    from hospital_assets.warehouse.database import Warehouse

_USAGE_ERROR = 2
#: Dagster looks at every partition of every table, so daily ones are for some years at most.
_MOST_DAILY_DAYS = 5 * 366


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.data_dir:
        os.environ["HOSPITAL_DATA_DIR"] = options.data_dir
    try:
        settings = load_settings()
        return int(options.run(options, settings))
    except (SettingsError, ValueError, FileNotFoundError) as error:
        print(f"hospital: {error}", file=sys.stderr)
        return _USAGE_ERROR
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hospital", description="Emergency-department data platform: land, build, look."
    )
    parser.add_argument("--data-dir", help="data directory (default: $HOSPITAL_DATA_DIR or data)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    simulate = commands.add_parser("simulate", help="land the files of a generated network")
    simulate.add_argument("--days", type=int, help="service days (default 90; live 7)")
    simulate.add_argument("--start", type=date.fromisoformat, default=date(2026, 1, 1))
    simulate.add_argument("--scale", type=float, default=1.0, help="1 = about 1,370 visits a day")
    simulate.add_argument("--seed", type=int, default=20260101)
    simulate.add_argument("--clean", action="store_true", help="without dirt")
    simulate.add_argument(
        "--live", action="store_true",
        help="keep landing files as time passes, in a data directory of its own",
    )  # fmt: skip
    simulate.add_argument("--speed", type=float, default=1.0, help="live: seconds per second")
    simulate.add_argument("--history", type=int, default=2, help="live: days before today")
    simulate.add_argument("--dirty", action="store_true", help="live: with dirt")
    simulate.set_defaults(run=_simulate)

    imported = commands.add_parser("import", help="land the files of a known source")
    imported.add_argument("profile", help="source profile, as in mimic-iv-ed")
    imported.add_argument("path", type=Path, help="folder with its files, or one file")
    imported.set_defaults(run=_import)

    profiles = commands.add_parser(
        "profiles", help="source profiles: list them, show one, draft one, try one on files"
    )
    actions = profiles.add_subparsers(required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="all profiles and what they deliver")
    listed.set_defaults(run=_profiles_list)
    shown = actions.add_parser("show", help="print a profile's TOML")
    shown.add_argument("profile")
    shown.set_defaults(run=_profiles_show)
    drafted = actions.add_parser("new", help="draft a profile from a sample file")
    drafted.add_argument("profile", help="its name, and that of its landing folder")
    drafted.add_argument("file", type=Path, help="a file as the source sends it: CSV or JSON")
    drafted.add_argument("--time-zone", default="America/New_York", help="IANA zone of its clocks")
    drafted.set_defaults(run=_profiles_new)
    tried = actions.add_parser(
        "test", help="read files with a profile, in memory: what maps, what would be quarantined"
    )
    tried.add_argument("profile")
    tried.add_argument("file", type=Path, help="a file, or a folder of them")
    tried.set_defaults(run=_profiles_test)

    built = commands.add_parser("build", help="materialise tables and run their checks")
    built.add_argument("--select", help="asset selection, as in group:kpis or '*fact_vitals'")
    built.add_argument("--partition", type=date.fromisoformat, help="one service day")
    built.add_argument("--from", dest="first", type=date.fromisoformat, help="first service day")
    built.add_argument("--to", dest="last", type=date.fromisoformat, help="last service day")
    built.add_argument(
        "--rebuild", metavar="TABLE", action="append", default=[],
        help="drop a table whose contract changed before building it",
    )  # fmt: skip
    built.set_defaults(run=_build)

    refreshed = commands.add_parser(
        "refresh", help="load the files that wait, as the sensors would"
    )
    refreshed.set_defaults(run=_refresh)

    watched = commands.add_parser(
        "watch", help="take in files as they land, within seconds, and raise alerts"
    )
    watched.set_defaults(run=_watch)

    listen = commands.add_parser("listen", help="land what is sent to us, until stopped")
    sources = listen.add_subparsers(required=True, metavar="SOURCE")
    for name, stream, where, example in (
        ("kafka", "topic", "bootstrap", "host:9092"),
        ("nats", "stream", "servers", "nats://host:4222"),
    ):
        source = sources.add_parser(name, help=f"land the messages of a {name} {stream}, each once")
        source.add_argument(f"--{stream}", dest="stream", required=True)
        source.add_argument(f"--{where}", dest="where", required=True, help=f"as in {example}")
        source.add_argument(
            "--profile", required=True, help="source profile that reads the messages"
        )
        source.add_argument("--subject", required=True, help="what they are, as in vitals")
        source.add_argument("--as", dest="landed_as", metavar="NAME",
                            help=f"name in the files' names (default: the {stream}'s)")  # fmt: skip
        source.add_argument("--seconds", type=float, default=5.0, help="longest wait for a file")
        source.add_argument("--max-mb", type=float, default=16.0, help="largest file, about")
        source.add_argument("--config", type=Path, metavar="FILE",
                            help="the client's own settings, a key=value a line (TLS, credentials)")  # fmt: skip
        source.add_argument(
            "--until-end", action="store_true", help=f"stop where the {stream} ends"
        )
        source.set_defaults(run=_listen_to_stream, source=name)
    listened = sources.add_parser(
        "hl7", help="take HL7 v2 messages from the network (MLLP), acknowledge what has landed"
    )
    listened.add_argument("--port", type=int, default=2575)
    listened.add_argument("--host", default="127.0.0.1", help="default: this machine only")
    listened.add_argument("--profile", default="hl7v2-adt", help="source profile to land for")
    listened.add_argument("--tls-cert", type=Path, metavar="PEM", help="server certificate chain")
    listened.add_argument("--tls-key", type=Path, metavar="PEM")
    listened.add_argument(
        "--tls-client-ca", type=Path, metavar="PEM", help="take only clients with its certificates"
    )
    listened.add_argument(
        "--insecure-network", action="store_true",
        help="listen beyond this machine without TLS; messages cross the network in the clear",
    )  # fmt: skip
    listened.add_argument(
        "--processing-id", action="append", choices=["P", "D", "T"],
        help="accept only messages with this MSH-11 (default all)",
    )  # fmt: skip
    listened.add_argument("--max-connections", type=int, default=64)
    listened.add_argument("--max-message-bytes", type=int, default=4_000_000)
    listened.add_argument(
        "--file-seconds", type=float, default=10, help="finish a file when it is so old"
    )
    listened.set_defaults(run=_listen_to_mllp)

    alerts = commands.add_parser("alerts", help="open alerts: list, acknowledge, resolve, test")
    alerts.add_argument(
        "action", nargs="?", default="list", choices=["list", "show", "ack", "resolve", "test"]
    )
    alerts.add_argument("alert", nargs="?", help="the alert's number")
    alerts.add_argument("--all", action="store_true", help="list resolved alerts too")
    alerts.add_argument("--by", default=os.environ.get("USER", "somebody"), help="who takes care")
    alerts.set_defaults(run=_alerts)

    checks = commands.add_parser("check", help="run every check on what is stored; builds nothing")
    checks.add_argument(
        "--fail-on", choices=["error", "warn", "never"], default="error",
        help="from which severity on the exit code is 1 (default error)",
    )  # fmt: skip
    checks.add_argument("--json", type=Path, metavar="FILE", help="write the outcome as JSON")
    checks.add_argument("--junit", type=Path, metavar="FILE", help="write it as JUnit XML, for CI")
    checks.add_argument(
        "--last", action="store_true", help="run nothing; say kind by kind what was last found"
    )
    checks.add_argument("--failed", action="store_true", help="with --last: what failed, in full")
    checks.add_argument(
        "--prove", action="store_true",
        help="inject a fault for each kind into copies of the tables and see whether it is noticed",
    )  # fmt: skip
    checks.set_defaults(run=_checks)

    reported = commands.add_parser("report", help="write a page for people")
    reported.add_argument("page", choices=["quality", "overview"])
    reported.add_argument("--out", type=Path, help="default: reports/PAGE.html in the data dir")
    reported.set_defaults(run=_report)

    drifted = commands.add_parser("drift", help="how the columns of landed files have changed")
    drifted.set_defaults(run=_drift)

    scored = commands.add_parser(
        "score", help="how the cleaning did against the simulator's ground truth"
    )
    scored.set_defaults(run=_score)

    dev = commands.add_parser("dev", help="open the Dagster UI, and the dashboard beside it")
    dev.add_argument("--port", default="3000")
    dev.add_argument("--dashboard-port", default="8000", help="of the dashboard; 0 starts none")
    dev.set_defaults(run=_dev)

    dashboard = commands.add_parser("dashboard", help="serve the pages people look at")
    dashboard.add_argument("--port", type=int, default=8000)
    dashboard.add_argument("--host", default="127.0.0.1", help="other than loopback needs accounts")
    dashboard.add_argument(
        "--audience", default="admin",
        help="whose publication is shown where nobody signs in, as in executive or doctor-H1",
    )  # fmt: skip
    dashboard.add_argument(
        "--add-account", metavar="NAME",
        help="let somebody sign in who sees what --audience sees; asks for a password, then ends",
    )  # fmt: skip
    dashboard.set_defaults(run=_dashboard)

    retry = commands.add_parser("retry", help="give files another try that failed runs set aside")
    retry.add_argument("file", nargs="*", help="paths below the landing folder; default all")
    retry.set_defaults(run=_retry)

    governance.add_commands(commands)

    docs = commands.add_parser("docs", help="write the generated documentation")
    docs.add_argument("--check", action="store_true", help="only say whether it is up to date")
    docs.set_defaults(run=_docs)
    return parser


def _simulate(options: argparse.Namespace, settings: Settings) -> int:
    if options.days is None:
        options.days = 7 if options.live else 90
    if options.days < 1:
        raise ValueError("--days must be at least 1")
    if options.live:
        return _simulate_live(options, settings)
    from hospital_assets.simulator import simulate

    summary = simulate(
        settings.landing,
        settings.ground_truth,
        start=options.start,
        days=options.days,
        scale=options.scale,
        seed=options.seed,
        clean=options.clean,
    )
    last = options.start + timedelta(days=options.days - 1)
    write_settings(
        replace(settings, first_service_date=options.start, last_service_date=last,
                partitions="daily")
    )  # fmt: skip
    print(
        f"landed {summary.files:,} files ({summary.bytes / 1e6:,.0f} MB) in {settings.landing}: "
        f"{summary.visits:,} visits, {summary.vitals:,} vital-sign sets, "
        f"{summary.patients:,} patients, {options.start} to {last}"
    )
    return 0


def _simulate_live(options: argparse.Namespace, settings: Settings) -> int:
    import threading
    from datetime import UTC, datetime

    from hospital_assets.clock import SimulatedClock, write_simulated_clock
    from hospital_assets.simulator.live import (
        LiveNetwork,
        go_live,
        land_history,
        prepare,
        read_network,
        write_network,
    )

    if options.speed <= 0 or options.history < 1:
        raise ValueError("--speed must be above 0 and --history at least 1")
    kept = settings.ground_truth / "live.json"
    network = read_network(kept)
    wall = datetime.now(UTC)
    if network is None:
        if (settings.landing / "native").exists():
            raise ValueError(
                f"{settings.landing} holds another network; give this one a data directory of its "
                "own, as in hospital --data-dir data/live simulate --live"
            )
        today = wall.date()
        network = LiveNetwork(
            start=(today - timedelta(days=options.history)).isoformat(),
            live_start=wall.timestamp(), days=options.history + options.days,
            scale=options.scale, seed=options.seed, dirty=options.dirty,
            landed_until=wall.timestamp(),
        )  # fmt: skip
        land = prepare(settings.landing, network)
        files = land_history(land, network)
        write_settings(
            replace(settings, first_service_date=network.first_day,
                    last_service_date=network.last_day, partitions="daily")
        )  # fmt: skip
        write_network(kept, network)
        print(f"landed {files} files of {options.history} days before now", flush=True)
    else:
        land = prepare(settings.landing, network)
        print("going on where the simulation was stopped", flush=True)

    started = SimulatedClock(wall.timestamp(), network.landed_until, options.speed)
    started = replace(started, wall_epoch_seconds=datetime.now(UTC).timestamp())
    write_simulated_clock(settings, started)
    stop = threading.Event()

    def now() -> float:
        return started.now(datetime.now(UTC)).timestamp()

    with _stopped_by_signals(stop):
        go_live(
            land, network, now, lambda reached: write_network(kept, reached), stop.wait,
            say=lambda text: print(text, flush=True),
        )  # fmt: skip
    # The hospital's time stands still until the simulation goes on.
    write_simulated_clock(settings, SimulatedClock(started.wall_epoch_seconds, now(), 0.0))
    return 0


def _import(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.landing.zone import LandingZone, import_files, observed_period
    from hospital_assets.warehouse.database import open_warehouse

    used, unused = import_files(options.profile, options.path, settings.landing)
    for name in used:
        print(f"landed   {name}")
    for name in unused:
        print(f"not used {name}")
    with open_warehouse(settings.warehouse_file) as warehouse:
        observed = observed_period(
            LandingZone(
                settings.landing, settings.warehouse_file.parent / "spool",
                date(1900, 1, 1), date(2999, 12, 31), warehouse.connection,
            )
        )  # fmt: skip
    if observed is not None:
        first, last = observed
        # A century of days would be 30,000 partitions: what spans decades is partitioned by year.
        is_long = last - first > timedelta(days=_MOST_DAILY_DAYS)
        grain = "yearly" if is_long else settings.partitions
        write_settings(
            replace(settings, first_service_date=first, last_service_date=last, partitions=grain)
        )
        print(f"service days {first} to {last}, {grain} partitions")
    return 0


def _profiles_list(options: argparse.Namespace, settings: Settings) -> int:
    from rich.console import Console
    from rich.table import Table

    from hospital_assets.landing.profile import load_profiles, profile_source

    found, wrong = load_profiles()
    shown = Table("profile", "delivers", "format", "from", "what it is")
    for name, profile in found.items():
        formats = sorted({spec.format for spec in profile.subjects.values() if spec.files})
        shown.add_row(
            name, ", ".join(profile.subjects), ", ".join(formats), profile_source(name),
            profile.description,
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 160).print(shown)
    for problem in wrong.values():
        print(problem, file=sys.stderr)
    return 1 if wrong else 0


def _profiles_show(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.landing.profile import profile_text

    print(profile_text(options.profile), end="")
    return 0


def _profiles_new(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.landing.draft import draft_profile
    from hospital_assets.landing.profile import available_profiles, profile_folder
    from hospital_assets.settings import replace_text

    if options.profile in available_profiles():
        raise ValueError(f"there is a profile '{options.profile}' already; choose another name")
    draft = draft_profile(options.profile, options.file, options.time_zone)
    target = profile_folder() / f"{options.profile}.toml"
    replace_text(target, draft.text)
    print(f"wrote {target}: {options.file.name} as {', '.join(draft.subjects)}")
    for doubt in draft.doubts:
        print(f"look:  {doubt}")
    print(f"next:  hospital profiles test {options.profile} {options.file}")
    return 0


def _profiles_test(options: argparse.Namespace, settings: Settings) -> int:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from hospital_assets.automation.dry_run import try_profile

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    trials = try_profile(options.profile, options.file)
    for trial in trials:
        console.print(f"[bold]{trial.source_file}[/bold] as {trial.subject}: {trial.outcome()}")
        if trial.problem:
            console.print(f"  {trial.problem}", soft_wrap=True)
        mapped = {c: source for c, source in trial.columns.items() if not source.startswith("—")}
        if mapped:
            table = Table("our column", "read from", box=None, padding=(0, 2))
            for column, source in mapped.items():
                table.add_row(column, escape(source))  # a path may look like markup
            console.print(table)
        for title, said in trial.remarks():
            console.print(f"  {title}: {escape(said)}", soft_wrap=True)
    return 0 if any(trial.clean for trial in trials) else 1


def _build(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.automation.build import BuildError, build
    from hospital_assets.contracts import CONTRACTS
    from hospital_assets.definitions import build_definitions
    from hospital_assets.warehouse.database import open_warehouse

    first, last = options.first, options.last
    if options.partition:
        first = last = options.partition
    for name in options.rebuild:
        if name not in CONTRACTS:
            raise ValueError(f"no table is called '{name}'")
        with open_warehouse(settings.warehouse_file) as warehouse:
            warehouse.drop(CONTRACTS[name])
    with _progress() as progress:
        try:
            report = build(
                build_definitions(settings),
                settings,
                first=first,
                last=last,
                select=options.select,
                progress=progress,
            )
        except BuildError as error:
            raise ValueError(str(error)) from error
    _print_report(report, settings)
    return 0 if report.succeeded else 1


def _refresh(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.automation.build import refresh
    from hospital_assets.definitions import build_definitions
    from hospital_assets.landing.zone import LandingResource

    definitions = build_definitions(settings)
    landing = (definitions.resources or {})["landing"]
    assert isinstance(landing, LandingResource)  # noqa: S101  (build_definitions puts it there)
    with _progress() as progress:
        report = refresh(definitions, settings, landing, progress)
    if report is None:
        print("no files wait")
        return 0
    _print_report(report, settings)
    return 0 if report.succeeded else 1


def _watch(options: argparse.Namespace, settings: Settings) -> int:
    import logging
    import threading
    import time

    from hospital_assets.automation.watch import BatchError, watch
    from hospital_assets.definitions import build_definitions

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    stop = threading.Event()
    with _stopped_by_signals(stop):
        try:
            watch(
                build_definitions(settings), settings, stop,
                lambda text: print(f"{time.strftime('%H:%M:%S')} {text}", flush=True),
            )  # fmt: skip
        except BatchError as error:
            raise ValueError(str(error)) from error
    return 0


def _listen_to_stream(options: argparse.Namespace, settings: Settings) -> int:
    import importlib.util
    import threading

    from hospital_assets.landing.deliver import destination
    from hospital_assets.landing.streams import open_stream
    from hospital_assets.listeners.kafka import listen_kafka
    from hospital_assets.listeners.nats import listen_nats
    from hospital_assets.listeners.pace import Pace
    from hospital_assets.settings import read_properties

    needed = {"kafka": "confluent_kafka", "nats": "nats"}[options.source]
    if importlib.util.find_spec(needed) is None:
        raise ValueError(f"install hospital-assets[{options.source}] to listen to {options.source}")
    listener = {"kafka": listen_kafka, "nats": listen_nats}[options.source]
    folder, ending = destination(settings.landing, options.profile, options.subject)
    stop = threading.Event()
    with (
        open_stream(folder, options.landed_as or options.stream, ending) as landing,
        _stopped_by_signals(stop),
    ):
        listener(
            options.stream, options.where, landing, stop,
            pace=Pace(options.seconds, int(options.max_mb * 1e6)),
            options=read_properties(options.config) if options.config else {},
            until_end=options.until_end,
            say=lambda text: print(text, flush=True),
        )  # fmt: skip
    return 0


def _listen_to_mllp(options: argparse.Namespace, settings: Settings) -> int:
    import logging
    import signal

    from hospital_assets.landing.profile import load_profile
    from hospital_assets.listeners.mllp import ListenerOptions, listen, server_tls

    if bool(options.tls_cert) != bool(options.tls_key):
        raise ValueError("--tls-cert and --tls-key belong together")
    tls = None
    if options.tls_cert:
        tls = server_tls(options.tls_cert, options.tls_key, options.tls_client_ca)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    counts = listen(
        ListenerOptions(
            folder=settings.landing / load_profile(options.profile).name / "mllp",
            host=options.host, port=options.port,
            processing_ids=tuple(options.processing_id or ("P", "D", "T")),
            max_connections=options.max_connections,
            max_message_bytes=options.max_message_bytes,
            file_seconds=options.file_seconds, quiet_seconds=min(2.0, options.file_seconds),
            tls=tls, is_open=options.insecure_network,
        ),
        lambda loop, stop: [
            loop.add_signal_handler(number, stop.set) for number in (signal.SIGINT, signal.SIGTERM)
        ],
        lambda host, port: print(f"listening on {host} port {port}", flush=True),
    )  # fmt: skip
    print(
        f"{counts.accepted:,} messages landed, {counts.rejected:,} rejected, "
        f"{counts.failed:,} could not be stored"
    )
    return 0


@contextlib.contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Set an event at Ctrl-C or a polite kill, instead of ending in the middle."""
    import signal

    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _alerts(options: argparse.Namespace, settings: Settings) -> int:
    from datetime import UTC, datetime

    from hospital_assets.alerts.notifiers import deliver
    from hospital_assets.alerts.outbox import Signal, open_outbox
    from hospital_assets.alerts.settings import load_alert_settings
    from hospital_assets.clock import hospital_now

    alert_settings = load_alert_settings(settings)
    now = hospital_now(settings)
    outbox = open_outbox(settings, alert_settings)
    with contextlib.closing(outbox):
        if options.action == "list":
            _print_alerts(outbox.alerts(with_resolved=options.all))
            return 0
        if options.action == "test":
            moment = datetime.now(UTC)
            outbox.record(
                [Signal("test", f"{moment:%H%M%S%f}", moment, True, "warning",
                        "this is a test of the alerts; nothing is wrong")], now,
            )  # fmt: skip
            sent = deliver(outbox, alert_settings.notify, settings.data_dir)
            for row in outbox.alerts():
                if row["rule"] == "test":
                    outbox.resolve(row["alert_id"], now)
            print(f"{sent} of {len(alert_settings.notify)} notifiers were told")
            return 0 if sent else 1
        if not options.alert:
            raise ValueError(f"say which: hospital alerts {options.action} ALERT")
        if options.action == "show":
            found = [row for row in outbox.alerts(with_resolved=True) if
                     row["alert_id"] == options.alert]  # fmt: skip
            if not found:
                raise ValueError(f"there is no alert {options.alert}")
            for name, value in found[0].items():
                print(f"{name:<18} {'' if value is None else value}")
            return 0
        done = (
            outbox.acknowledge(options.alert, options.by, now)
            if options.action == "ack"
            else outbox.resolve(options.alert, now)
        )
    if not done:
        raise ValueError(f"there is no open alert {options.alert}")
    return 0


def _print_alerts(alerts: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table("alert", "severity", "state", "since (UTC)", "where", "what")
    for row in alerts:
        where = " ".join(part for part in (row["hospital_id"], row["department_name"]) if part)
        shown.add_row(
            row["alert_id"], row["severity"], row["state"], row["opened_at"][:16].replace("T", " "),
            where, row["summary"],
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 160).print(shown if alerts else "no open alerts")


def _checks(options: argparse.Namespace, settings: Settings) -> int:
    if options.last or options.failed or options.prove:
        return _last_checks(options, settings)
    from hospital_assets.automation.build import BuildError, check
    from hospital_assets.checks.outcome import as_json, as_junit
    from hospital_assets.definitions import build_definitions

    with _progress() as progress:
        try:
            report = check(build_definitions(settings), settings, progress=progress)
        except BuildError as error:
            raise ValueError(str(error)) from error
    for path, written in ((options.json, as_json), (options.junit, as_junit)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(written(report), encoding="utf-8")
    _print_checks(report)
    if options.fail_on == "never":
        return 0
    bad = report.failures or report.failed_checks
    return 1 if bad or (options.fail_on == "warn" and report.warnings) else 0


def _last_checks(options: argparse.Namespace, settings: Settings) -> int:
    from rich.console import Console
    from rich.table import Table

    from hospital_assets.checks.findings import newest_results
    from hospital_assets.warehouse.database import open_warehouse

    console = Console(width=None if sys.stdout.isatty() else 140)
    with open_warehouse(settings.warehouse_file) as warehouse:
        if options.prove:
            return _prove(settings, warehouse, console)
        results = newest_results(warehouse)
    if options.failed:
        bad = Table("table", "kind", "column", "rule", "broken", "of", "%", "limit %", "status")
        for r in results.iter_rows(named=True):
            if r["status"] in ("Failed", "Error"):
                bad.add_row(
                    r["table_name"], r["kind"], r["column_name"], r["rule"],
                    f"{r['violated_count']:,}", f"{r['denominator_count']:,}",
                    f"{r['violated_pct'] or 0:.2f}", f"{r['threshold_pct']:g}", r["status"],
                )  # fmt: skip
        console.print(bad if bad.row_count else "no single check failed")
        return 1 if bad.row_count else 0
    counted: dict[tuple[str, str], dict[str, int]] = {}
    for r in results.iter_rows(named=True):
        of_kind = counted.setdefault((r["family"], r["kind"]), {})
        of_kind[r["status"]] = of_kind.get(r["status"], 0) + 1
    shown = Table("family", "kind", "checks", "passed", "failed", "not applicable", "error")
    for (family, kind), of_kind in sorted(counted.items()):
        states = [of_kind.get(s, 0) for s in ("Passed", "Failed", "NotApplicable", "Error")]
        shown.add_row(family, kind, f"{sum(states):,}", *(f"{n:,}" if n else "" for n in states))
    console.print(shown)
    console.print(
        f"{results.height:,} single checks of {len(counted)} kinds, each as last evaluated"
    )
    return 0


def _prove(settings: Settings, warehouse: Warehouse, console: Console) -> int:
    from rich.table import Table

    from hospital_assets.checks.faults import prove, sound_tables
    from hospital_assets.clock import hospital_now

    matrix = prove(sound_tables(warehouse), hospital_now(settings))
    shown = Table("kind", "table", "fault", "noticed", "noticed, too")
    lines = ["| kind | table | fault | noticed | noticed, too |", "|---|---|---|---|---|"]
    for r in matrix.iter_rows(named=True):
        cells = (
            r["kind"], r["table"], r["fault"], "yes" if r["is_caught"] else "NO", r["also_failed"]
        )  # fmt: skip
        shown.add_row(*cells)
        lines.append(f"| {' | '.join(cells)} |")
    console.print(shown)
    report = settings.reports / "check-matrix.md"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text("\n".join(lines) + "\n", encoding="utf-8")
    caught = int(matrix["is_caught"].sum())
    console.print(
        f"{caught} of {matrix.height} faults noticed; {matrix['kind'].n_unique()} kinds; {report}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    return 0 if caught == matrix.height else 1


def _report(options: argparse.Namespace, settings: Settings) -> int:
    if options.page == "overview":
        return _report_overview(options, settings)
    from hospital_assets.clock import hospital_now
    from hospital_assets.reports.quality import as_json, as_page, gather
    from hospital_assets.warehouse.database import open_warehouse

    if not settings.warehouse_file.exists():
        raise ValueError(f"{settings.warehouse_file} is missing: run `hospital build` first")
    with open_warehouse(settings.warehouse_file) as warehouse:
        quality = gather(warehouse, hospital_now(settings))
    page = as_page(quality)
    path = options.out or settings.reports / "quality.html"
    replace_text(path, page)
    replace_text(settings.gathered_quality, as_json(quality))
    print(path)
    return 0


def _report_overview(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.governance.publications import PublicationError
    from hospital_assets.reports.overview import as_page

    try:
        _, page = as_page(settings.data_dir)
    except PublicationError as error:
        raise ValueError(str(error)) from error
    path = options.out or settings.reports / "overview.html"
    replace_text(path, page)
    print(path)
    return 0


def _drift(options: argparse.Namespace, settings: Settings) -> int:
    from rich.console import Console
    from rich.table import Table

    from hospital_assets.landing.drift import ADVICE, drifts
    from hospital_assets.warehouse.loads import read_ledger_copy

    shown = Table("feed", "column", "verdict", "files", "first file", "what to do")
    for drift in drifts(read_ledger_copy(settings.warehouse_file)):
        shown.add_row(
            f"{drift.profile} {drift.subject}", drift.column, drift.verdict, f"{drift.files:,}",
            drift.first_file, ADVICE[drift.verdict],
        )  # fmt: skip
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(shown if shown.row_count else "no file's columns differ from its feed's")
    return 0


def _score(options: argparse.Namespace, settings: Settings) -> int:
    import polars as pl
    from rich.console import Console
    from rich.table import Table

    from hospital_assets.simulator.scoring import fates, precision, recall
    from hospital_assets.warehouse.database import open_warehouse

    path = settings.ground_truth / "dirt.parquet"
    if not path.exists():
        raise ValueError(f"{path} is missing: only what `hospital simulate` landed can be scored")
    truth = pl.read_parquet(path)
    with open_warehouse(settings.warehouse_file) as warehouse:
        found = fates(warehouse)
    console = Console(width=None if sys.stdout.isatty() else 140)
    for title, scores in (("Dirt", recall(truth, found)), ("Rules", precision(truth, found))):
        shown = Table(*scores.columns, title=title)
        for row in scores.iter_rows():
            shown.add_row(*(f"{v:,.1f}" if isinstance(v, float) else str(v) for v in row))
        console.print(shown)
    return 0


def _dev(options: argparse.Namespace, settings: Settings) -> int:
    import subprocess
    import threading

    from hospital_assets.automation.build import prepare_dagster_home

    home = prepare_dagster_home(settings)
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "HOSPITAL_DATA_DIR": str(settings.data_dir),
    }
    beside: list[subprocess.Popen[bytes]] = []
    commands = [
        [str(Path(sys.executable).with_name("dagster")), "dev", "-m", "hospital_assets.definitions",
         "-p", options.port],
    ]  # fmt: skip
    if options.dashboard_port != "0":
        commands.append(
            [sys.executable, "-m", "hospital_assets.cli", "dashboard", "--port", options.dashboard_port]
        )  # fmt: skip
    stop = threading.Event()
    with _stopped_by_signals(stop):
        try:
            beside += [subprocess.Popen(command, env=environment) for command in commands]  # noqa: S603
            while not stop.wait(0.5) and beside[0].poll() is None:
                for ended in [p for p in beside[1:] if p.poll() is not None]:
                    print("hospital: the dashboard has ended; see above", file=sys.stderr)
                    beside.remove(ended)
        finally:
            for process in beside:
                process.terminate()
            for process in beside:
                process.wait()
    return 0 if stop.is_set() else beside[0].returncode


def _dashboard(options: argparse.Namespace, settings: Settings) -> int:
    import uvicorn

    from hospital_assets.dashboard.app import create_app
    from hospital_assets.dashboard.audit import write_access
    from hospital_assets.dashboard.auth import add_account
    from hospital_assets.dashboard.serve import dashboard_of

    if options.add_account:
        import getpass

        audience = options.audience
        password = (
            getpass.getpass("Password: ") if sys.stdin.isatty() else sys.stdin.readline().strip()
        )
        add_account(
            settings.data_dir, options.add_account, audience.partition("-")[0], audience, password
        )
        print(f"{options.add_account} may sign in and sees what '{audience}' sees")
        return 0
    dashboard = dashboard_of(settings, options.audience, write_access(settings), options.host)
    print(f"http://{options.host}:{options.port}", flush=True)
    uvicorn.run(
        create_app(dashboard), host=options.host, port=options.port, log_level="warning",
        server_header=False, timeout_graceful_shutdown=2,
    )  # fmt: skip
    return 0


def _retry(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.landing.zone import read_set_aside, write_set_aside
    from hospital_assets.warehouse.loads import read_ledger_copy

    folder = settings.warehouse_file.parent
    set_aside = read_set_aside(folder)
    names = dict(
        read_ledger_copy(settings.warehouse_file).select("file_sha256", "source_file").iter_rows()
    )
    wanted = {sha for sha in set_aside if not options.file or names.get(sha) in options.file}
    unknown = set(options.file) - {names.get(sha) for sha in wanted}
    if unknown:
        raise ValueError(f"not set aside: {', '.join(sorted(unknown))}")
    if wanted:
        write_set_aside(folder, {sha: why for sha, why in set_aside.items() if sha not in wanted})
    for sha in sorted(wanted, key=lambda sha: names.get(sha, sha)):
        print(f"let in   {names.get(sha, sha[:12])}")
    print(f"{len(wanted)} files get another try at a sensor's next look, or with `hospital build`")
    return 0


def _docs(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.docs import documents

    stale = []
    for path, text in documents().items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path)
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for path in stale:
        print(f"{'stale' if options.check else 'wrote'} {path}")
    return 1 if stale and options.check else 0


class _progress:  # noqa: N801  (used like a function)
    """A progress bar on a terminal, plain lines elsewhere."""

    def __enter__(self) -> _progress:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description:<32}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._is_terminal = self._console.is_terminal
        if self._is_terminal:
            self._bar.start()
            self._task = self._bar.add_task("starting", total=None)
        return self

    def __call__(self, name: str, done: int, total: int) -> None:
        if self._is_terminal:
            self._bar.update(self._task, description=name, completed=done, total=total)
        elif done % 20 == 0 or done == total:
            print(f"  {done}/{total} steps, last {name}", file=sys.stderr)

    def __exit__(self, *_: object) -> None:
        if self._is_terminal:
            self._bar.stop()


def _print_report(report: BuildReport, settings: Settings) -> None:
    from rich.console import Console
    from rich.table import Table

    from hospital_assets.automation.build import layer_of, seconds_by_layer
    from hospital_assets.contracts import CONTRACTS

    console = Console(width=None if sys.stdout.isatty() else 100)
    tables = Table("layer", "tables", "rows", "seconds", title="Build")
    for column in tables.columns[1:]:
        column.justify = "right"
    seconds = seconds_by_layer(report.steps)
    for layer, spent in seconds.items():
        written = {name: rows for name, rows in report.rows.items() if
                   CONTRACTS[name].layer == layer}  # fmt: skip
        if layer == "checks":
            ran = [s for s in report.steps if layer_of(s.name) == "checks"]
            tables.add_row(
                "checks", str(len(ran)), f"{len(report.checks):,} results", f"{spent:.1f}"
            )
        elif written:
            tables.add_row(layer, str(len(written)), f"{sum(written.values()):,}", f"{spent:.1f}")
    console.print(tables)

    _print_checks(report)
    console.print(
        f"Warehouse: {settings.warehouse_file}. Look around: hospital dev, then "
        "http://localhost:3000",
        highlight=False,
        soft_wrap=True,
    )


def _print_checks(report: BuildReport) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 100)
    if report.warnings or report.failed_checks:
        odd = Table("table", "check", "", "what", title="Checks that did not pass")
        for check in [*report.failed_checks, *report.warnings]:
            odd.add_row(check.table, check.name, check.severity.lower(), check.description)
        console.print(odd)
    for failure in report.failures:
        console.print(f"[red]failed[/red] {failure}", highlight=False)
    passed = sum(check.passed for check in report.checks)
    console.print(
        f"{passed:,} of {len(report.checks):,} checks passed, {len(report.warnings)} warnings, "
        f"{len(report.failed_checks)} errors; {report.first} to {report.last} "
        f"in {report.seconds:.1f} s",
        highlight=False,
    )


if __name__ == "__main__":
    sys.exit(main())
