"""The MLLP listener: what it acknowledges is landed, whatever happens to it or to its clients."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hospital_assets.certificates import ServerTls
from hospital_assets.landing.hl7v2 import normalised
from hospital_assets.listeners import mllp
from hospital_assets.listeners.mllp import (
    Frames,
    Header,
    Listener,
    ListenerOptions,
    acknowledgement,
    answer,
    refuse_open_network,
    rejection,
)
from hospital_assets_tests.helpers import self_signed
from hospital_assets_tests.processes import free_port, hospital

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def message(number: object, note: str = "", **fields: str) -> bytes:
    header = {"type": "ADT^A04^ADT_A01", "processing": "P", "version": "2.5.1", **fields}
    return (
        f"MSH|^~\\&|ADT|GENERAL|ED|HERE|20260501120000||{header['type']}|{number}|"
        f"{header['processing']}|{header['version']}\rEVN||20260501120000\r"
        f"PID|1||{number}^^^H^MR||Confidential^Name\rPV1|1|E\rZNT|{note}\r"
    ).encode()


def framed(content: bytes) -> bytes:
    return b"\x0b" + content + b"\x1c\r"


def answers(data: bytes) -> list[tuple[str, str]]:
    """(code, control id) of each acknowledgement."""
    return [
        (code.decode(), number.decode("latin-1"))
        for code, number in re.findall(rb"\rMSA\|([AC][AER])\|([^|\r]*)", data)
    ]


def landed(folder: Path) -> list[dict[str, object]]:
    found = []
    for path in sorted(folder.rglob("*.hl7")):
        with path.open(encoding="utf-8", newline="") as lines:
            found += [json.loads(line) for line in normalised(lines)]
    return found


# --- frames and answers --------------------------------------------------------------------------------


@given(
    st.lists(st.binary(max_size=40).filter(lambda b: not set(b) & {0x0B, 0x1C}), max_size=6),
    st.binary(max_size=9).filter(lambda b: not set(b) & {0x0B, 0x1C}),
    st.randoms(use_true_random=False),
)
def test_frames_are_the_same_however_the_bytes_arrive(contents: list[bytes], noise: bytes, rng: random.Random) -> None:
    stream = noise.join([b"", *(framed(content) for content in contents), b""])
    frames, found = Frames(1000), []
    while stream:
        cut = rng.randint(1, len(stream))
        frames.feed(stream[:cut])
        found += [frame.content for frame in frames.complete()]
        stream = stream[cut:]
    assert found == contents
    assert not frames.is_inside


def test_a_frame_begun_anew_counts_once() -> None:
    frames = Frames(1000)
    frames.feed(b"\x0babc\x0bdef\x1c\r")
    assert [frame.content for frame in frames.complete()] == [b"def"]


def test_a_frame_too_long_is_skipped_not_kept() -> None:
    frames, found = Frames(10), []
    for piece in (b"\x0b", b"x" * 10_000, b"y" * 10_000, b"\x1c\r\x0bok\x1c\r"):
        frames.feed(piece)
        found += list(frames.complete())
        assert len(frames._content) <= 10 and len(frames._unread) == 0
    assert [(len(f.content), f.is_too_long) for f in found] == [(10, True), (2, False)]


REJECTED = {
    "no header": b"PID|1||7\r",
    "delimiters_unusable": b"MSH||||\r",
    "no type": message(1, type=""),
    "no control id": message(""),
    "training": message(1, processing="T"),
    "no processing id": message(1, processing=""),
    "version 3": message(1, version="3.0"),
    "no version": message(1, version=""),
    "two messages": message(1) + message(2),
    "nothing": b"",
}


@pytest.mark.parametrize("kind", REJECTED)
def test_what_cannot_be_accepted_is_rejected(kind: str) -> None:
    content = REJECTED[kind]
    header = Header.of(content)
    reason = rejection(content, header, ("P",))
    assert reason is not None
    answer = acknowledgement(header, "AR", reason, NOW)
    assert answers(answer)[0][0] == "AR"
    assert b"Confidential" not in answer


@pytest.mark.parametrize(
    "version",
    ["2.1", "2.2", "2.3", "2.3.1", "2.4", "2.5", "2.5.1", "2.6", "2.7", "2.7.1", "2.8", "2.8.2", "2.9", "2.5.1^USA"],
)
def test_versions(version: str) -> None:
    content = message(1, version=version)
    assert rejection(content, Header.of(content), ("P",)) is None


def test_an_answer_mirrors_the_header() -> None:
    content = b"MSH#*%!@#APP#FAC#US#HERE#2026##ADT*A01#M1#P#2.3\r"
    answer = acknowledgement(Header.of(content), "AA", None, NOW)
    assert re.fullmatch(
        rb"\x0bMSH#\*%!@#US#HERE#APP#FAC#20260501120000\+0000##ACK\*A01#[0-9a-f]{20}#P#2.3\r"
        rb"MSA#AA#M1\r\x1c\r",
        answer,
    )


@pytest.mark.parametrize(
    ("host", "refused"),
    [
        ("127.0.0.1", False),
        ("::1", False),
        ("localhost", False),
        ("0.0.0.0", True),  # noqa: S104
        ("10.0.0.7", True),
        ("::", True),
        ("", True),
        ("ed.example", True),
    ],
)
def test_other_machines_are_only_let_in_when_asked_for(host: str, refused: bool) -> None:
    options = ListenerOptions(Path(), host=host)
    if refused:
        with pytest.raises(ValueError, match="--tls-cert"):
            refuse_open_network(options)
    else:
        refuse_open_network(options)
    refuse_open_network(replace(options, is_open=True))


# --- a listener in this process ---------------------------------------------------------------------------


def with_listener(options: ListenerOptions, client: Callable[[int, Listener], Awaitable[None]]) -> Listener:
    ticks = itertools.count()
    listener = Listener(options, now=lambda: NOW + timedelta(microseconds=next(ticks)))

    async def run() -> None:
        stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(listener.serve(stop, lambda _, p: port.set_result(p)))
        try:
            await asyncio.wait_for(client(await port, listener), 30)
        finally:
            stop.set()
            await asyncio.wait_for(serving, 30)

    asyncio.run(run())
    return listener


async def exchange(port: int, *pieces: bytes, pause: float = 0.0, **how: object) -> bytes:
    """Send, end the sending side where that is possible, and read all answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **how)  # type: ignore[arg-type]
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(pause)
    wanted = b"".join(pieces).count(b"\x1c")
    data = b""
    while len(answers(data)) < wanted:
        piece = await reader.read(65536)
        if not piece:
            break
        data += piece
    writer.close()
    return data


@pytest.fixture
def options(tmp_path: Path) -> ListenerOptions:
    return ListenerOptions(tmp_path / "landing" / "hl7v2-adt" / "mllp", port=0, quiet_seconds=0.05)


def test_each_message_is_answered_in_turn_and_landed_word_for_word(options: ListenerOptions) -> None:
    sent = [message(n) for n in range(50)]

    async def client(port: int, _: Listener) -> None:
        stream = b"".join(map(framed, sent))
        data = await exchange(port, stream[:77], stream[77:])
        assert answers(data) == [("AA", str(n)) for n in range(50)]

    with_listener(options, client)
    files = list(options.folder.rglob("*.hl7"))
    assert len(files) <= 3, "messages that arrive together land together"
    assert b"".join(path.read_bytes() for path in sorted(files)) == b"".join(map(framed, sent))


def test_good_messages_land_between_bad_ones(options: ListenerOptions) -> None:
    small = replace(options, max_message_bytes=1000, processing_ids=("P",))
    sent = (message(1), message(2, "x" * 5000), message(3, processing="T"), b"junk", message(4))

    async def client(port: int, _: Listener) -> None:
        data = await exchange(port, b"outside of any frame", *map(framed, sent))
        assert answers(data) == [("AA", "1"), ("AR", "2"), ("AR", "3"), ("AR", ""), ("AA", "4")]

    listener = with_listener(small, client)
    assert [record["MSH-10"] for record in landed(options.folder)] == ["1", "4"]
    assert (listener.counts.accepted, listener.counts.rejected) == (2, 3)


def test_encodings_land_apart_and_are_read_as_declared(options: ListenerOptions) -> None:
    latin = message("Gérard").decode().replace("2.5.1\r", "2.5.1||||||8859/1\r").encode("latin-1")

    async def client(port: int, _: Listener) -> None:
        assert len(answers(await exchange(port, framed(latin), framed(message("Zoë"))))) == 2

    with_listener(options, client)
    (other,) = options.folder.rglob("*.8bit.hl7")
    (utf8,) = set(options.folder.rglob("*.hl7")) - {other}
    assert other.read_bytes() == framed(latin) and utf8.read_bytes() == framed(message("Zoë"))
    lines = other.read_text("latin-1").splitlines(keepends=True)
    assert [json.loads(line)["PID-3"] for line in normalised(lines, "latin-1")] == ["Gérard"]


def test_a_full_disk_is_an_error_and_the_next_message_lands(
    options: ListenerOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [OSError(28, "No space left on device")]
    sync = os.fdatasync

    def full(handle: int) -> None:
        if failures:
            raise failures.pop()
        sync(handle)

    monkeypatch.setattr(mllp.os, "fdatasync", full)

    async def client(port: int, _: Listener) -> None:
        assert answers(await exchange(port, framed(message(1)))) == [("AE", "1")]
        assert answers(await exchange(port, framed(message(1)))) == [("AA", "1")]

    listener = with_listener(options, client)
    assert [record["MSH-10"] for record in landed(options.folder)] == ["1"]
    assert listener.counts.failed == 1


def test_slow_silent_and_too_many_clients(options: ListenerOptions) -> None:
    async def client(port: int, listener: Listener) -> None:
        silent = await asyncio.open_connection("127.0.0.1", port)
        half = await asyncio.open_connection("127.0.0.1", port)
        half[1].write(framed(message(1))[:40])
        third = await asyncio.open_connection("127.0.0.1", port)
        assert await third[0].read() == b"", "the third of two connections is closed"
        assert await half[0].read() == b"", "half a message does not wait for ever"
        # Being silent between messages is no fault.
        silent[1].write(framed(message(2)))
        assert answers(await silent[0].readuntil(b"\x1c")) == [("AA", "2")]
        slow = framed(message(3))
        assert answers(await exchange(port, *(slow[n : n + 40] for n in range(0, len(slow), 40)), pause=0.02)) == [
            ("AA", "3")
        ]
        silent[1].close()

    listener = with_listener(replace(options, max_connections=2, frame_seconds=0.5), client)
    assert {record["MSH-10"] for record in landed(options.folder)} == {"2", "3"}
    assert listener.counts.refused_connections == 1


def test_one_sender_does_not_take_all_connections(options: ListenerOptions) -> None:
    async def client(port: int, listener: Listener) -> None:
        own = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        assert await own[3][0].read() == b"", "the fourth of one sender is closed"
        other = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
        other[1].write(framed(message(1)))
        assert answers(await other[0].readuntil(b"\x1c")) == [("AA", "1")]
        for _, writer in (*own, other):
            writer.close()

    assert with_listener(replace(options, max_connections=4), client).counts.refused_connections == 1


ENHANCED = {
    ("AL", "NE"): ["CA"],
    ("NE", "AL"): ["AA"],
    ("AL", "AL"): ["CA", "AA"],
    ("NE", "NE"): [],
    ("ER", "SU"): ["AA"],
    ("AL", ""): ["CA"],
}


@pytest.mark.parametrize("conditions", ENHANCED)
def test_enhanced_mode_answers_as_the_sender_asks(conditions: tuple[str, str]) -> None:
    text = b"MSH|^~\\&|S|F|R|R|20260501101500||ADT^A04|7|P|2.5|||" + "|".join(conditions).encode() + b"\rPID|1||7\r"
    header = Header.of(text)
    now = datetime(2026, 5, 1, tzinfo=UTC)
    assert rejection(text, header, ("P",)) is None
    assert [code for code, _ in answers(answer(header, "AA", None, now))] == ENHANCED[conditions]
    refused = {"AL": 1, "ER": 1}
    assert len(answers(answer(header, "AR", "why", now))) == sum(refused.get(c, 0) for c in conditions)


@pytest.mark.parametrize("before", [b"\r\n", b"\n", b"\r", b"\xef\xbb\xbf"])
def test_empty_lines_before_a_message_are_no_second_one(before: bytes, options: ListenerOptions) -> None:
    async def client(port: int, listener: Listener) -> None:
        assert answers(await exchange(port, framed(before + message(1)))) == [("AA", "1")]

    with_listener(options, client)
    assert [record["MSH-10"] for record in landed(options.folder)] == ["1"]


def test_files_are_finished_when_full_or_old(options: ListenerOptions) -> None:
    async def client(port: int, _: Listener) -> None:
        for n in range(6):
            await exchange(port, framed(message(n)))

    with_listener(replace(options, file_messages=2, quiet_seconds=60), client)
    assert len(list(options.folder.rglob("*.hl7"))) == 3


def test_nothing_logged_names_a_patient(options: ListenerOptions, caplog: pytest.LogCaptureFixture) -> None:
    async def client(port: int, _: Listener) -> None:
        await exchange(port, framed(message(1)), *(framed(content) for content in REJECTED.values()))

    with_listener(replace(options, processing_ids=("P",)), client)
    assert len(caplog.records) >= len(REJECTED)
    assert "Confidential" not in caplog.text


def test_tls(options: ListenerOptions, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    self_signed(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    showing = ssl.create_default_context(cafile=str(certificate))
    showing.load_cert_chain(certificate, key)

    async def client(port: int, _: Listener) -> None:
        sent = framed(message(1))
        data = await exchange(port, sent, ssl=showing, server_hostname="localhost")
        assert answers(data) == [("AA", "1")]
        with pytest.raises((ssl.SSLError, ConnectionError)):
            if not await exchange(port, sent, ssl=trusting, server_hostname="localhost"):
                raise ConnectionError
        with pytest.raises(ConnectionError):
            if not await exchange(port, sent):
                raise ConnectionError

    with_listener(replace(options, tls=ServerTls(certificate, key, certificate).context), client)


def test_a_renewed_certificate_is_taken_while_messages_come(options: ListenerOptions, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    self_signed(certificate, key)
    tls = ServerTls(certificate, key)

    async def client(port: int, _: Listener) -> None:
        before = ssl.create_default_context(cafile=str(certificate))
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=before, server_hostname="localhost")
        self_signed(certificate, key)
        assert tls.look()
        after = ssl.create_default_context(cafile=str(certificate))
        assert answers(await exchange(port, framed(message(1)), ssl=after, server_hostname="localhost"))
        with pytest.raises(ssl.SSLCertVerificationError):
            await exchange(port, framed(message(2)), ssl=before, server_hostname="localhost")
        # The connection of before goes on.
        writer.write(framed(message(3)))
        assert answers(await reader.readuntil(b"\x1c\r")) == [("AA", "3")]
        writer.close()

    with_listener(replace(options, tls=tls.context), client)


# --- real processes, killed ---------------------------------------------------------------------------------


class Process:
    """The listener as people run it, on a port of its own."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = hospital(self.data_dir, "listen", "hl7", "--port", str(self.port))
        command += ["--file-seconds", "0.5", "--max-message-bytes", "20000"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert "listening" in self.process.stdout.readline()

    def end(self, how: signal.Signals) -> str:
        assert self.process is not None
        self.process.send_signal(how)
        said, wrong = self.process.communicate(timeout=300)
        return said + wrong


class Client(threading.Thread):
    """Sends its messages until each is acknowledged: one by one, in bursts, in pieces, or torn."""

    def __init__(self, name: str, port: int, count: int, rng: random.Random) -> None:
        super().__init__(name=name, daemon=True)
        self.port, self.rng = port, rng
        self.waiting = {
            f"{name}-{n}": message(f"{name}-{n}", f"{name}-{n} " * rng.randint(1, 300)) for n in range(count)
        }
        self.sent = dict(self.waiting)
        self.acknowledged: set[str] = set()
        self.wrong: list[str] = []

    def run(self) -> None:
        while self.waiting:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                    self.converse(connection)
            except OSError:
                time.sleep(0.02)

    def converse(self, connection: socket.socket) -> None:
        for _ in range(self.rng.randint(1, 30)):
            kind = self.rng.choice(["one", "one", "burst", "pieces", "torn", "too long", "noise"])
            chosen = self.rng.sample(list(self.waiting), min(len(self.waiting), 8))
            if not chosen:
                return
            if kind not in ("burst", "noise"):
                chosen = chosen[:1]
            if kind == "too long":
                connection.sendall(framed(message("long", "x" * 30_000)))
                self.answered(connection, 1)
                continue
            data = b"".join(framed(self.waiting[number]) for number in chosen)
            if kind == "torn":
                connection.sendall(data[: self.rng.randint(1, len(data) - 2)])
                return
            if kind == "noise":
                data = b"\r\nnoise" + data
            step = 50 if kind == "pieces" else len(data)
            for position in range(0, len(data), step):
                connection.sendall(data[position : position + step])
            self.answered(connection, len(chosen))

    def answered(self, connection: socket.socket, count: int) -> None:
        data = b""
        try:
            while len(answers(data)) < count:
                piece = connection.recv(65536)
                if not piece:
                    raise ConnectionError
                data += piece
        finally:
            for code, number in answers(data):
                if code == "AA":
                    self.acknowledged.add(number)
                    self.waiting.pop(number, None)
                elif number != "long":
                    self.wrong.append(f"{code} {number}")


def complete(folder: Path) -> Iterator[tuple[str, str]]:
    for record in landed(folder):
        if "@problem" in record:
            assert record["@problem"] == "message_cut_off"
        else:
            yield str(record["MSH-10"]), str(record["@record"])


def check_kills(data_dir: Path, clients: int, count: int, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    listener = Process(data_dir)
    listener.start()
    threads = [Client(f"c{n}", listener.port, count, random.Random(rng.random())) for n in range(clients)]
    for thread in threads:
        thread.start()
    folder = data_dir / "landing" / "hl7v2-adt" / "mllp"
    for _ in range(kills):
        time.sleep(rng.uniform(0.05, 0.4))
        before = set().union(*(set(thread.acknowledged) for thread in threads))
        said = listener.end(signal.SIGKILL)
        assert "Confidential" not in said
        # At once, with nobody there to recover anything.
        assert before <= {number for number, _ in complete(folder)}
        listener.start()
    for thread in threads:
        thread.join(600)
        assert not thread.is_alive() and not thread.wrong
    said = listener.end(signal.SIGTERM)
    assert "messages landed" in said and "Confidential" not in said
    sent = {number: text for thread in threads for number, text in thread.sent.items()}
    found = list(complete(folder))
    assert {number for number, _ in found} == set(sent)
    for number, record in found:
        assert record == sent[number].decode().rstrip("\r"), "not one byte is another"


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_when_the_listener_is_killed(tmp_path: Path) -> None:
    check_kills(tmp_path, clients=4, count=150, kills=3, seed=11)


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(5))
def test_nothing_acknowledged_is_lost_over_many_kills(tmp_path: Path, seed: int) -> None:
    check_kills(tmp_path, clients=8, count=1500, kills=15, seed=seed)


def test_the_example_of_the_documentation(options: ListenerOptions) -> None:
    text = (Path(__file__).parents[1] / "docs" / "hl7.md").read_text()
    (command,) = re.findall(r"(printf '\\013MSH[^']*')", text)
    sent = subprocess.run(["sh", "-c", command], check=True, capture_output=True).stdout

    async def client(port: int, _: Listener) -> None:
        assert answers(await exchange(port, sent)) == [("AA", "M1")]

    with_listener(options, client)
    (record,) = landed(options.folder)
    assert (record["PV1-2"], record["PV1-19"], record["@arrived_at"]) == ("E", "V1", "2026-05-01T10:15:00")
