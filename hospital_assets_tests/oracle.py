"""The facts once more, in plain Python over rows: slow, and independent of every transform.

Written from the definitions of docs/kpis.md with the standard library alone: no frames, no expressions, none of the
package's measures. It starts from the cleaned layer and gives for each visit, stay and shift what its facts must be.
Where it and the tables differ, one of them is wrong. What KPIs must be, given the facts, says `kpi_oracle`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

Row = dict[str, Any]
MINUTE = timedelta(minutes=1)
LEFT = {"left_without_being_seen", "against_medical_advice", "eloped"}
#: What the fact of a visit has of its newest record.
TAKEN_OVER = (
    *("service_date", "visit_id", "hospital_id", "arrival_mode", "disposition", "triage_level", "quality_codes"),
    *("arrival_at", "handover_at", "triage_at", "room_at", "provider_at", "decision_at", "departure_at"),
)


class Oracle:
    """What the facts of a warehouse must be, from the rows of its cleaned tables by name."""

    def __init__(self, tables: Mapping[str, list[Row]]) -> None:
        self.events = newest(tables["cleaned_adt_events"], "message_id")
        self.by_visit = defaultdict(list)
        for event in self.events:
            self.by_visit[event["visit_id"]].append(event)
        for events in self.by_visit.values():
            events.sort(key=_order)
        self.person = _persons(self.events)
        self.principal = principal_codes(tables["cleaned_diagnoses"])
        self.departments = {row["department_id"]: row["department_name"] for row in tables["cleaned_departments"]}
        self.doctors = {row["doctor_id"]: row for row in tables["cleaned_doctors"]}
        self.visits = [self._visit(row) for row in newest(tables["cleaned_er_visits"], "visit_id")]
        self.stays = [stay for events in self.by_visit.values() for stay in self._stays(events)]
        self.shifts = [self._shift(row) for row in newest(tables["cleaned_doctor_shifts"], "shift_id")]

    def _visit(self, row: Row) -> Row:
        events = self.by_visit[row["visit_id"]]
        moved = [e["patient_id"] for e in events if e["event_type"] == "A45"]
        start = min(c for c in (row["arrival_at"], row["triage_at"]) if c is not None)
        arrived, left, seen = row["arrival_at"], row["departure_at"], row["provider_at"]
        kinds = {e["event_type"] for e in _standing(events)}
        cancelled = any(e["event_type"] == "A11" for e in events) and not kinds & {"A01", "A04"}
        clock = arrived
        if row["arrival_mode"] == "ambulance":
            clock = min(c for c in (row["handover_at"], arrived + 15 * MINUTE) if c is not None)
        stayed = None if left is None or left < arrived else minutes(arrived, left)
        why = None
        if cancelled:
            why = "cancelled"
        elif seen is None:
            why = "no_provider"
        elif seen < start:
            why = "negative"
        elif left is not None and seen > left:
            why = "after_departure"
        elif minutes(start, seen) >= 100_000:
            why = "too_long"
        boarded = None
        if left is not None and row["decision_at"] is not None and row["disposition"] == "admitted":
            boarded = minutes(row["decision_at"], left) if left >= row["decision_at"] else None
        room = None if row["room_at"] is None or row["room_at"] < arrived else minutes(arrived, row["room_at"])
        return {
            **{name: row[name] for name in TAKEN_OVER},
            "department_name": row["department_name"] or "Unknown",
            "doctor_id": row["doctor_id"] if row["doctor_id"] in self.doctors else None,
            "condition": self.principal.get(row["visit_id"]),
            "person": self.person.get(patient := moved[-1] if moved else row["patient_id"], patient),
            "is_cancelled": cancelled,
            "is_lwbs": not cancelled and seen is None and row["disposition"] in LEFT,
            "wait_exclusion": why,
            "wait_minutes": None if why else minutes(start, seen),
            "los_minutes": stayed,
            "four_hour_minutes": None if stayed is None else max(0.0, minutes(clock, left)),
            "boarding_minutes": boarded,
            "room_minutes": room,
        }

    def _stays(self, events: Sequence[Row]) -> Iterator[Row]:
        """The stays of one visit number: its messages, one after the other."""
        said = _standing(events)
        # A cancelled transfer has not been: each A12 takes back the last A02 written before it.
        transfers: list[Row] = []
        taken_back = set()
        ends: list[Row] = []
        for event in said:
            if event["event_type"] == "A02":
                transfers.append(event)
            elif event["event_type"] == "A12" and transfers:
                taken_back.add(transfers.pop()["message_id"])
            elif event["event_type"] == "A03":
                ends.append(event)
            elif event["event_type"] == "A13":
                ends.clear()
        # A repeated discharge is a correction: the one written last counts.
        end = ends[-1] if ends else None
        standing = sorted((e for e in said if e["message_id"] not in taken_back), key=_order)
        moves = [e for e in standing if e["event_type"] in ("A01", "A02", "A04", "A06", "A07")]
        if end is not None:
            moves = [e for e in moves if e["event_at"] <= end["event_at"]]
        segments: list[Row] = []
        kind = "emergency"
        for number, event in enumerate(moves):
            kind = {"A01": "inpatient", "A06": "inpatient", "A04": "emergency", "A07": "emergency"}.get(
                event["event_type"], kind
            )
            until = moves[number + 1]["event_at"] if number + 1 < len(moves) else end and end["event_at"]
            segments.append({**event, "kind": kind, "start": event["event_at"], "end": until})
        for kind in ("emergency", "inpatient"):
            own = [s for s in segments if s["kind"] == kind]
            if not own:
                continue
            last = own[-1]
            moved = [e["patient_id"] for e in events if e["event_type"] == "A45"]
            patient = moved[-1] if moved else last["patient_id"]
            yield {
                "stay_id": last["visit_id"],
                "stay_class": kind,
                "hospital_id": last["hospital_id"],
                "person": self.person.get(patient, patient),
                "stay_start_at": own[0]["start"],
                "stay_end_at": last["end"],
                "discharge_disposition": end and end["discharge_disposition"] if last is segments[-1] else None,
                "segments": [(s["department_name"] or "Unknown", s["start"], s["end"]) for s in own],
            }

    def _shift(self, row: Row) -> Row:
        doctor = self.doctors.get(row["doctor_id"], {})
        return {
            **{name: row[name] for name in ("service_date", "shift_id", "hospital_id")},
            "shift_start_at": row["shift_start_at"],
            "shift_end_at": row["shift_end_at"],
            "doctor_id": doctor.get("doctor_id"),
            "department_name": self.departments.get(row["department_id"] or doctor.get("department_id"), "Unknown"),
            "shift_hours": minutes(row["shift_start_at"], row["shift_end_at"]) / 60,
        }


def minutes(start: datetime, end: datetime) -> float:
    """From one instant to another."""
    return (end - start) / MINUTE


def _written(row: Row) -> tuple[bool, datetime]:
    at = row["recorded_at"]
    return (at is not None, at or datetime.min.replace(tzinfo=UTC))


def _said_at(event: Row) -> datetime:
    at: datetime = event["recorded_at"] or event["event_at"]
    return at


def _said_order(event: Row) -> Any:
    kind = event["event_type"]
    return (_said_at(event), kind == "A11", event["event_at"], kind in ("A12", "A13"), event["message_id"])


def _standing(events: Iterable[Row]) -> list[Row]:
    """What of a visit has not been cancelled (A11), in the order in which it was said.

    An A11 takes back an admission after a registration, and what was said since; else it takes back the whole visit.
    """
    told: list[Row] = []
    # Where in `told` each registration that stands began.
    began: list[int] = []
    last = ""
    for event in sorted(events, key=_said_order):
        kind = event["event_type"]
        if kind == "A11":
            start = began.pop() if began else 0
            del told[start if began else 0 :]
        elif kind in ("A01", "A04") and kind != last:
            began.append(len(told))
        if kind in ("A01", "A04", "A11"):
            last = kind
        if kind != "A11":
            told.append(event)
    return told


def newest(rows: Iterable[Row], key: str) -> list[Row]:
    """Of several records of one thing the newest, then the last of its day, file and line."""
    found: dict[Any, Row] = {}

    def age(row: Row) -> Any:
        return (*_written(row), row["service_date"], row["source_file"], row["source_line"], row["source_part"])

    for row in rows:
        if row[key] not in found or age(row) > age(found[row[key]]):
            found[row[key]] = row
    return list(found.values())


def _order(event: Row) -> Any:
    return (event["event_at"], _written(event), event["message_id"])


def _persons(events: Iterable[Row]) -> dict[str, str]:
    """Number -> the number that stands for its person: all that A40 merges connect are one."""
    members: dict[str, set[str]] = {}
    for event in events:
        if event["event_type"] == "A40" and event["prior_patient_id"]:
            both = {event["prior_patient_id"], event["patient_id"]}
            one = set().union(*(members.get(number, {number}) for number in both))
            members |= dict.fromkeys(one, one)
    return {number: min(one) for number, one in members.items()}


def principal_codes(rows: Iterable[Row]) -> dict[str, tuple[int, str]]:
    """Visit -> the code of its lowest rank; of a rank the newest record's."""
    best: dict[str, Row] = {}

    def age(row: Row) -> Any:
        place = (row["service_date"], row["source_file"], row["source_line"], row["source_part"])
        return (-row["sequence"], *_written(row), *place)

    for row in rows:
        if row["visit_id"] not in best or age(row) > age(best[row["visit_id"]]):
            best[row["visit_id"]] = row
    return {visit: (row["icd_version"], row["icd_code"]) for visit, row in best.items()}
