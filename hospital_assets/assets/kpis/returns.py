"""Who comes back: 72-hour returns to an emergency department, 30-day readmissions."""

from datetime import timedelta

import dagster as dg
import narwhals as nw

from hospital_assets.assets.declare import table
from hospital_assets.assets.facts.newest import newest_of_each
from hospital_assets.assets.kpis.emergency import LEFT, NOT_DISCHARGED, with_hospital
from hospital_assets.assets.kpis.totals import month_of, rates
from hospital_assets.assets.resources import ClockResource
from hospital_assets.contracts import CONTRACTS
from hospital_assets.warehouse.dialect import Frame, checkpoint, local_clocks

RETURN_HOURS = 72
READMISSION_DAYS = 30
#: Principal diagnoses of stays that are planned by nature: radio- and chemotherapy, rehabilitation
#: (HWR: always-planned diagnosis categories), as prefixes of ICD-10-CM codes.
PLANNED_DIAGNOSES = ("Z510", "Z511", "Z50", "Z5189")
#: ICD-10-PCS: section 0 is surgery; the root operation Y in it is transplantation.
_SURGERY, _TRANSPLANTATION = "0", "Y"


def persons_of(patients: Frame, persons: Frame) -> Frame:
    """patient_key -> person_key; the unknown patient is nobody."""
    return (
        patients.select("patient_key", "patient_durable_key")
        .join(persons.select("patient_durable_key", "person_key"), on="patient_durable_key", how="left")
        .filter(nw.col("patient_key") > 0)
        .select("patient_key", "person_key")
    )


@dg.asset(**table("kpi_returns"))
def kpi_returns(
    fact_emergency_visits: Frame, dim_hospital: Frame, dim_patient: Frame, dim_person: Frame, clock: ClockResource
) -> Frame:
    """Returns within 72 hours, by month of the first departure."""
    visits = (
        with_hospital(fact_emergency_visits, dim_hospital)
        .join(persons_of(dim_patient, dim_person), on="patient_key", how="left")
        .select(
            "visit_id",
            "hospital_id",
            "is_cancelled",
            "arrival_at",
            "departure_at",
            "disposition",
            "person_key",
            "period_date",
        )
    )
    data_end = nw.lit(clock.now()).cast(nw.Datetime("us", "UTC"))
    return returns(checkpoint(visits), data_end).select(nw.col(*CONTRACTS["kpi_returns"].column_names))


def returns(visits: Frame, data_end: nw.Expr) -> Frame:
    """Visits whose patient is back within 72 hours, in three variants.

    Args:
        visits: visits with hospital, period_date and person_key (null: unknown).
        data_end: the moment until which returns are known.
    """
    # The next arrival of the same person; nobody's visits follow each other.
    known = visits.filter(~nw.col("is_cancelled"), ~nw.col("person_key").is_null())
    order = ["arrival_at", "visit_id"]
    following = known.select(
        "visit_id",
        _next_arrival_at=nw.col("arrival_at").shift(-1).over("person_key", order_by=order),
        _next_disposition=nw.col("disposition").shift(-1).over("person_key", order_by=order),
    )
    frame = visits.join(following, on="visit_id", how="left").select(
        "hospital_id",
        "is_cancelled",
        "departure_at",
        "disposition",
        "person_key",
        "_next_disposition",
        period_month=month_of(nw.col("period_date")),
        _hours=(nw.col("_next_arrival_at") - nw.col("departure_at")).dt.total_microseconds() / 3_600_000_000,
        _until_end_hours=(data_end - nw.col("departure_at")).dt.total_microseconds() / 3_600_000_000,
    )
    variants = {
        "discharged": (nw.lit(False), nw.lit(True)),
        "with_left": (nw.lit(True), nw.lit(True)),
        "return_admitted": (nw.lit(False), nw.coalesce(nw.col("_next_disposition") == "admitted", nw.lit(False))),
    }
    frame = checkpoint(frame)
    frame = nw.concat(
        [
            frame.with_columns(variant=nw.lit(name), _takes_left=takes_left, _counts=counts)
            for name, (takes_left, counts) in variants.items()
        ],
        how="vertical",
    )
    return rates(
        frame,
        ("period_month", "variant"),
        ("hospital_id",),
        excluded={
            "cancelled": nw.col("is_cancelled"),
            "open": nw.col("departure_at").is_null(),
            "not_discharged": nw.col("disposition").is_in(NOT_DISCHARGED),
            "left": nw.col("disposition").is_in(LEFT) & ~nw.col("_takes_left"),
            "unknown_patient": nw.col("person_key").is_null(),
            "run_out": nw.col("_until_end_hours") < RETURN_HOURS,
        },
        counted={"numerator_count": (nw.col("_hours") >= 0) & (nw.col("_hours") <= RETURN_HOURS) & nw.col("_counts")},
    )


@dg.asset(**table("kpi_readmissions"))
def kpi_readmissions(
    fact_patient_flow: Frame,
    fact_emergency_visits: Frame,
    cleaned_procedures: Frame,
    dim_hospital: Frame,
    dim_condition: Frame,
    dim_patient: Frame,
    dim_person: Frame,
    clock: ClockResource,
) -> Frame:
    """Unplanned readmissions within 30 days, by month of the index discharge."""
    stays = inpatient_stays(
        fact_patient_flow,
        fact_emergency_visits,
        newest_of_each(cleaned_procedures, ["procedure_id"]),
        dim_hospital,
        dim_condition,
    ).join(persons_of(dim_patient, dim_person), on="patient_key", how="left")
    data_end = nw.lit((clock.now() - timedelta(days=1)).date()).cast(nw.Date)
    return readmissions(checkpoint(stays), data_end).select(nw.col(*CONTRACTS["kpi_readmissions"].column_names))


def inpatient_stays(flow: Frame, visits: Frame, procedures: Frame, hospitals: Frame, conditions: Frame) -> Frame:
    """One row per inpatient stay, with what the readmission rules ask of it."""
    segments = flow.filter(nw.col("stay_class") == "inpatient")
    stays = (
        segments.group_by("stay_id")
        .agg(
            patient_key=nw.col("patient_key").max(),
            hospital_key=nw.col("hospital_key").max(),
            admitted_at=nw.col("stay_start_at").min(),
            discharged_at=nw.col("stay_end_at").max(),
            disposition=nw.col("discharge_disposition").max(),
        )
        .join(hospitals.select("hospital_key", "hospital_id", "time_zone"), on="hospital_key", how="left")
    )
    stays = local_clocks(stays, {"_admitted": "admitted_at", "_discharged": "discharged_at"}, "time_zone")
    diagnoses = visits.select(nw.col("visit_id").alias("stay_id"), "condition_key").join(
        conditions.select("condition_key", "icd_version", "icd_code", "chapter_name"), on="condition_key", how="left"
    )
    code = nw.col("procedure_code")
    operated = (
        procedures.with_columns(
            _surgical=(code.str.slice(0, 1) == _SURGERY).cast(nw.Int64),
            _transplant=((code.str.slice(0, 1) == _SURGERY) & (code.str.slice(2, 1) == _TRANSPLANTATION)).cast(
                nw.Int64
            ),
        )
        .group_by("visit_id")
        .agg(nw.col("_surgical").max(), nw.col("_transplant").max())
        .with_columns(stay_id=nw.col("visit_id"))
        .drop("visit_id")
    )
    is_planned_diagnosis = nw.any_horizontal(
        *(nw.col("icd_code").str.starts_with(prefix) for prefix in PLANNED_DIAGNOSES), ignore_nulls=True
    )
    return (
        stays.join(diagnoses, on="stay_id", how="left")
        .join(operated, on="stay_id", how="left")
        .with_columns(
            admitted_date=nw.col("_admitted").dt.date(),
            discharged_date=nw.col("_discharged").dt.date(),
            diagnosis=nw.coalesce(nw.col("icd_code"), nw.lit("not_coded")),
            is_planned=nw.coalesce(is_planned_diagnosis | (nw.col("_transplant") == 1), nw.lit(False)),
            is_cancer_medical=nw.coalesce(
                (nw.col("chapter_name") == "Neoplasms") & (nw.coalesce(nw.col("_surgical"), nw.lit(0)) == 0),
                nw.lit(False),
            ),
        )
        .select(
            "stay_id",
            "patient_key",
            "hospital_id",
            "admitted_at",
            "admitted_date",
            "discharged_date",
            "disposition",
            "diagnosis",
            "is_planned",
            "is_cancer_medical",
        )
    )


def readmissions(stays: Frame, data_end: nw.Expr) -> Frame:
    """Index stays and whether the first stay after each is an unplanned one within 30 days.

    Args:
        stays: stay_id, person_key (null: unknown), hospital_id, admitted_at, admitted_date,
            discharged_date (null: open), disposition, diagnosis, is_planned, is_cancer_medical.
        data_end: the last day of which admissions are known.
    """
    order = ["admitted_at", "stay_id"]
    known = stays.filter(~nw.col("person_key").is_null())
    following = known.select(
        "stay_id",
        **{
            f"_next_{name}": nw.col(name).shift(-1).over("person_key", order_by=order)
            for name in ("admitted_date", "hospital_id", "diagnosis", "is_planned")
        },
    )
    day = 86_400_000_000
    frame = stays.join(following, on="stay_id", how="left").with_columns(
        _days=(
            nw.col("_next_admitted_date").cast(nw.Datetime("us")) - nw.col("discharged_date").cast(nw.Datetime("us"))
        ).dt.total_microseconds()
        // day,
        _days_of_data=(
            data_end.cast(nw.Datetime("us")) - nw.col("discharged_date").cast(nw.Datetime("us"))
        ).dt.total_microseconds()
        // day,
        period_month=month_of(nw.coalesce(nw.col("discharged_date"), nw.col("admitted_date"))),
    )
    same_hospital = nw.col("_next_hospital_id") == nw.col("hospital_id")
    is_transferred = (nw.col("_days") >= 0) & (nw.col("_days") <= 1) & ~same_hospital
    is_continued = (nw.col("_days") == 0) & same_hospital & (nw.col("_next_diagnosis") == nw.col("diagnosis"))
    return rates(
        frame,
        ("period_month",),
        ("hospital_id",),
        excluded={
            "open": nw.col("discharged_date").is_null(),
            "unknown_patient": nw.col("person_key").is_null(),
            "expired": nw.col("disposition") == "expired",
            "against_advice": nw.col("disposition") == "against_medical_advice",
            "transferred": is_transferred,
            "continued": is_continued,
            "cancer": nw.col("is_cancer_medical"),
            "run_out": nw.col("_days_of_data") < READMISSION_DAYS,
        },
        counted={
            "numerator_count": (nw.col("_days") >= 0)
            & (nw.col("_days") <= READMISSION_DAYS)
            & ~nw.col("_next_is_planned")
        },
    )
