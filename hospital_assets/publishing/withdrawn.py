"""What today's policy no longer allows: audiences that it does not make, and versions that show more than it does.

A version keeps what the policy of its day let it hold. It is read for as long as the policy of today would let it
hold that, too: the same tables, rows and columns, under the same masks or ones that show less.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from hospital_assets.contracts import Contract
from hospital_assets.publishing.audience import check_audience
from hospital_assets.publishing.masks import shows_no_more
from hospital_assets.publishing.policy import DROP, Policy, PolicyError, RoleName, Rounded, parse_mask


def protection(policy: Policy, role: RoleName, contract: Contract) -> list[str]:
    """What is done to a table for a role besides its masks, each in words that change with it; for the manifest."""
    rules, cells = policy.roles[role], policy.small_cells
    masks = [policy.mask_of(role, contract.name, column) for column in contract.columns]
    found = {
        f"categories of {mask.argument}: {_digest(policy.maps[mask.argument])}"
        for mask in masks
        if mask.kind == "category_map"
    }
    if rules.surrogates == "random" and any(mask.kind == "token" for mask in masks):
        found.add("tokens are drawn by lot")
    how = cells.suppress.get(contract.name) or cells.rounded.get(contract.name)
    if rules.small_cells == "protect" and how is not None:
        rates = cells.metrics if isinstance(how, Rounded) and how.sum_of == "rates" else {}
        said = [cells.threshold, cells.base, how.model_dump(mode="json"), rates]
        found.add(f"few patients are protected: {_digest(said)}")
    return sorted(found)


def why_withdrawn(policy: Policy, manifest: Mapping[str, Any]) -> str:
    """Why a version may not be read any more; empty where today's policy allows all that it holds."""
    return next(_reasons(policy, manifest), "")


def _reasons(policy: Policy, manifest: Mapping[str, Any]) -> Iterator[str]:
    role = manifest["role"]
    try:
        check_audience(policy, role, manifest["hospital_id"])
    except PolicyError as error:
        yield str(error)
        return
    allowed = {contract.qualified_name: contract for contract in policy.tables_of(role)}
    for name, table in manifest["tables"].items():
        contract = allowed.get(name)
        if contract is None:
            yield f"it holds {name}, which the policy does not give to '{role}' any more"
            continue
        for column, shown in table["columns"].items():
            stated = contract.column(column) if column in contract.column_names else None
            today = DROP if stated is None else policy.mask_of(role, contract.name, stated)
            if not shows_no_more(parse_mask(shown["mask"]), today):
                yield f"it shows {name}.{column} ({shown['mask']}), which the policy masks today ({today})"
        if set(protection(policy, role, contract)) - {*table.get("protection", ())}:
            yield f"it holds {name} without the protection that the policy gives it today"


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
