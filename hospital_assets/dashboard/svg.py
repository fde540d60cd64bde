"""Marks as SVG: the same for the page before its script has run and for the printed report.

Belongs here: scales, axes, paths. Colours are classes; the stylesheet has them for light, dark and
print. Does not: what a figure means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date, datetime
from html import escape
from typing import Any

Number = float | int | None

#: Shape of a point by what chance says of it, so that colour is never alone.
_SHAPES = {"usual": "circle", "improving": "diamond", "concern": "triangle", "changed": "square"}


def number(value: Number, digits: int = 0) -> str:
    """A number for people: thousands separated, a real minus."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "\u2013"
    return f"{value:,.{digits}f}".replace("-", "\u2212")


def short(value: float) -> str:
    """A number for an axis."""
    if abs(value) >= 10_000:
        return f"{value / 1000:,.0f}k".replace("-", "\u2212")
    return f"{value:,.10g}".replace("-", "\u2212")


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round values that span a range."""
    if high - low < 1e-9 * max(1.0, abs(low)):
        # Nothing to span, or less than numbers of that size can tell apart.
        high = low + 1
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
    start = math.floor(low / step + 1e-9)
    end = math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(start, end + 1)]


def shape(kind: str, x: float, y: float, size: float, extra: str = "") -> str:
    """A point: its shape and colour say what chance says of it."""
    of = _SHAPES.get(kind, "circle")
    attributes = f'class="mark {kind}"'
    if of == "circle":
        return f'<circle {attributes} cx="{x:.1f}" cy="{y:.1f}" r="{size * 0.8:.1f}">{extra}</circle>'
    corners = {
        "diamond": ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
        "triangle": ((0, -1.3), (1.3, 1), (-1.3, 1)),
        "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    }[of]
    points = " ".join(f"{x + dx * size:.1f},{y + dy * size:.1f}" for dx, dy in corners)
    return f'<polygon {attributes} points="{points}">{extra}</polygon>'


def _line(xs: Sequence[float], ys: Sequence[Number], name: str, step: bool = False) -> str:
    parts: list[str] = []
    pen = "M"
    for x, y in zip(xs, ys, strict=True):
        if y is None:
            pen = "M"
            continue
        parts.append(f"{pen}{x:.1f} {y:.1f}" if pen == "M" or not step else f"H{x:.1f}V{y:.1f}")
        pen = "L"
    return f'<path class="line {name}" d="{"".join(parts)}"/>'


def series(spec: dict[str, Any], width: int = 860, height: int = 250) -> str:
    """Lines over time with bands, rules and judged points.

    Args:
        spec: `x` (labels), `lines`, `bands`, `rules`, `unit`, `zero`; see `figures.series`.
        width: of the drawing.
        height: of the drawing.
    """
    labels: list[str] = spec["x"]
    values = [v for line in spec["lines"] for v in line["values"] if v is not None]
    values += [v for band in spec["bands"] for v in (*band["low"], *band["high"]) if v is not None]
    values += [rule["value"] for rule in spec["rules"]]
    if spec["zero"]:
        values.append(0.0)
    if not values:
        return ""
    low, high = min(values), max(values)
    scale = ticks(low, high)
    low, high = scale[0], scale[-1]
    has_names = bool(spec["rules"]) or len(spec["lines"]) > 1
    left, right, top, bottom = 46, 92 if has_names else 16, 12, 26

    def x_of(i: float) -> float:
        return left + (width - left - right) * (i / max(len(labels) - 1, 1))

    def y_of(v: Number) -> float | None:
        return None if v is None else top + (height - top - bottom) * (high - v) / (high - low)

    xs = [x_of(i) for i in range(len(labels))]
    parts = [
        f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y_of(v):.1f}" y2="{y_of(v):.1f}"/>'
        f'<text class="tick" x="{left - 8}" y="{y_of(v):.1f}" dy="4" text-anchor="end">{short(v)}</text>'
        for v in scale
    ]
    for i, text in x_labels(labels, int((width - left - right) / 80)):
        anchor = "start" if i == 0 else "end" if i == len(labels) - 1 else "middle"
        parts.append(
            f'<text class="tick" x="{x_of(i):.1f}" y="{height - 6}" text-anchor="{anchor}">{escape(text)}</text>'
        )
    for band in spec["bands"]:
        there = [i for i, v in enumerate(band["low"]) if v is not None and band["high"][i] is not None]
        outline = [f"{xs[i]:.1f},{y_of(band['high'][i]):.1f}" for i in there]
        outline += [f"{xs[i]:.1f},{y_of(band['low'][i]):.1f}" for i in reversed(there)]
        parts.append(f'<polygon class="band {band["style"]}" points="{" ".join(outline)}"/>')
    placed: list[float] = []
    for rule in sorted(spec["rules"], key=lambda r: -r["value"]):
        at = y_of(rule["value"]) or 0.0
        parts.append(
            f'<line class="rule {rule["style"]}" x1="{left}" x2="{width - right}" y1="{at:.1f}" y2="{at:.1f}"/>'
        )
        text_y = max([at, *(p + 13 for p in placed[-1:])])
        placed.append(text_y)
        parts.append(
            f'<text class="name {rule["style"]}" x="{width - right + 6}" y="{text_y:.1f}" dy="4">'
            f"{escape(rule['name'])} {short(round(rule['value'], spec['digits']))}</text>"
        )
    for line in spec["lines"]:
        ys = [y_of(v) for v in line["values"]]
        parts.append(_line(xs, ys, line["style"], step=line["style"] == "step"))
        if line.get("marks"):
            size = 3.4 if len(labels) <= 60 else 2.6
            for i, y in enumerate(ys):
                if y is not None:
                    says = f"<title>{escape(labels[i])}: {number(line['values'][i], spec['digits'])}</title>"
                    parts.append(shape(line["marks"][i], xs[i], y, size, says))
        elif has_names and not spec["rules"]:
            last = next((i for i in range(len(ys) - 1, -1, -1) if ys[i] is not None), None)
            if last is not None:
                at = ys[last] or 0.0
                at = max([at, *(p + 13 for p in placed if abs(p - at) < 13)])
                placed.append(at)
                parts.append(
                    f'<text class="name {line["style"]}" x="{min(xs[last] + 6, width - right + 6):.1f}" '
                    f'y="{at:.1f}" dy="4">{escape(line["name"])}</text>'
                )
    return _svg(width, height, parts)


def x_labels(labels: Sequence[str], most: int) -> list[tuple[int, str]]:
    """Which labels of an axis to write: evenly, at most so many."""
    most = max(most, 2)
    every = max(1, math.ceil(len(labels) / most))
    return [(i, _label(labels[i])) for i in range(0, len(labels), every)]


def _label(text: str) -> str:
    """Days as `5 Mar`; other labels as they are."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return text
        return f"{moment:%a %H:%M}"
    return f"{day.day} {day:%b}"


def heatmap(spec: dict[str, Any], width: int = 620, height: int = 236) -> str:
    """Weekday x hour cells, one hue, darker for more."""
    cells, rows, columns = spec["cells"], spec["rows"], spec["columns"]
    most = max((v for line in cells for v in line if v is not None), default=0) or 1
    left, top, bottom = 40, 2, 44
    w, h = (width - left) / len(columns), (height - top - bottom) / len(rows)
    parts = []
    for r, line in enumerate(cells):
        parts.append(
            f'<text class="tick" x="{left - 8}" y="{top + h * (r + 0.5):.1f}" dy="4" '
            f'text-anchor="end">{escape(rows[r])}</text>'
        )
        for c, v in enumerate(line):
            step = 0 if v is None else min(8, int(9 * v / most))
            said = f"{rows[r]} {columns[c]}: {number(v, 1)} {spec['unit']}"
            parts.append(
                f'<rect class="heat h{step}" x="{left + w * c + 0.5:.1f}" y="{top + h * r + 0.5:.1f}" '
                f'width="{w - 1:.1f}" height="{h - 1:.1f}"><title>{escape(said)}</title></rect>'
            )
    for c, name in enumerate(columns):
        if len(columns) <= 12 or c % 2 == 0:
            parts.append(
                f'<text class="tick" x="{left + w * (c + 0.5):.1f}" y="{height - bottom + 16}" '
                f'text-anchor="middle">{escape(name)}</text>'
            )
    key = left + (width - left) / 2 - 90
    parts.append(
        f'<text class="tick" x="{key - 8:.0f}" y="{height - 3}" text-anchor="end">0</text>'
        f'<text class="tick" x="{key + 188:.0f}" y="{height - 3}">{number(most, 1)} {escape(spec["unit"])}</text>'
    )
    parts += [
        f'<rect class="heat h{i}" x="{key + 20 * i:.0f}" y="{height - 13}" width="20" height="10"/>' for i in range(9)
    ]
    return _svg(width, height, parts)


def treemap(spec: dict[str, Any], width: int = 420, height: int = 250) -> str:
    """Areas that add up to the whole (squarified), with their share written in them."""
    items = [item for item in spec["items"] if item["value"]]
    total = sum(item["value"] for item in items)
    parts = [
        '<defs><pattern id="hatch" width="7" height="7" patternTransform="rotate(45)" '
        'patternUnits="userSpaceOnUse"><line class="hatch" x1="0" y1="0" x2="0" y2="7"/>'
        "</pattern></defs>"
    ]
    for item, (x, y, w, h) in zip(items, _squarified([i["value"] / total for i in items], width, height), strict=True):
        box = f'x="{x + 1:.1f}" y="{y + 1:.1f}" width="{max(w - 2, 0):.1f}" height="{max(h - 2, 0):.1f}"'
        said = f"{item['name']}: {number(item['value'])}, {number(100 * item['value'] / total, 1)} %"
        parts.append(f'<rect class="area {item["style"]}" {box}><title>{escape(said)}</title></rect>')
        if item.get("is_hatched"):
            parts.append(f'<rect fill="url(#hatch)" pointer-events="none" {box}/>')
        if w > 34 and h > 16:
            fits = h > 34 and w > 46
            parts.append(
                f'<text class="on-area" x="{x + w / 2:.1f}" y="{y + h / 2 - (3 if fits else -4):.1f}" '
                f'text-anchor="middle">{escape(item["name"])}</text>'
            )
            if fits:
                parts.append(
                    f'<text class="on-area" x="{x + w / 2:.1f}" y="{y + h / 2 + 13:.1f}" '
                    f'text-anchor="middle">{number(100 * item["value"] / total, 1)} %</text>'
                )
    return _svg(width, height, parts)


def _squarified(shares: Sequence[float], width: float, height: float) -> list[tuple[float, float, float, float]]:
    """Rectangles of given shares, as square as can be (Bruls et al. 2000); largest share first."""
    boxes: list[tuple[float, float, float, float]] = []
    x = y = 0.0
    left = [share * width * height for share in shares]
    while left:
        side = min(width - x, height - y)
        row: list[float] = []

        def worst(found: list[float], side: float = side) -> float:
            area = sum(found)
            return max(max(side**2 * a / area**2, area**2 / (side**2 * a)) for a in found)

        while left and (not row or worst([*row, left[0]]) <= worst(row)):
            row.append(left.pop(0))
        thick = sum(row) / side
        at = 0.0
        for area in row:
            along = area / thick
            if width - x >= height - y:
                boxes.append((x, y + at, thick, along))
            else:
                boxes.append((x + at, y, along, thick))
            at += along
        if width - x >= height - y:
            x += thick
        else:
            y += thick
    return boxes


def dots(spec: dict[str, Any], width: int = 420, height: int = 250) -> str:
    """A funnel plot: value by size, between the limits of chance."""
    points = spec["points"]
    if not points:
        return ""
    left, right, top, bottom = 46, 12, 10, 40
    x_scale = ticks(min(p["x"] for p in points), max(p["x"] for p in points), 4)
    spread = [v for p in points for v in (p["y"], p["low"], p["high"]) if v is not None]
    y_scale = ticks(min(spread), max(spread), 5)

    def x_of(v: float) -> float:
        return left + (width - left - right) * (v - x_scale[0]) / (x_scale[-1] - x_scale[0])

    def y_of(v: float) -> float:
        return top + (height - top - bottom) * (y_scale[-1] - v) / (y_scale[-1] - y_scale[0])

    parts = [
        f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y_of(v):.1f}" y2="{y_of(v):.1f}"/>'
        f'<text class="tick" x="{left - 8}" y="{y_of(v):.1f}" dy="4" text-anchor="end">{short(v)}</text>'
        for v in y_scale
    ]
    parts += [
        f'<text class="tick" x="{x_of(v):.1f}" y="{height - bottom + 16}" text-anchor="middle">{short(v)}</text>'
        for v in x_scale
    ]
    parts.append(
        f'<text class="tick" x="{(left + width - right) / 2:.0f}" y="{height - 6}" '
        f'text-anchor="middle">{escape(spec["x_name"])}</text>'
    )
    known = sorted((p for p in points if p["low"] is not None), key=lambda p: p["x"])
    outline = [f"{x_of(p['x']):.1f},{y_of(p['high']):.1f}" for p in known]
    outline += [f"{x_of(p['x']):.1f},{y_of(p['low']):.1f}" for p in reversed(known)]
    parts.append(f'<polygon class="band limits" points="{" ".join(outline)}"/>')
    parts.append(
        f'<line class="rule centre" x1="{left}" x2="{width - right}" '
        f'y1="{y_of(spec["centre"]):.1f}" y2="{y_of(spec["centre"]):.1f}"/>'
    )
    for p in points:
        says = f"<title>{escape(p['name'])}: {number(p['y'], 1)} {escape(spec['unit'])}</title>"
        parts.append(shape("changed" if p["is_outside"] else "usual", x_of(p["x"]), y_of(p["y"]), 3.6, says))
    return _svg(width, height, parts)


#: Between two nodes of a column, so that the names beside them never touch.
_NODE_GAP = 17
_NODE_WIDTH = 12


def sankey(spec: dict[str, Any], width: int = 1300, height: int = 360) -> str:
    """Columns of nodes with ribbons between them; heights are counts on one scale.

    Args:
        spec: `columns`, each with `name` and `nodes` (`name`, `value`), and `flows`: `column` they start
            in, `start` and `end` (places of their nodes), `value`, `style`.
        width: of the drawing.
        height: of the drawing.
    """
    columns = spec["columns"]
    total = sum(node["value"] for node in columns[0]["nodes"])
    left, right, top, bottom = 150, 215, 24, 10
    scale = min((height - top - bottom - _NODE_GAP * (len(column["nodes"]) - 1)) / total for column in columns)
    step = (width - left - right - _NODE_WIDTH) / (len(columns) - 1)
    places: list[list[float]] = []
    marks: list[str] = []
    for number_of, column in enumerate(columns):
        x, y = left + step * number_of, float(top)
        is_last, is_first = number_of == len(columns) - 1, number_of == 0
        anchor = "end" if is_first else "start"
        beside = x - 8 if is_first else x + _NODE_WIDTH + 8
        marks.append(
            f'<text class="tick" x="{beside:.0f}" y="11" text-anchor="{anchor}">{escape(column["name"])}</text>'
        )
        places.append([])
        for node in column["nodes"]:
            places[-1].append(y)
            tall = scale * node["value"]
            says = f"{escape(node['name'])} {number(100 * node['value'] / total, 1)} %"
            marks.append(
                f'<rect class="node" x="{x:.1f}" y="{y:.1f}" width="{_NODE_WIDTH}" '
                f'height="{max(tall, 1):.1f}"><title>{says}: {number(node["value"])}</title></rect>'
                f'<text class="node-name{"" if is_first or is_last else " halo"}" x="{beside:.1f}" '
                f'y="{y + tall / 2:.1f}" dy="4" text-anchor="{anchor}">{says}</text>'
            )
            y += tall + _NODE_GAP
    ribbons = []
    # Where the next ribbon leaves or enters a node.
    leaves, enters = [list(p) for p in places], [list(p) for p in places]
    for flow in sorted(spec["flows"], key=lambda f: (f["column"], f["start"], f["end"])):
        at, start, end = flow["column"], flow["start"], flow["end"]
        tall = scale * flow["value"]
        x0, x1 = left + step * at + _NODE_WIDTH, left + step * (at + 1)
        y0, y1, middle = leaves[at][start], enters[at + 1][end], (x0 + x1) / 2
        leaves[at][start] += tall
        enters[at + 1][end] += tall
        names = columns[at]["nodes"][start]["name"], columns[at + 1]["nodes"][end]["name"]
        says = f"{escape(names[0])} to {escape(names[1])}: {number(flow['value'])}"
        ribbons.append(
            f'<path class="flow {flow["style"]}" d="M{x0:.1f} {y0:.1f}C{middle:.1f} {y0:.1f} {middle:.1f} '
            f"{y1:.1f} {x1:.1f} {y1:.1f}V{y1 + tall:.1f}C{middle:.1f} {y1 + tall:.1f} {middle:.1f} "
            f'{y0 + tall:.1f} {x0:.1f} {y0 + tall:.1f}Z"><title>{says}</title></path>'
        )
    return _svg(width, height, [*ribbons, *marks])


def bar(share: float, style: str = "", centred: bool = False, target: float | None = None) -> str:
    """A bar that stretches to its cell: from 0 to `share` of its width."""
    share = max(0.0, min(1.0, share))
    x = 50 - 50 * share if centred else 0.0
    tick = (
        ""
        if target is None
        else (f'<rect class="target" x="{100 * max(0.0, min(1.0, target)) - 0.5:.2f}" y="0" width="1" height="14"/>')
    )
    return (
        '<svg class="bar" viewBox="0 0 100 14" preserveAspectRatio="none" aria-hidden="true" '
        f'focusable="false"><rect class="fill {style}" x="{x:.2f}" y="1" width="{100 * share:.2f}" '
        f'height="12"/>{tick}</svg>'
    )


def range_mark(low: float, high: float, target: float | None = None) -> str:
    """From the median to the 90th percentile on a common scale; values are shares of it."""
    tick = (
        ""
        if target is None
        else (f'<line class="rule target" x1="{100 * target:.2f}" x2="{100 * target:.2f}" y1="0" y2="14"/>')
    )
    return (
        '<svg class="bar" viewBox="0 0 100 14" preserveAspectRatio="none" aria-hidden="true" '
        f'focusable="false"><rect class="span" x="{100 * low:.2f}" y="6" '
        f'width="{100 * max(high - low, 0):.2f}" height="2"/>'
        f'<rect class="from" x="{100 * low - 0.4:.2f}" y="2" width="0.8" height="10"/>'
        f'<rect class="to" x="{100 * high - 0.8:.2f}" y="4" width="1.6" height="6"/>{tick}</svg>'
    )


def sparkline(
    values: Sequence[Number],
    verdict: str = "usual",
    limits: tuple[Number, Number] = (None, None),
    width: int = 190,
    height: int = 34,
) -> str:
    """A line with its limits as a band and its newest point."""
    known = [v for v in values if v is not None]
    if len(known) < 2:
        return ""
    spread = [*known, *(v for v in limits if v is not None)]
    low, high = min(spread), max(spread)
    gap = (high - low) or 1.0

    def y_of(v: Number) -> float | None:
        return None if v is None else 5 + (height - 10) * (high - v) / gap

    xs = [3 + (width - 9) * i / (len(values) - 1) for i in range(len(values))]
    ys = [y_of(v) for v in values]
    parts = []
    lower, upper = y_of(limits[0]), y_of(limits[1])
    if lower is not None and upper is not None:
        parts.append(
            f'<rect class="band limits" x="3" y="{upper:.1f}" width="{width - 6}" '
            f'height="{max(lower - upper, 1):.1f}"/>'
        )
    parts.append(_line(xs, ys, "actual"))
    if ys[-1] is not None:
        parts.append(shape(verdict, xs[-1], ys[-1], 3.4))
    return _svg(width, height, parts, "spark")


def _svg(width: int, height: int, parts: Sequence[str], name: str = "drawing") -> str:
    return (
        f'<svg class="{name}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'preserveAspectRatio="xMinYMid meet" aria-hidden="true" focusable="false">{"".join(parts)}</svg>'
    )
