"""Publications: each audience's own copy of the warehouse, masked before it is written.

An audience is a role, for doctors a role at one hospital. Its publication is a DuckDB file and a set of
Parquet files under `published/<audience>/<version>/`, built from nothing, with a `manifest.json` that
says what is in it, what was masked how, and what may be claimed of it. `current.json` next to the versions
names the one that counts; it is replaced in one step, so readers never wait and never see half of
anything, and a reader that has an older version open keeps it.

To read one:

    with open_publication(data_dir, "analyst") as publication:
        publication.connection.sql("select * from kpis.kpi_waits").pl()

Tables have the names they have in the warehouse, as in `facts.fact_emergency_visits`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any, Self

import duckdb

from hospital_assets.clock import last_whole_day
from hospital_assets.contracts import CONTRACTS, Contract
from hospital_assets.files import StateError, flush_all, read_state, replace_text
from hospital_assets.publishing.audience import Audience, PublishedTable, has_audience
from hospital_assets.publishing.claims import claim_of
from hospital_assets.publishing.leaks import LeakReport, check_leaks, collect_identifiers
from hospital_assets.publishing.locked import locked_connection
from hospital_assets.publishing.masks import masked
from hospital_assets.publishing.policy import Policy, PolicyError, RoleName, load_policy
from hospital_assets.publishing.pseudonyms import SecretKey, make_tokens
from hospital_assets.publishing.small_cells import Protected, protect_small_cells
from hospital_assets.publishing.withdrawn import protection, why_withdrawn
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import Warehouse
from hospital_assets.warehouse.dialect import literal, quoted
from hospital_assets.warehouse.errors import without_values

#: Files of this format can be opened by every DuckDB client since 1.0, those inside BI tools included.
STORAGE_VERSION = "v1.0.0"
DATABASE = "publication.duckdb"
#: Values of a column in a row group for which Parquet keeps a dictionary; trying longer ones costs a quarter
#: of the writing and saves three hundredths of the size.
_MOST_DIFFERENT = 1_000
_POINTER = "current.json"
_BUILDING = ".building-"
_LOOK_UP_SECONDS = 0.5
_VERSION = re.compile(r"\d{8}T\d{12}Z")
#: A hospital's identifier in the name of a folder; of another source with its namespace, as in `hl7v2-adt:SFAC`.
_HOSPITAL = r"\w[\w.:-]*"
_AUDIENCE = re.compile(rf"\w+(-{_HOSPITAL})?", re.ASCII)
#: What is in an audience's folder.
_IS_OURS = re.compile(rf"{re.escape(_POINTER)}|{_VERSION.pattern}|{re.escape(_BUILDING)}.*")

#: What is older than this against the hospital's clock is stale: on the pages, and in Dagster.
FRESH_FOR = timedelta(hours=36)


class PublicationError(ValueError):
    """A publication cannot be made or opened; the message says why and what to do."""


class WithdrawnError(PublicationError):
    """A version holds what today's policy does not allow any more."""


class LeakError(PublicationError):
    """The leak check found something; nothing was published."""

    def __init__(self, audience: str, report: LeakReport) -> None:
        places = "; ".join(str(finding) for finding in report.findings)
        super().__init__(
            f"publication '{audience}' was stopped, the version before still stands: {places}. "
            "Correct the source or the policy, then publish again"
        )
        self.report = report


@dataclass
class Publication:
    """A version of a publication, open for reading. Close it, or use it in a `with`.

    Attributes:
        connection: read-only, without access to anything outside, its configuration locked.
    """

    audience: str
    version: str
    path: Path
    manifest: dict[str, Any]
    connection: duckdb.DuckDBPyConnection = field(repr=False)

    @property
    def published_at(self) -> datetime:
        """When it was published."""
        return datetime.fromisoformat(self.manifest["published_at"])

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_publication(
    data_dir: Path, audience: str, as_of: datetime | None = None, *, memory_limit: str = "1GB", threads: int = 2
) -> Publication:
    """Open the current version of a publication, or the one that was current at a time.

    A version that is open stays as it is when a newer one is published; open again to see that.

    Args:
        audience: `admin`, `analyst`, `executive`, `doctor-H1`, ...
        as_of: an instant; None for now.
        memory_limit: of DuckDB; queries that need more fail, they do not spill.
        threads: of DuckDB. Every open in one process must name the same limits.

    Raises:
        PublicationError: there is none, or the one that counted at `as_of` is not kept.
        WithdrawnError: that version shows what today's policy does not.
    """
    for attempt in (1, 2):
        folder = version_folder(data_dir, audience, as_of)
        try:
            manifest = read_manifest(folder)
            connection = locked_connection(str(folder / DATABASE), memory_limit, threads)
        except (FileNotFoundError, duckdb.IOException) as error:
            # It may have been replaced and deleted since the pointer was read.
            if attempt == 1:
                continue
            raise PublicationError(f"{folder} cannot be opened: {error}. Delete it and `hospital publish`") from error
        return Publication(audience, folder.name, folder, manifest, connection)
    raise AssertionError


def published_folder(data_dir: Path) -> Path:
    """Where the publications of a data directory are."""
    return data_dir / "published"


def read_manifest(folder: Path, *keys: str) -> dict[str, Any]:
    """What a version says of itself.

    Args:
        keys: what it must have, besides what every manifest has.

    Raises:
        FileNotFoundError: there is none.
        StateError: it is not what was written there.
    """
    remedy = "delete the version's folder and `hospital publish`"
    return read_state(folder / "manifest.json", remedy, "published_at", "claim", "rows", "tables", *keys)


def published_audiences(data_dir: Path) -> list[str]:
    """Audiences that have a publication."""
    return sorted(path.parent.name for path in published_folder(data_dir).glob(f"*/{_POINTER}"))


def withdrawn_audiences(data_dir: Path, policy: Policy) -> list[str]:
    """Audiences that the policy does not make any more, of which there is a publication or what is left of one."""
    ours = (path for path in published_folder(data_dir).glob("*/*") if _IS_OURS.fullmatch(path.name))
    found = {path.parent.name for path in ours if _AUDIENCE.fullmatch(path.parent.name)}
    return sorted(audience for audience in found if not has_audience(policy, audience))


def delete_publication(data_dir: Path, audience: str) -> None:
    """Delete all versions of an audience; whoever has one open keeps it until it is closed.

    Raises:
        PublicationError: they cannot be deleted, or not all; what is left is still of a withdrawn audience.
    """
    folder = _audience_folder(data_dir, audience)
    try:
        (folder / _POINTER).unlink(missing_ok=True)
        shutil.rmtree(folder)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise PublicationError(
            f"the publication {folder} cannot be deleted ({why}), and the policy makes it no more: delete it"
        ) from None


def versions(data_dir: Path, audience: str) -> list[str]:
    """Versions that are kept, oldest first."""
    folder = _audience_folder(data_dir, audience)
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if _VERSION.fullmatch(path.name))


def current_version(data_dir: Path, audience: str) -> str:
    """The version that counts.

    Raises:
        PublicationError: nothing was published for the audience.
    """
    return str(_pointer(data_dir, audience)["version"])


def _pointer(data_dir: Path, audience: str) -> dict[str, Any]:
    pointer = _audience_folder(data_dir, audience) / _POINTER
    try:
        return read_state(pointer, "remove it and `hospital publish`", "version")
    except StateError as error:
        raise PublicationError(str(error)) from None
    except FileNotFoundError:
        known = ", ".join(published_audiences(data_dir)) or "none"
        raise PublicationError(
            f"nothing is published for '{audience}' (published: {known}); run `hospital publish`"
        ) from None


def _audience_folder(data_dir: Path, audience: str) -> Path:
    if not _AUDIENCE.fullmatch(audience):
        raise PublicationError("an audience is a role, or a role and a hospital, as in doctor-H1")
    return published_folder(data_dir) / audience


def version_folder(data_dir: Path, audience: str, as_of: datetime | None = None) -> Path:
    """The folder of the version that counts, or of the one that did at a time.

    Raises:
        PublicationError: there is none, or the one that counted at `as_of` is not kept.
        WithdrawnError: that version shows what today's policy does not.
    """
    folder, pointer = _audience_folder(data_dir, audience), _pointer(data_dir, audience)
    newest = str(pointer["version"])
    if as_of is None:
        return folder / newest
    moment = _version_of(as_of)
    kept = [version for version in versions(data_dir, audience) if version <= newest]
    # Those that an older program wrote do not say which have counted.
    counted = [version for version in pointer.get("counted", kept) if version <= min(moment, newest)]
    if not counted:
        raise PublicationError(
            f"no version of '{audience}' from {as_of:%Y-%m-%d %H:%M} or before is kept; the oldest is {kept[0]}"
        )
    then: str = max(counted)
    if then not in kept:
        raise PublicationError(
            f"the version of '{audience}' that counted at {as_of:%Y-%m-%d %H:%M} is not kept any more: of each hour "
            "that is over, the newest is"
        )
    if then != newest:
        _refuse_withdrawn(data_dir, folder / then)
    return folder / then


def _refuse_withdrawn(data_dir: Path, folder: Path) -> None:
    """Refuse a version of before that shows more than today's policy; the one that counts waits for the next."""
    try:
        why = why_withdrawn(load_policy(Settings(data_dir)), read_manifest(folder, "role", "hospital_id"))
    except PolicyError:
        why = "the policy cannot be used: see `hospital policy`"
    except (FileNotFoundError, StateError) as error:
        raise PublicationError(f"{folder.name} cannot be read: {error}") from None
    if why:
        raise WithdrawnError(f"the version of {moment_of(folder.name):%Y-%m-%d %H:%M} is not read any more: {why}")


def _version_of(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y%m%dT%H%M%S%f}Z"


def _hour_of(version: str) -> str:
    return version[: len("20260101T00")]


def moment_of(version: str) -> datetime:
    """When a version was published, by its name."""
    return datetime.strptime(version, "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)


def publication_moments(data_dir: Path) -> list[datetime]:
    """When the publications that count were made, one of each audience that has one.

    Raises:
        PublicationError: what says which one counts is damaged.
    """
    return [moment_of(current_version(data_dir, audience)) for audience in published_audiences(data_dir)]


def audiences_of(warehouse: Warehouse, policy: Policy, role: RoleName) -> list[Audience]:
    """The audiences of a role: one, or one for each hospital.

    Raises:
        PublicationError: a hospital's identifier cannot be the name of a folder.
    """
    if policy.roles[role].rows == "all":
        return [Audience(role)]
    found = warehouse.connection.execute(
        "select hospital_id, hospital_key from dimensions.dim_hospital where hospital_key > 0 order by hospital_id"
    ).fetchall()
    for hospital, _ in found:
        if not re.fullmatch(_HOSPITAL, hospital, re.ASCII):
            raise PublicationError(
                f"hospital '{hospital}' has an identifier that no folder can have; use letters and "
                "digits in the hospital reference data"
            )
    return [Audience(role, hospital, key) for hospital, key in found]


@dataclass(frozen=True)
class Made:
    """A version that was published: its manifest, its leak report and what it took.

    Attributes:
        deleted: versions that are deleted with it because of their age.
    """

    audience: str
    version: str
    manifest: Mapping[str, Any]
    report: LeakReport
    deleted: tuple[str, ...]


#: What is around the moment from which a version counts: raises where that cannot be audited, so that it does not.
Act = Callable[[Made], AbstractContextManager[None]]


def _unaudited(_: Made) -> AbstractContextManager[None]:
    return contextlib.nullcontext()


def publish_all(
    warehouse: Warehouse,
    settings: Settings,
    policy: Policy,
    audiences: Sequence[Audience],
    *,
    key: Callable[[], SecretKey],
    published_at: datetime,
    data_as_of: datetime,
    run_id: str = "",
    act: Act = _unaudited,
) -> list[tuple[Audience, Made | Exception]]:
    """Build the publications of some audiences at once, check them, and let them count.

    Whatever goes wrong before the last step leaves the version before as it was, and keeps no other audience waiting:
    it is returned. What an audience may not see is a LeakError.

    Args:
        key: gives the pseudonym key; asked only when tokens or rounding need one.
        published_at: the wall clock; names the versions.
        data_as_of: the hospital's time; ages are counted to its year.
        act: audits that a version is to count.
    """
    is_over = Event()

    def made(some: Sequence[Audience]) -> list[Made | Exception]:
        with warehouse.second_connection() as own:
            protected = functools.cache(lambda: _protected(own, policy, key, last_whole_day(data_as_of)))

            def outcome(audience: Audience) -> Made | Exception:
                try:
                    return _publish(
                        own, settings, policy, audience, key, protected, published_at, data_as_of, run_id, act
                    )
                except Exception as error:
                    return error

            return [outcome(audience) for audience in some if not is_over.is_set()]

    hides_something = not all(policy.sees_everything(audience.role) for audience in audiences)
    if hides_something and warehouse.exists(CONTRACTS["dim_hospital"]):
        # Once, before they share it.
        collect_identifiers(warehouse, policy)
    # Those from whom small cells are protected share the copies, and so a connection; they take longest.
    sharing = [audience for audience in audiences if _is_protected(policy, audience.role)]
    groups = [sharing, *([audience] for audience in audiences if audience not in sharing)]
    at_once = min(len(groups), os.cpu_count() or 1)
    with _in_order(warehouse), ThreadPoolExecutor(at_once) as pool:
        found = [pool.submit(made, group) for group in groups]
        try:
            # After a signal, too, the system goes on waiting since Polars is there: who looks up hears of it.
            while wait(found, _LOOK_UP_SECONDS).not_done:
                pass
        finally:
            # It ends with those that are at work.
            is_over.set()
        outcomes = dict(zip(itertools.chain(*groups), itertools.chain(*(one.result() for one in found)), strict=True))
    return [(audience, outcomes[audience]) for audience in audiences]


def _is_protected(policy: Policy, role: RoleName) -> bool:
    return policy.roles[role].small_cells == "protect"


def _protected(warehouse: Warehouse, policy: Policy, key: Callable[[], SecretKey], until: date) -> Protected:
    """Protected copies of what anybody gets protected: the same ones for all, whoever is published to."""
    roles = [role for role in policy.roles if _is_protected(policy, role)]
    tables = {table.contract.name: table for role in roles for table in plan(warehouse, policy, Audience(role))}
    secret = key().derived("rounding")
    return protect_small_cells(warehouse.connection, policy, list(tables.values()), secret, until)


@contextlib.contextmanager
def _in_order(warehouse: Warehouse) -> Iterator[None]:
    """Have files written in the order of their tables' rows: a setting of the whole process."""
    warehouse.connection.execute("set preserve_insertion_order = true")
    try:
        yield
    finally:
        # After a fatal error there is no connection any more, and it is that error that counts.
        with contextlib.suppress(duckdb.Error):
            warehouse.connection.execute("set preserve_insertion_order = false")


def _publish(
    warehouse: Warehouse,
    settings: Settings,
    policy: Policy,
    audience: Audience,
    key: Callable[[], SecretKey],
    protected: Callable[[], Protected],
    published_at: datetime,
    data_as_of: datetime,
    run_id: str,
    act: Act,
) -> Made:
    version = _version_of(published_at)
    folder = _audience_folder(settings.data_dir, audience.name)
    building = folder / f"{_BUILDING}{version}"
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f"{_BUILDING}*"):
        shutil.rmtree(leftover)
    building.mkdir()
    try:
        with without_values(f"publication '{audience.name}'"):
            tables, details, report = _build(warehouse, policy, audience, building, key, protected, data_as_of.date())
        if report.findings:
            raise LeakError(audience.name, report)
        manifest = _manifest(policy, audience, version, published_at, data_as_of, run_id, tables)
        manifest |= details
        manifest["leak_check"] = report.figures()
        manifest["files"] = _files(building)
        replace_text(building / "manifest.json", json.dumps(manifest, indent=1) + "\n")
        flush_all(building)
        found = versions(settings.data_dir, audience.name)
        counted = _counted(folder, found)
        outdated = old_versions([v for v in found if v in counted], policy, published_at, current=version)
        # A publishing that was killed left one that has never counted.
        outdated += [v for v in found if v not in counted]
        stays = {*found, version} - set(outdated)
        made = Made(audience.name, version, manifest, report, tuple(outdated))
        with act(made):
            building.rename(folder / version)
            # Of those that are gone, the first after each that stays: it counted no longer.
            known = [v for before, v in itertools.pairwise(["", *counted, version]) if v in stays or before in stays]
            _switch(folder, version, manifest, known)
            for old in outdated:
                shutil.rmtree(folder / old)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return made


def old_versions(found: Sequence[str], policy: Policy, now: datetime, *, current: str) -> list[str]:
    """Versions that have been kept for long enough; never the one that counts.

    Of those published within an hour, once that hour is over, the newest is kept.

    Args:
        found: those that are kept, oldest first.
    """
    oldest = _version_of(now - timedelta(days=policy.retention.keep_days))
    this_hour = _hour_of(_version_of(now))
    newest_of_hour = {_hour_of(version): version for version in found}

    def is_one_of_many(version: str) -> bool:
        return _hour_of(version) != this_hour and newest_of_hour[_hour_of(version)] != version

    return [v for v in found if (v < oldest or is_one_of_many(v)) and v != current]


def _counted(folder: Path, found: Sequence[str]) -> list[str]:
    """The versions that have counted, as far as it was written down; otherwise all that are kept."""
    try:
        return list(read_state(folder / _POINTER, "", "counted")["counted"])
    except (FileNotFoundError, StateError):
        return list(found)


def _switch(folder: Path, version: str, manifest: Mapping[str, Any], counted: Sequence[str]) -> None:
    """Let a version count: one rename."""
    pointer = {
        "version": version,
        "counted": counted,
        "published_at": manifest["published_at"],
        "policy_sha256": manifest["policy_sha256"],
        "sha256": manifest["files"][DATABASE]["sha256"],
    }
    replace_text(folder / _POINTER, json.dumps(pointer, indent=1), is_durable=True)


def _build(
    warehouse: Warehouse,
    policy: Policy,
    audience: Audience,
    building: Path,
    key: Callable[[], SecretKey],
    protected: Callable[[], Protected],
    on: date,
) -> tuple[list[PublishedTable], dict[str, Any], LeakReport]:
    """Write the files of a version and look through them."""
    connection = warehouse.connection
    if not warehouse.exists(CONTRACTS["dim_hospital"]):
        raise PublicationError(f"publication '{audience.name}': the warehouse is empty; run `hospital build` first")
    tables = plan(warehouse, policy, audience)
    there = {table.contract.name for table in tables}
    details: dict[str, Any] = {
        "not_built_yet": [c.name for c in policy.tables_of(audience.role) if c.name not in there]
    }
    if _is_protected(policy, audience.role):
        details["small_cells"] = protected().manifest(tables)
        tables = protected().tables(tables)
    has_tokens = _needs_key(policy, audience, tables)
    details["key_id"] = key().key_id if has_tokens else ""
    domains = _make_tokens(connection, policy, audience, tables, key if has_tokens else None)
    connection.execute(
        f"attach {literal(str(building / DATABASE))} as {audience.database} "
        f"(storage_version {literal(STORAGE_VERSION)})"
    )
    try:
        with warehouse.transaction():
            for layer in sorted({table.contract.layer for table in tables}):
                connection.execute(f"create schema {audience.database}.{layer}")
            for table in tables:
                _write(connection, table, policy, on)
                connection.execute(f"comment on table {table.target} is {literal(table.contract.summary)}")
        report = check_leaks(warehouse, policy, audience, tables)
        if not report.findings:
            details["rows"] = _write_parquet(connection, tables, building / "parquet")
    finally:
        connection.execute(f"detach {audience.database}")
        for domain in domains:
            connection.execute(f"drop table if exists temp.tokens_{domain}")
    return tables, details, report


def plan(warehouse: Warehouse, policy: Policy, audience: Audience) -> list[PublishedTable]:
    """What an audience gets: tables, columns with their masks, conditions on rows."""
    if audience.hospital_key is not None:
        _find_seen(warehouse.connection, audience.hospital_key)
    stored = _stored_columns(warehouse.connection)
    found = []
    for contract in policy.tables_of(audience.role):
        columns = tuple(
            (column, mask)
            for column in contract.columns
            if (mask := policy.mask_of(audience.role, contract.name, column)).kind != "drop"
        )
        if columns and (there := stored.get(contract.qualified_name)):
            rows = "" if audience.hospital_key is None else _own_rows(contract, audience)
            absent = frozenset(contract.column_names) - there
            found.append(PublishedTable(contract, columns, audience.database, contract.qualified_name, rows, absent))
    return found


def _stored_columns(connection: duckdb.DuckDBPyConnection) -> dict[str, set[str]]:
    """The tables of the warehouse: table -> its columns."""
    found: dict[str, set[str]] = {}
    for table, column in connection.execute(
        "select schema_name || '.' || table_name, column_name from duckdb_columns() "
        "where not internal and database_name = current_database()"
    ).fetchall():
        found.setdefault(table, set()).add(column)
    return found


def _find_seen(connection: duckdb.DuckDBPyConnection, hospital_key: int) -> None:
    """The patients a hospital has seen, as temporary tables of keys."""
    connection.execute(
        "create or replace temp table seen_patients as "
        + " union ".join(
            f"select patient_key from facts.{name} where hospital_key = $hospital"
            for name in ("fact_emergency_visits", "fact_patient_flow", "fact_vitals")
        ),
        {"hospital": hospital_key},
    )
    connection.execute(
        "create or replace temp table seen_persons as select distinct patient_durable_key "
        "from dimensions.dim_patient join seen_patients using (patient_key)"
    )


def _own_rows(contract: Contract, audience: Audience) -> str:
    """Which rows of a table are those of a hospital."""
    names = set(contract.column_names)
    assert audience.hospital_id is not None  # noqa: S101  (asked for hospitals only)
    if "hospital_key" in names:
        special = " or s.hospital_key < 0" if contract.layer == "dimensions" else ""
        return f"(s.hospital_key = {audience.hospital_key}{special})"
    if "hospital_id" in names:
        # No totals of the network: less one's own they are those of the others.
        return f"s.hospital_id = {literal(audience.hospital_id)}"
    if "patient_key" in names:
        return "(s.patient_key in (from seen_patients) or s.patient_key < 0)"
    if "patient_durable_key" in names:
        return "(s.patient_durable_key in (from seen_persons) or s.patient_durable_key < 0)"
    if "doctor_key" in names:
        return (
            "s.doctor_key in (select doctor_key from dimensions.dim_doctor "
            f"where hospital_key = {audience.hospital_key})"
        )
    if contract.layer == "dimensions":
        return ""
    raise PolicyError(
        f"{contract.name} has no column that says which hospital a row belongs to, so "
        f"'{audience.role}' (rows = own_hospital) cannot have it; add it to `without`"
    )


def _needs_key(policy: Policy, audience: Audience, tables: list[PublishedTable]) -> bool:
    return policy.roles[audience.role].surrogates == "hmac" and any(
        mask.kind == "token" for table in tables for _, mask in table.columns
    )


def _make_tokens(
    connection: duckdb.DuckDBPyConnection,
    policy: Policy,
    audience: Audience,
    tables: list[PublishedTable],
    key: Callable[[], SecretKey] | None,
) -> set[str]:
    """The tokens of every domain that is needed, as temporary tables."""
    sources: dict[str, list[tuple[str, str]]] = {}
    for table in tables:
        for column, mask in table.columns:
            if mask.kind == "token" and column.name not in table.absent:
                source = f"(from {table.source} s where {table.rows})" if table.rows else table.source
                sources.setdefault(policy.domain_of[column.name], []).append((source, column.name))
    for domain, found in sources.items():
        make_tokens(
            connection, audience.name, domain, found, policy.roles[audience.role].surrogates, key() if key else None
        )
    return set(sources)


def _write(connection: duckdb.DuckDBPyConnection, table: PublishedTable, policy: Policy, on: date) -> None:
    """Write a table, sorted by what is published and nothing else.

    The order of rows must not say what a mask hides, so it never follows a hidden column.
    """
    expressions, joins = [], []
    for number, (column, mask) in enumerate(table.columns):
        name = f"s.{quoted(column.name)}"
        if column.name in table.absent:
            # The contract gained it after the table was written.
            expression = f"cast(null as {column.duckdb_type})"
        elif mask.kind == "token":
            domain = policy.domain_of[column.name]
            joins.append(f" left join temp.tokens_{domain} t{number} on t{number}.raw = {name}")
            expression = f"t{number}.token"
        else:
            expression = masked(column, mask, name, policy.maps, on)
        expressions.append(f"{expression} as {quoted(column.name)}")
    names = [column.name for column, _ in table.columns]
    hospital = [name for name in ("hospital_key", "hospital_id") if name in names]
    stated = [name for name in table.contract.order_by if name in names]
    # Where a time comes first, the identifiers after it are not worth their sorting.
    when = [name for name in stated if name.endswith("_at")][:1]
    wished = [*hospital[:1], *(when or [*stated, *table.contract.key])]
    order = ", ".join(str(names.index(name) + 1) for name in dict.fromkeys(wished) if name in names)
    order = order or "all"
    where = f" where {table.rows}" if table.rows else ""
    select = f"select {', '.join(expressions)} from {table.source} s{''.join(joins)}{where}"
    numbers = {
        column.name
        for column, mask in table.columns
        if table.contract.layer == "facts" and column.duckdb_type == "VARCHAR" and column.name in policy.domain_of
    }
    if not numbers:
        connection.execute(f"create table {table.target} as {select} order by {order}")
        return
    # DuckDB would look for a dictionary where nearly every value is another one: twice the time.
    types = connection.execute(f"describe {select}").fetchall()
    columns = ", ".join(
        f"{quoted(name)} {kind}{' using compression fsst' if name in numbers else ''}" for name, kind, *_ in types
    )
    connection.execute(f"create table {table.target} ({columns})")
    connection.execute(f"insert into {table.target} {select} order by {order}")


def _write_parquet(connection: duckdb.DuckDBPyConnection, tables: list[PublishedTable], folder: Path) -> dict[str, int]:
    """The same tables as Parquet files; returns their rows."""
    rows = {}
    for table in tables:
        target = folder / table.contract.layer / f"{table.contract.name}.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        ((count,),) = connection.execute(
            f"copy {table.target} to {literal(str(target))} "
            f"(format parquet, compression snappy, dictionary_size_limit {_MOST_DIFFERENT})"
        ).fetchall()
        rows[table.contract.qualified_name] = count
    return rows


def _manifest(
    policy: Policy,
    audience: Audience,
    version: str,
    published_at: datetime,
    data_as_of: datetime,
    run_id: str,
    tables: list[PublishedTable],
) -> dict[str, Any]:
    return {
        "audience": audience.name,
        "role": audience.role,
        "hospital_id": audience.hospital_id,
        "version": version,
        "published_at": published_at.astimezone(UTC).isoformat(),
        "data_as_of": data_as_of.astimezone(UTC).isoformat(),
        "run_id": run_id,
        "policy_sha256": policy.sha256,
        "small_cell_threshold": policy.small_cells.threshold,
        "claim": asdict(claim_of(policy, audience.role)),
        "tables": {
            table.contract.qualified_name: {
                "columns": {
                    column.name: {"class": policy.class_of[table.contract.name, column.name], "mask": str(mask)}
                    for column, mask in table.columns
                },
                "protection": protection(policy, audience.role, table.contract),
            }
            for table in tables
        },
    }


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    """Every file of a version with its size and hash."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[str(path.relative_to(folder))] = {"bytes": path.stat().st_size, "sha256": digest}
    return found
