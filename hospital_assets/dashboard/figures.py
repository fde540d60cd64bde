"""What a page is made of: cards, figures and their data tables, before any HTML.

Belongs here: the shapes and how they are filled from rows; which figures a page has is `pages`'
matter, how marks are drawn that of `charts`. Every figure carries the definition of its measure, its n, and
the rows it shows as a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Literal

from hospital_assets import charts
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.table import Measure
from hospital_assets.dashboard.mart import Mart, Row
from hospital_assets.dashboard.slices import Slice
from hospital_assets.dashboard.spc import Control, Point, controls
from hospital_assets.measures.natural_limits import (
    ASSURANCES,
    LEAST_POINTS,
    RUN_LENGTH,
    WORDS,
    Assurance,
    Better,
    assurance,
)

TOO_FEW = "Too few patients to show"

Slicer = Literal["period", "hospital", "department", "triage"]
Kind = Literal["series", "heatmap", "treemap", "dots", "sankey", "table", "empty"]


@dataclass(frozen=True)
class Link:
    """A cell that narrows the slice."""

    text: str
    slicer: Slicer
    value: str


@dataclass(frozen=True)
class Away:
    """A cell that leads to another program."""

    text: str
    address: str


@dataclass(frozen=True)
class Drawn:
    """A cell that is a picture of its row; not exported."""

    svg: str


Cell = str | int | float | None | Link | Away | Drawn


@dataclass(frozen=True)
class Column:
    """A column of a data table.

    Attributes:
        digits: decimals of its numbers; None for text.
        of: what it shows of a row: one of its values by name, or something made of them.
        is_wide: whether it takes the room that is left.
    """

    name: str
    digits: int | None = None
    of: str | Callable[[Row], Cell] = ""
    is_wide: bool = False

    @property
    def is_share(self) -> bool:
        """Whether its numbers are percents, which are rounded to neither 0 nor 100."""
        return "%" in self.name

    def cell(self, row: Row) -> Cell:
        """What it shows of a row."""
        cell: Cell = row[self.of] if isinstance(self.of, str) else self.of(row)
        return cell


def bars(share: Callable[[Row], float], style: Callable[[Row], str] = lambda row: "", name: str = "") -> Column:
    """A column of bars, each as long as a row's share of the longest."""
    return Column(name, of=lambda row: Drawn(charts.bar(share(row), style(row))), is_wide=True)


@dataclass(frozen=True)
class WhatIf:
    """A number that a reader may suppose; stands in the address like a slicer."""

    name: str
    label: str
    value: int
    low: int
    high: int


@dataclass(frozen=True)
class Figure:
    """A figure of a page.

    Attributes:
        id: of the element, and of the export.
        subtitle: measure, unit, how to read it.
        spec: what is drawn, as plain values.
        span: columns of twelve.
        n: of how many; None where that is in the table.
        ignores: slicers it does not follow.
        what_if: what a reader may suppose.
        icons: what chance and its target say of its newest point, as SVG.
    """

    id: str
    title: str
    subtitle: str
    kind: Kind
    columns: tuple[Column, ...] = ()
    rows: Sequence[Sequence[Cell]] = ()
    spec: dict[str, Any] = field(default_factory=dict)
    span: int = 6
    measure: Measure | None = None
    n: int | None = None
    ignores: tuple[Slicer, ...] = ()
    note: str = ""
    height: int = 250
    what_if: WhatIf | None = None
    icons: str = ""

    def drawing(self) -> str:
        """The figure as SVG; empty for tables."""
        width = {4: 420, 5: 560, 6: 640, 7: 760, 8: 860, 12: 1300}.get(self.span, 640)
        match self.kind:
            case "series":
                return charts.lines(self.spec, width, self.height)
            case "dots":
                return charts.funnel(self.spec, self.height)
            case "heatmap":
                return charts.heatmap(self.spec, self.height)
            case "treemap":
                return charts.treemap(self.spec, width, self.height)
            case "sankey":
                return charts.sankey(self.spec, width, self.height)
            case _:
                return ""


@dataclass(frozen=True)
class Chance:
    """What chance says of a card's figure.

    Attributes:
        words: the verdict, on which days.
        icon: of the variation, as SVG; empty where it cannot be assessed.
        target: what the limits say of the target.
        spark: the series as SVG.
    """

    words: str
    icon: str = ""
    target: Assurance | None = None
    spark: str = ""


def against_chance(control: Control, *, is_newest: bool = False, target: float | None = None) -> Chance | None:
    """What chance says of a card's figure; None where there is none.

    Args:
        control: the series of that very figure.
        is_newest: whether the card shows the newest point; otherwise it is about all days of the slice.
        target: of the figure.
    """
    if not control.points:
        return None
    each, count = control.grain, len(control.points)
    verdict = control.latest if is_newest else control.of_period
    if verdict is None or control.lower is None or control.upper is None:
        words = f"Cannot be assessed: {control.count} of the {LEAST_POINTS} {each}s it takes"
        return Chance(words, spark=spark_of(control))
    words = WORDS[verdict]
    direction = control.points[-1].direction if is_newest else control.direction
    if not is_newest and count == 1:
        words += f" on this {each}"
    elif not is_newest:
        signals, of = list(control.signals.values()), f"{count} {each}s"
        if len(signals) > 1:
            words += f": {_counted(control)} of {of}"
        else:
            words += f" on {f'{signals[0]} of' if signals else 'all'} {of}"
    return Chance(
        words,
        charts.variation(verdict, direction),
        assurance(target, control.lower, control.upper, control.better),
        spark_of(control),
    )


@dataclass(frozen=True)
class Card:
    """A key figure.

    Attributes:
        id: of the element.
        value: formatted.
        detail: n, comparison, in a line.
        chance: what chance says of this very figure; None where it has no series.
        ignores: slicers it does not follow.
    """

    id: str
    label: str
    value: str
    unit: str = ""
    detail: str = ""
    chance: Chance | None = None
    measure: Measure | None = None
    ignores: tuple[Slicer, ...] = ()


@dataclass(frozen=True)
class Page:
    """A page, ready to be shown.

    Attributes:
        sentences: what is new, at most three.
        figures: in the order they are read.
        basis: what verdicts rest on.
        today: today and tomorrow, whatever the period.
    """

    sentences: Sequence[str] = ()
    cards: Sequence[Card] = ()
    figures: Sequence[Figure] = ()
    basis: str = ""
    today: Sequence[Card] = ()


def comparison(now: float | None, before: float | None, days: int, more: str, less: str, unit: str = "%") -> str:
    """What changed against the days before, in words with a direction; empty where that is not known.

    Args:
        now: the figure.
        before: the figure of the days before.
        days: how many days before.
        more: the word where it rose, such as `longer`.
        less: the word where it fell.
        unit: of the figure; `%` for a change relative to the days before.
    """
    if now is None or before is None or (unit == "%" and not before):
        return ""
    change = 100 * (now - before) / before if unit == "%" else now - before
    than = "the day before" if days == 1 else f"the {charts.number(days)} days before"
    size = charts.number(abs(change), 1)
    if size == "0.0":
        return f"about as in {than}" if days != 1 else "about as on the day before"
    return f"{size} {unit} {more if change > 0 else less} than {'on' if days == 1 else 'in'} {than}"


def measure_of(table: str, name: str = "") -> Measure:
    """A table's measure of this name, from its contract; the first one if no name is given."""
    return next(measure for measure in CONTRACTS[table].measures if name in ("", measure.name))


def figure(
    figure_id: str,
    title: str,
    subtitle: str,
    rows: Iterable[Row],
    *columns: Column,
    kind: Kind = "table",
    spec: dict[str, Any] | None = None,
    span: int = 6,
    measure: Measure | None = None,
    n: int | None = None,
    ignores: tuple[Slicer, ...] = (),
    note: str = "",
    height: int = 250,
    what_if: WhatIf | None = None,
) -> Figure:
    """A figure whose data table shows rows of a query, each in the same columns; the rest as in `Figure`."""
    cells = [[column.cell(row) for column in columns] for row in rows]
    # The figure is plain values: its cells are made.
    heads = tuple(replace(column, of="") for column in columns)
    return Figure(
        figure_id, title, subtitle, kind, heads, cells, spec or {}, span, measure, n, ignores, note, height, what_if
    )


def empty(figure_id: str, title: str, why: str, span: int = 6, measure: Measure | None = None) -> Figure:
    """A figure that has nothing to show, and the reason."""
    return Figure(figure_id, title, why, "empty", span=span, measure=measure)


def control_charts(
    mart: Mart, where: Slice, series: Mapping[str, tuple[Sequence[Point], Better]]
) -> dict[str, Control]:
    """Several series against chance, the part of a slice."""
    return controls(series, where, mart.baselines_from)


def line(name: str, values: Sequence[float | None], style: str, marks: Sequence[str] | None = None) -> dict[str, Any]:
    """A line of a `series` drawing."""
    return {"name": name, "values": list(values), "style": style, "marks": list(marks or [])}


def band(name: str, rows: Sequence[Row], low: str, high: str, style: str = "spread") -> dict[str, Any]:
    """A band of a `series` drawing between two figures of each row."""
    return {"name": name, "style": style, "low": [row[low] for row in rows], "high": [row[high] for row in rows]}


def hours(rows: Sequence[Row]) -> list[str]:
    """The x of a `series` drawing by local hour, from rows with day and hour_of_day."""
    return [f"{row['day'].isoformat()}T{row['hour_of_day']:02d}:00" for row in rows]


def series(
    x: Sequence[str],
    lines: Sequence[dict[str, Any]],
    *,
    unit: str,
    digits: int = 1,
    bands: Sequence[dict[str, Any]] = (),
    rules: Sequence[dict[str, Any]] = (),
    zero: bool = False,
) -> dict[str, Any]:
    """The spec of a `series` drawing.

    Args:
        x: labels, ISO dates where they are days.
        lines: see `line`.
        bands: name, low, high, style.
        rules: name, value, style: horizontal lines; with `since`, from that x on.
        zero: whether the axis starts at 0.
    """
    return {
        "x": list(x),
        "lines": list(lines),
        "bands": list(bands),
        "rules": list(rules),
        "unit": unit,
        "digits": digits,
        "zero": zero,
    }


def control_figure(
    figure_id: str,
    name: str,
    control: Control,
    *,
    unit: str,
    measure: Measure,
    span: int = 8,
    target: float | None = None,
    ignores: tuple[Slicer, ...] = (),
    digits: int = 1,
    height: int = 250,
    note: str = "",
    noun: str = "value",
    is_share: bool = False,
) -> Figure:
    """An XmR chart: points, limits and signals; a run chart where there are too few points for limits."""
    if not control.points:
        return empty(figure_id, name, TOO_FEW, span, measure)
    each = control.grain
    top = 100.0 if is_share else float("inf")
    newest = control.points[-1]
    value = charts.measured(newest.value, unit, digits)
    icons = ""
    if control.lower is None or control.upper is None or control.baseline is None:
        subtitle = f"{control.count} {each}s: it takes {LEAST_POINTS} to tell signal from noise, so no limits"
        title = f"{name}: {value}"
    else:
        word = WORDS[newest.verdict].lower()
        title = f"{name}: {value}, {'in its usual range' if word == 'usual range' else word}"
        counted = f"{_counted(control)} of {len(control.points)} {each}s" if control.signals else "no signals"
        subtitle = (
            f"XmR chart by {each}, newest {on(newest.day)}; "
            f"{counted}; expected "
            # Limits of whole numbers are not whole: 2 is outside 0 to 1.7.
            f"{charts.number(control.lower, digits or 1)} to "
            f"{charts.number(min(control.upper, top), digits or 1)} {unit}, "
            f"as from {on(control.baseline[0])} to {on(control.baseline[1])} {control.baseline[1].year}"
        )
        met = assurance(target, control.lower, control.upper, control.better)
        icons = charts.variation(newest.verdict, newest.direction) + (charts.assurance(met) if met else "")
        subtitle += f"; {ASSURANCES[met]}" if met else ""
    whole = control.whole
    shown = [point for _, point in whole]
    lines = [line(name, [p.value if p else None for p in shown], "actual", [p.verdict if p else "" for p in shown])]
    rules: list[dict[str, Any]] = []
    if control.lower is not None and control.upper is not None:
        since = next((i for i, p in enumerate(shown) if p is control.points[control.since]), 0)
        limits = [p.limits if p and i < since else None for i, p in enumerate(shown)]
        if any(limits):
            lines += [line("", [one and min(one[side], top) for one in limits], "limit") for side in (0, 1)]
        rules = [
            {"name": "upper", "value": min(control.upper, top), "style": "limit", "since": since},
            {"name": "lower", "value": control.lower, "style": "limit", "since": since},
        ]
    if control.centre is not None:
        rules.append({"name": "mean", "value": control.centre, "style": "centre"})
    if target is not None:
        rules.append({"name": "target", "value": target, "style": "target"})
    return Figure(
        figure_id,
        title,
        subtitle,
        "series",
        (
            Column(each.capitalize()),
            Column(f"{noun.capitalize()} ({unit})", digits),
            Column("n", 0),
            Column("Against chance"),
        ),
        [
            [p.day.isoformat(), p.value, p.n, WORDS[p.verdict] + _RULES.get(p.rule, "") if p.limits else "no limits"]
            for p in control.points
        ],
        series([day.isoformat() for day, _ in whole], lines, unit=unit, digits=digits, rules=rules),
        span,
        measure,
        sum(p.n for p in control.points),
        ignores,
        note,
        height,
        icons=icons,
    )


#: Rule that a point meets -> in words.
_RULES = {
    "is_outside": ": outside the limits",
    "is_run": f": {RUN_LENGTH} or more on one side of the mean",
    "is_trend": f": {RUN_LENGTH} or more rising or falling",
    "is_two_of_three": ": two of three near a limit",
}


def _counted(control: Control) -> str:
    return " and ".join(f"{count} {WORDS[verdict].lower()}" for verdict, count in control.signals.items())


def on(day: date, month: str = "%b") -> str:
    """A day in running text: `3 Jan`; its month in full with `%B`."""
    return f"{day.day} {day.strftime(month)}"


def spark_of(control: Control) -> str:
    """The last 40 days, weeks or months of a series as a sparkline; blank where there is no figure."""
    points = [point for _, point in control.whole[-40:]]
    if sum(point is not None for point in points) < 2:
        return ""
    limits = control.points[-1].limits or (None, None)
    return charts.sparkline([p.value if p else None for p in points], control.latest or "usual", limits)
