"""The funnel plot: a value by size, between the limits of chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from hospital_assets.charts.marks import (
    STRETCH,
    area,
    fluid,
    level,
    measured,
    number,
    placed,
    rows,
    share_of,
    short,
    stretched,
    ticks,
)

#: Above and below the plot; the stylesheet's margins of `.fluid.funnel`.
_AROUND = 12 + 40
#: Of more points only those outside are named.
_MOST_NAMED = 15
#: Plots of these widths have room for names; the stylesheet hides those that need the wide one.
_NARROW, _WIDE = 260, 470
_LINE = 13


def funnel(spec: dict[str, Any], height: int = 250) -> str:
    """A funnel plot.

    Args:
        spec: `points` (`name`, `x`, `y`, `low`, `high`, `is_outside`), `centre`, `x_name`, `unit`.
    """
    points = spec["points"]
    if not points:
        return ""
    inner = height - _AROUND
    x_scale = ticks(min(p["x"] for p in points), max(p["x"] for p in points), 4)
    spread = [v for p in points for v in (p["y"], p["low"], p["high"]) if v is not None]
    y_scale = ticks(min(spread), max(spread))
    x_of, y_share = share_of(x_scale[0], x_scale[-1]), share_of(y_scale[0], y_scale[-1])

    def y_of(value: float) -> float:
        return inner * (1 - y_share(value))

    known = sorted((p for p in points if p["low"] is not None), key=lambda p: p["x"])
    limits = area(
        [STRETCH * x_of(p["x"]) for p in known],
        [y_of(p["low"]) for p in known],
        [y_of(p["high"]) for p in known],
        "limits",
    )
    parts = [
        *rows(y_scale, y_of),
        *(
            f'<text class="tick" x="{100 * x_of(v):.2f}%" y="{inner + 16:.1f}" text-anchor="middle">{short(v)}</text>'
            for v in x_scale
        ),
        f'<text class="tick" x="50%" y="{inner + 34:.1f}" text-anchor="middle">{escape(spec["x_name"])}</text>',
        stretched(inner, [limits]),
        level("rule centre", y_of(spec["centre"])),
        *(
            placed("changed" if p["is_outside"] else "usual", x_of(p["x"]), y_of(p["y"]), 3.6, _tip_of(spec, p))
            for p in points
        ),
    ]
    return fluid(inner, [*parts, *_names(points, x_of, y_of)], "funnel")


def _names(
    points: Sequence[dict[str, Any]], x_of: Callable[[float], float], y_of: Callable[[float], float]
) -> list[str]:
    """Names beside the points, those outside first; where there is no room, pointing at them tells."""
    named = [p for p in points if p["is_outside"] or len(points) <= _MOST_NAMED]
    named.sort(key=lambda p: not p["is_outside"])
    chosen: list[tuple[dict[str, Any], bool, str]] = []
    for plot, room in ((_NARROW, ""), (_WIDE, " wide")):
        for point in named:
            if all(point is not other for other, *_ in chosen):
                is_left = x_of(point["x"]) + _width(point, plot) > 1
                box = _box(point, is_left, plot, x_of, y_of)
                others = [_box(other, left, plot, x_of, y_of) for other, left, _ in chosen]
                dots = [(x_of(p["x"]), x_of(p["x"]), y_of(p["y"])) for p in points if p is not point]
                if box[0] >= 0 and not any(_meet(box, other) for other in (*others, *dots)):
                    chosen.append((point, is_left, room))
    return [
        f'<text class="unit{room}" x="{100 * x_of(p["x"]):.2f}%" y="{y_of(p["y"]):.1f}" dy="4" '
        + ('dx="-7" text-anchor="end">' if is_left else 'dx="7">')
        + f"{escape(p['name'])}</text>"
        for p, is_left, room in chosen
    ]


def _width(point: dict[str, Any], plot: int) -> float:
    """Of a name, as a share of the plot's width."""
    return float(len(point["name"]) * 6.4 + 12) / plot


def _box(
    point: dict[str, Any], is_left: bool, plot: int, x_of: Callable[[float], float], y_of: Callable[[float], float]
) -> tuple[float, float, float]:
    """Left, right and middle of a name."""
    x, width = x_of(point["x"]), _width(point, plot)
    return (x - width, x, y_of(point["y"])) if is_left else (x, x + width, y_of(point["y"]))


def _meet(one: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1] and abs(one[2] - other[2]) < _LINE


def _tip_of(spec: dict[str, Any], point: dict[str, Any]) -> str:
    return f"{point['name']}\n{measured(point['y'], spec['unit'])}\n{spec['x_name']}: {number(point['x'])}"
