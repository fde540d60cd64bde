"""Delta tables: one commit at a time, old or new version after any kill, no identifier in the log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable, Field, Schema, write_deltalake
from deltalake.schema import PrimitiveType
from deltalake.transaction import CommitProperties
from polars.testing import assert_frame_equal

from hospital_assets.contracts import CONTRACTS, Contract
from hospital_assets.warehouse import delta
from hospital_assets.warehouse.database import Period, SchemaMismatchError
from hospital_assets.warehouse.delta import DeltaTables, delta_schema
from hospital_assets.warehouse.errors import WarehouseError

FLOW = CONTRACTS["kpi_department_flow_daily"]
WHOLE = Period(date(2026, 1, 1), date(2026, 1, 4))
SECOND = Period(date(2026, 1, 2), date(2026, 1, 3))


@pytest.fixture
def lake(tmp_path: Path) -> DeltaTables:
    return DeltaTables(str(tmp_path / "lake"))


#: Numbers that are none, or have no equal.
ODD = (float("nan"), float("inf"), float("-inf"), -0.0, 5e-324, 1.7976931348623157e308, 0.1)


def odd_rows_of(contract: Contract) -> pl.DataFrame:
    """Rows of nine days, with every odd number in every column that may hold it, and nulls."""
    days = range(1, len(ODD) + 3)
    odd = pl.Series([1.0, None, *ODD], dtype=pl.Float64)
    return rows_of(contract, *days).with_columns(
        odd.fill_null(2.0).alias(c.name) if not c.nullable else odd.alias(c.name)
        for c in contract.columns
        if c.dtype == pl.Float64
    )


def rows_of(contract: Contract, *days: int, number: int = 1, text: str = "é") -> pl.DataFrame:
    """A row per day (or number), with something of each column's type, nulls where they may be."""
    values = {
        pl.String: text,
        pl.Boolean: True,
        pl.Date: date(2026, 2, 3),
        pl.Datetime: datetime(2026, 1, 1, 5, 3, 0, 123456),
        pl.List: [date(2026, 1, 1), None],
    }
    rows = []
    for place, day in enumerate(days):
        row: dict[str, object] = {}
        for column in contract.columns:
            value = number if column.dtype.is_numeric() else values[column.dtype.base_type()]
            row[column.name] = None if column.nullable and place % 2 else value
        rows.append(row | ({"service_date": date(2026, 1, day)} if contract.partitioned else {}))
    naive = {n: pl.Datetime("us") if isinstance(t, pl.Datetime) else t for n, t in contract.polars_schema.items()}
    return pl.DataFrame(rows, schema=naive).with_columns(
        pl.col(n).dt.replace_time_zone("UTC")
        for n, t in contract.polars_schema.items()
        if isinstance(t, pl.Datetime) and t.time_zone
    )


def written(lake: DeltaTables, contract: Contract, frame: pl.DataFrame, *, says_columns: bool = False) -> str:
    """As an engine does it: files in a fresh folder, which may say their columns."""
    folder = lake.new_folder(frame.columns if says_columns else ())
    target = Path(lake.address(contract), folder)
    if not contract.partitioned:
        target.mkdir(parents=True)
        frame.write_parquet(target / "part.parquet")
        return folder
    for (day,), rows in frame.partition_by("service_date", as_dict=True, include_key=False).items():
        path = target / f"service_date={day}"
        path.mkdir(parents=True)
        rows.write_parquet(path / "part.parquet")
    return folder


def put(lake: DeltaTables, contract: Contract, frame: pl.DataFrame, period: Period | None = WHOLE) -> int:
    return lake.replace_files(contract, written(lake, contract, frame), period)


def stored(lake: DeltaTables, contract: Contract, version: int | None = None) -> pl.DataFrame:
    """As DuckDB reads it."""
    connection = duckdb.connect()
    connection.execute("set TimeZone = 'UTC'")
    frame: pl.DataFrame = connection.sql(lake.select_statement(contract, version)).pl()
    return frame.sort("service_date") if contract.partitioned else frame


def live(lake: DeltaTables, contract: Contract = FLOW) -> list[str]:
    table = lake.open(contract)
    assert table is not None
    return lake.live(contract, table)


def version(lake: DeltaTables) -> int:
    table = lake.open(FLOW)
    assert table is not None
    return table.version()


def same_bits(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    """The same rows, in any order, to the last bit: 0.0 is not -0.0, and only NaN is NaN."""
    texts = [
        frame.with_columns(pl.col(pl.Float64).map_elements(float.hex, pl.String)).select(
            pl.struct(pl.all()).map_elements(str, pl.String).sort().alias("row")
        )
        for frame in (found, expected)
    ]
    assert found.schema == expected.schema
    assert_frame_equal(*texts)


@pytest.mark.parametrize("name", sorted(CONTRACTS))
def test_every_contract_comes_back_as_it_went_in(lake: DeltaTables, name: str) -> None:
    contract = CONTRACTS[name]
    frame = odd_rows_of(contract)
    assert put(lake, contract, frame, Period(date(2026, 1, 1), date(2026, 1, 10))) == len(frame)
    same_bits(stored(lake, contract), frame)
    # Polars, and delta-rs in a script of somebody else.
    scanned = pl.scan_delta(lake.address(contract)).select(contract.column_names).collect()
    same_bits(scanned, frame)
    table = DeltaTable(lake.address(contract))
    foreign = pl.from_arrow(table.to_pyarrow_table(columns=list(contract.column_names)))
    assert isinstance(foreign, pl.DataFrame)
    same_bits(foreign, frame)
    stated = {f.name: (f.nullable, f.metadata["comment"]) for f in table.schema().fields}
    assert stated == {c.name: (c.nullable and c.name != "service_date", c.description) for c in contract.columns}


def test_days_are_replaced_and_others_are_not_touched(lake: DeltaTables) -> None:
    put(lake, FLOW, rows_of(FLOW, 1, 2, 3))
    before = live(lake)
    assert put(lake, FLOW, rows_of(FLOW, 2, number=7), SECOND) == 1
    kept = set(before) & set(live(lake))
    assert len(live(lake)) == 3
    assert sorted(path.split("/")[1] for path in kept) == ["service_date=2026-01-01", "service_date=2026-01-03"]
    assert stored(lake, FLOW)["patients_count"].to_list() == [1, 7, 1]
    # No rows empty the days; versions of before are still there.
    assert put(lake, FLOW, rows_of(FLOW), SECOND) == 0
    assert [day.day for day in stored(lake, FLOW)["service_date"]] == [1, 3]
    assert stored(lake, FLOW, 1)["patients_count"].to_list() == [1, 1, 1]
    assert stored(lake, FLOW, 2)["patients_count"].to_list() == [1, 7, 1]


@pytest.mark.parametrize("first", ["replace", "compact", "append"])
@pytest.mark.parametrize("second", ["replace", "compact"])
@pytest.mark.parametrize("was_empty", [False, True])
def test_a_commit_on_an_old_version_is_refused_and_then_right(
    lake: DeltaTables, monkeypatch: pytest.MonkeyPatch, first: str, second: str, was_empty: bool
) -> None:
    """Somebody commits between another's reading of the log and its commit."""
    put(lake, FLOW, rows_of(FLOW, 1, 3))
    if not was_empty:
        both = lake.new_folder()
        for part in ("a", "b"):
            path = Path(lake.address(FLOW), both, "service_date=2026-01-02", f"{part}.parquet")
            path.parent.mkdir(parents=True, exist_ok=True)
            rows_of(FLOW, 2).drop("service_date").write_parquet(path)
        lake.replace_files(FLOW, both, SECOND)

    def do(what: str, number: int) -> None:
        if what == "replace":
            put(lake, FLOW, rows_of(FLOW, 2, number=number), SECOND)
        elif what == "append":
            # By another program.
            write_deltalake(lake.address(FLOW), rows_of(FLOW, 2, number=number), mode="append")
        else:
            lake.compact(FLOW)

    commit, refused = delta._commit, []

    def overtaken(*args: object, **options: object) -> bool:
        if not refused:
            refused.append(None)
            do(first, 7)
        done = commit(*args, **options)  # type: ignore[arg-type]
        refused[:] = [*refused, None] if not done else refused
        return done

    monkeypatch.setattr(delta, "_commit", overtaken)
    do(second, 9)
    monkeypatch.undo()
    found = stored(lake, FLOW).filter(pl.col("service_date") == date(2026, 1, 2))["patients_count"].to_list()
    start = [] if was_empty else [1, 1]
    expected = [9] if second == "replace" else [7] if first == "replace" and not was_empty else start
    if second == "compact" and first == "append":
        # A day without files is not compacted, so nobody was first.
        expected = [] if was_empty else [1, 1, 7]
    assert sorted(found) == expected
    if second == "replace" and (first in ("replace", "append") or not was_empty):
        assert len(refused) == 2


def test_two_writers_at_once_lose_nothing(lake: DeltaTables) -> None:
    """Each replaces a day of its own, again and again; the table is made by whoever is first."""

    def write(day: int) -> None:
        for number in range(1, 6):
            put(lake, FLOW, rows_of(FLOW, day, number=number), Period(date(2026, 1, day), date(2026, 1, day + 1)))

    writers = [threading.Thread(target=write, args=(day,)) for day in (1, 2, 3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert stored(lake, FLOW)["patients_count"].to_list() == [5, 5, 5]


@pytest.mark.parametrize(
    ("frame", "error", "said"),
    [
        (rows_of(FLOW, 1).drop("hospital_id"), SchemaMismatchError, "column hospital_id is missing"),
        (rows_of(FLOW, 1).with_columns(colour=pl.lit("red")), SchemaMismatchError, "unknown column colour"),
        (rows_of(FLOW, 1).with_columns(patients_count=pl.lit("1")), SchemaMismatchError, "patients_count is .*string"),
        (rows_of(FLOW, 1).with_columns(patients_count=pl.lit(None, pl.Int64)), SchemaMismatchError, "null in 1 rows"),
        (rows_of(FLOW, 1, 9), WarehouseError, "1 of 2 rows"),
    ],
)
def test_what_does_not_fit_changes_nothing(
    lake: DeltaTables, frame: pl.DataFrame, error: type[Exception], said: str
) -> None:
    put(lake, FLOW, rows_of(FLOW, 1))
    with pytest.raises(error, match=said):
        put(lake, FLOW, frame)
    assert version(lake) == 1
    assert_frame_equal(stored(lake, FLOW), rows_of(FLOW, 1))


def older(contract: Contract, without: str) -> Contract:
    """A contract as it was before it had a column."""
    before = replace(contract)
    before.__dict__["columns"] = tuple(c for c in contract.columns if c.name != without)
    return before


def test_a_new_column_may_be_null_in_old_files_and_anything_else_is_refused_by_name(lake: DeltaTables) -> None:
    put(lake, older(FLOW, "turnover_per_bed"), rows_of(FLOW, 1, 2).drop("turnover_per_bed"))
    old = live(lake)
    put(lake, FLOW, rows_of(FLOW, 3), Period(date(2026, 1, 3), date(2026, 1, 4)))
    assert set(old) < set(live(lake))
    assert stored(lake, FLOW)["turnover_per_bed"].to_list() == [None, None, 1.0]
    assert lake.compact(FLOW) == 0
    assert pl.scan_delta(lake.address(FLOW)).collect()["turnover_per_bed"].null_count() == 2
    with pytest.raises(SchemaMismatchError, match="turnover_per_bed is stored but not in the contract"):
        put(lake, older(FLOW, "turnover_per_bed"), rows_of(FLOW, 1).drop("turnover_per_bed"))


def test_a_day_is_read_without_opening_files_of_others(lake: DeltaTables) -> None:
    """Where folders say which columns their files have: before a column was added, afterwards, and put together."""
    before = older(FLOW, "turnover_per_bed")
    frame = rows_of(FLOW, 1, 2).drop("turnover_per_bed")
    lake.replace_files(before, written(lake, before, frame, says_columns=True), WHOLE)
    for day in (3, 4):
        period = Period(date(2026, 1, day), date(2026, 1, day + 1))
        lake.replace_files(FLOW, written(lake, FLOW, rows_of(FLOW, day), says_columns=True), period)
    # A file that says nothing, as tables of before have them.
    put(lake, FLOW, rows_of(FLOW, 5), Period(date(2026, 1, 5), date(2026, 1, 6)))
    assert stored(lake, FLOW)["turnover_per_bed"].to_list() == [None, None, 1.0, 1.0, 1.0]
    statement = lake.select_statement(FLOW)
    for path in live(lake):
        if "service_date=2026-01-04" in path or "service_date=2026-01-02" in path:
            Path(lake.address(FLOW), path).write_bytes(b"not opened")
    for day, turnover in ((1, None), (3, 1.0)):
        where = f"service_date = date '2026-01-0{day}'"
        assert duckdb.sql(f"select turnover_per_bed from ({statement}) where {where}").fetchall() == [(turnover,)]
    with pytest.raises(duckdb.Error):
        duckdb.sql(f"select turnover_per_bed from ({statement}) where service_date = date '2026-01-04'").fetchall()


def test_files_put_together_have_every_column(lake: DeltaTables) -> None:
    before = older(FLOW, "turnover_per_bed")
    for number in (1, 2):
        frame = rows_of(FLOW, 1, number=number).drop("turnover_per_bed")
        lake.replace_files(before, written(lake, before, frame, says_columns=True), WHOLE, append=True)
    put(lake, FLOW, rows_of(FLOW, 2), SECOND)
    assert lake.compact(FLOW) == 1
    (file,) = (path for path in live(lake) if path.endswith("compacted.parquet"))
    assert "turnover_per_bed" in pl.read_parquet_schema(Path(lake.address(FLOW), file))
    assert stored(lake, FLOW).sort("patients_count", "service_date")["turnover_per_bed"].to_list() == [None, 1.0, None]


def test_a_folder_that_says_other_columns_is_refused(lake: DeltaTables) -> None:
    folder = lake.new_folder(FLOW.column_names)
    path = Path(lake.address(FLOW), folder, "service_date=2026-01-01", "1.parquet")
    path.parent.mkdir(parents=True)
    rows_of(FLOW, 1).drop("service_date", "turnover_per_bed").write_parquet(path)
    with pytest.raises(SchemaMismatchError, match="not the columns that its folder says"):
        lake.replace_files(FLOW, folder, WHOLE)


def test_a_required_column_is_not_added_to_old_rows_but_a_table_may_start_over(lake: DeltaTables) -> None:
    put(lake, older(FLOW, "lapsed_count"), rows_of(FLOW, 1, 2).drop("lapsed_count"))
    with pytest.raises(SchemaMismatchError, match="lapsed_count is required by the contract"):
        put(lake, FLOW, rows_of(FLOW, 3))
    lake.replace_files(FLOW, written(lake, FLOW, rows_of(FLOW, 3)), WHOLE, start_over=True)
    assert_frame_equal(stored(lake, FLOW), rows_of(FLOW, 3))
    assert version(lake) == 2


def test_numbers_that_are_none_leave_the_table_readable(lake: DeltaTables) -> None:
    frame = rows_of(FLOW, 1, 2).with_columns(patient_hours=pl.Series([float("nan"), 1.0]))
    put(lake, FLOW, frame)
    assert_frame_equal(stored(lake, FLOW), frame)
    assert "NaN" not in "".join(p.read_text() for p in Path(lake.address(FLOW), "_delta_log").glob("*.json"))


@pytest.mark.parametrize("name", ["cleaned_patients", "cleaned_er_visits", "dim_patient"])
def test_no_identifier_and_no_free_text_is_in_the_log(lake: DeltaTables, name: str) -> None:
    contract = CONTRACTS[name]
    marker = "Zyxwv Unmistakable"
    frame = rows_of(contract, 1, 2, text=marker)
    put(lake, contract, frame)
    table = lake.open(contract)
    assert table is not None
    table.create_checkpoint()
    log = b"".join(p.read_bytes() for p in Path(lake.address(contract), "_delta_log").rglob("*") if p.is_file())
    assert marker.encode() not in log
    private = {c.name for c in contract.columns if c.privacy != "operational"}
    for line in Path(lake.address(contract), "_delta_log", f"{1:020}.json").read_text().splitlines():
        if "add" in (action := json.loads(line)):
            stats = json.loads(action["add"]["stats"])
            assert stats["numRecords"] and stats["minValues"]
            assert not private & {*stats["minValues"], *stats["maxValues"], *stats["nullCount"]}


def test_a_batch_counts_once(lake: DeltaTables) -> None:
    for number, batch in [(1, 0), (2, 0), (3, 1), (4, 1), (5, 0)]:
        folder = written(lake, FLOW, rows_of(FLOW, 1, number=number))
        lake.replace_files(FLOW, folder, WHOLE, batch=("vitals", batch))
    assert stored(lake, FLOW)["patients_count"].to_list() == [3]
    assert version(lake) == 2


def test_small_files_are_put_together_and_nothing_changes(lake: DeltaTables) -> None:
    folder = lake.new_folder()
    for day in (1, 2):
        for part in range(5):
            path = Path(lake.address(FLOW), folder, f"service_date=2026-01-0{day}", f"{part}.parquet")
            path.parent.mkdir(parents=True, exist_ok=True)
            rows_of(FLOW, day, number=part).drop("service_date").write_parquet(path)
    lake.replace_files(FLOW, folder, WHOLE)
    before = stored(lake, FLOW)
    reader = duckdb.sql(lake.select_statement(FLOW))
    assert lake.compact(FLOW) == 8
    assert len(live(lake)) == 2
    assert_frame_equal(stored(lake, FLOW), before, check_row_order=False)
    assert len(reader.fetchall()) == 10
    assert lake.compact(FLOW) == 0
    log = Path(lake.address(FLOW), "_delta_log", f"{2:020}.json").read_text()
    actions = [json.loads(line) for line in log.splitlines()]
    assert {a[k]["dataChange"] for a in actions for k in a if k in ("add", "remove")} == {False}
    # Of what they replaced, neither files nor folders stay.
    assert len(lake.vacuum(FLOW, kept_days=0)) == 10
    assert len([path for path in Path(lake.address(FLOW)).iterdir() if path.name != "_delta_log"]) == 2


KILLED = """
import os, signal, sys
from hospital_assets_tests import test_delta as t
lake, moment = t.DeltaTables(sys.argv[1]), sys.argv[2]
commit = t.delta._commit
def killed(*args, **options):
    if moment == "after": commit(*args, **options)
    os.kill(os.getpid(), signal.SIGKILL)
if moment == "files": lake.__class__.replace_files = killed
else: t.delta._commit = killed
t.put(lake, t.FLOW, t.rows_of(t.FLOW, 1, 2, 3, number=9))
"""


@pytest.mark.parametrize(("moment", "number"), [("files", 1), ("before", 1), ("after", 9)])
def test_a_killed_writer_leaves_a_whole_version_and_orphans_are_vacuumed(
    lake: DeltaTables, moment: str, number: int
) -> None:
    put(lake, FLOW, rows_of(FLOW, 1, 2, 3))
    kept = live(lake)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, lake.root, moment], cwd=Path(__file__).parents[1], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert stored(lake, FLOW)["patients_count"].to_list() == [number] * 3
    files = {str(p.relative_to(lake.address(FLOW))) for p in Path(lake.address(FLOW)).rglob("*.parquet")}
    dead = files - set(live(lake))
    assert len(dead) == 3 and (moment == "after") == (dead == set(kept))
    assert lake.vacuum(FLOW, kept_days=7, dry_run=True) == []
    assert set(lake.vacuum(FLOW, kept_days=0)) == dead
    assert {str(p.relative_to(lake.address(FLOW))) for p in Path(lake.address(FLOW)).rglob("*.parquet")} == set(
        live(lake)
    )
    assert stored(lake, FLOW)["patients_count"].to_list() == [number] * 3


DIES_IN_THE_LOG = """
import resource, signal, sys
from hospital_assets_tests import test_delta as t
lake, commit = t.DeltaTables(sys.argv[1]), t.delta._commit
def dies(*args, **options):
    # The system ends a process that writes a longer file, in the middle of that write.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
    return commit(*args, **options)
t.delta._commit = dies
t.put(lake, t.FLOW, t.rows_of(t.FLOW, 1, 2, 3, number=9))
"""


@pytest.mark.parametrize("bytes_written", [1, 700])
def test_a_writer_that_dies_in_the_middle_of_the_log_leaves_the_version_before(
    lake: DeltaTables, bytes_written: int
) -> None:
    put(lake, FLOW, rows_of(FLOW, 1, 2, 3))
    kept = live(lake)
    log = Path(lake.address(FLOW), "_delta_log")
    before = set(log.iterdir())
    died = subprocess.run(
        [sys.executable, "-c", DIES_IN_THE_LOG, lake.root, str(bytes_written)],
        cwd=Path(__file__).parents[1],
        check=False,
    )
    assert died.returncode == -signal.SIGXFSZ
    # It had begun to write it.
    (torn,) = set(log.iterdir()) - before
    assert torn.stat().st_size == bytes_written and torn.suffix != ".json"
    assert version(lake) == 1 and live(lake) == kept
    assert pl.scan_delta(lake.address(FLOW)).collect()["patients_count"].to_list() == [1, 1, 1]
    put(lake, FLOW, rows_of(FLOW, 1, 2, 3, number=4))
    lake.compact(FLOW)
    lake.vacuum(FLOW, kept_days=0)
    assert stored(lake, FLOW)["patients_count"].to_list() == [4, 4, 4]


def test_readers_of_others_read_the_newest_and_past_versions(lake: DeltaTables) -> None:
    """Not through us: deltalake as in anybody's script, and Polars."""
    expected = []
    frame = rows_of(FLOW, 1, 2, 3)
    put(lake, FLOW, frame)
    for number in (5, 6):
        expected.append(frame)
        frame = pl.concat([frame[:1], rows_of(FLOW, 2, number=number), frame[2:]])
        put(lake, FLOW, rows_of(FLOW, 2, number=number), SECOND)
    expected.append(frame)
    for number, then in enumerate(expected, start=1):
        table = DeltaTable(lake.address(FLOW), version=number)
        foreign = pl.from_arrow(table.to_pyarrow_table(columns=FLOW.column_names))
        assert isinstance(foreign, pl.DataFrame)
        same_bits(foreign, then)
        same_bits(pl.scan_delta(lake.address(FLOW), version=number).select(FLOW.column_names).collect(), then)
        same_bits(stored(lake, FLOW, number), then)


@pytest.mark.nightly
def test_writers_and_compactors_killed_at_random_leave_no_mixture(lake: DeltaTables) -> None:
    put(lake, FLOW, rows_of(FLOW, 1, 2, 3))
    script = (
        "import sys\nfrom hospital_assets_tests import test_delta as t\nlake = t.DeltaTables(sys.argv[1])\nn = 1\n"
        "while True:\n    n += 1\n    t.put(lake, t.FLOW, t.rows_of(t.FLOW, 1, 2, 3, number=n))\n"
        "    lake.compact(t.FLOW)\n"
    )
    for round_ in range(8):
        writers = [
            subprocess.Popen([sys.executable, "-c", script, lake.root], cwd=Path(__file__).parents[1]) for _ in range(2)
        ]
        try:
            start = version(lake)
            while version(lake) < start + 3 + round_:
                assert all(w.poll() is None for w in writers)
                assert stored(lake, FLOW)["patients_count"].n_unique() == 1
                time.sleep(0.01)
        finally:
            for writer in writers:
                os.kill(writer.pid, signal.SIGKILL)
                writer.wait()
        assert stored(lake, FLOW)["service_date"].to_list() == [WHOLE.first + timedelta(days=n) for n in range(3)]
        assert stored(lake, FLOW)["patients_count"].n_unique() == 1


@pytest.mark.parametrize(
    ("properties", "feature"),
    [
        ({"delta.enableDeletionVectors": "true"}, "deletionVectors"),
        ({"delta.columnMapping.mode": "name"}, "columnMapping"),
    ],
)
def test_what_we_do_not_read_is_refused_by_name(lake: DeltaTables, properties: dict[str, str], feature: str) -> None:
    DeltaTable.create(
        lake.address(FLOW), Schema([Field("service_date", PrimitiveType("date"))]), configuration=properties
    )
    with pytest.raises(WarehouseError, match=feature):
        lake.select_statement(FLOW)
    with pytest.raises(WarehouseError, match=feature):
        put(lake, FLOW, rows_of(FLOW, 1))


def test_changes_of_a_fact_can_be_followed(lake: DeltaTables) -> None:
    fact = CONTRACTS["fact_vitals"]
    put(lake, fact, rows_of(fact, 1, 2))
    put(lake, fact, rows_of(fact, 2, number=7), SECOND)
    changes = pl.DataFrame(DeltaTable(lake.address(fact)).load_cdf(starting_version=2).read_all())
    counted = dict(changes.group_by("_change_type").len().iter_rows())
    assert counted == {"insert": 1, "delete": 1}
    # It is made of the files that came and went: no others were written. Files put together are no change.
    assert not Path(lake.address(fact), "_change_data").exists()
    lake.replace_files(fact, written(lake, fact, rows_of(fact, 2, number=8)), SECOND, append=True)
    since = DeltaTable(lake.address(fact)).version() + 1
    assert lake.compact(fact) == 1
    assert DeltaTable(lake.address(fact)).load_cdf(starting_version=since).read_all().num_rows == 0


def test_a_file_of_somebody_else_without_a_day_is_refused(lake: DeltaTables) -> None:
    put(lake, FLOW, rows_of(FLOW, 1))
    table = lake.open(FLOW)
    assert table is not None
    rows_of(FLOW, 2).drop("service_date").write_parquet(Path(lake.address(FLOW), "stray.parquet"))
    add = delta._add("stray.parquet", 1, {"service_date": "2026-01-02"}, "{}", changes=True)
    table.create_write_transaction(
        [add], "append", delta_schema(FLOW), ["service_date"], commit_properties=CommitProperties(max_commit_retries=0)
    )
    with pytest.raises(WarehouseError, match="another program wrote it"):
        live(lake)
