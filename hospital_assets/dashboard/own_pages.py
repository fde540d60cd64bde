"""Pages that are not cut from a publication: data quality and governance.

Data quality shows what the asset `quality_report` has gathered (`reports/quality.json`: counts, rules and
files, no value of a record) and the ledger's copy; governance shows the policy, the versions that are
kept, the metric catalogue and who looked at what.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import polars as pl

from hospital_assets.contracts import CONTRACTS
from hospital_assets.dashboard import svg
from hospital_assets.dashboard.audit import CLIENT, accesses
from hospital_assets.dashboard.figures import Card, Cell, Column, Drawn, Figure, Page, empty
from hospital_assets.dashboard.mart import Mart, census
from hospital_assets.settings import Settings
from hospital_assets.warehouse.loads import read_ledger_copy

_RUN = "Run the job `quality_page` (or `hospital report quality`) to gather it"


def quality(settings: Settings) -> Page:
    """What the checks found, what was set aside, whether every record is accounted for."""
    try:
        found: dict[str, Any] = json.loads(settings.gathered_quality.read_text("utf-8"))
    except FileNotFoundError:
        found = {}
    scores, failed = found.get("scores", []), found.get("failed", [])
    checks = sum(row["checks"] for row in scores)
    passed = sum(row["passed"] for row in scores)
    balance = found.get("reconciliation", [])
    lost = [r for r in balance if r["landed"] != r["cleaned"] + r["quarantined"] + r["duplicates"]]
    set_aside = sum(row["records"] for row in found.get("quarantine", []))
    ledger = read_ledger_copy(settings.warehouse_file)
    states = ledger["state"].value_counts().sort("count", descending=True).to_dicts()
    odd = sum(
        row["count"] for row in states if row["state"] not in ("ready", "companion", "duplicate")
    )
    at = f"as of {found['as_of'][:16].replace('T', ' ')} UTC" if found else _RUN
    cards = [
        Card("score", "Single checks passed", svg.number(100 * passed / checks, 2) if checks else "\u2013",
             "%" if checks else "", f"{svg.number(passed)} of {svg.number(checks)} that apply, {at}" if checks else at),
        Card("failed", "Rules that failed", svg.number(len(failed)), "", f"{sum(r['severity'] == 'ERROR' for r in failed)} of severity ERROR"),
        Card("quarantined", "Records set aside", svg.number(set_aside), "", "in quarantine, with the rule's name"),
        Card("balance", "Feeds that do not balance", svg.number(len(lost)), "", f"of {len(balance)}: landed = cleaned + quarantined + duplicates"),
        Card("files", "Files set aside", svg.number(odd), "", f"of {svg.number(ledger.height)} landed"),
    ]  # fmt: skip
    if not found:
        return Page(
            (), cards, [empty("gathered", "Nothing gathered yet", _RUN, 12), _files(states)]
        )
    return Page(
        (), cards,
        [
            _table("scores", f"{svg.number(100 * passed / checks, 1)} % of single checks pass" if checks else "Score",
                   "Share of the single checks that passed, by layer and family", scores,
                   {"layer": None, "family": None, "score_pct": 1, "passed": 0, "checks": 0}, span=6, bar="score_pct"),
            _table("reconciliation", "Every record is accounted for" if not lost else f"{len(lost)} feeds do not balance",
                   "landed = cleaned + quarantined + duplicates, by feed", balance,
                   {"subject": None, "landed": 0, "cleaned": 0, "quarantined": 0, "duplicates": 0}, span=6),
            _table("rules", f"{len(failed)} rules failed", "Rows that broke a rule, of the rows it applies to; the check is in Dagster",
                   failed, {"severity": None, "table_name": None, "kind": None, "column_name": None, "rule": None,
                            "broken": 0, "of": 0, "%": 3, "status": None}, span=12),
            _table("quarantine", f"{svg.number(set_aside)} records in quarantine", "By feed and rule; the records themselves stay in the warehouse",
                   _by_rule(found.get("quarantine", [])), {"subject": None, "rule": None, "says": None, "records": 0, "files": 0,
                                                           "for_example": None}, span=12, bar="records"),
            _table("by-hospital", "Quarantine by hospital", "The hospital that the record states",
                   found.get("quarantine_by_hospital", [])[:15], {"hospital": None, "subject": None, "rule": None, "records": 0}, span=6,
                   note="The first fifteen; the report has the rest."),
            _files(states),
            _table("drift", "Columns that changed", "What each feed's files have that the others have not",
                   found.get("drift", []), {"subject": None, "column": None, "verdict": None, "files": 0, "what_to_do": None}, span=6),
            _table("freshness", "Newest day by feed", "Local service day of the newest record", found.get("freshness", []),
                   {"subject": None, "newest_day": None}, span=6),
            _table("history", "History of the checks", "Single checks by day and status", found.get("history", [])[-40:],
                   {"day": None, "status": None, "single_checks": 0}, span=12),
        ],
    )  # fmt: skip


def _by_rule(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records set aside by feed and rule, over all files."""
    if not rows:
        return []
    return (
        pl.DataFrame(rows)
        .group_by("subject", "rule", "says")
        .agg(
            pl.col("records").sum(), files=pl.col("source_file").n_unique(),
            for_example=pl.col("source_file").sort_by("records", descending=True).first(),
        )
        .sort("records", "subject", "rule", descending=[True, False, False])
        .to_dicts()
    )  # fmt: skip


def _files(states: list[dict[str, Any]]) -> Figure:
    return _table("states", "Landed files by state", "From the ledger; `docs/from-file-to-kpi.md` says what each means", states,
                  {"state": None, "count": 0}, span=6, bar="count")  # fmt: skip


def _table(figure_id: str, title: str, subtitle: str, rows: Sequence[dict[str, Any]], columns: dict[str, int | None],
           span: int, bar: str = "", note: str = "") -> Figure:  # fmt: skip
    if not rows:
        return empty(figure_id, title, "Nothing", span)
    kept = {name: digits for name, digits in columns.items() if name in rows[0]}
    most = max((row[bar] or 0 for row in rows), default=1) or 1 if bar else 1
    shown: list[list[Cell]] = []
    for row in rows:
        cells: list[Cell] = [row[name] for name in kept]
        if bar:
            cells.insert(list(kept).index(bar), Drawn(svg.bar((row[bar] or 0) / most)))
        shown.append(cells)
    heads = [Column(name.replace("_", " ").capitalize(), digits) for name, digits in kept.items()]
    if bar:
        heads.insert(list(kept).index(bar), Column("", is_wide=True))
    return Figure(figure_id, title, subtitle, "table", tuple(heads), shown, span=span, note=note)


def governance(settings: Settings, mart: Mart) -> Page:
    """Who may see what, what is published, what figures mean, who looked."""
    from hospital_assets.governance.policy import load_policy
    from hospital_assets.governance.publications import (
        current_version,
        published_audiences,
        published_folder,
        versions,
    )

    policy = load_policy(settings)
    audiences = []
    for name in published_audiences(settings.data_dir):
        version = current_version(settings.data_dir, name)
        manifest = json.loads(
            (published_folder(settings.data_dir) / name / version / "manifest.json").read_text(
                "utf-8"
            )
        )
        audiences.append({
            "audience": name, "version": version, "claim": manifest["claim"]["level"],
            "tables": len(manifest["tables"]), "rows": sum(manifest.get("rows", {}).values()),
            "kept": len(versions(settings.data_dir, name)), "policy": manifest["policy_sha256"][:12],
            "database_sha256": manifest["files"]["publication.duckdb"]["sha256"][:12],
        })  # fmt: skip
    roles = list(policy.roles)
    matrix: list[list[Cell]] = []
    for contract in CONTRACTS.values():
        for column in contract.columns:
            found = policy.class_of.get((contract.name, column.name))
            if found in (None, "operational"):
                continue
            masks: list[Cell] = [
                str(policy.mask_of(role, contract.name, column))
                if contract in policy.tables_of(role) else "no table"
                for role in roles
            ]  # fmt: skip
            matrix.append([f"{contract.name}.{column.name}", found, *masks])
    metrics = [
        {"name": m.name, "table": c.name, "unit": m.unit, "definition": m.definition, "source": m.source, "owner": m.owner}
        for c in CONTRACTS.values() for m in c.measures
    ]  # fmt: skip
    looks = accesses(settings)
    refused = 0 if looks.is_empty() else looks.filter(pl.col("outcome") == "refused").height
    return Page(
        (),
        [
            Card("audiences", "Audiences", svg.number(len(audiences)), "", "each with its own masked copy"),
            Card("columns", "Columns with a mask decided", svg.number(len(matrix)), "", "identifying, clinical or sensitive"),
            Card("looks", "Entries in the audit", svg.number(looks.height), "", "views, exports, queries, publications, sign-ins"),
            Card("denied", "Refused", svg.number(refused), "",
                 "pages not for the role, failed sign-ins"),
        ],
        [
            _looked(looks),
            _table("publications", f"{len(audiences)} publications count", "Newest version of each audience; hashes are the first twelve digits",
                   audiences, {"audience": None, "version": None, "claim": None, "tables": 0, "rows": 0, "kept": 0, "policy": None,
                               "database_sha256": None}, span=12),
            Figure("masks", "Who sees which column, and how", "Mask of each role; operational columns are clear and not listed", "table",
                   (Column("Column"), Column("Class"), *(Column(role.capitalize()) for role in roles)), matrix, span=12),
            _table("tables", "What this publication holds", "Tables of the publication this page was made from", census(mart),
                   {"name": None, "row_count": 0, "column_count": 0}, span=12),
            _table("metrics", f"{len(metrics)} figures, defined", "The metric catalogue", metrics,
                   {"name": None, "unit": None, "definition": None, "source": None, "table": None, "owner": None}, span=12),
        ],
    )  # fmt: skip


def _looked(looks: pl.DataFrame) -> Figure:
    title = "Who looked at what"
    if looks.is_empty():
        return empty("audit", title, "Nothing was audited yet", 12)
    rows = (
        looks.with_columns(
            day=pl.col("occurred_at").dt.date().cast(pl.String),
            # Queries may name a patient: of other clients, what was done is enough here.
            what=pl.when(pl.col("client") == CLIENT)
            .then(pl.col("statement").str.split("?").list.first().str.slice(0, 80))
            .otherwise(pl.lit("")),
        )
        .group_by("day", "actor", "role", "action", "outcome", "what", "client")
        .agg(times=pl.len())
        .sort(["day", "times", "actor", "what"], descending=[True, True, False, False])
        .head(60)
        .to_dicts()
    )
    return _table("audit", title, "By day, account and action, of the dashboard by page; the log itself: hospital audit", rows,
                  {"day": None, "actor": None, "role": None, "action": None, "outcome": None, "what": None, "client": None,
                   "times": 0}, span=12)  # fmt: skip
