"""Logins of PostgreSQL for users: the same names, roles and hospitals; passwords are the server's own.

A server checks passwords by SCRAM, whose verifiers cannot be made of our scrypt hashes, and it asks nobody else
about roles while it runs. So a login gets no password from here, and what changed among users reaches a server
with the next `hospital deploy postgres`, which begins with `align`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hospital_assets.access.audit import Event, audited
from hospital_assets.access.users import UserError, Users
from hospital_assets.publishing.policy import Policy
from hospital_assets.publishing.targets.postgres import grant_login, logins_of, revoke_login
from hospital_assets.settings import Settings

if TYPE_CHECKING:
    from adbc_driver_postgresql.dbapi import Connection


def grant(connection: Connection, settings: Settings, policy: Policy, users: Users, name: str, *, by: str) -> str:
    """Give a user a login with the audience they have here; audited. Returns the audience.

    Raises:
        UserError: there is no such user, or they are disabled.
        PostgresError: the server cannot have such a login.
    """
    user = users.active(name)
    audience = "" if user is None else user.audience
    event = Event(by, "user", audience=audience, statement=f"postgres login {name[:64]} as {audience or 'nobody'}")
    with audited(settings, event):
        if user is None:
            raise UserError(f"there is no user '{name[:64]}' who may sign in: `hospital users add NAME ROLE` first")
        grant_login(connection, policy, name, audience)
    return audience


def revoke(connection: Connection, settings: Settings, policy: Policy, name: str, *, by: str) -> None:
    """Take a login's audience away; the login stays and sees nothing; audited.

    Raises:
        PostgresError: it has none.
    """
    with audited(settings, Event(by, "user", statement=f"postgres revoke {name[:64]}")):
        revoke_login(connection, policy, name)


def align(connection: Connection, settings: Settings, policy: Policy, users: Users, *, by: str) -> list[str]:
    """Make the server's logins what the users are: who is disabled or removed sees nothing any more.

    Returns:
        what changed, a line each.
    """
    changed = []
    for name, audience in logins_of(connection, policy).items():
        user = users.active(name)
        if user is None:
            revoke(connection, settings, policy, name, by=by)
            changed.append(f"revoked {name}, who may not sign in any more")
        elif user.audience != audience:
            grant(connection, settings, policy, users, name, by=by)
            changed.append(f"granted {name} {user.audience} instead of {audience}")
    return changed
