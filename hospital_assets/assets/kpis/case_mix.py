"""What patients come with: principal diagnoses and triage levels."""

from __future__ import annotations

import dagster as dg
import narwhals as nw

from hospital_assets.assets.declare import table
from hospital_assets.assets.dedupe import newest_of_each
from hospital_assets.assets.kpis.totals import distinct_count, share_pct, with_totals
from hospital_assets.contracts import CONTRACTS
from hospital_assets.measures.triage import UNTRIAGED, triage_group, wait_target
from hospital_assets.warehouse.dialect import Frame, checkpoint

NOT_CODED = "not_coded"


@dg.asset(**table("kpi_conditions_daily"))
def kpi_conditions_daily(fact_emergency_visits: Frame, dim_hospital: Frame, dim_condition: Frame) -> Frame:
    """Visits of each day by principal diagnosis; visits without one count as `not_coded`."""
    return (
        fact_emergency_visits.filter(~nw.col("is_cancelled"))
        .join(dim_hospital.select("hospital_key", "hospital_id"), on="hospital_key", how="left")
        .join(dim_condition.select("condition_key", "icd_version", "icd_code"), on="condition_key", how="left")
        .group_by("service_date", "hospital_id", "icd_version", "icd_code")
        .agg(visit_count=nw.len())
        .select(CONTRACTS["kpi_conditions_daily"].column_names)
    )


@dg.asset(**table("kpi_conditions"))
def kpi_conditions(kpi_conditions_daily: Frame, dim_condition: Frame) -> Frame:
    """Principal diagnoses of the period, ranked, with their share of the coded visits."""
    summed = checkpoint(
        with_totals(
            kpi_conditions_daily,
            ("icd_version", "icd_code"),
            ("hospital_id",),
            {"visit_count": nw.col("visit_count").sum()},
        )
    )
    return (
        ranked(summed, nw.col("icd_code") != NOT_CODED)
        .join(
            dim_condition.select("icd_version", "icd_code", "condition_name", "chapter_name"),
            on=["icd_version", "icd_code"],
            how="left",
        )
        .select(CONTRACTS["kpi_conditions"].column_names)
    )


@dg.asset(**table("kpi_condition_groups"))
def kpi_condition_groups(kpi_conditions_daily: Frame, dim_condition: Frame) -> Frame:
    """Principal diagnoses of the period by clinical group, with what is unmapped and not coded."""
    grouped = kpi_conditions_daily.join(
        dim_condition.select("icd_version", "icd_code", "condition_group"), on=["icd_version", "icd_code"], how="left"
    )
    summed = checkpoint(
        with_totals(grouped, ("condition_group",), ("hospital_id",), {"visit_count": nw.col("visit_count").sum()})
    )
    return ranked(summed, nw.col("condition_group") != NOT_CODED).select(CONTRACTS["kpi_condition_groups"].column_names)


def ranked(counts: Frame, is_coded: nw.Expr) -> Frame:
    """Add each hospital's coded visits, and of what is coded its share of them and its rank.

    Args:
        counts: hospital_id, visit_count.
        is_coded: false for the row of visits without a diagnosis.
    """
    coded = counts.with_columns(
        _coded_count=nw.when(is_coded).then(nw.col("visit_count")).otherwise(nw.lit(0))
    ).with_columns(coded_visit_count=nw.col("_coded_count").sum().over("hospital_id"))
    return coded.with_columns(
        share_pct=nw.when(is_coded).then(share_pct("_coded_count", "coded_visit_count")),
        commonest_rank=nw.when(is_coded).then(
            nw.col("_coded_count").rank("min", descending=True).over("hospital_id").cast(nw.Int64)
        ),
    )


@dg.asset(**table("kpi_procedures"))
def kpi_procedures(cleaned_procedures: Frame) -> Frame:
    """Procedures of the period by code, ranked."""
    named = newest_of_each(cleaned_procedures, ["procedure_id"]).select(
        "hospital_id", "procedure_code", "visit_id", procedure_name=nw.col("description")
    )
    summed = checkpoint(
        with_totals(
            named,
            ("procedure_code",),
            ("hospital_id",),
            {
                "procedure_count": nw.len(),
                "visit_count": distinct_count("visit_id"),
                "procedure_name": nw.col("procedure_name").min(),
            },
        )
    )
    return (
        summed.with_columns(_all=nw.col("procedure_count").sum().over("hospital_id"))
        .with_columns(
            share_pct=share_pct("procedure_count", "_all"),
            commonest_rank=nw.col("procedure_count").rank("min", descending=True).over("hospital_id").cast(nw.Int64),
        )
        .select(CONTRACTS["kpi_procedures"].column_names)
    )


@dg.asset(**table("kpi_triage_mix_daily"))
def kpi_triage_mix_daily(fact_emergency_visits: Frame, dim_hospital: Frame, dim_triage: Frame) -> Frame:
    """Visits of each day by triage level, and how many were seen within the level's target."""
    visits = (
        fact_emergency_visits.filter(~nw.col("is_cancelled"))
        .join(dim_hospital.select("hospital_key", "hospital_id"), on="hospital_key", how="left")
        .join(dim_triage.select("triage_key", "target_minutes"), on="triage_key", how="left")
        .with_columns(triage_group=triage_group(), _target=wait_target())
    )
    is_evaluable = ~nw.col("wait_minutes").is_null() & ~nw.col("target_minutes").is_null()
    return (
        visits.with_columns(
            _critical=nw.col("is_critical").cast(nw.Int64),
            _evaluable=is_evaluable.cast(nw.Int64),
            _within=nw.coalesce(is_evaluable & (nw.col("wait_minutes") <= nw.col("_target")), nw.lit(False)).cast(
                nw.Int64
            ),
        )
        .group_by("service_date", "hospital_id", "triage_group")
        .agg(
            visit_count=nw.len(),
            critical_visit_count=nw.col("_critical").sum(),
            target_evaluable_count=nw.col("_evaluable").sum(),
            within_target_count=nw.col("_within").sum(),
        )
        .select(CONTRACTS["kpi_triage_mix_daily"].column_names)
    )


@dg.asset(**table("kpi_triage_mix"))
def kpi_triage_mix(kpi_triage_mix_daily: Frame) -> Frame:
    """Triage mix of the period, for each hospital and all of them."""
    counts = ("visit_count", "critical_visit_count", "target_evaluable_count", "within_target_count")
    summed = checkpoint(
        with_totals(
            kpi_triage_mix_daily, ("triage_group",), ("hospital_id",), {name: nw.col(name).sum() for name in counts}
        )
    )
    is_triaged = nw.col("triage_group") != UNTRIAGED
    return (
        summed.with_columns(_triaged=nw.when(is_triaged).then(nw.col("visit_count")).otherwise(nw.lit(0)))
        .with_columns(triaged_visit_count=nw.col("_triaged").sum().over("hospital_id"))
        .with_columns(
            share_of_triaged_pct=nw.when(is_triaged).then(share_pct("visit_count", "triaged_visit_count")),
            within_target_pct=share_pct("within_target_count", "target_evaluable_count"),
        )
        .select(CONTRACTS["kpi_triage_mix"].column_names)
    )
