"""Faults on purpose: for each kind of check a way to spoil sound tables that it must notice.

`prove` injects every fault into copies of real tables and runs the checks on them: a check that stays
green with its fault in the table proves nothing. Nothing is ever written to the warehouse.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime

import polars as pl

from hospital_assets.checks import kinds
from hospital_assets.checks.declared import relations_of
from hospital_assets.checks.kinds import COLUMNS, KINDS, Kind
from hospital_assets.checks.table_checks import check_table
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.dimensions import UNKNOWN_KEY
from hospital_assets.contracts.kpis import ALL
from hospital_assets.warehouse.database import Warehouse
from hospital_assets.warehouse.dialect import Frame, lazy

Tables = Mapping[str, pl.DataFrame]

_VISITS, _VITALS, _FLOW = "fact_emergency_visits", "fact_vitals", "fact_patient_flow"
_HOUR, _DAY = pl.duration(hours=1), pl.duration(days=1)


@dataclass(frozen=True)
class Fault:
    """One way to spoil tables.

    Attributes:
        kind: the kind of check that must notice.
        says: what is done, in words.
        inject: from sound tables to those that are different.
    """

    kind: Kind
    table: str
    description: str
    inject: Callable[[Tables], dict[str, pl.DataFrame]]


def _with(table: str, **columns: pl.Expr) -> Callable[[Tables], dict[str, pl.DataFrame]]:
    return lambda tables: {table: tables[table].with_columns(**columns)}


def _some(column: str, spoiled: pl.Expr, every: int = 10) -> pl.Expr:
    """A column, spoiled in every so-manieth row."""
    is_hit = pl.int_range(pl.len()) % every == 0
    return pl.when(is_hit).then(spoiled).otherwise(pl.col(column))


def _first(column: str, spoiled: pl.Expr) -> pl.Expr:
    return pl.when(pl.int_range(pl.len()) == 0).then(spoiled).otherwise(pl.col(column))


def _twice(table: str) -> Callable[[Tables], dict[str, pl.DataFrame]]:
    return lambda tables: {table: pl.concat([tables[table], tables[table].head(1)])}


def _row(table: str, **values: float | str | date) -> Callable[[Tables], dict[str, pl.DataFrame]]:
    """A row more; a table may be empty in few days."""
    return lambda tables: {table: pl.concat([tables[table], pl.DataFrame([values], schema=tables[table].schema)])}


def _none(table: str) -> Callable[[Tables], dict[str, pl.DataFrame]]:
    return lambda tables: {table: tables[table].clear()}


def _quarantined(*, as_duplicates: bool) -> Callable[[Tables], dict[str, pl.DataFrame]]:
    """Half of the visits' records go into quarantine."""

    def inject(tables: Tables) -> dict[str, pl.DataFrame]:
        kept, quarantined = tables["cleaned_vitals"], tables["quarantine_vitals"]
        half = kept.height // 2
        moved = pl.DataFrame({"is_duplicate": [as_duplicates] * half})
        return {
            "cleaned_vitals": kept.head(kept.height - half),
            "quarantine_vitals": pl.concat([quarantined.select("is_duplicate"), moved]),
        }

    return inject


def _died(tables: Tables) -> dict[str, pl.DataFrame]:
    """Everybody who comes twice died the first time."""
    frame = tables[_VISITS].sort("arrival_at")
    is_first = pl.int_range(pl.len()).over("patient_key") == 0
    dead = pl.when(is_first).then(pl.lit("expired")).otherwise("disposition")
    return {_VISITS: frame.with_columns(disposition=dead)}


def _crowded_bed(tables: Tables) -> dict[str, pl.DataFrame]:
    return {_FLOW: tables[_FLOW].with_columns(bed_id=pl.lit("B1"))}


def _same_patient(tables: Tables) -> dict[str, pl.DataFrame]:
    return {_FLOW: tables[_FLOW].with_columns(patient_key=pl.lit(1, dtype=pl.Int64))}


def _two_births(tables: Tables) -> dict[str, pl.DataFrame]:
    people = tables["dim_patient"]
    other = people.head(people.height // 5).with_columns(birth_date=pl.col("birth_date") + _DAY)
    return {"dim_patient": pl.concat([people, other])}


def _others_sex(tables: Tables) -> dict[str, pl.DataFrame]:
    """Everybody is male and pregnant."""
    codes = tables["dim_condition"].with_columns(icd_version=pl.lit(10, dtype=pl.Int64), icd_code=pl.lit("O80"))
    people = tables["dim_patient"].with_columns(sex=pl.lit("male"))
    return {"dim_condition": codes, "dim_patient": people}


def _everybody_old(tables: Tables) -> dict[str, pl.DataFrame]:
    departments = tables["dim_department"].with_columns(department_name=pl.lit("Pediatrics"))
    visits = tables[_VISITS].with_columns(age_years=pl.lit(80, dtype=pl.Int64))
    return {"dim_department": departments, _VISITS: visits}


FAULTS: tuple[Fault, ...] = (
    Fault(kinds.COLUMNS, _VITALS, "a column is missing", lambda tables: {_VITALS: tables[_VITALS].drop("spo2_pct")}),
    Fault(
        kinds.COLUMNS,
        _VITALS,
        "a column is text where a number belongs",
        _with(_VITALS, spo2_pct=pl.col("spo2_pct").cast(pl.String)),
    ),
    Fault(kinds.KEY, _VISITS, "a row stands twice", _twice(_VISITS)),
    Fault(kinds.KEY, _VISITS, "a key is missing", _with(_VISITS, visit_id=_first("visit_id", pl.lit(None)))),
    Fault(
        kinds.REQUIRED, _VISITS, "one key is missing", _with(_VISITS, hospital_key=_first("hospital_key", pl.lit(None)))
    ),
    Fault(
        kinds.FLAG_AGREES,
        _VISITS,
        "one arrival is missing",
        _with(_VISITS, arrival_at=_first("arrival_at", pl.lit(None))),
    ),
    Fault(
        kinds.VALUES,
        _FLOW,
        "a class of stay that does not exist",
        _with(_FLOW, stay_class=_first("stay_class", pl.lit("tourist"))),
    ),
    Fault(kinds.VALUES, _VISITS, "a negative wait", _with(_VISITS, wait_minutes=_first("wait_minutes", pl.lit(-1.0)))),
    Fault(
        kinds.VALUES,
        _VISITS,
        "a length of stay that is not a number",
        _with(_VISITS, los_minutes=_first("los_minutes", pl.lit(float("nan")))),
    ),
    Fault(
        kinds.ENDS,
        _FLOW,
        "a patient whom nobody discharged for a year",
        _with(
            _FLOW,
            segment_start_at=_first("segment_start_at", pl.col("segment_start_at") - 365 * _DAY),
            segment_end_at=_first("segment_end_at", pl.lit(None, dtype=pl.Datetime("us", "UTC"))),
            is_open=_first("is_open", pl.lit(True)),
        ),
    ),
    Fault(
        kinds.PLAUSIBLE,
        _VISITS,
        "a stay of a year",
        _with(_VISITS, los_minutes=_first("los_minutes", pl.lit(525_600.0))),
    ),
    Fault(
        kinds.ADDS_UP,
        "kpi_lwbs_daily",
        "somebody is counted nowhere",
        _with("kpi_lwbs_daily", population_count=_first("population_count", pl.col("population_count") + 1)),
    ),
    Fault(
        kinds.ADDS_UP, "kpi_waits", "a wait is counted twice", _with("kpi_waits", wait_count=pl.col("wait_count") + 1)
    ),
    Fault(
        kinds.REFERENCES,
        _VISITS,
        "a hospital that is not there",
        _with(_VISITS, hospital_key=_first("hospital_key", pl.lit(12345))),
    ),
    Fault(
        kinds.TEXT_TRIMMED,
        "dim_hospital",
        "a blank before a name",
        _with("dim_hospital", hospital_name=_first("hospital_name", pl.lit(" North"))),
    ),
    Fault(
        kinds.SERVICE_DAY,
        _VISITS,
        "a tenth of the visits on the next day",
        _with(_VISITS, service_date=_some("service_date", pl.col("service_date") + _DAY)),
    ),
    Fault(
        kinds.DATE_KEY,
        _VISITS,
        "a date key is a day off",
        _with(_VISITS, arrival_date_key=_first("arrival_date_key", pl.col("arrival_date_key") + 1)),
    ),
    Fault(
        kinds.LOCAL_TIME,
        _VISITS,
        "wall clocks in UTC",
        _with(_VISITS, arrival_local=pl.col("arrival_at").dt.replace_time_zone(None)),
    ),
    Fault(
        kinds.FLAG_AGREES,
        _VISITS,
        "an open visit with a departure",
        _with(_VISITS, is_open=_first("is_open", ~pl.col("is_open"))),
    ),
    Fault(
        kinds.SCORE_AGREES,
        _VITALS,
        "a missing parameter scored as 0",
        _with(_VITALS, news2_score=pl.col("news2_score").fill_null(0)),
    ),
    Fault(
        kinds.DURATION_AGREES,
        _VISITS,
        "a stay in hours",
        _with(_VISITS, los_minutes=_some("los_minutes", pl.col("los_minutes") / 60)),
    ),
    Fault(
        kinds.VERSIONS,
        "dim_patient",
        "a gap between two versions",
        _with("dim_patient", valid_to_at=_some("valid_to_at", pl.col("valid_to_at") - _HOUR)),
    ),
    Fault(
        kinds.VERSIONS,
        "dim_department",
        "a version overlaps the next",
        _with("dim_department", valid_to_at=_first("valid_to_at", pl.col("valid_to_at") - _DAY)),
    ),
    Fault(
        kinds.ONE_CURRENT,
        "dim_patient",
        "two current versions",
        lambda tables: {
            "dim_patient": pl.concat([tables["dim_patient"], tables["dim_patient"].filter("is_current").tail(1)])
        },
    ),
    Fault(
        kinds.UNIT,
        "cleaned_vitals",
        "a hundredth in Fahrenheit",
        _with("cleaned_vitals", temperature_c=_some("temperature_c", pl.col("temperature_c") * 1.8 + 32, 100)),
    ),
    Fault(
        kinds.UNIT,
        "cleaned_vitals",
        "saturations as fractions",
        _with("cleaned_vitals", spo2_pct=_some("spo2_pct", pl.col("spo2_pct") / 100, 100)),
    ),
    Fault(kinds.NEVER_EMPTY, _VITALS, "no saturation at all", _with(_VITALS, spo2_pct=pl.lit(None, dtype=pl.Float64))),
    Fault(
        kinds.KNOWN_MEMBER,
        _VISITS,
        "a fifth of the patients unknown",
        _with(_VISITS, patient_key=_some("patient_key", pl.lit(UNKNOWN_KEY), 5)),
    ),
    Fault(
        kinds.READABLE,
        "cleaned_er_visits",
        "a tenth of the triage levels lost",
        _with("cleaned_er_visits", triage_level=_some("triage_level", pl.lit(None))),
    ),
    Fault(kinds.QUARANTINED, "cleaned_vitals", "half of the records quarantined", _quarantined(as_duplicates=False)),
    Fault(kinds.DUPLICATED, "cleaned_vitals", "half of the records came twice", _quarantined(as_duplicates=True)),
    Fault(kinds.HAS_VITALS, _VISITS, "no vital signs landed", _none(_VITALS)),
    Fault(kinds.HAS_DIAGNOSIS, _VISITS, "no diagnoses landed", _none("cleaned_diagnoses")),
    Fault(kinds.HAS_MESSAGES, _VISITS, "no ADT messages landed", _none("cleaned_adt_events")),
    Fault(
        kinds.QUANTILES,
        "forecast_arrivals_hourly",
        "the 10 % quantile is above the 90 % one",
        _with("forecast_arrivals_hourly", p10_count=_some("p10_count", pl.col("p90_count") + 1)),
    ),
    Fault(
        kinds.COHERENT,
        "forecast_arrivals_daily",
        "a day is rounded, its hours are not",
        _with("forecast_arrivals_daily", expected_arrivals=pl.col("expected_arrivals").round() + 0.25),
    ),
    Fault(
        kinds.AHEAD,
        "forecast_arrivals_daily",
        "a forecast of the day it was made at",
        _with("forecast_arrivals_daily", target_date=_first("target_date", pl.col("service_date"))),
    ),
    Fault(
        kinds.CALIBRATED,
        "kpi_forecast_accuracy",
        "intervals that are much too narrow",
        _with("kpi_forecast_accuracy", pit_80_pct=pl.lit(50.0), forecasts_count=pl.lit(10_000, dtype=pl.Int64)),
    ),
    Fault(
        kinds.DRIFT,
        "kpi_forecast_drift",
        "four weeks over their limit",
        _row("kpi_forecast_drift", week_end_date=date(2099, 1, 4), hospital_id=ALL, is_drifting=True),
    ),
    Fault(
        kinds.SKILL,
        "kpi_forecast_accuracy",
        "a regression shipped that the slot mean beats",
        _with(
            "kpi_forecast_accuracy",
            method=pl.lit("regression"),
            skill_pct=pl.lit(-5.0),
            forecasts_count=pl.lit(10_000, dtype=pl.Int64),
            shipped_count=pl.lit(10_000, dtype=pl.Int64),
        ),
    ),
    Fault(
        kinds.SKILL,
        "kpi_wait_forecast_accuracy",
        "a simulation shipped that the same hour beats",
        _row("kpi_wait_forecast_accuracy", wait_skill_pct=-5.0, forecasts_count=10_000, shipped_count=10_000),
    ),
    Fault(
        kinds.ROSTER,
        "staffing_need_hourly",
        "less staff is needed than there is work for",
        _row("staffing_need_hourly", needed_count=1, places_count=5, offered_load=9.0),
    ),
    Fault(kinds.SEEN_AGAIN, "dim_patient", "no visits landed", _none(_VISITS)),
    Fault(
        kinds.CLOCK_ORDER,
        _VISITS,
        "a tenth left before they came",
        _with(_VISITS, departure_at=_some("departure_at", pl.col("arrival_at") - _HOUR)),
    ),
    Fault(
        kinds.CLOCK_ORDER,
        _FLOW,
        "a segment ends before it starts",
        _with(_FLOW, segment_end_at=_first("segment_end_at", pl.col("segment_start_at") - _HOUR)),
    ),
    Fault(
        kinds.NOT_IN_FUTURE,
        _VITALS,
        "a measurement in ten years",
        _with(_VITALS, measured_at=_first("measured_at", pl.col("measured_at") + 3650 * _DAY)),
    ),
    Fault(
        kinds.AFTER_BIRTH,
        _VISITS,
        "a tenth not yet born",
        _with("dim_patient", birth_date=_some("birth_date", pl.lit(datetime(2100, 1, 1)).dt.date())),
    ),
    Fault(kinds.BEFORE_DEATH, "dim_patient", "the dead come again", _died),
    Fault(
        kinds.WITHIN_VISIT,
        _VITALS,
        "measured a week after the visit",
        _with(_VITALS, measured_at=_some("measured_at", pl.col("measured_at") - 7 * _DAY)),
    ),
    Fault(kinds.SEX_FITS, _VISITS, "pregnant men", _others_sex),
    Fault(kinds.AGE_FITS, _VISITS, "eighty years old in pediatrics", _everybody_old),
    Fault(kinds.ONE_PLACE, "dim_patient", "one patient in all beds", _same_patient),
    Fault(kinds.ONE_IN_BED, "dim_department", "all patients in one bed", _crowded_bed),
    Fault(kinds.ONE_BIRTH, "dim_patient", "a fifth born on two days", _two_births),
    Fault(
        kinds.PRESSURES,
        _VITALS,
        "a tenth of the pressures swapped",
        _with(_VITALS, systolic_mmhg=_some("systolic_mmhg", pl.col("diastolic_mmhg") - 1)),
    ),
    Fault(
        kinds.BLOOD_MIX,
        "kpi_blood_groups",
        "everybody has the rarest group",
        _with("kpi_blood_groups", share_pct=pl.lit(50.0), known_patient_count=pl.lit(10_000, dtype=pl.Int64)),
    ),
    Fault(
        kinds.TRIAGE_MIX,
        "kpi_triage_mix",
        "everybody is level 1",
        _with("kpi_triage_mix", share_of_triaged_pct=pl.lit(90.0), triaged_visit_count=pl.lit(10_000, dtype=pl.Int64)),
    ),
    Fault(
        kinds.DAYLIGHT,
        "cleaned_er_visits",
        "a tenth in the hour that is skipped",
        _with("cleaned_er_visits", quality_codes=_some("quality_codes", pl.lit("missing_hour"))),
    ),
    Fault(
        kinds.CLOCK_READING,
        "cleaned_er_visits",
        "a tenth with a clock that two formats read",
        _with("cleaned_er_visits", quality_codes=_some("quality_codes", pl.lit("clock_ambiguous"))),
    ),
)


def tables_needed() -> list[str]:
    """Tables that the faults, and the checks they must wake, read."""
    names = {fault.table for fault in FAULTS}
    for table in [*names]:
        names |= {name for relation in relations_of(table) for name in relation.needs}
        names |= {c.references.partition(".")[0] for c in CONTRACTS[table].columns if c.references}
    return [name for name in CONTRACTS if name in names]


def sound_tables(warehouse: Warehouse) -> dict[str, pl.DataFrame]:
    """The tables to spoil, from the warehouse."""
    tables = {}
    for name in tables_needed():
        frame: pl.DataFrame = warehouse.read(CONTRACTS[name]).collect("polars").to_native()
        zoned = [n for n, t in frame.schema.items() if isinstance(t, pl.Datetime) and t.time_zone]
        tables[name] = frame.with_columns(pl.col(n).dt.convert_time_zone("UTC") for n in zoned)
    return tables


def failed_kinds(table: str, tables: Tables, as_of: datetime, kinds: Collection[Kind] = KINDS) -> set[str]:
    """Names of the kinds that fail on a table.

    Args:
        tables: it and what it is compared with.
        kinds: those to evaluate; a missing column would stop the others.
    """
    frames: dict[str, Frame] = {name: lazy(frame) for name, frame in tables.items()}
    found = check_table(CONTRACTS[table], frames, as_of, kinds=kinds)
    return {kind.name for kind, findings in found if any(finding.status == "Failed" for finding in findings)}


def prove(tables: Tables, as_of: datetime) -> pl.DataFrame:
    """Inject every fault and see which kinds notice.

    Args:
        tables: sound tables, those of `tables_needed`.

    Returns:
        a row per fault: kind, table, fault, is_caught, also_failed (what else noticed).
    """
    rows = []
    before = {fault.table: failed_kinds(fault.table, tables, as_of) for fault in FAULTS}
    for fault in FAULTS:
        spoiled = {**tables, **fault.inject(tables)}
        kinds = [COLUMNS] if fault.kind is COLUMNS else KINDS
        noticed = failed_kinds(fault.table, spoiled, as_of, kinds) - before[fault.table]
        rows.append(
            {
                "kind": fault.kind.name,
                "family": fault.kind.family,
                "table": fault.table,
                "fault": fault.description,
                "is_caught": fault.kind.name in noticed,
                "also_failed": ", ".join(sorted(noticed - {fault.kind.name})),
            }
        )
    return pl.DataFrame(rows)
