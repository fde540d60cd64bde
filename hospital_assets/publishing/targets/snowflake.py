"""Snowflake, rendered from the policy and the contracts: objects for SnowDDL, a load, a verification.

Base tables hold what the role sees that sees everything, and beside each identifier the tokens that other
roles see instead: the key of pseudonyms never reaches the account. Masking policies choose by
`current_role()`, row access policies show a role of single hospitals the rows of its users' hospitals,
and each role reads secure views in a schema of its own, without the columns its policy drops. Small
cells cannot be protected by a query-time mask, so those KPI tables are copies of the role's publication.

Nothing here talks to Snowflake. `cross_check` looks for references to what does not exist, which
`snowddl validate` does not; what the policies mean is tested on DuckDB; `verify.sql` proves them in
the account.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hospital_assets.contracts import CONTRACTS, Column, Contract
from hospital_assets.publishing.masks import OLDEST_AGE, SMALL_ZIP3
from hospital_assets.publishing.policy import Mask, Policy, PolicyError, RoleName
from hospital_assets.publishing.pseudonyms import TOKEN_SHAPE, SecretKey, make_tokens
from hospital_assets.publishing.publications import current_version, published_folder
from hospital_assets.settings import Settings, replace_text
from hospital_assets.warehouse.dialect import literal, quoted

DATABASE = "hospital"
WAREHOUSE = "hospital_wh"
#: Schema of the policies and of what they look up.
GOVERNANCE = "governance"
LOADER = "loader"
STAGE = "published"
#: Days of Time Travel; more than 1 needs the Enterprise edition, as the policies do.
RETENTION_DAYS = 90
#: Table -> (VARIANT column, class of the columns gathered in it).
VARIANTS: Mapping[str, tuple[str, str]] = {"fact_vitals": ("vitals", "clinical")}
#: Columns that clustering starts with, where a table has them; then arrival or what orders its rows.
_CLUSTER_FIRST = ("hospital_id", "hospital_key")
_CLUSTER_NEXT = ("arrival_at", "measured_at", "segment_start_at", "hour_start_at", "service_date")
#: Column -> how a row is known to belong to a hospital, in the order of preference.
_ROW_KEYS = ("hospital_key", "hospital_id", "patient_key", "patient_durable_key", "doctor_key")

_TYPES: Mapping[str, str] = {
    "BIGINT": "NUMBER(38,0)",
    "INTEGER": "NUMBER(38,0)",
    "SMALLINT": "NUMBER(38,0)",
    "BOOLEAN": "BOOLEAN",
    "DATE": "DATE",
    "DOUBLE": "FLOAT",
    "TIMESTAMP": "TIMESTAMP_NTZ(6)",
    "TIMESTAMPTZ": "TIMESTAMP_LTZ(6)",
    "VARCHAR": "VARCHAR(16777216)",
    "JSON": "VARIANT",
    "VARIANT": "VARIANT",
}


class SnowflakeError(PolicyError):
    """The policy cannot be rendered for Snowflake; the message says what and why."""


@dataclass
class Rendering:
    """What is to be written.

    Attributes:
        files: path below the folder -> content for YAML, or text.
        columns: base table, as `schema.table` -> its columns with their types.
        views: secure view, as `schema.view` -> (base table, its columns).
    """

    files: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    views: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)


def role_name(role: str) -> str:
    """A role as the account knows it; SnowDDL puts its prefix of the environment before it."""
    return f"${{{{ env_prefix }}}}{role.upper()}__B_ROLE"


def render(policy: Policy) -> Rendering:
    """Everything but the data.

    Raises:
        SnowflakeError: no role sees everything, or a role gets a table that role does not get.
    """
    base = base_role(policy)
    made = Rendering()
    root = f"config/{DATABASE}"
    made.files[f"{root}/params.yaml"] = {
        "retention_time": RETENTION_DAYS,
        "comment": "Emergency departments and patient flow, loaded from publications",
    }
    for contract in policy.tables_of(base):
        _render_table(made, policy, contract)
    _render_governance(made, policy)
    for role in policy.roles:
        _render_role(made, policy, role)
    _render_accounts(made, policy)
    made.files["load.sql"] = _load_sql(made, policy)
    made.files["verify.sql"] = _verify_sql(made, policy)
    _add_schemas(made, policy)
    cross_check(made)
    return made


def base_role(policy: Policy) -> RoleName:
    """The role whose publication the base tables are loaded from.

    Raises:
        SnowflakeError: there is none that sees everything.
    """
    found = [role for role in policy.roles if policy.sees_everything(role)]
    if not found:
        raise SnowflakeError(
            "Snowflake masks when it is asked, so its tables need a role that sees everything; no "
            "role of the policy does"
        )
    got = {contract.name for contract in policy.tables_of(found[0])}
    for role in policy.roles:
        more = [c.name for c in policy.tables_of(role) if c.name not in got]
        if more:
            raise SnowflakeError(
                f"'{role}' gets {', '.join(more)}, which '{found[0]}' does not get, so no table would have the rows"
            )
    return found[0]


def write(rendering: Rendering, folder: Path) -> list[Path]:
    """Write a rendering; what was rendered into the folder before goes first.

    Raises:
        SnowflakeError: the folder has something in it that is not ours.
    """
    marker = folder / ".hospital-snowflake"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise SnowflakeError(f"{folder} is not empty and was not rendered by us; take another")
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(marker, "Rendered by `hospital deploy snowflake`; it may be deleted and redone.\n")
    for old in ("config", "data"):
        shutil.rmtree(folder / old, ignore_errors=True)
    written = []
    for name, content in rendering.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else _as_yaml(content)
        replace_text(path, text)
        written.append(path)
    return written


def _as_yaml(content: Any) -> str:
    """YAML with texts of several lines as they read."""
    import yaml

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]
        pass

    Dumper.add_representer(
        str,
        lambda dumper, text: dumper.represent_scalar(
            "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
        ),
    )
    return str(yaml.dump(content, Dumper=Dumper, sort_keys=False, width=1_000, allow_unicode=True))


# Masks


def mask_sql(mask: Mask, kind: str, value: str, maps: Mapping[str, Mapping[str, str]]) -> str:
    """What a column becomes, as Snowflake SQL of the column's own type.

    Args:
        mask: not `token`, which is a column of its own.
        kind: the contract's DuckDB type.
        value: the column, as it is called in the expression.
        maps: of the policy.
    """
    oldest = f"(year(current_date()) - {OLDEST_AGE})"
    match mask.kind:
        case "clear":
            return value
        case "drop" | "null":
            return "null"
        case "year" if kind == "BIGINT":
            return (
                f"case when {value} < 0 then {value} else greatest(floor({value} / 10000), {oldest}) * 10000 + 101 end"
            )
        case "year" if kind == "DATE":
            return f"greatest(date_trunc('year', {value}), date_from_parts({oldest}, 1, 1))"
        case "year":
            return f"date_trunc('year', {value})"
        case "age_cap_90":
            return f"least({value}, {OLDEST_AGE})"
        case "age_band":
            # A policy keeps the column's type: the lower end here, the words in the view.
            return f"least(floor({value} / 10) * 10, {OLDEST_AGE})"
        case "zip3":
            small = ", ".join(literal(area) for area in SMALL_ZIP3)
            return (
                f"case when {value} is null or not regexp_like({value}, '[0-9]{{5}}.*') then null "
                f"when left({value}, 3) in ({small}) then '000' else left({value}, 3) end"
            )
        case "category_map":
            known = maps[mask.argument]
            cases = " ".join(
                f"when {value} = {literal(name)} then {literal(category)}"
                for name, category in known.items()
                if name != "*"
            )
            other = literal(known["*"]) if "*" in known else "null"
            return f"case when {value} is null then null {cases} else {other} end"
        case "json_keys":
            keys = ", ".join(literal(key.strip()) for key in mask.argument.split(","))
            if kind == "VARCHAR":
                return f"to_json(object_pick(parse_json({value}), {keys}))"
            return f"to_variant(object_pick({value}, {keys}))"
        case "round":
            return f"round({value} / {mask.argument}) * {mask.argument}"
        case _:
            raise ValueError(f"{mask.kind} has no expression of its own")


def _holds(column: Column, mask: Mask, maps: Mapping[str, Mapping[str, str]]) -> str:
    """What every value a role sees satisfies, as Snowflake SQL; empty where any may be."""
    name = column.name
    match mask.kind:
        case "null":
            return f"{name} is null"
        case "token" if column.duckdb_type == "VARCHAR":
            return f"regexp_like({name}, {literal(TOKEN_SHAPE.strip('^$'))})"
        case "year" if column.duckdb_type == "BIGINT":
            return f"({name} < 0 or mod({name}, 10000) = 101)"
        case "year":
            return f"{name} = date_trunc('year', {name})"
        case "age_cap_90":
            return f"{name} <= {OLDEST_AGE}"
        case "age_band":
            return f"regexp_like({name}, '[0-9]+-[0-9]+|{OLDEST_AGE}[+]')"
        case "zip3":
            return f"regexp_like({name}, '[0-9]{{3}}')"
        case "category_map":
            allowed = ", ".join(literal(v) for v in sorted(set(maps[mask.argument].values())))
            return f"{name} in ({allowed})"
        case "round":
            return f"mod({name}, {mask.argument}) = 0"
        case _:
            return ""


# Tables


def _is_own_copy(policy: Policy, role: RoleName, contract: Contract) -> bool:
    """Whether a role has a table of its own, because its small cells are protected."""
    return policy.roles[role].small_cells == "protect" and contract.layer == "kpis"


def _readers(policy: Policy, contract: Contract) -> list[RoleName]:
    """Roles that read the base table."""
    return [
        role for role in policy.roles if contract in policy.tables_of(role) and not _is_own_copy(policy, role, contract)
    ]


def token_column(column: str, role: str) -> str:
    """The column with the tokens a role sees in place of a column."""
    return f"{column}_token_{role}"


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


def _needs_rows(policy: Policy, contract: Contract) -> bool:
    return any(policy.roles[role].rows == "own_hospital" for role in _readers(policy, contract))


def _kept(policy: Policy, role: RoleName, contract: Contract) -> list[tuple[Column, Mask]]:
    """The columns a role sees of a table, with their masks."""
    gone: tuple[str, ...] = ()
    if _is_own_copy(policy, role, contract):
        for rules in (policy.small_cells.suppress, policy.small_cells.rounded):
            if contract.name in rules:
                gone = rules[contract.name].drop
    return [
        (column, mask)
        for column in contract.columns
        if (mask := policy.mask_of(role, contract.name, column)).kind != "drop" and column.name not in gone
    ]


def _render_table(made: Rendering, policy: Policy, contract: Contract) -> None:
    """A base table with its policies."""
    readers = _readers(policy, contract)
    columns: dict[str, Any] = {}
    types: dict[str, str] = {}

    def add(name: str, kind: str, comment: str) -> None:
        types[name] = kind
        columns[name] = {"type": kind, "comment": comment}

    masked_columns = []
    for column in contract.columns:
        try:
            kind = _TYPES[column.duckdb_type]
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
    if _needs_rows(policy, contract) and (key := _row_key(contract)):
        if key in hidden:
            # Snowflake takes no column for both kinds of policy: a copy that no view shows.
            column = contract.column(key)
            key = f"{key}_of_row"
            add(key, _TYPES[column.duckdb_type], f"{column.name}, for the row access policy")
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


def gathered(policy: Policy, contract: Contract) -> list[str]:
    """The columns gathered in a table's VARIANT column."""
    _, privacy = VARIANTS[contract.name]
    return [column.name for column in contract.columns if policy.class_of.get((contract.name, column.name)) == privacy]


def _render_governance(made: Rendering, policy: Policy) -> None:
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
        "rows_by_hospital_id": (f"key_of_row = 'all' or key_of_row in (select u.hospital_id from {mine})"),
    }
    for key in ("patient_key", "patient_durable_key", "doctor_key"):
        special = "" if key == "doctor_key" else "key_of_row < 0 or "
        conditions[f"rows_by_{key}"] = (
            f"{special}key_of_row in (select h.row_key from {rows} h "
            f"where h.kind = {literal(key)} and h.hospital_key in (select u.hospital_key from {mine}))"
        )
    for name, condition in conditions.items():
        made.files[f"config/{DATABASE}/{GOVERNANCE}/row_access_policy/{name}.yaml"] = {
            "arguments": {"key_of_row": _TYPES["VARCHAR" if "hospital_id" in name else "BIGINT"]},
            "body": f"current_role() in ({listed})\nor (current_role() in ({scoped}) and ({condition}))",
            "comment": f"All rows for {', '.join(everywhere)}; of their hospitals for {', '.join(own)}",
        }


def _render_role(made: Rendering, policy: Policy, role: RoleName) -> None:
    """A role's secure views, and the tables only it has."""
    for contract in policy.tables_of(role):
        kept = _kept(policy, role, contract)
        if not kept:
            continue
        if _is_own_copy(policy, role, contract):
            schema = f"kpis_{role}"
            types = {column.name: _TYPES[column.duckdb_type] for column, _ in kept}
            made.columns[f"{schema}.{contract.name}"] = types
            made.files[f"config/{DATABASE}/{schema}/table/{contract.name}.yaml"] = {
                "columns": types,
                "retention_time": RETENTION_DAYS,
                "comment": f"{contract.summary} Small cells are protected.",
            }
            selected = {column.name: column.name for column, _ in kept}
        else:
            schema = contract.layer
            selected = {column.name: _shown(column, mask) for column, mask in kept}
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


def _shown(column: Column, mask: Mask) -> str:
    """A column in a view: bands get their words here, since a policy cannot change a type."""
    if mask.kind != "age_band":
        return column.name
    name = column.name
    return (
        f"case when {name} >= {OLDEST_AGE} then '{OLDEST_AGE}+' "
        f"else to_varchar({name}) || '-' || to_varchar({name} + 9) end"
    )


def _render_accounts(made: Rendering, policy: Policy) -> None:
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


def _add_schemas(made: Rendering, policy: Policy) -> None:
    """The schemas that tables and views need; owners of views read the base tables."""
    bases = sorted({place.split(".")[0] for place in made.columns})
    for schema in bases:
        made.files[f"config/{DATABASE}/{schema}/params.yaml"] = {"retention_time": RETENTION_DAYS}
    for role in sorted({place.split(".")[0] for place in made.views}):
        read = sorted({made.views[v][0].split(".")[0] for v in made.views if v.startswith(f"{role}.")})
        made.files[f"config/{DATABASE}/{role}/params.yaml"] = {
            "owner_schema_read": [f"{DATABASE}.{schema}" for schema in read],
            "comment": policy.roles[role].description,  # type: ignore[index]
        }


# The scripts


def _load_sql(made: Rendering, policy: Policy) -> str:
    """PUT and COPY INTO of every table, in one transaction."""
    puts, copies = [], []
    for place, types in made.columns.items():
        if place == f"{GOVERNANCE}.user_hospitals":
            continue
        folder = place.replace(".", "/")
        puts.append(
            f"put file://data/{folder}.parquet @{DATABASE}.{GOVERNANCE}.{STAGE}/{folder}/ "
            "auto_compress = false overwrite = true;"
        )
        values = ", ".join(
            f"parse_json($1:{name}::varchar)" if kind == "VARIANT" else f"$1:{name}::{kind}"
            for name, kind in types.items()
        )
        copies.append(
            f"delete from {DATABASE}.{place};\n"
            f"copy into {DATABASE}.{place} ({', '.join(types)})\n"
            f"  from (select {values}\n"
            f"        from @{DATABASE}.{GOVERNANCE}.{STAGE}/{folder}/)\n"
            f"  file_format = (format_name = '{DATABASE}.{GOVERNANCE}.parquet') force = true;"
        )
    return "\n".join(
        [
            "-- Run from this folder as the loader, after `snowddl apply`:",
            "--   snowsql -r LOADER__B_ROLE -o exit_on_error=true -f load.sql",
            "-- All tables change in one transaction: a statement of a reader sees all old or all new.",
            "-- With a prefix of the environment, put it before the database's and the role's name.",
            f"use warehouse {WAREHOUSE};",
            "alter session set timezone = 'UTC';",
            *puts,
            "begin;",
            *copies,
            "commit;",
            "",
        ]
    )


def _verify_sql(made: Rendering, policy: Policy) -> str:
    """Statements that return no row when masks and rows are as the policy says."""
    lines = [
        "-- Run by a user with every role below, after load.sql. Every statement must return no row;",
        "-- a row says which promise is broken. Not yet run in an account by us.",
        f"use warehouse {WAREHOUSE};",
        f"use database {DATABASE};",
        "use secondary roles none;",
    ]
    for role in policy.roles:
        lines += ["", f"-- {role}", f"use role {role.upper()}__B_ROLE;"]
        for contract in policy.tables_of(role):
            kept = _kept(policy, role, contract)
            if not kept:
                continue
            view = f"{role}.{contract.name}"
            promises = [
                (column.name, mask, holds)
                for column, mask in kept
                if not _is_own_copy(policy, role, contract) and (holds := _holds(column, mask, policy.maps))
            ]
            lines += [
                f"select '{view}.{name} is not {mask}' as broken from {view} where not ({holds}) limit 1;"
                for name, mask, holds in promises
            ]
            hidden = sorted(set(contract.column_names) - set(made.views[view][1]))
            if hidden:
                names = ", ".join(literal(name.upper()) for name in hidden)
                lines.append(
                    f"select '{view}.' || column_name || ' is there' as broken from "
                    f"information_schema.columns where table_schema = {literal(role.upper())} and "
                    f"table_name = {literal(contract.name.upper())} and column_name in ({names});"
                )
            scoped = policy.roles[role].rows == "own_hospital" and _needs_rows(policy, contract)
            if scoped and "hospital_key" in contract.column_names:
                # The role cannot read the table of hospitals; its dimension shows only its own.
                lines.append(
                    f"select '{view} shows another hospital' as broken from {view} where "
                    f"hospital_key > 0 and hospital_key not in (select hospital_key from "
                    f"{role}.dim_hospital) limit 1;"
                )
        if policy.roles[role].rows == "own_hospital":
            lines.append(
                f"select 'more than the hospitals of one user: ' || count(*) as broken from "
                f"{role}.dim_hospital where hospital_key > 0 having count(*) <> 1; "
                "-- for a user of one hospital"
            )
        elif any(not _is_own_copy(policy, role, c) for c in policy.tables_of(role)):
            lines.append(f"select '{role} sees no hospital' as broken from {role}.dim_hospital having count(*) = 0;")
        others = sorted({p.split(".")[0] for p in [*made.columns, *made.views]} - {role})
        for schema in others:
            place = next(p for p in [*made.columns, *made.views] if p.startswith(f"{schema}."))
            lines.append(
                f"execute immediate $$begin let r resultset := (select 1 from {DATABASE}.{place}); "
                f"let t resultset := (select '{role} can read {place}' as broken); "
                "return table(t); exception when other then "
                "let t resultset := (select 1 as broken where false); return table(t); end$$;"
            )
    return "\n".join([*lines, ""])


# References


def cross_check(made: Rendering) -> None:
    """Every reference in a rendering is to something that is rendered, with columns of its types.

    Raises:
        SnowflakeError: all that are not.
    """
    wrong = list(_dangling(made))
    if wrong:
        raise SnowflakeError("\n".join(["the rendering refers to what does not exist:", *wrong]))


def _dangling(made: Rendering) -> Iterator[str]:
    prefix = f"config/{DATABASE}/"
    kinds: dict[tuple[str, str], Any] = {}
    for path, content in made.files.items():
        parts = path.removeprefix(prefix).removesuffix(".yaml").split("/")
        if path.startswith(prefix) and len(parts) == 3:
            kinds[parts[1], f"{parts[0]}.{parts[2]}"] = content
    used: set[tuple[str, str]] = set()
    for (kind, place), content in kinds.items():
        if kind == "table":
            columns = {
                name: stated if isinstance(stated, str) else stated["type"]
                for name, stated in content["columns"].items()
            }
            for name in content.get("cluster_by", []):
                if name not in columns:
                    yield f"  {place}: cluster_by names '{name}', which it has not"
            row_policy = content.get("row_access_policy")
            masked_first = [listed["columns"][0] for listed in content.get("masking_policies", [])]
            bound = [("masking_policy", p) for p in content.get("masking_policies", [])]
            if row_policy:
                bound.append(("row_access_policy", row_policy))
                for name in set(row_policy["columns"]) & set(masked_first):
                    yield f"  {place}: '{name}' has a masking and a row access policy"
            for name in {n for n in masked_first if masked_first.count(n) > 1}:
                yield f"  {place}: '{name}' has two masking policies"
            for policy_kind, bind in bound:
                name = bind["policy_name"].removeprefix(f"{DATABASE}.")
                used.add((policy_kind, name))
                found = kinds.get((policy_kind, name))
                if found is None:
                    yield f"  {place}: there is no {policy_kind} {name}"
                    continue
                unknown = [column for column in bind["columns"] if column not in columns]
                for column in unknown:
                    yield f"  {place}: {name} is to see '{column}', which it has not"
                wanted = [kind.split("(")[0] for kind in found["arguments"].values()]
                given = [columns[c].split("(")[0] for c in bind["columns"] if c in columns]
                if not unknown and wanted != given:
                    yield f"  {place}: {name} takes {wanted}, and is given {given}"
    for kind, place in kinds:
        if kind == "masking_policy" and (kind, place) not in used:
            yield f"  {place}: a masking policy that no column has"
    for view, (source, names) in made.views.items():
        if source not in made.columns:
            yield f"  {view}: there is no table {source}"
        for name in names:
            if name not in made.columns.get(source, {}):
                yield f"  {view}: {source} has no column '{name}'"
    schemas = {place.split(".")[0] for place in [*made.columns, *made.views]}
    for role, granted in made.files["config/business_role.yaml"].items():
        for key in ("schema_read", "schema_write"):
            for name in granted.get(key, []):
                if name.removeprefix(f"{DATABASE}.") not in schemas:
                    yield f"  role {role}: {key} names {name}, which is no schema"
        for name in granted["warehouse_usage"]:
            if name not in made.files["config/warehouse.yaml"]:
                yield f"  role {role}: there is no warehouse {name}"


# The data


def export(
    rendering: Rendering, settings: Settings, policy: Policy, folder: Path, key: Callable[[], SecretKey]
) -> dict[str, int]:
    """Write the Parquet files that load.sql loads, from the publications; returns their rows.

    Args:
        rendering: of the same policy.
        settings: the data directory.
        policy: must be the one the publications were made with.
        folder: where the rendering was written.
        key: gives the key of pseudonyms; asked only when a role has tokens made with it.

    Raises:
        SnowflakeError: a publication was made under another policy.
        PublicationError: something is not published.
    """
    import duckdb

    base = base_role(policy)
    copies = {c.removeprefix("kpis_") for c in _schemas(rendering) if c.startswith("kpis_")}
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


def _schemas(rendering: Rendering) -> set[str]:
    return {place.split(".")[0] for place in rendering.columns}


def _version(settings: Settings, policy: Policy, audience: str) -> Path:
    folder = published_folder(settings.data_dir) / audience
    version = folder / current_version(settings.data_dir, audience)
    manifest = json.loads((version / "manifest.json").read_text(encoding="utf-8"))
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
        for role in _readers(policy, contract)
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
            if contract.column(column_name).duckdb_type in ("VARIANT", "JSON"):
                expression = f"cast({expression} as json)::varchar"
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
