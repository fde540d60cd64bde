"""HL7 v2 and FHIR as messages of streams: they read as they do by MLLP and from files, and bad ones take none along."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hospital_assets.landing.content import read_content
from hospital_assets.landing.hl7v2 import normalised
from hospital_assets.landing.streams import Range, StreamLanding, as_frame, faults, ranges
from hospital_assets.listeners.mllp import Frames, LandedMessages, ListenerOptions
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import open_warehouse
from hospital_assets_tests.helpers import zone_in
from hospital_assets_tests.processes import free_port
from hospital_assets_tests.test_listeners import Kafka, Listener, Nats, mock_kafka
from hospital_assets_tests.test_mllp import message

__all__ = ["mock_kafka"]

BAD = [
    None,
    b"",
    b" \r\n",
    b"\x00\x01\x02\xff",
    b"no message",
    b"\x0bMSH|^~\\&|half",
    b"a\x1cb",
    b"\x01" * 9_000,
    b"{}",
]
UTF8 = message("u", "Zo\u00eb")
LATIN1 = message("l").replace(b"Confidential", "Müller".encode("latin-1")).replace(b"2.5.1", b"2.5.1||||||8859/1")


class _Lines(io.StringIO):
    encoding = "utf-8"  # type: ignore[assignment]


def records(folder: Path) -> list[dict[str, Any]]:
    """What is read of all landed files, in the order of their names."""
    found = []
    for path in sorted(folder.rglob("*.hl7")):
        content = read_content(path)
        lines = _Lines(content.text, newline="")
        found += [json.loads(line) for line in normalised(lines, content.encoding)]
    return found


def landed_as_stream(folder: Path, messages: list[bytes | None]) -> None:
    landing = StreamLanding(folder, "adt", ".hl7", {})
    for offset, content in enumerate(messages):
        landing.add(0, offset, content)
    held = landing.commit()
    assert held == [Range.of(p.name) for p in sorted(folder.glob("*.hl7"))] and not landing.pending_bytes
    assert held[0].first == 0 and held[-1].last == len(messages) - 1
    assert faults(ranges(p.name for p in folder.iterdir())).is_empty()


@given(st.none() | st.binary(max_size=200) | st.text(max_size=90).map(str.encode))
def test_any_message_is_one_frame_and_frames_do_not_run_together(content: bytes | None) -> None:
    frames = Frames(1_000_000)
    frames.feed(as_frame(message(1)) + as_frame(content) + as_frame(message(2)))
    first, middle, last = (frame.content for frame in frames.complete())
    assert (first, last) == (message(1), message(2)) and middle.strip()


@given(st.lists(st.sampled_from([UTF8, LATIN1, message(1), *BAD]), min_size=1, max_size=12))
def test_good_messages_read_alike_whatever_stands_between(tmp_path_factory: Any, messages: list[bytes | None]) -> None:
    folder = tmp_path_factory.mktemp("stream")
    landed_as_stream(folder, messages)
    found = records(folder)
    assert len(found) == len(messages)
    for sent, read in zip(messages, found, strict=True):
        if sent in BAD:
            assert read["@problem"] in ("no_message_header", "unreadable_line")
        else:
            assert "@problem" not in read and read["PID-5"] == ("Müller" if sent == LATIN1 else "Confidential")
    ends = [read for sent, read in zip(messages, found, strict=True) if sent == UTF8]
    assert all("Zo\u00eb" in read["@record"] for read in ends)


def test_the_same_messages_by_mllp_and_by_a_stream_are_the_same_records(tmp_path: Path) -> None:
    sent = [message(n, f"note {n}") for n in range(30)] + [UTF8] * 2
    options = ListenerOptions(folder=tmp_path / "mllp")
    by_mllp = LandedMessages(options, lambda: datetime(2026, 5, 1, tzinfo=UTC))
    by_mllp.append(sent, 0.0)
    by_mllp.finish()
    landed_as_stream(tmp_path / "stream", list(sent))
    # Some senders put the frame into the message.
    landed_as_stream(tmp_path / "framed", [b"\x0b" + one + b"\x1c\r" for one in sent])
    assert records(tmp_path / "mllp") == records(tmp_path / "stream") == records(tmp_path / "framed")


# Through brokers ----------------------------------------------------------------------------------------


def fhir(number: int) -> bytes:
    return json.dumps({"resourceType": "Patient", "id": f"p{number}", "gender": "female"}, indent=number % 3).encode()


def raw(data: Path, subject: str) -> pl.DataFrame:
    """What the table of a subject would read, and what is unreadable."""
    with open_warehouse(Settings(data).warehouse_file) as warehouse:
        zone = zone_in(data, warehouse.connection)
        ledger = zone.discover()
        assert set(ledger["state"]) == {"ready"}, ledger["problem"].to_list()
        return zone.read(subject, ledger).collect("polars").to_native()


@pytest.fixture(params=["kafka", "nats"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kafka | Nats]:
    if request.param == "kafka":
        yield request.getfixturevalue("mock_kafka")
        return
    jetstream = Nats(free_port(), tmp_path / "jetstream")
    with jetstream.up():
        jetstream.make()
        yield jetstream


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["hl7v2-adt", "fhir-r4"])
def test_messages_of_a_stream_reach_the_tables_and_bad_ones_are_shown(
    tmp_path: Path, broker: Kafka | Nats, profile: str
) -> None:
    bad = [b"\x01" * 9_000, b"no message", b"\xff\xfe\x00\x01"]
    good = [message(n) if profile == "hl7v2-adt" else fhir(n) for n in range(40)]
    for content in [*bad, *good, b""]:
        broker.produce(0, [content])
    listener = Listener(tmp_path, *broker.listen, "--until-end", profile=[profile])
    said = listener.said()
    assert listener.process.returncode == 0, said
    assert "Confidential" not in said and "female" not in said
    patients = raw(tmp_path, "patients")
    assert set(patients["patient_id"]) == {f"H-{n}" if profile == "hl7v2-adt" else f"p{n}" for n in range(40)}
    shown = raw(tmp_path, "other_records").filter(pl.col("problem").is_not_null())
    assert shown.height == len(bad) + 1 and patients["problem"].null_count() == patients.height == 40
