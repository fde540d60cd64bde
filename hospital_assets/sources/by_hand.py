"""Files that somebody brings by hand: copied into the landing folder, bytes untouched; archives are unpacked."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from hospital_assets.files import locked, replacing, room_beside
from hospital_assets.landing.archives import is_archive_name
from hospital_assets.landing.content import UnreadableError, why_unreadable
from hospital_assets.landing.profile import Profile
from hospital_assets.landing.worker import Worker
from hospital_assets.settings import Settings
from hospital_assets.sources.archives import land_archive
from hospital_assets.sources.memory import open_memory, pull_lock


@dataclass
class Imported:
    """What became of the files that were named, by their paths below the profile's folder.

    Attributes:
        used: landed, or there already.
        removed: landed from an older version of an archive that does not hold them any more, and taken away.
        unused: path -> why it did not land, where more is to be said than that the profile does not take it.
        refused: archive -> why nothing of it landed.
    """

    used: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unused: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def import_files(settings: Settings, profile: Profile, source: Path, at: datetime) -> Imported:
    """Land a source's files, each appearing whole; waits while another program brings files.

    Raises:
        FileNotFoundError: there is no such file or folder, or nothing the profile takes in it.
    """
    if not source.exists():
        raise FileNotFoundError(f"there is no file or folder {source}")
    imported, archives = Imported(), {}
    # Who erases a person has nobody land files meanwhile, and pulls bring to the same places.
    with locked(pull_lock(settings)):
        for path in sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else [source]:
            inside = path.relative_to(source).as_posix() if source.is_dir() else path.name
            if is_archive_name(inside):
                archives[inside] = path.resolve()
            elif not profile.feeds(inside):
                imported.unused[inside] = ""
            else:
                with replacing(settings.landing / profile.name / inside) as temporary:
                    shutil.copyfile(path, temporary)
                imported.used.append(inside)
        if archives:
            _unpack(settings, profile, archives, at, imported)
    if not imported.used and not imported.refused:
        raise FileNotFoundError(
            f"{source} holds no file that the profile '{profile.name}' takes: "
            + ", ".join(p for spec in profile.subjects.values() for p in spec.files)
        )
    return imported


def _unpack(
    settings: Settings, profile: Profile, archives: Mapping[str, Path], at: datetime, imported: Imported
) -> None:
    with open_memory(settings) as memory, Worker(settings.limits) as worker:
        for inside, path in archives.items():
            try:
                with room_beside(settings.landing / profile.name / inside) as room:
                    landed = land_archive(
                        settings, profile, memory, worker, inside, path, room / "files", at, is_by_hand=True
                    )
            except (OSError, UnreadableError) as error:
                imported.refused[inside] = why_unreadable(error)
                continue
            imported.used += [f"{inside}/{name}" for name in sorted([*landed.new, *landed.changed, *landed.same])]
            imported.removed += [f"{inside}/{name}" for name in landed.removed]
            imported.unused |= {f"{inside}/{name}": why for name, why in landed.left.items()}
