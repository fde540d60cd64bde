"""The jobs of the front door."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from hospital_assets.automation.sensors import FEEDS
from hospital_assets.landing.profile import SUBJECTS

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition,
    )

#: Feeds whose records can change the facts of days other than their own.
UNSETTLING_FEEDS = ("visits", "adt", "extracts")

#: A day's refresh: everything that is partitioned, and the tables it needs to be right.
daily_batch = dg.define_asset_job(
    "daily_batch",
    selection=dg.AssetSelection.all(),
    description="Read what landed for one service day and refresh everything that depends on it.",
)

#: The same selection as one run over a range of days; `hospital build` runs it.
full_refresh = dg.define_asset_job(
    "full_refresh",
    selection=dg.AssetSelection.all(),
    description=(
        "Rebuild every table for a range of service days in one run, each table in one transaction."
    ),
    tags={"hospital/refresh": "full"},
)


def refresh_job(feed: str) -> UnresolvedAssetJobDefinition:
    """What a feed's sensor runs: the ledger, the feed's raw tables, and all that depends on them."""
    raw = [f"raw_{subject}" for subject in FEEDS[feed] if subject in SUBJECTS]
    selection: dg.AssetSelection = (
        # A new day needs its row in the calendar first.
        dg.AssetSelection.assets("raw_landed_files", "dim_date")
        | dg.AssetSelection.assets(*raw).downstream()
    )
    if feed not in UNSETTLING_FEEDS:
        selection = selection - dg.AssetSelection.assets("unsettled_days")
    return dg.define_asset_job(
        f"refresh_{feed}",
        selection=selection.required_multi_asset_neighbors(),
        description=f"Refresh the service days of landed {feed} files and what depends on them.",
        tags={"hospital/refresh": feed},
    )


#: Days that another day's records have touched: their facts, and what depends on those.
settle = dg.define_asset_job(
    "settle",
    selection=dg.AssetSelection.groups("facts").downstream(),
    description="Refresh facts of days that later records of other days have changed.",
    tags={"hospital/refresh": "settle"},
)

JOBS = [daily_batch, full_refresh, settle, *(refresh_job(feed) for feed in FEEDS)]
