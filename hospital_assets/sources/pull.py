"""Bring new files of a folder elsewhere into the landing folder: each version once, whole or not at all.

What was brought is remembered beside the landing folder, by name and version. It is noted after the file has landed:
who dies in between brings the same bytes to the same place once more, and nothing is lost. The landing folder is a
border: names are data, and what could lead out of it is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath

from hospital_assets.files import replacing, room_beside
from hospital_assets.landing.archives import why_left
from hospital_assets.landing.content import UnreadableError
from hospital_assets.landing.listing import UNFINISHED, in_the_way, over_limit, shown, unfit_name
from hospital_assets.landing.profile import Profile
from hospital_assets.landing.worker import Worker
from hospital_assets.settings import Settings
from hospital_assets.sources.archives import land_archive
from hospital_assets.sources.exports import pull_export
from hospital_assets.sources.memory import Memory, Pulled, open_memory
from hospital_assets.sources.queries import pull_queries
from hospital_assets.sources.remote import ChangedError, Entry, Remote, RemoteError, UnlistedError, open_remote

#: Between two looks of Dagster's sensor at the sources; looks may take half of it, the next ones go on.
PULL_SECONDS = 60
#: Between two looks at a file that may still be written.
SETTLE_SECONDS = 2.0
#: What sorts before what is known already (a late or changed object) is found when everything is listed: so often.
_LIST_ALL = timedelta(hours=1)
_WILD = {"*", "?", "["}


def pull(
    settings: Settings,
    profile: Profile,
    clock: Callable[[], datetime],
    sleep: Callable[[float], object],
    until: Callable[[], bool] = lambda: False,
    remote: Callable[[str], contextlib.AbstractContextManager[Remote]] = open_remote,
    *,
    lists_all: bool = False,
) -> Pulled:
    """Look at a profile's source and bring what is new; the caller holds `pull_lock`, as one at a time may.

    Args:
        sleep: waits for some seconds, where files may still be written.
        until: whether to stop before the next file; the next look goes on.
        lists_all: list everything, or look for deleted rows, also where it was within the hour; what was refused is
            looked at once more.
    """
    source = profile.source
    if source is None:
        raise ValueError(f"profile '{profile.name}' names no source: add [source] with an address")
    pulled = Pulled()
    with open_memory(settings) as memory:
        listed, begun = memory.begins(profile.name), clock()
        # A clock that was ahead has noted a time to come.
        is_all = lists_all or listed is None or not timedelta() <= begun - listed < _LIST_ALL
        is_whole = True
        try:
            if source.fhir is not None:
                pull_export(settings, profile, memory, pulled, clock, sleep, until)
                is_whole = not until()
            elif source.address is None:
                pull_queries(settings, profile, memory, pulled, clock(), compares_all=lists_all)
            else:
                with remote(source.address) as there, Worker(settings.limits) as worker:
                    look = _Look(settings, profile, there, memory, worker, pulled, clock, until)
                    is_all |= not there.is_ordered
                    # One that was killed may have seen a file only just now.
                    known = memory.known(profile.name, clock() - timedelta(seconds=SETTLE_SECONDS))
                    is_whole = look.over(known, is_all=is_all, is_anew=lists_all)
                    if pulled.waiting and not until():
                        sleep(SETTLE_SECONDS)
                        is_whole = look.over(memory.known(profile.name), is_all=is_all)
        except RemoteError as error:
            pulled.reason = str(error)
        except Exception as error:
            # It stops no other source, and is shown as any failure is; its text may quote records.
            what = getattr(error, "strerror", None) or type(error).__name__
            pulled.reason = f"it stopped ({what}); what was brought is here, and the next look goes on"
        is_over = is_whole and pulled.succeeded and not pulled.waiting
        complete = {"complete_at": begun, "listed_all_at": begun if is_all else listed} if is_over else {}
        memory.looked(profile.name, pulled, clock(), **complete)
    return pulled


@dataclass(frozen=True)
class _Look:
    """One look at a source; what it comes to is in `pulled`."""

    settings: Settings
    profile: Profile
    there: Remote
    memory: Memory
    worker: Worker
    pulled: Pulled
    clock: Callable[[], datetime]
    until: Callable[[], bool]
    seen: list[Entry] = field(default_factory=list)

    def over(self, known: dict[str, tuple[str, str]], *, is_all: bool, is_anew: bool = False) -> bool:
        """Go over what is listed: everything, or what comes after what is known.

        Args:
            is_anew: try all that was refused once more.

        Returns:
            Whether it came to the end. It stops before it brings something; listing, which would begin anew, goes on.
        """
        try:
            return self._over(known, is_all=is_all, is_anew=is_anew)
        finally:
            # At once: a commit for each would cost most of a look. Who is killed before has not seen them.
            with self.memory.at_once():
                for entry in self.seen:
                    self.memory.note(self.profile.name, entry, "seen", self.clock())
            self.seen.clear()

    def _over(self, known: dict[str, tuple[str, str]], *, is_all: bool, is_anew: bool) -> bool:
        self.pulled.waiting = self.pulled.other = 0
        # Those that are not here: what is not there any more, neither waits nor has to be renamed.
        gone = {key for key, (_, state) in known.items() if state != "brought"} if is_all else set()
        # Archives in which something was left that the profile takes by now.
        for archive, name, _ in self.memory.left(self.profile.name):
            if not why_left(name, self.profile, archive):
                known.pop(archive, None)
        refused = self.memory.refused(self.profile.name)
        unlisted: UnlistedError | None = None
        places = [_Place()] if is_all else _ends(self.profile, known)
        while places:
            place = places.pop(0)
            try:
                for entry in self.there.entries(place.folder, place.after):
                    if not entry.key.startswith(place.start):
                        if entry.key > place.start:
                            break
                        continue
                    # What a name may not hold is remembered and told as an escape.
                    key = shown(entry.key)
                    gone.discard(key)
                    if known.get(key) == (entry.version, "refused"):
                        # Two patterns may list it, and once is enough.
                        is_known = key not in refused or not (is_anew or self._may_come(entry, *refused[key]))
                        refused.pop(key, None)
                    else:
                        is_known = known.get(key) == (entry.version, "brought")
                    if not is_known:
                        known[key] = (entry.version, self._found(entry, known.get(key)))
                        if not known[key][1]:
                            return False
            except UnlistedError as error:
                unlisted = error
                if self.there.is_ordered and is_all and not place.folder:
                    # What lies in folders that the profile names can be listed without the others.
                    folders = {place.folder for place in _ends(self.profile, {})} - {""}
                    places = [_Place(folder, folder) for folder in sorted(folders)]
        if unlisted is not None:
            raise unlisted
        for key in gone:
            self.memory.forget(self.profile.name, key)
        return True

    def _may_come(self, entry: Entry, reason: str, limits: str) -> bool:
        """Whether an entry that was refused may be brought by now, or is refused for something else.

        Args:
            limits: within which it was read; empty where it was not.
        """
        if limits:
            return limits != _limits(self.settings)
        return _obstacle(entry, self.settings, self.profile.name) != reason

    def _found(self, entry: Entry, known: tuple[str, str] | None) -> str:
        """The state of an entry that is new or has changed; empty where the look has to end before it is brought."""
        pulled, name = self.pulled, self.profile.name
        is_archive = self.profile.source is not None and self.profile.source.takes_archive(entry.key)
        if entry.key.endswith(("/", *UNFINISHED)) or not (is_archive or self.profile.feeds(entry.key)):
            pulled.other += 1
            return "other"
        if obstacle := _obstacle(entry, self.settings, name):
            key = shown(entry.key)
            self.memory.note(name, replace(entry, key=key), "refused", self.clock(), obstacle)
            pulled.refused[key] = obstacle
            return "refused"
        if not self.there.is_atomic and known != (entry.version, "seen"):
            # Whether it is whole, the next look tells.
            self.seen.append(entry)
            pulled.waiting += 1
            return "seen"
        if self.until():
            return ""
        target = self.settings.landing / name / entry.key
        is_new = not target.exists()
        try:
            if is_archive:
                sha256 = self._unpacked(entry, target)
            else:
                with replacing(target, is_durable=True) as temporary:
                    sha256 = _copied(self.there, entry, temporary)
                pulled.brought += is_new
                pulled.changed += not is_new
        except ChangedError:
            pulled.waiting += 1
            return "changing"
        except UnreadableError as error:
            limits = _limits(self.settings)
            self.memory.note(name, entry, "refused", self.clock(), str(error), limits=limits)
            pulled.refused[entry.key] = str(error)
            return "refused"
        except (RemoteError, OSError) as error:
            pulled.failed[entry.key] = str(error) if isinstance(error, RemoteError) else f"{error.strerror}"
            return "failed"
        self.memory.note(name, entry, "brought", self.clock(), sha256=sha256)
        return "brought"

    def _unpacked(self, entry: Entry, target: Path) -> str:
        """Bring an archive's files into a folder that is called as it; its own SHA-256."""
        with room_beside(target) as room:
            sha256 = _copied(self.there, entry, room / "archive")
            landed = land_archive(
                self.settings,
                self.profile,
                self.memory,
                self.worker,
                entry.key,
                room / "archive",
                room / "files",
                self.clock(),
            )
        self.pulled.brought += len(landed.new)
        self.pulled.changed += len(landed.changed)
        self.pulled.removed += len(landed.removed)
        self.pulled.other += len(landed.left)
        return sha256


@dataclass(frozen=True)
class _Place:
    """What is listed: a folder, of its names those that begin with `start` (the folder included), after a key."""

    folder: str = ""
    start: str = ""
    after: str = ""


def _ends(profile: Profile, known: Mapping[str, object]) -> list[_Place]:
    """Where new files come: after the last known key that the same patterns take.

    Names of files mostly rise with time within what a subject's patterns take; not from one subject to another. Those
    of one subject that begin alike count as one: files that come packed from some day on are not listed from that day.
    """
    alike: dict[tuple[str, str, bool], dict[tuple[str, ...], set[str]]] = {}
    archives = profile.source.archives if profile.source is not None else ()
    of_subjects = (layout.files for subject in profile.subjects.values() for layout in subject.layouts)
    for patterns in (archives, *of_subjects):
        for pattern in patterns:
            folders, _, name = pattern.rpartition("/")
            parts = folders.split("/") if folders else []
            fixed = list(itertools.takewhile(lambda part: not _WILD & {*part}, parts))
            folder = "".join(f"{part}/" for part in fixed)
            is_flat = len(fixed) == len(parts) and "**" not in name
            begins = "".join(itertools.takewhile(lambda character: character not in _WILD, name)) if is_flat else ""
            alike.setdefault((folder, folder + begins, is_flat), {}).setdefault(patterns, set()).add(pattern)
    # An escape does not stand where what it shows does.
    newest = sorted((key for key in known if "\\" not in key), reverse=True)
    places: list[_Place] = []
    # Whole folders first: what is listed with them is not listed by itself.
    for (folder, start, is_flat), groups in sorted(alike.items()):
        there = [key for key in newest if key.startswith(start) and not (is_flat and "/" in key[len(folder) :])]
        lasts = [next((key for key in there if _is_taken(key, of_one)), "") for of_one in groups.values()]
        # What has never come is looked for among names that begin like it; any names would be all that there is.
        never = start[:-1] if start != folder else max(there, default="")
        after = min(filter(None, lasts), default=never)
        if not any(place.folder == place.start == folder and place.after <= after for place in places):
            places.append(_Place(folder, start, after))
    return places


def _is_taken(key: str, patterns: Collection[str]) -> bool:
    return any(PurePosixPath(key).match(pattern) for pattern in patterns)


def _obstacle(entry: Entry, settings: Settings, profile_name: str) -> str:
    """Why an entry must not land, in words; empty where it may."""
    if unfit := unfit_name(entry.key):
        return unfit
    if entry.size > settings.limits.megabytes * 1_000_000:
        return over_limit(settings.limits)
    return in_the_way(settings.landing / profile_name, entry.key)


def _limits(settings: Settings) -> str:
    """The limits of files, as they are noted."""
    return json.dumps(asdict(settings.limits))


def _copied(there: Remote, entry: Entry, path: Path) -> str:
    """Download an entry into a file; its SHA-256."""
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for chunk in there.chunks(entry):
            size += len(chunk)
            if size > entry.size:
                break
            digest.update(chunk)
            file.write(chunk)
    if size != entry.size:
        raise ChangedError("it has another size than was listed")
    return digest.hexdigest()
