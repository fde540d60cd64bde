"""Shared fixtures: an empty warehouse, a small simulated network, and one build of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# No test may touch the data directory of the checkout.
os.environ["HOSPITAL_DATA_DIR"] = str(Path(__file__).parent / "no-data-here")
# Nor anybody's keys.
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="hospital-keys-")

from hospital_assets.settings import Settings, write_settings
from hospital_assets.warehouse.database import Warehouse, open_warehouse
from hospital_assets_tests.engines import ALL_ENGINES, Engine

if TYPE_CHECKING:
    from hospital_assets.automation.build import BuildReport

FIRST, LAST = date(2026, 3, 5), date(2026, 3, 12)
SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(
    params=[
        pytest.param(engine, id=name, marks=[pytest.mark.slow] if name == "spark" else [])
        for name, engine in ALL_ENGINES.items()
    ]
)
def on(request: pytest.FixtureRequest) -> Engine:
    """Brings a frame to an engine; a test that takes it runs on every one (on Spark when slow)."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[Warehouse]:
    with open_warehouse(tmp_path / "warehouse" / "hospital.duckdb") as opened:
        yield opened


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Eight dirty days (8 March has 23 hours) of a tenth of the network, landed but not built."""
    from hospital_assets.simulator import simulate

    settings = Settings(tmp_path_factory.mktemp("network"), first_service_date=FIRST, last_service_date=LAST)
    simulate(settings.landing, settings.ground_truth, start=FIRST, days=8, scale=0.1, seed=7)
    write_settings(settings)
    return settings


@pytest.fixture(scope="session")
def built(network: Settings) -> tuple[Settings, BuildReport]:
    """The small network, built; copy it before changing anything."""
    from hospital_assets_tests.helpers import run

    return network, run(network)


@pytest.fixture(scope="session")
def mimic() -> Path:
    folder = SHARED / "mimic_iv_ed_demo" / "ed"
    if not folder.is_dir():
        pytest.skip(f"MIMIC-IV-ED demo files are not at {folder}")
    return folder
