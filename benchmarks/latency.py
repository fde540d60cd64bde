"""How long a landed vitals file takes to reach `fact_vitals`, with `hospital dev` or `watch` running.

    python benchmarks/latency.py [--watch] [--files 20] [--days 10] [--scale 1.0] [--pause 12]

Simulates and builds a network, starts `hospital dev`, renames files with new observation sets into
the landing folder, one every `--pause` seconds, and reports for each how long it took until the run
that stored its rows had ended, and how much of that was the wait for the sensor, the start of the
run's process, and the run's own work. All rows must be there in the end, each once.

With `--watch` it is `hospital watch` that runs, one reading of each file is critical, and what counts is
the moment at which the alert stands in the outbox, and at which the file counts as loaded.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

PORT = 3397
HOSPITAL = str(Path(sys.executable).with_name("hospital"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--days", default="10")
    parser.add_argument("--scale", default="1.0")
    parser.add_argument("--pause", type=float, default=12.0)
    parser.add_argument("--data", type=Path, help="a data directory that is already built")
    parser.add_argument("--watch", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or Path(folder) / "data"
        if options.data is None:
            for command in (["simulate", "--clean", "--days", options.days, "--scale", options.scale], ["build"]):
                subprocess.run([HOSPITAL, "--data-dir", str(data), *command], check=True, stdout=subprocess.DEVNULL)
        if options.watch:
            alerts, loads = watched(data, options.files, options.pause)
            for what, found in (("alert raised", alerts), ("KPIs committed", loads)):
                print(f"{what:15} median {statistics.median(found):.2f} s, most {max(found):.2f} s")
        else:
            sensed(data, options.files, options.pause)


@contextlib.contextmanager
def running(data: Path, *command: str) -> Iterator[None]:
    """A command of the platform that goes on until it is ended, with all that it started."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([HOSPITAL, "--data-dir", str(data), *command], start_new_session=True, **quiet)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def sensed(data: Path, files: int, pause: float) -> list[float]:
    """Rename files into the landing folder while `hospital dev` runs; seconds until the run of each has ended."""
    with running(data, "dev", "--port", str(PORT)):
        wait_until_up()
        return report(data, land(data, files, pause))


def wait_until_up() -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/server_info", timeout=1).close()
            time.sleep(15)  # the daemon's first look, so that its start is not measured
        except OSError:
            assert time.monotonic() < deadline, "hospital dev did not come up"
            time.sleep(0.5)
        else:
            return


def stand_still(data: Path) -> None:
    """Stop the hospital's clock in its last evening, so that what lands there is news."""
    from datetime import UTC, datetime
    from datetime import time as clock_time

    from hospital_assets.clock import SimulatedClock, write_simulated_clock
    from hospital_assets.settings import load_settings

    settings = load_settings(data)
    evening = datetime.combine(settings.last_service_date, clock_time(23, 59), UTC)
    write_simulated_clock(settings, SimulatedClock(0.0, evening.timestamp(), 0.0))


def watched(data: Path, files: int, pause: float) -> tuple[list[float], list[float]]:
    """Rename files into the landing folder while `hospital watch` runs.

    Returns:
        seconds until the alert of each stood in the outbox, and until each was loaded and its KPIs committed.
    """
    stand_still(data)
    with running(data, "watch"):
        return _watched(data, files, pause)


def _watched(data: Path, files: int, pause: float) -> tuple[list[float], list[float]]:
    import sqlite3

    import polars as pl

    from hospital_assets.settings import load_settings

    folder = data / "landing" / "native" / "vitals"
    # A reading of the last day: one that landed days late is history, and history raises no alert.
    records = []
    for line in sorted(folder.glob("vitals_*.json"))[-1].read_text().splitlines():
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    last_day = str(load_settings(data).last_service_date)
    template = next(r for r in records if r["measured_at"][:10] == last_day)
    time.sleep(10)  # it starts, and judges what it finds
    outbox = sqlite3.connect(data / "alerts" / "outbox.sqlite", timeout=30)
    copy = data / "warehouse" / "landed_files.parquet"
    alerts, loads = [], []
    for number in range(files):
        visit = f"WATCH-{int(time.time())}-{number}"
        template["observation_id"] = template["visit_id"] = visit
        template["vitals"]["spo2"] = {"value": 80, "unit": "%"}
        name = f"watch_{visit}.json"
        temporary = folder / f".{name}.tmp"
        temporary.write_text(json.dumps(template) + "\n")
        moment = time.time()
        os.utime(temporary, (moment, moment))
        temporary.replace(folder / name)
        alert = load = None
        while alert is None or load is None:
            assert time.time() < moment + 60, "it never arrived"
            time.sleep(0.01)
            if alert is None and outbox.execute("select 1 from alerts where subject = ?", [visit]).fetchall():
                alert = time.time() - moment
            if load is None and copy.stat().st_mtime > moment:
                done = pl.read_parquet(copy).filter("is_loaded")["source_file"].to_list()
                load = time.time() - moment if f"native/vitals/{name}" in done else None
        alerts.append(alert)
        loads.append(load)
        time.sleep(pause)
    return alerts, loads


def land(data: Path, files: int, pause: float) -> list[tuple[str, float, list[str]]]:
    """Rename files into the landing folder; returns name, moment and observation ids of each."""
    folder = data / "landing" / "native" / "vitals"
    template = sorted(folder.glob("*.json"))[-1].read_text().splitlines()[:20]
    landed = []
    run = int(time.time())
    for number in range(files):
        lines, ids = [], []
        for place, line in enumerate(template):
            record = json.loads(line)
            record["observation_id"] = f"LATE-{run}-{number}-{place}"
            ids.append(record["observation_id"])
            lines.append(json.dumps(record))
        name = f"late_{run}_{number:03d}.json"
        temporary = folder / f".{name}.tmp"
        temporary.write_text("\n".join(lines) + "\n")
        moment = time.time()
        os.utime(temporary, (moment, moment))
        temporary.replace(folder / name)
        landed.append((f"native/vitals/{name}", moment, ids))
        time.sleep(pause)
    return landed


def report(data: Path, landed: list[tuple[str, float, list[str]]]) -> list[float]:
    import polars as pl
    from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus, RunsFilter

    from hospital_assets.warehouse.database import open_warehouse

    file = data / "warehouse" / "hospital.duckdb"
    os.environ["DAGSTER_HOME"] = str(data / "dagster")
    with DagsterInstance.from_config(str(data / "dagster")) as instance:
        deadline = time.monotonic() + 60
        busy = [DagsterRunStatus.QUEUED, DagsterRunStatus.STARTING, DagsterRunStatus.STARTED]
        names = {name for name, *_ in landed}
        while True:
            ledger = pl.read_parquet(file.with_name("landed_files.parquet"))
            done = set(ledger.filter("is_loaded")["source_file"].to_list())
            if names <= done and not instance.get_runs(RunsFilter(statuses=busy)):
                break
            assert time.monotonic() < deadline, f"{len(names - done)} files never arrived"
            time.sleep(0.5)
        runs = {
            record.dagster_run.run_id: record
            for record in instance.get_run_records(RunsFilter(job_name="refresh_vitals"))
        }
        work = {}
        for run_id in runs:
            steps = instance.all_logs(run_id, of_type={DagsterEventType.STEP_START})
            ends = instance.all_logs(run_id, of_type={DagsterEventType.STEP_SUCCESS})
            if steps and ends:
                work[run_id] = ends[-1].timestamp - steps[0].timestamp
    with open_warehouse(file) as warehouse:
        ids = [i for *_, found in landed for i in found]
        stored = warehouse.connection.execute(
            "select count(*), count(distinct observation_id) from facts.fact_vitals "
            "where list_contains(?, observation_id)",
            [ids],
        ).fetchall()[0]
    assert stored == (len(ids), len(ids)), f"{stored} of {len(ids)} sets are stored"
    totals, parts = [], []
    # A later run over the same day notes itself as the loader, so runs are matched by time.
    ordered = sorted(
        (r for r in runs.values() if r.end_time and r.dagster_run.run_id in work), key=lambda r: r.end_time
    )
    for _name, moment, _ in landed:
        run = next(r for r in ordered if r.create_timestamp.timestamp() >= moment)
        created = run.create_timestamp.timestamp()
        totals.append(run.end_time - moment)
        parts.append((created - moment, run.start_time - created, work[run.dagster_run.run_id]))
    print("seconds:", ", ".join(f"{total:.1f}" for total in totals))
    print(f"median {statistics.median(totals):.1f} s, most {max(totals):.1f} s")
    for place, what in enumerate(("until asked for", "until the run starts", "the run's steps")):
        values = [part[place] for part in parts]
        print(f"  {what:22} median {statistics.median(values):.2f} s, most {max(values):.2f} s")
    return totals


if __name__ == "__main__":
    main()
