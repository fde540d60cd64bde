"""The query gateway: SQL over HTTP for people who have logged in, over their role's publication only.

    POST /v1/login   {"user": "ann", "password": "..."}       -> {"token": ..., "expires_at": ...}
    GET  /v1/tables                                            -> what there is to ask about
    POST /v1/query   {"sql": "select ...", "format": "json"}   -> rows as json, csv or arrow
    POST /v1/logout

A token goes into the header `Authorization: Bearer ...`. `as_of` in a query asks an older version. It opens
publications and nothing else: it holds neither the warehouse nor the pseudonym key. Whatever is asked is
in the audit before anything is answered; what cannot be audited is not answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, get_args

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hospital_assets.access.audit import AuditError, AuditLog, Event
from hospital_assets.access.sandbox import Format, Limits, run_query
from hospital_assets.access.users import User, Users, users_file
from hospital_assets.publishing.publications import DATABASE, PublicationError, version_folder
from hospital_assets.settings import Settings, SettingsError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
MOST_BODY_BYTES = 64_000
_MEDIA: dict[Format, str] = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "arrow": "application/vnd.apache.arrow.stream",
}


class GatewayError(SettingsError):
    """The gateway must not be started like this; the message says what to do."""


@dataclass(frozen=True)
class Gate:
    """What the gateway works with.

    Attributes:
        settings: the data directory.
        users: who may ask.
        audit: where everything is written down.
        limits: of one query.
        hosts: names it answers to; a page of another site that points its name here is refused.
        slots: how many queries run at a time.
    """

    settings: Settings
    users: Users
    audit: AuditLog
    limits: Limits
    hosts: frozenset[str]
    slots: asyncio.Semaphore


class _RefusedRequestError(Exception):
    def __init__(self, status: int, says: str) -> None:
        super().__init__(says)
        self.status = status


def check_address(host: str, users: Users, has_certificate: bool) -> None:
    """Refuse addresses that others can reach, unless there are users and the line is encrypted.

    Raises:
        GatewayError: what is missing.
    """
    if host in LOOPBACK:
        return
    if not any(not is_disabled for _, is_disabled, _ in users.everybody()):
        raise GatewayError(
            f"{host} can be reached by others, and there is nobody who could log in: "
            "`hospital users add NAME ROLE` first"
        )
    if not has_certificate:
        raise GatewayError(
            f"{host} can be reached by others: passwords and answers must be encrypted; give "
            "--certificate and --certificate-key, or keep to 127.0.0.1 behind a proxy that has them"
        )


def build_app(
    settings: Settings, *, limits: Limits | None = None, hosts: frozenset[str] = frozenset(LOOPBACK), at_once: int = 2
) -> Starlette:
    """The gateway as an ASGI application.

    Args:
        settings: the data directory.
        limits: of one query.
        hosts: names it answers to.
        at_once: how many queries run at a time; others wait.
    """
    gate = Gate(
        settings, Users(users_file(settings)), AuditLog(settings), limits or Limits(), hosts, asyncio.Semaphore(at_once)
    )

    def route(path: str, method: str, answer: Callable[[Gate, Request], Awaitable[Response]]) -> Route:
        async def handle(request: Request) -> Response:
            try:
                _check_host(gate, request)
                return await answer(gate, request)
            except _RefusedRequestError as error:
                return JSONResponse({"error": str(error)}, error.status)
            except AuditError:
                return JSONResponse({"error": "it cannot be audited, so it is not answered"}, 503)

        return Route(path, handle, methods=[method])

    app = Starlette(
        routes=[
            route("/v1/login", "POST", _login),
            route("/v1/logout", "POST", _logout),
            route("/v1/tables", "GET", _tables),
            route("/v1/query", "POST", _query),
        ]
    )
    app.state.gate = gate
    return app


def _check_host(gate: Gate, request: Request) -> None:
    host = request.headers.get("host", "")
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    if name.strip("[]").lower() not in gate.hosts:
        raise _RefusedRequestError(421, "this is not the host that was asked for")


async def _body(request: Request, wanted: dict[str, type]) -> dict[str, Any]:
    """The JSON object of a request with exactly the keys that are known."""
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise _RefusedRequestError(415, "send application/json")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_BODY_BYTES:
            raise _RefusedRequestError(413, f"at most {MOST_BODY_BYTES:,} bytes")
        parts.append(part)
    try:
        found = json.loads(b"".join(parts))
    except (ValueError, RecursionError):
        raise _RefusedRequestError(400, "this is not JSON") from None
    if not isinstance(found, dict):
        raise _RefusedRequestError(400, "send a JSON object")
    for key, value in found.items():
        if key not in wanted or not isinstance(value, wanted[key]) or isinstance(value, bool):
            known = ", ".join(wanted)
            raise _RefusedRequestError(400, f"known keys: {known}; texts, but numbers for counts")
    return found


def _client(request: Request) -> str:
    return request.client.host if request.client else ""


def _token(request: Request) -> str:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


async def _user(gate: Gate, request: Request, action: str) -> User:
    user = await run_in_threadpool(gate.users.of_token, _token(request))
    if user is None:
        await run_in_threadpool(
            gate.audit.append,
            Event(
                "",
                "login",
                outcome="refused",
                client=_client(request),
                statement=action,
                reason="no token that is good",
            ),
        )
        raise _RefusedRequestError(401, "log in first: POST /v1/login")
    return user


async def _login(gate: Gate, request: Request) -> Response:
    body = await _body(request, {"user": str, "password": str})
    name, password = body.get("user", ""), body.get("password", "")
    found = await run_in_threadpool(gate.users.log_in, name, password)
    event = Event(name[:64], "login", client=_client(request))
    if found is None:
        event = replace(event, outcome="refused", reason="wrong name or password, or locked")
        await run_in_threadpool(gate.audit.append, event)
        raise _RefusedRequestError(401, "wrong name or password, or too many tries")
    user, token, expires_at = found
    await run_in_threadpool(gate.audit.append, replace(event, role=user.role, audience=user.audience))
    return JSONResponse(
        {"token": token, "expires_at": expires_at.isoformat(), "role": user.role, "audience": user.audience},
        headers={"cache-control": "no-store"},
    )


async def _logout(gate: Gate, request: Request) -> Response:
    await _user(gate, request, "logout")
    await run_in_threadpool(gate.users.revoke_token, _token(request))
    return JSONResponse({"revoked": True})


async def _tables(gate: Gate, request: Request) -> Response:
    user = await _user(gate, request, "tables")
    try:
        folder = version_folder(gate.settings.data_dir, user.audience)
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (PublicationError, FileNotFoundError):
        raise _RefusedRequestError(404, "nothing is published for you yet") from None
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


async def _query(gate: Gate, request: Request) -> Response:
    user = await _user(gate, request, "query")
    body = await _body(request, {"sql": str, "format": str, "as_of": str, "rows": int})
    sql, form = body.get("sql", ""), body.get("format", "json")
    event = Event(user.name, "query", user.role, audience=user.audience, statement=sql, client=_client(request))
    if form not in get_args(Format):
        raise _RefusedRequestError(400, f"format is one of {', '.join(get_args(Format))}")
    limits = gate.limits
    if "rows" in body:
        limits = replace(limits, rows=max(1, min(int(body["rows"]), limits.rows)))
    try:
        moment = datetime.fromisoformat(body["as_of"]) if "as_of" in body else None
        if moment is not None and moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        folder = version_folder(gate.settings.data_dir, user.audience, moment)
    except (ValueError, OverflowError):
        raise _RefusedRequestError(400, "as_of is a time, as in 2026-03-01T12:00:00Z") from None
    except PublicationError as error:
        await run_in_threadpool(gate.audit.append, replace(event, outcome="failed", reason=str(error)))
        raise _RefusedRequestError(404, str(error)) from None
    async with gate.slots:
        answer = await run_in_threadpool(run_query, folder / DATABASE, sql, form, limits)
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


def serve(
    settings: Settings, host: str, port: int, certificate: str | None = None, certificate_key: str | None = None
) -> None:
    """Answer until ended.

    Raises:
        GatewayError: the address can be reached by others and something for that is missing.
    """
    import uvicorn

    with contextlib.closing(Users(users_file(settings))) as users:
        check_address(host, users, bool(certificate and certificate_key))
    uvicorn.run(
        build_app(settings, hosts=frozenset({*LOOPBACK, host.lower()})),
        host=host,
        port=port,
        ssl_certfile=certificate,
        ssl_keyfile=certificate_key,
        log_level="warning",
        access_log=False,
        server_header=False,
    )
