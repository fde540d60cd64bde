"""The commands about findings: check, alerts, report, drift and score."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hospital_assets.cli.console import StepProgress, definitions_of, headed, print_checks, terminal
from hospital_assets.files import replace_text
from hospital_assets.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from hospital_assets.cli.console import Commands
    from hospital_assets.warehouse.database import Warehouse


def add_commands(commands: Commands) -> None:
    """Add these commands to the parser."""
    checks = commands.add_parser("check", _checks, help="run every check on the stored tables; builds nothing")
    checks.add_argument(
        "--fail-on",
        choices=["error", "warn", "never"],
        default="error",
        help="lowest severity for which the exit code is 1 (default error)",
    )
    checks.add_argument("--day", type=date.fromisoformat, help="only this service day, as in 2026-03-01")
    checks.add_argument("--table", help="only the checks of this table, as in fact_vitals")
    checks.add_argument("--json", type=Path, metavar="FILE", help="write the outcome as JSON")
    checks.add_argument("--junit", type=Path, metavar="FILE", help="write it as JUnit XML, for CI")
    checks.add_argument("--last", action="store_true", help="run nothing; show the latest results by kind")
    checks.add_argument("--failed", action="store_true", help="with --last: list every failed check")
    checks.add_argument(
        "--prove",
        action="store_true",
        help="inject a fault for each kind into copies of the tables and report whether it is noticed",
    )

    alerts = commands.add_parser("alerts", _alerts, help="open alerts: list, acknowledge, resolve, test")
    alerts.add_argument(
        "action",
        nargs="?",
        default="list",
        choices=["list", "show", "ack", "resolve", "silence", "end-silence", "test"],
    )
    alerts.add_argument("alert", nargs="?", help="the alert's number; of `end-silence` the silence's")
    alerts.add_argument("--rule", help="silence: every alert of this rule, as in occupancy")
    alerts.add_argument("--hospital", help="silence: only at this hospital")
    alerts.add_argument("--department", help="silence: only in this department")
    alerts.add_argument("--minutes", type=int, default=60, help="silence: for how long (default 60)")
    alerts.add_argument("--reason", default="", help="silence: why")
    alerts.add_argument("--all", action="store_true", help="list resolved alerts too")
    alerts.add_argument("--by", default=os.environ.get("USER", "somebody"), help="your name, for the record")

    reported = commands.add_parser("report", _report, help="write a one-file page to read or print")
    reported.add_argument("page", choices=["quality", "overview"])
    reported.add_argument("--out", type=Path, help="default: reports/PAGE.html in the data dir")

    commands.add_parser("drift", _drift, help="show how the columns of landed files have changed")

    commands.add_parser("score", _score, help="compare the cleaning with the simulator's ground truth")


def _alerts(options: argparse.Namespace, settings: Settings) -> int:
    from datetime import UTC, datetime, timedelta

    from hospital_assets.alerts.notifiers import deliver
    from hospital_assets.alerts.outbox import Signal, open_outbox
    from hospital_assets.alerts.settings import load_alert_settings
    from hospital_assets.clock import hospital_now

    alert_settings = load_alert_settings(settings)
    now = hospital_now(settings)
    outbox = open_outbox(settings, alert_settings)
    with contextlib.closing(outbox):
        if options.action == "list":
            _print_alerts(outbox.alerts(with_resolved=options.all))
            for silence in outbox.silences(datetime.now(UTC)):
                what = " ".join(silence[name] or "" for name in ("rule", "hospital_id", "department_name")).strip()
                print(
                    f"silence {silence['silence_id']}: {what or 'one alert'} until {silence['until_at'][:16]} UTC, by "
                    f"{silence['silenced_by']}: {silence['reason']}"
                )
            return 0
        if options.action == "silence":
            silence_id = outbox.silence(
                timedelta(minutes=options.minutes),
                options.reason,
                options.by,
                datetime.now(UTC),
                alert_id=options.alert,
                rule=options.rule,
                hospital_id=options.hospital,
                department_name=options.department,
            )
            print(f"silence {silence_id}; alerts go on being raised, and what is open at its end is sent then")
            return 0
        if options.action == "test":
            moment = datetime.now(UTC)
            outbox.record(
                [
                    Signal(
                        "test",
                        f"{moment:%H%M%S%f}",
                        moment,
                        True,
                        "warning",
                        "this is a test of the alerts; nothing is wrong",
                    )
                ],
                now,
            )
            sent = deliver(outbox, alert_settings.notify, settings.data_dir)
            for row in outbox.alerts():
                if row["rule"] == "test":
                    outbox.resolve(row["alert_id"], now)
            print(f"{sent} of {len(alert_settings.notify)} notifiers were notified")
            return 0 if sent else 1
        if not options.alert:
            raise ValueError(f"name the alert: hospital alerts {options.action} ALERT")
        if options.action == "show":
            found = [row for row in outbox.alerts(with_resolved=True) if row["alert_id"] == options.alert]
            if not found:
                raise ValueError(f"there is no alert {options.alert}")
            for name, value in found[0].items():
                print(f"{name:<18} {'' if value is None else value}")
            print("\n".join(["", *outbox.explain(options.alert, datetime.now(UTC))]))
            return 0
        if options.action == "end-silence":
            if not outbox.end_silence(options.alert, datetime.now(UTC)):
                raise ValueError(f"there is no silence {options.alert}")
            return 0
        done = (
            outbox.acknowledge(options.alert, options.by, now)
            if options.action == "ack"
            else outbox.resolve(options.alert, now)
        )
    if not done:
        raise ValueError(f"there is no open alert {options.alert}")
    return 0


def _print_alerts(alerts: list[dict[str, Any]]) -> None:
    shown = headed("alert", "severity", "state", "since (UTC)", "where", "what")
    for row in alerts:
        where = " ".join(part for part in (row["hospital_id"], row["department_name"]) if part)
        shown.add_row(
            row["alert_id"],
            row["severity"],
            row["state"],
            row["opened_at"][:16].replace("T", " "),
            where,
            row["summary"],
        )
    terminal().print(shown if alerts else "no open alerts")


def _checks(options: argparse.Namespace, settings: Settings) -> int:
    if options.last or options.failed or options.prove:
        return _last_checks(options, settings)
    from hospital_assets.automation.build import check
    from hospital_assets.cli.outcome import as_json, as_junit

    with StepProgress() as progress:
        graph, day = definitions_of(settings), options.day
        report = check(graph, settings, first=day, last=day, table=options.table, progress=progress)
    for path, written in ((options.json, as_json), (options.junit, as_junit)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(written(report), encoding="utf-8")
    print_checks(report)
    if options.fail_on == "never":
        return 0
    bad = report.failures or report.failed_checks
    return 1 if bad or (options.fail_on == "warn" and report.warnings) else 0


def _last_checks(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.checks.findings import newest_results
    from hospital_assets.checks.table_checks import every_kind
    from hospital_assets.warehouse.database import open_warehouse

    console = terminal()
    with open_warehouse(settings.warehouse_file) as warehouse:
        if options.prove:
            return _prove(settings, warehouse, console)
        results = newest_results(warehouse, every_kind())
    if results.is_empty():
        print("nothing was ever checked here: run `hospital check`, or `hospital build`", file=sys.stderr)
        return 1
    if options.failed:
        bad = headed("table", "kind", "column", "rule", "broken", "of", "%", "limit %", "status")
        for r in results.iter_rows(named=True):
            if r["status"] in ("Failed", "Error"):
                bad.add_row(
                    r["table_name"],
                    r["kind"],
                    r["column_name"],
                    r["rule"],
                    f"{r['violated_count']:,}",
                    f"{r['denominator_count']:,}",
                    f"{r['violated_pct'] or 0:.2f}",
                    f"{r['threshold_pct']:g}",
                    r["status"],
                )
        console.print(bad if bad.row_count else "no check failed")
        return 1 if bad.row_count else 0
    counted: dict[tuple[str, str], dict[str, int]] = {}
    for r in results.iter_rows(named=True):
        of_kind = counted.setdefault((r["family"], r["kind"]), {})
        of_kind[r["status"]] = of_kind.get(r["status"], 0) + 1
    shown = headed("family", "kind", "checks", "passed", "failed", "not applicable", "error")
    for (family, kind), of_kind in sorted(counted.items()):
        states = [of_kind.get(s, 0) for s in ("Passed", "Failed", "NotApplicable", "Error")]
        shown.add_row(family, kind, f"{sum(states):,}", *(f"{n:,}" if n else "" for n in states))
    console.print(shown)
    console.print(f"{results.height:,} single checks of {len(counted)} kinds, each as last evaluated")
    return 0


def _prove(settings: Settings, warehouse: Warehouse, console: Console) -> int:
    from hospital_assets.checks.faults import prove, sound_tables
    from hospital_assets.clock import hospital_now

    matrix = prove(sound_tables(warehouse), hospital_now(settings))
    shown = headed("kind", "table", "fault", "noticed", "noticed, too")
    lines = ["| kind | table | fault | noticed | noticed, too |", "|---|---|---|---|---|"]
    for r in matrix.iter_rows(named=True):
        cells = (r["kind"], r["table"], r["fault"], "yes" if r["is_caught"] else "NO", r["also_failed"])
        shown.add_row(*cells)
        lines.append(f"| {' | '.join(cells)} |")
    console.print(shown)
    report = settings.reports / "check-matrix.md"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text("\n".join(lines) + "\n", encoding="utf-8")
    caught = int(matrix["is_caught"].sum())
    console.print(
        f"{caught} of {matrix.height} faults noticed; {matrix['kind'].n_unique()} kinds; {report}",
        highlight=False,
        soft_wrap=True,
    )
    return 0 if caught == matrix.height else 1


def _report(options: argparse.Namespace, settings: Settings) -> int:
    if options.page == "overview":
        return _report_overview(options, settings)
    from hospital_assets.clock import hospital_now
    from hospital_assets.landing.registry import load_profiles
    from hospital_assets.reports.quality import as_json, as_page, gather
    from hospital_assets.warehouse.database import open_warehouse

    if not settings.warehouse_file.exists():
        raise ValueError(f"{settings.warehouse_file} is missing: run `hospital build` first")
    with open_warehouse(settings.warehouse_file) as warehouse:
        quality = gather(warehouse, load_profiles(settings.profiles_folder), hospital_now(settings))
    page = as_page(quality)
    path = options.out or settings.reports / "quality.html"
    replace_text(path, page)
    replace_text(settings.gathered_quality, as_json(quality))
    print(path)
    return 0


def _report_overview(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.publishing.policy import load_policy
    from hospital_assets.reports.overview import as_page

    _, page = as_page(settings.data_dir, load_policy(settings).overview, settings.baselines_from)
    path = options.out or settings.reports / "overview.html"
    replace_text(path, page)
    print(path)
    return 0


def _drift(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.landing.drift import ADVICE, drifts
    from hospital_assets.landing.registry import load_profiles
    from hospital_assets.warehouse.loads import read_ledger_copy

    ledger = read_ledger_copy(settings.warehouse_file)
    if ledger.is_empty():
        raise FileNotFoundError(f"nothing was loaded in {settings.data_dir} yet: run `hospital build`")
    shown = headed("feed", "column", "verdict", "files", "first file", "what to do")
    for drift in drifts(ledger, load_profiles(settings.profiles_folder)):
        shown.add_row(
            f"{drift.profile} {drift.subject}",
            drift.column,
            drift.verdict,
            f"{drift.files:,}",
            drift.first_file,
            ADVICE[drift.verdict],
        )
    console = terminal()
    console.print(shown if shown.row_count else "all files have the columns of their feed")
    return 0


def _score(options: argparse.Namespace, settings: Settings) -> int:
    import polars as pl

    from hospital_assets.simulator.scoring import fates, precision, recall
    from hospital_assets.warehouse.database import open_warehouse

    path = settings.ground_truth / "dirt.parquet"
    if not path.exists():
        raise ValueError(f"{path} is missing: only what `hospital simulate` landed can be scored")
    try:
        truth = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path} is not what `hospital simulate` wrote there; simulate anew") from error
    with open_warehouse(settings.warehouse_file) as warehouse:
        found = fates(warehouse)
    console = terminal()
    for title, scores in (("Dirt", recall(truth, found)), ("Rules", precision(truth, found))):
        shown = headed(*scores.columns, title=title)
        for row in scores.iter_rows():
            shown.add_row(*(f"{v:,.1f}" if isinstance(v, float) else str(v) for v in row))
        console.print(shown)
    return 0
