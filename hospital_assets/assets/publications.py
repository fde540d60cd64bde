"""The publications as Dagster assets: one per role; a role of single hospitals publishes each of them.

They depend on the tables they hold and are not part of the builds: `publish` (the job, or
`hospital publish`) makes them from what is stored.
"""

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import dagster as dg

from hospital_assets.access.audit import Event, note_key, system_actor
from hospital_assets.assets.declare import WAREHOUSE_POOL
from hospital_assets.assets.resources import AuditResource, ClockResource
from hospital_assets.publishing.claims import claim_of
from hospital_assets.publishing.policy import Policy, RoleName, load_policy
from hospital_assets.publishing.pseudonyms import SecretKey, load_key
from hospital_assets.publishing.publications import (
    DATABASE,
    FRESH_FOR,
    LeakError,
    Made,
    audiences_of,
    delete_publication,
    publish_all,
    versions,
    withdrawn_audiences,
)
from hospital_assets.settings import Settings
from hospital_assets.warehouse.io_manager import WarehouseResource

GROUP = "publications"
LEAK_CHECK = "nothing_leaks"


def publication_assets(policy: Policy) -> list[dg.AssetsDefinition]:
    """One asset per role.

    Args:
        policy: names the roles and their tables; it is read again when publishing.
    """
    return [_publication(role, policy) for role in policy.roles]


def _publication(role: RoleName, policy: Policy) -> dg.AssetsDefinition:
    rules = policy.roles[role]
    name = f"publication_{role}"
    spec = dg.AssetCheckSpec(
        LEAK_CHECK,
        asset=name,
        description=(
            "No cell shows an identifier this audience may not see, and every masked column keeps "
            "what its mask promises; otherwise the version before stays."
        ),
        blocking=True,
    )

    @dg.asset(
        name=name,
        group_name=GROUP,
        description=f"{rules.description} {claim_of(policy, role).text}",
        owners=["team:data-governance"],
        kinds={"duckdb", "parquet"},
        deps=[contract.name for contract in policy.tables_of(role)],
        check_specs=[spec],
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=FRESH_FOR),
        pool=WAREHOUSE_POOL,
        output_required=False,
    )
    def publication(
        context: dg.AssetExecutionContext, warehouse: WarehouseResource, clock: ClockResource, audit: AuditResource
    ) -> Iterator[Any]:
        settings = clock.settings
        own_policy = load_policy(settings)
        for audience in withdrawn_audiences(settings.data_dir, own_policy):
            deleted = json.dumps({"deleted": versions(settings.data_dir, audience)})
            with audit.before(replace(_event(audience.partition("-")[0], audience), statement=deleted)):
                delete_publication(settings.data_dir, audience)
        opened = warehouse.open_for_reading()
        key = _key_in_use(settings)
        made: list[Made] = []
        leaks: list[LeakError] = []
        outcomes = publish_all(
            opened,
            settings,
            own_policy,
            audiences_of(opened, own_policy, role),
            key=key,
            run_id=context.run.run_id,
            published_at=clock.wall(),
            data_as_of=clock.now(),
            act=lambda made: audit.before(_published(_event(role, made.audience), made)),
        )
        for whose, outcome in outcomes:
            if isinstance(outcome, LeakError):
                leaks.append(outcome)
                audit.record(replace(_event(role, whose.name), outcome="refused", reason=str(outcome)))
            else:
                made.append(outcome)
        if made:
            yield dg.MaterializeResult(metadata=_metadata(made))
        yield dg.AssetCheckResult(
            check_name=LEAK_CHECK,
            passed=not leaks,
            severity=dg.AssetCheckSeverity.ERROR,
            description="; ".join(str(error) for error in leaks) or None,
            metadata={
                "audiences": len(made) + len(leaks),
                "identifiers": max((m.report.identifiers for m in made), default=0),
                "texts": sum(m.report.texts for m in made),
                "findings": sum(len(error.report.findings) for error in leaks),
            },
        )

    return publication


def _event(role: RoleName, audience: str) -> Event:
    return Event(system_actor(), "publish", role, audience=audience)


def _published(event: Event, made: Made) -> Event:
    """What the audit keeps of a publication: what it holds, by which policy, and its hash."""
    manifest = made.manifest
    hashes = {
        "policy_sha256": manifest["policy_sha256"],
        "database_sha256": manifest["files"][DATABASE]["sha256"],
        "key_id": manifest["key_id"],
        "deleted": list(made.deleted),
    }
    return replace(
        event,
        version=made.version,
        statement=json.dumps(hashes),
        objects={name: list(table["columns"]) for name, table in manifest["tables"].items()},
        row_count=sum(manifest["rows"].values()),
    )


def _key_in_use(settings: Settings) -> Callable[[], SecretKey]:
    """Ask for the key when it is first needed, and only then; a key that changed is audited."""

    @functools.cache
    def key() -> SecretKey:
        found = load_key(settings)
        note_key(settings, found.key_id)
        return found

    return key


def _metadata(made: list[Made]) -> dict[str, Any]:
    size = sum(file["bytes"] for m in made for file in m.manifest["files"].values())
    rows = sum(sum(m.manifest["rows"].values()) for m in made)
    return {
        "claim": made[0].manifest["claim"]["text"],
        "audiences": ", ".join(m.audience for m in made),
        "versions": dg.MetadataValue.json({m.audience: m.version for m in made}),
        "deleted_versions": sum(len(m.deleted) for m in made),
        "policy_sha256": made[0].manifest["policy_sha256"],
        "rows": rows,
        "bytes": size,
    }
