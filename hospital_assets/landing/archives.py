"""Archives (zip, tar): what is in them, and the files in them unpacked into a folder.

An archive comes from outside: names are data, and what it says of itself is not believed. Everything is looked at
before the first byte is written. Belongs here: reading archives. Does not: where their files land (`sources`).
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import lzma
import re
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO

from hospital_assets.files import make_folder
from hospital_assets.landing.content import (
    UnreadableError,
    gunzipped,
    most_unpacked,
    open_landed,
    too_large_unpacked,
    unpacked,
)
from hospital_assets.landing.listing import UNFINISHED, shown, unfit_name
from hospital_assets.landing.profile import Profile
from hospital_assets.settings import FileLimits

#: How names of archives end that are read here, and of others.
ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_NOT_READ = (".7z", ".rar", ".tar.zst")
#: First bytes of a packed tar -> what unpacks it.
_PACKED: Mapping[bytes, Callable[[BinaryIO], IO[bytes]]] = {
    b"\x1f\x8b": gunzipped,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_ENCRYPTED = 0x41
_PIECE = 1 << 20
_MOST_FILES = 100_000
_LONGEST_PATH = 1_000
_BLOCK = 512
_TORN = "the archive is cut off or damaged; nothing of it was landed, deliver it again"
_NO_FILE = "it holds a link, a device or something else that is no file; nothing of it was landed, pack files only"
_TWICE = "it holds two files of one name (capitals do not count); nothing of it was landed, pack each once"
_OUTSIDE = "names in it lead out of its folder; nothing of it was landed, pack it with names from its folder on"
#: Whatever a library says of bytes that are no whole archive.
_FAULTS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    # Of a damaged file: names that are no text, numbers that are none, places before the beginning.
    ValueError,
    IndexError,
    OverflowError,
    struct.error,
)


def is_archive_name(name: str) -> bool:
    """Whether a file is called as an archive is."""
    return name.lower().endswith(ENDINGS)


@dataclass
class Contents:
    """What was in an archive.

    Attributes:
        files: path from the archive's folder -> SHA-256, of those that were unpacked.
        left: path -> why a file was not unpacked, in words.
    """

    files: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    open: Callable[[], contextlib.AbstractContextManager[IO[bytes]]]


def unpack(path: Path, folder: Path, profile: Profile, inside: str, limits: FileLimits) -> Contents:
    """Unpack the files of an archive that a profile takes, all or none of them.

    Args:
        folder: an empty one to put them into; what has to be unpacked as a whole is put beside it.
        inside: the archive's own path below the profile's folder, of which theirs are made.

    Raises:
        UnreadableError: it is none or damaged, encrypted, too large unpacked, or holds what is no file of its folder.
    """
    size = path.stat().st_size
    make_folder(folder)
    try:
        with _opened(path, folder.parent, limits) as members:
            if sum(member.size for member in members) > most_unpacked(size, limits):
                raise too_large_unpacked(size, limits)
            _check_names([member.name for member in members])
            contents = Contents()
            found = 0
            for member in members:
                if why := why_left(member.name, profile, inside):
                    contents.left[shown(member.name)] = why
                    continue
                target = folder / member.name
                make_folder(target.parent)
                digest = hashlib.sha256()
                with member.open() as packed, target.open("xb") as file:
                    while piece := packed.read(_PIECE):
                        found += len(piece)
                        if found > most_unpacked(size, limits):
                            raise too_large_unpacked(size, limits)
                        digest.update(piece)
                        file.write(piece)
                if target.stat().st_size != member.size:
                    raise UnreadableError(_TORN)
                contents.files[member.name] = digest.hexdigest()
    except UnreadableError:
        raise
    except _FAULTS as error:
        raise UnreadableError(_TORN) from error
    except OSError as error:
        # What the system says has a number; what bzip2 says of its bytes has none.
        if error.errno is not None:
            raise
        raise UnreadableError(_TORN) from error
    return contents


def why_left(name: str, profile: Profile, inside: str) -> str:
    """Why a file of an archive does not land, in words; empty where it does."""
    if unfit := unfit_name(name):
        return unfit
    if name.endswith(UNFINISHED):
        return "it is called as a file that is still being written; rename it"
    if name.lower().endswith((*ENDINGS, *_NOT_READ)):
        return "an archive in an archive is not opened; deliver it by itself"
    return "" if profile.feeds(f"{inside}/{name}") else f"no subject of the profile '{profile.name}' takes it"


def _check_names(names: Sequence[str]) -> None:
    """Refuse names of which two are one, on whatever system, or that are a file and a folder."""
    if not names:
        raise UnreadableError("the archive holds no files; check what was delivered")
    folded = [unicodedata.normalize("NFC", name).casefold() for name in names]
    folders = {"/".join(parts[:n]) for parts in (name.split("/") for name in folded) for n in range(1, len(parts))}
    if len(set(folded)) < len(folded) or folders & set(folded):
        raise UnreadableError(_TWICE)


def _inner(name: str) -> str:
    """A path from the archive's folder; what stands for that folder itself is left out.

    Raises:
        UnreadableError: it leads elsewhere, or is endless.
    """
    if len(name) > _LONGEST_PATH:
        raise UnreadableError(f"it holds a path of over {_LONGEST_PATH:,} characters; pack it with shorter names")
    parts = name.split("/")
    if ".." in parts or name.startswith("/") or re.match("[A-Za-z]:", name):
        raise UnreadableError(_OUTSIDE)
    return "/".join(part for part in parts if part not in ("", "."))


@contextlib.contextmanager
def _opened(path: Path, room: Path, limits: FileLimits) -> Iterator[list[_Member]]:
    """The files of an archive, of whichever kind."""
    with open_landed(path) as file:
        head = file.read(8)
        if head.startswith(b"PK"):
            with zipfile.ZipFile(file) as archive:
                yield list(_zipped(archive))
            return
        for magic, opened in _PACKED.items():
            if head.startswith(magic):
                whole = room / "unpacked.tar"
                with unpacked(path, limits, opened) as packed, whole.open("xb") as plain:
                    while piece := packed.read(_PIECE):
                        plain.write(piece)
                with whole.open("rb") as tar:
                    yield _in_tar(tar)
                return
        yield _in_tar(file)


def _zipped(archive: zipfile.ZipFile) -> Iterator[_Member]:
    entries = archive.infolist()
    _check_count(len(entries))
    for entry in entries:
        # Some programs of Windows write their own separator.
        name = _inner(entry.filename.replace("\\", "/"))
        mode = stat.S_IFMT(entry.external_attr >> 16)
        if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UnreadableError(_NO_FILE)
        if entry.flag_bits & _ENCRYPTED:
            raise UnreadableError("the archive is protected by a password; deliver it without one")
        if entry.filename.endswith(("/", "\\")) or mode == stat.S_IFDIR:
            continue
        if not name:
            raise UnreadableError(_OUTSIDE)
        if entry.compress_type not in _METHODS:
            raise UnreadableError("the archive is packed by a method that is not read; pack it as plain zip (Deflate)")

        def opened(entry: zipfile.ZipInfo = entry) -> contextlib.AbstractContextManager[IO[bytes]]:
            return archive.open(entry)

        yield _Member(name, entry.file_size, opened)


class _Headers(io.BufferedReader):
    """A tar as its reader gets it: what says that it needs gigabytes at once, as a header can, is damaged."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0 or size > 2 * _PIECE:
            raise UnreadableError(_TORN)
        return super().read(size)


def _in_tar(file: BinaryIO) -> list[_Member]:
    members: list[_Member] = []
    bytes_of = _Headers(io.FileIO(file.fileno(), closefd=False))
    bytes_of.seek(0)
    archive = tarfile.TarFile(fileobj=bytes_of)
    for count, entry in enumerate(iter(archive.next, None)):
        _check_count(count)
        name = _inner(entry.name)
        if entry.isdir():
            continue
        if not entry.isreg() or entry.issparse():
            raise UnreadableError(_NO_FILE)
        if not name:
            raise UnreadableError(_OUTSIDE)

        def opened(entry: tarfile.TarInfo = entry) -> contextlib.AbstractContextManager[IO[bytes]]:
            found = archive.extractfile(entry)
            assert found is not None  # noqa: S101  (it is a file)
            return found

        members.append(_Member(name, entry.size, opened))
    # What is cut off between two files, or damaged there, looks like the end: the end is a block of zeros.
    bytes_of.seek(archive.offset)
    if bytes_of.read(_BLOCK) != bytes(_BLOCK):
        raise UnreadableError(_TORN)
    return members


def _check_count(count: int) -> None:
    if count > _MOST_FILES:
        raise UnreadableError(f"the archive holds over {_MOST_FILES:,} files; deliver it in parts")
