"""Where our web applications listen and who can reach them: one rule for the dashboard and the gateway.

At loopback nothing is needed. Names that a reverse proxy answers to make it reachable by others: that needs
users (the certificate is the proxy's). Any other address needs users and a certificate. Requests for a host
name that was not stated are refused, so that a page of elsewhere cannot reach the application through a name
of its own (DNS rebinding).
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from hospital_assets.addresses import is_loopback
from hospital_assets.certificates import CertificateError, ServerTls
from hospital_assets.logs import is_json
from hospital_assets.settings import SettingsError

#: How requests are read: by a parser that limits the size of headers and takes one Host; nothing is said of it.
PARSING: Mapping[str, Any] = {"http": "h11", "access_log": False, "server_header": False}
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


class ServingError(SettingsError):
    """An application must not be started like this; the message says what to do."""


@dataclass(frozen=True)
class Address:
    """Where an application listens.

    Attributes:
        names: host names it is reached by through a reverse proxy or a name server, without port.
        proxies: addresses or networks of reverse proxies: whom they say they ask for, and by which scheme, is believed.
    """

    host: str = "127.0.0.1"
    port: int = 0
    certificate: Path | None = None
    certificate_key: Path | None = None
    names: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it, a proxy on this machine included."""
        return is_loopback(self.host)

    @property
    def is_reachable(self) -> bool:
        """Whether others can reach it, directly or through a proxy."""
        return not self.is_loopback or bool(self.names)

    @property
    def url(self) -> str:
        """For people."""
        return f"{'https' if self.certificate else 'http'}://{_bracketed(self.host)}:{self.port}"

    def __str__(self) -> str:
        return self.url + (f", under the host names {', '.join(self.hosts())}" if self.is_reachable else "")

    def hosts(self) -> tuple[str, ...]:
        """Host names it answers to, stated one by one: loopback, what it is bound to, the names given."""
        bound = socket.gethostname() if _is_every_address(self.host) else _bracketed(self.host)
        return tuple(dict.fromkeys(name.lower() for name in (*LOOPBACK_NAMES, bound, *self.names)))


def check(address: Address, *, has_users: bool) -> None:
    """Refuse an address that others can reach, unless somebody can sign in and the line is encrypted.

    Raises:
        ServingError: what is missing.
    """
    for name in address.names:
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\]", name):
            raise ServingError(f"'{name}' is no host name: say it as in ed.example.org, without https://, port or *")
    for proxy in address.proxies:
        try:
            ipaddress.ip_network(proxy)
        except ValueError:
            raise ServingError(
                f"'{proxy}' is no address of a proxy: say --proxy as in 127.0.0.1 or 10.1.2.0/28; a name or * would "
                "let others say that they are somebody else"
            ) from None
    if (address.certificate is None) != (address.certificate_key is None):
        raise ServingError("a certificate and its key belong together: give --certificate and --certificate-key")
    if address.certificate and address.certificate_key:
        try:
            ServerTls(address.certificate, address.certificate_key)
        except CertificateError as error:
            raise ServingError(str(error)) from None
    reached = ", ".join(address.names) if address.is_loopback else address.host
    if address.is_reachable and not has_users:
        raise ServingError(
            f"{reached} can be reached by others, and there is nobody who could sign in: "
            "`hospital users add NAME ROLE` first, or keep to 127.0.0.1"
        )
    if not address.is_loopback and not address.certificate:
        raise ServingError(
            f"{reached} can be reached by others: passwords and answers must be encrypted; give --certificate and "
            "--certificate-key, or keep to 127.0.0.1 behind a proxy that has them, with --allowed-host its name"
        )


def trusted_hosts(hosts: tuple[str, ...]) -> Middleware:
    """Refuses requests for any host name but these."""
    if "*" in hosts:
        raise ServingError("host names are stated one by one")
    return Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)


def run(app: Starlette, address: Address, *, graceful_seconds: int) -> None:
    """Answer until ended; a certificate that is renewed meanwhile is taken for new connections.

    Args:
        address: where; checked before.
        graceful_seconds: how long running requests are waited for at the end.
    """
    import uvicorn

    with contextlib.ExitStack() as stack:
        tls: dict[str, Any] = {}
        if address.certificate and address.certificate_key:
            pair = ServerTls(address.certificate, address.certificate_key)
            stack.enter_context(pair.renewed())
            tls["ssl_context_factory"] = lambda *_: pair.context
        uvicorn.run(app, **options_of(address), **tls, timeout_graceful_shutdown=graceful_seconds)


def options_of(address: Address) -> dict[str, Any]:
    """What uvicorn has to know about an address, its certificate aside."""
    # Without a configuration of its own, its loggers are those of the process.
    as_it_has_it: dict[str, Any] = {"log_config": None} if is_json() else {}
    return {
        "host": address.host,
        "port": address.port,
        # Who asks and by which scheme is taken from headers of these only; never from the environment's list.
        "proxy_headers": bool(address.proxies),
        "forwarded_allow_ips": list(address.proxies),
        "log_level": "warning",
        **PARSING,
        **as_it_has_it,
    }


def _is_every_address(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return not host


def _bracketed(host: str) -> str:
    """An address as it stands in a URL and a Host header."""
    return f"[{host}]" if ":" in host else host
