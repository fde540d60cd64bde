"""What the platform costs where users feel it, in one table beside the hand-written script.

    python benchmarks/bench.py [--runs 3] [--into docs/performance.md]

Each line is the median of several runs, each in processes of their own, alternately with the others; processor seconds
are those of the process and its children. The script (`by_hand.sql`) does the work of a build of the same network, and
its median in the same run is the measure of the other lines. A year is built once, and so are the parts of a build.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import build
import dashboard
import latency

HOSPITAL = str(Path(sys.executable).with_name("hospital"))
#: Days of history over which refreshes are measured, and their first: the last of them must be over.
HISTORIES = (8, 90, 365)
START = date(2025, 1, 1)


@dataclass
class Line:
    """A line of the table: what was measured, and each run's wall and processor seconds."""

    what: str
    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def add(self, measured: Callable[[], object]) -> None:
        """Measure once more."""
        began, used = time.perf_counter(), _processor()
        measured()
        self.seconds.append(time.perf_counter() - began)
        self.processor.append(_processor() - used)


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def command(data: Path, *words: str) -> None:
    """Run a command of the platform; what it says is shown where it fails."""
    done = subprocess.run([HOSPITAL, "--data-dir", str(data), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])


def simulated(data: Path, days: int, scale: float) -> Path:
    """A network of so many days, landed and not built."""
    command(data, "simulate", "--clean", "--start", str(START), "--days", str(days), "--scale", str(scale))
    return data


def unbuilt(data: Path) -> None:
    """The directory as before its first build."""
    for made in ("warehouse", "dagster", "reports", "alerts"):
        shutil.rmtree(data / made, ignore_errors=True)


def fixed_costs(folder: Path, runs: int) -> list[Line]:
    """What everybody pays, however little data there is."""
    data = simulated(folder / "small", 2, 0.05)
    helped, defined, built = Line("`hospital --help`"), Line("definitions made"), Line("build of 2 days, 140 visits")
    code = "import sys; from pathlib import Path; from hospital_assets.settings import load_settings; "
    code += (
        "from hospital_assets.definitions import build_definitions; build_definitions(load_settings(Path(sys.argv[1])))"
    )
    for _ in range(runs):
        helped.add(lambda: command(data, "--help"))
        defined.add(lambda: subprocess.run([sys.executable, "-c", code, str(data)], check=True))
        unbuilt(data)
        built.add(lambda: command(data, "build"))
    return [helped, defined, built]


def builds(data: Path, days: int, runs: int) -> tuple[Line, Line]:
    """The script and a build of the same landed files."""
    by_hand, built = Line(f"the hand-written script, {days} days"), Line(f"build of {days} days")
    for run in range(runs):
        file = data.with_name(f"by_hand_{run}.duckdb")
        by_hand.add(lambda file=file: build.measured("hand", data, file))
        file.unlink()
        unbuilt(data)
        built.add(lambda: command(data, "build"))
    return by_hand, built


def unforecast(data: Path, days: int) -> list[Line]:
    """What the script does not make: forecasts and rosters as of each day; and a build of all else, which is built."""
    without, forecasts = Line(f"of it, without forecasts, {days} days"), Line(f"of it, forecasts, {days} days")
    unbuilt(data)
    without.add(lambda: command(data, "build", "--select", "not group:forecasts"))
    forecasts.add(lambda: command(data, "build", "--select", "group:forecasts"))
    return [without, forecasts]


def refreshes(data: Path, days: int, runs: int) -> list[Line]:
    """A landed vitals file, and the last day wholly built again, over a history."""
    file, day = (
        Line(f"refresh of a vitals file, {days} days of history"),
        Line(f"refresh of a day, {days} days of history"),
    )
    last = START + timedelta(days - 1)
    command(data, "refresh")
    for _ in range(runs):
        latency.land(data)
        file.add(lambda: command(data, "refresh"))
        day.add(lambda: command(data, "build", "--partition", last.isoformat()))
    return [file, day]


def landed(data: Path, days: int) -> list[Line]:
    """A landed vitals file until its KPIs stand there, by a sensor; until its alert, too, by `hospital watch`."""
    history = f"{days} days of history"
    sensed = Line(f"sensor: file to KPIs, {history}", latency.sensed(data, 3, 3.0))
    alerts, loads = latency.watched(data, 6, 3.0)
    return [
        sensed,
        Line(f"watcher: file to alert, {history}", alerts),
        Line(f"watcher: file to KPIs, {history}", loads),
    ]


def sliced(data: Path) -> Line:
    """Pages of the dashboard, never the same slice twice."""
    taken = dashboard.measure(data, "admin", 20)
    seconds, processor = ([one[place] / 1000 for one in taken] for place in (0, 1))
    return Line("dashboard: a slice of a page, 90 days", seconds, processor)


def of_checks(data: Path) -> str:
    """What each kind of check costs on all tables of a built directory, as a table in Markdown."""
    from hospital_assets.checks.kinds import KINDS
    from hospital_assets.checks.table_checks import check_table, every_kind
    from hospital_assets.clock import hospital_now
    from hospital_assets.contracts import CONTRACTS
    from hospital_assets.settings import load_settings
    from hospital_assets.warehouse.database import open_warehouse

    settings = load_settings(data)
    kinds_of = every_kind()
    costs: list[tuple[float, str]] = []
    with open_warehouse(settings.warehouse_file) as warehouse:
        frames = {name: warehouse.read(contract) for name, contract in CONTRACTS.items() if warehouse.exists(contract)}
        as_of = hospital_now(settings)
        for kinds in (*((kind,) for kind in KINDS), KINDS):
            tables = [name for name in frames if set(kinds_of[name]) & set(kinds)]
            began = time.process_time()
            for name in tables:
                check_table(CONTRACTS[name], frames, as_of, kinds=kinds)
            name = f"`{kinds[0].name}`" if len(kinds) == 1 else "**all of them together, in one pass a table**"
            costs.append((time.process_time() - began, f"{name} | {len(tables)}"))
    rows = [f"| {what} | {seconds:.2f} |" for seconds, what in sorted(costs, reverse=True)]
    return "\n".join(["| kind of check | tables | processor seconds |", "|---|---:|---:|", *rows])


def told(lines: Sequence[Line]) -> list[Line]:
    """The lines, once they have been said: all of them take the better part of an hour."""
    for line in lines:
        used = f", {statistics.median(line.processor):.2f} of processors" if line.processor else ""
        print(f"{line.what}: {statistics.median(line.seconds):.2f} s{used}", flush=True)
    return list(lines)


def table(lines: list[Line], measure: Line) -> str:
    """The table in Markdown."""
    unit = statistics.median(measure.processor)
    rows = ["| | seconds | processor seconds | of the script |", "|---|---:|---:|---:|"]
    for line in lines:
        seconds = f"{statistics.median(line.seconds):.2f}"
        processor = statistics.median(line.processor) if line.processor else None
        rows.append(
            f"| {line.what} | {seconds} | "
            + (f"{processor:.2f} | {processor / unit:.2f} |" if processor is not None else " | |")
        )
    return "\n".join(rows)


PAGE = """# How fast it is

Written by `make bench` on {when} ({machine}, {cores} cores, load {load:.1f} when it ended). Medians of {runs} runs
(a year, and the parts of a build, once), each in processes of their own; the script is
[`by_hand.sql`](../benchmarks/by_hand.sql), which does a build's work without checks, history, alerts or forecasts.
Processor seconds say most: seconds depend on what else the machine does.
What a million visits cost stands in [scale.md](scale.md), the dashboard's pages in [dashboard.md](dashboard.md),
publications in [governance.md](governance.md).

{table}

What each [kind of check](checks.md) costs by itself on all tables of the 90 days, measured once:

{checks}
"""


def main() -> None:
    """Measure, print the table, and write it down where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--into", type=Path, help="a Markdown page to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Nobody's keys are used, and none is left behind.
        os.environ["XDG_CONFIG_HOME"] = str(folder / "keys")
        lines = told(fixed_costs(folder, options.runs))
        demo = simulated(folder / "demo", 90, 1.0)
        by_hand, built = builds(demo, 90, options.runs)
        lines += told([by_hand, built, *unforecast(demo, 90)])
        checks = of_checks(demo)
        published = Line("publish to every role, 90 days")
        command(demo, "key", "create")
        published.add(lambda: command(demo, "publish"))
        lines += told([published, sliced(demo)])
        for days in HISTORIES:
            data = demo if days == 90 else simulated(folder / f"history-{days}", days, 1.0)
            if days == 8:
                command(data, "build")
            elif days == 365:
                lines += told(builds(data, days, 1))
            lines += told(refreshes(data, days, options.runs))
            lines += told(landed(data, days))
    found = table(lines, by_hand)
    print(found, checks, sep="\n\n")
    if options.into:
        page = PAGE.format(
            when=datetime.now(UTC).date(),
            machine=platform.machine(),
            cores=os.cpu_count(),
            load=os.getloadavg()[0],
            runs=options.runs,
            table=found,
            checks=checks,
        )
        options.into.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
