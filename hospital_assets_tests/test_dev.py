"""`hospital dev`: what it checks before it starts, and that its parts live and end together."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hospital_assets.automation.presence import dev_lock
from hospital_assets.cli import main
from hospital_assets.cli.pages import _run_together
from hospital_assets.settings import Settings

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
        assert main(["--data-dir", str(tmp_path), "dev", "--port", "0", "--dashboard-port", "0"]) == 2
    assert "already" in capsys.readouterr().err


def test_when_a_part_fails_all_end(capfd: pytest.CaptureFixture[str]) -> None:
    commands = {"one": SLEEP, "two": [sys.executable, "-c", "import sys; sys.exit(7)"]}
    assert _run_together(commands, os.environ, {}, threading.Event()) == 7
    assert "two has ended" in capfd.readouterr().err


def test_both_addresses_are_told_once_both_answer(taken: int, capfd: pytest.CaptureFixture[str]) -> None:
    stop = threading.Event()
    threading.Timer(2.0, stop.set).start()
    assert _run_together({"one": SLEEP, "two": SLEEP}, os.environ, {"one": taken, "two": taken}, stop) == 0
    assert capfd.readouterr().out.count(f"one http://localhost:{taken}, two http://localhost:{taken}") == 1
