"""How DuckDB, Polars and Spark take more and more of the same work: vitals and visits, raw to scored.

    python benchmarks/scale.py [--of DIRECTORY] [--times 1,4,16] [--engines duckdb,polars,spark]

Takes the raw records of a built data directory (default: simulates and builds six days), multiplies
them (ids get a suffix, so that nothing is a repetition), and lets each engine clean, split, score and
store them with the platform's own transforms, in a process of its own: seconds, peak memory of all
its processes, bytes read and written, and a few figures that must be the same on every engine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_TABLES = {
    "raw_vitals": ("raw", ("observation_id", "visit_id", "source_file")),
    "raw_er_visits": ("raw", ("visit_id", "source_file")),
    "cleaned_hospitals": ("cleaned", ()),
    "dim_patient": ("dimensions", ()),
}


def multiplied(warehouse: Path, target: Path, times: int) -> dict[str, int]:
    """Parquet files of the inputs, the records `times` over; returns rows and bytes."""
    import duckdb

    with duckdb.connect(str(warehouse), read_only=True) as connection:
        connection.execute("set TimeZone = 'UTC'")
        said = {}
        for table, (layer, ids) in _TABLES.items():
            columns = ["* exclude (payload)", "cast(cast(payload as json) as varchar) as payload"]
            selected = ", ".join(columns if table == "raw_vitals" else ["*"])
            suffixed = ", ".join(f"{name} || '-' || n as {name}" for name in ids)
            source = f"select {selected} from {layer}.{table}"
            if ids:
                source = f"select * replace ({suffixed}) from ({source}), range({times}) r(n)"
            (target / table).mkdir(parents=True)
            connection.execute(
                f"copy ({source}) to '{target / table / 'rows.parquet'}' (row_group_size 100000)"
            )
            said[table] = connection.execute(
                f"select count(*) from read_parquet('{target / table}/*.parquet')"
            ).fetchall()[0][0]
    return said


def work(read: Any, store: Any) -> dict[str, float]:
    """The job, on whatever engine `read` and `store` are of; returns figures."""
    import narwhals as nw

    from hospital_assets.assets.cleaned.er_visits import RULES as VISIT_RULES
    from hospital_assets.assets.cleaned.er_visits import judge_er_visits
    from hospital_assets.assets.cleaned.rules import split
    from hospital_assets.assets.cleaned.vitals import RULES, judge_vitals
    from hospital_assets.assets.facts.vitals import scored
    from hospital_assets.warehouse.dialect import minutes_between

    hospitals = read("cleaned_hospitals")
    raw = read("raw_vitals")
    sound, aside = split(judge_vitals(raw, hospitals), raw, "vitals", RULES)
    vitals = store("vitals", sound)
    aside = store("vitals_aside", aside)
    raw = read("raw_er_visits")
    sound, visits_aside = split(judge_er_visits(raw, hospitals), raw, "er_visits", VISIT_RULES)
    visits = store("visits", sound)
    visits_aside = store("visits_aside", visits_aside)
    facts = store("facts", scored(vitals, read("dim_patient")))
    waits = visits.with_columns(wait=minutes_between("arrival_at", "provider_at"))
    daily = store(
        "daily",
        waits.group_by("hospital_id", "service_date").agg(
            n=nw.len(), wait_minutes=nw.col("wait").sum(), median=nw.col("wait").median()
        ),
    )

    def one(frame: Any) -> float:
        return float(frame.collect("polars").item() or 0)

    return {
        "vitals": one(facts.select(nw.len())),
        "set aside": one(aside.select(nw.len())) + one(visits_aside.select(nw.len())),
        "NEWS2 points": one(facts.select(nw.col("news2_score").sum())),
        "visits": one(visits.select(nw.len())),
        "wait minutes": round(one(daily.select(nw.col("wait_minutes").sum())), 3),
    }


def on_duckdb(inputs: Path, out: Path) -> dict[str, float]:
    import duckdb

    from hospital_assets.warehouse.dialect import lazy

    config = {"memory_limit": "2GB", "preserve_insertion_order": False}
    connection = duckdb.connect(str(out / "out.duckdb"), config=config)
    connection.execute("set TimeZone = 'UTC'")

    def read(table: str) -> Any:
        return lazy(connection.sql(f"from read_parquet('{inputs / table}/*.parquet')"))

    def store(table: str, frame: Any) -> Any:
        frame.to_native().query("plan", f"create table {table} as from plan")
        return lazy(connection.table(table))

    return work(read, store)


def on_polars(inputs: Path, out: Path) -> dict[str, float]:
    import polars as pl

    from hospital_assets.warehouse.dialect import lazy

    def store(table: str, frame: Any) -> Any:
        frame.to_native().sink_parquet(out / f"{table}.parquet")
        return lazy(pl.scan_parquet(out / f"{table}.parquet"))

    return work(lambda table: lazy(pl.scan_parquet(inputs / table / "*.parquet")), store)


def on_spark(inputs: Path, out: Path) -> dict[str, float]:
    from hospital_assets.warehouse.dialect import lazy
    from hospital_assets.warehouse.spark_session import start_session

    started = time.perf_counter()
    session = start_session("local[2]")
    session.range(10).count()
    ready = time.perf_counter() - started

    def store(table: str, frame: Any) -> Any:
        frame.to_native().write.parquet(str(out / table))
        return lazy(session.read.parquet(str(out / table)))

    said = work(lambda table: lazy(session.read.parquet(str(inputs / table))), store)
    gateway = session.sparkContext._gateway
    session.stop()
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait()
    return {**said, "start seconds": round(ready, 1)}


def child(engine: str, inputs: str, out: str) -> None:
    job = {"duckdb": on_duckdb, "polars": on_polars, "spark": on_spark}[engine]
    started = time.perf_counter()
    said = job(Path(inputs), Path(out))
    seconds = time.perf_counter() - started - said.pop("start seconds", 0)
    peak = sum(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(json.dumps({"seconds": seconds, "peak_mb": peak / 1024, "figures": said}))


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def source(folder: Path, of: str | None) -> Path:
    """The warehouse to take the raw records from."""
    data = Path(of) if of else folder / "data"
    hospital = Path(sys.executable).with_name("hospital")
    if not of:
        environment = {**os.environ, "HOSPITAL_DATA_DIR": str(data), "HOSPITAL_ENGINE": "duckdb"}
        for command in (["simulate", "--days", "6"], ["build"]):
            subprocess.run(
                [hospital, *command], check=True, stdout=subprocess.DEVNULL, env=environment
            )
    # A copy, because nobody else can have the file open.
    copy = folder / "source.duckdb"
    shutil.copyfile(data / "warehouse" / "hospital.duckdb", copy)
    return copy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--of", help="a built data directory")
    parser.add_argument("--times", default="1,4")
    parser.add_argument("--engines", default="duckdb,polars,spark")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        warehouse = source(Path(folder), options.of)
        for times in map(int, options.times.split(",")):
            inputs = Path(folder) / f"inputs_{times}"
            rows = multiplied(warehouse, inputs, times)
            print(
                f"{rows['raw_vitals']:,} vitals, {rows['raw_er_visits']:,} visits, "
                f"{bytes_below(inputs) / 1e6:,.0f} MB of Parquet"
            )
            figures = {}
            for engine in options.engines.split(","):
                out = Path(folder) / f"{engine}_{times}"
                out.mkdir()
                done = subprocess.run(
                    [sys.executable, __file__, "--child", engine, str(inputs), str(out)],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if done.returncode:
                    print(f"  {engine:7} failed: {done.stderr.strip().splitlines()[-1][:200]}")
                    continue
                said = json.loads(done.stdout.strip().splitlines()[-1])
                figures[engine] = said["figures"]
                print(
                    f"  {engine:7} {said['seconds']:7.1f} s, peak {said['peak_mb']:6,.0f} MB, "
                    f"{bytes_below(out) / 1e6:6,.0f} MB written"
                )
                shutil.rmtree(out)
            shutil.rmtree(inputs)
            first, *others = figures.values()
            assert all(other == first for other in others), figures
            print(f"  the same on each: {first}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        main()
