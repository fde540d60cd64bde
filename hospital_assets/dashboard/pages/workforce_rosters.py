"""The part of the Workforce page about the week ahead: who is needed, the roster suggested, how rosters compare."""

from __future__ import annotations

from collections.abc import Callable

from hospital_assets.charts import number
from hospital_assets.contracts.forecasts import (
    DOCTOR,
    EXPECTED_WAIT,
    NURSE,
    OUTCOMES,
    QUEUE,
    ROSTER_COMPARED,
    ROSTERS,
    SAME_HOUR,
    STAFF_NEEDED,
    WAIT_METHODS,
    WAIT_REASONS,
)
from hospital_assets.contracts.kpis import ALL
from hospital_assets.dashboard.figures import (
    Column,
    Figure,
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
from hospital_assets.dashboard.pages import workforce_queries as queries
from hospital_assets.dashboard.pages.shared import WEEKDAYS, hour_of_week
from hospital_assets.dashboard.slices import MOST_DOCTORS, Slice

_IGNORES: tuple[Slicer, ...] = ("period", "department", "triage")
_NONE = "Nothing has been published: needs and rosters of the week ahead are made on Sundays, from two weeks of data on"
#: What a band of waits rests on.
_KNOWS = {
    SAME_HOUR: "Not a forecast of the queue: what the same hour was like. It knows neither tomorrow's roster nor who "
    "comes.",
    QUEUE: "It knows the roster as it was planned, not who will be ill, and nothing of beds that are missing.",
}
_SUGGESTION = "A suggestion: it changes nothing, and a person decides."


def week_ahead(mart: Mart, where: Slice) -> list[Figure]:
    """Need against roster by hour, how rosters compare, suggested shifts beside present ones, nurses by ratio."""
    compared, doctors = queries.rosters_compared(mart, where), queries.staff_needed(mart, where, DOCTOR)
    waits = _waits(queries.waits_ahead(mart, where), where)
    lacking = without(mart, where, "kpi_staffing_comparison", is_pooled=False)
    if not compared and not doctors:
        return [empty("week-ahead", "Who is needed in the week ahead", _NONE, 12, STAFF_NEEDED), waits]
    return [
        _need(doctors, compared, where, lacking),
        _compared(compared, queries.rosters_realised(mart, where)),
        _shifts(queries.suggested_shifts(mart, where), compared),
        _nurses(queries.staff_needed(mart, where, NURSE), lacking),
        waits,
    ]


def _reasons(compared: list[Row]) -> str:
    """Why there is no suggestion, of each hospital without."""
    by_outcome: dict[str, list[str]] = {}
    suggested = {row["hospital_id"] for row in compared if row["roster"] == "suggested"}
    for row in compared:
        if row["hospital_id"] not in suggested:
            by_outcome.setdefault(row["suggestion_outcome"], []).append(row["hospital_id"])
    return "; ".join(f"{', '.join(hospitals)}: {OUTCOMES[outcome]}" for outcome, hospitals in by_outcome.items())


def _need(rows: list[Row], compared: list[Row], where: Slice, lacking: str) -> Figure:
    """Need against the roster, or against it with so many more (or fewer) doctors in every hour."""
    title = "Doctors needed in the week ahead"
    if not rows:
        return empty("staff-need", title, _reasons(compared) or _NONE, 12, STAFF_NEEDED)
    more, place = where.doctors, " at some hospital" if where.hospital == ALL else ""
    short = [row for row in rows if row["short"]]
    worst = max(rows, key=lambda row: (row["short"], row["offered_load"]))
    supposed = f", with {number(abs(more))} {'more' if more > 0 else 'fewer'} in each" if more else ""
    every = "every hour of each hospital" if place else "every hour"
    lines = [
        line("present roster", [row["present"] for row in rows], "step"),
        line("needed", [row["needed"] for row in rows], "actual"),
    ]
    if rows[0]["suggested"] is not None:
        lines.append(line("suggested", [row["suggested"] for row in rows], "forecast"))
    return figure(
        "staff-need",
        f"Fewer doctors than needed{place} in {number(len(short))} of {number(len(rows))} hours{supposed}; most short "
        f"{hour_of_week(worst)}"
        if short
        else f"The present roster has the doctors needed in every hour{supposed}",
        f"Doctors by local hour of the week from {on(rows[0]['day'], '%B')}: those on by the "
        "roster of the last seven days, and those needed for the target on a day that one in ten exceeds"
        f"{'; ' if lacking else ''}{lacking}",
        rows,
        Column("Hour", of=hour_of_week),
        Column("Patients in treatment", 1, "offered_load"),
        Column("Needed", 0, "needed"),
        Column("Present", 0, "present"),
        Column("Short", 0, "short"),
        Column("Suggested", 0, "suggested"),
        kind="series",
        spec=series(hours(rows), lines, unit="doctors", digits=0, zero=True),
        span=12,
        measure=STAFF_NEEDED,
        ignores=_IGNORES,
        height=260,
        what_if=WhatIf("doctors", f"What if: doctors more or fewer in {every}", more, -MOST_DOCTORS, MOST_DOCTORS),
    )


def _between(stem: str, unit: str) -> Callable[[Row], str]:
    def shown(row: Row) -> str:
        low, high = row[f"{stem}_low_{unit}"], row[f"{stem}_high_{unit}"]
        return "\u2013" if low is None else f"{number(low, 1)} to {number(high, 1)}"

    return shown


def _mean_waits(rows: list[Row]) -> list[float]:
    """By each of `ROSTERS`, the mean of who is seen where a roster is suggested; none where there is none."""
    of = {(row["hospital_id"], row["roster"]): row for row in rows}
    hospitals = [hospital for hospital, roster in of if roster == "suggested"]
    found = []
    for roster in ROSTERS if hospitals else ():
        mine = [of.get((hospital, roster), of[hospital, "present"]) for hospital in hospitals]
        found.append(sum(row["wait_mean_minutes"] * row["seen"] for row in mine) / sum(row["seen"] for row in mine))
    return found


def _compared(rows: list[Row], realised: Row | None) -> Figure:
    title = "How a roster with the same hours would do"
    simulated = [row for row in rows if row["replicates_count"]]
    if not simulated:
        return empty("rosters", title, _reasons(rows) or _NONE, 12, ROSTER_COMPARED)
    gain = ""
    if waits := _mean_waits(simulated):
        title = f"Same hours, other shifts: mean wait {number(waits[0], 1)} to {number(waits[1], 1)} min, simulated"
        without = min(max(0.0, waits[0] - waits[2]), waits[0] - waits[1])
        gain = (
            f"Of the {number(waits[0] - waits[1], 1)} min, {number(without, 1)} are gained without the forecast, by "
            "the shape of the day and week alone."
        )
    came = (
        f"The patients who came in the week to {on(realised['last_day'], '%B')} would have waited "
        f"{number(realised['suggested'], 1)} min by the roster suggested for it, {number(realised['worked'], 1)} by "
        "the one worked, both simulated."
        if realised
        else ""
    )
    note = " ".join(part for part in (gain, came, _reasons(rows), _SUGGESTION) if part)
    return figure(
        "rosters",
        title,
        f"Mean of {number(simulated[0]['replicates_count'])} simulated weeks after "
        f"{on(simulated[0]['service_date'], '%B')}, and the middle 80 % of them; every "
        "roster on the same patients",
        simulated,
        Column("Hospital", of="hospital_id"),
        Column("Roster", of=lambda row: ROSTERS[row["roster"]]),
        Column("Doctors' hours", 0, "doctor_hours"),
        Column("Hours moved", 0, "moved_hours"),
        Column("Mean wait, min", 1, "wait_mean_minutes"),
        Column("80 % of weeks", of=_between("wait_mean", "minutes")),
        Column("Wait of one in ten, min", 0, "wait_p90_minutes"),
        Column("% left unseen", 1, "unseen_pct"),
        Column("80 % of weeks", of=_between("unseen", "pct")),
        Column("% seen in time", 1, "within_target_pct"),
        Column("80 % of weeks", of=_between("within_target", "pct")),
        Column("% of weeks better", 0, "better_weeks_pct"),
        span=12,
        measure=ROSTER_COMPARED,
        ignores=_IGNORES,
        note=note,
    )


def _shifts(rows: list[Row], compared: list[Row]) -> Figure:
    """Shifts by start and length, a column for each day: `1`, or `1 > 2` where the suggestion changes it."""
    title = "Suggested shifts beside the present ones"
    if not rows:
        return empty("shifts-suggested", title, _reasons(compared) or _NONE, 12, ROSTER_COMPARED)
    days = sorted({row["day"] for row in rows})
    no_shift = {day.isoformat(): "" for day in days}
    by_shift: dict[tuple[str, int, float], Row] = {}
    for row in rows:
        present, suggested = row["present_count"], row["suggested_count"]
        shift = by_shift.setdefault((row["hospital_id"], row["hour_of_day"], row["shift_hours"]), {})
        shift[row["day"].isoformat()] = f"{present}" if present == suggested else f"{present} \u2192 {suggested}"
    shown = [
        {"hospital": hospital, "shift": f"{start:02d}:00, {number(length)} h", **no_shift, **of_days}
        for (hospital, start, length), of_days in by_shift.items()
    ]
    changed = sum(abs(row["suggested_count"] - row["present_count"]) for row in rows)
    return figure(
        "shifts-suggested",
        f"{number(changed)} shifts would be added or dropped",
        f"Doctors' shifts of the week from {on(days[0], '%B')} by start and length: present \u2192 suggested",
        shown,
        Column("Hospital", of="hospital"),
        Column("Shift", of="shift"),
        *(Column(WEEKDAYS[day.weekday()], of=day.isoformat()) for day in days),
        span=12,
        measure=ROSTER_COMPARED,
        ignores=_IGNORES,
        note=f"{_SUGGESTION} The command hospital staffing writes it as a table or a calendar.",
    )


def _nurses(rows: list[Row], lacking: str) -> Figure:
    title = "Nurses needed in the week ahead"
    if not rows:
        return empty("nurse-need", title, _NONE, 12, STAFF_NEEDED)
    most = max(rows, key=lambda row: row["needed"])
    return figure(
        "nurse-need",
        f"By ratio {number(min(row['needed'] for row in rows))} to {number(most['needed'])} nurses are needed; most "
        f"{hour_of_week(most)}",
        "Nurses by hour for the patients expected in the department by triage level, and the fixed posts"
        f"{'; ' if lacking else ''}{lacking}",
        rows,
        Column("Hour", of=hour_of_week),
        Column("Patients there", 1, "offered_load"),
        Column("Nurses needed", 0, "needed"),
        kind="series",
        spec=series(
            hours(rows),
            [
                line("patients", [row["offered_load"] for row in rows], "step"),
                line("nurses needed", [row["needed"] for row in rows], "actual"),
            ],
            unit="",
            digits=0,
            zero=True,
        ),
        span=12,
        measure=STAFF_NEEDED,
        ignores=_IGNORES,
        note="A need, no gap: no roster of nurses is landed. Ratios of the settings, by default 1:1 in resuscitation "
        "(RCN and RCEM 2020), 1:2 and 1:4 (NICE draft of 2015, withdrawn before it was final). Boarders do not count.",
        height=220,
    )


def _waits(rows: list[Row], where: Slice) -> Figure:
    """The band of the mean wait of each hour of the next two days; never the middle without it."""
    title = "Waits of the next 48 hours"
    if len(rows) < 2:
        why = (
            "Choose a hospital: waits of several do not add up" if where.hospital == ALL else "Too few days with waits"
        )
        return empty("waits-ahead", title, why, 12, EXPECTED_WAIT)
    longest = max(rows, key=lambda row: row["high"])
    method = rows[0]["method"]
    return figure(
        "waits-ahead",
        f"Longest waits expected {hour_of_week(longest)}: {number(longest['low'])} to {number(longest['high'])} min",
        f"Mean wait for a doctor of those who come in the hour, by {WAIT_METHODS[method]}: median, and the band that "
        "holds 80 % of them",
        rows,
        Column("Hour", of=hour_of_week),
        Column("10 %", 0, "low"),
        Column("Median, min", 0, "middle"),
        Column("90 %", 0, "high"),
        Column("% over an hour", 0, "over_60_pct"),
        Column("% seen in time", 0, "within_target_pct"),
        Column("Days (n)", 0, "days_count"),
        kind="series",
        spec=series(
            hours(rows),
            [line("median", [row["middle"] for row in rows], "forecast")],
            unit="min",
            digits=0,
            zero=True,
            bands=[band("80 %", rows, "low", "high")],
        ),
        span=12,
        measure=EXPECTED_WAIT,
        ignores=_IGNORES,
        note=f"Why so: {WAIT_REASONS[rows[0]['method_reason']]}. {_KNOWS[method]}",
        height=220,
    )
