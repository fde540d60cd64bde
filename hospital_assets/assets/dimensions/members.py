"""Members that every dimension has (unknown, not yet happened), and keys of dimensions without versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import narwhals as nw

from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.dimensions import UNKNOWN_KEY
from hospital_assets.warehouse.dialect import Frame


def with_special_members(frame: Frame, table: str, like: Frame, members: Sequence[Mapping[str, Any]]) -> Frame:
    """Append the special members (unknown, not yet happened) of a dimension.

    Args:
        frame: the regular members.
        table: the dimension's table name; its contract decides columns and types.
        like: any frame of the same engine, also an empty one: its count is the one row that the
            members are written into.
        members: values by column; columns not named are null.
    """
    contract = CONTRACTS[table]
    dtypes = frame.collect_schema()
    one = like.select(_one=nw.len())
    rows = [
        one.select(**{name: nw.lit(member.get(name)).cast(dtypes[name]) for name in contract.column_names})
        for member in members
    ]
    return nw.concat([frame.select(nw.col(*contract.column_names)), *rows], how="vertical")


def key_of(facts: Frame, dimension: Frame, *, natural: str, key: str) -> Frame:
    """Add the surrogate key of a dimension without versions; -1 where there is no such member."""
    return facts.join(dimension.select(natural, key), on=natural, how="left").with_columns(
        nw.coalesce(nw.col(key), nw.lit(UNKNOWN_KEY)).alias(key)
    )
