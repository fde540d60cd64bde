"""OpenID Connect with an identity provider: signing in (authorisation code with PKCE), tokens of programs, signing out.

Authlib speaks the protocol; what a token must be to count is decided here, by the same rules for all kinds: signed by a
key that the provider publishes now, with an algorithm of our list, by the issuer of the settings, for us, not expired.
Needs the extra `oidc`.
"""

from __future__ import annotations

import asyncio
import functools
import re
import secrets
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2
from authlib.integrations.base_client.errors import MismatchingStateError
from authlib.integrations.starlette_client import OAuth, OAuthError, StarletteOAuth2App
from authlib.oidc.core import CodeIDToken
from joserfc import jws, jwt
from joserfc.errors import BadSignatureError, ClaimError, JoseError, KeyParameterError
from joserfc.jwk import KeySet
from starlette.requests import Request
from starlette.responses import Response

from hospital_assets.access.identity import CALLBACK, PENDING_COOKIE, NotLetInError, UnreachableError, person_of
from hospital_assets.access.users import Person
from hospital_assets.addresses import is_protected
from hospital_assets.settings import IdentitySettings

#: No shared secrets (HS...) and no `none`, whatever the provider's metadata or a token's header say.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
#: How far the provider's clock may be off.
LEEWAY_SECONDS = 60
#: Keys are fetched again when one is not known or does not fit, so often at most: who sends nonsense starts no flood;
KEYS_AT_LEAST_SECONDS = 60
#: and after so long in any case, so that one that was withdrawn ends.
KEYS_AT_MOST_SECONDS = 3_600
#: A sign-in that was begun is ended within so long.
PENDING_SECONDS = 600
_MOST_PENDING = 10_000
_TIMEOUT_SECONDS = 10
#: What we take of the provider's metadata.
_METADATA = ("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri", "end_session_endpoint")
_LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"

_BEGIN_AGAIN = "this sign-in was begun in another browser, too long ago, or is over already: begin again"
_NO_GOOD = (
    "the identity provider's answer could not be verified: begin again, and if that does not help, tell who runs this"
)


Claims = Mapping[str, Any]


@functools.cache
def _trusted() -> ssl.SSLContext:
    """Whom this machine trusts: reading that takes longer than a whole sign-in."""
    return httpx2.create_ssl_context()


class _Client(StarletteOAuth2App):  # type: ignore[misc]  # Authlib has no types
    """Authlib's client, with metadata and ID tokens verified by our rules."""

    provider: Provider

    async def load_server_metadata(self) -> dict[str, Any]:
        return await self.provider.metadata()

    async def parse_id_token(self, token: dict[str, Any], nonce: str, **_: object) -> Claims:
        return await self.provider.id_claims(token["id_token"], nonce, token.get("access_token", ""))


@dataclass
class _Keys:
    """The provider's keys as they were fetched.

    Attributes:
        keys: None before the first time.
        fetched_at: when it was last tried.
    """

    keys: KeySet | None = None
    fetched_at: float = float("-inf")
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Provider:
    """An identity provider. Asked first when somebody signs in, so that it may be down when a server starts."""

    def __init__(self, identity: IdentitySettings, secret: str | None, now: Callable[[], float] = time.time) -> None:
        """Make ready; nothing is asked yet.

        Args:
            secret: of the client; None for a public one.
            now: seconds since 1970.
        """
        self.identity = identity
        self._now = now
        self._metadata: dict[str, Any] = {}
        self._keys = _Keys()
        self._pending: dict[str, tuple[float, dict[str, Any]]] = {}
        self._client: _Client = OAuth().register(
            "provider",
            client_id=identity.client_id,
            client_secret=secret,
            client_cls=_Client,
            client_kwargs={
                "scope": " ".join(identity.scopes),
                "code_challenge_method": "S256",
                "token_endpoint_auth_method": "client_secret_basic" if secret else "none",
                "timeout": _TIMEOUT_SECONDS,
                "verify": _trusted(),
            },
        )
        self._client.provider = self

    # --- signing in

    async def begin(self, request: Request, following: str) -> Response:
        """Send a browser to the provider. What comes back counts only from that browser, once, for ten minutes.

        Raises:
            UnreachableError: the provider does not answer.
        """
        session: dict[str, Any] = {}
        request.scope["session"] = session
        answer: Response = await self._client.authorize_redirect(request, self.identity.url + CALLBACK)
        now = self._now()
        for key in [key for key, (until, _) in self._pending.items() if until < now]:
            del self._pending[key]
        while len(self._pending) >= _MOST_PENDING:
            del self._pending[next(iter(self._pending))]
        pending = secrets.token_urlsafe(32)
        self._pending[pending] = (now + PENDING_SECONDS, {"session": session, "following": following})
        answer.set_cookie(
            PENDING_COOKIE,
            pending,
            max_age=PENDING_SECONDS,
            path="/login",
            httponly=True,
            # The provider's page sends the browser back: `strict` would keep the cookie from that request.
            samesite="lax",
            secure=self.identity.url.startswith("https:"),
        )
        return answer

    async def finish(self, request: Request) -> tuple[Person, str]:
        """Who has come back from the provider, and the page they had asked for.

        Raises:
            NotLetInError: the answer is not to a sign-in of this browser, is not good, or they have no role here.
            UnreachableError: the provider does not answer.
        """
        until, kept = self._pending.pop(request.cookies.get(PENDING_COOKIE, ""), (0.0, {}))
        if until < self._now():
            raise NotLetInError(_BEGIN_AGAIN)
        # RFC 9207: another provider's answer is not ours to redeem.
        if request.query_params.get("iss", self.identity.issuer) != self.identity.issuer:
            raise NotLetInError(_NO_GOOD)
        if "error" in request.query_params:
            # Its words come with the address, from whoever made that.
            raise NotLetInError("the identity provider did not let you in, or the sign-in was cancelled")
        request.scope["session"] = kept["session"]
        try:
            token = await self._client.authorize_access_token(request)
        except MismatchingStateError:
            raise NotLetInError(_BEGIN_AGAIN) from None
        except OAuthError as error:
            code = error.error if re.fullmatch("[a-z_]{1,40}", str(error.error)) else "error"
            raise NotLetInError(f"the identity provider does not redeem the sign-in ({code})") from None
        except (httpx2.HTTPError, ValueError) as error:
            raise UnreachableError(f"the identity provider does not answer ({type(error).__name__})") from None
        claims = token.get("userinfo")
        if claims is None:
            raise NotLetInError(_NO_GOOD)
        session_id = claims.get("sid")
        person = person_of(
            claims, self.identity, session_id if isinstance(session_id, str) else "", str(token["id_token"])
        )
        return person, str(kept["following"])

    async def sign_out_address(self, id_token: str) -> str:
        """Where the browser of somebody who has signed out here ends their session at the provider; empty: nowhere."""
        try:
            if not (await self.metadata()).get("end_session_endpoint"):
                return ""
        except UnreachableError:
            return ""
        asked = await self._client.create_logout_url(
            post_logout_redirect_uri=f"{self.identity.url}/login",
            id_token_hint=id_token,
            client_id=self.identity.client_id,
        )
        return str(asked["url"])

    # --- tokens

    async def id_claims(self, token: str, nonce: str, access_token: str = "") -> Claims:
        """What an ID token says, when it answers a sign-in of ours.

        Raises:
            NotLetInError: it does not.
        """
        signed = await self._verified(token, self.identity.client_id)
        claims = CodeIDToken(
            signed.claims,
            signed.header,
            None,
            {"nonce": nonce, "client_id": self.identity.client_id, "access_token": access_token},
        )
        try:
            claims.validate(int(self._now()), LEEWAY_SECONDS)
        except (JoseError, ValueError, TypeError):
            raise NotLetInError(_NO_GOOD) from None
        return signed.claims

    async def program(self, token: str) -> Person:
        """Who an access token was made out for, when it was made out for the gateway.

        Raises:
            NotLetInError: it was not, has expired, lacks the scope, or they have no role here.
            UnreachableError: the provider's keys cannot be had.
        """
        if not self.identity.api_audience:
            raise NotLetInError(
                "hospital.toml names no identity.api_audience: tokens of the identity provider do not count"
            )
        claims = (await self._verified(token, self.identity.api_audience)).claims
        stated = claims.get("scope") or claims.get("scp")
        if self.identity.api_scope not in (
            stated.split() if isinstance(stated, str) else stated if isinstance(stated, list) else ()
        ):
            raise NotLetInError(f"the token lacks the scope '{self.identity.api_scope}'")
        return person_of(claims, self.identity)

    async def ended(self, token: str) -> tuple[str, str]:
        """The subject and session that a logout token of the provider ends; either may be empty, not both.

        Raises:
            NotLetInError: it is none (OpenID Connect Back-Channel Logout 1.0, 2.6).
            UnreachableError: the provider's keys cannot be had.
        """
        claims = (await self._verified(token, self.identity.client_id, needs_subject=False)).claims
        events, subject, session = claims.get("events"), claims.get("sub", ""), claims.get("sid", "")
        is_logout = isinstance(events, dict) and _LOGOUT_EVENT in events and "nonce" not in claims
        if not is_logout or not isinstance(session, str) or not (subject or session):
            raise NotLetInError("no logout token")
        return subject, session

    async def _verified(self, token: str, audience: str, *, needs_subject: bool = True) -> jwt.Token:
        """A token that the provider has signed, for an audience, and that has not expired."""
        try:
            try:
                signed = _decoded(token, await self._current_keys())
            except BadSignatureError:
                # The provider may have changed its keys, under the same names even.
                signed = _decoded(token, await self._current_keys(KEYS_AT_LEAST_SECONDS))
            jwt.JWTClaimsRegistry(
                now=int(self._now()),
                leeway=LEEWAY_SECONDS,
                iss={"essential": True, "value": self.identity.issuer},
                aud={"essential": True, "value": audience},
                exp={"essential": True},
                iat={"essential": True},
                sub={"essential": needs_subject},
            ).validate(signed.claims)
        except (JoseError, ValueError, TypeError) as error:
            raise NotLetInError(f"{_NO_GOOD} ({_reason(error)})") from None
        return signed

    # --- what the provider publishes

    async def metadata(self) -> dict[str, Any]:
        """What the provider says of itself, asked once.

        Raises:
            UnreachableError: it does not answer, says it is another, or names addresses that are not encrypted.
        """
        if not self._metadata:
            stated = await self._fetched(f"{self.identity.issuer.rstrip('/')}/.well-known/openid-configuration")
            found = {key: stated[key] for key in _METADATA if isinstance(stated.get(key), str)}
            if found.get("issuer") != self.identity.issuer:
                raise UnreachableError(
                    "the identity provider calls itself otherwise than identity.issuer of hospital.toml"
                )
            for key in _METADATA[1:4]:
                if not is_protected(found.get(key, "")):
                    raise UnreachableError(f"the identity provider names no {key} that begins with https://")
            if not is_protected(found.get("end_session_endpoint", "")):
                found.pop("end_session_endpoint", None)
            self._metadata = found
        return self._metadata

    async def _current_keys(self, at_most_seconds: float = KEYS_AT_MOST_SECONDS) -> KeySet:
        """The provider's keys, fetched again when they are older than that."""
        held = self._keys
        async with held.lock:
            age = self._now() - held.fetched_at
            if age >= at_most_seconds or (held.keys is None and age >= KEYS_AT_LEAST_SECONDS):
                held.fetched_at, held.keys = self._now(), None if age >= KEYS_AT_MOST_SECONDS else held.keys
                stated = await self._fetched((await self.metadata())["jwks_uri"])
                try:
                    held.keys = KeySet.import_key_set(stated)  # type: ignore[arg-type]
                except (JoseError, ValueError, TypeError, KeyError):
                    raise UnreachableError("the identity provider publishes no keys that can be used") from None
        if held.keys is None:
            raise UnreachableError("the identity provider's keys could not be had; it is asked again within a minute")
        return held.keys

    async def _fetched(self, address: str) -> dict[str, Any]:
        try:
            async with httpx2.AsyncClient(timeout=_TIMEOUT_SECONDS, verify=_trusted()) as client:
                answer = (await client.get(address)).raise_for_status().json()
        except (httpx2.HTTPError, ValueError) as error:
            raise UnreachableError(f"the identity provider does not answer ({type(error).__name__})") from None
        if not isinstance(answer, dict):
            raise UnreachableError("the identity provider does not answer as one")
        return answer


_REGISTRY = jws.JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)


def _decoded(token: str, keys: KeySet) -> jwt.Token:
    """A token signed by one of some keys: the one it names, any of them where it names none."""
    key_id = jws.extract_compact(token.encode(), registry=_REGISTRY).headers().get("kid")
    for key in keys:
        if key_id in (None, key.kid):
            try:
                return jwt.decode(token, key, registry=_REGISTRY)
            except (BadSignatureError, KeyParameterError):
                continue
    raise BadSignatureError()


def _reason(error: Exception) -> str:
    """What is wrong with a token, by the name of the error and the claim; never a value."""
    claim = f" {error.claim}" if isinstance(error, ClaimError) else ""
    return f"{type(error).__name__.removesuffix('Error')}{claim}"
