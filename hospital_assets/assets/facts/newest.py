"""One record of a thing, when a correction has moved it to another service day.

A record that corrects a time across midnight lands on another day than the record it corrects. Both
are kept as cleaned; what they are about happened once. So facts look at all days of their source.
"""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg
import narwhals as nw

from hospital_assets.warehouse.database import Period
from hospital_assets.warehouse.dialect import Frame, checkpoint


def all_days(*tables: str) -> dict[str, dg.AssetIn]:
    """The `ins` of an asset that reads all days of partitioned tables."""
    return {table: dg.AssetIn(partition_mapping=dg.AllPartitionMapping()) for table in tables}


def newest_of_each(records: Frame, key: Sequence[str], period: Period | None = None) -> Frame:
    """Records of some service days, without those that a newer record has moved to another day.

    Args:
        records: cleaned records of all days, with `recorded_at` (null counts as oldest).
        key: columns that identify the thing.
        period: the service days asked for; None: all.
    """
    keys = list(key)
    inside, contested = records, records
    if period is not None:
        inside = records.filter(
            nw.col("service_date") >= nw.lit(period.first), nw.col("service_date") < nw.lit(period.end)
        )
        contested = records.join(inside.select(*keys), on=keys, how="semi")
    # Few things have more than one record, so only those are ranked.
    contested = contested.select(
        *keys, "recorded_at", "service_date", "source_file", "source_line", "source_part"
    ).with_columns(_is_dated=(~nw.col("recorded_at").is_null()).cast(nw.Int32))
    # Evaluated one after the other: together their hash tables would not fit beside a year's facts.
    repeated = checkpoint(contested.group_by(*keys).agg(_count=nw.len()).filter(nw.col("_count") > 1))
    older = checkpoint(
        contested.join(repeated, on=keys, how="semi")
        .with_columns(
            _newer_count=nw.col("source_line")
            .cum_count(reverse=True)
            .over(
                *keys,
                order_by=["_is_dated", "recorded_at", "service_date", "source_file", "source_line", "source_part"],
            )
        )
        .filter(nw.col("_newer_count") > 1)
    )
    return inside.join(older, on=["source_file", "source_line", "source_part"], how="anti")
