"""TLS of a server, whose certificate is renewed while it serves.

Files of a certificate are replaced by whoever renews it (certbot moves links). They are looked at every half minute,
and at once on SIGHUP. Connections that are open keep what they were made with. Belongs here: contexts of TLS, and when
they are made anew. Does not: who listens where.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

LOOK_SECONDS = 30.0
#: Of TLS 1.2; those of 1.3 are all sound. Keys are exchanged anew for each connection, and content is authenticated.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_log = logging.getLogger("hospital.tls")


class CertificateError(ValueError):
    """The files of a certificate cannot be used; says why."""


class ServerTls:
    """TLS 1.2 and newer by a certificate in files, which may be replaced by another.

    Attributes:
        context: what a server makes its connections with, for as long as it serves.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        """Read the files.

        Args:
            certificate: PEM file with the chain, its own first.
            key: PEM file with its key, not encrypted.
            client_ca: PEM file of the authorities whose clients alone are let in; None lets in all.

        Raises:
            CertificateError: a file is missing, is something else, or they do not belong together.
        """
        self._files = (certificate, key, *([client_ca] if client_ca else []))
        self._looked_at = self._marks()
        self.context = self._newest = self._made()
        # Called as each connection begins, whether its client says a name or not. What a context was once given
        # stays in it when the next file cannot be used; so a renewed certificate has a context of its own.
        self.context.sni_callback = self._take_newest

    def look(self) -> bool:
        """Take the files if they have changed; whether new connections have another certificate from now on.

        Files that cannot be used are left alone, which is logged once, and those that were taken stay in use.
        """
        marks = self._marks()
        if marks == self._looked_at:
            return False
        try:
            self._newest = self._made()
        except CertificateError as error:
            _log.warning("%s; the certificate of before stays in use", error)
            return False
        finally:
            self._looked_at = marks
        _log.info("%s was taken for new connections", self._files[0])
        return True

    @contextlib.contextmanager
    def renewed(self, every_seconds: float = LOOK_SECONDS) -> Iterator[None]:
        """Look from time to time, and on SIGHUP where this is the main thread."""
        awake, is_over = threading.Event(), False

        def look_on() -> None:
            while not is_over:
                awake.wait(every_seconds)
                awake.clear()
                self.look()

        looking = threading.Thread(target=look_on, name="certificates", daemon=True)
        is_main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGHUP, lambda *_: awake.set()) if is_main else None
        looking.start()
        try:
            yield
        finally:
            is_over = True
            awake.set()
            looking.join()
            if is_main:
                signal.signal(signal.SIGHUP, before)

    def _take_newest(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._newest

    def _made(self) -> ssl.SSLContext:
        certificate, key, *client_ca = self._files
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_ciphers(_CIPHERS)
        try:
            # Without a password it would ask for one at the terminal.
            context.load_cert_chain(certificate, key, password="")
            if client_ca:
                context.load_verify_locations(client_ca[0])
                context.verify_mode = ssl.CERT_REQUIRED
        except OSError as error:
            raise CertificateError(
                f"{' and '.join(map(str, self._files))} are no PEM certificate and its key: {error}"
            ) from None
        return context

    def _marks(self) -> tuple[object, ...]:
        """What changes when a file is replaced or written, or a link to it moved."""
        marks = []
        for file in self._files:
            with contextlib.suppress(OSError):
                found = file.stat()
                marks.append((file, found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size))
        return tuple(marks)
