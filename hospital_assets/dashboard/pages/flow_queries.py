"""Queries of flow and waits: stages, pathways, handovers, standards."""

from __future__ import annotations

from hospital_assets.dashboard.mart import Mart, Row, of_visits
from hospital_assets.dashboard.slices import Slice


def stages(mart: Mart, where: Slice) -> Row | None:
    """How many visits reached each stage, and how long it took; None without visits."""

    def minutes(start: str, end: str, name: str) -> str:
        taken = f"epoch(f.{end} - f.{start}) / 60"
        return (
            f"median({taken}) filter (where f.{end} >= f.{start}) as {name}_median, "
            f"quantile_cont({taken}, 0.9) filter (where f.{end} >= f.{start}) as {name}_p90"
        )

    rows = of_visits(
        mart,
        where,
        "count(*) as arrival_n, count(f.triage_at) as triage_n, count(f.room_at) as room_n, "
        "count(f.provider_at) as provider_n, count(f.decision_at) as decision_n, "
        "count(f.departure_at) as departure_n, "
        "count(*) filter (where f.is_lwbs) as lwbs_n, "
        + ", ".join(
            [
                minutes("arrival_at", "triage_at", "triage"),
                minutes("triage_at", "room_at", "room"),
                minutes("room_at", "provider_at", "provider"),
                minutes("provider_at", "decision_at", "decision"),
                minutes("decision_at", "departure_at", "departure"),
            ]
        ),
    )
    return rows[0] if rows else None


def pathways(mart: Mart, where: Slice) -> list[Row]:
    """Visits by arrival mode, triage level and how they ended."""
    return of_visits(
        mart,
        where,
        "f.arrival_mode, f.triage_level, coalesce(f.disposition, 'still open') as disposition, count(*) as visit_count",
        "group by all order by visit_count desc, 1, 2, 3",
    )


def wait_histogram(mart: Mart, where: Slice) -> list[Row]:
    """Visits by wait in steps of 30 minutes, the last from 4 hours on."""
    return of_visits(
        mart,
        where,
        "least(f.wait_minutes // 30, 8)::bigint as step, count(*) as visit_count",
        "and f.wait_minutes is not null group by 1 order by 1",
    )


def waits_by_hour(mart: Mart, where: Slice) -> list[Row]:
    """Wait by local hour of arrival: n, median, 10th and 90th percentile."""
    return of_visits(
        mart,
        where,
        "hour(f.arrival_local) as hour_of_day, count(f.wait_minutes) as wait_count, "
        "quantile_cont(f.wait_minutes, 0.1) as p10, median(f.wait_minutes) as median, "
        "quantile_cont(f.wait_minutes, 0.9) as p90",
        "group by 1 order by 1",
    )


def handovers(mart: Mart, where: Slice) -> Row | None:
    """Ambulance handovers and how many took longer than 15, 30 and 60 minutes; None without visits."""
    taken = "epoch(f.handover_at - f.arrival_at) / 60"
    rows = of_visits(
        mart,
        where,
        f"count(*) as n, median({taken}) as median, "
        + ", ".join(f"count(*) filter (where {taken} > {limit}) as over_{limit}" for limit in (15, 30, 60)),
        "and f.handover_at >= f.arrival_at",
    )
    return rows[0] if rows else None


def op18_by_month(mart: Mart, where: Slice) -> list[Row]:
    """OP-18b by month of departure."""
    return mart.sliced(
        "select period_month, denominator_count, median_minutes from kpis.kpi_op18 "
        "where hospital_id = $hospital and stratum = 'reported' "
        "and period_month between date_trunc('month', $first) and $last order by 1",
        where,
    )


def units(mart: Mart, metric: str) -> list[Row]:
    """Hospitals beside the chance limits of their n, whole period."""
    return mart.rows(
        "select hospital_id, denominator_count, numerator_count, value_pct, centre_pct, "
        "lower_limit_pct, upper_limit_pct, is_outside from kpis.kpi_units where metric = $metric "
        "order by hospital_id",
        metric=metric,
    )
