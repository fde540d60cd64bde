"""`hospital deploy`: publications for PostgreSQL, Snowflake and BI tools; services, proxy, monitoring; thin."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hospital_assets.operations.nginx import PREFIX, nginx_configuration, write_configuration
from hospital_assets.operations.services import ENVIRONMENT_FILE, SERVICES, container_files, systemd_units, write_units
from hospital_assets.settings import Settings, SettingsError, engine_from_environment

if TYPE_CHECKING:
    from hospital_assets.cli.console import Commands


def add_commands(commands: Commands) -> None:
    """Add `deploy` to the parser."""
    deployed = commands.add_parser(
        "deploy",
        help="load publications into PostgreSQL, or write what Snowflake, BI tools, services, nginx or Prometheus need",
    )
    targets = commands.below(deployed, "TARGET")

    snowflake = targets.add_parser(
        "snowflake", _snowflake, help="render SnowDDL configuration, a load script and a verification script"
    )
    snowflake.add_argument("--out", type=Path, required=True, help="folder to write to")
    snowflake.add_argument(
        "--without-data", action="store_true", help="only what follows from the policy, no Parquet files"
    )

    systemd = targets.add_parser(
        "systemd", _systemd, help="write the units of the services, for a machine that systemd runs"
    )
    systemd.add_argument("--into", type=Path, required=True, help="folder to write to, as in /etc/systemd/system")
    systemd.add_argument("--user", default="hospital", help="who the services run as (default hospital)")

    containers = targets.add_parser(
        "containers", _containers, help="write a Containerfile, and a compose.yaml of the services"
    )
    containers.add_argument("--into", type=Path, required=True, help="folder to write to; the wheel goes there, too")
    containers.add_argument(
        "--user", type=int, default=10_001, metavar="NUMBER", help="user and group that they run as (default 10001)"
    )

    for services in (systemd, containers):
        services.add_argument(
            "--keys",
            type=Path,
            default=Path("/var/lib/hospital-keys"),
            help="folder of the keys and of the audit log's anchors (default /var/lib/hospital-keys)",
        )
        services.add_argument(
            "--with",
            dest="also",
            action="append",
            default=[],
            choices=[service.name for service in SERVICES if service.is_optional],
            help="also this one",
        )

    nginx = targets.add_parser("nginx", _nginx, help="write the configuration of nginx as the proxy of it all")
    nginx.add_argument("--into", type=Path, required=True, help="folder to write to, as in /etc/nginx/conf.d")
    nginx.add_argument("--name", required=True, help="host name that people use, as in ed.example.org")
    nginx.add_argument("--certificate", type=Path, required=True, help="PEM file with the chain")
    nginx.add_argument("--certificate-key", type=Path, required=True, help="its key")
    for service, port in (("dashboard", 8000), ("dagster", 3000), ("gateway", 8321)):
        nginx.add_argument(f"--{service}-port", type=int, default=port, help=f"default {port}")

    monitoring = targets.add_parser(
        "monitoring", _monitoring, help="write alert rules for Prometheus and a dashboard for Grafana"
    )
    monitoring.add_argument("--into", type=Path, required=True, help="folder to write to")

    postgres = targets.add_parser("postgres", _postgres, help="load the publications and give logins an audience")
    postgres.add_argument(
        "--dsn", help="libpq connection string, as in postgresql:///hospital (default: $HOSPITAL_POSTGRES_DSN)"
    )
    postgres.add_argument(
        "--role", action="append", default=[], help="load only the publications of this role of the policy"
    )
    postgres.add_argument(
        "--login",
        action="append",
        default=[],
        metavar="NAME",
        help="give a user of `hospital users` a login; loads nothing unless --role is given",
    )
    postgres.add_argument("--revoke", action="append", default=[], metavar="NAME", help="take a login's audience away")

    for name, text, source in (
        (
            "powerbi",
            "write a Power BI project for each publication",
            "folder of the publications as Power BI sees it, or ",
        ),
        ("superset", "write the datasets of each publication for Apache Superset", ""),
    ):
        tool = targets.add_parser(name, help=text)
        tool.add_argument("--out", type=Path, required=True, help="folder to write to; one is made for each audience")
        tool.add_argument("--role", action="append", default=[], help="only for the publications of this role")
        tool.add_argument("--source", help=f"{source}postgresql://SERVER/DATABASE that was loaded before")
        tool.set_defaults(run=_bi_tool, tool=name)


def _systemd(options: argparse.Namespace, settings: Settings) -> int:
    program = Path(sys.executable).with_name("hospital")
    if not program.exists():
        raise SettingsError(f"{program} is not there: install the package with pip, then run this with its command")
    folders = _outside(settings)
    units = systemd_units(
        program, settings.data_dir.resolve(), options.user, options.keys.resolve(), tuple(options.also), folders
    )
    for path in write_units(units, options.into):
        print(path)
    print(
        f"hospital: secrets and settings of the environment go into {ENVIRONMENT_FILE}; then `systemctl daemon-reload` "
        "and `systemctl enable --now hospital.target`"
    )
    for folder in folders:
        print(f"hospital: make {folder} first, and let it belong to {options.user}")
    return 0


def _containers(options: argparse.Namespace, settings: Settings) -> int:
    data_dir, keys = settings.data_dir.resolve(), options.keys.resolve()
    folders = _outside(settings)
    files = container_files(data_dir, options.user, keys, tuple(options.also), settings.backup.folder, folders)
    for path in write_units(files, options.into):
        print(path)
    owned = ", ".join(map(str, (data_dir, keys, *folders)))
    print(
        f"hospital: put the wheel into {options.into}, make {owned} belong to user {options.user} alone, "
        "then `docker compose up --build --detach` there"
    )
    return 0


def _outside(settings: Settings) -> tuple[Path, ...]:
    """Folders outside the data directory that services write: the mirror's, and the lake's where one is named."""
    named = [Path(name).resolve() for name in (settings.mirror_root, engine_from_environment().lake) if name[:1] == "/"]
    return tuple(folder for folder in named if not folder.is_relative_to(settings.data_dir.resolve()))


def _nginx(options: argparse.Namespace, settings: Settings) -> int:
    text = nginx_configuration(
        options.name,
        options.certificate,
        options.certificate_key,
        dashboard_port=options.dashboard_port,
        dagster_port=options.dagster_port,
        gateway_port=options.gateway_port,
    )
    print(write_configuration(text, options.into))
    proxied = f"--allowed-host {options.name} --proxy 127.0.0.1"
    print(
        f"hospital: start `hospital dashboard` and `hospital serve` with {proxied}, and `hospital dagster webserver` "
        f"with --path-prefix {PREFIX}; then `nginx -t` and `systemctl reload nginx`"
    )
    return 0


def _monitoring(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.files import replace_text
    from hospital_assets.operations.monitoring import files

    for name, text in files():
        # Prometheus and Grafana run as other users.
        replace_text(options.into / name, text, mode=0o644)
        print(options.into / name)
    return 0


def _snowflake(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.access.audit import Event, record, system_actor
    from hospital_assets.publishing.policy import load_policy
    from hospital_assets.publishing.pseudonyms import load_key
    from hospital_assets.publishing.targets.snowflake.data import export
    from hospital_assets.publishing.targets.snowflake.model import base_role
    from hospital_assets.publishing.targets.snowflake.rendering import render, write

    policy = load_policy(settings)
    rendering = render(policy)
    written = write(rendering, options.out)
    print(
        f"{len(written)} files in {options.out}: {len(rendering.columns)} tables, "
        f"{len(rendering.views)} secure views; every reference was checked"
    )
    if not options.without_data:
        base = base_role(policy)
        record(
            settings,
            Event(
                system_actor(),
                "export",
                role=base,
                audience=base,
                statement="deploy snowflake",
                objects={place: list(columns) for place, columns in rendering.columns.items()},
            ),
        )
        rows = export(rendering, settings, policy, options.out, lambda: load_key(settings))
        print(
            f"{sum(rows.values()):,} rows of {len(rows)} tables in {options.out / 'data'}: "
            "identified patient data, delete it once it is loaded"
        )
    print("next: snowddl -c config plan, then load.sql, then verify.sql (docs/snowflake.md)")
    return 0


def _bi_tool(options: argparse.Namespace, settings: Settings) -> int:
    from hospital_assets.publishing.audience import has_audience
    from hospital_assets.publishing.policy import load_policy, role_named
    from hospital_assets.publishing.publications import (
        PublicationError,
        published_audiences,
        read_manifest,
        version_folder,
    )
    from hospital_assets.publishing.semantic import semantic_model
    from hospital_assets.publishing.targets import powerbi, superset, write_new

    render, source = {
        "powerbi": (powerbi.render, powerbi.DEFAULT_SOURCE),
        "superset": (superset.render, superset.DEFAULT_SOURCE),
    }[options.tool]
    policy = load_policy(settings)
    roles = [role_named(policy, role) for role in options.role]
    manifests = [
        read_manifest(version_folder(settings.data_dir, audience), "audience", "role")
        for audience in published_audiences(settings.data_dir)
        if has_audience(policy, audience)
    ]
    models = [semantic_model(manifest) for manifest in manifests if not roles or manifest["role"] in roles]
    if not models:
        raise PublicationError("nothing is published for them; run `hospital publish`")
    for model in models:
        write_new(render(model, options.source or source), options.out / model.audience)
        figures = sum(len(table.figures) for table in model.tables)
        print(f"{options.out / model.audience}: {len(model.tables)} tables, {figures} figures; no data")
    return 0


def _postgres(options: argparse.Namespace, settings: Settings) -> int:
    from contextlib import closing
    from dataclasses import replace
    from datetime import UTC, datetime

    from hospital_assets.access import logins
    from hospital_assets.access.audit import Event, record, system_actor
    from hospital_assets.access.users import open_users
    from hospital_assets.publishing.policy import load_policy, role_named
    from hospital_assets.publishing.targets.postgres import DSN_VARIABLE, connect, load_publications

    dsn = options.dsn or os.environ.get(DSN_VARIABLE)
    if not dsn:
        raise ValueError(f"name the database: --dsn postgresql:///hospital, or set {DSN_VARIABLE}")
    policy, by = load_policy(settings), system_actor()
    roles = [role_named(policy, role) for role in options.role]
    with connect(dsn) as connection, closing(open_users(settings)) as users:
        for line in logins.align(connection, settings, policy, users, by=by):
            print(line)
        # First the entry, then the deed; the address may hold a password and is not in it.
        if options.role or not (options.login or options.revoke):
            asked = f"deploy postgres {' '.join(options.role)}".rstrip()
            record(settings, Event(by, "export", statement=asked))
            for loaded in load_publications(connection, settings, policy, loaded_at=datetime.now(UTC), roles=roles):
                entry = Event(by, "export", audience=loaded.audience, version=loaded.version, statement=asked)
                record(settings, replace(entry, row_count=loaded.rows))
                print(
                    f"loaded  {loaded.audience:<12} {loaded.version}  {loaded.tables} tables  {loaded.rows:>12,} rows"
                )
        for name in options.revoke:
            logins.revoke(connection, settings, policy, name, by=by)
            print(f"revoked {name}")
        for name in options.login:
            print(f"granted {name} {logins.grant(connection, settings, policy, users, name, by=by)}")
    return 0
