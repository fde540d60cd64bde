"""Who a request comes from: Starlette's authentication, one backend for each kind of application.

`SessionBackend` reads the dashboard's cookie, `TokenBackend` the gateway's `Authorization: Bearer` header. Both
ask `Users`, at every request: a user who was disabled or removed is nobody at the next one. Handlers say what
they need with `starlette.authentication.requires`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from hospital_assets.access.users import DASHBOARD, GATEWAY, User, Users

COOKIE = "hospital_session"
#: Scope of everybody who is known.
SIGNED_IN = "signed_in"


@dataclass(frozen=True)
class SessionBackend(AuthenticationBackend):
    """By the session cookie of a browser.

    Attributes:
        users: who there is.
        scopes: what a user may open, as scopes for `requires`.
        local: who looks as long as there are no users; None where others can reach the application.
    """

    users: Users
    scopes: Callable[[User], Sequence[str]]
    local: User | None = None

    def user_of(self, connection: HTTPConnection) -> User | None:
        """The user of a request; None if nobody is signed in."""
        found = self.users.user_of(connection.cookies.get(COOKIE, ""), DASHBOARD)
        if found is None and self.local is not None and not self.users.has_any():
            return self.local
        return found

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        """For Starlette's AuthenticationMiddleware."""
        user = await run_in_threadpool(self.user_of, conn)
        return None if user is None else (AuthCredentials([SIGNED_IN, *self.scopes(user)]), user)


@dataclass(frozen=True)
class TokenBackend(AuthenticationBackend):
    """By a bearer token in the Authorization header (RFC 6750).

    Attributes:
        users: who there is.
    """

    users: Users

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        """For Starlette's AuthenticationMiddleware."""
        user = await run_in_threadpool(self.users.user_of, bearer_token(conn), GATEWAY)
        return None if user is None else (AuthCredentials([SIGNED_IN]), user)


def client_address(connection: HTTPConnection) -> str:
    """The address a request comes from, for the audit."""
    return connection.client.host if connection.client else ""


def bearer_token(connection: HTTPConnection) -> str:
    """The token of a request; empty where there is none."""
    kind, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""
