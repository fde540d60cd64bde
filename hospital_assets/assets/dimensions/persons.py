"""dim_person: which person each medical record number stands for."""

from __future__ import annotations

import dagster as dg
import narwhals as nw

from hospital_assets.assets.declare import table
from hospital_assets.assets.merges import groups_of, merges_of
from hospital_assets.contracts import CONTRACTS
from hospital_assets.warehouse.dialect import Frame


@dg.asset(**table("dim_person"))
def dim_person(dim_patient: Frame, cleaned_adt_events: Frame) -> Frame:
    """Every medical record number, and the one that stands for its person."""
    return surviving(dim_patient, cleaned_adt_events).select(CONTRACTS["dim_person"].column_names)


def surviving(patients: Frame, events: Frame) -> Frame:
    """Apply the merges (A40: MRG-1 into PID-3) to all record numbers, in whatever order they came.

    A merge states that both numbers are one person, and no later one takes that back: all numbers that merges connect
    are one person, through chains, circles and repeated merges of one number. Of them stands for the person the number
    into which the latest merge went, among those that were never merged away themselves; in a circle, among all.

    Args:
        patients: patient_durable_key of every version.
        events: columns of cleaned_adt_events.
    """
    merges = merges_of(events)
    groups = groups_of(merges)
    merged = merges.select(_into="_from").unique().with_columns(_stands=nw.lit(0))
    survivors = (
        merges.join(merged, on="_into", how="left")
        .join(groups, left_on="_into", right_on="_number", how="inner")
        .with_columns(_stands=nw.coalesce(nw.col("_stands"), nw.lit(1)))
        .with_columns(_later=nw.col("_turn").cum_count(reverse=True).over("_group", order_by=["_stands", "_turn"]))
        .filter(nw.col("_later") == 1)
        .select("_group", person_key="_into")
    )
    persons = groups.join(survivors, on="_group", how="inner").select("_number", "person_key")
    return (
        patients.select("patient_durable_key")
        .unique()
        .join(persons, left_on="patient_durable_key", right_on="_number", how="left")
        .select("patient_durable_key", person_key=nw.coalesce("person_key", "patient_durable_key"))
        .with_columns(is_merged=nw.col("person_key") != nw.col("patient_durable_key"))
    )
