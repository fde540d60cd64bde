"""Counts of few patients: left out together with others that would give them away, or rounded.

A count from 1 to 10 in a published table can tell who it is about (CMS cell size policy). Leaving out
that count alone is not enough: total minus the others is the count. So others are left out with it,
until no sum determines any of them (complementary suppression). Where the same visits are counted in many
tables, by day and in all, no leaving out would do; there all counts are rounded, each up or down by lot
with the same expectation, and everything computed from them is computed anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import duckdb
import polars as pl

from hospital_assets.contracts import CONTRACTS, Column, Contract
from hospital_assets.contracts.kpis import ALL
from hospital_assets.publishing.audience import PublishedTable
from hospital_assets.publishing.policy import Policy, Rounded, SmallCells, Suppressed
from hospital_assets.warehouse.dialect import literal, quoted

#: Larger systems of connected cells are checked by their sums alone, not solved as a whole.
_MOST_SOLVED_CELLS = 3_000

#: Columns of keys that name when, where and which patients. The others (which limit, which stage, which variant)
#: name what is asked of the same patients, whose number is the same.
_WHOM = (
    "service_date",
    "period_month",
    "period_year",
    "hospital_id",
    "department_name",
    "destination_department",
    "doctor_key",
    "triage_group",
    "arrival_mode",
    "disposition",
    "stratum",
    "stay_class",
    "hours_since_arrival",
    "news2_band",
)

Cell = tuple[Any, ...]


@dataclass
class Line:
    """Cells that add up to a total.

    Attributes:
        parts: what is added up.
        total: the cell that holds the total; None where the total is known from elsewhere.
    """

    parts: list[Cell] = field(default_factory=list)
    total: Cell | None = None

    def cells(self) -> list[Cell]:
        """All of them, the total last."""
        return self.parts if self.total is None else [*self.parts, self.total]


def suppress(values: Mapping[Cell, Sequence[int]], lines: Sequence[Line], threshold: int) -> set[Cell]:
    """Which cells to leave out so that no small one can be found by adding and subtracting.

    Args:
        values: each cell's counts; a cell is small when any of them is from 1 to below the threshold.
        lines: everything that adds up. Cells of 0 stay: they are nobody.
        threshold: counts below it are small.

    Returns:
        The small cells, and others chosen for their smallness.
    """
    hidden = {c for c, counts in values.items() if any(0 < n < threshold for n in counts)}
    lines_of: dict[Cell, list[int]] = defaultdict(list)
    for number, line in enumerate(lines):
        for cell in line.cells():
            lines_of[cell].append(number)

    def hide_one_more(line: Line) -> Cell | None:
        """The smallest part that is still shown; the total when there is no other."""
        shown = [c for c in line.parts if c not in hidden and any(values[c])]
        if shown:
            return min(shown, key=lambda c: (values[c], str(c)))
        return line.total if line.total is not None and line.total not in hidden else None

    def protect(waiting: list[int]) -> None:
        while waiting:
            line = lines[waiting.pop()]
            if not _gives_away(line, values, hidden, threshold):
                continue
            more = hide_one_more(line)
            if more is not None:
                hidden.add(more)
                waiting.extend(lines_of[more])

    # Sums of sums can determine a cell that no single sum does.
    small = frozenset(hidden)
    protect(list(range(len(lines))))
    while found := determined(hidden, lines) & small:
        more = _neighbour(found, values, lines, lines_of, hidden)
        if more is None:
            break
        hidden.add(more)
        protect(list(lines_of[more]))
    return hidden


def _neighbour(
    cells: Iterable[Cell],
    values: Mapping[Cell, Sequence[int]],
    lines: Sequence[Line],
    lines_of: Mapping[Cell, Sequence[int]],
    hidden: set[Cell],
) -> Cell | None:
    """The smallest cell still shown in a sum with one of some cells, or next to such a sum."""
    reached = set(cells)
    while True:
        near = {c for cell in reached for n in lines_of[cell] for c in lines[n].cells()}
        shown = [c for c in near if c not in hidden and any(values[c])]
        if shown:
            return min(shown, key=lambda c: (values[c], str(c)))
        if near <= reached:
            return None
        reached |= near


def _gives_away(line: Line, values: Mapping[Cell, Sequence[int]], hidden: set[Cell], threshold: int) -> bool:
    """Whether a line alone tells one of its hidden parts."""
    parts = [c for c in line.parts if c in hidden]
    if not parts or (line.total is not None and line.total in hidden):
        return False
    if len(parts) == 1:
        return True
    # Everybody knows that a small cell is at least 1 and below the threshold: at either end of what
    # their sum can be, every one of them is known.
    for counts in zip(*(values[c] for c in parts), strict=True):
        if sum(counts) in (len(counts), (threshold - 1) * len(counts)):
            return True
    return False


def determined(hidden: Iterable[Cell], lines: Sequence[Line]) -> set[Cell]:
    """Hidden cells that follow from all sums together: what an attacker with a solver finds.

    A cell follows when no solution of the sums can change it: when it is zero in the whole null space
    of the equations over the hidden cells.
    """
    import numpy as np

    found: set[Cell] = set()
    for cells, equations in _components(set(hidden), lines):
        if len(cells) > _MOST_SOLVED_CELLS:
            continue
        place = {cell: number for number, cell in enumerate(cells)}
        matrix = np.zeros((len(equations), len(cells)))
        for row, equation in enumerate(equations):
            for cell, factor in equation.items():
                matrix[row, place[cell]] = factor
        _, singular, vectors = np.linalg.svd(matrix, full_matrices=True)
        rank = int((singular > 1e-9 * max(matrix.shape)).sum())
        free = np.abs(vectors[rank:]).max(axis=0) if rank < len(cells) else np.zeros(len(cells))
        found |= {cell for cell in cells if free[place[cell]] < 1e-7}
    return found


def _components(hidden: set[Cell], lines: Sequence[Line]) -> Iterator[tuple[list[Cell], list[dict[Cell, int]]]]:
    """Hidden cells that hang together, with the equations over them."""
    equations = []
    for line in lines:
        equation = {cell: 1 for cell in line.parts if cell in hidden}
        if line.total is not None and line.total in hidden:
            equation[line.total] = -1
        if equation:
            equations.append(equation)
    parent = {cell: cell for cell in hidden}

    def root(cell: Cell) -> Cell:
        while parent[cell] != cell:
            parent[cell] = parent[parent[cell]]
            cell = parent[cell]
        return cell

    for equation in equations:
        first, *others = equation
        for cell in others:
            parent[root(cell)] = root(first)
    cells: dict[Cell, list[Cell]] = defaultdict(list)
    for cell in sorted(hidden, key=str):
        cells[root(cell)].append(cell)
    of_root: dict[Cell, list[dict[Cell, int]]] = defaultdict(list)
    for equation in equations:
        of_root[root(next(iter(equation)))].append(equation)
    for top, members in cells.items():
        yield members, of_root.get(top, [])


def protect_small_cells(
    connection: duckdb.DuckDBPyConnection, policy: Policy, tables: Sequence[PublishedTable], secret: bytes
) -> tuple[list[PublishedTable], dict[str, Any]]:
    """Let protected tables be read from protected copies (temporary tables).

    Args:
        connection: the warehouse's.
        policy: what is done to which table.
        tables: what is to be published.
        secret: decides what is rounded up and what down, the same way in every version, so that
            publishing often tells nothing more.

    Returns:
        The tables, and what was done for the manifest.
    """
    rules = policy.small_cells
    hidden = _hidden_rows(connection, rules, {t.contract.name for t in tables}) | {
        t.contract.name: _rows_of_few_visits(connection, t, rules.rounded[t.contract.name], rules.threshold)
        for t in tables
        if t.contract.name in rules.rounded and rules.rounded[t.contract.name].visits
    }
    done: dict[str, Any] = {"threshold": rules.threshold, "base": rules.base, "tables": {}}
    found = []
    for table in tables:
        name = table.contract.name
        if name in rules.suppress:
            how = rules.suppress[name]
            _suppress_table(connection, table, how, hidden[name], rules.threshold)
            done["tables"][name] = {"suppressed_rows": len(hidden[name])}
            dropped: tuple[str, ...] = how.drop
        elif name in rules.rounded:
            _round_table(connection, table, rules, rules.rounded[name], hidden.get(name, set()), secret)
            done["tables"][name] = {"rounded_to": rules.base}
            if name in hidden:
                done["tables"][name]["suppressed_rows"] = len(hidden[name])
            dropped = rules.rounded[name].drop
        else:
            found.append(table)
            continue
        found.append(
            replace(
                table,
                source=f"temp.protected_{name}",
                columns=tuple((c, mask) for c, mask in table.columns if c.name not in dropped),
            )
        )
    return found, done


def _hidden_rows(connection: duckdb.DuckDBPyConnection, rules: SmallCells, wanted: set[str]) -> dict[str, set[Cell]]:
    """Rows to be left out of each table, by their key."""
    values: dict[Cell, Sequence[int]] = {}
    lines: list[Line] = []
    names = [name for name in rules.suppress if name in wanted]
    for name in names:
        how, contract = rules.suppress[name], CONTRACTS[name]
        rows = connection.execute(
            f"select {', '.join(quoted(c) for c in (*contract.key, *how.counts))} from {contract.qualified_name}"
        ).fetchall()
        width = len(contract.key)
        table = {(name, *row[:width]): tuple(n or 0 for n in row[width:]) for row in rows}
        values |= table
        lines += _lines_of_table(contract, how.parts, table)
        if how.group and how.group_table in names:
            lines += _lines_of_groups(connection, contract, how)
    # Groups may have been named before their table was read.
    lines = [
        Line([c for c in line.parts if c in values], line.total if line.total in values else None) for line in lines
    ]
    hidden: dict[str, set[Cell]] = {name: set() for name in names}
    for cell in suppress(values, lines, rules.threshold):
        hidden[cell[0]].add(cell[1:])
    return hidden


def _rows_of_few_visits(
    connection: duckdb.DuckDBPyConnection, table: PublishedTable, how: Rounded, threshold: int
) -> set[Cell]:
    """Rows of a rounded table to be left out: all of them while their visits are not stored yet."""
    contract = table.contract
    added = {column for part in how.parts for column in part}
    apart = [at for at, column in enumerate(contract.key) if column not in added]
    visits_of_row = "0" if how.visits in table.absent else quoted(how.visits)
    rows = connection.execute(
        f"select {', '.join(map(quoted, contract.key))}, {visits_of_row} from {contract.qualified_name}"
    ).fetchall()
    # Only rows with the same values outside the `parts` add up.
    groups: dict[tuple[Any, ...], dict[Cell, tuple[int]]] = defaultdict(dict)
    for *key, visits in rows:
        # A row without visits has counts of what was left out, of few visits as well.
        groups[tuple(key[at] for at in apart)][contract.name, *key] = (max(visits, 1),)
    return {
        cell[1:]
        for values in groups.values()
        for cell in suppress(values, _lines_of_table(contract, how.parts, values), threshold)
    }


def _lines_of_table(contract: Contract, parts: Sequence[Sequence[str]], cells: Iterable[Cell]) -> list[Line]:
    """For each way its counts add up: the cells that differ in those columns only."""
    found: dict[tuple[Any, ...], Line] = defaultdict(Line)
    for cell in cells:
        for part in parts:
            places = [contract.key.index(column) + 1 for column in part]
            others = tuple(v for at, v in enumerate(cell) if at not in places)
            line = found[part, others]
            if [cell[at] for at in places] == [ALL]:
                line.total = cell
            else:
                line.parts.append(cell)
    return list(found.values())


def _lines_of_groups(connection: duckdb.DuckDBPyConnection, contract: Contract, how: Suppressed) -> list[Line]:
    """Codes add up to their group, whose count is in another table."""
    rows = connection.execute(
        f"select distinct k.hospital_id, k.icd_version, k.icd_code, d.{quoted(how.group)} "
        f"from {contract.qualified_name} k "
        "left join dimensions.dim_condition d using (icd_version, icd_code)"
    ).fetchall()
    found: dict[tuple[Any, ...], Line] = defaultdict(Line)
    for hospital, version, code, group in rows:
        total = (how.group_table, hospital, group or code)
        line = found[total]
        line.total = total
        line.parts.append((contract.name, hospital, version, code))
    return list(found.values())


def _stored_columns(table: PublishedTable) -> list[Column]:
    return [column for column in table.contract.columns if column.name not in table.absent]


def _suppress_table(
    connection: duckdb.DuckDBPyConnection, table: PublishedTable, how: Suppressed, hidden: set[Cell], threshold: int
) -> None:
    """A copy of the table in which the hidden rows have keys only."""
    contract = table.contract
    expressions = []
    for column in _stored_columns(table):
        name = f"s.{quoted(column.name)}"
        if column.name in (*how.counts, *how.shares):
            name = f"case when h.is_hidden is null then {name} end as {quoted(column.name)}"
        elif column.name.endswith("_count"):
            # A total of the hospital that is small itself.
            name = f"case when {name} not between 1 and {threshold - 1} then {name} end as {quoted(column.name)}"
        expressions.append(name)
    connection.execute(
        f"create or replace temp table {quoted(f'protected_{contract.name}')} as "
        f"select {', '.join(expressions)} from {contract.qualified_name} s {_with_hidden(connection, contract, hidden)}"
    )


def _with_hidden(connection: duckdb.DuckDBPyConnection, contract: Contract, hidden: set[Cell]) -> str:
    """A join that marks the hidden rows of a table: `h.is_hidden` is null in the others."""
    key = ", ".join(quoted(column) for column in contract.key)
    schema = {column: contract.column(column).dtype for column in contract.key}
    rows = connection.from_arrow(pl.DataFrame(list(hidden), schema=schema, orient="row").to_arrow())
    connection.execute("create or replace temp table hidden_rows as from rows")
    del rows
    return f"left join (select *, true as is_hidden from hidden_rows) h using ({key})"


def _round_table(
    connection: duckdb.DuckDBPyConnection,
    table: PublishedTable,
    rules: SmallCells,
    how: Rounded,
    hidden: set[Cell],
    secret: bytes,
) -> None:
    """A copy of the table with rounded counts and what follows from them; in hidden rows the keys only."""
    contract = table.contract

    def rounded(column: str) -> str:
        return f"(floor({quoted(column)} / {rules.base}.0 + draw) * {rules.base})"

    enough = f"{quoted(how.n)} >= {rules.threshold}" if how.n else "true"
    expressions = []
    for column in _stored_columns(table):
        name, kind = quoted(column.name), column.duckdb_type
        if column.name in how.averages:
            made = f"case when {enough} then round({name}, {how.decimals}) end"
        elif column.name in how.sums:
            average = f"round({name} / {quoted(how.n)}, {how.decimals})"
            made = f"case when {enough} then {average} * {rounded(how.n)} end"
        elif column.name in how.shares:
            part, whole = how.shares[column.name]
            made = (
                f"case when {quoted(whole)} >= {rules.threshold} and {name} is not null "
                f"then 100.0 * {rounded(part)} / {rounded(whole)} end"
            )
        elif column.name.endswith("_count") and column.name not in how.except_counts:
            made = rounded(column.name)
        else:
            made = name
        if column.name not in contract.key:
            made = f"case when is_hidden is null then {made} end"
        expressions.append(f"({made})::{kind} as {name}")
    only = f" where hospital_id = {literal(ALL)}" if how.only_totals else ""
    connection.execute(
        f"create or replace temp table {quoted(f'protected_{contract.name}')} as "
        f"select {', '.join(expressions)} from (select *, {_draw(table)} as draw "
        f"from {contract.qualified_name} {_with_hidden(connection, contract, hidden)}){only}",
        {"secret": secret},
    )


def _draw(table: PublishedTable) -> str:
    """The lot, from 0 to below 1, by which a row's counts are rounded up or down.

    It depends on whom the row is about (when, where, which group of patients) and on nothing else: a number that
    stands in several tables, or in several rows by measure, is rounded the same way in all of them, so that nobody
    can average the rounding away. And all counts of the same patients keep their order: no part exceeds its whole.
    What is the only part of its whole (the one hospital, the one department that had patients that day) is the same
    number as the whole and is rounded with it: its own column does not count.
    """
    key = table.contract.key
    counts = [quoted(c.name) for c in _stored_columns(table) if c.name.endswith("_count")]
    is_somebody = f"greatest({', '.join(f'coalesce({count}, 0)' for count in counts)}, 0) > 0" if counts else "true"

    def only_part(column: str) -> str:
        others = ", ".join(quoted(other) for other in key if other != column) or "1"
        part = f"case when {quoted(column)}::varchar <> {literal(ALL)} and {is_somebody} then {quoted(column)} end"
        whole = f"bool_or({quoted(column)}::varchar = {literal(ALL)})"
        over = f"over (partition by {others})"
        return f"({whole} {over} and min({part}) {over} is not distinct from max({part}) {over} and {is_somebody})"

    whom = " || ".join(
        f"case when {quoted(column)}::varchar <> {literal(ALL)} and not {only_part(column)} "
        f"then {literal(f'|{column}=')} || {quoted(column)}::varchar else '' end"
        for column in _WHOM
        if column in key
    )
    return f"('0x' || left(sha256($secret || encode({whom})), 8))::bigint / 4294967296.0"
