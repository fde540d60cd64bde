"""The policy: roles, classes of columns, masks, row filters, retention. One file decides all of it.

`policy.toml` in this package is the default; a file of that name in the data directory replaces it.
Everything is denied unless it is granted: a layer, table or column the policy does not name is in no
publication, and a class without a mask is dropped.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from hospital_assets.contracts import CONTRACTS, Column, Contract
from hospital_assets.contracts.fields import Privacy
from hospital_assets.contracts.table import Layer
from hospital_assets.settings import Settings, SettingsError
from hospital_assets.toml_text import line_of

RoleName = Literal["admin", "doctor", "analyst", "executive"]
MaskKind = Literal[
    "clear", "drop", "null", "token", "year", "age_cap_90", "age_band", "zip3", "category_map", "json_keys", "round"
]
POLICY_FILE = Path(__file__).with_name("policy.toml")
ROLES: tuple[RoleName, ...] = get_args(RoleName)
CLASSES: tuple[Privacy, ...] = get_args(Privacy)
_LAYERS: tuple[Layer, ...] = get_args(Layer)

#: Mask -> DuckDB types it makes sense for; the others take any.
_TYPES: Mapping[MaskKind, tuple[str, ...]] = {
    "token": ("VARCHAR", "BIGINT"),
    "year": ("DATE", "TIMESTAMP", "TIMESTAMPTZ", "BIGINT"),
    "age_cap_90": ("BIGINT", "DOUBLE"),
    "age_band": ("BIGINT", "DOUBLE"),
    "zip3": ("VARCHAR",),
    "category_map": ("VARCHAR",),
    "json_keys": ("VARIANT", "JSON", "VARCHAR"),
    "round": ("BIGINT", "DOUBLE"),
}
_NEED_ARGUMENT = ("category_map", "json_keys", "round")


class PolicyError(SettingsError):
    """The policy cannot be used; the message names the file, the line and what to write."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class Mask(_Strict):
    """What becomes of a column's values.

    Attributes:
        kind: one of a small closed vocabulary.
        argument: of `category_map` the map, of `json_keys` the keys kept, of `round` the step.
    """

    kind: MaskKind
    argument: str = ""

    @model_validator(mode="after")
    def _argument_fits(self) -> Self:
        if (self.kind in _NEED_ARGUMENT) != bool(self.argument):
            says = "needs" if self.kind in _NEED_ARGUMENT else "takes no"
            raise ValueError(f"{self.kind} {says} an argument, as in '{self.kind}:...'")
        if self.kind == "round" and not re.fullmatch(r"[1-9][0-9]*(\.[0-9]+)?", self.argument):
            raise ValueError("round needs a step, as in 'round:5'")
        return self

    def __str__(self) -> str:
        return f"{self.kind}:{self.argument}" if self.argument else self.kind


def _parse_mask(value: object) -> object:
    if not isinstance(value, str):
        return value
    kind, _, argument = value.partition(":")
    return {"kind": kind, "argument": argument}


_Mask = Annotated[Mask, BeforeValidator(_parse_mask)]
DROP = Mask(kind="drop")


class Role(_Strict):
    """What a role gets.

    Attributes:
        description: for people.
        tables: layers and tables it gets.
        without: tables of those layers it does not get.
        rows: all rows, or those of one hospital: then each hospital is an audience of its own.
        surrogates: how tokens are made: a keyed hash that stays the same from version to version,
            or numbers drawn by lot for each version, which tell nothing about anybody.
        small_cells: whether small cells of KPI tables are shown or protected.
        classes: the mask of each class of columns; a class not named is dropped.
        columns: masks of single columns, as `column` or `table.column`.
    """

    description: str
    tables: tuple[str, ...]
    without: tuple[str, ...] = ()
    rows: Literal["all", "own_hospital"] = "all"
    surrogates: Literal["hmac", "random"] = "hmac"
    small_cells: Literal["show", "protect"] = "protect"
    classes: dict[Privacy, _Mask]
    columns: dict[str, _Mask] = Field(default_factory=dict)


class Retention(_Strict):
    """How long versions of a publication, and how many snapshots of the warehouse, are kept.

    Attributes:
        keep_days: days; the newest version is always kept.
        keep_snapshots: how many copies of the warehouse are kept to restore from.
    """

    keep_days: int = Field(default=14, ge=1, le=90)
    keep_snapshots: int = Field(default=3, ge=1, le=90)


class Suppressed(_Strict):
    """Tables whose small cells are left out, with others so that no sum gives them away.

    Attributes:
        counts: columns that count patients or visits; they are left out together.
        parts: key columns along which the counts add up to a total somebody may know, each way of
            adding up a list of its own.
        shares: figures computed from the counts; left out with them.
        drop: columns that would give counts away.
        group: column of dim_condition that groups the rows; the groups' own counts are in
        group_table: this table, so that the two must be looked at together.
    """

    counts: tuple[str, ...]
    parts: tuple[tuple[str, ...], ...]
    shares: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    group: str = ""
    group_table: str = ""


class Rounded(_Strict):
    """Tables whose counts are rounded, because the same counts stand in other tables, too.

    Every column whose name ends in `_count` counts patients or visits, but for `except_counts`.

    Attributes:
        n: the count behind averages and percentiles; below the threshold these are left out.
        except_counts: columns whose name ends in `_count` that count something else.
        sums: sums over the n: they become their average, as shown, times the rounded n.
        shares: share in percent -> (numerator, denominator), computed anew from what is shown.
        averages: figures of the group of n patients, shown to `decimals`.
        drop: columns that would give the counts away.
        decimals: of averages.
        only_totals: whether only rows of all hospitals together are shown.
    """

    n: str = ""
    except_counts: tuple[str, ...] = ()
    sums: tuple[str, ...] = ()
    shares: dict[str, tuple[str, str]] = Field(default_factory=dict)
    averages: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    decimals: int = Field(default=1, ge=0, le=3)
    only_totals: bool = False


class SmallCells(_Strict):
    """What is done about counts of few patients.

    Attributes:
        threshold: counts from 1 to below this are small (CMS cell size: 11).
        base: counts are rounded to multiples of this.
        suppress: tables with complementary suppression.
        rounded: tables with rounding.
        exempt: tables that count beds, hours or staff rather than a characteristic of patients,
            with the reason.
    """

    threshold: int = Field(default=11, ge=3)
    base: int = Field(default=5, ge=3)
    suppress: dict[str, Suppressed] = Field(default_factory=dict)
    rounded: dict[str, Rounded] = Field(default_factory=dict)
    exempt: dict[str, str] = Field(default_factory=dict)


class LeakRules(_Strict):
    """What the leak check has to know.

    Attributes:
        vocabulary: `table.column` whose words may be anybody's name (Hodgkin, Madison): a name
            alone is no finding there; numbers, phones and full names are.
        staff: `table.column` that name staff, who may be namesakes of patients: no name is a
            finding there.
    """

    vocabulary: tuple[str, ...] = ()
    staff: tuple[str, ...] = ()


class Policy(_Strict):
    """The whole policy.

    Attributes:
        version: of this format.
        retention: of versions.
        domains: which columns hold the same kind of identifier: their tokens are equal and join.
        maps: for the mask `category_map`: value -> category; `*` is any other value.
        withheld: layers and tables that are never published, with the reason.
        roles: what each role gets.
        small_cells: what is done about counts of few patients.
        leaks: what the leak check has to know.
        tables: table -> class -> its columns. What is not listed is not published.
    """

    version: Literal[1]
    retention: Retention = Retention()
    domains: dict[str, tuple[str, ...]]
    maps: dict[str, dict[str, str]] = Field(default_factory=dict)
    withheld: dict[str, str]
    roles: dict[RoleName, Role]
    small_cells: SmallCells = SmallCells()
    leaks: LeakRules = LeakRules()
    tables: dict[str, dict[Privacy, tuple[str, ...]]]

    @cached_property
    def class_of(self) -> dict[tuple[str, str], Privacy]:
        """(table, column) -> the class the policy gives it."""
        return {
            (table, column): name
            for table, classes in self.tables.items()
            for name, columns in classes.items()
            for column in columns
        }

    @cached_property
    def domain_of(self) -> dict[str, str]:
        """Column -> the kind of identifier it holds."""
        return {column: domain for domain, columns in self.domains.items() for column in columns}

    @cached_property
    def sha256(self) -> str:
        """Identifies what the policy says, whatever its layout."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def tables_of(self, role: RoleName) -> list[Contract]:
        """The tables a role gets, in the order of the warehouse."""
        rules = self.roles[role]
        return [
            contract
            for contract in CONTRACTS.values()
            if {contract.layer, contract.name} & set(rules.tables)
            and contract.name not in rules.without
            and not {contract.layer, contract.name} & set(self.withheld)
            and contract.name in self.tables
        ]

    def mask_of(self, role: RoleName, table: str, column: Column) -> Mask:
        """What becomes of a column for a role; dropped unless the policy says otherwise."""
        found = self.class_of.get((table, column.name))
        if found is None:
            return DROP
        rules = self.roles[role]
        for name in (f"{table}.{column.name}", column.name):
            if name in rules.columns:
                return rules.columns[name]
        return rules.classes.get(found, DROP)

    def sees_everything(self, role: RoleName) -> bool:
        """Whether nothing about any patient is hidden from a role."""
        rules = self.roles[role]
        masks = [*rules.columns.values(), *(rules.classes.get(name, DROP) for name in CLASSES)]
        return rules.rows == "all" and all(mask.kind == "clear" for mask in masks)


def uncovered(policy: Policy) -> dict[str, dict[str, list[str]]]:
    """Columns of contracts the policy says nothing about: table -> class -> columns."""
    found: dict[str, dict[str, list[str]]] = {}
    for contract in CONTRACTS.values():
        if {contract.layer, contract.name} & set(policy.withheld):
            continue
        for column in contract.columns:
            if (contract.name, column.name) not in policy.class_of:
                found.setdefault(contract.name, {}).setdefault(column.privacy, []).append(column.name)
    return found


def as_toml(columns: Mapping[str, Mapping[str, list[str]]]) -> str:
    """Lines to put into a policy file for columns it does not cover."""
    parts = []
    for table, classes in columns.items():
        parts.append(f"\n[tables.{table}]")
        for name in CLASSES:
            if classes.get(name):
                listed = ", ".join(f'"{column}"' for column in classes[name])
                parts.append(f"{name} = [{listed}]")
    return "\n".join(parts)


def load_policy(settings: Settings) -> Policy:
    """The policy of a data directory: its own `policy.toml`, or the one that ships.

    Raises:
        PolicyError: the file cannot be used.
    """
    own = settings.policy_file
    if not own.exists():
        return shipped_policy()
    return parse_policy(own.read_text(encoding="utf-8"), str(own))


def shipped_policy() -> Policy:
    """The policy of this package."""
    return parse_policy(POLICY_FILE.read_text(encoding="utf-8"), POLICY_FILE.name)


def parse_policy(text: str, name: str) -> Policy:
    """Read a policy.

    Args:
        text: TOML.
        name: of the file, for messages.

    Raises:
        PolicyError: every mistake with its line, key and remedy.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"{name}: not valid TOML ({error})") from error
    try:
        policy = Policy.model_validate(values)
    except ValidationError as error:
        wrong = [_Mistake(tuple(str(part) for part in e["loc"]), e["msg"]) for e in error.errors()]
    else:
        wrong = list(_mistakes(policy))
    if wrong:
        raise PolicyError(
            "\n".join(
                [f"{name} cannot be used:"]
                + [f"  line {line_of(text, m.path)}: {'.'.join(m.path)}: {m.says}" for m in wrong]
            )
        )
    return policy


@dataclass(frozen=True)
class _Mistake:
    """Something wrong at a place of the file."""

    path: tuple[str, ...]
    says: str


def _mistakes(policy: Policy) -> Iterator[_Mistake]:
    """What the shape of the file cannot tell: names that do not exist, masks that do not fit."""
    known = {*_LAYERS, *CONTRACTS}
    columns = {column.name for contract in CONTRACTS.values() for column in contract.columns}
    for role in ROLES:
        if role not in policy.roles:
            yield _Mistake(("roles",), f"role '{role}' is missing; describe it, if only to deny")
    for name in policy.withheld:
        if name not in known:
            yield _Mistake(("withheld", name), "no layer or table is called so")
    for domain, listed in policy.domains.items():
        for column in set(listed) - columns:
            yield _Mistake(("domains", domain), f"no contract has a column '{column}'")
    for table, classes in policy.tables.items():
        if table not in CONTRACTS:
            yield _Mistake(("tables", table), "no contract has this name")
            continue
        for name, listed in classes.items():
            for column in listed:
                yield from _class_mistakes(CONTRACTS[table], name, column)
    for section in ("suppress", "rounded", "exempt"):
        for table in getattr(policy.small_cells, section):
            if table not in CONTRACTS:
                yield _Mistake(("small_cells", section, table), "no contract has this name")
    for role, rules in policy.roles.items():
        yield from _role_mistakes(policy, role, rules, known)


def _class_mistakes(contract: Contract, name: Privacy, column: str) -> Iterator[_Mistake]:
    place = ("tables", contract.name, name)
    if column not in contract.column_names:
        yield _Mistake(place, f"{contract.name} has no column '{column}'; remove it")
        return
    stated = contract.column(column).privacy
    if CLASSES.index(name) > CLASSES.index(stated):
        yield _Mistake(
            place,
            f"'{column}' is {stated} in its contract; the policy may be stricter, not laxer: list it under {stated}",
        )


def _role_mistakes(policy: Policy, role: RoleName, rules: Role, known: set[str]) -> Iterator[_Mistake]:
    for key in ("tables", "without"):
        for name in getattr(rules, key):
            if name not in known:
                yield _Mistake(("roles", role, key), f"no layer or table is called '{name}'")
    for key, mask in rules.columns.items():
        table, _, column = key.rpartition(".")
        at = ("roles", role, "columns", key)
        holders = [
            contract
            for contract in CONTRACTS.values()
            if column in contract.column_names and table in ("", contract.name)
        ]
        if not holders:
            yield _Mistake(at, "no contract has this column")
        if mask.kind == "category_map" and mask.argument not in policy.maps:
            yield _Mistake(at, f"there is no [maps.{mask.argument}]")
    for contract in policy.tables_of(role):
        if rules.small_cells == "protect" and contract.layer == "kpis":
            ways = [
                way for way in ("suppress", "rounded", "exempt") if contract.name in getattr(policy.small_cells, way)
            ]
            if len(ways) != 1:
                yield _Mistake(
                    ("roles", role, "small_cells"),
                    f"{contract.name} must stand in one of [small_cells.suppress], "
                    "[small_cells.rounded] and [small_cells.exempt], or in `without`",
                )
        for stated in contract.columns:
            mask = policy.mask_of(role, contract.name, stated)
            fits = _TYPES.get(mask.kind)
            if fits and not stated.duckdb_type.startswith(fits):
                yield _Mistake(
                    ("roles", role, "columns", stated.name),
                    f"{mask.kind} does not fit {contract.name}.{stated.name}, which is {stated.duckdb_type}",
                )
            if mask.kind == "token" and stated.name not in policy.domain_of:
                yield _Mistake(
                    ("roles", role, "columns", stated.name),
                    f"{contract.name}.{stated.name} is to be a token, but no entry of [domains] "
                    f'lists it; add one, as in {stated.name} = ["{stated.name}"]',
                )
