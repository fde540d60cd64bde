"""Column lineage: which columns each column of a table is computed from.

A Narwhals frame over DuckDB relations is one SQL query; sqlglot resolves each output column of it to the base columns
it is computed from, given the schemas of the contracts. It is the same in every run until the code changes, so that
it is read off once, by `hospital docs`, and stands in `lineage.json`. Nobody keeps lineage by hand. Belongs here:
that, and how it is shown. COUNT(*) has no column: it names none.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hospital_assets.contracts import CONTRACTS, Contract

if TYPE_CHECKING:
    import dagster as dg

#: Output column -> the base columns `(table, column)` it is computed from.
Sources = Mapping[str, tuple[tuple[str, str], ...]]

#: Table -> column -> the columns it is computed from, as `table.column`; written by `hospital docs`.
LINEAGE_FILE = Path(__file__).with_name("lineage.json")

_CHECKPOINT = re.compile(r"\bcheckpoint_\d+\b")


def lineage_of(contract: Contract) -> dg.TableColumnLineage | None:
    """What is known of a table's columns, as Dagster has it; None where none comes from another table."""
    import dagster as dg  # the dashboard asks for `made_from` only, and does without

    deps_by_column = {
        column: [dg.TableColumnDep(dg.AssetKey(table), name) for table, name in (dep.split(".") for dep in deps)]
        for column, deps in _stated().get(contract.name, {}).items()
    }
    return dg.TableColumnLineage(deps_by_column) if deps_by_column else None


def cleaned_origins(contract: Contract, column: str) -> list[tuple[str, str]]:
    """The columns of cleaned tables, as (table, column), that one is computed from."""
    deps = (dep.split(".") for dep in _stated().get(contract.name, {}).get(column, ()))
    return [(table, name) for table, name in deps if table.startswith("cleaned_")]


def made_from(table: str, fact: str) -> bool:
    """Whether a table is a fact, or computed from its columns, through whatever other tables."""
    if table == fact:
        return True
    sources = {dep.partition(".")[0] for deps in _stated().get(table, {}).values() for dep in deps}
    return any(made_from(source, fact) for source in sources - {table} if CONTRACTS[source].layer in ("facts", "kpis"))


def lineage_table(lineage: dg.TableColumnLineage) -> str:
    """Lineage as a Markdown table, because Dagster's own UI does not draw it."""
    lines = [
        f"| {name} | {', '.join(f'{d.asset_key.path[-1]}.{d.column_name}' for d in deps)} |"
        for name, deps in lineage.deps_by_column.items()
    ]
    return "| column | computed from |\n|---|---|\n" + "\n".join(lines)


def lineage_text(sources_by_table: Mapping[str, Sources]) -> str:
    """The contents of `lineage.json`."""
    stated = {
        table: {
            column: [".".join(dep) for dep in deps]
            for column in CONTRACTS[table].column_names
            if (deps := sources.get(column))
        }
        for table, sources in sorted(sources_by_table.items())
    }
    return json.dumps(stated, indent=1) + "\n"


@functools.cache
def _stated() -> Mapping[str, Mapping[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = json.loads(LINEAGE_FILE.read_text(encoding="utf-8"))
    return found


def column_sources(sql: str, checkpoints: Mapping[str, str]) -> Sources:
    """Base columns `(table, column)` behind each output column of a DuckDB query.

    Args:
        sql: the query; it may read checkpoints, which are looked through.
        checkpoints: name -> the query that filled it.
    """
    # sqlglot takes 0.2 s to import, and only `hospital docs` needs it.
    from sqlglot import exp
    from sqlglot.lineage import lineage

    behind = {
        name: column_sources(checkpoints[name], checkpoints)
        for name in set(_CHECKPOINT.findall(sql)) & set(checkpoints)
    }
    schema: dict[str, object] = dict(_columns_by_table())
    if behind:
        # sqlglot needs every table at the same depth: temporary ones stand in the schema `main`.
        sql = re.sub(r"\btemp\.main\.(?=checkpoint_)", "main.", sql)
        schema["main"] = {name: dict.fromkeys(known, "") for name, known in behind.items()}
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
            elif table.name in behind:
                found.update(behind[table.name].get(name, ()))
        sources[column] = tuple(sorted(found))
    return sources


@functools.cache
def _columns_by_table() -> Mapping[str, Mapping[str, Mapping[str, str]]]:
    """Layer -> table -> column -> DuckDB type, of all contracts."""
    schema: dict[str, dict[str, dict[str, str]]] = {}
    for contract in CONTRACTS.values():
        schema.setdefault(contract.layer, {})[contract.name] = {
            column.name: column.duckdb_type for column in contract.columns
        }
    return schema
