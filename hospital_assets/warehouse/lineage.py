"""Column lineage, read off the SQL of a lazy frame.

A Narwhals frame over DuckDB relations is one SQL query; sqlglot resolves each output column of it
to the base columns it is computed from, given the upstream schemas of the contracts. Nobody keeps
lineage by hand. Belongs here: that, and how it is shown. COUNT(*) has no column: it names none.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

import dagster as dg
import duckdb

from hospital_assets.contracts import CONTRACTS, Contract
from hospital_assets.warehouse.dialect import CHECKPOINT_QUERIES

Sources = Mapping[str, tuple[tuple[str, str], ...]]


def column_lineage(
    contract: Contract, relation: duckdb.DuckDBPyRelation
) -> dg.TableColumnLineage | None:
    """Which upstream columns each column of a relation is computed from.

    None where no column comes from a table of the warehouse (a plan over landed files).
    """
    sources = column_sources(_without_dates(_expanded(relation.sql_query())))
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


def _expanded(sql: str) -> str:
    """The query with checkpoints replaced by the queries that filled them."""
    for name, query in reversed(CHECKPOINT_QUERIES.items()):
        name_in_sql = rf"(?:temp\.main\.|temp\.)?\b{name}\b"
        # As a function, so that backslashes in the query are not read as references.
        sql = re.sub(name_in_sql, functools.partial(_parenthesised, query), sql)
    return sql


def _parenthesised(query: str, _: re.Match[str]) -> str:
    return f"({query})"


def _without_dates(sql: str) -> str:
    """The query with its dates blanked: lineage does not depend on the partition."""
    return re.sub(r"'\d{4}-\d{2}-\d{2}[^']*'", "'2000-01-01'", sql)


@functools.cache
def column_sources(sql: str) -> Sources:
    """Base columns `(table, column)` behind each output column of a DuckDB query."""
    # sqlglot takes 0.2 s to import, and only runs that write through DuckDB need it.
    from sqlglot import exp
    from sqlglot.lineage import lineage

    schema: dict[str, dict[str, dict[str, str]]] = {}
    for contract in CONTRACTS.values():
        schema.setdefault(contract.layer, {})[contract.name] = {
            column.name: column.duckdb_type for column in contract.columns
        }
    sources: dict[str, tuple[tuple[str, str], ...]] = {}
    for column, root in lineage(
        None, sql, schema, dialect="duckdb", trim_selects=False, copy=False
    ).items():
        # Nodes are shared between columns, so the walk must not visit one twice.
        found, seen, waiting = set(), set(), [root]
        while waiting:
            node = waiting.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            waiting.extend(node.downstream)
            table = node.expression
            if isinstance(table, exp.Table) and table.name in CONTRACTS:
                found.add((table.name, node.name.rsplit(".", 1)[-1].strip('"')))
        sources[column] = tuple(sorted(found))
    return sources
