"""What every KPI should be: plain Python over rows of facts and dimensions, written from the catalogue (docs/kpis.md).

Independent of the transforms on purpose: loops, dictionaries and the standard library; nothing is imported from the
package. A definition that changes has to be changed here too, by somebody who reads it again. An oracle is a function
of the stored rows that gives the expected rows of one table: key -> the columns it vouches for. Here facts are taken
as they are, so that every table can be held against it however spoilt the records; `oracle` says what they must be.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from itertools import pairwise, product
from pathlib import Path
from statistics import fmean, median
from typing import Any
from zoneinfo import ZoneInfo

import duckdb

from hospital_assets_tests.oracle import newest, principal_codes

Row = dict[str, Any]
Expected = dict[tuple[Any, ...], Row]
ALL = "all"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class Stored:
    """The rows of a built warehouse, and what several oracles look up in them."""

    def __init__(self, file: Path, as_of: datetime) -> None:
        self.as_of = as_of
        #: The last service day; nobody who came later has landed.
        self.last_day: date | None = None
        self._connection = duckdb.connect(str(file), read_only=True)
        self._connection.execute("set TimeZone = 'UTC'")
        self._rows: dict[str, list[Row]] = {}

    def close(self) -> None:
        self._connection.close()

    def rows(self, table: str) -> list[Row]:
        """A table's rows; instants in UTC."""
        if table not in self._rows:
            found = self._connection.execute(f"select * from {table}")
            names = [column[0] for column in found.description or ()]
            self._rows[table] = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
        return self._rows[table]

    def dimension(self, name: str) -> dict[int, Row]:
        return {row[f"{name}_key"]: row for row in self.rows(f"dimensions.dim_{name}")}

    @cached_property
    def hospitals(self) -> dict[int, Row]:
        return self.dimension("hospital")

    @cached_property
    def zones(self) -> dict[str, ZoneInfo]:
        return {row["hospital_id"]: ZoneInfo(row["time_zone"]) for row in self.hospitals.values()}

    @cached_property
    def persons(self) -> dict[int, int | None]:
        """Version of a patient -> the person; None for an unknown one."""
        person = {row["patient_durable_key"]: row["person_key"] for row in self.rows("dimensions.dim_person")}
        return {
            row["patient_key"]: person.get(row["patient_durable_key"], row["patient_durable_key"])
            if row["patient_key"] > 0
            else None
            for row in self.rows("dimensions.dim_patient")
        }

    @cached_property
    def visits(self) -> list[Row]:
        """Emergency visits with the names their keys stand for."""
        departments, conditions = self.dimension("department"), self.dimension("condition")
        found = []
        for row in self.rows("facts.fact_emergency_visits"):
            hospital = self.hospitals[row["hospital_key"]]
            # Of an arrival known by its day nobody knows whether triage came earlier.
            starts = [t for t in (row["arrival_at"], row["triage_at"]) if t and row["arrival_at"]]
            found.append(
                {
                    **row,
                    "hospital_id": hospital["hospital_id"],
                    "zone": ZoneInfo(hospital["time_zone"]),
                    "department_name": departments[row["department_key"]]["department_name"],
                    "triage_group": str(row["triage_level"]) if row["triage_level"] else "untriaged",
                    "condition": conditions[row["condition_key"]],
                    "person": self.persons[row["patient_key"]],
                    "start": min(starts) if starts else None,
                }
            )
        return found

    @cached_property
    def stays(self) -> list[Row]:
        """Stays folded from their segments; the emergency and the inpatient part of one number are a stay each."""
        departments = self.dimension("department")
        folded: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in self.rows("facts.fact_patient_flow"):
            folded[row["stay_id"], row["stay_class"]].append(row)
        found = []
        for segments in folded.values():
            segments.sort(key=lambda s: s["segment_number"])
            last = segments[-1]
            hospital = self.hospitals[last["hospital_key"]]
            found.append(
                {
                    **last,
                    "segments": segments,
                    "hospital_id": hospital["hospital_id"],
                    "zone": ZoneInfo(hospital["time_zone"]),
                    "department_name": departments[last["department_key"]]["department_name"],
                    "person": self.persons[last["patient_key"]],
                }
            )
        return found


def left_by_day(visit: Row) -> bool:
    """Whether the visit is over and only the day of its departure is known."""
    return "departure_time_unknown" in (visit["quality_codes"] or "").split(";")


def gone_by(visit: Row, as_of: datetime) -> datetime | None:
    """When the patient had left; at an unknown time of a known day: at the latest after three days, or by now."""
    if left_by_day(visit):
        return min(as_of, visit["arrival_at"] + 72 * HOUR)
    return visit["departure_at"]  # type: ignore[no-any-return]


def was_seen(visit: Row) -> bool:
    """Whether a provider saw the patient, be it at a time that nobody knows."""
    return visit["provider_at"] is not None or "provider_time_unknown" in (visit["quality_codes"] or "").split(";")


def went_away(visit: Row) -> bool:
    """Whether the patient went unseen, against advice or eloped; about all others who are gone somebody decided."""
    return visit["disposition"] in ("left_without_being_seen", "against_medical_advice", "eloped")


def ended_on(visit: Row) -> date:
    """The local day of departure, or of arrival where that is not known."""
    end = visit["departure_at"] or visit["arrival_at"]
    day: date = end.astimezone(visit["zone"]).date() if end else visit["service_date"]
    return day


def _without_end(visit: Row) -> str | None:
    """Why nobody can say how long a visit took: it is not over, or a time is unknown."""
    if visit["departure_at"] is None and not left_by_day(visit):
        return "open"
    return "untimed" if visit["departure_at"] is None or visit["arrival_at"] is None else None


def minutes(start: datetime | None, end: datetime | None) -> float | None:
    return (end - start) / timedelta(minutes=1) if start and end else None


def quantile(values: Sequence[float], share: float) -> float | None:
    """The quantile with linear interpolation (R's type 7)."""
    if not values:
        return None
    ordered, place = sorted(values), share * (len(values) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))


def middle(values: Sequence[float]) -> float | None:
    return median(values) if values else None


def mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def pct(part: float, whole: float) -> float | None:
    return 100 * part / whole if whole else None


def pooled(*parts: Any, also_all: Iterable[int] = ()) -> Iterator[tuple[Any, ...]]:
    """A key, and the keys of the totals it counts in: `all` in any of the places named."""
    places = set(also_all)
    yield from product(*((part, ALL) if place in places else (part,) for place, part in enumerate(parts)))


def grouped(
    rows: Iterable[Row], key: Callable[[Row], tuple[Any, ...]], also_all: Iterable[int]
) -> dict[Any, list[Row]]:
    """Rows by key, totals included."""
    found: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        for each in pooled(*key(row), also_all=also_all):
            found[each].append(row)
    return found


def rate(
    rows: Iterable[Row],
    key: Callable[[Row], tuple[Any, ...]],
    also_all: Iterable[int],
    reason: Callable[[Row], str | None],
    reasons: Sequence[str],
    hit: Callable[[Row], bool | None] | None = None,
    more: Callable[[list[Row]], Row] | None = None,
) -> Expected:
    """Population, exclusions by their first reason, n, numerator and its share; `more` sees those that are in."""
    found: Expected = {}
    for each, group in grouped(rows, key, also_all).items():
        reasons_of = Counter(reason(row) for row in group)
        members = [row for row in group if reason(row) is None]
        figures: Row = {"population_count": len(group), "denominator_count": len(members)}
        figures |= {f"excluded_{name}_count": reasons_of[name] for name in reasons}
        if hit:
            hits = sum(1 for row in members if hit(row))
            figures |= {"numerator_count": hits, "value_pct": pct(hits, len(members))}
        found[each] = {**figures, **(more(members) if more else {})}
    return found


# Waits --------------------------------------------------------------------------------------------


def wait_reason(visit: Row) -> str | None:
    start, seen, left = visit["start"], visit["provider_at"], visit["departure_at"]
    if visit["is_cancelled"]:
        return "cancelled"
    if seen is None:
        return "no_provider"
    if start is None:
        return "no_start"
    if seen < start:
        return "negative"
    if left is not None and seen > left:
        return "after_departure"
    return "too_long" if (seen - start) / timedelta(minutes=1) >= 100_000 else None


WAIT_REASONS = ("cancelled", "no_provider", "no_start", "negative", "after_departure", "too_long")


def wait_of(visit: Row) -> float | None:
    return minutes(visit["start"], visit["provider_at"]) if wait_reason(visit) is None else None


def _wait_figures(group: list[Row]) -> Row:
    reasons = Counter(wait_reason(row) for row in group)
    waits = [w for row in group if (w := wait_of(row)) is not None]
    return {
        "visit_count": len(group),
        "wait_count": len(waits),
        **{f"excluded_{name}_count": reasons[name] for name in WAIT_REASONS},
        "wait_sum_minutes": sum(waits),
        "wait_average_minutes": mean(waits),
        "wait_median_minutes": middle(waits),
        "wait_p90_minutes": quantile(waits, 0.9),
        "wait_max_minutes": max(waits, default=None),
    }


def _place(row: Row) -> tuple[Any, ...]:
    return row["hospital_id"], row["department_name"], row["triage_group"]


def kpi_waits_daily(stored: Stored) -> Expected:
    groups = grouped(stored.visits, lambda v: (v["service_date"], *_place(v)), (1, 2, 3))
    return {key: _wait_figures(group) for key, group in groups.items()}


def kpi_waits(stored: Stored) -> Expected:
    return {key: _wait_figures(group) for key, group in grouped(stored.visits, _place, (0, 1, 2)).items()}


def kpi_waits_rolling(stored: Stored) -> Expected:
    groups = grouped(stored.visits, lambda v: (v["service_date"], v["hospital_id"]), (1,))
    daily = {}
    for key, group in groups.items():
        waits = [w for row in group if (w := wait_of(row)) is not None]
        daily[key] = (len(waits), sum(waits))
    found: Expected = {}
    for day, hospital in daily:
        window = [daily[d, hospital] for n in range(7) if (d := day - n * DAY, hospital) in daily]
        count, total = sum(c for c, _ in window), sum(s for _, s in window)
        found[day, hospital] = {
            "day_wait_count": daily[day, hospital][0],
            "day_wait_sum_minutes": daily[day, hospital][1],
            "rolling_wait_count": count,
            "rolling_wait_sum_minutes": total,
            "rolling_wait_average_minutes": total / count if count else None,
            "days_in_window_count": len(window),
        }
    return found


# Arrivals -----------------------------------------------------------------------------------------


def local_hours(day: date, zone: ZoneInfo) -> Counter[int]:
    """How often the wall clock ran through each hour of a local day, or through a part of it."""
    start, end = _day_bounds(day, zone)
    times: Counter[int] = Counter()
    before: datetime | None = None
    for quarter in range(round((end - start) / timedelta(minutes=15))):
        shows = (start + quarter * timedelta(minutes=15)).astimezone(zone).replace(tzinfo=None)
        if before is None or shows.hour != before.hour or shows < before:
            times[shows.hour] += 1
        before = shows
    return times


def _quiet_filled(days: Iterable[date]) -> set[date]:
    """Days with records, and those between two of them that are at most 31 days apart."""
    ordered = sorted(set(days))
    filled = set(ordered)
    for earlier, later in pairwise(ordered):
        if (later - earlier).days <= 31:
            filled |= {earlier + n * DAY for n in range((later - earlier).days)}
    return filled


def kpi_arrivals_hourly(stored: Stored) -> Expected:
    arrivals: Counter[tuple[Any, ...]] = Counter()
    # A day is one of the whole network: where others had visits, a hospital without any had none.
    days = _quiet_filled(visit["service_date"] for visit in stored.visits)
    hospitals = [row["hospital_id"] for key, row in stored.hospitals.items() if key > 0]
    for visit in stored.visits:
        # An arrival known by its day has no hour.
        if not visit["is_cancelled"] and visit["arrival_at"] is not None:
            local = visit["arrival_at"].astimezone(visit["zone"])
            arrivals[visit["service_date"], visit["hospital_id"], local.hour] += 1
    return {
        (day, hospital, hour): {
            "iso_weekday_number": day.isoweekday(),
            "existing_hours_count": times[hour],
            "arrivals_count": arrivals[day, hospital, hour],
        }
        for hospital, day in product(hospitals, days)
        for times in [local_hours(day, stored.zones[hospital])]
        for hour in range(24)
    }


def last_day_over(stored: Stored) -> date:
    """The last day that has ended everywhere on Earth: the zone that is last is twelve hours behind."""
    return (stored.as_of - 12 * HOUR).date() - DAY


def kpi_peak_hours(stored: Stored) -> Expected:
    existing: Counter[tuple[Any, ...]] = Counter()
    arrivals: Counter[tuple[Any, ...]] = Counter()
    # A day that goes on has hours in which nobody can have come yet.
    hours = {key: row for key, row in kpi_arrivals_hourly(stored).items() if key[0] <= last_day_over(stored)}
    came: dict[str, set[date]] = defaultdict(set)
    for (day, hospital, _), row in hours.items():
        if row["arrivals_count"]:
            came[hospital].add(day)
    end = max((day for day, *_ in hours), default=None)
    # A hospital that has not begun has no hours, nor one whose feed is silent for more than a month.
    known = {
        (day, hospital)
        for hospital, days in came.items()
        if end is not None
        for day in _quiet_filled([*days, end + DAY]) - {end + DAY}
    }
    for (day, hospital, hour), row in hours.items():
        if (day, hospital) not in known:
            continue
        for key in pooled(hospital, day.isoweekday(), hour, also_all=(0,)):
            existing[key] += row["existing_hours_count"]
            arrivals[key] += row["arrivals_count"]
    return {
        key: {
            "existing_hours_count": times,
            "arrivals_count": arrivals[key],
            "arrivals_per_hour": arrivals[key] / times if times else None,
        }
        for key, times in existing.items()
    }


# Cases and people ---------------------------------------------------------------------------------


def _real(visits: Iterable[Row]) -> list[Row]:
    return [visit for visit in visits if not visit["is_cancelled"]]


def _code(visit: Row) -> tuple[Any, ...]:
    return visit["condition"]["icd_version"], visit["condition"]["icd_code"]


def kpi_conditions_daily(stored: Stored) -> Expected:
    groups = grouped(_real(stored.visits), lambda v: (v["service_date"], v["hospital_id"], *_code(v)), ())
    return {key: {"visit_count": len(group)} for key, group in groups.items()}


def _shares(stored: Stored, key: Callable[[Row], tuple[Any, ...]], not_coded: Callable[[Row], bool]) -> Expected:
    visits = _real(stored.visits)
    coded: Counter[str] = Counter()
    for visit in visits:
        if not not_coded(visit):
            coded[visit["hospital_id"]] += 1
            coded[ALL] += 1
    groups = grouped(visits, lambda v: (v["hospital_id"], *key(v)), (0,))
    return {
        each: {
            "visit_count": len(group),
            "coded_visit_count": coded[each[0]],
            "share_pct": None if not_coded(group[0]) else pct(len(group), coded[each[0]]),
        }
        for each, group in groups.items()
    }


def kpi_conditions(stored: Stored) -> Expected:
    return _shares(stored, _code, lambda v: v["condition"]["icd_code"] == "not_coded")


def kpi_condition_groups(stored: Stored) -> Expected:
    return _shares(
        stored,
        lambda v: (v["condition"]["condition_group"],),
        lambda v: v["condition"]["condition_group"] == "not_coded",
    )


#: Longest waits by ESI level; "at once" is kept within two minutes.
ESI_MINUTES = {1: 2, 2: 10, 3: 30, 4: 60, 5: 120}


def _within_target(group: list[Row]) -> Row:
    waits = [(w, ESI_MINUTES[v["triage_level"]]) for v in group if v["triage_level"] and (w := wait_of(v)) is not None]
    return {
        "visit_count": len(group),
        "critical_visit_count": sum(1 for v in group if v["triage_level"] in (1, 2)),
        "target_evaluable_count": len(waits),
        "within_target_count": sum(1 for wait, target in waits if wait <= target),
    }


def kpi_triage_mix_daily(stored: Stored) -> Expected:
    groups = grouped(_real(stored.visits), lambda v: (*_day(v), v["triage_group"]), ())
    return {key: _within_target(group) for key, group in groups.items()}


def kpi_triage_mix(stored: Stored) -> Expected:
    visits = _real(stored.visits)
    triaged = Counter(h for v in visits if v["triage_level"] for h in (v["hospital_id"], ALL))
    found: Expected = {}
    for key, group in grouped(visits, lambda v: (v["hospital_id"], v["triage_group"]), (0,)).items():
        found[key] = {
            **_within_target(group),
            "triaged_visit_count": triaged[key[0]],
            "share_of_triaged_pct": None if key[1] == "untriaged" else pct(len(group), triaged[key[0]]),
        }
    return found


def _age_band(age: int | None) -> str:
    if age is None:
        return "unknown"
    for low, high in ((0, 0), (1, 4), (5, 14), (15, 17), (18, 24), (25, 34), (35, 44), (45, 54), (55, 64)):
        if low <= age <= high:
            return f"{low:02}-{high:02}"
    for low, high in ((65, 74), (75, 84), (85, 89)):
        if low <= age <= high:
            return f"{low}-{high}"
    return "90+"


def kpi_demographics(stored: Stored) -> Expected:
    patients = stored.dimension("patient")
    visits = _real(stored.visits)
    total = Counter(h for v in visits for h in (v["hospital_id"], ALL))
    found: Expected = {}
    for name in ("age_band", "sex", "race", "ethnicity"):

        def category(visit: Row, name: str = name) -> tuple[Any, ...]:
            if name == "age_band":
                return visit["hospital_id"], name, _age_band(visit["age_years"])
            return visit["hospital_id"], name, patients[visit["patient_key"]][name] or "unknown"

        for key, group in grouped(visits, category, (0,)).items():
            found[key] = {
                "patient_count": len({v["person"] for v in group} - {None}),
                "visit_count": len(group),
                "share_of_visits_pct": pct(len(group), total[key[0]]),
            }
    return found


def kpi_blood_groups(stored: Stored) -> Expected:
    patients = stored.dimension("patient")
    groups = grouped(
        _real(stored.visits), lambda v: (v["hospital_id"], patients[v["patient_key"]]["blood_group"] or "unknown"), (0,)
    )
    persons = {key: len({v["person"] for v in group} - {None}) for key, group in groups.items()}
    known: Counter[str] = Counter()
    for (hospital, group), count in persons.items():
        known[hospital] += count if group != "unknown" else 0
    return {
        key: {
            "patient_count": persons[key],
            "visit_count": len(group),
            "known_patient_count": known[key[0]],
            "share_pct": None if key[1] == "unknown" else pct(persons[key], known[key[0]]),
        }
        for key, group in groups.items()
    }


def kpi_procedures(stored: Stored) -> Expected:
    newest: dict[str, Row] = {}
    for row in sorted(stored.rows("cleaned.cleaned_procedures"), key=lambda r: (r["recorded_at"], r["service_date"])):
        newest[row["procedure_id"]] = row
    groups = grouped(newest.values(), lambda r: (r["hospital_id"], r["procedure_code"]), (0,))
    total: Counter[str] = Counter()
    for (hospital, _), group in groups.items():
        total[hospital] += len(group)
    return {
        key: {
            "procedure_count": len(group),
            "visit_count": len({r["visit_id"] for r in group}),
            "share_pct": pct(len(group), total[key[0]]),
        }
        for key, group in groups.items()
    }


def kpi_physician_workload_daily(stored: Stored) -> Expected:
    """New patients by day of arrival and first provider, and hours in the department by day of the shift's start."""
    visits = Counter(
        (v["service_date"], v["doctor_key"])
        for v in _real(stored.visits)
        if v["doctor_key"] != -2 and not _left_unseen(v)
    )
    hours: dict[tuple[Any, ...], float] = defaultdict(float)
    departments = stored.dimension("department")
    for row in stored.rows("facts.fact_doctor_shifts"):
        if departments[row["department_key"]]["department_name"] != "Emergency":
            continue
        hours[row["service_date"], row["doctor_key"]] += (row["shift_end_at"] - row["shift_start_at"]) / HOUR
    return {
        key: {"visit_count": visits[key], "shift_hours": hours.get(key, 0.0)} for key in visits.keys() | hours.keys()
    }


def kpi_physician_workload(stored: Stored) -> Expected:
    visits: Counter[int] = Counter()
    hours: dict[int, float] = defaultdict(float)
    for (day, doctor), row in kpi_physician_workload_daily(stored).items():
        if day > last_day_over(stored):
            continue
        visits[doctor] += row["visit_count"]
        hours[doctor] += row["shift_hours"]
    hospital_of = {key: row["hospital_key"] for key, row in stored.dimension("doctor").items()}
    by_hospital: dict[int, list[int]] = defaultdict(list)
    for doctor in visits:
        if doctor > 0:
            by_hospital[hospital_of[doctor]].append(doctor)
    found: Expected = {}
    for doctor in visits:
        colleagues = by_hospital[hospital_of[doctor]] if doctor > 0 else []
        anybody_works = any(hours[d] > 0 for d in colleagues)
        compared = [d for d in colleagues if hours[d] > 0 or not anybody_works]
        expected = None
        if doctor in compared:
            share = hours[doctor] / sum(hours[d] for d in compared) if anybody_works else 1 / len(compared)
            expected = share * sum(visits[d] for d in compared) or None
        found[(doctor,)] = {
            "visit_count": visits[doctor],
            "shift_hours": hours[doctor],
            "visits_per_shift_hour": visits[doctor] / hours[doctor] if hours[doctor] else None,
            "expected_visit_count": expected,
            "lower_limit_count": max(0.0, expected - 3 * math.sqrt(expected)) if expected else None,
            "upper_limit_count": expected + 3 * math.sqrt(expected) if expected else None,
        }
    return found


# Emergency rates ----------------------------------------------------------------------------------

LEFT = {"left_without_being_seen", "against_medical_advice", "eloped"}


def _day(row: Row) -> tuple[Any, ...]:
    return row["service_date"], row["hospital_id"]


def _left_unseen(visit: Row) -> bool:
    return went_away(visit) and not was_seen(visit)


def kpi_lwbs_daily(stored: Stored) -> Expected:
    def reason(visit: Row) -> str | None:
        if visit["is_cancelled"]:
            return "cancelled"
        return "unknown" if visit["disposition"] is None else None

    return rate(stored.visits, _day, (1,), reason, ("cancelled", "unknown"), _left_unseen)


def kpi_four_hour_daily(stored: Stored) -> Expected:
    def reason(visit: Row) -> str | None:
        if visit["is_cancelled"]:
            return "cancelled"
        return _without_end(visit) or ("negative" if visit["departure_at"] < visit["arrival_at"] else None)

    def clock(visit: Row) -> float:
        start = visit["arrival_at"]
        if visit["arrival_mode"] == "ambulance":
            latest = start + timedelta(minutes=15)
            handover = visit["handover_at"]
            start = min(handover, latest) if handover and handover >= start else latest
        return max(0.0, (visit["departure_at"] - start) / timedelta(minutes=1))

    def key(visit: Row) -> tuple[Any, ...]:
        end = visit["departure_at"]
        local = end.astimezone(visit["zone"]).date() if end else visit["service_date"]
        return visit["service_date"], local, visit["hospital_id"]

    return rate(
        stored.visits,
        key,
        (2,),
        reason,
        ("cancelled", "open", "untimed", "negative"),
        lambda v: clock(v) <= 240,
        lambda members: {
            "over_12_hours_count": sum(1 for v in members if v["departure_at"] - v["arrival_at"] > 12 * HOUR)
        },
    )


def kpi_critical_waits_daily(stored: Stored) -> Expected:
    limit = timedelta(minutes=15)

    def state(visit: Row) -> str:
        start, seen, left = visit["start"], visit["provider_at"], visit["departure_at"]
        if visit["is_cancelled"]:
            return "cancelled"
        is_over = left is not None or left_by_day(visit)
        if was_seen(visit):
            end = seen
        elif is_over:
            end = left if went_away(visit) else None
        elif visit["arrival_at"] and visit["arrival_at"] + 72 * HOUR <= stored.as_of:
            return "lapsed"
        else:
            end = stored.as_of
        if (
            start is None
            or end is None
            or end < start
            or (seen and left and seen > left)
            or end - start >= timedelta(minutes=100_000)
        ):
            return "invalid"
        if end - start > limit:
            return "seen_late" if seen else "left_late" if left else "waiting_late"
        return "in_time" if seen or left else "pending"

    return rate(
        [v for v in stored.visits if v["triage_level"] in (1, 2)],
        _day,
        (1,),
        lambda v: s if (s := state(v)) in ("cancelled", "lapsed", "pending", "invalid") else None,
        ("cancelled", "lapsed", "pending", "invalid"),
        lambda v: state(v).endswith("late"),
        lambda members: {
            f"{name}_count": sum(1 for v in members if state(v) == name)
            for name in ("seen_late", "left_late", "waiting_late")
        },
    )


def kpi_seen_on_time_daily(stored: Stored) -> Expected:
    targets = {
        (row["scale"], row["level"]): row["target_minutes"]
        for row in stored.rows("dimensions.dim_triage")
        if row["level"]
    }
    found: Expected = {}
    for scale in {scale for scale, _ in targets}:

        def hit(visit: Row, scale: str = scale) -> bool:
            wait = wait_of(visit)
            assert wait is not None
            return wait <= max(targets[scale, visit["triage_level"]], 2)

        def reason(visit: Row) -> str | None:
            if visit["is_cancelled"]:
                return "cancelled"
            if visit["triage_level"] is None:
                return "untriaged"
            return "no_wait" if wait_of(visit) is None else None

        found |= rate(
            stored.visits,
            lambda v, scale=scale: (*_day(v), scale, v["triage_group"]),  # type: ignore[misc]
            (1, 3),
            reason,
            ("cancelled", "untriaged", "no_wait"),
            hit,
        )
    return found


def kpi_op18(stored: Stored) -> Expected:
    def reason(visit: Row) -> str | None:
        start, end, how = visit["start"], visit["departure_at"], visit["disposition"]
        if visit["is_cancelled"]:
            return "cancelled"
        if start is None or end is None or end < start:
            return "clock"
        if how in ("admitted", "expired"):
            return str(how)
        if how in LEFT:
            return "left"
        return "unknown" if how in (None, "other") else None

    def strata(visit: Row) -> dict[str, bool]:
        mental, transferred = visit["condition"]["is_mental_health"], visit["disposition"] == "transferred"
        return {
            "all": True,
            "reported": not mental and not transferred,
            "mental_health": mental and not transferred,
            "transferred": transferred,
        }

    found: Expected = {}
    for stratum in ("all", "reported", "mental_health", "transferred"):

        def in_stratum(visit: Row, stratum: str = stratum) -> str | None:
            return reason(visit) or (None if strata(visit)[stratum] else "other_stratum")

        def key(visit: Row, stratum: str = stratum) -> tuple[Any, ...]:
            return ended_on(visit).replace(day=1), visit["hospital_id"], stratum

        found |= rate(
            stored.visits,
            key,
            (1,),
            in_stratum,
            ("cancelled", "admitted", "expired", "left", "unknown", "clock", "other_stratum"),
            None,
            lambda members: {
                "median_minutes": middle([minutes(v["start"], v["departure_at"]) or 0.0 for v in members])
            },
        )
    return found


def kpi_stages_daily(stored: Stored) -> Expected:
    steps = (
        ("triage", "arrival_at", "triage_at"),
        ("room", "triage_at", "room_at"),
        ("provider", "room_at", "provider_at"),
        ("decision", "provider_at", "decision_at"),
        ("departure", "decision_at", "departure_at"),
    )

    def is_reached(visit: Row, clock: str) -> bool:
        if clock == "provider_at":
            return was_seen(visit)
        return visit[clock] is not None or (clock == "departure_at" and left_by_day(visit))

    found: Expected = {}
    for stage, since, until in steps:

        def timed(visit: Row, since: str = since, until: str = until) -> float | None:
            taken = minutes(visit[since], visit[until])
            return taken if taken is not None and taken >= 0 else None

        def figures(members: list[Row], until: str = until, timed: Callable[[Row], float | None] = timed) -> Row:
            taken = [t for v in members if (t := timed(v)) is not None]
            reached = sum(1 for v in members if is_reached(v, until))
            return {
                "timed_count": len(taken),
                "untimed_count": reached - len(taken),
                "stage_sum_minutes": sum(taken),
                "stage_median_minutes": middle(taken),
                "stage_p90_minutes": quantile(taken, 0.9),
            }

        found |= rate(
            stored.visits,
            lambda v, stage=stage: (v["service_date"], *_place(v), stage),  # type: ignore[misc]
            (1, 2, 3),
            lambda v: "cancelled" if v["is_cancelled"] else None,
            ("cancelled",),
            lambda v, until=until: is_reached(v, until),  # type: ignore[misc]
            figures,
        )
    return found


def kpi_pathways_daily(stored: Stored) -> Expected:
    def key(visit: Row) -> tuple[Any, ...]:
        how = visit["disposition"]
        ended = how or ("unknown" if visit["departure_at"] or left_by_day(visit) else "still open")
        return visit["service_date"], *_place(visit), visit["arrival_mode"], ended

    return {key: {"visit_count": len(group)} for key, group in grouped(_real(stored.visits), key, ()).items()}


def kpi_handovers_daily(stored: Stored) -> Expected:
    def reason(visit: Row) -> str | None:
        if visit["is_cancelled"]:
            return "cancelled"
        if visit["handover_at"] is None:
            return "no_handover"
        if visit["arrival_at"] is None:
            return "no_handover"
        return "negative" if visit["handover_at"] < visit["arrival_at"] else None

    def taken(visit: Row) -> float:
        return (visit["handover_at"] - visit["arrival_at"]) / timedelta(minutes=1)

    return rate(
        [v for v in stored.visits if v["arrival_mode"] == "ambulance"],
        lambda v: (v["service_date"], *_place(v)),
        (1, 2, 3),
        reason,
        ("cancelled", "no_handover", "negative"),
        lambda v: taken(v) > 15,
        lambda members: {
            "over_30_minutes_count": sum(1 for v in members if taken(v) > 30),
            "over_60_minutes_count": sum(1 for v in members if taken(v) > 60),
            "handover_sum_minutes": sum(map(taken, members)),
        },
    )


def kpi_ecat(stored: Stored) -> Expected:
    def whole(start: datetime | None, end: datetime | None) -> int:
        """Whole minutes that have passed, as the measure compares them; none where a clock is missing."""
        return (end - start) // timedelta(minutes=1) if start and end else -1

    def parts(visit: Row) -> Row:
        exempt = visit["disposition"] == "observation"
        return {
            "room": whole(visit["arrival_at"], visit["room_at"]) >= 61,
            "left": _left_unseen(visit),
            "boarded": not exempt
            and visit["disposition"] == "admitted"
            and whole(visit["decision_at"], visit["departure_at"]) >= 241,
            "long_stay": not exempt and whole(visit["arrival_at"], visit["departure_at"]) >= 481,
        }

    def reason(visit: Row) -> str | None:
        if visit["is_cancelled"]:
            return "cancelled"
        return _without_end(visit)

    def strata(visit: Row) -> list[str]:
        age, mental = visit["age_years"], visit["condition"]["is_mental_health"]
        if age is None:
            return [ALL]
        return [ALL, ("under_18" if age < 18 else "18_and_over") + ("_mental_health" if mental else "")]

    found: Expected = {}
    for stratum in (ALL, "under_18", "18_and_over", "under_18_mental_health", "18_and_over_mental_health"):

        def key(visit: Row, stratum: str = stratum) -> tuple[Any, ...]:
            return ended_on(visit).year, visit["hospital_id"], stratum

        found |= rate(
            [v for v in stored.visits if stratum in strata(v)],
            key,
            (1,),
            reason,
            ("cancelled", "open", "untimed"),
            lambda v: any(parts(v).values()),
            lambda members: {
                f"{name}_count": sum(1 for v in members if parts(v)[name])
                for name in ("room", "left", "boarded", "long_stay")
            },
        )
    came: dict[str, list[date]] = defaultdict(list)
    for visit in stored.visits:
        came[visit["hospital_id"]] += [visit["service_date"], ended_on(visit)]
    for (year, hospital, _), row in found.items():
        # The volume of a year is that of all of it; cancelled registrations are no visits.
        days = came.get(hospital, [])
        is_whole = bool(days) and min(days) <= date(year, 1, 1) and max(days) > date(year, 12, 31)
        of_all = found[year, hospital, ALL]
        low = (of_all["population_count"] - of_all["excluded_cancelled_count"]) // 20_000 * 20_000
        row["volume_band"] = f"{low}-{low + 19_999}" if is_whole else None
        if not is_whole:
            row["z_score"] = None
    return found


def kpi_returns(stored: Stored) -> Expected:
    visits = _real(stored.visits)
    by_person: dict[Any, list[Row]] = defaultdict(list)
    for visit in visits:
        if visit["person"] is not None:
            by_person[visit["person"]].append(visit)
    window = 72 * HOUR
    # To whichever hospital somebody returns: from the first midnight after the last day on, not all arrivals are known.
    ends = [
        datetime.combine(stored.last_day + DAY, time(), ZoneInfo(row["time_zone"]))
        for key, row in stored.hospitals.items()
        if key > 0 and stored.last_day is not None
    ]
    known_until = min([stored.as_of, *ends])

    def reason(visit: Row, with_left: bool) -> str | None:
        end, how = visit["departure_at"], visit["disposition"]
        if visit["is_cancelled"]:
            return "cancelled"
        if end is None:
            return _without_end(visit)
        if how in ("admitted", "transferred", "observation", "expired"):
            return "not_discharged"
        if how is None:
            return "unknown"
        if not with_left and how in LEFT:
            return "left"
        if visit["person"] is None:
            return "unknown_patient"
        others = [v for v in by_person[visit["person"]] if v is not visit]
        if any(v["arrival_at"] and v["arrival_at"] <= end and _ends_later(v, visit) for v in others):
            return "overlapping"
        return "run_out" if end + window > known_until else None

    def _ends_later(other: Row, visit: Row) -> bool:
        if left_by_day(other):
            return False
        if other["departure_at"] is None:
            return bool(other["arrival_at"] + window > visit["departure_at"])
        mine, its = ((v["departure_at"], v["arrival_at"], v["visit_id"]) for v in (visit, other))
        return bool(its > mine)

    def returned(visit: Row) -> Row | None:
        since = max(filter(None, (visit["arrival_at"], visit["departure_at"])))
        later = [v for v in by_person[visit["person"]] if v["arrival_at"] and v["arrival_at"] > since]
        first = min(later, key=lambda v: (v["arrival_at"], v["visit_id"]), default=None)
        return first if first and first["arrival_at"] <= visit["departure_at"] + window else None

    found: Expected = {}
    for variant in ("discharged", "with_left", "return_admitted"):

        def hit(visit: Row, variant: str = variant) -> bool:
            first = returned(visit)
            return first is not None and (variant != "return_admitted" or first["disposition"] == "admitted")

        def key(visit: Row, variant: str = variant) -> tuple[Any, ...]:
            return ended_on(visit).replace(day=1), visit["hospital_id"], variant

        found |= rate(
            stored.visits,
            key,
            (1,),
            lambda v, variant=variant: reason(v, variant == "with_left"),  # type: ignore[misc]
            (
                "cancelled",
                "open",
                "untimed",
                "not_discharged",
                "unknown",
                "left",
                "unknown_patient",
                "overlapping",
                "run_out",
            ),
            hit,
        )
    return found


def kpi_boarding_daily(stored: Stored) -> Expected:
    """By the first department of the inpatient stay under the visit's number that is not the emergency department.

    A place that nobody knows is one only from the departure on: who boards may have none.
    """
    departments = stored.dimension("department")
    inpatient = {stay["stay_id"]: stay["segments"] for stay in stored.stays if stay["stay_class"] == "inpatient"}

    def destination(visit: Row) -> str:
        left = visit["departure_at"]
        for segment in inpatient.get(visit["visit_id"], []):
            if segment["department_key"] < 0:
                if left is None or segment["segment_start_at"] >= left:
                    break
            elif (name := departments[segment["department_key"]]["department_name"]) != "Emergency":
                return str(name)
        return "unknown"

    def reason(visit: Row) -> str | None:
        if visit["departure_at"] is None:
            return _without_end(visit)
        if visit["decision_at"] is None:
            return "no_decision"
        return "negative" if visit["departure_at"] < visit["decision_at"] else None

    def boarded(visit: Row) -> float:
        return (visit["departure_at"] - visit["decision_at"]) / timedelta(minutes=1)

    def figures(members: list[Row]) -> Row:
        taken = [boarded(v) for v in members]
        return {
            "boarding_sum_minutes": sum(taken),
            "boarding_median_minutes": middle(taken),
            "boarding_max_minutes": max(taken, default=None),
            "over_12_hours_count": sum(1 for t in taken if t > 720),
        }

    admitted = [v for v in _real(stored.visits) if v["disposition"] == "admitted"]
    return rate(
        admitted,
        lambda v: (*_day(v), destination(v)),
        (1, 2),
        reason,
        ("open", "untimed", "no_decision", "negative"),
        lambda v: boarded(v) > 240,
        figures,
    )


# Vital signs --------------------------------------------------------------------------------------


def _scored(row: Row) -> str:
    """The band of a full set: by score, a parameter of 3 apart where the total is under 5."""
    score = row["news2_score"]
    if score is None:
        return "no_score"
    if score >= 7:
        return "score_7_or_more"
    if score >= 5:
        return "score_5_to_6"
    if row["has_news2_red_parameter"]:
        return "red_parameter"
    return "score_1_to_4" if score >= 1 else "score_0"


def _sets(stored: Stored) -> list[Row]:
    """Observation sets of known visits, from a day before arrival until three days after it, by day of arrival."""
    visits = {visit["visit_id"]: visit for visit in stored.visits}
    found = []
    for row in stored.rows("facts.fact_vitals"):
        visit = visits.get(row["visit_id"])
        if visit is None or visit["start"] is None or "measured_time_unknown" in row["quality_codes"].split(";"):
            continue
        since = row["measured_at"] - visit["start"]
        if -DAY <= since <= 3 * DAY:
            found.append({**row, "visit": visit, "since": since})
    return found


def _ward(row: Row) -> tuple[Any, ...]:
    visit = row.get("visit", row)
    return visit["service_date"], visit["hospital_id"], visit["department_name"]


def _unscored(row: Row) -> str | None:
    if row["age_years"] is None:
        return "unknown_age"
    if row["age_years"] < 16:
        return "under_16"
    return "incomplete" if row["news2_score"] is None else None


def kpi_news2_daily(stored: Stored) -> Expected:
    def reason(row: Row) -> str | None:
        visit = row["visit"]
        if visit["is_cancelled"]:
            return "cancelled"
        if row["measured_at"] < visit["start"]:
            return "before_arrival"
        if visit["departure_at"] and row["measured_at"] > visit["departure_at"]:
            return "after_departure"
        return _unscored(row)

    names = ("score_0", "score_1_to_4", "red_parameter", "score_5_to_6", "score_7_or_more")

    def figures(members: list[Row]) -> Row:
        bands = Counter(_scored(row) for row in members)
        return {
            **{f"{name}_count": bands[name] for name in names},
            "score_sum": sum(row["news2_score"] for row in members),
            "scored_visit_count": len({row["visit_id"] for row in members}),
        }

    return rate(
        _sets(stored),
        lambda row: (*_ward(row), min(12, max(0, math.floor(row["since"] / HOUR)))),
        (1, 2),
        reason,
        ("cancelled", "before_arrival", "after_departure", "under_16", "unknown_age", "incomplete"),
        None,
        figures,
    )


def _during(stored: Stored) -> dict[str, list[Row]]:
    """Sets of each visit recorded while the patient was there, in order."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in _sets(stored):
        visit = row["visit"]
        if row["measured_at"] >= visit["start"] and not (
            visit["departure_at"] and row["measured_at"] > visit["departure_at"]
        ):
            found[row["visit_id"]].append(row)
    for rows in found.values():
        rows.sort(key=lambda row: (row["measured_at"], row["observation_id"]))
    return found


def kpi_first_observations_daily(stored: Stored) -> Expected:
    full = {
        visit: next((r["measured_at"] for r in rows if r["news2_missing_count"] == 0), None)
        for visit, rows in _during(stored).items()
    }
    found: Expected = {}
    for limit in (15, 60):

        def in_time(visit: Row, limit: int = limit) -> bool:
            first = full.get(visit["visit_id"])
            return (
                visit["start"] is not None and first is not None and first <= visit["start"] + timedelta(minutes=limit)
            )

        def reason(visit: Row, limit: int = limit, in_time: Callable[[Row], bool] = in_time) -> str | None:
            if visit["is_cancelled"]:
                return "cancelled"
            if visit["start"] is None:
                return "untimed"
            if visit["age_years"] is None:
                return "unknown_age"
            if visit["age_years"] < 16:
                return "under_16"
            if in_time(visit):
                return None
            due = visit["start"] + timedelta(minutes=limit)
            left = gone_by(visit, stored.as_of)
            if left and left < due:
                return "left_early"
            return "not_due" if not left and stored.as_of < due else None

        found |= rate(
            stored.visits,
            lambda v, limit=limit: (*_ward(v), limit),  # type: ignore[misc]
            (1, 2),
            reason,
            ("cancelled", "untimed", "under_16", "unknown_age", "left_early", "not_due"),
            in_time,
        )
    return found


def kpi_news2_response_daily(stored: Stored) -> Expected:
    alarms = {
        visit: next((r["measured_at"] for r in rows if (r["news2_score"] or 0) >= 7), None)
        for visit, rows in _during(stored).items()
    }
    limit = timedelta(minutes=30)

    def reason(visit: Row) -> str | None:
        alarm, seen, left = alarms[visit["visit_id"]], visit["provider_at"], gone_by(visit, stored.as_of)
        assert alarm is not None
        if visit["is_cancelled"]:
            return "cancelled"
        if seen and seen < alarm:
            return "already_seen"
        if was_seen(visit):
            return None if seen else "invalid"
        if left:
            if not went_away(visit):
                return "invalid"
            return "left_early" if left < alarm + limit else None
        if visit["arrival_at"] + 72 * HOUR <= stored.as_of:
            return "invalid"
        return "not_due" if stored.as_of < alarm + limit else None

    def taken(visit: Row) -> float | None:
        return minutes(alarms[visit["visit_id"]], visit["provider_at"])

    return rate(
        [v for v in stored.visits if alarms.get(v["visit_id"])],
        _ward,
        (1, 2),
        reason,
        ("cancelled", "already_seen", "invalid", "left_early", "not_due"),
        lambda v: (t := taken(v)) is not None and t <= 30,
        lambda members: {"response_sum_minutes": sum(t for v in members if (t := taken(v)) is not None)},
    )


def kpi_observation_frequency_daily(stored: Stored) -> Expected:
    allowed = {
        "score_0": 12 * HOUR,
        "score_1_to_4": 6 * HOUR,
        "red_parameter": HOUR,
        "score_5_to_6": HOUR,
        "score_7_or_more": HOUR / 2,
    }
    rows = []
    for sets in _during(stored).values():
        for place, row in enumerate(sets):
            following = sets[place + 1]["measured_at"] if place + 1 < len(sets) else None
            rows.append({**row, "next": following, "band": _scored(row) if _unscored(row) is None else "no_score"})

    def reason(row: Row) -> str | None:
        visit = row["visit"]
        if visit["is_cancelled"]:
            return "cancelled"
        if unscored := _unscored(row):
            return unscored
        due = row["measured_at"] + allowed[row["band"]]
        if row["next"]:
            return None
        left = gone_by(visit, stored.as_of)
        if left and left < due:
            return "left_early"
        return "not_due" if not left and stored.as_of < due else None

    return rate(
        rows,
        lambda row: (*_ward(row), row["band"]),
        (1, 2, 3),
        reason,
        ("cancelled", "under_16", "unknown_age", "incomplete", "left_early", "not_due"),
        lambda row: row["next"] is not None and row["next"] <= row["measured_at"] + allowed[row["band"]],
        lambda members: {
            "interval_sum_minutes": sum(m for r in members if (m := minutes(r["measured_at"], r["next"])) is not None)
        },
    )


# Beds and stays -----------------------------------------------------------------------------------

LONGEST = {"emergency": 72 * HOUR, "inpatient": 30 * DAY}


def _until(segment: Row, as_of: datetime) -> datetime:
    end = segment["segment_end_at"] or segment["segment_start_at"] + LONGEST[segment["stay_class"]]
    return min(end, as_of) if segment["segment_end_at"] is None else end  # type: ignore[no-any-return]


def _lapsed(stay: Row, as_of: datetime) -> bool:
    return bool(stay["is_open"] and stay["segment_start_at"] + LONGEST[stay["stay_class"]] <= as_of)


def kpi_length_of_stay(stored: Stored) -> Expected:
    def reason(stay: Row) -> str | None:
        if stay["is_open"]:
            return "lapsed" if _lapsed(stay, stored.as_of) else "open"
        return "negative" if stay["stay_end_at"] < stay["stay_start_at"] else None

    def local(stay: Row, moment: datetime) -> date:
        return moment.astimezone(stay["zone"]).date()

    def key(stay: Row) -> tuple[Any, ...]:
        end = stay["stay_end_at"] if not stay["is_open"] else stored.as_of
        return local(stay, end).replace(day=1), stay["hospital_id"], stay["stay_class"]

    def figures(members: list[Row]) -> Row:
        days = [(local(s, s["stay_end_at"]) - local(s, s["stay_start_at"])).days for s in members]
        # Of a stay whose start or end is known by its day whole days are known, hours are not.
        hours = [
            (s["stay_end_at"] - s["stay_start_at"]) / HOUR for s in members if s["length_of_stay_hours"] is not None
        ]
        return {
            "los_hcup_days_sum": sum(days),
            "los_hcup_days_average": mean(days),
            "los_min1_days_average": mean([max(1, d) for d in days]),
            "los_hours_average": mean(hours),
            "los_hours_median": middle(hours),
        }

    return rate(stored.stays, key, (1,), reason, ("open", "lapsed", "negative"), None, figures)


def kpi_overstays(stored: Stored) -> Expected:
    limits = {"emergency": 50 * HOUR, "inpatient": 21 * DAY}

    def reason(stay: Row) -> str | None:
        if stay["is_open"]:
            return "lapsed" if _lapsed(stay, stored.as_of) else None
        return "negative" if stay["stay_end_at"] < stay["stay_start_at"] else None

    def over(stay: Row) -> bool:
        end = stored.as_of if stay["is_open"] else stay["stay_end_at"]
        return bool(end - stay["stay_start_at"] > limits[stay["stay_class"]])

    return rate(
        stored.stays,
        lambda s: (s["hospital_id"], s["department_name"]),
        (0, 1),
        reason,
        ("lapsed", "negative"),
        over,
        lambda members: {"open_numerator_count": sum(1 for s in members if s["is_open"] and over(s))},
    )


def kpi_discharge_before_noon_daily(stored: Stored) -> Expected:
    def reason(stay: Row) -> str | None:
        if stay["is_open"]:
            return "open"
        if stay["segment_hours"] is None:
            return "untimed"
        return "expired" if stay["discharge_disposition"] == "expired" else None

    def key(stay: Row) -> tuple[Any, ...]:
        ended = None if stay["is_open"] else stay["stay_end_at"].astimezone(stay["zone"]).date()
        return stay["service_date"], ended or stay["service_date"], stay["hospital_id"]

    return rate(
        [s for s in stored.stays if s["stay_class"] == "inpatient"],
        key,
        (2,),
        reason,
        ("open", "untimed", "expired"),
        lambda s: s["stay_end_at"].astimezone(s["zone"]).hour < 12,
    )


#: Principal diagnoses of planned care: radio- and chemotherapy, rehabilitation.
PLANNED = ("Z510", "Z511", "Z50", "Z5189")


def kpi_readmissions(stored: Stored) -> Expected:
    principal = principal_codes(stored.rows("cleaned.cleaned_diagnoses"))
    operations: dict[str, set[str]] = defaultdict(set)
    for row in newest(stored.rows("cleaned.cleaned_procedures"), "procedure_id"):
        operations[row["visit_id"]].add(row["procedure_code"])
    by_person: dict[Any, list[Row]] = defaultdict(list)
    stays = []
    for stay in stored.stays:
        if stay["stay_class"] != "inpatient":
            continue
        version, code = principal.get(stay["stay_id"], (None, None))
        done = operations[stay["stay_id"]]
        end = stay["stay_end_at"]
        stay = {
            **stay,
            "version": version,
            "code": code,
            "admitted": stay["stay_start_at"].astimezone(stay["zone"]).date(),
            "discharged": end.astimezone(stay["zone"]).date() if end else None,
            "until": end or stay["segment_start_at"] + 30 * DAY,
            "transplant": any(c.startswith("0") and c[2:3] == "Y" for c in done),
            "surgery": any(c.startswith("0") for c in done),
        }
        stays.append(stay)
        if stay["person"] is not None:
            by_person[stay["person"]].append(stay)
    # The latest day that is over at every hospital.
    last_day = (stored.as_of - 12 * HOUR).date() - DAY

    def following(stay: Row) -> Row | None:
        later = [
            s
            for s in by_person[stay["person"]]
            if s["stay_start_at"] >= stay["stay_end_at"] and s["stay_start_at"] > stay["stay_start_at"]
        ]
        return min(later, key=lambda s: (s["stay_start_at"], s["stay_id"]), default=None)

    def is_cancer(stay: Row) -> bool:
        group, ranges = (stay["code"] or "")[:3], {9: (("140", "209"), ("230", "239"))}
        ranges[10] = (("C00", "C96"), ("D00", "D09"), ("D37", "D49"))
        return any(a <= group <= b for a, b in ranges.get(stay["version"], ())) and not stay["surgery"]

    def reason(stay: Row) -> str | None:
        if stay["discharged"] is None:
            return "open"
        if stay["person"] is None:
            return "unknown_patient"
        if stay["discharge_disposition"] == "expired":
            return "expired"
        end = stay["stay_end_at"]
        begun = stay["stay_start_at"]
        others = [s for s in by_person[stay["person"]] if s["stay_start_at"] < end or s["stay_start_at"] == begun]
        if any((s["until"], s["stay_start_at"], s["stay_id"]) > (end, begun, stay["stay_id"]) for s in others):
            return "overlapping"
        if stay["discharge_disposition"] == "against_medical_advice":
            return "against_advice"
        following_stay = following(stay)
        if following_stay:
            days = (following_stay["admitted"] - stay["discharged"]).days
            if following_stay["hospital_id"] != stay["hospital_id"]:
                if 0 <= days <= 1:
                    return "transferred"
            elif days == 0 and stay["code"] and stay["code"] == following_stay["code"]:
                return "continued"
        if is_cancer(stay):
            return "cancer"
        return "run_out" if (last_day - stay["discharged"]).days < 30 else None

    def hit(stay: Row) -> bool:
        back = following(stay)
        if back is None or not 0 <= (back["admitted"] - stay["discharged"]).days <= 30:
            return False
        return not (back["transplant"] or (back["code"] or "").startswith(PLANNED))

    return rate(
        stays,
        lambda s: ((s["discharged"] or s["admitted"]).replace(day=1), s["hospital_id"]),
        (1,),
        reason,
        (
            "open",
            "unknown_patient",
            "expired",
            "overlapping",
            "against_advice",
            "transferred",
            "continued",
            "cancer",
            "run_out",
        ),
        hit,
    )


def _beds(stored: Stored) -> dict[str, list[Row]]:
    versions: dict[str, list[Row]] = defaultdict(list)
    for row in stored.rows("dimensions.dim_department"):
        if row["department_key"] > 0:
            versions[row["department_id"]].append(row)
    return versions


def _capacity(versions: list[Row], moment: datetime) -> int | None:
    for row in versions:
        opened = row["first_effective_at"]
        if row["valid_from_at"] <= moment < row["valid_to_at"]:
            return None if opened and moment < opened else row["bed_capacity"]
    return None


def _bed_minutes(versions: list[Row], start: datetime, end: datetime) -> float:
    """Minutes that a department's beds offered, each version as long as it held, none before the opening."""
    total = 0.0
    for row in versions:
        since = max(start, row["valid_from_at"], row["first_effective_at"] or row["valid_from_at"])
        until = min(end, row["valid_to_at"])
        if until > since:
            total += (row["bed_capacity"] or 0) * ((until - since) / timedelta(minutes=1))
    return total


def _spells(stored: Stored) -> dict[str, list[Row]]:
    """Who was in each department from when to when: neighbouring segments of one stay in one department are one."""
    departments = stored.dimension("department")
    found: dict[str, list[Row]] = defaultdict(list)
    for stay in stored.stays:
        spell: Row | None = None
        for segment in stay["segments"]:
            department = departments[segment["department_key"]]["department_id"]
            end = _until(segment, stored.as_of)
            if end < segment["segment_start_at"]:
                continue
            if spell and spell["department_id"] == department and spell["end"] == segment["segment_start_at"]:
                spell["end"], spell["lapsed"] = end, segment["segment_end_at"] is None
                continue
            spell = {
                "department_id": department,
                "start": segment["segment_start_at"],
                "end": end,
                "lapsed": segment["segment_end_at"] is None,
            }
            found[department].append(spell)
    return found


def _day_bounds(day: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    start, end = (datetime.combine(day + n * DAY, time(), zone).astimezone(UTC) for n in (0, 1))
    return start, end


def _with_patients(stored: Stored, table: str) -> Expected:
    """What a table must have at least: of each day that is in it, the departments in which anybody was."""
    days, beds = {row["service_date"] for row in stored.rows(f"kpis.{table}")}, _beds(stored)
    return {
        (day, department): {}
        for department, spells in _spells(stored).items()
        if department in beds
        for zone in [stored.zones[beds[department][0]["hospital_id"]]]
        for day in days
        for start, end in [_day_bounds(day, zone)]
        if any(s["start"] < min(end, stored.as_of) and s["end"] > start for s in spells)
    }


def kpi_occupancy_daily(stored: Stored) -> Expected:
    """Minutes occupied, patients at 24:00 and the most at one moment, on the days that the table has."""
    beds, spells = _beds(stored), _spells(stored)
    for department, versions in beds.items():
        if versions[0]["department_name"] != "Emergency":
            spells[f"{versions[0]['hospital_id']}-INPATIENT"] += spells[department]
    found = _with_patients(stored, "kpi_occupancy_daily")
    for row in stored.rows("kpis.kpi_occupancy_daily"):
        start, end = _day_bounds(row["service_date"], stored.zones[row["hospital_id"]])
        here = [s for s in spells[row["department_id"]] if s["start"] < end and s["end"] > start]
        occupied = sum((min(s["end"], end) - max(s["start"], start)) / timedelta(minutes=1) for s in here)
        turns = {max(s["start"], start) for s in here}
        wards = [
            d
            for d in beds.values()
            if d[0]["department_id"] == row["department_id"]
            or (
                (row["department_id"].endswith("-INPATIENT") and d[0]["hospital_id"] == row["hospital_id"])
                and d[0]["department_name"] != "Emergency"
            )
        ]
        staffed = sum(_bed_minutes(d, start, end) for d in wards)
        peak = max((sum(1 for s in here if s["start"] <= t < s["end"]) for t in turns), default=0)
        found[row["service_date"], row["department_id"]] = {
            "occupied_bed_minutes": occupied,
            "staffed_bed_minutes": staffed,
            "time_weighted_pct": pct(occupied, staffed),
            "midnight_patients_count": sum(1 for s in here if s["end"] > end)
            + sum(1 for s in spells[row["department_id"]] if s["start"] == end),
            "peak_patients_count": peak,
        }
    return found


def kpi_department_flow_daily(stored: Stored) -> Expected:
    spells, beds = _spells(stored), _beds(stored)
    found = _with_patients(stored, "kpi_department_flow_daily")
    for row in stored.rows("kpis.kpi_department_flow_daily"):
        if row["department_id"] not in beds:
            continue
        start, end = _day_bounds(row["service_date"], stored.zones[row["hospital_id"]])
        end = min(end, stored.as_of)
        # Who came and left at one moment was there, too.
        here = [
            s for s in spells[row["department_id"]] if s["start"] < end and (s["end"] > start or s["start"] >= start)
        ]
        hours = sum((min(s["end"], end) - max(s["start"], start)) / HOUR for s in here)
        left = [s for s in here if start < s["end"] <= end or s["start"] == s["end"] == start]
        found[row["service_date"], row["department_id"]] = {
            "patients_count": len(here),
            "inflow_count": sum(1 for s in here if start <= s["start"] < end),
            "outflow_count": sum(1 for s in left if not s["lapsed"]),
            "patient_hours": hours,
        }
    return found


# Shifts and crowding ------------------------------------------------------------------------------


def kpi_shift_patterns_daily(stored: Stored) -> Expected:
    shifts = []
    for row in stored.rows("facts.fact_doctor_shifts"):
        hospital = stored.hospitals[row["hospital_key"]]
        local = row["shift_start_at"].astimezone(ZoneInfo(hospital["time_zone"]))
        shifts.append({**row, "hospital_id": hospital["hospital_id"], "night": local.hour >= 21})
    by_doctor: dict[int, list[Row]] = defaultdict(list)
    for shift in shifts:
        by_doctor[shift["doctor_key"]].append(shift)
    # Of the shifts that began before, the one that ended last.
    last: dict[str, Row | None] = {}
    for doctor, theirs in by_doctor.items():
        theirs.sort(key=lambda s: (s["shift_start_at"], s["shift_end_at"], s["shift_id"]))
        for place, shift in enumerate(theirs):
            earlier = theirs[:place] if doctor > 0 else []
            last[shift["shift_id"]] = max(earlier, key=lambda s: s["shift_end_at"], default=None)
    found: Expected = {}
    for key, group in grouped(shifts, _day, (1,)).items():
        rests = [
            s["shift_start_at"] - e["shift_end_at"]
            for s in group
            if (e := last[s["shift_id"]]) and s["shift_start_at"] >= e["shift_end_at"]
        ]
        found[key] = {
            "shifts_count": len(group),
            "long_shifts_count": sum(1 for s in group if s["shift_end_at"] - s["shift_start_at"] >= 12 * HOUR),
            "nights_count": sum(1 for s in group if s["night"]),
            "rests_count": len(rests),
            "short_rests_count": sum(1 for rest in rests if rest < 11 * HOUR),
        }
    return found


def kpi_crowding_hourly(stored: Stored) -> Expected:
    """Who was there and who boarded, beds, doctors and both scores, at the hours that the table has."""
    departments, beds = stored.dimension("department"), _beds(stored)
    by_hospital: dict[str, list[Row]] = defaultdict(list)
    for visit in _real(stored.visits):
        if left_by_day(visit) or visit["arrival_at"] is None:
            continue
        until = visit["departure_at"] or visit["arrival_at"] + 72 * HOUR
        by_hospital[visit["hospital_id"]].append({**visit, "until": until})
    on_shift: dict[str, list[Row]] = defaultdict(list)
    for row in stored.rows("facts.fact_doctor_shifts"):
        department = departments[row["department_key"]]
        if department["department_name"] == "Emergency":
            on_shift[stored.hospitals[row["hospital_key"]]["hospital_id"]].append(row)
    ventilated: dict[str, datetime] = {}
    for row in newest(stored.rows("cleaned.cleaned_procedures"), "procedure_id"):
        if row["procedure_code"].startswith("5A19") and row["performed_at"]:
            ventilated[row["visit_id"]] = min(row["performed_at"], ventilated.get(row["visit_id"], row["performed_at"]))
    found: Expected = {}
    for row in stored.rows("kpis.kpi_crowding_hourly"):
        hospital, hour = row["hospital_id"], row["hour_start_at"]
        here = [v for v in by_hospital[hospital] if v["arrival_at"] <= hour < v["until"]]
        boarders = [v for v in here if v["disposition"] == "admitted" and v["decision_at"] and v["decision_at"] <= hour]
        # Two shifts of one doctor are one doctor; of an unknown one each is another.
        doctors = {
            s["doctor_key"] if s["doctor_key"] > 0 else s["shift_id"]
            for s in on_shift[hospital]
            if s["shift_start_at"] <= hour < s["shift_end_at"]
        }
        longest = max(((hour - v["decision_at"]) / HOUR for v in boarders), default=0.0)
        on_ventilator = sum(1 for v in here if v["visit_id"] in ventilated and ventilated[v["visit_id"]] <= hour)
        roomed = [v for v in here if v["room_at"] and v["room_at"] <= hour]
        newest_at = max((v["room_at"] for v in roomed), default=None)
        to_bed = [(v["room_at"] - v["arrival_at"]) / HOUR for v in roomed if v["room_at"] == newest_at]
        weights = sum(6 - v["triage_level"] for v in here if v["triage_level"])
        mine = [d for d in beds.values() if d[0]["hospital_id"] == hospital]
        ed = sum(_capacity(d, hour) or 0 for d in mine if d[0]["department_name"] == "Emergency")
        wards = sum(_capacity(d, hour) or 0 for d in mine if d[0]["department_name"] != "Emergency")
        free = len(doctors) * (ed - len(boarders))
        nedocs = None
        if ed and wards:
            nedocs = 85.8 * len(here) / ed + 600 * len(boarders) / wards + 13.4 * on_ventilator
            nedocs += 0.93 * longest + 5.64 * max(to_bed, default=0.0) - 20
        found[hospital, hour] = {
            "ed_patients_count": len(here),
            "ed_bed_count": ed or None,
            "hospital_bed_count": wards or None,
            "boarders_count": len(boarders),
            "longest_boarding_hours": longest,
            "ventilated_count": on_ventilator,
            "last_door_to_bed_hours": max(to_bed, default=0.0),
            "nedocs_score": None if nedocs is None else min(200.0, max(0.0, nedocs)),
            "attendings_count": len(doctors),
            "triage_weight_sum": weights,
            "edwin_score": weights / free if free > 0 else None,
        }
    return found


def kpi_staffing_hourly(stored: Stored) -> Expected:
    attendings: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for row in stored.rows("kpis.kpi_crowding_hourly"):
        local = row["hour_start_at"].astimezone(stored.zones[row["hospital_id"]])
        attendings[local.date(), row["hospital_id"], local.hour].append(row["attendings_count"])
    return {
        key: {**row, "staffed_hours_count": len(attendings[key]), "attendings_sum_count": sum(attendings[key])}
        for key, row in kpi_arrivals_hourly(stored).items()
        if key[0] <= last_day_over(stored)
    }


# Chance -------------------------------------------------------------------------------------------

_METRICS = {
    "lwbs_pct": "kpi_lwbs_daily",
    "four_hour_pct": "kpi_four_hour_daily",
    "long_boarding_pct": "kpi_boarding_daily",
    "critical_late_pct": "kpi_critical_waits_daily",
}


def kpi_units(stored: Stored) -> Expected:
    """Hospitals' pooled rates with binomial three-sigma limits around the rate of all."""
    found: Expected = {}
    for metric, table in _METRICS.items():
        totals: dict[str, Counter[str]] = defaultdict(Counter)
        for row in stored.rows(f"kpis.{table}"):
            if row["hospital_id"] == ALL or row.get("destination_department", ALL) != ALL:
                continue
            for name in ("population_count", "denominator_count", "numerator_count"):
                totals[row["hospital_id"]][name] += row[name]
        n = sum(t["denominator_count"] for t in totals.values())
        if not n:
            continue
        p = sum(t["numerator_count"] for t in totals.values()) / n
        for hospital, t in totals.items():
            mine = t["denominator_count"]
            spread = 3 * math.sqrt(p * (1 - p) / mine) if mine else None
            found[metric, hospital] = {
                "population_count": t["population_count"],
                "denominator_count": mine,
                "numerator_count": t["numerator_count"],
                "value_pct": pct(t["numerator_count"], mine),
                "centre_pct": 100 * p,
                "lower_limit_pct": max(0.0, 100 * (p - spread)) if spread is not None else None,
                "upper_limit_pct": min(100.0, 100 * (p + spread)) if spread is not None else None,
            }
    return found


def kpi_trends(stored: Stored) -> Expected:
    """XmR: the mean and 2.66 screened mean moving ranges of the first 28 days the table itself shows."""
    series: dict[tuple[str, str], list[tuple[date, float]]] = defaultdict(list)
    # Of a day on which nobody came to a hospital only who came before leaves.
    landed = {(place, v["service_date"]) for v in stored.visits for place in (ALL, v["hospital_id"])}
    for row in stored.rows("kpis.kpi_trends"):
        if (row["hospital_id"], row["period_date"]) in landed:
            series[row["metric"], row["hospital_id"]].append((row["period_date"], row["value"]))
    found: Expected = {}
    for (metric, hospital), points in series.items():
        points.sort()
        values = [value for _, value in points[:28]]
        centre = fmean(values)
        moving = [abs(b - a) for a, b in pairwise(values)]
        for day, value in points:
            figures: Row = {"centre": centre, "baseline_first_date": points[0][0]}
            figures["baseline_last_date"] = points[:28][-1][0]
            if len(points) < 12:
                figures |= {"lower_limit": None, "upper_limit": None, "is_outside": False, "is_run": False}
            elif moving:
                # Whatever is beyond is no chance, and counts neither for nor against it.
                cut = 3.267 * fmean(moving)
                usual = [one for one in moving if one < cut]
                # Rare events are all that moves.
                reach = 2.66 * fmean(usual if any(usual) else moving)
                figures["is_outside"] = abs(value - centre) > reach + 1e-9
            found[metric, hospital, day] = figures
    return found


#: Table -> its oracle.
ORACLES: dict[str, Callable[[Stored], Expected]] = {
    name: value for name, value in list(globals().items()) if name.startswith("kpi_")
}
