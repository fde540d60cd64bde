"""Flow: arrivals, the queue behind the waits, boarding and ward beds.

Everything is in UTC seconds since 1970. Waits are not drawn: they follow from arrivals, urgency and
the doctors on shift; boarding follows from the ward beds that are free.
"""

from __future__ import annotations

import heapq

import numpy as np
import polars as pl

from hospital_assets.simulator.network import DEPARTMENTS, HOSPITALS, PATIENTS_PER_DOCTOR, Network
from hospital_assets.simulator.people import ADULT, CHILD, FERTILE

NEVER = np.iinfo(np.int64).max
LEVEL_SHARE = np.array([0.015, 0.15, 0.43, 0.31, 0.095])
_MEAN_TREATMENT_MINUTES = np.array([190.0, 165.0, 135.0, 75.0, 50.0])
_ADMIT_SHARE = np.array([0.78, 0.48, 0.22, 0.05, 0.02])
_WARDS = {
    CHILD: (("Pediatrics", 0.92), ("ICU", 0.08)),
    FERTILE: (("Maternity", 0.5), ("Surgery", 0.28), ("Cardiology", 0.1), ("ICU", 0.12)),
    ADULT: (("Cardiology", 0.32), ("Surgery", 0.3), ("ICU", 0.2), ("Oncology", 0.18)),
}


def arrivals(rng: np.random.Generator, rates: pl.DataFrame) -> pl.DataFrame:
    """Arrivals at each hospital: hospital, arrival, epidemic (came of one); sorted by arrival."""
    expected = rates["expected_arrivals"].to_numpy()
    counts = rng.poisson(expected)
    n = int(counts.sum())
    share = np.repeat(rates["epidemic_arrivals"].to_numpy() / expected, counts)
    return (
        pl.DataFrame(
            {
                "hospital": np.repeat(rates["hospital"].to_numpy(), counts),
                "arrival": np.repeat(rates["hour_at"].to_numpy(), counts) + rng.integers(0, 3600, n),
                "epidemic": rng.random(n) < share,
            }
        )
        .sort("arrival", "hospital")
        .with_row_index("visit")
    )


def draw_urgency(rng: np.random.Generator, visits: pl.DataFrame) -> pl.DataFrame:
    """Triage level, triage time, arrival mode, patience, treatment and whether admitted."""
    n = visits.height
    level = rng.choice(5, n, p=LEVEL_SHARE) + 1
    old = visits["age_years"].to_numpy() > 65
    arrival = visits["arrival"].to_numpy()
    ambulance = rng.random(n) < np.array([0.85, 0.45, 0.2, 0.07, 0.03])[level - 1]
    helicopter = ambulance & (level == 1) & (rng.random(n) < 0.06)
    to_triage = np.array([60, 150, 420, 540, 600])[level - 1] * rng.gamma(2.0, 0.5, n)
    treatment = _MEAN_TREATMENT_MINUTES[level - 1] * rng.lognormal(-0.18, 0.6, n)
    patience = np.array([1e9, 420.0, 330.0, 290.0, 260.0])[level - 1] * rng.lognormal(0, 0.45, n)
    admit = rng.random(n) < np.clip(_ADMIT_SHARE[level - 1] * np.where(old, 1.35, 0.9), 0, 0.95)
    return visits.with_columns(
        level=pl.Series(level),
        mode=pl.Series(
            np.where(
                helicopter,
                "helicopter",
                np.where(ambulance, "ambulance", np.where(rng.random(n) < 0.01, "other", "walk_in")),
            )
        ),
        handover=pl.Series(np.where(ambulance, arrival + rng.integers(120, 1500, n), -1)),
        triage=pl.Series(arrival + np.maximum(20, to_triage).astype(np.int64)),
        treatment_seconds=pl.Series((treatment * 60).astype(np.int64)),
        patience_seconds=pl.Series(np.minimum(patience * 60, 4e9).astype(np.int64)),
        admit=pl.Series(admit),
    )


def queue(rng: np.random.Generator, visits: pl.DataFrame, network: Network) -> pl.DataFrame:
    """Who sees each patient and when: a priority queue per hospital.

    Urgent patients go first, then the order of triage. A doctor on shift takes a new patient
    while having fewer than `PATIENTS_PER_DOCTOR`; who waits longer than his patience leaves.

    Returns:
        visits with provider (UTC second or -1), doctor_id (or null), room, decision, departure
        (of those who leave unseen) and disposition of those who are not admitted.
    """
    n = visits.height
    provider = np.full(n, -1, dtype=np.int64)
    doctor = np.full(n, None, dtype=object)
    hospital = visits["hospital"].to_numpy()
    triage = visits["triage"].to_numpy()
    level = visits["level"].to_numpy()
    treatment = visits["treatment_seconds"].to_numpy()
    gives_up = visits["arrival"].to_numpy() + visits["patience_seconds"].to_numpy()
    for number, name in enumerate(HOSPITALS):
        mine = np.flatnonzero(hospital == number)
        mine = mine[np.argsort(triage[mine], kind="stable")]
        shifts = network.shifts.filter(pl.col("hospital_id") == name).sort("start", "doctor_id")
        _serve(
            mine,
            triage,
            level,
            treatment,
            gives_up,
            list(shifts.select("start", "end", "doctor_id").iter_rows()),
            provider,
            doctor,
        )
    seen = provider >= 0
    arrival = visits["arrival"].to_numpy()
    decision = np.where(seen, provider + treatment, -1)
    unseen_leaves = np.minimum(gives_up, arrival + 14 * 3600)
    lag = (rng.exponential(22 * 60, n) + 240).astype(np.int64)
    draw = rng.random(n)
    ama = seen & (draw < 0.012) & (level > 1)
    eloped = seen & (draw >= 0.012) & (draw < 0.018) & (level > 2)
    transferred = seen & (draw >= 0.018) & (draw < 0.036)
    died = seen & (level == 1) & (draw > 0.955)
    admit = visits["admit"].to_numpy() & seen & ~(ama | eloped | transferred | died)
    disposition = np.select(
        [~seen, ama, eloped, transferred, died, admit],
        ["left_without_being_seen", "against_medical_advice", "eloped", "transferred", "expired", "admitted"],
        "home",
    )
    room_lead = (rng.exponential(9 * 60, n) + 60).astype(np.int64)
    return visits.with_columns(
        provider=pl.Series(provider),
        doctor_id=pl.Series(doctor.tolist(), dtype=pl.String),
        room=pl.Series(np.where(seen, np.maximum(triage, provider - room_lead), -1)),
        decision=pl.Series(decision),
        departure=pl.Series(np.where(seen, decision + lag, np.maximum(unseen_leaves, triage + 60))),
        disposition=pl.Series(disposition),
        admit=pl.Series(admit),
    )


def _serve(
    order: np.ndarray,
    triage: np.ndarray,
    level: np.ndarray,
    treatment: np.ndarray,
    gives_up: np.ndarray,
    shifts: list[tuple[int, int, str]],
    provider: np.ndarray,
    doctor: np.ndarray,
) -> None:
    """Fill `provider` and `doctor` for one hospital's visits, given in order of triage."""
    waiting: list[tuple[int, int, int]] = []
    busy: list[tuple[int, int]] = []
    load = [0] * len(shifts)
    on_shift: list[int] = []
    next_shift = 0
    position, count = 0, len(order)
    while position < count or waiting:
        next_arrival = int(triage[order[position]]) if position < count else NEVER
        next_free = busy[0][0] if busy else NEVER
        next_start = shifts[next_shift][0] if next_shift < len(shifts) else NEVER
        now = min(next_arrival, next_free, next_start)
        if now == NEVER:
            break
        while next_shift < len(shifts) and shifts[next_shift][0] <= now:
            on_shift.append(next_shift)
            next_shift += 1
        on_shift = [s for s in on_shift if shifts[s][1] > now]
        while busy and busy[0][0] <= now:
            load[heapq.heappop(busy)[1]] -= 1
        while position < count and triage[order[position]] <= now:
            visit = int(order[position])
            heapq.heappush(waiting, (int(level[visit]), int(triage[visit]), visit))
            position += 1
        while waiting and on_shift:
            free = min(on_shift, key=lambda s: (load[s], s))
            # The resuscitation room always finds a doctor.
            if load[free] >= PATIENTS_PER_DOCTOR and waiting[0][0] > 1:
                break
            visit = heapq.heappop(waiting)[2]
            if gives_up[visit] < now:
                continue
            provider[visit] = now
            doctor[visit] = shifts[free][2]
            load[free] += 1
            heapq.heappush(busy, (now + int(treatment[visit]), free))


def ward_stays(rng: np.random.Generator, visits: pl.DataFrame, network: Network, begin: int) -> pl.DataFrame:
    """Ward stays of admitted patients: ward, bed, from, until; departure from the ED follows.

    First come, first served for the beds each ward has at the time; a patient waits in the ED
    until one is free (boarding).

    Returns:
        visit, ward, bed_id, ward_from, ward_until, moves_to (ward or null), moved_at.
    """
    admitted = visits.filter(pl.col("admit")).sort("decision", "visit")
    group = admitted["group"].to_numpy()
    ward = np.empty(admitted.height, dtype=object)
    for value, options in _WARDS.items():
        mask = group == value
        names, shares = zip(*options, strict=True)
        ward[mask] = rng.choice(np.array(names, dtype=object), mask.sum(), p=shares)
    mean = np.array([DEPARTMENTS[w][2] for w in ward]) if len(ward) else np.array([])
    stay = (mean * 3600 * rng.lognormal(-0.25, 0.7, admitted.height)).astype(np.int64)
    ready = admitted["decision"].to_numpy() + (rng.exponential(40 * 60, admitted.height) + 900).astype(np.int64)
    hospital = np.array(list(HOSPITALS), dtype=object)[admitted["hospital"].to_numpy()]
    start = np.zeros(admitted.height, dtype=np.int64)
    bed = np.empty(admitted.height, dtype=object)
    for name in HOSPITALS:
        for department in DEPARTMENTS:
            mine = np.flatnonzero((hospital == name) & (ward == department))
            mine = mine[np.argsort(ready[mine], kind="stable")]
            if len(mine):
                _assign_beds(
                    rng,
                    mine,
                    ready,
                    stay,
                    network.beds[name, department],
                    f"{name}-{DEPARTMENTS[department][0]}",
                    begin,
                    start,
                    bed,
                )
    moves = rng.random(admitted.height) < 0.12
    target = np.where(ward == "ICU", "Surgery", np.where(ward == "Surgery", "ICU", "Surgery"))
    is_child = group == CHILD
    moves &= ~is_child & (ward != "Maternity")
    moved_at = start + (stay * rng.uniform(0.3, 0.7, admitted.height)).astype(np.int64)
    return admitted.select("visit").with_columns(
        ward=pl.Series(ward.tolist(), dtype=pl.String),
        bed_id=pl.Series(bed.tolist(), dtype=pl.String),
        ward_from=pl.Series(start),
        ward_until=pl.Series(start + stay),
        moves_to=pl.Series([to if moved else None for to, moved in zip(target, moves, strict=True)], dtype=pl.String),
        moved_at=pl.Series(np.where(moves, moved_at, -1)),
    )


def _assign_beds(
    rng: np.random.Generator,
    order: np.ndarray,
    ready: np.ndarray,
    stay: np.ndarray,
    capacity: list[tuple[int, int]],
    prefix: str,
    begin: int,
    start: np.ndarray,
    bed: np.ndarray,
) -> None:
    """Fill `start` and `bed` for one ward. Capacity that shrinks closes beds as they empty."""
    most = max(beds for _, beds in capacity)
    now_beds = capacity[0][1]
    # The wards are partly full on the first day.
    used = int(now_beds * 0.6)
    occupied = [(int(begin + t), number) for number, t in enumerate(rng.exponential(36 * 3600, used))]
    heapq.heapify(occupied)
    free = list(range(used, most))
    heapq.heapify(free)
    for index in order:
        at = int(ready[index])
        while occupied and occupied[0][0] <= at:
            heapq.heappush(free, heapq.heappop(occupied)[1])
        beds = next(beds for since, beds in reversed(capacity) if since <= at)
        while not free or len(occupied) >= beds:
            at, number = heapq.heappop(occupied)
            heapq.heappush(free, number)
            beds = next(beds for since, beds in reversed(capacity) if since <= at)
        number = heapq.heappop(free)
        start[index] = at
        bed[index] = f"{prefix}-{number + 1:02d}"
        heapq.heappush(occupied, (at + int(stay[index]), number))


def link_returns(
    rng: np.random.Generator, visits: pl.DataFrame, person: np.ndarray, left: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Make some patients come back: within 72 hours of going home, 30 days of leaving a ward.

    A return is a later visit at the same hospital by a person of the same group, whose own person
    is replaced by the returning one.

    Returns:
        the persons by visit, and the visit each return follows (-1 for none).
    """
    n = visits.height
    hospital = visits["hospital"].to_numpy()
    group = visits["group"].to_numpy()
    arrival = visits["arrival"].to_numpy()
    disposition = visits["disposition"].to_numpy()
    home = np.isin(disposition, ["home", "left_without_being_seen", "against_medical_advice"])
    draw = rng.random(n)
    wants = np.where(
        home & (draw < 0.032),
        left + rng.integers(2 * 3600, 72 * 3600, n),
        np.where((disposition == "admitted") & (draw < 0.13), left + rng.integers(12 * 3600, 30 * 86_400, n), NEVER),
    )
    parent = np.full(n, -1, dtype=np.int64)
    person = person.copy()
    for place in range(len(HOSPITALS)):
        for kind in (CHILD, FERTILE, ADULT):
            mine = np.flatnonzero((hospital == place) & (group == kind))
            times = arrival[mine]
            for visit in mine[wants[mine] < NEVER]:
                slot = int(np.searchsorted(times, wants[visit]))
                while slot < len(mine) and parent[mine[slot]] >= 0:
                    slot += 1
                if slot < len(mine) and times[slot] - wants[visit] < 12 * 3600:
                    parent[mine[slot]] = visit
    for visit in np.flatnonzero(parent >= 0):
        person[visit] = person[parent[visit]]
    return person, parent


def without_overlaps(person: np.ndarray, arrival: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Which visits start while the same person still is in an earlier one."""
    order = np.lexsort((arrival, person))
    clash = np.zeros(len(person), dtype=bool)
    previous = -1
    until = -1
    for visit in order:
        if person[visit] != previous:
            previous, until = person[visit], -1
        clash[visit] = arrival[visit] <= until
        if not clash[visit]:
            until = max(until, left[visit])
    return clash
