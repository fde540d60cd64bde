"""What several tests do with a data directory: build it, copy it, look into its warehouse."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import polars as pl
import pytest

from hospital_assets.assets.dimensions.scd2 import END_OF_TIME
from hospital_assets.automation.build import BuildReport, build
from hospital_assets.checks.findings import Finding
from hospital_assets.checks.kinds import CONTRACT_KINDS, KINDS, Kind
from hospital_assets.checks.table_checks import check_table
from hospital_assets.contracts import CONTRACTS, Contract
from hospital_assets.definitions import build_definitions
from hospital_assets.landing.profile import parse_profile
from hospital_assets.landing.registry import Profiles, load_profiles
from hospital_assets.landing.zone import LandingZone
from hospital_assets.publishing import publications
from hospital_assets.publishing.audience import Audience
from hospital_assets.publishing.policy import Policy
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import Warehouse
from hospital_assets.warehouse.dialect import Frame

#: The kinds of checks that no contract states by itself.
DECLARED_KINDS = [kind for kind in KINDS if kind not in CONTRACT_KINDS]

#: Tables whose rows depend on when files were looked at, not on what they hold.
_LEDGER = "raw_landed_files"


@cache
def benchmark(name: str) -> ModuleType:
    """A benchmark, as a module: what it measures is tested, too."""
    spec = importlib.util.spec_from_file_location(
        f"benchmark_of_{name}", Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def publish(
    warehouse: Warehouse, settings: Settings, policy: Policy, audience: Audience, **options: Any
) -> publications.Made:
    """Publish to one audience; what keeps it from being published is raised."""
    ((_, made),) = publications.publish_all(warehouse, settings, policy, [audience], **options)
    if isinstance(made, Exception):
        raise made
    return made


def run(settings: Settings, **options: object) -> BuildReport:
    return build(build_definitions(settings), settings, **options)  # type: ignore[arg-type]


def checked(contract: Contract, frame: Frame, *kinds: Kind, **others: Frame) -> dict[Kind, list[Finding]]:
    """What some kinds of checks find in a frame of a table; `others` are the tables it refers to."""
    return dict(check_table(contract, {contract.name: frame, **others}, END_OF_TIME, kinds=kinds))


def zone_of(tmp_path: Path, warehouse: Warehouse, profile: str, **files: bytes) -> LandingZone:
    """A landing zone with files of one source, called `mine`; `a_csv` is `a.csv`."""
    folder = tmp_path / "landing" / "mine"
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name.replace("_", ".")).write_bytes(data)
    return zone_in(tmp_path, warehouse.connection, Profiles({"mine": parse_profile(profile, "mine.toml")}))


def zone_in(
    folder: Path,
    connection: duckdb.DuckDBPyConnection,
    profiles: Profiles | None = None,
    days: tuple[date, date] = (date(2026, 1, 1), date(2026, 12, 31)),
) -> LandingZone:
    """The landing zone of a folder, of the shipped profiles where no others are given."""
    profiles = profiles or load_profiles(None)
    return LandingZone(folder / "landing", folder / "spool", *days, connection, profiles)


def copy_of(settings: Settings, target: Path) -> Settings:
    """The same landed files in another data directory, not built."""
    shutil.copytree(settings.landing, target / "landing", copy_function=shutil.copy2)
    shutil.copyfile(settings.settings_file, target / "hospital.toml")
    return replace(settings, data_dir=target)


def warehouse_copy(settings: Settings, target: Path) -> Settings:
    """The same warehouse in another data directory, without landed files."""
    copied = replace(settings, data_dir=target)
    copied.warehouse_file.parent.mkdir(parents=True)
    shutil.copyfile(settings.warehouse_file, copied.warehouse_file)
    shutil.copyfile(settings.settings_file, copied.settings_file)
    return copied


def tables(settings: Settings) -> Iterator[tuple[str, str]]:
    """Each table with a hash of its content, whatever the order of its rows."""
    with reading(settings) as connection:
        for contract in CONTRACTS.values():
            if contract.name == _LEDGER:
                continue
            columns = ", ".join(f"coalesce(cast({c.name} as varchar), '~')" for c in contract.columns)
            (row,) = connection.execute(
                f"select count(*), sum(hash(concat_ws('|', {columns}))::hugeint) from {contract.qualified_name}"
            ).fetchall()
            yield contract.name, str(row)


def self_signed(certificate: Path, key: Path, name: str = "localhost") -> None:
    """Make a certificate and its key, as PEM files, with openssl; skips where that is not installed."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed; it makes the certificate")
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    # An address stands in it, too: a client that names none is told by it.
    names = ("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1")
    command = [openssl, "req", "-x509", *kind, *names, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)


def query(settings: Settings, sql: str) -> pl.DataFrame:
    with reading(settings) as connection:
        return connection.sql(sql).pl()


@contextlib.contextmanager
def reading(settings: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
    """The warehouse file; another process of the test run that holds it for a moment is waited for."""
    for waits_again in [*[True] * 300, False]:
        try:
            connection = duckdb.connect(str(settings.warehouse_file), read_only=True)
        except duckdb.IOException:
            if not waits_again:
                raise
            time.sleep(0.1)
        else:
            break
    with contextlib.closing(connection):
        yield connection
