"""Contracts of the emergency department's KPIs.

Belongs here: KPI tables whose population are emergency visits. Every rate has its population,
its exclusions by reason and its denominator. Does not belong here: other KPIs (`contracts.kpis`).
"""

from __future__ import annotations

from hospital_assets.contracts.kpis import DailyKpi, Kpi, PeriodKpi, Rate
from hospital_assets.contracts.table import Measure, Table, column
from hospital_assets.measures import thresholds
from hospital_assets.measures.triage import CRITICAL_IN_WORDS
from hospital_assets.measures.words import in_hours

ECAT_STRATA = ["all", "under_18", "under_18_mental_health", "18_and_over", "18_and_over_mental_health"]
OP18_STRATA = ["all", "reported", "mental_health", "transferred"]
NEDOCS_LEVELS = ["not_busy", "busy", "extremely_busy", "overcrowded", "severely_overcrowded", "dangerously_overcrowded"]
_CRITICAL_WAIT = f"{thresholds.CRITICAL_WAIT_MINUTES:g} minutes"
_LONG_HOURS = f"{thresholds.TWELVE_HOUR_MINUTES / 60:g}"
EDWIN_LEVELS = ["manageable", "busy", "crowded"]


class KpiLwbsDaily(
    DailyKpi,
    Rate,
    name="kpi_lwbs_daily",
    grain="one day of arrival and hospital (and all)",
    key=("service_date", "hospital_id"),
    columns="excluded_cancelled_count excluded_unknown_count",
    population_of="fact_emergency_visits",
    measures=[
        Measure(
            "Left without being seen",
            "Visits that left before a physician, APN or PA saw them, of all who presented.",
            "%",
            "all visits registered (A04)",
            "NQF 0499; CMS OP-22",
            exclusions="registrations that were cancelled (A11); visits whose disposition is not known (yet): where a "
            "source delivers none, the rate is not known and is null.",
            variants="nobody saw the patient and the patient left: unseen, against advice or eloped without a provider "
            "contact. Who has one is not counted, whatever the code, nor is who was seen at an unknown "
            "time. Who was sent home (or admitted, transferred, died) without a recorded provider contact is not "
            "counted either: somebody decided that, so it is the clock that is missing; the visit has no wait, and is "
            "a discharge like others in OP-18 and in returns.",
        )
    ],
):
    """Patients who left without being seen."""


class KpiFourHourDaily(
    DailyKpi,
    Rate,
    name="kpi_four_hour_daily",
    grain="one day of arrival, day of departure and hospital (and all)",
    key=("service_date", "period_date", "hospital_id"),
    columns="""
        excluded_cancelled_count excluded_open_count excluded_untimed_count excluded_negative_count over_12_hours_count
    """,
    population_of="fact_emergency_visits",
    measures=[
        Measure(
            "Four-hour standard",
            f"Departures within {thresholds.FOUR_HOUR_MINUTES} minutes of the clock's start.",
            "%",
            "visits that departed, by day of departure",
            "NHS England ECDS; AIHW NEAT 489630",
            clock="walk-ins: arrival; ambulance: handover, at the latest "
            f"{thresholds.HANDOVER_GRACE_MINUTES} minutes after arrival; stops at physical departure. Who left before "
            "the clock started was there for no minute of it.",
            exclusions="cancelled, still there, a time unknown (known by its day only), departure before arrival.",
        ),
        Measure(
            "Twelve-hour stays",
            f"Departures more than {_LONG_HOURS} hours after arrival (`over_12_hours_count`).",
            "visits",
            "as the four-hour standard",
            "NHS England",
            variants=f"the trolley wait, decision to departure over {_LONG_HOURS} hours, is in kpi_boarding_daily.",
        ),
    ],
):
    """Departures within the four-hour standard."""

    period_date = column("Of departure; of arrival while the visit is open.")
    excluded_negative_count = column("Departure before arrival.")
    over_12_hours_count = column("From arrival to departure.")


class KpiBoardingDaily(
    DailyKpi,
    Rate,
    name="kpi_boarding_daily",
    grain="one day of arrival, hospital (and all) and department admitted to (and all)",
    key=("service_date", "hospital_id", "destination_department"),
    columns="""
        excluded_open_count excluded_untimed_count excluded_no_decision_count excluded_negative_count
        boarding_sum_minutes boarding_median_minutes boarding_max_minutes over_12_hours_count
    """,
    measures=[
        Measure(
            "Boarding time",
            "Minutes from the decision to admit until physical departure: sum, median, longest.",
            "min",
            "visits admitted at the same hospital",
            "CMS111v9 (ED-2)",
            clock="the decision (order, assessment, bed request or acceptance), never the bed's "
            "assignment; stops at departure.",
            exclusions="still there, departure known by its day only, no decision recorded, decision after departure.",
        ),
        Measure(
            f"Boarded over {in_hours(thresholds.LONG_BOARDING_MINUTES)}",
            f"Of those, decision to departure of more than {thresholds.LONG_BOARDING_MINUTES} minutes.",
            "%",
            "as boarding time",
            "CMS1244 (ECAT)",
            variants="`over_12_hours_count` is the NHS trolley wait; ACEP counts who boards at a "
            "moment: kpi_crowding_hourly.boarders_count.",
        ),
    ],
):
    """How long admitted patients wait in the emergency department for a bed, by destination department."""

    excluded_negative_count = column("Decision after departure.")
    over_12_hours_count = column("From decision to departure.")


class KpiSeenOnTimeDaily(
    DailyKpi,
    Rate,
    name="kpi_seen_on_time_daily",
    grain="one day, hospital (and all), triage scale and level (and all)",
    key=("service_date", "hospital_id", "scale", "triage_group"),
    columns="target_minutes excluded_cancelled_count excluded_untriaged_count excluded_no_wait_count",
    measures=[
        Measure(
            "Seen within the triage target",
            "Waits no longer than the target of the visit's level; at once counts up to "
            f"{thresholds.IMMEDIATE_MINUTES:g} minutes.",
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
    """Visits seen within the target of their triage level, under each scale."""

    scale = column("The one whose targets are used.")


class KpiCriticalWaitsDaily(
    DailyKpi,
    Rate,
    name="kpi_critical_waits_daily",
    grain="one day and hospital (and all)",
    key=("service_date", "hospital_id"),
    columns="""
        as_of_at excluded_cancelled_count excluded_undelivered_count excluded_lapsed_count excluded_pending_count
        excluded_invalid_count seen_late_count left_late_count waiting_late_count
    """,
    conserved={"numerator_count": ("seen_late_count", "left_late_count", "waiting_late_count")},
    needs="er_visits.provider_time",
    measures=[
        Measure(
            f"Critical patients over {_CRITICAL_WAIT}",
            f"Patients of triage levels {CRITICAL_IN_WORDS} who waited more than {_CRITICAL_WAIT}: seen late, gone "
            "unseen after more than that, or waiting for more than that still.",
            "%",
            f"visits of triage levels {CRITICAL_IN_WORDS}",
            "CTAS level 2",
            clock="earlier of triage and arrival; stops at first provider contact, at departure of "
            "who left unseen, or at `as_of_at`.",
            exclusions=f"cancelled; still within {_CRITICAL_WAIT}; clocks that cannot be, or are missing (seen "
            "at an unknown time; admitted, sent home or transferred without a provider contact, or it is not known "
            f"how the visit ended); neither seen nor gone {thresholds.LONGEST_PRESENCE_HOURS} hours after arrival (a "
            "record left open is no patient who waits).",
            variants="averages of those who were seen leave out the worst cases.",
        )
    ],
):
    """Critical patients who waited too long, including those who left or are still waiting."""


class KpiOp18(
    PeriodKpi,
    name="kpi_op18",
    grain="one month of departure, hospital (and all) and stratum",
    key=("period_month", "hospital_id", "stratum"),
    columns="""
        population_count excluded_cancelled_count excluded_admitted_count excluded_expired_count excluded_left_count
        excluded_unknown_count excluded_clock_count excluded_undelivered_count excluded_other_stratum_count
        denominator_count median_minutes
    """,
    needs="diagnoses",
    measures=[
        Measure(
            "OP-18 median ED time of discharged patients",
            "Median of arrival to physical departure; of an even number the mean of the middle two.",
            "min",
            "all visits by month of departure",
            "CMS OP-18, NQF 0496; CMS32v4 strata",
            clock="the earlier of arrival and triage until physical departure.",
            exclusions="admitted (not in scope), died, left (unseen, against advice, eloped), "
            "disposition unknown, a clock missing or reversed, cancelled, of another stratum; in the strata by mental "
            "health visits of sources without diagnoses.",
            variants="`all` is OP-18a, `reported` OP-18b (without mental health and transfers), "
            "`mental_health` OP-18c, `transferred` OP-18d. Who is transferred and of mental health is in OP-18d alone, "
            "so that the visits of b, c and d add up to those of a: such a patient waits for a place elsewhere.",
        )
    ],
):
    """Median time in the emergency department of discharged patients (OP-18)."""

    stratum = column(isin=OP18_STRATA)
    population_count = column("Visits.", ge=1)


class KpiEcat(
    Rate,
    name="kpi_ecat",
    grain="one calendar year, hospital (and all) and stratum",
    key=("period_year", "hospital_id", "stratum"),
    columns="""
        excluded_cancelled_count excluded_open_count excluded_untimed_count excluded_undelivered_count room_count
        left_count boarded_count long_stay_count volume_band z_score
    """,
    needs="er_visits.room_time er_visits.decision_time er_visits.disposition",
    measures=[
        Measure(
            "ECAT: emergency care access and timeliness",
            f"Visits with any of: a treatment room {thresholds.ECAT_ROOM_MINUTES} minutes or more after arrival; left "
            f"without being seen; {thresholds.ECAT_BOARDING_MINUTES} minutes or more from the decision to admit to "
            f"departure; {thresholds.ECAT_STAY_MINUTES} minutes or more from arrival to departure. Each visit counts "
            "once; lower is better.",
            "%",
            "visits that ended in the year",
            "CMS1244 (ECAT)",
            clock="whole minutes that have passed.",
            exclusions="cancelled; not ended; arrival or departure known by its day only. Observation stays are exempt "
            "from the last two components.",
            variants="age is that at the visit's start, as in the rural (REH) version; HOQR uses the "
            "start of the year. `z_score` compares hospitals of the same "
            f"{thresholds.ECAT_BAND_VISITS:,}-visit volume band, with the sample standard deviation; above 0 is worse. "
            "The volume is that of the year without cancelled visits: of a year that is not known from its first day "
            "until after its last, there is no band and no score.",
        )
    ],
):
    """CMS's measure of emergency care access and timeliness, with its components and strata."""

    stratum = column("By age at the visit's start and mental health.", isin=ECAT_STRATA)


class KpiReturns(
    PeriodKpi,
    Rate,
    name="kpi_returns",
    grain="one month of departure, hospital (and all) and variant",
    key=("period_month", "hospital_id", "variant"),
    columns="""
        excluded_cancelled_count excluded_open_count excluded_untimed_count excluded_not_discharged_count
        excluded_unknown_count excluded_left_count excluded_unknown_patient_count excluded_overlapping_count
        excluded_run_out_count
    """,
    measures=[
        Measure(
            f"{thresholds.RETURN_HOURS}-hour returns",
            "Discharges whose patient arrives at any emergency department of the network within "
            f"{thresholds.RETURN_HOURS} hours of departure; the first arrival after it decides.",
            "%",
            "all visits, by month of departure",
            "WestJEM; Ontario ED Return Visit Program",
            clock="departure until the first later arrival of the same person (merged numbers are one); an "
            "arrival at the very moment of departure continues the visit, one of the next minute is a return. A visit "
            "of no length is one like any other.",
            exclusions="cancelled, still there, departure known by its day only, admitted, transferred, observed or "
            "died, disposition unknown, left (in the variants without them), patient unknown, another visit of the "
            "person under way at departure (nested, overlapping or continued: the one that ends last is the index; of "
            "those that end together the one that began last, then that of the higher number), "
            f"less than {thresholds.RETURN_HOURS} hours before the data end: now, or when the last service day has "
            "ended at the first of the hospitals.",
            variants="`discharged`: index visits discharged after being seen; `with_left`: those who "
            "left unseen or against advice too; `return_admitted`: as `discharged`, and the return "
            "ends in admission.",
        )
    ],
):
    """Returns to an emergency department soon after a discharge."""

    hospital_id = column("Of the first visit.")
    variant = column(isin=["discharged", "with_left", "return_admitted"])
    excluded_left_count = column("In the variants without them.")
    excluded_overlapping_count = column("Another visit of the person was under way at departure.")
    excluded_run_out_count = column(f"The {thresholds.RETURN_HOURS} hours are not over.")


_PRESENT = (
    "patients present at the start of the hour, until their departure, however late; without one until "
    f"{thresholds.LONGEST_PRESENCE_HOURS} hours after arrival"
)


#: Inputs of both scores, and those of either.
BOARDERS_NEED = "er_visits.departure_time er_visits.decision_time er_visits.disposition"
NEDOCS_NEEDS = "er_visits.room_time procedures"
EDWIN_NEEDS = "er_visits.triage_level"


class KpiCrowdingHourly(
    Kpi,
    name="kpi_crowding_hourly",
    grain="one hospital and hour",
    key=("hospital_id", "hour_start_at"),
    columns="""
        service_date ed_patients_count ed_bed_count occupancy_ratio boarders_count hospital_bed_count
        ventilated_count longest_boarding_hours last_door_to_bed_hours nedocs_score nedocs_level attendings_count
        triage_weight_sum edwin_score edwin_level
    """,
    order_by=("service_date", "hospital_id", "hour_start_at"),
    needs=f"{BOARDERS_NEED} {NEDOCS_NEEDS} {EDWIN_NEEDS}",
    measures=[
        Measure(
            "NEDOCS",
            "85.8 x ED patients / ED beds + 600 x boarders / hospital beds + 13.4 x ventilated + 0.93 "
            "x longest boarding (h) + 5.64 x last door to bed (h) - 20, held within 0 to 200.",
            "points",
            _PRESENT,
            "Weiss et al., Acad Emerg Med 2004;11:38-50",
            exclusions="null where beds are unknown, and of hospitals with a source that does not deliver departures, "
            "decisions, dispositions, rooms or procedures. Ventilation is known from procedures (ICD-10-PCS 5A19).",
        ),
        Measure(
            "EDWIN",
            "Sum over present patients of (6 - triage level) / (attendings x (ED beds - boarders)).",
            "points",
            _PRESENT,
            "Bernstein et al. 2003",
            exclusions="untriaged patients; null without attendings or free beds, and of hospitals with a source that "
            "does not deliver departures, decisions, dispositions or triage levels. Attendings are the different "
            "doctors on a shift that is worked in the department.",
            variants="the level is reversed (6 - ESI); unreversed it would rate the sickest lowest.",
        ),
    ],
):
    """How crowded each emergency department is at the start of every hour."""

    service_date = column("Of the hour.")
    nedocs_level = column(isin=NEDOCS_LEVELS)
    edwin_level = column(isin=EDWIN_LEVELS)


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
