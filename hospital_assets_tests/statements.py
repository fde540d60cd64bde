"""What the dashboard's pages ought to say, computed anew from the published tables.

An oracle: plain Polars over whole tables and an XmR chart in plain Python; no query, chart or count of the dashboard is
used. It says facts (numbers and words that decide) in their order, not sentences: wording may change, figures may not.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import cached_property
from statistics import fmean
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import polars as pl

from hospital_assets.dashboard.figures import Card, Figure, Page
from hospital_assets.dashboard.slices import Known, Slice
from hospital_assets.measures.natural_limits import Better
from hospital_assets.measures.triage import SCALE_IN_USE

Fact = str | float | int | None
Facts = Sequence[Fact]
Rows = list[dict[str, Any]]
col = pl.col

DASH = "\N{EN DASH}"
FEW = "too few"
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
#: Numbers that a text has as part of a name or of how it is read: none of them is a figure.
NAMES = re.compile(
    r"NEWS2 (?:≥ 7|3.4, one parameter 3|1.4|5.6|7 and more|0)(?=, |\b)|NEWS2|OP-18b?|95 % interval|3\u03c3|COVID-19|"
    r"90th(?: percentile)?|\b10th\b|level 1.2\b|levels 1 and 2\b|within (?:15|30|60) min(?:utes)?|over 15 minutes|"
    r"at (?:15|60) min|"
    r"hours over 100\b|under (?:11 h|16 years)|of 12 h|start 21:00|score 7 or more|\(7 or more\)|\(5 to 6\)|"
    r"below 5\b|parameter of 3|At 7 and more|every 30 minutes|within 72 hours|within 30 days|above 0\b|from 0\b|"
    r"1:[124]\b|RCEM 2020|draft of 2015|band that holds 80 % of them|same hour of the last 28 days|"
    r"hold 50, 80 and 95 %|next (?:14|7) days|next 48 hours|80 % intervals|(?:over|at|:) 92 %",
    re.IGNORECASE,
)


def number(value: float | None, digits: int = 0) -> str:
    """A number as pages write it."""
    return DASH if value is None or not math.isfinite(value) else f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def percent(count: float, of: float, digits: int = 1) -> str:
    """A share, neither all nor none where it is not."""
    least = 10.0**-digits
    shown = round(100 * count / of, digits)
    shown = max(shown, least) if count > 0 else shown
    return number(min(shown, 100 - least) if count < of else shown, digits)


def day_of(day: date) -> str:
    """A day as pages write it."""
    return f"{day.day} {day:%b}"


def problems(text: str, facts: Facts) -> str:
    """What is wrong with a text: a fact it does not have in its place, or a number that is no fact; else empty."""
    rest, at = NAMES.sub(lambda found: "\0" * len(found.group()), text), 0
    for fact in facts:
        wanted = number(fact) if not isinstance(fact, str) else fact
        if not wanted:
            continue
        ends = r"(?<![\d.,])" if wanted[0].isdigit() else "", r"(?![.,]?\d)" if wanted[-1].isdigit() else ""
        found = re.compile(ends[0] + re.escape(wanted) + ends[1], re.IGNORECASE).search(rest, at)
        if found is None:
            return f"it does not have {wanted!r} in its place"
        rest = rest[: found.start()] + "\0" * len(found.group()) + rest[found.end() :]
        at = found.end()
    spare = re.findall(r"[\d.,:]*\d[\d.,:]*", rest)
    return f"nothing behind it: {', '.join(spare)}" if spare else ""


# --- chance, in plain Python


@dataclass(frozen=True)
class Dot:
    """A point of a series: its first and last day, value, n; and the signal: way and rule."""

    start: date
    end: date
    value: float
    n: int
    way: int = 0
    rule: str = ""


@dataclass(frozen=True)
class Chart:
    """Points in a slice, with the limits of the whole series."""

    dots: list[Dot]
    count: int
    grain: str
    better: Better
    centre: float | None = None
    lower: float | None = None
    upper: float | None = None
    baseline: tuple[date, date] | None = None

    def word(self, way: int) -> str:
        """What a signal means."""
        if not way:
            return "Usual range"
        if self.better == "neither":
            return "Changed"
        return "Improving" if (way > 0) == (self.better == "higher") else "Concern"

    @property
    def words(self) -> dict[str, int]:
        """Verdicts other than the usual one, counted."""
        found = [self.word(dot.way) for dot in self.dots]
        return {word: found.count(word) for word in ("Improving", "Concern", "Changed") if word in found}


def signals(dots: Sequence[Dot]) -> tuple[list[Dot], float | None, float | None, float | None]:
    """XmR: limits of the first 28 points, four rules (Wheeler; NHS, Making Data Count)."""
    values = [dot.value for dot in dots]
    base = values[:28]
    centre = round(fmean(base), 9) if base else None
    if len(values) < 12 or centre is None:
        return list(dots), centre, None, None
    ranges = [abs(b - a) for a, b in itertools.pairwise(base)]
    mean = round(fmean(ranges), 9)
    kept = [found for found in ranges if found < round(3.267 * mean, 9)]
    mean = round(fmean(kept), 9) if kept and fmean(kept) > 0 else mean
    lower, upper = max(0.0, centre - 2.66 * mean), centre + 2.66 * mean
    is_capped = max(base.count(min(base)), base.count(max(base))) > len(base) / 2
    side = [(v > centre) - (v < centre) for v in values]
    outside = [v < lower or v > upper for v in values]
    near = [
        0 if out else (v - centre > 1.773 * mean) - (v - centre < -1.773 * mean)
        for v, out in zip(values, outside, strict=True)
    ]
    in_run, in_trend = [False] * len(values), [0] * len(values)
    for way, group in itertools.groupby(range(len(values)), key=lambda i: side[i]):
        places = list(group)
        for i in places:
            in_run[i] = bool(way) and len(places) >= 7 and not is_capped
    steps = [0, *((b > a) - (b < a) for a, b in itertools.pairwise(values))]
    for way, group in itertools.groupby(range(len(values)), key=lambda i: steps[i]):
        places = list(group)
        if way and len(places) >= 6:
            for i in places:
                in_trend[i] = way
            in_trend[places[0] - 1] = in_trend[places[0] - 1] or way
    placed = []
    for i, dot in enumerate(dots):
        two = bool(near[i]) and any(0 <= j < len(near) and near[j] == near[i] for j in (i - 2, i - 1, i + 1, i + 2))
        rule = "outside" if outside[i] else "run" if in_run[i] else "two" if two else "trend" if in_trend[i] else ""
        way = side[i] if outside[i] or in_run[i] or two else in_trend[i]
        placed.append(Dot(dot.start, dot.end, dot.value, dot.n, way, rule))
    return placed, centre, lower, upper


def said_by_chance(chart: Chart, is_newest: bool = False) -> Facts:
    """What a card says of a series."""
    if not chart.dots:
        return []
    if chart.upper is None:
        return ["Cannot be assessed", chart.count, 12]
    if is_newest:
        return [chart.word(chart.dots[-1].way)]
    found, count = chart.words, len(chart.dots)
    if len(found) > 1:
        return ["Changed", *(fact for word, times in found.items() for fact in (times, word)), count]
    word, times = next(iter(found.items()), ("Usual range", 0))
    if count == 1:
        return [word, "on this"]
    return [word, times, count] if times else [word, "all", count]


def assured(chart: Chart, target: float | None) -> Facts:
    """What limits say of a target."""
    if target is None or chart.upper is None or chart.lower is None or not chart.dots:
        return []
    if chart.lower < target < chart.upper:
        return ["hit or miss"]
    is_good = chart.upper <= target if chart.better == "lower" else chart.lower >= target
    return [f"consistently {'met' if is_good else 'missed'}"]


def said_by_chart(chart: Chart, unit: str, digits: int, target: float | None = None) -> Facts:
    """What an XmR chart says: newest value, verdict, its day, signals, limits, baseline, n."""
    if not chart.dots:
        return []
    newest = chart.dots[-1]
    value = percent(newest.value, 100, digits) if unit == "%" else number(newest.value, digits)
    n = sum(dot.n for dot in chart.dots)
    if chart.upper is None or chart.lower is None or chart.baseline is None:
        return [value, chart.count, 12, n]
    found = [fact for word, times in chart.words.items() for fact in (times, word)]
    top = min(chart.upper, 100.0) if unit == "%" and chart.better != "neither" else chart.upper
    return [
        value,
        chart.word(newest.way),
        day_of(newest.start),
        *([*found, len(chart.dots)] if found else ["no signals"]),
        number(chart.lower, digits or 1),
        number(top, digits or 1),
        day_of(chart.baseline[0]),
        f"{day_of(chart.baseline[1])} {chart.baseline[1].year}",
        *assured(chart, target),
        n,
    ]


# --- what is published, and a slice of it


@dataclass
class Oracle:
    """A publication, read whole.

    Attributes:
        connection: the publication.
        known: what can be chosen.
        few: averages of fewer patients are not shown.
        data_as_of: the hospital's time when it was published.
        charts: series of the page that is being told.
        frames: tables that were read.
    """

    connection: duckdb.DuckDBPyConnection
    known: Known
    few: int
    data_as_of: datetime
    charts: dict[str, Chart] = field(default_factory=dict)
    frames: dict[str, pl.DataFrame] = field(default_factory=dict)

    def table(self, name: str) -> pl.DataFrame:
        """A table; without columns where it is not published."""
        if name not in self.frames:
            tables = dict(self.connection.sql("select table_name, schema_name from duckdb_tables()").fetchall())
            self.frames[name] = (
                self.connection.sql(f"select * from {tables[name]}.{name}").pl() if name in tables else pl.DataFrame()
            )
            if name in ("kpi_waits", "kpi_waits_daily"):
                # No page counts visits that were cancelled.
                self.frames[name] = self.frames[name].with_columns(col("visit_count") - col("excluded_cancelled_count"))
        return self.frames[name]

    def has(self, name: str, *columns: str) -> bool:
        """Whether it is published."""
        return bool(self.table(name).columns) and set(columns) <= set(self.table(name).columns)

    def of(self, name: str, where: Slice, *, day: str = "service_date", is_pooled: bool = True) -> pl.DataFrame:
        """The rows of a table that a slice is about."""
        found = self.all_days(name, where, is_pooled=is_pooled)
        return found.filter(col(day).is_between(where.first, where.last))

    def all_days(self, name: str, where: Slice, *, is_pooled: bool = True) -> pl.DataFrame:
        """The rows of all days, narrowed by whatever else was chosen and the table has a column for."""
        found = self.table(name)
        for column, chosen in (
            ("hospital_id", where.hospital),
            ("department_name", where.department),
            ("triage_group", where.triage),
        ):
            if column in found.columns and (is_pooled or chosen != "all"):
                found = found.filter(col(column) == chosen)
        return found

    def over(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows of days that were over when it was published."""
        return rows.filter(col("service_date") <= self.known.complete_until)

    def known_days(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows of days since their hospital began, but for more than a month without any record of it."""
        found = self.hospital_days[0]
        there = [pair in found for pair in rows.select("hospital_id", "service_date").iter_rows()]
        return rows.filter(pl.Series(there, dtype=pl.Boolean))

    @cached_property
    def hospital_days(self) -> tuple[set[tuple[str, date]], set[tuple[str, date]]]:
        """Days of hospitals: those known, and of these the ones that were delivered.

        Days without any visit were where fewer than ten come on the others.
        """
        visits = self.table("kpi_waits_daily")
        visits = visits.filter((col("department_name") == "all") & (col("triage_group") == "all"))
        end = visits["service_date"].max()
        assert isinstance(end, date)
        known: set[tuple[str, date]] = set()
        came = set(visits.select("hospital_id", "service_date").iter_rows())
        small = set()
        for hospital in visits["hospital_id"].unique():
            own = visits.filter(col("hospital_id") == hospital)
            for earlier, later in itertools.pairwise(sorted({*own["service_date"], end + timedelta(days=1)})):
                span = (later - earlier).days
                known |= {(hospital, earlier + timedelta(days=n)) for n in range(span if span <= 31 else 1)}
            if total(own, "visit_count") < 10 * own.height:
                small.add(hospital)
        return known, {pair for pair in known if pair in came or pair[0] in small}

    def is_covered(self, first: date, last: date, hospital: str) -> bool:
        """Whether each hospital that is known on any day of a span has delivered all of its days."""
        known, delivered = self.hospital_days
        days = {first + timedelta(days=n) for n in range((last - first).days + 1)}
        places = {place for place, day in known if day in days and place != "all" and hospital in ("all", place)}
        return bool(places) and all((place, day) in delivered for place in places for day in days)

    def at(self, name: str, where: Slice) -> pl.DataFrame:
        """The rows of a chosen hospital of a table with keys instead of identifiers."""
        keys = self.table("dim_hospital").select("hospital_key", "hospital_id")
        found = self.table(name).join(keys, on="hospital_key", how="left")
        return found if where.hospital == "all" else found.filter(col("hospital_id") == where.hospital)

    def visits(self, where: Slice) -> pl.DataFrame:
        """Single visits of a slice."""
        found = self.at("fact_emergency_visits", where).filter(col("service_date").is_between(where.first, where.last))
        if where.triage != "all":
            found = found.filter(col("triage_level") == int(where.triage))
        names = self.table("dim_department").select("department_key", "department_name")
        found = found.join(names, on="department_key", how="left")
        return found if where.department == "all" else found.filter(col("department_name") == where.department)

    def recent(self, where: Slice) -> pl.DataFrame:
        """Those of the last 28 days of it that were not cancelled."""
        since = max(where.first, where.last - timedelta(days=27))
        return self.visits(where).filter((col("service_date") >= since) & ~col("is_cancelled"))

    def chart(
        self,
        days: pl.DataFrame,
        where: Slice,
        better: Better,
        *,
        least: int | None = None,
        is_count: bool = False,
        weight: str = "n",
    ) -> Chart:
        """A series (day, value, n, weight) against chance: points by day, whole week or month; those of a slice."""
        least = self.few if least is None else least
        span = {"day": "1d", "week": "1w", "month": "1mo"}[where.grain]
        weighed = col("value") if is_count else col("value") * col(weight)
        points = (
            days.filter(col("day") <= self.known.complete_until)
            .with_columns(start=col("day").dt.truncate(span))
            .filter(col("value").is_not_null())
            .group_by("start")
            .agg(weighed.sum().alias("value"), n=col("n").sum(), by=col(weight).sum())
            .with_columns(end=col("start").dt.offset_by(span).dt.offset_by("-1d"))
            .filter((col("start") >= self.known.first) & (col("end") <= self.known.complete_until))
            .filter(col("n") >= least)
            .sort("start")
        )
        dots = []
        for row in points.iter_rows(named=True):
            by = (row["end"] - row["start"]).days + 1 if is_count else row["by"]
            if by:
                dots.append(Dot(row["start"], row["end"], row["value"] / by, row["n"]))
        placed, centre, lower, upper = signals(dots)
        shown = [dot for dot in placed if where.first <= dot.start and dot.end <= where.last]
        if not shown:
            return Chart([], len(dots), where.grain, better)
        baseline = dots[0].start, dots[:28][-1].start
        return Chart(shown, len(dots), where.grain, better, centre, lower, upper, baseline)

    def name(self, hospital: str) -> str:
        """A hospital's name."""
        return self.known.hospitals.get(hospital, hospital)

    def is_complete(self, month: date, more_days: int = 0) -> bool:
        """Whether a month is over and published whole."""
        after = (month + timedelta(days=31)).replace(day=1)
        return month >= self.known.first and after + timedelta(days=more_days - 1) <= self.known.complete_until

    def months(self, name: str, where: Slice) -> pl.DataFrame:
        """A hospital's rows of a monthly table."""
        found = self.table(name)
        since = where.first.replace(day=1)
        return found.filter(
            (col("hospital_id") == where.hospital) & col("period_month").is_between(since, where.last)
        ).sort("period_month")


def total(frame: pl.DataFrame, column: str) -> int:
    """A sum; of nothing, or where nothing is published, 0."""
    return int(frame[column].sum() or 0)


def mean_of_sums(frame: pl.DataFrame, sums: str, n: str) -> tuple[float | None, int]:
    """An average from sums and counts, and of how many: rows whose sum is published only, if these are most."""
    known = frame.filter(col(sums).is_not_null())
    count = total(known, n)
    return (known[sums].sum() / count if count and 2 * count >= total(frame, n) else None), count


# --- pages: part -> facts in order; None for a part that has nothing to show

Told = dict[str, Facts | None]


#: Rates: part -> table, its day, numerator, which way is better, further condition.
RATES: Mapping[str, tuple[str, str, str, Better, pl.Expr | None]] = {
    "on_time": ("kpi_seen_on_time_daily", "service_date", "numerator_count", "higher", col("scale") == SCALE_IN_USE),
    "four_hour": ("kpi_four_hour_daily", "period_date", "numerator_count", "higher", None),
    "twelve": ("kpi_four_hour_daily", "period_date", "over_12_hours_count", "lower", None),
    "lwbs": ("kpi_lwbs_daily", "service_date", "numerator_count", "lower", None),
    "critical": ("kpi_critical_waits_daily", "service_date", "numerator_count", "lower", None),
    "boarded": (
        "kpi_boarding_daily",
        "service_date",
        "numerator_count",
        "lower",
        col("destination_department") == "all",
    ),
    "first_15": (
        "kpi_first_observations_daily",
        "service_date",
        "numerator_count",
        "higher",
        col("limit_minutes") == 15,
    ),
    "first_60": (
        "kpi_first_observations_daily",
        "service_date",
        "numerator_count",
        "higher",
        col("limit_minutes") == 60,
    ),
    "response": ("kpi_news2_response_daily", "service_date", "numerator_count", "higher", None),
    "frequency": (
        "kpi_observation_frequency_daily",
        "service_date",
        "numerator_count",
        "higher",
        col("news2_band") == "all",
    ),
    "before_noon": ("kpi_discharge_before_noon_daily", "period_date", "numerator_count", "higher", None),
}


def rate(o: Oracle, where: Slice, name: str) -> tuple[pl.DataFrame, Chart]:
    """A rate's rows of the slice, and its series."""
    table, day, numerator, better, condition = RATES[name]
    if not o.has(table, numerator):
        return pl.DataFrame(schema={numerator: pl.Int64, "denominator_count": pl.Int64}), Chart([], 0, "day", better)
    rows = o.all_days(table, where)
    rows = rows if condition is None else rows.filter(condition)
    days = (
        rows.group_by(col(day).alias("day"))
        .agg(col(numerator).sum().alias("count"), n=col("denominator_count").sum())
        .with_columns(value=pl.when(col("n") > 0).then(100 * col("count") / col("n")))
    )
    if table == "kpi_four_hour_daily":
        # Who stayed over night leaves on days on which nobody came, too: they say nothing of such a day.
        came = o.table("kpi_waits_daily").filter(col("hospital_id") == where.hospital)["service_date"]
        days = days.filter(col("day").is_in(came.unique().implode()))
    return rows.filter(col(day).is_between(where.first, where.last)), o.chart(days, where, better)


def told_of_rate(o: Oracle, where: Slice, name: str, *more: Fact, target: float | None = None) -> Facts:
    """A rate's card."""
    rows, chart = rate(o, where, name)
    o.charts[name] = chart
    numerator = RATES[name][2]
    n, count = total(rows, "denominator_count"), total(rows, numerator)
    if n < o.few:
        missing = total(rows, "excluded_undelivered_count") if "excluded_undelivered_count" in rows.columns else 0
        return [DASH, *(["Cannot be assessed", missing] if missing else [FEW])]
    facts: list[Fact] = [percent(count, n)]
    facts += [n, *more] if name == "on_time" else [count, n]
    return [*facts, *said_by_chance(chart), *assured(chart, target)]


def charts_of_rates(o: Oracle, where: Slice, *names: str) -> Told:
    """The charts of rates; of nothing where there are no points."""
    return {f"{name}-trend": said_by_chart(rate(o, where, name)[1], "%", 1) or None for name in names}


def _waits(o: Oracle, where: Slice) -> pl.DataFrame:
    return o.of("kpi_waits_daily", where)


def _typical(o: Oracle, where: Slice) -> dict[str, Any]:
    """Waits of a slice: exact of the whole period, else those of a typical day."""
    whole = o.all_days("kpi_waits", where) if where.is_whole else pl.DataFrame()
    if whole.height:
        row = whole.row(0, named=True)
        known = row["wait_count"] if row["wait_average_minutes"] is not None else 0
        return {
            "visits": row["visit_count"],
            "average": row["wait_average_minutes"],
            "n": known,
            "median": row["wait_median_minutes"],
            "p90": row["wait_p90_minutes"],
            "longest": row["wait_max_minutes"],
            "is_part": False,
        }
    rows = _waits(o, where)
    average, n = mean_of_sums(rows, "wait_sum_minutes", "wait_count")
    hidden = rows.filter((col("wait_count") > 0) & col("wait_max_minutes").is_null())
    return {
        "visits": total(rows, "visit_count"),
        "average": average,
        "n": n,
        "median": rows["wait_median_minutes"].median(),
        "p90": rows["wait_p90_minutes"].median(),
        "longest": rows["wait_max_minutes"].max(),
        "is_part": hidden.height > 0,
    }


def _change(now: float, before: float, more: str, less: str, *, is_relative: bool) -> Facts:
    if is_relative and not before:
        return []
    change = 100 * (now - before) / before if is_relative else now - before
    return ["about as"] if number(abs(change), 1) == "0.0" else [number(abs(change), 1), more if change > 0 else less]


def _than(where: Slice) -> Facts:
    return ["the day before"] if where.days == 1 else [number(where.days), "days before"]


def overview(o: Oracle, where: Slice) -> Told:
    """The Overview."""
    now = _typical(o, where)
    start = where.first - timedelta(days=where.days)
    before = None
    is_over = where.last <= o.known.complete_until
    if not where.is_whole and is_over and o.is_covered(start, where.last, where.hospital):
        earlier = Slice("days", start, where.first - timedelta(days=1), where.hospital, where.department, where.triage)
        before = _typical(o, earlier)
    days = o.all_days("kpi_waits_daily", where)
    levels = o.table("kpi_waits_daily").filter(
        (col("hospital_id") == where.hospital)
        & (col("department_name") == where.department)
        & col("service_date").is_between(where.first, where.last)
        & (col("triage_group") != "all")
    )
    told: Told = {}
    change = _change(now["visits"], before["visits"], "more", "fewer", is_relative=True) if before else []
    visits = days.select(day="service_date", value=col("visit_count"), n=col("visit_count"))
    told["visits"] = [
        now["visits"],
        *([*change, *_than(where)] if change else []),
        *said_by_chance(o.chart(visits, where, "neither", least=1, is_count=True)),
    ]
    o.charts["visits"] = o.chart(visits, where, "neither", least=1, is_count=True)
    averages = days.select(day="service_date", value=col("wait_average_minutes"), n=col("wait_count"))
    if now["n"] < o.few or now["average"] is None:
        told["average-wait"] = [DASH, FEW]
    else:
        moved: list[Fact] = []
        if before and before["n"] >= o.few and before["average"] is not None:
            moved = [*_change(now["average"], before["average"], "longer", "shorter", is_relative=False), *_than(where)]
        told["average-wait"] = [
            number(now["average"], 1),
            number(now["median"], 1),
            now["n"],
            *moved,
            *said_by_chance(o.chart(averages, where, "lower")),
        ]
    told["longest-wait"] = (
        [DASH, FEW]
        if now["n"] < o.few or now["longest"] is None
        else [now["longest"], "one patient", *(["on days with enough"] if now["is_part"] else []), "90 %", now["p90"]]
    )
    target = o.known.targets_pct.get(where.triage)
    told["on-time"] = told_of_rate(o, where, "on_time", *([target] if target else []), target=target)
    told["doctors"] = _doctors(o, where)
    told["critical"] = _critical(o, where, now["visits"])
    o.charts["average"] = o.chart(averages, where, "lower")
    medians = days.select(day="service_date", value=col("wait_median_minutes"), n=col("wait_count"))
    o.charts["median"] = o.chart(medians, where, "lower")
    told["wait-trend"] = (
        said_by_chart(o.chart(medians, where, "lower"), "min", 1, o.known.targets_minutes.get(where.triage)) or None
    )
    by_level = {level: total(levels.filter(col("triage_group") == level), "visit_count") for level in o.known.triage}
    n, every = sum(by_level.values()), total(levels, "visit_count")
    sick = by_level.get("1", 0) + by_level.get("2", 0)
    told["triage"] = [percent(sick, n), *([every - n] if every > n else []), n] if n else None
    told["departments"] = _departments(o, where)
    told["hours"] = _peak_hours(o, where)
    told["blood"] = _blood(o, where)
    told["people"] = _people(o, where)
    told["doctors-chart"] = _doctors_outside(o, where)
    return told


def _critical(o: Oracle, where: Slice, visits: int) -> Facts:
    every = o.table("kpi_waits_daily").filter(
        (col("hospital_id") == where.hospital) & (col("department_name") == where.department)
    )
    sick = col("triage_group").is_in(["1", "2"])
    sick = sick if where.triage == "all" else sick & (col("triage_group") == where.triage)
    days = every.group_by(day="service_date").agg(n=pl.when(sick).then(col("visit_count")).otherwise(0).sum())
    count = total(days.filter(col("day").is_between(where.first, where.last)), "n")
    chart = o.chart(days.with_columns(value=col("n")), where, "neither", least=0, is_count=True)
    o.charts["critical"] = chart
    share = [percent(count, visits)] if visits else []
    return [count, *share, *said_by_chance(chart)]


def _doctors(o: Oracle, where: Slice) -> Facts:
    home = o.at("kpi_physician_workload", where).select("doctor_key").filter(col("doctor_key") > 0)
    days = o.table("kpi_physician_workload_daily").join(home, on="doctor_key")
    days = o.over(days).filter(
        col("service_date").is_between(where.first, where.last) & ((col("visit_count") > 0) | (col("shift_hours") > 0))
    )
    hours, visits = days["shift_hours"].sum() or 0, total(days, "visit_count")
    if hours:
        on_shift = o.at("kpi_physician_workload", where).filter(col("shift_hours") > 0).select("doctor_key")
        visits = total(days.join(on_shift, on="doctor_key"), "visit_count")
    return [days["doctor_key"].n_unique(), number(visits / hours, 2) if hours else visits]


def _departments(o: Oracle, where: Slice) -> Facts | None:
    source = o.table("kpi_waits" if where.is_whole else "kpi_waits_daily")
    rows = source.filter(
        (col("hospital_id") == where.hospital)
        & (col("triage_group") == where.triage)
        & (col("department_name") != "all")
        & (pl.lit(True) if where.is_whole else col("service_date").is_between(where.first, where.last))
    )
    if not rows.height:
        return None
    by = (
        rows.group_by("department_name")
        .agg(col("visit_count").sum())
        .sort(["visit_count", "department_name"], descending=[True, False])
    )
    n = total(by, "visit_count")
    name, most = by.row(0)
    return [name, percent(most, max(n, 1), 0), n]


def _peak_hours(o: Oracle, where: Slice) -> Facts | None:
    rows = o.known_days(o.table("kpi_arrivals_hourly"))
    rows = rows if where.hospital == "all" else rows.filter(col("hospital_id") == where.hospital)
    rows = o.over(rows).filter(col("service_date").is_between(where.first, where.last))
    by = (
        rows.group_by("iso_weekday_number", "hour_of_day")
        .agg(col("arrivals_count").sum(), col("existing_hours_count").sum())
        .filter(col("existing_hours_count") > 0)
        .with_columns(per=col("arrivals_count") / col("existing_hours_count"))
        .sort("iso_weekday_number", "hour_of_day")
    )
    if not by.height:
        return None
    top = by.filter(col("per") == by["per"].max()).row(0, named=True)
    weekday = WEEKDAYS[top["iso_weekday_number"] - 1]
    return [f"{weekday} {top['hour_of_day']:02d}:00", number(top["per"], 1), total(by, "arrivals_count")]


def _blood(o: Oracle, where: Slice) -> Facts | None:
    rows = o.table("kpi_blood_groups").filter(
        (col("hospital_id") == where.hospital) & (col("blood_group") != "unknown") & (col("patient_count") > 0)
    )
    if not rows.height:
        return None
    n = total(rows, "patient_count")
    top = sorted(rows["patient_count"].to_list(), reverse=True)[:2]
    return [*(fact for count in top for fact in (f"{percent(count, n)} %",)), n]


def _people(o: Oracle, where: Slice) -> Facts | None:
    if o.has("dim_patient", "sex"):
        rows = o.recent(where).filter(col("age_years").is_not_null())
        rows = rows.join(o.table("dim_patient").select("patient_key", "sex"), on="patient_key")
        n, women = rows.height, rows.filter(col("sex") == "female").height
        return [percent(women, n), *_of_days(where), n] if n >= o.few else None
    rows = o.table("kpi_demographics").filter(
        (col("hospital_id") == where.hospital) & (col("category") != "unknown") & (col("visit_count") > 0)
    )
    if not rows.filter(col("characteristic").is_in(["age_band", "sex"])).height:
        return None
    sexes = rows.filter(col("characteristic") == "sex")
    women = sexes.filter(col("category") == "female")["share_of_visits_pct"].to_list()
    return [*(percent(share, 100) for share in women if share is not None), total(sexes, "visit_count")]


def _of_days(where: Slice) -> Facts:
    """The days that single visits are read of, if not all."""
    return ["last 28 days"] if where.days > 28 else ["whole period"]


def _doctors_outside(o: Oracle, where: Slice) -> Facts | None:
    rows = o.at("kpi_physician_workload", where).filter(
        (col("doctor_key") > 0)
        & (col("expected_visit_count") > 0)
        & (col("visit_count") >= o.few)
        & col("lower_limit_count").is_not_null()
    )
    if rows.height < 2:
        return None
    return [int(rows["is_outside"].sum() or 0), rows.height, total(rows, "visit_count")]


def flow(o: Oracle, where: Slice) -> Told:
    """Flow & waits."""
    names = ("four_hour", "twelve", "lwbs", "critical")
    told: Told = {name: told_of_rate(o, where, name) for name in names}
    told |= charts_of_rates(o, where, *names)
    told["stages"] = _stages(o, where)
    ways = o.of("kpi_pathways_daily", where, is_pooled=False) if o.has("kpi_pathways_daily") else pl.DataFrame()
    n = total(ways, "visit_count") if ways.height else 0
    told["pathways"] = told["endings"] = None
    if n >= o.few:
        by = ways.group_by("arrival_mode", "triage_group", "disposition").agg(col("visit_count").sum())
        by = by.with_columns(level=col("triage_group").cast(pl.Int64, strict=False)).sort(
            "visit_count", "arrival_mode", "level", "disposition", descending=[True, *[False] * 3], nulls_last=True
        )
        most = by.row(0, named=True)
        home = total(ways.filter(col("disposition") == "home"), "visit_count")
        level = "not triaged" if most["level"] is None else most["level"]
        told["pathways"] = [
            most["arrival_mode"].replace("_", " "),
            level,
            most["disposition"].replace("_", " "),
            percent(most["visit_count"], n, 0),
            n,
        ]
        told["endings"] = [percent(home, n, 0), n]
    told["histogram"] = told["wait-hours"] = None
    if o.has("fact_emergency_visits", "wait_minutes"):
        waited = o.recent(where).filter(col("wait_minutes").is_not_null())
        if waited.height >= o.few:
            within = waited.filter(col("wait_minutes") < 60).height
            told["histogram"] = [percent(within, waited.height, 0), *_of_days(where), waited.height]
        if o.has("fact_emergency_visits", "arrival_local"):
            hours = (
                waited.filter(col("arrival_local").is_not_null())
                .group_by(hour=col("arrival_local").dt.hour())
                .agg(n=pl.len(), median=col("wait_minutes").median())
                .filter(col("n") >= o.few)
                .sort("hour")
            )
            if hours.height > 1:
                top = hours.filter(col("median") == hours["median"].max()).row(0, named=True)
                n = int(hours["n"].sum())
                told["wait-hours"] = [f"{top['hour']:02d}:00", top["median"], *_of_days(where), n]
    told["handovers"] = _handovers(o, where)
    told["op18"] = _newest_month(o, where, "kpi_op18", "median_minutes", 0, stratum="reported")
    for metric in ("four_hour_pct", "lwbs_pct"):
        told[f"{metric}-units"] = _units(o, metric)
    return told


def _stages(o: Oracle, where: Slice) -> Facts | None:
    if not o.has("kpi_stages_daily"):
        return None
    rows = o.of("kpi_stages_daily", where)
    by = rows.group_by("stage").agg(
        n=col("denominator_count").sum(), timed=col("timed_count").sum(), median=col("stage_median_minutes").median()
    )
    n = int(by["n"].max() or 0) if by.height else 0  # type: ignore[arg-type]
    timed = by.filter((col("timed") >= o.few) & col("median").is_not_null())
    if n < o.few or not timed.height:
        return None
    return [timed["median"].max(), n]  # type: ignore[list-item]


def _handovers(o: Oracle, where: Slice) -> Facts | None:
    if not o.has("kpi_handovers_daily"):
        return None
    rows = o.of("kpi_handovers_daily", where)
    n = total(rows, "denominator_count")
    if n < o.few:
        return None
    average, _ = mean_of_sums(rows, "handover_sum_minutes", "denominator_count")
    unknown = total(rows, "excluded_no_handover_count") + total(rows, "excluded_negative_count")
    late = percent(total(rows, "numerator_count"), n)
    return [late, *([number(average, 1)] if average is not None else []), *([unknown] if unknown else []), n]


def _newest_month(
    o: Oracle, where: Slice, table: str, value: str, digits: int, *, run_out: int = 0, n: str = "", **only: str
) -> Facts | None:
    """The newest month that is complete, of months with enough patients; and n over the months shown."""
    if not o.has(table):
        return None
    rows = o.months(table, where)
    for column, wanted in only.items():
        rows = rows.filter(col(column) == wanted)
    rows = rows.filter((col("denominator_count") >= o.few) & col(value).is_not_null())
    if not rows.height:
        return None
    every = total(rows, "denominator_count")
    done = [row for row in rows.iter_rows(named=True) if o.is_complete(row["period_month"], run_out)]
    if not done:
        return ["no month is complete yet", every]
    shown = percent(done[-1][value], 100) if value == "value_pct" else number(done[-1][value], digits)
    return [shown, f"{done[-1]['period_month']:%B}", every]


def _units(o: Oracle, metric: str) -> Facts | None:
    rows = o.table("kpi_units").filter(
        (col("metric") == metric)
        & col("value_pct").is_not_null()
        & col("lower_limit_pct").is_not_null()
        & (col("denominator_count") >= o.few)
    )
    if rows.height < 2:
        return None
    spread = rows["dispersion"][0] if "dispersion" in rows.columns else None
    said = ["Too few hospitals"] if spread is None else [number(spread, 1)] if spread > 1 else []
    return [int(rows["is_outside"].sum() or 0), rows.height, *said, total(rows, "denominator_count")]


def _reasons(rows: pl.DataFrame, *names: str) -> Facts:
    """Who is left out, the most frequent first; equal counts in any order, so of these only the count."""
    counts = sorted((total(rows, f"excluded_{name}_count") for name in names), reverse=True)
    return [count for count in counts if count]


def deterioration(o: Oracle, where: Slice) -> Told:
    """Deterioration."""
    names = ("first_15", "first_60", "response", "frequency")
    told: Told = {name: told_of_rate(o, where, name) for name in names}
    told |= charts_of_rates(o, where, *names)
    told |= dict.fromkeys(("bands", "intervals", "first-sets", "responses"))
    if o.has("kpi_news2_daily"):
        rows = o.of("kpi_news2_daily", where).filter(col("denominator_count").is_not_null())
        n = total(rows, "denominator_count")
        why = ("cancelled", "before_arrival", "after_departure", "under_16", "unknown_age", "incomplete")
        if n >= o.few:
            told["bands"] = [percent(total(rows, "score_7_or_more_count"), n), *_reasons(rows, *why), n]
    if o.has("kpi_observation_frequency_daily"):
        rows = o.of("kpi_observation_frequency_daily", where).filter(col("denominator_count").is_not_null())
        by = rows.group_by("news2_band").agg(n=col("denominator_count").sum(), on=col("numerator_count").sum())
        pooled = rows.filter(col("news2_band") == "all")
        n = total(pooled, "denominator_count")
        shares = [row["on"] / row["n"] for row in by.to_dicts() if row["news2_band"] != "all" and row["n"] >= o.few]
        why = ("cancelled", "under_16", "unknown_age", "incomplete", "left_early", "not_due")
        if n >= o.few:
            least = [percent(min(shares), 1, 0)] if shares else []
            told["intervals"] = [*least, *_reasons(pooled, *why), n]
    if o.has("kpi_first_observations_daily"):
        rows = o.of("kpi_first_observations_daily", where)
        limits = [rows.filter(col("limit_minutes") == limit) for limit in (15, 60)]
        enough = [found for found in limits if total(found, "denominator_count") >= o.few]
        why = ("cancelled", "under_16", "unknown_age", "left_early", "not_due")
        if enough:
            n = total(enough[0], "denominator_count")
            share = percent(total(enough[0], "numerator_count"), n, 0)
            told["first-sets"] = [share, *_reasons(enough[-1], *why), n]
    if o.has("kpi_news2_response_daily"):
        rows = o.of("kpi_news2_response_daily", where)
        n = total(rows, "denominator_count")
        if n >= o.few:
            average, _ = mean_of_sums(rows, "response_sum_minutes", "seen_count")
            share = percent(total(rows, "numerator_count"), n, 0)
            said = [average] if average is not None else []
            why = ("cancelled", "already_seen", "invalid", "left_early", "not_due")
            told["responses"] = [share, *said, *_reasons(rows, *why), n]
    return told


def capacity(o: Oracle, where: Slice) -> Told:
    """Capacity."""
    told: Told = {"boarded": told_of_rate(o, where, "boarded"), "before_noon": told_of_rate(o, where, "before_noon")}
    told["before_noon-trend"] = said_by_chart(rate(o, where, "before_noon")[1], "%", 1) or None
    rows = o.table("kpi_occupancy_daily").filter(col("staffed_bed_minutes").is_not_null())
    rows = rows if where.hospital == "all" else rows.filter(col("hospital_id") == where.hospital)
    department = "all inpatient" if where.department == "all" else where.department
    days = (
        rows.filter(col("department_name") == department)
        .group_by(day="service_date")
        .agg(
            used=col("occupied_bed_minutes").sum(), there=col("staffed_bed_minutes").sum(), n=col("bed_capacity").sum()
        )
        .with_columns(value=pl.when(col("there") > 0).then(100 * col("used") / col("there")))
    )
    chart = o.charts["occupancy"] = o.chart(days, where, "neither", least=1, weight="there")
    newest = chart.dots[-1:]
    told["occupancy"] = (
        [number(newest[0].value, 1), day_of(newest[0].start), newest[0].n, *said_by_chance(chart, is_newest=True)]
        if newest
        else [DASH, FEW]
    )
    told["occupancy-trend"] = said_by_chart(chart, "%", 1) or None
    told |= _in_and_out(o, where)
    told["wards"] = _wards(o, where)
    told["census"] = _census(o, where)
    told["crowding"] = _crowding(o, where)
    told["boarding"] = _longest_boarding(o, where)
    told["stays"] = _stays(o, where)
    told["overstays"] = _overstays(o, where)
    mix = o.table("kpi_blood_groups").filter((col("hospital_id") == where.hospital) & col("share_pct").is_not_null())
    told["blood-mix"] = [int(mix["known_patient_count"][0])] if mix.height else None
    return told


def _in_and_out(o: Oracle, where: Slice) -> Told:
    rows = o.table("kpi_department_flow_daily")
    rows = rows if where.hospital == "all" else rows.filter(col("hospital_id") == where.hospital)
    chosen = (
        col("department_name") != "Emergency"
        if where.department == "all"
        else (col("department_name") == where.department)
    )
    rows = rows.filter(chosen)
    inside = rows.filter(col("service_date").is_between(where.first, where.last))
    net = total(inside, "inflow_count") - total(inside, "outflow_count")
    days = rows.group_by(day="service_date").agg(value=col("inflow_count").sum())
    chart = o.chart(days.with_columns(n=col("value")), where, "neither", least=0, is_count=True)
    way = "more came than left" if net > 0 else "more left than came" if net < 0 else "as many"
    return {
        "net": [net] if inside.height else [DASH],
        "net-trend": [*([abs(net)] if net else []), way, total(inside, "inflow_count")]
        if len(chart.dots) > 1
        else None,
    }


def _wards(o: Oracle, where: Slice) -> Facts | None:
    rows = o.table("kpi_occupancy_daily").filter(col("service_date").is_between(where.first, where.last))
    over = rows.filter(col("service_date") <= o.known.complete_until)
    newest = (over if over.height else rows)["service_date"].max()
    rows = rows.filter(
        (col("service_date") == newest)
        & (col("department_name") != "all inpatient")
        & col("bed_capacity").is_not_null()
    )
    rows = rows if where.hospital == "all" else rows.filter(col("hospital_id") == where.hospital)
    rows = rows if where.department == "all" else rows.filter(col("department_name") == where.department)
    if not rows.height:
        return None
    full = rows.filter(col("time_weighted_pct") > 92).height
    most = max([100.0, *(value for value in rows["peak_pct"].to_list() if value is not None)])
    assert isinstance(newest, date)
    twenty = ["twenty"] if rows.height > 20 else []
    return [full, rows.height, day_of(newest), number(most), *twenty, total(rows, "bed_capacity")]


def _census(o: Oracle, where: Slice) -> Facts | None:
    rows = o.at("fact_bed_occupancy", where)
    names = o.table("dim_department").select("department_key", "department_name")
    rows = rows.join(names, on="department_key", how="left")
    rows = rows if where.department == "all" else rows.filter(col("department_name") == where.department)
    rows = rows.filter(col("service_date").is_between(where.last - timedelta(days=6), where.last))
    # Of an hour that comes twice, the first; an hour that some clock skips is none of all hospitals.
    rows = rows.sort("hour_start_at").unique(["department_id", "hour_start_local"], keep="first")
    by = (
        rows.group_by("hour_start_local")
        .agg(col("patients_at_start_count").sum(), hospitals=col("hospital_key").n_unique())
        .filter(col("hospitals") == col("hospitals").max())
        .sort("hour_start_local")
    )
    if by.height < 2:
        return None
    most = by["patients_at_start_count"].max()
    at = by.filter(col("patients_at_start_count") == most)["hour_start_local"][0]
    return [most, f"{at:%a %H:%M}"]  # type: ignore[list-item]


def _crowding(o: Oracle, where: Slice) -> Facts | None:
    rows = o.table("kpi_crowding_hourly").filter(col("service_date").is_between(where.first, where.last))
    rows = rows if where.hospital == "all" else rows.filter(col("hospital_id") == where.hospital)
    by = (
        rows.filter(col("nedocs_score").is_not_null())
        .group_by("hospital_id")
        .agg(n=pl.len(), over=((col("nedocs_score") + 0.5).floor() > 100).sum())
        .with_columns(share=100 * col("over") / col("n"))
        .sort("hospital_id")
    )
    if not by.height:
        return None
    top = by.filter(col("share") == by["share"].max()).row(0, named=True)
    hours = total(by, "n")
    return [top["hospital_id"], percent(top["over"], top["n"]), hours] if top["over"] else ["never", hours]


def _longest_boarding(o: Oracle, where: Slice) -> Facts | None:
    rows = o.table("kpi_boarding_daily").filter(
        (col("hospital_id") == where.hospital)
        & (col("destination_department") != "all")
        & col("service_date").is_between(where.first, where.last)
    )
    found = []
    for (name,), group in rows.group_by("destination_department"):
        average, n = mean_of_sums(group, "boarding_sum_minutes", "denominator_count")
        if average is not None and n >= o.few:
            found.append((average, name, total(group, "denominator_count")))
    if not found:
        return None
    longest = max(found, key=lambda row: row[0])
    return [str(longest[1]), longest[0], sum(row[2] for row in found)]


def _stays(o: Oracle, where: Slice) -> Facts | None:
    rows = o.months("kpi_length_of_stay", where).filter(col("denominator_count") >= o.few)
    if not rows.height:
        return None
    n = total(rows, "denominator_count")
    inpatient = rows.filter((col("stay_class") == "inpatient") & col("los_hours_median").is_not_null())
    done = [row for row in inpatient.iter_rows(named=True) if o.is_complete(row["period_month"])]
    if not done:
        return ["no month is complete yet", n]
    return [number(done[-1]["los_hours_median"], 1), f"{done[-1]['period_month']:%B}", n]


def _overstays(o: Oracle, where: Slice) -> Facts | None:
    rows = o.table("kpi_overstays").filter(
        (col("hospital_id") == where.hospital) & (col("department_name") != "all") & (col("denominator_count") >= o.few)
    )
    n = total(rows, "denominator_count")
    return [percent(total(rows, "numerator_count"), n), n] if rows.height else None


def workforce(o: Oracle, where: Slice) -> Told:
    """Workforce, without the week ahead."""
    told: Told = {"doctors": _doctors(o, where), "doctors-chart": _doctors_outside(o, where)}
    home = o.at("kpi_physician_workload", where).select("doctor_key").filter(col("doctor_key") > 0)
    on_shift = o.at("kpi_physician_workload", where).filter(col("shift_hours") > 0).select("doctor_key")
    days = (
        o.table("kpi_physician_workload_daily")
        .join(on_shift.filter(col("doctor_key") > 0), on="doctor_key")
        .group_by(day="service_date")
        .agg(n=col("visit_count").sum(), hours=col("shift_hours").sum())
        .with_columns(value=pl.when(col("hours") > 0).then(col("n") / col("hours")))
    )
    chart = o.charts["load"] = o.chart(days, where, "neither", weight="hours")
    newest = chart.dots[-1:]
    told["load"] = (
        [number(newest[0].value, 2), day_of(newest[0].start), *said_by_chance(chart, is_newest=True)]
        if newest
        else [DASH, FEW]
    )
    told["load-trend"] = said_by_chart(chart, "/h", 2) or None
    inside = (
        o.over(o.table("kpi_physician_workload_daily"))
        .join(home, on="doctor_key")
        .filter(col("service_date").is_between(where.first, where.last))
    )
    told["hours"] = [inside["shift_hours"].sum() or 0]
    if o.has("kpi_shift_patterns_daily"):
        rows = o.of("kpi_shift_patterns_daily", where)
        if total(rows, "shifts_count"):
            for card, count, of in (
                ("long", "long_shifts", "shifts"),
                ("nights", "nights_after_night", "nights"),
                ("rest", "short_rests", "rests"),
            ):
                told[card] = [total(rows, f"{count}_count"), total(rows, f"{of}_count")]
    return told | _cover(o, where) | _week_ahead(o, where)


def _cover(o: Oracle, where: Slice) -> Told:
    told: Told = {"staffing": None, "pressure": None}
    if not o.has("kpi_staffing_hourly"):
        return told
    rows = o.known_days(o.over(o.of("kpi_staffing_hourly", where, is_pooled=False)))
    by = (
        rows.group_by("iso_weekday_number", "hour_of_day")
        .agg(
            a=col("arrivals_count").sum(),
            h=col("existing_hours_count").sum(),
            d=col("attendings_sum_count").sum(),
            s=col("staffed_hours_count").sum(),
        )
        .filter((col("h") > 0) & (col("s") > 0))
        .with_columns(came=col("a") / col("h"), there=col("d") / col("s"))
        .sort("iso_weekday_number", "hour_of_day")
    )
    named = lambda row: f"{WEEKDAYS[row['iso_weekday_number'] - 1]} {row['hour_of_day']:02d}:00"  # noqa: E731
    if by.height >= 24:
        alone = by.filter(col("there") == 0)
        thin = by.with_columns(per=col("came") / col("there"))
        top = thin.filter(col("per") == thin["per"].max()).row(0, named=True)
        told["staffing"] = (
            ["no doctor", named(alone.row(0, named=True))] if alone.height else [named(top), number(top["per"], 1)]
        )
    there = by.filter(col("there") > 0).with_columns(per=col("came") / col("there"))
    if there.height:
        worst = sorted(there.iter_rows(named=True), key=lambda row: -row["per"])[:3]
        told["pressure"] = [named(row) for row in worst]
    return told


def _newest(o: Oracle, where: Slice, name: str) -> pl.DataFrame:
    """What a forecast table holds of the newest day it was made for."""
    found = o.table(name)
    if not found.height:
        return found
    found = found.filter(col("service_date") == found["service_date"].max())
    return found if where.hospital == "all" else found.filter(col("hospital_id") == where.hospital)


def _week_ahead(o: Oracle, where: Slice) -> Told:
    """Who is needed and how long waits will be; rosters only as far as there are none."""
    compared, needs = (_newest(o, where, name) for name in ("kpi_staffing_comparison", "staffing_need_hourly"))
    parts = ["staff-need", "nurse-need"] if compared.height or needs.height else ["week-ahead"]
    if parts[1:] and not (compared.height and compared["replicates_count"].sum()):
        parts += ["rosters", "shifts-suggested"]
    told: Told = dict.fromkeys([*parts, "waits-ahead"])
    for place, role in (("staff-need", "doctor"), ("nurse-need", "nurse")):
        if not needs.height:
            continue
        by = (
            needs.filter(col("staff_role") == role)
            .with_columns(lack=col("needed_count") - (col("present_count") + where.doctors).clip(0))
            .group_by("target_date", "hour_of_day")
            .agg(col("needed_count").sum(), col("lack").clip(0).sum(), col("offered_load").sum())
            .sort("target_date", "hour_of_day")
        )
        if not by.height:
            continue
        by = (
            by.sort("lack", "offered_load", descending=True, maintain_order=True)
            if role == "doctor"
            else by.sort("needed_count", descending=True, maintain_order=True)
        )
        top = by.row(0, named=True)
        when = f"{top['target_date']:%a} {top['hour_of_day']:02d}:00"
        if role == "nurse":
            told[place] = [by["needed_count"].min(), by["needed_count"].max(), when]  # type: ignore[list-item]
            continue
        first = by["target_date"].min()
        short = by.filter(col("lack") > 0).height
        assert isinstance(first, date)
        supposed = [f"{abs(where.doctors)} {'more' if where.doctors > 0 else 'fewer'}"] if where.doctors else []
        counted = [short, by.height, *supposed, when] if short else ["every hour", *supposed]
        told[place] = [*counted, f"{first.day} {first:%B}"]
    waits = o.table("forecast_waits_hourly")
    waits = waits.filter(col("hospital_id") == where.hospital) if waits.height else waits
    if waits.height:
        waits = waits.filter(col("service_date") == waits["service_date"].max()).sort("target_date", "hour_of_day")
        ships = o.table("forecast_wait_methods").select("service_date", "hospital_id", "method")
        waits = waits.join(ships, on=ships.columns, how="semi")
    if waits.height > 1:
        top = waits.filter(col("mean_wait_p90_minutes") == waits["mean_wait_p90_minutes"].max()).row(0, named=True)
        when = f"{top['target_date']:%a} {top['hour_of_day']:02d}:00"
        told["waits-ahead"] = [when, top["mean_wait_p10_minutes"], top["mean_wait_p90_minutes"]]
    return told


def conditions(o: Oracle, where: Slice) -> Told:
    """Conditions."""
    own = col("hospital_id") == where.hospital
    rows = o.table("kpi_conditions").filter(own & (col("icd_code") != "not_coded") & col("visit_count").is_not_null())
    told: Told = {"conditions": None}
    if rows.height:
        top = rows.sort(["visit_count", "icd_code"], descending=[True, False]).row(0, named=True)
        until, first = o.known.complete_until, o.known.first
        history: list[Fact] = []
        if o.has("kpi_conditions_daily", "icd_code"):
            if (until - first).days > 190:
                after = (until + timedelta(days=1)).replace(day=1)
                starts = [(after - timedelta(days=30 * i)).replace(day=1) for i in range(25)]
                history = [len({s for s in starts if first <= s < after})]
            else:
                history = [min(24, ((until - first).days + 1) // 7)]
            history = history if history[0] >= 2 else []  # type: ignore[operator]
        told["conditions"] = [top["condition_name"] or top["icd_code"], *history, top["coded_visit_count"]]
    groups = o.table("kpi_condition_groups").filter(
        own & (col("condition_group") != "not_coded") & (col("visit_count") > 0)
    )
    top_groups = groups.sort("visit_count", descending=True)
    told["groups"] = [int(top_groups["coded_visit_count"][0])] if groups.height else None
    told |= _watched(o, where)
    told["people"] = _people(o, where)
    for name in ("race", "ethnicity"):
        found = o.table("kpi_demographics").filter(
            own & (col("characteristic") == name) & (col("visit_count") > 0) & (col("patient_count") > 0)
        )
        shares = found.filter(col("visit_count") == found["visit_count"].max())["share_of_visits_pct"].to_list()
        told[name] = [percent(shares[0], 100, 0), total(found, "visit_count")] if found.height else None
    told["equity"] = _equity(o, where)
    procedures = (
        o.table("kpi_procedures")
        .filter(own & (col("procedure_count") > 0))
        .sort(["procedure_count", "procedure_code"], descending=[True, False])
    )
    shown = procedures.head(12)
    told["procedures"] = (
        [shown["procedure_name"][0] or shown["procedure_code"][0], total(shown, "procedure_count")]
        if shown.height
        else None
    )
    told["returns"] = _newest_month(o, where, "kpi_returns", "value_pct", 1, run_out=3, variant="discharged")
    told["readmissions"] = _newest_month(o, where, "kpi_readmissions", "value_pct", 1, run_out=30)
    return told


def _watched(o: Oracle, where: Slice) -> Told:
    names = {
        "respiratory": [
            "Influenza",
            "Acute upper respiratory infection",
            "Acute bronchitis and bronchiolitis",
            "Pneumonia",
            "COVID-19",
        ],
        "sepsis": ["Sepsis"],
        "injury": [
            "Head injury",
            "Injury of arm and hand",
            "Injury of leg and foot",
            "Multiple and unspecified injury",
        ],
    }
    told: Told = {f"{name}-trend": None for name in names}
    if not o.has("kpi_conditions_daily", "icd_code"):
        return told
    rows = o.table("kpi_conditions_daily")
    rows = rows if where.hospital == "all" else rows.filter(col("hospital_id") == where.hospital)
    groups = o.table("dim_condition").select("icd_version", "icd_code", "condition_group")
    rows = rows.drop("condition_group", strict=False).join(groups, on=["icd_version", "icd_code"], how="left")
    for name, wanted in names.items():
        is_it = col("condition_group").is_in(wanted).fill_null(value=False)
        days = rows.group_by(day="service_date").agg(value=pl.when(is_it).then(col("visit_count")).otherwise(0).sum())
        chart = o.chart(days.with_columns(n=col("value")), where, "lower", least=0, is_count=True)
        if any(dot.value for dot in chart.dots):
            told[f"{name}-trend"] = said_by_chart(chart, "visits a day", 0)
    return told


def _equity(o: Oracle, where: Slice) -> Facts | None:
    if not o.has("dim_patient", "sex", "race", "ethnicity") or not o.has("fact_emergency_visits", "wait_minutes"):
        return None
    people = o.table("dim_patient").select("patient_key", "sex", "race", "ethnicity")
    waited = o.recent(where).filter(col("wait_minutes").is_not_null())
    waited = waited.join(people, on="patient_key")
    found = []
    for kind in ("race", "ethnicity", "sex"):
        by = (
            waited.filter(col(kind).is_not_null())
            .group_by(kind)
            .agg(n=pl.len(), average=col("wait_minutes").mean(), spread=col("wait_minutes").std())
        )
        found += [
            (kind, row["n"], row["average"], row["spread"] / math.sqrt(row["n"]))
            for row in by.to_dicts()
            if row["n"] >= o.few and row["spread"] is not None
        ]
    if not found:
        return None
    sexes = [row for row in found if row[0] == "sex"] or found
    average = sum(row[1] * row[2] for row in sexes) / sum(row[1] for row in sexes)
    apart = sum(abs(row[2] - average) > 1.96 * row[3] for row in found)
    n = sum(row[1] for row in found if row[0] == "sex")
    return [apart, len(found), number(average, 1), *_of_days(where), n]


def forecast(o: Oracle, where: Slice) -> Told:
    """Forecast: arrivals, and how good it was."""
    told: Told = {"forecast": None, "forecast-hours": None, "forecast-beds": _beds(o, where), "wait-methods": None}
    ships = _newest(o, where, "forecast_wait_methods")
    if ships.height:
        told["wait-methods"] = [ships.filter(col("method") == "queue_simulation").height, ships.height]
    days = o.table("forecast_arrivals_daily")
    mine = days.filter(col("is_shipped") & (col("hospital_id") == where.hospital)) if days.columns else days
    newest = mine["service_date"].max() if mine.height else None
    future = mine.filter(col("service_date") == newest).sort("target_date") if mine.height else mine
    if future.height:
        top = future.filter(col("expected_arrivals") == future["expected_arrivals"].max()).row(0, named=True)
        holidays = [f"{day_of(r['target_date'])} {r['holiday_name']}" for r in future.to_dicts() if r["holiday_name"]]
        told["forecast"] = [
            f"{top['target_date']:%a} {day_of(top['target_date'])}",
            top["expected_arrivals"],
            *holidays,
        ]
        told["next-7"] = [float(future["expected_arrivals"].head(7).sum())]
        told |= _parts(o, where, newest, future["target_date"][0])
        hours = o.table("forecast_arrivals_hourly").filter(
            col("is_shipped")
            & (col("hospital_id") == where.hospital)
            & (col("existing_hours") > 0)
            & (col("service_date") == newest)
        )
        if hours.height > 1:
            hours = hours.sort("target_date", "hour_of_day")
            top = hours.filter(col("expected_arrivals") == hours["expected_arrivals"].max()).row(0, named=True)
            when = f"{top['target_date']:%a} {top['hour_of_day']:02d}:00"
            told["forecast-hours"] = [when, number(top["expected_arrivals"], 1)]
    else:
        told["next-7"] = [DASH]
    done = o.table("kpi_forecast_accuracy")
    done = (
        done.filter(
            (col("hospital_id") == where.hospital)
            & (col("grain") == "day")
            & (col("horizon_band") == "all")
            & (col("shipped_count") > 0)
        )
        if done.columns
        else done
    )
    n = total(done, "shipped_count") if done.height else 0
    if not n:
        return told | {name: [DASH] for name in ("error", "bias", "coverage")}

    def weighed(name: str) -> float | None:
        known = done.filter(col(name).is_not_null())
        count = total(known, "shipped_count")
        return (known[name] * known["shipped_count"]).sum() / count if count else None

    done = done.with_columns(came=col("arrivals_count") / col("forecasts_count"))
    mae, mean, skill = weighed("mae"), weighed("came"), weighed("skill_pct")
    better = [] if not skill else [number(abs(skill), 1), "better" if skill >= 0 else "worse"]
    share = [number(100 * mae / mean, 1), n, *better] if mean and mae is not None else []
    told["error"] = [number(mae, 1), *share]
    told["bias"] = [number(weighed("bias"), 1)]
    told["coverage"] = [weighed("pit_80_pct"), 80, n]
    return told


def _parts(o: Oracle, where: Slice, newest: Any, day: date) -> Told:
    """What moves the forecast of the first day, and its critical arrivals."""
    name = f"{day:%a} {day_of(day)}"
    of_day = (col("hospital_id") == where.hospital) & (col("service_date") == newest) & (col("target_date") == day)
    moving = o.table("forecast_drivers").filter(of_day & (col("driver") != "usual_day")).sort("driver_rank")
    most = max(moving.to_dicts(), key=lambda row: abs(row["added_arrivals"]), default=None)
    moved: list[Fact] = ["usual"] if most is None else []
    if most is not None:
        words = {"holiday": "public holidays", "level": "level of the last ten weeks"}
        sign = "+" if most["added_arrivals"] > 0 else ""
        moved = [words.get(most["driver"], most["driver"]), f"{sign}{number(most['added_arrivals'])}"]
    critical = o.table("forecast_triage_daily").filter(of_day & col("triage_group").is_in(["1", "2"]))
    return {
        "forecast-drivers": [name, *moved],
        "forecast-triage": [name, number(critical["expected_arrivals"].sum(), 1)],
    }


def _beds(o: Oracle, where: Slice) -> Facts | None:
    rows = o.table("forecast_beds_daily")
    if not rows.height:
        return None
    department = "all inpatient" if where.department == "all" else where.department
    rows = rows.filter(
        (col("service_date") == rows["service_date"].max())
        & (col("hospital_id") == where.hospital)
        & (col("department_name") == department)
    ).sort("target_date")
    staffed = rows["bed_capacity"].to_list()
    if not rows.height or not all(staffed):
        return None
    beds = [where.beds or count for count in staffed]
    over = sum(patients > 0.92 * count for patients, count in zip(rows["expected_patients"], beds, strict=True))
    top = rows.filter(col("expected_patients") == rows["expected_patients"].max()).row(0, named=True)
    wanted = math.ceil(top["expected_patients"] / 0.92)
    name = f"{top['target_date']:%a} {day_of(top['target_date'])}"
    supposed = sorted({*staffed}) if beds != staffed else []
    return [*sorted({*beds}), *supposed, over, rows.height, wanted, name, top["over_capacity_pct"]]


def visits(o: Oracle, where: Slice) -> Told:
    """Visits."""
    if not o.has("fact_emergency_visits", "service_date", "wait_minutes"):
        return {"visits": None}
    n = o.visits(where).height
    return {"visits": ([n] if n <= 500 else [500, n]) if n else None}


def today(o: Oracle, where: Slice) -> Told:
    """Today and tomorrow, at the top of the Overview."""
    places = o.table("dim_hospital").filter((col("hospital_key") > 0) & col("time_zone").is_not_null())
    places = places if where.hospital == "all" else places.filter(col("hospital_id") == where.hospital)
    clocks = {
        row["hospital_id"]: o.data_as_of.astimezone(ZoneInfo(row["time_zone"]))
        for row in places.sort("hospital_id").iter_rows(named=True)
    }
    if not clocks:
        return {}
    arrivals = o.table("kpi_arrivals_hourly")
    by_place: dict[str, dict[int, int]] = {}
    for hospital, clock in clocks.items():
        own = arrivals.filter(col("hospital_id") == hospital)
        for row in own.filter(
            col("service_date").is_between(clock.date() - timedelta(days=56), clock.date())
        ).iter_rows(named=True):
            if (hospital, row["service_date"]) not in o.hospital_days[1]:
                continue
            days_back = by_place.setdefault(hospital, {})
            behind = (clock.date() - row["service_date"]).days
            came = row["arrivals_count"] if row["hour_of_day"] < clock.hour else 0
            days_back[behind] = days_back.get(behind, 0) + came
    # What came to hospitals is held against what came to the same ones.
    here = [own for own in by_place.values() if 0 in own] or list(by_place.values())
    most = max((sum(behind in own for own in here) for behind in range(57)), default=0)
    so_far = {
        behind: sum(own[behind] for own in here if behind in own)
        for behind in range(57)
        if 0 < sum(behind in own for own in here) == most
    }
    first = next(iter(clocks.values()))
    same = [came for behind, came in so_far.items() if behind and behind % 7 == 0]
    by = [f"by {first.hour:02d}:00"] if len({(c.date(), c.hour) for c in clocks.values()}) == 1 else ["by now"]
    usual: list[Fact] = []
    if len(same) >= 3:
        middle = sorted(same)[len(same) // 2] if len(same) % 2 else fmean(sorted(same)[len(same) // 2 - 1 :][:2])
        usual = [middle, min(same), max(same)]
    told: Told = {}
    if 0 in so_far:
        against = (
            []
            if not usual
            else (
                [*usual, "more than"]
                if so_far[0] > max(same)
                else [*usual, "fewer than"]
                if so_far[0] < min(same)
                else ["as usual", *usual]
            )
        )
        some = [len(here), len(by_place)] if len(here) < len(by_place) else []
        told["today-arrivals"] = [f"{first:%A} {day_of(first.date())}", so_far[0], *by, *some, *against]
    else:
        told["today-arrivals"] = [f"{first:%A} {day_of(first.date())}", DASH, "none", *(by if usual else []), *usual]
    days = o.table("forecast_arrivals_daily")
    for name, ahead in (("today", 0), ("tomorrow", 1)):
        at = first.date() + timedelta(days=ahead)
        label = f"{at:%A} {day_of(at)}"
        rows = days
        if days.columns:
            rows = days.filter(
                col("is_shipped") & (col("hospital_id") == where.hospital) & (col("target_date") == at)
            ).sort("service_date")
        if rows.height:
            row = rows.row(-1, named=True)
            values = [row["expected_arrivals"], row["p10_count"], row["p90_count"]]
            told[f"{name}-expected"] = [label, *values]
        else:
            told[f"{name}-expected"] = [label, DASH]
    return told


PAGES: Mapping[str, Callable[[Oracle, Slice], Told]] = {
    "overview": lambda o, where: overview(o, where) | today(o, where),
    "flow": flow,
    "deterioration": deterioration,
    "capacity": capacity,
    "workforce": workforce,
    "conditions": conditions,
    "visits": visits,
    "forecast": forecast,
}


#: Page -> its series, in the order in which news of them is told.
NEWS: Mapping[str, tuple[str, ...]] = {
    "overview": ("median", "on_time", "visits", "critical", "average"),
    "flow": ("four_hour", "twelve", "lwbs", "critical"),
    "deterioration": ("first_15", "first_60", "response", "frequency"),
    "capacity": ("occupancy", "boarded", "before_noon"),
    "workforce": ("load",),
}


def news(charts: Sequence[Chart]) -> list[Facts]:
    """What sentences say of the newest points, each a signal; or that there is none."""
    told: list[Facts] = []
    for chart in charts:
        newest = chart.dots[-1] if chart.dots and chart.upper is not None else None
        if newest is None or not newest.way:
            continue
        ways = {"outside": ("above", "below"), "run": ("above", "below"), "trend": ("rising", "falling")}
        way = ways.get(newest.rule, ("upper", "lower"))[newest.way < 0]
        long = [7] if newest.rule in ("run", "trend") else []
        told.append([way, *long, chart.word(newest.way), day_of(newest.start)])
    unknown = sum(not chart.dots or chart.upper is None for chart in charts)
    if unknown == len(charts):
        return [["Too few"]]
    return told[:3] or [["Nothing", *([unknown, len(charts)] if unknown else [])]]


def text_of(part: Card | Figure) -> str:
    """Everything a part says in words and numbers."""
    if isinstance(part, Figure):
        return " | ".join([part.title, part.subtitle, part.note, "" if part.n is None else f"n {number(part.n)}"])
    from hospital_assets.measures.natural_limits import ASSURANCES

    chance = part.chance
    verdict = [chance.words, ASSURANCES[chance.target] if chance.target else ""] if chance else []
    return " | ".join([part.label, part.value, part.unit, part.detail, *verdict])


def compared(name: str, page: Page, oracle: Oracle, where: Slice) -> Iterable[str]:
    """What is wrong on a page: a part of which nothing is known, one that is missing, or wrong facts."""
    oracle.charts.clear()
    told = PAGES[name](oracle, where)
    parts = {part.id: part for part in (*page.today, *page.cards, *page.figures)}
    for place, part in parts.items():
        text = text_of(part)
        if place not in told:
            if problems(text, []):
                yield f"{place}: nothing is known of it: {text}"
            continue
        facts = told[place]
        is_empty = isinstance(part, Figure) and part.kind == "empty"
        if is_empty != (facts is None):
            yield f"{place}: {'empty' if is_empty else 'not empty'}, but {facts}: {text}"
        elif facts is not None and (wrong := problems(text, facts)):
            yield f"{place}: {wrong} ({facts}): {text}"
    yield from (f"{place}: missing" for place in told if place not in parts)
    sentences = news([oracle.charts[series] for series in NEWS[name]]) if name in NEWS else []
    if len(sentences) != len(page.sentences):
        yield f"news: {page.sentences}, but {sentences}"
    for sentence, facts in zip(page.sentences, sentences, strict=False):
        if wrong := problems(sentence, facts):
            yield f"news: {wrong} ({facts}): {sentence}"
