"""The Overview page: the state of the department at a glance."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hospital_assets import charts
from hospital_assets.charts import number, percentage
from hospital_assets.contracts.kpis import ALL
from hospital_assets.dashboard.figures import (
    TOO_FEW,
    Card,
    Cell,
    Column,
    Drawn,
    Figure,
    Link,
    Page,
    Slicer,
    against_chance,
    comparison,
    control_charts,
    control_figure,
    empty,
    figure,
    measure_of,
)
from hospital_assets.dashboard.mart import Mart, Row
from hospital_assets.dashboard.pages import overview_queries as queries
from hospital_assets.dashboard.pages import shared_queries
from hospital_assets.dashboard.pages.shared import (
    BASIS,
    WEEKDAYS,
    blood_group,
    doctors,
    doctors_card,
    hour_of_week,
    news,
    pyramid,
    why_none,
)
from hospital_assets.dashboard.pages.today import today
from hospital_assets.dashboard.slices import Slice
from hospital_assets.dashboard.spc import Control
from hospital_assets.measures.triage import CRITICAL_IN_SHORT, CRITICAL_LEVELS


def overview(mart: Mart, where: Slice) -> Page:
    """Visits, waits, triage, departments, hours, people: the state of the department at a glance."""
    people = shared_queries.people(mart, where)
    waits = queries.waits(mart, where)
    on_time = shared_queries.rate(mart, where, "on_time")
    critical = queries.critical(mart, where)
    found = control_charts(
        mart,
        where,
        {
            "visits": (waits.points["visits"], "neither"),
            "average": (waits.points["average"], "lower"),
            "median": (waits.points["median"], "lower"),
            "on_time": (on_time.points["on_time"], "higher"),
            "critical": (critical.points["critical"], "neither"),
        },
    )
    total = waits.total
    before = _before(mart, where)
    triage = queries.visits_by_triage(mart, where)
    measure = measure_of("kpi_waits")
    cards = [
        Card(
            "visits",
            "ED visits",
            number(total["visit_count"]),
            "",
            comparison(total["visit_count"], before["visit_count"] if before else None, where.days, "more", "fewer"),
            against_chance(found["visits"]),
            measure_of("kpi_waits_daily", "Visits by triage level"),
        ),
        _average_card(mart, where, total, before, found["average"]),
        _longest_card(mart, total),
        _on_time_card(mart, where, on_time.total, found["on_time"]),
        doctors_card(shared_queries.active_doctors(mart, where)),
        _critical_card(critical.total["visit_count"], total, found["critical"]),
    ]
    target = mart.known.targets_minutes.get(where.triage)
    figures = [
        control_figure(
            "wait-trend",
            "Median wait",
            found["median"],
            unit="min",
            measure=measure,
            target=target,
            noun="median wait",
            note=""
            if where.grain == "day"
            else f"A {where.grain}'s point is the mean of its daily medians, weighted by their n.",
        ),
        _funnel(mart, triage),
        _departments(mart, where),
        _hours(mart, where),
        _blood(mart, where),
        pyramid(mart, people.result(), where),
        doctors(mart, where),
    ]
    names = {
        "median": "Median wait",
        "on_time": "Seen within target",
        "visits": "ED visits",
        "critical": f"Critical (level {CRITICAL_IN_SHORT})",
        "average": "Average wait",
    }
    return Page(news(found, names), cards, figures, BASIS, today(mart, where))


def _before(mart: Mart, where: Slice) -> Row | None:
    """The same number of days before the slice, if both are over and were delivered whole, by the same hospitals."""
    days = replace(where, first=where.first - timedelta(days=where.days), last=where.first - timedelta(days=1))
    if where.is_whole or where.last > mart.known.complete_until:
        return None
    if not shared_queries.is_covered(mart, replace(where, first=days.first)):
        return None
    return queries.waits_in_total(mart, days)


def _average_card(mart: Mart, where: Slice, total: Row, before: Row | None, control: Control) -> Card:
    n = total["wait_count"] or 0
    measure = measure_of("kpi_waits")
    if n < mart.few or total["wait_average_minutes"] is None:
        return Card("average-wait", "Average wait", "\u2013", "", TOO_FEW, measure=measure)
    kind = "median" if total["is_exact"] else "median of the daily medians"
    detail = f"{kind} {number(total['wait_median_minutes'], 1)} min, n {number(n)}"
    if before and (before["wait_count"] or 0) >= mart.few:
        average = total["wait_average_minutes"], before["wait_average_minutes"]
        change = comparison(*average, where.days, "longer", "shorter", "min")
        detail += f"; {change}" if change else ""
    return Card(
        "average-wait",
        "Average wait",
        number(total["wait_average_minutes"], 1),
        "min",
        detail,
        against_chance(control),
        measure,
    )


def _longest_card(mart: Mart, total: Row) -> Card:
    measure = measure_of("kpi_waits")
    if (total["wait_count"] or 0) < mart.few or total["wait_max_minutes"] is None:
        return Card("longest-wait", "Longest wait", "\u2013", "", TOO_FEW, measure=measure)
    kind = "90 % waited at most" if total["is_exact"] else "on a typical day 90 % waited at most"
    among = "one patient" if total["has_all_days"] else "one patient, on days with enough of them"
    return Card(
        "longest-wait",
        "Longest wait",
        number(total["wait_max_minutes"]),
        "min",
        f"{among}; {kind} {number(total['wait_p90_minutes'])} min",
        # One patient's wait has no usual range.
        measure=measure,
    )


def _on_time_card(mart: Mart, where: Slice, total: Row, control: Control) -> Card:
    n = total["denominator_count"]
    measure = measure_of("kpi_seen_on_time_daily")
    ignores: tuple[Slicer, ...] = ("department",)
    if n < mart.few:
        return Card("on-time", "Seen within target", "\u2013", "", why_none(total), measure=measure, ignores=ignores)
    target = mart.known.targets_pct.get(where.triage)
    return Card(
        "on-time",
        "Seen within target",
        percentage(total["numerator_count"], n),
        "%",
        f"of {number(n)} with a level and a wait" + (f"; target {number(target)} %" if target else ""),
        against_chance(control, target=target),
        measure,
        ignores,
    )


def _critical_card(count: int, total: Row, control: Control) -> Card:
    visits = total["visit_count"] or 0
    share = f"{percentage(count, visits)} % of visits" if visits else ""
    return Card(
        "critical",
        f"Critical (level {CRITICAL_IN_SHORT})",
        number(count),
        "",
        share,
        against_chance(control),
        measure_of("kpi_waits_daily", "Visits by triage level"),
    )


def _funnel(mart: Mart, rows: list[Row]) -> Figure:
    measure = measure_of("kpi_waits_daily", "Visits by triage level")
    levels = [row for row in rows if row["triage_group"] in mart.known.triage]
    n = sum(row["visit_count"] or 0 for row in levels)
    if not n:
        return empty("triage", "Triage severity", "No triaged visits in this slice", 4, measure)
    most = max(row["visit_count"] or 0 for row in levels)
    critical = sum(row["visit_count"] or 0 for row in levels if row["triage_group"] in map(str, CRITICAL_LEVELS))
    untriaged = sum(row["visit_count"] or 0 for row in rows) - n
    return figure(
        "triage",
        f"Triage severity: {percentage(critical, n)} % are level {CRITICAL_IN_SHORT}",
        "Visits by level, in percent of triaged visits; select a level to filter",
        levels,
        Column(
            "Level",
            of=lambda row: Link(
                f"{row['triage_group']} {mart.known.triage[row['triage_group']]}", "triage", row["triage_group"]
            ),
        ),
        Column(
            "",
            of=lambda row: Drawn(charts.bar((row["visit_count"] or 0) / most, f"t{row['triage_group']}", centred=True)),
            is_wide=True,
        ),
        Column("Visits", 0, "visit_count"),
        Column("%", 1, lambda row: 100 * (row["visit_count"] or 0) / n),
        span=4,
        measure=measure,
        n=n,
        ignores=("triage",),
        note=f"{number(untriaged)} more were not triaged." if untriaged else "",
    )


def _departments(mart: Mart, where: Slice) -> Figure:
    rows = queries.waits_by_department(mart, where)
    measure = measure_of("kpi_waits")
    if not rows:
        return empty("departments", "Department load", "No visits in this slice", 7, measure)
    most = max(row["visit_count"] or 0 for row in rows) or 1
    enough = [r for r in rows if (r["wait_count"] or 0) >= mart.few and r["wait_p90_minutes"] is not None]
    longest = max((row["wait_p90_minutes"] for row in enough), default=1) or 1
    cells: list[list[Cell]] = []
    for row in rows:
        visits = row["visit_count"] or 0
        shown = row in enough
        cells.append(
            [
                Link(row["department_name"], "department", row["department_name"]),
                Drawn(charts.bar(visits / most)),
                row["visit_count"],
                row["wait_median_minutes"] if shown else None,
                row["wait_p90_minutes"] if shown else None,
                Drawn(charts.range_mark(row["wait_median_minutes"] / longest, row["wait_p90_minutes"] / longest))
                if shown
                else "too few",
                100 * row["excluded_no_provider_count"] / visits
                if visits >= mart.few and row["excluded_no_provider_count"] is not None
                else None,
            ]
        )
    busiest = rows[0]
    share = percentage(busiest["visit_count"] or 0, max(sum(r["visit_count"] or 0 for r in rows), 1), 0)
    exact = "" if where.is_whole else " Median and 90th are those of a typical day (median over the days)."
    return Figure(
        "departments",
        f"Department load: {busiest['department_name']} takes {share} % of visits",
        "Ordered by visits; wait in minutes from median (bar) to 90th percentile (dot), one scale; select a "
        "name to filter",
        "table",
        (
            Column("Department"),
            Column("", is_wide=True),
            Column("Visits", 0),
            Column("Median", 1),
            Column("90th", 1),
            Column("Median to 90th", is_wide=True),
            Column("Not seen %", 1),
        ),
        cells,
        span=7,
        measure=measure,
        n=sum(r["visit_count"] or 0 for r in rows),
        ignores=("department",),
        note=f"Not seen: left before a provider, or still waiting.{exact}",
    )


def _hours(mart: Mart, where: Slice) -> Figure:
    rows = queries.arrivals_by_hour(mart, where)
    measure = measure_of("kpi_peak_hours")
    known = [row for row in rows if row["arrivals_per_hour"] is not None]
    if not known:
        return empty("hours", "Peak hours", "No arrivals in this slice", 5, measure)
    cells: list[list[float | None]] = [[None] * 24 for _ in range(7)]
    for row in known:
        cells[row["iso_weekday_number"] - 1][row["hour_of_day"]] = row["arrivals_per_hour"]
    peak = max(known, key=lambda row: row["arrivals_per_hour"])
    hours = [f"{hour:02d}" for hour in range(24)]
    per = "hospital and hour" if where.hospital == ALL else "hour"
    return figure(
        "hours",
        f"Peak hours: {hour_of_week(peak)}, {number(peak['arrivals_per_hour'], 1)} an hour",
        f"Mean arrivals per {per}, by weekday and local hour",
        rows,
        Column("Weekday", of=lambda r: WEEKDAYS[r["iso_weekday_number"] - 1]),
        Column("Hour", of=lambda r: f"{r['hour_of_day']:02d}:00"),
        Column("Arrivals", 0, "arrivals_count"),
        Column("Hours (n)", 0, "existing_hours_count"),
        Column("Per hour", 2, "arrivals_per_hour"),
        kind="heatmap",
        spec={"cells": cells, "rows": list(WEEKDAYS), "columns": hours, "unit": "/h"},
        span=5,
        measure=measure,
        n=sum(r["arrivals_count"] or 0 for r in rows),
        ignores=("department", "triage"),
        height=290,
    )


def _blood(mart: Mart, where: Slice) -> Figure:
    rows = shared_queries.blood_groups(mart, where)
    measure = measure_of("kpi_blood_groups")
    known = [r for r in rows if r["blood_group"] != "unknown" and r["patient_count"]]
    if not known:
        return empty("blood", "Blood groups", TOO_FEW, 4, measure)
    total = sum(r["patient_count"] for r in known)
    top = ", ".join(f"{blood_group(r['blood_group'])} {percentage(r['patient_count'], total)} %" for r in known[:2])
    return figure(
        "blood",
        f"Blood groups: {top}",
        "Patients seen by ABO and Rh group; hatched is RhD negative",
        rows,
        Column("Group", of=lambda r: blood_group(r["blood_group"])),
        Column("Patients", 0, "patient_count"),
        Column("%", 1, "share_pct"),
        Column("US reference %", 1, "reference_share_pct"),
        kind="treemap",
        spec={
            "items": [
                {
                    "name": blood_group(r["blood_group"]),
                    "value": r["patient_count"],
                    "style": f"abo-{r['blood_group'].rstrip('+-').lower()}",
                    "is_hatched": r["blood_group"].endswith("-"),
                }
                for r in known
            ]
        },
        span=4,
        measure=measure,
        n=total,
        ignores=("period", "department", "triage"),
        note="The patients' groups are not the demand for blood.",
        height=310,
    )
