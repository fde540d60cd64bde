"""Governance: who may see what, what is published, what figures mean, who looked.

It is not cut from a publication alone: it shows the policy, the versions that are kept, the metric catalogue
and the audit.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any

import polars as pl

from hospital_assets import charts
from hospital_assets.access.audit import read_entries
from hospital_assets.access.users import DASHBOARD
from hospital_assets.contracts import CONTRACTS
from hospital_assets.dashboard.figures import Card, Cell, Column, Figure, Page, empty
from hospital_assets.dashboard.mart import Mart, Row
from hospital_assets.dashboard.pages.shared import plain_table
from hospital_assets.publishing.audience import has_audience, parse_audience
from hospital_assets.publishing.policy import Policy, load_policy
from hospital_assets.publishing.publications import (
    current_version,
    moment_of,
    published_audiences,
    published_folder,
    read_manifest,
    versions,
    withdrawn_audiences,
)
from hospital_assets.recovery.snapshots import snapshots
from hospital_assets.settings import Settings


def governance(settings: Settings, mart: Mart, now: datetime) -> Page:
    """Who may see what, what is published, what is kept how long, what figures mean, who looked.

    Args:
        now: the wall clock.
    """
    policy = load_policy(settings)
    _, hospital = parse_audience(policy, mart.audience)
    looks = read_entries(settings)
    published = published_audiences(settings.data_dir)
    if hospital is not None:
        # Who sees one hospital sees its publication and who looked at that.
        looks = looks.filter(pl.col("audience") == mart.audience)
        published = [name for name in published if name == mart.audience]
    audiences = []
    for name in published:
        version = current_version(settings.data_dir, name)
        folder = published_folder(settings.data_dir) / name / version
        manifest = read_manifest(folder, "policy_sha256", "files")
        audiences.append(
            {
                "audience": name,
                "version": version,
                "claim": manifest["claim"]["level"],
                "tables": len(manifest["tables"]),
                "rows": sum(manifest.get("rows", {}).values()),
                "kept": len(versions(settings.data_dir, name)),
                "policy": manifest["policy_sha256"][:12],
                "database_sha256": manifest["files"]["publication.duckdb"]["sha256"][:12],
            }
        )
    roles = list(policy.roles)
    matrix: list[list[Cell]] = []
    for contract in CONTRACTS.values():
        for column in contract.columns:
            found = policy.class_of.get((contract.name, column.name))
            if found in (None, "operational"):
                continue
            masks: list[Cell] = [
                str(policy.mask_of(role, contract.name, column)) if contract in policy.tables_of(role) else "no table"
                for role in roles
            ]
            matrix.append([f"{contract.name}.{column.name}", found, *masks])
    metrics = [
        {
            "name": m.name,
            "table": c.name,
            "unit": m.unit,
            "definition": m.definition,
            "source": m.source,
            "owner": m.owner,
        }
        for c in CONTRACTS.values()
        for m in c.measures
    ]
    # Also what is left of those whose deletion was interrupted.
    withdrawn = withdrawn_audiences(settings.data_dir, policy) if hospital is None else []
    queue = retention_queue(settings, policy, looks, now, sorted({*published, *withdrawn}))
    due = sum(bool(row["is_due"]) for row in queue)
    refused = 0 if looks.is_empty() else looks.filter(pl.col("outcome") == "refused").height
    return Page(
        (),
        [
            Card("audiences", "Audiences", charts.number(len(audiences)), "", "each with its own masked copy"),
            Card(
                "columns",
                "Columns with a mask decided",
                charts.number(len(matrix)),
                "",
                "identifying, clinical or sensitive",
            ),
            Card(
                "looks",
                "Entries in the audit",
                charts.number(looks.height),
                "",
                "views, exports, queries, publications, sign-ins",
            ),
            Card("denied", "Refused", charts.number(refused), "", "pages not for the role, failed sign-ins"),
            Card("due", "Due for deletion", charts.number(due), "", "old versions, erasures that were not finished"),
        ],
        [
            _looked(looks),
            plain_table(
                "publications",
                f"Current publications: {len(audiences)}",
                "Newest version of each audience; hashes are the first twelve digits",
                audiences,
                {
                    "audience": None,
                    "version": None,
                    "claim": None,
                    "tables": 0,
                    "rows": 0,
                    "kept": 0,
                    "policy": None,
                    "database_sha256": None,
                },
                span=12,
            ),
            _kept(queue),
            Figure(
                "masks",
                "Who sees which column, and how",
                "Mask for each role; operational columns are shown in clear and not listed",
                "table",
                (Column("Column"), Column("Class"), *(Column(role.capitalize()) for role in roles)),
                matrix,
                span=12,
            ),
            plain_table(
                "tables",
                "What this publication holds",
                "Tables of the publication this page was made from",
                census(mart),
                {"name": None, "row_count": 0, "column_count": 0},
                span=12,
            ),
            plain_table(
                "metrics",
                f"{len(metrics)} figures, defined",
                "The metric catalogue",
                metrics,
                {"name": None, "unit": None, "definition": None, "source": None, "table": None, "owner": None},
                span=12,
            ),
        ],
    )


def retention_queue(
    settings: Settings, policy: Policy, looks: pl.DataFrame, now: datetime, audiences: Sequence[str]
) -> list[dict[str, Any]]:
    """How long everything is kept by the policy, the items due first; persons are not named.

    Args:
        policy: how long versions and how many snapshots are kept.
        looks: the audit, which says what erasures were begun and finished.
        now: the wall clock.

    Returns:
        rows with what, which, count, since, due, how and is_due.
    """
    queue: list[dict[str, Any]] = []

    def add(what: str, which: str, count: int, since: datetime, due: datetime | str, how: str) -> None:
        is_due = due <= now if isinstance(due, datetime) else due == _AT_ONCE
        queue.append(
            {
                "what": what,
                "which": which,
                "count": count,
                "since": f"{since:%Y-%m-%d %H:%M}",
                "due": f"{due:%Y-%m-%d}" if isinstance(due, datetime) else due,
                "how": how,
                "is_due": is_due,
            }
        )

    days = policy.retention.keep_days
    for audience in audiences:
        if not has_audience(policy, audience):
            how = "deleted by the next publishing: the policy makes it no more"
            if kept := versions(settings.data_dir, audience):
                add("Publication", audience, len(kept), moment_of(kept[0]), _AT_ONCE, how)
            continue
        current = current_version(settings.data_dir, audience)
        by_day: dict[date, list[datetime]] = {}
        for version in versions(settings.data_dir, audience):
            at = moment_of(version)
            if version == current:
                add("Publication", audience, 1, at, "while it counts", "replaced by the next one")
            else:
                by_day.setdefault(at.date(), []).append(at)
        for found in by_day.values():
            add(
                "Old versions",
                audience,
                len(found),
                min(found),
                min(found) + timedelta(days=days),
                f"deleted by the first publishing after {days} days",
            )
    for newer, snapshot in enumerate(reversed(snapshots(settings))):
        left = max(policy.retention.keep_snapshots - newer, 1)
        add(
            "Snapshot",
            snapshot.file.name,
            1,
            snapshot.taken_at,
            "with the next one" if left == 1 else f"after {left} more",
            "deleted by hospital snapshot",
        )
    events = (
        []
        if looks.is_empty()
        else looks.select("action", "statement", "occurred_at", "row_count", "outcome").to_dicts()
    )
    for person in dict.fromkeys(e["statement"] for e in events if e["action"] == "erase"):
        own = [e for e in events if e["action"] == "erase" and e["statement"] == person]
        ended = own[-1]
        is_done = ended["row_count"] is not None and ended["outcome"] == "allowed"
        add(
            "Erasure",
            "a person",
            1,
            own[0]["occurred_at"],
            f"done {ended['occurred_at']:%Y-%m-%d}" if is_done else _AT_ONCE,
            "verified: no longer found anywhere" if is_done else "started but not finished: run hospital erase again",
        )
    if events:
        add("Audit", "all entries", len(events), events[0]["occurred_at"], "never", "append-only, chained")
    return sorted(queue, key=lambda row: (not row["is_due"], not row["due"][:1].isdigit(), row["due"]))


_AT_ONCE = "at once"


def _kept(queue: list[dict[str, Any]]) -> Figure:
    due = sum(bool(row["is_due"]) for row in queue)
    return plain_table(
        "retention",
        f"{due} things are due for deletion" if due else "Nothing is due for deletion",
        "How long everything is kept, by the policy's retention; landed files stay until a person is erased from them",
        queue,
        {"what": None, "which": None, "count": 0, "since": None, "due": None, "how": None},
        span=12,
    )


def _looked(looks: pl.DataFrame) -> Figure:
    title = "Who looked at what"
    if looks.is_empty():
        return empty("audit", title, "Nothing has been audited yet", 12)
    rows = (
        looks.with_columns(
            day=pl.col("occurred_at").dt.date().cast(pl.String),
            # Queries may name a patient: of other clients, what was done is enough here.
            what=pl.when(pl.col("client") == DASHBOARD)
            .then(pl.col("statement").str.split("?").list.first().str.slice(0, 80))
            .otherwise(pl.lit("")),
        )
        .group_by("day", "actor", "role", "action", "outcome", "what", "client")
        .agg(times=pl.len())
        .sort(["day", "times", "actor", "what"], descending=[True, True, False, False])
        .head(60)
        .to_dicts()
    )
    return plain_table(
        "audit",
        title,
        "By day, user and action, for the dashboard also by page; for the log itself: hospital audit",
        rows,
        {
            "day": None,
            "actor": None,
            "role": None,
            "action": None,
            "outcome": None,
            "what": None,
            "client": None,
            "times": 0,
        },
        span=12,
    )


def census(mart: Mart) -> list[Row]:
    """Tables of the publication with their rows and columns."""
    return mart.rows(
        "select schema_name || '.' || table_name as name, estimated_size as row_count, "
        "column_count from duckdb_tables() order by 1"
    )
