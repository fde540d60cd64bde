"""Contracts of the way through the emergency department: stages, pathways, ambulance handovers.

Belongs here: KPI tables about where visits go and how long each step takes.
"""

from __future__ import annotations

from hospital_assets.contracts.kpis import DailyKpi, Rate
from hospital_assets.contracts.table import Measure, Table, column
from hospital_assets.measures.thresholds import HANDOVER_MINUTES, LATE_HANDOVER_MINUTES, LONG_HANDOVER_MINUTES

#: What the disposition says of a visit that has not ended.
STILL_OPEN = "still open"
#: What it says of one that ended nobody knows how.
UNKNOWN = "unknown"
_STAGES = ["triage", "room", "provider", "decision", "departure"]


class KpiStagesDaily(
    DailyKpi,
    Rate,
    name="kpi_stages_daily",
    grain="one day of arrival, hospital, department and triage level (and their totals) and stage",
    key=("service_date", "hospital_id", "department_name", "triage_group", "stage"),
    columns="""
        excluded_cancelled_count excluded_undelivered_count timed_count untimed_count stage_sum_minutes
        stage_median_minutes stage_p90_minutes
    """,
    needs="""
        er_visits.triage_time er_visits.room_time er_visits.provider_time er_visits.decision_time
        er_visits.departure_time
    """,
    population_of="fact_emergency_visits",
    conserved={"numerator_count": ("timed_count", "untimed_count")},
    measures=[
        Measure(
            "Stages of a visit",
            "Visits that reached each stage, in percent of those that came, and the minutes since the stage before: "
            "sum, median, 90th percentile.",
            "%, min",
            "all visits, by day of arrival",
            "NHS England ECDS clocks",
            clock="arrival to triage, triage to treatment room, room to first provider contact, provider contact to "
            "disposition decision, decision to physical departure.",
            exclusions="cancelled; visits of sources without the stage's own clock. Who has not reached a stage (left, "
            "or still on the way) is in the denominator; minutes are of visits with both clocks in their order "
            "(`timed_count`).",
            variants="sums and counts add up over days; medians and percentiles do not, and a period shows the median "
            "of its days.",
        )
    ],
):
    """How many visits reach each stage, and how long each step takes."""

    stage = column(isin=_STAGES)


class KpiPathwaysDaily(
    DailyKpi,
    name="kpi_pathways_daily",
    grain="one day of arrival, hospital, department, triage level, arrival mode and disposition",
    key=("service_date", "hospital_id", "department_name", "triage_group", "arrival_mode", "disposition"),
    columns="""
        visit_count
    """,
    measures=[
        Measure(
            "Pathways",
            "Visits by how they arrived, their triage level and how they ended.",
            "visits",
            "visits that were not cancelled, by day of arrival",
            "HL7 PV2-38, PV1-36",
            exclusions="cancelled; they are counted in kpi_lwbs_daily. A visit that has not ended is `still open`, "
            "one that ended nobody knows how is `unknown`.",
        )
    ],
):
    """Visits by arrival, triage level and disposition; no totals, rows add up."""

    disposition = column(
        "`still open` where the visit has not ended, `unknown` where nobody knows how it did.", nullable=False
    )


class KpiHandoversDaily(
    DailyKpi,
    Rate,
    name="kpi_handovers_daily",
    grain="one day of arrival, hospital, department and triage level, and their totals",
    key=("service_date", "hospital_id", "department_name", "triage_group"),
    columns="""
        excluded_cancelled_count excluded_no_handover_count excluded_negative_count over_30_minutes_count
        over_60_minutes_count handover_sum_minutes
    """,
    measures=[
        Measure(
            "Ambulance handover",
            f"Handovers that took longer than {HANDOVER_MINUTES} minutes; also those over "
            f"{LATE_HANDOVER_MINUTES} and {LONG_HANDOVER_MINUTES} minutes, and the sum of the minutes.",
            "%",
            "visits that came by ambulance, by day of arrival",
            "NHS England, ambulance quality indicators",
            clock="arrival of the patient at the hospital until the department has taken over.",
            exclusions="cancelled, no handover recorded, handover before arrival.",
        )
    ],
):
    """How long ambulances wait to hand their patients over."""

    excluded_negative_count = column("Handover before arrival.")


TABLES: tuple[type[Table], ...] = (KpiStagesDaily, KpiPathwaysDaily, KpiHandoversDaily)
