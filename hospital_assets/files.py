"""Files on disk: replaced whole or not at all, and still there after the power went where that matters.

Belongs here: how a file is written and where in a text a mistake is. Does not: what is in it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path, *, is_durable: bool = False, mode: int | None = None) -> Iterator[Path]:
    """A file to write instead of `path`; it takes that place in one step when the block has ended.

    Readers see all of it or what was there before. Until then its name begins with a dot and ends in `.tmp`; an
    error removes it, and what a killed writer left is overwritten by the next one.

    Args:
        path: the file; its folder is made.
        is_durable: whether it must survive a crash of the machine from then on: flushed to disk, its name, too.
        mode: permissions of the file from its first byte on; None for the usual ones.
    """
    make_folder(path.parent, is_durable=is_durable)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        if mode is not None:
            temporary.unlink(missing_ok=True)
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
        yield temporary
        if is_durable:
            flush(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if is_durable:
        flush(path.parent)


def replace_text(path: Path, text: str, *, is_durable: bool = False, mode: int | None = None) -> None:
    """Write a small file of UTF-8 in one step; see `replacing`."""
    with replacing(path, is_durable=is_durable, mode=mode) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def replace_bytes(path: Path, data: bytes, *, is_durable: bool = False) -> None:
    """Write a small file in one step; see `replacing`."""
    with replacing(path, is_durable=is_durable) as temporary:
        temporary.write_bytes(data)


def make_folder(folder: Path, *, is_durable: bool = False) -> None:
    """Create a folder and its parents; durably, if a crash of the machine must not undo it."""
    if folder.is_dir():
        return
    make_folder(folder.parent, is_durable=is_durable)
    folder.mkdir(exist_ok=True)
    if is_durable:
        flush(folder.parent)


def flush(path: Path) -> None:
    """Have a file's content, or the names in a folder, on disk."""
    is_folder = path.is_dir()
    handle = os.open(path, os.O_RDONLY)
    try:
        # Some network file systems cannot flush folders, and write names through.
        with contextlib.suppress(OSError) if is_folder else contextlib.nullcontext():
            os.fsync(handle)
    finally:
        os.close(handle)


def flush_all(folder: Path) -> None:
    """Have everything in a folder on disk."""
    for path in [*folder.rglob("*"), folder]:
        flush(path)
