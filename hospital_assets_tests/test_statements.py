"""Zero wrong statements: whatever a page states is computed anew from the published tables, over random slices."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest

from hospital_assets.automation.build import BuildReport
from hospital_assets.dashboard.mart import Mart
from hospital_assets.dashboard.pages.menu import MENU
from hospital_assets.dashboard.slices import Known, periods, read_slice
from hospital_assets.dashboard.store import open_mart
from hospital_assets.settings import Settings
from hospital_assets_tests.dashboards import published
from hospital_assets_tests.statements import PAGES, Oracle, compared, problems

BUILDS = {entry.name: entry.build for entry in MENU if entry.build is not None}
#: Audience -> slices of each page: 200 over the eight pages.
SLICES = {"admin": 12, "executive": 8, "doctor-H1": 5}
#: The small network is told again, so that series have limits and long periods weeks.
SPANS, DAYS = 20, 8


def stretched(data_dir: Path, audience: str) -> Mart:
    """A publication whose days are there many times, one after the other, each time without another tenth of the rows.

    In the newest times waits are longer, so that there are signals.
    """
    source = open_mart(data_dir, audience)
    connection = duckdb.connect()
    connection.execute(f"attach '{source.file}' as published (read_only)")
    tables = connection.sql(
        "select schema_name, table_name from duckdb_tables() where database_name = 'published'"
    ).fetchall()
    for schema, table in tables:
        columns = connection.sql(
            f"select column_name, data_type from duckdb_columns() where database_name = 'published' "
            f"and schema_name = '{schema}' and table_name = '{table}'"
        ).fetchall()
        connection.execute(f"create schema if not exists {schema}")
        names = {name for name, _ in columns}
        if schema == "dimensions" or not names & {"service_date", "period_date"} or "metric" in names:
            connection.execute(f"create table {schema}.{table} as from published.{schema}.{table}")
            continue
        shown = []
        for name, kind in columns:
            if kind in ("DATE", "TIMESTAMP"):
                shown.append(f"({name} - to_days({DAYS} * k::integer))::{kind} as {name}")
            elif name.startswith("wait_") and name.endswith("_minutes"):
                shown.append(f"{name} * case when k < 2 then 1.7 else 1 end as {name}")
            else:
                shown.append(name)
        connection.execute(
            f"create table {schema}.{table} as select {', '.join(shown)} "
            f"from published.{schema}.{table} as t, range({SPANS}) as spans(k) "
            "where k = 0 or hash(t::varchar, k) % 10 > 0"
        )
    connection.execute("detach published")
    return Mart(connection, audience, "1", source.published_at, source.data_as_of, source.few)


@pytest.fixture(scope="module")
def marts(built: tuple[Settings, BuildReport], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Mart]:
    settings = published(built[0], tmp_path_factory.mktemp("statements") / "data", ("admin", "executive", "doctor"))
    return {audience: stretched(settings.data_dir, audience) for audience in SLICES}


def oracle_of(mart: Mart) -> Oracle:
    return Oracle(mart.connection.cursor(), mart.known, mart.few, mart.data_as_of)


def asked_at_random(known: Known, chance: random.Random) -> dict[str, str]:
    """A choice of each slicer; the whole half of the time, or it would be few patients most of the time."""
    some = ["all", "last-7", "last-28", "last-90", "days", "days", *periods(known)]
    days = sorted(known.first + timedelta(chance.randrange((known.last - known.first).days + 1)) for _ in range(2))
    return {
        "period": chance.choice(some),
        "from": days[0].isoformat(),
        "to": days[1].isoformat(),
        "hospital": chance.choice(["all", "all", *known.hospitals]),
        "department": chance.choice([*["all"] * 4, *known.departments]),
        "triage": chance.choice([*["all"] * 5, *known.triage]),
        "beds": chance.choice(["", "12", "40"]),
        "doctors": chance.choice(["", "-2", "1", "9"]),
    }


def wrong_statements(mart: Mart, oracle: Oracle, page: str, slices: int) -> Iterator[str]:
    build, chance = BUILDS[page], random.Random(f"{page} {mart.audience}")
    for _ in range(slices):
        asked = asked_at_random(mart.known, chance)
        where = read_slice(asked, mart.known)
        yield from (f"{asked} {wrong}" for wrong in compared(page, build(mart, where), oracle, where))


@pytest.mark.slow
@pytest.mark.parametrize("audience", SLICES)
def test_whatever_a_page_states_is_what_the_published_tables_hold(marts: dict[str, Mart], audience: str) -> None:
    assert set(PAGES) == set(BUILDS)
    assert sum(SLICES.values()) * len(PAGES) == 200
    mart = marts[audience]
    oracle = oracle_of(mart)
    wrong = [f"{page}: {found}" for page in PAGES for found in wrong_statements(mart, oracle, page, SLICES[audience])]
    assert not wrong, f"{len(wrong)} wrong statements\n" + "\n".join(wrong[:20])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "table", "planted"),
    [
        ("overview", "kpi_waits_daily", pl.col("visit_count") + 1),
        ("overview", "kpi_waits_daily", pl.col("wait_median_minutes") + 3),
        ("flow", "kpi_four_hour_daily", pl.col("numerator_count") * 0),
        ("flow", "kpi_pathways_daily", pl.col("visit_count") + 1),
        ("deterioration", "kpi_first_observations_daily", pl.col("numerator_count") * 0),
        ("capacity", "kpi_occupancy_daily", pl.col("occupied_bed_minutes") * 1.1),
        ("workforce", "kpi_physician_workload_daily", pl.col("visit_count") + 1),
        ("conditions", "kpi_conditions", pl.col("coded_visit_count") + 1),
        ("forecast", "forecast_arrivals_daily", pl.col("expected_arrivals") + 1),
        ("visits", "fact_emergency_visits", pl.col("service_date").dt.offset_by("-1d")),
    ],
)
def test_a_page_with_other_figures_than_the_tables_is_found(
    marts: dict[str, Mart], page: str, table: str, planted: pl.Expr
) -> None:
    mart = marts["admin"]
    oracle = oracle_of(mart)
    assert not list(wrong_statements(mart, oracle, page, 3))
    oracle.frames[table] = oracle.table(table).with_columns(planted)
    assert list(wrong_statements(mart, oracle, page, 3))


@pytest.mark.parametrize(
    ("text", "facts", "wrong"),
    [
        ("1,234 visits, 5.0 % more", [1234, "5.0", "more"], ""),
        ("1,235 visits, 5.0 % more", [1234, "5.0", "more"], "'1,234'"),
        ("1,234 visits, 5.0 % less", [1234, "5.0", "more"], "'more'"),
        ("1,234 visits, 5.0 % more", [1234, "more"], "5.0"),
        ("1,234 visits of 12,345", [1234], "12,345"),
        ("12,345 visits", [345], "'345'"),
        ("34 of 12", [12, 34], "'34'"),
        ("Within 15 minutes: 3", [3], ""),
    ],
)
def test_a_text_has_its_facts_in_order_and_no_other_number(text: str, facts: list[str | int], wrong: str) -> None:
    found = problems(text, facts)
    assert wrong in found if wrong else not found
