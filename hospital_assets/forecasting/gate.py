"""Which method ships: the regression only where a backtest shows that it beats the slot mean.

Over the last 28 origins whose days are over, the two are scored by CRPS on the same days. The regression ships where
its score is lower and the upper end of a one-sided 90 % interval of the difference (block bootstrap over origins) is
below 0, for hours and for days: one method ships for both, so that hours still add up to days. With less than eight
weeks of history there is nothing to compare; there the regression was better on every series measured, and ships.
A challenger has to beat what would ship without it in the same way.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hospital_assets.forecasting.counts import Array
from hospital_assets.forecasting.scores import cdf_up_to, crps
from hospital_assets.forecasting.series import DAYS_OF, GRAINS, PROFILE_DAYS, RIVALS, SHORT_DAYS, Grain, Method, Series

#: Origins the gate looks at; fewer than half of them decide nothing.
ORIGINS = 28
_LEAST_ORIGINS = ORIGINS // 2
#: Origins that follow each other share days: they are drawn in weeks.
_BLOCK = 7
_DRAWS = 1_000
CONFIDENCE = 0.9
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Verdict:
    """What a backtest shows of a model and the rule it would replace.

    Attributes:
        origins: how many were scored.
        skill: 1 - score of the model / score of the rule it would replace; None without origins.
        upper: upper end of the interval of the difference of the scores; None without.
    """

    origins: int
    skill: float | None
    upper: float | None
    is_passed: bool


def verdict(model: Array, rule: Array) -> Verdict:
    """Compare mean scores of the same origins, in the order of time; the lower is the better.

    Args:
        model: of the one that may ship, by origin; of arrivals, the CRPS.
        rule: of the one that ships otherwise, by origin.
    """
    n = len(model)
    if n < _LEAST_ORIGINS:
        return Verdict(n, None, None, False)
    difference = model - rule
    upper = float(np.quantile(difference[_resampled(n)].mean(axis=1), CONFIDENCE))
    skill = 1 - float(model.mean()) / float(rule.mean()) if rule.mean() > 0 else 0.0
    # What only rounding makes better is no better.
    return Verdict(n, skill, upper, bool(difference.mean() < 0 and upper < -_ROUNDING * float(rule.mean())))


@functools.lru_cache(maxsize=32)
def _resampled(n: int) -> npt.NDArray[np.int64]:
    """Origins of each draw, in circular blocks; the same in every run."""
    blocks = -(-n // _BLOCK)
    starts = np.random.default_rng(0).integers(0, n, size=(_DRAWS, blocks))
    return ((starts[:, :, None] + np.arange(_BLOCK)) % n).reshape(_DRAWS, -1)[:, :n]


class Gate:
    """Backtests of one hospital; scores of an origin are computed once."""

    def __init__(self, series: Series, challengers: Sequence[Method] = ()) -> None:
        self._series, self._challengers = series, challengers
        self._scores: dict[tuple[Method, int, Grain], float] = {}

    def shipping(self, origin: int) -> tuple[Method, dict[Grain, Verdict] | None]:
        """The method that ships, and what decided: its verdicts, or those of the regression where that did not pass."""
        method, rule = RIVALS
        verdicts = self.verdicts(origin)
        if verdicts is None:
            return method, None
        if not all(found.is_passed for found in verdicts.values()):
            method = rule
        for challenger in self._challengers:
            found = self.verdicts(origin, challenger, method)
            if found is not None and all(of_grain.is_passed for of_grain in found.values()):
                method, verdicts = challenger, found
        return method, verdicts

    def verdicts(self, origin: int, model: Method = RIVALS[0], rule: Method = RIVALS[1]) -> dict[Grain, Verdict] | None:
        """What the last 28 origins show that were over at `origin`; None where the history is too short to ask."""
        if self._series.known_days(origin) < SHORT_DAYS:
            return None
        found: dict[Grain, Verdict] = {}
        for grain in GRAINS:
            last = origin - DAYS_OF[grain]
            origins = [
                n
                for n in range(max(0, last - ORIGINS + 1), last + 1)
                if self._series.known_days(n) >= PROFILE_DAYS and not np.isnan(self._series.counts[n, 0])
            ]
            scores = np.array([[self._scored(of, n, grain) for of in (model, rule)] for n in origins]).reshape(-1, 2)
            scores = scores[~np.isnan(scores).any(axis=1)]
            found[grain] = verdict(scores[:, 0], scores[:, 1])
        return found

    def _scored(self, method: Method, origin: int, grain: Grain) -> float:
        """Mean CRPS of a method from one origin; NaN where nothing came to be compared."""
        if (method, origin, grain) not in self._scores:
            made = self._series.rival(method, origin)
            actual, means = self._series.compared(made, origin, grain)
            scored = crps(actual, cdf_up_to(actual, means, made.dispersion(grain)))
            self._scores[method, origin, grain] = float(scored.mean()) if len(actual) else float("nan")
        return self._scores[method, origin, grain]
