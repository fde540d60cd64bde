"""Objects for SnowDDL: tables with their policies, secure views, roles, schemas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hospital_assets.contracts import Contract
from hospital_assets.publishing.policy import Policy, RoleName
from hospital_assets.publishing.targets.snowflake.masks import mask_sql, shown
from hospital_assets.publishing.targets.snowflake.model import (
    DATABASE,
    GOVERNANCE,
    LOADER,
    RETENTION_DAYS,
    STAGE,
    TYPES,
    VARIANTS,
    WAREHOUSE,
    Rendering,
    SnowflakeError,
    gathered,
    is_own_copy,
    kept_columns,
    needs_rows,
    readers_of,
    role_name,
    token_column,
)
from hospital_assets.warehouse.dialect import literal

#: Columns that clustering starts with, where a table has them; then arrival or what orders its rows.
_CLUSTER_FIRST = ("hospital_id", "hospital_key")
_CLUSTER_NEXT = ("arrival_at", "measured_at", "segment_start_at", "hour_start_at", "service_date")
#: Column -> how a row is known to belong to a hospital, in the order of preference.
_ROW_KEYS = ("hospital_key", "hospital_id", "patient_key", "patient_durable_key", "doctor_key")


def render_table(made: Rendering, policy: Policy, contract: Contract) -> None:
    """A base table with its policies."""
    readers = readers_of(policy, contract)
    columns: dict[str, Any] = {}
    types: dict[str, str] = {}

    def add(name: str, kind: str, comment: str) -> None:
        types[name] = kind
        columns[name] = {"type": kind, "comment": comment}

    masked_columns = []
    for column in contract.columns:
        try:
            kind = TYPES[column.duckdb_type]
        except KeyError:
            raise SnowflakeError(
                f"{contract.name}.{column.name} is {column.duckdb_type}, for which no Snowflake type is stated"
            ) from None
        add(column.name, kind, column.description)
        masks = {role: policy.mask_of(role, contract.name, column) for role in readers}
        tokens = []
        for role, mask in masks.items():
            if mask.kind == "token":
                name = token_column(column.name, role)
                tokens.append(name)
                add(name, kind, f"What {role} sees in place of {column.name}")
        # A column without a policy would be open to whoever is granted the table later.
        name = f"{contract.name}__{column.name}"
        if any(mask.kind != "clear" for mask in masks.values()):
            cases = "\n".join(
                f"  when {literal(role_name(role))} then "
                + (
                    token_column(column.name, role)
                    if mask.kind == "token"
                    else mask_sql(mask, column.duckdb_type, "val", policy.maps)
                )
                for role, mask in masks.items()
                if mask.kind not in ("drop", "null")
            )
            made.files[f"config/{DATABASE}/{GOVERNANCE}/masking_policy/{name}.yaml"] = {
                "arguments": {"val": kind, **dict.fromkeys(tokens, kind)},
                "returns": kind,
                "body": f"case current_role()\n{cases}\n  else null\nend",
                "comment": ", ".join(f"{role}: {mask}" for role, mask in masks.items()),
            }
            masked_columns.append({"policy_name": f"{DATABASE}.{GOVERNANCE}.{name}", "columns": [column.name, *tokens]})
    if contract.name in VARIANTS:
        masked_columns += _render_variant(made, policy, contract, readers, add)
    table: dict[str, Any] = {"columns": columns}
    hidden = {listed["columns"][0] for listed in masked_columns}
    if needs_rows(policy, contract) and (key := _row_key(contract)):
        if key in hidden:
            # Snowflake takes no column for both kinds of policy: a copy that no view shows.
            column = contract.column(key)
            key = f"{key}_of_row"
            add(key, TYPES[column.duckdb_type], f"{column.name}, for the row access policy")
        table["row_access_policy"] = {
            "policy_name": f"{DATABASE}.{GOVERNANCE}.{_row_policy(contract)}",
            "columns": [key],
        }
    cluster = [
        *[name for name in _CLUSTER_FIRST if name in types][:1],
        *[name for name in _CLUSTER_NEXT if name in types][:1],
    ]
    if contract.layer != "dimensions" and cluster:
        table["cluster_by"] = cluster
    if masked_columns:
        table["masking_policies"] = masked_columns
    table |= {"retention_time": RETENTION_DAYS, "comment": contract.summary}
    place = f"{contract.layer}.{contract.name}"
    made.columns[place] = types
    made.files[f"config/{DATABASE}/{contract.layer}/table/{contract.name}.yaml"] = table


def _render_variant(
    made: Rendering, policy: Policy, contract: Contract, readers: list[RoleName], add: Callable[[str, str, str], None]
) -> list[dict[str, Any]]:
    """A VARIANT column that gathers others; a role finds in it what it sees in clear."""
    name, _ = VARIANTS[contract.name]
    add(name, "VARIANT", "One object per row of what was measured, for queries by path")
    cases = []
    for role in readers:
        clear = [
            column
            for column in gathered(policy, contract)
            if policy.mask_of(role, contract.name, contract.column(column)).kind == "clear"
        ]
        if clear:
            keys = ", ".join(literal(column) for column in clear)
            cases.append(f"  when {literal(role_name(role))} then to_variant(object_pick(val, {keys}))")
    policy_name = f"{contract.name}__{name}"
    body = "\n".join(["case current_role()", *cases, "  else null", "end"])
    made.files[f"config/{DATABASE}/{GOVERNANCE}/masking_policy/{policy_name}.yaml"] = {
        "arguments": {"val": "VARIANT"},
        "returns": "VARIANT",
        "body": body if cases else "null",
    }
    return [{"policy_name": f"{DATABASE}.{GOVERNANCE}.{policy_name}", "columns": [name]}]


def _row_key(contract: Contract) -> str:
    """The column that says which hospital a row belongs to; empty for shared dimensions.

    Raises:
        SnowflakeError: no column does.
    """
    for name in _ROW_KEYS:
        if name in contract.column_names:
            return name
    if contract.layer == "dimensions":
        return ""
    raise SnowflakeError(f"{contract.name} has no column that says whose its rows are")


def _row_policy(contract: Contract) -> str:
    """The row access policy of a table that has a row key."""
    key = _row_key(contract)
    prefix = "dimension_" if (contract.layer, key) == ("dimensions", "hospital_key") else ""
    return f"{prefix}rows_by_{key}"


def render_governance(made: Rendering, policy: Policy) -> None:
    """What row access policies look up, and the policies."""
    tables = {
        "user_hospitals": {"user_name": "VARCHAR(256)", "hospital_id": "VARCHAR(256)", "hospital_key": "NUMBER(38,0)"},
        "hospital_rows": {"kind": "VARCHAR(64)", "hospital_key": "NUMBER(38,0)", "row_key": "NUMBER(38,0)"},
    }
    comments = {
        "user_hospitals": "Whose rows a user sees; filled by whoever answers for access",
        "hospital_rows": "Patients, persons and doctors a hospital has seen; filled by load.sql",
    }
    for name, columns in tables.items():
        made.columns[f"{GOVERNANCE}.{name}"] = columns
        made.files[f"config/{DATABASE}/{GOVERNANCE}/table/{name}.yaml"] = {
            "columns": columns,
            "comment": comments[name],
        }
    made.files[f"config/{DATABASE}/{GOVERNANCE}/stage/{STAGE}.yaml"] = {
        "file_format": f"{DATABASE}.{GOVERNANCE}.parquet",
        "comment": "What `hospital deploy snowflake` wrote below data/",
    }
    made.files[f"config/{DATABASE}/{GOVERNANCE}/file_format/parquet.yaml"] = {
        "type": "PARQUET",
        "format_options": {"use_logical_type": True, "binary_as_text": False},
    }
    everywhere = [role for role, rules in policy.roles.items() if rules.rows == "all"]
    own = [role for role, rules in policy.roles.items() if rules.rows == "own_hospital"]
    if not own:
        return
    listed = ", ".join(literal(role_name(role)) for role in [*everywhere, LOADER])
    scoped = ", ".join(literal(role_name(role)) for role in own)
    schema = f"${{{{ env_prefix }}}}{DATABASE}.{GOVERNANCE}"
    mine = f"{schema}.user_hospitals u where u.user_name = current_user()"
    rows = f"{schema}.hospital_rows"
    # Special members (keys below 0) are nobody's: every role sees them in a dimension.
    own_keys = f"key_of_row in (select u.hospital_key from {mine})"
    conditions = {
        "rows_by_hospital_key": own_keys,
        "dimension_rows_by_hospital_key": f"key_of_row < 0 or {own_keys}",
        "rows_by_hospital_id": f"key_of_row in (select u.hospital_id from {mine})",
    }
    for key in ("patient_key", "patient_durable_key", "doctor_key"):
        special = "" if key == "doctor_key" else "key_of_row < 0 or "
        conditions[f"rows_by_{key}"] = (
            f"{special}key_of_row in (select h.row_key from {rows} h "
            f"where h.kind = {literal(key)} and h.hospital_key in (select u.hospital_key from {mine}))"
        )
    for name, condition in conditions.items():
        made.files[f"config/{DATABASE}/{GOVERNANCE}/row_access_policy/{name}.yaml"] = {
            "arguments": {"key_of_row": TYPES["VARCHAR" if "hospital_id" in name else "BIGINT"]},
            "body": f"current_role() in ({listed})\nor (current_role() in ({scoped}) and ({condition}))",
            "comment": f"All rows for {', '.join(everywhere)}; of their hospitals for {', '.join(own)}",
        }


def render_role(made: Rendering, policy: Policy, role: RoleName) -> None:
    """A role's secure views, and the tables only it has."""
    for contract in policy.tables_of(role):
        kept = kept_columns(policy, role, contract)
        if not kept:
            continue
        if is_own_copy(policy, role, contract):
            schema = f"kpis_{role}"
            types = {column.name: TYPES[column.duckdb_type] for column, _ in kept}
            made.columns[f"{schema}.{contract.name}"] = types
            made.files[f"config/{DATABASE}/{schema}/table/{contract.name}.yaml"] = {
                "columns": types,
                "retention_time": RETENTION_DAYS,
                "comment": f"{contract.summary} Small cells are protected.",
            }
            selected = {column.name: column.name for column, _ in kept}
        else:
            schema = contract.layer
            selected = {column.name: shown(column, mask) for column, mask in kept}
            variant = VARIANTS.get(contract.name)
            if variant:
                selected[variant[0]] = variant[0]
        lines = ",\n".join(
            f"  {expression}" + ("" if expression == name else f" as {name}") for name, expression in selected.items()
        )
        source = f"{schema}.{contract.name}"
        made.views[f"{role}.{contract.name}"] = (source, tuple(selected))
        made.files[f"config/{DATABASE}/{role}/view/{contract.name}.yaml"] = {
            "is_secure": True,
            "columns": dict.fromkeys(selected),
            "text": f"select\n{lines}\nfrom ${{{{ env_prefix }}}}{DATABASE}.{source}",
            "comment": contract.summary,
        }


def render_accounts(made: Rendering, policy: Policy) -> None:
    """Roles and the warehouse they compute with."""
    made.files["config/warehouse.yaml"] = {
        WAREHOUSE: {
            "size": "XSMALL",
            "auto_suspend": 60,
            "warehouse_params": {"statement_timeout_in_seconds": 300},
            "comment": "Reads and loads of the hospital database",
        }
    }
    roles: dict[str, Any] = {
        role: {"schema_read": [f"{DATABASE}.{role}"], "warehouse_usage": [WAREHOUSE], "comment": rules.description}
        for role, rules in policy.roles.items()
    }
    loaded = sorted({place.split(".")[0] for place in made.columns})
    roles[LOADER] = {
        "schema_read": [f"{DATABASE}.{schema}" for schema in loaded],
        "schema_write": [f"{DATABASE}.{schema}" for schema in loaded],
        "warehouse_usage": [WAREHOUSE],
        "comment": "Runs load.sql; reads nothing that is masked",
    }
    made.files["config/business_role.yaml"] = roles


def add_schemas(made: Rendering, policy: Policy) -> None:
    """The schemas that tables and views need; owners of views read the base tables."""
    bases = sorted({place.split(".")[0] for place in made.columns})
    for schema in bases:
        made.files[f"config/{DATABASE}/{schema}/params.yaml"] = {"retention_time": RETENTION_DAYS}
    for role in sorted({place.split(".")[0] for place in made.views}):
        read = sorted({made.views[v][0].split(".")[0] for v in made.views if v.startswith(f"{role}.")})
        made.files[f"config/{DATABASE}/{role}/params.yaml"] = {
            "owner_schema_read": [f"{DATABASE}.{schema}" for schema in read],
            "comment": policy.roles[role].description,
        }
