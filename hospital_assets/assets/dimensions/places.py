"""dim_hospital, dim_department (over time) and dim_doctor."""

from __future__ import annotations

import dagster as dg
import narwhals as nw

from hospital_assets.assets.declare import table
from hospital_assets.assets.dimensions.members import key_of, with_special_members
from hospital_assets.assets.dimensions.scd2 import BEGINNING, END_OF_TIME, changes_only, versions
from hospital_assets.contracts.dimensions import NOT_YET_KEY, UNKNOWN_KEY
from hospital_assets.warehouse.dialect import Frame, hash_keys, resolve_instants

UNKNOWN_HOSPITAL = {
    "hospital_key": UNKNOWN_KEY,
    "hospital_id": "unknown",
    "hospital_name": "Unknown hospital",
    "time_zone": "UTC",
}
UNKNOWN_DEPARTMENT = {
    "department_key": UNKNOWN_KEY,
    "department_id": "unknown",
    "department_name": "Unknown",
    "hospital_key": UNKNOWN_KEY,
    "hospital_id": "unknown",
    "valid_from_at": BEGINNING,
    "valid_to_at": END_OF_TIME,
    "is_current": True,
    "version_number": 0,
}
UNKNOWN_DOCTOR = {
    "doctor_key": UNKNOWN_KEY,
    "doctor_id": "unknown",
    "hospital_key": UNKNOWN_KEY,
    "full_name": "Unknown doctor",
}
NO_DOCTOR_YET = {
    **UNKNOWN_DOCTOR,
    "doctor_key": NOT_YET_KEY,
    "doctor_id": "none yet",
    "full_name": "Not seen by a doctor yet",
}


@dg.asset(**table("dim_hospital"))
def dim_hospital(cleaned_hospitals: Frame) -> Frame:
    """Hospitals of the network."""
    keyed = hash_keys(cleaned_hospitals, {"hospital_key": ["hospital_id"]})
    return with_special_members(keyed, "dim_hospital", cleaned_hospitals, [UNKNOWN_HOSPITAL])


@dg.asset(**table("dim_department"))
def dim_department(cleaned_departments: Frame, dim_hospital: Frame) -> Frame:
    """Departments as of each change of capacity, name or planned stay.

    A change takes effect at local midnight of its effective date.
    """
    frame = cleaned_departments.join(
        dim_hospital.select("hospital_id", "hospital_key", "time_zone"), on="hospital_id", how="inner"
    ).with_columns(
        _midnight=nw.col("effective_date").cast(nw.Datetime("us")), _midnight_offset_minutes=nw.lit(None).cast(nw.Int32)
    )
    frame = resolve_instants(frame, {"effective_at": "_midnight"}, "time_zone")
    frame = frame.with_columns(first_effective_at=nw.col("effective_at").min().over("department_id"))
    changed = changes_only(
        frame, "department_id", "effective_at", ("department_name", "hospital_id", "bed_capacity", "mean_stay_hours")
    )
    dated = versions(changed, "department_id", "effective_at").with_columns(
        _version=nw.col("effective_date").cast(nw.String)
    )
    keyed = hash_keys(dated, {"department_key": ["department_id", "_version"]})
    return with_special_members(keyed, "dim_department", cleaned_departments, [UNKNOWN_DEPARTMENT])


@dg.asset(**table("dim_doctor"))
def dim_doctor(cleaned_doctors: Frame, dim_hospital: Frame) -> Frame:
    """Doctors of the network."""
    frame = key_of(cleaned_doctors, dim_hospital, natural="hospital_id", key="hospital_key")
    keyed = hash_keys(frame, {"doctor_key": ["doctor_id"]})
    return with_special_members(keyed, "dim_doctor", cleaned_doctors, [UNKNOWN_DOCTOR, NO_DOCTOR_YET])
