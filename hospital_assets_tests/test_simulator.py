"""The simulator: same seed, same bytes; and the situations the platform claims to catch."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from hospital_assets.settings import Settings
from hospital_assets.simulator import simulate

SCRIPT = """
import sys
from datetime import date
from pathlib import Path
from hospital_assets.simulator import simulate
root = Path(sys.argv[1])
simulate(root / "landing", root / "truth", start=date(2026, 3, 5), days=8, scale=0.1, seed=7)
"""


def digest(root: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        whole.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clean")
    simulate(root / "landing", root / "truth", days=14, scale=0.3, seed=1, clean=True)
    return root


def read_csvs(root: Path, subject: str) -> pl.DataFrame:
    files = sorted((root / "landing" / "native" / subject).glob("*.csv"))
    return pl.concat([pl.read_csv(f, infer_schema=False) for f in files])


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_in_another_process(network: Settings, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], check=True)
    assert digest(tmp_path / "landing") == digest(network.landing)


def test_another_seed_gives_other_bytes(network: Settings, tmp_path: Path) -> None:
    simulate(tmp_path / "l", tmp_path / "t", start=date(2026, 3, 5), days=8, scale=0.1, seed=8)
    assert digest(tmp_path / "l") != digest(network.landing)


def test_clean_means_clean(clean: Path) -> None:
    assert pl.read_parquet(clean / "truth" / "dirt.parquet").is_empty()
    visits = read_csvs(clean, "er_visits")
    closed = visits.filter(pl.col("departure_time").is_not_null())
    chain = ["arrival_time", "triage_time", "room_time", "provider_time", "decision_time"]
    for earlier, later in itertools.pairwise(chain):
        assert closed.filter(pl.col(later) < pl.col(earlier)).is_empty()
    known = set(read_csvs(clean, "patients")["patient_id"])
    assert set(visits["patient_id"]) <= known


def test_every_kind_of_dirt_points_at_its_line(network: Settings) -> None:
    truth = pl.read_parquet(network.ground_truth / "dirt.parquet")
    assert truth["kind"].n_unique() >= 35
    spellings = truth.filter(pl.col("kind") == "department_spelling", ~pl.col("file").str.ends_with(".gz"))
    for row in spellings.head(10).iter_rows(named=True):
        text = (network.landing / row["file"]).read_bytes().decode("utf-8-sig").splitlines()
        line = text[row["line"] - 1]
        assert row["record_id"] in line
        assert row["landed_value"] in line


def test_what_the_platform_claims_to_catch_happens(clean: Path) -> None:
    visits = pl.read_parquet(clean / "truth" / "visits.parquet")
    seen = visits.filter(pl.col("provider") >= 0).with_columns(
        wait=(pl.col("provider") - pl.min_horizontal("arrival", "triage")) / 60
    )
    median = dict(seen.group_by("level").agg(pl.col("wait").median()).iter_rows())
    assert median[1] < median[2] < median[4]  # the queue goes by urgency
    assert seen.filter(pl.col("level") <= 2, pl.col("wait") > 15).height > 0
    assert visits.filter(pl.col("disposition") == "left_without_being_seen").height > 0
    boarded = visits.filter(pl.col("admit"))
    assert (boarded["departure"] > boarded["decision"]).all()
    stays = visits.sort("index", "arrival").with_columns(previous=pl.col("left").shift(1).over("index"))
    gap = stays["arrival"] - stays["previous"]
    assert (gap.drop_nulls() > 0).all()  # nobody is in two places at once
    assert (gap.drop_nulls() <= 72 * 3600).any()  # and some come back within 72 hours


def test_no_clock_shows_an_hour_that_was_skipped(network: Settings) -> None:
    skipped = pl.col("arrival_time").str.starts_with("2026-03-08 02:")
    for file in (network.landing / "native" / "er_visits").glob("*2026-03-0[89].csv"):
        frame = pl.read_csv(file, infer_schema=False, encoding="utf8-lossy")
        in_chicago = frame.filter(pl.col("hospital_id") == "H1")
        assert in_chicago.filter(skipped).is_empty()
