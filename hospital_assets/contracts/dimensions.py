"""Contracts of the dimensions (Kimball): who, where, when, how urgent, with what.

Belongs here: dimension tables. Surrogate keys are integers derived from the natural key (and the
start of validity), so a rebuild gives the same keys. Facts never hold a null key: each dimension
has the member -1 (unknown) and, where a thing may still come, -2 (not yet happened).
SCD2 rows are half-open `[valid_from_at, valid_to_at)`; the open row ends at 9999-12-31.
"""

from __future__ import annotations

import polars as pl

from hospital_assets.contracts.table import Instant, Table, column

UNKNOWN_KEY = -1
NOT_YET_KEY = -2


class VersionedRow(Table):
    """The validity of an SCD2 row (event time)."""

    valid_from_at: Instant = column("First instant the row holds.")
    valid_to_at: Instant = column("First instant it no longer holds; 9999-12-31 for the open row.")
    is_current: pl.Boolean = column("Whether the row is the newest of its member.")
    version_number: pl.Int64 = column("1 for the first version of the member.", ge=0)


class DimHospital(Table, name="dim_hospital", layer="dimensions", grain="one hospital", key=("hospital_key",)):
    """Hospitals."""

    hospital_key: pl.Int64 = column("Surrogate key.")
    hospital_id: pl.String = column("Natural key.")
    hospital_name: pl.String = column("Name.")
    city: pl.String = column("City.", nullable=True)
    state: pl.String = column("US state.", nullable=True)
    time_zone: pl.String = column("IANA time zone.")
    trauma_level: pl.Int64 = column("Trauma centre level.", nullable=True)
    annual_ed_visits_band: pl.String = column("ED volume band.", nullable=True)


class DimDepartment(
    VersionedRow,
    name="dim_department",
    layer="dimensions",
    grain="one version of a department",
    key=("department_key",),
    order_by=("department_id", "valid_from_at"),
):
    """Departments with their capacity over time (SCD2 by effective date)."""

    department_key: pl.Int64 = column("Surrogate key of the version.")
    department_id: pl.String = column("Natural key.")
    department_name: pl.String = column("Canonical name.")
    hospital_key: pl.Int64 = column("Hospital.", references="dim_hospital.hospital_key")
    hospital_id: pl.String = column("Hospital identifier.")
    bed_capacity: pl.Int64 = column("Staffed beds.", unit="bed", nullable=True, ge=0)
    mean_stay_hours: pl.Float64 = column("Planned mean stay.", unit="h", nullable=True)


class DimDoctor(Table, name="dim_doctor", layer="dimensions", grain="one doctor", key=("doctor_key",)):
    """Doctors."""

    doctor_key: pl.Int64 = column("Surrogate key.")
    doctor_id: pl.String = column("Natural key.")
    hospital_key: pl.Int64 = column("Home hospital.", references="dim_hospital.hospital_key")
    department_id: pl.String = column("Home department.", nullable=True)
    full_name: pl.String = column("Name.", privacy="quasi_identifier")
    specialty: pl.String = column("Specialty.", nullable=True)
    npi: pl.String = column("National Provider Identifier.", nullable=True, privacy="quasi_identifier")
    hired_date: pl.Date = column("First day of employment.", nullable=True)


class DimPatient(
    VersionedRow,
    name="dim_patient",
    layer="dimensions",
    grain="one version of a patient",
    key=("patient_key",),
    order_by=("patient_id", "valid_from_at"),
):
    """Patients over time (SCD2 by when the record was written)."""

    # A key is a hash of the record number: whoever can list the numbers can undo it.
    patient_key: pl.Int64 = column("Surrogate key of the version.", privacy="quasi_identifier")
    patient_durable_key: pl.Int64 = column(
        "Surrogate key of the person, the same in all versions.", privacy="quasi_identifier"
    )
    patient_id: pl.String = column("Medical record number.", privacy="direct_identifier")
    first_name: pl.String = column("Given name.", nullable=True, privacy="direct_identifier")
    last_name: pl.String = column("Family name.", nullable=True, privacy="direct_identifier")
    birth_date: pl.Date = column("Date of birth.", nullable=True, privacy="direct_identifier")
    age_at_extract_years: pl.Int64 = column(
        "Age on the day the version was written, where no birth date is known.",
        unit="a",
        nullable=True,
        ge=0,
        le=120,
        privacy="quasi_identifier",
    )
    sex: pl.String = column("Administrative sex.", privacy="quasi_identifier")
    race: pl.String = column("Race.", privacy="quasi_identifier")
    ethnicity: pl.String = column("Ethnicity.", privacy="quasi_identifier")
    blood_group: pl.String = column("ABO and Rh group.", nullable=True, privacy="clinical")
    street: pl.String = column("Street address.", nullable=True, privacy="direct_identifier")
    city: pl.String = column("City.", nullable=True, privacy="quasi_identifier")
    state: pl.String = column("State.", nullable=True, privacy="quasi_identifier")
    zip_code: pl.String = column("ZIP code.", nullable=True, privacy="direct_identifier")
    phone: pl.String = column("Telephone.", nullable=True, privacy="direct_identifier")
    insurer: pl.String = column("Payer.", nullable=True, privacy="quasi_identifier")
    pre_existing_condition: pl.String = column("Known chronic condition.", nullable=True, privacy="sensitive")


class DimPerson(
    Table, name="dim_person", layer="dimensions", grain="one medical record number", key=("patient_durable_key",)
):
    """Which person each medical record number stands for, once merges are applied (HL7 A40)."""

    patient_durable_key: pl.Int64 = column("The number, as in dim_patient.", privacy="quasi_identifier")
    person_key: pl.Int64 = column(
        "The surviving number; the same for all numbers of a person.", privacy="quasi_identifier"
    )
    is_merged: pl.Boolean = column("The number was merged into another.")


class DimTriage(Table, name="dim_triage", layer="dimensions", grain="one level of a triage scale", key=("triage_key",)):
    """Triage scales with their time targets, as data."""

    triage_key: pl.Int64 = column("Surrogate key.")
    scale: pl.String = column("ESI, ATS, CTAS or Manchester; 'unknown' for the special rows.")
    level: pl.Int64 = column("Level, 1 most urgent.", nullable=True, ge=1, le=5)
    level_name: pl.String = column("Name of the level.")
    target_minutes: pl.Float64 = column(
        "Longest wait for a physician.", unit="min", nullable=True, source="kpis: scales"
    )
    target_pct: pl.Float64 = column("Share to be seen within the target.", unit="%", nullable=True)
    is_critical: pl.Boolean = column("Levels 1 and 2.")


class DimCondition(
    Table,
    name="dim_condition",
    layer="dimensions",
    grain="one diagnosis code and its ICD version",
    key=("condition_key",),
):
    """Diagnosis codes seen, with their ICD chapter."""

    condition_key: pl.Int64 = column("Surrogate key.")
    icd_version: pl.Int64 = column("9 or 10; 0 for the special rows and for codes of another system.", isin=[0, 9, 10])
    code_system: pl.String = column("What the code is a code of; 'none' for the special rows.")
    icd_code: pl.String = column("Code without the dot.")
    condition_name: pl.String = column("Title.", nullable=True)
    chapter_code: pl.String = column("Code range of the ICD chapter.", source="ICD-10-CM, ICD-9-CM")
    chapter_name: pl.String = column("Name of the ICD chapter; 'Unmapped' outside all ranges.")
    condition_group: pl.String = column(
        "Clinical group, each code in one; 'Unmapped' outside all groups.", source="after HCUP CCSR"
    )
    is_mental_health: pl.Boolean = column(
        "Mental disorder; substance use is not one.", source="CMS1244: principal mental health"
    )


class DimDate(Table, name="dim_date", layer="dimensions", grain="one calendar day", key=("date_key",)):
    """Calendar days; keys are YYYYMMDD."""

    date_key: pl.Int64 = column("YYYYMMDD, or a special member.")
    calendar_date: pl.Date = column("The day; null for the special members.", nullable=True)
    date_label: pl.String = column("ISO date, or what the special member means.")
    year_number: pl.Int64 = column("Year.", nullable=True)
    quarter_number: pl.Int64 = column("Quarter 1 to 4.", nullable=True)
    month_number: pl.Int64 = column("Month 1 to 12.", nullable=True)
    month_name: pl.String = column("Month.", nullable=True)
    day_of_month: pl.Int64 = column("Day 1 to 31.", nullable=True)
    iso_week_number: pl.Int64 = column("ISO 8601 week.", nullable=True)
    iso_weekday_number: pl.Int64 = column("1 Monday to 7 Sunday.", nullable=True)
    weekday_name: pl.String = column("Weekday.", nullable=True)
    is_weekend: pl.Boolean = column("Saturday or Sunday.", nullable=True)


class DimTime(Table, name="dim_time", layer="dimensions", grain="one minute of the day", key=("time_key",)):
    """Minutes of the local day, for shifts and day parts."""

    time_key: pl.Int64 = column("Minute of the day 0 to 1439, or a special member.")
    hour_of_day: pl.Int64 = column("Hour 0 to 23.", nullable=True)
    minute_of_hour: pl.Int64 = column("Minute 0 to 59.", nullable=True)
    time_label: pl.String = column("HH:MM, or what the special member means.")
    day_part: pl.String = column("night, morning, afternoon or evening.", nullable=True)
    shift_name: pl.String = column("day (07-15), evening (15-23) or night (23-07).", nullable=True)


TABLES = (DimHospital, DimDepartment, DimDoctor, DimPatient, DimPerson, DimTriage, DimCondition, DimDate, DimTime)
