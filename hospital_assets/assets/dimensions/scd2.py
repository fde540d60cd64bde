"""Slowly changing dimensions, type 2: validity of versions, and the lookup of the version that held.

By event time: a version holds from when the source says it does until the next one does, whatever the
order in which the records arrived.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import narwhals as nw

from hospital_assets.contracts.dimensions import UNKNOWN_KEY
from hospital_assets.warehouse.dialect import Frame, join_valid

BEGINNING = datetime(1900, 1, 1, tzinfo=UTC)
END_OF_TIME = datetime(9999, 12, 31, tzinfo=UTC)


def versions(frame: Frame, key: str, changed_at: str) -> Frame:
    """Give each record its validity: half-open, without gaps or overlaps, one current row.

    The first version holds from the beginning, so that an event recorded before its patient was
    still finds the person.

    Args:
        frame: one record per `key` and `changed_at`.
        changed_at: instant from which the record holds.
    """
    return (
        frame.with_columns(
            version_number=nw.col(key).cum_count().over(key, order_by=changed_at).cast(nw.Int64),
            _next=nw.col(changed_at).shift(-1).over(key, order_by=changed_at),
        )
        .with_columns(
            valid_from_at=nw.when(nw.col("version_number") == 1).then(nw.lit(BEGINNING)).otherwise(nw.col(changed_at)),
            valid_to_at=nw.coalesce(nw.col("_next"), nw.lit(END_OF_TIME)),
            is_current=nw.col("_next").is_null(),
        )
        .drop("_next")
    )


def changes_only(frame: Frame, key: str, changed_at: str, attributes: Sequence[str]) -> Frame:
    """Drop records that repeat their predecessor: a version is a change, not a delivery."""
    previous = {f"_previous_{name}": nw.col(name).shift(1).over(key, order_by=changed_at) for name in attributes}
    is_first = nw.col("_place") == 1
    differs = [
        (nw.col(name) != nw.col(f"_previous_{name}"))
        | (nw.col(name).is_null() != nw.col(f"_previous_{name}").is_null())
        for name in attributes
    ]
    return (
        frame.with_columns(_place=nw.col(key).cum_count().over(key, order_by=changed_at), **previous)
        .filter(is_first | nw.any_horizontal(*differs, ignore_nulls=True))
        .drop("_place", *previous)
    )


def key_at(facts: Frame, dimension: Frame, *, natural: str, at: str, key: str, also: Sequence[str] = ()) -> Frame:
    """Add the surrogate key (and other columns) of the version that held at an instant.

    Args:
        facts: any frame with `natural` and `at`.
        dimension: an SCD2 dimension with `natural`, `valid_from_at`, `valid_to_at`, `key`.
        at: instant column of the facts.
        key: surrogate key to add; -1 where there is no such member.
        also: further columns of the dimension to add.
    """
    members = dimension.select(natural, "valid_from_at", "valid_to_at", key, *also)
    found = join_valid(facts, members, on=natural, at=at, valid=("valid_from_at", "valid_to_at"))
    return found.with_columns(nw.coalesce(nw.col(key), nw.lit(UNKNOWN_KEY)).alias(key))
