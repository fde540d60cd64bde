"""Deterioration: NEWS2 by hour of the visit, first observations, the response to an emergency score, repeat intervals.

All count for the day of arrival, whenever a set was recorded: an evening's observations lie partly on the next day.
`visits` are as from `present`, `sets` as from `sets_of`.
"""

import dagster as dg
import narwhals as nw

from hospital_assets.assets.cleaned.er_visits import is_seen
from hospital_assets.assets.cleaned.vitals import is_timed
from hospital_assets.assets.declare import days_around, several_tables
from hospital_assets.assets.facts.undelivered import lacks
from hospital_assets.assets.kpis.totals import distinct_count, rates
from hospital_assets.assets.resources import ClockResource
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.kpis_deterioration import LAST_HOUR
from hospital_assets.measures import thresholds
from hospital_assets.measures.lwbs import went_away
from hospital_assets.measures.observations import (
    AFTER_DAYS,
    BEFORE_DAYS,
    FIRST_SET_LIMITS,
    MONITORING_MINUTES,
    NO_BAND,
    is_around,
    monitoring_minutes,
    news2_band,
)
from hospital_assets.measures.waits import wait_start
from hospital_assets.warehouse.dialect import Frame, checkpoint, divided, exact_sum, minutes_between

_PLACES = ("hospital_id", "department_name")


_TABLES = (
    "kpi_news2_daily",
    "kpi_first_observations_daily",
    "kpi_news2_response_daily",
    "kpi_observation_frequency_daily",
)


@dg.multi_asset(
    **several_tables("deterioration", *_TABLES),
    # A day more on either side: days have 23 to 25 hours.
    ins=days_around("fact_vitals", before=BEFORE_DAYS + 1, after=AFTER_DAYS + 1),
)
def deterioration(
    fact_emergency_visits: Frame, fact_vitals: Frame, dim_hospital: Frame, dim_department: Frame, clock: ClockResource
) -> tuple[Frame, Frame, Frame, Frame]:
    """What observation sets of the visits of a run say: all are made of the same visits and sets."""
    visits = present(fact_emergency_visits, dim_hospital, dim_department, as_of(clock))
    sets = sets_of(visits, fact_vitals)
    made = news2_by_hour(sets), first_observations(visits, sets), news2_response(sets), observation_frequency(sets)
    news2, first, response, frequency = (
        frame.select(nw.col(*CONTRACTS[name].column_names)) for name, frame in zip(_TABLES, made, strict=True)
    )
    return news2, first, response, frequency


def as_of(clock: ClockResource) -> nw.Expr:
    """The hospital's time now: until when who is still there has been there."""
    return nw.lit(clock.now()).cast(nw.Datetime("us", "UTC"))


def present(visits: Frame, hospitals: Frame, departments: Frame, now: nw.Expr) -> Frame:
    """Visits with where they were, and from when to when they were in the department.

    Args:
        now: until when who is still there has been there.

    Returns:
        The visits with hospital_id, department_name, as_of_at, `_start_at` (of the wait; null where there is nothing to
        measure from),
        `_left_at` (departure; of an unknown one at the latest three days after arrival), `_has_left` (by as_of_at),
        `_is_seen` (at whatever time) and `_went_away` (on their own account).
    """
    named = (
        visits.select(
            "service_date",
            "visit_id",
            "hospital_key",
            "department_key",
            "is_cancelled",
            "age_years",
            "arrival_at",
            "triage_at",
            "provider_at",
            "departure_at",
            "is_open",
            "undelivered",
            _is_seen=is_seen(),
            _went_away=went_away(),
        )
        .join(hospitals.select("hospital_key", "hospital_id"), on="hospital_key", how="left")
        .join(departments.select("department_key", "department_name"), on="department_key", how="left")
    )
    return checkpoint(
        named.with_columns(
            as_of_at=now, _start_at=wait_start(), _longest=nw.col("arrival_at").dt.offset_by(f"{AFTER_DAYS}d")
        )
        .with_columns(
            _left_at=nw.coalesce(
                nw.col("departure_at"),
                # Who left at an unknown time had left by now.
                nw.when(nw.col("is_open")).then(nw.col("_longest")),
                nw.min_horizontal("_longest", "as_of_at"),
            )
        )
        .with_columns(_has_left=~nw.col("is_open") | (nw.col("_left_at") <= nw.col("as_of_at")))
    )


def sets_of(visits: Frame, observations: Frame) -> Frame:
    """The observation sets of visits, of known times, with what is known of the visit and where in it they lie.

    Returns:
        The columns of the visit, and of the set: observation_id, measured_at, measured_date, set_age_years,
        news2_score, news2_band, is_full, has_emergency_score, minutes (since the start), is_before and is_after
        (recorded before the visit, after it).
    """
    sets = observations.filter(is_timed()).select(
        "visit_id",
        "observation_id",
        "measured_at",
        "news2_score",
        measured_date=nw.col("service_date"),
        set_age_years=nw.col("age_years"),
        news2_band=news2_band(),
        is_full=nw.col("news2_missing_count") == 0,
        has_emergency_score=nw.coalesce(nw.col("news2_response") == "emergency", nw.lit(False)),
    )
    return checkpoint(
        visits.join(sets, on="visit_id", how="inner")
        .filter(is_around())
        .with_columns(
            minutes=minutes_between("_start_at", "measured_at"),
            is_before=nw.col("measured_at") < nw.col("_start_at"),
            is_after=nw.col("measured_at") > nw.col("_left_at"),
        )
    )


def unscored(age: str) -> dict[str, nw.Expr]:
    """Why NEWS2 says nothing: reason -> condition."""
    return {"under_16": nw.col(age) < thresholds.NEWS2_MINIMUM_AGE_YEARS, "unknown_age": nw.col(age).is_null()}


def news2_by_hour(sets: Frame) -> Frame:
    """Sets by band, day of arrival, place and hour since the start of the visit."""
    hour = divided(nw.col("minutes"), 60).floor().cast(nw.Int64)
    elsewhere = nw.col("measured_date") != nw.col("service_date")
    return rates(
        sets.with_columns(
            hours_since_arrival=nw.when(hour < 0)
            .then(nw.lit(0))
            .otherwise(nw.when(hour > LAST_HOUR).then(nw.lit(LAST_HOUR)).otherwise(hour))
            .cast(nw.Int64),
            _elsewhere=elsewhere.cast(nw.Int64),
            _elsewhere_score=nw.when(elsewhere)
            .then(nw.coalesce(nw.col("news2_score"), nw.lit(0)))
            .otherwise(nw.lit(0)),
            _score=nw.col("news2_score"),
            _visit=nw.col("visit_id"),
        ),
        ("service_date", "hours_since_arrival"),
        _PLACES,
        excluded={
            "cancelled": nw.col("is_cancelled"),
            "before_arrival": nw.col("is_before"),
            "after_departure": nw.col("is_after"),
            **unscored("set_age_years"),
            "incomplete": nw.col("news2_band") == NO_BAND,
        },
        counted={f"{band}_count": nw.col("news2_band") == band for band in MONITORING_MINUTES},
        of=["_score", "_visit"],
        also=["_elsewhere", "_elsewhere_score"],
        figures={
            "scored_visit_count": distinct_count("_visit"),
            "score_sum": nw.coalesce(nw.col("_score").sum(), nw.lit(0)),
            "other_days_count": nw.col("_elsewhere").sum(),
            "other_days_score_sum": nw.col("_elsewhere_score").sum(),
        },
    )


def first_observations(visits: Frame, sets: Frame) -> Frame:
    """Visits by whether their first full set came within each limit."""
    full = (
        sets.filter(nw.col("is_full"), ~nw.col("is_before"), ~nw.col("is_after"))
        .group_by("visit_id")
        .agg(_minutes=nw.col("minutes").min())
    )
    observed = checkpoint(visits.join(full, on="visit_id", how="left"))
    limited = nw.concat(
        [
            observed.with_columns(
                limit_minutes=nw.lit(limit).cast(nw.Int64), _due_at=nw.col("_start_at").dt.offset_by(f"{limit}m")
            )
            for limit in FIRST_SET_LIMITS
        ],
        how="vertical",
    )
    is_on_time = nw.coalesce(nw.col("_minutes") <= nw.col("limit_minutes"), nw.lit(False))
    return rates(
        limited,
        ("service_date", "as_of_at", "limit_minutes"),
        _PLACES,
        excluded={
            "cancelled": nw.col("is_cancelled"),
            "undelivered": lacks("kpi_first_observations_daily"),
            "untimed": nw.col("_start_at").is_null(),
            **unscored("age_years"),
            "left_early": ~is_on_time & nw.col("_has_left") & (nw.col("_left_at") < nw.col("_due_at")),
            "not_due": ~is_on_time & ~nw.col("_has_left") & (nw.col("as_of_at") < nw.col("_due_at")),
        },
        counted={
            "numerator_count": is_on_time,
            "late_count": ~is_on_time & ~nw.col("_minutes").is_null(),
            "no_full_set_count": nw.col("_minutes").is_null(),
        },
    )


def news2_response(sets: Frame) -> Frame:
    """Visits with an emergency score, by whether a provider came soon after the first."""
    emergencies = sets.filter(nw.col("has_emergency_score"), ~nw.col("is_before"), ~nw.col("is_after"))
    visit = (
        "service_date",
        "as_of_at",
        *_PLACES,
        "is_cancelled",
        "undelivered",
        "provider_at",
        "_left_at",
        "_has_left",
        "_is_seen",
        "_went_away",
    )
    first = (
        emergencies.group_by("visit_id", *visit)
        .agg(_first_at=nw.col("measured_at").min())
        .with_columns(
            _due_at=nw.col("_first_at").dt.offset_by(f"{thresholds.NEWS2_RESPONSE_MINUTES}m"),
            _minutes=minutes_between("_first_at", "provider_at"),
        )
    )
    seen, has_left = nw.col("_is_seen"), nw.col("_has_left")
    is_untimed = seen & nw.col("provider_at").is_null()
    # About others who are gone somebody has decided, and nobody stays for three days: their clock is missing.
    is_unknown = ~seen & has_left & ~nw.col("_went_away")
    return rates(
        first,
        ("service_date", "as_of_at"),
        _PLACES,
        excluded={
            "cancelled": nw.col("is_cancelled"),
            "undelivered": lacks("kpi_news2_response_daily"),
            "already_seen": nw.col("_minutes") < 0,
            "invalid": is_untimed | is_unknown,
            "left_early": ~seen & has_left & (nw.col("_left_at") < nw.col("_due_at")),
            "not_due": ~seen & ~has_left & (nw.col("as_of_at") < nw.col("_due_at")),
        },
        counted={
            "numerator_count": nw.col("_minutes") <= thresholds.NEWS2_RESPONSE_MINUTES,
            "seen_count": seen,
            "left_unseen_count": ~seen & has_left,
            "waiting_count": ~seen & ~has_left,
        },
        of=["_minutes"],
        figures={"response_sum_minutes": exact_sum("_minutes")},
    ).with_columns(response_sum_minutes=nw.coalesce(nw.col("response_sum_minutes"), nw.lit(0.0)))


def observation_frequency(sets: Frame) -> Frame:
    """Sets by whether the next one came as soon as their score asks for."""
    order = ["measured_at", "observation_id"]
    during = sets.filter(~nw.col("is_before"), ~nw.col("is_after")).with_columns(
        _next_at=nw.col("measured_at").shift(-1).over("visit_id", order_by=order),
        _due_minutes=monitoring_minutes("news2_band"),
    )
    assessed = checkpoint(
        during.with_columns(
            _visit=nw.col("visit_id"),
            _interval=minutes_between("measured_at", "_next_at"),
            _stay=minutes_between("measured_at", "_left_at"),
            _waited=minutes_between("measured_at", "as_of_at"),
        )
    )
    has_next = ~nw.col("_next_at").is_null()
    due = nw.col("_due_minutes")
    return rates(
        assessed,
        ("service_date", "as_of_at"),
        (*_PLACES, "news2_band"),
        excluded={
            "cancelled": nw.col("is_cancelled"),
            **unscored("set_age_years"),
            "incomplete": nw.col("news2_band") == NO_BAND,
            "left_early": ~has_next & nw.col("_has_left") & (nw.col("_stay") <= due),
            "not_due": ~has_next & ~nw.col("_has_left") & (nw.col("_waited") <= due),
        },
        counted={
            "numerator_count": nw.col("_interval") <= due,
            "late_count": nw.col("_interval") > due,
            "missed_count": ~has_next,
        },
        of=["_interval", "_visit"],
        figures={"scored_visit_count": distinct_count("_visit"), "interval_sum_minutes": exact_sum("_interval")},
    ).with_columns(interval_sum_minutes=nw.coalesce(nw.col("interval_sum_minutes"), nw.lit(0.0)))
