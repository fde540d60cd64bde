"""Shared fixtures: an empty warehouse, a small simulated network, and one build of it."""

from __future__ import annotations

import atexit
import fcntl
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings

# No test may touch the data directory of the checkout.
os.environ["HOSPITAL_DATA_DIR"] = str(Path(__file__).parent / "no-data-here")
# Nor anybody's keys.
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="hospital-keys-")

from hospital_assets.access import users as access
from hospital_assets.settings import Settings, write_settings
from hospital_assets.warehouse.database import Warehouse, open_warehouse
from hospital_assets_tests.engines import ALL_ENGINES, Engine

if TYPE_CHECKING:
    from hospital_assets.automation.build import BuildReport

_Made = TypeVar("_Made")

FIRST, LAST = date(2026, 3, 5), date(2026, 3, 12)
SHARED = Path(__file__).parents[2] / "shared" / "data"
SHARED_IS_MISSING = "shared sample files"

atexit.register(shutil.rmtree, os.environ["XDG_CONFIG_HOME"], ignore_errors=True)

# A try at a password is dear on purpose; tests make thousands.
SHIPPED_COST, access._COST = access._COST, 2**4

# No test depends on how quick the machine is.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(
    params=[
        pytest.param(engine, id=name, marks=[pytest.mark.nightly] if name == "spark" else [])
        for name, engine in ALL_ENGINES.items()
    ]
)
def on(request: pytest.FixtureRequest) -> Engine:
    """Brings a frame to an engine; a test that takes it runs on every one (on Spark when slow)."""
    return request.param  # type: ignore[no-any-return]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test with `fast_as("polars")`, the parameters with that in their names run fast, the others are slow.

    So with `slow_as`: the others are nightly.
    """
    for item in items:
        for kept, others in (("fast_as", pytest.mark.slow), ("slow_as", pytest.mark.nightly)):
            marker = item.get_closest_marker(kept)
            if marker is not None and not any(name in item.callspec.id for name in marker.args):
                item.add_marker(others)


def shared(folder: str) -> Path:
    """A folder of sample files that are not ours and lie beside the checkout; without it, skips loudly."""
    found = SHARED / folder
    if not found.is_dir():
        pytest.skip(f"{SHARED_IS_MISSING}: {found} is not there")
    return found


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what did not run for want of sample files: a green run without them proves less."""
    skipped = [
        report for report in terminalreporter.stats.get("skipped", []) if SHARED_IS_MISSING in str(report.longrepr)
    ]
    if skipped:
        tests = ", ".join(sorted({report.nodeid.rpartition("/")[2] for report in skipped}))
        terminalreporter.write_line(f"{len(skipped)} tests over shared files did not run: {tests}", yellow=True)


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[Warehouse]:
    with open_warehouse(tmp_path / "warehouse" / "hospital.duckdb") as opened:
        yield opened


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Settings:
    """Eight dirty days (8 March has 23 hours) of a tenth of the network, landed but not built."""
    from hospital_assets.simulator import simulate

    def make(folder: Path) -> Settings:
        settings = Settings(folder / "network", first_service_date=FIRST, last_service_date=LAST)
        simulate(settings.landing, settings.ground_truth, start=FIRST, days=8, scale=0.1, seed=7)
        write_settings(settings)
        return settings

    return made_once("network", tmp_path_factory, worker_id, make)


@pytest.fixture(scope="session")
def built(network: Settings, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> tuple[Settings, BuildReport]:
    """The small network, built; copy it before changing anything."""
    from hospital_assets_tests.helpers import run

    return made_once("built", tmp_path_factory, worker_id, lambda _: (network, run(network)))


def made_once(name: str, folders: pytest.TempPathFactory, worker: str, make: Callable[[Path], _Made]) -> _Made:
    """What all processes of a test run share: the first that asks makes it, the others wait."""
    base = folders.getbasetemp()
    base = base if worker == "master" else base.parent
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = base / f"{name}.pickle"
        if not made.exists():
            made.write_bytes(pickle.dumps(make(base)))
        return pickle.loads(made.read_bytes())  # type: ignore[no-any-return]  # noqa: S301  (our own, a moment ago)


@pytest.fixture(scope="session")
def mimic() -> Path:
    return shared("mimic_iv_ed_demo/ed")
