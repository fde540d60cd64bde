"""The `hospital` command: a thin layer over functions of the other packages, one module for each group of commands."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hospital_assets.cli import findings, governance, landing, pages, recovery, tables
from hospital_assets.settings import SettingsError, data_dir_from_environment, load_settings

_USAGE_ERROR = 2


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        settings = load_settings(Path(options.data_dir) if options.data_dir else data_dir_from_environment())
        return int(options.run(options, settings))
    except (SettingsError, ValueError, FileNotFoundError) as error:
        print(f"hospital: {error}", file=sys.stderr)
        return _USAGE_ERROR
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hospital", description="Emergency-department data platform: land files, build tables, look at figures."
    )
    parser.add_argument("--data-dir", help="data directory (default: $HOSPITAL_DATA_DIR or data)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (landing, tables, findings, pages, governance, recovery):
        group.add_commands(commands)
    return parser
