"""Landing the files of an archive, in a folder that is called as it: they are files as any other from then on.

What of it has landed is remembered beside the landing folder, as a source of its own. Does not belong here: reading
archives (`landing.archives`).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from hospital_assets.files import flush, flush_all, make_folder
from hospital_assets.landing.archives import Contents, unpack
from hospital_assets.landing.content import UnreadableError, sha256
from hospital_assets.landing.listing import in_the_way
from hospital_assets.landing.profile import Profile
from hospital_assets.landing.worker import Worker
from hospital_assets.settings import Settings
from hospital_assets.sources.memory import Memory, of_archive
from hospital_assets.sources.remote import Entry


@dataclass
class LandedArchive:
    """What became of an archive's files, as paths in it.

    Attributes:
        new: landed where nothing was.
        changed: landed in the place of an older version.
        same: there already.
        removed: taken away: they were in an older version of the archive, and are not in this one.
        left: path -> why it did not land.
    """

    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)


def land_archive(
    settings: Settings,
    profile: Profile,
    memory: Memory,
    worker: Worker,
    inside: str,
    packed: Path,
    room: Path,
    at: datetime,
    *,
    is_by_hand: bool = False,
) -> LandedArchive:
    """Land the files of an archive; the caller holds the lock of the sources.

    All are unpacked before the first lands. The first version of an archive appears in one step; of a later one, those
    that have changed take the place of the older ones, one by one. Who is killed does it again from the beginning.

    Args:
        inside: the archive's path below the profile's folder, and that of the folder of its files.
        room: a folder, not there yet, on the same disk as the landing folder.
        is_by_hand: land also what had landed and is not there as it was.

    Raises:
        UnreadableError: see `unpack`; or something stands where a file would. Nothing was landed.
    """
    contents: Contents = worker.run(unpack, packed, room, profile, inside, settings.limits)
    source, folder = of_archive(profile.name, inside), settings.landing / profile.name / inside
    known = {name: version for name, (version, state) in memory.known(source).items() if state == "brought"}
    landed = LandedArchive(left=contents.left, removed=sorted(set(known) - set(contents.files)))
    for name in (*contents.files, *landed.removed):
        obstacle = in_the_way(settings.landing / profile.name, f"{inside}/{name}")
        if obstacle or (name in contents.files and (folder / name).is_dir()):
            raise UnreadableError(
                obstacle or "a folder stands in the landing folder where a file of it would; remove it"
            )
    if contents.files and not known and not folder.exists():
        flush_all(room)
        room.rename(folder)
        flush(folder.parent)
        landed.new = sorted(contents.files)
    else:
        for name, digest in sorted(contents.files.items()):
            target = folder / name
            # What was taken out of the landing folder since, as of an erased person, does not come back as it was.
            is_same = not is_by_hand and known.get(name) == digest
            is_there = target.exists()
            if is_same or (is_there and sha256(target, target.stat().st_size) == digest):
                landed.same.append(name)
                continue
            make_folder(target.parent, is_durable=True)
            flush(room / name)
            (room / name).replace(target)
            flush(target.parent)
            (landed.changed if is_there else landed.new).append(name)
    for name in landed.removed:
        (folder / name).unlink(missing_ok=True)
        for parent in (folder / name).relative_to(folder).parents:
            with contextlib.suppress(OSError):  # it is not empty
                (folder / parent).rmdir()
    _remember(memory, source, packed, room, folder, contents, at)
    return landed


def _remember(
    memory: Memory, source: str, packed: Path, room: Path, folder: Path, contents: Contents, at: datetime
) -> None:
    with memory.at_once():
        for name in set(memory.known(source)) - {*contents.files, *contents.left}:
            memory.forget(source, name)
        for name, digest in contents.files.items():
            size = next((p.stat().st_size for p in (folder / name, room / name) if p.exists()), 0)
            memory.note(source, Entry(name, size, digest), "brought", at, sha256=digest)
        for name, why in contents.left.items():
            memory.note(source, Entry(name, 0, ""), "refused", at, why)
