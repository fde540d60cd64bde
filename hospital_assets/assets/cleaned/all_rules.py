"""Every subject's rules and its judging, for documentation, reports and trying a profile out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hospital_assets.assets.cleaned import adt_events, coded, er_visits, masters, patients, vitals
from hospital_assets.assets.cleaned.rules import DUPLICATE, READING_RULES, SUPERSEDED, Rule
from hospital_assets.landing.registry import Profiles
from hospital_assets.warehouse.dialect import Frame

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

#: Subject -> from its raw records, cleaned_hospitals and the profiles to the judged records.
JUDGES: Mapping[str, Callable[[Frame, Frame, Profiles], Frame]] = {
    "hospitals": lambda raw, _, profiles: masters.judge_hospitals(raw, profiles),
    "departments": masters.judge_departments,
    "doctors": masters.judge_doctors,
    "doctor_shifts": masters.judge_doctor_shifts,
    "patients": lambda raw, _, profiles: patients.judge_patients(raw, profiles),
    "er_visits": er_visits.judge_er_visits,
    "vitals": vitals.judge_vitals,
    "adt_events": adt_events.judge_adt_events,
    "diagnoses": coded.judge_diagnoses,
    "procedures": coded.judge_procedures,
}
