"""What checks found, for machines and for people: JSON and JUnit for CI, a page for reading and printing.

Pure functions from results to text. Nothing in them names a patient: counts, rules, files and lines.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import polars as pl

from hospital_assets.assets.cleaned.all_rules import RULES
from hospital_assets.checks.findings import newest_results, results_by_day
from hospital_assets.checks.kinds import CONTRACT_KINDS, QUALITY_KINDS
from hospital_assets.contracts import CONTRACTS
from hospital_assets.landing.drift import ADVICE, drifts
from hospital_assets.landing.profile import SUBJECTS
from hospital_assets.warehouse.database import Warehouse

if TYPE_CHECKING:
    from hospital_assets.automation.build import BuildReport


def as_json(report: BuildReport) -> str:
    """The outcome of a run of checks as JSON."""
    said = {
        "first": report.first.isoformat(),
        "last": report.last.isoformat(),
        "seconds": round(report.seconds, 1),
        "passed": sum(check.passed for check in report.checks),
        "errors": len(report.failed_checks),
        "warnings": len(report.warnings),
        "failures": report.failures,
        "checks": [asdict(check) for check in report.checks],
    }
    return json.dumps(said, indent=1) + "\n"


def as_junit(report: BuildReport) -> str:
    """The outcome as JUnit XML: a failed ERROR is a failure, a failed WARN is skipped with its words."""
    suite = ElementTree.Element(
        "testsuite",
        name="hospital check",
        tests=str(len(report.checks)),
        failures=str(len(report.failed_checks)),
        errors=str(len(report.failures)),
        skipped=str(len(report.warnings)),
        time=f"{report.seconds:.1f}",
    )
    for check in report.checks:
        case = ElementTree.SubElement(suite, "testcase", classname=check.table, name=check.name)
        if not check.passed:
            kind = "failure" if check.severity == "ERROR" else "skipped"
            ElementTree.SubElement(case, kind, message=check.description)
    for failure in report.failures:
        case = ElementTree.SubElement(
            suite, "testcase", classname="step", name=failure.split(":")[0]
        )
        ElementTree.SubElement(case, "error", message=failure)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


@dataclass(frozen=True)
class Quality:
    """What the quality page shows; counts and names only.

    Attributes:
        results: every single check as last evaluated.
        history: day, status, single checks: how the suite stood over time.
        quarantine: subject, source_file, rule, says, records: what was set aside, where and why.
        examples: subject, source_file, source_line, rule: where to look, not what it says.
        files: source_profile, subject, state, problem, files.
        freshness: subject, newest service day.
        drift: columns that changed.
        reconciliation: subject, landed, cleaned, quarantined, duplicates.
        as_of: the hospital's time.
    """

    results: pl.DataFrame
    history: pl.DataFrame
    quarantine: pl.DataFrame
    examples: pl.DataFrame
    files: pl.DataFrame
    freshness: pl.DataFrame
    drift: pl.DataFrame
    reconciliation: pl.DataFrame
    as_of: datetime


def gather(warehouse: Warehouse, as_of: datetime) -> Quality:
    """Collect what the page shows from the warehouse."""
    connection = warehouse.connection

    def rows(query: str) -> pl.DataFrame:
        found: pl.DataFrame = connection.sql(query).pl()
        return found

    aside = " union all ".join(
        f"select '{subject}' as subject, source_file, source_line, rule, is_duplicate "
        f"from cleaned.quarantine_{subject}"
        for subject in SUBJECTS
    )
    landed = " union all ".join(
        f"select '{subject}' as subject, (select count(*) from raw.raw_{subject}) as landed, "
        f"(select count(*) from cleaned.cleaned_{subject}) as cleaned, "
        f"(select count(*) from cleaned.quarantine_{subject} where not is_duplicate) as quarantined, "
        f"(select count(*) from cleaned.quarantine_{subject} where is_duplicate) as duplicates"
        for subject in SUBJECTS
    )
    says = pl.DataFrame(
        [(subject, rule.name, rule.says) for subject, rules in RULES.items() for rule in rules],
        schema=["_of", "rule", "says"], orient="row",
    )  # fmt: skip
    ledger: pl.DataFrame = (
        warehouse.read(CONTRACTS["raw_landed_files"]).collect("polars").to_native()
    )
    set_aside = rows(f"select * exclude (is_duplicate) from ({aside}) where not is_duplicate")
    found = drifts(ledger)
    return Quality(
        results=newest_results(warehouse),
        history=results_by_day(warehouse),
        quarantine=(
            set_aside.group_by("subject", "source_file", "rule")
            .agg(pl.len().alias("records"))
            .join(says.unique("rule").drop("_of"), on="rule", how="left")
            .sort("records", descending=True)
            .select("subject", "source_file", "rule", "says", "records")
        ),
        examples=set_aside.group_by("subject", "rule").head(3).sort("subject", "rule"),
        files=ledger.group_by("source_profile", "subject", "state", "problem")
        .agg(pl.col("source_file").n_unique().alias("files"), pl.col("source_file").min())
        .sort("source_profile", "subject", "state", "source_file"),
        freshness=ledger.group_by("subject")
        .agg(pl.col("service_dates").explode().max().alias("newest_day"))
        .drop_nulls()
        .sort("subject"),
        drift=pl.DataFrame(
            [
                (d.subject, d.column, d.verdict, d.files, d.first_file, ADVICE[d.verdict])
                for d in found
            ],
            schema=["subject", "column", "verdict", "files", "first_file", "what_to_do"],
            orient="row",
        ),
        reconciliation=rows(landed),
        as_of=as_of,
    )


_STYLE = """
@page { size: A4; margin: 15mm } body { font: 10pt/1.4 system-ui, sans-serif; color: #1c2733;
max-width: 190mm; margin: 0 auto; padding: 1em } h1 { font-size: 16pt; margin: 0 }
h2 { font-size: 12pt; margin: 1.4em 0 .3em; break-after: avoid } p { margin: .2em 0 .6em }
table { border-collapse: collapse; width: 100%; font-size: 8.5pt } tr { break-inside: avoid }
th { text-align: left; border-bottom: 1.5px solid #1c2733 } td, th { padding: 2px 6px;
vertical-align: top; overflow-wrap: break-word } td { border-bottom: 1px solid #d8dee5 }
td.s { white-space: nowrap } th.n, td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.bad { color: #a4161a; font-weight: 600 } .good { color: #1b6b3a } .muted { color: #5c6b7a }
"""


def as_page(quality: Quality) -> str:
    """The quality page: self-contained HTML that prints on A4."""
    results = quality.results
    evaluated = results.filter(pl.col("status").is_in(["Passed", "Failed", "Error"]))
    layers = {name: contract.layer for name, contract in CONTRACTS.items()}
    scores = (
        evaluated.with_columns(
            layer=pl.col("table_name").replace_strict(layers, default="other"),
            _good=pl.col("status") == "Passed",
        )
        .group_by("layer", "family")
        .agg(checks=pl.len(), passed=pl.col("_good").sum())
        .with_columns(score_pct=(100.0 * pl.col("passed") / pl.col("checks")).round(2))
        .sort("layer", "family")
    )
    severities = {kind.name: kind.severity.value for kind in (*CONTRACT_KINDS, *QUALITY_KINDS)}
    bad = (
        results.filter(pl.col("status").is_in(["Failed", "Error"]))
        .with_columns(severity=pl.col("kind").replace_strict(severities, default="WARN"))
        .sort("severity", "family", "kind", "table_name", descending=[False, True, False, False])
        .select(
            "severity", "table_name", "kind", "column_name", "rule",
            pl.col("violated_count").alias("broken"), pl.col("denominator_count").alias("of"),
            pl.col("violated_pct").round(3).alias("%"), pl.col("threshold_pct").alias("limit_%"),
            "status",
        )
    )  # fmt: skip
    passed = evaluated.filter(pl.col("status") == "Passed").height
    verdict = (
        f'<p class="good">All {passed:,} single checks that apply passed.</p>'
        if bad.is_empty()
        else f'<p class="bad">{bad.height:,} of {evaluated.height:,} single checks failed.</p>'
    )
    set_aside = quality.files.filter(
        ~pl.col("state").is_in(["ready", "companion", "duplicate"])
    ).select("source_file", "subject", "state", "files", "problem")
    sections = [
        ("Score by layer and family", "Share of the single checks that passed.", scores),
        ("Rules that failed", "Rows that broke the rule, of the rows it applies to.", bad),
        ("Files that were set aside", "What is wrong and what to do.", set_aside),
        ("Columns that changed", "", quality.drift),
        ("Records in quarantine", "By file and rule; the record itself stays in the warehouse.",
         quality.quarantine.head(60)),
        ("Where to look", "Up to three lines for each rule.", quality.examples),
        ("Reconciliation", "landed = cleaned + quarantined + duplicates.",
         quality.reconciliation),
        ("Freshness", f"As of {quality.as_of:%Y-%m-%d %H:%M} UTC.", quality.freshness),
        ("History", "Single checks by day and status.",
         quality.history.tail(60)),
    ]  # fmt: skip
    body = "".join(
        f"<h2>{escape(title)}</h2><p class=muted>{escape(says)}</p>{_table(frame)}"
        for title, says, frame in sections
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Data quality</title>'
        f"<style>{_STYLE}</style><h1>Data quality</h1>"
        f"<p class=muted>As of {quality.as_of:%Y-%m-%d %H:%M} UTC. No value of a record is shown "
        f"here: files and lines say where to look.</p>{verdict}{body}</html>\n"
    )


def _table(frame: pl.DataFrame) -> str:
    if frame.is_empty():
        return "<p class=good>Nothing.</p>"
    head = "".join(
        f"<th{' class=n' if dtype.is_numeric() else ''}>{escape(name.replace('_', ' '))}</th>"
        for name, dtype in frame.schema.items()
    )
    body = "".join(
        "<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in frame.iter_rows()
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: object) -> str:
    if value is None:
        return "<td></td>"
    if isinstance(value, bool):
        return f"<td>{'yes' if value else 'no'}</td>"
    if isinstance(value, int):
        return f"<td class=n>{value:,}</td>"
    if isinstance(value, float):
        return f"<td class=n>{value:,.7g}</td>"
    # Long names may break where their words end.
    text = escape(str(value)).replace("_", "_<wbr>").replace("/", "/<wbr>")
    if value in ("Failed", "Error", "blocked"):
        return f'<td class="s bad">{text}</td>'
    return f"<td>{text}</td>"
