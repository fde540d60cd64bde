"""What a rendering is, what its parts are called, and which role reads what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hospital_assets.contracts import Column, Contract
from hospital_assets.publishing.policy import Mask, Policy, PolicyError, RoleName

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
#: DuckDB type -> the type in Snowflake.
TYPES: Mapping[str, str] = {
    "BIGINT": "NUMBER(38,0)",
    "INTEGER": "NUMBER(38,0)",
    "SMALLINT": "NUMBER(38,0)",
    "BOOLEAN": "BOOLEAN",
    "DATE": "DATE",
    "DOUBLE": "FLOAT",
    "TIMESTAMP": "TIMESTAMP_NTZ(6)",
    "TIMESTAMPTZ": "TIMESTAMP_LTZ(6)",
    "VARCHAR": "VARCHAR(16777216)",
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


def is_own_copy(policy: Policy, role: RoleName, contract: Contract) -> bool:
    """Whether a role has a table of its own, because its small cells are protected."""
    return policy.roles[role].small_cells == "protect" and contract.layer == "kpis"


def readers_of(policy: Policy, contract: Contract) -> list[RoleName]:
    """Roles that read the base table."""
    return [
        role for role in policy.roles if contract in policy.tables_of(role) and not is_own_copy(policy, role, contract)
    ]


def token_column(column: str, role: str) -> str:
    """The column with the tokens a role sees in place of a column."""
    return f"{column}_token_{role}"


def needs_rows(policy: Policy, contract: Contract) -> bool:
    """Whether some role reads only its own hospitals' rows of the base table."""
    return any(policy.roles[role].rows == "own_hospital" for role in readers_of(policy, contract))


def kept_columns(policy: Policy, role: RoleName, contract: Contract) -> list[tuple[Column, Mask]]:
    """The columns a role sees of a table, with their masks."""
    gone: tuple[str, ...] = ()
    if is_own_copy(policy, role, contract):
        for rules in (policy.small_cells.suppress, policy.small_cells.rounded):
            if contract.name in rules:
                gone = rules[contract.name].drop
    return [
        (column, mask)
        for column in contract.columns
        if (mask := policy.mask_of(role, contract.name, column)).kind != "drop" and column.name not in gone
    ]


def gathered(policy: Policy, contract: Contract) -> list[str]:
    """The columns gathered in a table's VARIANT column."""
    _, privacy = VARIANTS[contract.name]
    return [column.name for column in contract.columns if policy.class_of.get((contract.name, column.name)) == privacy]
