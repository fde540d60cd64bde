"""Data quality: what the checks found, what was quarantined, whether every record is accounted for.

It is not cut from a publication: it shows what the asset `quality_report` has gathered (`reports/quality.json`:
counts, rules and files, no value of a record) and the ledger's copy.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

import polars as pl

from hospital_assets import charts
from hospital_assets.dashboard.figures import Away, Card, Cell, Column, Drawn, Figure, Page, empty
from hospital_assets.dashboard.pages.shared import plain_table
from hospital_assets.settings import Settings
from hospital_assets.warehouse.loads import read_ledger_copy

_RUN = "Run the job `quality_page` (or `hospital report quality`) to gather it"


def quality(settings: Settings) -> Page:
    """Results of checks, quarantined records, and whether every record is accounted for."""
    try:
        found: dict[str, Any] = json.loads(settings.gathered_quality.read_text("utf-8"))
    except FileNotFoundError:
        found = {}
    scores, failed = found.get("scores", []), found.get("failed", [])
    checks = sum(row["checks"] for row in scores)
    passed = sum(row["passed"] for row in scores)
    balance = found.get("reconciliation", [])
    lost = [r for r in balance if r["landed"] != r["cleaned"] + r["quarantined"] + r["duplicates"]]
    quarantined = sum(row["records"] for row in found.get("quarantine", []))
    ledger = read_ledger_copy(settings.warehouse_file)
    states = ledger["state"].value_counts().sort("count", descending=True).to_dicts()
    odd = sum(row["count"] for row in states if row["state"] not in ("ready", "companion", "duplicate"))
    at = f"as of {found['as_of'][:16].replace('T', ' ')} UTC" if found else _RUN
    cards = [
        Card(
            "score",
            "Single checks passed",
            charts.number(100 * passed / checks, 2) if checks else "\u2013",
            "%" if checks else "",
            f"{charts.number(passed)} of {charts.number(checks)} that apply, {at}" if checks else at,
        ),
        Card(
            "failed",
            "Rules that failed",
            charts.number(len(failed)),
            "",
            f"{sum(r['severity'] == 'ERROR' for r in failed)} of severity ERROR",
        ),
        Card(
            "quarantined",
            "Records in quarantine",
            charts.number(quarantined),
            "",
            "in quarantine, with the rule's name",
        ),
        Card(
            "balance",
            "Feeds that do not balance",
            charts.number(len(lost)),
            "",
            f"of {len(balance)}: landed = cleaned + quarantined + duplicates",
        ),
        Card("files", "Files not loaded", charts.number(odd), "", f"of {charts.number(ledger.height)} landed"),
    ]
    if not found:
        return Page((), cards, [empty("gathered", "Nothing gathered yet", _RUN, 12), _files(states)])
    return Page(
        (),
        cards,
        [
            plain_table(
                "scores",
                f"{charts.number(100 * passed / checks, 1)} % of single checks pass" if checks else "Score",
                "Share of the single checks that passed, by layer and family",
                scores,
                {"layer": None, "family": None, "score_pct": 1, "passed": 0, "checks": 0},
                span=6,
                bar="score_pct",
            ),
            plain_table(
                "reconciliation",
                "Every record is accounted for" if not lost else f"{len(lost)} feeds do not balance",
                "landed = cleaned + quarantined + duplicates, by feed",
                balance,
                {"subject": None, "landed": 0, "cleaned": 0, "quarantined": 0, "duplicates": 0},
                span=6,
            ),
            plain_table(
                "rules",
                f"{len(failed)} rules failed",
                "Rows that broke a rule, as a share of the rows it applies to; a kind links to its check in Dagster",
                [row | {"kind": _in_dagster(settings, row)} for row in failed],
                {
                    "severity": None,
                    "table_name": None,
                    "kind": None,
                    "column_name": None,
                    "rule": None,
                    "broken": 0,
                    "of": 0,
                    "%": 3,
                    "status": None,
                },
                span=12,
            ),
            _over_time(found.get("scores_by_day", [])),
            plain_table(
                "quarantine",
                f"{charts.number(quarantined)} records in quarantine",
                "By feed and rule; the records themselves stay in the warehouse",
                _by_rule(found.get("quarantine", [])),
                {"subject": None, "rule": None, "says": None, "records": 0, "files": 0, "for_example": None},
                span=12,
                bar="records",
            ),
            plain_table(
                "by-hospital",
                "Quarantine by hospital",
                "The hospital named in the record",
                found.get("quarantine_by_hospital", [])[:15],
                {"hospital": None, "subject": None, "rule": None, "records": 0},
                span=6,
                note="The first fifteen; the report has the rest.",
            ),
            _files(states),
            plain_table(
                "drift",
                "Columns that changed",
                "Columns by which a file differs from the other files of its feed",
                found.get("drift", []),
                {"subject": None, "column": None, "verdict": None, "files": 0, "what_to_do": None},
                span=6,
            ),
            plain_table(
                "freshness",
                "Newest day by feed",
                "Local service day of the newest record",
                found.get("freshness", []),
                {"subject": None, "newest_day": None},
                span=6,
            ),
            plain_table(
                "history",
                "History of the checks",
                "Single checks by day and status",
                found.get("history", [])[-40:],
                {"day": None, "status": None, "checks": 0},
                span=12,
            ),
        ],
    )


def _in_dagster(settings: Settings, row: dict[str, Any]) -> Away:
    """A failed rule's kind, as a link to that check of its table."""
    asked = urlencode({"view": "checks", "checkDetail": row["kind"]})
    return Away(row["kind"], f"{settings.dagster_url}/assets/{quote(row['table_name'])}?{asked}")


def _over_time(rows: list[dict[str, Any]]) -> Figure:
    """Each layer's share of passed checks, day by day."""
    title = "Score over time"
    if not rows:
        return empty("score-trend", title, "Nothing gathered yet", 12)
    days = sorted({row["day"] for row in rows})
    shares: dict[str, dict[str, float]] = {}
    for row in rows:
        shares.setdefault(row["layer"], {})[row["day"]] = 100 * row["passed"] / row["checks"]
    worst = min(shares, key=lambda layer: shares[layer][max(shares[layer])])
    newest = shares[worst][max(shares[worst])]
    table: list[list[Cell]] = []
    for layer, by_day in shares.items():
        at = sorted(by_day)
        values = [by_day.get(day) for day in days[-90:]]
        drawn = charts.sparkline(values, limits=(None, None), width=300, height=22)
        table.append(
            [layer, Drawn(drawn) if drawn else "one day so far", by_day[at[-1]], min(by_day.values()), at[0], len(at)]
        )
    return Figure(
        "score-trend",
        f"{title}: {worst} is lowest, {charts.number(newest, 1)} %"
        if newest < 100
        else f"{title}: every layer is at 100 %",
        "Percent of the single checks that passed, by layer and day of checking; each line has its own scale",
        "table",
        (
            Column("Layer"),
            Column("Days, at most 90"),
            Column("Newest %", 2),
            Column("Lowest %", 2),
            Column("Since"),
            Column("Days (n)", 0),
        ),
        table,
        span=12,
        note="" if len(days) > 1 else "A line needs checks from at least two days.",
    )


def _by_rule(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records in quarantine by feed and rule, over all files."""
    if not rows:
        return []
    return (
        pl.DataFrame(rows)
        .group_by("subject", "rule", "says")
        .agg(
            pl.col("records").sum(),
            files=pl.col("source_file").n_unique(),
            for_example=pl.col("source_file").sort_by("records", descending=True).first(),
        )
        .sort("records", "subject", "rule", descending=[True, False, False])
        .to_dicts()
    )


def _files(states: list[dict[str, Any]]) -> Figure:
    return plain_table(
        "states",
        "Landed files by state",
        "From the ledger; `docs/from-file-to-kpi.md` says what each means",
        states,
        {"state": None, "count": 0},
        span=6,
        bar="count",
    )
