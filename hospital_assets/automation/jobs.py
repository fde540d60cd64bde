"""The jobs of the front door."""

from __future__ import annotations

from collections.abc import Collection

import dagster as dg

from hospital_assets.assets.publications import GROUP as PUBLICATIONS
from hospital_assets.checks.standing import STANDING
from hospital_assets.landing.profile import FEEDS, LANDED

#: Tables and their checks; pages and publications are made of them, each when it is asked for.
TABLES = dg.AssetSelection.groups("raw", "cleaned", "dimensions", "facts", "kpis", "forecasts")

#: Feeds whose records change the facts of their own days only. KPIs of observations of the evening before are refreshed
#: with the next batch, or the next visits.
OWN_DAY_FEEDS = ("vitals",)

#: A day's refresh: everything that is partitioned, and the tables it needs to be right.
daily_batch = dg.define_asset_job(
    "daily_batch",
    selection=TABLES,
    description="Read the files that landed for one service day and refresh everything that depends on them.",
)

#: The same selection as one run over a range of days; `hospital build` runs it.
full_refresh = dg.define_asset_job(
    "full_refresh",
    selection=TABLES,
    description=("Rebuild every table for a range of service days in one run, each table in one transaction."),
    tags={"hospital/refresh": "full"},
)


def refreshed_by(subjects: Collection[str]) -> dg.AssetSelection:
    """What files of some subjects change: the ledger, their raw tables, and all that follows."""
    raw = [f"raw_{subject}" for subject in subjects if subject in LANDED]
    selection: dg.AssetSelection = (
        # A new day needs its row in the calendar first.
        dg.AssetSelection.assets("raw_landed_files", "dim_date")
    )
    if raw:
        selection = selection | (dg.AssetSelection.assets(*raw).downstream() & TABLES)
    if all(subject in FEEDS[feed] for subject in subjects for feed in OWN_DAY_FEEDS):
        selection = selection - dg.AssetSelection.assets("stale_partitions")
    return selection.required_multi_asset_neighbors()


#: Days that another day's records have touched: their facts, and what depends on those.
refresh_stale_partitions = dg.define_asset_job(
    "refresh_stale_partitions",
    selection=(dg.AssetSelection.groups("facts").downstream() & TABLES) - dg.AssetSelection.assets("fact_alerts"),
    description="Refresh the facts of days that later records of other days have changed.",
    tags={"hospital/refresh": "stale_partitions"},
)

#: The checks that change with time alone.
standing_checks = dg.define_asset_job(
    "standing_checks",
    selection=dg.AssetSelection.checks(*(dg.AssetCheckKey(spec.asset_key, spec.name) for spec in STANDING)),
    description="Look for files, days and feeds that are left behind, late or missing.",
)

#: Every check over what is stored, without rebuilding anything; `hospital check` runs it.
all_checks = dg.define_asset_job(
    "all_checks",
    selection=dg.AssetSelection.all_asset_checks() - dg.AssetSelection.groups(PUBLICATIONS),
    description="Run every asset check on the stored tables, without materialising anything.",
)

#: What was found and quarantined, as a page.
quality_page = dg.define_asset_job(
    "quality_page",
    selection=dg.AssetSelection.assets("quality_report"),
    description="Write the data quality page from the newest results.",
)

#: Each audience's own masked copy of what is stored; `hospital publish` runs it.
publish = dg.define_asset_job(
    "publish",
    selection=dg.AssetSelection.groups(PUBLICATIONS),
    description="Publish the stored tables to every audience: masked, searched for leaks, versioned.",
)

#: What the policy's overview role may see, as a page; of the newest publication.
overview_page = dg.define_asset_job(
    "overview_page",
    selection=dg.AssetSelection.assets("overview_report"),
    description="Write the overview of the newest publication of the role the policy names for it.",
)

JOBS = [
    all_checks,
    daily_batch,
    full_refresh,
    overview_page,
    publish,
    quality_page,
    refresh_stale_partitions,
    standing_checks,
    # What a feed's sensor runs: the ledger, the feed's raw tables, and all that depends on them.
    *(
        dg.define_asset_job(
            f"refresh_{feed}",
            selection=refreshed_by(subjects),
            description=f"Refresh the service days of landed {feed} files and what depends on them.",
            tags={"hospital/refresh": feed},
        )
        for feed, subjects in FEEDS.items()
    ),
]
