"""A whole network, simulated: its files landed, its ground truth written."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from faker import Faker

from hospital_assets.simulator import clinical, feeds
from hospital_assets.simulator.coding import write_diagnoses_and_procedures
from hospital_assets.simulator.demand import expected_arrivals
from hospital_assets.simulator.messages import write_events
from hospital_assets.simulator.monitors import write_vitals
from hospital_assets.simulator.network import EPOCH, build_network, midnight_utc, roster_ahead
from hospital_assets.simulator.registration import write_patients, write_reference_data, write_visits
from hospital_assets.simulator.truth import true_visits


@dataclass(frozen=True)
class Truth:
    """What really is, behind the feeds."""

    visits: pl.DataFrame
    expected_arrivals: pl.DataFrame
    roster: pl.DataFrame


@dataclass(frozen=True)
class SimulationSummary:
    """What a simulation landed."""

    first: date
    last: date
    visits: int
    vitals: int
    patients: int
    adt_events: int
    files: int
    bytes: int
    dirt: dict[str, int]


def simulate(
    landing: Path,
    ground_truth: Path,
    *,
    start: date = date(2026, 1, 1),
    days: int = 90,
    scale: float = 1.0,
    seed: int = 20260101,
    clean: bool = False,
) -> SimulationSummary:
    """Land the files of `days` service days of the network and write the ground truth.

    Args:
        landing: landing folder; `native/` below it is replaced.
        ground_truth: folder for `dirt.parquet`, `visits.parquet`, `expected_arrivals.parquet` (of every hospital and
            hour) and `roster.parquet` (shifts as planned and as worked).
        scale: multiplies visits, staff and beds; 1 is about 1,370 visits a day.
    """
    if (landing / "native").exists():
        shutil.rmtree(landing / "native")
    landed = feeds.Landed(landing)
    counts, true = feed_network(landed, start, days, scale, seed, clean)

    ground_truth.mkdir(parents=True, exist_ok=True)
    truth = pl.concat([feeds.truth_frame([]), *landed.truth]).sort("subject", "kind", "file", "line", "record_id")
    truth.write_parquet(ground_truth / "dirt.parquet")
    true.visits.drop("weight", strict=False).write_parquet(ground_truth / "visits.parquet")
    true.expected_arrivals.drop("hospital").write_parquet(ground_truth / "expected_arrivals.parquet")
    true.roster.write_parquet(ground_truth / "roster.parquet")
    return SimulationSummary(
        first=start,
        last=start + timedelta(days=days - 1),
        visits=true.visits.height,
        **counts,
        files=landed.files,
        bytes=landed.size,
        dirt=dict(truth.group_by("kind").len().sort("kind").iter_rows()),
    )


def feed_network(
    landed: feeds.Landed, start: date, days: int, scale: float, seed: int, clean: bool, live_from: int | None = None
) -> tuple[dict[str, int], Truth]:
    """Give every record of a network to `landed`; returns counts, and the truth.

    Args:
        live_from: from this moment (UTC seconds), visits are recorded at each of their stages and
            not only when they are over.
    """
    *streams, of_roster = np.random.SeedSequence(seed).spawn(33)
    seeds = iter(streams)
    faker = Faker("en_US")
    faker.seed_instance(seed)

    def rng() -> np.random.Generator:
        return np.random.default_rng(next(seeds))

    network = build_network(rng(), faker, start, days, scale)
    begin = midnight_utc(start, "America/New_York")
    # Nothing is known after the last day ended everywhere.
    end = midnight_utc(start + timedelta(days=days), "America/Los_Angeles")
    rates = expected_arrivals(seed, start, days, scale)
    visits, pool = true_visits(rng, faker, network, rates, start, begin, end)
    vitals = clinical.vitals(rng(), visits, end)
    window = range((start - EPOCH).days, (start - EPOCH).days + days)
    ahead = roster_ahead(np.random.default_rng(of_roster), network.doctors, start + timedelta(days=days))
    write_reference_data(landed, network, ahead, window, end)
    versions = write_patients(landed, rng(), faker, visits, pool, window, end, clean)
    write_visits(landed, rng(), visits, window, end, clean, live_from)
    vital_lines = write_vitals(landed, rng(), visits, vitals, window, clean)
    events = write_events(landed, rng(), visits, window, end, clean)
    write_diagnoses_and_procedures(landed, rng, visits, window, end, clean)
    return {"vitals": vital_lines, "patients": versions, "adt_events": events}, Truth(visits, rates, network.roster)
