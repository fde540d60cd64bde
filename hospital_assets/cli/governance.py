"""The commands about who sees what and who did what; thin, over functions of other packages."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from hospital_assets.cli import deploy
from hospital_assets.cli.console import definitions_of, headed, terminal
from hospital_assets.cli.serving import add_address, address_of, metrics_of
from hospital_assets.settings import Settings

if TYPE_CHECKING:
    from hospital_assets.access.users import Account, OpenSession
    from hospital_assets.cli.console import Commands


def add_commands(commands: Commands) -> None:
    """Add this package's commands to the parser."""
    published = commands.add_parser(
        "publish", _publish, help="publish the stored tables to every audience, masked and searched for leaks"
    )
    published.add_argument("--role", action="append", default=[], help="only this role's publications")

    commands.add_parser("publications", _publications, help="list what is published to whom, with its versions")

    policy = commands.add_parser("policy", _policy, help="check the policy and show who sees what")
    policy.add_argument("--missing", action="store_true", help="print lines for the columns it does not cover")

    audit = commands.add_parser("audit", _audit, help="show who did what; verify that the log is intact")
    audit.add_argument("action", nargs="?", default="list", choices=["list", "verify", "accept"])
    audit.add_argument("--reason", help="accept: why what was found is no attack, as in 'restored from a backup'")
    audit.add_argument("--actor", help="only entries of this user")
    audit.add_argument("--table", help="only entries about this table, as in facts.fact_vitals")
    audit.add_argument("--outcome", choices=["allowed", "refused", "failed"])
    audit.add_argument("--last", type=int, default=50, help="how many (default 50)")

    served = commands.add_parser(
        "serve", _serve, help="answer users' SQL over HTTP, from their role's publication only"
    )
    add_address(served, 8321)

    users = commands.add_parser(
        "users", _users, help="manage who may sign in to the dashboard and the gateway, and in which role"
    )
    users.add_argument(
        "action", choices=["list", "add", "disable", "enable", "remove", "password", "revoke", "sessions", "end"]
    )
    users.add_argument("name", nargs="?", help="the user; of `end` the session, as `sessions` lists it")
    users.add_argument("role", nargs="?", help="a role of the policy: see hospital policy")
    users.add_argument("--hospital", help="for a role at one hospital, as in H1")

    key = commands.add_parser("key", _key, help="create the secret key of pseudonyms, or show its id")
    key.add_argument("action", choices=["create", "show-id"])
    key.add_argument("--if-missing", action="store_true", help="create: keep a key that is there")

    deploy.add_commands(commands)


def _publish(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.access.audit import AuditLog
    from hospital_assets.automation.build import publish
    from hospital_assets.publishing.policy import load_policy, role_named
    from hospital_assets.publishing.pseudonyms import load_key

    # All of this would stop the run, too; here the message is all there is to read.
    policy = load_policy(settings)
    if any(policy.needs_key(role_named(policy, role)) for role in options.role or policy.roles):
        load_key(settings)
    AuditLog(settings).close()
    report = publish(definitions_of(settings), settings, options.role)
    for failure in report.failures:
        print(f"failed: {failure}", file=sys.stderr)
    for check in report.failed_checks:
        print(f"stopped: {check.description}", file=sys.stderr)
    _publications(options, settings)
    print(f"in {report.seconds:.1f} s")
    return 0 if report.succeeded else 1


def _publications(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.publishing.publications import (
        current_version,
        published_audiences,
        published_folder,
        read_manifest,
        versions,
    )

    numbers = ("tables", "rows", "MB", "kept", "kept MB")
    shown = headed("audience", "version", *numbers, "claim", right=numbers)
    for audience in published_audiences(settings.data_dir):
        folder = published_folder(settings.data_dir) / audience
        version = current_version(settings.data_dir, audience)
        manifest = read_manifest(folder / version, "files")
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
    console = terminal()
    console.print(shown if shown.row_count else "nothing is published: run `hospital publish`")
    return 0


def _policy(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.publishing.claims import claim_of
    from hospital_assets.publishing.policy import as_toml, load_policy, uncovered

    policy = load_policy(settings)
    missing = uncovered(policy)
    if options.missing:
        print(as_toml(policy, missing) or "every column is covered")
        return 1 if missing else 0
    shown = headed("role", "tables", "columns", "masked", "left out", "claim")
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
    terminal().print(shown)
    if missing:
        columns = sum(map(len, missing.values()))
        print(
            f"{columns} columns of {len(missing)} tables are not covered, so they are not published; "
            "`hospital policy --missing` prints the lines to add",
            file=sys.stderr,
        )
    return 1 if missing else 0


def _key(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.access.audit import make_key, system_actor
    from hospital_assets.publishing.pseudonyms import KEEP_KEY, has_key, load_key

    if options.action == "create" and not (options.if_missing and has_key()):
        print(f"{make_key(settings, system_actor())} {KEEP_KEY}")
    print(f"key id {load_key(settings).key_id}")
    return 0


def _audit(options: argparse.Namespace, settings: Settings) -> int:
    import contextlib

    from hospital_assets.access.audit import AuditLog, about, log_file, system_actor

    if not log_file(settings).exists() and (options.action == "list" or not settings.data_dir.exists()):
        print("nothing has been audited yet")
        return 0
    with contextlib.closing(AuditLog(settings)) as log:
        if options.action == "verify":
            found = log.verify()
            for problem in found.problems:
                print(problem, file=sys.stderr)
            verdict = "broken" if found.problems else "whole"
            print(f"{found.entries:,} entries, {verdict}; newest {found.head}")
            return 1 if found.problems else 0
        if options.action == "accept":
            if not (options.reason or "").strip():
                raise ValueError("say why: hospital audit accept --reason '...'; it stays in the log")
            log.accept(options.reason, system_actor())
            return 0
        conditions, values = ["true"], []
        for name in ("actor", "outcome"):
            if getattr(options, name):
                conditions.append(f"{name} = ?")
                values.append(getattr(options, name))
        if options.table:
            conditions.append("exists (select 1 from json_each(objects) where key = ?)")
            values.append(options.table)
        entries = log.entries(" and ".join(conditions), tuple(values)).tail(options.last)
    shown = headed("#", "when (UTC)", "who", "role", "what", "about", "rows", "ms", "outcome", "why")
    for row in entries.iter_rows(named=True):
        shown.add_row(
            str(row["sequence_number"]),
            f"{row['occurred_at']:%Y-%m-%d %H:%M:%S}",
            row["actor"],
            row["role"],
            row["action"],
            about(row)[:60],
            "" if row["row_count"] is None else f"{row['row_count']:,}",
            "" if row["duration_ms"] is None else f"{row['duration_ms']:,.0f}",
            row["outcome"],
            row["reason"][:60],
        )
    terminal().print(shown)
    return 0


def _serve(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.access.gateway import app_at
    from hospital_assets.access.sandbox import Limits
    from hospital_assets.access.serving import run
    from hospital_assets.logs import teller

    address = address_of(options)
    app = app_at(settings, address, metrics_of(settings, address))
    teller("hospital.gateway")(f"answering on {address}")
    # A query that runs is answered; idle connections are not waited for longer than one may take.
    run(app, address, graceful_seconds=int(Limits().seconds) + 2)
    return 0


def _users(options: argparse.Namespace, settings: Settings) -> int:
    from contextlib import closing

    from hospital_assets.access.audit import system_actor
    from hospital_assets.access.users import User, open_users

    by = system_actor()
    with closing(open_users(settings)) as users:
        if options.action == "list":
            _print_users(users.everybody())
            return 0
        if options.action == "sessions":
            _print_sessions([s for s in users.sessions() if options.name in (None, s.name)])
            return 0
        if not options.name:
            raise ValueError(f"name the user: hospital users {options.action} NAME")
        if options.action == "add":
            if not options.role:
                raise ValueError("name the role: hospital users add NAME ROLE")
            user = User(options.name, options.role, options.hospital)
            users.add(user, _password(), by=by)
            print(f"{user.name} may sign in and sees what '{user.audience}' sees")
        elif options.action == "password":
            users.set_password(options.name, _password(), by=by)
        elif options.action == "revoke":
            print(f"{users.revoke(options.name, by=by)} sessions ended")
        else:
            {"disable": users.disable, "enable": users.enable, "remove": users.remove, "end": users.end}[
                options.action
            ](options.name, by=by)
    return 0


def _print_users(accounts: list[Account]) -> None:
    shown = headed("name", "role", "hospital", "signs in", "state", "sessions")
    for account in accounts:
        state = "disabled" if account.is_disabled else "active"
        if account.locked_until and not account.is_disabled:
            state = f"waits until {account.locked_until:%H:%M} UTC"
        user = account.user
        where = account.issuer or "here"
        others = [audience for audience in user.audiences if audience != user.audience]
        role = " or ".join([user.role, *others])
        shown.add_row(user.name, role, user.hospital_id or "", where, state, str(account.sessions))
    terminal().print(shown if shown.row_count else "no users: hospital users add NAME ROLE")


def _print_sessions(sessions: list[OpenSession]) -> None:
    shown = headed("session", "name", "application", "from", "since (UTC)", "last used", "ends")
    for session in sessions:
        moments = (f"{at:%Y-%m-%d %H:%M}" for at in (session.created_at, session.used_at, session.expires_at))
        shown.add_row(session.session_id, session.name, session.kind, session.client, *moments)
    terminal().print(shown if sessions else "nobody is signed in")


def _password() -> str:
    """A password from the terminal, twice, or from standard input; never from the command line."""
    import getpass

    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    first = getpass.getpass("password: ")
    if getpass.getpass("again: ") != first:
        raise ValueError("the two passwords differ")
    return first
