"""Column lineage, read off the SQL of a lazy frame.

A Narwhals frame over DuckDB relations is one SQL query; sqlglot resolves each output column of it
to the base columns it is computed from, given the upstream schemas of the contracts. Nobody keeps
lineage by hand. Belongs here: that, and how it is shown; Spark's plans are read in
`spark.lineage`. COUNT(*) has no column: it names none.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from hospital_assets.contracts import CONTRACTS, Contract
from hospital_assets.warehouse.dialect import CHECKPOINT_QUERIES

#: Output column -> the base columns `(table, column)` it is computed from.
Sources = Mapping[str, tuple[tuple[str, str], ...]]

_CHECKPOINT = re.compile(r"\bcheckpoint_\d+\b")


def column_lineage(contract: Contract, query: str, folder: Path) -> dg.TableColumnLineage | None:
    """Which upstream columns each column of a query is computed from.

    None where no column comes from a table of the warehouse (a plan over landed files).

    Args:
        contract: the table the result is stored as.
        query: SQL of a DuckDB relation.
        folder: where answers are kept: a query takes up to half a second to resolve, and is the
            same in every run until the code changes.
    """
    sql = _without_dates(query)
    remembered = folder / f"{contract.name}.json"
    identity = _identity(sql)
    sources = _recalled(remembered, identity)
    if sources is None:
        sources = column_sources(sql)
        remembered.parent.mkdir(parents=True, exist_ok=True)
        remembered.write_text(json.dumps({"identity": identity, "sources": sources}), encoding="utf-8")
    return lineage_of(contract, sources)


def lineage_of(contract: Contract, sources: Sources) -> dg.TableColumnLineage | None:
    """What is known of a table's columns, as Dagster has it; None where nothing is."""
    deps_by_column = {
        name: [dg.TableColumnDep(dg.AssetKey(table), column) for table, column in deps]
        for name in contract.column_names
        if (deps := sources.get(name))
    }
    return dg.TableColumnLineage(deps_by_column) if deps_by_column else None


def lineage_table(lineage: dg.TableColumnLineage) -> str:
    """Lineage as a Markdown table, because Dagster's own UI does not draw it."""
    lines = [
        f"| {name} | {', '.join(f'{d.asset_key.path[-1]}.{d.column_name}' for d in deps)} |"
        for name, deps in lineage.deps_by_column.items()
    ]
    return "| column | computed from |\n|---|---|\n" + "\n".join(lines)


def _recalled(file: Path, identity: str) -> Sources | None:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if kept.get("identity") != identity:
        return None
    return {name: tuple((table, column) for table, column in deps) for name, deps in kept["sources"].items()}


def _identity(sql: str) -> str:
    """A hash of the query, of the checkpoints it reads, and of the columns it may read."""
    return hashlib.sha256(f"{_columns_by_table()}{_named_by_content(sql)}".encode()).hexdigest()


def _named_by_content(sql: str) -> str:
    def content(found: re.Match[str]) -> str:
        query = CHECKPOINT_QUERIES.get(found.group(0))
        if query is None:
            return found.group(0)
        return hashlib.sha256(_named_by_content(_without_dates(query)).encode()).hexdigest()

    return _CHECKPOINT.sub(content, sql)


def _without_dates(sql: str) -> str:
    """The query with its dates blanked: lineage does not depend on the partition."""
    return re.sub(r"'\d{4}-\d{2}-\d{2}[^']*'", "'2000-01-01'", sql)


@functools.cache
def _columns_by_table() -> Mapping[str, Mapping[str, Mapping[str, str]]]:
    """Layer -> table -> column -> DuckDB type, of all contracts."""
    schema: dict[str, dict[str, dict[str, str]]] = {}
    for contract in CONTRACTS.values():
        schema.setdefault(contract.layer, {})[contract.name] = {
            column.name: column.duckdb_type for column in contract.columns
        }
    return schema


@functools.cache
def column_sources(sql: str) -> Sources:
    """Base columns `(table, column)` behind each output column of a DuckDB query.

    Checkpoints are looked through, each resolved once.
    """
    # sqlglot takes 0.2 s to import, and only runs that write through DuckDB need it.
    from sqlglot import exp
    from sqlglot.lineage import lineage

    checkpoints = {
        name: column_sources(_without_dates(CHECKPOINT_QUERIES[name]))
        for name in set(_CHECKPOINT.findall(sql)) & set(CHECKPOINT_QUERIES)
    }
    schema: dict[str, object] = dict(_columns_by_table())
    if checkpoints:
        # sqlglot needs every table at the same depth: temporary ones stand in the schema `main`.
        sql = re.sub(r"\btemp\.main\.(?=checkpoint_)", "main.", sql)
        schema["main"] = {name: dict.fromkeys(kept, "") for name, kept in checkpoints.items()}
    sources: dict[str, tuple[tuple[str, str], ...]] = {}
    for column, root in lineage(None, sql, schema, dialect="duckdb", trim_selects=False, copy=False).items():
        # Nodes are shared between columns, so the walk must not visit one twice.
        found: set[tuple[str, str]] = set()
        seen, waiting = set(), [root]
        while waiting:
            node = waiting.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            waiting.extend(node.downstream)
            table = node.expression
            if not isinstance(table, exp.Table):
                continue
            name = node.name.rsplit(".", 1)[-1].strip('"')
            if table.name in CONTRACTS:
                found.add((table.name, name))
            elif table.name in checkpoints:
                found.update(checkpoints[table.name].get(name, ()))
        sources[column] = tuple(sorted(found))
    return sources
