"""The Conditions page: diagnoses, patient groups, returns and readmissions."""

from __future__ import annotations

from hospital_assets import charts
from hospital_assets.charts import number, percentage
from hospital_assets.contracts.table import Measure
from hospital_assets.dashboard.figures import (
    TOO_FEW,
    Column,
    Drawn,
    Figure,
    Page,
    Slicer,
    bars,
    control_charts,
    control_figure,
    empty,
    figure,
    measure_of,
)
from hospital_assets.dashboard.mart import Mart, Row
from hospital_assets.dashboard.pages import conditions_queries as queries
from hospital_assets.dashboard.pages import shared_queries
from hospital_assets.dashboard.pages.shared import (
    BASIS,
    NO_MONTH,
    month_column,
    newest_complete,
    no_visits,
    pyramid,
    visit_days,
)
from hospital_assets.dashboard.slices import Slice
from hospital_assets.measures.thresholds import READMISSION_DAYS, RETURN_HOURS

#: What is watched day by day -> label, groups of dim_condition.
_WATCHED = {
    "respiratory": (
        "Respiratory infections",
        (
            "Influenza",
            "Acute upper respiratory infection",
            "Acute bronchitis and bronchiolitis",
            "Pneumonia",
            "COVID-19",
        ),
    ),
    "sepsis": ("Sepsis", ("Sepsis",)),
    "injury": (
        "Injuries",
        ("Head injury", "Injury of arm and hand", "Injury of leg and foot", "Multiple and unspecified injury"),
    ),
}


def conditions(mart: Mart, where: Slice) -> Page:
    """Diagnoses, patient groups, returns and readmissions."""
    people = shared_queries.equity(mart, where)
    rows = queries.conditions(mart, where)
    measure = measure_of("kpi_conditions")
    ignores: tuple[Slicer, ...] = ("period", "department", "triage")
    figures: list[Figure] = []
    if rows:
        most = max(r["visit_count"] for r in rows)
        trends = queries.condition_trends(mart, where, [(r["icd_version"], r["icd_code"]) for r in rows])
        lines = {
            code: Drawn(charts.sparkline(values, limits=(0, None), width=110, height=20))
            for code, values in trends.items()
        }
        each = "month" if queries.is_by_month(mart) else "week"
        history = len(next(iter(trends.values()), []))
        figures.append(
            Figure(
                "conditions",
                f"Most common: {rows[0]['condition_name'] or rows[0]['icd_code']}",
                "Visits by principal diagnosis, in percent of visits with a diagnosis"
                + (f"; lines: the last {history} {each}s, each on a scale of its own from 0" if trends else ""),
                "table",
                (
                    Column("Condition", is_wide=True),
                    Column("Code"),
                    Column("", is_wide=True),
                    Column("Visits", 0),
                    Column("%", 1),
                    *([Column(f"By {each}")] if trends else []),
                ),
                [
                    [
                        r["condition_name"] or "",
                        r["icd_code"],
                        Drawn(charts.bar(r["visit_count"] / most)),
                        r["visit_count"],
                        r["share_pct"],
                        *([lines[r["icd_version"], r["icd_code"]]] if trends else []),
                    ]
                    for r in rows
                ],
                span=7,
                measure=measure,
                n=rows[0]["coded_visit_count"],
                ignores=ignores,
            )
        )
    else:
        figures.append(empty("conditions", "Commonest conditions", TOO_FEW, 7, measure))
    figures += [
        _groups(mart, where),
        *_surveillance(mart, where),
        pyramid(mart, people.result(), where),
        *(_people(mart, where, name, label) for name, label in (("race", "Race"), ("ethnicity", "Ethnicity"))),
        _equity(mart, people.result(), where),
        _procedures(mart, where),
        _by_month(
            mart,
            "returns",
            f"Back within {RETURN_HOURS} hours",
            queries.returns_by_month(mart, where),
            measure_of("kpi_returns"),
            -(-RETURN_HOURS // 24),
        ),
        _by_month(
            mart,
            "readmissions",
            f"Readmitted within {READMISSION_DAYS} days",
            queries.readmissions_by_month(mart, where),
            measure_of("kpi_readmissions"),
            READMISSION_DAYS,
        ),
    ]
    return Page((), (), figures, BASIS)


def _groups(mart: Mart, where: Slice) -> Figure:
    rows = [r for r in queries.condition_groups(mart, where) if r["visit_count"]]
    measure = measure_of("kpi_condition_groups")
    if not rows:
        return empty("groups", "Groups of conditions", TOO_FEW, 5, measure)
    most = max(r["visit_count"] for r in rows)
    return figure(
        "groups",
        f"Largest group: {rows[0]['condition_group']}",
        "Visits by clinical group of the principal diagnosis",
        rows,
        Column("Group", of="condition_group"),
        bars(lambda r: r["visit_count"] / most),
        Column("Visits", 0, "visit_count"),
        Column("%", 1, "share_pct"),
        span=5,
        measure=measure,
        n=rows[0]["coded_visit_count"],
        ignores=("period", "department", "triage"),
    )


def _surveillance(mart: Mart, where: Slice) -> list[Figure]:
    measure = measure_of("kpi_conditions_daily", "Visits of watched groups")
    watched = queries.surveillance(mart, where, {key: groups for key, (_, groups) in _WATCHED.items()})
    found = control_charts(mart, where, {key: (points, "lower") for key, points in watched.points.items()})
    return [
        control_figure(
            f"{key}-trend",
            label,
            found[key],
            unit="visits a day",
            measure=measure,
            span=4,
            digits=0,
            ignores=("department", "triage"),
            height=200,
        )
        if any(p.value for p in found[key].points)
        else empty(f"{key}-trend", label, "No visits by day of these groups in this publication", 4, measure)
        for key, (label, _) in _WATCHED.items()
    ]


def _people(mart: Mart, where: Slice, characteristic: str, label: str) -> Figure:
    rows = [r for r in shared_queries.demographics(mart, where) if r["characteristic"] == characteristic]
    measure = measure_of("kpi_demographics")
    known = [r for r in rows if r["visit_count"] and r["patient_count"]]
    if not known:
        return empty(characteristic, label, TOO_FEW, 4, measure)
    known.sort(key=lambda r: -r["visit_count"])
    most = max(r["visit_count"] for r in known)
    return figure(
        characteristic,
        f"{label}: {known[0]['category']} {percentage(known[0]['share_of_visits_pct'], 100, 0)} %",
        "Visits, and visits per patient; shares of the population are not in the data",
        known,
        Column(label, of="category"),
        bars(lambda r: r["visit_count"] / most),
        Column("Visits", 0, "visit_count"),
        Column("%", 1, "share_of_visits_pct"),
        Column("Per patient", 2, lambda r: r["visit_count"] / r["patient_count"]),
        span=4,
        measure=measure,
        n=sum(r["visit_count"] for r in known),
        ignores=("period", "department", "triage"),
    )


def _equity(mart: Mart, people: list[Row], where: Slice) -> Figure:
    rows = [r for r in people if r["characteristic"] and r["wait_count"] >= mart.few and r["error"] is not None]
    measure = measure_of("fact_emergency_visits", "Waits by patient group")
    if not rows:
        return no_visits(mart, "equity", "Wait by group of people", measure)
    high = max(r["average"] + 1.96 * r["error"] for r in rows)
    sexes = [r for r in rows if r["characteristic"] == "sex"] or rows
    overall = sum(r["average"] * r["wait_count"] for r in sexes) / sum(r["wait_count"] for r in sexes)
    apart = sum(abs(r["average"] - overall) > 1.96 * r["error"] for r in rows)
    return figure(
        "equity",
        f"Wait by group: {apart} of {len(rows)} differ from the average of {number(overall, 1)} min",
        f"Average minutes and its 95 % interval, not adjusted for triage; {visit_days(where)}",
        rows,
        Column("Group", of="category"),
        Column(
            "95 % interval",
            of=lambda r: Drawn(
                charts.range_mark(
                    max(r["average"] - 1.96 * r["error"], 0) / high, (r["average"] + 1.96 * r["error"]) / high
                )
            ),
            is_wide=True,
        ),
        Column("Average", 1, "average"),
        Column("from", 1, lambda r: r["average"] - 1.96 * r["error"]),
        Column("to", 1, lambda r: r["average"] + 1.96 * r["error"]),
        Column("n", 0, "wait_count"),
        measure=measure,
        n=sum(r["wait_count"] for r in rows if r["characteristic"] == "sex"),
    )


def _procedures(mart: Mart, where: Slice) -> Figure:
    rows = [r for r in queries.procedures(mart, where) if r["procedure_count"]][:12]
    measure = measure_of("kpi_procedures")
    if not rows:
        return empty("procedures", "Procedures", TOO_FEW, 6, measure)
    most = rows[0]["procedure_count"]
    return figure(
        "procedures",
        f"Most common procedure: {rows[0]['procedure_name'] or rows[0]['procedure_code']}",
        "Procedures by code",
        rows,
        Column("Procedure", of=lambda r: r["procedure_name"] or r["procedure_code"]),
        bars(lambda r: r["procedure_count"] / most),
        Column("Count", 0, "procedure_count"),
        Column("%", 1, "share_pct"),
        measure=measure,
        n=sum(r["procedure_count"] for r in rows),
        ignores=("period", "department", "triage"),
        note="The most common; n counts those listed.",
    )


def _by_month(mart: Mart, figure_id: str, label: str, rows: list[Row], measure: Measure, run_out: int) -> Figure:
    known = [r for r in rows if (r["denominator_count"] or 0) >= mart.few and r["value_pct"] is not None]
    if not known:
        return empty(figure_id, label, "No month with enough patients whose time is over", 6, measure)
    most = max(r["value_pct"] for r in known) or 1
    newest = newest_complete(mart, known, run_out)
    return figure(
        figure_id,
        f"{label}: {percentage(newest['value_pct'], 100)} %, {newest['period_month']:%B}"
        if newest
        else f"{label}: {NO_MONTH}",
        measure.definition,
        known,
        month_column(mart, run_out),
        bars(lambda r: r["value_pct"] / most),
        Column("%", 1, "value_pct"),
        Column("Count", 0, "numerator_count"),
        Column("n", 0, "denominator_count"),
        measure=measure,
        n=sum(r["denominator_count"] for r in known),
        ignores=("department", "triage"),
    )
