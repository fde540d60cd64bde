"""dim_person: which person each medical record number stands for."""

from __future__ import annotations

import dagster as dg
import narwhals as nw

from hospital_assets.assets.declare import table
from hospital_assets.contracts import CONTRACTS
from hospital_assets.warehouse.dialect import Frame, checkpoint, hash_keys

#: A number merged into one that was merged itself: longer chains and circles do not occur.
_LONGEST_CHAIN = 8


@dg.asset(**table("dim_person"))
def dim_person(dim_patient: Frame, cleaned_adt_events: Frame) -> Frame:
    """Every medical record number, and the surviving one it was merged into."""
    return surviving(dim_patient, cleaned_adt_events).select(nw.col(*CONTRACTS["dim_person"].column_names))


def surviving(patients: Frame, events: Frame) -> Frame:
    """Apply the merges (A40: MRG-1 into PID-3) to all record numbers, in whatever order they came.

    Of several merges of the same number the latest counts. Merges in a circle (7 into 8, later 8 into 7) make one
    person, too: the number into which the latest of them merged survives.

    Args:
        patients: patient_durable_key of every version.
        events: columns of cleaned_adt_events.
    """
    order = ["event_at", "recorded_at", "message_id"]
    merges = (
        events.filter(
            nw.col("event_type") == "A40",
            ~nw.col("prior_patient_id").is_null(),
            nw.col("prior_patient_id") != nw.col("patient_id"),
        )
        .with_columns(
            _later_count=nw.col("message_id").cum_count(reverse=True).over("prior_patient_id", order_by=order),
            _all=nw.lit(1),
        )
        .filter(nw.col("_later_count") == 1)
        .with_columns(_turn=nw.col("message_id").cum_count().over("_all", order_by=[*order, "prior_patient_id"]))
    )
    merges = checkpoint(
        hash_keys(merges, {"_from": ["prior_patient_id"], "_into": ["patient_id"]}).select(
            "_from", "_into", nw.col("_turn").cast(nw.Int64)
        )
    )
    ends = checkpoint(_followed(merges))
    circles = ends.select(_into="_from", _circle="_survivor")
    numbers = patients.select("patient_durable_key").unique()
    return (
        numbers.join(ends.select("_from", "_into"), left_on="patient_durable_key", right_on="_from", how="left")
        .join(circles, on="_into", how="left")
        .select("patient_durable_key", person_key=nw.coalesce("_circle", "_into", "patient_durable_key"))
        .with_columns(is_merged=nw.col("person_key") != nw.col("patient_durable_key"))
    )


def _followed(merges: Frame) -> Frame:
    """Where the merges from each merged number end: `_into`, and the target of the latest on the way, `_survivor`.

    What still has a merge of its own at the end stands in a circle, and the way from there is the whole circle.

    Args:
        merges: `_from`, `_into` and `_turn`, their order; one for each `_from`.
    """
    steps = merges.select(_into="_from", _next="_into", _next_turn="_turn")
    ways = merges.with_columns(_survivor=nw.col("_into"))
    for _ in range(_LONGEST_CHAIN):
        is_later = nw.coalesce(nw.col("_next_turn") > nw.col("_turn"), nw.lit(False))
        ways = ways.join(steps, on="_into", how="left").select(
            "_from",
            _into=nw.coalesce("_next", "_into"),
            _turn=nw.when(is_later).then(nw.col("_next_turn")).otherwise(nw.col("_turn")),
            _survivor=nw.when(is_later).then(nw.col("_next")).otherwise(nw.col("_survivor")),
        )
    return ways
