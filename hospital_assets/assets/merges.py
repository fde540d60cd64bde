"""Which record numbers stand for one person, by the messages that merge them or move a visit."""

from __future__ import annotations

import narwhals as nw

from hospital_assets.warehouse.dialect import Frame, checkpoint, hash_keys

#: How often groups of numbers are joined. Keys are hashes, so their order is random: of twenty thousand chains of 32
#: numbers none needed more. Real ones have two or three.
_ROUNDS = 12


def merges_of(events: Frame) -> Frame:
    """The merges (A40: MRG-1 into PID-3) of cleaned_adt_events: `_from`, `_into`, and `_turn`, their order."""
    order = ["event_at", "recorded_at", "message_id", "prior_patient_id", "patient_id"]
    merges = events.filter(
        nw.col("event_type") == "A40",
        ~nw.col("prior_patient_id").is_null(),
        nw.col("prior_patient_id") != nw.col("patient_id"),
    ).with_columns(_all=nw.lit(1))
    merges = merges.with_columns(_turn=nw.col("message_id").cum_count().over("_all", order_by=order))
    return checkpoint(
        hash_keys(merges, {"_from": ["prior_patient_id"], "_into": ["patient_id"]}).select(
            "_from", "_into", nw.col("_turn").cast(nw.Int64)
        )
    )


def groups_of(merges: Frame) -> Frame:
    """Which numbers are connected: `_number` and the lowest of its `_group`, of every number in a merge.

    In each round all numbers that are known to be together take the lowest group that a merge of any of them leads to
    (Boruvka's way). It is all windows over one frame, so that the plan stays short on every engine.

    Args:
        merges: `_from`, `_into`, and `_turn`, which identifies a merge.
    """
    ends = [merges.select(_merge="_turn", _number=end, _group=end) for end in ("_from", "_into")]
    members = nw.concat(ends, how="vertical")
    for _ in range(_ROUNDS):
        members = members.with_columns(_least=nw.col("_group").min().over("_merge"))
        members = members.with_columns(_group=nw.col("_least").min().over("_group"))
    return checkpoint(members.select("_number", "_group").unique())


def with_person(records: Frame, patient: str, visit: str, events: Frame | None) -> Frame:
    """Add `_person`: the patient of a visit, under whichever of the numbers that the person has or the visit had.

    Args:
        records: with the columns `patient` and `visit`.
        events: columns of cleaned_adt_events, of all days; None: not known, every number is a person.
    """
    # In most sources no number is merged and no visit moved, and to join groups is a long plan.
    told = None if events is None else checkpoint(events.filter(nw.col("event_type").is_in(["A40", "A45"])))
    if told is None or told.head(1).collect("polars").is_empty():
        return records.with_columns(_person=nw.col(patient))
    moves = told.filter(nw.col("event_type") == "A45")
    moved = nw.concat(
        [moves.select("visit_id", _patient=nw.col(name)) for name in ("prior_patient_id", "patient_id")], how="vertical"
    )
    moved = moved.unique().with_columns(_is_moved=nw.lit(True))
    keyed = hash_keys(records, {"_number": [patient]})
    return (
        keyed.join(groups_of(merges_of(told)), on="_number", how="left")
        .join(moved, left_on=[visit, patient], right_on=["visit_id", "_patient"], how="left")
        .with_columns(
            _person=nw.when(nw.col("_is_moved"))
            .then(nw.lit("moved"))
            .otherwise(nw.coalesce(nw.col("_group").cast(nw.String), nw.col(patient)))
        )
        .drop("_number", "_group", "_is_moved")
    )
