"""What the sources in use cannot deliver, so that no check warns about missing values.

Pure functions of the profiles. A column that no source names is empty by declaration, not by accident;
what follows from it is empty, too. Completeness checks of such columns are not applicable.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from hospital_assets.contracts import CONTRACTS
from hospital_assets.landing.profile import MEASURED, SCORED, SUBJECTS, Profile, canonical_columns, delivers

#: Raw column -> its cleaned name, where that is another one.
_CLEANED_AS = {
    "age_years": "age_at_extract_years",
    "zip": "zip_code",
    "department": "department_name",
    "arrival_time": "arrival_at",
    "handover_time": "handover_at",
    "triage_time": "triage_at",
    "room_time": "room_at",
    "provider_time": "provider_at",
    "decision_time": "decision_at",
    "departure_time": "departure_at",
    "heart_rate": "heart_rate_bpm",
    "respiratory_rate": "respiratory_rate_per_min",
    "spo2": "spo2_pct",
    "systolic_bp": "systolic_mmhg",
    "diastolic_bp": "diastolic_mmhg",
    "temperature": "temperature_c",
    "on_oxygen": "is_on_oxygen",
    "gcs": "gcs_score",
    "pain": "pain_score",
}
#: Subject -> tables whose columns of the same name are empty with the cleaned ones.
_SAME_IN = {
    "hospitals": ("dim_hospital",),
    "departments": ("dim_department",),
    "doctors": ("dim_doctor",),
    "patients": ("dim_patient",),
    "er_visits": ("fact_emergency_visits",),
    "vitals": ("fact_vitals",),
    "adt_events": ("fact_patient_flow",),
}
#: Raw column -> what else is empty without it.
_FOLLOWS: Mapping[str, tuple[str, ...]] = {
    "er_visits.provider_time": ("fact_emergency_visits.wait_minutes", "fact_emergency_visits.treatment_minutes"),
    "er_visits.room_time": ("fact_emergency_visits.room_minutes",),
    "er_visits.decision_time": ("fact_emergency_visits.boarding_minutes",),
    "er_visits.disposition": ("fact_emergency_visits.boarding_minutes",),
    "er_visits.departure_time": (
        "fact_emergency_visits.los_minutes",
        "fact_emergency_visits.four_hour_minutes",
        "fact_emergency_visits.boarding_minutes",
        "fact_emergency_visits.treatment_minutes",
    ),
    "er_visits.triage_level": ("fact_emergency_visits.triage_key",),
    "er_visits.doctor_id": ("fact_emergency_visits.doctor_key",),
    "er_visits.department": ("fact_emergency_visits.department_key",),
    "doctors.department_id": ("fact_doctor_shifts.department_key",),
    "adt_events.department": ("fact_patient_flow.department_key",),
    "departments.bed_capacity": ("fact_bed_occupancy.staffed_bed_minutes",),
    **{
        f"vitals.{name}": (
            "fact_vitals.news2_score",
            "fact_vitals.news2_response",
            "fact_vitals.has_news2_red_parameter",
        )
        for name in (*MEASURED, "consciousness", "on_oxygen")
    },
}


def undeliverable(profiles: Iterable[Profile]) -> frozenset[str]:
    """What no source in use can fill: `table.column`, and `raw_<subject>` without any source."""
    in_use = list(profiles)
    if not in_use:
        return frozenset()
    empty: set[str] = set()
    for subject in SUBJECTS:
        specs = [s for p in in_use if subject in p.subjects for s in p.subjects[subject].layouts]
        if not specs:
            empty.add(f"raw_{subject}")
        filled: set[str] = set().union(*(delivers(spec, subject) for spec in specs))
        names = [*canonical_columns(subject), *(MEASURED + SCORED if subject == "vitals" else ())]
        for column in names:
            if column in filled:
                continue
            cleaned = _CLEANED_AS.get(column, column)
            empty |= {
                f"{table}.{cleaned}"
                for table in (f"cleaned_{subject}", *_SAME_IN.get(subject, ()))
                if cleaned in CONTRACTS[table].column_names
            }
            empty |= set(_FOLLOWS.get(f"{subject}.{column}", ()))
    if {"dim_patient.birth_date", "dim_patient.age_at_extract_years"} <= empty:
        ages = {"fact_emergency_visits.age_years", "fact_vitals.age_years"}
        empty |= ages | {"fact_vitals.news2_score", "fact_vitals.news2_response"}
    return frozenset(empty)


def in_use(profiles: Mapping[str, Profile], landed: Collection[str]) -> list[Profile]:
    """The profiles that have landed something."""
    return [profile for name, profile in profiles.items() if name in landed]
