"""How fast FHIR R4 NDJSON is read and becomes raw tables, and in how much memory.

    python benchmarks/fhir.py [--megabytes 100] [--mixed] [--part PART]

Generates a bulk export: for each emergency visit a Patient, an Encounter with its status history, two
Conditions, an ESI observation, an order, and eight sets of vital signs (five single observations and a
blood-pressure panel with components each), one file for each type, or all in one file with `--mixed`.
Reports MB a second and the highest memory of each part, which runs in a process of its own:

- normalise: landed lines to JSON lines, nothing stored;
- raw: landed files verified, dated and stored as raw tables in DuckDB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

PARTS = ("normalise", "raw")
START = datetime(2026, 1, 1, 6, tzinfo=UTC)
DAYS = 89
SETS = 8
SIGNS = [
    ("8867-4", "Heart rate", "/min"),
    ("9279-1", "Respiratory rate", "/min"),
    ("59408-5", "Oxygen saturation in Arterial blood by Pulse oximetry", "%"),
    ("8310-5", "Body temperature", "Cel"),
    ("72514-3", "Pain severity", "{score}"),
]
PROFILE = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-"
HOSPITAL = {
    "resourceType": "Organization",
    "id": "H1",
    "name": "General",
    "address": [{"city": "Boston"}],
    "type": [{"coding": [{"code": "prov"}]}],
}


def shared(kind: str, identity: str, at: datetime) -> dict[str, object]:
    stamp = at.isoformat(timespec="milliseconds")
    return {
        "resourceType": kind,
        "id": identity,
        "meta": {"versionId": "1", "lastUpdated": stamp, "profile": [f"{PROFILE}{kind.lower()}"]},
    }


def observation(visit: int, identity: str, code: str, name: str, at: datetime) -> dict[str, object]:
    stamp = at.isoformat(timespec="milliseconds")
    return {
        **shared("Observation", identity, at),
        "status": "final",
        "category": [
            {
                "coding": [
                    {
                        "system": "http://terminology.hl7.org/CodeSystem/observation-category",
                        "code": "vital-signs",
                        "display": "Vital Signs",
                    }
                ]
            }
        ],
        "code": {"coding": [{"system": "http://loinc.org", "code": code, "display": name}], "text": name},
        "subject": {"reference": f"Patient/p{visit}"},
        "encounter": {"reference": f"Encounter/e{visit}"},
        "effectiveDateTime": stamp,
        "issued": stamp,
        "performer": [{"reference": f"Practitioner/d{visit % 90}", "display": "Nurse"}],
    }


def quantity(value: float, unit: str) -> dict[str, object]:
    return {"value": value, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}


def visit_resources(visit: int) -> Iterator[dict[str, object]]:
    arrived = START + timedelta(seconds=visit * 41 % (DAYS * 86_400))
    stamps = [(arrived + timedelta(minutes=m)).isoformat() for m in (0, 9, 31, 212, 240)]
    patient = {"reference": f"Patient/p{visit}"}
    encounter = {"reference": f"Encounter/e{visit}"}
    yield {
        **shared("Patient", f"p{visit}", arrived),
        "gender": "female",
        "birthDate": "1970-02-03",
        "name": [{"use": "official", "family": f"Esterkin{visit}", "given": ["Anna"]}],
    }
    yield {
        **shared("Encounter", f"e{visit}", arrived),
        "status": "finished",
        "statusHistory": [
            {"status": status, "period": {"start": start}}
            for status, start in zip(("arrived", "triaged", "in-progress"), stamps, strict=False)
        ],
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "EMER"},
        "subject": patient,
        "period": {"start": stamps[0], "end": stamps[4]},
        "reasonCode": [{"text": "chest pain"}],
        "serviceType": {"text": "Emergency"},
        "diagnosis": [{"condition": {"reference": f"Condition/c{visit}-{rank}"}, "rank": rank} for rank in (1, 2)],
        "hospitalization": {"dischargeDisposition": {"coding": [{"code": "home"}]}},
        "location": [{"location": {"display": "Emergency"}}],
        "serviceProvider": {"reference": "Organization/H1"},
    }
    for rank, code in ((1, "I20.0"), (2, "E11.9")):
        yield {
            **shared("Condition", f"c{visit}-{rank}", arrived),
            "subject": patient,
            "encounter": encounter,
            "recordedDate": stamps[4],
            "code": {"coding": [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": code}]},
        }
    esi = observation(visit, f"t{visit}", "54094-8", "Emergency severity index", arrived)
    yield {**esi, "valueInteger": visit % 5 + 1}
    yield {
        **shared("ServiceRequest", f"o{visit}", arrived),
        "status": "completed",
        "intent": "order",
        "code": {"coding": [{"system": "http://snomed.info/sct", "code": "58000006"}]},
        "subject": patient,
        "encounter": encounter,
        "authoredOn": stamps[3],
    }
    for number in range(SETS):
        at = arrived + timedelta(minutes=10 + 25 * number)
        for place, (code, name, unit) in enumerate(SIGNS):
            sign = observation(visit, f"v{visit}-{number}-{place}", code, name, at)
            value = {"72514-3": 3, "8310-5": 37.1, "59408-5": 97}.get(code, 60 + visit % 40)
            yield {**sign, "valueQuantity": quantity(value, unit)}
        panel = observation(visit, f"v{visit}-{number}-bp", "85354-9", "Blood pressure panel", at)
        yield {
            **panel,
            "component": [
                {
                    "code": {"coding": [{"system": "http://loinc.org", "code": code, "display": name}]},
                    "valueQuantity": quantity(value, "mm[Hg]"),
                }
                for code, name, value in (
                    ("8480-6", "Systolic blood pressure", 110 + visit % 40),
                    ("8462-4", "Diastolic blood pressure", 70),
                )
            ],
        }


def land(folder: Path, megabytes: int, is_mixed: bool) -> tuple[int, int, int]:
    """Write the export; how many visits, resources and bytes."""
    landing = folder / "landing" / "fhir-r4"
    landing.mkdir(parents=True)
    (landing / "Organization.ndjson").write_text(json.dumps(HOSPITAL) + "\n")
    files: dict[str, object] = {}
    visits = resources = size = 0
    encode = json.JSONEncoder(separators=(",", ":")).encode
    try:
        while size < megabytes * 1e6:
            for resource_ in visit_resources(visits):
                name = "all" if is_mixed else str(resource_["resourceType"])
                if name not in files:
                    files[name] = (landing / f"{name}.ndjson").open("w")
                size += files[name].write(encode(resource_) + "\n")  # type: ignore[attr-defined]
                resources += 1
            visits += 1
    finally:
        for file in files.values():
            file.close()  # type: ignore[attr-defined]
    return visits, resources, size


def report(what: str, size: int, seconds: float, more: str = "") -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{what}: {size / 1e6:,.0f} MB in {seconds:.1f} s, {size / 1e6 / seconds:,.0f} MB/s, "
        f"at most {peak:,.0f} MB of memory{more}",
        flush=True,
    )


def normalise(folder: Path, size: int, visits: int) -> None:
    from hospital_assets.landing.fhir import json_lines, resource_type

    started, found = time.perf_counter(), 0
    for path in sorted(folder.rglob("*.ndjson")):
        with path.open(newline="") as lines:
            found += sum(resource_type(line) != "any" for line in json_lines(lines))
    report("lines", size, time.perf_counter() - started, f"; {found:,} resources")


def raw(folder: Path, size: int, visits: int) -> None:
    from hospital_assets.landing.registry import load_profiles
    from hospital_assets.landing.zone import LandingZone
    from hospital_assets.warehouse.database import Period, open_warehouse
    from hospital_assets.warehouse.dialect import relation_of

    first = date(2026, 1, 1)
    days = Period(first, first + timedelta(days=DAYS + 1))
    with open_warehouse(folder / "warehouse" / "hospital.duckdb") as warehouse:
        zone = LandingZone(
            folder / "landing",
            folder / "spool",
            first,
            first + timedelta(days=DAYS),
            warehouse.connection,
            load_profiles(None),
        )
        started = time.perf_counter()
        ledger = zone.discover()
        report("verified and dated", size, time.perf_counter() - started)
        rows = {}
        for subject in ("patients", "er_visits", "adt_events", "vitals", "diagnoses", "other_records"):
            began = time.perf_counter()
            relation = relation_of(zone.read(subject, ledger, days))
            assert relation is not None
            relation.create(f"stored_{subject}")
            (rows[subject],) = warehouse.connection.sql(f"select count(*) from stored_{subject}").fetchall()[0]
            print(f"  {subject}: {time.perf_counter() - began:.1f} s", flush=True)
        assert (rows["er_visits"], rows["vitals"], rows["adt_events"], rows["diagnoses"]) == (
            visits,
            visits * SETS,
            visits * 2,
            visits * 2,
        )
        told = ", ".join(f"{n:,} {subject}" for subject, n in rows.items())
        report("landed to raw tables", size, time.perf_counter() - started, f"; {told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--mixed", action="store_true", help="all types in one file")
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--visits", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        part = {"normalise": normalise, "raw": raw}[options.part]
        part(options.folder, options.size, options.visits)
        return
    with tempfile.TemporaryDirectory() as name:
        visits, resources, size = land(Path(name), options.megabytes, options.mixed)
        print(f"{visits:,} visits, {resources:,} resources, {size / 1e6:,.0f} MB", flush=True)
        for part in [options.part] if options.part else PARTS:
            subprocess.run(
                [
                    sys.executable,
                    __file__,
                    "--part",
                    part,
                    "--folder",
                    name,
                    "--size",
                    str(size),
                    "--visits",
                    str(visits),
                ],
                check=True,
                env={**os.environ, "HOSPITAL_DATA_DIR": name},
            )


if __name__ == "__main__":
    main()
