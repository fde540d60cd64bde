"""Observation of patients who may deteriorate: bands of their scores, and how often each is to be observed.

Source: Royal College of Physicians, National Early Warning Score (NEWS) 2, 2017 (clinical response to the NEWS
trigger thresholds).
"""

from __future__ import annotations

from collections.abc import Mapping

import narwhals as nw

from hospital_assets.measures import thresholds

#: Limits that the first full set is held against.
FIRST_SET_LIMITS = (thresholds.FIRST_SET_MINUTES, thresholds.LATEST_FIRST_SET_MINUTES)

#: Band of a score -> the longest time in minutes until the next set: the slowest that the RCP allows. It asks for
#: continuous monitoring at 7 or more; what a monitor shows is not in the record, so a set recorded at least every
#: half hour stands for it.
MONITORING_MINUTES: Mapping[str, int] = {
    "score_0": 12 * 60,
    "score_1_to_4": 6 * 60,
    "red_parameter": 60,
    "score_5_to_6": 60,
    "score_7_or_more": 30,
}
#: A visit's sets are looked for from a day before arrival until nobody is counted as present.
BEFORE_DAYS, AFTER_DAYS = 1, thresholds.LONGEST_PRESENCE_HOURS // 24
#: A set without a score: under age, of unknown age, or not full.
NO_BAND = "no_score"
#: Band of each response of `news2.scores`, but the lowest, which the score itself splits.
_BAND_OF_RESPONSE = {"emergency": "score_7_or_more", "urgent": "score_5_to_6", "urgent_ward_review": "red_parameter"}


def news2_band() -> nw.Expr:
    """The band of a set by `news2_score` and `news2_response`; `NO_BAND` where there is no score."""
    return nw.coalesce(
        nw.when(nw.col("news2_score").is_null()).then(nw.lit(NO_BAND)),
        *(
            nw.when(nw.col("news2_response") == response).then(nw.lit(band))
            for response, band in _BAND_OF_RESPONSE.items()
        ),
        nw.when(nw.col("news2_score") == 0).then(nw.lit("score_0")),
        nw.lit("score_1_to_4"),
    )


def monitoring_minutes(band: str) -> nw.Expr:
    """The longest time until the next set, by the column of the band; null without a score."""
    return nw.coalesce(
        *(nw.when(nw.col(band) == name).then(nw.lit(minutes)) for name, minutes in MONITORING_MINUTES.items())
    )


def is_around() -> nw.Expr:
    """Whether a set is of the time around its visit, by `measured_at` and `arrival_at`."""
    return (nw.col("measured_at") >= nw.col("arrival_at").dt.offset_by(f"-{BEFORE_DAYS}d")) & (
        nw.col("measured_at") < nw.col("arrival_at").dt.offset_by(f"{AFTER_DAYS}d")
    )
