"""Kafka: a topic's messages into the landing folder, each exactly once.

The consumer assigns itself the partitions and starts each behind the last landed offset. Offsets are
committed to the broker, too, after the files have landed, for the sake of tools that watch lag; they
are never read.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from hospital_assets.landing.streams import StreamError, StreamLanding
from hospital_assets.listeners.pace import Pace, commit, go_on_behind_loss
from hospital_assets.listeners.properties import redacted

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError

#: How often to look for partitions that were added.
_PARTITIONS_SECONDS = 60.0
_BROKER_SECONDS = 15.0
#: What the client may fetch ahead.
_AHEAD_KILOBYTES = 32_768
#: Unless the settings say otherwise. Cloud brokers and firewalls cut connections that are silent for some minutes.
_DEFAULTS = {
    "group.id": "hospital_assets",
    "queued.max.messages.kbytes": _AHEAD_KILOBYTES,
    "connections.max.idle.ms": 180_000,
    "metadata.max.age.ms": 180_000,
    "socket.keepalive.enable": True,
}
#: Name of an error of the client -> what to do.
_WORDS = {
    "_AUTHENTICATION": "the login is refused; check sasl.mechanism, sasl.username and sasl.password",
    "_SSL": "TLS fails; check ssl.ca.location, and where the broker wants a certificate of this client "
    "ssl.certificate.location and ssl.key.location",
    "_RESOLVE": "the broker's name is not known; check --bootstrap",
}
#: More of the cause, where the client's text has this.
_CAUSES = {
    "certificate verify failed": "the broker's certificate is not of the authority that is trusted",
    "wrong version number": "the broker does not speak TLS at this port",
}
_CLOSED = (
    "it closes the connection at once; check security.protocol, and whether it wants a certificate of this client "
    "(ssl.certificate.location, ssl.key.location) or another one"
)


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
        bootstrap: brokers, as host:port,host:port.
        stop: ends it; what is held lands first.
        options: librdkafka's, as for TLS and SASL.
        until_end: stop where the topic ends.
        say: takes a line for each landed file and each trouble; never a message's content.

    Raises:
        StreamError: there is no such topic or broker, or the topic was made anew since.
    """
    from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

    pace = pace or Pace()
    trouble = _Trouble(say, options or {})
    log = logging.Logger("kafka")
    log.addHandler(trouble)
    try:
        consumer = Consumer(
            {
                **_DEFAULTS,
                **(options or {}),
                "bootstrap.servers": bootstrap,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                # Never skip silently: being behind the oldest message is ours to report.
                "auto.offset.reset": "error",
                "enable.partition.eof": True,
                "error_cb": trouble,
                "log_level": 6,
            },
            logger=log,
        )
    except KafkaException as wrong:
        raise StreamError(f"the client's settings cannot be used: {trouble.in_words(wrong.args[0])}") from None
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
        _reach(consumer, trouble)
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
                    raise StreamError(f"{topic}: {trouble.in_words(error)}")
                else:
                    say(f"{topic}: {trouble.in_words(error)}; trying again")
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
        raise StreamError(f"{topic}: {trouble.in_words(error.args[0])}") from None
    finally:
        consumer.close()


def _reach(consumer: Consumer, trouble: _Trouble) -> None:
    """Wait until a broker answers, or what the client reports meanwhile says why none will.

    It must not have partitions yet: polling for reports would take their messages, too.
    """
    from confluent_kafka import KafkaException

    ends = time.monotonic() + _BROKER_SECONDS
    trouble.is_silent = True
    while True:
        try:
            consumer.list_topics(timeout=_BROKER_SECONDS / 10)
            break
        except KafkaException as error:
            consumer.poll(0)
            if trouble.cause or time.monotonic() > ends:
                why = trouble.cause or trouble.hint or trouble.in_words(error.args[0])
                raise StreamError(f"no broker answers: {why}") from None
    trouble.is_silent = False


def _partitions(consumer: Consumer, topic: str) -> set[int]:
    found = consumer.list_topics(topic, timeout=_BROKER_SECONDS).topics[topic]
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


class _Trouble(logging.Handler):
    """Says each kind of trouble with the brokers once, not at every attempt, and remembers what it is caused by.

    Attributes:
        cause: why no broker lets this client in, which waiting will not change.
        hint: what the client's log tells of it.
        is_silent: whether the caller will say it.
    """

    def __init__(self, say: Callable[[str], None], options: Mapping[str, str]) -> None:
        super().__init__()
        self._say, self._options = say, options
        self._reported: set[str] = set()
        self.cause = self.hint = ""
        self.is_silent = False

    def __call__(self, error: KafkaError) -> None:
        """Take an error that the client reports."""
        words = self.in_words(error)
        if error.name() in _WORDS:
            self.cause = self.cause or words
        if error.name() not in self._reported and not self.is_silent:
            self._reported.add(error.name())
            self._say(f"{words}; trying again")

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line of the client's log; it is shown where the settings ask for `debug`."""
        text = record.getMessage()
        if "Disconnected" in text and "APIVERSION_QUERY" in text:
            self.hint = _CLOSED
        if "debug" in self._options:
            self._say(redacted(text, self._options))

    def in_words(self, error: KafkaError) -> str:
        """An error, with what to do; without secrets among the settings, and without what a broker writes to logins."""
        told = _WORDS.get(error.name())
        if told is None:
            return redacted(error.str(), self._options)
        cause = next((words for part, words in _CAUSES.items() if error.name() == "_SSL" and part in error.str()), "")
        return f"{cause}: {told}" if cause else told
