"""Queries of a real MariaDB by ODBC: as those of PostgreSQL, in test_queries."""

from __future__ import annotations

import csv
import socket
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from hospital_assets.cli import main
from hospital_assets.landing.profile import Query, Subject
from hospital_assets.landing.workbooks import csv_content
from hospital_assets.settings import Settings
from hospital_assets.sources import databases, queries
from hospital_assets.sources.databases import open_database
from hospital_assets.sources.remote import RemoteError
from hospital_assets_tests.mariadb import DRIVER
from hospital_assets_tests.reporting_databases import Database, look, mariadb_database, profile, rows


@pytest.fixture(scope="module")
def mariadb() -> Iterator[Callable[[], Database]]:
    with mariadb_database() as found:
        yield found


@pytest.fixture
def database(mariadb: Callable[[], Database], monkeypatch: pytest.MonkeyPatch) -> Database:
    found = mariadb()
    monkeypatch.setenv("CLARITY_URL", found.url)
    return found


@pytest.fixture
def connection(database: Database) -> Any:
    return database.connection


@pytest.fixture
def server(database: Database) -> str:
    return database.url


@pytest.mark.slow
def test_what_was_written_since_the_last_look_lands(connection: Any, tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    connection.execute("insert into visits (id, arrived, level, note) values (1, '2026-03-01 09:30', 2.5, 'Zoë 🤒')")
    connection.execute("insert into visits (id) values (2)")
    done = look(settings)
    assert (done.brought, done.failed, done.reason) == (2, {}, "")
    (file,) = (settings.landing / "clarity" / "visits").iterdir()
    assert pl.read_parquet(file).sort("id").drop("updated_at").rows() == [
        (1, "2026-03-01 09:30:00.000000", Decimal("2.5"), "Zoë 🤒"),
        (2, None, None, None),
    ]
    connection.execute("insert into visits (id) values (3)")
    assert look(settings, profile("overlap_minutes = 0")).brought == 1 and sorted(rows(settings)) == [1, 2, 3]
    connection.execute("insert into hospitals values ('H2', 'Two', 'America/Denver')")
    done = look(settings, profile("overlap_minutes = 0"))
    assert (done.brought, done.changed) == (0, 1) and rows(settings, "hospitals") == ["H1", "H2"]


@pytest.mark.slow
def test_a_transaction_that_stayed_open_is_not_lost(connection: Any, server: str, tmp_path: Path) -> None:
    from arrow_odbc import connect

    settings, other = Settings(tmp_path), connect(server)
    other.execute("set autocommit = 0")
    other.execute("insert into visits (id) values (1)")
    connection.execute("insert into visits (id) values (2)")
    assert look(settings).brought == 2 and rows(settings) == [2]
    other.execute("commit")
    assert look(settings, profile("overlap_minutes = 0")).brought == 0 and set(rows(settings)) == {2}
    assert look(settings).brought == 1 and set(rows(settings)) == {1, 2}


#: Kind of a column and what it holds -> what lands.
KINDS = {
    ("date", "'1950-03-00'"): "1950-03-00",
    ("date", "'0000-00-00'"): "0000-00-00",
    ("datetime", "'2026-03-00 08:10'"): "2026-03-00 08:10:00",
    ("datetime(6)", "'2026-03-00 08:10:00.5'"): "2026-03-00 08:10:00.500000",
    ("timestamp null", "'2026-03-01 08:10'"): "2026-03-01 08:10:00",
    ("time", "'25:10'"): "25:10:00",
    ("time", "'-10:00'"): "-10:00:00",
    ("bit(1)", "b'1'"): "1",
    ("bit(3)", "b'101'"): "5",
    ("bigint unsigned", "18446744073709551615"): "18446744073709551615",
    ("int unsigned", "4000000000"): "4000000000",
    ("boolean", "true"): "1",
    ("double", "1001"): "1001",
    ("float", "37.2"): "37.2",
    ("decimal(5, 2)", "2.5"): "2.50",
    ("binary(16)", "unhex('a0eebc999c0b4ef8bb6d6bb9bd380a11')"): "a0eebc999c0b4ef8bb6d6bb9bd380a11",
    ("blob", "'x'"): "78",
    ("longtext character set utf8mb4", "'Zoë 🤒'"): "Zoë 🤒",
    ("int", "null"): "",
}


@pytest.mark.slow
def test_every_kind_of_column_lands_as_the_database_writes_it(connection: Any, server: str, tmp_path: Path) -> None:
    """At a date without a day, and at several bits, the driver ends the program; others it gives wrongly or not."""
    connection.execute("set session sql_mode = ''")
    columns = ", ".join(f"`c {place}` {kind}" for place, (kind, _) in enumerate(KINDS))
    connection.execute(f"create or replace table kinds ({columns})")
    connection.execute(f"insert into kinds values ({', '.join(value for _, value in KINDS)})")
    with open_database(server) as database:
        (file,) = queries._written(database.batches("select * from kinds", {}, 9), tmp_path, Query(sql="select 1"))
        with pytest.raises(RemoteError, match="two columns of its result have one name"):
            list(database.batches("select id, level as id from visits", {}, 9))
    text = csv_content(file, Subject(files=("x",), columns={})).text
    assert next(iter(csv.reader(text.splitlines()[1:]))) == list(KINDS.values())


LONG = " union all select id, null, null, repeat('Mustermann', 9000), null from visits"
MANY = " union all select id, arrived, level, repeat('x', 60000), updated_at from visits, seq_1_to_99"
FAULTS = {
    "it took longer than its `seconds`": ("seconds = 1", " and sleep(9) = 0"),
    "it gives over 5 rows": ("most_rows = 5", ""),
    "it gives over 1 MB": ("most_megabytes = 1", MANY),
    "the database does not understand it": ("", " and nonsense = 1"),
    "a text of its column note is longer than": ("", LONG),
}


@pytest.mark.slow
@pytest.mark.parametrize("said", FAULTS)
def test_a_query_that_fails_stops_no_other_and_quotes_nothing(connection: Any, tmp_path: Path, said: str) -> None:
    settings, (options, more) = Settings(tmp_path), FAULTS[said]
    connection.execute("insert into visits (id, note) select seq, 'Mustermann' from seq_1_to_9")
    done = look(settings, profile(options, more))
    assert said in done.failed["er_visits"] and "Mustermann" not in str(done)
    assert done.brought == 1, done
    assert rows(settings) == [] and rows(settings, "hospitals") == ["H1"]


@pytest.mark.slow
def test_patience_with_a_server_is_for_its_first_answer_only(
    connection: Any, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "_LOGIN_SECONDS", 1)
    with open_database(server) as database:
        (batch,) = database.batches("select sleep(3) as woken", {}, 30)
    assert batch.to_pydict() == {"woken": [0]}


@pytest.mark.slow
def test_a_session_does_not_write(connection: Any, server: str) -> None:
    insert = "insert into visits (id) values (77)"
    with open_database(server) as database, pytest.raises(RemoteError, match="does not understand it"):
        list(database.batches(insert, {}, 9))
    # A query stands in brackets, where nothing can write; the session would not either.
    with open_database(server) as database, pytest.raises(RemoteError, match="read-only"), databases._odbc_in_words():
        database.connection.execute(insert)  # type: ignore[attr-defined]
    with open_database(server) as database:
        assert [batch.to_pydict() for batch in database.batches("select count(*) as n from visits", {}, 9)] == [
            {"n": [0]}
        ]


@pytest.mark.slow
def test_a_profile_is_drafted_from_a_query(
    connection: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.execute(
        "insert into visits (id, arrived, level, note) "
        "select seq, '2026-03-01 09:30', 1 + seq % 5, concat('P', seq) from seq_1_to_30"
    )
    sql = (
        "select id as visit_id, note as patient_id, arrived as arrival_time, cast(level as int) as triage_level "
        "from visits where updated_at >= :since and updated_at < :until"
    )
    command = ["--data-dir", str(tmp_path), "profiles", "new", "clarity2", "--from-query", "CLARITY_URL"]
    assert main([*command, "--sql", sql]) == 0
    assert "the query as er_visits" in capsys.readouterr().out
    assert main(["--data-dir", str(tmp_path), "pull"]) == 0
    (file,) = (tmp_path / "landing" / "clarity2").glob("*.parquet")
    assert pl.read_parquet(file).height == 30
    assert main([*command, "--sql", "select 1 as x from visits where id < 0"]) != 0
    assert main(["--data-dir", str(tmp_path), "profiles", "new", "another"]) == 2
    monkeypatch.delenv("CLARITY_URL")
    assert main([*command[:4], "another", *command[5:], "--sql", sql]) == 2
    assert "set CLARITY_URL" in capsys.readouterr().err


def test_what_is_no_database_we_read_is_said() -> None:
    for url, said in (
        ("db2://x", "must be a URL"),
        ("Driver={IBM DB2};PWD=planted-secret", "this is another"),
        ("mysql://u:planted-secret@h/x", "must be a URL"),
    ):
        with pytest.raises(RemoteError, match=said) as raised, open_database(url):
            pass
        assert "planted" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["postgresql://u:planted-secret@{}/x", f"Driver={DRIVER};Server={{}};UID=u;PWD=planted-x"]
)
def test_a_server_that_never_answers_is_given_up(url: str) -> None:
    pytest.importorskip("arrow_odbc", reason="arrow-odbc is not installed (extra odbc)")
    pytest.importorskip("adbc_driver_postgresql", reason="adbc-driver-postgresql is not installed (extra postgres)")
    if not DRIVER.exists():
        pytest.skip("MariaDB's driver is not installed (Debian: apt-get install odbc-mariadb)")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        where = f"127.0.0.1:{port}" if "://" in url else f"127.0.0.1;Port={port}"
        with pytest.raises(RemoteError, match="cannot be reached") as raised, open_database(url.format(where), 2):
            pass
    assert "planted" not in str(raised.value)


def test_a_driver_that_is_not_installed_is_said() -> None:
    pytest.importorskip("arrow_odbc", reason="arrow-odbc is not installed (extra odbc)")
    url = "Driver={ODBC Driver 99 for SQL Server};Server=127.0.0.1,9;UID=u;PWD=planted-secret"
    with pytest.raises(RemoteError, match="driver is not installed") as raised, open_database(url):
        pass
    assert "planted" not in str(raised.value)
