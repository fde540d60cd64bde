"""Forecast: what is to come, by the seasonal baseline, and how well that has done."""

from __future__ import annotations

import math

from hospital_assets.dashboard.figures import (
    Card,
    Column,
    Figure,
    Page,
    Slicer,
    WhatIf,
    empty,
    line,
    measure_of,
    series,
)
from hospital_assets.dashboard.mart import Mart
from hospital_assets.dashboard.pages import forecast_queries as queries
from hospital_assets.dashboard.slices import Slice
from hospital_assets.dashboard.svg import number
from hospital_assets.measures.thresholds import FULL_PCT


def forecast(mart: Mart, where: Slice) -> Page:
    """What is to come, by the seasonal baseline, and how well that has done."""
    rows = queries.daily_forecast(mart, where)
    measure = measure_of("kpi_peak_hours")
    ignores: tuple[Slicer, ...] = ("period", "department", "triage")
    judged_days = [r for r in rows if r["actual"] is not None and r["baseline"] is not None and r["n"] >= 3]
    future = [r for r in rows if r["actual"] is None and r["baseline"] is not None]
    if not future:
        return Page((), (), [empty("forecast", "Arrivals of the next 14 days", "No weeks to learn from", 12, measure)])
    errors = [r["actual"] - r["baseline"] for r in judged_days]
    mae = sum(map(abs, errors)) / len(errors) if errors else None
    mean = sum(r["actual"] for r in judged_days) / len(judged_days) if judged_days else None
    within = [r["low_inner"] <= r["actual"] <= r["high_inner"] for r in judged_days if r["low_inner"] is not None]
    inside = [r["low_outer"] <= r["actual"] <= r["high_outer"] for r in judged_days]
    weeks = max((r["n"] for r in future), default=0)
    inner, outer = 100 * max(weeks - 3, 0) / (weeks + 1), 100 * max(weeks - 1, 0) / (weeks + 1)
    cards = [
        Card(
            "next-7",
            "Arrivals, next 7 days",
            number(sum(r["baseline"] for r in future[:7])),
            "",
            "sum of the daily medians",
            measure=measure,
            ignores=ignores,
        ),
        Card(
            "error",
            "Usual error",
            number(mae, 0) if mae is not None else "\u2013",
            "arrivals a day" if mae is not None else "",
            f"{number(100 * mae / mean, 1)} % of the mean; {len(errors)} days, each forecast a week ahead"
            if mae is not None and mean
            else "not enough weeks to say",
            measure=measure,
            ignores=ignores,
        ),
        Card(
            "bias",
            "Bias",
            number(sum(errors) / len(errors), 1) if errors else "\u2013",
            "a day" if errors else "",
            "actual minus forecast",
            measure=measure,
            ignores=ignores,
        ),
        Card(
            "coverage",
            "Days inside the bands",
            number(100 * sum(inside) / len(inside)) if inside else "\u2013",
            "%" if inside else "",
            f"meant: {number(outer)} %; inner band {number(100 * sum(within) / len(within))} %, meant "
            f"{number(inner)} %; {len(inside)} days"
            if inside and within
            else "",
            measure=measure,
            ignores=ignores,
        ),
    ]
    labels = [r["day"].isoformat() for r in rows]
    coming = [r["actual"] is None for r in rows]
    busiest = max(future, key=lambda r: r["baseline"])
    daily = Figure(
        "forecast",
        f"Busiest of the next 14 days: {busiest['day']:%a} {busiest['day'].day} {busiest['day']:%b}, "
        f"{number(busiest['baseline'])} arrivals",
        f"Arrivals a day: actual solid, forecast dashed (median of the same weekday, {weeks} weeks), inner "
        f"band {number(inner)} %, outer {number(outer)} % likely",
        "series",
        (
            Column("Day"),
            Column("Actual", 0),
            Column("Forecast", 0),
            Column("Inner from", 0),
            Column("to", 0),
            Column("Outer from", 0),
            Column("to", 0),
            Column("Weeks (n)", 0),
        ),
        [
            [
                r["day"].isoformat(),
                r["actual"],
                r["baseline"],
                r["low_inner"],
                r["high_inner"],
                r["low_outer"],
                r["high_outer"],
                r["n"],
            ]
            for r in rows
        ],
        series(
            labels,
            [
                line(
                    "forecast",
                    [r["baseline"] if new else None for r, new in zip(rows, coming, strict=True)],
                    "forecast",
                ),
                line("actual", [r["actual"] for r in rows], "actual"),
            ],
            unit="arrivals",
            digits=0,
            bands=[
                {
                    "name": "outer band",
                    "style": "wide",
                    "low": [r["low_outer"] if new else None for r, new in zip(rows, coming, strict=True)],
                    "high": [r["high_outer"] if new else None for r, new in zip(rows, coming, strict=True)],
                },
                {
                    "name": "inner band",
                    "style": "spread",
                    "low": [r["low_inner"] if new else None for r, new in zip(rows, coming, strict=True)],
                    "high": [r["high_inner"] if new else None for r, new in zip(rows, coming, strict=True)],
                },
            ],
            zero=True,
        ),
        12,
        measure,
        None,
        ignores,
        f"Seasonal baseline, not a model: trained on the {queries.BASELINE_WEEKS} weeks to "
        f"{mart.known.complete_until.isoformat()}. "
        "The bands are the second lowest to the second highest, and the lowest to the highest, of those weeks.",
        280,
    )
    return Page((), cards, [daily, _beds(mart, where), _hourly_forecast(mart, where)])


def _beds(mart: Mart, where: Slice) -> Figure:
    """Beds that will be needed, against those there are or those a reader supposes."""
    rows = queries.beds_forecast(mart, where)
    measure = measure_of("kpi_occupancy_daily")
    title = "Beds needed in the next 14 days"
    if not rows or not rows[0]["beds"]:
        return empty("forecast-beds", title, "No department with known beds in this slice", 12, measure)
    staffed = rows[0]["beds"]
    beds = where.beds or staffed
    full = beds * FULL_PCT / 100
    over = sum(r["baseline"] > full for r in rows)
    worst = max(rows, key=lambda r: r["baseline"])
    wanted = math.ceil(worst["baseline"] / (FULL_PCT / 100))
    labels = [r["day"].isoformat() for r in rows]
    supposed = "" if beds == staffed else f" ({number(staffed)} are staffed)"
    return Figure(
        "forecast-beds",
        f"With {number(beds)} beds{supposed}, {over} of {len(rows)} days are over {number(FULL_PCT)} %",
        f"Beds occupied, mean of the day: median and range of the same weekday, {max(r['n'] for r in rows)} weeks",
        "series",
        (
            Column("Day"),
            Column("Forecast", 0),
            Column("Lowest", 0),
            Column("Highest", 0),
            Column(f"% of {beds:,} beds", 1),
            Column("Beds free", 0),
            Column("Weeks (n)", 0),
        ),
        [
            [label, r["baseline"], r["low"], r["high"], 100 * r["baseline"] / beds, beds - r["baseline"], r["n"]]
            for label, r in zip(labels, rows, strict=True)
        ],
        series(
            labels,
            [line("forecast", [r["baseline"] for r in rows], "forecast")],
            unit="beds",
            digits=0,
            zero=True,
            rules=[
                {"name": "beds", "value": beds, "style": "limit"},
                {"name": f"{number(FULL_PCT)} %", "value": full, "style": "target"},
            ],
            bands=[
                {"name": "range", "style": "spread", "low": [r["low"] for r in rows], "high": [r["high"] for r in rows]}
            ],
        ),
        12,
        measure,
        None,
        ("period", "triage"),
        f"{number(wanted)} beds would keep the fullest day ({worst['day']:%a} {worst['day'].day} "
        f"{worst['day']:%b}) at {number(FULL_PCT)} %. "
        "Emergency department only where it is chosen.",
        250,
        WhatIf("beds", "What if: staffed beds", beds, *_span(staffed, wanted, beds)),
    )


def _span(*beds: int) -> tuple[int, int]:
    """From half of the fewest to half as much again as the most."""
    return max(1, min(beds) // 2), max(beds) * 3 // 2


def _hourly_forecast(mart: Mart, where: Slice) -> Figure:
    rows = [r for r in queries.hourly_forecast(mart, where) if r["baseline"] is not None]
    measure = measure_of("kpi_peak_hours")
    if len(rows) < 2:
        return empty("forecast-hours", "Arrivals of the next 48 hours", "No weeks to learn from", 12, measure)
    peak = max(rows, key=lambda r: r["baseline"])
    labels = [f"{r['day'].isoformat()}T{r['hour_of_day']:02d}:00" for r in rows]
    return Figure(
        "forecast-hours",
        f"Next 48 hours: peak {peak['day']:%a} {peak['hour_of_day']:02d}:00, {number(peak['baseline'])} arrivals",
        "Arrivals an hour: median and range of the same hour in the weeks before; local time of each hospital",
        "series",
        (Column("Hour"), Column("Forecast", 1), Column("Lowest", 1), Column("Highest", 1), Column("Weeks (n)", 0)),
        [
            [label.replace("T", " "), r["baseline"], r["low_outer"], r["high_outer"], r["n"]]
            for label, r in zip(labels, rows, strict=True)
        ],
        series(
            labels,
            [line("forecast", [r["baseline"] for r in rows], "forecast")],
            unit="arrivals",
            digits=1,
            zero=True,
            bands=[
                {
                    "name": "range",
                    "style": "spread",
                    "low": [r["low_outer"] for r in rows],
                    "high": [r["high_outer"] for r in rows],
                }
            ],
        ),
        12,
        measure,
        None,
        ("period", "department", "triage"),
        height=240,
    )
