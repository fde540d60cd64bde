"""Rates of the emergency department: who left, who waited too long, who stayed too long.

Each is a population, the reasons for which visits are left out, and what is counted of the rest; the
definitions stand with the contracts. `dg.asset` functions only bring the columns together.
"""

import dagster as dg
import narwhals as nw

from hospital_assets.assets.cleaned.er_visits import is_seen
from hospital_assets.assets.declare import all_days, table
from hospital_assets.assets.facts.undelivered import lacks
from hospital_assets.assets.kpis.occupancy import EMERGENCY
from hospital_assets.assets.kpis.totals import month_of, rates
from hospital_assets.assets.resources import ClockResource
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.dimensions import UNKNOWN_KEY
from hospital_assets.contracts.kpis import ALL
from hospital_assets.measures import thresholds
from hospital_assets.measures.four_hour import is_within_four_hours
from hospital_assets.measures.lwbs import LEFT, is_known, went_away
from hospital_assets.measures.presence import visit_until
from hospital_assets.measures.triage import is_critical, triage_group, wait_target
from hospital_assets.measures.waits import is_possible, wait_start
from hospital_assets.warehouse.dialect import (
    Frame,
    checkpoint,
    exact_median,
    exact_sum,
    local_clocks,
    minutes_between,
    minutes_of,
)


def with_hospital(visits: Frame, hospitals: Frame) -> Frame:
    """Visits with their hospital's identifier and zone, and the local days of arrival and departure.

    `period_date` is the local day of departure, of arrival while the visit is open or its departure's time unknown.
    """
    frame = visits.join(hospitals.select("hospital_key", "hospital_id", "time_zone"), on="hospital_key", how="left")
    frame = local_clocks(frame, {"departure_local": "departure_at"}, "time_zone")
    local = nw.coalesce("departure_local", "arrival_local")
    return frame.with_columns(period_date=nw.coalesce(local.dt.date(), nw.col("service_date")))


@dg.asset(**table("kpi_lwbs_daily"))
def kpi_lwbs_daily(fact_emergency_visits: Frame, dim_hospital: Frame) -> Frame:
    """Left without being seen, of all who presented."""
    return lwbs(with_hospital(fact_emergency_visits, dim_hospital)).select(CONTRACTS["kpi_lwbs_daily"].column_names)


def lwbs(visits: Frame) -> Frame:
    """LWBS by day and hospital."""
    return rates(
        visits,
        ("service_date",),
        ("hospital_id",),
        excluded={"cancelled": nw.col("is_cancelled"), "unknown": ~is_known()},
        counted={"numerator_count": nw.col("is_lwbs")},
    )


@dg.asset(**table("kpi_four_hour_daily"))
def kpi_four_hour_daily(fact_emergency_visits: Frame, dim_hospital: Frame) -> Frame:
    """Departures within four hours, by day of departure."""
    return four_hour(with_hospital(fact_emergency_visits, dim_hospital)).select(
        CONTRACTS["kpi_four_hour_daily"].column_names
    )


def four_hour(visits: Frame) -> Frame:
    """The four-hour standard by arrival day, departure day and hospital."""
    return rates(
        visits,
        ("service_date", "period_date"),
        ("hospital_id",),
        excluded={
            "cancelled": nw.col("is_cancelled"),
            "open": nw.col("is_open"),
            "untimed": nw.col("departure_at").is_null() | nw.col("arrival_at").is_null(),
            "negative": nw.col("four_hour_minutes").is_null(),
        },
        counted={
            "numerator_count": is_within_four_hours(),
            "over_12_hours_count": nw.col("los_minutes") > thresholds.TWELVE_HOUR_MINUTES,
        },
    )


# Who boards over midnight is taken in on another day.
@dg.asset(**table("kpi_boarding_daily"), ins=all_days("fact_patient_flow"))
def kpi_boarding_daily(
    fact_emergency_visits: Frame, fact_patient_flow: Frame, dim_hospital: Frame, dim_department: Frame
) -> Frame:
    """Boarding of admitted patients, by the department that took them."""
    admitted = with_hospital(fact_emergency_visits, dim_hospital).filter(
        nw.col("disposition") == "admitted", ~nw.col("is_cancelled")
    )
    visits = admitted_to(admitted, fact_patient_flow, dim_department)
    return boarding(visits).select(CONTRACTS["kpi_boarding_daily"].column_names)


def admitted_to(visits: Frame, segments: Frame, departments: Frame) -> Frame:
    """Add `destination_department`: the first one of the inpatient stay that is not the emergency department.

    An unknown place where a patient was before leaving is no destination: who boards may be admitted without a place.

    Args:
        visits: admitted visits, with `departure_at`.
        segments: as in fact_patient_flow.
    """
    left = visits.select("departure_at", stay_id="visit_id")
    is_known = nw.col("department_key") != UNKNOWN_KEY
    wards = (
        segments.filter(nw.col("stay_class") == "inpatient")
        .select("stay_id", "segment_start_at", "segment_number", "department_key")
        .join(left, on="stay_id", how="inner")
        .join(departments.select("department_key", "department_name"), on="department_key", how="left")
        .filter(
            nw.col("department_name") != EMERGENCY,
            is_known | nw.coalesce(nw.col("segment_start_at") >= nw.col("departure_at"), nw.lit(True)),
        )
        .with_columns(
            _number=nw.col("segment_number")
            .cum_count()
            .over("stay_id", order_by=["segment_start_at", "segment_number"])
        )
        .filter(nw.col("_number") == 1)
        .select(visit_id="stay_id", destination_department=nw.when(is_known).then(nw.col("department_name")))
    )
    return visits.join(wards, on="visit_id", how="left").with_columns(
        destination_department=nw.coalesce(nw.col("destination_department"), nw.lit("unknown"))
    )


def boarding(visits: Frame) -> Frame:
    """Boarding by day, hospital and destination, of admitted visits."""
    return rates(
        visits,
        ("service_date",),
        ("hospital_id", "destination_department"),
        excluded={
            "open": nw.col("is_open"),
            "untimed": nw.col("departure_at").is_null(),
            "no_decision": nw.col("decision_at").is_null(),
            "negative": nw.col("boarding_minutes").is_null(),
        },
        counted={
            "numerator_count": nw.col("boarding_minutes") > thresholds.LONG_BOARDING_MINUTES,
            "over_12_hours_count": nw.col("boarding_minutes") > thresholds.TWELVE_HOUR_MINUTES,
        },
        of=["boarding_minutes"],
        figures={
            "boarding_sum_minutes": exact_sum("boarding_minutes"),
            "boarding_median_minutes": exact_median("boarding_minutes"),
            "boarding_max_minutes": nw.col("boarding_minutes").max(),
        },
    ).with_columns(boarding_sum_minutes=nw.coalesce(nw.col("boarding_sum_minutes"), nw.lit(0.0)))


@dg.asset(**table("kpi_seen_on_time_daily"))
def kpi_seen_on_time_daily(fact_emergency_visits: Frame, dim_hospital: Frame, dim_triage: Frame) -> Frame:
    """Who was seen within the target of the level, under each scale."""
    return seen_on_time(with_hospital(fact_emergency_visits, dim_hospital), dim_triage).select(
        CONTRACTS["kpi_seen_on_time_daily"].column_names
    )


def seen_on_time(visits: Frame, scales: Frame) -> Frame:
    """Visits seen within the targets of every scale, by day, hospital and level."""
    targets = scales.filter(~nw.col("level").is_null()).select(
        "scale", nw.col("level").alias("triage_level"), "target_minutes"
    )
    level = visits.select("service_date", "hospital_id", "triage_level", "wait_minutes", "is_cancelled")
    assessed = (
        level.join(targets.select("scale").unique(), how="cross")
        .join(targets, on=["scale", "triage_level"], how="left")
        .with_columns(_limit=wait_target(), _has_level=~nw.col("triage_level").is_null(), triage_group=triage_group())
    )
    found = rates(
        assessed,
        ("service_date", "scale"),
        ("hospital_id", "triage_group"),
        excluded={
            "cancelled": nw.col("is_cancelled"),
            "untriaged": ~nw.col("_has_level"),
            "no_wait": nw.col("wait_minutes").is_null(),
        },
        counted={"numerator_count": nw.col("wait_minutes") <= nw.col("_limit")},
    )
    labels = targets.select("scale", "target_minutes", triage_group=nw.col("triage_level").cast(nw.String))
    return found.join(labels, on=["scale", "triage_group"], how="left")


@dg.asset(**table("kpi_critical_waits_daily"))
def kpi_critical_waits_daily(fact_emergency_visits: Frame, dim_hospital: Frame, clock: ClockResource) -> Frame:
    """Critical patients who waited too long, those who left or still wait included."""
    visits = with_hospital(fact_emergency_visits, dim_hospital)
    as_of = nw.lit(clock.now()).cast(nw.Datetime("us", "UTC"))
    return critical_waits(visits, as_of).select(CONTRACTS["kpi_critical_waits_daily"].column_names)


def critical_waits(visits: Frame, as_of: nw.Expr) -> Frame:
    """Visits of critical patients and whether they waited for too long.

    Args:
        as_of: the moment until which open visits have waited.
    """
    critical = visits.filter(is_critical()).with_columns(as_of_at=as_of)
    seen, has_left = is_seen(), ~nw.col("is_open")
    until = nw.coalesce(nw.col("departure_at"), nw.when(nw.col("is_open")).then(nw.col("as_of_at")))
    elapsed = minutes_of(until - wait_start())
    critical = critical.with_columns(
        _elapsed=nw.when(seen)
        .then(nw.col("wait_minutes"))
        # About others who are gone somebody has decided: nobody knows for how long they had waited.
        .when(nw.col("is_open") | went_away())
        .then(elapsed)
    )
    late = nw.col("_elapsed") > thresholds.CRITICAL_WAIT_MINUTES
    return rates(
        critical,
        ("service_date", "as_of_at"),
        ("hospital_id",),
        excluded={
            "cancelled": nw.col("is_cancelled"),
            "undelivered": lacks("kpi_critical_waits_daily"),
            "lapsed": ~seen & ~has_left & (visit_until("arrival_at", "departure_at") <= nw.col("as_of_at")),
            "invalid": nw.col("_elapsed").is_null() | ~is_possible("_elapsed"),
            "pending": ~seen & ~has_left & ~late,
        },
        counted={
            "numerator_count": late,
            "seen_late_count": late & seen,
            "left_late_count": late & ~seen & has_left,
            "waiting_late_count": late & ~seen & ~has_left,
        },
    )


@dg.asset(**table("kpi_op18"))
def kpi_op18(fact_emergency_visits: Frame, dim_hospital: Frame, dim_condition: Frame) -> Frame:
    """Median time in the department of discharged patients, by month and stratum."""
    visits = with_hospital(fact_emergency_visits, dim_hospital).join(
        dim_condition.select("condition_key", "is_mental_health"), on="condition_key", how="left"
    )
    return op18(visits).select(CONTRACTS["kpi_op18"].column_names)


def op18(visits: Frame) -> Frame:
    """OP-18 in its four strata, of visits with hospital, period_date and is_mental_health."""
    frame = visits.with_columns(_start_at=wait_start()).select(
        "hospital_id",
        "is_cancelled",
        "disposition",
        "undelivered",
        _minutes=minutes_between("_start_at", "departure_at"),
        period_month=month_of(nw.col("period_date")),
        _is_psychiatric=nw.coalesce(nw.col("is_mental_health"), nw.lit(False)),
        _is_transfer=nw.coalesce(nw.col("disposition") == "transferred", nw.lit(False)),
    )
    strata = {
        "all": nw.lit(True),
        "reported": ~nw.col("_is_psychiatric") & ~nw.col("_is_transfer"),
        "mental_health": nw.col("_is_psychiatric") & ~nw.col("_is_transfer"),
        "transferred": nw.col("_is_transfer"),
    }
    frame = nw.concat(
        [frame.with_columns(stratum=nw.lit(name), _is_in_stratum=is_in) for name, is_in in strata.items()],
        how="vertical",
    )
    return rates(
        frame,
        ("period_month", "stratum"),
        ("hospital_id",),
        excluded={
            "cancelled": nw.col("is_cancelled"),
            "clock": nw.coalesce(nw.col("_minutes") < 0, nw.lit(True)),
            "admitted": nw.col("disposition") == "admitted",
            "expired": nw.col("disposition") == "expired",
            "left": nw.col("disposition").is_in(LEFT),
            "unknown": nw.col("disposition").is_null() | (nw.col("disposition") == "other"),
            "undelivered": (nw.col("stratum").is_in(["reported", "mental_health"])) & lacks("kpi_op18"),
            "other_stratum": ~nw.col("_is_in_stratum"),
        },
        of=["_minutes"],
        figures={"median_minutes": exact_median("_minutes")},
    )


@dg.asset(**table("kpi_ecat"))
def kpi_ecat(fact_emergency_visits: Frame, dim_hospital: Frame, dim_condition: Frame) -> Frame:
    """ECAT with its components, strata and z-scores."""
    visits = with_hospital(fact_emergency_visits, dim_hospital).join(
        dim_condition.select("condition_key", "is_mental_health"), on="condition_key", how="left"
    )
    spans = visits.group_by("hospital_id").agg(
        first_date=nw.col("service_date").min(), last_date=nw.col("period_date").max()
    )
    return with_z_scores(checkpoint(ecat(visits)), spans).select(CONTRACTS["kpi_ecat"].column_names)


def ecat(visits: Frame) -> Frame:
    """The ECAT rate and its components by year of departure, hospital and stratum.

    Args:
        visits: visits with hospital, period_date and is_mental_health.
    """
    is_adult = nw.col("age_years") >= 18
    group = nw.when(is_adult).then(nw.lit("18_and_over")).otherwise(nw.when(~is_adult).then(nw.lit("under_18")))
    suffix = (
        nw.when(nw.coalesce(nw.col("is_mental_health"), nw.lit(False)))
        .then(nw.lit("_mental_health"))
        .otherwise(nw.lit(""))
    )
    frame = visits.select(
        "hospital_id",
        "is_cancelled",
        "is_open",
        "room_minutes",
        "is_lwbs",
        "boarding_minutes",
        "los_minutes",
        "undelivered",
        period_year=nw.col("period_date").dt.year().cast(nw.Int64),
        _stratum=nw.concat_str(group, suffix),
        _is_observed=nw.coalesce(nw.col("disposition") == "observation", nw.lit(False)),
        _is_untimed=nw.col("departure_at").is_null() | nw.col("arrival_at").is_null(),
    )
    frame = nw.concat(
        [
            frame.with_columns(stratum=nw.lit("all")),
            # Of unknown age: in no stratum but the whole.
            frame.filter(~nw.col("_stratum").is_null()).with_columns(stratum=nw.col("_stratum")),
        ],
        how="vertical",
    )
    components = {
        "room_count": nw.col("room_minutes").floor() >= thresholds.ECAT_ROOM_MINUTES,
        "left_count": nw.col("is_lwbs"),
        "boarded_count": (nw.col("boarding_minutes").floor() >= thresholds.ECAT_BOARDING_MINUTES)
        & ~nw.col("_is_observed"),
        "long_stay_count": (nw.col("los_minutes").floor() >= thresholds.ECAT_STAY_MINUTES) & ~nw.col("_is_observed"),
    }
    return rates(
        frame,
        ("period_year", "stratum"),
        ("hospital_id",),
        excluded={
            "cancelled": nw.col("is_cancelled"),
            "open": nw.col("is_open"),
            "untimed": nw.col("_is_untimed"),
            "undelivered": lacks("kpi_ecat"),
        },
        counted={"numerator_count": nw.any_horizontal(*components.values(), ignore_nulls=True), **components},
    )


def with_z_scores(frame: Frame, spans: Frame) -> Frame:
    """Add each hospital's volume band and its z-score within it (sample standard deviation).

    Args:
        frame: period_year, hospital_id, stratum, population_count, excluded_cancelled_count, value_pct.
        spans: hospital_id, first_date and last_date of its visits: the volume of a year is known that lies between.
    """
    band, year = thresholds.ECAT_BAND_VISITS, nw.col("period_year")
    low = ((nw.col("population_count") - nw.col("excluded_cancelled_count")) // band) * band
    compared = frame.filter(nw.col("stratum") == ALL, nw.col("hospital_id") != ALL).join(spans, on="hospital_id")
    compared = compared.filter(
        nw.col("first_date").dt.offset_by("-1d").dt.year() < year, nw.col("last_date").dt.year() > year
    ).with_columns(volume_band=nw.concat_str(low.cast(nw.String), nw.lit("-"), (low + (band - 1)).cast(nw.String)))
    bands = compared.group_by("period_year", "volume_band").agg(
        _mean=nw.col("value_pct").mean(), _deviation=nw.col("value_pct").std(ddof=1)
    )
    scored = (
        compared.join(bands, on=["period_year", "volume_band"], how="left")
        # Rounded, because sums of fractions depend on their order.
        .with_columns(
            _score=nw.when(nw.col("_deviation") > 0).then(
                ((nw.col("value_pct") - nw.col("_mean")) / nw.col("_deviation")).round(9)
            )
        )
        .select("period_year", "hospital_id", "volume_band", "_score")
    )
    # The band is the hospital's, whatever the stratum; the score is that of the whole.
    return frame.join(scored, on=["period_year", "hospital_id"], how="left").with_columns(
        z_score=nw.when(nw.col("stratum") == ALL).then(nw.col("_score"))
    )
