"""Queries of Oracle as far as can be had without a server: what the driver is asked, and what is said when it fails.

The driver itself reaches for a server in the tests of refused connections; elsewhere its connection is a double.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from hospital_assets.sources import databases
from hospital_assets.sources.databases import open_database
from hospital_assets.sources.remote import RemoteError

oracledb = pytest.importorskip("oracledb", reason="oracledb is not installed (extra oracle)")

URL = "oracle://reader:planted%2Fsecret@db.example.org:1522/reporting"
MOMENTS = {
    "since": datetime(2026, 3, 1, 9, 30, tzinfo=UTC),
    "until": datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=2))),
}


@dataclass
class Connection:
    """What the driver's connection is asked for, in order; `give` answers a query or raises."""

    give: Callable[[], list[Any]] = list
    asked: list[Any] = field(default_factory=list)
    call_timeout: int = 0

    async def execute(self, statement: str) -> None:
        self.asked.append(statement)

    async def rollback(self) -> None:
        self.asked.append("rollback")

    async def close(self) -> None:
        self.asked.append("close")

    async def fetch_df_batches(self, *query: Any, **options: Any) -> AsyncIterator[Any]:
        self.asked.append((*query, options, self.call_timeout))
        for frame in self.give():
            yield frame


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Connection:
    found = Connection()

    async def connect_async(**options: Any) -> Connection:
        found.asked.append(options)
        return found

    monkeypatch.setattr(oracledb, "connect_async", connect_async)
    return found


def test_a_query_is_read_only_bound_and_limited(connection: Connection) -> None:
    found = pa.table({"ID": pa.array([Decimal(1), Decimal(2)], pa.decimal128(18, 0))})
    connection.give = lambda: [found, found.slice(0, 0), found]
    sql = "select * from visits where at >= :since and at < :until and at <> :since"
    with open_database(URL) as database:
        batches = list(database.batches(sql, MOMENTS, 60))
        database.end()
    assert [batch.column(0).to_pylist() for batch in batches] == [[1, 2], [1, 2]]
    moment = "to_timestamp(:{}, 'YYYY-MM-DD HH24:MI:SS.FF6')"
    since, until = moment.format("since"), moment.format("until")
    assert connection.asked == [
        {"user": "reader", "password": "planted/secret", "host": "db.example.org", "port": 1522}
        | {"service_name": "reporting", "protocol": "tcp"},
        "alter session set time_zone = 'UTC'",
        "rollback",
        "set transaction read only",
        (
            f"select * from visits where at >= {since} and at < {until} and at <> {since}",
            {"since": "2026-03-01 09:30:00.000000", "until": "2026-03-01 10:00:00.000000"},
            {"size": 50_000, "fetch_decimals": True},
            60_000,
        ),
        "rollback",
        "close",
    ]


def test_its_clock_is_in_utc_and_nothing_is_bound_that_is_not_asked_for(connection: Connection) -> None:
    connection.give = lambda: [pa.table({"NOW": [datetime(2026, 3, 1, 9, 30)]})]
    with open_database(URL.replace("oracle:", "oracle+tcps:").replace(":1522", "")) as database:
        assert database.now() == datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
    assert (connection.asked[0]["protocol"], connection.asked[0]["port"]) == ("tcps", 1521)
    assert connection.asked[-2][1] is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ORA-01017: invalid credential; planted", "the login is refused"),
        ("ORA-00942: table planted does not exist", "may not read a table"),
        ("ORA-00904: planted: invalid identifier", "does not understand it"),
        ("ORA-01456: may not perform insert planted", "the session is read-only"),
        ("ORA-01722: planted", "a value cannot be read as its type"),
        ("DPY-4024: call timeout of 60000 ms exceeded", "longer than its `seconds`"),
        ("ORA-12514: planted", "there is no such database"),
        ("ORA-99999: planted", "the database gives it up"),
    ],
)
def test_an_error_has_its_code_and_not_its_text(connection: Connection, text: str, said: str) -> None:
    def give() -> list[Any]:
        raise oracledb.DatabaseError(SimpleNamespace(full_code=text.partition(":")[0], message=text))

    connection.give = give
    with open_database(URL) as database, pytest.raises(RemoteError, match=said) as raised:
        list(database.batches("select 1 from dual", {}, 60))
    assert text.partition(":")[0] in str(raised.value) and "planted" not in str(raised.value)


def test_a_query_that_takes_long_in_all_is_given_up(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 40))
    monkeypatch.setattr(databases, "monotonic", lambda: next(clock))
    connection.give = lambda: [pa.table({"ID": [1]})] * 9
    with open_database(URL) as database, pytest.raises(RemoteError, match="longer than its `seconds`"):
        list(database.batches("select 1 from dual", {}, 60))


@pytest.mark.parametrize(
    "url",
    [
        "oracle://reader:planted@/reporting",
        "oracle://reader:planted@host:1521",
        "oracle://reader@host/planted",
        "oracle://reader:planted@host:15x/reporting",
        "oracle://reader:planted/secret@host/reporting",
        "oracle://reader:planted@host/reporting?wallet=planted",
        "oracle://[planted/reporting",
    ],
)
def test_what_is_no_address_is_said(url: str) -> None:
    with pytest.raises(RemoteError, match="oracle://login:password@host:1521/service") as raised, open_database(url):
        pass
    assert "planted" not in str(raised.value)


def test_a_server_that_refuses_never_answers_or_speaks_otherwise_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            for said in (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"):
                other, _ = server.accept()
                with other:
                    other.sendall(said)
                    other.recv(9999)
                    other.recv(9999)

        threading.Thread(target=answer, daemon=True).start()
        for where in (f"127.0.0.1:{port}", f"127.0.0.1:{port}", "127.0.0.1:1", "no-such-host.invalid"):
            with (
                pytest.raises(RemoteError, match="cannot be reached") as raised,
                open_database(f"oracle://u:planted@{where}/x", 1),
            ):
                pass
            assert "planted" not in str(raised.value) and where not in str(raised.value)
