"""The leak check: every published cell is searched for every identifier the audience may not see.

It does not trust the policy, the masks or the assets. Identifiers are collected from all layers, brought to
letters and digits in lower case, and looked for inside every text of the publication (Aho-Corasick), also
within JSON and longer text; whole numbers are compared as they are. Columns that were masked are held
against what their mask promises. Findings name a table and a column, never a value.

What it cannot tell: identifiers shorter than six characters, dates and ZIP codes collide with ordinary
values, so for those the masks' promises count; and a first or family name alone counts as a whole word
only, and not in vocabulary that may hold anybody's name (`leaks.vocabulary` in the policy).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import duckdb

from hospital_assets.contracts import CONTRACTS
from hospital_assets.governance.masks import holds
from hospital_assets.governance.policy import Policy
from hospital_assets.warehouse.database import Warehouse
from hospital_assets.warehouse.dialect import literal, quoted

if TYPE_CHECKING:
    from hospital_assets.governance.publications import Audience, PublishedTable

#: Shorter identifiers turn up inside ordinary words and numbers.
SHORTEST = 6
_NAMES = ("first_name", "last_name")
_RECORD_NUMBERS = ("observation_id", "diagnosis_id", "procedure_id")
#: What systems write where they know no name.
_NO_NAMES = ("unknown", "anonymous", "unnamed", "noname", "notknown")


@dataclass(frozen=True)
class Finding:
    """Something that should not be there.

    Attributes:
        table: where.
        column: where.
        what: the kind of thing.
        cells: in how many different values.
    """

    table: str
    column: str
    what: str
    cells: int

    def __str__(self) -> str:
        values = "value" if self.cells == 1 else "values"
        return f"{self.table}.{self.column}: {self.what} ({self.cells:,} {values})"


@dataclass(frozen=True)
class LeakReport:
    """What the check did and found.

    Attributes:
        identifiers: how many were looked for.
        texts: different texts that were searched.
        promises: columns that were held against the promise of their mask.
        findings: what should not be there.
    """

    identifiers: int
    texts: int
    promises: int
    findings: tuple[Finding, ...] = field(default=())

    def figures(self) -> dict[str, int]:
        """The figures, for a manifest."""
        return {
            "identifiers": self.identifiers,
            "texts": self.texts,
            "promises": self.promises,
            "findings": len(self.findings),
        }


def check_leaks(
    warehouse: Warehouse,
    policy: Policy,
    audience: Audience,
    tables: Sequence[PublishedTable],
) -> LeakReport:
    """Look through a publication that is attached to the warehouse's connection.

    Args:
        warehouse: whose connection sees the publication, too, and the tables of tokens.
        policy: what was to be done.
        audience: who is to have it.
        tables: what was written.
    """
    connection = warehouse.connection
    promised = [promise for table in tables for promise in _promises(policy, audience, table)]
    findings = _broken(connection, promised)
    if policy.sees_everything(audience.role):
        # Nothing is hidden from this role, so there is nothing to look for.
        return LeakReport(0, 0, len(promised), tuple(findings))
    _collect_identifiers(warehouse)
    ((identifiers,),) = connection.execute("select count(*) from identifiers").fetchall()
    texts = _collect_texts(connection, policy, tables)
    found = [*_search(connection, policy), *_whole_numbers(connection, tables)]
    connection.execute("drop table texts")
    if found and audience.hospital_key is not None:
        own = _own(connection, audience.hospital_key, {needle for _, _, needle in found})
        found = [hit for hit in found if hit[2] not in own]
    places: dict[tuple[str, str], set[str]] = {}
    for place, kind, needle in found:
        places.setdefault((place, kind), set()).add(needle)
    for (place, kind), needles in places.items():
        table, _, column = place.partition(".")
        findings.append(Finding(table, column, _SAYS[kind], len(needles)))
    return LeakReport(identifiers, texts, len(promised), tuple(findings))


@dataclass(frozen=True)
class _Promise:
    """What must hold for every row of a published table."""

    table: PublishedTable
    column: str
    condition: str
    says: str


def _promises(policy: Policy, audience: Audience, table: PublishedTable) -> Iterator[_Promise]:
    """What the masks and the row filter promise of a table."""
    for column, mask in table.columns:
        name = quoted(column.name)
        condition = holds(column, mask, name, policy.maps)
        if condition:
            yield _Promise(table, column.name, condition, f"not what '{mask}' promises")
        if mask.kind == "token":
            tokens = f"select token from temp.tokens_{policy.domain_of[column.name]}"
            yield _Promise(table, column.name, f"{name} in ({tokens})", "values that are no tokens")
        if audience.hospital_key is None:
            continue
        says = "rows of another hospital"
        if column.name == "hospital_key":
            yield _Promise(table, column.name, f"{name} in ({audience.hospital_key}, -1, -2)", says)
        elif column.name == "hospital_id":
            own = literal(audience.hospital_id or "")
            yield _Promise(table, column.name, f"{name} in ({own}, 'all', 'unknown')", says)
        elif column.name == "patient_key":
            seen = f"{name} in (select patient_key from temp.seen_patients) or {name} < 0"
            yield _Promise(table, column.name, seen, "patients of another hospital")


def _broken(connection: duckdb.DuckDBPyConnection, promised: list[_Promise]) -> list[Finding]:
    """Promises that do not hold."""
    if not promised:
        return []
    counts = connection.execute(
        " union all ".join(
            f"select {number} as n, count(*) as c from {promise.table.target} "
            f"where not coalesce({promise.condition}, true)"
            for number, promise in enumerate(promised)
        )
    ).fetchall()
    return [
        Finding(promised[n].table.contract.name, promised[n].column, promised[n].says, count)
        for n, count in counts
        if count
    ]


def normalised(expression: str, between: str = "") -> str:
    """Text as identifiers are compared: letters and digits in lower case, without accents, as SQL.

    Args:
        expression: the text.
        between: what becomes of every other character.
    """
    return (
        rf"regexp_replace(lower(strip_accents({expression})), '[^\p{{L}}\p{{N}}]', "
        f"{literal(between)}, 'g')"
    )


def _identifier_columns() -> Iterator[tuple[str, str]]:
    """Text columns of the layers below the KPIs that hold a direct identifier."""
    for contract in CONTRACTS.values():
        for column in contract.columns:
            if (
                column.privacy == "direct_identifier"
                and column.duckdb_type == "VARCHAR"
                and column.name not in (*_NAMES, "record", "birth_date")
            ):
                yield contract.qualified_name, column.name


def _name_tables() -> Iterator[str]:
    for contract in CONTRACTS.values():
        if set(_NAMES) <= set(contract.column_names) and "patient_id" in contract.column_names:
            yield contract.qualified_name


def _stored(connection: duckdb.DuckDBPyConnection) -> set[str]:
    return {
        f"{schema}.{name}"
        for schema, name in connection.execute(
            "select schema_name, table_name from duckdb_tables()"
        ).fetchall()
    }


def _collect_identifiers(warehouse: Warehouse) -> None:
    """Everything that identifies a patient, in the form in which it is looked for.

    Kept for as long as the warehouse is open and no table is written.
    """
    connection = warehouse.connection
    state = f"identifiers of state {warehouse.writes}"
    if connection.execute(
        "select 1 from duckdb_tables() where table_name = 'identifiers' and comment = ?", [state]
    ).fetchall():
        return
    stored = _stored(connection)
    # What is cleaned or in a fact has landed; where nothing has, they are all there is.
    is_landed = "raw.raw_patients" in stored
    numbers = " union ".join(
        f"select {quoted(column)} as v from {table}"
        for table, column in _identifier_columns()
        if table in stored and not (is_landed and table.startswith(("cleaned.", "facts.")))
    )
    names = " union ".join(
        f"select first_name as f, last_name as l from {table}"
        for table in _name_tables()
        if table in stored
    )
    excluded = ", ".join(literal(name) for name in _NO_NAMES)
    long_enough = f"length(f) > 1 and length(l) > 1 and length(f || l) >= {SHORTEST} + 2"
    connection.execute(
        f"""
        create or replace temp table identifiers as
        with names as (
            select distinct {normalised("f")} as f, {normalised("l")} as l from ({names})
            where coalesce(f, l) is not null
        )
        -- Spellings of one number are looked for one by one: cheaper than to find out that they are one.
        select 'number' as kind, needle from (select {normalised("v")} as needle from ({numbers}))
        where length(needle) >= {SHORTEST} and regexp_matches(needle, '[0-9]')
        union all select 'name', n from (select f as n from names union select l from names)
        where length(n) >= {SHORTEST} and n not in ({excluded})
        union all select 'full name', f || l from names where {long_enough}
        union all select 'full name', l || f from names where {long_enough}
        """
    )
    connection.execute(f"comment on table temp.identifiers is {literal(state)}")


def _own(
    connection: duckdb.DuckDBPyConnection, hospital_key: int, needles: Collection[str]
) -> set[str]:
    """Which of some identifiers belong to patients a hospital has seen."""
    own = " union ".join(
        f"select {column} as v from facts.{table} where hospital_key = $hospital"
        for table, column in (
            ("fact_emergency_visits", "visit_id"),
            ("fact_patient_flow", "stay_id"),
            ("fact_vitals", "visit_id"),
            ("fact_vitals", "observation_id"),
        )
    )
    persons = "dimensions.dim_patient join temp.seen_persons using (patient_durable_key)"
    names = (
        f"select distinct {normalised('first_name')} as f, {normalised('last_name')} as l "
        f"from {persons}"
    )
    rows = connection.execute(
        f"""
        with own as ({own} union select unnest([patient_id, street, phone]) from {persons}),
        names as ({names}),
        permitted as (
            select distinct {normalised("v")} as needle from own
            union select f from names union select l from names
            union select f || l from names union select l || f from names
        )
        select needle from permitted where needle in (select unnest($needles))
        """,
        {"hospital": hospital_key, "needles": list(needles)},
    ).fetchall()
    return {needle for (needle,) in rows}


def _collect_texts(
    connection: duckdb.DuckDBPyConnection, policy: Policy, tables: Sequence[PublishedTable]
) -> int:
    """Every different text of every column that shows neither identifiers nor tokens."""
    selects = []
    for table in tables:
        for column, mask in table.columns:
            name = f"{table.contract.name}.{column.name}"
            is_identifier = policy.class_of[table.contract.name, column.name] == "direct_identifier"
            is_text = (
                column.duckdb_type in ("VARCHAR", "JSON", "VARIANT") or "[]" in column.duckdb_type
            )
            if not is_text or mask.kind in ("token", "null"):
                continue
            if is_identifier and mask.kind == "clear":
                continue
            selects.append(
                f"select {literal(name)} as place, v from "
                f"(select distinct {quoted(column.name)}::varchar as v from {table.target})"
            )
    for place, text in (("duckdb_tables()", "comment"), ("duckdb_views()", "sql")):
        selects.append(
            f"select 'catalog.{text}', {text} from {place} where database_name = 'publication'"
        )
    connection.execute(
        f"create or replace temp table texts as select place, {normalised('v')} as content, "
        f"{normalised('v', between=' ')} as words "
        f"from ({' union all '.join(selects)}) where length(v) >= {SHORTEST}"
    )
    ((count,),) = connection.execute("select count(*) from texts").fetchall()
    return int(count)


def _search(
    connection: duckdb.DuckDBPyConnection, policy: Policy
) -> Iterator[tuple[str, str, str]]:
    """Look for every identifier inside every text; yields place, kind and identifier."""
    from ahocorasick_rs import AhoCorasick

    # Whatever occurs in a text, its beginning does: millions of identifiers become a few.
    needles = connection.execute(
        f"""
        with beginnings as (
            select distinct substr(content, i, {SHORTEST}) as gram
            from texts, range(1, length(content) - {SHORTEST} + 2) as places(i)
        )
        select kind, needle from identifiers
        where substr(needle, 1, {SHORTEST}) in (select gram from beginnings) order by needle
        """
    ).fetchall()
    if not needles:
        return
    automaton = AhoCorasick([needle for _, needle in needles])
    rules = policy.leaks
    names: dict[str, set[str]] = {
        place: {"name"} for place in (*rules.vocabulary, "catalog.comment", "catalog.sql")
    }
    names |= {place: {"name", "full name"} for place in rules.staff}
    texts = connection.execute("select place, content, words from texts").fetchall()
    for place, content, words in texts:
        for number, _, _ in automaton.find_matches_as_indexes(content, overlapping=True):
            kind, needle = needles[number]
            if kind in names.get(place, ()):
                continue
            # Chester is a name, Manchester a triage scale.
            if kind == "name" and not _has_word(words, needle):
                continue
            yield place, kind, needle


def _has_word(words: str, name: str) -> bool:
    """Whether a name stands in a text as a word, or as two or three that were taken apart."""
    parts = words.split()
    return any(
        "".join(parts[at : at + count]) == name for count in (1, 2, 3) for at in range(len(parts))
    )


_SAYS: dict[str, str] = {
    "number": "a patient's number, address or telephone",
    "name": "a patient's name",
    "full name": "a patient's full name",
}


def _whole_numbers(
    connection: duckdb.DuckDBPyConnection, tables: Sequence[PublishedTable]
) -> list[tuple[str, str, str]]:
    """Integer columns against identifiers that are nothing but digits."""
    smallest = 10 ** (SHORTEST - 1)
    selects = [
        f"select {literal(f'{table.contract.name}.{column.name}')} as place, "
        f"{quoted(column.name)} as v from {table.target} where {quoted(column.name)} >= {smallest}"
        for table in tables
        for column, mask in table.columns
        if column.duckdb_type in ("BIGINT", "INTEGER")
        and mask.kind != "token"
        and not column.references
        and not column.name.endswith("_key")
    ]
    if not selects:
        return []
    rows = connection.execute(
        f"select distinct place, v::varchar from ({' union all '.join(selects)}) "
        "where v::varchar in (select needle from identifiers where kind = 'number')"
    ).fetchall()
    return [(place, "number", needle) for place, needle in rows]
