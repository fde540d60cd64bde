"""By which method waits are forecast at each hospital, and how good these forecasts were."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from hospital_assets.assets.declare import all_days, table
from hospital_assets.assets.forecasts.accuracy import SCORED_DAYS, horizon_band
from hospital_assets.assets.forecasts.staffing import of_days
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.forecasts import QUEUE, SAME_HOUR
from hospital_assets.contracts.kpis import ALL
from hospital_assets.warehouse.dialect import Frame
from hospital_assets.warehouse.io_manager import days_of_run

if TYPE_CHECKING:
    from hospital_assets.forecasting.gate import Verdict

#: Days from an as-of day until its hours ahead are over and their waits have ended.
_UNTIL_KNOWN = 3
_HOUR = ["hospital_id", "target_date", "hour_of_day"]
_FORECAST = ["service_date", *_HOUR]
_BAND = ["mean_wait_p10_minutes", "mean_wait_p50_minutes", "mean_wait_p90_minutes"]
_LOSSES = ("_median", "_high")


@dg.asset(**table("forecast_wait_methods"), ins=all_days("forecast_waits_hourly", "fact_emergency_visits"))
def forecast_wait_methods(
    context: dg.AssetExecutionContext,
    forecast_waits_hourly: Frame,
    fact_emergency_visits: Frame,
    dim_hospital: pl.DataFrame,
) -> pl.DataFrame:
    """The method that ships on each as-of day of the run, by what the forecasts before it show."""
    from hospital_assets.forecasting.gate import ORIGINS

    period = days_of_run(context)
    first, last = period.first - timedelta(days=ORIGINS + _UNTIL_KNOWN), period.end - timedelta(days=1)
    made = of_days(forecast_waits_hourly, first, last)
    as_of = sorted(day for day in made["service_date"].unique() if day >= period.first)
    return methods(made, came(of_days(fact_emergency_visits, first, last), dim_hospital), as_of)


def came(visits: pl.DataFrame, hospitals: pl.DataFrame) -> pl.DataFrame:
    """The mean wait of each hour: hospital_id, target_date, hour_of_day, wait_minutes.

    Waits that had not ended at the end of the day after are left out: they are not known in time for the gate.
    """
    wait = pl.duration(microseconds=(60e6 * pl.col("wait_minutes")).cast(pl.Int64))
    ended = (pl.col("arrival_local") + wait).dt.date()
    known = visits.filter(
        ~pl.col("is_cancelled"),
        pl.col("wait_minutes").is_not_null(),
        ended <= pl.col("service_date") + pl.duration(days=1),
    )
    return (
        known.join(hospitals.select("hospital_key", "hospital_id"), on="hospital_key")
        .select(
            "hospital_id",
            "wait_minutes",
            target_date="service_date",
            hour_of_day=pl.col("arrival_local").dt.hour().cast(pl.Int64),
        )
        # In one order, however they are stored: sums of floats differ in their last digits.
        .sort(*_HOUR, "wait_minutes")
        .group_by(_HOUR, maintain_order=True)
        .agg(pl.col("wait_minutes").mean())
    )


def methods(made: pl.DataFrame, waited: pl.DataFrame, as_of: Sequence[date]) -> pl.DataFrame:
    """The method that ships at each hospital on some as-of days.

    Args:
        made: forecast_waits_hourly, of these days and the four weeks before; what was not over is not used.
    """
    from hospital_assets.forecasting.gate import ORIGINS

    of_origins = _losses_by_origin(made, waited)
    rows = []
    for day in as_of:
        of_day = made.filter(pl.col("service_date") == day)
        last = day - timedelta(days=_UNTIL_KNOWN)
        known = of_origins.filter(
            pl.col("service_date").is_between(last - timedelta(days=ORIGINS), last, closed="right")
        )
        simulated = set(of_day.filter(pl.col("method") == QUEUE)["hospital_id"])
        for hospital in sorted(of_day["hospital_id"].unique()):
            origins = known.filter(pl.col("hospital_id") == hospital).sort("service_date")
            rows.append({"service_date": day, "hospital_id": hospital} | _decided(origins, hospital in simulated))
    return pl.DataFrame(rows, schema=CONTRACTS["forecast_wait_methods"].polars_schema)


def _decided(origins: pl.DataFrame, is_simulated: bool) -> dict[str, Any]:
    """What ships, and why."""
    from hospital_assets.forecasting.waits import verdicts

    losses = [origins.select(f"{name}_{method}" for name in _LOSSES).to_numpy() for method in (QUEUE, SAME_HOUR)]
    median, high = verdicts(*losses)
    is_better = median.is_passed and high.is_passed
    if not is_simulated:
        reason = "not_simulated"
    elif median.skill is None:
        reason = "too_few_forecasts"
    else:
        reason = "better" if is_better else "not_better"
    return {
        "method": QUEUE if reason == "better" else SAME_HOUR,
        "method_reason": reason,
        "origins_count": median.origins,
        "median_skill_pct": _skill(median),
        "high_skill_pct": _skill(high),
        "is_median_gate_passed": None if median.skill is None else median.is_passed,
        "is_high_gate_passed": None if high.skill is None else high.is_passed,
    }


def _skill(found: "Verdict") -> float | None:
    return None if found.skill is None else 100.0 * found.skill


def _losses_by_origin(made: pl.DataFrame, waited: pl.DataFrame) -> pl.DataFrame:
    """Mean losses of both methods over the hours that both forecast, by as-of day and hospital."""
    scored = _scored(made, waited)
    both = [
        scored.filter(pl.col("method") == method).select(
            *_FORECAST, *(pl.col(n).alias(f"{n}_{method}") for n in _LOSSES)
        )
        for method in (QUEUE, SAME_HOUR)
    ]
    joined = both[0].join(both[1], on=_FORECAST).sort(_FORECAST)
    return joined.group_by("service_date", "hospital_id", maintain_order=True).agg(
        pl.col(f"{name}_{method}").mean() for name in _LOSSES for method in (QUEUE, SAME_HOUR)
    )


def _scored(made: pl.DataFrame, waited: pl.DataFrame) -> pl.DataFrame:
    """Each forecast with what came, and its losses; those of hours in which nobody was seen are left out."""
    from hospital_assets.forecasting.waits import losses

    joined = made.join(waited, on=_HOUR).sort(*_FORECAST, "method")
    found = losses(joined["wait_minutes"].to_numpy(), joined.select(_BAND).to_numpy())
    return joined.with_columns(pl.Series(name, found[:, n], pl.Float64) for n, name in enumerate(_LOSSES))


@dg.asset(
    **table("kpi_wait_forecast_accuracy"),
    ins=all_days("forecast_waits_hourly", "forecast_wait_methods", "fact_emergency_visits"),
)
def kpi_wait_forecast_accuracy(
    forecast_waits_hourly: Frame,
    forecast_wait_methods: pl.DataFrame,
    fact_emergency_visits: Frame,
    dim_hospital: pl.DataFrame,
) -> pl.DataFrame:
    """Scores by month, hospital, horizon band and method."""
    newest = forecast_wait_methods["service_date"].max()
    if not isinstance(newest, date):
        return pl.DataFrame(schema=CONTRACTS["kpi_wait_forecast_accuracy"].polars_schema)
    first = (newest - timedelta(days=SCORED_DAYS)).replace(day=1)
    made = of_days(forecast_waits_hourly, first - timedelta(days=_UNTIL_KNOWN), newest)
    waited = came(of_days(fact_emergency_visits, first, newest), dim_hospital)
    return accuracy(made.filter(pl.col("target_date") >= first), forecast_wait_methods, waited)


def accuracy(made: pl.DataFrame, shipped: pl.DataFrame, waited: pl.DataFrame) -> pl.DataFrame:
    """Scores of forecasts of waits that are over.

    Args:
        made: forecast_waits_hourly.
        shipped: forecast_wait_methods.
        waited: see `came`; of hours until the as-of day of the newest forecast.
    """
    from hospital_assets.forecasting.scores import pinball

    contract = CONTRACTS["kpi_wait_forecast_accuracy"]
    newest = shipped["service_date"].max()
    if not isinstance(newest, date):
        return pl.DataFrame(schema=contract.polars_schema)
    over = waited.filter(pl.col("target_date") < newest)
    low, middle, high = (pl.col(name) for name in _BAND)
    wait = pl.col("wait_minutes")
    rows = _scored(made, over)
    rows = rows.join(
        shipped.select("service_date", "hospital_id", "method", is_shipped=True),
        on=["service_date", "hospital_id", "method"],
        how="left",
        maintain_order="left",
    ).with_columns(
        pl.Series(f"_pinball_{q}", pinball(rows["wait_minutes"].to_numpy(), rows[name].to_numpy(), q / 100), pl.Float64)
        for q, name in zip((10, 50, 90), _BAND, strict=True)
    )
    rows = rows.with_columns(
        period_month=pl.col("target_date").dt.month_start(),
        horizon_band=horizon_band("hour", "horizon_hours"),
        _rule=pl.col("_median").filter(pl.col("method") == SAME_HOUR).first().over(_FORECAST),
        _is_both=pl.len().over(_FORECAST) > 1,
    )
    both = pl.col("_is_both")
    rule = pl.col("_rule").filter(both).mean()
    found = (
        pl.concat([rows, rows.with_columns(horizon_band=pl.lit(ALL))])
        .group_by(contract.key, maintain_order=True)
        .agg(
            forecasts_count=pl.len(),
            shipped_count=pl.col("is_shipped").count(),
            wait_mean_minutes=wait.mean(),
            wait_mae_minutes=pl.col("_median").mean(),
            wait_bias_minutes=(middle - wait).mean(),
            **{f"wait_pinball_{q}_minutes": pl.col(f"_pinball_{q}").mean() for q in (10, 50, 90)},
            inside_80_pct=100.0 * wait.is_between(low, high).mean(),
            compared_count=both.sum(),
            wait_skill_pct=pl.when(pl.col("method").first() == QUEUE, rule > 0).then(
                100.0 * (1 - pl.col("_median").filter(both).mean() / rule)
            ),
        )
        # Rounded, because sums of fractions depend on their order.
        .with_columns(pl.selectors.float().round(9))
    )
    return found.select(contract.column_names).cast(contract.polars_schema).sort(contract.key)
