"""ADT messages: typed and deduplicated; what they add up to is fact_patient_flow's matter."""

from __future__ import annotations

import dagster as dg
import narwhals as nw

from hospital_assets.assets.cleaned.rules import (
    DEPARTMENT_MAPPED,
    DEPARTMENT_UNKNOWN,
    HOSPITAL_UNKNOWN,
    PLACEHOLDER,
    Rule,
    at_the_latest,
    codes,
    day_end,
    first_broken,
    identity,
    in_future,
    in_order,
    mapped,
    placeholders,
    read_clocks,
    sources_of,
    split,
    text,
    with_hospital,
)
from hospital_assets.assets.declare import cleaned_and_quarantined
from hospital_assets.assets.dedupe import SUPERSEDED, newest_only
from hospital_assets.contracts import PARTITION_COLUMN
from hospital_assets.contracts.cleaned import (
    ADT_EVENT_TYPES,
    ADT_PERSON_EVENTS,
    DEPARTMENTS,
    DISPOSITIONS,
    PATIENT_CLASSES,
)
from hospital_assets.landing.clocks import is_day
from hospital_assets.landing.registry import Profiles
from hospital_assets.warehouse.dialect import Frame, resolve_instants

MESSAGE_ID_MISSING = Rule("message_id_missing", "A message needs a control id.", "quarantine")
VISIT_ID_MISSING = Rule("visit_id_missing", "A message needs a visit, unless it is about a person.", "quarantine")
PATIENT_ID_MISSING = Rule("patient_id_missing", "A message needs a patient.", "quarantine")
EVENT_TYPE_UNKNOWN = Rule(
    "event_type_unknown", "The trigger event is not one the platform folds.", "quarantine", "HL7 table 0003"
)
EVENT_AT_MISSING = Rule("event_at_missing", "The time of the event or of the visit's start is missing.", "quarantine")
EVENT_BEFORE_VISIT = Rule("event_before_visit", "The event precedes the start of its own visit.", "quarantine")
EVENT_IN_FUTURE = Rule(
    "event_in_future", "The event is later than its message (by more than its profile allows).", "quarantine"
)
EVENT_TIME_UNKNOWN = Rule(
    "event_time_unknown",
    "The event is dated without a time of day: an unknown time, not midnight. It counts as of the latest moment it can "
    "have been (the end of that day, or when its message was written that day); lengths from it or to it are null.",
    "flag",
    "HL7 v2 chapter 2A, DTM: precision",
)
PART_OF_VISIT = Rule(
    "part_of_visit",
    "The end of an encounter that is a part of another emergency visit ends nothing: the visit has an end of its own. "
    "A part that is cancelled, as an admission that was none, does not cancel the visit.",
    "duplicate",
    "FHIR Encounter.partOf",
)

RULES = (
    MESSAGE_ID_MISSING,
    VISIT_ID_MISSING,
    PATIENT_ID_MISSING,
    HOSPITAL_UNKNOWN,
    EVENT_TYPE_UNKNOWN,
    EVENT_AT_MISSING,
    EVENT_BEFORE_VISIT,
    EVENT_IN_FUTURE,
    PLACEHOLDER,
    PART_OF_VISIT,
    EVENT_TIME_UNKNOWN,
    DEPARTMENT_MAPPED,
    DEPARTMENT_UNKNOWN,
)

#: What makes a message id of the id of a record that describes several events.
_EVENT_OF_RECORD = r"-A\d\d(-\d+)?$"


@dg.multi_asset(**cleaned_and_quarantined("adt_events"))
def adt_events(
    raw_adt_events: Frame, cleaned_hospitals: Frame, profiles: dg.ResourceParam[Profiles]
) -> tuple[Frame, Frame]:
    """ADT messages, validated and split."""
    return split(validate_adt_events(raw_adt_events, cleaned_hospitals, profiles), raw_adt_events, "adt_events", RULES)


def validate_adt_events(raw: Frame, hospitals: Frame, profiles: Profiles) -> Frame:
    """Every raw message with its cleaned columns, its quality codes, and the rule it broke."""
    frame = with_hospital(raw, hospitals, profiles)
    frame = read_clocks(
        frame, profiles, "adt_events", {"_event": "event_at", "_start": "visit_start_at", "_recorded": "recorded_at"}
    ).with_columns(_is_day=nw.coalesce(is_day("event_at"), nw.lit(False)))
    frame = frame.with_columns(**day_end("_event")).drop("event_at", "visit_start_at", "recorded_at")
    frame = resolve_instants(
        frame,
        {"event_at": "_event", "_day_end_at": "_day_end", "visit_start_at": "_start", "recorded_at": "_recorded"},
        "time_zone",
    )
    # In the hour that happens twice, an event follows the visit's start.
    frame = in_order(frame, ["visit_start_at", "event_at"])
    frame = frame.with_columns(
        event_at=at_the_latest("event_at"),
        event_type=nw.coalesce(mapped(profiles, "event_type"), text("event_type")).str.to_uppercase(),
    )
    is_about_person = nw.col("event_type").is_in(ADT_PERSON_EVENTS)
    frame = frame.with_columns(
        # What is about a person belongs to no visit, so no visit's start dates it.
        visit_start_at=nw.when(is_about_person)
        .then(nw.coalesce("visit_start_at", "event_at"))
        .otherwise(nw.col("visit_start_at")),
        message_id=identity(profiles, "message_id"),
        visit_id=nw.coalesce(identity(profiles, "part_of_visit_id"), identity(profiles, "visit_id")),
        patient_id=identity(profiles, "patient_id"),
        prior_patient_id=identity(profiles, "prior_patient_id"),
        _landed_department=text("department"),
        department_name=mapped(profiles, "department", domain=DEPARTMENTS),
        patient_class=mapped(profiles, "patient_class", domain=PATIENT_CLASSES),
        bed_id=text("bed_id"),
        discharge_disposition=mapped(profiles, "discharge_disposition", domain=DISPOSITIONS),
    )
    # An inpatient encounter that is part of it does end the stay.
    is_emergency = nw.coalesce(nw.col("patient_class") == "emergency", nw.lit(False))
    ends_a_part = ~identity(profiles, "part_of_visit_id").is_null() & (
        (nw.col("event_type") == "A11") | ((nw.col("event_type") == "A03") & is_emergency)
    )
    frame = frame.with_columns(
        rule=first_broken(
            (MESSAGE_ID_MISSING, nw.col("message_id").is_null()),
            (VISIT_ID_MISSING, nw.col("visit_id").is_null() & ~is_about_person),
            (PATIENT_ID_MISSING, nw.col("patient_id").is_null()),
            (HOSPITAL_UNKNOWN, nw.col("time_zone").is_null()),
            (EVENT_TYPE_UNKNOWN, nw.col("event_type").is_null() | ~nw.col("event_type").is_in(ADT_EVENT_TYPES)),
            (EVENT_AT_MISSING, nw.col("event_at").is_null() | nw.col("visit_start_at").is_null()),
            (EVENT_BEFORE_VISIT, nw.col("event_at") < nw.col("visit_start_at")),
            (EVENT_IN_FUTURE, in_future(profiles, "event_at", "recorded_at")),
            (PART_OF_VISIT, ends_a_part),
        ),
        quality_codes=codes(
            placeholders("_event", "_start", "_recorded"),
            (EVENT_TIME_UNKNOWN, nw.col("_is_day")),
            (DEPARTMENT_MAPPED, nw.col("department_name") != nw.col("_landed_department")),
            (DEPARTMENT_UNKNOWN, nw.col("department_name").is_null() & ~nw.col("_landed_department").is_null()),
        ),
    )
    return newest_only(_of_newest_records(frame, profiles), ["message_id"], "recorded_at")


def _of_newest_records(frame: Frame, profiles: Profiles) -> Frame:
    """Let the newest version of a record that describes several events (as FHIR's Encounter) decide which there are.

    Args:
        frame: events with their `rule`; those of one record have its id, `-`, and what they are as `message_id`.
    """
    from_records = sources_of(profiles, "adt_events", lambda spec: any(own.events for own in spec.layouts))
    record = nw.when(nw.col("source_profile").is_in(from_records)).then(
        nw.col("message_id").str.replace_all(_EVENT_OF_RECORD, "")
    )
    frame = frame.with_columns(
        _record=nw.coalesce(record, nw.col("message_id")),
        # Also a version that only says that a part is cancelled is one.
        _written=nw.when(nw.col("rule").is_null() | (nw.col("rule") == PART_OF_VISIT.name)).then(nw.col("recorded_at")),
    )
    of_record = [PARTITION_COLUMN, "_record"] if PARTITION_COLUMN in frame.columns else ["_record"]
    is_older = nw.col("_written") < nw.col("_written").max().over(*of_record)
    is_left = nw.coalesce(is_older & ~record.is_null(), nw.lit(False))
    return frame.with_columns(rule=nw.when(is_left).then(nw.lit(SUPERSEDED)).otherwise(nw.col("rule"))).drop(
        "_record", "_written"
    )
