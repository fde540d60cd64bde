"""Waits two days ahead on the simulator: the queue simulated with the known roster, against the same hour of 28 days.

    python benchmarks/waits.py                   # rosters that vary, some doctors ill
    python benchmarks/waits.py --same-roster     # the same roster every day: there is nothing to win

For each hospital: forecasts from the end of each of the last days, from what was known then; prints what the gate says
of them, mean absolute errors of the medians and pinball losses of the 90 % quantiles in minutes, the share of hours in
the 80 % bands, and CPU seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl
from faker import Faker

from hospital_assets.assets.forecasts.staffing import DAYS_READ
from hospital_assets.forecasting.calendar import HOURS_PER_DAY
from hospital_assets.forecasting.gate import ORIGINS, Verdict
from hospital_assets.forecasting.learned import Visits, came, care_of, places_per_doctor
from hospital_assets.forecasting.series import Series, series_of
from hospital_assets.forecasting.waits import HOURS_AHEAD, HOURS_BEFORE, LEVELS, Ahead, losses, simulated, verdicts
from hospital_assets.simulator.demand import expected_arrivals
from hospital_assets.simulator.flow import arrivals, draw_urgency, queue
from hospital_assets.simulator.network import HOSPITALS, STEADY, build_network, midnight_utc

TARGETS = np.array([2.0, 10, 30, 60, 120]) / 60
#: A Sunday; there is no change of clocks in the months after it.
START = date(2026, 4, 5)
_SAME_HOUR_DAYS = 28


@dataclass(frozen=True)
class Compared:
    """Forecasts of one hospital, in minutes.

    Attributes:
        hospital: whose.
        places: patients a doctor was found to treat at a time.
        simulation: origins x 2, mean losses.
        same_hour: likewise.
        within: share of hours in the 80 % bands of each.
        bias: mean of the median minus what came of each.
        verdicts: of the gate.
    """

    hospital: str
    places: int
    simulation: np.ndarray
    same_hour: np.ndarray
    within: tuple[float, float]
    bias: tuple[float, float]
    verdicts: tuple[Verdict, Verdict]


def compared(
    scale: float, seed: int, *, same_roster: bool, origins: int = ORIGINS, hospitals: Collection[str] = tuple(HOSPITALS)
) -> Iterator[Compared]:
    """Both forecasts from the last days of each hospital; none where there hardly ever is a queue."""
    days = DAYS_READ + origins + 2
    rng = np.random.default_rng(seed)
    network = build_network(rng, Faker("en_US"), START, days, scale, STEADY if same_roster else None)
    visits = arrivals(rng, expected_arrivals(seed, START, days, scale))
    visits = visits.with_columns(age_years=pl.Series(rng.integers(0, 95, len(visits))))
    visits = queue(rng, draw_urgency(rng, visits), network)
    for place, (hospital, (_, _, state, zone, _, _)) in enumerate(HOSPITALS.items()):
        if hospital not in hospitals:
            continue
        begin = midnight_utc(START, zone)
        own = visits.filter(pl.col("hospital") == place).sort("triage")
        at = {name: _hours(own[name], begin) for name in ("arrival", "triage", "provider", "decision", "departure")}
        unseen = np.isnan(at["provider"]) & ~np.isnan(at["departure"])
        seen = Visits(**at, level=own["level"].to_numpy().astype(int), unseen=unseen)
        roster = network.roster.filter(pl.col("hospital_id") == hospital)
        found = _compared(hospital, zone, state, seen, roster, begin, origins, days)
        if found is not None:
            yield found


def _hours(seconds: pl.Series, begin: int) -> np.ndarray:
    values = seconds.cast(pl.Float64).to_numpy()
    return np.where(values < 0, np.nan, (values - begin) / 3600)


def _compared(
    hospital: str, zone: str, state: str, seen: Visits, roster: pl.DataFrame, begin: int, origins: int, days: int
) -> Compared | None:
    counts = np.bincount(seen.arrival.astype(int), minlength=days * HOURS_PER_DAY).reshape(-1, HOURS_PER_DAY)
    by_day = {START + timedelta(days=n): row.astype(float) for n, row in enumerate(counts[:days])}
    series = series_of(hospital, by_day, zone, max(by_day), state=state)
    assert series is not None
    wait = seen.provider - seen.arrival
    means = np.full((days + 2) * HOURS_PER_DAY, np.nan)
    known = ~np.isnan(wait)
    hour = seen.arrival[known].astype(int)
    count = np.bincount(hour, minlength=len(means))
    means[count > 0] = np.bincount(hour, wait[known], len(means))[count > 0] / count[count > 0]
    found, bands = [], []
    places = 0
    for origin in range(DAYS_READ - 1, days - 2):
        now = float((origin + 1) * HOURS_PER_DAY)
        past = means[: int(now)].reshape(-1, HOURS_PER_DAY)[-_SAME_HOUR_DAYS:]
        rule = np.tile(np.nanquantile(past, LEVELS, axis=0).T, (2, 1))
        made = _ahead(series, origin, now, seen, roster, begin)
        if made is None:
            return None
        ahead, places = made
        model = simulated(ahead, 1.0).quantiles
        came_then = means[int(now) : int(now) + HOURS_AHEAD]
        used = ~np.isnan(came_then) & ~np.isnan(model[:, 0])
        found.append([60 * losses(came_then[used], of[used]).mean(axis=0) for of in (model, rule)])
        bands.append(np.stack([np.column_stack([came_then, of])[used] for of in (model, rule)]))
    scores, pooled = np.array(found), np.concatenate(bands, axis=1)
    within = [float(((one[:, 0] >= one[:, 1]) & (one[:, 0] <= one[:, 3])).mean()) for one in pooled]
    bias = [60 * float((one[:, 2] - one[:, 0]).mean()) for one in pooled]
    return Compared(
        hospital,
        places,
        scores[:, 0],
        scores[:, 1],
        (within[0], within[1]),
        (bias[0], bias[1]),
        verdicts(scores[:, 0], scores[:, 1]),
    )


def _ahead(
    series: Series, origin: int, now: float, seen: Visits, roster: pl.DataFrame, begin: int
) -> tuple[Ahead, int] | None:
    known = (seen.arrival >= now - DAYS_READ * HOURS_PER_DAY) & (seen.arrival < now)
    past = {
        name: np.where(getattr(seen, name)[known] < now, getattr(seen, name)[known], np.nan)
        for name in ("arrival", "triage", "provider", "decision", "departure")
    }
    of = Visits(**past, level=seen.level[known], unseen=np.isnan(past["provider"]) & ~np.isnan(past["departure"]))
    planned = roster.filter(pl.col("recorded") < begin + now * 3600)
    shift_at = [_hours(planned[name], begin) for name in ("start", "end")]
    places = places_per_doctor(of, *shift_at)
    care = None if places is None else care_of(of, places, TARGETS)
    if places is None or care is None:
        return None
    made = series.rival("regression", origin)
    rng = np.random.default_rng(origin)
    before = came(of, care, now - HOURS_BEFORE, now, rng).moved(-HOURS_BEFORE)
    until = now + HOURS_AHEAD + HOURS_PER_DAY
    shifts = [(a - now, b - now) for a, b in zip(*shift_at, strict=True) if now - 48 <= a < until]
    return Ahead(made.means[:2].ravel(), made.day_dispersion, care, before, shifts, origin), places


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--same-roster", action="store_true")
    parser.add_argument("--origins", type=int, default=ORIGINS)
    parser.add_argument("--scale", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    started = time.process_time()
    for one in compared(given.scale, given.seed, same_roster=given.same_roster, origins=given.origins):
        model, rule = one.simulation.mean(axis=0), one.same_hour.mean(axis=0)
        passed = ", ".join(
            f"{name} {100 * (found.skill or 0):+.1f} % {'passed' if found.is_passed else 'not passed'}"
            for name, found in zip(("median", "90 %"), one.verdicts, strict=True)
        )
        print(
            f"{one.hospital}: {one.places} places; MAE {model[0]:5.1f} (same hour {rule[0]:5.1f}), pinball .9 "
            f"{model[1]:5.2f} ({rule[1]:5.2f}), in bands {one.within[0]:.2f} ({one.within[1]:.2f}), bias of medians "
            f"{one.bias[0]:+.1f} ({one.bias[1]:+.1f}); {passed}"
        )
    print(f"{time.process_time() - started:.1f} CPU seconds")


if __name__ == "__main__":
    main()
