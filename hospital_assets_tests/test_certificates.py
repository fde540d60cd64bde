"""TLS of servers: a renewed certificate is taken without a restart, and a broken one is not."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hospital_assets.certificates import CertificateError, ServerTls
from hospital_assets_tests.helpers import self_signed
from hospital_assets_tests.processes import free_port, started, until


class Live:
    """Files of a certificate as certbot keeps them: links in one folder to numbered files in another."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key = folder / "live" / "cert.pem", folder / "live" / "key.pem"
        self.archive = folder / "archive"
        self.number = 0
        for made in (self.certificate.parent, self.archive):
            made.mkdir()
        self.renew()

    def renew(self) -> None:
        """Make the next pair, and move the links to it."""
        self.number += 1
        pair = [self.archive / f"{kind}{self.number}.pem" for kind in ("cert", "key")]
        self_signed(*pair)
        self.point_at(*pair)

    def point_at(self, certificate: Path, key: Path) -> None:
        for link, target in ((self.certificate, certificate), (self.key, key)):
            moved = link.with_suffix(".new")
            moved.symlink_to(target)
            moved.replace(link)

    @property
    def der(self) -> bytes:
        return ssl.PEM_cert_to_DER_cert(self.certificate.read_text())


@pytest.fixture
def live(tmp_path: Path) -> Live:
    return Live(tmp_path)


@contextlib.contextmanager
def echoing(context: ssl.SSLContext) -> Iterator[int]:
    """A server that repeats what it is told; gives its port."""

    def answer(plain: socket.socket) -> None:
        with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as connection:
            while data := connection.recv(100):
                connection.sendall(data)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = server.accept()
                threading.Thread(target=answer, args=(plain,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        # What waits in `accept` is woken.
        server.shutdown(socket.SHUT_RDWR)


def anybody() -> ssl.SSLContext:
    """A client that looks at nothing."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def connected(port: int, context: ssl.SSLContext | None = None, name: str | None = "localhost") -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", port), timeout=20)
    return (context or anybody()).wrap_socket(plain, server_hostname=name)


def shown(port: int, name: str | None = "localhost") -> bytes | None:
    """The certificate that a new connection is shown."""
    with connected(port, name=name) as connection:
        return connection.getpeercert(True)


def repeats(connection: ssl.SSLSocket) -> bool:
    connection.sendall(b"still there?")
    return connection.recv(100) == b"still there?"


@pytest.mark.parametrize("name", ["localhost", "another.example.org", None])
def test_new_connections_are_shown_the_new_certificate_and_open_ones_go_on(live: Live, name: str | None) -> None:
    tls, first = ServerTls(live.certificate, live.key), live.der
    with echoing(tls.context) as port, connected(port, name=name) as before:
        assert shown(port, name) == first and not tls.look()
        for _ in range(2):
            live.renew()
            assert shown(port, name) != live.der
            assert tls.look() and not tls.look()
            assert shown(port, name) == live.der
            assert repeats(before)
        assert before.getpeercert(True) == first


def broken(live: Live, tmp_path: Path) -> dict[str, Callable[[], None]]:
    other, cut, locked = (tmp_path / name for name in ("other.pem", "cut.pem", "locked.pem"))
    self_signed(tmp_path / "unused.pem", other)
    certificate, key = live.certificate.resolve(), live.key.resolve()
    cut.write_bytes(certificate.read_bytes()[:200])
    encrypt = ["openssl", "ec", "-aes256", "-passout", "pass:secret", "-in", str(key), "-out", str(locked)]
    subprocess.run(encrypt, check=True, capture_output=True)
    return {
        "another key": lambda: live.point_at(certificate, other),
        "another certificate": lambda: live.point_at(tmp_path / "unused.pem", key),
        "a certificate that is cut": lambda: live.point_at(cut, key),
        "nothing": lambda: live.point_at(tmp_path / "gone.pem", tmp_path / "gone.key"),
        # It would be asked for at the terminal.
        "a key with a password": lambda: live.point_at(certificate, locked),
    }


def test_a_pair_that_cannot_be_used_leaves_the_one_before_and_is_said_once(
    live: Live, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tls, first = ServerTls(live.certificate, live.key), live.der
    good = live.certificate.resolve(), live.key.resolve()
    with echoing(tls.context) as port:
        for what, put in broken(live, tmp_path).items():
            put()
            caplog.clear()
            assert not tls.look() and not tls.look(), what
            assert [record.levelno for record in caplog.records] == [logging.WARNING], what
            assert "the certificate of before stays in use" in caplog.text
            assert shown(port) == first
            with pytest.raises(CertificateError):
                ServerTls(live.certificate, live.key)
        live.point_at(*good)
        assert tls.look() and shown(port) == first
        live.renew()
        assert tls.look() and shown(port) == live.der


def test_clients_are_asked_for_the_authority_that_is_there_now(live: Live, tmp_path: Path) -> None:
    trusted, key = tmp_path / "ca.pem", tmp_path / "ca.key"
    self_signed(trusted, key, "a sender")
    tls = ServerTls(live.certificate, live.key, trusted)

    def showing() -> ssl.SSLContext:
        context = anybody()
        context.load_cert_chain(trusted, key)
        return context

    def is_let_in(port: int, context: ssl.SSLContext) -> bool:
        # In TLS 1.3 the handshake ends before the server has looked.
        try:
            with connected(port, context) as connection:
                return repeats(connection)
        except (ssl.SSLError, ConnectionError):
            return False

    with echoing(tls.context) as port:
        old = showing()
        assert is_let_in(port, old) and not is_let_in(port, anybody())
        self_signed(trusted, key, "a sender")
        assert tls.look()
        assert is_let_in(port, showing()) and not is_let_in(port, old) and not is_let_in(port, anybody())


def test_old_versions_and_weak_ciphers_are_refused(live: Live) -> None:
    tls = ServerTls(live.certificate, live.key)
    for _ in range(2):
        with echoing(tls.context) as port:
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                client = anybody()
                client.minimum_version = client.maximum_version = version
                with connected(port, client) as connection:
                    assert connection.version() == version.name.replace("_", ".")
                    assert repeats(connection)
            with pytest.warns(DeprecationWarning):
                client.minimum_version = ssl.TLSVersion.TLSv1_1
                client.maximum_version = ssl.TLSVersion.TLSv1_1
            client.set_ciphers("ALL:@SECLEVEL=0")
            with pytest.raises((ssl.SSLError, ConnectionError)):
                connected(port, client)
            for weak in ("ECDHE-ECDSA-AES128-SHA256", "AES128-GCM-SHA256"):
                client = anybody()
                client.maximum_version = ssl.TLSVersion.TLSv1_2
                client.set_ciphers(weak)
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    connected(port, client)
        # The same holds for what a renewal has made.
        live.renew()
        assert tls.look()


def test_renegotiation_is_refused(live: Live) -> None:
    openssl = shutil.which("openssl")
    assert openssl is not None
    with echoing(ServerTls(live.certificate, live.key).context) as port:
        asked = subprocess.run(
            [openssl, "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_2"],
            # The second line would be repeated.
            input="R\nstill there?\n",
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert "RENEGOTIATING" in asked.stdout + asked.stderr
    assert "no renegotiation" in asked.stderr


#: A process with a certificate, as people run it; `{}` are the port and the two files.
SERVERS = {
    "gateway and dashboard": [
        "-c",
        "from pathlib import Path; from starlette.applications import Starlette; "
        "from hospital_assets.access.serving import Address, run; "
        "run(Starlette(), Address('127.0.0.1', {}, Path('{}'), Path('{}')), graceful_seconds=1)",
    ],
    "hl7": ["-m", "hospital_assets.cli", "listen", "hl7", "--port", "{}", "--tls-cert", "{}", "--tls-key", "{}"],
}


@pytest.mark.parametrize("server", SERVERS)
def test_a_process_takes_it_when_it_is_hung_up_on(server: str, live: Live, tmp_path: Path) -> None:
    port = free_port()
    values = iter((port, live.certificate, live.key))
    words = [word.format(port, live.certificate, live.key) if "run(" in word else word for word in SERVERS[server]]
    words = [str(next(values)) if word == "{}" else word for word in words]
    environment = {**os.environ, "HOSPITAL_DATA_DIR": str(tmp_path / "data")}
    with started([sys.executable, *words], env=environment) as process:
        with until(lambda: connected_if_it_listens(port), process) as before:
            assert before.getpeercert(True) == live.der
            live.renew()
            process.send_signal(signal.SIGHUP)
            until(lambda: shown(port) == live.der, process)
        process.terminate()
        process.wait(20)


def connected_if_it_listens(port: int) -> ssl.SSLSocket | None:
    with contextlib.suppress(ConnectionError):
        return connected(port)
    return None
