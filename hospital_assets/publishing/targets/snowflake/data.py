"""The Parquet files that the load loads, made from publications."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hospital_assets.contracts import CONTRACTS
from hospital_assets.publishing.policy import Policy, RoleName
from hospital_assets.publishing.pseudonyms import SecretKey, make_tokens
from hospital_assets.publishing.publications import current_version, published_folder, read_manifest
from hospital_assets.publishing.targets.snowflake.model import (
    GOVERNANCE,
    VARIANTS,
    Rendering,
    SnowflakeError,
    base_role,
    gathered,
    readers_of,
    token_column,
)
from hospital_assets.settings import Settings
from hospital_assets.warehouse.dialect import literal, quoted


def export(
    rendering: Rendering, settings: Settings, policy: Policy, folder: Path, key: Callable[[], SecretKey]
) -> dict[str, int]:
    """Write the Parquet files that load.sql loads, from the publications; returns their rows.

    Args:
        policy: must be the one the publications were made with.
        key: gives the key of pseudonyms; asked only when a role has tokens made with it.

    Raises:
        SnowflakeError: a publication was made under another policy.
        PublicationError: something is not published.
    """
    import duckdb

    base = base_role(policy)
    copies = {c.split(".")[0].removeprefix("kpis_") for c in rendering.columns if c.startswith("kpis_")}
    versions = {name: _version(settings, policy, name) for name in [base, *sorted(copies)]}
    connection = duckdb.connect()
    try:
        for name, version in versions.items():
            file = version / "publication.duckdb"
            connection.execute(f"attach {literal(str(file))} as {name} (read_only)")
        _make_tokens(connection, policy, base, key)
        rows = {}
        for place, columns in rendering.columns.items():
            statement = _export_statement(policy, base, place, columns)
            if not statement:
                continue
            target = folder / "data" / f"{place.replace('.', '/')}.parquet"
            target.parent.mkdir(parents=True, exist_ok=True)
            ((count,),) = connection.execute(
                f"copy ({statement}) to {literal(str(target))} (format parquet, compression zstd)"
            ).fetchall()
            rows[place] = count
        return rows
    finally:
        connection.close()


def _version(settings: Settings, policy: Policy, audience: str) -> Path:
    folder = published_folder(settings.data_dir) / audience
    version = folder / current_version(settings.data_dir, audience)
    manifest = read_manifest(version, "policy_sha256")
    if manifest["policy_sha256"] != policy.sha256:
        raise SnowflakeError(
            f"'{audience}' was published under another policy than the present one; run `hospital publish` first"
        )
    return version


def _make_tokens(connection: Any, policy: Policy, base: RoleName, key: Callable[[], SecretKey]) -> None:
    """The tokens of every role and domain, as temporary tables `tokens_<role>_<domain>`."""
    for role, rules in policy.roles.items():
        sources: dict[str, list[tuple[str, str]]] = {}
        for contract in policy.tables_of(role):
            for column in contract.columns:
                if policy.mask_of(role, contract.name, column).kind == "token":
                    sources.setdefault(policy.domain_of[column.name], []).append(
                        (f"{base}.{contract.qualified_name}", column.name)
                    )
        for domain, found in sources.items():
            secret = key() if rules.surrogates == "hmac" else None
            made = make_tokens(connection, role, domain, found, rules.surrogates, secret)
            connection.execute(f"create temp table tokens_{role}_{domain} as select * from {made.table}")


def _export_statement(policy: Policy, base: RoleName, place: str, columns: Mapping[str, str]) -> str:
    """The query that gives the rows of a table, its columns in their order."""
    schema, name = place.split(".")
    if place == f"{GOVERNANCE}.user_hospitals":
        return ""
    if place == f"{GOVERNANCE}.hospital_rows":
        return _hospital_rows(policy, base)
    if schema.startswith("kpis_"):
        listed = ", ".join(quoted(column) for column in columns)
        return f"select {listed} from {schema.removeprefix('kpis_')}.kpis.{quoted(name)}"
    contract = CONTRACTS[name]
    expressions, joins = [], []
    tokens = {
        token_column(column.name, role): (role, column.name)
        for column in contract.columns
        for role in readers_of(policy, contract)
        if policy.mask_of(role, name, column).kind == "token"
    }
    for number, column_name in enumerate(columns):
        if column_name in tokens:
            role, raw = tokens[column_name]
            table = f"tokens_{role}_{policy.domain_of[raw]}"
            joins.append(f" left join {table} t{number} on t{number}.raw = s.{quoted(raw)}")
            expression = f"t{number}.token"
        elif column_name in contract.column_names:
            expression = f"s.{quoted(column_name)}"
        elif name in VARIANTS and column_name == VARIANTS[name][0]:
            pairs = ", ".join(f"{literal(c)}, s.{quoted(c)}" for c in gathered(policy, contract))
            expression = f"json_object({pairs})::varchar"
        else:
            expression = f"s.{quoted(column_name.removesuffix('_of_row'))}"
        expressions.append(f"{expression} as {quoted(column_name)}")
    order = [f"s.{quoted(c)}" for c in contract.order_by if c in contract.column_names]
    return f"select {', '.join(expressions)} from {base}.{contract.qualified_name} s{''.join(joins)}" + (
        f" order by {', '.join(order)}" if order else ""
    )


def _hospital_rows(policy: Policy, base: RoleName) -> str:
    """Which patients, persons and doctors a hospital has seen, as publications decide it."""
    facts = [
        contract.qualified_name
        for contract in policy.tables_of(base)
        if contract.layer == "facts" and {"hospital_key", "patient_key"} <= set(contract.column_names)
    ]
    patients = " union ".join(f"select hospital_key, patient_key from {base}.{name}" for name in facts)
    return (
        f"with p as ({patients}) "
        "select 'patient_key' as kind, hospital_key, patient_key as row_key from p union all "
        "select distinct 'patient_durable_key', p.hospital_key, d.patient_durable_key from p "
        f"join {base}.dimensions.dim_patient d using (patient_key) union all "
        "select 'doctor_key', hospital_key, doctor_key "
        f"from {base}.dimensions.dim_doctor"
    )
