"""The history of tables: the version of a time, as it was, and put back; nothing that the contract forbids."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from hospital_assets.access.audit import read_entries
from hospital_assets.cli import main
from hospital_assets.contracts import CONTRACTS, Contract
from hospital_assets.recovery.history import HistoryError, export_version, restore, version_at, versions_of
from hospital_assets.recovery.mirror import mirror, mirror_of, write_rows
from hospital_assets.recovery.snapshots import take_snapshot
from hospital_assets.settings import (
    EngineSettings,
    MirrorSettings,
    Settings,
    SettingsError,
    engine_from_environment,
    write_settings,
)
from hospital_assets.warehouse import delta
from hospital_assets.warehouse.database import SchemaMismatchError, Warehouse, open_warehouse
from hospital_assets.warehouse.delta import DeltaTables, in_words
from hospital_assets.warehouse.dialect import lazy
from hospital_assets.warehouse.errors import WarehouseError
from hospital_assets_tests.test_delta import FLOW, live, older, rows_of, same_bits, stored, written
from hospital_assets_tests.test_mirror import ALL, HOSPITALS, days, in_warehouse, write

HOUR = timedelta(hours=1)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[tuple[Settings, Warehouse, list[datetime]]]:
    """Three versions of a table: days 1 to 3, day 2 changed, day 3 changed; and times after each."""
    settings = Settings(tmp_path / "data", mirror=MirrorSettings("mirror"))
    write_settings(settings)
    with open_warehouse(settings.warehouse_file) as warehouse:
        times = []
        write(warehouse, HOSPITALS, 1)
        for number, (found, period) in enumerate([((1, 2, 3), ALL), ((2,), days(2)), ((3,), days(3))], start=1):
            write(warehouse, FLOW, *found, number=number, period=period)
            mirror(settings, warehouse)
            times.append(now())
            time.sleep(0.01)
        yield settings, warehouse, times


def now() -> datetime:
    return datetime.now(UTC)


def counts(settings: Settings) -> list[int]:
    return in_warehouse(settings, FLOW).sort("service_date")["patients_count"].to_list()


def test_a_version_is_chosen_by_time(opened: tuple[Settings, Warehouse, list[datetime]]) -> None:
    settings, _, times = opened
    assert [version_at(settings, FLOW, at, now()).number for at in times] == [1, 2, 3]
    assert version_at(settings, FLOW, times[0] + (times[1] - times[0]) / 1000, now()).number == 1
    # Delta itself would give an empty table before the first commit, and the newest for ever.
    with pytest.raises(HistoryError, match="the oldest is of"):
        version_at(settings, FLOW, times[0] - HOUR, now())
    with pytest.raises(HistoryError, match="still to come"):
        version_at(settings, FLOW, now() + HOUR, now())
    with pytest.raises(HistoryError, match="no version of raw_vitals is kept"):
        version_at(settings, CONTRACTS["raw_vitals"], times[0], now())
    assert [(v.rows, v.days, v.cause) for v in versions_of(settings, FLOW)] == [
        (3, "", "mirrored whole"),
        (3, "2026-01-02", "run 2"),
        (3, "2026-01-03", "run 3"),
    ]


def test_a_table_as_it_was(opened: tuple[Settings, Warehouse, list[datetime]], tmp_path: Path) -> None:
    settings, _, times = opened
    second = version_at(settings, FLOW, times[1], now())
    assert export_version(settings, FLOW, second, None) == 3
    assert export_version(settings, FLOW, second, tmp_path / "then.parquet") == 3
    expected = pl.concat([rows_of(FLOW, 1, 2, 3)[[0]], rows_of(FLOW, 2, number=2), rows_of(FLOW, 1, 2, 3)[[2]]])
    found = pl.read_parquet(tmp_path / "then.parquet").sort("service_date").select(FLOW.column_names)
    assert_frame_equal(found, expected)
    assert (tmp_path / "then.parquet").stat().st_mode & 0o077 == 0
    assert export_version(settings, FLOW, second, tmp_path / "then.csv", days(2)) == 1
    assert pl.read_csv(tmp_path / "then.csv")["patients_count"].to_list() == [2]
    with pytest.raises(HistoryError, match="must end in"):
        export_version(settings, FLOW, second, tmp_path / "then.xlsx")
    audited = read_entries(settings).filter(pl.col("action") == "export", pl.col("statement").str.contains("counted"))
    assert audited["row_count"].to_list() == [None, 3]


def test_days_are_put_back_and_then_mirrored(opened: tuple[Settings, Warehouse, list[datetime]]) -> None:
    settings, warehouse, times = opened
    write(warehouse, FLOW, 1, 2, 3, number=9)
    done = restore(settings, FLOW, version_at(settings, FLOW, times[1], now()), days(2, 3))
    assert (done.rows_before, done.rows_after, done.was_different) == (2, 2, True)
    assert counts(settings) == [9, 2, 1]
    assert not restore(settings, FLOW, version_at(settings, FLOW, times[1], now()), days(2)).was_different
    assert mirror(settings, warehouse).written == {FLOW.name: 3}
    assert versions_of(settings, FLOW)[-1].cause.startswith("restored as of")
    restore(settings, FLOW, version_at(settings, FLOW, times[0], now()))
    assert counts(settings) == [1, 1, 1]
    write(warehouse, HOSPITALS, 1, number=8)
    restore(settings, HOSPITALS, version_at(settings, HOSPITALS, times[2], now()))
    assert_frame_equal(in_warehouse(settings, HOSPITALS), rows_of(HOSPITALS, 1))
    with pytest.raises(HistoryError, match="has no service days"):
        restore(settings, HOSPITALS, version_at(settings, HOSPITALS, times[2], now()), days(2))


def test_the_newest_of_mirror_and_snapshots_counts(opened: tuple[Settings, Warehouse, list[datetime]]) -> None:
    settings, warehouse, _ = opened
    write(warehouse, FLOW, 1, 2, number=6)
    take_snapshot(settings, now(), 3)
    write(warehouse, FLOW, 1, number=7)
    then = version_at(settings, FLOW, now(), now())
    assert isinstance(then.source, Path) and versions_of(settings, FLOW)[-1] == then
    restore(settings, FLOW, then)
    assert counts(settings) == [6, 6]
    # What no mirror holds.
    cleaned = CONTRACTS["cleaned_hospitals"]
    write(warehouse, cleaned, 1)
    take_snapshot(settings, now(), 3)
    write(warehouse, cleaned, 1, number=2)
    restore(settings, cleaned, version_at(settings, cleaned, now(), now()))
    assert_frame_equal(in_warehouse(settings, cleaned), rows_of(cleaned, 1))


def in_lake(settings: Settings, lake: DeltaTables, contract: Contract, *of: int, number: int = 1) -> datetime:
    """Write a table as Spark does: in the lake, with a view in the warehouse; the time afterwards."""
    period = days(min(of), max(of)) if contract.partitioned else None
    folder = written(lake, contract, rows_of(contract, *of, number=number))
    note = {"days": in_words(period), "cause": f"run {number}"}
    lake.replace_files(contract, folder, period, note=note)
    with open_warehouse(settings.warehouse_file) as warehouse:
        warehouse.show(contract, lake.select_statement(contract))
    time.sleep(0.01)
    return now()


def in_files(lake: DeltaTables, contract: Contract) -> pl.DataFrame:
    """The rows to the last letter: JSON is text."""
    frame: pl.DataFrame = pl.scan_delta(lake.address(contract)).select(contract.column_names).collect()
    return frame


@pytest.mark.parametrize("name", ["kpi_department_flow_daily", "raw_vitals", "fact_vitals"])
def test_what_spark_wrote_has_its_history_in_the_lake(tmp_path: Path, name: str) -> None:
    """With what only some tables have: service days, JSON, local times; raw tables are in no mirror."""
    contract, settings = CONTRACTS[name], Settings(tmp_path / "data")
    lake = DeltaTables(EngineSettings().lake_of(settings))
    first = in_lake(settings, lake, contract, 1, 2, 3)
    second = in_lake(settings, lake, contract, 2, number=2)
    in_lake(settings, lake, contract, 3, number=3)
    before = live(lake, contract)
    assert [(v.days, v.cause) for v in versions_of(settings, contract)] == [
        ("2026-01-01 to 2026-01-03", "run 1"),
        ("2026-01-02", "run 2"),
        ("2026-01-03", "run 3"),
    ]
    then = version_at(settings, contract, second, now())
    assert export_version(settings, contract, then, tmp_path / "then.parquet") == 3
    done = restore(settings, contract, then, days(3))
    assert (done.rows_before, done.rows_after, done.was_different) == (1, 1, True)
    # One day was written, one commit made, and the view follows.
    assert len(set(before) & set(live(lake, contract))) == 2
    newest = versions_of(settings, contract)[-1]
    assert newest.days == "2026-01-03" and newest.cause.startswith("restored as of")
    expected = [rows_of(contract, 1, 2, 3)[[0]], rows_of(contract, 2, number=2), rows_of(contract, 1, 2, 3)[[2]]]
    same_bits(in_files(lake, contract), pl.concat(expected))
    with open_warehouse(settings.warehouse_file) as warehouse:
        assert warehouse.is_view(contract) and warehouse.count(contract) == 3
    assert not restore(settings, contract, then).was_different
    restore(settings, contract, version_at(settings, contract, first, now()))
    same_bits(in_files(lake, contract), rows_of(contract, 1, 2, 3))
    restored = read_entries(settings).filter(pl.col("action") == "restore")
    assert set(restored["row_count"].drop_nulls()) == {1, 3}


def test_a_table_is_restored_where_it_is_stored_now(
    opened: tuple[Settings, Warehouse, list[datetime]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the mirror or a snapshot into the lake, and from the lake into the file; its versions are one list."""
    settings, warehouse, times = opened
    take_snapshot(settings, now(), 3)
    snapshot = now()
    elsewhere = settings.data_dir.parent / "elsewhere"
    lake = DeltaTables(str(elsewhere))
    monkeypatch.setenv("HOSPITAL_LAKE", lake.root)
    engine = engine_from_environment()
    spark = in_lake(settings, lake, FLOW, 1, 2, 3, number=7)
    assert [v.number for v in versions_of(settings, FLOW, engine)] == [1, 2, 3, 0, 1]
    for moment, found in ((times[0], [1, 1, 1]), (snapshot, [1, 2, 3]), (spark, [7, 7, 7])):
        restore(settings, FLOW, version_at(settings, FLOW, moment, now(), engine), engine=engine)
        assert counts(settings) == stored(lake, FLOW)["patients_count"].to_list() == found
    command = ["--data-dir", str(settings.data_dir), "history", "restore", FLOW.name, "--as-of", times[1].isoformat()]
    assert main([*command, "--days", "2026-01-02"]) == 0
    assert "1 rows became the 1 of" in capsys.readouterr().out
    assert counts(settings) == [7, 2, 7]
    # The lake of the settings is not the one the view is of.
    with pytest.raises(HistoryError, match="HOSPITAL_LAKE"):
        restore(settings, FLOW, version_at(settings, FLOW, times[0], now()))
    assert counts(settings) == [7, 2, 7]
    # DuckDB goes on with the table, and takes from the lake what Spark had made.
    warehouse.replace(FLOW, lazy(rows_of(FLOW, 1)))
    restore(settings, FLOW, version_at(settings, FLOW, spark, now(), engine), days(3), engine)
    assert not warehouse.is_view(FLOW) and counts(settings) == [1, 7]


def test_without_a_lake_nothing_of_delta_need_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(tmp_path / "data")
    monkeypatch.setattr(delta, "find_spec", lambda _: None)
    assert versions_of(settings, FLOW) == []
    Path(EngineSettings().lake_of(settings)).mkdir(parents=True)
    with pytest.raises(SettingsError, match=r"the lake needs deltalake: pip install 'hospital-assets\[delta\]'"):
        versions_of(settings, FLOW)


def test_rows_that_are_not_those_of_the_version_are_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(tmp_path / "data")
    lake = DeltaTables(EngineSettings().lake_of(settings))
    first = in_lake(settings, lake, FLOW, 1, 2)
    in_lake(settings, lake, FLOW, 2, number=2)

    def lost(*of: object) -> str:
        return written(lake, FLOW, rows_of(FLOW, 1))

    monkeypatch.setattr("hospital_assets.recovery.history.write_rows", lost)
    with pytest.raises(HistoryError, match="nothing was changed"):
        restore(settings, FLOW, version_at(settings, FLOW, first, now()))
    assert counts(settings) == [1, 2] and len(versions_of(settings, FLOW)) == 2


def test_a_version_of_another_contract_is_refused_by_name(tmp_path: Path) -> None:
    settings = Settings(tmp_path, mirror=MirrorSettings("mirror"))
    with open_warehouse(settings.warehouse_file) as warehouse:
        for without, words in {"turnover_per_bed": "", "lapsed_count": "missing column lapsed_count"}.items():
            before = older(FLOW, without)
            warehouse.drop(FLOW)
            warehouse._known_tables.clear()
            warehouse.replace(before, lazy(rows_of(FLOW, 1, 2).drop(without)), ALL)
            tables = mirror_of(settings)
            warehouse.make_once("main.mirrored", "table_name varchar, number bigint, digest varchar")
            folder = write_rows(warehouse, tables, before, warehouse.rows_of(before))
            tables.replace_files(before, folder, None, start_over=True)
            then = version_at(settings, FLOW, now(), now())
            warehouse.drop(FLOW)
            warehouse._known_tables.clear()
            write(warehouse, FLOW, 1, number=5)
            if words:
                with pytest.raises(SchemaMismatchError, match=words):
                    restore(settings, FLOW, then)
                assert counts(settings) == [5]
            else:
                restore(settings, FLOW, then)
                assert in_warehouse(settings, FLOW)["turnover_per_bed"].to_list() == [None, None]
        take_snapshot(settings, now(), 3)
        warehouse.connection.execute(f"update {FLOW.qualified_name} set patients_count = null")
        take_snapshot(settings, now(), 3)
        with pytest.raises(SchemaMismatchError, match="patients_count is null in 1 rows"):
            restore(settings, FLOW, version_at(settings, FLOW, now(), now()))


def test_a_version_whose_files_are_gone_says_so(opened: tuple[Settings, Warehouse, list[datetime]]) -> None:
    settings, _, times = opened
    mirror_of(settings).vacuum(FLOW, kept_days=0)
    for act in (export_version, restore):
        with pytest.raises(WarehouseError, match="not kept any more"):
            act(settings, FLOW, version_at(settings, FLOW, times[0], now()), None)
    assert export_version(settings, FLOW, version_at(settings, FLOW, times[2], now()), None) == 3


def test_the_commands(
    opened: tuple[Settings, Warehouse, list[datetime]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, warehouse, times = opened
    of = ["--data-dir", str(settings.data_dir)]
    assert main([*of, "mirror"]) == 0
    assert "0 rows of 0 tables written; 2 tables unchanged" in capsys.readouterr().out
    assert main([*of, "history", "list", FLOW.name]) == 0
    said = capsys.readouterr().out
    assert "run 3" in said and "2026-01-02" in said and "all" in said
    at = ["--as-of", times[1].isoformat()]
    assert main([*of, "history", "as-of", FLOW.name, *at, "--out", str(tmp_path / "a.csv")]) == 0
    assert "3 rows of kpi_department_flow_daily" in capsys.readouterr().out
    write(warehouse, FLOW, 3, number=9, period=days(3))
    assert main([*of, "history", "restore", FLOW.name, *at, "--days", "2026-01-03"]) == 0
    assert "1 rows became the 1 of" in capsys.readouterr().out
    assert counts(settings) == [1, 2, 1]
    assert main([*of, "history", "as-of", FLOW.name, "--as-of", "2020-01-01"]) == 2
    assert main([*of, "history", "as-of", "no_such_table", *at]) == 2
