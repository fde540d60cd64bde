"""Figures of the dashboard one by one: ways, trends, what-if, links to Dagster, what is kept how long."""

from __future__ import annotations

import itertools
import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator
from dataclasses import asdict, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import duckdb
import polars as pl
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from hospital_assets import charts
from hospital_assets.automation.build import BuildReport
from hospital_assets.automation.schedules import overview_page_schedule
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.forecasts import QUANTILE_COLUMNS, QUEUE
from hospital_assets.contracts.table import Measure
from hospital_assets.dashboard.figures import Away, Card, Column, Figure, Page, control_charts
from hospital_assets.dashboard.mart import Mart, Measured, Row, over_time, visits_since
from hospital_assets.dashboard.pages import forecast_queries
from hospital_assets.dashboard.pages.capacity_queries import (
    boarding_by_destination,
    occupancy,
    occupancy_by_hour,
    occupancy_now,
)
from hospital_assets.dashboard.pages.conditions_queries import condition_trends, is_by_month
from hospital_assets.dashboard.pages.deterioration import deterioration
from hospital_assets.dashboard.pages.deterioration_queries import intervals
from hospital_assets.dashboard.pages.flow import flow
from hospital_assets.dashboard.pages.forecast import forecast
from hospital_assets.dashboard.pages.forecast_queries import FORECAST_OF, accuracy
from hospital_assets.dashboard.pages.forecast_queries import today as queried_today
from hospital_assets.dashboard.pages.governance import retention_queue
from hospital_assets.dashboard.pages.menu import MENU
from hospital_assets.dashboard.pages.overview import _before
from hospital_assets.dashboard.pages.overview_queries import arrivals_by_hour
from hospital_assets.dashboard.pages.quality import quality, sight_of
from hospital_assets.dashboard.pages.shared import doctors_card
from hospital_assets.dashboard.pages.shared_queries import active_doctors, equity, people, rate
from hospital_assets.dashboard.pages.today import today
from hospital_assets.dashboard.pages.workforce_queries import shift_patterns, staff_by_hour, workload
from hospital_assets.dashboard.pages.workforce_rosters import _mean_waits, week_ahead
from hospital_assets.dashboard.render import cell, render
from hospital_assets.dashboard.serve import publish_first
from hospital_assets.dashboard.slices import Known, Slice, read_slice
from hospital_assets.dashboard.spc import Control
from hospital_assets.dashboard.store import open_mart
from hospital_assets.files import replace_text
from hospital_assets.measures.thresholds import IMMEDIATE_MINUTES
from hospital_assets.publishing.policy import load_policy, shipped_policy
from hospital_assets.publishing.publications import current_version, published_audiences, published_folder
from hospital_assets.settings import Settings, SettingsError, load_settings
from hospital_assets_tests.dashboards import published, serve
from hospital_assets_tests.helpers import query

NOW = datetime(2026, 3, 12, 20, tzinfo=UTC)


@pytest.fixture(scope="module")
def shown(built: tuple[Settings, BuildReport], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return published(built[0], tmp_path_factory.mktemp("figures") / "data", ("admin",))


@pytest.fixture(scope="module")
def admin(shown: Settings) -> Iterator[Mart]:
    found = open_mart(shown.data_dir, "admin")
    yield found
    found.connection.close()


def figure(page: Page, name: str) -> Figure:
    return next(found for found in page.figures if found.id == name)


def in_memory(first: date, last: date) -> Mart:
    """A mart without tables, over some days."""
    found = Mart(duckdb.connect(), "admin", "1", NOW, NOW, 11)
    found.__dict__["known"] = Known(first, last, last, {"H1": "One"}, ("Emergency",), {}, {})
    return found


#: Days on which somebody came, as in kpi_arrivals_hourly.
DAYS_OF_ARRIVALS = """
create table kpis.kpi_waits_daily as
select service_date, hospital_id, 'all' as department_name, 'all' as triage_group,
       sum(arrivals_count) as visit_count, 0 as excluded_cancelled_count
from kpis.kpi_arrivals_hourly group by all having visit_count > 0;
"""


def in_progress(first: date) -> Mart:
    """Ten days, of which the last is in progress."""
    mart = in_memory(first, first + timedelta(days=9))
    mart.__dict__["known"] = replace(mart.known, complete_until=first + timedelta(days=8))
    return mart


# --- chance


@pytest.mark.parametrize("baselines_from", [(), (date(2025, 2, 10),)])
def test_no_slice_moves_the_limits_of_a_series(baselines_from: tuple[date, ...]) -> None:
    """A long series of which a slice reads a part, with days of too few patients, or none, among its first."""
    first = date(2024, 1, 10)
    chance = random.Random(5)
    rows = [
        (first + timedelta(days=i), chance.randrange(5, 9), chance.choice((0, 3, 20, 30)))
        for i in range(900)
        if chance.random() > 0.3
    ]
    mart = in_memory(first, first + timedelta(days=899))
    mart.baselines_from = baselines_from
    mart.connection.execute("create table t (day date, wait double, n bigint)")
    mart.connection.executemany("insert into t values (?, ?, ?)", rows)
    measured = {"wait": Measured("wait", "n"), "visits": Measured("n", "n", 1, is_count=True)}

    def control(where: Slice, name: str) -> Control:
        found = over_time(mart, where, "from t where day between $first and $last", measured, "coalesce(sum(n),0) as n")
        assert found.total["n"] == sum(n for day, _, n in rows if where.first <= day <= where.last)
        return control_charts(mart, where, {name: (found.points[name], "lower")})[name]

    for name in measured:
        seen: dict[date, Any] = {}
        for start, days in ((0, 130), (60, 130), (190, 7), (320, 30), (330, 130), (640, 28), (640, 1), (870, 30)):
            where = Slice("days", first + timedelta(days=start), first + timedelta(days=start + days - 1))
            for point in control(where, name).points:
                assert seen.setdefault(point.day, point) == point
        limits = {point.limits for point in seen.values()}
        assert len(limits) == 1 + len(baselines_from) and None not in limits


# --- today and tomorrow


def test_today_is_compared_with_the_same_weekdays_up_to_the_same_hour_of_each_hospitals_clock() -> None:
    """An arrival an hour at H1, two at H2; at 11:30 and 9:30 on a Wednesday eleven and nine hours are over."""
    mart = in_memory(date(2026, 1, 1), date(2026, 3, 11))
    mart.data_as_of = datetime(2026, 3, 11, 15, 30, tzinfo=UTC)
    mart.connection.execute(
        f"""
        create schema kpis; create schema dimensions;
        create table dimensions.dim_hospital as select * from (
            values (1, 'H1', 'America/New_York'), (2, 'H2', 'America/Denver')) t(hospital_key, hospital_id, time_zone);
        create table kpis.kpi_arrivals_hourly as
        select date '2026-01-01' + d::integer as service_date, h as hour_of_day, hospital_id,
               n + (d = 62 and h = 3)::integer as arrivals_count
        from range(69) a(d), range(24) b(h), (values ('H1', 1), ('H2', 2)) c(hospital_id, n)
        union all select date '2026-03-11', h, 'H1', 3 from range(10) b(h)
        union all select date '2026-03-11', h, 'H2', 2 from range(9) b(h);
        {DAYS_OF_ARRIVALS}
        """
    )
    whole, one = (Slice("all", mart.known.first, mart.known.last, hospital) for hospital in ("all", "H1"))
    found = queried_today(mart, whole)
    assert found is not None and (found["weeks"], found["is_one_hour"]) == (8, False)
    assert (found["arrivals"], found["so_far_low"], found["so_far_median"], found["so_far_high"]) == (48, 29, 29, 31)
    cards = {card.id: card for card in today(mart, one)}
    arrived = cards["today-arrivals"]
    assert (arrived.label, arrived.value) == ("Arrived on Wednesday 11 Mar so far", "30")
    usual = "by 11:00; 11, 11 to 12 on the last eight Wednesdays: more than on any of them"
    assert arrived.detail == usual
    assert [(card.value, card.detail) for card in today(mart, one)][1:] == [("\u2013", "no forecast yet")] * 2
    mart.data_as_of += timedelta(days=2)
    later = today(mart, one)[0]
    assert later.value == "\u2013" and later.detail.startswith("none of this day is published yet; usual by 11:00: 11")
    mart.data_as_of = datetime(2026, 1, 9, 15, 30, tzinfo=UTC)
    assert today(mart, one)[0].detail == "by 10:00"


def test_what_came_so_far_is_compared_with_what_came_to_the_same_hospitals_on_days_they_delivered() -> None:
    """Ten an hour at each of three; H2 has not delivered today, H3 began two weeks ago, H1 left a Wednesday out."""
    mart = in_memory(date(2026, 1, 1), date(2026, 3, 11))
    mart.data_as_of = datetime(2026, 3, 11, 12, 30, tzinfo=UTC)
    mart.connection.execute(
        f"""
        create schema kpis; create schema dimensions;
        create table dimensions.dim_hospital as
        select n as hospital_key, 'H' || n as hospital_id, 'UTC' as time_zone from range(1, 4) t(n);
        create table kpis.kpi_arrivals_hourly as
        select date '2026-01-01' + d::integer as service_date, h as hour_of_day, hospital_id,
               if(d < begins or d = missing, 0, 10) as arrivals_count
        from range(70) a(d), range(24) b(h),
             (values ('H1', 0, 62), ('H2', 0, 69), ('H3', 55, 0)) c(hospital_id, begins, missing);
        {DAYS_OF_ARRIVALS}
        """
    )

    def arrived(hospital: str) -> Card:
        return today(mart, Slice("all", mart.known.first, mart.known.last, hospital))[0]

    usual = "as usual: 120, 120 to 120 on the last seven Wednesdays"
    assert (arrived("H1").value, arrived("H1").detail) == ("120", f"by 12:00; {usual}")
    assert (arrived("H2").value, arrived("H2").detail.partition(";")[0]) == (
        "\u2013",
        "none of this day is published yet",
    )
    assert (arrived("H3").value, arrived("H3").detail) == ("120", "by 12:00")
    # Of the weeks that H3 was there for, H1 left one out.
    assert (arrived("all").value, arrived("all").detail) == ("240", "by 12:00, at 2 of 3 hospitals")
    # Where three come on a day, there are days on which nobody does.
    mart.connection.execute("update kpis.kpi_waits_daily set visit_count = 3 where hospital_id = 'H2'")
    assert arrived("H2").value == "0" and arrived("all").detail == "by 12:00"


def test_what_was_not_delivered_is_unknown_beside_a_forecast() -> None:
    """H2 begins on the fifth and leaves the eighth out."""
    mart = in_memory(date(2026, 3, 1), date(2026, 3, 10))
    names = ", ".join(f"1 as {name}" for name in QUANTILE_COLUMNS)
    mart.connection.execute(
        f"""
        create schema kpis; create schema forecasts;
        create table kpis.kpi_arrivals_hourly as
        select date '2026-03-01' + d::integer as service_date, 9 as hour_of_day, hospital_id,
               if(hospital_id = 'H2' and (d < 4 or d = 7), 0, 20) as arrivals_count
        from range(10) a(d), (values ('H1'), ('H2')) c(hospital_id);
        {DAYS_OF_ARRIVALS}
        create table forecasts.forecast_arrivals_daily as
        select date '2026-03-10' as service_date, hospital_id, date '2026-03-11' + d::integer as target_date,
               null as holiday_name, true as is_shipped, 'slot_mean' as method, 20.0 as expected_arrivals, {names}
        from range(14) a(d), (values ('H1'), ('H2'), ('all')) c(hospital_id);
        """
    )
    for hospital, actual in (
        ("H1", [20] * 10),
        ("H2", [20] * 3 + [None] + [20] * 2),
        ("all", [20] * 4 + [40] * 3 + [None] + [40] * 2),
    ):
        where = Slice("all", mart.known.first, mart.known.last, hospital)
        rows = forecast_queries.daily_forecast(mart, where)
        assert [row["actual"] for row in rows[:-14]] == actual
        assert forecast(mart, where).cards[0].value == "140"


def test_what_is_expected_is_the_newest_forecast_that_ships_of_that_day() -> None:
    mart = in_memory(date(2026, 3, 1), date(2026, 3, 11))
    mart.data_as_of = datetime(2026, 3, 11, 15, 30, tzinfo=UTC)
    mart.connection.execute(
        f"""
        create schema kpis; create schema dimensions; create schema forecasts;
        create table dimensions.dim_hospital as select 1 as hospital_key, 'H1' as hospital_id, 'UTC' as time_zone;
        create table kpis.kpi_arrivals_hourly as
        select date '2026-03-11' as service_date, 0 as hour_of_day, 'H1' as hospital_id, 1 as arrivals_count;
        {DAYS_OF_ARRIVALS}
        create table forecasts.forecast_arrivals_daily as
        select made::date as service_date, hospital as hospital_id, target::date as target_date, method, expected
               as expected_arrivals, 0 as p025_count, low as p10_count, 0 as p25_count, 0 as p50_count, 0 as p75_count,
               high as p90_count, 0 as p975_count, method <> 'slot_mean' as is_shipped
        from (values ('2026-03-09', 'H1', '2026-03-11', 'regression', 99.0, 1, 2),
                     ('2026-03-10', 'H1', '2026-03-11', 'regression', 50.4, 40, 61),
                     ('2026-03-10', 'H1', '2026-03-11', 'slot_mean', 70.0, 1, 2),
                     ('2026-03-10', 'H2', '2026-03-11', 'regression', 80.0, 1, 2))
             t(made, hospital, target, method, expected, low, high);
        """
    )
    _, this, next_ = today(mart, Slice("all", mart.known.first, mart.known.last, "H1"))
    assert (this.label, this.value, this.detail) == (
        "Expected on Wednesday 11 Mar",
        "50",
        "40 to 61 on four of five such days",
    )
    assert (next_.label, next_.value) == ("Expected on Thursday 12 Mar", "\u2013")


def test_each_hospital_has_its_own_newest_forecast_and_who_is_missing_from_all_is_named() -> None:
    """H2 was known until the 9th, the others until the 10th; of all there are forecasts from the 9th, then the 10th."""
    mart = in_memory(date(2026, 3, 1), date(2026, 3, 11))
    mart.data_as_of = datetime(2026, 3, 11, 15, 30, tzinfo=UTC)
    mart.connection.execute(
        """
        create schema kpis; create schema dimensions; create schema forecasts;
        create table dimensions.dim_hospital as
        select n as hospital_key, 'H' || n as hospital_id, 'UTC' as time_zone from range(1, 4) a(n);
        create table kpis.kpi_arrivals_hourly as
        select date '2026-03-11' as service_date, 0 as hour_of_day, 'H1' as hospital_id, 1 as arrivals_count;
        create table kpis.kpi_waits_daily as
        select date '2026-03-11' as service_date, 'H1' as hospital_id, 'all' as department_name, 'all' as triage_group,
               1 as visit_count, 0 as excluded_cancelled_count;
        create table forecasts.forecast_arrivals_daily as
        select made::date as service_date, hospital as hospital_id, made::date + d::integer as target_date,
               d as horizon_days, 'regression' as method, n + d as expected_arrivals, 0 as p025_count, 1 as p10_count,
               0 as p25_count, 0 as p50_count, 0 as p75_count, 2 as p90_count, 0 as p975_count, null as holiday_name,
               true as is_shipped
        from range(1, 15) a(d), (values ('2026-03-09', 'H1', 100), ('2026-03-10', 'H1', 200), ('2026-03-09', 'H2', 10),
                                        ('2026-03-09', 'all', 110), ('2026-02-01', 'H3', 1)) t(made, hospital, n);
        create table forecasts.forecast_wait_methods as
        select made::date as service_date, hospital as hospital_id, method, 'better' as method_reason,
               28 as origins_count, 1.0 as median_skill_pct, 1.0 as high_skill_pct
        from (values ('2026-03-09', 'H1', 'same_hour'), ('2026-03-10', 'H1', 'queue_simulation'),
                     ('2026-03-09', 'H2', 'queue_simulation'),
                     ('2026-02-01', 'H3', 'same_hour')) t(made, hospital, method);
        create table forecasts.kpi_wait_forecast_accuracy as
        select 'H1' as hospital_id, 'all' as horizon_band, 'queue_simulation' as method, 1 as forecasts_count,
               1.0 as wait_mae_minutes;
        """
    )
    slices = {name: Slice("all", mart.known.first, mart.known.last, name) for name in ("H1", "H2", "H3", "all")}

    def expected() -> dict[str, list[str]]:
        return {name: [card.value for card in today(mart, where)[1:]] for name, where in slices.items()}

    def ahead(name: str) -> list[tuple[date, int]]:
        rows = forecast_queries.daily_forecast(mart, slices[name])
        return [(row["day"], row["expected"]) for row in rows if row["expected"] is not None]

    assert expected() == {"H1": ["201", "202"], "H2": ["12", "13"], "H3": ["\u2013"] * 2, "all": ["112", "113"]}
    # What is said of days that are over, at some hospital or long ago, is no forecast any more.
    assert ahead("H2")[0] == (date(2026, 3, 10), 11) and len(ahead("H2")) == 14 and ahead("H3") == []
    methods = {row["hospital_id"]: row["method"] for row in forecast_queries.wait_methods(mart, slices["all"])}
    assert methods == {"H1": QUEUE, "H2": QUEUE}
    assert forecast_queries.wait_methods(mart, slices["H2"])[0]["method"] == QUEUE
    assert "without" not in today(mart, slices["all"])[1].detail
    mart.connection.execute(
        "insert into forecasts.forecast_arrivals_daily select * replace ('all' as hospital_id) "
        "from forecasts.forecast_arrivals_daily where service_date = '2026-03-10'"
    )
    assert expected()["all"] == ["201", "202"]
    missing = "without H2, whose day is not known"
    assert [missing in card.detail for card in today(mart, slices["all"])] == [False, True, True]
    assert missing in forecast(mart, slices["all"]).cards[0].detail
    assert not any("without" in card.detail for name in ("H1", "H2") for card in today(mart, slices[name]))


def test_the_week_ahead_is_the_newest_suggestion() -> None:
    mart = in_memory(date(2026, 3, 1), date(2026, 3, 11))
    one, both = (Slice("all", mart.known.first, mart.known.last, hospital) for hospital in ("H1", "all"))
    assert {shown.kind for shown in week_ahead(in_memory(date(2026, 3, 1), date(2026, 3, 11)), one)} == {"empty"}
    mart.connection.execute(
        """
        create schema forecasts;
        create table forecasts.staffing_need_hourly as
        select made::date as service_date, hospital as hospital_id, made::date + 1 as target_date, hour as hour_of_day,
               role as staff_role, 4.5 as offered_load, need as needed_count, present as present_count,
               suggested as suggested_count, case hospital when 'H1' then 50.0 else 12.5 end as expected_arrivals
        from (values ('2026-03-01', 'H1', 7, 'doctor', 9, 1, 9), ('2026-03-08', 'H1', 7, 'doctor', 2, 1, 2),
                     ('2026-03-08', 'H1', 8, 'doctor', 2, 2, 2), ('2026-03-08', 'H2', 7, 'doctor', 1, 3, null),
                     ('2026-03-08', 'H1', 7, 'nurse', 5, null, null))
             t(made, hospital, hour, role, need, present, suggested);
        create table forecasts.forecast_waits_hourly as
        select made::date as service_date, 'H1' as hospital_id, date '2026-03-09' as target_date, hour as hour_of_day,
               low as mean_wait_p10_minutes, 9.0 as mean_wait_p50_minutes, high as mean_wait_p90_minutes,
               0.0 as over_60_pct, 90.0 as within_target_pct, 28 as days_count, method
        from (values ('2026-03-07', 8, 5.0, 99.0, 'same_hour'), ('2026-03-08', 7, 5.0, 30.0, 'queue_simulation'),
                     ('2026-03-08', 8, 5.0, 40.0, 'queue_simulation'), ('2026-03-08', 8, 5.0, 90.0, 'same_hour'))
             t(made, hour, low, high, method);
        create table forecasts.forecast_wait_methods as
        select made::date as service_date, hospital as hospital_id, method, reason as method_reason,
               28 as origins_count, 12.0 as median_skill_pct, 20.0 as high_skill_pct
        from (values ('2026-03-07', 'H1', 'same_hour', 'not_better'),
                     ('2026-03-08', 'H2', 'same_hour', 'not_simulated'),
                     ('2026-03-08', 'H1', 'queue_simulation', 'better')) t(made, hospital, method, reason);
        create table forecasts.kpi_wait_forecast_accuracy as
        select 'H1' as hospital_id, 'all' as horizon_band, method, n as forecasts_count, mae as wait_mae_minutes
        from (values ('queue_simulation', 100, 6.0), ('queue_simulation', 300, 10.0), ('same_hour', 400, 10.5))
             t(method, n, mae);
        create table forecasts.kpi_staffing_realised as
        select made::date as service_date, hospital as hospital_id, roster, wait as wait_mean_minutes,
               came as arrivals_count, unseen as unseen_pct
        from (values ('2026-03-01', 'H1', 'present', 90.0, 300, 0.0), ('2026-03-08', 'H1', 'present', 21.0, 300, 0.0),
                     ('2026-03-08', 'H1', 'suggested', 17.0, 300, 0.0),
                     ('2026-03-08', 'H2', 'present', 61.0, 200, 50.0),
                     ('2026-03-08', 'H2', 'suggested', 57.0, 100, 0.0))
             t(made, hospital, roster, wait, came, unseen);
        create table forecasts.staffing_shifts_suggested as
        select date '2026-03-08' as service_date, 'H1' as hospital_id, date '2026-03-09' as target_date,
               hour as hour_of_day, 8.0 as shift_hours, present as present_count, suggested as suggested_count
        from (values (7, 1, 1), (9, 0, 1), (11, 1, 0)) t(hour, present, suggested);
        create table forecasts.kpi_staffing_comparison as
        select date '2026-03-08' as service_date, hospital as hospital_id, roster, outcome as suggestion_outcome,
               16.0 as doctor_hours, 2.0 as moved_hours, n as replicates_count, wait::double as wait_mean_minutes,
               wait - 2 as wait_mean_low_minutes, wait + 2 as wait_mean_high_minutes, 2 * wait as wait_p90_minutes,
               1.0 as unseen_pct, 0.5 as unseen_low_pct, 1.5 as unseen_high_pct, 90.0 as within_target_pct,
               88.0 as within_target_low_pct, 92.0 as within_target_high_pct, 95.0 as better_weeks_pct
        from (values ('H1', 'by_shape', 'suggested', 20, 17.0), ('H1', 'present', 'suggested', 20, 20.0),
                     ('H1', 'suggested', 'suggested', 20, 16.0), ('H2', 'present', 'no_queue', 0, null))
             t(hospital, roster, outcome, n, wait);
        """
    )
    need, compared, shifts, nurses, waits = week_ahead(mart, one)
    assert need.title == "Fewer doctors than needed in 1 of 2 hours; most short Mon 07:00" and len(need.rows) == 2
    assert [shown["name"] for shown in need.spec["lines"]] == ["present roster", "needed", "suggested"]
    more, fewer = (week_ahead(mart, replace(one, doctors=n))[0] for n in (2, -9))
    assert more.title == "The present roster has the doctors needed in every hour, with 2 more in each"
    assert fewer.title.startswith("Fewer doctors than needed in 2 of 2 hours, with 9 fewer in each; most short")
    assert fewer.spec["lines"][0]["values"] == [0, 0] and fewer.what_if is not None and fewer.what_if.value == -9
    asked = [read_slice({"doctors": value}, mart.known).doctors for value in ("3", "-2", "-99", "--1", "many", "")]
    assert asked == [3, -2, -9, 0, 0, 0]
    assert compared.title == "Same hours, other shifts: mean wait 20.0 to 16.0 min, simulated"
    assert [row[1] for row in compared.rows] == ["present", "suggested", "without the forecast"]
    assert compared.rows[1][5] == "14.0 to 18.0" and compared.note.startswith("Of the 4.0 min, 3.0 are gained without")
    assert "in the week to 8 March would have waited 17.0 min by the roster suggested for it, 21.0" in compared.note
    assert shifts.title == "2 shifts would be added or dropped"
    assert [row[1:] for row in shifts.rows] == [
        ["07:00, 8 h", "1"],
        ["09:00, 8 h", "0 \u2192 1"],
        ["11:00, 8 h", "1 \u2192 0"],
    ]
    assert nurses.rows[0][-1] == 5 and "RCN" in nurses.note
    assert waits.title == "Longest waits expected Mon 08:00: 5 to 40 min" and len(waits.spec["bands"]) == 1
    assert "simulated with the known roster" in waits.subtitle and "was better" in waits.note and len(waits.rows) == 2
    made = figure(forecast(mart, both), "wait-methods")
    assert made.title == "Waits are simulated at 1 of 2 hospitals"
    assert made.rows[0][0] == "H1" and made.rows[0][3:] == [28, 12.0, 20.0, 9.0, 10.5]
    assert made.rows[1][0] == "H2" and "was not known" in str(made.rows[1][2]) and made.rows[1][6:] == [None, None]
    need, compared, *_, waits = week_ahead(mart, both)
    assert waits.kind == "empty" and "Choose a hospital" in waits.subtitle
    # One of two hospitals has no suggestion: no roster of both is drawn, and the reason is there.
    assert len(need.spec["lines"]) == 2 and need.rows[0][2:5] == [3, 4, 1]
    supposed = week_ahead(mart, replace(both, doctors=1))[0]
    assert supposed.rows[0][2:5] == [3, 6, 0] and supposed.what_if is not None
    assert supposed.what_if.label.endswith("in every hour of each hospital")
    # A doctor too many at one is of no use to the other.
    assert need.title == "Fewer doctors than needed at some hospital in 1 of 2 hours; most short Mon 07:00"
    assert "H2: no roster is suggested: there is hardly ever a queue" in compared.note
    # Three in four of who came and were seen came to H1: 21 and 61 minutes are 31.
    assert "would have waited 27.0 min by the roster suggested for it, 31.0 by the one worked" in compared.note
    assert "without" not in need.subtitle
    mart.connection.execute(
        "insert into forecasts.kpi_staffing_comparison "
        "select * replace (date '2026-03-01' as service_date, 'H3' as hospital_id) "
        "from forecasts.kpi_staffing_comparison"
    )
    need, *_, nurses, _ = week_ahead(mart, both)
    assert need.subtitle.endswith("; without H3, whose day is not known") and nurses.subtitle.endswith("not known")


def test_rosters_of_several_hospitals_are_compared_by_who_is_seen() -> None:
    rows = [
        {"hospital_id": hospital, "roster": roster, "wait_mean_minutes": wait, "seen": seen}
        for hospital, roster, wait, seen in (
            ("H1", "present", 10.0, 900.0),
            ("H1", "suggested", 8.0, 900.0),
            ("H1", "by_shape", 9.0, 900.0),
            ("H2", "present", 60.0, 90.0),
            ("H2", "suggested", 50.0, 100.0),
            ("H3", "present", 500.0, 900.0),
        )
    ]
    assert _mean_waits(rows) == pytest.approx([14400 / 990, 12200 / 1000, 13500 / 990])
    assert _mean_waits(rows[-1:]) == []


def test_a_longer_point_is_the_ratio_of_its_sums() -> None:
    """Of days of 15 and 60 patients in 15 hours each, a week has 4 and 3: 240 in 105 hours."""
    first = date(2025, 1, 6)
    mart = in_memory(first, first + timedelta(days=199))
    mart.connection.execute(
        """
        create schema kpis; create schema dimensions;
        create table dimensions.dim_hospital as select 1 as hospital_key, 'H1' as hospital_id;
        create table dimensions.dim_department as select 1 as department_key, 'Emergency' as department_name;
        create table kpis.kpi_physician_workload as select 1 as doctor_key, 1 as hospital_key, 3000.0 as shift_hours;
        create table kpis.kpi_physician_workload_daily as select date '2025-01-06' + i::int as service_date,
               1 as doctor_key, if(i % 2 = 0, 15, 60) as visit_count, 15.0 as shift_hours from range(200) t(i);
        create table kpis.kpi_occupancy_daily as select date '2025-01-06' + i::int as service_date, 'H1' as hospital_id,
               'all inpatient' as department_name, 100 as bed_capacity,
               if(i % 7 = 0, 72000, 144000) as staffed_bed_minutes,
               if(i % 7 = 0, 72000, 0) as occupied_bed_minutes from range(200) t(i);
        """
    )
    where = Slice("all", first, mart.known.last, is_whole=True)
    assert where.grain == "week"
    point = workload(mart, where).points["load"][0]
    assert (point.value, point.n) == (pytest.approx(240 / 105), 240)
    # On the first day of each week half of the beds are staffed, and full.
    assert occupancy(mart, where).points["occupancy"][0].value == pytest.approx(100 * 72 / (72 + 6 * 144))


@pytest.mark.parametrize(
    ("zones", "day", "hours"),
    [
        (["America/Chicago"], date(2026, 11, 1), list(range(24))),
        (["America/Chicago"], date(2026, 3, 8), [h for h in range(24) if h != 2]),
        (["America/Chicago", "America/Phoenix"], date(2026, 3, 8), [h for h in range(24) if h != 2]),
    ],
)
def test_the_census_by_hour_has_every_patient_once_when_clocks_change(
    zones: list[str], day: date, hours: list[int]
) -> None:
    mart = in_memory(day, day)
    rows = []
    for key, name in enumerate(zones, start=1):
        zone = ZoneInfo(name)
        start = datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
        end = datetime(day.year, day.month, day.day + 1, tzinfo=zone).astimezone(UTC)
        for n in range((end - start) // timedelta(hours=1)):
            at = start + timedelta(hours=n)
            local = at.astimezone(zone).replace(tzinfo=None)
            rows.append((day, f"D{key}", at.replace(tzinfo=None), key, local, 60.0, 600.0, 10 + n))
    mart.connection.execute(
        "create schema facts; create schema dimensions; "
        "create table dimensions.dim_hospital as select 1 as hospital_key, 'H1' as hospital_id; "
        "create table dimensions.dim_department as select 1 as department_key, 'Emergency' as department_name; "
        "create table facts.fact_bed_occupancy (service_date date, department_id varchar, hour_start_at timestamp, "
        "hospital_key bigint, hour_start_local timestamp, hour_minutes double, staffed_bed_minutes double, "
        "patients_at_start_count bigint)"
    )
    mart.connection.executemany("insert into facts.fact_bed_occupancy values (?, ?, ?, ?, ?, ?, ?, ?)", rows)
    found = occupancy_by_hour(mart, Slice("all", day, day))
    assert [row["hour_local"].hour for row in found] == hours
    assert {row["beds"] for row in found} == {10.0 * len(zones)}
    assert found[1]["patients_count"] == 11 * len(zones)


def test_what_doctors_without_a_roster_see_is_in_nobodys_hours() -> None:
    """H1 has a roster, H2 none: 100 patients in 50 hours a day, and 300 besides."""
    first = date(2026, 1, 5)
    mart = in_memory(first, first + timedelta(days=27))
    mart.connection.execute(
        """
        create schema kpis; create schema dimensions;
        create table dimensions.dim_hospital as select n as hospital_key, 'H' || n as hospital_id from range(1, 3) t(n);
        create table dimensions.dim_department as select 1 as department_key, 'Emergency' as department_name;
        create table kpis.kpi_physician_workload_daily as select date '2026-01-05' + i::int as service_date,
               d as doctor_key, if(d = 1, 100, 300) as visit_count, if(d = 1, 50.0, 0.0) as shift_hours
        from range(28) t(i), range(1, 3) u(d);
        create table kpis.kpi_physician_workload as select doctor_key, doctor_key as hospital_key,
               sum(shift_hours) as shift_hours from kpis.kpi_physician_workload_daily group by all;
        """
    )
    where = Slice("all", first, mart.known.last, is_whole=True)
    assert {point.value for point in workload(mart, where).points["load"]} == {2.0}
    card = doctors_card(active_doctors(mart, where))
    assert (card.value, card.detail) == ("2", "2.00 new patients per shift hour")
    # A night of the day in progress is still to come.
    today = first + timedelta(days=28)
    mart.connection.execute("insert into kpis.kpi_physician_workload_daily values (?, 1, 2, 50.0)", [today])
    assert doctors_card(active_doctors(mart, replace(where, last=today))) == card
    alone = replace(where, hospital="H2")
    assert workload(mart, alone).points["load"] == []
    assert doctors_card(active_doctors(mart, alone)).detail == "8,400 visits"


def test_a_day_on_which_nobody_came_is_no_point_of_who_left() -> None:
    """On the fifth day nobody came to H1: of who stayed over night nobody left within four hours."""
    mart = in_memory(date(2026, 3, 1), date(2026, 3, 10))
    mart.connection.execute(
        """
        create schema kpis;
        create table kpis.kpi_waits_daily as select date '2026-03-01' + i::int as service_date, h as hospital_id
        from range(10) t(i), (values ('all'), ('H1'), ('H2')) u(h) where h <> 'H1' or i <> 4;
        create table kpis.kpi_four_hour_daily as select service_date, hospital_id, service_date + late as period_date,
               n as denominator_count, if(late = 0, n, 0) as numerator_count, 0 as over_12_hours_count
        from kpis.kpi_waits_daily, (values (0, 20), (1, 15)) t(late, n);
        """
    )
    for hospital, days in (("H1", [1, 2, 3, 4, 6, 7, 8, 9, 10]), ("H2", list(range(1, 11)))):
        found = rate(mart, Slice("all", mart.known.first, mart.known.last, hospital), "four_hour")
        assert [point.day.day for point in found.points["four_hour"]] == days
        # In the total they are all the same.
        assert found.total["denominator_count"] == 20 * len(days) + 15 * (len(days) - 1)


def test_an_average_of_the_busiest_days_is_none_of_all() -> None:
    """Where few patients are protected, quiet days have no sums: of one day in fifty nobody may speak for all."""
    mart = in_memory(date(2026, 1, 1), date(2026, 2, 19))
    mart.connection.execute(
        """
        create schema kpis;
        create table kpis.kpi_boarding_daily as select date '2026-01-01' + i::int as service_date, 'all' as hospital_id,
               d as destination_department, 10 as denominator_count, 1 as numerator_count, 0 as over_12_hours_count,
               if(i >= shown, null, 10 * minutes) as boarding_sum_minutes
        from range(50) t(i), (values ('Cardiology', 1, 824.0), ('Surgery', 25, 300.0), ('ICU', 50, 200.0))
             u(d, shown, minutes);
        """
    )
    rows = boarding_by_destination(mart, Slice("all", mart.known.first, mart.known.last))
    found = {row["destination_department"]: (row["denominator_count"], row["average_minutes"]) for row in rows}
    assert found == {"Cardiology": (500, None), "Surgery": (500, 300), "ICU": (500, 200)}


def test_hours_before_a_hospital_began_are_none_without_patients() -> None:
    """H2 joins H1 after 60 days; both see two an hour with a doctor on."""
    first = date(2026, 1, 5)
    mart = in_memory(first, first + timedelta(days=69))
    mart.connection.execute(
        f"""
        create schema kpis;
        create table kpis.kpi_staffing_hourly as
        select date '2026-01-05' + i::int as service_date, h as hospital_id, 1 + i % 7 as iso_weekday_number,
               hour as hour_of_day, 1 as existing_hours_count, if(h = 'H1' or i >= 60, 2, 0) as arrivals_count,
               if(h = 'H1' or i >= 60, 1, 0) as staffed_hours_count, 1 as attendings_sum_count
        from range(70) t(i), (values ('H1'), ('H2')) u(h), range(24) v(hour);
        create table kpis.kpi_arrivals_hourly as from kpis.kpi_staffing_hourly;
        {DAYS_OF_ARRIVALS}
        """
    )
    for hospital, days in (("H1", 70), ("H2", 10), ("all", 80)):
        where = Slice("all", first, mart.known.last, hospital, is_whole=True)
        rows = arrivals_by_hour(mart, where)
        assert {row["arrivals_per_hour"] for row in rows} == {2.0}
        assert sum(row["existing_hours_count"] for row in rows) == 24 * days
        assert {row["per_doctor"] for row in staff_by_hour(mart, where)} == {2.0}
    # On the day in progress nobody has come yet to the hours ahead.
    mart.__dict__["known"] = replace(mart.known, complete_until=mart.known.last - timedelta(days=1))
    for table in ("arrivals", "staffing"):
        mart.connection.execute(
            f"update kpis.kpi_{table}_hourly set arrivals_count = 0 where service_date = $1 and hour_of_day > 6",
            [mart.known.last],
        )
    assert {row["arrivals_per_hour"] for row in arrivals_by_hour(mart, where)} == {2.0}
    assert {row["per_doctor"] for row in staff_by_hour(mart, where)} == {2.0}


def test_a_day_in_progress_is_not_compared_with_whole_ones() -> None:
    first = date(2026, 3, 1)
    mart = in_progress(first)
    mart.connection.execute(
        "create schema kpis; create table kpis.kpi_waits_daily as select date '2026-03-01' + i::int as service_date, "
        "h as hospital_id, 'all' as department_name, 'all' as triage_group, if(i = 9, 4, 21) as visit_count, "
        "1 as excluded_cancelled_count, 20 as wait_count, 200.0 as wait_sum_minutes, 9.0 as wait_median_minutes, "
        "20.0 as wait_p90_minutes, 30.0 as wait_max_minutes from range(10) t(i), "
        "(values ('H1', 0), ('H2', 8), ('all', 0)) u(h, begins) where i >= begins"
    )
    whole, begun = (Slice("days", first + timedelta(days=n), first + timedelta(days=n), "H1") for n in (8, 9))
    before = _before(mart, whole)
    # Visits are those that were not cancelled.
    assert before is not None and before["visit_count"] == 20 and _before(mart, begun) is None
    # Nor what came to two hospitals with what had come to one of them.
    assert (
        _before(mart, replace(whole, hospital="all")) is None and _before(mart, replace(whole, hospital="H2")) is None
    )


def test_departments_are_shown_on_a_day_that_is_over() -> None:
    """On the day in progress, two hours old, nobody can say how full it will have been."""
    first = date(2026, 3, 1)
    mart = in_progress(first)
    mart.connection.execute(
        "create schema kpis; create table kpis.kpi_occupancy_daily as select "
        "date '2026-03-01' + i::int as service_date, 'H1' as hospital_id, 'ICU' as department_name, "
        "10 as bed_capacity, 5 as midnight_patients_count, 50.0 as midnight_pct, "
        "if(i = 9, 100.0, 60.0) as time_weighted_pct, 10 as peak_patients_count, 100.0 as peak_pct from range(10) t(i)"
    )
    shown = {
        days: [(row["service_date"].day, row["time_weighted_pct"]) for row in occupancy_now(mart, where)]
        for days, where in (
            ("all", Slice("all", first, mart.known.last)),
            ("begun", Slice("days", mart.known.last, mart.known.last)),
        )
    }
    assert shown == {"all": [(9, 60.0)], "begun": [(10, 100.0)]}


def test_at_once_is_a_target_of_the_minutes_that_the_kpi_takes_for_it(admin: Mart) -> None:
    assert admin.known.targets_minutes["1"] == IMMEDIATE_MINUTES and admin.known.targets_minutes["3"] == 30


def test_forecasts_that_did_not_ship_do_not_count_as_if_they_had() -> None:
    mart = in_memory(date(2026, 3, 1), date(2026, 3, 11))
    mart.connection.execute(
        """
        create schema forecasts;
        create table forecasts.kpi_forecast_accuracy as
        select 'H1' as hospital_id, 'day' as grain, 'all' as horizon_band, method, n as forecasts_count,
               shipped as shipped_count, 100 * n as arrivals_count, mae, 0.0 as bias, pit as pit_80_pct,
               skill as skill_pct
        from (values ('regression', 400, 100, 4.0, 80.0, 10.0), ('slot_mean', 400, 300, 8.0, 84.0, 0.0),
                     ('boosted_trees', 400, 0, 99.0, 10.0, null)) t(method, n, shipped, mae, pit, skill);
        """
    )
    assert accuracy(mart, Slice("all", mart.known.first, mart.known.last, "H1")) == {
        "forecasts_count": 400,
        "mean": 100.0,
        "mae": 7.0,
        "bias": 0.0,
        "pit_80_pct": 83.0,
        "skill_pct": 2.5,
    }


# --- ways through the department


@given(st.lists(st.integers(1, 5000), min_size=4, max_size=24), st.integers(1, 4))
def test_ribbons_fill_their_nodes_and_stay_inside(counts: list[int], starts: int) -> None:
    pairs = list(itertools.islice(itertools.cycle(itertools.product(range(starts), range(3))), len(counts)))
    flows = [
        {"column": 0, "start": a, "end": b, "value": n, "style": "t1"} for (a, b), n in zip(pairs, counts, strict=True)
    ]
    columns = [
        {
            "name": side,
            "nodes": [{"name": str(i), "value": sum(f["value"] for f in flows if f[side] == i)} for i in range(size)],
        }
        for side, size in (("start", starts), ("end", 3))
    ]
    drawn = charts.sankey({"columns": columns, "flows": flows}, 1300, 360)
    nodes = [float(h) for h in re.findall(r'class="node"[^>]* height="([\d.]+)"', drawn)]
    bottoms = re.findall(r'class="node" x="[\d.]+" y="([\d.]+)"[^>]* height="([\d.]+)"', drawn)
    assert len(nodes) == starts + 3 and all(float(y) + float(h) <= 360 for y, h in bottoms)
    ribbons = re.findall(r'class="flow t1" d="M[\d.]+ ([\d.]+)C[^V]+V([\d.]+)C[^Z]*? ([\d.]+) [\d.]+ ([\d.]+)Z"', drawn)
    assert len(ribbons) == len(flows)
    total = sum(counts)
    # A column's heights are its counts on one scale, and ribbons are as thick as what they carry.
    scale = (360 - 24 - 10 - 17 * (max(starts, 3) - 1)) / total
    thick = sum(float(low) - float(top) for top, _, _, low in ribbons)
    assert thick == pytest.approx(scale * total, abs=0.2 * len(ribbons) + 0.5)


def test_ways_are_the_visits_of_the_facts(shown: Settings, admin: Mart) -> None:
    where = read_slice({"hospital": "H1"}, admin.known)
    ways = figure(flow(admin, where), "pathways")
    assert ways.kind == "sankey" and ways.rows
    of = {(row[0], row[1]): row[2] for row in ways.rows}
    wanted = query(
        shown,
        "select arrival_mode, triage_level, count(*) as n from facts.fact_emergency_visits "
        "join dimensions.dim_hospital using (hospital_key) "
        "where not is_cancelled and hospital_id = 'H1' group by all",
    )
    for mode, level, n in wanted.iter_rows():
        name = "Not triaged" if level is None else f"{level} {admin.known.triage[str(level)]}"
        assert of[mode.replace("_", " ").capitalize(), name] == n
    assert ways.n == wanted["n"].sum()


def test_stages_and_handovers_are_those_of_the_visits(shown: Settings, admin: Mart) -> None:
    page = flow(admin, read_slice({"hospital": "H1"}, admin.known))
    visits = "facts.fact_emergency_visits join dimensions.dim_hospital using (hospital_key) where hospital_id = 'H1'"
    wanted = query(
        shown,
        "select count(*), count(room_at), avg(epoch(room_at - triage_at) / 60) filter (room_at >= triage_at), "
        f"count(departure_at) from {visits} and not is_cancelled",
    ).row(0)
    of = {row[0]: row for row in figure(page, "stages").rows}
    assert (of["Arrival"][1], of["Treatment room"][1], of["Departure"][1]) == (wanted[0], wanted[1], wanted[3])
    assert of["Treatment room"][4] == pytest.approx(wanted[2])
    minutes = "epoch(handover_at - arrival_at) / 60"
    late = query(
        shown,
        f"select count(*), count(*) filter ({minutes} > 15), count(*) filter ({minutes} > 30), "
        f"count(*) filter ({minutes} > 60) from {visits} and not is_cancelled and arrival_mode = 'ambulance' "
        "and handover_at >= arrival_at",
    ).row(0)
    handovers = figure(page, "handovers")
    assert (handovers.n, *(row[2] for row in handovers.rows)) == late


def test_shifts_and_rests_are_those_of_the_facts(shown: Settings, admin: Mart) -> None:
    row = shift_patterns(admin, read_slice({}, admin.known))
    assert row is not None
    wanted = query(
        shown,
        "with s as (select *, hour(timezone(time_zone, shift_start_at)) >= 21 as is_night, "
        "epoch(shift_start_at - lag(shift_end_at) over w) / 3600 as rest from facts.fact_doctor_shifts "
        "join dimensions.dim_hospital using (hospital_key) "
        "window w as (partition by doctor_key order by shift_start_at, shift_id)) "
        "select count(*), count(*) filter (shift_hours >= 12), count(*) filter (is_night), count(*) filter (rest >= 0),"
        " count(*) filter (rest >= 0 and rest < 11) from s",
    ).row(0)
    names = ("shifts_count", "long_count", "nights_count", "rests_count", "short_rest_count")
    assert tuple(row[name] for name in names) == wanted


def test_observations_are_those_of_the_facts(shown: Settings, admin: Mart) -> None:
    where = read_slice({"hospital": "H1", "department": "Emergency"}, admin.known)
    page = deterioration(admin, where)
    sets = (
        "with v as (select *, least(arrival_at, triage_at) as start_at from facts.fact_emergency_visits "
        "join dimensions.dim_hospital using (hospital_key) join dimensions.dim_department using (department_key) "
        "where dim_hospital.hospital_id = 'H1' and department_name = 'Emergency' and not is_cancelled), "
        "o as (select v.*, measured_at, observation_id, news2_score, news2_missing_count, news2_response, "
        "f.age_years as set_age, lead(measured_at) over (partition by visit_id order by measured_at, observation_id) "
        "as next_at from v join facts.fact_vitals f using (visit_id) "
        "where measured_at >= start_at and measured_at <= coalesce(departure_at, arrival_at + interval 3 days)) "
    )
    (scored, sick) = query(shown, f"{sets} select count(news2_score), count(*) filter (news2_score >= 7) from o").row(0)
    bands = figure(page, "bands")
    assert bands.n == scored
    shares = [(row[1], row[-1]) for row in bands.rows]
    assert sum(n * share / 100 for n, share in shares if share is not None) <= sick + 1e-6  # type: ignore[operator]
    in_time = query(
        shown,
        f"{sets} select count(*) from (select visit_id, min(measured_at) as first_at, any_value(start_at) as start_at "
        "from o where news2_missing_count = 0 and visit_id in (select visit_id from v where age_years >= 16) group by 1"
        ") where epoch(first_at - start_at) / 60 <= 15",
    ).item()
    first = figure(page, "first-sets").rows[0]
    assert first[3] == in_time
    urgent = query(
        shown,
        f"{sets} select count(*) filter (epoch(next_at - measured_at) / 60 <= 60), "
        "count(*) filter (epoch(next_at - measured_at) / 60 > 60) from o where news2_score in (5, 6)",
    ).row(0)
    found = intervals(admin, where)["score_5_to_6"]
    assert (found["in_time"], found["late"]) == urgent


# --- each figure and its definition


def only(file: Path, tables: Collection[str]) -> Mart:
    """A publication in which all facts and KPIs but some have no rows."""
    connection = duckdb.connect()
    connection.execute(f"attach '{file}' as published (read_only)")
    found = connection.execute(
        "select schema_name, table_name from duckdb_tables() where database_name = 'published'"
    ).fetchall()
    for schema, table in found:
        connection.execute(f"create schema if not exists {schema}")
        limit = "" if schema == "dimensions" or table in tables else "limit 0"
        connection.execute(f"create table {schema}.{table} as from published.{schema}.{table} {limit}")
    connection.execute("detach published")
    return Mart(connection, "admin", "1", NOW, NOW, 11)


def plain(value: Any) -> Any:
    """What is shown, as plain values; sums of fractions depend on their order."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {name: plain(found) for name, found in value.items()}
    return [plain(found) for found in value] if isinstance(value, list | tuple) else value


def shown_by(mart: Mart) -> dict[tuple[str, str], Card | Figure]:
    """Every card and figure of the pages that are made from a publication."""
    where = read_slice({}, mart.known)
    return {
        (entry.name, f"{type(part).__name__} {part.id}"): part
        for entry in MENU
        if entry.build is not None
        for page in [entry.build(mart, where)]
        for part in (*page.cards, *page.figures)
    }


def tables_of(measure: Measure) -> frozenset[str]:
    """The tables that a definition stands with."""
    with_it = {contract.name for contract in CONTRACTS.values() if measure in contract.measures}
    return frozenset(with_it | ({FORECAST_OF[measure.name]} if measure.name in FORECAST_OF else set()))


@pytest.mark.nightly
def test_every_figure_is_computed_from_the_table_whose_definition_it_opens(
    shown: Settings, admin: Mart, tmp_path: Path
) -> None:
    version = published_folder(shown.data_dir) / "admin" / admin.version
    (file,) = version.glob("*.duckdb")
    copy = Path(shutil.copyfile(file, tmp_path / "publication.duckdb"))
    whole = shown_by(admin)
    assert all(part.measure is not None for part in whole.values()), "a figure without a definition"
    by_tables: dict[frozenset[str], list[tuple[str, str]]] = {}
    for place, part in whole.items():
        assert part.measure is not None
        by_tables.setdefault(tables_of(part.measure), []).append(place)
    nothing = only(copy, ())
    nothing.__dict__["known"] = admin.known
    blank = shown_by(nothing)
    wrong, same = [], []
    for tables, places in by_tables.items():
        mart = only(copy, tables)
        # What can be chosen does not depend on the table.
        mart.__dict__["known"] = admin.known
        alone = shown_by(mart)
        wrong += [p for p in places if p not in alone or plain(asdict(alone[p])) != plain(asdict(whole[p]))]
        # A figure that shows the same without its table is not computed from it.
        same += [place for place in places if blank.get(place) == whole[place] and not is_empty(whole[place])]
        mart.connection.close()
    assert not wrong and not same, (wrong, same)


def is_empty(part: Card | Figure) -> bool:
    return part.kind == "empty" if isinstance(part, Figure) else part.value in ("0", "\u2013")


# --- who came


@pytest.mark.parametrize(
    ("asked", "condition"),
    [
        ({}, ""),
        ({"hospital": "H1"}, "and dim_hospital.hospital_id = 'H1'"),
        ({"triage": "3"}, "and triage_level = 3"),
        (
            {"hospital": "H2", "department": "Emergency"},
            "and dim_hospital.hospital_id = 'H2' and department_name = 'Emergency'",
        ),
    ],
)
def test_who_came_is_who_the_facts_say(shown: Settings, admin: Mart, asked: dict[str, str], condition: str) -> None:
    where = read_slice(asked, admin.known)
    visits = (
        "from facts.fact_emergency_visits join dimensions.dim_hospital using (hospital_key) "
        "join dimensions.dim_department using (department_key) "
        "join dimensions.dim_patient using (patient_key) where not is_cancelled and "
        f"service_date between '{visits_since(where)}' and '{where.last}' {condition}"
    )
    wanted = query(
        shown,
        f"select least(age_years // 10, 9) as decade, sex, count(*) as n {visits} "
        "and age_years is not null group by all",
    )
    alone = people(admin, where).result()
    beside = equity(admin, where).result()
    for rows in (alone, [r for r in beside if r["decade"] is not None]):
        assert {(r["decade"], r["sex"], r["visit_count"]) for r in rows} == set(wanted.iter_rows())
    for characteristic in ("race", "ethnicity", "sex"):
        waits = query(
            shown,
            f"select {characteristic}, count(wait_minutes) as n, avg(wait_minutes) as average, "
            f"stddev_samp(wait_minutes) / sqrt(count(wait_minutes)) as error {visits} group by 1 order by 1",
        )
        rows = [r for r in beside if r["characteristic"] == characteristic]
        assert [(r["category"], r["wait_count"]) for r in rows] == list(waits[:, :2].iter_rows())
        for name in ("average", "error"):
            assert [r[name] for r in rows] == [
                pytest.approx(value) if value is not None else None for value in waits[name]
            ]


# --- trends of diagnoses


@pytest.mark.parametrize(("days", "is_monthly"), [(100, False), (900, True)])
def test_trends_are_whole_weeks_or_months_up_to_the_newest(days: int, is_monthly: bool) -> None:
    first = date(2024, 1, 10)
    last = first + timedelta(days=days - 1)
    found = in_memory(first, last)
    generator = random.Random(days)
    rows = [
        (hospital, first + timedelta(days=i), version, code, generator.randrange(1, 9))
        for i in range(days)
        for hospital in ("H1", "H2")
        # V01.5: contact with rabies in ICD-9, somebody on foot who was hit by a bicycle in ICD-10.
        for version, code in ((10, "J06.9"), (10, "V01.5"), (9, "V01.5"), (9, "J06.9"))
        if generator.random() > 0.3
    ]
    with found.connection as connection:
        connection.execute("create schema kpis")
        connection.execute(
            "create table kpis.kpi_conditions_daily (hospital_id varchar, service_date date, "
            "icd_version integer, icd_code varchar, visit_count bigint)"
        )
        connection.executemany("insert into kpis.kpi_conditions_daily values (?, ?, ?, ?, ?)", rows)
        where = Slice("all", first, last, "H1")
        trends = condition_trends(found, where, [(10, "J06.9"), (10, "V01.5"), (9, "V01.5")])
        assert is_by_month(found) == is_monthly

    def place(day: date) -> int:
        """How many whole weeks or months before the end; 1 for the newest."""
        if is_monthly:
            after = last + timedelta(days=1)
            return (after.year - day.year) * 12 + after.month - day.month
        return (last - day).days // 7 + 1

    for code, values in trends.items():
        assert 2 <= len(values) <= 24
        for back, value in enumerate(reversed(values), start=1):
            assert value == sum(
                n for hospital, day, *c, n in rows if hospital == "H1" and c == [*code] and place(day) == back
            ), (code, back)


def test_diagnoses_of_audiences_without_days_have_no_trend(admin: Mart) -> None:
    found = in_memory(date(2026, 1, 1), date(2026, 3, 1))
    assert condition_trends(found, Slice("all", date(2026, 1, 1), date(2026, 3, 1)), [(10, "I10")]) == {}


# --- what if


def test_supposed_beds_decide_how_full_the_days_are(shown: Settings, admin: Mart) -> None:
    # Not every ward of such a small network has had somebody in it for a week.
    newest = "service_date = (select max(service_date) from forecasts.forecast_beds_daily)"
    wards = query(
        shown,
        "select hospital_id, department_name from forecasts.forecast_beds_daily "
        f"where {newest} and hospital_id <> 'all' and department_name <> 'all inpatient' order by all",
    )
    hospital, ward = wards.row(0)
    where = read_slice({"beds": "400", "hospital": hospital, "department": ward}, admin.known)
    beds = figure(forecast(admin, where), "forecast-beds")
    assert beds.title.startswith("With 400 beds")
    assert beds.what_if is not None and beds.what_if.value == 400
    made = query(
        shown,
        "select target_date, expected_patients, over_capacity_pct from forecasts.forecast_beds_daily "
        f"where hospital_id = '{hospital}' and department_name = '{ward}' and {newest} order by 1",
    )
    assert len(beds.rows) == made.height == 7
    for row, (day, expected, over) in zip(beds.rows, made.iter_rows(), strict=True):
        assert row[0] == day.isoformat() and row[1] == pytest.approx(expected) and row[6] == pytest.approx(over)
        assert row[4] == pytest.approx(100 * expected / 400) and row[5] == pytest.approx(400 - expected)
    plain = figure(
        forecast(admin, read_slice({"hospital": hospital, "department": ward}, admin.known)), "forecast-beds"
    )
    assert plain.what_if is not None and plain.what_if.value != 400


def test_beds_that_change_within_the_week_are_those_of_each_day(admin: Mart, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"day": date(2026, 3, 1 + n), "expected": 9.0, "low": 7, "high": 11, "over": 5.0, "beds": 10 if n < 2 else 9}
        for n in range(7)
    ]
    monkeypatch.setattr(forecast_queries, "beds_forecast", lambda *_: rows)
    beds = figure(forecast(admin, read_slice({}, admin.known)), "forecast-beds")
    assert beds.title == "With 9 to 10 beds, 5 of 7 days are expected over 92 %"
    assert [row[5] for row in beds.rows] == [1.0] * 2 + [0.0] * 5
    assert beds.drawing()


@pytest.mark.parametrize("value", ["", "-3", "1e3", "4 00", "\u0664", "x", "0"])
def test_beds_that_are_no_number_are_those_there_are(admin: Mart, value: str) -> None:
    assert read_slice({"beds": value}, admin.known).beds == 0
    assert read_slice({"beds": "9" * 30}, admin.known).beds == 9999


def test_without_scripts_what_is_supposed_is_a_form_with_the_slice(admin: Mart) -> None:
    where = read_slice({"hospital": "H2"}, admin.known)
    html = render(
        "body.html",
        page=forecast(admin, where),
        has_now=False,
        title="x",
        current="forecast",
        where=where,
        carried="hospital=H2",
        sliced="",
        freshness="",
        stale="",
        is_served=False,
        colophon="",
    )
    form = html.split('<form class="what-if" method="get">')[1].split("</form>")[0]
    assert '<input type="hidden" name="hospital" value="H2">' in form
    assert 'type="range" name="beds"' in form and "<button" in form


# --- data quality


def test_failed_rules_lead_to_their_checks_and_layers_have_their_days(tmp_path: Path) -> None:
    settings = Settings(tmp_path, dagster_url="https://dagster.example")
    gathered = {
        "as_of": "2026-03-12T20:00:00+00:00",
        "scores": [{"layer": "facts", "family": "x", "checks": 10, "passed": 9, "score_pct": 90.0}],
        "failed": [
            {
                "severity": "ERROR",
                "table_name": "fact_vitals",
                "kind": "in_range",
                "column_name": "a",
                "rule": "0 to 1",
                "broken": 3,
                "of": 9,
                "%": 33.3,
                "status": "Failed",
            }
        ],
        "scores_by_day": [
            {"day": day, "layer": layer, "checks": 100, "passed": passed}
            for day, layer, passed in (
                ("2026-03-10", "raw", 99),
                ("2026-03-11", "raw", 98),
                ("2026-03-10", "facts", 80),
                ("2026-03-11", "facts", 90),
            )
        ],
    }
    replace_text(settings.gathered_quality, json.dumps(gathered))
    page = quality(settings)
    (row,) = figure(page, "rules").rows
    (link,) = [found for found in row if isinstance(found, Away)]
    assert link.address == ("https://dagster.example/assets/fact_vitals?view=checks&checkDetail=in_range")
    where = Slice("all", date(2026, 1, 1), date(2026, 1, 2))
    assert cell(link, Column("Kind"), where) == (
        '<a href="https://dagster.example/assets/fact_vitals?view=checks&amp;checkDetail=in_range" '
        'rel="noreferrer">in_range</a>'
    )
    trend = figure(page, "score-trend")
    assert trend.title == "Score over time: facts is lowest, 90.0 %"
    assert [(r[0], r[2], r[3], r[5]) for r in trend.rows] == [("raw", 98.0, 98.0, 2), ("facts", 90.0, 80.0, 2)]


def test_what_was_not_gathered_has_no_number(tmp_path: Path) -> None:
    cards = {card.id: card for card in quality(Settings(tmp_path)).cards}
    for name in ("score", "failed", "quarantined", "balance"):
        assert cards[name].value == "\u2013" and not re.search(r"[0-9]", cards[name].detail)


def test_the_quality_page_is_cut_to_what_an_audience_may_see(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    policy = shipped_policy()
    of = {"subject": "vitals", "rule": "no_time", "description": "no time of measurement"}
    gathered = {
        "as_of": "2026-03-12T00:00:00+00:00",
        "scores": [{"layer": "raw", "family": "f", "checks": 4, "passed": 3, "score_pct": 75.0}],
        "failed": [
            {"severity": "WARN", "table_name": "t", "kind": "k", "column_name": "c", "rule": "r", "status": "Failed"}
            | {"broken": 3, "of": 4, "%": 75.0}
        ],
        "quarantine": [of | {"source_file": "H2/smith_john.csv", "records": 40}],
        "quarantine_by_hospital": [of | {"hospital": "H1", "records": 3}, of | {"hospital": "H2", "records": 37}],
        "drift": [of | {"column": "x", "verdict": "new", "files": 1, "what_to_do": "", "first_file": "smith_john.csv"}],
        "reconciliation": [{"subject": "vitals", "landed": 77, "cleaned": 37, "quarantined": 40, "duplicates": 0}],
    }
    replace_text(settings.gathered_quality, json.dumps(gathered))

    def shown(audience: str) -> str:
        page = quality(settings, sight_of(policy, audience))
        return json.dumps([page.cards, page.figures], default=str)

    admin, doctor, analyst = (shown(audience) for audience in ("admin", "doctor-H1", "analyst"))
    assert "smith_john" in admin and "H2" in admin and "77" in admin
    assert "smith_john" not in doctor + analyst and "77" not in doctor + analyst
    assert "H2" not in doctor and "37" not in doctor and "no time of measurement" in doctor
    # What is cut is not there, instead of reading as none.
    ids = {found.id for found in quality(settings, sight_of(policy, "analyst")).figures}
    assert {"rules", "quarantine", "freshness"} <= ids
    assert not ids & {"by-hospital", "reconciliation", "drift", "states"}
    of_doctor = quality(settings, sight_of(policy, "doctor-H1"))
    (own,) = figure(of_doctor, "by-hospital").rows
    assert own[0] == "H1" and own[-1] == 3 and figure(of_doctor, "quarantine").title == "3 records in quarantine"
    # Nothing was gathered yet: nothing to cut.
    settings.gathered_quality.unlink()
    assert quality(settings, sight_of(policy, "doctor-H1")).figures


@pytest.mark.parametrize(
    ("counts", "shown", "total"),
    [
        ([57], [55], "55"),
        ([3, 52, 13], [50, None, None], "70"),  # 13, too, or the total less the others would be 3
        ([52, 3], [None, None], "55"),
        ([4], [None], None),
        ([10, 10], [None, None], None),  # 20 could be nothing else
    ],
)
def test_no_small_count_of_the_quality_page_follows_from_the_others(
    tmp_path: Path, counts: list[int], shown: list[int | None], total: str | None
) -> None:
    settings = Settings(tmp_path)
    rows = [
        {"subject": "vitals", "rule": f"r{at}", "description": "", "source_file": f"{part}.csv", "records": records}
        for at, count in enumerate(counts)
        for part, records in enumerate((count // 2, count - count // 2))
    ]
    replace_text(settings.gathered_quality, json.dumps({"as_of": "2026-03-12T00:00:00+00:00", "quarantine": rows}))
    page = quality(settings, sight_of(shipped_policy(), "analyst"))
    table = figure(page, "quarantine")
    assert [row[-1] for row in table.rows] == shown
    assert table.title == f"{total or 'Few'} records in quarantine" and "below 11" in table.note
    (card,) = [card for card in page.cards if card.id == "quarantined"]
    assert card.value == (total or "\u2013") and "rounded to 5" in card.detail
    whole = quality(settings, sight_of(shipped_policy(), "admin"))
    assert figure(whole, "quarantine").title == f"{sum(counts)} records in quarantine"


def test_where_dagster_is_stands_in_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "hospital.toml"
    file.write_text('dagster_url = "https://dagster.example/"\n')
    assert load_settings(tmp_path).dagster_url == "https://dagster.example"
    file.write_text('dagster_url = "javascript:alert(1)"\n')
    with pytest.raises(SettingsError, match="http://"):
        load_settings(tmp_path)


# --- what is kept how long


def test_old_versions_are_due_after_the_days_of_the_policy(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    policy = load_policy(settings)
    days = policy.retention.keep_days
    folder = published_folder(tmp_path) / "admin"
    moments = [NOW - timedelta(days=d) for d in (days + 1, days - 1, 0)]
    names = [f"{m:%Y%m%dT%H%M%S%f}Z" for m in moments]
    for name in names:
        (folder / name).mkdir(parents=True)
    (folder / "current.json").write_text(json.dumps({"version": names[-1]}))
    kept = tmp_path / "snapshots"
    kept.mkdir()
    for name in names:
        (kept / f"{name}.duckdb").touch()
    looks = pl.DataFrame(
        [
            ("erase", "person 1", moments[0], None, "allowed"),
            ("erase", "person 1", moments[1], 7, "allowed"),
            ("erase", "person 2", moments[1], None, "allowed"),
            ("view", "view overview", NOW, None, "allowed"),
        ],
        schema={
            "action": pl.String,
            "statement": pl.String,
            "occurred_at": pl.Datetime("us", "UTC"),
            "row_count": pl.Int64,
            "outcome": pl.String,
        },
        orient="row",
    )
    queue = retention_queue(settings, policy, looks, NOW, published_audiences(settings.data_dir))
    due = [(row["what"], row["due"]) for row in queue if row["is_due"]]
    assert sorted(due) == [("Erasure", "at once"), ("Old versions", f"{NOW - timedelta(days=1):%Y-%m-%d}")]
    # What is due stands first, and no erasure says whose it was.
    assert [row["is_due"] for row in queue] == sorted((row["is_due"] for row in queue), reverse=True)
    assert "person 1" not in json.dumps(queue) and "person 2" not in json.dumps(queue)
    states = [row["due"] for row in queue if row["what"] == "Snapshot"]
    assert sorted(states) == ["after 2 more", "after 3 more", "with the next one"]
    assert {row["due"] for row in queue if row["what"] == "Publication"} == {"while it counts"}


# --- the first start, the morning's page


@pytest.mark.slow
def test_a_first_start_publishes_what_there_is(shown: Settings, tmp_path: Path) -> None:
    said: list[str] = []
    publish_first(shown, "admin", said.append)
    assert said == []
    settings = Settings(tmp_path / "data", shown.first_service_date, shown.last_service_date)
    publish_first(settings, "admin", said.append)
    assert "hospital build" in said.pop()
    settings.warehouse_file.parent.mkdir(parents=True)
    shutil.copyfile(shown.warehouse_file, settings.warehouse_file)
    shutil.copyfile(shown.settings_file, settings.settings_file)
    publish_first(settings, "admin", said.append)
    assert len(said) == 1 and "publishing" in said[0]
    assert current_version(settings.data_dir, "admin")


def test_the_overview_is_written_in_the_morning_once_there_is_a_publication(tmp_path: Path) -> None:
    schedule = overview_page_schedule(Settings(tmp_path))

    def asked() -> object:
        return schedule(dg.build_schedule_context(scheduled_execution_time=NOW))

    skipped = asked()
    assert isinstance(skipped, dg.SkipReason) and "hospital publish" in str(skipped.skip_message)
    folder = published_folder(tmp_path) / "executive"
    folder.mkdir(parents=True)
    (folder / "current.json").write_text(json.dumps({"version": "20260312T200000000000Z"}))
    assert isinstance(asked(), dg.RunRequest)


# --- a slice that is too large


def test_a_slice_that_needs_too_much_memory_says_what_to_do(shown: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(shown) as running:
        served_mart = running.dashboard.store.mart("admin")
        assert served_mart.known and served_mart.keys and served_mart.columns

        def too_much(*_: object, **__: object) -> list[Row]:
            raise duckdb.OutOfMemoryException("could not allocate block")

        monkeypatch.setattr(Mart, "rows", too_much)
        for address in ("capacity?hospital=H2", "capacity.csv?figure=wards"):
            answer = requests.get(f"{running.address}/{address}", timeout=120)
            assert answer.status_code == 503 and "choose a shorter period" in answer.text
        monkeypatch.undo()
        assert requests.get(f"{running.address}/capacity?hospital=H2", timeout=120).ok


@pytest.mark.slow
def test_the_server_needs_no_dagster() -> None:
    code = (
        "import sys, hospital_assets.cli, hospital_assets.dashboard.serve, hospital_assets.measures.natural_limits, "
        "hospital_assets.access.gateway, hospital_assets.publishing.publications; "
        "sys.exit('dagster' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
