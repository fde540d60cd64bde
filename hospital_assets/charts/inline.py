"""Pictures inside tables and cards: bars, ranges, sparklines."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from hospital_assets.charts.marks import Number, scaled, shape, stroke

#: Of a picture within Markdown, which Dagster shows in place up to 1,000 characters.
_MARKDOWN_WIDTH, _MARKDOWN_HEIGHT = 160, 32


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
    parts.append(stroke(xs, ys, "actual"))
    if ys[-1] is not None:
        parts.append(shape(verdict, xs[-1], ys[-1], 3.4))
    return scaled(width, height, parts, "spark")


def markdown_sparkline(values: Sequence[float], title: str) -> str:
    """A sparkline as a Markdown picture, for at most 40 values; the newest are at the right."""
    low, high = min(values), max(values)
    gap = (high - low) or 1.0
    path = " ".join(
        f"{round((_MARKDOWN_WIDTH - 2) * i / (len(values) - 1))},{round((_MARKDOWN_HEIGHT - 2) * (high - v) / gap) + 1}"
        for i, v in enumerate(values)
    )
    drawn = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_MARKDOWN_WIDTH}" height="{_MARKDOWN_HEIGHT}">'
        f'<polyline points="{path}" fill="none" stroke="#0072b2"/></svg>'
    )
    return f"![{title}](data:image/svg+xml;base64,{base64.b64encode(drawn.encode()).decode()})"
