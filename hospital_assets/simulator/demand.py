"""How many patients are to be expected at each hospital in each hour: the true rates, as a product of factors.

A rate is the hospital's usual arrivals times hour of the day, weekday, season, trend, public holidays, the day's own
factor, and the epidemic waves of the winter. Days are alike to the days before them, and hospitals partly to each
other. What a factor is on a day follows from the seed and the day alone, not from the days that are simulated.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from hospital_assets.forecasting.calendar import holiday_calendar, public_holidays
from hospital_assets.simulator.network import EPOCH, HOSPITALS, VISITS_PER_DAY, midnight_utc

Factors = npt.NDArray[np.float64]

#: Share of the network's daily arrivals in each local hour; peaks about noon and 17 to 18 h.
_NIGHT, _MORNING = (2.4, 1.9, 1.6, 1.5, 1.5, 1.8), (2.4, 3.3, 4.3, 5.2, 5.7, 6.0)
_AFTERNOON, _LATE = (6.2, 6.0, 5.6, 5.5, 5.7, 6.1), (6.0, 5.4, 4.9, 4.4, 3.7, 2.9)
HOUR_SHARE = np.array([*_NIGHT, *_MORNING, *_AFTERNOON, *_LATE])
HOUR_SHARE /= HOUR_SHARE.sum()
WEEKDAY_FACTOR = np.array([1.06, 0.99, 0.97, 0.97, 1.00, 1.02, 0.99])
#: Friday to Sunday evenings are busier.
_EVENING = 1.15
#: More in winter than in summer, without the epidemics: so much above the mean in late January.
_SEASON, _PEAK_DAY = 0.05, 25
#: What epidemics add over a year comes off the rest, so that a year has the visits it is said to have.
_WITHOUT_EPIDEMICS = 0.975
#: More in each year than in the one before; 1 at the start of this year.
_TREND_A_YEAR, _TREND_FROM = 0.02, date(2026, 1, 1)
#: Public holidays, by part of the day: people stay at home in the morning; the next day they come.
HOLIDAY_FACTOR = np.repeat([1.05, 0.85, 0.93], [7, 5, 12])
DAY_AFTER_FACTOR = 1.05
_CHRISTMAS_FACTOR, _NEW_YEARS_NIGHT_FACTOR, _NIGHT_ENDS = 0.92, 1.25, 6
#: How like a day is to the day before it, and standard deviations (log) of what hospitals share and of their own.
DAY_AFTER_DAY, _SHARED, _OWN = 0.6, 0.03, 0.04
#: Days whose influence is still felt.
_MEMORY = 40
#: Winters are counted from this month on.
_JULY = 7
#: Respiratory waves of a winter: mean day of the peak (days from 1 July on) and its deviation, mean height over usual
#: arrivals and its deviation (log), length (standard deviation, days). RSV comes before influenza.
_WAVES = ((155.0, 8.0, 0.05, 0.25, 15.0), (205.0, 16.0, 0.14, 0.30, 17.0))
#: A wave reaches hospitals some days apart, and some more than others.
_WAVE_DAYS_APART, _WAVE_DIFFERS = 4.0, 0.15
#: What each stream of random numbers is for.
_DAYS, _EPIDEMICS = 1, 2


def expected_arrivals(seed: int, start: date, days: int, scale: float) -> pl.DataFrame:
    """The rate of every hour at every hospital.

    Returns:
        hospital (number), hour_at (UTC second), service_date and hour_of_day (local), the factors season, trend,
        holiday, day and epidemic (added to the season), expected_arrivals, and of these epidemic_arrivals.
    """
    return pl.concat([_of_hospital(number, seed, start, days, scale) for number in range(len(HOSPITALS))])


def _of_hospital(number: int, seed: int, start: date, days: int, scale: float) -> pl.DataFrame:
    name, (_, _, state, zone, _, share) = list(HOSPITALS.items())[number]
    at = np.arange(midnight_utc(start, zone), midnight_utc(start + timedelta(days=days), zone), 3600)
    local = pl.from_epoch(pl.Series(at)).dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    hour = local.dt.hour().to_numpy().astype(int)
    weekday = local.dt.weekday().to_numpy().astype(int) - 1
    place = local.dt.date().cast(pl.Int32).to_numpy() - (start - EPOCH).days
    season = (_WITHOUT_EPIDEMICS * season_factors(start, days))[place]
    epidemic = epidemic_factors(seed, number, start, days)[place]
    trend = trend_factors(start, days)[place]
    holiday = holiday_factors(holiday_calendar("", zone, state), start, days)[place, hour]
    day = day_factors(seed, number, start, days)[place]
    evening = np.where((weekday >= 4) & (hour >= 18), _EVENING, 1.0)
    usual = VISITS_PER_DAY * scale * share * HOUR_SHARE[hour] * WEEKDAY_FACTOR[weekday] * evening
    usual *= trend * holiday * day
    return pl.DataFrame(
        {
            "hospital": np.full(len(at), number),
            "hospital_id": np.full(len(at), name),
            "hour_at": at,
            "service_date": local.dt.date(),
            "hour_of_day": hour,
            "season": season,
            "trend": trend,
            "holiday": holiday,
            "day": day,
            "epidemic": epidemic,
            "expected_arrivals": usual * (season + epidemic),
            "epidemic_arrivals": usual * epidemic,
        }
    )


def _dates(start: date, days: int) -> list[date]:
    return [start + timedelta(days=n) for n in range(days)]


def season_factors(start: date, days: int) -> Factors:
    """By day: highest in late January, lowest in late July."""
    of_year = np.array([day.timetuple().tm_yday for day in _dates(start, days)])
    return 1.0 + _SEASON * np.cos(2 * np.pi * (of_year - _PEAK_DAY) / 365.25)


def trend_factors(start: date, days: int) -> Factors:
    """By day: a little more every year."""
    since = (start - _TREND_FROM).days + np.arange(days)
    return np.asarray((1 + _TREND_A_YEAR) ** (since / 365.25), dtype=np.float64)


def holiday_factors(calendar: str, start: date, days: int) -> Factors:
    """Days x 24: 1 on days that are neither a public holiday of the calendar nor follow one."""
    found = np.ones((days, len(HOUR_SHARE)))
    holidays = public_holidays(calendar, start.year - 1, (start + timedelta(days=days)).year)
    for n, day in enumerate(_dates(start, days)):
        if day in holidays:
            found[n] = HOLIDAY_FACTOR
        elif day - timedelta(days=1) in holidays:
            found[n] = DAY_AFTER_FACTOR
        if (day.month, day.day) == (12, 25):
            found[n] *= _CHRISTMAS_FACTOR
        elif (day.month, day.day) == (1, 1):
            found[n, :_NIGHT_ENDS] = _NEW_YEARS_NIGHT_FACTOR
    return found


def day_factors(seed: int, hospital: int, start: date, days: int) -> Factors:
    """By day: what no calendar knows; a first-order autoregression, half of it common to all hospitals."""
    shared = _autoregressed(seed, len(HOSPITALS), start, days) * _SHARED
    return np.exp(shared + _autoregressed(seed, hospital, start, days) * _OWN)


def _autoregressed(seed: int, stream: int, start: date, days: int) -> Factors:
    """A series of standard deviation 1 whose every day follows from the shocks of the days up to it."""
    first = start - timedelta(days=_MEMORY - 1)
    last = start + timedelta(days=days - 1)
    years = range(first.year, last.year + 1)
    # A year's shocks are drawn at once: the same whichever of its days are asked for.
    shocks = np.concatenate(
        [
            np.random.default_rng([seed, _DAYS, stream, year]).normal(
                size=(date(year + 1, 1, 1) - date(year, 1, 1)).days
            )
            for year in years
        ]
    )
    begin = (first - date(years[0], 1, 1)).days
    weights = DAY_AFTER_DAY ** np.arange(_MEMORY) * np.sqrt(1 - DAY_AFTER_DAY**2)
    found: Factors = np.convolve(shocks[begin : begin + days + _MEMORY - 1], weights, mode="valid")
    return found


def epidemic_factors(seed: int, hospital: int, start: date, days: int) -> Factors:
    """By day: how many more come than usual, as a share of the usual; next to nothing in summer."""
    found = np.zeros(days)
    number = np.arange(days)
    for winter in range(start.year - 1, (start + timedelta(days=days)).year + 1):
        day = (start - date(winter, _JULY, 1)).days + number
        for peak, height, length in _waves(seed, hospital, winter):
            found += height * np.exp(-0.5 * ((day - peak) / length) ** 2)
    return found


def _waves(seed: int, hospital: int, winter: int) -> Iterator[tuple[float, float, float]]:
    """Peak (days from 1 July on), height and length of the waves of a winter at a hospital."""
    everywhere = np.random.default_rng([seed, _EPIDEMICS, len(HOSPITALS), winter]).normal(size=(len(_WAVES), 2))
    here = np.random.default_rng([seed, _EPIDEMICS, hospital, winter]).normal(size=(len(_WAVES), 2))
    for (peak, apart, height, differs, length), common, own in zip(_WAVES, everywhere, here, strict=True):
        yield (
            peak + apart * common[0] + _WAVE_DAYS_APART * own[0],
            height * float(np.exp(differs * common[1] + _WAVE_DIFFERS * own[1])),
            length,
        )
