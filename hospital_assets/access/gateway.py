"""The query gateway: SQL over HTTP for people who have logged in, over their role's publication only.

    POST /v1/login   {"user": "ann", "password": "..."}       -> {"token": ..., "expires_at": ...}
    GET  /v1/tables                                            -> what there is to ask about
    POST /v1/query   {"sql": "select ...", "format": "json"}   -> rows as json, csv or arrow
    POST /v1/logout

A token goes into the header `Authorization: Bearer ...`; an access token of the identity provider that `hospital.toml`
names does, too, if it was made out for the gateway (`identity.api_audience`). `as_of` in a query asks an older version.
It opens publications and nothing else: it holds neither the warehouse nor the pseudonym key. Whatever is asked is
in the audit before anything is answered; what cannot be audited is not answered.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, get_args

from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hospital_assets.access.audit import AuditError, AuditLog, Event
from hospital_assets.access.authentication import SIGNED_IN, TokenBackend, bearer_token, client_address, open_provider
from hospital_assets.access.fairness import TooManyWaitingError, Turns
from hospital_assets.access.monitoring import Metrics, Monitored, any_opens
from hospital_assets.access.sandbox import Format, Limits, run_query
from hospital_assets.access.serving import LOOPBACK_NAMES, Address, check, trusted_hosts
from hospital_assets.access.users import GATEWAY, NOT_LET_IN, Users, open_users
from hospital_assets.files import StateError
from hospital_assets.publishing.policy import load_policy
from hospital_assets.publishing.publications import (
    DATABASE,
    PublicationError,
    WithdrawnError,
    open_publication,
    published_audiences,
    read_manifest,
    version_folder,
)
from hospital_assets.settings import Settings

MOST_BODY_BYTES = 64_000
#: Control characters but tab and line ends, and code points that are no characters.
_NO_TEXT = re.compile("[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f\\ufdd0-\\ufdef\\ufffe\\uffff]")
_MEDIA: dict[Format, str] = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "arrow": "application/vnd.apache.arrow.stream",
}


@dataclass(frozen=True)
class Gate:
    """Everything the gateway needs; `turns` say how many queries run at a time, and whose."""

    settings: Settings
    users: Users
    audit: AuditLog
    limits: Limits
    turns: Turns


def build_app(
    settings: Settings,
    *,
    limits: Limits | None = None,
    hosts: tuple[str, ...] = LOOPBACK_NAMES,
    at_once: int = 2,
    metrics: Metrics | None = None,
) -> Starlette:
    """The gateway as an ASGI application.

    Args:
        hosts: names it answers to; a page of another site that points its name here is refused.
        at_once: how many queries run at a time, of one user one fewer; others wait, users in turn.
    """
    audit = AuditLog(settings)
    users = open_users(settings, audit.append)
    provider = open_provider(settings, load_policy(settings))
    routes = [
        Route("/v1/login", _login, methods=["POST"]),
        Route("/v1/logout", _logout, methods=["POST"]),
        Route("/v1/tables", _tables, methods=["GET"]),
        Route("/v1/query", _query, methods=["POST"]),
    ]

    def is_ready() -> bool:
        users.has_any()
        return any_opens(
            published_audiences(settings.data_dir),
            lambda audience: open_publication(settings.data_dir, audience).close(),
        )

    app = Starlette(
        routes=routes,
        middleware=[
            trusted_hosts(hosts),
            Middleware(
                Monitored, is_ready=is_ready, pages=[route.path.strip("/") for route in routes], metrics=metrics
            ),
            Middleware(AuthenticationMiddleware, backend=TokenBackend(users, provider), on_error=_not_verified),
        ],
        exception_handlers={HTTPException: _refused, AuditError: _not_audited},
    )
    app.state.gate = Gate(settings, users, audit, limits or Limits(), Turns(at_once))
    return app


def _refused(request: Request, error: Exception) -> Response:
    """Why not, as JSON; who has no token that is good is audited."""
    assert isinstance(error, HTTPException)  # noqa: S101  (Starlette's handlers take any exception)
    message = error.detail
    if error.status_code == 401:
        refusal = getattr(request.state, "refusal", "no token that is good")
        message = "log in first: POST /v1/login" if refusal == "no token that is good" else refusal
        _gate(request).audit.append(
            Event(
                "",
                "login",
                outcome="refused",
                client=client_address(request),
                statement=request.url.path.rpartition("/")[2],
                reason=refusal,
            )
        )
        return JSONResponse({"error": message}, 401, {"www-authenticate": "Bearer"})
    return JSONResponse({"error": message}, error.status_code, error.headers)


def _not_verified(_: HTTPConnection, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 503)


def _not_audited(_: Request, __: Exception) -> Response:
    return JSONResponse({"error": "it cannot be audited, so it is not answered"}, 503)


def _gate(request: Request) -> Gate:
    found: Gate = request.app.state.gate
    return found


async def _body(request: Request, wanted: dict[str, type]) -> dict[str, Any]:
    """The JSON object of a request with exactly the keys that are known."""
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise HTTPException(415, "send application/json")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_BODY_BYTES:
            raise HTTPException(413, f"at most {MOST_BODY_BYTES:,} bytes")
        parts.append(part)
    try:
        found = json.loads(b"".join(parts))
        # Half a surrogate pair is JSON, and no text that can be written down.
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise HTTPException(400, "this is not JSON") from None
    if not isinstance(found, dict):
        raise HTTPException(400, "send a JSON object")
    for key, value in found.items():
        if key not in wanted or not isinstance(value, wanted[key]) or isinstance(value, bool):
            known = ", ".join(wanted)
            raise HTTPException(400, f"known keys: {known}; texts, but numbers for counts")
        if isinstance(value, str) and _NO_TEXT.search(value):
            raise HTTPException(400, f"'{key}' holds characters that are no text")
    return found


async def _login(request: Request) -> Response:
    body = await _body(request, {"user": str, "password": str})
    found = await run_in_threadpool(
        _gate(request).users.sign_in,
        body.get("user", ""),
        body.get("password", ""),
        GATEWAY,
        client=client_address(request),
    )
    if found is None:
        return JSONResponse({"error": NOT_LET_IN}, 401)
    user = found.user
    return JSONResponse(
        {
            "token": found.token,
            "expires_at": found.expires_at.isoformat(),
            "role": user.role,
            "audience": user.audience,
        },
        headers={"cache-control": "no-store"},
    )


@requires(SIGNED_IN, status_code=401)
def _logout(request: Request) -> Response:
    ended = _gate(request).users.sign_out(bearer_token(request), client=client_address(request))
    # An access token of the identity provider ends there.
    return JSONResponse({"revoked": ended is not None})


@requires(SIGNED_IN, status_code=401)
def _tables(request: Request) -> Response:
    try:
        folder = version_folder(_gate(request).settings.data_dir, request.user.audience)
        manifest = read_manifest(folder)
    except (PublicationError, FileNotFoundError):
        raise HTTPException(404, "nothing is published for you yet") from None
    except StateError:
        raise HTTPException(503, "your publication is damaged; it has to be published again") from None
    return JSONResponse(
        {
            "version": folder.name,
            "published_at": manifest["published_at"],
            "claim": manifest["claim"]["text"],
            "tables": {
                name: {"rows": manifest["rows"][name], "columns": list(table["columns"])}
                for name, table in manifest["tables"].items()
            },
        }
    )


@requires(SIGNED_IN, status_code=401)
async def _query(request: Request) -> Response:
    gate, user = _gate(request), request.user
    body = await _body(request, {"sql": str, "format": str, "as_of": str, "rows": int})
    sql, form = body.get("sql", ""), body.get("format", "json")
    event = Event(user.name, "query", user.role, audience=user.audience, statement=sql, client=client_address(request))
    if form not in get_args(Format):
        raise HTTPException(400, f"format is one of {', '.join(get_args(Format))}")
    limits = gate.limits
    if "rows" in body:
        limits = replace(limits, rows=max(1, min(int(body["rows"]), limits.rows)))
    try:
        moment = datetime.fromisoformat(body["as_of"]) if "as_of" in body else None
        if moment is not None and moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        folder = version_folder(gate.settings.data_dir, user.audience, moment)
    except WithdrawnError as error:
        await run_in_threadpool(gate.audit.append, replace(event, outcome="refused", reason=str(error)))
        raise HTTPException(403, str(error)) from None
    except PublicationError as error:
        await run_in_threadpool(gate.audit.append, replace(event, outcome="failed", reason=str(error)))
        raise HTTPException(404, str(error)) from None
    except (ValueError, OverflowError):
        raise HTTPException(400, "as_of is a time, as in 2026-03-01T12:00:00Z") from None
    try:
        async with gate.turns.place(user.name):
            answer = await run_in_threadpool(run_query, folder / DATABASE, sql, form, limits)
    except TooManyWaitingError:
        reason = "too many queries of yours wait already"
        await run_in_threadpool(gate.audit.append, replace(event, outcome="refused", reason=reason))
        raise HTTPException(429, reason) from None
    event = replace(
        event,
        version=folder.name,
        outcome=answer.outcome,
        reason=answer.reason,
        objects=answer.objects,
        duration_ms=answer.duration_ms,
        row_count=answer.row_count if answer.outcome == "allowed" else None,
    )
    await run_in_threadpool(gate.audit.append, event)
    if answer.outcome != "allowed":
        status = 403 if answer.outcome == "refused" else 422
        return JSONResponse({"error": answer.reason}, status)
    return Response(
        answer.body,
        media_type=_MEDIA[form],
        headers={
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
            "x-version": folder.name,
            "x-row-count": str(answer.row_count),
            "x-is-cut": str(answer.is_cut).lower(),
        },
    )


def app_at(settings: Settings, address: Address, metrics: Metrics | None = None) -> Starlette:
    """The gateway as it may be served at an address, with what is read there at `/metrics`.

    Raises:
        ServingError: the address can be reached by others and something for that is missing.
    """
    with contextlib.closing(open_users(settings)) as users:
        check(address, has_users=users.has_active() or settings.identity is not None)
    return build_app(settings, hosts=address.hosts(), metrics=metrics)
