"""The checks of a table: one step, one pass over its rows for all rules, an asset check for each kind.

Belongs here: how checks are evaluated and wired into Dagster. What is checked stands in the contracts, in `declared`
and in `accounting`; the kinds in `kinds`; what a result looks like in `findings`. The same function decides which kinds
a table has and which rules run, so specs and results cannot drift apart.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import dagster as dg
import duckdb
import narwhals as nw
import polars as pl

from hospital_assets.assets.declare import WAREHOUSE_POOL, partitions_of
from hospital_assets.assets.dimensions.scd2 import END_OF_TIME
from hospital_assets.assets.resources import ClockResource
from hospital_assets.checks.accounting import ACCOUNTS, Account
from hospital_assets.checks.contract_checks import columns_found, contract_rules, key_found, reference_found
from hospital_assets.checks.declared import Relation, relations_of, resolved_rules
from hospital_assets.checks.delivery import in_use, undeliverable
from hospital_assets.checks.evidence import results
from hospital_assets.checks.findings import Finding, described
from hospital_assets.checks.kinds import COLUMNS, CONTRACT_KINDS, KEY, KINDS, REFERENCES, Kind
from hospital_assets.checks.rules import run_rules
from hospital_assets.contracts import CONTRACTS, Contract
from hospital_assets.landing.registry import Profiles
from hospital_assets.warehouse.database import Warehouse
from hospital_assets.warehouse.dialect import Frame
from hospital_assets.warehouse.errors import redacted, without_values
from hospital_assets.warehouse.io_manager import WarehouseResource

_ORDER = list(CONTRACTS)


def kinds_of(contract: Contract) -> list[Kind]:
    """The kinds of checks that a table has."""
    rules = [*contract_rules(contract), *resolved_rules(contract, END_OF_TIME)]
    found = {COLUMNS, KEY, *(r.kind for r in rules), *(r.kind for r in relations_of(contract.name))}
    if any(column.references for column in contract.columns):
        found.add(REFERENCES)
    return [kind for kind in KINDS if kind in found]


def every_kind() -> dict[str, list[Kind]]:
    """Table -> the kinds of checks that it has."""
    return {contract.name: kinds_of(contract) for contract in CONTRACTS.values()}


def check_table(
    contract: Contract,
    frames: Mapping[str, Frame],
    as_of: datetime,
    undeliverable: Collection[str] = (),
    kinds: Collection[Kind] = KINDS,
) -> list[tuple[Kind, list[Finding]]]:
    """Run the checks of a table, by kind.

    Args:
        frames: it, or the service days of it that a run covers, and every table that its checks need, by name.
        undeliverable: what no source in use can fill, see `delivery`.
    """
    frame = frames[contract.name]
    rules = [
        rule
        for rule in (*contract_rules(contract), *resolved_rules(contract, as_of, undeliverable))
        if rule.kind in kinds
    ]
    found: dict[Kind, list[Finding]] = {}
    if COLUMNS in kinds:
        found[COLUMNS] = columns_found(contract, frame)
    if set(kinds) - {COLUMNS}:
        rows, of_rules = run_rules(rules, frame)
        for rule, finding in zip(rules, of_rules, strict=True):
            found.setdefault(rule.kind, []).append(finding)
        if KEY in kinds:
            found[KEY] = [key_found(contract, frame, rows)]
        if REFERENCES in kinds and (references := [column for column in contract.columns if column.references]):
            found[REFERENCES] = [reference_found(column, frame, frames, rows) for column in references]
    for relation in relations_of(contract.name):
        if relation.kind in kinds:
            found.setdefault(relation.kind, []).append(
                Finding(relation.description, relation.column, 0, 0, relation.threshold_pct)
                if relation.about in undeliverable
                else run_relation(relation, frames)
            )
    return [(kind, found[kind]) for kind in KINDS if kind in found]


def run_relation(relation: Relation, frames: Mapping[str, Frame]) -> Finding:
    """Evaluate a relation; an error of the engine becomes its finding and is not raised."""
    try:
        rows = relation.rows({**frames, "_own": frames[relation.table]})
        counted = rows.select(
            rows=nw.len(), broken=nw.coalesce(nw.col("_broken"), nw.lit(False)).cast(nw.Int64).sum()
        ).collect("polars")
    except (duckdb.Error, pl.exceptions.PolarsError) as error:
        return Finding(relation.description, relation.column, 0, 0, relation.threshold_pct, redacted(error))
    return Finding(
        relation.description,
        relation.column,
        int(counted["rows"].item() or 0),
        int(counted["broken"].item() or 0),
        relation.threshold_pct,
        broken_rows=rows.filter(nw.coalesce(nw.col("_broken"), nw.lit(False))),
    )


def table_checks(periods: dg.TimeWindowPartitionsDefinition) -> list[dg.AssetChecksDefinition]:
    """The checks of every table, a step for each.

    What compares a table with one that is made after it is a step of its own: the other checks stop what depends on
    the table, and must not wait for it.
    """
    steps = []
    for contract in CONTRACTS.values():
        needs = {kind: _needs(contract, kind) for kind in kinds_of(contract)}
        later = {kind: tables for kind, tables in needs.items() if any(_is_later(name, contract) for name in tables)}
        now = {kind: tables for kind, tables in needs.items() if kind not in later}
        accounts = [account for account in ACCOUNTS if account.table == contract.name]
        steps.append(_step(f"{contract.name}_checks", contract, now, accounts, periods))
        if later:
            steps.append(_step(f"{contract.name}_later_checks", contract, later, [], periods))
    return steps


def _needs(contract: Contract, kind: Kind) -> set[str]:
    """The other tables that a kind of check of a table reads."""
    if kind is REFERENCES:
        return {column.references.partition(".")[0] for column in contract.columns if column.references}
    return {name for relation in relations_of(contract.name) if relation.kind is kind for name in relation.needs}


def _is_later(table: str, contract: Contract) -> bool:
    """Whether a table is made after another; contracts stand in the order data passes through them."""
    # One step makes a cleaned table and its quarantine.
    return not table.startswith("quarantine_") and _ORDER.index(table) > _ORDER.index(contract.name)


def _step(
    name: str,
    contract: Contract,
    needs: Mapping[Kind, set[str]],
    accounts: Sequence[Account],
    periods: dg.TimeWindowPartitionsDefinition,
) -> dg.AssetChecksDefinition:
    partitions = partitions_of(contract.name, periods)
    specs = [
        dg.AssetCheckSpec(
            kind.name,
            asset=contract.name,
            description=described(kind, is_partitioned=contract.partitioned),
            additional_deps=sorted(tables - {contract.name}),
            blocking=kind.blocking,
            partitions_def=partitions,
        )
        for kind, tables in needs.items()
    ]
    specs += [
        dg.AssetCheckSpec(
            account.name,
            asset=contract.name,
            description=account.description,
            additional_deps=account.needs,
            blocking=account.blocking,
            partitions_def=partitions,
        )
        for account in accounts
    ]
    read = {contract.name}.union(*needs.values(), *(account.needs for account in accounts))

    @dg.multi_asset_check(
        name=name,
        specs=specs,
        ins={table: dg.AssetIn(table) for table in sorted(read)},
        can_subset=True,
        pool=WAREHOUSE_POOL,
    )
    def check(
        context: dg.AssetCheckExecutionContext,
        warehouse: WarehouseResource,
        clock: ClockResource,
        profiles: dg.ResourceParam[Profiles],
        **frames: Any,
    ) -> Iterator[dg.AssetCheckResult]:
        with without_values(f"{contract.name} could not be checked"):
            asked = {key.name for key in context.selected_asset_check_keys}
            opened, as_of = warehouse.open(), clock.now()
            kinds = [kind for kind in needs if kind.name in asked]
            if kinds:
                # Contracts ask the same of every source.
                cannot = _undeliverable(opened, profiles) if set(kinds) - set(CONTRACT_KINDS) else frozenset[str]()
                yield from results(
                    context,
                    opened,
                    clock.wall(),
                    contract,
                    frames,
                    lambda tables: check_table(contract, tables, as_of, cannot, kinds),
                )
            for account in accounts:
                if account.name in asked:
                    yield account.check(frames, profiles)

    return check


def _undeliverable(warehouse: Warehouse, profiles: Profiles) -> frozenset[str]:
    """The columns that the sources with landed files cannot fill."""
    ledger = CONTRACTS["raw_landed_files"]
    if not warehouse.exists(ledger):
        return frozenset()
    landed = warehouse.read(ledger).select("source_profile").unique().collect("polars")
    return undeliverable(in_use(profiles, landed["source_profile"].to_list()))
