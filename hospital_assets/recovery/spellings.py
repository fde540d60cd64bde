"""How a number may be spelled in bytes, and what bytes there are to search: unpacked, decoded, whatever they lie in.

Belongs here: bytes and patterns. Which files, and whose numbers, is `erase`.
"""

from __future__ import annotations

import bz2
import contextlib
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from hospital_assets.landing.fixed_width import with_gaps
from hospital_assets.landing.headers import with_line_feeds
from hospital_assets.landing.profile import FixedWidth

GZIP = b"\x1f\x8b"
_UNPACKERS: dict[bytes, Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]] = {
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ": lzma.LZMADecompressor,
}
_ZIP = b"PK\x03\x04"
#: Archives in archives are opened this deep, and this much of each is unpacked.
_DEEPEST, _MOST_BYTES = 4, 4_000_000_000
_UTF16 = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
_ESCAPED = re.compile(rb"\\u00([2-7][0-9a-fA-F])")
_DASHES = "-_ "
#: What stands between the values of a record, of whatever format.
_VALUES = re.compile(rb"[|^~&,;:\t\r\n\"{}\[\]]+")


@dataclass(frozen=True)
class Finder:
    """Finds names in bytes, where they are no part of a longer one.

    Attributes:
        numbers: in capitals or small letters, with JSON escapes, and with dashes where they have letters: a number of
            digits alone with dashes could be a date.
        references: exactly, as FHIR has them, or with JSON escapes.
        fixed_width: of a file without delimiters, where its columns stand: what fills its column ends without a mark.
    """

    numbers: tuple[str, ...]
    references: tuple[str, ...] = ()
    fixed_width: FixedWidth | None = None

    @cached_property
    def _plain(self) -> tuple[bytes, ...]:
        return tuple(_folded(name.encode()) for name in (*self.numbers, *self.references))

    @cached_property
    def _pattern(self) -> re.Pattern[bytes]:
        return re.compile(self._text("(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])", r"(?![A-Za-z0-9.\-])").encode())

    @property
    def sql(self) -> str:
        """For DuckDB's regular expressions, which look neither back nor ahead."""
        return self._text("(^|[^A-Za-z0-9])", "([^A-Za-z0-9]|$)", "([^A-Za-z0-9.-]|$)")

    def _text(self, before: str, after: str, after_reference: str) -> str:
        numbers = "|".join(_spelled(name) for name in sorted(self.numbers, key=len, reverse=True))
        ordered = sorted(self.references, key=len, reverse=True)
        references = "|".join("".join(_one(one, any_case=False) for one in name) for name in ordered)
        if not numbers and not references:
            return r"[^\s\S]"  # nothing at all
        parts = [f"(?:{numbers}){after}" if numbers else "", f"(?:{references}){after_reference}" if references else ""]
        return before + "(?:" + "|".join(part for part in parts if part) + ")"

    def search(self, text: bytes, start: int = 0, end: int | None = None) -> bool:
        """Whether any of the names is in a text, or in a part of it."""
        piece = text if start == 0 and end is None else text[start:end]
        folded = _folded(piece)
        # Most pieces hold none of them: looking for plain bytes is much faster than for a pattern.
        if not any(name in folded for name in self._plain):
            return False
        return any(self._pattern.search(part) is not None for part in self._parts(piece))

    def is_value_in(self, text: bytes) -> bool:
        """Whether any of the names is a value of its own in a record: a cell, a component, a text of JSON."""
        return any(_folded(value.strip()) in self._plain and self.search(value) for value in _VALUES.split(text))

    def _parts(self, piece: bytes) -> Iterator[bytes]:
        """A piece of text as it is, and of one without delimiters its columns, one a line."""
        yield piece
        if self.fixed_width is not None:
            # What is no UTF-8 has a character for each byte.
            for codec in ("utf-8-sig", "latin-1"):
                with contextlib.suppress(UnicodeDecodeError):
                    lines = with_line_feeds(piece.decode(codec)).split("\n")
                    yield "\n".join(with_gaps(line, self.fixed_width) for line in lines).encode()
                    return


def _folded(text: bytes) -> bytes:
    """Without what spellings differ in."""
    if b"\\u00" in text:
        text = _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), text)
    return text.lower().translate(None, _DASHES.encode())


def _one(character: str, *, any_case: bool) -> str:
    cases = {character.lower(), character.upper()} if any_case else {character}
    if not all(each.isascii() for each in cases):
        return re.escape(character)
    found = [re.escape(each) for each in sorted(cases)]
    for each in sorted(cases):
        code = f"{ord(each):02x}"
        found.append(r"\\u00" + "".join(f"[{d}{d.upper()}]" if d.isalpha() else d for d in code))
    return f"(?:{'|'.join(found)})"


def _spelled(number: str) -> str:
    """A pattern of a number in every spelling."""
    has_letters = any(character.isalpha() for character in number)
    bare = [character for character in number if character not in _DASHES]
    parts = []
    for place, character in enumerate(bare):
        between = "[-_ ]?" if place and (has_letters or bare != list(number)) else ""
        parts.append(between + _one(character, any_case=True))
    return "".join(parts)


@dataclass(frozen=True)
class Piece:
    """Bytes to be searched.

    Attributes:
        inside: where in the file, as in `member.csv`; empty for the file itself.
        data: unpacked, UTF-16 as UTF-8.
        is_whole: whether all of it could be unpacked.
    """

    inside: str
    data: bytes
    is_whole: bool = True


def pieces(data: bytes, inside: str = "", depth: int = 0) -> Iterator[Piece]:
    """A file's bytes as they are, and unpacked and decoded, of archives all members."""
    yield Piece(inside, as_utf8(data))
    if depth >= _DEEPEST:
        return
    unpacked, is_whole = unpack(data)
    if unpacked is not None:
        for place, piece in enumerate(pieces(unpacked, inside, depth + 1)):
            yield Piece(piece.inside, piece.data, piece.is_whole and (is_whole or place > 0))
    elif data.startswith(_ZIP):
        yield from _members(data, inside, depth)


def _members(data: bytes, inside: str, depth: int) -> Iterator[Piece]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.infolist():
                name = f"{inside}/{member.filename}".lstrip("/")
                yield Piece(name, member.filename.encode(errors="replace"))
                try:
                    with archive.open(member) as file:
                        yield from pieces(file.read(_MOST_BYTES), name, depth + 1)
                except (zipfile.BadZipFile, RuntimeError, NotImplementedError, zlib.error, EOFError, OSError):
                    # Damaged, or under a password.
                    yield Piece(name, b"", is_whole=False)
    except (zipfile.BadZipFile, OSError, ValueError):
        yield Piece(inside, b"", is_whole=False)


def unpack(data: bytes) -> tuple[bytes | None, bool]:
    """What a packed file holds as far as it can be unpacked, and whether that is all; None where it is not packed."""
    if data.startswith(GZIP):
        return _unpack_gzip(data)
    for magic, unpacker in _UNPACKERS.items():
        if data.startswith(magic):
            worker = unpacker()
            try:
                return worker.decompress(data, _MOST_BYTES), worker.eof
            except (OSError, lzma.LZMAError, EOFError):
                return b"", False
    return None, True


def _unpack_gzip(data: bytes) -> tuple[bytes, bool]:
    parts: list[bytes] = []
    size = 0
    while data.startswith(GZIP) and size < _MOST_BYTES:
        worker = zlib.decompressobj(wbits=31)
        for start in range(0, len(data), 65_536):
            try:
                parts.append(worker.decompress(data[start : start + 65_536], _MOST_BYTES - size))
            except zlib.error:
                return b"".join(parts), False
            size += len(parts[-1])
            if worker.eof:
                data = worker.unused_data + data[start + 65_536 :]
                break
        else:
            return b"".join(parts), False
    return b"".join(parts), not data.strip(b"\0")


def as_utf8(data: bytes) -> bytes:
    """UTF-16 with its mark as UTF-8; everything else as it is."""
    codec = _UTF16.get(data[:2])
    return data[2:].decode(codec, "replace").encode("utf-8", "replace") if codec else data


def decoded(data: bytes, encoding: str | None) -> tuple[str, str, bytes]:
    """A landed text as its reader decodes it, the codec that gives the same bytes again, and its mark.

    Raises:
        UnicodeError: it is no text of any encoding that would be tried.
    """
    if codec := _UTF16.get(data[:2]):
        return data[2:].decode(codec), codec, data[:2]
    mark = b"\xef\xbb\xbf" if data.startswith(b"\xef\xbb\xbf") else b""
    for codec in ("utf-8", encoding or "latin-1"):
        with contextlib.suppress(UnicodeDecodeError):
            text = data[len(mark) :].decode(codec)
            if text.encode(codec) == data[len(mark) :]:
                return text, codec, mark
    raise UnicodeError("not the encoding of its profile")
