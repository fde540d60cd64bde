"""The masks as SQL: what a column becomes, and what then must hold for every published value.

A mask keeps the column's type where it can, so that joins and tools go on working.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

from hospital_assets.contracts import Column
from hospital_assets.publishing.policy import Mask
from hospital_assets.warehouse.dialect import literal, quoted

NULL = Mask(kind="null")
#: Ages above this are one group, and so are birth years that would tell them (45 CFR 164.514(b)(2)).
OLDEST_AGE = 90
#: Three-digit ZIP areas with 20,000 people or fewer, by the 2000 census (HHS guidance on Safe Harbor).
#: Newer counts must be used where they are known: the list belongs to this date.
SMALL_ZIP3 = (
    "036",
    "059",
    "063",
    "102",
    "203",
    "556",
    "692",
    "790",
    "821",
    "823",
    "830",
    "831",
    "878",
    "879",
    "884",
    "890",
    "893",
)


def masked(column: Column, mask: Mask, source: str, maps: Mapping[str, Mapping[str, str]], on: date) -> str:
    """The SQL expression of a masked column.

    Args:
        mask: not `drop` and not `token`: those have no expression of their own.
        source: the column, as it is called in the statement.
        on: the day ages are counted to, for birth years.
    """
    kind = column.duckdb_type
    match mask.kind:
        case "clear":
            return source
        case "null":
            return f"cast(null as {kind})"
        case "year":
            oldest = on.year - OLDEST_AGE
            if kind == "BIGINT":
                # A key of dim_date (YYYYMMDD); special members stay.
                return (
                    f"case when {source} < 0 then {source} "
                    f"when {source} >= 0 then greatest({source} // 10000, {oldest}) * 10000 + 101 end"
                )
            year = f"date_trunc('year', {source})"
            if kind == "DATE":
                year = f"case when {source} is not null then greatest({year}, make_date({oldest}, 1, 1)) end"
            return f"({year})::{kind}"
        case "age_cap_90":
            return f"case when {source} is not null then least({source}, {OLDEST_AGE}) end"
        case "age_band":
            decade = f"({source}::bigint // 10 * 10)"
            return f"case when {source} >= {OLDEST_AGE} then '{OLDEST_AGE}+' else {decade} || '-' || ({decade} + 9) end"
        case "zip3":
            small = ", ".join(literal(area) for area in SMALL_ZIP3)
            return (
                f"case when not regexp_matches({source}, '^[0-9]{{5}}') then null "
                f"when left({source}, 3) in ({small}) then '000' else left({source}, 3) end"
            )
        case "category_map":
            known = maps[mask.argument]
            cases = " ".join(
                f"when {literal(value)} then {literal(category)}" for value, category in known.items() if value != "*"
            )
            other = literal(known["*"]) if "*" in known else "null"
            return f"case when {source} is null then null else case {source} {cases} else {other} end end"
        case "json_keys":
            pairs = ", ".join(
                f"{literal(key)}, json_extract({source}::json, {literal('$.' + quoted(key))})"
                for key in (part.strip() for part in mask.argument.split(","))
            )
            return f"case when {source} is null then null else json_object({pairs}) end"
        case "round":
            return f"(round({source} / {mask.argument}) * {mask.argument})::{kind}"
        case _:
            raise ValueError(f"{mask.kind} has no expression of its own")


def holds(column: Column, mask: Mask, name: str, maps: Mapping[str, Mapping[str, str]]) -> str:
    """What every published value of a masked column satisfies, as SQL; empty where any value may be.

    Args:
        mask: what was to be done; what a token is, only the map of tokens knows.
        name: the published column, quoted.
    """
    match mask.kind:
        case "null":
            return f"{name} is null"
        case "year":
            if column.duckdb_type == "BIGINT":
                return f"({name} < 0 or {name} % 10000 = 101)"
            return f"{name} = date_trunc('year', {name})"
        case "age_cap_90":
            return f"{name} <= {OLDEST_AGE}"
        case "age_band":
            return f"regexp_matches({name}, '^[0-9]+-[0-9]+$|^{OLDEST_AGE}[+]$')"
        case "zip3":
            return f"regexp_matches({name}, '^[0-9]{{3}}$')"
        case "category_map":
            allowed = ", ".join(literal(v) for v in sorted(set(maps[mask.argument].values())))
            return f"{name} in ({allowed})"
        case "json_keys":
            allowed = ", ".join(literal(part.strip()) for part in mask.argument.split(","))
            return f"list_has_all([{allowed}], json_keys({name}))"
        case _:
            return ""


def shows_no_more(mask: Mask, than: Mask) -> bool:
    """Whether what a mask leaves of a column is no more than what another one does."""
    if than.kind == "clear" or mask in (than, NULL):
        return True
    match mask.kind, than.kind:
        case "round", "round":
            return float(mask.argument) % float(than.argument) == 0
        case "json_keys", "json_keys":
            return set(mask.argument.split(",")) <= set(than.argument.split(","))
        case kinds:
            return kinds == ("age_band", "age_cap_90")
