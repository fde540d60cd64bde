"""Every cleaning rule by subject, for the documentation and the reports."""

from __future__ import annotations

from hospital_assets.assets.cleaned import adt_events, coded, er_visits, masters, patients, vitals
from hospital_assets.assets.cleaned.rules import DUPLICATE, READING_RULES, SUPERSEDED, Rule

RULES: dict[str, tuple[Rule, ...]] = {
    "every subject": (*READING_RULES, DUPLICATE, SUPERSEDED),
    "hospitals": masters.HOSPITAL_RULES,
    "departments": masters.DEPARTMENT_RULES,
    "doctors": masters.DOCTOR_RULES,
    "doctor_shifts": masters.SHIFT_RULES,
    "patients": patients.RULES,
    "er_visits": er_visits.RULES,
    "vitals": vitals.RULES,
    "adt_events": adt_events.RULES,
    "diagnoses": coded.DIAGNOSIS_RULES,
    "procedures": coded.PROCEDURE_RULES,
}
