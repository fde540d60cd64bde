"""Copies of the keys of pseudonyms and of the audit, kept far from what they protect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hospital_assets.access.audit import Event, audit_key_file, audited, system_actor
from hospital_assets.files import replace_bytes
from hospital_assets.publishing.pseudonyms import key_file
from hospital_assets.recovery.objects import BackupError, identities_of, open_small, seal_small
from hospital_assets.settings import Settings


def _keys() -> tuple[Path, ...]:
    return key_file(), audit_key_file()


def copy_keys(
    settings: Settings, into: Path, backups_folder: Path | None, recipients: Sequence[str] = ()
) -> list[Path]:
    """Copy the keys of pseudonyms and of the audit to a folder that holds nothing they protect; audited.

    Args:
        backups_folder: where backups are: not there.
        recipients: public keys of those who can open the copies; none: they are as they are.

    Raises:
        BackupError: the folder holds what they protect, or there is no key in a file.
    """
    for other in (settings.data_dir, *([backups_folder] if backups_folder else [])):
        if into.resolve().is_relative_to(other.resolve()) or other.resolve().is_relative_to(into.resolve()):
            raise BackupError(f"{into} would hold the keys together with what they protect: name another place")
    made = []
    with audited(settings, Event(system_actor(), "key", statement=f"copy the keys into {into}")) as ending:
        for file in (file for file in _keys() if file.exists()):
            target = into / (file.name + (".age" if recipients else ""))
            replace_bytes(target, seal_small(file.read_bytes(), recipients), is_durable=True, mode=0o600)
            made.append(target)
        ending.row_count = len(made)
    return made


def put_keys(source: Path, identity: Path | None = None) -> list[Path]:
    """Put copied keys where keys are looked for; none is replaced.

    Raises:
        BackupError: another key is there already, there is none in the folder, or it cannot be opened.
    """
    identities = identities_of(identity)
    put = []
    for target in _keys():
        found = [file for file in (source / target.name, source / f"{target.name}.age") if file.exists()]
        for file in found[:1]:
            data = open_small(file.read_bytes(), identities)
            if target.exists() and target.read_bytes() != data:
                raise BackupError(f"{target} is another key than the one in {source}: move it away first")
            if not target.exists():
                replace_bytes(target, data, is_durable=True, mode=0o600)
                put.append(target)
    return put
