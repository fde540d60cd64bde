"""Waits two days ahead: the simulated queue, the same hour of four weeks, and the gate between them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from hospital_assets.assets.forecasts.wait_methods import accuracy, came, methods
from hospital_assets.assets.forecasts.waits import simulated_waits, waits
from hospital_assets.checks.table_checks import check_table
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.forecasts import QUEUE, SAME_HOUR
from hospital_assets.forecasting import simulate
from hospital_assets.forecasting import waits as ahead
from hospital_assets.warehouse.dialect import lazy
from hospital_assets_tests.helpers import DECLARED_KINDS, benchmark
from hospital_assets_tests.test_staffing_tables import AS_OF, ZONE, tables

NOBODY = simulate.Patients(*(np.empty(0) for _ in range(2)), np.empty(0, dtype=np.int64), np.empty(0), np.empty(0))


def care(leaving: float = 0.0, service: float = 0.5) -> simulate.Care:
    """Patients of one level whose treatments are exponential, one place a doctor."""
    at = (np.arange(2_000) + 0.5) / 2_000
    levels = np.array([0.0, 0.0, 1.0, 0.0, 0.0])
    times = -service * np.log1p(-at)
    return simulate.Care(levels, (times,) * 5, np.full(5, leaving), np.zeros(5), 1, np.full(5, 0.25))


def situation(
    doctors: int, rate: float = 4.0, before: simulate.Patients = NOBODY, dispersion: float = 0.0
) -> ahead.Ahead:
    """Two days of the same rate with the same doctors all the time."""
    shifts = [(-24.0, 49.0)] * doctors
    return ahead.Ahead(np.full(48, rate), dispersion, care(), before, shifts, seed=1)


# The queue ----------------------------------------------------------------------------------------


def test_the_simulated_waits_are_those_of_theory() -> None:
    """Three servers, 4 an hour, 30 minutes each: seen within 15 minutes are 73 % in the long run (F15)."""
    made = ahead.simulated(situation(3), 1.0, replicates=150)
    settled = made.within[12:]
    assert settled.mean() == pytest.approx(1 - 0.26957, abs=0.03)
    # With one server as fast as all three, the usual shortcut, it would be far less.
    assert settled.mean() > 0.6
    assert ((made.quantiles[:, 1:] >= made.quantiles[:, :-1]) | np.isnan(made.quantiles[:, 1:])).all()
    assert (made.over >= 0).all() and (made.over <= 1).all()


def test_the_roster_decides_and_who_is_there_already_counts() -> None:
    few, more = (ahead.simulated(situation(n), 1.0) for n in (2, 4))
    assert np.nanmean(more.quantiles[24:, 1]) < 0.3 * np.nanmean(few.quantiles[24:, 1])
    # Twenty patients who came an hour ago and wait: the first hours are long, the second day is as without them.
    hour = np.full(20, -1.0)
    full = simulate.Patients(hour, hour, np.full(20, 2), np.full(20, 0.5), np.full(20, np.inf))
    crowded, empty = (ahead.simulated(situation(3, 4.0, one), 1.0) for one in (full, NOBODY))
    assert crowded.quantiles[0, 1] > 3 * max(empty.quantiles[0, 1], 0.2)
    assert np.nanmean(crowded.quantiles[24:, 1]) == pytest.approx(np.nanmean(empty.quantiles[24:, 1]), abs=0.05)
    # A day that may be busier than expected as a whole makes the band wider, not its hours alone.
    wide = ahead.simulated(situation(3, dispersion=0.1), 1.0, replicates=100)
    narrow = ahead.simulated(situation(3), 1.0, replicates=100)
    assert np.nanmean(wide.quantiles[12:, 2]) > 1.15 * np.nanmean(narrow.quantiles[12:, 2])


def test_hours_in_which_hardly_anybody_comes_have_no_band_and_the_same_seed_gives_the_same() -> None:
    made = ahead.simulated(situation(2, 0.1), 1.0)
    assert np.isnan(made.quantiles).all() and np.isnan(made.over).all()
    one, same = (ahead.simulated(situation(3), 1.0) for _ in range(2))
    assert np.array_equal(one.quantiles, same.quantiles, equal_nan=True)


def test_part_of_a_roster_is_none() -> None:
    assert ahead.is_rostered([40.0, 38.0], 44.0)
    assert not ahead.is_rostered([40.0, 8.0], 44.0) and not ahead.is_rostered([40.0, 0.0], 44.0)
    assert not ahead.is_rostered([0.0, 0.0], 0.0)


def test_losses_by_hand() -> None:
    bands = np.array([[0.0, 10.0, 20.0], [0.0, 10.0, 20.0]])
    # Above the 90 % quantile by 10: 9; below it by 5: .5.
    assert ahead.losses(np.array([30.0, 15.0]), bands) == pytest.approx(np.array([[20.0, 9.0], [5.0, 0.5]]))


def test_the_gate_wants_both_losses_better_beyond_chance() -> None:
    rng = np.random.default_rng(3)
    rule = 10 + rng.normal(0, 1, (28, 2))
    better = rule * 0.8
    assert all(found.is_passed for found in ahead.verdicts(better, rule))
    # The usual wrong answer ships what is better by the median alone.
    median, high = ahead.verdicts(np.column_stack([better[:, 0], rule[:, 1] * 1.1]), rule)
    assert median.is_passed and not high.is_passed
    # The same, and a difference that holds 0: closed (F27).
    assert not any(found.is_passed for found in ahead.verdicts(rule, rule))
    assert not any(found.is_passed for found in ahead.verdicts(rule + rng.normal(-0.05, 2, (28, 2)), rule))
    assert all(found.skill is None and not found.is_passed for found in ahead.verdicts(better[:13], rule[:13]))


@pytest.mark.slow
def test_the_gate_opens_where_the_roster_varies_and_stays_closed_where_it_does_not() -> None:
    """On the simulator; `python benchmarks/waits.py` measures all hospitals."""
    one, other = ("H1", "H6")
    varied = {
        found.hospital: found
        for found in benchmark("waits").compared(1.0, 7, same_roster=False, hospitals=(one, other))
    }
    for found in varied.values():
        assert found.places == 5 and all(verdict.is_passed for verdict in found.verdicts), found.hospital
        assert (found.simulation.mean(axis=0) < 0.85 * found.same_hour.mean(axis=0)).all()
    (steady,) = benchmark("waits").compared(1.0, 7, same_roster=True, hospitals=(other,))
    assert not any(verdict.is_passed for verdict in steady.verdicts)
    # It is not that nothing could be said: the rule is as good as it ever gets.
    assert steady.simulation.mean(axis=0)[0] > 0.95 * steady.same_hour.mean(axis=0)[0]


# Tables -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known() -> dict[str, pl.DataFrame]:
    """What `simulated_waits` reads; each shift is known a week before it begins."""
    frames = tables()
    means = np.where((np.arange(24) >= 11) & (np.arange(24) < 22), 4.6, 1.0)
    names = ["service_date", "hospital_id", "target_date", "hour_of_day"]
    hourly = pl.DataFrame(
        [
            (AS_OF, name, AS_OF + timedelta(days=1 + n // 24), n % 24, n + 1, float(means[n % 24]), 1.0, shipped)
            for name in ("H1", "all")
            for n in range(48)
            for shipped in (True, False)
        ],
        schema=[*names, "horizon_hours", "expected_arrivals", "existing_hours", "is_shipped"],
        orient="row",
    )
    daily = pl.DataFrame(
        [(AS_OF, "H1", 1, 0.005, True), (AS_OF, "all", 1, 0.001, True)],
        schema=["service_date", "hospital_id", "horizon_days", "count_dispersion", "is_shipped"],
        orient="row",
    )
    shifts = frames["shifts"].with_columns(recorded_at=pl.col("shift_start_at") - pl.duration(days=7))
    return {
        "hourly": hourly,
        "daily": daily,
        "visits": frames["visits"],
        "shifts": shifts,
        "departments": frames["departments"],
        "hospitals": frames["hospitals"],
    }


def test_two_days_are_simulated_hour_by_hour(known: dict[str, pl.DataFrame]) -> None:
    found = simulated_waits(**known)
    contract = CONTRACTS["forecast_waits_hourly"]
    contract.schema.validate(found)
    assert found.columns == contract.column_names and not found.select(contract.key).is_duplicated().any()
    assert set(found["method"]) == {QUEUE} and set(found["hospital_id"]) == {"H1"}
    # At night hardly every second night somebody comes and is seen.
    assert 40 <= len(found) <= 48 and found["days_count"].unique().to_list() == [56]
    evening, morning = (found.filter(hour_of_day=hour)["mean_wait_p50_minutes"].mean() for hour in (20, 9))
    assert evening > 1.5 * morning  # type: ignore[operator]
    twice = known | {name: known[name].sample(fraction=1.0, shuffle=True, seed=5) for name in ("visits", "shifts")}
    assert_frame_equal(simulated_waits(**twice), found, check_exact=True)


def test_nothing_later_changes_what_was_simulated(known: dict[str, pl.DataFrame]) -> None:
    found = simulated_waits(**known)
    end = pl.datetime(2026, 6, 29, 5, time_zone="UTC")
    clocks = [name for name in known["visits"].columns if name.endswith("_at")]
    later = known["visits"].with_columns(
        pl.when(pl.col(name) >= end).then(pl.col(name) + pl.duration(hours=3)).otherwise(name).alias(name)
        for name in clocks
        if name != "arrival_at"
    )
    assert_frame_equal(simulated_waits(**known | {"visits": later}), found, check_exact=True)
    # Who is called in on the day was not known, ...
    extra = known["shifts"].filter(pl.col("service_date") > AS_OF).with_columns(recorded_at=end + pl.duration(hours=1))
    called = known | {"shifts": pl.concat([known["shifts"], extra])}
    assert_frame_equal(simulated_waits(**called), found, check_exact=True)
    # ... who was planned was: the same doctors known a week before are fewer waits.
    planned = extra.with_columns(recorded_at=end - pl.duration(days=7))
    more = simulated_waits(**known | {"shifts": pl.concat([known["shifts"], planned])})
    assert more["mean_wait_p90_minutes"].mean() < 0.75 * found["mean_wait_p90_minutes"].mean()  # type: ignore[operator]


def test_who_waits_at_the_end_is_seen_by_the_doctors_of_the_day_after(known: dict[str, pl.DataFrame]) -> None:
    """Many come, and no shift goes on beyond midnight: waits of the last hours end on the third day."""
    shifts = known["shifts"].with_columns(
        pl.col("shift_start_at", "shift_end_at") + pl.duration(hours=1),
        service_date=(pl.col("shift_start_at") + pl.duration(hours=1)).dt.convert_time_zone(ZONE).dt.date(),
    )
    crowded = known | {"hourly": known["hourly"].with_columns(pl.col("expected_arrivals") * 2.5), "shifts": shifts}
    found = simulated_waits(**crowded)
    is_third = pl.col("service_date") == AS_OF + timedelta(days=3)
    more = simulated_waits(**crowded | {"shifts": pl.concat([shifts, *[shifts.filter(is_third)] * 3])})
    early, late = pl.col("horizon_hours") <= 24, pl.col("horizon_hours") > 44
    assert_frame_equal(more.filter(early), found.filter(early), check_exact=True)
    high = "mean_wait_p90_minutes"
    assert more.filter(late)[high].mean() < found.filter(late)[high].mean()  # type: ignore[operator]
    # Where that day is not planned yet it is as a week before: with this roster the same.
    assert_frame_equal(simulated_waits(**crowded | {"shifts": shifts.filter(~is_third)}), found, check_exact=True)


@pytest.mark.parametrize("why", ["not known", "no date of planning", "one day only", "no visits", "no forecast"])
def test_without_a_roster_or_a_queue_nothing_is_simulated(known: dict[str, pl.DataFrame], why: str) -> None:
    shifts, day = known["shifts"], pl.col("service_date")
    changed = {
        "not known": {"shifts": shifts.with_columns(recorded_at="shift_start_at")},
        "no date of planning": {"shifts": shifts.with_columns(recorded_at=pl.lit(None, pl.Datetime("us", "UTC")))},
        "one day only": {"shifts": shifts.filter(day != AS_OF + timedelta(days=2))},
        "no visits": {"visits": known["visits"].clear()},
        "no forecast": {"hourly": known["hourly"].filter(pl.col("horizon_hours") <= 24)},
    }[why]
    assert simulated_waits(**known | changed).is_empty()


# The gate and the accuracy ------------------------------------------------------------------------

HOURS = (9, 10, 20)


def past(days: int, error: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Forecasts of some days up to AS_OF: the simulation misses by `error`, the same hour by 10; and what came."""
    rng = np.random.default_rng(2)
    rows, waited = [], []
    for back in range(-2, days):
        target = AS_OF - timedelta(days=back)
        for hour in HOURS:
            wait = 30 + float(rng.normal(0, 3))
            waited.append(("H1", target, hour, wait))
            for ahead_days in (1, 2):
                made = target - timedelta(days=ahead_days)
                if made > AS_OF:
                    continue
                sign = 1 if rng.random() < 0.5 else -1
                for method, miss in ((QUEUE, error), (SAME_HOUR, 10.0)):
                    middle = wait + miss * sign
                    horizon = 24 * (ahead_days - 1) + hour + 1
                    band = (middle - 8, middle, middle + 8)
                    rows.append((made, "H1", target, hour, method, horizon, 28, 4.0, *band, 0.0, 90.0))
    names = ["service_date", "hospital_id", "target_date", "hour_of_day", "method", "horizon_hours", "days_count"]
    names += ["expected_arrivals", "mean_wait_p10_minutes", "mean_wait_p50_minutes", "mean_wait_p90_minutes"]
    frame = pl.DataFrame(rows, schema=[*names, "over_60_pct", "within_target_pct"], orient="row")
    contract = CONTRACTS["forecast_waits_hourly"]
    came_then = pl.DataFrame(waited, schema=["hospital_id", "target_date", "hour_of_day", "wait_minutes"], orient="row")
    return frame.select(contract.column_names).cast(contract.polars_schema), came_then


def decided(made: pl.DataFrame, waited: pl.DataFrame) -> dict[str, object]:
    found = methods(made, waited, [AS_OF])
    CONTRACTS["forecast_wait_methods"].schema.validate(found)
    return found.row(0, named=True)


def test_the_simulation_ships_where_it_was_better_and_says_why() -> None:
    made, waited = past(40, 4.0)
    row = decided(made, waited)
    assert (row["method"], row["method_reason"], row["origins_count"]) == (QUEUE, "better", 28)
    assert row["median_skill_pct"] == pytest.approx(60) and row["is_median_gate_passed"] and row["is_high_gate_passed"]
    worse = decided(*past(40, 12.0))
    assert (worse["method"], worse["method_reason"]) == (SAME_HOUR, "not_better")
    assert worse["median_skill_pct"] == pytest.approx(-20) and worse["is_median_gate_passed"] is False
    same = decided(*past(40, 10.0))
    assert same["method"] == SAME_HOUR and not same["is_median_gate_passed"]
    few = decided(*past(13, 4.0))
    assert (few["method"], few["method_reason"]) == (SAME_HOUR, "too_few_forecasts")
    assert few["median_skill_pct"] is None and few["is_median_gate_passed"] is None
    today = (pl.col("service_date") == AS_OF) & (pl.col("method") == QUEUE)
    row = decided(made.filter(~today), waited)
    assert (row["method"], row["method_reason"]) == (SAME_HOUR, "not_simulated")


def test_the_gate_knows_nothing_after_the_as_of_day() -> None:
    made, waited = past(40, 4.0)
    late = (pl.col("target_date") >= AS_OF) & (pl.col("hour_of_day") > 0)
    changed = waited.with_columns(wait_minutes=pl.when(late).then(500.0).otherwise("wait_minutes"))
    assert decided(made, changed) == decided(made, waited)
    later = made.filter(pl.col("service_date") > AS_OF - timedelta(days=3), pl.col("service_date") < AS_OF)
    assert decided(made.join(later, on=made.columns, how="anti"), waited) == decided(made, waited)
    # What was known does matter.
    earlier = pl.col("target_date") < AS_OF - timedelta(days=5)
    assert decided(made, waited.filter(~earlier)) != decided(made, waited)


def test_waits_that_came_are_means_of_hours_whose_waits_ended_in_time() -> None:
    at = datetime(2026, 6, 28, 22, 30)
    rows = [(AS_OF, 1, at, 20.0, False), (AS_OF, 1, at, 40.0, False), (AS_OF, 1, at, 900.0, True)]
    rows += [(AS_OF, 1, at, None, False), (AS_OF, 1, at, 60.0 * 26, False), (AS_OF, 1, at.replace(hour=3), 50.0, False)]
    names = ["service_date", "hospital_key", "arrival_local", "wait_minutes", "is_cancelled"]
    visits = pl.DataFrame(rows, schema=names, orient="row")
    found = came(visits, pl.DataFrame({"hospital_key": [1], "hospital_id": ["H1"]}))
    assert found.rows() == [("H1", AS_OF, 3, 50.0), ("H1", AS_OF, 22, 30.0)]


def test_accuracy_of_waits_by_hand() -> None:
    made, waited = past(40, 4.0)
    shipped = methods(made, waited, sorted(made["service_date"].unique()))
    found = accuracy(made, shipped, waited)
    contract = CONTRACTS["kpi_wait_forecast_accuracy"]
    contract.schema.validate(found)
    june = found.filter(period_month=date(2026, 6, 1), horizon_band="all")
    model, rule = (june.filter(method=method).row(0, named=True) for method in (QUEUE, SAME_HOUR))
    # Three hours of 27 days that are over before AS_OF, from both origins of each.
    assert model["forecasts_count"] == rule["forecasts_count"] == model["compared_count"] == 27 * 3 * 2
    assert model["wait_mae_minutes"] == pytest.approx(4) and rule["wait_mae_minutes"] == pytest.approx(10)
    assert model["wait_skill_pct"] == pytest.approx(60) and rule["wait_skill_pct"] is None
    assert model["inside_80_pct"] == 100 and rule["inside_80_pct"] == 0
    assert model["wait_pinball_50_minutes"] == pytest.approx(2) and abs(model["wait_bias_minutes"]) < 2
    assert model["shipped_count"] + rule["shipped_count"] == 27 * 3 * 2 and model["shipped_count"] > 0
    assert set(found["horizon_band"]) == {"all", "hours 7-24", "hours 25-48"}
    assert_frame_equal(accuracy(made.reverse(), shipped.reverse(), waited.reverse()), found, check_exact=True)
    assert accuracy(made, shipped.clear(), waited).is_empty()


def test_a_simulation_that_ships_though_it_is_worse_is_noticed() -> None:
    made, waited = past(40, 4.0)
    found = accuracy(made, methods(made, waited, sorted(made["service_date"].unique())), waited)
    name = "kpi_wait_forecast_accuracy"

    def status(frame: pl.DataFrame) -> set[str]:
        checked = check_table(
            CONTRACTS[name], {name: lazy(frame)}, datetime(2026, 7, 1, tzinfo=UTC), kinds=DECLARED_KINDS
        )
        return {finding.status for kind, findings in checked if kind.name == "skill" for finding in findings}

    many = found.with_columns(forecasts_count=pl.lit(5_000), shipped_count=pl.lit(5_000))
    assert status(many) == {"Passed"}
    assert "Failed" in status(many.with_columns(wait_skill_pct=pl.lit(-3.0)))


# The same hour ------------------------------------------------------------------------------------


def waited(days: int = 40) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Arrivals ahead of AS_OF, visits of the days up to it and after, and hospitals.

    On day n of the 28 before, those who came at 10 waited n minutes (level 3, target 30) on average; at 11 some came on
    every other day only, at 12 on every third.
    """
    rows = []
    for back in range(-2, days):
        day = AS_OF - timedelta(days=back)
        for hour, every in ((10, 1), (11, 2), (12, 3)):
            if back % every:
                continue
            for wait in (28.0 - back - 1, 28.0 - back + 1) if 0 <= back < 28 else (500.0,):
                at = datetime(day.year, day.month, day.day, hour, 30)
                rows.append((day, 1, at, at.replace(tzinfo=UTC) + timedelta(hours=5, minutes=wait), wait, 3, False))
    columns = ("service_date", "hospital_key", "arrival_local", "provider_at", "wait_minutes", "triage_level")
    ahead = [
        (AS_OF, hospital, AS_OF + timedelta(days=1), hour, hour + 1, 5.0, 0.0 if hour == 2 else 1.0, shipped)
        for hospital in ("H1", "all")
        for hour in range(24)
        for shipped in (True, False)
    ]
    names = ("service_date", "hospital_id", "target_date", "hour_of_day", "horizon_hours", "expected_arrivals")
    return (
        pl.DataFrame(ahead, schema=[*names, "existing_hours", "is_shipped"], orient="row"),
        pl.DataFrame(rows, schema=[*columns, "is_cancelled"], orient="row"),
        pl.DataFrame({"hospital_id": ["H1"], "hospital_key": [1], "time_zone": [ZONE]}),
    )


def test_waits_ahead_are_those_of_the_same_hour() -> None:
    arrivals, visits, places = waited()
    found = waits(arrivals, visits, places)
    CONTRACTS["forecast_waits_hourly"].schema.validate(found)
    # Each third day is fewer than 14 of 28: no band of so few; hours without any have none.
    assert found["hour_of_day"].to_list() == [10, 11] and found["days_count"].to_list() == [28, 14]
    first = found.row(0, named=True)
    # Means of 1 to 28 minutes; neither earlier days nor those to come, on which all waited 500.
    assert (
        first["mean_wait_p10_minutes"],
        first["mean_wait_p50_minutes"],
        first["mean_wait_p90_minutes"],
    ) == pytest.approx((3.7, 14.5, 25.3))
    assert first["over_60_pct"] == 0 and first["within_target_pct"] == 100 and first["method"] == "same_hour"
    assert_frame_equal(waits(arrivals, visits.reverse(), places), found, check_exact=True)
    assert waits(arrivals.clear(), visits, places).is_empty()


def test_a_wait_that_had_not_ended_is_not_known() -> None:
    arrivals, visits, places = waited()
    midnight = datetime(2026, 6, 29, 5, tzinfo=UTC)
    of_day = (pl.col("service_date") == AS_OF) & (pl.col("arrival_local").dt.hour() == 10)
    later = visits.with_columns(provider_at=pl.when(of_day).then(midnight).otherwise("provider_at"))
    assert waits(arrivals, later, places)["days_count"].to_list() == [27, 14]


def test_a_band_of_waits_that_falls_is_noticed() -> None:
    found = waits(*waited())
    name = "forecast_waits_hourly"

    def statuses(frame: pl.DataFrame) -> dict[str, set[str]]:
        checked = check_table(
            CONTRACTS[name], {name: lazy(frame)}, datetime(2026, 7, 1, tzinfo=UTC), kinds=DECLARED_KINDS
        )
        return {kind.name: {finding.status for finding in findings} for kind, findings in checked}

    assert statuses(found) == {"quantiles": {"Passed"}, "ahead": {"Passed"}}
    assert "Failed" in statuses(found.with_columns(mean_wait_p10_minutes=pl.lit(99.0)))["quantiles"]
    assert "Failed" in statuses(found.with_columns(target_date="service_date"))["ahead"]
