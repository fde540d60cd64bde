"""Whether anything grows, falls behind or fails when everything is at work for a day.

    python benchmarks/soak.py [--minutes 24] [--scale 0.3] [--speed 60] [--users 20] [--keep FOLDER]

Simulates two days of a network and builds them, and then, as long as asked for: lets the network go on at
`--speed` times the pace of the clock, runs every service of an installation by its own command (Dagster's
three processes, the dashboard, the watcher, the HL7 listener), sends HL7 messages of the simulated time, and has
users who signed in look at random slices of random pages. Dagster's schedules go by the wall clock, so each of
their jobs is asked for when it would be due by the simulated one.

Every half minute it notes of each service the memory, open files and CPU seconds of its whole process tree (the
processes of runs apart), and of the directory how large it is, what waits, how long, and what failed. At the
end: the first third of the time beside the last, the runs that failed, and the lines of the logs that are
errors, without names of files, people or numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import requests
from dashboard import random_slices
from hl7 import STEP, message

from hospital_assets.clock import hospital_now
from hospital_assets.operations.services import SERVICES
from hospital_assets.settings import load_settings

HOSPITAL = str(Path(sys.executable).with_name("hospital"))
EVERY_SECONDS = 30
PAGES = ("overview", "flow", "capacity", "workforce", "conditions", "forecast", "live")
#: Job -> minute and hours (UTC) at which its schedule is due.
DUE = {
    "standing_checks": (7, range(24)),
    "quality_page": (0, [6]),
    "overview_page": (10, [6]),
    "daily_batch": (30, [12]),
}
#: A visit in as many simulated minutes comes by HL7, ten messages each.
VISIT_EVERY = timedelta(minutes=4)
PASSWORD = secrets.token_urlsafe(16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=24.0)
    parser.add_argument("--scale", default="0.3")
    parser.add_argument("--speed", default="60")
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--keep", type=Path, help="where data, logs and samples stay; otherwise they are removed")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        soak = Soak(options.keep or Path(folder))
        soak.prepare(options.scale, options.speed, options.users)
        try:
            soak.start(options.users)
            soak.watch(options.minutes * 60)
        finally:
            soak.end()
        soak.report()


class Soak:
    """A data directory, the services at work on it, and what was noted of them."""

    def __init__(self, folder: Path) -> None:
        self.data, self.logs = folder / "data", folder / "logs"
        self.logs.mkdir(parents=True)
        self.environment = {
            **os.environ,
            "HOSPITAL_DATA_DIR": str(self.data),
            "XDG_CONFIG_HOME": str(folder / "keys"),
            "HOSPITAL_CODE_SOCKET": tempfile.mkdtemp(prefix="soak-") + "/code.sock",
            "HOSPITAL_LOG_FORMAT": "json",
        }
        self.ports = {name: free_port() for name in ("dashboard", "webserver", "hl7")}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.is_over = threading.Event()
        self.samples: list[dict[str, float]] = []
        self.answers: Counter[str] = Counter()
        self.waits: list[float] = []

    def hospital(self, *command: str, text: str = "") -> None:
        """A command that ends."""
        with (self.logs / "prepare.log").open("ab") as log:
            given = {"env": self.environment, "stdout": log, "stderr": log, "input": text.encode()}
            # 1: a check failed, as it should of dirty data.
            assert subprocess.run([HOSPITAL, *command], **given).returncode in (0, 1), command

    def launch(self, name: str, *command: str) -> None:
        """A command that lasts."""
        log = (self.logs / f"{name}.log").open("ab")
        self.running[name] = subprocess.Popen(
            [HOSPITAL, *command], env=self.environment, stdout=log, stderr=log, start_new_session=True
        )

    def prepare(self, scale: str, speed: str, users: int) -> None:
        """Two days of history, built, and accounts."""
        hl7 = self.data / "landing" / "hl7v2-adt"
        hl7.mkdir(parents=True)
        (hl7 / "hospitals.csv").write_text(
            "hospital_id,hospital_name,city,state,time_zone\nSFAC,Simulated Hospital,London,,Europe/London\n"
        )
        self.simulation = ("simulate", "--live", "--dirty", "--speed", speed, "--scale", scale)
        self.launch("simulator", *self.simulation)
        while not load_settings(self.data).clock_file.exists():
            assert self.running["simulator"].poll() is None, "the simulation has ended"
            time.sleep(0.2)
        self.end()
        self.hospital("key", "create", "--if-missing")
        self.hospital("build")
        self.hospital("publish")
        for number in range(users):
            self.hospital("users", "add", f"user{number}", ("admin", "analyst")[number % 2], text=PASSWORD + "\n")

    def start(self, users: int) -> None:
        """Everything, and those who use it."""
        self.launch("simulator", *self.simulation)
        for service in SERVICES:
            if service.name != "gateway":
                port = ["--port", str(self.ports[service.name])] if service.name in self.ports else []
                self.launch(service.name, *service.command.split(), *port)
        while not self.metrics():
            assert self.running["dashboard"].poll() is None, "the dashboard has ended"
            time.sleep(0.5)
        for target, *arguments in (
            (self.send,),
            (self.ask_for_jobs,),
            *((self.look_at_pages, number) for number in range(users)),
        ):
            threading.Thread(target=self.kept_going, args=(target, *arguments), daemon=True).start()

    def kept_going(self, work: Any, *arguments: Any) -> None:
        """Begin anew what failed, and count it."""
        while not self.is_over.is_set():
            try:
                work(*arguments)
            except Exception as error:
                if not self.is_over.wait(5):
                    self.answers[f"{work.__name__}: {type(error).__name__}"] += 1

    def now(self) -> datetime:
        """What the simulated clock shows."""
        return hospital_now(load_settings(self.data))

    def send(self) -> None:
        """The messages of visits that began since now, each when it is due."""
        rng, began, sent = random.Random(7), self.now(), 0  # noqa: S311
        with socket.create_connection(("127.0.0.1", self.ports["hl7"])) as connection:
            due: list[tuple[datetime, int, datetime]] = []
            while not self.is_over.wait(1):
                while (arrived := began + sent * VISIT_EVERY) <= self.now():
                    first = int(began.timestamp()) // 60 * 10 + sent * 10
                    due += [(arrived + step * STEP, first + step, arrived) for step in range(10)]
                    sent += 1
                for _, number, arrived in sorted(one for one in due if one[0] <= self.now()):
                    text = message(number, rng, arrived.replace(tzinfo=None))
                    connection.sendall(b"\x0b" + text.encode() + b"\x1c\r")
                    answer = b""
                    while not answer.endswith(b"\x1c\r"):
                        received = connection.recv(65_536)
                        assert received, "the listener hung up"
                        answer += received
                    self.answers["HL7 taken" if re.search(rb"MSA\|[AC]A\|", answer) else "HL7 REFUSED"] += 1
                due = [one for one in due if one[0] > self.now()]

    def ask_for_jobs(self) -> None:
        """What schedules ask for, by the simulated clock."""
        last = self.now()
        while not self.is_over.wait(1):
            now = self.now()
            minute = last.replace(second=0, microsecond=0) + timedelta(minutes=1)
            while minute <= now:
                for job, (at, hours) in DUE.items():
                    if (minute.minute, minute.hour in hours) == (at, True):
                        self.ask_for(job, minute)
                minute += timedelta(minutes=1)
            last = now

    def ask_for(self, job: str, at: datetime) -> None:
        """Have Dagster run a job."""
        tags = []
        if job == "daily_batch":
            tags = [{"key": "dagster/partition", "value": f"{at - timedelta(days=1):%Y-%m-%d}"}]
        selector = {"repositoryLocationName": "hospital_assets", "repositoryName": "__repository__", "jobName": job}
        given: Any = {"selector": selector, "executionMetadata": {"tags": tags}}
        query = "mutation ($given: ExecutionParams!) { launchRun(executionParams: $given) { __typename } }"
        answer = requests.post(
            f"http://127.0.0.1:{self.ports['webserver']}/graphql",
            json={"query": query, "variables": {"given": given}},
            timeout=60,
        ).json()
        kind = (answer.get("data") or {}).get("launchRun", {}).get("__typename") or "error"
        self.answers[f"{job} asked for: {kind}"] += 1

    def look_at_pages(self, number: int) -> None:
        """A user who signs in, and looks at something every few seconds; every fifth keeps the live board open."""
        rng = random.Random(time.time_ns() + number)  # noqa: S311
        address = f"http://127.0.0.1:{self.ports['dashboard']}"
        with requests.Session() as session:
            form = {"name": f"user{number}", "password": PASSWORD, "next": "overview"}
            overview = session.post(f"{address}/login", data=form, timeout=120)
            self.answers[f"sign-in: {overview.status_code}"] += 1
            assert overview.status_code == 200, overview.status_code
            board = None
            if number % 5 == 0:
                board = session.get(f"{address}/live/events", stream=True, timeout=600)
                threading.Thread(target=drain, args=(board,), daemon=True).start()
            slices = random_slices(rng, overview.text, 30)
            while not self.is_over.wait(rng.uniform(5, 15)):
                ask = rng.choice(["", *slices])
                begun = time.perf_counter()
                page = session.get(f"{address}/{rng.choice(PAGES)}?{ask}", timeout=120)
                if not self.is_over.is_set():
                    self.waits.append(time.perf_counter() - begun)
                    self.answers[f"page: {page.status_code}"] += 1
            if board is not None:
                board.close()

    def metrics(self) -> dict[str, dict[str, float]]:
        """The dashboard's own: metric -> labels -> value; empty while it does not answer."""
        found: dict[str, dict[str, float]] = defaultdict(dict)
        with contextlib.suppress(requests.RequestException):
            answer = requests.get(f"http://127.0.0.1:{self.ports['dashboard']}/metrics", timeout=60)
            assert answer.status_code == 200, answer.text[:300]
            for name, labels, value in re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", answer.text, re.MULTILINE):
                found[name][labels] = float(value)
        return found

    def watch(self, seconds: float) -> None:
        """Sample until the time is over, or a service has ended."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            time.sleep(EVERY_SECONDS)
            self.samples.append(self.sample())
            (self.logs / "samples.json").write_text(json.dumps(self.samples, indent=0))
            print(" ".join(f"{name}={value:g}" for name, value in self.samples[-1].items()), flush=True)
            ended = [name for name, process in self.running.items() if process.poll() is not None]
            if ended:
                print(f"ENDED: {', '.join(ended)}", flush=True)
                return

    def sample(self) -> dict[str, float]:
        """How everything stands now."""
        found: dict[str, float] = {"load": os.getloadavg()[0]}
        tree = children()
        for name, process in self.running.items():
            of_service, of_runs = family(process.pid, tree)
            found[f"{name}_mb"] = sum(map(memory, of_service))
            found[f"{name}_files"] = sum(map(open_files, of_service))
            found[f"{name}_cpu_s"] = sum(map(cpu_seconds, of_service + of_runs))
            if of_runs:
                found["runs_mb"] = found.get("runs_mb", 0) + sum(map(memory, of_runs))
        for part in sorted(path for path in self.data.iterdir() if path.is_dir()):
            found[f"disk_{part.name}_mb"] = size(part)
        found["disk_mb"] = size(self.data)
        metrics = self.metrics()
        since = metrics["hospital_feed_waiting_timestamp_seconds"].values()
        published = metrics["hospital_publication_timestamp_seconds"].values()
        return found | {
            "lag_s": max((time.time() - at for at in since), default=0.0),
            "waiting": sum(metrics["hospital_waiting_files"].values()),
            "loaded": sum(metrics["hospital_loaded_files"].values()),
            "published_s_ago": max((time.time() - at for at in published), default=0.0),
            "alerts_open": sum(metrics["hospital_alerts_open"].values()),
            "runs_ended": metrics["hospital_runs"].get('status="success"', 0),
            "runs_failed": metrics["hospital_runs"].get('status="failure"', 0),
            "runs_queued": metrics["hospital_runs"].get('status="queued"', 0),
            "unreadable_parts": sum(not value for value in metrics["hospital_part_readable"].values()),
            "pages": len(self.waits),
            "page_median_s": statistics.median(self.waits[-200:] or [0.0]),
            "page_most_s": max(self.waits[-200:], default=0.0),
        }

    def end(self) -> None:
        """The senders and users first, then every service as the system would end it."""
        if len(self.running) > 1:
            self.is_over.set()
            time.sleep(10)
        for process in self.running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for name, process in self.running.items():
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                print(f"{name} did not end within a minute")
                os.killpg(process.pid, signal.SIGKILL)
        self.running.clear()

    def report(self) -> None:
        """The first third beside the last, and what failed."""
        third = max(1, len(self.samples) // 3)
        first, last = self.samples[:third], self.samples[-third:]
        print(f"\n{len(self.samples)} samples; mean of the first {third} and of the last {third}")
        for name in sorted({name for sample in self.samples for name in sample}):
            if name.endswith("cpu_s"):
                begin, end = self.samples[0].get(name, 0.0), self.samples[-1].get(name, 0.0)
                share = (end - begin) / (EVERY_SECONDS * max(1, len(self.samples) - 1))
                print(f"{name:<28}{end - begin:>12,.0f} s in all, {share:.0%} of a core")
                continue
            means = [statistics.fmean(sample.get(name, 0.0) for sample in part) for part in (first, last)]
            growth = f"{means[1] / means[0] - 1:+.1%}" if means[0] else ""
            print(f"{name:<28}{means[0]:>12,.1f}{means[1]:>12,.1f}{growth:>9}")
        print(dict(sorted(self.answers.items())))
        self.failed_runs()
        for count, line in errors_in(self.logs):
            print(f"{count:>5} x {line}")

    def failed_runs(self) -> None:
        """Runs by how they ended; of those that failed the step and the kind of error."""
        from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus, RunsFilter

        os.environ.update(self.environment, DAGSTER_HOME=str(self.data / "dagster"))
        with DagsterInstance.from_config(str(self.data / "dagster")) as instance:
            print("runs:", dict(Counter(f"{run.job_name} {run.status.value}" for run in instance.get_runs())))
            for run in instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.FAILURE])):
                steps = instance.all_logs(run.run_id, of_type={DagsterEventType.STEP_FAILURE})
                for entry in steps or [None]:
                    error = entry and entry.dagster_event.step_failure_data.error
                    kinds = [] if not error else [error.cls_name, error.cause and error.cause.cls_name]
                    print(f"failed: {run.job_name}, {entry and entry.step_key}, {kinds}")


def drain(board: requests.Response) -> None:
    with contextlib.suppress(requests.RequestException, AttributeError, OSError):
        for _ in board.iter_content(65_536):
            pass


def errors_in(logs: Path) -> list[tuple[int, str]]:
    """Lines of level error, and tracebacks with what they end with; each once, with how often it came."""
    found: Counter[str] = Counter()
    for path in sorted(logs.glob("*.log")):
        lines = path.read_text(errors="replace").splitlines()
        for number, line in enumerate(lines):
            level = ""
            with contextlib.suppress(ValueError, AttributeError):
                level = str(json.loads(line).get("level", "")).lower()
            if level in ("error", "critical"):
                found[f"{path.stem}: {nameless(line)}"] += 1
            elif "Traceback" in line and not level:
                rest = (after for after in lines[number + 1 :] if after and not after.startswith(" "))
                found[f"{path.stem}: Traceback … {nameless(next(rest, ''))}"] += 1
    return [(count, line) for line, count in found.most_common()]


def nameless(line: str) -> str:
    """A line without paths, quoted words and numbers."""
    line = re.sub(r'"(time|timestamp|process)": ?[^,}]*,?', "", line)
    return re.sub(r"\d+", "N", re.sub(r"'[^']*'", "'…'", re.sub(r"[\w.-]*/[\w./-]+", "PATH", line)))[:400]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def children() -> dict[int, list[int]]:
    """Each process's own children."""
    found: dict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            found[int(stat.read_text().rpartition(")")[2].split()[1])].append(int(stat.parent.name))
    return found


def family(pid: int, tree: dict[int, list[int]]) -> tuple[list[int], list[int]]:
    """A service's processes, and those of runs that it has started."""
    lasting, of_runs = [pid], []
    for child in tree.get(pid, []):
        command = b""
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{child}/cmdline").read_bytes()
        below = family(child, tree)
        if b"multiprocessing" in command or b"execute_run" in command:
            of_runs += below[0] + below[1]
        else:
            lasting += below[0]
            of_runs += below[1]
    return lasting, of_runs


def memory(pid: int) -> float:
    """Resident, MB."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return 0.0


def open_files(pid: int) -> int:
    with contextlib.suppress(OSError):
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return 0


def cpu_seconds(pid: int) -> float:
    """Of a process and of those that it has waited for."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def size(folder: Path) -> float:
    """Of the files in it, MB."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.lstat().st_size if path.is_file() else 0
    return total / 1e6


if __name__ == "__main__":
    main()
