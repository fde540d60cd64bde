"""The vocabulary: each column name once, with its type, unit, wording, privacy class and source.

Belongs here: what a name means wherever it stands. A table names its columns and says only what is particular to it
(a note, whether the value may be missing, which values are allowed): see `contracts.table.column`. Does not belong
here: which table has which column.

Names carry their unit or kind: `_id` natural key, `_key` surrogate key, `_at` UTC instant, `_local` wall-clock time
at the hospital, `_date`, `_minutes`, `_hours`, `_pct`, `_bpm`, `_c`, `is_`/`has_` boolean, `_count`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, Literal

import polars as pl

from hospital_assets.measures import thresholds
from hospital_assets.measures.triage import CRITICAL_IN_SHORT, CRITICAL_IN_WORDS

_CRITICAL_WAIT = f"{thresholds.CRITICAL_WAIT_MINUTES:g} minutes"

Privacy = Literal["direct_identifier", "quasi_identifier", "sensitive", "free_text", "clinical", "operational"]

#: A UTC instant; DuckDB TIMESTAMPTZ. Column names end in `_at`.
Instant = Annotated[pl.Datetime, "us", "UTC"]
#: A wall-clock time at the hospital; DuckDB TIMESTAMP. Column names end in `_local`.
WallClock = Annotated[pl.Datetime, "us", None]
#: Service days inside a file.
Dates = Annotated[pl.List, pl.Date()]


@dataclass(frozen=True)
class Field:
    """The declaration of a column name, the same for every table.

    Attributes:
        dtype: Polars type.
        description: what the value means, one sentence.
        privacy: the governance class; decides what a preview and a publication may show.
        unit: UCUM unit or kind, where the column name does not already say it.
        source: where the definition comes from (an HL7 field, a FHIR element, a rule).
        nullable: whether the value may be missing, unless a table says otherwise.
        references: `table.column` whose values the column must be among.
        plausible: bounds (inclusive) outside of which a value is odd but possible: a warning.
        compression: DuckDB compression, where we know better than its own choice.
        checks: Pandera's own constraints (`ge`, `le`, ...), unless a table has others: an error.
    """

    dtype: Any
    description: str
    privacy: Privacy = "operational"
    unit: str = ""
    source: str = ""
    nullable: bool = False
    references: str = ""
    plausible: tuple[float, float] | None = None
    compression: str = ""
    checks: Mapping[str, Any] = field(default_factory=dict)


def _field(
    dtype: Any,
    description: str,
    *,
    privacy: Privacy = "operational",
    unit: str = "",
    source: str = "",
    nullable: bool = False,
    references: str = "",
    plausible: tuple[float, float] | None = None,
    compression: str = "",
    **checks: Any,
) -> Field:
    return Field(dtype, description, privacy, unit, source, nullable, references, plausible, compression, checks)


text = partial(_field, pl.String)
flag = partial(_field, pl.Boolean)
whole = partial(_field, pl.Int64)
real = partial(_field, pl.Float64)
day = partial(_field, pl.Date)
days = partial(_field, Dates)
instant = partial(_field, Instant)
wall_clock = partial(_field, WallClock)
count = partial(_field, pl.Int64, ge=0)
minutes = partial(_field, pl.Float64, unit="min", ge=0)
hours = partial(_field, pl.Float64, unit="h", ge=0)
percent = partial(_field, pl.Float64, unit="%")


def key(description: str, references: str, *, privacy: Privacy = "operational") -> Field:
    """A surrogate key of a dimension: never null in a fact, and among the keys of that dimension."""
    return _field(pl.Int64, description, privacy=privacy, references=references)


def as_landed(stated: Field) -> Field:
    """A field as the raw layer has it: text, word for word, so without unit, checks and a type of its own."""
    return replace(stated, dtype=pl.String, unit="", nullable=True, references="", plausible=None, checks={})


#: Every field by column name.
FIELDS: Mapping[str, Field] = {
    # Landed files and records
    "source_file": text("Landed file, relative to the landing folder."),
    "subject": text("Subject the file feeds, or 'unknown'."),
    "source_profile": text("Source profile by which the file was read."),
    "profile_sha256": text(
        "Hash of the profile it was read with; a file is examined again when that changes.", nullable=True
    ),
    "file_sha256": text("Content hash; equal content of a source is loaded once, whatever its name."),
    "file_bytes": whole("Size on disk.", unit="byte", ge=0),
    "file_modified_ns": whole("Modification time, to notice changes.", unit="ns"),
    "first_seen_at": instant("When a look first found it with this content."),
    "name_first_seen_at": instant("When a look first found a file of this name, with whatever content.", nullable=True),
    "encoding": text("Text encoding found in the bytes."),
    "compression": text("'gzip' or 'none', from the bytes, not the name."),
    "columns": text("Columns as landed (of JSON: fields in a sample), comma separated.", nullable=True),
    "column_kinds": text(
        "What a sample of each column's values looks like: number, time, text or nothing in particular; comma"
        " separated.",
        nullable=True,
    ),
    "unknown_columns": text("Landed columns that the profile does not name; kept in `record`.", nullable=True),
    "row_count": count("Rows."),
    "unreadable_count": count("Records that could not be read."),
    "service_dates": days("Local service days of the records inside."),
    "fallback_date": day("Commonest service day of the file; taken by records that state none.", nullable=True),
    "dated_by_sha256": text(
        "Hash of the hospitals' time zones by which the records were dated; they are dated again when those change.",
        nullable=True,
    ),
    "problem": text("What is wrong; null when nothing is.", nullable=True),
    "source_line": whole("Physical line in the file; the header is line 1.", ge=0),
    "source_part": whole("Which of the rows made from one record: a stay is an admission and a discharge.", ge=1),
    "record": text(
        "The record verbatim: the line or message, or a CSV row as a JSON object of all its columns, unknown "
        "ones included; a JSON array of them where several make one row.",
        privacy="direct_identifier",
        nullable=True,
    ),
    "service_date": day("Local service day; the partition where there is one."),
    "quality_codes": text("What was corrected or doubted, as `code;code`; empty when nothing was."),
    "unstated": text(
        "Columns that the record says nothing of, as `name;name`: what earlier records said of them holds. Empty where "
        "the source writes whole records."
    ),
    "recorded_at": instant(
        "When the source wrote the record; null where the feed does not say.", source="HL7 EVN-2", nullable=True
    ),
    "rule": text("Name of the rule."),
    "reason": text("The rule in words, without the record's values."),
    "is_duplicate": flag("True when the record only repeats or was superseded by another one."),
    "kind": text("What kind of record it is, from the columns that decide who takes it."),
    "occurred_at": instant("When it happened."),
    # Hospitals and departments
    "hospital_id": text(
        "Hospital identifier; `all` in KPI rows that pool the hospitals.", source="HL7 PV1-3.4, FHIR Organization"
    ),
    "hospital_name": text("Name of the hospital."),
    "city": text("City.", privacy="quasi_identifier", source="HL7 PID-11.3", nullable=True),
    "state": text("US state, two letters.", privacy="quasi_identifier", source="HL7 PID-11.4", nullable=True),
    "time_zone": text("IANA time zone of the hospital's wall clocks."),
    "trauma_level": whole("Trauma centre level.", nullable=True),
    "annual_ed_visits_band": text("ED volume band.", source="CMS1244 Measure.usage", nullable=True),
    "department_id": text("Department identifier.", source="HL7 PV1-3.1"),
    "effective_date": day("First local day the row holds."),
    "department_name": text("Canonical name of the department; `all` in KPI rows that pool the departments."),
    "bed_capacity": whole("Staffed beds; null where the source does not say.", unit="bed", nullable=True, ge=0),
    "mean_stay_hours": real("Planned mean stay.", unit="h", nullable=True),
    "hospital_key": key("Surrogate key of the hospital.", "dim_hospital.hospital_key"),
    "department_key": key("Surrogate key of the department's version.", "dim_department.department_key"),
    "valid_from_at": instant("First instant the row holds."),
    "valid_to_at": instant("First instant it no longer holds; 9999-12-31 for the open row."),
    "is_current": flag("Whether the row is the newest of its member."),
    "version_number": whole("1 for the first version of the member.", ge=0),
    # Doctors and shifts
    "doctor_id": text("Doctor identifier.", source="HL7 PV1-7"),
    "full_name": text("Given and family name.", privacy="quasi_identifier"),
    "specialty": text("Specialty.", nullable=True),
    "npi": text("National Provider Identifier.", privacy="quasi_identifier", source="CMS NPPES", nullable=True),
    "hired_date": day("First day of employment.", nullable=True),
    "shift_id": text("Shift identifier."),
    "shift_start_at": instant("Start of the shift."),
    "shift_end_at": instant("End of the shift."),
    "doctor_key": key("Surrogate key of the doctor; -1 unknown.", "dim_doctor.doctor_key"),
    "start_date_key": key("Local day of the start.", "dim_date.date_key"),
    "shift_hours": hours("Hours on shift."),
    "first_name": text("Given name.", privacy="direct_identifier", source="HL7 PID-5.2", nullable=True),
    "last_name": text("Family name.", privacy="direct_identifier", source="HL7 PID-5.1", nullable=True),
    "shift_start": text("Local start of the shift."),
    "shift_end": text("Local end of the shift."),
    # Patients
    "patient_id": text("Medical record number.", privacy="direct_identifier", source="HL7 PID-3"),
    "birth_date": day(
        "Date of birth; never invented from an age.", privacy="direct_identifier", source="HL7 PID-7", nullable=True
    ),
    "age_at_extract_years": whole(
        "Age as landed, on the day of the extract.", privacy="quasi_identifier", unit="a", nullable=True, ge=0, le=120
    ),
    "sex": text("Administrative sex.", privacy="quasi_identifier", source="HL7 PID-8"),
    "race": text("Race.", privacy="quasi_identifier", source="HL7 PID-10"),
    "ethnicity": text("Ethnicity.", privacy="quasi_identifier", source="HL7 PID-22"),
    "blood_group": text("ABO and Rh group.", privacy="clinical", source="LOINC 882-1", nullable=True),
    "street": text("Street address.", privacy="direct_identifier", source="HL7 PID-11.1", nullable=True),
    "zip_code": text("ZIP code.", privacy="direct_identifier", nullable=True),
    "phone": text("Telephone.", privacy="direct_identifier", source="HL7 PID-13", nullable=True),
    "insurer": text("Payer.", privacy="quasi_identifier", source="HL7 IN1-4", nullable=True),
    "pre_existing_condition": text("Known chronic condition.", privacy="sensitive", nullable=True),
    "patient_key": key(
        "Surrogate key of the patient's version.", "dim_patient.patient_key", privacy="quasi_identifier"
    ),
    "patient_durable_key": whole(
        "Surrogate key of the medical record number, the same in all versions of the patient.",
        privacy="quasi_identifier",
    ),
    "person_key": whole("The surviving number; the same for all numbers of a person.", privacy="quasi_identifier"),
    "is_merged": flag("The number was merged into another."),
    "age_years": whole(
        "Age in completed years on a local day; null when unknown.", privacy="quasi_identifier", unit="a", nullable=True
    ),
    "zip": text("ZIP code.", privacy="direct_identifier", source="HL7 PID-11.5"),
    # Emergency visits
    "visit_id": text("Visit number.", privacy="direct_identifier", source="HL7 PV1-19"),
    "arrival_mode": text("How the patient arrived.", source="HL7 PV2-38"),
    "arrival_at": instant(
        "Arrival (registration); null where only its day is known.", source="HL7 PV1-44", nullable=True
    ),
    "arrival_local": wall_clock(
        "Arrival on the hospital's wall clock; null where only its day is known.", nullable=True
    ),
    "handover_at": instant("Ambulance handover.", nullable=True),
    "triage_at": instant("Triage.", nullable=True),
    "triage_level": whole("Triage level, 1 most urgent.", nullable=True, ge=1, le=5),
    "room_at": instant("Start in a treatment room.", nullable=True),
    "provider_at": instant("First contact with a physician, NP or PA.", nullable=True),
    "decision_at": instant("Disposition decision.", nullable=True),
    "departure_at": instant("Physical departure from the ED.", nullable=True),
    "disposition": text("How the visit ended; null while it is open.", source="HL7 PV1-36", nullable=True),
    "chief_complaint": text("Complaint in words.", privacy="free_text", nullable=True),
    "visit_status": text("Where the visit stands.", source="FHIR Encounter.status"),
    "department": text("Department of the patient, as spelled.", source="HL7 PV1-3"),
    "arrival_time": text("Local arrival.", source="HL7 PV1-44"),
    "handover_time": text("Local ambulance handover."),
    "triage_time": text("Local triage."),
    "room_time": text("Local start in a treatment room."),
    "provider_time": text("Local first contact with a physician, NP or PA."),
    "decision_time": text("Local disposition decision."),
    "departure_time": text("Local physical departure.", source="HL7 PV1-45"),
    "triage_key": key("Surrogate key of the triage level; -1 untriaged.", "dim_triage.triage_key"),
    "condition_key": key("Surrogate key of the diagnosis code.", "dim_condition.condition_key"),
    "arrival_date_key": key("Local day of arrival.", "dim_date.date_key"),
    "arrival_time_key": key("Local minute of arrival; -1 where only its day is known.", "dim_time.time_key"),
    "provider_date_key": key("Local day of first provider contact.", "dim_date.date_key"),
    "departure_date_key": key("Local day of departure.", "dim_date.date_key"),
    "is_critical": flag(f"Triage level {CRITICAL_IN_SHORT}."),
    "is_lwbs": flag("Left without being seen.", source="NQF 0499"),
    "is_open": flag("Not over yet."),
    "is_cancelled": flag("The registration was cancelled.", source="HL7 A11"),
    "wait_minutes": minutes(
        "Door to provider: earlier of triage and arrival until first provider contact.",
        source="CIHI/Ontario PIA",
        nullable=True,
        plausible=(0, 1440),
    ),
    "wait_exclusion": text("Why the visit has no valid wait; null when it has one.", nullable=True),
    "treatment_minutes": minutes(
        "First provider contact until the disposition decision (departure where no decision is recorded); "
        "never the whole stay.",
        nullable=True,
        plausible=(0, 2880),
    ),
    "los_minutes": minutes(
        "Arrival until physical departure; null while open or when departure precedes arrival.",
        source="NQF 0496 (OP-18)",
        nullable=True,
        plausible=(0, 4320),
    ),
    "four_hour_minutes": minutes(
        "Start of the four-hour clock (walk-in: arrival; ambulance: handover, at the latest "
        f"{thresholds.HANDOVER_GRACE_MINUTES} minutes after "
        "arrival) until departure; null while open or when departure is earlier.",
        source="NHS ECDS",
        nullable=True,
    ),
    "room_minutes": minutes("Arrival until a treatment room.", source="CMS1244", nullable=True),
    "boarding_minutes": minutes(
        "Decision until departure of admitted patients.", source="CMS111v9 (ED-2)", nullable=True
    ),
    "scale": text("Triage scale: ESI, ATS, CTAS or Manchester."),
    "level": whole("Level, 1 most urgent.", nullable=True, ge=1, le=5),
    "level_name": text("Name of the level."),
    "target_minutes": real("Longest wait for a physician that the triage level allows.", unit="min", nullable=True),
    "target_pct": percent("Share to be seen within the target.", nullable=True),
    # Vital signs
    "observation_id": text("Observation set identifier.", privacy="direct_identifier"),
    "device_id": text("Measuring device.", source="HL7 OBX-18", nullable=True),
    "measured_at": instant("When it was measured.", source="HL7 OBX-14"),
    "measured_local": wall_clock("When it was measured, on the hospital's wall clock."),
    "heart_rate_bpm": real("Heart rate.", privacy="clinical", unit="/min", source="LOINC 8867-4", nullable=True),
    "respiratory_rate_per_min": real(
        "Respiratory rate.", privacy="clinical", unit="/min", source="LOINC 9279-1", nullable=True
    ),
    "spo2_pct": percent(
        "Oxygen saturation by pulse oximetry.", privacy="clinical", source="LOINC 59408-5", nullable=True
    ),
    "systolic_mmhg": real(
        "Systolic blood pressure.", privacy="clinical", unit="mm[Hg]", source="LOINC 8480-6", nullable=True
    ),
    "diastolic_mmhg": real(
        "Diastolic blood pressure.", privacy="clinical", unit="mm[Hg]", source="LOINC 8462-4", nullable=True
    ),
    "temperature_c": real("Body temperature.", privacy="clinical", unit="Cel", source="LOINC 8310-5", nullable=True),
    "consciousness": text(
        "Alert, new Confusion, Voice, Pain, Unresponsive (ACVPU).",
        privacy="clinical",
        source="RCP NEWS2",
        nullable=True,
    ),
    "is_on_oxygen": flag("Whether on supplemental oxygen.", privacy="clinical", nullable=True),
    "spo2_scale": whole("NEWS2 SpO2 scale; 2 only when set by a clinician.", nullable=True),
    "gcs_score": whole("Glasgow Coma Scale.", privacy="clinical", source="LOINC 9269-2", nullable=True, ge=3, le=15),
    "pain_score": whole("Pain, 0 to 10.", privacy="clinical", source="LOINC 72514-3", nullable=True, ge=0, le=10),
    "inexact_values": text(
        "What is stated with a comparator, as a range or in a unit that cannot be converted, as in `spo2 <70 %`; in no "
        "other column, and in no score.",
        privacy="clinical",
        source="FHIR Quantity.comparator, HL7 v2 SN, UCUM",
        nullable=True,
    ),
    "measured_at_source": text("Which clock of the source stands for the time of measurement; blank where it is that."),
    "payload": text(
        "The measured values with their units, as landed, in JSON; null where the record is unreadable.",
        privacy="clinical",
        nullable=True,
        compression="zstd",
    ),
    "measured_date_key": key("Local day.", "dim_date.date_key"),
    "measured_time_key": key("Local minute.", "dim_time.time_key"),
    "news2_score": whole(
        "NEWS2 total; null when a parameter is missing or the patient is under "
        f"{thresholds.NEWS2_MINIMUM_AGE_YEARS} or of unknown age.",
        privacy="clinical",
        source="RCP NEWS2 2017",
        nullable=True,
        ge=0,
        le=20,
    ),
    "news2_missing_count": count("How many of the seven parameters are missing.", le=7),
    "has_news2_red_parameter": flag(
        "Whether any measured parameter scores 3 (valid even when others are missing); null where NEWS2 "
        "does not apply.",
        privacy="clinical",
        nullable=True,
    ),
    "news2_response": text("Clinical response the score asks for.", privacy="clinical", nullable=True),
    # Admission, discharge, transfer
    "message_id": text("Message control id.", source="HL7 MSH-10"),
    "event_type": text("Trigger event; what each does is in ADT_EVENTS.", source="HL7 MSH-9.2"),
    "patient_class": text("Kind of visit; null where the source does not say.", source="HL7 PV1-2", nullable=True),
    "prior_patient_id": text(
        "Merged-away record number of an A40.", privacy="direct_identifier", source="HL7 MRG-1", nullable=True
    ),
    "part_of_visit_id": text(
        "The emergency visit that this record is a part of, where a source splits one into several encounters.",
        privacy="direct_identifier",
        source="FHIR Encounter.partOf",
        nullable=True,
    ),
    "bed_id": text("Bed.", source="HL7 PV1-3.3", nullable=True),
    "event_at": instant("When it happened.", source="HL7 EVN-6"),
    "visit_start_at": instant("Start of the visit.", source="HL7 PV1-44"),
    "discharge_disposition": text("How the stay ended.", source="HL7 PV1-36", nullable=True),
    "stay_id": text("Visit number of the stay.", privacy="direct_identifier"),
    "segment_number": whole("Order within the stay, from 1.", ge=1),
    "end_date_key": key("Local day the segment ends.", "dim_date.date_key"),
    "stay_class": text("Emergency until admitted, then inpatient."),
    "segment_start_at": instant("Start of the segment."),
    "segment_end_at": instant("End of the segment; null while it lasts.", nullable=True),
    "segment_hours": hours("Length of the segment.", nullable=True),
    "stay_start_at": instant("Start of the stay."),
    "stay_end_at": instant("Discharge; null while the stay is open.", nullable=True),
    "length_of_stay_hours": hours(
        "Stay start until discharge, on the last segment only, so that it adds up.", nullable=True
    ),
    "hour_start_at": instant("Start of the hour of the wall clock."),
    "first_effective_at": instant(
        "Local midnight of the first effective date; its beds count from then.", nullable=True
    ),
    "hour_minutes": minutes("How long the hour lasts: 60; less or more where the clock is changed within it."),
    "date_key": key("Local day as YYYYMMDD, or a special member.", "dim_date.date_key"),
    "hour_start_local": wall_clock("Start of the hour on the wall clock; not unique on the day clocks go back."),
    "occupied_bed_minutes": minutes("Minutes patients spent in the department."),
    "staffed_bed_minutes": minutes(
        "Minutes that staffed beds were offered; null where the capacity is unknown.", nullable=True
    ),
    "patients_at_start_count": count("Census at the start of the hour."),
    "arrivals_count": count("Arrivals."),
    "departures_count": count("Segments that end within the hour."),
    # Diagnoses and procedures
    "sequence": whole("Rank; 1 is the principal diagnosis.", source="HL7 DG1-15", ge=1),
    "diagnosis_id": text("Diagnosis record identifier.", privacy="direct_identifier", nullable=True),
    "icd_version": whole("ICD version, 9 or 10; 0 where the code is of another system or there is none."),
    "record_status": text(
        "Whether the source stands by the record: `withdrawn` where it says that it was wrong; blank: it does.",
        source="FHIR Condition.verificationStatus, Procedure.status; HL7 DG1-21",
        nullable=True,
    ),
    "code_system": text("What the code is a code of.", source="HL7 DG1-3.3, PR1-3.3; FHIR Coding.system"),
    "icd_code": text("Diagnosis code: ICD-CM, or what `code_system` says.", privacy="sensitive", source="HL7 DG1-3"),
    "description": text("Title as landed.", privacy="sensitive", nullable=True),
    "procedure_id": text("Procedure record identifier.", privacy="direct_identifier"),
    "performed_at": instant("When it was performed.", source="HL7 PR1-5", nullable=True),
    "procedure_code": text(
        "Procedure code: ICD-10-PCS, or what `code_system` says.", privacy="sensitive", source="HL7 PR1-3"
    ),
    "encounter_date": text("Local day the visit began."),
    "condition_name": text("Title.", nullable=True),
    "chapter_code": text("Code range of the ICD chapter.", source="ICD-10-CM, ICD-9-CM"),
    "chapter_name": text("Name of the ICD chapter; `Unmapped` outside all ranges.", nullable=True),
    "condition_group": text(
        "Clinical group, each code in one; `Unmapped` outside all groups.", source="after HCUP CCSR"
    ),
    "is_mental_health": flag("Mental disorder; substance use is not one.", source="CMS1244: principal mental health"),
    # Calendar
    "calendar_date": day("The day; null for the special members.", nullable=True),
    "date_label": text("ISO date, or what the special member means."),
    "year_number": whole("Year.", nullable=True),
    "quarter_number": whole("Quarter 1 to 4.", nullable=True),
    "month_number": whole("Month 1 to 12.", nullable=True),
    "month_name": text("Month.", nullable=True),
    "day_of_month": whole("Day 1 to 31.", nullable=True),
    "iso_year_number": whole("ISO 8601 year, to which the week belongs.", nullable=True),
    "iso_week_number": whole("ISO 8601 week.", nullable=True),
    "iso_weekday_number": whole("1 Monday to 7 Sunday."),
    "weekday_name": text("Weekday.", nullable=True),
    "is_weekend": flag("Saturday or Sunday.", nullable=True),
    "time_key": whole("Minute of the day 0 to 1439, or a special member."),
    "hour_of_day": whole("Local hour, 0 to 23."),
    "minute_of_hour": whole("Minute 0 to 59.", nullable=True),
    "time_label": text("HH:MM, or what the special member means."),
    "day_part": text("night, morning, afternoon or evening.", nullable=True),
    "shift_name": text("day (07-15), evening (15-23) or night (23-07).", nullable=True),
    # Alerts, audit and bookkeeping of the build
    "alert_id": text("The alert's own number; the same in every message about it."),
    "severity": text("How urgent."),
    "alert_state": text("Where it stands."),
    "value": real("The figure.", nullable=True),
    "worst_value": real("The worst figure while it lasted.", nullable=True),
    "threshold": real("What the figure was compared with.", nullable=True),
    "unit": text("Unit of the figures.", nullable=True),
    "observed_at": instant("When it was so, in the hospital's time."),
    "opened_at": instant("When it was raised."),
    "acknowledged_at": instant("When somebody took care of it.", nullable=True),
    "resolved_at": instant("When it was over; null while it lasts.", nullable=True),
    "open_minutes": minutes("Raised until over; null while it lasts.", nullable=True),
    "occurrence_count": whole("How often it came back within its cooldown.", ge=1),
    "sequence_number": whole("Place in the chain, from 1.", ge=1),
    "actor": text("Who.", privacy="quasi_identifier"),
    "role": text("In which role; empty where none was needed."),
    "action": text("What kind of thing."),
    "audience": text("Whose publication it was about."),
    "version": text("Which version of it."),
    "statement": text("What was asked for; cut at 4,000 characters.", privacy="free_text"),
    "statement_sha256": text("Hash of all of it."),
    "objects": text("Base tables and the columns of each that were read, as JSON.", source="Snowflake ACCESS_HISTORY"),
    "duration_ms": real("How long it took.", unit="ms", nullable=True, ge=0),
    "outcome": text("Whether it might."),
    "outcome_reason": text("Why it was refused or failed.", privacy="free_text"),
    "client": text("Where from.", privacy="quasi_identifier"),
    "table_name": text("Fact table or KPI."),
    "stale_date": day("Service day to refresh."),
    # KPIs: rates and what is left out
    "period_month": day("First local day of the month."),
    "period_year": whole("Calendar year of departure, local."),
    "period_date": day("Local day of the figure."),
    "population_count": count("All who were looked at."),
    "denominator_count": count("n: the population without those left out."),
    "numerator_count": count("Of n, those the measure counts."),
    "value_pct": percent("Numerator of denominator; null when n is 0.", nullable=True, ge=0, le=100),
    "as_of_at": instant("The moment until which open visits and stays have lasted."),
    "excluded_cancelled_count": count("Left out: registration cancelled."),
    "excluded_no_provider_count": count("Left out: no provider contact (LWBS, open)."),
    "excluded_no_start_count": count("Left out: neither arrival nor triage known."),
    "excluded_negative_count": count("Left out: clocks in the wrong order."),
    "undelivered": text(
        "What KPIs need and the source, by its profile, does not deliver, as `a;b`; empty where it delivers all."
    ),
    "excluded_undelivered_count": count("Left out: the source does not deliver what the figure is made of."),
    "excluded_lapsed_count": count("Left out: no end was recorded for as long as a stay can last."),
    "excluded_too_long_count": count(f"Left out: {thresholds.LONGEST_WAIT_MINUTES:,} minutes or more."),
    "excluded_count": count("Left out, for whatever reason."),
    "excluded_open_count": count("Left out: not over yet."),
    "excluded_untimed_count": count("Left out: over, but the time of the arrival or departure is unknown."),
    "excluded_no_decision_count": count("Left out: no decision recorded."),
    "excluded_untriaged_count": count("Left out: no level."),
    "excluded_no_wait_count": count("Left out: no valid wait."),
    "excluded_pending_count": count(f"Left out: waiting, within {_CRITICAL_WAIT}."),
    "excluded_invalid_count": count("Left out: clocks that cannot be."),
    "excluded_admitted_count": count("Left out: admitted."),
    "excluded_expired_count": count("Left out: died."),
    "excluded_left_count": count("Left out: unseen, against advice, eloped."),
    "excluded_unknown_count": count("Left out: disposition unknown."),
    "excluded_clock_count": count("Left out: departure missing or before arrival."),
    "excluded_other_stratum_count": count("Left out: of another stratum."),
    "excluded_not_discharged_count": count("Left out: admitted, transferred, observed, died."),
    "excluded_unknown_patient_count": count("Left out: patient unknown."),
    "excluded_run_out_count": count("Left out: the data end too soon to tell."),
    "excluded_against_advice_count": count("Left out: left against advice."),
    "excluded_transferred_count": count("Left out: transferred."),
    "excluded_continued_count": count("Left out: came back the same day for the same condition."),
    "excluded_cancer_count": count("Left out: medical cancer treatment."),
    # KPIs: waits, arrivals, cases and people
    "triage_group": text("Triage level, `untriaged`, or `all`."),
    "visit_count": whole("Visits.", ge=1),
    "wait_count": count("Visits with a valid wait (n)."),
    "wait_sum_minutes": minutes("Sum of valid waits."),
    "wait_average_minutes": minutes("Sum / n.", nullable=True),
    "wait_median_minutes": minutes("Median.", nullable=True),
    "wait_p90_minutes": minutes("90th percentile, linear interpolation.", nullable=True),
    "wait_max_minutes": minutes("Longest.", nullable=True),
    "day_wait_count": count("Valid waits of the day itself."),
    "day_wait_sum_minutes": minutes("Their sum."),
    "rolling_wait_count": count("Valid waits of the seven days (n)."),
    "rolling_wait_sum_minutes": minutes("Their sum."),
    "rolling_wait_average_minutes": minutes("Pooled average, never an average of averages.", nullable=True),
    "days_in_window_count": whole("Days of the window with data.", ge=1, le=7),
    "existing_hours_count": count("How often the local hour existed.", le=2),
    "arrivals_per_hour": real("Arrivals per existing hour.", unit="/h", nullable=True, ge=0),
    "busiest_rank": whole("1 is the busiest hour of the hospital's week.", ge=1),
    "coded_visit_count": count("Visits with a principal diagnosis (n)."),
    "share_pct": percent("Share of what is known.", nullable=True, ge=0, le=100),
    "commonest_rank": whole("1 is the commonest.", nullable=True, ge=1),
    "procedure_name": text("Title as landed.", nullable=True),
    "procedure_count": whole("Procedures.", ge=1),
    "critical_visit_count": count(f"Visits of levels {CRITICAL_IN_WORDS}."),
    "target_evaluable_count": count("Visits with a wait and a target (n)."),
    "within_target_count": count("Seen within the level's target."),
    "triaged_visit_count": count("Triaged visits of the hospital (n of the share)."),
    "share_of_triaged_pct": percent("Share of triaged visits; null for `untriaged`.", nullable=True, ge=0, le=100),
    "within_target_pct": percent("Share seen within the target.", nullable=True, ge=0, le=100),
    "visits_per_shift_hour": real("New patients per shift hour; null without shifts.", unit="/h", nullable=True, ge=0),
    "active_days_count": whole("Days with a visit or a shift.", ge=1),
    "expected_visit_count": real(
        "What the doctors of the hospital see in as many hours; null for an unknown doctor.", nullable=True, ge=0
    ),
    "lower_limit_count": real("Chance limit.", nullable=True, ge=0),
    "upper_limit_count": real("Chance limit.", nullable=True, ge=0),
    "is_outside": flag("Outside the limits: not explained by chance.", nullable=True),
    "patient_count": count("Distinct patients seen; an unknown one is nobody."),
    "known_patient_count": count("Patients with a known group (n)."),
    "reference_share_pct": percent("US reference share.", source="American Red Cross", nullable=True),
    "characteristic": text("What is counted."),
    "category": text("Category, or `unknown`."),
    "share_of_visits_pct": percent("Share of the hospital's visits.", ge=0, le=100),
    "metric": text("Which figure."),
    "centre": real("Mean of the baseline."),
    "baseline_first_date": day("First day of the baseline, from which the limits are computed."),
    "baseline_last_date": day("Last day of the baseline."),
    "lower_limit": real("Natural lower limit, not below 0.", nullable=True),
    "upper_limit": real("Natural upper limit.", nullable=True),
    "is_run": flag("One of seven or more days in a row on one side of the centre."),
    "centre_pct": percent("Rate of all hospitals together.", nullable=True),
    "dispersion": real(
        "How many times as much as by chance the squared distances of hospitals from the rate of all are; null for "
        "too few hospitals to tell.",
        nullable=True,
    ),
    "lower_limit_pct": percent("Lower limit.", nullable=True, ge=0),
    "upper_limit_pct": percent("Upper limit.", nullable=True, le=100),
    # KPIs: the emergency department
    "over_12_hours_count": count(f"Of the denominator: more than {thresholds.TWELVE_HOUR_MINUTES / 60:g} hours."),
    "destination_department": text(
        "First inpatient department that is not the emergency department, `unknown`, or `all`."
    ),
    "boarding_sum_minutes": minutes("Sum."),
    "boarding_median_minutes": minutes("Median.", nullable=True),
    "boarding_max_minutes": minutes("Longest.", nullable=True),
    "seen_late_count": count(f"Seen after more than {_CRITICAL_WAIT}."),
    "left_late_count": count(f"Left unseen after more than {_CRITICAL_WAIT}."),
    "waiting_late_count": count(f"Waiting for more than {_CRITICAL_WAIT}."),
    "stratum": text("Which patients."),
    "median_minutes": minutes("Median.", nullable=True),
    "room_count": count(f"Room {thresholds.ECAT_ROOM_MINUTES} minutes or more after arrival."),
    "left_count": count("Left without being seen."),
    "boarded_count": count(f"Boarded {thresholds.ECAT_BOARDING_MINUTES} minutes or more."),
    "long_stay_count": count(f"Stayed {thresholds.ECAT_STAY_MINUTES} minutes or more."),
    "volume_band": text(
        f"{thresholds.ECAT_BAND_VISITS:,}-visit band of the hospital's year; null for `all` and of a part of a year.",
        nullable=True,
    ),
    "z_score": real(
        "Against the hospitals of the band, stratum `all` only; null without a band, or with fewer than two in it.",
        nullable=True,
    ),
    "variant": text("Which returns."),
    "ed_patients_count": count("Patients present."),
    "ed_bed_count": count("Treatment spaces of the department.", nullable=True),
    "occupancy_ratio": real(
        f"Patients per treatment space; above {thresholds.CROWDED_RATIO:g} linked to 10-day mortality.",
        nullable=True,
        ge=0,
    ),
    "boarders_count": count("Of them, decided to be admitted and not moved."),
    "hospital_bed_count": count("Inpatient beds of the hospital.", nullable=True),
    "ventilated_count": count("Of the patients, ventilated."),
    "longest_boarding_hours": hours("Of those who board now."),
    "last_door_to_bed_hours": hours("Arrival to room, of those present the one roomed last."),
    "nedocs_score": real("NEDOCS.", nullable=True, ge=0, le=200),
    "nedocs_level": text("What it means.", nullable=True),
    "attendings_count": count("Doctors on shift in the department."),
    "triage_weight_sum": whole("Sum of 6 - level over triaged patients.", ge=0),
    "edwin_score": real("EDWIN.", nullable=True, ge=0),
    "edwin_level": text("What it means.", nullable=True),
    # KPIs: beds and stays
    "time_weighted_pct": percent("Occupied of offered.", nullable=True, plausible=(0, 150), ge=0),
    "hourly_mean_pct": percent("Mean of the hours.", nullable=True, ge=0),
    # Forecasts
    "target_date": day("Local day that is forecast."),
    "method": text("How it was forecast."),
    "is_shipped": flag("Whether this is the forecast that readers get."),
    "horizon_hours": whole("Hours of the clock from the end of the as-of day to the end of the hour.", ge=1),
    "horizon_days": whole("Days from the as-of day.", ge=1),
    "existing_hours": hours("How long it exists on the clock of that day."),
    "holiday_name": text("Public holiday of the day at the hospital.", nullable=True),
    "expected_arrivals": real("Mean of the forecast; means add up.", unit="arrivals", ge=0),
    "count_dispersion": real("a in the variance m + a m² of the forecast counts; 0 is Poisson.", unit="1", ge=0),
    **{
        f"p{name}_count": count(f"Arrivals not exceeded with a probability of {share} %: the smallest such number.")
        for name, share in (("025", 2.5), ("10", 10), ("25", 25), ("50", 50), ("75", 75), ("90", 90), ("975", 97.5))
    },
    "training_days_count": count("Days of history it was learned from."),
    "training_to_date": day("The last day that the fit has seen.", nullable=True),
    "week_end_date": day("Last day of an ISO week (Sunday)."),
    "expected_crps": real("CRPS in the mean where the forecasts are the truth.", unit="arrivals", ge=0),
    "crps_ratio": real("CRPS over the expected: 1 in the mean where the forecasts are the truth.", unit="1", ge=0),
    "recent_ratio": real("Mean ratio of the four weeks up to this one.", unit="1", nullable=True, ge=0),
    "baseline_weeks_count": count("Weeks before those four, up to 26, that set the limit.", nullable=True),
    "limit_ratio": real(
        "Their mean and three standard deviations (by moving ranges) of a mean of four weeks; null below 8 weeks.",
        unit="1",
        nullable=True,
    ),
    "is_drifting": flag("Whether the four weeks are above the limit; null without one.", nullable=True),
    "driver": text("What moves the forecast away from the usual day; `usual_day` itself."),
    "driver_rank": whole("In which order it is taken into account; 1 is the usual day.", ge=1),
    "factor": real("What it multiplies the arrivals by; those of a day are the product.", unit="1", ge=0),
    "added_arrivals": real("Arrivals that it adds or takes away; those of a day are the sum.", unit="arrivals"),
    "level_factor": real(
        "Arrivals of the last ten weeks over what the calendar explains.", unit="1", ge=0, plausible=(0.85, 1.15)
    ),
    "holiday_calendar": text("Whose public holidays, as country or country-region; empty without any."),
    "calendar_version": text("The library that the holidays come from."),
    **{
        f"{grain}_{name}": field
        for grain in ("hour", "day")
        for name, field in (
            ("origins_count", count(f"Past forecasts by the {grain} that the gate compared.")),
            (
                "skill_pct",
                percent(
                    f"CRPS of the regression below that of the slot mean, by the {grain}; null where the gate had too "
                    "few to compare.",
                    nullable=True,
                ),
            ),
        )
    },
    "is_hour_gate_passed": flag("Whether the regression beat the slot mean by the hour.", nullable=True),
    "is_day_gate_passed": flag("Whether the regression beat the slot mean by the day.", nullable=True),
    "grain": text("What is forecast: the arrivals of an hour or of a day.", isin=["hour", "day"]),
    "horizon_band": text("How far ahead, in hours or days."),
    "forecasts_count": count("Forecasts whose hour or day is over (n)."),
    "shipped_count": count("Of these, the ones that readers got."),
    "mae": real("Mean absolute error of the medians.", unit="arrivals", ge=0),
    "mase": real("Mean absolute error over that of the same slot a week before.", unit="1", nullable=True, ge=0),
    "floor_mase": real("What it would be if all rates were known: chance alone.", unit="1", nullable=True, ge=0),
    "bias": real("Mean forecast minus mean arrivals.", unit="arrivals"),
    "bias_error": real("Standard error of the bias, over the days forecast.", unit="arrivals", nullable=True, ge=0),
    **{f"pinball_{q}": real(f"Pinball loss of the {q} % quantile.", unit="arrivals", ge=0) for q in (10, 50, 90)},
    "crps": real("Continuous ranked probability score.", unit="arrivals", ge=0),
    **{f"pit_{q}_pct": percent(f"Randomised PIT values within the middle {q} %.", ge=0, le=100) for q in (50, 80, 95)},
    "skill_pct": percent(
        "CRPS below that of the slot mean over the same hours or days; of these two methods only.", nullable=True
    ),
    **{
        f"mean_wait_p{level}_minutes": minutes(
            f"Mean wait of those who come in the hour, not exceeded with a probability of {level} %."
        )
        for level in (10, 50, 90)
    },
    "expected_patients": real(
        "Mean of the forecast of the patients there, over the hours of the day.", unit="patients", ge=0
    ),
    "patients_in": real("Of these, those who were there when it was made.", unit="patients", ge=0),
    "patients_to_come": real("Of these, those who come later.", unit="patients", ge=0),
    **{
        f"patients_p{level}_count": count(
            f"Patients not exceeded with a probability of {level} %: the smallest such number."
        )
        for level in (10, 50, 90)
    },
    "over_capacity_pct": percent("Chance of more patients than staffed beds.", nullable=True, ge=0, le=100),
    "days_count": count("Days that it is learned from (n)."),
    "over_60_pct": percent("Chance that the mean wait of the hour is over an hour.", ge=0, le=100),
    "method_reason": text("Why by this method."),
    "origins_count": count("Past forecasts that the gate compared."),
    **{
        f"{name}_skill_pct": percent(
            f"{what} of the simulation below that of the same hour; null where the gate had too few to compare.",
            nullable=True,
        )
        for name, what in (("median", "Mean absolute error of medians"), ("high", "Pinball loss of 90th percentiles"))
    },
    "is_median_gate_passed": flag("Whether the simulation's medians beat those of the same hour.", nullable=True),
    "is_high_gate_passed": flag(
        "Whether the simulation's 90th percentiles beat those of the same hour.", nullable=True
    ),
    "wait_mae_minutes": minutes("Mean absolute error of the medians."),
    "wait_bias_minutes": real("Mean of the medians minus mean of what came.", unit="min"),
    **{f"wait_pinball_{q}_minutes": minutes(f"Pinball loss of the {q} % percentile.") for q in (10, 50, 90)},
    "inside_80_pct": percent("Hours whose mean wait lay between the 10th and the 90th percentile.", ge=0, le=100),
    "compared_count": count("Of these, hours that both methods forecast."),
    "wait_skill_pct": percent(
        "Mean absolute error of the medians below that of the same hour, over the hours that both forecast.",
        nullable=True,
    ),
    "staff_role": text("Who is meant.", isin=["doctor", "nurse"]),
    "offered_load": real(
        "Patients in treatment (doctors) or there (nurses) at a time, if a place were always free; mean of the hour; "
        "of doctors on a day that only one in ten exceeds.",
        unit="patients",
        ge=0,
    ),
    "places_count": count(
        "Patients whom a doctor treats at a time, as learned from moments with a queue.", nullable=True
    ),
    "needed_count": count("Doctors who meet the target of service on such a day; nurses by ratio."),
    "least_count": count("Least staff by the hospital's rules.", nullable=True),
    "present_count": count("By the roster of the seven days up to the as-of day.", nullable=True),
    "suggested_count": count("By the roster that is suggested; null where none is.", nullable=True),
    "gap_count": whole("Needed less present.", nullable=True),
    "change_count": whole("Suggested less present."),
    "roster": text("Which roster."),
    "suggestion_outcome": text("How the search for a roster ended."),
    "budget_hours": hours("Doctors' hours that the week may have.", nullable=True),
    "doctor_hours": hours("Doctors' hours that it has.", nullable=True),
    "moved_hours": hours("Of these, at hours that the present roster does not have.", nullable=True),
    "replicates_count": count("Weeks that were simulated; each roster on the same patients."),
    **{
        f"{stem}_{which}_{unit}": field
        for stem, unit, made in (
            ("wait_mean", "minutes", minutes),
            ("wait_p90", "minutes", minutes),
            ("unseen", "pct", percent),
            ("within_target", "pct", percent),
        )
        for which, field in (
            ("low", made("10th percentile of the simulated weeks.", nullable=True)),
            ("high", made("90th percentile of the simulated weeks.", nullable=True)),
        )
    },
    "wait_mean_minutes": minutes("Mean wait from door to provider of those seen.", nullable=True),
    "unseen_pct": percent("Share that left without being seen.", nullable=True, ge=0, le=100),
    "better_weeks_pct": percent(
        "Simulated weeks in which the mean wait was shorter than by the present roster.", nullable=True, ge=0, le=100
    ),
    "came_at_midnight_count": count("Of the patients at 24:00, those who came then sharp: the next day's arrivals."),
    "midnight_patients_count": count("Patients at 24:00."),
    "midnight_pct": percent("Of the beds then.", nullable=True, ge=0),
    "peak_patients_count": count("Most patients at one moment."),
    "peak_pct": percent("Of the beds.", nullable=True, ge=0),
    "window_hours": real("Hours the day had; of the day in progress, those that have begun.", unit="h", ge=1, le=26),
    "patients_count": count("Patients who were there at some time of the day; moves from bed to bed count once."),
    "inflow_count": count("Patients who came in it."),
    "outflow_count": count("Patients who left in it."),
    "lapsed_count": count("Patients counted no longer: no end was recorded for as long as a stay can last."),
    "patient_hours": hours("Hours spent in the department."),
    "mean_census_count": real("L: patient-hours per hour.", ge=0),
    "patients_per_hour": real("Patients touching the day per hour.", unit="/h", ge=0),
    "mean_hours_per_patient": hours("W: hours within the day per patient.", nullable=True),
    "turnover_per_bed": real("Left per staffed bed.", nullable=True, ge=0),
    "turnover_interval_hours": real("Empty bed-hours per patient who left.", unit="h", nullable=True),
    "is_bottleneck": flag(f"At {thresholds.BOTTLENECK_PCT:g} % of the bed-minutes or more."),
    "los_hcup_days_sum": whole("Sum of calendar days.", unit="d", ge=0),
    "los_hcup_days_average": real("Average.", unit="d", nullable=True, ge=0),
    "los_min1_days_average": real("Average, each at least one.", unit="d", nullable=True, ge=1),
    "los_hours_average": hours("Average.", nullable=True),
    "los_hours_median": hours("Median.", nullable=True),
    "open_days_so_far_average": real("Of open stays, until `as_of_at`.", unit="d", nullable=True, ge=0),
    "open_numerator_count": count("Of the numerator: not discharged."),
    # KPIs: the way through the department
    "stage": text("Stage that was reached."),
    "timed_count": count("Of the numerator: the stage before is known and is not later."),
    "untimed_count": count("Of the numerator: the stage before is unknown or later."),
    "stage_sum_minutes": minutes("Sum since the stage before, over `timed_count`."),
    "stage_median_minutes": minutes("Median.", nullable=True),
    "stage_p90_minutes": minutes("90th percentile, linear interpolation.", nullable=True),
    "excluded_no_handover_count": count("Left out: no handover recorded."),
    "over_30_minutes_count": count(f"Of the denominator: more than {thresholds.LATE_HANDOVER_MINUTES} minutes."),
    "over_60_minutes_count": count(f"Of the denominator: more than {thresholds.LONG_HANDOVER_MINUTES} minutes."),
    "handover_sum_minutes": minutes("Sum over the denominator."),
    # KPIs: deterioration
    "hours_since_arrival": whole("Whole hours since the earlier of arrival and triage.", unit="h"),
    "excluded_before_arrival_count": count("Left out: recorded before arrival."),
    "excluded_after_departure_count": count("Left out: recorded after departure."),
    "excluded_under_16_count": count(f"Left out: under {thresholds.NEWS2_MINIMUM_AGE_YEARS} years."),
    "excluded_unknown_age_count": count("Left out: age unknown."),
    "excluded_incomplete_count": count("Left out: not all seven parameters."),
    "excluded_left_early_count": count("Left out: gone before the time was up."),
    "excluded_not_due_count": count("Left out: there, and the time is not yet up."),
    "excluded_already_seen_count": count("Left out: with a provider before the score."),
    "scored_visit_count": count("Visits of the sets of n, each once."),
    "score_0_count": count("Score 0."),
    "score_1_to_4_count": count("Score 1 to 4, no parameter of 3."),
    "red_parameter_count": count("Score 3 or 4 with a parameter of 3: urgent ward review."),
    "score_5_to_6_count": count("Score 5 or 6: urgent."),
    "score_7_or_more_count": count("Score 7 or more: emergency."),
    "score_sum": whole("Sum of the scores.", ge=0),
    "other_days_count": count("Of all sets, recorded on another local day than that of arrival."),
    "other_days_score_sum": whole("Sum of the scores of those.", ge=0),
    "limit_minutes": whole("The limit, in minutes.", unit="min"),
    "late_count": count("Of n: it came, but later."),
    "no_full_set_count": count("Of n: no full set."),
    "seen_count": count("Of n: seen by a provider (n of the minutes)."),
    "left_unseen_count": count("Of n: gone unseen after the time was up."),
    "waiting_count": count("Of n: unseen and there after the time was up."),
    "response_sum_minutes": minutes("Sum over `seen_count`."),
    "news2_band": text("Band of the NEWS2 score, `no_score`, or `all`."),
    "missed_count": count("Of n: no other set, though it was due."),
    "interval_sum_minutes": minutes("Sum over the numerator and `late_count`."),
    # KPIs: shifts and staff
    "shifts_count": whole("Shifts.", ge=1),
    "long_shifts_count": count(f"Of the shifts, of {thresholds.LONG_SHIFT_HOURS} hours or more."),
    "nights_count": count(f"Of the shifts, starting at {thresholds.NIGHT_STARTS_HOUR}:00 or later."),
    "nights_after_night_count": count("Of the nights, after a night."),
    "rests_count": count("Shifts with a known rest before them (n of short rests)."),
    "short_rests_count": count(f"Of them, with less than {thresholds.SHORTEST_REST_HOURS} hours."),
    "excluded_first_count": count("Left out of rests: no earlier shift known."),
    "excluded_overlapping_count": count("Left out: another of the same was under way."),
    "staffed_hours_count": count("Of the hours, those whose doctors are known (n of doctors).", le=2),
    "attendings_sum_count": count("Doctors on shift at the start of the hour, summed over those hours."),
}
