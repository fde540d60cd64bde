"""Contracts of the KPIs: what a hospital acts on, each with its n and what was left out.

Belongs here: what all KPI tables share, and those about waits, arrivals, cases and people; emergency
rates are in `kpis_emergency`, beds and stays in `kpis_flow`. Daily tables carry sums and counts (they add
up); the others read the daily tables or the facts and carry shares, averages and ranks. `all` in a key
column means the row pools all values of that column.
"""

from __future__ import annotations

import polars as pl

from hospital_assets.contracts.table import Measure, Table, column

ALL = "all"
ALL_HOSPITALS = "Hospital, or `all`."


class DailyKpi(Table):
    """A KPI row of a local service day."""

    service_date: pl.Date = column("Local service day; the partition.")


class PeriodKpi(Table):
    """A KPI row of a calendar month."""

    period_month: pl.Date = column("First local day of the month.")


class Rate(Table):
    """A share: of whom, how many, and who was left out (`excluded_*` of each table)."""

    population_count: pl.Int64 = column("All who were looked at.", ge=0)
    denominator_count: pl.Int64 = column("n: the population without those left out.", ge=0)
    numerator_count: pl.Int64 = column("Of n, those the measure counts.", ge=0)
    value_pct: pl.Float64 = column("Numerator of denominator; null when n is 0.", unit="%", nullable=True, ge=0, le=100)


WAITS = Measure(
    "Door-to-provider wait (PIA)",
    "Sum, average, median, 90th percentile and longest of the waits.",
    "min",
    "all visits",
    "CIHI and Ontario indicator library",
    clock="earlier of triage and registration until first assessment by a physician, NP or PA.",
    exclusions="cancelled; no provider (left unseen, open); no start; provider before the patient; "
    "100,000 minutes or more.",
)


WAIT_PARTS = (
    "wait_count",
    *(f"excluded_{reason}_count" for reason in ("cancelled", "no_provider", "no_start", "negative", "too_long")),
)


class WaitFigures(Table):
    """Door-to-provider waits of one group of visits."""

    visit_count: pl.Int64 = column("Visits in the group.", ge=1)
    wait_count: pl.Int64 = column("Visits with a valid wait (n).", ge=0)
    excluded_cancelled_count: pl.Int64 = column("Left out: registration cancelled.", ge=0)
    excluded_no_provider_count: pl.Int64 = column("Left out: no provider contact (LWBS, open).", ge=0)
    excluded_no_start_count: pl.Int64 = column("Left out: neither arrival nor triage known.", ge=0)
    excluded_negative_count: pl.Int64 = column("Left out: provider before the patient.", ge=0)
    excluded_too_long_count: pl.Int64 = column("Left out: 100,000 minutes or more.", ge=0)
    wait_sum_minutes: pl.Float64 = column("Sum of valid waits.", unit="min", ge=0)
    wait_average_minutes: pl.Float64 = column("Sum / n.", unit="min", nullable=True, ge=0)
    wait_median_minutes: pl.Float64 = column("Median.", unit="min", nullable=True, ge=0)
    wait_p90_minutes: pl.Float64 = column("90th percentile, linear interpolation.", unit="min", nullable=True, ge=0)
    wait_max_minutes: pl.Float64 = column("Longest.", unit="min", nullable=True, ge=0)


class KpiWaitsDaily(
    DailyKpi,
    WaitFigures,
    name="kpi_waits_daily",
    layer="kpis",
    grain="one day, hospital, department and triage level, and their totals",
    key=("service_date", "hospital_id", "department_name", "triage_level"),
    partitioned=True,
    conserved={"visit_count": WAIT_PARTS},
    measures=[WAITS],
):
    """Door-to-provider waits of each day by hospital, department and triage level."""

    hospital_id: pl.String = column("Hospital, or `all`.")
    department_name: pl.String = column("Department, or `all`.")
    triage_level: pl.String = column("Triage level, `untriaged`, or `all`.")


class KpiWaits(
    WaitFigures,
    name="kpi_waits",
    layer="kpis",
    grain="one hospital, department and triage level, and their totals, over the whole period",
    key=("hospital_id", "department_name", "triage_level"),
    conserved={"visit_count": WAIT_PARTS},
    measures=[WAITS],
):
    """Door-to-provider waits of the whole period, from the visits themselves."""

    hospital_id: pl.String = column("Hospital, or `all`.")
    department_name: pl.String = column("Department, or `all`.")
    triage_level: pl.String = column("Triage level, `untriaged`, or `all`.")


class KpiWaitsRolling(
    Table,
    name="kpi_waits_rolling",
    layer="kpis",
    grain="one day and hospital (and all hospitals)",
    key=("service_date", "hospital_id"),
    measures=[
        Measure(
            "Rolling average wait",
            "Sum of the waits of seven calendar days over their number.",
            "min",
            "as door-to-provider wait",
            "pooled ratio (Kimball: averages do not add up)",
            variants="never an average of daily averages.",
        )
    ],
):
    """Seven-day rolling average wait, pooled: sum of waits over number of waits, 7 calendar days."""

    service_date: pl.Date = column("Last of the seven local days.")
    hospital_id: pl.String = column("Hospital, or `all`.")
    day_wait_count: pl.Int64 = column("Valid waits of the day itself.", ge=0)
    day_wait_sum_minutes: pl.Float64 = column("Their sum.", unit="min", ge=0)
    rolling_wait_count: pl.Int64 = column("Valid waits of the seven days (n).", ge=0)
    rolling_wait_sum_minutes: pl.Float64 = column("Their sum.", unit="min", ge=0)
    rolling_wait_average_minutes: pl.Float64 = column(
        "Pooled average, never an average of averages.", unit="min", nullable=True, ge=0
    )
    days_in_window_count: pl.Int64 = column("Days of the window with data.", ge=1, le=7)


class KpiArrivalsHourly(
    DailyKpi,
    name="kpi_arrivals_hourly",
    layer="kpis",
    grain="one day, hospital and local hour",
    key=("service_date", "hospital_id", "hour_of_day"),
    partitioned=True,
):
    """Arrivals in every local hour that existed, empty hours included."""

    hospital_id: pl.String = column("Hospital.")
    iso_weekday_number: pl.Int64 = column("1 Monday to 7 Sunday.", ge=1, le=7)
    hour_of_day: pl.Int64 = column("Local hour.", ge=0, le=23)
    existing_hours_count: pl.Int64 = column(
        "How often the hour existed that day: 1, 0 when clocks go forward, 2 when they go back.", ge=0, le=2
    )
    arrivals_count: pl.Int64 = column("Visits that arrived in it.", ge=0)


class KpiPeakHours(
    Table,
    name="kpi_peak_hours",
    layer="kpis",
    grain="one hospital (and all), weekday and local hour",
    key=("hospital_id", "iso_weekday_number", "hour_of_day"),
    measures=[
        Measure(
            "Arrivals per hour",
            "Arrivals in a local hour of a weekday, per such hour that existed.",
            "/h",
            "all visits not cancelled",
            "hillmaker",
            variants="the hour skipped in spring existed 0 times that day, the one repeated twice.",
        )
    ],
):
    """Arrivals per hour by weekday and local hour, per hour that existed."""

    hospital_id: pl.String = column("Hospital, or `all`.")
    iso_weekday_number: pl.Int64 = column("1 Monday to 7 Sunday.", ge=1, le=7)
    hour_of_day: pl.Int64 = column("Local hour.", ge=0, le=23)
    existing_hours_count: pl.Int64 = column("Such hours in the period (n).", ge=0)
    arrivals_count: pl.Int64 = column("Visits that arrived in them.", ge=0)
    arrivals_per_hour: pl.Float64 = column("Arrivals per existing hour.", unit="/h", nullable=True, ge=0)
    busiest_rank: pl.Int64 = column("1 is the busiest hour of the hospital's week.", ge=1)


class KpiConditionsDaily(
    DailyKpi,
    name="kpi_conditions_daily",
    layer="kpis",
    grain="one day, hospital and principal diagnosis",
    key=("service_date", "hospital_id", "icd_version", "icd_code"),
    partitioned=True,
):
    """Visits by principal diagnosis."""

    hospital_id: pl.String = column("Hospital.")
    icd_version: pl.Int64 = column("9 or 10; 0 where no diagnosis is coded.", isin=[0, 9, 10])
    icd_code: pl.String = column("Principal diagnosis, or `not_coded`.")
    visit_count: pl.Int64 = column("Visits.", ge=1)


class KpiConditions(
    Table,
    name="kpi_conditions",
    layer="kpis",
    grain="one hospital (and all) and principal diagnosis",
    key=("hospital_id", "icd_version", "icd_code"),
    measures=[
        Measure(
            "Commonest conditions",
            "Visits by principal diagnosis, in percent of visits with one.",
            "%",
            "all visits not cancelled; those without a code are a row of their own",
            "ICD-10-CM, ICD-9-CM",
        )
    ],
):
    """Commonest conditions: visits by principal diagnosis, with what is not coded."""

    hospital_id: pl.String = column("Hospital, or `all`.")
    icd_version: pl.Int64 = column("9 or 10; 0 where no diagnosis is coded.", isin=[0, 9, 10])
    icd_code: pl.String = column("Principal diagnosis, or `not_coded`.")
    condition_name: pl.String = column("Title.", nullable=True)
    chapter_name: pl.String = column("ICD chapter.", nullable=True)
    visit_count: pl.Int64 = column("Visits.", ge=1)
    coded_visit_count: pl.Int64 = column("Visits with a principal diagnosis (n).", ge=0)
    share_pct: pl.Float64 = column(
        "Share of coded visits; null for `not_coded`.", unit="%", nullable=True, ge=0, le=100
    )
    commonest_rank: pl.Int64 = column("1 is the commonest; null for `not_coded`.", nullable=True, ge=1)


class KpiConditionGroups(
    Table,
    name="kpi_condition_groups",
    layer="kpis",
    grain="one hospital (and all) and group of conditions",
    key=("hospital_id", "condition_group"),
    measures=[
        Measure(
            "Condition groups",
            "Visits by the clinical group of their principal diagnosis, in percent of visits with one.",
            "%",
            "all visits not cancelled",
            "groups in the manner of HCUP CCSR, each code in one",
            variants="`Unmapped` are codes outside all groups, `not_coded` visits without a code.",
        )
    ],
):
    """Commonest groups of conditions, with what is unmapped and what is not coded."""

    hospital_id: pl.String = column(ALL_HOSPITALS)
    condition_group: pl.String = column("Group, `Unmapped`, or `not_coded`.")
    visit_count: pl.Int64 = column("Visits.", ge=1)
    coded_visit_count: pl.Int64 = column("Visits with a principal diagnosis (n).", ge=0)
    share_pct: pl.Float64 = column(
        "Share of coded visits; null for `not_coded`.", unit="%", nullable=True, ge=0, le=100
    )
    commonest_rank: pl.Int64 = column("1 is the commonest; null for `not_coded`.", nullable=True, ge=1)


class KpiProcedures(
    Table,
    name="kpi_procedures",
    layer="kpis",
    grain="one hospital (and all) and procedure code",
    key=("hospital_id", "procedure_code"),
    measures=[
        Measure(
            "Procedures",
            "Procedures by code, and the visits they belong to.",
            "procedures",
            "all coded procedures",
            "ICD-10-PCS",
        )
    ],
):
    """Commonest procedures."""

    hospital_id: pl.String = column(ALL_HOSPITALS)
    procedure_code: pl.String = column("ICD-10-PCS code.")
    procedure_name: pl.String = column("Title as landed.", nullable=True)
    procedure_count: pl.Int64 = column("Procedures.", ge=1)
    visit_count: pl.Int64 = column("Visits with it.", ge=1)
    share_pct: pl.Float64 = column("Share of all procedures.", unit="%", ge=0, le=100)
    commonest_rank: pl.Int64 = column("1 is the commonest.", ge=1)


class KpiTrends(
    Table,
    name="kpi_trends",
    layer="kpis",
    grain="one metric, hospital (and all) and day",
    key=("metric", "hospital_id", "period_date"),
    measures=[
        Measure(
            "Chance in time (XmR)",
            "Daily values with their mean and natural limits: mean +- 2.66 x mean moving range.",
            "as the metric",
            "days with a value",
            "Wheeler, Understanding Variation; NHS Making Data Count",
            variants="a day outside the limits, or the eighth in a row on one side of the mean, is a "
            "signal; everything else is noise.",
        )
    ],
):
    """Daily rates beside what chance alone makes of them."""

    metric: pl.String = column("Which figure.")
    hospital_id: pl.String = column(ALL_HOSPITALS)
    period_date: pl.Date = column("Local day.")
    value: pl.Float64 = column("The day's value.")
    centre: pl.Float64 = column("Mean of all days.")
    lower_limit: pl.Float64 = column("Natural lower limit, not below 0.", nullable=True)
    upper_limit: pl.Float64 = column("Natural upper limit.", nullable=True)
    is_outside: pl.Boolean = column("Outside the limits.")
    is_run_of_eight: pl.Boolean = column("Eighth or later day in a row on one side of the centre.")


class KpiUnits(
    Rate,
    name="kpi_units",
    layer="kpis",
    grain="one metric and hospital",
    key=("metric", "hospital_id"),
    measures=[
        Measure(
            "Chance between hospitals",
            "Each hospital's rate of the period beside that of all, with limits of three standard "
            "deviations (binomial) for its n.",
            "%",
            "as the metric",
            "Spiegelhalter, Stat Med 2005 (funnel plots)",
            variants="a hospital within its limits does not differ from the others.",
        )
    ],
):
    """Rates of hospitals beside what chance alone makes of them."""

    metric: pl.String = column("Which rate.")
    hospital_id: pl.String = column("Hospital.")
    excluded_count: pl.Int64 = column("Left out, for whatever reason.", ge=0)
    centre_pct: pl.Float64 = column("Rate of all hospitals together.", unit="%", nullable=True)
    lower_limit_pct: pl.Float64 = column("Lower limit.", unit="%", nullable=True, ge=0)
    upper_limit_pct: pl.Float64 = column("Upper limit.", unit="%", nullable=True, le=100)
    is_outside: pl.Boolean = column("Outside the limits.", nullable=True)


class KpiTriageMixDaily(
    DailyKpi,
    name="kpi_triage_mix_daily",
    layer="kpis",
    grain="one day, hospital and triage level",
    key=("service_date", "hospital_id", "triage_level"),
    partitioned=True,
):
    """Visits by triage level, and how critical ones fared against 15 minutes."""

    hospital_id: pl.String = column("Hospital.")
    triage_level: pl.String = column("Triage level or `untriaged`.")
    visit_count: pl.Int64 = column("Visits.", ge=1)
    critical_visit_count: pl.Int64 = column("Visits of levels 1 and 2.", ge=0)
    target_evaluable_count: pl.Int64 = column("Visits with a wait and a target.", ge=0)
    within_target_count: pl.Int64 = column("Seen within the level's target.", ge=0)


class KpiTriageMix(
    Table,
    name="kpi_triage_mix",
    layer="kpis",
    grain="one hospital (and all) and triage level",
    key=("hospital_id", "triage_level"),
    measures=[
        Measure(
            "Triage mix",
            "Visits by triage level, in percent of triaged visits.",
            "%",
            "all visits not cancelled; the untriaged are a row of their own",
            "ESI handbook",
        )
    ],
):
    """Triage mix of the period and the share seen within the level's target."""

    hospital_id: pl.String = column("Hospital, or `all`.")
    triage_level: pl.String = column("Triage level or `untriaged`.")
    visit_count: pl.Int64 = column("Visits.", ge=1)
    critical_visit_count: pl.Int64 = column("Visits of levels 1 and 2.", ge=0)
    triaged_visit_count: pl.Int64 = column("Triaged visits of the hospital (n of the share).", ge=0)
    share_of_triaged_pct: pl.Float64 = column(
        "Share of triaged visits; null for `untriaged`.", unit="%", nullable=True, ge=0, le=100
    )
    target_evaluable_count: pl.Int64 = column("Visits with a wait and a target (n).", ge=0)
    within_target_count: pl.Int64 = column("Seen within the target.", ge=0)
    within_target_pct: pl.Float64 = column("Share seen within the target.", unit="%", nullable=True, ge=0, le=100)


class KpiPhysicianWorkloadDaily(
    DailyKpi,
    name="kpi_physician_workload_daily",
    layer="kpis",
    grain="one day and doctor",
    key=("service_date", "doctor_key"),
    partitioned=True,
):
    """New patients and shift hours of each doctor and day (day of arrival, day of shift start)."""

    doctor_key: pl.Int64 = column("Doctor; -1 unknown.", references="dim_doctor.doctor_key")
    visit_count: pl.Int64 = column("Visits first seen by the doctor.", ge=0)
    shift_hours: pl.Float64 = column("Hours of shifts that started that day.", unit="h", ge=0)


class KpiPhysicianWorkload(
    Table,
    name="kpi_physician_workload",
    layer="kpis",
    grain="one doctor",
    key=("doctor_key",),
    measures=[
        Measure(
            "Physician workload",
            "New patients by first provider, per hour on shift.",
            "/h",
            "visits with a provider, and those of an unknown one",
            "EMJ 2018;35:317",
            variants="limits are three standard deviations of chance (Poisson) around what the "
            "doctors of the hospital see per hour; without shifts, per doctor.",
        )
    ],
):
    """Physician workload: new patients, shift hours, and patients per shift hour."""

    doctor_key: pl.Int64 = column("Doctor; -1 unknown.", references="dim_doctor.doctor_key")
    doctor_id: pl.String = column("Doctor identifier, or 'unknown'.")
    hospital_key: pl.Int64 = column("Home hospital.", references="dim_hospital.hospital_key")
    visit_count: pl.Int64 = column("Visits first seen by the doctor.", ge=0)
    shift_hours: pl.Float64 = column("Hours on shift (n of the rate).", unit="h", ge=0)
    visits_per_shift_hour: pl.Float64 = column(
        "New patients per shift hour; null without shifts.", unit="/h", nullable=True, ge=0
    )
    active_days_count: pl.Int64 = column("Days with a visit or a shift.", ge=1)
    expected_visit_count: pl.Float64 = column(
        "What the doctors of the hospital see in as many hours; null for an unknown doctor.", nullable=True, ge=0
    )
    lower_limit_count: pl.Float64 = column("Chance limit.", nullable=True, ge=0)
    upper_limit_count: pl.Float64 = column("Chance limit.", nullable=True, ge=0)
    is_outside: pl.Boolean = column("Outside the limits: not explained by chance.", nullable=True)


class KpiBloodGroups(
    Table,
    name="kpi_blood_groups",
    layer="kpis",
    grain="one hospital (and all) and blood group",
    key=("hospital_id", "blood_group"),
    measures=[
        Measure(
            "Blood groups",
            "Distinct persons seen by blood group, beside the reference mix of the US population.",
            "%",
            "persons with a visit",
            "American Red Cross",
            variants="the groups of patients are not the demand for blood.",
        )
    ],
):
    """Blood groups of the patients seen, beside the US reference mix."""

    hospital_id: pl.String = column("Hospital, or `all`.")
    blood_group: pl.String = column("ABO and Rh group, or `unknown`.")
    patient_count: pl.Int64 = column("Distinct patients seen.", ge=1)
    visit_count: pl.Int64 = column("Their visits.", ge=1)
    known_patient_count: pl.Int64 = column("Patients with a known group (n).", ge=0)
    share_pct: pl.Float64 = column(
        "Share of patients with a known group; null for `unknown`.", unit="%", nullable=True, ge=0, le=100
    )
    reference_share_pct: pl.Float64 = column(
        "US reference share.", unit="%", nullable=True, source="American Red Cross"
    )


class KpiDemographics(
    Table,
    name="kpi_demographics",
    layer="kpis",
    grain="one hospital (and all), characteristic and category",
    key=("hospital_id", "characteristic", "category"),
    measures=[
        Measure(
            "Demographics",
            "Distinct persons and visits by age on the day of arrival, sex, race and ethnicity.",
            "%",
            "all visits not cancelled",
            "OMB SPD-15 categories as recorded",
        )
    ],
):
    """Patients and visits by age band, sex, race and ethnicity; age is that on the day of arrival."""

    hospital_id: pl.String = column("Hospital, or `all`.")
    characteristic: pl.String = column("What is counted.", isin=["age_band", "sex", "race", "ethnicity"])
    category: pl.String = column("Category, or `unknown`.")
    patient_count: pl.Int64 = column("Distinct patients; one counts in each category held at a visit.", ge=1)
    visit_count: pl.Int64 = column("Visits.", ge=1)
    share_of_visits_pct: pl.Float64 = column("Share of the hospital's visits.", unit="%", ge=0, le=100)


TABLES = (
    KpiWaitsDaily,
    KpiWaits,
    KpiWaitsRolling,
    KpiArrivalsHourly,
    KpiPeakHours,
    KpiConditionsDaily,
    KpiConditions,
    KpiConditionGroups,
    KpiProcedures,
    KpiTriageMixDaily,
    KpiTriageMix,
    KpiPhysicianWorkloadDaily,
    KpiPhysicianWorkload,
    KpiBloodGroups,
    KpiDemographics,
    KpiTrends,
    KpiUnits,
)
