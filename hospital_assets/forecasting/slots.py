"""The same hour of the week over the last eight weeks: the rule that a model has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hospital_assets.forecasting.counts import Array

#: The rule looks this many weeks back.
SLOT_WEEKS = 8
#: A day without any arrival is missing, not empty, where so many come on a day: P(0) of Poisson 10 is 5e-5.
EMPTY_DAY_MEAN = 10
_DAYS = 7


def slot_rates(counts: Array, hours: Array, ahead: int) -> Array:
    """Arrivals per existing hour of the same weekday and hour, pooled over the last weeks there are, up to eight.

    Counts are divided by the hours that existed: an hour repeated in autumn is two, one skipped in spring none.

    Args:
        counts: days x 24 up to and including the origin; NaN where nothing is known.
        hours: days x 24, hours that existed.
        ahead: how many days.

    Returns:
        ahead x 24, arrivals an hour; NaN in slots never seen.
    """
    import numpy as np

    known = np.where(np.isnan(counts), 0.0, hours)[-SLOT_WEEKS * _DAYS :]
    came = np.nan_to_num(counts)[-SLOT_WEEKS * _DAYS :]
    with np.errstate(invalid="ignore", divide="ignore"):
        week = np.stack([came[n % _DAYS :: _DAYS].sum(0) / known[n % _DAYS :: _DAYS].sum(0) for n in _weekdays(came)])
    return week[np.arange(ahead) % _DAYS]


def _weekdays(counts: Array) -> range:
    """Offsets of the seven days that follow the last one, in rows that lie whole weeks before them."""
    start = len(counts) % _DAYS
    return range(start, start + _DAYS)


def slot_rates_a_week_ahead(counts: Array, hours: Array) -> Array:
    """What the rule would have had for each day of the history, from the weeks before it; days x 24, NaN without."""
    import numpy as np

    known, came = np.where(np.isnan(counts), 0.0, hours), np.nan_to_num(counts)
    summed, existed = np.zeros_like(came), np.zeros_like(came)
    for week in range(1, SLOT_WEEKS + 1):
        back = week * _DAYS
        if back < len(came):
            summed[back:] += came[:-back]
            existed[back:] += known[:-back]
    with np.errstate(invalid="ignore", divide="ignore"):
        return summed / existed
