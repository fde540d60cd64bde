"""Which figures each page has, and what they say.

One function per page, from a mart and a slice to a `Page`: titles are messages, subtitles say measure
and unit, cards say n. Belongs here: words and choices. Does not: SQL, limits, HTML.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from hospital_assets.contracts.kpis import ALL
from hospital_assets.contracts.table import Measure
from hospital_assets.dashboard import mart as data
from hospital_assets.dashboard import svg
from hospital_assets.dashboard.figures import (
    FEW,
    TOO_FEW,
    WORDS,
    Card,
    Cell,
    Column,
    Drawn,
    Figure,
    Link,
    Page,
    Slicer,
    control_figure,
    empty,
    judged,
    line,
    measure_of,
    points_of,
    series,
    spark_of,
)
from hospital_assets.dashboard.mart import Mart, Row, Slice
from hospital_assets.dashboard.spc import Control

_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_NOT_PUBLISHED = "The publication of this role holds figures only, no single visits"

number = svg.number


def overview(mart: Mart, where: Slice) -> Page:
    """Visits, waits, triage, departments, hours, people: the state of the department on a page."""
    until = mart.known.complete_until
    days = data.waits_by_day(mart, where)
    total = data.waits_in_total(mart, where)
    on_time = data.seen_on_time_by_day(mart, where)
    critical = data.critical_by_day(mart, where)
    for row in days:
        row["period_date"] = row["service_date"]
    found = judged(
        {
            "visits": (points_of(days, "visit_count", "visit_count", until), "neither"),
            "average": (points_of(days, "wait_average_minutes", "wait_count", until, FEW), "lower"),
            "median": (points_of(days, "wait_median_minutes", "wait_count", until, FEW), "lower"),
            "p90": (points_of(days, "wait_p90_minutes", "wait_count", until, FEW), "lower"),
            "on_time": (points_of(on_time, "value_pct", "denominator_count", until, FEW), "higher"),
            "critical": (points_of(critical, "visit_count", "visit_count", until), "neither"),
        },
        where,
    )
    before = _before(mart, where)
    triage = data.waits_by_triage(mart, where)
    waits = measure_of("kpi_waits")
    cards = [
        Card(
            "visits", "ED visits", number(total["visit_count"]), "",
            _change(total["visit_count"], before["visit_count"] if before else None),
            found["visits"].latest, spark_of(found["visits"]), waits,
        ),
        _average_card(total, before, found["average"]),
        _longest_card(total, found["p90"]),
        _on_time_card(on_time, found["on_time"]),
        _doctors_card(data.active_doctors(mart, where)),
        _critical_card(critical, total, found["critical"]),
    ]  # fmt: skip
    target = mart.known.targets_minutes.get(where.triage)
    figures = [
        control_figure(
            "wait-trend", "Median wait", found["median"], unit="min", measure=waits, target=target,
            noun="median wait",
            note="" if not found["median"].is_weekly
            else "A week's point is the mean of its daily medians, weighted by their n.",
        ),
        _funnel(mart, triage),
        _departments(mart, where),
        _hours(mart, where),
        _blood(mart, where),
        _pyramid(mart, where),
        _doctors(mart, where),
    ]  # fmt: skip
    return Page(_news(found), cards, figures)


def _news(found: Mapping[str, Control]) -> list[str]:
    """At most three sentences about signals at the newest point."""
    names = {
        "median": "The median wait", "on_time": "The share seen within target",
        "visits": "The number of visits", "critical": "The number of critical patients",
        "four_hour": "The share of departures within four hours",
        "lwbs": "The share who left without being seen", "occupancy": "Occupancy",
    }  # fmt: skip
    said = []
    for name, text in names.items():
        control = found.get(name)
        if control is None or control.latest in (None, "usual") or control.centre is None:
            continue
        newest = control.points[-1]
        side = "above" if newest.value > control.centre else "below"
        said.append(
            f"{text} is {side} what chance explains ({WORDS[newest.verdict].lower()}, "
            f"{newest.day.day} {newest.day:%b})."
        )
    if said:
        return said[:3]
    if all(control.latest is None for control in found.values()):
        return ["Too few days or patients to tell signals from noise."]
    return ["On the newest day nothing here is outside its usual range."]


def _before(mart: Mart, where: Slice) -> Row | None:
    """The same number of days before the slice, where there are data of all of them."""
    first = where.first - timedelta(days=where.days)
    if where.is_whole or first < mart.known.first:
        return None
    days = Slice("days", first, where.first - timedelta(days=1), where.hospital, where.department,
                 where.triage)  # fmt: skip
    return data.waits_in_total(mart, days)


def _change(now: float | None, before: float | None, unit: str = "%") -> str:
    if now is None or not before:
        return ""
    if unit == "%":
        return f"{number(100 * (now - before) / before, 1)} % on the days before"
    return f"{number(now - before, 1)} {unit} on the days before"


def _average_card(total: Row, before: Row | None, control: Control) -> Card:
    n = total["wait_count"] or 0
    measure = measure_of("kpi_waits")
    if n < FEW or total["wait_average_minutes"] is None:
        return Card("average-wait", "Average wait", "\u2013", "", TOO_FEW, measure=measure)
    kind = "median" if total["is_exact"] else "median of the daily medians"
    detail = f"{kind} {number(total['wait_median_minutes'], 1)} min, n {number(n)}"
    if before and (before["wait_count"] or 0) >= FEW:
        detail += (
            f"; {_change(total['wait_average_minutes'], before['wait_average_minutes'], 'min')}"
        )
    return Card(
        "average-wait", "Average wait", number(total["wait_average_minutes"], 1), "min", detail,
        control.latest, spark_of(control), measure,
    )  # fmt: skip


def _longest_card(total: Row, control: Control) -> Card:
    measure = measure_of("kpi_waits")
    if (total["wait_count"] or 0) < FEW or total["wait_max_minutes"] is None:
        return Card("longest-wait", "Longest wait", "\u2013", "", TOO_FEW, measure=measure)
    kind = "90 % waited at most" if total["is_exact"] else "on a typical day 90 % waited at most"
    return Card(
        "longest-wait", "Longest wait", number(total["wait_max_minutes"]), "min",
        f"one patient; {kind} {number(total['wait_p90_minutes'])} min",
        control.latest, spark_of(control), measure,
    )  # fmt: skip


def _on_time_card(rows: list[Row], control: Control) -> Card:
    n = sum(row["denominator_count"] or 0 for row in rows)
    measure = measure_of("kpi_seen_on_time_daily")
    ignores: tuple[Slicer, ...] = ("department",)
    if n < FEW:
        return Card(
            "on-time", "Seen within target", "\u2013", "", TOO_FEW, measure=measure, ignores=ignores
        )
    share = 100 * sum(row["numerator_count"] or 0 for row in rows) / n
    return Card(
        "on-time", "Seen within target", number(share, 1), "%", f"of {number(n)} with a level and a wait",
        control.latest, spark_of(control), measure, ignores,
    )  # fmt: skip


def _doctors_card(row: Row) -> Card:
    count = row["doctors_count"]
    hours = row["shift_hours"] or 0
    per_hour = (
        f"{number(row['visit_count'] / hours, 2)} new patients per shift hour" if hours else ""
    )
    return Card(
        "doctors", "Active doctors", number(count), "",
        per_hour or f"{number(row['visit_count'])} visits", measure=measure_of("kpi_physician_workload"),
        ignores=("department", "triage"),
    )  # fmt: skip


def _critical_card(rows: list[Row], total: Row, control: Control) -> Card:
    count = sum(row["visit_count"] or 0 for row in rows)
    visits = total["visit_count"] or 0
    share = f"{number(100 * count / visits, 1)} % of visits" if visits else ""
    return Card(
        "critical", "Critical (level 1\u20132)", number(count), "", share, control.latest, spark_of(control),
        measure_of("kpi_triage_mix"),
    )  # fmt: skip


def _funnel(mart: Mart, rows: list[Row]) -> Figure:
    measure = measure_of("kpi_triage_mix")
    levels = [row for row in rows if row["triage_level"] in mart.known.triage]
    n = sum(row["visit_count"] or 0 for row in levels)
    if not n:
        return empty("triage", "Triage severity", "No triaged visits in this slice", 4, measure)
    most = max(row["visit_count"] or 0 for row in levels)
    critical = sum(row["visit_count"] or 0 for row in levels if row["triage_level"] in ("1", "2"))
    untriaged = sum(row["visit_count"] or 0 for row in rows) - n
    return Figure(
        "triage", f"Triage severity: {number(100 * critical / n, 1)} % are level 1\u20132",
        "Visits by level, in percent of triaged visits; select a level to filter", "table",
        (Column("Level"), Column("", is_wide=True), Column("Visits", 0), Column("%", 1)),
        [
            [
                Link(f"{row['triage_level']} {mart.known.triage[row['triage_level']]}", "triage", row["triage_level"]),
                Drawn(svg.bar((row["visit_count"] or 0) / most, f"t{row['triage_level']}", centred=True)),
                row["visit_count"], 100 * (row["visit_count"] or 0) / n,
            ]
            for row in levels
        ],
        span=4, measure=measure, n=n, ignores=("triage",),
        note=f"{number(untriaged)} more were not triaged." if untriaged else "",
    )  # fmt: skip


def _departments(mart: Mart, where: Slice) -> Figure:
    rows = data.waits_by_department(mart, where)
    measure = measure_of("kpi_waits")
    if not rows:
        return empty("departments", "Department load", "No visits in this slice", 7, measure)
    most = max(row["visit_count"] or 0 for row in rows) or 1
    enough = [
        r for r in rows if (r["wait_count"] or 0) >= FEW and r["wait_p90_minutes"] is not None
    ]
    longest = max((row["wait_p90_minutes"] for row in enough), default=1) or 1
    cells: list[list[Cell]] = []
    for row in rows:
        visits = row["visit_count"] or 0
        shown = row in enough
        cells.append([
            Link(row["department_name"], "department", row["department_name"]),
            Drawn(svg.bar(visits / most)),
            row["visit_count"],
            row["wait_median_minutes"] if shown else None,
            row["wait_p90_minutes"] if shown else None,
            Drawn(svg.range_mark(row["wait_median_minutes"] / longest, row["wait_p90_minutes"] / longest))
            if shown else "too few",
            100 * row["excluded_no_provider_count"] / visits
            if visits >= FEW and row["excluded_no_provider_count"] is not None else None,
        ])  # fmt: skip
    busiest = rows[0]
    share = 100 * (busiest["visit_count"] or 0) / max(sum(r["visit_count"] or 0 for r in rows), 1)
    exact = (
        ""
        if where.is_whole
        else " Median and 90th are those of a typical day (median over the days)."
    )
    return Figure(
        "departments", f"Department load: {busiest['department_name']} takes {number(share)} % of visits",
        "Ordered by visits; wait in minutes from median (bar) to 90th percentile (dot), one scale; select a name to filter",
        "table",
        (Column("Department"), Column("", is_wide=True), Column("Visits", 0), Column("Median", 1),
         Column("90th", 1), Column("Median to 90th", is_wide=True), Column("Not seen %", 1)),
        cells, span=7, measure=measure, n=sum(r["visit_count"] or 0 for r in rows),
        ignores=("department",), note=f"Not seen: left before a provider, or still waiting.{exact}",
    )  # fmt: skip


def _hours(mart: Mart, where: Slice) -> Figure:
    rows = data.arrivals_by_hour(mart, where)
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
    return Figure(
        "hours",
        f"Peak hours: {_WEEKDAYS[peak['iso_weekday_number'] - 1]} {peak['hour_of_day']:02d}:00, "
        f"{number(peak['arrivals_per_hour'], 1)} an hour",
        f"Mean arrivals per {per}, by weekday and local hour", "heatmap",
        (Column("Weekday"), Column("Hour"), Column("Arrivals", 0), Column("Hours (n)", 0), Column("Per hour", 2)),
        [[_WEEKDAYS[r["iso_weekday_number"] - 1], f"{r['hour_of_day']:02d}:00", r["arrivals_count"],
          r["existing_hours_count"], r["arrivals_per_hour"]] for r in rows],
        {"cells": cells, "rows": list(_WEEKDAYS), "columns": hours, "unit": "/h"},
        5, measure, sum(r["arrivals_count"] or 0 for r in rows), ("department", "triage"), height=290,
    )  # fmt: skip


def _blood(mart: Mart, where: Slice) -> Figure:
    rows = data.blood_groups(mart, where)
    measure = measure_of("kpi_blood_groups")
    known = [r for r in rows if r["blood_group"] != "unknown" and r["patient_count"]]
    if not known:
        return empty("blood", "Blood groups", TOO_FEW, 4, measure)
    total = sum(r["patient_count"] for r in known)
    top = ", ".join(
        f"{_group(r['blood_group'])} {number(100 * r['patient_count'] / total, 1)} %"
        for r in known[:2]
    )
    return Figure(
        "blood", f"Blood groups: {top}", "Patients seen by ABO and Rh group; hatched is RhD negative", "treemap",
        (Column("Group"), Column("Patients", 0), Column("%", 1), Column("US reference %", 1)),
        [[_group(r["blood_group"]), r["patient_count"], r["share_pct"], r["reference_share_pct"]] for r in rows],
        {"items": [
            {"name": _group(r["blood_group"]), "value": r["patient_count"],
             "style": f"abo-{r['blood_group'].rstrip('+-').lower()}", "is_hatched": r["blood_group"].endswith("-")}
            for r in known
        ]},
        4, measure, total, ("period", "department", "triage"),
        note="The groups of patients are not the demand for blood.", height=310,
    )  # fmt: skip


def _group(name: str) -> str:
    return name.replace("-", "\u2212") if name != "unknown" else name


def _pyramid(mart: Mart, where: Slice) -> Figure:
    rows = data.ages_and_sexes(mart, where)
    measure = measure_of("kpi_demographics")
    if not mart.has("dim_patient", "sex"):
        return _sexes_and_ages(mart, where)
    counts: dict[int, dict[str, int]] = {}
    for row in rows:
        counts.setdefault(row["decade"], {})[row["sex"]] = row["visit_count"]
    n = sum(row["visit_count"] for row in rows)
    if n < FEW:
        return empty("people", "Age and sex", TOO_FEW, 4, measure)
    most = max(max(found.get("female", 0), found.get("male", 0)) for found in counts.values()) or 1
    women = sum(found.get("female", 0) for found in counts.values())
    return Figure(
        "people", f"Age and sex: {number(100 * women / n, 1)} % female",
        f"Visits by ten-year age band, {_visit_days(where)}", "table",
        (Column("Female", 0), Column("", is_wide=True), Column("Age"), Column("", is_wide=True), Column("Male", 0)),
        [
            [counts[band].get("female", 0), Drawn(_mirrored(svg.bar(counts[band].get("female", 0) / most, "female"))),
             "90+" if band == 9 else f"{10 * band}\u2013{10 * band + 9}",
             Drawn(svg.bar(counts[band].get("male", 0) / most, "male")), counts[band].get("male", 0)]
            for band in sorted(counts, reverse=True)
        ],
        span=4, measure=measure, n=n,
    )  # fmt: skip


def _sexes_and_ages(mart: Mart, where: Slice) -> Figure:
    rows = data.demographics(mart, where)
    measure = measure_of("kpi_demographics")
    shown = [
        r for r in rows if r["characteristic"] in ("age_band", "sex") and r["category"] != "unknown"
    ]
    known = [r for r in shown if r["visit_count"]]
    if not known:
        return empty("people", "Age and sex", TOO_FEW, 4, measure)
    most = max(r["visit_count"] for r in known)
    women = next((r["share_of_visits_pct"] for r in known if r["category"] == "female"), None)
    says = f": {number(women, 1)} % female" if women is not None else ""
    return Figure(
        "people", f"Age and sex{says}", "Visits by sex and by age band", "table",
        (Column("Group"), Column("", is_wide=True), Column("Visits", 0), Column("%", 1)),
        [[_category(r["category"]), Drawn(svg.bar((r["visit_count"] or 0) / most, "female" if r["category"] == "female" else "")),
          r["visit_count"], r["share_of_visits_pct"]]
         for r in sorted(shown, key=lambda r: (r["characteristic"] != "sex", r["category"]))],
        span=4, measure=measure, n=sum(r["visit_count"] for r in known if r["characteristic"] == "sex"),
        ignores=("period", "department", "triage"),
    )  # fmt: skip


def _category(name: str) -> str:
    """`05-14` as people write it."""
    low, dash, high = name.partition("-")
    if dash and low.isdigit() and high.isdigit():
        return "under 1" if low == "00" else f"{int(low)}\u2013{int(high)}"
    return name


def _mirrored(drawn: str) -> str:
    return drawn.replace('class="bar"', 'class="bar mirrored"', 1)


def _visit_days(where: Slice) -> str:
    days = (where.last - data.visits_since(where)).days + 1
    return f"last {days} days of the period" if days < where.days else "the whole period"


def _doctors(mart: Mart, where: Slice, span: int = 4) -> Figure:
    rows = data.physicians(mart, where)
    measure = measure_of("kpi_physician_workload")
    known = [r for r in rows if r["expected_visit_count"] and r["visit_count"] is not None
             and r["visit_count"] >= FEW and r["lower_limit_count"] is not None]  # fmt: skip
    if len(known) < 2:
        return empty("doctors-chart", "Physician workload", TOO_FEW, span, measure)
    outside = sum(bool(r["is_outside"]) for r in known)
    return Figure(
        "doctors-chart", f"Physician workload: {outside} of {len(known)} outside chance",
        "Patients seen in percent of what the hospital's doctors see in as many hours; "
        "band: chance alone (3\u03c3)", "dots",
        (Column("Doctor"), Column("Visits", 0), Column("Shift hours", 0), Column("Per hour", 2),
         Column("Expected", 0), Column("Limits"), Column("Outside")),
        [[r["doctor_id"], r["visit_count"], r["shift_hours"], r["visits_per_shift_hour"], r["expected_visit_count"],
          "" if r["lower_limit_count"] is None
          else f"{number(r['lower_limit_count'])} to {number(r['upper_limit_count'])}",
          "" if r["is_outside"] is None else "yes" if r["is_outside"] else "no"] for r in rows],
        {"points": [
            {"name": r["doctor_id"], "x": r["expected_visit_count"],
             "y": 100 * r["visit_count"] / r["expected_visit_count"],
             "low": 100 * r["lower_limit_count"] / r["expected_visit_count"],
             "high": 100 * r["upper_limit_count"] / r["expected_visit_count"],
             "is_outside": bool(r["is_outside"])} for r in known],
         "centre": 100.0, "unit": "%", "x_name": "expected patients in the doctor's hours"},
        span, measure, sum(r["visit_count"] for r in known), ("period", "department", "triage"), height=320,
    )  # fmt: skip


def flow(mart: Mart, where: Slice) -> Page:
    """From arrival to departure: where time goes, and against which standard."""
    until = mart.known.complete_until
    rates = {
        name: data.rate_by_day(mart, where, name) for name in ("four_hour", "lwbs", "critical")
    }
    rates["twelve"] = data.twelve_hours_by_day(mart, where)
    better = {"four_hour": "higher", "lwbs": "lower", "critical": "lower", "twelve": "lower"}
    found = judged(
        {
            name: (points_of(rows, "value_pct", "denominator_count", until, FEW), better[name])  # type: ignore[misc]
            for name, rows in rates.items()
        },
        where,
    )
    names = {
        "four_hour": ("Within four hours", measure_of("kpi_four_hour_daily")),
        "twelve": ("Over twelve hours", measure_of("kpi_four_hour_daily", 1)),
        "lwbs": ("Left without being seen", measure_of("kpi_lwbs_daily")),
        "critical": ("Critical over 15 minutes", measure_of("kpi_critical_waits_daily")),
    }
    ignores: tuple[Slicer, ...] = ("department", "triage")
    cards = [
        _rate_card(name, label, rates[name], found[name], measure, ignores)
        for name, (label, measure) in names.items()
    ]
    figures = [
        _stages(mart, where),
        *(
            control_figure(f"{name}-trend", label, found[name], unit="%", measure=measure, span=6,
                           ignores=ignores, height=210, is_share=True)
            for name, (label, measure) in names.items()
        ),
        _histogram(mart, where),
        _waits_by_hour(mart, where),
        _pathways(mart, where),
        _handovers(mart, where),
        _op18(mart, where),
        *(_units(mart, metric, label, measure) for metric, label, measure in (
            ("four_hour_pct", "Within four hours, by hospital", measure_of("kpi_units")),
            ("lwbs_pct", "Left without being seen, by hospital", measure_of("kpi_units")),
        )),
    ]  # fmt: skip
    return Page(_news(found), cards, figures)


def _rate_card(card_id: str, label: str, rows: list[Row], control: Control, measure: Measure,
               ignores: tuple[Slicer, ...]) -> Card:  # fmt: skip
    n = sum(row["denominator_count"] or 0 for row in rows)
    if n < FEW:
        return Card(card_id, label, "\u2013", "", TOO_FEW, measure=measure, ignores=ignores)
    count = sum(row["numerator_count"] or 0 for row in rows)
    return Card(
        card_id, label, number(100 * count / n, 1), "%", f"{number(count)} of {number(n)}",
        control.latest, spark_of(control), measure, ignores,
    )  # fmt: skip


def _stages(mart: Mart, where: Slice) -> Figure:
    row = data.stages(mart, where)
    measure = measure_of("kpi_waits")
    if row is None:
        return empty("stages", "The way through the department", _NOT_PUBLISHED, 12, measure)
    if row["arrival_n"] < FEW:
        return empty("stages", "The way through the department", TOO_FEW, 12, measure)
    names = {
        "arrival": "Arrival", "triage": "Triage", "room": "Treatment room", "provider": "First provider",
        "decision": "Decision", "departure": "Departure",
    }  # fmt: skip
    longest = max((row[f"{name}_p90"] or 0) for name in names if name != "arrival") or 1
    timed = [n for n in names if n != "arrival" and row[f"{n}_median"] is not None]
    slowest = max(timed, key=lambda n: row[f"{n}_median"], default="departure")
    cells: list[list[Cell]] = []
    for name, label in names.items():
        n = row[f"{name}_n"]
        share = 100 * n / row["arrival_n"]
        median, p90 = row.get(f"{name}_median"), row.get(f"{name}_p90")
        cells.append([
            label, n, share, Drawn(svg.bar(n / row["arrival_n"])), median, p90,
            Drawn(svg.range_mark(median / longest, p90 / longest)) if median is not None and p90 is not None else "",
        ])  # fmt: skip
    return Figure(
        "stages", f"The way through: the longest step is up to {names[slowest].lower()}, "
        f"median {number(row[f'{slowest}_median'])} min",
        f"Visits that reached each stage, and minutes since the stage before; {_visit_days(where)}", "table",
        (Column("Stage"), Column("Visits", 0), Column("% of arrivals", 1), Column("", is_wide=True),
         Column("Median min", 1), Column("90th min", 1), Column("Median to 90th", is_wide=True)),
        cells, span=12, measure=measure, n=row["arrival_n"],
        note=f"{number(row['lwbs_n'])} left without being seen.",
    )  # fmt: skip


def _histogram(mart: Mart, where: Slice) -> Figure:
    rows = data.wait_histogram(mart, where)
    measure = measure_of("kpi_waits")
    n = sum(row["visit_count"] for row in rows)
    if n < FEW:
        return empty("histogram", "How long people wait",
                     TOO_FEW if mart.has_visits else _NOT_PUBLISHED, 6, measure)  # fmt: skip
    counts = {row["step"]: row["visit_count"] for row in rows}
    most = max(counts.values())
    cells: list[list[Cell]] = []
    seen = 0
    for step in range(9):
        count = counts.get(step, 0)
        seen += count
        label = "240 and more" if step == 8 else f"{30 * step} to {30 * step + 30}"
        cells.append([label, Drawn(svg.bar(count / most)), count, 100 * count / n, 100 * seen / n])
    hour = 100 * sum(count for step, count in counts.items() if step < 2) / n
    return Figure(
        "histogram", f"{number(hour)} % are seen within the hour",
        f"Visits by minutes from door to provider, {_visit_days(where)}", "table",
        (Column("Minutes"), Column("", is_wide=True), Column("Visits", 0), Column("%", 1), Column("Seen by then %", 1)),
        cells, span=6, measure=measure, n=n,
    )  # fmt: skip


def _waits_by_hour(mart: Mart, where: Slice) -> Figure:
    rows = data.waits_by_hour(mart, where)
    measure = measure_of("kpi_waits")
    shown = [row for row in rows if row["wait_count"] >= FEW]
    if len(shown) < 2:
        return empty("wait-hours", "Wait by hour of arrival",
                     TOO_FEW if mart.has_visits else _NOT_PUBLISHED, 6, measure)  # fmt: skip
    worst = max(shown, key=lambda row: row["median"])
    by_hour = {row["hour_of_day"]: row for row in shown}
    hours = range(24)

    def values(name: str) -> list[float | None]:
        return [by_hour[h][name] if h in by_hour else None for h in hours]

    return Figure(
        "wait-hours", f"Who arrives at {worst['hour_of_day']:02d}:00 waits longest: median {number(worst['median'])} min",
        f"Minutes by local hour of arrival: median, and from the 10th to the 90th percentile; {_visit_days(where)}",
        "series",
        (Column("Hour"), Column("n", 0), Column("10th", 1), Column("Median", 1), Column("90th", 1)),
        [[f"{r['hour_of_day']:02d}:00", r["wait_count"], r["p10"], r["median"], r["p90"]] for r in shown],
        series([f"{h:02d}:00" for h in hours], [line("median", values("median"), "actual")], unit="min",
               bands=[{"name": "10th to 90th", "low": values("p10"), "high": values("p90"), "style": "spread"}],
               zero=True),
        6, measure, sum(r["wait_count"] for r in shown), height=300,
    )  # fmt: skip


def _pathways(mart: Mart, where: Slice) -> Figure:
    rows = data.pathways(mart, where)
    measure = measure_of("kpi_lwbs_daily")
    n = sum(row["visit_count"] for row in rows)
    if n < FEW:
        return empty("pathways", "How visits begin and end",
                     TOO_FEW if mart.has_visits else _NOT_PUBLISHED, 6, measure)  # fmt: skip
    modes = sorted(
        {r["arrival_mode"] for r in rows},
        key=lambda m: -sum(r["visit_count"] for r in rows if r["arrival_mode"] == m),
    )
    ends = list(dict.fromkeys(r["disposition"] for r in rows))
    counts = {(r["arrival_mode"], r["disposition"]): r["visit_count"] for r in rows}
    of_mode = {m: sum(counts.get((m, e), 0) for e in ends) for m in modes}
    home = 100 * sum(counts.get((m, "home"), 0) for m in modes) / n

    def said(mode: str, end: str) -> Cell:
        count = counts.get((mode, end), 0)
        return "too few" if 0 < count < FEW else 100 * count / of_mode[mode]

    return Figure(
        "pathways", f"{number(home)} % go home from the department",
        f"Percent of each arrival mode by how the visit ended, {_visit_days(where)}", "table",
        (Column("Ended"), *(Column(m.replace("_", " ").capitalize(), 1) for m in modes), Column("Visits", 0)),
        [[e.replace("_", " ").capitalize(), *(said(m, e) for m in modes), sum(counts.get((m, e), 0) for m in modes)]
         for e in ends],
        span=6, measure=measure, n=n,
    )  # fmt: skip


def _handovers(mart: Mart, where: Slice) -> Figure:
    row = data.handovers(mart, where)
    measure = measure_of("kpi_four_hour_daily")
    if row is None or row["n"] < FEW:
        return empty(
            "handovers", "Ambulance handovers", TOO_FEW if row else _NOT_PUBLISHED, 6, measure
        )
    return Figure(
        "handovers", f"Ambulance handover: {number(100 * row['over_15'] / row['n'], 1)} % take over 15 minutes",
        f"Arrival to handover, median {number(row['median'], 1)} min; {_visit_days(where)}", "table",
        (Column("Longer than"), Column("", is_wide=True), Column("Handovers", 0), Column("%", 1)),
        [[f"{limit} min", Drawn(svg.bar(row[f"over_{limit}"] / row["n"])), row[f"over_{limit}"],
          100 * row[f"over_{limit}"] / row["n"]] for limit in (15, 30, 60)],
        span=6, measure=measure, n=row["n"],
    )  # fmt: skip


def _op18(mart: Mart, where: Slice) -> Figure:
    rows = data.op18_by_month(mart, where)
    measure = measure_of("kpi_op18")
    known = [
        r for r in rows if r["median_minutes"] is not None and (r["denominator_count"] or 0) >= FEW
    ]
    if not known:
        return empty("op18", "OP-18", TOO_FEW, 12, measure)
    newest = known[-1]
    return Figure(
        "op18", f"OP-18b: discharged patients spend {number(newest['median_minutes'])} min, {newest['period_month']:%B}",
        "Median minutes from arrival to departure by month of departure, without mental health and transfers", "table",
        (Column("Month"), Column("", is_wide=True), Column("Median min", 1), Column("n", 0)),
        [[f"{r['period_month']:%b %Y}",
          Drawn(svg.bar((r["median_minutes"] or 0) / max(k["median_minutes"] for k in known))),
          r["median_minutes"], r["denominator_count"]] for r in rows],
        span=12, measure=measure, n=sum(r["denominator_count"] or 0 for r in known),
        ignores=("department", "triage"),
    )  # fmt: skip


def _units(mart: Mart, metric: str, label: str, measure: Measure) -> Figure:
    rows = data.units(mart, metric)
    known = [r for r in rows if r["value_pct"] is not None and r["lower_limit_pct"] is not None
             and (r["denominator_count"] or 0) >= FEW]  # fmt: skip
    if len(known) < 2:
        return empty(f"{metric}-units", label, TOO_FEW, 6, measure)
    outside = sum(bool(r["is_outside"]) for r in known)
    return Figure(
        f"{metric}-units", f"{label}: {outside} of {len(known)} outside chance",
        "Percent by n; band: chance alone (3\u03c3) around all hospitals together", "dots",
        (Column("Hospital"), Column("n", 0), Column("%", 2), Column("Limits"), Column("Outside")),
        [[mart.known.hospitals.get(r["hospital_id"], r["hospital_id"]), r["denominator_count"], r["value_pct"],
          f"{number(r['lower_limit_pct'], 1)} to {number(r['upper_limit_pct'], 1)}",
          "yes" if r["is_outside"] else "no"] for r in known],
        {"points": [{"name": mart.known.hospitals.get(r["hospital_id"], r["hospital_id"]),
                     "x": r["denominator_count"], "y": r["value_pct"], "low": r["lower_limit_pct"],
                     "high": r["upper_limit_pct"], "is_outside": bool(r["is_outside"])} for r in known],
         "centre": known[0]["centre_pct"], "unit": "%", "x_name": "visits (n)"},
        6, measure, sum(r["denominator_count"] for r in known), ("period", "hospital", "department", "triage"),
    )  # fmt: skip


def capacity(mart: Mart, where: Slice) -> Page:
    """Beds: how full, how fast they turn over, who waits for one."""
    until = mart.known.complete_until
    occupied = data.occupancy_by_day(mart, where)
    beds = data.bed_flow_by_day(mart, where)
    noon = data.rate_by_day(mart, where, "before_noon")
    boarded = data.rate_by_day(mart, where, "boarded")
    found = judged(
        {
            "occupancy": (points_of(occupied, "value", "n", until), "neither"),
            "before_noon": (
                points_of(noon, "value_pct", "denominator_count", until, FEW),
                "higher",
            ),
            "boarded": (points_of(boarded, "value_pct", "denominator_count", until, FEW), "lower"),
        },
        where,
    )
    ignores: tuple[Slicer, ...] = ("department", "triage")
    newest = found["occupancy"].points[-1:] or None
    cards = [
        Card(
            "occupancy", "Occupancy", number(newest[0].value, 1) if newest else "\u2013",
            "%" if newest else "", f"{newest[0].day.day} {newest[0].day:%b}, {number(newest[0].n)} beds" if newest else TOO_FEW,
            found["occupancy"].latest, spark_of(found["occupancy"]), measure_of("kpi_occupancy_daily"), ("triage",),
        ),
        _rate_card("boarded", "Boarded over four hours", boarded, found["boarded"],
                   measure_of("kpi_boarding_daily", 1), ignores),
        _rate_card("before-noon", "Discharged before noon", noon, found["before_noon"],
                   measure_of("kpi_discharge_before_noon_daily"), ignores),
        Card(
            "net", "In minus out", number(sum(row["net_count"] or 0 for row in beds)), "patients",
            "sum of the days; above 0 beds fill up", measure=measure_of("kpi_department_flow_daily"),
            ignores=("triage",),
        ),
    ]  # fmt: skip
    figures = [
        control_figure("occupancy-trend", "Occupancy", found["occupancy"], unit="%", span=8,
                       measure=measure_of("kpi_occupancy_daily"), ignores=("triage",), noun="occupancy",
                       note="Occupied of offered bed-minutes; n is beds, summed over the days."),
        _crowding(mart, where),
        _wards(mart, where),
        _census(mart, where),
        _in_and_out(beds),
        control_figure("noon-trend", "Discharged before noon", found["before_noon"], unit="%", span=6,
                       measure=measure_of("kpi_discharge_before_noon_daily"), ignores=ignores, height=210,
                       is_share=True),
        _boarding(mart, where),
        _stays(mart, where),
        _overstays(mart, where),
        _blood_mix(mart, where),
    ]  # fmt: skip
    return Page(_news(found), cards, figures)


def _wards(mart: Mart, where: Slice) -> Figure:
    rows = data.occupancy_now(mart, where)
    measure = measure_of("kpi_occupancy_daily")
    if not rows:
        return empty(
            "wards", "Departments", "No department with known beds in this slice", 12, measure
        )
    most = max([*(r["peak_pct"] or 0 for r in rows), 100.0])
    full = [r for r in rows if (r["time_weighted_pct"] or 0) > 92]
    return Figure(
        "wards", f"{len(full)} of {len(rows)} departments over 92 % on {where.last.day} {where.last:%b}",
        f"Time-weighted occupancy, bar to {number(most)} %; mark: 92 %", "table",
        (Column("Hospital"), Column("Department"), Column("", is_wide=True), Column("%", 1), Column("Beds", 0),
         Column("At midnight", 0), Column("Peak", 0), Column("Peak %", 0)),
        [[mart.known.hospitals.get(r["hospital_id"], r["hospital_id"]), r["department_name"],
          Drawn(svg.bar((r["time_weighted_pct"] or 0) / most, "full" if (r["time_weighted_pct"] or 0) > 92 else "", target=92 / most)),
          r["time_weighted_pct"], r["bed_capacity"], r["midnight_patients_count"], r["peak_patients_count"], r["peak_pct"]]
         for r in sorted(rows, key=lambda r: -(r["time_weighted_pct"] or 0))[:20]],
        span=12, measure=measure, n=sum(r["bed_capacity"] for r in rows), ignores=("triage",),
        note="The twenty fullest; n is beds." if len(rows) > 20 else "n is beds.",
    )  # fmt: skip


def _census(mart: Mart, where: Slice) -> Figure:
    rows = data.occupancy_by_hour(mart, where)
    measure = measure_of("kpi_occupancy_daily")
    if len(rows) < 2:
        return empty("census", "Patients by hour", "No hourly census in this slice", 12, measure)
    peak = max(rows, key=lambda r: r["patients_count"])
    return Figure(
        "census", f"Most patients at once: {number(peak['patients_count'])}, {peak['hour_local']:%a %H:%M}",
        "Patients at the start of each local hour of the last seven days, and staffed beds", "series",
        (Column("Hour"), Column("Patients", 0), Column("Staffed beds", 0)),
        [[f"{r['hour_local']:%Y-%m-%d %H:%M}", r["patients_count"], r["beds"]] for r in rows],
        series([r["hour_local"].isoformat(timespec="minutes") for r in rows],
               [line("beds", [r["beds"] for r in rows], "step"),
                line("patients", [r["patients_count"] for r in rows], "actual")],
               unit="patients", digits=0, zero=True),
        12, measure, None, ("triage",), height=230,
    )  # fmt: skip


def _crowding(mart: Mart, where: Slice) -> Figure:
    rows = data.crowding_by_hour(mart, where)
    measure = measure_of("kpi_crowding_hourly")
    known = [r for r in rows if r["median"] is not None]
    if not known:
        return empty("crowding", "Crowding", "No NEDOCS in this slice", 4, measure)
    worst = max(known, key=lambda r: r["overcrowded_pct"])
    name = worst["hospital_id"]
    return Figure(
        "crowding", f"Overcrowded most often: {name}, {number(worst['overcrowded_pct'], 1)} % of hours",
        "NEDOCS at the start of each hour: median, worst, share of hours over 100", "table",
        (Column("Hospital"), Column("Median", 0), Column("Worst", 0), Column("", is_wide=True), Column("Over 100 %", 1)),
        [[r["hospital_id"], r["median"], r["worst"], Drawn(svg.bar((r["overcrowded_pct"] or 0) / 100)), r["overcrowded_pct"]]
         for r in rows],
        span=4, measure=measure, n=sum(r["hours_count"] for r in rows), ignores=("department", "triage"), note="n is hours.",
    )  # fmt: skip


def _in_and_out(rows: list[Row]) -> Figure:
    measure = measure_of("kpi_department_flow_daily")
    if len(rows) < 2:
        return empty("net", "In and out", "No moves in this slice", 6, measure)
    net = sum(row["net_count"] or 0 for row in rows)
    return Figure(
        "net-trend", f"In and out: {number(abs(net))} {'more came than left' if net >= 0 else 'more left than came'}",
        "Patients who entered and left by day; without the emergency department unless it is chosen", "series",
        (Column("Day"), Column("In", 0), Column("Out", 0), Column("Net", 0)),
        [[r["period_date"].isoformat(), r["inflow_count"], r["outflow_count"], r["net_count"]] for r in rows],
        series([r["period_date"].isoformat() for r in rows],
               [line("out", [r["outflow_count"] for r in rows], "light"),
                line("in", [r["inflow_count"] for r in rows], "actual")], unit="patients", digits=0, zero=True),
        6, measure, sum(r["inflow_count"] or 0 for r in rows), ("triage",), height=210,
    )  # fmt: skip


def _boarding(mart: Mart, where: Slice) -> Figure:
    rows = data.boarding_by_destination(mart, where)
    measure = measure_of("kpi_boarding_daily")
    known = [
        r for r in rows if (r["denominator_count"] or 0) >= FEW and r["average_minutes"] is not None
    ]
    if not known:
        return empty("boarding", "Waiting for a bed", TOO_FEW, 6, measure)
    longest = max(known, key=lambda r: r["average_minutes"])
    return Figure(
        "boarding", f"Longest wait for a bed: {longest['destination_department']}, {number(longest['average_minutes'])} min",
        "Average minutes from decision to departure, by the department admitted to", "table",
        (Column("Admitted to"), Column("", is_wide=True), Column("Average min", 0), Column("Over 4 h", 0),
         Column("Over 12 h", 0), Column("n", 0)),
        [[r["destination_department"], Drawn(svg.bar(r["average_minutes"] / longest["average_minutes"])),
          r["average_minutes"], r["over_4_hours_count"], r["over_12_hours_count"], r["denominator_count"]] for r in known],
        span=6, measure=measure, n=sum(r["denominator_count"] for r in known), ignores=("department", "triage"),
    )  # fmt: skip


def _stays(mart: Mart, where: Slice) -> Figure:
    rows = data.stays_by_month(mart, where)
    measure = measure_of("kpi_length_of_stay")
    known = [r for r in rows if (r["denominator_count"] or 0) >= FEW]
    if not known:
        return empty("stays", "Length of stay", TOO_FEW, 6, measure)
    inpatient = [
        r for r in known if r["stay_class"] == "inpatient" and r["los_hours_median"] is not None
    ]
    title = (
        f"Length of stay: inpatients {number(inpatient[-1]['los_hours_median'], 1)} h in the middle"
        if inpatient else "Length of stay"
    )  # fmt: skip
    return Figure(
        "stays", title, "By month of discharge and class of stay", "table",
        (Column("Class"), Column("Month"), Column("Median h", 1), Column("Average h", 1),
         Column("Calendar days", 2), Column("n", 0), Column("Open", 0)),
        [[r["stay_class"], f"{r['period_month']:%b %Y}", r["los_hours_median"], r["los_hours_average"],
          r["los_hcup_days_average"], r["denominator_count"], r["excluded_open_count"]] for r in known],
        span=6, measure=measure, n=sum(r["denominator_count"] for r in known), ignores=("department", "triage"),
        note="Stays that began near the end and are long are still open, so the last month looks shorter than it is.",
    )  # fmt: skip


def _overstays(mart: Mart, where: Slice) -> Figure:
    rows = [r for r in data.overstays(mart, where) if (r["denominator_count"] or 0) >= FEW]
    measure = measure_of("kpi_overstays")
    if not rows:
        return empty("overstays", "Overstays", TOO_FEW, 6, measure)
    n = sum(r["denominator_count"] for r in rows)
    count = sum(r["numerator_count"] or 0 for r in rows)
    return Figure(
        "overstays", f"Overstays: {number(100 * count / n, 1)} % stay longer than 50 hours",
        "Stays by the department they ended or are in", "table",
        (Column("Department"), Column("", is_wide=True), Column("%", 1), Column("Over 50 h", 0),
         Column("Still there", 0), Column("n", 0)),
        [[r["department_name"], Drawn(svg.bar((r["value_pct"] or 0) / 100)), r["value_pct"], r["numerator_count"],
          r["open_numerator_count"], r["denominator_count"]] for r in rows],
        span=6, measure=measure, n=n, ignores=("period", "department", "triage"),
    )  # fmt: skip


def _blood_mix(mart: Mart, where: Slice) -> Figure:
    rows = [r for r in data.blood_groups(mart, where) if r["share_pct"] is not None]
    measure = measure_of("kpi_blood_groups")
    if not rows:
        return empty("blood-mix", "Blood groups of patients", TOO_FEW, 6, measure)
    order = {"O-": 0, "O+": 1, "A-": 2, "A+": 3, "B-": 4, "B+": 5, "AB-": 6, "AB+": 7}
    rows.sort(key=lambda r: order.get(r["blood_group"], 9))
    most = max(max(r["share_pct"], r["reference_share_pct"] or 0) for r in rows)
    return Figure(
        "blood-mix", "Blood groups beside the US population", "Percent of patients with a known group; mark: US reference", "table",
        (Column("Group"), Column("", is_wide=True), Column("%", 1), Column("US %", 1), Column("Patients", 0)),
        [[_group(r["blood_group"]), Drawn(svg.bar(r["share_pct"] / most, target=(r["reference_share_pct"] or 0) / most)),
          r["share_pct"], r["reference_share_pct"], r["patient_count"]] for r in rows],
        span=6, measure=measure, n=rows[0]["known_patient_count"], ignores=("period", "department", "triage"),
        note="Stock is not in the data, so days of cover cannot be shown.",
    )  # fmt: skip


def workforce(mart: Mart, where: Slice) -> Page:
    """Doctors against demand: by hour, by day, by person within the limits of chance."""
    until = mart.known.complete_until
    days = data.workload_by_day(mart, where)
    found = judged(
        {"load": (points_of(days, "value", "visit_count", until, FEW), "neither")}, where
    )
    staff = data.staff_by_hour(mart, where)
    active = data.active_doctors(mart, where)
    ignores: tuple[Slicer, ...] = ("department", "triage")
    measure = measure_of("kpi_physician_workload")
    newest = found["load"].points[-1:] or None
    shifts = data.shift_patterns(mart, where)
    cards = [
        _doctors_card(active),
        Card("load", "New patients per shift hour", number(newest[0].value, 2) if newest else "\u2013",
             "/h" if newest else "", f"{newest[0].day.day} {newest[0].day:%b}" if newest else TOO_FEW,
             found["load"].latest, spark_of(found["load"]), measure, ignores),
        Card("hours", "Hours on shift", number(active["shift_hours"]), "h", "in the period", measure=measure, ignores=ignores),
    ]  # fmt: skip
    if shifts:
        cards += [
            Card("long", "Shifts of 12 h or more", number(shifts["long_count"]), "",
                 f"of {number(shifts['shifts_count'])} shifts", measure=measure, ignores=ignores),
            Card("nights", "Nights after a night", number(shifts["nights_in_a_row_count"]), "",
                 f"of {number(shifts['nights_count'])} nights (start 21:00 or later)", measure=measure, ignores=ignores),
            Card("rest", "Under 11 h rest", number(shifts["short_rest_count"]), "",
                 "between two shifts of a doctor", measure=measure, ignores=ignores),
        ]  # fmt: skip
    return Page(
        _news(found), cards,
        [
            control_figure("load-trend", "New patients per shift hour", found["load"], unit="/h", span=8,
                           measure=measure, ignores=ignores, digits=2, height=300, noun="new patients"),
            _doctors(mart, where, span=4),
            _staffing(staff, where),
            _pressure(staff, where),
        ],
    )  # fmt: skip


def _staffing(rows: list[Row], where: Slice) -> Figure:
    measure = measure_of("kpi_peak_hours")
    known = [r for r in rows if r["arrivals_per_hour"] is not None and r["doctors"] is not None]
    if len(known) < 24:
        return empty("staffing", "Staff against arrivals", "No staffing in this slice", 12, measure)
    hardest = max(known, key=lambda r: r["arrivals_per_hour"] / max(r["doctors"], 0.1))
    labels = [f"{_WEEKDAYS[r['iso_weekday_number'] - 1]} {r['hour_of_day']:02d}:00" for r in known]
    return Figure(
        "staffing",
        f"Thinnest cover: {_WEEKDAYS[hardest['iso_weekday_number'] - 1]} {hardest['hour_of_day']:02d}:00, "
        f"{number(hardest['arrivals_per_hour'] / max(hardest['doctors'], 0.1), 1)} arrivals per doctor",
        "Mean arrivals and attendings in each local hour of the week, per hospital", "series",
        (Column("Hour"), Column("Arrivals per hour", 2), Column("Doctors on shift", 2), Column("Arrivals per doctor", 2)),
        [[label, r["arrivals_per_hour"], r["doctors"], r["arrivals_per_hour"] / max(r["doctors"], 0.1)]
         for label, r in zip(labels, known, strict=True)],
        series(labels, [line("doctors", [r["doctors"] for r in known], "step"),
                        line("arrivals", [r["arrivals_per_hour"] for r in known], "actual")], unit="/h", zero=True),
        12, measure, None, ("department", "triage"), height=240,
    )  # fmt: skip


def _pressure(rows: list[Row], where: Slice) -> Figure:
    measure = measure_of("kpi_peak_hours")
    cells: list[list[float | None]] = [[None] * 24 for _ in range(7)]
    worst: list[tuple[float, Row]] = []
    for r in rows:
        if r["arrivals_per_hour"] is not None and r["doctors"]:
            value = r["arrivals_per_hour"] / r["doctors"]
            cells[r["iso_weekday_number"] - 1][r["hour_of_day"]] = value
            worst.append((value, r))
    if not worst:
        return empty(
            "pressure", "Where a doctor more would help", "No staffing in this slice", 12, measure
        )
    worst.sort(key=lambda found: -found[0])
    best = ", ".join(
        f"{_WEEKDAYS[r['iso_weekday_number'] - 1]} {r['hour_of_day']:02d}:00" for _, r in worst[:3]
    )
    return Figure(
        "pressure", f"One doctor more would help most at {best}",
        "Arrivals per doctor on shift, by weekday and local hour; stronger colour is more", "heatmap",
        (Column("Weekday"), Column("Hour"), Column("Arrivals per doctor", 2)),
        [[_WEEKDAYS[r["iso_weekday_number"] - 1], f"{r['hour_of_day']:02d}:00", value] for value, r in worst],
        {"cells": cells, "rows": list(_WEEKDAYS), "columns": [f"{h:02d}" for h in range(24)], "unit": "per doctor"},
        12, measure, None, ("department", "triage"), "A suggestion from means of the period, not a roster.", 260,
    )  # fmt: skip


#: What is watched day by day -> label, groups of dim_condition.
_WATCHED = {
    "respiratory": (
        "Respiratory infections",
        ("Influenza", "Acute upper respiratory infection", "Acute bronchitis and bronchiolitis",
         "Pneumonia", "COVID-19"),
    ),
    "sepsis": ("Sepsis", ("Sepsis",)),
    "injury": (
        "Injuries",
        ("Head injury", "Injury of arm and hand", "Injury of leg and foot",
         "Multiple and unspecified injury"),
    ),
}  # fmt: skip


def conditions(mart: Mart, where: Slice) -> Page:
    """What people come with, who they are, whether they come back."""
    rows = data.conditions(mart, where)
    measure = measure_of("kpi_conditions")
    ignores: tuple[Slicer, ...] = ("period", "department", "triage")
    figures: list[Figure] = []
    if rows:
        most = max(r["visit_count"] for r in rows)
        figures.append(Figure(
            "conditions", f"Commonest: {rows[0]['condition_name'] or rows[0]['icd_code']}",
            "Visits by principal diagnosis, in percent of coded visits", "table",
            (Column("Condition"), Column("Code"), Column("", is_wide=True), Column("Visits", 0), Column("%", 1)),
            [[r["condition_name"] or "", r["icd_code"], Drawn(svg.bar(r["visit_count"] / most)), r["visit_count"], r["share_pct"]]
             for r in rows],
            span=7, measure=measure, n=rows[0]["coded_visit_count"], ignores=ignores,
        ))  # fmt: skip
    else:
        figures.append(empty("conditions", "Commonest conditions", TOO_FEW, 7, measure))
    figures += [
        _groups(mart, where),
        *_surveillance(mart, where),
        _pyramid(mart, where),
        *(_people(mart, where, name, label) for name, label in (("race", "Race"), ("ethnicity", "Ethnicity"))),
        _equity(mart, where),
        _procedures(mart, where),
        _by_month("returns", "Back within 72 hours", data.returns_by_month(mart, where), measure_of("kpi_returns")),
        _by_month("readmissions", "Readmitted within 30 days", data.readmissions_by_month(mart, where),
                  measure_of("kpi_readmissions")),
    ]  # fmt: skip
    return Page((), (), figures)


def _groups(mart: Mart, where: Slice) -> Figure:
    rows = [r for r in data.condition_groups(mart, where) if r["visit_count"]]
    measure = measure_of("kpi_condition_groups")
    if not rows:
        return empty("groups", "Groups of conditions", TOO_FEW, 5, measure)
    most = max(r["visit_count"] for r in rows)
    return Figure(
        "groups", f"Largest group: {rows[0]['condition_group']}", "Visits by clinical group of the principal diagnosis", "table",
        (Column("Group"), Column("", is_wide=True), Column("Visits", 0), Column("%", 1)),
        [[r["condition_group"], Drawn(svg.bar(r["visit_count"] / most)), r["visit_count"], r["share_pct"]] for r in rows],
        span=5, measure=measure, n=rows[0]["coded_visit_count"], ignores=("period", "department", "triage"),
    )  # fmt: skip


def _surveillance(mart: Mart, where: Slice) -> list[Figure]:
    measure = measure_of("kpi_conditions")
    until = mart.known.complete_until
    found = judged(
        {
            key: (
                points_of(data.surveillance_by_day(mart, where, groups), "value", "n", until, 0),
                "lower",
            )
            for key, (_, groups) in _WATCHED.items()
        },
        where,
    )
    return [
        control_figure(f"{key}-trend", label, found[key], unit="visits", measure=measure, span=4, digits=0,
                       ignores=("department", "triage"), height=200)
        if any(p.value for p in found[key].points)
        else empty(f"{key}-trend", label, "No visits by day of these groups in this publication", 4, measure)
        for key, (label, _) in _WATCHED.items()
    ]  # fmt: skip


def _people(mart: Mart, where: Slice, characteristic: str, label: str) -> Figure:
    rows = [r for r in data.demographics(mart, where) if r["characteristic"] == characteristic]
    measure = measure_of("kpi_demographics")
    known = [r for r in rows if r["visit_count"] and r["patient_count"]]
    if not known:
        return empty(characteristic, label, TOO_FEW, 4, measure)
    known.sort(key=lambda r: -r["visit_count"])
    most = max(r["visit_count"] for r in known)
    return Figure(
        characteristic, f"{label}: {known[0]['category']} {number(known[0]['share_of_visits_pct'])} %",
        "Visits, and visits per patient; shares of the population are not in the data", "table",
        (Column(label), Column("", is_wide=True), Column("Visits", 0), Column("%", 1), Column("Per patient", 2)),
        [[r["category"], Drawn(svg.bar(r["visit_count"] / most)), r["visit_count"], r["share_of_visits_pct"],
          r["visit_count"] / r["patient_count"]] for r in known],
        span=4, measure=measure, n=sum(r["visit_count"] for r in known), ignores=("period", "department", "triage"),
    )  # fmt: skip


def _equity(mart: Mart, where: Slice) -> Figure:
    rows = [
        r for r in data.equity(mart, where) if r["wait_count"] >= FEW and r["error"] is not None
    ]
    measure = measure_of("kpi_waits")
    if not rows:
        return empty(
            "equity",
            "Wait by group of people",
            TOO_FEW if mart.has_visits else _NOT_PUBLISHED,
            6,
            measure,
        )
    high = max(r["average"] + 1.96 * r["error"] for r in rows)
    sexes = [r for r in rows if r["characteristic"] == "sex"] or rows
    overall = sum(r["average"] * r["wait_count"] for r in sexes) / sum(
        r["wait_count"] for r in sexes
    )
    apart = sum(abs(r["average"] - overall) > 1.96 * r["error"] for r in rows)
    return Figure(
        "equity", f"Wait by group: {apart} of {len(rows)} differ from the average of {number(overall, 1)} min",
        f"Average minutes and its 95 % interval, not adjusted for triage; {_visit_days(where)}", "table",
        (Column("Group"), Column("95 % interval", is_wide=True), Column("Average", 1), Column("from", 1), Column("to", 1), Column("n", 0)),
        [[r["category"],
          Drawn(svg.range_mark(max(r["average"] - 1.96 * r["error"], 0) / high, (r["average"] + 1.96 * r["error"]) / high)),
          r["average"], r["average"] - 1.96 * r["error"], r["average"] + 1.96 * r["error"], r["wait_count"]] for r in rows],
        span=6, measure=measure, n=sum(r["wait_count"] for r in rows if r["characteristic"] == "sex"),
    )  # fmt: skip


def _procedures(mart: Mart, where: Slice) -> Figure:
    rows = [r for r in data.procedures(mart, where) if r["procedure_count"]]
    measure = measure_of("kpi_procedures")
    if not rows:
        return empty("procedures", "Procedures", TOO_FEW, 6, measure)
    most = rows[0]["procedure_count"]
    return Figure(
        "procedures", f"Commonest procedure: {rows[0]['procedure_name'] or rows[0]['procedure_code']}", "Procedures by code", "table",
        (Column("Procedure"), Column("", is_wide=True), Column("Count", 0), Column("%", 1)),
        [[r["procedure_name"] or r["procedure_code"], Drawn(svg.bar(r["procedure_count"] / most)), r["procedure_count"], r["share_pct"]]
         for r in rows[:12]],
        span=6, measure=measure, n=sum(r["procedure_count"] for r in rows), ignores=("period", "department", "triage"),
        note="The commonest; n is those listed.",
    )  # fmt: skip


def _by_month(figure_id: str, label: str, rows: list[Row], measure: Measure) -> Figure:
    known = [r for r in rows if (r["denominator_count"] or 0) >= FEW and r["value_pct"] is not None]
    if not known:
        return empty(
            figure_id, label, "No month with enough patients whose time is over", 6, measure
        )
    most = max(r["value_pct"] for r in known) or 1
    newest = known[-1]
    return Figure(
        figure_id, f"{label}: {number(newest['value_pct'], 1)} %, {newest['period_month']:%B}", measure.definition, "table",
        (Column("Month"), Column("", is_wide=True), Column("%", 1), Column("Count", 0), Column("n", 0)),
        [[f"{r['period_month']:%b %Y}", Drawn(svg.bar(r["value_pct"] / most)), r["value_pct"], r["numerator_count"], r["denominator_count"]]
         for r in known],
        span=6, measure=measure, n=sum(r["denominator_count"] for r in known), ignores=("department", "triage"),
    )  # fmt: skip


def forecast(mart: Mart, where: Slice) -> Page:
    """What is to come, by the seasonal baseline, and how well that has done."""
    rows = data.daily_forecast(mart, where)
    measure = measure_of("kpi_peak_hours")
    ignores: tuple[Slicer, ...] = ("period", "department", "triage")
    judged_days = [
        r for r in rows if r["actual"] is not None and r["baseline"] is not None and r["n"] >= 3
    ]
    future = [r for r in rows if r["actual"] is None and r["baseline"] is not None]
    if not future:
        return Page(
            (),
            (),
            [
                empty(
                    "forecast",
                    "Arrivals of the next 14 days",
                    "No weeks to learn from",
                    12,
                    measure,
                )
            ],
        )
    errors = [r["actual"] - r["baseline"] for r in judged_days]
    mae = sum(map(abs, errors)) / len(errors) if errors else None
    mean = sum(r["actual"] for r in judged_days) / len(judged_days) if judged_days else None
    within = [
        r["low_inner"] <= r["actual"] <= r["high_inner"]
        for r in judged_days if r["low_inner"] is not None
    ]  # fmt: skip
    inside = [r["low_outer"] <= r["actual"] <= r["high_outer"] for r in judged_days]
    weeks = max((r["n"] for r in future), default=0)
    inner, outer = 100 * max(weeks - 3, 0) / (weeks + 1), 100 * max(weeks - 1, 0) / (weeks + 1)
    cards = [
        Card("next-7", "Arrivals, next 7 days", number(sum(r["baseline"] for r in future[:7])), "", "sum of the daily medians",
             measure=measure, ignores=ignores),
        Card("error", "Usual error", number(mae, 0) if mae is not None else "\u2013", "arrivals a day" if mae is not None else "",
             f"{number(100 * mae / mean, 1)} % of the mean; {len(errors)} days, each forecast a week ahead" if mae is not None and mean else
             "not enough weeks to say", measure=measure, ignores=ignores),
        Card("bias", "Bias", number(sum(errors) / len(errors), 1) if errors else "\u2013", "a day" if errors else "",
             "actual minus forecast", measure=measure, ignores=ignores),
        Card("coverage", "Days inside the bands", number(100 * sum(inside) / len(inside)) if inside else "\u2013", "%" if inside else "",
             f"meant: {number(outer)} %; inner band {number(100 * sum(within) / len(within))} %, meant {number(inner)} %; {len(inside)} days"
             if inside and within else "", measure=measure, ignores=ignores),
    ]  # fmt: skip
    labels = [r["day"].isoformat() for r in rows]
    coming = [r["actual"] is None for r in rows]
    busiest = max(future, key=lambda r: r["baseline"])
    daily = Figure(
        "forecast", f"Busiest of the next 14 days: {busiest['day']:%a} {busiest['day'].day} {busiest['day']:%b}, {number(busiest['baseline'])} arrivals",
        f"Arrivals a day: actual solid, forecast dashed (median of the same weekday, {weeks} weeks), inner band {number(inner)} %, outer {number(outer)} % likely", "series",
        (Column("Day"), Column("Actual", 0), Column("Forecast", 0), Column("Inner from", 0), Column("to", 0), Column("Outer from", 0),
         Column("to", 0), Column("Weeks (n)", 0)),
        [[r["day"].isoformat(), r["actual"], r["baseline"], r["low_inner"], r["high_inner"], r["low_outer"], r["high_outer"], r["n"]] for r in rows],
        series(labels,
               [line("forecast", [r["baseline"] if new else None for r, new in zip(rows, coming, strict=True)], "forecast"),
                line("actual", [r["actual"] for r in rows], "actual")],
               unit="arrivals", digits=0,
               bands=[
                   {"name": "outer band", "style": "wide", "low": [r["low_outer"] if new else None for r, new in zip(rows, coming, strict=True)],
                    "high": [r["high_outer"] if new else None for r, new in zip(rows, coming, strict=True)]},
                   {"name": "inner band", "style": "spread", "low": [r["low_inner"] if new else None for r, new in zip(rows, coming, strict=True)],
                    "high": [r["high_inner"] if new else None for r, new in zip(rows, coming, strict=True)]},
               ], zero=True),
        12, measure, None, ignores,
        f"Seasonal baseline, not a model: trained on the {data.BASELINE_WEEKS} weeks to {mart.known.complete_until.isoformat()}. "
        "The bands are the second lowest to the second highest, and the lowest to the highest, of those weeks.",
        280,
    )  # fmt: skip
    return Page((), cards, [daily, _hourly_forecast(mart, where)])


def _hourly_forecast(mart: Mart, where: Slice) -> Figure:
    rows = [r for r in data.hourly_forecast(mart, where) if r["baseline"] is not None]
    measure = measure_of("kpi_peak_hours")
    if len(rows) < 2:
        return empty(
            "forecast-hours", "Arrivals of the next 48 hours", "No weeks to learn from", 12, measure
        )
    peak = max(rows, key=lambda r: r["baseline"])
    labels = [f"{r['day'].isoformat()}T{r['hour_of_day']:02d}:00" for r in rows]
    return Figure(
        "forecast-hours", f"Next 48 hours: peak {peak['day']:%a} {peak['hour_of_day']:02d}:00, {number(peak['baseline'])} arrivals",
        "Arrivals an hour: median and range of the same hour in the weeks before; local time of each hospital", "series",
        (Column("Hour"), Column("Forecast", 1), Column("Lowest", 1), Column("Highest", 1), Column("Weeks (n)", 0)),
        [[label.replace("T", " "), r["baseline"], r["low_outer"], r["high_outer"], r["n"]] for label, r in zip(labels, rows, strict=True)],
        series(labels, [line("forecast", [r["baseline"] for r in rows], "forecast")], unit="arrivals", digits=1, zero=True,
               bands=[{"name": "range", "style": "spread", "low": [r["low_outer"] for r in rows], "high": [r["high_outer"] for r in rows]}]),
        12, measure, None, ("period", "department", "triage"), height=240,
    )  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A page of the menu.

    Attributes:
        name: in the address.
        title: in the menu.
        build: what is on it; None where the page is made elsewhere.
        has_slicers: whether the slicer bar is shown.
        roles: who may open it.
    """

    name: str
    title: str
    build: Callable[[Mart, Slice], Page] | None
    has_slicers: bool = True
    roles: frozenset[str] = frozenset(("admin", "doctor", "analyst", "executive"))


MENU = (
    Entry("overview", "Overview", overview),
    Entry("flow", "Flow & waits", flow),
    Entry("live", "Live triage", None, False, frozenset(("admin", "doctor"))),
    Entry("capacity", "Capacity", capacity),
    Entry("workforce", "Workforce", workforce),
    Entry("conditions", "Conditions", conditions),
    Entry("quality", "Data quality", None, has_slicers=False),
    Entry("forecast", "Forecast", forecast),
    Entry("governance", "Governance", None, False, frozenset(("admin",))),
)
