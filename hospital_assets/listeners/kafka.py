"""Kafka: a topic's messages into the landing folder, each exactly once.

The consumer assigns itself the partitions and starts each behind the last landed offset. Offsets are
committed to the broker, too, after the files have landed, for the sake of tools that watch lag; they
are never read.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hospital_assets.landing.streams import StreamError, StreamLanding
from hospital_assets.listeners.pace import Pace, commit, go_on_behind_loss

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError

#: How often to look for partitions that were added.
_PARTITIONS_SECONDS = 60.0
_BROKER_SECONDS = 15.0
#: What the client may fetch ahead.
_AHEAD_KILOBYTES = 32_768


def listen_kafka(
    topic: str,
    bootstrap: str,
    landing: StreamLanding,
    stop: threading.Event,
    *,
    pace: Pace | None = None,
    options: Mapping[str, str] | None = None,
    until_end: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Land a topic's messages until stopped.

    Args:
        topic: the topic.
        bootstrap: brokers, as host:port,host:port.
        landing: where to, and how far it is.
        stop: ends it; what is held lands first.
        pace: when files are made.
        options: librdkafka's, as for TLS and SASL.
        until_end: stop where the topic ends.
        say: takes a line for each landed file and each trouble; never a message's content.

    Raises:
        StreamError: there is no such topic or broker, or the topic was made anew since.
    """
    from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

    pace = pace or Pace()
    consumer = Consumer(
        {
            "group.id": "hospital_assets",
            "queued.max.messages.kbytes": _AHEAD_KILOBYTES,
            **(options or {}),
            "bootstrap.servers": bootstrap,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            # Never skip silently: being behind the oldest message is ours to report.
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "error_cb": _once(say),
            "log_level": 0,
        }
    )
    assigned: set[int] = set()
    ended: set[int] = set()

    def assign() -> None:
        for partition in sorted(_partitions(consumer, topic) - assigned):
            start = _start(consumer, topic, partition, landing, say)
            consumer.incremental_assign([TopicPartition(topic, partition, start)])
            assigned.add(partition)

    def land() -> None:
        if landed := commit(landing, say):
            reached = [TopicPartition(topic, b.partition, b.last + 1) for b in landed]
            with contextlib.suppress(KafkaException):
                consumer.commit(offsets=reached, asynchronous=True)

    try:
        assign()
        looked = held_since = time.monotonic()
        while not stop.is_set() and not (until_end and ended >= assigned):
            held = landing.pending_bytes > 0
            for message in consumer.consume(1000, timeout=min(0.5, pace.seconds)):
                error, partition = message.error(), message.partition() or 0
                if error is None:
                    landing.add(partition, message.offset() or 0, message.value())
                    ended.discard(partition)
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended.add(partition)
                elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                    start = _start(consumer, topic, partition, landing, say)
                    consumer.seek(TopicPartition(topic, partition, start))
                elif error.fatal() or error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise StreamError(f"{topic}: {error.str()}")
                else:
                    say(f"{topic}: {error.str()}; trying again")
            now = time.monotonic()
            if not held:
                held_since = now
            if landing.pending_bytes >= pace.max_bytes or now - held_since >= pace.seconds:
                land()
            if now - looked >= _PARTITIONS_SECONDS:
                looked = now
                with contextlib.suppress(StreamError, KafkaException):  # away; it may come back
                    assign()
        land()
    except KafkaException as error:
        raise StreamError(f"{topic}: {error.args[0].str()}") from error
    finally:
        consumer.close()


def _partitions(consumer: Consumer, topic: str) -> set[int]:
    from confluent_kafka import KafkaException

    try:
        found = consumer.list_topics(topic, timeout=_BROKER_SECONDS).topics[topic]
    except KafkaException as error:
        raise StreamError(f"no broker answers: {error.args[0].str()}") from error
    if found.error is not None or not found.partitions:
        raise StreamError(f"topic '{topic}': {found.error.str() if found.error else 'is empty'}")
    return set(found.partitions)


def _start(consumer: Consumer, topic: str, partition: int, landing: StreamLanding, say: Callable[[str], None]) -> int:
    """Where to read on: behind what is landed, or at the oldest message there still is."""
    from confluent_kafka import TopicPartition

    oldest, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=_BROKER_SECONDS)
    wanted = landing.reached(partition)
    if wanted > end:
        raise StreamError(
            f"topic '{topic}' partition {partition} ends at offset {end}, but {wanted} are landed from "
            "it: it was made anew. Land the new one under another name with --as NAME"
        )
    if wanted < oldest:
        go_on_behind_loss(landing, partition, oldest, say)
        return int(oldest)
    return wanted


def _once(say: Callable[[str], None]) -> Callable[[KafkaError], None]:
    """Say each kind of trouble with the brokers once, not at every attempt."""
    reported: set[Any] = set()

    def tell(error: KafkaError) -> None:
        if error.code() not in reported:
            reported.add(error.code())
            say(f"{error.str()}; trying again")

    return tell
