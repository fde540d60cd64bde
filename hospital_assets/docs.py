"""Documentation generated from the code, so that it cannot say anything else.

Belongs here: the data dictionary and the list of cleaning rules, as Markdown. `hospital docs`
writes them, `hospital docs --check` and a test fail when they are stale.
"""

from __future__ import annotations

from pathlib import Path

from hospital_assets.assets.cleaned import adt_events, coded, er_visits, masters, patients, vitals
from hospital_assets.assets.cleaned.rules import DUPLICATE, READING_RULES, SUPERSEDED, Rule
from hospital_assets.contracts import CONTRACTS, Column, Contract

_DOCS = Path(__file__).parents[1] / "docs"

_RULES: dict[str, tuple[Rule, ...]] = {
    "every subject": (*READING_RULES, DUPLICATE, SUPERSEDED),
    "hospitals": masters.HOSPITAL_RULES,
    "departments": masters.DEPARTMENT_RULES,
    "doctors": masters.DOCTOR_RULES,
    "doctor_shifts": masters.SHIFT_RULES,
    "patients": patients.RULES,
    "er_visits": er_visits.RULES,
    "vitals": vitals.RULES,
    "adt_events": adt_events.RULES,
    "diagnoses": coded.DIAGNOSIS_RULES,
    "procedures": coded.PROCEDURE_RULES,
}


def documents() -> dict[Path, str]:
    """Every generated document by its path."""
    return {
        _DOCS / "data-dictionary.md": data_dictionary(),
        _DOCS / "cleaning-rules.md": cleaning_rules(),
    }


def data_dictionary() -> str:
    """All tables with their columns, types, units and meaning."""
    parts = [
        "# Data dictionary",
        "",
        "Generated from the contracts by `hospital docs`. Column names carry their unit or kind: "
        "`_at` is a UTC instant, `_local` a wall clock at the hospital, `_key` a surrogate key, "
        "`_id` a natural one.",
    ]
    layer = ""
    for contract in CONTRACTS.values():
        if contract.layer != layer:
            layer = contract.layer
            parts += ["", f"## {layer}"]
        parts += ["", *_table(contract)]
    return "\n".join(parts) + "\n"


def _table(contract: Contract) -> list[str]:
    partitioned = ", partitioned by service_date" if contract.partitioned else ""
    return [
        f"### {contract.qualified_name}",
        "",
        f"{contract.description} Key: {', '.join(contract.key)}{partitioned}.",
        "",
        "| column | type | null | unit | meaning | rules | source |",
        "|---|---|---|---|---|---|---|",
        *(_row(column) for column in contract.columns),
    ]


def _row(column: Column) -> str:
    rules = [str(check.error or check.name) for check in column.checks]
    if column.plausible:
        rules.append("usually {:g} to {:g}".format(*column.plausible))
    if column.references:
        rules.append(f"in {column.references}")
    cells = (
        f"`{column.name}`",
        column.duckdb_type,
        "yes" if column.nullable else "",
        column.unit,
        column.description,
        "; ".join(rules),
        column.source,
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def cleaning_rules() -> str:
    """All cleaning rules by subject."""
    parts = [
        "# Cleaning rules",
        "",
        "Generated from the rules by `hospital docs`. `quarantine` sets a record aside in the "
        "subject's quarantine table, `duplicate` does too as a repetition; `correct` and `flag` "
        "keep it and leave the rule's name in `quality_codes`. Nothing is clamped or invented.",
    ]
    for subject, rules in _RULES.items():
        parts += ["", f"## {subject}", "", "| rule | action | what it says | source |"]
        parts += ["|---|---|---|---|"]
        parts += [f"| `{r.name}` | {r.action} | {r.says} | {r.source} |" for r in rules]
    return "\n".join(parts) + "\n"
