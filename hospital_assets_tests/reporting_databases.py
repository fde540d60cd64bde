"""Reporting databases for tests: visits and hospitals on a real server, and a profile that asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from hospital_assets.landing.profile import Profile, parse_profile
from hospital_assets.settings import Settings
from hospital_assets.sources.memory import Pulled
from hospital_assets.sources.pull import pull
from hospital_assets_tests.mariadb import mariadb_server
from hospital_assets_tests.postgresql import postgresql_server

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PROFILE = """
name = "clarity"
description = "A reporting database."
time_zone = "America/Chicago"
[source]
database = "CLARITY_URL"
[source.queries.er_visits]
sql = "select * from visits where updated_at >= :since and updated_at < :until{more}"
{options}
[source.queries.hospitals]
sql = "select * from hospitals order by id"
is_full = true
[subjects.er_visits]
files = ["visits/*.parquet"]
date = "arrival_time"
columns = {{ visit_id = "id", arrival_time = "arrived", triage_level = "level", chief_complaint = "note" }}
[subjects.hospitals]
files = ["hospitals/*.parquet"]
columns = {{ hospital_id = "id", hospital_name = "name", time_zone = "zone" }}
"""
_FRESH = "insert into hospitals values ('H1', 'One', 'America/Chicago')"
_POSTGRESQL = (
    "drop table if exists visits, hospitals",
    "create table visits (id bigint primary key, arrived timestamp, level numeric(3,1), note text, facts jsonb, "
    "updated_at timestamptz not null default clock_timestamp())",
    "create table hospitals (id text, name text, zone text)",
    _FRESH,
)
_MARIADB = (
    "create or replace table visits (id bigint primary key, arrived datetime(6), level decimal(3,1), note text, "
    "updated_at timestamp(6) not null default current_timestamp(6)) character set utf8mb4",
    "create or replace table hospitals (id varchar(99), name varchar(4000), zone varchar(99)) character set utf8mb4",
    _FRESH,
)


@dataclass
class Database:
    """A database on a server: what its variable holds, and a connection that commits each statement."""

    url: str
    connection: Any
    run: Callable[[str], object]


@contextmanager
def postgresql_database() -> Iterator[Callable[[], Database]]:
    """A PostgreSQL server; each call gives its database as new. Skips where it is not installed."""
    pytest.importorskip("adbc_driver_postgresql", reason="adbc-driver-postgresql is not installed (extra postgres)")
    from adbc_driver_postgresql import dbapi

    with postgresql_server() as server, dbapi.connect(server.dsn()) as connection:

        def run(statement: str) -> None:
            with connection.cursor() as cursor:
                cursor.execute(statement)
            connection.commit()

        yield lambda: _as_new(Database(server.dsn(), connection, run), _POSTGRESQL)


@contextmanager
def mariadb_database() -> Iterator[Callable[[], Database]]:
    """A MariaDB server; each call gives its database as new. Skips where it or its ODBC driver is not installed."""
    arrow_odbc = pytest.importorskip("arrow_odbc", reason="arrow-odbc is not installed (extra odbc)")
    with mariadb_server() as url:
        connection = arrow_odbc.connect(url)
        yield lambda: _as_new(Database(url, connection, connection.execute), _MARIADB)


def _as_new(database: Database, tables: tuple[str, ...]) -> Database:
    for statement in tables:
        database.run(statement)
    return database


def profile(options: str = "overlap_minutes = 60", more: str = "") -> Profile:
    return parse_profile(PROFILE.format(options=options, more=more), "clarity.toml")


def look(settings: Settings, of: Profile | None = None, *, lists_all: bool = False) -> Pulled:
    return pull(settings, of or profile(), lambda: NOW, lambda _: None, lists_all=lists_all)


def rows(settings: Settings, folder: str = "visits") -> list[Any]:
    files = sorted((settings.landing / "clarity" / folder).glob("*.parquet"))
    return pl.concat([pl.read_parquet(file) for file in files])["id"].to_list() if files else []
