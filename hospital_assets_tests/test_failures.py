"""Failures of the machine and its files are said in words, at the terminal, and stop nothing they need not."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import signal
import sqlite3
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import duckdb
import polars as pl
import pytest

from hospital_assets.automation.failures import FULL_DISK, in_words
from hospital_assets.cli import main
from hospital_assets.cli.console import StepProgress
from hospital_assets.files import replace_text, replacing
from hospital_assets.publishing.publications import PublicationError, current_version
from hospital_assets.settings import Settings, write_settings
from hospital_assets.warehouse.database import open_warehouse
from hospital_assets.warehouse.errors import INTERRUPTED, WarehouseError
from hospital_assets.warehouse.loads import ledger_copy, read_at_once, read_ledger_copy

DAY = date(2026, 3, 1)
FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    sqlite3.OperationalError("database or disk is full"),
    duckdb.IOException('Could not write file "x": No space left on device'),
    pl.exceptions.ComputeError("No space left on device (os error 28)"),
]


@pytest.mark.parametrize("error", FULL, ids=repr)
def test_a_full_disk_is_said_in_words_and_is_no_files_fault(error: Exception) -> None:
    assert "the disk is full" in (in_words(error) or "")
    wrapped = ValueError("x")
    wrapped.__cause__ = error
    assert "the disk is full" in (in_words(wrapped) or "")
    assert any(words in str(error).lower() for words in FULL_DISK)


def sqlite_error(name: str) -> sqlite3.Error:
    error = sqlite3.OperationalError("x")
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (WarehouseError('h.duckdb cannot be opened: Cannot open file "h.duckdb": Permission denied'), "chown"),
        (WarehouseError("the rows could not be stored (Cannot open file '...': Read-only file system)"), "chown"),
        (duckdb.IOException('Cannot open file "h.duckdb": Permission denied'), "chown"),
        (sqlite_error("SQLITE_READONLY_DIRECTORY"), "chown"),
        (sqlite_error("SQLITE_CANTOPEN"), "chown"),
        (sqlite_error("SQLITE_IOERR_SHMSIZE"), "make room"),
        (sqlite_error("SQLITE_BUSY"), "another program has it"),
        (sqlite3.OperationalError("x"), "another program has it"),
    ],
    ids=str,
)
def test_what_one_may_not_use_is_not_called_damaged(error: Exception, says: str) -> None:
    words = in_words(error) or ""
    assert says in words and "move the file away" not in words


def test_a_path_that_is_too_long_is_said_in_words() -> None:
    assert in_words(OSError(errno.ENAMETOOLONG, "File name too long", "x")) == "x: File name too long"


@pytest.mark.parametrize("kept", [0, 1, 100, 4096, 12288, -1, "foreign", "sqlite"])
def test_a_warehouse_file_that_is_none_is_said_in_words(tmp_path: Path, kept: int | str) -> None:
    file = tmp_path / "warehouse" / "hospital.duckdb"
    with open_warehouse(file) as warehouse:
        warehouse.connection.execute("create table t as select range as a from range(100000)")
    whole = file.read_bytes()
    if kept == "sqlite":
        file.unlink()
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.execute("create table t (a)")
    else:
        file.write_bytes(b"a,b,c\n1,2,3\n" * 1000 if isinstance(kept, str) else whole[:kept])
    try:
        with open_warehouse(file) as warehouse:
            warehouse.connection.execute("select sum(a) from t").fetchall()
    except Exception as error:
        words = in_words(error)
        # An empty file is a new warehouse without the table; that is no damage.
        assert kept in (0, -1) or (words and "hospital.duckdb" in words) or "damaged" in str(words), error


def test_a_copy_is_read_whole_while_it_is_replaced(tmp_path: Path) -> None:
    copy = ledger_copy(tmp_path / "warehouse" / "hospital.duckdb")
    copy.parent.mkdir()
    versions = []
    for rows in (1_000, 4_000):
        file = tmp_path / f"{rows}.parquet"
        pl.DataFrame({"source_file": [f"{n * rows}.csv" for n in range(rows)]}).write_parquet(file)
        versions.append(file.read_bytes())
    done = threading.Event()

    def replace() -> None:
        for version in itertools.cycle(versions):
            with replacing(copy) as temporary:
                temporary.write_bytes(version)
            if done.is_set():
                return

    copy.write_bytes(versions[0])
    with ThreadPoolExecutor(1) as others:
        replaced = others.submit(replace)
        try:
            assert {read_at_once(copy).height for _ in range(500)} <= {1_000, 4_000}
        finally:
            done.set()
        replaced.result()


@pytest.mark.parametrize("data", [b"", b"PAR1", b"{}", None])
def test_a_copy_that_is_damaged_is_as_one_that_is_missing(
    tmp_path: Path, data: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "warehouse" / "hospital.duckdb"
    copy = ledger_copy(file)
    copy.parent.mkdir()
    pl.DataFrame({"source_file": ["a"], "is_loaded": [True]}).write_parquet(copy)
    assert read_ledger_copy(file).height == 1
    copy.write_bytes(copy.read_bytes()[:-9] if data is None else data)
    assert read_ledger_copy(file).is_empty() and "is damaged" in caplog.text
    pl.DataFrame({"source_file": [1], "is_loaded": ["perhaps"]}).write_parquet(copy)
    assert read_ledger_copy(file).is_empty() and "another shape" in caplog.text


def test_the_terminal_says_at_once_who_holds_the_warehouse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(tmp_path)
    with open_warehouse(settings.warehouse_file):
        monkeypatch.setattr("hospital_assets.recovery.snapshots.take_snapshot", lambda *_: ([], []))
        assert main(["--data-dir", str(tmp_path), "snapshot"]) == 0
    assert f"in use by process {os.getpid()}" in capsys.readouterr().err


def test_checks_of_a_directory_where_nothing_was_checked_are_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in ("--last", "--failed"):
        assert main(["--data-dir", str(tmp_path), "check", option]) == 1
        assert "nothing was ever checked" in capsys.readouterr().err


STOPPED = types.SimpleNamespace(
    is_step_success=False,
    is_step_failure=True,
    step_failure_data=types.SimpleNamespace(error=types.SimpleNamespace(cls_name="DagsterExecutionInterruptedError")),
)


@pytest.mark.fast_as("raised")
@pytest.mark.parametrize("events", [None, [], [STOPPED]], ids=["raised", "swallowed", "a failure of its step"])
def test_an_interrupted_build_says_what_did_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], events: list[object] | None
) -> None:
    (tmp_path / "landing").mkdir()

    def interrupted(*_: object) -> object:
        if events is None:
            raise KeyboardInterrupt
        return types.SimpleNamespace(all_events=events, success=False)

    monkeypatch.setattr("hospital_assets.automation.build.execute", interrupted)
    assert main(["--data-dir", str(tmp_path), "build", "--select", "kpi_waits"]) == 2
    shown = capsys.readouterr()
    assert "interrupted: 0 of " in shown.err and "kpi_waits" in shown.err
    assert "errors" not in shown.out


def test_a_signal_that_meets_the_database_is_no_mistake_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def met(*_: object) -> None:
        raise RuntimeError(INTERRUPTED)

    monkeypatch.setattr("hospital_assets.recovery.snapshots.snapshots", met)
    assert main(["--data-dir", str(tmp_path), "snapshots"]) == 130
    assert capsys.readouterr().err == "hospital: interrupted\n"


def test_a_refresh_that_is_cancelled_says_so_and_its_files_go_on_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The signal comes in the middle of a run, as from who cancels it."""
    landed = tmp_path / "landing" / "native" / "hospitals" / "hospitals.csv"
    landed.parent.mkdir(parents=True)
    landed.write_text("hospital_id,hospital_name,time_zone\nH1,One,America/Chicago\n")
    write_settings(Settings(tmp_path, first_service_date=DAY, last_service_date=DAY))
    done: list[str] = []

    def cancelled(_: StepProgress, name: str, _done: int, _total: int) -> None:
        done.append(name)
        if name == "raw_landed_files":
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(StepProgress, "__call__", cancelled)
    assert main(["--data-dir", str(tmp_path), "refresh"]) == 2
    shown = capsys.readouterr()
    assert "interrupted: " in shown.err and "Run it again" in shown.err
    assert "Traceback" not in shown.err and "raw_hospitals" not in done
    ledger = read_ledger_copy(Settings(tmp_path).warehouse_file)
    assert ledger["source_file"].to_list() == ["native/hospitals/hospitals.csv"]
    assert ledger["is_loaded"].to_list() == [False]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"speed": "fast"}', "\0", "[" * 100_000])
def test_state_files_of_another_shape_are_said_in_words(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(tmp_path)
    replace_text(settings.clock_file, text)
    assert main(["--data-dir", str(tmp_path), "alerts"]) == 2
    assert "is not what was written there" in capsys.readouterr().err
    settings.clock_file.unlink()
    replace_text(tmp_path / "published" / "admin" / "current.json", text)
    with pytest.raises(PublicationError, match="is not what was written there"):
        current_version(tmp_path, "admin")
