"""The service day of a record, which decides its partition.

It is the local day of the record's own clock, in its hospital's zone. Where that clock is missing, unreadable or
outside the data directory's period, it is the day of `recorded_at`; else the commonest day of the record's file;
else the first service day. Never the file's name, never today. Which days there are: `partitions`. What is planned has
days after the period as well: it waits for them to come.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta

import narwhals as nw
import polars as pl

from hospital_assets.contracts import PARTITION_COLUMN
from hospital_assets.landing.clocks import split_sums, with_point, without_sum_is_zero
from hospital_assets.landing.profile import Profile, Subject, Sum
from hospital_assets.warehouse.database import Period
from hospital_assets.warehouse.dialect import Frame, local_clocks, parse_numbers, parse_wall_clocks, resolve_instants

#: Subject -> of how many days after the last service day its records may tell: a year's roster may be planned.
DAYS_AHEAD = {"doctor_shifts": 366}


def last_day_of(subject: str, last: date) -> date:
    """The last day that a record of a subject may have where `last` is the last service day."""
    return last + min(timedelta(days=DAYS_AHEAD.get(subject, 0)), date.max - last)


def days_ahead(subject: str, service_days: Period) -> Period:
    """The days after the service days of which records of a subject may tell."""
    end = last_day_of(subject, service_days.end - timedelta(days=1))
    return Period(service_days.end, end + min(timedelta(days=1), date.max - end))


def with_service_day(
    frame: Frame, spec: Subject, profile: Profile, zones: Mapping[str, str], first: date, last: date
) -> Frame:
    """Add a record's service day, and `_day`: the same, null where the record states none itself.

    Args:
        frame: raw records with `source_file` and `_fallback`, the commonest day of their file.
        spec: the subject; `spec.date` names the clock.
        profile: for its formats and its zone where the hospital has none.
        zones: IANA zone by hospital_id.
        last: last day that a record may have, inclusive (`last_day_of`).
    """
    names = set(frame.columns)
    clocks = {}
    if spec.date_from is not None:
        clocks["_found"] = "_looked_up"
    if spec.date is not None:
        clocks["_own"] = spec.date
    if "recorded_at" in names and "recorded_at" not in clocks.values() and not spec.is_undated:
        clocks["_written"] = "recorded_at"
    zone: nw.Expr = nw.lit(profile.time_zone)
    if "hospital_id" in names and zones:
        zone = nw.coalesce(
            nw.col("hospital_id").replace_strict(
                list(zones), list(zones.values()), default=None, return_dtype=nw.String
            ),
            nw.lit(profile.time_zone),
        )
    frame = frame.with_columns(_zone=zone)
    summed = {column for column, parts in spec.derived.items() if isinstance(parts, Sum)}
    frame, texts = split_sums(frame, clocks, summed)
    for clock, column in clocks.items():
        formats = spec.formats.get(column, profile.timestamp_formats)
        frame = parse_wall_clocks(frame, {clock: texts[clock]}, formats)
        if texts[clock] != column:
            sums = {f"{clock}_plus_minutes": f"{clock}_minutes"}
            if any(own.decimal == "," for own in spec.layouts):
                frame = frame.with_columns(with_point(nw.col(f"{clock}_minutes")).alias(f"{clock}_minutes"))
            frame = without_sum_is_zero(parse_numbers(frame, sums), sums)
    frame = resolve_instants(frame, {f"{c}_at": c for c in clocks}, "_zone")
    frame = local_clocks(frame, {f"{c}_local": f"{c}_at" for c in clocks}, "_zone")
    in_period = {
        clock: nw.when(
            (nw.col(f"{clock}_local") >= nw.lit(first).cast(nw.Datetime("us")))
            & (nw.col(f"{clock}_local").dt.date() <= nw.lit(last))
        ).then(nw.col(f"{clock}_local").dt.date())
        for clock in clocks
    }
    kept = [name for name in frame.columns if not name.startswith("_")]
    days = nw.coalesce(*in_period.values(), nw.lit(None).cast(nw.Date))
    return (
        frame.with_columns(_day=days)
        .with_columns(nw.coalesce(nw.col("_day"), nw.col("_fallback"), nw.lit(first)).alias(PARTITION_COLUMN))
        .select(*kept, PARTITION_COLUMN, "_day", "_fallback")
    )


def days_of_files(counts: pl.DataFrame, is_dated: bool, first: date) -> pl.DataFrame:
    """Rows, unreadable rows, service days and the commonest day of each file.

    Args:
        counts: source_file, `_day` (dated subjects; null where a record states none), row_count,
            unreadable_count.
        first: the day of records in files that state no day at all.
    """
    totals = counts.group_by("source_file").agg(
        pl.col("row_count").sum().cast(pl.Int64), pl.col("unreadable_count").sum().cast(pl.Int64)
    )
    if not is_dated:
        return totals.with_columns(
            service_dates=pl.lit([], dtype=pl.List(pl.Date)), fallback_date=pl.lit(None, dtype=pl.Date)
        )
    commonest = (
        counts.filter(pl.col("_day").is_not_null())
        .sort("row_count", "_day", descending=[True, False])
        .group_by("source_file")
        .agg(pl.col("_day").first().alias("fallback_date"))
    )
    days = (
        counts.join(commonest, on="source_file", how="left")
        .with_columns(pl.coalesce("_day", "fallback_date", pl.lit(first)).alias("_day"))
        .group_by("source_file")
        .agg(pl.col("_day").unique().sort().alias("service_dates"))
    )
    return totals.join(days, on="source_file").join(commonest, on="source_file", how="left")
