"""One hospital's arrivals by local hour, and what each method forecasts from them at any origin.

An origin is the last local day that is over. A forecast made there reads nothing after it. The regression is fitted
anew every Sunday (every day while the history is short); its level follows every day.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from hospital_assets.forecasting.calendar import HOURS_PER_DAY, existing_hours, holiday_calendar, public_holidays
from hospital_assets.forecasting.counts import Array, estimated_dispersion
from hospital_assets.forecasting.regression import Driver, Fit, fit_calendar, level_factors
from hospital_assets.forecasting.slots import EMPTY_DAY_MEAN, slot_rates, slot_rates_a_week_ahead
from hospital_assets.forecasting.trees import fit_trees

#: `regression` and `slot_mean` are rivals, `boosted_trees` a challenger where it is asked for; the other two are for
#: hospitals without enough history for any.
Method = Literal["regression", "boosted_trees", "slot_mean", "network_profile", "prior"]
RIVALS: tuple[Method, Method] = ("regression", "slot_mean")

#: Hours are forecast, and scored, for two days; days for two weeks.
Grain = Literal["hour", "day"]
GRAINS: tuple[Grain, Grain] = ("hour", "day")
DAYS_AHEAD = 14
DAYS_OF: dict[Grain, int] = {"hour": 2, "day": DAYS_AHEAD}
#: No fit looks further back.
MOST_DAYS = 1_096
#: Below: mean arrivals of the volume band; the network's profile at the hospital's own mean.
PRIOR_DAYS, PROFILE_DAYS = 3, 14
#: Below, there is no backtest that could decide about the regression.
SHORT_DAYS = 56
#: Below, the regression is fitted every day instead of every Sunday: a day more still changes it.
_DAILY_FIT_DAYS = 28
#: Residuals of a year tell the dispersion.
DISPERSION_DAYS = 365
#: (Days of history below which it holds, least dispersion of hours, of days): residuals within a short history are
#: too small. Set where 80 % intervals held 80 % (forecasting reference; days interpolated).
DISPERSION_FLOORS = (
    (PRIOR_DAYS, 0.04, 0.04),
    (PROFILE_DAYS, 0.03, 0.02),
    (28, 0.02, 0.008),
    (SHORT_DAYS, 0.015, 0.006),
    (365, 0.01, 0.005),
)


@dataclass(frozen=True)
class Distribution:
    """Counts that are expected of the hours and days ahead.

    Attributes:
        means: days ahead x 24; the day's mean is their sum.
        hour_dispersion: of each hour.
        day_dispersion: of the day's total: hours of a day move together, so it is not theirs.
    """

    means: Array
    hour_dispersion: float
    day_dispersion: float

    def dispersion(self, grain: Grain) -> float:
        """Of an hour, or of a day's total."""
        return self.hour_dispersion if grain == "hour" else self.day_dispersion


@dataclass(frozen=True)
class Forecast(Distribution):
    """What one method forecasts from one origin.

    Attributes:
        level: the factor of lately over the calendar; 1 where the method has none.
        training_days: days of history that were used.
        training_to: the last day the fit has seen.
    """

    method: Method
    level: float
    training_days: int
    training_to: date


class Rates(Protocol):
    """What was learned from a history: rates an hour for any days."""

    @property
    def training_to(self) -> date:
        """The last day it has seen."""

    def rates(self, first: date, days: int, holidays: Mapping[date, str]) -> Array:
        """Arrivals an existing hour; days x 24."""


@dataclass(frozen=True)
class Series:
    """A hospital's arrivals on consecutive local days.

    Attributes:
        counts: days x 24; NaN where nothing is known.
        calendar: whose public holidays it keeps, see `calendar.holiday_calendar`.
        yearly_visits: by its volume band; None where unknown.
    """

    hospital_id: str
    first: date
    counts: Array
    time_zone: str
    calendar: str = ""
    yearly_visits: float | None = None
    hours: Array = field(init=False, repr=False)
    _fits: dict[tuple[Method, int, int], tuple[Rates, Array]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        hours = existing_hours(self.first, len(self.counts) + DAYS_AHEAD, self.time_zone)
        object.__setattr__(self, "hours", hours)

    def day(self, index: int) -> date:
        """The date of a row."""
        return self.first + timedelta(days=index)

    def index(self, day: date) -> int:
        """The row of a date."""
        return (day - self.first).days

    @property
    def holidays(self) -> dict[date, str]:
        """Public holidays of all days there are and are forecast."""
        last = self.day(len(self.counts) + DAYS_AHEAD)
        return public_holidays(self.calendar, self.first.year - 1, last.year)

    def start(self, origin: int) -> int:
        """The first row that is used at an origin."""
        return max(0, origin + 1 - MOST_DAYS)

    def hours_ahead(self, origin: int) -> Array:
        """How long each hour of the days ahead exists."""
        return self.hours[origin + 1 : origin + 1 + DAYS_AHEAD]

    def known_days(self, origin: int) -> int:
        """Days of history at an origin, missing ones left out; none at an origin before the first day."""
        if origin < 0:
            return 0
        return int((~np.isnan(self.counts[self.start(origin) : origin + 1, 0])).sum())

    def by_calendar(self, method: Method, origin: int) -> Forecast:
        """The rates that a method has learned of the calendar, times the level of the last ten weeks."""
        past, rates, level, trained_to = self._learned(method, origin)
        hours = self.hours_ahead(origin)
        by_hour, by_day = dispersions(*self._recent(origin, past))
        return self._forecast(method, origin, rates * hours * level, by_hour, by_day, level, trained_to)

    def slot_mean(self, origin: int) -> Forecast:
        """The mean of the same hour of the week over the last weeks there are, up to eight."""
        start = self.start(origin)
        counts, hours = self.counts[start : origin + 1], self.hours[start : origin + 1]
        by_hour, by_day = dispersions(*self.one_step("slot_mean", origin))
        rates = slot_rates(counts, hours, DAYS_AHEAD)
        # A weekday that was missing in all of these weeks is like the others.
        usual = float(np.nansum(counts) / hours[~np.isnan(counts)].sum())
        by_clock = np.nan_to_num(np.ma.masked_invalid(rates).mean(axis=0).filled(usual), nan=usual)
        rates = np.where(np.isnan(rates), by_clock[None, :], rates)
        means = rates * self.hours_ahead(origin)
        return self._forecast("slot_mean", origin, means, by_hour, by_day, 1.0, self.day(origin))

    def one_step(self, method: Method, origin: int) -> tuple[Array, Array]:
        """Counts of the last year, and what the method had for each day before it; days x 24, NaN where unknown."""
        if method != "slot_mean":
            return self._recent(origin, self._learned(method, origin)[0])
        start = self.start(origin)
        counts, hours = self.counts[start : origin + 1], self.hours[start : origin + 1]
        return self._recent(origin, slot_rates_a_week_ahead(counts, hours) * hours)

    def _learned(self, method: Method, origin: int) -> tuple[Array, Array, float, date]:
        """Means of the past, each at the level known the day before; rates ahead; the level; the last day fitted."""
        start = self.start(origin)
        fit, rates = self._fitted(method, start, origin)
        days = origin + 1 - start
        means = rates[:days] * self.hours[start : origin + 1]
        levels = level_factors(self.counts[start : origin + 1].sum(axis=1), means.sum(axis=1))
        return means * levels[:-1, None], rates[days : days + DAYS_AHEAD], float(levels[-1]), fit.training_to

    def _recent(self, origin: int, means: Array) -> tuple[Array, Array]:
        return self.counts[self.start(origin) : origin + 1][-DISPERSION_DAYS:], means[-DISPERSION_DAYS:]

    def drivers(self, made: Forecast, origin: int) -> dict[Driver, Array]:
        """What a forecast expects of each day ahead, with one driver after the other taken into account.

        Returns:
            driver -> arrivals of the 14 days; the last ones are the forecast's.
        """
        hours = self.hours_ahead(origin)
        expected = made.means.sum(axis=1)
        if made.method != "regression":
            return {"usual_day": expected.sum() / hours.sum() * hours.sum(axis=1), "weekday": expected}
        fit, _ = self._fitted("regression", self.start(origin), origin)
        assert isinstance(fit, Fit)  # noqa: S101  (that of the regression)
        rates = fit.rates_by_driver(self.day(origin + 1), DAYS_AHEAD, self.holidays)
        return {driver: (found * hours).sum(axis=1) for driver, found in rates.items()} | {"level": expected}

    def rival(self, method: Method, origin: int) -> Forecast:
        """What a rival or a challenger forecasts."""
        return self.slot_mean(origin) if method == "slot_mean" else self.by_calendar(method, origin)

    def compared(self, made: Forecast, origin: int, grain: Grain) -> tuple[Array, Array]:
        """What came and what was expected, of the hours or days a forecast is scored on, as far as they are known."""
        came = self.counts[origin + 1 : origin + 1 + DAYS_OF[grain]]
        means, hours = made.means[: len(came)], self.hours[origin + 1 : origin + 1 + len(came)]
        if grain == "hour":
            used = ~np.isnan(came) & (hours > 0)
            return came[used], means[used]
        known = ~np.isnan(came).any(axis=1)
        return came[known].sum(axis=1), means[known].sum(axis=1)

    def prior(self, origin: int) -> Forecast:
        """The visits a year of the hospital's volume band, spread evenly; only for a hospital that begins."""
        ahead = self.hours_ahead(origin)
        rate = (self.yearly_visits or 0.0) / 365 / HOURS_PER_DAY
        return self._forecast("prior", origin, rate * ahead, 0.0, 0.0, 1.0, self.day(origin))

    def network_profile(self, origin: int, profile: Array) -> Forecast:
        """The network's hours and weekdays at the hospital's own mean.

        Args:
            profile: from the first row used until the last day forecast, x 24, relative rates.
        """
        start = self.start(origin)
        counts, hours = self.counts[start : origin + 1], self.hours[start : origin + 1]
        expected = profile[: len(counts)] * hours
        known = ~np.isnan(counts)
        own = counts[known].sum() / max(expected[known].sum(), 1e-9)
        by_hour, by_day = dispersions(counts, own * expected)
        ahead = own * profile[len(counts) :] * self.hours_ahead(origin)
        return self._forecast("network_profile", origin, ahead, by_hour, by_day, 1.0, self.day(origin))

    def _forecast(
        self, method: Method, origin: int, means: Array, by_hour: float, by_day: float, level: float, trained_to: date
    ) -> Forecast:
        days = self.known_days(origin)
        least = next(((hour, day) for below, hour, day in DISPERSION_FLOORS if days < below), (0.0, 0.0))
        return Forecast(means, max(by_hour, least[0]), max(by_day, least[1]), method, level, days, trained_to)

    def _fitted(self, method: Method, start: int, origin: int) -> tuple[Rates, Array]:
        """The fit in force at an origin, and its rates from `start` until two weeks after the next fit."""
        fitted = origin if self.known_days(origin) < _DAILY_FIT_DAYS else origin - self.day(origin).isoweekday() % 7
        start_of_fit = self.start(fitted)
        if (key := (method, start_of_fit, fitted)) not in self._fits:
            rows = slice(start_of_fit, fitted + 1)
            holidays = self.holidays
            learn = fit_trees if method == "boosted_trees" else fit_calendar
            fit: Rates = learn(self.day(start_of_fit), self.counts[rows], self.hours[rows], holidays)
            until = fitted + 7 + DAYS_AHEAD
            self._fits[key] = fit, fit.rates(self.day(start_of_fit), until - start_of_fit, holidays)
        fit, rates = self._fits[key]
        return fit, rates[start - start_of_fit :]


def dispersions(counts: Array, means: Array) -> tuple[float, float]:
    """Of hours and of days, by moments over what was both forecast and observed."""
    known = ~(np.isnan(counts) | np.isnan(means))
    days = known.all(axis=1)
    by_hour = estimated_dispersion(counts[known], means[known])
    return by_hour, estimated_dispersion(counts[days].sum(axis=1), means[days].sum(axis=1))


def delivered(arrivals: Array) -> npt.NDArray[np.bool_]:
    """Which days of a hospital are known: not those before its first arrival, nor those on which nothing was delivered.

    That is a day without any arrival where at least ten came on other days; decided by the days before alone, so that
    what comes later changes no forecast made earlier.

    Args:
        arrivals: of each day, in order.
    """
    came = arrivals > 0
    found: npt.NDArray[np.bool_] = came | (np.cumsum(arrivals) < EMPTY_DAY_MEAN * np.cumsum(came))
    return found


def series_of(
    hospital_id: str,
    by_day: dict[date, Array],
    time_zone: str,
    last: date,
    stated_calendar: str = "",
    state: str = "",
    visits_band: str | None = None,
) -> Series | None:
    """A hospital's series from its first arrival until `last`; None where nobody ever came.

    Args:
        by_day: arrivals by local day, 24 each; days that are not there are missing.
        stated_calendar: whose holidays it keeps, where the settings name them.
        visits_band: of a year, as in `20000-39999`.
    """
    days = sorted(day for day in by_day if day <= last)
    known = [
        day
        for day, is_known in zip(days, delivered(np.array([by_day[d].sum() for d in days])), strict=True)
        if is_known
    ]
    if not known:
        return None
    first = known[0]
    counts = np.full(((last - first).days + 1, HOURS_PER_DAY), np.nan)
    for day in known:
        counts[(day - first).days] = by_day[day]
    calendar = holiday_calendar(stated_calendar, time_zone, state)
    return Series(hospital_id, first, counts, time_zone, calendar, visits_of_band(visits_band))


def visits_of_band(band: str | None) -> float | None:
    """The middle of a volume band: `20000-39999`, `<20000`, `80000+`, with or without commas; None where unreadable."""
    stated = (band or "").replace(",", "").replace("<", "0-")
    numbers = [int(part) for part in "".join(c if c.isdigit() else " " for c in stated).split()]
    return sum(numbers) / len(numbers) if numbers else None
