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
    figure,
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
            "on days of the period that are over",
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
            _staffing(staff),
            _pressure(staff),
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


def _staffing(rows: list[Row]) -> Figure:
    measure = measure_of("kpi_staffing_hourly")
    known = [r for r in rows if r["arrivals_per_hour"] is not None and r["doctors"] is not None]
    if len(known) < 24:
        return empty("staffing", "Staff against arrivals", "No staffing in this slice", 12, measure)
    alone = next((r for r in known if not r["doctors"]), None)
    hardest = max(known, key=lambda r: r["per_doctor"] or 0)
    thinnest = (
        f"no doctor {hour_of_week(alone)}"
        if alone
        else f"{hour_of_week(hardest)}, {number(hardest['per_doctor'], 1)} arrivals per doctor"
    )
    return figure(
        "staffing",
        f"Thinnest cover: {thinnest}",
        "Mean arrivals and attendings in each local hour of the week, per hospital",
        known,
        Column("Hour", of=hour_of_week),
        Column("Arrivals per hour", 2, "arrivals_per_hour"),
        Column("Doctors on shift", 2, "doctors"),
        Column("Arrivals per doctor", 2, "per_doctor"),
        kind="series",
        spec=series(
            [hour_of_week(r) for r in known],
            [
                line("doctors", [r["doctors"] for r in known], "step"),
                line("arrivals", [r["arrivals_per_hour"] for r in known], "actual"),
            ],
            unit="/h",
            zero=True,
        ),
        span=12,
        measure=measure,
        ignores=("department", "triage"),
        height=240,
    )


def _pressure(rows: list[Row]) -> Figure:
    measure = measure_of("kpi_staffing_hourly")
    worst = sorted((r for r in rows if r["per_doctor"] is not None), key=lambda r: -r["per_doctor"])
    if not worst:
        return empty("pressure", "Where one more doctor would help", "No staffing in this slice", 12, measure)
    cells: list[list[float | None]] = [[None] * 24 for _ in range(7)]
    for r in worst:
        cells[r["iso_weekday_number"] - 1][r["hour_of_day"]] = r["per_doctor"]
    return figure(
        "pressure",
        f"One more doctor would help most at {', '.join(hour_of_week(r) for r in worst[:3])}",
        "Arrivals per doctor on shift, by weekday and local hour; stronger colour is more",
        worst,
        Column("Weekday", of=lambda r: WEEKDAYS[r["iso_weekday_number"] - 1]),
        Column("Hour", of=lambda r: f"{r['hour_of_day']:02d}:00"),
        Column("Arrivals per doctor", 2, "per_doctor"),
        kind="heatmap",
        spec={"cells": cells, "rows": list(WEEKDAYS), "columns": [f"{h:02d}" for h in range(24)], "unit": "per doctor"},
        span=12,
        measure=measure,
        ignores=("department", "triage"),
        note="A suggestion from means of the period, not a roster.",
        height=260,
    )
