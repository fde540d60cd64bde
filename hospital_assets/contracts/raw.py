"""Contracts of the raw layer: records exactly as they landed, all text, with file and line.

Belongs here: one model per landed subject, and the ledger of landed files. Nothing in this layer
is typed, corrected or dropped; a value that cannot be read is still here, word for word.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from hospital_assets.contracts.table import Dates, Instant, Privacy, Table, column

_READING_PROBLEMS = [
    "unreadable_line",
    "wrong_field_count",
    "unmatched_join",
    "outside_limits",
    "no_message_header",
    "delimiters_unusable",
    "message_type_missing",
    "message_cut_off",
    "batch_count_wrong",
]


def landed(description: str, source: str = "", privacy: Privacy = "operational") -> Any:
    """A text column of a landed record: nullable, unchecked, as delivered."""
    return column(description, source=source, nullable=True, privacy=privacy)


class LandedRecord(Table):
    """Bookkeeping that every raw record carries."""

    source_profile: pl.String = column("Source profile that read the record.")
    source_file: pl.String = column("Landed file, relative to the landing folder.")
    source_line: pl.Int64 = column("Physical line in the file; the header is line 1.", ge=0)
    source_part: pl.Int64 = column(
        "Which of the rows made from one record: a stay is an admission and a discharge.", ge=1
    )
    record: pl.String = column(
        "The record verbatim: the line or message, or a CSV row as a JSON object of all its columns, "
        "unknown ones included; a JSON array of them where several make one row.",
        nullable=True,
        privacy="direct_identifier",
        # Half the size in half the time of what DuckDB picks for long text.
        compression="zstd",
    )
    problem: pl.String = column(
        "Why the record could not be read (HL7 v2: see docs/hl7.md), or null.", nullable=True, isin=_READING_PROBLEMS
    )


class DatedRecord(LandedRecord):
    """A landed record that belongs to a local service day."""

    service_date: pl.Date = column("Local service day the record belongs to, from its content; the partition.")


class RawLandedFiles(
    Table, name="raw_landed_files", grain="one landed file and subject", key=("source_file", "subject")
):
    """Ledger of every file found in the landing folder: what it is, what it holds, its state."""

    source_profile: pl.String = column("Source profile (landing folder) of the file.")
    profile_sha256: pl.String = column(
        "Hash of the profile it was read with; a file is looked at anew when that changes.", nullable=True
    )
    subject: pl.String = column("Subject the file feeds, or 'unknown'.")
    source_file: pl.String = column("Path relative to the landing folder.")
    file_sha256: pl.String = column("Content hash; equal content is loaded once, whatever its name.")
    file_bytes: pl.Int64 = column("Size on disk.", unit="byte", ge=0)
    file_modified_ns: pl.Int64 = column("Modification time, to notice changes.", unit="ns")
    first_seen_at: Instant = column("When a look first found it with this content.")
    encoding: pl.String = column("Text encoding found in the bytes.")
    compression: pl.String = column("'gzip' or 'none', from the bytes, not the name.")
    columns: pl.String = column("Columns as landed (of JSON: fields in a sample), comma separated.", nullable=True)
    column_kinds: pl.String = column(
        "What a sample of each column's values looks like: number, time, text or nothing in "
        "particular; comma separated.",
        nullable=True,
    )
    unknown_columns: pl.String = column(
        "Landed columns that the profile does not name; kept in `record`.", nullable=True
    )
    row_count: pl.Int64 = column("Physical records, unreadable ones included.", ge=0)
    unreadable_count: pl.Int64 = column("Records that could not be read.", ge=0)
    service_dates: Dates = column("Local service days of the records inside.")
    fallback_date: pl.Date = column(
        "Commonest service day of the file; taken by records that state none.", nullable=True
    )
    state: pl.String = column(
        "What became of the file.",
        isin=[
            "ready",
            "companion",
            "duplicate",
            "empty",
            "unreadable",
            "missing_column",
            "unrecognised",
            "held",
            "poisoned",
        ],
    )
    problem: pl.String = column("What is wrong and what to do, in words.", nullable=True)


class RawHospitals(
    LandedRecord,
    name="raw_hospitals",
    grain="one landed hospital record",
    key=("source_file", "source_line", "source_part"),
):
    """Hospital master data as landed."""

    hospital_id: pl.String = landed("Hospital identifier.", "HL7 PV1-3.4, FHIR Organization")
    hospital_name: pl.String = landed("Name of the hospital.")
    city: pl.String = landed("City.")
    state: pl.String = landed("US state, two letters.")
    time_zone: pl.String = landed("IANA time zone of its wall clocks.")
    trauma_level: pl.String = landed("Trauma centre level.")
    annual_ed_visits_band: pl.String = landed("ED volume band.", "CMS1244 Measure.usage")


class RawDepartments(
    LandedRecord,
    name="raw_departments",
    grain="one landed department record",
    key=("source_file", "source_line", "source_part"),
):
    """Department master data as landed, one row per effective date."""

    department_id: pl.String = landed("Department identifier.", "HL7 PV1-3.1")
    hospital_id: pl.String = landed("Hospital identifier.")
    department_name: pl.String = landed("Name of the department.")
    bed_capacity: pl.String = landed("Staffed beds.")
    mean_stay_hours: pl.String = landed("Planned mean stay.")
    effective_date: pl.String = landed("First local day this row holds.")


class RawDoctors(
    LandedRecord,
    name="raw_doctors",
    grain="one landed doctor record",
    key=("source_file", "source_line", "source_part"),
):
    """Doctor master data as landed."""

    doctor_id: pl.String = landed("Doctor identifier.", "HL7 PV1-7")
    hospital_id: pl.String = landed("Hospital identifier.")
    department_id: pl.String = landed("Home department.")
    first_name: pl.String = landed("Given name.", privacy="quasi_identifier")
    last_name: pl.String = landed("Family name.", privacy="quasi_identifier")
    specialty: pl.String = landed("Specialty.")
    npi: pl.String = landed("National Provider Identifier.", "CMS NPPES", "quasi_identifier")
    hired_date: pl.String = landed("First day of employment.")


class RawDoctorShifts(
    DatedRecord,
    name="raw_doctor_shifts",
    grain="one landed shift record",
    key=("source_file", "source_line", "source_part"),
    partitioned=True,
    order_by=(),  # files come in the order of their days
):
    """Doctor shifts as landed."""

    shift_id: pl.String = landed("Shift identifier.")
    doctor_id: pl.String = landed("Doctor identifier.")
    hospital_id: pl.String = landed("Hospital identifier.")
    department_id: pl.String = landed("Department worked in.")
    shift_start: pl.String = landed("Local start of the shift.")
    shift_end: pl.String = landed("Local end of the shift.")
    recorded_at: pl.String = landed("When the source wrote the record.")


class RawPatients(
    DatedRecord,
    name="raw_patients",
    grain="one landed patient record",
    key=("source_file", "source_line", "source_part"),
    partitioned=True,
    order_by=(),  # files come in the order of their days
):
    """Daily EHR extract of new and changed patients, as landed."""

    patient_id: pl.String = landed("Medical record number.", "HL7 PID-3", "direct_identifier")
    first_name: pl.String = landed("Given name.", "HL7 PID-5.2", "direct_identifier")
    last_name: pl.String = landed("Family name.", "HL7 PID-5.1", "direct_identifier")
    birth_date: pl.String = landed("Date of birth.", "HL7 PID-7", "direct_identifier")
    age_years: pl.String = landed("Age at extract.", privacy="quasi_identifier")
    sex: pl.String = landed("Administrative sex.", "HL7 PID-8", "quasi_identifier")
    race: pl.String = landed("Race.", "HL7 PID-10", "quasi_identifier")
    ethnicity: pl.String = landed("Ethnicity.", "HL7 PID-22", "quasi_identifier")
    blood_group: pl.String = landed("ABO and Rh group.", "LOINC 882-1", "clinical")
    street: pl.String = landed("Street address.", "HL7 PID-11.1", "direct_identifier")
    city: pl.String = landed("City.", "HL7 PID-11.3", "quasi_identifier")
    state: pl.String = landed("State.", "HL7 PID-11.4", "quasi_identifier")
    zip: pl.String = landed("ZIP code.", "HL7 PID-11.5", "direct_identifier")
    phone: pl.String = landed("Telephone.", "HL7 PID-13", "direct_identifier")
    insurer: pl.String = landed("Payer.", "HL7 IN1-4", "quasi_identifier")
    pre_existing_condition: pl.String = landed("Known chronic condition.", privacy="sensitive")
    recorded_at: pl.String = landed("When the source wrote the record.")


class RawErVisits(
    DatedRecord,
    name="raw_er_visits",
    grain="one landed visit record (a visit may be recorded several times)",
    key=("source_file", "source_line", "source_part"),
    partitioned=True,
    order_by=(),  # files come in the order of their days
):
    """Emergency visits as landed from registration systems."""

    visit_id: pl.String = landed("Visit number.", "HL7 PV1-19", "direct_identifier")
    patient_id: pl.String = landed("Medical record number.", "HL7 PID-3", "direct_identifier")
    hospital_id: pl.String = landed("Hospital identifier.")
    department: pl.String = landed("Department the visit was routed to, as spelled.")
    doctor_id: pl.String = landed("First provider.", "HL7 PV1-7")
    arrival_mode: pl.String = landed("How the patient arrived.", "HL7 PV2-38")
    arrival_time: pl.String = landed("Local arrival.", "HL7 PV1-44")
    handover_time: pl.String = landed("Local ambulance handover.")
    triage_time: pl.String = landed("Local triage.")
    triage_level: pl.String = landed("Triage level as landed.")
    room_time: pl.String = landed("Local start in a treatment room.")
    provider_time: pl.String = landed("Local first contact with a physician, NP or PA.")
    decision_time: pl.String = landed("Local disposition decision.")
    departure_time: pl.String = landed("Local physical departure.", "HL7 PV1-45")
    disposition: pl.String = landed("How the visit ended.", "HL7 PV1-36")
    chief_complaint: pl.String = landed("Complaint in words.", privacy="free_text")
    recorded_at: pl.String = landed("When the source wrote the record.", "HL7 EVN-2")


class RawVitals(
    DatedRecord,
    name="raw_vitals",
    grain="one landed observation set",
    key=("source_file", "source_line", "source_part"),
    partitioned=True,
    order_by=(),  # files come in the order of their days
):
    """Vital-sign observation sets as landed from bedside monitors."""

    observation_id: pl.String = landed("Observation set identifier.", privacy="direct_identifier")
    visit_id: pl.String = landed("Visit number.", "HL7 PV1-19", "direct_identifier")
    patient_id: pl.String = landed("Medical record number.", "HL7 PID-3", "direct_identifier")
    hospital_id: pl.String = landed("Hospital identifier.")
    device_id: pl.String = landed("Measuring device.", "HL7 OBX-18")
    measured_at: pl.String = landed("When it was measured.", "HL7 OBX-14")
    measured_at_source: pl.String = landed(
        "Which clock of the source stands for the time of measurement; blank where it is that."
    )
    recorded_at: pl.String = landed("When the source wrote the record.")
    payload: pl.String = column(
        "The measured values with their units, as landed; null where the record is unreadable.",
        nullable=True,
        privacy="clinical",
        stored_as="VARIANT",
    )


class RawAdtEvents(
    DatedRecord,
    name="raw_adt_events",
    grain="one landed ADT message",
    key=("source_file", "source_line", "source_part"),
    partitioned=True,
    order_by=(),  # files come in the order of their days
):
    """Admission, discharge and transfer messages as landed; dated by the start of their visit."""

    message_id: pl.String = landed("Message control id.", "HL7 MSH-10")
    event_type: pl.String = landed("Trigger event.", "HL7 MSH-9.2")
    visit_id: pl.String = landed("Visit number.", "HL7 PV1-19", "direct_identifier")
    patient_class: pl.String = landed("Kind of visit.", "HL7 PV1-2")
    patient_id: pl.String = landed("Medical record number.", "HL7 PID-3", "direct_identifier")
    prior_patient_id: pl.String = landed("Merged-away number.", "HL7 MRG-1", "direct_identifier")
    hospital_id: pl.String = landed("Hospital identifier.")
    department: pl.String = landed("Location of the patient, as spelled.", "HL7 PV1-3")
    bed_id: pl.String = landed("Bed.", "HL7 PV1-3.3")
    event_at: pl.String = landed("When it happened.", "HL7 EVN-6")
    visit_start_at: pl.String = landed("Start of the visit.", "HL7 PV1-44")
    recorded_at: pl.String = landed("When the message was written.", "HL7 EVN-2")
    discharge_disposition: pl.String = landed("Disposition.", "HL7 PV1-36")


class RawDiagnoses(
    DatedRecord,
    name="raw_diagnoses",
    grain="one landed diagnosis record",
    key=("source_file", "source_line", "source_part"),
    partitioned=True,
    order_by=(),  # files come in the order of their days
):
    """Coded diagnoses of visits as landed."""

    diagnosis_id: pl.String = landed("Diagnosis record identifier.", privacy="direct_identifier")
    visit_id: pl.String = landed("Visit number.", "HL7 PV1-19", "direct_identifier")
    patient_id: pl.String = landed("Medical record number.", "HL7 PID-3", "direct_identifier")
    hospital_id: pl.String = landed("Hospital identifier.")
    encounter_date: pl.String = landed("Local day the visit began.")
    sequence: pl.String = landed("Rank; 1 is the principal diagnosis.", "HL7 DG1-15")
    icd_code: pl.String = landed("ICD code as landed.", "HL7 DG1-3", "sensitive")
    icd_version: pl.String = landed("9 or 10; blank where `code_system` says what the code is.")
    code_system: pl.String = landed("Code system as landed.", "HL7 DG1-3.3, FHIR Coding.system")
    description: pl.String = landed("Title as landed.", privacy="sensitive")
    recorded_at: pl.String = landed("When the source wrote the record.")


class RawProcedures(
    DatedRecord,
    name="raw_procedures",
    grain="one landed procedure record",
    key=("source_file", "source_line", "source_part"),
    partitioned=True,
    order_by=(),  # files come in the order of their days
):
    """Coded procedures of visits as landed."""

    procedure_id: pl.String = landed("Procedure record identifier.", privacy="direct_identifier")
    visit_id: pl.String = landed("Visit number.", "HL7 PV1-19", "direct_identifier")
    patient_id: pl.String = landed("Medical record number.", "HL7 PID-3", "direct_identifier")
    hospital_id: pl.String = landed("Hospital identifier.")
    encounter_date: pl.String = landed("Local day the visit began.")
    performed_at: pl.String = landed("Local time it was performed.", "HL7 PR1-5")
    procedure_code: pl.String = landed("Procedure code as landed.", "HL7 PR1-3", "sensitive")
    code_system: pl.String = landed("Code system as landed.", "HL7 PR1-3.3, FHIR Coding.system")
    description: pl.String = landed("Title as landed.", privacy="sensitive")
    recorded_at: pl.String = landed("When the source wrote the record.")


class RawOtherRecords(
    DatedRecord,
    name="raw_other_records",
    grain="one landed record that no subject takes",
    key=("source_file", "source_line", "source_part"),
    partitioned=True,
    order_by=(),  # files come in the order of their days
):
    """Records of read files that no subject takes, word for word: kept, counted, and not used."""

    kind: pl.String = landed("What kind of record it is, from the columns that decide who takes it.")
    occurred_at: pl.String = landed("The clock that dates it.")


TABLES = (
    RawLandedFiles,
    RawHospitals,
    RawDepartments,
    RawDoctors,
    RawDoctorShifts,
    RawPatients,
    RawErVisits,
    RawVitals,
    RawAdtEvents,
    RawDiagnoses,
    RawProcedures,
    RawOtherRecords,
)
