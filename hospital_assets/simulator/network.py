"""The network itself: hospitals, departments and their capacity over time, doctors and shifts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl
from faker import Faker

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
#: Share of the network's daily arrivals in each local hour; peaks about noon and 17 to 18 h.
HOUR_SHARE = (
    np.array(
        [
            2.4,
            1.9,
            1.6,
            1.5,
            1.5,
            1.8,
            2.4,
            3.3,
            4.3,
            5.2,
            5.7,
            6.0,
            6.2,
            6.0,
            5.6,
            5.5,
            5.7,
            6.1,
            6.0,
            5.4,
            4.9,
            4.4,
            3.7,
            2.9,
        ]
    )
    / 100.0
)
WEEKDAY_FACTOR = np.array([1.06, 0.99, 0.97, 0.97, 1.00, 1.02, 0.99])
_SHIFTS = ((7, 8), (11, 10), (15, 8), (19, 10), (23, 8))
#: How many of a hospital's doctors work each of the shifts above.
_SHIFT_SHARE = (0.26, 0.24, 0.24, 0.16, 0.13)


@dataclass(frozen=True)
class Network:
    """Frames as the reference data feeds need them, and the shifts as numbers.

    Attributes:
        hospitals: feed columns.
        departments: feed columns, one row per effective date.
        doctors: feed columns.
        shifts: shift_id, doctor_id, hospital_id, department_id, start and end (UTC seconds).
        beds: (hospital, department) -> list of (from UTC second, beds), rising.
    """

    hospitals: pl.DataFrame
    departments: pl.DataFrame
    doctors: pl.DataFrame
    shifts: pl.DataFrame
    beds: dict[tuple[str, str], list[tuple[int, int]]]


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


def seasonal_factor(day: date) -> float:
    """Winter surge: about 12 % above the mean in late January, as much below in late July."""
    return float(1.0 + 0.12 * np.cos(2 * np.pi * (day.timetuple().tm_yday - 25) / 365.25))


def build_network(rng: np.random.Generator, faker: Faker, start: date, days: int, scale: float) -> Network:
    """Everything about the network that does not depend on visits."""
    hospitals = pl.DataFrame(
        [
            (h, name, city, state, zone, str(level), _band(share * VISITS_PER_DAY * 365 * scale))
            for h, (name, city, state, zone, level, share) in HOSPITALS.items()
        ],
        schema=["hospital_id", "hospital_name", "city", "state", "time_zone", "trauma_level", "annual_ed_visits_band"],
        orient="row",
    )
    departments, beds = _departments(rng, start, days, scale)
    doctors = _doctors(rng, faker, scale)
    return Network(hospitals, departments, doctors, _shifts(rng, doctors, start, days), beds)


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
    frame = pl.DataFrame(
        rows,
        schema=["department_id", "hospital_id", "department_name", "bed_capacity", "mean_stay_hours", "effective_date"],
        orient="row",
    )
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
    return pl.DataFrame(
        rows,
        schema=[
            "doctor_id",
            "hospital_id",
            "department_id",
            "first_name",
            "last_name",
            "specialty",
            "npi",
            "hired_date",
        ],
        orient="row",
    )


def doctors_needed(share: float, scale: float) -> int:
    """Doctor shifts a hospital fills on an average day."""
    visits = VISITS_PER_DAY * share * scale
    # 1.9 treatment hours a visit, shared between the patients a doctor has at once; 8.6 h a shift,
    # staffed a little above the mean load, so that queues form at peaks and not at night.
    return max(5, round(visits * 1.9 / PATIENTS_PER_DOCTOR / 8.6 * 1.05))


def _shifts(rng: np.random.Generator, doctors: pl.DataFrame, start: date, days: int) -> pl.DataFrame:
    rows: list[tuple[str, str, str, str, int, int]] = []
    for hospital, zone in ((h, zone_of(h)) for h in HOSPITALS):
        own = doctors.filter(pl.col("hospital_id") == hospital)["doctor_id"].to_list()
        a_day = len(own) // 2
        places = np.repeat(np.arange(len(_SHIFTS)), np.maximum(1, np.round(np.array(_SHIFT_SHARE) * a_day)).astype(int))
        for offset in range(-1, days):
            day = start + timedelta(days=offset)
            today = rng.permutation(len(own))[: len(places)]
            for place, index in zip(places, today, strict=False):
                hour, length = _SHIFTS[place]
                clock = pl.Series([day]).cast(pl.Datetime("us")) + timedelta(hours=hour)
                begin = int(local_to_utc(clock, zone)[0])
                rows.append(
                    (
                        f"S{day:%y%m%d}{own[index]}",
                        own[index],
                        hospital,
                        f"{hospital}-EMER",
                        begin,
                        begin + length * 3600,
                    )
                )
    return pl.DataFrame(
        rows, schema=["shift_id", "doctor_id", "hospital_id", "department_id", "start", "end"], orient="row"
    ).sort("start", "shift_id")
