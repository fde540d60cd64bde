"""Contracts of the cleaned layer: typed, in UTC, one row per thing, beside what was set aside.

Belongs here: one model per cleaned subject and one per quarantine table. A cleaned row keeps what
was landed where it made sense, says in `quality_codes` what was corrected or doubted, and names
its source line. What broke a rule stands in the subject's quarantine table instead, with the rule.
"""

from __future__ import annotations

import polars as pl

from hospital_assets.contracts.table import Instant, Table, WallClock, column

SEXES = ["male", "female", "other", "unknown"]
BLOOD_GROUPS = ["O+", "O-", "A+", "A-", "B+", "B-", "AB+", "AB-"]
ARRIVAL_MODES = ["walk_in", "ambulance", "helicopter", "other", "unknown"]
DISPOSITIONS = [
    "home",
    "admitted",
    "transferred",
    "left_without_being_seen",
    "against_medical_advice",
    "eloped",
    "expired",
    "observation",
    "facility",
    "rehab",
    "other",
]
DEPARTMENTS = ["Emergency", "Surgery", "ICU", "Pediatrics", "Maternity", "Oncology", "Cardiology"]
CODE_SYSTEMS = ["ICD-10-CM", "ICD-9-CM", "ICD-10-PCS", "SNOMED CT", "CPT", "HCPCS", "other"]
#: HL7 v2 trigger events (chapter 3) and what each does to stays; a new one is an entry here and, where
#: it has an effect, its place in facts/patient_flow.py.
ADT_EVENTS = {
    "A01": "Admission: an inpatient stay at a location.",
    "A02": "Transfer: another location.",
    "A03": "Discharge: the end of the stay.",
    "A04": "Registration: an outpatient or emergency stay at a location.",
    "A05": "Pre-admission: announced; no effect before the patient comes.",
    "A06": "Outpatient becomes inpatient.",
    "A07": "Inpatient becomes outpatient.",
    "A08": "Visit details changed: no effect on where the patient is.",
    "A11": "Cancels A01 or A04.",
    "A12": "Cancels A02.",
    "A13": "Cancels A03.",
    "A21": "Leave of absence begins: no effect, the stay goes on and its bed is held.",
    "A22": "Back from leave: no effect.",
    "A28": "Person added: no effect on stays.",
    "A31": "Person details changed: no effect on stays.",
    "A40": "Record numbers merged: one person.",
    "A45": "Visit moved to another patient.",
}
ADT_EVENT_TYPES = list(ADT_EVENTS)
#: Kinds of visit; outpatients have no stays.
PATIENT_CLASSES = ["emergency", "inpatient", "outpatient"]
#: Events about a person; they need no visit.
ADT_PERSON_EVENTS = ["A28", "A31", "A40"]


class CleanedRecord(Table):
    """Bookkeeping that every cleaned record carries."""

    source_profile: pl.String = column("Source profile that read the record.")
    source_file: pl.String = column("Landed file the record came from.")
    source_line: pl.Int64 = column("Line in that file.", ge=0)
    source_part: pl.Int64 = column("Which of the rows made from that record.", ge=1)
    quality_codes: pl.String = column("What was corrected or doubted, as `code;code`; empty when nothing was.")


class DatedCleanedRecord(CleanedRecord):
    """A cleaned record of a local service day."""

    service_date: pl.Date = column("Local service day; the partition.")
    recorded_at: Instant = column(
        "When the source wrote the record; null where the feed does not say.", nullable=True, source="HL7 EVN-2"
    )


class CleanedHospitals(
    CleanedRecord, name="cleaned_hospitals", layer="cleaned", grain="one hospital", key=("hospital_id",)
):
    """Hospitals of the network."""

    hospital_id: pl.String = column("Hospital identifier.")
    hospital_name: pl.String = column("Name.")
    city: pl.String = column("City.", nullable=True)
    state: pl.String = column("US state, two letters.", nullable=True)
    time_zone: pl.String = column("IANA time zone of its wall clocks.")
    trauma_level: pl.Int64 = column("Trauma centre level.", nullable=True, ge=1, le=5)
    annual_ed_visits_band: pl.String = column("ED volume band.", nullable=True)


class CleanedDepartments(
    CleanedRecord,
    name="cleaned_departments",
    layer="cleaned",
    grain="one department and effective date",
    key=("department_id", "effective_date"),
):
    """Departments, one row for each date from which something about them changed."""

    department_id: pl.String = column("Department identifier.")
    hospital_id: pl.String = column("Hospital.", references="cleaned_hospitals.hospital_id")
    department_name: pl.String = column("Canonical name.")
    bed_capacity: pl.Int64 = column(
        "Staffed beds; null where the source does not say.", unit="bed", nullable=True, ge=0
    )
    mean_stay_hours: pl.Float64 = column("Planned mean stay.", unit="h", nullable=True, gt=0)
    effective_date: pl.Date = column("First local day the row holds.")


class CleanedDoctors(CleanedRecord, name="cleaned_doctors", layer="cleaned", grain="one doctor", key=("doctor_id",)):
    """Doctors of the network."""

    doctor_id: pl.String = column("Doctor identifier.")
    hospital_id: pl.String = column("Hospital.", references="cleaned_hospitals.hospital_id")
    department_id: pl.String = column("Home department.", nullable=True)
    full_name: pl.String = column("Given and family name.", privacy="quasi_identifier")
    specialty: pl.String = column("Specialty.", nullable=True)
    npi: pl.String = column("National Provider Identifier.", nullable=True, privacy="quasi_identifier")
    hired_date: pl.Date = column("First day of employment.", nullable=True)


class CleanedDoctorShifts(
    DatedCleanedRecord,
    name="cleaned_doctor_shifts",
    layer="cleaned",
    grain="one shift",
    key=("service_date", "shift_id"),
    partitioned=True,
    order_by=("service_date",),
):
    """Doctor shifts; the service day is the local day the shift starts."""

    shift_id: pl.String = column("Shift identifier.")
    doctor_id: pl.String = column("Doctor.")
    hospital_id: pl.String = column("Hospital.")
    department_id: pl.String = column("Department worked in.", nullable=True)
    shift_start_at: Instant = column("Start of the shift.")
    shift_end_at: Instant = column("End of the shift.")


class CleanedPatients(
    DatedCleanedRecord,
    name="cleaned_patients",
    layer="cleaned",
    grain="one version of a patient record",
    key=("patient_id", "recorded_at"),
    partitioned=True,
    order_by=("service_date",),
):
    """Patient record versions, by when the EHR wrote them."""

    patient_id: pl.String = column("Medical record number.", privacy="direct_identifier")
    first_name: pl.String = column("Given name.", nullable=True, privacy="direct_identifier")
    last_name: pl.String = column("Family name.", nullable=True, privacy="direct_identifier")
    birth_date: pl.Date = column(
        "Date of birth; never invented from an age.", nullable=True, privacy="direct_identifier"
    )
    age_at_extract_years: pl.Int64 = column(
        "Age as landed, on the day of the extract.", unit="a", nullable=True, ge=0, le=120, privacy="quasi_identifier"
    )
    sex: pl.String = column("Administrative sex.", isin=SEXES, privacy="quasi_identifier")
    race: pl.String = column("Race.", privacy="quasi_identifier")
    ethnicity: pl.String = column("Ethnicity.", privacy="quasi_identifier")
    blood_group: pl.String = column(
        "ABO and Rh group; null when unknown.", nullable=True, isin=BLOOD_GROUPS, privacy="clinical"
    )
    street: pl.String = column("Street address.", nullable=True, privacy="direct_identifier")
    city: pl.String = column("City.", nullable=True, privacy="quasi_identifier")
    state: pl.String = column("State.", nullable=True, privacy="quasi_identifier")
    zip_code: pl.String = column("ZIP code.", nullable=True, privacy="direct_identifier")
    phone: pl.String = column("Telephone.", nullable=True, privacy="direct_identifier")
    insurer: pl.String = column("Payer.", nullable=True, privacy="quasi_identifier")
    pre_existing_condition: pl.String = column("Known chronic condition.", nullable=True, privacy="sensitive")


class CleanedErVisits(
    DatedCleanedRecord,
    name="cleaned_er_visits",
    layer="cleaned",
    grain="one emergency visit",
    key=("service_date", "visit_id"),
    partitioned=True,
    order_by=("service_date",),
):
    """Emergency visits: the newest record of each, its clocks in UTC."""

    visit_id: pl.String = column("Visit number.", privacy="direct_identifier", source="HL7 PV1-19")
    patient_id: pl.String = column("Medical record number.", privacy="direct_identifier")
    hospital_id: pl.String = column("Hospital.", references="cleaned_hospitals.hospital_id")
    department_name: pl.String = column(
        "Canonical department the visit was routed to; null when the landed name is not known.", nullable=True
    )
    doctor_id: pl.String = column("First provider.", nullable=True)
    arrival_mode: pl.String = column("How the patient arrived.", isin=ARRIVAL_MODES)
    arrival_at: Instant = column("Arrival (registration).", source="HL7 PV1-44")
    arrival_local: WallClock = column("Arrival on the hospital's wall clock.")
    handover_at: Instant = column("Ambulance handover.", nullable=True)
    triage_at: Instant = column("Triage.", nullable=True)
    triage_level: pl.Int64 = column("Triage level, 1 most urgent.", nullable=True, ge=1, le=5)
    room_at: Instant = column("Start in a treatment room.", nullable=True)
    provider_at: Instant = column("First contact with a physician, NP or PA.", nullable=True)
    decision_at: Instant = column("Disposition decision.", nullable=True)
    departure_at: Instant = column("Physical departure from the ED.", nullable=True)
    disposition: pl.String = column("How the visit ended; null while it is open.", nullable=True, isin=DISPOSITIONS)
    chief_complaint: pl.String = column("Complaint in words.", nullable=True, privacy="free_text")


class CleanedVitals(
    DatedCleanedRecord,
    name="cleaned_vitals",
    layer="cleaned",
    grain="one observation set",
    key=("service_date", "observation_id"),
    partitioned=True,
    order_by=("service_date",),
):
    """Vital-sign observation sets in one unit per parameter."""

    observation_id: pl.String = column("Observation set.", privacy="direct_identifier")
    visit_id: pl.String = column("Visit number.", nullable=True, privacy="direct_identifier")
    patient_id: pl.String = column("Medical record number.", privacy="direct_identifier")
    hospital_id: pl.String = column("Hospital.", references="cleaned_hospitals.hospital_id")
    device_id: pl.String = column("Measuring device.", nullable=True)
    measured_at: Instant = column("When it was measured.", source="HL7 OBX-14")
    measured_local: WallClock = column("When it was measured, on the hospital's wall clock.")
    heart_rate_bpm: pl.Float64 = column(
        "Heart rate.",
        unit="/min",
        source="LOINC 8867-4",
        nullable=True,
        privacy="clinical",
        gt=0,
        lt=300,
        plausible=(20, 250),
    )
    respiratory_rate_per_min: pl.Float64 = column(
        "Respiratory rate.",
        unit="/min",
        source="LOINC 9279-1",
        nullable=True,
        privacy="clinical",
        gt=0,
        lt=70,
        plausible=(4, 60),
    )
    spo2_pct: pl.Float64 = column(
        "Oxygen saturation by pulse oximetry.",
        unit="%",
        source="LOINC 59408-5",
        nullable=True,
        privacy="clinical",
        gt=0,
        le=100,
        plausible=(50, 100),
    )
    systolic_mmhg: pl.Float64 = column(
        "Systolic blood pressure.",
        unit="mm[Hg]",
        source="LOINC 8480-6",
        nullable=True,
        privacy="clinical",
        gt=0,
        lt=400,
        plausible=(40, 300),
    )
    diastolic_mmhg: pl.Float64 = column(
        "Diastolic blood pressure.",
        unit="mm[Hg]",
        source="LOINC 8462-4",
        nullable=True,
        privacy="clinical",
        gt=0,
        lt=300,
        plausible=(20, 200),
    )
    temperature_c: pl.Float64 = column(
        "Body temperature.",
        unit="Cel",
        source="LOINC 8310-5",
        nullable=True,
        privacy="clinical",
        ge=10,
        le=50,
        plausible=(30, 43),
    )
    consciousness: pl.String = column(
        "Alert, new Confusion, Voice, Pain, Unresponsive (ACVPU).",
        source="RCP NEWS2",
        nullable=True,
        isin=["A", "C", "V", "P", "U"],
        privacy="clinical",
    )
    is_on_oxygen: pl.Boolean = column("Whether on supplemental oxygen.", nullable=True)
    spo2_scale: pl.Int64 = column("NEWS2 SpO2 scale; 2 only when set by a clinician.", nullable=True, isin=[1, 2])
    gcs_score: pl.Int64 = column(
        "Glasgow Coma Scale.", source="LOINC 9269-2", nullable=True, ge=3, le=15, privacy="clinical"
    )
    pain_score: pl.Int64 = column(
        "Pain, 0 to 10.", source="LOINC 72514-3", nullable=True, ge=0, le=10, privacy="clinical"
    )


class CleanedAdtEvents(
    DatedCleanedRecord,
    name="cleaned_adt_events",
    layer="cleaned",
    grain="one ADT message",
    key=("service_date", "message_id"),
    partitioned=True,
    order_by=("service_date",),
):
    """Admission, discharge and transfer messages; the service day is that of their visit's start."""

    message_id: pl.String = column("Message control id.", source="HL7 MSH-10")
    event_type: pl.String = column(
        "Trigger event; what each does is in ADT_EVENTS.", source="HL7 MSH-9.2", isin=ADT_EVENT_TYPES
    )
    visit_id: pl.String = column(
        "Visit number; null in an event about a person.", nullable=True, privacy="direct_identifier"
    )
    patient_id: pl.String = column("Medical record number.", privacy="direct_identifier")
    patient_class: pl.String = column(
        "Kind of visit; null where the source does not say.", source="HL7 PV1-2", nullable=True, isin=PATIENT_CLASSES
    )
    prior_patient_id: pl.String = column(
        "Merged-away record number of an A40.", nullable=True, privacy="direct_identifier"
    )
    hospital_id: pl.String = column("Hospital.", references="cleaned_hospitals.hospital_id")
    department_name: pl.String = column("Canonical department.", nullable=True)
    bed_id: pl.String = column("Bed.", nullable=True)
    event_at: Instant = column("When it happened.", source="HL7 EVN-6")
    visit_start_at: Instant = column("Start of the visit.", source="HL7 PV1-44")
    discharge_disposition: pl.String = column("Disposition.", nullable=True, isin=DISPOSITIONS)


class CleanedDiagnoses(
    DatedCleanedRecord,
    name="cleaned_diagnoses",
    layer="cleaned",
    grain="one diagnosis of a visit",
    key=("service_date", "visit_id", "sequence"),
    partitioned=True,
    order_by=("service_date",),
):
    """Coded diagnoses; the service day is that of their visit's arrival."""

    diagnosis_id: pl.String = column("Diagnosis record.", nullable=True, privacy="direct_identifier")
    visit_id: pl.String = column("Visit number.", privacy="direct_identifier")
    patient_id: pl.String = column("Medical record number.", privacy="direct_identifier")
    hospital_id: pl.String = column("Hospital.")
    sequence: pl.Int64 = column(
        "Rank; 1 is the principal diagnosis. In the order of the records where none is stated (`sequence_derived`).",
        ge=1,
    )
    icd_version: pl.Int64 = column("9 or 10; 0 for a code of another system.", isin=[0, 9, 10])
    code_system: pl.String = column("What the code is a code of.", isin=CODE_SYSTEMS)
    icd_code: pl.String = column(
        "Code, upper case, without the dot: ICD-CM, or what `code_system` says.",
        str_matches=r"^[A-Z0-9-]{2,18}$",
        privacy="sensitive",
    )
    description: pl.String = column("Title as landed.", nullable=True, privacy="sensitive")


class CleanedProcedures(
    DatedCleanedRecord,
    name="cleaned_procedures",
    layer="cleaned",
    grain="one procedure of a visit",
    key=("service_date", "procedure_id"),
    partitioned=True,
    order_by=("service_date",),
):
    """Coded procedures; the service day is that of their visit's arrival."""

    procedure_id: pl.String = column("Procedure record.", privacy="direct_identifier")
    visit_id: pl.String = column("Visit number.", privacy="direct_identifier")
    patient_id: pl.String = column("Medical record number.", privacy="direct_identifier")
    hospital_id: pl.String = column("Hospital.")
    performed_at: Instant = column("When it was performed.", nullable=True)
    code_system: pl.String = column("What the code is a code of.", isin=CODE_SYSTEMS)
    procedure_code: pl.String = column("Code, upper case, without the dot.", str_matches=r"^[A-Z0-9-]{2,18}$")
    description: pl.String = column("Title as landed.", nullable=True, privacy="sensitive")


class QuarantinedRecord(Table):
    """A landed record that was not taken over, with the rule it broke."""

    source_profile: pl.String = column("Source profile that read the record.")
    source_file: pl.String = column("Landed file.")
    source_line: pl.Int64 = column("Line in that file.", ge=0)
    source_part: pl.Int64 = column("Which of the rows made from that record.", ge=1)
    rule: pl.String = column("Name of the rule; docs/data-dictionary.md lists them.")
    reason: pl.String = column("The rule in words, without the record's values.")
    is_duplicate: pl.Boolean = column("True when the record only repeats or was superseded by another one.")
    record: pl.String = column("The record verbatim.", nullable=True, privacy="direct_identifier")


class DatedQuarantinedRecord(QuarantinedRecord):
    """A quarantined record of a partitioned subject."""

    service_date: pl.Date = column("Local service day as in the raw table; the partition.")


def _quarantine(subject: str, dated: bool) -> type[Table]:
    """The quarantine contract of a subject: they are all alike but for the name."""
    base: type[Table] = DatedQuarantinedRecord if dated else QuarantinedRecord
    document = (
        f"Landed {subject.replace('_', ' ')} records that did not become a cleaned row, and why: "
        "rule broken, duplicate, or superseded."
    )

    class Quarantine(
        base,  # type: ignore[valid-type, misc, call-arg]
        name=f"quarantine_{subject}",
        layer="cleaned",
        grain="one landed record set aside",
        key=("source_file", "source_line", "source_part"),
        partitioned=dated,
        order_by=("service_date",) if dated else (),
    ):
        __doc__ = document

    return Quarantine


QUARANTINES = {
    subject: _quarantine(subject, dated)
    for subject, dated in {
        "hospitals": False,
        "departments": False,
        "doctors": False,
        "doctor_shifts": True,
        "patients": True,
        "er_visits": True,
        "vitals": True,
        "adt_events": True,
        "diagnoses": True,
        "procedures": True,
    }.items()
}

TABLES = (
    CleanedHospitals,
    CleanedDepartments,
    CleanedDoctors,
    CleanedDoctorShifts,
    CleanedPatients,
    CleanedErVisits,
    CleanedVitals,
    CleanedAdtEvents,
    CleanedDiagnoses,
    CleanedProcedures,
    *QUARANTINES.values(),
)
