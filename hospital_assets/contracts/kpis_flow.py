"""Contracts of the patient-flow KPIs: beds, stays, readmissions.

Belongs here: KPI tables whose population are stays, segments and beds.
"""

from __future__ import annotations

from hospital_assets.contracts.kpis import DailyKpi, PeriodKpi, Rate
from hospital_assets.contracts.table import Measure, Table, column
from hospital_assets.measures.thresholds import (
    INPATIENT_OVERSTAY_HOURS,
    LONGEST_OPEN_STAY_HOURS,
    LONGEST_PRESENCE_HOURS,
    NOON_HOUR,
    OVERSTAY_HOURS,
    READMISSION_DAYS,
)

_STAYS = "stays, by month of discharge"
_UNTIL = (
    f"who has no recorded end counts as there until {LONGEST_PRESENCE_HOURS} hours after an emergency segment began, "
    f"{LONGEST_OPEN_STAY_HOURS / 24:g} days after an inpatient one"
)


class KpiOccupancyDaily(
    DailyKpi,
    name="kpi_occupancy_daily",
    grain="one day and department, and all inpatient departments of a hospital",
    key=("service_date", "department_id"),
    columns="""
        hospital_id department_name bed_capacity occupied_bed_minutes staffed_bed_minutes time_weighted_pct
        hourly_mean_pct midnight_patients_count came_at_midnight_count midnight_pct peak_patients_count peak_pct
    """,
    measures=[
        Measure(
            "Occupancy, time-weighted",
            "Minutes patients spent in the department, as a share of the minutes its staffed beds offered.",
            "%",
            "location segments, each department's own capacity at the time",
            "KH03; kpis: occupancy (a)",
            clock="segment start to end, cut at local midnights; hours are those of the local wall clock, whatever the "
            "zone's offset, and a day is as long as it was there: 23 or 25 hours when the clock changes, 22 or 26 at "
            "Troll, 23.5 or 24.5 on Lord Howe (a bed that is full all of its long day: 1,470 minutes); beds count from "
            "the department's first effective date; "
            f"{_UNTIL}.",
            variants="`hourly_mean_pct` is the mean of the hours; `midnight_pct` counts patients at 24:00 (NHS KH03): "
            "who leaves at 24:00 sharp is gone, who comes then is there (the next day's arrival); `peak_pct` the "
            "most at one moment. Over 100 % is possible.",
        )
    ],
):
    """Occupied beds of the day, in the common variants of occupancy."""

    department_id = column("`<hospital>-INPATIENT` pools the inpatient ones.")
    department_name = column("`all inpatient` pools the inpatient ones.")
    bed_capacity = column("At the end of the day.")


class KpiDepartmentFlowDaily(
    DailyKpi,
    name="kpi_department_flow_daily",
    grain="one day and department",
    key=("service_date", "department_id"),
    columns="""
        hospital_id department_name window_hours patients_count inflow_count outflow_count lapsed_count patient_hours
        mean_census_count patients_per_hour mean_hours_per_patient turnover_per_bed turnover_interval_hours
        is_bottleneck
    """,
    measures=[
        Measure(
            "Department flow",
            "Patients who came, left and were present; mean census L, rate of patients per hour and "
            "mean hours W within the day, of which L is the product (Little's law).",
            "patients, h",
            "patients in the department at some time of the day, also those who came and went at one moment; moves "
            "from bed to bed within it are no arrivals",
            "Little 1961",
            clock=f"as occupancy: {_UNTIL}, and is then in `lapsed_count`, not among those who left.",
        ),
        Measure(
            "Bed turnover",
            "Patients who left per staffed bed; the interval is the empty bed-hours per patient who "
            "left (negative: more patients than beds).",
            "/bed, h",
            "as department flow",
            "NHS England bed turnover interval",
        ),
    ],
):
    """Patients entering, in and leaving each department, and how fast beds turn over."""


class KpiLengthOfStay(
    PeriodKpi,
    name="kpi_length_of_stay",
    grain="one month of discharge, hospital (and all) and class of stay",
    key=("period_month", "hospital_id", "stay_class"),
    columns="""
        as_of_at population_count excluded_open_count excluded_lapsed_count excluded_negative_count denominator_count
        los_hcup_days_sum
        los_hcup_days_average los_min1_days_average los_hours_average los_hours_median open_days_so_far_average
    """,
    measures=[
        Measure(
            "Length of stay",
            "Discharge date minus admission date (`hcup`: a day case is 0), the same with at least one "
            "day (`min1`), and exact hours.",
            "d, h",
            _STAYS,
            "HCUP NIS LOS; Tuva (min1)",
            clock="start of the stay until discharge; leave is not subtracted.",
            exclusions="open stays (their days so far are shown separately), those open for longer than a stay can "
            "last (see department flow), discharge before start.",
        )
    ],
):
    """Length of stay in its named variants; open stays stay open."""

    population_count = column("Stays; open ones in the month of `as_of_at`.", ge=1)
    excluded_negative_count = column("Discharge before the start.")


class KpiOverstays(
    Rate,
    name="kpi_overstays",
    grain="one hospital (and all) and last department (and all)",
    key=("hospital_id", "department_name"),
    columns="as_of_at excluded_lapsed_count excluded_negative_count open_numerator_count",
    measures=[
        Measure(
            "Overstays",
            f"Emergency stays of more than {OVERSTAY_HOURS:g} hours and inpatient stays of more than "
            f"{INPATIENT_OVERSTAY_HOURS / 24:g} days; open ones until `as_of_at`.",
            "%",
            "all stays, by the department they ended or are in",
            "local (emergency); NHS England, long lengths of stay (inpatient)",
            exclusions="discharge before start; open for longer than a stay can last (see department flow).",
        )
    ],
):
    """Stays that last too long."""

    excluded_negative_count = column("Discharge before the start.")


class KpiDischargeBeforeNoonDaily(
    DailyKpi,
    Rate,
    name="kpi_discharge_before_noon_daily",
    grain="one day the visit began, day of discharge and hospital (and all)",
    key=("service_date", "period_date", "hospital_id"),
    columns="excluded_open_count excluded_untimed_count excluded_expired_count excluded_undelivered_count",
    needs="adt_events.discharge_disposition",
    measures=[
        Measure(
            "Discharged before noon",
            f"Inpatient discharges alive before {NOON_HOUR}:00 on the hospital's wall clock.",
            "%",
            "inpatient stays, by day of discharge",
            "Wertheimer et al., J Hosp Med 2014",
            exclusions="not discharged; died; discharge, or the move before it, known by its day only.",
        )
    ],
):
    """Inpatients who left before noon."""

    period_date = column("Of discharge; the day the stay began while it is open.")


class KpiReadmissions(
    PeriodKpi,
    Rate,
    name="kpi_readmissions",
    grain="one month of index discharge and hospital (and all)",
    key=("period_month", "hospital_id"),
    columns="""
        excluded_open_count excluded_expired_count excluded_against_advice_count excluded_transferred_count
        excluded_continued_count excluded_cancer_count excluded_unknown_patient_count excluded_overlapping_count
        excluded_run_out_count excluded_undelivered_count
    """,
    needs="adt_events.discharge_disposition diagnoses",
    measures=[
        Measure(
            f"{READMISSION_DAYS}-day readmissions",
            f"Index stays whose first following stay, within {READMISSION_DAYS} days of discharge, is unplanned.",
            "%",
            "inpatient stays, by month of discharge",
            "CMS HWR; Tuva readmissions",
            clock="local discharge date until the date of the first admission after discharge of the same person "
            f"(merged numbers are one person): day 0 to {READMISSION_DAYS}; an admission at the very moment of "
            "discharge is the first. A stay of no length is nested where another one is under way or begins.",
            exclusions="not discharged, died, another stay of the person under way at discharge (nested or "
            "overlapping: the one that ends last is the index; of those that end together the one that began last, "
            "then that of the higher number), against advice, transferred (another hospital on the "
            "same or next day: the outcome is the last hospital's), same-day stay for the same "
            "condition at the same hospital (the later one is the index; without codes nothing is the same), "
            "medical cancer treatment (ICD-10 C00-C96, D00-D09, D37-D49, CCS 11-44 as in CMS HWR, without surgery; "
            "benign neoplasms are none), "
            f"patient unknown, less than {READMISSION_DAYS} days of data after discharge.",
            variants="a planned first readmission hides later ones; a readmission may itself be an "
            "index. The condition is the principal diagnosis of the stay's own codes, whether or not it began in the "
            "emergency department. Planned: chemo- and radiotherapy, rehabilitation, transplantation.",
        )
    ],
):
    """Unplanned readmissions by the hospital-wide rules."""

    excluded_overlapping_count = column("Another stay of the person was under way at discharge.")
    excluded_run_out_count = column(f"The {READMISSION_DAYS} days are not over.")


TABLES: tuple[type[Table], ...] = (
    KpiOccupancyDaily,
    KpiDepartmentFlowDaily,
    KpiLengthOfStay,
    KpiOverstays,
    KpiDischargeBeforeNoonDaily,
    KpiReadmissions,
)
