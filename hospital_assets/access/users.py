"""Users of the query gateway: passwords, roles, tokens.

One SQLite file, `access/users.db`. Of passwords it keeps scrypt hashes, of tokens SHA-256 hashes: who reads
the file can be nobody. A user has one role, for doctors at one hospital.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from hospital_assets.publishing.policy import Policy, RoleName
from hospital_assets.settings import Settings

SHORTEST_PASSWORD = 12
TOKEN_LIFETIME = timedelta(hours=8)
#: After this many wrong passwords in a row a user waits before the next try.
MOST_FAILURES = 5
LOCKED_FOR = timedelta(minutes=5)
#: scrypt: 32 MB and some 60 ms a try (OWASP: N=2^15, r=8, p=3 or more costly).
_COST, _BLOCK, _PARALLEL = 2**15, 8, 3
_MEMORY = 128 * _COST * _BLOCK * 2

_SCHEMA = """
create table if not exists users (
    name text primary key, role text not null, hospital_id text, salt blob not null,
    password blob not null, created_at text not null, is_disabled integer not null default 0,
    failure_count integer not null default 0, failed_at text);
create table if not exists tokens (
    token_sha256 text primary key, name text not null references users, created_at text not null,
    expires_at text not null, revoked_at text);
"""


class UserError(ValueError):
    """A user cannot be made or changed as asked."""


@dataclass(frozen=True)
class User:
    """Somebody who may ask.

    Attributes:
        name: who.
        role: the one role.
        hospital_id: the hospital of a role that has one.
    """

    name: str
    role: RoleName
    hospital_id: str | None = None

    @property
    def audience(self) -> str:
        """Whose publication they read."""
        return self.role if self.hospital_id is None else f"{self.role}-{self.hospital_id}"


class Users:
    """The users of a data directory. Safe to use from several processes at once."""

    def __init__(self, file: Path) -> None:
        """Open the file; made when absent, readable by its owner only."""
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._connection = sqlite3.connect(file, timeout=30, isolation_level=None, check_same_thread=False)
        file.chmod(0o600)
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def add(self, user: User, password: str, policy: Policy, now: datetime | None = None) -> None:
        """Add a user.

        Raises:
            UserError: the name is taken or odd, the password short, or the hospital missing.
        """
        if not re.fullmatch(r"[a-z][a-z0-9._-]{0,62}", user.name):
            raise UserError("a name is lower-case letters, digits, and . _ -, as in ann.smith")
        if len(password) < SHORTEST_PASSWORD:
            raise UserError(f"a password has at least {SHORTEST_PASSWORD} characters")
        needs_hospital = policy.roles[user.role].rows == "own_hospital"
        if needs_hospital != (user.hospital_id is not None):
            raise UserError(
                f"role '{user.role}' " + ("is at one hospital: say which" if needs_hospital else "is not at a hospital")
            )
        salt = secrets.token_bytes(16)
        try:
            self._connection.execute(
                "insert into users (name, role, hospital_id, salt, password, created_at) values (?, ?, ?, ?, ?, ?)",
                [user.name, user.role, user.hospital_id, salt, _hash(password, salt), _text(now)],
            )
        except sqlite3.IntegrityError:
            raise UserError(f"there is a user '{user.name}' already") from None

    def set_password(self, name: str, password: str) -> None:
        """Change a password; all tokens of the user end.

        Raises:
            UserError: nobody is called so, or the password is short.
        """
        if len(password) < SHORTEST_PASSWORD:
            raise UserError(f"a password has at least {SHORTEST_PASSWORD} characters")
        salt = secrets.token_bytes(16)
        self._change(name, "salt = ?, password = ?, failure_count = 0", salt, _hash(password, salt))
        self.revoke(name)

    def disable(self, name: str) -> None:
        """Let a user in no more; all tokens of the user end.

        Raises:
            UserError: nobody is called so.
        """
        self._change(name, "is_disabled = 1")
        self.revoke(name)

    def revoke(self, name: str, now: datetime | None = None) -> int:
        """End all tokens of a user; returns how many."""
        return self._connection.execute(
            "update tokens set revoked_at = ? where name = ? and revoked_at is null", [_text(now), name]
        ).rowcount

    def revoke_token(self, token: str, now: datetime | None = None) -> None:
        """End one token."""
        self._connection.execute(
            "update tokens set revoked_at = ? where token_sha256 = ? and revoked_at is null",
            [_text(now), _digest(token)],
        )

    def log_in(self, name: str, password: str, now: datetime | None = None) -> tuple[User, str, datetime] | None:
        """A new token and when it expires, or None: wrong, disabled or locked, all the same to them."""
        now = now or datetime.now(UTC)
        found = self._connection.execute(
            "select role, hospital_id, salt, password, is_disabled, failure_count, failed_at from users where name = ?",
            [name],
        ).fetchall()
        # Somebody who does not exist takes as long as a wrong password.
        role, hospital, salt, stored, is_disabled, failures, failed_at = (
            found[0] if found else ("", None, b"\0" * 16, b"", 1, 0, None)
        )
        is_right = hmac.compare_digest(_hash(password, salt), stored)
        is_locked = failures >= MOST_FAILURES and now < datetime.fromisoformat(str(failed_at)) + LOCKED_FOR
        if not is_right or is_disabled or is_locked:
            if found and not is_locked:
                self._connection.execute(
                    "update users set failure_count = failure_count + 1, failed_at = ? where name = ?",
                    [_text(now), name],
                )
            return None
        token, expires_at = secrets.token_urlsafe(32), now + TOKEN_LIFETIME
        self._connection.execute("update users set failure_count = 0 where name = ?", [name])
        self._connection.execute(
            "insert into tokens (token_sha256, name, created_at, expires_at) values (?, ?, ?, ?)",
            [_digest(token), name, _text(now), _text(expires_at)],
        )
        return User(name, cast(RoleName, role), hospital), token, expires_at

    def of_token(self, token: str, now: datetime | None = None) -> User | None:
        """Whose token it is; None when it is nobody's, expired or revoked."""
        found = self._connection.execute(
            "select u.name, u.role, u.hospital_id from tokens t join users u using (name) "
            "where token_sha256 = ? and revoked_at is null and expires_at > ? and not is_disabled",
            [_digest(token), _text(now)],
        ).fetchall()
        return User(*found[0]) if found else None

    def everybody(self) -> list[tuple[User, bool, int]]:
        """Users, whether they are disabled, and how many tokens of theirs are good."""
        rows = self._connection.execute(
            "select name, role, hospital_id, is_disabled, (select count(*) from tokens t "
            "where t.name = u.name and revoked_at is null and expires_at > ?) "
            "from users u order by name",
            [_text(None)],
        ).fetchall()
        return [(User(*row[:3]), bool(row[3]), row[4]) for row in rows]

    def _change(self, name: str, what: str, *values: object) -> None:
        changed = self._connection.execute(f"update users set {what} where name = ?", [*values, name]).rowcount
        if not changed:
            raise UserError(f"there is no user '{name}'")


def users_file(settings: Settings) -> Path:
    """Where the users are."""
    return settings.data_dir / "access" / "users.db"


def _hash(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=_COST, r=_BLOCK, p=_PARALLEL, maxmem=_MEMORY)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _text(moment: datetime | None) -> str:
    return (moment or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="microseconds")
