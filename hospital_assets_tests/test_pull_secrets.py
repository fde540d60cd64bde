"""Who asks is told to nobody: planted credentials are in no file of the data directory, no line, and no command line.

Each round gives all kinds of sources the same fate: they are reached, they refuse, they never answer, or what names
them is malformed. A bucket is reached through a proxy that wants a password; SFTP servers by a key and by a password.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import re
import secrets
import signal
import socket
import sqlite3
import subprocess
import threading
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, urlsplit

import duckdb
import pytest

from hospital_assets.settings import Settings, write_settings
from hospital_assets.sources.memory import memory_file
from hospital_assets.sources.remote import SFTP_HOSTS, SFTP_KEY, SFTP_PASSWORD
from hospital_assets_tests.mariadb import mariadb_server
from hospital_assets_tests.postgresql import postgresql_server
from hospital_assets_tests.processes import free_port, hospital, started, until
from hospital_assets_tests.s3 import s3_server
from hospital_assets_tests.sftp import password_server, sftp_server

PROFILE = """
name = "{name}"
description = "A source that asks who is there."
time_zone = "America/Chicago"
[source]
{source}
[subjects.hospitals]
files = ["*.csv", "*.parquet"]
columns = {{ hospital_id = "id", hospital_name = "name", time_zone = "zone" }}
"""
QUERY = 'database = "{variable}"\n[source.queries.hospitals]\nsql = "select * from hospitals"\nis_full = true'
BODY = b"id,name,zone\nH1,One,America/Chicago\n"
#: What a round does to every source -> what each then says at least.
ROUNDS = {"reached": "1 brought", "refused": "stopped", "malformed": "stopped", "silent": "stopped"}
ROUND = pytest.mark.parametrize(
    "fate", [pytest.param(name, marks=pytest.mark.nightly if name == "silent" else []) for name in ROUNDS]
)


@contextmanager
def proxy(user: str, password: str) -> Iterator[tuple[int, list[str]]]:
    """A proxy that lets in who knows the password: its port, and what it was asked for, by whom it let in."""
    asked: list[str] = []
    wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Proxy-Authorization") != wanted:
                self._answer(407, b"<Error><Code>ProxyDenied</Code></Error>")
                return
            asked.append(self.path)
            to = urlsplit(self.path)
            headers = {name: value for name, value in self.headers.items() if not name.startswith("Proxy-")}
            with closing(http.client.HTTPConnection(to.netloc, timeout=30)) as connection:
                connection.request("GET", f"{to.path}?{to.query}", headers=headers)
                answer = connection.getresponse()
                body = answer.read()
                self._answer(
                    answer.status, body, {k: v for k, v in answer.getheaders() if k in ("ETag", "Last-Modified")}
                )

        def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1], asked
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def nobody() -> Iterator[int]:
    """The port of one who lets everybody in and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield int(listening.getsockname()[1])


@dataclass
class Planted:
    """Credentials of this test, in all forms in which they may be told."""

    mark: str = field(default_factory=lambda: f"planted{secrets.token_hex(6)}")
    others: set[str] = field(default_factory=set)

    def secret(self, of: str) -> str:
        """A secret; a slash and a percent sign are where parsers stumble."""
        return f"{self.mark}-{of}"

    def key(self, file: Path) -> None:
        """The lines of a private key, but the first, which all keys of a kind share."""
        self.others |= set(file.read_text().split("\n")[2:-2])

    @property
    def forms(self) -> list[bytes]:
        """Texts of which none may be found."""
        found = {self.mark, *self.others}
        # Within base64, where it begins decides about how it looks.
        for n in range(3):
            found.add(base64.b64encode(b"x" * n + self.mark.encode())[4 * (n > 0) : -4].decode())
        return [each.encode() for each in found if len(each) > 8]

    def in_bytes(self, data: bytes) -> bool:
        return any(form in data for form in self.forms)


@dataclass
class Watch:
    """Looks at the command lines of all processes until the block ends."""

    planted: Planted
    seen: set[str] = field(default_factory=set)
    looks: int = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.05):
                self.looks += 1
                for path in Path("/proc").glob("[0-9]*/cmdline"):
                    try:
                        line = path.read_bytes()
                    except OSError:
                        continue
                    if self.planted.in_bytes(line):
                        self.seen.add(line.decode(errors="replace"))

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def telling(folder: Path, planted: Planted) -> list[str]:
    """The files that hold a secret: as they lie there, and what is packed in SQLite's blobs and DuckDB's tables."""
    found = []
    for path in (p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        if planted.in_bytes(data):
            found.append(f"{path}")
        if data.startswith(b"SQLite format 3"):
            found += [f"{path}: {place}" for place in _in_sqlite(path, planted)]
        if path.suffix == ".duckdb":
            found += [f"{path}: {place}" for place in _in_duckdb(path, planted)]
    return found


def _in_sqlite(path: Path, planted: Planted) -> Iterator[str]:
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
        for (table,) in connection.execute("select name from sqlite_master where type = 'table'").fetchall():
            for row in connection.execute(f'select * from "{table}"'):
                for value in row:
                    data = value.encode() if isinstance(value, str) else value if isinstance(value, bytes) else b""
                    with contextlib.suppress(zlib.error):
                        data += zlib.decompress(data)
                    if planted.in_bytes(data):
                        yield table


def _in_duckdb(path: Path, planted: Planted) -> Iterator[str]:
    with closing(duckdb.connect(str(path), read_only=True)) as connection:
        for (table,) in connection.execute("select schema_name || '.' || table_name from duckdb_tables()").fetchall():
            if connection.execute(f"select 1 from {table} t where contains(t::varchar, ?)", [planted.mark]).fetchone():
                yield table


@dataclass
class World:
    """All kinds of sources with one fate."""

    settings: Settings
    environment: dict[str, str]
    planted: Planted
    names: list[str]
    asked: list[str]


@contextmanager
def world(fate: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A data directory with a profile for each kind of source, and the environment that says who asks."""
    pytest.importorskip("obstore", reason="obstore is not installed (extra object-store)")
    pytest.importorskip("arrow_odbc", reason="arrow-odbc is not installed (extra odbc)")
    dbapi = pytest.importorskip("adbc_driver_postgresql.dbapi", reason="it is not installed (extra postgres)")
    import obstore.store
    import paramiko

    planted = Planted()
    wrong = "-wrong" if fate == "refused" else ""
    proxy_password, database_password = planted.secret("proxy"), planted.secret("database")
    with ExitStack() as stack:
        stack.enter_context(s3_server(monkeypatch, "bucket"))
        obstore.put(obstore.store.from_url("s3://bucket", client_options={"allow_http": True}), "a.csv", BODY)
        through, asked = stack.enter_context(proxy("asker", proxy_password))
        (folder / "server").mkdir()
        by_key, given, entry = stack.enter_context(sftp_server(folder / "server"))
        (given / "a.csv").write_bytes(BODY)
        by_password = stack.enter_context(password_server(planted.secret("sftp"), given, folder / "server" / "known"))
        planted.key(folder / "server" / "user")
        postgres, maria = stack.enter_context(postgresql_server()), stack.enter_context(mariadb_server())
        table = "create table hospitals (id varchar(9), name varchar(9), zone varchar(99))"
        row = "insert into hospitals values ('H1', 'One', 'America/Chicago')"
        grant = "grant select on hospitals to asker"
        user = f"create role asker login password '{database_password}'"
        with dbapi.connect(postgres.dsn()) as connection:
            for statement in (table, row, user, grant):
                with connection.cursor() as cursor:
                    cursor.execute(statement)
            connection.commit()
            rules = postgres.folder / "data" / "pg_hba.conf"
            rules.write_text(f"local all asker scram-sha-256\n{rules.read_text()}")
            with connection.cursor() as cursor:
                cursor.execute("select pg_reload_conf()")
        import arrow_odbc

        root, driver = arrow_odbc.connect(maria), maria.partition(";")[0]
        for statement in (table, row, f"create user asker identified by '{database_password}'", grant):
            root.execute(statement)
        silent = stack.enter_context(nobody())
        stranger = folder / "stranger"
        paramiko.ECDSAKey.generate().write_private_key_file(str(stranger))
        planted.key(stranger)
        urls = {
            "POSTGRES_URL": f"postgresql://asker:{database_password}{wrong}@/hospital?host={postgres.folder}",
            "ODBC_URL": maria.replace("UID=root", f"UID=asker;PWD={database_password}{wrong}"),
        }
        environment = {
            "AWS_ACCESS_KEY_ID": planted.secret("key-id"),
            "AWS_SECRET_ACCESS_KEY": planted.secret("secret"),
            "AWS_SESSION_TOKEN": planted.secret("token"),
            "HTTP_PROXY": f"http://asker:{proxy_password}{wrong}@127.0.0.1:{through}",
            **entry,
            SFTP_PASSWORD: planted.secret("sftp") + wrong,
            **urls,
        }
        if fate == "refused":
            environment[SFTP_KEY] = str(stranger)
        if fate == "silent":
            host = f"127.0.0.1:{silent}"
            known = Path(environment[SFTP_HOSTS]).read_text().split(maxsplit=1)[1].split("\n")[0]
            Path(environment[SFTP_HOSTS]).write_text(f"[127.0.0.1]:{silent} {known}\n")
            by_key = by_password = f"sftp://asker@{host}/in"
            environment |= {
                "HTTP_PROXY": f"http://asker:{proxy_password}@{host}",
                "POSTGRES_URL": f"postgresql://asker:{database_password}@{host}/hospital",
                "ODBC_URL": f"{driver};Server=127.0.0.1;Port={silent};UID=asker;PWD={database_password}",
            }
        if fate == "malformed":
            garbage = folder / "garbage"
            garbage.write_text(f"-----BEGIN OPENSSH PRIVATE KEY-----\n{planted.secret('key')}\n")
            environment |= {
                "AWS_ENDPOINT_URL": f"http://asker:{planted.secret('endpoint')}@127.0.0.1:1/%zz",
                "HTTP_PROXY": f"http://asker:{proxy_password}/x@127.0.0.1:1:1",
                SFTP_KEY: str(garbage),
                "POSTGRES_URL": f"postgresql://asker:{database_password}/x%zz@[::1/hospital?{planted.secret('option')}=1",
                "ODBC_URL": f"{driver};UID=asker;PWD={{{database_password};Server=",
            }
        sources = {
            "bucket": 'address = "s3://bucket"',
            "bykey": f'address = "{by_key}"',
            "bypassword": f'address = "{by_password}"',
            "postgres": QUERY.format(variable="POSTGRES_URL"),
            "odbc": QUERY.format(variable="ODBC_URL"),
        }
        settings = Settings(folder / "data")
        write_settings(settings)
        settings.profiles_folder.mkdir(parents=True)
        for name, source in sources.items():
            (settings.profiles_folder / f"{name}.toml").write_text(PROFILE.format(name=name, source=source))
        inherited = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        yield World(settings, {**inherited, **environment}, planted, list(sources), asked)


@pytest.mark.slow
@ROUND
def test_the_commands_tell_nobody(fate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with world(fate, tmp_path, monkeypatch) as at:
        watch, outputs = Watch(at.planted), []
        with watch():
            for words in (["pull"], ["pull", "--all", "bucket"], ["sources"], ["status"], ["doctor"]):
                command = hospital(at.settings.data_dir, *words)
                done = subprocess.run(command, env=at.environment, capture_output=True, check=False)
                assert b"Traceback" not in done.stderr, done.stderr.decode()
                outputs.append(done.stdout + done.stderr)
        said = outputs[0].decode()
        by_source = dict(re.findall(r"^(\w+): (.*(?:\n  .*)*)", said, re.MULTILINE))
        assert all(ROUNDS[fate] in by_source[name] for name in at.names), said
        if fate == "reached":
            # The secrets were used.
            assert at.asked
        assert not [out.decode() for out in outputs if at.planted.in_bytes(out)]
        assert watch.looks and not watch.seen
        assert memory_file(at.settings).exists() and telling(at.settings.data_dir, at.planted) == []


@pytest.mark.nightly
@ROUND
def test_dagster_tells_nobody(fate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon's sensor looks at the sources, and the feeds' sensors load what came."""
    with world(fate, tmp_path, monkeypatch) as at:
        watch, log = Watch(at.planted), tmp_path / "log"
        command = hospital(at.settings.data_dir, "dev", "--port", str(free_port()), "--dashboard-port", "0")
        with (
            watch(),
            log.open("wb") as out,
            started(command, signal.SIGTERM, env=at.environment, stdout=out, stderr=out) as process,
        ):
            until(lambda: _has_looked(at.settings) and (fate != "reached" or _has_loaded(at.settings)), process, log)
        assert not at.planted.in_bytes(log.read_bytes()), log.read_text()
        assert watch.looks and not watch.seen
        assert telling(at.settings.data_dir, at.planted) == []


def _has_looked(settings: Settings) -> bool:
    """Whether a tick of the sensor has ended, as Dagster stores it."""
    files = list(settings.dagster_home.rglob("schedules.db"))
    if not files:
        return False
    with closing(sqlite3.connect(files[0], timeout=30)) as connection:
        try:
            rows = connection.execute("select tick_body from job_ticks where status = 'SKIPPED'").fetchall()
        except sqlite3.OperationalError:
            return False
    return any('"sources"' in body and "brought" in body for (body,) in rows)


def _has_loaded(settings: Settings) -> bool:
    """Whether a run has ended, however."""
    (file,) = settings.dagster_home.rglob("runs.db")
    with closing(sqlite3.connect(file, timeout=30)) as connection:
        return bool(connection.execute("select 1 from runs where status in ('SUCCESS', 'FAILURE')").fetchone())


def test_what_is_planted_would_be_found(tmp_path: Path) -> None:
    planted = Planted()
    secret = planted.secret("x").encode()
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute("create table t (b blob)")
        connection.execute("insert into t values (?)", [zlib.compress(b"y" * 99 + secret)])
        connection.commit()
    with closing(duckdb.connect(str(tmp_path / "b.duckdb"))) as warehouse:
        warehouse.execute("create table t as select ? as x from range(999)", [secret.decode()])
    for n in range(3):
        (tmp_path / f"{n}").write_bytes(base64.b64encode(b"u" * n + b":" + secret))
    assert {Path(found.partition(":")[0]).name for found in telling(tmp_path, planted)} == {
        *("a.db", "b.duckdb", "0", "1", "2")
    }
