"""Lines over time with bands, rules and points validated against chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from html import escape
from typing import Any

from hospital_assets.charts.marks import (
    STRETCH,
    Number,
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
    stroke,
    ticks,
    title,
)
from hospital_assets.measures.natural_limits import WORDS

#: Above and below the plot; the stylesheet's margins of `.fluid`.
_AROUND = 12 + 26
#: Two names beside the plot are at least so far apart.
_NAME_HEIGHT = 13
#: At most so many labels on a telephone, on a tablet; the stylesheet hides the others there.
_MOST_NARROW, _MOST_MEDIUM = 4, 6
_LABEL_WIDTH = 80


def lines(spec: dict[str, Any], width: int = 860, height: int = 250) -> str:
    """Lines over time.

    Args:
        spec: `x` (labels), `lines`, `bands`, `rules`, `unit`, `digits`, `zero`; see `figures.series`.
        width: of the room on a wide screen, for the number of labels.
    """
    values = _values(spec)
    if not values:
        return ""
    scale = ticks(min(values), max(values))
    inner = height - _AROUND
    share = share_of(scale[0], scale[-1])

    def y_of(value: float) -> float:
        return inner * (1 - share(value))

    shares = [i / max(len(spec["x"]) - 1, 1) for i in range(len(spec["x"]))]
    has_names = bool(spec["rules"]) or len(spec["lines"]) > 1
    beside = [*_rule_names(spec, y_of), *([] if spec["rules"] or not has_names else _line_names(spec, y_of))]
    parts = [
        *rows(scale, y_of),
        *_x_axis(spec["x"], shares, width, inner),
        stretched(inner, [*_bands(spec, shares, y_of), *_strokes(spec, shares, y_of)]),
        *(level(f"rule {rule['style']}", y_of(rule["value"]), shares[rule.get("since", 0)]) for rule in spec["rules"]),
        *beside,
        *_points(spec, shares, y_of),
        *_columns(spec, shares, inner),
    ]
    return fluid(inner, parts, *(["named"] if has_names else []))


def _values(spec: dict[str, Any]) -> list[float]:
    """Every value that the y axis has to span."""
    values = [v for line in spec["lines"] for v in line["values"]]
    values += [v for band in spec["bands"] for v in (*band["low"], *band["high"])]
    values += [rule["value"] for rule in spec["rules"]]
    known = [v for v in values if v is not None]
    return [*known, 0.0] if known and spec["zero"] else known


def _heights(values: Sequence[Number], y_of: Callable[[float], float]) -> list[Number]:
    return [None if v is None else y_of(v) for v in values]


def _bands(spec: dict[str, Any], shares: Sequence[float], y_of: Callable[[float], float]) -> list[str]:
    xs = [STRETCH * share for share in shares]
    return [
        area(xs, _heights(band["low"], y_of), _heights(band["high"], y_of), band["style"]) for band in spec["bands"]
    ]


def _strokes(spec: dict[str, Any], shares: Sequence[float], y_of: Callable[[float], float]) -> list[str]:
    xs = [STRETCH * share for share in shares]
    return [
        stroke(xs, _heights(line["values"], y_of), line["style"], is_step=line["style"] == "step")
        for line in spec["lines"]
    ]


def _points(spec: dict[str, Any], shares: Sequence[float], y_of: Callable[[float], float]) -> list[str]:
    size = 3.4 if len(shares) <= 60 else 2.6
    return [
        placed(mark, share, y_of(value), size)
        for line in spec["lines"]
        for mark, share, value in zip(line["marks"], shares, line["values"], strict=False)
        if value is not None and mark
    ]


def _rule_names(spec: dict[str, Any], y_of: Callable[[float], float]) -> list[str]:
    """Names beside horizontal lines, from the top, none over another."""
    parts: list[str] = []
    lowest = -math.inf
    for rule in sorted(spec["rules"], key=lambda r: -r["value"]):
        lowest = max(y_of(rule["value"]), lowest + _NAME_HEIGHT)
        text = f"{rule['name']} {short(round(rule['value'], spec['digits']))}"
        parts.append(_name(text, rule["style"], lowest))
    return parts


def _line_names(spec: dict[str, Any], y_of: Callable[[float], float]) -> list[str]:
    """Names of the lines that reach the right edge."""
    parts: list[str] = []
    taken: list[float] = []
    for line in spec["lines"]:
        if not line["values"] or line["values"][-1] is None:
            continue
        y = y_of(line["values"][-1])
        y = max([y, *(other + _NAME_HEIGHT for other in taken if abs(other - y) < _NAME_HEIGHT)])
        taken.append(y)
        parts.append(_name(line["name"], line["style"], y))
    return parts


def _name(text: str, style: str, y: float) -> str:
    return f'<text class="name {style}" x="100%" y="{y:.1f}" dx="6" dy="4">{escape(text)}</text>'


def _x_axis(labels: Sequence[str], shares: Sequence[float], width: int, inner: float) -> list[str]:
    """Labels of the x axis; those that only a wider screen has room for are of class `medium` or `wide`."""
    every, medium, narrow = _strides(len(labels), width)
    parts = []
    for i in range(0, len(labels), every):
        anchor = "end" if i and i == len(labels) - 1 else "middle"
        room = "" if i % narrow == 0 else " medium" if i % medium == 0 else " wide"
        parts.append(
            f'<text class="tick{room}" x="{100 * shares[i]:.2f}%" y="{inner + 20:.1f}" text-anchor="{anchor}">'
            f"{escape(_label(labels[i]))}</text>"
        )
    return parts


def _strides(count: int, width: int) -> tuple[int, int, int]:
    """Every how manieth label is written where there is room, on a tablet, on a telephone; each divides the next."""
    every = max(1, math.ceil(count / max(width // _LABEL_WIDTH, 2)))
    medium = every * max(1, math.ceil(count / every / _MOST_MEDIUM))
    narrow = medium * max(1, math.ceil(count / medium / _MOST_NARROW))
    return every, medium, narrow


def _label(text: str) -> str:
    """Days as `5 Mar`, hours as `Mon 07:00`; other labels as they are."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{moment.day} {moment:%b}" if text == moment.date().isoformat() else f"{moment:%a %H:%M}"


def _columns(spec: dict[str, Any], shares: Sequence[float], inner: float) -> list[str]:
    """A place to point at for each x: it says every value there."""
    half = 0.5 / max(len(shares) - 1, 1)
    parts = []
    for i, share in enumerate(shares):
        left, right = max(share - half, 0.0), min(share + half, 1.0)
        parts.append(
            f'<rect class="hit" x="{100 * left:.2f}%" width="{100 * (right - left):.2f}%" height="{inner:g}">'
            f"{title(_tip_of(spec, i))}</rect>"
        )
    return parts


def _tip_of(spec: dict[str, Any], i: int) -> str:
    """Every value of an x, a line each."""
    unit, digits = spec["unit"], spec["digits"]
    has_limits = any(rule["style"] == "limit" for rule in spec["rules"])
    lines = [_label(spec["x"][i])]
    for line in spec["lines"]:
        value = line["values"][i]
        if value is not None and line["name"]:
            word = f", {WORDS[line['marks'][i]].lower()}" if line["marks"] and has_limits else ""
            lines.append(f"{line['name']}: {measured(value, unit, digits)}{word}")
    for band in spec["bands"]:
        low, high = band["low"][i], band["high"][i]
        if low is not None and high is not None:
            lines.append(f"{band['name']}: {number(low, digits)} to {number(high, digits)}")
    return "\n".join(lines)
