"""Contracts of the emergency department's KPIs.

Belongs here: KPI tables whose population are emergency visits. Every rate says how many were looked
at, who was left out and why, and of how many the share is; the rest is `contracts.kpis`' matter.
"""

from __future__ import annotations

import polars as pl

from hospital_assets.contracts.kpis import ALL_HOSPITALS, DailyKpi, PeriodKpi, Rate
from hospital_assets.contracts.table import Instant, Measure, Table, column

ECAT_STRATA = ["all", "under_18", "under_18_mental_health", "18_and_over", "18_and_over_mental_health"]
OP18_STRATA = ["all", "reported", "mental_health", "transferred"]
NEDOCS_LEVELS = ["not_busy", "busy", "extremely_busy", "overcrowded", "severely_overcrowded", "dangerously_overcrowded"]
EDWIN_LEVELS = ["manageable", "busy", "crowded"]


class KpiLwbsDaily(
    DailyKpi,
    Rate,
    name="kpi_lwbs_daily",
    layer="kpis",
    grain="one day of arrival and hospital (and all)",
    key=("service_date", "hospital_id"),
    partitioned=True,
    population_of="fact_emergency_visits",
    measures=[
        Measure(
            "Left without being seen",
            "Visits that left before a physician, APN or PA saw them, of all who presented.",
            "%",
            "all visits registered (A04)",
            "NQF 0499; CMS OP-22",
            exclusions="registrations that were cancelled (A11).",
            variants="who leaves against advice or elopes after being seen is not counted.",
        )
    ],
):
    """Patients who left without being seen."""

    hospital_id: pl.String = column(ALL_HOSPITALS)
    excluded_cancelled_count: pl.Int64 = column("Left out: registration cancelled.", ge=0)


class KpiFourHourDaily(
    DailyKpi,
    Rate,
    name="kpi_four_hour_daily",
    layer="kpis",
    grain="one day of arrival, day of departure and hospital (and all)",
    key=("service_date", "period_date", "hospital_id"),
    partitioned=True,
    population_of="fact_emergency_visits",
    measures=[
        Measure(
            "Four-hour standard",
            "Departures within 240 minutes of the clock's start.",
            "%",
            "visits that departed, by day of departure",
            "NHS England ECDS; AIHW NEAT 489630",
            clock="walk-ins: arrival; ambulance: handover, at the latest 15 minutes after arrival; "
            "stops at physical departure.",
            exclusions="cancelled, still there, departure before the start.",
        ),
        Measure(
            "Twelve-hour stays",
            "Departures more than 12 hours after arrival (`over_12_hours_count`).",
            "visits",
            "as the four-hour standard",
            "NHS England",
            variants="the trolley wait, decision to departure over 12 hours, is in kpi_boarding_daily.",
        ),
    ],
):
    """Departures within four hours."""

    period_date: pl.Date = column("Local day of departure; of arrival while the visit is open.")
    hospital_id: pl.String = column(ALL_HOSPITALS)
    excluded_cancelled_count: pl.Int64 = column("Left out: registration cancelled.", ge=0)
    excluded_open_count: pl.Int64 = column("Left out: still there.", ge=0)
    excluded_negative_count: pl.Int64 = column("Left out: departure before the start.", ge=0)
    over_12_hours_count: pl.Int64 = column("Of the denominator: arrival to departure > 12 h.", ge=0)


class KpiBoardingDaily(
    DailyKpi,
    Rate,
    name="kpi_boarding_daily",
    layer="kpis",
    grain="one day of arrival, hospital (and all) and department admitted to (and all)",
    key=("service_date", "hospital_id", "destination_department"),
    partitioned=True,
    measures=[
        Measure(
            "Boarding time",
            "Minutes from the decision to admit until physical departure: sum, median, longest.",
            "min",
            "visits admitted at the same hospital",
            "CMS111v9 (ED-2)",
            clock="the decision (order, assessment, bed request or acceptance), never the bed's "
            "assignment; stops at departure.",
            exclusions="still there, no decision recorded, decision after departure.",
        ),
        Measure(
            "Boarded over four hours",
            "Of those, decision to departure of more than 240 minutes.",
            "%",
            "as boarding time",
            "CMS1244 (ECAT)",
            variants="`over_12_hours_count` is the NHS trolley wait; ACEP counts who boards at a "
            "moment: kpi_crowding_hourly.boarders_count.",
        ),
    ],
):
    """How long admitted patients wait in the emergency department for their bed, by where they go."""

    hospital_id: pl.String = column(ALL_HOSPITALS)
    destination_department: pl.String = column("First inpatient department, `unknown`, or `all`.")
    excluded_open_count: pl.Int64 = column("Left out: still there.", ge=0)
    excluded_no_decision_count: pl.Int64 = column("Left out: no decision recorded.", ge=0)
    excluded_negative_count: pl.Int64 = column("Left out: decision after departure.", ge=0)
    boarding_sum_minutes: pl.Float64 = column("Sum.", unit="min", ge=0)
    boarding_median_minutes: pl.Float64 = column("Median.", unit="min", nullable=True, ge=0)
    boarding_max_minutes: pl.Float64 = column("Longest.", unit="min", nullable=True, ge=0)
    over_12_hours_count: pl.Int64 = column("Of the denominator: more than 12 hours.", ge=0)


class KpiSeenOnTimeDaily(
    DailyKpi,
    Rate,
    name="kpi_seen_on_time_daily",
    layer="kpis",
    grain="one day, hospital (and all), triage scale and level (and all)",
    key=("service_date", "hospital_id", "scale", "triage_level"),
    partitioned=True,
    measures=[
        Measure(
            "Seen within the triage target",
            "Waits no longer than the target of the visit's level; at once counts up to 2 minutes.",
            "%",
            "all visits, by level",
            "METEOR 395017; targets are data in dim_triage",
            clock="door to provider, as in kpi_waits_daily.",
            exclusions="untriaged, cancelled, without a valid wait.",
            variants="one row per scale: ESI with this network's own targets (ESI sets none), ATS, "
            "CTAS and Manchester, each on the level as triaged here.",
        )
    ],
):
    """Who was seen within the target of the triage level, under each scale."""

    hospital_id: pl.String = column(ALL_HOSPITALS)
    scale: pl.String = column("Triage scale whose targets are used.")
    triage_level: pl.String = column("Level, `untriaged`, or `all`.")
    target_minutes: pl.Float64 = column("The level's target.", unit="min", nullable=True)
    excluded_cancelled_count: pl.Int64 = column("Left out: registration cancelled.", ge=0)
    excluded_untriaged_count: pl.Int64 = column("Left out: no level.", ge=0)
    excluded_no_wait_count: pl.Int64 = column("Left out: no valid wait.", ge=0)


class KpiCriticalWaitsDaily(
    DailyKpi,
    Rate,
    name="kpi_critical_waits_daily",
    layer="kpis",
    grain="one day and hospital (and all)",
    key=("service_date", "hospital_id"),
    partitioned=True,
    conserved={"numerator_count": ("seen_late_count", "left_late_count", "waiting_late_count")},
    measures=[
        Measure(
            "Critical patients over 15 minutes",
            "Triage 1 and 2 patients who waited more than 15 minutes: seen late, gone unseen after "
            "more than that, or waiting for more than that still.",
            "%",
            "visits of triage level 1 or 2",
            "CTAS level 2",
            clock="earlier of triage and arrival; stops at first provider contact, at departure of "
            "who left unseen, or at `as_of_at`.",
            exclusions="cancelled; still within 15 minutes; clocks that cannot be.",
            variants="averages of those who were seen leave out the worst cases.",
        )
    ],
):
    """Critical patients who waited too long, those who left or still wait included."""

    hospital_id: pl.String = column(ALL_HOSPITALS)
    as_of_at: Instant = column("The moment until which open visits have waited.")
    excluded_cancelled_count: pl.Int64 = column("Left out: registration cancelled.", ge=0)
    excluded_pending_count: pl.Int64 = column("Left out: waiting, within 15 minutes.", ge=0)
    excluded_invalid_count: pl.Int64 = column("Left out: clocks that cannot be.", ge=0)
    seen_late_count: pl.Int64 = column("Seen after more than 15 minutes.", ge=0)
    left_late_count: pl.Int64 = column("Left unseen after more than 15 minutes.", ge=0)
    waiting_late_count: pl.Int64 = column("Waiting for more than 15 minutes.", ge=0)


class KpiOp18(
    PeriodKpi,
    name="kpi_op18",
    layer="kpis",
    grain="one month of departure, hospital (and all) and stratum",
    key=("period_month", "hospital_id", "stratum"),
    measures=[
        Measure(
            "OP-18 median ED time of discharged patients",
            "Median of arrival to physical departure; of an even number the mean of the middle two.",
            "min",
            "all visits by month of departure",
            "CMS OP-18, NQF 0496; CMS32v4 strata",
            clock="earliest arrival until physical departure.",
            exclusions="admitted (not in scope), died, left (unseen, against advice, eloped), "
            "disposition unknown, a clock missing or reversed, cancelled, of another stratum.",
            variants="`all` is OP-18a, `reported` OP-18b (without mental health and transfers), "
            "`mental_health` OP-18c, `transferred` OP-18d.",
        )
    ],
):
    """Median time in the emergency department of discharged patients (OP-18)."""

    hospital_id: pl.String = column(ALL_HOSPITALS)
    stratum: pl.String = column("Which of the four.", isin=OP18_STRATA)
    population_count: pl.Int64 = column("Visits.", ge=1)
    excluded_cancelled_count: pl.Int64 = column("Left out: registration cancelled.", ge=0)
    excluded_admitted_count: pl.Int64 = column("Left out: admitted.", ge=0)
    excluded_expired_count: pl.Int64 = column("Left out: died in the department.", ge=0)
    excluded_left_count: pl.Int64 = column("Left out: unseen, against advice, eloped.", ge=0)
    excluded_unknown_count: pl.Int64 = column("Left out: disposition unknown.", ge=0)
    excluded_clock_count: pl.Int64 = column("Left out: departure missing or before arrival.", ge=0)
    excluded_other_stratum_count: pl.Int64 = column("Left out: of another stratum.", ge=0)
    denominator_count: pl.Int64 = column("n.", ge=0)
    median_minutes: pl.Float64 = column("Median.", unit="min", nullable=True, ge=0)


class KpiEcat(
    Rate,
    name="kpi_ecat",
    layer="kpis",
    grain="one calendar year, hospital (and all) and stratum",
    key=("period_year", "hospital_id", "stratum"),
    measures=[
        Measure(
            "ECAT: emergency care access and timeliness",
            "Visits with any of: a treatment room 61 minutes or more after arrival; left without "
            "being seen; 241 minutes or more from the decision to admit to departure; 481 minutes or "
            "more from arrival to departure. Each visit counts once; lower is better.",
            "%",
            "visits that ended in the year",
            "CMS1244 (ECAT)",
            clock="whole minutes.",
            exclusions="cancelled; not ended. Observation stays are exempt from the last two components.",
            variants="age is that at the visit's start, as in the rural (REH) version; HOQR uses the "
            "start of the year. `z_score` compares hospitals of the same 20,000-visit volume band, "
            "with the sample standard deviation; above 0 is worse.",
        )
    ],
):
    """CMS's measure of emergency care access and timeliness, with its components and strata."""

    period_year: pl.Int64 = column("Calendar year of departure, local.")
    hospital_id: pl.String = column(ALL_HOSPITALS)
    stratum: pl.String = column("Age at the visit's start x mental health.", isin=ECAT_STRATA)
    excluded_cancelled_count: pl.Int64 = column("Left out: registration cancelled.", ge=0)
    excluded_open_count: pl.Int64 = column("Left out: not ended.", ge=0)
    room_count: pl.Int64 = column("Room 61 minutes or more after arrival.", ge=0)
    left_count: pl.Int64 = column("Left without being seen.", ge=0)
    boarded_count: pl.Int64 = column("Boarded 241 minutes or more.", ge=0)
    long_stay_count: pl.Int64 = column("Stayed 481 minutes or more.", ge=0)
    volume_band: pl.String = column("20,000-visit band of the hospital's year; null for `all`.", nullable=True)
    z_score: pl.Float64 = column(
        "Against the hospitals of the band, stratum `all` only; null where there are fewer than two.", nullable=True
    )


class KpiReturns(
    PeriodKpi,
    Rate,
    name="kpi_returns",
    layer="kpis",
    grain="one month of departure, hospital (and all) and variant",
    key=("period_month", "hospital_id", "variant"),
    measures=[
        Measure(
            "72-hour returns",
            "Discharges whose patient arrives at any emergency department of the network within 72 "
            "hours of departure; the next arrival decides.",
            "%",
            "all visits, by month of departure",
            "WestJEM; Ontario ED Return Visit Program",
            clock="departure until the next arrival of the same person (merged numbers are one).",
            exclusions="cancelled, still there, admitted, transferred, observed or died, left (in "
            "the variants without them), patient unknown, less than 72 hours before the data end.",
            variants="`discharged`: index visits discharged after being seen; `with_left`: those who "
            "left unseen or against advice too; `return_admitted`: as `discharged`, and the return "
            "ends in admission.",
        )
    ],
):
    """Returns to an emergency department within 72 hours."""

    hospital_id: pl.String = column("Hospital of the first visit, or `all`.")
    variant: pl.String = column("Which returns.", isin=["discharged", "with_left", "return_admitted"])
    excluded_cancelled_count: pl.Int64 = column("Left out: registration cancelled.", ge=0)
    excluded_open_count: pl.Int64 = column("Left out: still there.", ge=0)
    excluded_not_discharged_count: pl.Int64 = column("Left out: admitted, transferred, observed, died.", ge=0)
    excluded_left_count: pl.Int64 = column("Left out: left, in the variants without them.", ge=0)
    excluded_unknown_patient_count: pl.Int64 = column("Left out: patient unknown.", ge=0)
    excluded_run_out_count: pl.Int64 = column("Left out: the 72 hours are not over.", ge=0)


class KpiCrowdingHourly(
    Table,
    name="kpi_crowding_hourly",
    layer="kpis",
    grain="one hospital and hour",
    key=("hospital_id", "hour_start_at"),
    order_by=("service_date", "hospital_id", "hour_start_at"),
    measures=[
        Measure(
            "NEDOCS",
            "85.8 x ED patients / ED beds + 600 x boarders / hospital beds + 13.4 x ventilated + 0.93 "
            "x longest boarding (h) + 5.64 x last door to bed (h) - 20, held within 0 to 200.",
            "points",
            "patients present at the start of the hour",
            "Weiss et al., Acad Emerg Med 2004;11:38-50",
            exclusions="null where beds are unknown. Ventilation is known from procedures (ICD-10-PCS 5A19).",
        ),
        Measure(
            "EDWIN",
            "Sum over present patients of (6 - triage level) / (attendings x (ED beds - boarders)).",
            "points",
            "patients present at the start of the hour",
            "Bernstein et al. 2003",
            exclusions="untriaged patients; null without attendings or free beds.",
            variants="the level is reversed (6 - ESI); unreversed it would rate the sickest lowest.",
        ),
    ],
):
    """How crowded each emergency department is at the start of every hour."""

    service_date: pl.Date = column("Local day of the hour.")
    hospital_id: pl.String = column("Hospital.")
    hour_start_at: Instant = column("Start of the hour.")
    ed_patients_count: pl.Int64 = column("Patients present.", ge=0)
    ed_bed_count: pl.Int64 = column("Treatment spaces of the department.", nullable=True, ge=0)
    occupancy_ratio: pl.Float64 = column(
        "Patients per treatment space; above 0.9 linked to 10-day mortality.", nullable=True, ge=0
    )
    boarders_count: pl.Int64 = column("Of them, decided to be admitted and not moved.", ge=0)
    hospital_bed_count: pl.Int64 = column("Inpatient beds of the hospital.", nullable=True, ge=0)
    ventilated_count: pl.Int64 = column("Of the patients, ventilated.", ge=0)
    longest_boarding_hours: pl.Float64 = column("Of those who board now.", unit="h", ge=0)
    last_door_to_bed_hours: pl.Float64 = column(
        "Arrival to room, of those present the one roomed last.", unit="h", ge=0
    )
    nedocs_score: pl.Float64 = column("NEDOCS.", nullable=True, ge=0, le=200)
    nedocs_level: pl.String = column("What it means.", nullable=True, isin=NEDOCS_LEVELS)
    attendings_count: pl.Int64 = column("Doctors on shift in the department.", ge=0)
    triage_weight_sum: pl.Int64 = column("Sum of 6 - level over triaged patients.", ge=0)
    edwin_score: pl.Float64 = column("EDWIN.", nullable=True, ge=0)
    edwin_level: pl.String = column("What it means.", nullable=True, isin=EDWIN_LEVELS)


TABLES: tuple[type[Table], ...] = (
    KpiLwbsDaily,
    KpiFourHourDaily,
    KpiBoardingDaily,
    KpiSeenOnTimeDaily,
    KpiCriticalWaitsDaily,
    KpiOp18,
    KpiEcat,
    KpiReturns,
    KpiCrowdingHourly,
)
