"""What is known of a day ahead of time: how long each of its hours exists, and whether it is a public holiday."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.resources
import itertools
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from hospital_assets.forecasting.counts import Array

HOURS_PER_DAY = 24
#: Zones shift their clocks by whole quarters of an hour.
_STEP = timedelta(minutes=15)


def existing_hours(first: date, days: int, time_zone: str) -> Array:
    """How long each hour of the clock exists on each local day, in hours.

    1 on most days; 0 for the hour that is skipped in spring and 2 for the one repeated in autumn; 0.5 and 1.5 where
    the clock moves by half an hour (Lord Howe Island).

    Returns:
        days x 24.
    """
    zone = ZoneInfo(time_zone)
    found = np.ones((days, HOURS_PER_DAY))
    midnights = [
        datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
        for day in (first + timedelta(days=n) for n in range(days + 1))
    ]
    for n, (start, end) in enumerate(itertools.pairwise(midnights)):
        if end - start != timedelta(days=1):
            found[n] = _counted(start, end, zone)
    return found


def _counted(start: datetime, end: datetime, zone: ZoneInfo) -> Array:
    """Hours of each label between two instants."""
    labels = [(start + n * _STEP).astimezone(zone).hour for n in range((end - start) // _STEP)]
    return np.bincount(labels, minlength=HOURS_PER_DAY).astype(np.float64) * (_STEP / timedelta(hours=1))


#: Old names that the tz database links to a place in another country, whose clocks have been the same since 1970.
_ELSEWHERE = {
    "Africa/Asmera": "ER",
    "Africa/Timbuktu": "ML",
    "America/Coral_Harbour": "CA",
    "America/Virgin": "VI",
    "Antarctica/South_Pole": "AQ",
    "Atlantic/Jan_Mayen": "SJ",
    "Iceland": "IS",
    **dict.fromkeys(("Pacific/Ponape", "Pacific/Truk", "Pacific/Yap"), "FM"),
    # Clocks, which many countries have.
    **dict.fromkeys(("CET", "EET", "MET", "WET", "EST", "HST", "MST", "EST5EDT", "CST6CDT", "MST7MDT", "PST8PDT"), ""),
}


@functools.cache
def country_of_zone(time_zone: str) -> str:
    """The country (ISO 3166 alpha-2) of a time zone, by any name that the tz database has; empty where it has none."""
    folder = importlib.resources.files("tzdata.zoneinfo")
    table, rules = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("zone.tab", "tzdata.zi"))
    rows = (line.split("\t") for line in table.splitlines() if not line.startswith("#"))
    countries = {row[2]: row[0] for row in rows} | _ELSEWHERE
    links = (line.split() for line in rules.splitlines() if line.startswith("L "))
    today = {old: new for _, new, old in links}
    return countries.get(time_zone, countries.get(today.get(time_zone, ""), ""))


def holiday_calendar(stated: str, time_zone: str, state: str) -> str:
    """Whose public holidays a hospital keeps: `US-WI`, `GB-SCT`, `DE`; empty where none are known.

    Args:
        stated: what the settings name for the hospital; it wins. `none`: no holidays.
        time_zone: IANA name, an old one (`US/Eastern`), too; its country is the default.
        state: of the hospital; its region is the default where the country has one of this name.
    """
    import holidays

    country = country_of_zone(time_zone) if not stated else stated.partition("-")[0]
    known = holidays.list_supported_countries()
    if country not in known:
        return ""
    region = stated.partition("-")[2] if stated else state
    return f"{country}-{region}" if region in known[country] else country


@functools.lru_cache(maxsize=64)
def public_holidays(calendar: str, first_year: int, last_year: int) -> dict[date, str]:
    """Public holidays of the years (inclusive), by day, named in English where the library can.

    Args:
        calendar: as `holiday_calendar` gives it; an empty one has no holidays.
    """
    if not calendar:
        return {}
    import holidays

    country, _, region = calendar.partition("-")
    years = range(first_year, last_year + 1)
    return dict(holidays.country_holidays(country, subdiv=region or None, years=years, language="en_US"))


@functools.cache
def calendar_version() -> str:
    """The version of the library that the holidays come from; part of what a forecast was made of."""
    return f"holidays {importlib.metadata.version('holidays')}"
