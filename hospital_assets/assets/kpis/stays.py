"""Stays: how long they last, who stays too long, who leaves before noon."""

import dagster as dg
import narwhals as nw

from hospital_assets.assets.declare import all_days, table
from hospital_assets.assets.facts.undelivered import lacks
from hospital_assets.assets.kpis.totals import month_of, rates, with_totals
from hospital_assets.assets.resources import ClockResource
from hospital_assets.contracts import CONTRACTS
from hospital_assets.measures.presence import OVERSTAY_HOURS, segment_until
from hospital_assets.measures.thresholds import NOON_HOUR
from hospital_assets.warehouse.dialect import (
    Frame,
    divided,
    exact_mean,
    exact_median,
    hours_between,
    hours_of,
    local_clocks,
)
from hospital_assets.warehouse.io_manager import days_of_run


def stays_of(flow: Frame, hospitals: Frame, departments: Frame) -> Frame:
    """One row per stay and class, with its hospital, last department and local days."""
    # By time: the days of a stay are not numbered anew at the same moment.
    left = nw.col("segment_number").cum_count(reverse=True)
    order = ["segment_start_at", "segment_number"]
    last = flow.with_columns(_left=left.over("stay_id", "stay_class", order_by=order)).filter(nw.col("_left") == 1)
    stays = last.join(hospitals.select("hospital_key", "hospital_id", "time_zone"), on="hospital_key", how="left").join(
        departments.select("department_key", "department_name"), on="department_key", how="left"
    )
    return local_clocks(stays, {"start_local": "stay_start_at", "end_local": "stay_end_at"}, "time_zone")


def has_lapsed() -> nw.Expr:
    """Whether a stay has been open for longer than one can last, by `as_of_at` and its last segment."""
    return nw.col("stay_end_at").is_null() & (segment_until("segment_start_at", "segment_end_at") < nw.col("as_of_at"))


@dg.asset(**table("kpi_length_of_stay"))
def kpi_length_of_stay(
    fact_patient_flow: Frame, dim_hospital: Frame, dim_department: Frame, clock: ClockResource
) -> Frame:
    """Length of stay by month of discharge, hospital and class."""
    as_of = nw.lit(clock.now()).cast(nw.Datetime("us", "UTC"))
    stays = stays_of(fact_patient_flow, dim_hospital, dim_department)
    return length_of_stay(stays, as_of).select(CONTRACTS["kpi_length_of_stay"].column_names)


def length_of_stay(stays: Frame, as_of: nw.Expr) -> Frame:
    """Lengths in their named variants; open stays are counted and lasted until `as_of`.

    Args:
        stays: hospital_id, stay_class, stay_start_at, stay_end_at (null: open), length_of_stay_hours, segment_start_at
            and segment_end_at of the last segment, start_local, end_local.
        as_of: the moment until which open stays have lasted.
    """
    start, end = (nw.col(name).dt.date().cast(nw.Datetime("us")) for name in ("start_local", "end_local"))
    frame = (
        stays.with_columns(as_of_at=as_of)
        .with_columns(
            period_month=month_of(nw.coalesce(nw.col("end_local").dt.date(), nw.col("as_of_at").dt.date())),
            _hcup=_days_of(end - start).round().cast(nw.Int64),
            # Of an end known by its day only there are days, but no hours.
            _hours=nw.when(~nw.col("length_of_stay_hours").is_null()).then(
                hours_between("stay_start_at", "stay_end_at")
            ),
            _so_far=_days_of(nw.col("as_of_at") - nw.col("stay_start_at")),
            _is_open=nw.col("stay_end_at").is_null(),
            _has_lapsed=has_lapsed(),
        )
        .with_columns(
            _min1=nw.when(nw.col("_hcup") < 1).then(nw.lit(1)).otherwise(nw.col("_hcup")),
            # Of open stays only.
            _open_days=nw.when(nw.col("_is_open") & ~nw.col("_has_lapsed") & (nw.col("_so_far") >= 0)).then(
                nw.col("_so_far")
            ),
        )
    )
    lengths = rates(
        frame,
        ("period_month", "as_of_at", "stay_class"),
        ("hospital_id",),
        excluded={
            "lapsed": nw.col("_has_lapsed"),
            "open": nw.col("_is_open"),
            "negative": nw.col("stay_end_at") < nw.col("stay_start_at"),
        },
        of=["_hcup", "_min1", "_hours"],
        figures={
            "los_hcup_days_sum": nw.col("_hcup").sum(),
            "los_hcup_days_average": nw.col("_hcup").mean(),
            "los_min1_days_average": nw.col("_min1").mean(),
            "los_hours_average": exact_mean("_hours"),
            "los_hours_median": exact_median("_hours"),
        },
    )
    open_days = with_totals(
        frame, ("period_month", "stay_class"), ("hospital_id",), {"open_days_so_far_average": exact_mean("_open_days")}
    )
    return lengths.join(open_days, on=["period_month", "stay_class", "hospital_id"], how="left").with_columns(
        los_hcup_days_sum=nw.coalesce(nw.col("los_hcup_days_sum"), nw.lit(0))
    )


@dg.asset(**table("kpi_overstays"))
def kpi_overstays(fact_patient_flow: Frame, dim_hospital: Frame, dim_department: Frame, clock: ClockResource) -> Frame:
    """Overstays, by hospital and last department."""
    as_of = nw.lit(clock.now()).cast(nw.Datetime("us", "UTC"))
    stays = stays_of(fact_patient_flow, dim_hospital, dim_department)
    return overstays(stays, as_of).select(CONTRACTS["kpi_overstays"].column_names)


def _days_of(span: nw.Expr) -> nw.Expr:
    return divided(span.dt.total_microseconds(), 86_400_000_000)


def overstays(stays: Frame, as_of: nw.Expr) -> Frame:
    """Stays longer than the limit of their class; open ones until `as_of`."""
    frame = stays.with_columns(
        as_of_at=as_of,
        department_name=nw.coalesce(nw.col("department_name"), nw.lit("unknown")),
        _is_open=nw.col("stay_end_at").is_null(),
    ).with_columns(_hours=hours_of(nw.coalesce(nw.col("stay_end_at"), nw.col("as_of_at")) - nw.col("stay_start_at")))
    limits = (nw.when(nw.col("stay_class") == of).then(nw.lit(hours)) for of, hours in OVERSTAY_HOURS.items())
    is_over = nw.col("_hours") > nw.coalesce(*limits)
    return rates(
        frame,
        ("as_of_at",),
        ("hospital_id", "department_name"),
        excluded={"lapsed": has_lapsed(), "negative": nw.col("_hours") < 0},
        counted={"numerator_count": is_over, "open_numerator_count": is_over & nw.col("_is_open")},
    )


# Whether a segment is the last of its stay, other days may tell.
@dg.asset(**table("kpi_discharge_before_noon_daily"), ins=all_days("fact_patient_flow"))
def kpi_discharge_before_noon_daily(
    context: dg.AssetExecutionContext, fact_patient_flow: Frame, dim_hospital: Frame, dim_department: Frame
) -> Frame:
    """Inpatients discharged alive before noon."""
    period = days_of_run(context)
    mine = fact_patient_flow.filter(period.holds()).select("stay_id").unique()
    theirs = fact_patient_flow.join(mine, on="stay_id", how="semi")
    stays = stays_of(theirs, dim_hospital, dim_department).filter(period.holds())
    return before_noon(stays).select(CONTRACTS["kpi_discharge_before_noon_daily"].column_names)


def before_noon(stays: Frame) -> Frame:
    """Discharges before noon by the day the visit began, the day of discharge and hospital."""
    inpatient = stays.filter(nw.col("stay_class") == "inpatient").with_columns(
        period_date=nw.coalesce(nw.col("end_local").dt.date(), nw.col("service_date"))
    )
    return rates(
        inpatient,
        ("service_date", "period_date"),
        ("hospital_id",),
        excluded={
            "open": nw.col("stay_end_at").is_null(),
            # Of an end known by its day only nobody knows the hour.
            "untimed": nw.col("segment_hours").is_null(),
            "expired": nw.col("discharge_disposition") == "expired",
            "undelivered": lacks("kpi_discharge_before_noon_daily"),
        },
        counted={"numerator_count": nw.col("end_local").dt.hour() < NOON_HOUR},
    )
