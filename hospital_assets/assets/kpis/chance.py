"""Limits of chance for trends and hospitals, so that no reader mistakes noise for a finding."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import dagster as dg
import narwhals as nw

from hospital_assets.assets.declare import table
from hospital_assets.assets.kpis.totals import share_pct
from hospital_assets.assets.resources import ClockResource
from hospital_assets.clock import last_whole_day
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.kpis import ALL
from hospital_assets.measures import funnel_limits
from hospital_assets.measures.natural_limits import with_natural_limits
from hospital_assets.warehouse.dialect import Frame, checkpoint


@dg.asset(**table("kpi_trends"))
def kpi_trends(
    kpi_lwbs_daily: Frame,
    kpi_four_hour_daily: Frame,
    kpi_boarding_daily: Frame,
    kpi_critical_waits_daily: Frame,
    kpi_waits_daily: Frame,
    clock: ClockResource,
) -> Frame:
    """Daily values of the main rates and of the wait, with their natural limits."""
    daily = {
        name: summed.select("hospital_id", "period_date", value=share_pct("n", "d"))
        for name, summed in by_day(
            kpi_lwbs_daily, kpi_four_hour_daily, kpi_boarding_daily, kpi_critical_waits_daily
        ).items()
    }
    daily["wait_average_minutes"] = kpi_waits_daily.filter(
        nw.col("department_name") == ALL, nw.col("triage_group") == ALL
    ).select("hospital_id", nw.col("service_date").alias("period_date"), nw.col("wait_average_minutes").alias("value"))
    values = nw.concat(
        [frame.with_columns(metric=nw.lit(name)) for name, frame in daily.items()], how="vertical"
    ).filter(~nw.col("value").is_null())
    values = whole_days(values, kpi_waits_daily, last_whole_day(clock.now()))
    return with_natural_limits(checkpoint(values), checkpoint, clock.baselines).select(
        CONTRACTS["kpi_trends"].column_names
    )


def whole_days(values: Frame, days: Frame, last: date) -> Frame:
    """Values of days that are over and are landed at the hospital: where nobody came, only who came before leaves.

    Args:
        values: with `hospital_id` and `period_date`.
        days: with the `hospital_id` and `service_date` of every day on which somebody came.
        last: the last day that is over.
    """
    at = ["hospital_id", "period_date"]
    landed = days.filter(nw.col("service_date") <= nw.lit(last)).rename({"service_date": "period_date"}).select(*at)
    return values.join(landed.unique(), on=at, how="semi")


def by_day(lwbs: Frame, four_hour: Frame, boarding: Frame, critical: Frame) -> dict[str, Frame]:
    """Numerator, denominator and population of each rate by hospital and the day it counts for."""
    boarding = boarding.filter(nw.col("destination_department") == ALL)
    dated = {
        "lwbs_pct": (lwbs, "service_date"),
        "four_hour_pct": (four_hour, "period_date"),
        "long_boarding_pct": (boarding, "service_date"),
        "critical_late_pct": (critical, "service_date"),
    }
    return {
        name: frame.group_by("hospital_id", day)
        .agg(n=nw.col("numerator_count").sum(), d=nw.col("denominator_count").sum(), p=nw.col("population_count").sum())
        .select("hospital_id", nw.col(day).alias("period_date"), "n", "d", "p")
        for name, (frame, day) in dated.items()
    }


@dg.asset(**table("kpi_units"))
def kpi_units(
    kpi_lwbs_daily: Frame, kpi_four_hour_daily: Frame, kpi_boarding_daily: Frame, kpi_critical_waits_daily: Frame
) -> Frame:
    """Rates of the whole period by hospital, with limits around that of all."""
    rates = by_day(kpi_lwbs_daily, kpi_four_hour_daily, kpi_boarding_daily, kpi_critical_waits_daily)
    return with_funnel_limits(rates).select(CONTRACTS["kpi_units"].column_names)


def with_funnel_limits(rates: Mapping[str, Frame]) -> Frame:
    """Each hospital's rate and that of all hospitals, with limits for its n.

    Args:
        rates: metric -> hospital_id, n (numerator), d (denominator), p (population), and rows that
            pool all hospitals.
    """
    summed = checkpoint(
        nw.concat(
            [
                frame.filter(nw.col("hospital_id") != ALL)
                .group_by("hospital_id")
                .agg(
                    numerator_count=nw.col("n").sum(),
                    denominator_count=nw.col("d").sum(),
                    population_count=nw.col("p").sum(),
                )
                .with_columns(metric=nw.lit(name))
                for name, frame in rates.items()
            ],
            how="vertical",
        )
    )
    frame = funnel_limits.with_funnel_limits(summed, checkpoint).with_columns(
        excluded_count=nw.col("population_count") - nw.col("denominator_count"),
        value_pct=share_pct("numerator_count", "denominator_count"),
        centre_pct=100.0 * nw.col("centre"),
        lower_limit_pct=100.0 * nw.col("lower"),
        upper_limit_pct=100.0 * nw.col("upper"),
        dispersion=nw.when(nw.col("unit_count") >= funnel_limits.LEAST_UNITS).then(nw.col("dispersion")),
    )
    return frame.with_columns(
        is_outside=(nw.col("value_pct") < nw.col("lower_limit_pct")) | (nw.col("value_pct") > nw.col("upper_limit_pct"))
    )
