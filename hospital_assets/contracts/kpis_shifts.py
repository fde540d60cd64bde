"""Contracts of doctors' shifts: their length, nights and rests, and staff against arrivals.

Belongs here: KPI tables whose population are shifts, or hours with the staff on shift.
"""

from __future__ import annotations

from hospital_assets.contracts.kpis import Kpi
from hospital_assets.contracts.table import Measure, Table, column
from hospital_assets.measures.thresholds import (
    LONG_SHIFT_HOURS,
    NIGHT_AFTER_NIGHT_HOURS,
    NIGHT_STARTS_HOUR,
    SHORTEST_REST_HOURS,
)

_SHIFTS = "doctors' shifts, by the local day they start"


class KpiShiftPatternsDaily(
    Kpi,
    name="kpi_shift_patterns_daily",
    grain="one day and hospital (and all)",
    key=("service_date", "hospital_id"),
    columns="""
        shifts_count long_shifts_count nights_count nights_after_night_count rests_count short_rests_count
        excluded_first_count excluded_overlapping_count
    """,
    conserved={"shifts_count": ("rests_count", "excluded_first_count", "excluded_overlapping_count")},
    measures=[
        Measure(
            "Long shifts",
            f"Shifts of {LONG_SHIFT_HOURS} hours or more.",
            "shifts",
            _SHIFTS,
            "local",
            clock="start to end of the shift as rostered.",
        ),
        Measure(
            "Nights after a night",
            f"Night shifts whose doctor's last shift was a night, too, and ended less than "
            f"{NIGHT_AFTER_NIGHT_HOURS} hours before. A night starts at {NIGHT_STARTS_HOUR}:00 local time or later.",
            "shifts",
            "night shifts, by the local day they start",
            "local",
        ),
        Measure(
            f"Rest under {SHORTEST_REST_HOURS} hours",
            f"Shifts that start less than {SHORTEST_REST_HOURS} hours after the last end of the same doctor's earlier "
            "shifts, at whichever hospital.",
            "shifts",
            _SHIFTS,
            "Directive 2003/88/EC, article 3",
            clock="the last end of all earlier shifts until the start of this one.",
            exclusions="the first shift of a doctor that is known; shifts of unknown doctors; shifts that start before "
            "an earlier one ended.",
        ),
    ],
):
    """How long doctors' shifts are, how many nights follow a night, and how short rests are."""

    excluded_overlapping_count = column("Of rests: the earlier shift had not ended.")


class KpiStaffingHourly(
    Kpi,
    name="kpi_staffing_hourly",
    grain="one day, hospital and local hour",
    key=("service_date", "hospital_id", "hour_of_day"),
    columns="""
        iso_weekday_number arrivals_count existing_hours_count staffed_hours_count attendings_sum_count
    """,
    measures=[
        Measure(
            "Arrivals per doctor",
            "Arrivals in a local hour, and the doctors of the emergency department on shift at its start.",
            "/h, doctors",
            "hours of the days with visits",
            "kpi_arrivals_hourly and kpi_crowding_hourly",
            exclusions="cancelled visits; arrivals known by their day only; days that are not over; hours without a "
            "known state of the department (`staffed_hours_count`).",
            variants="a period shows means: arrivals per hour that existed, doctors per hour with a known state.",
        )
    ],
):
    """Arrivals and the emergency doctors on shift, hour by hour; sums, so that hours of the week add up."""


TABLES: tuple[type[Table], ...] = (KpiShiftPatternsDaily, KpiStaffingHourly)
