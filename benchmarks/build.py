"""How long `hospital build` takes beside a hand-written DuckDB script of the same work, in one run.

    python benchmarks/build.py [--days 90] [--scale 1.0] [--runs 1]

Simulates a network once (without dirt, which the script would not survive), then builds it alternately by
hand and with the platform, each in a process of its own, and prints seconds, peak memory and the ratio of
the medians. Both must come to the same visits, vital signs, waits and scores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

FIGURES = {
    "visits": "select count(*) from facts.fact_emergency_visits",
    "vital-sign sets": "select count(*) from facts.fact_vitals",
    "median wait": "select median(wait_minutes) from facts.fact_emergency_visits",
    "segments": "select count(*) from facts.fact_patient_flow",
    "NEWS2 of 7 and more": "select count(*) from facts.fact_vitals where news2_score >= 7",
}


def by_hand(data: Path, file: Path) -> dict[str, float]:
    """Run the script in this process; returns seconds by its sections."""
    import duckdb

    landing = data / "landing" / "native"
    connection = duckdb.connect(str(file), config={"memory_limit": "1GB", "preserve_insertion_order": False})
    connection.execute("set TimeZone = 'UTC'")
    files = {
        f"{subject}_files": str(sorted(str(path) for path in (landing / subject).glob("*.json")))
        for subject in ("vitals", "adt")
        for subject in ({"adt": "adt_events"}.get(subject, subject),)
    }
    script = (HERE / "by_hand.sql").read_text(encoding="utf-8")
    script = script.replace("{landing}", str(landing))
    script = script.replace("{vitals_files}", files["vitals_files"])
    script = script.replace("{adt_files}", files["adt_events_files"])
    seconds: dict[str, float] = {}
    for section in script.split("\n\n-- ")[1:]:
        started = time.perf_counter()
        connection.execute(section.split("\n", 1)[1])
        seconds[section.split("\n", 1)[0]] = time.perf_counter() - started
    connection.close()
    return seconds


def by_platform(data: Path) -> dict[str, float]:
    """Build in this process; returns seconds by layer."""
    from hospital_assets.automation.build import build, layers_of, seconds_by_layer
    from hospital_assets.definitions import build_definitions
    from hospital_assets.settings import load_settings

    settings = load_settings(data)
    definitions = build_definitions(settings)
    report = build(definitions, settings)
    assert report.succeeded, report.failures or report.failed_checks
    return seconds_by_layer(report.steps, layers_of(definitions))


def figures(file: Path) -> dict[str, float]:
    import duckdb

    with duckdb.connect(str(file), read_only=True) as connection:
        return {name: connection.execute(sql).fetchall()[0][0] for name, sql in FIGURES.items()}


def child(kind: str, data: str, file: str) -> None:
    started = time.perf_counter()
    layers = by_hand(Path(data), Path(file)) if kind == "hand" else by_platform(Path(data))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    said = {"seconds": time.perf_counter() - started, "peak_mb": peak, "layers": layers}
    print(json.dumps(said))


def measured(kind: str, data: Path, file: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", kind, str(data), str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--days", default="90")
    parser.add_argument("--scale", default="1.0")
    parser.add_argument("--runs", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        hospital = Path(sys.executable).with_name("hospital")
        subprocess.run(
            [hospital, "simulate", "--days", options.days, "--scale", options.scale, "--clean"],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "HOSPITAL_DATA_DIR": str(data)},
        )
        warehouse = data / "warehouse" / "hospital.duckdb"
        results: dict[str, list[dict[str, Any]]] = {"hand": [], "platform": []}
        found: dict[str, dict[str, float]] = {}
        for run in range(options.runs):
            script_file = Path(folder) / f"by_hand_{run}.duckdb"
            results["hand"].append(measured("hand", data, script_file))
            found["hand"] = figures(script_file)
            script_file.unlink()
            for made in (data / "warehouse", data / "dagster"):
                subprocess.run(["/bin/rm", "-rf", str(made)], check=True)
            results["platform"].append(measured("platform", data, warehouse))
            found["platform"] = figures(warehouse)
    for kind, runs in results.items():
        seconds = ", ".join(f"{run['seconds']:.1f}" for run in runs)
        layers = ", ".join(f"{name} {value:.1f}" for name, value in runs[-1]["layers"].items())
        print(f"{kind:9} {seconds} s; peak {runs[-1]['peak_mb']:,.0f} MB; {layers}")
    medians = {kind: statistics.median(r["seconds"] for r in runs) for kind, runs in results.items()}
    print(f"ratio {medians['platform'] / medians['hand']:.2f}")
    for name in FIGURES:
        ours, theirs = found["platform"][name], found["hand"][name]
        print(f"{name:22} {ours:>14,.1f} {theirs:>14,.1f}")
        assert abs(ours - theirs) <= 0.001 * max(ours, theirs), f"not the same work: {name}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        main()
