"""dim_person: which person each medical record number stands for."""

from __future__ import annotations

import dagster as dg
import narwhals as nw

from hospital_assets.assets.declare import table
from hospital_assets.contracts import CONTRACTS
from hospital_assets.warehouse.dialect import Frame, checkpoint, hash_keys

#: A number merged into one that was merged itself: chains longer than this do not occur.
_LONGEST_CHAIN = 5


@dg.asset(**table("dim_person"))
def dim_person(dim_patient: Frame, cleaned_adt_events: Frame) -> Frame:
    """Every medical record number, and the surviving one it was merged into."""
    return surviving(dim_patient, cleaned_adt_events).select(nw.col(*CONTRACTS["dim_person"].column_names))


def surviving(patients: Frame, events: Frame) -> Frame:
    """Apply the merges (A40: MRG-1 into PID-3) to all record numbers, in whatever order they came.

    Of several merges of the same number the latest counts.

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
            _later_count=nw.col("message_id").cum_count(reverse=True).over("prior_patient_id", order_by=order)
        )
        .filter(nw.col("_later_count") == 1)
        .select("prior_patient_id", "patient_id")
    )
    merges = checkpoint(
        hash_keys(merges, {"_from": ["prior_patient_id"], "_into": ["patient_id"]}).select("_from", "_into")
    )
    numbers = patients.select("patient_durable_key").unique()
    numbers = numbers.with_columns(person_key=nw.col("patient_durable_key"))
    for _ in range(_LONGEST_CHAIN):
        numbers = (
            numbers.join(merges, left_on="person_key", right_on="_from", how="left")
            .with_columns(person_key=nw.coalesce(nw.col("_into"), nw.col("person_key")))
            .select("patient_durable_key", "person_key")
        )
    return numbers.with_columns(is_merged=nw.col("person_key") != nw.col("patient_durable_key"))
