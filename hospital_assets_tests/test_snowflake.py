"""What is rendered for Snowflake: complete, free of dangling references, and of the policy's meaning."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
import sqlglot
import yaml

from hospital_assets.automation.build import BuildReport
from hospital_assets.cli import main
from hospital_assets.contracts import CONTRACTS
from hospital_assets.publishing.masks import OLDEST_AGE, masked
from hospital_assets.publishing.policy import (
    POLICY_FILE,
    Mask,
    Policy,
    PolicyError,
    load_policy,
    parse_policy,
    shipped_policy,
)
from hospital_assets.publishing.pseudonyms import SecretKey
from hospital_assets.publishing.publications import audiences_of, current_version, published_folder
from hospital_assets.publishing.targets.snowflake.data import export
from hospital_assets.publishing.targets.snowflake.masks import mask_sql
from hospital_assets.publishing.targets.snowflake.model import DATABASE, Rendering, SnowflakeError
from hospital_assets.publishing.targets.snowflake.references import cross_check
from hospital_assets.publishing.targets.snowflake.rendering import render, write
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import open_warehouse
from hospital_assets_tests.helpers import publish, warehouse_copy

KEY = SecretKey(b"0123456789abcdef" * 2)
NOW = datetime(2026, 3, 14, 9, 0, tzinfo=UTC)
TEXT = POLICY_FILE.read_text(encoding="utf-8")
GOVERNANCE = "config/hospital/governance"
BASES = ("dimensions", "facts", "kpis")


@pytest.fixture(scope="module")
def rendering() -> Rendering:
    return render(shipped_policy())


def mask_of_role(rendering: Rendering, table: str, column: str, role: str) -> str:
    """What the masking policy of a base column gives a role; `val` where there is none."""
    contract = CONTRACTS[table]
    listed = rendering.files[f"config/hospital/{contract.layer}/table/{table}.yaml"].get("masking_policies", [])
    for policy in listed:
        if policy["columns"][0] == column:
            name = policy["policy_name"].removeprefix("hospital.governance.")
            body = rendering.files[f"{GOVERNANCE}/masking_policy/{name}.yaml"]["body"]
            found = re.search(rf"when '[^']*{role.upper()}__B_ROLE' then (.*)", body)
            return found.group(1) if found else "null"
    return "val"


def test_every_column_is_there_with_the_mask_of_each_role(rendering: Rendering) -> None:
    policy = shipped_policy()
    looked = 0
    for contract in policy.tables_of("admin"):
        columns = rendering.columns[contract.qualified_name]
        assert set(contract.column_names) <= set(columns)
        for role in policy.roles:
            if contract not in policy.tables_of(role):
                continue
            view = rendering.views[f"{role}.{contract.name}"]
            if view[0] != contract.qualified_name:
                assert view[0] == f"kpis_{role}.{contract.name}"
                continue
            for column in contract.columns:
                mask = policy.mask_of(role, contract.name, column)
                given = mask_of_role(rendering, contract.name, column.name, role)
                expected = {"clear": "val", "drop": "null", "token": f"{column.name}_token_{role}"}.get(
                    mask.kind
                ) or mask_sql(mask, column.duckdb_type, "val", policy.maps)
                assert given == expected, (role, contract.name, column.name)
                assert (column.name in view[1]) == (mask.kind != "drop")
                looked += 1
    assert looked > 800


def test_tables_are_clustered_kept_and_variant(rendering: Rendering) -> None:
    vitals = rendering.files["config/hospital/facts/table/fact_vitals.yaml"]
    assert vitals["cluster_by"] == ["hospital_key", "measured_at"]
    assert vitals["retention_time"] == 90
    assert vitals["columns"]["vitals"]["type"] == "VARIANT"
    visits = rendering.files["config/hospital/facts/table/fact_emergency_visits.yaml"]
    assert visits["cluster_by"] == ["hospital_key", "arrival_at"]
    tables = [c for path, c in rendering.files.items() if "/table/" in path and "/governance/" not in path]
    assert all(table["retention_time"] == 90 for table in tables)
    views = [content for path, content in rendering.files.items() if "/view/" in path]
    assert views and all(view["is_secure"] for view in views)


def test_roles_read_their_own_schema_and_nothing_else(rendering: Rendering) -> None:
    roles = rendering.files["config/business_role.yaml"]
    for role in shipped_policy().roles:
        assert roles[role]["schema_read"] == [f"hospital.{role}"]
        assert "schema_write" not in roles[role]


def test_another_policy_renders_otherwise(rendering: Rendering) -> None:
    other = render(
        parse_policy(
            TEXT.replace('birth_date = "year"', 'birth_date = "null"').replace('sex = "clear"', 'sex = "drop"'),
            "policy.toml",
        )
    )
    assert "date_trunc" in mask_of_role(rendering, "dim_patient", "birth_date", "analyst")
    assert mask_of_role(other, "dim_patient", "birth_date", "analyst") == "null"
    assert mask_of_role(rendering, "dim_patient", "sex", "analyst") == "val"
    assert mask_of_role(other, "dim_patient", "sex", "analyst") == "null"
    assert "sex" not in other.views["analyst.dim_patient"][1]
    assert "'analyst.dim_patient.' || column_name" in other.files["verify.sql"]


@pytest.mark.parametrize(
    ("path", "change", "says"),
    [
        (
            "config/hospital/dimensions/table/dim_patient.yaml",
            lambda table: table["columns"].pop("birth_date"),
            "dimensions.dim_patient: governance.dim_patient__birth_date is to see 'birth_date'",
        ),
        (
            f"{GOVERNANCE}/masking_policy/dim_patient__birth_date.yaml",
            None,
            "there is no masking_policy governance.dim_patient__birth_date",
        ),
        (
            f"{GOVERNANCE}/row_access_policy/rows_by_hospital_key.yaml",
            None,
            "there is no row_access_policy governance.rows_by_hospital_key",
        ),
        (
            f"{GOVERNANCE}/masking_policy/dim_patient__birth_date.yaml",
            lambda policy: policy["arguments"].update(val="FLOAT"),
            r"takes \['FLOAT'\], and is given \['DATE'\]",
        ),
        (
            "config/hospital/facts/table/fact_vitals.yaml",
            lambda table: table["cluster_by"].append("ward"),
            "cluster_by names 'ward'",
        ),
        (
            "config/hospital/dimensions/table/dim_patient.yaml",
            lambda table: table["row_access_policy"].update(columns=["patient_key"]),
            "'patient_key' has a masking and a row access policy",
        ),
        (
            "config/hospital/dimensions/table/dim_patient.yaml",
            lambda table: table.pop("masking_policies"),
            "dim_patient__birth_date: a masking policy that no column has",
        ),
        (
            "config/business_role.yaml",
            lambda roles: roles["analyst"]["schema_read"].append("hospital.analist"),
            "hospital.analist, which is no schema",
        ),
    ],
)
def test_a_reference_to_nothing_is_an_error(path: str, change: object, says: str) -> None:
    made = render(shipped_policy())
    if change is None:
        del made.files[path]
    else:
        change(made.files[path])  # type: ignore[operator]
    with pytest.raises(SnowflakeError, match=says):
        cross_check(made)


def test_views_of_missing_tables_and_columns_are_errors() -> None:
    made = render(shipped_policy())
    made.columns["dimensions.dim_patient"].pop("sex")
    del made.columns["facts.fact_vitals"]
    with pytest.raises(SnowflakeError) as raised:
        cross_check(made)
    assert "dimensions.dim_patient has no column 'sex'" in str(raised.value)
    assert "there is no table facts.fact_vitals" in str(raised.value)


def test_a_policy_snowflake_cannot_carry_out_says_why() -> None:
    head, tail = TEXT.split("[roles.doctor]")
    nobody = head.replace('sensitive = "clear"', 'sensitive = "drop"') + "[roles.doctor]" + tail
    with pytest.raises(PolicyError, match="need a role that sees everything"):
        render(parse_policy(nobody, "p"))


def test_a_folder_of_somebody_elses_is_left_alone(rendering: Rendering, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    with pytest.raises(SnowflakeError, match="not rendered by us"):
        write(rendering, tmp_path)
    assert (tmp_path / "config").is_dir()


@pytest.mark.slow
def test_files_say_what_was_rendered_and_are_replaced(rendering: Rendering, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write(rendering, folder)
    for name, content in rendering.files.items():
        text = (folder / name).read_text(encoding="utf-8")
        assert text == content if isinstance(content, str) else yaml.safe_load(text) == content
    stray = folder / "config/hospital/facts/table/gone.yaml"
    stray.write_text("x: 1")
    write(rendering, folder)
    assert not stray.exists()


def test_statements_are_valid_as_far_as_a_parser_knows(rendering: Rendering) -> None:
    """COPY transformations, masks, filters and views parse as Snowflake's dialect."""
    for path, content in rendering.files.items():
        text = str(content.get("body") or content.get("text") or "") if isinstance(content, dict) else ""
        if text:
            text = text.replace("${{ env_prefix }}", "")
            assert sqlglot.parse_one(text, dialect="snowflake"), path
    queries = [line for line in rendering.files["verify.sql"].splitlines() if line.startswith("select")]
    assert len(queries) > 30
    for query in queries:
        sqlglot.parse_one(query.split("; --")[0].rstrip(";"), dialect="snowflake")


@pytest.mark.nightly
def test_snowddl_accepts_it(rendering: Rendering, tmp_path: Path) -> None:
    command = shutil.which("snowddl", path=str(Path(sys.executable).parent)) or shutil.which("snowddl")
    if command is None:
        pytest.skip("snowddl is not installed; pip install 'hospital-assets[snowflake]'")
    write(rendering, tmp_path / "out")
    config = tmp_path / "out" / "config"
    # It wants credentials even where it connects to nothing.
    validate = [command, "-c", str(config), "-a", "x", "-u", "x", "-p", "x", "validate"]
    done = subprocess.run(validate, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    spoilt = config / "hospital/facts/table/fact_vitals.yaml"
    spoilt.write_text(spoilt.read_text(encoding="utf-8") + "\ncolour: blue\n")
    assert subprocess.run(validate, capture_output=True).returncode != 0


# What it means, on DuckDB: the policies as they were rendered, over the files that were exported


@pytest.mark.parametrize(
    ("kind", "mask", "values"),
    [
        ("DATE", "year", ["date '2001-05-06'", "date '1890-01-31'", "null"]),
        ("BIGINT", "year", ["20010506", "18900101", "-1", "null"]),
        ("TIMESTAMP", "year", ["timestamp '2001-05-06 07:08:09'", "null"]),
        ("BIGINT", "age_cap_90", ["0", "89", "90", "104", "null"]),
        ("VARCHAR", "zip3", ["'02139'", "'03601'", "'0213'", "'x'", "'02139-1234'", "null"]),
        ("VARCHAR", "category_map:chronic_condition", ["'Asthma'", "'Gout'", "null"]),
        ("BIGINT", "round:5", ["0", "2", "3", "12", "null"]),
        ("BIGINT", "null", ["1", "null"]),
    ],
)
def test_a_mask_is_what_publications_make_of_a_value(kind: str, mask: str, values: list[str]) -> None:
    policy = shipped_policy()
    name, _, argument = mask.partition(":")
    stated = Mask(kind=name, argument=argument)  # type: ignore[arg-type]
    column = next(c for t in CONTRACTS.values() for c in t.columns if c.duckdb_type == kind)
    ours = masked(column, stated, "v", policy.maps, NOW.date())
    theirs = _as_duckdb(mask_sql(stated, kind, "v", policy.maps))
    rows = ", ".join(f"({value}::{kind})" for value in values)
    result = duckdb.execute(
        f"select v, ({ours})::varchar, (({theirs})::{kind})::varchar from (values {rows}) t(v)"
    ).fetchall()
    assert [row[1] for row in result] == [row[2] for row in result], result


def test_bands_are_numbers_in_the_policy_and_words_in_the_view() -> None:
    banded = parse_policy(TEXT.replace('age_years = "age_cap_90"', 'age_years = "age_band"'), "policy.toml")
    made = render(banded)
    column = CONTRACTS["fact_vitals"].column("age_years")
    ours = masked(column, Mask(kind="age_band"), "v", {}, NOW.date())
    view = made.files["config/hospital/analyst/view/fact_vitals.yaml"]["text"]
    words = re.search(r"(case when age_years .* end) as age_years", view)
    assert words
    policy = mask_of_role(made, "fact_vitals", "age_years", "analyst")
    theirs = _as_duckdb(words.group(1)).replace("age_years", "b")
    band = f"(({_as_duckdb(policy).replace('val', 'v')})::bigint)"
    rows = duckdb.execute(
        f"select v, {ours}, {theirs} from (select v, {band} as b from "
        "(values (0), (9), (10), (47), (89), (90), (104), (null)) t(v))"
    ).fetchall()
    assert [row[1] for row in rows] == [row[2] for row in rows], rows
    assert rows[3][2] == "40-49" and rows[-2][2] == f"{OLDEST_AGE}+"


def _as_duckdb(expression: str) -> str:
    text = expression.replace("${{ env_prefix }}", "").replace("current_date()", f"to_date('{NOW:%Y-%m-%d}')")
    # Snowflake's regexp_like matches the whole text.
    text = re.sub(r"regexp_like\(", "full_match(", text)
    made = sqlglot.transpile(text, read="snowflake", write="duckdb")[0]
    return re.sub(r"FULL_MATCH\(", "regexp_full_match(", made)


@pytest.fixture(scope="module")
def account(
    built: tuple[Settings, BuildReport], rendering: Rendering, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Settings, duckdb.DuckDBPyConnection]]:
    """The exported files in DuckDB, in schemas called as they would be in an account."""
    network, _ = built
    settings = warehouse_copy(network, tmp_path_factory.mktemp("account"))
    policy = load_policy(settings)
    with open_warehouse(settings.warehouse_file) as warehouse:
        for role in policy.roles:
            for audience in audiences_of(warehouse, policy, role):
                if audience.hospital_id in (None, "H2"):
                    publish(warehouse, settings, policy, audience, key=lambda: KEY, published_at=NOW, data_as_of=NOW)
    out = settings.data_dir / "out"
    write(rendering, out)
    rows = export(rendering, settings, policy, out, lambda: KEY)
    assert set(rows) == set(rendering.columns) - {"governance.user_hospitals"}
    connection = duckdb.connect()
    connection.execute("attach ':memory:' as hospital")
    connection.execute("set TimeZone = 'UTC'")
    for place, columns in rendering.columns.items():
        schema, table = place.split(".")
        connection.execute(f"create schema if not exists hospital.{schema}")
        if place in rows:
            file = out / "data" / schema / f"{table}.parquet"
            connection.execute(f"create table hospital.{place} as from read_parquet('{file}')")
            described = connection.execute(f"describe hospital.{place}").fetchall()
            assert [row[0] for row in described] == list(columns), "load.sql names these"
    connection.execute(
        "create table hospital.governance.user_hospitals as select 'DORA' as user_name, "
        "hospital_id, hospital_key from hospital.dimensions.dim_hospital where hospital_id = 'H2'"
    )
    yield settings, connection
    connection.close()


def _through_policies(rendering: Rendering, place: str, role: str) -> str:
    """A base table as a role would see it, from the policies bound to it."""
    schema, table = place.split(".")
    stated = rendering.files[f"config/hospital/{schema}/table/{table}.yaml"]
    expressions = []
    policies = {p["columns"][0]: p for p in stated.get("masking_policies", [])}
    for column in rendering.columns[place]:
        if column == "vitals":  # OBJECT_PICK has no counterpart
            continue
        if column not in policies:
            expressions.append(f's."{column}"')
            continue
        name = policies[column]["policy_name"].removeprefix("hospital.governance.")
        policy = rendering.files[f"{GOVERNANCE}/masking_policy/{name}.yaml"]
        body = policy["body"].replace("current_role()", f"'{role.upper()}__B_ROLE'")
        body = re.sub(r"\bval\b", column, body)
        expressions.append(f"({_as_duckdb(body)}) as {column}")
    where = ""
    if bound := stated.get("row_access_policy"):
        name = bound["policy_name"].removeprefix("hospital.governance.")
        body = rendering.files[f"{GOVERNANCE}/row_access_policy/{name}.yaml"]["body"]
        body = body.replace("current_role()", f"'{role.upper()}__B_ROLE'")
        body = body.replace("current_user()", "'DORA'").replace("key_of_row", bound["columns"][0])
        where = f" where {_as_duckdb(body)}"
    return f"(select {', '.join(expressions)} from hospital.{place} s{where})"


@pytest.mark.nightly
@pytest.mark.parametrize("audience", ["admin", "analyst", "doctor-H2", "executive"])
def test_a_role_sees_in_snowflake_what_was_published_to_it(
    account: tuple[Settings, duckdb.DuckDBPyConnection], rendering: Rendering, audience: str
) -> None:
    settings, connection = account
    folder = published_folder(settings.data_dir) / audience
    folder = folder / current_version(settings.data_dir, audience) / "parquet"
    role = audience.split("-")[0]
    compared = 0
    for view, (place, columns) in rendering.views.items():
        if not view.startswith(f"{role}."):
            continue
        source = _through_policies(rendering, place, role)
        names = [name for name in columns if name != "vitals"]
        layer = CONTRACTS[view.split(".")[1]].layer
        file = folder / layer / f"{view.split('.')[1]}.parquet"
        types = dict(row[:2] for row in connection.execute(f"describe from read_parquet('{file}')").fetchall())
        assert set(types) == set(names), view
        theirs = ", ".join(f'"{name}"::{types[name]}' for name in names)
        ours = ", ".join(f'"{name}"' for name in names)
        ((missing, extra),) = connection.execute(
            f"with a as (select {ours} from read_parquet('{file}')), "
            f"b as (select {theirs} from {source}) "
            "select (select count(*) from (from a except all from b)), "
            "(select count(*) from (from b except all from a))"
        ).fetchall()
        assert (missing, extra) == (0, 0), view
        compared += 1
    assert compared > 35


@pytest.mark.nightly
def test_nobody_else_sees_anything_that_is_masked(
    account: tuple[Settings, duckdb.DuckDBPyConnection], rendering: Rendering
) -> None:
    _, connection = account
    source = _through_policies(rendering, "dimensions.dim_patient", "janitor")
    assert connection.execute(f"select count(*) from {source}").fetchall() == [(0,)]
    source = _through_policies(rendering, "dimensions.dim_patient", "loader")
    ((rows, names),) = connection.execute(f"select count(*), count(last_name) from {source}").fetchall()
    assert rows > 0 and names == 0


@pytest.mark.nightly
def test_a_publication_of_another_policy_is_not_exported(
    account: tuple[Settings, duckdb.DuckDBPyConnection], rendering: Rendering, tmp_path: Path
) -> None:
    settings, _ = account
    other: Policy = parse_policy(TEXT.replace('npi = "drop"', 'npi = "null"'), "p")
    with pytest.raises(SnowflakeError, match="run `hospital publish` first"):
        export(rendering, settings, other, tmp_path, lambda: KEY)


def test_the_command_renders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["--data-dir", str(tmp_path), "deploy", "snowflake", "--out", str(out)]
    assert main([*arguments, "--without-data"]) == 0
    assert (out / "verify.sql").exists() and "every reference" in capsys.readouterr().out
    assert main(arguments) == 2
    assert "hospital publish" in capsys.readouterr().err
    assert DATABASE in (out / "load.sql").read_text()
