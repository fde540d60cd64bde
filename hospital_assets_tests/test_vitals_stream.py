"""The stream of live vital signs: each observation once, scored as the batch does it, whatever dies."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from hospital_assets.assets.cleaned.vitals import validate_vitals
from hospital_assets.assets.facts.vitals import scored
from hospital_assets.contracts import CONTRACTS, Contract
from hospital_assets.landing.registry import load_profiles
from hospital_assets.spark import vitals_stream as stream
from hospital_assets.warehouse.delta import DeltaTables
from hospital_assets.warehouse.dialect import lazy
from hospital_assets_tests.engines import spark_session
from hospital_assets_tests.processes import started
from hospital_assets_tests.test_transforms import collect

pytestmark = pytest.mark.nightly

HOSPITALS = pl.DataFrame({"hospital_id": ["H1"], "time_zone": ["America/Chicago"]})
START = datetime(2026, 3, 8, 5, tzinfo=UTC)


def patients() -> pl.DataFrame:
    contract = CONTRACTS["dim_patient"]
    names = ["patient_id", "patient_key", "birth_date", "age_at_extract_years", "valid_from_at", "valid_to_at"]
    row = {
        "patient_id": "P1",
        "patient_key": 7,
        "age_at_extract_years": 60,
        "valid_from_at": datetime(1900, 1, 1, tzinfo=UTC),
        "valid_to_at": datetime(9999, 1, 1, tzinfo=UTC),
    }
    schema = {name: contract.polars_schema[name] for name in names}
    return pl.DataFrame([row], schema=schema)


def message(number: int) -> str:
    at = START + timedelta(seconds=30 * number)
    chance = random.Random(number)
    return json.dumps(
        {
            "observation_id": f"O{number}",
            "visit_id": f"V{number % 50}",
            "patient_id": "P1",
            "hospital_id": "H1",
            "device_id": "D",
            "measured_at": at.isoformat(),
            "recorded_at": at.isoformat(),
            "vitals": {
                "heart_rate": {"value": chance.randint(40, 150), "unit": "/min"},
                "respiratory_rate": {"value": chance.randint(8, 30), "unit": "/min"},
                "spo2": {"value": chance.randint(85, 100), "unit": "%"},
                "systolic_bp": {"value": chance.randint(80, 230), "unit": "mm[Hg]"},
                "diastolic_bp": {"value": 70, "unit": "mm[Hg]"},
                "temperature": {"value": chance.choice([36.6, 98.6, 39.4]), "unit": "Cel"},
                "consciousness": "A",
                "on_oxygen": chance.random() < 0.2,
                "spo2_scale": 1,
            },
        }
    )


def land(folder: Path, name: str, lines: list[str]) -> None:
    temporary = folder / f"{name}.tmp"
    temporary.write_text("\n".join(lines) + "\n")
    temporary.rename(folder / name)


def written(sink: Path, contract: Contract = stream.VITALS) -> pl.DataFrame:
    """As any reader of Delta finds it."""
    return pl.scan_delta(DeltaTables(str(sink)).address(contract)).collect()


def batches(sink: Path) -> int:
    """How many are in both tables."""
    last = [
        DeltaTables(str(sink)).last_batch(contract, "vitals stream") for contract in (stream.VITALS, stream.QUARANTINE)
    ]
    return min(-1 if number is None else number for number in last) + 1


def drain(landing: Path, sink: Path) -> None:
    session = spark_session()
    lines = stream.from_files(session, landing, files_per_batch=5)
    query = stream.start(session, lines, HOSPITALS, patients(), sink, load_profiles(None), until_done=True)
    query.awaitTermination()


def by_the_batch(lines: list[str], landing: Path) -> pl.DataFrame:
    """What the batch's own transforms make of the same messages, on Polars."""
    contract = CONTRACTS["raw_vitals"]
    rows = []
    for number, line in enumerate(lines, start=1):
        said = json.loads(line)
        payload = json.dumps(said.pop("vitals"))
        rows.append(
            {
                **said,
                "payload": payload,
                "source_profile": "native",
                "source_file": "f",
                "source_line": number,
                "record": line,
            }
        )
    raw = pl.DataFrame(rows, schema={**contract.polars_schema, "payload": pl.String})
    validated = validate_vitals(
        lazy(raw.with_columns(service_date=date(1970, 1, 1))), lazy(HOSPITALS), load_profiles(None)
    )
    return collect(scored(validated, lazy(patients())))


def test_repetitions_are_one_and_bad_lines_are_kept(tmp_path: Path) -> None:
    landing, sink = tmp_path / "vitals", tmp_path / "sink"
    landing.mkdir()
    lines = [message(n) for n in range(6)]
    land(landing, "a.json", [*lines[:4], lines[0], '{"torn": '])
    land(landing, "b.json", lines[2:5])
    (landing / "growing.json.tmp").write_text(lines[5] + "\n")
    drain(landing, sink)
    out = written(sink)
    assert sorted(out["observation_id"]) == [f"O{n}" for n in range(5)]
    quarantined = written(sink, stream.QUARANTINE)
    assert quarantined.select("record", "rule", "source_file").rows() == [('{"torn": ', "unreadable_line", "a.json")]
    # In another run, too, and what is finished by then is read.
    land(landing, "c.json", [lines[1], lines[5]])
    drain(landing, sink)
    out = written(sink).sort("observation_id")
    assert out["observation_id"].to_list() == [f"O{n}" for n in range(6)]
    expected = by_the_batch(lines, landing).sort("observation_id")
    same = ["news2_score", "news2_response", "temperature_c", "measured_at", "patient_key", "age_years"]
    assert_frame_equal(out.select(same), expected.select(same))
    assert out["news2_score"].n_unique() > 1


def errors_in(log: Path) -> str:
    """Why a stream ended by itself."""
    return "\n".join(line for line in log.read_text().splitlines() if "Exception" in line or "ERROR" in line)


def test_a_batch_that_was_written_but_not_known_as_such_is_not_repeated(tmp_path: Path) -> None:
    landing, sink = tmp_path / "vitals", tmp_path / "sink"
    landing.mkdir()
    land(landing, "a.json", [message(n) for n in range(4)])
    drain(landing, sink)
    last = max(
        (file for file in (sink / "checkpoint" / "commits").iterdir() if file.name.isdigit()), key=lambda f: int(f.name)
    )
    for file in (last, last.with_name(f".{last.name}.crc")):
        file.unlink()
    land(landing, "b.json", [message(n) for n in range(2, 6)])
    drain(landing, sink)
    assert sorted(written(sink)["observation_id"]) == [f"O{n}" for n in range(6)]


RUN = """
import sys
from pathlib import Path
from hospital_assets.spark import vitals_stream as stream
from hospital_assets_tests import test_vitals_stream as t
session = t.spark_session()
lines = stream.from_files(session, Path(sys.argv[1]), files_per_batch=5)
stream.start(session, lines, t.HOSPITALS, t.patients(), Path(sys.argv[2]), t.load_profiles(None)).awaitTermination()
"""


@pytest.mark.nightly
def test_killed_at_random_it_loses_and_repeats_nothing(tmp_path: Path) -> None:
    landing, sink = tmp_path / "vitals", tmp_path / "sink"
    landing.mkdir()
    log = tmp_path / "log"
    chance = random.Random(5)
    number = 0

    def land_some(files: int) -> None:
        nonlocal number
        for _ in range(files):
            fresh = [message(number + n) for n in range(20)]
            repeated = [message(chance.randrange(number)) for _ in range(3)] if number else []
            land(landing, f"{number:06d}.json", [*fresh, *repeated])
            number += 20

    land_some(20)
    notes = 0
    for _ in range(3):
        outputs = {"stdout": subprocess.DEVNULL, "stderr": log.open("a")}
        command = [sys.executable, "-c", RUN, str(landing), str(sink)]
        with started(command, cwd=Path(__file__).parents[1], start_new_session=True, **outputs) as runs:
            deadline = time.monotonic() + 600
            # So many, however long a slow machine takes.
            meanwhile = 5
            while batches(sink) <= notes:
                assert time.monotonic() < deadline and runs.poll() is None, errors_in(log)
                time.sleep(0.02)
                if meanwhile and chance.random() < 0.02:
                    land_some(1)
                    meanwhile -= 1
            time.sleep(chance.random() * 1.5)  # somewhere in the batch after
        notes = batches(sink)
    land_some(2)
    drain(landing, sink)
    found = written(sink)["observation_id"].to_list()
    assert len(found) == len(set(found)) == number
    assert set(found) == {f"O{n}" for n in range(number)}
    # A stream that starts deletes what no batch has.
    drain(landing, sink)
    for contract in (stream.VITALS, stream.QUARANTINE):
        table = DeltaTables(str(sink)).open(contract)
        assert table is not None
        files = {p.name for p in Path(DeltaTables(str(sink)).address(contract)).rglob("*.parquet")}
        assert files == {Path(path).name for path in table.file_uris()}


def test_without_its_package_kafka_says_what_to_configure() -> None:
    with pytest.raises(ValueError, match=r"spark.jars.packages=org.apache.spark:spark-sql-kafka"):
        stream.from_kafka(spark_session(), "127.0.0.1:9", "vitals")
