"""What all charts share: numbers for people, scales, points, the frame of a drawing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

Number = float | int | None

#: Shape of a point by what chance says of it, so that colour is never alone.
_SHAPES = {"usual": "circle", "improving": "diamond", "concern": "triangle", "changed": "square"}
_CORNERS = {
    "diamond": ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
    "triangle": ((0, -1.3), (1.3, 1), (-1.3, 1)),
    "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
}


def number(value: Number, digits: int = 0) -> str:
    """A number for people: thousands separated, a real minus."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "\u2013"
    return f"{value:,.{digits}f}".replace("-", "\u2212")


def percentage(count: float, of: float, digits: int = 1) -> str:
    """A share in percent; neither 100 where one is missing nor 0 where there is one, however it would be rounded."""
    shown, least = round(100 * count / of, digits), float(f"1e-{digits}")
    if count < of and shown >= 100:
        shown = 100 - least
    elif count > 0 and shown <= 0:
        shown = least
    return number(shown, digits)


def measured(value: Number, unit: str, digits: int = 1) -> str:
    """A value with its unit."""
    text = percentage(value, 100, digits) if unit == "%" and value is not None else number(value, digits)
    return f"{text} {unit}".rstrip()


def short(value: float) -> str:
    """A number for an axis."""
    if abs(value) >= 10_000:
        return f"{value / 1000:,.10g}k".replace("-", "\u2212")
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


def share_of(low: float, high: float) -> Callable[[float], float]:
    """Where a value is between two others, as a share; in the middle where they are one."""
    return lambda value: (value - low) / (high - low) if high > low else 0.5


def title(text: str) -> str:
    """What a mark says when pointed at."""
    return f"<title>{escape(text)}</title>"


def shape(kind: str, x: float, y: float, size: float) -> str:
    """A point: its shape and colour say what chance says of it."""
    of = _SHAPES.get(kind, "circle")
    if of == "circle":
        return f'<circle class="mark {kind}" cx="{x:.1f}" cy="{y:.1f}" r="{size * 0.8:.1f}"/>'
    points = " ".join(f"{x + dx * size:.1f},{y + dy * size:.1f}" for dx, dy in _CORNERS[of])
    return f'<polygon class="mark {kind}" points="{points}"/>'


def placed(kind: str, share: float, y: float, size: float, label: str = "") -> str:
    """A point at a share of the plot's width."""
    mark = shape(kind, 0, 0, size)
    tip = title(label) if label else ""
    return f'<svg class="at" x="{100 * share:.2f}%" y="{y:.1f}" overflow="visible">{mark}{tip}</svg>'


def stroke(xs: Sequence[float], ys: Sequence[Number], name: str, is_step: bool = False) -> str:
    """A line through points, broken where there is none; as a step, a value holds until the next."""
    parts: list[str] = []
    pen = "M"
    for x, y in zip(xs, ys, strict=True):
        if y is None:
            pen = "M"
            continue
        parts.append(f"{pen}{x:.1f} {y:.1f}" if pen == "M" or not is_step else f"H{x:.1f}V{y:.1f}")
        pen = "L"
    return f'<path class="line {name}" d="{"".join(parts)}"/>'


def area(xs: Sequence[float], lows: Sequence[Number], highs: Sequence[Number], name: str) -> str:
    """A band between two lines."""
    known = [
        (x, low, high) for x, low, high in zip(xs, lows, highs, strict=True) if low is not None and high is not None
    ]
    outline = [f"{x:.1f},{high:.1f}" for x, _, high in known] + [f"{x:.1f},{low:.1f}" for x, low, _ in reversed(known)]
    return f'<polygon class="band {name}" points="{" ".join(outline)}"/>'


def level(name: str, y: float, start: float = 0) -> str:
    """A line from a share of the plot's width to its right."""
    return f'<line class="{name}" x1="{100 * start:.6g}%" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>'


def rows(scale: Sequence[float], y_of: Callable[[float], float]) -> list[str]:
    """The lines and numbers of a y axis."""
    return [
        f"{level('grid', y_of(v))}"
        f'<text class="tick" x="-8" y="{y_of(v):.1f}" dy="4" text-anchor="end">{short(v)}</text>'
        for v in scale
    ]


#: How wide the x axis of a `stretched` drawing is, in its own units.
STRETCH = 1000


def stretched(height: float, parts: Sequence[str]) -> str:
    """Paths over the whole plot, however wide it is: x from 0 to `STRETCH`; their strokes keep their width."""
    return (
        f'<svg class="stretched" viewBox="0 0 {STRETCH} {height:g}" width="100%" height="{height:g}" '
        f'preserveAspectRatio="none" overflow="visible">{"".join(parts)}</svg>'
    )


def fluid(height: float, parts: Sequence[str], *names: str) -> str:
    """A drawing as wide as the room it is given; `names` choose its margins in the stylesheet."""
    return (
        f'<svg class="{" ".join(("drawing", "fluid", *names))}" height="{height:g}" aria-hidden="true" '
        f'focusable="false">{"".join(parts)}</svg>'
    )


def scaled(width: int, height: int, parts: Sequence[str], name: str = "drawing") -> str:
    """A drawing of a fixed shape, made smaller where there is less room."""
    return (
        f'<svg class="{name}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'preserveAspectRatio="xMinYMid meet" aria-hidden="true" focusable="false">{"".join(parts)}</svg>'
    )
