"""The bytes of a landed file: whether they are whole, and as what text.

Belongs here: compression, encoding, and the shapes JSON comes in. Verifying first is what makes
it safe to hand files to fast readers that would guess, skip or fill in.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import io
import json
import os
import signal
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO


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


_TORN_GZIP = "the gzip file is cut off or damaged; nothing of it was loaded, deliver it again"
_NO_TEXT = "the bytes are not text; check what was delivered"


def read_content(path: Path, encoding: str | None = None) -> Content:
    """Decompress and decode a file, checking that it is whole.

    UTF-8 (with or without BOM), UTF-16 with BOM, otherwise what the profile says, otherwise Latin-1,
    which reads any byte.

    Args:
        path: the file.
        encoding: what the profile says.

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
            raise UnreadableError(_TORN_GZIP) from error
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return Content(data.decode("utf-16"), "utf-16", compression)
        except UnicodeDecodeError as error:
            raise UnreadableError("the UTF-16 text is damaged; deliver it again") from error
    try:
        text, found = data.decode("utf-8-sig"), "utf-8"
        if data[:3] == b"\xef\xbb\xbf":
            found = "utf-8-bom"
    except UnicodeDecodeError:
        found = encoding or "latin-1"
        try:
            text = data.decode(found)
        except UnicodeDecodeError as error:
            raise UnreadableError(f"the text is not {found}, as its profile says") from error
    if _is_no_text(text[:4096]):
        raise UnreadableError(_NO_TEXT)
    return Content(text, found, compression)


def _is_no_text(beginning: str) -> bool:
    # HL7 ends its segments with a carriage return and frames messages with 0x0b and 0x1c.
    control = sum(beginning.count(chr(code)) for code in (*range(9), *range(14, 28), *range(29, 32)))
    return control > len(beginning) // 20


@dataclass(frozen=True)
class Shape:
    """Everything needed to read a file line by line."""

    encoding: str
    compression: str
    is_blank: bool


def shape_of(path: Path, encoding: str | None = None) -> Shape:
    """What `read_content` finds out, without holding the file: it is read once, in pieces.

    Args:
        path: the file.
        encoding: what the profile says.

    Raises:
        UnreadableError: as `read_content`.
    """
    with path.open("rb") as file:
        compression = "gzip" if file.read(2) == b"\x1f\x8b" else "none"
    with _bytes_of(path, compression) as file:
        marks = file.read(3)
    if marks[:2] in (b"\xff\xfe", b"\xfe\xff"):
        candidates = ["utf-16"]
    elif marks == b"\xef\xbb\xbf":
        candidates = ["utf-8-bom"]
    else:
        candidates = ["utf-8", encoding or "latin-1"]
    for candidate in candidates:
        try:
            is_blank, beginning = True, ""
            with _text_of(path, candidate, compression) as lines:
                while piece := lines.read(1 << 20):
                    beginning = beginning or piece[:4096]
                    is_blank = is_blank and not piece.strip()
        except UnicodeDecodeError:
            continue
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UnreadableError(_TORN_GZIP) from error
        if _is_no_text(beginning):
            raise UnreadableError(_NO_TEXT)
        return Shape(candidate, compression, is_blank)
    raise UnreadableError(f"the text is not {candidates[-1]}; deliver it again")


@contextlib.contextmanager
def open_lines(path: Path, shape: Shape) -> Iterator[Iterator[str]]:
    """The lines of a file, line ends as they are, one at a time."""
    with _text_of(path, shape.encoding, shape.compression) as lines:
        yield lines


def _bytes_of(path: Path, compression: str) -> IO[bytes]:
    return gzip.open(path) if compression == "gzip" else path.open("rb")  # type: ignore[return-value]


def _text_of(path: Path, encoding: str, compression: str) -> io.TextIOWrapper:
    codec = "utf-8-sig" if encoding == "utf-8-bom" else encoding
    # Line ends stay as they are: any of the three ends a line here, as HL7 uses each of them.
    return io.TextIOWrapper(_bytes_of(path, compression), encoding=codec, newline="")


def as_json_lines(text: str) -> str:
    """JSON text as one object a line: arrays and pretty-printed objects are rewritten.

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
