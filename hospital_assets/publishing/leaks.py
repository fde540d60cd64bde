"""The leak check: every published cell is searched for every identifier the audience may not see.

It does not trust the policy, the masks or the assets. Identifiers are collected from all layers, brought to
letters and digits in lower case, and looked for inside every text of the publication (Aho-Corasick), also
within JSON and longer text; whole numbers are compared as they are. Columns that were masked are held
against what their mask promises. Findings name a table and a column, never a value.

What it cannot tell: identifiers shorter than six characters, dates and ZIP codes collide with ordinary
values, so for those the masks' promises count; and a first or family name alone counts as a whole word
only, and not in vocabulary that may hold anybody's name: the program's own words (Sunday, August), the values that a
contract lists (walk_in), and what the policy names (`leaks.vocabulary`: Surgery, Madison).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import duckdb

from hospital_assets.contracts import CONTRACTS
from hospital_assets.publishing.audience import Audience, PublishedTable
from hospital_assets.publishing.masks import holds
from hospital_assets.publishing.policy import Policy
from hospital_assets.publishing.pseudonyms import TOKEN_SHAPE
from hospital_assets.warehouse.database import Warehouse
from hospital_assets.warehouse.dialect import literal, quoted

#: Shorter identifiers turn up inside ordinary words and numbers.
SHORTEST = 6
_NAMES = ("first_name", "last_name")
#: Columns that hold the program's own words only: of the calendar, the triage scales, its codes.
_OWN_WORDS = (
    *("date_label", "day_part", "month_name", "shift_name", "time_label", "weekday_name"),
    *("level_name", "scale", "unit", "volume_band"),
    *("calendar_version", "chapter_code", "holiday_calendar", "metric", "quality_codes", "rule", "undelivered"),
)
#: In memory, and seen by all connections of the process.
_SHARED = "identifiers"
#: What systems write where they know no name.
_NO_NAMES = ("unknown", "anonymous", "unnamed", "noname", "notknown")


@dataclass(frozen=True)
class Finding:
    """Something that should not be there, and in how many different values."""

    table: str
    column: str
    what: str
    cells: int

    def __str__(self) -> str:
        values = "value" if self.cells == 1 else "values"
        return f"{self.table}.{self.column}: {self.what} ({self.cells:,} {values})"


@dataclass(frozen=True)
class LeakReport:
    """The result of the leak check.

    Attributes:
        identifiers: values of identifiers that were looked for, repetitions included.
        texts: different texts that were searched.
        promises: columns that were held against the promise of their mask.
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
    warehouse: Warehouse, policy: Policy, audience: Audience, tables: Sequence[PublishedTable]
) -> LeakReport:
    """Look through a publication that is attached to the warehouse's connection.

    Args:
        warehouse: whose connection sees the publication, too, and the tables of tokens.
    """
    connection = warehouse.connection
    promised = [promise for table in tables for promise in _promises(policy, audience, table)]
    findings = _broken(connection, promised)
    if policy.sees_everything(audience.role):
        # Nothing is hidden from this role, so there is nothing to look for.
        return LeakReport(0, 0, len(promised), tuple(findings))
    sources = collect_identifiers(warehouse, policy)
    ((identifiers,),) = connection.execute(f"select sum(n)::bigint from {_SHARED}.beginnings").fetchall()
    texts = _collect_texts(connection, policy, tables)
    _collect_whole_numbers(connection, tables)
    find_needles(connection, sources)
    found = list(_search(connection, policy))
    for name in ("texts", "whole_numbers", "grams", "possible", "needles"):
        connection.execute(f"drop table temp.{name}")
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
    description: str


def _promises(policy: Policy, audience: Audience, table: PublishedTable) -> Iterator[_Promise]:
    """What the masks and the row filter promise of a table."""
    for column, mask in table.columns:
        name = quoted(column.name)
        condition = holds(column, mask, name, policy.maps)
        if condition:
            yield _Promise(table, column.name, condition, f"not what '{mask}' promises")
        tokens = ""
        if mask.kind == "token" and column.name not in table.absent:
            tokens = f"select token from temp.tokens_{policy.domain_of[column.name]} where "
            shaped = f"regexp_matches(token, {literal(TOKEN_SHAPE)})" if column.duckdb_type == "VARCHAR" else "true"
            yield _Promise(table, column.name, f"{name} in ({tokens}{shaped})", "values that are no tokens")
        if audience.hospital_key is None or not (tokens or mask.kind == "clear"):
            continue
        raw, what = "raw" if tokens else name, "rows of another hospital"
        if column.name == "hospital_key":
            own = f"{raw} in ({audience.hospital_key}, -1, -2)"
        elif column.name == "hospital_id":
            own = f"{raw} in ({literal(audience.hospital_id or '')}, 'unknown')"
        elif column.name == "patient_key":
            own = f"({raw} in (select patient_key from temp.seen_patients) or {raw} < 0)"
            what = "patients of another hospital"
        else:
            continue
        yield _Promise(table, column.name, f"{name} in ({tokens}{own})" if tokens else own, what)


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
        Finding(promised[n].table.contract.name, promised[n].column, promised[n].description, count)
        for n, count in counts
        if count
    ]


def normalised(expression: str, between: str = "") -> str:
    """Text as identifiers are compared: letters and digits in lower case, without accents, as SQL.

    Args:
        between: what becomes of every other character.
    """
    return (
        rf"regexp_replace(lower(strip_accents({expression})), '[^\p{{L}}\p{{N}}]', "
        f"{literal(between)}, 'g')"
    )


def _identifier_columns(policy: Policy) -> Iterator[tuple[str, str]]:
    """Text columns of the layers below the KPIs that hold a direct identifier, by their contract or the policy."""
    for contract in CONTRACTS.values():
        for column in contract.columns:
            if (
                (column.privacy == "direct_identifier" or column.name in _made_identifiers(policy))
                and column.duckdb_type == "VARCHAR"
                and column.name not in (*_NAMES, "record", "birth_date")
            ):
                yield contract.qualified_name, column.name


def _made_identifiers(policy: Policy) -> frozenset[str]:
    """Names of columns that only the policy makes direct identifiers: what is published of them landed elsewhere."""
    return frozenset(
        name.partition(".")[2] for name, rule in policy.stricter.items() if rule.privacy == "direct_identifier"
    )


def _name_tables() -> Iterator[str]:
    for contract in CONTRACTS.values():
        if set(_NAMES) <= set(contract.column_names) and "patient_id" in contract.column_names:
            yield contract.qualified_name


@dataclass(frozen=True)
class Source:
    """A column of identifiers."""

    kind: str
    table: str
    column: str


def _identifier_sources(policy: Policy, stored: Collection[str]) -> list[Source]:
    """Where everything that identifies a patient stands; spellings of names are made first."""
    numbers = [
        Source("number", table, quoted(column))
        for table, column in _identifier_columns(policy)
        if _is_source(table, stored)
    ]
    return [
        *numbers,
        Source("name", f"{_SHARED}.single_names", "name"),
        Source("full name", f"{_SHARED}.full_names", "name"),
    ]


def _is_source(table: str, stored: Collection[str]) -> bool:
    """Whether identifiers are taken from a table: from raw ones where there are any."""
    # What is in another layer has landed; where nothing has, the others are all there is.
    is_landed = "raw.raw_patients" in stored
    return table in stored and (table.startswith("raw.") or not is_landed)


def collect_identifiers(warehouse: Warehouse, policy: Policy) -> list[Source]:
    """Note how every identifier begins, so that only what may occur is looked up; says where they are.

    There are millions of identifiers and few texts: whatever occurs in a text, its beginning does, and
    of those there are few. Kept for as long as the warehouse is open and no table is written.
    """
    connection = warehouse.connection
    stored = warehouse.stored_kinds()
    sources = _identifier_sources(policy, stored)
    state = f"identifiers of state {warehouse.writes}, {', '.join(sorted(_made_identifiers(policy)))}"
    if connection.execute(
        "select 1 from duckdb_tables() where table_name = 'beginnings' and comment = ?", [state]
    ).fetchall():
        return sources
    connection.execute(f"attach if not exists ':memory:' as {_SHARED}")
    names = " union ".join(
        f"select first_name as f, last_name as l from {table}" for table in _name_tables() if _is_source(table, stored)
    )
    excluded = ", ".join(literal(name) for name in _NO_NAMES)
    connection.execute(
        f"create or replace temp table names as select distinct {normalised('f')} as f, "
        f"{normalised('l')} as l from ({names}) where coalesce(f, l) is not null"
    )
    connection.execute(
        f"create or replace table {_SHARED}.single_names as select name from "
        "(select f as name from names union select l from names) "
        f"where length(name) >= {SHORTEST} and name not in ({excluded})"
    )
    connection.execute(
        f"create or replace table {_SHARED}.full_names as select unnest([f || l, l || f]) as name from names "
        f"where length(f) > 1 and length(l) > 1 and length(f || l) >= {SHORTEST} + 2"
    )
    note_beginnings(connection, sources)
    connection.execute("drop table names")
    connection.execute(f"comment on table {_SHARED}.beginnings is {literal(state)}")
    return sources


def note_beginnings(connection: duckdb.DuckDBPyConnection, sources: Sequence[Source]) -> None:
    """Write down how the values of some columns begin, and how many there are of each."""
    connection.execute(f"attach if not exists ':memory:' as {_SHARED}")
    starts = " union all ".join(
        f"select {number} as source, left({source.column}, {SHORTEST}) as start, count(*) as n "
        f"from {source.table} where {source.column} is not null group by all"
        for number, source in enumerate(sources)
    )
    # What is shorter is nothing to look for; letters beyond ASCII may change with what follows them, so
    # such a beginning may become any.
    connection.execute(
        f"create or replace table {_SHARED}.beginnings as select source, start, n, "
        f"case when strlen(start) = length(start) then {normalised('start')} else '' end as normal "
        f"from ({starts}) where length(start) = {SHORTEST} or strlen(start) > length(start)"
    )


def find_needles(connection: duckdb.DuckDBPyConnection, sources: Sequence[Source]) -> None:
    """The identifiers that begin as something in the texts does, as the temporary table `needles`.

    Args:
        connection: with the temporary tables `texts` and `whole_numbers`.
        sources: of the identifiers, as their beginnings were noted.
    """
    connection.execute(
        f"""
        create or replace temp table grams as
        select distinct substr(content, i, {SHORTEST}) as gram
        from texts, range(1, length(content) - {SHORTEST} + 2) as places(i)
        union select left(content, {SHORTEST}) from whole_numbers
        """
    )
    # What is no letter or digit falls out of a beginning, so it may be shorter.
    connection.execute(
        f"""
        create or replace temp table possible as select source, start from {_SHARED}.beginnings
        where left(normal, {SHORTEST}) in (
            select left(gram, n) from grams, range(0, {SHORTEST} + 1) as lengths(n))
        """
    )
    possible = connection.execute("select distinct source from possible order by 1").fetchall()
    connection.execute("create or replace temp table found_values (kind varchar, v varchar)")
    for (number,) in possible:
        source = sources[number]
        connection.execute(
            f"insert into found_values select distinct {literal(source.kind)}, {source.column} "
            f"from {source.table} where left({source.column}, {SHORTEST}) in "
            f"(select start from possible where source = {number})"
        )
    connection.execute(
        f"create or replace temp table needles as select distinct kind, needle "
        f"from (select kind, {normalised('v')} as needle from found_values) "
        f"where length(needle) >= {SHORTEST} and (kind <> 'number' or regexp_matches(needle, '[0-9]')) "
        f"and left(needle, {SHORTEST}) in (select gram from grams)"
    )
    connection.execute("drop table found_values")


def _own(connection: duckdb.DuckDBPyConnection, hospital_key: int, needles: Collection[str]) -> set[str]:
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
    names = f"select distinct {normalised('first_name')} as f, {normalised('last_name')} as l from {persons}"
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


def _collect_texts(connection: duckdb.DuckDBPyConnection, policy: Policy, tables: Sequence[PublishedTable]) -> int:
    """Every different text of every column that shows neither identifiers nor tokens."""
    selects = []
    for table in tables:
        for column, mask in table.columns:
            name = f"{table.contract.name}.{column.name}"
            is_identifier = policy.class_of[table.contract.name, column.name] == "direct_identifier"
            is_text = column.duckdb_type == "VARCHAR" or "[]" in column.duckdb_type
            if not is_text or mask.kind in ("token", "null"):
                continue
            if is_identifier and mask.kind == "clear":
                continue
            selects.append(
                f"select {literal(name)} as place, v from "
                f"(select distinct {quoted(column.name)}::varchar as v from {table.target})"
            )
    database = tables[0].database
    for place, text in (("duckdb_tables()", "comment"), ("duckdb_views()", "sql")):
        selects.append(f"select 'catalog.{text}', {text} from {place} where database_name = {literal(database)}")
    # In two steps: inside the union, every branch would compile its own patterns.
    connection.execute(
        f"create or replace temp table found_texts as from ({' union all '.join(selects)}) "
        f"where length(v) >= {SHORTEST}"
    )
    connection.execute(
        f"create or replace temp table texts as select place, {normalised('v')} as content, "
        f"{normalised('v', between=' ')} as words from found_texts"
    )
    connection.execute("drop table found_texts")
    ((count,),) = connection.execute("select count(*) from texts").fetchall()
    return int(count)


def _search(connection: duckdb.DuckDBPyConnection, policy: Policy) -> Iterator[tuple[str, str, str]]:
    """Look for every identifier inside every text; yields place, kind and identifier."""
    from ahocorasick_rs import AhoCorasick

    needles = connection.execute("select distinct kind, needle from needles order by needle, kind").fetchall()
    if not needles:
        return
    automaton = AhoCorasick([needle for _, needle in needles])
    vocabulary = {*policy.leaks.vocabulary, *_OWN_WORDS, "catalog.comment", "catalog.sql"}
    listed = _listed_values()
    texts = connection.execute("select place, content, words from texts").fetchall()
    for place, content, words in texts:
        column = place.partition(".")[2]
        is_vocabulary = bool({place, column} & vocabulary) or content in listed.get(column, ())
        for number, _, _ in automaton.find_matches_as_indexes(content, overlapping=True):
            kind, needle = needles[number]
            if place in policy.leaks.staff and kind != "number":
                continue
            # Chester is a name, Manchester a triage scale.
            if kind == "name" and (is_vocabulary or not _has_word(words, needle)):
                continue
            yield place, kind, needle
    # A number inside a number says nothing; the whole of it does.
    yield from connection.execute(
        "select distinct place, kind, needle from whole_numbers join needles on content = needle where kind = 'number'"
    ).fetchall()


def _listed_values() -> dict[str, frozenset[str]]:
    """Column -> the values that contracts list for columns of its name, as identifiers are compared."""
    found: dict[str, frozenset[str]] = {}
    for contract in CONTRACTS.values():
        for column in contract.columns:
            values = {v for check in column.checks for v in (check.statistics or {}).get("allowed_values", ())}
            texts = {re.sub(r"[\W_]", "", value.lower()) for value in values if isinstance(value, str)}
            found[column.name] = found.get(column.name, frozenset()) | texts
    return found


def _has_word(words: str, name: str) -> bool:
    """Whether a name stands in a text as a word, or as two or three that were taken apart."""
    parts = words.split()
    return any("".join(parts[at : at + count]) == name for count in (1, 2, 3) for at in range(len(parts)))


_SAYS: dict[str, str] = {
    "number": "a patient's number, address or telephone",
    "name": "a patient's name",
    "full name": "a patient's full name",
}


def _collect_whole_numbers(connection: duckdb.DuckDBPyConnection, tables: Sequence[PublishedTable]) -> None:
    """Every different number that is long enough to be an identifier of digits only."""
    smallest = 10 ** (SHORTEST - 1)
    selects = [
        f"select distinct {literal(f'{table.contract.name}.{column.name}')}, "
        f"{quoted(column.name)}::varchar from {table.target} where {quoted(column.name)} >= {smallest}"
        for table in tables
        for column, mask in table.columns
        if column.duckdb_type in ("BIGINT", "INTEGER")
        and mask.kind not in ("token", "age_band")  # a band is text
        and not column.references
        and not column.name.endswith("_key")
    ]
    connection.execute("create or replace temp table whole_numbers (place varchar, content varchar)")
    if selects:
        connection.execute(f"insert into whole_numbers {' union all '.join(selects)}")
