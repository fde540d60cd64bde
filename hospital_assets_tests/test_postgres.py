"""The publications on a real PostgreSQL server, seen through the logins of the people who use it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from hospital_assets.access.audit import AuditLog
from hospital_assets.access.users import User, open_users
from hospital_assets.automation.build import BuildReport
from hospital_assets.cli import main
from hospital_assets.dashboard.pages.shared_queries import active_doctors
from hospital_assets.dashboard.slices import Slice
from hospital_assets.dashboard.store import open_mart
from hospital_assets.publishing.audience import parse_audience
from hospital_assets.publishing.policy import POLICY_FILE, load_policy, parse_policy, shipped_policy
from hospital_assets.publishing.pseudonyms import SecretKey
from hospital_assets.publishing.publications import audiences_of, current_version, published_folder
from hospital_assets.publishing.semantic import rows_of, semantic_model
from hospital_assets.publishing.targets import superset
from hospital_assets.publishing.targets.postgres import (
    CONNECTION_LIMIT,
    PostgresError,
    connect,
    grant_login,
    load_publications,
    logins_of,
    revoke_login,
)
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import open_warehouse
from hospital_assets_tests.helpers import publish, warehouse_copy
from hospital_assets_tests.postgresql import Server, postgresql_server

driver = pytest.importorskip("adbc_driver_postgresql.dbapi")

NOW = datetime(2026, 3, 14, 9, 0, tzinfo=UTC)
AUDIENCES = ("admin", "analyst", "executive", "doctor-H1", "doctor-H2")
LOGINS = {"ada": "admin", "bob": "analyst", "eve": "executive", "dora": "doctor-H1", "dan": "doctor-H2"}

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgresql_server() as running:
        yield running


def _publish(settings: Settings, at: datetime) -> None:
    policy = load_policy(settings)
    with open_warehouse(settings.warehouse_file) as warehouse:
        for role in policy.roles:
            for audience in audiences_of(warehouse, policy, role):
                if audience.name in AUDIENCES:
                    publish(
                        warehouse,
                        settings,
                        policy,
                        audience,
                        key=lambda: SecretKey(b"0123456789abcdef" * 2),
                        published_at=at,
                        data_as_of=NOW,
                    )


@pytest.fixture(scope="module")
def published(built: tuple[Settings, BuildReport], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    network, _ = built
    settings = warehouse_copy(network, tmp_path_factory.mktemp("serving"))
    _publish(settings, NOW)
    return settings


@pytest.fixture(scope="module")
def served(published: Settings, server: Server) -> Server:
    with connect(server.dsn()) as connection:
        loaded = load_publications(connection, published, shipped_policy(), loaded_at=NOW)
        assert {made.audience for made in loaded} == set(AUDIENCES)
        for login, audience in LOGINS.items():
            grant_login(connection, shipped_policy(), login, audience)
    return server


def ask(server: Server, login: str, *statements: str) -> list[tuple[object, ...]]:
    """The rows of the last statement."""
    with driver.connect(server.dsn(login), autocommit=True) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return list(cursor.fetchall())


def refused(server: Server, login: str, *statements: str) -> str:
    with pytest.raises(driver.Error) as raised:
        ask(server, login, *statements)
    return str(raised.value)


# What was loaded


def test_every_table_arrives_as_it_was_published(served: Server, published: Settings) -> None:
    for login, audience in LOGINS.items():
        version = current_version(published.data_dir, audience)
        folder = published_folder(published.data_dir) / audience / version
        manifest = json.loads((folder / "manifest.json").read_text())
        with driver.connect(served.dsn(login), autocommit=True) as connection, connection.cursor() as cursor:
            for name, expected in manifest["rows"].items():
                layer, table = name.split(".")
                columns = ", ".join(f'"{column}"' for column in manifest["tables"][name]["columns"])
                cursor.execute(f"select {columns} from {table}")
                theirs = cursor.fetch_arrow_table()
                ours = f"read_parquet('{folder}/parquet/{layer}/{table}.parquet')"
                ((differing,),) = duckdb.execute(
                    f"select count(*) from (select {columns} from {ours} except all from theirs)"
                ).fetchall()
                assert (len(theirs), differing) == (expected, 0), (audience, name)


# What BI tools look for


def test_tables_and_columns_say_what_they_are(served: Server) -> None:
    silent = (
        "select c.relname, a.attname from pg_class c join pg_namespace n on n.oid = c.relnamespace "
        "join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped "
        "where n.nspname = '{role}' and c.relkind in ('r', 'v') "
        "and (col_description(c.oid, a.attnum) is null or obj_description(c.oid, 'pg_class') is null)"
    )
    for login, role in (("ada", "admin"), ("bob", "analyst"), ("eve", "executive"), ("dora", "doctor")):
        assert ask(served, login, silent.format(role=role)) == []


def test_foreign_keys_lead_from_facts_to_dimensions(served: Server) -> None:
    keys = (
        "select conrelid::regclass::text, confrelid::regclass::text, pg_get_constraintdef(oid) from pg_constraint "
        "where contype = 'f' and connamespace = '{role}'::regnamespace"
    )
    found = {
        login: ask(served, login, keys.format(role=role)) for login, role in (("bob", "analyst"), ("dora", "doctor"))
    }
    triage = "FOREIGN KEY (triage_key) REFERENCES dim_triage(triage_key) NOT VALID"
    assert ("fact_emergency_visits", "dim_triage", triage) in found["bob"]
    assert all("(audience_hospital_id, " in str(definition) for _, _, definition in found["dora"])
    assert len(found["bob"]) > 20
    # Not valid, since nobody looked here; of a role that sees the whole network they hold nonetheless.
    for table, other, definition in found["bob"]:
        column = str(definition).split("(")[1].split(")")[0]
        missing = f"select count(*) from {table} where {column} not in (select {column} from {other})"
        if f"REFERENCES {other}({column})" in str(definition):
            assert ask(served, "bob", missing) == [(0,)]


def test_a_view_adds_up_and_shows_the_own_hospital_only(served: Server) -> None:
    days = "select service_date, sum(wait_count) from {} group by 1 order by 1"
    total = "kpi_waits_daily where department_name = 'all' and triage_group = 'all' and hospital_id = '{}'"
    for login, hospital in (("ada", "all"), ("dora", "H1"), ("dan", "H2")):
        parts = ask(served, login, days.format("kpi_waits_daily_additive"))
        assert parts and parts == ask(served, login, days.format(total.format(hospital)))
    assert ask(served, "dora", "select distinct hospital_id from kpi_waits_daily_additive") == [("H1",)]
    assert "does not exist" in refused(served, "ada", "select wait_median_minutes from kpi_waits_daily_additive")


def test_every_figure_of_superset_is_computed_here(served: Server, published: Settings) -> None:
    """New patients per shift hour as the dashboard has them, too."""
    for login, audience in LOGINS.items():
        folder = published_folder(published.data_dir) / audience / current_version(published.data_dir, audience)
        model = semantic_model(json.loads((folder / "manifest.json").read_text()))
        for table in (table for table in model.tables if table.figures):
            shown = [superset.sql(figure, f"{model.role}.{table.contract.name}") for figure in table.figures]
            (values,) = ask(served, login, f"select {', '.join(shown)} from ({rows_of(table, model.role)}) rows")
            if audience == "admin" and table.contract.name == "kpi_physician_workload_daily":
                names = [figure.sums.name for figure in table.figures]
                per_hour = values[names.index("New patients per shift hour")]
    mart = open_mart(published.data_dir, "admin")
    with contextlib.closing(mart.connection):
        doctors = active_doctors(mart, Slice("all", mart.known.first, mart.known.last))
    assert per_hour == pytest.approx(doctors["rostered_visit_count"] / doctors["shift_hours"])


# The 27 checks


def test_a_doctor_sees_the_own_hospital_only(served: Server) -> None:
    everyone = ask(served, "ada", "select count(*) from fact_vitals")[0][0]
    seen = []
    for login, hospital in (("dora", "H1"), ("dan", "H2")):
        ((key,),) = ask(served, "ada", f"select hospital_key from dim_hospital where hospital_id = '{hospital}'")
        for table in ("fact_emergency_visits", "fact_vitals", "fact_patient_flow"):
            assert ask(served, login, f"select distinct hospital_key from {table}") == [(key,)]
        assert ask(served, login, "select distinct audience_hospital_id from dim_patient") == [(hospital,)]
        assert ask(served, login, f"select count(*) from dim_patient where audience_hospital_id <> '{hospital}'") == [
            (0,)
        ]
        seen.append(ask(served, login, "select count(*) from fact_vitals")[0][0])
    assert all(0 < n < everyone for n in seen)


@pytest.mark.parametrize("way", ["", "set row_security = off"])
def test_row_security_cannot_be_switched_off(served: Server, way: str) -> None:
    if way:
        assert "row-level security" in refused(served, "dora", way, "select * from dim_patient")
    else:
        # A condition that tells what it was asked about never gets a row of another hospital.
        assert (
            ask(
                served,
                "dora",
                "select count(*) from dim_patient "
                "where 1 / (case audience_hospital_id when 'H2' then 0 else 1 end) = 1",
            )[0][0]
            > 0  # type: ignore[operator]
        )


def test_a_role_has_no_column_its_policy_drops(served: Server) -> None:
    assert "does not exist" in refused(served, "bob", "select first_name from dim_patient")
    assert "does not exist" in refused(served, "dora", "select phone from dim_patient")
    years = ask(served, "bob", "select distinct extract(doy from birth_date) from dim_patient")
    assert [int(day) for (day,) in years if day is not None] == [1]  # type: ignore[call-overload]
    assert {len(token) for (token,) in ask(served, "bob", "select visit_id from fact_vitals")} == {  # type: ignore[arg-type]
        21
    }


def test_whole_rows_and_row_functions_work_and_show_no_more(served: Server) -> None:
    ((row,),) = ask(served, "bob", "select row_to_json(p)::text from dim_patient p limit 1")
    assert "first_name" not in str(row) and "birth_date" in str(row)


FORBIDDEN = [
    ("bob", "select * from admin.dim_patient"),
    ("bob", "select * from doctor.dim_patient"),
    ("eve", "select * from analyst.fact_vitals"),
    ("dora", "select * from admin.dim_patient"),
    ("eve", "select * from fact_vitals"),
    ("bob", "select * from access.loads"),
    ("bob", "select pg_read_file('/etc/passwd')"),
    ("bob", "select pg_ls_dir('/')"),
    ("bob", "copy (select 1) to program 'id'"),
    ("bob", "copy (select 1) to '/tmp/out'"),
    ("bob", "set role postgres"),
    ("bob", "set role hospital_admin"),
    ("dora", "set session authorization dan"),
    ("bob", "create table analyst.mine (x int)"),
    ("bob", "create schema mine"),
    ("bob", "create temp table mine (x int)"),
    ("bob", "create function analyst.f() returns int language sql as 'select 1'"),
    ("bob", "create extension dblink"),
    ("bob", "select lo_from_bytea(0, 'x')"),
    ("bob", "delete from dim_patient"),
    ("dora", "update access.logins set hospital_id = 'H2'"),
    ("dora", "drop policy own_hospital on doctor.dim_patient"),
    ("dora", "alter table doctor.dim_patient disable row level security"),
    ("bob", "grant hospital_admin to bob"),
    ("bob", "alter role bob superuser"),
    ("bob", "do $$ begin perform pg_read_file('/etc/passwd'); end $$"),
]


@pytest.mark.parametrize(("login", "statement"), FORBIDDEN)
@pytest.mark.parametrize("first", ["", "set default_transaction_read_only = off"])
def test_nobody_gets_past_the_grants(served: Server, login: str, statement: str, first: str) -> None:
    said = refused(served, login, *([first] if first else []), statement)
    assert any(
        part in said for part in ("permission denied", "must be", "does not exist", "read-only", "Must be", "must have")
    ), said
    assert "syntax" not in said
    if first:
        assert "read-only" not in said


def test_a_login_reads_its_own_line_of_the_logins_only(served: Server) -> None:
    assert ask(served, "dora", "select * from access.logins") == [("dora", "doctor", "H1")]


def test_a_login_has_one_audience(served: Server) -> None:
    with connect(served.dsn()) as connection:
        grant_login(connection, shipped_policy(), "max", "analyst")
        assert ask(served, "max", "select count(*) > 0 from fact_vitals") == [(True,)]
        grant_login(connection, shipped_policy(), "max", "executive")
        assert "does not exist" in refused(served, "max", "select * from fact_vitals")
        assert "permission denied" in refused(served, "max", "select * from analyst.fact_vitals")
        assert ask(served, "max", "select count(*) > 0 from kpi_waits") == [(True,)]
        revoke_login(connection, shipped_policy(), "max")
        for schema in ("analyst", "executive", "access"):
            assert "denied" in refused(served, "max", f"select * from {schema}.kpi_waits")


@pytest.mark.parametrize(
    ("login", "audience", "says"),
    [
        ("x", "janitor", "no role 'janitor'"),
        ("x", "doctor", "say which, as in H1"),
        ("x", "analyst-H1", "not at a hospital"),
        ("Robert'); drop", "analyst", "lower-case"),
        ("hospital_admin", "analyst", "starts with neither"),
        ("postgres", "analyst", "go past every policy"),
    ],
)
def test_a_login_that_cannot_be_says_why(served: Server, login: str, audience: str, says: str) -> None:
    with connect(served.dsn()) as connection, pytest.raises(PostgresError, match=says.replace("(", ".")):
        grant_login(connection, shipped_policy(), login, audience)


def test_timeouts_hold_for_logins_and_not_for_their_group_alone(served: Server) -> None:
    assert ask(served, "bob", "select current_setting('statement_timeout')") == [("1min",)]
    assert ask(served, "bob", "select current_setting('idle_in_transaction_session_timeout')") == [("1min",)]
    with connect(served.dsn()) as connection, connection.cursor() as cursor:
        cursor.execute("alter role bob set statement_timeout = '200ms'")
        cursor.execute("alter role hospital_executive set statement_timeout = '200ms'")
    assert "statement timeout" in refused(served, "bob", "select pg_sleep(30)")
    assert ask(served, "eve", "select current_setting('statement_timeout')") == [("1min",)], (
        "settings are not inherited"
    )


def test_sessions_of_a_login_are_limited(served: Server) -> None:
    opened = [driver.connect(served.dsn("eve")) for _ in range(CONNECTION_LIMIT)]
    try:
        assert "too many connections" in refused(served, "eve", "select 1")
    finally:
        for connection in opened:
            connection.close()


# Loading again


def test_a_reader_sees_the_old_version_or_the_new_one(served: Server, published: Settings) -> None:
    """Readers ask without a pause while two loads switch; the rows of two tables always agree."""
    statement = (
        "select (select count(*) from fact_vitals), (select count(*) from fact_emergency_visits), "
        "(select count(distinct hospital_key) from fact_vitals)"
    )
    stop = threading.Event()
    seen: dict[str, set[tuple[object, ...]]] = {"bob2": set(), "dora": set()}
    asked = dict.fromkeys(seen, 0)
    errors: list[str] = []

    def read(login: str) -> None:
        try:
            with driver.connect(served.dsn(login), autocommit=True) as connection, connection.cursor() as cursor:
                while not stop.is_set():
                    cursor.execute(statement)
                    seen[login].add(cursor.fetchone())
                    asked[login] += 1
        except driver.Error as error:
            errors.append(str(error))

    with connect(served.dsn()) as connection:
        grant_login(connection, shipped_policy(), "bob2", "analyst")
        with open_warehouse(published.warehouse_file) as warehouse:
            warehouse.connection.execute(
                "delete from facts.fact_vitals where service_date = (select max(service_date) from facts.fact_vitals)"
            )
            warehouse.connection.execute(
                "delete from facts.fact_emergency_visits where service_date = (select "
                "max(service_date) from facts.fact_emergency_visits)"
            )
        before = {login: ask(served, login, statement)[0] for login in seen}
        readers = [threading.Thread(target=read, args=(login,)) for login in seen]
        for reader in readers:
            reader.start()
        try:
            load_publications(connection, published, shipped_policy(), loaded_at=NOW)
            _publish(published, NOW + timedelta(hours=1))
            load_publications(connection, published, shipped_policy(), loaded_at=NOW + timedelta(hours=1))
        finally:
            stop.set()
            for reader in readers:
                reader.join()
    assert not errors
    for login in seen:
        after = ask(served, login, statement)[0]
        assert after != before[login] and seen[login] <= {before[login], after}
        assert asked[login] > 10


def test_a_long_reader_keeps_the_old_version_and_stops_nobody(served: Server, published: Settings) -> None:
    with connect(served.dsn()) as connection, driver.connect(served.dsn("ada")) as reader, reader.cursor() as cursor:
        cursor.execute("select count(*) from fact_vitals")
        before = cursor.fetchone()
        load_publications(connection, published, shipped_policy(), loaded_at=NOW + timedelta(hours=2))
        cursor.execute("select count(*) from admin_old.fact_vitals")
        assert cursor.fetchone() == before
        # The version before last would have to go, and somebody is reading it.
        with pytest.raises(PostgresError, match="end that session"):
            load_publications(connection, published, shipped_policy(), loaded_at=NOW + timedelta(hours=3))
        reader.rollback()
        load_publications(connection, published, shipped_policy(), loaded_at=NOW + timedelta(hours=4))
    assert ask(served, "postgres", "select nspname from pg_namespace where nspname ~ '_(old|next)$'") == []


def test_a_snapshot_from_before_the_switch_finds_its_rows_in_the_old_schema(
    served: Server, published: Settings
) -> None:
    """The known limit of docs/postgres.md: names follow the switch, a snapshot does not."""
    with connect(served.dsn()) as connection, driver.connect(served.dsn("ada")) as reader, reader.cursor() as cursor:
        cursor.execute("set transaction isolation level repeatable read")
        cursor.execute("select count(*) from dim_date")
        load_publications(connection, published, shipped_policy(), loaded_at=NOW + timedelta(hours=5))
        cursor.execute("select count(*) from admin_old.fact_vitals")
        ((before,),) = cursor.fetchall()
        cursor.execute("select count(*) from fact_vitals")
        assert before > 0 and cursor.fetchall() == [(0,)]


def test_the_command_gives_logins_to_users_and_is_audited(
    served: Server, published: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    with connect(served.dsn()) as connection, contextlib.closing(open_users(published, lambda _: None)) as users:
        for name, audience in logins_of(connection, shipped_policy()).items():
            role, hospital = parse_audience(shipped_policy(), audience)
            users.add(User(name, role, hospital), "a long enough password", by="os:test")
        users.add(User("carl", "executive"), "a long enough password", by="os:test")
        before = logins_of(connection, shipped_policy())
    command = ["--data-dir", str(published.data_dir), "deploy", "postgres", "--dsn", served.dsn()]
    assert main([*command, "--login", "nobody"]) == 2
    assert "no user 'nobody'" in capsys.readouterr().err
    assert main([*command, "--role", "executive", "--login", "carl"]) == 0
    assert "loaded  executive" in capsys.readouterr().out
    assert ask(served, "carl", "select count(*) > 0 from kpi_waits") == [(True,)]
    assert main([*command, "--revoke", "carl"]) == 0
    assert main([*command, "--revoke", "carl"]) == 2
    assert "'carl' has no audience" in capsys.readouterr().err
    assert main([*command, "--login", "carl"]) == 0
    assert main(["--data-dir", str(published.data_dir), "users", "disable", "carl"]) == 0
    assert main([*command, "--role", "executive"]) == 0
    assert "revoked carl, who may not sign in any more" in capsys.readouterr().out
    assert "denied" in refused(served, "carl", "select * from executive.kpi_waits")
    with connect(served.dsn()) as connection:
        assert logins_of(connection, shipped_policy()) == before
    with contextlib.closing(AuditLog(published)) as log:
        entries = log.entries("action = 'user' and outcome <> 'failed'")["statement"].to_list()
        failed = log.entries("action = 'user' and outcome = 'failed'")["statement"].to_list()
    grant, revoke = "postgres login carl as executive", "postgres revoke carl"
    assert entries == [
        "postgres login nobody as nobody",
        *[grant] * 2,
        *[revoke] * 3,
        *[grant] * 2,
        "disable carl",
        *[revoke] * 2,
    ]
    assert failed == ["postgres login nobody as nobody", revoke]


def test_a_refusal_of_the_server_quotes_no_record(served: Server, published: Settings, tmp_path: Path) -> None:
    """A key that comes twice, which the server reports with its value."""
    version = current_version(published.data_dir, "executive")
    source = published_folder(published.data_dir) / "executive"
    target = published_folder(tmp_path) / "executive"
    shutil.copytree(source / version, target / version)
    shutil.copyfile(source / "current.json", target / "current.json")
    file = target / version / "parquet/dimensions/dim_hospital.parquet"
    hospitals = duckdb.execute(f"from read_parquet('{file}')").to_arrow_table()
    duckdb.execute(f"copy (from hospitals union all from hospitals) to '{file}' (format parquet)")
    manifest = json.loads((target / version / "manifest.json").read_text())
    manifest["rows"]["dimensions.dim_hospital"] = 2 * len(hospitals)
    manifest["files"]["parquet/dimensions/dim_hospital.parquet"]["sha256"] = hashlib.sha256(
        file.read_bytes()
    ).hexdigest()
    (target / version / "manifest.json").write_text(json.dumps(manifest))
    before = ask(served, "eve", "select count(*) from dim_hospital")
    with connect(served.dsn()) as connection, pytest.raises(PostgresError) as raised:
        load_publications(connection, Settings(tmp_path), shipped_policy(), loaded_at=NOW)
    assert "23505" in str(raised.value) and "Key (" not in str(raised.value)
    assert raised.value.__cause__ is None and raised.value.__suppress_context__
    assert ask(served, "eve", "select count(*) from dim_hospital") == before


def test_a_load_that_fails_changes_nothing(served: Server, published: Settings, tmp_path: Path) -> None:
    before = ask(served, "ada", "select count(*) from fact_vitals")
    version = current_version(published.data_dir, "admin")
    file = published_folder(published.data_dir) / "admin" / version / "parquet/facts/fact_vitals.parquet"
    kept = file.read_bytes()
    with connect(served.dsn()) as connection:
        file.write_bytes(kept[:-1])
        try:
            with pytest.raises(PostgresError, match="not the one that was published"):
                load_publications(connection, published, shipped_policy(), loaded_at=NOW)
        finally:
            file.write_bytes(kept)
        stricter = parse_policy(POLICY_FILE.read_text(encoding="utf-8").replace('npi = "drop"', 'npi = "null"'), "p")
        with pytest.raises(PostgresError, match="another policy"):
            load_publications(connection, published, stricter, loaded_at=NOW)
        with pytest.raises(PostgresError, match="nothing is published for anybody"):
            load_publications(connection, Settings(tmp_path), shipped_policy(), loaded_at=NOW)
        # A table that cannot be had in the middle of a load.
        cursor = connection.cursor()
        cursor.execute("create schema admin_next")
        cursor.execute("create table admin_next.mine (x int)")
        cursor.close()
        with connect(served.dsn()) as other, pytest.raises(PostgresError, match="another load"):
            lock = other.cursor()
            lock.execute("select pg_advisory_lock(4072026112)")
            lock.close()
            load_publications(connection, published, shipped_policy(), loaded_at=NOW)
    assert ask(served, "ada", "select count(*) from fact_vitals") == before
