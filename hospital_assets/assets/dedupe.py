"""Deduplication: which of several records of one thing counts. The newest does, wherever it is asked.

Within a service day a repetition is quarantined when it is cleaned (`newest_only`). A record that corrects a
time across midnight lands on another day than the record it corrects: both stay as cleaned, but what they are
about happened once, so facts look at all days of their source (`newest_of_each`).
"""

from __future__ import annotations

from collections.abc import Sequence

import narwhals as nw

from hospital_assets.contracts import PARTITION_COLUMN, RECORD_PLACE
from hospital_assets.warehouse.database import Period
from hospital_assets.warehouse.dialect import Frame, checkpoint

#: Names of the rules that a repetition gets: written at the same moment as the newest record, or before it.
DUPLICATE, SUPERSEDED = "duplicate", "superseded"


def newest_only(frame: Frame, key: Sequence[str], written: str, *then: str) -> Frame:
    """Give repetitions their rule: of the unbroken records of one key only the newest stands.

    The outcome does not depend on the order in which files arrive. Records are compared within their service
    day, so that it does not depend on which days a run covers either.

    Args:
        frame: records with a `rule` column, null where none is broken.
        key: columns that identify the thing.
        written: column that says when the record was written; null counts as oldest.
        then: columns by which, ascending, records that were written at one moment follow each other.
    """
    day = [PARTITION_COLUMN] if PARTITION_COLUMN in frame.columns else []
    per_thing = [*day, *key, "_is_sound"]
    sound = frame.with_columns(_is_sound=nw.col("rule").is_null())
    # From the newest on, so that the rows, wide as they are, are sorted once.
    ranked = _ranked(sound, per_thing, written, *then, _newest_written=written, _newest_has_written="_has_written")
    # Where even the newest has no such moment, none has.
    repeats = (nw.col("_newest_written") == nw.col(written)) | (nw.col("_newest_has_written") == 0)
    return ranked.with_columns(
        rule=nw.when(nw.col("_is_sound") & (nw.col("_newer_count") > 1))
        .then(nw.when(repeats).then(nw.lit(DUPLICATE)).otherwise(nw.lit(SUPERSEDED)))
        .otherwise(nw.col("rule"))
    ).drop("_is_sound", "_newer_count", "_newest_written", "_newest_has_written")


def newest_of_each(records: Frame, key: Sequence[str], period: Period | None = None) -> Frame:
    """Records of some service days, without those that a newer record has moved to another day.

    Args:
        records: cleaned records of all days, with `recorded_at` (null counts as oldest).
    """
    keys = list(key)
    inside, contested = records, records
    if period is not None:
        inside = records.filter(period.holds())
        contested = records.join(inside.select(*keys), on=keys, how="semi")
    # Few things have more than one record, so only those are ranked.
    contested = contested.select(*dict.fromkeys([*keys, "recorded_at", "service_date", *RECORD_PLACE]))
    # Evaluated one after the other: together their hash tables would not fit beside a year's facts.
    repeated = checkpoint(contested.group_by(*keys).agg(_count=nw.len()).filter(nw.col("_count") > 1))
    older = checkpoint(
        _ranked(contested.join(repeated, on=keys, how="semi"), keys, "recorded_at", "service_date").filter(
            nw.col("_newer_count") > 1
        )
    )
    return inside.join(older, on=list(RECORD_PLACE), how="anti")


def _ranked(records: Frame, key: Sequence[str], written: str, *then: str, **most: str) -> Frame:
    """Add `_newer_count`: how many records of the same key are as new or newer, 1 for the newest.

    Newest is the last by `written` (null counts as oldest), then by what follows it, by file and by line. `most` are
    further columns to add: the largest value of one in the same records.
    """
    order = ["_has_written", written, *then, *RECORD_PLACE]
    return (
        records.with_columns(_has_written=(~nw.col(written).is_null()).cast(nw.Int32))
        .with_columns(
            _newer_count=nw.col("source_line").cum_count(reverse=True).over(*key, order_by=order),
            **{name: nw.col(of).cum_max(reverse=True).over(*key, order_by=order) for name, of in most.items()},
        )
        .drop("_has_written")
    )
