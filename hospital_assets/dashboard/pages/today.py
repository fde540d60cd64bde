"""Today and tomorrow, at the top of the overview: what came in so far, what is expected, who waits, what is open."""

from __future__ import annotations

from datetime import date, timedelta

from hospital_assets.charts import number
from hospital_assets.contracts.forecasts import EXPECTED_ARRIVALS
from hospital_assets.contracts.table import Measure
from hospital_assets.dashboard.figures import Card, Slicer, measure_of, on
from hospital_assets.dashboard.mart import Mart, Row, without
from hospital_assets.dashboard.pages import forecast_queries as queries
from hospital_assets.dashboard.slices import Slice
from hospital_assets.live.board import Board
from hospital_assets.measures.words import in_words, lasted

_IGNORES: tuple[Slicer, ...] = ("department", "triage")
#: Fewer weeks are not compared.
_LEAST_WEEKS = 3


def today(mart: Mart, where: Slice) -> list[Card]:
    """Arrivals of the day in progress against expectation, and what is expected of this day and the next."""
    found = queries.today(mart, where)
    if found is None:
        return []
    day, hour = found["day"], found["hour"]
    by = f"by {hour:02d}:00" if found["is_one_hour"] else "by now"
    usual = _usual(found, day)
    cards, came = [], measure_of("kpi_arrivals_hourly")
    if found["arrivals"] is None:
        detail = f"none of this day is published yet; usual {by}: {usual}" if usual else "none is published yet"
        cards.append(_card("today-arrivals", f"Arrived on {_name(day)}", "\u2013", detail, came))
    else:
        some = f", at {found['hospitals_count']} of {found['known_count']} hospitals"
        at = by + (some if found["hospitals_count"] < found["known_count"] else "")
        detail = f"{at}; {_against(found, day)}" if usual else at
        cards.append(
            _card("today-arrivals", f"Arrived on {_name(day)} so far", number(found["arrivals"]), detail, came)
        )
    ahead = day, day + timedelta(days=1)
    forecast = queries.expected(mart, where, ahead)
    lacking = without(mart, where, "forecast_arrivals_daily")
    for of, at in zip(("today", "tomorrow"), ahead, strict=True):
        row = forecast.get(at)
        value = number(row["expected"]) if row else "\u2013"
        words = f"{number(row['p10'])} to {number(row['p90'])} on four of five such days" if row else "no forecast yet"
        words += f"; {lacking}" if row and lacking else ""
        cards.append(_card(f"{of}-expected", f"Expected on {_name(at)}", value, words, EXPECTED_ARRIVALS))
    return cards


def now(board: Board) -> list[Card]:
    """Who waits now, and which alerts are open, from the live board."""
    waiting = board.waiting
    status = {name: sum(row.status == name for row in board.patients) for name in ("in treatment", "boarding")}
    age = board.newest_minutes
    late = sum(row.past_minutes > 0 for row in waiting)
    longest = f"longest {max(row.waited_minutes for row in waiting):.0f} min, {late} past target; " if waiting else ""
    others = ", ".join(f"{count} {name}" for name, count in status.items())
    # Of service days that are over, too: nobody who waited then waits now.
    known = age is not None and not board.is_stale
    if age is None:
        detail = "unknown: no record has landed of late"
    elif board.is_stale:
        detail = f"unknown: the newest record of {board.newest_of} is {lasted(age)} old"
    else:
        detail = f"{longest}{others}; newest record {lasted(age)} old"
    unattended = sum(not alert.acknowledged_by for alert in board.alerts)
    first = f"; {board.alerts[0].severity}: {board.alerts[0].summary}" if board.alerts else ""
    return [
        Card("waiting-now", "Waiting now", number(len(waiting)) if known else "\u2013", "", detail, ignores=_IGNORES),
        Card(
            "open-alerts",
            "Open alerts",
            number(len(board.alerts)),
            "",
            f"{number(unattended)} not taken care of{first}" if board.alerts else "nothing is open",
            ignores=_IGNORES,
        ),
    ]


def _card(card_id: str, label: str, value: str, detail: str, measure: Measure) -> Card:
    return Card(card_id, label, value, "", detail, measure=measure, ignores=_IGNORES)


def _name(day: date) -> str:
    return f"{day:%A} {on(day)}"


def _usual(found: Row, day: date) -> str:
    """What had come by then on the same weekdays, in words; empty where there are too few weeks."""
    if found["weeks"] < _LEAST_WEEKS:
        return ""
    low, middle, high = (number(found[f"so_far_{name}"]) for name in ("low", "median", "high"))
    return f"{middle}, {low} to {high} on the last {in_words(found['weeks'])} {day:%A}s"


def _against(found: Row, day: date) -> str:
    """What came against what is usual, in words."""
    came, usual = found["arrivals"], _usual(found, day)
    if came > found["so_far_high"]:
        return f"{usual}: more than on any of them"
    return f"{usual}: fewer than on any of them" if came < found["so_far_low"] else f"as usual: {usual}"
