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
    """
    contract = CONTRACTS["kpi_forecast_drift"]
    over = daily["service_date"].max()
    rows = pl.DataFrame()
    if isinstance(over, date):
        # Weeks end on Sundays.
        last = over - timedelta(days=over.isoweekday() % 7)
        first = last - timedelta(weeks=_BASELINE_WEEKS + 2 * _RECENT_WEEKS) + timedelta(days=1)
        recent = daily.filter(
            pl.col("is_shipped"), pl.col("horizon_days") <= _DRIFT_DAYS, pl.col("target_date").is_between(first, last)
        )
        rows = _with_actual(recent, _came(daily, arrivals), ["target_date"])
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
    """Scores of forecasts whose hour or day is over."""
    contract = CONTRACTS["kpi_forecast_accuracy"]
    over = daily["service_date"].max()
    if not isinstance(over, date):
        return pl.DataFrame(schema=contract.polars_schema)
    came = _came(daily, arrivals)
    first = (over - timedelta(days=SCORED_DAYS)).replace(day=1)
    frames = []
    for grain, made, horizon in (("hour", hourly, "horizon_hours"), ("day", daily, "horizon_days")):
        slot = ["target_date", *(["hour_of_day"] if grain == "hour" else [])]
        joined = _with_actual(made.filter(pl.col("target_date") >= first), came, slot)
        joined = joined.filter(pl.col("existing_hours") > 0)
        if not joined.is_empty():
            joined = joined.with_columns(grain=pl.lit(grain), horizon_band=horizon_band(grain, horizon))
            frames.append(_scored(joined, _moved(came, slot)))
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


def _came(daily: pl.DataFrame, arrivals: pl.DataFrame) -> pl.DataFrame:
    """Arrivals by hospital, day and hour, of the days that are over there and known (`series.delivered`)."""
    from hospital_assets.forecasting.series import delivered

    # The as-of day of a hospital's newest forecast is over there, and so is every day before it.
    over = daily.group_by("hospital_id").agg(_over=pl.col("service_date").max())
    by_hour = (
        arrivals.join(over, on="hospital_id")
        .filter(pl.col("service_date") <= pl.col("_over"))
        .select(
            "hospital_id", "hour_of_day", target_date="service_date", arrivals=pl.col("arrivals_count").cast(pl.Float64)
        )
    )
    days = by_hour.group_by("hospital_id", "target_date").agg(pl.col("arrivals").sum()).sort("target_date")
    known = [rows.filter(delivered(rows["arrivals"].to_numpy())) for rows in days.partition_by("hospital_id")]
    return by_hour.join(pl.concat([days.clear(), *known]), on=["hospital_id", "target_date"], how="semi")


def _with_actual(made: pl.DataFrame, came: pl.DataFrame, slot: list[str]) -> pl.DataFrame:
    """Forecasts with what came (`arrivals`), where that is known.

    Of `all` it is where all hospitals are known that the forecast is the sum of: the others were not forecast, and
    those that did not deliver were.
    """
    actual = came.group_by("hospital_id", *slot).agg(pl.col("arrivals").sum())
    own = made.filter(pl.col("hospital_id") != ALL).join(actual, on=["hospital_id", *slot], how="left")
    summed = (
        own.filter("is_shipped")
        .group_by("service_date", *slot)
        .agg(pl.col("arrivals").sum(), _is_known=pl.col("arrivals").is_not_null().all())
        .filter("_is_known")
        .drop("_is_known")
    )
    total = made.filter(pl.col("hospital_id") == ALL).join(summed, on=["service_date", *slot])
    return pl.concat([own.drop_nulls("arrivals"), total.select(own.columns)])


def _moved(came: pl.DataFrame, slot: list[str]) -> pl.DataFrame:
    """By how many arrivals each slot differs from that of a week before (`moved`); `all`: where both are known."""
    own = came.group_by("hospital_id", *slot).agg(pl.col("arrivals").sum())
    before = own.with_columns(pl.col("target_date").dt.offset_by("1w"))
    moved = own.join(before, on=["hospital_id", *slot], suffix="_before").select(
        "hospital_id", *slot, moved=pl.col("arrivals") - pl.col("arrivals_before")
    )
    total = moved.group_by(slot).agg(pl.col("moved").sum()).with_columns(hospital_id=pl.lit(ALL))
    return pl.concat([moved, total.select(moved.columns)]).with_columns(pl.col("moved").abs())


def _scored(joined: pl.DataFrame, moved: pl.DataFrame) -> pl.DataFrame:
    """Group by group, the means of the scores; MASE is against the mean of `_moved` of the days before the month."""
    rows = _with_outcomes(joined).with_columns(period_month=pl.col("target_date").dt.month_start())
    rows = pl.concat([rows, rows.with_columns(horizon_band=pl.lit(ALL))])
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
    scales = (
        found.select("hospital_id", "period_month")
        .unique()
        .join(moved, on="hospital_id")
        .filter(pl.col("target_date") < pl.col("period_month"))
        .group_by("hospital_id", "period_month")
        .agg(scale=pl.col("moved").mean())
        .filter(pl.col("scale") > 0)
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
