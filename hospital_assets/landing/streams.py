"""Messages of a stream as landed files: which offsets a file holds stands in its name.

A batch of polled messages becomes one immutable file (of JSON one message a line, of HL7 v2 one a frame), named by
stream, partition and offsets. **The rename that makes the file appear is the commit**: before it nothing
happened, after it the messages are landed and the next listener goes on behind them, because the
names are where it looks. So a listener can be killed at any instant and neither loses nor repeats a
message, and there is no second place that could say otherwise.

Belongs here: names, lines, positions, and whether the ranges add up. Does not: talking to a broker
(`listeners`).
"""

from __future__ import annotations

import base64
import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from hospital_assets.landing.deliver import ENDINGS, land
from hospital_assets.landing.hl7v2 import FRAME_END, FRAME_START, framed

#: `<stream>@<partition>.<first offset>-<last offset>.<ending>`; numbers padded, so names sort.
_NAME = re.compile(r"^(?P<stream>.+)@(?P<partition>\d+)\.(?P<first>\d+)-(?P<last>\d+)\.\w+$")
_STREAM_NAME = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")


class StreamError(ValueError):
    """A stream cannot be landed as asked; the message says why and what to do."""


@dataclass(frozen=True)
class Range:
    """The offsets that one landed file accounts for, both ends included.

    Offsets within it that brought no message (transaction markers, compacted or deleted messages)
    are accounted for all the same: the listener has been past them.
    """

    stream: str
    partition: int
    first: int
    last: int

    @property
    def offsets(self) -> int:
        """How many offsets."""
        return self.last - self.first + 1

    def file_name(self, ending: str) -> str:
        """The name of the file."""
        return f"{self.stream}@{self.partition:05d}.{self.first:020d}-{self.last:020d}{ending}"

    @classmethod
    def of(cls, file_name: str) -> Range | None:
        """The range that a file's name states; None where it states none."""
        found = _NAME.match(file_name)
        if found is None:
            return None
        partition, first, last = (int(found[part]) for part in ("partition", "first", "last"))
        return cls(found["stream"], partition, first, last)


def as_line(message: bytes | None) -> bytes:
    """A message as one line, without its line end.

    JSON keeps its meaning: line breaks in it are blanks between its parts. What is no text cannot
    stand in a text file as it is: it becomes a JSON string, `base64:` and its bytes. A message without
    content (a tombstone) becomes `null`. Neither is an object, so raw shows both as unreadable.
    """
    if message is None or not message.strip():
        return b"null"
    if not _is_utf8(message) or _is_no_text(message):
        return b'"base64:' + base64.b64encode(message) + b'"'
    return message.replace(b"\r\n", b" ").replace(b"\n", b" ").replace(b"\r", b" ")


def as_frame(message: bytes | None) -> bytes:
    """An HL7 v2 message in its MLLP frame, word for word, as `hospital listen hl7` lands it; one in a frame keeps that.

    What cannot stand in a frame or in a text (the frame's own bytes, NUL) becomes `base64:` and its bytes, a message
    without content `null`: neither has a header, so raw shows both as unreadable.
    """
    content = message or b""
    inside = content.strip(b"\r\n")
    if inside.startswith(_START) and inside.endswith(_END):
        content = inside[len(_START) : -len(_END)]
    if not content.strip():
        content = b"null"
    elif _START in content or _END in content or _is_no_text(content):
        content = b"base64:" + base64.b64encode(content)
    return framed(content)


def _is_utf8(message: bytes) -> bool:
    try:
        message.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_no_text(message: bytes) -> bool:
    """Whether a file that begins with it could be taken for no text: one bad message must not take others along."""
    return b"\0" in message or len(_CONTROL.findall(message)) > len(message) // 20


_START, _END = FRAME_START.encode(), FRAME_END.encode()
_CONTROL = re.compile(rb"[\0-\x08\x0b\x0c\x0e-\x1f]")


@dataclass
class StreamLanding:
    """Lands the messages of one stream in one folder; open it with `open_stream`.

    Attributes:
        ending: how their names end; it says whether they are HL7 v2 or JSON.
        positions: partition -> the next offset that is not landed; absent before the first.
    """

    folder: Path
    stream: str
    ending: str
    positions: dict[int, int]
    _lines: dict[int, list[bytes]] = field(default_factory=dict)
    _reached: dict[int, int] = field(default_factory=dict)
    #: Partition -> whether its held messages are UTF-8; absent while they are ASCII, which is both.
    _utf8: dict[int, bool] = field(default_factory=dict)
    _landed: list[Range] = field(default_factory=list)
    pending_bytes: int = 0

    def reached(self, partition: int) -> int:
        """The next offset to ask for: behind what is landed, and behind what is held."""
        return self._reached.get(partition, self.positions.get(partition, 0))

    def add(self, partition: int, offset: int, message: bytes | None) -> bool:
        """Hold a message until `commit`; False for one that was taken before."""
        if offset < self.reached(partition):
            return False
        line = as_frame(message) if self.ending in ENDINGS["hl7v2"] else as_line(message) + b"\n"
        if not line.isascii():
            # A file is read in one encoding.
            if self._utf8.get(partition, is_utf8 := _is_utf8(line)) != is_utf8:
                self._land(partition)
            self._utf8[partition] = is_utf8
        self._lines.setdefault(partition, []).append(line)
        self._reached[partition] = offset + 1
        self.pending_bytes += len(line)
        return True

    def commit(self) -> list[Range]:
        """Land what is held, a file for each partition; returns the ranges, now durable."""
        for partition in sorted(self._lines):
            self._land(partition)
        landed, self._landed = self._landed, []
        return landed

    def _land(self, partition: int) -> None:
        lines, reached = self._lines[partition], self._reached[partition]
        batch = Range(self.stream, partition, self.positions.get(partition, 0), reached - 1)
        land(self.folder, batch.file_name(self.ending), b"".join(lines))
        self.positions[partition] = reached
        self._landed.append(batch)
        self.pending_bytes -= sum(map(len, lines))
        del self._lines[partition], self._reached[partition]
        self._utf8.pop(partition, None)

    def begin_at(self, partition: int, offset: int) -> int:
        """Go on at an offset because those before it are gone from the stream.

        Returns:
            how many offsets were lost; 0 for a partition of which nothing was ever landed. The files'
            names show the hole for good.
        """
        assert partition not in self._lines, "commit first"  # noqa: S101
        before = self.positions.get(partition)
        self.positions[partition] = offset
        return 0 if before is None else offset - before


@contextmanager
def open_stream(folder: Path, stream: str, ending: str) -> Iterator[StreamLanding]:
    """The landing of one stream, with its positions read from the names of its landed files.

    Raises:
        StreamError: the name cannot stand in a file's name, another listener lands this stream here,
            or two landed files claim the same offsets.
    """
    if not _STREAM_NAME.match(stream):
        raise StreamError(
            f"'{stream}' cannot be part of a file's name; give it one of letters, digits, '.', '_' and '-' with --as"
        )
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / f".{stream}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            # The system takes it back when its holder dies, however it dies.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StreamError(f"another listener lands '{stream}' in {folder}; one stream has one listener") from error
        for left in folder.glob(f".{stream}@*.tmp"):  # by one that was killed
            left.unlink()
        found = ranges(path.name for path in folder.iterdir()).filter(pl.col("stream") == stream)
        if not (overlaps := faults(found).filter(pl.col("fault") == "overlap")).is_empty():
            raise StreamError(
                f"{overlaps.height} landed files of '{stream}' in {folder} hold offsets that others "
                "hold, too; remove one of each before going on"
            )
        last = found.group_by("partition").agg(pl.col("last_offset").max() + 1)
        yield StreamLanding(folder, stream, ending, dict(last.iter_rows()))
    finally:
        os.close(handle)


_RANGE_SCHEMA = {
    "source_file": pl.String,
    "folder": pl.String,
    "stream": pl.String,
    "partition": pl.Int64,
    "first_offset": pl.Int64,
    "last_offset": pl.Int64,
}


def ranges(source_files: Iterable[str]) -> pl.DataFrame:
    """The offsets that landed files account for; files of no stream are left out.

    Returns:
        one row per file: source_file, folder, stream, partition, first_offset, last_offset (included).
    """
    rows = []
    for source_file in source_files:
        folder, _, name = source_file.rpartition("/")
        if not name.startswith(".") and (found := Range.of(name)):
            rows.append((source_file, folder, found.stream, found.partition, found.first, found.last))
    return pl.DataFrame(rows, schema=_RANGE_SCHEMA, orient="row")


def faults(found: pl.DataFrame) -> pl.DataFrame:
    """Where the ranges of a partition do not follow on each other.

    Returns:
        its columns, `fault` (`gap`: offsets were lost before this file; `overlap`: they are held
        twice) and `offsets`, how many.
    """
    behind = (pl.col("last_offset").cum_max().shift(1) + 1).over(
        "folder", "stream", "partition", order_by=["first_offset", "last_offset"]
    )
    return (
        found.with_columns(_missing=pl.col("first_offset") - behind)
        .filter(pl.col("_missing") != 0)
        .with_columns(
            fault=pl.when(pl.col("_missing") > 0).then(pl.lit("gap")).otherwise(pl.lit("overlap")),
            offsets=pl.col("_missing").abs(),
        )
        .drop("_missing")
        .sort("folder", "stream", "partition", "first_offset")
    )
