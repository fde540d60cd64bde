"""Returns: who is back in an emergency department within `RETURN_HOURS`."""

from collections.abc import Iterable
from datetime import date, datetime

import dagster as dg
import narwhals as nw

from hospital_assets.assets.declare import table
from hospital_assets.assets.kpis.emergency import with_hospital
from hospital_assets.assets.kpis.episodes import with_following
from hospital_assets.assets.kpis.totals import month_of, rates
from hospital_assets.assets.resources import ClockResource
from hospital_assets.clock import end_of_day
from hospital_assets.contracts import CONTRACTS
from hospital_assets.measures.lwbs import LEFT, NOT_DISCHARGED
from hospital_assets.measures.presence import visit_until
from hospital_assets.measures.thresholds import RETURN_HOURS
from hospital_assets.warehouse.dialect import Frame, checkpoint, hours_between, hours_of


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
    """Returns, by month of the first departure."""
    visits = (
        with_hospital(fact_emergency_visits, dim_hospital)
        .join(persons_of(dim_patient, dim_person), on="patient_key", how="left")
        .select(
            "visit_id",
            "hospital_id",
            "is_cancelled",
            "arrival_at",
            "departure_at",
            "is_open",
            "disposition",
            "person_key",
            "period_date",
        )
    )
    members = dim_hospital.filter(nw.col("hospital_key") > 0, ~nw.col("time_zone").is_null())
    zones = members.select("time_zone").unique().collect("polars")["time_zone"].to_list()
    end = known_until(clock.now(), clock.settings.last_service_date, zones)
    return returns(checkpoint(visits), nw.lit(end).cast(nw.Datetime("us", "UTC"))).select(
        CONTRACTS["kpi_returns"].column_names
    )


def known_until(now: datetime, last_service_date: date | None, time_zones: Iterable[str]) -> datetime:
    """Until when all hospitals' arrivals are known: now, or when the last service day has ended at the first one."""
    ends = [] if last_service_date is None else [end_of_day(last_service_date, zone) for zone in time_zones]
    return min([now, *ends])


def returns(visits: Frame, data_end: nw.Expr) -> Frame:
    """Visits whose patient is back within `RETURN_HOURS`, in three variants.

    Args:
        visits: visits with hospital, period_date and person_key (null: unknown).
        data_end: the moment until which returns are known.
    """
    known = visits.filter(~nw.col("is_cancelled")).with_columns(_until_at=visit_until("arrival_at", "departure_at"))
    followed = with_following(
        visits,
        known,
        key="visit_id",
        start="arrival_at",
        end="departure_at",
        carried=["arrival_at", "disposition"],
        joins=True,
    )
    frame = followed.select(
        "hospital_id",
        "is_cancelled",
        "departure_at",
        "is_open",
        "disposition",
        "person_key",
        "_next_disposition",
        "_is_overlapped",
        period_month=month_of(nw.col("period_date")),
        _hours=hours_between("departure_at", "_next_arrival_at"),
        _until_end_hours=hours_of(data_end - nw.col("departure_at")),
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
            "open": nw.col("is_open"),
            "untimed": nw.col("departure_at").is_null(),
            "not_discharged": nw.col("disposition").is_in(NOT_DISCHARGED),
            "unknown": nw.col("disposition").is_null(),
            "left": nw.col("disposition").is_in(LEFT) & ~nw.col("_takes_left"),
            "unknown_patient": nw.col("person_key").is_null(),
            "overlapping": nw.col("_is_overlapped"),
            "run_out": nw.col("_until_end_hours") < RETURN_HOURS,
        },
        counted={"numerator_count": (nw.col("_hours") <= RETURN_HOURS) & nw.col("_counts")},
    )
