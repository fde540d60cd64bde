"""Contracts of the patient-flow KPIs: beds, stays, readmissions.

Belongs here: KPI tables whose population are stays, segments and beds.
"""

from __future__ import annotations

import polars as pl

from hospital_assets.contracts.kpis import ALL_HOSPITALS, DailyKpi, PeriodKpi, Rate
from hospital_assets.contracts.table import Instant, Measure, Table, column

_STAYS = "stays, by month of discharge"


class KpiOccupancyDaily(
    DailyKpi,
    name="kpi_occupancy_daily",
    layer="kpis",
    grain="one day and department, and all inpatient departments of a hospital",
    key=("service_date", "department_id"),
    partitioned=True,
    measures=[
        Measure(
            "Occupancy, time-weighted",
            "Minutes patients spent in the department, of the minutes its staffed beds offered.",
            "%",
            "location segments, each department's own capacity at the time",
            "KH03; kpis: occupancy (a)",
            clock="segment start to end, cut at local midnights; days have 23 to 25 hours.",
            variants="`hourly_mean_pct` is the mean of the hours; `midnight_pct` counts patients at "
            "24:00 (NHS KH03); `peak_pct` the most at one moment. Over 100 % is possible.",
        )
    ],
):
    """Occupied beds of the day, in the variants people mean by occupancy."""

    hospital_id: pl.String = column("Hospital.")
    department_id: pl.String = column("Department, or `<hospital>-INPATIENT`.")
    department_name: pl.String = column("Department, or `all inpatient`.")
    bed_capacity: pl.Int64 = column("Staffed beds at the end of the day.", nullable=True, ge=0)
    occupied_bed_minutes: pl.Float64 = column("Minutes occupied.", unit="min", ge=0)
    staffed_bed_minutes: pl.Float64 = column(
        "Minutes offered; null where the capacity is unknown.", unit="min", nullable=True, ge=0
    )
    time_weighted_pct: pl.Float64 = column("Occupied of offered.", unit="%", nullable=True, ge=0, plausible=(0, 150))
    hourly_mean_pct: pl.Float64 = column("Mean of the hours.", unit="%", nullable=True, ge=0)
    midnight_patients_count: pl.Int64 = column("Patients at 24:00.", ge=0)
    midnight_pct: pl.Float64 = column("Of the beds then.", unit="%", nullable=True, ge=0)
    peak_patients_count: pl.Int64 = column("Most patients at one moment.", ge=0)
    peak_pct: pl.Float64 = column("Of the beds.", unit="%", nullable=True, ge=0)


class KpiDepartmentFlowDaily(
    DailyKpi,
    name="kpi_department_flow_daily",
    layer="kpis",
    grain="one day and department",
    key=("service_date", "department_id"),
    partitioned=True,
    measures=[
        Measure(
            "Department flow",
            "Patients who came, went and were there; mean census L, rate of patients per hour and "
            "mean hours W within the day, of which L is the product (Little's law).",
            "patients, h",
            "location segments that touch the day",
            "Little 1961",
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
    """What flows through each department, and how fast beds turn over."""

    hospital_id: pl.String = column("Hospital.")
    department_id: pl.String = column("Department.")
    department_name: pl.String = column("Department.")
    window_hours: pl.Float64 = column(
        "Hours the day had; of the day in progress, those that have begun.", unit="h", ge=1, le=26
    )
    patients_count: pl.Int64 = column("Segments that touch the day.", ge=0)
    inflow_count: pl.Int64 = column("Segments that start in it.", ge=0)
    outflow_count: pl.Int64 = column("Segments that end in it.", ge=0)
    patient_hours: pl.Float64 = column("Hours spent in the department.", unit="h", ge=0)
    mean_census_count: pl.Float64 = column("L: patient-hours per hour.", ge=0)
    patients_per_hour: pl.Float64 = column("Patients touching the day per hour.", unit="/h", ge=0)
    mean_hours_per_patient: pl.Float64 = column("W: hours within the day per patient.", unit="h", nullable=True, ge=0)
    turnover_per_bed: pl.Float64 = column("Left per staffed bed.", nullable=True, ge=0)
    turnover_interval_hours: pl.Float64 = column("Empty bed-hours per patient who left.", unit="h", nullable=True)
    is_bottleneck: pl.Boolean = column("At 95 % of the bed-minutes or more.")


class KpiLengthOfStay(
    PeriodKpi,
    name="kpi_length_of_stay",
    layer="kpis",
    grain="one month of discharge, hospital (and all) and class of stay",
    key=("period_month", "hospital_id", "stay_class"),
    measures=[
        Measure(
            "Length of stay",
            "Discharge date minus admission date (`hcup`: a day case is 0), the same with at least one "
            "day (`min1`), and exact hours.",
            "d, h",
            _STAYS,
            "HCUP NIS LOS; Tuva (min1)",
            clock="start of the stay until discharge; leave is not subtracted.",
            exclusions="open stays (their days so far are shown apart), discharge before start.",
        )
    ],
):
    """Length of stay in its named variants; open stays stay open."""

    hospital_id: pl.String = column(ALL_HOSPITALS)
    stay_class: pl.String = column("emergency or inpatient.")
    as_of_at: Instant = column("The moment until which open stays have lasted.")
    population_count: pl.Int64 = column("Stays; open ones in the month of `as_of_at`.", ge=1)
    excluded_open_count: pl.Int64 = column("Left out: not discharged.", ge=0)
    excluded_negative_count: pl.Int64 = column("Left out: discharge before start.", ge=0)
    denominator_count: pl.Int64 = column("n.", ge=0)
    los_hcup_days_sum: pl.Int64 = column("Sum of calendar days.", unit="d", ge=0)
    los_hcup_days_average: pl.Float64 = column("Average.", unit="d", nullable=True, ge=0)
    los_min1_days_average: pl.Float64 = column("Average, each at least one.", unit="d", nullable=True, ge=1)
    los_hours_average: pl.Float64 = column("Average.", unit="h", nullable=True, ge=0)
    los_hours_median: pl.Float64 = column("Median.", unit="h", nullable=True, ge=0)
    open_days_so_far_average: pl.Float64 = column("Of open stays, until `as_of_at`.", unit="d", nullable=True, ge=0)


class KpiOverstays(
    Rate,
    name="kpi_overstays",
    layer="kpis",
    grain="one hospital (and all) and last department (and all)",
    key=("hospital_id", "department_name"),
    measures=[
        Measure(
            "Overstays",
            "Stays of more than 50 hours, open ones until `as_of_at`.",
            "%",
            "all stays, by the department they ended or are in",
            "brief: overstays",
            exclusions="discharge before start.",
        )
    ],
):
    """Stays longer than 50 hours."""

    hospital_id: pl.String = column(ALL_HOSPITALS)
    department_name: pl.String = column("Department, or `all`.")
    as_of_at: Instant = column("The moment until which open stays have lasted.")
    excluded_negative_count: pl.Int64 = column("Left out: discharge before start.", ge=0)
    open_numerator_count: pl.Int64 = column("Of the numerator: not discharged.", ge=0)


class KpiDischargeBeforeNoonDaily(
    DailyKpi,
    Rate,
    name="kpi_discharge_before_noon_daily",
    layer="kpis",
    grain="one day the visit began, day of discharge and hospital (and all)",
    key=("service_date", "period_date", "hospital_id"),
    partitioned=True,
    measures=[
        Measure(
            "Discharged before noon",
            "Inpatient discharges alive before 12:00 on the hospital's wall clock.",
            "%",
            "inpatient stays, by day of discharge",
            "Wertheimer et al., J Hosp Med 2014",
            exclusions="not discharged; died.",
        )
    ],
):
    """Inpatients who left before noon."""

    period_date: pl.Date = column("Local day of discharge; the day the stay began while open.")
    hospital_id: pl.String = column(ALL_HOSPITALS)
    excluded_open_count: pl.Int64 = column("Left out: not discharged.", ge=0)
    excluded_expired_count: pl.Int64 = column("Left out: died.", ge=0)


class KpiReadmissions(
    PeriodKpi,
    Rate,
    name="kpi_readmissions",
    layer="kpis",
    grain="one month of index discharge and hospital (and all)",
    key=("period_month", "hospital_id"),
    measures=[
        Measure(
            "30-day readmissions",
            "Index stays whose first following stay, within 30 days of discharge, is unplanned.",
            "%",
            "inpatient stays, by month of discharge",
            "CMS HWR; Tuva readmissions",
            clock="local discharge date until the next admission date of the same person (merged "
            "numbers are one person): day 0 to 30.",
            exclusions="not discharged, died, against advice, transferred (another hospital on the "
            "same or next day: the outcome is the last hospital's), same-day stay for the same "
            "condition at the same hospital (the later one is the index), medical cancer treatment, "
            "patient unknown, less than 30 days of data after discharge.",
            variants="a planned first readmission hides later ones; a readmission may itself be an "
            "index. Planned: chemo- and radiotherapy, rehabilitation, transplantation.",
        )
    ],
):
    """Unplanned readmissions within 30 days, by the hospital-wide rules."""

    hospital_id: pl.String = column(ALL_HOSPITALS)
    excluded_open_count: pl.Int64 = column("Left out: not discharged.", ge=0)
    excluded_expired_count: pl.Int64 = column("Left out: died.", ge=0)
    excluded_against_advice_count: pl.Int64 = column("Left out: left against advice.", ge=0)
    excluded_transferred_count: pl.Int64 = column("Left out: transferred.", ge=0)
    excluded_continued_count: pl.Int64 = column("Left out: came back the same day for the same condition.", ge=0)
    excluded_cancer_count: pl.Int64 = column("Left out: medical cancer treatment.", ge=0)
    excluded_unknown_patient_count: pl.Int64 = column("Left out: patient unknown.", ge=0)
    excluded_run_out_count: pl.Int64 = column("Left out: the 30 days are not over.", ge=0)


TABLES: tuple[type[Table], ...] = (
    KpiOccupancyDaily,
    KpiDepartmentFlowDaily,
    KpiLengthOfStay,
    KpiOverstays,
    KpiDischargeBeforeNoonDaily,
    KpiReadmissions,
)
