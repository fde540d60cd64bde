"""How good the stored forecasts were, once their hours and days are over."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from hospital_assets.assets.declare import all_days, several_tables
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.forecasts import BANDS
from hospital_assets.contracts.kpis import ALL
from hospital_assets.measures.natural_limits import RANGE_PER_DEVIATION

if TYPE_CHECKING:
    import numpy as np

    from hospital_assets.forecasting.counts import Array

#: Days before the newest whose months are scored, from their first day on: scoring a year at every run would cost more
#: than the forecasts. Older forecasts stay stored.
SCORED_DAYS = 62
#: So many distributions of counts are in memory at a time: more are slower, they leave the processor's cache.
_CHUNK = 250
_SEASONS = {"hour": 7 * 24, "day": 7}
_GROUP = ["period_month", "hospital_id", "grain", "horizon_band", "method"]


#: Drift is looked for in the totals of days so far ahead, over so many weeks together, against as many as there are of
#: the weeks before them; with fewer than the least there is no limit.
_DRIFT_DAYS, _RECENT_WEEKS, _BASELINE_WEEKS, _LEAST_BASELINE_WEEKS = 2, 4, 26, 8


@dg.multi_asset(
    **several_tables("forecast_accuracy", "kpi_forecast_accuracy", "kpi_forecast_drift"),
    ins=all_days("forecast_arrivals_hourly", "forecast_arrivals_daily", "kpi_arrivals_hourly"),
)
def forecast_accuracy(
    forecast_arrivals_hourly: pl.DataFrame, forecast_arrivals_daily: pl.DataFrame, kpi_arrivals_hourly: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Scores by month, hospital, grain, horizon band and method; and by week, whether they have become worse."""
    return (
        accuracy(forecast_arrivals_hourly, forecast_arrivals_daily, kpi_arrivals_hourly),
        drift(forecast_arrivals_daily, kpi_arrivals_hourly),
    )


def drift(daily: pl.DataFrame, arrivals: pl.DataFrame) -> pl.DataFrame:
    """Weeks that are over, and whether the last four to each are forecast worse than the weeks before them were.

    The measure is CRPS over what it would be if the forecasts were the truth: 1 in the mean, however many come. The
    limit is three standard deviations (by moving ranges) over the mean of the weeks before.

    Args:
        daily: forecast_arrivals_daily.
    """
    contract = CONTRACTS["kpi_forecast_drift"]
    over = daily["service_date"].max()
    rows = pl.DataFrame()
    if isinstance(over, date):
        # Weeks end on Sundays.
        last = over - timedelta(days=over.isoweekday() % 7)
        first = last - timedelta(weeks=_BASELINE_WEEKS + 2 * _RECENT_WEEKS) + timedelta(days=1)
        came = _came(arrivals.filter(pl.col("service_date").is_between(first, last)))
        actual = came.group_by("hospital_id", "target_date").agg(pl.col("arrivals").sum())
        rows = daily.filter(pl.col("is_shipped"), pl.col("horizon_days") <= _DRIFT_DAYS).join(
            actual, on=["hospital_id", "target_date"]
        )
    if rows.is_empty():
        return pl.DataFrame(schema=contract.polars_schema)
    by_week = (
        _with_outcomes(rows)
        .group_by("hospital_id", week_end_date=pl.col("target_date").dt.truncate("1w").dt.offset_by("6d"))
        .agg(forecasts_count=pl.len(), crps=pl.col("crps").mean(), expected_crps=pl.col("expected_crps").mean())
        .filter(pl.col("forecasts_count") == 7 * _DRIFT_DAYS)
        .sort("hospital_id", "week_end_date")
        .with_columns(crps_ratio=pl.col("crps") / pl.col("expected_crps"))
    )
    if by_week.is_empty():
        return pl.DataFrame(schema=contract.polars_schema)
    by_week = by_week.with_columns(pl.selectors.float().round(9))
    found = [_limited(weeks) for weeks in by_week.partition_by("hospital_id", maintain_order=True)]
    return pl.concat(found).select(contract.column_names).cast(contract.polars_schema).sort(contract.key)


def _limited(weeks: pl.DataFrame) -> pl.DataFrame:
    """Weeks of one hospital, in order, with the limit of each four that the weeks before them set."""
    before = pl.col("crps_ratio").shift(_RECENT_WEEKS)
    usual = before.rolling_mean(window_size=_BASELINE_WEEKS, min_samples=_LEAST_BASELINE_WEEKS)
    moved = (pl.col("crps_ratio") - pl.col("crps_ratio").shift(1)).abs().shift(_RECENT_WEEKS)
    ranges = moved.rolling_mean(window_size=_BASELINE_WEEKS - 1, min_samples=_LEAST_BASELINE_WEEKS - 1)
    # Of the mean of some weeks.
    deviation = ranges / RANGE_PER_DEVIATION / _RECENT_WEEKS**0.5
    known = before.is_not_null().cast(pl.Int64).rolling_sum(window_size=_BASELINE_WEEKS, min_samples=1)
    return weeks.with_columns(
        recent_ratio=pl.col("crps_ratio").rolling_mean(window_size=_RECENT_WEEKS),
        baseline_weeks_count=known,
        limit_ratio=usual + 3 * deviation,
    ).with_columns(is_drifting=pl.col("recent_ratio") > pl.col("limit_ratio"))


def accuracy(hourly: pl.DataFrame, daily: pl.DataFrame, arrivals: pl.DataFrame) -> pl.DataFrame:
    """Scores of forecasts whose hour or day is over.

    Args:
        hourly: forecast_arrivals_hourly.
        daily: forecast_arrivals_daily.
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
        actual = came.group_by(key).agg(pl.col("arrivals").sum())
        joined = made.filter(
            pl.col("target_date") >= (over - timedelta(days=SCORED_DAYS)).replace(day=1), pl.col("existing_hours") > 0
        ).join(actual, on=key, how="inner")
        if not joined.is_empty():
            joined = joined.with_columns(grain=pl.lit(grain), horizon_band=horizon_band(grain, horizon))
            frames.append(_scored(joined, came))
    if not frames:
        return pl.DataFrame(schema=contract.polars_schema)
    # Rounded, because sums of fractions depend on their order.
    scores = pl.concat(frames).with_columns(pl.selectors.float().round(9))
    return scores.select(contract.column_names).cast(contract.polars_schema).sort(contract.key)


def horizon_band(grain: str, horizon: str) -> pl.Expr:
    """The band of `BANDS` that a column of hours or days ahead lies in."""
    bands: dict[int, str] = {}
    first = 1
    for name, last in BANDS[grain]:
        bands |= dict.fromkeys(range(first, last + 1), name)
        first = last + 1
    return pl.col(horizon).replace_strict(bands, return_dtype=pl.String)


def _came(arrivals: pl.DataFrame) -> pl.DataFrame:
    """Arrivals by hospital, day and hour, with those of all hospitals; days without any are not known to be empty."""
    by_hour = arrivals.select(
        "hospital_id", "hour_of_day", target_date="service_date", arrivals=pl.col("arrivals_count").cast(pl.Float64)
    ).filter(pl.col("arrivals").sum().over("hospital_id", "target_date") > 0)
    total = by_hour.group_by("target_date", "hour_of_day").agg(pl.col("arrivals").sum())
    return pl.concat([by_hour, total.with_columns(hospital_id=pl.lit(ALL)).select(by_hour.columns)])


def _scored(joined: pl.DataFrame, came: pl.DataFrame) -> pl.DataFrame:
    """Group by group, the means of the scores."""
    rows = _with_outcomes(joined).with_columns(period_month=pl.col("target_date").dt.month_start())
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


def _with_outcomes(rows: pl.DataFrame) -> pl.DataFrame:
    """Forecasts with their scores, in another order."""
    # By size, so that no chunk holds distributions much wider than most of its own.
    rows = rows.sort("expected_arrivals", "count_dispersion")
    return pl.concat([rows, pl.concat([_outcomes(chunk) for chunk in rows.iter_slices(_CHUNK)])], how="horizontal")


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
    found = {"crps": scored.crps, "expected_crps": scored.expected_crps}
    return pl.DataFrame({**found, "floor": scored.floor, **losses, **shares})


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
