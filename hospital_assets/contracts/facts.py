"""Contracts of the facts: what happened, at the finest grain, with its dimension keys.

Belongs here: fact tables. Facts keep full instants beside date and time keys, carry measures that
add up, and say why a measure is missing. No averages here.
"""

from __future__ import annotations

from typing import Literal, get_args

import polars as pl

from hospital_assets.contracts.table import Instant, Table, WallClock, column

WAIT_EXCLUSIONS = ["cancelled", "no_provider", "no_start", "negative", "too_long"]
STAY_CLASSES = ["emergency", "inpatient"]
AuditAction = Literal[
    "query", "publish", "view", "login", "user", "key", "restore", "erase", "export", "acknowledge", "snapshot"
]
AuditOutcome = Literal["allowed", "refused", "failed"]
NEWS2_RESPONSES = ["low", "urgent_ward_review", "urgent", "emergency"]


class DatedFact(Table):
    """A fact row of a local service day."""

    service_date: pl.Date = column("Local service day; the partition.")


class FactEmergencyVisits(
    DatedFact,
    name="fact_emergency_visits",
    layer="facts",
    grain="one emergency visit (accumulating snapshot)",
    key=("visit_id",),
    partitioned=True,
    order_by=("service_date", "hospital_key", "arrival_at", "visit_id"),
):
    """Emergency visits with their clocks and the minutes between them."""

    visit_id: pl.String = column("Visit number (degenerate dimension).", privacy="direct_identifier")
    patient_key: pl.Int64 = column(
        "Patient as of arrival.", references="dim_patient.patient_key", privacy="quasi_identifier"
    )
    hospital_key: pl.Int64 = column("Hospital.", references="dim_hospital.hospital_key")
    department_key: pl.Int64 = column(
        "Department the visit was routed to, as of arrival.", references="dim_department.department_key"
    )
    doctor_key: pl.Int64 = column(
        "First provider; -2 while nobody has seen the patient.", references="dim_doctor.doctor_key"
    )
    triage_key: pl.Int64 = column("Triage level; -1 untriaged.", references="dim_triage.triage_key")
    condition_key: pl.Int64 = column(
        "Principal diagnosis; -2 while none is coded.", references="dim_condition.condition_key"
    )
    arrival_date_key: pl.Int64 = column("Local day of arrival.", references="dim_date.date_key")
    arrival_time_key: pl.Int64 = column("Local minute of arrival.", references="dim_time.time_key")
    provider_date_key: pl.Int64 = column("Local day of first provider contact.", references="dim_date.date_key")
    departure_date_key: pl.Int64 = column("Local day of departure.", references="dim_date.date_key")
    arrival_at: Instant = column("Arrival.")
    arrival_local: WallClock = column("Arrival on the hospital's wall clock.")
    handover_at: Instant = column("Ambulance handover.", nullable=True)
    triage_at: Instant = column("Triage.", nullable=True)
    room_at: Instant = column("Start in a treatment room.", nullable=True)
    provider_at: Instant = column("First provider contact.", nullable=True)
    decision_at: Instant = column("Disposition decision.", nullable=True)
    departure_at: Instant = column("Physical departure.", nullable=True)
    arrival_mode: pl.String = column("How the patient arrived.")
    disposition: pl.String = column("How the visit ended; null while open.", nullable=True)
    triage_level: pl.Int64 = column("Triage level.", nullable=True, ge=1, le=5)
    is_critical: pl.Boolean = column("Triage level 1 or 2.")
    is_lwbs: pl.Boolean = column("Left without being seen.", source="NQF 0499")
    is_open: pl.Boolean = column("No departure recorded yet.")
    is_cancelled: pl.Boolean = column("The registration was cancelled.", source="HL7 A11")
    age_years: pl.Int64 = column(
        "Age in completed years on the local day of arrival; null when unknown.",
        unit="a",
        nullable=True,
        ge=0,
        le=125,
        privacy="quasi_identifier",
    )
    wait_minutes: pl.Float64 = column(
        "Door to provider: earlier of triage and arrival until first provider contact.",
        unit="min",
        nullable=True,
        ge=0,
        source="CIHI/Ontario PIA",
        plausible=(0, 1440),
    )
    wait_exclusion: pl.String = column(
        "Why the visit has no valid wait; null when it has one.", nullable=True, isin=WAIT_EXCLUSIONS
    )
    treatment_minutes: pl.Float64 = column(
        "First provider contact until the disposition decision (departure where no decision is "
        "recorded); never the whole stay.",
        unit="min",
        nullable=True,
        ge=0,
        plausible=(0, 2880),
    )
    los_minutes: pl.Float64 = column(
        "Arrival until physical departure; null while open or when departure precedes arrival.",
        unit="min",
        nullable=True,
        ge=0,
        source="NQF 0496 (OP-18)",
        plausible=(0, 4320),
    )
    four_hour_minutes: pl.Float64 = column(
        "Start of the four-hour clock (walk-in: arrival; ambulance: handover, at the latest 15 "
        "minutes after arrival) until departure; null while open or when departure is earlier.",
        unit="min",
        nullable=True,
        ge=0,
        source="NHS ECDS",
    )
    room_minutes: pl.Float64 = column(
        "Arrival until a treatment room.", unit="min", nullable=True, ge=0, source="CMS1244"
    )
    boarding_minutes: pl.Float64 = column(
        "Decision until departure of admitted patients.", unit="min", nullable=True, ge=0, source="CMS111v9 (ED-2)"
    )
    quality_codes: pl.String = column("Doubts and corrections of the record, as `code;code`.")


class FactVitals(
    DatedFact,
    name="fact_vitals",
    layer="facts",
    grain="one observation set",
    key=("observation_id",),
    partitioned=True,
    order_by=("service_date", "hospital_key", "measured_at", "observation_id"),
):
    """Vital signs with their NEWS2 score."""

    observation_id: pl.String = column("Observation set.", privacy="direct_identifier")
    visit_id: pl.String = column("Visit number.", nullable=True, privacy="direct_identifier")
    patient_key: pl.Int64 = column(
        "Patient as of the measurement.", references="dim_patient.patient_key", privacy="quasi_identifier"
    )
    hospital_key: pl.Int64 = column("Hospital.", references="dim_hospital.hospital_key")
    measured_date_key: pl.Int64 = column("Local day.", references="dim_date.date_key")
    measured_time_key: pl.Int64 = column("Local minute.", references="dim_time.time_key")
    measured_at: Instant = column("When it was measured.")
    heart_rate_bpm: pl.Float64 = column("Heart rate.", unit="/min", nullable=True, privacy="clinical")
    respiratory_rate_per_min: pl.Float64 = column("Respiratory rate.", unit="/min", nullable=True, privacy="clinical")
    spo2_pct: pl.Float64 = column("Oxygen saturation.", unit="%", nullable=True, privacy="clinical")
    systolic_mmhg: pl.Float64 = column("Systolic pressure.", unit="mm[Hg]", nullable=True, privacy="clinical")
    diastolic_mmhg: pl.Float64 = column("Diastolic pressure.", unit="mm[Hg]", nullable=True, privacy="clinical")
    temperature_c: pl.Float64 = column("Temperature.", unit="Cel", nullable=True, privacy="clinical")
    consciousness: pl.String = column("ACVPU.", nullable=True, privacy="clinical")
    is_on_oxygen: pl.Boolean = column("On supplemental oxygen.", nullable=True, privacy="clinical")
    spo2_scale: pl.Int64 = column("SpO2 scale used; 1 unless set to 2 by a clinician.", isin=[1, 2])
    age_years: pl.Int64 = column(
        "Age on the local day of the measurement.", unit="a", nullable=True, privacy="quasi_identifier"
    )
    news2_score: pl.Int64 = column(
        "NEWS2 total; null when a parameter is missing or the patient is under 16 or of unknown age.",
        nullable=True,
        ge=0,
        le=20,
        source="RCP NEWS2 2017",
        privacy="clinical",
    )
    news2_missing_count: pl.Int64 = column("How many of the seven parameters are missing.", ge=0, le=7)
    has_news2_red_parameter: pl.Boolean = column(
        "Whether any measured parameter scores 3 (valid even when others are missing); null where "
        "NEWS2 does not apply.",
        nullable=True,
        privacy="clinical",
    )
    news2_response: pl.String = column(
        "Clinical response the score asks for.", nullable=True, isin=NEWS2_RESPONSES, privacy="clinical"
    )
    quality_codes: pl.String = column("Doubts and corrections of the record, as `code;code`.")


class FactPatientFlow(
    DatedFact,
    name="fact_patient_flow",
    layer="facts",
    grain="one location segment of a stay",
    key=("stay_id", "segment_number"),
    partitioned=True,
    order_by=("service_date", "hospital_key", "stay_id", "segment_number"),
):
    """Where each patient was, from when to when, folded from ADT events."""

    stay_id: pl.String = column("Visit number of the stay.", privacy="direct_identifier")
    segment_number: pl.Int64 = column("Order within the stay, from 1.", ge=1)
    patient_key: pl.Int64 = column(
        "Patient as of the stay's start.", references="dim_patient.patient_key", privacy="quasi_identifier"
    )
    hospital_key: pl.Int64 = column("Hospital.", references="dim_hospital.hospital_key")
    department_key: pl.Int64 = column(
        "Department as of the segment's start.", references="dim_department.department_key"
    )
    start_date_key: pl.Int64 = column("Local day the segment starts.", references="dim_date.date_key")
    end_date_key: pl.Int64 = column("Local day the segment ends.", references="dim_date.date_key")
    bed_id: pl.String = column("Bed.", nullable=True)
    stay_class: pl.String = column("Emergency until admitted, then inpatient.", isin=STAY_CLASSES)
    segment_start_at: Instant = column("Start of the segment.")
    segment_end_at: Instant = column("End of the segment; null while it lasts.", nullable=True)
    segment_hours: pl.Float64 = column("Length of the segment.", unit="h", nullable=True, ge=0)
    stay_start_at: Instant = column("Start of the stay.")
    stay_end_at: Instant = column("Discharge; null while the stay is open.", nullable=True)
    length_of_stay_hours: pl.Float64 = column(
        "Stay start until discharge, on the last segment only, so that it adds up.", unit="h", nullable=True, ge=0
    )
    is_open: pl.Boolean = column("Not discharged yet.")
    discharge_disposition: pl.String = column("How the stay ended.", nullable=True)


class FactBedOccupancy(
    DatedFact,
    name="fact_bed_occupancy",
    layer="facts",
    grain="one department and hour (periodic snapshot)",
    key=("department_id", "hour_start_at"),
    partitioned=True,
    order_by=("service_date", "hospital_key", "department_key", "hour_start_at"),
):
    """Beds occupied and staffed in each department and hour that has begun."""

    hospital_key: pl.Int64 = column("Hospital.", references="dim_hospital.hospital_key")
    department_key: pl.Int64 = column("Department as of the hour.", references="dim_department.department_key")
    department_id: pl.String = column("Department, natural key.")
    date_key: pl.Int64 = column("Local day.", references="dim_date.date_key")
    hour_start_at: Instant = column("Start of the hour.")
    hour_start_local: WallClock = column("Start of the hour on the wall clock; not unique on the day clocks go back.")
    occupied_bed_minutes: pl.Float64 = column(
        "Minutes patients spent in the department within the hour.", unit="min", ge=0
    )
    staffed_bed_minutes: pl.Float64 = column(
        "Staffed beds times 60 minutes; null where the capacity is unknown.", unit="min", nullable=True, ge=0
    )
    patients_at_start_count: pl.Int64 = column("Census at the start of the hour.", ge=0)
    arrivals_count: pl.Int64 = column("Segments that start within the hour.", ge=0)
    departures_count: pl.Int64 = column("Segments that end within the hour.", ge=0)


class FactDoctorShifts(
    DatedFact,
    name="fact_doctor_shifts",
    layer="facts",
    grain="one doctor shift",
    key=("shift_id",),
    partitioned=True,
    order_by=("service_date", "hospital_key", "shift_id"),
):
    """Hours doctors were on shift."""

    shift_id: pl.String = column("Shift.")
    doctor_key: pl.Int64 = column("Doctor.", references="dim_doctor.doctor_key")
    hospital_key: pl.Int64 = column("Hospital.", references="dim_hospital.hospital_key")
    start_date_key: pl.Int64 = column("Local day the shift starts.", references="dim_date.date_key")
    shift_start_at: Instant = column("Start.")
    shift_end_at: Instant = column("End.")
    shift_hours: pl.Float64 = column("Length.", unit="h", gt=0, plausible=(1, 24))


class UnsettledDays(
    Table,
    name="unsettled_days",
    layer="facts",
    grain="one fact table and service day",
    key=("table_name", "unsettled_date"),
):
    """Days whose stored facts do not agree with today's dimensions and flow; empty when settled."""

    table_name: pl.String = column("Fact table.")
    unsettled_date: pl.Date = column("Service day to refresh.")
    row_count: pl.Int64 = column("Rows that would be different now.", ge=1)


class FactAlerts(
    Table, name="fact_alerts", layer="facts", grain="one alert", key=("alert_id",), order_by=("opened_at", "alert_id")
):
    """Alerts that were raised, as the outbox had them at the last build (accumulating snapshot)."""

    alert_id: pl.String = column("The alert's own number; the same in every message about it.")
    rule: pl.String = column("Rule that raised it.")
    severity: pl.String = column("How urgent.", isin=["critical", "error", "warning"])
    state: pl.String = column("Where it stands.", isin=["open", "acknowledged", "resolved"])
    hospital_key: pl.Int64 = column(
        "Hospital; -1 for alerts of the platform itself.", references="dim_hospital.hospital_key"
    )
    department_name: pl.String = column("Department.", nullable=True)
    value: pl.Float64 = column("The figure when last seen, in `unit`.", nullable=True)
    worst_value: pl.Float64 = column("The worst figure while it lasted.", nullable=True)
    threshold: pl.Float64 = column("What the figure was compared with.", nullable=True)
    unit: pl.String = column("Unit of the figures.", nullable=True)
    observed_at: Instant = column("When it was so, in the hospital's time.")
    opened_at: Instant = column("When it was raised.")
    acknowledged_at: Instant = column("When somebody took care of it.", nullable=True)
    resolved_at: Instant = column("When it was over; null while it lasts.", nullable=True)
    open_minutes: pl.Float64 = column("Raised until over; null while it lasts.", unit="min", nullable=True, ge=0)
    occurrence_count: pl.Int64 = column("How often it came back within its cooldown.", ge=1)


class FactAuditEvents(
    Table, name="fact_audit_events", layer="facts", grain="one audited event", key=("sequence_number",)
):
    """Who did what to which tables and columns, and whether they might; as the audit has it."""

    sequence_number: pl.Int64 = column("Place in the chain, from 1.", ge=1)
    occurred_at: Instant = column("When, by the wall clock.")
    actor: pl.String = column("Who.", privacy="quasi_identifier")
    role: pl.String = column("In which role; empty where none was needed.")
    action: pl.String = column("What kind of thing.", isin=get_args(AuditAction))
    audience: pl.String = column("Whose publication it was about.")
    version: pl.String = column("Which version of it.")
    statement: pl.String = column("What was asked for; cut at 4,000 characters.", privacy="free_text")
    statement_sha256: pl.String = column("Hash of all of it.")
    objects: pl.String = column(
        "Base tables and the columns of each that were read, as JSON.", source="Snowflake ACCESS_HISTORY"
    )
    row_count: pl.Int64 = column("Rows returned or written.", nullable=True, ge=0)
    duration_ms: pl.Float64 = column("How long it took.", unit="ms", nullable=True, ge=0)
    outcome: pl.String = column("Whether it might.", isin=get_args(AuditOutcome))
    reason: pl.String = column("Why not.", privacy="free_text")
    client: pl.String = column("Where from.", privacy="quasi_identifier")


TABLES = (
    FactAlerts,
    FactAuditEvents,
    FactEmergencyVisits,
    FactVitals,
    FactPatientFlow,
    FactBedOccupancy,
    UnsettledDays,
    FactDoctorShifts,
)
