"""What a year of daily refreshes and late files leaves of a Delta table that is maintained every night.

    python benchmarks/upkeep.py [--days 365] [--refreshes 5] [--no-upkeep]

One table of vital signs. Each day its service day is written, and 50 late files come for five of the last 14 days,
which are written anew: once each, where files that come together are taken together (as the sensor does it), or
up to 50 times, where every file comes by itself. At night small files are put together and those that no kept
version has are deleted, as the nightly job does it. Printed are processor times, because machines are shared: of a
commit (median of the last week; the files are there already), of the night, of listing the files, and of a view and
of reading one day of it through DuckDB; files, folders and bytes on disk, and entries of the log.

The clock is simulated (Debian's package `faketime`), for the table's own log and for delta-rs, so that 90 days are
kept as in life. For Linux.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
SHOWN = (30, 90, 180, 270, 365)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--refreshes", type=int, default=5, help="a day, of the five that late files come for")
    parser.add_argument("--rows", type=int, default=2000, help="of a service day")
    parser.add_argument("--files", type=int, default=5, help="that a service day is written in")
    parser.add_argument("--no-upkeep", action="store_true", help="leave out the nights")
    options = parser.parse_args()
    if os.environ.get("LD_PRELOAD") != str(FAKETIME):
        if not FAKETIME.exists():
            raise SystemExit("the clock is simulated by Debian's package faketime: apt-get install faketime")
        clock = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        # Files get their times from the system, and are given the simulated ones below.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **clock, "NO_FAKE_STAT": "1"})  # noqa: S606
    simulate(options)


def simulate(options: argparse.Namespace) -> None:
    import duckdb
    import polars as pl

    from hospital_assets.contracts import CONTRACTS
    from hospital_assets.warehouse.database import Period
    from hospital_assets.warehouse.delta import DeltaTables

    contract = CONTRACTS["fact_vitals"]
    today = datetime.now(UTC).date()
    first = today - timedelta(days=options.days)

    def rows(number: int) -> pl.DataFrame:
        values = {pl.String: "x", pl.Boolean: True, pl.Date: first, pl.Datetime: datetime(2026, 1, 1)}
        frame = pl.DataFrame(
            {
                c.name: pl.select(pl.int_range(number) * 37 % 1000).to_series().cast(c.dtype)
                if c.dtype.is_numeric()
                else pl.Series([values[c.dtype.base_type()]]).cast(c.dtype).new_from_index(0, number)
                for c in contract.columns
                if c.name != "service_date"
            }
        )
        return frame.with_columns(pl.col(pl.String) + pl.int_range(number).cast(pl.String))

    sample = rows(options.rows // options.files)

    def refreshed(tables: DeltaTables, day: date) -> float:
        """Write a service day anew; processor seconds of the commit."""
        folder = tables.new_folder(contract.column_names)
        place = Path(tables.address(contract), folder, f"service_date={day}")
        place.mkdir(parents=True)
        for part in range(options.files):
            sample.write_parquet(place / f"{part}.parquet")
        started = time.process_time()
        note = {"days": str(day), "cause": "a run"}
        tables.replace_files(contract, folder, Period(day, day + timedelta(days=1)), note=note)
        return time.process_time() - started

    with tempfile.TemporaryDirectory() as name:
        tables, known, commits = DeltaTables(name), set[str](), list[float]()
        print(
            "  day  commits  commit ms  files live  on disk  folders    MB  log entries  log MB  "
            "night s  list ms  view ms  day ms"
        )
        for number in range(1, options.days + 1):
            os.environ["FAKETIME"] = f"-{options.days - number}d"
            day = first + timedelta(days=number)
            assert datetime.now(UTC).date() == day
            recent = [day - timedelta(days=n) for n in range(1, min(14, number))]
            late = [recent[place] for place in {(number + 3 * n) % 13 for n in range(5)} if place < len(recent)]
            commits += [refreshed(tables, one) for one in [day, *(late * options.refreshes)[: options.refreshes]]]
            started = time.process_time()
            if not options.no_upkeep:
                tables.compact(contract)
                tables.vacuum(contract)
            night = time.process_time() - started
            known = dated(Path(tables.address(contract)), known)
            if number in SHOWN or number == options.days:
                of_week = commits[-7 * (1 + options.refreshes) :]
                table = Path(tables.address(contract))
                started = time.process_time()
                opened = tables.open(contract)
                assert opened is not None
                files = len(tables.live(contract, opened))
                listed = time.process_time() - started
                connection = duckdb.connect()
                started = time.process_time()
                connection.execute(f"create view v as {tables.select_statement(contract)}")
                viewed = time.process_time() - started
                read = []
                for _ in range(5):
                    started = time.process_time()
                    found = connection.sql(f"select count(*), sum(news2_score) from v where service_date = '{day}'")
                    assert found.fetchall()[0][0] == options.rows
                    read.append(time.process_time() - started)
                entries = list((table / "_delta_log").iterdir())
                parquet = [p for p in table.rglob("*.parquet") if "_delta_log" not in p.parts]
                folders = sum(1 for p in table.rglob("*") if p.is_dir())
                print(
                    f"  {number:3}  {len(commits):7}  {1000 * statistics.median(of_week):9.1f}  {files:10}  "
                    f"{len(parquet):7}  {folders:7}  {sum(p.stat().st_size for p in parquet) / 1e6:4.0f}  "
                    f"{len(entries):11}  {sum(p.stat().st_size for p in entries) / 1e6:6.1f}  {night:7.1f}  "
                    f"{1000 * listed:7.1f}  {1000 * viewed:7.1f}  {1000 * statistics.median(read):6.1f}",
                    flush=True,
                )


def dated(table: Path, known: set[str]) -> set[str]:
    """Give new files the simulated time, by which the log is cut and orphans are told."""
    now = time.time()
    found = {entry.path for folder in (table, table / "_delta_log") for entry in os.scandir(folder)}
    for path in found - known:
        for file in (Path(path), *Path(path).rglob("*")):
            os.utime(file, (now, now))
    return found


if __name__ == "__main__":
    main()
