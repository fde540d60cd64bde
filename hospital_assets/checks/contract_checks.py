"""One asset check per table and rule group, derived from the table's contract by Pandera.

The same function decides which groups a table has and which rules run, so specs and results
cannot drift apart. A rule that nothing broke reports too, so its history has no holes.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
import narwhals as nw
import pandera.polars as pa
import polars as pl
from pandera.errors import SchemaErrors

from hospital_assets.assets.declare import WAREHOUSE_POOL, partitions_of
from hospital_assets.assets.resources import ClockResource
from hospital_assets.checks.findings import Finding, result, store
from hospital_assets.checks.kinds import ADDS_UP, COLUMNS, KEY, PLAUSIBLE, REFERENCES, REQUIRED, VALUES, Kind
from hospital_assets.contracts import CONTRACTS, Column, Contract
from hospital_assets.warehouse.database import without_values
from hospital_assets.warehouse.dialect import Frame, json_fields, relation_of
from hospital_assets.warehouse.io_manager import WarehouseResource, period_of


def kinds_of(contract: Contract) -> list[Kind]:
    """The kinds of checks a contract has rules for."""
    groups = [COLUMNS, KEY, REQUIRED]
    if any(column.checks for column in contract.columns):
        groups.append(VALUES)
    if any(column.plausible for column in contract.columns):
        groups.append(PLAUSIBLE)
    if contract.adds_up:
        groups.append(ADDS_UP)
    if any(column.references for column in contract.columns):
        groups.append(REFERENCES)
    return groups


def check_table(
    contract: Contract, frame: Frame, referenced: Mapping[str, Frame]
) -> Iterator[tuple[Kind, list[Finding]]]:
    """Run every rule of a contract over a table.

    Args:
        contract: what the table should be.
        frame: the table, or the service days of it that a run covers.
        referenced: the tables its references point to, by name.
    """
    yield COLUMNS, _columns(contract, frame)
    rows = int(frame.select(nw.len()).collect("polars").item())
    for group in kinds_of(contract):
        if group is KEY:
            yield group, [_key(contract, frame, rows)]
        elif group is REQUIRED:
            yield group, _required(contract, frame, rows)
        elif group is VALUES:
            yield (
                group,
                [
                    finding
                    for column in contract.columns
                    if column.checks
                    for finding in _by_pandera(column, column.checks, frame, rows)
                ],
            )
        elif group is PLAUSIBLE:
            yield (
                group,
                [
                    finding
                    for column in contract.columns
                    if column.plausible
                    for finding in _by_pandera(column, (pa.Check.in_range(*column.plausible),), frame, rows)
                ],
            )
        elif group is ADDS_UP:
            yield group, _adds_up(contract, frame, rows)
        elif group is REFERENCES:
            yield (
                group,
                [_reference(column, frame, referenced, rows) for column in contract.columns if column.references],
            )


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
    bad = per_key.filter((nw.col("_rows") > 1) | incomplete).select(nw.col("_rows").sum())
    broken = bad.collect("polars").item()
    return Finding("one row per key", ", ".join(contract.key), rows, int(broken or 0))


def _required(contract: Contract, frame: Frame, rows: int) -> list[Finding]:
    names = [column.name for column in contract.columns if not column.nullable]
    if not names:
        return []
    counted = frame.select(**{name: nw.col(name).is_null().cast(nw.Int64).sum() for name in names}).collect("polars")
    return [Finding("has a value", name, rows, int(counted[name].item() or 0)) for name in names]


def _adds_up(contract: Contract, frame: Frame, rows: int) -> list[Finding]:
    """Compare wholes with their parts; a numerator must lie within its denominator, too."""
    rules = {
        (f"= {' + '.join(parts)}", whole): nw.col(whole) != nw.sum_horizontal(*(nw.col(part) for part in parts))
        for whole, parts in contract.adds_up.items()
    }
    if {"numerator_count", "denominator_count"} <= set(contract.column_names):
        rules[("is within the denominator", "numerator_count")] = nw.col("numerator_count") > nw.col(
            "denominator_count"
        )
    counted = frame.select(
        **{
            f"_{place}": nw.coalesce(broken, nw.lit(True)).cast(nw.Int64).sum()
            for place, broken in enumerate(rules.values())
        }
    ).collect("polars")
    return [
        Finding(rule, column, rows, int(counted[f"_{place}"].item() or 0)) for place, (rule, column) in enumerate(rules)
    ]


def _by_pandera(column: Column, checks: tuple[pa.Check, ...], frame: Frame, rows: int) -> list[Finding]:
    """Let Pandera check one column; only that column is brought into memory."""
    # An eager frame: on a lazy one Pandera looks at names and types only.
    values = _values(column, frame)
    schema = pa.DataFrameSchema({column.name: pa.Column(column.dtype, list(checks), nullable=True)})
    broken: dict[str, int] = {}
    try:
        schema.validate(values, lazy=True)
    except SchemaErrors as errors:
        for error in errors.schema_errors:
            name = str(error.check)
            cases = error.failure_cases
            broken[name] = cases.height if isinstance(cases, pl.DataFrame) else 1
    return [
        Finding(str(check.error or check.name), column.name, rows, broken.get(str(check), 0)) for check in checks
    ] + [
        Finding(name, column.name, rows, count)
        for name, count in broken.items()
        if name not in {str(check) for check in checks}
    ]


def _values(column: Column, frame: Frame) -> pl.DataFrame:
    if column.duckdb_type == "VARIANT":
        frame = json_fields(frame, column.name, {column.name: "$"})
    native = frame.select(column.name).collect("polars").to_native()
    if isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone:
        native = native.with_columns(pl.col(column.name).dt.convert_time_zone("UTC"))
    return native  # type: ignore[no-any-return]


def _reference(column: Column, frame: Frame, referenced: Mapping[str, Frame], rows: int) -> Finding:
    table, _, name = column.references.partition(".")
    known = referenced[table].select(nw.col(name).alias(column.name)).unique()
    lost = (
        frame.filter(~nw.col(column.name).is_null())
        .join(known, on=column.name, how="anti")
        .select(nw.len())
        .collect("polars")
        .item()
    )
    return Finding(f"is in {table}", column.name, rows, int(lost))


def contract_check(contract: Contract, periods: dg.TimeWindowPartitionsDefinition) -> dg.AssetChecksDefinition:
    """All kinds of checks of one contract as one step with a check each."""
    tables = sorted({c.references.partition(".")[0] for c in contract.columns if c.references})
    specs = [
        dg.AssetCheckSpec(
            group.name,
            asset=contract.name,
            description=group.description,
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
        pool=WAREHOUSE_POOL,
    )
    def check(
        context: dg.AssetCheckExecutionContext, warehouse: WarehouseResource, clock: ClockResource, **frames: Any
    ) -> Iterator[dg.AssetCheckResult]:
        with without_values(f"{contract.name} could not be checked"):
            found = list(check_table(contract, frames[contract.name], frames))
            period = period_of(context) if contract.partitioned else None
            store(warehouse.open(), context.run.run_id, clock.wall(), contract.name, found, period)
        for kind, findings in found:
            yield result(contract.name, kind, findings)

    return check


def contract_checks(periods: dg.TimeWindowPartitionsDefinition) -> list[dg.AssetChecksDefinition]:
    """The checks of every contract."""
    return [contract_check(contract, periods) for contract in CONTRACTS.values()]
