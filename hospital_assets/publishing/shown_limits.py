"""Limits of chance, computed anew from what is shown.

A limit, an expected count or a z-score is computed from counts. From exact ones, it would give them back: the mean of
two days to a decimal is their numerators, the width of a funnel is the n. So a table that is shown with rounded counts
has limits of those, as wide as chance and the rounding make them: else what was rounded often would be out of the
ordinary. Limits that are estimated from the series or the units that are shown have the rounding in them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import narwhals as nw
import polars as pl

from hospital_assets.measures.funnel_limits import with_funnel_limits
from hospital_assets.measures.natural_limits import with_natural_limits
from hospital_assets.measures.poisson_limits import with_poisson_limits
from hospital_assets.warehouse.dialect import lazy, quoted

if TYPE_CHECKING:
    import duckdb


def recompute_limits(
    connection: duckdb.DuckDBPyConnection, table: str, kind: str, base: int, rounded: pl.DataFrame
) -> None:
    """Replace the limits in the protected copy of a table.

    Args:
        connection: holds `temp.protected_<table>`, with its rounded counts.
        base: what counts are rounded to.
        rounded: metric, hospital_id and `rounded_count`: of how many rounded counts one of kpi_units is the sum.
    """
    name = f"temp.{quoted(f'protected_{table}')}"
    stored = connection.sql(f"from {name}")
    columns, types = stored.columns, stored.types
    made = LIMITS[kind](stored.pl(), base, rounded)
    kept = ", ".join(f"{quoted(c)}::{t} as {quoted(c)}" for c, t in zip(columns, types, strict=True))
    rows = connection.from_arrow(made.select(columns).to_arrow())
    connection.execute(f"create or replace temp table limits_of_shown as select {kept} from rows")
    del stored, rows
    connection.execute(f"create or replace {name.replace('temp.', 'temp table ')} as from limits_of_shown")


def _by_lot(base: int, counts: str) -> Callable[[nw.Expr], nw.Expr]:
    """The variance that rounding up or down by lot gives a sum of counts, by what is expected of the sum.

    Of a count whose remainder by the base may be any, (base² - 1) / 6; never more than `base - 1` times the count.
    """
    return lambda expected: nw.min_horizontal(nw.col(counts) * ((base * base - 1) / 6), expected * float(base - 1))


def _natural(rows: pl.DataFrame, _: int, __: pl.DataFrame) -> pl.DataFrame:
    """Those of kpi_trends. Each baseline of the warehouse is a series of its own."""
    key, limits = ("metric", "hospital_id", "period_date"), ("centre", "lower_limit", "upper_limit")
    signals = [c for c in ("is_outside", "is_run") if c in rows.columns]
    values = rows.filter(pl.col("value").is_not_null()).select(
        pl.concat_str("metric", pl.lit("|"), pl.col("baseline_first_date").cast(pl.String)).alias("metric"),
        *("hospital_id", "period_date", "value"),
    )
    limited: pl.DataFrame = with_natural_limits(lazy(values)).collect("polars").to_native()
    found = limited.select(
        pl.col("metric").str.split("|").list.first(), "hospital_id", "period_date", *limits, *signals
    ).with_columns(pl.col(limits).round(1))
    return rows.drop(*limits, *signals).join(found, on=key, how="left")


def _funnel(rows: pl.DataFrame, base: int, rounded: pl.DataFrame) -> pl.DataFrame:
    """Those of kpi_units."""
    units = rows.select("metric", "hospital_id", "numerator_count", "denominator_count").drop_nulls()
    units = units.join(rounded, on=("metric", "hospital_id"), how="left").with_columns(
        pl.col("rounded_count").fill_null(0)
    )
    besides = _by_lot(base, "rounded_count")
    limited: pl.DataFrame = with_funnel_limits(lazy(units), besides=besides).collect("polars").to_native()
    found = limited.select(
        *("metric", "hospital_id"),
        *((100 * pl.col(share)).round(1).alias(f"{share}_limit_pct") for share in ("lower", "upper")),
        shown_dispersion=pl.col("dispersion").round(1),
    )
    is_shown = pl.col("value_pct").is_not_null()
    return (
        rows.drop("lower_limit_pct", "upper_limit_pct")
        .join(found, on=("metric", "hospital_id"), how="left")
        .with_columns(
            dispersion=pl.when(pl.col("dispersion").is_not_null()).then("shown_dispersion"),
            lower_limit_pct=pl.when(is_shown).then("lower_limit_pct"),
            upper_limit_pct=pl.when(is_shown).then("upper_limit_pct"),
            is_outside=~pl.col("value_pct").is_between("lower_limit_pct", "upper_limit_pct"),
        )
    )


def _poisson(rows: pl.DataFrame, base: int, _: pl.DataFrame) -> pl.DataFrame:
    """Those of kpi_physician_workload, of the doctors who are compared in the warehouse."""
    compared = pl.col("expected_visit_count").is_not_null()

    def of_compared(column: str) -> pl.Expr:
        return pl.when(compared).then(pl.col(column)).sum().over("hospital_key")

    doctors = compared.sum().over("hospital_key")
    share = pl.when(of_compared("shift_hours") > 0).then(pl.col("shift_hours") / of_compared("shift_hours"))
    expected = pl.when(compared).then(of_compared("visit_count") * share.otherwise(1.0 / doctors))
    # A doctor's visits are rounded by the day.
    rounded = _by_lot(base, "active_days_count") if "active_days_count" in rows.columns else None
    shown = lazy(rows.with_columns(expected_visit_count=expected))
    limited: pl.DataFrame = with_poisson_limits(shown, rounded).collect("polars").to_native()
    return limited


def _z_scores(rows: pl.DataFrame, _: int, __: pl.DataFrame) -> pl.DataFrame:
    """Those of kpi_ecat: of the shares that are shown, within the band of volume."""
    scored = pl.col("z_score").is_not_null() & pl.col("value_pct").is_not_null()
    value = pl.when(scored).then(pl.col("value_pct"))
    band = ("period_year", "volume_band")
    spread = value.std().over(*band)
    return rows.with_columns(
        z_score=pl.when(scored & (spread > 0)).then(((value - value.mean().over(*band)) / spread).round(1))
    )


#: How limits are called in the policy -> what makes them of a table's rows.
LIMITS: Mapping[str, Callable[[pl.DataFrame, int, pl.DataFrame], pl.DataFrame]] = {
    "natural": _natural,
    "funnel": _funnel,
    "poisson": _poisson,
    "z_scores": _z_scores,
}
