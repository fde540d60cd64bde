"""What a table's contract asks of it: columns and types, key, values, sums and references.

A rule that nothing broke reports too, so its history has no holes.
"""

from collections.abc import Mapping

import narwhals as nw
import pandera.polars as pa
import polars as pl

from hospital_assets.checks.findings import Finding
from hospital_assets.checks.kinds import ADDS_UP, PLAUSIBLE, REQUIRED, VALUES
from hospital_assets.checks.rules import Rule, of_pandera
from hospital_assets.contracts import Column, Contract
from hospital_assets.warehouse.database import as_contracts_say
from hospital_assets.warehouse.dialect import Frame, relation_of


def contract_rules(contract: Contract) -> list[Rule]:
    """The rules of single rows that a contract states."""
    return [*_required(contract), *_values(contract), *_plausible(contract), *_adds_up(contract)]


def columns_found(contract: Contract, frame: Frame) -> list[Finding]:
    """Compare stored names and types; one finding per contract column and per unknown column."""
    relation = relation_of(frame)
    if relation is not None:
        stored = {n: as_contracts_say(str(kind)) for n, kind in zip(relation.columns, relation.types, strict=True)}
    else:
        stored = {name: str(dtype) for name, dtype in frame.collect_schema().items()}
    findings = []
    for column in contract.columns:
        if relation is not None:
            wanted = column.duckdb_type
        else:
            wanted = str(nw.from_native(pl.DataFrame(schema={"c": column.dtype})).schema["c"])
        matches = stored.get(column.name) == wanted
        findings.append(Finding("stored as in the contract", column.name, 1, 0 if matches else 1))
    unknown = sorted(set(stored) - set(contract.column_names))
    return [*findings, *(Finding("not in the contract", name, 1, 1) for name in unknown)]


def key_found(contract: Contract, frame: Frame, rows: int) -> Finding:
    """Count rows whose key is incomplete or not the only one of its kind."""
    per_key = frame.group_by(*contract.key).agg(_rows=nw.len())
    incomplete = nw.any_horizontal(*(nw.col(name).is_null() for name in contract.key), ignore_nulls=True)
    bad = per_key.filter((nw.col("_rows") > 1) | incomplete)
    broken = int(bad.select(nw.col("_rows").sum()).collect("polars").item() or 0)
    broken_rows = frame.join(bad.select(*contract.key), on=list(contract.key), how="semi") if broken else None
    return Finding("one row per key", ", ".join(contract.key), rows, broken, broken_rows=broken_rows)


def _required(contract: Contract) -> list[Rule]:
    return [
        Rule(REQUIRED, contract.name, column.name, "has a value", nw.col(column.name).is_null())
        for column in contract.columns
        if not column.nullable
    ]


def _values(contract: Contract) -> list[Rule]:
    """What the contract says of values; of every fraction, that it is a number or null: never NaN, never infinite."""
    return [
        *(
            Rule(VALUES, contract.name, column.name, "a number, or null", ~nw.col(column.name).is_finite())
            for column in contract.columns
            if column.dtype == pl.Float64()
        ),
        *(of_pandera(VALUES, contract.name, column, check) for column in contract.columns for check in column.checks),
    ]


def _plausible(contract: Contract) -> list[Rule]:
    return [
        of_pandera(PLAUSIBLE, contract.name, column, pa.Check.in_range(*column.plausible))
        for column in contract.columns
        if column.plausible
    ]


def _adds_up(contract: Contract) -> list[Rule]:
    """Wholes are their parts; a numerator must lie within its denominator, too."""
    rules = [
        Rule(
            ADDS_UP,
            contract.name,
            whole,
            f"= {' + '.join(parts)}",
            # What is not known does not add up either.
            nw.coalesce(nw.col(whole) != nw.sum_horizontal(*(nw.col(part) for part in parts)), nw.lit(True)),
        )
        for whole, parts in contract.adds_up.items()
    ]
    if {"numerator_count", "denominator_count"} <= set(contract.column_names):
        broken = nw.coalesce(nw.col("numerator_count") > nw.col("denominator_count"), nw.lit(True))
        rules.append(Rule(ADDS_UP, contract.name, "numerator_count", "is within the denominator", broken))
    return rules


def reference_found(column: Column, frame: Frame, referenced: Mapping[str, Frame], rows: int) -> Finding:
    """Count values that the table they point to does not have."""
    table, _, name = column.references.partition(".")
    known = referenced[table].select(nw.col(name).alias(column.name)).unique()
    lost = frame.filter(~nw.col(column.name).is_null()).join(known, on=column.name, how="anti")
    count = int(lost.select(nw.len()).collect("polars").item())
    return Finding(f"is in {table}", column.name, rows, count, broken_rows=lost if count else None)
