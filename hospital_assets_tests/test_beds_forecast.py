"""Forecasts of beds: survival, the census, and the table by hand and against what came."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from hospital_assets.assets.forecasts.beds import beds
from hospital_assets.contracts import CONTRACTS
from hospital_assets.forecasting.survival import (
    Stays,
    census,
    come_and_there,
    count_of,
    kaplan_meier,
    quantiles,
    still_there,
)

FIRST = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday
AS_OF = date(2026, 3, 29)


def of(*hours: float, is_open: tuple[float, ...] = ()) -> Stays:
    found = kaplan_meier(np.array([*hours, *is_open]), np.array([1.0] * len(hours) + [0.0] * len(is_open)))
    assert found is not None
    return found


def test_open_stays_are_censored_and_no_departures() -> None:
    """F25, in days of 24 hours."""
    stays = of(24, 48, 96, is_open=(72,))
    assert stays.survival[[24, 48, 72, 96]].tolist() == pytest.approx([0.75, 0.5, 0.5, 0.0])
    # Taken for a departure, the open stay would leave .25 from the third day on; left out, a third from the second.
    assert stays.survival[72] != pytest.approx(0.25) and stays.survival[48] != pytest.approx(1 / 3)
    found = still_there(stays, np.array([24.0]), np.array([48.0]))
    assert found[0, 0] == pytest.approx(2 / 3)
    assert kaplan_meier(np.array([5.0]), np.array([0.0])) is None


def test_who_has_stayed_longer_than_anybody_leaves_by_and_by() -> None:
    chances = still_there(of(10, 20, 30), np.array([500.0]), np.array([0.0, 20.0, 40.0]))[0]
    assert chances[0] == 1 and 0 < chances[2] < chances[1] < 1
    assert chances[1] == pytest.approx(np.exp(-20 / 20))


def test_those_in_and_those_to_come() -> None:
    """F24: four patients with a chance of 1/2 each, and a Poisson number with mean 1.5; in two departments."""
    halves = [count_of(np.full((patients, 2), [0.5, 0.0])) for patients in (3, 1)]
    found, nobody_stays = census(halves, np.array([1.5, 2.0]))
    counts = np.arange(len(found))
    mean = float((found * counts).sum())
    assert found.sum() == pytest.approx(1) and mean == pytest.approx(3.5)
    # A Poisson number with that mean would vary more: 3.5.
    assert float((found * (counts - mean) ** 2).sum()) == pytest.approx(2.5)
    assert found[0] == pytest.approx(np.exp(-1.5) / 16)
    assert quantiles(nobody_stays, (0.1, 0.9)) == quantiles(census([], np.array([2.0]))[0], (0.1, 0.9)) == [0, 4]


def test_a_constant_stream_fills_up_to_rate_times_stay() -> None:
    stays = of(*([48.0] * 10))
    there = come_and_there(stays, np.full(200, 0.25), np.array([1.0, 24.0, 150.0]))
    assert there[2] == pytest.approx(0.25 * 48, rel=0.03) and there[0] < there[1] == pytest.approx(6, rel=0.05)


HOSPITALS = pl.DataFrame(
    {"hospital_key": [-1, 1, 2], "hospital_id": ["unknown", "H1", "H2"], "time_zone": [None, "UTC", "Asia/Tokyo"]}
)
DEPARTMENTS = pl.DataFrame(
    {
        "hospital_id": ["H1", "H1", "H2", "H1"],
        "department_name": ["Surgery", "Medicine", "Surgery", "Emergency"],
        "bed_capacity": [10, None, 6, 30],
        "valid_from_at": [datetime(1900, 1, 1, tzinfo=UTC)] * 4,
        "valid_to_at": [datetime(9999, 12, 31, tzinfo=UTC)] * 4,
    }
)


def simulated(days: int, seed: int = 1, last: datetime | None = None) -> pl.DataFrame:
    """Stays of about two days in a department of each hospital, as from `department_stays`."""
    rng = np.random.default_rng(seed)
    rows = []
    for key, name, rate in ((1, "Surgery", 4.0), (1, "Medicine", 3.0), (2, "Surgery", 2.0)):
        for day in range(days):
            busy = rate * (0.6 if (FIRST + timedelta(days=day)).isoweekday() > 5 else 1.16)
            for _ in range(rng.poisson(busy)):
                start = FIRST + timedelta(days=day, hours=float(rng.uniform(8, 20)))
                rows.append((key, name, start, start + timedelta(hours=float(rng.gamma(2.0, 24.0)))))
    frame = pl.DataFrame(
        rows, schema=["hospital_key", "department_name", "segment_start_at", "segment_end_at"], orient="row"
    ).with_columns(_until_at=pl.col("segment_end_at"))
    if last is not None:
        frame = frame.filter(pl.col("segment_start_at") < last)
    return frame


def of_both(*days: date) -> dict[date, tuple[str, ...]]:
    """As-of days that are known at both hospitals."""
    return dict.fromkeys(days, ("H1", "H2", "all"))


def test_rows_are_as_the_contract_has_them() -> None:
    made = beds(of_both(AS_OF - timedelta(days=1), AS_OF), simulated(90), DEPARTMENTS, HOSPITALS)
    contract = CONTRACTS["forecast_beds_daily"]
    contract.schema.validate(made)
    assert made.columns == contract.column_names and not made.select(contract.key).is_duplicated().any()
    assert set(made.select("hospital_id", "department_name").unique().iter_rows()) == {
        ("H1", "Surgery"),
        ("H1", "Medicine"),
        ("H1", "all inpatient"),
        ("H2", "Surgery"),
        ("H2", "all inpatient"),
        ("all", "Surgery"),
        ("all", "Medicine"),
        ("all", "all inpatient"),
    }
    day = made.filter(pl.col("service_date") == AS_OF, pl.col("horizon_days") == 3)
    by_place = {
        (h, d): row for h, d, *row in day.select("hospital_id", "department_name", "expected_patients").iter_rows()
    }
    whole = by_place["all", "all inpatient"][0]
    assert whole == pytest.approx(
        sum(by_place[key][0] for key in (("H1", "Surgery"), ("H1", "Medicine"), ("H2", "Surgery")))
    )
    # Beds that one department does not state are not known of the whole.
    beds_of = dict(
        day.select(pl.concat_str("hospital_id", "department_name", separator="/"), "bed_capacity").iter_rows()
    )
    assert (beds_of["H1/Surgery"], beds_of["all/Surgery"], beds_of["H1/all inpatient"]) == (10, 16, None)
    assert day.filter(pl.col("bed_capacity").is_null())["over_capacity_pct"].null_count() == 4


def test_a_hospital_whose_day_is_not_known_has_no_forecast_and_is_no_part_of_all() -> None:
    """H2 has not delivered the second day: who is in there, and who left, is not known."""
    before, stays = AS_OF - timedelta(days=1), simulated(90)
    made = beds(of_both(before) | {AS_OF: ("H1", "all")}, stays, DEPARTMENTS, HOSPITALS)
    both = beds(of_both(before, AS_OF), stays, DEPARTMENTS, HOSPITALS)
    first, h1 = pl.col("service_date") == before, pl.col("hospital_id") == "H1"
    assert made.filter(first).equals(both.filter(first)) and made.filter(h1).equals(both.filter(h1))
    last = made.filter(~first)
    assert set(last["hospital_id"]) == {"H1", "all"}
    of_all = last.filter(hospital_id="all").drop("hospital_id")
    assert of_all.equals(last.filter(h1).drop("hospital_id"))
    # While H2 is waited for there is nothing of all.
    assert set(beds({AS_OF: ["H1"]}, stays, DEPARTMENTS, HOSPITALS)["hospital_id"]) == {"H1"}


def test_beds_are_those_of_each_day_by_the_hospitals_clock() -> None:
    """Three beds fewer in Tokyo, from its midnight of two days ahead on; known before, and not of the days before."""
    change = datetime(2026, 3, 30, 15, tzinfo=UTC)
    is_tokyo = pl.col("hospital_id") == "H2"
    before = DEPARTMENTS.with_columns(valid_to_at=pl.when(is_tokyo).then(change).otherwise("valid_to_at"))
    after = DEPARTMENTS.filter(is_tokyo).with_columns(valid_from_at=change, bed_capacity=pl.lit(3, pl.Int64))
    made = beds(of_both(AS_OF - timedelta(days=9), AS_OF), simulated(90), pl.concat([before, after]), HOSPITALS)
    of = made.filter(pl.col("department_name") == "Surgery").sort("service_date", "target_date")
    for hospital, others in (("H2", 0), ("all", 10)):
        found = of.filter(pl.col("hospital_id") == hospital)["bed_capacity"].to_list()
        assert found == [others + 6] * 7 + [others + 6] + [others + 3] * 6
    full = of.filter(is_tokyo, pl.col("service_date") == AS_OF)["over_capacity_pct"].to_list()
    assert full[1] > full[0]


def test_nothing_after_the_as_of_day_changes_a_forecast() -> None:
    made = beds(of_both(AS_OF), simulated(90), DEPARTMENTS, HOSPITALS)
    stays = simulated(90)
    end = datetime(2026, 3, 30, tzinfo=UTC)
    later = stays.filter(pl.col("segment_start_at") < end).with_columns(
        segment_end_at=pl.when(pl.col("segment_end_at") <= end).then("segment_end_at"),
        _until_at=pl.when(pl.col("segment_end_at") <= end).then("_until_at").otherwise(end + timedelta(days=900)),
    )
    of_h1 = pl.col("hospital_id") == "H1"
    assert beds(of_both(AS_OF), later, DEPARTMENTS, HOSPITALS).filter(of_h1).equals(made.filter(of_h1))
    earlier = stays.filter(pl.col("segment_start_at") < end - timedelta(days=2))
    assert not beds(of_both(AS_OF), earlier, DEPARTMENTS, HOSPITALS).filter(of_h1).equals(made.filter(of_h1))
    assert beds(of_both(FIRST.date()), stays, DEPARTMENTS, HOSPITALS).is_empty()


def test_it_beats_the_median_of_the_weekday_and_its_bands_hold_what_came() -> None:
    """The baseline that it replaced; what came is known of simulated stays."""
    days, stays = 200, simulated(215, seed=3)
    as_of = [(FIRST + timedelta(days=n)).date() for n in range(120, days, 3)]
    surgery = stays.filter(pl.col("hospital_key") == 1, pl.col("department_name") == "Surgery")
    start, end = (
        ((surgery[name] - FIRST).dt.total_seconds() / 3600).to_numpy()
        for name in ("segment_start_at", "segment_end_at")
    )
    hours = np.arange(24 * 214) + 0.5
    there = ((start[:, None] <= hours) & (hours < end[:, None])).sum(axis=0).reshape(-1, 24).mean(axis=1)
    made = beds(of_both(*as_of), stays, DEPARTMENTS, HOSPITALS).filter(
        pl.col("hospital_id") == "H1", pl.col("department_name") == "Surgery"
    )
    errors: dict[int, list[tuple[float, float, bool]]] = {}
    for row in made.iter_rows(named=True):
        day = (row["target_date"] - FIRST.date()).days
        before = [there[day - 7 * week] for week in range(1, 9) if day - 7 * week < day - row["horizon_days"] + 1]
        came = there[day]
        holds = row["patients_p10_count"] - 0.5 <= came <= row["patients_p90_count"] + 0.5
        errors.setdefault(row["horizon_days"], []).append(
            (abs(row["expected_patients"] - came), abs(float(np.median(before)) - came), holds)
        )
    mine, median, held = ({n: np.mean([e[k] for e in of]) for n, of in errors.items()} for k in range(3))
    assert mine[1] < 0.6 * median[1] and mine[2] < 0.85 * median[2]
    assert np.mean(list(mine.values())) < np.mean(list(median.values()))
    assert 0.74 <= np.mean(list(held.values())) <= 0.97
