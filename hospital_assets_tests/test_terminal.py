"""The terminal: what `hospital dev` checks before it starts, `hospital status`, and the list of commands."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from dagster._daemon.types import DaemonHeartbeat

from hospital_assets.automation.build import BuildReport
from hospital_assets.automation.instance import dagster_instance
from hospital_assets.automation.presence import dev_lock
from hospital_assets.cli import GROUPS, _parser, main
from hospital_assets.cli.pages import _run_together
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import open_warehouse
from hospital_assets_tests.processes import hospital

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which something listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("options", "whose"), [(["--port", "{}"], "Dagster"), (["--port", "1", "--dashboard-port", "{}"], "dashboard")]
)
def test_a_port_in_use_is_named_before_anything_starts(
    options: list[str], whose: str, taken: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data-dir", str(tmp_path), "dev", *(option.format(taken) for option in options)]) == 2
    said = capsys.readouterr().err
    assert str(taken) in said and whose in said and "--port" in said
    assert not (tmp_path / "dagster").exists()


def test_a_second_one_on_the_same_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with dev_lock(Settings(tmp_path)) as is_ours:
        assert is_ours
        dev = ["--data-dir", str(tmp_path), "dev", "--port", "0", "--dashboard-port", "0"]
        assert main(dev) == 2
        assert "already" in capsys.readouterr().err
        assert main(["--data-dir", str(tmp_path), "dagster", "daemon"]) == 2
        assert "hospital dev is at work" in capsys.readouterr().err
    # As units run it, or containers.
    with dagster_instance(Settings(tmp_path)) as instance:
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), "SENSOR", "here", None))
    assert main(dev) == 2
    assert "Dagster's daemon is at work" in capsys.readouterr().err
    assert main(["--data-dir", str(tmp_path), "status"]) == 0
    assert "Dagster's daemon" in capsys.readouterr().out


def test_when_a_part_fails_all_end(capfd: pytest.CaptureFixture[str]) -> None:
    fails = [sys.executable, "-c", "import sys; sys.exit(7)"]
    programs = {"one": (SLEEP, lambda: True), "two": (fails, lambda: False)}
    # As docs/operations.md says, whatever its own exit code was.
    assert _run_together(programs, os.environ, "ready", threading.Event()) == 1
    said = capfd.readouterr()
    assert "two has ended" in said.err and "ready" not in said.out


def test_the_others_start_once_the_first_is_ready_and_that_all_are_is_told_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stop, mark = threading.Event(), tmp_path / "ready"
    writes = [sys.executable, "-c", f"import pathlib, time; pathlib.Path({str(mark)!r}).touch(); time.sleep(60)"]
    needs = [sys.executable, "-c", f"import pathlib, time; assert pathlib.Path({str(mark)!r}).exists(); time.sleep(60)"]
    threading.Timer(3.0, stop.set).start()
    assert _run_together({"one": (writes, mark.exists), "two": (needs, lambda: True)}, os.environ, "all", stop) == 0
    assert capfd.readouterr().out.count("hospital: all") == 1


WAITS_FOR_ITS_CHILD = """
import os, pathlib, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
signal.signal(signal.SIGTERM, lambda *_: None)
pathlib.Path(sys.argv[1]).write_text(str(os.getpgrp()))
child.wait()
"""


def test_ctrl_c_ends_programs_in_order_with_all_that_they_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hospital_assets.cli.pages._END_SECONDS", 0.1)
    mark, stop = tmp_path / "group", threading.Event()

    def is_ready() -> bool:
        if mark.exists() and mark.read_text():
            stop.set()
        return False

    program = [sys.executable, "-c", WAITS_FOR_ITS_CHILD, str(mark)]
    assert _run_together({"one": (program, is_ready)}, os.environ, "all", stop) == 0
    # A terminal sends it to all of a group.
    assert int(mark.read_text()) != os.getpgrp()


def test_names_of_files_cannot_write_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    landed = tmp_path / "landing" / "a\x1b[31m\nb"
    landed.parent.mkdir()
    landed.touch()
    landed.chmod(0o644)
    main(["--data-dir", str(tmp_path), "status"])
    said = capsys.readouterr().out
    assert "a\\u001b[31m\\u000ab" in said and "\x1b[31m" not in said


def test_each_command_is_listed_once_with_an_example_that_is_one() -> None:
    parser = _parser()
    listed = [name for names, _ in GROUPS.values() for name in names]
    for name in listed:
        assert f"  {name} " in str(parser.epilog)
    commands = next(action.choices for action in parser._actions if action.choices)
    assert sorted(listed) == sorted(commands or ())
    for names, example in GROUPS.values():
        program, *arguments = example.split()
        assert program == "hospital" and arguments[0] in names
        parser.parse_args(arguments)


@pytest.mark.parametrize("command", ["status", "policy"])
def test_who_stops_reading_is_no_fault(command: str, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(hospital(tmp_path, command), stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_who_is_ended_before_a_command_sees_to_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("hospital_assets.cli.load_settings", lambda _: signal.raise_signal(signal.SIGTERM))
    try:
        assert main(["--data-dir", str(tmp_path), "watch"]) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err == "hospital: interrupted\n"


def test_another_s_broken_pipe_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("hospital_assets.recovery.snapshots.snapshots", broken)
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "w") as output, pytest.raises(BrokenPipeError):
        monkeypatch.setattr(sys, "stdout", output)
        main(["--data-dir", str(tmp_path), "snapshots"])


def test_status_of_an_empty_directory_says_how_to_begin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data-dir", str(tmp_path / "new"), "status"]) == 0
    said = capsys.readouterr().out
    assert "nothing has landed" in said and "hospital simulate" in said
    assert not (tmp_path / "new").exists()


def test_status_shows_what_can_be_read_beside_what_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: Settings) -> list[str]:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hospital_assets.cli.status._runs", full)
    assert main(["--data-dir", str(tmp_path), "status"]) == 1
    said = capsys.readouterr().out
    assert "cannot be read: the disk is full" in said and "GB free" in said and "nothing has landed" in said


def test_status_counts_what_landed_ran_and_waits(
    built: tuple[Settings, BuildReport], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = replace(built[0], data_dir=tmp_path / "copy")
    shutil.copytree(built[0].data_dir, settings.data_dir, copy_function=shutil.copy2)
    (settings.landing / "native" / "vitals" / "late.json").write_text('{"observation_id": "L1"}\n')
    with dev_lock(settings), open_warehouse(settings.warehouse_file):
        assert main(["--data-dir", str(settings.data_dir), "status"]) == 0
    said = capsys.readouterr().out
    assert "`hospital dev`" in said and f"being written by process {os.getpid()}" in said
    assert re.search(r"\d+ loaded", said) and "1 waiting to be loaded" in said
    assert re.search(r"success +full_refresh \d{4}", said)
    assert "none yet: `hospital publish`" in said and "GB free" in said
