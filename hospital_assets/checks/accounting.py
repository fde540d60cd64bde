"""Checks that nothing is lost: landed = raw, and raw = cleaned + quarantined + duplicates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

import dagster as dg
import narwhals as nw
import polars as pl

from hospital_assets.contracts import CONTRACTS, RECORD_PLACE
from hospital_assets.contracts.kpis import ALL, POOLED
from hospital_assets.landing.drift import NOTEWORTHY, drifts
from hospital_assets.landing.profile import LANDED, SUBJECTS
from hospital_assets.landing.registry import Profiles
from hospital_assets.warehouse.dialect import Frame

Frames = Mapping[str, Frame]


@dataclass(frozen=True)
class Account:
    """A check of a table that compares sums with other tables, or looks at it as a whole.

    Attributes:
        check: gives its outcome, from the table and those it needs, by name, and the profiles.
        needs: other tables that it reads.
        blocking: whether a failure stops what depends on the table, in that run.
    """

    table: str
    name: str
    description: str
    check: Callable[[Frames, Profiles], dg.AssetCheckResult]
    needs: tuple[str, ...] = ()
    blocking: bool = False


def _conserved(subject: str) -> Account:
    """Every raw record of a subject is cleaned, quarantined, or a counted duplicate."""
    raw, cleaned, quarantine = f"raw_{subject}", f"cleaned_{subject}", f"quarantine_{subject}"
    return Account(
        cleaned,
        "conserved",
        "raw = cleaned + quarantined + duplicates: no landed record disappears.",
        lambda frames, _: conservation(cleaned, frames[raw], frames[cleaned], frames[quarantine]),
        (raw, quarantine),
        blocking=True,
    )


def conservation(name: str, raw: Frame, cleaned: Frame, quarantine: Frame) -> dg.AssetCheckResult:
    """Compare the counts, and the very lines: each raw line must be in exactly one place."""
    line = [*RECORD_PLACE]
    landed = raw.select(*line)
    placed = nw.concat([cleaned.select(*line), quarantine.select(*line)], how="vertical")
    counts = {
        "raw": _count(raw),
        "cleaned": _count(cleaned),
        "duplicates": _count(quarantine.filter(nw.col("is_duplicate"))),
        "quarantined": _count(quarantine.filter(~nw.col("is_duplicate"))),
        "lost": _count(landed.join(placed, on=line, how="anti")),
        "invented": _count(placed.join(landed, on=line, how="anti")),
    }
    is_conserved = (
        counts["raw"] == counts["cleaned"] + counts["duplicates"] + counts["quarantined"]
        and not counts["lost"]
        and not counts["invented"]
    )
    return dg.AssetCheckResult(
        asset_key=name,
        check_name="conserved",
        passed=is_conserved,
        severity=dg.AssetCheckSeverity.ERROR,
        description=None
        if is_conserved
        else f"{counts['raw']:,} raw records: "
        + ", ".join(f"{n:,} {what}" for what, n in counts.items() if what != "raw"),
        metadata=counts,
    )


def _if_any(*counted: tuple[int, str]) -> str | None:
    """What is wrong, in words; None where nothing is."""
    return "; ".join(f"{count:,} {what}" for count, what in counted if count) or None


def _count(frame: Frame) -> int:
    return int(frame.select(nw.len()).collect("polars").item())


#: States of landed files that nothing is loaded of until somebody does something.
NOT_LOADED = ("unreadable", "missing_column", "unrecognised", "empty")


def files_readable(ledger: pl.DataFrame) -> dg.AssetCheckResult:
    """Name the landed files that were not loaded."""
    not_loaded = ledger.filter(pl.col("state").is_in(NOT_LOADED))
    return dg.AssetCheckResult(
        asset_key="raw_landed_files",
        check_name="files_readable",
        passed=not_loaded.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{not_loaded.height} landed files were not loaded; see what is wrong in the metadata",
        metadata={
            "files": not_loaded.height,
            "not_loaded": dg.MetadataValue.table(
                [
                    dg.TableRecord({"file": r["source_file"], "state": r["state"], "problem": r["problem"] or ""})
                    for r in not_loaded.head(50).iter_rows(named=True)
                ]
                or [dg.TableRecord({"file": "", "state": "", "problem": "none"})]
            ),
        },
    )


def columns_drifted(
    name: str, verdicts: Collection[str], what: str, ledger: pl.DataFrame, profiles: Profiles
) -> dg.AssetCheckResult:
    """Name the columns of landed files that have changed.

    Args:
        verdicts: the changes it is about, see `drift`.
        what: it finds, in words.
    """
    found = [drift for drift in drifts(ledger, profiles) if drift.verdict in NOTEWORTHY and drift.verdict in verdicts]
    none = dg.TableRecord(
        {"subject": "", "column": "none", "verdict": "", "files": 0, "first_file": "", "what_to_do": ""}
    )
    return dg.AssetCheckResult(
        asset_key="raw_landed_files",
        check_name=name,
        passed=not found,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{what}: " + (", ".join(sorted({f"{d.subject}.{d.column}" for d in found})) or "none"),
        metadata={"drift": dg.MetadataValue.table([dg.TableRecord(drift.as_row()) for drift in found] or [none])},
    )


def _of_columns(name: str, description: str, verdicts: Collection[str], what: str) -> Account:
    return Account(
        "raw_landed_files",
        name,
        description,
        lambda frames, profiles: columns_drifted(name, verdicts, what, _native(frames["raw_landed_files"]), profiles),
    )


def _native(frame: Frame) -> pl.DataFrame:
    rows: pl.DataFrame = frame.collect("polars").to_native()
    return rows


def _landed_is_raw(subject: str) -> Account:
    """Every record the ledger counted in a subject's files is in the raw table."""
    raw = f"raw_{subject}"
    return Account(
        raw,
        "landed_is_raw",
        "Files wholly within the run's days have as many raw records as the ledger says.",
        lambda frames, _: landed_count(raw, subject, frames[raw], _native(frames["raw_landed_files"])),
        ("raw_landed_files",),
        blocking=True,
    )


def landed_count(raw: str, subject: str, frame: Frame, ledger: pl.DataFrame) -> dg.AssetCheckResult:
    """Compare rows per file with the ledger, for files all of whose days the frame covers."""
    stored = frame.group_by("source_file").agg(stored=nw.len()).collect("polars").to_native()
    counted = ledger.filter(pl.col("subject") == subject, pl.col("state") == "ready")
    if CONTRACTS[raw].partitioned:
        days = frame.select("service_date").unique().collect("polars").to_native()["service_date"]
        covered = pl.col("service_dates").list.eval(pl.element().is_in(days.to_list())).list.all()
        counted = counted.filter(covered & (pl.col("service_dates").list.len() > 0))
    compared = counted.join(stored, on="source_file", how="left").with_columns(
        pl.col("stored").fill_null(0).cast(pl.Int64)
    )
    wrong = compared.filter(pl.col("stored") != pl.col("row_count"))
    return dg.AssetCheckResult(
        asset_key=raw,
        check_name="landed_is_raw",
        passed=wrong.is_empty(),
        severity=dg.AssetCheckSeverity.ERROR,
        description="; ".join(
            f"{r['source_file']}: {r['row_count']} landed, {r['stored']} stored"
            for r in wrong.head(10).iter_rows(named=True)
        )
        or None,
        metadata={"files": compared.height, "files_that_differ": wrong.height},
    )


def unknown_kinds(records: Frame, ignored: Mapping[str, Sequence[str]]) -> dg.AssetCheckResult:
    """Count records that no subject takes by kind; those nobody has declared as ignored are a warning.

    Args:
        records: raw_other_records.
        ignored: profile -> patterns of the kinds it ignores.
    """
    kind = nw.coalesce(nw.col("problem"), nw.col("kind"), nw.lit("without a kind"))
    counts: pl.DataFrame = (
        records.with_columns(_kind=kind, _is_broken=~nw.col("problem").is_null())
        .group_by("source_profile", "_kind", "_is_broken")
        .agg(_count=nw.len())
        .collect("polars")
        .to_native()
        .sort("source_profile", "_count", "_kind", descending=[False, True, False])
    )
    unknown = {
        f"{profile} {kind}": count
        for profile, kind, is_broken, count in counts.iter_rows()
        if is_broken or not any(fnmatch(kind, known) for known in ignored.get(profile, ()))
    }
    return dg.AssetCheckResult(
        asset_key="raw_other_records",
        check_name="kinds_known",
        passed=not unknown,
        severity=dg.AssetCheckSeverity.WARN,
        description=", ".join(f"{name}: {n:,}" for name, n in list(unknown.items())[:10]) or None,
        metadata={
            "records": int(counts["_count"].sum()),
            "kinds": counts.height,
            "records_of_unknown_kinds": sum(unknown.values()),
        },
    )


def _population(kpi: str) -> Account:
    """Every row of the fact a rate is about counts once in its population."""
    fact = CONTRACTS[kpi].population_of
    return Account(
        kpi,
        "population_is_whole",
        f"Each row of {fact} counts once in the population of the pooled rows.",
        lambda frames, _: population_count(kpi, frames[kpi], frames[fact]),
        (fact,),
    )


def population_count(kpi: str, rates: Frame, facts: Frame) -> dg.AssetCheckResult:
    """Compare the pooled population of a rate with the rows of its fact."""
    key = [column for column in CONTRACTS[kpi].columns if column.name in CONTRACTS[kpi].key]
    pooled = rates.filter(*(nw.col(column.name) == ALL for column in key if column.name in POOLED))
    # What is looked at several ways (by stage, by limit) is whole in each of them.
    ways = [column.name for column in key if column.name not in POOLED and not isinstance(column.dtype, pl.Date)]
    counts = pooled.with_columns(_all=nw.lit(1)).group_by("_all", *ways).agg(nw.col("population_count").sum())
    populations = {int(n) for n in counts.collect("polars")["population_count"].to_list()} or {0}
    rows = _count(facts)
    return dg.AssetCheckResult(
        asset_key=kpi,
        check_name="population_is_whole",
        passed=populations == {rows},
        severity=dg.AssetCheckSeverity.ERROR,
        description=_if_any(
            (sum(n != rows for n in populations), f"populations of {kpi} do not have the {rows:,} rows of the fact")
        ),
        metadata={"population": next((n for n in sorted(populations) if n != rows), rows), "fact_rows": rows},
    )


def reconciled(occupancy: Frame, flow: Frame) -> dg.AssetCheckResult:
    """Compare bed-minutes with patient-hours, and each midnight with the one before."""
    day = ["service_date", "department_id"]
    # Who comes at midnight sharp is in its census, and among the arrivals of the day that begins.
    before_midnight = nw.col("midnight_patients_count") - nw.col("came_at_midnight_count")
    census = occupancy.select(*day, "occupied_bed_minutes", _census=before_midnight)
    both = flow.join(census, on=day, how="left")
    frame: pl.DataFrame = both.collect("polars").to_native()
    minutes = (pl.col("occupied_bed_minutes") - pl.col("patient_hours") * 60).abs()
    before = frame.select(
        pl.col("service_date").dt.offset_by("1d"), "department_id", pl.col("_census").alias("_before")
    )
    chained = frame.join(before, on=day, how="inner")
    expected = pl.col("_before") + pl.col("inflow_count") - pl.col("outflow_count") - pl.col("lapsed_count")
    wrong_minutes = frame.filter((minutes > 0.01) | minutes.is_null()).height
    wrong_midnights = chained.filter(pl.col("_census") != expected).height
    return dg.AssetCheckResult(
        asset_key="kpi_occupancy_daily",
        check_name="reconciles",
        passed=not wrong_minutes and not wrong_midnights,
        severity=dg.AssetCheckSeverity.ERROR,
        description=_if_any(
            (wrong_minutes, "department-days on which bed-minutes by the hour are not those by the stay"),
            (wrong_midnights, "midnights that are not the one before, plus who came, minus who left"),
        ),
        metadata={
            "department_days": frame.height,
            "days_with_other_minutes": wrong_minutes,
            "midnights_compared": chained.height,
            "midnights_that_differ": wrong_midnights,
        },
    )


#: All of them.
ACCOUNTS: tuple[Account, ...] = (
    Account(
        "raw_landed_files",
        "files_readable",
        "Every landed file that a profile takes could be read.",
        lambda frames, _: files_readable(_native(frames["raw_landed_files"])),
    ),
    _of_columns(
        "columns_known",
        "Landed files have no columns that their profile does not name.",
        ("new",),
        "columns without a place in their profile",
    ),
    _of_columns(
        "columns_present",
        "Landed files have every column that files of their feed used to have.",
        ("missing", "blocked"),
        "columns that files of a feed lack",
    ),
    Account(
        "raw_other_records",
        "kinds_known",
        "Records that no subject takes can be read, and are of kinds that their profile says nobody needs (`ignored`).",
        lambda frames, profiles: unknown_kinds(
            frames["raw_other_records"], {name: profile.ignored for name, profile in profiles.items()}
        ),
    ),
    *(_landed_is_raw(subject) for subject in LANDED),
    *(_conserved(subject) for subject in SUBJECTS),
    *(_population(name) for name, contract in CONTRACTS.items() if contract.population_of),
    Account(
        "kpi_occupancy_daily",
        "reconciles",
        "Bed-minutes counted by the hour are the patient-hours counted by the stay, and the census at midnight is that "
        "of the day before, plus who came, minus who left.",
        lambda frames, _: reconciled(frames["kpi_occupancy_daily"], frames["kpi_department_flow_daily"]),
        ("kpi_department_flow_daily",),
    ),
)
