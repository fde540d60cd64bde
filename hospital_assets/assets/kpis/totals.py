"""Groups and their totals: one aggregation for every combination of the grouping columns."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import narwhals as nw

from hospital_assets.contracts.kpis import ALL
from hospital_assets.warehouse.dialect import Frame, checkpoint


def with_totals(frame: Frame, by: Sequence[str], totalled: Sequence[str], figures: Mapping[str, nw.Expr]) -> Frame:
    """Aggregate by some columns, and by every subset of the totalled ones (`all` in the others).

    Each total is computed from the rows, so medians and distinct counts are right.

    Args:
        frame: rows with text columns `totalled`.
        by: columns that always group.
    """
    levels = []
    for pooled in itertools.product((False, True), repeat=len(totalled)):
        collapsed = [name for name, is_pooled in zip(totalled, pooled, strict=True) if is_pooled]
        level = frame.with_columns(**{name: nw.lit(ALL) for name in collapsed}) if collapsed else frame
        levels.append(level.group_by(*by, *totalled).agg(**figures))
    return nw.concat(levels, how="vertical")


def rates(
    frame: Frame,
    by: Sequence[str],
    totalled: Sequence[str],
    *,
    excluded: Mapping[str, nw.Expr],
    counted: Mapping[str, nw.Expr] = MappingProxyType({}),
    figures: Mapping[str, nw.Expr] = MappingProxyType({}),
    of: Sequence[str] = (),
    also: Sequence[str] = (),
) -> Frame:
    """A rate for each group and its totals: the population, who was left out why, n, numerator.

    Args:
        frame: the population, a row each.
        by: columns that always group.
        totalled: columns that also take the value `all`.
        excluded: reason -> condition; the first that holds is the reason. Null counts as no.
        counted: column -> condition, counted among those not left out; with a `numerator_count`
            among them, its share is `value_pct`.
        figures: further aggregations by name.
        of: columns that `figures` need; null for those left out.
        also: columns that `figures` need of the whole population.

    Returns:
        by, totalled, population_count, excluded_<reason>_count, denominator_count, the counted
        columns, value_pct (where there is a numerator), and the figures.
    """
    reason = nw.coalesce(
        *(nw.when(condition).then(nw.lit(name)) for name, condition in excluded.items()), nw.lit("none")
    )
    is_in = nw.col("_reason") == "none"
    marked = frame.with_columns(_reason=reason).select(
        *by,
        *totalled,
        *also,
        **{name: nw.when(is_in).then(nw.col(name)) for name in of},
        **{f"excluded_{name}_count": (nw.col("_reason") == name).cast(nw.Int64) for name in excluded},
        denominator_count=is_in.cast(nw.Int64),
        **{name: nw.coalesce(is_in & condition, nw.lit(False)).cast(nw.Int64) for name, condition in counted.items()},
    )
    sums = ("denominator_count", *(f"excluded_{name}_count" for name in excluded), *counted)
    found = with_totals(
        checkpoint(marked),
        by,
        totalled,
        {"population_count": nw.len(), **{name: nw.col(name).sum() for name in sums}, **figures},
    )
    if "numerator_count" not in counted:
        return found
    return found.with_columns(value_pct=share_pct("numerator_count", "denominator_count"))


def distinct_count(column: str) -> nw.Expr:
    """How many different values there are, as an aggregation; null is none."""
    return nw.col(column).n_unique() - (nw.col(column).count() < nw.len()).cast(nw.Int64)


def month_of(day: nw.Expr) -> nw.Expr:
    """The first day of a date's month."""
    return day.dt.truncate("1mo").cast(nw.Date)


def share_pct(part: str, whole: str) -> nw.Expr:
    """`part` in percent of `whole`; null where the whole is nothing."""
    return nw.when(nw.col(whole) > 0).then(nw.col(part) * 100.0 / nw.col(whole))


def count_if(condition: nw.Expr) -> nw.Expr:
    """How many rows fulfil a condition, as an aggregation; null counts as no."""
    return nw.coalesce(condition, nw.lit(False)).cast(nw.Int64).sum()
