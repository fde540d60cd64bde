"""What is missing or wrong with an installation and its data directory, and what to do about it. Changes nothing."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import sqlite3
import ssl
import stat
import subprocess
import zoneinfo
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from hospital_assets.access.monitoring import TOKEN_FILE
from hospital_assets.addresses import is_loopback
from hospital_assets.files import StateError, free_bytes, open_to_others
from hospital_assets.operations import ports
from hospital_assets.recovery.objects import BackupError
from hospital_assets.settings import EngineSettings, Settings, SettingsError
from hospital_assets.sources.reach import apart
from hospital_assets.sources.remote import OBJECT_STORES
from hospital_assets.warehouse.errors import WarehouseError

Level = Literal["ok", "warning", "error"]

#: Below, runs will fail soon; and below so many times the warehouse, a rebuild or snapshot may.
LEAST_FREE_BYTES = 2_000_000_000
FREE_PER_WAREHOUSE = 2
#: Locks of DuckDB and SQLite are not to be relied on there.
_NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "ceph", "glusterfs")
#: Files from so far ahead of this machine's clock: one of the two clocks is wrong.
_CLOCK_TOLERANCE = timedelta(minutes=5)
#: Clocks that differ by more than this are not both set by NTP.
_CLOCK_DIFFERENCE = timedelta(seconds=5)
#: A build may have the warehouse for long; who waits for longer has a reason to look.
_HELD_FOR = timedelta(hours=1)
#: A certificate is renewed before it has only so long to live.
CERTIFICATE_DAYS = 21
#: A daily backup that failed once.
BACKUP_AGE = timedelta(hours=48)
#: How a backup is verified -> how often: each night where it lies, now and then where the secret key is.
VERIFIED_AGE = {"digests": timedelta(days=8), "content": timedelta(days=35)}


@dataclass(frozen=True)
class Finding:
    """What was looked at and how it stands.

    Attributes:
        level: error where something cannot work, warning where it will not for long or not safely.
        what: what was found; never a value of the data.
        remedy: what to do; empty where nothing is.
    """

    subject: str
    level: Level
    what: str
    remedy: str = ""


#: Level, what and remedy of a finding.
_Found = tuple[Level, str, str]


def examine(
    settings: Settings,
    engine: EngineSettings,
    clock: Callable[[], datetime],
    certificates: tuple[Path, ...] = (),
    also_ports: tuple[int, ...] = (),
    *,
    asks_sources: bool = False,
) -> Iterator[Finding]:
    """Look at everything, one after the other; what cannot be looked at is an error of its own.

    Args:
        engine: what transforms run on.
        certificates: PEM files that services use.
        also_ports: where services will listen, besides where they do by default.
        asks_sources: whether sources elsewhere are asked, which takes as long as the slowest, 20 seconds at most.
    """
    wall = clock()
    looks: dict[str, Callable[[], Iterator[_Found]]] = {
        "packages": _packages,
        "Java": lambda: _java(engine, settings),
        "user": _user,
        "directory": lambda: _directory(settings),
        "version": lambda: _version(settings),
        "disk": lambda: _disk(settings),
        "clock": lambda: _clock(settings, wall),
        "time zones": lambda: _time_zones(wall),
        "configuration": lambda: _configuration(settings),
        "extras": lambda: _extras(settings),
        "keys": lambda: _keys(settings),
        "warehouse": lambda: _warehouse(settings, wall),
        "Dagster's history": lambda: _history(settings, clock),
        "ports": lambda: _ports(settings, also_ports),
        "sources": lambda: _sources(settings, clock, asks=asks_sources),
        "backups": lambda: _backups(settings, wall),
        "erasures": lambda: _erasures(settings),
        "at work": lambda: _at_work(settings, wall),
        "certificates": lambda: _certificates(certificates, wall),
    }
    for subject, look in looks.items():
        try:
            for level, what, remedy in look():
                yield Finding(subject, level, what, remedy)
        except (
            SettingsError,
            StateError,
            WarehouseError,
            BackupError,
            OSError,
            sqlite3.Error,
            subprocess.SubprocessError,
        ) as error:
            yield Finding(subject, "error", str(error))
        # Its text could hold an address with its password; the other looks go on.
        except Exception as error:
            yield Finding(subject, "error", f"cannot be examined: {type(error).__name__}")


def _packages() -> Iterator[_Found]:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    stated = importlib.metadata.metadata("hospital-assets")
    python, wrong = platform.python_version(), []
    if not SpecifierSet(stated["Requires-Python"]).contains(Version(python), prereleases=True):
        wrong.append(f"Python is {python}, not {stated['Requires-Python']}")
    extras = [extra for extra in stated.get_all("Provides-Extra") or () if extra != "dev"]
    for line in importlib.metadata.requires("hospital-assets") or ():
        needed = Requirement(line)
        is_needed = needed.marker is None or needed.marker.evaluate({"extra": ""})
        if not is_needed and not any(needed.marker and needed.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        try:
            version = importlib.metadata.version(needed.name)
        except importlib.metadata.PackageNotFoundError:
            # An extra's is missed where something needs it: see `_extras`.
            wrong += [f"{needed.name} is missing"] if is_needed else []
            continue
        if not needed.specifier.contains(Version(version), prereleases=True):
            wrong.append(f"{needed.name} is {version}, not {needed.specifier}")
    if wrong:
        yield "error", "; ".join(dict.fromkeys(wrong)), "install again: `pip install --upgrade hospital-assets`"
    else:
        version = importlib.metadata.version("hospital-assets")
        yield "ok", f"hospital-assets {version} on Python {python}, all it needs", ""


def _java(engine: EngineSettings, settings: Settings) -> Iterator[_Found]:
    from hospital_assets.spark.session import SparkUnavailableError, java_home

    if engine.engine == "duckdb":
        yield "ok", "not needed: transforms run on DuckDB", ""
        return
    try:
        yield "ok", str(java_home(settings.data_dir / "java")), ""
    except SparkUnavailableError as error:
        yield "error", str(error), ""


def _user() -> Iterator[_Found]:
    if os.geteuid() == 0:
        yield "warning", "this runs as root", "run it as a user of its own: `hospital deploy systemd`"
    else:
        yield "ok", "an ordinary user", ""


def _directory(settings: Settings) -> Iterator[_Found]:
    folder = settings.data_dir
    if not folder.is_dir():
        yield "error", f"{folder} is not there", "`hospital simulate`, or make it and land files"
        return
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        remedy = f"`chown -R USER {folder}`, or run as its owner"
        yield "error", f"{folder} cannot be written by this user", remedy
    shut = [path for path in _written_by_us(folder) if not os.access(path, _needed(path))]
    if shut:
        what = f"{len(shut):,} files and folders cannot be read and written by this user: {shut[0]}"
        yield "error", what, f"`chown -R USER {folder}`, where another user made them, and run everything as one user"
    kind = _file_system(folder.resolve())
    if kind in _NETWORK_FILE_SYSTEMS:
        what = f"{folder} lies on {kind}, where the locks of databases are not to be relied on"
        yield "error", what, "move it to a disk of this machine"
    found = list(open_to_others(folder))
    if found:
        what = f"{len(found):,} files and folders are open to others than the owner"
        yield "warning", what, f"`chmod -R go= {folder}`"
    if kind not in _NETWORK_FILE_SYSTEMS and not found:
        yield "ok", f"{folder}, on {kind or 'a local disk'}, only the owner's", ""


def _written_by_us(folder: Path) -> Iterator[Path]:
    """What is in a data directory but for what others put there."""
    for root, folders, names in os.walk(folder):
        if Path(root) == folder:
            folders[:] = [name for name in folders if name not in ("landing", "profiles")]
            names = []
        yield from (Path(root, name) for name in (*folders, *names))


def _needed(path: Path) -> int:
    """What we must be allowed to do: databases are written again, other files are replaced."""
    if path.is_dir():
        return os.R_OK | os.W_OK | os.X_OK
    return os.R_OK | os.W_OK if path.suffix in (".db", ".duckdb", ".lock") else os.R_OK


def _version(settings: Settings) -> Iterator[_Found]:
    from hospital_assets.directory import DirectoryVersionError, require_current, version_of

    try:
        require_current(settings.warehouse_file.parent)
    except DirectoryVersionError as error:
        yield "error", str(error), ""
        return
    yield "ok", f"version {version_of(settings.warehouse_file.parent).number} of a data directory", ""


def _file_system(folder: Path) -> str:
    """The kind of file system a folder lies on, as Linux names it; empty elsewhere."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return ""
    kinds = {}
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        _, place, kind, *_ = line.split()
        kinds[Path(place.replace("\\040", " "))] = kind
    return next((kinds[place] for place in (folder, *folder.parents) if place in kinds), "")


def _disk(settings: Settings) -> Iterator[_Found]:
    free = free_bytes(settings.data_dir)
    warehouse = settings.warehouse_file.stat().st_size if settings.warehouse_file.exists() else 0
    wanted = max(LEAST_FREE_BYTES, FREE_PER_WAREHOUSE * warehouse)
    text = f"{free / 1e9:,.1f} GB free; the warehouse has {warehouse / 1e9:,.1f} GB"
    if free >= wanted:
        yield "ok", text, ""
        return
    remedy = f"make room for {wanted / 1e9:,.0f} GB: old snapshots (`hospital snapshots`), publications, runs"
    yield "error" if free < LEAST_FREE_BYTES / 4 else "warning", text, remedy


def _clock(settings: Settings, wall: datetime) -> Iterator[_Found]:
    ahead = 0
    for path in settings.landing.rglob("*") if settings.landing.exists() else ():
        with contextlib.suppress(OSError):
            status = path.lstat()
            modified = datetime.fromtimestamp(status.st_mtime, UTC)
            ahead += stat.S_ISREG(status.st_mode) and modified > wall + _CLOCK_TOLERANCE
    if ahead:
        what = f"{ahead:,} landed files were written later than it is on this machine"
        yield "error", what, "one of the clocks is wrong: set this one by NTP, and compare the senders'"
    control = shutil.which("timedatectl")
    if control is not None:
        asked = subprocess.run(  # noqa: S603  (the system's own)
            [control, "show", "--property=NTPSynchronized", "--value"], capture_output=True, text=True, timeout=10
        )
        if asked.stdout.strip() == "no":
            what = "this machine's clock is not set by NTP"
            yield "warning", what, "`timedatectl set-ntp true`, or chrony: waits are differences of clocks"
            return
    if not ahead:
        yield "ok", f"{wall:%Y-%m-%d %H:%M} UTC", ""


def _time_zones(wall: datetime) -> Iterator[_Found]:
    """Clocks of hospitals are read by Python, by this machine's data where it has any, and by DuckDB, by its own."""
    import duckdb

    moments = [wall - timedelta(days=days) for days in (365, 182, 0)]
    with contextlib.closing(duckdb.connect()) as connection:
        asked = (
            "select name, moment, timezone(name, moment) from (select name from pg_timezone_names() "
            "where name like '%/%'), (select unnest($1::timestamptz[]) as moment)"
        )
        rows = connection.execute(asked, [moments]).fetchall()
    missing, other = set(), set()
    for name, moment, local in rows:
        try:
            if moment.astimezone(zoneinfo.ZoneInfo(name)).replace(tzinfo=None) != local:
                other.add(name)
        except zoneinfo.ZoneInfoNotFoundError:
            missing.add(name)
    remedy = "`apt-get install --only-upgrade tzdata`, or `pip install --upgrade tzdata`"
    if len(missing) > len(rows) / len(moments) / 2:
        yield "error", "there are no time zones", remedy
    elif other:
        named = ", ".join(sorted(other)[:3]) + (", ..." if len(other) > 3 else "")
        yield "warning", f"this machine knows {len(other)} otherwise than DuckDB: {named}", remedy
    else:
        yield "ok", "this machine and DuckDB agree on all", ""


def _configuration(settings: Settings) -> Iterator[_Found]:
    from hospital_assets.access.authentication import open_provider
    from hospital_assets.alerts.settings import load_alert_settings
    from hospital_assets.landing.registry import load_profiles
    from hospital_assets.publishing.policy import load_policy

    looks: list[tuple[str, Callable[[], object]]] = [
        ("policy", lambda: load_policy(settings)),
        ("alerts", lambda: load_alert_settings(settings)),
    ]
    profiles = load_profiles(settings.profiles_folder)
    sound = [] if profiles.unusable else ["profiles"]
    for fault in profiles.faults():
        yield "error", fault, "correct it; `hospital profiles list` names all"
    if settings.identity is not None:
        looks.append(("identity provider", lambda: open_provider(settings, load_policy(settings))))
    for name, load in looks:
        try:
            load()
            sound.append(name)
        except ValueError as error:
            yield "error", str(error), ""
    yield "ok", f"{', '.join(sound)} can be read", ""


def _extras(settings: Settings) -> Iterator[_Found]:
    from hospital_assets.landing.registry import load_profiles
    from hospital_assets.sources.databases import extra_of

    sources = [profile.source for profile in load_profiles(settings.profiles_folder).values() if profile.source]
    kinds = {source.kind for source in sources}
    databases = [extra_of(os.environ.get(source.database, "")) for source in sources if source.database]
    needs = {
        **dict.fromkeys(filter(None, databases), True),
        ("backup", "pyrage"): bool(settings.backup.recipients),
        ("delta", "deltalake"): bool(settings.mirror.address),
        ("metrics", "prometheus_client"): TOKEN_FILE in os.environ,
        ("object-store", "obstore"): bool(kinds & OBJECT_STORES.keys()),
        ("sftp", "paramiko"): "sftp" in kinds,
        ("fhir-bulk", "jwt"): any(source.fhir and source.fhir.client_id for source in sources),
    }
    missing = [extra for (extra, module), is_needed in needs.items() if is_needed and find_spec(module) is None]
    if missing:
        names = ",".join(missing)
        yield "error", f"what is configured needs {names}", f"pip install 'hospital-assets[{names}]'"
    else:
        yield "ok", "what is configured has those it needs", ""


def _keys(settings: Settings) -> Iterator[_Found]:
    from hospital_assets.publishing.pseudonyms import has_key, load_key

    if not has_key():
        what = "there is no secret key of pseudonyms: what needs one is not published"
        yield "warning", what, "`hospital key create`, and keep a copy elsewhere"
        return
    load_key(settings)
    yield "ok", "the secret key of pseudonyms is there, and only the owner's", ""


def _warehouse(settings: Settings, wall: datetime) -> Iterator[_Found]:
    import narwhals as nw

    from hospital_assets.automation.failures import remedy_of
    from hospital_assets.contracts import CONTRACTS
    from hospital_assets.forecasting.calendar import holiday_calendar
    from hospital_assets.warehouse.database import held_since, holder_of, is_waited_for, open_warehouse

    file = settings.warehouse_file
    if not file.exists():
        yield "warning", "nothing is built yet", "`hospital build`"
    elif holder := holder_of(file):
        held = held_since(file)
        if is_waited_for(file) and held is not None and wall - held[1] > _HELD_FOR:
            yield "warning", f"in use by {holder}, and another process waits for it", "let it finish, or end it"
        else:
            yield "ok", f"in use by {holder}", ""
    else:
        try:
            with open_warehouse(file) as opened:
                tables = sum(opened.exists(contract) for contract in CONTRACTS.values())
                known = opened.read(CONTRACTS["dim_hospital"], may_be_absent=True).filter(nw.col("hospital_key") > 0)
                hospitals = {member["hospital_id"]: member for member in known.collect("polars").rows(named=True)}
        except WarehouseError as error:
            yield "error", str(error), remedy_of(str(error))
            return
        yield "ok", f"opens, with {tables} of {len(CONTRACTS)} tables", ""
        named = {"holidays": settings.holiday_calendars, "staffing.hours_a_week": settings.staffing.hours_a_week}
        absent = [f"{key}.{name}" for key, pairs in named.items() for name, _ in pairs if name not in hospitals]
        if hospitals and absent:
            what = f"hospital.toml names hospitals that are not in the data: {', '.join(absent)}"
            yield "warning", what, f"name them as they are there: {', '.join(sorted(hospitals))}"
        unkept = [
            name
            for name, member in sorted(hospitals.items())
            if name not in dict(settings.holiday_calendars)
            and member["time_zone"]
            and not holiday_calendar("", member["time_zone"], member["state"] or "")
        ]
        if unkept:
            what = (
                f"by their time zones nothing is known of public holidays at {', '.join(unkept)}: forecasts have none"
            )
            yield "warning", what, f'`holidays = {{ {unkept[0]} = "US-WI" }}` in hospital.toml, or "none"'


def _history(settings: Settings, clock: Callable[[], datetime]) -> Iterator[_Found]:
    from hospital_assets.automation.history import database_time
    from hospital_assets.automation.instance import dagster_instance

    if not settings.dagster_home.exists():
        yield "ok", "none yet", ""
        return
    try:
        with dagster_instance(settings) as instance:
            runs = instance.get_runs_count()
    except SettingsError:
        raise
    except Exception as error:
        what = f"Dagster's history cannot be read: {type(error).__name__}"
        yield "error", what, "is its database there, and may this user read it?"
        return
    before = clock()
    stated = database_time()
    yield from _apart("its database's", None if stated is None else apart(stated, before, clock()), f"{runs:,} runs")


def _apart(whose: str, ahead: timedelta | None, otherwise: str) -> Iterator[_Found]:
    """What to say of something whose clock is so far ahead of ours; what it is otherwise."""
    if ahead is None or abs(ahead) <= _CLOCK_DIFFERENCE:
        yield "ok", otherwise + ("" if ahead is None else "; the clocks agree"), ""
        return
    seconds = abs(ahead).total_seconds()
    said = f"{seconds:,.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} min"
    what = f"{otherwise}; {whose} clock is {said} {'ahead of' if ahead > timedelta(0) else 'behind'} this machine's"
    level: Level = "error" if abs(ahead) > _CLOCK_TOLERANCE else "warning"
    yield level, what, "set both by NTP: waits are differences of clocks"


def _ports(settings: Settings, more: tuple[int, ...]) -> Iterator[_Found]:
    from hospital_assets.operations.services import SERVICES

    wanted = {service.port: f"hospital-{service.name}" for service in SERVICES if service.port}
    dagster = urlsplit(settings.dagster_url)
    if is_loopback(dagster.hostname or "") and dagster.port:
        wanted = {dagster.port if name == "hospital-webserver" else port: name for port, name in wanted.items()}
    sound = []
    for port, name in {**dict.fromkeys(more, "--port"), **wanted}.items():
        state = ports.state_of(port)
        if state == "free":
            sound.append(f"{port} ({name}) is free")
            continue
        if state == "forbidden":
            what = f"this user may not listen at {port} ({name})"
            yield "warning", what, "name one from 1024 on, behind a proxy: `hospital deploy nginx`"
            continue
        by = ports.listener_at(port)
        if by is not None and by.command and by.data_dir == settings.data_dir:
            sound.append(f"{port} ({name}): {by.command} is at work")
            continue
        remedy = "end it, or start ours with another --port; `ss -ltnp` as root shows all of it"
        yield "warning", f"{port} ({name}) is taken by {by or 'somebody'}", remedy
    if sound:
        yield "ok", ", ".join(sound), ""


def _sources(settings: Settings, clock: Callable[[], datetime], *, asks: bool) -> Iterator[_Found]:
    from hospital_assets.landing.registry import load_profiles
    from hospital_assets.sources.memory import memory_file, open_memory
    from hospital_assets.sources.reach import reach

    profiles = load_profiles(settings.profiles_folder)
    sources = {name: profile.source for name, profile in sorted(profiles.items()) if profile.source is not None}
    if not sources:
        yield "ok", "no profile names an address", ""
        return
    if not asks:
        failed = {}
        if memory_file(settings).exists():
            with open_memory(settings) as memory:
                looks = {name: memory.look(name) for name in sources}
            failed = {name: look.reason for name, look in looks.items() if look is not None and look.reason}
        for name, reason in failed.items():
            yield "warning", f"{name}: {reason}", "`hospital sources` says since when"
        others = len(sources) - len(failed)
        if others:
            yield "ok", f"{others} had no failure when last looked at; `hospital doctor --sources` asks each now", ""
        return
    for name, found in reach(sources, clock).items():
        if found.problem:
            yield "error", f"{name}: {found.problem}", f"`hospital pull {name}` tries again"
        else:
            yield from _apart("its", found.ahead, f"{name} answers")


def _backups(settings: Settings, wall: datetime) -> Iterator[_Found]:
    from hospital_assets.recovery.backup import standing

    folder = settings.backup.folder
    if not folder:
        yield (
            "warning",
            "no folder of backups is named",
            "[backup] in hospital.toml, and `hospital backup create` daily",
        )
        return
    found = standing(Path(folder))
    if found.newest is None:
        yield "warning", f"there is no backup in {folder}", "`hospital backup create`"
        return
    newest = found.newest
    text = f"{found.count} in {folder}, the newest of {newest.taken_at:%Y-%m-%d %H:%M} UTC"
    if wall - newest.taken_at > BACKUP_AGE:
        yield "warning", text, "`hospital backup create` daily, by a timer"
    elif not newest.is_encrypted:
        yield "warning", f"{text}, not encrypted", "`recipients` in [backup], unless the disk is encrypted"
    else:
        yield "ok", text, ""
    if found.damaged:
        what = f"{found.damaged} were not whole when they were last verified"
        yield (
            "error",
            what,
            "`hospital backup verify NAME` says what is wrong; `hospital backup create` makes one that is whole",
        )
    for depth, at in found.verified.items():
        if at is None or wall - at > VERIFIED_AGE[depth]:
            how = {"digests": "verified", "content": "verified by opening it"}[depth]
            what = f"none was {how}" + ("" if at is None else f" since {at:%Y-%m-%d}")
            with_key = " --identity FILE" if depth == "content" and newest.is_encrypted else ""
            yield "warning", what, f"`hospital backup verify{with_key}`"


def _erasures(settings: Settings) -> Iterator[_Found]:
    from hospital_assets.recovery.erase import begun_erasures

    begun = [erasure.hashed for erasure in begun_erasures(settings)]
    if begun:
        what = f"{len(begun):,} were begun and are not done: {', '.join(begun)}"
        yield "error", what, "`hospital erase NUMBER --yes` for each; the audit calls them so, and says when"
    else:
        yield "ok", "none that was begun is left to do", ""


def _at_work(settings: Settings, wall: datetime) -> Iterator[_Found]:
    from hospital_assets.automation.presence import at_work

    if found := at_work(settings, wall):
        yield "ok", ", ".join(found), ""
    else:
        what = "nobody loads what lands"
        yield "warning", what, "`hospital dev`, or the services of `hospital deploy systemd`"


def _certificates(files: tuple[Path, ...], wall: datetime) -> Iterator[_Found]:
    for file in files:
        try:
            ends = certificate_end(file)
        except FileNotFoundError as error:
            yield "error", str(error), "name the PEM file that the service uses"
        except SettingsError as error:
            yield "error", str(error), "a PEM file with the chain, its own first"
        else:
            said = f"{ends:%Y-%m-%d %H:%M} UTC"
            if ends <= wall:
                yield "error", f"{file} ended {said}", "renew it, and restart what uses it"
            elif ends <= wall + timedelta(days=CERTIFICATE_DAYS):
                yield "warning", f"{file} ends {said}", "renew it"
            else:
                yield "ok", f"{file} ends {said}", ""


def certificate_end(file: Path) -> datetime:
    """Until when the first certificate of a PEM file is valid.

    Raises:
        FileNotFoundError: there is no such file.
        SettingsError: it is no certificate, or openssl is not installed.
    """
    openssl = shutil.which("openssl")
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there")
    if openssl is None:
        raise SettingsError(f"{file} was not looked at: install openssl")
    command = [openssl, "x509", "-in", str(file), "-noout", "-enddate"]
    asked = subprocess.run(command, capture_output=True, text=True, timeout=10)  # noqa: S603  (the system's own)
    if asked.returncode:
        raise SettingsError(f"{file} is no certificate")
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(asked.stdout.strip().removeprefix("notAfter=")), UTC)
