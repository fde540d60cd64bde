"""Queries of conditions and people: diagnoses, procedures, returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from hospital_assets.dashboard.mart import Mart, Measured, OverTime, Row, of_hospital, of_months, over_time
from hospital_assets.dashboard.slices import Slice

#: ICD version and code: a code alone means something else in another version.
Code = tuple[int, str]


def conditions(mart: Mart, where: Slice) -> list[Row]:
    """The commonest principal diagnoses, whole period."""
    columns = "condition_name, icd_version, icd_code, visit_count, share_pct, coded_visit_count"
    return of_hospital(
        mart,
        where,
        "kpi_conditions",
        columns,
        "and icd_code <> 'not_coded' and visit_count is not null "
        "order by visit_count desc, icd_code, icd_version limit 15",
    )


def condition_trends(mart: Mart, where: Slice, codes: Sequence[Code]) -> dict[Code, list[int]]:
    """Visits of some principal diagnoses by whole month, or week where months are few; at most 24.

    They end with the publication, whatever the period; none where single days are not published.
    """
    if not mart.has("kpi_conditions_daily", "icd_version", "icd_code"):
        return {}
    until = mart.known.complete_until
    starts = (
        [_months_before(until + timedelta(days=1), back) for back in range(24, -1, -1)]
        if is_by_month(mart)
        else [until - timedelta(days=7 * weeks - 1) for weeks in range(24, -1, -1)]
    )
    starts = [start for start in starts if start >= mart.known.first]
    rows = (
        mart.sliced(
            "select icd_version, icd_code, list_position($starts, s.start) - 1 as place, "
            "sum(k.visit_count)::bigint as visit_count "
            "from kpis.kpi_conditions_daily k asof join (select unnest($starts::date[]) as start) s "
            "on k.service_date >= s.start "
            "join (select unnest($versions::int[]) as icd_version, unnest($codes::varchar[]) as icd_code) c "
            "using (icd_version, icd_code) where $hospital in ('all', k.hospital_id) "
            "and k.service_date < $ends and k.service_date >= $starts[1] group by 1, 2, 3",
            where,
            versions=[version for version, _ in codes],
            codes=[code for _, code in codes],
            starts=starts,
            ends=starts[-1],
        )
        if len(starts) > 2
        else []
    )
    found = {code: [0] * (len(starts) - 1) for code in codes}
    for row in rows:
        found[row["icd_version"], row["icd_code"]][row["place"]] = row["visit_count"]
    return found if rows else {}


#: Histories that are longer are shown by month.
_MONTHS_FROM_DAYS = 190


def is_by_month(mart: Mart) -> bool:
    """Whether `condition_trends` goes by month."""
    return (mart.known.complete_until - mart.known.first).days > _MONTHS_FROM_DAYS


def _months_before(day: date, months: int) -> date:
    """The first day of the month that is a number of months before a day's month."""
    month = day.year * 12 + day.month - 1 - months
    return date(month // 12, month % 12 + 1, 1)


def condition_groups(mart: Mart, where: Slice) -> list[Row]:
    """Visits by clinical group, whole period."""
    columns = "condition_group, visit_count, share_pct, coded_visit_count"
    return of_hospital(
        mart,
        where,
        "kpi_condition_groups",
        columns,
        "and condition_group not in ('not_coded') order by visit_count desc nulls last limit 15",
    )


def procedures(mart: Mart, where: Slice) -> list[Row]:
    """The commonest procedures, whole period."""
    columns = "procedure_name, procedure_code, procedure_count, visit_count, share_pct"
    return of_hospital(
        mart, where, "kpi_procedures", columns, "order by procedure_count desc nulls last, procedure_code limit 15"
    )


def surveillance(mart: Mart, where: Slice, watched: Mapping[str, tuple[str, ...]]) -> OverTime:
    """Visits whose principal diagnosis is in some clinical groups; a day with diagnoses and none of these is 0.

    Args:
        where: the slice; hospital and period are followed.
        watched: name of a series -> its clinical groups.
    """
    if not mart.has("kpi_conditions_daily", "icd_code"):
        return OverTime({name: [] for name in watched}, {})
    sums = ", ".join(
        f"coalesce(sum(visit_count) filter (where list_contains(${name}, condition_group)), 0) as {name}"
        for name in watched
    )
    bound: dict[str, Any] = {name: list(groups) for name, groups in watched.items()}
    bound["all_groups"] = [group for groups in watched.values() for group in groups]
    return over_time(
        mart,
        where,
        f"select day, {sums} from "
        "(select distinct service_date as day from kpis.kpi_conditions_daily "
        "where $hospital in ('all', hospital_id) and service_date between $first and $last) "
        "left join (select k.service_date as day, k.visit_count, c.condition_group "
        "from kpis.kpi_conditions_daily k join dimensions.dim_condition c "
        "using (icd_version, icd_code) where $hospital in ('all', k.hospital_id) "
        "and list_contains($all_groups, c.condition_group) "
        "and k.service_date between $first and $last) using (day) group by 1",
        {name: Measured(name, name, 0, is_count=True) for name in watched},
        **bound,
    )


_RATE = "period_month, denominator_count, numerator_count, value_pct"


def returns_by_month(mart: Mart, where: Slice) -> list[Row]:
    """72-hour returns of discharged visits by month."""
    return of_months(mart, where, "kpi_returns", _RATE, "and variant = 'discharged' order by 1")


def readmissions_by_month(mart: Mart, where: Slice) -> list[Row]:
    """30-day readmissions by month of index discharge."""
    return of_months(mart, where, "kpi_readmissions", _RATE, "order by 1")
