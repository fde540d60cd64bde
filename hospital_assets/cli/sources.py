"""The commands about sources elsewhere: bring what is new, and show how each source stands."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from hospital_assets.cli.console import headed, terminal
from hospital_assets.settings import Settings

if TYPE_CHECKING:
    from hospital_assets.cli.console import Commands

#: Of failed and refused files of a source, so many are named.
_MOST_NAMED = 10


def add_commands(commands: Commands) -> None:
    """Add these commands to the parser."""
    pulled = commands.add_parser("pull", _pull, help="bring new files from the addresses that profiles name")
    pulled.add_argument("profile", nargs="*", help="source profiles; default all with an address")
    pulled.add_argument(
        "--all",
        action="store_true",
        help="list all of a bucket and compare a database's keys, also where it was within the hour",
    )
    commands.add_parser("sources", _sources, help="every source: where from, how far behind, next try, what to do")


def _pull(options: argparse.Namespace, settings: Settings) -> int:
    import time

    from hospital_assets.automation.instance import dagster_instance
    from hospital_assets.files import locked
    from hospital_assets.landing.registry import load_profiles
    from hospital_assets.sources.memory import pull_lock
    from hospital_assets.sources.pull import pull
    from hospital_assets.sources.upstream import report_brought

    profiles = load_profiles(settings.profiles_folder)
    chosen = [profiles.named(name) for name in options.profile] or [
        p for p in profiles.values() if p.source is not None
    ]
    if not chosen:
        raise ValueError("no profile names an address: add [source] to one, as docs/sources.md shows")
    is_sound = True
    for profile in chosen:
        with locked(pull_lock(settings)):
            done = pull(settings, profile, lambda: datetime.now(UTC), time.sleep, lists_all=options.all)
        is_sound &= done.succeeded
        counts = {"brought": done.brought, "changed": done.changed, "still being written": done.waiting}
        counts |= {"not read by the profile": done.other}
        counts |= {"removed, not at the source any more": done.removed} if done.removed else {}
        counts |= {"rows deleted": done.deleted} if done.deleted else {}
        print(f"{profile.name}: " + ", ".join(f"{count:,} {what}" for what, count in counts.items()))
        for what, found in (("failed", done.failed), ("refused", done.refused)):
            _print_named(f"  {what}", [f"{key!r}: {why}" for key, why in found.items()])
        for what, said in (("stopped", done.reason), ("note", done.note)):
            if said:
                print(f"  {what}  {said}")
        if done.has_news:
            try:
                with dagster_instance(settings) as instance:
                    report_brought(instance, profile.name, done)
            except Exception as error:
                # The files are here, and the other sources wait; what its database says may tell where it is.
                print(f"  Dagster's history does not know of it ({type(error).__name__}); see hospital doctor")
    return 0 if is_sound else 1


def _sources(options: argparse.Namespace, settings: Settings) -> int:
    import polars as pl

    from hospital_assets.automation.history import HistoryError
    from hospital_assets.automation.presence import has_daemon
    from hospital_assets.landing.registry import load_profiles
    from hospital_assets.sources.memory import open_memory
    from hospital_assets.sources.pull import PULL_SECONDS
    from hospital_assets.warehouse.loads import read_ledger_copy

    wall = datetime.now(UTC)
    ledger = read_ledger_copy(settings.warehouse_file)
    newest_landed = dict(ledger.group_by("source_profile").agg(pl.col("file_modified_ns").max()).iter_rows())
    looks_itself = False
    with contextlib.suppress(HistoryError):
        looks_itself = has_daemon(settings, wall)
    table = headed("profile", "from", "newest file", "lag", "next try", "brought", "waiting", "refused", "what to do")
    profiles = load_profiles(settings.profiles_folder)
    refused: list[str] = []
    left: list[str] = []
    with open_memory(settings) as memory:
        for name, profile in sorted(profiles.items()):
            left += [f"{name}: {f'{archive}/{inside}'!r}: {why}" for archive, inside, why in memory.left(name)]
            if profile.source is None:
                if name in newest_landed:
                    landed = datetime.fromtimestamp(newest_landed[name] / 1e9, UTC)
                    table.add_row(name, f"landing/{name}/", f"{_age(landed, wall)} ago")
                continue
            look = memory.look(name)
            if look is None:
                again = "within a minute" if looks_itself else "hospital pull"
                table.add_row(name, profile.source.place, "never", "all", again)
                continue
            newest = f"{_age(look.brought_at, wall)} ago" if look.brought_at else "never"
            lag = _age(look.complete_at, wall) if look.complete_at else "all"
            due = look.tried_at + timedelta(seconds=PULL_SECONDS)
            again = ("now" if due <= wall else f"in {_age(wall, due)}") if looks_itself else "hospital pull"
            counts = (f"{count:,}" for count in (look.brought, look.waiting, look.refused))
            table.add_row(name, profile.source.place, newest, lag, again, *counts, look.reason)
            refused += [f"{name}: {key!r}: {why}" for key, (why, _) in memory.refused(name).items()]
    for name, problem in sorted(profiles.unusable.items()):
        table.add_row(name, "", "", "", "", "", "", f"correct the profile: {problem}")
    if table.row_count:
        terminal(highlight=False).print(table)
    else:
        print("nothing has landed yet, and no profile names an address")
    _print_named("refused", refused)
    _print_named("left in its archive", left)
    return 0


def _print_named(what: str, lines: Sequence[str]) -> None:
    """The first of some files, and how many more there are."""
    for line in lines[:_MOST_NAMED]:
        print(f"{what}  {line}")
    if len(lines) > _MOST_NAMED:
        print(f"{what}  {len(lines) - _MOST_NAMED:,} more")


def _age(at: datetime, wall: datetime) -> str:
    """How long before, in the largest unit that is not zero."""
    seconds = max(0, int((wall - at).total_seconds()))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
