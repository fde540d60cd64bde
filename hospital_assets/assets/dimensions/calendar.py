"""dim_date and dim_time: days and minutes of the day, each a key of its own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import dagster as dg
import narwhals as nw
import polars as pl

from hospital_assets.assets.declare import table
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.dimensions import NOT_YET_KEY, UNKNOWN_KEY
from hospital_assets.warehouse.dialect import Frame, explode_hours, local_clocks, minutes_between

_SPECIAL_LABELS = {UNKNOWN_KEY: "unknown", NOT_YET_KEY: "not yet happened"}


@dg.asset(**table("dim_date"))
def dim_date(raw_landed_files: pl.DataFrame) -> pl.DataFrame:
    """Every day from the year before the first landed record until two years after the last."""
    days = raw_landed_files.select(pl.col("service_dates").explode()).to_series().drop_nulls()
    if days.is_empty():
        return calendar_days(None)
    years = days.dt.year()
    first, last = int(str(years.min())), int(str(years.max()))
    return calendar_days((date(first - 1, 1, 1), date(last + 2, 12, 31)))


def calendar_days(span: tuple[date, date] | None) -> pl.DataFrame:
    """The rows of dim_date for a span of days (inclusive), with the special members."""
    special = _special("date")
    if span is None:
        return special
    day = pl.col("calendar_date")
    days = pl.DataFrame({"calendar_date": pl.date_range(span[0], span[1], eager=True)}).with_columns(
        date_key=day.dt.to_string("%Y%m%d").cast(pl.Int64),
        date_label=day.dt.to_string("%Y-%m-%d"),
        year_number=day.dt.year().cast(pl.Int64),
        quarter_number=day.dt.quarter().cast(pl.Int64),
        month_number=day.dt.month().cast(pl.Int64),
        month_name=day.dt.to_string("%B"),
        day_of_month=day.dt.day().cast(pl.Int64),
        iso_year_number=day.dt.iso_year().cast(pl.Int64),
        iso_week_number=day.dt.week().cast(pl.Int64),
        iso_weekday_number=day.dt.weekday().cast(pl.Int64),
        weekday_name=day.dt.to_string("%A"),
        is_weekend=day.dt.weekday() >= 6,
    )
    return pl.concat([special, days.select(special.columns)])


def _special(what: str) -> pl.DataFrame:
    """The special members of dim_date or dim_time: a key and a label, and nothing else."""
    rows = [{f"{what}_key": key, f"{what}_label": label} for key, label in _SPECIAL_LABELS.items()]
    return pl.DataFrame(rows, schema=CONTRACTS[f"dim_{what}"].polars_schema)


#: Zones differ by whole quarters of an hour, and so do their clocks before and after a change. Of those moved since
#: 2020 only Antarctica/Casey's was moved within a quarter (at 0:01): its hours begin with the next quarter then.
_QUARTERS = (0, 15, 30, 45)


def local_hours(spans: Frame, start: str, end: str, by: Sequence[str]) -> Frame:
    """Every hour of the wall clock, from where it begins in local time until the next one begins.

    An hour begins when the clock shows minute 0, and anew where it is put forward or back: a repeated hour is two, and
    where daylight saving moves the clock by half an hour one of them has 30 minutes.

    Args:
        spans: `start`, `end`, `time_zone` (IANA) and the columns `by`.
        start: instant column, a full hour of UTC.
        end: instant column, likewise.
        by: columns that tell the spans apart; those of one must not overlap.

    Returns:
        the columns of spans, hour_start_at, hour_end_at, hour_start_local (naive), hour_minutes.
    """
    hours = explode_hours(spans, start, end, "_hour_at")
    quarters = nw.concat(
        [hours.with_columns(hour_start_at=nw.col("_hour_at").dt.offset_by(f"{n}m")) for n in _QUARTERS], how="vertical"
    ).with_columns(_before_at=nw.col("hour_start_at").dt.offset_by("-15m"))
    quarters = local_clocks(quarters, {"hour_start_local": "hour_start_at", "_before_local": "_before_at"}, "time_zone")
    passed = (nw.col("hour_start_local") - nw.col("_before_local")).dt.total_microseconds()
    starts = quarters.filter((nw.col("hour_start_local").dt.minute() == 0) | (passed != 15 * 60_000_000))
    following = nw.col("hour_start_at").shift(-1).over(*by, order_by="hour_start_at")
    return (
        starts.with_columns(hour_end_at=nw.coalesce(following, nw.col("hour_start_at").dt.offset_by("1h")))
        .with_columns(hour_minutes=minutes_between("hour_start_at", "hour_end_at"))
        .drop("_hour_at", "_before_at", "_before_local")
    )


@dg.asset(**table("dim_time"))
def dim_time() -> pl.DataFrame:
    """The 1,440 minutes of a day."""
    special = _special("time")
    minute = pl.col("time_key")
    hour = minute // 60
    minutes = pl.DataFrame({"time_key": pl.int_range(0, 1440, eager=True)}).with_columns(
        hour_of_day=hour,
        minute_of_hour=minute % 60,
        time_label=pl.format("{}:{}", hour.cast(pl.String).str.zfill(2), (minute % 60).cast(pl.String).str.zfill(2)),
        day_part=pl.when(hour < 6)
        .then(pl.lit("night"))
        .when(hour < 12)
        .then(pl.lit("morning"))
        .when(hour < 18)
        .then(pl.lit("afternoon"))
        .otherwise(pl.lit("evening")),
        shift_name=pl.when((hour >= 7) & (hour < 15))
        .then(pl.lit("day"))
        .when((hour >= 15) & (hour < 23))
        .then(pl.lit("evening"))
        .otherwise(pl.lit("night")),
    )
    return pl.concat([special, minutes.select(special.columns)])


def date_key(clock: str) -> nw.Expr:
    """The dim_date key of a wall clock column; null where it is null."""
    local = nw.col(clock)
    return (
        local.dt.year().cast(nw.Int64) * 10_000 + local.dt.month().cast(nw.Int64) * 100 + local.dt.day().cast(nw.Int64)
    )


def time_key(clock: str) -> nw.Expr:
    """The dim_time key of a wall clock column; null where it is null."""
    local = nw.col(clock)
    return local.dt.hour().cast(nw.Int64) * 60 + local.dt.minute().cast(nw.Int64)
