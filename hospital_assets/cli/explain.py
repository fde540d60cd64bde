"""The command that goes from a figure to what it is made of."""

from __future__ import annotations

import argparse
from datetime import date
from typing import TYPE_CHECKING, Any

from hospital_assets.cli.console import definitions_of, headed, terminal
from hospital_assets.settings import Settings

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Console

    from hospital_assets.cli.console import Commands
    from hospital_assets.contracts import Contract
    from hospital_assets.publishing.audience import Audience
    from hospital_assets.publishing.policy import Policy
    from hospital_assets.reports.explain import Asked, Rows

_MOST_ROWS = 20


def add_commands(commands: Commands) -> None:
    """Add this command to the parser."""
    explained = commands.add_parser(
        "explain", _explain, help="show what a figure is made of, down to the landed records"
    )
    explained.add_argument("table", help="a KPI table, as in kpi_waits_daily")
    explained.add_argument("--hospital", default="all", help="a hospital, as in H1 (default all)")
    explained.add_argument("--day", type=date.fromisoformat, help="a service day; its month or year where those count")
    explained.add_argument("--column", default="", help="one figure of the table, as in wait_median_minutes")
    explained.add_argument(
        "--where", action="append", default=[], metavar="KEY=VALUE", help="another key of the table; may be repeated"
    )
    explained.add_argument("--row", help="show the landed records of this row of the fact (default the first)")
    explained.add_argument("--all", action="store_true", help=f"list every row, not the first {_MOST_ROWS}")
    explained.add_argument(
        "--role", default="", help="as this audience may see it, as in doctor-H1 (default everything)"
    )


def _explain(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.access.audit import Event, audited, system_actor
    from hospital_assets.publishing.audience import Audience, parse_audience
    from hospital_assets.publishing.policy import load_policy

    asked = _asked(options)
    policy = load_policy(settings)
    whole = next((role for role in policy.roles if policy.sees_everything(role)), "")
    if not options.role and not whole:
        raise ValueError("no role of the policy sees everything: name one with --role")
    audience = Audience(*parse_audience(policy, options.role or whole))
    statement = " ".join(f"{name}={value}" for name, value in vars(options).items() if name in _AUDITED and value)
    event = Event(
        system_actor(),
        "query",
        audience.role,
        audience=audience.name,
        statement=f"explain {statement}",
        objects={asked.kpi.qualified_name: [asked.column] if asked.column else asked.kpi.column_names},
    )
    with audited(settings, event):
        _print(options, settings, policy, audience, asked)
    return 0


_AUDITED = ("table", "hospital", "day", "column", "where", "row", "role")


def _asked(options: argparse.Namespace) -> Asked:
    from hospital_assets.contracts import CONTRACTS
    from hospital_assets.reports.explain import Asked

    kpi = CONTRACTS.get(options.table)
    if kpi is None or kpi.layer != "kpis":
        known = ", ".join(name for name, contract in CONTRACTS.items() if contract.layer == "kpis")
        raise ValueError(f"'{options.table}' is no KPI table; there are {known}")
    if options.column and options.column not in kpi.column_names:
        raise ValueError(f"{kpi.name} has no column '{options.column}'; it has {', '.join(kpi.column_names)}")
    if options.day is None and {"service_date", "period_month", "period_year"} & set(kpi.key):
        raise ValueError(f"{kpi.name} has rows by day, month or year: name a --day, as in 2026-03-02")
    bad = [text for text in options.where if "=" not in text]
    if bad:
        raise ValueError(f"--where takes KEY=VALUE, not '{bad[0]}'")
    where = dict(text.split("=", 1) for text in options.where)
    return Asked(kpi, options.column, options.hospital, options.day, where)


def _print(options: argparse.Namespace, settings: Settings, policy: Policy, audience: Audience, asked: Asked) -> None:
    import polars as pl

    from hospital_assets.publishing.publications import open_publication
    from hospital_assets.reports.changes import published_row, version_before
    from hospital_assets.reports.explain import landed_records, rows_behind, stored_row
    from hospital_assets.warehouse.database import open_warehouse

    rules = policy.roles[audience.role]
    seen = policy.tables_of(audience.role)
    if asked.kpi not in seen:
        raise ValueError(f"{asked.kpi.name} is not for the role '{audience.role}'")
    if audience.hospital_id and asked.hospital_id != audience.hospital_id:
        raise ValueError(f"{audience.name} sees figures of {audience.hospital_id} only: name it with --hospital")
    console = terminal(highlight=False)
    if rules.small_cells == "protect":
        with open_publication(settings.data_dir, audience.name) as publication:
            row = published_row(publication, asked)
        if row is None:
            raise ValueError(f"the publication of {audience.name} does not hold this figure")
        _print_figure(console, asked, row)
        console.print("\nFew patients are protected from this role: it sees no single rows, nor what they add up to.")
        return
    with open_warehouse(settings.warehouse_file) as warehouse:
        stored = warehouse.read(asked.kpi).collect("polars").to_native()
        row = stored_row(asked, stored)
        visible = _visible(policy, audience, asked.kpi)
        _print_figure(console, asked, {name: value for name, value in row.items() if name in visible})
        definitions = definitions_of(settings)
        found, why_not = rows_behind(definitions, warehouse, asked, row)
        if found is None:
            console.print(f"\n[bold]No rows behind it can be shown[/bold]: {why_not}.")
        elif found.fact not in seen or not set(found.fact.key) <= _visible(policy, audience, found.fact):
            console.print(f"\nThe rows of {found.fact.name} behind it are not for the role '{audience.role}'.")
            found = None
        else:
            _print_rows(console, options, found, _visible(policy, audience, found.fact))
            key = options.row or str(found.rows[found.fact.key[0]].first() or "")
            records = landed_records(definitions, warehouse, found.fact, _keyed(found.fact, key))
            if options.row and records.is_empty() and key not in found.rows[found.fact.key[0]].cast(pl.String):
                raise ValueError(
                    f"--row names a {found.fact.key[0]} of no row behind this figure, and of no landed record; --all "
                    "lists the rows"
                )
            _print_records(console, found.fact, key, records)
        before = version_before(settings.data_dir, audience.name, asked, row)
        console.print("\n[bold]Since the version before[/bold]")
        if before is None:
            console.print(f"Every version that is kept for {audience.name} has this figure; `hospital publications`.")
            return
        names = [asked.column] if asked.column else [n for n in row if before.row and before.row.get(n) != row[n]]
        for name in names:
            was = "not there" if before.row is None else _text(before.row.get(name))
            console.print(
                f"  {name}: {was} as published at {before.published_at:%Y-%m-%d %H:%M} UTC, now {_text(row[name])}"
            )
        if found is not None:
            changed = _changes(settings, audience, asked, found, before.published_at)
            records = landed_records(definitions, warehouse, found.fact, changed)
            _print_changes(console, found.fact, changed, records, before.published_at)


def _visible(policy: Policy, audience: Audience, contract: Contract) -> set[str]:
    """The columns that a role sees as they are."""
    masks = {c.name: policy.mask_of(audience.role, contract.name, c).kind for c in contract.columns}
    return {name for name, kind in masks.items() if kind == "clear"}


def _keyed(fact: Contract, key: str) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame({fact.key[0]: [key]})


def _changes(settings: Settings, audience: Audience, asked: Asked, found: Rows, since: Any) -> pl.DataFrame:
    from hospital_assets.reports.changes import changed_rows

    now = found.rows.drop("_left_out", "_contributes")
    return changed_rows(settings.data_dir, audience.name, asked, found.fact, now, since)


def _print_figure(console: Console, asked: Asked, row: dict[str, Any]) -> None:
    for measure in asked.kpi.measures:
        console.print(f"[bold]{measure.name}[/bold] ({measure.unit}): {measure.definition}")
        told = (
            ("clock", measure.clock),
            ("population", measure.population),
            ("left out", measure.exclusions),
            ("variants", measure.variants),
            ("source", measure.source),
            ("ask", measure.owner),
        )
        for label, text in told:
            if text:
                console.print(f"  {label:<11} {text}", markup=False)
    keys = ", ".join(f"{name} {_text(row[name])}" for name in asked.kpi.key if name in row)
    console.print(f"\n[bold]{asked.kpi.name}[/bold], {keys}")
    wholes = {part for parts in asked.kpi.adds_up.values() for part in parts}
    for column in asked.kpi.columns:
        is_asked = column.name == asked.column or not asked.column or column.name in {*asked.kpi.adds_up, *wholes}
        if column.name in row and column.name not in asked.kpi.key and is_asked:
            mark = ">" if column.name == asked.column else " "
            console.print(f"{mark} {column.name:<34} {_text(row[column.name]):>14} {column.unit}", markup=False)


def _print_rows(console: Console, options: argparse.Namespace, found: Rows, visible: set[str]) -> None:
    shown = [name for name in found.rows.columns if name in visible]
    table = headed(*shown, "left out", *([options.column] if options.column else []))
    # Who was left out comes first: they are few, and what one looks for.
    ordered = found.rows.sort("_left_out", nulls_last=True, maintain_order=True)
    rows = ordered if options.all else ordered.head(_MOST_ROWS)
    for row in rows.iter_rows(named=True):
        cells = [_text(row[name]) for name in shown]
        table.add_row(*cells, row["_left_out"] or "", *([_text(row["_contributes"])] if options.column else []))
    console.print(f"\n[bold]{found.rows.height:,} rows of {found.fact.name} behind it[/bold]")
    console.print(table)
    if found.rows.height > rows.height:
        console.print(f"and {found.rows.height - rows.height:,} more: --all")
    console.print(f"They add up to {', '.join(found.adds_up)}.")
    if found.differs:
        console.print(f"They do not to {', '.join(found.differs)}: those do not count row by row.")


def _print_records(console: Console, fact: Contract, key: str, records: pl.DataFrame) -> None:
    table = headed("subject", "file", "line", "part", "first seen (UTC)", "fate")
    for row in records.iter_rows(named=True):
        table.add_row(
            row["subject"],
            row["source_file"],
            str(row["source_line"]),
            str(row["source_part"]),
            _text(row["first_seen_at"])[:16],
            row["fate"],
        )
    console.print(f"\n[bold]Landed records of {fact.key[0]} {key}[/bold]")
    console.print(table if table.row_count else "None is left.")


def _print_changes(console: Console, fact: Contract, changed: pl.DataFrame, records: pl.DataFrame, since: Any) -> None:
    from hospital_assets.reports.changes import reason

    seen: dict[str, list[Any]] = {}
    for key, moment in records.select("key", "first_seen_at").iter_rows():
        seen.setdefault(key, []).append(moment)
    by_reason: dict[tuple[str, str], list[str]] = {}
    for row in changed.iter_rows(named=True):
        key = row[fact.key[0]]
        why = reason(row["what"], row["columns"], [m for m in seen.get(key, []) if m], since)
        by_reason.setdefault((row["what"], why), []).append(key)
    table = headed("rows", "", "why", "as in")
    for (what, why), keys in sorted(by_reason.items(), key=lambda found: -len(found[1])):
        table.add_row(f"{len(keys):,}", what, why, ", ".join(keys[:3]))
    console.print(table if table.row_count else f"No row of {fact.name} behind it differs.")


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,.6g}" if isinstance(value, float) else str(value)
