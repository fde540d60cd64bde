"""nginx before the dashboard and Dagster's UI: a real one, configured by `hospital deploy nginx`."""

from __future__ import annotations

import base64
import getpass
import http.client
import os
import shutil
import signal
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from hospital_assets.access.audit import Event
from hospital_assets.access.serving import Address, options_of
from hospital_assets.access.users import User
from hospital_assets.cli import main
from hospital_assets.dashboard.app import create_app
from hospital_assets.dashboard.serve import dashboard_of
from hospital_assets.operations.nginx import nginx_configuration, write_configuration
from hospital_assets.settings import Settings, SettingsError, write_settings
from hospital_assets_tests.dashboards import running
from hospital_assets_tests.processes import QUIET, free_port, hospital, started, until

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
PASSWORD = "correct horse battery"  # noqa: S105
ROLES = {"ada": "admin", "ann": "analyst"}


@pytest.mark.parametrize("name", ["", "*", "https://ed.example.org", "ed.example.org;", "ed.example.org:443"])
def test_a_name_that_nginx_takes_for_something_else_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="no host name"):
        nginx_configuration(name, Path("/c.pem"), Path("/k.pem"))


@pytest.mark.parametrize("path", ["c.pem", "/c pem", "/c.pem;", "/$c.pem", "/c.pem\n"])
def test_a_path_that_nginx_takes_for_something_else_is_refused(path: str) -> None:
    with pytest.raises(SettingsError, match="whole path"):
        nginx_configuration("ed.example.org", Path(path), Path("/k.pem"))


def test_the_command_writes_it_and_says_what_is_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--data-dir", str(tmp_path), "deploy", "nginx", "--into", str(tmp_path / "conf.d")]
    options = ["--name", "ed.example.org", "--certificate", "/etc/c.pem", "--certificate-key", "/etc/k.pem"]
    assert main([*command, *options, "--dagster-port", "3100"]) == 0
    said = capsys.readouterr().out
    assert "--allowed-host ed.example.org --proxy 127.0.0.1" in said and "--path-prefix /dagster" in said
    text = (tmp_path / "conf.d" / "hospital.conf").read_text()
    assert (
        "server_name ed.example.org;" in text
        and "http://127.0.0.1:3100;" in text
        and "[" not in text.replace("[::]", "")
    )
    assert main([*command, "--name", "ed example", *options[2:]]) == 2


@dataclass
class Proxied:
    """What answers under one name.

    Attributes:
        port: of nginx.
        certificate: its own.
        seen: the dashboard's audit.
    """

    port: int
    certificate: Path
    seen: list[Event]

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def browser(self, name: str = "") -> requests.Session:
        session = requests.Session()
        session.trust_env, session.verify = False, str(self.certificate)
        if name:
            form = {"name": name, "password": PASSWORD, "next": "dagster"}
            answer = session.post(f"{self.url}/login", data=form, allow_redirects=False, timeout=60)
            assert answer.headers["location"] == "/dagster" and "; Secure" in answer.headers["set-cookie"]
        return session

    def upgraded(self, session: requests.Session) -> int:
        """The status of opening Dagster's WebSocket."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        with closing(http.client.HTTPSConnection("localhost", self.port, context=context, timeout=60)) as connection:
            headers = {
                "Upgrade": "websocket",
                "Connection": "Upgrade",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
                "Sec-WebSocket-Protocol": "graphql-ws",
                "Cookie": "; ".join(f"{cookie.name}={cookie.value}" for cookie in session.cookies),
            }
            connection.request("GET", "/dagster/graphql", headers=headers)
            return connection.getresponse().status


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    if NGINX is None:
        pytest.skip("nginx is not installed (apt install nginx-light): the proxy was NOT tested")
    folder = tmp_path_factory.mktemp("nginx")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"),
            *("-addext", "subjectAltName=DNS:localhost", "-out", str(certificate), "-keyout", str(key)),
        ],
        check=True,
        capture_output=True,
    )
    ports = {
        name: free_port() for name in ("dashboard_port", "dagster_port", "gateway_port", "https_port", "http_port")
    }
    text = nginx_configuration("localhost", certificate, key, **ports)
    settings = Settings(folder / "data")
    write_settings(settings)
    seen: list[Event] = []
    dashboard = dashboard_of(settings, "admin", seen.append)
    for name, role in ROLES.items():
        dashboard.users.add(User(name, role), PASSWORD, by="os:test")
    options = options_of(Address(port=ports["dashboard_port"], names=("localhost",), proxies=("127.0.0.1",)))
    with (
        closing(dashboard.users),
        running(create_app(dashboard), **options),
        dagster_at(settings, ports["dagster_port"]),
        nginx_with(write_configuration(text, folder / "conf.d"), folder),
    ):
        until(lambda: answers(f"http://localhost:{ports['http_port']}/overview"))
        yield Proxied(ports["https_port"], certificate, seen)


@contextmanager
def dagster_at(settings: Settings, port: int) -> Iterator[None]:
    """Dagster's webserver itself, without definitions, which no test here needs."""
    command = hospital(settings.data_dir, "dagster", "webserver", "--port", str(port), "--path-prefix", "/dagster")
    # What it says of the missing definitions helps nobody.
    with started(command, **QUIET) as process:
        until(lambda: answers(f"http://127.0.0.1:{port}/dagster/server_info"), process)
        yield


def answers(url: str) -> bool:
    try:
        return requests.get(url, allow_redirects=False, timeout=5).ok
    except requests.ConnectionError:
        return False


@contextmanager
def nginx_with(configuration: Path, folder: Path) -> Iterator[None]:
    temporary = "".join(
        f"{kind}_temp_path {folder / kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    whole = folder / "nginx.conf"
    whole.write_text(
        f"user {getpass.getuser()}; daemon off; pid {folder / 'pid'}; error_log {folder / 'error.log'};"
        f"events {{}} http {{ access_log {folder / 'access.log'}; {temporary} include {configuration}; }}"
    )
    assert NGINX
    checked = subprocess.run([NGINX, "-t", "-c", str(whole)], capture_output=True, text=True)
    assert checked.returncode == 0 and "warn" not in checked.stderr.replace('"user" directive', ""), checked.stderr
    with started([NGINX, "-c", str(whole)], signal.SIGTERM):
        yield


@pytest.mark.slow
def test_dagster_is_shown_to_roles_that_may_see_it(proxied: Proxied) -> None:
    nobody, ada, ann = proxied.browser(), proxied.browser("ada"), proxied.browser("ann")
    for path in ("/dagster", "/dagster/", "/dagster/runs", "/dagster/graphql?query={version}"):
        url = proxied.url + path
        answer = nobody.get(url, allow_redirects=False, timeout=60)
        assert (answer.status_code, answer.headers["location"]) == (302, "/login?next=dagster")
        assert ann.get(url, timeout=60).status_code == 403
        assert ada.get(url, timeout=60).status_code == 200
    asked = {"query": "{ version }"}
    assert "version" in ada.post(f"{proxied.url}/dagster/graphql", json=asked, timeout=60).json()["data"]
    assert ann.post(f"{proxied.url}/dagster/graphql", json=asked, timeout=60).status_code == 403
    assert [proxied.upgraded(browser) for browser in (nobody, ann, ada)] == [302, 403, 101]
    noted = {(e.actor, e.outcome) for e in proxied.seen if e.action == "view"}
    assert noted == {("ada", "allowed"), ("ann", "refused")}
    ada.post(f"{proxied.url}/logout", timeout=60)
    assert ada.get(f"{proxied.url}/dagster/", allow_redirects=False, timeout=60).status_code == 302


@pytest.mark.slow
def test_what_asks_about_a_session_is_no_address_of_the_proxy(proxied: Proxied) -> None:
    ada = proxied.browser("ada")
    assert ada.get(f"{proxied.url}/hospital-may-dagster", timeout=60).status_code == 404
    # Names that only look like Dagster's are the dashboard's.
    assert ada.get(f"{proxied.url}/dagsterx", timeout=60).text.count("There is no such page.") == 1


@pytest.mark.slow
def test_the_proxy_says_who_asks_whatever_the_client_claims(proxied: Proxied) -> None:
    forged = {"x-forwarded-for": "192.0.2.7", "x-forwarded-proto": "http", "forwarded": "for=192.0.2.7"}
    form = {"name": "ann", "password": PASSWORD}
    session = proxied.browser()
    answer = session.post(f"{proxied.url}/login", data=form, headers=forged, allow_redirects=False, timeout=60)
    assert answer.status_code == 303 and "; Secure" in answer.headers["set-cookie"]
    assert proxied.seen[-1].client in ("127.0.0.1", "::1")
    assert answer.headers["strict-transport-security"].startswith("max-age=")
    for host in ("evil.example", ""):
        strange = session.get(f"{proxied.url}/login", headers={"host": host}, timeout=60)
        assert strange.status_code == 400
