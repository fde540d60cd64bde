"""fact_patient_flow: ADT events folded into where each patient was, from when to when.

The fold depends on the events' own times, never on the order in which they were landed: any
permutation, repetition or replay of a visit's messages gives the same segments.
"""

import dagster as dg
import narwhals as nw

from hospital_assets.assets.cleaned.adt_events import EVENT_TIME_UNKNOWN
from hospital_assets.assets.cleaned.er_visits import DEPARTURE_TIME_UNKNOWN, of_first_patient
from hospital_assets.assets.cleaned.rules import DEPARTMENT_UNKNOWN, has_code
from hospital_assets.assets.declare import all_days, table
from hospital_assets.assets.dedupe import newest_of_each
from hospital_assets.assets.dimensions.calendar import date_key
from hospital_assets.assets.dimensions.scd2 import key_at
from hospital_assets.assets.facts.other_days import OtherDays, other_patients
from hospital_assets.assets.facts.undelivered import undelivered
from hospital_assets.contracts import CONTRACTS, PARTITION_COLUMN
from hospital_assets.contracts.dimensions import NOT_YET_KEY
from hospital_assets.landing.registry import Profiles
from hospital_assets.measures.presence import segment_until
from hospital_assets.warehouse.database import Period
from hospital_assets.warehouse.dialect import Frame, checkpoint, hours_between, local_clocks
from hospital_assets.warehouse.io_manager import period_of

#: Trigger events that put a patient somewhere (HL7 v2 chapter 3).
MOVES = ("A01", "A02", "A04", "A06", "A07")
#: Trigger events that make a visit one of a class, and of which unless PV1-2 (table 0004) says another; A06 is an
#: admission whatever it says. A02 and A08 change the class only where PV1-2 does.
CLASS_OF = {"A01": "inpatient", "A04": "emergency", "A06": "inpatient", "A07": "emergency"}


@dg.asset(**table("fact_patient_flow"), ins=all_days("cleaned_adt_events", "cleaned_er_visits"))
def fact_patient_flow(
    context: dg.AssetExecutionContext,
    cleaned_adt_events: Frame,
    cleaned_er_visits: Frame,
    dim_patient: Frame,
    dim_hospital: Frame,
    dim_department: Frame,
    profiles: dg.ResourceParam[Profiles],
) -> Frame:
    """Location segments of every stay, keyed to their dimensions."""
    frame = folded_days(cleaned_adt_events, cleaned_er_visits, period_of(context), profiles)
    frame = of_their_patient(frame, cleaned_adt_events).with_columns(
        _department=nw.concat_str("hospital_id", "department_name", separator="|")
    )
    frame = key_at(frame, dim_patient, natural="patient_id", at="stay_start_at", key="patient_key")
    frame = key_at(
        frame,
        dim_department.with_columns(_department=nw.concat_str("hospital_id", "department_name", separator="|")),
        natural="_department",
        at="segment_start_at",
        key="department_key",
    )
    frame = frame.join(dim_hospital.select("hospital_id", "hospital_key", "time_zone"), on="hospital_id", how="left")
    frame = local_clocks(frame, {"_start_local": "segment_start_at", "_end_local": "segment_end_at"}, "time_zone")
    return frame.with_columns(
        undelivered=undelivered(profiles),
        start_date_key=date_key("_start_local"),
        end_date_key=nw.coalesce(date_key("_end_local"), nw.lit(NOT_YET_KEY)),
    ).select(CONTRACTS["fact_patient_flow"].column_names)


def folded_days(events: Frame, visits: Frame, period: Period | None, profiles: Profiles) -> Frame:
    """The segments that began in some service days, folded with all messages of their visits, of whatever day.

    Args:
        events: cleaned ADT events of all days.
        visits: cleaned_er_visits of all days.
    """
    if period is None:
        registered = of_first_patient(visits, events, profiles)
        return ended_by_register(folded(newest_of_each(events, ["message_id"])), registered)
    is_inside = period.holds()
    asked_for = events.filter(is_inside).select("visit_id").unique()
    of_visits = events.join(asked_for, on="visit_id", how="semi")
    segments = folded(newest_of_each(of_visits, ["message_id"]))
    registered = of_first_patient(visits.join(asked_for, on="visit_id", how="semi"), events, profiles)
    return ended_by_register(segments, registered).filter(is_inside)


#: HL7 v2 orders a visit's messages by what happened, then by when it was written.
ORDER = ("event_at", "recorded_at", "message_id")
#: A cancellation is of what was written before it, whenever that happened. Of one moment (an extract is written in one)
#: what happened earlier came first, and a cancellation after what it cancels; A11 may be told as of the time of what it
#: cancels, and is the last. See `_with_written`.
WRITTEN = ("_written_at", "_is_a11", "event_at", "_is_cancellation", "message_id")
#: Trigger events that an A11 cancels.
REGISTRATIONS = ("A01", "A04")


def cancelled_visits(events: Frame) -> Frame:
    """Visits (`visit_id`) whose registration was cancelled (A11) and not made again since."""
    return (
        _of_cancellations(events.filter(nw.col("event_type").is_in([*REGISTRATIONS, "A11"])))
        .group_by("visit_id")
        .agg(nw.col("_stands").sum())
        .filter(nw.col("_stands") == 0)
        .select("visit_id")
    )


def _of_cancellations(events: Frame) -> Frame:
    """Messages of visits with an A11, with `_is_cancelled`: whether a message is an A11, or what an A11 takes back.

    An A11 cancels the last registration or admission that was written before it and still stands, and all that was
    written since; of the first one of a visit the whole visit. By when it was written, not by when it says that
    something happened: EVN-6 of it is the time of what it cancels.
    """
    order = list(WRITTEN)
    event = nw.col("event_type")
    is_registration = event.is_in(REGISTRATIONS)
    # They are few, and what follows is slow.
    with_a11 = events.filter(event == "A11").select("visit_id").unique()
    frame = _with_written(events.join(with_a11, on="visit_id", how="semi"))
    frame = frame.with_columns(_registered=nw.when(is_registration | (event == "A11")).then(event)).with_columns(
        _registered=nw.col("_registered").fill_null(strategy="forward").over("visit_id", order_by=order)
    )
    frame = frame.with_columns(_before=nw.col("_registered").shift(1).over("visit_id", order_by=order))
    # One that is repeated is still the same.
    is_new = nw.coalesce(nw.col("_before") != event, nw.lit(True))
    frame = _with_waiting(frame, "A11", is_registration & is_new).with_columns(
        _stands=(is_registration & (nw.col("_waiting") == 0)).cast(nw.Int64)
    )
    # Where none is left standing, the visit was cancelled with all that had been written of it.
    frame = frame.with_columns(_is_whole=nw.col("_stands").cum_sum().over("visit_id", order_by=order) == 0)
    cancelled_at = nw.when((event == "A11") & nw.col("_is_whole")).then(nw.col("_written_at")).max().over("visit_id")
    is_of_whole = nw.col("_is_whole") & nw.coalesce(nw.col("_written_at") <= cancelled_at, nw.lit(False))
    return frame.with_columns(_is_cancelled=(event == "A11") | (nw.col("_waiting") > 0) | is_of_whole)


def visit_ends(events: Frame) -> Frame:
    """When emergency visits ended, as the messages of their own number have it.

    An emergency visit ends with the discharge, or when the patient becomes an outpatient. One that becomes an
    inpatient stay under its number (A01, A06, A08) ends with the first location elsewhere, or with the discharge:
    who boards is admitted and still in the department. A location that is stated, and none of the known departments,
    is elsewhere; one that is not stated is where the patient was.

    Returns:
        visit_id, left_at (null: still in the department, or `is_by_day`), is_by_day (only the day is known), left_as
        (disposition), is_admitted.
    """
    segments = folded(events).with_columns(
        _is_inpatient=nw.col("stay_class") == "inpatient", _last_segment=nw.col("segment_number").max().over("visit_id")
    )
    located = segments.filter(~nw.col("_is_inpatient"), ~nw.col("department_name").is_null())
    emergency = located.filter(nw.col("segment_number") == nw.col("segment_number").max().over("visit_id")).select(
        "visit_id", _emergency=nw.col("department_name")
    )
    is_last, is_inpatient = nw.col("segment_number") == nw.col("_last_segment"), nw.col("_is_inpatient")
    emergency_is_known = ~nw.col("_emergency").is_null()
    is_known = ~nw.col("department_name").is_null()
    # Where the emergency department is unknown itself, an unknown place may be that.
    is_elsewhere = (
        nw.when(is_known)
        .then(~emergency_is_known | (nw.col("department_name") != nw.col("_emergency")))
        .otherwise(emergency_is_known & has_code(DEPARTMENT_UNKNOWN))
    )
    return (
        segments.join(emergency, on="visit_id", how="left")
        .with_columns(
            _moved_at=nw.when(is_inpatient, is_elsewhere).then(nw.col("segment_start_at")),
            _ended_at=nw.when(is_last).then(nw.col("stay_end_at")),
            _ended_by_day=nw.when(is_last).then(nw.col("_ends_by_day")),
            _admitted=nw.when(is_last).then(is_inpatient.cast(nw.Int64)),
        )
        .group_by("visit_id")
        .agg(
            nw.col("_moved_at").min(),
            nw.col("_ended_at").max(),
            nw.col("_admitted").max(),
            nw.col("_ended_by_day").max(),
            left_as=nw.col("discharge_disposition").max(),
        )
        .with_columns(is_admitted=nw.col("_admitted") == 1)
        .with_columns(_moved_at=nw.when(nw.col("is_admitted")).then(nw.col("_moved_at")))
        .with_columns(
            is_by_day=nw.col("_moved_at").is_null() & ~nw.col("_ended_at").is_null() & (nw.col("_ended_by_day") == 1)
        )
        .select(
            "visit_id",
            "is_by_day",
            left_at=nw.coalesce("_moved_at", nw.when(~nw.col("is_by_day")).then(nw.col("_ended_at"))),
            left_as=nw.when(nw.col("is_admitted")).then(nw.lit("admitted")).otherwise(nw.col("left_as")),
            is_admitted="is_admitted",
        )
    )


def of_their_patient(frame: Frame, events: Frame) -> Frame:
    """Assign rows with a `visit_id` to the patient the visit was moved to (A45), if it was.

    Args:
        frame: rows with `visit_id` and `patient_id`.
        events: columns of cleaned_adt_events, of all days.
    """
    moved = (
        events.filter(nw.col("event_type") == "A45")
        .with_columns(_later=_after("visit_id"))
        .filter(nw.col("_later") == 1)
        .select("visit_id", _moved_to=nw.col("patient_id"))
    )
    return (
        frame.join(moved, on="visit_id", how="left")
        .with_columns(patient_id=nw.coalesce("_moved_to", "patient_id"))
        .drop("_moved_to")
    )


def _after(*by: str) -> nw.Expr:
    """How many messages follow, this one included."""
    return nw.col("message_id").cum_count(reverse=True).over(*by, order_by=list(ORDER))


def _with_written(events: Frame) -> Frame:
    """Add what `WRITTEN` orders messages by; one that does not say when it was written was so when it happened."""
    return events.with_columns(
        _written_at=nw.coalesce("recorded_at", "event_at"),
        _is_a11=(nw.col("event_type") == "A11").cast(nw.Int64),
        _is_cancellation=nw.col("event_type").is_in(["A12", "A13"]).cast(nw.Int64),
    )


def _with_waiting(events: Frame, cancels: str, is_what: nw.Expr) -> Frame:
    """Add `_waiting`: how many cancellations that were written after a message look for theirs at it or before it.

    Each takes back the last one before it that still stands. Read from the end, a cancellation waits for the message
    that it cancels.

    Args:
        events: with what `WRITTEN` orders them by.
        cancels: trigger event of the cancellations.
        is_what: whether a message is one that can be cancelled.
    """
    change = (
        nw.when(nw.col("event_type") == cancels)
        .then(nw.lit(1))
        .otherwise(nw.when(is_what).then(nw.lit(-1)).otherwise(nw.lit(0)))
    )
    order = list(WRITTEN)
    summed = events.with_columns(_change=change).with_columns(
        _sum=nw.col("_change").cum_sum(reverse=True).over("visit_id", order_by=order)
    )
    lowest = summed.with_columns(
        _lowest=nw.col("_sum").cum_min(reverse=True).over("visit_id", order_by=order)
    ).with_columns(
        # A message with nothing to take it back must not take from those before it.
        _pending=nw.col("_sum") - nw.when(nw.col("_lowest") < 0).then(nw.col("_lowest")).otherwise(nw.lit(0))
    )
    return lowest.with_columns(
        _waiting=nw.coalesce(nw.col("_pending").shift(-1).over("visit_id", order_by=order), nw.lit(0))
    ).drop("_change", "_sum", "_lowest", "_pending")


def _with_class(moves: Frame) -> Frame:
    """Add `stay_class`, in force from each message on, to moves and to the changes of details (A08) that change it.

    Other A08 leave: they say nothing of where the patient is.
    """
    order = list(ORDER)
    stated = nw.col("patient_class")
    kind = nw.col("event_type")
    by_event = nw.coalesce(*(nw.when(kind == event).then(nw.lit(of)) for event, of in CLASS_OF.items()))
    # An admission of an outpatient (a day case) lies in a bed; only an emergency visit stays one.
    decided = (
        nw.when((kind == "A06") | ((kind == "A01") & (stated == "outpatient")))
        .then(nw.lit("inpatient"))
        .when((kind == "A07") & (stated == "inpatient"))
        .then(nw.lit("emergency"))
        .otherwise(nw.coalesce(stated, by_event))
    )
    with_class = moves.with_columns(_decided=decided).with_columns(
        _in_force=nw.col("_decided").fill_null(strategy="forward").over("visit_id", order_by=order)
    )
    return (
        with_class.with_columns(_before=nw.col("_in_force").shift(1).over("visit_id", order_by=order))
        .filter((kind != "A08") | (nw.col("_in_force") != nw.col("_before")))
        .with_columns(stay_class=nw.coalesce("_in_force", nw.lit("emergency")))
        .drop("_decided", "_in_force", "_before")
    )


def _cancelled_transfers(events: Frame) -> Frame:
    """Transfers (`message_id`) that an A12 takes back."""
    event = nw.col("event_type")
    # They are few, too, and a year of messages does not fit beside so many windows.
    with_a12 = events.filter(event == "A12").select("visit_id").unique()
    of_them = events.filter(event.is_in([*MOVES, "A12"])).join(with_a12, on="visit_id", how="semi")
    waiting = _with_waiting(of_them, "A12", event == "A02")
    return checkpoint(waiting.filter(event == "A02", nw.col("_waiting") > 0).select("message_id"))


def folded(events: Frame) -> Frame:
    """Stays and their segments from a set of ADT messages (one row per message id).

    A11 cancels the registration or admission written before it and all since (of the first one, the visit), A12 the
    last transfer written before it, A13 the discharge written before it. A visit is an emergency stay from A04 until it
    is admitted (A01, A06, or an A08 that makes it an inpatient's), then an inpatient stay until A03.
    """
    order = list(ORDER)
    cancelled = checkpoint(_of_cancellations(events).filter(nw.col("_is_cancelled")).select("message_id"))
    events = _with_written(events.join(cancelled, on="message_id", how="anti"))
    moves = events.filter(nw.col("event_type").is_in([*MOVES, "A08"]))
    # Here the plan is in two, each of which fits a year of messages into less than half of the memory.
    moves = checkpoint(_with_class(moves.join(_cancelled_transfers(events), on="message_id", how="anti")))
    discharges = (
        events.filter(nw.col("event_type").is_in(["A03", "A13"]))
        .with_columns(_reopened=(nw.col("event_type") == "A13").cast(nw.Int64))
        .with_columns(
            _reopened_after=nw.col("_reopened").cum_sum(reverse=True).over("visit_id", order_by=list(WRITTEN))
        )
        .filter(nw.col("_reopened_after") == 0)
        .with_columns(
            # A repeated discharge is a correction: the one written last counts.
            _later_count=nw.col("message_id").cum_count(reverse=True).over("visit_id", order_by=list(WRITTEN))
        )
        .filter(nw.col("_later_count") == 1)
        .select(
            "visit_id",
            nw.col("event_at").alias("_discharged_at"),
            nw.col("discharge_disposition").alias("_disposition"),
            _discharged_by_day=has_code(EVENT_TIME_UNKNOWN),
        )
    )
    segments = (
        moves.join(discharges, on="visit_id", how="left")
        .filter(nw.col("_discharged_at").is_null() | (nw.col("event_at") <= nw.col("_discharged_at")))
        .with_columns(
            _next_start=nw.col("event_at").shift(-1).over("visit_id", order_by=order),
            _starts_by_day=has_code(EVENT_TIME_UNKNOWN).cast(nw.Int64),
        )
        .with_columns(
            _ends_by_day=nw.coalesce(
                nw.col("_starts_by_day").shift(-1).over("visit_id", order_by=order),
                nw.col("_discharged_by_day").cast(nw.Int64),
                nw.lit(0),
            )
        )
        # Outpatients come and go without a stay, unless they become inpatients.
        .filter(nw.col("stay_class") != "outpatient")
        .with_columns(
            segment_number=nw.col("message_id").cum_count().over("visit_id", order_by=order).cast(nw.Int64),
            segment_end_at=nw.coalesce(nw.col("_next_start"), nw.col("_discharged_at")),
        )
    )
    stay = ["visit_id", "stay_class"]
    segments = segments.with_columns(
        stay_start_at=nw.col("event_at").min().over(*stay),
        _last_number=nw.col("segment_number").max().over(*stay),
        _open_count=nw.col("segment_end_at").is_null().cast(nw.Int64).sum().over(*stay),
        _last_end=nw.col("segment_end_at").max().over(*stay),
    ).with_columns(
        is_open=nw.col("_open_count") > 0,
        stay_end_at=nw.when(nw.col("_open_count") == 0).then(nw.col("_last_end")),
        segment_start_at=nw.col("event_at"),
        _is_by_day=nw.max_horizontal("_starts_by_day", "_ends_by_day") > 0,
        _edges_by_day=nw.max_horizontal(
            nw.when(nw.col("event_at") == nw.col("stay_start_at")).then(nw.col("_starts_by_day")),
            nw.when(nw.col("segment_number") == nw.col("_last_number")).then(nw.col("_ends_by_day")),
        ),
    )
    segments = segments.with_columns(
        _stay_is_by_day=nw.coalesce(nw.col("_edges_by_day").max().over(*stay) > 0, nw.lit(False))
    )
    return segments.with_columns(
        stay_id=nw.col("visit_id"),
        **lengths(),
        discharge_disposition=nw.when(nw.col("_next_start").is_null()).then(nw.col("_disposition")),
    )


#: Dispositions after which a patient of the register is still in the house.
STAYS_IN_HOUSE = ("admitted", "observation")


def ended_by_register(segments: Frame, visits: Frame) -> Frame:
    """Segments with the end that the register of visits knows and no message (A03) brought.

    The register's departure ends the emergency part of a visit; of an inpatient only where it says that the patient
    has left the house.

    Args:
        segments: as from `folded`.
        visits: cleaned_er_visits of all days, `of_first_patient`.
    """
    registered = (
        newest_of_each(visits, ["visit_id"])
        .filter(~nw.col("departure_at").is_null() | has_code(DEPARTURE_TIME_UNKNOWN))
        .select(
            stay_id=nw.col("visit_id"),
            # Of a departure known by its day only: when its record was written, the latest that it can have been.
            _departure_at=nw.coalesce("departure_at", "recorded_at"),
            _departs_by_day=nw.col("departure_at").is_null(),
            _visit_disposition=nw.col("disposition"),
        )
    )
    has_left = nw.coalesce(~nw.col("_visit_disposition").is_in(STAYS_IN_HOUSE), nw.lit(False))
    is_ended = (
        nw.col("segment_end_at").is_null()
        & (nw.col("_departure_at") >= nw.col("segment_start_at"))
        & ((nw.col("stay_class") == "emergency") | has_left)
    )
    # Of the stay's rows only the last can be open.
    ended = segments.join(registered, on="stay_id", how="left").with_columns(
        _ended_at=nw.when(is_ended).then(
            nw.when(nw.col("_departs_by_day"))
            .then(nw.min_horizontal(nw.col("_departure_at"), segment_until("segment_start_at", "segment_end_at")))
            .otherwise(nw.col("_departure_at"))
        ),
        _is_by_day=nw.col("_is_by_day") | nw.coalesce(is_ended & nw.col("_departs_by_day"), nw.lit(False)),
        _stay_is_by_day=nw.col("_stay_is_by_day") | nw.coalesce(is_ended & nw.col("_departs_by_day"), nw.lit(False)),
    )
    ended = ended.with_columns(
        _stay_ended_at=nw.col("_ended_at").max().over("stay_id", "stay_class"),
        segment_end_at=nw.coalesce("segment_end_at", "_ended_at"),
        discharge_disposition=nw.when(~nw.col("_ended_at").is_null())
        .then(nw.coalesce("discharge_disposition", "_visit_disposition"))
        .otherwise(nw.col("discharge_disposition")),
    )
    ended = ended.with_columns(stay_end_at=nw.coalesce("stay_end_at", "_stay_ended_at"))
    return ended.with_columns(is_open=nw.col("stay_end_at").is_null(), **lengths()).drop(
        "_departure_at", "_departs_by_day", "_visit_disposition", "_ended_at", "_stay_ended_at"
    )


def lengths() -> dict[str, nw.Expr]:
    """Hours of a segment, and of the whole stay in its last one; null where an end of it is known by its day only."""
    is_last = nw.col("segment_number") == nw.col("_last_number")
    return {
        "segment_hours": nw.when(~nw.col("_is_by_day")).then(hours_between("segment_start_at", "segment_end_at")),
        "length_of_stay_hours": nw.when(is_last & ~nw.col("_stay_is_by_day")).then(
            hours_between("stay_start_at", "stay_end_at")
        ),
    }


def other_ends_of_stays(stored: Frame, visits: Frame, events: Frame, profiles: Profiles) -> Frame:
    """Open segments that the register ends now: its record came later than the run over their day."""
    still_open = stored.filter(nw.col("segment_end_at").is_null()).with_columns(
        _last_number=nw.col("segment_number"), _is_by_day=nw.lit(False), _stay_is_by_day=nw.lit(False)
    )
    # A year's register is longer than the list of who is still there.
    theirs = visits.join(still_open.select(visit_id=nw.col("stay_id")).unique(), on="visit_id", how="semi")
    registered = of_first_patient(theirs, events, profiles)
    return ended_by_register(still_open, registered).filter(~nw.col("segment_end_at").is_null())


def other_patients_of_segments(stored: Frame, events: Frame, patients: Frame) -> Frame:
    """Segments whose stored patient key is not the one that holds now."""
    moves = (
        of_their_patient(events, events)
        .select("service_date", "patient_id", stay_id=nw.col("visit_id"), segment_start_at=nw.col("event_at"))
        .unique(["stay_id", "segment_start_at"])
    )
    return other_patients(stored, moves, patients, ["stay_id", "segment_start_at"], "stay_start_at")


def other_segments(stored: Frame, events: Frame, visits: Frame, profiles: Profiles) -> Frame:
    """Segments of visits with messages of several days that are stored otherwise than they are now."""
    spread = checkpoint(
        events.group_by("visit_id")
        .agg(_first=nw.col(PARTITION_COLUMN).min(), _last=nw.col(PARTITION_COLUMN).max())
        .filter(nw.col("_first") != nw.col("_last"))
        .select("visit_id")
    )
    now = ended_by_register(
        folded(newest_of_each(events.join(spread, on="visit_id", how="semi"), ["message_id"])),
        of_first_patient(visits.join(spread, on="visit_id", how="semi"), events, profiles),
    )
    was = stored.join(spread, left_on="stay_id", right_on="visit_id", how="semi")
    segment = [PARTITION_COLUMN, "stay_id", "stay_class", "segment_number", "segment_start_at", "segment_end_at"]
    segment += ["stay_start_at", "stay_end_at", "discharge_disposition"]
    both = [frame.select(*segment, _count=nw.lit(count).cast(nw.Int64)) for frame, count in ((now, 1), (was, -1))]
    return (
        nw.concat(both, how="vertical")
        .group_by(*segment)
        .agg(nw.col("_count").sum())
        .filter(nw.col("_count") != 0)
        .join(stored.select(PARTITION_COLUMN).unique(), on=PARTITION_COLUMN, how="semi")
    )


OTHER_DAYS = (
    OtherDays(
        "fact_patient_flow",
        ("cleaned_er_visits", "cleaned_adt_events"),
        lambda t, profiles: other_ends_of_stays(
            t["fact_patient_flow"], t["cleaned_er_visits"], t["cleaned_adt_events"], profiles
        ),
    ),
    OtherDays(
        "fact_patient_flow",
        ("cleaned_adt_events", "cleaned_er_visits"),
        lambda t, profiles: other_segments(
            t["fact_patient_flow"], t["cleaned_adt_events"], t["cleaned_er_visits"], profiles
        ),
    ),
    OtherDays(
        "fact_patient_flow",
        ("cleaned_adt_events", "dim_patient"),
        lambda t, _: other_patients_of_segments(t["fact_patient_flow"], t["cleaned_adt_events"], t["dim_patient"]),
    ),
)
