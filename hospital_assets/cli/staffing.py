"""The command that shows the roster that is suggested for the week ahead beside the present one."""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hospital_assets.cli.console import headed, terminal
from hospital_assets.settings import Settings

if TYPE_CHECKING:
    from hospital_assets.cli.console import Commands

_TABLES = ("kpi_staffing_comparison", "staffing_shifts_suggested")


def add_commands(commands: Commands) -> None:
    """Add this command to the parser."""
    staffing = commands.add_parser(
        "staffing",
        _staffing,
        help="show the doctors' shifts suggested for the week ahead beside the present ones; changes nothing",
    )
    staffing.add_argument("--hospital", default="all", help="a hospital, as in H1 (default all)")
    staffing.add_argument(
        "--as-of", type=date.fromisoformat, metavar="DAY", help="the Sunday it was made on (default the newest)"
    )
    staffing.add_argument("--csv", type=Path, metavar="FILE", help="write the shifts as CSV")
    staffing.add_argument(
        "--ics", type=Path, metavar="FILE", help="write the suggested shifts as a calendar (RFC 5545)"
    )


def _staffing(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.access.audit import Event, audited, system_actor
    from hospital_assets.cli.rosters import as_calendar, as_csv
    from hospital_assets.contracts import CONTRACTS

    files = [file for file in (options.csv, options.ics) if file]
    event = Event(
        system_actor(),
        "export" if files else "query",
        statement=f"staffing hospital={options.hospital} as_of={options.as_of or 'newest'}",
        objects={CONTRACTS[name].qualified_name: CONTRACTS[name].column_names for name in _TABLES},
    )
    with audited(settings, event):
        compared, shifts, zones = _read(settings, options.hospital, options.as_of)
        _print(compared)
        for file, text in (
            (options.csv, as_csv(shifts) if options.csv else ""),
            (options.ics, as_calendar(shifts, zones) if options.ics else ""),
        ):
            if file:
                file.write_text(text, encoding="utf-8", newline="")
                print(f"wrote {file}")
    return 0


def _read(
    settings: Settings, hospital: str, as_of: date | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, str]]:
    """The comparison of the rosters, the shifts, and the hospitals' time zones.

    Raises:
        ValueError: there is no suggestion, or not of this hospital or day.
    """
    import polars as pl

    from hospital_assets.contracts import CONTRACTS
    from hospital_assets.warehouse.database import open_warehouse

    with open_warehouse(settings.warehouse_file) as warehouse:
        if not all(warehouse.exists(CONTRACTS[name]) for name in _TABLES):
            raise ValueError("rosters have not been compared yet: run `hospital build`")
        compared, shifts, hospitals = (
            warehouse.read(CONTRACTS[name]).collect("polars").to_native() for name in (*_TABLES, "dim_hospital")
        )
    if compared.is_empty():
        raise ValueError("no roster has been suggested yet: that is done on Sundays")
    if hospital != "all" and hospital not in compared["hospital_id"]:
        known = ", ".join(compared["hospital_id"].unique().sort())
        raise ValueError(f"no hospital is called '{hospital}'; there are {known}")
    own = (pl.col("hospital_id") == hospital) | pl.lit(hospital == "all")
    made = compared.filter(own)["service_date"].unique().sort()
    as_of = as_of or made[-1]
    if as_of not in made:
        raise ValueError(f"nothing was suggested on {as_of}; the newest is of {made[-1]}")
    chosen = own & (pl.col("service_date") == as_of)
    zones = hospitals.filter(pl.col("time_zone").is_not_null())
    return (
        compared.filter(chosen).sort("hospital_id").to_dicts(),
        shifts.filter(chosen).sort("hospital_id", "target_date", "hour_of_day", "shift_hours").to_dicts(),
        dict(zones.select("hospital_id", "time_zone").iter_rows()),
    )


def _print(compared: list[dict[str, Any]]) -> None:
    from hospital_assets.contracts.forecasts import OUTCOMES, ROSTERS

    (as_of,) = {row["service_date"] for row in compared} or {""}
    figures = ("hours", "moved", "mean wait, min", "left unseen, %", "seen in time, %", "better weeks, %")
    title = f"The week after {as_of}, simulated: mean, and the middle 80 % of weeks"
    shown = headed("hospital", "roster", *figures, right=figures, title=title)
    order = list(ROSTERS)
    simulated = [row for row in compared if row["replicates_count"]]
    for row in sorted(simulated, key=lambda row: (row["hospital_id"], order.index(row["roster"]))):
        shown.add_row(
            row["hospital_id"],
            ROSTERS[row["roster"]],
            f"{row['doctor_hours']:,.0f}",
            f"{row['moved_hours']:,.0f}",
            *(_measure(row, stem, unit) for stem, unit in _MEASURES),
            "" if row["better_weeks_pct"] is None else f"{row['better_weeks_pct']:.0f}",
        )
    console = terminal(highlight=False)
    if simulated:
        console.print(shown)
    suggested = {row["hospital_id"] for row in compared if row["roster"] == "suggested"}
    for row in compared:
        if row["hospital_id"] not in suggested:
            console.print(f"{row['hospital_id']}: {OUTCOMES[row['suggestion_outcome']]}", markup=False, soft_wrap=True)
    console.print(
        "A suggestion: it changes nothing. What the roster without the forecast gains, the shape of the day does.",
        soft_wrap=True,
    )


_MEASURES = (("wait_mean", "minutes"), ("unseen", "pct"), ("within_target", "pct"))


def _measure(row: dict[str, Any], stem: str, unit: str) -> str:
    value, low, high = row[f"{stem}_{unit}"], row[f"{stem}_low_{unit}"], row[f"{stem}_high_{unit}"]
    return "" if value is None else f"{value:.1f} ({low:.1f} to {high:.1f})"
