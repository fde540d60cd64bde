"""The partitions: local service days, and why they are what they are.

A partition is a span of local service days (one day for hospitals). It is never a file or a
patient: Dagster keeps every key of every partitioned asset, and its own advice ends at 100,000.
A record's service day comes from its content, in its hospital's time zone, never from a file name.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from hospital_assets.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

_CRON = {"daily": "0 0 * * *", "monthly": "0 0 1 * *", "yearly": "0 0 1 1 *"}

#: Where a day begins first: UTC+14 (the sign is POSIX's).
FIRST_ZONE = "Etc/GMT-14"


def service_periods(settings: Settings) -> dg.TimeWindowPartitionsDefinition:
    """The partitions of one data directory: days, months or years of local service dates.

    Keys are the first day of the period as `YYYY-MM-DD`. A definition with an end has no time zone
    because a service day already is a local calendar day. An open-ended directory includes today:
    that of all zones, since its hospitals may lie in any.
    """
    first = period_start(settings.first_service_date, settings)
    last = settings.last_service_date
    import dagster as dg

    return dg.TimeWindowPartitionsDefinition(
        start=first.isoformat(),
        timezone=FIRST_ZONE if last is None else None,
        end=None if last is None else period_end(last, settings).isoformat(),
        end_offset=1 if last is None else _periods_ahead(last, settings),
        fmt="%Y-%m-%d",
        cron_schedule=_CRON[settings.partitions],
    )


def latest_day(now: datetime) -> date:
    """The latest day that it is anywhere: the last one of an open-ended directory."""
    return now.astimezone(ZoneInfo(FIRST_ZONE)).date()


def period_start(day: date, settings: Settings) -> date:
    """The first day of the period that holds `day`."""
    if settings.partitions == "daily":
        return day
    return day.replace(day=1) if settings.partitions == "monthly" else day.replace(month=1, day=1)


def period_end(day: date, settings: Settings) -> date:
    """The first day after the period that holds `day` (half-open)."""
    start = period_start(day, settings)
    if settings.partitions == "daily":
        return start + timedelta(days=1)
    if settings.partitions == "yearly":
        return start.replace(year=start.year + 1)
    return (start + timedelta(days=32)).replace(day=1)


def _periods_ahead(last: date, settings: Settings) -> int:
    """How many periods a stated end lies ahead of today.

    Dagster only has partitions up to today plus this many; simulated and de-identified days may
    lie further ahead. `end` still decides, so a count made on an earlier day is only too large.
    Dagster walks through all of them at every look, so it is not simply a large number.
    """
    ahead = (last - date.today()).days
    days = {"daily": 1, "monthly": 28, "yearly": 365}[settings.partitions]
    return max(0, ahead // days + 2)


def range_tags(first_key: str, last_key: str) -> dict[str, str]:
    """Tags of a run over a range of partitions."""
    return {"dagster/asset_partition_range_start": first_key, "dagster/asset_partition_range_end": last_key}
