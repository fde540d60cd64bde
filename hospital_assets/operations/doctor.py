"""What is missing or wrong with an installation and its data directory, and what to do about it. Changes nothing."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import sqlite3
import ssl
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from hospital_assets.files import StateError, free_bytes, open_to_others
from hospital_assets.recovery.objects import BackupError
from hospital_assets.settings import EngineSettings, Settings, SettingsError
from hospital_assets.warehouse.errors import WarehouseError

Level = Literal["ok", "warning", "error"]

#: Below, runs will fail soon; and below so many times the warehouse, a rebuild or snapshot may.
LEAST_FREE_BYTES = 2_000_000_000
FREE_PER_WAREHOUSE = 2
#: Locks of DuckDB and SQLite are not to be relied on there.
_NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "ceph", "glusterfs")
#: Files from so far ahead of this machine's clock: one of the two clocks is wrong.
_CLOCK_TOLERANCE = timedelta(minutes=5)
#: A certificate is renewed before it has only so long to live.
CERTIFICATE_DAYS = 21
#: A daily backup that failed once.
_BACKUP_AGE = timedelta(hours=48)


@dataclass(frozen=True)
class Finding:
    """What was looked at and how it stands.

    Attributes:
        subject: what was looked at.
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
    settings: Settings, engine: EngineSettings, wall: datetime, certificates: tuple[Path, ...] = ()
) -> Iterator[Finding]:
    """Look at everything, one after the other; what cannot be looked at is an error of its own.

    Args:
        settings: of the data directory.
        engine: what transforms run on.
        wall: what time it is.
        certificates: PEM files that services use.
    """
    looks: dict[str, Callable[[], Iterator[_Found]]] = {
        "packages": _packages,
        "Java": lambda: _java(engine, settings),
        "user": _user,
        "directory": lambda: _directory(settings),
        "version": lambda: _version(settings),
        "disk": lambda: _disk(settings),
        "clock": lambda: _clock(settings, wall),
        "configuration": lambda: _configuration(settings),
        "keys": lambda: _keys(settings),
        "warehouse": lambda: _warehouse(settings),
        "Dagster's history": lambda: _history(settings),
        "backups": lambda: _backups(settings, wall),
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
    from packaging.version import Version

    wrong = []
    for line in importlib.metadata.requires("hospital-assets") or ():
        needed = Requirement(line)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(needed.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{needed.name} is missing")
            continue
        if not needed.specifier.contains(Version(version), prereleases=True):
            wrong.append(f"{needed.name} is {version}, not {needed.specifier}")
    if wrong:
        yield "error", "; ".join(wrong), "install again: `pip install --upgrade hospital-assets`"
    else:
        yield "ok", f"hospital-assets {importlib.metadata.version('hospital-assets')}, all it needs", ""


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


def _configuration(settings: Settings) -> Iterator[_Found]:
    from hospital_assets.access.authentication import open_provider
    from hospital_assets.alerts.settings import load_alert_settings
    from hospital_assets.landing.registry import load_profiles
    from hospital_assets.publishing.policy import load_policy

    sound = []
    looks: list[tuple[str, Callable[[], object]]] = [
        ("policy", lambda: load_policy(settings)),
        ("alerts", lambda: load_alert_settings(settings)),
        ("profiles", lambda: load_profiles(settings.profiles_folder)),
    ]
    if settings.identity is not None:
        looks.append(("identity provider", lambda: open_provider(settings, load_policy(settings))))
    for name, load in looks:
        try:
            load()
            sound.append(name)
        except ValueError as error:
            yield "error", str(error), ""
    if sound:
        yield "ok", f"{', '.join(sound)} can be read", ""


def _keys(settings: Settings) -> Iterator[_Found]:
    from hospital_assets.publishing.pseudonyms import has_key, load_key

    if not has_key():
        what = "there is no secret key of pseudonyms: what needs one is not published"
        yield "warning", what, "`hospital key create`, and keep a copy elsewhere"
        return
    load_key(settings)
    yield "ok", "the secret key of pseudonyms is there, and only the owner's", ""


def _warehouse(settings: Settings) -> Iterator[_Found]:
    from hospital_assets.contracts import CONTRACTS
    from hospital_assets.warehouse.database import holder_of, open_warehouse

    file = settings.warehouse_file
    if not file.exists():
        yield "warning", "nothing is built yet", "`hospital build`"
    elif holder := holder_of(file):
        yield "ok", f"in use by {holder}", ""
    else:
        try:
            with open_warehouse(file) as opened:
                tables = sum(opened.exists(contract) for contract in CONTRACTS.values())
        except WarehouseError as error:
            remedy = "move it away and `hospital build`, or copy the newest of the `hospital snapshots` to its place"
            yield "error", str(error), remedy
            return
        yield "ok", f"opens, with {tables} of {len(CONTRACTS)} tables", ""


def _history(settings: Settings) -> Iterator[_Found]:
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
    yield "ok", f"{runs:,} runs", ""


def _backups(settings: Settings, wall: datetime) -> Iterator[_Found]:
    from hospital_assets.recovery.backup import backups

    folder = settings.backup.folder
    if not folder:
        yield (
            "warning",
            "no folder of backups is named",
            "[backup] in hospital.toml, and `hospital backup create` daily",
        )
        return
    found = backups(Path(folder))
    if not found:
        yield "warning", f"there is no backup in {folder}", "`hospital backup create`"
        return
    text = f"{len(found)} in {folder}, the newest of {found[-1].taken_at:%Y-%m-%d %H:%M} UTC"
    if wall - found[-1].taken_at > _BACKUP_AGE:
        yield "warning", text, "`hospital backup create` daily, by a timer"
    elif not found[-1].is_encrypted:
        yield "warning", f"{text}, not encrypted", "`recipients` in [backup], unless the disk is encrypted"
    else:
        yield "ok", text, ""


def _at_work(settings: Settings, wall: datetime) -> Iterator[_Found]:
    from hospital_assets.automation.presence import at_work

    found = at_work(settings, wall) if settings.dagster_home.exists() else []
    if found:
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
