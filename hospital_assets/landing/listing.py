"""What stands in the landing folder: its files, and what stands there and is none.

The landing folder is a border: whoever may put something there need not be trusted. Names are data; links are
not followed, pipes, sockets and devices are not opened, and a folder that cannot be read hides only itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl

from hospital_assets.files import is_unfinished
from hospital_assets.landing.content import IN_PARTS, LINK, SPECIAL
from hospital_assets.settings import FileLimits

#: What programs call a file that they are still writing.
UNFINISHED = (".tmp", ".part", ".crdownload")
_FOLDER = "it is a folder with a file's name; what is in it is looked at, name it otherwise"
_NAME = "its name holds control characters or is not UTF-8 (they are shown as escapes); rename it"
#: Control characters, halves of surrogate pairs (bytes that are not UTF-8), and what turns the direction of writing.
ODD_IN_NAMES = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LONGEST_NAME = 200
_SCHEMA = {"source_file": pl.String, "file_bytes": pl.Int64, "file_modified_ns": pl.Int64, "obstacle": pl.String}

_Found = tuple[str, int, int, str | None]


def listed(landing: Path, limits: FileLimits, is_fed: Callable[[str], bool] = lambda _: False) -> pl.DataFrame:
    """Every finished file below the landing folder, and what stands there and cannot be one.

    Args:
        landing: the folder; it may be a link itself.
        is_fed: whether a file of this name would be read: a folder called so is listed, too.

    Returns:
        one row for each: source_file (path from the landing folder), file_bytes, file_modified_ns, and
        `obstacle`: why it must not be opened, in words; null for a file.
    """
    found = pl.DataFrame(list(_found(landing, limits, is_fed)), schema=_SCHEMA, orient="row")
    # Two names can look alike once their odd characters are escapes: the file comes first.
    found = found.sort("source_file", "obstacle", nulls_last=False)
    return found.unique("source_file", keep="first", maintain_order=True)


def folders(landing: Path) -> Iterator[Path]:
    """The landing folder and those below it; no link is followed."""
    waiting = [landing]
    while waiting:
        folder = waiting.pop()
        yield folder
        with contextlib.suppress(OSError):
            waiting += [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]


def _found(landing: Path, limits: FileLimits, is_fed: Callable[[str], bool]) -> Iterator[_Found]:
    # Folders below the landing folder, as paths from there; a hundred thousand files are normal.
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        try:
            entries = list(os.scandir(landing / inside))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            yield shown(inside.rstrip("/") or "."), 0, 0, _refused("the folder", error)
            continue
        for entry in entries:
            name = f"{inside}{entry.name}"
            try:
                is_folder = entry.is_dir(follow_symlinks=False)
                if is_folder and is_unfinished(entry.name):
                    continue
                if is_folder:
                    waiting.append(f"{name}/")
                elif entry.name.startswith(".") or entry.name.endswith(UNFINISHED):
                    continue
                if not is_folder or ("." in entry.name and is_fed(shown(name))):
                    yield _examined(entry, name, limits)
            except FileNotFoundError:
                continue
            except OSError as error:
                yield shown(name), 0, 0, _refused("it", error)


def _examined(entry: os.DirEntry[str], name: str, limits: FileLimits) -> _Found:
    found = entry.stat(follow_symlinks=False)
    obstacle = None
    if stat.S_ISLNK(found.st_mode):
        obstacle = LINK
    elif stat.S_ISDIR(found.st_mode):
        obstacle = _FOLDER
    elif not stat.S_ISREG(found.st_mode):
        obstacle = SPECIAL
    elif ODD_IN_NAMES.search(name):
        obstacle = _NAME
    elif found.st_size > limits.megabytes * 1_000_000:
        obstacle = over_limit(limits)
    if obstacle in (SPECIAL, _FOLDER):
        # Their sizes and times say nothing about them.
        return shown(name), 0, 0, obstacle
    return shown(name), found.st_size, found.st_mtime_ns, obstacle


def over_limit(limits: FileLimits) -> str:
    """Why a file that is too large is not taken, in words."""
    return f"it is over the limit of {limits.megabytes:,} MB; {IN_PARTS}"


def unfit_name(name: str) -> str:
    """Why a path below the landing folder cannot be a file's there, in words; empty where it can."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or part.startswith(".") for part in parts):
        return "its name could lead out of the landing folder or hides it; rename it"
    if ODD_IN_NAMES.search(name):
        return "its name holds control characters or is not UTF-8; rename it"
    if any(len(part.encode()) > _LONGEST_NAME for part in parts):
        return f"its name is longer than {_LONGEST_NAME} bytes; rename it"
    return ""


def in_the_way(folder: Path, name: str) -> str:
    """What stands where the folders of a file's path `name` in `folder` would, in words; empty where nothing does."""
    parts = name.split("/")
    within = [folder, *(folder.joinpath(*parts[:n]) for n in range(1, len(parts) + 1))]
    if any(place.is_symlink() for place in within) or any(
        place.exists() and not place.is_dir() for place in within[:-1]
    ):
        return "a link or a file stands in the landing folder where its folder would; remove it"
    return ""


def shown(name: str) -> str:
    """A name as data: characters that have no place in one as escapes."""
    return ODD_IN_NAMES.sub(lambda odd: _escape(odd.group()), name)


def _escape(character: str) -> str:
    code = ord(character)
    # A byte that is not UTF-8 comes as half of a surrogate pair.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def _refused(what: str, error: OSError) -> str:
    return f"{what} cannot be read ({error.strerror or type(error).__name__}); let this program read it"
