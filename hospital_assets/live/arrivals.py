"""Arrivals of the last hours beside what is expected of the next, for the live board.

Read from the live copies: who came as last committed and as landed since, and the newest forecast that ships.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

import polars as pl

from hospital_assets.contracts.kpis import ALL
from hospital_assets.live.copies import read_copy

#: Hours before the one in progress, and from it on.
_HOURS_BEFORE, _HOURS_AHEAD = 6, 6


class Hour(NamedTuple):
    """An hour of the hospital's clock.

    Attributes:
        starts_at: by that clock.
        came: arrivals, of the hour in progress those so far; None of hours ahead.
        expected: mean of the forecast; None without one.
        low: of four such hours in five at least so many arrive.
        high: and at most so many.
    """

    starts_at: datetime
    came: int | None
    expected: float | None
    low: int | None
    high: int | None


def hours_around(warehouse_file: Path, now: datetime, hospital: str, zone: str) -> tuple[Hour, ...]:
    """The last six hours, the one in progress and the next five; none where nothing is known of arrivals.

    Args:
        warehouse_file: the warehouse; the copies are next to it.
        zone: the one time zone of the hospitals.
    """
    clock = ZoneInfo(zone)
    came = _came(warehouse_file, hospital, zone)
    if came is None:
        return ()
    expected = _expected(warehouse_file, hospital)
    in_progress = now.astimezone(clock).replace(minute=0, second=0, microsecond=0)
    hours: dict[datetime, Hour] = {}
    for ahead in range(-_HOURS_BEFORE, _HOURS_AHEAD):
        starts_at = (in_progress.astimezone(now.tzinfo) + timedelta(hours=ahead)).astimezone(clock)
        # An hour that the clock repeats is one, as it is in the forecast.
        label = starts_at.replace(tzinfo=None)
        mean, low, high = expected.get(label, (None, None, None))
        hours.setdefault(label, Hour(label, came.get(label, 0) if ahead <= 0 else None, mean, low, high))
    return tuple(hours.values())


def _came(warehouse_file: Path, hospital: str, zone: str) -> dict[datetime, int] | None:
    frames = [
        frame.select("^(visit_id|hospital_id|arrival_at|is_cancelled)$")
        for name in ("recent_arrivals", "landed_visits")
        if (frame := read_copy(warehouse_file, name)) is not None
    ]
    if not frames:
        return None
    # Copies of an older version do not say who was registered by mistake.
    visits = pl.concat([pl.DataFrame(schema={"is_cancelled": pl.Boolean}), *frames], how="diagonal_relaxed")
    cancelled = visits.filter("is_cancelled").select("visit_id")
    visits = visits.unique("visit_id", keep="last", maintain_order=True).join(cancelled, on="visit_id", how="anti")
    hour = pl.col("arrival_at").dt.convert_time_zone(zone).dt.replace_time_zone(None).dt.truncate("1h")
    found = visits.filter(pl.lit(hospital == ALL) | (pl.col("hospital_id") == hospital)).drop_nulls("arrival_at")
    return dict(found.group_by(hour.alias("hour")).len().iter_rows())


def _expected(warehouse_file: Path, hospital: str) -> dict[datetime, tuple[float, int, int]]:
    frame = read_copy(warehouse_file, "expected_arrivals")
    if frame is None:
        return {}
    hour = pl.col("target_date").cast(pl.Datetime("us")) + pl.duration(hours="hour_of_day")
    rows = frame.filter(pl.col("hospital_id") == hospital).select(hour, "expected_arrivals", "p10_count", "p90_count")
    return {row[0]: row[1:] for row in rows.iter_rows()}
