"""Gold history in Delta: versions, restoring one, and two processes that write at once."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from hospital_assets.access.audit import AuditLog
from hospital_assets.automation.build import BuildReport
from hospital_assets.cli import main
from hospital_assets.contracts import CONTRACTS
from hospital_assets.recovery import delta
from hospital_assets.recovery.history import HistoryError
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import open_warehouse
from hospital_assets_tests.helpers import warehouse_copy

pytest.importorskip("deltalake", reason="the extra [delta] is not installed")

VISITS = CONTRACTS["fact_emergency_visits"]


@pytest.fixture
def settings(built: tuple[Settings, BuildReport], tmp_path: Path) -> Settings:
    network, _ = built
    return warehouse_copy(network, tmp_path)


def fingerprint(rows: object) -> object:
    with duckdb.connect() as connection:
        connection.register("found", rows)
        return connection.execute(
            "select count(*), bit_xor(hash(visit_id, arrival_at, arrival_local, wait_minutes, triage_level)) from found"
        ).fetchall()


def stored(settings: Settings) -> object:
    with open_warehouse(settings.warehouse_file) as warehouse:
        return fingerprint(warehouse.connection.sql(f"from {VISITS.qualified_name}").to_arrow_table())


def test_versions_are_kept_read_and_restored(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOSPITAL_DATA_DIR", str(settings.data_dir))
    before = stored(settings)
    assert main(["history", "keep"]) == 0
    said = capsys.readouterr().out
    kept = [c.name for c in CONTRACTS.values() if delta.versions_of(settings, c)]
    assert len(kept) > 20 and all(name in said for name in kept)
    between = datetime.now(UTC)
    with open_warehouse(settings.warehouse_file) as warehouse:
        warehouse.connection.execute("update facts.fact_emergency_visits set triage_level = 1")
    assert main(["history", "keep", "--table", VISITS.name]) == 0
    after = stored(settings)
    assert after != before
    assert fingerprint(delta.read_version(settings, VISITS, 0)) == before
    assert fingerprint(delta.read_version(settings, VISITS, between)) == before
    assert fingerprint(delta.read_version(settings, VISITS, 1)) == after
    assert main(["history", "restore", "--table", VISITS.name, "--version", "0"]) == 0
    versions = delta.versions_of(settings, VISITS)
    assert [v.what for v in versions] == ["WRITE", "WRITE", "RESTORE"]
    assert fingerprint(delta.read_version(settings, VISITS, 2)) == before
    with contextlib.closing(AuditLog(settings)) as log:
        (entry,) = log.entries("action = 'restore'").to_dicts()
    assert VISITS.name in entry["statement"]
    with pytest.raises(HistoryError, match="no version 9"):
        delta.read_version(settings, VISITS, 9)
    with pytest.raises(HistoryError, match="no history"):
        delta.read_version(settings, CONTRACTS["dim_date"], 0)


def test_two_processes_write_one_table(settings: Settings, tmp_path: Path) -> None:
    """Each from a warehouse of its own into the same history: no version is lost or mixed."""
    unchanged = stored(settings)
    other = tmp_path / "other.duckdb"
    shutil.copyfile(settings.warehouse_file, other)
    with open_warehouse(other) as warehouse:
        warehouse.connection.execute("update facts.fact_emergency_visits set triage_level = 1")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from hospital_assets.contracts import CONTRACTS\n"
        "from hospital_assets.recovery.delta import keep_versions\n"
        "from hospital_assets.settings import load_settings\n"
        "from hospital_assets.warehouse.database import open_warehouse\n"
        "with open_warehouse(Path(sys.argv[1])) as warehouse:\n"
        "    for _ in range(5):\n"
        "        keep_versions(warehouse, load_settings(), [CONTRACTS['fact_emergency_visits']])\n"
    )
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(file)],
            env={**os.environ, "HOSPITAL_DATA_DIR": str(settings.data_dir)},
            stderr=subprocess.PIPE,
        )
        for file in (settings.warehouse_file, other)
    ]
    said = [writer.communicate()[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], said
    versions = delta.versions_of(settings, VISITS)
    assert [v.number for v in versions] == list(range(10))
    with open_warehouse(other) as warehouse:
        changed = fingerprint(warehouse.connection.sql(f"from {VISITS.qualified_name}").to_arrow_table())
    found = [fingerprint(delta.read_version(settings, VISITS, n)) for n in range(10)]
    assert sorted(map(str, found)) == sorted([str(unchanged)] * 5 + [str(changed)] * 5)
