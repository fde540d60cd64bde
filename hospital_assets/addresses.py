"""Hosts and addresses: what stays on this machine, and what may cross a network.

Belongs here: the rules that settings, profiles, sign-in and listeners share. Does not: reaching anything.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host, as it stands in a URL or is listened at."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_protected(url: str) -> bool:
    """Whether what is sent to a URL is encrypted or does not leave this machine: https, or http at loopback."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:  # no URL
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)))
