"""The bytes of a landed file: whether they are whole, and as what text.

Belongs here: compression, encoding, and the shapes JSON comes in. Verifying first is what makes
it safe to hand files to fast readers that would guess, skip or fill in.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import json
import os
import signal
import zlib
from dataclasses import dataclass
from pathlib import Path


class UnreadableError(ValueError):
    """The bytes are not a whole file of their kind; the message says what to do."""


@dataclass(frozen=True)
class Content:
    """A verified file: its text and what it took to read it."""

    text: str
    encoding: str
    compression: str

    @property
    def is_plain(self) -> bool:
        """Whether the file on disk already is this text in UTF-8."""
        return self.encoding == "utf-8" and self.compression == "none"


def sha256(path: Path) -> str:
    """The content hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_finished(path: Path) -> bool:
    """Whether no process has the file open for writing, as far as the system can tell.

    Linux grants a read lease only then. False where it cannot tell (other systems, some network
    file systems), and for a file that is gone.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        # A writer that comes while we hold the lease is announced; by default that would end us.
        fcntl.fcntl(handle, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        with contextlib.suppress(OSError):
            fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(handle)


def read_content(path: Path) -> Content:
    """Decompress and decode a file, checking that it is whole.

    UTF-8 (with or without BOM), UTF-16 with BOM, otherwise Latin-1, which reads any byte.

    Raises:
        UnreadableError: a gzip file is cut off or damaged, or the bytes are not text.
    """
    data = path.read_bytes()
    compression = "none"
    if data[:2] == b"\x1f\x8b":
        compression = "gzip"
        try:
            data = gzip.decompress(data)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UnreadableError(
                "the gzip file is cut off or damaged; nothing of it was loaded, deliver it again"
            ) from error
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return Content(data.decode("utf-16"), "utf-16", compression)
        except UnicodeDecodeError as error:
            raise UnreadableError("the UTF-16 text is damaged; deliver it again") from error
    try:
        text, encoding = data.decode("utf-8-sig"), "utf-8"
        if data[:3] == b"\xef\xbb\xbf":
            encoding = "utf-8-bom"
    except UnicodeDecodeError:
        text, encoding = data.decode("latin-1"), "latin-1"
    control = sum(text[:4096].count(chr(code)) for code in (*range(9), *range(14, 32)))
    if control > len(text[:4096]) // 20:
        raise UnreadableError("the bytes are not text; check what was delivered")
    return Content(text, encoding, compression)


def as_json_lines(text: str) -> str:
    """JSON text as one object a line: arrays and pretty-printed objects are laid out anew.

    Text that already has an object on each line comes back unchanged.

    Raises:
        UnreadableError: there is not one JSON object in it.
    """
    start = text.lstrip()[:1]
    if start == "{":
        first = text.lstrip().split("\n", 1)[0]
        if first.rstrip().endswith("}") or "\n" not in text.strip():
            return text
    elif start not in ("[", ""):
        # A damaged first line is a broken record, unless nothing at all looks like JSON.
        if any(line.lstrip().startswith("{") for line in text.splitlines()):
            return text
        raise UnreadableError("the text is not JSON; check what was delivered")
    try:
        parsed = json.loads(text)
    except ValueError:
        if start == "[":
            raise UnreadableError(
                "the JSON array is damaged or cut off; deliver it again, best as one object a line"
            ) from None
        return text
    objects = parsed if isinstance(parsed, list) else [parsed]
    if not all(isinstance(item, dict) for item in objects):
        raise UnreadableError("the JSON holds no objects; deliver one object a line")
    return "\n".join(json.dumps(item, ensure_ascii=False) for item in objects) + "\n"
