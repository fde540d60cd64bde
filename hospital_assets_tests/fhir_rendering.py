"""The simulated network's truth as FHIR R4 resources: what a server would say of the same visits.

Reads clean native files and renders what R4 has a place for. Left out on both sides: ambulance
handover and the SpO2 scale of NEWS2, for which the profile knows no element or code.
"""

from __future__ import annotations

import gzip
import json
import uuid
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

Resource = dict[str, Any]
UNSAID_VITALS = ("spo2_scale",)
DISPOSITIONS = {
    "home": "home",
    "admitted": "hosp",
    "transferred": "other-hcf",
    "expired": "exp",
    "against_medical_advice": "aadvice",
}
MODES = {"ambulance": "A", "helicopter": "H", "walk_in": "F", "other": "O", "unknown": "U"}
LOINC = {
    "heart_rate": "8867-4",
    "respiratory_rate": "9279-1",
    "spo2": "59408-5",
    "temperature": "8310-5",
    "gcs": "9269-2",
    "pain": "72514-3",
    "consciousness": "67775-7",
}


def csv(folder: Path, subject: str) -> list[dict[str, Any]]:
    frames = [pl.read_csv(p, infer_schema=False) for p in sorted((folder / subject).glob("*.csv"))]
    return list(pl.concat(frames, how="diagonal").iter_rows(named=True))


def jsonl(folder: Path, subject: str) -> list[dict[str, Any]]:
    return [
        json.loads(line) for path in sorted((folder / subject).glob("*.json")) for line in path.read_text().splitlines()
    ]


def prepare(native: Path) -> None:
    """Take out of the native files what R4 cannot say, and the visits whose messages stop half-way."""
    events = defaultdict(set)
    for event in jsonl(native, "adt_events"):
        events[event["visit_id"]].add(event["event_type"])
    complete = {
        visit["visit_id"]
        for visit in csv(native, "er_visits")
        if bool(visit["departure_time"]) == bool(events[visit["visit_id"]] & {"A03", "A06"})
        or "A11" in events[visit["visit_id"]]
    }
    for subject in ("er_visits", "diagnoses", "procedures"):
        for path in (native / subject).glob("*.csv"):
            frame = pl.read_csv(path, infer_schema=False).filter(pl.col("visit_id").is_in(complete))
            if "handover_time" in frame.columns:
                frame = frame.with_columns(handover_time=pl.lit(None, dtype=pl.String))
            frame.write_csv(path)
    for subject in ("vitals", "adt_events"):
        for path in (native / subject).glob("*.json"):
            kept = []
            for line in path.read_text().splitlines():
                record = json.loads(line)
                if record["visit_id"] in complete:
                    for name in UNSAID_VITALS:
                        record.get("vitals", {}).pop(name, None)
                    kept.append(json.dumps(record))
            path.write_text("".join(f"{line}\n" for line in kept))


class Rendering:
    """Resources by type, and by visit those that belong to one."""

    def __init__(self, native: Path) -> None:
        self.native = native
        self.masters: list[Resource] = []
        self.visits: dict[str, list[Resource]] = defaultdict(list)
        self.zones = {row["hospital_id"]: ZoneInfo(row["time_zone"]) for row in csv(native, "hospitals")}
        self._masters()
        self._visits()
        self._vitals()

    def instant(self, wall: str | None, hospital: str) -> str | None:
        """A wall clock of a hospital with its offset, as FHIR wants it."""
        if not wall:
            return None
        return datetime.fromisoformat(wall).replace(tzinfo=self.zones[hospital]).isoformat()

    def _masters(self) -> None:
        for row in csv(self.native, "hospitals"):
            self.masters.append(
                {
                    "resourceType": "Organization",
                    "id": row["hospital_id"],
                    "name": row["hospital_name"],
                    "extension": [
                        {"url": "http://hl7.org/fhir/StructureDefinition/timezone", "valueCode": row["time_zone"]}
                    ],
                    "type": [{"coding": [{"code": "prov"}]}],
                    "address": [{"city": row["city"], "state": row["state"]}],
                }
            )
        for row in {row["department_id"]: row for row in csv(self.native, "departments")}.values():
            self.masters.append(
                {
                    "resourceType": "Location",
                    "id": row["department_id"],
                    "name": row["department_name"],
                    "managingOrganization": {"reference": f"Organization/{row['hospital_id']}"},
                    "physicalType": {"coding": [{"code": "wa"}]},
                }
            )
        for row in csv(self.native, "doctors"):
            name = f"{row['first_name']} {row['last_name']}"
            self.masters += [
                {
                    "resourceType": "Practitioner",
                    "id": row["doctor_id"],
                    "name": [{"text": name}],
                    "identifier": [
                        {"system": "http://example.org/staff", "value": f"x{row['npi']}"},
                        {"system": "http://hl7.org/fhir/sid/us-npi", "value": row["npi"]},
                    ],
                },
                {
                    "resourceType": "PractitionerRole",
                    "id": f"role-{row['doctor_id']}",
                    "practitioner": {"reference": f"Practitioner/{row['doctor_id']}"},
                    "organization": {"reference": f"Organization/{row['hospital_id']}"},
                    "specialty": [{"text": row["specialty"]}],
                },
            ]
        for row in csv(self.native, "patients"):
            us_core = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-"
            self.masters.append(
                {
                    "resourceType": "Patient",
                    "id": row["patient_id"],
                    "meta": {"lastUpdated": row["recorded_at"]},
                    "extension": [
                        {"url": f"{us_core}{name}", "extension": [{"url": "text", "valueString": row[name]}]}
                        for name in ("race", "ethnicity")
                        if row[name]
                    ],
                    "name": [
                        {"use": "nickname", "given": ["Nick"]},
                        {"use": "official", "given": [row["first_name"]], "family": row["last_name"]},
                    ],
                    "gender": row["sex"],
                    "birthDate": row["birth_date"],
                }
            )

    def _visits(self) -> None:
        messages = defaultdict(list)
        for event in jsonl(self.native, "adt_events"):
            messages[event["visit_id"]].append(event)
        ranks = defaultdict(list)
        for row in csv(self.native, "diagnoses"):
            ranks[row["visit_id"]].append(row)
        for visit in csv(self.native, "er_visits"):
            told = sorted(messages[visit["visit_id"]], key=lambda e: (e["event_at"], e["message_id"]))
            self.visits[visit["visit_id"]] += [
                self._emergency(visit, told, ranks[visit["visit_id"]]),
                *self._inpatient(visit, told),
                *self._orders(visit),
            ]
        for row in csv(self.native, "diagnoses"):
            self.visits[row["visit_id"]].append(
                {
                    "resourceType": "Condition",
                    "id": row["diagnosis_id"],
                    "subject": {"reference": f"Patient/{row['patient_id']}"},
                    "encounter": {"reference": f"Encounter/{row['visit_id']}"},
                    "recordedDate": self.instant(row["recorded_at"], row["hospital_id"]),
                    "code": {
                        "coding": [
                            {"system": "http://snomed.info/sct", "code": "404684003"},
                            {"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": row["icd10_code"]},
                        ],
                        "text": row["description"],
                    },
                }
            )
        for row in csv(self.native, "procedures"):
            self.visits[row["visit_id"]].append(
                {
                    "resourceType": "Procedure",
                    "id": row["procedure_id"],
                    "status": "completed",
                    "meta": {"lastUpdated": self.instant(row["recorded_at"], row["hospital_id"])},
                    "subject": {"reference": f"Patient/{row['patient_id']}"},
                    "encounter": {"reference": f"Encounter/{row['visit_id']}"},
                    "performedDateTime": self.instant(row["performed_at"], row["hospital_id"]),
                    "code": {
                        "coding": [
                            {
                                "system": "http://www.cms.gov/Medicare/Coding/ICD10",
                                "code": row["procedure_code"],
                                "display": row["description"],
                            }
                        ]
                    },
                }
            )

    def _emergency(self, visit: dict[str, Any], told: list[dict[str, Any]], ranks: list[dict[str, Any]]) -> Resource:
        hospital = visit["hospital_id"]

        def at(clock: str) -> str | None:
            return self.instant(visit[f"{clock}_time"], hospital)

        history = [
            {"status": status, "period": {"start": start}}
            for status, start in (
                ("arrived", at("arrival")),
                ("triaged", at("triage")),
                ("in-progress", at("provider")),
            )
            if start
        ]
        cancelled = any(event["event_type"] == "A11" for event in told)
        # The newest that has been reached.
        status = "cancelled" if cancelled else "finished" if at("departure") else history[-1]["status"]
        places = [
            {
                "location": {"reference": f"Location/{hospital}-EMER"},
                "period": {"start": at("arrival")},
                "physicalType": {"coding": [{"code": "wa"}]},
            }
        ]
        if at("room"):
            places.append(
                {
                    "location": {"display": "Room 3"},
                    "period": {"start": at("room")},
                    "physicalType": {"coding": [{"code": "ro"}]},
                }
            )
        return _without_nulls(
            {
                "resourceType": "Encounter",
                "id": visit["visit_id"],
                "status": status,
                "meta": {"lastUpdated": self.instant(visit["recorded_at"], hospital)},
                "extension": [
                    {
                        "url": "http://hl7.org/fhir/StructureDefinition/encounter-modeOfArrival",
                        "valueCoding": {"code": MODES[visit["arrival_mode"]]},
                    }
                ],
                "statusHistory": history,
                "class": {"code": "EMER"},
                "serviceType": {"text": visit["department"]},
                "subject": {"reference": f"Patient/{visit['patient_id']}"},
                "participant": [
                    {
                        "type": [{"coding": [{"code": "ATND"}]}],
                        "individual": {"reference": f"Practitioner/{visit['doctor_id']}"},
                    }
                ]
                if visit["doctor_id"]
                else None,
                "period": {"start": at("arrival"), "end": at("departure")},
                "reasonCode": [{"text": visit["chief_complaint"]}],
                "diagnosis": [
                    {"condition": {"reference": f"Condition/{row['diagnosis_id']}"}, "rank": int(row["sequence"])}
                    for row in ranks
                ],
                "hospitalization": _disposition(visit["disposition"]),
                "location": places,
                "serviceProvider": {"reference": f"Organization/{hospital}"},
            }
        )

    def _inpatient(self, visit: dict[str, Any], told: list[dict[str, Any]]) -> list[Resource]:
        kept: list[dict[str, Any]] = []
        for event in told:
            if event["event_type"] == "A12":
                last = max(n for n, e in enumerate(kept) if e["event_type"] == "A02")
                del kept[last]
            elif event["event_type"] in ("A01", "A06", "A02"):
                kept.append(event)
        ends = [event for event in told if event["event_type"] == "A03"]
        if not kept:
            return []
        return [
            _without_nulls(
                {
                    "resourceType": "Encounter",
                    "id": f"{visit['visit_id']}-in",
                    "status": "finished" if ends else "in-progress",
                    "meta": {"lastUpdated": (ends or told)[-1]["recorded_at"]},
                    "class": {"code": "IMP"},
                    "partOf": {"reference": f"Encounter/{visit['visit_id']}"},
                    "subject": {"reference": f"Patient/{visit['patient_id']}"},
                    "period": {"start": kept[0]["event_at"], "end": ends[-1]["event_at"] if ends else None},
                    "hospitalization": _disposition(ends[-1]["discharge_disposition"] if ends else None),
                    "location": [
                        {"location": {"display": event["department"]}, "period": {"start": event["event_at"]}}
                        for event in kept
                    ],
                    "serviceProvider": {"reference": f"Organization/{visit['hospital_id']}"},
                }
            )
        ]

    def _orders(self, visit: dict[str, Any]) -> list[Resource]:
        of_visit = {
            "subject": {"reference": f"Patient/{visit['patient_id']}"},
            "encounter": {"reference": f"Encounter/{visit['visit_id']}"},
        }
        made: list[Resource] = []
        if visit["triage_level"]:
            made.append(
                {
                    "resourceType": "Observation",
                    "id": f"{visit['visit_id']}-esi",
                    "status": "final",
                    **of_visit,
                    "code": {"coding": [{"system": "http://loinc.org", "code": "54094-8"}]},
                    "valueInteger": int(visit["triage_level"]),
                }
            )
        if visit["decision_time"]:
            code = "183452005" if visit["disposition"] == "admitted" else "58000006"
            made.append(
                {
                    "resourceType": "ServiceRequest",
                    "id": f"{visit['visit_id']}-order",
                    "status": "active",
                    "intent": "order",
                    **of_visit,
                    "code": {"coding": [{"system": "http://snomed.info/sct", "code": code}]},
                    "authoredOn": self.instant(visit["decision_time"], visit["hospital_id"]),
                }
            )
        return made

    def _vitals(self) -> None:
        for row in jsonl(self.native, "vitals"):
            shared = {
                "resourceType": "Observation",
                "status": "final",
                "subject": {"reference": f"Patient/{row['patient_id']}"},
                "encounter": {"reference": f"Encounter/{row['visit_id']}"},
                "effectiveDateTime": row["measured_at"],
                "issued": row["recorded_at"],
                "device": {"display": row["device_id"]},
            }
            made = []
            for name, code in LOINC.items():
                if (value := row["vitals"].get(name)) is not None:
                    made.append(
                        {**shared, "id": f"{row['observation_id']}-{name}", "code": _loinc(code), **_value(value)}
                    )
            if (on_oxygen := row["vitals"].get("on_oxygen")) is not None:
                litres = {"value": 2 if on_oxygen else 0, "unit": "L/min"}
                made.append({**shared, "id": f"{row['observation_id']}-o2", "code": _loinc("3151-8"), **_value(litres)})
            pressures = [
                {"code": _loinc(code), **_value(row["vitals"][name])}
                for name, code in (("systolic_bp", "8480-6"), ("diastolic_bp", "8462-4"))
                if row["vitals"].get(name) is not None
            ]
            if pressures:
                made.append(
                    {**shared, "id": f"{row['observation_id']}-bp", "code": _loinc("85354-9"), "component": pressures}
                )
            panel = {
                **shared,
                "id": f"{row['observation_id']}-panel",
                "code": _loinc("85353-1"),
                "hasMember": [{"reference": f"Observation/{o['id']}"} for o in made],
            }
            self.visits[row["visit_id"]] += [panel, *made]


def land_ndjson(folder: Path, name: str, resources: Iterable[Resource]) -> None:
    """A bulk export: a file for each type, some of them gzip."""
    by_type = defaultdict(list)
    for resource in resources:
        by_type[resource["resourceType"]].append(json.dumps(resource, ensure_ascii=False))
    folder.mkdir(parents=True, exist_ok=True)
    for number, (kind, lines) in enumerate(sorted(by_type.items())):
        data = "".join(f"{line}\n" for line in lines).encode()
        if number % 2:
            (folder / f"{name}.{kind}.ndjson.gz").write_bytes(gzip.compress(data))
        else:
            (folder / f"{name}.{kind}.ndjson").write_bytes(data)


def land_bundle(folder: Path, name: str, kind: str, resources: Iterable[Resource], indent: int | None = None) -> None:
    """A Bundle; in a transaction the resources know each other by urn:uuid."""
    listed = list(resources)
    urls = {
        f"{r['resourceType']}/{r['id']}": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, r['id'])}"
        if kind == "transaction"
        else f"https://fhir.example.org/r4/{r['resourceType']}/{r['id']}"
        for r in listed
    }
    entries = []
    for resource in listed:
        text = json.dumps(resource)
        for local, url in urls.items():
            text = text.replace(f'"reference": "{local}"', f'"reference": "{url}"')
        url = urls[f"{resource['resourceType']}/{resource['id']}"]
        entries.append({"fullUrl": url, "resource": json.loads(text)})
    folder.mkdir(parents=True, exist_ok=True)
    bundle = {"resourceType": "Bundle", "type": kind, "total": len(entries), "entry": entries}
    (folder / f"{name}.json").write_text(json.dumps(bundle, indent=indent))


def _loinc(code: str) -> Resource:
    return {
        "coding": [
            {"system": "http://example.org/flowsheet", "code": f"row-{code}"},
            {"system": "http://loinc.org", "code": code},
        ]
    }


def _value(value: Any) -> Resource:
    if isinstance(value, dict):
        return {
            "valueQuantity": {"value": value["value"], "code": value["unit"], "system": "http://unitsofmeasure.org"}
        }
    if isinstance(value, str):
        return {"valueCodeableConcept": {"coding": [{"code": value}]}}
    return {"valueInteger": value}


def _disposition(ours: str | None) -> Resource | None:
    if not ours:
        return None
    return {"dischargeDisposition": {"coding": [{"code": DISPOSITIONS.get(ours, ours)}]}}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {name: _without_nulls(inner) for name, inner in value.items()}
        return {name: inner for name, inner in kept.items() if inner not in (None, [], {})}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value
