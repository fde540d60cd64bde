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
#: Names are placed as on the narrowest plot.
_NARROWEST = 260


def funnel(spec: dict[str, Any], height: int = 250) -> str:
    """A funnel plot.

    Args:
        spec: `points` (`name`, `x`, `y`, `low`, `high`, `is_outside`), `centre`, `x_name`, `unit`.
        height: of the drawing.
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
    taken: list[tuple[float, float, float]] = []
    parts = []
    for point in sorted(points, key=lambda p: not p["is_outside"]):
        if len(points) > _MOST_NAMED and not point["is_outside"]:
            break
        share, y = x_of(point["x"]), y_of(point["y"])
        width = (len(point["name"]) * 7 + 12) / _NARROWEST
        left = share if share + width <= 1 else share - width
        at = left, left + width, y
        if left < 0 or any(at[0] < right and start < at[1] and abs(y - other) < 14 for start, right, other in taken):
            continue
        if any(left < x_of(p["x"]) < at[1] and abs(y_of(p["y"]) - y) < 8 for p in points if p is not point):
            continue
        taken.append(at)
        side = 'dx="7"' if left == share else 'dx="-7" text-anchor="end"'
        parts.append(
            f'<text class="unit" x="{100 * share:.2f}%" y="{y:.1f}" dy="4" {side}>{escape(point["name"])}</text>'
        )
    return parts


def _tip_of(spec: dict[str, Any], point: dict[str, Any]) -> str:
    return (
        f"{point['name']}\n{number(point['y'], 1)} {spec['unit']}".rstrip()
        + f"\n{spec['x_name']}: {number(point['x'])}"
    )
