"""The same tables on an object store: moto's S3 server, without a lock table beside it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import date

import polars as pl
import pyarrow.parquet as pq
import pytest

from hospital_assets.warehouse.database import Period
from hospital_assets.warehouse.delta import DeltaTables
from hospital_assets_tests.s3 import s3_server
from hospital_assets_tests.test_delta import FLOW, WHOLE, live, rows_of

pytestmark = pytest.mark.slow


@pytest.fixture
def lake(monkeypatch: pytest.MonkeyPatch) -> Iterator[DeltaTables]:
    with s3_server(monkeypatch, "lake"):
        yield DeltaTables("s3://lake/tables")


def put(lake: DeltaTables, frame: pl.DataFrame, period: Period = WHOLE) -> None:
    folder = lake.new_folder()
    system, root = lake.files()
    for (day,), rows in frame.partition_by("service_date", as_dict=True, include_key=False).items():
        target = f"{root}/{FLOW.layer}/{FLOW.name}/{folder}/service_date={day}"
        pq.write_table(rows.to_arrow(), f"{target}/part.parquet", filesystem=system)
    lake.replace_files(FLOW, folder, period)


def read(lake: DeltaTables) -> list[int]:
    frame: pl.DataFrame = pl.scan_delta(lake.address(FLOW)).collect()
    return frame.sort("service_date", "patients_count")["patients_count"].to_list()


def test_writers_compaction_and_vacuum(lake: DeltaTables) -> None:
    put(lake, rows_of(FLOW, 1, 2, 3))

    def write(day: int) -> None:
        for number in range(2, 5):
            put(lake, rows_of(FLOW, day, number=number), Period(date(2026, 1, day), date(2026, 1, day + 1)))

    writers = [threading.Thread(target=write, args=(day,)) for day in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert read(lake) == [4, 4, 1]
    put(lake, rows_of(FLOW, 1, 2), Period(date(2026, 1, 1), date(2026, 1, 3)))
    gone = lake.vacuum(FLOW, kept_days=0)
    # Three first files, of which one lives, and six and two that replaced them.
    assert len(gone) == 8 and not set(gone) & set(live(lake))
    assert read(lake) == [1, 1, 1] and lake.bytes_on_disk(FLOW) > 0
    folder = lake.new_folder()
    system, root = lake.files()
    for part in ("a", "b"):
        target = f"{root}/{FLOW.layer}/{FLOW.name}/{folder}/service_date=2026-01-03/{part}.parquet"
        pq.write_table(rows_of(FLOW, 3, number=7).drop("service_date").to_arrow(), target, filesystem=system)
    lake.replace_files(FLOW, folder, Period(date(2026, 1, 3), date(2026, 1, 4)))
    assert lake.compact(FLOW) == 1
    assert len(live(lake)) == 3 and read(lake) == [1, 1, 7, 7]
