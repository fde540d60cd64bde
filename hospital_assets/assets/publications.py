"""The publications as Dagster assets: one per role; a role of single hospitals publishes each of them.

They depend on the tables they hold and are not part of the builds: `publish` (the job, or
`hospital publish`) makes them from what is stored.
"""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import dagster as dg

from hospital_assets.access.audit import Event, note_key, system_actor
from hospital_assets.assets.declare import WAREHOUSE_POOL
from hospital_assets.assets.resources import AuditResource, ClockResource
from hospital_assets.publishing.audience import Audience
from hospital_assets.publishing.claims import claim_of
from hospital_assets.publishing.policy import Policy, load_policy
from hospital_assets.publishing.pseudonyms import SecretKey, load_key
from hospital_assets.publishing.publications import (
    DATABASE,
    FRESH_FOR,
    LeakError,
    Made,
    PublicationError,
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


def publications_asset(policy: Policy) -> dg.AssetsDefinition:
    """An asset for each role, made in one step: what several audiences see alike is made once.

    Args:
        policy: names the roles and their tables; it is read again when publishing.
    """
    names = {role: f"publication_{role}" for role in policy.roles}

    @dg.multi_asset(
        name="publications",
        specs=[
            dg.AssetSpec(
                name,
                group_name=GROUP,
                description=f"{policy.roles[role].description} {claim_of(policy, role).text}",
                owners=["team:data-governance"],
                kinds={"duckdb", "parquet"},
                deps=[contract.name for contract in policy.tables_of(role)],
                freshness_policy=dg.FreshnessPolicy.time_window(fail_window=FRESH_FOR),
                skippable=True,
            )
            for role, name in names.items()
        ],
        check_specs=[
            dg.AssetCheckSpec(
                LEAK_CHECK,
                asset=name,
                description=(
                    "No cell shows an identifier this audience may not see, and every masked column keeps "
                    "what its mask promises; otherwise the version before stays."
                ),
                blocking=True,
            )
            for name in names.values()
        ],
        can_subset=True,
        pool=WAREHOUSE_POOL,
    )
    def publications(
        context: dg.AssetExecutionContext, warehouse: WarehouseResource, clock: ClockResource, audit: AuditResource
    ) -> Iterator[Any]:
        settings = clock.settings
        own_policy = load_policy(settings)
        failures: list[Exception] = []
        for audience in withdrawn_audiences(settings.data_dir, own_policy):
            deleted = json.dumps({"deleted": versions(settings.data_dir, audience)})
            try:
                with audit.before(replace(_event(audience), statement=deleted)):
                    delete_publication(settings.data_dir, audience)
            except PublicationError as error:
                failures.append(error)
        opened = warehouse.open_for_reading()
        roles = [role for role, name in names.items() if dg.AssetKey(name) in context.selected_asset_keys]
        audiences: list[Audience] = []
        for role in roles:
            try:
                audiences += audiences_of(opened, own_policy, role)
            except PublicationError as error:
                failures.append(error)
        outcomes = publish_all(
            opened,
            settings,
            own_policy,
            audiences,
            key=_key_in_use(settings),
            run_id=context.run.run_id,
            published_at=clock.wall(),
            data_as_of=clock.now(),
            act=lambda made: audit.before(_published(made)),
        )
        for role in roles:
            of_role = {audience: outcome for audience, outcome in outcomes if audience.role == role}
            made = [outcome for outcome in of_role.values() if isinstance(outcome, Made)]
            leaks = {a.name: outcome for a, outcome in of_role.items() if isinstance(outcome, LeakError)}
            failures += [outcome for outcome in of_role.values() if not isinstance(outcome, Made | LeakError)]
            for audience, leak in leaks.items():
                audit.record(replace(_event(audience), outcome="refused", reason=str(leak)))
            if made:
                yield dg.MaterializeResult(names[role], metadata=_metadata(made))
            if made or leaks:
                yield _checked(names[role], made, list(leaks.values()))
        _raise(failures)

    return publications


def _checked(asset: str, made: list[Made], leaks: list[LeakError]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=asset,
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


def _raise(failures: Sequence[Exception]) -> None:
    """Raise what kept audiences from being published: itself, or all of it as one."""
    said = dict.fromkeys(str(failure) for failure in failures)
    if len(said) > 1:
        raise PublicationError("; ".join(said)) from failures[0]
    if failures:
        raise failures[0]


def _event(audience: str) -> Event:
    return Event(system_actor(), "publish", audience.partition("-")[0], audience=audience)


def _published(made: Made) -> Event:
    """What the audit keeps of a publication: what it holds, by which policy, and its hash."""
    manifest = made.manifest
    hashes = {
        "policy_sha256": manifest["policy_sha256"],
        "database_sha256": manifest["files"][DATABASE]["sha256"],
        "key_id": manifest["key_id"],
        "deleted": list(made.deleted),
    }
    return replace(
        _event(made.audience),
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
