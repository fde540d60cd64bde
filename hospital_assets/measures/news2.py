"""NEWS2, the National Early Warning Score (Royal College of Physicians, 2017).

One definition for batch facts, live alerts and tests. All seven parameters come from one
observation set; a missing parameter is never scored as 0. From which age it applies, and from which scores
on which response is due, stands in `thresholds`.
"""

from __future__ import annotations

import narwhals as nw

from hospital_assets.measures import thresholds

#: What a score asks for, from the least to the most urgent.
RESPONSES = ("low", "urgent_ward_review", "urgent", "emergency")

#: Parameter -> (upper bound inclusive, points) in rising order; the last has no bound.
_RESPIRATORY_RATE = ((8, 3), (11, 1), (20, 0), (24, 2), (None, 3))
_SPO2_SCALE_1 = ((91, 3), (93, 2), (95, 1), (None, 0))
_SPO2_SCALE_2_ON_AIR = ((83, 3), (85, 2), (87, 1), (None, 0))
_SPO2_SCALE_2_ON_OXYGEN = ((83, 3), (85, 2), (87, 1), (92, 0), (94, 1), (96, 2), (None, 3))
_SYSTOLIC = ((90, 3), (100, 2), (110, 1), (219, 0), (None, 3))
_PULSE = ((40, 3), (50, 1), (90, 0), (110, 1), (130, 2), (None, 3))
_TEMPERATURE = ((35.0, 3), (36.0, 1), (38.0, 0), (39.0, 1), (None, 2))


def points() -> dict[str, nw.Expr]:
    """Points of each of the seven parameters (null where it is missing), from fact columns.

    Values are rounded to the precision of the chart before banding: whole numbers, temperature to
    a tenth of a degree.
    """
    on_oxygen = nw.col("is_on_oxygen")
    spo2 = _charted("spo2_pct", 0)
    spo2_scale_2 = (
        nw.when(on_oxygen)
        .then(_banded(spo2, _SPO2_SCALE_2_ON_OXYGEN))
        .otherwise(nw.when(~on_oxygen).then(_banded(spo2, _SPO2_SCALE_2_ON_AIR)))
    )
    return {
        "respiratory_rate_points": _banded(_charted("respiratory_rate_per_min", 0), _RESPIRATORY_RATE),
        "spo2_points": nw.when(nw.col("spo2_scale") == 2).then(spo2_scale_2).otherwise(_banded(spo2, _SPO2_SCALE_1)),
        "oxygen_points": nw.when(on_oxygen).then(nw.lit(2)).otherwise(nw.when(~on_oxygen).then(nw.lit(0))),
        "systolic_points": _banded(_charted("systolic_mmhg", 0), _SYSTOLIC),
        "pulse_points": _banded(_charted("heart_rate_bpm", 0), _PULSE),
        "consciousness_points": nw.when(nw.col("consciousness") == "A")
        .then(nw.lit(0))
        .otherwise(nw.when(~nw.col("consciousness").is_null()).then(nw.lit(3))),
        "temperature_points": _banded(_charted("temperature_c", 1), _TEMPERATURE),
    }


def applies() -> nw.Expr:
    """Whether NEWS2 is meant for a patient of `age_years`; null where the age is unknown."""
    return nw.col("age_years") >= thresholds.NEWS2_MINIMUM_AGE_YEARS


def response(score: nw.Expr, is_red: nw.Expr) -> nw.Expr:
    """The clinical response that a score asks for; null where there is neither a score nor a red parameter.

    Args:
        score: the total; null where it is unknown or does not apply.
        is_red: whether a parameter scores 3.
    """
    return nw.coalesce(
        nw.when(score >= thresholds.NEWS2_EMERGENCY_SCORE).then(nw.lit("emergency")),
        nw.when(score >= thresholds.NEWS2_URGENT_SCORE).then(nw.lit("urgent")),
        nw.when(is_red).then(nw.lit("urgent_ward_review")),
        nw.when(~score.is_null()).then(nw.lit("low")),
    )


def scores() -> dict[str, nw.Expr]:
    """The total, what is missing, red parameters and the response, from `points` and `age_years`."""
    total = nw.sum_horizontal(*POINTS)
    missing = nw.sum_horizontal(*(nw.col(name).is_null().cast(nw.Int64) for name in POINTS))
    is_red = nw.any_horizontal(*(nw.col(name) == 3 for name in POINTS), ignore_nulls=True)
    score = nw.when(applies() & (missing == 0)).then(total.cast(nw.Int64))
    return {
        "news2_score": score,
        "news2_missing_count": missing.cast(nw.Int64),
        "has_news2_red_parameter": nw.when(applies()).then(is_red),
        "news2_response": response(score, applies() & is_red),
    }


def _charted(column: str, decimals: int) -> nw.Expr:
    """A value rounded half up to chart precision, the same on every engine."""
    scale = 10**decimals
    # The tiny addition keeps 38.05, stored as 38.04999..., from rounding down.
    rounded: nw.Expr = (nw.col(column) * scale + 0.5 + 1e-9).floor() / scale
    return rounded


def _banded(value: nw.Expr, bands: tuple[tuple[float | None, int], ...]) -> nw.Expr:
    within = [
        nw.when(value <= upper + 1e-9 if upper is not None else ~value.is_null()).then(nw.lit(score))
        for upper, score in bands
    ]
    return nw.coalesce(*within)


POINTS = tuple(points())
