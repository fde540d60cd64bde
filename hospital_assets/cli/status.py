"""The command that shows on one screen what is going on in a data directory."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from hospital_assets.cli.console import definitions_of, headed, terminal
from hospital_assets.files import free_bytes
from hospital_assets.settings import Settings

if TYPE_CHECKING:
    from hospital_assets.cli.console import Commands

#: Runs of Dagster that are shown, newest first.
_MOST_RUNS = 5
#: Files of one state that are named; the quality page names all.
_MOST_FILES = 5


def add_commands(commands: Commands) -> None:
    """Add this command to the parser."""
    commands.add_parser("status", _status, help="one screen: files, runs, alerts, publications, disk")


def _status(options: argparse.Namespace, settings: Settings) -> int:
    from rich.markup import escape

    shown = headed(box=None, show_header=False, padding=(0, 2))
    wall = datetime.now(UTC)
    parts: dict[str, Callable[[], list[str]]] = {
        "directory": lambda: _directory(settings),
        "at work": lambda: _at_work(settings, wall),
        "files": lambda: _files(settings),
        "runs": lambda: _runs(settings),
        "alerts": lambda: _alerts(settings),
        "publications": lambda: _publications(settings, wall),
        "disk": lambda: _disk(settings),
        "permissions": lambda: _permissions(settings),
    }
    unread = []
    for name, part in parts.items():
        try:
            lines = part()
        # Who looks because something is wrong wants to see the rest.
        except Exception as error:
            lines = [f"cannot be read: {_why(error)}"]
            unread.append(name)
        for place, line in enumerate(lines):
            shown.add_row("" if place else f"[bold]{name}[/bold]", escape(line))
    terminal(highlight=False).print(shown)
    if unread:
        print(f"hospital: not everything could be read: {', '.join(unread)}", file=sys.stderr)
    return 1 if unread else 0


def _why(error: Exception) -> str:
    from hospital_assets.automation.failures import in_words

    if isinstance(error, (ValueError, FileNotFoundError)):
        return str(error)
    return in_words(error) or type(error).__name__


def _directory(settings: Settings) -> list[str]:
    from hospital_assets.clock import hospital_now

    last = settings.last_service_date
    days = f"{settings.first_service_date} to {last}" if last else f"{settings.first_service_date} on"
    return [f"{settings.data_dir}, service days {days}, clock {hospital_now(settings):%Y-%m-%d %H:%M} UTC"]


def _at_work(settings: Settings, wall: datetime) -> list[str]:
    from hospital_assets.automation.presence import at_work
    from hospital_assets.warehouse.database import holder_of

    found = at_work(settings, wall)
    if holder := holder_of(settings.warehouse_file):
        found.append(f"the warehouse is being written by {holder}")
    return found or ["nothing: `hospital dev` or `hospital watch` load what lands"]


def _files(settings: Settings) -> list[str]:
    """Landed files by what became of them, with what to do."""
    from hospital_assets.checks.accounting import NOT_LOADED
    from hospital_assets.landing.profile import LANDED, UNRECOGNISED
    from hospital_assets.landing.registry import load_profiles
    from hospital_assets.landing.zone import LandingResource
    from hospital_assets.warehouse.loads import read_ledger_copy

    if not settings.landing.exists():
        return ["nothing has landed: `hospital simulate`, or `hospital import PROFILE PATH`"]
    landing = (definitions_of(settings).resources or {})["landing"]
    assert isinstance(landing, LandingResource)  # noqa: S101  (for the type checker)
    ledger = read_ledger_copy(settings.warehouse_file)
    held_back = landing.held_back()
    waiting = landing.waiting([*LANDED, UNRECOGNISED], held_back)
    loaded = ledger.filter(ledger["is_loaded"])
    newest = loaded["first_seen_at"].max() if loaded.height else None
    lines = [
        f"{loaded['source_file'].n_unique():,} loaded"
        + (f", the newest first seen {newest:%Y-%m-%d %H:%M} UTC" if isinstance(newest, datetime) else "")
    ]
    if waiting:
        lines.append(f"{len(waiting):,} waiting to be loaded")
    for state in NOT_LOADED:
        files = ledger.filter(ledger["state"] == state).unique("source_file").sort("source_file")
        if files.height:
            lines.append(f"{files.height:,} {state}")
            named = files.head(_MOST_FILES).select("source_file", "problem").iter_rows()
            lines += [f"  {name}: {problem or 'no reason is known'}" for name, problem in named]
            if files.height > _MOST_FILES:
                lines.append("  and more: `hospital report quality` writes a page that names all")
    lines += [f"profile {fault}" for fault in load_profiles(settings.profiles_folder).faults()]
    if held_back:
        lines.append(f"{len(held_back):,} held back or quarantined: `hospital retry` tries them again")
    return lines


def _runs(settings: Settings) -> list[str]:
    from hospital_assets.automation.instance import dagster_instance

    if not settings.dagster_home.exists():
        return ["none yet: `hospital build`"]
    with dagster_instance(settings) as instance:
        records = instance.get_run_records(limit=_MOST_RUNS)
    lines = []
    for record in records:
        run = record.dagster_run
        started = datetime.fromtimestamp(record.start_time, UTC) if record.start_time else None
        took = f", {record.end_time - record.start_time:.0f} s" if record.start_time and record.end_time else ""
        since = f" {started:%Y-%m-%d %H:%M} UTC" if started else ""
        lines.append(f"{run.status.value.lower():<9} {run.job_name}{since}{took}")
    return lines or ["none yet: `hospital build`"]


def _alerts(settings: Settings) -> list[str]:
    from hospital_assets.alerts.outbox import standing

    counts = standing(settings).open
    stated = ", ".join(f"{count:,} {severity}" for severity, count in counts.items())
    return [f"{stated} open: `hospital alerts`" if counts else "none open"]


def _publications(settings: Settings, wall: datetime) -> list[str]:
    from hospital_assets.publishing.publications import publication_moments
    from hospital_assets.warehouse.loads import last_loaded_at

    moments = publication_moments(settings.data_dir)
    if not moments:
        return ["none yet: `hospital publish`"]
    oldest = min(moments)
    line = f"for {len(moments)} audiences, {_age(wall - oldest)} old at most"
    loaded_at = last_loaded_at(settings.warehouse_file)
    if loaded_at is not None and loaded_at > oldest:
        line += "; files were loaded since: `hospital publish`, or leave it to `hospital dev`"
    return [line]


def _disk(settings: Settings) -> list[str]:
    parts = {
        "landed files": settings.landing,
        "warehouse": settings.warehouse_file.parent,
        "publications": settings.data_dir / "published",
        "Dagster's history": settings.dagster_home,
    }
    sizes = [f"{name} {_bytes(folder) / 1e6:,.0f} MB" for name, folder in parts.items() if folder.exists()]
    return [*([", ".join(sizes)] if sizes else []), f"{free_bytes(settings.data_dir) / 1e9:,.1f} GB free"]


def _permissions(settings: Settings) -> list[str]:
    """Whether others than the owner can read what is in the directory, and what to do."""
    from hospital_assets.files import open_to_others
    from hospital_assets.landing.listing import shown

    found = list(open_to_others(settings.data_dir))
    if not found:
        return ["only the owner can read the directory"]
    first = [shown(str(path.relative_to(settings.data_dir))) for path in found[:3]]
    protected = "" if found[0] == settings.data_dir else ", which the directory itself keeps from them"
    return [
        f"{len(found):,} files and folders are open to others{protected}: {', '.join(first)}, ...",
        f"`chmod -R go= {settings.data_dir}`; who else must read or write a folder, let in by an access list (setfacl)",
    ]


def _bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _age(span: timedelta) -> str:
    if span < timedelta(hours=1):
        return f"{max(0, span // timedelta(minutes=1))} min"
    return f"{span // timedelta(hours=1):,} h" if span < timedelta(days=2) else f"{span.days:,} days"
