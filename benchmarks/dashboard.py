"""How fast the dashboard answers with ten million visits, and how much memory it takes.

    python benchmarks/dashboard.py --data DIR [--visits 10_000_000] [--slices 300] [--audience admin]
    python benchmarks/dashboard.py --data DIR --live [--files 20]

Takes the newest publication of a data directory and repeats its whole weeks over the years until it holds that
many visits: visits, patients (with keys of their own) and every table by day or month grow with them, counts
of whole-period tables are multiplied, rows stand in the order in which publications are written. Vital signs
and locations of stays stay as they are: no page reads them. Then starts `hospital dashboard` over it, and
reports the first page after the start, how long random slices of each page take (never the same one twice, so
nothing comes from memory), and the server's memory. `--keep FOLDER` keeps what was repeated for the next time.

With `--live`: copies the data directory, lets its clock go on from its last afternoon, starts `hospital watch`
and the dashboard, renames files with a new visit each into the landing folder, and reports how long each
takes from the rename to the event that shows it on the live board.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import duckdb
import requests

PORT = 8397


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--visits", type=int, default=10_000_000)
    parser.add_argument("--slices", type=int, default=300, help="of each page")
    parser.add_argument("--audience", default="admin")
    parser.add_argument("--keep", type=Path, help="where to keep, or find, what was repeated")
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--files", type=int, default=20)
    options = parser.parse_args()
    if options.live:
        with tempfile.TemporaryDirectory(prefix="hospital-live-") as folder:
            live(options.data, Path(folder) / "data", options.files)
        return
    with tempfile.TemporaryDirectory(prefix="hospital-dashboard-") as folder:
        target = (options.keep or Path(folder)) / "data"
        if not target.exists():
            visits, days = repeat(options.data, target, options.audience, options.visits)
            print(f"{visits:,} visits over {days:,} days")
        measure(target, options.audience, options.slices)


#: Columns that say when; the first that a table has.
TIMES = ("service_date", "period_date", "calendar_date", "period_month")
#: Large, and read by no page.
UNREAD = ("fact_vitals", "fact_patient_flow", "dim_person", "kpi_trends", "kpi_waits_rolling")


def repeat(source: Path, target: Path, audience: str, wanted: int) -> tuple[int, int]:
    """Write a data directory with a publication that is the source's, many times over."""
    current = json.loads((source / "published" / audience / "current.json").read_text())
    version = source / "published" / audience / current["version"]
    folder = target / "published" / audience / current["version"]
    folder.mkdir(parents=True)
    shutil.copyfile(version / "manifest.json", folder / "manifest.json")
    shutil.copyfile(source / "hospital.toml", target / "hospital.toml")
    (target / "warehouse").mkdir()
    (folder.parent / "current.json").write_text(json.dumps(current))
    with duckdb.connect(str(folder / "publication.duckdb")) as connection:
        connection.execute("set memory_limit = '6GB'")
        connection.execute(f"attach '{version / 'publication.duckdb'}' as s (read_only)")
        counted = "facts.fact_emergency_visits" if audience != "executive" else "kpis.kpi_arrivals_hourly"
        amount = "count(*)" if audience != "executive" else "sum(arrivals_count)"
        ((first, last),) = connection.execute(
            f"select min(service_date), max(service_date) from s.{counted}"
        ).fetchall()
        # Whole weeks, so that weekdays stay what they are.
        weeks = ((last - first).days + 1) // 7
        before = first + timedelta(days=7 * weeks)
        ((have,),) = connection.execute(f"select {amount} from s.{counted} where service_date < ?", [before]).fetchall()
        times = -(-wanted // int(have))
        for schema, table in connection.execute(
            "select schema_name, table_name from duckdb_tables() where database_name = 's'"
        ).fetchall():
            connection.execute(f"create schema if not exists {schema}")
            columns = dict(
                connection.execute(
                    "select column_name, data_type from duckdb_columns() where database_name = 's' "
                    "and schema_name = ? and table_name = ? order by column_index",
                    [schema, table],
                ).fetchall()
            )
            copy_repeated(connection, f"{schema}.{table}", columns, times, weeks, before)
        connection.execute("detach s")
        ((visits, days),) = connection.execute(
            f"select {amount}, max(service_date) - min(service_date) + 1 from {counted}"
        ).fetchall()
    return int(visits), int(days)


def copy_repeated(
    connection: duckdb.DuckDBPyConnection, table: str, columns: dict[str, str], times: int, weeks: int, before: date
) -> None:
    """One table, in the order of publications: by hospital, then by time."""
    name = table.partition(".")[2]
    when = next((column for column in TIMES if column in columns), None)
    if name in UNREAD or (when is None and not table.startswith("kpis.") and name != "dim_patient"):
        connection.execute(f"create table {table} as from s.{table}")
        return
    if when is None and name != "dim_patient":
        counts = ", ".join(f"{c} * {times} as {c}" for c in columns if c.endswith("_count"))
        connection.execute(f"create table {table} as select * replace ({counts}) from s.{table}")
        return
    changes = []
    for column, kind in columns.items():
        if column == "period_month":
            # A year of weeks is twelve months.
            changes.append(f"({column} + to_months($i * {round(weeks * 12 / 52)}))::date as {column}")
        elif column == "patient_key":
            changes.append(f"if({column} > 0, {column} + $i * 10_000_000_000, {column}) as {column}")
        elif kind in ("DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE") and name != "dim_patient":
            changes.append(f"({column} + to_days($i * {7 * weeks}))::{kind} as {column}")
    condition = f"and {when} < date '{before}'" if when not in (None, "period_month") else ""
    special = "and patient_key > 0" if name == "dim_patient" else ""
    hospital = next((c for c in ("hospital_key", "hospital_id") if c in columns), None)
    connection.execute(f"create table {table} as from s.{table} limit 0")
    groups = (
        connection.execute(f"select distinct {hospital} from s.{table} order by 1").fetchall()
        if hospital
        else [(None,)]
    )
    of = f"and {hospital} = $group" if hospital else ""
    for (group,) in groups:
        for i in range(times):
            connection.execute(
                f"insert into {table} select * replace ({', '.join(changes)}) from s.{table} "
                f"where true {of} {condition} {special if i else ''}",
                {"i": i} | ({"group": group} if hospital else {}),
            )


def measure(data: Path, audience: str, slices: int) -> list[tuple[float, float]]:
    """Milliseconds, elapsed and of processor time, of slices of each page."""
    command = [
        str(Path(sys.executable).with_name("hospital")),
        "--data-dir",
        str(data),
        "dashboard",
        "--port",
        str(PORT),
        "--audience",
        audience,
    ]
    started = time.perf_counter()
    keys = {**os.environ, "XDG_CONFIG_HOME": str(data.parent / "keys")}
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=keys)
    address = f"http://127.0.0.1:{PORT}"
    session = requests.Session()
    try:
        while True:
            try:
                session.get(f"{address}/healthz", timeout=1)
                break
            except requests.ConnectionError:
                assert server.poll() is None, "the server has ended"
                time.sleep(0.02)
        print(f"started in {time.perf_counter() - started:.2f} s")
        begun = time.perf_counter()
        page = session.get(f"{address}/overview", timeout=120)
        assert page.status_code == 200, page.text[:500]
        first = time.perf_counter() - begun
        print(
            f"first page {first:.2f} s, {len(page.content) / 1000:,.0f} kB "
            f"({size_on_wire(session, address) / 1000:,.0f} kB compressed)"
        )
        print(f"{'page':<12}{'median':>9}{'95th':>9}{'worst':>9}  ms;{'median':>9}{'95th':>9}  ms of CPU")
        generator = random.Random(7)  # noqa: S311
        everything: list[tuple[float, float]] = []
        for name in ("overview", "flow", "capacity", "workforce", "conditions", "forecast"):
            taken: list[tuple[float, float]] = []
            for ask in random_slices(generator, page.text, slices):
                before = cpu_seconds(server.pid)
                waited = timed(session, address, name, ask)
                taken.append((waited, 1000 * (cpu_seconds(server.pid) - before)))
            everything += taken
            print_times(name, taken)
        print_times("all", everything)
        print(f"server memory: {memory(server.pid, 'VmRSS')} MB now, {memory(server.pid, 'VmHWM')} MB at most")
        return everything
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=20)


def print_times(name: str, taken: list[tuple[float, float]]) -> None:
    """Wall and CPU. On a machine that has other work, CPU says what the answers cost."""
    wall, cpu = ([pair[i] for pair in taken] for i in (0, 1))
    print(
        f"{name:<12}{statistics.median(wall):>9.0f}{percentile(wall):>9.0f}{max(wall):>9.0f}      "
        f"{statistics.median(cpu):>9.0f}{percentile(cpu):>9.0f}",
        flush=True,
    )


def live(source: Path, data: Path, files: int) -> None:
    from hospital_assets.clock import SimulatedClock, write_simulated_clock
    from hospital_assets.settings import load_settings

    for part in ("landing", "warehouse"):
        shutil.copytree(source / part, data / part, copy_function=shutil.copy2)
    shutil.copyfile(source / "hospital.toml", data / "hospital.toml")
    settings = load_settings(data)
    assert settings.last_service_date is not None
    noon = datetime.combine(settings.last_service_date, datetime.min.time(), UTC) + timedelta(hours=20)
    opened = time.time()
    write_simulated_clock(settings, SimulatedClock(opened, noon.timestamp(), 1.0))
    keys = {**os.environ, "XDG_CONFIG_HOME": str(data.parent / "keys")}
    hospital = [str(Path(sys.executable).with_name("hospital")), "--data-dir", str(data)]
    running = [
        subprocess.Popen([*hospital, *command], stdout=subprocess.DEVNULL, env=keys)
        for command in (["watch"], ["dashboard", "--port", str(PORT)])
    ]
    shown: dict[str, float] = {}
    try:
        stream = None
        while stream is None:
            with contextlib.suppress(requests.ConnectionError):
                stream = requests.get(f"http://127.0.0.1:{PORT}/live/events", stream=True, timeout=600)
            time.sleep(0.1)
        threading.Thread(target=follow, args=(stream, shown), daemon=True).start()
        lock = data / "dagster"
        while not lock.exists():
            time.sleep(0.5)
        time.sleep(20)
        taken = []
        for number in range(files):
            name = f"complaint {number:03d}"
            at = noon + timedelta(seconds=time.time() - opened - 30)
            clock = f"{at.astimezone(ZoneInfo('America/Chicago')):%Y-%m-%d %H:%M:%S}"
            target = data / "landing" / "native" / "er_visits" / f"board-{number}.csv"
            temporary = target.with_name(f".{target.name}.tmp")
            temporary.write_text(
                "visit_id,patient_id,hospital_id,department,arrival_time,triage_time,triage_level,chief_complaint,recorded_at\n"
                f"B{number:07d},P0000001,H1,Emergency,{clock},{clock},1,{name},{clock}\n"
            )
            begun = time.time()
            temporary.replace(target)
            while name not in shown and time.time() - begun < 60:
                time.sleep(0.01)
            taken.append(shown.get(name, begun + 60) - begun)
            print(f"{name}: {taken[-1]:.2f} s", flush=True)
            time.sleep(3)
        print(f"median {statistics.median(taken):.2f} s, worst {max(taken):.2f} s, of {files} files")
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            process.wait(timeout=60)


def follow(stream: requests.Response, shown: dict[str, float]) -> None:
    """Note when each complaint was first on the board, until the server ends."""
    with contextlib.suppress(requests.exceptions.ChunkedEncodingError):
        for line in stream.iter_lines(chunk_size=1):
            if line.startswith(b"data: "):
                for name in re.findall(rb"complaint \d{3}", line):
                    shown.setdefault(name.decode(), time.time())


def random_slices(generator: random.Random, page: str, count: int) -> list[str]:
    """Distinct query strings over what the page offers."""
    first, last = re.findall(r'min="([\d-]+)" max="([\d-]+)"', page)[0]
    offered = {
        name: re.findall(r'<option value="([^"]+)"', page.split(f'name="{name}"')[1].split("</select>")[0])
        for name in ("period", "hospital", "department")
    }
    offered["triage"] = ["all", "1", "2", "3", "4", "5"]
    found: set[str] = set()
    while len(found) < count:
        ask = {name: generator.choice(values) for name, values in offered.items()}
        if ask["period"] == "days":
            ask |= {"from": first, "to": last}
        found.add(urlencode(ask))
    return sorted(found, key=lambda _: generator.random())


def cpu_seconds(pid: int) -> float:
    """What all threads of a process have computed."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def timed(session: requests.Session, address: str, name: str, ask: str) -> float:
    begun = time.perf_counter()
    answer = session.get(f"{address}/{name}?{ask}", headers={"x-fragment": "1"}, timeout=60)
    assert answer.status_code == 200, (name, ask, answer.text[:300])
    return 1000 * (time.perf_counter() - begun)


def size_on_wire(session: requests.Session, address: str) -> int:
    return len(session.get(f"{address}/overview", stream=True, timeout=60).raw.read(decode_content=False))


def percentile(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def memory(pid: int, name: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(name)).split()[1]) // 1024


if __name__ == "__main__":
    main()
