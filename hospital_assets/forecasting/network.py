"""Forecasts of all hospitals from one origin, each with the method that ships there, and of their sum.

Means add up exactly, from hours to days and from hospitals to the network. Quantiles do not add up and are not made
to: each grain, and each total, has a dispersion of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from hospital_assets.forecasting.calendar import HOURS_PER_DAY, public_holidays
from hospital_assets.forecasting.counts import Array
from hospital_assets.forecasting.gate import Gate, Verdict
from hospital_assets.forecasting.regression import fit_calendar
from hospital_assets.forecasting.series import (
    DAYS_AHEAD,
    DISPERSION_DAYS,
    PRIOR_DAYS,
    PROFILE_DAYS,
    RIVALS,
    SHORT_DAYS,
    Distribution,
    Forecast,
    Grain,
    Method,
    Series,
    dispersions,
)

#: The network's profile needs no more than this: hours and weekdays change slowly.
_PROFILE_WINDOW = SHORT_DAYS


@dataclass(frozen=True)
class HospitalForecast:
    """What is forecast for one hospital, and why by this method.

    Attributes:
        rivals: every method that could be used, the shipped one among them.
        verdicts: what the gate found; None where the history is too short for one.
    """

    hospital_id: str
    rivals: tuple[Forecast, ...]
    method: Method
    verdicts: Mapping[Grain, Verdict] | None

    @property
    def shipped(self) -> Forecast:
        """The forecast that readers get."""
        return next(made for made in self.rivals if made.method == self.method)


class Network:
    """The hospitals' series; backtests and fits are shared by all origins asked for."""

    def __init__(self, series: Sequence[Series], challengers: Sequence[Method] = ()) -> None:
        self._series, self._challengers = series, challengers
        self._gates = {one.hospital_id: Gate(one, challengers) for one in series}

    def hospitals(self, as_of: date) -> list[HospitalForecast]:
        """Forecasts of the hospitals whose day `as_of` is known, from the end of that day."""
        known = self._known(as_of)
        return [self._hospital(one, one.index(as_of), as_of) for one in self._series if one.hospital_id in known]

    def _known(self, day: date) -> set[str]:
        """The hospitals at which a day is over and was delivered."""
        return {
            one.hospital_id
            for one in self._series
            if 0 <= one.index(day) < len(one.counts) and not np.isnan(one.counts[one.index(day), 0])
        }

    def _hospital(self, one: Series, origin: int, as_of: date) -> HospitalForecast:
        days = one.known_days(origin)
        if days < PRIOR_DAYS and one.yearly_visits is not None:
            return HospitalForecast(one.hospital_id, (one.prior(origin),), "prior", None)
        if days < PROFILE_DAYS:
            made = one.network_profile(origin, self._profile(one, origin, as_of))
            return HospitalForecast(one.hospital_id, (made,), "network_profile", None)
        method, verdicts = self._gates[one.hospital_id].shipping(origin)
        # Without a backtest a challenger has nothing to show.
        tried = RIVALS if verdicts is None else (*RIVALS, *self._challengers)
        return HospitalForecast(one.hospital_id, tuple(one.rival(rival, origin) for rival in tried), method, verdicts)

    def _profile(self, one: Series, origin: int, as_of: date) -> Array:
        """Relative rates of the network's hours and weekdays, on the days of `one` and those ahead.

        Learned from hospitals with two weeks of history; where there are none, from all.
        """
        known = {other.hospital_id: other.known_days(other.index(as_of)) for other in self._series}
        long = [other for other in self._series if known[other.hospital_id] >= PROFILE_DAYS]
        first = as_of - timedelta(days=_PROFILE_WINDOW - 1)
        counts, exposure = (np.zeros((_PROFILE_WINDOW, HOURS_PER_DAY)) for _ in range(2))
        for other in long or [other for other in self._series if known[other.hospital_id] > 0]:
            last = other.index(as_of) + 1
            begin = max(0, last - _PROFILE_WINDOW)
            came = other.counts[begin:last]
            hours = other.hours[begin : begin + len(came)]
            is_known = ~np.isnan(came)
            if not is_known.any():
                continue
            rate = float(came[is_known].sum() / hours[is_known].sum())
            # A hospital where nobody came lately has a series that ends before.
            until = _PROFILE_WINDOW - (last - begin - len(came))
            counts[until - len(came) : until] += np.nan_to_num(came)
            exposure[until - len(came) : until] += np.where(is_known, rate * hours, 0.0)
        fit = fit_calendar(first, counts, exposure, {})
        start = one.start(origin)
        return fit.rates(one.day(start), origin + 1 - start + DAYS_AHEAD, {})

    def total(self, hospitals: Sequence[HospitalForecast], as_of: date) -> Distribution | None:
        """The sum over hospitals; None without any, or without one that was known the day before: it may be yet.

        Its dispersions are those of the summed residuals: hospitals have weather and epidemics in common.
        """
        if not hospitals or self._known(as_of - timedelta(days=1)) - self._known(as_of):
            return None
        means = np.sum([one.shipped.means for one in hospitals], axis=0)
        by_id = {one.hospital_id: one for one in self._series}
        past = [
            by_id[one.hospital_id].one_step(one.method, by_id[one.hospital_id].index(as_of))
            for one in hospitals
            if one.method not in ("prior", "network_profile")
        ]
        # A hospital that joined later added nothing before.
        summed = [np.sum([_padded(values[part]) for values in past], axis=0) for part in (0, 1)] if past else []
        by_hour, by_day = dispersions(*summed) if past else (0.0, 0.0)
        least = min(hospitals, key=lambda one: one.shipped.hour_dispersion).shipped
        # Without residuals of the sum, that of the steadiest hospital.
        return Distribution(means, by_hour if past else least.hour_dispersion, by_day if past else least.day_dispersion)


def _padded(values: Array) -> Array:
    missing = DISPERSION_DAYS - len(values)
    return np.vstack([np.zeros((missing, HOURS_PER_DAY)), values]) if missing > 0 else values


def holiday_names(series: Series, as_of: date) -> dict[date, str]:
    """Public holidays among the days ahead, by day."""
    last = as_of + timedelta(days=DAYS_AHEAD)
    named = public_holidays(series.calendar, as_of.year, last.year)
    return {day: name for day, name in named.items() if as_of < day <= last}
