"""fact_emergency_visits: the accumulating snapshot of every visit."""

import dagster as dg
import narwhals as nw

from hospital_assets.assets.cleaned.er_visits import DEPARTURE_TIME_UNKNOWN, is_seen, of_first_patient
from hospital_assets.assets.cleaned.rules import has_code, sources_of
from hospital_assets.assets.declare import all_days, table
from hospital_assets.assets.dedupe import newest_of_each
from hospital_assets.assets.dimensions.calendar import date_key, time_key
from hospital_assets.assets.dimensions.members import key_of
from hospital_assets.assets.dimensions.scd2 import key_at
from hospital_assets.assets.facts.other_days import OtherDays, moved, other_patients
from hospital_assets.assets.facts.patient_flow import cancelled_visits, of_their_patient, visit_ends
from hospital_assets.assets.facts.undelivered import undelivered
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.dimensions import NOT_YET_KEY, UNKNOWN_KEY
from hospital_assets.landing.registry import Profiles
from hospital_assets.measures.age import age_in_years
from hospital_assets.measures.four_hour import four_hour_start
from hospital_assets.measures.lwbs import is_lwbs
from hospital_assets.measures.triage import SCALE_IN_USE, is_critical
from hospital_assets.measures.waits import wait_exclusion, wait_start
from hospital_assets.warehouse.dialect import Frame, checkpoint, local_clocks, minutes_between
from hospital_assets.warehouse.io_manager import period_of


@dg.asset(
    **table("fact_emergency_visits"), ins=all_days("cleaned_er_visits", "cleaned_diagnoses", "cleaned_adt_events")
)
def fact_emergency_visits(
    context: dg.AssetExecutionContext,
    cleaned_er_visits: Frame,
    cleaned_diagnoses: Frame,
    cleaned_adt_events: Frame,
    dim_patient: Frame,
    dim_hospital: Frame,
    dim_department: Frame,
    dim_doctor: Frame,
    dim_triage: Frame,
    dim_condition: Frame,
    profiles: dg.ResourceParam[Profiles],
) -> Frame:
    """Emergency visits with their dimension keys and the minutes between their clocks."""
    registered = of_first_patient(cleaned_er_visits, cleaned_adt_events, profiles)
    visits = newest_of_each(registered, ["visit_id"], period_of(context))
    # A message is dated by its own record, too.
    events = cleaned_adt_events.join(visits.select("visit_id"), on="visit_id", how="semi")
    frame = key_at(
        of_their_patient(ended(visits, events, profiles), events).with_columns(_arrived_at=arrived_by()),
        dim_patient,
        natural="patient_id",
        at="_arrived_at",
        key="patient_key",
        also=["birth_date", "age_at_extract_years"],
    )
    frame = frame.join(
        dim_hospital.select("hospital_id", "hospital_key", "time_zone"), on="hospital_id", how="left"
    ).with_columns(_department=nw.concat_str("hospital_id", "department_name", separator="|"))
    frame = key_at(
        frame,
        dim_department.with_columns(_department=nw.concat_str("hospital_id", "department_name", separator="|")),
        natural="_department",
        at="_arrived_at",
        key="department_key",
    )
    frame = key_of(frame, dim_doctor, natural="doctor_id", key="doctor_key")
    frame = frame.join(
        dim_triage.filter(nw.col("scale") == SCALE_IN_USE).select("triage_key", nw.col("level").alias("triage_level")),
        on="triage_level",
        how="left",
    )
    # A code is dated by its own record, which may lie on another day than the visit.
    principal = principal_conditions(
        cleaned_diagnoses.join(frame.select("visit_id"), on="visit_id", how="semi"), dim_condition
    )
    cancelled = cancelled_visits(events).with_columns(is_cancelled=nw.lit(True))
    frame = (
        frame.join(principal, on="visit_id", how="left")
        .join(cancelled, on="visit_id", how="left")
        .with_columns(is_cancelled=nw.coalesce(nw.col("is_cancelled"), nw.lit(False)))
    )
    frame = local_clocks(frame, {"_provider_local": "provider_at", "_departure_local": "departure_at"}, "time_zone")
    return measured(frame.with_columns(undelivered=undelivered(profiles))).select(
        CONTRACTS["fact_emergency_visits"].column_names
    )


def arrived_by() -> nw.Expr:
    """As of when a visit's patient and department are meant: its arrival, or noon (UTC) where only its day is known."""
    noon = nw.col("service_date").cast(nw.Datetime("us", "UTC")).dt.offset_by("12h")
    return nw.coalesce("arrival_at", noon)


def ended(visits: Frame, events: Frame, profiles: Profiles) -> Frame:
    """Visits of message feeds with the end that the messages of their own number gave them; see `visit_ends`.

    Of other sources (profiles that are not `is_partial`) a visit itself records when it ended.
    """
    from_messages = sources_of(profiles, "er_visits", lambda spec: spec.is_partial)
    is_message_sourced = nw.col("source_profile").is_in(from_messages)
    events = events.filter(is_message_sourced)
    # Folding is a long plan, and most sources send nothing to fold.
    if events.head(1).collect("polars").is_empty():
        return visits
    # A discharge that still names class E ends the stay, not the visit.
    is_over = (
        is_message_sourced
        & (~nw.col("left_at").is_null() | nw.coalesce(nw.col("is_by_day"), nw.lit(False)))
        & (
            nw.col("departure_at").is_null()
            | nw.coalesce(nw.col("is_admitted") & (nw.col("left_at") < nw.col("departure_at")), nw.lit(False))
        )
    )
    return (
        visits.join(visit_ends(events), on="visit_id", how="left")
        .with_columns(
            departure_at=nw.when(is_over).then(nw.col("left_at")).otherwise(nw.col("departure_at")),
            disposition=nw.when(is_over & nw.col("is_admitted"))
            .then(nw.lit("admitted"))
            .when(is_over)
            .then(nw.coalesce("disposition", "left_as"))
            .otherwise(nw.col("disposition")),
            quality_codes=nw.when(is_over & nw.col("is_by_day") & ~ends_by_day())
            .then(
                nw.concat_str(
                    nw.when(nw.col("quality_codes") != "").then(nw.col("quality_codes")),
                    nw.lit(DEPARTURE_TIME_UNKNOWN.name),
                    separator=";",
                    ignore_nulls=True,
                )
            )
            .otherwise(nw.col("quality_codes")),
        )
        .drop("left_at", "left_as", "is_admitted", "is_by_day")
    )


def ends_by_day() -> nw.Expr:
    """Whether only the day of a visit's departure is known: it is over, and nobody knows since when."""
    return has_code(DEPARTURE_TIME_UNKNOWN)


def principal_conditions(diagnoses: Frame, conditions: Frame) -> Frame:
    """The condition each visit was mainly for: its diagnosis of the lowest rank.

    Args:
        diagnoses: cleaned diagnoses; of a rank that was recorded twice, the newest counts, of codes recorded
            together the last in its file.

    Returns:
        visit_id, condition_key.
    """
    newest = newest_of_each(diagnoses, ["visit_id", "sequence"])
    return (
        newest.filter(nw.col("sequence") == nw.col("sequence").min().over("visit_id"))
        .join(conditions.select("icd_version", "icd_code", "condition_key"), on=["icd_version", "icd_code"], how="left")
        .group_by("visit_id")
        .agg(nw.col("condition_key").min())
    )


def measured(frame: Frame) -> Frame:
    """Add keys, flags and the minutes between the clocks of each visit.

    - Wait: the earlier of triage and arrival until first provider contact (door to provider).
      Left out, with the reason: see `measures.waits`.
    - Treatment: provider until disposition decision, or departure where no decision is recorded.
    - Length of stay: arrival until physical departure.
    - Four hours: see `measures.four_hour` for the start of the clock.
    - Room: arrival until a treatment room. Boarding: decision until departure of who is admitted.

    A visit whose registration was cancelled (`is_cancelled`) has no wait and nobody left it.
    """
    frame = frame.with_columns(
        _start_at=wait_start(),
        _arrival_day=nw.coalesce("arrival_local", nw.col("service_date").cast(nw.Datetime("us"))),
        _treated_until=nw.coalesce(nw.col("decision_at"), nw.col("departure_at")),
        _four_hour_start_at=four_hour_start(),
    ).with_columns(
        _four_hour=minutes_between("_four_hour_start_at", "departure_at"),
        _room=minutes_between("arrival_at", "room_at"),
        _boarding=minutes_between("decision_at", "departure_at"),
        _wait=minutes_between("_start_at", "provider_at"),
        _treatment=minutes_between("provider_at", "_treated_until"),
        _los=minutes_between("arrival_at", "departure_at"),
    )
    exclusion = wait_exclusion("_start_at", "_wait")
    return frame.with_columns(
        wait_exclusion=exclusion,
        wait_minutes=nw.when(exclusion.is_null()).then(nw.col("_wait")),
        treatment_minutes=nw.when(nw.col("_treatment") >= 0).then(nw.col("_treatment")),
        los_minutes=nw.when(nw.col("_los") >= 0).then(nw.col("_los")),
        is_open=nw.col("departure_at").is_null() & ~ends_by_day(),
        is_critical=is_critical(),
        is_lwbs=is_lwbs(is_seen()),
        # Who left before the clock started was there for no minute of it.
        four_hour_minutes=nw.when(nw.col("_los") >= 0).then(nw.max_horizontal(nw.col("_four_hour"), nw.lit(0.0))),
        room_minutes=nw.when(nw.col("_room") >= 0).then(nw.col("_room")),
        boarding_minutes=nw.when((nw.col("_boarding") >= 0) & (nw.col("disposition") == "admitted")).then(
            nw.col("_boarding")
        ),
        age_years=age_in_years("birth_date", "_arrival_day", "age_at_extract_years"),
        doctor_key=nw.when(nw.col("doctor_id").is_null() & ~is_seen())
        .then(nw.lit(NOT_YET_KEY))
        .otherwise(nw.col("doctor_key")),
        triage_key=nw.coalesce(nw.col("triage_key"), nw.lit(UNKNOWN_KEY)),
        condition_key=nw.coalesce(nw.col("condition_key"), nw.lit(NOT_YET_KEY)),
        arrival_date_key=date_key("_arrival_day"),
        arrival_time_key=nw.coalesce(time_key("arrival_local"), nw.lit(UNKNOWN_KEY)),
        provider_date_key=nw.coalesce(
            date_key("_provider_local"), nw.when(is_seen()).then(nw.lit(UNKNOWN_KEY)), nw.lit(NOT_YET_KEY)
        ),
        departure_date_key=nw.coalesce(
            date_key("_departure_local"), nw.when(ends_by_day()).then(nw.lit(UNKNOWN_KEY)), nw.lit(NOT_YET_KEY)
        ),
    )


def other_conditions(visits: Frame, diagnoses: Frame, conditions: Frame) -> Frame:
    """Visits whose stored condition is not the one that holds now.

    Only visits with a diagnosis that is dated on another day, and those that have lost their last one, are looked at:
    a run over the visit's day has seen all others.
    """
    stored = visits.select("visit_id", "service_date", _stored_key=nw.col("condition_key"))
    elsewhere = (
        diagnoses.select("visit_id", _coded_date=nw.col("service_date"))
        .join(stored, on="visit_id", how="inner")
        .filter(nw.col("_coded_date") != nw.col("service_date"))
        .select("visit_id", "service_date", "_stored_key")
        .unique()
    )
    lost = stored.filter(nw.col("_stored_key") != NOT_YET_KEY).join(
        diagnoses.select("visit_id").unique(), on="visit_id", how="anti"
    )
    names = ["visit_id", "service_date", "_stored_key"]
    asked = checkpoint(nw.concat([frame.select(*names) for frame in (elsewhere, lost)], how="vertical"))
    now = principal_conditions(diagnoses.join(asked.select("visit_id"), on="visit_id", how="semi"), conditions)
    return (
        asked.join(now, on="visit_id", how="left")
        .with_columns(condition_key=nw.coalesce(nw.col("condition_key"), nw.lit(NOT_YET_KEY)))
        .filter(nw.col("condition_key") != nw.col("_stored_key"))
    )


def other_ends(stored: Frame, visits: Frame, events: Frame, profiles: Profiles) -> Frame:
    """Visits whose stored end or cancellation is not the one that messages say now.

    Only visits with a message that is dated on another day are looked at, as for conditions.
    """
    known = stored.select(
        "visit_id",
        "service_date",
        "is_cancelled",
        _stored_at=nw.col("departure_at"),
        _stored_as=nw.col("disposition"),
        _was_open=nw.col("is_open"),
    )
    elsewhere = checkpoint(
        events.select("visit_id", _event_date=nw.col("service_date"))
        .join(known, on="visit_id", how="inner")
        .filter(nw.col("_event_date") != nw.col("service_date"))
        .drop("_event_date")
        .unique()
    )
    message_events = checkpoint(events.join(elsewhere.select("visit_id"), on="visit_id", how="semi"))
    now = ended(visits.join(elsewhere, on=["visit_id", "service_date"], how="inner"), message_events, profiles).join(
        cancelled_visits(message_events).with_columns(_is_cancelled=nw.lit(True)), on="visit_id", how="left"
    )
    differs = nw.any_horizontal(
        nw.coalesce(nw.col("_is_cancelled"), nw.lit(False)) != nw.col("is_cancelled"),
        nw.col("departure_at").is_null() != nw.col("_stored_at").is_null(),
        (nw.col("departure_at").is_null() & ~ends_by_day()) != nw.col("_was_open"),
        nw.col("departure_at") != nw.col("_stored_at"),
        nw.coalesce("disposition", nw.lit("")) != nw.coalesce("_stored_as", nw.lit("")),
        ignore_nulls=True,
    )
    return now.filter(differs)


OTHER_DAYS = (
    OtherDays(
        "fact_emergency_visits", ("cleaned_er_visits",), lambda t, _: moved(t["fact_emergency_visits"], "visit_id")
    ),
    OtherDays(
        "fact_emergency_visits",
        ("cleaned_er_visits", "cleaned_adt_events", "dim_patient"),
        lambda t, _: other_patients(
            t["fact_emergency_visits"].with_columns(_arrived_at=arrived_by()),
            of_their_patient(t["cleaned_er_visits"], t["cleaned_adt_events"]),
            t["dim_patient"],
            ["visit_id"],
            "_arrived_at",
        ),
    ),
    OtherDays(
        "fact_emergency_visits",
        ("cleaned_diagnoses", "dim_condition"),
        lambda t, _: other_conditions(t["fact_emergency_visits"], t["cleaned_diagnoses"], t["dim_condition"]),
    ),
    OtherDays(
        "fact_emergency_visits",
        ("cleaned_er_visits", "cleaned_adt_events"),
        lambda t, profiles: other_ends(
            t["fact_emergency_visits"], t["cleaned_er_visits"], t["cleaned_adt_events"], profiles
        ),
    ),
)
