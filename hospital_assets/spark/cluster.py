"""A real Spark cluster on this machine: a standalone master and workers, as processes of their own.

For trying out and testing what a cluster does differently (executors that are other processes,
shuffles over the network); `make spark-cluster` keeps one running. For real ones see docs/spark.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from hospital_assets.spark.session import SparkUnavailableError, prepare_java, pyspark_folder

_HERE = "127.0.0.1"
_START_SECONDS = 90


@contextlib.contextmanager
def standalone_cluster(workers: int = 2, memory: str = "1g") -> Iterator[str]:
    """Start a master and workers with a core each on loopback; stop them at the end.

    Args:
        memory: what each may give to executors.

    Yields:
        the master's address, for `HOSPITAL_SPARK_MASTER`.

    Raises:
        SparkUnavailableError: pyspark or Java is missing, or the cluster did not come up.
    """
    with tempfile.TemporaryDirectory(prefix="spark_cluster_") as scratch:
        folder = Path(scratch)
        prepare_java(folder / "java")
        port, page = _free_port(), _free_port()
        master = f"spark://{_HERE}:{port}"
        running: list[subprocess.Popen[bytes]] = []
        try:
            running.append(_start(folder, "master", ["--port", str(port), "--webui-port", str(page)]))
            for number in range(workers):
                work = ["--cores", "1", "--memory", memory, "--work-dir", str(folder / f"w{number}")]
                running.append(_start(folder, "worker", [*work, "--webui-port", "0", master]))
            _wait(running, page, workers, folder)
            yield master
        finally:
            for process in reversed(running):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
            for process in running:
                try:
                    process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


def _start(folder: Path, role: str, arguments: list[str]) -> subprocess.Popen[bytes]:
    script = pyspark_folder() / "bin" / "spark-class"
    name = f"org.apache.spark.deploy.{role}.{role.capitalize()}"
    with (folder / f"{role}.log").open("ab") as log:
        return subprocess.Popen(  # noqa: S603  (pyspark's own script)
            [str(script), name, "--host", _HERE, *arguments],
            stdout=log,
            stderr=log,
            # Executors belong to their worker's group and end with it.
            start_new_session=True,
            env={**os.environ, "SPARK_LOCAL_IP": _HERE, "SPARK_DAEMON_MEMORY": "256m"},
        )


def _wait(running: list[subprocess.Popen[bytes]], page: int, workers: int, folder: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if any(process.poll() is not None for process in running):
            break
        with contextlib.suppress(OSError, ValueError):
            url = f"http://{_HERE}:{page}/json/"
            with urllib.request.urlopen(url, timeout=5) as answer:
                if json.load(answer)["aliveworkers"] >= workers:
                    return
        time.sleep(0.2)
    logs = "".join(log.read_text(errors="replace")[-500:] for log in sorted(folder.glob("*.log")))
    raise SparkUnavailableError(f"the Spark cluster did not come up: {logs}")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((_HERE, 0))
        return int(found.getsockname()[1])


def main() -> None:
    """Keep a cluster running until interrupted."""
    with standalone_cluster() as master, contextlib.suppress(KeyboardInterrupt):
        print(f"Spark master: {master}")  # noqa: T201
        print(f"HOSPITAL_ENGINE=spark HOSPITAL_SPARK_MASTER={master} hospital build")  # noqa: T201
        signal.pause()


if __name__ == "__main__":
    main()
