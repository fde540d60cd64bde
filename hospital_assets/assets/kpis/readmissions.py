"""Readmissions: inpatients who are unplanned inpatients again within `READMISSION_DAYS`."""

import dagster as dg
import narwhals as nw

from hospital_assets.assets.declare import table
from hospital_assets.assets.dedupe import newest_of_each
from hospital_assets.assets.facts.emergency_visits import principal_conditions
from hospital_assets.assets.facts.undelivered import lacks
from hospital_assets.assets.kpis.episodes import with_following
from hospital_assets.assets.kpis.returns import persons_of
from hospital_assets.assets.kpis.totals import month_of, rates
from hospital_assets.assets.resources import ClockResource
from hospital_assets.clock import last_whole_day
from hospital_assets.contracts import CONTRACTS
from hospital_assets.measures.condition_groups import CANCER, is_in_ranges
from hospital_assets.measures.presence import segment_until
from hospital_assets.measures.thresholds import READMISSION_DAYS
from hospital_assets.warehouse.dialect import Frame, checkpoint, local_clocks

#: Principal diagnoses of stays that are planned by nature: radio- and chemotherapy, rehabilitation
#: (HWR: always-planned diagnosis categories), as prefixes of ICD-10-CM codes.
PLANNED_DIAGNOSES = ("Z510", "Z511", "Z50", "Z5189")
#: ICD-10-PCS: section 0 is surgery; the root operation Y in it is transplantation.
_SURGERY, _TRANSPLANTATION = "0", "Y"


@dg.asset(**table("kpi_readmissions"))
def kpi_readmissions(
    fact_patient_flow: Frame,
    cleaned_diagnoses: Frame,
    cleaned_procedures: Frame,
    dim_hospital: Frame,
    dim_condition: Frame,
    dim_patient: Frame,
    dim_person: Frame,
    clock: ClockResource,
) -> Frame:
    """Unplanned readmissions, by month of the index discharge."""
    stays = inpatient_stays(
        fact_patient_flow,
        principal_conditions(cleaned_diagnoses, dim_condition),
        newest_of_each(cleaned_procedures, ["procedure_id"]),
        dim_hospital,
        dim_condition,
    ).join(persons_of(dim_patient, dim_person), on="patient_key", how="left")
    data_end = nw.lit(last_whole_day(clock.now())).cast(nw.Date)
    return readmissions(checkpoint(stays), data_end).select(CONTRACTS["kpi_readmissions"].column_names)


def inpatient_stays(flow: Frame, principal: Frame, procedures: Frame, hospitals: Frame, conditions: Frame) -> Frame:
    """One row per inpatient stay, with what the readmission rules ask of it.

    Args:
        principal: visit_id, condition_key of the principal diagnosis, of every visit and stay that has one.
        procedures: cleaned procedures, one row each.
    """
    segments = flow.filter(nw.col("stay_class") == "inpatient").with_columns(
        _counts_until=segment_until("segment_start_at", "segment_end_at")
    )
    stays = (
        segments.group_by("stay_id")
        .agg(
            patient_key=nw.col("patient_key").max(),
            hospital_key=nw.col("hospital_key").max(),
            admitted_at=nw.col("stay_start_at").min(),
            discharged_at=nw.col("stay_end_at").max(),
            _until_at=nw.col("_counts_until").max(),
            disposition=nw.col("discharge_disposition").max(),
            undelivered=nw.col("undelivered").max(),
        )
        .join(hospitals.select("hospital_key", "hospital_id", "time_zone"), on="hospital_key", how="left")
    )
    stays = local_clocks(stays, {"_admitted": "admitted_at", "_discharged": "discharged_at"}, "time_zone")
    diagnoses = principal.select(nw.col("visit_id").alias("stay_id"), "condition_key").join(
        conditions.select("condition_key", "icd_version", "icd_code"), on="condition_key", how="left"
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
            diagnosis=nw.col("icd_code"),
            is_planned=nw.coalesce(is_planned_diagnosis | (nw.col("_transplant") == 1), nw.lit(False)),
            is_cancer_medical=nw.coalesce(
                is_in_ranges(CANCER) & (nw.coalesce(nw.col("_surgical"), nw.lit(0)) == 0), nw.lit(False)
            ),
        )
        .select(
            "stay_id",
            "patient_key",
            "hospital_id",
            "admitted_at",
            "discharged_at",
            "_until_at",
            "admitted_date",
            "discharged_date",
            "disposition",
            "undelivered",
            "diagnosis",
            "is_planned",
            "is_cancer_medical",
        )
    )


def readmissions(stays: Frame, data_end: nw.Expr) -> Frame:
    """Index stays and whether the first stay after each is an unplanned one within `READMISSION_DAYS`.

    Args:
        stays: stay_id, person_key (null: unknown), hospital_id, admitted_at, discharged_at (null: open), `_until_at`
            (until when it counts), admitted_date, discharged_date, disposition, diagnosis (null: not coded, and then
            like no other), is_planned, is_cancer_medical, undelivered.
        data_end: the last day of which admissions are known.
    """
    day = 86_400_000_000
    followed = with_following(
        stays,
        stays,
        key="stay_id",
        start="admitted_at",
        end="discharged_at",
        carried=["admitted_date", "hospital_id", "diagnosis", "is_planned"],
        joins=False,
    )
    frame = followed.with_columns(
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
            "overlapping": nw.col("_is_overlapped"),
            "against_advice": nw.col("disposition") == "against_medical_advice",
            "transferred": is_transferred,
            "continued": is_continued,
            "cancer": nw.col("is_cancer_medical"),
            "undelivered": lacks("kpi_readmissions"),
            "run_out": nw.col("_days_of_data") < READMISSION_DAYS,
        },
        counted={
            "numerator_count": (nw.col("_days") >= 0)
            & (nw.col("_days") <= READMISSION_DAYS)
            & ~nw.col("_next_is_planned")
        },
    )
