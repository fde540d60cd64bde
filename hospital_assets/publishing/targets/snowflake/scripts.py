"""The two scripts that are run in the account: the load and the verification."""

from __future__ import annotations

from hospital_assets.publishing.policy import Policy
from hospital_assets.publishing.targets.snowflake.masks import promise_of
from hospital_assets.publishing.targets.snowflake.model import (
    DATABASE,
    GOVERNANCE,
    STAGE,
    WAREHOUSE,
    Rendering,
    is_own_copy,
    kept_columns,
    needs_rows,
)
from hospital_assets.warehouse.dialect import literal


def load_sql(made: Rendering, policy: Policy) -> str:
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


def verify_sql(made: Rendering, policy: Policy) -> str:
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
            kept = kept_columns(policy, role, contract)
            if not kept:
                continue
            view = f"{role}.{contract.name}"
            promises = [
                (column.name, mask, holds)
                for column, mask in kept
                if not is_own_copy(policy, role, contract) and (holds := promise_of(column, mask, policy.maps))
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
            scoped = policy.roles[role].rows == "own_hospital" and needs_rows(policy, contract)
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
        elif any(not is_own_copy(policy, role, c) for c in policy.tables_of(role)):
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
