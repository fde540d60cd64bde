"""Sign-in at an identity provider: a mock by others, and one of ours that lies; sessions, programs, signing out."""

from __future__ import annotations

import base64
import contextlib
import hmac
import html
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws, jwt

from hospital_assets.access.audit import AuditError, AuditLog
from hospital_assets.access.authentication import COOKIE, open_provider
from hospital_assets.access.gateway import app_at, build_app
from hospital_assets.access.identity import (
    PENDING_COOKIE,
    SECRET_FILE_VARIABLE,
    SECRET_VARIABLE,
    NotLetInError,
    client_secret,
    person_of,
)
from hospital_assets.access.openid import KEYS_AT_LEAST_SECONDS, KEYS_AT_MOST_SECONDS, PENDING_SECONDS
from hospital_assets.access.serving import Address
from hospital_assets.access.users import DASHBOARD, User, UserError, open_users
from hospital_assets.dashboard.serve import dashboard_of
from hospital_assets.publishing.policy import shipped_policy
from hospital_assets.settings import (
    CHALLENGERS,
    BackupSettings,
    FileLimits,
    IdentitySettings,
    MirrorSettings,
    Settings,
    SettingsError,
    StaffingSettings,
    load_settings,
    write_settings,
)
from hospital_assets_tests.dashboards import Served, running, serve
from hospital_assets_tests.processes import free_port
from hospital_assets_tests.providers import API, CLIENT, SECRET, Provider, new_key, provider_running
from hospital_assets_tests.test_dashboard_browser import CHROMIUM, FLAGS

PASSWORD = "correct horse battery"  # noqa: S105
ROLES = (("admins", "admin"), ("doctors of mercy", "doctor-H1"), ("analysts", "analyst"))


def identity_at(issuer: str, url: str = "http://127.0.0.1:1", **changed: Any) -> IdentitySettings:
    return IdentitySettings(issuer, CLIENT, url, ROLES, **{"api_audience": API, **changed})


def listening() -> tuple[socket.socket, str]:
    """Where a dashboard will be: settings name its address before it is there."""
    listener = socket.create_server(("127.0.0.1", 0))
    return listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


@dataclass
class Place:
    """A dashboard and its provider."""

    served: Served
    provider: Provider
    settings: Settings

    def browser(self) -> Browser:
        return Browser(self.served.address)

    def said(self) -> list[tuple[str, str, str, str]]:
        return [(e.actor, e.action, e.outcome, e.reason) for e in self.served.seen]

    def wait(self, seconds: float) -> None:
        """Let time pass for what the dashboard remembers of the provider."""
        client = self.served.dashboard.provider
        assert client is not None
        before = client._now
        client._now = lambda: before() + seconds


class Browser(requests.Session):
    """Somebody's browser at the dashboard."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.trust_env = False
        self.address = address

    def to_provider(self, following: str = "") -> requests.Response:
        return self.get(f"{self.address}/login/provider?next={following}", allow_redirects=False, timeout=30)

    def back(self) -> str:
        """Sign in at the provider; the address that it sends the browser back to, not opened yet."""
        answer = requests.get(self.to_provider().headers["location"], allow_redirects=False, timeout=30)
        return answer.headers["location"]

    def sign_in(self) -> requests.Response:
        return self.get(self.back(), allow_redirects=False, timeout=30)

    def may(self) -> int:
        """204: an admin is signed in; 403: somebody else is; 401: nobody."""
        return self.get(f"{self.address}/may/dagster", timeout=30).status_code


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv(SECRET_VARIABLE, SECRET)
    listener, here = listening()
    with provider_running() as provider:
        settings = Settings(tmp_path, identity=identity_at(provider.issuer, here))
        with serve(settings, listener=listener) as served:
            yield Place(served, provider, settings)


def leads_to(answer: requests.Response) -> str:
    found = re.search(r'http-equiv="refresh" content="0; url=([^"]+)"', answer.text)
    assert found, answer.text
    return html.unescape(found[1])


# A provider by others


@pytest.mark.filterwarnings("ignore:get_jwt_config:DeprecationWarning")  # the mock's own
def test_with_a_provider_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, SECRET)
    mock = pytest.importorskip("oidc_provider_mock")
    listener, here = listening()
    ada = mock.User(sub="ada", claims={"preferred_username": "ada.l", "groups": ["nothing of ours", "admins"]})
    bob = mock.User(sub="bob", claims={"preferred_username": "bob", "groups": ["cleaners"]})
    with mock.run_server_in_thread(require_nonce=True, user_claims=[ada, bob]) as server:
        issuer = f"http://localhost:{server.server_port}"
        with serve(Settings(tmp_path, identity=identity_at(issuer, here)), listener=listener) as served:
            browser = Browser(served.address)
            assert browser.get(f"{here}/overview", allow_redirects=False, timeout=30).status_code == 303

            def sign_in(subject: str) -> requests.Response:
                asked = browser.to_provider("flow").headers["location"]
                back = requests.post(asked, data={"sub": subject}, allow_redirects=False, timeout=30)
                return browser.get(back.headers["location"], allow_redirects=False, timeout=30)

            assert leads_to(sign_in("ada")) == "/flow" and browser.may() == 204
            assert browser.get(f"{here}/flow", timeout=30).status_code == 503  # nothing is published, but shown
            out = browser.post(f"{here}/logout", timeout=30)
            end = urlsplit(leads_to(out))
            assert end.path == "/oauth2/end_session" and browser.may() == 401
            asked = parse_qs(end.query)
            assert asked["post_logout_redirect_uri"] == [f"{here}/login"] and asked["id_token_hint"][0].count(".") == 2
            assert requests.get(end.geturl(), timeout=30).ok
            refused = sign_in("bob")
            assert refused.status_code == 403 and "none of your groups has a role here" in refused.text
            assert browser.may() == 401
    entries = [(e.actor, e.action, e.outcome) for e in served.seen if e.action in ("login", "logout", "user")]
    assert entries == [
        ("oidc", "user", "allowed"),
        ("oidc:ada.l", "login", "allowed"),
        ("oidc:ada.l", "logout", "allowed"),
        ("oidc:bob", "login", "refused"),
    ]


@pytest.mark.nightly
def test_in_a_browser_that_keeps_strict_cookies_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider is at another site, so a redirect from there would arrive without the session's cookie."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (apt install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (dev extra)")
    monkeypatch.setenv(SECRET_VARIABLE, SECRET)
    listener, here = listening()
    with provider_running() as provider:
        provider.issuer = provider.issuer.replace("127.0.0.1", "localhost")
        provider.metadata = {"authorization_endpoint": f"{provider.issuer}/page"}
        identity = identity_at(provider.issuer, here)
        with (
            serve(Settings(tmp_path, identity=identity), listener=listener) as served,
            sync_api.sync_playwright() as playwright,
            playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS[:-1]) as chromium,
        ):
            page = chromium.new_page()
            page.goto(f"{served.address}/flow")
            page.get_by_text("Sign in with identity provider").click()
            page.get_by_text("Go on").click()
            page.wait_for_url(f"{served.address}/flow")
            assert page.get_by_text("Role: analyst").is_visible()
            page.get_by_text("Sign out").click()
            page.wait_for_url(f"{provider.issuer}/end_session?**")
            page.goto(f"{served.address}/flow")
            assert page.url == f"{served.address}/login?next=flow"


# What a provider's answer must be


def no_key(provider: Provider, claims: dict[str, Any]) -> str:
    registry = jws.JWSRegistry(algorithms=["none"])
    with pytest.warns(UserWarning, match="none"):
        return jwt.encode({"alg": "none"}, claims, None, registry=registry)  # type: ignore[arg-type]


def public_key_as_secret(provider: Provider, claims: dict[str, Any]) -> str:
    """By hand: the library refuses to make one."""
    parts = ({"alg": "HS256", "kid": provider.key.kid}, claims)
    signed = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    digest = hmac.digest(provider.key.as_pem(private=False), signed, "sha256")
    return f"{signed.decode()}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def without_signature(provider: Provider, claims: dict[str, Any]) -> str:
    return provider.signed(claims).rpartition(".")[0] + "."


FALSE: dict[str, Callable[[Provider], None]] = {
    "another nonce": lambda p: setattr(p, "spoil", lambda c: c.update(nonce="of another sign-in")),
    "no nonce": lambda p: setattr(p, "spoil", lambda c: c.pop("nonce")),
    "another audience": lambda p: setattr(p, "spoil", lambda c: c.update(aud="another")),
    "another audience, though we asked": lambda p: setattr(p, "spoil", lambda c: c.update(aud="another", azp=CLIENT)),
    "several audiences, asked by another": lambda p: setattr(
        p, "spoil", lambda c: c.update(aud=[CLIENT, "another"], azp="another")
    ),
    "no audience": lambda p: setattr(p, "spoil", lambda c: c.pop("aud")),
    "expired": lambda p: setattr(p, "spoil", lambda c: c.update(exp=int(time.time()) - 120)),
    "never expires": lambda p: setattr(p, "spoil", lambda c: c.pop("exp")),
    "expires at no number": lambda p: setattr(p, "spoil", lambda c: c.update(exp=float("nan"))),
    "of tomorrow": lambda p: setattr(p, "spoil", lambda c: c.update(iat=int(time.time()) + 3600)),
    "another issuer": lambda p: setattr(p, "spoil", lambda c: c.update(iss="https://login.example.org")),
    "nobody": lambda p: setattr(p, "spoil", lambda c: c.pop("sub")),
    "somebody without a text": lambda p: setattr(p, "spoil", lambda c: c.update(sub=["1"])),
    "of another access token": lambda p: setattr(p, "spoil", lambda c: c.update(at_hash="MTIzNDU2Nzg5MDEyMzQ1Ng")),
    "another key of that name": lambda p: setattr(p, "make", lambda s, c: s.signed(c, new_key())),
    "another key": lambda p: setattr(p, "make", lambda s, c: s.signed(c, new_key("another"))),
    "algorithm none": lambda p: setattr(p, "make", no_key),
    "the public key as a secret": lambda p: setattr(p, "make", public_key_as_secret),
    "no signature": lambda p: setattr(p, "make", without_signature),
    "no token": lambda p: setattr(p, "make", lambda *_: "nonsense"),
    "an empty token": lambda p: setattr(p, "make", lambda *_: ""),
}


@pytest.mark.parametrize("lie", FALSE)
def test_a_false_answer_lets_nobody_in(place: Place, lie: str) -> None:
    FALSE[lie](place.provider)
    browser = place.browser()
    answer = browser.sign_in()
    assert answer.status_code == 401 and COOKIE not in browser.cookies and browser.may() == 401
    assert place.said()[-1][:3] == ("", "login", "refused")
    token = place.provider.last["id_token"]
    assert "could not be verified" in answer.text and (not token or token not in place.served.seen[-1].reason)
    assert not place.served.dashboard.users.everybody()


def test_a_good_answer_is_taken_with_a_clock_that_is_off_a_little(place: Place) -> None:
    place.provider.spoil = lambda c: c.update(iat=c["iat"] + 30, exp=c["iat"] - 30, aud=[CLIENT])
    browser = place.browser()
    assert leads_to(browser.sign_in()) == "/overview" and browser.may() == 403


def test_keys_without_names_are_tried_one_by_one(place: Place) -> None:
    others = [new_key("a"), new_key("b"), new_key("c")]
    place.provider.published = [others[0], place.provider.key, others[1], others[2]]
    place.provider.make = lambda s, c: jwt.encode({"alg": "RS256"}, c, s.key)
    assert place.browser().sign_in().status_code == 200


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_provider_changes_its_key(place: Place, name: str) -> None:
    """Under the same name, too: the keys are fetched again, once, and not for whoever sends nonsense."""
    assert place.browser().sign_in().status_code == 200 and place.provider.asked["/jwks"] == 1
    place.provider.key = new_key(name)
    assert place.browser().sign_in().status_code == 401 and place.provider.asked["/jwks"] == 1
    place.wait(KEYS_AT_LEAST_SECONDS)
    assert place.browser().sign_in().status_code == 200 and place.provider.asked["/jwks"] == 2
    place.provider.make = lambda s, c: s.signed(c, new_key())
    for _ in range(3):
        assert place.browser().sign_in().status_code == 401
    assert place.provider.asked["/jwks"] == 2


def test_a_key_that_was_withdrawn_counts_no_longer_than_an_hour(place: Place) -> None:
    assert place.browser().sign_in().status_code == 200
    place.provider.published = [new_key("another")]
    assert place.browser().sign_in().status_code == 200
    place.wait(KEYS_AT_MOST_SECONDS)
    place.provider.spoil = lambda c: c.update(iat=c["iat"] + 3600, exp=c["exp"] + 3600)
    assert place.browser().sign_in().status_code == 401


def test_old_keys_do_not_count_while_there_are_no_new_ones(place: Place) -> None:
    assert place.browser().sign_in().status_code == 200
    place.provider.published = []
    place.wait(KEYS_AT_MOST_SECONDS)
    for _ in range(2):
        answer = place.browser().sign_in()
        assert answer.status_code == 503 and "keys" in answer.text


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"issuer": "https://login.example.org"}, "calls itself otherwise"),
        ({"token_endpoint": "http://login.example.org/token"}, "no token_endpoint that begins with https"),
        ({"jwks_uri": None}, "no jwks_uri"),
    ],
)
def test_a_provider_that_says_it_is_another_is_none(place: Place, metadata: dict[str, Any], says: str) -> None:
    place.provider.metadata = metadata
    answer = place.browser().to_provider()
    assert answer.status_code == 503 and says in answer.text


# The way there and back


def test_a_client_without_a_secret_is_known_by_its_challenge_alone(tmp_path: Path) -> None:
    listener, here = listening()
    with provider_running() as provider:
        provider.is_public = True
        identity = identity_at(provider.issuer, here)
        with serve(Settings(tmp_path, identity=identity), listener=listener) as served:
            assert Browser(served.address).sign_in().status_code == 200


def test_a_wrong_secret_is_said(place: Place) -> None:
    place.provider.is_public = True
    answer = place.browser().sign_in()
    assert answer.status_code == 401 and "invalid_client" in answer.text and SECRET not in str(place.said())


def test_a_callback_counts_once_in_one_browser_for_a_while(place: Place) -> None:
    browser = place.browser()
    back = browser.back()
    thief = place.browser()
    assert thief.get(back, timeout=30).status_code == 401 and thief.may() == 401
    assert browser.get(back, timeout=30).status_code == 200 and browser.may() == 403
    assert browser.get(back, timeout=30).status_code == 401
    late = place.browser()
    back = late.back()
    place.wait(PENDING_SECONDS + 1)
    assert late.get(back, timeout=30).status_code == 401
    assert [reason for _, action, outcome, reason in place.said() if (action, outcome) == ("login", "refused")] == [
        "this sign-in was begun in another browser, too long ago, or is over already: begin again"
    ] * 3


def test_a_sign_in_of_another_browser_cannot_be_finished_here(place: Place) -> None:
    """Neither its state nor its code (PKCE): who is signed in as somebody else would enter their own things there."""
    victim, attacker = place.browser(), place.browser()
    foreign, own = attacker.back(), victim.back()
    assert victim.get(foreign, timeout=30).status_code == 401
    own = victim.back()
    code = {name: parse_qs(urlsplit(url).query)["code"][0] for name, url in (("own", own), ("foreign", foreign))}
    answer = victim.get(own.replace(code["own"], code["foreign"]), timeout=30)
    assert answer.status_code == 401 and "invalid_grant" in answer.text and victim.may() == 401


def test_a_session_that_somebody_else_has_set_is_not_taken_on(place: Place) -> None:
    browser = place.browser()
    browser.cookies.set(COOKIE, "chosen-by-somebody-else", domain="127.0.0.1")
    answer = browser.sign_in()
    assert "chosen" not in answer.headers["set-cookie"]
    fixed = place.browser()
    fixed.cookies.set(COOKIE, "chosen-by-somebody-else", domain="127.0.0.1")
    assert fixed.may() == 401


def test_cookies_say_nothing_and_are_out_of_reach(place: Place) -> None:
    browser = place.browser()
    pending = browser.to_provider().headers["set-cookie"].lower()
    assert pending.startswith(f"{PENDING_COOKIE}=") and "httponly" in pending and "samesite=lax" in pending
    session = browser.sign_in().headers["set-cookie"].lower()
    assert session.startswith(f"{COOKIE}=") and "httponly" in session and "samesite=strict" in session
    assert {cookie.name: len(cookie.value or "") for cookie in browser.cookies} == {COOKIE: 43}
    assert "secure" not in session  # a trial at loopback


@pytest.mark.parametrize(
    "following", ["//evil.example", "https://evil.example/", "/\\evil.example", "overview/../x", ""]
)
def test_sign_in_leads_to_pages_of_ours_only(place: Place, following: str) -> None:
    browser = place.browser()
    asked = browser.to_provider(following).headers["location"]
    back = requests.get(asked, allow_redirects=False, timeout=30).headers["location"]
    assert leads_to(browser.get(back, timeout=30)) == "/overview"


def test_words_of_an_address_are_not_shown(place: Place) -> None:
    browser = place.browser()
    browser.to_provider()
    phish = "error=access_denied&error_description=Call+555-0100+to+be+let+in"
    answer = browser.get(f"{place.served.address}/login/callback?{phish}", timeout=30)
    assert answer.status_code == 401 and "555" not in answer.text and "555" not in str(place.said())
    browser.to_provider()
    other = browser.get(browser.back() + "&iss=https%3A%2F%2Flogin.example.org", timeout=30)
    assert other.status_code == 401


def test_a_provider_that_is_down_locks_nobody_else_out(tmp_path: Path) -> None:
    settings = Settings(tmp_path, identity=identity_at(f"http://127.0.0.1:{free_port()}"))
    with contextlib.closing(open_users(settings)) as users:
        users.add(User("ann", "analyst"), PASSWORD, by="os:test")
    with serve(settings) as served:
        browser = Browser(served.address)
        answer = browser.to_provider("flow")
        assert answer.status_code == 503 and "does not answer" in answer.text
        form = {"name": "ann", "password": PASSWORD}
        browser.post(f"{served.address}/login", data=form, allow_redirects=False, timeout=30)
        assert browser.may() == 403
        signed_out = browser.post(f"{served.address}/logout", allow_redirects=False, timeout=30)
        assert signed_out.headers["location"] == "/login"


def test_without_a_provider_nothing_of_it_is_there(tmp_path: Path) -> None:
    with serve(Settings(tmp_path)) as served:
        for path in ("login/provider", "login/callback"):
            assert requests.get(f"{served.address}/{path}", timeout=30).status_code == 404
        assert requests.post(f"{served.address}/logout/backchannel", timeout=30).status_code == 404
        assert "Sign in with" not in requests.get(f"{served.address}/login", timeout=30).text


# Who somebody is here


def test_with_a_provider_nobody_looks_without_signing_in(place: Place) -> None:
    assert place.browser().may() == 401
    page = requests.get(f"{place.served.address}/login?next=flow", timeout=30).text
    assert "Sign in with identity provider" in page and "next=flow" in page and "Password" not in page


def test_local_accounts_stay_and_are_nobody_elses(place: Place) -> None:
    users = place.served.dashboard.users
    users.add(User("ann", "executive"), PASSWORD, by="os:test")
    browser = place.browser()
    browser.sign_in()
    assert {(a.user.name, a.user.role, bool(a.issuer)) for a in users.everybody()} == {
        ("ann", "executive", False),
        ("oidc:ann", "analyst", True),
    }
    assert users.sign_in("ann", PASSWORD, DASHBOARD, client="test") is not None
    for attempt in ("", PASSWORD):
        assert users.sign_in("oidc:ann", attempt, DASHBOARD, client="test") is None
    with pytest.raises(UserError, match="signs in at the identity provider"):
        users.set_password("oidc:ann", PASSWORD, by="os:test")
    with pytest.raises(UserError, match="lower-case"):
        users.add(User("oidc:bob", "admin"), PASSWORD, by="os:test")
    assert users.active("oidc:ann") is None and users.active("ann") is not None
    assert "Password" in requests.get(f"{place.served.address}/login", timeout=30).text


def test_a_name_that_another_subject_had_first_is_told_apart(place: Place) -> None:
    place.browser().sign_in()
    place.provider.claims |= {"sub": "2", "groups": ["admins"]}
    browser = place.browser()
    browser.sign_in()
    names = [(a.user.name, a.user.role) for a in place.served.dashboard.users.everybody()]
    assert names[0] == ("oidc:ann", "analyst") and re.fullmatch("oidc:ann~[0-9a-f]{12}", names[1][0])
    place.provider.claims |= {"preferred_username": "renamed\n<b>"}
    place.browser().sign_in()
    assert len(place.served.dashboard.users.everybody()) == 2


def test_the_role_is_what_the_provider_said_last(place: Place) -> None:
    first, second = place.browser(), place.browser()
    place.provider.claims["groups"] = ["admins", "analysts"]
    first.sign_in()
    assert first.may() == 204
    place.provider.claims["groups"] = ["analysts"]
    second.sign_in()
    assert (first.may(), second.may()) == (403, 403)
    place.provider.claims["groups"] = []
    assert place.browser().sign_in().status_code == 403
    assert (first.may(), second.may()) == (401, 401)
    acts = [(e.actor, e.statement) for e in place.served.seen if e.action == "user"]
    assert acts == [("oidc", "add oidc:ann as admin or analyst, subject 1"), ("oidc", "change oidc:ann to analyst")]


BOTH = ["doctors of mercy", "analysts", "admins", "doctors of mercy"]


def acting(browser: Browser, audience: str, following: str = "overview", **headers: str) -> requests.Response:
    form = {"audience": audience, "next": following}
    return browser.post(f"{browser.address}/role", data=form, headers=headers, allow_redirects=False, timeout=30)


def test_who_has_several_roles_begins_in_the_first_and_chooses_another(place: Place) -> None:
    place.provider.claims["groups"] = BOTH
    browser = place.browser()
    browser.sign_in()
    users, first = place.served.dashboard.users, browser.cookies[COOKIE]
    user = users.user_of(first, DASHBOARD)
    assert user is not None and (user.audience, user.audiences) == ("admin", ("admin", "doctor-H1", "analyst"))
    assert browser.may() == 204
    answer = acting(browser, "doctor-H1", "live")
    # A cookie that somebody has copied before opens nothing any more.
    second = browser.cookies[COOKIE]
    assert (answer.status_code, answer.headers["location"]) == (303, "/live") and second != first
    assert users.user_of(first, DASHBOARD) is None and users.user_of(second, DASHBOARD) == User(
        "oidc:ann", "doctor", "H1"
    )
    assert all(word in answer.headers["set-cookie"].lower() for word in ("httponly", "samesite=strict"))
    assert browser.may() == 403
    page = browser.get(f"{browser.address}/live", timeout=30)
    assert page.status_code == 200 and "<option selected>doctor-H1</option>" in page.text
    assert "<option>analyst</option>" in page.text and 'action="/role"' in page.text
    # A page that the new role does not have is left.
    assert acting(browser, "analyst", "live").headers["location"] == "/overview"
    # Another sign-in begins in the first again, and this one goes on in its own.
    again = place.browser()
    again.sign_in()
    assert again.may() == 204 and browser.may() == 403
    assert [user.audience for account in users.everybody() for user in [account.user]] == ["admin"]
    said = [(e.audience, e.outcome, e.statement) for e in place.served.seen if e.action == "login" and e.statement]
    assert said == [
        ("doctor-H1", "allowed", "act as doctor-H1 instead of admin"),
        ("analyst", "allowed", "act as analyst instead of doctor-H1"),
    ]


@pytest.mark.parametrize("audience", ["doctor-H2", "doctor", "executive", "", "Admin", "admin' or '1", "x" * 900])
def test_a_role_that_is_not_theirs_is_refused_and_written_down(place: Place, audience: str) -> None:
    place.provider.claims["groups"] = BOTH[:2]
    browser = place.browser()
    browser.sign_in()
    token = browser.cookies[COOKIE]
    assert acting(browser, audience).status_code == 403 and browser.cookies[COOKIE] == token
    assert place.served.dashboard.users.user_of(token, DASHBOARD) == User("oidc:ann", "doctor", "H1")
    event = place.served.seen[-1]
    assert (event.actor, event.action, event.outcome) == ("oidc:ann", "login", "refused") and len(event.reason) < 100


def test_nobody_else_chooses_a_role(place: Place) -> None:
    place.provider.claims["groups"] = BOTH
    browser = place.browser()
    assert acting(browser, "admin").status_code == 403
    browser.sign_in()
    for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        assert acting(browser, "analyst", **headers).status_code == 403
    assert browser.get(f"{browser.address}/role?audience=analyst", timeout=30).status_code in (404, 405)
    assert browser.may() == 204
    assert not [e for e in place.served.seen if e.statement.startswith("act as")]


def test_a_role_that_the_provider_takes_away_ends_where_it_was_chosen(place: Place) -> None:
    place.provider.claims["groups"] = BOTH
    browser = place.browser()
    browser.sign_in()
    acting(browser, "doctor-H1")
    users, token = place.served.dashboard.users, browser.cookies[COOKIE]
    place.provider.claims["groups"] = ["analysts", "doctors of mercy"]
    place.browser().sign_in()
    assert users.user_of(token, DASHBOARD) == User("oidc:ann", "doctor", "H1")
    assert place.served.seen[-2].statement == "change oidc:ann to doctor-H1 or analyst"
    place.provider.claims["groups"] = ["analysts"]
    place.browser().sign_in()
    assert users.user_of(token, DASHBOARD) == User("oidc:ann", "analyst")
    assert acting(browser, "doctor-H1").status_code == 403
    page = browser.get(f"{browser.address}/flow", timeout=30)
    assert 'action="/role"' not in page.text and "Role: analyst" in page.text


def test_what_cannot_be_audited_is_not_chosen(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.provider.claims["groups"] = BOTH
    browser = place.browser()
    browser.sign_in()
    users, token = place.served.dashboard.users, browser.cookies[COOKIE]

    def full(_: object) -> None:
        raise AuditError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(users, "_audit", full)
        with pytest.raises(AuditError):
            users.act_as(token, DASHBOARD, "analyst", client="")
    assert users.user_of(token, DASHBOARD) == User("oidc:ann", "admin") and browser.may() == 204


def test_a_local_account_has_one_role(place: Place) -> None:
    users = place.served.dashboard.users
    users.add(User("ann", "analyst"), "correct horse battery", by="os:test")
    session = users.sign_in("ann", "correct horse battery", DASHBOARD, client="")
    assert session is not None and users.user_of(session.token, DASHBOARD) == User("ann", "analyst")
    for audience in ("analyst", "admin"):
        assert users.act_as(session.token, DASHBOARD, audience, client="") is None


def test_a_program_asks_in_the_first_role(place: Place) -> None:
    person = person_of({"sub": "1", "groups": BOTH}, identity_at(place.provider.issuer))
    user = place.served.dashboard.users.person(person)
    assert user is not None and user.audience == "admin"


def test_a_programs_token_changes_no_role_of_a_session(place: Place) -> None:
    place.provider.claims["groups"] = BOTH
    browser, users = place.browser(), place.served.dashboard.users
    browser.sign_in()
    acting(browser, "analyst")
    entries = len(place.served.seen)
    fewer = person_of({"sub": "1", "groups": BOTH[:1]}, identity_at(place.provider.issuer))
    asking = users.person(fewer)
    assert asking is not None and asking.audience == "doctor-H1"
    now = users.user_of(browser.cookies[COOKIE], DASHBOARD)
    assert now is not None and now.audiences == ("admin", "doctor-H1", "analyst") and now.audience == "analyst"
    assert len(place.served.seen) == entries


def test_who_is_disabled_here_stays_out_whatever_the_provider_says(place: Place) -> None:
    browser = place.browser()
    browser.sign_in()
    place.served.dashboard.users.disable("oidc:ann", by="os:test")
    assert browser.may() == 401
    answer = browser.sign_in()
    assert answer.status_code == 401 and "disabled here" in answer.text
    assert place.said()[-1] == ("oidc:ann", "login", "refused", "disabled here")


def test_who_cannot_be_audited_is_not_let_in(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(place.served.dashboard.users, "_audit", full)
    browser = place.browser()
    assert browser.sign_in().status_code == 500 and COOKIE not in browser.cookies
    assert place.served.dashboard.users.everybody() == []


# Signing out


def test_signing_out_ends_a_copied_cookie_too(place: Place) -> None:
    browser, thief = place.browser(), place.browser()
    browser.sign_in()
    thief.cookies.update(browser.cookies)
    assert thief.may() == 403
    out = browser.post(f"{place.served.address}/logout", timeout=30)
    assert parse_qs(urlsplit(leads_to(out)).query)["id_token_hint"] == [place.provider.last["id_token"]]
    assert (browser.may(), thief.may()) == (401, 401)
    foreign = browser.post(f"{place.served.address}/logout", headers={"origin": "https://evil.example"}, timeout=30)
    assert foreign.status_code == 403


@pytest.mark.parametrize("stated", [{"sid": "session-1"}, {"sub": "1"}, {"sub": None, "sid": "session-1"}])
def test_the_provider_ends_sessions(place: Place, stated: dict[str, Any]) -> None:
    browser, other = place.browser(), place.browser()
    browser.sign_in()
    place.provider.claims = place.provider.claims | {"sub": "2", "preferred_username": "bob"}
    place.provider.spoil = lambda c: c.update(sid="session-2")
    other.sign_in()
    place.provider.claims["sub"] = "1"
    form = {"logout_token": place.provider.logout_token(**stated)}
    answer = requests.post(f"{place.served.address}/logout/backchannel", data=form, timeout=30)
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
    assert (browser.may(), other.may()) == (401, 403)
    assert place.said()[-2][:3] == ("oidc:ann", "logout", "allowed")


@pytest.mark.parametrize(
    "make",
    [
        lambda p: p.logout_token(events=None),
        lambda p: p.logout_token(events={"http://schemas.openid.net/event/another": {}}),
        lambda p: p.logout_token(nonce="x"),
        lambda p: p.logout_token(aud="another"),
        lambda p: p.logout_token(iss="https://login.example.org"),
        lambda p: p.logout_token(sub=None),
        lambda p: p.logout_token(sub=None, sid=7),
        lambda p: p.logout_token(exp=1),
        lambda p: p.signed(p.about(sid="session-1"), new_key()),
        lambda p: p.last["id_token"],
        lambda _: "",
    ],
)
def test_nobody_else_ends_sessions(place: Place, make: Callable[[Provider], str]) -> None:
    browser = place.browser()
    browser.sign_in()
    form = {"logout_token": make(place.provider)}
    answer = requests.post(f"{place.served.address}/logout/backchannel", data=form, timeout=30)
    assert answer.status_code == 400 and browser.may() == 403
    assert ("", "logout", "refused") in [entry[:3] for entry in place.said()]


# Programs at the gateway


@dataclass
class Gateway:
    address: str
    provider: Provider
    settings: Settings

    def ask(self, token: str) -> requests.Response:
        return requests.get(f"{self.address}/v1/tables", headers={"authorization": f"Bearer {token}"}, timeout=30)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with provider_running() as provider:
        settings = Settings(tmp_path, identity=identity_at(provider.issuer))
        app = build_app(settings)
        with running(app) as address:
            yield Gateway(address, provider, settings)
        app.state.gate.users.close()


def test_a_program_asks_with_a_token_of_the_provider(gateway: Gateway) -> None:
    token = gateway.provider.access_token()
    answer = gateway.ask(token)
    assert answer.status_code == 404 and "published for you" in answer.text
    assert gateway.ask(gateway.provider.access_token(scope=None, scp=["hospital.query"])).status_code == 404
    with contextlib.closing(open_users(gateway.settings)) as users:
        assert [a.user for a in users.everybody()] == [User("oidc:ann", "analyst")]
        users.disable("oidc:ann", by="os:test")
    refused = gateway.ask(token)
    assert refused.status_code == 401 and refused.json() == {"error": "disabled here"}
    assert refused.headers["www-authenticate"] == "Bearer"
    with contextlib.closing(AuditLog(gateway.settings)) as log:
        last = log.entries().tail(1).row(0, named=True)
    assert (last["action"], last["outcome"], last["reason"]) == ("login", "refused", "disabled here")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: p.access_token(aud=CLIENT), "InvalidClaim aud"),
        (lambda p: p.access_token(scope="openid"), "lacks the scope 'hospital.query'"),
        (lambda p: p.access_token(scope=None), "lacks the scope"),
        (lambda p: p.access_token(exp=1), "ExpiredToken exp"),
        (lambda p: p.access_token(exp=None), "MissingClaim exp"),
        (lambda p: p.access_token(iss="https://login.example.org"), "InvalidClaim iss"),
        (lambda p: p.access_token(groups=["cleaners"]), "none of your groups"),
        (lambda p: p.signed(p.about(aud=API, scope="hospital.query"), new_key()), "BadSignature"),
        (lambda p: public_key_as_secret(p, p.about(aud=API, scope="hospital.query")), "UnsupportedAlgorithm"),
        (lambda p: no_key(p, p.about(aud=API, scope="hospital.query")), "UnsupportedAlgorithm"),
        (lambda p: p.signed(p.about(nonce="x")), "InvalidClaim aud"),  # an ID token
        (lambda _: "a.b.c", "could not be verified"),
        (lambda _: "made-up", "log in first"),
    ],
)
def test_a_token_for_something_else_opens_nothing(gateway: Gateway, make: Callable[[Provider], str], says: str) -> None:
    token = make(gateway.provider)
    answer = gateway.ask(token)
    assert answer.status_code == 401 and says in answer.json()["error"]
    with contextlib.closing(AuditLog(gateway.settings)) as log:
        last = log.entries().tail(1).row(0, named=True)
    assert last["outcome"] == "refused" and token not in str(last)


def test_a_gateway_without_keys_says_so(gateway: Gateway) -> None:
    token = gateway.provider.access_token()
    gateway.provider.metadata = {"jwks_uri": f"http://127.0.0.1:{free_port()}/"}
    for _ in range(2):
        answer = gateway.ask(token)
        assert answer.status_code == 503 and "identity provider" in answer.json()["error"]


# Settings


EXAMPLE = """
[identity]
issuer = "https://login.example.org/realms/hospital"
client_id = "dashboard"
url = "https://ed.example.org/"
claim = "realm_access.roles"
api_audience = "gateway"

[identity.roles]
"ED Doctors, Mercy" = "doctor-H1"
analysts = "analyst"
"""


def test_settings_are_read_and_written(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    settings.settings_file.write_text(EXAMPLE)
    found = load_settings(tmp_path)
    assert found.identity == IdentitySettings(
        "https://login.example.org/realms/hospital",
        "dashboard",
        "https://ed.example.org",
        (("ED Doctors, Mercy", "doctor-H1"), ("analysts", "analyst")),
        claim="realm_access.roles",
        api_audience="gateway",
    )
    write_settings(found)
    assert load_settings(tmp_path) == found


words = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1).filter(str.strip)


@given(st.dictionaries(words, words, min_size=1), words, words)
def test_any_words_survive_the_file(
    tmp_path_factory: pytest.TempPathFactory, roles: dict[str, str], claim: str, label: str
) -> None:
    identity = replace(identity_at("https://x.example"), roles=tuple(roles.items()), claim=claim, label=label)
    settings = Settings(tmp_path_factory.getbasetemp(), identity=identity)
    write_settings(settings)
    assert load_settings(settings.data_dir).identity == identity
    settings.settings_file.unlink()


def test_all_that_settings_say_survives_the_file(tmp_path: Path) -> None:
    stated = Settings(
        tmp_path,
        date(2026, 2, 1),
        date(2026, 3, 1),
        "monthly",
        refresh_after_files=7,
        refresh_after_seconds=0,
        dagster_url="https://ed.example.org/dagster",
        limits=FileLimits(seconds=9),
        baselines_from=(date(2026, 2, 3), date(2026, 2, 10)),
        holiday_calendars=(("H 1", "US-WI"), ("H2", "none")),
        forecast_challengers=CHALLENGERS,
        staffing=StaffingSettings(rest_hours=12, patients_per_nurse=(1, 1, 2, 3, 4), hours_a_week=(("H1", 560),)),
        mirror=MirrorSettings("s3://bucket/folder", 30),
        backup=BackupSettings("/mnt/backup", ("age1abc", "ssh-ed25519 AAAA"), 3),
        identity=replace(identity_at("https://x.example"), scopes=("openid", "email")),
    )
    # Whatever is added to the settings belongs here, too.
    assert not [f.name for f in fields(stated) if getattr(stated, f.name) == f.default]
    write_settings(stated)
    assert load_settings(tmp_path) == stated
    write_settings(Settings(tmp_path))
    assert load_settings(tmp_path) == Settings(tmp_path)
    assert "[" not in stated.settings_file.read_text()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('client_id = "dashboard"', "", "'identity.client_id' is missing"),
        ('client_id = "dashboard"', 'client_id = "gateway"', "must differ"),
        ('client_id = "dashboard"', "client_id = 7", "must be a text"),
        ("claim =", "claims =", "unknown key 'identity.claims'"),
        ("claim =", "client_secret =", "set HOSPITAL_OIDC_CLIENT_SECRET"),
        ("https://login", "http://login", "begins with https://"),
        ("https://ed.example.org/", "https://ed.example.org/a", "has no path"),
        ("https://ed.example.org/", "ftp://ed.example.org/", "begins with https://"),
        ('"analyst"', '["analyst"]', "'identity.roles' must be a table"),
        ("claim =", 'scopes = ["profile"]\nclaim =', 'a list of texts with "openid"'),
    ],
)
def test_settings_that_cannot_be_used_are_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert EXAMPLE.count(old) == 1
    Settings(tmp_path).settings_file.write_text(EXAMPLE.replace(old, new))
    with pytest.raises(SettingsError, match=re.escape(says)) as caught:
        load_settings(tmp_path)
    assert "hospital.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("audience", "says"),
    [
        ("docter-H1", "no role 'docter'; its roles are admin"),
        ("doctor", "say which"),
        ("analyst-H1", "not at a hospital"),
    ],
)
def test_a_wrong_role_is_refused_at_the_start_by_name(tmp_path: Path, audience: str, says: str) -> None:
    identity = replace(identity_at("https://x.example"), roles=(("ED", audience),))
    settings = Settings(tmp_path, identity=identity)
    for start in (lambda: dashboard_of(settings, "admin", print), lambda: app_at(settings, Address())):
        with pytest.raises(SettingsError, match=f"identity.roles: 'ED' = '{audience}'.*{says}"):
            start()


def test_a_provider_is_somebody_who_can_sign_in(tmp_path: Path) -> None:
    settings = Settings(tmp_path, identity=identity_at("https://x.example"))
    app = app_at(settings, Address(names=("ed.example.org",)))
    app.state.gate.users.close()
    dashboard = dashboard_of(settings, "admin", print, Address())
    assert dashboard.local is None
    dashboard.users.close()


def test_the_secret_is_where_nobody_reads_it(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "data")
    settings.data_dir.mkdir()
    assert client_secret(settings, {}) is None
    assert client_secret(settings, {SECRET_VARIABLE: " s \n"}) == "s"
    file = tmp_path / "secret"
    named = {SECRET_FILE_VARIABLE: str(file)}
    with pytest.raises(SettingsError, match="cannot be read: FileNotFoundError"):
        client_secret(settings, named)
    file.write_text("s3cret\n")
    file.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        client_secret(settings, named)
    file.chmod(0o600)
    assert client_secret(settings, named) == "s3cret"
    file.write_text("\n")
    with pytest.raises(SettingsError, match="is empty"):
        client_secret(settings, named)
    inside = settings.data_dir / "secret"
    inside.write_text("s3cret")
    inside.chmod(0o600)
    with pytest.raises(SettingsError, match="lies in the data directory"):
        client_secret(settings, {SECRET_FILE_VARIABLE: str(inside)})


def test_without_the_extra_the_message_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "hospital_assets.access.openid")
    monkeypatch.setitem(sys.modules, "authlib", None)
    for name in [name for name in sys.modules if name.startswith("authlib.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SettingsError, match=r"pip install 'hospital-assets\[oidc\]'"):
        open_provider(Settings(tmp_path, identity=identity_at("https://x.example")), shipped_policy(), {})


# Groups


@given(st.permutations([group for group, _ in ROLES] + ["another", "ADMINS", "admins "]), st.data())
def test_the_first_group_of_the_file_counts(groups: list[str], data: st.DataObject) -> None:
    have = data.draw(st.lists(st.sampled_from(groups)))
    identity = identity_at("https://x.example")
    expected = next((audience for group, audience in ROLES if group in have), None)
    claims = {"sub": "1", "groups": have}
    if expected is None:
        with pytest.raises(NotLetInError):
            person_of(claims, identity)
    else:
        person = person_of(claims, identity)
        assert User(person.name, person.role, person.hospital_id).audience == expected


@pytest.mark.parametrize(
    ("claim", "claims", "has_role"),
    [
        ("groups", {"groups": "admins"}, True),
        ("groups", {"groups": "admins analysts"}, False),
        ("groups", {"groups": [{"name": "admins"}]}, False),
        ("groups", {"groups": {"admins": True}}, False),
        ("groups", {"groups": None}, False),
        ("groups", {"_claim_names": {"groups": "src1"}}, False),
        ("realm_access.roles", {"realm_access": {"roles": ["admins"]}}, True),
        ("realm_access.roles", {"realm_access": ["admins"]}, False),
        ("https://x.example/groups", {"https://x.example/groups": ["admins"]}, True),
    ],
)
def test_shapes_of_a_claim(claim: str, claims: dict[str, Any], has_role: bool) -> None:
    identity = identity_at("https://x.example", claim=claim)
    with contextlib.nullcontext() if has_role else pytest.raises(NotLetInError):
        assert person_of({"sub": "1", **claims}, identity).role == "admin"


@given(st.text())
def test_no_name_of_a_provider_is_a_local_one(name: str) -> None:
    person = person_of(
        {"sub": "s u b", "preferred_username": name, "groups": ["admins"]}, identity_at("https://x.example")
    )
    assert re.fullmatch(r"oidc:[a-zA-Z0-9@._-]{1,64}", person.called)
