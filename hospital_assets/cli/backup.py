"""The commands for backups of the whole data directory; thin, over functions of `recovery`."""

from __future__ import annotations

import argparse
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hospital_assets.settings import Settings

if TYPE_CHECKING:
    from hospital_assets.cli.console import Commands


def add_commands(commands: Commands) -> None:
    """Add these commands to the parser."""
    backup = commands.add_parser("backup", help="back up the whole data directory, verify backups, and restore one")
    acts = commands.below(backup, "ACT")

    created = acts.add_parser("create", _create, help="make a backup, also while everything is at work")
    created.add_argument("--recipient", action="append", help="who can open it, as in age1... (default: [backup])")
    created.add_argument("--keep", type=int, help="how many backups to keep (default: [backup], else 14)")

    listed = acts.add_parser("list", _list, help="list the backups")

    verified = acts.add_parser("verify", _verify, help="read all of a backup and say whether it is whole")

    restored = acts.add_parser("restore", _restore, help="restore a backup into an empty folder")
    restored.add_argument("--into", type=Path, required=True, help="the new data directory")
    restored.add_argument("--keys", type=Path, help="folder of the copied keys: put where keys are looked for")
    restored.add_argument(
        "--unstamped", action="store_true", help="also where nobody can tell whether it was changed: the keys are lost"
    )

    keys = acts.add_parser("keys", _keys, help="copy the keys, which are in no backup, to another place")
    keys.add_argument("--into", type=Path, required=True, help="a folder far from the data and its backups")
    keys.add_argument("--recipient", action="append", help="who can open them, as in age1... (default: [backup])")

    for act in (created, listed, verified, restored, keys):
        act.add_argument("--folder", type=Path, help="of the backups (default: [backup] in hospital.toml)")
    for act in (verified, restored):
        act.add_argument("name", nargs="?", help="which, as in 20260314T020000Z (default: the newest)")
        act.add_argument("--identity", type=Path, help="file with the secret key of an encrypted backup")


def _folder(options: argparse.Namespace, settings: Settings) -> Path:
    if options.folder is None and not settings.backup.folder:
        raise ValueError("where are backups? Name their --folder, or set it in hospital.toml, table [backup]")
    return Path(options.folder or settings.backup.folder)


def _create(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.recovery.backup import create_backup

    started = time.perf_counter()
    keep = settings.backup.keep if options.keep is None else options.keep
    if keep < 1:
        raise ValueError("--keep must be at least 1")
    made = create_backup(
        settings,
        _folder(options, settings),
        datetime.now(UTC),
        recipients=options.recipient or settings.backup.recipients,
        keep=keep,
        say=lambda text: print(f"hospital: {text}", file=sys.stderr),
    )
    for name in made.deleted:
        print(f"deleted {name}")
    sealed = "encrypted" if made.backup.is_encrypted else "NOT encrypted: it can be read by whoever has the folder"
    print(
        f"{made.backup.name}: {made.files:,} files of {made.bytes / 1e6:,.1f} MB; the folder grew by "
        f"{made.added / 1e6:,.1f} MB; {sealed}. It took {time.perf_counter() - started:.1f} s, for "
        f"{made.held_seconds:.1f} s of which nobody else could write the warehouse"
    )
    for remark in made.remarks:
        print(f"hospital: {remark}", file=sys.stderr)
    return 0


def _list(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.recovery.backup import backups

    found = backups(_folder(options, settings))
    for backup in found:
        sealed = "encrypted" if backup.is_encrypted else "not encrypted"
        print(f"{backup.name}  {backup.size / 1e6:,.1f} MB in {len(backup.objects):,} objects  {sealed}")
    if not found:
        print("there is no backup: `hospital backup create` makes one")
    return 0


def _verify(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.recovery.backup import Depth, backup_named, note_verification
    from hospital_assets.recovery.restore import verify_backup

    folder = _folder(options, settings)
    backup = backup_named(folder, options.name)
    found = verify_backup(settings, folder, backup, options.identity)
    for problem in found.problems:
        print(f"{backup.name}: {problem}", file=sys.stderr)
    if not found.problems:
        opened = (
            "not opened, for want of the secret key"
            if found.files is None
            else f"{found.files:,} files came out as they went in, and {found.rows:,} rows of databases were counted"
        )
        stamped = "" if found.is_stamped else "; its stamp was not looked at: the audit's key is not here"
        print(f"{backup.name}: {found.objects:,} objects are whole; {opened}{stamped}")
    depth: Depth = "digests" if found.files is None else "content"
    try:
        note_verification(folder, backup, datetime.now(UTC), depth, is_whole=not found.problems)
    except OSError as error:
        print(f"hospital: that cannot be noted in {folder} ({error.strerror}): metrics do not know", file=sys.stderr)
    return 1 if found.problems else 0


def _restore(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.automation.history import POSTGRES_URL, is_in_postgres
    from hospital_assets.automation.instance import end_unfinished_runs
    from hospital_assets.recovery.backup import backup_named
    from hospital_assets.recovery.key_copies import put_keys
    from hospital_assets.recovery.restore import restore_backup
    from hospital_assets.settings import load_settings, refuse_pattern

    started = time.perf_counter()
    folder = _folder(options, settings)
    into = options.into.resolve()
    refuse_pattern(into, "the data directory")
    if options.keys:
        for file in put_keys(options.keys, options.identity):
            print(f"put {file} (mode 0600) where keys are looked for")
    backup = backup_named(folder, options.name)
    done = restore_backup(Settings(into), folder, backup, options.identity, needs_stamp=not options.unstamped)
    ended = end_unfinished_runs(load_settings(into), "its process ended before the directory was restored")
    print(
        f"{into}: {done.files:,} files as they were at {backup.taken_at:%Y-%m-%d %H:%M:%S} UTC, {done.rows:,} rows of "
        f"databases counted, in {time.perf_counter() - started:.1f} s. What landed since is not in it: land it again."
    )
    if done.erased_since:
        print(
            f"{len(done.erased_since)} people were erased after this backup was made, and are back: "
            f"{', '.join(done.erased_since)}. Erase them again before anybody works with it: `hospital erase NUMBER` "
            "shows what the audit calls a person"
        )
    if ended:
        print(f"{ended} runs that were under way are ended")
    if is_in_postgres():
        print(f"the history of runs is in no backup: {POSTGRES_URL} names it. For a rehearsal, unset that")
    if not done.is_accepted:
        print("hospital: the audit was broken when it was copied: `hospital audit verify`", file=sys.stderr)
    return 0


def _keys(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.recovery.key_copies import copy_keys

    folder = options.folder or (Path(settings.backup.folder) if settings.backup.folder else None)
    made = copy_keys(settings, options.into, folder, options.recipient or settings.backup.recipients)
    for file in made:
        print(file)
    if not made:
        print("hospital: the keys are in the environment, not in files: keep them where you keep that", file=sys.stderr)
    return 0
