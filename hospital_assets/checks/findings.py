"""Results of single checks: their severity, how they are shown and stored.

Belongs here: findings, their status, what Dagster shows of them, and the table `quality.dq_results`
that keeps every single one with its history.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from types import MappingProxyType
from typing import Any, Literal

import dagster as dg
import polars as pl

from hospital_assets.checks.kinds import Kind
from hospital_assets.contracts import CONTRACTS
from hospital_assets.warehouse.database import Period, Warehouse
from hospital_assets.warehouse.dialect import Frame, relation_of

Status = Literal["Passed", "Failed", "NotApplicable", "Error"]

#: The table, as `Warehouse.make_once` takes it.
RESULTS = (
    "quality.dq_results",
    """
    run_id varchar not null, checked_at timestamptz not null, table_name varchar not null,
    kind varchar not null, family varchar not null, column_name varchar not null,
    rule varchar not null, violated_count bigint, denominator_count bigint, violated_pct double,
    threshold_pct double not null, status varchar not null, first_date date, end_date date
    """,
)
_MOST_SHOWN = 50


@dataclass(frozen=True)
class Finding:
    """How one single check fared.

    Attributes:
        rule: what it asks of the column.
        rows: rows it applies to (the denominator).
        broken: rows that break it.
        threshold_pct: how many percent may.
        broken_rows: those that break it, not computed yet; None where none do, or they are not rows.
    """

    rule: str
    column: str
    rows: int
    broken: int
    threshold_pct: float = 0.0
    error: str = ""
    broken_rows: Frame | None = field(default=None, compare=False, repr=False)

    @property
    def broken_pct(self) -> float | None:
        """Broken of rows, in percent; None where there are none."""
        return 100.0 * self.broken / self.rows if self.rows else None

    @property
    def status(self) -> Status:
        """Error before NotApplicable before Failed before Passed, as the OHDSI dashboard has it."""
        if self.error:
            return "Error"
        if not self.rows:
            return "NotApplicable"
        return "Failed" if 100.0 * self.broken / self.rows > self.threshold_pct else "Passed"


#: Gives findings by kind of the tables that it reads, by name.
Check = Callable[[Mapping[str, Frame]], list[tuple[Kind, list[Finding]]]]


def described(kind: Kind, *, is_partitioned: bool) -> str:
    """What a check asks, and how to run it again where the UI cannot: for a table of service days."""
    if not is_partitioned:
        return kind.description
    return f"{kind.description} To run it again for a day: `hospital check --day DAY --table TABLE`."


def evaluated(
    warehouse: Warehouse, frames: Mapping[str, Frame], period: Period | None, check: Check
) -> list[tuple[Kind, list[Finding]]]:
    """What a check finds; of tables in memory by SQL where a rule is broken, to show how to look on.

    Args:
        frames: the tables that the check reads, by name.
        check: gives findings by kind; may be called twice.
    """
    found = check(frames)
    if all(finding.status in ("Passed", "NotApplicable") for _, findings in found for finding in findings):
        return found
    if all(relation_of(frame) is not None for frame in frames.values()):
        return found
    return check({name: warehouse.read(CONTRACTS[name], period) for name in frames})


def result(
    table: str, kind: Kind, findings: Sequence[Finding], evidence: Mapping[str, Any] = MappingProxyType({})
) -> dg.AssetCheckResult:
    """What Dagster shows of a kind: passed or not, counts, one line per single check, and the evidence."""
    bad = [finding for finding in findings if finding.status in ("Failed", "Error")]
    order = {"Error": 0, "Failed": 1, "Passed": 2, "NotApplicable": 3}
    shown = sorted(findings, key=lambda f: (order[f.status], -f.broken))[:_MOST_SHOWN]
    return dg.AssetCheckResult(
        asset_key=table,
        check_name=kind.name,
        passed=not bad,
        severity=kind.severity,
        description=(
            "; ".join(
                f"{f.column}: {f.error}" if f.error else f"{f.column}: {f.broken:,} of {f.rows:,} rows break '{f.rule}'"
                for f in bad[:20]
            )
            or None
        ),
        metadata={
            **evidence,
            "rules": len(findings),
            "rows": max((f.rows for f in findings), default=0),
            "broken_rows": sum(f.broken for f in findings),
            "findings": dg.MetadataValue.table(
                [
                    dg.TableRecord(
                        {
                            "column": f.column,
                            "rule": f.rule,
                            "status": f.status,
                            "rows": f.rows,
                            "broken": f.broken,
                            "threshold_pct": f.threshold_pct,
                        }
                    )
                    for f in shown
                ]
            ),
        },
    )


def store(
    warehouse: Warehouse,
    run_id: str,
    checked_at: datetime,
    table: str,
    found: Sequence[tuple[Kind, Sequence[Finding]]],
    period: Period | None,
) -> None:
    """Keep every single result."""
    first: date | None = period.first if period else None
    end: date | None = period.end if period else None
    rows = pl.DataFrame(
        [
            (
                run_id,
                checked_at,
                table,
                kind.name,
                kind.family,
                f.column,
                f.rule,
                f.broken,
                f.rows,
                f.broken_pct,
                f.threshold_pct,
                f.status,
                first,
                end,
            )
            for kind, findings in found
            for f in findings
        ],
        schema={
            "run_id": pl.String,
            "checked_at": pl.Datetime("us", "UTC"),
            "table_name": pl.String,
            "kind": pl.String,
            "family": pl.String,
            "column_name": pl.String,
            "rule": pl.String,
            "violated_count": pl.Int64,
            "denominator_count": pl.Int64,
            "violated_pct": pl.Float64,
            "threshold_pct": pl.Float64,
            "status": pl.String,
            "first_date": pl.Date,
            "end_date": pl.Date,
        },
        orient="row",
    )
    with warehouse.transaction() as connection:
        warehouse.make_once(*RESULTS)
        source = connection.from_arrow(rows.to_arrow())
        connection.execute("insert into quality.dq_results by name from source")
        del source


def newest_results(warehouse: Warehouse, kinds: Mapping[str, Collection[Kind]]) -> pl.DataFrame:
    """Every single check as it was last evaluated; empty before the first build.

    A rule that the newest evaluation of its kind did not ask any more, and a kind that its table has no more, do not
    count: nobody would ever evaluate them again.

    Args:
        kinds: table -> the kinds of checks that it has.
    """
    newest = _results(
        warehouse,
        "from quality.dq_results qualify checked_at = max(checked_at) over (partition by table_name, kind) "
        "order by family, kind, table_name",
    )
    asked = pl.DataFrame(
        [(table, kind.name) for table, of_table in kinds.items() for kind in of_table],
        schema={"table_name": pl.String, "kind": pl.String},
        orient="row",
    )
    return newest.join(asked, on=["table_name", "kind"], how="semi", maintain_order="left")


def results_by_day(warehouse: Warehouse) -> pl.DataFrame:
    """How many single checks had which status on which day."""
    return _results(
        warehouse,
        "select cast(checked_at as date) as day, status, count(*) as checks "
        "from quality.dq_results group by all order by all",
    )


def scores_by_day(warehouse: Warehouse) -> pl.DataFrame:
    """How many of a table's single checks that apply passed, by day: day, table_name, checks, passed."""
    return _results(
        warehouse,
        "select cast(checked_at as date) as day, table_name, count(*) as checks, "
        "count(*) filter (where status = 'Passed') as passed from quality.dq_results "
        "where status in ('Passed', 'Failed', 'Error') group by all order by all",
    )


def _results(warehouse: Warehouse, query: str) -> pl.DataFrame:
    warehouse.make_once(*RESULTS)
    found: pl.DataFrame = warehouse.connection.sql(query).pl()
    return found
