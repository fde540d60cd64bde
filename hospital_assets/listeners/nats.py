"""NATS JetStream: a stream's messages into the landing folder, each exactly once.

Sequence numbers of the stream are the offsets. Each start makes a consumer of its own that begins
behind the last landed one and leaves nothing on the server; nothing is acknowledged, because what is
landed is the truth. So the stream must keep its messages by limits (age, size), not until they are
taken.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hospital_assets.landing.streams import StreamError, StreamLanding
from hospital_assets.listeners.pace import Pace, commit, go_on_behind_loss

if TYPE_CHECKING:
    from nats.js import JetStreamContext
    from nats.js.api import StreamState

#: NATS streams have one sequence.
_PARTITION = 0
_SERVER_SECONDS = 15.0


def listen_nats(
    stream: str,
    servers: str,
    landing: StreamLanding,
    stop: threading.Event,
    *,
    pace: Pace | None = None,
    options: dict[str, Any] | None = None,
    until_end: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Land a stream's messages until stopped.

    Args:
        servers: as nats://host:port, several with commas.
        stop: ends it; what is held lands first.
        options: for `nats.connect`, as `user_credentials`.
        until_end: stop where the stream ends now.
        say: takes a line for each landed file and each trouble; never a message's content.

    Raises:
        StreamError: there is no such stream or server, it keeps messages only until they are taken, or
            it was made anew since.
    """
    asyncio.run(_listen(stream, servers, landing, stop, pace or Pace(), options or {}, until_end, say))


async def _listen(
    stream: str,
    servers: str,
    landing: StreamLanding,
    stop: threading.Event,
    pace: Pace,
    options: dict[str, Any],
    until_end: bool,
    say: Callable[[str], None],
) -> None:
    import nats
    from nats.errors import Error as NatsError
    from nats.js.errors import NotFoundError

    async def trouble(error: Exception) -> None:
        say(f"{stream}: {type(error).__name__}; trying again")

    try:
        connection = await asyncio.wait_for(
            nats.connect(servers.split(","), error_cb=trouble, connect_timeout=2, max_reconnect_attempts=-1, **options),
            _SERVER_SECONDS,
        )
    except (TimeoutError, NatsError, OSError) as error:
        raise StreamError(
            f"no server answers at {_hosts(servers)}, or it lets nobody in with these settings"
        ) from error
    try:
        context = connection.jetstream(timeout=_SERVER_SECONDS)
        try:
            end = (await _state(context, stream, landing, say)).last_seq
        except NotFoundError as error:
            raise StreamError(f"there is no stream '{stream}' on {_hosts(servers)}") from error
        reader = _Reader(context, stream, landing, say)
        held_since = time.monotonic()
        while not stop.is_set() and not (until_end and landing.reached(_PARTITION) > end):
            held = landing.pending_bytes > 0
            try:
                await reader.take(timeout=min(1.0, max(pace.seconds, 0.1)))
            except (NatsError, OSError) as error:
                await trouble(error)
                reader.again()
                await asyncio.sleep(1)
            now = time.monotonic()
            if not held:
                held_since = now
            if landing.pending_bytes >= pace.max_bytes or now - held_since >= pace.seconds:
                commit(landing, say)
        commit(landing, say)
    finally:
        await connection.close()


def _hosts(servers: str) -> str:
    """Addresses without the logins that may stand in them."""
    return ", ".join(server.rpartition("@")[2].removeprefix("nats://") for server in servers.split(","))


class _Reader:
    """One consumer on the server, made anew whenever it is in doubt."""

    def __init__(
        self, context: JetStreamContext, stream: str, landing: StreamLanding, say: Callable[[str], None]
    ) -> None:
        self._context, self._stream, self._landing, self._say = context, stream, landing, say
        self._consumer: JetStreamContext.PullSubscription | None = None
        self._delivered = 0

    def again(self) -> None:
        """Ask anew behind what is held: the server may have forgotten us."""
        self._consumer = None

    async def take(self, timeout: float) -> None:
        """Hold what comes next, if anything does."""
        from nats.errors import TimeoutError as NoMessages
        from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
        from nats.js.errors import NotFoundError

        if self._consumer is None:
            await _state(self._context, self._stream, self._landing, self._say)
            self._delivered = 0
            self._consumer = await self._context.pull_subscribe(
                "",
                stream=self._stream,
                config=ConsumerConfig(
                    deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                    opt_start_seq=max(self._landing.reached(_PARTITION), 1),
                    ack_policy=AckPolicy.NONE,
                    inactive_threshold=60.0,
                ),
            )
        try:
            messages = await self._consumer.fetch(256, timeout=timeout)
        except NoMessages:
            try:
                await self._consumer.consumer_info()
            except NotFoundError:
                self.again()
            return
        state: StreamState | None = None
        for message in messages:
            sequence = message.metadata.sequence
            if sequence.consumer != self._delivered + 1:
                self.again()  # a delivery was lost on the way
                return
            self._delivered += 1
            if sequence.stream > self._landing.reached(_PARTITION):
                # Deleted one by one is a hole of the stream; deleted by its limits is a loss of ours.
                state = state or (await self._context.stream_info(self._stream)).state
                oldest = min(state.first_seq, sequence.stream)
                if oldest > self._landing.reached(_PARTITION):
                    go_on_behind_loss(self._landing, _PARTITION, oldest, self._say)
            self._landing.add(_PARTITION, sequence.stream, message.data)


async def _state(
    context: JetStreamContext, stream: str, landing: StreamLanding, say: Callable[[str], None]
) -> StreamState:
    """The stream as it is now; reports what it has dropped before we took it."""
    from nats.js.api import RetentionPolicy

    info = await context.stream_info(stream)
    if info.config.retention not in (None, RetentionPolicy.LIMITS):
        raise StreamError(
            f"stream '{stream}' keeps its messages only until they are taken; a listener killed behind "
            "its acknowledgement would lose them. Use a stream with retention 'limits'"
        )
    wanted = landing.reached(_PARTITION)
    if wanted > info.state.last_seq + 1:
        raise StreamError(
            f"stream '{stream}' ends at sequence {info.state.last_seq}, but those before {wanted} are "
            "landed from it: it was made anew. Land the new one under another name with --as NAME"
        )
    if wanted < info.state.first_seq:
        go_on_behind_loss(landing, _PARTITION, info.state.first_seq, say)
    return info.state
