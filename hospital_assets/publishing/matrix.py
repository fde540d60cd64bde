"""Who sees what, as a document: generated from the policy, with what becomes of an example value."""

from __future__ import annotations

from datetime import date

from hospital_assets.contracts import Column, Contract
from hospital_assets.publishing.claims import claim_of
from hospital_assets.publishing.masks import masked
from hospital_assets.publishing.policy import Mask, Policy

#: Invented values, so that a mask can be seen at work.
_EXAMPLES: dict[str, str] = {
    "patient_id": "P0012345",
    "visit_id": "V00004711",
    "stay_id": "V00004711",
    "observation_id": "O4711-1",
    "first_name": "Ada",
    "last_name": "Example",
    "birth_date": "1931-05-17",
    "age_at_extract_years": "94",
    "age_years": "94",
    "sex": "female",
    "race": "Asian",
    "ethnicity": "Not Hispanic or Latino",
    "street": "12 Sample Street",
    "city": "Chicago",
    "state": "IL",
    "zip_code": "60601",
    "phone": "555-010-4711",
    "insurer": "Medicare",
    "pre_existing_condition": "HIV",
    "blood_group": "A+",
    "full_name": "Grace Sample",
    "npi": "1234567893",
    "actor": "ann",
    "client": "127.0.0.1",
    "patient_key": "474059571205603025",
    "patient_durable_key": "474059571205603025",
    "person_key": "474059571205603025",
}
_DAY = date(2026, 3, 14)


def who_sees_what(policy: Policy) -> str:
    """The document: a line per role, then every column that is not simply shown to all."""
    roles = list(policy.roles)
    parts = [
        "# Who sees what",
        "",
        "Generated from the policy and the contracts by `hospital docs`. How it works: "
        "[governance.md](governance.md). Values are invented.",
        "",
        "| role | sees | what may be claimed |",
        "|---|---|---|",
    ]
    for role in roles:
        claim = claim_of(policy, role)
        parts.append(f"| {role} | {policy.roles[role].description} | {claim.text} |")
    parts += ["", "## Why not more can be claimed", ""]
    for role in roles:
        because = claim_of(policy, role).because
        shown = "; ".join(
            f"`{reason.split(' ')[0]}` {reason.partition(' ')[2]}" if "." in reason.split(" ")[0] else reason
            for reason in because[:6]
        )
        more = f"; and {len(because) - 6} more" if len(because) > 6 else ""
        parts.append(f"- **{role}**: {shown}{more}.")
    parts += ["", "## Withheld from everybody", ""]
    parts += [f"- `{name}`: {reason}." for name, reason in policy.withheld.items()]
    parts += ["", "## Tables about persons", ""]
    tables = {c.name: c for role in roles for c in policy.tables_of(role)}
    figures = []
    for contract in sorted(tables.values(), key=lambda c: (c.layer, c.name)):
        lines = [line for column in contract.columns if (line := _line(policy, contract, column))]
        if not lines:
            figures.append(contract)
            continue
        parts += [f"### {contract.qualified_name}", ""]
        parts += [f"| column | class | example | {' | '.join(roles)} |", "|---" * (3 + len(roles)) + "|"]
        parts += [*lines, "", "Every other column is shown as it is to who has the table.", ""]
    parts += ["## Tables of figures and of the network", "", f"| table | {' | '.join(roles)} |"]
    parts += ["|---" * (1 + len(roles)) + "|"]
    for contract in figures:
        cells = [_treatment(policy, role, contract) for role in roles]
        parts.append(f"| `{contract.qualified_name}` | {' | '.join(cells)} |")
    return "\n".join(parts) + "\n"


def _line(policy: Policy, contract: Contract, column: Column) -> str:
    """A column's row, or nothing where every role that has the table sees it as it is."""
    found = policy.class_of.get((contract.name, column.name))
    cells = []
    for role in policy.roles:
        if contract not in policy.tables_of(role):
            cells.append("no table")
            continue
        cells.append(_cell(policy, column, policy.mask_of(role, contract.name, column)))
    is_plain = found in (None, "operational", "clinical")
    if is_plain and not any(cell not in ("no table", "as it is") for cell in cells):
        return ""
    example = _EXAMPLES.get(column.name, "")
    return f"| `{column.name}` | {(found or '').replace('_', ' ')} | {example} | {' | '.join(cells)} |"


def _cell(policy: Policy, column: Column, mask: Mask) -> str:
    if mask.kind == "clear":
        return "as it is"
    if mask.kind == "drop":
        return "not there"
    if mask.kind == "token":
        return "token" if column.duckdb_type == "VARCHAR" else "token (number)"
    example = _EXAMPLES.get(column.name)
    if example is None:
        return str(mask)
    return f"{mask}: {_masked_example(policy, column, mask, example)}"


def _masked_example(policy: Policy, column: Column, mask: Mask, example: str) -> str:
    import duckdb

    with duckdb.connect() as connection:
        expression = masked(column, mask, "v", policy.maps, _DAY)
        ((found,),) = connection.execute(
            f"select ({expression})::varchar from (select ?::{column.duckdb_type} as v)", [example]
        ).fetchall()
    return str(found)


def _treatment(policy: Policy, role: str, contract: Contract) -> str:
    name = next(known for known in policy.roles if known == role)
    if contract not in policy.tables_of(name):
        return ""
    cells = policy.small_cells
    if contract.layer != "kpis" or policy.roles[name].small_cells == "show":
        return "shown" if policy.roles[name].rows == "all" else "own hospital"
    if contract.name in cells.suppress:
        return f"counts below {cells.threshold} left out"
    if contract.name in cells.rounded:
        few = f", of fewer than {cells.threshold} visits left out" if cells.rounded[contract.name].visits else ""
        return f"counts rounded to {cells.base}{few}"
    return "shown"
