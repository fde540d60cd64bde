"""The simulator: same seed, same bytes; and the situations the platform claims to catch."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from faker import Faker
from polars.testing import assert_frame_equal

from hospital_assets.settings import Settings
from hospital_assets.simulator import demand, simulate
from hospital_assets.simulator.network import BANK, HOSPITALS, ILL, Network, build_network, zone_of

SCRIPT = """
import sys
from datetime import date
from pathlib import Path
from hospital_assets.simulator import demand, simulate
from hospital_assets.simulator.network import BANK, HOSPITALS, ILL, Network, build_network, zone_of
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


# What is to be expected ---------------------------------------------------------------------------

YEAR = date(2026, 1, 1)


def test_a_rate_is_the_product_of_its_factors_and_the_same_whichever_days_are_simulated() -> None:
    rates = demand.expected_arrivals(7, YEAR, 365, 1.0)
    part = demand.expected_arrivals(7, date(2026, 2, 25), 20, 1.0)
    days = pl.col("service_date").is_between(date(2026, 2, 25), date(2026, 3, 16))
    assert_frame_equal(part, rates.filter(days))
    factors = (pl.col("season") + pl.col("epidemic")) * pl.col("trend") * pl.col("holiday") * pl.col("day")
    usual = rates.filter(hour_of_day=10, hospital_id="H6").with_columns(
        usual=pl.col("expected_arrivals") / factors, weekday=pl.col("service_date").dt.weekday()
    )
    by_weekday = usual.group_by("weekday").agg(
        pl.col("usual").min().alias("least"), pl.col("usual").max().alias("most")
    )
    assert (by_weekday["most"] / by_weekday["least"] - 1 < 1e-9).all() and by_weekday["least"].n_unique() == 7
    assert rates["expected_arrivals"].sum() / 365 == pytest.approx(1370, rel=0.05)
    another = demand.expected_arrivals(8, YEAR, 365, 1.0)
    assert not another["day"].equals(rates["day"]) and not another["epidemic"].equals(rates["epidemic"])


def test_days_are_like_the_day_before_and_hospitals_partly_like_each_other() -> None:
    series = np.log([demand.day_factors(7, hospital, date(2020, 1, 1), 2_500) for hospital in range(2)])
    assert series.std(axis=1) == pytest.approx([0.05, 0.05], rel=0.1)
    assert np.corrcoef(series[0, 1:], series[0, :-1])[0, 1] == pytest.approx(demand.DAY_AFTER_DAY, abs=0.06)
    # The shared variance: .03 squared of .05 squared.
    assert np.corrcoef(series)[0, 1] == pytest.approx(0.36, abs=0.12)


def test_holidays_trend_and_season() -> None:
    days = demand.holiday_factors("US-IL", date(2026, 12, 24), 9)
    assert (days[0] == 1).all()
    assert days[1, 9] == pytest.approx(0.85 * 0.92) and days[2, 9] == demand.DAY_AFTER_FACTOR
    assert days[8, 3] > 1.2 and days[8, 9] == pytest.approx(0.85)
    assert (demand.holiday_factors("", date(2026, 7, 4), 1) == 1).all()
    trend = demand.trend_factors(YEAR, 366)
    assert trend[0] == 1 and trend[365] == pytest.approx(1.02, abs=1e-3)
    season = demand.season_factors(YEAR, 365)
    assert season.argmax() == 24 and season.mean() == pytest.approx(1, abs=1e-3)


def test_waves_come_in_winter_and_differ_from_year_to_year() -> None:
    waves = np.array([demand.epidemic_factors(7, 0, date(year, 7, 1), 365) for year in range(2020, 2026)])
    assert (waves[:, :60] < 0.002).all() and (waves[:, 330:] < 0.002).all()
    peaks = waves.max(axis=1)
    assert (peaks > 0.05).all() and (peaks < 0.4).all() and peaks.std() > 0.01
    assert len(set(waves.argmax(axis=1))) > 3 and (waves.argmax(axis=1) > 120).all()


def test_the_truth_is_written_beside_the_feeds(clean: Path) -> None:
    truth = clean / "truth"
    visits, rates = pl.read_parquet(truth / "visits.parquet"), pl.read_parquet(truth / "expected_arrivals.parquet")
    sums = rates.group_by("hospital_id").agg(pl.col("expected_arrivals").sum())
    joined = visits.group_by("hospital_id").agg(came=pl.len()).join(sums, on="hospital_id")
    assert len(joined) == len(HOSPITALS)
    assert ((joined["came"] - joined["expected_arrivals"]).abs() < 4 * joined["expected_arrivals"].sqrt()).all()
    # Who comes of an epidemic has what goes round.
    sick = visits.filter("epidemic")
    assert len(sick) == pytest.approx(rates["epidemic_arrivals"].sum(), rel=0.3)
    respiratory = pl.col("icd10_code").str.contains(r"^(J|U07|B34|R50)")
    assert sick.filter(respiratory).height > 0.9 * len(sick)
    others = visits.filter(~pl.col("epidemic"))
    assert others.filter(respiratory).height < 0.4 * len(others)
    roster = pl.read_parquet(truth / "roster.parquet")
    landed = read_csvs(clean, "doctor_shifts")
    # Who is ill stays in the roster that is landed; nobody is seen by them.
    ill = roster.filter(pl.col("roster_state") == ILL, pl.col("shift_id").is_in(landed["shift_id"].implode()))
    assert len(ill)
    seen = visits.join(ill, on="doctor_id").filter(pl.col("provider").is_between("start", pl.col("end") - 1))
    assert seen.is_empty()


@pytest.fixture(scope="module")
def rostered() -> Network:
    return build_network(np.random.default_rng(7), Faker("en_US"), YEAR, 120, 0.3)


def test_rosters_differ_by_weekday_week_and_day_and_somebody_is_always_there(rostered: Network) -> None:
    roster = rostered.roster.with_columns(
        day=pl.from_epoch("start").dt.replace_time_zone("UTC").dt.convert_time_zone(zone_of("H1")).dt.date()
    )
    planned = roster.filter(pl.col("roster_state") != BANK, pl.col("hospital_id") == "H1").group_by("day").len()
    days = planned.with_columns(weekday=pl.col("day").dt.weekday(), week=pl.col("day").dt.week()).sort("day")
    assert 0.05 < days["len"].std() / days["len"].mean() < 0.25
    by_weekday = dict(days.group_by("weekday").agg(pl.col("len").mean()).iter_rows())
    assert by_weekday[1] > by_weekday[7]
    of_week = days.group_by("week").agg(pl.col("len").mean())["len"].std()
    assert of_week > days["len"].std() / 7**0.5
    states = dict(roster.group_by("roster_state").len().iter_rows())
    assert 0.01 < states[ILL] / len(roster) < 0.05 and 0 < states[BANK] < states[ILL]
    # Known a week ahead, but for the bank.
    ahead = (pl.col("start") - pl.col("recorded")) / 86_400
    assert (roster.filter(pl.col("roster_state") != BANK).select(ahead).to_series() == 7).all()
    assert (roster.filter(pl.col("roster_state") == BANK).select(ahead).to_series() < 1).all()
    assert roster["shift_id"].is_unique().all()
    for hospital in HOSPITALS:
        own = rostered.shifts.filter(pl.col("hospital_id") == hospital)
        moments = np.arange(int(own["start"].min()) + 86_400, int(own["start"].max()), 1_800)  # type: ignore[arg-type]
        on = (own["start"].to_numpy() <= moments[:, None]) & (own["end"].to_numpy() > moments[:, None])
        assert (on.sum(axis=1) > 0).all()
