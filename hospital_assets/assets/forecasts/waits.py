"""Waits of the two days after each as-of day of a run: those of the same hour over the last four weeks."""

from datetime import date, timedelta

import dagster as dg
import narwhals as nw
import polars as pl

from hospital_assets.assets.declare import all_days, table
from hospital_assets.clock import end_of_day
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.forecasts import LONG_WAIT_MINUTES, SAME_HOUR
from hospital_assets.contracts.kpis import ALL
from hospital_assets.measures.triage import WAIT_TARGETS_MINUTES
from hospital_assets.warehouse.dialect import Frame

_DAYS = 28
#: Days with a wait in the hour, below which there is no band.
LEAST_DAYS = 14
_QUANTILES = {"mean_wait_p10_minutes": 0.1, "mean_wait_p50_minutes": 0.5, "mean_wait_p90_minutes": 0.9}


@dg.asset(**table("forecast_waits_hourly"), ins=all_days("fact_emergency_visits"))
def forecast_waits_hourly(
    forecast_arrivals_hourly: pl.DataFrame, fact_emergency_visits: Frame, dim_hospital: pl.DataFrame
) -> pl.DataFrame:
    """Waits by the hour of the days that arrivals are forecast of."""
    made = forecast_arrivals_hourly["service_date"].unique().sort().to_list()
    if not made:
        return pl.DataFrame(schema=CONTRACTS["forecast_waits_hourly"].polars_schema)
    day = nw.col("service_date")
    visits = fact_emergency_visits.filter(
        day > nw.lit(made[0] - timedelta(days=_DAYS)),
        day <= nw.lit(made[-1]),
        ~nw.col("is_cancelled"),
        ~nw.col("wait_minutes").is_null(),
    ).select("service_date", "hospital_key", "arrival_local", "provider_at", "wait_minutes", "triage_level")
    return waits(forecast_arrivals_hourly, visits.collect("polars").to_native(), dim_hospital)


def waits(arrivals: pl.DataFrame, visits: pl.DataFrame, hospitals: pl.DataFrame) -> pl.DataFrame:
    """Bands of the mean wait of an hour, by as-of day, hospital and hour ahead.

    Args:
        arrivals: forecast_arrivals_hourly.
        visits: of fact_emergency_visits those with a valid wait; what was not known on an as-of day is not used for it.
        hospitals: dim_hospital.
    """
    ahead = arrivals.filter(pl.col("is_shipped"), pl.col("hospital_id") != ALL, pl.col("existing_hours") > 0).select(
        "service_date", "hospital_id", "target_date", "hour_of_day", "horizon_hours", "expected_arrivals"
    )
    places = hospitals.filter(pl.col("time_zone").is_not_null()).select("hospital_key", "hospital_id", "time_zone")
    # In one order, however they are stored: sums of floats differ in their last digits.
    order = ["arrival_local", "provider_at", "wait_minutes", "triage_level"]
    by_visit = (
        visits.join(places, on="hospital_key")
        .sort("hospital_key", *order)
        .with_columns(
            hour_of_day=pl.col("arrival_local").dt.hour().cast(pl.Int64),
            _within=(
                pl.col("wait_minutes") <= pl.col("triage_level").replace_strict(WAIT_TARGETS_MINUTES, default=None)
            ).cast(pl.Float64),
        )
    )
    found = [_of_hours(by_visit, places, as_of) for as_of in ahead["service_date"].unique().sort()]
    contract = CONTRACTS["forecast_waits_hourly"]
    if not found:
        return pl.DataFrame(schema=contract.polars_schema)
    rows = ahead.join(pl.concat(found), on=["service_date", "hospital_id", "hour_of_day"])
    return (
        rows.with_columns(method=pl.lit(SAME_HOUR))
        .select(contract.column_names)
        .cast(contract.polars_schema)
        .sort(contract.key)
    )


def _of_hours(visits: pl.DataFrame, places: pl.DataFrame, as_of: date) -> pl.DataFrame:
    """What is known at the end of a day of each hour of the day at each hospital."""
    over = [end_of_day(as_of, zone) for zone in places["time_zone"]]
    ends = places.select("hospital_id", _end=pl.Series(over, dtype=pl.Datetime("us", "UTC")))
    known = visits.filter(pl.col("service_date").is_between(as_of - timedelta(days=_DAYS), as_of, closed="right")).join(
        ends, on="hospital_id"
    )
    known = known.filter(pl.col("provider_at").dt.epoch("us") < pl.col("_end").dt.epoch("us"))
    hours = known.group_by("hospital_id", "hour_of_day", "service_date", maintain_order=True).agg(
        _wait=pl.col("wait_minutes").mean(), _within=pl.col("_within").sum(), _assessed=pl.col("_within").count()
    )
    assessed = pl.col("_assessed").sum()
    return (
        hours.group_by("hospital_id", "hour_of_day", maintain_order=True)
        .agg(
            days_count=pl.len(),
            **{name: pl.col("_wait").quantile(level, "linear") for name, level in _QUANTILES.items()},
            over_60_pct=100.0 * (pl.col("_wait") > LONG_WAIT_MINUTES).mean(),
            within_target_pct=pl.when(assessed > 0).then(100.0 * pl.col("_within").sum() / assessed),
        )
        .filter(pl.col("days_count") >= LEAST_DAYS)
        .with_columns(service_date=pl.lit(as_of))
    )
