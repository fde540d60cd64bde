"""The KPIs once more, in plain Python over rows: slow, and independent of every transform.

Written from the definitions of docs/kpis.md with the standard library alone: no frames, no expressions, none of the
package's measures. It starts from the cleaned layer and the reference data, and gives for each KPI what its rows must
be, by key. Where it and the tables differ, one of them is wrong.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import product
from typing import Any
from zoneinfo import ZoneInfo

Row = dict[str, Any]
ALL = "all"
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
LEFT = {"left_without_being_seen", "against_medical_advice", "eloped"}
LEVELS = {"ESI": (0, 10, 30, 60, 120), "ATS": (0, 10, 30, 60, 120), "CTAS": (0, 15, 30, 60, 120)}
LEVELS["Manchester"] = (0, 10, 60, 120, 240)
ED_HOURS, INPATIENT_HOURS = 72, 720


class Oracle:
    """What the KPIs of a warehouse must be.

    Args:
        tables: rows of the cleaned tables and of dim_condition, by name.
        now: the hospital's time.
    """

    def __init__(self, tables: Mapping[str, list[Row]], now: datetime) -> None:
        self.now = now
        self.zones = {row["hospital_id"]: ZoneInfo(row["time_zone"]) for row in tables["cleaned_hospitals"]}
        self.events = _newest(tables["cleaned_adt_events"], "message_id")
        self.by_visit = defaultdict(list)
        for event in self.events:
            self.by_visit[event["visit_id"]].append(event)
        for events in self.by_visit.values():
            events.sort(key=_order)
        self.person = _persons(self.events)
        self.principal = _principal(tables["cleaned_diagnoses"])
        self.conditions = {(r["icd_version"], r["icd_code"]): r for r in tables["dim_condition"]}
        self.procedures = defaultdict(list)
        for procedure in _newest(tables["cleaned_procedures"], "procedure_id"):
            self.procedures[procedure["visit_id"]].append(procedure)
        self.shifts = _newest(tables["cleaned_doctor_shifts"], "shift_id")
        self.departments = tables["cleaned_departments"]
        self.doctors = {row["doctor_id"]: row for row in tables["cleaned_doctors"]}
        self.visits = [self._visit(row) for row in _newest(tables["cleaned_er_visits"], "visit_id")]
        self.stays = [stay for events in self.by_visit.values() for stay in self._stays(events)]

    def local(self, at: datetime | None, hospital: str) -> datetime | None:
        """The wall clock of an instant."""
        return None if at is None else at.astimezone(self.zones[hospital]).replace(tzinfo=None)

    # Facts ------------------------------------------------------------------------------------------

    def _visit(self, row: Row) -> Row:
        events = self.by_visit[row["visit_id"]]
        cancelled_at = _cancelled_at(events)
        registered_at = [_said_at(e) for e in events if e["event_type"] in ("A01", "A04")]
        moved = [e["patient_id"] for e in events if e["event_type"] == "A45"]
        start = min(c for c in (row["arrival_at"], row["triage_at"]) if c is not None)
        arrived, left, seen = row["arrival_at"], row["departure_at"], row["provider_at"]
        cancelled = cancelled_at is not None and all(at <= cancelled_at for at in registered_at)
        by_day = "departure_time_unknown" in (row["quality_codes"] or "").split(";")
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
        local_end = self.local(left or arrived, row["hospital_id"])
        assert local_end is not None
        condition = self.conditions.get(self.principal.get(row["visit_id"], (0, "")), {})
        return {
            **row,
            "start_at": start,
            "person": self.person.get(patient := moved[-1] if moved else row["patient_id"], patient),
            "is_cancelled": cancelled,
            "why_no_wait": why,
            "wait": None if why else minutes(start, seen),
            "stayed": stayed,
            "four_hour": None if stayed is None else max(0.0, minutes(clock, left)),
            "boarded": boarded,
            "room": room,
            "is_lwbs": not cancelled and seen is None and row["disposition"] in LEFT,
            "period_date": local_end.date(),
            "is_psychiatric": bool(condition.get("is_mental_health")),
            "left_by_day": by_day,
            # Who left at an unknown time overlaps nobody.
            "ends": left or (arrived if by_day else arrived + ED_HOURS * HOUR),
        }

    def _stays(self, events: Sequence[Row]) -> Iterator[Row]:
        """The stays of one visit number: its messages, one after the other."""
        cancelled_at = _cancelled_at(events)
        said = [e for e in events if cancelled_at is None or _said_at(e) > cancelled_at]
        # A cancelled transfer has not been: each A12 takes back the last A02 before it.
        standing: list[Row] = []
        for event in said:
            if event["event_type"] == "A12":
                last = max((n for n, e in enumerate(standing) if e["event_type"] == "A02"), default=None)
                if last is not None:
                    del standing[last]
            else:
                standing.append(event)
        reopened = max((n for n, e in enumerate(said) if e["event_type"] == "A13"), default=-1)
        ends = [e for e in said[reopened + 1 :] if e["event_type"] == "A03"]
        end = max(ends, key=lambda e: (_written(e), e["event_at"], e["message_id"]), default=None)
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
            longest = (ED_HOURS if kind == "emergency" else INPATIENT_HOURS) * HOUR
            disposition = end and end["discharge_disposition"] if last is segments[-1] else None
            yield {
                "stay_id": last["visit_id"],
                "kind": kind,
                "hospital_id": last["hospital_id"],
                "department_name": last["department_name"],
                "person": self.person.get(patient, patient),
                "start": own[0]["start"],
                "end": last["end"],
                "until": last["end"] or last["start"] + longest,
                "disposition": disposition,
                "segments": own,
            }

    # KPIs of visits ---------------------------------------------------------------------------------

    def lwbs(self) -> dict[Any, Row]:
        """kpi_lwbs_daily."""
        return rates(
            self.visits,
            lambda v: [(v["service_date"], h) for h in (v["hospital_id"], ALL)],
            lambda v: "cancelled" if v["is_cancelled"] else "unknown" if v["disposition"] is None else None,
            {"numerator_count": lambda v: v["is_lwbs"]},
        )

    def four_hour(self) -> dict[Any, Row]:
        """kpi_four_hour_daily."""

        def why(v: Row) -> str | None:
            if v["is_cancelled"]:
                return "cancelled"
            if v["departure_at"] is None:
                return "untimed" if v["left_by_day"] else "open"
            return "negative" if v["four_hour"] is None else None

        return rates(
            self.visits,
            lambda v: [(v["service_date"], v["period_date"], h) for h in (v["hospital_id"], ALL)],
            why,
            {"numerator_count": lambda v: v["four_hour"] <= 240, "over_12_hours_count": lambda v: v["stayed"] > 720},
        )

    def waits(self) -> dict[Any, Row]:
        """kpi_waits_daily."""
        groups: dict[Any, list[Row]] = defaultdict(list)
        for v in self.visits:
            for key in product(
                (v["service_date"],),
                (v["hospital_id"], ALL),
                (v["department_name"] or "Unknown", ALL),
                (_level(v), ALL),
            ):
                groups[key].append(v)
        found = {}
        for key, visits in groups.items():
            waited = sorted(v["wait"] for v in visits if v["wait"] is not None)
            found[key] = {
                "visit_count": len(visits),
                "wait_count": len(waited),
                "wait_average_minutes": statistics.fmean(waited) if waited else None,
                "wait_median_minutes": statistics.median(waited) if waited else None,
                "wait_p90_minutes": _quantile(waited, 0.9),
                "wait_max_minutes": waited[-1] if waited else None,
                **{
                    f"excluded_{why}_count": sum(v["why_no_wait"] == why for v in visits)
                    for why in ("cancelled", "no_provider", "negative", "after_departure", "too_long")
                },
            }
        return found

    def seen_on_time(self) -> dict[Any, Row]:
        """kpi_seen_on_time_daily."""
        looks = [{**v, "scale": scale} for v in self.visits for scale in LEVELS]

        def why(v: Row) -> str | None:
            if v["is_cancelled"]:
                return "cancelled"
            return "untriaged" if v["triage_level"] is None else "no_wait" if v["wait"] is None else None

        return rates(
            looks,
            lambda v: product((v["service_date"],), (v["hospital_id"], ALL), (v["scale"],), (_level(v), ALL)),
            why,
            {"numerator_count": lambda v: v["wait"] <= max(2, LEVELS[v["scale"]][v["triage_level"] - 1])},
        )

    def critical_waits(self) -> dict[Any, Row]:
        """kpi_critical_waits_daily."""
        critical = []
        for v in self.visits:
            if v["triage_level"] in (1, 2):
                waited = v["wait"]
                if v["provider_at"] is None:
                    until = v["departure_at"] or (None if v["left_by_day"] else self.now)
                    waited = None if until is None else minutes(v["start_at"], until)
                critical.append({**v, "waited": waited, "late": waited is not None and waited > 15})

        def why(v: Row) -> str | None:
            unseen, gone = v["provider_at"] is None, v["departure_at"] is not None or v["left_by_day"]
            if v["is_cancelled"]:
                return "cancelled"
            if unseen and not gone and v["arrival_at"] + ED_HOURS * HOUR <= self.now:
                return "lapsed"
            if v["waited"] is None or not 0 <= v["waited"] < 100_000:
                return "invalid"
            return "pending" if unseen and not gone and not v["late"] else None

        return rates(
            critical,
            lambda v: [(v["service_date"], h) for h in (v["hospital_id"], ALL)],
            why,
            {"numerator_count": lambda v: v["late"]},
        )

    def boarding(self) -> dict[Any, Row]:
        """kpi_boarding_daily, over all destinations."""

        def why(v: Row) -> str | None:
            if v["departure_at"] is None:
                return "untimed" if v["left_by_day"] else "open"
            return "no_decision" if v["decision_at"] is None else "negative" if v["boarded"] is None else None

        return rates(
            [v for v in self.visits if v["disposition"] == "admitted" and not v["is_cancelled"]],
            lambda v: [(v["service_date"], h, ALL) for h in (v["hospital_id"], ALL)],
            why,
            {"numerator_count": lambda v: v["boarded"] > 240, "over_12_hours_count": lambda v: v["boarded"] > 720},
        )

    def op18(self) -> dict[Any, Row]:
        """kpi_op18: medians by stratum."""
        groups: dict[Any, list[float]] = defaultdict(list)
        for v in self.visits:
            is_transfer = v["disposition"] == "transferred"
            kinds = {"all"} | ({"transferred"} if is_transfer else set())
            if not is_transfer:
                kinds.add("mental_health" if v["is_psychiatric"] else "reported")
            out_of_scope = {None, "other", "admitted", "expired", *LEFT}
            counts = not v["is_cancelled"] and v["stayed"] is not None and v["disposition"] not in out_of_scope
            for hospital, stratum in product(
                (v["hospital_id"], ALL), ("all", "reported", "mental_health", "transferred")
            ):
                values = groups[v["period_date"].replace(day=1), hospital, stratum]
                if counts and stratum in kinds:
                    values.append(v["stayed"])
        return {
            key: {"denominator_count": len(values), "median_minutes": statistics.median(values) if values else None}
            for key, values in groups.items()
        }

    def ecat(self) -> dict[Any, Row]:
        """kpi_ecat, the stratum of all."""
        components: dict[str, Callable[[Row], bool]] = {
            "room_count": lambda v: v["room"] is not None and v["room"] // 1 >= 61,
            "left_count": lambda v: v["is_lwbs"],
            "boarded_count": lambda v: (
                v["disposition"] != "observation" and v["boarded"] is not None and v["boarded"] // 1 >= 241
            ),
            "long_stay_count": lambda v: (
                v["disposition"] != "observation" and v["stayed"] is not None and v["stayed"] // 1 >= 481
            ),
        }
        return rates(
            self.visits,
            lambda v: [(v["period_date"].year, h, "all") for h in (v["hospital_id"], ALL)],
            lambda v: (
                "cancelled"
                if v["is_cancelled"]
                else None
                if v["departure_at"] is not None
                else "untimed"
                if v["left_by_day"]
                else "open"
            ),
            {"numerator_count": lambda v: any(met(v) for met in components.values()), **components},
        )

    def returns(self) -> dict[Any, Row]:
        """kpi_returns."""
        of_person: dict[Any, list[Row]] = defaultdict(list)
        for v in self.visits:
            if not v["is_cancelled"]:
                of_person[v["person"]].append(v)
        looks = []
        for v in self.visits:
            others = [o for o in of_person[v["person"]] if o["visit_id"] != v["visit_id"]]
            left = v["departure_at"]
            following, overlapped = None, False
            if left is not None and not v["is_cancelled"]:
                later = [o for o in others if o["arrival_at"] > left]
                following = min(later, key=lambda o: (o["arrival_at"], o["visit_id"]), default=None)
                mine = (left, v["arrival_at"], v["visit_id"])
                overlapped = any(
                    o["arrival_at"] <= left and (o["ends"], o["arrival_at"], o["visit_id"]) > mine for o in others
                )
            known = {**v, "next": following, "overlapped": overlapped}
            looks += [{**known, "variant": variant} for variant in ("discharged", "with_left", "return_admitted")]

        def why(v: Row) -> str | None:
            if v["is_cancelled"]:
                return "cancelled"
            if v["departure_at"] is None:
                return "untimed" if v["left_by_day"] else "open"
            if v["disposition"] in ("admitted", "transferred", "observation", "expired"):
                return "not_discharged"
            if v["disposition"] is None:
                return "unknown"
            if v["disposition"] in LEFT and v["variant"] != "with_left":
                return "left"
            if v["overlapped"]:
                return "overlapping"
            return "run_out" if self.now - v["departure_at"] < 72 * HOUR else None

        def is_back(v: Row) -> bool:
            back = v["next"] is not None and v["next"]["arrival_at"] - v["departure_at"] <= 72 * HOUR
            return back and (v["variant"] != "return_admitted" or v["next"]["disposition"] == "admitted")

        return rates(
            looks,
            lambda v: [(v["period_date"].replace(day=1), h, v["variant"]) for h in (v["hospital_id"], ALL)],
            why,
            {"numerator_count": is_back},
        )

    def arrivals(self) -> dict[Any, Row]:
        """kpi_arrivals_hourly, where somebody came."""
        found: dict[Any, Row] = defaultdict(lambda: {"arrivals_count": 0})
        for v in self.visits:
            if not v["is_cancelled"]:
                at = self.local(v["arrival_at"], v["hospital_id"])
                assert at is not None
                found[at.date(), v["hospital_id"], at.hour]["arrivals_count"] += 1
        return dict(found)

    def workload(self) -> dict[Any, Row]:
        """kpi_physician_workload_daily, by known doctor."""
        found: dict[Any, Row] = defaultdict(lambda: {"visit_count": 0, "shift_hours": 0.0})
        for v in self.visits:
            if not v["is_cancelled"] and not v["is_lwbs"] and v["doctor_id"] in self.doctors:
                found[v["service_date"], v["doctor_id"]]["visit_count"] += 1
        for s in self.shifts:
            if s["doctor_id"] in self.doctors:
                hours = minutes(s["shift_start_at"], s["shift_end_at"]) / 60
                found[s["service_date"], s["doctor_id"]]["shift_hours"] += hours
        return dict(found)

    # KPIs of stays ----------------------------------------------------------------------------------

    def length_of_stay(self) -> dict[Any, Row]:
        """kpi_length_of_stay."""
        groups: dict[Any, list[Row]] = defaultdict(list)
        for s in self.stays:
            end = self.local(s["end"] or self.now, s["hospital_id"])
            assert end is not None
            # Open stays are in the month of `as_of_at`, which is one for all hospitals.
            month = (end.date() if s["end"] else self.now.date()).replace(day=1)
            for hospital in (s["hospital_id"], ALL):
                groups[month, hospital, s["kind"]].append(s)
        found = {}
        for key, stays in groups.items():
            closed = [s for s in stays if s["end"] is not None and s["end"] >= s["start"]]
            days = [self._nights(s) for s in closed]
            hours = [minutes(s["start"], s["end"]) / 60 for s in closed]
            lapsed = [s for s in stays if s["end"] is None and s["until"] < self.now]
            found[key] = {
                "population_count": len(stays),
                "denominator_count": len(closed),
                "excluded_lapsed_count": len(lapsed),
                "excluded_open_count": sum(s["end"] is None for s in stays) - len(lapsed),
                "los_hcup_days_sum": sum(days),
                "los_min1_days_average": statistics.fmean(max(1, n) for n in days) if days else None,
                "los_hours_average": statistics.fmean(hours) if hours else None,
                "los_hours_median": statistics.median(hours) if hours else None,
            }
        return found

    def _nights(self, stay: Row) -> int:
        start, end = (self.local(stay[name], stay["hospital_id"]) for name in ("start", "end"))
        assert start is not None and end is not None
        return (end.date() - start.date()).days

    def before_noon(self) -> dict[Any, Row]:
        """kpi_discharge_before_noon_daily, summed over the days on which stays began."""
        found: dict[Any, Row] = defaultdict(lambda: {"numerator_count": 0, "denominator_count": 0})
        for s in self.stays:
            if s["kind"] == "inpatient" and s["end"] is not None and s["disposition"] != "expired":
                end = self.local(s["end"], s["hospital_id"])
                assert end is not None
                for hospital in (s["hospital_id"], ALL):
                    row = found[end.date(), hospital]
                    row["denominator_count"] += 1
                    row["numerator_count"] += end.hour < 12
        return dict(found)

    def overstays(self) -> dict[Any, Row]:
        """kpi_overstays."""

        def lasted(s: Row) -> float:
            return minutes(s["start"], s["end"] or self.now) / 60

        return rates(
            self.stays,
            lambda s: product((s["hospital_id"], ALL), (s["department_name"] or "unknown", ALL)),
            lambda s: "lapsed" if s["end"] is None and s["until"] < self.now else "negative" if lasted(s) < 0 else None,
            {"numerator_count": lambda s: lasted(s) > {"emergency": 50, "inpatient": 504}[s["kind"]]},
        )

    def readmissions(self) -> dict[Any, Row]:
        """kpi_readmissions."""
        inpatients = []
        for s in self.stays:
            if s["kind"] == "inpatient":
                version, code = self.principal.get(s["stay_id"], (None, None))
                codes = [p["procedure_code"] for p in self.procedures[s["stay_id"]]]
                surgery = any(c[0] == "0" for c in codes)
                planned = bool(code) and code.startswith(("Z510", "Z511", "Z50", "Z5189"))
                planned |= any(c[0] == "0" and c[2:3] == "Y" for c in codes)
                inpatients.append(
                    {
                        **s,
                        "code": code,
                        "planned": planned,
                        "cancer": _is_cancer(version, code) and not surgery,
                        "from": self.local(s["start"], s["hospital_id"]),
                        "to": self.local(s["end"], s["hospital_id"]),
                    }
                )
        of_person: dict[Any, list[Row]] = defaultdict(list)
        for s in inpatients:
            of_person[s["person"]].append(s)
        last = (self.now - timedelta(days=1)).date()
        for s in inpatients:
            others = [o for o in of_person[s["person"]] if o["stay_id"] != s["stay_id"]]
            s["next"], s["overlapped"] = None, False
            if s["end"] is not None:
                later = [o for o in others if o["start"] >= s["end"] and o["start"] > s["start"]]
                s["next"] = min(later, key=lambda o: (o["start"], o["stay_id"]), default=None)
                mine = (s["end"], s["start"], s["stay_id"])
                s["overlapped"] = any(
                    (o["start"] < s["end"] or o["start"] == s["start"])
                    and (o["until"], o["start"], o["stay_id"]) > mine
                    for o in others
                )

        def gap(s: Row) -> int | None:
            return None if s["next"] is None else (s["next"]["from"].date() - s["to"].date()).days

        def why(s: Row) -> str | None:
            if s["end"] is None:
                return "open"
            after = s["next"]
            reasons = {
                "expired": s["disposition"] == "expired",
                "overlapping": s["overlapped"],
                "against_advice": s["disposition"] == "against_medical_advice",
                "transferred": after is not None and gap(s) in (0, 1) and after["hospital_id"] != s["hospital_id"],
                "continued": after is not None
                and gap(s) == 0
                and after["hospital_id"] == s["hospital_id"]
                and s["code"] is not None
                and after["code"] == s["code"],
                "cancer": s["cancer"],
                "run_out": (last - s["to"].date()).days < 30,
            }
            return next((name for name, holds in reasons.items() if holds), None)

        return rates(
            inpatients,
            lambda s: [((s["to"] or s["from"]).date().replace(day=1), h) for h in (s["hospital_id"], ALL)],
            why,
            {"numerator_count": lambda s: gap(s) is not None and gap(s) <= 30 and not s["next"]["planned"]},
        )

    # Beds -------------------------------------------------------------------------------------------

    def occupancy(self) -> dict[Any, Row]:
        """kpi_occupancy_daily and kpi_department_flow_daily of single departments, where somebody was."""
        ids = {(d["hospital_id"], d["department_name"]): d["department_id"] for d in self.departments}
        found: dict[Any, Row] = {}
        spans: dict[Any, list[tuple[datetime, datetime, bool]]] = defaultdict(list)
        of_visit: dict[Any, list[Row]] = defaultdict(list)
        for stay in self.stays:
            for segment in stay["segments"]:
                of_visit[stay["stay_id"]].append({**segment, "kind": stay["kind"]})
        for segments in of_visit.values():
            together: list[list[Any]] = []
            for s in sorted(segments, key=lambda s: s["start"]):
                longest = (ED_HOURS if s["kind"] == "emergency" else INPATIENT_HOURS) * HOUR
                place = ids.get((s["hospital_id"], s["department_name"]))
                until = s["end"] or s["start"] + longest
                if together and together[-1][0] == place and together[-1][2] == s["start"] and together[-1][3]:
                    together[-1][2:4] = [until, s["end"] is not None]
                else:
                    together.append([place, s["start"], until, s["end"] is not None, s["hospital_id"]])
            for place, start, until, known, hospital in together:
                if place is not None:
                    spans[place, hospital].append((start, until, known))
        for (place, hospital), own in spans.items():
            zone = self.zones[hospital]
            days = {
                self.local(start, hospital).date() + timedelta(days=n)  # type: ignore[union-attr]
                for start, until, _ in own
                for n in range(-1, (until - start).days + 3)
            }
            for day in days:
                low, high = (
                    datetime.combine(day + timedelta(days=n), datetime.min.time(), zone).astimezone(UTC) for n in (0, 1)
                )
                there = [s for s in own if max(s[0], low) < min(s[1], high) or (low <= s[0] == s[1] < high)]
                beds = self._beds(place, day)
                offered = minutes(low, high) * beds
                used = sum(minutes(max(s[0], low), min(s[1], high)) for s in there)
                found[day, place] = {
                    "occupied_bed_minutes": used,
                    "midnight_patients_count": sum(s[0] <= high < s[1] for s in own),
                    "peak_patients_count": max(
                        (sum(o[0] <= at < o[1] for o in own) for at in {max(s[0], low) for s in there}), default=0
                    ),
                    "patients_count": len(there),
                    "inflow_count": sum(low <= s[0] < high for s in own),
                    "outflow_count": sum(low < s[1] <= high and s[2] and s[0] < high for s in there),
                    "time_weighted_pct": 100 * used / offered if offered else None,
                }
        return found

    def _beds(self, place: str, day: date) -> int:
        versions = [d for d in self.departments if d["department_id"] == place and d["effective_date"] <= day]
        return max(versions, key=lambda d: d["effective_date"])["bed_capacity"] or 0 if versions else 0

    def crowding(self, hours: Iterable[tuple[str, datetime]]) -> dict[Any, Row]:
        """kpi_crowding_hourly at some hours: who is there, who boards, doctors, NEDOCS, EDWIN."""
        found = {}
        for hospital, at in hours:
            day = self.local(at, hospital)
            assert day is not None
            present = [
                v
                for v in self.visits
                if v["hospital_id"] == hospital and not v["is_cancelled"] and v["arrival_at"] <= at < v["ends"]
            ]
            boarders = [
                v
                for v in present
                if v["disposition"] == "admitted" and v["decision_at"] is not None and v["decision_at"] <= at
            ]
            ventilated = [
                v
                for v in present
                if any(
                    p["procedure_code"].startswith("5A19") and p["performed_at"] is not None and p["performed_at"] <= at
                    for p in self.procedures[v["visit_id"]]
                )
            ]
            roomed = [v for v in present if v["room_at"] is not None and v["room_at"] <= at]
            latest = max((v["room_at"] for v in roomed), default=None)
            door_to_bed = max(
                (minutes(v["arrival_at"], v["room_at"]) / 60 for v in roomed if v["room_at"] == latest), default=0.0
            )
            boarded = max((minutes(v["decision_at"], at) / 60 for v in boarders), default=0.0)
            places = {
                d["department_id"]: d["department_name"] for d in self.departments if d["hospital_id"] == hospital
            }
            ed = sum(self._beds(p, day.date()) for p, name in places.items() if name == "Emergency")
            house = sum(self._beds(p, day.date()) for p, name in places.items() if name != "Emergency")
            attending = {
                s["doctor_id"] if s["doctor_id"] in self.doctors else s["shift_id"]
                for s in self.shifts
                if s["hospital_id"] == hospital
                and s["shift_start_at"] <= at < s["shift_end_at"]
                and places.get(s["department_id"] or self.doctors.get(s["doctor_id"], {}).get("department_id"))
                == "Emergency"
            }
            nedocs = None
            if ed and house:
                nedocs = 85.8 * len(present) / ed + 600 * len(boarders) / house + 13.4 * len(ventilated)
                nedocs = min(200.0, max(0.0, nedocs + 0.93 * boarded + 5.64 * door_to_bed - 20))
            weight = sum(6 - v["triage_level"] for v in present if v["triage_level"] is not None)
            free = ed - len(boarders)
            found[hospital, at] = {
                "ed_patients_count": len(present),
                "boarders_count": len(boarders),
                "ventilated_count": len(ventilated),
                "attendings_count": len(attending),
                "nedocs_score": nedocs,
                "edwin_score": weight / (len(attending) * free) if attending and free > 0 else None,
            }
        return found


def minutes(start: datetime, end: datetime) -> float:
    """From one instant to another."""
    return (end - start) / MINUTE


def rates(
    rows: Iterable[Row],
    keys: Callable[[Row], Iterable[Any]],
    why: Callable[[Row], str | None],
    counted: Mapping[str, Callable[[Row], bool]],
) -> dict[Any, Row]:
    """Population, exclusions by reason, denominator, and what is counted of it, by key."""
    found: dict[Any, Row] = {}
    for row in rows:
        reason = why(row)
        for key in keys(row):
            figures = found.setdefault(key, defaultdict(int))
            figures["population_count"] += 1
            figures["denominator_count"] += reason is None
            if reason is not None:
                figures[f"excluded_{reason}_count"] += 1
            for name, holds in counted.items():
                figures[name] += bool(reason is None and holds(row))
    for figures in found.values():
        n = figures["denominator_count"]
        figures["value_pct"] = 100.0 * figures["numerator_count"] / n if n else None
    return found


def _written(row: Row) -> tuple[bool, datetime]:
    at = row["recorded_at"]
    return (at is not None, at or datetime.min.replace(tzinfo=UTC))


def _said_at(event: Row) -> datetime:
    at: datetime = event["recorded_at"] or event["event_at"]
    return at


def _cancelled_at(events: Iterable[Row]) -> datetime | None:
    """When a visit was last cancelled: everything said until then has not been."""
    return max((_said_at(e) for e in events if e["event_type"] == "A11"), default=None)


def _newest(rows: Iterable[Row], key: str) -> list[Row]:
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


def _principal(rows: Iterable[Row]) -> dict[str, tuple[int, str]]:
    """Visit -> the code of its lowest rank; of a rank the newest record's."""
    best: dict[str, Row] = {}

    def age(row: Row) -> Any:
        place = (row["service_date"], row["source_file"], row["source_line"], row["source_part"])
        return (-row["sequence"], *_written(row), *place)

    for row in rows:
        if row["visit_id"] not in best or age(row) > age(best[row["visit_id"]]):
            best[row["visit_id"]] = row
    return {visit: (row["icd_version"], row["icd_code"]) for visit, row in best.items()}


def _is_cancer(version: int | None, code: str | None) -> bool:
    if code is None:
        return False
    if version == 10:
        return "C00" <= code[:3] <= "C96" or "D00" <= code[:3] <= "D09" or "D37" <= code[:3] <= "D49"
    return version == 9 and ("140" <= code[:3] <= "209" or "230" <= code[:3] <= "239")


def _level(visit: Row) -> str:
    return "untriaged" if visit["triage_level"] is None else str(visit["triage_level"])


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    if not ordered:
        return None
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
