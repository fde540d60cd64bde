"""The jobs of the front door."""

from __future__ import annotations

import dagster as dg

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

JOBS = [daily_batch, full_refresh]
