"""What really happened: who came, when, why, and how it went. Feeds are made of it, and scores compared with it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import numpy as np
import polars as pl
from faker import Faker

from hospital_assets.simulator import clinical, flow, people
from hospital_assets.simulator.network import EPOCH, HOSPITALS, Network


def true_visits(
    rng: Callable[[], np.random.Generator],
    faker: Faker,
    network: Network,
    rates: pl.DataFrame,
    start: date,
    begin: int,
    end: int,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The true visits: who, when, why, and everything that happened; and the pool of patients."""
    visits = flow.arrivals(rng(), rates)
    by_hospital = {name: int((visits["hospital"] == number).sum()) for number, name in enumerate(HOSPITALS)}
    pool = people.build_pool(rng(), faker, by_hospital, (start - EPOCH).days)
    person = _base_persons(rng(), visits, pool)
    birth = pool["birth_day"].to_numpy()
    visits = visits.with_columns(
        group=pl.Series(pool["group"].to_numpy()[person]),
        age_years=pl.Series((visits["arrival"].to_numpy() / 86_400 - birth[person]) / 365.25),
    )
    visits = flow.draw_urgency(rng(), visits)
    visits = flow.queue(rng(), visits, network)
    stays = flow.ward_stays(rng(), visits, network, begin)
    visits = visits.join(stays, on="visit", how="left", maintain_order="left").with_columns(
        departure=pl.coalesce("ward_from", "departure")
    )
    visits = visits.with_columns(left_ed=pl.col("departure"), left=pl.coalesce("ward_until", "departure"))
    arrival, left = visits["arrival"].to_numpy(), visits["left"].to_numpy()
    person, parent = flow.link_returns(rng(), visits, person, left)
    # Whoever would be in two places at once is somebody else, who comes only this time.
    died = (visits["disposition"] == "expired").fill_null(False).to_numpy()
    # Who died in the department does not come again, either.
    clash = flow.without_overlaps(person, arrival, np.where(died, flow.NEVER, left))
    strangers = _strangers(pool, person, np.flatnonzero(clash))
    pool = pl.concat([pool, strangers])
    person[clash] = strangers["index"].to_numpy()
    parent[clash] = -1
    patient = pool.select("index", "patient_id", "sex", "birth_day", "pre_existing_condition")
    visits = (
        visits.with_columns(index=pl.Series(person), follows=pl.Series(parent))
        .join(patient, on="index", how="left", maintain_order="left")
        .with_columns(
            visit_id=pl.format("V{}", pl.col("visit").cast(pl.String).str.zfill(8)),
            hospital_id=pl.col("hospital").replace_strict(range(len(HOSPITALS)), list(HOSPITALS)),
        )
    )
    visits = clinical.draw_conditions(rng(), visits, parent)
    return visits.filter(pl.col("arrival") < end), pool


def _base_persons(rng: np.random.Generator, visits: pl.DataFrame, pool: pl.DataFrame) -> np.ndarray:
    """Who comes: mostly people of the hospital's own area, the frequent ones more often."""
    person = np.zeros(visits.height, dtype=np.int64)
    hospital = visits["hospital"].to_numpy()
    home = pool["home"].to_numpy()
    weight = pool["weight"].to_numpy()
    place = np.where(rng.random(visits.height) < 0.985, hospital, rng.integers(0, len(HOSPITALS), visits.height))
    for number in range(len(HOSPITALS)):
        own = np.flatnonzero(home == number)
        mine = np.flatnonzero(place == number)
        edges = np.cumsum(weight[own])
        person[mine] = own[np.minimum(np.searchsorted(edges, rng.random(len(mine)) * edges[-1]), len(own) - 1)]
    return person


def _strangers(pool: pl.DataFrame, person: np.ndarray, visits: np.ndarray) -> pl.DataFrame:
    """New people like those who could not be in two places."""
    like = pool[person[visits]]
    first = pool.height
    numbers = np.arange(first, first + len(visits))
    strangers: pl.DataFrame = like.with_columns(
        index=pl.Series(numbers),
        patient_id=pl.Series([f"P{number + 1:07d}" for number in numbers], dtype=pl.String),
        phone=pl.col("phone").str.reverse(),
    )
    return strangers
