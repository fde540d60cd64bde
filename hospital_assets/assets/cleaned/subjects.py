"""Every subject's rules and how its records are validated, for documentation, reports and trying a profile out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hospital_assets.assets.cleaned import (
    adt_events,
    diagnoses_and_procedures,
    er_visits,
    patients,
    reference_data,
    vitals,
)
from hospital_assets.assets.cleaned.rules import DUPLICATE, READING_RULES, SUPERSEDED, Rule
from hospital_assets.warehouse.dialect import Frame

RULES: dict[str, tuple[Rule, ...]] = {
    "every subject": (*READING_RULES, DUPLICATE, SUPERSEDED),
    "hospitals": reference_data.HOSPITAL_RULES,
    "departments": reference_data.DEPARTMENT_RULES,
    "doctors": reference_data.DOCTOR_RULES,
    "doctor_shifts": reference_data.SHIFT_RULES,
    "patients": patients.RULES,
    "er_visits": er_visits.RULES,
    "vitals": vitals.RULES,
    "adt_events": adt_events.RULES,
    "diagnoses": diagnoses_and_procedures.DIAGNOSIS_RULES,
    "procedures": diagnoses_and_procedures.PROCEDURE_RULES,
}

#: Subject -> from its raw records, cleaned_hospitals and the profiles to the validated records; visits also take
#: cleaned_adt_events, as `events`.
VALIDATORS: Mapping[str, Callable[..., Frame]] = {
    "hospitals": lambda raw, _, profiles: reference_data.validate_hospitals(raw, profiles),
    "departments": reference_data.validate_departments,
    "doctors": reference_data.validate_doctors,
    "doctor_shifts": reference_data.validate_doctor_shifts,
    "patients": lambda raw, _, profiles: patients.validate_patients(raw, profiles),
    "er_visits": er_visits.validate_er_visits,
    "vitals": vitals.validate_vitals,
    "adt_events": adt_events.validate_adt_events,
    "diagnoses": diagnoses_and_procedures.validate_diagnoses,
    "procedures": diagnoses_and_procedures.validate_procedures,
}
