"""What an identity provider's claims mean here: who somebody is, in which role; and the client's secret.

Pure but for reading the secret. Signing in and verifying tokens is `access.openid`, which needs the extra `oidc` and is
imported only where `hospital.toml` has a table `[identity]`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hospital_assets.access.users import Person
from hospital_assets.files import why_not_secret
from hospital_assets.publishing.audience import parse_audience
from hospital_assets.publishing.policy import Policy, PolicyError
from hospital_assets.settings import IdentitySettings, Settings, SettingsError

SECRET_VARIABLE = "HOSPITAL_OIDC_CLIENT_SECRET"  # noqa: S105  (a name)
SECRET_FILE_VARIABLE = "HOSPITAL_OIDC_CLIENT_SECRET_FILE"  # noqa: S105  (a name)

#: Where the provider sends browsers back to, and what tells that it sent this one.
CALLBACK = "/login/callback"
PENDING_COOKIE = "hospital_sign_in"


class NotLetInError(Exception):
    """Somebody cannot be signed in; the message is for them and for the audit, and says nothing of a token's content.

    Attributes:
        person: who, where the provider has vouched for them: then they lack a role here.
    """

    def __init__(self, message: str, person: Person | None = None) -> None:
        super().__init__(message)
        self.person = person


class UnreachableError(Exception):
    """The identity provider does not answer, or not as one; the message says what went wrong."""


def check_roles(identity: IdentitySettings, policy: Policy, file: Path) -> None:
    """Refuse a mapping to roles that the policy does not have.

    Raises:
        SettingsError: which, and what there is instead.
    """
    for value, audience in identity.roles:
        try:
            parse_audience(policy, audience)
        except PolicyError as error:
            raise SettingsError(f"{file}: identity.roles: '{value}' = '{audience}': {error}") from None


def client_secret(settings: Settings, environment: Mapping[str, str] = os.environ) -> str | None:
    """The secret that the provider gave the client; None where it gave none, and PKCE alone shows who asks.

    Raises:
        SettingsError: its file is missing or empty, lies in the data directory, or can be read by others.
    """
    if text := environment.get(SECRET_VARIABLE, "").strip():
        return text
    named = environment.get(SECRET_FILE_VARIABLE, "")
    if not named:
        return None
    path = Path(named)
    try:
        text, problem = path.read_text(encoding="utf-8").strip(), why_not_secret(path)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{SECRET_FILE_VARIABLE}: {path} cannot be read: {type(error).__name__}") from None
    if path.resolve().is_relative_to(settings.data_dir):
        raise SettingsError(
            f"{path} lies in the data directory: whoever copies the data would have the secret; move it"
        )
    if problem:
        raise SettingsError(problem)
    if not text:
        raise SettingsError(f"{path} is empty: it holds the secret that the identity provider gave the client")
    return text


def person_of(
    claims: Mapping[str, Any], identity: IdentitySettings, session_id: str = "", id_token: str = ""
) -> Person:
    """Who claims are about, in the roles that their groups have here: the first to begin with.

    Args:
        claims: of a token that was verified.
        identity: which claim counts, and what its values mean.

    Raises:
        NotLetInError: none of their groups has a role.
    """
    stated = claims.get(identity.name_claim)
    name = stated if isinstance(stated, str) and stated.strip() else claims["sub"]
    groups = _values(claims, identity.claim)
    # In the order of the file, not of the token: that has none.
    audiences = tuple(dict.fromkeys(audience for group, audience in identity.roles if group in groups))
    role, _, hospital = audiences[0].partition("-") if audiences else ("", "", "")
    person = Person(identity.issuer, claims["sub"], name, role, hospital or None, session_id, id_token, audiences)
    if not audiences:
        raise NotLetInError(
            f"you are known to your {identity.label}, but none of your groups has a role here: ask who runs this "
            "dashboard, or whoever looks after your account",
            person,
        )
    return person


def _values(claims: Mapping[str, Any], name: str) -> list[str]:
    """The texts of a claim, of an object within one where the name has dots; empty where there are none."""
    found: Any = claims.get(name)
    if found is None:
        found = claims
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    texts = [found] if isinstance(found, str) else found
    return [text for text in texts if isinstance(text, str)] if isinstance(texts, list) else []
