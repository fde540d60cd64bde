"""Contracts of the dimensions (Kimball): who, where, when, how urgent, with what.

Belongs here: dimension tables. Surrogate keys are integers derived from the natural key (and the
start of validity), so a rebuild gives the same keys. Facts never hold a null key: each dimension
has the member -1 (unknown) and, where a thing may still come, -2 (not yet happened).
SCD2 rows are half-open `[valid_from_at, valid_to_at)`; the open row ends at 9999-12-31.
"""

from __future__ import annotations

from hospital_assets.contracts.table import PUBLIC_PLACE, Table, column

UNKNOWN_KEY = -1
NOT_YET_KEY = -2


class Dimension(Table, layer="dimensions"):
    """A member of a dimension."""


class VersionedRow(Dimension, columns="valid_from_at valid_to_at is_current version_number"):
    """The validity of an SCD2 row (event time)."""


class DimHospital(
    Dimension,
    name="dim_hospital",
    grain="one hospital",
    key=("hospital_key",),
    columns="hospital_id hospital_name city state time_zone trauma_level annual_ed_visits_band",
):
    """Hospitals."""

    city = column(privacy="operational", because=PUBLIC_PLACE)
    state = column(privacy="operational", because=PUBLIC_PLACE)


class DimDepartment(
    VersionedRow,
    name="dim_department",
    grain="one version of a department",
    key=("department_key",),
    columns="department_id department_name hospital_key hospital_id first_effective_at bed_capacity mean_stay_hours",
    order_by=("department_id", "valid_from_at"),
):
    """Departments with their capacity over time (SCD2 by effective date)."""


class DimDoctor(
    Dimension,
    name="dim_doctor",
    grain="one doctor",
    key=("doctor_key",),
    columns="doctor_id hospital_key department_id full_name specialty npi hired_date",
):
    """Doctors."""

    hospital_key = column("The home hospital.")
    department_id = column("The home department.", nullable=True)


class DimPatient(
    VersionedRow,
    name="dim_patient",
    grain="one version of a patient",
    key=("patient_key",),
    columns="""
        patient_durable_key patient_id first_name last_name birth_date age_at_extract_years sex race ethnicity
        blood_group street city state zip_code phone insurer pre_existing_condition
    """,
    order_by=("patient_id", "valid_from_at"),
):
    """Patients over time (SCD2 by when the record was written)."""

    # A key is a hash of the record number: anyone who can list the numbers can undo it.
    age_at_extract_years = column("As of the version; stated where no birth date is known.")


class DimPerson(
    Dimension,
    name="dim_person",
    grain="one medical record number",
    key=("patient_durable_key",),
    columns="person_key is_merged",
):
    """Which person each medical record number stands for: all numbers that merges connect are one (HL7 A40)."""


class DimTriage(
    Dimension,
    name="dim_triage",
    grain="one level of a triage scale",
    key=("triage_key",),
    columns="scale level level_name target_minutes target_pct is_critical",
):
    """Triage scales with their time targets, as data."""

    scale = column("'unknown' for the special rows.")


class DimCondition(
    Dimension,
    name="dim_condition",
    grain="one diagnosis code and its ICD version",
    key=("condition_key",),
    columns="""
        icd_version code_system icd_code condition_name chapter_code chapter_name condition_group is_mental_health
    """,
):
    """Diagnosis codes seen, with their ICD chapter."""

    icd_version = column(isin=[0, 9, 10])
    code_system = column("'none' for the special rows.")
    icd_code = column(
        "Upper case, without the dot.", privacy="operational", because="an entry of a code list, about nobody"
    )
    chapter_name = column(nullable=False)


class DimDate(
    Dimension,
    name="dim_date",
    grain="one calendar day",
    key=("date_key",),
    columns="""
        calendar_date date_label year_number quarter_number month_number month_name day_of_month iso_year_number
        iso_week_number iso_weekday_number weekday_name is_weekend
    """,
):
    """Calendar days; keys are YYYYMMDD."""

    iso_weekday_number = column(nullable=True)


class DimTime(
    Dimension,
    name="dim_time",
    grain="one minute of the day",
    key=("time_key",),
    columns="hour_of_day minute_of_hour time_label day_part shift_name",
):
    """Minutes of the local day, for shifts and day parts."""

    hour_of_day = column(nullable=True)


TABLES = (DimHospital, DimDepartment, DimDoctor, DimPatient, DimPerson, DimTriage, DimCondition, DimDate, DimTime)
