"""TLS and SASL/PLAIN before a Kafka broker that has neither: a proxy that takes connections and logins, then pipes."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
import threading
from collections.abc import Iterator

_HANDSHAKE, _AUTHENTICATE = 17, 36
_REFUSED = 58


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (length,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(length)


def _framed(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


def _string(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


def _parsed(request: bytes) -> tuple[int, int, int, bytes]:
    """API key, version, correlation id, body; of requests that are not flexible."""
    key, version, correlation, client = struct.unpack(">hhih", request[:10])
    return key, version, correlation, request[10 + max(client, 0) :]


async def _logged_in(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    broker: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    login: tuple[str, str],
) -> bool:
    """Whether the client has said who it is; what it asks before that (which requests there are) the broker answers."""
    while True:
        request = await _frame(reader)
        key, version, correlation, body = _parsed(request)
        head = struct.pack(">i", correlation)
        if key == _HANDSHAKE:
            writer.write(_framed(head + struct.pack(">hi", 0, 1) + _string("PLAIN")))
        elif key == _AUTHENTICATE:
            _, user, password = body[4:].split(b"\0")
            is_known = (user.decode(), password.decode()) == login
            # Brokers may write anything here.
            said = _string("" if is_known else f"no such login: {user.decode()} {password.decode()}")
            lifetime = struct.pack(">q", 0) if version else b""
            answer = struct.pack(">h", 0 if is_known else _REFUSED) + said + struct.pack(">i", 0) + lifetime
            writer.write(_framed(head + answer))
            await writer.drain()
            return is_known
        else:
            broker[1].write(_framed(request))
            writer.write(_framed(await _frame(broker[0])))


async def _piped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.contextmanager
def secured(port: int, broker_port: int, tls: ssl.SSLContext, login: tuple[str, str] | None = None) -> Iterator[None]:
    """Take TLS connections, with a login where there is one, and pass them to a broker of this machine."""
    loop = asyncio.new_event_loop()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            broker = await asyncio.open_connection("127.0.0.1", broker_port)
            if login is None or await _logged_in(reader, writer, broker, login):
                await asyncio.gather(_piped(reader, broker[1]), _piped(broker[0], writer))
            broker[1].close()
        writer.close()

    # What the other side does to a connection is no trouble of a test's.
    loop.set_exception_handler(lambda *_: None)
    server = loop.run_until_complete(asyncio.start_server(connected, "127.0.0.1", port, ssl=tls))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def ended() -> None:
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(ended(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
