"""People: a pool of patients per hospital, their groups, and how their records change."""

from __future__ import annotations

import numpy as np
import polars as pl
from faker import Faker

from hospital_assets.simulator.network import HOSPITALS

#: Groups that decide which conditions and wards fit: child, fertile woman, other adult.
CHILD, FERTILE, ADULT = 0, 1, 2

_AGE_BOUNDS = np.array([0, 1, 5, 15, 25, 45, 65, 80, 98])
_AGE_SHARE = np.array([0.03, 0.07, 0.09, 0.13, 0.27, 0.22, 0.13, 0.06])
BLOOD_GROUPS = ("O+", "A+", "B+", "O-", "A-", "AB+", "B-", "AB-")
_BLOOD_SHARE = np.array([38, 34, 9, 7, 6, 3, 2, 1]) / 100
_RACES = (
    "White",
    "Black or African American",
    "Asian",
    "American Indian or Alaska Native",
    "Native Hawaiian or Pacific Islander",
    "Other",
)
_RACE_SHARE = np.array([0.58, 0.21, 0.07, 0.02, 0.01, 0.11])
_INSURERS = ("Medicare", "Medicaid", "Blue Cross Blue Shield", "Aetna", "UnitedHealthcare", "Self-pay")
_CONDITIONS = ("", "Hypertension", "Diabetes", "COPD", "Asthma", "Heart failure", "HIV", "Depression")
_CONDITION_SHARE = np.array([0.52, 0.16, 0.11, 0.06, 0.07, 0.03, 0.01, 0.04])


def build_pool(
    rng: np.random.Generator, faker: Faker, visits_by_hospital: dict[str, int], day_one: int
) -> pl.DataFrame:
    """The patients who may visit, with the truth about each.

    Args:
        faker: for pools of names and streets.
        day_one: first simulated day, as days since 1970.

    Returns:
        one row per patient: index, hospital, names, birth day (days since 1970), sex, group,
        blood group, race, ethnicity, address, insurer, chronic condition, and `weight`, how often
        the person comes compared with others.
    """
    firsts = [faker.first_name() for _ in range(600)]
    lasts = [faker.last_name() for _ in range(900)]
    lasts[:6] = ["Muñoz", "Zoë-Brandt", "Nuñez", "Lefèvre", "Øster", "Gärtner"]
    streets = [faker.street_name() for _ in range(500)]
    homes = []
    for hospital, visits in visits_by_hospital.items():
        homes.append(np.full(max(200, int(visits * 2.5)), list(HOSPITALS).index(hospital)))
    home = np.concatenate(homes)
    n = len(home)
    band = rng.choice(len(_AGE_SHARE), n, p=_AGE_SHARE)
    low, high = _AGE_BOUNDS[band], _AGE_BOUNDS[band + 1]
    age_days = ((low + rng.random(n) * (high - low)) * 365.25).astype(np.int64)
    female = rng.random(n) < 0.53
    years = age_days / 365.25
    group = np.where(years < 15, CHILD, np.where(female & (years >= 16) & (years < 45), FERTILE, ADULT))
    chronic = rng.choice(len(_CONDITIONS), n, p=_CONDITION_SHARE)
    chronic[years < 15] = np.where(chronic[years < 15] == 4, 4, 0)
    hispanic = rng.random(n) < 0.18
    city = np.array([HOSPITALS[h][1] for h in HOSPITALS])[home]
    state = np.array([HOSPITALS[h][2] for h in HOSPITALS])[home]
    insurer = rng.choice(len(_INSURERS), n)
    insurer[years >= 66] = 0

    def pick(pool: list[str] | tuple[str, ...], index: np.ndarray) -> list[str]:
        return [str(text) for text in np.array(pool)[index]]

    return pl.DataFrame(
        {
            "index": np.arange(n),
            "patient_id": [f"P{number:07d}" for number in range(1, n + 1)],
            "home": home,
            "first_name": pick(firsts, rng.integers(0, len(firsts), n)),
            "last_name": pick(lasts, rng.integers(0, len(lasts), n)),
            "birth_day": day_one - age_days,
            "sex": np.where(female, "female", "male"),
            "group": group,
            "race": pick(_RACES, rng.choice(len(_RACES), n, p=_RACE_SHARE)),
            "ethnicity": np.where(hispanic, "Hispanic or Latino", "Not Hispanic or Latino"),
            "blood_group": pick(BLOOD_GROUPS, rng.choice(8, n, p=_BLOOD_SHARE)),
            "street": [
                f"{number} {streets[which]}"
                for number, which in zip(rng.integers(1, 9999, n), rng.integers(0, len(streets), n), strict=True)
            ],
            "city": city,
            "state": state,
            "zip": [f"{code:05d}" for code in rng.integers(10000, 99999, n)],
            "phone": [
                f"555-{a:03d}-{b:04d}" for a, b in zip(rng.integers(100, 999, n), rng.integers(0, 9999, n), strict=True)
            ],
            "insurer": pick(_INSURERS, insurer),
            "pre_existing_condition": pick(_CONDITIONS, chronic),
            "weight": rng.gamma(0.9, 1.0, n) + 0.05 + 0.4 * (years > 65) + 0.4 * (chronic > 0),
        }
    )


def record_versions(
    rng: np.random.Generator, faker: Faker, pool: pl.DataFrame, first_seen: pl.DataFrame, end: int
) -> pl.DataFrame:
    """What the EHR extracts hold: each patient's first record and later changes.

    Args:
        faker: for new streets and names.
        first_seen: index, arrival (UTC second of the first visit), hospital_id.
        end: UTC second after the last simulated one.

    Returns:
        the pool's columns with `recorded` (UTC second) and `hospital_id`, one row per version.
    """
    first = first_seen.join(pool, on="index").sort("arrival", "index")
    n = first.height
    first = first.with_columns(recorded=pl.col("arrival") - pl.Series(rng.integers(20, 280, n)))
    moves = rng.random(n) < 0.03
    insurers = rng.random(n) < 0.03
    marries = (rng.random(n) < 0.005) & (first["sex"] == "female").to_numpy()
    later = first["recorded"].to_numpy() + rng.integers(86_400, 60 * 86_400, n)
    streets = np.array([faker.street_address() for _ in range(300)], dtype=object)
    names = np.array([faker.last_name() for _ in range(200)], dtype=object)
    changed = first.with_columns(
        recorded=pl.Series(later),
        street=pl.when(pl.Series(moves)).then(pl.Series(streets[rng.integers(0, 300, n)].tolist())).otherwise("street"),
        insurer=pl.when(pl.Series(insurers))
        .then(pl.Series(np.array(_INSURERS)[rng.integers(0, 6, n)].tolist()))
        .otherwise("insurer"),
        last_name=pl.when(pl.Series(marries))
        .then(pl.Series(names[rng.integers(0, 200, n)].tolist()))
        .otherwise("last_name"),
    ).filter(pl.Series(moves | insurers | marries) & (pl.col("recorded") < end))
    return pl.concat([first, changed]).drop("arrival")
