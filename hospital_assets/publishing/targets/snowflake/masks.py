"""Masks as Snowflake SQL, and what a masked column promises."""

from __future__ import annotations

from collections.abc import Mapping

from hospital_assets.contracts import Column
from hospital_assets.publishing.masks import OLDEST_AGE, SMALL_ZIP3, holds
from hospital_assets.publishing.policy import Mask
from hospital_assets.publishing.pseudonyms import TOKEN_SHAPE
from hospital_assets.warehouse.dialect import literal


def mask_sql(mask: Mask, kind: str, value: str, maps: Mapping[str, Mapping[str, str]]) -> str:
    """The masked column as Snowflake SQL of the column's own type.

    Args:
        mask: not `token`, which is a column of its own.
        kind: the contract's DuckDB type.
        value: the column, as it is called in the expression.
    """
    oldest = f"(year(current_date()) - {OLDEST_AGE})"
    match mask.kind:
        case "clear":
            return value
        case "drop" | "null":
            return "null"
        case "year" if kind == "BIGINT":
            return (
                f"case when {value} < 0 then {value} else greatest(floor({value} / 10000), {oldest}) * 10000 + 101 end"
            )
        case "year" if kind == "DATE":
            return f"greatest(date_trunc('year', {value}), date_from_parts({oldest}, 1, 1))"
        case "year":
            return f"date_trunc('year', {value})"
        case "age_cap_90":
            return f"least({value}, {OLDEST_AGE})"
        case "age_band":
            # A policy keeps the column's type: the lower end here, the words in the view.
            return f"least(floor({value} / 10) * 10, {OLDEST_AGE})"
        case "zip3":
            small = ", ".join(literal(area) for area in SMALL_ZIP3)
            return (
                f"case when {value} is null or not regexp_like({value}, '[0-9]{{5}}.*') then null "
                f"when left({value}, 3) in ({small}) then '000' else left({value}, 3) end"
            )
        case "category_map":
            known = maps[mask.argument]
            cases = " ".join(
                f"when {value} = {literal(name)} then {literal(category)}"
                for name, category in known.items()
                if name != "*"
            )
            other = literal(known["*"]) if "*" in known else "null"
            return f"case when {value} is null then null {cases} else {other} end"
        case "json_keys":
            keys = ", ".join(literal(key.strip()) for key in mask.argument.split(","))
            return f"to_json(object_pick(parse_json({value}), {keys}))"
        case "round":
            return f"round({value} / {mask.argument}) * {mask.argument}"
        case _:
            raise ValueError(f"{mask.kind} has no expression of its own")


def promise_of(column: Column, mask: Mask, maps: Mapping[str, Mapping[str, str]]) -> str:
    """What every value a role sees satisfies, as Snowflake SQL; empty where any may be."""
    name = column.name
    match mask.kind:
        case "token" if column.duckdb_type == "VARCHAR":
            return f"regexp_like({name}, {literal(TOKEN_SHAPE.strip('^$'))})"
        case "year" if column.duckdb_type == "BIGINT":
            return f"({name} < 0 or mod({name}, 10000) = 101)"
        case "age_band":
            return f"regexp_like({name}, '[0-9]+-[0-9]+|{OLDEST_AGE}[+]')"
        case "zip3":
            return f"regexp_like({name}, '[0-9]{{3}}')"
        case "round":
            return f"mod({name}, {mask.argument}) = 0"
        case "json_keys":
            return ""
        case _:
            return holds(column, mask, name, maps)


def shown(column: Column, mask: Mask) -> str:
    """A column in a view: bands get their words here, since a policy cannot change a type."""
    if mask.kind != "age_band":
        return column.name
    name = column.name
    return (
        f"case when {name} >= {OLDEST_AGE} then '{OLDEST_AGE}+' "
        f"else to_varchar({name}) || '-' || to_varchar({name} + 9) end"
    )
