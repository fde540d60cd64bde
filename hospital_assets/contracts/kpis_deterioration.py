"""Contracts of the KPIs about deterioration: NEWS2 scores, first observations, response, repeat intervals.

Belongs here: KPI tables whose population are observation sets, or visits by their observations.
"""

from __future__ import annotations

from hospital_assets.contracts.kpis import DailyKpi, Rate
from hospital_assets.contracts.table import Measure, Table, column
from hospital_assets.measures import thresholds
from hospital_assets.measures.observations import FIRST_SET_LIMITS, MONITORING_MINUTES, NO_BAND

#: Hours since arrival are counted singly up to here; the last holds all later ones.
LAST_HOUR = 12
BANDS = tuple(MONITORING_MINUTES)
_CHILDREN = f"under {thresholds.NEWS2_MINIMUM_AGE_YEARS} years"

_SETS = (
    "observation sets recorded at a known time during the emergency visit, from the earlier of arrival and triage "
    "until departure (at most three days), by day of arrival"
)


class KpiNews2Daily(
    DailyKpi,
    name="kpi_news2_daily",
    grain="one day of arrival, hospital and department (and their totals) and hour since arrival",
    key=("service_date", "hospital_id", "department_name", "hours_since_arrival"),
    columns="""
        population_count excluded_cancelled_count excluded_before_arrival_count excluded_after_departure_count
        excluded_under_16_count excluded_unknown_age_count excluded_incomplete_count denominator_count
        scored_visit_count score_0_count score_1_to_4_count red_parameter_count score_5_to_6_count score_7_or_more_count
        score_sum other_days_count other_days_score_sum
    """,
    conserved={"denominator_count": tuple(f"{band}_count" for band in BANDS)},
    measures=[
        Measure(
            "NEWS2 by hour of the visit",
            "Observation sets by band of their score: 0, 1 to 4, 1 to 4 with a parameter of 3, 5 to 6, 7 or more.",
            "sets",
            "observation sets of a visit, from a day before arrival until three days after, by day of arrival",
            "RCP NEWS2 2017",
            clock="earlier of arrival and triage until the set was recorded, in whole hours.",
            exclusions=f"cancelled visits, sets before arrival or after departure, {_CHILDREN}, "
            "age unknown, sets without all seven parameters. Sets that belong to no known visit have no day of arrival "
            "and are in no row; nor are those of which the day alone is known.",
            variants="a patient counts once for each set: the sick are observed more often.",
        )
    ],
):
    """NEWS2 bands of observation sets, by hour of the visit."""

    hours_since_arrival = column(f"{LAST_HOUR} holds all later ones, 0 sets before arrival.", ge=0, le=LAST_HOUR)
    denominator_count = column("Sets with a score.")


class KpiFirstObservationsDaily(
    DailyKpi,
    Rate,
    name="kpi_first_observations_daily",
    grain="one day of arrival, hospital and department (and their totals) and limit",
    key=("service_date", "hospital_id", "department_name", "limit_minutes"),
    columns="""
        as_of_at excluded_cancelled_count excluded_undelivered_count excluded_untimed_count excluded_under_16_count
        excluded_unknown_age_count excluded_left_early_count excluded_not_due_count late_count no_full_set_count
    """,
    needs="vitals",
    population_of="fact_emergency_visits",
    conserved={"denominator_count": ("numerator_count", "late_count", "no_full_set_count")},
    measures=[
        Measure(
            "First full set of observations",
            f"Visits with all seven NEWS2 parameters in one set within {FIRST_SET_LIMITS[0]} and within "
            f"{FIRST_SET_LIMITS[1]} minutes.",
            "%",
            "all visits, by day of arrival",
            "RCEM, Vital signs in majors; RCP NEWS2 2017",
            clock="earlier of arrival and triage until the first full set during the visit.",
            exclusions=f"cancelled; arrival known by its day only; {_CHILDREN} and of unknown age (other scores hold "
            "for children); left before the time was up without one; still there and the time not yet up at "
            "`as_of_at`.",
        )
    ],
):
    """Visits with a full set of observations soon after arrival."""

    limit_minutes = column(isin=list(FIRST_SET_LIMITS))


class KpiNews2ResponseDaily(
    DailyKpi,
    Rate,
    name="kpi_news2_response_daily",
    grain="one day of arrival, hospital and department, and their totals",
    key=("service_date", "hospital_id", "department_name"),
    columns="""
        as_of_at excluded_cancelled_count excluded_undelivered_count excluded_already_seen_count
        excluded_invalid_count excluded_left_early_count excluded_not_due_count seen_count left_unseen_count
        waiting_count response_sum_minutes
    """,
    needs="er_visits.provider_time",
    conserved={"denominator_count": ("seen_count", "left_unseen_count", "waiting_count")},
    measures=[
        Measure(
            "Provider after NEWS2 of 7 or more",
            f"Visits whose first provider contact came within {thresholds.NEWS2_RESPONSE_MINUTES} minutes of their "
            "first set with a score of 7 or more; also the sum of the minutes of those who were seen.",
            "%",
            "visits with a score of 7 or more before departure, by day of arrival",
            "RCP NEWS2 2017 (emergency response)",
            clock="the first such set was recorded until first contact with a physician, NP or PA.",
            exclusions="cancelled; seen before that set already; seen at an unknown time, or without a "
            "provider contact admitted, sent home or never gone (its clock is missing); left within the time unseen; "
            "still there and the time not yet up at `as_of_at`.",
            variants="patients already with a provider are left out: records do not show when the provider came back.",
        )
    ],
):
    """Time from the first emergency score to a provider."""


class KpiObservationFrequencyDaily(
    DailyKpi,
    Rate,
    name="kpi_observation_frequency_daily",
    grain="one day of arrival, hospital, department and NEWS2 band, and their totals",
    key=("service_date", "hospital_id", "department_name", "news2_band"),
    columns="""
        as_of_at excluded_cancelled_count excluded_under_16_count excluded_unknown_age_count
        excluded_incomplete_count excluded_left_early_count excluded_not_due_count scored_visit_count
        late_count missed_count interval_sum_minutes
    """,
    conserved={"denominator_count": ("numerator_count", "late_count", "missed_count")},
    measures=[
        Measure(
            "Observations repeated on time",
            "Sets after which the next one came no later than their score allows: 12 hours for 0, 6 hours for 1 to 4, "
            "1 hour for 5 to 6 or a parameter of 3, 30 minutes for 7 or more.",
            "%",
            _SETS,
            "RCP NEWS2 2017, clinical response to the NEWS trigger thresholds",
            clock="one set until the next of the same visit, full or not.",
            exclusions=f"cancelled; {_CHILDREN}, age unknown, not all seven parameters (no score, "
            "no frequency); left before the next set was due; still there and it is not yet due at `as_of_at`.",
            variants="the RCP asks for 4 to 6 hours at 1 to 4, of which the longer counts, and for continuous "
            "monitoring at 7 or more: what a monitor shows is not in the record, so a set recorded at least every 30 "
            "minutes stands for it, the time in which an emergency is to be assessed.",
        )
    ],
):
    """Observations repeated as often as their score requires."""

    news2_band = column(isin=["all", *BANDS, NO_BAND])


TABLES: tuple[type[Table], ...] = (
    KpiNews2Daily,
    KpiFirstObservationsDaily,
    KpiNews2ResponseDaily,
    KpiObservationFrequencyDaily,
)
