"""All SQL of the dashboard: functions of one publication and a slice.

What was chosen is bound as parameters. Belongs here: queries, and what a publication holds. Does not: what a
figure is called, or what chance says of it.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import Any

import duckdb

from hospital_assets.clock import last_whole_day
from hospital_assets.contracts.kpis import ALL
from hospital_assets.dashboard.slices import Grain, Known, Slice
from hospital_assets.dashboard.spc import Point

Row = dict[str, Any]

#: Triage scale whose targets the pages use.
SCALE = "ESI"
#: Averages and percentiles of fewer patients say more about them than about the care.
FEW = 11
#: Stages, histograms and pyramids read visits, not aggregates: of so many days at most.
VISIT_DAYS = 28
_PARAMETER = re.compile(r"\$(\w+)")


@dataclass
class Mart:
    """One version of one audience's publication, open for reading; safe for many threads.

    Attributes:
        connection: read-only; each call takes a cursor of its own.
        audience: whose publication.
        version: which version.
        published_at: when it was published.
        data_as_of: the hospital's time then.
    """

    connection: duckdb.DuckDBPyConnection = field(repr=False)
    audience: str
    version: str
    published_at: datetime
    data_as_of: datetime

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
            scale=SCALE,
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
        """What it can be sliced by."""
        (span,) = self.rows("select min(service_date) as first, max(service_date) as last from kpis.kpi_waits_daily")
        triage = self.rows(
            "select level::varchar as level, level_name, target_minutes from dimensions.dim_triage "
            "where scale = $scale order by level",
            scale=SCALE,
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
            targets_minutes={row["level"]: row["target_minutes"] for row in triage},
        )


_WAITS = """
from kpis.kpi_waits_daily
where hospital_id = $hospital and department_name = $department and triage_level = $triage
  and service_date between $first and $last
"""


@dataclass(frozen=True)
class Measured:
    """A figure of a day, and what becomes of it over a week or a month.

    Attributes:
        value: its value, as SQL over the columns of a day.
        n: of how many, as SQL.
        least: points of fewer are left out.
        is_count: whether a longer point is the mean over its days; otherwise over its n.
    """

    value: str
    n: str
    least: int = FEW
    is_count: bool = False


@dataclass(frozen=True)
class OverTime:
    """Figures over time.

    Attributes:
        points: name -> its points, in order of time.
        total: sums over all days of the slice.
    """

    points: Mapping[str, list[Point]]
    total: Row


def over_time(
    mart: Mart, where: Slice, daily: str, figures: Mapping[str, Measured], totals: str = "", **values: Any
) -> OverTime:
    """Figures by day, or by whole week or month where the slice is long; only of days that are over.

    Args:
        mart: the publication.
        where: the slice; its grain decides.
        daily: a query with one row for each `day`.
        figures: what to follow.
        totals: columns of the total, as SQL over the rows of `daily`.
        **values: bound, besides the slice.
    """
    bucket = "day" if where.grain == "day" else f"date_trunc('{where.grain}', day)::date"
    columns = [f"{totals}, "] if totals else []
    for name, of in figures.items():
        known = f"filter (where day <= $until and {of.value} is not null)"
        value = (
            f"sum({of.value}) {known}"
            if of.is_count
            else f"sum(({of.value}) * ({of.n})) {known} / nullif(sum({of.n}) {known}, 0)"
        )
        columns.append(f"({value})::double as {name}_value, coalesce(sum({of.n}) {known}, 0)::bigint as {name}_n, ")
    until = min(mart.known.complete_until, where.last)
    rows = mart.sliced(
        f"with daily as ({daily}), placed as (select {bucket} as start, * from daily) "
        f"select {''.join(columns)}start, grouping(start) = 1 as is_total from placed "
        "group by grouping sets ((start), ()) order by is_total, start",
        where,
        until=until,
        **values,
    )
    *placed, total = rows
    points: dict[str, list[Point]] = {name: [] for name in figures}
    for row in placed:
        days = _days_of(where.grain, row["start"])
        if row["start"] < where.first or row["start"] + timedelta(days=days - 1) > until:
            continue
        for name, of in figures.items():
            value, n = row[f"{name}_value"], row[f"{name}_n"]
            if value is not None and n >= of.least:
                points[name].append(Point(row["start"], value / days if of.is_count else value, n))
    return OverTime(points, total)


def _days_of(grain: Grain, start: date) -> int:
    if grain == "month":
        return monthrange(start.year, start.month)[1]
    return 7 if grain == "week" else 1


#: Sums and typical values of waits over days.
_WAIT_TOTALS = """
coalesce(sum(visit_count), 0)::bigint as visit_count,
coalesce(sum(wait_count), 0)::bigint as wait_count,
coalesce(sum(excluded_no_provider_count), 0)::bigint as excluded_no_provider_count,
sum(wait_sum_minutes) as wait_sum_minutes,
sum(wait_sum_minutes) / nullif(sum(wait_count), 0) as wait_average_minutes,
median(wait_median_minutes) as wait_median_minutes, median(wait_p90_minutes) as wait_p90_minutes,
max(wait_max_minutes) as wait_max_minutes, false as is_exact
"""


def waits(mart: Mart, where: Slice) -> OverTime:
    """Visits and waits (average, median, 90th percentile) over time; its total see `waits_in_total`."""
    found = over_time(
        mart,
        where,
        f"select service_date as day, * {_WAITS}",
        {
            "visits": Measured("visit_count", "visit_count", 1, is_count=True),
            **{name: Measured(f"wait_{name}_minutes", "wait_count") for name in ("average", "median", "p90")},
        },
        _WAIT_TOTALS,
    )
    return OverTime(found.points, waits_in_total(mart, where)) if where.is_whole else found


def waits_in_total(mart: Mart, where: Slice) -> Row:
    """The slice in one row.

    The whole period has its exact median and 90th percentile (`kpi_waits`); of other periods they
    are the medians over the days, and `is_exact` is false.
    """
    if where.is_whole:
        found = mart.sliced(
            "select visit_count, wait_count, excluded_no_provider_count, wait_sum_minutes, "
            "wait_average_minutes, wait_median_minutes, wait_p90_minutes, wait_max_minutes, "
            "true as is_exact from kpis.kpi_waits where hospital_id = $hospital "
            "and department_name = $department and triage_level = $triage",
            where,
        )
        if found:
            return found[0]
    (row,) = mart.sliced(f"select {_WAIT_TOTALS} {_WAITS}", where)
    return row


def waits_by_triage(mart: Mart, where: Slice) -> list[Row]:
    """Visits and waits of each triage level of the slice, the untriaged last."""
    return mart.sliced(
        "select triage_level, sum(visit_count)::bigint as visit_count, "
        "sum(wait_count)::bigint as wait_count, "
        "sum(wait_sum_minutes) / nullif(sum(wait_count), 0) as wait_average_minutes "
        "from kpis.kpi_waits_daily where hospital_id = $hospital "
        "and department_name = $department and triage_level <> 'all' "
        "and service_date between $first and $last group by 1 order by 1",
        where,
    )


def waits_by_department(mart: Mart, where: Slice) -> list[Row]:
    """Visits and waits of each department; exact medians where the period is whole."""
    source, columns = (
        ("kpis.kpi_waits", "wait_median_minutes, wait_p90_minutes")
        if where.is_whole
        else (
            "kpis.kpi_waits_daily",
            "median(wait_median_minutes) as wait_median_minutes, median(wait_p90_minutes) as wait_p90_minutes",
        )
    )
    return mart.sliced(
        "select department_name, sum(visit_count)::bigint as visit_count, "
        "sum(wait_count)::bigint as wait_count, "
        "sum(excluded_no_provider_count)::bigint as excluded_no_provider_count, "
        f"sum(wait_sum_minutes) / nullif(sum(wait_count), 0) as wait_average_minutes, {columns} "
        f"from {source} where hospital_id = $hospital and triage_level = $triage "
        "and department_name <> 'all' "
        + (
            "group by department_name, wait_median_minutes, wait_p90_minutes "
            if where.is_whole
            else "and service_date between $first and $last group by department_name "
        )
        + "order by visit_count desc, department_name",
        where,
    )


_SHARE = "100.0 * numerator_count / nullif(denominator_count, 0)"
_SHARE_TOTALS = (
    "coalesce(sum(numerator_count), 0)::bigint as numerator_count, "
    "coalesce(sum(denominator_count), 0)::bigint as denominator_count"
)
#: Rates by hospital and day -> table, its day, its numerator, further conditions.
_RATES = {
    "on_time": (
        "kpi_seen_on_time_daily",
        "service_date",
        "numerator_count",
        "and scale = $scale and triage_level = $triage",
    ),
    "four_hour": ("kpi_four_hour_daily", "period_date", "numerator_count", ""),
    "twelve": ("kpi_four_hour_daily", "period_date", "over_12_hours_count", ""),
    "lwbs": ("kpi_lwbs_daily", "service_date", "numerator_count", ""),
    "critical": ("kpi_critical_waits_daily", "service_date", "numerator_count", ""),
    "boarded": ("kpi_boarding_daily", "service_date", "numerator_count", "and destination_department = 'all'"),
    "before_noon": ("kpi_discharge_before_noon_daily", "period_date", "numerator_count", ""),
}


def rate(mart: Mart, where: Slice, name: str) -> OverTime:
    """A rate, by the day it counts for, in percent; its total is numerator and denominator."""
    table, day, numerator, condition = _RATES[name]
    return over_time(
        mart,
        where,
        f"select {day} as day, sum({numerator}) as numerator_count, "
        f"sum(denominator_count) as denominator_count from kpis.{table} "
        f"where hospital_id = $hospital and {day} between $first and $last {condition} group by 1",
        {name: Measured(_SHARE, "denominator_count")},
        _SHARE_TOTALS,
    )


def arrivals_by_hour(mart: Mart, where: Slice) -> list[Row]:
    """Arrivals per hospital and hour that existed, by weekday and local hour."""
    return mart.sliced(
        "select iso_weekday_number, hour_of_day, sum(arrivals_count)::bigint as arrivals_count, "
        "sum(existing_hours_count)::bigint as existing_hours_count, "
        "sum(arrivals_count) / nullif(sum(existing_hours_count), 0) as arrivals_per_hour "
        "from kpis.kpi_arrivals_hourly where $hospital in ('all', hospital_id) "
        "and service_date between $first and $last group by all order by 1, 2",
        where,
    )


def blood_groups(mart: Mart, where: Slice) -> list[Row]:
    """Patients by blood group beside the reference mix, whole period."""
    return mart.sliced(
        "select blood_group, patient_count, share_pct, reference_share_pct, known_patient_count "
        "from kpis.kpi_blood_groups where hospital_id = $hospital order by patient_count desc nulls last",
        where,
    )


def physicians(mart: Mart, where: Slice) -> list[Row]:
    """Doctors beside what chance makes of their hours, whole period; codes, no names."""
    return mart.sliced(
        "select doctor_id, visit_count, shift_hours, visits_per_shift_hour, expected_visit_count, "
        "lower_limit_count, upper_limit_count, is_outside "
        "from kpis.kpi_physician_workload w join dimensions.dim_hospital h using (hospital_key) "
        "where doctor_key > 0 and $hospital in ('all', h.hospital_id) "
        "order by expected_visit_count, doctor_id",
        where,
    )


def active_doctors(mart: Mart, where: Slice) -> Row:
    """Doctors with a shift or a patient in the period, and their visits."""
    (row,) = mart.sliced(
        "select count(distinct doctor_key)::bigint as doctors_count, "
        "coalesce(sum(d.visit_count), 0)::bigint as visit_count, "
        "coalesce(sum(d.shift_hours), 0) as shift_hours "
        "from kpis.kpi_physician_workload_daily d "
        "join (select doctor_key, hospital_key from kpis.kpi_physician_workload) w using (doctor_key) "
        "join dimensions.dim_hospital h using (hospital_key) "
        "where doctor_key > 0 and (d.visit_count > 0 or d.shift_hours > 0) "
        "and $hospital in ('all', h.hospital_id) and service_date between $first and $last",
        where,
    )
    return row


def critical(mart: Mart, where: Slice) -> OverTime:
    """Visits of triage level 1 and 2."""
    return over_time(
        mart,
        where,
        "select service_date as day, sum(visit_count) as visit_count from kpis.kpi_waits_daily "
        "where hospital_id = $hospital and department_name = $department "
        "and triage_level in ('1', '2') and $triage in ('all', triage_level) "
        "and service_date between $first and $last group by 1",
        {"critical": Measured("visit_count", "visit_count", 1, is_count=True)},
        "coalesce(sum(visit_count), 0)::bigint as visit_count",
    )


_VISITS = """
from facts.fact_emergency_visits f {patients}
where f.service_date between $since and $last and not f.is_cancelled
"""
_PATIENTS = "join dimensions.dim_patient p on p.patient_key = f.patient_key"


def visits_since(where: Slice) -> date:
    """The first day whose visits are read one by one."""
    return max(where.first, where.last - timedelta(days=VISIT_DAYS - 1))


def _of_visits(mart: Mart, where: Slice, columns: str, then: str = "", patients: tuple[str, ...] = ()) -> list[Row]:
    """A query over the visits of the last days of a slice; no rows where single ones are not published.

    Args:
        mart: the publication.
        where: the slice.
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


#: Patients are many: who they are is looked up while a page's other queries run.
_BESIDE = ThreadPoolExecutor(1, "people")


def people(mart: Mart, where: Slice) -> Future[list[Row]]:
    """Visits of the last days of the slice by ten-year age band and sex; none without patients."""
    return _BESIDE.submit(
        _of_visits,
        mart,
        where,
        "least(f.age_years // 10, 9)::bigint as decade, p.sex, count(*) as visit_count",
        "and f.age_years is not null group by 1, 2 order by 1, 2",
        ("sex",),
    )


def equity(mart: Mart, where: Slice) -> Future[list[Row]]:
    """As `people`, and the same visits' waits by who people are: n, average and its standard error.

    These rows have a `characteristic` (race, ethnicity, sex) and its `category` instead of a `decade`.
    """
    return _BESIDE.submit(
        _of_visits,
        mart,
        where,
        "least(f.age_years // 10, 9)::bigint as decade, p.sex, "
        "case when grouping(p.race) = 0 then 'race' when grouping(p.ethnicity) = 0 then 'ethnicity' "
        "when grouping(decade) = 1 then 'sex' end as characteristic, "
        "coalesce(p.race, p.ethnicity, p.sex) as category, count(f.age_years) as visit_count, "
        "count(f.wait_minutes) as wait_count, avg(f.wait_minutes) as average, "
        "stddev_samp(f.wait_minutes) / sqrt(count(f.wait_minutes)) as error",
        "group by grouping sets ((decade, p.sex), (p.race), (p.ethnicity), (p.sex)) order by 3, 1, 2, 4",
        ("sex", "race", "ethnicity"),
    )


def demographics(mart: Mart, where: Slice) -> list[Row]:
    """Visits and patients by characteristic and category, whole period."""
    return mart.sliced(
        "select characteristic, category, patient_count, visit_count, share_of_visits_pct "
        "from kpis.kpi_demographics where hospital_id = $hospital order by 1, 2",
        where,
    )


def stages(mart: Mart, where: Slice) -> Row | None:
    """How many visits reached each stage, and how long it took; None without visits."""

    def minutes(start: str, end: str, name: str) -> str:
        taken = f"epoch(f.{end} - f.{start}) / 60"
        return (
            f"median({taken}) filter (where f.{end} >= f.{start}) as {name}_median, "
            f"quantile_cont({taken}, 0.9) filter (where f.{end} >= f.{start}) as {name}_p90"
        )

    rows = _of_visits(
        mart,
        where,
        "count(*) as arrival_n, count(f.triage_at) as triage_n, count(f.room_at) as room_n, "
        "count(f.provider_at) as provider_n, count(f.decision_at) as decision_n, "
        "count(f.departure_at) as departure_n, "
        "count(*) filter (where f.is_lwbs) as lwbs_n, "
        + ", ".join(
            [
                minutes("arrival_at", "triage_at", "triage"),
                minutes("triage_at", "room_at", "room"),
                minutes("room_at", "provider_at", "provider"),
                minutes("provider_at", "decision_at", "decision"),
                minutes("decision_at", "departure_at", "departure"),
            ]
        ),
    )
    return rows[0] if rows else None


def wait_histogram(mart: Mart, where: Slice) -> list[Row]:
    """Visits by wait in steps of 30 minutes, the last from 4 hours on."""
    return _of_visits(
        mart,
        where,
        "least(f.wait_minutes // 30, 8)::bigint as step, count(*) as visit_count",
        "and f.wait_minutes is not null group by 1 order by 1",
    )


def pathways(mart: Mart, where: Slice) -> list[Row]:
    """Visits by arrival mode, triage level and how they ended."""
    return _of_visits(
        mart,
        where,
        "f.arrival_mode, f.triage_level, coalesce(f.disposition, 'still open') as disposition, count(*) as visit_count",
        "group by all order by visit_count desc, 1, 2, 3",
    )


def waits_by_hour(mart: Mart, where: Slice) -> list[Row]:
    """Wait by local hour of arrival: n, median, 10th and 90th percentile."""
    return _of_visits(
        mart,
        where,
        "hour(f.arrival_local) as hour_of_day, count(f.wait_minutes) as wait_count, "
        "quantile_cont(f.wait_minutes, 0.1) as p10, median(f.wait_minutes) as median, "
        "quantile_cont(f.wait_minutes, 0.9) as p90",
        "group by 1 order by 1",
    )


def handovers(mart: Mart, where: Slice) -> Row | None:
    """Ambulance handovers and how many took longer than 15, 30 and 60 minutes; None without visits."""
    taken = "epoch(f.handover_at - f.arrival_at) / 60"
    rows = _of_visits(
        mart,
        where,
        f"count(*) as n, median({taken}) as median, "
        + ", ".join(f"count(*) filter (where {taken} > {limit}) as over_{limit}" for limit in (15, 30, 60)),
        "and f.handover_at >= f.arrival_at",
    )
    return rows[0] if rows else None


def op18_by_month(mart: Mart, where: Slice) -> list[Row]:
    """OP-18b by month of departure."""
    return mart.sliced(
        "select period_month, denominator_count, median_minutes from kpis.kpi_op18 "
        "where hospital_id = $hospital and stratum = 'reported' "
        "and period_month between date_trunc('month', $first) and $last order by 1",
        where,
    )


def units(mart: Mart, metric: str) -> list[Row]:
    """Hospitals beside the chance limits of their n, whole period."""
    return mart.rows(
        "select hospital_id, denominator_count, numerator_count, value_pct, centre_pct, "
        "lower_limit_pct, upper_limit_pct, is_outside from kpis.kpi_units where metric = $metric "
        "order by hospital_id",
        metric=metric,
    )


def occupancy_now(mart: Mart, where: Slice) -> list[Row]:
    """Each department on the last day of the slice: beds, mean, midnight and peak occupancy."""
    return mart.sliced(
        "select o.hospital_id, o.department_name, o.bed_capacity, o.midnight_patients_count, "
        "o.midnight_pct, o.time_weighted_pct, o.peak_patients_count, o.peak_pct "
        "from kpis.kpi_occupancy_daily o where o.service_date = (select max(service_date) from "
        "kpis.kpi_occupancy_daily where service_date between $first and $last) "
        "and $hospital in ('all', o.hospital_id) and $department in ('all', o.department_name) "
        "and o.department_name <> 'all inpatient' and o.bed_capacity is not null "
        "order by o.hospital_id, o.department_name",
        where,
    )


def occupancy(mart: Mart, where: Slice) -> OverTime:
    """Occupied of offered bed-minutes in percent, over the departments of the slice; n is beds."""
    return over_time(
        mart,
        where,
        "select service_date as day, "
        "100.0 * sum(occupied_bed_minutes) / nullif(sum(staffed_bed_minutes), 0) as value, "
        "sum(bed_capacity) as beds from kpis.kpi_occupancy_daily "
        "where $hospital in ('all', hospital_id) and staffed_bed_minutes is not null "
        "and (case when $department = 'all' then department_name = 'all inpatient' "
        "else department_name = $department end) "
        "and service_date between $first and $last group by 1",
        {"occupancy": Measured("value", "beds", 1)},
    )


def occupancy_by_hour(mart: Mart, where: Slice) -> list[Row]:
    """Census and staffed beds at each hour of the last seven days, by local hour."""
    return mart.sliced(
        "select o.hour_start_local as hour_local, "
        "sum(o.patients_at_start_count)::bigint as patients_count, "
        "sum(o.staffed_bed_minutes / 60.0) as beds from facts.fact_bed_occupancy o "
        f"where o.service_date between $since and $last {mart.only(where, 'o')} group by 1 order by 1",
        where,
        since=where.last - timedelta(days=6),
    )


def bed_flow(mart: Mart, where: Slice) -> OverTime:
    """In and out a day, over inpatient departments or the chosen one; the total has their difference."""
    return over_time(
        mart,
        where,
        "select service_date as day, sum(inflow_count) as inflow, sum(outflow_count) as outflow "
        "from kpis.kpi_department_flow_daily where $hospital in ('all', hospital_id) "
        "and (case when $department = 'all' then department_name <> 'Emergency' "
        "else department_name = $department end) "
        "and service_date between $first and $last group by 1",
        {name: Measured(name, name, 0, is_count=True) for name in ("inflow", "outflow")},
        "sum(inflow)::bigint as inflow, (sum(inflow) - sum(outflow))::bigint as net",
    )


def boarding_by_destination(mart: Mart, where: Slice) -> list[Row]:
    """Boarding by the department admitted to: n, average, over four and twelve hours, longest."""
    return mart.sliced(
        "select destination_department, sum(denominator_count)::bigint as denominator_count, "
        "sum(boarding_sum_minutes) / nullif(sum(denominator_count), 0) as average_minutes, "
        "sum(numerator_count)::bigint as over_4_hours_count, "
        "sum(over_12_hours_count)::bigint as over_12_hours_count "
        "from kpis.kpi_boarding_daily where hospital_id = $hospital "
        "and destination_department <> 'all' and service_date between $first and $last "
        "group by 1 order by 2 desc, 1",
        where,
    )


def crowding_by_hour(mart: Mart, where: Slice) -> list[Row]:
    """NEDOCS: share of hours at each level, by hospital."""
    return mart.sliced(
        "select hospital_id, count(nedocs_score) as hours_count, median(nedocs_score) as median, "
        "max(nedocs_score) as worst, "
        "100.0 * count(*) filter (where nedocs_score > 100) / nullif(count(nedocs_score), 0) "
        "as overcrowded_pct, "
        "100.0 * count(*) filter (where occupancy_ratio > 0.9) "
        "/ nullif(count(occupancy_ratio), 0) as over_90_pct "
        "from kpis.kpi_crowding_hourly where $hospital in ('all', hospital_id) "
        "and service_date between $first and $last group by 1 order by 1",
        where,
    )


def stays_by_month(mart: Mart, where: Slice) -> list[Row]:
    """Length of stay by month of discharge and class."""
    return mart.sliced(
        "select period_month, stay_class, denominator_count, los_hours_median, los_hours_average, "
        "los_hcup_days_average, excluded_open_count from kpis.kpi_length_of_stay "
        "where hospital_id = $hospital "
        "and period_month between date_trunc('month', $first) and $last order by 2, 1",
        where,
    )


def overstays(mart: Mart, where: Slice) -> list[Row]:
    """Stays over 50 hours by department, whole period."""
    return mart.sliced(
        "select department_name, denominator_count, numerator_count, value_pct, "
        "open_numerator_count from kpis.kpi_overstays where hospital_id = $hospital "
        "and department_name <> 'all' order by numerator_count desc nulls last, 1",
        where,
    )


def staff_by_hour(mart: Mart, where: Slice) -> list[Row]:
    """Doctors on shift and arrivals in each local hour of the week, means per hospital."""
    return mart.sliced(
        "select c.iso_weekday_number, c.hour_of_day, c.arrivals_per_hour, s.doctors "
        "from (select iso_weekday_number, hour_of_day, "
        "sum(arrivals_count) / nullif(sum(existing_hours_count), 0) as arrivals_per_hour "
        "from kpis.kpi_arrivals_hourly where $hospital in ('all', hospital_id) "
        "and service_date between $first and $last group by all) c "
        "left join (select isodow(timezone(h.time_zone, k.hour_start_at)) as iso_weekday_number, "
        "hour(timezone(h.time_zone, k.hour_start_at)) as hour_of_day, "
        "avg(k.attendings_count) as doctors "
        "from kpis.kpi_crowding_hourly k join dimensions.dim_hospital h using (hospital_id) "
        "where $hospital in ('all', k.hospital_id) and k.service_date between $first and $last "
        "group by all) s using (iso_weekday_number, hour_of_day) order by 1, 2",
        where,
    )


def workload(mart: Mart, where: Slice) -> OverTime:
    """New patients per shift hour."""
    return over_time(
        mart,
        where,
        "select d.service_date as day, sum(d.visit_count) as visits, sum(d.shift_hours) as hours "
        "from kpis.kpi_physician_workload_daily d "
        "join (select doctor_key, hospital_key from kpis.kpi_physician_workload) w using (doctor_key) "
        f"where doctor_key > 0 {mart.only(replace(where, department=ALL), 'w')} "
        "and d.service_date between $first and $last group by 1",
        {"load": Measured("visits / nullif(hours, 0)", "visits")},
    )


def shift_patterns(mart: Mart, where: Slice) -> Row | None:
    """Shifts, long ones, and nights that follow a night; None where shifts are not published."""
    if not mart.has("fact_doctor_shifts", "shift_start_at"):
        return None
    (row,) = mart.sliced(
        "with shifts as (select s.*, hour(timezone(h.time_zone, s.shift_start_at)) >= 21 as is_night "
        "from facts.fact_doctor_shifts s join dimensions.dim_hospital h using (hospital_key) "
        "where $hospital in ('all', h.hospital_id) and s.service_date between $first and $last), "
        "followed as (select *, lead(shift_start_at) over w - shift_end_at as rest, "
        "lead(is_night) over w as next_is_night from shifts "
        "window w as (partition by doctor_key order by shift_start_at)) "
        "select count(*) as shifts_count, "
        "count(*) filter (where shift_hours >= 12) as long_count, "
        "count(*) filter (where is_night) as nights_count, "
        "count(*) filter (where is_night and next_is_night and rest < interval 24 hours) "
        "as nights_in_a_row_count, "
        "count(*) filter (where rest < interval 11 hours) as short_rest_count from followed",
        where,
    )
    return row


def conditions(mart: Mart, where: Slice) -> list[Row]:
    """The commonest principal diagnoses, whole period."""
    return mart.sliced(
        "select condition_name, icd_code, visit_count, share_pct, coded_visit_count "
        "from kpis.kpi_conditions where hospital_id = $hospital and icd_code <> 'not_coded' "
        "and visit_count is not null order by visit_count desc, icd_code limit 15",
        where,
    )


def condition_trends(mart: Mart, where: Slice, codes: Sequence[str]) -> dict[str, list[int]]:
    """Visits of some principal diagnoses by whole month, or week where months are few; at most 24.

    They end with the publication, whatever the period; none where single days are not published.
    """
    if not mart.has("kpi_conditions_daily", "icd_code"):
        return {}
    until = mart.known.complete_until
    starts = (
        [_months_before(until + timedelta(days=1), back) for back in range(24, -1, -1)]
        if is_by_month(mart)
        else [until - timedelta(days=7 * weeks - 1) for weeks in range(24, -1, -1)]
    )
    starts = [start for start in starts if start >= mart.known.first]
    rows = (
        mart.sliced(
            "select k.icd_code, list_position($starts, s.start) - 1 as place, "
            "sum(k.visit_count)::bigint as visit_count "
            "from kpis.kpi_conditions_daily k asof join (select unnest($starts::date[]) as start) s "
            "on k.service_date >= s.start where $hospital in ('all', k.hospital_id) "
            "and list_contains($codes, k.icd_code) and k.service_date < $ends and k.service_date >= $starts[1] "
            "group by 1, 2",
            where,
            codes=list(codes),
            starts=starts,
            ends=starts[-1],
        )
        if len(starts) > 2
        else []
    )
    found = {code: [0] * (len(starts) - 1) for code in codes}
    for row in rows:
        found[row["icd_code"]][row["place"]] = row["visit_count"]
    return found if rows else {}


#: Histories that are longer are shown by month.
_MONTHS_FROM_DAYS = 190


def is_by_month(mart: Mart) -> bool:
    """Whether `condition_trends` goes by month."""
    return (mart.known.complete_until - mart.known.first).days > _MONTHS_FROM_DAYS


def _months_before(day: date, months: int) -> date:
    """The first of the month so many months before a day's."""
    month = day.year * 12 + day.month - 1 - months
    return date(month // 12, month % 12 + 1, 1)


def condition_groups(mart: Mart, where: Slice) -> list[Row]:
    """Visits by clinical group, whole period."""
    return mart.sliced(
        "select condition_group, visit_count, share_pct, coded_visit_count "
        "from kpis.kpi_condition_groups where hospital_id = $hospital "
        "and condition_group not in ('not_coded') order by visit_count desc nulls last limit 15",
        where,
    )


def procedures(mart: Mart, where: Slice) -> list[Row]:
    """The commonest procedures, whole period."""
    return mart.sliced(
        "select procedure_name, procedure_code, procedure_count, visit_count, share_pct "
        "from kpis.kpi_procedures where hospital_id = $hospital "
        "order by procedure_count desc nulls last, procedure_code limit 15",
        where,
    )


def surveillance(mart: Mart, where: Slice, watched: Mapping[str, tuple[str, ...]]) -> OverTime:
    """Visits whose principal diagnosis is in some clinical groups; a day without any is 0.

    Args:
        mart: the publication.
        where: the slice; hospital and period are followed.
        watched: name of a series -> its clinical groups.
    """
    if not mart.has("kpi_conditions_daily", "icd_code"):
        return OverTime({name: [] for name in watched}, {})
    sums = ", ".join(
        f"coalesce(sum(visit_count) filter (where list_contains(${name}, condition_group)), 0) as {name}"
        for name in watched
    )
    bound: dict[str, Any] = {name: list(groups) for name, groups in watched.items()}
    bound["all_groups"] = [group for groups in watched.values() for group in groups]
    return over_time(
        mart,
        where,
        f"select day, {sums} from "
        "(select $first::date + i::integer as day from range($days::bigint) r(i)) "
        "left join (select k.service_date as day, k.visit_count, c.condition_group "
        "from kpis.kpi_conditions_daily k join dimensions.dim_condition c "
        "using (icd_version, icd_code) where $hospital in ('all', k.hospital_id) "
        "and list_contains($all_groups, c.condition_group) "
        "and k.service_date between $first and $last) using (day) group by 1",
        {name: Measured(name, name, 0, is_count=True) for name in watched},
        days=where.days,
        **bound,
    )


def returns_by_month(mart: Mart, where: Slice) -> list[Row]:
    """72-hour returns of discharged visits by month."""
    return mart.sliced(
        "select period_month, denominator_count, numerator_count, value_pct from kpis.kpi_returns "
        "where hospital_id = $hospital and variant = 'discharged' "
        "and period_month between date_trunc('month', $first) and $last order by 1",
        where,
    )


def readmissions_by_month(mart: Mart, where: Slice) -> list[Row]:
    """30-day readmissions by month of index discharge."""
    return mart.sliced(
        "select period_month, denominator_count, numerator_count, value_pct "
        "from kpis.kpi_readmissions where hospital_id = $hospital "
        "and period_month between date_trunc('month', $first) and $last order by 1",
        where,
    )


#: The seasonal baseline looks this many weeks back.
BASELINE_WEEKS = 8


def daily_forecast(mart: Mart, where: Slice) -> list[Row]:
    """Arrivals by day for the next 14 days: the median of the same weekday in the weeks before.

    The bands are order statistics of those n weeks, without any distribution assumed: a new value
    falls within their range with probability (n - 1) / (n + 1), between the second lowest and the
    second highest with (n - 3) / (n + 1), if weeks are exchangeable. Rows of the past carry
    `actual`, and what the same rule would have said a week ahead, for its accuracy.
    """
    return mart.sliced(
        """
        with daily as (
            select service_date, sum(arrivals_count)::double as arrivals
            from kpis.kpi_arrivals_hourly
            where $hospital in ('all', hospital_id)
              and service_date between $until::date - 63 - 7 * $weeks::integer and $until
            group by 1
        ), wanted as (
            select $until::date + i::integer as day from range(-55, 15) r(i)
        ), looked as (
            select w.day, d.arrivals
            from wanted w join daily d
              on isodow(d.service_date) = isodow(w.day)
             -- A week ahead at least: what was known when that day was forecast.
             and d.service_date between least(w.day - 7, $until::date) - 7 * $weeks::integer + 1
                                    and least(w.day - 7, $until::date)
        )
        select w.day, a.arrivals as actual, f.n,
               f.baseline, f.low_inner, f.high_inner, f.low_outer, f.high_outer
        from wanted w
        left join daily a on a.service_date = w.day
        left join (
            select day, count(*) as n, median(arrivals) as baseline,
                   case when count(*) > 3 then list_sort(list(arrivals))[2] end as low_inner,
                   case when count(*) > 3 then list_sort(list(arrivals))[-2] end as high_inner,
                   min(arrivals) as low_outer, max(arrivals) as high_outer
            from looked group by 1
        ) f using (day)
        where a.arrivals is not null or w.day > $until
        order by 1
        """,
        where,
        until=mart.known.complete_until,
        weeks=BASELINE_WEEKS,
    )


def beds_forecast(mart: Mart, where: Slice) -> list[Row]:
    """Beds occupied on each of the next 14 days, mean of the day: as `daily_forecast` does arrivals.

    Returns:
        rows with day, n (weeks), baseline, low, high (lowest and highest of those weeks), and the beds staffed on
        the last day that is over.
    """
    return mart.sliced(
        """
        with daily as (
            select service_date, sum(occupied_bed_minutes) / 1440.0 as occupied,
                   sum(bed_capacity)::bigint as beds
            from kpis.kpi_occupancy_daily
            where $hospital in ('all', hospital_id) and staffed_bed_minutes is not null
              and (case when $department = 'all' then department_name = 'all inpatient'
                   else department_name = $department end)
              and service_date between $until::date - 7 * $weeks::integer + 1 and $until
            group by 1
        )
        select w.day, count(*) as n, median(d.occupied) as baseline, min(d.occupied) as low,
               max(d.occupied) as high, (select max_by(beds, service_date) from daily) as beds
        from (select $until::date + 1 + i::integer as day from range(14) r(i)) w
        join daily d on isodow(d.service_date) = isodow(w.day)
        group by 1 order by 1
        """,
        where,
        until=mart.known.complete_until,
        weeks=BASELINE_WEEKS,
    )


def hourly_forecast(mart: Mart, where: Slice) -> list[Row]:
    """Arrivals by hour for the next 48 hours: the median of the same hour of the week."""
    return mart.sliced(
        """
        with hourly as (
            select service_date, hour_of_day, sum(arrivals_count)::double as arrivals
            from kpis.kpi_arrivals_hourly
            where $hospital in ('all', hospital_id) and existing_hours_count > 0
              and service_date between $until::date - 7 * $weeks::integer + 1 and $until
            group by 1, 2
        )
        select w.day, w.hour_of_day, count(h.arrivals) as n, median(h.arrivals) as baseline,
               min(h.arrivals) as low_outer, max(h.arrivals) as high_outer
        from (select $until::date + 1 + (i // 24)::integer as day, (i % 24)::bigint as hour_of_day
              from range(48) r(i)) w
        left join hourly h on isodow(h.service_date) = isodow(w.day)
         and h.hour_of_day = w.hour_of_day
        group by 1, 2 order by 1, 2
        """,
        where,
        until=mart.known.complete_until,
        weeks=BASELINE_WEEKS,
    )


def census(mart: Mart) -> list[Row]:
    """Tables of the publication with their rows and columns."""
    return mart.rows(
        "select schema_name || '.' || table_name as name, estimated_size as row_count, "
        "column_count from duckdb_tables() order by 1"
    )
