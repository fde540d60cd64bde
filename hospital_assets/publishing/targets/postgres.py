"""PostgreSQL as the serving database: people with logins of their own, BI tools over a wire.

It is loaded from the publications, never from the warehouse: what a role may not see was left out,
masked and searched for leaks before, so no grant or policy of the server has a raw value behind it.

Each role has a schema with its own copy and a group role `hospital_<role>` that may read the published
columns of it. The publications of a role of single hospitals are put together into one schema, each row
with the hospital it was published for; row-level security shows a login the rows of its hospital.
Logins belong to one role. A load writes `<role>_next` and renames it in one transaction, so a
statement sees the old version or the new one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hospital_assets.contracts import CONTRACTS, Contract
from hospital_assets.publishing.audience import has_audience, parse_audience
from hospital_assets.publishing.policy import Policy, PolicyError, RoleName
from hospital_assets.publishing.publications import (
    PublicationError,
    current_version,
    published_audiences,
    published_folder,
    read_manifest,
)
from hospital_assets.publishing.semantic import Model, rows_of, semantic_model
from hospital_assets.settings import Settings
from hospital_assets.warehouse.dialect import literal, quoted

if TYPE_CHECKING:
    import pyarrow as pa
    from adbc_driver_postgresql.dbapi import Connection

#: Column of roles of single hospitals: the hospital a row was published for.
AUDIENCE_COLUMN = "audience_hospital_id"
#: Schema with the logins and the loads.
ACCESS = "access"
DSN_VARIABLE = "HOSPITAL_POSTGRES_DSN"
#: Any number, always the same: one load at a time.
_LOAD_LOCK = 4_072_026_112
#: Since this version a view can have the rights of who reads it.
_VIEWS_SINCE = 150000
_LOGIN = re.compile(r"[a-z_][a-z0-9_.-]{0,62}")

#: Parquet's types (as Arrow calls them) -> PostgreSQL's.
_TYPES: Mapping[str, str] = {
    "bool": "boolean",
    "date32[day]": "date",
    "double": "double precision",
    "int16": "smallint",
    "int32": "integer",
    "int64": "bigint",
    "string": "text",
    "timestamp[us]": "timestamp",
    "timestamp[us, tz=UTC]": "timestamptz",
}

#: What a login starts every session with. Group roles do not hand settings on to their members, so
#: each login has them itself. A login can change them for its session: they stop accidents.
LOGIN_SETTINGS: Mapping[str, str] = {
    "statement_timeout": "60s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "60s",
    "default_transaction_read_only": "on",
    "TimeZone": "UTC",
}
#: Sessions of one login at the same time; this it cannot change.
CONNECTION_LIMIT = 5

#: Functions that PostgreSQL lets everybody call and that write: they store large objects.
_WRITING_FUNCTIONS = (
    "lo_creat(integer)",
    "lo_create(oid)",
    "lo_from_bytea(oid, bytea)",
    "lo_open(oid, integer)",
    "lo_put(oid, bigint, bytea)",
    "lowrite(integer, bytea)",
)


class PostgresError(PublicationError):
    """A load or a login cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class Loaded:
    """A publication that the server has now, and the rows of all its tables."""

    audience: str
    version: str
    tables: int
    rows: int


@dataclass(frozen=True)
class _Source:
    """The current version of a publication, as files."""

    audience: str
    folder: Path
    manifest: Mapping[str, Any]

    @property
    def version(self) -> str:
        return self.folder.name

    def file(self, table: str) -> Path:
        layer, name = table.split(".")
        return self.folder / "parquet" / layer / f"{name}.parquet"


@contextmanager
def connect(dsn: str) -> Iterator[Connection]:
    """A connection on which every statement is a transaction unless one was begun.

    Args:
        dsn: what libpq understands; a password is best left to its own files.

    Raises:
        PostgresError: the driver is not installed, or the server cannot be reached.
    """
    try:
        import adbc_driver_postgresql.dbapi as driver
    except ModuleNotFoundError as error:
        raise PostgresError(f"{error.name} is not installed; pip install 'hospital-assets[postgres]'") from error
    try:
        connection = driver.connect(dsn, autocommit=True)
    except driver.Error as error:
        raise PostgresError(f"PostgreSQL cannot be reached: {error}") from error
    with connection:
        yield connection


def load_publications(
    connection: Connection, settings: Settings, policy: Policy, *, loaded_at: datetime, roles: Sequence[RoleName] = ()
) -> list[Loaded]:
    """Load the current publications, and let all of them count in one transaction.

    Whatever goes wrong before that leaves the server as it was.

    Args:
        connection: of a role that may create schemas and roles.
        policy: must be the one the publications were made with.
        loaded_at: an instant, for the record.
        roles: which; empty for all that have publications.

    Raises:
        PostgresError: there is nothing to load, a file is not what its manifest says, the policy has
            changed since, or another load is running.
    """
    sources = _sources(settings.data_dir, policy, roles)
    ((is_ours,),) = _rows(connection, f"select pg_try_advisory_lock({_LOAD_LOCK})")
    if not is_ours:
        raise PostgresError("another load is running; try again when it is done")
    try:
        with _without_values("preparing the server"):
            _prepare(connection, policy)
        for role, found in sources.items():
            with _without_values(f"loading '{role}'"):
                _load_role(connection, policy, role, found)
        with _without_values("switching to what was loaded"):
            _swap(connection, sources, loaded_at)
        for role in sources:
            _drop_old(connection, role)
    finally:
        _run(connection, f"select pg_advisory_unlock({_LOAD_LOCK})")
    return [
        Loaded(source.audience, source.version, len(source.manifest["tables"]), sum(source.manifest["rows"].values()))
        for found in sources.values()
        for source in found
    ]


def grant_login(connection: Connection, policy: Policy, login: str, audience: str) -> None:
    """Give a login an audience and the settings it starts with; creates it where it is missing.

    A login has one audience: one it had before is taken away. It gets no password here: set one with
    psql's password command, or let the server authenticate it in another way.

    Args:
        connection: of a role that may create roles; something must have been loaded.
        audience: `analyst`, `doctor-H1`, ...

    Raises:
        PostgresError: the name cannot be a login's, it has powers that no policy can bind, or there is
            no such audience.
    """
    try:
        role, hospital = parse_audience(policy, audience)
    except PolicyError as error:
        raise PostgresError(f"'{audience}' is no audience: {error}") from None
    if not _LOGIN.fullmatch(login) or login.startswith(("pg_", "hospital_")):
        raise PostgresError(
            "a login is lower-case letters, digits, '.', '-' and '_', and starts with neither pg_ nor hospital_"
        )
    with _without_values("preparing the server"):
        _prepare(connection, policy)
    known = _rows(
        connection,
        "select rolsuper or rolbypassrls or rolcreaterole or rolreplication from pg_roles "
        f"where rolname = {literal(login)}",
    )
    if known and known[0][0]:
        raise PostgresError(f"'{login}' has powers that go past every policy; take another login")
    name = quoted(login)
    with _transaction(connection):
        if not known:
            _run(connection, f"create role {name} login inherit")
        _run(connection, f"alter role {name} connection limit {CONNECTION_LIMIT}")
        for setting, value in {**LOGIN_SETTINGS, "search_path": role}.items():
            _run(connection, f"alter role {name} set {setting} = {literal(value)}")
        _leave_groups(connection, policy, login)
        _run(connection, f"grant {_group(role)} to {name}")
        _run(connection, f"delete from {ACCESS}.logins where login = {literal(login)}")
        _run(
            connection,
            f"insert into {ACCESS}.logins (login, role, hospital_id) values "
            f"({literal(login)}, {literal(role)}, {literal(hospital) if hospital else 'null'})",
        )


def revoke_login(connection: Connection, policy: Policy, login: str) -> None:
    """Take a login's audience away; the login itself stays, and sees nothing.

    Raises:
        PostgresError: it has none.
    """
    _prepare(connection, policy)
    if not _rows(connection, f"select from {ACCESS}.logins where login = {literal(login)}"):
        raise PostgresError(f"'{login}' has no audience here")
    with _transaction(connection):
        _leave_groups(connection, policy, login)
        _run(connection, f"delete from {ACCESS}.logins where login = {literal(login)}")


def logins_of(connection: Connection, policy: Policy) -> dict[str, str]:
    """The logins that have an audience, with it."""
    with _without_values("reading the logins"):
        _prepare(connection, policy)
        rows = _rows(connection, f"select login, role, hospital_id from {ACCESS}.logins order by login")
    return {login: f"{role}-{hospital}" if hospital else role for login, role, hospital in rows}


def _leave_groups(connection: Connection, policy: Policy, login: str) -> None:
    held = {
        group
        for (group,) in _rows(
            connection,
            "select g.rolname from pg_auth_members m join pg_roles g on g.oid = m.roleid "
            f"join pg_roles l on l.oid = m.member where l.rolname = {literal(login)}",
        )
    }
    # The policy may have dropped the role that the login has.
    had = _rows(connection, f"select role from {ACCESS}.logins where login = {literal(login)}")
    for role in dict.fromkeys([*policy.roles, *(role for (role,) in had)]):
        if _group(role) in held:
            _run(connection, f"revoke {_group(role)} from {quoted(login)}")


def _sources(data_dir: Path, policy: Policy, roles: Sequence[RoleName]) -> dict[RoleName, list[_Source]]:
    """The publications to load, each file verified against its manifest."""
    found: dict[RoleName, list[_Source]] = {}
    for audience in published_audiences(data_dir):
        folder = published_folder(data_dir) / audience / current_version(data_dir, audience)
        manifest = read_manifest(folder, "role", "policy_sha256")
        role: RoleName = manifest["role"]
        if not has_audience(policy, audience) or (roles and role not in roles):
            continue
        if manifest["policy_sha256"] != policy.sha256:
            raise PostgresError(
                f"'{audience}' was published under another policy than the present one; run `hospital publish` first"
            )
        source = _Source(audience, folder, manifest)
        for table in manifest["tables"]:
            path = source.file(table)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != manifest["files"][str(path.relative_to(folder))]["sha256"]:
                raise PostgresError(
                    f"{audience}: the file of {table} is not the one that was published; run `hospital publish` again"
                )
        found.setdefault(role, []).append(source)
    missing = [role for role in roles if role not in found]
    if missing or not found:
        raise PostgresError(f"nothing is published for {', '.join(missing) or 'anybody'}; run `hospital publish`")
    return found


def _prepare(connection: Connection, policy: Policy) -> None:
    """Groups, the schema of logins, and what everybody may do elsewhere: nothing."""
    existing = {name for (name,) in _rows(connection, "select rolname from pg_roles")}
    ((database, is_superuser),) = _rows(
        connection, "select current_database(), rolsuper from pg_roles where rolname = current_user"
    )
    groups = [_group(role) for role in policy.roles]
    with _transaction(connection):
        for group in groups:
            if group not in existing:
                _run(connection, f"create role {group} nologin")
        _run(connection, f"revoke all on database {quoted(database)} from public")
        _run(connection, f"grant connect on database {quoted(database)} to {', '.join(groups)}")
        _run(connection, f"create schema if not exists {ACCESS}")
        _run(
            connection,
            f"create table if not exists {ACCESS}.logins "
            "(login text primary key, role text not null, hospital_id text)",
        )
        _run(
            connection,
            f"create table if not exists {ACCESS}.loads "
            "(load_id bigint generated always as identity primary key, audience text, "
            "version text, policy_sha256 text, row_count bigint, loaded_at timestamptz)",
        )
        # Each login may read its own line, and so may the policies that run with its rights.
        _run(connection, f"alter table {ACCESS}.logins enable row level security")
        _run(connection, f"drop policy if exists own_line on {ACCESS}.logins")
        _run(connection, f"create policy own_line on {ACCESS}.logins for select using (login = session_user)")
        _run(connection, f"grant usage on schema {ACCESS} to {', '.join(groups)}")
        _run(connection, f"grant select on {ACCESS}.logins to {', '.join(groups)}")
        if is_superuser:
            _run(connection, "revoke all on schema public from public")
            for function in _WRITING_FUNCTIONS:
                _run(connection, f"revoke execute on function {function} from public")


def _load_role(connection: Connection, policy: Policy, role: RoleName, sources: list[_Source]) -> None:
    """Write a role's next schema: tables, rows, keys, grants, row policies."""
    import pyarrow.parquet as pq

    schema = f"{role}_next"
    by_hospital = policy.roles[role].rows == "own_hospital"
    with _transaction(connection):
        _run(connection, f"drop schema if exists {schema} cascade")
        _run(connection, f"create schema {schema}")
        names: dict[str, list[_Source]] = {}
        for source in sources:
            for name in source.manifest["tables"]:
                names.setdefault(name, []).append(source)
        for name, holders in names.items():
            table = name.split(".")[1]
            target = f"{schema}.{quoted(table)}"
            arrow = pq.read_schema(holders[0].file(name))
            columns = [f"{quoted(f.name)} {_type(name, f)}" for f in arrow]
            if by_hospital:
                columns.insert(0, f"{AUDIENCE_COLUMN} text not null")
            _run(connection, f"create table {target} ({', '.join(columns)})")
            expected = 0
            for source in holders:
                hospital = source.manifest["hospital_id"] if by_hospital else None
                _ingest(connection, schema, table, source.file(name), hospital)
                expected += source.manifest["rows"][name]
            ((rows,),) = _rows(connection, f"select count(*) from {target}")
            if rows != expected:
                raise PostgresError(f"{role}: {name} has {rows} rows of {expected}; nothing changed")
            _finish_table(connection, role, target, name, arrow.names, holders[0], by_hospital)
        _relate(connection, role, schema, semantic_model(sources[0].manifest), by_hospital)
        _run(connection, f"grant usage on schema {schema} to {_group(role)}")
    # Outside of the transaction that loaded them, or there would be no visible rows to look at.
    for name in names:
        _run(connection, f"analyze {schema}.{quoted(name.split('.')[1])}")


def _type(table: str, field: pa.Field[Any]) -> str:
    try:
        return _TYPES[str(field.type)]
    except KeyError:
        raise PostgresError(f"{table}.{field.name} is {field.type}, for which no PostgreSQL type is stated") from None


def _ingest(connection: Connection, schema: str, table: str, file: Path, hospital: str | None) -> None:
    """Append a file to a table with binary COPY, a batch at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parquet = pq.ParquetFile(file)
    arrow = parquet.schema_arrow.remove_metadata()
    if hospital is not None:
        arrow = arrow.insert(0, pa.field(AUDIENCE_COLUMN, pa.string()))

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in parquet.iter_batches():
            arrays = batch.columns
            if hospital is not None:
                arrays = [pa.array([hospital]).take(pa.array([0] * len(batch))), *arrays]
            yield pa.RecordBatch.from_arrays(arrays, schema=arrow)

    with connection.cursor() as cursor:
        cursor.adbc_ingest(
            table, pa.RecordBatchReader.from_batches(arrow, batches()), mode="append", db_schema_name=schema
        )


def _finish_table(
    connection: Connection,
    role: RoleName,
    target: str,
    name: str,
    columns: list[str],
    source: _Source,
    by_hospital: bool,
) -> None:
    """Key, comment, grants and the row policy of a table that has its rows."""
    contract = CONTRACTS[name.split(".")[1]]
    published = source.manifest["tables"][name]["columns"]
    scope = [AUDIENCE_COLUMN] if by_hospital else []
    # A key that was masked into groups of values is none any more.
    if all(published.get(key, {}).get("mask") in ("clear", "token") for key in contract.key):
        key = ", ".join(quoted(column) for column in [*scope, *contract.key])
        _run(connection, f"alter table {target} add primary key ({key})")
    elif by_hospital:
        _run(connection, f"create index on {target} ({AUDIENCE_COLUMN})")
    _run(connection, f"comment on table {target} is {literal(contract.summary)}")
    _describe(connection, target, contract, columns)
    for column in scope:
        _run(connection, f"comment on column {target}.{column} is 'The hospital that the row was published for.'")
    # Column by column: one that is not in the manifest stays closed, whoever may add it.
    granted = ", ".join(quoted(column) for column in [*scope, *columns])
    _run(connection, f"grant select ({granted}) on {target} to {_group(role)}")
    if by_hospital:
        _run(connection, f"alter table {target} enable row level security")
        _run(connection, f"alter table {target} force row level security")
        _run(
            connection,
            f"create policy own_hospital on {target} for select to {_group(role)} using "
            f"({AUDIENCE_COLUMN} = (select hospital_id from {ACCESS}.logins "
            f"where login = session_user and role = {literal(role)}))",
        )


def _describe(connection: Connection, target: str, contract: Contract, columns: Iterable[str]) -> None:
    for column in columns:
        _run(
            connection, f"comment on column {target}.{quoted(column)} is {literal(contract.column(column).description)}"
        )


def _relate(connection: Connection, role: RoleName, schema: str, model: Model, by_hospital: bool) -> None:
    """What BI tools look for: foreign keys, and views of the KPI tables without the rows that pool others."""
    scope = f"{AUDIENCE_COLUMN}, " if by_hospital else ""
    for found in model.relationships:
        if CONTRACTS[found.to_table].key == (found.to_column,):
            # They are checked where the tables are built; a publication of a hospital may lack a doctor of another.
            _run(
                connection,
                f"alter table {schema}.{found.table} add foreign key ({scope}{quoted(found.column)}) "
                f"references {schema}.{found.to_table} ({scope}{quoted(found.to_column)}) not valid",
            )
    ((version,),) = _rows(connection, "select current_setting('server_version_num')::int")
    for table in model.tables:
        # Before 15 a view has its owner's rights, for whom no row policy holds.
        if version >= _VIEWS_SINCE and table.figures and table.kept:
            view = f"{schema}.{table.contract.name}_additive"
            columns = [column.source for column in table.columns]
            _run(connection, f"create view {view} with (security_invoker = true) as {rows_of(table, schema)}")
            text = f"{table.contract.summary} Without rows that hold totals of others: sums of its counts are right."
            _run(connection, f"comment on view {view} is {literal(text)}")
            _describe(connection, view, table.contract, columns)
            _run(connection, f"grant select ({', '.join(map(quoted, columns))}) on {view} to {_group(role)}")


def _swap(connection: Connection, sources: Mapping[RoleName, list[_Source]], loaded_at: datetime) -> None:
    """Let the next schemas count, all in one transaction.

    Renaming waits for no reader and lets none wait: readers of the old tables go on reading them.
    """
    schemas = {name for (name,) in _rows(connection, "select nspname from pg_namespace")}
    for role in sources:
        if f"{role}_old" in schemas:
            _drop_old(connection, role, must=True)
    with _transaction(connection):
        for role, found in sources.items():
            if role in schemas:
                _run(connection, f"alter schema {role} rename to {role}_old")
            _run(connection, f"alter schema {role}_next rename to {role}")
            for source in found:
                _run(
                    connection,
                    f"insert into {ACCESS}.loads "
                    "(audience, version, policy_sha256, row_count, loaded_at) values "
                    f"({literal(source.audience)}, {literal(source.version)}, "
                    f"{literal(source.manifest['policy_sha256'])}, "
                    f"{sum(source.manifest['rows'].values())}, "
                    f"{literal(loaded_at.isoformat())}::timestamptz)",
                )


def _drop_old(connection: Connection, role: RoleName, *, must: bool = False) -> None:
    """Drop the version before, unless somebody is still reading it: then the next load does.

    Raises:
        PostgresError: somebody is still reading the version before last, and it must go.
    """
    import adbc_driver_postgresql.dbapi as driver

    try:
        with _transaction(connection):
            _run(connection, "set local lock_timeout = '2s'")
            _run(connection, f"drop schema if exists {role}_old cascade")
    except driver.Error as error:
        if must:
            raise PostgresError(
                f"somebody has been reading the version of '{role}' before last since the load "
                "before this one; end that session (pg_stat_activity names it) and load again"
            ) from error


@contextmanager
def _without_values(what: str) -> Iterator[None]:
    """Errors of the server without its words, which may quote a patient's record."""
    import adbc_driver_postgresql.dbapi as driver

    try:
        yield
    except driver.Error as error:
        raise PostgresError(
            f"{what}: PostgreSQL refused with SQLSTATE {error.sqlstate or 'unknown'}; nothing was "
            "switched. The server's own log says more"
        ) from None


def _group(role: str) -> str:
    return f"hospital_{role}"


@contextmanager
def _transaction(connection: Connection) -> Iterator[None]:
    _run(connection, "begin")
    try:
        yield
    except BaseException:
        _run(connection, "rollback")
        raise
    _run(connection, "commit")


def _run(connection: Connection, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def _rows(connection: Connection, statement: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())
