"""Backups: everything comes back on another path, whatever was at work meanwhile; what was changed does not."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import duckdb
import pyrage
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from hospital_assets.access.audit import AuditLog, Event, derived_key, log_file, record
from hospital_assets.automation.build import BuildReport, publish, refresh
from hospital_assets.automation.instance import dagster_instance, end_unfinished_runs
from hospital_assets.cli import main
from hospital_assets.definitions import build_definitions
from hospital_assets.files import replace_bytes, replace_text
from hospital_assets.landing.zone import LandingResource
from hospital_assets.operations import doctor, metrics
from hospital_assets.publishing.pseudonyms import KEY_FILE_VARIABLE, SecretKey, create_key, key_file
from hospital_assets.publishing.publications import open_publication
from hospital_assets.recovery import backup as module
from hospital_assets.recovery import objects
from hospital_assets.recovery.backup import (
    LEFT_OUT,
    LOCK,
    STAMP,
    Backup,
    Made,
    backup_named,
    backups,
    create_backup,
    erased_since,
    note_erasure,
)
from hospital_assets.recovery.erase import delete_derived_files, erase_person, not_reached, plan_erasure
from hospital_assets.recovery.key_copies import copy_keys, put_keys
from hospital_assets.recovery.objects import BackupError, Content, path_of
from hospital_assets.recovery.restore import restore_backup, verify_backup
from hospital_assets.settings import (
    BackupSettings,
    EngineSettings,
    Settings,
    SettingsError,
    load_settings,
    write_settings,
)
from hospital_assets.warehouse.database import open_warehouse
from hospital_assets_tests.helpers import query, tables
from hospital_assets_tests.processes import QUIET, hospital, started

NOW = datetime(2026, 3, 14, 2, 0, tzinfo=UTC)
#: What no file may hold where it is encrypted, or was not restored whole.
PLAIN = b"Ada Lovelace, 815"


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "config"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    """A small data directory with something in every place, that no build has made."""
    settings = Settings(tmp_path / "home", backup=BackupSettings(str(tmp_path / "backups")))
    settings.data_dir.mkdir(mode=0o700)
    write_settings(settings)
    for name, data in {
        "landing/native/visits/a.csv": b"id,name\n1," + PLAIN + b"\n" + random.Random(7).randbytes(100_000),
        "landing/native/visits/again.csv": b"id,name\n1," + PLAIN + b"\n",
        "landing/native/\udcff.csv": b"a name that is not UTF-8",
        # Hostile: looks like a database, and like what is beside one.
        "landing/native/evil.db": b"SQLite format 3\0 and nothing else",
        "landing/native/x-wal": b"landed all the same",
        "published/analyst/20260313T000000000000Z/manifest.json": b"{}",
        "published/analyst/current.json": b'{"version": "20260313T000000000000Z"}',
        "snapshots/20260313T000000000000Z.duckdb": b"a copy",
        "profiles/ward.toml": b"# ours",
        "policy.toml": b"# ours",
        "warehouse/quarantine.json": b"{}",
        "warehouse/live/patients.parquet": b"copy",
        "reports/quality.json": b"{}",
        "erasures/abc.json": b"{}",
        "empty/.kept": b"",
        **{
            f"{place}/x" if "." not in Path(place).name[1:] else place: b"junk"
            for place in LEFT_OUT
            if "anchor" not in place
        },
        "landing/native/.half.00000000-1-1.tmp": b"junk",
        "warehouse/watch.lock": b"junk",
    }.items():
        replace_bytes(settings.data_dir / name, data)
    (settings.data_dir / "landing" / "native" / "visits").chmod(0o770)
    (settings.data_dir / "landing" / "native" / "visits" / "a.csv").chmod(0o640)
    os.utime(settings.data_dir / "landing" / "native" / "visits" / "a.csv", ns=(1, 1_234_567_890_123_456_789))
    (settings.data_dir / "landing" / "nothing").mkdir()
    (settings.data_dir / "landing" / "link").symlink_to(tmp_path)
    with open_warehouse(settings.warehouse_file) as warehouse:
        warehouse.connection.execute("create table facts.a as select range as n from range(1000)")
    for name in ("alerts/outbox.sqlite", "access/users.db", "dagster/history/runs/r.db"):
        (settings.data_dir / name).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(settings.data_dir / name)) as connection:
            connection.execute("pragma journal_mode = wal")
            connection.execute("create table t (name text)")
            connection.executemany("insert into t values (?)", [(PLAIN.decode(),)] * 50)
            connection.commit()
    record(settings, Event("ann", "query"))
    return settings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "backups"


def made(settings: Settings, hours: int = 0, **options: object) -> Made:
    folder = Path(settings.backup.folder)
    return create_backup(settings, folder, NOW + timedelta(hours=hours), **{"keep": 14, **options})  # type: ignore[arg-type]


def lost(settings: Settings) -> Settings:
    """The directory is gone; where another is to be made."""
    shutil.rmtree(settings.data_dir)
    return Settings(settings.data_dir.with_name("elsewhere"))


def files_in(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            status = path.stat()
            found[str(path.relative_to(folder))] = path.read_bytes(), status.st_mode, status.st_mtime_ns
    return found


def is_left_out(name: str) -> bool:
    return name.startswith(tuple(LEFT_OUT)) or name.endswith((".tmp", ".lock", "-wal", "-shm"))


@pytest.fixture
def identity(tmp_path: Path) -> tuple[str, Path]:
    """Whom backups are for, and the file with the secret key."""
    secret = pyrage.x25519.Identity.generate()
    file = tmp_path / "identity.txt"
    file.write_text(f"# created: today\n{secret}\n")
    file.chmod(0o600)
    return str(secret.to_public()), file


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_everything_comes_back_on_another_path(
    home: Settings, folder: Path, identity: tuple[str, Path], is_encrypted: bool
) -> None:
    recipients, file = ([identity[0]], identity[1]) if is_encrypted else ([], None)
    before = files_in(home.data_dir)
    done = made(home, recipients=recipients)
    assert done.backup.is_encrypted == is_encrypted and not (home.data_dir / "backup-staging").exists()
    assert any("1 links" in remark for remark in done.remarks)
    verified = verify_backup(home, folder, done.backup, file)
    assert (verified.problems, verified.files, verified.is_stamped) == ((), done.files, True)
    # 1,000 rows of the warehouse, 150 of three databases, and the audit's.
    assert verified.rows > 1_150
    sealed = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert not any(PLAIN in data or b"visits" in data for data in sealed) or not is_encrypted
    there = lost(home)
    restored = restore_backup(there, folder, done.backup, file)
    after = files_in(there.data_dir)
    assert restored.files == done.files
    databases = {"audit/audit.db", "access/users.db", "alerts/outbox.sqlite", "dagster/history/runs/r.db"}
    databases |= {"warehouse/hospital.duckdb"}
    as_before = {
        name: what
        for name, what in before.items()
        if (name.startswith("landing/") and not name.endswith(".tmp")) or not (is_left_out(name) or name in databases)
    }
    assert "landing/native/x-wal" in as_before and len(as_before) >= 14
    assert {name: after.get(name) for name in as_before} == as_before
    # What is left out is not there, but for what this wrote.
    assert set(after) - set(as_before) - databases <= {"access/audit-anchor.json", "audit/append.lock", ".backup.lock"}
    for name in databases - {"audit/audit.db", "warehouse/hospital.duckdb"}:
        with contextlib.closing(sqlite3.connect(there.data_dir / name)) as connection:
            assert connection.execute("select count(*), min(name) from t").fetchall() == [(50, PLAIN.decode())]
    assert query(there, "select count(*), sum(n) from facts.a").rows() == [(1000, 499500)]
    assert (there.data_dir / "landing" / "nothing").is_dir()
    assert (there.data_dir / "landing" / "native" / "visits").stat().st_mode & 0o777 == 0o770
    with contextlib.closing(AuditLog(there)) as log:
        assert log.verify().problems == ()
        acts = [(e["action"], e["outcome"]) for e in log.entries().to_dicts()]
    # The backup's beginning; that its end was lost; the restore; why that is no attack.
    assert acts == [
        ("query", "allowed"),
        ("backup", "allowed"),
        ("audit", "failed"),
        ("restore", "allowed"),
        ("restore", "allowed"),
        ("audit", "allowed"),
    ]


def test_a_folder_on_another_disk_comes_along(home: Settings, folder: Path, tmp_path: Path) -> None:
    shutil.move(home.landing, tmp_path / "other disk")
    home.landing.symlink_to(tmp_path / "other disk")
    done = made(home)
    there = lost(home)
    restore_backup(there, folder, done.backup)
    assert not there.landing.is_symlink()
    assert (there.landing / "native" / "visits" / "again.csv").read_bytes() == b"id,name\n1," + PLAIN + b"\n"


def test_only_what_is_new_is_stored_again(home: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made(home)
    landed = home.landing / "native" / "visits"
    stored: list[str] = []
    real = objects.Objects._seal

    def noted(self: objects.Objects, packing: objects._Packing, written: objects._Digesting) -> None:
        stored.append(str(packing._file.name))
        real(self, packing, written)

    monkeypatch.setattr(objects.Objects, "_seal", noted)
    (landed / "b.csv").write_bytes(b"id\n2\n")
    # The same content under another name, and one more line in a file.
    (landed / "copy.csv").write_bytes((landed / "again.csv").read_bytes())
    with (landed / "again.csv").open("ab") as file:
        file.write(b"2,Grace\n")
    second = made(home, 1)
    landed_again = [name for name in stored if "landing" in name]
    assert sorted(Path(name).name for name in landed_again) == ["again.csv", "b.csv"]
    assert second.files == first.files + 2 and second.added < first.added / 2
    # Both are whole, each with its own.
    there = replace(home, data_dir=home.data_dir.with_name("elsewhere"))
    shutil.rmtree(home.data_dir)
    restore_backup(there, folder, first.backup)
    assert (there.landing / "native" / "visits" / "again.csv").read_bytes().count(b"\n") == 2
    assert not (there.landing / "native" / "visits" / "b.csv").exists()


def test_what_the_ledger_knows_is_not_read(home: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made(home)
    path = home.landing / "native" / "visits" / "a.csv"
    status = path.stat()
    digest = objects.content_of(path).sha256
    at = "landing/native/visits/a.csv", status.st_size, status.st_mtime_ns
    monkeypatch.setattr(module, "_ledger", lambda _: {at: digest})
    read: list[Path] = []
    monkeypatch.setattr(module, "content_of", lambda file, *size: read.append(file) or objects.content_of(file, *size))
    made(home, 1)
    assert path not in read and path.with_name("again.csv") in read
    # It says what is not so: the file is read after all.
    monkeypatch.setattr(module, "_ledger", lambda _: {at: "0" * 64})
    third = made(home, 2)
    assert path in read
    assert verify_backup(home, tmp_path / "backups", third.backup).problems == ()


def test_old_backups_go_with_what_only_they_hold(home: Settings, folder: Path) -> None:
    landed = home.landing / "native" / "visits" / "a.csv"
    first = made(home)
    (own,) = [e.object for e in manifest_of(home, folder, first.backup) if e.path.endswith("a.csv")]
    landed.unlink()
    second = made(home, 1, keep=2)
    assert path_of(folder, own).exists() and second.deleted == ()
    third = made(home, 2, keep=2)
    assert third.deleted == (first.backup.name,) and not path_of(folder, own).exists()
    assert [backup.name for backup in backups(folder)] == [second.backup.name, third.backup.name]
    for backup in backups(folder):
        assert verify_backup(home, folder, backup).problems == ()
    kept = {path.name for path in (folder / "objects").rglob("*") if path.is_file()}
    assert kept == {name for backup in backups(folder) for name in backup.objects}
    with contextlib.closing(AuditLog(home)) as log:
        statements = log.entries("action = 'backup'")["statement"].to_list()
    assert sum(text.startswith(f"delete {first.backup.name}") for text in statements) == 1


def manifest_of(settings: Settings, folder: Path, backup: Backup) -> list[module.Entry]:
    from hospital_assets.recovery.restore import _manifest

    with module.emptied_staging(settings) as staging:
        return list(_manifest(folder, backup, [], staging).files)


#: A backup that several examples damage copies of.
@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Path, Path]]:
    base = tmp_path_factory.mktemp("kept")
    secret = pyrage.x25519.Identity.generate()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(base / "config"))
        settings = Settings(base / "home")
        replace_bytes(settings.landing / "a.csv", PLAIN * 30_000 + random.Random(1).randbytes(300_000))
        replace_bytes(settings.landing / "b.csv", PLAIN)
        write_settings(settings)
        create_backup(settings, base / "backups", NOW, recipients=[str(secret.to_public())], keep=3)
        (base / "identity").write_text(str(secret))
        (base / "identity").chmod(0o600)
        shutil.rmtree(settings.data_dir)
        yield settings, base / "backups", base / "identity"


@settings_of_hypothesis(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_is_changed_or_cut_is_refused_and_leaves_nothing(
    kept: tuple[Settings, Path, Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    _, original, identity = kept
    base = tmp_path_factory.mktemp("damaged")
    folder, into = base / "backups", base / "into"
    shutil.copytree(original, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    path = data.draw(st.sampled_from(files))
    size = path.stat().st_size
    at = data.draw(st.integers(0, size - 1))
    if data.draw(st.booleans()):
        os.truncate(path, at)
    else:
        content = bytearray(path.read_bytes())
        content[at] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(original.parent / "config"))
        try:
            backup = backup_named(folder, None)
        except BackupError:
            return
        if backup == backup_named(original, None) and path.suffix == ".json":
            return  # A blank of the header: it says the same.
        assert verify_backup(Settings(base / "scratch"), folder, backup, identity).problems
        with pytest.raises(BackupError):
            restore_backup(Settings(into), folder, backup, identity)
    left = [path for place in (into, base / "scratch") for path in place.rglob("*") if path.is_file()]
    for found in left:
        # Whole files that came before the damaged one may be there: the restore can go on with another copy.
        assert PLAIN not in found.read_bytes() or found.relative_to(into) in (
            Path("landing/a.csv"),
            Path("landing/b.csv"),
        )
    assert not any(path.name == "opened" or path.name.endswith(".tmp") for path in left)


def test_what_is_cut_short_leaves_no_plain_text(kept: tuple[Settings, Path, Path], tmp_path: Path) -> None:
    """Of a truncated file, age has opened most before it says so; here the header was made to agree with it."""
    _, folder, identity = kept
    backup = backup_named(folder, None)
    largest = max(backup.objects, key=lambda name: backup.objects[name].bytes)
    cut = tmp_path / "backups"
    shutil.copytree(folder, cut)
    os.truncate(path_of(cut, largest), backup.objects[largest].bytes - 10)
    stored = objects.content_of(path_of(cut, largest))
    for name in ("target", "scratch"):
        (tmp_path / name).mkdir()
    with pytest.raises(BackupError, match="damaged"):
        objects.fetch(
            cut, largest, stored, tmp_path / "target" / "a", objects.identities_of(identity), tmp_path / "scratch"
        )
    assert not [*(tmp_path / "target").iterdir(), *(tmp_path / "scratch").iterdir()]


ESCAPES = ["../x", "/x", "a/../../x", "a/./x", "a//x", "", ".", "a/..", "landing/\0x"]


@pytest.mark.parametrize("path", ESCAPES)
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_path_that_leads_outside_is_refused(
    home: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch, path: str, what: str
) -> None:
    real = module._store

    def forged(*arguments: object) -> object:
        files, folders = real(*arguments)  # type: ignore[arg-type]
        if what == "file":
            return [*files, replace(files[0], path=path)], folders
        return files, [*folders, (path, 0o700)]

    monkeypatch.setattr(module, "_store", forged)
    # Even where the key of the audit stamped it.
    done = made(home)
    there = lost(home)
    with pytest.raises(BackupError, match="outside"):
        restore_backup(there, folder, done.backup)
    assert not log_file(there).exists() and not (there.data_dir.parent / "x").exists()


def test_a_header_that_another_key_stamped_is_refused(
    home: Settings, folder: Path, config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = made(home)
    key = derived_key(home, STAMP)
    assert key is not None and done.backup.stamped(key) == done.backup
    there = lost(home)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another"))
    with pytest.raises(BackupError, match="--keys FOLDER"):
        restore_backup(there, folder, done.backup)
    assert not there.data_dir.exists() and not (tmp_path / "another").exists()
    assert verify_backup(there, folder, done.backup).is_stamped is None
    # The keys are lost: nobody can tell, and the audit says so for good.
    assert restore_backup(there, folder, done.backup, needs_stamp=False).files == done.files
    with contextlib.closing(AuditLog(there)) as log:
        assert log.verify().problems
    renamed = folder / "20260314T030000Z.json"
    renamed.write_text((folder / f"{done.backup.name}.json").read_text())
    with pytest.raises(BackupError, match="not what was written"):
        backups(folder)


def test_who_has_another_secret_key_opens_nothing(
    home: Settings, folder: Path, identity: tuple[str, Path], tmp_path: Path
) -> None:
    done = made(home, recipients=[identity[0]])
    other = tmp_path / "other.txt"
    other.write_text(str(pyrage.x25519.Identity.generate()))
    other.chmod(0o640)
    with pytest.raises(BackupError, match="chmod 600"):
        verify_backup(home, folder, done.backup, other)
    other.chmod(0o600)
    with pytest.raises(BackupError, match="none of the secret keys"):
        verify_backup(home, folder, done.backup, other)
    there = lost(home)
    with pytest.raises(BackupError, match="--identity"):
        restore_backup(there, folder, done.backup)
    for text, words in (
        ("nonsense", "no identity"),
        ("", "holds no secret key"),
        ("# only this", "holds no secret key"),
    ):
        other.write_text(text)
        with pytest.raises(BackupError, match=words) as raised:
            restore_backup(there, folder, done.backup, other)
        assert "nonsense" not in str(raised.value)
    with pytest.raises(BackupError, match="cannot be read"):
        restore_backup(there, folder, done.backup, tmp_path / "missing")
    # Without any, the objects can still be compared with the header.
    found = verify_backup(there, folder, done.backup)
    assert found.problems == () and found.files is None


def test_a_key_of_ssh_will_do(home: Settings, folder: Path, tmp_path: Path) -> None:
    keygen = shutil.which("ssh-keygen")
    if keygen is None:
        pytest.skip("ssh-keygen is not here")
    file = tmp_path / "id_ed25519"
    subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    done = made(home, recipients=[file.with_suffix(".pub").read_text().strip()])
    assert done.backup.is_encrypted and verify_backup(home, folder, done.backup, file).files == done.files


def test_turning_encryption_on_stores_everything_anew(home: Settings, identity: tuple[str, Path]) -> None:
    plain = made(home)
    sealed = made(home, 1, recipients=[identity[0]])
    assert not {*plain.backup.objects} & {*sealed.backup.objects}
    assert all(name.endswith(".age") for name in sealed.backup.objects)


def test_what_no_backup_can_be_made_into_says_so(home: Settings, folder: Path, tmp_path: Path) -> None:
    for place in (home.data_dir, home.data_dir / "backups", tmp_path):
        with pytest.raises(BackupError, match="lie in each other"):
            create_backup(home, place, NOW, keep=1)
    with pytest.raises(BackupError, match="no recipient"):
        made(home, recipients=["age1nonsense"])
    made(home)
    with pytest.raises(BackupError, match="clock"):
        made(home)
    another = Settings(tmp_path / "another")
    write_settings(another)
    with pytest.raises(BackupError, match="another data directory"):
        create_backup(another, folder, NOW + timedelta(hours=1), keep=1)
    assert len(backups(folder)) == 1
    with pytest.raises(BackupError, match="no backup 2020"):
        backup_named(folder, "20200101T000000Z")
    (home.data_dir / "access" / "users.db").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    with pytest.raises(BackupError, match=r"users\.db cannot be copied"):
        made(home, 2)
    assert len(backups(folder)) == 1 and not module.staging_folder(home).exists()


def test_a_damaged_warehouse_stops_it(home: Settings) -> None:
    with open_warehouse(home.warehouse_file) as warehouse:
        warehouse.connection.execute("create table facts.b as select hash(range) as n from range(200000)")
    with home.warehouse_file.open("r+b") as file:
        file.seek(home.warehouse_file.stat().st_size // 2)
        file.write(b"x" * 50_000)
    with pytest.raises((ValueError, duckdb.Error), match="damaged|orrupt"):
        made(home)
    assert not list(Path(home.backup.folder).glob("*.json"))


def test_without_pyrage_the_error_names_the_extra(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyrage", None)
    with pytest.raises(BackupError, match=r"hospital-assets\[backup\]"):
        made(home, recipients=["age1x"])
    assert made(home).files


def test_a_place_that_is_taken_is_left_alone(home: Settings, folder: Path) -> None:
    done = made(home)
    there = lost(home)
    there.data_dir.mkdir()
    (there.data_dir / "mine").write_text("mine")
    with pytest.raises(BackupError, match="not empty"):
        restore_backup(there, folder, done.backup)
    assert [path.name for path in there.data_dir.iterdir()] == ["mine"]
    (there.data_dir / "mine").rename(there.data_dir / "lost+found")
    restore_backup(there, folder, done.backup)
    with pytest.raises(BackupError, match="not empty"):
        restore_backup(there, folder, done.backup)


def test_where_the_original_is_there_its_keys_are_not_used(
    home: Settings, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = made(home)
    copy_keys(home, tmp_path / "keys", folder)
    there = Settings(tmp_path / "rehearsal")
    with pytest.raises(BackupError, match="XDG_CONFIG_HOME"):
        restore_backup(there, folder, done.backup)
    # Refused, it has left nothing, whether the folder was there or not.
    assert not there.data_dir.exists()
    (there.data_dir / "lost+found").mkdir(parents=True)
    with pytest.raises(BackupError, match="XDG_CONFIG_HOME"):
        restore_backup(there, folder, done.backup)
    assert {path.name for path in there.data_dir.iterdir()} <= {"lost+found", LOCK}
    record(home, Event("ann", "query"))
    with contextlib.closing(AuditLog(home)) as log:
        assert log.verify().problems == ()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "of the rehearsal"))
    put_keys(tmp_path / "keys")
    restore_backup(there, folder, done.backup)
    with contextlib.closing(AuditLog(there)) as log:
        assert log.verify().problems == ()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with contextlib.closing(AuditLog(home)) as log:
        assert log.verify().problems == ()


def test_a_restore_that_was_interrupted_goes_on(
    home: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hospital_assets.recovery import restore

    first, done = made(home), made(home, 1)
    monkeypatch.setenv("HOSPITAL_DATA_DIR", str(home.data_dir.with_name("elsewhere")))
    before = {name: data for name, (data, _, _) in files_in(home.data_dir).items() if name.startswith("landing/n")}
    there = lost(home)
    real, fetched = restore.fetch, list[str]()

    def interrupted_at(most: int) -> Callable[..., Content]:
        calls = iter(range(most))

        def fetch(*arguments: object) -> Content:
            if next(calls, None) is None:
                raise KeyboardInterrupt
            fetched.append(str(arguments[1]))
            return real(*arguments)  # type: ignore[arg-type]

        return fetch

    for most in range(1, 40, 3):
        monkeypatch.setattr(restore, "fetch", interrupted_at(most))
        with contextlib.suppress(KeyboardInterrupt):
            restore_backup(there, folder, done.backup)
            break
        assert there.restoring_note.exists()
        if most == 7:
            # What is half restored is not used, and not mixed with another backup.
            assert main(["status"]) == 2 and "restore` again" in capsys.readouterr().err
            with pytest.raises(BackupError, match="another backup"):
                restore_backup(there, folder, first.backup)
            with pytest.raises(BackupError, match="being restored"):
                create_backup(there, folder, NOW + timedelta(hours=2), keep=3)
            damaged = there.landing / "native" / "visits" / "again.csv"
            if damaged.exists():
                damaged.write_bytes(b"half")
    else:
        pytest.fail("it never came to its end")
    assert len(fetched) > done.files
    after = {name: data for name, (data, _, _) in files_in(there.data_dir).items() if name.startswith("landing/n")}
    assert {name: data for name, data in before.items() if not name.endswith(".tmp")} == after
    with contextlib.closing(AuditLog(there)) as log:
        assert log.verify().problems == ()


def test_keys_go_elsewhere_and_come_back(
    home: Settings,
    folder: Path,
    config: Path,
    tmp_path: Path,
    identity: tuple[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create_key(home)
    secrets = {path.name: path.read_bytes() for path in (config / "hospital_assets").glob("*.key")}
    assert len(secrets) == 2
    made(home)
    in_backup = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert not any(secret.strip() in in_backup for secret in secrets.values())
    for place in (home.data_dir / "keys", folder / "keys", folder, tmp_path):
        with pytest.raises(BackupError, match="together with what they protect"):
            copy_keys(home, place, folder)
    copies = copy_keys(home, tmp_path / "safe", folder, [identity[0]])
    assert not any(secret.strip() in file.read_bytes() for file in copies for secret in secrets.values())
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "new"))
    with pytest.raises(BackupError, match="--identity"):
        put_keys(tmp_path / "safe")
    put = put_keys(tmp_path / "safe", identity[1])
    assert {path.name: path.read_bytes() for path in put} == secrets
    assert all(path.stat().st_mode & 0o077 == 0 for path in put) and put_keys(tmp_path / "safe", identity[1]) == []
    key_file().write_text("another")
    with pytest.raises(BackupError, match="move it away"):
        put_keys(tmp_path / "safe", identity[1])
    assert key_file().read_text() == "another"
    with contextlib.closing(AuditLog(home)) as log:
        assert log.entries("action = 'key'")["outcome"].to_list() == ["allowed", "allowed"]


WRITER = """
import contextlib, json, sqlite3, sys
from pathlib import Path
from hospital_assets.access.audit import Event, record
from hospital_assets.files import replace_text
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import open_warehouse

settings = Settings(Path(sys.argv[1]))
outbox = sqlite3.connect(settings.data_dir / "alerts" / "outbox.sqlite", timeout=30, isolation_level=None)
for number in range(10**9):
    with open_warehouse(settings.warehouse_file) as warehouse:
        for _ in range(5):
            with warehouse.transaction() as connection:
                for table in ("c", "d"):
                    connection.execute(f"create table if not exists facts.{table} (n bigint)")
                    connection.execute(f"insert into facts.{table} select range from range(5000)")
        ((rows,),) = warehouse.connection.execute("select count(*) from facts.c").fetchall()
        replace_text(settings.warehouse_file.with_name("beside.json"), json.dumps(rows))
    for _ in range(20):
        outbox.execute("begin immediate")
        outbox.execute("insert into t values ('one')")
        outbox.execute("insert into t values ('other')")
        outbox.execute("commit")
    record(settings, Event("writer", "query"))
    with (settings.landing / "native" / "grows.hl7").open("ab") as file:
        file.write(b"MSH|%09d\\r" % number)
    print(number, flush=True)
"""


@pytest.mark.slow
def test_it_is_consistent_while_others_write(home: Settings, folder: Path) -> None:
    with started([sys.executable, "-c", WRITER, str(home.data_dir)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline()
        done = [made(home, hours) for hours in range(4)]
        assert writer.poll() is None
    counts = []
    for number, one in enumerate(done):
        assert verify_backup(home, folder, one.backup).problems == ()
        there = Settings(folder.with_name(f"restored-{number}"))
        if number == 0:
            shutil.move(home.data_dir, home.data_dir.with_name("away"))
        restore_backup(there, folder, one.backup)
        ((rows, others),) = query(there, "select (select count(*) from facts.c), (select count(*) from facts.d)").rows()
        # Both tables of each transaction, and the file beside the warehouse that says how many.
        assert rows == others == json.loads(there.warehouse_file.with_name("beside.json").read_text())
        with contextlib.closing(sqlite3.connect(there.data_dir / "alerts" / "outbox.sqlite")) as outbox:
            ((ones,),) = outbox.execute("select count(*) from t where name = 'one'").fetchall()
            ((alike,),) = outbox.execute("select count(*) from t where name = 'other'").fetchall()
        assert ones == alike > 0
        grown = (there.landing / "native" / "grows.hl7").read_bytes()
        assert grown.endswith(b"\r") and len(grown) % 14 == 0
        with contextlib.closing(AuditLog(there)) as log:
            assert log.verify().problems == ()
        counts.append(rows)
        shutil.rmtree(there.data_dir)
    assert counts == sorted(counts) and counts[0] < counts[-1]


@pytest.mark.slow
def test_what_was_killed_in_the_middle_leaves_earlier_ones_whole(home: Settings, folder: Path) -> None:
    first = made(home)
    rng = random.Random(3)
    for number in range(300):
        replace_bytes(home.landing / "native" / "many" / f"{number}.bin", rng.randbytes(100_000))
    known = {path.name for path in (folder / "objects").rglob("*.zst")}
    with started(hospital(home.data_dir, "backup", "create"), **QUIET) as creating:
        # In the middle: some of the new objects are there, others are not.
        while creating.poll() is None and len({path.name for path in (folder / "objects").rglob("*.zst")} - known) < 20:
            time.sleep(0.001)
    assert creating.returncode == -signal.SIGKILL
    assert [backup.name for backup in backups(folder)] == [first.backup.name]
    left = {path.name for path in (folder / "objects").rglob("*.zst")} - known
    assert 20 <= len(left) < 300 and module.staging_folder(home).exists()
    assert verify_backup(Settings(folder.with_name("scratch")), folder, first.backup).problems == ()
    # A file that was landing when it was killed is gone: what was stored of it is nobody's.
    shutil.rmtree(home.landing / "native" / "many")
    second = made(home, 1)
    kept = {path.name for path in (folder / "objects").rglob("*") if path.is_file()}
    assert kept == {*first.backup.objects, *second.backup.objects} and not left & kept
    assert not module.staging_folder(home).exists()
    for backup in backups(folder):
        assert verify_backup(home, folder, backup).problems == ()


def test_what_a_killed_writer_had_committed_is_in_it(home: Settings, folder: Path) -> None:
    """It is still in the log beside the warehouse, which a copy of the file alone is without."""
    write = (
        "import duckdb,os,sys; c=duckdb.connect(sys.argv[1]); c.execute('insert into facts.a select 7'); os._exit(0)"
    )
    with started([sys.executable, "-c", write, str(home.warehouse_file)]) as writer:
        writer.wait()
    assert home.warehouse_file.with_name("hospital.duckdb.wal").stat().st_size
    done = made(home)
    there = lost(home)
    restore_backup(there, folder, done.backup)
    assert query(there, "select count(*) from facts.a").item() == 1001


def test_attempts_that_fail_do_not_pile_up(home: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made(home)

    def full(_: objects.Objects) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(objects.Objects, "flush", full)
    left = []
    for number in range(1, 4):
        replace_bytes(home.landing / "native" / "changes.bin", bytes([number]) * 1000)
        with pytest.raises(OSError, match="No space"):
            made(home, number)
        left.append({path.name for path in folder.glob("objects/*/*")} - {*first.backup.objects})
    assert left[0] and len({len(names) for names in left}) == 1 and left[0] != left[-1]
    monkeypatch.undo()
    assert [backup.name for backup in backups(folder)] == [first.backup.name]


def test_publications_that_are_switched_meanwhile_are_whole(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    published, switched = home.data_dir / "published" / "analyst", []
    real = module._put

    def switching(below: str, *arguments: object) -> module.Entry | None:
        if below.startswith("published/") and not switched:
            switched.append(below)
            # As a publication does: the new version, the file that names it, and the old one goes.
            replace_text(published / "20260314T000000000000Z" / "manifest.json", '{"new": 1}')
            replace_text(published / "current.json", '{"version": "20260314T000000000000Z"}')
            shutil.rmtree(published / "20260313T000000000000Z")
        return real(below, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_put", switching)
    done = made(home)
    assert switched
    there = lost(home)
    restore_backup(there, Path(home.backup.folder), done.backup)
    named = json.loads((there.data_dir / "published" / "analyst" / "current.json").read_text())["version"]
    versions = [path.name for path in (there.data_dir / "published" / "analyst").iterdir() if path.is_dir()]
    assert named in versions


def test_a_broken_audit_is_backed_up_and_not_accepted(home: Settings, folder: Path) -> None:
    with contextlib.closing(sqlite3.connect(log_file(home))) as connection:
        connection.execute("drop trigger entries_are_not_changed")
        connection.execute("update entries set actor = 'bob'")
        connection.commit()
    done = made(home)
    assert any("audit is broken" in remark for remark in done.remarks)
    there = lost(home)
    assert not restore_backup(there, folder, done.backup).is_accepted
    with contextlib.closing(AuditLog(there)) as log:
        assert any("not what was written" in problem for problem in log.verify().problems)


def test_what_lies_elsewhere_is_named(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSPITAL_DAGSTER_POSTGRES_URL", "postgresql+psycopg2://u:secret@h/d")
    monkeypatch.setenv("HOSPITAL_LAKE", "s3://bucket/lake")
    remarks = " ".join(made(home).remarks)
    assert "pg_dump" in remarks and "HOSPITAL_LAKE" in remarks and "secret" not in remarks


def test_erasing_names_the_backups_that_hold_the_person(home: Settings, folder: Path) -> None:
    first, second = made(home), made(home, 1)
    (named,) = [place for place in not_reached(home, {}) if str(folder) in place]
    assert first.backup.name in named and second.backup.name in named and "erases the person again" in named
    # What a backup that was killed left is deleted like the warehouse it is a copy of.
    replace_bytes(module.staging_folder(home) / "x", PLAIN)
    delete_derived_files(home)
    assert not module.staging_folder(home).exists()
    assert any("no folder" in place for place in not_reached(Settings(home.data_dir), {}))
    assert erased_since(folder, second.backup) == []
    note_erasure(home, "abc", NOW + timedelta(minutes=30))
    note_erasure(home, "def", NOW + timedelta(hours=2))
    assert (erased_since(folder, first.backup), erased_since(folder, second.backup)) == (["abc", "def"], ["def"])
    # A later backup, and the deletion of the first, leave the note alone.
    third = made(home, 3, keep=2)
    assert erased_since(folder, third.backup) == [] and erased_since(folder, second.backup) == ["def"]
    there = lost(home)
    assert restore_backup(there, folder, second.backup).erased_since == ("def",)
    (folder / f"{second.backup.name}.json").write_text("{}")
    assert any("cannot be listed" in place for place in not_reached(home, {}))


def test_the_doctor_looks_at_backups(home: Settings, folder: Path, identity: tuple[str, Path]) -> None:
    def level(settings: Settings, now: datetime) -> tuple[str, str]:
        (level, what, _), *_ = doctor._backups(settings, now)
        return level, what

    assert level(Settings(home.data_dir), NOW)[0] == "warning"
    assert level(home, NOW) == ("warning", f"there is no backup in {folder}")
    made(home)
    assert "not encrypted" in level(home, NOW)[1]
    last = made(home, 1, recipients=[identity[0]])
    assert level(home, NOW + timedelta(hours=48))[0] == "ok" and level(home, NOW + timedelta(hours=50))[0] == "warning"
    (folder / f"{last.backup.name}.json").write_text("{")
    assert [f.level for f in doctor.examine(home, EngineSettings(), lambda: NOW) if f.subject == "backups"] == ["error"]


def test_an_erasure_is_noted_where_backups_are(home: Settings, folder: Path) -> None:
    shutil.rmtree(home.data_dir / "erasures")
    folder.write_text("in the way")
    replace_text(home.landing / "native" / "p.csv", "patient_id\nP-815\n")
    erasure = plan_erasure(home, "P-815", SecretKey(b"k" * 32))

    def rebuild(_: bool) -> list[str]:
        with open_warehouse(home.warehouse_file):
            return []

    failed = erase_person(home, erasure, rebuild)
    assert not failed.is_done and any("noted" in failure for failure in failed.failures)
    folder.unlink()
    assert erase_person(home, plan_erasure(home, "P-815", SecretKey(b"k" * 32)), rebuild).is_done
    assert (folder / "erased.txt").read_text().split(" ")[1].strip() == erasure.hashed


def test_the_settings_of_backups(tmp_path: Path) -> None:
    stated = BackupSettings("/mnt/backup", ("age1x", 'ssh-ed25519 AAAA "x"'), 3)
    write_settings(Settings(tmp_path, backup=stated))
    assert load_settings(tmp_path).backup == stated
    for text, words in (
        ("folder = 'backups'", "absolute"),
        ("keep = 0", "whole number"),
        ("keep = true", "whole number"),
        ("recipients = 'age1'", "public keys"),
        ("place = 1", "unknown key 'backup.place'"),
    ):
        (tmp_path / "hospital.toml").write_text(f"[backup]\n{text}\n")
        with pytest.raises(SettingsError, match=words):
            load_settings(tmp_path)


def test_the_commands(
    home: Settings,
    folder: Path,
    tmp_path: Path,
    identity: tuple[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(KEY_FILE_VARIABLE, raising=False)
    here = ["--data-dir", str(home.data_dir), "backup"]
    assert main([*here, "list"]) == 0 and "there is no backup" in capsys.readouterr().out
    assert main([*here, "verify"]) == 2 and "there is no backup" in capsys.readouterr().err
    assert main([*here, "create", "--keep", "0"]) == 2
    assert main([*here, "create", "--recipient", identity[0]]) == 0
    assert "encrypted" in capsys.readouterr().out
    assert main([*here, "keys", "--into", str(tmp_path / "safe")]) == 0
    (backup,) = backups(folder)
    capsys.readouterr()
    assert main([*here, "list"]) == 0 and backup.name in capsys.readouterr().out
    assert main([*here, "verify"]) == 0 and "not opened" in capsys.readouterr().out
    assert main([*here, "verify", backup.name, "--identity", str(identity[1])]) == 0
    assert "came out as they went in" in capsys.readouterr().out
    lost(home)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "new machine"))
    there = tmp_path / "there"
    restoring = ["--data-dir", str(there), "backup", "restore", "--into", str(there), "--identity", str(identity[1])]
    assert main(restoring) == 2 and "--folder" in capsys.readouterr().err
    assert main([*restoring, "--folder", str(folder), "--keys", str(tmp_path / "safe")]) == 0
    assert "files as they were at" in capsys.readouterr().out
    assert main(["--data-dir", str(there), "audit", "verify"]) == 0
    assert main(["--data-dir", str(there), "backup", "list"]) == 0 and backup.name in capsys.readouterr().out
    path_of(folder, backup.manifest).unlink()
    assert main(["--data-dir", str(there), "backup", "verify"]) == 1 and "missing" in capsys.readouterr().err
    assert main(["--data-dir", str(tmp_path / "none"), "backup", "create"]) == 2


def measured(settings: Settings) -> dict[tuple[str, ...], float]:
    """Metrics of backups, and whether they could be read."""
    found = {(value.metric, *value.labels): float(value.value) for value in metrics.collect(settings)}
    return {key: value for key, value in found.items() if "_backup" in key[0] or key[1:] == ("backups",)}


def examined(settings: Settings, hours: int) -> list[str]:
    findings = doctor.examine(settings, EngineSettings(), lambda: NOW + timedelta(hours=hours))
    return [f"{finding.level}: {finding.what}" for finding in findings if finding.subject == "backups"]


def test_metrics_and_the_doctor_know_how_backups_stand(
    home: Settings, folder: Path, identity: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    verified, damaged = "hospital_backup_verified_timestamp_seconds", ("hospital_backups_damaged",)
    assert measured(replace(home, backup=BackupSettings())) == {("hospital_part_readable", "backups"): 1}
    assert measured(home)["hospital_backups",] == 0
    made(home, recipients=[identity[0]])
    newest = made(home, hours=1, recipients=[identity[0]]).backup
    assert measured(home) == {
        ("hospital_part_readable", "backups"): 1,
        ("hospital_backups",): 2,
        ("hospital_backup_timestamp_seconds",): newest.taken_at.timestamp(),
        ("hospital_backup_size_bytes",): newest.size,
        ("hospital_backup_encrypted",): 1,
        (verified, "digests"): 0,
        (verified, "content"): 0,
        damaged: 0,
    }
    unverified = ["warning: none was verified", "warning: none was verified by opening it"]
    assert examined(home, 2)[1:] == unverified
    verify = ["--data-dir", str(home.data_dir), "backup", "verify"]
    before = datetime.now(UTC).timestamp() - 1
    assert main(verify) == 0
    found = measured(home)
    assert before <= found[verified, "digests"] <= datetime.now(UTC).timestamp() and found[verified, "content"] == 0
    assert examined(home, 2)[1:] == unverified[1:]
    assert main([*verify, "--identity", str(identity[1])]) == 0
    assert measured(home)[verified, "content"] > 0 and len(examined(home, 2)) == 1
    # Those of the wall clock's today are too old in a year.
    late = examined(home, 24 * 800)
    assert any(line.startswith("warning: none was verified since ") for line in late)
    assert any(line.startswith("warning: 2 in ") for line in late)
    # One that lost an object counts as damaged until it is found whole, or has gone.
    lost_one = path_of(folder, newest.manifest)
    content = lost_one.read_bytes()
    lost_one.unlink()
    assert main(verify) == 1
    assert measured(home)[damaged] == 1 and measured(home)[verified, "content"] == 0
    assert "error: 1 were not whole when they were last verified" in examined(home, 2)
    replace_bytes(lost_one, content)
    assert main([*verify, "--identity", str(identity[1])]) == 0
    assert measured(home)[damaged] == 0 and measured(home)[verified, "content"] > 0
    made(home, hours=2, recipients=[identity[0]], keep=1)
    assert measured(home)["hospital_backups",] == 1 and measured(home)[verified, "digests"] == 0
    capsys.readouterr()


def test_a_backup_after_a_damaged_one_is_whole(home: Settings, folder: Path) -> None:
    """Of the right size are also objects in which a bit has turned."""
    first = made(home).backup
    for name in set(first.objects) - {first.manifest}:
        content = path_of(folder, name).read_bytes()
        path_of(folder, name).write_bytes(bytes(byte ^ 1 for byte in content))
    assert main(["--data-dir", str(home.data_dir), "backup", "verify"]) == 1
    assert verify_backup(home, folder, made(home, hours=1).backup).problems == ()


@pytest.mark.fast_as("digests")
@pytest.mark.parametrize(
    "content", ["", "x", "[]", "{}x", '{"a": 1}', '{"a": {"digests": ["x", true]}}', '{"a": {"digests": 1}}']
)
def test_what_was_noted_and_is_damaged_stops_nothing_else(home: Settings, folder: Path, content: str) -> None:
    made(home)
    (folder / "verified.json").write_text(content)
    assert measured(home) == {("hospital_part_readable", "backups"): 0}
    assert examined(home, 1)[0].startswith("error: ") and "verified.json" in examined(home, 1)[0]
    assert len([value for value in metrics.collect(home) if value.metric == "hospital_disk_free_bytes"]) == 1


def test_who_cannot_write_beside_the_backups_says_so(
    home: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made(home)

    def refused(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(module, "replace_text", refused)
    assert main(["--data-dir", str(home.data_dir), "backup", "verify"]) == 0
    said = capsys.readouterr()
    assert "Read-only file system" in said.err and "came out as they went in" in said.out


def test_a_folder_that_hangs_keeps_nobody_waiting(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    made(home)
    goes_on = threading.Event()
    real = Path.glob

    def hanging(self: Path, pattern: str) -> Iterator[Path]:
        if pattern == "*Z.json":
            goes_on.wait(60)
        return iter(list(real(self, pattern)))

    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(Path, "glob", hanging)
    before = threading.active_count()
    for words in ("does not answer", "has not answered since"):
        assert words in examined(home, 1)[0] and measured(home) == {("hospital_part_readable", "backups"): 0}
    # However often it is asked, one thread hangs.
    assert threading.active_count() == before + 1
    goes_on.set()
    while module._looking.locked():
        time.sleep(0.01)
    monkeypatch.setattr(module, "_LOOK_SECONDS", 10.0)
    assert measured(home)["hospital_backups",] == 1


@pytest.mark.slow
def test_the_drill(built: tuple[Settings, BuildReport], tmp_path: Path, folder: Path, config: Path) -> None:
    """Built and published, backed up at work, destroyed, restored elsewhere on new keys' folder: it goes on."""
    network, _ = built
    settings = replace(network, data_dir=tmp_path / "data")
    shutil.copytree(network.data_dir, settings.data_dir)
    create_key(settings)
    definitions = build_definitions(settings)
    assert not publish(definitions, settings, ["analyst"]).failures
    with dagster_instance(settings) as instance:
        # A run that is under way when the backup is made.
        job = definitions.resolve_job_def("publish")
        under_way = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert refresh(definitions, settings, zone(definitions)) is None
    before = dict(tables(settings))
    reader = "import sys,time,duckdb; c=duckdb.connect(sys.argv[1],read_only=True); print(1,flush=True); time.sleep(3)"
    with started([sys.executable, "-c", reader, str(settings.warehouse_file)], stdout=subprocess.PIPE) as reading:
        assert reading.stdout is not None and reading.stdout.readline()
        # Waits for the reader, who holds the file.
        done = create_backup(settings, folder, NOW, keep=3)
    copy_keys(settings, tmp_path / "keys", folder)
    shutil.rmtree(settings.data_dir)
    shutil.rmtree(config)
    put_keys(tmp_path / "keys")
    there = replace(settings, data_dir=tmp_path / "elsewhere" / "data")
    restore_backup(there, folder, done.backup)
    assert end_unfinished_runs(there, "restored") == 1
    assert load_settings(there.data_dir).first_service_date == network.first_service_date
    assert dict(tables(there)) == before
    with contextlib.closing(AuditLog(there)) as log:
        assert log.verify().problems == ()
    with dagster_instance(there) as instance:
        run = instance.get_run_by_id(under_way.run_id)
        assert run is not None and run.status is dg.DagsterRunStatus.FAILURE
        assert instance.get_runs_count() > 1
    with open_publication(there.data_dir, "analyst") as publication:
        assert publication.connection.sql("select count(*) from kpis.kpi_waits_daily").fetchall()[0][0] > 0
    # Nothing waits, nothing is stale; what lands next is loaded.
    definitions = build_definitions(there)
    assert refresh(definitions, there, zone(definitions)) is None
    assert query(there, "select count(*) from facts.stale_partitions").item() == 0
    counted = "select (select count(*) from raw.raw_vitals), (select count(*) from facts.fact_vitals)"
    ((raw, facts),) = query(there, counted).rows()
    newest = max((there.landing / "native" / "vitals").glob("*.json"))
    line = newest.read_text().splitlines()[0].replace('"observation_id":"', '"observation_id":"NEW')
    replace_text(newest.with_name("landed-later.json"), line + "\n")
    report = refresh(definitions, there, zone(definitions))
    assert report is not None and not report.failures
    assert query(there, counted).rows() == [(raw + 1, facts + 1)]
    assert refresh(definitions, there, zone(definitions)) is None
    later = create_backup(there, folder, NOW + timedelta(days=1), keep=3)
    assert later.added < done.added


def zone(definitions: dg.Definitions) -> LandingResource:
    landing = (definitions.resources or {})["landing"]
    assert isinstance(landing, LandingResource)
    return landing
