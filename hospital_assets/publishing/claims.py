"""What may be claimed of a publication: computed from the policy, never typed by anybody.

The safe-harbor rules are those of 45 CFR 164.514(b)(2). A claim says which rules were carried out by
machine; whether data are de-identified under the law is for a person to decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hospital_assets.contracts import Column, Contract
from hospital_assets.contracts.fields import Privacy
from hospital_assets.publishing.policy import Mask, Policy, RoleName

Level = Literal["identified", "pseudonymised", "safe_harbor_rules", "figures"]

_TEXT: dict[Level, str] = {
    "identified": "Identified: protected health information. Handle as the records themselves.",
    "pseudonymised": (
        "Pseudonymised, not de-identified: direct identifiers are gone or tokens, but what is listed "
        "keeps it from the safe-harbor rules. Share under a data use agreement only."
    ),
    "safe_harbor_rules": (
        "The safe-harbor rules (45 CFR 164.514(b)(2)) that a machine can carry out were carried out. "
        "Whether somebody can still be recognised from what is left has to be assessed by a person."
    ),
    "figures": "Figures, no rows about persons.",
}
_TIME_TYPES = ("DATE", "TIMESTAMP", "TIMESTAMPTZ")
#: Without any number of a patient, and yet a row may be about one: who is critical, whom somebody looked for.
_MAY_BE_ABOUT_ONE = ("fact_alerts", "fact_audit_events")
_TIME_KEYS = ("dim_date.date_key", "dim_time.time_key")


@dataclass(frozen=True)
class Claim:
    """What may be claimed of a publication, and why not more.

    Attributes:
        because: what keeps it from the next better level.
    """

    level: Level
    text: str
    because: tuple[str, ...]


def claim_of(policy: Policy, role: RoleName) -> Claim:
    """The claim of a role's publications."""
    shown: list[str] = []
    reasons: list[str] = []
    has_persons = False
    for contract in policy.tables_of(role):
        if not _is_about_persons(policy, contract):
            continue
        has_persons = True
        for column in contract.columns:
            mask = policy.mask_of(role, contract.name, column)
            if mask.kind == "drop":
                continue
            name = f"{contract.name}.{column.name}"
            found = policy.class_of[contract.name, column.name]
            if mask.kind == "clear" and found == "direct_identifier":
                shown.append(f"{name} is shown")
            reasons += [f"{name} {why}" for why in _against_safe_harbor(policy, role, column, found, mask)]
    if shown:
        level: Level = "identified"
    elif reasons:
        level = "pseudonymised"
    elif has_persons:
        level = "safe_harbor_rules"
    else:
        level = "figures"
    because = shown or reasons
    if level == "figures":
        protected = policy.roles[role].small_cells == "protect"
        because = [
            f"counts of 1 to {policy.small_cells.threshold - 1} patients are "
            + ("left out or rounded" if protected else "shown")
        ]
    return Claim(level, _TEXT[level], tuple(because))


def _is_about_persons(policy: Policy, contract: Contract) -> bool:
    """Whether a row of the table is about one patient."""
    return contract.name in _MAY_BE_ABOUT_ONE or any(name in policy.domain_of for name in contract.column_names)


def _against_safe_harbor(policy: Policy, role: RoleName, column: Column, privacy: Privacy, mask: Mask) -> list[str]:
    found = []
    if mask.kind == "token" and policy.roles[role].surrogates == "hmac":
        found.append("is a token derived from an identifier")
    is_time = column.duckdb_type in _TIME_TYPES or column.references in _TIME_KEYS
    if is_time and mask.kind == "clear":
        found.append("is finer than a year")
    if column.name.startswith("age_") and mask.kind in ("clear", "round"):
        found.append("may be above 89")
    if column.name in ("city", "zip_code", "street") and mask.kind == "clear":
        found.append("is smaller than a state")
    if column.name in policy.domain_of and mask.kind == "clear":
        found.append("is an identifier or derived from one")
    if privacy in ("free_text", "direct_identifier") and mask.kind == "clear":
        found.append(f"is shown although it is {privacy.replace('_', ' ')}")
    return found
