"""An identity provider of our own: it checks what others let pass (PKCE, one use of a code), and lies when told to."""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode

from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from hospital_assets_tests.dashboards import running

CLIENT, SECRET, API = "dashboard", "s3cret", "gateway"
Claims = dict[str, Any]


def new_key(name: str = "one") -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": name, "use": "sig", "alg": "RS256"})


@dataclass
class Provider:
    """What it says, to be changed by tests.

    Attributes:
        issuer: its address.
        claims: of whoever signs in next.
        key: it signs with.
        published: keys it shows; None for the one it signs with.
        is_public: whether the client has no secret.
        spoil: changes the claims of an ID token.
        make: makes the token of claims.
        metadata: replaces what it says of itself.
        asked: how often each path was asked for.
        codes: code -> what was asked with it.
        last: the newest token response.
    """

    issuer: str = ""
    claims: Claims = field(default_factory=lambda: {"sub": "1", "preferred_username": "ann", "groups": ["analysts"]})
    key: RSAKey = field(default_factory=functools.cache(new_key))
    published: list[RSAKey] | None = None
    is_public: bool = False
    spoil: Callable[[Claims], None] = lambda _: None
    make: Callable[[Provider, Claims], str] = lambda self, claims: self.signed(claims)
    metadata: Claims = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    last: Claims = field(default_factory=dict)

    def signed(self, claims: Claims, key: RSAKey | None = None, **header: str) -> str:
        key = key or self.key
        return jwt.encode({"alg": "RS256", "kid": str(key.kid), **header}, claims, key)

    def about(self, **claims: Any) -> Claims:
        """Claims that are good, but for what is stated."""
        now = int(time.time())
        return {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 300, **self.claims, **claims}

    def access_token(self, **claims: Any) -> str:
        return self.signed(self.about(**{"aud": API, "scope": "openid hospital.query", **claims}))

    def logout_token(self, **claims: Any) -> str:
        events = {"http://schemas.openid.net/event/backchannel-logout": {}}
        stated = self.about(**{"events": events, "jti": secrets.token_hex(8), **claims})
        return self.signed({name: value for name, value in stated.items() if value is not None}, typ="logout+jwt")

    def app(self) -> Starlette:
        async def describe(_: Request) -> Response:
            places = {f"{name}_endpoint": f"{self.issuer}/{name}" for name in ("authorization", "token", "end_session")}
            known = {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/jwks", **places}
            # A provider that offers what must not be taken.
            offered = {"id_token_signing_alg_values_supported": ["RS256", "HS256", "none"]}
            return JSONResponse({**known, **offered, **self.metadata})

        async def authorize(request: Request) -> Response:
            asked = dict(request.query_params)
            assert asked["response_type"] == "code" and asked["code_challenge_method"] == "S256"
            code = secrets.token_urlsafe(16)
            self.codes[code] = asked
            back = urlencode({"code": code, "state": asked["state"]})
            return RedirectResponse(f"{asked['redirect_uri']}?{back}", 302)

        async def page(request: Request) -> Response:
            """For a browser: what leads to `authorize` at a click; and whatever else is asked for."""
            return HTMLResponse(f'<a href="/authorization?{html.escape(request.url.query)}">Go on</a>')

        async def token(request: Request) -> Response:
            form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
            basic = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
            expected = None if self.is_public else f"Basic {basic}"
            if request.headers.get("authorization") != expected or (self.is_public and form["client_id"] != CLIENT):
                return JSONResponse({"error": "invalid_client"}, 401)
            asked = self.codes.pop(form["code"], None)
            digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
            challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            if not asked or asked["code_challenge"] != challenge or asked["redirect_uri"] != form["redirect_uri"]:
                return JSONResponse({"error": "invalid_grant"}, 400)
            claims = self.about(nonce=asked["nonce"], sid="session-1")
            self.spoil(claims)
            self.last = {"access_token": "opaque", "token_type": "Bearer", "id_token": self.make(self, claims)}
            return JSONResponse(self.last)

        async def jwks(_: Request) -> Response:
            keys = [self.key] if self.published is None else self.published
            return JSONResponse({"keys": [key.as_dict(private=False) for key in keys]})

        def counted(path: str, answer: Callable[[Request], Any]) -> Route:
            async def count(request: Request) -> Response:
                self.asked[path] = self.asked.get(path, 0) + 1
                found: Response = await answer(request)
                return found

            return Route(path, count, methods=["GET", "POST"])

        return Starlette(
            routes=[
                counted("/.well-known/openid-configuration", describe),
                counted("/authorization", authorize),
                counted("/token", token),
                counted("/jwks", jwks),
                counted("/page", page),
                counted("/end_session", page),
            ]
        )


@contextmanager
def provider_running() -> Iterator[Provider]:
    provider = Provider()
    with running(provider.app()) as address:
        provider.issuer = address
        yield provider
