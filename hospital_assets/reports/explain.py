"""From a figure to what it is made of: who was counted, who was left out why, and the landed records of each row.

How a KPI follows from its facts is stated once, in its transform; so the transform itself is asked. It is run with each
row of a fact as a hospital of its own, and what it then finds for such a hospital is what the row contributes. The
contributions must add up to the stored counts: where they do not, the KPI is not explained to rows, and
a message says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import dagster as dg
import narwhals as nw
import polars as pl

from hospital_assets.contracts import CONTRACTS, PARTITION_COLUMN, RECORD_PLACE, Contract
from hospital_assets.contracts.kpis import ALL
from hospital_assets.warehouse.database import Warehouse
from hospital_assets.warehouse.dialect import Frame, lazy, quoted, relation_of
from hospital_assets.warehouse.io_manager import MAY_BE_ABSENT, period_of
from hospital_assets.warehouse.lineage import cleaned_origins, lineage_of

#: The keys of the hospitals that stand for single rows, and how their identifiers begin.
_FIRST_KEY, _TAG = 9_000_000_000_000_000_000, "row "
#: Rows of neighbouring days can count on a day: a visit goes on, its vital signs follow.
_MARGIN = timedelta(days=2)


class ExplainError(ValueError):
    """A figure cannot be found; the message tells what to name."""


@dataclass(frozen=True)
class Asked:
    """The figure that is asked about.

    Attributes:
        column: one of its figures; empty for all.
        hospital_id: the hospital, or `all`.
        day: the service day; of a table by month or year, a day in it.
        where: values of other key columns, as text.
    """

    kpi: Contract
    column: str = ""
    hospital_id: str = ALL
    day: date | None = None
    where: Mapping[str, str] = field(default_factory=dict)

    def rows_of(self, fact: Contract, margin: timedelta = timedelta(0)) -> tuple[str, list[Any]]:
        """The SQL condition, with its values, for a fact's rows of the hospital and the day, give or take a margin."""
        conditions, values = ["true"], list[Any]()
        if self.hospital_id != ALL:
            conditions.append(
                "hospital_key in (select hospital_key from dimensions.dim_hospital where hospital_id = ?)"
            )
            values.append(self.hospital_id)
        if self.kpi.partitioned and fact.partitioned and self.day is not None:
            conditions.append(f"{PARTITION_COLUMN} between ? and ?")
            values += [self.day - margin, self.day + margin]
        return " and ".join(conditions), values

    def sources(self, table: str) -> list[str]:
        """The columns of a table that the figure, or any of the KPI's, is computed from."""
        lineage = lineage_of(self.kpi)
        deps = lineage.deps_by_column if lineage else {}
        columns = [self.column] if self.column else [name for name in deps if name not in self.kpi.key]
        found = {dep.column_name for name in columns for dep in deps.get(name, ()) if dep.asset_key.path[-1] == table}
        return [name for name in CONTRACTS[table].column_names if name in found]


@dataclass(frozen=True)
class Rows:
    """The rows of a fact behind a figure.

    Attributes:
        rows: for each its key, the columns the figure is computed from, `_left_out` (the reason; null where it counts)
            and `_contributes` (its part of the column asked for; null without one).
        adds_up: counts and sums of the KPI that the contributions of the rows add up to.
        differs: those they do not, because the rows are not counted one by one.
    """

    fact: Contract
    rows: pl.DataFrame
    adds_up: tuple[str, ...]
    differs: tuple[str, ...]


def stored_row(asked: Asked, rows: pl.DataFrame) -> dict[str, Any]:
    """The row of a KPI that is asked about.

    Where a key column pools all values as `all` and none was named, that is the row.

    Raises:
        ExplainError: there is no such row, or there are several.
    """
    named: dict[str, Any] = dict(asked.where)
    if "hospital_id" in asked.kpi.key:
        named["hospital_id"] = asked.hospital_id
    if asked.day is not None:
        of_day = {"service_date": asked.day, "period_month": asked.day.replace(day=1), "period_year": asked.day.year}
        named |= {name: value for name, value in of_day.items() if name in asked.kpi.key}
    unknown = [name for name in named if name not in asked.kpi.key]
    if unknown:
        raise ExplainError(f"{asked.kpi.name} has no key {', '.join(unknown)}; it has {', '.join(asked.kpi.key)}")
    for name, value in named.items():
        rows = rows.filter(pl.col(name).cast(pl.String) == str(value))
        if rows.is_empty():
            raise ExplainError(f"{asked.kpi.name} has no row with {name} = {value}, or not together with the others")
    for name in asked.kpi.key:
        pooled = rows.filter(pl.col(name).cast(pl.String) == ALL)
        rows = rows if name in named or pooled.is_empty() else pooled
    if rows.height != 1:
        open_keys = [name for name in asked.kpi.key if rows[name].n_unique() > 1]
        examples = (f"{name}={'|'.join(map(str, rows[name].unique().sort().head(5)))}" for name in open_keys)
        raise ExplainError(f"{rows.height} rows of {asked.kpi.name} fit: name {', '.join(examples)}")
    return rows.row(0, named=True)


def rows_behind(
    definitions: dg.Definitions, warehouse: Warehouse, asked: Asked, row: Mapping[str, Any]
) -> tuple[Rows | None, str]:
    """The rows of a fact that a KPI's row is made of, as its own transform has them; or why there are none.

    Args:
        warehouse: open; only temporary tables are made in it.
    """
    inputs = _inputs(definitions, asked.kpi)
    facts = sorted(
        (name for name in inputs if name.startswith("fact_") and "hospital_key" in CONTRACTS[name].column_names),
        key=lambda name: (name != asked.kpi.population_of, -len(asked.sources(name))),
    )
    if not facts or "dim_hospital" not in inputs or "hospital_id" not in asked.kpi.key:
        return None, f"{asked.kpi.name} is made of {', '.join(inputs)}, not of single rows of a fact by hospital"
    # Who was counted and who was left out: without those a share has no rows either.
    parts = {name for whole, parts in asked.kpi.adds_up.items() for name in (whole, *parts)}
    must = {asked.column} if asked.column.endswith("_count") else parts
    for name in facts:
        found = _rows_of(definitions, warehouse, asked, row, CONTRACTS[name])
        if found.adds_up and not must & set(found.differs):
            return found, ""
    return None, f"what single rows of {' or '.join(facts)} contribute does not add up to it"


def _inputs(definitions: dg.Definitions, contract: Contract) -> list[str]:
    asset = next(found for found in tables_of(definitions) if dg.AssetKey(contract.name) in found.keys)
    return sorted(key.path[-1] for key in asset.keys_by_input_name.values())


def tables_of(definitions: dg.Definitions) -> list[dg.AssetsDefinition]:
    """The assets that are tables of contracts."""
    return [
        asset
        for asset in definitions.assets or ()
        if isinstance(asset, dg.AssetsDefinition) and all(key.path[-1] in CONTRACTS for key in asset.keys)
    ]


def _rows_of(
    definitions: dg.Definitions, warehouse: Warehouse, asked: Asked, row: Mapping[str, Any], fact: Contract
) -> Rows:
    """What each row of a fact contributes to a row of a KPI."""
    reader = _RowByRow(warehouse, asked, row, fact)
    resources = {**(definitions.resources or {}), "io_manager": reader}
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    day = asked.day.isoformat() if asked.kpi.partitioned and asked.day else None
    selection = [dg.AssetKey(asked.kpi.name)]
    dg.materialize(
        tables_of(definitions), selection=selection, partition_key=day, resources=resources, run_config=quiet
    )
    parts = reader.contributions
    additive = [
        column.name
        for column in asked.kpi.columns
        if column.name in parts.columns and (column.name.endswith("_count") or "_sum_" in column.name)
    ]
    sums = parts.select(pl.col(additive).sum()).row(0, named=True)
    adds_up = tuple(name for name in additive if abs((row[name] or 0) - (sums[name] or 0)) < 1e-6)
    reasons = [name for name in additive if name.startswith("excluded_")]
    left_out = [
        pl.when(pl.col(name) > 0).then(pl.lit(name.removeprefix("excluded_").removesuffix("_count")))
        for name in reasons
    ]
    stated = parts.select(
        "_row",
        _left_out=pl.coalesce(*left_out) if left_out else pl.lit(None, pl.String),
        _contributes=pl.col(asked.column) if asked.column in parts.columns else pl.lit(None, pl.String),
    )
    shown = list(dict.fromkeys([*fact.key, *asked.sources(fact.name)]))
    rows = reader.tagged(shown).join(stated, on="_row", how="inner").sort("_row").drop("_row")
    return Rows(fact, rows, adds_up, tuple(name for name in additive if name not in adds_up))


class _RowByRow(dg.IOManager):
    """Hands a KPI its inputs with each row of a fact as a hospital of its own, and keeps what it makes of them."""

    def __init__(self, warehouse: Warehouse, asked: Asked, row: Mapping[str, Any], fact: Contract) -> None:
        self.contributions = pl.DataFrame()
        self._warehouse, self._asked, self._row, self._fact = warehouse, asked, row, fact
        keys = ", ".join(map(quoted, fact.key))
        of_it, values = asked.rows_of(fact, _MARGIN)
        warehouse.connection.execute(
            f"create or replace temp table explained_rows as select {keys}, hospital_key as _own, "
            f"{_FIRST_KEY} + row_number() over (order by {keys}) as _row "
            f"from {fact.qualified_name} where {of_it}",
            values,
        )

    def tagged(self, columns: Sequence[str]) -> pl.DataFrame:
        """Columns of the fact with the key of the hospital that stands for each row."""
        names = ", ".join(f"f.{quoted(name)}" for name in columns)
        keys = ", ".join(map(quoted, self._fact.key))
        found: pl.DataFrame = self._warehouse.connection.sql(
            f"select t._row, {names} from {self._fact.qualified_name} f join temp.explained_rows t using ({keys})"
        ).pl()
        return found

    def load_input(self, context: dg.InputContext) -> Frame:
        """The upstream table, in which rows and hospitals are what this is about."""
        contract = CONTRACTS[context.asset_key.path[-1]]
        may_be_absent = MAY_BE_ABSENT in (context.definition_metadata or {})
        frame = self._warehouse.read(contract, period_of(context), may_be_absent=may_be_absent)
        relation = relation_of(frame)
        if relation is None or contract.name not in (self._fact.name, "dim_hospital"):
            return frame
        if contract is self._fact:
            own = {"hospital_key": "coalesce(t._row, f.hospital_key)"}
            joined = f"left join temp.explained_rows t using ({', '.join(map(quoted, contract.key))})"
            more = ""
        else:
            own = {"hospital_key": "t._row", "hospital_id": f"'{_TAG}' || t._row"}
            joined = "join temp.explained_rows t on t._own = f.hospital_key"
            more = f" union all select {', '.join(map(quoted, relation.columns))} from ({relation.sql_query()})"
        chosen = ", ".join(
            f"{own[name]} as {quoted(name)}" if name in own else f"f.{quoted(name)}" for name in relation.columns
        )
        sql = f"select {chosen} from ({relation.sql_query()}) f {joined}{more}"
        return lazy(self._warehouse.connection.sql(sql))

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Keep what each row contributes to the row of the KPI that is asked about."""
        frame = lazy(obj).filter(nw.col("hospital_id").str.starts_with(_TAG))
        for name in self._asked.kpi.key:
            value = self._row[name]
            if name != "hospital_id" and value is not None:
                frame = frame.filter(nw.col(name) == nw.lit(value))
        found: pl.DataFrame = frame.collect("polars").to_native()
        self.contributions = found.with_columns(_row=pl.col("hospital_id").str.strip_prefix(_TAG).cast(pl.Int64))


def landed_records(
    definitions: dg.Definitions, warehouse: Warehouse, fact: Contract, keys: pl.DataFrame
) -> pl.DataFrame:
    """The landed records about some rows of a fact: where each is, when it was first seen, what became of it.

    Returns:
        key, subject, source_file, source_line, source_part, first_seen_at, fate; nothing of what the records hold.
    """
    origins = dict(cleaned_origins(fact, fact.key[0]))
    for name in _inputs(definitions, fact):
        for column in set(origins.values()):
            if name.startswith("cleaned_") and column in CONTRACTS[name].column_names:
                origins.setdefault(name, column)
    wanted = keys.select(_key=pl.col(fact.key[0])).unique().to_arrow()
    found = [pl.DataFrame(schema=_RECORD)]
    for cleaned, column in sorted(origins.items()):
        subject = cleaned.removeprefix("cleaned_")
        raw, quarantine = CONTRACTS[f"raw_{subject}"], CONTRACTS[f"quarantine_{subject}"]
        if not all(warehouse.exists(contract) for contract in (raw, quarantine, CONTRACTS[cleaned])):
            continue
        line = "source_file, source_line, source_part"
        as_landed = f"trim(r.{quoted(column)})" if column in raw.column_names else "null"
        asked_for = warehouse.connection.from_arrow(wanted)
        found.append(
            warehouse.connection.sql(
                f"select k._key as key, '{subject}' as subject, r.source_file, r.source_line, r.source_part, "
                "l.first_seen_at, coalesce(q.rule, 'taken over') as fate "
                f"from {raw.qualified_name} r left join cleaned.{quoted(cleaned)} c using ({line}) "
                f"left join {quarantine.qualified_name} q using ({line}) "
                f"left join raw.raw_landed_files l on l.source_file = r.source_file and l.subject = '{subject}' "
                f"join asked_for k on k._key = coalesce(c.{quoted(column)}, {as_landed})"
            ).pl()
        )
        del asked_for
    return pl.concat([frame.select(*_RECORD).cast(_RECORD) for frame in found]).sort(  # type: ignore[arg-type]
        "key", "first_seen_at", "subject", *RECORD_PLACE
    )


_RECORD = {
    "key": pl.String(),
    "subject": pl.String(),
    "source_file": pl.String(),
    "source_line": pl.Int64(),
    "source_part": pl.Int64(),
    "first_seen_at": pl.Datetime("us", "UTC"),
    "fate": pl.String(),
}
