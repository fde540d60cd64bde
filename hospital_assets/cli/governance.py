"""Commands about who sees what, who did what, and the way back: thin, over functions of other packages."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from hospital_assets.cli import deploy
from hospital_assets.settings import Settings

if TYPE_CHECKING:
    from hospital_assets.cli.console import Commands


def add_commands(commands: Commands) -> None:
    """Add this package's commands to the parser."""
    published = commands.add_parser(
        "publish", help="publish what is stored to every audience, masked and searched for leaks"
    )
    published.add_argument(
        "--role",
        action="append",
        default=[],
        choices=["admin", "doctor", "analyst", "executive"],
        help="only this role's publications",
    )
    published.set_defaults(run=_publish)

    publications = commands.add_parser("publications", help="what is published to whom, and which versions are kept")
    publications.set_defaults(run=_publications)

    policy = commands.add_parser("policy", help="check the policy and say who sees what")
    policy.add_argument("--missing", action="store_true", help="lines for columns it does not cover")
    policy.set_defaults(run=_policy)

    audit = commands.add_parser("audit", help="who did what; verify that the log is whole")
    audit.add_argument("action", nargs="?", default="list", choices=["list", "verify"])
    audit.add_argument("--actor", help="only this one's entries")
    audit.add_argument("--table", help="only entries about this table, as in facts.fact_vitals")
    audit.add_argument("--outcome", choices=["allowed", "refused", "failed"])
    audit.add_argument("--last", type=int, default=50, help="how many (default 50)")
    audit.set_defaults(run=_audit)

    served = commands.add_parser("serve", help="answer SQL over HTTP, to users, from their role's publication only")
    served.add_argument("--host", default="127.0.0.1", help="address (default 127.0.0.1)")
    served.add_argument("--port", type=int, default=8321)
    served.add_argument("--certificate", help="PEM file, for addresses that others can reach")
    served.add_argument("--certificate-key", help="its key")
    served.set_defaults(run=_serve)

    users = commands.add_parser("users", help="users of the gateway")
    users.add_argument("action", choices=["list", "add", "password", "disable", "revoke"])
    users.add_argument("name", nargs="?")
    users.add_argument("role", nargs="?", choices=["admin", "doctor", "analyst", "executive"])
    users.add_argument("--hospital", help="of a doctor, as in H1")
    users.set_defaults(run=_users)

    kept = commands.add_parser("keep", help="keep a copy of the warehouse to restore from")
    kept.set_defaults(run=_keep)

    restored = commands.add_parser("restore", help="make a table or a day of it what it was")
    restored.add_argument("--table", required=True, help="as in fact_emergency_visits")
    restored.add_argument("--partition", type=date.fromisoformat, help="one service day")
    restored.add_argument("--as-of", type=datetime.fromisoformat, help="a time, as in 2026-03-01T12:00 (UTC)")
    restored.set_defaults(run=_restore)

    history = commands.add_parser("history", help="versions of fact and KPI tables in Delta Lake (an extra)")
    history.add_argument("action", choices=["keep", "list", "restore"])
    history.add_argument("--table", action="append", default=[], help="default: all there are")
    history.add_argument("--version", type=int, help="what to restore")
    history.set_defaults(run=_history)

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

    key = commands.add_parser("key", help="the secret key of pseudonyms")
    key.add_argument("action", choices=["create", "show-id"])
    key.set_defaults(run=_key)

    deploy.add_commands(commands)


def _publish(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.automation.build import BuildError, publish
    from hospital_assets.definitions import build_definitions
    from hospital_assets.publishing.policy import load_policy
    from hospital_assets.publishing.pseudonyms import load_key

    # Both would stop the run, too; here the message is all there is to read.
    load_policy(settings)
    if not options.role or {"analyst", "executive"} & set(options.role):
        load_key(settings)
    try:
        report = publish(build_definitions(settings), settings, options.role)
    except BuildError as error:
        raise ValueError(str(error)) from error
    for failure in report.failures:
        print(f"failed: {failure}", file=sys.stderr)
    for check in report.failed_checks:
        print(f"stopped: {check.description}", file=sys.stderr)
    _publications(options, settings)
    print(f"in {report.seconds:.1f} s")
    return 0 if report.succeeded else 1


def _publications(options: argparse.Namespace, settings: Settings) -> int:
    from rich.console import Console
    from rich.table import Table

    from hospital_assets.publishing.publications import current_version, published_audiences, published_folder, versions

    shown = Table("audience", "version", "tables", "rows", "MB", "kept", "kept MB", "claim")
    for name in ("tables", "rows", "MB", "kept", "kept MB"):
        shown.columns[["audience", "version", "tables", "rows", "MB", "kept", "kept MB"].index(name)].justify = "right"
    for audience in published_audiences(settings.data_dir):
        folder = published_folder(settings.data_dir) / audience
        version = current_version(settings.data_dir, audience)
        manifest = json.loads((folder / version / "manifest.json").read_text(encoding="utf-8"))
        kept = versions(settings.data_dir, audience)
        size = sum(file["bytes"] for file in manifest["files"].values())
        total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        shown.add_row(
            audience,
            version,
            str(len(manifest["tables"])),
            f"{sum(manifest['rows'].values()):,}",
            f"{size / 1e6:,.1f}",
            str(len(kept)),
            f"{total / 1e6:,.1f}",
            manifest["claim"]["level"],
        )
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(shown if shown.row_count else "nothing is published: run `hospital publish`")
    return 0


def _policy(options: argparse.Namespace, settings: Settings) -> int:
    from rich.console import Console
    from rich.table import Table

    from hospital_assets.publishing.claims import claim_of
    from hospital_assets.publishing.policy import as_toml, load_policy, uncovered

    policy = load_policy(settings)
    missing = uncovered(policy)
    if options.missing:
        print(as_toml(missing) or "every column is covered")
        return 1 if missing else 0
    shown = Table("role", "tables", "columns", "masked", "left out", "claim")
    for role in policy.roles:
        tables = policy.tables_of(role)
        kinds = [policy.mask_of(role, c.name, column).kind for c in tables for column in c.columns]
        dropped = kinds.count("drop")
        clear = kinds.count("clear")
        shown.add_row(
            role,
            str(len(tables)),
            str(len(kinds) - dropped),
            str(len(kinds) - dropped - clear),
            str(dropped),
            claim_of(policy, role).text,
        )
    Console(width=None if sys.stdout.isatty() else 140).print(shown)
    if missing:
        columns = sum(len(names) for classes in missing.values() for names in classes.values())
        print(
            f"{columns} columns of {len(missing)} tables are not covered, so they are not published; "
            "`hospital policy --missing` prints the lines to add",
            file=sys.stderr,
        )
    return 1 if missing else 0


def _key(options: argparse.Namespace, settings: Settings) -> int:
    from dataclasses import replace

    from hospital_assets.access.audit import Event, record, system_actor
    from hospital_assets.publishing.pseudonyms import KeyMissingError, create_key, load_key

    if options.action == "create":
        event = Event(system_actor(), "key", statement="create the pseudonym key")
        try:
            path = create_key(settings)
        except KeyMissingError as error:
            record(settings, replace(event, outcome="refused", reason="there is one, or no place"))
            raise error from None
        record(settings, replace(event, version=load_key(settings).key_id))
        print(f"{path} (mode 0600). Keep a copy where you keep secrets, never with the data.")
    print(f"key id {load_key(settings).key_id}")
    return 0


def _audit(options: argparse.Namespace, settings: Settings) -> int:
    import contextlib

    from rich.console import Console
    from rich.table import Table

    from hospital_assets.access.audit import AuditLog, log_file

    if not log_file(settings).exists():
        print("nothing was audited yet")
        return 0
    with contextlib.closing(AuditLog(settings)) as log:
        if options.action == "verify":
            found = log.verify()
            for problem in found.problems:
                print(problem, file=sys.stderr)
            verdict = "broken" if found.problems else "whole"
            print(f"{found.entries:,} entries, {verdict}; newest {found.head}")
            return 1 if found.problems else 0
        conditions, values = ["true"], []
        for name in ("actor", "outcome"):
            if getattr(options, name):
                conditions.append(f"{name} = ?")
                values.append(getattr(options, name))
        if options.table:
            conditions.append("exists (select 1 from json_each(objects) where key = ?)")
            values.append(options.table)
        entries = log.entries(" and ".join(conditions), tuple(values)).tail(options.last)
    shown = Table("#", "when (UTC)", "who", "role", "what", "about", "rows", "ms", "outcome", "why")
    for row in entries.iter_rows(named=True):
        about = row["statement"] if row["action"] == "query" else row["audience"]
        shown.add_row(
            str(row["sequence_number"]),
            f"{row['occurred_at']:%Y-%m-%d %H:%M:%S}",
            row["actor"],
            row["role"],
            row["action"],
            about[:60],
            "" if row["row_count"] is None else f"{row['row_count']:,}",
            "" if row["duration_ms"] is None else f"{row['duration_ms']:,.0f}",
            row["outcome"],
            row["reason"][:60],
        )
    Console(width=None if sys.stdout.isatty() else 160).print(shown)
    return 0


def _serve(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.access.gateway import serve

    print(f"answering on {options.host}:{options.port}", flush=True)
    serve(settings, options.host, options.port, options.certificate, options.certificate_key)
    return 0


def _users(options: argparse.Namespace, settings: Settings) -> int:
    import contextlib

    from rich.console import Console
    from rich.table import Table

    from hospital_assets.access.audit import Event, record, system_actor
    from hospital_assets.access.users import User, Users, users_file
    from hospital_assets.publishing.policy import load_policy

    with contextlib.closing(Users(users_file(settings))) as users:
        if options.action == "list":
            shown = Table("name", "role", "hospital", "state", "tokens")
            for user, is_disabled, tokens in users.everybody():
                state = "disabled" if is_disabled else "active"
                shown.add_row(user.name, user.role, user.hospital_id or "", state, str(tokens))
            Console().print(shown if shown.row_count else "no users: hospital users add NAME ROLE")
            return 0
        if not options.name:
            raise ValueError(f"say whom: hospital users {options.action} NAME")
        event = Event(system_actor(), "user", statement=f"{options.action} {options.name}")
        if options.action == "add":
            if not options.role:
                raise ValueError("say in which role: hospital users add NAME ROLE")
            user = User(options.name, options.role, options.hospital)
            users.add(user, _password(), load_policy(settings))
        elif options.action == "password":
            users.set_password(options.name, _password())
        elif options.action == "disable":
            users.disable(options.name)
        else:
            print(f"{users.revoke(options.name)} tokens revoked")
        record(settings, event)
    return 0


def _password() -> str:
    """A password from the terminal, twice, or from standard input; never from the command line."""
    import getpass

    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    first = getpass.getpass("password: ")
    if getpass.getpass("again: ") != first:
        raise ValueError("the two differ")
    return first


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


def _history(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.access.audit import Event, record, system_actor
    from hospital_assets.contracts import CONTRACTS
    from hospital_assets.recovery import delta
    from hospital_assets.recovery.history import contract_named
    from hospital_assets.warehouse.database import open_warehouse

    named = [contract_named(name) for name in options.table]
    if options.action == "keep":
        if not settings.warehouse_file.exists():
            raise ValueError(f"{settings.warehouse_file} is missing: run `hospital build` first")
        with open_warehouse(settings.warehouse_file) as warehouse:
            found = delta.keep_versions(warehouse, settings, named)
    elif options.action == "restore":
        if len(named) != 1 or options.version is None:
            raise ValueError("say what: hospital history restore --table TABLE --version NUMBER")
        said = f"history of {named[0].name}, version {options.version}"
        record(settings, Event(system_actor(), "restore", statement=said))
        found = [delta.restore_version(settings, named[0], options.version)]
    else:
        every = named or [c for c in CONTRACTS.values() if c.layer in delta.LAYERS]
        found = [version for c in every for version in delta.versions_of(settings, c)]
    for version in found:
        rows = "" if version.rows is None else f"{version.rows:,} rows"
        print(
            f"{version.table:<32} {version.number:>5}  {version.written_at:%Y-%m-%d %H:%M:%S} UTC  "
            f"{version.what:<8} {rows}"
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
