"""Contracts of the KPIs, each with its n and its exclusions.

Belongs here: what all KPI tables share, and those about waits, arrivals, cases and people; emergency
rates are in `kpis_emergency`, beds and stays in `kpis_flow`. Daily tables carry sums and counts (they add
up); the others read the daily tables or the facts and carry shares, averages and ranks. `all` in a key
column means the row pools all values of that column.
"""

from __future__ import annotations

from hospital_assets.contracts.table import COUNTED, Measure, Table, column
from hospital_assets.measures.funnel_limits import LEAST_UNITS
from hospital_assets.measures.natural_limits import BASELINE_POINTS, LEAST_POINTS, RUN_LENGTH
from hospital_assets.measures.thresholds import LONGEST_QUIET_DAYS, LONGEST_WAIT_MINUTES
from hospital_assets.measures.waits import WAIT_EXCLUSIONS

ALL = "all"
#: Key columns in which `all` pools all values, where a table has pooled rows.
POOLED = ("hospital_id", "department_name", "triage_group")


class Kpi(Table, layer="kpis"):
    """A row of figures."""


class DailyKpi(Kpi, partitioned=True):
    """A KPI row of a local service day."""


class PeriodKpi(Kpi, columns="period_month"):
    """A KPI row of a calendar month."""


class Rate(Kpi, columns="population_count denominator_count numerator_count value_pct"):
    """A share: its population, numerator and denominator; each table adds its exclusions (`excluded_*`)."""


WAITS = Measure(
    "Door-to-provider wait (PIA)",
    "Sum, average, median, 90th percentile and longest of the waits.",
    "min",
    "all visits",
    "CIHI and Ontario indicator library",
    clock="earlier of triage and registration until first assessment by a physician, NP or PA.",
    exclusions="cancelled; no provider (left unseen, open); no start; provider before the patient; "
    "provider after departure; "
    f"{LONGEST_WAIT_MINUTES:,} minutes or more.",
)


WAIT_PARTS = ("wait_count", *(f"excluded_{reason}_count" for reason in WAIT_EXCLUSIONS))


class WaitFigures(
    Kpi,
    columns="""
        visit_count wait_count excluded_cancelled_count excluded_no_provider_count excluded_no_start_count
        excluded_negative_count excluded_after_departure_count excluded_too_long_count wait_sum_minutes
        wait_average_minutes wait_median_minutes wait_p90_minutes wait_max_minutes
    """,
):
    """Door-to-provider waits of one group of visits."""

    excluded_negative_count = column("Provider before the patient.")
    excluded_after_departure_count = column("Provider after the patient had left.")


VISITS_BY_LEVEL = Measure(
    "Visits by triage level",
    "Visits of each triage level, in percent of those with one; levels 1 and 2 are critical.",
    "%",
    "all visits not cancelled, by day of arrival",
    "ESI handbook",
    exclusions="untriaged visits, which are counted separately.",
)


class KpiWaitsDaily(
    DailyKpi,
    WaitFigures,
    name="kpi_waits_daily",
    grain="one day, hospital, department and triage level, and their totals",
    key=("service_date", "hospital_id", "department_name", "triage_group"),
    conserved={"visit_count": WAIT_PARTS},
    measures=[WAITS, VISITS_BY_LEVEL],
):
    """Door-to-provider waits of each day by hospital, department and triage level."""


class KpiWaits(
    WaitFigures,
    name="kpi_waits",
    grain="one hospital, department and triage level, and their totals, over the whole period",
    key=("hospital_id", "department_name", "triage_group"),
    conserved={"visit_count": WAIT_PARTS},
    measures=[WAITS],
):
    """Door-to-provider waits of the whole period, from the visits themselves."""


class KpiWaitsRolling(
    Kpi,
    name="kpi_waits_rolling",
    grain="one day and hospital (and all hospitals)",
    key=("service_date", "hospital_id"),
    columns="""
        day_wait_count day_wait_sum_minutes rolling_wait_count rolling_wait_sum_minutes rolling_wait_average_minutes
        days_in_window_count
    """,
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

    service_date = column("The last of the seven.")


ARRIVALS = Measure(
    "Arrivals per hour",
    "Arrivals in a local hour of a weekday, per such hour that existed.",
    "/h",
    "all visits not cancelled",
    "hillmaker",
    exclusions="arrivals known by their day only, which have no hour; by weekday, days that are not over: hours of "
    "theirs are still to come.",
    variants="the hour skipped in spring existed 0 times that day, the one repeated twice. Hours in which nobody came "
    f"count, on days without any record, too, from the hospital's first arrival on, in gaps of up to "
    f"{LONGEST_QUIET_DAYS} days.",
)


class KpiArrivalsHourly(
    DailyKpi,
    name="kpi_arrivals_hourly",
    grain="one day, hospital and local hour",
    key=("service_date", "hospital_id", "hour_of_day"),
    columns="iso_weekday_number existing_hours_count arrivals_count",
    measures=[ARRIVALS],
):
    """Arrivals in every local hour that existed, empty hours included."""

    iso_weekday_number = column(ge=1, le=7)
    hour_of_day = column(ge=0, le=23)
    existing_hours_count = column(
        "1; 0 when clocks go forward, 2 when they go back. Hours still to come have one, too."
    )
    arrivals_count = column("Visits that arrived in the hour.")


class KpiPeakHours(
    Kpi,
    name="kpi_peak_hours",
    grain="one hospital (and all), weekday and local hour",
    key=("hospital_id", "iso_weekday_number", "hour_of_day"),
    columns="existing_hours_count arrivals_count arrivals_per_hour busiest_rank",
    measures=[ARRIVALS],
):
    """Arrivals per hour by weekday and local hour, per hour that existed."""

    iso_weekday_number = column(ge=1, le=7)
    hour_of_day = column(ge=0, le=23)
    existing_hours_count = column("In the period (n).", ge=0)
    arrivals_count = column("Visits that arrived in the hour.")


CONDITIONS = Measure(
    "Commonest conditions",
    "Visits by principal diagnosis, in percent of visits with one.",
    "%",
    "all visits not cancelled; those without a code are a row of their own",
    "ICD-10-CM, ICD-9-CM",
)


class KpiConditionsDaily(
    DailyKpi,
    name="kpi_conditions_daily",
    grain="one day, hospital and principal diagnosis",
    key=("service_date", "hospital_id", "icd_version", "icd_code"),
    columns="visit_count",
    measures=[
        CONDITIONS,
        Measure(
            "Visits of watched groups",
            "Visits per day whose principal diagnosis is in the clinical groups of a watched illness.",
            "visits",
            "all visits not cancelled that have a principal diagnosis",
            "clinical groups of dim_condition",
            variants="a day without any is 0; codes come late, so the newest days grow.",
        ),
    ],
):
    """Visits by principal diagnosis."""

    icd_version = column(isin=[0, 9, 10])
    icd_code = column("`not_coded` where there is none.", privacy="operational", because=COUNTED)


class KpiConditions(
    Kpi,
    name="kpi_conditions",
    grain="one hospital (and all) and principal diagnosis",
    key=("hospital_id", "icd_version", "icd_code"),
    columns="condition_name chapter_name visit_count coded_visit_count share_pct commonest_rank",
    measures=[CONDITIONS],
):
    """Most common conditions: visits by principal diagnosis, including visits without one."""

    icd_version = column(isin=[0, 9, 10])
    icd_code = column("`not_coded` where there is none.", privacy="operational", because=COUNTED)
    share_pct = column("Of coded visits; null for `not_coded`.")
    commonest_rank = column("Null for `not_coded`.")


class KpiConditionGroups(
    Kpi,
    name="kpi_condition_groups",
    grain="one hospital (and all) and group of conditions",
    key=("hospital_id", "condition_group"),
    columns="visit_count coded_visit_count share_pct commonest_rank",
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
    """Most common groups of conditions, including unmapped diagnoses and visits without one."""

    condition_group = column("`not_coded` for visits without a code.")
    share_pct = column("Of coded visits; null for `not_coded`.")
    commonest_rank = column("Null for `not_coded`.")


class KpiProcedures(
    Kpi,
    name="kpi_procedures",
    grain="one hospital (and all) and procedure code",
    key=("hospital_id", "procedure_code"),
    columns="procedure_name procedure_count visit_count share_pct commonest_rank",
    measures=[
        Measure(
            "Procedures",
            "Procedures by code, and the visits they belong to.",
            "procedures",
            "all procedures",
            "ICD-10-PCS",
        )
    ],
):
    """Commonest procedures."""

    procedure_code = column(privacy="operational", because=COUNTED)
    visit_count = column("Those with the procedure.")
    share_pct = column("Of all procedures.", nullable=False)
    commonest_rank = column(nullable=False)


class KpiTrends(
    Kpi,
    name="kpi_trends",
    grain="one metric, hospital (and all) and day",
    key=("metric", "hospital_id", "period_date"),
    columns="""
        value baseline_first_date baseline_last_date centre lower_limit upper_limit is_outside is_run
    """,
    measures=[
        Measure(
            "Chance in time (XmR)",
            f"Daily values with the mean and natural limits of their baseline, the first {BASELINE_POINTS} days of the "
            "series: mean +- 2.66 x mean moving range, moving ranges beyond 3.267 times their mean left out once.",
            "as the metric",
            "days with a value that are over, in every zone, and on which somebody came",
            "Wheeler, Understanding Variation; NHS Making Data Count",
            variants=f"a day outside the limits, or one of {RUN_LENGTH} or more in a row on one side of the mean, is a "
            f"signal; everything else is noise. Fewer than {LEAST_POINTS} days have no limits. They are set anew only "
            "on purpose, from the days in `baselines_from` of `hospital.toml` on.",
        )
    ],
):
    """Daily rates with the limits that chance alone gives them."""

    value = column("Of the day.", nullable=False)
    is_outside = column(nullable=False)


class KpiUnits(
    Rate,
    name="kpi_units",
    grain="one metric and hospital",
    key=("metric", "hospital_id"),
    columns="excluded_count centre_pct dispersion lower_limit_pct upper_limit_pct is_outside",
    measures=[
        Measure(
            "Chance between hospitals",
            "Each hospital's rate of the period compared with that of all, with limits of three standard "
            f"deviations for its n: from {LEAST_UNITS} hospitals on those of chance and of how much hospitals differ "
            "anyway (additive overdispersion, arcsine scale), of fewer those of chance alone (binomial).",
            "%",
            "as the metric",
            "Spiegelhalter, Stat Med 2005 (funnel plots)",
            variants="a hospital within its limits does not differ from the others.",
        )
    ],
):
    """Rates of hospitals with the limits that chance alone gives them."""


class KpiTriageMixDaily(
    DailyKpi,
    name="kpi_triage_mix_daily",
    grain="one day, hospital and triage level",
    key=("service_date", "hospital_id", "triage_group"),
    columns="visit_count critical_visit_count target_evaluable_count within_target_count",
):
    """Visits by triage level, and how many were seen within the level's target."""


class KpiTriageMix(
    Kpi,
    name="kpi_triage_mix",
    grain="one hospital (and all) and triage level",
    key=("hospital_id", "triage_group"),
    columns="""
        visit_count critical_visit_count triaged_visit_count share_of_triaged_pct target_evaluable_count
        within_target_count within_target_pct
    """,
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


WORKLOAD = Measure(
    "Physician workload",
    "New patients by first provider, per hour on shift in the emergency department.",
    "/h",
    "visits with a provider, and those of an unknown one; who left without being seen is nobody's workload",
    "EMJ 2018;35:317",
    exclusions="in the whole period, days that are not over: shifts are known ahead, patients are not.",
    variants="limits are three standard deviations of chance (Poisson) around what the "
    "doctors of the hospital see per hour; without shifts, per doctor.",
)


class KpiPhysicianWorkloadDaily(
    DailyKpi,
    name="kpi_physician_workload_daily",
    grain="one day and doctor",
    key=("service_date", "doctor_key"),
    columns="visit_count shift_hours",
    measures=[WORKLOAD],
):
    """New patients and shift hours of each doctor and day (day of arrival, day of shift start)."""

    visit_count = column("Those first seen by the doctor.", ge=0)
    shift_hours = column("Of shifts that started that day.")


class KpiPhysicianWorkload(
    Kpi,
    name="kpi_physician_workload",
    grain="one doctor",
    key=("doctor_key",),
    columns="""
        doctor_id hospital_key visit_count shift_hours visits_per_shift_hour active_days_count expected_visit_count
        lower_limit_count upper_limit_count is_outside
    """,
    measures=[WORKLOAD],
):
    """Physician workload: new patients, shift hours, and patients per shift hour."""

    doctor_id = column("`unknown` where there is none.")
    hospital_key = column("The home hospital.")
    visit_count = column("Those first seen by the doctor.", ge=0)
    shift_hours = column("The n of the rate.")


class KpiBloodGroups(
    Kpi,
    name="kpi_blood_groups",
    grain="one hospital (and all) and blood group",
    key=("hospital_id", "blood_group"),
    columns="patient_count visit_count known_patient_count share_pct reference_share_pct",
    measures=[
        Measure(
            "Blood groups",
            "Distinct persons seen by blood group, with the reference mix of the US population.",
            "%",
            "persons with a visit",
            "American Red Cross",
            variants="the groups of patients are not the demand for blood.",
        )
    ],
):
    """Blood groups of the patients seen, with the US reference mix."""

    blood_group = column("`unknown` included.", nullable=False, privacy="operational", because=COUNTED)
    share_pct = column("Of patients with a known group; null for `unknown`.")


class KpiDemographics(
    Kpi,
    name="kpi_demographics",
    grain="one hospital (and all), characteristic and category",
    key=("hospital_id", "characteristic", "category"),
    columns="patient_count visit_count share_of_visits_pct",
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

    characteristic = column(isin=["age_band", "sex", "race", "ethnicity"])
    patient_count = column("One counts in each category held at a visit.")


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
