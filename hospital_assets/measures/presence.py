"""Until when somebody counts as present whose end nobody recorded.

An open record is not a patient for ever. Crowding, occupancy, flow and what follows a visit count it until the same
moment: `thresholds.LONGEST_PRESENCE_HOURS` after an emergency visit began, `thresholds.LONGEST_OPEN_STAY_HOURS`
after the last message that placed an inpatient. A known end is never cut.
"""

from __future__ import annotations

import narwhals as nw

from hospital_assets.measures import thresholds

#: Class of stay -> the hours beyond which a stay of it is an overstay.
OVERSTAY_HOURS: dict[str, float] = {
    "emergency": thresholds.OVERSTAY_HOURS,
    "inpatient": thresholds.INPATIENT_OVERSTAY_HOURS,
}


def visit_until(start: str, end: str) -> nw.Expr:
    """Until when an emergency visit (`is_open`) counts: its end, or where it is open as long as a patient may be there.

    Null where only the day of the end is known: the visit is over, and nobody knows since when.

    Args:
        start: the instant column of the arrival.
        end: the instant column of the departure.
    """
    longest = nw.col(start).dt.offset_by(f"{thresholds.LONGEST_PRESENCE_HOURS}h")
    return nw.coalesce(nw.col(end), nw.when(nw.col("is_open")).then(longest))


def segment_until(start: str, end: str) -> nw.Expr:
    """Until when a location segment counts, by the class of its stay (`stay_class`).

    Args:
        start: the instant column where the segment starts.
        end: the instant column where it ends.
    """
    longest = (
        nw.when(nw.col("stay_class") == "emergency")
        .then(nw.col(start).dt.offset_by(f"{thresholds.LONGEST_PRESENCE_HOURS}h"))
        .otherwise(nw.col(start).dt.offset_by(f"{thresholds.LONGEST_OPEN_STAY_HOURS}h"))
    )
    return nw.coalesce(nw.col(end), longest)
