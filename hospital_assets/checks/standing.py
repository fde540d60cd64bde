"""Standing checks: is anything left behind, late or missing, whatever the last run did?

They look at the whole platform, not at a run's days, and change with time alone; so they also run every
hour (`standing_checks`). What they find are warnings: the tables are right, something around them is not.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg
import polars as pl
from dagster import AssetCheckSeverity

from hospital_assets.assets.declare import WAREHOUSE_POOL
from hospital_assets.assets.resources import ClockResource
from hospital_assets.contracts import CONTRACTS
from hospital_assets.landing.streams import faults, ranges
from hospital_assets.landing.waiting import until
from hospital_assets.landing.zone import LandingResource
from hospital_assets.warehouse.io_manager import WarehouseResource
from hospital_assets.warehouse.loads import read_loads

#: Subject -> days after which its newest service day is too old.
FRESH_DAYS: Mapping[str, int] = {
    "vitals": 1,
    "er_visits": 1,
    "adt_events": 1,
    "patients": 2,
    "diagnoses": 3,
    "procedures": 3,
}
#: Files that wait longer than this were left behind.
LONGEST_WAIT = timedelta(days=1)
#: A day is compared with the same weekday of this many weeks before, at least three of them there.
WEEKS, FEWEST_WEEKS = 6, 3
#: And is odd when it is less than half or more than twice the median, and that is not chance.
ODD_RATIO = 2.0
_CHANCE = 4.0

ACCOUNTED = dg.AssetCheckSpec(
    "files_accounted",
    asset="raw_landed_files",
    description="landed = loaded + duplicate + not to be loaded + waiting; nothing waits for over a day.",
)
FRESH = dg.AssetCheckSpec(
    "feeds_fresh",
    asset="raw_landed_files",
    description="The newest service day of every feed is as recent as it should be.",
)
VOLUME = dg.AssetCheckSpec(
    "volume_usual",
    asset="raw_landed_files",
    description="Feeds brought about as many records as on the same weekday of the weeks before.",
)
NOT_FAILED = dg.AssetCheckSpec(
    "no_day_left_failed",
    asset="raw_landed_files",
    description="No service day of any table failed last and was left so.",
)
STREAMS = dg.AssetCheckSpec(
    "stream_offsets",
    asset="raw_landed_files",
    description="The offsets that landed files of a stream account for follow on each other: no hole, nothing twice.",
)
#: All of them, as one step.
STANDING = (ACCOUNTED, FRESH, VOLUME, NOT_FAILED, STREAMS)


def standing_check(periods: dg.TimeWindowPartitionsDefinition) -> dg.AssetChecksDefinition:
    """Account for files, days and volumes, as one step."""

    @dg.multi_asset_check(
        name="standing",
        specs=STANDING,
        ins={"ledger": dg.AssetIn("raw_landed_files")},
        can_subset=True,
        pool=WAREHOUSE_POOL,
    )
    def standing(
        context: dg.AssetCheckExecutionContext,
        ledger: pl.DataFrame,
        warehouse: WarehouseResource,
        landing: LandingResource,
        clock: ClockResource,
    ) -> Iterator[dg.AssetCheckResult]:
        loads, zone = read_loads(warehouse.open()), landing.open()
        outcomes: dict[str, Callable[[], dg.AssetCheckResult]] = {
            ACCOUNTED.name: lambda: accounted(zone.listed(), ledger, loads, clock.wall(), zone.last),
            FRESH.name: lambda: fresh(ledger, clock.now().date()),
            VOLUME.name: lambda: usual(loads, clock.now().date()),
            NOT_FAILED.name: lambda: not_failed(context.instance, periods, _days_of_run(context, periods)),
            STREAMS.name: lambda: stream_offsets(ledger["source_file"].unique()),
        }
        asked = {key.name for key in context.selected_asset_check_keys}
        yield from (outcome() for name, outcome in outcomes.items() if name in asked)

    return standing


def accounted(
    on_disk: pl.DataFrame, ledger: pl.DataFrame, loads: pl.DataFrame, wall: datetime, last: date
) -> dg.AssetCheckResult:
    """Every file on disk is loaded, a copy, not to be loaded or waiting; every load has its file.

    Args:
        on_disk: source_file, file_modified_ns of the landing folder.
        loads: subject, source_file, file_sha256, service_date of stored rows.
        last: the last service day; what is planned for days after it does not wait.
    """
    identity = ["subject", "source_file", "file_sha256"]
    stored = loads.group_by(identity).agg(pl.col("service_date").drop_nulls().alias("_stored"))
    is_planned = pl.col("service_dates").list.min() > last
    left_to_load = until(last).list.set_difference(pl.col("_stored").fill_null(pl.lit([], dtype=pl.List(pl.Date))))
    is_loaded = (pl.col("_stored").is_not_null() | is_planned) & (left_to_load.list.len() == 0)
    files = ledger.join(stored, on=identity, how="left").with_columns(
        place=pl.when(pl.col("state") == "duplicate")
        .then(pl.lit("duplicate"))
        .when(~pl.col("state").is_in(["ready", "companion"]))
        .then(pl.lit("not_loaded"))
        .when((pl.col("state") == "companion") | is_loaded)
        .then(pl.lit("loaded"))
        .otherwise(pl.lit("waiting"))
    )
    oldest = int((wall - LONGEST_WAIT).timestamp() * 1e9)
    left = files.filter(pl.col("place") == "waiting", pl.col("file_modified_ns") < oldest)
    # What landed after the ledger was written is waiting, too.
    unseen = on_disk.join(ledger, on="source_file", how="anti")
    lost = unseen.filter(pl.col("file_modified_ns") < oldest)
    gone = loads.join(ledger, on=["subject", "source_file"], how="anti")["source_file"].n_unique()
    counts = dict(files.group_by("place").agg(pl.col("source_file").n_unique()).iter_rows())
    landed = ledger["source_file"].n_unique() + unseen.height
    return dg.AssetCheckResult(
        asset_key=ACCOUNTED.asset_key,
        check_name=ACCOUNTED.name,
        passed=left.is_empty() and lost.is_empty() and gone == 0,
        severity=AssetCheckSeverity.WARN,
        description=(
            f"{left['source_file'].n_unique() + lost.height} files wait for over a day; stored rows "
            f"of {gone} files that are no longer in the landing folder"
        ),
        metadata={
            "landed": landed,
            **{name: counts.get(name, 0) for name in ("loaded", "duplicate", "not_loaded")},
            "waiting": counts.get("waiting", 0) + unseen.height,
            "waiting_for_over_a_day": left["source_file"].n_unique() + lost.height,
            "gone": gone,
        },
    )


def fresh(ledger: pl.DataFrame, today: date) -> dg.AssetCheckResult:
    """Compare the newest service day of each feed with today; feeds that never landed are left out."""
    newest = dict(
        ledger.filter(pl.col("state") == "ready")
        .group_by("subject")
        .agg(pl.col("service_dates").explode().max())
        .drop_nulls()
        .iter_rows()
    )
    late = {
        subject: (today - newest[subject]).days
        for subject, most in FRESH_DAYS.items()
        if subject in newest and (today - newest[subject]).days > most
    }
    return dg.AssetCheckResult(
        asset_key=FRESH.asset_key,
        check_name=FRESH.name,
        passed=not late,
        severity=AssetCheckSeverity.WARN,
        description="; ".join(
            f"the newest {subject} are {days} days old (limit {FRESH_DAYS[subject]})" for subject, days in late.items()
        )
        or None,
        metadata={f"newest_{subject}": str(day) for subject, day in sorted(newest.items())},
    )


def usual(loads: pl.DataFrame, today: date) -> dg.AssetCheckResult:
    """Compare the last seven whole days of each feed with the same weekdays before.

    Args:
        loads: subject, service_date, row_count.
        today: left out, because it is not over.
    """
    daily = (
        loads.filter(pl.col("service_date").is_not_null(), pl.col("subject").is_in(list(FRESH_DAYS)))
        .group_by("subject", "service_date")
        .agg(pl.col("row_count").sum().alias("records"))
    )
    # A day of which nothing was stored is a day with none.
    every = daily.group_by("subject").agg(
        pl.date_ranges(pl.col("service_date").min(), pl.lit(today - timedelta(days=1))).explode().alias("service_date")
    )
    daily = (
        every.explode("service_date")
        .join(daily, on=["subject", "service_date"], how="left")
        .with_columns(pl.col("records").fill_null(0))
    )
    recent = daily.filter(pl.col("service_date") >= today - timedelta(days=7), pl.col("service_date") < today)
    before = pl.concat(
        [
            daily.select("subject", pl.col("service_date").dt.offset_by(f"{week}w"), pl.col("records").alias("before"))
            for week in range(1, WEEKS + 1)
        ]
    )
    compared = (
        recent.join(before, on=["subject", "service_date"])
        .group_by("subject", "service_date", "records")
        .agg(pl.col("before").median(), pl.len().alias("weeks"))
        .filter(pl.col("weeks") >= FEWEST_WEEKS, pl.col("before") > 0)
        .sort("subject", "service_date")
    )
    ratio = pl.col("records") / pl.col("before")
    odd = compared.filter(
        (ratio < 1 / ODD_RATIO) | (ratio > ODD_RATIO),
        (pl.col("records") - pl.col("before")).abs() > _CHANCE * pl.col("before").sqrt(),
    )
    return dg.AssetCheckResult(
        asset_key=VOLUME.asset_key,
        check_name=VOLUME.name,
        passed=odd.is_empty(),
        severity=AssetCheckSeverity.WARN,
        description="; ".join(
            f"{r['service_date']}: {r['records']:,} {r['subject']} where {r['before']:,.0f} are usual"
            for r in odd.head(10).iter_rows(named=True)
        )
        or None,
        metadata={"days_compared": compared.height, "odd_days": odd.height},
    )


def stream_offsets(source_files: Iterable[str]) -> dg.AssetCheckResult:
    """Compare the offsets in the names of landed stream files.

    A hole is what a stream's retention dropped before it was read: a warning, because it stays true
    for ever. Offsets that two files hold would count records twice: an error.
    """
    found = ranges(source_files)
    broken = faults(found)
    offsets = {fault: int(broken.filter(pl.col("fault") == fault)["offsets"].sum()) for fault in ("gap", "overlap")}
    return dg.AssetCheckResult(
        asset_key=STREAMS.asset_key,
        check_name=STREAMS.name,
        passed=broken.is_empty(),
        severity=AssetCheckSeverity.ERROR if offsets["overlap"] else AssetCheckSeverity.WARN,
        description="; ".join(
            f"{r['stream']} partition {r['partition']}: {r['offsets']:,} offsets before "
            f"{r['first_offset']} {'were lost' if r['fault'] == 'gap' else 'are held twice'}"
            for r in broken.head(10).iter_rows(named=True)
        )
        or None,
        metadata={
            "streams": found.select("folder", "stream", "partition").n_unique(),
            "offsets": int((found["last_offset"] - found["first_offset"] + 1).sum()),
            "lost_offsets": offsets["gap"],
            "repeated_offsets": offsets["overlap"],
        },
    )


def not_failed(
    instance: dg.DagsterInstance, periods: dg.TimeWindowPartitionsDefinition, in_this_run: Sequence[str]
) -> dg.AssetCheckResult:
    """Look for partitions whose last run failed, leaving out those that are being run now."""
    failed: dict[str, list[str]] = {}
    # Statuses of all days of all tables are dear, and where no run failed no day did.
    has_failed = instance.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE])) > 0
    others = sorted(set(periods.get_partition_keys()) - set(in_this_run))
    for name, contract in CONTRACTS.items():
        if not contract.partitioned or not has_failed:
            continue
        statuses = instance.get_status_by_partition(dg.AssetKey(name), others, periods) or {}
        if left := [key for key, status in statuses.items() if status == dg.AssetPartitionStatus.FAILED]:
            failed[name] = left
    return dg.AssetCheckResult(
        asset_key=NOT_FAILED.asset_key,
        check_name=NOT_FAILED.name,
        passed=not failed,
        severity=AssetCheckSeverity.WARN,
        description="; ".join(
            f"{name}: {', '.join(keys[:3])}{' and more' if len(keys) > 3 else ''}"
            for name, keys in list(failed.items())[:10]
        )
        or None,
        metadata={"days_left_failed": sum(map(len, failed.values()))},
    )


def _days_of_run(context: Any, periods: dg.TimeWindowPartitionsDefinition) -> list[str]:
    tags = context.run.tags
    first = tags.get("dagster/asset_partition_range_start") or tags.get("dagster/partition")
    last = tags.get("dagster/asset_partition_range_end") or tags.get("dagster/partition")
    if not first or not last:
        return []
    return [key for key in periods.get_partition_keys() if first <= key <= last]
