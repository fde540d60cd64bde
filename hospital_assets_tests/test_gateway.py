"""The gateway: who may ask, what may be asked, and that nothing else can be reached; per layer."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
import requests

from hospital_assets.access.audit import AuditLog
from hospital_assets.access.fairness import TooManyWaitingError, Turns
from hospital_assets.access.gateway import build_app
from hospital_assets.access.sandbox import Answer, Limits, RefusedError, catalog_of, planned, run_query, validate
from hospital_assets.access.users import User, open_users
from hospital_assets.contracts import CONTRACTS
from hospital_assets.publishing.locked import locked_connection
from hospital_assets.publishing.policy import POLICY_FILE, shipped_policy
from hospital_assets.publishing.withdrawn import protection
from hospital_assets.settings import Settings
from hospital_assets_tests.attacks import ATTACKS, EXHAUSTING
from hospital_assets_tests.dashboards import running

SECRET = "TOP-SECRET-4711"  # noqa: S105
PASSWORD = "correct horse battery"  # noqa: S105
STATEMENTS = [(group, sql) for group, statements in ATTACKS.items() for sql in statements]


@dataclass(frozen=True)
class Place:
    """A publication, and around it what nobody may reach."""

    settings: Settings
    file: Path
    fills: dict[str, str]

    def filled(self, sql: str) -> str:
        for name, value in self.fills.items():
            sql = sql.replace("{" + name + "}", value)
        return sql

    def files(self) -> set[str]:
        return {str(p) for p in self.settings.data_dir.rglob("*") if "audit" not in str(p)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("gate")
    settings = Settings(root)
    for audience, rows in (("analyst", 40), ("executive", 7), ("doctor-H1", 3)):
        for version in ("20260301T000000000000Z", "20260302T000000000000Z"):
            folder = root / "published" / audience / version
            folder.mkdir(parents=True)
            connection = duckdb.connect(str(folder / "publication.duckdb"))
            connection.execute("create schema kpis; create schema dimensions")
            connection.execute(
                "create table kpis.kpi_waits as select 'H' || (range % 7 + 1) as hospital_id, "
                "'all' as department_name, range::bigint as visit_count, "
                f"'{audience} {version[:8]}' as told from range({rows})"
            )
            connection.execute(
                "create table dimensions.dim_hospital as select 'H1' as hospital_id, 'Mercy' as hospital_name"
            )
            connection.close()
            role, _, hospital = audience.partition("-")
            manifest = {
                "role": role,
                "hospital_id": hospital or None,
                "published_at": "2026-03-01T00:00:00+00:00",
                "claim": {"text": "Figures."},
                "rows": {"kpis.kpi_waits": rows},
                "tables": {
                    "kpis.kpi_waits": {
                        "columns": {"hospital_id": {"mask": "clear"}},
                        "protection": protection(shipped_policy(), role, CONTRACTS["kpi_waits"]),
                    }
                },
            }
            (folder / "manifest.json").write_text(json.dumps(manifest))
        (root / "published" / audience / "current.json").write_text(json.dumps({"version": version}))
    kept = root / "kept"
    kept.mkdir()
    (kept / "secret.csv").write_text(f"secret\n{SECRET}\n")
    (kept / "secret.json").write_text(json.dumps({"secret": SECRET}) + "\n")
    other = duckdb.connect(str(kept / "other.duckdb"))
    other.execute(f"create table secrets as select '{SECRET}' as secret")
    other.execute(f"copy secrets to '{kept / 'secret.parquet'}' (format parquet)")
    other.close()
    os.environ["SECRET"] = SECRET
    fills = {
        "csv": str(kept / "secret.csv"),
        "json": str(kept / "secret.json"),
        "parquet": str(kept / "secret.parquet"),
        "database": str(kept / "other.duckdb"),
        "folder": str(kept),
        "out": str(root / "written"),
    }
    file = root / "published" / "analyst" / version / "publication.duckdb"
    return Place(settings, file, fills)


# Layer by layer


def test_there_are_enough_attacks() -> None:
    assert len(STATEMENTS) + len(EXHAUSTING) >= 300


def test_validation_alone_refuses_every_attack(place: Place) -> None:
    with contextlib.closing(locked_connection(str(place.file), "256MB", 1)) as connection:
        catalog = catalog_of(connection)
    passed = []
    for group, sql in STATEMENTS:
        try:
            validate(place.filled(sql), catalog)
        except RefusedError:
            continue
        passed.append((group, sql))
    assert passed == []


LOCKED_LAYER = """
import json, sys
from hospital_assets.contracts import CONTRACTS
from hospital_assets.publishing.locked import locked_connection
from hospital_assets.publishing.policy import POLICY_FILE, shipped_policy
from hospital_assets.publishing.withdrawn import protection
secret_frame = None
for line in sys.stdin:
    group, sql = json.loads(line)
    connection = locked_connection(sys.argv[1], "256MB", 1)
    try:
        found = connection.execute(sql).fetchall()
        print(json.dumps([group, sql, "ran", str(found)[:100000]]), flush=True)
    except BaseException as error:
        print(json.dumps([group, sql, "refused", ""]), flush=True)
    connection.close()
"""


#: What runs when only the engine is locked, of the groups that must not: it reads nothing.
HARMLESS = {
    ("read files", "pragma json_execute_serialized_sql(json_serialize_sql('select 1'))"[:30]),
    ("attach", "use main"),
}


@pytest.mark.nightly
def test_the_locked_engine_alone_gives_nothing_away(place: Place) -> None:
    """Without validation: whatever gets past it meets this."""
    before = place.files()
    done = subprocess.run(
        [sys.executable, "-c", LOCKED_LAYER, str(place.file)],
        input="".join(json.dumps([g, place.filled(s)]) + "\n" for g, s in STATEMENTS),
        capture_output=True,
        text=True,
        timeout=300,
        env={k: v for k, v in os.environ.items() if k != "SECRET"},
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and len(rows) == len(STATEMENTS), done.stderr[-2000:]
    assert [row for row in rows if SECRET in row[3]] == []
    assert place.files() == before
    ran = {(row[0], row[1][:30]) for row in rows if row[2] == "ran"}
    # Harmless here: nothing but an empty list, an explanation, or the file's own name.
    assert {r for r in ran if r[0] in ("read files", "attach", "python objects")} <= HARMLESS


def test_the_attacks_work_where_nothing_is_locked(place: Place, tmp_path: Path) -> None:
    """The control: read-only alone, they find the secret. So the layers are what stops them."""
    connection = duckdb.connect(str(place.file), read_only=True)
    found = 0
    for sql in ATTACKS["read files"][:30]:
        with contextlib.suppress(duckdb.Error):
            found += SECRET in str(connection.execute(place.filled(sql)).fetchall())
    connection.close()
    assert found >= 15


def outcomes(place: Place, statements: list[str], limits: Limits) -> list[tuple[str, Answer]]:
    return [(sql, run_query(place.file, place.filled(sql), "json", limits)) for sql in statements]


@pytest.mark.slow
def test_a_sample_of_attacks_through_the_sandbox(place: Place) -> None:
    before = place.files()
    sample = [sql for statements in ATTACKS.values() for sql in statements[::12]]
    for sql, answer in outcomes(place, sample, Limits(seconds=120)):
        assert answer.outcome == "refused", (sql, answer)
        assert SECRET not in str(answer)
    assert place.files() == before


@pytest.mark.nightly
def test_all_attacks_through_the_sandbox(place: Place) -> None:
    before = place.files()
    counts: dict[str, int] = {}
    for group, sql in STATEMENTS:
        answer = run_query(place.file, place.filled(sql), "json", Limits(seconds=120))
        assert answer.outcome in ("refused", "failed"), (sql, answer)
        assert SECRET not in str(answer)
        counts[group] = counts.get(group, 0) + 1
    assert place.files() == before
    assert counts == {group: len(statements) for group, statements in ATTACKS.items()}


@pytest.mark.nightly
def test_exhausting_queries_end(place: Place) -> None:
    limits = Limits(seconds=3, memory_mb=256, address_space_mb=2048)
    for sql, answer in outcomes(place, EXHAUSTING, limits):
        assert answer.outcome != "allowed" or answer.row_count <= limits.rows, sql[:80]
        assert answer.duration_ms < 60_000
    assert run_query(place.file, "select 1 as one", "json").outcome == "allowed"


def test_what_takes_too_long_is_killed(place: Place) -> None:
    answer = run_query(place.file, EXHAUSTING[2], "json", Limits(seconds=1))
    assert answer.outcome == "failed" and "was ended" in answer.reason
    assert run_query(place.file, "select 1 as one", "json").outcome == "allowed"


# What may be asked


@pytest.mark.parametrize(
    ("sql", "rows", "objects"),
    [
        ("select 1 as one", 1, {}),
        ("select count(*) from kpis.kpi_waits", 1, {"kpis.kpi_waits": []}),
        (
            "select hospital_id, sum(visit_count) from kpis.kpi_waits group by 1 order by 2",
            7,
            {"kpis.kpi_waits": ["hospital_id", "visit_count"]},
        ),
        (
            "select * from kpis.kpi_waits limit 3",
            3,
            {"kpis.kpi_waits": ["department_name", "hospital_id", "told", "visit_count"]},
        ),
        ("from kpis.kpi_waits select visit_count where visit_count > 35", 4, {"kpis.kpi_waits": ["visit_count"]}),
        (
            "with w as (select hospital_id from kpis.kpi_waits) select h.hospital_name from w join "
            "dimensions.dim_hospital h using (hospital_id)",
            6,
            {"kpis.kpi_waits": ["hospital_id"], "dimensions.dim_hospital": ["hospital_id", "hospital_name"]},
        ),
        (
            "select kpi_waits from kpis.kpi_waits limit 1",
            1,
            {"kpis.kpi_waits": ["department_name", "hospital_id", "told", "visit_count"]},
        ),
        (
            "select w from kpis.kpi_waits w limit 1",
            1,
            {"kpis.kpi_waits": ["department_name", "hospital_id", "told", "visit_count"]},
        ),
        (
            "select rank() over (order by visit_count), date_trunc('day', date '2026-01-01'), "
            "cast(visit_count as varchar) from kpis.kpi_waits",
            40,
            {"kpis.kpi_waits": ["visit_count"]},
        ),
        (
            "select 1 as one where exists (select 1 from kpis.kpi_waits where told like '%x%')",
            0,
            {"kpis.kpi_waits": ["told"]},
        ),
        ("select t.a from (values (1), (2)) t(a)", 2, {}),
        ("select * from range(5)", 5, {}),
        ("select unnest([1, 2, 3])", 3, {}),
        ("(select 1) union all (select 2)", 2, {}),
        ("select hospital_id.upper() from kpis.kpi_waits limit 1", 1, {"kpis.kpi_waits": ["hospital_id"]}),
    ],
)
def test_reads_are_answered_and_their_columns_known(
    place: Place, sql: str, rows: int, objects: dict[str, list[str]]
) -> None:
    """In this process: the same functions the sandbox calls."""
    with contextlib.closing(locked_connection(str(place.file), "256MB", 1)) as connection:
        catalog = catalog_of(connection)
        found = {table: set(columns) for table, columns in validate(sql, catalog).items()}
        for table, columns in planned(connection, sql, catalog).items():
            found.setdefault(table, set()).update(columns)
        assert len(connection.execute(sql).fetchall()) == rows
    for table, columns in objects.items():
        assert set(columns) <= found[table]
    assert set(found) == set(objects)


# Over HTTP


@dataclass
class Client:
    """Somebody at the other end."""

    url: str
    token: str = ""

    def ask(self, sql: str, **more: object) -> requests.Response:
        return self.post("/v1/query", {"sql": sql, **more})

    def post(self, path: str, body: object, **headers: str) -> requests.Response:
        headers = {"authorization": f"Bearer {self.token}", **headers}
        return requests.post(self.url + path, json=body, headers=headers, timeout=300)

    def log_in(self, name: str, password: str = PASSWORD) -> requests.Response:
        answer = self.post("/v1/login", {"user": name, "password": password})
        self.token = answer.json().get("token", "")
        return answer


@pytest.fixture(scope="module")
def gateway(place: Place) -> Iterator[tuple[str, Place]]:
    app = build_app(place.settings, limits=Limits(seconds=120, rows=1_000))
    users = app.state.gate.users
    for user in (User("ann", "analyst"), User("eve", "executive"), User("dora", "doctor", "H1")):
        users.add(user, PASSWORD, by="os:test")
    with running(app) as url:
        yield url, place


@pytest.fixture
def ann(gateway: tuple[str, Place]) -> Client:
    client = Client(gateway[0])
    assert client.log_in("ann").status_code == 200
    return client


def test_each_role_reads_its_own_publication(gateway: tuple[str, Place]) -> None:
    for name, rows, audience in (("ann", 40, "analyst"), ("eve", 7, "executive"), ("dora", 3, "doctor-H1")):
        client = Client(gateway[0])
        assert client.log_in(name).json()["audience"] == audience
        answer = client.ask("select count(*) as n, min(told) as told from kpis.kpi_waits")
        assert answer.json()["rows"] == [[rows, f"{audience} 20260302"]]


def test_answers_come_as_json_csv_and_arrow(ann: Client) -> None:
    sql = "select hospital_id, visit_count from kpis.kpi_waits order by visit_count limit 2"
    answer = ann.ask(sql)
    assert answer.json() == {
        "columns": [{"name": "hospital_id", "type": "string"}, {"name": "visit_count", "type": "int64"}],
        "rows": [["H1", 0], ["H2", 1]],
    }
    assert answer.headers["cache-control"] == "no-store"
    assert ann.ask(sql, format="csv").text.splitlines() == ["hospital_id,visit_count", "H1,0", "H2,1"]
    arrow = ann.ask(sql, format="arrow")
    table = pa.ipc.open_stream(io.BytesIO(arrow.content)).read_all()
    assert table.to_pydict() == {"hospital_id": ["H1", "H2"], "visit_count": [0, 1]}


def test_what_is_no_number_is_null_in_json(ann: Client) -> None:
    sql = "select cast('nan' as double) as a, cast('-inf' as float) as b, [1.5, cast('inf' as double)] as c"
    answer = ann.ask(sql)
    assert json.loads(answer.text, parse_constant=pytest.fail)["rows"] == [[None, None, [1.5, None]]]


def test_answers_are_cut_and_say_so(ann: Client) -> None:
    answer = ann.ask("select * from range(5000)")
    assert len(answer.json()["rows"]) == 1000 and answer.headers["x-is-cut"] == "true"
    assert len(ann.ask("select * from range(5000)", rows=3).json()["rows"]) == 3


def test_older_versions_are_asked_as_of_a_time(ann: Client) -> None:
    sql = "select min(told) from kpis.kpi_waits"
    assert ann.ask(sql, as_of="2026-03-01T12:00:00Z").json()["rows"] == [["analyst 20260301"]]
    assert ann.ask(sql, as_of="2026-02-01").status_code == 404
    for odd in ("yesterday", "9999-99-99", "../../x"):
        assert ann.ask(sql, as_of=odd).status_code == 400


def test_a_version_that_shows_what_was_withdrawn_since_is_not_read(gateway: tuple[str, Place], ann: Client) -> None:
    sql, then = "select min(told) from kpis.kpi_waits", "2026-03-01T12:00:00Z"
    settings = gateway[1].settings
    text = POLICY_FILE.read_text(encoding="utf-8")
    eve = Client(gateway[0])
    assert eve.log_in("eve").status_code == 200
    narrowed = text.replace("[roles.analyst.columns]", '[roles.analyst.columns]\n"kpi_waits.hospital_id" = "drop"')
    narrowed = narrowed.replace("[roles.executive]\n", '[roles.executive]\nrows = "own_hospital"\n')
    try:
        settings.policy_file.write_text(narrowed.replace('overview = "executive"', 'overview = "admin"'))
        answer = ann.ask(sql, as_of=then)
        assert answer.status_code == 403 and "kpis.kpi_waits.hospital_id" in answer.json()["error"]
        assert ann.ask(sql).json()["rows"] == ann.ask(sql, as_of="2026-03-03").json()["rows"]
        # Who is at no hospital reads nothing any more, with a token of before, either.
        assert eve.ask(sql).status_code == 401 and eve.log_in("eve").status_code == 401
        settings.policy_file.write_text("version = 2")
        assert ann.ask(sql, as_of=then).status_code == 403
    finally:
        settings.policy_file.unlink()
    assert ann.ask(sql, as_of=then).status_code == 200
    with contextlib.closing(AuditLog(settings)) as log:
        refused = log.entries("action = 'query' and outcome = 'refused' and actor = 'ann'")["reason"].to_list()
    assert "hospital_id" in refused[-2]


def test_what_there_is_to_ask(ann: Client) -> None:
    found = requests.get(ann.url + "/v1/tables", headers={"authorization": f"Bearer {ann.token}"}, timeout=120)
    assert found.json()["tables"]["kpis.kpi_waits"]["rows"] == 40


def test_everything_is_in_the_audit(ann: Client, gateway: tuple[str, Place]) -> None:
    ann.ask("select max(visit_count) from kpis.kpi_waits")
    ann.ask("select * from read_text('/etc/hostname')")
    ann.ask("select no_such_column from kpis.kpi_waits")
    Client(gateway[0]).ask("select 1")
    with contextlib.closing(AuditLog(gateway[1].settings)) as log:
        last = log.entries().tail(4).to_dicts()
        assert log.verify().problems == ()
    assert [e["outcome"] for e in last] == ["allowed", "refused", "failed", "refused"]
    allowed, refused, _failed, nobody = last
    assert (allowed["actor"], allowed["role"], allowed["audience"]) == ("ann", "analyst", "analyst")
    assert json.loads(allowed["objects"]) == {"kpis.kpi_waits": ["visit_count"]}
    assert allowed["row_count"] == 1 and allowed["duration_ms"] > 0
    assert allowed["version"] == "20260302T000000000000Z"
    assert "read_text" in refused["reason"] and nobody["actor"] == ""


def test_what_cannot_be_audited_is_not_answered(ann: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from hospital_assets.access.audit import AuditError

    def broken(*_: object) -> int:
        raise AuditError("the disk is full")

    monkeypatch.setattr(AuditLog, "append", broken)
    answer = ann.ask("select count(*) from kpis.kpi_waits")
    assert answer.status_code == 503 and "rows" not in answer.json()


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/v1/query", {"sql": "select 1"}, {"authorization": ""}, 401),
        ("/v1/query", {"sql": "select 1"}, {"authorization": "Bearer x"}, 401),
        ("/v1/query", {"sql": "select 1"}, {"authorization": "Basic YW5uOng="}, 401),
        ("/v1/query", {"sql": "select 1"}, {"authorization": "Bearer ' or '1'='1"}, 401),
        ("/v1/query", {"sql": "select 1", "role": "admin"}, {}, 400),
        ("/v1/query", {"sql": "select 1", "audience": "admin"}, {}, 400),
        ("/v1/query", {"sql": "select 1", "format": "exe"}, {}, 400),
        ("/v1/query", {"sql": 1}, {}, 400),
        ("/v1/query", {"sql": ["select 1"]}, {}, 400),
        ("/v1/query", {"sql": "select 1", "rows": True}, {}, 400),
        ("/v1/query", {"sql": "x" * 70_000}, {}, 413),
        ("/v1/query", {"sql": "x" * 55_000}, {}, 403),
        ("/v1/query", [], {}, 400),
        ("/v1/query", {"sql": "select 1"}, {"host": "evil.example"}, 400),
        ("/v1/query", {"sql": "select 1"}, {"host": "127.0.0.1.evil.example"}, 400),
        ("/v1/query", {"sql": "select 1"}, {"content-type": "text/plain"}, 415),
        ("/v1/query/../../etc/passwd", {}, {}, 404),
        ("/published/admin/current.json", {}, {}, 404),
        ("/v1/tables", {}, {}, 405),
        ("/v1/login", {"user": "ann", "password": "wrong"}, {}, 401),
        ("/v1/login", {"user": "nobody", "password": PASSWORD}, {}, 401),
        ("/v1/login", {"user": "ann' --", "password": PASSWORD}, {}, 401),
        ("/v1/login", {"user": "ann"}, {}, 401),
        ("/v1/login", {"user": "ann", "password": "\ud800"}, {}, 400),
        ("/v1/login", {"user": {"$ne": ""}, "password": PASSWORD}, {}, 400),
    ],
)
def test_odd_requests_are_refused(ann: Client, path: str, body: object, headers: dict[str, str], status: int) -> None:
    answer = ann.post(path, body, **headers)
    assert answer.status_code == status, answer.text
    assert SECRET not in answer.text and "Traceback" not in answer.text


@pytest.mark.parametrize("text", ["select '\0'", "select '\x07'", "select '\ufffe'", "\x1b[2J"])
def test_invalid_text_is_a_bad_request(ann: Client, text: str) -> None:
    assert ann.ask(text).status_code == 400
    raw = {"authorization": f"Bearer {ann.token}", "content-type": "application/json"}
    for body in (b'{"sql": "\xff\xfe"}', b'{"sql": "\\ud800"}', b'{"sql": "a', b"\xff"):
        assert requests.post(f"{ann.url}/v1/query", data=body, headers=raw, timeout=60).status_code == 400


def test_csv_is_no_formula(ann: Client) -> None:
    sql = "select '=1+1' as \"=cmd|x\", ' @SUM(1)' as b, '\uff1d1' as c, -5 as d, 'plain-text' as e"
    assert ann.ask(sql, format="csv").text.splitlines() == ["'=cmd|x,b,c,d,e", "'=1+1,' @SUM(1),'\uff1d1,-5,plain-text"]


def test_users_take_turns() -> None:
    async def run() -> list[str]:
        turns, order, gate = Turns(2, most_waiting=6), [], asyncio.Event()

        async def ask(user: str) -> None:
            async with turns.place(user):
                order.append(user)
                await gate.wait()

        heavy = [asyncio.create_task(ask("ann")) for _ in range(6)]
        await asyncio.sleep(0)
        light = asyncio.create_task(ask("bob"))
        for _ in range(5):
            await asyncio.sleep(0)
        # One place stays for others, whoever came first.
        assert order == ["ann", "bob"]
        with pytest.raises(TooManyWaitingError):
            for _ in range(3):
                heavy.append(asyncio.create_task(ask("ann")))
                await asyncio.sleep(0)
            async with turns.place("ann"):
                pass
        # Who stops waiting leaves no gap, and who comes later has a turn before the rest of the first one.
        heavy[3].cancel()
        third = asyncio.create_task(ask("cyd"))
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*heavy, light, third, return_exceptions=True)
        assert turns._free == 2 and not turns._waiting and not +turns._running
        return order

    order = asyncio.run(run())
    assert order.index("cyd") <= 3 and order.count("ann") == 6


def test_a_token_ends(gateway: tuple[str, Place], ann: Client) -> None:
    assert ann.ask("select 1 as one").status_code == 200
    assert ann.post("/v1/logout", {}).status_code == 200
    assert ann.ask("select 1 as one").status_code == 401
    again = Client(gateway[0])
    again.log_in("ann")
    with contextlib.closing(open_users(gateway[1].settings)) as users:
        assert users.revoke("ann", by="os:test") >= 1
    assert again.ask("select 1 as one").status_code == 401
