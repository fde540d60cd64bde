"""Options of the commands that serve: addresses and host names."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hospital_assets.access.monitoring import Metrics
    from hospital_assets.access.serving import Address
    from hospital_assets.settings import Settings


def port_number(text: str) -> int:
    """A port as an option gives it.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not (text.isascii() and text.isdecimal() and int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"a port is a number up to 65535, not {text}")
    return int(text)


def add_address(parser: argparse.ArgumentParser, port: int) -> None:
    """Add the options to a command."""
    parser.add_argument(
        "--host", default="127.0.0.1", help="any address other than loopback needs users and a certificate"
    )
    parser.add_argument("--port", type=port_number, default=port, help=f"default {port}")
    parser.add_argument("--certificate", type=Path, help="PEM file, for addresses that others can reach")
    parser.add_argument("--certificate-key", type=Path, help="its key")
    parser.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another host name it is reached by, for instance through a reverse proxy",
    )
    parser.add_argument(
        "--proxy",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="address or network of a reverse proxy, as in 127.0.0.1: only its X-Forwarded-For and -Proto are believed",
    )


def address_of(options: argparse.Namespace) -> Address:
    """The address, host names and certificate that the options name."""
    from hospital_assets.access.serving import Address

    return Address(
        options.host,
        options.port,
        options.certificate,
        options.certificate_key,
        tuple(options.allowed_host),
        tuple(options.proxy),
    )


def metrics_of(settings: Settings, address: Address) -> Metrics | None:
    """What an application shows at `/metrics`; None where the extra `metrics` is not installed."""
    from hospital_assets.access.monitoring import metrics_at
    from hospital_assets.operations.metrics import Exposition, is_installed

    if not is_installed():
        return None
    certificates = (address.certificate,) if address.certificate else ()
    return metrics_at(address, Exposition(settings, certificates))
