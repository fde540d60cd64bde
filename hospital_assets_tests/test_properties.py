"""Properties that hold for whatever happens: merges, overlaps, clocks of every odd zone, versions and withdrawals.

Each is held against a few lines of plain Python that know nothing of the transforms, whatever the order of the input.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import narwhals as nw
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hospital_assets.assets.dimensions.persons import surviving
from hospital_assets.assets.kpis.readmissions import readmissions
from hospital_assets.assets.kpis.returns import returns
from hospital_assets.warehouse.dialect import hash_keys
from hospital_assets_tests.engines import ALL_ENGINES, Engine
from hospital_assets_tests.test_kpis import fact, visits
from hospital_assets_tests.test_transforms import at, collect, events

on_each_engine = pytest.mark.parametrize(
    "on",
    [
        pytest.param(engine, id=name, marks=[pytest.mark.slow] if name == "spark" else [])
        for name, engine in ALL_ENGINES.items()
    ],
)
few = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Merges ---------------------------------------------------------------------------------------------

NUMBERS = [f"N{n:02}" for n in range(16)]
#: When (several at one moment), the number that goes, and the one that stays.
_merges = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(NUMBERS), st.sampled_from(NUMBERS)), min_size=1, max_size=14
)
Merge = tuple[int, str, str]


def persons_by_hand(merges: list[Merge]) -> dict[str, str]:
    """Number -> the number that stands for its person: merge by merge, two sets become one."""
    merges = [merge for merge in merges if merge[1] != merge[2]]
    sets = [{number} for number in NUMBERS]
    for _, one, other in merges:
        both = [found for found in sets if {one, other} & found]
        sets = [found for found in sets if found not in both] + [set().union(*both)]
    gone = {prior for _, prior, _ in merges}
    found = {}
    for members in sets:
        within = [
            (into not in gone, minute, place) for place, (minute, _, into) in enumerate(merges) if into in members
        ]
        name = merges[max(within)[2]][2] if within else min(members)
        found |= dict.fromkeys(members, name)
    return found


def persons_of(on: Engine, merges: list[Merge], order: list[int]) -> dict[str, str]:
    rows = events([(f"M{place:02}", "A40", f"01 10:{minute:02}") for place, (minute, _, _) in enumerate(merges)])
    rows = rows.with_columns(
        prior_patient_id=pl.Series([prior for _, prior, _ in merges], dtype=pl.String),
        patient_id=pl.Series([into for _, _, into in merges], dtype=pl.String),
    )[order]
    keyed = hash_keys(on(pl.DataFrame({"patient_id": NUMBERS})), {"patient_durable_key": ["patient_id"]})
    names = dict(collect(keyed).select("patient_durable_key", "patient_id").iter_rows())
    found = collect(surviving(keyed, on(rows)))
    assert found.height == len(NUMBERS)
    assert (found["is_merged"] == (found["person_key"] != found["patient_durable_key"])).all()
    return {names[key]: names[person] for key, person in found.select("patient_durable_key", "person_key").iter_rows()}


@on_each_engine
@few
@given(merges=_merges, data=st.data())
def test_whom_merges_connect_is_one_person_in_whatever_order(
    on: Engine, merges: list[Merge], data: st.DataObject
) -> None:
    places = [place for place, (_, prior, into) in enumerate(merges) if prior != into]
    order = data.draw(st.permutations([*range(len(merges)), *places[:3]]))  # some are sent twice
    # A self-merge has a place of its own, too, but says nothing.
    assert persons_of(on, merges, order) == persons_by_hand(merges)


@on_each_engine
@few
@given(order=st.permutations(range(len(NUMBERS))), is_circle=st.booleans())
def test_a_chain_of_merges_in_any_order_is_one_person(on: Engine, order: list[int], is_circle: bool) -> None:
    chain = [(0, NUMBERS[n], NUMBERS[(n + 1) % len(NUMBERS)]) for n in range(len(NUMBERS))]
    merges = chain if is_circle else chain[:-1]
    found = persons_of(on, [merges[n] for n in order if n < len(merges)], list(range(len(merges))))
    assert len(set(found.values())) == 1
    assert is_circle or set(found.values()) == {NUMBERS[-1]}


# Overlaps -------------------------------------------------------------------------------------------

#: Of a visit or stay: whose it is, when it begins and how long it lasts, in steps; without a length it is open.
_episodes = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 24), st.none() | st.integers(0, 6)), min_size=1, max_size=14
)
Episode = tuple[int, int, int | None]


def spells(episodes: list[tuple[int, int, int, str]], *, joins: bool) -> list[list[tuple[int, int, int, str]]]:
    """Person, start, end and name, gathered into what goes on without a break, by person in the order of time.

    Args:
        episodes: of whom, from when until when, and its name.
        joins: whether what begins as another ends goes on with it.
    """
    found: list[list[tuple[int, int, int, str]]] = []
    for episode in sorted(episodes, key=lambda e: (e[0], e[1], e[3])):
        last = found[-1] if found else []
        until = max((end for _, _, end, _ in last), default=-1)
        is_same = (
            bool(last)
            and last[-1][0] == episode[0]
            and (episode[1] < until or episode[1] == last[-1][1] or (joins and episode[1] == until))
        )
        found = [*found[:-1], [*last, episode]] if is_same else [*found, [episode]]
    return found


def followed_by_hand(episodes: list[Episode], names: list[str], *, joins: bool, longest: int, window: int) -> list[int]:
    """How many return, of how many, and how many are left out as overlapped by another one.

    Args:
        episodes: see `_episodes`.
        names: their names.
        joins: see `spells`.
        longest: how long an open one counts.
        window: within how long a return is one.
    """
    known = [
        (person, start, start + (longest if length is None else length), name)
        for (person, start, length), name in zip(episodes, names, strict=True)
    ]
    is_open = {name for (_, _, length), name in zip(episodes, names, strict=True) if length is None}
    returned = counted = overlapped = 0
    gathered = spells(known, joins=joins)
    for place, spell in enumerate(gathered):
        index = max(spell, key=lambda e: (e[2], e[1], e[3]))
        overlapped += sum(episode[3] not in is_open for episode in spell if episode is not index)
        if index[3] in is_open:
            continue
        counted += 1
        after = gathered[place + 1] if place + 1 < len(gathered) else []
        if after and after[0][0] == index[0]:
            returned += after[0][1] - index[2] <= window
    return [returned, counted, overlapped]


def totals(out: pl.DataFrame) -> list[int]:
    found = out.filter(pl.col("hospital_id") == "all")
    return [int(found[f"{name}_count"].sum()) for name in ("numerator", "denominator", "excluded_overlapping")]


def named(data: st.DataObject, count: int) -> tuple[list[str], list[int]]:
    """Names whose order says nothing, and an order of the rows."""
    names = data.draw(st.permutations([f"V{n:02}" for n in range(count)]))
    return list(names), list(data.draw(st.permutations(range(count))))


@on_each_engine
@few
@given(episodes=_episodes, data=st.data())
def test_returns_of_any_visits(on: Engine, episodes: list[Episode], data: st.DataObject) -> None:
    """Steps of twelve hours: 72 hours are six, and as long an open record counts."""
    names, order = named(data, len(episodes))
    first = at("2026-01-01 10:00")
    rows = [
        {
            **fact(name, "01-01 10:00", person_key=person),
            "arrival_at": first + timedelta(hours=12 * start),
            "departure_at": None if length is None else first + timedelta(hours=12 * (start + length)),
        }
        for (person, start, length), name in zip(episodes, names, strict=True)
    ]
    data_end = nw.lit(at("2026-02-28 00:00")).cast(nw.Datetime("us", "UTC"))
    out = collect(returns(visits(on, *(rows[n] for n in order)), data_end)).filter(pl.col("variant") == "discharged")
    assert totals(out) == followed_by_hand(episodes, names, joins=True, longest=6, window=6)


@on_each_engine
@few
@given(episodes=_episodes, data=st.data())
def test_readmissions_of_any_stays(on: Engine, episodes: list[Episode], data: st.DataObject) -> None:
    """Steps of five days: 30 days are six, and as long an open stay counts."""
    names, order = named(data, len(episodes))
    first = datetime(2026, 1, 1, tzinfo=UTC)
    rows: list[dict[str, Any]] = []
    for (person, start, length), name in zip(episodes, names, strict=True):
        begins = first + timedelta(days=5 * start)
        ends = None if length is None else begins + timedelta(days=5 * length)
        rows.append(
            {
                "stay_id": name,
                "person_key": person,
                "hospital_id": "H1",
                "admitted_at": begins,
                "discharged_at": ends,
                "_until_at": ends or begins + timedelta(days=30),
                "admitted_date": begins.date(),
                "discharged_date": None if ends is None else ends.date(),
                "disposition": "home",
                "diagnosis": None,
                "undelivered": "",
                "is_planned": False,
                "is_cancer_medical": False,
            }
        )
    instants = dict.fromkeys(("admitted_at", "discharged_at", "_until_at"), pl.Datetime("us", "UTC"))
    frame = pl.DataFrame(
        [rows[n] for n in order], schema_overrides={**instants, "discharged_date": pl.Date, "diagnosis": pl.String}
    )
    out = collect(readmissions(on(frame), nw.lit(date(2026, 12, 31)).cast(nw.Date)))
    assert totals(out) == followed_by_hand(episodes, names, joins=False, longest=6, window=6)
