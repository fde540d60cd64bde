"""What several tests do with a data directory: build it, copy it, look into its warehouse."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import polars as pl

from hospital_assets.assets.dimensions.scd2 import END_OF_TIME
from hospital_assets.automation.build import BuildReport, build
from hospital_assets.checks.findings import Finding
from hospital_assets.checks.kinds import CONTRACT_KINDS, KINDS, Kind
from hospital_assets.checks.table_checks import check_table
from hospital_assets.contracts import CONTRACTS, Contract
from hospital_assets.definitions import build_definitions
from hospital_assets.settings import Settings
from hospital_assets.warehouse.dialect import Frame

#: The kinds of checks that no contract states by itself.
DECLARED_KINDS = [kind for kind in KINDS if kind not in CONTRACT_KINDS]

#: Tables whose rows depend on when files were looked at, not on what they hold.
_LEDGER = "raw_landed_files"


def run(settings: Settings, **options: object) -> BuildReport:
    return build(build_definitions(settings), settings, **options)  # type: ignore[arg-type]


def checked(contract: Contract, frame: Frame, *kinds: Kind, **others: Frame) -> dict[Kind, list[Finding]]:
    """What some kinds of checks find in a frame of a table; `others` are the tables it refers to."""
    return dict(check_table(contract, {contract.name: frame, **others}, END_OF_TIME, kinds=kinds))


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
