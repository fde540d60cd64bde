"""Areas and shades: the heatmap and the treemap."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from hospital_assets.charts.marks import fluid, measured, number, percentage, scaled, title

#: Above and below the cells; the stylesheet's margins of `.fluid.heat`.
_AROUND = 2 + 44
_SHADES = 9
_KEY_WIDTH = 20


def heatmap(spec: dict[str, Any], height: int = 236) -> str:
    """Weekday x hour cells, one hue, darker for more.

    Args:
        spec: `rows`, `columns` (names), `cells` (values by row), `unit`.
    """
    cells, columns = spec["cells"], spec["columns"]
    most = max((v for line in cells for v in line if v is not None), default=0) or 1
    inner = height - _AROUND
    tall, wide = inner / len(cells), 100 / len(columns)
    parts = []
    for r, (name, line) in enumerate(zip(spec["rows"], cells, strict=True)):
        parts.append(
            f'<text class="tick" x="-8" y="{tall * (r + 0.5):.1f}" dy="4" text-anchor="end">{escape(name)}</text>'
        )
        for c, v in enumerate(line):
            step = "none" if v is None else f"h{min(_SHADES - 1, int(_SHADES * v / most))}"
            label = f"{name} {columns[c]}: {'no data' if v is None else measured(v, spec['unit'])}"
            parts.append(
                f'<rect class="heat {step}" x="{wide * c:.3f}%" y="{tall * r:.1f}" width="{wide:.3f}%" '
                f'height="{tall:.1f}">{title(label)}</rect>'
            )
    every = 1 if len(columns) <= 12 else 2
    parts += [
        f'<text class="tick{" medium" if c % (3 * every) else ""}" x="{wide * (c + 0.5):.3f}%" y="{inner + 16:.1f}" '
        f'text-anchor="middle">{escape(columns[c])}</text>'
        for c in range(0, len(columns), every)
    ]
    has_gaps = any(v is None for line in cells for v in line)
    return fluid(inner, [*parts, _key(most, spec["unit"], inner, has_gaps)], "heat-map")


def _key(most: float, unit: str, inner: float, has_gaps: bool) -> str:
    """What the shades mean, below the cells."""
    # In the middle with the words to its right.
    left, right = -120, -120 + _SHADES * _KEY_WIDTH
    shades = "".join(
        f'<rect class="heat h{i}" x="{left + _KEY_WIDTH * i}" y="-10" width="{_KEY_WIDTH}" height="10"/>'
        for i in range(_SHADES)
    )
    if has_gaps:
        shades += (
            f'<rect class="heat none" x="{left - 96}" y="-10" width="{_KEY_WIDTH}" height="10"/>'
            f'<text class="tick" x="{left - 72}">no data</text>'
        )
    return (
        f'<svg x="50%" y="{inner + 41:.1f}" overflow="visible">{shades}'
        f'<text class="tick" x="{left - 8}" text-anchor="end">0</text>'
        f'<text class="tick" x="{right + 8}">{number(most, 1)} {escape(unit)}</text></svg>'
    )


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
        label = f"{item['name']}: {number(item['value'])}, {number(100 * item['value'] / total, 1)} %"
        parts.append(f'<rect class="area {escape(item["style"])}" {box}>{title(label)}</rect>')
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
                    f'text-anchor="middle">{percentage(item["value"], total)} %</text>'
                )
    return scaled(width, height, parts)


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
