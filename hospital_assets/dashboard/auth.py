"""Who is looking: accounts with scrypt passwords, sessions in memory, an HttpOnly cookie.

Accounts stand in `dashboard-accounts.json` of the data directory, readable by its owner only. Belongs
here: passwords, sessions, slowing down guesses. What a role may see is decided by its publication.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import os
import secrets
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

ACCOUNTS_FILE = "dashboard-accounts.json"
COOKIE = "hospital_session"
LEAST_PASSWORD = 12
#: A session ends so long after the last request.
SESSION_SECONDS = 8 * 3600
#: Wrong passwords in a row before an account has to wait.
_MOST_FAILURES = 5
_WAIT_SECONDS = 60
#: RFC 7914's parameters for interactive use: 32 MiB for a guess.
_SCRYPT = {"n": 2**15, "r": 8, "p": 1, "maxmem": 64 * 2**20}


@dataclass(frozen=True)
class Account:
    """Who may sign in, and as what.

    Attributes:
        name: of the account.
        role: decides pages and publication.
        audience: the publication, as `doctor-H1`.
        salt: hex.
        password_hash: scrypt, hex.
    """

    name: str
    role: str
    audience: str
    salt: str
    password_hash: str


@dataclass(frozen=True)
class Viewer:
    """Who asks.

    Attributes:
        name: of the account, `local` without sign-in.
        role: decides pages.
        audience: whose publication.
    """

    name: str
    role: str
    audience: str


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def add_account(data_dir: Path, name: str, role: str, audience: str, password: str) -> None:
    """Add an account, or give it another password.

    Raises:
        ValueError: the password is too short.
    """
    if len(password) < LEAST_PASSWORD:
        raise ValueError(f"a password has at least {LEAST_PASSWORD} characters")
    salt = secrets.token_bytes(16)
    accounts = read_accounts(data_dir)
    accounts[name] = Account(name, role, audience, salt.hex(), _hashed(password, salt).hex())
    path = data_dir / ACCOUNTS_FILE
    temporary = path.with_name(f"{path.name}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump([asdict(account) for account in accounts.values()], file, indent=1)
    temporary.replace(path)


def read_accounts(data_dir: Path) -> dict[str, Account]:
    """Accounts by name; none where the file is absent."""
    try:
        listed = json.loads((data_dir / ACCOUNTS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {row["name"]: Account(**row) for row in listed}


def _hashed(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, **_SCRYPT)


@dataclass
class Sessions:
    """Who is signed in. Sessions live in memory: a restart signs everybody out.

    Attributes:
        data_dir: where the accounts are.
    """

    data_dir: Path
    _sessions: dict[str, tuple[Viewer, float]] = field(default_factory=dict)
    _failures: dict[str, tuple[int, float]] = field(default_factory=dict)

    def sign_in(self, name: str, password: str, now: float | None = None) -> str | None:
        """A session's token, or None: wrong, unknown, or too many wrong passwords before."""
        now = time.monotonic() if now is None else now
        count, since = self._failures.get(name, (0, now))
        if count >= _MOST_FAILURES and now - since < _WAIT_SECONDS:
            return None
        account = read_accounts(self.data_dir).get(name)
        # An unknown name takes as long as a wrong password.
        salt = bytes.fromhex(account.salt) if account else b"\0" * 16
        guess = _hashed(password, salt)
        if account is None or not hmac.compare_digest(guess, bytes.fromhex(account.password_hash)):
            self._failures[name] = (count + 1, now)
            return None
        self._failures.pop(name, None)
        token = secrets.token_urlsafe(32)
        viewer = Viewer(account.name, account.role, account.audience)
        self._sessions[token] = (viewer, now + SESSION_SECONDS)
        return token

    def viewer(self, token: str | None, now: float | None = None) -> Viewer | None:
        """Who holds a token; each request prolongs it."""
        now = time.monotonic() if now is None else now
        viewer, until = self._sessions.get(token or "", (None, 0.0))
        if viewer is None or token is None:
            return None
        if now > until:
            del self._sessions[token]
            return None
        self._sessions[token] = (viewer, now + SESSION_SECONDS)
        return viewer

    def sign_out(self, token: str | None) -> None:
        """End a session."""
        self._sessions.pop(token or "", None)
