"""Contracts of the cleaned layer: typed, in UTC, one row per thing; and the quarantine tables.

Belongs here: one model per cleaned subject and one per quarantine table. A cleaned row keeps what
was landed where it made sense, says in `quality_codes` what was corrected or doubted, and names
its source line. What broke a rule stands in the subject's quarantine table instead, with the rule.
"""

from __future__ import annotations

from hospital_assets.contracts.table import PUBLIC_PLACE, RECORD_PLACE, Table, column

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
#: What a source says of a record that was wrong.
RECORD_STATUSES = ["withdrawn"]
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


class CleanedRecord(Table, layer="cleaned", columns="source_profile source_file source_line source_part quality_codes"):
    """Bookkeeping that every cleaned record carries."""


class DatedCleanedRecord(CleanedRecord, columns="recorded_at", partitioned=True, order_by=("service_date",)):
    """A cleaned record of a local service day."""


class CleanedHospitals(
    CleanedRecord,
    name="cleaned_hospitals",
    grain="one hospital",
    key=("hospital_id",),
    columns="hospital_name city state time_zone trauma_level annual_ed_visits_band",
):
    """Hospitals of the network."""

    city = column(privacy="operational", because=PUBLIC_PLACE)
    state = column(privacy="operational", because=PUBLIC_PLACE)
    trauma_level = column(ge=1, le=5)


class CleanedDepartments(
    CleanedRecord,
    name="cleaned_departments",
    grain="one department and effective date",
    key=("department_id", "effective_date"),
    columns="hospital_id department_name bed_capacity mean_stay_hours",
):
    """Departments, one row for each date from which something about them changed."""

    hospital_id = column(references="cleaned_hospitals.hospital_id")
    mean_stay_hours = column(gt=0)


class CleanedDoctors(
    CleanedRecord,
    name="cleaned_doctors",
    grain="one doctor",
    key=("doctor_id",),
    columns="hospital_id department_id full_name specialty npi hired_date",
):
    """Doctors of the network."""

    hospital_id = column(references="cleaned_hospitals.hospital_id")
    department_id = column("The home department.", nullable=True)


class CleanedDoctorShifts(
    DatedCleanedRecord,
    name="cleaned_doctor_shifts",
    grain="one shift",
    key=("service_date", "shift_id"),
    columns="doctor_id hospital_id department_id shift_start_at shift_end_at",
):
    """Doctor shifts; the service day is the local day the shift starts."""

    department_id = column("Where the shift is worked.", nullable=True)


class CleanedPatients(
    DatedCleanedRecord,
    name="cleaned_patients",
    grain="one version of a patient record, by service day",
    key=("service_date", "patient_id", "recorded_at"),
    columns="""
        first_name last_name birth_date age_at_extract_years sex race ethnicity blood_group street city state
        zip_code phone insurer pre_existing_condition unstated
    """,
):
    """Patient record versions, by when the EHR wrote them."""

    sex = column(isin=SEXES)
    blood_group = column("Null when unknown.", isin=BLOOD_GROUPS)


class CleanedErVisits(
    DatedCleanedRecord,
    name="cleaned_er_visits",
    grain="one emergency visit",
    key=("service_date", "visit_id"),
    columns="""
        patient_id hospital_id department_name doctor_id arrival_mode arrival_at arrival_local handover_at triage_at
        triage_level room_at provider_at decision_at departure_at disposition chief_complaint
    """,
):
    """Emergency visits: the newest record of each, its clocks in UTC."""

    hospital_id = column(references="cleaned_hospitals.hospital_id")
    department_name = column("The one the visit was routed to; null when the landed name is not known.", nullable=True)
    doctor_id = column("The first provider.", nullable=True)
    arrival_mode = column(isin=ARRIVAL_MODES)
    disposition = column(isin=DISPOSITIONS)


class CleanedVitals(
    DatedCleanedRecord,
    name="cleaned_vitals",
    grain="one observation set",
    key=("service_date", "observation_id"),
    columns="""
        visit_id patient_id hospital_id device_id measured_at measured_local heart_rate_bpm respiratory_rate_per_min
        spo2_pct systolic_mmhg diastolic_mmhg temperature_c consciousness is_on_oxygen spo2_scale gcs_score
        pain_score inexact_values
    """,
):
    """Vital-sign observation sets in one unit per parameter."""

    visit_id = column(nullable=True)
    hospital_id = column(references="cleaned_hospitals.hospital_id")
    heart_rate_bpm = column(plausible=(20, 250), gt=0, lt=300)
    respiratory_rate_per_min = column(plausible=(4, 60), gt=0, lt=70)
    spo2_pct = column(plausible=(50, 100), gt=0, le=100)
    systolic_mmhg = column(plausible=(40, 300), gt=0, lt=400)
    diastolic_mmhg = column(plausible=(20, 200), gt=0, lt=300)
    temperature_c = column(plausible=(30, 43), ge=10, le=50)
    consciousness = column(isin=["A", "C", "V", "P", "U"])
    spo2_scale = column(isin=[1, 2])


class CleanedAdtEvents(
    DatedCleanedRecord,
    name="cleaned_adt_events",
    grain="one ADT message",
    key=("service_date", "message_id"),
    columns="""
        event_type visit_id patient_id patient_class prior_patient_id hospital_id department_name bed_id event_at
        visit_start_at discharge_disposition
    """,
):
    """Admission, discharge and transfer messages; the service day is that of their visit's start."""

    event_type = column(isin=ADT_EVENT_TYPES)
    visit_id = column("Null in an event about a person.", nullable=True)
    patient_class = column(isin=PATIENT_CLASSES)
    hospital_id = column(references="cleaned_hospitals.hospital_id")
    department_name = column(nullable=True)
    discharge_disposition = column(isin=DISPOSITIONS)


class CleanedDiagnoses(
    DatedCleanedRecord,
    name="cleaned_diagnoses",
    grain="one diagnosis of a visit",
    key=("service_date", "visit_id", "sequence", "icd_version", "icd_code"),
    columns="diagnosis_id patient_id hospital_id code_system description",
):
    """Coded diagnoses; the service day is that of their visit's arrival."""

    sequence = column("In the order of the records where none is stated (`sequence_derived`).")
    icd_version = column(isin=[0, 9, 10])
    code_system = column(isin=CODE_SYSTEMS)
    icd_code = column("Upper case, without the dot.", str_matches="^[A-Z0-9-]{2,18}$")


class CleanedProcedures(
    DatedCleanedRecord,
    name="cleaned_procedures",
    grain="one procedure of a visit",
    key=("service_date", "procedure_id"),
    columns="visit_id patient_id hospital_id performed_at code_system procedure_code description",
):
    """Coded procedures; the service day is that of their visit's arrival."""

    code_system = column(isin=CODE_SYSTEMS)
    procedure_code = column("Upper case, without the dot.", str_matches="^[A-Z0-9-]{2,18}$")


class QuarantinedRecord(
    Table, layer="cleaned", key=RECORD_PLACE, columns="source_profile rule reason is_duplicate record", order_by=()
):
    """A landed record that was not taken over, with the rule it broke."""

    rule = column("The one the record broke; docs/cleaning-rules.md lists them.")


class DatedQuarantinedRecord(QuarantinedRecord, partitioned=True, order_by=("service_date",)):
    """A quarantined record of a partitioned subject."""


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
        grain="one quarantined record",
    ):
        __doc__ = document

    return Quarantine


_CLEANED = (
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
)
QUARANTINES = {
    (subject := cleaned.contract().name.removeprefix("cleaned_")): _quarantine(subject, cleaned.contract().partitioned)
    for cleaned in _CLEANED
}

TABLES = (*_CLEANED, *QUARANTINES.values())
