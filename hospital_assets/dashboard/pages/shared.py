"""Figures that several pages show: news, rates, doctors, people; and the names of days and groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from hospital_assets import charts
from hospital_assets.charts import number, percentage
from hospital_assets.contracts.table import Measure
from hospital_assets.dashboard.figures import (
    TOO_FEW,
    Card,
    Column,
    Drawn,
    Figure,
    Slicer,
    against_chance,
    bars,
    control_figure,
    empty,
    figure,
    measure_of,
    on,
)
from hospital_assets.dashboard.mart import Mart, Row, visits_since
from hospital_assets.dashboard.pages import shared_queries as queries
from hospital_assets.dashboard.slices import Slice
from hospital_assets.dashboard.spc import Control, end_of
from hospital_assets.measures.natural_limits import BASELINE_POINTS, LEAST_POINTS, RUN_LENGTH, WORDS

WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def hour_of_week(row: Row) -> str:
    """A local hour of the week, such as `Mon 07:00`, of a row with its number or its day."""
    weekday = row["day"].weekday() if "day" in row else row["iso_weekday_number"] - 1
    return f"{WEEKDAYS[weekday]} {row['hour_of_day']:02d}:00"


NOT_PUBLISHED = "The publication of this role holds figures only, no single visits"


def no_visits(mart: Mart, figure_id: str, title: str, measure: Measure, span: int = 6) -> Figure:
    """The empty figure shown for too few visits, or to a role that sees no single visits."""
    return empty(figure_id, title, TOO_FEW if mart.has_visits else NOT_PUBLISHED, span, measure)


def news(found: Mapping[str, Control], names: Mapping[str, str]) -> list[str]:
    """At most three sentences about signals at the newest point, or that there is none.

    Args:
        found: every series of the page.
        names: what each is called, the most important first.
    """
    sentences = []
    for name, label in names.items():
        control = found[name]
        if control.latest in (None, "usual"):
            continue
        newest, each = control.points[-1], control.grain
        up = newest.direction > 0
        happened = {
            "is_outside": f"{'above' if up else 'below'} what chance would explain",
            "is_run": f"{'above' if up else 'below'} its usual mean for {RUN_LENGTH} {each}s or more",
            "is_trend": f"{'rising' if up else 'falling'} for {RUN_LENGTH} {each}s or more",
            "is_two_of_three": f"near its {'upper' if up else 'lower'} limit on two of three {each}s",
        }[newest.rule]
        sentences.append(f"{label}: {happened} ({WORDS[newest.verdict].lower()}, {on(newest.day)}).")
    unknown = sum(control.latest is None for control in found.values())
    if unknown == len(found):
        return ["Too few days or patients to tell signals from noise."]
    each = next(iter(found.values())).grain
    besides = f"; {unknown} of {len(found)} series cannot be assessed" if unknown else ""
    return sentences[:3] or [f"Nothing here is outside its usual range on its newest {each}{besides}."]


#: Where limits come from, said once on each page that has them.
BASIS = (
    f"Limits of chance are those of the first {BASELINE_POINTS} days, weeks or months of a series ({LEAST_POINTS} at "
    "least); nothing that is chosen above moves them. They are set anew only on purpose, from a day stated in "
    "hospital.toml."
)


def why_none(total: Row) -> str:
    """Why a rate is not shown."""
    missing = total["undelivered_count"]
    return f"Cannot be assessed: its source does not deliver what it takes, n {number(missing)}" if missing else TOO_FEW


def rate_card(
    mart: Mart, card_id: str, label: str, total: Row, control: Control, measure: Measure, ignores: tuple[Slicer, ...]
) -> Card:
    """A rate over the period: percent, count of n, and the signal at its newest point."""
    n = total["denominator_count"]
    if n < mart.few:
        return Card(card_id, label, "\u2013", "", why_none(total), measure=measure, ignores=ignores)
    count = total["numerator_count"]
    return Card(
        card_id,
        label,
        percentage(count, n),
        "%",
        f"{number(count)} of {number(n)}",
        against_chance(control),
        measure,
        ignores,
    )


def share_trends(
    names: Mapping[str, tuple[str, Measure]], found: Mapping[str, Control], ignores: tuple[Slicer, ...]
) -> list[Figure]:
    """The control chart of each rate: name -> label and measure."""
    return [
        control_figure(
            f"{name}-trend",
            label,
            found[name],
            unit="%",
            measure=measure,
            span=6,
            ignores=ignores,
            height=210,
            is_share=True,
        )
        for name, (label, measure) in names.items()
    ]


def doctors_card(row: Row) -> Card:
    """The number of doctors who worked in the period, and their new patients per hour."""
    count = row["doctors_count"]
    hours = row["shift_hours"] or 0
    per_hour = f"{number(row['rostered_visit_count'] / hours, 2)} new patients per shift hour" if hours else ""
    return Card(
        "doctors",
        "Active doctors",
        number(count),
        "",
        per_hour or f"{number(row['visit_count'])} visits",
        measure=measure_of("kpi_physician_workload"),
        ignores=("department", "triage"),
    )


def doctors(mart: Mart, where: Slice, span: int = 4) -> Figure:
    """Doctors against the chance limits for their hours; codes, no ranking."""
    rows = queries.physicians(mart, where)
    measure = measure_of("kpi_physician_workload")
    known = [
        r
        for r in rows
        if r["expected_visit_count"]
        and r["visit_count"] is not None
        and r["visit_count"] >= mart.few
        and r["lower_limit_count"] is not None
    ]
    if len(known) < 2:
        return empty("doctors-chart", "Physician workload", TOO_FEW, span, measure)
    outside = sum(bool(r["is_outside"]) for r in known)
    return figure(
        "doctors-chart",
        f"Physician workload: {outside} of {len(known)} outside chance",
        "A point for each doctor: patients seen, in percent of what the hospital's doctors see in the same hours; "
        f"band: {mart.chance('kpi_physician_workload')} (3\u03c3)",
        rows,
        Column("Doctor", of="doctor_id"),
        Column("Visits", 0, "visit_count"),
        Column("Shift hours", 0, "shift_hours"),
        Column("Per hour", 2, "visits_per_shift_hour"),
        Column("Expected", 0, "expected_visit_count"),
        Column(
            "Limits",
            of=lambda r: (
                ""
                if r["lower_limit_count"] is None
                else f"{number(r['lower_limit_count'])} to {number(r['upper_limit_count'])}"
            ),
        ),
        Column("Outside", of=lambda r: "" if r["is_outside"] is None else "yes" if r["is_outside"] else "no"),
        kind="dots",
        spec={
            "points": [
                {
                    "name": r["doctor_id"],
                    "x": r["expected_visit_count"],
                    "y": 100 * r["visit_count"] / r["expected_visit_count"],
                    "low": 100 * r["lower_limit_count"] / r["expected_visit_count"],
                    "high": 100 * r["upper_limit_count"] / r["expected_visit_count"],
                    "is_outside": bool(r["is_outside"]),
                }
                for r in known
            ],
            "centre": 100.0,
            "unit": "%",
            "x_name": "expected patients in the doctor's hours",
        },
        span=span,
        measure=measure,
        n=sum(r["visit_count"] for r in known),
        ignores=("period", "department", "triage"),
        height=320,
    )


def pyramid(mart: Mart, people: list[Row], where: Slice) -> Figure:
    """Visits by age band and sex; from published groups where the role sees no single patients."""
    rows = [row for row in people if row["decade"] is not None]
    measure = measure_of("fact_emergency_visits", "Visits by age and sex")
    if not mart.has("dim_patient", "sex"):
        return _sexes_and_ages(mart, where)
    bands: dict[int, Row] = {}
    for row in rows:
        band = bands.setdefault(row["decade"], {"band": row["decade"], "female": 0, "male": 0})
        band[row["sex"]] = row["visit_count"]
    n = sum(row["visit_count"] for row in rows)
    if n < mart.few:
        return empty("people", "Age and sex", TOO_FEW, 4, measure)
    most = max(max(row["female"], row["male"]) for row in bands.values()) or 1
    women = sum(row["female"] for row in bands.values())
    return figure(
        "people",
        f"Age and sex: {percentage(women, n)} % female",
        f"Visits by ten-year age band, {visit_days(where)}",
        sorted(bands.values(), key=lambda row: -row["band"]),
        Column("Female", 0, "female"),
        Column("", of=lambda row: Drawn(_mirrored(charts.bar(row["female"] / most, "female"))), is_wide=True),
        Column("Age", of=lambda row: "90+" if row["band"] == 9 else f"{10 * row['band']}\u2013{10 * row['band'] + 9}"),
        bars(lambda row: row["male"] / most, lambda row: "male"),
        Column("Male", 0, "male"),
        span=4,
        measure=measure,
        n=n,
    )


def _sexes_and_ages(mart: Mart, where: Slice) -> Figure:
    rows = queries.demographics(mart, where)
    measure = measure_of("kpi_demographics")
    shown = [r for r in rows if r["characteristic"] in ("age_band", "sex") and r["category"] != "unknown"]
    known = [r for r in shown if r["visit_count"]]
    if not known:
        return empty("people", "Age and sex", TOO_FEW, 4, measure)
    most = max(r["visit_count"] for r in known)
    women = next((r["share_of_visits_pct"] for r in known if r["category"] == "female"), None)
    women_in_words = f": {percentage(women, 100)} % female" if women is not None else ""
    return figure(
        "people",
        f"Age and sex{women_in_words}",
        "Visits by sex and by age band",
        sorted(shown, key=lambda r: (r["characteristic"] != "sex", r["category"])),
        Column("Group", of=lambda r: _category(r["category"])),
        bars(lambda r: (r["visit_count"] or 0) / most, lambda r: "female" if r["category"] == "female" else ""),
        Column("Visits", 0, "visit_count"),
        Column("%", 1, "share_of_visits_pct"),
        span=4,
        measure=measure,
        n=sum(r["visit_count"] for r in known if r["characteristic"] == "sex"),
        ignores=("period", "department", "triage"),
    )


def _category(name: str) -> str:
    """An age band such as `05-14` as people write it."""
    low, dash, high = name.partition("-")
    if dash and low.isdigit() and high.isdigit():
        return "under 1" if low == "00" else f"{int(low)}\u2013{int(high)}"
    return name


def _mirrored(drawn: str) -> str:
    return drawn.replace('class="bar"', 'class="bar mirrored"', 1)


def is_complete(mart: Mart, month: date, run_out_days: int = 0) -> bool:
    """Whether all days of a month are published, and the days after it within which something may follow."""
    last = end_of(month, "month") + timedelta(days=run_out_days)
    return month >= mart.known.first and last <= mart.known.complete_until


def month_column(mart: Mart, run_out_days: int = 0) -> Column:
    """The months of a table; those that are not complete say so."""

    def name(row: Row) -> str:
        month: date = row["period_month"]
        return f"{month:%b %Y}" + ("" if is_complete(mart, month, run_out_days) else ", incomplete")

    return Column("Month", of=name)


def newest_complete(mart: Mart, rows: Sequence[Row], run_out_days: int = 0) -> Row | None:
    """The row of the newest month that is complete: no other is a headline."""
    return next((row for row in reversed(rows) if is_complete(mart, row["period_month"], run_out_days)), None)


#: What is said where no month is over.
NO_MONTH = "no month is complete yet"


def visit_days(where: Slice) -> str:
    """The days of the visits that a figure reads one by one, in words."""
    days = (where.last - visits_since(where)).days + 1
    return f"last {days} days of the period" if days < where.days else "the whole period"


def blood_group(name: str) -> str:
    """`O-` with a real minus."""
    return name.replace("-", "\u2212") if name != "unknown" else name


def plain_table(
    figure_id: str,
    title: str,
    subtitle: str,
    rows: Sequence[dict[str, Any]],
    columns: dict[str, int | None],
    span: int,
    bar: str = "",
    note: str = "",
) -> Figure:
    """Rows as they are, under headings made of their names.

    Args:
        subtitle: measure and how to read it.
        columns: name -> decimals, None for text; those that the rows have are shown.
        span: columns of twelve.
        bar: column that is drawn as a bar, too.
    """
    if not rows:
        return empty(figure_id, title, "Nothing", span)
    most = max((row[bar] or 0 for row in rows), default=0) or 1 if bar else 1
    shown: list[Column] = []
    for name, digits in columns.items():
        if name == bar:
            shown.append(bars(lambda row: (row[bar] or 0) / most))
        if name in rows[0]:
            shown.append(Column(name.replace("_", " ").capitalize(), digits, name))
    return figure(figure_id, title, subtitle, rows, *shown, span=span, note=note)
