"""The dashboard without a browser: what chance says, slices, numbers, roles, headers, the live board."""

from __future__ import annotations

import asyncio
import csv
import html
import io
import itertools
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

import duckdb
import polars as pl
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from hospital_assets import charts
from hospital_assets.access.serving import Address, ServingError
from hospital_assets.access.users import NOT_LET_IN, User, Users, open_users
from hospital_assets.alerts.outbox import Outbox, Signal, outbox_file
from hospital_assets.automation.build import BuildReport
from hospital_assets.charts import areas, markdown_sparkline
from hospital_assets.charts.marks import short
from hospital_assets.clock import last_whole_day
from hospital_assets.dashboard import figures, mart, spc
from hospital_assets.dashboard.app import _stale
from hospital_assets.dashboard.live import LiveBoard
from hospital_assets.dashboard.mart import Mart
from hospital_assets.dashboard.pages.forecast_queries import daily_forecast
from hospital_assets.dashboard.pages.menu import MENU, Entry
from hospital_assets.dashboard.pages.overview import overview
from hospital_assets.dashboard.pages.overview_queries import waits_in_total
from hospital_assets.dashboard.pages.shared import month_column, newest_complete, why_none
from hospital_assets.dashboard.pages.today import now
from hospital_assets.dashboard.pages.visits import of_visits, visits
from hospital_assets.dashboard.render import FOLDER, as_csv, file_name, how_explained, largest_flows, table_rows
from hospital_assets.dashboard.render import query as as_query
from hospital_assets.dashboard.serve import dashboard_of, loaded_after
from hospital_assets.dashboard.slices import MOST_POINTS, Known, Slice, not_found, read_slice
from hospital_assets.dashboard.store import Store
from hospital_assets.dashboard.store import open_mart as opened
from hospital_assets.live.board import OpenAlert, read_board, reference_of
from hospital_assets.live.copies import merge_landed, publish_copy, read_copy
from hospital_assets.measures.natural_limits import Better
from hospital_assets.publishing.policy import POLICY_FILE, PolicyError
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import open_warehouse
from hospital_assets.warehouse.loads import ledger_copy
from hospital_assets_tests.dashboards import Served, published, serve
from hospital_assets_tests.helpers import query

EVERYWHERE = "0.0.0.0"  # noqa: S104
ROLES = ("admin", "doctor", "executive")
NOW = datetime(2026, 3, 12, 20, tzinfo=UTC)


@pytest.fixture(scope="module")
def shown(built: tuple[Settings, BuildReport], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return published(built[0], tmp_path_factory.mktemp("dashboard") / "data", ROLES)


@pytest.fixture(scope="module")
def served(shown: Settings) -> Iterator[Served]:
    with serve(shown) as running:
        yield running


def open_mart(served: Served, audience: str = "admin") -> Mart:
    return served.dashboard.store.mart(audience)


# --- chance


def days(values: list[float], n: int = 100) -> list[spc.Point]:
    return [spc.Point(date(2026, 1, 1) + timedelta(days=i), v, n) for i, v in enumerate(values)]


EVERY_DAY = Slice("all", date(2026, 1, 1), date(2026, 12, 31))


def chance(
    values: list[float], better: Better = "lower", where: Slice = EVERY_DAY, baselines_from: tuple[date, ...] = ()
) -> spc.Control:
    # More days than are shown by day make points of weeks.
    of_days = replace(where, last=min(where.last, where.first + timedelta(days=MOST_POINTS - 1)))
    return spc.controls({"wait": (days(values), better)}, of_days, baselines_from)["wait"]


def test_a_point_outside_the_limits_is_a_signal_and_which_way_decides_what_it_means() -> None:
    values = [*[10.0, 11, 9] * 10, 30]
    ways: tuple[Better, ...] = ("lower", "higher", "neither")
    assert [chance(values, better).latest for better in ways] == ["concern", "improving", "changed"]
    control = chance(values)
    moving = [abs(b - a) for a, b in itertools.pairwise(values[:28])]
    mean = sum(values[:28]) / 28
    assert control.centre == pytest.approx(mean)
    assert control.upper == pytest.approx(mean + 2.66 * sum(moving) / len(moving))
    assert (control.times("concern"), control.of_period, control.direction) == (1, "concern", 1)


def test_all_of_seven_points_on_one_side_are_signals_and_six_are_none() -> None:
    # Alternating far away, so that limits are wide; then some a little below the mean.
    values = [10.0, 14] * 14
    assert chance([*values, *[11.0] * 6]).latest == "usual"
    found = chance([*values, *[11.0] * 7])
    assert [p.verdict for p in found.points][-8:] == ["usual", *["improving"] * 7]
    assert {p.rule for p in found.points[-7:]} == {"is_run"}


def test_few_points_are_a_run_chart_without_limits() -> None:
    found = chance([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 100])
    assert (found.upper, found.lower, found.latest, found.of_period) == (None, None, None, None)
    drawn = figures.control_figure("x", "Wait", found, unit="min", measure=figures.measure_of("kpi_waits"))
    assert "so no limits" in drawn.subtitle and not any(r["style"] == "limit" for r in drawn.spec["rules"])
    assessed = figures.against_chance(found)
    assert assessed is not None and assessed.words == "Cannot be assessed: 11 of the 12 days it takes"


def test_rare_events_are_signals_and_the_days_between_are_none() -> None:
    values = [0.0] * 14 + [4.0] + [0.0] * 6 + [3.0] + [0.0] * 20
    found = chance(values)
    assert [p.value for p in found.points if p.rule] == [4.0, 3.0]
    cap = chance([100.0] * 14 + [80.0] + [100.0] * 6 + [85.0] + [100.0] * 20, "higher")
    assert [p.value for p in cap.points if p.rule] == [80.0, 85.0]


def test_a_card_is_validated_over_its_own_days() -> None:
    values = [10.0, 11, 10, 9] * 7 + [10.0, 30.0, 10.0, 11.0]
    last_four = replace(EVERY_DAY, first=date(2026, 1, 29))
    assessed = figures.against_chance(chance(values, where=last_four))
    assert assessed is not None and assessed.words == "Concern on 1 of 4 days"
    newest = figures.against_chance(chance(values, where=last_four), is_newest=True)
    assert newest is not None and newest.words == "Usual range"
    before = figures.against_chance(chance(values, where=replace(EVERY_DAY, last=date(2026, 1, 28))))
    assert before is not None and before.words == "Usual range on all 28 days"


@pytest.mark.nightly
@given(st.lists(st.floats(0, 100), min_size=20, max_size=90), st.integers(0, 89), st.integers(0, 89))
def test_no_choice_of_days_changes_limits_or_verdicts(values: list[float], one: int, other: int) -> None:
    whole = chance(values)
    first, last = (date(2026, 1, 1) + timedelta(days=at) for at in sorted((one, other)))
    part = chance(values, where=replace(EVERY_DAY, first=first, last=last))
    assert list(part.points) == [p for p in whole.points if first <= p.day <= last]
    if part.points:
        assert (part.centre, part.lower, part.upper) == (whole.centre, whole.lower, whole.upper)


def test_limits_set_anew_are_drawn_from_that_day_on() -> None:
    values = [*[10.0, 12.0] * 20, *[30.0, 32.0] * 20]
    control = chance(values, baselines_from=(date(2026, 2, 10),))
    assert control.centre == 31 and control.since == 40 and control.baseline[0] == date(2026, 2, 10)  # type: ignore[index]
    assert control.of_period == "usual"
    drawn = figures.control_figure("x", "Wait", control, unit="min", measure=figures.measure_of("kpi_waits"))
    before = [one for one in drawn.spec["lines"] if one["style"] == "limit"]
    assert len(before) == 2 and before[1]["values"][39] == pytest.approx(16.32) and before[1]["values"][40] is None
    # The day before is above the mean, too, and so one of the run.
    assert chance(values).times("concern") == 41


def test_lines_do_not_join_what_a_day_without_data_parts() -> None:
    points = [p for p in days([float(i % 5) for i in range(20)]) if p.day.day not in (8, 9)]
    control = spc.controls({"wait": (points, "lower")}, replace(EVERY_DAY, last=date(2026, 3, 1)))["wait"]
    drawn = figures.control_figure("x", "Wait", control, unit="min", measure=figures.measure_of("kpi_waits"))
    assert drawn.spec["x"][7:9] == ["2026-01-08", "2026-01-09"]
    assert drawn.spec["lines"][0]["values"][6:10] == [1.0, None, None, 4.0]
    assert re.findall("M", re.findall(r'class="line actual" d="([^"]+)"', drawn.drawing())[0]) == ["M", "M"]


@pytest.mark.parametrize(("grain", "span"), [("day", 100), ("week", 400), ("month", 1200)])
def test_long_periods_are_shown_in_whole_weeks_or_months(grain: str, span: int) -> None:
    generator = random.Random(span)
    first = date(2024, 1, 10)
    rows = [
        (first + timedelta(days=i), generator.randrange(1, 9), generator.randrange(0, 12))
        for i in range(span)
        if generator.random() > 0.2
    ]
    last = first + timedelta(days=span - 1)
    known = replace(KNOWN, first=first, last=last, complete_until=last - timedelta(days=1))
    with duckdb.connect() as connection:
        connection.execute("create table t (day date, wait double, n bigint)")
        connection.executemany("insert into t values (?, ?, ?)", rows)
        found = Mart(connection, "admin", "1", NOW, NOW, 11)
        found.__dict__["known"] = known
        over = mart.over_time(
            found,
            Slice("days", first, last),
            "from t",
            {"wait": mart.Measured("wait", "n", 5), "visits": mart.Measured("n", "n", 1, is_count=True)},
            "sum(n) as total",
        )
    start = {
        "day": lambda d: d,
        "week": lambda d: d - timedelta(days=d.weekday()),
        "month": lambda d: d.replace(day=1),
    }[grain]
    every = [first + timedelta(days=i) for i in range(-40, span + 40)]
    wanted: dict[str, list[spc.Point]] = {"wait": [], "visits": []}
    for at in sorted({start(d) for d, *_ in rows}):
        days = [d for d in every if start(d) == at]
        if min(days) < first or max(days) > known.complete_until:
            continue
        inside = [(wait, n) for d, wait, n in rows if d in days]
        n = sum(n for _, n in inside)
        if n >= 5:
            wanted["wait"].append(spc.Point(at, sum(w * n for w, n in inside) / n, n))
        if n >= 1:
            wanted["visits"].append(spc.Point(at, n / len(days), n))
    assert over.total["total"] == sum(n for *_, n in rows)
    for name, points in wanted.items():
        assert [(p.day, p.n) for p in over.points[name]] == [(p.day, p.n) for p in points]
        assert [p.value for p in over.points[name]] == pytest.approx([p.value for p in points])


def test_every_share_goes_through_the_one_function() -> None:
    for module in (FOLDER / "pages").glob("*.py"):
        code = module.read_text(encoding="utf-8")
        # The forecast's error and the chance of its bands are no shares of anything counted.
        found = [] if module.stem == "forecast" else re.findall(r"number\(100 \* .*|number\([^()]*_pct'\].*", code)
        assert [line for line in found if "limit_pct" not in line] == [], module.name


def test_a_column_of_percents_is_rounded_to_neither_all_nor_none() -> None:
    shown = figures.figure(
        "x",
        "",
        "",
        [{"share": 99.96, "n": 99.96}, {"share": 0.01, "n": 0.01}, {"share": 100.0, "n": 100.0}],
        figures.Column("% seen", 1, "share"),
        figures.Column("Minutes", 1, "n"),
    )
    assert re.findall(r">([\d.]+)<", table_rows(shown, EVERY_DAY)) == ["99.9", "100.0", "0.1", "0.0", "100.0", "100.0"]
    assert as_csv(shown, "").splitlines()[2:] == ["99.9,100.0", "0.1,0.0", "100.0,100.0"]
    assert charts.measured(99.99, "%") == "99.9 %" and charts.measured(99.99, "min") == "100.0 min"


def test_the_largest_flows_stand_for_a_diagram_that_does_not_fit() -> None:
    rows = [["Walk in", "3 Urgent", count, None] for count in range(1, 12)]
    drawn = figures.Figure("x", "", "", "sankey", rows=rows, n=200)
    assert [share for *_, share in largest_flows(drawn)] == ["5.5", "5.0", "4.5", "4.0", "3.5", "3.0", "2.5", "2.0"]


def test_no_data_has_another_shade_than_none() -> None:
    spec = {"rows": ["Mon"], "columns": ["00", "01", "02"], "cells": [[0.0, None, 4.0]], "unit": "/h"}
    drawn = areas.heatmap(spec)
    assert re.findall(r'class="heat (\w+)" x="[\d.]+%"', drawn) == ["h0", "none", "h8"]
    assert "Mon 01: no data" in drawn and ">no data</text>" in drawn
    assert ">no data</text>" not in areas.heatmap(spec | {"cells": [[0.0, 1.0, 4.0]]})


def test_a_month_that_is_not_over_is_no_headline() -> None:
    with duckdb.connect() as connection:
        found = Mart(connection, "admin", "1", NOW, NOW, 11)
        days = {"first": date(2026, 1, 5), "last": date(2026, 3, 31), "complete_until": date(2026, 3, 30)}
        found.__dict__["known"] = replace(KNOWN, **days)
        rows = [{"period_month": date(2026, month, 1)} for month in (1, 2, 3)]
        assert newest_complete(found, rows) == rows[1]
        assert [month_column(found).cell(row) for row in rows] == [
            "Jan 2026, incomplete",
            "Feb 2026",
            "Mar 2026, incomplete",
        ]
        # Thirty days after February are over on 30 March, thirty-one are not.
        assert newest_complete(found, rows, 30) == rows[1] and newest_complete(found, rows, 31) is None


def test_what_a_source_does_not_deliver_is_not_too_few() -> None:
    too_few = {"numerator_count": 0, "denominator_count": 0, "undelivered_count": 0}
    assert why_none(too_few) == figures.TOO_FEW
    assert why_none(too_few | {"undelivered_count": 1200}).startswith("Cannot be assessed: its source does not deliver")


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.integers(2, 10))
def test_axes_span_what_they_show(low: float, width: float, wanted: int) -> None:
    scale = charts.ticks(low, low + width, wanted)
    slack = 1e-6 * max(1.0, abs(low), width)
    assert scale[0] <= low + slack and scale[-1] >= low + width - slack and len(scale) >= 2


@given(st.lists(st.floats(-1e5, 1e5), min_size=2, max_size=40))
def test_a_sparkline_is_short_enough_for_dagster_to_show(values: list[float]) -> None:
    assert (
        len(markdown_sparkline(values, "kpi_discharge_before_noon_daily: 40 periods, 100.0 to 100.0 %, now 100.0"))
        < 980
    )


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=12))
def test_areas_of_a_treemap_are_the_shares_and_do_not_leave_the_frame(values: list[int]) -> None:
    values.sort(reverse=True)
    shares = [v / sum(values) for v in values]
    boxes = areas._squarified(shares, 400, 250)
    for share, (x, y, w, h) in zip(shares, boxes, strict=True):
        assert w * h == pytest.approx(share * 400 * 250, rel=1e-6)
        assert x >= -1e-6 and y >= -1e-6 and x + w <= 400 + 1e-6 and y + h <= 250 + 1e-6


# --- slices

KNOWN = Known(
    date(2026, 1, 1),
    date(2026, 3, 31),
    date(2026, 3, 31),
    {"H1": "One", "H2": "Two"},
    ("Emergency", "ICU"),
    {"1": "Resuscitation", "2": "Emergent"},
    {"1": 0.0, "2": 10.0},
)


def test_the_last_days_are_whole_ones() -> None:
    """At 03:00 UTC the evening of the day before goes on in America."""
    whole = last_whole_day(datetime(2026, 3, 31, 3, tzinfo=UTC))
    assert whole == date(2026, 3, 29)
    assert last_whole_day(datetime(2026, 3, 31, 12, tzinfo=UTC)) == date(2026, 3, 30)
    known = replace(KNOWN, complete_until=whole)
    found = read_slice({"period": "last-7"}, known)
    assert (found.first, found.last) == (date(2026, 3, 23), whole)
    new = replace(KNOWN, complete_until=date(2025, 12, 31))
    assert read_slice({"period": "last-7"}, new).days == 1


@given(
    st.dictionaries(
        st.sampled_from(["period", "from", "to", "hospital", "department", "triage", "order"]),
        st.one_of(
            st.text("ab1-;'% \u00e9<", max_size=12),
            st.sampled_from(
                [
                    "all",
                    "days",
                    "last-7",
                    "2026-02",
                    "2026",
                    "H1",
                    "ICU",
                    "1",
                    "2026-02-30",
                    "2026-02-10",
                    "0001-01-01",
                    "9999-12-31",
                ]
            ),
        ),
    )
)
def test_whatever_is_asked_for_a_slice_holds_known_values_only(asked: dict[str, str]) -> None:
    found = read_slice(asked, KNOWN)
    assert KNOWN.first <= found.first <= found.last <= KNOWN.last
    assert found.hospital in {"all", *KNOWN.hospitals}
    assert found.department in {"all", *KNOWN.departments}
    assert found.triage in {"all", *KNOWN.triage}
    again = dict(parse_qsl(as_query(found)))
    assert read_slice(again, KNOWN) == found


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ({}, date(2026, 1, 1), date(2026, 3, 31)),
        ({"period": "last-7"}, date(2026, 3, 25), date(2026, 3, 31)),
        ({"period": "2026-02"}, date(2026, 2, 1), date(2026, 2, 28)),
        ({"period": "days", "from": "2026-02-03", "to": "2026-02-01"}, date(2026, 2, 1), date(2026, 2, 3)),
        ({"period": "2025-12"}, date(2026, 1, 1), date(2026, 3, 31)),
        ({"period": "1'; drop table kpis.kpi_waits --"}, date(2026, 1, 1), date(2026, 3, 31)),
    ],
)
def test_periods(asked: dict[str, str], first: date, last: date) -> None:
    found = read_slice(asked, KNOWN)
    assert (found.first, found.last) == (first, last)


def test_who_has_one_hospital_sees_that_hospital() -> None:
    known = replace(KNOWN, hospitals={"H2": "Two"})
    assert read_slice({"hospital": "all"}, known).hospital == "H2"


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, ""),
        ({"hospital": "all", "triage": "", "period": "last-7"}, ""),
        ({"hospital": "H9"}, "Hospital H9 was not found; showing all that there is."),
        ({"period": "1999", "triage": "9"}, "Period 1999 and triage 9 were not found; showing all that there is."),
    ],
)
def test_what_is_not_found_is_said(asked: dict[str, str], says: str) -> None:
    assert not_found(asked, KNOWN) == says


@pytest.mark.parametrize(
    ("count", "of", "digits", "says"),
    [
        (9_999_999, 10_000_000, 1, "99.9"),
        (10, 10, 1, "100.0"),
        (1, 10_000_000, 1, "0.1"),
        (0, 10, 1, "0.0"),
        (199_999, 200_000, 2, "99.99"),
        (199, 200, 0, "99"),
        (1, 3, 1, "33.3"),
    ],
)
def test_a_share_is_rounded_neither_to_all_nor_to_none(count: int, of: int, digits: int, says: str) -> None:
    assert charts.percentage(count, of, digits) == says


@pytest.mark.parametrize(
    ("now", "before", "days", "says"),
    [
        (46.1, 40.0, 4, "6.1 min longer than in the 4 days before"),
        (33.9, 40.0, 1, "6.1 min shorter than on the day before"),
        (40.02, 40.0, 7, "about as in the 7 days before"),
        (None, 40.0, 7, ""),
        (40.0, None, 7, ""),
    ],
)
def test_a_comparison_says_its_direction(now: float | None, before: float | None, days: int, says: str) -> None:
    assert figures.comparison(now, before, days, "longer", "shorter", "min") == says


def test_a_relative_comparison_needs_something_to_compare_with() -> None:
    assert figures.comparison(90, 120, 7, "more", "fewer") == "25.0 % fewer than in the 7 days before"
    assert figures.comparison(90, 0, 7, "more", "fewer") == ""


@pytest.mark.parametrize(
    ("value", "says"), [(9_500, "9,500"), (12_500, "12.5k"), (15_000, "15k"), (-12_500, "\u221212.5k")]
)
def test_an_axis_has_its_numbers_as_they_are(value: float, says: str) -> None:
    assert short(value) == says


def test_an_export_is_rounded_as_shown_and_named_after_its_slice() -> None:
    shown = figures.Figure(
        "x", "", "", "table", (figures.Column("a", 1), figures.Column("b", 0)), [[1.26, 2.6], [None, 3]]
    )
    assert as_csv(shown, "H1, all").splitlines() == ['"# . H1, all"', "a,b", "1.3,3", ",3"]
    where = Slice("all", date(2026, 3, 1), date(2026, 3, 4), "H1", 'A "b"/c', "2")
    assert file_name("flow", "x", where) == "flow_x_2026-03-01_2026-03-04_H1_A-b-c_triage-2.csv"


# --- numbers


def text_of(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", page))


def card(page: str, name: str) -> str:
    found = re.search(rf'id="{name}">.*?<p class="value"><strong>([^<]*)</strong>', page, re.S)
    assert found, name
    return found.group(1)


def table(page: str, figure: str) -> list[list[str]]:
    section = page.split(f'id="{figure}"')[1].split("</section>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", section.split("<tbody>")[1], re.S)
    return [[text_of(cell).strip() for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)] for row in rows]


def get(served: Served, address: str) -> str:
    answer = requests.get(served.address + address, timeout=120)
    assert answer.status_code == 200, answer.text[:300]
    return answer.text


def test_figures_on_the_page_are_those_of_the_kpi_tables(shown: Settings, served: Served) -> None:
    page = get(served, "/overview")
    (row,) = query(
        shown,
        "select * from kpis.kpi_waits where hospital_id = 'all' and department_name = 'all' and triage_group = 'all'",
    ).to_dicts()
    assert card(page, "visits") == f"{row['visit_count']:,}"
    assert card(page, "average-wait") == f"{row['wait_average_minutes']:,.1f}"
    assert card(page, "longest-wait") == f"{row['wait_max_minutes']:,.0f}"
    assert f"median {row['wait_median_minutes']:.1f} min, n {row['wait_count']:,}" in text_of(page)
    (on_time,) = query(
        shown,
        "select sum(numerator_count) as n, sum(denominator_count) as d from kpis.kpi_seen_on_time_daily "
        "where hospital_id = 'all' and scale = 'ESI' and triage_group = 'all'",
    ).to_dicts()
    assert card(page, "on-time") == f"{100 * on_time['n'] / on_time['d']:.1f}"
    departments = query(
        shown,
        "select department_name, visit_count, wait_median_minutes from kpis.kpi_waits where "
        "hospital_id = 'all' and triage_group = 'all' and department_name <> 'all' and wait_count > 10 "
        "order by visit_count desc",
    )
    listed = {cells[0]: cells for cells in table(page, "departments")}
    for name, count, median in departments.iter_rows():
        assert listed[name][2:4] == [f"{count:,}", f"{median:.1f}"]
    triage = dict(
        query(
            shown,
            "select triage_group, visit_count from kpis.kpi_waits where "
            "hospital_id = 'all' and department_name = 'all'",
        ).iter_rows()
    )
    for cells in table(page, "triage"):
        assert cells[2] == f"{triage[cells[0][0]]:,}"


def test_a_slice_of_the_page_is_the_slice_of_the_kpi_table(shown: Settings, served: Served) -> None:
    page = get(served, "/overview?period=days&from=2026-03-07&to=2026-03-09&hospital=H2&department=Emergency&triage=3")
    (row,) = query(
        shown,
        "select sum(visit_count) as visits, sum(wait_sum_minutes) / sum(wait_count) as average, "
        "max(wait_max_minutes) as longest from kpis.kpi_waits_daily where hospital_id = 'H2' and "
        "department_name = 'Emergency' and triage_group = '3' and service_date between "
        "date '2026-03-07' and date '2026-03-09'",
    ).to_dicts()
    assert card(page, "visits") == f"{row['visits']:,}"
    assert card(page, "average-wait") == f"{row['average']:,.1f}"
    assert card(page, "longest-wait") == f"{row['longest']:,.0f}"
    assert "2026-03-07 to 2026-03-09, Prairie General, Emergency, triage 3 Urgent" in page
    assert "Not by department or triage" in page


def test_peak_hours_are_those_of_the_kpi_table(shown: Settings, served: Served) -> None:
    about, found = requests.get(f"{served.address}/overview.csv?figure=hours&hospital=H1", timeout=120).text.split(
        "\r\n", 1
    )
    assert (
        about.startswith('"# ')
        and "2026-03-05 to 2026-03-12, Lakeside University Hospital, all" in about
        and "Publication admin" in about
    )
    listed = {(r["Weekday"], r["Hour"]): float(r["Per hour"] or 0) for r in csv.DictReader(io.StringIO(found))}
    wanted = query(shown, "select * from kpis.kpi_peak_hours where hospital_id = 'H1' and existing_hours_count > 0")
    assert wanted.height > 150
    for row in wanted.iter_rows(named=True):
        name = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"][row["iso_weekday_number"] - 1]
        assert listed[name, f"{row['hour_of_day']:02d}:00"] == pytest.approx(row["arrivals_per_hour"])


def test_an_export_says_which_part_of_the_slice_it_does_not_follow(served: Served) -> None:
    asked = "figure=blood&period=days&from=2026-03-07&to=2026-03-09&hospital=H1&triage=3"
    about = requests.get(f"{served.address}/overview.csv?{asked}", timeout=120).text.split("\r\n", 1)[0]
    assert "2026-03-07 to 2026-03-09" in about and "Not by period or triage" in about and "department," not in about


@pytest.mark.fast_as("executive")
@pytest.mark.parametrize("audience", ["admin", "executive", "doctor-H1"])
def test_every_page_says_something_for_every_slice(served: Served, audience: str) -> None:
    found = open_mart(served, audience)
    generator = random.Random(audience)
    known = found.known
    for entry in MENU:
        if entry.build is None:
            continue
        for _ in range(4):
            asked = {
                "period": generator.choice(["all", "last-7", "2026-03", "days"]),
                "from": "2026-03-08",
                "to": "2026-03-08",
                "hospital": generator.choice(["all", *known.hospitals]),
                "department": generator.choice(["all", *known.departments]),
                "triage": generator.choice(["all", *known.triage]),
            }
            page = entry.build(found, read_slice(asked, known))
            assert page.figures
            for figure in page.figures:
                assert figure.title and figure.subtitle and "nan" not in f"{figure.title} {figure.drawing()}".lower()
                assert all(len(row) == len(figure.columns) for row in figure.rows)
                assert figure.kind == "empty" or figure.rows, figure.id
                assert figure.kind == "empty" or figure.measure is not None
            assert all(card.measure is not None and card.value for card in page.cards)


@pytest.mark.parametrize(("audience", "allows"), [("admin", "chance alone"), ("executive", "chance and rounding")])
def test_limits_of_rounded_counts_say_that_they_allow_for_it(served: Served, audience: str, allows: str) -> None:
    found = open_mart(served, audience)
    told = [one.subtitle for one in overview(found, read_slice({}, found.known)).figures if one.id == "doctors-chart"]
    assert told and f"band: {allows} (" in told[0]


def test_few_patients_have_no_averages(served: Served) -> None:
    found = open_mart(served)
    first = found.known.first
    slices = [Slice("days", first, first, "H7", "all", triage) for triage in ("all", *found.known.triage)]
    few = [where for where in slices if (waits_in_total(found, where)["wait_count"] or 0) < found.few]
    assert few and len(few) < len(slices)
    for where in few:
        cards = {card.id: card for card in overview(found, where).cards}
        assert cards["average-wait"].value == cards["longest-wait"].value == "\u2013"
        assert cards["average-wait"].detail == figures.TOO_FEW


def test_the_threshold_of_few_patients_is_the_policys(
    built: tuple[Settings, BuildReport], tmp_path_factory: pytest.TempPathFactory
) -> None:
    from hospital_assets.reports.overview import as_page

    folder = tmp_path_factory.mktemp("threshold") / "data"
    folder.mkdir()
    text = POLICY_FILE.read_text(encoding="utf-8")
    (folder / "policy.toml").write_text(text.replace("threshold = 11 ", "threshold = 20 "), encoding="utf-8")
    settings = published(built[0], folder, ("admin",))
    found = opened(settings.data_dir, "admin")
    with closing(found.connection):
        places = itertools.product(found.known.hospitals, found.known.triage, range(4))
        slices = [
            Slice("days", found.known.first, found.known.first + timedelta(days=days), hospital, "all", triage)
            for hospital, triage, days in places
        ]
        count = {where: waits_in_total(found, where)["wait_count"] or 0 for where in slices}
        few = [where for where, n in count.items() if 11 <= n < 20][:2]
        enough = [where for where, n in count.items() if n >= 20][:2]
        assert few and enough
        for where in (*few, *enough):
            card = next(card for card in overview(found, where).cards if card.id == "average-wait")
            assert (card.detail == figures.TOO_FEW) == (where in few)
    assert "fewer than 20 patients" in as_page(settings.data_dir, "admin")[1]


@pytest.mark.parametrize("hospital", ["all", "H1"])
def test_the_forecast_on_the_page_is_the_one_that_ships(shown: Settings, served: Served, hospital: str) -> None:
    found = open_mart(served)
    where = read_slice({"hospital": hospital}, found.known)
    rows = daily_forecast(found, where)
    future = [row for row in rows if row["expected"] is not None]
    shipped = query(
        shown,
        "select target_date, expected_arrivals, p10_count, p90_count from forecasts.forecast_arrivals_daily "
        f"where is_shipped and hospital_id = '{hospital}' "
        "qualify service_date = max(service_date) over () order by 1",
    ).rows()
    assert [(r["day"], r["expected"], r["p10"], r["p90"]) for r in future] == shipped and len(shipped) == 14
    came = query(
        shown,
        "select service_date, sum(arrivals_count)::double from kpis.kpi_arrivals_hourly "
        f"where '{hospital}' in ('all', hospital_id) group by 1",
    )
    past = {r["day"]: r["actual"] for r in rows if r["actual"] is not None}
    assert past and past.items() <= dict(came.iter_rows()).items()
    assert max(past) < min(r["day"] for r in future)
    page = get(served, f"/forecast?hospital={hospital}")
    assert card(page, "next-7") == f"{sum(row[1] for row in shipped[:7]):,.0f}"


# --- HTTP


@pytest.mark.parametrize("entry", MENU, ids=lambda e: e.name)
def test_pages_keep_to_the_strict_policy(served: Served, entry: Entry) -> None:
    answer = requests.get(f"{served.address}/{entry.name}", timeout=120)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy and "default-src 'none'" in policy and "script-src 'self'" in policy
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"\sstyle=|\son\w+=|javascript:|https?://", answer.text)
    scripts = re.findall(r"<script([^>]*)>", answer.text)
    assert all("src=" in s or 'type="application/json"' in s for s in scripts)


def test_names_in_the_data_are_no_markup(served: Served) -> None:
    assert "<script>" not in get(served, "/overview?department=<script>alert(1)</script>")
    spec = figures.series(["</script><b>"], [figures.line("</script>", [1.0], "actual")], unit="x")
    from hospital_assets.dashboard.render import templates

    assert "</script>" not in templates().from_string("{{ spec|tojson }}").render(spec=spec)


def test_the_same_slice_asked_in_another_order_is_the_same_page(served: Served) -> None:
    one = requests.get(f"{served.address}/flow?hospital=H1&triage=3", headers={"x-fragment": "1"}, timeout=120)
    other = requests.get(f"{served.address}/flow?triage=3&hospital=H1&x=1", headers={"x-fragment": "1"}, timeout=120)
    assert one.text == other.text and "<html" not in one.text


def test_another_name_for_this_server_is_refused(served: Served) -> None:
    answer = requests.get(served.address + "/overview", headers={"host": "evil.example"}, timeout=120)
    assert answer.status_code == 400


def test_a_slice_that_is_not_there_is_said_and_not_counted_as_such(served: Served) -> None:
    served.seen.clear()
    shown = requests.get(f"{served.address}/overview?hospital=H9%3Cb%3E", timeout=120).text
    assert "Hospital H9&lt;b&gt; was not found; showing all that there is." in shown
    assert [event.statement for event in served.seen] == ["view overview"]
    assert "was not found" not in requests.get(f"{served.address}/overview?hospital=H1", timeout=120).text


def test_looks_and_exports_are_audited_with_version_and_slice(served: Served) -> None:
    served.seen.clear()
    get(served, "/capacity?hospital=H3")
    requests.get(f"{served.address}/capacity.csv?figure=boarding&hospital=H3", timeout=120)
    version = open_mart(served).version
    assert [(e.actor, e.action, e.role, e.statement, e.version) for e in served.seen] == [
        ("local", "view", "admin", "view capacity?hospital=H3", version),
        ("local", "export", "admin", "export capacity.boarding?hospital=H3", version),
    ]


def test_the_visits_behind_a_figure_are_those_of_its_slice(shown: Settings, served: Served) -> None:
    slice_ = "hospital=H2&department=Emergency&triage=3&period=days&from=2026-03-07&to=2026-03-09"
    page = get(served, f"/flow?{slice_}")
    links = set(re.findall(r'href="(/visits[^"]*)"', page))
    assert {frozenset(parse_qsl(link.partition("?")[2].replace("&amp;", "&"))) for link in links} == {
        frozenset(parse_qsl(slice_))
    }
    found = requests.get(f"{served.address}/visits.csv?figure=visits&{slice_}", timeout=120).text.split("\r\n", 1)
    assert "2026-03-07 to 2026-03-09" in found[0] and open_mart(served).version in found[0]
    listed = list(csv.DictReader(io.StringIO(found[1])))
    wanted = query(
        shown,
        "select f.visit_id, round(f.wait_minutes) as wait from facts.fact_emergency_visits f "
        "join dimensions.dim_hospital h using (hospital_key) join dimensions.dim_department d using (department_key) "
        "where h.hospital_id = 'H2' and d.department_name = 'Emergency' and f.triage_level = 3 "
        "and f.service_date between date '2026-03-07' and date '2026-03-09'",
    )
    assert len(listed) == wanted.height > 0
    assert sum(bool(row["Wait min"]) for row in listed) == wanted["wait"].count()


def test_the_whole_publication_is_the_file_of_the_role(served: Served) -> None:
    served.seen.clear()
    mart = open_mart(served)
    answer = requests.get(f"{served.address}/publication.duckdb", timeout=120)
    assert mart.file is not None and answer.content == mart.file.read_bytes()
    assert f"admin-{mart.version}.duckdb" in answer.headers["content-disposition"]
    assert [(e.action, e.statement, e.version) for e in served.seen] == [("export", "export publication", mart.version)]
    assert 'href="/publication.duckdb"' in get(served, "/capacity")


def test_measures_of_visits_are_those_computed_from_visits() -> None:
    by_name = {measure.name for measure in of_visits()}
    assert {"Left without being seen", "Four-hour standard", "Triage mix", "Rolling average wait"} <= by_name
    assert not {"Length of stay", "Occupancy, time-weighted", "Long shifts"} & by_name


@pytest.mark.parametrize(
    ("table", "where", "audience", "command"),
    [
        ("kpi_waits_daily", {}, "analyst", "kpi_waits_daily --hospital all --day 2026-03-02 --role analyst"),
        (
            "kpi_waits_daily",
            {"hospital": "H1", "department": "Intensive Care", "triage": "2"},
            "admin",
            "kpi_waits_daily --hospital H1 --day 2026-03-02 --where 'department_name=Intensive Care' "
            "--where triage_group=2 --role admin",
        ),
        ("kpi_returns", {}, "doctor-H2", "kpi_returns --hospital H2 --day 2026-03-02 --role doctor-H2"),
        ("fact_emergency_visits", {}, "admin", None),
        ("kpi_demographics", {}, "admin", None),
    ],
)
def test_a_definition_names_the_command_that_explains_the_figure(
    table: str, where: dict[str, str], audience: str, command: str | None
) -> None:
    day = date(2026, 3, 2)
    found = how_explained(figures.measure_of(table), Slice("all", day, day, **where), audience)
    assert found == (f"hospital explain {command}" if command else "")


def test_who_gets_figures_only_sees_no_visits(served: Served) -> None:
    mart = served.dashboard.store.mart("executive")
    (only,) = visits(mart, read_slice({}, mart.known)).figures
    assert only.kind == "empty" and "holds figures only" in only.subtitle


def test_the_governance_page_repeats_no_query(shown: Settings, served: Served) -> None:
    from hospital_assets.access.audit import Event, record
    from hospital_assets.dashboard.pages.governance import governance

    record(shown, Event(actor="bob", action="query", role="admin", statement="select 'P0000001'"))
    page = governance(shown, open_mart(served), NOW)
    audit = next(figure for figure in page.figures if figure.id == "audit")
    assert any("bob" in row for row in audit.rows)
    assert not any("P0000001" in str(cell) for row in audit.rows for cell in row)


def test_a_page_that_cannot_be_audited_is_not_shown(shown: Settings, tmp_path: Path) -> None:
    with serve(shown) as running:
        object.__setattr__(running.dashboard, "audit", _fails)
        assert requests.get(running.address + "/overview", timeout=120).status_code == 500


def _fails(_: object) -> None:
    raise OSError("the disk is full")


def test_an_executive_sees_figures_only(shown: Settings) -> None:
    with serve(shown, "executive") as running:
        assert requests.get(running.address + "/live", timeout=120).status_code == 403
        assert requests.get(running.address + "/live/events", timeout=120).status_code == 403
        assert requests.get(running.address + "/governance", timeout=120).status_code == 403
        assert [(e.statement, e.outcome) for e in running.seen] == [
            (f"view {name}", "refused") for name in ("live", "live/events", "governance")
        ]
        page = get(running, "/flow")
        assert "The publication of this role holds figures only" in page
        assert "/live" not in page


def test_cells_that_a_spreadsheet_would_run_are_text() -> None:
    figure = figures.Figure(
        "x",
        "t",
        "s",
        "table",
        (figures.Column("a"), figures.Column("b", 0)),
        [["=1+1", -3], [figures.Link("@x", "department", "@x"), None]],
    )
    assert as_csv(figure, "").splitlines()[1:] == ["a,b", "'=1+1,-3", "'@x,"]


# --- sign-in


PASSWORD = "a long enough password"  # noqa: S105


def test_other_addresses_than_loopback_need_users_and_a_certificate(shown: Settings, tmp_path: Path) -> None:
    for address, says in (
        (Address(EVERYWHERE), "nobody who could sign in"),
        (Address(names=("ed.example.org",)), "nobody who could sign in"),
    ):
        with pytest.raises(ServingError, match=says):
            dashboard_of(shown, "admin", print, address)
    with pytest.raises(PolicyError, match="no role 'nosuchrole'"):
        dashboard_of(shown, "nosuchrole-H9", print)
    hospital = [str(Path(sys.executable).with_name("hospital")), "--data-dir", str(tmp_path), "dashboard"]
    done = subprocess.run([*hospital, "--host", EVERYWHERE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "nobody who could sign in" in done.stderr


@contextmanager
def serve_users(shown: Settings, *users: User) -> Iterator[tuple[Served, Users]]:
    """A dashboard with users; another process has their file open, too."""
    with serve(shown) as running, closing(open_users(shown, running.seen.append)) as others:
        for user in users:
            others.add(user, PASSWORD, by="os:test")
        running.seen.clear()
        try:
            yield running, others
        finally:
            for account in others.everybody():
                others.remove(account.user.name, by="os:test")


def signed_in(running: Served, name: str) -> requests.Session:
    session = requests.Session()
    form = {"name": name, "password": PASSWORD, "next": "flow"}
    answer = session.post(running.address + "/login", data=form, timeout=120, allow_redirects=False)
    assert answer.status_code == 303
    return session


def test_signing_in_shows_the_user_their_publication(shown: Settings) -> None:
    with serve_users(shown, User("eve", "executive")) as (running, _):
        session = requests.Session()
        refused = session.get(running.address + "/overview", timeout=120, allow_redirects=False)
        assert refused.status_code == 303 and refused.headers["location"] == "/login?next=overview"
        assert session.get(running.address + "/overview.csv?figure=triage", timeout=120).status_code == 401
        assert session.get(running.address + "/live/events", timeout=120).status_code == 401
        assert session.post(running.address + "/live/acknowledge", timeout=120).status_code == 401
        form = {"name": "eve", "password": "wrong", "next": "flow"}
        failed = session.post(running.address + "/login", data=form, timeout=120)
        assert failed.status_code == 401 and NOT_LET_IN in failed.text.replace("Wrong", "wrong")
        form["password"] = PASSWORD
        other = session.post(
            running.address + "/login", data=form, timeout=120, headers={"origin": "https://evil.example"}
        )
        assert other.status_code == 401
        answer = session.post(running.address + "/login", data=form, timeout=120, allow_redirects=False)
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie
        assert answer.headers["location"] == "/flow"
        assert "Role: executive" in session.get(running.address + "/flow", timeout=120).text
        assert session.get(running.address + "/governance", timeout=120).status_code == 403
        missing = session.get(running.address + "/nothing", timeout=120)
        assert missing.status_code == 404 and 'href="/flow"' in missing.text
        session.post(running.address + "/logout", timeout=120)
        assert session.get(running.address + "/flow", timeout=120, allow_redirects=False).status_code == 303
        assert [(e.actor, e.action, e.outcome, e.client) for e in running.seen] == [
            ("eve", "login", "refused", "127.0.0.1"),
            ("", "login", "refused", "127.0.0.1"),
            ("eve", "login", "allowed", "127.0.0.1"),
            ("eve", "view", "allowed", "dashboard"),
            ("eve", "view", "refused", "dashboard"),
            ("eve", "logout", "allowed", "127.0.0.1"),
        ]


def test_the_first_user_ends_looking_without_signing_in(shown: Settings) -> None:
    with serve_users(shown) as (running, users):
        assert requests.get(running.address + "/flow", timeout=120, allow_redirects=False).status_code == 200
        users.add(User("eve", "executive"), PASSWORD, by="os:test")
        users.disable("eve", by="os:test")
        assert requests.get(running.address + "/flow", timeout=120, allow_redirects=False).status_code == 303


@pytest.mark.fast_as("disable")
@pytest.mark.parametrize("act", ["disable", "remove", "revoke"])
def test_who_is_disabled_or_removed_is_out_at_once(shown: Settings, act: str) -> None:
    with serve_users(shown, User("ann", "doctor", "H1"), User("bob", "doctor", "H1")) as (running, users):
        session, other = signed_in(running, "ann"), signed_in(running, "bob")
        with session.get(running.address + "/live/events", timeout=120, stream=True) as stream:
            lines = stream.iter_lines()
            assert next(lines) == b"retry: 1000"
            getattr(users, act)("ann", by="os:test")
            for _ in lines:  # until the server ends it
                pass
        assert session.get(running.address + "/flow", timeout=120, allow_redirects=False).status_code == 303
        assert other.get(running.address + "/flow", timeout=120, allow_redirects=False).status_code == 200


def test_a_session_outlives_a_restart_of_the_server(shown: Settings) -> None:
    with serve_users(shown, User("eve", "executive")) as (running, _):
        session = signed_in(running, "eve")
        with serve(shown) as again:
            found = session.get(again.address + "/flow", timeout=120, allow_redirects=False)
            assert found.status_code == 200


def test_acknowledging_an_alert_is_its_own_action(shown: Settings) -> None:
    with closing(Outbox(outbox_file(shown))) as outbox:
        signal = Signal("critical_vitals", "V1", NOW, True, "critical", "NEWS2 9", hospital_id="H1")
        outbox.record([signal], NOW)
        (alert,) = outbox.alerts()
    try:
        with serve(shown) as running:
            url = f"{running.address}/live/acknowledge"
            for origin in ("null", "https://evil.example"):
                other = requests.post(url, data={"alert": alert["alert_id"]}, timeout=120, headers={"origin": origin})
                assert other.status_code == 403 and not running.seen
            assert requests.post(url, data={"alert": "none-such"}, timeout=120).status_code == 404
            assert requests.post(url, data={"alert": alert["alert_id"]}, timeout=120).status_code == 204
            assert [e.statement for e in running.seen if e.action == "acknowledge"] == [
                "acknowledge alert none-such",
                f"acknowledge alert {alert['alert_id']}",
            ]
            assert requests.post(url, data={"alert": alert["alert_id"]}, timeout=120).status_code == 404
        with closing(Outbox(outbox_file(shown))) as outbox:
            (row,) = outbox.alerts()
        assert (row["state"], row["acknowledged_by"]) == ("acknowledged", "local")
    finally:
        outbox_file(shown).unlink()


# --- versions


def test_a_new_version_is_shown_at_the_next_request_and_the_one_before_stays_open() -> None:
    opened: list[str] = []
    newest = ["v1"]

    def open_version(audience: str) -> Mart:
        opened.append(newest[0])
        import duckdb

        return Mart(duckdb.connect(), audience, newest[0], NOW, NOW, 11)

    store = Store(lambda _: newest[0], open_version)
    first = store.mart("admin")
    assert store.mart("admin") is first
    newest[0] = "v2"
    assert store.mart("admin").version == "v2"
    assert first.rows("select 1 as one") == [{"one": 1}]
    assert opened == ["v1", "v2"]


# --- the live board


def visit(name: str, minutes_ago: float, **values: object) -> dict[str, object]:
    arrival = NOW - timedelta(minutes=minutes_ago)
    return {
        "visit_id": name,
        "patient_id": f"P{name}",
        "hospital_id": "H1",
        "department_name": "Emergency",
        "triage_level": 3,
        "arrival_at": arrival,
        "arrival_local": arrival.replace(tzinfo=None),
        "triage_at": None,
        "provider_at": None,
        "departure_at": None,
        "chief_complaint": "cough",
        "age_years": 40,
        "recorded_at": arrival,
    } | values


def landed(folder: Path, visits: list[dict[str, object]], vitals: list[dict[str, object]] = ()) -> Path:  # type: ignore[assignment]
    """Live copies with some landed visits and vital signs."""
    warehouse = folder / "hospital.duckdb"
    schema = {
        "triage_at": pl.Datetime("us", "UTC"),
        "provider_at": pl.Datetime("us", "UTC"),
        "departure_at": pl.Datetime("us", "UTC"),
    }
    merge_landed(
        warehouse,
        "landed_visits",
        pl.DataFrame(visits, schema_overrides=schema),
        "visit_id",
        "recorded_at",
        NOW - timedelta(days=1),
    )
    if vitals:
        merge_landed(
            warehouse, "landed_vitals", pl.DataFrame(vitals), "visit_id", "measured_at", NOW - timedelta(days=1)
        )
    pl.DataFrame(
        {
            "scale": ["ESI"] * 5,
            "level": [1, 2, 3, 4, 5],
            "level_name": list("abcde"),
            "target_minutes": [0.0, 10, 30, 60, 120],
        }
    ).write_parquet(folder / "live" / "triage_targets.parquet")
    return warehouse


def news2(name: str, score: int | None, red: bool = False) -> dict[str, object]:
    return {"visit_id": name, "measured_at": NOW, "news2_score": score, "has_news2_red_parameter": red}


def test_the_board_expects_what_the_newest_forecast_of_each_hospital_does(tmp_path: Path) -> None:
    """H2's newest day is one before H1's."""
    settings = Settings(tmp_path)
    with open_warehouse(settings.warehouse_file) as warehouse:
        warehouse.connection.execute(
            """
            create table forecasts.forecast_arrivals_hourly as
            select made::date as service_date, hospital as hospital_id, date '2026-03-12' as target_date,
                   12 as hour_of_day, n as expected_arrivals, 1 as p10_count, 9 as p90_count, ships as is_shipped
            from (values ('2026-03-10', 'H1', 1.0, true), ('2026-03-11', 'H1', 2.0, true),
                         ('2026-03-11', 'H1', 3.0, false), ('2026-03-10', 'H2', 4.0, true)) t(made, hospital, n, ships)
            """
        )
        publish_copy(warehouse, "expected_arrivals")
    found = read_copy(settings.warehouse_file, "expected_arrivals")
    assert found is not None
    assert dict(found.select("hospital_id", "expected_arrivals").iter_rows()) == {"H1": 2.0, "H2": 4.0}
    assert len(found) == 2


def test_the_board_says_who_came_and_who_is_expected_by_the_hour(tmp_path: Path) -> None:
    # A zone of half an hour: the hour in progress began where its own clock says so.
    zone, minutes = "Asia/Kolkata", (5, 50, 100, 400)
    warehouse = landed(tmp_path, [*(visit(f"v{n}", ago) for n, ago in enumerate(minutes)), visit("v-mistaken", 50)])
    live = tmp_path / "live"
    pl.DataFrame({"hospital_id": ["H1"], "hospital_name": ["One"], "time_zone": [zone]}).write_parquet(
        live / "hospitals.parquet"
    )
    # As committed: one that has landed, too, one who has left, one elsewhere, one registered by mistake.
    before = [NOW - timedelta(minutes=ago) for ago in (5, 130, 10, 50)]
    pl.DataFrame(
        {
            "visit_id": ["v0", "left", "other", "v-mistaken"],
            "hospital_id": ["H1", "H1", "H2", "H1"],
            "arrival_at": before,
            "is_cancelled": [False, False, False, True],
        }
    ).write_parquet(live / "recent_arrivals.parquet")
    clock = NOW.astimezone(ZoneInfo(zone))
    rows = [("H1", clock.date(), hour, hour / 2, hour, hour + 2) for hour in range(24)]
    names = ("hospital_id", "target_date", "hour_of_day", "expected_arrivals", "p10_count", "p90_count")
    pl.DataFrame(rows, schema=names, orient="row").write_parquet(live / "expected_arrivals.parquet")
    hours = read_board(warehouse, NOW, b"key", "H1").hours
    assert [hour.starts_at.replace(tzinfo=None) for hour in hours] == [
        clock.replace(minute=0, second=0, microsecond=0, tzinfo=None) + timedelta(hours=ahead) for ahead in range(-6, 6)
    ]
    came = dict.fromkeys((hour.starts_at for hour in hours[:7]), 0)
    for ago in (*minutes, 130):
        label = (clock - timedelta(minutes=ago)).replace(minute=0, second=0, microsecond=0, tzinfo=None)
        if label in came:
            came[label] += 1
    assert sum(came.values()) >= 4 and [hour.came for hour in hours] == [*came.values(), *[None] * 5]
    for hour in hours:
        known = hour.starts_at.date() == clock.date()
        assert hour.expected == (hour.starts_at.hour / 2 if known else None)
    page = LiveBoard(warehouse, lambda: NOW, lambda: True).page(User("ann", "admin"), "H1")
    assert "Arrivals by the hour" in page and "so far" in page
    # Hospitals of two zones have no hour in common.
    pl.DataFrame(
        {"hospital_id": ["H1", "H2"], "hospital_name": ["One", "Two"], "time_zone": [zone, "UTC"]}
    ).write_parquet(live / "hospitals.parquet")
    assert read_board(warehouse, NOW, b"key").hours == ()


def test_the_board_is_ordered_by_response_then_level_then_minutes_past_target(tmp_path: Path) -> None:
    warehouse = landed(
        tmp_path,
        [
            visit("late3", 50),
            visit("later3", 80),
            visit("two", 5, triage_level=2),
            visit("five", 300, triage_level=5),
            visit("sick", 1, triage_level=5),
            visit("red", 1, triage_level=4),
            visit("seen", 90, provider_at=NOW),
            visit("gone", 90, departure_at=NOW),
            visit("untriaged", 10, triage_level=None),
        ],
        [news2("sick", 9), news2("red", 3, red=True), news2("two", 4)],
    )
    board = read_board(warehouse, NOW, b"key")
    names = {
        reference_of(n, b"key"): n
        for n in ("late3", "later3", "two", "five", "sick", "red", "untriaged", "seen", "gone")
    }
    assert [names[row.reference] for row in board.waiting] == [
        "sick",
        "red",
        "two",
        "later3",
        "late3",
        "five",
        "untriaged",
    ]
    tiles = {tile.label: tile.value for tile in board.tiles()}
    assert (
        tiles["Waiting now"] == "7"
        and tiles["In treatment"] == "1"
        and tiles["NEWS2 7 or more"] == "1"
        and tiles["Past triage target"] == "3"
    )
    assert board.waiting[3].action == "50 min past target"


def test_news2_is_not_shown_for_children(tmp_path: Path) -> None:
    board = read_board(landed(tmp_path, [visit("child", 5, age_years=15)], [news2("child", 9, red=True)]), NOW, b"key")
    (row,) = board.waiting
    assert (row.is_adult, row.news2, row.band, row.action) == (False, None, 2, "")


def test_who_is_not_triaged_in_time_is_late_and_near_the_top(tmp_path: Path) -> None:
    rows = [
        visit("child", 366, triage_level=None, age_years=4),
        visit("new", 14, triage_level=None),
        visit("one", 3, triage_level=1),
        visit("three", 70),
    ]
    board = read_board(landed(tmp_path, rows), NOW, b"key")
    child = board.waiting[1]
    assert [row.triage_level for row in board.waiting] == [1, None, 3, None]
    assert child.reference == reference_of("child", b"key") and child.action == "351 min past triage time"
    tiles = {tile.label: tile for tile in board.tiles()}
    assert tiles["Not triaged over 15 min"][1:] == ("1", "patients", "urgent", child.reference)
    assert tiles["Longest wait"].of_whom == child.reference
    page = LiveBoard(tmp_path / "hospital.duckdb", lambda: NOW, lambda: True).page(User("ann", "admin"))
    assert page.count("untriaged-late") == 1 and "inf" not in page


def test_everybody_in_the_department_is_on_the_board(tmp_path: Path) -> None:
    ago = partial(timedelta, minutes=1)
    rows = [
        visit("boards", 300, provider_at=NOW - 250 * ago(), decision_at=NOW - 60 * ago(), disposition="admitted"),
        visit("goes home", 90, provider_at=NOW - 40 * ago(), decision_at=NOW - 5 * ago(), disposition="home"),
        visit("treated", 90, provider_at=NOW - 30 * ago(), doctor_id="D1"),
        visit("undecided where to", 90, provider_at=NOW - 20 * ago(), decision_at=NOW - ago(), disposition=None),
        visit("waits", 5),
        visit("left", 90, departure_at=NOW),
        visit("never left", 60 * 73, provider_at=NOW - ago(), recorded_at=NOW),
    ]
    warehouse = landed(tmp_path, rows)
    folder = tmp_path / "live"
    pl.DataFrame({"doctor_id": ["D1"], "full_name": ["Dr. Ada Ng"]}).write_parquet(folder / "doctors.parquet")
    pl.DataFrame({"stay_id": ["treated"], "bed_id": ["B7"]}).write_parquet(folder / "open_stays.parquet")
    hospitals = {"hospital_id": ["H1"], "hospital_name": ["Lakeside"], "time_zone": ["America/Chicago"]}
    pl.DataFrame(hospitals).write_parquet(folder / "hospitals.parquet")
    board = read_board(warehouse, NOW, b"key")
    names = {reference_of(str(row["visit_id"]), b"key"): row["visit_id"] for row in rows}
    assert [(names[row.reference], row.status, row.status_minutes) for row in board.patients] == [
        ("waits", "waiting", 5.0),
        ("goes home", "in treatment", 40.0),
        ("treated", "in treatment", 30.0),
        ("undecided where to", "in treatment", 20.0),
        ("boards", "boarding", 60.0),
    ]
    treated = board.patients[2]
    assert (treated.doctor, treated.bed, treated.hospital_name) == ("Dr. Ada Ng", "B7", "Lakeside")
    assert (treated.waited_minutes, treated.action, board.left_open) == (60.0, "", 1)
    assert board.zone == "America/Chicago" and f"{board.local(NOW):%Z}" in ("CST", "CDT")


def test_who_is_known_to_have_left_is_not_on_the_board(tmp_path: Path) -> None:
    """A movement may have ended a visit of which the landed record, loaded since, says nothing."""
    warehouse = landed(tmp_path, [visit(name, 30) for name in ("there", "left", "back")])
    loaded = {"there": None, "left": NOW - timedelta(minutes=30), "back": NOW - timedelta(minutes=40)}
    ended = pl.DataFrame([{"visit_id": name, "recorded_at": at} for name, at in loaded.items() if at])
    ended.write_parquet(tmp_path / "live" / "ended_visits.parquet")
    # What landed after all that the warehouse knows counts.
    assert {row.reference for row in read_board(warehouse, NOW, b"key").patients} == {
        reference_of(name, b"key") for name in ("there", "back")
    }


def test_the_trend_of_news2_is_against_the_score_before(tmp_path: Path) -> None:
    warehouse = landed(tmp_path, [visit("a", 30), visit("b", 20)], [news2("a", 6)])
    before = pl.DataFrame([visit("a", 30), visit("b", 20)]).with_columns(
        is_cancelled=pl.lit(False),
        news2_score=pl.lit(2),
        has_news2_red_parameter=pl.lit(False),
        measured_at=pl.lit(NOW - timedelta(minutes=20)),
        previous_news2_score=pl.lit(4),
        previous_measured_at=pl.lit(NOW - timedelta(minutes=50)),
    )
    before.write_parquet(tmp_path / "live" / "open_visits.parquet")
    board = read_board(warehouse, NOW, b"key")
    assert [(row.news2, row.news2_change) for row in board.patients] == [(6, 4), (2, -2)]


def test_open_alerts_are_on_the_board_of_their_hospital_and_name_the_row(tmp_path: Path) -> None:
    def alert(number: str, subject: str, hospital: str | None, severity: str, by: str = "") -> dict[str, object]:
        return {
            "alert_id": number,
            "subject": subject,
            "hospital_id": hospital,
            "department_name": "Emergency",
            "severity": severity,
            "summary": f"summary {number}",
            "acknowledged_by": by,
            "opened_at": (NOW - timedelta(minutes=7)).isoformat(),
        }

    alerts = [
        alert("a1", "secret", "H1", "warning"),
        alert("a2", "a", "H1", "critical", by="eve"),
        alert("a3", "a", "H1", "critical"),
        alert("a4", "feed", None, "error"),
    ]
    taken: list[tuple[str, str]] = []

    def take_care(alert_id: str, by: str) -> bool:
        taken.append((alert_id, by))
        return True

    board = LiveBoard(landed(tmp_path, [visit("a", 5)]), lambda: NOW, lambda: True, lambda: alerts, take_care)
    ann, whole = User("ann", "doctor", "H1"), User("bob", "admin")
    found = read_board(board.warehouse_file, NOW, b"key", "H1", alerts)
    assert [(a.alert_id, a.since_minutes) for a in found.alerts] == [("a3", 7.0), ("a1", 7.0), ("a2", 7.0)]
    assert found.alerts[0].reference == found.patients[0].reference
    page = board.page(ann)
    assert "secret" not in page and "summary a4" not in page and "summary a4" in board.page(whole)
    assert not board.acknowledge(ann, "a4") and not board.acknowledge(ann, "none")
    assert board.acknowledge(ann, "a3") and taken == [("a3", "ann")]


def test_a_hospital_can_be_chosen_by_who_sees_all(shown: Settings) -> None:
    with serve(shown) as running:
        names = running.dashboard.board.hospitals(User("bob", "admin"))
        page = requests.get(running.address + "/live?hospital=H1", timeout=120).text
        assert "H1" in names and f'<option value="H1" selected>{names["H1"]}' in page
        assert 'data-stream="/live/events?hospital=H1"' in page
        assert running.seen[-1].statement == "view live?hospital=H1"
        assert 'data-stream="/live/events"' in requests.get(running.address + "/live?hospital=nope", timeout=120).text
        assert running.dashboard.board.hospitals(User("ann", "doctor", "H1")) == {}


def test_an_old_board_is_grey_and_says_so_in_words(tmp_path: Path) -> None:
    warehouse = landed(tmp_path, [visit("a", 31)])
    board = LiveBoard(warehouse, lambda: NOW, lambda: True)
    page = board.page(User("ann", "admin"))
    assert 'class="outdated"' in page and "Stale: do not rely on this board" in page and "31 min old" in page
    landed(tmp_path, [visit("b", 1)])
    assert 'class="outdated"' not in board.page(User("ann", "admin"))


def test_a_board_is_as_old_as_the_newest_record_of_the_hospital_silent_for_longest(tmp_path: Path) -> None:
    left = visit("left", 90, departure_at=NOW - timedelta(minutes=21), recorded_at=NOW - timedelta(minutes=20))
    warehouse = landed(tmp_path, [left])
    # As committed; of a clock that is far ahead nothing is known.
    hours = [("H1", -5), ("H2", -4), ("H2", -30), ("H2", 24)]
    pl.DataFrame(
        [(hospital, NOW + timedelta(hours=ahead)) for hospital, ahead in hours],
        schema=["hospital_id", "recorded_at"],
        orient="row",
    ).write_parquet(tmp_path / "live" / "newest_records.parquet")
    boards = {name: read_board(warehouse, NOW, b"key", name) for name in ("H1", "H2", "H3", "all")}
    assert {name: (board.newest_of, board.newest_minutes, board.is_stale) for name, board in boards.items()} == {
        "H1": ("H1", 20, False),
        "H2": ("H2", 240, True),
        "H3": ("H3", None, True),
        "all": ("H2", 240, True),
    }
    live = LiveBoard(warehouse, lambda: NOW, lambda: True)
    pages = {name: live.page(User("ann", "admin"), name) for name in boards}
    assert "Nobody is in the department" in pages["H1"] and 'class="outdated"' not in pages["H1"]
    for name, says in (("H2", "of H2 is 4 h old"), ("H3", "No record has landed"), ("all", "of H2 is 4 h old")):
        assert says in pages[name] and "Nobody is known to be in the department" in pages[name]
    waiting = {name: live.today(User("ann", "admin"), name)[0] for name in boards}
    assert [card.value for card in waiting.values()] == ["0", *["\u2013"] * 3]
    assert waiting["H1"].detail == "0 in treatment, 0 boarding; newest record 20 min old"
    assert waiting["H3"].detail == "unknown: no record has landed of late"


def test_the_overview_says_who_waits_now_and_what_is_open(tmp_path: Path) -> None:
    seen = visit("c", 60, provider_at=NOW - timedelta(minutes=20))
    warehouse = landed(tmp_path, [visit("a", 12), visit("b", 47, recorded_at=NOW - timedelta(minutes=4)), seen])
    board = replace(read_board(warehouse, NOW, b"key"), alerts=(OpenAlert("1", "urgent", "many wait", "", "", 3, ""),))
    waiting, opened_alerts = now(board)
    assert waiting.value == "2" and waiting.detail.startswith("longest 47 min, ")
    assert "1 in treatment, 0 boarding; newest record 4 min old" in waiting.detail
    assert opened_alerts.value == "1" and opened_alerts.detail == "1 not taken care of; urgent: many wait"
    stale, _ = now(replace(board, newest_at=NOW - timedelta(minutes=31)))
    assert stale.value == "\u2013" and stale.detail == "unknown: the newest record of H1 is 31 min old"


def test_who_waits_now_changes_on_a_page_that_is_remembered(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = served.dashboard.store._pages
    shown = {}
    for waiting in ("77", "78"):
        card_of_now = figures.Card("waiting-now", "Waiting now", waiting)
        monkeypatch.setattr(LiveBoard, "today", lambda board, viewer, hospital, now=card_of_now: (now,))
        shown[waiting] = get(served, "/overview?hospital=H1")
        assert card(shown[waiting], "waiting-now") == waiting
    assert shown["77"].replace("<strong>77<", "<strong>78<") == shown["78"]
    # The slice was made once.
    assert sum(key[2] == "overview" and key[3].hospital == "H1" for key in pages) == 1


def test_newer_records_replace_older_ones_and_old_open_records_are_counted_apart(tmp_path: Path) -> None:
    landed(tmp_path, [visit("a", 30), visit("old", 25 * 60, recorded_at=NOW)])
    warehouse = landed(tmp_path, [visit("a", 30, triage_level=1, recorded_at=NOW)])
    landed(tmp_path, [visit("a", 30, triage_level=5, recorded_at=NOW - timedelta(hours=2))])
    board = read_board(warehouse, NOW, b"key")
    assert [row.triage_level for row in board.waiting] == [1] and board.left_open == 1


def test_references_say_nothing_about_the_visit(tmp_path: Path) -> None:
    board = LiveBoard(landed(tmp_path, [visit("V000123", 5)]), lambda: NOW, lambda: True)
    shown = board.page(User("ann", "doctor", "H1"))
    assert "000123" not in shown and "PV000123" not in shown and re.search(r">[A-Z2-7]{4}-[A-Z2-7]{4}<", shown)
    assert "No record has landed of late" in board.page(User("bob", "doctor", "H2"))


def test_no_two_visits_of_a_board_have_the_same_reference() -> None:
    visits = [f"V{number:08d}" for number in range(20_000)]
    assert len({reference_of(visit, b"key") for visit in visits}) == len(visits)


def test_what_lands_is_pushed_to_the_browser(tmp_path: Path) -> None:
    board = LiveBoard(landed(tmp_path, [visit("a", 5)]), lambda: NOW, lambda: True)

    async def follow() -> list[str]:
        stream = board.stream(User("ann", "admin"))
        events = [await anext(stream) for _ in range(3)]
        await asyncio.to_thread(landed, tmp_path, [visit("b", 9, triage_level=1)])
        events.append(await asyncio.wait_for(anext(stream), 5))
        await stream.aclose()  # type: ignore[attr-defined]
        return events

    events = asyncio.run(follow())
    assert [event.split("\n")[0] for event in events] == ["retry: 1000", "event: board", "event: beat", "event: board"]
    first, second = (json.loads(events[i].split("data: ")[1]) for i in (1, 3))
    assert first.count("<tr class=") == 1 and second.count("<tr class=") == 2


def test_the_board_of_a_built_network_agrees_with_its_facts(shown: Settings) -> None:
    board = read_board(shown.warehouse_file, NOW, b"key")
    (count,) = query(
        shown,
        f"select count(*) from facts.fact_emergency_visits where is_open and provider_at is null and not is_cancelled "
        "and service_date >= date '2026-03-11' and arrival_at between timestamptz "
        f"'{NOW - timedelta(hours=24)}' and timestamptz '{NOW}'",
    ).row(0)
    assert len(board.waiting) == count


# --- what is served


def test_every_script_is_ours_and_changes_the_release() -> None:
    """No code of others is committed: what is served stands in these few files."""
    assert {path.name for path in (FOLDER / "static").iterdir()} == {"app.css", "app.js", "icon.svg", "tips.js"}
    assert max(path.stat().st_size for path in (FOLDER / "static").iterdir()) < 30_000


@pytest.mark.slow
def test_the_dashboard_costs_nothing_until_it_runs() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, hospital_assets.definitions; "
            "print([m for m in ('uvicorn', 'hospital_assets.dashboard.app') if m in sys.modules])",
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout.strip() == "[]"


# --- the report


def test_the_overview_report_is_one_file_with_the_executives_figures(shown: Settings, served: Served) -> None:
    from hospital_assets.reports.overview import as_page

    version, page = as_page(shown.data_dir, "executive")
    assert not re.search(r"<script|<link|src=|https?://|<a |javascript:", page)
    executives = open_mart(served, "executive")
    assert executives.version == version and version in page
    (visits,) = (
        row["visit_count"]
        for row in executives.rows(
            "select visit_count from kpis.kpi_waits where hospital_id = 'all' "
            "and department_name = 'all' and triage_group = 'all'"
        )
    )
    assert card(page, "visits") == f"{visits:,}" and visits % 5 == 0
    assert "What the figures mean" in page and "CIHI and Ontario" in page


def test_files_loaded_after_a_publication_are_not_taken_for_shown(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    published_at = datetime.now(UTC) - timedelta(hours=1)
    assert loaded_after(settings, published_at) is None  # nothing was ever loaded
    copy = ledger_copy(settings.warehouse_file)
    copy.parent.mkdir(parents=True)
    copy.touch()

    def loaded(minutes_ago: float) -> datetime | None:
        moment = datetime.now(UTC).timestamp() - minutes_ago * 60
        os.utime(copy, (moment, moment))
        return loaded_after(settings, published_at)

    assert loaded(90) is None  # before it was published
    assert loaded(1) is None  # on its way to the pages
    late = loaded(20)
    assert late is not None and late > published_at


def test_a_page_is_stale_when_old_or_when_newer_files_are_not_in_it() -> None:
    def words(hours_old: float, not_shown_since: datetime | None) -> str:
        dashboard = SimpleNamespace(now=lambda: NOW, not_shown_since=lambda published_at: not_shown_since)
        mart = SimpleNamespace(data_as_of=NOW - timedelta(hours=hours_old), published_at=NOW)
        return _stale(dashboard, mart)  # type: ignore[arg-type]

    assert words(1, None) == ""
    assert words(50, None).startswith("These data are 50 hours old")
    assert words(1, datetime(2026, 3, 1, 9, 30, tzinfo=UTC)).startswith("Files loaded at 2026-03-01 09:30 UTC are not")
