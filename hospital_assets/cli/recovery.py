"""The commands for snapshots, as-of rebuilds and erasure; thin, over functions of `recovery`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from hospital_assets.cli.console import definitions_of
from hospital_assets.settings import Settings

if TYPE_CHECKING:
    from hospital_assets.cli.console import Commands


def add_commands(commands: Commands) -> None:
    """Add these commands to the parser."""
    commands.add_parser("snapshot", _snapshot, help="copy the warehouse, to restore from later")

    commands.add_parser("snapshots", _snapshots, help="list the snapshots")

    then = commands.add_parser(
        "as-of", _as_of, help="rebuild every table as it was known at a moment, in another directory"
    )
    then.add_argument("moment", type=moment, help="a time, as in 2026-03-01T12:00 (UTC)")
    then.add_argument("--into", type=Path, required=True, help="a new data directory")

    upgraded = commands.add_parser(
        "upgrade", _upgrade, help="bring a data directory of an older release up to this one, or say what that would do"
    )
    upgraded.add_argument("--yes", action="store_true", help="do it; without this, only show what it involves")
    upgraded.add_argument("--no-snapshot", action="store_true", help="take no snapshot first: it cannot be undone then")
    upgraded.add_argument(
        "--fill", action="store_true", help="also build tables anew that only gain columns, which are empty otherwise"
    )
    upgraded.add_argument(
        "--accept-loss", action="store_true", help="also build anew where landed files are gone, without their rows"
    )
    upgraded.add_argument(
        "--undo", action="store_true", help="put the warehouse back to what it was before the last one"
    )

    erased = commands.add_parser(
        "erase", _erase, help="remove a person from landed files and everything made from them, and verify it"
    )
    erased.add_argument("patient", help="the record number")
    erased.add_argument("--yes", action="store_true", help="do it; without this, only show what it involves")


def moment(text: str) -> datetime:
    """A time; UTC where it names no zone."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _snapshot(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.publishing.policy import load_policy
    from hospital_assets.recovery.snapshots import take_snapshot

    _, deleted = take_snapshot(settings, datetime.now(UTC), load_policy(settings).retention.keep_snapshots)
    for snapshot in deleted:
        print(f"deleted {snapshot.taken_at:%Y-%m-%d %H:%M:%S} UTC")
    return _snapshots(options, settings)


def _snapshots(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.recovery.snapshots import snapshots

    found = snapshots(settings)
    for snapshot in found:
        print(f"{snapshot.taken_at:%Y-%m-%d %H:%M:%S} UTC  {snapshot.bytes / 1e6:,.1f} MB  {snapshot.file.name}")
    if not found:
        print("there is no snapshot: `hospital snapshot` takes one")
    return 0


def _as_of(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.automation.history import POSTGRES_URL, is_in_postgres
    from hospital_assets.recovery.as_of import build_as_of

    _refuse_lake("names the lake of today's tables: unset it, so that the rebuilt tables go to --into")
    if is_in_postgres():
        raise ValueError(
            f"{POSTGRES_URL} names the history of today's tables: unset it, so that the history of those that are "
            "rebuilt goes to --into"
        )
    made = build_as_of(settings, options.moment, options.into, lambda then: _rebuild(then)(False))
    print(
        f"{made.settings.warehouse_file}: made of the {made.files:,} files seen by {options.moment:%Y-%m-%d %H:%M %Z}, "
        f"without {made.later:,} that came later. It holds records as the original does, and "
        "`hospital erase` does not reach it: delete the folder when you have what you need."
    )
    return 1 if made.failures else 0


def _erase(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.automation.presence import at_work
    from hospital_assets.files import locked
    from hospital_assets.publishing.pseudonyms import load_key
    from hospital_assets.recovery.erase import erase_person, not_reached, plan_erasure
    from hospital_assets.sources.memory import pull_lock

    _refuse_lake(
        "names a lake that erasing neither deletes nor searches: unset it to erase from the data directory, and "
        "delete that lake, which is built anew"
    )
    if options.yes and (others := at_work(settings, datetime.now(UTC))):
        raise ValueError(
            f"{' and '.join(others)} at work on this data directory could load the person again while they are "
            "erased. Stop it, wait two minutes, and run this again; nothing was changed"
        )
    erasure = plan_erasure(settings, options.patient, load_key(settings))
    if erasure.was_begun:
        print("This erasure was started before but not finished; it starts again from the beginning.")
    print(
        f"{len(erasure.person.record_numbers)} record numbers, {len(erasure.person.visit_numbers)} visits. Erasing "
        "removes their records from the landed files, deletes the warehouse, snapshots, publications"
        f"{' and the mirror with its history' if settings.mirror.address else ''}, and builds and publishes anew. "
        f"The audit, and the note beside the backups, call them {erasure.hashed}."
    )
    print("It does not reach:")
    for place in not_reached(settings):
        print(f"  {place}")
    if not options.yes:
        print("Nothing was changed; add --yes to do it.")
        return 0
    # What is brought meanwhile would be replaced by what it was before.
    with locked(pull_lock(settings)):
        done = erase_person(settings, erasure, _rebuild(settings))
    count = sum(file.records for file in done.stripped)
    when = " this time" if erasure.was_begun else ""
    nowhere = f"found nowhere any more{' but in what is of others' if done.mentions else ''}"
    outcome = f"left in {'; '.join(done.left)}" if done.left else nowhere
    print(f"{count} records of {len(done.stripped)} landed files and {done.alerts} of alerts removed{when}; {outcome}")
    if done.mentions:
        print(f"what is of others and holds one of the numbers was left as it is: {'; '.join(done.mentions)}")
    if done.unsearched:
        print(
            f"torn, too large or under a password, so not searched whole: {'; '.join(done.unsearched)}", file=sys.stderr
        )
    if not done.is_done:
        print("Not finished: correct what stopped it, then run it again.", file=sys.stderr)
    return 0 if done.is_done else 1


def _upgrade(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.automation.presence import at_work
    from hospital_assets.automation.upgrade import in_words, plan_upgrade, undo, upgrade
    from hospital_assets.cli.console import StepProgress
    from hospital_assets.publishing.policy import load_policy

    now = datetime.now(UTC)
    if (options.yes or options.undo) and (others := at_work(settings, now)):
        raise ValueError(
            f"{' and '.join(others)} at work on this data directory. Stop it, wait two minutes, and run this again; "
            "nothing was changed"
        )
    if options.undo:
        before = undo(settings)
        print(
            f"the warehouse is what it was before the upgrade, version {before.number}: install hospital-assets "
            f"{before.program or 'of before'}, then `hospital publish`"
        )
        return 0
    definitions = definitions_of(settings)
    plan = plan_upgrade(definitions, settings, fill=options.fill)
    if plan.is_empty:
        print(f"{settings.data_dir} is up to date: version {plan.version.number} of a data directory")
        return 0
    if not plan.version.is_finished:
        print("This upgrade was begun before but not finished; it goes on.")
    for change in plan.changes:
        print(f"{change.action:<9} {change.table}: {change.why}")
    if plan.built:
        print(f"{len(plan.built)} tables are built, what is made of those included: {', '.join(plan.built)}")
        about = "" if plan.seconds is None else f", about {timedelta(seconds=round(plan.seconds))} (h:mm:ss)"
        about += f"; of {plan.unknown} of their steps that is not known" if plan.seconds and plan.unknown else ""
        print(f"service days {plan.days[0]} to {plan.days[-1]}{about or '; how long it takes is not known'}")
    if plan.lost and not options.accept_loss:
        print(in_words(plan.lost))
    if not options.yes:
        print("Nothing was changed; add --yes to do it.")
        return 0
    with StepProgress() as progress:
        done = upgrade(
            definitions,
            settings,
            now,
            keep=None if options.no_snapshot else load_policy(settings).retention.keep_snapshots,
            fill=options.fill,
            accept_loss=options.accept_loss,
            say=lambda text: print(text, flush=True),
            progress=progress,
        )
    for failure in done.failures:
        print(f"failed: {failure}", file=sys.stderr)
    checks = done.report.failed_checks if done.report else []
    for check in checks:
        print(f"check failed: {check.table}.{check.name}", file=sys.stderr)
    if done.failures:
        print("hospital: not finished; mend what failed and run it again, or go back with --undo", file=sys.stderr)
    else:
        print(f"{settings.data_dir} is upgraded")
    return 1 if done.failures or checks else 0


def _refuse_lake(why: str) -> None:
    """Refuse a command that works on the data directory alone while its tables are in a lake elsewhere."""
    from hospital_assets.settings import engine_from_environment

    if engine_from_environment().lake:
        raise ValueError(f"HOSPITAL_LAKE {why}")


def _rebuild(settings: Settings) -> Callable[[bool], list[str]]:
    """Builds everything in a data directory by its own settings, says what went wrong, and returns what failed."""
    from hospital_assets.automation.build import BuildError, build, publish
    from hospital_assets.recovery.mirror import mirror
    from hospital_assets.warehouse.database import open_warehouse

    def rebuild(publishing: bool) -> list[str]:
        definitions = definitions_of(settings)
        failures = []
        for step in (build, publish) if publishing else (build,):
            try:
                report = step(definitions, settings)
            except BuildError as error:
                failures.append(str(error))
                print(f"failed: {error}", file=sys.stderr)
                break
            for failure in report.failures:
                print(f"failed: {failure}", file=sys.stderr)
            for check in report.failed_checks:
                print(f"check failed: {check.table}.{check.name}", file=sys.stderr)
            failures += report.failures
            if failures:
                break
        if settings.mirror.address and not failures:
            with open_warehouse(settings.warehouse_file) as warehouse:
                failures += [
                    f"{table} was not mirrored: {why}" for table, why in mirror(settings, warehouse).failed.items()
                ]
        return failures

    return rebuild
