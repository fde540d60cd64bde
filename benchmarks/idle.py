"""What `hospital dev` costs while nothing happens, beside one whose sensors and schedules are stopped.

    python benchmarks/idle.py --data DIR --seconds 180

CPU of each process with all its children, as the system counts it, over the same span of both at once; and the lines
that they print. DIR is copied, so that stopping sensors does not reach it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from soak import free_port

#: What a process is, by a word of its command line.
NAMES = {
    "code-server": "code server",
    "dagster_webserver": "webserver",
    "dagster._daemon": "daemon",
    "dashboard": "dashboard",
    "dev": "hospital dev",
}
TICKS = os.sysconf("SC_CLK_TCK")
INSTIGATORS = """{ repositoriesOrError { ... on RepositoryConnection { nodes {
    sensors { sensorState { id selectorId status } } schedules { scheduleState { id selectorId status } } } } } }"""

UNFINISHED = """{ runsOrError(filter: {statuses: [QUEUED, NOT_STARTED, STARTING, STARTED, CANCELING]}) {
    ... on Runs { results { id } } } }"""


def cpu_seconds(root: int) -> dict[str, float]:
    """CPU of a process and its descendants, those that have ended included, by what each is."""
    processes: dict[int, tuple[int, float]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        processes[int(stat.parent.name)] = int(fields[1]), sum(map(int, fields[11:15])) / TICKS
    found: dict[str, float] = {}

    def add(process: int, name: str) -> None:
        words = Path(f"/proc/{process}/cmdline").read_text().split("\0")
        name = name if name != "hospital dev" else next((NAMES[word] for word in words if word in NAMES), "other")
        found[name] = found.get(name, 0.0) + processes[process][1]
        for child, (parent, _) in processes.items():
            if parent == process:
                add(child, name)

    add(root, "hospital dev")
    return found


def ask(port: int, query: str) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  (this machine)
        return dict(json.load(answer)["data"])


def stop_all(port: int) -> int:
    """Stop every sensor and schedule; returns how many were."""
    (repository,) = ask(port, INSTIGATORS)["repositoriesOrError"]["nodes"]
    kinds = {"sensors": ("sensorState", "stopSensor"), "schedules": ("scheduleState", "stopRunningSchedule")}
    stopped = 0
    for kind, (state, mutation) in kinds.items():
        for found in repository[kind]:
            if found[state]["status"] == "RUNNING":
                ask(port, f'mutation {{ {mutation}(id: "{found[state]["id"]}") {{ __typename }} }}')
                stopped += 1
    return stopped


@contextlib.contextmanager
def at_work(data: Path, *, with_sensors: bool) -> Iterator[tuple[int, int, list[str]]]:
    """`hospital dev` on a copy of a directory: its process, its port, and the lines that it prints."""
    port, lines = free_port(), list[str]()
    with tempfile.TemporaryDirectory(prefix="idle-", ignore_cleanup_errors=True) as folder:
        copied = Path(folder) / "data"
        shutil.copytree(data, copied, ignore=shutil.ignore_patterns("*.lock"))
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "hospital_assets.cli", "--data-dir", str(copied), "dev"),
                *("--port", str(port), "--dashboard-port", str(free_port())),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True).start()
        try:
            while not any("ready:" in line for line in lines):
                assert process.poll() is None, "".join(lines)
                time.sleep(0.5)
            if not with_sensors:
                assert stop_all(port)
            yield process.pid, port, lines
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seconds", type=int, default=180)
    parser.add_argument("--warm-up", type=int, default=60)
    options = parser.parse_args()
    with at_work(options.data, with_sensors=True) as sensing, at_work(options.data, with_sensors=False) as still:
        variants = {"with sensors": sensing, "without": still}
        time.sleep(options.warm_up)
        for _, port, _ in variants.values():
            # What a directory has left to do, such as publishing, is no idleness.
            while ask(port, UNFINISHED)["runsOrError"]["results"]:
                time.sleep(options.warm_up)
        # What machines do beside, or how fast they are just now, is the same for both.
        before = {name: (cpu_seconds(process), len(lines)) for name, (process, _, lines) in variants.items()}
        time.sleep(options.seconds)
        after = {name: (cpu_seconds(process), len(lines)) for name, (process, _, lines) in variants.items()}
    names = [*NAMES.values(), "other"]
    print("variant".ljust(18), *(name.rjust(14) for name in names), "all".rjust(8), "lines/s".rjust(9), sep="")
    for variant in variants:
        (cpu, said), (cpu_now, said_now) = before[variant], after[variant]
        used = {name: (cpu_now[name] - cpu.get(name, 0.0)) / options.seconds for name in cpu_now}
        shares = "".join(f"{used.get(name, 0.0):14.1%}" for name in names)
        rate = (said_now - said) / options.seconds
        print(variant.ljust(18), shares, f"{sum(used.values()):8.1%}{rate:9.2f}", sep="")


if __name__ == "__main__":
    main()
