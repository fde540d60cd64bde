"""Contracts of the facts: what happened, at the finest grain, with its dimension keys.

Belongs here: fact tables. Facts keep full instants beside date and time keys, carry measures that
add up, and say why a measure is missing. No averages here.
"""

from __future__ import annotations

from typing import Literal, get_args

from hospital_assets.contracts.table import Measure, Table, column
from hospital_assets.measures import news2
from hospital_assets.measures.waits import WAIT_EXCLUSIONS

STAY_CLASSES = ["emergency", "inpatient"]
AuditAction = Literal[
    "query",
    "publish",
    "view",
    "login",
    "logout",
    "user",
    "key",
    "restore",
    "backup",
    "erase",
    "export",
    "acknowledge",
    "snapshot",
    "lake",
    "audit",
    "upgrade",
]
AuditOutcome = Literal["allowed", "refused", "failed"]


class DatedFact(Table, layer="facts", partitioned=True):
    """A fact row of a local service day."""


class FactEmergencyVisits(
    DatedFact,
    name="fact_emergency_visits",
    grain="one emergency visit (accumulating snapshot)",
    key=("visit_id",),
    columns="""
        patient_key hospital_key department_key doctor_key triage_key condition_key arrival_date_key
        arrival_time_key provider_date_key departure_date_key arrival_at arrival_local handover_at triage_at room_at
        provider_at decision_at departure_at arrival_mode disposition triage_level is_critical is_lwbs is_open
        is_cancelled age_years wait_minutes wait_exclusion treatment_minutes los_minutes four_hour_minutes
        room_minutes boarding_minutes quality_codes undelivered
    """,
    order_by=("service_date", "hospital_key", "arrival_at", "visit_id"),
    measures=[
        Measure(
            "Visits",
            "Emergency visits one by one, with what their figures are computed from.",
            "visits",
            "all visits by local day of arrival, cancelled ones included",
            "registration (HL7 v2 A04; FHIR Encounter of class EMER)",
        ),
        Measure(
            "Distribution of waits",
            "Visits with a valid wait by half-hours from door to provider (`wait_minutes`).",
            "visits",
            "single visits of the last days of a period that were not cancelled",
            "CIHI and Ontario indicator library",
            clock="as door-to-provider wait.",
            exclusions="visits without a valid wait, by `wait_exclusion`.",
        ),
        Measure(
            "Waits by hour of arrival",
            "Median, 10th and 90th percentile of the door-to-provider wait by local hour of arrival.",
            "min",
            "single visits of the last days of a period that were not cancelled",
            "CIHI and Ontario indicator library",
            clock="as door-to-provider wait.",
            exclusions="visits without a valid wait; hours with few visits are not shown.",
        ),
        Measure(
            "Visits by age and sex",
            "Visits by ten-year age band on the day of arrival and sex.",
            "visits",
            "single visits of the last days of a period that were not cancelled",
            "as kpi_demographics",
            exclusions="visits of unknown age.",
        ),
        Measure(
            "Waits by patient group",
            "Average door-to-provider wait by race, ethnicity and sex, with the interval that chance allows.",
            "min",
            "single visits of the last days of a period that were not cancelled",
            "CIHI and Ontario indicator library",
            clock="as door-to-provider wait.",
            exclusions="visits without a valid wait; groups of few are not shown.",
            variants="not adjusted for triage level, age or hour.",
        ),
    ],
):
    """Emergency visits with their clocks and the minutes between them."""

    visit_id = column("A degenerate dimension.")
    patient_key = column("As of arrival.")
    department_key = column("The one the visit was routed to, as of arrival.")
    doctor_key = column("The first provider; -2 while nobody has seen the patient.")
    condition_key = column("The principal diagnosis; -2 while none is coded.")
    is_open = column("No departure is recorded.")
    age_years = column("On the day of arrival.", ge=0, le=125)
    wait_exclusion = column(isin=[*WAIT_EXCLUSIONS])


class FactVitals(
    DatedFact,
    name="fact_vitals",
    grain="one observation set",
    key=("observation_id",),
    columns="""
        visit_id patient_key hospital_key measured_date_key measured_time_key measured_at heart_rate_bpm
        respiratory_rate_per_min spo2_pct systolic_mmhg diastolic_mmhg temperature_c consciousness is_on_oxygen
        spo2_scale age_years news2_score news2_missing_count has_news2_red_parameter news2_response quality_codes
    """,
    order_by=("service_date", "hospital_key", "measured_at", "observation_id"),
):
    """Vital signs with their NEWS2 score."""

    visit_id = column(nullable=True)
    patient_key = column("As of the measurement.")
    spo2_scale = column("1 where none is set.", nullable=False, isin=[1, 2])
    age_years = column("On the day of the measurement.")
    news2_response = column(isin=[*news2.RESPONSES])


class FactPatientFlow(
    DatedFact,
    name="fact_patient_flow",
    grain="one location segment of a stay",
    key=("stay_id", "segment_number"),
    columns="""
        patient_key hospital_key department_key start_date_key end_date_key bed_id stay_class segment_start_at
        segment_end_at segment_hours stay_start_at stay_end_at length_of_stay_hours is_open discharge_disposition
        undelivered
    """,
    order_by=("service_date", "hospital_key", "stay_id", "segment_number"),
):
    """Where each patient was, from when to when, folded from ADT events."""

    patient_key = column("As of the stay's start.")
    department_key = column("As of the segment's start.")
    start_date_key = column("Of the segment.")
    stay_class = column(isin=STAY_CLASSES)
    is_open = column("The patient is not discharged.")


class FactBedOccupancy(
    DatedFact,
    name="fact_bed_occupancy",
    grain="one department and hour (periodic snapshot)",
    key=("department_id", "hour_start_at"),
    columns="""
        hospital_key department_key date_key hour_start_local hour_minutes occupied_bed_minutes staffed_bed_minutes
        patients_at_start_count arrivals_count departures_count
    """,
    order_by=("service_date", "hospital_key", "department_key", "hour_start_at"),
    measures=[
        Measure(
            "Patients by hour",
            "Patients in the department at the start of each hour, and the beds staffed at that time.",
            "patients",
            "departments and hours of the last seven days of a period",
            "periodic snapshot of location segments",
        )
    ],
):
    """Beds occupied and staffed in each department and hour that has begun."""

    department_key = column("As of the hour.")
    occupied_bed_minutes = column("Within the hour.")
    arrivals_count = column("Patients who came within the hour; moves from bed to bed are none.")


class _DoctorShift(
    Table,
    layer="facts",
    key=("shift_id",),
    columns="""
        service_date doctor_key hospital_key department_key start_date_key shift_start_at shift_end_at shift_hours
        recorded_at
    """,
    order_by=("service_date", "hospital_key", "shift_id"),
):
    """Where and when a doctor works."""

    department_key = column("Where the shift is worked; the doctor's own department where that is not given.")
    start_date_key = column("Of the shift.")
    shift_hours = column(plausible=(1, 24), gt=0)


class FactDoctorShifts(_DoctorShift, name="fact_doctor_shifts", grain="one doctor shift", partitioned=True):
    """Hours doctors were on shift."""


class FactDoctorShiftsAhead(
    _DoctorShift, name="fact_doctor_shifts_ahead", grain="one doctor shift of a day that has not come"
):
    """Shifts planned for the days after the last service day, by which waits ahead are simulated."""


class StalePartitions(
    Table,
    name="stale_partitions",
    layer="facts",
    grain="one table and service day",
    key=("table_name", "stale_date"),
    columns="row_count",
):
    """Days whose stored facts do not agree with today's dimensions and flow, or KPIs with the time; often empty."""

    row_count = column("Those that would be different now.", ge=1)


class FactAlerts(
    Table,
    name="fact_alerts",
    layer="facts",
    grain="one alert",
    key=("alert_id",),
    columns="""
        rule severity alert_state hospital_key department_name value worst_value threshold unit observed_at
        opened_at acknowledged_at resolved_at open_minutes occurrence_count
    """,
    order_by=("opened_at", "alert_id"),
):
    """Alerts that were raised, as the outbox had them at the last build (accumulating snapshot)."""

    rule = column("The one that raised the alert.")
    severity = column(isin=["critical", "error", "warning"])
    alert_state = column(isin=["open", "acknowledged", "resolved"])
    hospital_key = column("-1 for alerts of the platform itself.")
    department_name = column(nullable=True)
    value = column("When last seen, in `unit`.")


class FactAuditEvents(
    Table,
    name="fact_audit_events",
    layer="facts",
    grain="one audited event",
    key=("sequence_number",),
    columns="""
        occurred_at actor role action audience version statement statement_sha256 objects row_count duration_ms
        outcome outcome_reason client
    """,
):
    """The audit log: who did what to which tables and columns, and whether it was allowed."""

    occurred_at = column("By this machine's clock.")
    action = column(isin=get_args(AuditAction))
    row_count = column("Returned or written.", nullable=True)
    outcome = column(isin=get_args(AuditOutcome))


TABLES = (
    FactAlerts,
    FactAuditEvents,
    FactEmergencyVisits,
    FactVitals,
    FactPatientFlow,
    FactBedOccupancy,
    StalePartitions,
    FactDoctorShifts,
    FactDoctorShiftsAhead,
)
