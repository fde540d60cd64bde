"""The mirror: what it holds is what the warehouse holds, whatever was written, late, rebuilt or killed meanwhile."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow.fs as arrow_fs
import pytest
from deltalake import DeltaTable
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from hospital_assets.automation.lake import maintain
from hospital_assets.cli import main
from hospital_assets.contracts import CONTRACTS, Contract
from hospital_assets.publishing.pseudonyms import SecretKey
from hospital_assets.recovery import mirror as module
from hospital_assets.recovery.erase import Erasure, Person, erase_person, find_traces, plan_erasure
from hospital_assets.recovery.mirror import Mirroring, mirror, mirror_of, mirrored_tables
from hospital_assets.settings import MirrorSettings, Settings, SettingsError, load_settings, write_settings
from hospital_assets.warehouse import delta
from hospital_assets.warehouse.database import Period, Warehouse, open_warehouse
from hospital_assets.warehouse.delta import DeltaTables
from hospital_assets.warehouse.dialect import lazy
from hospital_assets.warehouse.errors import WarehouseError
from hospital_assets_tests.helpers import copy_of, run
from hospital_assets_tests.processes import hospital
from hospital_assets_tests.s3 import s3_server
from hospital_assets_tests.test_delta import FLOW, live, odd_rows_of, older, rows_of, same_bits, stored

HOSPITALS, PEOPLE = CONTRACTS["dim_hospital"], CONTRACTS["dim_patient"]
ALL = Period(date(2026, 1, 1), date(2026, 1, 11))


def days(first: int, last: int | None = None) -> Period:
    return Period(date(2026, 1, first), date(2026, 1, (last or first)) + timedelta(days=1))


@pytest.fixture
def opened(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "data", mirror=MirrorSettings("mirror"))


def write(warehouse: Warehouse, contract: Contract, *of: int, number: int = 1, period: Period | None = ALL) -> None:
    frame = rows_of(contract, *of, number=number)
    warehouse.replace(contract, lazy(frame), period if contract.partitioned else None, cause=f"run {number}")


def once(settings: Settings) -> Mirroring:
    with open_warehouse(settings.warehouse_file) as warehouse:
        return mirror(settings, warehouse)


def in_warehouse(settings: Settings, contract: Contract) -> pl.DataFrame:
    with open_warehouse(settings.warehouse_file) as warehouse:
        frame: pl.DataFrame = warehouse.connection.sql(f"from {contract.qualified_name}").pl()
        return frame.select(contract.column_names)


def same(settings: Settings, contract: Contract) -> None:
    """Equal to the warehouse, as DuckDB and as Polars read the mirror."""
    tables, expected = mirror_of(settings), in_warehouse(settings, contract)
    order = contract.column_names[:2]
    found = stored(tables, contract).sort(order, maintain_order=True)
    assert_frame_equal(found, expected.sort(order), check_row_order=False)
    scanned = pl.scan_delta(tables.address(contract)).select(contract.column_names).collect()
    assert_frame_equal(scanned.sort(order), expected.sort(order), check_row_order=False)


def test_the_first_time_everything_then_only_days_that_changed(opened: Settings) -> None:
    with open_warehouse(opened.warehouse_file) as warehouse:
        write(warehouse, FLOW, 1, 2, 3)
        write(warehouse, HOSPITALS, 1, 2)
        # Not mirrored.
        write(warehouse, CONTRACTS["cleaned_vitals"], 1)
        first = mirror(opened, warehouse)
        assert first.written == {FLOW.name: 3, HOSPITALS.name: 2} and first.whole == [FLOW.name]
        assert not Path(opened.mirror_root, "cleaned").exists()
        assert mirror(opened, warehouse) == Mirroring(unchanged=2)
        before = live(mirror_of(opened))
        write(warehouse, FLOW, 2, number=7, period=days(2))
        # Written, and what it was.
        write(warehouse, HOSPITALS, 1, 2)
        second = mirror(opened, warehouse)
        assert second == Mirroring({FLOW.name: 1}, unchanged=1)
        assert len(set(before) & set(live(mirror_of(opened)))) == 2
        write(warehouse, HOSPITALS, 1, 2, number=5)
        assert mirror(opened, warehouse).written == {HOSPITALS.name: 2}
    same(opened, FLOW)
    same(opened, HOSPITALS)
    versions = mirror_of(opened).versions(FLOW)
    assert [(v.rows, v.days, v.cause) for v in versions] == [(3, "", "mirrored whole"), (3, "2026-01-02", "run 7")]


def test_a_day_costs_what_the_day_holds(opened: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only files of that day are written, and no other is opened, in the warehouse's file or in the mirror."""
    with open_warehouse(opened.warehouse_file) as warehouse:
        write(warehouse, FLOW, *range(1, 11))
        mirror(opened, warehouse)
        write(warehouse, FLOW, 4, number=2, period=days(4))
        write(warehouse, FLOW, 8, 9, number=3, period=days(8, 9))
        footers, real = [], DeltaTables._footer

        def counted(self: DeltaTables, contract: Contract, schema: object, path: str) -> tuple[int, str]:
            footers.append(path)
            return real(self, contract, schema, path)  # type: ignore[arg-type]

        monkeypatch.setattr(DeltaTables, "_footer", counted)
        assert mirror(opened, warehouse).written == {FLOW.name: 3}
    assert sorted(path.split("/")[1][-2:] for path in footers) == ["04", "08", "09"]
    assert mirror_of(opened).versions(FLOW)[-1].days == "2026-01-04, 2026-01-08 to 2026-01-09"
    same(opened, FLOW)


@pytest.mark.slow
def test_every_table_is_in_the_mirror_to_the_last_bit(opened: Settings) -> None:
    with open_warehouse(opened.warehouse_file) as warehouse:
        for contract in mirrored_tables():
            warehouse.replace(contract, lazy(odd_rows_of(contract)), ALL if contract.partitioned else None)
        assert mirror(opened, warehouse).written.keys() == {contract.name for contract in mirrored_tables()}
    for contract in mirrored_tables():
        frame, tables = odd_rows_of(contract), mirror_of(opened)
        same_bits(stored(tables, contract), frame)
        same_bits(pl.scan_delta(tables.address(contract)).select(contract.column_names).collect(), frame)
        foreign = DeltaTable(tables.address(contract)).to_pyarrow_table(columns=list(contract.column_names))
        same_bits(pl.DataFrame(foreign), frame)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("days"), st.integers(1, 10), st.integers(0, 3), st.lists(st.integers(0, 3), max_size=3)),
        st.tuples(st.just("whole"), st.lists(st.integers(1, 10), max_size=4, unique=True)),
        st.tuples(st.just("rebuilt"), st.lists(st.integers(1, 10), max_size=4, unique=True)),
        st.tuples(st.just("places"), st.lists(st.integers(1, 4), max_size=3)),
        st.tuples(st.just("mirror")),
        st.tuples(st.just("died before it was noted")),
        st.tuples(st.just("mirror lost")),
        st.tuples(st.just("compacted")),
    ),
    max_size=8,
)


@pytest.mark.slow
@given(STEPS)
@hypothesis_settings(max_examples=20)
def test_day_by_day_is_the_same_as_all_at_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[object, ...]]
) -> None:
    opened = Settings(tmp_path_factory.mktemp("data"), mirror=MirrorSettings("mirror"))
    tables, number = mirror_of(opened), 0
    with open_warehouse(opened.warehouse_file) as warehouse:
        write(warehouse, FLOW, 1, 5)
        write(warehouse, HOSPITALS, 1)
        mirror(opened, warehouse)
        for step in steps:
            number += 1
            match step:
                case ("days", int(first), int(more), list(found)):
                    last = min(10, first + more)
                    inside = sorted({first + n for n in found if first + n <= last})
                    write(warehouse, FLOW, *inside, number=number, period=days(first, last))
                case ("whole", list(found)):
                    write(warehouse, FLOW, *found, number=number)
                case ("rebuilt", list(found)):
                    warehouse.drop(FLOW)
                    write(warehouse, FLOW, *found, number=number)
                case ("places", list(found)):
                    write(warehouse, HOSPITALS, *found, number=len(found))
                case ("died before it was noted",):
                    kept = warehouse.connection.sql("from main.unmirrored").fetchall()
                    marks = warehouse.connection.sql("from main.mirrored").fetchall()
                    mirror(opened, warehouse)
                    for table, rows in (("unmirrored", kept), ("mirrored", marks)):
                        warehouse.connection.execute(f"delete from main.{table}")
                        width = 4 if table == "unmirrored" else 3
                        values = ", ".join("?" * width)
                        for row in rows:
                            warehouse.connection.execute(f"insert into main.{table} values ({values})", row)
                case ("mirror lost",) if tables.open(FLOW) is not None:
                    (Path(tables.address(FLOW)) / "_delta_log").rename(tmp_path_factory.mktemp("lost") / "log")
                case ("compacted",):
                    tables.compact(FLOW)
                case _:
                    mirror(opened, warehouse)
        mirror(opened, warehouse)
        anew = replace(opened, mirror=MirrorSettings("anew"))
        assert mirror(anew, warehouse).written.keys() == {FLOW.name, HOSPITALS.name}
    for contract in (FLOW, HOSPITALS):
        same(opened, contract)
        same(anew, contract)


@pytest.mark.slow
def test_files_that_come_late_are_mirrored_by_their_days(network: Settings, tmp_path: Path) -> None:
    """Refreshes of a real network, each mirrored: as if all had been mirrored at the end."""
    opened = replace(copy_of(network, tmp_path / "data"), mirror=MirrorSettings("mirror"))
    write_settings(opened)
    late = [path for path in sorted(opened.landing.rglob("*.*")) if "vitals" in path.parts and path.is_file()][3:4]
    late += [path for path in sorted(opened.landing.rglob("*.*")) if "er_visits" in path.parts and path.is_file()][4:5]
    for path in late:
        path.rename(tmp_path / path.name)
    assert run(opened).succeeded
    assert once(opened).failed == {}
    for number, path in enumerate(late):
        (tmp_path / path.name).rename(path)
        assert main(["--data-dir", str(opened.data_dir), "refresh"]) == 0
        done = once(opened)
        assert done.written and not done.whole and not done.failed
        versions = mirror_of(opened).versions(CONTRACTS["fact_vitals"])
        assert versions[-1].cause.startswith("run ") and versions[-1].days, number
    anew = replace(opened, mirror=MirrorSettings("anew"))
    once(anew)
    for contract in mirrored_tables():
        same_bits(stored(mirror_of(opened), contract), stored(mirror_of(anew), contract))
        same_bits(stored(mirror_of(opened), contract), in_warehouse(opened, contract))


KILLED = """
import os, signal, sys
from pathlib import Path
from hospital_assets.publishing.pseudonyms import SecretKey
from hospital_assets.recovery import mirror as module
from hospital_assets.recovery.erase import Erasure, Person, erase_person, find_traces, plan_erasure
from hospital_assets.warehouse import delta
from hospital_assets_tests.test_mirror import MirrorSettings, Settings, once
settings, moment = Settings(Path(sys.argv[1]), mirror=MirrorSettings("mirror")), sys.argv[2]
commit = delta._commit
def killed(*args, **options):
    if moment == "after the commit": commit(*args, **options)
    os.kill(os.getpid(), signal.SIGKILL)
if moment == "before the files count": module.DeltaTables.replace_files = killed
else: delta._commit = killed
once(settings)
"""


@pytest.mark.fast_as("before the commit")
@pytest.mark.parametrize("moment", ["before the files count", "before the commit", "after the commit"])
def test_a_kill_in_the_middle_repeats_and_loses_nothing(opened: Settings, moment: str) -> None:
    with open_warehouse(opened.warehouse_file) as warehouse:
        write(warehouse, FLOW, 1, 2, 3)
        mirror(opened, warehouse)
        write(warehouse, FLOW, 2, number=7, period=days(2))
    killed = subprocess.run([sys.executable, "-c", KILLED, str(opened.data_dir), moment], cwd=Path(__file__).parents[1])
    assert killed.returncode == -signal.SIGKILL
    assert once(opened).written == {FLOW.name: 3 if moment == "after the commit" else 1}
    assert once(opened).written == {}
    same(opened, FLOW)


def test_a_warehouse_from_a_backup_is_mirrored_whole(opened: Settings) -> None:
    """The mirror has days that the file, as it was, does not know of."""
    with open_warehouse(opened.warehouse_file) as warehouse:
        write(warehouse, FLOW, 1, 2)
        mirror(opened, warehouse)
    backup = opened.warehouse_file.read_bytes()
    with open_warehouse(opened.warehouse_file) as warehouse:
        write(warehouse, FLOW, 1, number=9, period=days(1))
        mirror(opened, warehouse)
    opened.warehouse_file.write_bytes(backup)
    with open_warehouse(opened.warehouse_file) as warehouse:
        write(warehouse, FLOW, 2, number=3, period=days(2))
        assert mirror(opened, warehouse).whole == [FLOW.name]
    same(opened, FLOW)


def test_another_contract_replaces_the_table_once_it_was_rebuilt(opened: Settings) -> None:
    before = older(FLOW, "turnover_per_bed")
    with open_warehouse(opened.warehouse_file) as warehouse:
        warehouse.replace(before, lazy(rows_of(FLOW, 1, 2).drop("turnover_per_bed")), ALL)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "CONTRACTS", {FLOW.name: before})
            mirror(opened, warehouse)
        warehouse._known_tables.clear()
        # Old days have no value in the new column.
        write(warehouse, FLOW, 3, period=days(3))
        assert mirror(opened, warehouse).written == {FLOW.name: 1}
        same(opened, FLOW)
        warehouse.drop(FLOW)
        write(warehouse, FLOW, 4)
        assert mirror(opened, warehouse).whole == [FLOW.name]
    same(opened, FLOW)


@pytest.mark.slow
def test_a_mirror_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, and its history; by the command, because delta-rs lets no thread of this process answer meanwhile."""
    opened = Settings(tmp_path / "data", mirror=MirrorSettings("s3://lake/tables", 30))
    write_settings(opened)

    def run(*words: str) -> str:
        done = subprocess.run(hospital(opened.data_dir, *words), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with s3_server(monkeypatch, "lake"):
        with open_warehouse(opened.warehouse_file) as warehouse:
            write(warehouse, FLOW, 1, 2, 3)
            write(warehouse, HOSPITALS, 1)
            assert mirror(opened, warehouse).written == {FLOW.name: 3, HOSPITALS.name: 1}
            between = datetime.now(UTC)
            write(warehouse, FLOW, 2, number=7, period=days(2))
            assert mirror(opened, warehouse).written == {FLOW.name: 1}
            assert mirror(opened, warehouse).unchanged == 2
        assert not opened.warehouse_file.with_name("mirroring").exists()
        scanned = pl.scan_delta(f"s3://lake/tables/kpis/{FLOW.name}").collect().sort("service_date")
        assert scanned["patients_count"].to_list() == [1, 7, 1]
        assert "run 7" in run("history", "list", FLOW.name)
        at = ["--as-of", between.isoformat()]
        run("history", "as-of", FLOW.name, *at, "--out", str(tmp_path / "then.parquet"))
        assert pl.read_parquet(tmp_path / "then.parquet")["patients_count"].to_list() == [1, 1, 1]
        assert "3 rows became the 3" in run("history", "restore", FLOW.name, *at)
        assert in_warehouse(opened, FLOW)["patients_count"].to_list() == [1, 1, 1]
        assert "1 tables written" in run("mirror")
    # The server is gone.
    with (
        open_warehouse(opened.warehouse_file) as warehouse,
        pytest.raises(WarehouseError, match="could not be mirrored"),
    ):
        mirror(opened, warehouse)


def test_a_column_of_another_name_is_mirrored_though_no_value_changed(opened: Settings) -> None:
    renamed = replace(HOSPITALS)
    last = HOSPITALS.columns[-1]
    renamed.__dict__["columns"] = (*HOSPITALS.columns[:-1], replace(last, name="renamed"))
    with open_warehouse(opened.warehouse_file) as warehouse:
        write(warehouse, HOSPITALS, 1, 2)
        mirror(opened, warehouse)
        warehouse.replace(renamed, lazy(rows_of(HOSPITALS, 1, 2).rename({last.name: "renamed"})))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "CONTRACTS", {HOSPITALS.name: renamed})
            assert mirror(opened, warehouse).written == {HOSPITALS.name: 2}
    assert "renamed" in pl.scan_delta(mirror_of(opened).address(HOSPITALS)).collect_schema()


def test_a_table_whose_log_is_damaged_stops_no_other(opened: Settings) -> None:
    with open_warehouse(opened.warehouse_file) as warehouse:
        for contract in (FLOW, HOSPITALS):
            write(warehouse, contract, 1)
        mirror(opened, warehouse)
        tables = mirror_of(opened)
        folder = Path(tables.folder(HOSPITALS))
        for entry in (folder / "_delta_log").glob("*.json"):
            entry.write_text('{"broken')
        for contract in (FLOW, HOSPITALS):
            write(warehouse, contract, 1, 2)
        done = mirror(opened, warehouse)
        assert done.written == {FLOW.name: 2} and [*done.failed] == [HOSPITALS.name]
        assert f"cannot be read at {folder}" in done.failed[HOSPITALS.name]
        # The nightly upkeep, too, does the others, and then says what is wrong.
        other = Path(tables.folder(FLOW), "killed.parquet")
        other.write_bytes(b"")
        os.utime(other, (0, 0))
        with pytest.raises(WarehouseError, match=HOSPITALS.name):
            maintain(opened, tables, [HOSPITALS.name, FLOW.name])
        assert not other.exists()
        shutil.rmtree(folder)
        assert mirror(opened, warehouse).written == {HOSPITALS.name: 2}


def test_what_the_contract_forbids_is_named_and_the_rest_is_mirrored(
    opened: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    write_settings(opened)
    command = ["--data-dir", str(opened.data_dir), "mirror"]
    assert main(command) == 2 and "hospital build" in capsys.readouterr().err
    with open_warehouse(opened.warehouse_file) as warehouse:
        write(warehouse, FLOW, 1)
        write(warehouse, HOSPITALS, 1)
        warehouse.connection.execute(f"update {FLOW.qualified_name} set patients_count = null")
        done = mirror(opened, warehouse)
        assert done.written == {HOSPITALS.name: 1}
        assert "patients_count is null in 1 rows" in done.failed[FLOW.name]
        assert main(command) == 1
        said = capsys.readouterr()
        assert f"{FLOW.name} was not mirrored" in said.err and "0 rows of 0 tables written; 1 tables unch" in said.out
        write(warehouse, FLOW, 1, 2)
        assert mirror(opened, warehouse).written == {FLOW.name: 2}
    same(opened, FLOW)


def test_nothing_is_noted_before_there_is_a_mirror(opened: Settings) -> None:
    with open_warehouse(opened.warehouse_file) as warehouse:
        write(warehouse, FLOW, 1)
        assert "main.unmirrored" not in warehouse.stored_kinds()
        mirror(opened, warehouse)
        for number in range(5):
            write(warehouse, FLOW, 2, number=number, period=days(2))
        # One note, however often it was written.
        assert warehouse.connection.sql("from main.unmirrored").fetchall() == [
            (FLOW.name, date(2026, 1, 2), date(2026, 1, 3), "run 4")
        ]
        with pytest.raises(WarehouseError), warehouse.transaction():
            write(warehouse, FLOW, 3, period=days(3))
            raise WarehouseError("no")
        assert len(warehouse.connection.sql("from main.unmirrored").fetchall()) == 1


def test_settings_name_the_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Settings(tmp_path, mirror=MirrorSettings("s3://bucket/folder", 30))
    write_settings(opened)
    assert load_settings(tmp_path).mirror == opened.mirror
    for said, words in {
        'address = "s3://key:secret@bucket"': "come from the environment",
        'address = "s3://"': "bucket and folder",
        'address = "landing/x"': "a folder of its own",
        'address = "."': "a folder of its own",
        "kept_days = 0": "at least 1",
        'kept_days = "9"': "must be a int",
        "adress = 1": "unknown key 'mirror.adress'",
    }.items():
        (tmp_path / "hospital.toml").write_text(f"[mirror]\n{said}\n")
        with pytest.raises(SettingsError, match=words):
            load_settings(tmp_path)
    with pytest.raises(SettingsError, match="there is no mirror"):
        mirror_of(Settings(tmp_path))
    monkeypatch.setattr(delta, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"hospital-assets\[delta\]"):
        mirror_of(opened)


class TestErasing:
    """The person is in no byte of the mirror any more, nor of its log, wherever it is."""

    PERSON = "P-4711"

    @pytest.fixture(params=["inside", "outside", pytest.param("bucket", marks=pytest.mark.slow)])
    def mirrored(
        self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Settings]:
        addresses = {"inside": "mirror", "outside": str(tmp_path / "outside"), "bucket": "s3://lake/tables"}
        settings = Settings(tmp_path / "data", mirror=MirrorSettings(addresses[request.param]))
        server = s3_server(monkeypatch, "lake") if request.param == "bucket" else contextlib.nullcontext()
        with server:
            with open_warehouse(settings.warehouse_file) as warehouse:
                warehouse.replace(PEOPLE, lazy(rows_of(PEOPLE, 1, 2, text=self.PERSON)))
                write(warehouse, FLOW, 1, 2)
                mirror(settings, warehouse)
                # Gone from the newest version, not from the history.
                write(warehouse, PEOPLE, 1)
                mirror(settings, warehouse)
            settings.landing.mkdir(parents=True)
            yield settings

    def everything(self, settings: Settings) -> dict[str, bytes]:
        system, root = DeltaTables(settings.mirror_root).files()
        found = system.get_file_info(arrow_fs.FileSelector(root, recursive=True, allow_not_found=True))
        return {i.path: system.open_input_file(i.path).read() for i in found if i.type == arrow_fs.FileType.File}

    def holding(self, settings: Settings) -> list[str]:
        """Files with the number: in their bytes, or in a Parquet file's values."""
        found = []
        for path, data in self.everything(settings).items():
            text = data + (pl.read_parquet(data).write_json().encode() if path.endswith(".parquet") else b"")
            found += [path] if self.PERSON.encode() in text else []
        return found

    def test_nothing_of_the_person_is_left(self, mirrored: Settings) -> None:
        settings = mirrored
        assert any(path.endswith(".parquet") for path in self.holding(settings))
        assert not any("_delta_log" in path for path in self.holding(settings))
        system, root = DeltaTables(settings.mirror_root).files()
        with system.open_output_stream(f"{root}/somebody-elses.txt") as other:
            other.write(b"kept")
        person = Person((self.PERSON,), ())
        with open_warehouse(settings.warehouse_file) as warehouse:
            traces = find_traces(warehouse, settings, person)
        assert [place for place in traces.left if "dim_patient" in place]

        def rebuild(publishing: bool) -> list[str]:
            with open_warehouse(settings.warehouse_file) as anew:
                write(anew, PEOPLE, 1)
                write(anew, FLOW, 1, 2)
                mirror(settings, anew)
            return []

        erased = erase_person(settings, Erasure(person, "abc", was_published=False), rebuild)
        assert erased.is_done and self.holding(settings) == []
        assert [p for p in self.everything(settings) if not p.endswith((".parquet", ".json"))] == [
            f"{root}/somebody-elses.txt"
        ]
        anew = mirror_of(settings).open(PEOPLE)
        assert anew is not None and anew.version() == 1

    @pytest.mark.slow
    def test_a_mirror_that_cannot_be_reached_stops_it_before_anything_changes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = Settings(tmp_path / "data", mirror=MirrorSettings("s3://lake/tables"))
        with s3_server(monkeypatch, "lake"), open_warehouse(settings.warehouse_file) as warehouse:
            write(warehouse, PEOPLE, 1)
        landed = settings.landing / "native" / "a.csv"
        landed.parent.mkdir(parents=True)
        landed.write_text("id\nP-4711\n")
        with pytest.raises(WarehouseError, match="cannot be reached"):
            plan_erasure(settings, self.PERSON, SecretKey(b"0123456789abcdef" * 2))
        assert landed.read_text() == "id\nP-4711\n"
