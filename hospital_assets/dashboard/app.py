"""The server: routes, security headers, who may see what, and a note of every look.

Belongs here: HTTP. What pages say is `pages`' matter, who signs in `auth`'s, the stream `live`'s.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from urllib.parse import parse_qs

import duckdb
from anyio.to_thread import current_default_thread_limiter
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from hospital_assets.dashboard.audit import Access
from hospital_assets.dashboard.auth import COOKIE, SESSION_SECONDS, Sessions, Viewer
from hospital_assets.dashboard.figures import Page
from hospital_assets.dashboard.live import LiveBoard
from hospital_assets.dashboard.mart import Mart
from hospital_assets.dashboard.pages.menu import MENU, Entry, pages_of
from hospital_assets.dashboard.render import FOLDER, as_csv, choices, query, render, sentence
from hospital_assets.dashboard.slices import Slice, read_slice
from hospital_assets.dashboard.store import NothingPublishedError, Store
from hospital_assets.publishing.policy import Policy

#: Nothing from elsewhere, no inline script, no inline style.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
#: Data this much older than the hospital's clock are called stale.
_STALE = timedelta(hours=36)
_MOST_FORM_BYTES = 10_000
_TOO_MUCH = "This slice needs more memory than the dashboard has: choose a shorter period or one hospital."
#: Requests that are worked on at the same time; others wait their turn.
_THREADS = 4


@dataclass(frozen=True)
class Dashboard:
    """What the server needs.

    Attributes:
        store: open publications.
        board: the live board.
        policy: which pages a role may open.
        own_pages: pages that are not made from a publication alone: name -> how.
        audit: told of every look; when it raises, nothing is shown.
        now: the hospital's clock.
        sessions: who is signed in; None where no sign-in is asked for (loopback only).
        local: who looks when there is no sign-in.
        hosts: names the server answers to.
    """

    store: Store
    board: LiveBoard
    policy: Policy
    own_pages: Mapping[str, Callable[[Mart], Page]]
    audit: Callable[[Access], None]
    now: Callable[[], datetime]
    sessions: Sessions | None
    local: Viewer
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")


def create_app(dashboard: Dashboard) -> Starlette:
    """The ASGI application."""
    release = _release()
    entries = {entry.name: entry for entry in MENU}

    def viewer_of(request: Request) -> Viewer | None:
        if dashboard.sessions is None:
            return dashboard.local
        return dashboard.sessions.viewer(request.cookies.get(COOKIE))

    async def page(request: Request) -> Response:
        entry = entries.get(request.path_params["page"])
        viewer = viewer_of(request)
        if viewer is None:
            return RedirectResponse(f"/login?next={request.path_params['page']}", 303)
        if entry is None:
            return PlainTextResponse("There is no such page.", 404)
        return await run_in_threadpool(_page, request, entry, viewer)

    def _page(request: Request, entry: Entry, viewer: Viewer) -> Response:
        if entry not in pages_of(dashboard.policy, viewer.role):
            dashboard.audit(Access(viewer, "denied", entry.name))
            return _message(entry, viewer, "This page is not for your role.", 403)
        if entry.name == "live":
            dashboard.audit(Access(viewer, "view", entry.name))
            return HTMLResponse(render("live.html", **_frame(entry, viewer), rows=dashboard.board.page(viewer)))
        try:
            mart = dashboard.store.mart(viewer.audience)
        except NothingPublishedError as error:
            return _message(entry, viewer, str(error), 503)
        where = read_slice(request.query_params, mart.known)
        asked = query(where)
        dashboard.audit(Access(viewer, "view", entry.name, mart.version, asked))
        try:
            body = _body(mart, entry, where, viewer)
        except duckdb.OutOfMemoryException:
            return _message(entry, viewer, _TOO_MUCH, 503)
        if request.headers.get("x-fragment"):
            return HTMLResponse(body, headers={"vary": "x-fragment"})
        return HTMLResponse(
            render(
                "page.html",
                **_frame(entry, viewer, asked),
                where=where,
                known=mart.known,
                slicers=entry.has_slicers,
                choices=choices(mart.known),
                body=body,
            ),
            headers={"vary": "x-fragment"},
        )

    def _made(mart: Mart, entry: Entry, where: Slice) -> Page:
        with dashboard.store.building:
            if entry.build is not None:
                return entry.build(mart, where)
            return dashboard.own_pages[entry.name](mart)

    def _body(mart: Mart, entry: Entry, where: Slice, viewer: Viewer) -> str:
        behind = dashboard.now() - mart.data_as_of
        stale = (
            f"These data are {behind.days * 24 + behind.seconds // 3600:,} hours old: is anything "
            "refreshing and publishing?"
            if behind > _STALE and entry.has_slicers
            else ""
        )

        def make() -> str:
            return render(
                "body.html",
                page=_made(mart, entry, where),
                title=entry.title,
                current=entry.name,
                where=where,
                carried=query(where),
                sliced=sentence(where, mart.known) if entry.has_slicers else "",
                freshness=f"Data to {mart.known.last.isoformat()}, published {mart.published_at:%Y-%m-%d %H:%M} UTC",
                stale=stale,
                colophon=f"Publication {mart.audience} {mart.version}. Averages and percentiles of "
                f"fewer than {mart.few} patients are not shown; counts are as the publication holds them.",
            )

        if entry.build is None:
            return make()
        key = (mart.audience, mart.version, entry.name, where, bool(stale) and behind.days)
        return dashboard.store.remembered(key, make)

    def _frame(entry: Entry, viewer: Viewer, asked: str = "") -> dict[str, object]:
        return {
            "title": entry.title,
            "current": entry.name,
            "viewer": viewer,
            "carried": asked,
            "menu": pages_of(dashboard.policy, viewer.role),
            "can_sign_out": dashboard.sessions is not None,
            "release": release,
        }

    def _message(entry: Entry, viewer: Viewer, text: str, status: int) -> Response:
        return HTMLResponse(render("message.html", **_frame(entry, viewer), text=text), status_code=status)

    async def export(request: Request) -> Response:
        entry = entries.get(request.path_params["page"])
        viewer = viewer_of(request)
        if viewer is None:
            return PlainTextResponse("Sign in first.", 401)
        if entry is None or entry.name == "live" or entry not in pages_of(dashboard.policy, viewer.role):
            dashboard.audit(Access(viewer, "denied", request.path_params["page"]))
            return PlainTextResponse("Not for your role.", 403)
        return await run_in_threadpool(_export, request, entry, viewer)

    def _export(request: Request, entry: Entry, viewer: Viewer) -> Response:
        try:
            mart = dashboard.store.mart(viewer.audience)
        except NothingPublishedError as error:
            return PlainTextResponse(str(error), 503)
        where = read_slice(request.query_params, mart.known)
        wanted = request.query_params.get("figure")
        try:
            made = _made(mart, entry, where)
        except duckdb.OutOfMemoryException:
            return PlainTextResponse(_TOO_MUCH, 503)
        for figure in made.figures:
            if figure.id == wanted:
                dashboard.audit(Access(viewer, "export", f"{entry.name}.{figure.id}", mart.version, query(where)))
                return PlainTextResponse(
                    as_csv(figure),
                    media_type="text/csv; charset=utf-8",
                    headers={"content-disposition": f'attachment; filename="{entry.name}-{figure.id}.csv"'},
                )
        return PlainTextResponse("There is no such figure.", 404)

    async def events(request: Request) -> Response:
        viewer = viewer_of(request)
        if viewer is None or entries["live"] not in pages_of(dashboard.policy, viewer.role):
            return PlainTextResponse("Not for your role.", 403)
        return StreamingResponse(
            dashboard.board.stream(viewer), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
        )

    async def acknowledge(request: Request) -> Response:
        viewer = viewer_of(request)
        if viewer is None or entries["live"] not in pages_of(dashboard.policy, viewer.role):
            return PlainTextResponse("Not for your role.", 403)
        form = await _form(request)
        dashboard.audit(Access(viewer, "acknowledge", f"live.{form.get('visit', '')[:40]}"))
        return Response(status_code=204)

    async def login(request: Request) -> Response:
        if dashboard.sessions is None:
            return RedirectResponse("/overview", 303)
        if request.method == "GET":
            return HTMLResponse(
                render(
                    "login.html",
                    title="Sign in",
                    failed=False,
                    release=release,
                    next=request.query_params.get("next", "overview"),
                )
            )
        form = await _form(request)
        name = form.get("name", "")
        token = await run_in_threadpool(dashboard.sessions.sign_in, name, form.get("password", ""))
        following = form.get("next", "") if form.get("next", "") in entries else "overview"
        if token is None:
            dashboard.audit(Access(Viewer(name[:80], "", ""), "sign_in_failed", "login"))
            return HTMLResponse(
                render("login.html", title="Sign in", failed=True, release=release, next=following), status_code=401
            )
        viewer = dashboard.sessions.viewer(token)
        if viewer is not None:
            dashboard.audit(Access(viewer, "sign_in", "login"))
        answer = RedirectResponse(f"/{following}", 303)
        answer.set_cookie(
            COOKIE,
            token,
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    async def logout(request: Request) -> Response:
        if dashboard.sessions is not None:
            dashboard.sessions.sign_out(request.cookies.get(COOKIE))
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE)
        return answer

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        # DuckDB has threads of its own; more of ours would only take memory each.
        current_default_thread_limiter().total_tokens = _THREADS
        yield

    async def home(_: Request) -> Response:
        return RedirectResponse("/overview", 307)

    async def healthy(_: Request) -> Response:
        return PlainTextResponse("ok")

    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/", home),
            Route("/healthz", healthy),
            Route("/login", login, methods=["GET", "POST"]),
            Route("/logout", logout, methods=["POST"]),
            Route("/live/events", events),
            Route("/live/acknowledge", acknowledge, methods=["POST"]),
            Mount("/static", StaticFiles(directory=FOLDER / "static")),
            Route("/{page:str}.csv", export),
            Route("/{page:str}", page),
        ],
        middleware=[
            # A page of elsewhere must not reach this one through a name of its own (DNS rebinding).
            Middleware(TrustedHostMiddleware, allowed_hosts=list(dashboard.hosts)),
            Middleware(_Headers),
            Middleware(GZipMiddleware, minimum_size=1000, compresslevel=5),
        ],
    )


async def _form(request: Request) -> dict[str, str]:
    """A small form, and only from a page of this server."""
    origin = request.headers.get("origin")
    if origin not in (None, "null") and origin.split("://")[-1] != request.headers.get("host"):
        return {}
    body = await request.body()
    if len(body) > _MOST_FORM_BYTES:
        return {}
    return {name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}


Scope = dict[str, object]
Message = dict[str, object]
Send = Callable[[Message], Awaitable[None]]


class _Headers:
    """Security headers on every answer; pages are never kept by a cache."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: object, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_static = str(scope["path"]).startswith("/static/")

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                cached = (
                    "max-age=31536000, immutable"
                    if is_static and scope["query_string"]
                    else ("no-cache" if is_static else "no-store")
                )
                message["headers"] = [
                    *message["headers"],  # type: ignore[misc]
                    *((name.encode(), value.encode()) for name, value in _HEADERS.items()),
                    (b"cache-control", cached.encode()),
                ]
            await send(message)

        await self._app(scope, receive, with_headers)


def _release() -> str:
    """Changes when the served script or style does."""
    digest = sha256()
    for name in ("app.js", "tips.js", "app.css"):
        digest.update((FOLDER / "static" / name).read_bytes())
    return digest.hexdigest()[:12]
