"""Every table and figure as they were known at a moment, built in a data directory of their own.

A table is a function of the landed files, the directory's configuration and the hospital's time, and the ledger
knows when each file was first seen. So what was known at a moment is what the files seen by then say. The program
and the configuration (profiles, policy, limits of alerts) are those of today; nobody is notified.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import polars as pl

from hospital_assets.access.audit import Event, audited, system_actor
from hospital_assets.clock import SimulatedClock, hospital_now, write_simulated_clock
from hospital_assets.settings import MirrorSettings, Settings, refuse_pattern
from hospital_assets.toml_text import text_of
from hospital_assets.warehouse.loads import read_ledger_copy

#: A notifier of an alerts.toml, and the mirror of a hospital.toml: from the header to the next one.
_NOTIFIER = re.compile(r"^[ \t]*\[\[notify\]\].*?(?=^[ \t]*\[|\Z)", re.MULTILINE | re.DOTALL)
_MIRROR = re.compile(r"^[ \t]*\[mirror\].*?(?=^[ \t]*\[|\Z)", re.MULTILINE | re.DOTALL)
#: How many files a message names.
_MOST_NAMED = 5


class AsOfError(ValueError):
    """The state known at a moment cannot be rebuilt; the message says why and what to do."""


@dataclass(frozen=True)
class AsOf:
    """A data directory as of a moment.

    Attributes:
        files: how many landed files it holds.
        later: how many landed afterwards, and are not in it.
    """

    settings: Settings
    files: int
    later: int
    failures: tuple[str, ...] = ()


def build_as_of(settings: Settings, moment: datetime, into: Path, build: Callable[[Settings], Sequence[str]]) -> AsOf:
    """Make a data directory of what had landed by a moment, and build it; audited: it is a copy of records.

    Args:
        into: the new directory; must not be there, or be empty.
        build: builds every table of a directory by its own settings; returns what failed.

    Raises:
        AsOfError: as `prepare_as_of`.
    """
    event = Event(system_actor(), "export", statement=f"as of {moment.isoformat()} into {into.resolve()}")
    with audited(settings, event) as outcome:
        made = prepare_as_of(settings, moment, into)
        failures = tuple(build(made.settings))
        outcome.failure = f"{len(failures)} steps of the build failed" if failures else ""
    return replace(made, failures=failures)


def prepare_as_of(settings: Settings, moment: datetime, into: Path) -> AsOf:
    """Make the directory; nothing is built in it.

    Files are linked where the disk allows it, else copied. The configuration comes along, but for the clock: it
    stands at the hospital's time of that moment, so that what was still open then is open there.

    Raises:
        AsOfError: nothing had been seen by then, a file is no longer what it was, or the place is taken.
    """
    if into.exists() and any(into.iterdir()):
        raise AsOfError(f"{into} is not empty; name a new folder")
    ledger = read_ledger_copy(settings.warehouse_file).unique("source_file")
    seen = ledger.filter(pl.col("first_seen_at") <= moment)
    # Of what was overwritten later, the ledger has the new content, first seen later, and since when it knows the name.
    overwritten = ledger.filter(pl.col("first_seen_at") > moment, pl.col("name_first_seen_at") <= moment)
    if seen.is_empty() and overwritten.is_empty():
        first = ledger.select(pl.col("first_seen_at").min()).item()
        since = f"the first was at {first:%Y-%m-%d %H:%M}" if first else "nothing was built yet"
        raise AsOfError(f"no landed file had been seen by {moment:%Y-%m-%d %H:%M} UTC; {since}")
    changed = [
        row["source_file"]
        for row in seen.iter_rows(named=True)
        if not _is_as_seen(settings.landing / row["source_file"], row)
    ]
    changed += overwritten["source_file"].to_list()
    if changed:
        more = f" and {len(changed) - _MOST_NAMED} more" if len(changed) > _MOST_NAMED else ""
        raise AsOfError(
            f"{len(changed)} landed files are not what they were when they were seen, so what was known "
            f"then cannot be made again: {', '.join(sorted(changed)[:_MOST_NAMED])}{more}. Put back what they were, or "
            "name a moment after they were overwritten"
        )
    # The mirror is of today's tables.
    then = replace(settings, data_dir=into.resolve(), mirror=MirrorSettings())
    refuse_pattern(then.data_dir, "the data directory")
    then.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in seen["source_file"]:
        target = then.landing / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.hardlink_to(settings.landing / name)
        except OSError:
            shutil.copy2(settings.landing / name, target)
    copy_configuration(settings, then)
    write_simulated_clock(then, SimulatedClock(0.0, hospital_now(settings, moment).timestamp(), 0.0))
    return AsOf(then, len(seen), len(ledger) - len(seen))


def copy_configuration(settings: Settings, target: Settings) -> None:
    """Copy the configuration that tables depend on to another data directory, but not what it tells others.

    Whom alerts are sent to stays behind, and where the tables are mirrored.

    Raises:
        AsOfError: either is written otherwise than in a table of its own.
    """
    for source, copy in zip(settings.configuration, target.configuration, strict=True):
        if source.is_dir():
            shutil.copytree(source, copy, dirs_exist_ok=True)
        elif source.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
    # Nothing that is found in the past is news, and what others read is of today.
    for file, copy, table, pattern, instead in (
        (settings.alerts_file, target.alerts_file, "[[notify]]", _NOTIFIER, {"notify": []}),
        (settings.settings_file, target.settings_file, "[mirror]", _MIRROR, dict[str, object]()),
    ):
        if not file.exists() and not instead:
            continue
        text = text_of(file) or ""
        rest = "".join(f"{key} = {value}\n" for key, value in instead.items()) + pattern.sub("", text)
        try:
            wanted = {key: value for key, value in tomllib.loads(text).items() if key != table.strip("[]")} | instead
            is_same = tomllib.loads(rest) == wanted
        except tomllib.TOMLDecodeError:
            is_same = False
        if not is_same:
            raise AsOfError(f"{file}: write {table} as a table of its own, so that it can be left out")
        copy.write_text(rest, encoding="utf-8")


def _is_as_seen(path: Path, row: dict[str, object]) -> bool:
    """Whether a landed file has the size and time the ledger knows."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return (found.st_size, found.st_mtime_ns) == (row["file_bytes"], row["file_modified_ns"])
