"""The bytes of a landed file: whether they are whole, and as what text.

Belongs here: compression, encoding, and the shapes JSON comes in. Verifying first is what makes
it safe to hand files to fast readers that would guess, skip or fill in.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gzip
import hashlib
import io
import json
import os
import re
import signal
import stat
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import duckdb
import polars as pl

from hospital_assets.landing.foreign import HEAD_BYTES, foreign_kind
from hospital_assets.settings import DEFAULT_LIMITS, FileLimits
from hospital_assets.warehouse.errors import heed_interruption


class UnreadableError(ValueError):
    """The bytes are not a whole file of their kind, or cost too much; the message says what to do."""


class TooLargeError(UnreadableError):
    """Unpacked, a file is over the limits."""


#: How what has landed is opened: no link is followed, and nobody waited for.
_AS_LANDED = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_landed(path: Path) -> BinaryIO:
    """Open a landed file: a regular one, no link to another, and without waiting for anybody.

    Raises:
        UnreadableError: it is a link, a pipe, a socket, a device or a folder.
        OSError: it cannot be opened.
    """
    try:
        handle = os.open(path, _AS_LANDED)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):  # EMLINK: FreeBSD's word for it
            raise UnreadableError(LINK) from None
        if error.errno in (errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP):
            raise UnreadableError(SPECIAL) from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UnreadableError(SPECIAL)
    return os.fdopen(handle, "rb")


#: Whatever reading a file may raise; Polars' panics are no `Exception`. What ends the program is not among them.
FAILURES: tuple[type[BaseException], ...] = (Exception, pl.exceptions.PanicException)


def why_unreadable(error: BaseException) -> str:
    """Why a file is `unreadable`, in words that quote nothing of it, with what to do.

    Raises:
        KeyboardInterrupt: nothing is wrong with it, the program is to end.
    """
    heed_interruption(error)
    match error:
        case UnreadableError():
            return str(error)
        case OSError():
            return f"it cannot be read ({error.strerror or type(error).__name__}); let this program read it"
        case MemoryError() | duckdb.OutOfMemoryException():
            return "reading it takes more memory than there is; deliver it in parts"
        case duckdb.InterruptException():
            return "reading it takes longer than most_file_seconds in hospital.toml; deliver it in parts, or raise that"
        case RecursionError():
            return _NESTED
        case _:
            return (
                f"no reader of its format gets through it ({type(error).__name__}); check what was delivered, "
                "and tell the makers of this program"
            )


#: What to do about what is over a size.
IN_PARTS = "deliver it in parts, or raise most_file_megabytes in hospital.toml"
LINK = "it is a link, and links are not followed; put the file itself here"
SPECIAL = "it is a pipe, a socket, a device or a folder, not a file, and was not opened; put a file here"


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


def sha256(path: Path, most_bytes: int) -> str:
    """The content hash of a file, as far as it goes when it grows meanwhile.

    Args:
        most_bytes: how long it was when it was found: reading ends soon behind that.
    """
    digest = hashlib.sha256()
    with open_landed(path) as file:
        left = most_bytes + 1
        while left > 0 and (piece := file.read(min(left, _PIECE))):
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()


def is_finished(path: Path) -> bool:
    """Whether no process has the file open for writing, as far as the system can tell.

    Linux grants a read lease only then. False where it cannot tell (other systems, some network
    file systems), and for a file that is gone.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    try:
        handle = os.open(path, _AS_LANDED)
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


#: How much is read at once.
_PIECE = 1 << 20
#: Unpacked, this much is no bomb whatever it was packed to.
_HARMLESS = 64_000_000


def most_unpacked(size: int, limits: FileLimits) -> int:
    """How many bytes a file of some bytes may become when it is unpacked."""
    return min(limits.megabytes * 1_000_000, max(_HARMLESS, limits.ratio * size))


def too_large_unpacked(size: int, limits: FileLimits) -> TooLargeError:
    """The error of what a file of some bytes becomes when it is unpacked, in words."""
    return TooLargeError(
        f"unpacked, it is over {most_unpacked(size, limits) // 1_000_000:,} MB; the limits are {limits.megabytes:,} MB "
        f"and {limits.ratio} times its own size. Deliver it in parts, or raise most_file_megabytes or most_file_ratio "
        "in hospital.toml"
    )


class _Unpacked(io.RawIOBase):
    """A packed file's content, as far as the limits go: neither memory nor time are a bomb's to take."""

    def __init__(self, path: Path, limits: FileLimits, opened: Callable[[BinaryIO], IO[bytes]]) -> None:
        self._file = open_landed(path)
        self._packed = opened(self._file)
        self._size, self._limits = os.fstat(self._file.fileno()).st_size, limits
        self._most = most_unpacked(self._size, limits)
        self._found = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._packed.read(len(buffer))
        self._found += len(data)
        if self._found > self._most:
            raise too_large_unpacked(self._size, self._limits)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._packed.close()
        self._file.close()
        super().close()


def gunzipped(file: BinaryIO) -> IO[bytes]:
    """What a gzip file holds."""
    return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]


def unpacked(path: Path, limits: FileLimits, opened: Callable[[BinaryIO], IO[bytes]] = gunzipped) -> BinaryIO:
    """A packed file's content.

    Args:
        limits: of what it may become; reading beyond raises `TooLargeError`.
        opened: what unpacks it.
    """
    return io.BufferedReader(_Unpacked(path, limits, opened), _PIECE)


def read_content(path: Path, encoding: str | None = None, limits: FileLimits = DEFAULT_LIMITS) -> Content:
    """Decompress (within limits) and decode a file, checking that it is whole; its profile says what `encoding`.

    UTF-8 (with or without BOM), UTF-16 with BOM, otherwise what the profile says, otherwise Latin-1,
    which reads any byte.

    Raises:
        UnreadableError: a gzip file is cut off or damaged or becomes too large, or the bytes are not text.
    """
    compression = _compression(path)
    try:
        with _bytes_of(path, compression, limits) as file:
            data = file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UnreadableError(_TORN_GZIP) from error
    if foreign := foreign_kind(data[:HEAD_BYTES]):
        raise UnreadableError(foreign)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return Content(data.decode("utf-16"), "utf-16", compression)
        except UnicodeError as error:
            raise UnreadableError("the UTF-16 text is damaged; deliver it again") from error
    try:
        text, found = data.decode("utf-8-sig"), "utf-8"
        if data[:3] == b"\xef\xbb\xbf":
            found = "utf-8-bom"
    except UnicodeDecodeError:
        found = encoding or "latin-1"
        try:
            text = data.decode(found)
        except UnicodeError as error:
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


def shape_of(path: Path, encoding: str | None = None, limits: FileLimits = DEFAULT_LIMITS) -> Shape:
    """What `read_content` finds out, without holding the file: it is read once, in pieces.

    Raises:
        UnreadableError: as `read_content`.
    """
    compression = _compression(path)
    try:
        with _bytes_of(path, compression, limits) as file:
            head = file.read(HEAD_BYTES)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UnreadableError(_TORN_GZIP) from error
    if foreign := foreign_kind(head):
        raise UnreadableError(foreign)
    marks = head[:3]
    if marks[:2] in (b"\xff\xfe", b"\xfe\xff"):
        candidates = ["utf-16"]
    elif marks == b"\xef\xbb\xbf":
        candidates = ["utf-8-bom"]
    else:
        candidates = ["utf-8", encoding or "latin-1"]
    for candidate in candidates:
        try:
            is_blank, beginning = True, ""
            with _text_of(path, candidate, compression, limits) as lines:
                while piece := lines.read(_PIECE):
                    beginning = beginning or piece[:4096]
                    is_blank = is_blank and not piece.strip()
        except UnicodeError:
            continue
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UnreadableError(_TORN_GZIP) from error
        if _is_no_text(beginning):
            raise UnreadableError(_NO_TEXT)
        return Shape(candidate, compression, is_blank)
    raise UnreadableError(f"the text is not {candidates[-1]}; deliver it again")


@contextlib.contextmanager
def open_lines(path: Path, shape: Shape, limits: FileLimits) -> Iterator[Iterator[str]]:
    """The lines of a file, line ends as they are, one at a time."""
    with _text_of(path, shape.encoding, shape.compression, limits) as lines:
        yield lines


def _compression(path: Path) -> str:
    with open_landed(path) as file:
        return "gzip" if file.read(2) == b"\x1f\x8b" else "none"


def _bytes_of(path: Path, compression: str, limits: FileLimits) -> BinaryIO:
    return unpacked(path, limits) if compression == "gzip" else open_landed(path)


def _text_of(path: Path, encoding: str, compression: str, limits: FileLimits) -> io.TextIOWrapper:
    codec = "utf-8-sig" if encoding == "utf-8-bom" else encoding
    # Line ends stay as they are: any of the three ends a line here, as HL7 uses each of them.
    return io.TextIOWrapper(_bytes_of(path, compression, limits), encoding=codec, newline="")


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
    except RecursionError:
        raise UnreadableError(_NESTED) from None
    except ValueError:
        if start == "[":
            raise UnreadableError(
                "the JSON array is damaged or cut off; deliver it again, best as one object a line"
            ) from None
        return text
    objects = parsed if isinstance(parsed, list) else [parsed]
    if not all(isinstance(item, dict) for item in objects):
        raise UnreadableError("the JSON holds no objects; deliver one object a line")
    try:
        return with_escapes("\n".join(json.dumps(item, ensure_ascii=False) for item in objects) + "\n")
    except RecursionError:
        raise UnreadableError(_NESTED) from None


_NESTED = "the JSON is nested too deep to be a record; check what was delivered"


def with_escapes(text: str) -> str:
    """JSON that a reader of lines can hold: half of a surrogate pair, or a NUL, as its escape."""
    return _UNFIT.sub(lambda half: f"\\u{ord(half.group()):04x}", text)


_UNFIT = re.compile("[\x00\ud800-\udfff]")
