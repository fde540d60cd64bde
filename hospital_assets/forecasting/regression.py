"""Ridge Poisson regression on the calendar: log(arrivals an hour) = x'b, with Gaussian priors around 0.

Features of a local day and hour: intercept; hour (24); weekday (7); hour x weekday (168); public holiday, the day after
one, 25 December and 1 January, and holidays by part of the day; from 300 days of history three yearly harmonics and a
season x hour-of-day shape; from 500 days a trend. The prior (ridge precision = 1 / sd² on the log scale) is what makes
two weeks of history work: without one the 168 cells overfit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from hospital_assets.forecasting.calendar import HOURS_PER_DAY
from hospital_assets.forecasting.counts import Array

#: Standard deviations of the priors on the log scale.
HOUR_SD, WEEKDAY_SD, SLOT_SD = 1.0, 0.2, 0.1
HOLIDAY_SD, HOLIDAY_PART_SD = 0.15, 0.1
HARMONIC_SD, SHAPE_SD, TREND_SD = 0.1, 0.05, 0.1
#: The intercept is as good as free.
_INTERCEPT_SD = 1_000.0
#: Days of history from which the season, and the trend, are learned.
SEASON_DAYS, TREND_DAYS = 300, 500
#: A day this old counts half in the fit.
HALF_LIFE_DAYS = 730
_YEAR = 365.25
_HARMONICS = 3
#: Hours at which a part of a holiday ends: night, morning, afternoon, evening.
_PARTS = (7, 12, 18, 24)
_SLOTS = 7 * HOURS_PER_DAY
_MOST_STEPS = 60
#: Newton's steps square the error: after one this small it is below 1e-13.
_TOLERANCE = 1e-7
#: Rows of a product that stays on one thread.
_CHUNK = 256
#: What moves a forecast away from the usual day, in the order in which it is taken into account.
Driver = Literal["usual_day", "weekday", "season", "trend", "holiday", "level"]
DRIVERS: tuple[Driver, ...] = get_args(Driver)

#: The level: weights halve every so many days, over so many, with so many days' arrivals of "nothing has changed".
LEVEL_HALF_LIFE_DAYS, LEVEL_DAYS, LEVEL_PRIOR_DAYS = 14, 70, 1.25


@dataclass(frozen=True)
class Design:
    """A design matrix in three parts, never built as a whole.

    Coefficients are those of the slots, then of the columns by slot, then of the dense columns. The first are many, but
    no row has two of them: their part of the information matrix is diagonal, and is eliminated before anything is
    solved. Products are kept so small that BLAS does not divide them among threads, which costs more than it gains.

    Attributes:
        slot: of each row, which slot it is; each slot has a coefficient of its own.
        by_slot: slots x p columns that depend on the slot only.
        dense: rows x q columns.
        dense_drivers: what each of these stands for.
        slot_precision: of the prior of each slot's own coefficient.
        precision: p + q, of the prior of the other coefficients.
    """

    slot: npt.NDArray[np.int64]
    by_slot: Array
    dense: Array
    dense_drivers: tuple[Driver, ...]
    slot_precision: float
    precision: Array

    @property
    def priors(self) -> Array:
        """Precision of all coefficients."""
        return np.concatenate([np.full(len(self.by_slot), self.slot_precision), self.precision])

    def predictor(self, b: Array) -> Array:
        """X'b of every row."""
        n, p = self.by_slot.shape
        slots = b[:n] + self.by_slot @ b[n : n + p]
        return np.asarray(slots[self.slot] + np.einsum("ij,j->i", self.dense, b[n + p :]), dtype=np.float64)

    def newton_step(self, b: Array, weights: Array, residual: Array) -> Array:
        """What to add to `b`: the solution of (X'WX + P) step = X'r - P b.

        Args:
            b: coefficients.
            weights: W, by row.
            residual: r, by row.
        """
        n = len(self.by_slot)
        summed = self.by_slot_sum(weights)
        weighted = self.dense * weights[:, None]
        crossed = np.column_stack([self.by_slot * summed[:, None], *map(self.by_slot_sum, weighted.T)])
        corner = self.by_slot.T @ crossed[:, self.by_slot.shape[1] :]
        rest = np.block(
            [[self.by_slot.T @ crossed[:, : self.by_slot.shape[1]], corner], [corner.T, self._gram(weighted)]]
        )
        rest[np.diag_indices_from(rest)] += self.precision
        slope = self.by_slot_sum(residual)
        slopes = np.concatenate([self.by_slot.T @ slope, np.einsum("ij,i->j", self.dense, residual)])
        slope, slopes = slope - self.slot_precision * b[:n], slopes - self.precision * b[n:]
        diagonal = (summed + self.slot_precision)[:, None]
        reduced = crossed / diagonal
        others = np.linalg.solve(rest - np.einsum("ij,ik->jk", crossed, reduced), slopes - reduced.T @ slope)
        return np.concatenate([(slope - crossed @ others) / diagonal[:, 0], others])

    def by_slot_sum(self, values: Array) -> Array:
        """The sum of a value of every row by slot."""
        return np.asarray(np.bincount(self.slot, values, minlength=len(self.by_slot)), dtype=np.float64)

    def _gram(self, weighted: Array) -> Array:
        found = np.zeros((self.dense.shape[1],) * 2)
        for start in range(0, len(weighted), _CHUNK):
            found += self.dense[start : start + _CHUNK].T @ weighted[start : start + _CHUNK]
        return found


def fit_poisson(design: Design, counts: Array, hours: Array, weights: Array) -> Array:
    """Coefficients that maximise the penalised Poisson likelihood, by Newton's method; the same in every run.

    Args:
        design: n rows.
        counts: n.
        hours: n exposures; rows without any are left out.
        weights: n >= 0.
    """
    used = (weights > 0) & (hours > 0)
    w, y, offset = np.where(used, weights, 0.0), np.where(used, counts, 0.0), np.log(np.where(used, hours, 1.0))
    priors = design.priors
    b = np.zeros(len(priors))
    # Newton starts from each slot's own rate: near the fitted means, if not near the coefficients.
    came, existed = design.by_slot_sum(w * y), design.by_slot_sum(w * np.where(used, hours, 0.0))
    mean = came.sum() / existed.sum() if came.sum() > 0 else 1.0
    b[: len(came)] = np.log((came + 0.5) / (existed + 0.5 / mean))

    def objective(at: Array) -> float:
        eta = design.predictor(at) + offset
        return float(np.sum(w * (y * eta - np.exp(eta))) - 0.5 * np.sum(priors * at * at))

    best = objective(b)
    for _ in range(_MOST_STEPS):
        means = np.exp(design.predictor(b) + offset)
        step = design.newton_step(b, w * means, w * (y - means))
        # A full Newton step may overshoot far from the optimum.
        while (reached := objective(b + step)) < best - 1e-9 * abs(best) and np.abs(step).max() > _TOLERANCE:
            step = step / 2
        b, best = b + step, reached
        if np.abs(step).max() < _TOLERANCE:
            break
    return b


@dataclass(frozen=True)
class Features:
    """Which features a fit has; those of the season and the trend need a long history."""

    has_season: bool
    has_trend: bool
    trend_from: date

    @classmethod
    def of(cls, days: int, last: date) -> Features:
        """The features that so many days of history up to `last` allow."""
        return cls(days >= SEASON_DAYS, days >= TREND_DAYS, last)


def slot_columns() -> tuple[Array, Array]:
    """Intercept, hour and weekday of the 168 slots, Monday 0 first, and the precision of each."""
    slots = np.arange(_SLOTS)
    hour, weekday = np.eye(HOURS_PER_DAY)[slots % HOURS_PER_DAY], np.eye(7)[slots // HOURS_PER_DAY]
    sds = [_INTERCEPT_SD, *[HOUR_SD] * HOURS_PER_DAY, *[WEEKDAY_SD] * 7]
    return np.hstack([np.ones((_SLOTS, 1)), hour, weekday]), 1 / np.square(sds)


def calendar_design(first: date, days: int, holidays: Mapping[date, str], features: Features) -> Design:
    """The design of all hours of consecutive days; rows in the order of days, then hours."""
    dates = [first + timedelta(days=n) for n in range(days)]
    weekday = np.array([day.weekday() for day in dates], dtype=np.int64)
    slot = (weekday[:, None] * HOURS_PER_DAY + np.arange(HOURS_PER_DAY)[None, :]).ravel()
    is_holiday = np.array([day in holidays for day in dates], dtype=np.float64)
    after = np.array([day - timedelta(days=1) in holidays and day not in holidays for day in dates], dtype=np.float64)
    feast = np.array([(day.month, day.day) in ((12, 25), (1, 1)) for day in dates], dtype=np.float64)
    part = np.searchsorted(_PARTS, np.arange(HOURS_PER_DAY), side="right")
    hour = np.arange(HOURS_PER_DAY)

    def each_hour(values: Array) -> Array:
        return np.repeat(values, HOURS_PER_DAY)

    columns = [each_hour(is_holiday), each_hour(after), each_hour(feast)]
    columns += [np.outer(is_holiday, part == n).ravel() for n in range(len(_PARTS))]
    sds = [HOLIDAY_SD] * 3 + [HOLIDAY_PART_SD] * len(_PARTS)
    drivers: list[Driver] = ["holiday"] * len(columns)
    if features.has_season:
        turn = 2 * np.pi * np.array([day.timetuple().tm_yday for day in dates]) / _YEAR
        for n in range(1, _HARMONICS + 1):
            columns += [each_hour(np.sin(n * turn)), each_hour(np.cos(n * turn))]
            sds += [HARMONIC_SD] * 2
        for n in range(1, _HARMONICS + 1):
            clock = 2 * np.pi * n * hour / HOURS_PER_DAY
            shapes = [(season, daily) for season in (np.sin(turn), np.cos(turn)) for daily in (np.sin, np.cos)]
            columns += [np.outer(season, daily(clock)).ravel() for season, daily in shapes]
            sds += [SHAPE_SD] * len(shapes)
        drivers += ["season"] * (len(columns) - len(drivers))
    if features.has_trend:
        columns.append(each_hour(np.array([(day - features.trend_from).days for day in dates]) / _YEAR))
        sds.append(TREND_SD)
        drivers.append("trend")
    by_slot, precision = slot_columns()
    dense = np.column_stack(columns)
    return Design(slot, by_slot, dense, tuple(drivers), 1 / SLOT_SD**2, np.concatenate([precision, 1 / np.square(sds)]))


@dataclass(frozen=True)
class Fit:
    """A fitted regression: rates an hour for any days."""

    coefficients: Array
    features: Features
    training_days: int
    training_to: date

    def rates(self, first: date, days: int, holidays: Mapping[date, str]) -> Array:
        """Arrivals an existing hour; days x 24."""
        design = calendar_design(first, days, holidays, self.features)
        return np.exp(design.predictor(self.coefficients)).reshape(days, HOURS_PER_DAY)

    def rates_by_driver(self, first: date, days: int, holidays: Mapping[date, str]) -> dict[Driver, Array]:
        """Rates with one driver after the other taken into account, days x 24 each; the last ones are `rates`."""
        design = calendar_design(first, days, holidays, self.features)
        slots, p = design.by_slot.shape
        own, by_slot, dense = np.split(self.coefficients, [slots, slots + p])
        # The last columns by slot are the weekdays.
        usual, weekday = design.by_slot[:, :-7] @ by_slot[:-7], own + design.by_slot[:, -7:] @ by_slot[-7:]
        added: dict[Driver, Array] = {"usual_day": usual[design.slot], "weekday": weekday[design.slot]}
        for driver in DRIVERS:
            chosen = [place for place, name in enumerate(design.dense_drivers) if name == driver]
            if chosen:
                added[driver] = np.einsum("ij,j->i", design.dense[:, chosen], dense[chosen])
        logs = np.cumsum([added[driver] for driver in DRIVERS if driver in added], axis=0)
        rates = np.exp(logs).reshape(-1, days, HOURS_PER_DAY)
        return dict(zip((driver for driver in DRIVERS if driver in added), rates, strict=True))


def fit_calendar(first: date, counts: Array, hours: Array, holidays: Mapping[date, str]) -> Fit:
    """Fit the regression to the days of a history, the last one being the newest that is known.

    Args:
        counts: days x 24; NaN where nothing is known.
        hours: days x 24, hours that existed (or any other exposure).
    """
    days = len(counts)
    last = first + timedelta(days=days - 1)
    known = int((~np.isnan(counts).any(axis=1)).sum())
    features = Features.of(known, last)
    age = np.repeat(np.arange(days)[::-1], HOURS_PER_DAY)
    weights = np.where(np.isnan(counts.ravel()), 0.0, 0.5 ** (age / HALF_LIFE_DAYS))
    design = calendar_design(first, days, holidays, features)
    b = fit_poisson(design, np.nan_to_num(counts.ravel()), hours.ravel(), weights)
    return Fit(b, features, known, last)


def level_factors(actual: Array, fitted: Array) -> Array:
    """How much more comes lately than the calendar explains: (sum w y + k) / (sum w m + k), newest day last.

    w halves every 14 days and ends after 70; k is 1.25 days' mean arrivals.

    Args:
        actual: arrivals by day; NaN where nothing is known.
        fitted: what the regression has for these days.

    Returns:
        The level as it was known before each day, and after the last; days + 1 values, the first being 1.
    """
    known = ~np.isnan(actual)
    came, expected = np.where(known, actual, 0.0), np.where(known, fitted, 0.0)
    weights = 0.5 ** (np.arange(LEVEL_DAYS) / LEVEL_HALF_LIFE_DAYS)
    days = max(1, int(known.sum()))
    k = LEVEL_PRIOR_DAYS * float(expected.sum()) / days
    summed = [np.concatenate([[0.0], np.convolve(values, weights)[: len(values)]]) for values in (came, expected)]
    return np.asarray((summed[0] + k) / (summed[1] + k), dtype=np.float64) if k > 0 else np.ones(len(actual) + 1)
