"""Properties that hold for whatever happens: merges, overlaps, clocks of every odd zone, versions and withdrawals.

Each is held against a few lines of plain Python that know nothing of the transforms, whatever the order of the input.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import narwhals as nw
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from hospital_assets.assets.dimensions.calendar import date_key, time_key
from hospital_assets.assets.dimensions.persons import surviving
from hospital_assets.assets.kpis.arrivals import arrivals_by_hour
from hospital_assets.assets.kpis.readmissions import readmissions
from hospital_assets.assets.kpis.returns import returns
from hospital_assets.landing.registry import load_profiles
from hospital_assets.landing.service_day import with_service_day
from hospital_assets.warehouse.dialect import hash_keys, local_clocks, resolve_instants
from hospital_assets_tests.engines import ALL_ENGINES, ENGINES, Engine, spark_session
from hospital_assets_tests.test_cases import FACILITIES, HOSPITALS, landed
from hospital_assets_tests.test_edges import BEDS, days, segment
from hospital_assets_tests.test_hl7_profile import adt
from hospital_assets_tests.test_interop import oru
from hospital_assets_tests.test_kpis import fact, visits
from hospital_assets_tests.test_transforms import at, collect, events

on_each_engine = pytest.mark.parametrize("on", [pytest.param(on, id=name) for name, on in ENGINES.items()])
SPARK = ALL_ENGINES["spark"]
few = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])

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


@pytest.mark.nightly
def test_merges_on_spark() -> None:
    rng = Random(3)
    merges = [(rng.randrange(6), rng.choice(NUMBERS), rng.choice(NUMBERS)) for _ in range(12)]
    assert persons_of(SPARK, merges, list(range(len(merges)))) == persons_by_hand(merges)


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


@pytest.mark.fast_as("polars")
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


@pytest.mark.fast_as("polars")
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


# Clocks of every odd zone ----------------------------------------------------------------------------

#: Zones that are no whole hours from UTC, that shift by another step than an hour, or that change at or over midnight.
ODD_ZONES = (
    "Africa/Cairo Africa/Casablanca Africa/El_Aaiun Africa/Juba America/Asuncion America/Ciudad_Juarez "
    "America/Coyhaique America/Havana America/Nuuk America/Santiago America/Scoresbysund America/St_Johns "
    "Antarctica/Casey Antarctica/Troll Antarctica/Vostok Asia/Almaty Asia/Amman Asia/Beirut Asia/Colombo Asia/Damascus "
    "Asia/Gaza Asia/Hebron Asia/Kabul Asia/Kathmandu Asia/Kolkata Asia/Qostanay Asia/Tehran Asia/Yangon "
    "Atlantic/Azores Australia/Adelaide Australia/Broken_Hill Australia/Darwin Australia/Eucla Australia/Lord_Howe "
    "Europe/Dublin Indian/Cocos Pacific/Apia Pacific/Chatham Pacific/Marquesas America/Chicago"
)
#: What lies ahead is a forecast, on which the time zone databases of engines differ with their age.
SINCE, UNTIL = datetime(2020, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
#: A whole day, 30 December 2011, that was skipped.
APIA = ("Pacific/Apia", datetime(2011, 12, 30, 10, tzinfo=UTC))
MINUTE = timedelta(minutes=1)


@functools.cache
def changes(zone: str) -> list[datetime]:
    """When the clock of a zone was put forward or back."""
    tz, found, low = ZoneInfo(zone), [], SINCE
    while low < UNTIL:
        high = low + timedelta(days=8)
        after, at = high, high.astimezone(tz).utcoffset()
        if low.astimezone(tz).utcoffset() != at:
            before = low
            while after - before > MINUTE:
                middle = before + (after - before) // MINUTE // 2 * MINUTE
                before, after = (before, middle) if middle.astimezone(tz).utcoffset() == at else (middle, after)
            found.append(after)
        low = high
    return found


def moments_of_interest(zone: str) -> list[datetime]:
    """The changes of a zone, and the beginning of a year."""
    return [datetime(2024, 1, 1, tzinfo=UTC), *changes(zone), *([APIA[1]] if zone == APIA[0] else [])]


def is_odd(zone: str) -> bool:
    """Whether a zone belongs to `ODD_ZONES`."""
    tz = ZoneInfo(zone)
    if tz.utcoffset(datetime(2024, 1, 1)) % timedelta(hours=1):  # type: ignore[operator]
        return True
    for change in changes(zone):
        old, new = ((change - back).astimezone(tz) for back in (MINUTE, 0 * MINUTE))
        if {moment.utcoffset() % timedelta(hours=1) for moment in (old, new)} != {timedelta(0)}:
            return True
        passed = new.replace(tzinfo=None) - old.replace(tzinfo=None)
        if abs(passed - MINUTE) not in (timedelta(0), timedelta(hours=1)) or old.date() != new.date():
            return True
    return False


_zones = st.sampled_from(sorted(set(ODD_ZONES.split()) & available_timezones()))


@st.composite
def _moments(draw: st.DrawFn) -> tuple[str, datetime]:
    """A zone and an instant near a change of its clock."""
    zone = draw(_zones)
    change = draw(st.sampled_from(moments_of_interest(zone)))
    return zone, change + draw(st.integers(-200, 200) | st.integers(-1500, 1500)) * MINUTE


def clock_at(moment: datetime, zone: str) -> datetime:
    return moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None)


@on_each_engine
@few
@given(moments=st.lists(_moments(), min_size=1, max_size=60), minutes=st.integers(0, 600))
def test_clocks_of_instants_in_any_zone(on: Engine, moments: list[tuple[str, datetime]], minutes: int) -> None:
    """Of an instant its wall clock, day and minute; of that clock its instants; minutes later; and its service day."""
    frame = pl.DataFrame(
        [(n, zone, moment) for n, (zone, moment) in enumerate(moments)],
        schema={"n": pl.Int64, "z": pl.String, "at": pl.Datetime("us", "UTC")},
        orient="row",
    ).with_columns(c_offset_minutes=pl.lit(None, dtype=pl.Int32), c_plus_minutes=pl.lit(float(minutes)))
    shown = local_clocks(on(frame), {"c": "at"}, "z").with_columns(day=date_key("c"), minute=time_key("c"))
    read = collect(resolve_instants(shown, {"i": "c"}, "z")).sort("n")
    for (zone, moment), row in zip(moments, read.iter_rows(named=True), strict=True):
        clock = clock_at(moment, zone)
        assert row["c"] == clock, (zone, moment)
        assert (row["day"], row["minute"]) == (int(f"{clock:%Y%m%d}"), 60 * clock.hour + clock.minute)
        readings = [clock.replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC) for fold in (0, 1)]
        later = [reading + minutes * MINUTE for reading in readings]
        assert ([row["i"], row["i_second"]], row["i_is_missing"]) == (later, False), (zone, moment)

    # A record is of the day that its own clock shows, whether that is written by itself, in UTC or with its offset.
    texts = frame.select(
        "n",
        _fallback=pl.lit(None, dtype=pl.Date),
        hospital_id=pl.col("z"),
        arrival_time=pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    profile = load_profiles(None)["native"]
    dated = with_service_day(
        on(texts),
        profile.subjects["er_visits"],
        profile,
        {zone: zone for zone, _ in moments},
        date(1900, 1, 1),
        date.max,
    )
    assert collect(dated).sort("n")["service_date"].to_list() == [clock_at(at, zone).date() for zone, at in moments]


@on_each_engine
@few
@given(moments=st.lists(_moments(), min_size=1, max_size=60))
@example(moments=[(APIA[0], APIA[1] + timedelta(hours=5))])
def test_any_wall_clock_has_the_readings_of_its_zone(on: Engine, moments: list[tuple[str, datetime]]) -> None:
    """Clocks that never were, too: shown by the offset of three hours or a day before."""
    walls = [
        (zone, clock_at(moment - back, zone) + back)
        for zone, moment in moments
        for back in (timedelta(hours=3), timedelta(days=1))
    ]
    frame = pl.DataFrame(
        [(n, *wall) for n, wall in enumerate(walls)],
        schema={"n": pl.Int64, "z": pl.String, "c": pl.Datetime("us")},
        orient="row",
    ).with_columns(c_offset_minutes=pl.lit(None, dtype=pl.Int32))
    read = collect(resolve_instants(on(frame), {"i": "c"}, "z")).sort("n")
    for (zone, clock), row in zip(walls, read.iter_rows(named=True), strict=True):
        first, second = (clock.replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC) for fold in (0, 1))
        exists = clock_at(first, zone) == clock
        found = (row["i"], row["i_second"], row["i_is_missing"])
        assert found == ((first, second, False) if exists else (first, first, True)), (zone, clock)


def minutes_around(zone: str, day: date) -> list[tuple[datetime, datetime]]:
    """Every minute of the local days before, at and after a day, as an instant and on the wall clock."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(days=3)
    instants = (start + n * MINUTE for n in range(6 * 1440))
    both = ((moment, clock_at(moment, zone)) for moment in instants)
    return [(moment, clock) for moment, clock in both if abs(clock.date() - day) <= timedelta(days=1)]


@st.composite
def _change_and_stays(draw: st.DrawFn) -> tuple[str, datetime, list[tuple[int, int]]]:
    """A zone, a change of its clock, and stays around it: when each begins, and its minutes."""
    zone = draw(_zones)
    lengths = st.integers(0, 300) | st.integers(0, 4000)
    stays = draw(st.lists(st.tuples(st.integers(-2000, 2000), lengths), min_size=1, max_size=4))
    # Where a clock is moved within a quarter of an hour, hours begin with the next one (`local_hours`).
    moved = [moment for moment in moments_of_interest(zone) if moment.minute % 15 == 0]
    return zone, draw(st.sampled_from(moved)), stays


@pytest.mark.fast_as("polars")
@on_each_engine
@settings(few, max_examples=3)
@given(given_stays=_change_and_stays())
@example(given_stays=(*APIA, [(-600, 1200)]))
def test_days_of_any_zone_are_as_long_as_they_were(
    on: Engine, given_stays: tuple[str, datetime, list[tuple[int, int]]]
) -> None:
    zone, change, lengths = given_stays
    stays = [(change + start * MINUTE, change + (start + length) * MINUTE) for start, length in lengths]
    day = clock_at(change, zone).date()
    first, last = day - timedelta(days=1), day + timedelta(days=1)
    rows = [segment(f"S{n}", start, end) for n, (start, end) in enumerate(stays)]
    beds, flow, hours = days(on, zone, first, last, *rows)

    minutes = minutes_around(zone, day)
    long = Counter(clock.date() for _, clock in minutes)
    occupied = Counter(clock.date() for at, clock in minutes for start, end in stays if start <= at < end)
    assert {day: row["staffed_bed_minutes"] for day, row in beds.items()} == {d: n * BEDS for d, n in long.items()}
    assert {day: row["occupied_bed_minutes"] for day, row in beds.items()} == {d: occupied[d] for d in long}
    for day_of, row in flow.items():
        assert round(60 * row["window_hours"]) == long[day_of]
        assert round(60 * row["patient_hours"]) == occupied[day_of]
        assert row["inflow_count"] == sum(clock_at(start, zone).date() == day_of for start, _ in stays)
    # An hour begins at minute 0, and anew where the clock is moved.
    begins = [
        clock
        for (_, clock), (_, before) in zip(minutes[1:], minutes, strict=False)
        if clock.minute == 0 or clock - before != MINUTE
    ]
    begins = [minutes[0][1], *begins]
    assert hours["hour_start_local"].to_list() == begins

    of_days = pl.DataFrame(
        [(one, "H1", zone, one.isoweekday()) for one in long],
        schema=["service_date", "hospital_id", "time_zone", "iso_weekday_number"],
        orient="row",
    )
    arrived = [clock_at(start, zone) for start, _ in stays]
    visits = pl.DataFrame(
        [(clock.date(), "H1", clock) for clock in arrived],
        schema={"service_date": pl.Date, "hospital_id": pl.String, "arrival_local": pl.Datetime("us")},
        orient="row",
    )
    found = collect(arrivals_by_hour(on(visits), on(of_days)))
    existing = Counter((clock.date(), clock.hour) for clock in begins)
    came = Counter((clock.date(), clock.hour) for clock in arrived)
    counted = found.select("service_date", "hour_of_day", "existing_hours_count", "arrivals_count")
    assert sorted(counted.rows()) == [
        (one, hour, existing[one, hour], came[one, hour]) for one in sorted(long) for hour in range(24)
    ]


@pytest.mark.nightly
def test_clocks_of_all_odd_zones_on_spark() -> None:
    rng = Random(3)
    # Java's zones are those of its release: America/Coyhaique is of 2025.
    of_java = set(map(str, spark_session()._jvm.java.time.ZoneId.getAvailableZoneIds()))  # type: ignore[union-attr]
    assert len(of_java & set(ODD_ZONES.split())) > 35
    moments = [
        (zone, change + rng.randint(-200, 200) * MINUTE)
        for zone in sorted(set(ODD_ZONES.split()) & available_timezones() & of_java)
        for change in moments_of_interest(zone)[-3:]
    ]
    for holds in (test_clocks_of_instants_in_any_zone, test_any_wall_clock_has_the_readings_of_its_zone):
        minutes = {"minutes": 87} if holds is test_clocks_of_instants_in_any_zone else {}
        holds.hypothesis.inner_test(on=SPARK, moments=moments, **minutes)  # type: ignore[attr-defined]


@pytest.mark.nightly
def test_no_odd_zone_is_forgotten() -> None:
    """Aliases apart: those have the same changes to the same offset."""

    def kind(zone: str) -> tuple[Any, ...]:
        return (*changes(zone), UNTIL.astimezone(ZoneInfo(zone)).utcoffset())

    known = {kind(zone) for zone in ODD_ZONES.split()}
    assert {zone for zone in available_timezones() if is_odd(zone) and kind(zone) not in known} == set()


# Versions and withdrawals ----------------------------------------------------------------------------

#: A vital sign, which of two times, its value (None: none is stated) and its status, in the order they were written.
Version = tuple[str, int, int | None, str]
#: Which diagnosis or what rank, its code, and whether it is stated (A) or withdrawn (D).
Coded = tuple[int, str, str]
SIGN_CODES = {"heart_rate_bpm": "8867-4", "respiratory_rate_per_min": "9279-1", "spo2_pct": "59408-5"}
CODES = ("J209", "I10", "R079")
TIMES = ("1005", "1035")
PATIENTS = 10


def some_versions(rng: Random, statuses: str) -> list[Version]:
    return [
        (
            rng.choice(list(SIGN_CODES)),
            rng.randrange(2),
            None if rng.random() < 0.2 else rng.randint(40, 69),
            rng.choice(statuses.split()),
        )
        for _ in range(rng.randint(1, 7))
    ]


def some_codes(rng: Random) -> list[Coded]:
    return [(rng.randint(1, 3), rng.choice(CODES), rng.choice("AAAD")) for _ in range(rng.randint(0, 5))]


def sets_by_hand(versions: list[Version], withdrawn: str, *, none_is_stated: bool) -> list[tuple[int | None, ...]]:
    """The vital signs of each time: of each the last version, where that states a value.

    Args:
        versions: as they were written.
        withdrawn: statuses that take a value back.
        none_is_stated: whether a version without a value states that there is none; else it states nothing.
    """
    newest: dict[tuple[int, str], int | None] = {}
    for sign, time, value, status in versions:
        if status in withdrawn.split():
            newest[time, sign] = None
        elif value is not None or none_is_stated:
            newest[time, sign] = value
    found = [tuple(newest.get((time, sign)) for sign in SIGN_CODES) for time in (0, 1)]
    return [values for values in found if any(value is not None for value in values)]


def ranked_by_hand(stated: list[Coded]) -> list[tuple[int, str]]:
    """Rank and code of what stands: of a code its last record counts, of the codes of one rank the last written."""
    last = {code: place for place, (_, code, _) in enumerate(stated)}
    of_rank = {
        stated[place][0]: code
        for code, place in sorted(last.items(), key=lambda found: found[1])
        if stated[place][2] == "A"
    }
    return sorted(of_rank.items())


def dotted(code: str) -> str:
    return code if len(code) == 3 else f"{code[:3]}.{code[3:]}"


def in_files(rng: Random, records: list[str], ending: str, head: str = "") -> dict[str, bytes]:
    """Records in any order, a quarter of them twice, over three files."""
    again = [*records, *rng.sample(records, len(records) // 4)]
    rng.shuffle(again)
    files = {f"{name}.{ending}": head.encode() for name in "bca"}
    for record in again:
        files[f"{rng.choice('bca')}.{ending}"] += record.encode()
    return files


def of_patients(frame: pl.DataFrame, by: list[str], columns: list[str]) -> list[list[Any]]:
    """Rows of each patient."""
    rows = frame.with_columns(_n=pl.col("patient_id").str.extract(r"P(\d)$").cast(pl.Int64)).sort(by)
    return [rows.filter(pl.col("_n") == n).select(columns).rows() for n in range(PATIENTS)]


def messages_hold(rng: Random, folder: Path, engines: list[Engine]) -> None:
    """OBX-11 (U: final, the value is not sent again) and DG1-21: what was written last counts."""
    signs = dict(zip(SIGN_CODES, ("hr", "rr", "spo2"), strict=True))
    messages, sets, diagnoses = [], [], []
    for n in range(PATIENTS):
        written = [
            (sign, time, None if status == "U" else value or 50, status)
            for sign, time, value, status in some_versions(rng, "F F P C W D X N U")
        ]
        for second, (sign, time, value, status) in enumerate(written):
            stated = (signs[sign], "" if value is None else str(value), status)
            text = oru(f"20260501110{n}{second:02}", stated, at=f"20260501{TIMES[time]}00")
            messages.append(text.replace("PID|1||7^", f"PID|1||P{n}^").replace("|V1", f"|V{n}"))
        sets.append(sets_by_hand(written, "W D X N", none_is_stated=False))
        # What takes something back states it alone, as the first of its message; it may be sent days later.
        codes = [(rank if action == "A" else 1, code, action) for rank, code, action in some_codes(rng)]
        for place, (rank, code, action) in enumerate(codes):
            more = "|".join(["DG1", str(rank), "I10", f"{dotted(code)}^x^I10", *[""] * 17, action])
            messages.append(adt("A08", f"2026050{1 + place // 3}1{place}3000", f"V{n}", patient=f"P{n}", more=more))
        diagnoses.append(ranked_by_hand(codes))
    files = {**in_files(rng, messages, "hl7"), "hospitals.csv": FACILITIES.encode()}
    with landed(folder, engines[0], "hl7v2-adt", files) as case:
        for on in engines:
            case.validate_on(on)
            assert of_patients(case.cleaned("vitals"), ["measured_at"], list(SIGN_CODES)) == sets
            assert of_patients(case.cleaned("diagnoses"), ["sequence"], ["sequence", "icd_code"]) == diagnoses


AT = "2026-05-01T{}:00-05:00"
TIME_ZONE = {"url": "http://hl7.org/fhir/StructureDefinition/timezone", "valueCode": "America/Chicago"}
ICD = "http://hl7.org/fhir/sid/icd-10-cm"


def resource(kind: str, identity: str, written: str, **values: Any) -> str:
    return json.dumps({"resourceType": kind, "id": identity, "meta": {"lastUpdated": written}, **values}) + "\n"


def resources_hold(rng: Random, folder: Path, engines: list[Engine]) -> None:
    """Of an Observation, Condition and Encounter what was written last (meta.lastUpdated) counts."""
    provider = {"type": [{"coding": [{"code": "prov"}]}], "name": "H", "extension": [TIME_ZONE]}
    records = [resource("Organization", "H", AT.format("00:00"), **provider)]
    sets, diagnoses, visits = [], [], []
    for n in range(PATIENTS):
        whose = {"subject": {"reference": f"Patient/P{n}"}, "encounter": {"reference": f"Encounter/E{n}"}}
        versions = some_versions(rng, "final final preliminary amended corrected entered-in-error cancelled")
        for second, (sign, time, value, status) in enumerate(versions):
            stated = {"dataAbsentReason": {}} if value is None else {"valueQuantity": {"value": value}}
            of_sign = {"code": {"coding": [{"system": "http://loinc.org", "code": SIGN_CODES[sign]}]}, "status": status}
            measured = {"effectiveDateTime": AT.format(f"{TIMES[time][:2]}:{TIMES[time][2:]}")}
            written = f"2026-05-0{2 + second // 2}T10:00:{second:02}Z"
            name = f"O{n}{time}{SIGN_CODES[sign]}"
            records.append(resource("Observation", name, written, **of_sign, **measured, **stated, **whose))
        sets.append(sets_by_hand(versions, "entered-in-error cancelled", none_is_stated=True))

        conditions = some_codes(rng)
        for second, (which, code, action) in enumerate(conditions):
            verified = rng.choice(["refuted", "entered-in-error"]) if action == "D" else "confirmed"
            stated = {
                "recordedDate": AT.format("11:00"),
                "verificationStatus": {"coding": [{"code": verified}]},
                "code": {"coding": [{"system": ICD, "code": dotted(code)}]},
            }
            written = f"2026-05-0{2 + second // 2}T11:00:{second:02}Z"
            records.append(resource("Condition", f"C{n}{which}", written, **stated, **whose))
        # Codes rank in the order first recorded; of each condition its last version counts.
        ranks = {code: rank for rank, code in enumerate(dict.fromkeys(code for _, code, _ in conditions), 1)}
        newest = {which: (code, action) for which, code, action in conditions}
        diagnoses.append(sorted({(ranks[code], code) for code, action in newest.values() if action == "A"}))

        is_emergency = n % 2 == 0
        for second in range(rng.randint(1, 4)):
            status = rng.choice(["in-progress", "finished", "finished", "entered-in-error", "cancelled"])
            minute = rng.randrange(60)
            end = {"end": AT.format(f"14:{minute:02}")} if status == "finished" else {}
            stated = {
                "status": status,
                "class": {"code": "EMER" if is_emergency else "IMP"},
                "serviceProvider": {"reference": "Organization/H"},
                "period": {"start": AT.format("10:00"), **end},
                "subject": whose["subject"],
            }
            records.append(resource("Encounter", f"E{n}", f"2026-05-02T12:00:{second:02}Z", **stated))
        is_cancelled = status in ("entered-in-error", "cancelled")
        visits.append((is_cancelled, 240 + minute if status == "finished" else None))
    with landed(folder, engines[0], "fhir-r4", in_files(rng, records, "ndjson")) as case:
        for on in engines:
            case.validate_on(on)
            assert of_patients(case.cleaned("vitals"), ["measured_at"], list(SIGN_CODES)) == sets
            assert of_patients(case.cleaned("diagnoses"), ["sequence"], ["sequence", "icd_code"]) == diagnoses
            stay = (pl.col("event_at") - pl.col("visit_start_at")).dt.total_minutes()
            events = of_patients(
                case.cleaned("adt_events").with_columns(stay=stay), ["event_type"], ["event_type", "stay"]
            )
            assert [(("A11", 0) in rows, dict(rows).get("A03")) for rows in events] == visits
            stay = (pl.col("departure_at") - pl.col("arrival_at")).dt.total_minutes()
            ends = of_patients(case.cleaned("er_visits").with_columns(stay=stay), ["visit_id"], ["stay"])
            assert ends == [[(end,)] if n % 2 == 0 else [] for n, (_, end) in enumerate(visits)]


def rows_hold(rng: Random, folder: Path, engines: list[Engine]) -> None:
    """The native feed: of a visit, an observation set and a diagnosis what was recorded last counts, as a whole."""
    visits, vitals, diagnoses = [], [], []
    newest: dict[int, tuple[int | None, str, int]] = {}
    for second in range(50):
        n, code, rank = rng.randrange(PATIENTS), rng.choice(CODES), rng.randint(1, 3)
        value = None if rng.random() < 0.2 else rng.randint(10, 59)
        written = f"2026-05-01 13:00:{second:02}"
        left = "" if value is None else f"2026-05-01 12:{value:02}:00"
        visits.append(f"V{n},P{n},H1,2026-05-01 10:00:00,{left},{written}\n")
        whose = {"observation_id": f"O{n}", "patient_id": f"P{n}", "hospital_id": "H1", "recorded_at": written}
        signs = {} if value is None else {"heart_rate": {"value": value, "unit": "/min"}}
        vitals.append(json.dumps({**whose, "measured_at": "2026-05-01 10:05:00", "vitals": signs}) + "\n")
        diagnoses.append(f"D{n},V{n},P{n},H1,2026-05-01,{rank},{dotted(code)},{written}\n")
        newest[n] = (value, code, rank)
    heads = {
        "er_visits": "visit_id,patient_id,hospital_id,arrival_time,departure_time,recorded_at\n",
        "vitals": "",
        "diagnoses": "diagnosis_id,visit_id,patient_id,hospital_id,encounter_date,sequence,icd10_code,recorded_at\n",
    }
    files = {"hospitals/h.csv": f"{HOSPITALS}H1,H,Chicago,IL,America/Chicago\n".encode()}
    for (subject, head), rows in zip(heads.items(), (visits, vitals, diagnoses), strict=True):
        split = in_files(rng, rows, "csv" if head else "json", head)
        files |= {f"{subject}/{name}": content for name, content in split.items()}
    with landed(folder, engines[0], "native", files) as case:
        for on in engines:
            case.validate_on(on)
            ends = case.cleaned("er_visits").select("patient_id", pl.col("departure_at").dt.minute().cast(pl.Int64))
            rates = case.cleaned("vitals").select("patient_id", pl.col("heart_rate_bpm").cast(pl.Int64))
            codes = case.cleaned("diagnoses").select("patient_id", "icd_code", "sequence")
            expected = {f"P{n}": value for n, (value, _, _) in newest.items()}
            assert dict(ends.iter_rows()) == dict(rates.iter_rows()) == expected
            assert sorted(codes.rows()) == sorted((f"P{n}", code, rank) for n, (_, code, rank) in newest.items())


SOURCES = {"messages": messages_hold, "resources": resources_hold, "rows": rows_hold}


@pytest.mark.slow
@pytest.mark.parametrize("source", ["messages", "rows", pytest.param("resources", marks=[pytest.mark.nightly])])
def test_versions_in_any_order_and_any_files_give_the_same(source: str, tmp_path: Path) -> None:
    SOURCES[source](Random(1), tmp_path, [ENGINES["polars"]])


@pytest.mark.nightly
@pytest.mark.parametrize("source", SOURCES)
@settings(few, max_examples=4, phases=[Phase.generate])  # shrinking would land files for hours
@given(seed=st.integers(2, 1_000_000))
def test_versions_of_any_records_give_the_same(
    source: str, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    SOURCES[source](Random(seed), tmp_path_factory.mktemp(source), list(ENGINES.values()))


@pytest.mark.nightly
@pytest.mark.parametrize("source", SOURCES)
def test_versions_give_the_same_on_spark(source: str, tmp_path: Path) -> None:
    SOURCES[source](Random(1), tmp_path, [SPARK])
