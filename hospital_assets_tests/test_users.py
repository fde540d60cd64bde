"""Users: one store for both applications; every act audited inside the act; addresses, TLS and host names."""

from __future__ import annotations

import asyncio
import contextlib
import io
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from urllib3 import Retry

from hospital_assets.access import users as access
from hospital_assets.access.audit import AuditError, AuditLog, Event
from hospital_assets.access.authentication import client_address
from hospital_assets.access.serving import Address, ServingError, check, options_of
from hospital_assets.access.users import (
    DASHBOARD,
    GATEWAY,
    LOCKED_FOR,
    MOST_FAILURES,
    NOT_LET_IN,
    SESSION_LIFETIME,
    Person,
    User,
    UserError,
    Users,
    open_users,
    users_file,
)
from hospital_assets.addresses import is_loopback, is_protected
from hospital_assets.cli import main
from hospital_assets.publishing.policy import POLICY_FILE, CurrentPolicy, parse_policy, shipped_policy
from hospital_assets.publishing.targets import postgres
from hospital_assets.settings import Settings, load_settings
from hospital_assets_tests.conftest import SHIPPED_COST
from hospital_assets_tests.dashboards import running
from hospital_assets_tests.processes import free_port, hospital, started

EVERYWHERE = "0.0.0.0"  # noqa: S104
PASSWORD = "correct horse battery"  # noqa: S105
NOW = datetime(2026, 3, 12, 20, tzinfo=UTC)
BY = "os:test"


@dataclass
class Notes:
    """An audit in memory that can fail."""

    events: list[Event] = field(default_factory=list)
    is_full: bool = False

    def __call__(self, event: Event) -> None:
        if self.is_full:
            raise AuditError("the disk is full")
        self.events.append(event)

    def said(self) -> list[tuple[str, str, str]]:
        return [(e.actor, e.statement or e.action, e.outcome) for e in self.events]


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def users(tmp_path: Path, notes: Notes) -> Iterator[Users]:
    """In a directory that does not exist yet."""
    users = Users(tmp_path / "new" / "access" / "users.db", shipped_policy, notes)
    users.add(User("ann", "analyst"), PASSWORD, by=BY)
    notes.events.clear()
    yield users
    users.close()


def test_a_try_at_a_password_is_dear() -> None:
    """By OWASP's cheat sheet: N=2^15, r=8 and p=3 at least; other tests pay less."""
    assert SHIPPED_COST >= 2**15
    assert (access._BLOCK, access._PARALLEL) >= (8, 3)


def sign_in(users: Users, name: str = "ann", password: str = PASSWORD, now: datetime = NOW) -> str | None:
    found = users.sign_in(name, password, DASHBOARD, client="test", now=now)
    return None if found is None else found.token


# Sessions


def test_sessions_expire_and_their_tokens_are_not_stored(users: Users, tmp_path: Path) -> None:
    found = users.sign_in("ann", PASSWORD, GATEWAY, client="test", now=NOW)
    assert found is not None and found.expires_at == NOW + SESSION_LIFETIME
    assert users.user_of(found.token, GATEWAY, NOW) == User("ann", "analyst")
    assert users.user_of(found.token, GATEWAY, found.expires_at) is None
    assert users.user_of("made up", GATEWAY, NOW) is None
    folder = tmp_path / "new" / "access"
    data = b"".join(path.read_bytes() for path in folder.iterdir())
    assert found.token.encode() not in data and PASSWORD.encode() not in data
    assert (folder / "users.db").stat().st_mode & 0o077 == 0


def test_a_session_that_is_not_used_ends_and_use_does_not_outlast_its_limit(users: Users) -> None:
    minute = timedelta(minutes=1)
    token, other = sign_in(users), sign_in(users)
    assert token and other
    now = NOW
    while now < NOW + timedelta(hours=7, minutes=50):
        assert users.user_of(token, DASHBOARD, now)
        now += 50 * minute
    assert users.user_of(other, DASHBOARD, NOW + 61 * minute) is None
    assert users.user_of(other, DASHBOARD, NOW + 59 * minute)
    assert [account.sessions for account in users.everybody(NOW + 62 * minute)] == [2]
    assert users.user_of(token, DASHBOARD, NOW + timedelta(hours=8)) is None


def test_administrators_see_sessions_and_end_one(users: Users, notes: Notes) -> None:
    token, other = sign_in(users), sign_in(users)
    found = users.sessions(NOW)
    assert [session.name for session in found] == ["ann", "ann"] and token not in str(found)
    users.end(found[0].session_id, by=BY)
    assert [bool(t and users.user_of(t, DASHBOARD, NOW)) for t in (token, other)].count(True) == 1
    with pytest.raises(UserError, match="no session"):
        users.end(found[0].session_id, by=BY)
    for attack in ("%", "", "' or 1=1 --"):
        with pytest.raises(UserError):
            users.end(attack, by=BY)
    assert notes.said()[-2][2] == "refused" and len(users.sessions(NOW)) == 1


def test_a_file_of_before_is_used(tmp_path: Path, users: Users) -> None:
    file = tmp_path / "old.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute(
            "create table sessions (token_sha256 text primary key, kind text, name text, created_at text, "
            "expires_at text)"
        )
        connection.execute("insert into sessions values ('a', 'dashboard', 'ann', '2026', '2099')")
        connection.execute(
            "create table users (name text primary key, role text not null, hospital_id text, salt blob not null, "
            "password blob not null, created_at text not null, is_disabled integer not null default 0, "
            "failure_count integer not null default 0, failed_at text)"
        )
        connection.execute(
            "insert into users (name, role, salt, password, created_at) values ('a', 'analyst', '', '', '')"
        )
        connection.commit()
    with contextlib.closing(Users(file, users._policy, lambda _: None)) as old:
        assert old.sessions(NOW) == [] and old.active("a") == User("a", "analyst")


ENDINGS: dict[str, Callable[[Users, str, list[str]], object]] = {
    "disable": lambda users, *_: users.disable("ann", by=BY),
    "remove": lambda users, *_: users.remove("ann", by=BY),
    "password": lambda users, *_: users.set_password("ann", "another long password", by=BY),
    "revoke": lambda users, *_: users.revoke("ann", by=BY),
    "sign out": lambda users, token, _: users.sign_out(token, client="test"),
    "session ended": lambda users, *_: users.end(users.sessions()[0].session_id, by=BY),
    "too old": lambda users, *_: users._connection.execute("update sessions set expires_at = '2020'"),
    "not used": lambda users, *_: users._connection.execute("update sessions set used_at = '2020'"),
    "page withdrawn": lambda _, __, pages: pages.remove("live"),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_event_streams_end_with_the_session_and_with_the_page(users: Users, ending: str) -> None:
    from hospital_assets.access.authentication import COOKIE, SessionBackend
    from hospital_assets.dashboard.app import _while_allowed

    found = users.sign_in("ann", PASSWORD, DASHBOARD, client="test")
    assert found
    pages = ["live", "governance"]
    backend = SessionBackend(users, lambda _: pages, User("local", "admin"))
    headers = [(b"cookie", f"{COOKIE}={found.token}".encode())]
    request = Request({"type": "http", "headers": headers, "user": found.user})

    async def board() -> AsyncIterator[str]:
        for number in range(10):
            yield f"event {number}"

    async def follow() -> list[str]:
        seen = []
        async for event in _while_allowed(request, backend, board()):
            seen.append(event)
            if len(seen) == 2:
                ENDINGS[ending](users, found.token, pages)
        return seen

    assert asyncio.run(follow()) == ["event 0", "event 1"]


def test_a_session_of_one_application_opens_nothing_in_the_other(users: Users) -> None:
    token = sign_in(users)
    assert token and users.user_of(token, DASHBOARD, NOW) and users.user_of(token, GATEWAY, NOW) is None
    users.sign_out(token, client="test")
    assert users.user_of(token, DASHBOARD, NOW) is None


def test_signing_out_is_audited_once(users: Users, notes: Notes) -> None:
    token = sign_in(users)
    for _ in range(2):
        users.sign_out(token or "", client="10.0.0.7")
    assert [(e.actor, e.action, e.client) for e in notes.events[1:]] == [("ann", "logout", "10.0.0.7")]


def test_a_policy_that_changes_holds_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = load_settings(tmp_path)
    policy = CurrentPolicy(settings)
    assert "analyst" in policy().roles and policy() is policy()
    text = POLICY_FILE.read_text(encoding="utf-8")
    settings.policy_file.write_text(text.replace("[roles.analyst", "[roles.researcher"), encoding="utf-8")
    assert "researcher" in policy().roles and "analyst" not in policy().roles
    settings.policy_file.write_text("version = 2\n", encoding="utf-8")
    assert "researcher" in policy().roles and "stays in force" in caplog.text
    settings.policy_file.unlink()
    assert "analyst" in policy().roles


def test_a_role_that_is_at_single_hospitals_from_now_on_lets_nobody_in_who_has_none(
    tmp_path: Path, notes: Notes
) -> None:
    text = POLICY_FILE.read_text(encoding="utf-8")
    narrowed = parse_policy(text.replace("[roles.analyst]\n", '[roles.analyst]\nrows = "own_hospital"\n'), "p")
    in_force = [shipped_policy()]
    with contextlib.closing(Users(tmp_path / "users.db", lambda: in_force[-1], notes)) as users:
        users.add(User("ann", "analyst"), PASSWORD, by=BY)
        oidc = Person("https://id", "1", "bob", "executive", audiences=("executive", "analyst", "doctor-H1"))
        bob = users.sign_in_person(oidc, DASHBOARD, client="test", now=NOW)
        token = sign_in(users)
        assert token and bob and users.active("ann") and users.has_active()
        in_force.append(narrowed)
        assert users.user_of(token, DASHBOARD, NOW) is None and sign_in(users) is None
        assert users.active("ann") is None
        # Who has other roles acts in those only.
        acting = users.user_of(bob.token, DASHBOARD, NOW)
        assert acting is not None and acting.audiences == ("executive", "doctor-H1")
        analyst = replace(oidc, role="analyst", audiences=("analyst",))
        assert users.person(analyst) is None
        assert users.sign_in_person(analyst, DASHBOARD, client="test", now=NOW) is None
        assert not users.has_active()
        users.add(User("ann.h1", "analyst", "H1"), PASSWORD, by=BY)
        assert sign_in(users, "ann.h1") is not None


def test_who_guesses_is_locked_out_for_a_while(users: Users, notes: Notes) -> None:
    for _ in range(MOST_FAILURES):
        assert sign_in(users, password="wrong") is None  # noqa: S106
    assert sign_in(users, now=NOW + timedelta(seconds=1)) is None
    assert users.everybody(NOW)[0].locked_until == NOW + LOCKED_FOR
    assert {(e.actor, e.outcome, e.reason) for e in notes.events} == {("ann", "refused", NOT_LET_IN)}
    assert sign_in(users, now=NOW + LOCKED_FOR + timedelta(seconds=1)) is not None
    assert users.everybody(NOW)[0].locked_until is None


def test_guesses_at_the_same_time_are_all_counted(users: Users) -> None:
    with ThreadPoolExecutor(8) as pool:
        guesses = [f"guess {n}" for n in range(8)]
        assert not any(pool.map(lambda guess: sign_in(users, password=guess), guesses))
    assert sign_in(users) is None


def test_enabling_ends_a_lock(users: Users) -> None:
    for _ in range(MOST_FAILURES):
        sign_in(users, password="wrong")  # noqa: S106
    users.enable("ann", by=BY)
    assert sign_in(users) is not None


@pytest.mark.parametrize(
    "act",
    [
        lambda users: users.set_password("ann", PASSWORD, by=BY),
        lambda users: users.disable("ann", by=BY),
        lambda users: users.remove("ann", by=BY),
        lambda users: users.revoke("ann", by=BY),
    ],
)
def test_sessions_end_with_a_new_password_and_when_disabled_removed_or_revoked(
    users: Users, act: Callable[[Users], object]
) -> None:
    token = sign_in(users)
    assert token and users.user_of(token, DASHBOARD, NOW)
    act(users)
    assert users.user_of(token, DASHBOARD, NOW) is None


@pytest.mark.parametrize(
    "act",
    [
        lambda users: users.set_password("ann", f"{PASSWORD}, changed", by=BY),
        lambda users: users.disable("ann", by=BY),
        lambda users: users.remove("ann", by=BY),
    ],
)
def test_what_changes_while_a_password_is_checked_counts(
    users: Users, notes: Notes, monkeypatch: pytest.MonkeyPatch, act: Callable[[Users], object]
) -> None:
    tried = users._try

    def then_changed(*asked: Any) -> Any:
        found = tried(*asked)
        act(users)
        return found

    monkeypatch.setattr(users, "_try", then_changed)
    assert sign_in(users) is None
    assert notes.events[-1].outcome == "refused"
    assert sum(account.sessions for account in users.everybody(NOW)) == 0


def test_a_login_leaves_the_group_of_a_role_that_has_left_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    without = shipped_policy()
    without = without.model_copy(update={"roles": {n: r for n, r in without.roles.items() if n != "analyst"}})
    done: list[str] = []
    monkeypatch.setattr(
        postgres, "_rows", lambda _, sql: [("analyst",)] if ".logins" in sql else [("hospital_analyst",), ("staff",)]
    )
    monkeypatch.setattr(postgres, "_run", lambda _, sql: done.append(sql))
    postgres._leave_groups(None, without, "max")  # type: ignore[arg-type]
    assert done == ['revoke hospital_analyst from "max"']


def test_a_removed_user_leaves_no_session_to_who_has_the_name_next(users: Users) -> None:
    token = sign_in(users)
    users.remove("ann", by=BY)
    assert sign_in(users) is None
    users.add(User("ann", "admin"), PASSWORD, by=BY)
    assert token and users.user_of(token, DASHBOARD, NOW) is None


def test_disabled_users_come_back_when_enabled(users: Users) -> None:
    users.disable("ann", by=BY)
    assert sign_in(users) is None and not users.has_active() and users.active("ann") is None
    users.enable("ann", by=BY)
    assert sign_in(users) is not None and users.active("ann") == User("ann", "analyst")


def test_a_role_that_leaves_the_policy_lets_nobody_in(users: Users, tmp_path: Path, notes: Notes) -> None:
    token = sign_in(users)
    without = shipped_policy()
    without = without.model_copy(update={"roles": {n: r for n, r in without.roles.items() if n != "analyst"}})
    with contextlib.closing(Users(tmp_path / "new" / "access" / "users.db", lambda: without, notes)) as later:
        assert token and later.user_of(token, DASHBOARD, NOW) is None
        assert sign_in(later) is None and not later.has_active()


# Acts


@pytest.mark.parametrize(
    ("user", "password", "says"),
    [
        (User("ann", "admin"), "another long password", "already; nothing was changed"),
        (User("Ann!", "analyst"), PASSWORD, "lower-case"),
        (User("bob", "analyst"), "short", "at least 12"),
        (User("bob", "doctor"), PASSWORD, "say which"),
        (User("bob", "analyst", "H1"), PASSWORD, "not at a hospital"),
        (User("bob", "nosuchrole", "H9"), PASSWORD, "no role 'nosuchrole'; its roles are admin, doctor"),
    ],
)
def test_odd_users_are_refused_and_nobody_is_replaced(
    users: Users, notes: Notes, user: User, password: str, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        users.add(user, password, by=BY)
    assert [account.user for account in users.everybody()] == [User("ann", "analyst")]
    assert sign_in(users) is not None
    refused = notes.events[0]
    assert (refused.action, refused.outcome) == ("user", "refused") and password not in str(refused)


def test_every_act_is_audited_by_itself(users: Users, notes: Notes) -> None:
    users.add(User("dora", "doctor", "H1"), PASSWORD, by="os:root")
    users.set_password("dora", PASSWORD, by=BY)
    users.disable("dora", by=BY)
    users.enable("dora", by=BY)
    users.revoke("dora", by=BY)
    users.remove("dora", by="os:root")
    with pytest.raises(UserError, match="no user 'dora'"):
        users.disable("dora", by=BY)
    assert notes.said() == [
        ("os:root", "add dora as doctor-H1", "allowed"),
        (BY, "password dora", "allowed"),
        (BY, "disable dora", "allowed"),
        (BY, "enable dora", "allowed"),
        (BY, "revoke dora", "allowed"),
        ("os:root", "remove dora", "allowed"),
        (BY, "disable dora", "refused"),
    ]


def test_what_cannot_be_audited_does_not_happen(users: Users, notes: Notes) -> None:
    token = sign_in(users)
    notes.is_full = True
    for act in (
        lambda: users.add(User("bob", "analyst"), PASSWORD, by=BY),
        lambda: users.disable("ann", by=BY),
        lambda: users.remove("ann", by=BY),
        lambda: users.set_password("ann", "another long password", by=BY),
        lambda: sign_in(users),
    ):
        with pytest.raises(AuditError):
            act()
    notes.is_full = False
    assert [account.user.name for account in users.everybody(NOW)] == ["ann"]
    assert users.everybody(NOW)[0].sessions == 1
    assert token and users.user_of(token, DASHBOARD, NOW) and sign_in(users)


def test_the_commands_manage_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(tmp_path / "not" / "there" / "yet")
    monkeypatch.setenv("HOSPITAL_DATA_DIR", str(settings.data_dir))

    def hospital(*words: str, password: str = PASSWORD) -> int:
        monkeypatch.setattr("sys.stdin", io.StringIO(password + "\n"))
        return main(["users", *words])

    assert hospital("add", "bob", "nosuchrole") == 2
    assert "no role 'nosuchrole'" in capsys.readouterr().err
    assert hospital("add", "dora", "doctor", "--hospital", "H1") == 0
    assert hospital("add", "dora", "admin", password="some other password") == 2  # noqa: S106
    assert hospital("list") == 0
    assert "doctor" in capsys.readouterr().out
    for act in ("password", "revoke", "disable", "enable", "remove"):
        assert hospital(act, "dora") == 0
    assert hospital("disable", "nobody") == 2 and hospital("disable") == 2
    with contextlib.closing(AuditLog(settings)) as log:
        entries = log.entries()
        assert log.verify().problems == ()
    assert entries["statement"].to_list() == [
        "add bob as nosuchrole",
        "add dora as doctor-H1",
        "add dora as admin",
        *(f"{act} dora" for act in ("password", "revoke", "disable", "enable", "remove")),
        "disable nobody",
    ]
    assert entries["outcome"].to_list() == ["refused", "allowed", "refused", *["allowed"] * 5, "refused"]
    capsys.readouterr()
    assert main(["audit"]) == 0
    assert "add dora as doctor-H1" in capsys.readouterr().out


def test_roles_are_those_of_the_data_directory(tmp_path: Path) -> None:
    own = POLICY_FILE.read_text(encoding="utf-8")
    assert "executive" in parse_policy(own, "policy.toml").roles
    settings = Settings(tmp_path)
    (tmp_path / POLICY_FILE.name).write_text("nonsense = ", encoding="utf-8")
    with pytest.raises(ValueError, match="policy.toml"):
        open_users(settings)
    assert not users_file(settings).exists()


# Addresses


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"),
            *("-addext", "subjectAltName=DNS:localhost", "-out", str(files[0]), "-keyout", str(files[1])),
        ],
        check=True,
        capture_output=True,
    )
    return files


def test_loopback_is_what_the_system_calls_so() -> None:
    hosts = ("127.0.0.1", "127.8.8.8", "localhost", "::1", EVERYWHERE, "::", "10.1.2.3", "hospital", "127.evil")
    assert [is_loopback(host) for host in hosts] == [True] * 4 + [False] * 5


@pytest.mark.parametrize(
    ("url", "is_so"),
    [
        ("https://ed.example.org/a?b", True),
        ("http://localhost:8000", True),
        ("http://127.8.8.8", True),
        ("http://[::1]:8000/", True),
        ("http://ed.example.org", False),
        ("http://127.0.0.1.example.org", False),
        ("http://127.0.0.1@example.org", False),
        ("http://0.0.0.0", False),
        ("ftp://localhost", False),
        ("https://", False),
        ("https:///a", False),
        ("https://[::1", False),
        ("", False),
    ],
)
def test_what_crosses_a_network_is_encrypted(url: str, is_so: bool) -> None:
    assert is_protected(url) is is_so


def test_addresses_that_others_reach_need_users_and_a_certificate(certificate: tuple[Path, Path]) -> None:
    check(Address(), has_users=False)
    for others in (Address(EVERYWHERE), Address("10.1.2.3", 80, *certificate), Address(names=("ed.example.org",))):
        with pytest.raises(ServingError, match="nobody who could sign in"):
            check(others, has_users=False)
    with pytest.raises(ServingError, match="encrypted"):
        check(Address(EVERYWHERE), has_users=True)
    check(Address(EVERYWHERE, 80, *certificate), has_users=True)
    check(Address(names=("ed.example.org",)), has_users=True)  # the proxy has the certificate
    with pytest.raises(ServingError, match="belong together"):
        check(Address(EVERYWHERE, 80, certificate[0]), has_users=True)
    with pytest.raises(ServingError, match="no PEM certificate"):
        check(Address(EVERYWHERE, 80, certificate[0], certificate[0]), has_users=True)
    with pytest.raises(ServingError, match="no PEM certificate"):
        check(Address(EVERYWHERE, 80, Path("none"), Path("none")), has_users=True)


@pytest.mark.parametrize("name", ["*", "*.example.org", "https://ed.example.org", "ed.example.org:8000", "", "a/b"])
def test_host_names_are_stated_one_by_one(name: str) -> None:
    with pytest.raises(ServingError, match="no host name"):
        check(Address(names=(name,)), has_users=True)


def test_an_address_answers_to_its_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Ward7")
    loopback = ("localhost", "127.0.0.1", "[::1]")
    assert Address().hosts() == loopback
    assert Address("10.1.2.3").hosts() == (*loopback, "10.1.2.3")
    assert Address("fd00::5").hosts() == (*loopback, "[fd00::5]")
    assert Address(EVERYWHERE, names=("ED.example.org",)).hosts() == (*loopback, "ward7", "ed.example.org")


@pytest.mark.nightly
@pytest.mark.parametrize("command", ["dashboard", "serve"])
def test_both_applications_follow_the_rule(command: str, tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    def refused(*options: str) -> str:
        done = subprocess.run(hospital(tmp_path, command, *options), capture_output=True, text=True, timeout=120)
        assert done.returncode == 2
        return done.stderr

    assert "nobody who could sign in" in refused("--host", EVERYWHERE)
    with contextlib.closing(open_users(Settings(tmp_path))) as users:
        users.add(User("ann", "analyst"), PASSWORD, by=BY)
    assert "must be encrypted" in refused("--host", EVERYWHERE)
    assert "belong together" in refused("--host", EVERYWHERE, "--certificate", str(certificate[0]))
    assert "no host name" in refused("--allowed-host", "*")


@pytest.mark.parametrize("proxy", ["*", "proxy.example.org", "10.1.2.3/8", ""])
def test_proxies_are_addresses(proxy: str) -> None:
    with pytest.raises(ServingError, match="no address of a proxy"):
        check(Address(proxies=(proxy,)), has_users=True)
    check(Address(proxies=("127.0.0.1", "10.1.2.0/28", "fd00::/64")), has_users=True)


class From(requests.adapters.HTTPAdapter):
    """Requests from an address of this machine."""

    def __init__(self, source: str) -> None:
        self.source = source
        super().__init__()

    def init_poolmanager(self, *sizes: Any, **options: Any) -> None:
        super().init_poolmanager(*sizes, source_address=(self.source, 0), **options)


@pytest.mark.parametrize(
    ("proxies", "source", "seen"),
    [
        ((), "127.0.0.1", "http 127.0.0.1"),
        (("127.0.0.2",), "127.0.0.1", "http 127.0.0.1"),
        (("127.0.0.2",), "127.0.0.2", "https 192.0.2.7"),
        (("127.0.0.0/30",), "127.0.0.2", "https 192.0.2.7"),
        (("127.0.0.0/30",), "127.0.0.9", "http 127.0.0.9"),
    ],
)
def test_headers_of_a_proxy_count_from_named_ones_only(
    monkeypatch: pytest.MonkeyPatch, proxies: tuple[str, ...], source: str, seen: str
) -> None:
    # Which uvicorn would take for itself.
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")

    def echo(request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"{request.url.scheme} {client_address(request)}")

    options = options_of(Address(names=("ed.example.org",), proxies=proxies))
    with running(Starlette(routes=[Route("/", echo)]), **options) as address, requests.Session() as session:
        session.mount("http://", From(source))
        session.trust_env = False
        forged = {"x-forwarded-for": "198.51.100.1, 192.0.2.7", "x-forwarded-proto": "https"}
        assert session.get(address, headers=forged, timeout=30).text == seen


@pytest.mark.parametrize("host", ["localhost", "ed.example.org"])
def test_a_session_goes_over_encrypted_lines_only_where_others_reach_the_server(tmp_path: Path, host: str) -> None:
    """Also where the proxy does not say by which scheme it was asked."""
    from hospital_assets.dashboard.app import create_app
    from hospital_assets.dashboard.serve import dashboard_of

    settings = Settings(tmp_path)
    with contextlib.closing(open_users(settings)) as users:
        users.add(User("ann", "analyst"), PASSWORD, by=BY)
    dashboard = dashboard_of(settings, "admin", lambda _: None, Address(names=("ed.example.org",)))
    with contextlib.closing(dashboard.users), running(create_app(dashboard)) as address:
        form = {"name": "ann", "password": PASSWORD}
        answer = requests.post(f"{address}/login", data=form, headers={"host": host}, allow_redirects=False, timeout=30)
        assert ("; secure" in answer.headers["set-cookie"].lower()) == (host != "localhost")


@pytest.mark.parametrize("command", ["dashboard", "serve"])
def test_both_applications_speak_tls_and_refuse_other_hosts(
    command: str, tmp_path: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The server is a process of its own.
    monkeypatch.setattr(access, "_COST", SHIPPED_COST)
    with contextlib.closing(open_users(Settings(tmp_path))) as users:
        users.add(User("ann", "analyst"), PASSWORD, by=BY)
    address = Address(EVERYWHERE, free_port(), *certificate)
    options = ["--host", address.host, "--port", str(address.port)]
    options += ["--certificate", str(certificate[0]), "--certificate-key", str(certificate[1])]
    with started(hospital(tmp_path, command, *options), stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and "https://" in server.stdout.readline()
        url = f"https://localhost:{address.port}"
        with requests.Session() as session:
            session.mount("https://", requests.adapters.HTTPAdapter(max_retries=Retry(10, backoff_factor=0.2)))
            session.verify, session.trust_env = str(certificate[0]), False
            if command == "dashboard":
                form = {"name": "ann", "password": PASSWORD}
                answer = session.post(f"{url}/login", data=form, allow_redirects=False, timeout=120)
                assert answer.status_code == 303 and "; secure" in answer.headers["set-cookie"].lower()
            else:
                answer = session.post(f"{url}/v1/login", json={"user": "ann", "password": PASSWORD}, timeout=120)
                assert answer.json()["audience"] == "analyst"
            for host in ("evil.example", "localhost.evil.example", EVERYWHERE):
                assert session.get(url, headers={"host": host}, timeout=120).status_code == 400
