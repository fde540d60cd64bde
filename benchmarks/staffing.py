"""How suggested rosters do on the simulator: same doctors' hours, judged on the patients that came.

    python benchmarks/staffing.py --weeks 9

For each hospital and week: the roster is suggested on the Sunday before, from what was known then (the last eight
weeks); then the week's patients, as the simulator drew them, are seen by the present roster and by the suggested one
in the same order. Prints means over hospital-weeks, in how many the suggested roster was worse, and CPU seconds.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl
from faker import Faker

from hospital_assets.assets.forecasts.staffing import DAYS_READ
from hospital_assets.forecasting.calendar import HOURS_PER_DAY
from hospital_assets.forecasting.learned import Visits, care_of, places_per_doctor
from hospital_assets.forecasting.series import series_of
from hospital_assets.forecasting.shifts import Rules, hours_moved, hours_of
from hospital_assets.forecasting.simulate import MEASURES, Patients, around, hours_on, measured, placed, waits
from hospital_assets.forecasting.staffing import WEEK_DAYS, WEEK_HOURS, Department, Target, weekday_means
from hospital_assets.simulator.demand import expected_arrivals
from hospital_assets.simulator.flow import arrivals, draw_urgency, queue
from hospital_assets.simulator.network import HOSPITALS, build_network, midnight_utc

RULES = Rules(starts=tuple(range(7, 24, 2)), lengths=(8, 10), least=1, most=12)
TARGETS = np.array([2.0, 10, 30, 60, 120]) / 60
#: A Sunday; there is no change of clocks in the months after it.
START = date(2026, 4, 5)


@dataclass(frozen=True)
class Week:
    """Outcome of a hospital-week: measures of the present and of the suggested roster, hours, hours moved."""

    hospital: str
    before: np.ndarray
    after: np.ndarray
    hours: float
    moved: int


def weeks(number: int, scale: float, seed: int, *, forecast: bool = True) -> list[Week]:
    """The outcome of some weeks at all hospitals.

    Args:
        number: of weeks.
        scale: of the simulator.
        seed: of the simulator.
        forecast: whether the suggestion is made from the forecast, or from the means of the last weeks.
    """
    days = DAYS_READ + number * WEEK_DAYS
    rng = np.random.default_rng(seed)
    network = build_network(rng, Faker("en_US"), START, days, scale)
    visits = arrivals(rng, expected_arrivals(seed, START, days, scale))
    visits = visits.with_columns(age_years=pl.Series(rng.integers(0, 95, len(visits))))
    visits = queue(rng, draw_urgency(rng, visits), network)
    found = []
    for place, (hospital, (*_, zone, _, _)) in enumerate(HOSPITALS.items()):
        # Hours of the local clock, which runs on evenly in these weeks.
        begin = midnight_utc(START, zone)
        own = visits.filter(pl.col("hospital") == place).sort("triage")
        shifts = network.shifts.filter(pl.col("hospital_id") == hospital)
        at = {name: _hours(own[name], begin) for name in ("arrival", "triage", "provider", "decision", "departure")}
        shift_at = [_hours(shifts[name], begin) for name in ("start", "end")]
        level = own["level"].to_numpy().astype(int)
        for week in range(number):
            now = float((DAYS_READ + week * WEEK_DAYS) * HOURS_PER_DAY)
            found.append(_week(hospital, zone, now, at, level, own, shift_at, forecast))
    return found


def _hours(seconds: pl.Series, begin: int) -> np.ndarray:
    values = seconds.cast(pl.Float64).to_numpy()
    return np.where(values < 0, np.nan, (values - begin) / 3600)


def _week(
    hospital: str,
    zone: str,
    now: float,
    at: dict[str, np.ndarray],
    level: np.ndarray,
    own: pl.DataFrame,
    shift_at: list[np.ndarray],
    forecast: bool,
) -> Week:
    known = (at["arrival"] >= now - DAYS_READ * HOURS_PER_DAY) & (at["arrival"] < now)
    past = {name: np.where(values[known] < now, values[known], np.nan) for name, values in at.items()}
    unseen = np.isnan(past["provider"]) & ~np.isnan(past["departure"])
    seen = Visits(**past, level=level[known], unseen=unseen)
    begin, end = shift_at
    places = places_per_doctor(seen, begin, end)
    assert places is not None
    care = care_of(seen, places, TARGETS)
    assert care is not None
    first = now - DAYS_READ * HOURS_PER_DAY
    history = np.bincount((past["arrival"] - first).astype(int), minlength=DAYS_READ * HOURS_PER_DAY)
    history = history.reshape(-1, HOURS_PER_DAY).astype(float)
    day = START + timedelta(days=int(now // HOURS_PER_DAY))
    series = series_of(
        hospital,
        {day + timedelta(days=n - DAYS_READ): row for n, row in enumerate(history)},
        zone,
        day - timedelta(days=1),
        "none",
    )
    assert series is not None
    made = series.rival("regression", len(history) - 1)
    of_days = made.means.sum(axis=1)[:WEEK_DAYS] if forecast else weekday_means(history)
    last = (begin >= now - WEEK_HOURS) & (begin < now)
    shifts = zip(begin[last] - now, end[last] - now, strict=True)
    worked = sorted((float(start + WEEK_HOURS), float(until + WEEK_HOURS)) for start, until in shifts)
    budget = hours_on(worked)
    department = Department(
        history, of_days, made.day_dispersion, care, worked, RULES, budget, Target(0.8, 0.5), seed=1
    )
    suggested = department.suggest().roster
    # Who came: the day before, for the queue that there is on Monday, and the week.
    came = (at["arrival"] >= now - HOURS_PER_DAY) & (at["arrival"] < now + WEEK_HOURS)
    patients = Patients(
        at["arrival"][came] - now,
        at["triage"][came] - now,
        level[came] - 1,
        own["treatment_seconds"].to_numpy()[came] / 3600,
        own["patience_seconds"].to_numpy()[came] / 3600,
    ).moved(HOURS_PER_DAY)
    before = [(start - WEEK_HOURS, until - WEEK_HOURS) for start, until in worked]
    results = []
    for roster in (worked, placed(suggested)):
        waited = waits(patients, around(before, roster, WEEK_HOURS), places)
        results.append(measured(patients, waited, care, HOURS_PER_DAY, HOURS_PER_DAY + WEEK_HOURS))
    assert hours_of(suggested) <= budget
    moved = hours_moved(department.present, suggested, WEEK_HOURS)
    return Week(hospital, results[0], results[1], budget, moved)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weeks", type=int, default=9)
    parser.add_argument("--scale", type=float, default=1.0, help="of the simulator")
    parser.add_argument("--seed", type=int, default=7, help="of the simulator")
    parser.add_argument("--without-forecast", action="store_true", help="suggest from the means of the last weeks")
    given = parser.parse_args()
    started = time.process_time()
    found = weeks(given.weeks, given.scale, given.seed, forecast=not given.without_forecast)
    before, after = (np.stack([getattr(week, name) for week in found]) for name in ("before", "after"))
    for n, name in enumerate(MEASURES):
        print(f"{name:20} present {before[:, n].mean():7.2f}  suggested {after[:, n].mean():7.2f}")
    worse = int((after[:, 0] > before[:, 0]).sum())
    hours, moved = sum(week.hours for week in found), sum(week.moved for week in found)
    change = 100 * (after[:, 0].mean() / before[:, 0].mean() - 1)
    print(f"mean wait {change:+.1f} %, worse in {worse} of {len(found)} weeks")
    for name in HOSPITALS:
        own = [week for week in found if week.hospital == name]
        pairs = "  ".join(f"{week.before[0]:.1f}>{week.after[0]:.1f}" for week in own)
        print(f"  {name}: {pairs}")
    print(
        f"{hours:,.0f} doctors' hours, {100 * moved / hours:.1f} % moved; "
        f"{time.process_time() - started:.1f} CPU seconds"
    )


if __name__ == "__main__":
    main()
