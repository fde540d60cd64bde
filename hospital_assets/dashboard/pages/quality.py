"""Data quality: what the checks found, what was quarantined, whether every record is accounted for.

It is not cut from a publication: it shows what the asset `quality_report` has gathered (`reports/quality.json`:
counts, rules and files, no value of a record) and the ledger's copy, cut to what an audience may see: names of files
and counts of the whole network only where every patient may be seen, else one's own hospital, or no count of
few nor what would tell it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import polars as pl

from hospital_assets import charts
from hospital_assets.dashboard.figures import Away, Card, Cell, Column, Drawn, Figure, Page, empty
from hospital_assets.dashboard.pages.shared import plain_table
from hospital_assets.files import StateError, read_state
from hospital_assets.publishing.audience import parse_audience
from hospital_assets.publishing.policy import Policy, SmallCells
from hospital_assets.publishing.small_cells import Line, suppress
from hospital_assets.settings import Settings
from hospital_assets.warehouse.loads import read_ledger_copy

_RUN = "Run the job quality_page (or hospital report quality) to gather it"


@dataclass(frozen=True)
class Sight:
    """What somebody may see of it.

    Attributes:
        hospital_id: only this hospital's records; None for the network's.
        small_cells: how counts of few records are protected; None where all are shown.
    """

    hospital_id: str | None = None
    small_cells: SmallCells | None = None

    @property
    def is_whole(self) -> bool:
        """Whether everything may be seen, names of files, too."""
        return self.hospital_id is None and self.small_cells is None

    @property
    def left_out(self) -> set[str]:
        """Cards and figures of files, of the whole network, or of the parts of what is protected."""
        found: set[str] = set() if self.is_whole else {"balance", "files", "reconciliation", "states", "drift"}
        # The newest day of a feed is that of any hospital.
        found |= {"freshness"} if self.hospital_id else set()
        return found | ({"by-hospital"} if self.small_cells else set())


def sight_of(policy: Policy, audience: str) -> Sight:
    """What an audience may see, by the policy."""
    role, hospital = parse_audience(policy, audience)
    return Sight(hospital, None if policy.roles[role].small_cells == "show" else policy.small_cells)


def cut(found: dict[str, Any], sight: Sight) -> dict[str, Any]:
    """What was gathered, as somebody may see it; `quarantined` is how many records are, None for few."""
    if not found:
        return found
    rows, by_hospital = found.get("quarantine", []), found.get("quarantine_by_hospital", [])
    if sight.hospital_id is not None:
        reasons = {(row["subject"], row["rule"]): row["description"] for row in rows}
        by_hospital = [row for row in by_hospital if row["hospital"] == sight.hospital_id]
        rows = [row | {"description": reasons.get((row["subject"], row["rule"]))} for row in by_hospital]
    quarantined: int | None = sum(row["records"] for row in rows)
    failed = found.get("failed", [])
    if not sight.is_whole:
        rows = _summed(rows)
        failed = [row | {"broken": None, "of": None, "%": None} for row in failed]
    if sight.small_cells is not None:
        rows, quarantined = _protected(rows, sight.small_cells)
    own = {"quarantine": rows, "quarantine_by_hospital": by_hospital, "quarantined": quarantined, "failed": failed}
    return found | own


def _summed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records by feed and rule, without the files."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        at = found.setdefault((row["subject"], row["rule"]), row | {"records": 0, "source_file": None})
        at["records"] += row["records"]
    return list(found.values())


def _protected(rows: list[dict[str, Any]], rules: SmallCells) -> tuple[list[dict[str, Any]], int | None]:
    """Rows and their total, rounded, without the counts that are small or would give a small one away."""
    counts: dict[tuple[int, ...], tuple[int]] = {(at,): (row["records"],) for at, row in enumerate(rows)}
    line, total = Line([*counts], ()), sum(row["records"] for row in rows)
    counts[()] = (total,)
    hidden = suppress(counts, [line], rules.threshold)

    def shown(cell: tuple[int, ...], records: int) -> int | None:
        return None if cell in hidden else round(records / rules.base) * rules.base

    made = [row | {"records": shown((at,), row["records"])} for at, row in enumerate(rows)]
    # In the order of what is shown: another would tell which is larger.
    return sorted(made, key=lambda row: (-(row["records"] or 0), row["subject"], row["rule"])), shown((), total)


def quality(settings: Settings, sight: Sight | None = None) -> Page:
    """Results of checks, quarantined records, and whether every record is accounted for.

    Args:
        sight: what may be seen; None for everything.
    """
    sight = sight or Sight()
    try:
        found = read_state(settings.gathered_quality, _RUN, "as_of")
    except (FileNotFoundError, StateError):
        found = {}
    found = cut(found, sight)
    scores, failed = found.get("scores", []), found.get("failed", [])
    checks = sum(row["checks"] for row in scores)
    passed = sum(row["passed"] for row in scores)
    balance = found.get("reconciliation", [])
    lost = [r for r in balance if r["landed"] != r["cleaned"] + r["quarantined"] + r["duplicates"]]
    quarantined = found.get("quarantined")
    rules = sight.small_cells
    ledger = read_ledger_copy(settings.warehouse_file)
    states = ledger["state"].value_counts().sort("count", "state", descending=[True, False]).to_dicts()
    odd = sum(row["count"] for row in states if row["state"] not in ("ready", "companion", "duplicate"))
    at = f"as of {found['as_of'][:16].replace('T', ' ')} UTC" if found else _RUN
    cards = [
        Card(
            "score",
            "Single checks passed",
            charts.percentage(passed, checks, 2) if checks else "\u2013",
            "%" if checks else "",
            f"{charts.number(passed)} of {charts.number(checks)} that apply, {at}" if checks else at,
        ),
        Card(
            "failed",
            "Rules that failed",
            charts.number(len(failed) if found else None),
            "",
            f"{sum(r['severity'] == 'ERROR' for r in failed)} of severity ERROR" if found else at,
        ),
        Card(
            "quarantined",
            "Records in quarantine",
            charts.number(quarantined),
            "",
            ("in quarantine, with the rule's name" + (f"; rounded to {rules.base}" if rules else "")) if found else at,
        ),
        Card(
            "balance",
            "Feeds that do not balance",
            charts.number(len(lost) if found else None),
            "",
            f"of {len(balance)}: landed = cleaned + quarantined + duplicates" if found else at,
        ),
        Card("files", "Files not loaded", charts.number(odd), "", f"of {charts.number(ledger.height)} landed"),
    ]

    def page(figures: list[Figure]) -> Page:
        kept = [card for card in cards if card.id not in sight.left_out]
        return Page((), kept, [figure for figure in figures if figure.id not in sight.left_out])

    if not found:
        return page([empty("gathered", "Nothing gathered yet", _RUN, 12), _files(states)])
    return page(
        [
            plain_table(
                "scores",
                f"{charts.percentage(passed, checks)} % of single checks pass" if checks else "Score",
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
                "Few records in quarantine"
                if quarantined is None
                else f"{charts.number(quarantined)} records in quarantine",
                "By feed and rule; the records themselves stay in the warehouse",
                _by_rule(found.get("quarantine", [])),
                {"subject": None, "rule": None, "description": None, "records": 0, "files": 0, "for_example": None},
                span=12,
                bar="records",
                note=f"Counts below {rules.threshold} are left out, and others that would tell them; the rest is "
                f"rounded to {rules.base}."
                if rules
                else "",
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
        ]
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
    if not any(row["source_file"] for row in rows):
        # Summed before, without what may not be seen.
        return [{name: value for name, value in row.items() if name != "source_file"} for row in rows]
    return (
        pl.DataFrame(rows)
        .group_by("subject", "rule", "description")
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
        "From the ledger; docs/from-file-to-kpi.md says what each means",
        states,
        {"state": None, "count": 0},
        span=6,
        bar="count",
    )
