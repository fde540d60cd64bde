"""Flow and waits: from arrival to departure, where time goes, and against which standard."""

from __future__ import annotations

import itertools
from typing import Any

from hospital_assets import charts
from hospital_assets.charts import number, percentage
from hospital_assets.contracts.table import Measure
from hospital_assets.dashboard.figures import (
    TOO_FEW,
    Cell,
    Column,
    Drawn,
    Figure,
    Page,
    Slicer,
    bars,
    control_charts,
    empty,
    figure,
    line,
    measure_of,
    series,
)
from hospital_assets.dashboard.mart import Mart, Row
from hospital_assets.dashboard.pages import flow_queries as queries
from hospital_assets.dashboard.pages import shared_queries
from hospital_assets.dashboard.pages.shared import (
    BASIS,
    NO_MONTH,
    month_column,
    newest_complete,
    news,
    no_visits,
    rate_card,
    share_trends,
    visit_days,
)
from hospital_assets.dashboard.slices import Slice
from hospital_assets.measures import thresholds
from hospital_assets.measures.natural_limits import Better
from hospital_assets.measures.words import in_hours


def flow(mart: Mart, where: Slice) -> Page:
    """From arrival to departure: where time goes, and against which standard."""
    better: dict[str, Better] = {"four_hour": "higher", "twelve": "lower", "lwbs": "lower", "critical": "lower"}
    rates = {name: shared_queries.rate(mart, where, name) for name in better}
    found = control_charts(mart, where, {name: (rates[name].points[name], better[name]) for name in better})
    limit = thresholds.CRITICAL_WAIT_MINUTES
    names = {
        "four_hour": (f"Within {in_hours(thresholds.FOUR_HOUR_MINUTES)}", measure_of("kpi_four_hour_daily")),
        "twelve": (
            f"Over {in_hours(thresholds.TWELVE_HOUR_MINUTES)}",
            measure_of("kpi_four_hour_daily", "Twelve-hour stays"),
        ),
        "lwbs": ("Left without being seen", measure_of("kpi_lwbs_daily")),
        "critical": (f"Critical over {limit:g} minutes", measure_of("kpi_critical_waits_daily")),
    }
    ignores: tuple[Slicer, ...] = ("department", "triage")
    ways = queries.pathways(mart, where)
    cards = [
        rate_card(mart, name, label, rates[name].total, found[name], measure, ignores)
        for name, (label, measure) in names.items()
    ]
    figures = [
        _stages(mart, where),
        _pathways(mart, ways, where),
        *share_trends(names, found, ignores),
        _histogram(mart, where),
        _waits_by_hour(mart, where),
        _endings(mart, ways, where),
        _handovers(mart, where),
        _op18(mart, where),
        *(
            _units(mart, metric, label, measure)
            for metric, label, measure in (
                ("four_hour_pct", f"{names['four_hour'][0]}, by hospital", measure_of("kpi_units")),
                ("lwbs_pct", "Left without being seen, by hospital", measure_of("kpi_units")),
            )
        ),
    ]
    return Page(news(found, {name: label for name, (label, _) in names.items()}), cards, figures, BASIS)


#: Stage -> what it is called.
_STAGES = {
    "triage": "Triage",
    "room": "Treatment room",
    "provider": "First provider",
    "decision": "Decision",
    "departure": "Departure",
}


def _stages(mart: Mart, where: Slice) -> Figure:
    rows = queries.stages(mart, where)
    measure = measure_of("kpi_stages_daily")
    title = "The way through the department"
    n = max((row["visit_count"] for row in rows.values()), default=0)
    timed = {stage: row for stage, row in rows.items() if row["timed_count"] >= mart.few and row["median"] is not None}
    if n < mart.few or not timed:
        return empty("stages", title, TOO_FEW, 12, measure)
    longest = max(row["p90"] or 0 for row in timed.values()) or 1
    slowest = max(timed, key=lambda stage: timed[stage]["median"])
    cells: list[list[Cell]] = [["Arrival", n, 100.0, Drawn(charts.bar(1.0)), None, None, None, ""]]
    for stage, label in _STAGES.items():
        reached = rows[stage]["reached_count"] if stage in rows else 0
        row = timed.get(stage, {"average": None, "median": None, "p90": None})
        drawn = (
            Drawn(charts.range_mark(row["median"] / longest, row["p90"] / longest))
            if row["median"] is not None and row["p90"] is not None
            else ""
        )
        bar = Drawn(charts.bar(min(reached / n, 1)))
        cells.append([label, reached, 100 * reached / n, bar, row["average"], row["median"], row["p90"], drawn])
    return Figure(
        "stages",
        f"The way through: the longest step is up to {_STAGES[slowest].lower()}, "
        f"median {number(timed[slowest]['median'])} min",
        "Visits that reached each stage, and minutes since the previous one",
        "table",
        (
            Column("Stage"),
            Column("Visits", 0),
            Column("% of arrivals", 1),
            Column("", is_wide=True),
            Column("Average min", 1),
            Column("Median min", 1),
            Column("90th min", 1),
            Column("Median to 90th", is_wide=True),
        ),
        cells,
        span=12,
        measure=measure,
        n=n,
        note="Median and 90th percentile are those of a typical day (median over the days).",
    )


def _histogram(mart: Mart, where: Slice) -> Figure:
    rows = queries.wait_histogram(mart, where)
    measure = measure_of("fact_emergency_visits", "Distribution of waits")
    n = sum(row["visit_count"] for row in rows)
    if n < mart.few:
        return no_visits(mart, "histogram", "How long people wait", measure)
    counts = {row["step"]: row["visit_count"] for row in rows}
    most = max(counts.values())
    cells: list[list[Cell]] = []
    seen = 0
    for step in range(9):
        count = counts.get(step, 0)
        seen += count
        label = "240 and more" if step == 8 else f"{30 * step} to {30 * step + 30}"
        cells.append([label, Drawn(charts.bar(count / most)), count, 100 * count / n, 100 * seen / n])
    hour = percentage(sum(count for step, count in counts.items() if step < 2), n, 0)
    return Figure(
        "histogram",
        f"Of those seen, {hour} % are seen within the hour",
        f"Visits by minutes from door to provider, {visit_days(where)}",
        "table",
        (Column("Minutes"), Column("", is_wide=True), Column("Visits", 0), Column("%", 1), Column("Seen by then %", 1)),
        cells,
        span=6,
        measure=measure,
        n=n,
    )


def _waits_by_hour(mart: Mart, where: Slice) -> Figure:
    rows = queries.waits_by_hour(mart, where)
    measure = measure_of("fact_emergency_visits", "Waits by hour of arrival")
    shown = [row for row in rows if row["wait_count"] >= mart.few]
    if len(shown) < 2:
        return no_visits(mart, "wait-hours", "Wait by hour of arrival", measure)
    worst = max(shown, key=lambda row: row["median"])
    by_hour = {row["hour_of_day"]: row for row in shown}
    hours = range(24)

    def values(name: str) -> list[float | None]:
        return [by_hour[h][name] if h in by_hour else None for h in hours]

    return figure(
        "wait-hours",
        f"Patients who arrive at {worst['hour_of_day']:02d}:00 wait longest: median {number(worst['median'])} min",
        f"Minutes by local hour of arrival: median, and from the 10th to the 90th percentile; {visit_days(where)}",
        shown,
        Column("Hour", of=lambda r: f"{r['hour_of_day']:02d}:00"),
        Column("n", 0, "wait_count"),
        Column("10th", 1, "p10"),
        Column("Median", 1, "median"),
        Column("90th", 1, "p90"),
        kind="series",
        spec=series(
            [f"{h:02d}:00" for h in hours],
            [line("median", values("median"), "actual")],
            unit="min",
            bands=[{"name": "10th to 90th", "low": values("p10"), "high": values("p90"), "style": "spread"}],
            zero=True,
        ),
        measure=measure,
        n=sum(r["wait_count"] for r in shown),
        height=300,
    )


def _pathways(mart: Mart, rows: list[Row], where: Slice) -> Figure:
    """From arrival mode over triage to disposition."""
    measure = measure_of("kpi_pathways_daily")
    n = sum(row["visit_count"] for row in rows)
    if n < mart.few:
        return no_visits(mart, "pathways", "Ways through the department", measure, 12)
    levels = {None: "Not triaged"} | {int(level): f"{level} {name}" for level, name in mart.known.triage.items()}
    columns: list[tuple[str, str, list[Any]]] = [
        ("Arrival", "arrival_mode", _commonest(rows, "arrival_mode")),
        ("Triage", "triage_level", [*(found for found in levels if found is not None), None]),
        ("Ended", "disposition", _commonest(rows, "disposition")),
    ]

    def named(column: str, value: str | int | None) -> str:
        if column == "triage_level":
            return levels[value]  # type: ignore[index]
        return str(value).replace("_", " ").capitalize()

    def counted(*conditions: tuple[str, object]) -> int:
        return sum(r["visit_count"] for r in rows if all(r[name] == value for name, value in conditions))

    there = [(title, name, [v for v in values if counted((name, v))]) for title, name, values in columns]
    flows = []
    table: list[list[Cell]] = []
    for at, ((_, start, starts), (_, end, ends)) in enumerate(itertools.pairwise(there)):
        for (i, a), (j, b) in itertools.product(enumerate(starts), enumerate(ends)):
            count = counted((start, a), (end, b))
            if count:
                level = a if start == "triage_level" else b
                style = "none" if level is None else f"t{level}"
                flows.append({"column": at, "start": i, "end": j, "value": count, "style": style})
                of = counted((start, a))
                share = 100 * count / of if of >= mart.few else None
                table.append([named(start, a), named(end, b), count, share])
    most = max(rows, key=lambda r: r["visit_count"])
    way = ", ".join(named(name, most[name]).lower() for name in ("arrival_mode", "triage_level", "disposition"))
    return Figure(
        "pathways",
        f"Most common path: {way}, {percentage(most['visit_count'], n, 0)} % of visits",
        "Visits from arrival through triage to disposition; stronger colour is more urgent",
        "sankey",
        (Column("From"), Column("To"), Column("Visits", 0), Column("% of from", 1)),
        table,
        {
            "columns": [
                {"name": title, "nodes": [{"name": named(name, v), "value": counted((name, v))} for v in values]}
                for title, name, values in there
            ],
            "flows": flows,
        },
        12,
        measure,
        n,
        height=360,
    )


def _commonest(rows: list[Row], name: str) -> list[str]:
    """The values of a column, the most common first."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row[name]] = counts.get(row[name], 0) + row["visit_count"]
    return sorted(counts, key=lambda value: (-counts[value], str(value)))


def _endings(mart: Mart, rows: list[Row], where: Slice) -> Figure:
    measure = measure_of("kpi_pathways_daily")
    n = sum(row["visit_count"] for row in rows)
    if n < mart.few:
        return no_visits(mart, "endings", "How visits begin and end", measure)
    modes, ends = _commonest(rows, "arrival_mode"), _commonest(rows, "disposition")
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        pair = row["arrival_mode"], row["disposition"]
        counts[pair] = counts.get(pair, 0) + row["visit_count"]
    of_mode = {m: sum(counts.get((m, e), 0) for e in ends) for m in modes}
    home = percentage(sum(counts.get((m, "home"), 0) for m in modes), n, 0)

    def share(mode: str, end: str) -> Cell:
        count = counts.get((mode, end), 0)
        return "too few" if 0 < count < mart.few else 100 * count / of_mode[mode]

    return Figure(
        "endings",
        f"{home} % go home from the department",
        "Percent of each arrival mode by how the visit ended",
        "table",
        (Column("Ended"), *(Column(m.replace("_", " ").capitalize(), 1) for m in modes), Column("Visits", 0)),
        [
            [e.replace("_", " ").capitalize(), *(share(m, e) for m in modes), sum(counts.get((m, e), 0) for m in modes)]
            for e in ends
        ],
        span=6,
        measure=measure,
        n=n,
    )


def _handovers(mart: Mart, where: Slice) -> Figure:
    row = queries.handovers(mart, where)
    measure = measure_of("kpi_handovers_daily")
    if row is None or row["n"] < mart.few:
        return empty("handovers", "Ambulance handovers", TOO_FEW, 6, measure)
    average = f", average {number(row['average'], 1)} min" if row["average"] is not None else ""
    limits = (
        (thresholds.HANDOVER_MINUTES, "over"),
        (thresholds.LATE_HANDOVER_MINUTES, "late"),
        (thresholds.LONG_HANDOVER_MINUTES, "long"),
    )
    late = percentage(row["over"], row["n"])
    return Figure(
        "handovers",
        f"Ambulance handover: {late} % take over {thresholds.HANDOVER_MINUTES} minutes",
        f"Arrival to handover{average}",
        "table",
        (Column("Longer than"), Column("", is_wide=True), Column("Handovers", 0), Column("%", 1)),
        [
            [f"{limit} min", Drawn(charts.bar(row[name] / row["n"])), row[name], 100 * row[name] / row["n"]]
            for limit, name in limits
        ],
        span=6,
        measure=measure,
        n=row["n"],
        note=f"{number(row['unknown'])} more came by ambulance without a valid handover." if row["unknown"] else "",
    )


def _op18(mart: Mart, where: Slice) -> Figure:
    rows = queries.op18_by_month(mart, where)
    measure = measure_of("kpi_op18")
    known = [r for r in rows if r["median_minutes"] is not None and (r["denominator_count"] or 0) >= mart.few]
    if not known:
        return empty("op18", "OP-18", TOO_FEW, 12, measure)
    newest = newest_complete(mart, known)
    return figure(
        "op18",
        f"OP-18b: discharged patients spend {number(newest['median_minutes'])} min, {newest['period_month']:%B}"
        if newest
        else f"OP-18b: {NO_MONTH}",
        "Median minutes from arrival to departure by month of departure, without mental health and transfers",
        rows,
        month_column(mart),
        bars(lambda r: (r["median_minutes"] or 0) / max(k["median_minutes"] for k in known)),
        Column("Median min", 1, "median_minutes"),
        Column("n", 0, "denominator_count"),
        span=12,
        measure=measure,
        n=sum(r["denominator_count"] or 0 for r in known),
        ignores=("department", "triage"),
    )


def _units(mart: Mart, metric: str, label: str, measure: Measure) -> Figure:
    rows = queries.units(mart, metric)
    known = [
        r
        for r in rows
        if r["value_pct"] is not None and r["lower_limit_pct"] is not None and (r["denominator_count"] or 0) >= mart.few
    ]
    if len(known) < 2:
        return empty(f"{metric}-units", label, TOO_FEW, 6, measure)
    outside = sum(bool(r["is_outside"]) for r in known)
    dispersion = known[0]["dispersion"]
    spread = mart.chance("kpi_units", "" if dispersion is None else "how much hospitals differ anyway")
    note = (
        "Too few hospitals to tell how much they differ anyway."
        if dispersion is None
        else f"Hospitals differ {number(dispersion, 1)} times as much as by chance; the band allows for it."
        if dispersion > 1
        else ""
    )
    return figure(
        f"{metric}-units",
        f"{label}: {outside} of {len(known)} outside the limits",
        f"Percent by number of visits, a point for each hospital; band: {spread} (3\u03c3), around all together",
        known,
        Column("Hospital", of=lambda r: mart.known.hospitals.get(r["hospital_id"], r["hospital_id"])),
        Column("n", 0, "denominator_count"),
        Column("%", 2, "value_pct"),
        Column("Limits", of=lambda r: f"{number(r['lower_limit_pct'], 1)} to {number(r['upper_limit_pct'], 1)}"),
        Column("Outside", of=lambda r: "yes" if r["is_outside"] else "no"),
        kind="dots",
        spec={
            "points": [
                {
                    "name": mart.known.hospitals.get(r["hospital_id"], r["hospital_id"]),
                    "x": r["denominator_count"],
                    "y": r["value_pct"],
                    "low": r["lower_limit_pct"],
                    "high": r["upper_limit_pct"],
                    "is_outside": bool(r["is_outside"]),
                }
                for r in known
            ],
            "centre": known[0]["centre_pct"],
            "unit": "%",
            "x_name": "visits (n)",
        },
        note=note,
        measure=measure,
        n=sum(r["denominator_count"] for r in known),
        ignores=("period", "hospital", "department", "triage"),
    )
