"""How long a landed vitals file takes to its KPIs, with `hospital dev` or `hospital watch` running.

    python benchmarks/latency.py [--watch] [--files 20] [--days 10] [--scale 1.0] [--pause 3]

Simulates and builds a network, starts one of the two, and renames files with new observation sets into the landing
folder, each when the one before has been loaded. What counts is the moment at which the file counts as loaded, its KPIs
committed and checked; with `--watch` also the one at which the alert of a critical reading in it stands in the outbox.
All sets must be there in the end, each once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from datetime import time as clock_time
from pathlib import Path

PORT = 3397
HOSPITAL = str(Path(sys.executable).with_name("hospital"))
#: Observation sets of a landed file.
SETS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--days", default="10")
    parser.add_argument("--scale", default="1.0")
    parser.add_argument("--pause", type=float, default=3.0)
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
            print(f"alert raised: median {statistics.median(alerts):.2f} s, most {max(alerts):.2f} s")
        else:
            loads = sensed(data, options.files, options.pause)
        print(f"KPIs committed: median {statistics.median(loads):.2f} s, most {max(loads):.2f} s")


def sensed(data: Path, files: int, pause: float) -> list[float]:
    """Land files while `hospital dev` runs; seconds until each was loaded."""
    with running(data, "dev", "--port", str(PORT)):
        wait_until_up()
        return [loads for _, loads in _taken_up(data, files, pause, is_watched=False)]


def watched(data: Path, files: int, pause: float) -> tuple[list[float], list[float]]:
    """Land files while `hospital watch` runs; seconds until the alert of each was raised, and until it was loaded."""
    stand_still(data)
    with running(data, "watch"):
        time.sleep(10)  # it starts, and judges what it finds
        taken = _taken_up(data, files, pause, is_watched=True)
    return [alert for alert, _ in taken], [loads for _, loads in taken]


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


def wait_until_idle(data: Path) -> None:
    """Wait until no run is under way, as of publishing: what is measured is a file's way, not its wait for others."""
    from dagster import RunsFilter

    from hospital_assets.automation.instance import UNFINISHED, dagster_instance
    from hospital_assets.settings import load_settings

    with dagster_instance(load_settings(data)) as instance:
        while instance.get_runs_count(RunsFilter(statuses=UNFINISHED)):
            time.sleep(0.5)


def stand_still(data: Path) -> None:
    """Stop the hospital's clock in its last evening, so that what lands there is news."""
    from hospital_assets.clock import SimulatedClock, write_simulated_clock
    from hospital_assets.settings import load_settings

    settings = load_settings(data)
    evening = datetime.combine(settings.last_service_date, clock_time(23, 59), UTC)
    write_simulated_clock(settings, SimulatedClock(0.0, evening.timestamp(), 0.0))


@dataclass(frozen=True)
class Landed:
    """A file that was renamed into the landing folder.

    Attributes:
        moment: when, in seconds of the epoch.
        critical: the visit, which nothing else knows, of its last set, whose reading is critical.
        sets: of visits that are known.
    """

    source_file: str
    moment: float
    critical: str
    sets: list[str]


def land(data: Path) -> Landed:
    """Land a file with new sets of the last day: what landed days late is history, and raises no alert."""
    from hospital_assets.settings import load_settings

    folder = data / "landing" / "native" / "vitals"
    last_day = str(load_settings(data).last_service_date)
    records = []
    for line in max(folder.glob("vitals_*.json")).read_text().splitlines():
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    records = [record for record in records if record["measured_at"][:10] == last_day][:SETS]
    name = f"landed_{time.time_ns()}"
    for place, record in enumerate(records):
        record["observation_id"] = f"{name}-{place}"
    records[-1]["visit_id"] = name
    records[-1]["vitals"]["spo2"] = {"value": 80, "unit": "%"}
    temporary = folder / f".{name}.tmp"
    temporary.write_text("".join(json.dumps(record) + "\n" for record in records))
    moment = time.time()
    os.utime(temporary, (moment, moment))
    temporary.replace(folder / f"{name}.json")
    return Landed(f"native/vitals/{name}.json", moment, name, [record["observation_id"] for record in records[:-1]])


def _taken_up(data: Path, files: int, pause: float, *, is_watched: bool) -> list[tuple[float, float]]:
    """Seconds from the landing of each file until its alert (0 where nobody watches) and until it was loaded."""
    from hospital_assets.warehouse.database import open_warehouse

    landed, taken = [], []
    for _ in range(files):
        time.sleep(pause)
        if not is_watched:
            wait_until_idle(data)
        landed.append(land(data))
        taken.append(_awaited(data, landed[-1], is_watched=is_watched))
    sets = [observation for one in landed for observation in one.sets]
    with open_warehouse(data / "warehouse" / "hospital.duckdb") as warehouse:
        stored = warehouse.connection.execute(
            "select count(*), count(distinct observation_id) from facts.fact_vitals "
            "where list_contains(?, observation_id)",
            [sets],
        ).fetchall()[0]
    assert stored == (len(sets), len(sets)), f"{stored} of {len(sets)} sets are stored"
    return taken


def _awaited(data: Path, landed: Landed, *, is_watched: bool) -> tuple[float, float]:
    from hospital_assets.warehouse.loads import read_at_once

    ledger = data / "warehouse" / "landed_files.parquet"
    alert, loaded = None if is_watched else 0.0, None
    with contextlib.closing(sqlite3.connect(data / "alerts" / "outbox.sqlite", timeout=30)) as outbox:
        while alert is None or loaded is None:
            assert time.time() < landed.moment + 120, "it never arrived"
            time.sleep(0.01)
            asked = "select 1 from alerts where subject = ?"
            if alert is None and outbox.execute(asked, [landed.critical]).fetchall():
                alert = time.time() - landed.moment
            if loaded is None and ledger.stat().st_mtime > landed.moment:
                done = read_at_once(ledger).filter("is_loaded")["source_file"]
                loaded = time.time() - landed.moment if landed.source_file in done else None
    return alert, loaded


if __name__ == "__main__":
    main()
