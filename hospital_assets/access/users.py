"""Users: who may sign in to the dashboard and the gateway, in which role, and their sessions.

One SQLite file, `access/users.db`, for both web applications; logins of PostgreSQL are given to its users, too
(`access.logins`). Of passwords it holds scrypt hashes, of session tokens SHA-256 hashes: who reads the file
can be nobody. A user acts in one role of the policy, for doctors at one hospital. Every act is audited inside
the act: what cannot be audited does not happen, and what is refused is in the audit, too.

People of an identity provider are users, too, from their first sign-in on: they have no password here, their roles are
what the provider said at the last one, and their names (`oidc:ann`) are none that a local account can have. Of several
roles a session acts in one at a time: the first to begin with, another once it was chosen.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Literal

from starlette.authentication import BaseUser

from hospital_assets.access.audit import Audit, Event, record
from hospital_assets.files import in_transaction
from hospital_assets.publishing.audience import check_audience, has_audience
from hospital_assets.publishing.policy import CurrentPolicy, Policy, PolicyError
from hospital_assets.settings import Settings

#: What a session is for; a cookie of one application opens nothing in the other.
Kind = Literal["dashboard", "gateway"]
DASHBOARD: Kind = "dashboard"
GATEWAY: Kind = "gateway"
SHORTEST_PASSWORD = 12
#: A session ends so long after sign-in, whatever it is used for,
SESSION_LIFETIME = timedelta(hours=8)
#: and earlier when it was not used for so long. A live board that is shown uses it.
SESSION_IDLE = timedelta(hours=1)
#: Use is written down this often at most.
_USE_NOTED_EVERY = timedelta(minutes=1)
#: After this many wrong passwords in a row a user waits before the next try.
MOST_FAILURES = 5
LOCKED_FOR = timedelta(minutes=5)
#: The message for anyone who is not let in, whatever the reason.
NOT_LET_IN = (
    f"wrong name or password, or too many tries: after {MOST_FAILURES} wrong passwords "
    f"a user waits {LOCKED_FOR.seconds // 60} minutes"
)
#: scrypt: 32 MB and some 60 ms a try (OWASP: N=2^15, r=8, p=3 or more costly).
_COST, _BLOCK, _PARALLEL = 2**15, 8, 3
_MEMORY = 128 * _COST * _BLOCK * 2

_SCHEMA = """
create table if not exists users (
    name text primary key, role text not null, hospital_id text, salt blob not null,
    password blob not null, created_at text not null, is_disabled integer not null default 0,
    failure_count integer not null default 0, failed_at text, issuer text not null default '', subject text not null
    default '', audiences text not null default '');
create table if not exists sessions (
    token_sha256 text primary key, kind text not null, name text not null references users,
    created_at text not null, expires_at text not null, used_at text not null default '', client text not null
    default '', provider_session text not null default '', id_token text not null default '', audience text not null
    default '');
"""
#: Columns that files of before do not have.
_ADDED = {
    "users": ("issuer", "subject", "audiences"),
    "sessions": ("used_at", "client", "provider_session", "id_token", "audience"),
}
_ONE_EACH = "create unique index if not exists one_each on users (issuer, subject) where issuer != ''"
#: What names of people of an identity provider begin with, and who makes and changes them in the audit.
PROVIDER = "oidc"


class UserError(ValueError):
    """A user cannot be made or changed as asked."""


@dataclass(frozen=True)
class User(BaseUser):
    """Somebody who may ask.

    Attributes:
        role: the one they act in.
        hospital_id: the hospital of a role that has one.
        audiences: those they may act as, the first to begin with; empty for a local account, which has one role.
    """

    name: str
    role: str
    hospital_id: str | None = None
    audiences: tuple[str, ...] = field(default=(), compare=False)

    @property
    def audience(self) -> str:
        """The audience whose publication the user reads, as in `analyst` or `doctor-H1`."""
        return self.role if self.hospital_id is None else f"{self.role}-{self.hospital_id}"

    @property
    def is_authenticated(self) -> bool:
        """For Starlette: somebody known."""
        return True

    @property
    def display_name(self) -> str:
        """For Starlette: the name."""
        return self.name

    @property
    def identity(self) -> str:
        """For Starlette: the name, of which there is one."""
        return self.name


@dataclass(frozen=True)
class Person:
    """Somebody as an identity provider names them; its tokens were verified.

    Attributes:
        subject: who, for ever; given to nobody else there.
        name: what they are called there; may change, and may be somebody else's tomorrow.
        hospital_id: the hospital of a role that has one.
        session_id: the provider's session; empty where it names none.
        id_token: what shows the provider who signs out; empty for programs.
        audiences: all that their groups give them, that of the role first.
    """

    issuer: str
    subject: str
    name: str
    role: str
    hospital_id: str | None = None
    session_id: str = ""
    id_token: str = field(default="", repr=False)
    audiences: tuple[str, ...] = ()

    @property
    def called(self) -> str:
        """The name here: short, of plain characters, and none that a local account can have."""
        return f"{PROVIDER}:{re.sub(r'[^a-zA-Z0-9@._-]', '_', self.name)[:64]}"


@dataclass(frozen=True)
class Account:
    """A user as the administrator sees them.

    Attributes:
        is_disabled: whether they are let in no more.
        locked_until: when wrong passwords are forgiven; None when nobody has to wait.
        sessions: how many of theirs go on.
        issuer: the identity provider they sign in at; empty for a local account.
    """

    user: User
    is_disabled: bool
    locked_until: datetime | None
    sessions: int
    issuer: str = ""


@dataclass(frozen=True)
class Session:
    """Somebody has signed in; the token proves it, and is held nowhere else."""

    user: User
    token: str
    expires_at: datetime


@dataclass(frozen=True)
class OpenSession:
    """A session as the administrator sees it.

    Attributes:
        session_id: the beginning of its token's hash; opens nothing.
        client: where it was signed in from.
        used_at: when it was last used, to the minute, UTC.
        expires_at: when it ends at the latest, UTC.
    """

    session_id: str
    name: str
    kind: str
    client: str
    created_at: datetime
    used_at: datetime
    expires_at: datetime


class Users:
    """The users of a data directory. Safe to use from several processes and threads at once.

    Administrative acts name who does them (`by`). `kind` is the application that a session is of, `client` where from,
    for the audit; `now` is an instant, None the wall clock's. What cannot be audited raises AuditError and does not
    happen; what is to be done to somebody who is not there, UserError.
    """

    def __init__(self, file: Path, policy: Callable[[], Policy], audit: Audit) -> None:
        """Open the file; made when absent, readable by its owner only.

        Args:
            policy: returns the policy, which makes the audiences; a user of another one is not let in.
            audit: writes an entry, or raises.
        """
        self._policy, self._audit = policy, audit
        self._lock = threading.RLock()
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._connection = sqlite3.connect(file, timeout=30, isolation_level=None, check_same_thread=False)
        file.chmod(0o600)
        self._connection.executescript(_SCHEMA)
        for table, columns in _ADDED.items():
            known = {row[1] for row in self._connection.execute(f"pragma table_info({table})")}
            for column in columns:
                if column not in known:
                    self._connection.execute(f"alter table {table} add column {column} text not null default ''")
        self._connection.execute(_ONE_EACH)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def add(self, user: User, password: str, *, by: str) -> None:
        """Add a user; an existing user is never replaced.

        Raises:
            UserError: the name is taken or odd, the password short, the policy has no such role, or the
                hospital is missing.
        """
        with self._act(f"add {user.name[:64]} as {user.audience[:64]}", by, user.audience):
            if not re.fullmatch(r"[a-z][a-z0-9._-]{0,62}", user.name):
                raise UserError("a name is lower-case letters, digits, and . _ -, as in ann.smith")
            try:
                check_audience(self._policy(), user.role, user.hospital_id)
            except PolicyError as error:
                raise UserError(str(error)) from None
            try:
                self._connection.execute(
                    "insert into users (name, role, hospital_id, salt, password, created_at) values (?, ?, ?, ?, ?, ?)",
                    [user.name, user.role, user.hospital_id, *_protected(password), _text(None)],
                )
            except sqlite3.IntegrityError:
                raise UserError(f"there is a user '{user.name}' already; nothing was changed") from None

    def set_password(self, name: str, password: str, *, by: str) -> None:
        """Change a password; all sessions of the user end.

        Raises:
            UserError: nobody is called so, they sign in elsewhere, or the password is short.
        """
        with self._act(f"password {name[:64]}", by):
            if self._known(name):
                raise UserError(f"'{name[:64]}' signs in at the identity provider, which has their password")
            self._change(name, "salt = ?, password = ?, failure_count = 0", *_protected(password))
            self._end_sessions(name)

    def disable(self, name: str, *, by: str) -> None:
        """Let a user in no more; all their sessions end at once."""
        with self._act(f"disable {name[:64]}", by):
            self._change(name, "is_disabled = 1")
            self._end_sessions(name)

    def enable(self, name: str, *, by: str) -> None:
        """Let a user in again who was disabled or is locked out."""
        with self._act(f"enable {name[:64]}", by):
            self._change(name, "is_disabled = 0, failure_count = 0")

    def remove(self, name: str, *, by: str) -> None:
        """Forget a user; all their sessions end at once."""
        with self._act(f"remove {name[:64]}", by):
            self._known(name)
            self._end_sessions(name)
            self._connection.execute("delete from users where name = ?", [name])

    def revoke(self, name: str, *, by: str) -> int:
        """End all sessions of a user; returns how many."""
        with self._act(f"revoke {name[:64]}", by):
            self._known(name)
            return self._end_sessions(name)

    def sessions(self, now: datetime | None = None) -> list[OpenSession]:
        """The sessions that go on, by name and time of sign-in."""
        with self._lock:
            rows = self._connection.execute(
                "select substr(token_sha256, 1, 12), name, kind, client, created_at, used_at, expires_at from sessions "
                "where expires_at > ? and used_at > ? order by name, created_at",
                self._still_open(now),
            ).fetchall()
        return [OpenSession(*row[:4], *map(datetime.fromisoformat, row[4:])) for row in rows]

    def end(self, session_id: str, *, by: str) -> None:
        """End one session.

        Raises:
            UserError: there is no such session.
        """
        with self._act(f"end session {session_id[:12]}", by):
            ended = self._connection.execute(
                "delete from sessions where substr(token_sha256, 1, 12) = ?", [session_id]
            ).rowcount
            if not ended:
                raise UserError(f"there is no session '{session_id[:12]}': see `hospital users sessions`")

    def sign_in(
        self, name: str, password: str, kind: Kind, *, client: str, now: datetime | None = None
    ) -> Session | None:
        """Begin a session; None when the name or password is wrong, or the user disabled or locked out."""
        now = now or datetime.now(UTC)
        found = self._try(name, now)
        # Somebody who does not exist or is locked out takes as long as a wrong password.
        user, salt, stored, is_disabled = found or (User(name, ""), b"\0" * 16, b"", True)
        is_right = hmac.compare_digest(_hash(password, salt), stored)
        event = Event(name[:64], "login", client=client)
        session = None
        if is_right and not is_disabled and self._has_audience(user):
            allowed = replace(event, role=user.role, audience=user.audience)
            session = self._open_session(user, stored, kind, now, allowed)
        if session is None:
            self._audit(replace(event, outcome="refused", reason=NOT_LET_IN))
        return session

    def _try(self, name: str, now: datetime) -> tuple[User, bytes, bytes, bool] | None:
        """Count a try as a failure before it is looked at, so that many at once are all counted.

        Returns:
            the user, salt and hash of the password, whether disabled; None: unknown or locked out.
        """
        with self._lock:
            found = self._connection.execute(
                "update users set failure_count = failure_count + 1, failed_at = ? "
                "where name = ? and issuer = '' and not (failure_count >= ? and failed_at > ?) "
                "returning role, hospital_id, salt, password, is_disabled",
                [_text(now), name, MOST_FAILURES, _text(now - LOCKED_FOR)],
            ).fetchall()
        if not found:
            return None
        ((role, hospital, salt, stored, is_disabled),) = found
        return User(name, role, hospital), salt, stored, bool(is_disabled)

    def _open_session(self, user: User, stored: bytes, kind: Kind, now: datetime, event: Event) -> Session | None:
        """A session, audited, unless the user was disabled, removed or given another password during the check."""
        with self._transaction():
            unchanged = self._connection.execute(
                "update users set failure_count = 0 where name = ? and password = ? and not is_disabled",
                [user.name, stored],
            )
            if not unchanged.rowcount:
                return None
            return self._new_session(user, kind, now, event)

    def _new_session(
        self, user: User, kind: Kind, now: datetime, event: Event, provider_session: str = "", id_token: str = ""
    ) -> Session:
        """A session under a new token, whatever the browser had before; audited. Within a transaction."""
        token, expires_at = secrets.token_urlsafe(32), now + SESSION_LIFETIME
        self._connection.execute(
            "delete from sessions where not (expires_at > ? and used_at > ?)", self._still_open(now)
        )
        moments = [_text(now), _text(expires_at), _text(now)]
        self._connection.execute(
            "insert into sessions (token_sha256, kind, name, created_at, expires_at, used_at, client, "
            "provider_session, id_token) values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [_digest(token), kind, user.name, *moments, event.client, provider_session, id_token],
        )
        self._audit(event)
        return Session(user, token, expires_at)

    # --- people of an identity provider

    def sign_in_person(self, person: Person, kind: Kind, *, client: str, now: datetime | None = None) -> Session | None:
        """Begin a session for somebody whom the provider has vouched for; None when they are disabled here."""
        now = now or datetime.now(UTC)
        with self._transaction():
            user, is_disabled = self._known_person(person, signs_in=True)
            event = Event(user.name, "login", user.role, audience=user.audience, client=client)
            if is_disabled or not self._has_audience(user):
                reason = "disabled here" if is_disabled else "the policy has no such audience"
                self._audit(replace(event, outcome="refused", reason=reason))
                return None
            return self._new_session(user, kind, now, event, person.session_id, person.id_token)

    def person(self, person: Person) -> User | None:
        """The user of somebody whose token a program has shown, in its roles; None when they are disabled here.

        Sessions of theirs go on as they are: a token may state fewer groups than they signed in with.
        """
        with self._transaction():
            user, is_disabled = self._known_person(person, signs_in=False)
        return None if is_disabled or not self._has_audience(user) else user

    def _known_person(self, person: Person, *, signs_in: bool) -> tuple[User, bool]:
        """The user of a person as the provider says, and whether they are disabled here; changed by a sign-in alone."""
        is_theirs, audiences = "issuer = ? and subject = ?", json.dumps(person.audiences)
        found = self._connection.execute(
            f"select name, role, hospital_id, is_disabled, audiences from users where {is_theirs}",
            [person.issuer, person.subject],
        ).fetchall()
        stated = User(found[0][0] if found else self._free_name(person), person.role, person.hospital_id)
        roles = " or ".join([stated.audience, *person.audiences[1:]])
        if not found:
            self._connection.execute(
                "insert into users (name, role, hospital_id, salt, password, created_at, issuer, subject, audiences) "
                "values (?, ?, ?, x'', x'', ?, ?, ?, ?)",
                [stated.name, stated.role, stated.hospital_id, _text(None), person.issuer, person.subject, audiences],
            )
            self._audit(_of_provider(stated, f"add {stated.name} as {roles}, subject {person.subject[:255]}"))
        elif signs_in and (User(*found[0][:3]) != stated or found[0][4] != audiences):
            self._connection.execute(
                f"update users set role = ?, hospital_id = ?, audiences = ? where {is_theirs}",
                [stated.role, stated.hospital_id, audiences, person.issuer, person.subject],
            )
            self._audit(_of_provider(stated, f"change {stated.name} to {roles}"))
        return stated, bool(found and found[0][3])

    def _free_name(self, person: Person) -> str:
        """The name of somebody new: a name that another subject had first gets a hash of the subject."""
        is_taken = self._connection.execute("select 1 from users where name = ?", [person.called]).fetchall()
        return f"{person.called}~{_digest(f'{person.issuer} {person.subject}')[:12]}" if is_taken else person.called

    def refuse_person(self, issuer: str, subject: str, called: str, reason: str, *, client: str) -> None:
        """Somebody has signed in at the provider and has no role here, any more: their sessions end, too; audited."""
        with self._transaction():
            found = self._connection.execute(
                "select name from users where issuer = ? and subject = ?", [issuer, subject]
            ).fetchall()
            for (name,) in found:
                self._end_sessions(name)
            actor = found[0][0] if found else called
            self._audit(Event(actor, "login", outcome="refused", reason=reason, client=client))

    def end_at_provider(self, issuer: str, subject: str, session_id: str, *, client: str) -> int:
        """The provider has ended a session, or all of a subject where it names none; ours that began with it end, too.

        Returns:
            how many ended.
        """
        with self._transaction():
            ended = self._connection.execute(
                "delete from sessions where name in (select name from users where issuer = ? and (? = '' or "
                "subject = ?)) and (? = '' or provider_session = ?) returning name",
                [issuer, subject, subject, session_id, session_id],
            ).fetchall()
            for (name,) in ended:
                self._audit(Event(name, "logout", statement="ended at the identity provider", client=client))
        return len(ended)

    def sign_out(self, token: str, *, client: str) -> str | None:
        """End one session; a token that opens none ends nothing.

        Returns:
            the provider's ID token, empty for a local account's session; None where nothing ended.
        """
        with self._transaction():
            ended = self._connection.execute(
                "delete from sessions where token_sha256 = ? returning name, id_token", [_digest(token)]
            ).fetchall()
            for name, _ in ended:
                self._audit(Event(name, "logout", client=client))
        return str(ended[0][1]) if ended else None

    def user_of(self, token: str, kind: Kind, now: datetime | None = None) -> User | None:
        """The user of a session token, which this uses; None if it is unknown, over, or of the other application."""
        now = now or datetime.now(UTC)
        with self._lock:
            found = self._connection.execute(
                "select u.name, u.role, u.hospital_id, u.audiences, s.audience, s.used_at "
                "from sessions s join users u using (name) "
                "where token_sha256 = ? and kind = ? and expires_at > ? and used_at > ? and not is_disabled",
                [_digest(token), kind, *self._still_open(now)],
            ).fetchall()
            if found and found[0][5] <= _text(now - _USE_NOTED_EVERY):
                self._connection.execute(
                    "update sessions set used_at = ? where token_sha256 = ?", [_text(now), _digest(token)]
                )
        user = self._acting(*found[0][:5]) if found else None
        return user if user is not None and self._has_audience(user) else None

    def _acting(self, name: str, role: str, hospital_id: str | None, audiences: str, chosen: str = "") -> User:
        """A user in the role that a session has chosen, as long as it is theirs; else in the first."""
        policy = self._policy()
        theirs = tuple(one for one in json.loads(audiences or "[]") if has_audience(policy, one))
        if chosen in theirs:
            role, _, hospital = chosen.partition("-")
            hospital_id = hospital or None
        return User(name, role, hospital_id, theirs)

    def act_as(
        self, token: str, kind: Kind, audience: str, *, client: str, now: datetime | None = None
    ) -> Session | None:
        """Have a session act in another role of its user from now on, under a new token; audited.

        Returns:
            the session; None where there is none under the old token, which opens nothing afterwards, or that is none
            of their roles: then nothing changes.
        """
        with self._transaction():
            user = self.user_of(token, kind, now)
            if user is None:
                return None
            event = Event(user.name, "login", user.role, audience=user.audience, client=client)
            if audience not in user.audiences:
                self._audit(replace(event, outcome="refused", reason=f"'{audience[:64]}' is none of their roles"))
                return None
            fresh, (role, _, hospital) = secrets.token_urlsafe(32), audience.partition("-")
            ((expires_at,),) = self._connection.execute(
                "update sessions set token_sha256 = ?, audience = ? where token_sha256 = ? returning expires_at",
                [_digest(fresh), audience, _digest(token)],
            ).fetchall()
            acting = User(user.name, role, hospital or None, user.audiences)
            said = f"act as {acting.audience} instead of {user.audience}"
            self._audit(replace(event, role=acting.role, audience=acting.audience, statement=said))
        return Session(acting, fresh, datetime.fromisoformat(expires_at))

    def everybody(self, now: datetime | None = None) -> list[Account]:
        """All users, by name."""
        now = now or datetime.now(UTC)
        with self._lock:
            rows = self._connection.execute(
                "select name, role, hospital_id, audiences, is_disabled, failure_count, failed_at, "
                "(select count(*) from sessions s where s.name = u.name and expires_at > ? and used_at > ?), issuer "
                "from users u order by name",
                self._still_open(now),
            ).fetchall()
        return [
            Account(self._acting(*who), bool(is_disabled), _locked_until(failures, failed_at, now), sessions, issuer)
            for *who, is_disabled, failures, failed_at, sessions, issuer in rows
        ]

    def has_any(self) -> bool:
        """Whether there is any user at all, disabled ones too."""
        with self._lock:
            return bool(self._connection.execute("select 1 from users limit 1").fetchall())

    def has_active(self) -> bool:
        """Whether there is anybody who could sign in."""
        return any(not account.is_disabled and self._has_audience(account.user) for account in self.everybody())

    def has_local(self) -> bool:
        """Whether there is anybody with a password here."""
        return any(not account.issuer for account in self.everybody())

    def active(self, name: str) -> User | None:
        """The user of a name, when they may sign in; nobody of a provider, who may have lost the role there since."""
        found = {account.user.name: account for account in self.everybody() if not account.issuer}.get(name)
        return None if found is None or found.is_disabled or not self._has_audience(found.user) else found.user

    def _has_audience(self, user: User) -> bool:
        """Whether today's policy publishes to what the user acts as: a role it names, at a hospital or at none."""
        return has_audience(self._policy(), user.audience)

    @contextmanager
    def _act(self, what: str, by: str, audience: str = "") -> Iterator[None]:
        """An act of administration: it and its entry in the audit happen both or not at all."""
        event = Event(by, "user", audience=audience, statement=what)
        try:
            with self._transaction():
                yield
                self._audit(event)
        except UserError as error:
            self._audit(replace(event, outcome="refused", reason=str(error)))
            raise

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, in_transaction(self._connection):
            yield

    def _change(self, name: str, what: str, *values: object) -> None:
        self._known(name)
        self._connection.execute(f"update users set {what} where name = ?", [*values, name])

    def _known(self, name: str) -> str:
        """The provider of a user, empty for a local account; raises where nobody is called so."""
        found = self._connection.execute("select issuer from users where name = ?", [name]).fetchall()
        if not found:
            raise UserError(f"there is no user '{name}'")
        return str(found[0][0])

    @staticmethod
    def _still_open(now: datetime | None) -> list[str]:
        """What `expires_at` and `used_at` of a session that goes on are greater than."""
        now = now or datetime.now(UTC)
        return [_text(now), _text(now - SESSION_IDLE)]

    def _end_sessions(self, name: str) -> int:
        return self._connection.execute("delete from sessions where name = ?", [name]).rowcount


def open_users(settings: Settings, audit: Audit | None = None) -> Users:
    """The users of a data directory, which need not exist yet, under its policy.

    Args:
        audit: writes an entry; None for the audit of the data directory.

    Raises:
        PolicyError: the policy cannot be used.
    """
    return Users(users_file(settings), CurrentPolicy(settings), audit or partial(record, settings))


def users_file(settings: Settings) -> Path:
    """Where the users are."""
    return settings.data_dir / "access" / "users.db"


def _of_provider(user: User, what: str) -> Event:
    return Event(PROVIDER, "user", audience=user.audience, statement=what)


def _locked_until(failures: int, failed_at: str | None, now: datetime) -> datetime | None:
    until = datetime.fromisoformat(failed_at) + LOCKED_FOR if failed_at and failures >= MOST_FAILURES else now
    return until if until > now else None


def _protected(password: str) -> tuple[bytes, bytes]:
    """A new salt and the password's hash with it."""
    if len(password) < SHORTEST_PASSWORD:
        raise UserError(f"a password has at least {SHORTEST_PASSWORD} characters")
    salt = secrets.token_bytes(16)
    return salt, _hash(password, salt)


def _hash(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=_COST, r=_BLOCK, p=_PARALLEL, maxmem=_MEMORY)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _text(moment: datetime | None) -> str:
    return (moment or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="microseconds")
