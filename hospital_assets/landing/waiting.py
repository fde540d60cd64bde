"""Which landed files still wait to be loaded, and what has to be refreshed for them.

Pure functions of the ledger; sensors and commands ask them, and decide nothing themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import polars as pl

from hospital_assets.landing.service_day import DAYS_AHEAD
from hospital_assets.partitions import FIRST_ZONE

#: States of files that hold records to load.
LOADABLE = ("ready", "companion")


@dataclass(frozen=True)
class Waiting:
    """One file that waits.

    Attributes:
        since_ns: when it was last modified, or when the first of its days came that had been planned.
        days: service days to refresh; empty for undated subjects and files that cannot be read.
    """

    source_file: str
    file_sha256: str
    since_ns: int
    days: tuple[date, ...]
    subjects: tuple[str, ...] = ()


def waiting_files(
    ledger: pl.DataFrame, published: pl.DataFrame, subjects: Collection[str], last: date, *, is_open_ended: bool
) -> list[Waiting]:
    """Files of some subjects that are not loaded, or not even in the stored ledger.

    Args:
        ledger: the landing folder as it is now.
        published: the stored ledger as `loads.read_ledger_copy` gives it.
        last: the last service day; for days after it a file waits only once they are service days.
        is_open_ended: whether `last` is only the latest one so far.
    """
    identity = ["source_file", "subject", "file_sha256"]
    stored = published.select(
        *identity,
        pl.col("state").alias("_stored_state"),
        pl.col("service_dates").list.sort().alias("_stored_dates"),
        "is_loaded",
        "loaded_dates",
        "loaded_row_count",
    )
    # What the same path held before: those days lose rows.
    before = published.select(
        "source_file",
        "subject",
        pl.col("file_sha256").alias("_sha_before"),
        pl.concat_list("loaded_dates", "outdated_dates").alias("_dates_before"),
        pl.col("outdated_dates"),
    )
    none = pl.lit([], dtype=pl.List(pl.Date))
    joined = (
        ledger.filter(pl.col("subject").is_in(list(subjects)))
        .join(stored, on=identity, how="left")
        .join(before, on=["source_file", "subject"], how="left")
        .with_columns(
            _outdated=pl.when(pl.col("_sha_before") != pl.col("file_sha256"))
            .then(pl.col("_dates_before").fill_null(none))
            .otherwise(pl.col("outdated_dates").fill_null(none)),
            _loaded=pl.col("loaded_dates").fill_null(none),
            _due=until(last),
            _is_loadable=pl.col("state").is_in(list(LOADABLE)),
            # A companion that has come completes what is loaded already.
            _is_completed=((pl.col("state") == "companion") & pl.col("_stored_state").is_null())
            .any()
            .over("source_profile", "subject"),
            # Its records have other days than when they were loaded, or have left a day for one that was not.
            _is_moved=(
                (pl.col("_stored_dates") != pl.col("service_dates").list.sort())
                | (
                    (pl.col("state") == "ready")
                    & (pl.col("service_dates").list.max() <= last)
                    & (pl.col("service_dates").list.set_difference("loaded_dates").list.len() == 0)
                    & (pl.col("loaded_row_count") != pl.col("row_count"))
                )
            ).fill_null(False),
        )
        .with_columns(
            _missing=pl.when(pl.col("_is_loadable") & (pl.col("_is_completed") | pl.col("_is_moved")))
            # Also the days on which its records stood without the companion, or stand now.
            .then(pl.col("_due").list.set_union(pl.col("_loaded")))
            .when(pl.col("_is_loadable"))
            .then(pl.col("_due").list.set_difference(pl.col("_loaded")))
            .otherwise(none)
        )
        .with_columns(_days=pl.col("_missing").list.set_union(pl.col("_outdated")))
    )
    is_undated = pl.col("_is_loadable") & (pl.col("service_dates").list.len() == 0)
    waits = (
        (pl.col("_days").list.len() > 0)
        # A companion brings no rows of its own; being known is enough.
        | (is_undated & ~pl.col("is_loaded").fill_null(False) & (pl.col("state") == "ready"))
        | pl.col("_stored_state").is_null()
        | (pl.col("_stored_state") != pl.col("state"))
    )
    since = pl.col("file_modified_ns")
    if is_open_ended:
        # A planned day has not waited before it came.
        since = (
            pl.when(pl.col("subject").is_in(list(DAYS_AHEAD)))
            .then(pl.max_horizontal(since, _begin_ns(pl.col("_days").list.min())))
            .otherwise(since)
        )
    by_file = (
        joined.filter(waits)
        .group_by("source_file", "file_sha256")
        .agg(since.max(), pl.col("_days").explode().drop_nulls().unique(), pl.col("subject").unique().sort())
        .sort("source_file")
    )
    return [
        Waiting(name, digest, since, tuple(sorted(days)), tuple(subjects))
        for name, digest, since, days, subjects in by_file.iter_rows()
    ]


def until(last: date) -> pl.Expr:
    """The service days of ledger rows up to one; days that are only planned are left out."""
    return pl.col("service_dates").list.eval(pl.element().filter(pl.element() <= last))


def _begin_ns(day: pl.Expr) -> pl.Expr:
    """When a day begins, wherever it does so first."""
    return day.cast(pl.Datetime("ns")).dt.replace_time_zone(FIRST_ZONE).dt.epoch("ns")


def is_due(files: Sequence[Waiting], now_ns: int, after_files: int, after_seconds: float) -> bool:
    """Whether enough files wait, or one has waited long enough."""
    if not files:
        return False
    waited_ns = now_ns - min(file.since_ns for file in files)
    # What was last modified in the future, as far as it says, has not: it would wait until then.
    return len(files) >= after_files or not 0 <= waited_ns < after_seconds * 1e9


def spans(days: Collection[date]) -> list[tuple[date, date]]:
    """Service days as contiguous spans (first, last), both inclusive."""
    found: list[tuple[date, date]] = []
    for day in sorted(days):
        if found and day - found[-1][1] <= timedelta(days=1):
            found[-1] = (found[-1][0], day)
        else:
            found.append((day, day))
    return found


def fingerprint(files: Sequence[Waiting], *also: object) -> str:
    """A run key: the same for the same contents, whatever the time."""
    identity = "|".join([*sorted(f"{f.source_file}:{f.file_sha256}" for f in files), *map(str, also)])
    return hashlib.sha256(identity.encode()).hexdigest()[:32]
