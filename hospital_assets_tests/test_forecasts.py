"""The tables of forecasts: what they hold, what makes their checks red, and that nothing later changes them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from hospital_assets.assets.forecasts.accuracy import accuracy, drift
from hospital_assets.assets.forecasts.arrivals import forecasts
from hospital_assets.checks.table_checks import check_table
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.forecasts import DRIVERS as DRIVER_NAMES
from hospital_assets.contracts.forecasts import METHODS, SUM_OF_HOSPITALS
from hospital_assets.contracts.kpis import ALL
from hospital_assets.forecasting import acuity, regression, trees
from hospital_assets.forecasting.series import Method
from hospital_assets.settings import CHALLENGERS, Settings, SettingsError, load_settings, write_settings
from hospital_assets.warehouse.dialect import lazy
from hospital_assets_tests.helpers import DECLARED_KINDS

FIRST, DAYS = date(2026, 8, 1), 90
LATER = datetime(2027, 6, 1, tzinfo=UTC)
HOURLY, DAILY, DRIVERS = "forecast_arrivals_hourly", "forecast_arrivals_daily", "forecast_drivers"
BY_TRIAGE = ("forecast_triage_hourly", "forecast_triage_daily")
#: Tables by name.
Made = dict[str, pl.DataFrame]
AS_OF = [FIRST + timedelta(days=n) for n in range(66, 76)]


def hospitals(*zones: str) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "hospital_key": [-1, *range(1, len(zones) + 1)],
            "hospital_id": ["unknown", *(f"H{n}" for n in range(1, len(zones) + 1))],
            "time_zone": [None, *zones],
            "state": [None, *["TX"] * len(zones)],
            "annual_ed_visits_band": [None, *["20000-39999"] * len(zones)],
        }
    )


def arrivals_of(days: int, hospitals: int = 2, seed: int = 1, first: date = FIRST) -> pl.DataFrame:
    """kpi_arrivals_hourly of hospitals with a shape of the day."""
    rng = np.random.default_rng(seed)
    shape = 2 + 1.5 * np.sin((np.arange(24) - 9) / 24 * 2 * np.pi)
    rows = [
        (first + timedelta(days=n), f"H{h}", hour, (first + timedelta(days=n)).isoweekday(), 1, int(count))
        for n in range(days)
        for h in range(1, hospitals + 1)
        for hour, count in enumerate(rng.poisson(h * shape))
    ]
    return pl.DataFrame(rows, schema=CONTRACTS["kpi_arrivals_hourly"].polars_schema, orient="row")


def triaged_of(arrivals: pl.DataFrame) -> pl.DataFrame:
    """Of those who arrive in an hour, the first has level 2, the second has none, the others have level 3."""
    rows = [
        (day, int(hospital[1:]), hour, group, count)
        for day, hospital, hour, arrived in arrivals.select(
            "service_date", "hospital_id", "hour_of_day", "arrivals_count"
        ).iter_rows()
        for group, count in (("2", min(arrived, 1)), ("untriaged", min(max(arrived - 1, 0), 1)), ("3", arrived - 2))
        if count > 0
    ]
    names = ("service_date", "hospital_key", "hour_of_day", "triage_group", "arrivals")
    return pl.DataFrame(
        rows, schema=dict(zip(names, (pl.Date, pl.Int64, pl.Int64, pl.String, pl.Int64), strict=True)), orient="row"
    )


@pytest.fixture(scope="module")
def arrived() -> pl.DataFrame:
    return arrivals_of(DAYS)


@pytest.fixture(scope="module")
def made(arrived: pl.DataFrame) -> Made:
    return forecasts(
        arrived, triaged_of(arrived), hospitals("America/Chicago", "America/Phoenix"), AS_OF, LATER, {"H2": "none"}
    )


def test_rows_are_as_the_contracts_have_them(made: Made, arrived: pl.DataFrame) -> None:
    scored = accuracy(made[HOURLY], made[DAILY], arrived)
    for name, frame in {**made, "kpi_forecast_accuracy": scored}.items():
        contract = CONTRACTS[name]
        contract.schema.validate(frame)
        assert frame.columns == contract.column_names and not frame.select(contract.key).is_duplicated().any()
    # Two methods at two hospitals, one of all; 48 hours and 14 days.
    assert len(made[HOURLY]) == len(AS_OF) * 5 * 48 and len(made[DAILY]) == len(AS_OF) * 5 * 14
    assert made["forecast_models"]["holiday_calendar"].unique().sort().to_list() == ["", "US-TX"]


def test_nothing_to_forecast_gives_empty_tables() -> None:
    nobody = arrivals_of(0)
    found = forecasts(nobody, triaged_of(nobody), hospitals("America/Chicago"), [], LATER, {})
    assert found[HOURLY].is_empty() and found[DAILY].schema == CONTRACTS["forecast_arrivals_daily"].polars_schema
    assert accuracy(found[HOURLY], found[DAILY], nobody).schema == CONTRACTS["kpi_forecast_accuracy"].polars_schema


def test_a_day_that_is_not_over_is_no_as_of_day(arrived: pl.DataFrame) -> None:
    """At 06:30 UTC it is still the day before in Phoenix, and no longer in Chicago."""
    day = AS_OF[0]
    now = datetime(day.year, day.month, day.day, 6, 30, tzinfo=UTC) + timedelta(days=1)
    found = forecasts(arrived, triaged_of(arrived), hospitals("America/Chicago", "America/Phoenix"), [day], now, {})
    assert found["forecast_models"]["hospital_id"].to_list() == ["H1"]
    # It will be: until then there is no sum.
    assert all(set(rows["hospital_id"]) == {"H1"} for rows in found.values())


def test_a_sum_waits_a_day_for_a_hospital_that_did_not_deliver() -> None:
    """H2 loses two days: from the first there is no sum, from the second H1 is all that is known; then both are."""
    arrived, first = arrivals_of(30), FIRST + timedelta(days=24)
    lost = (pl.col("hospital_id") == "H2") & pl.col("service_date").is_between(first, first + timedelta(days=1))
    arrived = arrived.with_columns(arrivals_count=pl.when(lost).then(0).otherwise("arrivals_count"))
    as_of = [first + timedelta(days=n) for n in range(-1, 3)]
    found = forecasts(arrived, triaged_of(arrived), hospitals("UTC", "UTC"), as_of, LATER, {})
    for name in (HOURLY, DAILY, DRIVERS, *BY_TRIAGE):
        of = {day: set(rows["hospital_id"]) for (day,), rows in found[name].group_by("service_date")}
        assert [of[day] for day in as_of] == [{"H1", "H2", ALL}, {"H1"}, {"H1", ALL}, {"H1", "H2", ALL}], name
    assert not {"Failed", "Error"} & set().union(
        *_statuses(found, accuracy(found[HOURLY], found[DAILY], arrived)).values()
    )


def test_later_records_change_no_forecast(made: Made, arrived: pl.DataFrame) -> None:
    as_of = AS_OF[3]
    of_day = pl.col("service_date") == as_of
    altered = arrived.with_columns(
        arrivals_count=pl.when(pl.col("service_date") > as_of)
        .then(pl.col("arrivals_count") * 7 + 1)
        .otherwise(pl.col("arrivals_count"))
    )
    places = hospitals("America/Chicago", "America/Phoenix")
    for rest in (altered, arrived.filter(pl.col("service_date") <= as_of)):
        again = forecasts(rest, triaged_of(rest), places, [as_of], LATER, {"H2": "none"})
        for before, after in ((made[name], again[name]) for name in made):
            assert_frame_equal(before.filter(of_day), after, check_exact=True)
    changed = altered.with_columns(arrivals_count=pl.col("arrivals_count") + of_day.cast(pl.Int64))
    assert not forecasts(changed, triaged_of(changed), places, [as_of], LATER, {"H2": "none"})[DAILY].equals(
        made[DAILY].filter(of_day)
    )


def test_christmas_is_named_where_it_is_kept() -> None:
    first = date(2026, 12, 1)
    found = forecasts(
        arrivals_of(20, first=first),
        triaged_of(arrivals_of(20, first=first)),
        hospitals("America/Chicago", "America/Phoenix"),
        [date(2026, 12, 20)],
        LATER,
        {"H2": "none"},
    )[DAILY].filter(pl.col("holiday_name").is_not_null())
    named = found.filter(pl.col("target_date") == date(2026, 12, 25))
    assert named["hospital_id"].unique().to_list() == ["H1"] and named["holiday_name"][0] == "Christmas Day"


def _statuses(made: Made, scored: pl.DataFrame) -> dict[tuple[str, str], set[str]]:
    frames = {name: lazy(frame) for name, frame in made.items()} | {"kpi_forecast_accuracy": lazy(scored)}
    return {
        (table, kind.name): {finding.status for finding in findings}
        for table in frames
        for kind, findings in check_table(CONTRACTS[table], frames, LATER, kinds=DECLARED_KINDS)
    }


def test_checks_pass_and_each_planted_fault_turns_one_red(made: Made, arrived: pl.DataFrame) -> None:
    scored = accuracy(made[HOURLY], made[DAILY], arrived)
    assert not {"Failed", "Error"} & set().union(*_statuses(made, scored).values())
    total, first = pl.col("hospital_id") == ALL, pl.col("horizon_days") == 1
    more = pl.col("expected_arrivals") + 1e-3

    def having(table: str, **columns: pl.Expr | str) -> Made:
        return made | {table: made[table].with_columns(**columns)}

    faults = {
        (DAILY, "quantiles"): {"p10_count": pl.col("p90_count") + 1},
        (DAILY, "coherent"): {"expected_arrivals": pl.when(first).then(more).otherwise("expected_arrivals")},
        (DAILY, "ahead"): {"is_shipped": pl.lit(True)},
        (HOURLY, "coherent"): {"expected_arrivals": pl.when(total).then(more).otherwise("expected_arrivals")},
        (HOURLY, "ahead"): {"target_date": "service_date"},
        (HOURLY, "quantiles"): {"existing_hours": pl.lit(0.0)},
        **{
            (name, "coherent"): {"expected_arrivals": pl.when(total).then(more).otherwise("expected_arrivals")}
            for name in BY_TRIAGE
        },
        (BY_TRIAGE[1], "quantiles"): {"p10_count": pl.col("p90_count") + 1},
        (DRIVERS, "coherent"): {"added_arrivals": pl.col("added_arrivals") * 1.001},
        (DRIVERS, "ahead"): {"target_date": "service_date"},
    }
    for at, columns in faults.items():
        assert "Failed" in _statuses(having(at[0], **columns), scored)[at], at
    many = scored.with_columns(forecasts_count=pl.lit(2_000), shipped_count=pl.lit(2_000))
    for kind, columns in (
        ("calibrated", {"pit_80_pct": pl.lit(70.0)}),
        ("calibrated", {"bias": pl.lit(5.0), "bias_error": pl.lit(0.1)}),
        ("skill", {"skill_pct": pl.lit(-1.0)}),
    ):
        assert "Failed" in _statuses(made, many.with_columns(**columns))["kpi_forecast_accuracy", kind], kind


def test_levels_and_drivers_are_parts_of_what_ships(made: Made) -> None:
    """Levels sum to the hours and days, factors multiply to the days; of all hospitals, too."""
    key = ["service_date", "hospital_id", "target_date"]
    for name, whole, by in ((BY_TRIAGE[0], HOURLY, [*key, "hour_of_day"]), (BY_TRIAGE[1], DAILY, key)):
        shipped = made[whole].filter("is_shipped").select(*by, "expected_arrivals").sort(by)
        assert_frame_equal(made[name].group_by(by).agg(pl.col("expected_arrivals").sum()).sort(by), shipped)
    drivers = made[DRIVERS].with_columns(
        _of=pl.when(pl.col("driver_rank") == 1).then("added_arrivals").otherwise("factor")
    )
    shipped = made[DAILY].filter("is_shipped").select(*key, "expected_arrivals").sort(key)
    product = drivers.group_by(key).agg(expected_arrivals=pl.col("_of").product()).sort(key)
    assert_frame_equal(product, shipped)
    assert set(drivers["driver"]) >= {"usual_day", "weekday"} and drivers["factor"].min() > 0
    # Shares by the hour: at night nobody may come, so that level 2 is more of those who do.
    by_hour = made[BY_TRIAGE[0]].filter(pl.col("hospital_id") == "H2", pl.col("expected_arrivals") > 0)
    shares = (
        by_hour.group_by("hour_of_day", "triage_group")
        .agg(pl.col("expected_arrivals").sum())
        .with_columns(share=pl.col("expected_arrivals") / pl.col("expected_arrivals").sum().over("hour_of_day"))
        .filter(pl.col("triage_group") == "2")
        .sort("hour_of_day")["share"]
    )
    assert shares[3] > 1.5 * shares[15]
    assert made[BY_TRIAGE[1]].filter(pl.col("triage_group").is_in(["1", "4", "5"]))["expected_arrivals"].max() == 0


def test_a_share_of_a_count_is_a_count() -> None:
    """Hours without arrivals have the shares of the day; without any at all nobody is known to have a level."""
    counts = np.zeros((10, 24, 3))
    counts[:, 8] = [6, 3, 1]
    found = acuity.shares(counts)
    assert found[3] == pytest.approx([0.6, 0.3, 0.1]) and found.sum(axis=1) == pytest.approx(np.ones(24))
    assert acuity.shares(np.zeros((0, 24, 3)))[0].tolist() == [0, 0, 1]


def test_forecasts_that_have_become_worse_are_seen() -> None:
    """20 weeks as forecast, then four in which half as many again come; seen in the fourth week at the latest."""
    rng, first = np.random.default_rng(3), date(2026, 3, 2)
    days = [first + timedelta(days=n) for n in range(24 * 7)]
    came = pl.DataFrame(
        {
            "service_date": days,
            "hospital_id": "H1",
            "hour_of_day": 12,
            "iso_weekday_number": 1,
            "existing_hours_count": 1,
            "arrivals_count": [int(rng.poisson(90 if n >= 20 * 7 else 60)) for n in range(len(days))],
        }
    ).cast(CONTRACTS["kpi_arrivals_hourly"].polars_schema)
    daily = pl.DataFrame(
        [
            {"service_date": day - timedelta(days=ahead), "target_date": day, "horizon_days": ahead}
            for day in [*days, *(days[-1] + timedelta(days=n) for n in (1, 2))]
            for ahead in (1, 2)
        ]
    ).with_columns(
        hospital_id=pl.lit("H1"), expected_arrivals=pl.lit(60.0), count_dispersion=pl.lit(0.0), is_shipped=True
    )
    quantiles = {name: pl.lit(0) for name in CONTRACTS[DAILY].column_names if name.endswith("_count")}
    daily = daily.with_columns(**quantiles)
    found = drift(daily, came)
    CONTRACTS["kpi_forecast_drift"].schema.validate(found)
    of_one = found.filter(pl.col("hospital_id") == "H1")
    assert of_one["week_end_date"][-1] == days[-1] and of_one.height == 24
    assert of_one["crps_ratio"].head(20).mean() == pytest.approx(1.0, abs=0.1)
    assert not of_one["is_drifting"].head(20).any() and of_one["is_drifting"][-1]
    assert of_one["baseline_weeks_count"].to_list()[:13] == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert of_one["limit_ratio"].is_null().to_list()[:13] == [True] * 11 + [False] * 2


def test_accuracy_by_hand() -> None:
    """One forecast of Poisson 2 for each of two days on which 1 and 3 came."""
    arrived = arrivals_of(15, hospitals=1).with_columns(arrivals_count=pl.lit(0, pl.Int64))
    came = {date(2026, 8, 14): 1, date(2026, 8, 15): 3}
    for day, count in came.items():
        at = (pl.col("service_date") == day) & (pl.col("hour_of_day") == 12)
        arrived = arrived.with_columns(arrivals_count=pl.when(at).then(count).otherwise("arrivals_count"))
    rows = [
        {
            "service_date": date(2026, 8, 13),
            "hospital_id": "H1",
            "target_date": day,
            "method": "slot_mean",
            "existing_hours": 24.0,
            "expected_arrivals": 2.0,
            "count_dispersion": 0.0,
            "p025_count": 0,
            "p10_count": 0,
            "p25_count": 1,
            "p50_count": 2,
            "p75_count": 3,
            "p90_count": 4,
            "p975_count": 5,
            "is_shipped": True,
            "horizon_days": number,
            "holiday_name": None,
        }
        for number, day in enumerate(came, start=1)
    ]
    contract = CONTRACTS["forecast_arrivals_daily"]
    daily = pl.DataFrame(rows, schema_overrides=contract.polars_schema).select(contract.column_names)
    # A forecast made on the last day shows that this day is over.
    newest = daily.with_columns(
        service_date=date(2026, 8, 15), target_date=pl.col("target_date").dt.offset_by("2d"), horizon_days=pl.lit(1)
    )
    hourly = pl.DataFrame(schema=CONTRACTS["forecast_arrivals_hourly"].polars_schema)
    scored = accuracy(hourly, pl.concat([daily, newest.cast(daily.schema)]), arrived).row(0, named=True)
    assert (scored["forecasts_count"], scored["arrivals_count"], scored["mae"], scored["bias"]) == (2, 4, 1.0, 0.0)
    assert scored["bias_error"] == pytest.approx(1.0) and scored["skill_pct"] == 0
    # CDF of Poisson 2: .1353, .4060, .6767, .8571, .9473, ...
    below = np.cumsum([np.exp(-2) * 2**k / np.prod(np.arange(1, k + 1), dtype=float) for k in range(30)])
    expected = [np.sum((below - (np.arange(30) >= y)) ** 2) for y in (1, 3)]
    assert scored["crps"] == pytest.approx(np.mean(expected))
    of_one = (min(below[1], 0.75) - 0.25) / (below[1] - below[0])
    assert scored["pit_50_pct"] == pytest.approx(100 * (of_one + (0.75 - below[2]) / (below[3] - below[2])) / 2)


def by_day(rows: list[tuple[str, str, date, date, float]]) -> pl.DataFrame:
    """forecast_arrivals_daily: hospital, method, as-of day, day ahead and mean, all shipped."""
    contract = CONTRACTS[DAILY]
    filled = [
        dict.fromkeys(contract.column_names)
        | {name: 0 for name in contract.column_names if name.endswith("_count")}
        | {"hospital_id": hospital, "method": method, "service_date": as_of, "target_date": day, "is_shipped": True}
        | {
            "existing_hours": 24.0,
            "expected_arrivals": mean,
            "count_dispersion": 0.0,
            "horizon_days": (day - as_of).days,
        }
        for hospital, method, as_of, day, mean in rows
    ]
    return pl.DataFrame(filled, schema=contract.polars_schema)


def arrived_by_day(counts: dict[str, dict[date, int]]) -> pl.DataFrame:
    """kpi_arrivals_hourly of hospitals to which everybody comes at noon."""
    rows = [
        (day, hospital, hour, day.isoweekday(), 1, count if hour == 12 else 0)
        for hospital, days in counts.items()
        for day, count in days.items()
        for hour in range(24)
    ]
    return pl.DataFrame(rows, schema=CONTRACTS["kpi_arrivals_hourly"].polars_schema, orient="row")


def test_a_day_on_which_nobody_came_counts_where_few_come_and_is_missing_where_many_do() -> None:
    """The score takes the days that the forecast took."""
    days = [date(2026, 8, 1) + timedelta(days=n) for n in range(20)]
    last = days[-1]
    few, many = ({day: (n % 2) * most for n, day in enumerate(days)} for most in (2, 40))
    made = by_day(
        [
            (hospital, "slot_mean", day - timedelta(days=1), day, mean)
            for hospital, mean in (("H1", 1.0), ("H2", 40.0))
            for day in [*days[-10:], last + timedelta(days=1)]
        ]
    )
    hourly = pl.DataFrame(schema=CONTRACTS[HOURLY].polars_schema)
    scored = accuracy(hourly, made, arrived_by_day({"H1": few, "H2": many}))
    found = {
        row["hospital_id"]: (row["forecasts_count"], row["arrivals_count"], row["bias"])
        for row in scored.filter(pl.col("horizon_band") == ALL).iter_rows(named=True)
    }
    assert found == {"H1": (10, 10, 0.0), "H2": (5, 200, 0.0)}


def test_the_sum_of_hospitals_is_scored_where_all_of_them_are_known() -> None:
    """H2 lost two days: a forecast of one, or made from its end, is not of the same hospitals as what came."""
    days = [date(2026, 7, 2) + timedelta(days=n) for n in range(40)]
    lost = days[35]
    counts = {"H1": dict.fromkeys(days, 20), "H2": {day: 0 if day in (days[10], lost) else 30 for day in days}}
    rows = []
    for as_of in days[29:]:
        members = [("H1", 20.0), *([("H2", 30.0)] if as_of != lost else [])]
        for ahead in (1, 2):
            day = as_of + timedelta(days=ahead)
            rows += [(hospital, "slot_mean", as_of, day, mean) for hospital, mean in members]
            rows.append((ALL, SUM_OF_HOSPITALS, as_of, day, sum(mean for _, mean in members)))
    made, arrived = by_day(rows), arrived_by_day(counts)
    scored = accuracy(pl.DataFrame(schema=CONTRACTS[HOURLY].polars_schema), made, arrived)
    of_all = scored.filter(pl.col("horizon_band") == ALL, pl.col("hospital_id") == ALL).row(0, named=True)
    # 10 + 9 forecasts are over; two were of the lost day, and two made from it are H1's alone.
    assert (of_all["forecasts_count"], of_all["arrivals_count"], of_all["bias"]) == (17, 15 * 50 + 2 * 20, 0.0)
    # From week to week nothing has moved, where it is known: there is nothing to scale with.
    assert of_all["mase"] is None
    weeks = drift(made, arrived).filter(pl.col("hospital_id") == ALL)["week_end_date"].to_list()
    assert weeks == []


def test_what_moves_later_is_no_scale_of_the_days_before() -> None:
    """As many came each day until the month began: there is nothing to scale with, and no figure that is infinite."""
    days = [date(2026, 7, 11) + timedelta(days=n) for n in range(28)]
    month = date(2026, 8, 1)
    arrived = arrived_by_day({"H1": {day: 20 if day < month else 23 for day in days}})
    made = by_day([("H1", "slot_mean", day - timedelta(days=1), day, 20.0) for day in days if day >= month])
    scored = accuracy(pl.DataFrame(schema=CONTRACTS[HOURLY].polars_schema), made, arrived)
    assert scored.select("mae", "mase", "floor_mase").unique().rows() == [(23.0, None, None)]


def test_accuracy_does_not_depend_on_the_order_of_rows(made: Made, arrived: pl.DataFrame) -> None:
    scored = accuracy(made[HOURLY], made[DAILY], arrived)
    for seed in range(3):
        shuffled = [frame.sample(fraction=1, shuffle=True, seed=seed) for frame in (made[HOURLY], made[DAILY], arrived)]
        assert accuracy(*shuffled).equals(scored)


def test_contracts_name_every_method_and_driver() -> None:
    assert set(METHODS) == set(get_args(Method)) and set(CHALLENGERS) <= set(METHODS)
    assert tuple(DRIVER_NAMES) == regression.DRIVERS


def test_only_the_sum_of_what_ships_is_forecast_for_all(made: Made) -> None:
    assert made[DAILY].filter(pl.col("hospital_id") == ALL)["method"].unique().to_list() == [SUM_OF_HOSPITALS]


def test_a_challenger_is_a_setting_and_says_what_to_install(
    arrived: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_settings(Settings(tmp_path, FIRST, forecast_challengers=("boosted_trees",)))
    chosen = load_settings(tmp_path).forecast_challengers
    assert chosen == ("boosted_trees",)
    monkeypatch.setattr(trees, "is_installed", lambda: False)
    with pytest.raises(SettingsError, match=r"hospital-assets\[trees\]"):
        forecasts(arrived, triaged_of(arrived), hospitals("America/Chicago"), AS_OF[:1], LATER, {}, chosen)


def test_holiday_calendars_are_settings(tmp_path: Path) -> None:
    write_settings(Settings(tmp_path, FIRST, holiday_calendars=(("H1", "US-WI"), ("H 2", "none"))))
    assert load_settings(tmp_path).holiday_calendars == (("H 2", "none"), ("H1", "US-WI"))
    for wrong, says in {
        '"US"': "'holidays' must be a table",
        '{ H1 = "Wisconsin" }': "'holidays.H1' names no country that is known, but 'Wisconsin'; known: none, AD, AE, ",
        '{ H1 = "DE", H9 = "XX" }': "'holidays.H9' names no country that is known, but 'XX'",
        '{ H1 = "GB-XX" }': "no region that is known, but 'GB-XX'; known of GB: GB-ENG, GB-NIR, GB-SCT, GB-WLS",
        '{ H1 = "DE-" }': "no region that is known, but 'DE-'; known of DE: DE-BB, ",
        "{ H1 = 1 }": "'holidays.H1' must be a text",
    }.items():
        (tmp_path / "hospital.toml").write_text(f"holidays = {wrong}")
        with pytest.raises(SettingsError, match=says):
            load_settings(tmp_path)
