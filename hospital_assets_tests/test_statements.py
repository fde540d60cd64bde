"""Zero wrong statements: whatever a page states is computed anew from the published tables, over random slices."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest

from hospital_assets.access.audit import AuditLog, Event, record
from hospital_assets.automation.build import BuildReport
from hospital_assets.contracts import CONTRACTS
from hospital_assets.dashboard.figures import Drawn, Page
from hospital_assets.dashboard.mart import Mart
from hospital_assets.dashboard.pages.governance import governance
from hospital_assets.dashboard.pages.menu import MENU
from hospital_assets.dashboard.pages.quality import quality
from hospital_assets.dashboard.slices import Known, periods, read_slice
from hospital_assets.dashboard.store import open_mart
from hospital_assets.files import replace_text
from hospital_assets.landing.registry import load_profiles
from hospital_assets.reports.quality import SUBJECTS, as_json, gather
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import open_warehouse
from hospital_assets.warehouse.loads import publish_ledger
from hospital_assets_tests.dashboards import published, warehouse_copy
from hospital_assets_tests.statements import PAGES, Oracle, compared, problems

BUILDS = {entry.name: entry.build for entry in MENU if entry.build is not None}
#: Audience -> slices of each page: 200 over the eight pages.
SLICES = {"admin": 12, "executive": 8, "doctor-H1": 5}
#: The small network is told again, so that series have limits and long periods weeks.
SPANS, DAYS = 20, 8
AT = datetime(2026, 3, 12, 12, tzinfo=UTC)


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


def numbers(page: Page) -> dict[str, str]:
    """Card or figure -> what it states."""
    cards = {card.id: f"{card.value}{card.unit} {card.detail}" for card in page.cards}
    return cards | {one.id: one.title for one in page.figures}


@pytest.mark.slow
def test_the_quality_page_states_what_the_warehouse_holds(built: tuple[Settings, BuildReport], tmp_path: Path) -> None:
    """Each number by a query of its own; of tables, every row."""
    settings = warehouse_copy(built[0], tmp_path / "data")
    with open_warehouse(settings.warehouse_file) as warehouse:
        publish_ledger(warehouse)
        connection = warehouse.connection
        # Rules of one name are of each subject's own.
        for subject in ("vitals", "er_visits"):
            connection.execute(
                f"update cleaned.quarantine_{subject} set rule = 'patient_id_missing' where not is_duplicate"
            )
        replace_text(settings.gathered_quality, as_json(gather(warehouse, load_profiles(None), AT)))

        def one(query: str) -> tuple[int, ...]:
            (row,) = connection.sql(query).fetchall()
            return tuple(int(value or 0) for value in row)

        def by(query: str) -> set[tuple[object, ...]]:
            return set(connection.sql(query).fetchall())

        passed, of, broken = one(
            """
            with newest as (
                select *, dense_rank() over (
                    partition by table_name, kind, column_name, rule order by checked_at desc
                ) as age
                from quality.dq_results
            )
            select count(*) filter (where status = 'Passed'), count(*) filter (where status in ('Passed', 'Failed')),
                   count(*) filter (where status = 'Failed')
            from newest where age = 1
            """
        )
        quarantined = {
            subject: one(
                f"select count(*) filter (where not is_duplicate), count(*) filter (where is_duplicate) "
                f"from cleaned.quarantine_{subject}"
            )
            for subject in SUBJECTS
        }
        kept = {
            subject: one(
                f"select (select count(*) from raw.raw_{subject}), (select count(*) from cleaned.cleaned_{subject})"
            )
            for subject in SUBJECTS
        }
        rules = set()
        for name in SUBJECTS:
            rules |= by(
                f"select '{name}', rule, count(*) from cleaned.quarantine_{name} where not is_duplicate group by 2"
            )
        states = by("select state, count(*) from raw.raw_landed_files group by 1")
        days = by(
            "select subject, cast(max(d) as varchar) from (select subject, unnest(service_dates) d "
            "from raw.raw_landed_files) group by 1"
        )
    page = quality(settings)
    told = numbers(page)
    total = sum(own for own, _ in quarantined.values())
    assert told["quarantined"] == f"{total:,} in quarantine, with the rule's name"
    assert told["quarantine"] == f"{total:,} records in quarantine"
    assert told["balance"] == f"0 of {len(SUBJECTS)}: landed = cleaned + quarantined + duplicates"
    assert told["reconciliation"] == "Every record is accounted for"
    odd = sum(count for state, count in states if state not in ("ready", "companion", "duplicate"))
    assert told["files"] == f"{odd} of {sum(count for _, count in states):,} landed"
    tables = {one.id: [[c for c in row if not isinstance(c, Drawn)] for row in one.rows] for one in page.figures}
    assert {(row[0], *row[1:5]) for row in tables["reconciliation"]} == {
        (subject, kept[subject][0], kept[subject][1], *quarantined[subject]) for subject in SUBJECTS
    }
    assert {(row[0], row[1], row[3]) for row in tables["quarantine"]} == rules
    why = {row[0]: row[2] for row in tables["quarantine"] if row[1] == "patient_id_missing"}
    assert why == {"vitals": "A measurement needs a patient.", "er_visits": "A visit needs a patient."}
    assert {(row[0], row[1]) for row in tables["states"]} == states
    assert {(row[0], str(row[1])) for row in tables["freshness"]} == days
    share = told["score"].partition("%")[0]
    assert f"{passed:,} of {of:,} that apply" in told["score"] and passed < of
    assert float(share) == pytest.approx(100 * passed / of, abs=0.01) and share != "100"
    assert told["failed"].startswith(f"{broken} 0 of severity ERROR")
    assert told["rules"] == f"{broken} rules failed" and len(tables["rules"]) == broken > 0
    assert [sum(row[column] for row in tables["scores"]) for column in (3, 4)] == [passed, of]


@pytest.mark.slow
def test_the_governance_page_states_what_the_files_hold(built: tuple[Settings, BuildReport], tmp_path: Path) -> None:
    """Publications by their folders, the audit by its database, columns by their contracts."""
    settings = published(built[0], tmp_path / "data", ("admin", "executive"))
    for action, outcome in (("view", "allowed"), ("view", "refused"), ("export", "allowed"), ("sign_in", "refused")):
        record(settings, Event("ann", action, "admin", outcome, audience="admin"))  # type: ignore[arg-type]
    page = governance(settings, open_mart(settings.data_dir, "admin"), AT)
    told, tables = numbers(page), {one.id: one.rows for one in page.figures}
    with sqlite3.connect(AuditLog(settings).file) as log:
        entries, refused = log.execute("select count(*), sum(outcome = 'refused') from entries").fetchone()
    assert told["looks"].startswith(f"{entries} ") and told["denied"].startswith(f"{refused} ") and refused == 2
    assert sum(row[-1] for row in tables["audit"]) == entries
    masked = [
        f"{contract.name}.{column.name}"
        for contract in CONTRACTS.values()
        for column in contract.columns
        if contract.layer not in ("raw", "cleaned") and column.privacy not in (None, "operational")
    ]
    assert told["columns"].startswith(f"{len(masked):,} ")
    assert [row[0] for row in tables["masks"]] == masked
    folders = sorted(path.parent for path in (settings.data_dir / "published").rglob("*/publication.duckdb"))
    assert told["audiences"].startswith(f"{len(folders)} ")
    assert told["publications"] == f"Current publications: {len(folders)}"
    for folder, row in zip(folders, sorted(tables["publications"]), strict=True):
        with duckdb.connect(folder / "publication.duckdb", read_only=True) as held:
            names = held.sql("select schema_name || '.' || table_name from duckdb_tables()").fetchall()
            rows = sum(held.sql(f"select count(*) from {name}").fetchall()[0][0] for (name,) in names)
        assert (row[0], row[1], row[3], row[4]) == (folder.parent.name, folder.name, len(names), rows)
    assert told["due"].startswith("0 ") and told["retention"] == "Nothing is due for deletion"
    assert told["metrics"] == f"{sum(len(one.measures) for one in CONTRACTS.values())} figures, defined"
