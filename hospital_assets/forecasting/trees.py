"""Gradient-boosted trees on the calendar: a challenger of the regression, for hospitals that ask for it.

They learn the same rates from the same days; the level of the last ten weeks and the intervals are those of the
regression. On two real emergency departments and the simulator trees did not do better; where a hospital's own backtest
says that they do, they ship. Needs the extra `trees`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from hospital_assets.forecasting.calendar import HOURS_PER_DAY
from hospital_assets.forecasting.counts import Array
from hospital_assets.forecasting.regression import HALF_LIFE_DAYS

if TYPE_CHECKING:
    import xgboost

_ROUNDS = 150
#: One thread and one seed: the same trees in every run.
_PARAMETERS = {
    "objective": "count:poisson",
    "tree_method": "hist",
    "grow_policy": "lossguide",
    "max_leaves": 15,
    "max_depth": 0,
    "eta": 0.05,
    "min_child_weight": 20,
    "nthread": 1,
    "seed": 0,
}


def is_installed() -> bool:
    """Whether the extra is."""
    return importlib.util.find_spec("xgboost") is not None


@dataclass(frozen=True)
class Trees:
    """Fitted trees: rates an hour for any days."""

    booster: xgboost.Booster
    usual: float
    training_to: date

    def rates(self, first: date, days: int, holidays: Mapping[date, str]) -> Array:
        """Arrivals an existing hour; days x 24."""
        import xgboost

        rows = _features(first, days, holidays)
        found: Any = self.booster.predict(xgboost.DMatrix(rows, base_margin=np.full(len(rows), np.log(self.usual))))
        return np.asarray(found, dtype=np.float64).reshape(days, HOURS_PER_DAY)


def fit_trees(first: date, counts: Array, hours: Array, holidays: Mapping[date, str]) -> Trees:
    """Fit trees to the days of a history, the last one being the newest that is known.

    Args:
        counts: days x 24; NaN where nothing is known.
        hours: days x 24, hours that existed.
    """
    import xgboost

    days = len(counts)
    known = ~np.isnan(counts.ravel()) & (hours.ravel() > 0)
    came, existed = counts.ravel()[known], hours.ravel()[known]
    usual = max(float(came.sum() / existed.sum()), 1e-3)
    age = np.repeat(np.arange(days)[::-1], HOURS_PER_DAY)[known]
    data = xgboost.DMatrix(
        _features(first, days, holidays)[known],
        label=came,
        weight=0.5 ** (age / HALF_LIFE_DAYS),
        base_margin=np.log(usual * existed),
    )
    return Trees(xgboost.train(_PARAMETERS, data, _ROUNDS), usual, first + timedelta(days=days - 1))


def _features(first: date, days: int, holidays: Mapping[date, str]) -> Array:
    """Hour, weekday, day of the year, and whether it is a public holiday, the day after or before one."""
    dates = [first + timedelta(days=n) for n in range(days)]
    by_day = np.array(
        [
            (day.weekday(), day.timetuple().tm_yday, *(day + timedelta(days=n) in holidays for n in (0, -1, 1)))
            for day in dates
        ],
        dtype=np.float64,
    )
    hour = np.tile(np.arange(HOURS_PER_DAY, dtype=np.float64), days)
    return np.column_stack([hour, np.repeat(by_day, HOURS_PER_DAY, axis=0)])
