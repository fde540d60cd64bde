"""One version of a publication, open for reading, and what every page's queries are made with.

What was chosen is bound as parameters. Belongs here: opening, slicing, figures over time, single visits. Does not: a
page's own queries, which are in the module next to it (`pages/<page>_queries.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb

from hospital_assets.clock import last_whole_day
from hospital_assets.contracts.kpis import ALL
from hospital_assets.dashboard.slices import Known, Slice
from hospital_assets.dashboard.spc import Point, end_of
from hospital_assets.measures.natural_limits import BASELINE_POINTS
from hospital_assets.measures.thresholds import IMMEDIATE_MINUTES
from hospital_assets.measures.triage import SCALE_IN_USE

Row = dict[str, Any]

#: Histograms and pyramids read visits, not aggregates: those of this many days at most.
VISIT_DAYS = 28
_PARAMETER = re.compile(r"\$(\w+)")


@dataclass
class Mart:
    """One version of one audience's publication, open for reading; safe for many threads.

    Attributes:
        connection: read-only; each call takes a cursor of its own.
        data_as_of: the hospital's time then.
        baselines_from: days from which limits of chance are computed anew (`Settings`).
        few: averages and percentiles of fewer patients are not shown, they say more about them than about the
            care: the small-cell threshold of the policy it was published under.
        file: the publication as a DuckDB file.
        rounded: tables whose counts are rounded, and limits of chance that much wider.
    """

    connection: duckdb.DuckDBPyConnection = field(repr=False)
    audience: str
    version: str
    published_at: datetime
    data_as_of: datetime
    few: int
    baselines_from: tuple[date, ...] = ()
    file: Path | None = None
    rounded: frozenset[str] = frozenset()

    def chance(self, table: str, also: str = "") -> str:
        """What limits of a table allow for, in words; `also` beside chance."""
        known = "chance and rounding" if table in self.rounded else "chance"
        if also:
            return f"{known}, and {also}"
        return known if table in self.rounded else "chance alone"

    def rows(self, sql: str, **values: Any) -> list[Row]:
        """The rows of a query, as dictionaries."""
        named = set(_PARAMETER.findall(sql))
        with self.connection.cursor() as cursor:
            cursor.execute(sql, {name: value for name, value in values.items() if name in named})
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def sliced(self, sql: str, where: Slice, **values: Any) -> list[Row]:
        """The rows of a query about a slice."""
        return self.rows(
            sql,
            first=where.first,
            last=where.last,
            hospital=where.hospital,
            department=where.department,
            triage=where.triage,
            scale=SCALE_IN_USE,
            **values,
        )

    @cached_property
    def columns(self) -> frozenset[tuple[str, str]]:
        """(table, column) of everything in the publication."""
        return frozenset(
            (row["table_name"], row["column_name"])
            for row in self.rows("select table_name, column_name from duckdb_columns()")
        )

    def has(self, table: str, *columns: str) -> bool:
        """Whether the publication holds a table with some columns."""
        return all((table, column) in self.columns for column in columns)

    @cached_property
    def keys(self) -> Mapping[tuple[str, str], tuple[int, ...]]:
        """Keys by ("hospital", id) and ("department", name): filters on them need no join."""
        found: dict[tuple[str, str], tuple[int, ...]] = {}
        for row in self.rows(
            "select 'hospital' as kind, hospital_id as name, hospital_key as key "
            "from dimensions.dim_hospital union all select 'department', department_name, "
            "department_key from dimensions.dim_department order by 1, 2, 3"
        ):
            of = row["kind"], row["name"]
            found[of] = (*found.get(of, ()), row["key"])
        return found

    def only(self, where: Slice, table: str) -> str:
        """Conditions on the hospital and department of a table with their keys, as SQL."""
        chosen = {"hospital": where.hospital, "department": where.department}
        parts = [
            f"and {table}.{kind}_key in ({', '.join(map(str, self.keys.get((kind, name), (0,))))})"
            for kind, name in chosen.items()
            if name != ALL
        ]
        return " ".join(parts)

    @cached_property
    def has_visits(self) -> bool:
        """Whether it holds single visits (executives get figures only)."""
        return self.has("fact_emergency_visits", "service_date", "wait_minutes")

    @cached_property
    def known(self) -> Known:
        """The values by which the mart can be sliced."""
        (span,) = self.rows("select min(service_date) as first, max(service_date) as last from kpis.kpi_waits_daily")
        triage = self.rows(
            "select level::varchar as level, level_name, target_minutes, target_pct from dimensions.dim_triage "
            "where scale = $scale order by level",
            scale=SCALE_IN_USE,
        )
        last = span["last"] or self.data_as_of.date()
        return Known(
            first=span["first"] or last,
            last=last,
            complete_until=min(last, last_whole_day(self.data_as_of)),
            hospitals={
                row["hospital_id"]: row["hospital_name"]
                for row in self.rows(
                    "select hospital_id, hospital_name from dimensions.dim_hospital "
                    "where hospital_key > 0 order by hospital_id"
                )
            },
            departments=tuple(
                row["department_name"]
                for row in self.rows(
                    "select department_name from kpis.kpi_waits where department_name <> 'all' "
                    "group by 1 order by sum(visit_count) desc, 1"
                )
            ),
            triage={row["level"]: row["level_name"] for row in triage},
            # At once is within some minutes, see `triage.wait_target`.
            targets_minutes={row["level"]: max(row["target_minutes"], IMMEDIATE_MINUTES) for row in triage},
            targets_pct={row["level"]: row["target_pct"] for row in triage if row["target_pct"] is not None},
        )


@dataclass(frozen=True)
class Measured:
    """A figure of a day, and what becomes of it over a week or a month.

    Attributes:
        value: its value, as SQL over the columns of a day.
        n: of how many, as SQL.
        least: points of fewer are left out; by default those of too few patients.
        is_count: whether a longer point is the mean over its days.
        weight: otherwise, what its days count by: the denominator of `value`, as SQL; by default the n.
    """

    value: str
    n: str
    least: int | None = None
    is_count: bool = False
    weight: str = ""


@dataclass(frozen=True)
class OverTime:
    """Figures over time.

    Attributes:
        points: name -> points in order of time: of the slice, of the baseline, and of some time around the slice.
        total: sums over all days of the slice.
    """

    points: Mapping[str, list[Point]]
    total: Row


def over_time(
    mart: Mart, where: Slice, daily: str, figures: Mapping[str, Measured], totals: str = "", **values: Any
) -> OverTime:
    """Figures by day, or by whole week or month where the slice is long; only of days that are over.

    Args:
        where: the slice; its grain decides.
        daily: a query with one row for each `day` from $first to $last, which are bound to all days there are.
        totals: columns of the total, as SQL over the rows of `daily`.
        **values: bound, besides the slice.
    """
    grain, whole = where.grain, replace(where, first=mart.known.first, last=mart.known.last)
    start, end = _BUCKETS[grain]
    columns, places, baselines = [f"{totals}, "] if totals else [], [], []
    for name, of in figures.items():
        known = f"filter (where day <= $until and {of.value} is not null)"
        value = (
            f"sum({of.value}) {known}"
            if of.is_count
            else f"sum(({of.value}) * ({of.weight or of.n})) {known} / nullif(sum({of.weight or of.n}) {known}, 0)"
        )
        columns.append(f"({value})::double as {name}_value, coalesce(sum({of.n}) {known}, 0)::bigint as {name}_n, ")
        is_point = f"(is_whole and {name}_value is not null and {name}_n >= {_least(mart, of)})"
        places.append(f", {is_point} as {name}_is, count_if({name}_is) over series as {name}_at")
        baselines.append(f"({name}_is and {name}_at <= {BASELINE_POINTS})")
    anew = " + ".join(f"(start >= date '{day}')::int" for day in mart.baselines_from) or "0"
    rows = mart.sliced(
        f"with daily as ({daily}), "
        f"placed as (select {start} as start, day between $since and $upto as inside, * from daily), "
        f"found as (select {''.join(columns)}start, inside, grouping(start) = 1 as is_total from placed "
        "group by grouping sets ((start), (inside))), "
        f"spans as (select *, coalesce(start >= $first and {end} <= $until, false) as is_whole from found), "
        f"ranked as (select *{''.join(places)} from spans "
        f"window series as (partition by is_total, {anew} order by start)) "
        "select * from ranked where (is_total and inside) or start between $before and $after "
        f"or {' or '.join(baselines)} order by start",
        whole,
        until=mart.known.complete_until,
        since=where.first,
        upto=where.last,
        before=where.first - _AROUND[grain],
        after=where.last + _AROUND[grain],
        **values,
    )
    total = next((row for row in rows if row["is_total"]), None)
    if total is None and totals:
        # No day of the slice has a row: sums of nothing, as the query has them.
        nothing = f"with daily as ({daily}) select {totals} from daily where false"
        (total,) = mart.sliced(nothing, whole, **values)
    points: dict[str, list[Point]] = {name: [] for name in figures}
    for row in rows:
        for name, of in figures.items():
            if row[f"{name}_is"]:
                days = (end_of(row["start"], grain) - row["start"]).days + 1 if of.is_count else 1
                points[name].append(Point(row["start"], row[f"{name}_value"] / days, row[f"{name}_n"]))
    return OverTime(points, total or {})


#: Grain -> where the point of a day begins and ends, as SQL.
_BUCKETS = {
    "day": ("day", "start"),
    "week": ("date_trunc('week', day)::date", "start + 6"),
    "month": ("date_trunc('month', day)::date", "last_day(start)"),
}
#: Points before and after the slice that are read, too: runs and trends reach beyond it.
_AROUND = {"day": timedelta(days=60), "week": timedelta(weeks=60), "month": timedelta(days=1860)}


def _least(mart: Mart, of: Measured) -> int:
    return mart.few if of.least is None else of.least


def average(sums: str, n: str) -> str:
    """An average as SQL: a sum over the n of the rows that have one.

    Where few patients are protected, some have none: those of quiet days. Of less than half of all it is no average of
    all, and null.

    Args:
        n: of how many, as SQL.
    """
    of = f"sum({n}) filter ({sums} is not null)"
    return f"case when 2 * {of} >= sum({n}) then sum({sums}) / nullif({of}, 0) end"


_VISITS = """
from facts.fact_emergency_visits f {patients}
where f.service_date between $since and $last and not f.is_cancelled
"""
_PATIENTS = "join dimensions.dim_patient p on p.patient_key = f.patient_key"


def visits_since(where: Slice) -> date:
    """The first day whose visits are read one by one."""
    return max(where.first, where.last - timedelta(days=VISIT_DAYS - 1))


def of_visits(mart: Mart, where: Slice, columns: str, then: str = "", patients: tuple[str, ...] = ()) -> list[Row]:
    """A query over the visits of the last days of a slice; no rows where single ones are not published.

    Args:
        columns: what is selected; visits are `f`, patients `p`.
        then: further conditions, grouping, order.
        patients: columns of `dim_patient` that it needs.
    """
    wanted = ("age_years", "patient_key") if patients else ()
    if not mart.has_visits or not mart.has("fact_emergency_visits", *wanted):
        return []
    if patients and not mart.has("dim_patient", "patient_key", *patients):
        return []
    of = _VISITS.format(patients=_PATIENTS if patients else "") + mart.only(where, "f")
    level = "" if where.triage == ALL else "and f.triage_level = $triage::integer"
    return mart.sliced(f"select {columns} {of} {level} {then}", where, since=visits_since(where))


def of_table(
    mart: Mart, where: Slice, table: str, columns: str, then: str = "", *, is_pooled: bool = True
) -> list[Row]:
    """A query over the rows of a KPI table that a slice is about; none where it is not published.

    Args:
        where: the slice; what the table has no column for does not narrow it.
        table: the KPI table, by local day in `service_date`.
        columns: what is selected.
        then: further conditions, grouping, order.
        is_pooled: whether the table has rows that pool (`all`); otherwise the slice's rows are added up.
    """
    if not mart.has(table, "service_date"):
        return []
    slicers = {"hospital_id": "hospital", "department_name": "department", "triage_group": "triage"}
    conditions = " and ".join(
        f"{column} = ${slicer}" if is_pooled else f"${slicer} in ('all', {column})"
        for column, slicer in slicers.items()
        if mart.has(table, column)
    )
    return mart.sliced(
        f"select {columns} from kpis.{table} where {conditions} and service_date between $first and $last {then}", where
    )


def of_hospital(mart: Mart, where: Slice, table: str, columns: str, then: str = "") -> list[Row]:
    """A query over the rows of a KPI table of the whole period that are about the slice's hospital (or all).

    Args:
        columns: what is selected.
        then: further conditions, order.
    """
    return mart.sliced(f"select {columns} from kpis.{table} where hospital_id = $hospital {then}", where)


def of_months(mart: Mart, where: Slice, table: str, columns: str, then: str = "") -> list[Row]:
    """As `of_hospital`, of the months that the slice touches (`period_month`)."""
    months = "and period_month between date_trunc('month', $first) and $last"
    return of_hospital(mart, where, table, columns, f"{months} {then}")


def of_newest(
    mart: Mart,
    where: Slice,
    table: str,
    columns: str,
    then: str = "",
    *,
    needs: str = "service_date",
    is_pooled: bool = True,
    **values: Any,
) -> list[Row]:
    """A query over what a forecast table holds of the newest day it was made for.

    Args:
        table: the table, by as-of day in `service_date`.
        columns: what is selected.
        then: further conditions, grouping, order.
        needs: a column without which there is nothing to show: no rows where it is not published.
        is_pooled: whether the table has rows that pool (`all`): then it is the newest day of the slice's hospital (or
            all), as far as it is about days that are still to come; otherwise the newest of any hospital.
        **values: bound, besides the slice.
    """
    if not mart.has(table, needs):
        return []
    newest, own = _newest(table, is_pooled=False), _newest(table, is_pooled=is_pooled)
    rows = f"hospital_id = $hospital and target_date >= {newest}" if is_pooled else "$hospital in ('all', hospital_id)"
    return mart.sliced(
        f"select {columns} from forecasts.{table} where {rows} and service_date = {own} {then}", where, **values
    )


def without(mart: Mart, where: Slice, table: str, *, is_pooled: bool = True) -> str:
    """Which hospitals the newest forecast of all lacks, though it had them lately, in words; empty where it lacks none.

    Args:
        table: see `of_newest`; likewise `is_pooled`.
    """
    if where.hospital != ALL or not mart.has(table, "service_date"):
        return ""
    newest = _newest(table, is_pooled=is_pooled)
    rows = mart.sliced(
        f"select hospital_id from forecasts.{table} where hospital_id <> 'all' "
        f"and service_date between {newest} - {_MISSING_DAYS} and {newest} "
        f"group by 1 having max(service_date) < {newest} order by 1",
        where,
    )
    return f"without {', '.join(row['hospital_id'] for row in rows)}, whose day is not known" if rows else ""


#: Who was forecast within so many days before, and is not now, is missing: arrivals are forecast as far ahead.
_MISSING_DAYS = 14


def _newest(table: str, *, is_pooled: bool) -> str:
    return f"(select max(service_date) from forecasts.{table}{' where hospital_id = $hospital' if is_pooled else ''})"
