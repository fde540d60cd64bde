"""The policy, pseudonyms, masks, small cells, the leak check and the publications they make."""

from __future__ import annotations

import errno
import hashlib
import hmac
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import dagster as dg
import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from hospital_assets.access.audit import about, read_entries
from hospital_assets.automation.build import BuildReport
from hospital_assets.automation.build import publish as run_publish
from hospital_assets.automation.instance import dagster_instance
from hospital_assets.automation.sensors import _rests, publications_sensor
from hospital_assets.cli import main
from hospital_assets.contracts import CONTRACTS
from hospital_assets.dashboard.pages.governance import retention_queue
from hospital_assets.dashboard.pages.menu import MENU, pages_of
from hospital_assets.definitions import build_definitions
from hospital_assets.publishing import leaks, publications
from hospital_assets.publishing.audience import Audience, PublishedTable
from hospital_assets.publishing.claims import claim_of
from hospital_assets.publishing.masks import holds, masked
from hospital_assets.publishing.policy import (
    DROP,
    POLICY_FILE,
    Mask,
    MaskKind,
    Policy,
    PolicyError,
    as_toml,
    load_policy,
    parse_policy,
    shipped_policy,
    uncovered,
)
from hospital_assets.publishing.pseudonyms import KeyMissingError, SecretKey, create_key, load_key, make_tokens
from hospital_assets.publishing.publications import (
    LeakError,
    Made,
    PublicationError,
    audiences_of,
    moment_of,
    old_versions,
    open_publication,
    published_folder,
    version_folder,
    versions,
)
from hospital_assets.publishing.shown_limits import LIMITS
from hospital_assets.publishing.small_cells import Line, determined, protect_small_cells, suppress
from hospital_assets.publishing.withdrawn import why_withdrawn
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import Warehouse, open_warehouse
from hospital_assets.warehouse.loads import ledger_copy
from hospital_assets_tests.helpers import publish, warehouse_copy

KEY = SecretKey(b"0123456789abcdef" * 2)
NOW = datetime(2026, 3, 14, 9, 0, tzinfo=UTC)
TEXT = POLICY_FILE.read_text(encoding="utf-8")
SHIPPED = shipped_policy()


def make(settings: Settings, audience: Audience | str, at: datetime = NOW, policy: Policy | None = None) -> Made:
    policy = policy or load_policy(settings)
    with open_warehouse(settings.warehouse_file) as warehouse:
        if isinstance(audience, str):
            role, _, hospital = audience.partition("-")
            audience = next(a for a in audiences_of(warehouse, policy, role) if a.hospital_id == (hospital or None))
        return publish(warehouse, settings, policy, audience, key=lambda: KEY, published_at=at, data_as_of=NOW)


@pytest.fixture(scope="module")
def governed(built: tuple[Settings, BuildReport], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The small network's warehouse in a data directory of its own, with four publications."""
    network, _ = built
    settings = warehouse_copy(network, tmp_path_factory.mktemp("governed"))
    for audience in ("admin", "analyst", "executive", "doctor-H2"):
        make(settings, audience)
    return settings


@pytest.fixture
def spoilt(governed: Settings, tmp_path: Path) -> Iterator[tuple[Settings, Warehouse]]:
    """The same warehouse, to be spoilt."""
    settings = warehouse_copy(governed, tmp_path)
    with open_warehouse(settings.warehouse_file) as warehouse:
        yield settings, warehouse


def rows(settings: Settings, audience: str, sql: str) -> list[tuple[object, ...]]:
    with open_publication(settings.data_dir, audience) as publication:
        return publication.connection.execute(sql).fetchall()


# The policy


def test_the_policy_covers_every_column_of_every_contract() -> None:
    assert uncovered(shipped_policy()) == {}, "`hospital policy --missing` prints the lines to add"


def test_a_column_the_policy_does_not_name_is_not_published(governed: Settings) -> None:
    less = parse_policy(TEXT.replace('"arrival_mode", ', "", 1), "policy.toml")
    assert uncovered(less) == {"fact_emergency_visits": ["arrival_mode"]}
    assert '"arrival_mode"]' in as_toml(less, uncovered(less))
    column = CONTRACTS["fact_emergency_visits"].column("arrival_mode")
    assert all(less.mask_of(role, "fact_emergency_visits", column).kind == "drop" for role in less.roles)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('birth_date = "year"', 'birth_date = "yaer"', ["birth_date.kind", "'year'"]),
        ('sex = "clear"', 'sexx = "clear"', ["columns.sexx", "no contract has this column"]),
        ("keep_days = 14 ", "keep_days = 200 ", ["retention.keep_days", "less than or equal to 90"]),
        ("version = 1", "version = 1\ncolour = 2", ["colour", "Extra inputs"]),
        ('visit_id = "token"', 'visit_id = "age_band"', ["age_band does not fit", "VARCHAR"]),
        ('visit = ["visit_id", "stay_id"]', 'visit = ["visit_id"]', ["[domains]", "stay_id"]),
        ('kpi_occupancy_daily = "', 'dim_time = "', ["kpi_occupancy_daily must stand in one of"]),
        (
            '"kpi_staffing_realised.arrivals_count" = "round:25"\n',
            "",
            ["kpi_staffing_realised.arrivals_count", "round"],
        ),
        ('"category_map:chronic_condition"', '"category_map"', ["needs an argument"]),
        ('"category_map:chronic_condition"', '"category_map:x"', ["there is no [maps.x]"]),
        ("[roles.executive]", "[roles.Night-Shift]", ["roles.Night-Shift", "should match pattern"]),
        ('overview = "executive"', 'overview = "janitor"', ["overview", "no role 'janitor'"]),
        ('overview = "executive"', 'overview = "doctor"', ["overview", "at one hospital"]),
        ('"arrival_mode", ', '"arival_mode", ', ["tables.fact_emergency_visits", "no column 'arival_mode'"]),
        ('raw = "records', 'rew = "records', ["withheld.rew", "no layer or table"]),
        ("version = 1", "version = ", ["not valid TOML", "line"]),
    ],
)
def test_a_wrong_policy_says_where_and_what(old: str, new: str, says: list[str]) -> None:
    assert old in TEXT
    text = TEXT.replace(old, new)
    with pytest.raises(PolicyError, match="mine.toml") as raised:
        parse_policy(text, "mine.toml")
    for part in says:
        assert part in str(raised.value)
    if "not valid" not in str(raised.value) and "Night-Shift" not in text:
        named = int(str(raised.value).split("line ")[1].split(":")[0])
        assert 1 <= named <= len(text.splitlines())


def stricter(column: str, privacy: str) -> Policy:
    return parse_policy(
        f'{TEXT}\n[stricter]\n"{column}" = {{ privacy = "{privacy}", because = "one-bed wards" }}\n', "policy.toml"
    )


def test_the_policy_may_be_stricter_than_a_contract_but_not_laxer() -> None:
    bed = CONTRACTS["fact_patient_flow"].column("bed_id")
    assert shipped_policy().mask_of("analyst", "fact_patient_flow", bed).kind == "clear"
    assert stricter("fact_patient_flow.bed_id", "quasi_identifier").mask_of("analyst", "fact_patient_flow", bed) == DROP
    # Every other `sex` stays what the role sees of it.
    sex = CONTRACTS["dim_patient"].column("sex")
    assert stricter("dim_patient.sex", "direct_identifier").mask_of("analyst", "dim_patient", sex) == DROP
    assert stricter("fact_patient_flow.bed_id", "sensitive").mask_of("analyst", "dim_patient", sex).kind == "clear"
    with pytest.raises(PolicyError, match="its contract says direct_identifier"):
        stricter("fact_emergency_visits.visit_id", "operational")
    with pytest.raises(PolicyError, match="lists no such column"):
        stricter("fact_patient_flow.bed", "sensitive")


def test_a_data_directory_may_have_its_own_policy(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    assert load_policy(settings) == shipped_policy()
    (tmp_path / "policy.toml").write_text(TEXT.replace("keep_days = 14 ", "keep_days = 30 "))
    assert load_policy(settings).retention.keep_days == 30


# Claims


def test_claims_are_computed() -> None:
    policy = shipped_policy()
    assert claim_of(policy, "admin").level == "identified"
    assert claim_of(policy, "doctor").level == "identified"
    analyst = claim_of(policy, "analyst")
    assert analyst.level == "pseudonymised"
    assert "fact_emergency_visits.arrival_at is finer than a year" in analyst.because
    assert any("derived from an identifier" in reason for reason in analyst.because)
    assert claim_of(policy, "executive").level == "figures"
    # An alert is about one patient, without any number of theirs.
    for table in ("fact_alerts", "fact_audit_events"):
        more = parse_policy(TEXT.replace('"fact_bed_occupancy", "kpis"', f'"{table}", "kpis"'), "p")
        assert claim_of(more, "executive").level == "pseudonymised"


@pytest.mark.parametrize("role", ["executive", "analyst"])
def test_arrivals_are_rounded_in_forecasts_too(spoilt: tuple[Settings, Warehouse], role: str) -> None:
    settings, warehouse = spoilt
    for table in ("kpi_staffing_realised", "kpi_forecast_accuracy"):
        names = ", ".join(
            {"VARCHAR": "'x'", "DATE": "date '2026-03-01'", "BOOLEAN": "true"}.get(c.duckdb_type, "2132")
            + f"::{c.duckdb_type} as {c.name}"
            for c in CONTRACTS[table].columns
        )
        warehouse.connection.execute(f"create or replace table forecasts.{table} as select {names}")
    make(settings, role)
    for table in ("kpi_staffing_realised", "kpi_forecast_accuracy"):
        assert rows(settings, role, f"select arrivals_count from forecasts.{table}") == [(2125,)]
    with pytest.raises(duckdb.CatalogException):
        rows(settings, role, "from facts.fact_alerts")


def test_safe_harbor_is_claimed_only_for_its_rules() -> None:
    """An analyst who gets drawn numbers, years and no times."""
    strict = TEXT.replace("[roles.analyst.columns]", "X", 1).split("[roles.executive]")
    head = strict[0].split("[roles.analyst]")
    role = """[roles.analyst]
description = "Research."
tables = ["dim_patient", "dim_person"]
surrogates = "random"
[roles.analyst.classes]
operational = "clear"
clinical = "clear"
[roles.analyst.columns]
patient_key = "token"
patient_durable_key = "token"
person_key = "token"
birth_date = "year"
zip_code = "zip3"
sex = "clear"
"dim_patient.valid_from_at" = "drop"
"dim_patient.valid_to_at" = "drop"
"""
    text = head[0] + role + "[roles.executive]" + strict[1]
    assert claim_of(parse_policy(text, "p"), "analyst").level == "safe_harbor_rules"
    for harm in (
        ('surrogates = "random"', 'surrogates = "hmac"'),
        ('birth_date = "year"', 'birth_date = "clear"'),
        ('zip_code = "zip3"', 'zip_code = "clear"'),
        ('"dim_patient.valid_to_at" = "drop"', '"dim_patient.valid_to_at" = "clear"'),
        ('sex = "clear"', 'age_at_extract_years = "clear"'),
        ('sex = "clear"', 'city = "clear"'),
    ):
        assert claim_of(parse_policy(text.replace(*harm), "p"), "analyst").level in ("pseudonymised", "identified")


# Keys and tokens


def test_tokens_are_hmac_sha256(tmp_path: Path) -> None:
    connection = duckdb.connect()
    connection.execute("create table t as select * from (values ('P1'), ('P2'), (null)) t(id)")
    made = make_tokens(connection, "analyst", "visit", [("t", "id")], "hmac", KEY)
    tokens = dict(connection.execute(f"select raw, token from {made.table}").fetchall())
    expected = hmac.new(KEY.value, b"analyst|visit|P1", hashlib.sha256).hexdigest()
    assert tokens["P1"] == "x" + expected[:20] and len(tokens) == 2


def test_tokens_of_two_audiences_and_domains_do_not_join() -> None:
    connection = duckdb.connect()
    connection.execute("create table t as select 'V' || range as id from range(1000)")
    seen: set[str] = set()
    for audience, domain in itertools.product(("analyst", "executive"), ("visit", "observation")):
        made = make_tokens(connection, audience, domain, [("t", "id")], "hmac", KEY)
        tokens = {t for (t,) in connection.execute(f"select token from {made.table}").fetchall()}
        assert len(tokens) == 1000 and not tokens & seen
        seen |= tokens


def test_numbers_keep_their_special_members_and_lots_are_drawn_anew() -> None:
    connection = duckdb.connect()
    connection.execute("create table t as select range - 2 as id from range(500)")

    def tokens(way: str) -> dict[int, int]:
        made = make_tokens(connection, "a", "patient", [("t", "id")], way, KEY)  # type: ignore[arg-type]
        return dict(connection.execute(f"select raw, token from {made.table}").fetchall())

    hmac_tokens, first, second = tokens("hmac"), tokens("random"), tokens("random")
    for found in (hmac_tokens, first, second):
        assert found[-1] == -1 and found[-2] == -2 and min(found.values()) == -2
    assert hmac_tokens == tokens("hmac")
    assert first != second


def test_the_key_is_kept_apart_from_the_data(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "data")
    inside = {"HOSPITAL_PSEUDONYM_KEY_FILE": str(settings.data_dir / "key")}
    with pytest.raises(KeyMissingError, match="in the data directory"):
        create_key(settings, inside)
    outside = {"HOSPITAL_PSEUDONYM_KEY_FILE": str(tmp_path / "secrets" / "key")}
    with pytest.raises(KeyMissingError, match="hospital key create"):
        load_key(settings, outside)
    path = create_key(settings, outside)
    assert path.stat().st_mode & 0o777 == 0o600
    key = load_key(settings, outside)
    assert len(key.value) == 32 and key.value.hex() not in repr(key)
    assert load_key(settings, {"HOSPITAL_PSEUDONYM_KEY": key.value.hex()}) == key
    with pytest.raises(KeyMissingError, match="there already"):
        create_key(settings, outside)
    path.chmod(0o644)
    with pytest.raises(KeyMissingError, match="chmod 600"):
        load_key(settings, outside)
    for bad in ("xyz", "abcd"):
        with pytest.raises(KeyMissingError, match="HOSPITAL_PSEUDONYM_KEY"):
            load_key(settings, {"HOSPITAL_PSEUDONYM_KEY": bad})


# Masks: a truth table


@pytest.mark.parametrize(
    ("column", "mask", "value", "becomes"),
    [
        ("dim_patient.birth_date", "clear", date(1980, 5, 6), date(1980, 5, 6)),
        ("dim_patient.birth_date", "null", date(1980, 5, 6), None),
        ("dim_patient.birth_date", "year", date(1980, 5, 6), date(1980, 1, 1)),
        ("dim_patient.birth_date", "year", date(1911, 5, 6), date(1936, 1, 1)),
        ("dim_patient.birth_date", "year", None, None),
        ("fact_emergency_visits.arrival_date_key", "year", 20260314, 20260101),
        ("fact_emergency_visits.arrival_date_key", "year", -1, -1),
        ("fact_emergency_visits.age_years", "age_cap_90", 97, 90),
        ("fact_emergency_visits.age_years", "age_cap_90", 89, 89),
        ("fact_emergency_visits.age_years", "age_band", 0, "0-9"),
        ("fact_emergency_visits.age_years", "age_band", 89, "80-89"),
        ("fact_emergency_visits.age_years", "age_band", 90, "90+"),
        ("fact_emergency_visits.age_years", "age_band", None, None),
        ("dim_patient.zip_code", "zip3", "60601", "606"),
        ("dim_patient.zip_code", "zip3", "03601-1234", "000"),
        ("dim_patient.zip_code", "zip3", "SW1A", None),
        ("dim_patient.pre_existing_condition", "category_map:chronic_condition", "COPD", "respiratory"),
        ("dim_patient.pre_existing_condition", "category_map:chronic_condition", "HIV", "other"),
        ("dim_patient.pre_existing_condition", "category_map:chronic_condition", None, None),
        ("fact_vitals.heart_rate_bpm", "round:5", 88.0, 90.0),
        ("raw_patients.record", "json_keys:sex,age", '{"sex":"f","name":"X"}', '{"sex":"f","age":null}'),
    ],
)
def test_masks_do_what_they_say(column: str, mask: str, value: object, becomes: object) -> None:
    table, _, name = column.partition(".")
    kind, _, argument = mask.partition(":")
    stated, wanted = CONTRACTS[table].column(name), Mask(kind=kind, argument=argument)  # type: ignore[arg-type]
    maps = shipped_policy().maps
    expression = masked(stated, wanted, "v", maps, date(2026, 3, 14))
    condition = holds(stated, wanted, "m", maps) or "true"
    connection = duckdb.connect()
    ((found, kept),) = connection.execute(
        f"select m, coalesce({condition}, true) from (select {expression} as m "
        f"from (select cast(? as {stated.duckdb_type}) as v))",
        [value],
    ).fetchall()
    assert (found, kept) == (becomes, True)


# Publications


def test_the_roles_get_what_the_policy_says(governed: Settings) -> None:
    patients = "select * from dimensions.dim_patient where patient_key > 0 limit 5"
    with open_publication(governed.data_dir, "analyst") as publication:
        names = publication.connection.sql(patients).columns
    assert not {"patient_id", "first_name", "last_name", "street", "phone", "city"} & set(names)
    assert {"patient_key", "birth_date", "zip_code", "sex"} <= set(names)
    ((raw, masked_),) = rows(
        governed,
        "analyst",
        "select count(*) filter (birth_date <> date_trunc('year', birth_date)), "
        "count(*) filter (length(zip_code) = 3) from dimensions.dim_patient",
    )
    assert raw == 0 and isinstance(masked_, int) and masked_ > 100
    with open_publication(governed.data_dir, "executive") as publication:
        tables = {n for (n,) in publication.connection.execute("select table_name from duckdb_tables()").fetchall()}
    assert not {"dim_patient", "fact_emergency_visits", "fact_vitals"} & tables
    assert {"kpi_waits", "dim_hospital"} <= tables
    with open_publication(governed.data_dir, "doctor-H2") as publication:
        names = publication.connection.sql(patients).columns
    assert {"patient_id", "last_name", "pre_existing_condition"} <= set(names)
    assert not {"street", "phone", "zip_code"} & set(names)


def test_tokens_join_within_a_publication(governed: Settings) -> None:
    sql = (
        "select count(*), count(distinct p.patient_durable_key), sum(v.wait_minutes) "
        "from facts.fact_emergency_visits v join dimensions.dim_patient p using (patient_key) "
        "join dimensions.dim_person using (patient_durable_key)"
    )
    ((visits, persons, waits),) = rows(governed, "analyst", sql)
    assert ((visits, persons, waits),) == tuple(rows(governed, "admin", sql))
    raw = {k for (k,) in rows(governed, "admin", "select patient_key from dimensions.dim_patient")}
    tokens = {k for (k,) in rows(governed, "analyst", "select patient_key from dimensions.dim_patient")}
    assert raw & tokens == {-1}
    vitals = "select count(*) from facts.fact_vitals semi join facts.fact_emergency_visits using (visit_id)"
    assert rows(governed, "analyst", vitals) == rows(governed, "admin", vitals)


@pytest.mark.slow
def test_a_policy_may_keep_diagnoses_to_their_chapter(spoilt: tuple[Settings, Warehouse]) -> None:
    """The recipe of docs/governance.md for records that 42 CFR Part 2 protects."""
    settings, _ = spoilt
    text = TEXT.replace(
        "[roles.analyst.columns]",
        '[roles.analyst.columns]\ncondition_key = "token"\nicd_code = "drop"\n'
        'condition_name = "drop"\ncondition_group = "drop"\nis_mental_health = "drop"',
    ).replace("[domains]", '[domains]\ncondition = ["condition_key"]')
    text = text.replace(
        '"fact_audit_events", "kpi_conditions_daily"]\nsmall_cells = "protect"\n\n[roles.analyst.cl',
        '"fact_audit_events", "kpi_conditions_daily", "kpi_conditions", "kpi_condition_groups"]\n'
        'small_cells = "protect"\n\n[roles.analyst.cl',
    )
    make(settings, "analyst", policy=parse_policy(text, "own"))
    ((names,),) = rows(
        settings, "analyst", "select list(column_name) from duckdb_columns() where table_name = 'dim_condition'"
    )
    assert "chapter_name" in names and not {"icd_code", "condition_name"} & set(names)
    joined = rows(
        settings,
        "analyst",
        "select count(*), count(distinct c.chapter_name) from facts.fact_emergency_visits "
        "join dimensions.dim_condition c using (condition_key)",
    )
    assert joined[0][0] == rows(settings, "analyst", "select count(*) from facts.fact_emergency_visits")[0][0]
    assert joined[0][1] > 3  # type: ignore[operator]


def test_the_order_of_rows_does_not_follow_what_is_hidden(governed: Settings) -> None:
    """dim_patient is stored by record number; tokens in that order would rank the numbers."""
    tokens = [k for (k,) in rows(governed, "analyst", "select patient_key from dimensions.dim_patient")]
    assert tokens == sorted(tokens, key=lambda token: (token is None, token))


def test_a_doctor_sees_the_own_hospital_only(governed: Settings) -> None:
    ((hospital, key),) = rows(
        governed, "admin", "select hospital_id, hospital_key from dimensions.dim_hospital where hospital_id = 'H2'"
    )
    for table in ("fact_emergency_visits", "fact_vitals", "fact_patient_flow", "fact_bed_occupancy"):
        found = rows(governed, "doctor-H2", f"select distinct hospital_key from facts.{table}")
        assert found == [(key,)]
    # No totals of the network, either: less one's own they are those of the others.
    assert rows(governed, "doctor-H2", "select distinct hospital_id from kpis.kpi_waits") == [(hospital,)]
    ((strangers,),) = rows(
        governed,
        "doctor-H2",
        "select count(*) from dimensions.dim_patient where patient_key > 0 and patient_key not in "
        "(select patient_key from facts.fact_emergency_visits union "
        "select patient_key from facts.fact_vitals union select patient_key from facts.fact_patient_flow)",
    )
    assert strangers == 0


def test_rows_are_sorted_by_hospital_and_arrival(governed: Settings) -> None:
    found = rows(governed, "analyst", "select hospital_key, arrival_at from facts.fact_emergency_visits")
    assert found == sorted(found)  # type: ignore[type-var]
    with open_publication(governed.data_dir, "analyst") as publication:
        parquet = publication.path / "parquet" / "facts" / "fact_emergency_visits.parquet"
    again = duckdb.sql(f"select hospital_key, arrival_at from '{parquet}'").fetchall()
    assert again == found


def test_every_duckdb_client_since_1_0_can_open_it(governed: Settings) -> None:
    # A client refuses a file whose number is higher than its own; 64 is that of 1.0.
    with open_publication(governed.data_dir, "admin") as publication:
        file = publication.path / "publication.duckdb"
    header = file.read_bytes()[:20]
    assert (header[8:12], int.from_bytes(header[12:], "little")) == (b"DUCK", 64)


def test_the_manifest_says_what_is_there(governed: Settings) -> None:
    with open_publication(governed.data_dir, "analyst") as publication:
        manifest, folder = publication.manifest, publication.path
    assert manifest["policy_sha256"] == shipped_policy().sha256
    assert manifest["key_id"] == KEY.key_id
    assert manifest["claim"]["level"] == "pseudonymised"
    assert manifest["leak_check"]["findings"] == 0 and manifest["leak_check"]["identifiers"] > 1000
    columns = manifest["tables"]["dimensions.dim_patient"]["columns"]
    assert columns["birth_date"] == {"class": "direct_identifier", "mask": "year"}
    for name, file in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == file["sha256"]
    every_byte = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert KEY.value not in every_byte and KEY.value.hex().encode() not in every_byte


@pytest.mark.slow
def test_no_raw_value_is_anywhere_in_the_bytes_of_a_file(spoilt: tuple[Settings, Warehouse]) -> None:
    """Free blocks included. Compression would hide values from the search, so here there is none."""
    settings, warehouse = spoilt
    warehouse.connection.execute("pragma force_compression = 'uncompressed'")
    ((numbers, phones),) = warehouse.connection.execute(
        "select list(patient_id), list(phone) from dimensions.dim_patient where patient_key > 0"
    ).fetchall()
    every = random.Random(7).sample([v for v in (*numbers, *phones) if v], 200)

    def found(audience: str) -> int:
        version = make(settings, audience).version
        folder = settings.data_dir / "published" / audience / version
        data = (folder / publications.DATABASE).read_bytes()
        return sum(value.encode() in data for value in every)

    # The control: the same search finds them all where they may be.
    assert found("admin") == 200
    assert found("analyst") == 0
    assert found("executive") == 0


@pytest.mark.fast_as("sql5")
@pytest.mark.parametrize(
    ("sql", "audience", "place"),
    [
        (
            "update facts.fact_emergency_visits set quality_codes = 'seen_' || (select patient_id from "
            "dimensions.dim_patient where patient_key > 0 limit 1) where visit_id = (select min(visit_id) "
            "from facts.fact_emergency_visits)",
            "analyst",
            "fact_emergency_visits.quality_codes",
        ),
        (
            "update facts.fact_patient_flow set bed_id = (select lower(replace(phone, '-', '/')) from "
            "dimensions.dim_patient where phone is not null limit 1) where segment_number = 1",
            "analyst",
            "fact_patient_flow.bed_id",
        ),
        (
            "update facts.fact_vitals set quality_codes = '{\"by\": \"' || (select upper(last_name || ', ' "
            "|| first_name) from dimensions.dim_patient where length(last_name) > 5 and length(first_name) > "
            "5 limit 1) || '\"}' where spo2_scale = 1",
            "analyst",
            "fact_vitals.quality_codes",
        ),
        (
            "update facts.fact_patient_flow set discharge_disposition = (select last_name from "
            "dimensions.dim_patient where length(last_name) > 6 limit 1)",
            "analyst",
            "fact_patient_flow.discharge_disposition",
        ),
        (
            "update dimensions.dim_hospital set hospital_name = (select visit_id from "
            "facts.fact_emergency_visits limit 1) where hospital_key > 0",
            "executive",
            "dim_hospital.hospital_name",
        ),
        (
            "update dimensions.dim_condition set condition_name = (select first_name || ' ' || last_name "
            "from dimensions.dim_patient where length(last_name) > 5 limit 1)",
            "executive",
            "dim_condition.condition_name",
        ),
        (
            "update kpis.kpi_procedures set procedure_name = (select street from dimensions.dim_patient "
            "where street is not null limit 1)",
            "executive",
            "kpi_procedures.procedure_name",
        ),
        (
            "update dimensions.dim_department set department_name = (select visit_id from "
            "facts.fact_emergency_visits v join dimensions.dim_hospital h using (hospital_key) where "
            "h.hospital_id = 'H5' limit 1)",
            "doctor-H2",
            "dim_department.department_name",
        ),
    ],
)
def test_a_planted_identifier_stops_the_publication(
    governed: Settings, spoilt: tuple[Settings, Warehouse], sql: str, audience: str, place: str
) -> None:
    settings, warehouse = spoilt
    current = publications.current_version(governed.data_dir, audience)
    for name in ("current.json", f"{current}/manifest.json"):
        target = settings.data_dir / "published" / audience / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(governed.data_dir / "published" / audience / name, target)
    before = publications.current_version(settings.data_dir, audience)
    warehouse.connection.execute(sql)
    warehouse.writes += 1
    with pytest.raises(LeakError) as raised:
        make(settings, audience, NOW + timedelta(hours=1))
    assert place in str(raised.value)
    table, _, column = place.partition(".")
    schema = CONTRACTS[table].qualified_name
    planted = warehouse.connection.execute(
        f"select distinct {column} from {schema} where {column} is not null"
    ).fetchall()
    assert not any(value in str(raised.value) for (value,) in planted if value)
    assert publications.current_version(settings.data_dir, audience) == before
    assert len(list((settings.data_dir / "published" / audience).iterdir())) == 2


@pytest.mark.fast_as("executive")
@pytest.mark.parametrize("audience", ["analyst", "executive", "doctor-H2"])
def test_a_patient_may_be_called_as_a_weekday(spoilt: tuple[Settings, Warehouse], audience: str) -> None:
    settings, warehouse = spoilt
    # Of the calendar, the triage scales, closed lists, departments, time zones, codes.
    first = ["Sunday", "August", "Monday", "Urgent", "Female", "Denver"]
    last = ["Walk-In", "Surgery", "Inpatient", "Discharged", "Latino", "Fahrenheit"]
    warehouse.connection.execute(
        "insert into raw.raw_patients by name select 'X' || f as patient_id, f as first_name, l as last_name "
        "from (select unnest(?) as f, unnest(?) as l)",
        [first, last],
    )
    warehouse.writes += 1
    assert make(settings, audience).report.findings == ()


@pytest.mark.fast_as("dim_department")
@pytest.mark.parametrize(
    ("table", "column", "value", "audience"),
    [
        ("dimensions.dim_date", "weekday_name", "Sunday Okafor", "executive"),
        ("dimensions.dim_department", "department_name", "Okafor, Sunday", "executive"),
        ("facts.fact_vitals", "quality_codes", "X1234567", "analyst"),
        ("facts.fact_patient_flow", "discharge_disposition", "Sunday", "analyst"),
        ("facts.fact_patient_flow", "bed_id", "Okafor", "analyst"),
    ],
)
def test_who_is_called_as_a_weekday_is_found_elsewhere(
    spoilt: tuple[Settings, Warehouse], table: str, column: str, value: str, audience: str
) -> None:
    settings, warehouse = spoilt
    warehouse.connection.execute(
        "insert into raw.raw_patients by name select 'X1234567' as patient_id, 'Sunday' as first_name, "
        "'Okafor' as last_name"
    )
    warehouse.connection.execute(f"update {table} set {column} = ?", [value])
    warehouse.writes += 1
    with pytest.raises(LeakError, match=rf"{table.partition('.')[2]}.{column}: a patient's"):
        make(settings, audience)


@pytest.mark.slow
@settings_of_hypothesis(max_examples=60, deadline=None)
@given(
    st.lists(st.text("aB1-. é한ßﬁI\u0301\u1112\u1161\u11ab0", min_size=1, max_size=9), min_size=1, max_size=8),
    st.text("ab1-é ", max_size=4),
)
def test_every_identifier_in_a_text_is_looked_for(values: list[str], around: str) -> None:
    """The beginnings only spare work: what is inside a text is always among what is looked for."""
    with duckdb.connect() as connection:
        connection.execute("create temp table raw_values as select unnest(?) as v", [values])
        connection.execute("create temp table whole_numbers (place varchar, content varchar)")
        connection.execute(
            f"create temp table texts as select {leaks.normalised('? || v || ?')} as content from raw_values",
            [around, around[::-1]],
        )
        sources = [leaks.Source("name", "raw_values", "v")]
        leaks.note_beginnings(connection, sources)
        leaks.find_needles(connection, sources)
        found = {n for (n,) in connection.execute("select needle from needles").fetchall()}
        inside = {
            n
            for (n,) in connection.execute(
                f"select needle from (select {leaks.normalised('v')} as needle from raw_values) "
                "where length(needle) >= ? and exists (from texts where contains(content, needle))",
                [leaks.SHORTEST],
            ).fetchall()
        }
    assert inside <= found


@pytest.mark.nightly
def test_several_audiences_at_once_and_a_leak_stops_only_its_own(spoilt: tuple[Settings, Warehouse]) -> None:
    settings, warehouse = spoilt
    policy = load_policy(settings)
    # A visit of H5 in the name of a bed of H2: only H2's doctors may not see it.
    warehouse.connection.execute(
        "update facts.fact_patient_flow set bed_id = (select visit_id from facts.fact_emergency_visits v "
        "join dimensions.dim_hospital h using (hospital_key) where h.hospital_id = 'H5' limit 1) "
        "where hospital_key = (select hospital_key from dimensions.dim_hospital where hospital_id = 'H2')"
    )
    warehouse.writes += 1
    audiences = audiences_of(warehouse, policy, "doctor")
    found = dict(
        publications.publish_all(
            warehouse, settings, policy, audiences, key=lambda: KEY, published_at=NOW, data_as_of=NOW
        )
    )
    assert [audience.name for audience in found] == [audience.name for audience in audiences]
    stopped = {a.name for a, outcome in found.items() if isinstance(outcome, LeakError)}
    assert stopped == {"doctor-H2"}
    assert set(publications.published_audiences(settings.data_dir)) == {audience.name for audience in audiences} - {
        "doctor-H2"
    }
    for audience in set(found) - {a for a in found if a.name == "doctor-H2"}:
        own = rows(settings, audience.name, "select distinct hospital_key from facts.fact_vitals")
        assert own == [(audience.hospital_key,)]
        parquet = publications.version_folder(settings.data_dir, audience.name) / "parquet"
        vitals = parquet / "facts" / "fact_vitals.parquet"
        assert duckdb.sql(
            f"select count(*) from (select measured_at, lag(measured_at) over (order by "
            f"file_row_number) as before from read_parquet('{vitals}', file_row_number = true)) "
            "where before > measured_at"
        ).fetchall() == [(0,)]


def test_a_doctor_may_see_identifiers_of_the_own_hospital(spoilt: tuple[Settings, Warehouse]) -> None:
    settings, warehouse = spoilt
    warehouse.connection.execute(
        "update dimensions.dim_department set department_name = (select visit_id "
        "from facts.fact_emergency_visits v join dimensions.dim_hospital h using (hospital_key) "
        "where h.hospital_id = 'H2' limit 1)"
    )
    assert make(settings, "doctor-H2").report.findings == ()


_MASKED = """
[roles.masked]
description = "Gets a column with each mask."
tables = ["dim_hospital", "dim_patient", "dim_person", "fact_emergency_visits", "kpi_waits"]
rows = "{rows}"
surrogates = "{surrogates}"

[roles.masked.classes]
operational = "clear"

[roles.masked.columns]
patient_key = "token"
patient_durable_key = "token"
person_key = "token"
visit_id = "token"
birth_date = "year"
arrival_date_key = "year"
age_at_extract_years = "age_cap_90"
"fact_emergency_visits.age_years" = "age_band"
zip_code = "zip3"
pre_existing_condition = "category_map:chronic_condition"
sex = "null"
wait_minutes = "round:5"
"fact_emergency_visits.quality_codes" = "json_keys:a"
phone = "drop"
"""
_AS_JSON = 'update facts.fact_emergency_visits set quality_codes = \'{"a": 1, "b": 2}\''


@pytest.mark.parametrize("rows_of", ["all", "own_hospital"])
@pytest.mark.parametrize("surrogates", ["hmac", "random"])
def test_every_mask_goes_with_every_row_filter(
    spoilt: tuple[Settings, Warehouse], rows_of: str, surrogates: str
) -> None:
    settings, warehouse = spoilt
    warehouse.connection.execute('update facts.fact_emergency_visits set quality_codes = \'{"a": 1, "b": 2}\'')
    policy = parse_policy(TEXT + _MASKED.format(rows=rows_of, surrogates=surrogates), "p")
    audience = "masked" if rows_of == "all" else "masked-H2"
    made = make(settings, audience, policy=policy)
    masks = {c["mask"].partition(":")[0] for t in made.manifest["tables"].values() for c in t["columns"].values()}
    assert masks == {*get_args(MaskKind)} - {"drop"}
    theirs = "true" if rows_of == "all" else "hospital_id = 'H2'"
    visits = (
        "select count(*) from facts.fact_emergency_visits join dimensions.dim_hospital using (hospital_key) "
        f"where {theirs}"
    )
    joined = (
        "select count(*) from facts.fact_emergency_visits join dimensions.dim_patient using (patient_key) "
        "join dimensions.dim_person using (patient_durable_key)"
    )
    assert rows(settings, audience, joined) == warehouse.connection.execute(visits).fetchall()


def test_tokens_of_another_hospital_stop_the_publication(
    spoilt: tuple[Settings, Warehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, warehouse = spoilt
    warehouse.connection.execute(_AS_JSON)
    monkeypatch.setattr(publications, "_own_rows", lambda contract, audience: "")
    policy = parse_policy(TEXT + _MASKED.format(rows="own_hospital", surrogates="hmac"), "p")
    with pytest.raises(LeakError, match=r"dim_patient.patient_key: patients of another hospital"):
        make(settings, "masked-H2", policy=policy)


def test_a_hospital_of_another_source_has_doctors_too(spoilt: tuple[Settings, Warehouse]) -> None:
    settings, warehouse = spoilt
    for schema, table in warehouse.connection.execute(
        "select distinct schema_name, table_name from duckdb_columns() join duckdb_tables() t "
        "using (database_name, schema_name, table_name) where column_name = 'hospital_id' and not t.internal"
    ).fetchall():
        warehouse.connection.execute(
            f"update {schema}.{table} set hospital_id = 'hl7v2-adt:SFAC' where hospital_id = 'H2'"
        )
    name = "doctor-hl7v2-adt:SFAC"
    assert make(settings, name).report.findings == ()
    assert name in publications.published_audiences(settings.data_dir)
    assert rows(settings, name, "select count(*) > 0 from facts.fact_emergency_visits") == [(True,)]
    for nowhere in ("doctor-..", "doctor-a/b", "..", "doctor-:", ""):
        with pytest.raises(publications.PublicationError):
            publications.current_version(settings.data_dir, nowhere)


@pytest.mark.slow
def test_a_mask_that_failed_stops_the_publication(
    spoilt: tuple[Settings, Warehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _ = spoilt
    monkeypatch.setattr(publications, "masked", lambda column, mask, source, maps, on: source)
    with pytest.raises(LeakError) as raised:
        make(settings, "analyst")
    for place in ("dim_patient.birth_date", "dim_patient.zip_code", "dim_patient.pre_existing_condition"):
        assert place in str(raised.value)


def test_a_row_filter_that_failed_stops_the_publication(
    spoilt: tuple[Settings, Warehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _ = spoilt
    monkeypatch.setattr(publications, "_own_rows", lambda contract, audience: "")
    with pytest.raises(LeakError, match="rows of another hospital"):
        make(settings, "doctor-H2")


def test_a_publication_needs_its_tables(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    with pytest.raises(PublicationError, match="hospital build"):
        make(settings, Audience("analyst"))
    with pytest.raises(PublicationError, match="hospital publish"):
        open_publication(tmp_path, "analyst")
    with pytest.raises(PublicationError, match="a role, or a role and a hospital"):
        open_publication(tmp_path, "../../etc")


def test_a_publication_can_only_be_read(governed: Settings, tmp_path: Path) -> None:
    with open_publication(governed.data_dir, "analyst") as publication:
        for statement in (
            "create table facts.x as select 1",
            "delete from facts.fact_vitals",
            f"attach '{governed.warehouse_file}' as w",
            "select * from read_text('/etc/hostname')",
            f"copy (select 1) to '{tmp_path / 'x.csv'}'",
            "set enable_external_access = true",
            "set lock_configuration = false",
            "install httpfs",
        ):
            with pytest.raises(duckdb.Error):
                publication.connection.execute(statement)
        ((zone,),) = publication.connection.execute("select current_setting('TimeZone')").fetchall()
        assert zone == "UTC"
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.nightly
def test_versions_are_kept_and_can_be_asked_for(spoilt: tuple[Settings, Warehouse]) -> None:
    settings, warehouse = spoilt
    first = make(settings, "executive", NOW - timedelta(days=20))
    second = make(settings, "executive", NOW - timedelta(days=2))
    warehouse.connection.execute("delete from kpis.kpi_waits")
    third = make(settings, "executive", NOW)
    assert (second.deleted, third.deleted) == ((first.version,), ())
    assert versions(settings.data_dir, "executive") == [second.version, third.version]
    with open_publication(settings.data_dir, "executive", NOW - timedelta(days=1)) as then:
        assert then.version == second.version
        ((count,),) = then.connection.execute("select count(*) from kpis.kpi_waits").fetchall()
        assert count > 0
    with pytest.raises(PublicationError, match="the oldest is"):
        open_publication(settings.data_dir, "executive", NOW - timedelta(days=3))


@pytest.mark.nightly
def test_an_open_reader_keeps_its_version_through_a_switch(spoilt: tuple[Settings, Warehouse]) -> None:
    settings, warehouse = spoilt
    make(settings, "executive")
    count = "select count(*) from kpis.kpi_waits"
    with open_publication(settings.data_dir, "executive") as old:
        ((before,),) = old.connection.execute(count).fetchall()
        warehouse.connection.execute("delete from kpis.kpi_waits")
        make(settings, "executive", NOW + timedelta(minutes=1))
        assert old.connection.execute(count).fetchall() == [(before,)]
        with open_publication(settings.data_dir, "executive") as new:
            assert new.version > old.version
            assert new.connection.execute(count).fetchall() == [(0,)]
        make(settings, "executive", NOW + timedelta(days=30))  # deletes what is open
        assert old.connection.execute(count).fetchall() == [(before,)]


READER = """
import sys
from pathlib import Path
from hospital_assets.publishing.publications import open_publication
seen = set()
print("ready", flush=True)
import time
while not (Path(sys.argv[1]) / "stop").exists():
    with open_publication(Path(sys.argv[1]), "executive") as p:
        n = p.connection.execute("select count(*), max(version_number) from dimensions.dim_department").fetchall()
        m = p.connection.execute("select count(*) from kpis.kpi_waits").fetchall()
        assert n[0][0] > 0 and m[0][0] > 0
        seen.add(p.version)
    time.sleep(0.02)
print(len(seen))
"""


@pytest.mark.nightly
def test_readers_and_the_writer_never_wait_for_each_other(spoilt: tuple[Settings, Warehouse]) -> None:
    """Two other processes read without pause while this one, with the warehouse open, publishes."""
    settings, _ = spoilt
    make(settings, "executive")
    command = [sys.executable, "-c", READER, str(settings.data_dir)]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for reader in readers:
            assert reader.stdout is not None and reader.stdout.readline().strip() == "ready"
        for minute in range(1, 3):
            make(settings, "executive", NOW + timedelta(minutes=minute))
        (settings.data_dir / "stop").touch()
        for reader in readers:
            out, err = reader.communicate(timeout=300)
            assert reader.returncode == 0, err
            assert int(out) >= 2
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()


@pytest.mark.nightly
def test_a_killed_publication_changes_nothing(governed: Settings, tmp_path: Path) -> None:
    settings = warehouse_copy(governed, tmp_path)
    first = make(settings, "executive")
    code = (
        "import os, sys\n"
        "from hospital_assets.publishing import publications as p\n"
        "p._switch = lambda *a: os.kill(os.getpid(), 9)\n"
        "from hospital_assets_tests.test_governance import make, NOW\n"
        "from hospital_assets.settings import data_dir_from_environment, load_settings\n"
        "from datetime import timedelta\n"
        "make(load_settings(data_dir_from_environment()), 'executive', NOW + timedelta(hours=1))\n"
    )
    shutil.copyfile(governed.settings_file, tmp_path / "hospital.toml")
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "HOSPITAL_DATA_DIR": str(tmp_path)}, capture_output=True
    )
    assert done.returncode == -9
    assert publications.current_version(tmp_path, "executive") == first.version
    again = make(settings, "executive", NOW + timedelta(hours=2))
    assert publications.current_version(tmp_path, "executive") == again.version


@pytest.mark.nightly
def test_published_assets_stop_at_a_leak_and_say_where(
    spoilt: tuple[Settings, Warehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, warehouse = spoilt
    monkeypatch.setenv("HOSPITAL_PSEUDONYM_KEY", KEY.value.hex())
    definitions = build_definitions(settings)
    report = run_publish(definitions, settings, ["executive"])
    assert report.failures == [] and [c.name for c in report.checks] == ["nothing_leaks"]
    assert all(check.passed and check.blocking for check in report.checks)
    before = publications.current_version(settings.data_dir, "executive")
    warehouse.connection.execute(
        "update dimensions.dim_hospital set hospital_name = "
        "(select visit_id from facts.fact_emergency_visits limit 1) where hospital_key > 0"
    )
    warehouse.writes += 1
    report = run_publish(definitions, settings, ["executive"])
    (check,) = report.failed_checks
    assert "dim_hospital.hospital_name" in check.description
    assert publications.current_version(settings.data_dir, "executive") == before


_RESEARCHER = """
[roles.researcher]
description = "Studies flow: sees figures and beds."
tables = ["kpi_waits", "fact_bed_occupancy", "dim_hospital", "dim_department"]
pages = ["live"]

[roles.researcher.classes]
operational = "clear"
"""


def test_a_role_is_a_section_of_the_policy_and_nothing_else(
    spoilt: tuple[Settings, Warehouse],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings, warehouse = spoilt
    monkeypatch.setenv("HOSPITAL_PSEUDONYM_KEY", KEY.value.hex())
    (settings.data_dir / "policy.toml").write_text(TEXT + _RESEARCHER, encoding="utf-8")
    policy = load_policy(settings)
    graph = build_definitions(settings).resolve_asset_graph()
    assert dg.AssetKey("publication_researcher") in graph.get_all_asset_keys()
    command = ["--data-dir", str(settings.data_dir), "publish", "--role"]
    assert main([*command, "janitor"]) == 2
    assert "no role 'janitor'; its roles are admin, doctor, analyst, executive, researcher" in capsys.readouterr().err
    assert main([*command, "researcher"]) == 0
    shown = rows(settings, "researcher", "select count(*) from kpis.kpi_waits")
    assert shown == warehouse.connection.execute("select count(*) from kpis.kpi_waits").fetchall()
    assert "live" in [entry.name for entry in pages_of(policy, "researcher")]
    assert [entry.name for entry in pages_of(policy, "janitor")] == []
    assert {entry.name for entry in MENU} - {entry.name for entry in pages_of(policy, "executive")} == {
        "live",
        "governance",
    }


def test_what_cannot_be_audited_is_not_published(
    spoilt: tuple[Settings, Warehouse], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, _ = spoilt
    monkeypatch.setenv("HOSPITAL_PSEUDONYM_KEY", KEY.value.hex())
    (settings.data_dir / "policy.toml").write_text(TEXT + _RESEARCHER, encoding="utf-8")
    definitions = build_definitions(settings)
    folder = published_folder(settings.data_dir) / "researcher"
    monkeypatch.setenv("HOSPITAL_AUDIT_KEY", "zz")
    assert main(["--data-dir", str(settings.data_dir), "publish", "--role", "researcher"]) == 2
    assert "HOSPITAL_AUDIT_KEY" in capsys.readouterr().err
    (failure,) = run_publish(definitions, settings, ["researcher"]).failures
    assert "HOSPITAL_AUDIT_KEY" in failure and "Traceback" not in capsys.readouterr().err
    assert list(folder.iterdir()) == []
    monkeypatch.delenv("HOSPITAL_AUDIT_KEY")
    assert run_publish(definitions, settings, ["researcher"]).failures == []
    before = publications.current_version(settings.data_dir, "researcher")

    def fails(*_: object) -> None:
        raise OSError("full")

    monkeypatch.setattr(publications, "_switch", fails)
    assert len(run_publish(definitions, settings, ["researcher"]).failures) == 1
    assert publications.current_version(settings.data_dir, "researcher") == before
    entries = read_entries(settings).filter(pl.col("action") == "publish")
    assert entries["outcome"].to_list() == ["allowed", "allowed", "failed"]
    assert entries["audience"].unique().to_list() == ["researcher"]
    assert entries["version"][0] == before != entries["version"][1] == entries["version"][2]


def test_who_cannot_be_published_to_keeps_nobody_waiting(
    spoilt: tuple[Settings, Warehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who need the key, which is not there; administrators see everything as it is."""
    settings, _ = spoilt
    monkeypatch.setenv("HOSPITAL_PSEUDONYM_KEY_FILE", str(settings.data_dir.with_name("nothing")))
    monkeypatch.delenv("HOSPITAL_PSEUDONYM_KEY", raising=False)
    report = run_publish(build_definitions(settings), settings, ["executive", "admin", "analyst"])
    (failure,) = report.failures
    assert failure.count("no pseudonym key") == 1
    assert [check.table for check in report.checks] == ["publication_admin"]
    assert publications.published_audiences(settings.data_dir) == ["admin"]


def test_publications_of_audiences_that_are_no_more_are_deleted(
    spoilt: tuple[Settings, Warehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _ = spoilt
    monkeypatch.setenv("HOSPITAL_PSEUDONYM_KEY", KEY.value.hex())
    policy = settings.data_dir / "policy.toml"
    policy.write_text(TEXT + _RESEARCHER, encoding="utf-8")
    old = make(settings, "researcher").version
    kept = settings.data_dir / "published" / "notes"
    kept.mkdir()
    narrowed = _RESEARCHER.replace("[roles.researcher]", '[roles.researcher]\nrows = "own_hospital"', 1)
    policy.write_text(TEXT + narrowed, encoding="utf-8")
    real = shutil.rmtree

    def refused(path: Path | str, **options: Any) -> None:
        if Path(path).name == "researcher":
            raise OSError(errno.EIO, "Input/output error")
        real(path, **options)

    # What cannot be deleted is said, keeps nobody waiting, and is deleted the next time.
    with monkeypatch.context() as patched:
        patched.setattr(publications.shutil, "rmtree", refused)
        (failure,) = run_publish(build_definitions(settings), settings, ["researcher"]).failures
    assert "cannot be deleted" in failure and "published/researcher" in failure
    assert "researcher-H2" in publications.published_audiences(settings.data_dir)
    left = (settings, load_policy(settings), read_entries(settings), NOW)
    assert publications.withdrawn_audiences(settings.data_dir, left[1]) == ["researcher"]
    first = retention_queue(*left, ["researcher"])[0]
    assert (first["what"], first["due"]) == ("Publication", "at once")
    assert run_publish(build_definitions(settings), settings, ["researcher"]).failures == []
    found = publications.published_audiences(settings.data_dir)
    assert "researcher-H2" in found and "researcher" not in found
    assert not (settings.data_dir / "published" / "researcher").exists() and kept.exists()
    entry = read_entries(settings).filter(pl.col("action") == "publish").to_dicts()[0]
    assert (about(entry), json.loads(entry["statement"])) == ("researcher deleted", {"deleted": [old]})


def _held(policy: Policy, role: str) -> dict[str, object]:
    """What a manifest says that matters for reading the version later."""
    tables = [
        PublishedTable(c, tuple((k, m) for k in c.columns if (m := policy.mask_of(role, c.name, k)) != DROP), "p", "s")
        for c in policy.tables_of(role)
    ]
    return publications._manifest(policy, Audience(role), "", NOW, NOW, "", tables)


@pytest.mark.parametrize(
    ("role", "then", "today", "says"),
    [
        ("analyst", {}, {}, ""),
        ("analyst", {}, {'zip_code = "zip3"': 'zip_code = "drop"'}, "dim_patient.zip_code (zip3)"),
        ("analyst", {'zip_code = "zip3"': 'zip_code = "null"'}, {}, ""),
        ("analyst", {'zip_code = "zip3"': 'zip_code = "drop"'}, {}, ""),
        ("analyst", {'zip_code = "zip3"': 'zip_code = "clear"'}, {}, "dim_patient.zip_code (clear)"),
        ("analyst", {'\nage_years = "age_cap_90"': '\nage_years = "age_band"'}, {}, ""),
        ("analyst", {}, {'\nage_years = "age_cap_90"': '\nage_years = "age_band"'}, "age_years (age_cap_90)"),
        ("executive", {}, {"round:25": "round:50"}, "arrivals_count (round:25)"),
        ("executive", {"round:25": "round:50"}, {}, ""),
        ("analyst", {}, {'"COPD" = "respiratory"': '"COPD" = "other"'}, "dim_patient without the protection"),
        ("analyst", {}, {"the network: sees every visit": 'x"\nsurrogates = "random"\n#'}, "without the protection"),
        ("executive", {}, {"threshold = 11": "threshold = 12"}, "without the protection"),
        (
            "executive",
            {'without = ["kpi_conditions_daily",': 'without = ["kpi_waits", "kpi_conditions_daily",'},
            {},
            "",
        ),
        (
            "executive",
            {},
            {'without = ["kpi_cond': 'without = ["kpi_waits", "kpi_cond'},
            "kpis.kpi_waits, which the policy does not give",
        ),
        ("analyst", {'"protect"\n\n[roles.analyst.': '"show"\n\n[roles.analyst.'}, {}, "without the protection"),
        ("analyst", {}, {"[roles.analyst]": '[roles.analyst]\nrows = "own_hospital"'}, "is at one hospital"),
        ("analyst", {}, {"[roles.analyst": "[roles.researcher"}, "no role 'analyst'"),
    ],
)
def test_versions_are_read_while_the_policy_allows_what_they_show(
    role: str, then: Mapping[str, str], today: Mapping[str, str], says: str
) -> None:
    def policy(changes: Mapping[str, str]) -> Policy:
        text = TEXT
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        return parse_policy(text, "p")

    why = why_withdrawn(policy(today), _held(policy(then), role))
    assert says in why and bool(says) == bool(why)


def test_publications_are_assets_with_their_tables() -> None:
    graph = build_definitions(Settings(Path("nowhere"))).resolve_asset_graph()
    for role in shipped_policy().roles:
        node = graph.get(dg.AssetKey(f"publication_{role}"))
        assert node.group_name == "publications" and node.owners == ["team:data-governance"]
        parents = {key.path[-1] for key in node.parent_keys}
        assert parents == {contract.name for contract in shipped_policy().tables_of(role)}
    build_jobs = {"daily_batch", "full_refresh", "refresh_stale_partitions", "all_checks"}
    definitions = build_definitions(Settings(Path("nowhere")))
    for job in build_jobs:
        assert "publications" not in {node.name for node in definitions.resolve_job_def(job).graph.nodes}


def test_what_was_built_is_published_once_it_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(tmp_path)
    repository = build_definitions(settings).get_repository_def()
    sensor = publications_sensor(settings)

    cursor: str | None = None

    def asked(instance: dg.DagsterInstance) -> set[str] | str:
        """The publications that are asked for, or why none is."""
        nonlocal cursor
        answer = sensor(dg.build_sensor_context(instance, cursor, repository_def=repository))
        if isinstance(answer, dg.SkipReason):
            return str(answer.skip_message)
        assert isinstance(answer, dg.SensorResult) and answer.run_requests
        (request,) = answer.run_requests
        assert request.asset_selection and request.run_key == answer.cursor != cursor
        cursor = answer.cursor
        return {key.path[-1] for key in request.asset_selection}

    def made(*names: str) -> None:
        for name in names:
            instance.report_runless_asset_event(dg.AssetMaterialization(name))

    def checked(*, passed: bool) -> None:
        instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(dg.AssetKey("dim_doctor"), "key", passed=passed, blocking=True)
        )

    everybody = {f"publication_{role}" for role in shipped_policy().roles}
    with dagster_instance(settings) as instance:
        assert "nothing was built" in asked(instance)
        made("kpi_waits_rolling")
        # Without a key, those who need none are served, and the others are named.
        monkeypatch.delenv("HOSPITAL_PSEUDONYM_KEY", raising=False)
        monkeypatch.setenv("HOSPITAL_PSEUDONYM_KEY_FILE", str(tmp_path.parent / "no-key"))
        assert asked(instance) == {"publication_admin", "publication_doctor"}
        made("publication_admin", "publication_doctor")
        assert "hospital key create" in asked(instance)
        monkeypatch.setenv("HOSPITAL_PSEUDONYM_KEY", KEY.value.hex())
        assert asked(instance) == everybody
        # It failed, say: one try for each change.
        assert "was tried" in asked(instance)
        made(*everybody)
        assert "nothing was built since" in asked(instance)
        made("kpi_conditions")
        checked(passed=False)
        assert "held until it passes: key of dim_doctor" in asked(instance)
        checked(passed=True)
        run = instance.create_run_for_job(
            build_definitions(settings).resolve_job_def("daily_batch"), status=dg.DagsterRunStatus.STARTED
        )
        assert "what is running" in asked(instance)
        instance.report_run_failed(run)
        # Of a day that is no service day any more nothing is checked again.
        instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                dg.AssetKey("fact_vitals"), "key", passed=False, blocking=True, partition="1999-01-01"
            )
        )
        assert asked(instance) == everybody
        # A clock was ahead when they were published.
        with monkeypatch.context() as patched:
            patched.setattr("dagster._time._mockable_get_current_timestamp", lambda: 9e9)
            made(*everybody)
        assert "nothing was built since" in asked(instance)
        made("kpi_conditions")
        assert asked(instance) == everybody
        # Whoever loaded was killed before it had reported what it built.
        made(*everybody)
        assert "nothing was built since" in asked(instance)
        loaded = ledger_copy(settings.warehouse_file)
        loaded.parent.mkdir(parents=True)
        loaded.touch()
        os.utime(loaded, (2e9, 2e9))
        assert asked(instance) == everybody and "was tried" in asked(instance)


def test_a_publication_leaves_the_warehouse_to_others_for_a_while() -> None:
    def rests(start: float | None, end: float | None) -> bool:
        return _rests(SimpleNamespace(start_time=start, end_time=end), 1000.0)  # type: ignore[arg-type]

    assert rests(900, 950) and rests(980, 999)
    assert not rests(900, 930) and not rests(None, None) and not rests(990, None)
    # It ended while a clock was ahead.
    assert not rests(9000, 9100)


def test_a_signal_ends_a_publishing_with_those_that_are_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_over, begun = threading.Event(), []

    def at_work(_own: object, _settings: object, _policy: object, audience: Audience, *_: object) -> None:
        begun.append(audience.name)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        assert is_over.wait(60)

    monkeypatch.setattr(publications, "_publish", at_work)
    monkeypatch.setattr(publications, "Event", lambda: is_over)
    settings, now = Settings(tmp_path), datetime(2026, 5, 10, tzinfo=UTC)
    policy, both = load_policy(settings), [Audience("analyst"), Audience("executive")]
    with open_warehouse(settings.warehouse_file) as warehouse, pytest.raises(KeyboardInterrupt):
        publications.publish_all(
            warehouse, settings, policy, both, key=lambda: load_key(settings), published_at=now, data_as_of=now
        )
    assert begun == ["analyst"]


def test_of_an_hour_that_is_over_the_newest_version_is_kept(tmp_path: Path) -> None:
    policy = load_policy(Settings(tmp_path))
    # That of 10:30 counts, because those after it were withdrawn.
    names = [f"20260510T{time}00000000Z" for time in ("0901", "0959", "1000", "1030", "1059", "1100", "1101", "1102")]
    now = datetime(2026, 5, 10, 11, 3, tzinfo=UTC)
    assert old_versions(names, policy, now, current=names[3]) == [names[0], names[2]]


def test_what_counted_then_is_answered_from_or_nothing(
    spoilt: tuple[Settings, Warehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _ = spoilt
    folder = settings.data_dir / "published" / "executive"

    def at(hour: int, minute: int) -> datetime:
        return datetime(2026, 5, 10, hour, minute, tzinfo=UTC)

    def counted_at(hour: int, minute: int) -> datetime:
        return moment_of(version_folder(settings.data_dir, "executive", at(hour, minute)).name)

    make(settings, "executive", at(9, 50))
    # One that was killed before its version counted.
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(publications, "_switch", _interrupt)
        make(settings, "executive", at(9, 55))
    assert counted_at(9, 57) == at(9, 50)
    for hour, minute in ((10, 5), (10, 20), (10, 50), (11, 10)):
        make(settings, "executive", at(hour, minute))
    kept = [at(9, 50), at(10, 50), at(11, 10)]
    assert [moment_of(version) for version in versions(settings.data_dir, "executive")] == kept
    said = json.loads((folder / "current.json").read_text())["counted"]
    assert [moment_of(version) for version in said] == [kept[0], at(10, 5), *kept[1:]]
    assert [counted_at(*then) for then in ((10, 4), (10, 55), (12, 0))] == kept
    for minute in (5, 30):
        with pytest.raises(PublicationError, match="is not kept any more"):
            counted_at(10, minute)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


# Small cells


def test_g23_a_small_cell_takes_another_with_it() -> None:
    values = {("H", "a"): (40,), ("H", "b"): (7,), ("H", "c"): (12,)}
    assert suppress(values, [Line(list(values))], 11) == {("H", "b"), ("H", "c")}


def table_of(seed: int) -> tuple[dict[tuple[object, ...], tuple[int]], list[Line]]:
    """Hospitals x categories with totals of both, and groups of categories."""
    draw = random.Random(seed)
    hospitals, categories = draw.randint(2, 6), draw.randint(2, 7)
    scale = draw.choice([5, 15, 60])
    cells = {
        ("cell", h, c): (draw.choice([0, 1, draw.randint(0, scale), draw.randint(0, 10 * scale)]),)
        for h in range(hospitals)
        for c in range(categories)
    }
    lines = [Line([("cell", h, c) for c in range(categories)]) for h in range(hospitals)]
    for c in range(categories):
        parts = [("cell", h, c) for h in range(hospitals)]
        total = ("cell", "all", c)
        cells[total] = (sum(cells[p][0] for p in parts),)
        lines.append(Line(parts, total))
    lines.append(Line([("cell", "all", c) for c in range(categories)]))
    for h in (*range(hospitals), "all"):
        for g in range(2):
            parts = [("cell", h, c) for c in range(categories) if c % 2 == g]
            total = ("group", h, g)
            cells[total] = (sum(cells[p][0] for p in parts),)
            lines.append(Line(parts, total))
    return cells, lines


def test_a_margin_solver_recovers_no_small_cell() -> None:
    plain = attacked = 0
    for seed in range(60):
        cells, lines = table_of(seed)
        small = {c for c, (n,) in cells.items() if 0 < n < 11}
        plain += len(determined(small, lines) & small)
        hidden = suppress(cells, lines, 11)
        assert small <= hidden
        found = determined(hidden, lines) & small
        # What follows even when nothing at all is shown, no leaving out can hide.
        hopeless = determined({c for c, (n,) in cells.items() if n}, lines)
        assert found <= hopeless, seed
        attacked += len(small)
    assert plain > 50 and attacked > 500  # the attack works on tables with small cells left out only


def protected(
    tables: dict[str, list[dict[str, object]]], *, absent: str = "", secret: bytes = b"secret", until: date = date.max
) -> dict[str, list[dict[str, object]]]:
    """KPI tables with some rows, as they are published to whom small cells are protected from; other columns are 0."""
    with duckdb.connect() as connection:
        connection.execute("create schema kpis")
        published = []
        for name, given in tables.items():
            contract = CONTRACTS[name]
            stored = [c for c in contract.columns if c.name != absent]
            columns = ", ".join(f'"{c.name}" {c.duckdb_type}' for c in stored)
            connection.execute(f"create table {contract.qualified_name} ({columns})")
            for row in given:
                values = [row.get(c.name, "all" if c.duckdb_type == "VARCHAR" else 0) for c in stored]
                values = [NOW if c.duckdb_type == "TIMESTAMPTZ" else v for c, v in zip(stored, values, strict=True)]
                marks = ", ".join("?" for _ in values)
                connection.execute(f"insert into {contract.qualified_name} values ({marks})", values)
            masks = tuple((c, SHIPPED.mask_of("executive", name, c)) for c in contract.columns)
            source = contract.qualified_name
            published.append(PublishedTable(contract, masks, "", source, absent=frozenset([absent] if absent else ())))
        found = protect_small_cells(connection, SHIPPED, published, secret, until).tables(published)
        shown: dict[str, list[dict[str, object]]] = {}
        for table in found:
            result = connection.execute(f"select * from {table.source} order by all")
            names = [str(column[0]) for column in result.description]
            shown[table.contract.name] = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
        return shown


def test_a_total_of_days_that_are_over_adds_up_those_alone() -> None:
    days = date(2026, 1, 5), date(2026, 1, 12)
    hour = {"hospital_id": "H1", "iso_weekday_number": 1, "hour_of_day": 9, "existing_hours_count": 1}
    tables = {
        "kpi_arrivals_hourly": [{**hour, "service_date": day, "arrivals_count": 102} for day in days],
        "kpi_peak_hours": [{**hour, "arrivals_count": 102}],
    }
    shown = protected(tables, until=days[0])
    (over,) = (row for row in shown["kpi_arrivals_hourly"] if row["service_date"] == days[0])
    (total,) = shown["kpi_peak_hours"]
    assert total["arrivals_count"] == total["arrivals_per_hour"] == over["arrivals_count"]


def test_one_number_is_rounded_once_for_all_tables() -> None:
    """The mean of several draws of one count would be the count."""
    days = [date(2026, 1, 1) + timedelta(days=n) for n in range(40)]
    where = [{"service_date": day, "hospital_id": hospital} for day in days for hospital in ("H1", "all")]
    counts = [{**row, "population_count": 7, "visit_count": 7, "denominator_count": 6} for row in where]
    tables = protected(
        {
            "kpi_waits_daily": counts,
            "kpi_triage_mix_daily": counts,
            "kpi_lwbs_daily": counts,
            "kpi_stages_daily": [{**row, "stage": stage} for row in counts for stage in ("door", "room")],
            "kpi_first_observations_daily": [{**row, "limit_minutes": limit} for row in counts for limit in (15, 60)],
        }
    )
    shown: dict[tuple[object, ...], set[object]] = {}
    for name, found in tables.items():
        for row in found:
            count = row["visit_count" if "visit_count" in row else "population_count"]
            shown.setdefault((row["service_date"], row["hospital_id"]), set()).add(count)
            assert "denominator_count" not in row or row["denominator_count"] <= count, name  # type: ignore[operator]
    assert len(shown) == 80 and all(len(numbers) == 1 for numbers in shown.values())
    # Not all the same way: places and days have draws of their own.
    assert {n for numbers in shown.values() for n in numbers} == {5, 10}


FINEST = ("service_date", "hospital_id", "triage_group", "department_name")
Visits = Mapping[tuple[date, str, str, str], tuple[int, int]]


def tables_of(visits: Visits) -> dict[str, list[dict[str, object]]]:
    """Tables that count the same visits (so many with a wait, so many cancelled), with all their totals."""
    shapes: dict[str, tuple[str, ...]] = {
        "kpi_waits_daily": FINEST,
        "kpi_waits": FINEST[1:],
        "kpi_stages_daily": FINEST,
        "kpi_lwbs_daily": FINEST[:2],
        "kpi_first_observations_daily": ("service_date", "hospital_id", "department_name"),
        "kpi_op18": ("period_month", "hospital_id"),
        "kpi_triage_mix_daily": FINEST[:3],
        "kpi_arrivals_hourly": (*FINEST[:2], "hour_of_day"),
    }
    tables: dict[str, list[dict[str, object]]] = {}
    for name, key in shapes.items():
        sums: dict[tuple[object, ...], list[int]] = {}
        for (day, *place), (timed, cancelled) in visits.items():
            where = dict(zip(FINEST, (day, *place), strict=True))
            where |= {"period_month": day.replace(day=1), "hour_of_day": 9}
            apart = [[where[c], "all"] if c in FINEST[1:] else [where[c]] for c in key]
            for cell in itertools.product(*apart):
                if "all" not in cell or name != "kpi_triage_mix_daily":
                    found = sums.setdefault(cell, [0, 0])
                    found[0], found[1] = found[0] + timed, found[1] + cancelled
        tables[name] = [
            dict(zip(key, cell, strict=True))
            | dict.fromkeys(("visit_count", "population_count", "arrivals_count"), timed + cancelled)
            | dict.fromkeys(("wait_count", "denominator_count", "no_full_set_count"), timed)
            | {"excluded_cancelled_count": cancelled}
            for cell, (timed, cancelled) in sums.items()
        ]
    return tables


def shown_counts(visits: Visits, secret: bytes = b"secret", without: str = "") -> dict[tuple[object, ...], int]:
    """Every count of every table that is published of some visits."""
    found: dict[tuple[object, ...], int] = {}
    tables = {name: rows_of for name, rows_of in tables_of(visits).items() if name != without}
    for name, table in protected(tables, secret=secret).items():
        key, rules = CONTRACTS[name].key, SHIPPED.small_cells.rounded[name]
        for row in table:
            for column in row.keys() - {*rules.drop, *rules.except_counts}:
                if column.endswith("_count"):
                    found[(name, *(row[c] for c in key), column)] = int(str(row[column]))
    return found


def some_visits(seed: int, days: int, hospitals: int) -> dict[tuple[date, str, str, str], tuple[int, int]]:
    lot = random.Random(seed)
    return {
        (date(2026, 1, 1) + timedelta(days=day), f"H{hospital}", group, department): (
            lot.choice([0, 1, 2, 3, 7, 12]),
            lot.choice([0, 0, 1, 2]),
        )
        for day, hospital in itertools.product(range(days), range(hospitals))
        for group, department in itertools.product("12", ("A", "Bo", "Che"))
    }


@pytest.mark.parametrize("hospitals", [1, 3])
def test_published_totals_are_the_sums_of_their_published_parts(hospitals: int) -> None:
    """Also from table to table, from days to the whole period, and within a row; and one number is shown once."""
    visits = some_visits(hospitals, 5, hospitals)
    shown = shown_counts(visits)
    assert all(n % 5 == 0 for n in shown.values())
    finest = {
        cell[1:5]: n
        for cell, n in shown.items()
        if cell[0] == "kpi_waits_daily" and cell[5] == "visit_count" and "all" not in cell
    }
    exact = {(day, hospital, department, group): n for (day, hospital, group, department), n in visits.items()}
    assert all(abs(n - sum(exact[cell])) < 5 for cell, n in finest.items())  # type: ignore[index]
    by_column = {column: at for at, column in enumerate(CONTRACTS["kpi_waits_daily"].key)}
    checked = 0
    for (name, *cell, column), n in shown.items():
        where = {
            by_column[c]: value
            for c, value in zip(CONTRACTS[str(name)].key, cell, strict=True)
            if c in by_column and value != "all"
        }
        if column in ("visit_count", "population_count"):
            assert n == sum(m for c, m in finest.items() if all(c[at] == v for at, v in where.items())), (name, cell)
            checked += 1
    assert checked > len(finest)
    for row in {cell[:-1] for cell in shown}:
        for whole, parts in CONTRACTS[str(row[0])].adds_up.items():
            assert shown[(*row, whole)] == sum(shown[(*row, part)] for part in parts), row


def lot_of(secret: bytes, day: date, hospital: str) -> float:
    whom = f"|service_date={day}|hospital_id={hospital}"
    return int(hashlib.sha256(secret + whom.encode()).hexdigest()[:8], 16) / 2**32


@pytest.mark.slow
def test_what_is_shown_can_come_from_every_number_within_the_bound() -> None:
    """The stated bound as a witness: for each number there are visits and lots that make all the same tables.

    Who has every count of every table, and knows how they are made but not the secret, cannot tell these apart.
    """
    day, hospital = date(2026, 1, 1), "H0"
    shown = shown_counts(some_visits(4, 1, 1), without="kpi_op18")
    truth: dict[tuple[date, str, str, str], tuple[int, int]] = {
        (day, hospital, group, department): (
            shown["kpi_waits_daily", day, hospital, department, group, "wait_count"],
            shown["kpi_waits_daily", day, hospital, department, group, "excluded_cancelled_count"],
        )
        for group, department in itertools.product("12", ("A", "Bo", "Che"))
    }
    tried = 0
    for cell, (timed, cancelled) in list(truth.items())[::2]:
        for n in range(max(0, timed - 4), timed + 5):
            other = {**truth, cell: (n, cancelled)}
            # The lot of the day and the hospital decides; most secrets would show something else.
            lots = [(number, lot_of(str(number).encode(), day, hospital)) for number in range(100)]
            fitting = [number for number, lot in lots if 0 <= lot + (n - timed) / 5 < 1][:1]
            made = [shown_counts(other, str(number).encode(), "kpi_op18") for number in fitting]
            assert made == [shown], (cell, timed, n)
            tried += 1
    assert tried >= 15


def test_a_day_more_tells_nothing_about_the_days_before() -> None:
    visits = some_visits(7, 4, 3)
    last = max(cell[0] for cell in visits)
    before = shown_counts({cell: n for cell, n in visits.items() if cell[0] != last})
    today = shown_counts(visits)
    daily = {cell: n for cell, n in before.items() if isinstance(cell[1], date) and cell[0] != "kpi_op18"}
    assert daily and all(today[cell] == n for cell, n in daily.items())
    # What grew are sums, by exactly what the day shows.
    for cell in before.keys() - daily.keys():
        name, *key, column = cell
        if name == "kpi_waits":
            assert today[cell] - before[cell] == today.get(("kpi_waits_daily", last, *key, column), 0)


def test_many_observation_sets_of_few_visits_are_left_out() -> None:
    key = ("hospital_id", "department_name", "hours_since_arrival")
    counts = {
        ("H1", "A", 0): (30, 90),
        ("H1", "B", 0): (3, 60),
        ("H1", "C", 0): (14, 50),
        ("H1", "all", 0): (47, 200),
        ("all", "A", 0): (30, 90),
        ("all", "B", 0): (3, 60),
        ("all", "C", 0): (14, 50),
        ("all", "all", 0): (47, 200),
        # Sets that were left out only, of nobody knows how many visits.
        ("H1", "A", 1): (0, 0),
    }
    rows = [
        {
            "service_date": NOW.date(),
            **dict(zip(key, cell, strict=True)),
            "population_count": 250,
            "scored_visit_count": visits,
            "denominator_count": sets,
            "score_0_count": sets,
            "score_sum": 0,
        }
        for cell, (visits, sets) in counts.items()
    ]
    (found,) = protected({"kpi_news2_daily": rows}).values()
    shown = {tuple(row[name] for name in key): row for row in found}
    hidden = {cell for cell, row in shown.items() if row["denominator_count"] is None}
    # C goes with B: the total of the hospital minus A and C would be B.
    assert hidden == {cell for cell in counts if cell[1] in "BC" or cell[2] == 1}
    assert all(row["population_count"] is None for cell, row in shown.items() if cell in hidden)
    assert shown["H1", "all", 0]["scored_visit_count"] in (45, 50)
    (found,) = protected({"kpi_news2_daily": rows}, absent="scored_visit_count").values()
    assert all(row["denominator_count"] is None for row in found)


def test_what_is_made_stricter_counts_as_such_for_claims_and_leaks() -> None:
    ours = '[stricter]\n"fact_patient_flow.bed_id" = { privacy = "direct_identifier", because = "beds of one" }\n'
    policy = parse_policy(TEXT + ours, "mine.toml")
    assert ("raw.raw_adt_events", "bed_id") in set(leaks._identifier_columns(policy))
    assert ("raw.raw_adt_events", "bed_id") not in set(leaks._identifier_columns(shipped_policy()))
    shown = "fact_patient_flow.bed_id is shown"
    assert shown in claim_of(policy, "admin").because and shown not in claim_of(shipped_policy(), "admin").because


def test_a_rule_for_few_visits_names_columns_that_exist() -> None:
    rule = 'visits = "scored_visit_count"'
    with pytest.raises(PolicyError, match=r"kpi_news2_daily has no column 'visits_count'"):
        parse_policy(TEXT.replace(rule, 'visits = "visits_count"'), "mine.toml")
    with pytest.raises(PolicyError, match="along which the table has totals"):
        parse_policy(TEXT.replace('parts = [["hospital_id"], ["department_name"]]', ""), "mine.toml")


def test_rounded_tables_give_no_small_count_away(governed: Settings) -> None:
    sql = "select hospital_id, department_name, triage_group, visit_count from kpis.kpi_waits"
    true = {tuple(r[:3]): int(r[3]) for r in rows(governed, "admin", sql)}  # type: ignore[call-overload]
    shown = {tuple(r[:3]): int(r[3]) for r in rows(governed, "executive", sql)}  # type: ignore[call-overload]
    assert set(true) == set(shown) and all(n % 5 == 0 for n in shown.values())
    days = rows(governed, "admin", "select count(distinct service_date) from kpis.kpi_waits_daily")[0][0]
    finest = [cell for cell in true if "all" not in cell]
    assert all(abs(true[cell] - shown[cell]) < 5 * int(days) for cell in finest)  # type: ignore[call-overload]
    assert sum(0 < true[cell] < 11 for cell in finest) > 20


def test_what_follows_from_counts_is_computed_from_what_is_shown(governed: Settings) -> None:
    found = rows(governed, "executive", "select numerator_count, denominator_count, value_pct from kpis.kpi_lwbs_daily")
    for part, whole, share in found:
        assert part <= whole  # type: ignore[operator]
        if share is not None:
            assert share == pytest.approx(100 * part / whole)  # type: ignore[operator]
    ((small_averages,),) = rows(
        governed,
        "executive",
        "select count(*) from kpis.kpi_waits where wait_count <= 5 and wait_average_minutes is not null",
    )
    assert small_averages == 0
    total = (
        "select sum(visit_count) from kpis.kpi_waits where hospital_id = 'all' and department_name = 'all' "
        "and triage_group = 'all'"
    )
    parts = total.replace("hospital_id = 'all'", "hospital_id <> 'all'")
    assert rows(governed, "executive", total) == rows(governed, "executive", parts)


def test_published_small_cells_cannot_be_solved(governed: Settings) -> None:
    """The attack on the tables as published: every null that follows from totals is a failure."""
    sql = "select hospital_id, characteristic, category, visit_count, patient_count from kpis.kpi_demographics"
    true = {tuple(r[:3]): r[3:] for r in rows(governed, "admin", sql)}
    shown = {tuple(r[:3]): r[3:] for r in rows(governed, "executive", sql)}
    hidden = {c for c, counts in shown.items() if None in counts}
    small = {c for c, counts in true.items() if any(0 < n < 11 for n in counts)}  # type: ignore[operator]
    assert small and small <= hidden
    near = [(n, m) for c in true if c not in hidden for n, m in zip(true[c], shown[c], strict=True)]
    assert near and all(m % 5 == 0 and abs(n - m) < 5 for n, m in near)  # type: ignore[operator]
    lines = []
    for hospital, what in {c[:2] for c in true}:
        lines.append(Line([c for c in true if c[:2] == (hospital, what)]))
    for what in {c[1:] for c in true}:
        parts = [c for c in true if c[1:] == what and c[0] != "all"]
        lines.append(Line(parts, ("all", *what)))
    assert determined(hidden, lines) & small == set()


@pytest.mark.slow
def test_the_same_draws_every_time(governed: Settings) -> None:
    """Publishing often must not let anybody average the rounding away."""
    sql = "select * from kpis.kpi_waits order by all"
    before = rows(governed, "executive", sql)
    make(governed, "executive", NOW + timedelta(minutes=5))
    assert rows(governed, "executive", sql) == before
    assert rows(governed, "analyst", sql) == before
    assert json.loads((governed.data_dir / "published" / "executive" / "current.json").read_text())


def _by_lot(counts: np.ndarray[Any, Any], lots: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Counts rounded to fives, up or down with the same expectation."""
    found: np.ndarray[Any, Any] = (counts + lots) // 5 * 5
    return found


def test_all_who_are_protected_see_the_same_small_cells(governed: Settings) -> None:
    """What one role may see more of must not tell what is left out for another; each was published by itself."""
    protected = [*SHIPPED.small_cells.suppress, *SHIPPED.small_cells.rounded]
    seen = {contract.name for role in ("analyst", "executive") for contract in SHIPPED.tables_of(role)}
    both = set.intersection(*({c.name for c in SHIPPED.tables_of(role)} for role in ("analyst", "executive")))
    assert len(both & set(protected)) > 20 and seen - both
    with (
        open_publication(governed.data_dir, "analyst") as more,
        open_publication(governed.data_dir, "executive") as less,
    ):
        for name in sorted(both & set(protected)):
            table = CONTRACTS[name].qualified_name
            shared = [c for c in _columns(less, table) if c in _columns(more, table)]
            query = f"select {', '.join(shared)} from {table} order by all"
            assert more.connection.execute(query).fetchall() == less.connection.execute(query).fetchall(), name


def _columns(publication: publications.Publication, table: str) -> list[str]:
    """Columns that are shown as they are stored."""
    masks = publication.manifest["tables"][table]["columns"]
    return [f'"{column}"' for column, how in masks.items() if how["mask"] == "clear"]


def test_what_is_rounded_often_is_not_out_of_the_ordinary_for_that() -> None:
    """Hospitals and doctors with 9 and 2 patients a day, who differ by chance alone."""
    rng = np.random.default_rng(20)
    rounded = pl.DataFrame(
        {"metric": ["four_hour_pct"] * 7, "hospital_id": [f"H{n}" for n in range(7)], "rounded_count": [100] * 7}
    )
    outside = {"funnel": [0, 0], "poisson": [0, 0]}
    for _ in range(60):
        came = rng.poisson(9, (7, 100))
        within, lots = rng.binomial(came, 0.85), rng.integers(0, 5, (7, 100))
        units = rounded.drop("rounded_count").with_columns(
            numerator_count=_by_lot(within, lots).sum(axis=1),
            denominator_count=_by_lot(came, lots).sum(axis=1),
            **dict.fromkeys(("lower_limit_pct", "upper_limit_pct", "dispersion"), pl.lit(None, pl.Float64)),
        )
        units = units.with_columns(value_pct=100 * pl.col("numerator_count") / pl.col("denominator_count"))
        seen = rng.poisson(2, (30, 100))
        doctors = pl.DataFrame(
            {
                "hospital_key": [1] * 30,
                "visit_count": _by_lot(seen, rng.integers(0, 5, (30, 100))).sum(axis=1),
                "shift_hours": [800.0] * 30,
                "expected_visit_count": [200.0] * 30,
                "active_days_count": [100] * 30,
            }
        )
        unaware = rounded.clear(), doctors.drop("active_days_count")
        for at, (funnel, poisson) in enumerate(((rounded, doctors), unaware)):
            outside["funnel"][at] += int(LIMITS["funnel"](units, 5, funnel)["is_outside"].sum())
            outside["poisson"][at] += int(LIMITS["poisson"](poisson, 5, rounded)["is_outside"].sum())
    # Of 420 hospitals and 1,800 doctors; three in a thousand would be outside by chance.
    assert outside["funnel"][0] <= 4 and outside["funnel"][1] > 40
    assert outside["poisson"][0] <= 10 and outside["poisson"][1] > 40
