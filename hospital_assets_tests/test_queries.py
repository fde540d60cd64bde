"""Queries of a real PostgreSQL: every committed row lands, also of open transactions, and nothing is told."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from hospital_assets.landing.profile import ProfileError, Query, Subject, parse_profile
from hospital_assets.landing.workbooks import csv_content
from hospital_assets.settings import Settings
from hospital_assets.sources import queries
from hospital_assets.sources.databases import open_database
from hospital_assets.sources.remote import RemoteError
from hospital_assets_tests.reporting_databases import PROFILE, Database, look, postgresql_database, profile, rows


@pytest.fixture(scope="module")
def server() -> Iterator[Callable[[], Database]]:
    with postgresql_database() as found:
        yield found


@pytest.fixture
def database(server: Callable[[], Database], monkeypatch: pytest.MonkeyPatch) -> Database:
    found = server()
    monkeypatch.setenv("CLARITY_URL", found.url)
    return found


@pytest.mark.slow
def test_what_was_written_since_the_last_look_lands(database: Database, tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    database.run(
        "insert into visits values (1, '2026-03-01 09:30', 2.5, 'a', '{\"x\": 1}'), (2, null, null, null, null)"
    )
    done = look(settings)
    assert (done.brought, done.failed, done.reason) == (2, {}, "")
    (file,) = (settings.landing / "clarity" / "visits").iterdir()
    found = pl.read_parquet(file).sort("id")
    assert found.drop("updated_at").rows() == [
        (1, datetime(2026, 3, 1, 9, 30), "2.5", "a", '{"x": 1}'),
        (2, None, None, None, None),
    ]
    assert rows(settings, "hospitals") == ["H1"]
    # Reference data lands again only where it has changed.
    database.run("insert into visits values (3)")
    assert look(settings, profile("overlap_minutes = 0")).brought == 1 and sorted(rows(settings)) == [1, 2, 3]
    database.run("insert into hospitals values ('H2', 'Two', 'America/Denver')")
    done = look(settings, profile("overlap_minutes = 0"))
    assert (done.brought, done.changed) == (0, 1) and rows(settings, "hospitals") == ["H1", "H2"]


@pytest.mark.slow
def test_a_transaction_that_stayed_open_is_not_lost(database: Database, tmp_path: Path) -> None:
    """It wrote before the look, and committed after it: only the overlap finds its row."""
    from adbc_driver_postgresql import dbapi

    settings = Settings(tmp_path)
    with dbapi.connect(database.url) as other, other.cursor() as cursor:
        cursor.execute("insert into visits values (1)")
        database.run("insert into visits values (2)")
        assert look(settings).brought == 2 and rows(settings) == [2]
        other.commit()
    assert look(settings, profile("overlap_minutes = 0")).brought == 0 and set(rows(settings)) == {2}
    assert look(settings).brought == 1 and set(rows(settings)) == {1, 2}


@pytest.mark.slow
def test_a_look_that_was_killed_is_repeated_over_the_same_span(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(tmp_path)
    database.run("insert into visits select n from generate_series(1, 35) n")
    land, landed = queries._land, []

    def in_tens(batches: Any, folder: Path, _: object) -> list[Path]:
        table = pl.DataFrame({"id": [number for batch in batches for number in batch.column("id").to_pylist()]})
        for n in range(0, 35, 10):
            table.select("id")[n : n + 10].write_parquet(folder / f"{n}")
        return sorted(folder.iterdir())

    def killed(*arguments: Any) -> None:
        if len(landed) == 1:
            raise KeyboardInterrupt
        landed.append(arguments[1])
        land(*arguments)

    monkeypatch.setattr(queries, "_written", in_tens)
    monkeypatch.setattr(queries, "_land", killed)
    with pytest.raises(KeyboardInterrupt):
        look(settings)
    monkeypatch.undo()
    monkeypatch.setenv("CLARITY_URL", database.url)
    assert len(rows(settings)) == 10
    database.run("insert into visits values (99)")
    look(settings)
    # The one after the kill comes in a span of its own, with the same look. (Pieces are of another size now; what came
    # twice counts once.)
    spans: dict[str, set[int]] = {}
    for file in (settings.landing / "clarity" / "visits").iterdir():
        spans.setdefault(file.stem.rsplit("_", 1)[0], set()).update(pl.read_parquet(file)["id"].to_list())
    assert spans[min(spans)] == {*range(1, 36)}
    assert set(rows(settings)) == {*range(1, 36), 99} and len(spans) == 2


@pytest.mark.slow
def test_files_are_of_so_many_rows_and_go_with_their_rows(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full table that has become shorter leaves no file of before; another query of a subject begins anew."""
    settings = Settings(tmp_path)
    database.run("insert into hospitals select n, repeat('x', 3000), 'UTC' from generate_series(1, 30000) n")
    monkeypatch.setattr(queries, "ROWS_OF_A_FILE", 1000)
    look(settings)
    folder = settings.landing / "clarity" / "hospitals"
    assert len(list(folder.iterdir())) > 2 and len(rows(settings, "hospitals")) == 30_001
    database.run("delete from hospitals where id <> 'H1'")
    look(settings)
    assert rows(settings, "hospitals") == ["H1"] and len(list(folder.iterdir())) == 1
    database.run("insert into visits values (1)")
    assert look(settings).brought == 1
    assert look(settings, profile(more=" order by id")).brought == 1 and rows(settings) == [1, 1]


#: What is asked for -> what its column lands as.
KINDS = {
    "'0007'::citext": "0007",
    "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "'home'::disposition": "home",
    "12.5::money": "$12.50",
    "array['a', 'b']": "{a,b}",
    "row(1, 'x')": "(1,x)",
    "b'101'": "101",
    "'\\xdead'::bytea": "\\xdead",
    "'1 day 02:03'::interval": "1 day 02:03:00",
    "'08:10+02'::timetz": "08:10:00+02",
    "'24:00'::time": "24:00:00",
    "'2026-03-01 08:10-06'::timestamptz": "2026-03-01 14:10:00.000000+00:00",
    "'infinity'::timestamp": "infinity",
    "'infinity'::date": "infinity",
    "1001::float8": "1001",
    "'NaN'::float8": "",
    "2.50::numeric": "2.50",
    "true": "true",
}


@pytest.mark.slow
def test_every_kind_of_column_lands_as_the_database_writes_it(server: Callable[[], Database], tmp_path: Path) -> None:
    """One column that Arrow or Parquet has no type for, or one value beyond its range, stops none of the rows."""
    database = server()
    for statement in (
        "create extension if not exists citext",
        "do $$ begin create type disposition as enum ('home'); exception when duplicate_object then null; end $$",
    ):
        database.run(statement)
    sql = f"select {', '.join(f'{kind} as c{place}' for place, kind in enumerate(KINDS))} -- and that is all"
    for asked in (sql, f"{sql.partition(' --')[0]};"):
        with open_database(database.url) as found:
            (file,) = queries._written(found.batches(asked, {}, 9), tmp_path, Query(sql="select 1"))
        text = csv_content(file, Subject(files=("x",), columns={})).text
        assert next(iter(csv.reader(text.splitlines()[1:]))) == list(KINDS.values())


@pytest.mark.slow
def test_two_columns_of_one_name_are_said(database: Database, tmp_path: Path) -> None:
    database.run("insert into visits values (1)")
    for more in ("", ", 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid as key"):
        with open_database(database.url) as found, pytest.raises(RemoteError, match="two columns .* have one name"):
            queries._written(
                found.batches(f"select id, level as id{more} from visits", {}, 9), tmp_path, Query(sql="x")
            )


@pytest.mark.slow
def test_a_full_query_that_is_written_otherwise_takes_the_place_of_the_one_before(
    database: Database, tmp_path: Path
) -> None:
    settings, of = Settings(tmp_path), profile()
    database.run("insert into hospitals values ('H2', 'Two', 'UTC')")
    look(settings, of)
    assert of.source is not None
    hospitals = of.source.queries["hospitals"].model_copy(update={"sql": "select * from hospitals where id <> 'H2'"})
    source = of.source.model_copy(update={"queries": of.source.queries | {"hospitals": hospitals}})
    done = look(settings, of.model_copy(update={"source": source}))
    assert rows(settings, "hospitals") == ["H1"] and done.succeeded
    assert len(list((settings.landing / "clarity" / "hospitals").iterdir())) == 1


FAULTS = {
    "it took longer than its `seconds`": ("seconds = 1", " and pg_sleep(9) is not null"),
    "it gives over 5 rows": ("most_rows = 5", ""),
    "the database does not understand it": ("", " and nonsense = 1"),
    "it writes, and the session is read-only": ("", "; insert into visits values (77)"),
    "a value may not be read as its type": ("", " and (note || 'Erika Mustermann')::int = 1"),
}


@pytest.mark.slow
@pytest.mark.parametrize("said", FAULTS)
def test_a_query_that_fails_stops_no_other_and_quotes_nothing(database: Database, tmp_path: Path, said: str) -> None:
    settings, (options, more) = Settings(tmp_path), FAULTS[said]
    database.run("insert into visits select n, null, null, 'Mustermann' from generate_series(1, 9) n")
    if "writes" in said:
        query = "with w as (insert into visits values (77) returning id) select * from w"
        of = profile().model_copy(deep=True)
        assert of.source is not None
        er_visits = of.source.queries["er_visits"].model_copy(update={"sql": query})
        of = of.model_copy(
            update={"source": of.source.model_copy(update={"queries": of.source.queries | {"er_visits": er_visits}})}
        )
    else:
        of = profile(options, more)
    done = look(settings, of)
    assert said in done.failed["er_visits"] and "Mustermann" not in str(done)
    assert done.brought == 1, done
    assert rows(settings) == [] and rows(settings, "hospitals") == ["H1"]


@pytest.mark.slow
def test_who_asks_is_not_kept(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLARITY_URL", f"{database.url}&password=planted-secret&application_name=planted-secret")
    settings = Settings(tmp_path)
    assert look(settings).reason == ""
    monkeypatch.setenv("CLARITY_URL", "postgresql://planted-secret@127.0.0.1:1/x")
    refused = look(settings)
    assert "cannot be reached" in refused.reason and "planted" not in refused.reason
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"planted-" not in path.read_bytes(), path
    monkeypatch.delenv("CLARITY_URL")
    assert look(settings).reason.startswith("set CLARITY_URL to the database's URL")
    monkeypatch.setenv("CLARITY_URL", "db2://x")
    assert "it must be a URL that begins with postgresql" in look(settings).reason


@pytest.mark.nightly
def test_a_million_rows_in_bounded_memory(database: Database, tmp_path: Path) -> None:
    import subprocess
    import sys

    database.run(
        "insert into visits select n, timestamp '2026-01-01' + n * interval '1 s', n % 5, repeat('x', n % 100) "
        "from generate_series(1, 1000000) n"
    )
    settings = Settings(tmp_path)
    settings.profiles_folder.mkdir(parents=True)
    (settings.profiles_folder / "clarity.toml").write_text(PROFILE.format(options="", more=""))
    script = (
        "import resource, sys, time; from hospital_assets.cli import main; begun = time.monotonic(); "
        f"code = main(['--data-dir', {str(tmp_path)!r}, 'pull']); print(time.monotonic() - begun); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    begun = time.monotonic()
    with database.connection.cursor() as cursor:
        cursor.execute("select * from visits")
        assert sum(batch.num_rows for batch in cursor.fetch_record_batch()) == 1_000_000
    *_, seconds, megabytes = done.stdout.split()
    print(f"1,000,000 rows: {float(seconds):.1f} s, {megabytes} MB; COPY alone {time.monotonic() - begun:.1f} s")  # noqa: T201
    assert len(rows(settings)) == 1_000_000 and int(done.stdout.split()[-1]) < 1_000


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ('database = "postgresql://u:secret@host/db"\n[source.queries.hospitals]\nsql = "select 1"', "never a URL"),
        ('database = "URL"', "name an address, or a database and its queries"),
        ('address = "s3://b"\ndatabase = "URL"\n[source.queries.hospitals]\nsql = "select 1"', "name an address, or"),
        ('address = "s3://b"\n[source.queries.hospitals]\nsql = "select 1"', "name an address, or"),
    ],
)
def test_a_source_is_a_folder_or_a_database(source: str, said: str) -> None:
    text = (
        f'name = "x"\ndescription = "x"\ntime_zone = "UTC"\n[source]\n{source}\n[subjects.hospitals]\nfiles = ["*"]\n'
    )
    with pytest.raises(ProfileError, match=said):
        parse_profile(text, "x.toml")
