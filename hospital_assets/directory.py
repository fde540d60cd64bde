"""Which version of a data directory this program writes, and which one a directory has.

The number is raised by a release whose tables or files the release before could not go on with. It stands in
`warehouse/version.json`, beside what it is about; a directory without that file is of version 1, which did not write
it. Other commands of the newer program refuse an older directory until it is upgraded.
Belongs here: the number, and who must not work on which. Does not: what an upgrade does (`automation.upgrade`).
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from hospital_assets.files import StateError, read_state, replace_text

#: Raised together with what `automation.upgrade` needs for it.
VERSION = 1
#: Version -> tables that are computed otherwise since, though their columns are the same: an upgrade builds them anew.
COMPUTED_ANEW: Mapping[int, tuple[str, ...]] = {}
_REMEDY = "put back the file of a backup, or remove it if this directory was never upgraded"


class DirectoryVersionError(ValueError):
    """This program must not work on a data directory; says which wrote it and what to do."""


@dataclass(frozen=True)
class DirectoryVersion:
    """The version of a data directory.

    Attributes:
        program: the release that wrote it; empty where that is not known.
        is_finished: whether the upgrade to it is done.
        before: version that it was upgraded from, 0 where it never was;
        before_program: the release that had written that;
        snapshot: name of the snapshot that was taken then; empty where none was.
    """

    number: int = 1
    program: str = ""
    is_finished: bool = True
    before: int = 0
    before_program: str = ""
    snapshot: str = ""


def installed() -> str:
    """The release of this program."""
    return importlib.metadata.version("hospital-assets")


def version_of(warehouse: Path) -> DirectoryVersion:
    """The version of a directory.

    Raises:
        StateError: the file holds something else.
    """
    file = _file(warehouse)
    try:
        read = read_state(file, _REMEDY, "number")
    except FileNotFoundError:
        return DirectoryVersion()
    known = asdict(DirectoryVersion())
    # A newer program may write more.
    found = {name: read.get(name, value) for name, value in known.items()}
    if any(type(found[name]) is not type(value) for name, value in known.items()):
        raise StateError(f"{file} is not what was written there: {_REMEDY}")
    return DirectoryVersion(**found)


def write_version(warehouse: Path, version: DirectoryVersion) -> None:
    """Write the version down, on disk when this returns."""
    replace_text(_file(warehouse), json.dumps(asdict(version), indent=1) + "\n", is_durable=True, mode=0o600)


def stamp_new(warehouse: Path) -> None:
    """Note the version of a directory that is being made."""
    if not _file(warehouse).exists():
        write_version(warehouse, DirectoryVersion(VERSION, installed()))


def refuse_newer(warehouse: Path) -> None:
    """Refuse a directory that a newer program has written.

    Raises:
        DirectoryVersionError: it has.
    """
    found = version_of(warehouse)
    if found.number > VERSION:
        wrote = f"hospital-assets {found.program}" if found.program else "a newer release"
        release = f"'hospital-assets>={found.program}'" if found.program else "--upgrade hospital-assets"
        raise DirectoryVersionError(
            f"{warehouse.parent} was written by {wrote} and has version {found.number} of a data directory; this is "
            f"{installed()}, which knows versions up to {VERSION}. Nothing was changed: `pip install {release}`, or "
            "go back to what was before the upgrade with that release (`hospital upgrade --undo`)"
        )


def require_current(warehouse: Path) -> None:
    """Refuse a directory that has to be upgraded first.

    Raises:
        DirectoryVersionError: it has.
    """
    found = version_of(warehouse)
    if not found.is_finished:
        raise DirectoryVersionError(
            f"an upgrade of {warehouse.parent} was begun and is not finished: run `hospital upgrade --yes` again, "
            "or go back with `hospital upgrade --undo`"
        )
    if found.number < VERSION:
        raise DirectoryVersionError(
            f"{warehouse.parent} has version {found.number} of a data directory, and this program works on "
            f"{VERSION}: stop the services and run `hospital upgrade`, which says first what it would do"
        )


def _file(warehouse: Path) -> Path:
    return warehouse / "version.json"
