"""The way through the emergency department: stages, pathways, ambulance handovers; visits are as from `labelled`."""

import dagster as dg
import narwhals as nw

from hospital_assets.assets.cleaned.er_visits import is_seen
from hospital_assets.assets.declare import table
from hospital_assets.assets.facts.undelivered import lacks_any
from hospital_assets.assets.kpis.totals import rates
from hospital_assets.assets.kpis.waits import GROUPS, labelled
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.kpis_pathways import STILL_OPEN, UNKNOWN
from hospital_assets.measures.thresholds import HANDOVER_MINUTES, LATE_HANDOVER_MINUTES, LONG_HANDOVER_MINUTES
from hospital_assets.warehouse.dialect import Frame, exact_median, exact_quantile, exact_sum, minutes_between

#: Stage -> the clock before it and its own.
STAGES = {
    "triage": ("arrival_at", "triage_at"),
    "room": ("triage_at", "room_at"),
    "provider": ("room_at", "provider_at"),
    "decision": ("provider_at", "decision_at"),
    "departure": ("decision_at", "departure_at"),
}


@dg.asset(**table("kpi_stages_daily"))
def kpi_stages_daily(fact_emergency_visits: Frame, dim_hospital: Frame, dim_department: Frame) -> Frame:
    """How many visits reached each stage, and how long it took from the stage before."""
    visits = labelled(fact_emergency_visits, dim_hospital, dim_department)
    return stages(visits).select(CONTRACTS["kpi_stages_daily"].column_names)


def stages(visits: Frame) -> Frame:
    """Visits by stage, with the minutes since the stage before."""
    reached = nw.concat(
        [
            visits.select(
                "service_date",
                *GROUPS,
                "is_cancelled",
                stage=nw.lit(stage),
                # Who left or was seen at an unknown time has left or was seen.
                _is_reached={"departure": ~nw.col("is_open"), "provider": is_seen()}.get(stage, ~nw.col(end).is_null()),
                _is_undelivered=lacks_any(f"er_visits.{stage}_time"),
                _minutes=minutes_between(start, end),
            )
            for stage, (start, end) in STAGES.items()
        ],
        how="vertical",
    ).with_columns(_taken=nw.when(nw.col("_minutes") >= 0).then(nw.col("_minutes")))
    return rates(
        reached,
        ("service_date", "stage"),
        GROUPS,
        excluded={"cancelled": nw.col("is_cancelled"), "undelivered": nw.col("_is_undelivered")},
        counted={
            "numerator_count": nw.col("_is_reached"),
            "timed_count": ~nw.col("_taken").is_null(),
            "untimed_count": nw.col("_is_reached") & nw.col("_taken").is_null(),
        },
        of=["_taken"],
        figures={
            "stage_sum_minutes": exact_sum("_taken"),
            "stage_median_minutes": exact_median("_taken"),
            "stage_p90_minutes": exact_quantile("_taken", 0.9),
        },
    ).with_columns(stage_sum_minutes=nw.coalesce(nw.col("stage_sum_minutes"), nw.lit(0.0)))


@dg.asset(**table("kpi_pathways_daily"))
def kpi_pathways_daily(fact_emergency_visits: Frame, dim_hospital: Frame, dim_department: Frame) -> Frame:
    """Visits by how they arrived, how urgent they were and how they ended."""
    visits = labelled(fact_emergency_visits, dim_hospital, dim_department)
    return pathways(visits).select(CONTRACTS["kpi_pathways_daily"].column_names)


def pathways(visits: Frame) -> Frame:
    """Visits that were not cancelled, by arrival mode, triage level and disposition."""
    return (
        visits.filter(~nw.col("is_cancelled"))
        .with_columns(
            disposition=nw.coalesce(
                nw.col("disposition"), nw.when(nw.col("is_open")).then(nw.lit(STILL_OPEN)), nw.lit(UNKNOWN)
            )
        )
        .group_by("service_date", *GROUPS, "arrival_mode", "disposition")
        .agg(visit_count=nw.len())
    )


@dg.asset(**table("kpi_handovers_daily"))
def kpi_handovers_daily(fact_emergency_visits: Frame, dim_hospital: Frame, dim_department: Frame) -> Frame:
    """How long ambulances wait until the department takes their patient over."""
    visits = labelled(fact_emergency_visits, dim_hospital, dim_department)
    return handovers(visits).select(CONTRACTS["kpi_handovers_daily"].column_names)


def handovers(visits: Frame) -> Frame:
    """Handovers of patients who came by ambulance, against the limits."""
    taken = nw.col("_taken")
    return rates(
        visits.filter(nw.col("arrival_mode") == "ambulance").with_columns(
            _taken=minutes_between("arrival_at", "handover_at")
        ),
        ("service_date",),
        GROUPS,
        excluded={"cancelled": nw.col("is_cancelled"), "no_handover": taken.is_null(), "negative": taken < 0},
        counted={
            "numerator_count": taken > HANDOVER_MINUTES,
            "over_30_minutes_count": taken > LATE_HANDOVER_MINUTES,
            "over_60_minutes_count": taken > LONG_HANDOVER_MINUTES,
        },
        of=["_taken"],
        figures={"handover_sum_minutes": exact_sum("_taken")},
    ).with_columns(handover_sum_minutes=nw.coalesce(nw.col("handover_sum_minutes"), nw.lit(0.0)))
