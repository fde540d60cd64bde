"""How good the stored forecasts were, once their hours and days are over."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from hospital_assets.assets.declare import all_days, table
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.forecasts import BANDS
from hospital_assets.contracts.kpis import ALL

if TYPE_CHECKING:
    import numpy as np

    from hospital_assets.forecasting.counts import Array

#: Days before the newest whose months are scored, from their first day on: scoring a year at every run would cost more
#: than the forecasts. Older forecasts stay stored.
_SCORED_DAYS = 62
#: So many distributions of counts are in memory at a time.
_CHUNK = 4_000
_SEASONS = {"hour": 7 * 24, "day": 7}
_GROUP = ["period_month", "hospital_id", "grain", "horizon_band", "method"]


@dg.asset(
    **table("kpi_forecast_accuracy"),
    ins=all_days("forecast_arrivals_hourly", "forecast_arrivals_daily", "kpi_arrivals_hourly"),
)
def kpi_forecast_accuracy(
    forecast_arrivals_hourly: pl.DataFrame, forecast_arrivals_daily: pl.DataFrame, kpi_arrivals_hourly: pl.DataFrame
) -> pl.DataFrame:
    """Scores by month, hospital, grain, horizon band and method."""
    return accuracy(forecast_arrivals_hourly, forecast_arrivals_daily, kpi_arrivals_hourly)


def accuracy(hourly: pl.DataFrame, daily: pl.DataFrame, arrivals: pl.DataFrame) -> pl.DataFrame:
    """Scores of forecasts whose hour or day is over.

    Args:
        hourly: forecast_arrivals_hourly.
        daily: forecast_arrivals_daily.
        arrivals: kpi_arrivals_hourly.
    """
    contract = CONTRACTS["kpi_forecast_accuracy"]
    last = arrivals["service_date"].max()
    # The as-of day of the newest forecast is over, and so is every day before it.
    over = daily["service_date"].max()
    if not isinstance(last, date) or not isinstance(over, date):
        return pl.DataFrame(schema=contract.polars_schema)
    came = _came(arrivals.filter(pl.col("service_date") <= over))
    frames = []
    for grain, made, horizon in (("hour", hourly, "horizon_hours"), ("day", daily, "horizon_days")):
        key = ["hospital_id", "target_date", *(["hour_of_day"] if grain == "hour" else [])]
        band = pl.col(horizon).replace_strict(
            {n: _band(grain, n) for n in range(1, BANDS[grain][-1][1] + 1)}, return_dtype=pl.String
        )
        actual = came.group_by(key).agg(pl.col("arrivals").sum())
        joined = made.filter(
            pl.col("target_date") >= (over - timedelta(days=_SCORED_DAYS)).replace(day=1), pl.col("existing_hours") > 0
        ).join(actual, on=key, how="inner")
        if not joined.is_empty():
            frames.append(_scored(joined.with_columns(grain=pl.lit(grain), horizon_band=band), came))
    if not frames:
        return pl.DataFrame(schema=contract.polars_schema)
    # Rounded, because sums of fractions depend on their order.
    scores = pl.concat(frames).with_columns(pl.selectors.float().round(9))
    return scores.select(contract.column_names).cast(contract.polars_schema).sort(contract.key)


def _band(grain: str, horizon: int) -> str:
    return next(name for name, last in BANDS[grain] if horizon <= last)


def _came(arrivals: pl.DataFrame) -> pl.DataFrame:
    """Arrivals by hospital, day and hour, with those of all hospitals; days without any are not known to be empty."""
    by_hour = arrivals.select(
        "hospital_id", "hour_of_day", target_date="service_date", arrivals=pl.col("arrivals_count").cast(pl.Float64)
    ).filter(pl.col("arrivals").sum().over("hospital_id", "target_date") > 0)
    total = by_hour.group_by("target_date", "hour_of_day").agg(pl.col("arrivals").sum())
    return pl.concat([by_hour, total.with_columns(hospital_id=pl.lit(ALL)).select(by_hour.columns)])


def _scored(joined: pl.DataFrame, came: pl.DataFrame) -> pl.DataFrame:
    """Group by group, the means of the scores."""
    # By size, so that no chunk holds distributions much wider than most of its own.
    joined = joined.sort("expected_arrivals", "count_dispersion")
    scores = pl.concat([_outcomes(chunk) for chunk in joined.iter_slices(_CHUNK)])
    rows = pl.concat([joined, scores], how="horizontal").with_columns(
        period_month=pl.col("target_date").dt.month_start()
    )
    rows = pl.concat([rows, rows.with_columns(horizon_band=pl.lit(ALL))])
    grain = rows["grain"][0]
    mean_error = (pl.col("expected_arrivals") - pl.col("arrivals")).mean()
    # All forecasts of one day err together: the days forecast are what is independent.
    by_day = (
        rows.group_by(*_GROUP, "target_date")
        .agg(error=mean_error)
        .group_by(_GROUP)
        .agg(bias_error=pl.col("error").std() / pl.len().sqrt())
    )
    found = rows.group_by(_GROUP).agg(
        forecasts_count=pl.len(),
        shipped_count=pl.col("is_shipped").sum(),
        arrivals_count=pl.col("arrivals").sum(),
        mae=(pl.col("arrivals") - pl.col("p50_count")).abs().mean(),
        bias=mean_error,
        **{f"pinball_{q}": pl.col(f"pinball_{q}").mean() for q in (10, 50, 90)},
        crps=pl.col("crps").mean(),
        floor=pl.col("floor").mean(),
        **{f"pit_{q}_pct": 100 * pl.col(f"pit_{q}").mean() for q in (50, 80, 95)},
    )
    rule = found.filter(pl.col("method") == "slot_mean").select(*_GROUP[:-1], rule=pl.col("crps"))
    scales = pl.DataFrame(
        [
            {"hospital_id": hospital, "period_month": month, "scale": _scale(came, grain, hospital, month)}
            for hospital, month in found.select("hospital_id", "period_month").unique().iter_rows()
        ],
        schema={"hospital_id": pl.String, "period_month": pl.Date, "scale": pl.Float64},
    )
    return (
        found.join(by_day, on=_GROUP, how="left")
        .join(rule, on=_GROUP[:-1], how="left")
        .join(scales, on=["hospital_id", "period_month"], how="left")
        .with_columns(
            mase=pl.col("mae") / pl.col("scale"),
            floor_mase=pl.col("floor") / pl.col("scale"),
            # The two rivals are always forecast together, so that their scores are of the same hours and days.
            skill_pct=pl.when(pl.col("rule") > 0, pl.col("method").is_in(["regression", "slot_mean"])).then(
                100 * (1 - pl.col("crps") / pl.col("rule"))
            ),
        )
    )


def _outcomes(rows: pl.DataFrame) -> pl.DataFrame:
    """CRPS, the Poisson floor, pinball losses, and the share of each PIT interval within the middle 50, 80 and 95 %."""
    from hospital_assets.forecasting.scores import outcomes, pinball, pit_share

    def values(name: str) -> Array:
        found: np.ndarray[Any, Any] = rows[name].cast(pl.Float64).to_numpy()
        return found

    scored = outcomes(values("arrivals"), values("expected_arrivals"), values("count_dispersion"))
    shares = {
        f"pit_{q}": pit_share(scored.pit_low, scored.pit_high, 0.5 - q / 200, 0.5 + q / 200) for q in (50, 80, 95)
    }
    losses = {f"pinball_{q}": pinball(scored.actual, values(f"p{q}_count"), q / 100) for q in (10, 50, 90)}
    return pl.DataFrame({"crps": scored.crps, "floor": scored.floor, **losses, **shares})


def _scale(came: pl.DataFrame, grain: str, hospital: str, month: date) -> float | None:
    """Mean absolute difference of the same slot a week apart, over the days before a month; None where too few."""
    from hospital_assets.forecasting.scores import naive_scale

    rows = came.filter(pl.col("hospital_id") == hospital, pl.col("target_date") < month)
    if rows.is_empty():
        return None
    days = rows["target_date"].unique().sort()
    calendar = pl.DataFrame({"target_date": pl.date_range(days[0], days[-1], eager=True)})
    keys = ["target_date"]
    if grain == "hour":
        calendar, keys = (
            calendar.join(pl.DataFrame({"hour_of_day": range(24)}), how="cross"),
            ["target_date", "hour_of_day"],
        )
    series = calendar.join(rows.group_by(keys).agg(pl.col("arrivals").sum()), on=keys, how="left").sort(keys)
    found = naive_scale(series["arrivals"].fill_null(float("nan")).to_numpy(), _SEASONS[grain])
    return found if found > 0 else None
