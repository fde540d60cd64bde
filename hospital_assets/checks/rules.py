"""Rules of single rows, whoever states them: all those of a table are counted in one pass.

A constraint of Pandera is such a rule: the engine counts, and where a row breaks it, Pandera's own word counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import narwhals as nw
import pandera.polars as pa
import polars as pl
from pandera.errors import SchemaErrors

from hospital_assets.checks.findings import Finding
from hospital_assets.checks.kinds import Kind
from hospital_assets.contracts import Column
from hospital_assets.warehouse.dialect import Frame


@dataclass(frozen=True)
class Rule:
    """A single check over the rows of a table.

    Attributes:
        broken: whether a row breaks it; null counts as no; None where only Pandera can say.
        applies: to which rows; None for all.
        threshold_pct: how many percent may break it.
        check: Pandera's own form of it, whose word counts where a row breaks it.
        is_asked: whether any source in use can fill the column; the rule applies to no row where none can.
    """

    kind: Kind
    table: str
    column: str
    description: str
    broken: nw.Expr | None
    applies: nw.Expr | None = None
    threshold_pct: float = 0.0
    check: tuple[Column, pa.Check] | None = None
    is_asked: bool = True

    def is_broken(self) -> nw.Expr | None:
        """Whether the rule applies to a row and the row breaks it; never null."""
        if self.broken is None:
            return None
        return nw.coalesce(self.broken if self.applies is None else self.applies & self.broken, nw.lit(False))


def run_rules(rules: Sequence[Rule], frame: Frame) -> tuple[int, list[Finding]]:
    """Evaluate rules of a table in one pass: how many rows there are, and a finding per rule."""
    figures: dict[str, nw.Expr] = {}
    for place, rule in enumerate(rules):
        if not rule.is_asked:
            continue
        if rule.applies is not None:
            figures[f"_rows_{place}"] = nw.coalesce(rule.applies, nw.lit(False)).cast(nw.Int64).sum()
        if (broken := rule.is_broken()) is not None:
            figures[f"_broken_{place}"] = broken.cast(nw.Int64).sum()
    found: pl.DataFrame = frame.select(_rows=nw.len(), **figures).collect("polars").to_native()
    # The sum of nothing is null, and a sum of whole numbers a decimal to some engines.
    counts = {name: int(count or 0) for name, count in found.row(0, named=True).items()}

    def finding(place: int, rule: Rule) -> Finding:
        if not rule.is_asked:
            return Finding(rule.description, rule.column, 0, 0, rule.threshold_pct)
        broken, is_broken = counts.get(f"_broken_{place}", 0), rule.is_broken()
        if rule.check and (is_broken is None or broken):
            broken = _by_pandera(*rule.check, frame)
        return Finding(
            rule.description,
            rule.column,
            counts.get(f"_rows_{place}", counts["_rows"]),
            broken,
            rule.threshold_pct,
            broken_rows=frame.filter(is_broken) if broken and is_broken is not None else None,
        )

    return counts["_rows"], [finding(place, rule) for place, rule in enumerate(rules)]


#: Pandera's constraints, as an engine sees them: name -> whether a value holds, null where there is none.
_HOLDS: dict[str, Callable[..., nw.Expr]] = {
    "greater_than": lambda value, min_value: value > min_value,
    "greater_than_or_equal_to": lambda value, min_value: value >= min_value,
    "less_than": lambda value, max_value: value < max_value,
    "less_than_or_equal_to": lambda value, max_value: value <= max_value,
    "in_range": lambda value, min_value, max_value, **_: (value >= min_value) & (value <= max_value),
    "isin": lambda value, allowed_values: value.is_in(list(allowed_values)),
    "str_matches": lambda value, pattern: value.str.contains(pattern),
}


def of_pandera(kind: Kind, table: str, column: Column, check: pa.Check) -> Rule:
    """A constraint of a contract: counted by the engine, and put to Pandera where a row breaks it.

    Bringing every column into memory for Pandera takes ten times as long, and nearly all are clean.
    """
    holds = _HOLDS.get(str(check.name))
    broken = None
    if holds is not None:
        broken = ~holds(nw.col(column.name), **(check.statistics or {}))
    return Rule(kind, table, column.name, str(check.error or check.name), broken, check=(column, check))


def _by_pandera(column: Column, check: pa.Check, frame: Frame) -> int:
    """How many values break a constraint, by Pandera; only that column is brought into memory."""
    # An eager frame: on a lazy one Pandera looks at names and types only.
    values = frame.select(column.name).collect("polars").to_native()
    if isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone:
        values = values.with_columns(pl.col(column.name).dt.convert_time_zone("UTC"))
    schema = pa.DataFrameSchema({column.name: pa.Column(column.dtype, [check], nullable=True)})
    try:
        schema.validate(values, lazy=True)
    except SchemaErrors as errors:
        cases = [error.failure_cases for error in errors.schema_errors]
        return sum(case.height if isinstance(case, pl.DataFrame) else 1 for case in cases)
    return 0
