"""The MLLP listener: HL7 v2 messages from the network into the landing folder, then acknowledged.

Belongs here: frames, acknowledgements, and the files that received messages land in. Does not: what
messages mean; they land word for word, and are read like any other landed file (`hl7v2`).

A message is acknowledged with AA only when its bytes are on disk under their final name. A sender
waits for each answer, so a file for every message would make millions; instead messages are appended
to a file that is open for some seconds (readers leave a file alone that somebody writes, and read it
again when it has grown), and synced together with whatever else has arrived meanwhile. Each message keeps
its MLLP frame, so a message that a crash cut off is recognised; its sender had no acknowledgement that it
landed, and sends it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from hospital_assets.addresses import is_loopback
from hospital_assets.files import flush, make_folder
from hospital_assets.landing.hl7v2 import Delimiters, framed

START, END = b"\x0b", b"\x1c"
_READ_BYTES = 65_536
#: What may stand before a message in its frame: a byte-order mark, empty lines.
_BEFORE_HEADER = b"\xef\xbb\xbf\r\n"
#: Enhanced mode: code of the application's acknowledgement -> that of the accept acknowledgement (table 0008).
_COMMIT = {"AA": "CA", "AE": "CE", "AR": "CR"}
#: HL7 v2.1 to v2.9 share their syntax.
_VERSION = re.compile(r"2(\.[1-9](\.\d)?)?")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListenerOptions:
    """How a listener behaves.

    Attributes:
        port: TCP port; 0 lets the system choose.
        processing_ids: MSH-11 codes that are accepted: P production, D debugging, T training.
        max_connections: further ones are closed at once; of one address, three quarters of them, so that no sender
            keeps out all others.
        max_message_bytes: longer messages are rejected (AR) and skipped.
        frame_seconds: how long one message may take to arrive.
        file_messages: a file is finished after this many messages,
        file_bytes: after this many bytes,
        file_seconds: and when its first message has waited so long,
        quiet_seconds: or nothing has come for so long.
        tls: certificate, key and protocol, or None for plain TCP.
        is_open: listening beyond this machine without TLS was asked for explicitly.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = 2575
    processing_ids: tuple[str, ...] = ("P", "D", "T")
    max_connections: int = 64
    max_message_bytes: int = 4_000_000
    frame_seconds: float = 60
    file_messages: int = 10_000
    file_bytes: int = 32_000_000
    file_seconds: float = 10
    quiet_seconds: float = 2
    tls: ssl.SSLContext | None = None
    is_open: bool = False


def refuse_open_network(options: ListenerOptions) -> None:
    """Patient data does not cross a network in the clear unless somebody says so.

    Raises:
        ValueError: the address is not this machine's own, and neither TLS nor `is_open` is given.
    """
    if not is_loopback(options.host) and options.tls is None and not options.is_open:
        raise ValueError(
            f"{options.host} can be reached from other machines, and messages hold patient data: give "
            "--tls-cert and --tls-key, or --insecure-network where the network itself is protected"
        )


# Acknowledgements ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Header:
    """What an acknowledgement needs of a message's MSH segment; texts as they were sent."""

    delimiters: Delimiters
    fields: tuple[str, ...]

    def __getitem__(self, place: int) -> str:
        """MSH-`place`, or nothing."""
        return self.fields[place - 1] if place <= len(self.fields) else ""

    @staticmethod
    def of(message: bytes) -> Header | None:
        """The header of a message, or None where it has none that can be used."""
        first = re.split(rb"[\r\n]", message.lstrip(_BEFORE_HEADER), maxsplit=1)[0]
        text = first.decode("latin-1")
        delimiters = Delimiters.of(text) if text.startswith("MSH") else None
        if delimiters is None:
            return None
        return Header(delimiters, (delimiters.field, *text.split(delimiters.field)[1:]))


def rejection(message: bytes, header: Header | None, processing_ids: tuple[str, ...]) -> str | None:
    """Why a message must not be accepted (AR), or None.

    HL7 v2 chapter 2 (2.9.2): its type, version or processing id is not acceptable, or it cannot be
    answered at all.
    """
    if header is None:
        return "no message header (MSH) with usable delimiters"
    if re.search(rb"[\r\n]MSH" + re.escape(header.delimiters.field.encode("latin-1")), message.lstrip(_BEFORE_HEADER)):
        return "more than one message in a frame"
    component = header.delimiters.component
    if not header[9]:
        return "MSH-9 names no message type"
    if not header[10]:
        return "MSH-10 holds no control id"
    if header[11].split(component)[0] not in processing_ids:
        return f"MSH-11 is not one of {', '.join(processing_ids)}"
    if not _VERSION.fullmatch(header[12].split(component)[0].strip()):
        return "MSH-12 names no version of HL7 v2"
    return None


def acknowledgement(header: Header | None, code: str, reason: str | None, now: datetime) -> bytes:
    """The framed ACK message: AA accepted, AE error (send it again), AR rejected (do not).

    It mirrors the sender's delimiters, names the original's control id in MSA-2, and repeats nothing
    else of it.
    """
    delimiters = header.delimiters if header else Delimiters()
    f, c = delimiters.field, delimiters.component
    fields = header or ("",) * 13
    declared = header[2] if header else "^~\\&"
    event = fields[9].split(c)
    kind = c.join(["ACK", *event[1:2], *(["ACK"] if len(event) > 2 else [])])
    msh = f.join(
        [
            "MSH",
            declared,
            fields[5],
            fields[6],
            fields[3],
            fields[4],
            now.strftime("%Y%m%d%H%M%S+0000"),
            "",
            kind,
            secrets.token_hex(10),
            fields[11] or "P",
            fields[12] or "2.3",
        ]
    )
    msa = f.join(["MSA", code, fields[10], *([reason] if reason else [])])
    return START + f"{msh}\r{msa}\r".encode("latin-1", "replace") + END + b"\r"


def answer(header: Header | None, code: str, reason: str | None, now: datetime) -> bytes:
    """What goes back for a message, as its sender asked for it (chapter 2, MSH-15 and MSH-16, table 0155).

    Without either it is the original mode: one acknowledgement. With one of them it is the enhanced mode: an accept
    acknowledgement (CA, CE, CR) where MSH-15 wants one, then an application acknowledgement where MSH-16 does;
    an empty field of the two wants none.
    """
    wanted = (header[15].strip().upper(), header[16].strip().upper()) if header else ("", "")
    if not any(wanted):
        return acknowledgement(header, code, reason, now)
    codes = (_COMMIT[code], code)
    return b"".join(
        acknowledgement(header, answered, reason, now)
        for condition, answered in zip(wanted, codes, strict=True)
        if condition == "AL" or (condition == "SU" and code == "AA") or (condition == "ER" and code != "AA")
    )


# Landing --------------------------------------------------------------------------------------------


@dataclass
class _File:
    path: Path
    handle: int
    opened: float
    last: float
    messages: int = 0
    size: int = 0


class LandedMessages:
    """Appends messages to files in the landing folder; what `append` returns from is on disk.

    Blocking; used by one thread at a time.
    """

    def __init__(self, options: ListenerOptions, now: Callable[[], datetime]) -> None:
        self.options = options
        self.now = now
        # Messages in another encoding than UTF-8 land apart: a file is read in one encoding.
        self._files: dict[str, _File] = {}

    def append(self, messages: list[bytes], clock: float) -> None:
        """Write messages and sync them to disk.

        Args:
            messages: without their frames.
            clock: monotonic seconds.

        Raises:
            OSError: not all of them are on disk; some may be.
        """
        apart: dict[str, list[bytes]] = {}
        for message in messages:
            apart.setdefault("" if _is_utf8(message) else ".8bit", []).append(message)
        for kind, of_kind in apart.items():
            file = self._files.get(kind) or self._created(kind, clock)
            data = b"".join(map(framed, of_kind))
            try:
                _write_all(file.handle, data)
                os.fdatasync(file.handle)
            except OSError:
                # What a failed write or sync left behind is unknown: go on in another file. The
                # messages that were acknowledged from this one had been synced before.
                with contextlib.suppress(OSError):
                    os.ftruncate(file.handle, file.size)
                self._finish(kind)
                raise
            file.size += len(data)
            file.messages += len(of_kind)
            file.last = clock
            if file.messages >= self.options.file_messages or file.size >= self.options.file_bytes:
                self._finish(kind)

    def finish_due(self, clock: float) -> None:
        """Finish the files that are old enough, so that they are read."""
        for kind, file in list(self._files.items()):
            is_old = clock - file.opened >= self.options.file_seconds
            if is_old or clock - file.last >= self.options.quiet_seconds:
                self._finish(kind)

    def finish(self) -> None:
        """Finish all files."""
        for kind in list(self._files):
            self._finish(kind)

    def _created(self, kind: str, clock: float) -> _File:
        now = self.now()
        folder = self.options.folder / now.strftime("%Y-%m-%d")
        make_folder(folder, is_durable=True)
        name = f"{now.strftime('%H%M%S.%f')}-{secrets.token_hex(4)}{kind}.hl7"
        path = folder / name
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o640)
        try:
            flush(folder)
        except OSError:
            os.close(handle)
            path.unlink(missing_ok=True)
            raise
        self._files[kind] = _File(path, handle, clock, clock)
        return self._files[kind]

    def _finish(self, kind: str) -> None:
        file = self._files.pop(kind)
        os.close(file.handle)
        if file.messages == 0:
            with contextlib.suppress(OSError):
                file.path.unlink()


def _is_utf8(message: bytes) -> bool:
    if message.isascii():
        return True
    try:
        message.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _write_all(handle: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]


# The server -----------------------------------------------------------------------------------------


@dataclass
class Counts:
    """What a listener has done."""

    connections: int = 0
    accepted: int = 0
    rejected: int = 0
    failed: int = 0
    refused_connections: int = 0


@dataclass
class Listener:
    """One listening socket; `serve` runs until `stop` is set.

    Memory is bounded by `max_connections` messages of `max_message_bytes` each, twice over: a
    connection reads its next message only when the one before has been answered.
    """

    options: ListenerOptions
    now: Callable[[], datetime]
    counts: Counts = field(default_factory=Counts)

    async def serve(self, stop: asyncio.Event, ready: Callable[[str, int], None]) -> None:
        """Listen until asked to stop, then answer what has arrived and finish the files.

        Args:
            ready: called with the address and the port once connections are accepted.

        Raises:
            ValueError: the address must not or cannot be used.
        """
        refuse_open_network(self.options)
        self._landed = LandedMessages(self.options, self.now)
        self._queue: list[tuple[bytes, asyncio.Future[None]]] = []
        self._arrived = asyncio.Event()
        self._is_ending = False
        self._connections: set[asyncio.Task[None]] = set()
        #: Address -> its connections.
        self._peers: Counter[str] = Counter()
        try:
            server = await asyncio.start_server(
                self._connected, self.options.host, self.options.port, ssl=self.options.tls, limit=_READ_BYTES
            )
        except OSError as error:
            raise ValueError(
                f"cannot listen on {self.options.host} port {self.options.port}: {error.strerror}; "
                "choose another one with --port"
            ) from error
        committing = asyncio.create_task(self._commit())
        try:
            host, port = server.sockets[0].getsockname()[:2]
            ready(host, port)
            await stop.wait()
        finally:
            self._is_ending = True
            server.close()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            self._arrived.set()
            await committing
            self._landed.finish()

    async def _commit(self) -> None:
        """Land what has arrived, all of it at once, and tell who waits for it."""
        clock = asyncio.get_running_loop().time
        tick = max(min(self.options.quiet_seconds, self.options.file_seconds) / 2, 0.02)
        while self._queue or not self._is_ending:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), tick)
            self._arrived.clear()
            batch, self._queue = self._queue, []
            if batch:
                try:
                    await asyncio.to_thread(self._landed.append, [message for message, _ in batch], clock())
                except OSError as error:
                    _log.error("messages could not be landed: %s", error.strerror)
                    for _, landed in batch:
                        if not landed.done():
                            landed.set_exception(OSError(error.errno, error.strerror))
                else:
                    for _, landed in batch:
                        if not landed.done():
                            landed.set_result(None)
            self._landed.finish_due(clock())

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (called by the event loop)
        peer = str((writer.get_extra_info("peername") or ("",))[0])
        most = self.options.max_connections
        # A quarter, one at least where there are more than two, is kept for other senders.
        if len(self._connections) >= most or self._peers[peer] >= max(most - max(most // 4, most > 2), 1):
            self.counts.refused_connections += 1
            _log.warning(
                "connection refused: %d are open, %d of its address", len(self._connections), self._peers[peer]
            )
            writer.close()
            return
        self._connections.add(task)
        self._peers[peer] += 1
        self.counts.connections += 1
        # A peer that vanished must not keep its place for ever.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        try:
            await self._answer(reader, writer)
        except (ConnectionError, TimeoutError, ssl.SSLError) as error:
            # The sender was told nothing, so it will send again.
            _log.warning("connection lost: %s", type(error).__name__)
        except asyncio.CancelledError:
            if not self._is_ending:
                raise
        finally:
            self._connections.discard(task)
            self._peers[peer] -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take the messages of one connection, one after the other."""
        frames = Frames(self.options.max_message_bytes)
        while True:
            found = list(frames.complete())
            if not found:
                # A sender may be silent between messages for as long as it likes.
                limit = self.options.frame_seconds if frames.is_inside else None
                data = await asyncio.wait_for(reader.read(_READ_BYTES), limit)
                if not data:
                    return
                frames.feed(data)
                continue
            # Messages sent without waiting for their answers are landed together.
            answers = await asyncio.gather(*(self._accepted(frame) for frame in found))
            writer.writelines(answers)
            await asyncio.wait_for(writer.drain(), self.options.frame_seconds)

    async def _accepted(self, frame: Frame) -> bytes:
        """Land a message, if it can be accepted; its acknowledgement either way."""
        header = Header.of(frame.content)
        reason = rejection(frame.content, header, self.options.processing_ids)
        if frame.is_too_long:
            reason = f"longer than {self.options.max_message_bytes} bytes"
        if reason is not None:
            self.counts.rejected += 1
            _log.warning("message rejected: %s", reason)
            return answer(header, "AR", reason, self.now())
        landed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((frame.content, landed))
        self._arrived.set()
        try:
            await landed
        except OSError:
            self.counts.failed += 1
            return answer(header, "AE", "could not be stored; send it again", self.now())
        self.counts.accepted += 1
        return answer(header, "AA", None, self.now())


@dataclass(frozen=True)
class Frame:
    """One frame's content; of one that is too long only the beginning."""

    content: bytes
    is_too_long: bool = False


class Frames:
    """Cuts a stream of bytes into MLLP frames: 0x0b, content, 0x1c, 0x0d.

    What stands between frames is skipped. A frame that begins inside another means that the first
    was given up; only the second counts.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.is_inside = False
        self._is_too_long = False
        self._content = bytearray()
        self._unread = bytearray()

    def feed(self, data: bytes) -> None:
        """Take in what has arrived."""
        self._unread += data

    def complete(self) -> Iterator[Frame]:
        """The frames that are complete."""
        data, self._unread = bytes(self._unread), bytearray()
        position = 0
        while position < len(data):
            if not self.is_inside:
                start = data.find(START, position)
                if start < 0:
                    return
                position, self.is_inside = start + 1, True
                self._content, self._is_too_long = bytearray(), False
                continue
            end = data.find(END, position)
            piece = data[position : len(data) if end < 0 else end]
            again = piece.rfind(START)
            if again >= 0:
                self._content, self._is_too_long = bytearray(), False
                piece = piece[again + 1 :]
            room = self.max_bytes - len(self._content)
            self._is_too_long = self._is_too_long or len(piece) > room
            self._content += piece[: max(room, 0)]
            if end < 0:
                return
            position, self.is_inside = end + 1, False
            yield Frame(bytes(self._content), self._is_too_long)


def listen(
    options: ListenerOptions,
    stopped: Callable[[asyncio.AbstractEventLoop, asyncio.Event], object],
    ready: Callable[[str, int], None],
) -> Counts:
    """Run a listener in this process until it is stopped.

    Args:
        stopped: arranges that the event is set when the process is asked to end.
        ready: called with address and port once connections are accepted.

    Raises:
        ValueError: it cannot be started.
    """
    listener = Listener(options, now=lambda: datetime.now(UTC))

    async def run() -> None:
        stop = asyncio.Event()
        stopped(asyncio.get_running_loop(), stop)
        await listener.serve(stop, ready)

    asyncio.run(run())
    return listener.counts
