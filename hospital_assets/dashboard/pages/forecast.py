"""The Forecast page: arrivals and beds as forecast, how good the forecasts of arrivals were, and how waits are made."""

from __future__ import annotations

import math
from typing import Any

from hospital_assets.charts import number
from hospital_assets.contracts.forecasts import (
    BEDS_FORECAST,
    DRIVERS,
    EXPECTED_ARRIVALS,
    EXPECTED_BY_TRIAGE,
    EXPECTED_WAIT,
    FORECAST_ACCURACY,
    FORECAST_DRIVERS,
    QUEUE,
    WAIT_METHODS,
    WAIT_REASONS,
)
from hospital_assets.contracts.table import Measure
from hospital_assets.dashboard.figures import (
    Card,
    Column,
    Figure,
    Page,
    Slicer,
    WhatIf,
    band,
    empty,
    figure,
    hours,
    line,
    on,
    series,
)
from hospital_assets.dashboard.mart import Mart, Row, without
from hospital_assets.dashboard.pages import forecast_queries as queries
from hospital_assets.dashboard.pages.shared import hour_of_week
from hospital_assets.dashboard.slices import Slice
from hospital_assets.measures.thresholds import FULL_PCT
from hospital_assets.measures.triage import CRITICAL_IN_WORDS, CRITICAL_LEVELS

_IGNORES: tuple[Slicer, ...] = ("period", "department", "triage")
_TITLE, _HOURS = "Arrivals of the next 14 days", "Arrivals of the next 48 hours"
_NONE = "No forecast has been published"
_READ = "mean of the forecast dashed, within bands that hold 50, 80 and 95 % of what comes"
#: Band -> the quantiles it lies between, and how it is drawn; in percent of what comes.
_BANDS = (("95 %", "p025", "p975", "wide"), ("80 %", "p10", "p90", "spread"), ("50 %", "p25", "p75", "core"))
_METHODS = {
    "regression": "regression on the calendar",
    "boosted_trees": "boosted trees on the calendar",
    "slot_mean": "mean of the same hours of eight weeks",
    "network_profile": "the network's profile",
    "prior": "its yearly volume",
    "sum_of_hospitals": "sum of the hospitals",
}


def forecast(mart: Mart, where: Slice) -> Page:
    """Arrivals as they were forecast, how good that was, and the beds that will be needed."""
    rows = queries.daily_forecast(mart, where)
    future = [r for r in rows if r["expected"] is not None]
    days = _daily(rows, future) if future else empty("forecast", _TITLE, _NONE, 12, EXPECTED_ARRIVALS)
    cards = _cards(future, queries.accuracy(mart, where), without(mart, where, "forecast_arrivals_daily"))
    parts = [_drivers(mart, where), _by_triage(mart, where)] if future else []
    waits = _waits(queries.wait_methods(mart, where))
    return Page((), cards, [days, *parts, _hours(mart, where), _beds(mart, where), waits])


def _cards(future: list[Row], known: Row | None, lacking: str) -> list[Card]:
    def card(card_id: str, label: str, value: str, unit: str, detail: str, measure: Measure) -> Card:
        is_known = value != ""
        shown = value if is_known else "\u2013"
        return Card(card_id, label, shown, unit if is_known else "", detail, measure=measure, ignores=_IGNORES)

    none = "no day that was forecast is over"
    count = number(known["forecasts_count"]) if known else ""
    skill = known["skill_pct"] if known else None
    error = (
        f"{number(100 * known['mae'] / known['mean'], 1)} % of the mean; {count} forecasts"
        + (
            f", {number(abs(skill), 1)} % {'better' if skill >= 0 else 'worse'} than the mean of eight weeks"
            if skill
            else ""
        )
        if known and known["mean"]
        else none
    )
    return [
        card(
            "next-7",
            "Arrivals, next 7 days",
            number(sum(r["expected"] for r in future[:7])) if future else "",
            "",
            "; ".join(filter(None, ["sum of the daily means", f"by {_METHODS[future[0]['method']]}", lacking]))
            if future
            else _NONE,
            EXPECTED_ARRIVALS,
        ),
        card(
            "error", "Usual error", number(known["mae"], 1) if known else "", "arrivals a day", error, FORECAST_ACCURACY
        ),
        card(
            "bias",
            "Bias",
            number(known["bias"], 1) if known else "",
            "a day",
            "mean forecast minus actual" if known else none,
            FORECAST_ACCURACY,
        ),
        card(
            "coverage",
            "Inside the 80 % intervals",
            number(known["pit_80_pct"]) if known else "",
            "%",
            f"80 for a perfect forecast (randomised PIT); {count} forecasts" if known else none,
            FORECAST_ACCURACY,
        ),
    ]


def _fan(labels: list[str], rows: list[Row], digits: int) -> dict[str, Any]:
    """Actual solid, expected dashed, between the 50, 80 and 95 % bands."""
    actual = [row.get("actual") for row in rows]
    lines = [line("forecast", [row["expected"] for row in rows], "forecast")]
    return series(
        labels,
        [*lines, line("actual", actual, "actual")] if any(v is not None for v in actual) else lines,
        unit="arrivals",
        digits=digits,
        zero=True,
        bands=[band(name, rows, low, high, style) for name, low, high, style in _BANDS],
    )


#: The data table of a distribution.
_COLUMNS = (
    Column("Forecast", 1, "expected"),
    *(
        Column(name, 0, quantile)
        for name, quantile in (
            *(("2.5 %", "p025"), ("10 %", "p10"), ("25 %", "p25"), ("Median", "p50"), ("75 %", "p75")),
            *(("90 %", "p90"), ("97.5 %", "p975")),
        )
    ),
)


def _daily(rows: list[Row], future: list[Row]) -> Figure:
    """Arrivals per day: observed and forecast."""
    busiest = max(future, key=lambda r: r["expected"])
    holidays = [f"{on(r['day'])} {r['holiday_name']}" for r in future if r["holiday_name"]]
    labels = [r["day"].isoformat() for r in rows]
    return figure(
        "forecast",
        f"Busiest of the next 14 days: {busiest['day']:%a} {on(busiest['day'])}, "
        f"{number(busiest['expected'])} arrivals",
        f"Arrivals per day: actual solid, {_READ}",
        rows,
        Column("Day", of=lambda r: r["day"].isoformat()),
        Column("Actual", 0, "actual"),
        *_COLUMNS,
        kind="series",
        spec=_fan(labels, rows, 0),
        span=12,
        measure=EXPECTED_ARRIVALS,
        ignores=_IGNORES,
        note=f"Public holidays: {', '.join(holidays)}." if holidays else "",
        height=280,
    )


def _drivers(mart: Mart, where: Slice) -> Figure:
    """What moves the forecast of the first day away from the usual day."""
    rows = queries.drivers(mart, where)
    if not rows:
        return empty("forecast-drivers", "What moves the forecast", _NONE, 6, FORECAST_DRIVERS)
    usual, *moving = rows
    most = max(moving, key=lambda r: abs(r["added"]), default=None)
    day = f"{usual['day']:%a} {usual['day'].day} {usual['day']:%b}"
    moved = f"{DRIVERS[most['driver']]}, {'+' if most['added'] > 0 else ''}{number(most['added'])}" if most else ""
    return figure(
        "forecast-drivers",
        f"{day} is moved most by {moved}" if most else f"{day} is a usual day",
        "Arrivals of a usual day, and what is multiplied with it; factors multiply, arrivals add up to the forecast",
        rows,
        Column("Driver", of=lambda r: DRIVERS[r["driver"]]),
        Column("Factor", 2, "factor"),
        Column("Arrivals", 1, "added"),
        measure=FORECAST_DRIVERS,
        ignores=_IGNORES,
    )


def _by_triage(mart: Mart, where: Slice) -> Figure:
    rows = queries.triage_forecast(mart, where)
    if not rows:
        return empty("forecast-triage", "Arrivals by triage level", _NONE, 6, EXPECTED_BY_TRIAGE)
    day = rows[0]["day"]
    critical = sum(r["expected"] for r in rows if r["triage_group"] in map(str, CRITICAL_LEVELS))
    return figure(
        "forecast-triage",
        f"{day:%a} {day.day} {day:%b}: {number(critical, 1)} arrivals of levels {CRITICAL_IN_WORDS}",
        "Mean of the day ahead, between the numbers that four such days in five hold; and of seven days",
        rows,
        Column("Level", of="triage_group"),
        Column("Forecast", 1, "expected"),
        Column("10 %", 0, "p10"),
        Column("90 %", 0, "p90"),
        Column("Next 7 days", 1, "week"),
        measure=EXPECTED_BY_TRIAGE,
        ignores=_IGNORES,
    )


def _hours(mart: Mart, where: Slice) -> Figure:
    rows = queries.hourly_forecast(mart, where)
    if len(rows) < 2:
        return empty("forecast-hours", _HOURS, _NONE, 12, EXPECTED_ARRIVALS)
    peak = max(rows, key=lambda r: r["expected"])
    return figure(
        "forecast-hours",
        f"Next 48 hours: peak {hour_of_week(peak)}, {number(peak['expected'], 1)} arrivals",
        f"Arrivals per hour: {_READ}; local time of each hospital",
        rows,
        Column("Hour", of=lambda r: f"{r['day'].isoformat()} {r['hour_of_day']:02d}:00"),
        *_COLUMNS,
        kind="series",
        spec=_fan(hours(rows), rows, 1),
        span=12,
        measure=EXPECTED_ARRIVALS,
        ignores=_IGNORES,
        height=240,
    )


def _beds(mart: Mart, where: Slice) -> Figure:
    """Patients that are expected, against the staffed beds or the number a reader assumes."""
    rows = queries.beds_forecast(mart, where)
    title = "Beds needed in the next 7 days"
    if not rows or not all(row["beds"] for row in rows):
        none = "No forecast of departments with known beds in this slice"
        return empty("forecast-beds", title, none, 12, BEDS_FORECAST)
    staffed = [row["beds"] for row in rows]
    beds = [where.beds or count for count in staffed]
    full = [count * FULL_PCT / 100 for count in beds]
    over = sum(row["expected"] > limit for row, limit in zip(rows, full, strict=True))
    worst = max(rows, key=lambda r: r["expected"])
    wanted = math.ceil(worst["expected"] / (FULL_PCT / 100))
    labels = [r["day"].isoformat() for r in rows]
    supposed = "" if beds == staffed else f" ({_from_to(staffed)} are staffed)"
    name = f"{worst['day']:%a} {on(worst['day'])}"
    return Figure(
        "forecast-beds",
        f"With {_from_to(beds)} beds{supposed}, {over} of {len(rows)} days are expected over {number(FULL_PCT)} %",
        "Patients, mean of the day: who is in now and still will be, and who comes until then; "
        "between the numbers that four such days in five hold",
        "series",
        (
            Column("Day"),
            Column("Expected", 1),
            Column("10 %", 0),
            Column("90 %", 0),
            Column(f"% of {_from_to(beds)} beds", 1),
            Column("Beds free", 0),
            Column(f"Chance of more than {_from_to(staffed)} patients, %", 0),
        ),
        [
            [label, r["expected"], r["low"], r["high"], 100 * r["expected"] / count, count - r["expected"], r["over"]]
            for label, r, count in zip(labels, rows, beds, strict=True)
        ],
        series(
            labels,
            [
                line("forecast", [r["expected"] for r in rows], "forecast"),
                # Beds that change are no level line.
                *([line("beds", beds, "limit")] if len({*beds}) > 1 else []),
            ],
            unit="patients",
            digits=0,
            zero=True,
            rules=[
                {"name": "beds", "value": beds[0], "style": "limit"},
                {"name": f"{number(FULL_PCT)} %", "value": full[0], "style": "target"},
            ]
            if len({*beds}) == 1
            else [],
            bands=[band("80 %", rows, "low", "high")],
        ),
        12,
        BEDS_FORECAST,
        None,
        ("period", "triage"),
        f"{number(wanted)} beds would keep the fullest day ({name}) at {number(FULL_PCT)} %; the chance of more "
        f"patients than staffed beds is {number(worst['over'])} % then.",
        250,
        WhatIf("beds", "What if: staffed beds", beds[0], *_span(staffed[0], wanted, beds[0])),
    )


def _from_to(counts: list[int]) -> str:
    """One number, or the least and the most of several."""
    least, most = min(counts), max(counts)
    return number(least) if least == most else f"{number(least)} to {number(most)}"


def _waits(rows: list[Row]) -> Figure:
    """By which method each hospital's waits are forecast, and why; the waits are on the page of the workforce."""
    title = "How waits of the next 48 hours are forecast"
    if not rows:
        return empty("wait-methods", title, _NONE, 12, EXPECTED_WAIT)
    count = sum(row["method"] == QUEUE for row in rows)
    return figure(
        "wait-methods",
        f"Waits are simulated at {count} of {len(rows)} hospitals",
        "Simulated from forecast arrivals and the known roster where that was clearly better lately, else as in the "
        "same hour of four weeks; the bands are on the Workforce page",
        rows,
        Column("Hospital", of="hospital_id"),
        Column("By", of=lambda row: WAIT_METHODS[row["method"]], is_wide=True),
        Column("Why", of=lambda row: WAIT_REASONS[row["method_reason"]], is_wide=True),
        Column("Forecasts compared", 0, "origins_count"),
        Column("Medians better, %", 1, "median_skill_pct"),
        Column("90th percentiles better, %", 1, "high_skill_pct"),
        Column("Error simulated, min", 1, "simulation_error"),
        Column("Error same hour, min", 1, "same_hour_error"),
        span=12,
        measure=EXPECTED_WAIT,
        ignores=_IGNORES,
        note="Errors: usual distance of the median from the mean wait of an hour. A roster that is the same every day "
        "tells nothing about tomorrow: then the same hour is as good.",
    )


def _span(*beds: int) -> tuple[int, int]:
    """From half of the fewest to half as much again as the most."""
    return max(1, min(beds) // 2), max(beds) * 3 // 2
