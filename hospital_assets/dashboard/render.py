"""From pages to HTML: the templates and what they need to know.

Belongs here: filters, addresses, the CSV of a figure. Does not: what a page says.
"""

from __future__ import annotations

import math
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from hospital_assets.access.spreadsheets import as_csv as csv_of
from hospital_assets.charts import assurance, number, percentage
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.kpis import ALL
from hospital_assets.contracts.table import Measure
from hospital_assets.dashboard.figures import Away, Card, Cell, Column, Drawn, Figure, Link
from hospital_assets.dashboard.pages.visits import of_visits
from hospital_assets.dashboard.slices import Known, Slice, periods
from hospital_assets.measures.natural_limits import ASSURANCES
from hospital_assets.measures.words import lasted

FOLDER = Path(__file__).parent
#: Text of fewer characters is not broken into lines.
_SHORT = 16
#: Where the cards of this moment stand in a page that is remembered.
NOW = Markup("<!-- now -->")
#: Keys of KPIs that a day leads to.
_BY_TIME = {"service_date", "period_month", "period_year"}


@cache
def templates() -> Environment:
    """The templates, compiled once; everything is escaped unless it was drawn here."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "assurances": ASSURANCES,
        "assurance": assurance,
        "table_rows": table_rows,
        "largest_flows": largest_flows,
        "not_followed": not_followed,
        "of_visits": of_visits(),
        "how_explained": how_explained,
        "Markup": Markup,
        "NOW": NOW,
        "number": number,
        "lasted": lasted,
        "pairs": parse_qsl,
    }
    return environment


def render(template: str, **values: Any) -> str:
    """A template with values."""
    return templates().get_template(template).render(**values)


def query(where: Slice, **changes: str) -> str:
    """A slice as a query string, shortest form."""
    values = {
        "period": where.period,
        **({"from": where.first.isoformat(), "to": where.last.isoformat()} if where.period == "days" else {}),
        "hospital": where.hospital,
        "department": where.department,
        "triage": where.triage,
        **{name: str(value) for name in ("beds", "doctors") if (value := getattr(where, name))},
    } | changes
    return urlencode({name: value for name, value in values.items() if value != ALL})


def how_explained(measure: Measure, where: Slice, audience: str) -> str:
    """The command that leads from a measure, on the last day of a slice, to its rows; empty where it is of no KPI."""
    kpis = [
        contract
        for contract in CONTRACTS.values()
        if contract.layer == "kpis" and measure in contract.measures and _BY_TIME & {*contract.key}
    ]
    if not kpis:
        return ""
    # The publication of one hospital has no rows of all.
    hospital = audience.partition("-")[2] or where.hospital
    keys = {"department_name": where.department, "triage_group": where.triage}
    chosen = [f"{key}={value}" for key, value in keys.items() if key in kpis[0].key and value != ALL]
    words = ["hospital", "explain", kpis[0].name, "--hospital", hospital, "--day", where.last.isoformat()]
    return shlex.join([*words, *(word for one in chosen for word in ("--where", one)), "--role", audience])


def sentence(where: Slice, known: Known) -> str:
    """A slice in words, for the aria-live region and for print."""
    parts = [f"{where.first.isoformat()} to {where.last.isoformat()}"]
    parts.append(known.hospitals.get(where.hospital, "all hospitals"))
    parts.append("all departments" if where.department == ALL else where.department)
    parts.append("all triage levels" if where.triage == ALL else f"triage {where.triage} {known.triage[where.triage]}")
    return ", ".join(parts)


def choices(known: Known) -> dict[str, dict[str, str]]:
    """The choices of the slicers: value -> label."""
    days = (known.last - known.first).days + 1
    return {
        "period": {
            ALL: f"All, {days:,} days",
            **{f"last-{n}": f"Last {n} days" for n in (7, 28, 90) if n < days},
            **periods(known),
            "days": "Between two days",
        },
        "hospital": {**({ALL: "All hospitals"} if len(known.hospitals) != 1 else {}), **known.hospitals},
        "department": {ALL: "All departments", **{name: name for name in known.departments}},
        "triage": {ALL: "All", **known.triage},
    }


def table_rows(figure: Figure, where: Slice, as_cards: bool = False) -> Markup:
    """The rows of a data table; a page has thousands of cells, too many for a template's loop.

    Args:
        where: the slice, for links.
        as_cards: each cell names its column, so that a telephone can show a row as a card.
    """
    styles = [
        ' class="n"' if column.digits is not None else ' class="wide"' if column.is_wide else ""
        for column in figure.columns
    ]
    parts = []
    for row in figure.rows:
        first, *others = row
        parts.append(f'<tr><th scope="row"{styles[0]}>{cell(first, figure.columns[0], where)}</th>')
        for i, value in enumerate(others, start=1):
            style = styles[i]
            if not style and isinstance(value, str) and len(value) < _SHORT:
                style = ' class="s"'
            named = f' data-label="{escape(figure.columns[i].name)}"' if as_cards else ""
            parts.append(f"<td{style}{named}>{cell(value, figure.columns[i], where)}</td>")
        parts.append("</tr>")
    return Markup("".join(parts))  # noqa: S704  (every cell is escaped or drawn here)


#: So many flows stand for a Sankey diagram where there is no room for it.
_MOST_FLOWS = 8


def largest_flows(figure: Figure) -> list[tuple[Cell, Cell, str]]:
    """The largest flows of a Sankey diagram, in percent of all: from, to, share."""
    flows = sorted(figure.rows, key=lambda row: -float(row[2]))[:_MOST_FLOWS]  # type: ignore[arg-type]
    return [(row[0], row[1], percentage(float(row[2]), figure.n or 1)) for row in flows]  # type: ignore[arg-type]


_NONE = Markup('<span class="none" title="not shown">&ndash;</span>')


def cell(value: Cell, column: Column, where: Slice) -> Markup:
    """A table's cell."""
    if isinstance(value, Drawn):
        return Markup(value.svg)  # noqa: S704  (drawn by `charts`, which escapes names)
    if isinstance(value, Link):
        address = query(where, **{value.slicer: value.value})
        return Markup('<a href="?{}" data-slice>{}</a>').format(address, value.text)
    if isinstance(value, Away):
        return Markup('<a href="{}" rel="noreferrer">{}</a>').format(value.address, value.text)
    if value is None:
        return _NONE
    if isinstance(value, str):
        return escape(value)
    return Markup(_rounded(value, column))  # noqa: S704  (digits only)


def _rounded(value: float, column: Column) -> str:
    digits = column.digits or 0
    return percentage(value, 100, digits) if column.is_share else number(value, digits)


def not_followed(shown: Figure | Card, where: Slice) -> str:
    """Which of the chosen slicers a figure does not follow, in words."""
    chosen = {
        "period": not where.is_whole,
        "hospital": where.hospital != ALL,
        "department": where.department != ALL,
        "triage": where.triage != ALL,
    }
    missing = [name for name in shown.ignores if chosen[name]]
    return f"Not by {' or '.join(missing)}" if missing else ""


def as_csv(figure: Figure, about: str) -> str:
    """The data table of a figure, its numbers rounded as they are shown, below a line that says what it is."""
    kept = [i for i, _ in enumerate(figure.columns) if not any(isinstance(row[i], Drawn) for row in figure.rows)]
    table = csv_of(
        [figure.columns[i].name for i in kept],
        ([_plain(row[i], figure.columns[i]) for i in kept] for row in figure.rows),
    )
    return csv_of([f"# {' '.join(f'{figure.title}. {about}'.split())}"], []) + table


def file_name(page: str, figure: str, where: Slice) -> str:
    """The name of an export: what it is of, and of which slice."""
    chosen = [v for v in (where.hospital, where.department) if v != ALL]
    chosen += [] if where.triage == ALL else [f"triage-{where.triage}"]
    parts = [page, figure, where.first.isoformat(), where.last.isoformat(), *chosen]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", "_".join(parts)) + ".csv"


def _plain(value: Cell, column: Column) -> object:
    if isinstance(value, float) and column.digits is not None:
        if column.is_share and math.isfinite(value):
            value = float(percentage(value, 100, column.digits).replace(",", "").replace("\u2212", "-"))
        return round(value, column.digits) if column.digits else round(value)
    return value.text if isinstance(value, Link | Away) else value
