"""How DuckDB, Polars and Spark take more and more of the same work: vitals and visits, raw to scored.

    python benchmarks/scale.py [--millions 1,2,10] [--engines by_hand,duckdb,polars,spark]

Simulates and builds a month of the network (with its dirt), then has each engine read its raw records
as often as it takes to come to so many million visits (vital-sign sets in proportion, about 5.7 for a
visit), and clean, split, score and store them with the platform's own transforms, in a process of its
own. `by_hand` is `scale_by_hand.sql`, a DuckDB script of the same work; `mirrored` is `duckdb` with the facts mirrored
as Delta afterwards; Spark's tables are Delta in a lake. Told are seconds, CPU seconds,
the peak memory of all its processes together, bytes read and written, the most that stood on disk
while it ran (Spark's own scratch files are elsewhere), and figures that must be the same on each. For Linux.

More than `--at-once` is done part by part, as the platform goes through service days.

The raw records stand on disk once: every further copy is a hard link whose name gives all
identifiers in it a suffix of their own, so that nothing is a repetition and multiplying takes no time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

#: Table -> its layer, and the columns that get a suffix in each copy.
_TABLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "raw_vitals": ("raw", ("observation_id", "visit_id", "source_file")),
    "raw_er_visits": ("raw", ("visit_id", "source_file")),
    "cleaned_hospitals": ("cleaned", ()),
    "dim_patient": ("dimensions", ()),
}
#: What Spark stores in its lake, and by which contract.
_IN_LAKE = {
    "vitals": "cleaned_vitals",
    "vitals_aside": "quarantine_vitals",
    "visits": "cleaned_er_visits",
    "visits_aside": "quarantine_er_visits",
    "facts": "fact_vitals",
}
_NUMBER = r"(\d+)\.parquet"
#: What a laptop has for it; DuckDB spills beyond, Spark's heap is its session's default.
_DUCKDB = {"memory_limit": "2GB", "preserve_insertion_order": False, "threads": 2}
#: Figures that engines add up in different orders.
_RELATIVE = 1e-9


# Inputs -------------------------------------------------------------------------------------------


def base_of(folder: Path, days: int) -> dict[str, int]:
    """Parquet files of the raw records of some simulated days, in `folder/base`; rows by table."""
    import duckdb

    environment = {**os.environ, "HOSPITAL_DATA_DIR": str(folder / "data"), "HOSPITAL_ENGINE": "duckdb"}
    hospital = Path(sys.executable).with_name("hospital")
    for command in (["simulate", "--days", str(days)], ["build"]):
        subprocess.run([hospital, *command], check=True, stdout=subprocess.DEVNULL, env=environment)
    (folder / "base").mkdir()
    rows = {}
    warehouse = folder / "data" / "warehouse" / "hospital.duckdb"
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        connection.execute("set TimeZone = 'UTC'")
        for table, (layer, _) in _TABLES.items():
            payload = " replace (cast(cast(payload as json) as varchar) as payload)"
            connection.execute(
                f"copy (select *{payload if table == 'raw_vitals' else ''} from {layer}.{table}) "
                f"to '{folder / 'base' / table}.parquet' (compression zstd, row_group_size 100000)"
            )
            found = connection.execute(f"select count(*) from {layer}.{table}").fetchall()
            rows[table] = int(found[0][0])
    shutil.rmtree(folder / "data")
    return rows


def link(base: Path, inputs: Path, times: int, parts: int) -> None:
    """The base tables, those with identifiers `times` over, in folders that each are worked on at once."""
    for part in range(parts):
        for table, (_, ids) in _TABLES.items():
            folder = inputs / f"{part:03}" / table
            folder.mkdir(parents=True)
            for number in range(part, times, parts) if ids else (0,):
                os.link(base / f"{table}.parquet", folder / f"{number:05}.parquet")


# The work -----------------------------------------------------------------------------------------


def work(read: Callable[[str], Any], store: Callable[[str, Any], Any]) -> dict[str, float]:
    """The job, on whatever engine `read` and `store` are of; returns figures."""
    import narwhals as nw

    from hospital_assets.assets.cleaned.er_visits import RULES as VISIT_RULES
    from hospital_assets.assets.cleaned.er_visits import validate_er_visits
    from hospital_assets.assets.cleaned.rules import split
    from hospital_assets.assets.cleaned.vitals import RULES, validate_vitals
    from hospital_assets.assets.facts.vitals import scored
    from hospital_assets.landing.registry import load_profiles
    from hospital_assets.warehouse.dialect import minutes_between

    hospitals, profiles = read("cleaned_hospitals"), load_profiles(None)
    raw = read("raw_vitals")
    sound, aside = split(validate_vitals(raw, hospitals, profiles), raw, "vitals", RULES)
    vitals = store("vitals", sound)
    vitals_aside = store("vitals_aside", aside)
    raw = read("raw_er_visits")
    sound, aside = split(validate_er_visits(raw, hospitals, profiles), raw, "er_visits", VISIT_RULES)
    visits = store("visits", sound)
    visits_aside = store("visits_aside", aside)
    facts = store("facts", scored(vitals, read("dim_patient")))
    waits = visits.with_columns(wait=minutes_between("arrival_at", "provider_at"))
    daily = store(
        "daily",
        waits.group_by("hospital_id", "service_date").agg(
            n=nw.len(), wait_minutes=nw.col("wait").sum(), median_minutes=nw.col("wait").median()
        ),
    )

    def one(frame: Any) -> float:
        return float(frame.collect("polars").item() or 0)

    return {
        "vitals": one(facts.select(nw.len())),
        "set aside": one(vitals_aside.select(nw.len())) + one(visits_aside.select(nw.len())),
        "NEWS2 points": one(facts.select(nw.col("news2_score").sum())),
        "visits": one(visits.select(nw.len())),
        "wait minutes": one(daily.select(nw.col("wait_minutes").sum())),
    }


def as_fact(frame: Any) -> Any:
    """Scored vital signs as fact_vitals has them; keys of dimensions that are no part of the work are 0."""
    import narwhals as nw

    from hospital_assets.contracts import CONTRACTS

    names = CONTRACTS["fact_vitals"].column_names
    there = frame.collect_schema().names()
    keys = {name: nw.lit(0).cast(nw.Int64) for name in names if name not in there and name.endswith("_key")}
    return frame.with_columns(**keys).select(nw.col(*names))


FIGURES = """
    select (select count(*) from facts) as vitals,
        (select count(*) from vitals_aside) + (select count(*) from visits_aside) as "set aside",
        (select sum(news2_score) from facts) as "NEWS2 points",
        (select count(*) from visits) as visits,
        (select sum(wait_minutes) from daily) as "wait minutes"
"""


def multiplied(inputs: Path, table: str) -> str:
    """SQL of an input table for DuckDB: each file's identifiers have its number."""
    ids = _TABLES[table][1]
    if not ids:
        return f"select * from read_parquet('{inputs / table}/*.parquet')"
    suffixed = ", ".join(f"{name} || '-' || regexp_extract(filename, '{_NUMBER}', 1) as {name}" for name in ids)
    return (
        f"select * exclude (filename) replace ({suffixed}) "
        f"from read_parquet('{inputs / table}/*.parquet', filename = true)"
    )


def _connected(out: Path) -> Any:
    import duckdb

    connection = duckdb.connect(str(out / "out.duckdb"), config=_DUCKDB)
    connection.execute("set TimeZone = 'UTC'")
    return connection


def by_hand(inputs: Path, out: Path) -> dict[str, float]:
    connection = _connected(out)
    for table in _TABLES:
        connection.execute(f"create temp view {table} as {multiplied(inputs, table)}")
    connection.execute((HERE / "scale_by_hand.sql").read_text(encoding="utf-8"))
    names = [name for name, *_ in connection.execute(f"describe {FIGURES}").fetchall()]
    return dict(zip(names, map(float, connection.execute(FIGURES).fetchall()[0]), strict=True))


def on_duckdb(inputs: Path, out: Path) -> dict[str, float]:
    from hospital_assets.warehouse.dialect import lazy

    connection = _connected(out)

    def store(table: str, frame: Any) -> Any:
        frame.to_native().query("plan", f"create table {table} as from plan")
        return lazy(connection.table(table))

    return work(lambda table: lazy(connection.sql(multiplied(inputs, table))), timed(store))


def on_duckdb_mirrored(inputs: Path, out: Path) -> dict[str, float]:
    """As `on_duckdb`; then the facts go into a warehouse (not counted) and from there into its mirror (counted)."""
    from hospital_assets.contracts import CONTRACTS
    from hospital_assets.recovery.mirror import mirror
    from hospital_assets.settings import MirrorSettings, Settings
    from hospital_assets.warehouse.database import open_warehouse
    from hospital_assets.warehouse.dialect import lazy

    figures, before = on_duckdb(inputs, out), _cpu_seconds()
    settings = Settings(out / "data", mirror=MirrorSettings("mirror"))
    with open_warehouse(settings.warehouse_file, memory_limit=str(_DUCKDB["memory_limit"])) as warehouse:
        warehouse.connection.execute(f"attach '{out / 'out.duckdb'}' as made")
        facts = lazy(warehouse.connection.table("made.main.facts"))
        warehouse.replace(CONTRACTS["fact_vitals"], as_fact(facts))
        moved = _cpu_seconds()
        done = mirror(settings, warehouse)
        assert done.written["fact_vitals"] == figures["vitals"] and not done.failed
    seconds = {"mirror CPU seconds": _cpu_seconds() - moved, "not counted CPU seconds": moved - before}
    return {**figures, **seconds, "mirror MB": bytes_below(out / "data" / "mirror") / 1e6}


def _cpu_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system


def on_polars(inputs: Path, out: Path) -> dict[str, float]:
    import polars as pl

    from hospital_assets.warehouse.dialect import lazy

    def read(table: str) -> Any:
        ids = _TABLES[table][1]
        frame = pl.scan_parquet(inputs / table / "*.parquet", include_file_paths="_file" if ids else None)
        number = pl.col("_file").str.extract(_NUMBER)
        frame = frame.with_columns(**{name: pl.concat_str(pl.col(name), pl.lit("-"), number) for name in ids})
        return lazy(frame.drop("_file") if ids else frame)

    def store(table: str, frame: Any) -> Any:
        frame.to_native().sink_parquet(out / f"{table}.parquet")
        return lazy(pl.scan_parquet(out / f"{table}.parquet"))

    return work(read, timed(store))


def on_spark(inputs: Path, out: Path) -> dict[str, float]:
    from pyspark.sql import functions as F  # noqa: N812

    import hospital_assets.spark.dialect  # noqa: F401  (so that frames of Spark have theirs)
    from hospital_assets.contracts import CONTRACTS
    from hospital_assets.spark.lake import Lake
    from hospital_assets.spark.session import start_session
    from hospital_assets.warehouse.dialect import lazy

    started = time.perf_counter()
    session = start_session("local[2]")
    session.range(10).count()
    ready = time.perf_counter() - started

    def read(table: str) -> Any:
        ids = _TABLES[table][1]
        frame = session.read.parquet(str(inputs / table))
        number = F.regexp_extract(F.col("_metadata.file_name"), _NUMBER, 1)
        return lazy(frame.withColumns({name: F.concat(F.col(name), F.lit("-"), number) for name in ids}))

    lake = Lake(str(out / "lake"))

    def store(table: str, frame: Any) -> Any:
        if table not in _IN_LAKE:
            frame.to_native().write.option("compression", "zstd").parquet(str(out / table))
            return lazy(session.read.parquet(str(out / table)))
        contract = CONTRACTS[_IN_LAKE[table]]
        lake.replace(session, contract, as_fact(frame) if table == "facts" else frame, None)
        return lake.read(session, contract, None)

    return {**work(read, timed(store)), "start seconds": round(ready, 1)}


def stop_spark() -> None:
    """End the JVM with its session, so that its processor time is counted."""
    from pyspark.sql import SparkSession

    session = SparkSession.getActiveSession()
    assert session is not None
    gateway = session.sparkContext._gateway
    session.stop()
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait()


def timed(store: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """As `store`, and tells on stderr how long each table took."""

    def told(table: str, frame: Any) -> Any:
        started = time.perf_counter()
        stored = store(table, frame)
        print(f"    {table:13} {time.perf_counter() - started:7.1f} s", file=sys.stderr)
        return stored

    return told


ENGINES = {
    "by_hand": by_hand,
    "duckdb": on_duckdb,
    "mirrored": on_duckdb_mirrored,
    "polars": on_polars,
    "spark": on_spark,
}


# Measuring ----------------------------------------------------------------------------------------


def child(engine: str, inputs: str, out: str) -> None:
    started = time.perf_counter()
    said: dict[str, float] = {}
    for part in sorted(Path(inputs).iterdir()):
        (Path(out) / part.name).mkdir()
        for name, value in ENGINES[engine](part, Path(out) / part.name).items():
            said[name] = said.get(name, 0) + value
    if engine == "spark":
        stop_spark()
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "figures": said}))


def measured(command: list[str], most_mb: float, most_seconds: float, out: Path) -> dict[str, Any]:
    """Run a command to its end or to a limit; what it said, its peak memory and disk space in `out`."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    started, peak, disk, why = time.perf_counter(), 0.0, 0.0, ""
    while process.poll() is None and not why:
        peak = max(peak, resident_mb(process.pid))
        disk = max(disk, bytes_below(out) / 1e6)
        if peak > most_mb:
            why = f"took more than {most_mb:,.0f} MB"
        elif time.perf_counter() - started > most_seconds:
            why = f"took more than {most_seconds:,.0f} s"
        time.sleep(0.5)
    if why:
        os.killpg(process.pid, signal.SIGKILL)
    said = process.communicate()[0]
    if not why and process.returncode:
        why = f"ended with {process.returncode}"
    figures = {} if why else json.loads(said.splitlines()[-1])
    return {"peak_mb": peak, "disk_mb": disk, "why": why, **figures}


def resident_mb(root: int) -> float:
    """Memory of a process and all below it; what processes share, as after a fork, is counted once."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(stat[1]), []).append(int(folder.name))
    below, total = [root], 0
    while below:
        one = below.pop()
        below.extend(children.get(one, ()))
        with contextlib.suppress(OSError):
            found = Path(f"/proc/{one}/smaps_rollup").read_text()
            total += next((int(line.split()[1]) for line in found.splitlines() if line.startswith("Pss:")), 0)
    return total * 1024 / 1e6


def bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def assert_same(figures: dict[str, dict[str, float]]) -> None:
    """Every engine came to the same."""
    first, *others = figures.values()
    for other in others:
        for name, value in first.items():
            assert math.isclose(other[name], value, rel_tol=_RELATIVE), figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", default="1,2,10", help="of visits")
    parser.add_argument("--at-once", type=float, default=2, help="millions of visits worked on in one plan")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--days", type=int, default=30, help="simulated, then multiplied")
    parser.add_argument("--base", help="a folder to keep the simulated records in, or with them")
    parser.add_argument("--out", help="where scratch files go (default: the system's folder)")
    parser.add_argument("--most-mb", type=float, default=8_000)
    parser.add_argument("--most-seconds", type=float, default=900)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.out) as name:
        folder = Path(options.base or name)
        folder.mkdir(exist_ok=True)
        if not (folder / "rows.json").exists():
            (folder / "rows.json").write_text(json.dumps(base_of(folder, options.days)))
        rows = json.loads((folder / "rows.json").read_text())
        for millions in map(float, options.millions.split(",")):
            times = math.ceil(millions * 1e6 / rows["raw_er_visits"])
            inputs = Path(name) / "inputs"
            parts = math.ceil(millions / options.at_once)
            link(folder / "base", inputs, times, parts)
            print(
                f"{times * rows['raw_er_visits']:,} visits and {times * rows['raw_vitals']:,} "
                f"vital-sign sets, {bytes_below(inputs) / 1e6:,.0f} MB of Parquet, in {parts} part(s)",
                flush=True,
            )
            figures = {}
            for engine in options.engines.split(","):
                out = Path(name) / engine
                out.mkdir()
                command = [sys.executable, __file__, "--child", engine, str(inputs), str(out)]
                before = os.times()
                said = measured(command, options.most_mb, options.most_seconds, out)
                after = os.times()
                cpu = after[2] + after[3] - before[2] - before[3]
                written = bytes_below(out) / 1e6
                shutil.rmtree(out)
                if said["why"]:
                    print(f"  {engine:7} {said['why']}", flush=True)
                    continue
                beside = {k: v for k, v in said["figures"].items() if k.endswith((" seconds", " MB"))}
                figures[engine] = {k: v for k, v in said["figures"].items() if k not in beside}
                more = "".join(f", {name} {value:,.1f}" for name, value in beside.items())
                print(
                    f"  {engine:8} {said['seconds']:7.1f} s, "
                    f"CPU {cpu:7.1f} s, peak {said['peak_mb']:6,.0f} MB, "
                    f"{written:7,.0f} MB written, at most {said['disk_mb']:7,.0f} MB on disk{more}",
                    flush=True,
                )
            shutil.rmtree(inputs)
            if figures:
                assert_same(figures)
                print(f"  the same on each: {next(iter(figures.values()))}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        main()
