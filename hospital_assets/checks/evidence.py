"""What a failed check shows beside its counts: which records, how to look further, and what to do.

A record is named by its line in a landed file, or by a key that is about nobody (a KPI's day and hospital). Never by a
value of it: what a check shows stays in Dagster's event log for good.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import dagster as dg
import duckdb

from hospital_assets.checks.findings import Check, Finding, evaluated, result, store
from hospital_assets.contracts import CONTRACTS, RECORD_PLACE, Contract
from hospital_assets.warehouse.database import Warehouse
from hospital_assets.warehouse.dialect import Frame, is_on_spark, relation_of
from hospital_assets.warehouse.errors import WarehouseError, redacted
from hospital_assets.warehouse.io_manager import period_of
from hospital_assets.warehouse.lineage import cleaned_origins

#: Records named in all, and rules whose SQL is written out.
MOST_RECORDS, _MOST_QUERIES = 20, 3
_SOURCE = (
    "Look at these records in their files. Where the source is wrong, have it send them corrected: newer records "
    "replace them. Where the rule is wrong, it is a line in hospital_assets/checks or in a contract."
)
_PROGRAM = (
    "KPIs are computed from stored facts only: either the facts changed since (build the table again) or the transform "
    "is wrong. `hospital explain TABLE --hospital H --day DAY` shows what a figure is made of."
)


def evidence(warehouse: Warehouse, contract: Contract, findings: Sequence[Finding]) -> dict[str, Any]:
    """Metadata for the findings of a check that did not pass; empty where all did."""
    bad = [finding for finding in findings if finding.status in ("Failed", "Error")]
    if not bad:
        return {}
    records: list[dg.TableRecord] = []
    queries: list[str] = []
    for finding in bad:
        if finding.broken_rows is None:
            continue
        relation = relation_of(finding.broken_rows)
        sql = "" if relation is None else relation.sql_query()
        # A checkpoint is gone when the run ends.
        if sql and "checkpoint_" not in sql and len(queries) < _MOST_QUERIES:
            queries.append(f"-- {finding.column}: {finding.rule}\n{sql};")
        try:
            places = _places(warehouse, contract, finding.broken_rows, MOST_RECORDS - len(records))
        except duckdb.Error as error:
            # What helps to look further must not fail the check, if it can be helped.
            if not warehouse.goes_on():
                raise WarehouseError(f"{contract.name} could not be checked: {redacted(error)}") from None
            continue
        records += [
            dg.TableRecord({"column": finding.column, "rule": finding.rule, "record": place}) for place in places
        ]
    advice = _PROGRAM if contract.layer in ("kpis", "forecasts") else _SOURCE
    day = " --day DAY" if contract.partitioned else ""
    shown: dict[str, Any] = {
        "what_to_do": dg.MetadataValue.md(f"{advice} Then run it again: `hospital check{day} --table {contract.name}`.")
    }
    if records:
        columns = [dg.TableColumn(name, "string") for name in ("column", "rule", "record")]
        shown["records"] = dg.MetadataValue.table(records, schema=dg.TableSchema(columns))
    if queries:
        shown["sql"] = dg.MetadataValue.md("```sql\n" + "\n\n".join(queries) + "\n```")
    return shown


def results(
    context: dg.AssetCheckExecutionContext,
    warehouse: Warehouse,
    checked_at: datetime,
    contract: Contract,
    frames: Mapping[str, Frame],
    check: Check,
) -> list[dg.AssetCheckResult]:
    """Evaluate the checks of a table in a step, keep every single result, and show them with their evidence."""
    period = period_of(context) if contract.partitioned else None
    found = evaluated(warehouse, frames, period, check)
    for error in (f"{each.rule}: {each.error}" for _, findings in found for each in findings if each.error):
        if not warehouse.goes_on():
            # The next statement would fail, and not say why.
            raise WarehouseError(f"{contract.name} could not be checked: {error}")
    shown = [result(contract.name, kind, each, evidence(warehouse, contract, each)) for kind, each in found]
    store(warehouse, context.run.run_id, checked_at, contract.name, found, period)
    return shown


def _places(warehouse: Warehouse, contract: Contract, broken: Frame, most: int) -> list[str]:
    """Where some rows are: their landed lines, or their keys where those are about nobody."""
    # On Spark another pass over the table is a job of its own: the SQL and the counts have to do.
    if most <= 0 or is_on_spark(broken):
        return []
    names = broken.columns
    if not set(RECORD_PLACE) <= set(names):
        if set(contract.key) <= set(names) and all(contract.column(k).privacy == "operational" for k in contract.key):
            rows = broken.select(*contract.key).unique().sort(*contract.key).head(most).collect("polars").to_native()
            return [", ".join(f"{name} {value}" for name, value in row.items()) for row in rows.iter_rows(named=True)]
        found = next(((name, *origin) for name in names for origin in _origins(contract, name)), None)
        if found is None or relation_of(broken) is None or not warehouse.exists(found[1]):
            return []
        name, origin, column = found
        broken = warehouse.read(origin).join(broken.select(name).unique(), left_on=column, right_on=name, how="semi")
    rows = broken.select(*RECORD_PLACE).unique().sort(*RECORD_PLACE).head(most).collect("polars").to_native()
    return [f"{file}:{line}" for file, line, _ in rows.iter_rows()]


def _origins(contract: Contract, name: str) -> Iterator[tuple[Contract, str]]:
    """Cleaned tables and their columns that hold what identifies a row: surrogate keys are nowhere in them."""
    if name == contract.key[0] or name.endswith("_id"):
        for table, column in cleaned_origins(contract, name):
            # A key may be computed from other things than identifiers, too.
            if column.endswith("_id") and CONTRACTS[table].column(column).dtype == contract.column(name).dtype:
                yield CONTRACTS[table], column
