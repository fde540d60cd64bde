"""What monitoring asks of our web applications: are you alive, can you answer, how do you stand.

    GET /healthz   200 as long as the process answers
    GET /readyz    200 where it could answer a user: a publication opens, and who may sign in is known; otherwise 503
    GET /metrics   figures for Prometheus

The first two need no sign-in and say nothing. Metrics name no person, but how a hospital's systems stand is not for
everybody: without a token they are read on this machine alone, and only from an application that others cannot
reach. As soon as they can, directly or through a proxy, a token is needed: HOSPITAL_METRICS_TOKEN_FILE names its
file. Whatever else is asked passes through, and how long its answer took is noted.
"""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import anyio
from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hospital_assets.access.authentication import bearer_token, client_address
from hospital_assets.access.serving import Address, ServingError
from hospital_assets.addresses import is_loopback
from hospital_assets.files import why_not_secret

_T = TypeVar("_T")

#: Names the file of the token that reads metrics.
TOKEN_FILE = "HOSPITAL_METRICS_TOKEN_FILE"  # noqa: S105  (a name)
_SHORTEST_TOKEN = 32
#: A proxy says with one of them for whom it asks: then it is not this machine that asks.
_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


class Figures(Protocol):
    """Where metrics come from."""

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        ...

    def observe(self, page: str, status: str, seconds: float) -> None:
        """Note how long an answer took."""
        ...


@dataclass(frozen=True)
class Metrics:
    """Metrics, and who may read them.

    Attributes:
        is_open: whether this machine reads them without a token.
        token_file: whose content lets anybody read them; it is read each time, so a new one needs no restart.
    """

    figures: Figures
    is_open: bool = False
    token_file: Path | None = None

    def may_read(self, request: Request) -> bool:
        """Whether a request may read them."""
        if self.token_file is not None:
            try:
                wanted = _token(self.token_file)
            except ServingError:
                return False
            return hmac.compare_digest(bearer_token(request).encode(), wanted.encode())
        is_forwarded = any(name in request.headers for name in _FORWARDED)
        return self.is_open and not is_forwarded and is_loopback(client_address(request))


def metrics_at(address: Address, figures: Figures, environment: Mapping[str, str] = os.environ) -> Metrics:
    """Metrics of an application that listens at an address.

    Raises:
        ServingError: the file of the token cannot be used.
    """
    named = environment.get(TOKEN_FILE, "")
    if named:
        _token(Path(named))
    return Metrics(figures, is_open=not address.is_reachable, token_file=Path(named) if named else None)


def _token(file: Path) -> str:
    try:
        token, problem = file.read_text(encoding="ascii").strip(), why_not_secret(file)
    except (OSError, ValueError) as error:
        raise ServingError(f"{file}, which {TOKEN_FILE} names, cannot be read: {type(error).__name__}") from None
    if problem:
        raise ServingError(problem)
    if len(token) < _SHORTEST_TOKEN:
        raise ServingError(f"{file} must hold at least {_SHORTEST_TOKEN} characters: openssl rand -hex 32 > {file}")
    return token


def any_opens(audiences: Iterable[str], open_one: Callable[[str], object]) -> bool:
    """Whether the publication of any audience can be opened.

    Args:
        audiences: those that have one.
        open_one: opens it; raises whatever is wrong.
    """
    for audience in audiences:
        try:
            open_one(audience)
        except Exception:  # noqa: S112  (whatever is wrong, it cannot answer)
            continue
        return True
    return False


class Monitored:
    """ASGI middleware: answers what monitoring asks, notes how long all else took."""

    def __init__(
        self, app: ASGIApp, *, is_ready: Callable[[], bool], pages: Iterable[str], metrics: Metrics | None = None
    ) -> None:
        """Wrap an application.

        Args:
            app: what answers all else.
            is_ready: whether it could answer a user.
            pages: paths that are counted apart, without slashes at the ends; all others are `other`.
            metrics: what is read at `/metrics`; None where there are none.
        """
        self._app, self._is_ready, self._pages, self._metrics = app, is_ready, frozenset(pages), metrics
        self._one_at_a_time: anyio.CapacityLimiter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have it answered."""
        answers = {"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._metrics_text}
        answer = answers.get(scope["path"]) if scope["type"] == "http" else None
        if answer is not None:
            request = Request(scope)
            is_read = request.method in ("GET", "HEAD")
            response = await answer(request) if is_read else Response(status_code=405, headers={"allow": "GET, HEAD"})
            await response(scope, receive, send)
        elif scope["type"] == "http" and self._metrics is not None:
            await self._timed(scope, receive, send, self._metrics.figures)
        else:
            await self._app(scope, receive, send)

    async def _healthz(self, _: Request) -> Response:
        return Response(headers=_HEADERS)

    async def _readyz(self, _: Request) -> Response:
        return Response(status_code=200 if await self._in_thread(self._can_answer) else 503, headers=_HEADERS)

    def _can_answer(self) -> bool:
        try:
            return self._is_ready()
        except Exception:
            return False

    async def _metrics_text(self, request: Request) -> Response:
        if self._metrics is None:
            return Response("Metrics need the extra: pip install 'hospital-assets[metrics]'\n", 404, _HEADERS)
        # The file of the token is read, too.
        if not await self._in_thread(lambda: self._metrics is not None and self._metrics.may_read(request)):
            return Response("Metrics need a token.\n", 401, {**_HEADERS, "www-authenticate": "Bearer"})
        return Response(await self._in_thread(self._metrics.figures.text), headers=_HEADERS, media_type=_TEXT)

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        """In a thread that pages do not use: they may all be busy, and a probe must not take one from them."""
        if self._one_at_a_time is None:
            self._one_at_a_time = anyio.CapacityLimiter(1)
        return await run_sync(call, limiter=self._one_at_a_time)

    async def _timed(self, scope: Scope, receive: Receive, send: Send, figures: Figures) -> None:
        started, status = time.perf_counter(), 500
        name = scope["path"].strip("/").partition(".")[0]
        is_noted = False

        def note() -> None:
            nonlocal is_noted
            if not is_noted:
                is_noted = True
                page = name if name in self._pages else "other"
                figures.observe(page, f"{status // 100}xx", time.perf_counter() - started)

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # What follows may be a stream that never ends.
                note()
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            note()
