"""The server: routes, security headers, who may see what, and a note of every look.

Belongs here: HTTP. What pages say is `pages`' matter, who signs in that of `access`, the stream `live`'s.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import duckdb
from anyio.to_thread import current_default_thread_limiter
from starlette.applications import Starlette
from starlette.authentication import has_required_scope, requires
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from hospital_assets.access.audit import Audit, Event
from hospital_assets.access.authentication import COOKIE, SIGNED_IN, SessionBackend, client_address
from hospital_assets.access.identity import CALLBACK, PENDING_COOKIE, NotLetInError, UnreachableError
from hospital_assets.access.monitoring import Metrics, Monitored
from hospital_assets.access.serving import trusted_hosts
from hospital_assets.access.users import DASHBOARD, NOT_LET_IN, SESSION_LIFETIME, Session, User, Users
from hospital_assets.addresses import is_loopback
from hospital_assets.contracts.facts import AuditAction, AuditOutcome
from hospital_assets.dashboard.figures import Card, Page
from hospital_assets.dashboard.live import LiveBoard
from hospital_assets.dashboard.mart import Mart
from hospital_assets.dashboard.pages.menu import MENU, Entry, pages_of
from hospital_assets.dashboard.render import (
    FOLDER,
    NOW,
    as_csv,
    choices,
    file_name,
    not_followed,
    query,
    render,
    sentence,
)
from hospital_assets.dashboard.slices import Slice, not_found, read_slice
from hospital_assets.dashboard.store import NothingPublishedError, Store
from hospital_assets.files import StateError
from hospital_assets.publishing.policy import Policy
from hospital_assets.publishing.publications import FRESH_FOR, PublicationError

if TYPE_CHECKING:
    from hospital_assets.access.openid import Provider

#: Nothing from elsewhere, no inline script, no inline style.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
_MOST_FORM_BYTES = 10_000
_TOO_MUCH = "This slice needs more memory than the dashboard has: choose a shorter period or one hospital."
_NOT_FOR_ROLE = "This page is not for your role."
#: Requests that are worked on at the same time; others wait their turn.
_THREADS = 4
_ENTRIES = {entry.name: entry for entry in MENU}
_LIVE = "live"
_DAGSTER = "dagster"
#: What is asked for besides pages, as durations keep it apart.
_OTHER_PATHS = (
    "login",
    "login/provider",
    "role",
    "logout",
    "logout/backchannel",
    "may/dagster",
    "live/events",
    "live/acknowledge",
    "publication",
)


@dataclass(frozen=True)
class Dashboard:
    """Everything the server needs.

    Attributes:
        store: open publications.
        board: the live board.
        policy: returns the policy, which says what pages a role may open.
        own_pages: pages that are not made from a publication alone: name -> how.
        audit: called for every page view; when it raises, nothing is shown.
        now: the hospital's clock.
        not_shown_since: when files were loaded that are not in a publication of that moment; None where all are.
        users: who may sign in.
        local: who looks as long as there are no users; None where others can reach the server.
        hosts: names the server answers to.
        is_ready: whether a page could be shown to somebody.
        provider: where people may sign in, too; None for local accounts only.
    """

    store: Store
    board: LiveBoard
    policy: Callable[[], Policy]
    own_pages: Mapping[str, Callable[[Mart], Page]]
    audit: Audit
    now: Callable[[], datetime]
    not_shown_since: Callable[[datetime], datetime | None]
    users: Users
    local: User | None
    hosts: tuple[str, ...]
    is_ready: Callable[[], bool]
    provider: Provider | None = None


def create_app(dashboard: Dashboard, metrics: Metrics | None = None) -> Starlette:
    """The ASGI application.

    Args:
        metrics: what is read at `/metrics`; None where there are none.
    """
    app = Starlette(
        lifespan=_lifespan,
        routes=[
            Route("/", _home),
            Route("/login", _sign_in_form, methods=["GET"]),
            Route("/login", _sign_in, methods=["POST"]),
            Route("/login/provider", _begin_at_provider),
            Route(CALLBACK, _back_from_provider),
            Route("/role", _act_as, methods=["POST"]),
            Route("/logout", _sign_out, methods=["POST"]),
            Route("/logout/backchannel", _ended_at_provider, methods=["POST"]),
            Route("/may/dagster", _may_see_dagster),
            Route("/live/events", _events),
            Route("/live/acknowledge", _acknowledge, methods=["POST"]),
            Mount("/static", StaticFiles(directory=FOLDER / "static")),
            Route("/publication.duckdb", _whole),
            Route("/{page:str}.csv", _export),
            Route("/{page:str}", _page),
        ],
        middleware=[
            trusted_hosts(dashboard.hosts),
            Middleware(Monitored, is_ready=dashboard.is_ready, pages=(*_ENTRIES, *_OTHER_PATHS), metrics=metrics),
            Middleware(_Headers),
            Middleware(GZipMiddleware, minimum_size=1000, compresslevel=5),
            Middleware(AuthenticationMiddleware, backend=_backend(dashboard)),
        ],
        exception_handlers={
            401: _sign_in_first,
            403: _not_for_role,
            404: _nothing_there,
            NothingPublishedError: _nothing_published,
            StateError: _nothing_published,
            PublicationError: _nothing_published,
            duckdb.OutOfMemoryException: _too_much,
        },
    )
    app.state.dashboard = dashboard
    app.state.release = _release()
    return app


def _backend(dashboard: Dashboard) -> SessionBackend:
    """Authenticate a request; the scopes are the names of the role's pages."""

    def scopes(user: User) -> list[str]:
        role = dashboard.policy().roles.get(user.role)
        return [*(entry.name for entry in pages_of(dashboard.policy(), user.role)), *(role.pages if role else ())]

    return SessionBackend(dashboard.users, scopes, dashboard.local)


@asynccontextmanager
async def _lifespan(_: Starlette) -> AsyncIterator[None]:
    # DuckDB has threads of its own; more of ours would only take memory each.
    current_default_thread_limiter().total_tokens = _THREADS
    yield


async def _home(_: Request) -> Response:
    return RedirectResponse("/overview", 307)


# --- pages


@requires(SIGNED_IN, status_code=401)
def _page(request: Request) -> Response:
    entry, user, dashboard = _entry(request), request.user, _dashboard(request)
    if entry.name == _LIVE:
        hospitals, hospital = dashboard.board.hospitals(user), _hospital(request)
        _note(request, "view", entry.name, asked=f"hospital={hospital}" if hospital else "")
        rows = dashboard.board.page(user, hospital)
        frame = _frame(request, entry)
        return HTMLResponse(render("live.html", **frame, rows=rows, hospitals=hospitals, hospital=hospital))
    mart = dashboard.store.mart(user.audience)
    where = read_slice(request.query_params, mart.known)
    asked = query(where)
    _note(request, "view", entry.name, mart.version, asked)
    missing = not_found(request.query_params, mart.known) if entry.has_slicers else ""
    body = (render("not_found.html", text=missing) if missing else "") + _body(
        dashboard, mart, entry, where, _today(request, entry, where)
    )
    if not request.headers.get("x-fragment"):
        body = render(
            "page.html",
            **_frame(request, entry, asked),
            where=where,
            known=mart.known,
            slicers=entry.has_slicers,
            choices=choices(mart.known),
            body=body,
        )
    return HTMLResponse(body, headers={"vary": "x-fragment"})


@requires(SIGNED_IN, status_code=401)
def _export(request: Request) -> Response:
    entry, dashboard = _entry(request), _dashboard(request)
    if entry.name == _LIVE:
        raise HTTPException(404, "There is no such figure.")
    mart = dashboard.store.mart(request.user.audience)
    where = read_slice(request.query_params, mart.known)
    wanted = request.query_params.get("figure")
    for figure in _made(dashboard, mart, entry, where).figures:
        if figure.id == wanted:
            _note(request, "export", f"{entry.name}.{figure.id}", mart.version, query(where))
            sliced = (_of_slice(mart, entry, where), not_followed(figure, where)) if entry.has_slicers else ()
            about = ". ".join(filter(None, (*sliced, _of_publication(mart))))
            return PlainTextResponse(
                as_csv(figure, about),
                media_type="text/csv; charset=utf-8",
                headers={"content-disposition": f'attachment; filename="{file_name(entry.name, figure.id, where)}"'},
            )
    raise HTTPException(404, "There is no such figure.")


@requires(SIGNED_IN, status_code=401)
def _whole(request: Request) -> Response:
    """The publication of the role as a DuckDB file: what the pages are made from, and all that they leave out."""
    mart = _dashboard(request).store.mart(request.user.audience)
    if mart.file is None or not mart.file.is_file():
        raise HTTPException(404, "This version has just been replaced: try again.")
    _note(request, "export", "publication", mart.version)
    return FileResponse(mart.file, filename=f"{mart.audience}-{mart.version}.duckdb")


def _of_slice(mart: Mart, entry: Entry, where: Slice) -> str:
    return sentence(where, mart.known) if entry.has_slicers else ""


def _of_publication(mart: Mart) -> str:
    return f"Publication {mart.audience} {mart.version}."


def _entry(request: Request) -> Entry:
    """The page that was asked for, when it is for the role."""
    entry = _ENTRIES.get(request.path_params["page"])
    if entry is None:
        raise HTTPException(404, "There is no such page.")
    if not has_required_scope(request, [entry.name]):
        raise HTTPException(403)
    return entry


def _made(dashboard: Dashboard, mart: Mart, entry: Entry, where: Slice) -> Page:
    with dashboard.store.building:
        if entry.build is not None:
            return entry.build(mart, where)
        return dashboard.own_pages[entry.name](mart)


def _today(request: Request, entry: Entry, where: Slice) -> tuple[Card, ...]:
    """What the overview says of this moment, for who may see the live board."""
    if entry is not MENU[0] or not has_required_scope(request, [_LIVE]):
        return ()
    return _dashboard(request).board.today(request.user, where.hospital)


def _body(dashboard: Dashboard, mart: Mart, entry: Entry, where: Slice, today: tuple[Card, ...] = ()) -> str:
    stale = _stale(dashboard, mart) if entry.has_slicers else ""

    def make() -> str:
        page = _made(dashboard, mart, entry, where)
        return render(
            "body.html",
            page=page,
            has_now=bool(today),
            title=entry.title,
            current=entry.name,
            where=where,
            carried=query(where),
            sliced=_of_slice(mart, entry, where),
            has_visits=mart.has_visits,
            audience=mart.audience,
            is_served=True,
            freshness=f"Data to {mart.known.last.isoformat()}, published {mart.published_at:%Y-%m-%d %H:%M} UTC",
            stale=stale,
            colophon=f"{_of_publication(mart)} Averages and percentiles of "
            f"fewer than {mart.few} patients are not shown; counts are as the publication holds them.",
        )

    if entry.build is None:
        return make()
    # What waits now changes all the time, and nothing else of the page with it.
    made = dashboard.store.remembered((mart.audience, mart.version, entry.name, where, stale, bool(today)), make)
    if not today:
        return made
    shown = render("now.html", cards=today, where=where)
    return made.replace(NOW, shown, 1)


def _stale(dashboard: Dashboard, mart: Mart) -> str:
    """Why a publication is not to be taken for the present; empty where it may be."""
    behind = dashboard.now() - mart.data_as_of
    if behind > FRESH_FOR:
        return f"These data are {behind // timedelta(hours=1):,} hours old: is anything refreshing and publishing?"
    since = dashboard.not_shown_since(mart.published_at)
    if since is None:
        return ""
    return (
        f"Files loaded at {since:%Y-%m-%d %H:%M} UTC are not in these figures yet: publications follow a refresh "
        "while `hospital dev` runs; else `hospital publish`."
    )


def _frame(request: Request, entry: Entry, asked: str = "") -> dict[str, object]:
    """The frame of every page: menu, the signed-in user, signing out."""
    return {
        "title": entry.title,
        "current": entry.name,
        "viewer": request.user,
        "carried": asked,
        "menu": [page for page in pages_of(_dashboard(request).policy(), request.user.role) if page.is_in_menu],
        "can_sign_out": request.user is not _dashboard(request).local,
        "release": request.app.state.release,
    }


# --- the live board


@requires(SIGNED_IN, status_code=401)
@requires(_LIVE, status_code=403)
async def _events(request: Request) -> Response:
    dashboard = _dashboard(request)
    stream = _while_allowed(request, _backend(dashboard), dashboard.board.stream(request.user, _hospital(request)))
    return StreamingResponse(stream, media_type="text/event-stream", headers={"x-accel-buffering": "no"})


async def _while_allowed(request: Request, backend: SessionBackend, events: AsyncIterator[str]) -> AsyncIterator[str]:
    """Events, of which a beat comes every few seconds, until the session has ended or the page is withdrawn."""

    def is_allowed() -> bool:
        return backend.user_of(request) == request.user and _LIVE in backend.scopes(request.user)

    async for event in events:
        if not await run_in_threadpool(is_allowed):
            return
        yield event


@requires(SIGNED_IN, status_code=401)
@requires(_LIVE, status_code=403)
async def _acknowledge(request: Request) -> Response:
    alert = (await _form(request)).get("alert", "")
    if not alert:
        return PlainTextResponse("Acknowledge an alert from the page of this server.", 403)
    await run_in_threadpool(_note, request, "acknowledge", f"alert {alert[:40]}")
    if not await run_in_threadpool(_dashboard(request).board.acknowledge, request.user, alert):
        return PlainTextResponse("There is no such open alert.", 404)
    return Response(status_code=204)


def _hospital(request: Request) -> str:
    """The hospital that was chosen for the board; empty for all, or where there is no such one."""
    chosen = request.query_params.get("hospital", "")
    return chosen if chosen in _dashboard(request).board.hospitals(request.user) else ""


# --- signing in and out


def _sign_in_form(request: Request) -> Response:
    if request.user is _dashboard(request).local:
        return RedirectResponse("/overview", 303)
    return _sign_in_page(request, _known_page(request.query_params.get("next", "")))


async def _sign_in(request: Request) -> Response:
    form = await _form(request)
    following = _known_page(form.get("next", ""))
    session = await run_in_threadpool(
        _dashboard(request).users.sign_in,
        form.get("name", ""),
        form.get("password", ""),
        DASHBOARD,
        client=client_address(request),
    )
    if session is None:
        return _sign_in_page(request, following, _as_sentence(NOT_LET_IN))
    return _with_session(request, RedirectResponse(f"/{following}", 303), session)


def _with_session(request: Request, answer: Response, session: Session) -> Response:
    """An answer that gives the browser its session."""
    answer.set_cookie(
        COOKIE,
        session.token,
        max_age=int(SESSION_LIFETIME.total_seconds()),
        httponly=True,
        samesite="strict",
        # Where others reach the server, the line is encrypted, be it by a proxy.
        secure=request.url.scheme == "https" or not is_loopback((request.url.hostname or "").strip("[]")),
    )
    return answer


def _sign_in_page(request: Request, following: str, failure: str = "", status: int = 401) -> Response:
    dashboard = _dashboard(request)
    text = render(
        "login.html",
        title="Sign in",
        failure=failure,
        release=request.app.state.release,
        next=_known_page(following),
        provider=dashboard.provider.identity.label if dashboard.provider else "",
        has_local=dashboard.provider is None or dashboard.users.has_local(),
    )
    return HTMLResponse(text, status if failure else 200)


async def _begin_at_provider(request: Request) -> Response:
    following = _known_page(request.query_params.get("next", ""))
    try:
        return await _provider(request).begin(request, following)
    except UnreachableError as error:
        return await run_in_threadpool(_sign_in_page, request, following, _as_sentence(str(error)), 503)


async def _back_from_provider(request: Request) -> Response:
    """Somebody comes back from the identity provider: a session, or the sign-in page with the reason why not."""
    provider, users, client = _provider(request), _dashboard(request).users, client_address(request)
    following, status = "", 401
    try:
        person, following = await provider.finish(request)
        session = await run_in_threadpool(users.sign_in_person, person, DASHBOARD, client=client)
        if session is not None:
            answer = _with_session(request, _onward(request, f"/{following}", "You are signed in."), session)
            answer.delete_cookie(PENDING_COOKIE, path="/login")
            return answer
        failure = "your account is disabled here, or its role is gone: ask who runs this dashboard"
    except NotLetInError as error:
        failure, who = str(error), error.person
        if who is not None:
            status = 403
            refuse = partial(users.refuse_person, who.issuer, who.subject, who.called, failure, client=client)
            await run_in_threadpool(refuse)
        else:
            refused = Event("", "login", outcome="refused", reason=failure, client=client)
            await run_in_threadpool(_dashboard(request).audit, refused)
    except UnreachableError as error:
        failure, status = str(error), 503
    answer = await run_in_threadpool(_sign_in_page, request, following, _as_sentence(failure), status)
    answer.delete_cookie(PENDING_COOKIE, path="/login")
    return answer


async def _act_as(request: Request) -> Response:
    """Somebody with several roles goes on in another, on the page they are on where that role has it."""
    form = await _form(request)
    act_as = partial(_dashboard(request).users.act_as, client=client_address(request))
    token = request.cookies.get(COOKIE, "")
    session = await run_in_threadpool(act_as, token, DASHBOARD, form.get("audience", ""))
    if session is None:
        return PlainTextResponse("That is no role of yours here: choose one on the page of this server.", 403)
    following = _known_page(form.get("next", ""))
    theirs = [page.name for page in pages_of(_dashboard(request).policy(), session.user.role)]
    return _with_session(
        request, RedirectResponse(f"/{following if following in theirs else 'overview'}", 303), session
    )


async def _sign_out(request: Request) -> Response:
    if not _is_from_here(request):
        return PlainTextResponse("Sign out from the page of this server.", 403)
    sign_out = partial(_dashboard(request).users.sign_out, client=client_address(request))
    id_token = await run_in_threadpool(sign_out, request.cookies.get(COOKIE, ""))
    provider = _dashboard(request).provider
    elsewhere = await provider.sign_out_address(id_token) if provider is not None and id_token else ""
    answer = _onward(request, elsewhere, "You are signed out here.") if elsewhere else RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE)
    return answer


async def _ended_at_provider(request: Request) -> Response:
    """Back-channel logout: the identity provider says that a session of its own has ended."""
    client = client_address(request)
    try:
        subject, session_id = await _provider(request).ended((await _form(request)).get("logout_token", ""))
    except NotLetInError as error:
        refused = Event("", "logout", outcome="refused", reason=str(error), client=client)
        await run_in_threadpool(_dashboard(request).audit, refused)
        return PlainTextResponse("This is no logout token for this server.", 400)
    except UnreachableError as error:
        return PlainTextResponse(_as_sentence(str(error)), 503)
    issuer = _provider(request).identity.issuer
    end = partial(_dashboard(request).users.end_at_provider, issuer, subject, session_id, client=client)
    await run_in_threadpool(end)
    return Response(status_code=200)


def _onward(request: Request, address: str, text: str) -> Response:
    """A page that leads on by itself.

    A redirect would not do: after one from elsewhere browsers keep the session's cookie (`strict`) to themselves, and
    ours may lead a form nowhere else (`form-action`).
    """
    return HTMLResponse(
        render("onward.html", title="One moment", text=text, address=address, release=request.app.state.release)
    )


def _provider(request: Request) -> Provider:
    provider = _dashboard(request).provider
    if provider is None:
        raise HTTPException(404, "There is no identity provider here.")
    return provider


@requires(SIGNED_IN, status_code=401)
@requires(_DAGSTER, status_code=403)
def _may_see_dagster(request: Request) -> Response:
    """What a proxy asks before it shows Dagster's UI, which has no users (nginx: auth_request)."""
    # Not what a page loads after itself; who leaves that unsaid is no browser, and noted each time.
    if request.headers.get("sec-fetch-dest", "document") == "document":
        _note(request, "view", _DAGSTER)
    return Response(status_code=204)


def _known_page(name: str) -> str:
    """Where to go after signing in; nothing but a page of ours."""
    return name if name in _ENTRIES or name == _DAGSTER else "overview"


def _as_sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


# --- what goes otherwise


def _sign_in_first(request: Request, _: Exception) -> Response:
    page = request.path_params.get("page")
    if page is None or request.url.path.endswith(".csv"):
        return PlainTextResponse("Sign in first.", 401)
    return RedirectResponse(f"/login?next={_known_page(page)}", 303)


def _not_for_role(request: Request, _: Exception) -> Response:
    about = str(request.path_params.get("page") or request.url.path.strip("/"))
    _note(request, "view", about[:80], outcome="refused")
    return _message(request, _NOT_FOR_ROLE, 403)


def _nothing_there(request: Request, error: Exception) -> Response:
    """A page with the menu, for somebody who asked for a page that is not there."""
    text = error.detail if isinstance(error, HTTPException) else str(error)
    asks_for_page = request.path_params.get("page") and not request.url.path.endswith(".csv")
    if not asks_for_page or not has_required_scope(request, [SIGNED_IN]):
        return PlainTextResponse(text, 404)
    frame = _frame(request, MENU[0]) | {"title": "Not found", "current": ""}
    return HTMLResponse(render("message.html", **frame, text=f"{text} The menu has those there are."), 404)


def _nothing_published(request: Request, error: Exception) -> Response:
    return _message(request, str(error), 503)


def _too_much(request: Request, _: Exception) -> Response:
    return _message(request, _TOO_MUCH, 503)


def _message(request: Request, text: str, status: int) -> Response:
    """A page that says why there is no page; plain text where no page was asked for."""
    entry = _ENTRIES.get(request.path_params.get("page", ""))
    if entry is None or request.url.path.endswith(".csv"):
        return PlainTextResponse(text, status)
    return HTMLResponse(render("message.html", **_frame(request, entry), text=text), status)


def _note(
    request: Request,
    action: AuditAction,
    about: str,
    version: str = "",
    asked: str = "",
    outcome: AuditOutcome = "allowed",
) -> None:
    """Write down what somebody is about to see; what cannot be audited is not shown."""
    user: User = request.user
    statement = f"{action} {about}" + (f"?{asked}" if asked else "")
    _dashboard(request).audit(
        Event(
            user.name, action, user.role, outcome, user.audience, version=version, statement=statement, client=DASHBOARD
        )
    )


def _dashboard(request: Request) -> Dashboard:
    found: Dashboard = request.app.state.dashboard
    return found


def _is_from_here(request: Request) -> bool:
    """Whether a page of this server sent a form; a client that names neither page nor site is no browser.

    A page that hides where it is from (`Origin: null`, as a sandboxed frame) is not one: ours name their origin.
    """
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    is_own = origin is None or origin.split("://")[-1] == request.headers.get("host")
    return is_own and site in ("same-origin", "none")


async def _form(request: Request) -> dict[str, str]:
    """A small form, and only from a page of this server; else it is empty."""
    if not _is_from_here(request):
        return {}
    body = b""
    async for part in request.stream():
        body += part
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
