"""The Workforce page: doctors against demand by hour and day, within chance limits, shifts, rest, the week ahead."""

from __future__ import annotations

from hospital_assets.charts import number
from hospital_assets.dashboard.figures import (
    TOO_FEW,
    Card,
    Column,
    Figure,
    Page,
    Slicer,
    against_chance,
    control_charts,
    control_figure,
    empty,
    line,
    measure_of,
    on,
    series,
)
from hospital_assets.dashboard.mart import Mart, Row
from hospital_assets.dashboard.pages import shared_queries
from hospital_assets.dashboard.pages import workforce_queries as queries
from hospital_assets.dashboard.pages.shared import BASIS, WEEKDAYS, doctors, doctors_card, hour_of_week, news
from hospital_assets.dashboard.pages.workforce_rosters import week_ahead
from hospital_assets.dashboard.slices import Slice
from hospital_assets.measures.thresholds import LONG_SHIFT_HOURS, NIGHT_STARTS_HOUR, SHORTEST_REST_HOURS


def workforce(mart: Mart, where: Slice) -> Page:
    """Doctors against demand by hour and day, doctors within chance limits, shifts and rest."""
    found = control_charts(mart, where, {"load": (queries.workload(mart, where).points["load"], "neither")})
    staff = queries.staff_by_hour(mart, where)
    active = shared_queries.active_doctors(mart, where)
    ignores: tuple[Slicer, ...] = ("department", "triage")
    measure = measure_of("kpi_physician_workload")
    newest = found["load"].points[-1:] or None
    shifts = queries.shift_patterns(mart, where)
    cards = [
        doctors_card(active),
        Card(
            "load",
            "New patients per shift hour",
            number(newest[0].value, 2) if newest else "\u2013",
            "/h" if newest else "",
            on(newest[0].day) if newest else TOO_FEW,
            against_chance(found["load"], is_newest=True),
            measure,
            ignores,
        ),
        Card(
            "hours",
            "Hours on shift",
            number(active["shift_hours"]),
            "h",
            "in the period",
            measure=measure,
            ignores=ignores,
        ),
    ]
    if shifts:
        cards += _shift_cards(shifts, ignores)
    return Page(
        news(found, {"load": "New patients per shift hour"}),
        cards,
        [
            control_figure(
                "load-trend",
                "New patients per shift hour",
                found["load"],
                unit="/h",
                span=8,
                measure=measure,
                ignores=ignores,
                digits=2,
                height=300,
                noun="new patients",
            ),
            doctors(mart, where, span=4),
            _staffing(staff, where),
            _pressure(staff, where),
            *week_ahead(mart, where),
        ],
        BASIS,
    )


def _shift_cards(shifts: Row, ignores: tuple[Slicer, ...]) -> list[Card]:
    """Long shifts, nights in a row, short rests."""

    def card(card_id: str, label: str, count: str, detail: str, measure: str) -> Card:
        definition = measure_of("kpi_shift_patterns_daily", measure)
        return Card(card_id, label, number(shifts[count]), "", detail, measure=definition, ignores=ignores)

    return [
        card(
            "long",
            f"Shifts of {LONG_SHIFT_HOURS} h or more",
            "long_count",
            f"of {number(shifts['shifts_count'])} shifts",
            "Long shifts",
        ),
        card(
            "nights",
            "Nights after a night",
            "nights_in_a_row_count",
            f"of {number(shifts['nights_count'])} nights (start {NIGHT_STARTS_HOUR}:00 or later)",
            "Nights after a night",
        ),
        card(
            "rest",
            f"Under {SHORTEST_REST_HOURS} h rest",
            "short_rest_count",
            f"of {number(shifts['rests_count'])} rests between two shifts of a doctor",
            f"Rest under {SHORTEST_REST_HOURS} hours",
        ),
    ]


def _staffing(rows: list[Row], where: Slice) -> Figure:
    measure = measure_of("kpi_staffing_hourly")
    known = [r for r in rows if r["arrivals_per_hour"] is not None and r["doctors"] is not None]
    if len(known) < 24:
        return empty("staffing", "Staff against arrivals", "No staffing in this slice", 12, measure)
    hardest = max(known, key=lambda r: r["arrivals_per_hour"] / max(r["doctors"], 0.1))
    labels = [hour_of_week(r) for r in known]
    return Figure(
        "staffing",
        f"Thinnest cover: {hour_of_week(hardest)}, "
        f"{number(hardest['arrivals_per_hour'] / max(hardest['doctors'], 0.1), 1)} arrivals per doctor",
        "Mean arrivals and attendings in each local hour of the week, per hospital",
        "series",
        (
            Column("Hour"),
            Column("Arrivals per hour", 2),
            Column("Doctors on shift", 2),
            Column("Arrivals per doctor", 2),
        ),
        [
            [label, r["arrivals_per_hour"], r["doctors"], r["arrivals_per_hour"] / max(r["doctors"], 0.1)]
            for label, r in zip(labels, known, strict=True)
        ],
        series(
            labels,
            [
                line("doctors", [r["doctors"] for r in known], "step"),
                line("arrivals", [r["arrivals_per_hour"] for r in known], "actual"),
            ],
            unit="/h",
            zero=True,
        ),
        12,
        measure,
        None,
        ("department", "triage"),
        height=240,
    )


def _pressure(rows: list[Row], where: Slice) -> Figure:
    measure = measure_of("kpi_staffing_hourly")
    cells: list[list[float | None]] = [[None] * 24 for _ in range(7)]
    worst: list[tuple[float, Row]] = []
    for r in rows:
        if r["arrivals_per_hour"] is not None and r["doctors"]:
            value = r["arrivals_per_hour"] / r["doctors"]
            cells[r["iso_weekday_number"] - 1][r["hour_of_day"]] = value
            worst.append((value, r))
    if not worst:
        return empty("pressure", "Where one more doctor would help", "No staffing in this slice", 12, measure)
    worst.sort(key=lambda found: -found[0])
    best = ", ".join(hour_of_week(r) for _, r in worst[:3])
    return Figure(
        "pressure",
        f"One more doctor would help most at {best}",
        "Arrivals per doctor on shift, by weekday and local hour; stronger colour is more",
        "heatmap",
        (Column("Weekday"), Column("Hour"), Column("Arrivals per doctor", 2)),
        [[WEEKDAYS[r["iso_weekday_number"] - 1], f"{r['hour_of_day']:02d}:00", value] for value, r in worst],
        {"cells": cells, "rows": list(WEEKDAYS), "columns": [f"{h:02d}" for h in range(24)], "unit": "per doctor"},
        12,
        measure,
        None,
        ("department", "triage"),
        "A suggestion from means of the period, not a roster.",
        260,
    )
