"""Queries of the deterioration page: NEWS2 by hour, first observations, response, repeat intervals."""

from __future__ import annotations

from hospital_assets.dashboard.mart import Mart, Row, average, of_table
from hospital_assets.dashboard.slices import Slice
from hospital_assets.measures.observations import MONITORING_MINUTES


def _left_out(*reasons: str) -> str:
    return ", ".join(f"coalesce(sum(excluded_{reason}_count), 0)::bigint as {reason}" for reason in reasons)


def bands_by_hour(mart: Mart, where: Slice) -> list[Row]:
    """Sets of each hour since arrival: n, those of each band, and who was left out."""
    counts = ", ".join(f"sum({band}_count)::bigint as {band}" for band in MONITORING_MINUTES)
    reasons = _left_out("cancelled", "before_arrival", "after_departure", "under_16", "unknown_age", "incomplete")
    return of_table(
        mart,
        where,
        "kpi_news2_daily",
        f"hours_since_arrival, sum(denominator_count)::bigint as n, {counts}, {reasons}",
        "and denominator_count is not null group by 1 order by 1",
    )


def first_sets(mart: Mart, where: Slice) -> list[Row]:
    """Visits by each limit: n, in time, later, without a full set, and who was left out."""
    return of_table(
        mart,
        where,
        "kpi_first_observations_daily",
        "limit_minutes, sum(denominator_count)::bigint as n, sum(numerator_count)::bigint as in_time, "
        "sum(late_count)::bigint as late, sum(no_full_set_count)::bigint as never, "
        + _left_out("cancelled", "under_16", "unknown_age", "left_early", "not_due"),
        "group by 1 order by 1",
    )


def responses(mart: Mart, where: Slice) -> Row | None:
    """Visits with an emergency score: n, seen in time, seen later, unseen, average minutes, who was left out."""
    rows = of_table(
        mart,
        where,
        "kpi_news2_response_daily",
        "coalesce(sum(denominator_count), 0)::bigint as n, sum(numerator_count)::bigint as in_time, "
        "sum(seen_count)::bigint as seen, sum(left_unseen_count)::bigint as left_unseen, "
        "sum(waiting_count)::bigint as waiting, "
        f"{average('response_sum_minutes', 'seen_count')} as average, "
        + _left_out("cancelled", "already_seen", "invalid", "left_early", "not_due"),
    )
    return rows[0] if rows else None


def intervals(mart: Mart, where: Slice) -> dict[str, Row]:
    """Sets of each band (and `all`): n, repeated in time, later, never, average minutes, who was left out."""
    rows = of_table(
        mart,
        where,
        "kpi_observation_frequency_daily",
        "news2_band, sum(denominator_count)::bigint as n, sum(numerator_count)::bigint as in_time, "
        "sum(late_count)::bigint as late, sum(missed_count)::bigint as missed, "
        f"{average('interval_sum_minutes', 'numerator_count + late_count')} as average, "
        + _left_out("cancelled", "under_16", "unknown_age", "incomplete", "left_early", "not_due"),
        "and denominator_count is not null group by 1",
    )
    return {row["news2_band"]: row for row in rows}
