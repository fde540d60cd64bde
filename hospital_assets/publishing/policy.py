"""The policy: roles, published columns, masks, row filters, retention. One file decides all of it.

`policy.toml` in this package is the default; a file of that name in the data directory replaces it.
Everything is denied unless it is granted: a layer, table or column the policy does not name is in no
publication, and a class without a mask is dropped. What class a column is of, its contract says.
"""

from __future__ import annotations

import hashlib
import logging
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from hospital_assets.contracts import CONTRACTS, LAYERS, Column, Contract
from hospital_assets.contracts.fields import Privacy
from hospital_assets.files import version_of
from hospital_assets.settings import Settings, SettingsError
from hospital_assets.toml_text import TextError, line_of, text_of

#: A role's name: a word, because folders, assets and databases are called after it. Which there are, the policy says.
RoleName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,30}$")]
MaskKind = Literal[
    "clear", "drop", "null", "token", "year", "age_cap_90", "age_band", "zip3", "category_map", "json_keys", "round"
]
POLICY_FILE = Path(__file__).with_name("policy.toml")
CLASSES: tuple[Privacy, ...] = get_args(Privacy)

#: Mask -> DuckDB types it makes sense for; the others take any.
_TYPES: Mapping[MaskKind, tuple[str, ...]] = {
    "token": ("VARCHAR", "BIGINT"),
    "year": ("DATE", "TIMESTAMP", "TIMESTAMPTZ", "BIGINT"),
    "age_cap_90": ("BIGINT", "DOUBLE"),
    "age_band": ("BIGINT", "DOUBLE"),
    "zip3": ("VARCHAR",),
    "category_map": ("VARCHAR",),
    "json_keys": ("VARCHAR",),
    "round": ("BIGINT", "DOUBLE"),
}
#: Counts of forecasts that count no patients who came, but what is expected, days, weeks, forecasts, staff and places.
_OF_NO_PATIENTS = re.compile(
    r"(.*p\d+|.*days|.*weeks|.*origins|forecasts|shipped|compared|places|needed|least|present|suggested|gap|change"
    r"|replicates)_count"
)
_NEED_ARGUMENT = ("category_map", "json_keys", "round")


class PolicyError(SettingsError):
    """The policy cannot be used; the message names the file, the line and what to write."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class Mask(_Strict):
    """How a column's values are masked.

    Attributes:
        kind: one of a small closed vocabulary.
        argument: of `category_map` the map, of `json_keys` the keys kept, of `round` the step.
    """

    kind: MaskKind
    argument: str = ""

    @model_validator(mode="after")
    def _argument_fits(self) -> Self:
        if (self.kind in _NEED_ARGUMENT) != bool(self.argument):
            verb = "needs" if self.kind in _NEED_ARGUMENT else "takes no"
            raise ValueError(f"{self.kind} {verb} an argument, as in '{self.kind}:...'")
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


def parse_mask(text: str) -> Mask:
    """A mask as it is written in a policy, as in `round:5`."""
    return Mask.model_validate(_parse_mask(text))


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
        pages: pages that are not for everybody and that it may open: `live` and `governance` of the dashboard, and
            `dagster`, Dagster's own UI behind a proxy that asks the dashboard. Who sees that can run anything.
        classes: the mask of each class of columns; a class not named is dropped.
        columns: masks of single columns, as `column` or `table.column`.
    """

    description: str
    tables: tuple[str, ...]
    without: tuple[str, ...] = ()
    rows: Literal["all", "own_hospital"] = "all"
    surrogates: Literal["hmac", "random"] = "hmac"
    small_cells: Literal["show", "protect"] = "protect"
    pages: tuple[Literal["live", "governance", "dagster"], ...] = ()
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
    """Tables whose small cells are left out, with others so that no sum gives them away; the rest is rounded.

    Attributes:
        counts: columns that count patients or visits; they are left out together.
        parts: key columns along which the counts add up to a total somebody may know, each way of
            adding up a list of its own.
        shares: share in percent -> the count it is of; computed anew from what is shown, left out with the counts.
        drop: columns that would give counts away.
        group: column of dim_condition that groups the rows; the groups' own counts are in
        group_table: this table, so that the two must be looked at together.
    """

    counts: tuple[str, ...]
    parts: tuple[tuple[str, ...], ...]
    shares: dict[str, str] = Field(default_factory=dict)
    drop: tuple[str, ...] = ()
    group: str = ""
    group_table: str = ""


class Rounded(_Strict):
    """Tables whose counts are rounded, because the same counts stand in other tables, too.

    Every column whose name ends in `_count` counts patients or visits, but for `except_counts`.

    Attributes:
        n: the count behind averages and percentiles; below the threshold these are left out.
        visits: the count of visits that is held against the threshold where the other counts are of something a
            visit has many of: rows with fewer are left out, and others with them.
        parts: of such a table, as in `Suppressed`.
        except_counts: columns whose name ends in `_count` that count something else.
        sums: sums over the n: they become their average, as shown, times the rounded n.
        shares: share in percent -> (numerator, denominator), computed anew from what is shown.
        averages: figures of the group of n patients, shown to `decimals`.
        drop: columns that would give the counts away.
        sum_of: the table whose rows, as they are shown, add up to these; `rates` is what the tables of `metrics` show.
        whole_days: whether the table is of days that are over, and those alone are added up.
        renamed: population -> what it is called there, and parts of it that are there, too; the other counts are
            rounded as parts of the rest.
        ratios: figure -> (count, hours), computed anew from what is shown.
        pooled: share in percent of all hospitals together -> (numerator, denominator), computed anew.
        decimals: of averages.
        only_totals: whether only rows of all hospitals together are shown.
        limits: which limits of chance the table has; they are computed anew from what is shown.
    """

    n: str = ""
    visits: str = ""
    parts: tuple[tuple[str, ...], ...] = ()
    except_counts: tuple[str, ...] = ()
    sums: tuple[str, ...] = ()
    shares: dict[str, tuple[str, str]] = Field(default_factory=dict)
    averages: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    sum_of: str = ""
    whole_days: bool = False
    renamed: dict[str, str] = Field(default_factory=dict)
    ratios: dict[str, tuple[str, str]] = Field(default_factory=dict)
    pooled: dict[str, tuple[str, str]] = Field(default_factory=dict)
    decimals: int = Field(default=1, ge=0, le=3)
    only_totals: bool = False
    limits: Literal["", "natural", "funnel", "poisson", "z_scores"] = ""


class SmallCells(_Strict):
    """How counts of few patients are protected.

    Attributes:
        threshold: counts from 1 to below this are small (CMS cell size: 11).
        base: counts are rounded to multiples of this.
        suppress: tables with complementary suppression.
        rounded: tables with rounding.
        metrics: metric of kpi_trends and kpi_units -> the table of its rate, and the column of the day it counts for;
            of an average also the count behind it.
        exempt: tables that count beds, hours or staff rather than a characteristic of patients,
            with the reason.
    """

    threshold: int = Field(default=11, ge=3)
    base: int = Field(default=5, ge=3)
    suppress: dict[str, Suppressed] = Field(default_factory=dict)
    rounded: dict[str, Rounded] = Field(default_factory=dict)
    metrics: dict[str, tuple[str, str] | tuple[str, str, str]] = Field(default_factory=dict)
    exempt: dict[str, str] = Field(default_factory=dict)


class LeakRules(_Strict):
    """Settings of the leak check.

    Attributes:
        vocabulary: `table.column`, or `column` of every table, whose words may be anybody's name (Hodgkin,
            Madison): a name alone is no finding there; numbers, phones and full names are.
        staff: `table.column` that name staff, who may be namesakes of patients: no name is a
            finding there.
    """

    vocabulary: tuple[str, ...] = ()
    staff: tuple[str, ...] = ()


class Stricter(_Strict):
    """A column that is masked as one of a stricter class than its contract's.

    Attributes:
        privacy: the class it is masked as.
        because: why.
    """

    privacy: Privacy
    because: str


class Policy(_Strict):
    """The whole policy.

    Attributes:
        version: of this format.
        overview: the role whose publication the overview page shows.
        retention: of versions.
        domains: which columns hold the same kind of identifier: their tokens are equal and join.
        maps: for the mask `category_map`: value -> category; `*` is any other value.
        withheld: layers and tables that are never published, with the reason.
        roles: what each role gets.
        small_cells: what is done about counts of few patients.
        leaks: what the leak check has to know.
        tables: table -> its published columns. What is not listed is not published.
        stricter: `table.column` -> the class it is masked as, where that is not its contract's; a mask that a
            role has for all columns of the name does not reach it.
    """

    version: Literal[1]
    overview: RoleName
    retention: Retention = Retention()
    domains: dict[str, tuple[str, ...]]
    maps: dict[str, dict[str, str]] = Field(default_factory=dict)
    withheld: dict[str, str]
    roles: dict[RoleName, Role]
    small_cells: SmallCells = SmallCells()
    leaks: LeakRules = LeakRules()
    tables: dict[str, tuple[str, ...]]
    stricter: dict[str, Stricter] = Field(default_factory=dict)

    @cached_property
    def class_of(self) -> dict[tuple[str, str], Privacy]:
        """(table, column) of what is published -> the class it is masked as."""
        stricter = {name: rule.privacy for name, rule in self.stricter.items()}
        return {
            (table, column.name): stricter.get(f"{table}.{column.name}", column.privacy)
            for table, names in self.tables.items()
            if table in CONTRACTS
            for column in CONTRACTS[table].columns
            if column.name in names
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
        """The mask of a column for a role; the column is dropped unless the policy names a mask."""
        found = self.class_of.get((table, column.name))
        if found is None:
            return DROP
        rules, full = self.roles[role], f"{table}.{column.name}"
        # What was made stricter here is not shown because a column of the name is elsewhere.
        for name in (full,) if full in self.stricter else (full, column.name):
            if name in rules.columns:
                return rules.columns[name]
        return rules.classes.get(found, DROP)

    def needs_key(self, role: RoleName) -> bool:
        """Whether publishing to a role takes the secret key: for tokens that last, and to round counts by lot."""
        rules = self.roles[role]
        has_tokens = any(
            self.mask_of(role, contract.name, column).kind == "token"
            for contract in self.tables_of(role)
            for column in contract.columns
        )
        return rules.small_cells == "protect" or (rules.surrogates == "hmac" and has_tokens)

    def sees_everything(self, role: RoleName) -> bool:
        """Whether nothing about any patient is hidden from a role."""
        rules = self.roles[role]
        masks = [*rules.columns.values(), *(rules.classes.get(name, DROP) for name in CLASSES)]
        return rules.rows == "all" and all(mask.kind == "clear" for mask in masks)


def role_named(policy: Policy, name: str) -> RoleName:
    """A role of the policy.

    Raises:
        PolicyError: the policy has no such role; the message lists those it has.
    """
    if name not in policy.roles:
        raise PolicyError(f"the policy has no role '{name}'; its roles are {', '.join(policy.roles)}")
    return name


def uncovered(policy: Policy) -> dict[str, list[str]]:
    """Columns of contracts the policy says nothing about: table -> columns."""
    found = {}
    for contract in CONTRACTS.values():
        if not {contract.layer, contract.name} & set(policy.withheld):
            listed = policy.tables.get(contract.name, ())
            found[contract.name] = [name for name in contract.column_names if name not in listed]
    return {table: columns for table, columns in found.items() if columns}


def as_toml(policy: Policy, columns: Mapping[str, list[str]]) -> str:
    """Lines for [tables] of a policy file that does not cover some columns."""
    return "\n".join(
        f"{table} = [{', '.join(f'{chr(34)}{name}{chr(34)}' for name in (*policy.tables.get(table, ()), *missing))}]"
        for table, missing in columns.items()
    )


def load_policy(settings: Settings) -> Policy:
    """The policy of a data directory: its own `policy.toml`, or the one that ships.

    Raises:
        PolicyError: the file cannot be used.
    """
    own = settings.policy_file
    try:
        text = text_of(own)
    except TextError as error:
        raise PolicyError(str(error)) from None
    return shipped_policy() if text is None else parse_policy(text, str(own))


class CurrentPolicy:
    """The policy of a data directory as its file is now: for processes that live long.

    A file that cannot be used is reported in the log, and the last usable version stays in force.
    """

    def __init__(self, settings: Settings) -> None:
        """Load it.

        Raises:
            PolicyError: the file cannot be used.
        """
        self._settings = settings
        self._version = version_of(settings.policy_file)
        self._policy = load_policy(settings)

    def __call__(self) -> Policy:
        """The policy; the file is only read again when it has changed."""
        version = version_of(self._settings.policy_file)
        if version != self._version:
            self._version = version
            try:
                self._policy = load_policy(self._settings)
            except PolicyError as error:
                logging.getLogger(__name__).error("the policy of before stays in force: %s", error)
        return self._policy


def usable_policy(settings: Settings) -> Policy:
    """The policy of a data directory, or the one that ships while that cannot be used.

    For what is only named after roles: tables can be built whatever the policy says, and publishing loads it
    again and reports its mistakes.
    """
    try:
        return load_policy(settings)
    except PolicyError:
        return shipped_policy()


@cache
def shipped_policy() -> Policy:
    """The policy of this package."""
    return parse_policy(POLICY_FILE.read_text(encoding="utf-8"), POLICY_FILE.name)


def parse_policy(text: str, name: str) -> Policy:
    """Read a policy.

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
                + [f"  line {line_of(text, m.path)}: {'.'.join(m.path)}: {m.problem}" for m in wrong]
            )
        )
    return policy


@dataclass(frozen=True)
class _Mistake:
    """Something wrong at a place of the file."""

    path: tuple[str, ...]
    problem: str


def _mistakes(policy: Policy) -> Iterator[_Mistake]:
    """Mistakes that the file's structure does not show: names that do not exist, masks that do not fit."""
    known = {*LAYERS, *CONTRACTS}
    columns = {column.name for contract in CONTRACTS.values() for column in contract.columns}
    if policy.overview not in policy.roles:
        yield _Mistake(("overview",), f"there is no role '{policy.overview}'; name one of [roles]")
    elif policy.roles[policy.overview].rows != "all":
        yield _Mistake(("overview",), f"'{policy.overview}' is at one hospital; name a role of the whole network")
    for name in policy.withheld:
        if name not in known:
            yield _Mistake(("withheld", name), "no layer or table is called so")
    for domain, listed in policy.domains.items():
        for column in set(listed) - columns:
            yield _Mistake(("domains", domain), f"no contract has a column '{column}'")
    for table, listed in policy.tables.items():
        if table not in CONTRACTS:
            yield _Mistake(("tables", table), "no contract has this name")
            continue
        for column in listed:
            if column not in CONTRACTS[table].column_names:
                yield _Mistake(("tables", table), f"{table} has no column '{column}'; remove it")
    for name, rule in policy.stricter.items():
        yield from _stricter_mistakes(policy, name, rule)
    for name in policy.leaks.vocabulary:
        table, _, column = name.rpartition(".")
        if not any(column in c.column_names and table in ("", c.name) for c in CONTRACTS.values()):
            yield _Mistake(("leaks", "vocabulary"), f"no contract has a column '{name}'")
    for section in ("suppress", "rounded", "exempt"):
        for table, how in getattr(policy.small_cells, section).items():
            place = ("small_cells", section, table)
            if table not in CONTRACTS:
                yield _Mistake(place, "no contract has this name")
            elif isinstance(how, Rounded) and how.visits:
                if how.visits not in CONTRACTS[table].column_names:
                    yield _Mistake((*place, "visits"), f"{table} has no column '{how.visits}'")
                if not how.parts or {c for part in how.parts for c in part} - {*CONTRACTS[table].key}:
                    yield _Mistake((*place, "parts"), "the key columns along which the table has totals go here")
    finest = {name for name, how in policy.small_cells.rounded.items() if not how.sum_of}
    for name, how in policy.small_cells.rounded.items():
        if how.sum_of and how.sum_of not in {*finest, "rates"}:
            yield _Mistake(
                ("small_cells", "rounded", name, "sum_of"), "name a rounded table that is no sum itself, or 'rates'"
            )
    for role, rules in policy.roles.items():
        yield from _role_mistakes(policy, role, rules, known)


def _stricter_mistakes(policy: Policy, name: str, rule: Stricter) -> Iterator[_Mistake]:
    place = ("stricter", name)
    table, _, column = name.partition(".")
    if column not in policy.tables.get(table, ()):
        yield _Mistake(place, "[tables] lists no such column; say it as table.column")
        return
    stated = CONTRACTS[table].column(column).privacy
    if CLASSES.index(rule.privacy) >= CLASSES.index(stated):
        yield _Mistake(place, f"its contract says {stated}; only a stricter class can stand here")


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
            if (
                rules.small_cells == "protect"
                and contract.layer == "forecasts"
                and stated.name.endswith("_count")
                and not _OF_NO_PATIENTS.fullmatch(stated.name)
                and mask.kind not in ("round", "null", "drop")
            ):
                yield _Mistake(
                    ("roles", role, "columns"),
                    f"{contract.name}.{stated.name} counts patients, which KPIs show rounded; round it, too, "
                    f'as in "{contract.name}.{stated.name}" = "round:25"',
                )
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
