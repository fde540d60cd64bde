"""Runs the declared checks: one pass over a table for all of its rules, one query per relation.

Belongs here: how checks are evaluated and wired into Dagster. What is checked stands in `declared`, the
kinds in `kinds`, what a result looks like in `findings`.
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
from hospital_assets.checks.declared import Relation, Rule, checked_tables, relations_of, resolved_rules
from hospital_assets.checks.delivery import in_use, undeliverable
from hospital_assets.checks.evidence import results
from hospital_assets.checks.findings import Finding, asked_for, described
from hospital_assets.checks.kinds import QUALITY_KINDS, Kind
from hospital_assets.contracts import CONTRACTS
from hospital_assets.landing.registry import Profiles
from hospital_assets.warehouse.database import Warehouse
from hospital_assets.warehouse.dialect import Frame
from hospital_assets.warehouse.errors import redacted, without_values
from hospital_assets.warehouse.io_manager import WarehouseResource


def run_rules(rules: Sequence[Rule], frame: Frame) -> list[tuple[Kind, Finding]]:
    """Evaluate all rules of a table in one pass."""
    if not rules:
        return []
    figures: dict[str, nw.Expr] = {}
    for place, rule in enumerate(rules):
        applies = nw.lit(True) if rule.applies is None else rule.applies
        is_in = nw.coalesce(applies, nw.lit(False))
        figures[f"_rows_{place}"] = is_in.cast(nw.Int64)
        figures[f"_broken_{place}"] = nw.coalesce(is_in & rule.broken, nw.lit(False)).cast(nw.Int64)
    counted = frame.select(**figures).select(nw.all().sum()).collect("polars")

    def finding(place: int, rule: Rule) -> Finding:
        rows, broken = (int(counted[f"_{name}_{place}"].item() or 0) for name in ("rows", "broken"))
        applies = nw.lit(True) if rule.applies is None else rule.applies
        broken_rows = frame.filter(nw.coalesce(applies & rule.broken, nw.lit(False))) if broken else None
        return Finding(rule.description, rule.column, rows, broken, rule.threshold_pct, broken_rows=broken_rows)

    return [(rule.kind, finding(place, rule)) for place, rule in enumerate(rules)]


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


def check_quality(
    table: str,
    frames: Mapping[str, Frame],
    as_of: datetime,
    undeliverable: Collection[str] = (),
    kinds: Collection[Kind] = QUALITY_KINDS,
) -> list[tuple[Kind, list[Finding]]]:
    """All declared and resolved checks of a table, by kind.

    Args:
        table: which.
        frames: it and every table its relations need, by name.
        as_of: the hospital's time.
        undeliverable: what no source in use can fill, see `delivery`.
        kinds: those asked for.
    """
    rules = [rule for rule in resolved_rules(CONTRACTS[table], as_of, undeliverable) if rule.kind in kinds]
    found = run_rules(rules, frames[table])
    found += [
        (
            relation.kind,
            Finding(relation.description, relation.column, 0, 0, relation.threshold_pct)
            if relation.about in undeliverable
            else run_relation(relation, frames),
        )
        for relation in relations_of(table)
        if relation.kind in kinds
    ]
    return [
        (kind, [finding for its, finding in found if its is kind])
        for kind in QUALITY_KINDS
        if any(its is kind for its, _ in found)
    ]


def quality_check(table: str, periods: dg.TimeWindowPartitionsDefinition) -> dg.AssetChecksDefinition:
    """All declared checks of a table as one step with an asset check per kind."""
    contract = CONTRACTS[table]
    relations = relations_of(table)
    kinds_here = {rule.kind for rule in resolved_rules(contract, END_OF_TIME)}
    kinds_here |= {relation.kind for relation in relations}
    needs = sorted({name for relation in relations for name in relation.needs})
    specs = [
        dg.AssetCheckSpec(
            kind.name,
            asset=table,
            description=described(kind, is_partitioned=contract.partitioned),
            additional_deps=sorted({name for r in relations if r.kind is kind for name in r.needs}),
            blocking=kind.blocking,
            partitions_def=partitions_of(table, periods),
        )
        for kind in QUALITY_KINDS
        if kind in kinds_here
    ]

    @dg.multi_asset_check(
        name=f"{table}_quality",
        specs=specs,
        ins={name: dg.AssetIn(name) for name in (table, *needs)},
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
        with without_values(f"{table} could not be checked"):
            opened = warehouse.open()
            asked = asked_for(context, QUALITY_KINDS)
            as_of, cannot = clock.now(), _undeliverable(opened, profiles)
            yield from results(
                context,
                opened,
                clock.wall(),
                contract,
                frames,
                lambda tables: check_quality(table, tables, as_of, cannot, asked),
            )

    return check


def _undeliverable(warehouse: Warehouse, profiles: Profiles) -> frozenset[str]:
    """The columns that the sources with landed files cannot fill."""
    ledger = CONTRACTS["raw_landed_files"]
    if not warehouse.exists(ledger):
        return frozenset()
    landed = warehouse.read(ledger).select("source_profile").unique().collect("polars")
    return undeliverable(in_use(profiles, landed["source_profile"].to_list()))


def quality_checks(periods: dg.TimeWindowPartitionsDefinition) -> list[dg.AssetChecksDefinition]:
    """The declared checks of every table."""
    return [quality_check(table, periods) for table in checked_tables()]
