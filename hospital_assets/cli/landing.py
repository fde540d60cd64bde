"""The commands that bring in files: simulate, import, profiles and listen."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from hospital_assets.cli.console import headed, stopped_by_signals, terminal
from hospital_assets.cli.serving import port_number
from hospital_assets.files import replace_text
from hospital_assets.settings import Settings, write_settings

if TYPE_CHECKING:
    from hospital_assets.cli.console import Commands

#: Dagster looks at every partition of every table, so daily ones are for some years at most.
_MOST_DAILY_DAYS = 5 * 366

#: Of a query that a profile is drafted from, about so many rows are looked at.
_DRAFTED_ROWS = 10_000


def add_commands(commands: Commands) -> None:
    """Add these commands to the parser."""
    simulate = commands.add_parser("simulate", _simulate, help="land the files of a generated network")
    simulate.add_argument("--days", type=int, help="service days (default 90; live 7)")
    simulate.add_argument("--start", type=date.fromisoformat, default=date(2026, 1, 1))
    simulate.add_argument("--scale", type=float, default=1.0, help="1 = about 1,370 visits a day")
    simulate.add_argument("--seed", type=int, default=20260101)
    simulate.add_argument("--clean", action="store_true", help="without dirt")
    simulate.add_argument(
        "--live", action="store_true", help="keep landing files in real time, in a data directory of its own"
    )
    simulate.add_argument("--speed", type=float, default=1.0, help="live: simulated seconds per second")
    simulate.add_argument("--history", type=int, default=2, help="live: days of history before today")
    simulate.add_argument("--dirty", action="store_true", help="live: with dirt")

    imported = commands.add_parser("import", _import, help="land the files of a known source")
    imported.add_argument("profile", help="source profile, as in mimic-iv-ed")
    imported.add_argument("path", type=Path, help="folder with its files, or one file; archives are unpacked")

    profiles = commands.add_parser("profiles", help="source profiles: list them, show one, draft one, try one on files")
    actions = commands.below(profiles, "ACTION")
    actions.add_parser("list", _profiles_list, help="all profiles and what they deliver")
    shown = actions.add_parser("show", _profiles_show, help="print a profile's TOML")
    shown.add_argument("profile")
    drafted = actions.add_parser(
        "new", _profiles_new, help="draft a profile from a sample file, or from a database's query"
    )
    drafted.add_argument("profile", help="its name, and that of its landing folder")
    drafted.add_argument("file", type=Path, nargs="?", help="a file as the source sends it: CSV or JSON")
    drafted.add_argument(
        "--from-query", metavar="VARIABLE", help="of the environment, with a database's URL or ODBC connection string"
    )
    drafted.add_argument("--sql", metavar="SELECT", help="what is asked of it, or @FILE; see docs/sources.md")
    drafted.add_argument("--time-zone", default="America/New_York", help="IANA zone of its clocks")
    tried = actions.add_parser(
        "test", _profiles_test, help="read files with a profile, in memory: what maps, what would be quarantined"
    )
    tried.add_argument("profile")
    tried.add_argument("file", type=Path, help="a file, or a folder of them")

    listen = commands.add_parser("listen", help="land incoming messages until stopped")
    sources = commands.below(listen, "SOURCE")
    for name, stream, where, example in (
        ("kafka", "topic", "bootstrap", "host:9092"),
        ("nats", "stream", "servers", "nats://host:4222"),
    ):
        source = sources.add_parser(name, help=f"land the messages of a {name} {stream}, each once")
        source.add_argument(f"--{stream}", dest="stream", required=True)
        source.add_argument(f"--{where}", dest="where", required=True, help=f"as in {example}")
        source.add_argument("--profile", required=True, help="source profile that reads the messages")
        source.add_argument(
            "--subject", help="the subject they feed, as in vitals; of HL7 v2 and FHIR the messages themselves say it"
        )
        source.add_argument(
            "--as", dest="landed_as", metavar="NAME", help=f"name in the files' names (default: the {stream}'s)"
        )
        source.add_argument("--seconds", type=float, default=5.0, help="longest wait before a file is finished")
        source.add_argument("--max-mb", type=float, default=16.0, help="approximate size of the largest file")
        source.add_argument(
            "--config",
            type=Path,
            metavar="FILE",
            help="the client's own settings, one key=value per line (TLS, credentials); ${NAME} is of the environment",
        )
        source.add_argument("--until-end", action="store_true", help=f"stop at the end of the {stream}")
        source.set_defaults(run=_listen_to_stream, source=name)
    listened = sources.add_parser(
        "hl7", _listen_to_mllp, help="receive HL7 v2 messages over the network (MLLP) and acknowledge what has landed"
    )
    listened.add_argument("--port", type=port_number, default=2575)
    listened.add_argument("--host", default="127.0.0.1", help="default: this machine only")
    listened.add_argument("--profile", default="hl7v2-adt", help="source profile to land for")
    listened.add_argument("--tls-cert", type=Path, metavar="PEM", help="server certificate chain")
    listened.add_argument("--tls-key", type=Path, metavar="PEM")
    listened.add_argument(
        "--tls-client-ca", type=Path, metavar="PEM", help="accept only clients with a certificate from this authority"
    )
    listened.add_argument(
        "--insecure-network",
        action="store_true",
        help="listen beyond this machine without TLS; messages cross the network in the clear",
    )
    listened.add_argument(
        "--processing-id",
        action="append",
        choices=["P", "D", "T"],
        help="accept only messages with this MSH-11 (default all)",
    )
    listened.add_argument("--max-connections", type=int, default=64)
    listened.add_argument("--max-message-bytes", type=int, default=4_000_000)
    listened.add_argument("--file-seconds", type=float, default=10, help="finish a file after this time")


def _simulate(options: argparse.Namespace, settings: Settings) -> int:
    if options.days is None:
        options.days = 7 if options.live else 90
    if options.days < 1:
        raise ValueError("--days must be at least 1")
    if not 0 < options.scale < math.inf:
        raise ValueError("--scale must be above 0")
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
    write_settings(replace(settings, first_service_date=options.start, last_service_date=last, partitions="daily"))
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
    from hospital_assets.simulator.live import LiveNetwork, go_live, land_history, prepare, read_network, write_network

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
            live_start=wall.timestamp(),
            days=options.history + options.days,
            scale=options.scale,
            seed=options.seed,
            dirty=options.dirty,
            landed_until=wall.timestamp(),
        )
        land = prepare(settings.landing, network)
        files = land_history(land, network)
        write_settings(
            replace(
                settings, first_service_date=network.first_day, last_service_date=network.last_day, partitions="daily"
            )
        )
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

    with stopped_by_signals(stop):
        go_live(
            land,
            network,
            now,
            lambda reached: write_network(kept, reached),
            stop.wait,
            say=lambda text: print(text, flush=True),
        )
    # The hospital's time stands still until the simulation goes on.
    write_simulated_clock(settings, SimulatedClock(started.wall_epoch_seconds, now(), 0.0))
    return 0


def _import(options: argparse.Namespace, settings: Settings) -> int:
    import polars as pl

    from hospital_assets.checks.accounting import NOT_LOADED
    from hospital_assets.landing.registry import load_profiles
    from hospital_assets.landing.zone import LandingZone, observed_period
    from hospital_assets.sources.by_hand import import_files
    from hospital_assets.warehouse.database import scratch_connection

    profiles = load_profiles(settings.profiles_folder)
    imported = import_files(settings, profiles.named(options.profile), options.path, datetime.now(UTC))
    # Not the warehouse's: a run may have it for long.
    with contextlib.closing(scratch_connection(memory_limit="1GB")) as connection:
        zone = LandingZone(
            settings.landing,
            settings.warehouse_file.parent / "spool",
            date(1900, 1, 1),
            date(2999, 12, 31),
            connection,
            profiles,
        )
        ledger = zone.discover()
    is_its = pl.col("source_profile") == options.profile
    observed = observed_period(zone, ledger.filter(is_its) if settings.settings_file.exists() else ledger)
    problems = {
        name.partition("/")[2]: f"{state}: {problem}"
        for name, state, problem in ledger.select("source_file", "state", "problem").iter_rows()
        if name.partition("/")[0] == options.profile and state in NOT_LOADED
    }
    for name in imported.used:
        if name not in problems:
            print(f"landed   {name}")
    for name in imported.removed:
        print(f"removed  {name}: its archive does not hold it any more")
    for name, why in imported.unused.items():
        print(f"not used {name}" + (f": {why}" if why else ""))
    failed = {**imported.refused, **{name: problems[name] for name in imported.used if name in problems}}
    for name, why in failed.items():
        print(f"not loaded {name}: {why}", file=sys.stderr)
    if observed is not None:
        _set_service_days(settings, *observed)
    return 1 if failed else 0


def _set_service_days(settings: Settings, first: date, last: date) -> None:
    """Have the service days cover those found; where days are stated, they only become more, and an open end stays."""
    from hospital_assets.automation.history import HistoryError
    from hospital_assets.automation.presence import at_work

    is_stated, stated_last = settings.settings_file.exists(), settings.last_service_date
    found = f"{first} to {last}"
    if is_stated:
        first = min(first, settings.first_service_date)
    if is_stated and (stated_last is None or stated_last > last):
        last = stated_last or max(last, settings.first_service_date)
    # A century of days would be 30,000 partitions: what spans decades is partitioned by year.
    is_long = last - first > timedelta(days=_MOST_DAILY_DAYS)
    if is_long and settings.partitions == "daily" and settings.warehouse_file.exists():
        print(
            f"service days stay as they are, since tables are built by the day; found {found}. If these are no "
            f"mistakes of the source, and shall count, set first_service_date or last_service_date in "
            f"{settings.settings_file}"
        )
        return
    grain = "yearly" if is_long else settings.partitions
    end = None if is_stated and stated_last is None else last
    widened = replace(settings, first_service_date=first, last_service_date=end, partitions=grain)
    print(f"service days {first} {f'to {end}' if end else 'on'}, {grain} partitions")
    if not is_stated or widened != settings:
        write_settings(widened)
        with contextlib.suppress(HistoryError):
            if others := at_work(settings, datetime.now(UTC)):
                print(f"start again what goes by the service days of before: {', '.join(others)}", file=sys.stderr)


def _profiles_list(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.landing.registry import load_profiles, profile_source

    profiles = load_profiles(settings.profiles_folder)
    shown = headed("profile", "delivers", "format", "from", "what it is")
    for name, profile in profiles.items():
        source = profile_source(settings.profiles_folder, name)
        formats = sorted({spec.format for spec in profile.subjects.values() if spec.files})
        shown.add_row(name, ", ".join(profile.subjects), ", ".join(formats), source, profile.description)
    terminal().print(shown)
    for fault in profiles.faults():
        print(fault, file=sys.stderr)
    return 1 if profiles.unusable else 0


def _profiles_show(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.landing.registry import profile_text

    print(profile_text(settings.profiles_folder, options.profile), end="")
    return 0


def _profiles_new(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.landing.registry import load_profiles
    from hospital_assets.sources.draft import draft_profile
    from hospital_assets.sources.queries import sample_of
    from hospital_assets.sources.remote import RemoteError

    known = load_profiles(settings.profiles_folder)
    if options.profile in {*known, *known.unusable}:
        raise ValueError(f"there is a profile '{options.profile}' already; choose another name")
    if bool(options.file) == bool(options.from_query) or bool(options.from_query) != bool(options.sql):
        raise ValueError("name a FILE, or --from-query VARIABLE and --sql SELECT")
    if options.file:
        what, then = options.file.name, f"profiles test {options.profile} {options.file}"
        draft = draft_profile(options.profile, options.file, options.time_zone)
    else:
        what, then = "the query", f"pull {options.profile}"
        sql = Path(options.sql[1:]).read_text(encoding="utf-8") if options.sql.startswith("@") else options.sql
        with tempfile.TemporaryDirectory() as folder:
            try:
                sample = sample_of(options.from_query, sql, Path(folder), _DRAFTED_ROWS)
            except RemoteError as error:
                raise ValueError(str(error)) from None
            draft = draft_profile(options.profile, sample, options.time_zone, options.from_query, sql)
    target = settings.profiles_folder / f"{options.profile}.toml"
    replace_text(target, draft.text)
    print(f"wrote {target}: {what} as {', '.join(draft.subjects)}")
    for doubt in draft.doubts:
        print(f"look:  {doubt}")
    print(f"next:  hospital {then}")
    return 0


def _profiles_test(options: argparse.Namespace, settings: Settings) -> int:
    from rich.markup import escape

    from hospital_assets.landing.registry import load_profiles, profile_text
    from hospital_assets.sources.dry_run import try_profile
    from hospital_assets.toml_text import line_of

    console = terminal(highlight=False)
    trials = try_profile(load_profiles(settings.profiles_folder), options.profile, options.file)
    for trial in trials:
        console.print(f"[bold]{trial.source_file}[/bold] as {trial.subject}: {trial.outcome()}")
        if trial.problem:
            console.print(f"  {trial.problem}", soft_wrap=True)
        mapped = {c: source for c, source in trial.columns.items() if not source.startswith("—")}
        if mapped:
            table = headed("our column", "read from", box=None, padding=(0, 2))
            for column, source in mapped.items():
                table.add_row(column, escape(source))  # a path may look like markup
            console.print(table)
        for title, remark in trial.remarks():
            console.print(f"  {title}: {escape(remark)}", soft_wrap=True)
    mistakes = [(trial.subject, column, names) for trial in trials for column, names in trial.lacking.items()]
    text = profile_text(settings.profiles_folder, options.profile) if mistakes else ""
    for subject, column, names in mistakes:
        where = ("subjects", subject, "derived", column)
        lacks = " and ".join(f"'{name}'" for name in names)
        print(
            f"{options.profile}.toml:{line_of(text, where)}: {'.'.join(where)}: the file has no column {lacks}",
            file=sys.stderr,
        )
    return 0 if any(trial.clean for trial in trials) and not mistakes else 1


def _listen_to_stream(options: argparse.Namespace, settings: Settings) -> int:
    import importlib.util
    import threading

    from hospital_assets.landing.deliver import destination
    from hospital_assets.landing.registry import load_profiles
    from hospital_assets.landing.streams import open_stream
    from hospital_assets.listeners.kafka import listen_kafka
    from hospital_assets.listeners.nats import listen_nats
    from hospital_assets.listeners.pace import Pace
    from hospital_assets.listeners.properties import read_properties
    from hospital_assets.logs import teller

    needed = {"kafka": "confluent_kafka", "nats": "nats"}[options.source]
    if importlib.util.find_spec(needed) is None:
        raise ValueError(f"install hospital-assets[{options.source}] to listen to {options.source}")
    listener = {"kafka": listen_kafka, "nats": listen_nats}[options.source]
    profile = load_profiles(settings.profiles_folder).named(options.profile)
    folder, ending = destination(settings.landing, profile, options.subject)
    stop = threading.Event()
    with open_stream(folder, options.landed_as or options.stream, ending) as landing, stopped_by_signals(stop):
        listener(
            options.stream,
            options.where,
            landing,
            stop,
            pace=Pace(options.seconds, int(options.max_mb * 1e6)),
            options=read_properties(options.config) if options.config else {},
            until_end=options.until_end,
            say=teller("hospital.listen"),
        )
    return 0


def _listen_to_mllp(options: argparse.Namespace, settings: Settings) -> int:
    import contextlib
    import logging
    import signal

    from hospital_assets.certificates import ServerTls
    from hospital_assets.landing.registry import load_profiles
    from hospital_assets.listeners.mllp import ListenerOptions, listen
    from hospital_assets.logs import teller

    if bool(options.tls_cert) != bool(options.tls_key):
        raise ValueError("--tls-cert and --tls-key belong together")
    tls = None
    if options.tls_cert:
        tls = ServerTls(options.tls_cert, options.tls_key, options.tls_client_ca)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    say = teller("hospital.listen")
    with tls.renewed() if tls else contextlib.nullcontext():
        counts = listen(
            ListenerOptions(
                folder=settings.landing / load_profiles(settings.profiles_folder).named(options.profile).name / "mllp",
                host=options.host,
                port=options.port,
                processing_ids=tuple(options.processing_id or ("P", "D", "T")),
                max_connections=options.max_connections,
                max_message_bytes=options.max_message_bytes,
                file_seconds=options.file_seconds,
                quiet_seconds=min(2.0, options.file_seconds),
                tls=tls.context if tls else None,
                is_open=options.insecure_network,
            ),
            lambda loop, stop: [
                loop.add_signal_handler(number, stop.set) for number in (signal.SIGINT, signal.SIGTERM)
            ],
            lambda host, port: say(f"listening on {host} port {port}"),
        )
    say(f"{counts.accepted:,} messages landed, {counts.rejected:,} rejected, {counts.failed:,} could not be stored")
    return 0
