"""The README's commands, run as they stand; what is too long for a test runs on less."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hospital_assets.cli import GROUPS
from hospital_assets_tests.processes import free_port, until

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LESS = " --days 2 --scale 0.02"
#: Commands that run until they are ended.
LASTING = ("hospital dev", "hospital watch", "hospital simulate --live")
#: A block with one of these is run elsewhere, with the tutorial's file (test_profiles_command).
ELSEWHERE = "hospital profiles new"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands(block: str) -> Iterator[str]:
    """A block's commands without comments; a target of the Makefile is what its recipe does."""
    for line in block.splitlines():
        command = line.partition("#")[0].strip()
        made = re.fullmatch(r"make (\S+)", command)
        if made:
            recipe = re.search(rf"^{made[1]}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert recipe, command
            yield from (step.strip().removeprefix("$(BIN)/") for step in recipe[1].splitlines())
        elif command:
            yield command.removeprefix(".venv/bin/")


@contextmanager
def running(command: str, environment: dict[str, str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command that lasts; it has to be alive at the end, and to end by Ctrl-C."""
    log = folder / "log.txt"
    with log.open("wb") as out:
        process = subprocess.Popen(
            shlex.split(command), env=environment, cwd=folder, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield process
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def it_lasts(command: str, environment: dict[str, str], folder: Path) -> None:
    """Run a lasting command until what it is for has happened, then end it."""
    if command.startswith("hospital dev"):
        ports = (free_port(), free_port())
        with running(f"{command} --port {ports[0]} --dashboard-port {ports[1]}", environment, folder):
            until(lambda: all(map(answers, ports)))
        return
    with running(command, environment, folder):
        if "--live" in command:
            until(lambda: any((folder / environment["HOSPITAL_DATA_DIR"] / "landing").rglob("*.csv")))
        else:
            until(lambda: (folder / "log.txt").stat().st_size)


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_every_command_is_one_that_there_is() -> None:
    known = {name for names, _ in GROUPS.values() for name in names}
    named = set(re.findall(r"`(?:.venv/bin/)?hospital ([a-z][a-z-]*)", README))
    named |= {c.split()[1] for block in blocks("sh") for c in commands(block) if re.match("hospital [a-z]", c)}
    assert named - known == set()


@pytest.mark.nightly
def test_every_command_of_the_readme_runs(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOSPITAL_PSEUDONYM_KEY_FILE": str(tmp_path / "key"),
    }
    environment.pop("HOSPITAL_DATA_DIR", None)
    tried = []
    for block in blocks("sh"):
        if ELSEWHERE in block:
            continue
        here = dict(environment)
        for command in commands(block):
            tried.append(command)
            if exported := re.fullmatch(r"export (\w+)=(\S+)", command):
                here[exported[1]] = exported[2]
            elif command.startswith(LASTING):
                it_lasts(command, here, tmp_path)
            else:
                less = LESS if command.startswith("hospital simulate") else ""
                ran = subprocess.run(
                    shlex.split(command + less), cwd=tmp_path, env=here, capture_output=True, text=True, check=False
                )
                assert ran.returncode == 0, (command, ran.stdout[-1500:], ran.stderr[-1500:])
    (python,) = blocks("python")
    ran = subprocess.run(
        [sys.executable, "-c", python], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0 and "wait_count" in ran.stdout, ran.stderr[-1500:]
    assert {"hospital dev", "hospital build", "hospital publish", "hospital publications"} <= set(tried)
