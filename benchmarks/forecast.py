"""Rolling origin of the arrivals forecast: on a series of a real hospital, or on the simulator.

    python benchmarks/forecast.py --series h2_hourly.csv --time-zone Europe/London --calendar GB-WLS
    python benchmarks/forecast.py --series iowa.csv --time-zone America/Chicago --calendar US-IA
    python benchmarks/forecast.py                     # the simulator's seven hospitals, a year

The series' file is not part of the repository. It is a CSV with either `Year, Month, Day, Hour, Arrivals` (local
labels, 24 a day) or `arrival_1h, n_attendance` (UTC); other names can be given as `--time` and `--count`.

Prints, by hospital, grain and method: n, MAE, MASE, its Poisson floor, bias, CRPS, randomised coverage of 50/80/95 %,
and the skill of the regression over the slot mean with a block bootstrap interval; then CPU seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from hospital_assets.forecasting.calendar import HOURS_PER_DAY
from hospital_assets.forecasting.counts import Array
from hospital_assets.forecasting.scores import Outcomes, outcomes
from hospital_assets.forecasting.series import DAYS_AHEAD, GRAINS, RIVALS, Grain, Method, Series, series_of
from hospital_assets.simulator.demand import expected_arrivals
from hospital_assets.simulator.flow import arrivals
from hospital_assets.simulator.network import HOSPITALS

_BANDS = {50: (0.25, 0.75), 80: (0.1, 0.9), 95: (0.025, 0.975)}


@dataclass(frozen=True)
class Backtest:
    """One method's forecasts of one grain over many origins.

    Attributes:
        grain: hours of two days ahead, or days of 14.
        outcomes: each forecast with what came.
        scale: mean in-sample error of the seasonal naive rule (168 hours, 7 days), at the first origin.
        crps_by_origin: means, in the order of the origins.
    """

    method: Method
    grain: Grain
    outcomes: Outcomes
    scale: float
    crps_by_origin: Array

    @property
    def mase(self) -> float:
        """Mean absolute scaled error."""
        return self.outcomes.mae / self.scale

    @property
    def floor_mase(self) -> float:
        """What MASE would be if the means were known and counts Poisson; lower is a leak of the future."""
        return float(self.outcomes.floor.mean()) / self.scale


def naive_scale(history: Array, season: int) -> float:
    """Mean absolute error of the seasonal naive forecast within a history; NaN where it is too short.

    Args:
        history: counts in their order; NaN where nothing is known.
        season: steps between equal slots: 168 hours, 7 days.
    """
    if len(history) <= season:
        return float("nan")
    changes = np.abs(history[season:] - history[:-season])
    known = changes[~np.isnan(changes)]
    return float(known.mean()) if len(known) else float("nan")


def rolling_origin(
    series: Series, origins: Iterable[int], methods: Iterable[Method] = RIVALS
) -> dict[tuple[Method, Grain], Backtest]:
    """Forecast from every origin with nothing but what was known there.

    Args:
        series: arrivals of one hospital.
        origins: rows; those whose two weeks are not over are used as far as they are.
        methods: which to run.
    """
    chosen = list(origins)
    scales = {
        "hour": naive_scale(series.counts[: chosen[0] + 1].ravel(), 7 * HOURS_PER_DAY),
        "day": naive_scale(series.counts[: chosen[0] + 1].sum(axis=1), 7),
    }
    found: dict[tuple[Method, Grain], Backtest] = {}
    for method in methods:
        made = [(origin, series.rival(method, origin)) for origin in chosen]
        for grain in GRAINS:
            scored = []
            for origin, forecast in made:
                scored.append(outcomes(*series.compared(forecast, origin, grain), forecast.dispersion(grain)))
            by_origin = np.array([one.crps.mean() for one in scored])
            found[method, grain] = Backtest(method, grain, pooled(scored), scales[grain], by_origin)
    return found


def pooled(scored: list[Outcomes]) -> Outcomes:
    """Outcomes of several forecasts as one."""
    return Outcomes(*(np.concatenate([getattr(one, name) for one in scored]) for name in Outcomes.__dataclass_fields__))


def read_series(path: Path, time_zone: str, calendar: str, moment: str, count: str) -> Series:
    """A hospital's series from a CSV of hourly counts."""
    table = pl.read_csv(path, try_parse_dates=True, infer_schema_length=None)
    if "Year" in table.columns:
        rows = table.select(
            day=pl.date("Year", "Month", "Day"),
            hour=pl.col("Hour").cast(pl.Int64),
            arrivals=pl.col("Arrivals").cast(pl.Float64),
        )
    else:
        instant = pl.col(moment)
        if table.schema[moment] == pl.String:
            instant = instant.str.to_datetime()
        local = instant.dt.replace_time_zone("UTC").dt.convert_time_zone(time_zone)
        hour = local.dt.hour().cast(pl.Int64)
        rows = table.select(day=local.dt.date(), hour=hour, arrivals=pl.col(count).cast(pl.Float64))
    return _series("series", rows, time_zone, calendar)


def simulated(days: int, scale: float, seed: int) -> list[Series]:
    """The simulator's hospitals."""
    rates = expected_arrivals(seed, date(2026, 1, 1), days, scale)
    visits = arrivals(np.random.default_rng(seed), rates)
    found = []
    for number, (name, (_, _, state, zone, _, _)) in enumerate(HOSPITALS.items()):
        local = pl.from_epoch("arrival").dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
        rows = visits.filter(pl.col("hospital") == number).select(
            day=local.dt.date(), hour=local.dt.hour().cast(pl.Int64), arrivals=pl.lit(1.0)
        )
        found.append(_series(name, rows, zone, "", state))
    return found


def _series(name: str, rows: pl.DataFrame, time_zone: str, calendar: str, state: str = "") -> Series:
    first, last = rows["day"].min(), rows["day"].max()
    assert isinstance(first, date) and isinstance(last, date)
    by_day = {first + timedelta(days=n): np.zeros(24) for n in range((last - first).days + 1)}
    for day, hour, count in rows.group_by("day", "hour").agg(pl.col("arrivals").sum()).iter_rows():
        by_day[day][hour] = count
    found = series_of(name, by_day, time_zone, last, calendar, state)
    assert found is not None
    return found


def _report(found: dict[tuple[Method, Grain], Backtest]) -> None:
    for grain in GRAINS:
        for method in RIVALS:
            one = found[method, grain]
            scored = one.outcomes
            shares = "/".join(f"{scored.coverage(*band):.3f}"[1:] for band in _BANDS.values())
            print(
                f"  {grain:4} {method:10} n {len(scored.actual):6,}  MAE {scored.mae:6.3f}  MASE {one.mase:.3f} "
                f"(floor {one.floor_mase:.3f})  bias {scored.bias:+6.3f}  CRPS {scored.crps.mean():6.3f}  PIT {shares}"
            )
        model, rule = (found[method, grain].crps_by_origin for method in RIVALS)
        draws = np.random.default_rng(0).integers(0, len(model), size=(2_000, len(model)))
        low, high = np.quantile(1 - model[draws].mean(axis=1) / rule[draws].mean(axis=1), (0.025, 0.975))
        print(f"  {grain:4} skill over the slot mean {1 - model.mean() / rule.mean():+.3f} ({low:+.3f} to {high:+.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--series", type=Path, help="CSV of hourly counts; default: the simulator")
    parser.add_argument("--time-zone", default="UTC")
    parser.add_argument("--calendar", default="", help="whose public holidays: US-IA, GB-WLS; default: by time zone")
    parser.add_argument("--time", default="arrival_1h", help="column of instants (UTC)")
    parser.add_argument("--count", default="n_attendance", help="column of counts")
    parser.add_argument("--origins", type=int, default=40)
    parser.add_argument("--days-apart", type=int, default=3, help="8 or 10 spread them over a year")
    parser.add_argument("--days", type=int, default=365, help="of the simulator")
    parser.add_argument("--scale", type=float, default=0.3, help="of the simulator")
    parser.add_argument("--seed", type=int, default=7, help="of the simulator")
    given = parser.parse_args()
    hospitals = (
        [read_series(given.series, given.time_zone, given.calendar, given.time, given.count)]
        if given.series
        else simulated(given.days, given.scale, given.seed)
    )
    started = time.process_time()
    for one in hospitals:
        last = len(one.counts) - 1 - DAYS_AHEAD
        origins = range(last - (given.origins - 1) * given.days_apart, last + 1, given.days_apart)
        print(
            f"{one.hospital_id}: {len(one.counts):,} days, {np.nanmean(one.counts):.2f} an hour, {len(origins)} origins"
        )
        _report(rolling_origin(one, origins))
    print(f"{time.process_time() - started:.1f} CPU seconds")


if __name__ == "__main__":
    main()
