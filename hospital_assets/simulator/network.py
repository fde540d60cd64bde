"""The network itself: hospitals, departments and their capacity over time, doctors."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl
from faker import Faker

from hospital_assets.landing.profile import canonical_columns

EPOCH = date(1970, 1, 1)
#: Whose days the files of monitors and of the interface engine are cut by.
NETWORK_ZONE = "America/Chicago"
#: hospital_id -> (name, city, state, zone, trauma level, share of the network's visits)
HOSPITALS = {
    "H1": ("Lakeside University Hospital", "Chicago", "IL", "America/Chicago", 1, 0.22),
    "H2": ("Prairie General", "Springfield", "IL", "America/Chicago", 2, 0.15),
    "H3": ("Riverbend Medical Center", "Memphis", "TN", "America/Chicago", 2, 0.14),
    "H4": ("Harbor City Hospital", "Baltimore", "MD", "America/New_York", 1, 0.17),
    "H5": ("Front Range Hospital", "Denver", "CO", "America/Denver", 3, 0.12),
    "H6": ("Saguaro Regional", "Phoenix", "AZ", "America/Phoenix", 3, 0.12),
    "H7": ("Bayview Community Hospital", "Oakland", "CA", "America/Los_Angeles", 4, 0.08),
}
#: department -> (code, beds in a hospital of average size, planned mean stay in hours)
DEPARTMENTS = {
    "Emergency": ("EMER", 40, 6.0),
    "Surgery": ("SURG", 30, 48.0),
    "ICU": ("ICU", 20, 72.0),
    "Pediatrics": ("PEDI", 25, 36.0),
    "Maternity": ("MATE", 20, 48.0),
    "Oncology": ("ONCO", 25, 96.0),
    "Cardiology": ("CARD", 25, 60.0),
}
VISITS_PER_DAY = 1370.0
#: Patients one doctor treats at the same time.
PATIENTS_PER_DOCTOR = 5
#: Hour of start and length of the shifts of a day, how many of a hospital's doctors work each, and with how few at
#: least there is always somebody.
_SHIFTS = ((7, 8), (11, 10), (15, 8), (19, 10), (23, 8))
_SHIFT_SHARE = (0.26, 0.24, 0.24, 0.16, 0.13)
_SHIFT_LEAST = (1, 0, 1, 0, 1)
#: For how many doctors who are ill the bank finds somebody, who comes so many hours late.
_COVERED, _MOST_LATE = 0.75, 3
#: The roster is known a week ahead; who comes from the bank, on the day.
_KNOWN_AHEAD = 7 * 86_400
PLANNED, ILL, BANK = "planned", "ill", "bank"


@dataclass(frozen=True)
class Variation:
    """How rosters differ.

    Attributes:
        weekdays: planned above or below the usual number of doctors of a day, as a share of it.
        week: likewise, standard deviation of weeks (leave, courses).
        day: likewise, of days.
        ill: share of planned shifts whose doctors do not come.
    """

    weekdays: tuple[float, ...] = (0.10, 0.04, 0.0, 0.0, 0.0, -0.06, -0.06)
    week: float = 0.07
    day: float = 0.08
    ill: float = 0.03


#: The same roster every day.
STEADY = Variation((0.0,) * 7, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Network:
    """Frames as the reference data feeds need them, and the shifts as numbers.

    Attributes:
        hospitals: feed columns.
        departments: feed columns, one row per effective date.
        doctors: feed columns.
        roster: shift_id, doctor_id, hospital_id, department_id, start, end and recorded (UTC seconds), and
            roster_state: `planned`, `ill` (planned, but not worked) or `bank` (in the place of one who was ill).
        beds: (hospital, department) -> list of (from UTC second, beds), rising.
    """

    hospitals: pl.DataFrame
    departments: pl.DataFrame
    doctors: pl.DataFrame
    roster: pl.DataFrame
    beds: dict[tuple[str, str], list[tuple[int, int]]]

    @property
    def shifts(self) -> pl.DataFrame:
        """The shifts that were worked."""
        return self.roster.filter(pl.col("roster_state") != ILL)


def zone_of(hospital_id: str) -> str:
    """The IANA zone of a hospital."""
    return HOSPITALS[hospital_id][3]


def local_to_utc(clocks: pl.Series, zone: str) -> pl.Series:
    """Local wall clocks (naive) as UTC seconds; a skipped hour moves forward."""
    local = clocks.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    forward = (clocks + timedelta(hours=1)).dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    return local.fill_null(forward).dt.convert_time_zone("UTC").dt.epoch("s")


def midnight_utc(day: date, zone: str) -> int:
    """The UTC second of a local midnight."""
    clock = pl.Series([day]).cast(pl.Datetime("us"))
    return int(local_to_utc(clock, zone)[0])


def build_network(
    rng: np.random.Generator, faker: Faker, start: date, days: int, scale: float, variation: Variation | None = None
) -> Network:
    """Everything about the network that does not depend on visits."""
    hospitals = pl.DataFrame(
        [
            (h, name, city, state, zone, str(level), _band(share * VISITS_PER_DAY * 365 * scale))
            for h, (name, city, state, zone, level, share) in HOSPITALS.items()
        ],
        schema=canonical_columns("hospitals"),
        orient="row",
    )
    departments, beds = _departments(rng, start, days, scale)
    doctors = _doctors(rng, faker, scale)
    return Network(
        hospitals, departments, doctors, draw_roster(rng, doctors, start, days, variation or Variation()), beds
    )


def _band(visits: float) -> str:
    low = int(visits // 20_000) * 20_000
    return f"{low}-{low + 19_999}"


def _departments(
    rng: np.random.Generator, start: date, days: int, scale: float
) -> tuple[pl.DataFrame, dict[tuple[str, str], list[tuple[int, int]]]]:
    rows = []
    beds: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for hospital, (*_, zone, _, share) in HOSPITALS.items():
        size = share * 7 * scale
        for name, (code, average, stay) in DEPARTMENTS.items():
            capacity = max(2, round(average * size * (1.35 if name == "Emergency" else 1.6)))
            dates = [start - timedelta(days=400)]
            if rng.random() < 0.35 and days > 10:
                dates.append(start + timedelta(days=int(rng.integers(5, days - 3))))
            for number, effective in enumerate(dates):
                if number:
                    capacity = max(2, round(capacity * rng.choice([0.85, 0.9, 1.1, 1.2])))
                rows.append((f"{hospital}-{code}", hospital, name, str(capacity), str(stay), effective.isoformat()))
                beds.setdefault((hospital, name), []).append((midnight_utc(effective, zone), capacity))
    frame = pl.DataFrame(rows, schema=canonical_columns("departments"), orient="row")
    return frame, beds


def _doctors(rng: np.random.Generator, faker: Faker, scale: float) -> pl.DataFrame:
    rows = []
    number = 0
    for hospital, (*_, share) in HOSPITALS.items():
        for _ in range(doctors_needed(share, scale) * 2):
            number += 1
            rows.append(
                (
                    f"D{number:04d}",
                    hospital,
                    f"{hospital}-EMER",
                    faker.first_name(),
                    faker.last_name(),
                    "Emergency Medicine",
                    f"1{rng.integers(10**8, 10**9)}",
                    date.fromordinal(
                        int(rng.integers(date(2005, 1, 1).toordinal(), date(2025, 6, 1).toordinal()))
                    ).isoformat(),
                )
            )
    return pl.DataFrame(rows, schema=canonical_columns("doctors"), orient="row")


def doctors_needed(share: float, scale: float) -> int:
    """Doctor shifts a hospital fills on an average day."""
    visits = VISITS_PER_DAY * share * scale
    # 1.9 treatment hours a visit, shared between the patients a doctor has at once; 8.6 h a shift,
    # staffed a little above the mean load, so that queues form at peaks and not at night.
    return max(5, round(visits * 1.9 / PATIENTS_PER_DOCTOR / 8.6 * 1.05))


def draw_roster(
    rng: np.random.Generator, doctors: pl.DataFrame, start: date, days: int, variation: Variation
) -> pl.DataFrame:
    """The shifts of the day before the first one and of all days, as planned and as it came (`Network.roster`)."""
    rows: list[tuple[str, str, str, str, int, int, int, str]] = []
    for hospital in HOSPITALS:
        own = doctors.filter(pl.col("hospital_id") == hospital)["doctor_id"].to_list()
        of_week = 0.0
        for offset in range(-1, days):
            day = start + timedelta(days=offset)
            if offset < 0 or day.weekday() == 0:
                of_week = rng.normal(0.0, variation.week)
            share = variation.weekdays[day.weekday()] + of_week + rng.normal(0.0, variation.day)
            planned = planned_doctors(rng, len(own) // 2, share)
            free = iter(rng.permutation(len(own)))
            for place, count in enumerate(planned):
                begin, end = _span_of(day, place, hospital)
                may_be_missing = int(count) - _SHIFT_LEAST[place]
                ill = min(int(rng.binomial(count, variation.ill)), may_be_missing)
                for number in range(count):
                    state = ILL if number < ill else PLANNED
                    rows.append(_shift(own[next(free)], hospital, day, begin, end, begin - _KNOWN_AHEAD, state))
                for late in rng.integers(1, _MOST_LATE + 1, int(rng.binomial(ill, _COVERED))):
                    other = next(free, None)
                    if other is not None:
                        since = begin + int(late) * 3600
                        rows.append(_shift(own[other], hospital, day, since, end, begin, BANK))
    schema = ["shift_id", "doctor_id", "hospital_id", "department_id", "start", "end", "recorded", "roster_state"]
    return pl.DataFrame(rows, schema=schema, orient="row").sort("start", "shift_id")


def roster_ahead(rng: np.random.Generator, doctors: pl.DataFrame, start: date) -> pl.DataFrame:
    """What is planned, before `start`, for the days from it on; columns of `Network.roster`."""
    roster = draw_roster(rng, doctors, start, _KNOWN_AHEAD // 86_400, Variation())
    since = pl.col("hospital_id").replace_strict({name: midnight_utc(start, zone_of(name)) for name in HOSPITALS})
    return roster.filter(pl.col("roster_state") != BANK, pl.col("start") >= since)


def planned_doctors(rng: np.random.Generator, usual: int, share: float) -> np.ndarray:
    """How many doctors are planned for each of a day's shifts.

    Args:
        usual: doctors of a day.
        share: of them, so many more (or fewer).
    """
    planned = np.maximum(1, np.round(np.array(_SHIFT_SHARE) * usual)).astype(int)
    # Rounded by chance, so that small hospitals differ as often as large ones differ much.
    change = int(np.floor(usual * share + rng.random())) if share else 0
    for _ in range(abs(change)):
        # One who comes additionally does not come for the night.
        may = np.flatnonzero(planned > _SHIFT_LEAST) if change < 0 else np.arange(len(planned) - 1)
        if len(may):
            planned[rng.choice(may)] += 1 if change > 0 else -1
    return planned


def _span_of(day: date, place: int, hospital: str) -> tuple[int, int]:
    hour, length = _SHIFTS[place]
    begin = int(local_to_utc(pl.Series([day]).cast(pl.Datetime("us")) + timedelta(hours=hour), zone_of(hospital))[0])
    return begin, begin + length * 3600


def _shift(
    doctor: str, hospital: str, day: date, begin: int, end: int, recorded: int, state: str
) -> tuple[str, str, str, str, int, int, int, str]:
    return f"S{day:%y%m%d}{doctor}", doctor, hospital, f"{hospital}-EMER", begin, end, recorded, state
