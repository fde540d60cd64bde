"""Contracts of the raw layer: records exactly as they landed, all text, with file and line.

Belongs here: one model per landed subject, and the ledger of landed files. Nothing in this layer
is typed, corrected or dropped; a value that cannot be read is still here, word for word.
"""

from __future__ import annotations

from hospital_assets.contracts.table import PUBLIC_PLACE, RECORD_PLACE, Table, column

FILE_STATES = [
    "ready",
    "companion",
    "duplicate",
    "empty",
    "unreadable",
    "missing_column",
    "unrecognised",
    "held",
    "quarantined",
]
_READING_PROBLEMS = [
    "unreadable_line",
    "wrong_field_count",
    "unclosed_quote",
    "unmatched_join",
    "outside_limits",
    "no_message_header",
    "delimiters_unusable",
    "message_type_missing",
    "message_cut_off",
    "batch_count_wrong",
]


class LandedRecord(Table, layer="raw", key=RECORD_PLACE, columns="source_profile record problem"):
    """Bookkeeping that every raw record carries."""

    # Half the size in half the time of what DuckDB picks for long text.
    record = column(compression="zstd")
    problem = column("One of the reader's codes (HL7 v2: docs/hl7.md).", isin=_READING_PROBLEMS)


class DatedRecord(LandedRecord, partitioned=True, order_by=()):  # files come in the order of their days
    """A landed record that belongs to a local service day."""


class RawLandedFiles(
    Table,
    name="raw_landed_files",
    layer="raw",
    grain="one landed file and subject",
    key=("source_file", "subject"),
    columns="""
        source_profile profile_sha256 file_sha256 file_bytes file_modified_ns first_seen_at name_first_seen_at
        encoding compression columns column_kinds unknown_columns row_count unreadable_count
        service_dates fallback_date dated_by_sha256 state problem
    """,
):
    """Ledger of every file found in the landing folder: what it is, what it holds, its state."""

    row_count = column("Physical records, unreadable ones included.")
    state = column(
        nullable=False,
        isin=FILE_STATES,
        description="What became of the file.",
        privacy="operational",
        because="a file's state, not an address",
    )
    problem = column("In words, with what to do.")


class RawHospitals(
    LandedRecord,
    name="raw_hospitals",
    grain="one landed hospital record",
    landed="hospital_id hospital_name city state time_zone trauma_level annual_ed_visits_band",
):
    """Hospital reference data as landed."""

    city = column(privacy="operational", because=PUBLIC_PLACE)
    state = column(privacy="operational", because=PUBLIC_PLACE)


class RawDepartments(
    LandedRecord,
    name="raw_departments",
    grain="one landed department record",
    landed="department_id hospital_id department_name bed_capacity mean_stay_hours effective_date",
):
    """Department reference data as landed, one row per effective date."""


class RawDoctors(
    LandedRecord,
    name="raw_doctors",
    grain="one landed doctor record",
    landed="doctor_id hospital_id department_id first_name last_name specialty npi hired_date",
):
    """Doctor reference data as landed."""

    department_id = column("The home department.")


_SHIFT = "shift_id doctor_id hospital_id department_id shift_start shift_end recorded_at"


class RawDoctorShifts(DatedRecord, name="raw_doctor_shifts", grain="one landed shift record", landed=_SHIFT):
    """Doctor shifts as landed."""

    department_id = column("Where the shift is worked.")


class RawDoctorShiftsAhead(
    LandedRecord,
    name="raw_doctor_shifts_ahead",
    grain="one landed record of a shift whose day has not come",
    columns="service_date",
    landed=_SHIFT,
):
    """Shifts planned for days after the last service day, as landed; each is loaded when its day has come."""

    department_id = column("Where the shift is worked.")


class RawPatients(
    DatedRecord,
    name="raw_patients",
    grain="one landed patient record",
    landed="""
        patient_id first_name last_name birth_date age_years sex race ethnicity blood_group street city state zip
        phone insurer pre_existing_condition recorded_at
    """,
):
    """Daily EHR extract of new and changed patients, as landed."""

    age_years = column("At the extract.")


class RawErVisits(
    DatedRecord,
    name="raw_er_visits",
    grain="one landed visit record (a visit may be recorded several times)",
    landed="""
        visit_id patient_id hospital_id department doctor_id arrival_mode arrival_time handover_time triage_time
        triage_level room_time provider_time decision_time departure_time disposition chief_complaint recorded_at
        part_of_visit_id visit_status
    """,
):
    """Emergency visits as landed from registration systems."""

    doctor_id = column("The first provider.")


class RawVitals(
    DatedRecord,
    name="raw_vitals",
    grain="one landed observation set",
    landed="""
        observation_id visit_id patient_id hospital_id device_id measured_at measured_at_source recorded_at
        payload
    """,
):
    """Vital-sign observation sets as landed from bedside monitors."""


class RawAdtEvents(
    DatedRecord,
    name="raw_adt_events",
    grain="one landed ADT message",
    landed="""
        message_id event_type visit_id patient_class patient_id prior_patient_id hospital_id department bed_id
        event_at visit_start_at recorded_at discharge_disposition part_of_visit_id
    """,
):
    """Admission, discharge and transfer messages as landed; dated by the start of their visit."""


class RawDiagnoses(
    DatedRecord,
    name="raw_diagnoses",
    grain="one landed diagnosis record",
    landed="""
        diagnosis_id visit_id patient_id hospital_id encounter_date sequence icd_code icd_version code_system
        description record_status recorded_at
    """,
):
    """Coded diagnoses of visits as landed."""

    icd_version = column("Blank where `code_system` says what the code is.")


class RawProcedures(
    DatedRecord,
    name="raw_procedures",
    grain="one landed procedure record",
    landed="""
        procedure_id visit_id patient_id hospital_id encounter_date performed_at procedure_code code_system
        description record_status recorded_at
    """,
):
    """Coded procedures of visits as landed."""

    performed_at = column("Local time.")


class RawOtherRecords(
    DatedRecord, name="raw_other_records", grain="one landed record that no subject takes", landed="kind occurred_at"
):
    """Records of read files that no subject takes, word for word: kept, counted, and not used."""

    occurred_at = column("The clock that dates the record.")


#: What lands, in the order it is cleaned (clocks are read in the hospitals' time zones), and the feed whose sensor
#: watches for its files.
FEED_OF: dict[type[Table], str] = {
    RawHospitals: "extracts",
    RawDepartments: "extracts",
    RawDoctors: "extracts",
    RawDoctorShifts: "extracts",
    RawPatients: "extracts",
    RawErVisits: "visits",
    RawVitals: "vitals",
    RawAdtEvents: "adt",
    RawDiagnoses: "visits",
    RawProcedures: "visits",
    RawOtherRecords: "adt",
}
TABLES = (RawLandedFiles, *FEED_OF, RawDoctorShiftsAhead)
#: Those whose rows say which files are loaded.
LOADS = frozenset(table.contract().name for table in FEED_OF)
