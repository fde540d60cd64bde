"""The commands that build tables from files: build, refresh, watch and retry."""

from __future__ import annotations

import argparse
from datetime import date
from typing import TYPE_CHECKING

from hospital_assets.cli.console import StepProgress, definitions_of, headed, print_checks, stopped_by_signals, terminal
from hospital_assets.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

    from hospital_assets.automation.build import BuildReport
    from hospital_assets.cli.console import Commands


def add_commands(commands: Commands) -> None:
    """Add these commands to the parser."""
    built = commands.add_parser("build", _build, help="materialise tables and run their checks")
    built.add_argument("--select", help="asset selection, as in group:kpis or '+key:fact_vitals'")
    built.add_argument("--partition", type=date.fromisoformat, help="one service day")
    built.add_argument("--from", dest="first", type=date.fromisoformat, help="first service day")
    built.add_argument("--to", dest="last", type=date.fromisoformat, help="last service day")
    built.add_argument(
        "--rebuild",
        metavar="TABLE",
        action="append",
        default=[],
        help="make a table anew whose contract changed; if it cannot be made, it is what it was",
    )

    commands.add_parser("refresh", _refresh, help="load the waiting files, as the sensors would")

    commands.add_parser("watch", _watch, help="load files within seconds of landing, and raise alerts")

    retry = commands.add_parser("retry", _retry, help="try quarantined files again")
    retry.add_argument("file", nargs="*", help="paths below the landing folder; default all")


def _build(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.automation.build import build

    first, last = options.first, options.last
    if options.partition:
        first = last = options.partition
    definitions = definitions_of(settings)
    with StepProgress() as progress:
        report = build(
            definitions,
            settings,
            first=first,
            last=last,
            select=options.select,
            rebuild=options.rebuild,
            progress=progress,
        )
    _print_report(report, definitions, settings)
    return 0 if report.succeeded else 1


def _refresh(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.automation.build import refresh
    from hospital_assets.landing.zone import LandingResource

    definitions = definitions_of(settings)
    landing = (definitions.resources or {})["landing"]
    assert isinstance(landing, LandingResource)  # noqa: S101  (build_definitions puts it there)
    with StepProgress() as progress:
        report = refresh(definitions, settings, landing, progress)
    if report is None:
        print("no files wait")
        return 0
    _print_report(report, definitions, settings)
    return 0 if report.succeeded else 1


def _watch(options: argparse.Namespace, settings: Settings) -> int:
    import logging
    import threading
    import time

    from hospital_assets.automation.watch import watch
    from hospital_assets.logs import teller

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    stop = threading.Event()
    with stopped_by_signals(stop):
        say = teller("hospital.watch", lambda text: f"{time.strftime('%H:%M:%S')} {text}")
        watch(definitions_of(settings), settings, stop, say)
    return 0


def _retry(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.landing.quarantine import change_quarantine, read_quarantine
    from hospital_assets.warehouse.loads import read_ledger_copy

    folder = settings.warehouse_file.parent
    held_back = read_quarantine(folder)
    names = dict(read_ledger_copy(settings.warehouse_file).select("file_sha256", "source_file").iter_rows())
    wanted = {sha for sha in held_back if not options.file or names.get(sha) in options.file}
    unknown = set(options.file) - {names.get(sha) for sha in wanted}
    if unknown:
        raise ValueError(f"not held back or quarantined: {', '.join(sorted(unknown))}")
    if wanted:
        change_quarantine(folder, held_back, {sha: why for sha, why in held_back.items() if sha not in wanted})
    for sha in sorted(wanted, key=lambda sha: names.get(sha, sha)):
        print(f"let in   {names.get(sha, sha[:12])}")
    print(f"{len(wanted)} files will be tried again at a sensor's next look, or by `hospital build`")
    return 0


def _print_report(report: BuildReport, definitions: dg.Definitions, settings: Settings) -> None:
    from hospital_assets.automation.build import CHECKS, layers_of, seconds_by_layer
    from hospital_assets.automation.loading import Step
    from hospital_assets.contracts import CONTRACTS
    from hospital_assets.landing.registry import load_profiles

    console = terminal()
    tables = headed("layer", "tables", "rows", "seconds", right=("tables", "rows", "seconds"), title="Build")
    layers = layers_of(definitions)
    seconds = seconds_by_layer(report.steps, layers)
    for layer, spent in seconds.items():
        written = {name: rows for name, rows in report.rows.items() if CONTRACTS[name].layer == layer}
        if layer == CHECKS:
            ran = [step for step in report.steps if step.name not in layers]
            tables.add_row("checks", str(len(ran)), f"{len(report.checks):,} results", f"{spent:.1f}")
        elif written:
            tables.add_row(layer, str(len(written)), f"{sum(written.values()):,}", f"{spent:.1f}")
    console.print(tables)

    print_checks(report)
    for subject, count in report.outside.items():
        days = f"{settings.first_service_date} to {settings.last_service_date or 'today'}"
        console.print(
            f"left out  {count:,} {subject}: they lie outside the service days, {days}. To count them, "
            f"change {settings.settings_file} and build again",
            style="yellow",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if report.uncounted:
        console.print(
            f"left out  not counted: {report.uncounted}", style="yellow", markup=False, highlight=False, soft_wrap=True
        )
    for state, count in report.not_loaded.items():
        console.print(
            f"not loaded  {count:,} landed files: {state.replace('_', ' ')}. `hospital status` names them",
            style="red",
            highlight=False,
            soft_wrap=True,
        )
    faults = [f"profile   {fault}" for fault in load_profiles(settings.profiles_folder).faults()]
    for line in [*faults, *Step(False, report.quarantined, report.suspects).in_words()]:
        console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"Warehouse: {settings.warehouse_file}. Look around: hospital dev, then "
        "http://localhost:3000 (Dagster) and http://localhost:8000 (the dashboard)",
        highlight=False,
        soft_wrap=True,
    )
