"""Groups and their totals: one aggregation for every combination of the grouping columns."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import narwhals as nw

from hospital_assets.contracts.kpis import ALL
from hospital_assets.warehouse.dialect import Frame


def with_totals(
    frame: Frame,
    by: Sequence[str],
    totalled: Sequence[str],
    figures: Mapping[str, nw.Expr],
) -> Frame:
    """Aggregate by some columns, and by every subset of the totalled ones (`all` in the others).

    Each total is computed from the rows, so medians and distinct counts are right.

    Args:
        frame: rows with text columns `totalled`.
        by: columns that always group.
        totalled: columns that also take the value `all`.
        figures: aggregations by name.
    """
    levels = []
    for pooled in itertools.product((False, True), repeat=len(totalled)):
        collapsed = [name for name, is_pooled in zip(totalled, pooled, strict=True) if is_pooled]
        level = (
            frame.with_columns(**{name: nw.lit(ALL) for name in collapsed}) if collapsed else frame
        )
        levels.append(level.group_by(*by, *totalled).agg(**figures))
    return nw.concat(levels, how="vertical")


def exact_sum(column: str) -> nw.Expr:
    """The sum of a column of fractions, the same in whatever order the rows come.

    Sums of floats depend on their order, and engines add in parallel; billionths are whole numbers.
    Null where there is nothing to add.
    """
    billionths = (nw.col(column) * 1e9).round().cast(nw.Int64)
    return billionths.sum() / 1e9


def share_pct(part: str, whole: str) -> nw.Expr:
    """`part` in percent of `whole`; null where the whole is nothing."""
    return nw.when(nw.col(whole) > 0).then(nw.col(part) * 100.0 / nw.col(whole))


def count_if(condition: nw.Expr) -> nw.Expr:
    """How many rows fulfil a condition, as an aggregation; null counts as no."""
    return nw.coalesce(condition, nw.lit(False)).cast(nw.Int64).sum()
