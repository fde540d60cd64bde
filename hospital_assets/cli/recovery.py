"""Commands that go back in time, and take a person out of it: thin, over functions of `recovery`."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from hospital_assets.settings import Settings

if TYPE_CHECKING:
    from hospital_assets.cli.console import Commands


def add_commands(commands: Commands) -> None:
    """Add these commands to the parser."""
    kept = commands.add_parser("keep", help="keep a copy of the warehouse to restore from")
    kept.set_defaults(run=_keep)

    restored = commands.add_parser("restore", help="make a table or a day of it what it was")
    restored.add_argument("--table", required=True, help="as in fact_emergency_visits")
    restored.add_argument("--partition", type=date.fromisoformat, help="one service day")
    restored.add_argument("--as-of", type=datetime.fromisoformat, help="a time, as in 2026-03-01T12:00 (UTC)")
    restored.set_defaults(run=_restore)

    known = commands.add_parser(
        "as-known", help="build every table and figure as they were known at a moment, elsewhere"
    )
    known.add_argument("moment", type=datetime.fromisoformat, help="a time, as in 2026-03-01T12:00 (UTC)")
    known.add_argument("--into", type=Path, required=True, help="a new data directory")
    known.set_defaults(run=_as_known)

    erased = commands.add_parser(
        "erase", help="remove a person from everything that is kept: landed files and what is made of them"
    )
    erased.add_argument("patient", help="the record number")
    erased.add_argument("--yes", action="store_true", help="do it; without, only say what it means")
    erased.set_defaults(run=_erase)


def _keep(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.publishing.policy import load_policy
    from hospital_assets.recovery.history import keep_state, states
    from hospital_assets.warehouse.database import open_warehouse

    if not settings.warehouse_file.exists():
        raise ValueError(f"{settings.warehouse_file} is missing: run `hospital build` first")
    keep_states = load_policy(settings).retention.keep_states
    with open_warehouse(settings.warehouse_file) as warehouse:
        _, deleted = keep_state(warehouse, settings, datetime.now(UTC), keep_states)
    for state in deleted:
        print(f"deleted {state.kept_at:%Y-%m-%d %H:%M:%S}")
    for state in states(settings):
        print(f"kept    {state.kept_at:%Y-%m-%d %H:%M:%S} UTC  {state.bytes / 1e6:,.1f} MB")
    return 0


def _restore(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.access.audit import Event, record, system_actor
    from hospital_assets.recovery.history import contract_named, restore, state_of
    from hospital_assets.warehouse.database import Period, open_warehouse

    contract = contract_named(options.table)
    as_of = options.as_of
    if as_of is not None and as_of.tzinfo is None:
        as_of = as_of.replace(tzinfo=UTC)
    state = state_of(settings, as_of)
    period = None
    if options.partition:
        period = Period(options.partition, options.partition + timedelta(days=1))
    what = f"{contract.name} {period or 'all'} as of {state.kept_at.isoformat()}"
    event = Event(system_actor(), "restore", statement=what)
    # First the entry, then the deed: there is no restore that nobody knows of.
    record(settings, event)
    with open_warehouse(settings.warehouse_file) as warehouse:
        done = restore(warehouse, state, contract, period)
    print(
        f"{done.table}: {done.rows_before:,} rows became the {done.rows_after:,} of "
        f"{state.kept_at:%Y-%m-%d %H:%M:%S} UTC"
        + ("" if done.was_different else "; they were the same")
        + f". What is made of it is as it was: hospital build --select '{done.table}+'"
    )
    return 0


def _as_known(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.access.audit import Event, record, system_actor
    from hospital_assets.automation.build import build
    from hospital_assets.definitions import build_definitions
    from hospital_assets.recovery.history import as_known
    from hospital_assets.settings import load_settings

    moment = options.moment
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    # First the entry, then the deed: it is a copy of records.
    record(settings, Event(system_actor(), "export", statement=f"as known at {moment.isoformat()}"))
    known = as_known(settings, moment, options.into)
    then = load_settings(known.settings.data_dir)
    report = build(build_definitions(then), then)
    for failure in report.failures:
        print(f"failed: {failure}", file=sys.stderr)
    print(
        f"{then.warehouse_file}: made of the {known.files:,} files seen by {moment:%Y-%m-%d %H:%M} UTC, "
        f"without {known.later:,} that came later. It holds records as the original does, and "
        "`hospital erase` does not reach it: delete the folder when you have what you need."
    )
    return 1 if report.failures else 0


def _erase(options: argparse.Namespace, settings: Settings) -> int:
    import hashlib
    import hmac

    from hospital_assets.access.audit import Event, record, system_actor
    from hospital_assets.automation.build import build, publish
    from hospital_assets.definitions import build_definitions
    from hospital_assets.publishing.pseudonyms import load_key
    from hospital_assets.publishing.publications import published_audiences
    from hospital_assets.recovery import erase
    from hospital_assets.warehouse.database import open_warehouse

    if not settings.warehouse_file.exists():
        raise ValueError(f"{settings.warehouse_file} is missing: run `hospital build` first")
    key = load_key(settings)
    with open_warehouse(settings.warehouse_file) as warehouse:
        person = erase.find_person(warehouse, options.patient)
    person = erase.with_references(settings, person)
    print(
        f"{len(person.record_numbers)} record numbers, {len(person.visit_numbers)} visits. Erasing takes "
        "their records out of the landed files, deletes the warehouse, kept states and publications, and "
        "builds and publishes anew."
    )
    if not options.yes:
        print("Nothing was changed; add --yes to do it.")
        return 0
    who = hmac.new(key.derived("erased"), options.patient.encode(), hashlib.sha256).hexdigest()
    record(settings, Event(system_actor(), "erase", statement=f"person {who[:16]}"))
    had = published_audiences(settings.data_dir)
    stripped = erase.strip_landing(settings, person)
    alerts = erase.forget_alerts(settings, person)
    erase.throw_away(settings)
    definitions = build_definitions(settings)
    report = build(definitions, settings)
    for failure in report.failures:
        print(f"failed: {failure}", file=sys.stderr)
    for check in report.failed_checks:
        print(f"check failed: {check.table}.{check.name}", file=sys.stderr)
    if had and not report.failures:
        publish(definitions, settings)
    with open_warehouse(settings.warehouse_file) as warehouse:
        left = erase.prove(warehouse, settings, person)
    records = sum(file.records for file in stripped)
    outcome = "left in " + "; ".join(left) if left else "found nowhere any more"
    record(
        settings,
        Event(
            system_actor(),
            "erase",
            statement=f"person {who[:16]}",
            row_count=records,
            outcome="failed" if left else "allowed",
            reason="; ".join(left),
        ),
    )
    print(f"{records} records of {len(stripped)} landed files and {alerts} of alerts removed; {outcome}")
    return 1 if left or report.failures else 0
