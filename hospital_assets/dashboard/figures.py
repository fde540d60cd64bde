"""What a page is made of: cards, figures and their data tables, before any HTML.

Belongs here: the shapes and how they are filled from rows; which figures a page has is `pages`'
matter, how marks are drawn that of `charts`. Every figure carries the definition of its measure, its n, and
the rows it shows as a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hospital_assets import charts
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.table import Measure
from hospital_assets.dashboard.mart import Row
from hospital_assets.dashboard.slices import Slice
from hospital_assets.dashboard.spc import Better, Control, Point, controls
from hospital_assets.measures.natural_limits import WORDS, Verdict

TOO_FEW = "Too few patients to show"

Slicer = Literal["period", "hospital", "department", "triage"]
Kind = Literal["series", "heatmap", "treemap", "dots", "sankey", "table", "empty"]


@dataclass(frozen=True)
class Link:
    """A cell that narrows the slice.

    Attributes:
        text: what it says.
        slicer: which slicer it sets.
        value: to what.
    """

    text: str
    slicer: Slicer
    value: str


@dataclass(frozen=True)
class Away:
    """A cell that leads to another program.

    Attributes:
        text: what it says.
        address: where it leads.
    """

    text: str
    address: str


@dataclass(frozen=True)
class Drawn:
    """A cell that is a picture of its row; not exported.

    Attributes:
        svg: the picture.
    """

    svg: str


Cell = str | int | float | None | Link | Away | Drawn


@dataclass(frozen=True)
class Column:
    """A column of a data table.

    Attributes:
        name: heading.
        digits: decimals of its numbers; None for text.
        of: what it shows of a row: one of its values by name, or something made of them.
        is_wide: whether it takes the room that is left.
    """

    name: str
    digits: int | None = None
    of: str | Callable[[Row], Cell] = ""
    is_wide: bool = False

    def cell(self, row: Row) -> Cell:
        """What it shows of a row."""
        cell: Cell = row[self.of] if isinstance(self.of, str) else self.of(row)
        return cell


def bars(share: Callable[[Row], float], style: Callable[[Row], str] = lambda row: "", name: str = "") -> Column:
    """A column of bars, each as long as a row's share of the longest."""
    return Column(name, of=lambda row: Drawn(charts.bar(share(row), style(row))), is_wide=True)


@dataclass(frozen=True)
class WhatIf:
    """A number that a reader may suppose; stands in the address like a slicer.

    Attributes:
        name: in the address.
        label: what it is.
        value: the assumed number.
        low: least.
        high: most.
    """

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
        title: the message.
        subtitle: measure, unit, how to read it.
        kind: how it is drawn.
        spec: what is drawn, as plain values.
        columns: of the data table.
        rows: of the data table.
        span: columns of twelve.
        measure: what the figure means.
        n: of how many; None where that is in the table.
        ignores: slicers it does not follow.
        note: a caveat.
        height: of the drawing.
        what_if: what a reader may suppose.
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
class Card:
    """A key figure.

    Attributes:
        id: of the element.
        label: its name.
        value: formatted.
        unit: of the value.
        detail: n, comparison, in a line.
        verdict: what the newest point says against chance; None where there is too little to tell.
        spark: SVG.
        measure: what it means.
        ignores: slicers it does not follow.
    """

    id: str
    label: str
    value: str
    unit: str = ""
    detail: str = ""
    verdict: Verdict | None = None
    spark: str = ""
    measure: Measure | None = None
    ignores: tuple[Slicer, ...] = ()


@dataclass(frozen=True)
class Page:
    """A page, ready to be shown.

    Attributes:
        sentences: what is new, at most three.
        cards: key figures.
        figures: in the order they are read.
    """

    sentences: Sequence[str] = ()
    cards: Sequence[Card] = ()
    figures: Sequence[Figure] = ()


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


def control_charts(series: Mapping[str, tuple[Sequence[Point], Better]], where: Slice) -> dict[str, Control]:
    """Several series of a slice against chance."""
    return controls(series, where.grain)


def line(name: str, values: Sequence[float | None], style: str, marks: Sequence[str] | None = None) -> dict[str, Any]:
    """A line of a `series` drawing."""
    return {"name": name, "values": list(values), "style": style, "marks": list(marks or [])}


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
        unit: of the values.
        digits: decimals shown.
        bands: name, low, high, style.
        rules: name, value, style: horizontal lines.
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
    upper = control.upper
    if upper is not None and is_share:
        upper = min(upper, 100.0)
    newest = control.points[-1]
    value = f"{charts.number(newest.value, digits)} {unit}".strip()
    if upper is None:
        subtitle = f"{len(control.points)} {each}s: too few to tell signal from noise, so no limits"
        title = f"{name}: {value}"
    else:
        word = WORDS[newest.verdict].lower()
        title = f"{name}: {value}, {'in its usual range' if word == 'usual range' else word}"
        counts = [
            f"{control.count(verdict)} {WORDS[verdict].lower()}"
            for verdict in ("improving", "concern", "changed")
            if control.count(verdict)
        ]
        subtitle = (
            f"XmR chart by {each}, newest {newest.day.day} {newest.day:%b}; "
            f"{' and '.join(counts) + f' of {len(control.points)} {each}s' if counts else 'no signals'}; "
            f"expected {charts.number(control.lower or 0, digits)} to {charts.number(upper, digits)} {unit}"
        )
    rules = []
    if upper is not None and control.lower is not None:
        rules = [
            {"name": "upper", "value": upper, "style": "limit"},
            {"name": "lower", "value": control.lower, "style": "limit"},
        ]
    if control.centre is not None:
        rules.append({"name": "mean", "value": control.centre, "style": "centre"})
    if target is not None:
        rules.append({"name": "target", "value": target, "style": "target"})
        if upper is not None and control.lower is not None:
            subtitle += "; " + (
                "target: reliably met"
                if upper <= target
                else "target: will be missed"
                if control.lower > target
                else "target: hit or miss"
            )
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
            [p.day.isoformat(), p.value, p.n, WORDS[p.verdict] if upper is not None else "no limits"]
            for p in control.points
        ],
        series(
            [p.day.isoformat() for p in control.points],
            [line(name, [p.value for p in control.points], "actual", [p.verdict for p in control.points])],
            unit=unit,
            digits=digits,
            rules=rules,
        ),
        span,
        measure,
        sum(p.n for p in control.points),
        ignores,
        note,
        height,
    )


def spark_of(control: Control) -> str:
    """The last 40 points of a series as a sparkline."""
    points = control.points[-40:]
    if len(points) < 2:
        return ""
    return charts.sparkline([p.value for p in points], control.latest or "usual", (control.lower, control.upper))
