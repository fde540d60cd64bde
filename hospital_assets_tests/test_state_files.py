"""Files that this program keeps for itself, and commands, where something else stands: words, never a traceback."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import polars as pl
import pytest

from hospital_assets.access.users import User, open_users
from hospital_assets.cli import main
from hospital_assets.dashboard.pages.governance import governance
from hospital_assets.dashboard.pages.quality import quality
from hospital_assets.dashboard.serve import dashboard_of
from hospital_assets.files import StateError
from hospital_assets.publishing.policy import load_policy
from hospital_assets.publishing.publications import PublicationError, audiences_of
from hospital_assets.settings import Settings, write_settings
from hospital_assets.warehouse.database import open_warehouse
from hospital_assets.warehouse.io_manager import WarehouseResource
from hospital_assets_tests.dashboards import KEY
from hospital_assets_tests.helpers import publish
from hospital_assets_tests.test_web_attacks import DAY, NOW, fill, fill_live

#: What can stand in a file that somebody edited, cut, or copied over it.
CONTENTS = {
    "empty": b"",
    "cut": b'{"version": "2026',
    "list": b"[]",
    "nothing": b"null",
    "number": b"7",
    "foreign": b'{"a": {"b": [1]}}',
    "nested": b"[" * 20_000,
    "bytes": b"\xff\xfe\x00\x01",
}
VERSION = "published/admin/20260312T120000000000Z"
WAREHOUSE = "warehouse/hospital.duckdb"
#: A state file -> commands that read it, without the first word; all begin with `hospital`.
READ_BY = {
    "published/admin/current.json": ["publications", "status"],
    f"{VERSION}/manifest.json": ["publications", "status", "deploy snowflake --out {out} --without-data"],
    f"{VERSION}/publication.duckdb": ["publications", "status"],
    "hospital.toml": ["status", "policy"],
    "policy.toml": ["policy", "publications", "status"],
    "alerts.toml": ["alerts", "status"],
    "profiles/mine.toml": ["profiles list", "status"],
    "access/audit-anchor.json": ["audit verify", "audit", "users list"],
    "access/users.db": ["users list", "users sessions", "users disable root", "status"],
    "audit/audit.db": ["audit", "audit verify", "status"],
    "alerts/outbox.sqlite": ["alerts", "status"],
    "reports/quality.json": ["status"],
    "erasures/abc.json": ["erase P1", "status"],
    "simulated_clock.json": ["status", "alerts"],
    "ground_truth/dirt.parquet": ["score"],
    "ground_truth/live.json": ["simulate --live"],
    "snapshots/20260312T120000000000Z.duckdb": ["snapshots", "history restore kpi_waits --as-of 2026-03-12T12:00"],
    "warehouse/quarantine.json": ["status", "retry all"],
    "warehouse/landed_files.parquet": ["status", "drift"],
    WAREHOUSE: ["explain kpi_waits", "report quality", "check --last", "erase P1", "snapshot", "status"],
    "warehouse/live/landed_visits.parquet": ["status"],
    "warehouse/live/ledger.parquet": ["status"],
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A data directory with one of nearly every state file."""
    settings = Settings(tmp_path_factory.mktemp("kept"), first_service_date=DAY, last_service_date=DAY)
    write_settings(settings)
    fill(settings)
    policy = load_policy(settings)
    with open_warehouse(settings.warehouse_file) as warehouse:
        (audience,) = audiences_of(warehouse, policy, "admin")
        publish(warehouse, settings, policy, audience, key=lambda: KEY, published_at=NOW, data_as_of=NOW)
    fill_live(settings)
    with contextlib.closing(open_users(settings)) as users:
        users.add(User("root", "admin"), "correct horse battery", by="os:test")
    return settings


def looked_at(data: Path) -> list[Callable[[], object]]:
    """What the dashboard makes of a directory."""
    settings = Settings(data)
    dashboard = dashboard_of(settings, "admin", lambda _: None)
    viewer = User("root", "admin")
    return [
        lambda: quality(settings),
        lambda: dashboard.board.page(viewer),
        lambda: governance(settings, dashboard.store.mart("admin"), NOW),
    ]


@pytest.mark.fast_as("access", "policy", "landed_files")
@pytest.mark.parametrize("name", READ_BY)
def test_a_state_file_of_another_shape_is_said_in_words(
    kept: Settings, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No exception leaves a command; one that fails names the file or the directory, and ends with 1 or 2."""
    monkeypatch.setenv("HOSPITAL_PSEUDONYM_KEY", "ab" * 32)
    data = tmp_path / "data"
    shutil.copytree(kept.data_dir, data)
    failed = 0
    for shape, content in CONTENTS.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(content)
        for command in READ_BY[name]:
            code = main(["--data-dir", str(data), *command.format(out=tmp_path / shape).split()])
            said = capsys.readouterr()
            assert code in (0, 1, 2), (shape, command)
            assert "Traceback" not in said.err and (code == 0 or len(said.err) > 20), (shape, command, said.err)
            failed += code != 0
        if name.startswith(("published", "reports", "warehouse/live")):
            for look in looked_at(data):
                # The dashboard answers these with a page that says what is the matter.
                with contextlib.suppress(StateError, PublicationError):
                    look()
    # Taken for missing: what is made anew by itself.
    made_anew = ("reports/", "warehouse/", "ground_truth/live", f"{VERSION}/publication.duckdb")
    assert failed or name.startswith(made_anew)


#: Commands -> the exit code in a directory that is missing or empty: a list of nothing is no failure.
IN_NOTHING = {
    "status": 0,
    "publications": 0,
    "audit": 0,
    "audit verify": 0,
    "users list": 0,
    "users sessions": 0,
    "users disable ann": 2,
    "alerts": 0,
    "snapshots": 0,
    "policy": 0,
    "profiles list": 0,
    "drift": 2,
    "explain kpi_waits": 2,
    "report quality": 2,
    "report overview": 2,
    "check --last": 1,
    "publish": 2,
    "snapshot": 2,
    "history restore kpi_waits --as-of 2026-03-12T12:00": 2,
    "erase P1": 2,
    "score": 2,
    "build": 2,
    "retry x": 2,
    "as-of 2026-03-01T12:00 --into {out}": 2,
    "deploy snowflake --out {out}": 2,
    "dashboard --audience nobody": 2,
    "serve --host 192.0.2.1": 2,
}


@pytest.mark.parametrize("command", IN_NOTHING)
@pytest.mark.parametrize("place", ["missing", "empty"])
def test_commands_say_that_there_is_nothing(
    command: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSPITAL_PSEUDONYM_KEY", "ab" * 32)
    data = tmp_path / place
    if place == "empty":
        data.mkdir()
    code = main(["--data-dir", str(data), *command.format(out=tmp_path / "out").split()])
    said = capsys.readouterr()
    assert code == IN_NOTHING[command], (said.out, said.err)
    assert (said.err if code else said.out).strip()
    assert not (data / "warehouse" / "hospital.duckdb").exists() or command == "check --last"


#: Commands that open the warehouse, and wait for it.
WAITING = (
    "build --select kpi_waits",
    "check --failed",
    "check --last",
    "erase P1",
    "explain kpi_waits",
    "publish --role admin",
    "refresh",
    "report quality",
    "history restore kpi_waits --as-of 2026-03-12T12:00",
    "score",
    "snapshot",
)


@pytest.fixture
def opened(kept: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A copy of the directory, with what some commands ask for first."""
    monkeypatch.setenv("HOSPITAL_PSEUDONYM_KEY", "ab" * 32)
    shutil.copytree(kept.data_dir, tmp_path / "data")
    settings = Settings(tmp_path / "data", first_service_date=DAY, last_service_date=DAY)
    (settings.landing / "unknown").mkdir(parents=True)
    (settings.landing / "unknown" / "a.csv").write_text("a,b\n1,2\n")
    settings.ground_truth.mkdir(exist_ok=True)
    pl.DataFrame({"source_file": ["a"]}).write_parquet(settings.ground_truth / "dirt.parquet")
    (settings.data_dir / "snapshots").mkdir()
    shutil.copyfile(settings.warehouse_file, settings.data_dir / "snapshots" / "20260312T120000000000Z.duckdb")
    return settings


@pytest.mark.fast_as("build")
@pytest.mark.parametrize("command", WAITING)
def test_a_command_says_at_once_who_has_the_warehouse_and_fails_in_words(
    opened: Settings, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(open_warehouse.__wrapped__.__kwdefaults__, "wait_seconds", 0.1)  # type: ignore[attr-defined]
    monkeypatch.setattr(
        WarehouseResource,
        "open",
        lambda self: self._stack.enter_context(open_warehouse(Path(self.database), wait_seconds=0.1)),
    )
    lock = opened.warehouse_file.with_name(opened.warehouse_file.name + ".lock")
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        json.dump({"pid": 4711, "since": "12:34:56"}, file)
        file.flush()
        code = main(["--data-dir", str(opened.data_dir), *command.split()])
    said = capsys.readouterr()
    assert code in (1, 2) and "Traceback" not in said.err
    at_once = "hospital: hospital.duckdb is in use by process 4711 since 12:34:56: waiting for it\n"
    assert said.err.startswith(at_once)
    assert "Let it finish or end it" in " ".join((said.out + said.err).split()), said


#: How much of the file is left, and what stands there in its place.
CUTS = {
    "a byte": 1,
    "a header": 4096,
    "all headers": 12_288,
    "a quarter": 0.25,
    "half": 0.5,
    "all but the last page": -1,
}
OPENING = (
    "status",
    "build --select kpi_waits",
    "check --last",
    "snapshot",
    "history restore kpi_waits --as-of 2026-03-12T12:00",
    "publish --role admin",
)


@pytest.mark.fast_as("half", "foreign")
@pytest.mark.parametrize("cut", [*CUTS, "foreign"])
def test_a_cut_or_foreign_warehouse_file_is_said_in_words_with_a_remedy(
    opened: Settings, cut: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = opened.warehouse_file.read_bytes()
    left = CUTS.get(cut, 0)
    keep = len(whole) - 262_144 if left == -1 else int(left if left >= 1 else left * len(whole))
    content = b"a,b\n1,2\n" * 9_000 if cut == "foreign" else whole[:keep]
    for command in OPENING:
        opened.warehouse_file.write_bytes(content)
        code = main(["--data-dir", str(opened.data_dir), *command.split()])
        said = capsys.readouterr()
        assert "Traceback" not in said.err, (command, said.err)
        # Where there are pages, a command may not need those that are missing; a snapshot needs all.
        is_needed = command != "status" and cut in ("a byte", "a header", "all headers", "foreign")
        assert code in (1, 2) or (code == 0 and not is_needed), (command, said)
        words = " ".join((said.out + said.err).split())
        assert code == 0 or "hospital snapshots" in words or "nothing was ever checked" in words, (command, said)
        assert code != 0 or command != "snapshot", (command, said)
    assert [file.name for file in (opened.data_dir / "snapshots").glob("*Z.duckdb")] == [
        "20260312T120000000000Z.duckdb"
    ]


@pytest.mark.fast_as("0", "5")
@pytest.mark.parametrize("page", range(8))
def test_a_snapshot_of_a_damaged_warehouse_is_never_taken_for_good(
    opened: Settings, page: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pages that nothing has looked at for long: a snapshot is the whole of what was there, or there is none."""
    with open_warehouse(opened.warehouse_file) as warehouse:
        connection = warehouse.connection
        connection.execute("create table main.seen as select hash(range) as a, hash(-range) as b from range(300000)")
        connection.execute("checkpoint")
    content = bytearray(opened.warehouse_file.read_bytes())
    pages = len(content) // 262_144
    at = 12_288 + (page * pages // 8) * 262_144
    content[at + 1000 : at + 200_000] = bytes(199_000)
    opened.warehouse_file.write_bytes(content)
    code = main(["--data-dir", str(opened.data_dir), "snapshot"])
    said = capsys.readouterr()
    taken = [f for f in (opened.data_dir / "snapshots").glob("*Z.duckdb") if not f.name.startswith("20260312")]
    if code:
        assert not taken and "hospital snapshots" in said.err and "Traceback" not in said.err
    else:
        # The page held nothing.
        with duckdb.connect(str(taken[0]), read_only=True) as connection:
            assert connection.execute("select count(*), count(distinct a + b::hugeint) from main.seen").fetchall()


def test_a_warehouse_that_was_cut_in_the_middle_is_said_in_words(
    kept: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Settings(tmp_path).warehouse_file
    file.parent.mkdir(parents=True)
    whole = kept.warehouse_file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert main(["--data-dir", str(tmp_path), "explain", "kpi_waits"]) == 1
    said = capsys.readouterr()
    assert "cut short" in said.err or "cannot be opened" in said.err
    assert "hospital snapshots" in said.err and "Traceback" not in said.err
