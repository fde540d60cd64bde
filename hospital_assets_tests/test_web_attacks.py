"""The dashboard under attack: by somebody who reaches the port, by who is signed in, and by what stands in the data.

One server for all, over publications whose every text is markup and says of which hospital it is.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import polars as pl
import pytest
import requests

from hospital_assets.access.audit import Event, record
from hospital_assets.access.authentication import COOKIE
from hospital_assets.access.users import DASHBOARD, User, Users
from hospital_assets.alerts.outbox import Outbox, Signal, outbox_file
from hospital_assets.contracts import CONTRACTS, Column, Contract
from hospital_assets.dashboard.pages.menu import MENU
from hospital_assets.files import replace_text
from hospital_assets.live.copies import merge_landed
from hospital_assets.measures.triage import SCALE_IN_USE
from hospital_assets.publishing.policy import POLICY_FILE, load_policy
from hospital_assets.publishing.publications import audiences_of
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import open_warehouse
from hospital_assets_tests.attacks import REQUESTS, WebAttack
from hospital_assets_tests.dashboards import KEY, Served, serve
from hospital_assets_tests.helpers import publish

DAY = date(2026, 3, 12)
NOW = datetime(2026, 3, 12, 12, tzinfo=UTC)
PASSWORD = "correct horse battery"  # noqa: S105
#: Stands in every text of a hospital; `{}` is its number. The figure is found in no other number.
MARKUP = "mark{}\"'><img src=x onerror=alert({})><script>{{{{7*7}}}}</script>"
MARK = "mark{}"
OTHERS = MARK.format(2)
#: In every count of the other hospital, and with the own one in a total of both.
OTHERS_NUMBERS = (73_219, 73_219 + 51_387)
OWN_NUMBER = 51_387
HOSPITAL_COLUMNS = ("hospital_key", "hospital_id", "patient_key", "patient_durable_key", "doctor_key")


def allowed(column: Column) -> Any:
    """The first value the contract lets a column have; None where it names none."""
    for check in column.checks:
        values = (check.statistics or {}).get("allowed_values")
        if values:
            return sorted(values, key=str)[0]
    return None


def value(contract: Contract, column: Column, hospital: int, kind: str) -> Any:
    """What a row of a hospital has in a column; `kind` "all" for totals over the columns besides the hospital."""
    name, dtype = column.name, column.dtype
    if name == "hospital_id":
        return f"H{hospital}" if hospital < 3 else "all"
    if name.endswith("_key") and dtype == pl.Int64:
        return min(hospital, 2)
    if name in ("scale", "time_zone"):
        return SCALE_IN_USE if name == "scale" else "America/Chicago"
    whose = hospital if set(HOSPITAL_COLUMNS) & set(contract.column_names) else 0
    if dtype == pl.String:
        listed = allowed(column)
        is_part = name in contract.key and kind == "all" and contract.layer == "kpis"
        text = f"{contract.name}.{name} {MARKUP.format(whose, whose)}{kind}"
        return listed if listed is not None else "all" if is_part else text
    if dtype == pl.Boolean:
        return kind == "all"
    if dtype == pl.Date:
        return DAY - timedelta(days=1)
    if isinstance(dtype, pl.Datetime):
        return NOW if dtype.time_zone else NOW.replace(tzinfo=None)
    if dtype.is_integer():
        small = name in ("level", "hour_of_day", "iso_weekday_number", "month_number")
        return 1 if small else (0, OWN_NUMBER, *OTHERS_NUMBERS)[whose]
    return 0.5 if dtype.is_float() else None


def fill(settings: Settings) -> None:
    """A warehouse with rows of two hospitals and of both together in every table."""
    with open_warehouse(settings.warehouse_file) as warehouse:
        for contract in CONTRACTS.values():
            if contract.layer in ("raw", "cleaned"):
                continue
            hospitals = (1, 2, 3) if contract.layer == "kpis" and "hospital_id" in contract.column_names else (1, 2)
            rows = [
                [value(contract, column, hospital, kind) for column in contract.columns]
                for hospital in hospitals
                for kind in ("all", "part")
                if kind == "all" or contract.layer != "dimensions"
            ]
            columns = ", ".join(f'"{c.name}" {c.duckdb_type}' for c in contract.columns)
            warehouse.connection.execute(f"create schema if not exists {contract.layer}")
            warehouse.connection.execute(f"create table {contract.qualified_name} ({columns})")
            marks = ", ".join(f"?::{c.duckdb_type}" for c in contract.columns)
            warehouse.connection.executemany(f"insert into {contract.qualified_name} values ({marks})", rows)


def fill_live(settings: Settings) -> None:
    """Open visits, alerts, the gathered quality and the audit, of two hospitals."""
    schema = dict.fromkeys(("triage_at", "provider_at", "departure_at"), pl.Datetime("us", "UTC"))
    visits = [
        {
            "visit_id": f"V{hospital}",
            "patient_id": f"P{hospital}",
            "hospital_id": f"H{hospital}",
            "department_name": MARKUP.format(hospital, hospital),
            "triage_level": 3,
            "arrival_at": NOW - timedelta(minutes=5 * hospital),
            "arrival_local": (NOW - timedelta(minutes=5 * hospital)).replace(tzinfo=None),
            "chief_complaint": MARKUP.format(hospital, hospital),
            "age_years": 40,
            "recorded_at": NOW - timedelta(minutes=2 if hospital == 1 else 61),
        }
        | dict.fromkeys(schema)
        for hospital in (1, 2)
    ]
    frame = pl.DataFrame(visits, schema_overrides=schema)
    merge_landed(settings.warehouse_file, "landed_visits", frame, "visit_id", "recorded_at", NOW - timedelta(days=1))
    names = pl.DataFrame({"hospital_id": ["H1", "H2"], "time_zone": ["America/Chicago"] * 2})
    names.with_columns(hospital_name=pl.Series([MARKUP.format(h, h) for h in (1, 2)])).write_parquet(
        settings.warehouse_file.parent / "live" / "hospitals.parquet"
    )
    with closing(Outbox(outbox_file(settings))) as outbox:
        for hospital in (1, 2):
            text = MARKUP.format(hospital, hospital)
            of = {"hospital_id": f"H{hospital}", "department_name": text}
            outbox.record([Signal("critical_vitals", f"V{hospital}", NOW, True, "critical", text, **of)], NOW)
    quarantine = {"subject": "vitals", "rule": "no_time", "description": MARKUP.format(1, 1)}
    text = MARKUP.format(2, 2)
    gathered = {
        "as_of": NOW.isoformat(),
        "scores": [{"layer": "raw", "family": "f", "checks": 4, "passed": 3, "score_pct": 75.0}],
        "failed": [],
        "quarantine": [quarantine | {"source_file": text, "records": OTHERS_NUMBERS[0]}],
        "quarantine_by_hospital": [
            quarantine | {"hospital": "H1", "records": 3},
            quarantine | {"hospital": "H2", "records": OTHERS_NUMBERS[0]},
        ],
        "freshness": [{"subject": text, "newest_day": "2026-03-12"}],
        "drift": [{"subject": text, "column": text, "verdict": text, "files": 1, "what_to_do": text}],
        "reconciliation": [
            {"subject": text, "landed": OTHERS_NUMBERS[0], "cleaned": 1, "quarantined": 1, "duplicates": 1}
        ],
    }

    replace_text(settings.gathered_quality, json.dumps(gathered))
    record(settings, Event(MARKUP.format(2, 2)[:60], "view", "doctor", audience="doctor-H2", client=DASHBOARD))


@dataclass
class Attacked:
    """The server, and sessions of its users."""

    served: Served
    users: Users
    tokens: dict[str, str]

    def ask(
        self,
        target: str,
        method: str = "GET",
        headers: tuple[tuple[str, str], ...] = (),
        body: bytes = b"",
        user: str = "",
    ) -> Reply:
        """Send what no well-behaved client would; one connection each."""
        given = {name.lower() for name, _ in headers}
        lines = [f"{method} {target} HTTP/1.1"]
        lines += [] if "host" in given else ["Host: localhost"]
        lines += [f"Cookie: {COOKIE}={self.tokens[user]}"] if user and "cookie" not in given else []
        lines += (
            [f"Content-Length: {len(body)}"] if body and not given & {"content-length", "transfer-encoding"} else []
        )
        lines += [*(f"{name}: {value}" for name, value in headers), "Connection: close", "", ""]
        return self.send("\r\n".join(lines).encode("latin-1", "replace") + body)

    def send(self, request: bytes) -> Reply:
        where = urlsplit(self.served.address)
        with socket.create_connection((where.hostname or "", where.port or 0), timeout=60) as connection:
            connection.sendall(request)
            parts = []
            try:
                while part := connection.recv(1 << 16):
                    parts.append(part)
            except ConnectionResetError:
                pass
        head, _, content = b"".join(parts).partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = [(n.lower(), v.strip()) for n, _, v in (line.partition(":") for line in lines)]
        return Reply(int(first.split(" ")[1]) if first else 0, fields, content.decode("utf-8", "replace"))


@dataclass
class Reply:
    """What came back; status 0 where the connection was closed without a word."""

    status: int
    fields: list[tuple[str, str]]
    text: str

    def header(self, name: str) -> str:
        return next((value for field, value in self.fields if field == name), "")


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    settings = Settings(tmp_path_factory.mktemp("attacked"), first_service_date=DAY, last_service_date=DAY)
    # A doctor who may open every page.
    text = POLICY_FILE.read_text(encoding="utf-8").replace('pages = ["live"]', 'pages = ["live", "governance"]')
    replace_text(settings.policy_file, text)
    policy = load_policy(settings)
    assert set(policy.roles["doctor"].pages) == {"live", "governance"}
    fill(settings)
    with open_warehouse(settings.warehouse_file) as warehouse:
        for role in ("admin", "doctor"):
            for audience in audiences_of(warehouse, policy, role):
                publish(warehouse, settings, policy, audience, key=lambda: KEY, published_at=NOW, data_as_of=NOW)
    fill_live(settings)
    with serve(settings) as served:
        users = served.dashboard.users
        users.add(User("root", "admin"), PASSWORD, by="os:test")
        users.add(User("dora", "doctor", "H1"), PASSWORD, by="os:test")
        tokens = {}
        for name in ("root", "dora"):
            session = users.sign_in(name, PASSWORD, DASHBOARD, client="test")
            assert session
            tokens[name] = session.token
        yield Attacked(served, users, tokens)


@pytest.mark.slow
def test_no_text_of_the_data_is_markup(attacked: Attacked) -> None:
    shown = 0
    for entry in MENU:
        text = attacked.ask(f"/{entry.name}", user="root").text
        assert "<img" not in text and "<script>{" not in text, entry.name
        shown += text.count("mark1")
    assert shown > 30


def everything_shown(attacked: Attacked, user: str) -> dict[str, str]:
    """Every page, export and event of a user, by address."""
    found = {f"/{entry.name}": attacked.ask(f"/{entry.name}", user=user).text for entry in MENU}
    for page, text in list(found.items()):
        for address in set(re.findall(rf'"({page}\.csv\?[^"]+)"', text)):
            found[address] = attacked.ask(address.replace("&amp;", "&"), user=user).text
    events = requests.get(
        f"{attacked.served.address}/live/events", cookies={COOKIE: attacked.tokens[user]}, stream=True, timeout=60
    )
    with events:
        found["/live/events"] = next(line for line in events.iter_lines(decode_unicode=True) if "data:" in line)
    return found


def of_others(text: str) -> list[str]:
    """What of a text is of the other hospital, or of both: names, numbers, the time of the newest record."""
    plain = text.replace(",", "")
    return [sign for sign in (OTHERS, "H2", *map(str, OTHERS_NUMBERS), "05:59:00") if sign in plain]


@pytest.mark.slow
def test_who_is_of_one_hospital_sees_nothing_of_another(attacked: Attacked) -> None:
    shown = everything_shown(attacked, "dora")
    assert len(shown) > 40 and {a: found for a, text in shown.items() if (found := of_others(text))} == {}
    # The control: who sees both sees all of it, on pages, in exports and events.
    seen: dict[str, set[str]] = {}
    for address, text in everything_shown(attacked, "root").items():
        seen.setdefault(address.partition("?")[0], set()).update(of_others(text))
    assert {sign for signs in seen.values() for sign in signs} == {OTHERS, "H2", *map(str, OTHERS_NUMBERS), "05:59:00"}
    assert {"/live", "/live/events", "/quality", "/governance", "/overview.csv"} <= {a for a in seen if seen[a]}


def test_a_publication_of_one_hospital_holds_nothing_of_another(attacked: Attacked) -> None:
    """What the gateway, PostgreSQL and files are answered from."""
    store = attacked.served.dashboard.store

    def found(audience: str) -> dict[str, list[str]]:
        mart = store.mart(audience)
        tables = {f"{r['schema_name']}.{r['table_name']}" for r in mart.rows("from duckdb_tables()")}
        return {table: of_others(str(mart.rows(f"from {table}"))) for table in tables}

    assert {table: signs for table, signs in found("doctor-H1").items() if signs} == {}
    assert sum(bool(signs) for signs in found("admin").values()) > 40


@pytest.mark.nightly
@pytest.mark.parametrize("group", REQUESTS)
def test_attacks_get_nothing(attacked: Attacked, group: str) -> None:
    (alert,) = [a["alert_id"] for a in attacked.served.dashboard.board.alerts() if a["hospital_id"] == "H2"]
    fills = {"{root}": attacked.tokens["root"], "{ROOT}": attacked.tokens["root"].swapcase(), "{alert}": alert}

    def filled(text: str) -> str:
        for name, instead in fills.items():
            text = text.replace(name, instead)
        return text

    escaped = []
    for attack in REQUESTS[group]:
        headers = tuple((name, filled(text)) for name, text in attack.headers)
        body = filled(attack.body.decode("latin-1")).encode("latin-1")
        reply = attacked.ask(filled(attack.target), attack.method, headers, body, attack.user)
        found = what_is_wrong(reply, attack)
        if found:
            escaped.append((attack.method, attack.target[:80], headers, reply.status, found))
    assert escaped == []


def what_is_wrong(reply: Reply, attack: WebAttack) -> str:
    if reply.status not in attack.statuses:
        return f"status, not {attack.statuses}"
    if any(secret in reply.text for secret in ("root:", "[roles.", "SQLite format", "Traceback", OTHERS, "<b>49</b>")):
        return "secret"
    if re.search("<img|<script>|<svg/|=alert\\(1\\)>", reply.text):
        return "markup"
    if reply.header("set-cookie") or "set-cookie: a=b" in str(reply.fields).lower():
        return "cookie"
    if urlsplit(reply.header("location")).netloc not in ("", "localhost"):
        return "redirect"
    if reply.status not in (0, 400) and reply.header("x-content-type-options") != "nosniff":
        return "headers"
    return ""


def test_there_are_enough_attacks() -> None:
    assert sum(map(len, REQUESTS.values())) >= 200
