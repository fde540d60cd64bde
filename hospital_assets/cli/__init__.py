"""The `hospital` command: a thin layer over functions of the other packages, one module for each group of commands."""

from __future__ import annotations

import argparse
import logging
import os
import select
import signal
import sys
import threading
from pathlib import Path

from hospital_assets.cli import (
    backup,
    explain,
    findings,
    governance,
    history,
    landing,
    operations,
    pages,
    recovery,
    sources,
    staffing,
    status,
    tables,
)
from hospital_assets.cli.console import Commands
from hospital_assets.directory import require_current
from hospital_assets.files import keep_private
from hospital_assets.logs import start_logging
from hospital_assets.operations import WAREHOUSE_COMMANDS
from hospital_assets.settings import Settings, SettingsError, data_dir_from_environment, load_settings

#: As shells have it of who is ended by SIGINT and by SIGPIPE.
_USAGE_ERROR, _INTERRUPTED, _UNREAD = 2, 130, 141


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    if threading.current_thread() is threading.main_thread():
        # Until a command sees to it in its own way: its first seconds are imports.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        try:
            return _run(arguments)
        finally:
            # What is still to be written fails here, or where nobody can see it.
            print(end="", flush=True)
    except BrokenPipeError:
        if not _is_unread():
            raise
        # As of `head`, which has what it wants. What is left goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _UNREAD


def _is_unread() -> bool:
    """Whether whoever read standard output has gone."""
    output = select.poll()
    output.register(sys.stdout, 0)
    return bool(output.poll(0))


def _run(arguments: list[str] | None) -> int:
    keep_private()
    parser = _parser()
    options = parser.parse_args(arguments)
    as_json = False
    try:
        as_json = start_logging()
        settings = load_settings(Path(options.data_dir) if options.data_dir else data_dir_from_environment())
        if options.command not in _OF_ANY_VERSION:
            require_current(settings.warehouse_file.parent)
        if options.command in _OF_TABLES and not settings.warehouse_file.exists():
            raise FileNotFoundError(f"there are no tables in {settings.data_dir} yet: run `hospital build`")
        if options.command != "backup" and settings.restoring_note.exists():
            raise ValueError(
                f"a backup is being restored into {settings.data_dir}, and not everything is there: run "
                "`hospital backup restore` again to its end"
            )
        if holder := _holder(options.command, settings):
            waits = f"{settings.warehouse_file.name} is in use by {holder}: waiting for it"
            _complain(waits, as_json=as_json, level=logging.INFO)
        return int(options.run(options, settings))
    except (SettingsError, ValueError, FileNotFoundError) as error:
        _complain(str(error), as_json=as_json)
        return _USAGE_ERROR
    except KeyboardInterrupt:
        _complain("interrupted", as_json=as_json)
        return _INTERRUPTED
    except Exception as error:
        from hospital_assets.automation.failures import in_words
        from hospital_assets.warehouse.errors import INTERRUPTED

        if INTERRUPTED in str(error):
            _complain("interrupted", as_json=as_json)
            return _INTERRUPTED
        words = in_words(error)
        if words is None:
            raise
        _complain(words, as_json=as_json)
        return 1


def _complain(text: str, *, as_json: bool, level: int = logging.ERROR) -> None:
    if as_json:
        logging.getLogger("hospital").log(level, "%s", text)
    else:
        print(f"hospital: {text}", file=sys.stderr)


#: Commands about tables that are there; they make no directory.
_OF_TABLES = ("explain", "staffing", "report", "publish", "snapshot", "mirror")
#: Commands that do nothing that an upgrade would have to come before; what lands is of no version.
_OF_ANY_VERSION = ("upgrade", "doctor", "docs", "listen", "metrics", "audit", "snapshots", "backup")


def _holder(command: str, settings: Settings) -> str:
    """Who has the warehouse that a command needs: why it waits is said at once, not when it gives up."""
    if command not in WAREHOUSE_COMMANDS or not settings.warehouse_file.exists():
        return ""
    from hospital_assets.warehouse.database import holder_of

    return holder_of(settings.warehouse_file)


#: What `hospital --help` lists: heading -> commands, and an example.
GROUPS: dict[str, tuple[tuple[str, ...], str]] = {
    "daily work": (("status", "build", "refresh", "watch", "check", "publish"), "hospital build --select group:kpis"),
    "bring data": (
        ("simulate", "import", "profiles", "pull", "sources", "listen", "retry", "drift", "score"),
        "hospital profiles new mine export.csv",
    ),
    "look": (("dev", "dashboard", "explain", "staffing", "report", "alerts"), "hospital dev"),
    "govern": (
        ("policy", "publications", "key", "users", "serve", "audit", "deploy", "erase"),
        "hospital users add ann analyst",
    ),
    "operate": (
        (
            *("doctor", "metrics", "dagster", "upgrade", "backup"),
            *("mirror", "history", "snapshot", "snapshots", "as-of", "docs"),
        ),
        "hospital as-of 2026-03-01T12:00 --into then",
    ),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hospital",
        usage="hospital [-h] [--data-dir DATA_DIR] COMMAND ...",
        description="Emergency-department data platform: land files, build tables, look at figures.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data-dir", help="data directory (default: $HOSPITAL_DATA_DIR or data)")
    commands = Commands(
        parser.add_subparsers(prog="hospital", required=True, metavar="COMMAND", dest="command", help=argparse.SUPPRESS)
    )
    for group in (
        landing,
        sources,
        tables,
        findings,
        explain,
        staffing,
        status,
        pages,
        governance,
        operations,
        recovery,
        history,
        backup,
    ):
        group.add_commands(commands)
    parser.epilog = "\n\n".join(
        "\n".join([f"{heading}, as in: {example}", *(f"  {name:<14} {commands.described[name]}" for name in names)])
        for heading, (names, example) in GROUPS.items()
    )
    return parser
