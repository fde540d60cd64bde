"""Small copies of tables that have to be read while a run has the warehouse locked.

Belongs here: what live alerts and the live board need to know about patients, hospitals, beds, who waits
and who is expected, and what monitoring counts, as Parquet next to the warehouse. Written when a run has
committed one of their tables, or when landed records were assessed that no run has loaded yet; replaced in
one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import polars as pl

from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.kpis import ALL
from hospital_assets.files import replacing
from hospital_assets.landing.profile import SUBJECTS
from hospital_assets.measures.thresholds import LONGEST_PRESENCE_HOURS
from hospital_assets.warehouse.database import Warehouse
from hospital_assets.warehouse.dialect import literal
from hospital_assets.warehouse.loads import read_whole

#: The service days before the newest one on which somebody may have come who is still there; one more, as hospitals in
#: the west are a day behind.
_DAYS_OF_PRESENT = LONGEST_PRESENCE_HOURS // 24 + 1
#: A hospital none of whose visits is of so many days before the newest one delivers no more.
_DAYS_OF_DELIVERY = 31
#: Copy -> the tables it is made from, and how.
COPIES: dict[str, tuple[tuple[str, ...], str]] = {
    "hospitals": (
        ("cleaned_hospitals",),
        "select hospital_id, hospital_name, time_zone from cleaned.cleaned_hospitals",
    ),
    "patients": (
        ("dim_patient",),
        "select patient_id, patient_key, birth_date, age_at_extract_years, valid_from_at, "
        "valid_to_at from dimensions.dim_patient",
    ),
    # One row per open stay: where the patient is now, and what that department holds as of the newest movement.
    "open_stays": (
        ("fact_patient_flow", "dim_department", "dim_patient"),
        """
        with newest as (select max(segment_start_at) as moved_at from facts.fact_patient_flow)
        select f.stay_id, p.patient_id, f.bed_id, f.stay_class, f.stay_start_at, f.segment_start_at, f.segment_end_at,
               c.hospital_id, c.department_id, c.department_name, c.bed_capacity
        from facts.fact_patient_flow f
        cross join newest
        left join dimensions.dim_patient p on p.patient_key = f.patient_key
        join dimensions.dim_department d on d.department_key = f.department_key
        join dimensions.dim_department c
          on c.department_id = d.department_id and moved_at >= c.valid_from_at and moved_at < c.valid_to_at
        where f.is_open and f.segment_end_at is null
        """,
    ),
    # One row per visit that nobody has ended, of the days of who may be there, with its two newest NEWS2.
    "open_visits": (
        ("fact_emergency_visits", "cleaned_er_visits", "fact_vitals", "dim_department", "dim_doctor"),
        f"""
        with newest as (
            select max(service_date) - {_DAYS_OF_PRESENT} as since from facts.fact_emergency_visits
        ), observed as (
            select visit_id, max_by(struct_pack(news2_score, has_news2_red_parameter, measured_at),
                                    measured_at, 2) as news2
            from facts.fact_vitals, newest
            where service_date >= since
              and visit_id in (select visit_id from facts.fact_emergency_visits where service_date >= since and is_open)
              and not contains(quality_codes, 'measured_time_unknown')
            group by visit_id
        )
        select f.visit_id, c.patient_id, c.hospital_id, d.department_name, f.triage_level,
               f.arrival_at, f.arrival_local, f.triage_at,
               -- Who was seen at an unknown time was seen: as of the record.
               coalesce(f.provider_at, case when contains(c.quality_codes, 'provider_time_unknown')
                        then coalesce(c.recorded_at, f.arrival_at) end) as provider_at, f.departure_at,
               f.decision_at, f.disposition, r.doctor_id, f.is_cancelled, c.chief_complaint, f.age_years,
               coalesce(c.recorded_at, f.arrival_at) as recorded_at,
               o.news2[1].news2_score as news2_score,
               o.news2[1].has_news2_red_parameter as has_news2_red_parameter,
               o.news2[1].measured_at as measured_at,
               o.news2[2].news2_score as previous_news2_score,
               o.news2[2].measured_at as previous_measured_at
        from facts.fact_emergency_visits f
        cross join newest
        join cleaned.cleaned_er_visits c
          on c.visit_id = f.visit_id and c.service_date = f.service_date
        join dimensions.dim_department d on d.department_key = f.department_key
        left join dimensions.dim_doctor r on r.doctor_key = f.doctor_key and r.doctor_key > 0
        left join observed o on o.visit_id = f.visit_id
        where f.service_date >= since and f.is_open
        """,
    ),
    # Of the same days, those that are over, however that is known: messages end and cancel visits as well.
    "ended_visits": (
        ("fact_emergency_visits", "cleaned_er_visits"),
        f"""
        select f.visit_id, coalesce(c.recorded_at, f.arrival_at) as recorded_at
        from facts.fact_emergency_visits f
        join cleaned.cleaned_er_visits c on c.visit_id = f.visit_id and c.service_date = f.service_date
        where f.service_date >= (select max(service_date) - {_DAYS_OF_PRESENT} from facts.fact_emergency_visits)
          and (f.is_cancelled or not f.is_open)
        """,
    ),
    # When the newest record of a hospital was written, of any visit: whether its feed is alive. By day, as one whose
    # clock is far ahead says nothing.
    "newest_records": (
        ("cleaned_er_visits",),
        f"""
        select hospital_id, max(coalesce(recorded_at, arrival_at)) as recorded_at
        from cleaned.cleaned_er_visits
        where service_date >= (select max(service_date) - {_DAYS_OF_DELIVERY} from cleaned.cleaned_er_visits)
        group by hospital_id, service_date
        """,
    ),
    # Who came on the newest two service days, gone or not, and who was registered by mistake.
    "recent_arrivals": (
        ("fact_emergency_visits", "dim_hospital"),
        """
        select f.visit_id, h.hospital_id, f.arrival_at, f.is_cancelled
        from facts.fact_emergency_visits f join dimensions.dim_hospital h using (hospital_key)
        where f.service_date >= (select max(service_date) - 1 from facts.fact_emergency_visits)
        """,
    ),
    "expected_arrivals": (
        ("forecast_arrivals_hourly",),
        """
        select hospital_id, target_date, hour_of_day, expected_arrivals, p10_count, p90_count
        from forecasts.forecast_arrivals_hourly
        where is_shipped
        qualify service_date = max(service_date) over (partition by hospital_id)
        """,
    ),
    "doctors": (("dim_doctor",), "select doctor_id, full_name from dimensions.dim_doctor where doctor_key > 0"),
    "triage_targets": (
        ("dim_triage",),
        "select scale, level, level_name, target_minutes from dimensions.dim_triage where level is not null",
    ),
    # Records in quarantine, and which of them are copies of others.
    "quarantined": (
        tuple(f"quarantine_{subject}" for subject in SUBJECTS),
        " union all ".join(
            f"select '{subject}' as subject, count(*) filter (not is_duplicate) as records, "
            f"count(*) filter (is_duplicate) as duplicates from cleaned.quarantine_{subject}"
            for subject in SUBJECTS
        ),
    ),
    # How good the forecasts of the newest month were that readers got.
    "forecast_accuracy": (
        ("kpi_forecast_accuracy", "kpi_wait_forecast_accuracy"),
        f"""
        select 'arrivals_' || grain as target, hospital_id, mase, pit_80_pct as inside_80_pct
        from forecasts.kpi_forecast_accuracy where horizon_band = '{ALL}' and shipped_count > 0
        qualify row_number() over (
            partition by grain, hospital_id order by period_month desc, shipped_count desc, method) = 1
        union all
        select 'waits', hospital_id, null, inside_80_pct
        from forecasts.kpi_wait_forecast_accuracy where horizon_band = '{ALL}' and shipped_count > 0
        qualify row_number() over (
            partition by hospital_id order by period_month desc, shipped_count desc, method) = 1
        """,
    ),
}


def copies_of(table: str) -> list[str]:
    """The copies that a table is in."""
    return [name for name, (tables, _) in COPIES.items() if table in tables]


def publish_copy(warehouse: Warehouse, name: str) -> None:
    """Write a copy, if its tables are there."""
    tables, query = COPIES[name]
    if all(warehouse.exists(CONTRACTS[table]) for table in tables):
        with replacing(copy_file(warehouse.file, name)) as temporary:
            warehouse.connection.execute(f"copy ({query}) to {literal(str(temporary))} (format parquet)")


def merge_landed(
    warehouse_file: Path, name: str, found: pl.DataFrame, key: str | Sequence[str], order: str, since: date
) -> pl.DataFrame:
    """Add landed records to what is known of others: the newest of each key, none before `since`; returns them all."""
    known = read_copy(warehouse_file, name)
    merged = found if known is None else pl.concat([known, found], how="diagonal_relaxed")
    newest = (
        merged.filter(pl.col(order) >= since)
        .sort(order, maintain_order=True)
        .unique(key, keep="last", maintain_order=True)
    )
    with replacing(copy_file(warehouse_file, name)) as temporary:
        newest.write_parquet(temporary)
    return newest


def read_copy(warehouse_file: Path, name: str) -> pl.DataFrame | None:
    """A copy as last written, or None before the first time and where it is damaged."""
    return read_whole(copy_file(warehouse_file, name))


def read_landed_visits(warehouse_file: Path) -> pl.DataFrame | None:
    """The copy `landed_visits`, but for visits that are over."""
    landed = read_copy(warehouse_file, "landed_visits")
    return None if landed is None else not_over(landed, warehouse_file)


def not_over(visits: pl.DataFrame, warehouse_file: Path) -> pl.DataFrame:
    """Records of visits, but for those that a run has loaded and whose visit is over since."""
    ended = None if visits.is_empty() else read_copy(warehouse_file, "ended_visits")
    if ended is None:
        return visits
    known = ended.select("visit_id", _known_at="recorded_at")
    return (
        visits.join(known, on="visit_id", how="left", maintain_order="left")
        .filter(pl.col("_known_at").is_null() | (pl.col("recorded_at") > pl.col("_known_at")))
        .drop("_known_at")
    )


def copies_changed(warehouse_file: Path) -> tuple[tuple[str, int], ...]:
    """Name and time of change of every copy: equal as long as nothing was replaced."""
    return tuple(sorted((path.name, path.stat().st_mtime_ns) for path in _folder(warehouse_file).glob("*.parquet")))


def copy_file(warehouse_file: Path, name: str) -> Path:
    """Where a copy is, once it was written."""
    return _folder(warehouse_file) / f"{name}.parquet"


def _folder(warehouse_file: Path) -> Path:
    return warehouse_file.with_name("live")
