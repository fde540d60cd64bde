"""Waits: when one starts, and which visits have no valid one (door to provider, PIA).

Source: CIHI and Ontario indicator library.
"""

from __future__ import annotations

import narwhals as nw

from hospital_assets.measures import thresholds

#: Why a visit has no valid wait; the first reason that holds counts.
WAIT_EXCLUSIONS = ("cancelled", "no_provider", "no_start", "negative", "after_departure", "too_long")


def waiting_since() -> nw.Expr:
    """Since when somebody who is here waits at least: the earlier of `arrival_at` and `triage_at`, as far as known."""
    return nw.min_horizontal("arrival_at", "triage_at")


def wait_start() -> nw.Expr:
    """The start of a wait: the earlier of `arrival_at` and `triage_at`.

    Null where the time of the arrival is unknown: nobody knows how long before the triage it was.
    """
    return nw.when(~nw.col("arrival_at").is_null()).then(waiting_since())


def is_possible(minutes: str) -> nw.Expr:
    """Whether a number of minutes can be a wait; null where it is null."""
    return (nw.col(minutes) >= 0) & (nw.col(minutes) < thresholds.LONGEST_WAIT_MINUTES)


def wait_exclusion(start: str, minutes: str) -> nw.Expr:
    """Why a visit has no valid wait; null when it has one.

    Args:
        start: the column of `wait_start`.
        minutes: the column of the minutes from there to `provider_at`.
    """
    return nw.coalesce(
        nw.when(nw.col("is_cancelled")).then(nw.lit("cancelled")),
        nw.when(nw.col("provider_at").is_null()).then(nw.lit("no_provider")),
        nw.when(nw.col(start).is_null()).then(nw.lit("no_start")),
        nw.when(nw.col(minutes) < 0).then(nw.lit("negative")),
        nw.when(nw.col("provider_at") > nw.col("departure_at")).then(nw.lit("after_departure")),
        nw.when(~is_possible(minutes)).then(nw.lit("too_long")),
    )
