"""Ways from stage to stage, as ribbons."""

from __future__ import annotations

from html import escape
from typing import Any

from hospital_assets.charts.marks import number, scaled

#: Between two nodes of a column, so that the names beside them never touch.
_NODE_GAP = 17
_NODE_WIDTH = 12


def sankey(spec: dict[str, Any], width: int = 1300, height: int = 360) -> str:
    """Columns of nodes with ribbons between them; heights are counts on one scale.

    Args:
        spec: `columns`, each with `name` and `nodes` (`name`, `value`), and `flows`: `column` they start
            in, `start` and `end` (places of their nodes), `value`, `style`.
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
            label = f"{escape(node['name'])} {number(100 * node['value'] / total, 1)} %"
            marks.append(
                f'<rect class="node" x="{x:.1f}" y="{y:.1f}" width="{_NODE_WIDTH}" '
                f'height="{max(tall, 1):.1f}"><title>{label}: {number(node["value"])}</title></rect>'
                f'<text class="node-name{"" if is_first or is_last else " halo"}" x="{beside:.1f}" '
                f'y="{y + tall / 2:.1f}" dy="4" text-anchor="{anchor}">{label}</text>'
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
        label = f"{escape(names[0])} to {escape(names[1])}: {number(flow['value'])}"
        ribbons.append(
            f'<path class="flow {flow["style"]}" d="M{x0:.1f} {y0:.1f}C{middle:.1f} {y0:.1f} {middle:.1f} '
            f"{y1:.1f} {x1:.1f} {y1:.1f}V{y1 + tall:.1f}C{middle:.1f} {y1 + tall:.1f} {middle:.1f} "
            f'{y0 + tall:.1f} {x0:.1f} {y0 + tall:.1f}Z"><title>{label}</title></path>'
        )
    return scaled(width, height, [*ribbons, *marks])
