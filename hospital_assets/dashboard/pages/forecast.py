"""The Forecast page: arrivals and beds by the seasonal baseline, and how accurate it has been."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hospital_assets.charts import number
from hospital_assets.dashboard.figures import Card, Column, Figure, Page, WhatIf, empty, line, series
from hospital_assets.dashboard.mart import Mart, Row
from hospital_assets.dashboard.pages import forecast_queries as queries
from hospital_assets.dashboard.slices import Slice
from hospital_assets.forecasting.slots import SLOT_WEEKS
from hospital_assets.measures.thresholds import FULL_PCT


@dataclass(frozen=True)
class _Record:
    """How the baseline has done, of days that it forecast a week ahead.

    Attributes:
        errors: actual minus forecast, by day.
        mean: arrivals a day.
        within: whether a day fell into the inner band.
        inside: whether it fell into the outer band.
    """

    errors: list[float]
    mean: float | None
    within: list[bool]
    inside: list[bool]


def forecast(mart: Mart, where: Slice) -> Page:
    """Arrivals and beds by the seasonal baseline, and how accurate it has been."""
    rows = queries.daily_forecast(mart, where)
    future = [r for r in rows if r["actual"] is None and r["baseline"] is not None]
    others = [_beds(mart, where), _hourly_forecast(mart, where)]
    if not future:
        title, why = "Arrivals of the next 14 days", "No weeks to learn from"
        return Page((), (), [empty("forecast", title, why, 12, queries.ARRIVALS_FORECAST), *others])
    weeks = max(r["n"] for r in future)
    return Page((), _cards(future, _record(rows), weeks), [_daily(mart, rows, future, weeks), *others])


def _record(rows: list[Row]) -> _Record:
    known = [r for r in rows if r["actual"] is not None and r["baseline"] is not None and r["n"] >= 3]
    return _Record(
        [r["actual"] - r["baseline"] for r in known],
        sum(r["actual"] for r in known) / len(known) if known else None,
        [r["low_inner"] <= r["actual"] <= r["high_inner"] for r in known if r["low_inner"] is not None],
        [r["low_outer"] <= r["actual"] <= r["high_outer"] for r in known],
    )


def _likely(weeks: int) -> tuple[float, float]:
    """The probability, in percent, that a new day falls within the inner and the outer band of `weeks` weeks."""
    return 100 * max(weeks - 3, 0) / (weeks + 1), 100 * max(weeks - 1, 0) / (weeks + 1)


def _share(found: list[bool]) -> str:
    return number(100 * sum(found) / len(found))


def _cards(future: list[Row], record: _Record, weeks: int) -> list[Card]:
    inner, outer = _likely(weeks)
    days = len(record.errors)

    def card(card_id: str, label: str, value: str, unit: str, detail: str) -> Card:
        is_known = value != ""
        return Card(
            card_id,
            label,
            value if is_known else "\u2013",
            unit if is_known else "",
            detail,
            measure=queries.ARRIVALS_FORECAST,
            ignores=("period", "department", "triage"),
        )

    error = sum(map(abs, record.errors)) / days if days else 0.0
    bias = sum(record.errors) / days if days else 0.0
    usual = (
        f"{number(100 * error / record.mean, 1)} % of the mean; {days} days, each forecast a week ahead"
        if record.mean
        else "not enough weeks to say"
    )
    meant = (
        f"expected: {number(outer)} %; inner band {_share(record.within)} %, expected {number(inner)} %; {days} days"
        if record.within
        else ""
    )
    return [
        card(
            "next-7",
            "Arrivals, next 7 days",
            number(sum(r["baseline"] for r in future[:7])),
            "",
            "sum of the daily medians",
        ),
        card("error", "Usual error", number(error, 0) if days else "", "arrivals a day", usual),
        card("bias", "Bias", number(bias, 1) if days else "", "a day", "actual minus forecast"),
        card("coverage", "Days inside the bands", _share(record.inside) if days else "", "%", meant),
    ]


def _daily(mart: Mart, rows: list[Row], future: list[Row], weeks: int) -> Figure:
    """Arrivals per day: observed and forecast."""
    inner, outer = _likely(weeks)
    busiest = max(future, key=lambda r: r["baseline"])

    def coming(name: str) -> list[float | None]:
        return [r[name] if r["actual"] is None else None for r in rows]

    shown = ("actual", "baseline", "low_inner", "high_inner", "low_outer", "high_outer", "n")
    return Figure(
        "forecast",
        f"Busiest of the next 14 days: {busiest['day']:%a} {busiest['day'].day} {busiest['day']:%b}, "
        f"{number(busiest['baseline'])} arrivals",
        f"Arrivals per day: actual solid, forecast dashed (median of the same weekday, {weeks} weeks), inner "
        f"band {number(inner)} %, outer {number(outer)} % likely",
        "series",
        (
            Column("Day"),
            *(Column(name, 0) for name in ("Actual", "Forecast", "Inner from", "to", "Outer from", "to", "Weeks (n)")),
        ),
        [[r["day"].isoformat(), *(r[name] for name in shown)] for r in rows],
        series(
            [r["day"].isoformat() for r in rows],
            [line("forecast", coming("baseline"), "forecast"), line("actual", [r["actual"] for r in rows], "actual")],
            unit="arrivals",
            digits=0,
            bands=[
                {"name": f"{band} band", "style": style, "low": coming(f"low_{band}"), "high": coming(f"high_{band}")}
                for band, style in (("outer", "wide"), ("inner", "spread"))
            ],
            zero=True,
        ),
        12,
        queries.ARRIVALS_FORECAST,
        None,
        ("period", "department", "triage"),
        f"Seasonal baseline, not a model: trained on the {SLOT_WEEKS} weeks to "
        f"{mart.known.complete_until.isoformat()}. "
        "The bands are the second lowest to the second highest, and the lowest to the highest, of those weeks.",
        280,
    )


def _beds(mart: Mart, where: Slice) -> Figure:
    """Beds that will be needed, against the staffed beds or the number a reader assumes."""
    rows = queries.beds_forecast(mart, where)
    measure = queries.BEDS_FORECAST
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
        "The emergency department counts only if it is selected.",
        250,
        WhatIf("beds", "What if: staffed beds", beds, *_span(staffed, wanted, beds)),
    )


def _span(*beds: int) -> tuple[int, int]:
    """From half of the fewest to half as much again as the most."""
    return max(1, min(beds) // 2), max(beds) * 3 // 2


def _hourly_forecast(mart: Mart, where: Slice) -> Figure:
    rows = [r for r in queries.hourly_forecast(mart, where) if r["baseline"] is not None]
    measure = queries.ARRIVALS_FORECAST
    if len(rows) < 2:
        return empty("forecast-hours", "Arrivals of the next 48 hours", "No weeks to learn from", 12, measure)
    peak = max(rows, key=lambda r: r["baseline"])
    labels = [f"{r['day'].isoformat()}T{r['hour_of_day']:02d}:00" for r in rows]
    return Figure(
        "forecast-hours",
        f"Next 48 hours: peak {peak['day']:%a} {peak['hour_of_day']:02d}:00, {number(peak['baseline'])} arrivals",
        "Arrivals per hour: median and range of the same hour in the weeks before; local time of each hospital",
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
