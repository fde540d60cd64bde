"""Deterioration: how sick patients are, how soon and how often they are observed, and who comes."""

from __future__ import annotations

from collections.abc import Mapping

from hospital_assets import charts
from hospital_assets.charts import number, percentage
from hospital_assets.dashboard.figures import (
    TOO_FEW,
    Column,
    Drawn,
    Figure,
    Page,
    Slicer,
    bars,
    control_charts,
    empty,
    figure,
    measure_of,
)
from hospital_assets.dashboard.mart import Mart, Row
from hospital_assets.dashboard.pages import deterioration_queries as queries
from hospital_assets.dashboard.pages import shared_queries
from hospital_assets.dashboard.pages.shared import BASIS, news, rate_card, share_trends
from hospital_assets.dashboard.slices import Slice
from hospital_assets.measures.observations import FIRST_SET_LIMITS, MONITORING_MINUTES
from hospital_assets.measures.thresholds import NEWS2_RESPONSE_MINUTES

_IGNORES: tuple[Slicer, ...] = ("triage",)
#: Band -> how it is written.
_BANDS = {
    "score_0": "0",
    "score_1_to_4": "1\u20134",
    "red_parameter": "3\u20134, one parameter 3",
    "score_5_to_6": "5\u20136",
    "score_7_or_more": "7 and more",
}
#: Bands that ask for an urgent or an emergency response, the sickest first -> as a chart writes them.
_SICK = {"score_7_or_more": "\u2265 7", "score_5_to_6": "5\u20136", "red_parameter": "one 3"}
#: Reason why somebody is left out -> in words.
_REASONS = {
    "cancelled": "cancelled",
    "before_arrival": "before arrival",
    "after_departure": "after departure",
    "under_16": "under 16 years",
    "unknown_age": "age unknown",
    "incomplete": "not all seven parameters",
    "already_seen": "with a provider already",
    "invalid": "clock of the provider missing",
    "left_early": "left before the time was up",
    "not_due": "time not yet up",
}


def deterioration(mart: Mart, where: Slice) -> Page:
    """How sick patients are, how soon and how often they are observed, and who comes."""
    names = {
        "first_15": (f"Full set within {FIRST_SET_LIMITS[0]} min", measure_of("kpi_first_observations_daily")),
        "first_60": (f"Full set within {FIRST_SET_LIMITS[1]} min", measure_of("kpi_first_observations_daily")),
        "response": (
            f"Provider within {NEWS2_RESPONSE_MINUTES} min of NEWS2 \u2265 7",
            measure_of("kpi_news2_response_daily"),
        ),
        "frequency": ("Observations repeated on time", measure_of("kpi_observation_frequency_daily")),
    }
    rates = {name: shared_queries.rate(mart, where, name) for name in names}
    found = control_charts(mart, where, {name: (rates[name].points[name], "higher") for name in names})
    cards = [
        rate_card(mart, name, label, rates[name].total, found[name], measure, _IGNORES)
        for name, (label, measure) in names.items()
    ]
    trends = share_trends(names, found, _IGNORES)
    figures = [_bands(mart, where), _intervals(mart, where), _first_sets(mart, where), _responses(mart, where), *trends]
    return Page(news(found, {name: label for name, (label, _) in names.items()}), cards, figures, BASIS)


def _left_out(row: Mapping[str, int]) -> str:
    """The exclusions by reason, the most frequent first."""
    reasons = sorted(((row[name], text) for name, text in _REASONS.items() if row.get(name)), reverse=True)
    return "Left out: " + ", ".join(f"{number(count)} {text}" for count, text in reasons) + "." if reasons else ""


def _bands(mart: Mart, where: Slice) -> Figure:
    """Share of each band by hour since arrival."""
    rows = queries.bands_by_hour(mart, where)
    measure = measure_of("kpi_news2_daily")
    n = sum(row["n"] for row in rows)
    if n < mart.few:
        return empty("bands", "NEWS2 by hour of the visit", TOO_FEW, 12, measure)
    last = max(row["hours_since_arrival"] for row in rows)
    by_hour = {row["hours_since_arrival"]: row for row in rows}
    hours = [f"{hour}" if hour < 12 else "12+" for hour in range(last + 1)]

    def share(band: str, hour: int) -> float | None:
        row = by_hour.get(hour)
        return 100 * row[band] / row["n"] if row and row["n"] >= mart.few else None

    sickest = percentage(sum(row["score_7_or_more"] for row in rows), n)
    left_out: Row = {name: sum(row.get(name) or 0 for row in rows) for name in _REASONS}
    return Figure(
        "bands",
        f"NEWS2: {sickest} % of observation sets score 7 or more",
        "Percent of the sets in each hour since arrival that call for a response: emergency (7 or more), urgent (5 to "
        "6), or ward review (below 5, but one parameter of 3); stronger colour is more",
        "heatmap",
        (Column("Hours since arrival"), Column("Sets (n)", 0), *(Column(f"{_BANDS[band]} %", 1) for band in _BANDS)),
        [
            [label, by_hour[hour]["n"], *(share(band, hour) for band in _BANDS)]
            for hour, label in enumerate(hours)
            if hour in by_hour
        ],
        {
            "cells": [[share(band, hour) for hour in range(last + 1)] for band in _SICK],
            "rows": list(_SICK.values()),
            "columns": hours,
            "unit": "%",
        },
        12,
        measure,
        n,
        _IGNORES,
        f"Decision support, not a diagnosis. {_left_out(left_out)}".strip(),
        190,
    )


def _intervals(mart: Mart, where: Slice) -> Figure:
    """How often observations are repeated, by band."""
    rows = queries.intervals(mart, where)
    measure = measure_of("kpi_observation_frequency_daily")
    total = rows.get("all")
    if total is None or total["n"] < mart.few:
        return empty("intervals", "Repeat observations", TOO_FEW, 12, measure)
    enough = {band: rows[band] for band in MONITORING_MINUTES if band in rows and rows[band]["n"] >= mart.few}
    worst = min(enough, key=lambda band: enough[band]["in_time"] / enough[band]["n"], default=None)
    title = (
        f"Repeat observations: least on time at NEWS2 {_BANDS[worst]}, "
        f"{percentage(enough[worst]['in_time'], enough[worst]['n'], 0)} %"
        if worst
        else "Repeat observations"
    )
    return Figure(
        "intervals",
        title,
        "Sets followed by another within the longest time that their score allows",
        "table",
        (
            Column("NEWS2"),
            Column("Within"),
            Column("", is_wide=True),
            Column("On time %", 1),
            Column("Later", 0),
            Column("Not repeated", 0),
            Column("Average min", 0),
            Column("Sets (n)", 0),
        ),
        [
            [
                _BANDS[band],
                f"{minutes} min" if minutes < 120 else f"{minutes // 60} h",
                Drawn(charts.bar(enough[band]["in_time"] / enough[band]["n"])) if band in enough else "too few",
                100 * enough[band]["in_time"] / enough[band]["n"] if band in enough else None,
                enough[band]["late"] if band in enough else None,
                enough[band]["missed"] if band in enough else None,
                enough[band]["average"] if band in enough else None,
                rows[band]["n"],
            ]
            for band, minutes in MONITORING_MINUTES.items()
            if band in rows
        ],
        span=12,
        measure=measure,
        n=total["n"],
        ignores=_IGNORES,
        note="At 7 and more the RCP asks for continuous monitoring; here, a set every 30 minutes counts as that. "
        + _left_out(total),
    )


def _first_sets(mart: Mart, where: Slice) -> Figure:
    """How many visits had a full set within each limit."""
    rows = [row for row in queries.first_sets(mart, where) if row["n"] >= mart.few]
    measure = measure_of("kpi_first_observations_daily")
    if not rows:
        return empty("first-sets", "First full set of observations", TOO_FEW, 6, measure)
    first = rows[0]
    return figure(
        "first-sets",
        f"{percentage(first['in_time'], first['n'], 0)} % have a full set within {first['limit_minutes']} minutes",
        "Visits by when the first full set was recorded",
        rows,
        Column("Within", of=lambda row: f"{row['limit_minutes']} min"),
        bars(lambda row: row["in_time"] / row["n"]),
        Column("%", 1, lambda row: 100 * row["in_time"] / row["n"]),
        Column("Visits", 0, "in_time"),
        Column("Later", 0, "late"),
        Column("Never", 0, "never"),
        Column("n", 0, "n"),
        measure=measure,
        n=first["n"],
        ignores=_IGNORES,
        note=_left_out(rows[-1]).replace("Left out:", f"Left out at {rows[-1]['limit_minutes']} min:"),
    )


def _responses(mart: Mart, where: Slice) -> Figure:
    """What became of visits with an emergency score."""
    row = queries.responses(mart, where)
    measure = measure_of("kpi_news2_response_daily")
    if row is None or row["n"] < mart.few:
        return empty("responses", "Provider after NEWS2 \u2265 7", TOO_FEW, 6, measure)
    n = row["n"]
    average = f", {number(row['average'])} min on average" if row["average"] is not None else ""
    parts = {
        f"Seen within {NEWS2_RESPONSE_MINUTES} min": row["in_time"],
        "Seen later": row["seen"] - row["in_time"],
        "Left unseen": row["left_unseen"],
        "Still waiting": row["waiting"],
    }
    return Figure(
        "responses",
        f"After NEWS2 \u2265 7, {percentage(row['in_time'], n, 0)} % are seen within {NEWS2_RESPONSE_MINUTES} minutes",
        f"Visits by what followed their first such score{average}",
        "table",
        (Column("Then"), Column("", is_wide=True), Column("Visits", 0), Column("%", 1)),
        [[label, Drawn(charts.bar(count / n)), count, 100 * count / n] for label, count in parts.items()],
        span=6,
        measure=measure,
        n=n,
        ignores=_IGNORES,
        note=_left_out(row),
    )
