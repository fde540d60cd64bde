"""The commands for the mirror and for the history of tables; thin, over functions of `recovery`."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from hospital_assets.cli.console import headed
from hospital_assets.cli.recovery import moment
from hospital_assets.settings import Settings, engine_from_environment

if TYPE_CHECKING:
    from hospital_assets.cli.console import Commands
    from hospital_assets.warehouse.database import Period


def add_commands(commands: Commands) -> None:
    """Add these commands to the parser."""
    commands.add_parser("mirror", _mirror, help="write what changed to the mirror, Delta tables for other engines")

    history = commands.add_parser("history", help="list versions of a table, look into one, or restore it")
    acts = commands.below(history, "ACT")
    listed = acts.add_parser("list", _list, help="the versions that the mirror, the lake and the snapshots have")
    looked = acts.add_parser("as-of", _as_of, help="write a table as it was to a file, or count its rows")
    looked.add_argument("--out", type=Path, help="a .parquet or .csv file; without it, rows are counted")
    restored = acts.add_parser("restore", _restore, help="make a table, or some service days of it, what it was")
    for act in (listed, looked, restored):
        act.add_argument("table", help="as in fact_emergency_visits")
    for act in (looked, restored):
        act.add_argument(
            "--as-of", type=moment, required=True, help="a time, as in 2026-03-01T12:00 (UTC): the newest version then"
        )
        act.add_argument(
            "--days", type=date.fromisoformat, nargs="+", metavar="DAY", help="one service day, or the first and last"
        )


def _mirror(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.recovery.mirror import mirror, mirror_of
    from hospital_assets.warehouse.database import open_warehouse

    root = mirror_of(settings).root
    with open_warehouse(settings.warehouse_file) as warehouse:
        done = mirror(settings, warehouse)
    for table, why in done.failed.items():
        print(f"hospital: {table} was not mirrored: {why}", file=sys.stderr)
    whole = f", {len(done.whole)} of them with all their days" if done.whole else ""
    print(
        f"{root}: {sum(done.written.values()):,} rows of {len(done.written)} tables written{whole}; "
        f"{done.unchanged} tables unchanged"
    )
    return 1 if done.failed else 0


def _list(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.cli.console import terminal
    from hospital_assets.recovery.history import contract_named, versions_of

    contract = contract_named(options.table)
    found = versions_of(settings, contract, engine_from_environment())
    if not found:
        print(f"no version of {contract.name} is kept")
        return 0
    shown = headed("time (UTC)", "rows", "days that changed", "cause", right=("rows",), title=contract.name)
    for version in found:
        rows = "" if version.rows is None else f"{version.rows:,}"
        days = version.days or ("all" if version.number and contract.partitioned else "")
        shown.add_row(f"{version.at:%Y-%m-%d %H:%M:%S.%f}"[:-3], rows, days, version.cause)
    terminal(highlight=False).print(shown)
    return 0


def _as_of(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.recovery.history import contract_named, export_version, version_at

    contract = contract_named(options.table)
    version = version_at(settings, contract, options.as_of, datetime.now(UTC), engine_from_environment())
    rows = export_version(settings, contract, version, options.out, _period(options.days))
    place = f"{options.out}: " if options.out else ""
    print(f"{place}{rows:,} rows of {contract.name}, as of {version.at:%Y-%m-%d %H:%M:%S} UTC ({version.cause})")
    return 0


def _restore(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.recovery.history import contract_named, restore, version_at

    contract = contract_named(options.table)
    engine = engine_from_environment()
    version = version_at(settings, contract, options.as_of, datetime.now(UTC), engine)
    done = restore(settings, contract, version, _period(options.days), engine)
    print(
        f"{contract.name}: {done.rows_before:,} rows became the {done.rows_after:,} of "
        f"{version.at:%Y-%m-%d %H:%M:%S} UTC"
        + ("" if done.was_different else "; they were the same")
        + f". What is made of it is unchanged until you build it: hospital build --select '{contract.name}+'"
    )
    return 0


def _period(days: list[date] | None) -> Period | None:
    from hospital_assets.warehouse.database import Period

    if not days:
        return None
    if len(days) > 2 or days[0] > days[-1]:
        raise ValueError("--days takes one service day, or the first and the last")
    return Period(days[0], days[-1] + timedelta(days=1))
