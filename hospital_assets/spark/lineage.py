"""Column lineage of what Spark makes, read off its plan.

Imported by those who have a Spark frame only. The analysed plan names every column by a number and says
what it is computed from; the lake calls each of its tables by name in it (`DataFrame.alias`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pyspark.sql import DataFrame

from hospital_assets.contracts import CONTRACTS
from hospital_assets.warehouse.lineage import Sources

_Base = frozenset[tuple[str, str]]


class _Column(NamedTuple):
    """A column of a step: Spark's number for it, its name, and the base columns behind it."""

    number: int
    name: str
    sources: _Base


def column_sources(frame: DataFrame) -> Sources:
    """Base columns `(table, column)` behind each column of a frame; nothing is computed for it."""
    plan = frame._jdf.queryExecution().analyzed().toJSON()
    columns, _ = _columns(json.loads(plan), 0)
    return {column.name: tuple(sorted(column.sources)) for column in columns}


def _columns(steps: Sequence[dict[str, Any]], place: int) -> tuple[list[_Column], int]:
    """The columns of the step at a place, and the place behind all that stands below it."""
    step = steps[place]
    kind = step["class"].rpartition(".")[2]
    place += 1
    below: list[list[_Column]] = []
    for _ in range(step["num-children"]):
        found, place = _columns(steps, place)
        below.append(found)
    return _columns_of(kind, step, below), place


def _columns_of(kind: str, step: dict[str, Any], below: list[list[_Column]]) -> list[_Column]:
    if not below:
        return [_Column(_number(a), a["name"], frozenset()) for (a,) in step["output"]]
    given = [column for columns in below for column in columns]
    if kind == "SubqueryAlias" and (table := step["identifier"]["name"]) in CONTRACTS:
        return [c._replace(sources=frozenset({(table, c.name)})) for c in given]
    if kind == "Project":
        return _computed(step["projectList"], given)
    if kind == "Aggregate":
        return _computed(step["aggregateExpressions"], given)
    if kind == "Window":
        return given + _computed(step["windowExpressions"], given)
    if kind == "Generate":
        sources = _sources(step["generator"], {c.number: c.sources for c in given})
        return given + [_Column(_number(a), a["name"], sources) for (a,) in step["generatorOutput"]]
    if kind == "Union":
        return [
            same[0]._replace(sources=frozenset().union(*(c.sources for c in same))) for same in zip(*below, strict=True)
        ]
    if kind == "Join" and step["joinType"]["object"].endswith(("LeftSemi$", "LeftAnti$")):
        return below[0]
    return given


def _computed(expressions: Sequence[Any], given: Sequence[_Column]) -> list[_Column]:
    """Columns that are named, each either one of those given or computed from some of them."""
    known = {column.number: column.sources for column in given}
    return [_Column(_number(e[0]), e[0]["name"], _sources(e, known)) for e in expressions]


def _sources(expression: Any, known: dict[int, _Base]) -> _Base:
    return frozenset().union(*(known.get(n, frozenset()) for n in set(_references(expression))))


def _references(expression: Any) -> Iterator[int]:
    """Numbers of the columns that an expression reads, wherever they stand in it."""
    if isinstance(expression, list):
        for part in expression:
            yield from _references(part)
    elif isinstance(expression, dict):
        if expression.get("class", "").endswith(".AttributeReference"):
            yield _number(expression)
        else:
            yield from _references(list(expression.values()))


def _number(named: dict[str, Any]) -> int:
    return int(named["exprId"]["id"])
