"""Counts of few patients: left out together with others that would give them away, or rounded.

A count from 1 to 10 in a published table can tell who it is about (CMS cell size policy). Leaving out
that count alone is not enough: total minus the others is the count. So others are left out with it,
until no sum determines any of them (complementary suppression). Where the same visits are counted in many
tables, by day and in all, no leaving out would do; there all counts are rounded, each up or down by lot
with the same expectation, and everything computed from them is computed anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

import duckdb
import polars as pl

from hospital_assets.contracts import CONTRACTS, Column, Contract
from hospital_assets.contracts.kpis import ALL
from hospital_assets.publishing.audience import PublishedTable
from hospital_assets.publishing.policy import Policy, Rounded, SmallCells, Suppressed
from hospital_assets.publishing.shown_limits import recompute_limits
from hospital_assets.warehouse.dialect import literal, quoted

#: Larger systems of connected cells are checked by their sums alone, not solved as a whole.
_MOST_SOLVED_CELLS = 3_000

#: Columns of keys that name when, where and which patients. The others (which limit, which stage, which variant)
#: name what is asked of the same patients, whose number is the same.
_WHOM = ("service_date", "period_month", "period_year", "hospital_id", "doctor_key", "stratum", "hours_since_arrival")
#: Columns of keys that take those patients apart, in the order in which their counts are rounded: a table that has
#: only the first of these of another shows the same numbers.
_SPLITS = (
    "triage_group",
    "department_name",
    "destination_department",
    "arrival_mode",
    "disposition",
    "news2_band",
    "stay_class",
    "period_date",
    "hour_of_day",
)
#: Lots are drawn from this many.
_LOTS = 2**32
#: The temporary table of rates by metric, hospital and day, from the protected tables.
_RATES = "rates"
_KEY_OF_RATES = ("metric", "hospital_id", "period_date")
_COUNTS_OF_RATES = ("numerator_count", "denominator_count", "population_count", "excluded_count")

Cell = tuple[Any, ...]


@dataclass
class Line:
    """Cells that add up to a total, which is in a cell, or (None) known from elsewhere."""

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


@dataclass(frozen=True)
class Protected:
    """Protected copies of tables: temporary tables of the connection that made them.

    Attributes:
        rules: by which they are protected.
        done: what was done to each table, for the manifest.
    """

    rules: SmallCells
    done: Mapping[str, Mapping[str, int]]

    def tables(self, tables: Iterable[PublishedTable]) -> list[PublishedTable]:
        """The same tables, read from their copies where they have one."""

        def copy(table: PublishedTable) -> PublishedTable:
            name = table.contract.name
            dropped = (self.rules.suppress.get(name) or self.rules.rounded[name]).drop
            columns = tuple((column, mask) for column, mask in table.columns if column.name not in dropped)
            return replace(table, source=f"temp.protected_{name}", columns=columns)

        return [copy(table) if table.contract.name in self.done else table for table in tables]

    def manifest(self, tables: Iterable[PublishedTable]) -> dict[str, Any]:
        """What was done to these tables."""
        names = [table.contract.name for table in tables]
        done = {name: self.done[name] for name in names if name in self.done}
        return {"threshold": self.rules.threshold, "base": self.rules.base, "tables": done}


def protect_small_cells(
    connection: duckdb.DuckDBPyConnection, policy: Policy, tables: Sequence[PublishedTable], secret: bytes, until: date
) -> Protected:
    """Make protected copies of tables.

    Args:
        secret: decides what is rounded up and what down, the same way in every version, so that
            publishing often tells nothing more.
        until: the last day that is over.
    """
    rules = policy.small_cells
    hidden = _hidden_rows(connection, rules, {t.contract.name for t in tables}) | {
        t.contract.name: _rows_of_few_visits(connection, t, rules.rounded[t.contract.name], rules.threshold)
        for t in tables
        if t.contract.name in rules.rounded and rules.rounded[t.contract.name].visits
    }
    done: dict[str, Mapping[str, int]] = {}
    there: dict[str, Sequence[str]] = {}
    # What is the sum of other tables' rows comes after them.
    for table in sorted(tables, key=lambda t: _depth(rules, t)):
        name = table.contract.name
        left_out = {"suppressed_rows": len(hidden[name])} if name in hidden else {}
        if name in rules.suppress:
            _suppress_table(connection, table, rules, hidden[name], secret)
            done[name] = left_out
        elif name in rules.rounded:
            if rules.rounded[name].sum_of == _RATES and _make_rates(connection, rules, there):
                there[_RATES] = _COUNTS_OF_RATES
            _round_table(connection, table, rules, hidden.get(name, set()), secret, there, until)
            there[name] = [column.name for column in _stored_columns(table)]
            done[name] = {"rounded_to": rules.base, **left_out}
    return Protected(rules, done)


def _depth(rules: SmallCells, table: PublishedTable) -> int:
    how = rules.rounded.get(table.contract.name)
    return 0 if how is None or not how.sum_of else 2 if how.sum_of == _RATES else 1


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
    connection: duckdb.DuckDBPyConnection, table: PublishedTable, rules: SmallCells, hidden: set[Cell], secret: bytes
) -> None:
    """A copy of the table in which the hidden rows have keys only, and the others rounded counts.

    Two versions of an exact count showed those who came between them.
    """
    contract, how = table.contract, rules.suppress[table.contract.name]

    def shown(count: str) -> str:
        return f"(({count})::bigint * {_LOTS} + lot) // {rules.base * _LOTS} * {rules.base}"

    expressions = []
    for column in _stored_columns(table):
        name = made = quoted(column.name)
        if column.name in how.shares:
            count = quoted(how.shares[column.name])
            whole = shown(f"round(100 * {count} / {name})")
            made = f"case when {name} = 0 then 0 when {name} > 0 then 100.0 * {shown(count)} / nullif({whole}, 0) end"
        elif column.name.endswith("_count"):
            made = shown(name)
            if column.name not in how.counts:
                # A total of the hospital that is small itself.
                made = f"case when {name} not between 1 and {rules.threshold - 1} then {made} end"
        if column.name in (*how.counts, *how.shares):
            made = f"case when is_hidden is null then {made} end"
        expressions.append(f"({made})::{column.duckdb_type} as {name}")
    connection.execute(
        f"create or replace temp table {quoted(f'protected_{contract.name}')} as "
        f"select {', '.join(expressions)} from (select *, {_lot(contract, rules.base)} as lot "
        f"from {contract.qualified_name} {_with_hidden(connection, contract, hidden)})",
        {"secret": secret},
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
    hidden: set[Cell],
    secret: bytes,
    there: Mapping[str, Sequence[str]],
    until: date,
) -> None:
    """A copy of the table with rounded counts and what follows from them; in hidden rows the keys only.

    The finest rows are rounded (or are sums of what another table shows); every total is the sum of what is shown.
    So what is shown could be the truth, and so could what differs from it in one count by less than the base, with
    all totals: no sum of anything tells a count better than its own rounding.
    """
    contract, how = table.contract, rules.rounded[table.contract.name]
    counts = [c.name for c in _stored_columns(table) if c.name.endswith("_count") and c.name not in how.except_counts]
    axes = _axes(connection, table)
    key = ", ".join(map(quoted, contract.key))
    plain = ", ".join(quoted(column) for column in contract.key if column not in axes)
    source = _source_of(contract, how, counts, there, until)
    summed = [count for count in counts if count != how.visits]
    shown = "".join(
        f", {_rounded(count, contract, rules.base, source)} as {quoted(f'shown {count}')}" for count in counts
    )
    steps = [
        f"marked as (select *, {_is_finest(axes)} as is_finest from {contract.qualified_name} "
        f"{_with_hidden(connection, contract, hidden)})",
        f"drawn as (select *, {_draw(contract, counts, rules.base)} as draw from marked)",
        f"rounded as (select *{shown} from drawn"
        + (f" left join ({source.query}) using ({', '.join(map(quoted, source.by))})" if source else "")
        + ")",
    ]
    joined = "rounded"
    if axes and summed:
        named = ", ".join(f"coalesce({quoted(axis)}, {literal(ALL)}) as {quoted(axis)}" for axis in axes)
        totals = ", ".join(f"sum({quoted('shown ' + c)}) as {quoted('total ' + c)}" for c in summed)
        groups = ", ".join(filter(None, [plain, f"cube({', '.join(map(quoted, axes))})"]))
        steps.append(
            f"totals as (select {', '.join(filter(None, [plain, named]))}, {totals} "
            f"from rounded where is_finest group by {groups})"
        )
        joined = f"rounded left join totals using ({key})"
        replaced = ", ".join(
            f"case when {quoted(c)} is not null then coalesce({quoted('total ' + c)}, {quoted('shown ' + c)}) end "
            f"as {quoted('shown ' + c)}"
            for c in summed
        )
        steps.append(f"final as (select * replace ({replaced}) from {joined})")
        joined = "final"
    only = f" where hospital_id = {literal(ALL)}" if how.only_totals else ""
    connection.execute(
        f"create or replace temp table {quoted(f'protected_{contract.name}')} as with {', '.join(steps)} "
        f"select {', '.join(_made(table, rules, counts, source))} from {joined}{only}",
        {"secret": secret},
    )
    if how.limits:
        recompute_limits(connection, contract.name, how.limits, rules.base, _rounded_units(connection, there))


def _made(table: PublishedTable, rules: SmallCells, counts: Sequence[str], source: _Source | None) -> Iterator[str]:
    """The columns of a rounded table, from its own and those that are called `shown ...`."""
    how = rules.rounded[table.contract.name]

    def shown(count: str) -> str:
        if count in counts:
            return quoted(f"shown {count}")
        return source.columns.get(count, "null") if source else "null"

    def is_enough(count: str) -> str:
        # Also as it is shown, or the figure beside it would tell that there are more.
        both = [quoted(count), shown(count)] if count in counts else [shown(count)]
        return " and ".join(f"{n} >= {rules.threshold}" for n in both)

    enough = is_enough(how.n) if how.n else "true"
    for column in _stored_columns(table):
        name, kind = quoted(column.name), column.duckdb_type
        if column.name in how.sums:
            made = f"case when {enough} then round({name} / {quoted(how.n)}, {how.decimals}) * {shown(how.n)} end"
        elif column.name in how.pooled:
            part, whole = how.pooled[column.name]
            over = ", ".join(quoted(c) for c in table.contract.key if c != "hospital_id")
            made = (
                f"case when {enough} and {name} is not null then 100.0 * sum({shown(part)}) over (partition by {over}) "
                f"/ sum({shown(whole)}) over (partition by {over}) end"
            )
        elif column.name in how.shares:
            part, whole = how.shares[column.name]
            made = (
                f"case when {is_enough(whole)} and {name} is not null then 100.0 * {shown(part)} / {shown(whole)} end"
            )
            if column.name in how.averages:
                # An average has an n, but nothing that it is a share of.
                is_average = f"{is_enough(whole)} and {shown(part)} is null"
                made = f"case when {is_average} then round({name}, {how.decimals}) else {made} end"
        elif column.name in how.ratios:
            part, hours = how.ratios[column.name]
            made = f"case when {enough} and {name} is not null then {shown(part)} / {quoted(hours)} end"
        elif column.name in how.averages:
            made = f"case when {enough} then round({name}, {how.decimals}) end"
        else:
            made = shown(column.name) if column.name in counts else name
        if column.name not in table.contract.key:
            made = f"case when is_hidden is null then {made} end"
        yield f"({made})::{kind} as {name}"


def _axes(connection: duckdb.DuckDBPyConnection, table: PublishedTable) -> list[str]:
    """Columns of the key along which a table has parts, and may have totals of them."""
    contract = table.contract
    names = [
        column
        for column in ("hospital_id", *_SPLITS)
        if column in contract.key and contract.column(column).duckdb_type == "VARCHAR"
    ]
    if not names:
        return []
    parts = ", ".join(f"coalesce(bool_or({quoted(name)} <> {literal(ALL)}), false)" for name in names)
    (found,) = connection.execute(f"select {parts} from {contract.qualified_name}").fetchall()
    return [name for name, has_parts in zip(names, found, strict=True) if has_parts]


def _is_finest(axes: Sequence[str]) -> str:
    return " and ".join(f"{quoted(axis)} <> {literal(ALL)}" for axis in axes) or "true"


def _draw(contract: Contract, counts: Sequence[str], base: int) -> str:
    """The lot by which a row's counts are rounded up or down, from 0 to below `base` times `_LOTS`.

    It is drawn for when and where a row is about, so that a number that stands in several tables is rounded the same
    way in all of them, in every version: nobody can average the rounding away. Rows that take the same patients
    apart begin where the row before them ended, so that their sum is rounded like their total; all counts of a row
    keep their order: no part exceeds its whole.
    """
    apart = [column for column in _SPLITS if column in contract.key]
    if not apart or not counts:
        return _lot(contract, base)
    same = ", ".join(quoted(column) for column in contract.key if column not in apart)
    before = (
        f"coalesce(sum({quoted(counts[0])}) filter (is_finest) over (partition by {same} "
        f"order by {', '.join(map(quoted, apart))} rows between unbounded preceding and 1 preceding), 0)"
    )
    lot = _lot(contract, base)
    return f"case when is_finest then ({lot} + {before} * {_LOTS}) % {base * _LOTS} else {lot} end::bigint"


def _lot(contract: Contract, base: int) -> str:
    whom = " || ".join(
        f"{literal(f'|{column}=')} || {quoted(column)}::varchar" for column in _WHOM if column in contract.key
    )
    return f"('0x' || left(sha256($secret || encode({whom or literal('')})), 8))::bigint * {base}"


def _rounded(count: str, contract: Contract, base: int, source: _Source | None) -> str:
    """A count of the finest rows as it is shown: what another table shows of it, or rounded by the row's draw.

    Counts that add up to another one begin where the one before them ended, too.
    """
    scale = f" * ({source.rest_shown}) // nullif({source.rest}, 0)" if source and source.rest else ""
    taken = source.columns if source else {}
    before = "0"
    for parts in contract.adds_up.values():
        if count in parts:
            before = " + ".join(
                ["0", *(f"coalesce({quoted(part)}, 0)" for part in parts[: parts.index(count)] if part not in taken)]
            )

    def up_to(number: str) -> str:
        return (
            f"(draw + coalesce(({number}) * {_LOTS}::{'hugeint' if scale else 'bigint'}{scale}, 0)) // {base * _LOTS}"
        )

    made = f"({up_to(f'{before} + {quoted(count)}')} - {up_to(before)}) * {base}"
    if count in taken:
        made = f"coalesce({taken[count]}, {made})"
    return f"case when {quoted(count)} is not null then {made} end"


@dataclass(frozen=True)
class _Source:
    """What another table shows of the same patients, summed up to the rows of a table.

    Attributes:
        by: the columns of the key to join by.
        columns: count -> its column in the query.
        rest: what is left of the population without the parts in the query, and is the whole of the other counts;
            empty where all are in the query.
        rest_shown: the same as it is shown.
    """

    query: str
    by: list[str]
    columns: dict[str, str]
    rest: str = ""
    rest_shown: str = ""


def _source_of(
    contract: Contract, how: Rounded, counts: Sequence[str], there: Mapping[str, Sequence[str]], until: date
) -> _Source | None:
    """Where a table's counts are shown in parts; None where that table is not published."""
    if how.sum_of not in there:
        return None
    key = _KEY_OF_RATES if how.sum_of == _RATES else CONTRACTS[how.sum_of].key
    periods = {"period_month": "date_trunc('month', service_date)::date", "iso_weekday_number": "isodow(service_date)"}
    by = {column: periods.get(column, quoted(column)) for column in contract.key if column in {*key, *periods}}
    wanted = dict.fromkeys([*counts, *(count for share in how.shares.values() for count in share)])
    over = f"where service_date <= {literal(until.isoformat())}" if how.whole_days else ""
    names = how.renamed or {count: count for count in wanted if count in there[how.sum_of]}
    query = (
        f"select {', '.join(f'{made} as {quoted(column)}' for column, made in by.items())}, "
        + ", ".join(f"sum({quoted(name)}) as {quoted(f'taken {count}')}" for count, name in names.items())
        + f" from (from temp.protected_{how.sum_of} {over}) {_where_total(key, by)} group by all"
    )
    columns = {count: quoted(f"taken {count}") for count in names}
    if not how.renamed:
        return _Source(query, list(by), columns)
    rest = " - ".join(f"coalesce({quoted(count)}, 0)" for count in names)
    return _Source(query, list(by), columns, f"({rest})", " - ".join(f"coalesce({c}, 0)" for c in columns.values()))


def _make_rates(connection: duckdb.DuckDBPyConnection, rules: SmallCells, there: Collection[str]) -> bool:
    """The rates of the metrics by hospital and day, as their tables show them; False where there are none."""
    parts = [
        f"select {literal(metric)} as metric, hospital_id, {quoted(day)} as period_date, "
        + (
            f"null as numerator_count, sum({quoted(n[0])}) as denominator_count, null as population_count, "
            "null as excluded_count "
            if n
            else ", ".join(f"sum({count}) as {count}" for count in _COUNTS_OF_RATES[:3])
            + ", sum(population_count) - sum(denominator_count) as excluded_count "
        )
        + ", count(*) as rounded_count "
        + f"from temp.protected_{name}{_where_total(CONTRACTS[name].key, ())} group by all"
        for metric, (name, day, *n) in rules.metrics.items()
        if name in there
    ]
    if parts:
        connection.execute(f"create or replace temp table protected_{_RATES} as {' union all '.join(parts)}")
    return bool(parts)


def _rounded_units(connection: duckdb.DuckDBPyConnection, there: Collection[str]) -> pl.DataFrame:
    """Of how many rounded counts a hospital's of the whole period is the sum, by metric; empty without rates."""
    found = pl.DataFrame(schema={"metric": pl.String, "hospital_id": pl.String, "rounded_count": pl.Int64})
    if _RATES in there:
        counted = "sum(rounded_count)::bigint as rounded_count"
        found = connection.sql(f"select metric, hospital_id, {counted} from temp.protected_{_RATES} group by all").pl()
    return found


def _where_total(key: Sequence[str], apart: Collection[str]) -> str:
    """The rows of a table that are not taken apart but by some columns."""
    whole = [
        f"{quoted(column)} = {literal(ALL)}"
        for column in _SPLITS
        if column in key and column not in apart and column not in ("period_date", "hour_of_day")
    ]
    return f" where {' and '.join(whole)}" if whole else ""
