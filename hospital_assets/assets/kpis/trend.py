"""A small picture of a KPI over time, for the metadata of its materialisation.

Dagster shows Markdown of fewer than 1,000 characters in place, with pictures as data URIs. Belongs here:
which figure of a table is drawn (all hospitals together, its newest periods).
"""

from __future__ import annotations

from hospital_assets.charts import markdown_sparkline
from hospital_assets.contracts import Contract
from hospital_assets.contracts.kpis import ALL
from hospital_assets.warehouse.database import Warehouse

_MOST_POINTS = 40
#: Columns that the figure of a table can be made of, and how; the first that are all there.
_FIGURES = (
    (("numerator_count", "denominator_count"), "100.0 * sum(numerator_count) / nullif(sum(denominator_count), 0)", "%"),
    (("wait_sum_minutes", "wait_count"), "sum(wait_sum_minutes) / nullif(sum(wait_count), 0)", "min"),
    (("rolling_wait_average_minutes",), "max(rolling_wait_average_minutes)", "min"),
    (("median_minutes",), "max(median_minutes)", "min"),
)
#: What the period of a row is called, and columns that must pool everything else.
_PERIODS = ("period_date", "period_month", "service_date")
_POOLED = ("hospital_id", "department_name", "triage_group", "destination_department", "stratum")


def trend(warehouse: Warehouse, contract: Contract) -> str:
    """The newest periods of a KPI as a sparkline in Markdown; empty for tables without a series."""
    names = set(contract.column_names)
    period = next((name for name in _PERIODS if name in names), None)
    found = next(((how, unit) for needs, how, unit in _FIGURES if names.issuperset(needs)), None)
    # Where rows are variants of each other (triage scales, kinds of returns), no one series is it.
    if contract.layer != "kpis" or period is None or found is None or names & {"scale", "variant"}:
        return ""
    how, unit = found
    pooled = " and ".join(f"{name} = '{ALL}'" for name in _POOLED if name in names) or "true"
    values = [
        float(value)
        for (value,) in warehouse.connection.execute(
            f"select value from (select {period}, {how} as value from {contract.qualified_name} "
            f"where {pooled} group by 1 order by 1 desc limit {_MOST_POINTS}) "
            f"where value is not null order by {period}"
        ).fetchall()
    ]
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    label = f"{contract.name}: {len(values)} periods, {low:,.1f} to {high:,.1f} {unit}, now {values[-1]:,.1f}"
    return f"{markdown_sparkline(values, label)} {values[-1]:,.1f} {unit}"
