"""FHIR R4: the same visits through native files and through FHIR give the same facts."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import date

import polars as pl
import pytest

from hospital_assets.settings import Settings, write_settings
from hospital_assets.simulator import simulate
from hospital_assets_tests.fhir_rendering import Rendering, land_bundle, land_ndjson, prepare
from hospital_assets_tests.helpers import query, run

FIRST = date(2026, 3, 7)  # the day after has 23 hours
FACTS = " or ".join(
    [
        *(
            f'+key:"{fact}"'
            for fact in ("fact_emergency_visits", "fact_vitals", "fact_patient_flow")
        ),
        '+key:"cleaned_procedures"',
        *(f'key:"{table}"' for table in ("dim_date", "dim_time", "raw_other_records")),
    ]
)

VISITS = """
    select regexp_replace(v.visit_id, '^fhir-r4:', '') as visit_id, h.hospital_name, d.department_name,
           doctor.full_name, patient.birth_date, c.icd_code, arrival_at, handover_at, triage_at,
           room_at, provider_at, decision_at, departure_at, arrival_mode, v.disposition,
           triage_level, is_critical, is_lwbs, is_open, is_cancelled, age_years, wait_minutes,
           wait_exclusion, treatment_minutes, los_minutes, four_hour_minutes, room_minutes,
           boarding_minutes
    from facts.fact_emergency_visits v
    join dimensions.dim_hospital h using (hospital_key)
    join dimensions.dim_department d using (department_key)
    join dimensions.dim_doctor doctor using (doctor_key)
    join dimensions.dim_patient patient using (patient_key)
    join dimensions.dim_condition c using (condition_key)
    order by 1
"""
VITALS = """
    select regexp_replace(visit_id, '^fhir-r4:', '') as visit_id, measured_at, heart_rate_bpm,
           respiratory_rate_per_min, spo2_pct, systolic_mmhg, diastolic_mmhg, temperature_c,
           consciousness, is_on_oxygen, age_years, news2_score
    from facts.fact_vitals order by 1, 2
"""
SCORES = """
    select regexp_replace(visit_id, '^fhir-r4:', '') as visit_id, measured_at, gcs_score, pain_score
    from cleaned.cleaned_vitals order by 1, 2
"""
FLOW = """
    select regexp_replace(stay_id, '^fhir-r4:', '') as stay_id, segment_number, stay_class,
           d.department_name, segment_start_at, segment_end_at, stay_start_at, stay_end_at, is_open,
           length_of_stay_hours, discharge_disposition
    from facts.fact_patient_flow join dimensions.dim_department d using (department_key)
    order by 1, 2
"""
PROCEDURES = """
    select regexp_replace(procedure_id, '^fhir-r4:', '') as procedure_id, procedure_code, code_system,
           regexp_replace(visit_id, '^fhir-r4:', '') as visit_id, performed_at, service_date
    from cleaned.cleaned_procedures order by 1
"""
PEOPLE = """
    select regexp_replace(patient_id, '^fhir-r4:', '') as patient_id, first_name, last_name, sex, race,
           ethnicity, birth_date, recorded_at
    from cleaned.cleaned_patients order by 1, recorded_at
"""
DOCTORS = """
    select regexp_replace(doctor_id, '^fhir-r4:', '') as doctor_id, full_name, specialty, npi
    from cleaned.cleaned_doctors order by 1
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Settings]:
    """The same three days, landed as native files and as FHIR in every shape, both built."""
    root = tmp_path_factory.mktemp("fhir")
    native = Settings(root / "native", first_service_date=FIRST, last_service_date=date(2026, 3, 9))
    simulate(
        native.landing, native.ground_truth, start=FIRST, days=3, scale=0.04, seed=5, clean=True
    )
    prepare(native.landing / "native")
    rendering = Rendering(native.landing / "native")
    fhir = replace(native, data_dir=root / "fhir")
    folder = fhir.landing / "fhir-r4"
    land_ndjson(folder / "masters", "master", rendering.masters)
    visits = list(rendering.visits.values())
    third = len(visits) // 3
    land_ndjson(folder / "bulk", "bulk", itertools.chain(*visits[:third]))
    for number, resources in enumerate(visits[third : third + 12]):
        land_bundle(folder, f"visit-{number}", "transaction", resources, indent=2)
    half = (third + 12 + len(visits)) // 2
    land_bundle(folder, "search", "searchset", itertools.chain(*visits[third + 12 : half]))
    land_bundle(folder, "all", "collection", itertools.chain(*visits[half:]), indent=1)
    for settings in (native, fhir):
        write_settings(settings)
        report = run(settings, select=FACTS)
        assert not report.failures
    return native, fhir


def same(native: pl.DataFrame, fhir: pl.DataFrame) -> None:
    assert native.height > 20
    differing = (
        [name for name in native.columns if not native[name].equals(fhir[name], null_equal=True)]
        if native.height == fhir.height
        else ["number of rows"]
    )
    assert not differing, (native.height, fhir.height)


@pytest.mark.parametrize("facts", [VISITS, VITALS, SCORES, FLOW, PROCEDURES, PEOPLE, DOCTORS])
def test_the_same_visits_give_the_same_facts(both: tuple[Settings, Settings], facts: str) -> None:
    native, fhir = (query(settings, facts) for settings in both)
    same(native, fhir)
