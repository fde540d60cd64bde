"""Forecasts of arrivals: golden cases that can be checked by hand, each with the usual wrong answer, and skill."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hospital_assets.forecasting import calendar, counts, gate, regression, scores, slots
from hospital_assets.forecasting.counts import Array
from hospital_assets.forecasting.gate import Gate
from hospital_assets.forecasting.network import Network
from hospital_assets.forecasting.series import DAYS_AHEAD, Forecast, Method, Series, series_of, visits_of_band
from hospital_assets.simulator.demand import expected_arrivals
from hospital_assets.simulator.flow import arrivals
from hospital_assets.simulator.network import HOSPITALS
from hospital_assets_tests.helpers import benchmark

CHICAGO = "America/Chicago"
AS_OF = date(2026, 11, 27)
#: As `rolling_origin` of benchmarks/forecast.py gives them.
Backtests = dict[tuple[Method, str], Any]


def means(*values: float) -> Array:
    return np.array(values)


def network_of(hourly: dict[str, Array], last: date = AS_OF, **series: str) -> list[Series]:
    """Series of hospitals whose days x 24 counts end on `last`."""
    found = []
    for name, values in hourly.items():
        first = last - timedelta(days=len(values) - 1)
        by_day = {first + timedelta(days=n): row for n, row in enumerate(values)}
        made = series_of(name, by_day, CHICAGO, last, **series)
        assert made is not None
        found.append(made)
    return found


def drawn(days: int, rate: float = 4.0, seed: int = 1, last: date = AS_OF) -> Array:
    """Counts with a shape of the day and of the week; days x 24."""
    rng = np.random.default_rng(seed)
    shape = 1 + 0.6 * np.sin((np.arange(24) - 9) / 24 * 2 * np.pi)
    week = np.array([1.15, 1.0, 1.0, 0.95, 1.0, 1.05, 0.85])
    weekdays = np.array([(last - timedelta(days=n)).weekday() for n in range(days)][::-1])
    drawn_counts: Array = rng.poisson(rate * week[weekdays][:, None] * shape[None, :]).astype(float)
    return drawn_counts


# Distributions ------------------------------------------------------------------------------------


def test_poisson_quantiles_are_the_smallest_count_that_reaches_the_level() -> None:
    found = counts.quantiles(means(2, 4, 8), 0.0, (0.1, 0.25, 0.5, 0.75, 0.9))
    assert found.tolist() == [[0, 1, 2, 3, 4], [2, 3, 4, 5, 7], [5, 6, 8, 10, 12]]


def test_negative_binomial_is_wider_than_poisson_and_exact_where_a_level_is_just_reached() -> None:
    probabilities = counts.pmf(means(4), 0.25)[0]
    assert probabilities[:4] == pytest.approx([1 / 16, 2 / 16, 2.5 / 16, 2.5 / 16])
    assert probabilities.sum() == pytest.approx(1)
    # CDF(3) is exactly one half: a median of 4 would be rounding.
    assert counts.quantiles(means(4), 0.25, (0.1, 0.5, 0.9)).tolist() == [[1, 3, 8]]
    assert counts.quantiles(means(4), 0.0, (0.1, 0.5, 0.9)).tolist() == [[2, 4, 7]]


def test_a_mean_of_nothing_is_certainly_none() -> None:
    assert counts.quantiles(means(0), 0.1).tolist() == [[0] * len(counts.QUANTILES)]
    assert counts.quantiles(means(0), 0.0).tolist() == [[0] * len(counts.QUANTILES)]


@pytest.mark.parametrize(("mean", "dispersion"), [(0.2, 0.5), (160, 0.01), (3_000, 0.005), (3_000, 0.0)])
def test_distributions_hold_their_mean_and_variance(mean: float, dispersion: float) -> None:
    probabilities = counts.pmf(means(mean), dispersion)[0]
    k = np.arange(len(probabilities))
    assert probabilities.sum() == pytest.approx(1, abs=1e-6)
    assert probabilities @ k == pytest.approx(mean, rel=1e-5)
    assert probabilities @ (k - mean) ** 2 == pytest.approx(mean + dispersion * mean**2, rel=1e-3)


def test_closed_coverage_of_a_perfect_forecast_of_small_counts_is_no_80_percent() -> None:
    assert counts.quantiles(means(2), 0.0, (0.1, 0.9)).tolist() == [[0, 4]]
    assert counts.cdf(means(2), 0.0)[0][4] == pytest.approx(0.9473, abs=5e-5)
    # The randomised PIT of the same forecast is exact.
    probabilities = counts.pmf(means(2), 0.0)[0]
    below = np.concatenate([[0.0], np.cumsum(probabilities)])
    assert probabilities @ scores.pit_share(below[:-1], below[1:], 0.1, 0.9) == pytest.approx(0.8)


def test_dispersion_by_moments() -> None:
    assert counts.estimated_dispersion(means(0, 10, 4, 6), means(5, 5, 5, 5)) == pytest.approx(0.32)
    assert counts.estimated_dispersion(means(5, 5, 5, 5), means(5, 5, 5, 5)) == 0


# Scores -------------------------------------------------------------------------------------------


def test_crps_and_pit_of_poisson_1() -> None:
    found = scores.outcomes(means(0, 1, 3), means(1, 1, 1), 0.0)
    assert found.crps == pytest.approx([0.4762, 0.2120, 1.5229], abs=5e-5)
    assert (found.pit_low[1], found.pit_high[1]) == pytest.approx((0.3679, 0.7358), abs=5e-5)


def test_mase_scales_by_the_seasonal_naive_error_within_the_history() -> None:
    history, came = means(10, 12, 11, 13, 12, 14, 13, 15), means(13, 15, 12, 17)
    naive_scale = benchmark("forecast").naive_scale
    scale = naive_scale(history, 4)
    # The next season repeats the last one.
    assert scale == pytest.approx(2) and np.abs(came - history[-4:]).mean() / scale == pytest.approx(0.625)
    assert scores.pinball(means(10, 14), means(12, 12), 0.9).mean() == pytest.approx(1.0)
    assert naive_scale(means(1, 2), 4) != naive_scale(means(1, 2), 4)


@pytest.mark.parametrize(("rate", "floor"), [(4, 0.704), (8, 0.705)])
def test_the_floor_of_mase_is_what_chance_leaves(rate: float, floor: float) -> None:
    below = np.cumsum(counts.pmf(means(rate), 0.0)[0])
    # The seasonal naive error where nothing else varies: E|X - Y| = 2 sum F (1 - F).
    scale = 2 * np.sum(below * (1 - below))
    assert scores.poisson_floor(means(rate))[0] / scale == pytest.approx(floor, abs=5e-4)


def test_order_statistics_of_eight_weeks_are_no_80_percent_band() -> None:
    """Why the outer band of eight weeks holds 7/9 and the inner one 5/9: any of nine values may be the new one."""
    ranks = np.arange(9)  # of the new value among eight others, all alike
    assert np.mean((ranks > 0) & (ranks < 8)) == pytest.approx(7 / 9)
    assert np.mean((ranks > 1) & (ranks < 7)) == pytest.approx(5 / 9)


# The calendar -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "as_of", "hours"),
    [
        (CHICAGO, date(2026, 3, 6), 47),
        (CHICAGO, date(2026, 10, 30), 49),
        ("America/Phoenix", date(2026, 3, 6), 48),
        ("America/Phoenix", date(2026, 10, 30), 48),
    ],
)
def test_two_days_around_a_change_of_the_clock(zone: str, as_of: date, hours: int) -> None:
    existing = calendar.existing_hours(as_of + timedelta(days=1), 2, zone)
    assert existing.sum() == hours and existing.shape == (2, 24)
    assert 3 * existing.sum() == {47: 141, 48: 144, 49: 147}[hours]


def test_half_an_hour_is_half_an_hour() -> None:
    spring = calendar.existing_hours(date(2026, 10, 4), 1, "Australia/Lord_Howe")[0]
    autumn = calendar.existing_hours(date(2026, 4, 5), 1, "Australia/Lord_Howe")[0]
    assert (spring.sum(), spring[2]) == (23.5, 0.5) and (autumn.sum(), autumn[1]) == (24.5, 1.5)


def test_holidays_are_those_of_the_country_and_region() -> None:
    assert calendar.holiday_calendar("", CHICAGO, "TX") == "US-TX"
    assert calendar.holiday_calendar("", "Europe/Berlin", "somewhere") == "DE"
    assert calendar.holiday_calendar("GB-SCT", "Europe/London", "") == "GB-SCT"
    assert calendar.holiday_calendar("", "US/Central", "TX") == "US-TX"
    assert calendar.holiday_calendar("", "Etc/UTC", "TX") == ""
    assert date(2026, 11, 26) in calendar.public_holidays("US-TX", 2026, 2026)
    boxing_day = date(2025, 12, 26)
    assert boxing_day in calendar.public_holidays("GB-SCT", 2025, 2025)
    assert calendar.public_holidays("", 2026, 2026) == {}


def test_a_zone_has_a_country_by_any_of_its_names() -> None:
    """Whatever a hospital's zone may be called, but for names of clocks, offsets and UTC."""
    names = {"Asia/Calcutta": "IN", "Europe/Kiev": "UA", "GB": "GB", "Singapore": "SG", "Canada/Eastern": "CA"}
    # By the clocks alone these would be Ivory Coast, Panama, Papua New Guinea, and Belgium.
    names |= {
        "Iceland": "IS",
        "America/Coral_Harbour": "CA",
        "Pacific/Yap": "FM",
        "CET": "",
        "EST": "",
        "Etc/GMT+5": "",
    }
    assert {name: calendar.country_of_zone(name) for name in names} == names
    nowhere = {name for name in available_timezones() if not calendar.country_of_zone(name)}
    of_clocks = r"(Etc/.*|GMT.?0?|Greenwich|UCT|UTC|Universal|Zulu|Factory|localtime|[A-Z]{3}|[A-Z]{3}\d[A-Z]{3})"
    assert [name for name in sorted(nowhere) if not re.fullmatch(of_clocks, name)] == []


# The slot mean ------------------------------------------------------------------------------------


def test_rates_are_by_hours_that_existed() -> None:
    """Counts 4, 5, 12 in hours that existed 1, 1 and 2 times: 5.25 an hour; a mean of counts would be 7."""
    came, hours = np.zeros((21, 24)), np.ones((21, 24))
    came[[6, 13, 20], 1], hours[20, 1] = (4, 5, 12), 2
    assert slots.slot_rates(came, hours, 7)[6, 1] == pytest.approx(5.25)


def test_slot_rates_follow_the_weekday_and_only_eight_weeks() -> None:
    weeks = 10
    came = np.repeat(np.arange(7 * weeks, dtype=float)[:, None], 24, axis=1)
    found = slots.slot_rates(came, np.ones_like(came), 14)[:, 0]
    # The day after the last is the weekday of the 14th, 21st, ... of 70 days.
    assert found[0] == pytest.approx(np.mean(np.arange(14, 70, 7))) and found[7] == found[0]
    assert found[6] == pytest.approx(np.mean(np.arange(20, 70, 7)))
    past = slots.slot_rates_a_week_ahead(came, np.ones_like(came))
    assert np.isnan(past[6, 0]) and past[7, 0] == 0 and past[69, 0] == pytest.approx(np.mean(np.arange(13, 69, 7)))


def test_medians_do_not_add_up_and_means_do() -> None:
    first, second = means(0, 0, 3), means(0, 3, 0)
    assert np.median(first) + np.median(second) == 0 and np.median(first + second) == 3
    assert first.mean() + second.mean() == (first + second).mean() == 2


# The regression -----------------------------------------------------------------------------------


def test_without_a_prior_the_rates_are_the_means_of_the_slots() -> None:
    design = regression.Design(
        np.array([0, 0, 1, 1]), np.empty((2, 0)), np.empty((4, 0)), (), slot_precision=0.0, precision=np.empty(0)
    )
    found = regression.fit_poisson(design, means(2, 4, 8, 10), np.ones(4), np.ones(4))
    assert np.exp(found) == pytest.approx([3, 9])
    # A slot of two hours with 4 arrivals has 2 an hour; an hour that did not exist says nothing.
    found = regression.fit_poisson(design, means(4, 0, 8, 10), means(2, 0, 1, 1), np.ones(4))
    assert np.exp(found) == pytest.approx([2, 9])


def _whole(design: regression.Design) -> Array:
    """The design matrix with all its columns."""
    slot = np.eye(len(design.by_slot))[design.slot]
    return np.hstack([slot, design.by_slot[design.slot], design.dense])


def _long_history() -> tuple[regression.Design, Array, Array]:
    values = drawn(600)
    first = AS_OF - timedelta(days=599)
    holidays = calendar.public_holidays("US-TX", first.year, AS_OF.year)
    features = regression.Features.of(600, AS_OF)
    return regression.calendar_design(first, 600, holidays, features), values.ravel(), np.ones(600 * 24)


def test_the_fit_is_the_maximum_of_the_penalised_likelihood() -> None:
    design, came, hours = _long_history()
    b = regression.fit_poisson(design, came, hours, np.ones(len(came)))
    whole = _whole(design)
    assert whole.shape[1] == 226
    slope = whole.T @ (came - np.exp(whole @ b)) - design.priors * b
    assert np.abs(slope).max() < 1e-6
    assert design.predictor(b) == pytest.approx(whole @ b)


@pytest.mark.slow
def test_the_fit_is_that_of_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    design, came, hours = _long_history()
    b = regression.fit_poisson(design, came, hours, np.ones(len(came)))
    # Columns are scaled by their prior, so that one penalty holds for all.
    whole = _whole(design) / np.sqrt(design.priors)[None, :]
    model = linear_model.PoissonRegressor(
        alpha=1 / len(came), fit_intercept=False, solver="newton-cholesky", tol=1e-10, max_iter=500
    ).fit(whole, came)
    assert np.exp(whole @ model.coef_) == pytest.approx(np.exp(design.predictor(b)), rel=1e-6)


@pytest.mark.parametrize(("usual", "more", "factor"), [(63, 7, 1.05692), (56, 14, 1.09717)])
def test_the_level_follows_and_never_overshoots(usual: int, more: int, factor: float) -> None:
    came = np.array([100.0] * usual + [120.0] * more)
    found = regression.level_factors(came, np.full(70, 100.0))[-1]
    assert found == pytest.approx(factor, abs=5e-6) and found < 1.2


def test_the_level_of_a_day_is_what_was_known_before_it() -> None:
    came = np.array([100.0] * 70 + [300.0])
    found = regression.level_factors(came, np.full(71, 100.0))
    assert found[:-1] == pytest.approx(np.ones(71)) and found[-1] > 1.05


def test_a_holiday_is_learned_and_shrunk() -> None:
    """Half as many on three holidays: fewer are forecast for the next one, but not as few."""
    holidays = calendar.public_holidays("US-TX", 2025, 2027)
    values = drawn(180, rate=6, last=date(2026, 12, 24))
    first = date(2026, 12, 24) - timedelta(days=179)
    for n in range(180):
        if first + timedelta(days=n) in holidays:
            values[n] = np.floor(values[n] / 2)
    (series,) = network_of({"H1": values}, date(2026, 12, 24), stated_calendar="US-TX")
    made = series.rival("regression", 179).means.sum(axis=1)
    # Friday 25 December and 1 January are holidays; Friday the 8th does not lie ahead, Thursday the 7th does.
    christmas, new_year, ordinary = made[0], made[7], made[13]
    assert 0.4 < christmas / ordinary < 0.9 and 0.4 < new_year / ordinary < 0.9
    assert series.slot_mean(179).means.sum(axis=1)[0] > christmas


# Short histories, coherence, the gate, leaks ------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "method"), [(2, "prior"), (3, "network_profile"), (13, "network_profile"), (14, "regression")]
)
def test_short_histories(days: int, method: Method) -> None:
    hospitals = network_of({"H1": drawn(100), "H2": drawn(days, rate=2.0, seed=2)}, visits_band="0-19999")
    network = Network(hospitals)
    found = {made.hospital_id: made for made in network.hospitals(AS_OF)}["H2"]
    assert found.method == method and found.verdicts is None
    day = found.shipped.means.sum(axis=1)
    if method == "prior":
        assert day == pytest.approx(np.full(DAYS_AHEAD, 9999.5 / 365)) and found.shipped.day_dispersion == 0.04
    else:
        # The shape of the day is known, though each hour was seen a few times only.
        hours = found.shipped.means.mean(axis=0)
        assert hours[15] > 2 * hours[3] and 38 < day.mean() < 58


def test_a_hospital_alone_with_few_days_has_its_own_profile() -> None:
    (made,) = Network(network_of({"H1": drawn(5, rate=2.0)})).hospitals(AS_OF)
    assert made.method == "network_profile" and 38 < made.shipped.means.sum(axis=1).mean() < 58


def test_bands_of_hospitals() -> None:
    assert visits_of_band("20000-39999") == 29_999.5 and visits_of_band("80,000+") == 80_000
    assert visits_of_band("<20,000") == visits_of_band("0-20000") == 10_000
    assert visits_of_band(None) is None and visits_of_band("small") is None


def test_hours_add_up_to_days_and_hospitals_to_the_network() -> None:
    network = Network(network_of({"H1": drawn(70), "H2": drawn(40, seed=3), "H3": drawn(8, seed=4)}))
    hospitals = network.hospitals(AS_OF)
    total = network.total(hospitals, AS_OF)
    assert total is not None
    assert total.means == pytest.approx(sum(made.shipped.means for made in hospitals), rel=1e-12)
    # Independent hospitals: the sum is relatively steadier than each.
    assert total.day_dispersion < max(made.shipped.day_dispersion for made in hospitals)


def test_a_hospital_where_nobody_came_lately_stops_no_forecast_of_another() -> None:
    """Its series ends before; what it had is on its own days of the network's profile."""
    (ended,) = network_of({"H2": drawn(30, seed=3, last=AS_OF - timedelta(days=20))}, AS_OF - timedelta(days=20))
    (goes_on,) = network_of({"H1": drawn(5, rate=2.0)})
    (made,) = Network([goes_on, ended]).hospitals(AS_OF)
    assert made.method == "network_profile" and np.isfinite(made.shipped.means).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(-12, 40)), min_size=1, max_size=4), st.integers(0, 30))
def test_hospitals_that_begin_and_end_when_they_like_stop_no_forecast(spans: list[tuple[int, int]], back: int) -> None:
    """Each has some days, and ended some days ago; what has not come at an origin is not used at it."""
    as_of = AS_OF - timedelta(days=back)
    ends = {f"H{n}": (days, min(AS_OF, AS_OF - timedelta(days=ago))) for n, (days, ago) in enumerate(spans)}

    def made(factor: float) -> list[Array]:
        hospitals = []
        for name, (days, last) in ends.items():
            values = drawn(days, last=last)
            later = np.array([last - timedelta(days=days - 1 - n) > as_of for n in range(days)])
            values[later] *= factor
            hospitals += network_of({name: values}, last)
        network = Network(hospitals)
        found = network.hospitals(as_of)
        total = network.total(found, as_of)
        return [one.shipped.means for one in found] + ([total.means] if total else [])

    known, changed = made(1.0), made(7.0)
    assert all(np.isfinite(one).all() for one in known)
    assert len(known) == len(changed)
    assert all(np.array_equal(one, other) for one, other in zip(known, changed, strict=True))


def test_a_day_is_wider_than_independent_hours_would_make_it() -> None:
    """Hours of one day move together: here every day has a mood of its own."""
    values = np.random.default_rng(5).poisson(drawn(200) * np.repeat([0.7, 1.3], 100)[np.arange(200) * 37 % 200, None])
    (series,) = network_of({"H1": values.astype(float)})
    made = series.rival("regression", 199)
    of_hours = (made.means + made.hour_dispersion * made.means**2).sum(axis=1)
    day = made.means.sum(axis=1)
    assert np.all(day + made.day_dispersion * day**2 > 2 * of_hours)


def test_the_skipped_hour_is_expected_to_bring_nobody_and_the_repeated_one_twice_as_many() -> None:
    for last, hour, times in ((date(2026, 3, 7), 2, 0.0), (date(2026, 10, 31), 1, 2.0)):
        (series,) = network_of({"H1": drawn(60, last=last)}, last)
        for made in (series.rival("regression", 59), series.slot_mean(59)):
            assert made.means[0, hour] == pytest.approx(times * made.means[7, hour], rel=1e-9)


def test_nothing_after_the_origin_changes_a_forecast_and_something_before_it_does() -> None:
    days, origin = 75, 63
    values = drawn(days)
    altered = values.copy()
    altered[origin + 1 :] = np.random.default_rng(9).permutation(altered[origin + 1 :].ravel()).reshape(-1, 24) * 3
    earlier = values.copy()
    earlier[origin] += 5

    def forecasts(of: Array, last: date = AS_OF) -> list[tuple[Method, Array, float, float]]:
        network = Network(network_of({"H1": of, "H2": of[45:] + 1}, last))
        as_of = AS_OF - timedelta(days=days - 1 - origin)
        # Later origins first: what they fit must not be taken for earlier ones.
        if last == AS_OF:
            network.hospitals(AS_OF)
        made = network.hospitals(as_of)
        total = network.total(made, as_of)
        assert total is not None
        shipped = [
            (one.method, rival.means, rival.hour_dispersion, rival.day_dispersion)
            for one in made
            for rival in one.rivals
        ]
        return [*shipped, ("regression", total.means, total.hour_dispersion, total.day_dispersion)]

    known = forecasts(values)
    cut = forecasts(values[: origin + 1], AS_OF - timedelta(days=days - 1 - origin))
    for other in (forecasts(altered), cut):
        for one, another in zip(known, other, strict=True):
            assert one[0] == another[0] and np.array_equal(one[1], another[1]) and one[2:] == another[2:]
    assert any(not np.array_equal(a[1], b[1]) for a, b in zip(known, forecasts(earlier), strict=True))


def test_a_day_that_was_not_delivered_is_no_empty_day() -> None:
    values = drawn(60)
    missing = values.copy()
    missing[50:53] = 0
    (series,) = network_of({"H1": missing})
    assert np.isnan(series.counts[50:53]).all() and series.known_days(59) == 57
    whole = network_of({"H1": values})[0].rival("regression", 59).means.sum()
    assert series.rival("regression", 59).means.sum() == pytest.approx(whole, rel=0.02)
    # Where a handful come, a day without any is one.
    few = np.zeros((60, 24))
    few[::2, 12] = 2
    assert not np.isnan(network_of({"H1": few})[0].counts).any()


def test_a_weekday_that_was_never_seen_is_like_the_others() -> None:
    values = drawn(60)
    values[4::7] = 0
    (series,) = network_of({"H1": values})
    made = series.slot_mean(59).means
    assert not np.isnan(made).any() and made.sum(axis=1).min() > 70


def test_the_gate_wants_a_margin_that_is_no_chance() -> None:
    rng = np.random.default_rng(0)
    rule = 1 + 0.1 * rng.random(28)
    assert gate.verdict(rule - 0.05, rule).is_passed
    equal = gate.verdict(rule, rule)
    assert not equal.is_passed and equal.skill == 0
    noisy = gate.verdict(rule - 0.001 + rng.normal(0, 0.1, 28), rule)
    assert not noisy.is_passed and noisy.upper is not None and noisy.upper > 0
    assert not gate.verdict(rule[:3] - 0.05, rule[:3]).is_passed


def test_the_slot_mean_ships_where_the_regression_is_worse() -> None:
    """Every other week is a different world: the calendar's level is always late, the weeks' mean is not."""
    values = drawn(120)
    values[np.arange(120) // 7 % 2 == 0] *= 3
    (series,) = network_of({"H1": values})
    (made,) = Network([series]).hospitals(AS_OF)
    verdicts = made.verdicts
    assert verdicts is not None and made.method == (
        "regression" if all(v.is_passed for v in verdicts.values()) else "slot_mean"
    )
    assert made.method == "slot_mean" and not verdicts["day"].is_passed


class Foreseen(Series):
    """A hospital whose challenger knows what will come, more or less."""

    blur: float = 0.0

    def rival(self, method: Method, origin: int) -> Forecast:
        made = super().rival("slot_mean" if method == "boosted_trees" else method, origin)
        if method != "boosted_trees":
            return made
        ahead = self.counts[origin + 1 : origin + 1 + len(made.means)]
        means = np.vstack([ahead, made.means[len(ahead) :]])
        return replace(made, method=method, means=self.blur * made.means.mean() + (1 - self.blur) * means)


def test_a_challenger_ships_where_it_beats_what_would_ship_without_it() -> None:
    (series,) = network_of({"H1": drawn(100)})
    foreseen = Foreseen(series.hospital_id, series.first, series.counts, series.time_zone)
    usual = Gate(foreseen).shipping(99)
    method, verdicts = Gate(foreseen, ["boosted_trees"]).shipping(99)
    assert method == "boosted_trees" and verdicts is not None and verdicts["day"].skill > 0.3
    (made,) = Network([foreseen], ["boosted_trees"]).hospitals(AS_OF)
    assert [one.method for one in made.rivals] == ["regression", "slot_mean", "boosted_trees"]
    assert made.shipped.method == "boosted_trees"
    # One that knows the hour's usual arrivals only is no better, and one without a backtest does not take part.
    object.__setattr__(foreseen, "blur", 1.0)
    assert Gate(foreseen, ["boosted_trees"]).shipping(99) == usual and usual[0] != "boosted_trees"
    (young,) = Network(network_of({"H1": drawn(40)}), ["boosted_trees"]).hospitals(AS_OF)
    assert [one.method for one in young.rivals] == ["regression", "slot_mean"]


def test_trees_learn_the_calendar_alike_in_every_fit() -> None:
    pytest.importorskip("xgboost")
    values = drawn(140)
    values[5::7] *= 2
    (series,) = network_of({"H1": values})
    made = series.rival("boosted_trees", 139)
    again = network_of({"H1": values})[0].rival("boosted_trees", 139)
    assert np.array_equal(made.means, again.means)
    other = series.rival("regression", 139)
    assert made.means.sum(axis=1) == pytest.approx(other.means.sum(axis=1), rel=0.12)
    assert made.means.sum(axis=0) == pytest.approx(other.means.sum(axis=0), rel=0.35)
    busy = made.means.sum(axis=1)
    assert busy.max() > 1.6 * np.median(busy) and made.level == pytest.approx(1.0, abs=0.1)
    drivers = series.drivers(made, 139)
    assert np.array_equal(drivers["weekday"], made.means.sum(axis=1)) and set(drivers) == {"usual_day", "weekday"}


# Skill --------------------------------------------------------------------------------------------


ORIGINS = range(231, 351, 3)


@pytest.fixture(scope="module")
def rates() -> pl.DataFrame:
    """The true rates of one hospital of the simulator: H1, a year, a third of its size."""
    return expected_arrivals(7, date(2026, 1, 1), 365, 0.3).filter(pl.col("hospital_id") == "H1")


@pytest.fixture(scope="module")
def true_means(rates: pl.DataFrame) -> Array:
    """The same by local day and hour; days x 24."""
    hours = rates.group_by("service_date", "hour_of_day").agg(pl.col("expected_arrivals").sum())
    by_hour = hours.pivot("hour_of_day", index="service_date", values="expected_arrivals").sort("service_date")
    return by_hour.select(map(str, range(24))).fill_null(0.0).to_numpy()


@pytest.fixture(scope="module")
def simulated(rates: pl.DataFrame) -> Series:
    """What came of these rates."""
    name, first, days = "H1", date(2026, 1, 1), 365
    (_, _, state, zone, _, _) = HOSPITALS[name]
    by_day: dict[date, Array] = {first + timedelta(days=n): np.zeros(24) for n in range(days)}
    for second in arrivals(np.random.default_rng(7), rates)["arrival"]:
        moment = datetime.fromtimestamp(second, ZoneInfo(zone))
        by_day[moment.date()][moment.hour] += 1
    series = series_of(name, by_day, zone, max(by_day), state=state)
    assert series is not None
    return series


@pytest.fixture(scope="module")
def backtests(simulated: Series) -> Backtests:
    """40 origins, three days apart, of one hospital of the simulator."""
    return dict(benchmark("forecast").rolling_origin(simulated, ORIGINS))


def test_the_regression_beats_the_slot_mean_by_hours_and_by_days(backtests: Backtests) -> None:
    for grain, margin in (("hour", 0.97), ("day", 0.98)):
        model, rule = backtests["regression", grain], backtests["slot_mean", grain]
        assert model.outcomes.crps.mean() < margin * rule.outcomes.crps.mean()


def test_the_regression_is_near_the_floor_and_not_below_it(backtests: Backtests) -> None:
    hours = backtests["regression", "hour"]
    assert hours.floor_mase - 0.02 < hours.mase < hours.floor_mase + 0.03
    assert len(hours.outcomes.actual) == 40 * 48 and hours.mase < 0.73


def test_bands_hold_what_they_promise(backtests: Backtests) -> None:
    hours = backtests["regression", "hour"].outcomes
    assert hours.coverage(0.1, 0.9) == pytest.approx(0.8, abs=0.03)
    assert hours.coverage(0.25, 0.75) == pytest.approx(0.5, abs=0.04)
    assert abs(hours.bias) < 0.05 * hours.actual.mean()


def test_the_regression_is_near_the_floor_of_the_true_rates(
    backtests: Backtests, simulated: Series, true_means: Array
) -> None:
    """Who knows all rates, the factor of each day and the epidemics included, is hardly better."""
    known = np.concatenate([true_means[n + 1 : n + 3][simulated.hours[n + 1 : n + 3] > 0] for n in ORIGINS])
    model, rule = (backtests[method, "hour"].outcomes for method in ("regression", "slot_mean"))
    truth = scores.outcomes(model.actual, known, 0.0)
    assert truth.coverage(0.1, 0.9) == pytest.approx(0.8, abs=0.03)
    # What can be learned from the past at all lies between the rule and the truth: most of it is.
    assert truth.crps.mean() < model.crps.mean() < 1.03 * truth.crps.mean()
    assert model.crps.mean() - truth.crps.mean() < 0.5 * (rule.crps.mean() - truth.crps.mean())
    assert truth.mae < model.mae < 1.03 * truth.mae


def test_what_is_forecast_of_rates_without_chance_is_what_is_known_of_them(true_means: Array) -> None:
    """Fed with the true rates instead of counts, what is missed is the days' own factors and the change of the wave."""
    series = Series("H1", date(2026, 1, 1), true_means, "America/Chicago", "US-IL")
    missed = {}
    for method in ("regression", "slot_mean"):
        misses = []
        for origin in range(250, 350, 3):
            means = series.rival(method, origin).means[:2].sum(axis=1)
            misses.append(np.log(means / true_means[origin + 1 : origin + 3].sum(axis=1)))
        missed[method] = float(np.std(misses))
    # The days' own factors have a standard deviation of 5 %.
    assert 0.02 < missed["regression"] < 0.05 and missed["regression"] < 0.95 * missed["slot_mean"]


def test_a_peek_at_the_future_is_below_the_floor(backtests: Backtests) -> None:
    """The test above can fail: who knows some of what comes is better than chance allows."""
    hours = backtests["regression", "hour"]
    peeked = scores.outcomes(hours.outcomes.actual, (hours.outcomes.mean + hours.outcomes.actual) / 2, 0.0)
    assert peeked.mae / hours.scale < hours.floor_mase - 0.02


def test_the_rule_of_eight_weeks_costs_no_import() -> None:
    """Pages take the number of weeks from here; they are not to load numpy or the holidays for it."""
    code = "import sys, hospital_assets.forecasting.slots; print({'numpy', 'holidays'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_quantiles_rise() -> None:
    found = counts.quantiles(means(0.1, 3, 40), 0.2)
    assert all(np.all(a <= b) for a, b in pairwise(found.T)) and found.dtype == np.int64


def test_forecasts_know_their_dispersions() -> None:
    made = Forecast(np.zeros((1, 24)), 0.1, 0.2, "prior", 1.0, 1, AS_OF)
    assert (made.dispersion("hour"), made.dispersion("day")) == (0.1, 0.2)
