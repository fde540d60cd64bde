"""fact_patient_flow: ADT events folded into where each patient was, from when to when.

The fold depends on the events' own times, never on the order in which they were landed: any
permutation, repetition or replay of a visit's messages gives the same segments.
"""

import dagster as dg
import narwhals as nw

from hospital_assets.assets.declare import all_days, table
from hospital_assets.assets.dedupe import newest_of_each
from hospital_assets.assets.dimensions.calendar import date_key
from hospital_assets.assets.dimensions.scd2 import key_at
from hospital_assets.assets.facts.other_days import OtherDays, other_patients
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.dimensions import NOT_YET_KEY
from hospital_assets.warehouse.dialect import Frame, local_clocks, minutes_between
from hospital_assets.warehouse.io_manager import period_of

#: Trigger events that put a patient somewhere (HL7 v2 chapter 3).
MOVES = ("A01", "A02", "A04", "A06", "A07")
ADMISSIONS = ("A01", "A06")


@dg.asset(**table("fact_patient_flow"), ins=all_days("cleaned_adt_events"))
def fact_patient_flow(
    context: dg.AssetExecutionContext,
    cleaned_adt_events: Frame,
    dim_patient: Frame,
    dim_hospital: Frame,
    dim_department: Frame,
) -> Frame:
    """Location segments of every stay, keyed to their dimensions."""
    frame = folded(newest_of_each(cleaned_adt_events, ["message_id"], period_of(context)))
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
        start_date_key=date_key("_start_local"), end_date_key=nw.coalesce(date_key("_end_local"), nw.lit(NOT_YET_KEY))
    ).select(nw.col(*CONTRACTS["fact_patient_flow"].column_names))


#: HL7 v2 orders a visit's messages by what happened, then by when it was written.
ORDER = ("event_at", "recorded_at", "message_id")


def cancelled_visits(events: Frame) -> Frame:
    """Visits (`visit_id`) whose registration was cancelled (A11) and not made again since."""
    last = (
        events.filter(nw.col("event_type").is_in(["A01", "A04", "A11"]))
        .with_columns(_later=_after("visit_id"))
        .filter(nw.col("_later") == 1)
    )
    return last.filter(nw.col("event_type") == "A11").select("visit_id")


def admitted_visits(events: Frame) -> Frame:
    """When emergency visits ended that became inpatient stays under their own number (A06).

    Who boards is admitted and still in the department: the visit ends with the first location elsewhere,
    or with the discharge.

    Args:
        events: columns of cleaned_adt_events.

    Returns:
        visit_id, left_at (null: still in the department); not those that A07 has made outpatients again.
    """
    admitted = events.filter(nw.col("event_type") == "A06").select("visit_id").unique()
    segments = folded(events.join(admitted, on="visit_id", how="semi")).with_columns(
        _is_inpatient=nw.col("stay_class") == "inpatient", _last_segment=nw.col("segment_number").max().over("visit_id")
    )
    inpatients = segments.filter(nw.col("_is_inpatient"), nw.col("segment_number") == nw.col("_last_segment")).select(
        "visit_id"
    )
    located = segments.filter(~nw.col("_is_inpatient"), ~nw.col("department_name").is_null())
    emergency = located.filter(nw.col("segment_number") == nw.col("segment_number").max().over("visit_id")).select(
        "visit_id", _emergency=nw.col("department_name")
    )
    return (
        segments.filter(nw.col("_is_inpatient"))
        .join(inpatients, on="visit_id", how="semi")
        .join(emergency, on="visit_id", how="left")
        .with_columns(
            _moved_at=nw.when(
                ~nw.col("department_name").is_null(),
                nw.col("_emergency").is_null() | (nw.col("department_name") != nw.col("_emergency")),
            ).then(nw.col("segment_start_at"))
        )
        .group_by("visit_id")
        .agg(nw.col("_moved_at").min(), nw.col("stay_end_at").max())
        .select("visit_id", left_at=nw.coalesce("_moved_at", "stay_end_at"))
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


def _taken_back(kind: str, cancels: str) -> nw.Expr:
    """Whether a message is cancelled: each cancellation takes back the last one before it.

    Read from the end, a cancellation waits for the message it cancels; `_open` cancellations wait
    behind this one. A cancellation without anything to cancel waits for nobody.
    """
    return (nw.col("event_type") == kind) & (nw.col(f"_open_{cancels}") > 0)


def _with_open(moves: Frame, kind: str, cancels: str) -> Frame:
    """Add `_open_<cancels>`: cancellations behind each message that still look for theirs."""
    change = (
        nw.when(nw.col("event_type") == cancels)
        .then(nw.lit(1))
        .otherwise(nw.when(nw.col("event_type") == kind).then(nw.lit(-1)).otherwise(nw.lit(0)))
    )
    order = list(ORDER)
    summed = moves.with_columns(_change=change).with_columns(
        _sum=nw.col("_change").cum_sum(reverse=True).over("visit_id", order_by=order)
    )
    lowest = summed.with_columns(
        _lowest=nw.col("_sum").cum_min(reverse=True).over("visit_id", order_by=order)
    ).with_columns(
        # A message with nothing to take it back must not take from those before it.
        _pending=nw.col("_sum") - nw.when(nw.col("_lowest") < 0).then(nw.col("_lowest")).otherwise(nw.lit(0))
    )
    return lowest.with_columns(
        nw.coalesce(nw.col("_pending").shift(-1).over("visit_id", order_by=order), nw.lit(0)).alias(f"_open_{cancels}")
    ).drop("_change", "_sum", "_lowest", "_pending")


def folded(events: Frame) -> Frame:
    """Stays and their segments from a set of ADT messages (one row per message id).

    A11 cancels the visit and what was said of it before, A12 the last transfer before it, A13 the
    discharge before it. A visit is an emergency stay from A04 until it is admitted (A01, A06), then
    an inpatient stay until A03.
    """
    order = list(ORDER)
    later_cancel = (nw.col("event_type") == "A11").cast(nw.Int64)
    events = (
        events.with_columns(_cancel=later_cancel)
        .with_columns(_cancels_after=nw.col("_cancel").cum_sum(reverse=True).over("visit_id", order_by=order))
        .filter(nw.col("_cancels_after") == 0)
        .drop("_cancel", "_cancels_after")
    )
    # Outpatients come and go without a stay, unless they become inpatients.
    is_outpatient = nw.coalesce(nw.col("patient_class") == "outpatient", nw.lit(False))
    moves = events.filter(
        nw.col("event_type").is_in([*MOVES, "A12"]), ~(is_outpatient & nw.col("event_type").is_in(["A02", "A04"]))
    )
    moves = _with_open(moves, "A02", "A12").filter(nw.col("event_type") != "A12", ~_taken_back("A02", "A12"))
    discharges = (
        events.filter(nw.col("event_type").is_in(["A03", "A13"]))
        .with_columns(_reopened=(nw.col("event_type") == "A13").cast(nw.Int64))
        .with_columns(_reopened_after=nw.col("_reopened").cum_sum(reverse=True).over("visit_id", order_by=order))
        .filter(nw.col("_reopened_after") == 0)
        .with_columns(
            # A repeated discharge is a correction: the one written last counts.
            _later_count=nw.col("message_id")
            .cum_count(reverse=True)
            .over("visit_id", order_by=["recorded_at", "event_at", "message_id"])
        )
        .filter(nw.col("_later_count") == 1)
        .select(
            "visit_id",
            nw.col("event_at").alias("_discharged_at"),
            nw.col("discharge_disposition").alias("_disposition"),
        )
    )
    segments = (
        moves.join(discharges, on="visit_id", how="left")
        .filter(nw.col("_discharged_at").is_null() | (nw.col("event_at") <= nw.col("_discharged_at")))
        .with_columns(
            segment_number=nw.col("message_id").cum_count().over("visit_id", order_by=order),
            _next_start=nw.col("event_at").shift(-1).over("visit_id", order_by=order),
            _admissions=nw.col("event_type")
            .is_in(ADMISSIONS)
            .cast(nw.Int64)
            .cum_sum()
            .over("visit_id", order_by=order),
        )
        .with_columns(
            segment_number=nw.col("segment_number").cast(nw.Int64),
            segment_end_at=nw.coalesce(nw.col("_next_start"), nw.col("_discharged_at")),
            stay_class=nw.when((nw.col("_admissions") > 0) & (nw.col("event_type") != "A07"))
            .then(nw.lit("inpatient"))
            .otherwise(nw.lit("emergency")),
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
    )
    return segments.with_columns(
        stay_id=nw.col("visit_id"),
        segment_hours=minutes_between("segment_start_at", "segment_end_at") / 60,
        length_of_stay_hours=nw.when(nw.col("segment_number") == nw.col("_last_number")).then(
            minutes_between("stay_start_at", "stay_end_at") / 60
        ),
        discharge_disposition=nw.when(nw.col("_next_start").is_null()).then(nw.col("_disposition")),
    )


def other_patients_of_segments(stored: Frame, events: Frame, patients: Frame) -> Frame:
    """Segments whose stored patient key is not the one that holds now."""
    moves = (
        of_their_patient(events, events)
        .select("service_date", "patient_id", stay_id=nw.col("visit_id"), segment_start_at=nw.col("event_at"))
        .unique(["stay_id", "segment_start_at"])
    )
    return other_patients(stored, moves, patients, ["stay_id", "segment_start_at"], "stay_start_at")


OTHER_DAYS = (
    OtherDays(
        "fact_patient_flow",
        ("cleaned_adt_events", "dim_patient"),
        lambda t, _: other_patients_of_segments(t["fact_patient_flow"], t["cleaned_adt_events"], t["dim_patient"]),
    ),
)
