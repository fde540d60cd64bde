"""Rows that vanish from a real database: they go from the landed files, and nothing else does."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from hospital_assets.cli import main
from hospital_assets.landing.profile import ProfileError, Query
from hospital_assets.settings import Settings, write_settings
from hospital_assets.sources import queries
from hospital_assets.sources.deletions import compared, write_rows
from hospital_assets.sources.memory import Pulled, memory_file, open_memory
from hospital_assets.sources.remote import RemoteError
from hospital_assets_tests.helpers import query
from hospital_assets_tests.reporting_databases import (
    Database,
    look,
    mariadb_database,
    postgresql_database,
    profile,
    rows,
)

DELETES = 'overlap_minutes = 60\ndeleted_days = 30\nkey = ["id"]\nwritten = "updated_at"'
AGO = "insert into visits (id, updated_at) values ({}, current_timestamp - interval '{}' day)"


@pytest.fixture(scope="module", params=[postgresql_database, mariadb_database])
def server(request: pytest.FixtureRequest) -> Iterator[Callable[[], Database]]:
    with request.param() as found:
        yield found


@pytest.fixture
def database(server: Callable[[], Database], monkeypatch: pytest.MonkeyPatch) -> Database:
    found = server()
    monkeypatch.setenv("CLARITY_URL", found.url)
    return found


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path)


def insert(database: Database, *numbers: int) -> None:
    database.run(f"insert into visits (id) values {', '.join(f'({n})' for n in numbers)}")


def compare(settings: Settings, options: str = DELETES, more: str = "") -> Pulled:
    return look(settings, profile(options, more), lists_all=True)


@pytest.mark.slow
def test_a_deleted_row_goes_from_every_file_it_landed_in(database: Database, settings: Settings) -> None:
    insert(database, 1, 2)
    assert compare(settings).failed == {}
    insert(database, 3)
    compare(settings)
    # Within the overlap, each look lands all of them.
    assert sorted(rows(settings)) == [1, 1, 2, 2, 3]
    database.run("delete from visits where id = 2")
    # Nobody looks for deleted rows again within the hour.
    assert look(settings, profile(DELETES)).deleted == 0 and 2 in rows(settings)
    done = compare(settings)
    assert (done.deleted, done.failed, done.reason) == (1, {}, "") and set(rows(settings)) == {1, 3}
    before = {file: file.stat().st_mtime_ns for file in settings.landing.rglob("*.parquet")}
    again = compare(settings, DELETES.replace("60", "0"))
    assert (again.deleted, again.changed, again.removed) == (0, 0, 0) and again.succeeded
    assert {file: file.stat().st_mtime_ns for file in before} == before


@pytest.mark.slow
def test_without_the_word_nothing_goes(database: Database, settings: Settings) -> None:
    insert(database, 1, 2)
    look(settings)
    database.run("delete from visits where id = 2")
    look(settings, lists_all=True)
    assert set(rows(settings)) == {1, 2}


@pytest.mark.slow
def test_a_row_that_is_inserted_again_is_here_again(database: Database, settings: Settings) -> None:
    """Also with the time of before, as when a table is filled anew: no look would ask for it any more."""
    for number in (1, 2, 3):
        database.run(AGO.format(number, 5))
    compare(settings)
    database.run("delete from visits where id in (2, 3)")
    assert compare(settings).deleted == 2 and rows(settings) == [1]
    insert(database, 2)
    database.run(AGO.format(3, 5))
    done = compare(settings)
    assert (done.deleted, done.failed) == (0, {}) and sorted(rows(settings)) == [1, 2, 3]
    # Deleted and inserted between two looks: the new row is here, the old one is its older version.
    database.run("delete from visits where id = 1")
    insert(database, 1)
    assert compare(settings).deleted == 0 and set(rows(settings)) == {1, 2, 3}


@pytest.mark.slow
def test_a_row_that_is_inserted_again_after_the_days_is_here_again(database: Database, settings: Settings) -> None:
    """It was within the days when it was deleted, and is as long ago as it says when it is there again."""
    insert(database, 1, 2)
    database.run(AGO.format(3, 29))
    compare(settings)
    database.run("delete from visits where id = 3")
    assert compare(settings).deleted == 1 and set(rows(settings)) == {1, 2}
    database.run(AGO.format(3, 32))
    assert compare(settings).deleted == 0 and set(rows(settings)) == {1, 2, 3}


@pytest.mark.slow
def test_a_clock_that_was_ahead_stops_no_comparison(database: Database, settings: Settings) -> None:
    insert(database, 1, 2)
    compare(settings)
    with open_memory(settings) as memory, contextlib.closing(sqlite3.connect(memory_file(settings))) as connection:
        spans = connection.execute("select source, subject, since from spans").fetchall()
        assert len(spans) == 2
        for source, subject, since in spans:
            memory.note_span(source, subject, datetime.fromisoformat(since) + timedelta(days=365), None)
    database.run("delete from visits where id = 2")
    insert(database, 3)
    assert look(settings, profile(DELETES)).deleted == 1 and set(rows(settings)) == {1, 3}


@pytest.mark.slow
def test_a_row_that_was_erased_here_does_not_come_back(database: Database, settings: Settings) -> None:
    for number in (1, 2):
        database.run(AGO.format(number, 5))
    compare(settings)
    (file,) = (settings.landing / "clarity" / "visits").iterdir()
    pl.read_parquet(file).filter(pl.col("id") != 2).write_parquet(file)
    assert compare(settings).failed == {} and rows(settings) == [1]


@pytest.mark.slow
def test_a_row_that_was_moved_to_another_day_goes_with_its_older_version(
    database: Database, settings: Settings
) -> None:
    """The older version was written before the days that are compared."""
    insert(database, 1)
    database.run(AGO.format(7, 100))
    compare(settings)
    database.run("update visits set arrived = '2026-03-02 00:10', updated_at = current_timestamp where id = 7")
    compare(settings)
    assert rows(settings).count(7) == 2
    database.run("delete from visits where id = 7")
    assert compare(settings).deleted == 1 and set(rows(settings)) == {1}


@pytest.mark.slow
def test_what_is_older_than_the_days_stays(database: Database, settings: Settings) -> None:
    """As where a database keeps its last years only."""
    insert(database, 1)
    database.run(AGO.format(2, 29))
    database.run(AGO.format(3, 31))
    compare(settings)
    database.run("delete from visits where id > 1")
    assert compare(settings).deleted == 1 and set(rows(settings)) == {1, 3}


@pytest.mark.slow
def test_a_table_that_is_suddenly_empty_deletes_nothing(database: Database, settings: Settings) -> None:
    insert(database, *range(1, 101))
    compare(settings)
    database.run("create table kept as select * from visits")
    try:
        for condition, gone in (("true", 100), ("id <= 11", 11)):
            database.run(f"delete from visits where {condition}")
            database.run(f"insert into visits select * from kept where not ({condition})")
            done = compare(settings)
            said = f"{gone} of 100 landed rows are not in the database any more, more than 10 % at once"
            assert said in done.failed["er_visits"] and not done.succeeded
            assert done.deleted == 0 and set(rows(settings)) == {*range(1, 101)}
    finally:
        database.run("drop table kept")
    # It is believed where the profile says so.
    assert compare(settings, f"{DELETES}\nmost_deleted_percent = 11").deleted == 11
    assert set(rows(settings)) == {*range(12, 101)}
    database.run("delete from visits")
    assert "100 % at once" not in str(compare(settings, f"{DELETES}\nmost_deleted_percent = 100").failed)
    assert rows(settings) == [] and not list((settings.landing / "clarity" / "visits").iterdir())


@pytest.mark.slow
def test_a_full_table_that_is_suddenly_empty_stays(database: Database, settings: Settings) -> None:
    database.run("insert into hospitals values ('H2', 'Two', 'UTC')")
    look(settings)
    database.run("delete from hospitals")
    assert "it gives no row, and gave some before" in look(settings).failed["hospitals"]
    assert rows(settings, "hospitals") == ["H1", "H2"]
    database.run("insert into hospitals values ('H2', 'Two', 'UTC')")
    assert look(settings).succeeded and rows(settings, "hospitals") == ["H2"]


@pytest.mark.slow
def test_a_database_that_fails_deletes_nothing(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert(database, 1, 2)
    compare(settings)
    database.run("delete from visits where id = 2")
    few = compare(settings, f"{DELETES}\nmost_rows = 1")
    assert few.succeeded and few.deleted == 1, few
    insert(database, 2)
    compare(settings)
    database.run("delete from visits where id = 1")
    assert (
        "must have the columns of `key`" in compare(settings, DELETES.replace("updated_at", "note")).failed["er_visits"]
    )
    assert "does not understand it" in compare(settings, DELETES.replace("id", "nonsense")).failed["er_visits"]
    unreachable = "postgresql://nobody@127.0.0.1:1/x" if "://" in database.url else f"{database.url};Socket=/nowhere"
    monkeypatch.setenv("CLARITY_URL", unreachable)
    assert "cannot be reached" in compare(settings).reason
    assert set(rows(settings)) == {1, 2}


@pytest.mark.slow
def test_who_is_killed_in_between_goes_on(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert(database, 1, 2)
    for _ in range(3):
        compare(settings)
    database.run("delete from visits where id = 2")
    drop: Any = queries._Question._drop

    def killed(*arguments: Any) -> None:
        drop(*arguments)
        if settings.landing.exists() and rows(settings).count(2) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(queries._Question, "_drop", killed)
    with pytest.raises(KeyboardInterrupt):
        compare(settings)
    monkeypatch.setattr(queries._Question, "_drop", drop)
    assert rows(settings).count(2) == 2
    assert compare(settings).deleted == 1 and set(rows(settings)) == {1}


@pytest.mark.slow
def test_files_of_another_query_of_before_are_compared_too(database: Database, settings: Settings) -> None:
    insert(database, 1, 2)
    compare(settings)
    compare(settings, more=" order by id")
    database.run("delete from visits where id = 2")
    assert compare(settings, more=" order by id;").deleted == 1 and set(rows(settings)) == {1}


BUILT = """
name = "clarity"
description = "A reporting database."
time_zone = "UTC"
[source]
database = "CLARITY_URL"
[source.queries.er_visits]
sql = "select id, note, arrived, updated_at from visits where updated_at >= :since and updated_at < :until"
deleted_days = 30
key = ["id"]
written = "updated_at"
[source.queries.hospitals]
sql = "select * from hospitals"
is_full = true
[subjects.er_visits]
files = ["visits/*.parquet"]
date = "arrival_time"
columns = { visit_id = "id", patient_id = "note", arrival_time = "arrived" }
constants = { hospital_id = "H1" }
[subjects.hospitals]
files = ["hospitals/*.parquet"]
columns = { hospital_id = "id", hospital_name = "name", time_zone = "zone" }
"""


@pytest.mark.nightly
def test_deleted_visits_are_gone_from_the_tables(database: Database, tmp_path: Path) -> None:
    settings = Settings(tmp_path, date(2026, 3, 1), date(2026, 3, 2))
    write_settings(settings)
    settings.profiles_folder.mkdir(parents=True)
    (settings.profiles_folder / "clarity.toml").write_text(BUILT)

    def built() -> list[Any]:
        assert main(["--data-dir", str(tmp_path), "pull", "--all"]) == 0
        # Checks that want tables which are not selected fail.
        main(["--data-dir", str(tmp_path), "build", "--select", "+key:fact_emergency_visits"])
        found = query(settings, "select visit_id, service_date from facts.fact_emergency_visits order by 1")
        return [(visit.rpartition(":")[2], day.day) for visit, day in found.rows()]

    database.run(
        "insert into visits (id, note, arrived) values (1, 'P1', '2026-03-01 09:30'), (2, 'P2', '2026-03-01 10:30'), "
        "(3, 'P3', '2026-03-01 11:30')"
    )
    assert built() == [("1", 1), ("2", 1), ("3", 1)]
    database.run("update visits set arrived = '2026-03-02 00:10', updated_at = current_timestamp where id = 2")
    assert built() == [("1", 1), ("2", 2), ("3", 1)]
    database.run("delete from visits where id <> 3")
    assert built() == [("3", 1)]


PARTS = st.one_of(st.none(), st.sampled_from(["a", "b", "a\x1f", ""]))
KEYS = st.lists(st.tuples(PARTS, st.one_of(st.none(), st.integers(0, 3))), max_size=12)
QUERY = Query(sql="", deleted_days=1, key=("a", "b"), written="at", most_deleted_percent=50)
SINCE = datetime(2026, 3, 1, tzinfo=UTC)


# Each example writes five files.
@hypothesis_settings(max_examples=30)
@given(here=KEYS.filter(bool), there=KEYS, ages=st.lists(st.integers(-2, 2), min_size=12, max_size=12))
def test_rows_vanish_whose_whole_key_is_nowhere(
    tmp_path_factory: pytest.TempPathFactory, here: list[Any], there: list[Any], ages: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("files [1]*")
    landed, asked, target = (folder / name for name in ("landed.parquet", "asked.parquet", "target.parquet"))
    schema = {"a": pl.String, "b": pl.Int64}
    times = [SINCE + timedelta(hours=age) for age in ages[: len(here)]]
    frame = pl.DataFrame(here, schema=schema, orient="row").with_columns(at=pl.Series(times, dtype=pl.Datetime("us")))
    frame.write_parquet(landed)
    pl.DataFrame(there, schema=schema, orient="row").write_parquet(asked)
    window = {key for key, age in zip(here, ages, strict=False) if age >= 0 and None not in key}
    vanished = window - {*there}
    with compared(QUERY, [landed], [asked] if there else [], SINCE, folder) as found:
        assert (len(found.vanished), found.compared) == (len(vanished), len(window))
        if len(vanished) == len(window) > 0:
            with pytest.raises(RemoteError, match="nothing was deleted"):
                found.assert_few()
        else:
            found.assert_few()
        numbers = dict(found.rows([landed], found.vanished)).get(landed, [])
    assert write_rows(landed, target, numbers, is_kept=False) == len(here) - len(numbers)
    assert pl.read_parquet(target, glob=False).rows() == [row for row in frame.rows() if row[:2] not in vanished]
    write_rows(landed, target, numbers, is_kept=True)
    assert pl.read_parquet(target, glob=False).rows() == [row for row in frame.rows() if row[:2] in vanished]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("deleted_days = 30", "wants the `key` of a row"),
        ('key = ["id"]', "say of how many `deleted_days`"),
        (f"{DELETES}\nis_full = true", "goes anyway"),
        (DELETES.replace('"id"', '"id from visits; drop"'), "should match pattern"),
    ],
)
def test_what_cannot_be_compared_is_said(options: str, said: str) -> None:
    with pytest.raises(ProfileError, match=said):
        profile(options)
