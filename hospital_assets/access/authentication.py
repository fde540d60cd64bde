"""Who a request comes from: Starlette's authentication, one backend for each kind of application.

`SessionBackend` reads the dashboard's cookie, `TokenBackend` the gateway's `Authorization: Bearer` header. Both
ask `Users`, at every request: a user who was disabled or removed is nobody at the next one. Programs may show the
gateway an access token of the identity provider instead of one of ours. Handlers say what they need with
`starlette.authentication.requires`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError, BaseUser
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from hospital_assets.access.audit import AuditError
from hospital_assets.access.identity import NotLetInError, UnreachableError, check_roles, client_secret
from hospital_assets.access.users import DASHBOARD, GATEWAY, User, Users
from hospital_assets.publishing.policy import Policy
from hospital_assets.settings import Settings, SettingsError

if TYPE_CHECKING:
    from hospital_assets.access.openid import Provider

COOKIE = "hospital_session"
#: Scope of everybody who is known.
SIGNED_IN = "signed_in"


@dataclass(frozen=True)
class SessionBackend(AuthenticationBackend):
    """By the session cookie of a browser.

    Attributes:
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
    """By a bearer token in the Authorization header (RFC 6750); access tokens of the provider count, too."""

    users: Users
    provider: Provider | None = None

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        """For Starlette's AuthenticationMiddleware; why not is `state.refusal` of the connection.

        Raises:
            AuthenticationError: that cannot be said now.
        """
        token = bearer_token(conn)
        # Ours have no dots, a signed one (RFC 7515) has two.
        if self.provider is None or token.count(".") != 2:
            user = await run_in_threadpool(self.users.user_of, token, GATEWAY)
        else:
            try:
                user = await run_in_threadpool(self.users.person, await self.provider.program(token))
                conn.state.refusal = "disabled here"
            except NotLetInError as error:
                user, conn.state.refusal = None, str(error)
            except (UnreachableError, AuditError) as error:
                raise AuthenticationError(str(error)) from None
        return None if user is None else (AuthCredentials([SIGNED_IN]), user)


def client_address(connection: HTTPConnection) -> str:
    """The address a request comes from, for the audit."""
    return connection.client.host if connection.client else ""


def bearer_token(connection: HTTPConnection) -> str:
    """The token of a request; empty where there is none."""
    kind, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def open_provider(settings: Settings, policy: Policy, environment: Mapping[str, str] = os.environ) -> Provider | None:
    """The identity provider of a data directory; None where `hospital.toml` names none. Asks it nothing yet.

    Args:
        policy: whose roles people get.
        environment: has the client's secret.

    Raises:
        SettingsError: a role is not the policy's, the secret cannot be used, or the extra is not installed.
    """
    if settings.identity is None:
        return None
    check_roles(settings.identity, policy, settings.settings_file)
    secret = client_secret(settings, environment)
    try:
        from hospital_assets.access.openid import Provider
    except ModuleNotFoundError:
        raise SettingsError("install the extra: pip install 'hospital-assets[oidc]'") from None
    return Provider(settings.identity, secret)
