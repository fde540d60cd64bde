"""Rolling origin: what each method would have forecast in the past, scored on what came."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hospital_assets.forecasting.calendar import HOURS_PER_DAY
from hospital_assets.forecasting.counts import Array
from hospital_assets.forecasting.scores import Outcomes, naive_scale, outcomes
from hospital_assets.forecasting.series import GRAINS, RIVALS, Grain, Method, Series


@dataclass(frozen=True)
class Backtest:
    """One method's forecasts of one grain over many origins.

    Attributes:
        grain: hours of two days ahead, or days of 14.
        outcomes: each forecast with what came.
        scale: mean in-sample error of the seasonal naive rule (168 hours, 7 days), at the first origin.
        crps_by_origin: means, in the order of the origins.
    """

    method: Method
    grain: Grain
    outcomes: Outcomes
    scale: float
    crps_by_origin: Array

    @property
    def mase(self) -> float:
        """Mean absolute scaled error."""
        return self.outcomes.mae / self.scale

    @property
    def floor_mase(self) -> float:
        """What MASE would be if the means were known and counts Poisson; lower is a leak of the future."""
        return float(self.outcomes.floor.mean()) / self.scale


def rolling_origin(
    series: Series, origins: Iterable[int], methods: Iterable[Method] = RIVALS
) -> dict[tuple[Method, Grain], Backtest]:
    """Forecast from every origin with nothing but what was known there.

    Args:
        series: arrivals of one hospital.
        origins: rows; those whose two weeks are not over are used as far as they are.
        methods: which to run.
    """
    chosen = list(origins)
    scales = {
        "hour": naive_scale(series.counts[: chosen[0] + 1].ravel(), 7 * HOURS_PER_DAY),
        "day": naive_scale(series.counts[: chosen[0] + 1].sum(axis=1), 7),
    }
    found: dict[tuple[Method, Grain], Backtest] = {}
    for method in methods:
        made = [(origin, series.rival(method, origin)) for origin in chosen]
        for grain in GRAINS:
            scored = []
            for origin, forecast in made:
                scored.append(outcomes(*series.compared(forecast, origin, grain), forecast.dispersion(grain)))
            by_origin = np.array([one.crps.mean() for one in scored])
            found[method, grain] = Backtest(method, grain, pooled(scored), scales[grain], by_origin)
    return found


def pooled(scored: list[Outcomes]) -> Outcomes:
    """Outcomes of several forecasts as one."""
    return Outcomes(*(np.concatenate([getattr(one, name) for one in scored]) for name in Outcomes.__dataclass_fields__))
