"""One asset check per table and rule group, derived from the table's contract by Pandera.

The same function decides which groups a table has and which rules run, so specs and results
cannot drift apart. A rule that nothing broke reports too, so its history has no holes.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
import narwhals as nw
import pandera.polars as pa
import polars as pl
from pandera.errors import SchemaErrors

from hospital_assets.assets.declare import WAREHOUSE_POOL, partitions_of
from hospital_assets.assets.resources import ClockResource
from hospital_assets.checks.evidence import results
from hospital_assets.checks.findings import Finding, asked_for, described
from hospital_assets.checks.kinds import (
    ADDS_UP,
    COLUMNS,
    CONTRACT_KINDS,
    KEY,
    PLAUSIBLE,
    REFERENCES,
    REQUIRED,
    VALUES,
    Kind,
)
from hospital_assets.contracts import CONTRACTS, Column, Contract
from hospital_assets.warehouse.dialect import Frame, json_fields, relation_of
from hospital_assets.warehouse.errors import without_values
from hospital_assets.warehouse.io_manager import WarehouseResource


def kinds_of(contract: Contract) -> list[Kind]:
    """The kinds of checks a contract has rules for."""
    groups = [COLUMNS, KEY, REQUIRED]
    if _values(contract):
        groups.append(VALUES)
    if any(column.plausible for column in contract.columns):
        groups.append(PLAUSIBLE)
    if contract.adds_up:
        groups.append(ADDS_UP)
    if any(column.references for column in contract.columns):
        groups.append(REFERENCES)
    return groups


def check_table(
    contract: Contract, frame: Frame, referenced: Mapping[str, Frame], kinds: Collection[Kind] = CONTRACT_KINDS
) -> Iterator[tuple[Kind, list[Finding]]]:
    """Run the rules of a contract over a table.

    Args:
        contract: what the table should be.
        frame: the table, or the service days of it that a run covers.
        referenced: the tables its references point to, by name.
        kinds: those asked for.
    """
    if COLUMNS in kinds:
        yield COLUMNS, _columns(contract, frame)
    every_rule = [*_required(contract), *_values(contract), *_plausible(contract), *_adds_up(contract)]
    rules = [rule for rule in every_rule if rule.kind in kinds]
    rows, broken = _counted(frame, rules)
    counts = dict(zip(rules, broken, strict=True))
    for group in [kind for kind in kinds_of(contract) if kind in kinds]:
        if group is KEY:
            yield group, [_key(contract, frame, rows)]
        elif group is REFERENCES:
            yield (
                group,
                [_reference(column, frame, referenced, rows) for column in contract.columns if column.references],
            )
        elif group is not COLUMNS:
            yield group, [_finding(rule, frame, rows, counts[rule]) for rule in rules if rule.kind is group]


@dataclass(frozen=True, eq=False)
class _Rule:
    """A rule of single rows.

    Attributes:
        kind: of check.
        text: what it asks of the column.
        column: which.
        broken: whether a row breaks it, null counts as broken; None where only Pandera can say.
        check: Pandera's own form of it, whose word counts where a row breaks it.
    """

    kind: Kind
    text: str
    column: str
    broken: nw.Expr | None
    check: tuple[Column, pa.Check] | None = None


def _counted(frame: Frame, rules: Sequence[_Rule]) -> tuple[int, list[int | None]]:
    """How many rows there are and how many break each rule, in one pass; None where only Pandera can say."""
    figures = {
        f"_{place}": nw.coalesce(rule.broken, nw.lit(True)).cast(nw.Int64).sum()
        for place, rule in enumerate(rules)
        if rule.broken is not None
    }
    counted = frame.select(_rows=nw.len(), **figures).collect("polars")
    found = [
        int(counted[f"_{place}"].item() or 0) if rule.broken is not None else None for place, rule in enumerate(rules)
    ]
    return int(counted["_rows"].item()), found


def _finding(rule: _Rule, frame: Frame, rows: int, broken: int | None) -> Finding:
    if rule.check and broken != 0:
        broken = _by_pandera(*rule.check, frame)
    broken_rows = None
    if broken and rule.broken is not None:
        broken_rows = frame.filter(nw.coalesce(rule.broken, nw.lit(True)))
    return Finding(rule.text, rule.column, rows, broken or 0, broken_rows=broken_rows)


def _columns(contract: Contract, frame: Frame) -> list[Finding]:
    """Compare stored names and types; one finding per contract column and per unknown column."""
    relation = relation_of(frame)
    if relation is not None:
        stored = dict(zip(relation.columns, (str(t) for t in relation.types), strict=True))
    else:
        stored = {name: str(dtype) for name, dtype in frame.collect_schema().items()}
    findings = []
    for column in contract.columns:
        if relation is not None:
            wanted = column.duckdb_type.replace("TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE")
        else:
            wanted = str(nw.from_native(pl.DataFrame(schema={"c": column.dtype})).schema["c"])
        matches = stored.get(column.name) == wanted
        findings.append(Finding("stored as in the contract", column.name, 1, 0 if matches else 1))
    unknown = sorted(set(stored) - set(contract.column_names))
    return [*findings, *(Finding("not in the contract", name, 1, 1) for name in unknown)]


def _key(contract: Contract, frame: Frame, rows: int) -> Finding:
    """Count rows whose key is incomplete or not the only one of its kind."""
    per_key = frame.group_by(*contract.key).agg(_rows=nw.len())
    incomplete = nw.any_horizontal(*(nw.col(name).is_null() for name in contract.key), ignore_nulls=True)
    bad = per_key.filter((nw.col("_rows") > 1) | incomplete)
    broken = int(bad.select(nw.col("_rows").sum()).collect("polars").item() or 0)
    broken_rows = frame.join(bad.select(*contract.key), on=list(contract.key), how="semi") if broken else None
    return Finding("one row per key", ", ".join(contract.key), rows, broken, broken_rows=broken_rows)


def _required(contract: Contract) -> list[_Rule]:
    return [
        _Rule(REQUIRED, "has a value", column.name, nw.col(column.name).is_null())
        for column in contract.columns
        if not column.nullable
    ]


def _values(contract: Contract) -> list[_Rule]:
    """What the contract says of values; of every fraction, that it is a number or null: never NaN, never infinite."""
    return [
        *(
            _Rule(VALUES, "a number, or null", column.name, ~nw.coalesce(nw.col(column.name).is_finite(), nw.lit(True)))
            for column in contract.columns
            if column.dtype == pl.Float64()
        ),
        *(_of_pandera(VALUES, column, check) for column in contract.columns for check in column.checks),
    ]


def _plausible(contract: Contract) -> list[_Rule]:
    return [
        _of_pandera(PLAUSIBLE, column, pa.Check.in_range(*column.plausible))
        for column in contract.columns
        if column.plausible
    ]


def _adds_up(contract: Contract) -> list[_Rule]:
    """Wholes are their parts; a numerator must lie within its denominator, too."""
    rules = [
        _Rule(
            ADDS_UP,
            f"= {' + '.join(parts)}",
            whole,
            nw.col(whole) != nw.sum_horizontal(*(nw.col(part) for part in parts)),
        )
        for whole, parts in contract.adds_up.items()
    ]
    if {"numerator_count", "denominator_count"} <= set(contract.column_names):
        broken = nw.col("numerator_count") > nw.col("denominator_count")
        rules.append(_Rule(ADDS_UP, "is within the denominator", "numerator_count", broken))
    return rules


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


def _of_pandera(kind: Kind, column: Column, check: pa.Check) -> _Rule:
    """A constraint of a contract: counted by the engine, and put to Pandera where a row breaks it.

    Bringing every column into memory for Pandera takes ten times as long, and nearly all are clean.
    """
    holds = _HOLDS.get(str(check.name))
    broken = None
    if holds is not None and column.duckdb_type != "VARIANT":
        broken = ~nw.coalesce(holds(nw.col(column.name), **(check.statistics or {})), nw.lit(True))
    return _Rule(kind, str(check.error or check.name), column.name, broken, (column, check))


def _by_pandera(column: Column, check: pa.Check, frame: Frame) -> int:
    """How many values break a constraint, by Pandera; only that column is brought into memory."""
    # An eager frame: on a lazy one Pandera looks at names and types only.
    if column.duckdb_type == "VARIANT":
        frame = json_fields(frame, column.name, {column.name: "$"})
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


def _reference(column: Column, frame: Frame, referenced: Mapping[str, Frame], rows: int) -> Finding:
    table, _, name = column.references.partition(".")
    known = referenced[table].select(nw.col(name).alias(column.name)).unique()
    lost = frame.filter(~nw.col(column.name).is_null()).join(known, on=column.name, how="anti")
    count = int(lost.select(nw.len()).collect("polars").item())
    return Finding(f"is in {table}", column.name, rows, count, broken_rows=lost if count else None)


def contract_check(contract: Contract, periods: dg.TimeWindowPartitionsDefinition) -> dg.AssetChecksDefinition:
    """All kinds of checks of one contract as one step with a check each."""
    tables = sorted({c.references.partition(".")[0] for c in contract.columns if c.references})
    specs = [
        dg.AssetCheckSpec(
            group.name,
            asset=contract.name,
            description=described(group, is_partitioned=contract.partitioned),
            additional_deps=tables if group is REFERENCES else (),
            blocking=group.blocking,
            partitions_def=partitions_of(contract.name, periods),
        )
        for group in kinds_of(contract)
    ]

    @dg.multi_asset_check(
        name=f"{contract.name}_contract",
        specs=specs,
        ins={name: dg.AssetIn(name) for name in (contract.name, *tables)},
        can_subset=True,
        pool=WAREHOUSE_POOL,
    )
    def check(
        context: dg.AssetCheckExecutionContext, warehouse: WarehouseResource, clock: ClockResource, **frames: Any
    ) -> Iterator[dg.AssetCheckResult]:
        with without_values(f"{contract.name} could not be checked"):
            asked = asked_for(context, CONTRACT_KINDS)
            yield from results(
                context,
                warehouse.open(),
                clock.wall(),
                contract,
                frames,
                lambda tables: list(check_table(contract, tables[contract.name], tables, asked)),
            )

    return check


def contract_checks(periods: dg.TimeWindowPartitionsDefinition) -> list[dg.AssetChecksDefinition]:
    """The checks of every contract."""
    return [contract_check(contract, periods) for contract in CONTRACTS.values()]
