"""TLS and SASL before a Kafka broker that has neither: a proxy that takes connections and logins, then pipes.

Logins are PLAIN, or SCRAM (RFC 5802) of which this keeps no password, but a verifier.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import secrets
import ssl
import struct
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass

_HANDSHAKE, _AUTHENTICATE = 17, 36
_UNSUPPORTED, _REFUSED = 33, 58


@dataclass(frozen=True)
class Login:
    """Who is let in, and by which mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."""

    mechanism: str
    user: str
    password: str

    def conversation(self) -> Generator[bytes, bytes, tuple[bytes, str]]:
        """Takes what the client says, gives what to answer; returns the last answer, and why it is not let in."""
        return self._plain() if self.mechanism == "PLAIN" else self._scram(f"sha{self.mechanism[-3:]}")

    def _plain(self) -> Generator[bytes, bytes, tuple[bytes, str]]:
        _, user, password = (yield b"").split(b"\0")
        is_known = (user.decode(), password.decode()) == (self.user, self.password)
        # Brokers may write anything here.
        return b"", "" if is_known else f"no such login: {user.decode()} {password.decode()}"

    def _scram(self, algorithm: str) -> Generator[bytes, bytes, tuple[bytes, str]]:
        salt, rounds = secrets.token_bytes(16), 4096
        salted = hashlib.pbkdf2_hmac(algorithm, self.password.encode(), salt, rounds)
        key = hmac.digest(salted, b"Client Key", algorithm)
        stored, server_key = hashlib.new(algorithm, key).digest(), hmac.digest(salted, b"Server Key", algorithm)

        bare = (yield b"").decode().removeprefix("n,,")
        said = _attributes(bare)
        nonce = said["r"] + secrets.token_urlsafe(18)
        first = f"r={nonce},s={base64.b64encode(salt).decode()},i={rounds}"
        final = (yield first.encode()).decode()
        without_proof, _, proof = final.rpartition(",p=")
        signed = ",".join((bare, first, without_proof)).encode()
        signature = hmac.digest(stored, signed, algorithm)
        found = bytes(a ^ b for a, b in zip(base64.b64decode(proof), signature, strict=True))
        is_known = hmac.compare_digest(hashlib.new(algorithm, found).digest(), stored)
        if not is_known or said["n"].replace("=2C", ",").replace("=3D", "=") != self.user:
            return b"", f"no such login: {said['n']}"
        assert _attributes(without_proof) == {"c": "biws", "r": nonce}
        return b"v=" + base64.b64encode(hmac.digest(server_key, signed, algorithm)), ""


def _attributes(message: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in message.split(","))  # type: ignore[misc]


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
    login: Login,
) -> bool:
    """Whether the client has said who it is; what it asks before that (which requests there are) the broker answers."""
    conversation = login.conversation()
    next(conversation)
    while True:
        request = await _frame(reader)
        key, version, correlation, body = _parsed(request)
        head = struct.pack(">i", correlation)
        if key == _HANDSHAKE:
            (length,) = struct.unpack(">h", body[:2])
            is_offered = body[2 : 2 + length].decode() == login.mechanism
            offered = struct.pack(">hi", 0 if is_offered else _UNSUPPORTED, 1) + _string(login.mechanism)
            writer.write(_framed(head + offered))
        elif key == _AUTHENTICATE:
            is_over, why = False, ""
            try:
                answer = conversation.send(body[4:])
            except StopIteration as ended:
                is_over, (answer, why) = True, ended.value
            lifetime = struct.pack(">q", 0) if version else b""
            code = struct.pack(">h", _REFUSED if why else 0)
            writer.write(_framed(head + code + _string(why) + struct.pack(">i", len(answer)) + answer + lifetime))
            await writer.drain()
            if is_over:
                return not why
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
def secured(port: int, broker_port: int, tls: ssl.SSLContext, login: Login | None = None) -> Iterator[None]:
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
