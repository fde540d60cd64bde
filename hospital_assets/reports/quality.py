"""The quality page: what the checks found, what was quarantined, what changed, what is late.

Counts, rules, files and lines only; no value of a record is shown.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from html import escape

import dagster as dg
import polars as pl

from hospital_assets.assets.cleaned.subjects import RULES
from hospital_assets.assets.declare import WAREHOUSE_POOL
from hospital_assets.assets.resources import ClockResource
from hospital_assets.checks.findings import newest_results, results_by_day, scores_by_day
from hospital_assets.checks.kinds import KINDS
from hospital_assets.checks.table_checks import every_kind
from hospital_assets.contracts import CONTRACTS
from hospital_assets.landing.drift import drifts
from hospital_assets.landing.profile import SUBJECTS, canonical_columns
from hospital_assets.landing.registry import Profiles
from hospital_assets.reports.folder import ReportsResource
from hospital_assets.warehouse.database import Warehouse
from hospital_assets.warehouse.io_manager import WarehouseResource


@dg.asset(
    group_name="reports",
    owners=["team:data-engineering"],
    kinds={"html"},
    deps=["raw_landed_files", *(f"quarantine_{subject}" for subject in SUBJECTS)],
    pool=WAREHOUSE_POOL,
)
def quality_report(
    warehouse: WarehouseResource, clock: ClockResource, profiles: dg.ResourceParam[Profiles], reports: ReportsResource
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """The data quality page, as one file that opens from disk and prints on A4.

    Scores by layer, rules that failed, quarantine by reason and hospital, files and columns that were odd,
    freshness, reconciliation, history: as the newest checks found them.
    """
    quality = gather(warehouse.open(), profiles, clock.now())
    page = as_page(quality)
    path = reports.write("quality.html", page)
    reports.write("quality.json", as_json(quality))
    statuses = dict(quality.results["status"].value_counts().iter_rows())
    return dg.MaterializeResult(
        metadata={
            "page": dg.MetadataValue.path(path),
            "sha256": hashlib.sha256(page.encode()).hexdigest(),
            "single_checks": quality.results.height,
            "failed": int(statuses.get("Failed", 0) + statuses.get("Error", 0)),
            "quarantined_records": int(quality.quarantine["records"].sum()),
        }
    )


@dataclass(frozen=True)
class Quality:
    """What the quality page shows; counts and names only.

    Attributes:
        results: every single check as last evaluated.
        history: day, status, single checks: how the suite stood over time.
        scores: day, layer, checks, passed: single checks that apply, by layer.
        quarantine: subject, source_file, rule, description, records: what was quarantined, where and why.
        quarantine_by_hospital: hospital, subject, rule, records; a hospital that is none of the
            network's is `not stated or unknown`.
        examples: subject, source_file, source_line, rule: where to look, not what it says.
        files: source_profile, subject, state, problem, files.
        freshness: subject, newest service day.
        drift: columns that changed.
        reconciliation: subject, landed, cleaned, quarantined, duplicates.
    """

    results: pl.DataFrame
    history: pl.DataFrame
    scores: pl.DataFrame
    quarantine: pl.DataFrame
    quarantine_by_hospital: pl.DataFrame
    examples: pl.DataFrame
    files: pl.DataFrame
    freshness: pl.DataFrame
    drift: pl.DataFrame
    reconciliation: pl.DataFrame
    as_of: datetime


def gather(warehouse: Warehouse, profiles: Profiles, as_of: datetime) -> Quality:
    """Collect what the page shows from the warehouse."""
    connection = warehouse.connection

    def rows(query: str) -> pl.DataFrame:
        found: pl.DataFrame = connection.sql(query).pl()
        return found

    quarantined_sql = " union all ".join(
        f"select '{subject}' as subject, source_file, source_line, rule, {_hospital(subject)} as hospital "
        f"from cleaned.quarantine_{subject} q "
        f"join raw.raw_{subject} r using (source_file, source_line, source_part) where not is_duplicate"
        for subject in SUBJECTS
    )
    landed = " union all ".join(
        f"select '{subject}' as subject, (select count(*) from raw.raw_{subject}) as landed, "
        f"(select count(*) from cleaned.cleaned_{subject}) as cleaned, "
        f"(select count(*) from cleaned.quarantine_{subject} where not is_duplicate) as quarantined, "
        f"(select count(*) from cleaned.quarantine_{subject} where is_duplicate) as duplicates"
        for subject in SUBJECTS
    )
    # What breaks a rule of one name is told by its subject: a message needs a patient, a visit too.
    descriptions = pl.DataFrame(
        [
            (subject, rule.name, rule.description)
            for subject in SUBJECTS
            for rule in (*RULES["every subject"], *RULES[subject])
        ],
        schema=["subject", "rule", "description"],
        orient="row",
    ).unique(["subject", "rule"])
    ledger: pl.DataFrame = warehouse.read(CONTRACTS["raw_landed_files"]).collect("polars").to_native()
    quarantined = rows(
        f"select a.* replace (coalesce(h.hospital_id, 'not stated or unknown') as hospital) "
        f"from ({quarantined_sql}) a left join cleaned.cleaned_hospitals h on trim(a.hospital) = h.hospital_id"
    )
    found = drifts(ledger, profiles)
    return Quality(
        results=newest_results(warehouse, every_kind()),
        history=results_by_day(warehouse),
        scores=_with_layer(scores_by_day(warehouse))
        .group_by("day", "layer")
        .agg(pl.col("checks", "passed").sum())
        .sort("day", "layer"),
        quarantine=(
            quarantined.group_by("subject", "source_file", "rule")
            .agg(pl.len().alias("records"))
            .join(descriptions, on=["subject", "rule"], how="left")
            .sort("records", descending=True)
            .select("subject", "source_file", "rule", "description", "records")
        ),
        quarantine_by_hospital=quarantined.group_by("hospital", "subject", "rule")
        .agg(pl.len().alias("records"))
        .sort("hospital", "records", descending=[False, True]),
        examples=quarantined.drop("hospital").group_by("subject", "rule").head(3).sort("subject", "rule"),
        files=ledger.group_by("source_profile", "subject", "state", "problem")
        .agg(pl.col("source_file").n_unique().alias("files"), pl.col("source_file").min())
        .sort("source_profile", "subject", "state", "source_file"),
        freshness=ledger.group_by("subject")
        .agg(pl.col("service_dates").explode().max().alias("newest_day"))
        .drop_nulls()
        .sort("subject"),
        drift=pl.DataFrame([drift.as_row() for drift in found]),
        reconciliation=rows(landed),
        as_of=as_of,
    )


def _hospital(subject: str) -> str:
    """SQL for the hospital that a raw record states."""
    return "r.hospital_id" if "hospital_id" in canonical_columns(subject) else "cast(null as varchar)"


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
    evaluated = _evaluated(quality)
    scores, bad = _scores(quality), _failed(quality)
    passed = evaluated.filter(pl.col("status") == "Passed").height
    verdict = (
        f'<p class="good">All {passed:,} single checks that apply passed.</p>'
        if bad.is_empty()
        else f'<p class="bad">{bad.height:,} of {evaluated.height:,} single checks failed.</p>'
    )
    quarantined = quality.files.filter(~pl.col("state").is_in(["ready", "companion", "duplicate"])).select(
        "source_file", "subject", "state", "files", "problem"
    )
    sections = [
        ("Score by layer and family", "Share of the single checks that passed.", scores),
        ("Rules that failed", "Rows that broke the rule, of the rows it applies to.", bad),
        ("Files that were not loaded", "What is wrong and what to do.", quarantined),
        ("Columns that changed", "", quality.drift),
        (
            "Records in quarantine",
            "By file and rule; the record itself stays in the warehouse.",
            quality.quarantine.head(60),
        ),
        ("Quarantine by hospital", "The hospital that the record states.", quality.quarantine_by_hospital.head(60)),
        ("Where to look", "Up to three lines for each rule.", quality.examples),
        ("Reconciliation", "landed = cleaned + quarantined + duplicates.", quality.reconciliation),
        ("Freshness", f"As of {quality.as_of:%Y-%m-%d %H:%M} UTC.", quality.freshness),
        ("History", "Single checks by day and status.", quality.history.tail(60)),
    ]
    body = "".join(
        f"<h2>{escape(title)}</h2><p class=muted>{escape(description)}</p>{_table(frame)}"
        for title, description, frame in sections
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Data quality</title>'
        f"<style>{_STYLE}</style><h1>Data quality</h1>"
        f"<p class=muted>As of {quality.as_of:%Y-%m-%d %H:%M} UTC. No value of a record is shown "
        f"here: files and lines say where to look.</p>{verdict}{body}</html>\n"
    )


def as_json(quality: Quality) -> str:
    """The same figures for the dashboard."""
    frames = {
        "scores": _scores(quality),
        "checks": _with_severity(quality.results).group_by("severity", "status").agg(checks=pl.len()),
        "failed": _failed(quality),
        "quarantine": quality.quarantine,
        "quarantine_by_hospital": quality.quarantine_by_hospital,
        "drift": quality.drift,
        "reconciliation": quality.reconciliation,
        "freshness": quality.freshness,
        "history": quality.history,
        "scores_by_day": quality.scores,
    }
    found: dict[str, object] = {name: frame.to_dicts() for name, frame in frames.items()}
    return json.dumps({"as_of": quality.as_of.isoformat(), **found}, default=str)


def _evaluated(quality: Quality) -> pl.DataFrame:
    return quality.results.filter(pl.col("status").is_in(["Passed", "Failed", "Error"]))


def _with_layer(frame: pl.DataFrame) -> pl.DataFrame:
    layers = {name: contract.layer for name, contract in CONTRACTS.items()}
    return frame.with_columns(
        layer=pl.col("table_name").replace_strict(layers, default="other", return_dtype=pl.String)
    )


def _with_severity(results: pl.DataFrame) -> pl.DataFrame:
    severities = {kind.name: kind.severity.value for kind in KINDS}
    return results.with_columns(severity=pl.col("kind").replace_strict(severities, default="WARN"))


def _scores(quality: Quality) -> pl.DataFrame:
    """Share of the single checks that passed, by layer and family."""
    evaluated = _evaluated(quality)
    return (
        _with_layer(evaluated)
        .with_columns(_good=pl.col("status") == "Passed")
        .group_by("layer", "family")
        .agg(checks=pl.len(), passed=pl.col("_good").sum())
        .with_columns(score_pct=(100.0 * pl.col("passed") / pl.col("checks")).round(2))
        .sort("layer", "family")
    )


def _failed(quality: Quality) -> pl.DataFrame:
    """Single checks that failed, the gravest first."""
    return (
        _with_severity(quality.results.filter(pl.col("status").is_in(["Failed", "Error"])))
        .sort("severity", "family", "kind", "table_name", descending=[False, True, False, False])
        .select(
            "severity",
            "table_name",
            "kind",
            "column_name",
            "rule",
            pl.col("violated_count").alias("broken"),
            pl.col("denominator_count").alias("of"),
            pl.col("violated_pct").round(3).alias("%"),
            pl.col("threshold_pct").alias("limit_%"),
            "status",
        )
    )


def _table(frame: pl.DataFrame) -> str:
    if frame.is_empty():
        return "<p class=good>Nothing.</p>"
    head = "".join(
        f"<th{' class=n' if dtype.is_numeric() else ''}>{escape(name.replace('_', ' '))}</th>"
        for name, dtype in frame.schema.items()
    )
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in frame.iter_rows())
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
