"""Visits: the rows behind the figures, one by one, as the publication of the role holds them."""

from __future__ import annotations

from functools import cache

from hospital_assets.charts import number
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.kpis import ALL
from hospital_assets.contracts.table import Measure
from hospital_assets.dashboard.figures import Column, Page, empty, figure, measure_of
from hospital_assets.dashboard.mart import Mart
from hospital_assets.dashboard.pages.shared import NOT_PUBLISHED
from hospital_assets.dashboard.slices import Slice
from hospital_assets.warehouse.lineage import made_from

_FACT = "fact_emergency_visits"
#: More rows are for the whole publication, and a program of the reader's own.
MOST_ROWS = 500
#: Heading, decimals, the column of the fact it takes, and what is shown of it, as SQL.
_COLUMNS = (
    ("Visit", None, "visit_id", "f.visit_id"),
    ("Arrival", None, "arrival_local", "strftime(f.arrival_local, '%Y-%m-%d %H:%M')"),
    ("Hospital", None, "hospital_key", "h.hospital_id"),
    ("Department", None, "department_key", "d.department_name"),
    ("Triage", 0, "triage_level", "f.triage_level"),
    ("Age", 0, "age_years", "f.age_years"),
    ("Came by", None, "arrival_mode", "replace(f.arrival_mode, '_', ' ')"),
    ("Wait min", 0, "wait_minutes", "f.wait_minutes"),
    ("Why no wait", None, "wait_exclusion", "replace(f.wait_exclusion, '_', ' ')"),
    ("Stay min", 0, "los_minutes", "f.los_minutes"),
    ("Boarding min", 0, "boarding_minutes", "f.boarding_minutes"),
    ("Disposition", None, "disposition", "replace(f.disposition, '_', ' ')"),
    ("Flags", None, "quality_codes", "f.quality_codes"),
)


@cache
def of_visits() -> frozenset[Measure]:
    """The measures whose figures are computed from visits."""
    tables = [contract for contract in CONTRACTS.values() if contract.measures and made_from(contract.name, _FACT)]
    return frozenset(measure for contract in tables for measure in contract.measures)


def visits(mart: Mart, where: Slice) -> Page:
    """The newest visits of the slice."""
    measure = measure_of(_FACT, "Visits")
    if not mart.has_visits:
        return Page((), (), [empty("visits", "Visits", NOT_PUBLISHED, 12, measure)])
    shown = [column for column in _COLUMNS if mart.has(_FACT, column[2])]
    level = "" if where.triage == ALL else "and f.triage_level = $triage::integer"
    chosen = f"from facts.{_FACT} f where f.service_date between $first and $last {mart.only(where, 'f')} {level}"
    (count,) = mart.sliced(f"select count(*) as visit_count {chosen}", where)
    if not count["visit_count"]:
        return Page((), (), [empty("visits", "Visits", "There are none in this slice", 12, measure)])
    order = "f.arrival_local desc, f.visit_id" if mart.has(_FACT, "arrival_local") else "f.service_date desc, 1"
    columns = ", ".join(f"{sql} as {name}" for _, _, name, sql in shown)
    rows = mart.sliced(
        f"select {columns} from (select * {chosen}) f "
        "left join dimensions.dim_hospital h on h.hospital_key = f.hospital_key "
        "left join dimensions.dim_department d on d.department_key = f.department_key "
        f"order by {order} limit {MOST_ROWS}",
        where,
    )
    total, every = number(count["visit_count"]), count["visit_count"] <= MOST_ROWS
    found = figure(
        "visits",
        f"{total} visits" if every else f"The newest {MOST_ROWS} of {total} visits",
        "Every visit of the slice by its local day of arrival, cancelled ones too; times are the hospital's",
        rows,
        *(Column(heading, digits, name) for heading, digits, name, _ in shown),
        span=12,
        measure=measure,
        note="" if every else "All of them are in the whole publication, which can be downloaded below.",
    )
    return Page((), (), [found])
