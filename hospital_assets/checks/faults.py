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
        inject: from sound tables to those that are different.
    """

    kind: Kind
    table: str
    description: str
    inject: Callable[[Tables], dict[str, pl.DataFrame]]


#: What stands in a spoiled column.
_Value = pl.Expr | str | float | date | None
_PLACE = pl.int_range(pl.len())


def _with(table: str, columns: Mapping[str, _Value]) -> Callable[[Tables], dict[str, pl.DataFrame]]:
    spoiled = {name: _expression(value) for name, value in columns.items()}
    return lambda tables: {table: tables[table].with_columns(**spoiled)}


def _expression(value: _Value) -> pl.Expr:
    return value if isinstance(value, pl.Expr) else pl.lit(value, pl.Int64 if type(value) is int else None)


def _where(is_hit: pl.Expr, columns: Mapping[str, _Value]) -> dict[str, _Value]:
    return {name: pl.when(is_hit).then(_expression(value)).otherwise(name) for name, value in columns.items()}


def _all(kind: Kind, table: str, description: str, **columns: _Value) -> Fault:
    """Columns, spoiled in every row."""
    return Fault(kind, table, description, _with(table, columns))


def _some(kind: Kind, table: str, description: str, every: int = 10, **columns: _Value) -> Fault:
    """Columns, spoiled in every so-manieth row."""
    return Fault(kind, table, description, _with(table, _where(_PLACE % every == 0, columns)))


def _first(kind: Kind, table: str, description: str, **columns: _Value) -> Fault:
    """Columns, spoiled in the first row."""
    return Fault(kind, table, description, _with(table, _where(_PLACE == 0, columns)))


def _row(kind: Kind, table: str, description: str, **values: float | str | date) -> Fault:
    """A row more; a table may be empty in few days."""
    return Fault(
        kind,
        table,
        description,
        lambda tables: {table: pl.concat([tables[table], pl.DataFrame([values], schema=tables[table].schema)])},
    )


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


#: A visit under the number of the last one.
_LATER: Mapping[str, _Value] = {"visit_id": pl.col("visit_id").last()} | {
    name: pl.col(name) + 3650 * _DAY for name in ("service_date", "recorded_at")
}

FAULTS: tuple[Fault, ...] = (
    Fault(kinds.COLUMNS, _VITALS, "a column is missing", lambda tables: {_VITALS: tables[_VITALS].drop("spo2_pct")}),
    _all(
        kinds.COLUMNS, _VITALS, "a column is text where a number belongs", spo2_pct=pl.col("spo2_pct").cast(pl.String)
    ),
    Fault(
        kinds.KEY,
        _VISITS,
        "a row stands twice",
        lambda tables: {_VISITS: pl.concat([tables[_VISITS], tables[_VISITS].head(1)])},
    ),
    _first(kinds.KEY, _VISITS, "a key is missing", visit_id=None),
    _first(kinds.REQUIRED, _VISITS, "one key is missing", hospital_key=None),
    _first(kinds.FLAG_AGREES, _VISITS, "one arrival is missing", arrival_at=None),
    _first(kinds.VALUES, _FLOW, "a class of stay that does not exist", stay_class="tourist"),
    _first(kinds.VALUES, _VISITS, "a negative wait", wait_minutes=-1.0),
    _first(kinds.VALUES, _VISITS, "a length of stay that is not a number", los_minutes=float("nan")),
    _first(
        kinds.ENDS,
        _FLOW,
        "a patient whom nobody discharged for a year",
        segment_start_at=pl.col("segment_start_at") - 365 * _DAY,
        segment_end_at=None,
        is_open=True,
    ),
    _first(kinds.PLAUSIBLE, _VISITS, "a stay of a year", los_minutes=525_600.0),
    _first(
        kinds.ADDS_UP, "kpi_lwbs_daily", "somebody is counted nowhere", population_count=pl.col("population_count") + 1
    ),
    _all(kinds.ADDS_UP, "kpi_waits", "a wait is counted twice", wait_count=pl.col("wait_count") + 1),
    _first(kinds.REFERENCES, _VISITS, "a hospital that is not there", hospital_key=12345),
    _first(kinds.TEXT_TRIMMED, "dim_hospital", "a blank before a name", hospital_name=" North"),
    _some(
        kinds.SERVICE_DAY, _VISITS, "a tenth of the visits on the next day", service_date=pl.col("service_date") + _DAY
    ),
    _first(kinds.DATE_KEY, _VISITS, "a date key is a day off", arrival_date_key=pl.col("arrival_date_key") + 1),
    _all(
        kinds.LOCAL_TIME, _VISITS, "wall clocks in UTC", arrival_local=pl.col("arrival_at").dt.replace_time_zone(None)
    ),
    _first(kinds.FLAG_AGREES, _VISITS, "an open visit with a departure", is_open=~pl.col("is_open")),
    _all(
        kinds.SCORE_AGREES, _VITALS, "a missing parameter scored as 0", news2_score=pl.col("news2_score").fill_null(0)
    ),
    _some(kinds.DURATION_AGREES, _VISITS, "a stay in hours", los_minutes=pl.col("los_minutes") / 60),
    _some(kinds.VERSIONS, "dim_patient", "a gap between two versions", valid_to_at=pl.col("valid_to_at") - _HOUR),
    _first(kinds.VERSIONS, "dim_department", "a version overlaps the next", valid_to_at=pl.col("valid_to_at") - _DAY),
    Fault(
        kinds.ONE_CURRENT,
        "dim_patient",
        "two current versions",
        lambda tables: {
            "dim_patient": pl.concat([tables["dim_patient"], tables["dim_patient"].filter("is_current").tail(1)])
        },
    ),
    _some(
        kinds.UNIT,
        "cleaned_vitals",
        "a hundredth in Fahrenheit",
        every=100,
        temperature_c=pl.col("temperature_c") * 1.8 + 32,
    ),
    _some(kinds.UNIT, "cleaned_vitals", "saturations as fractions", every=100, spo2_pct=pl.col("spo2_pct") / 100),
    _all(kinds.NEVER_EMPTY, _VITALS, "no saturation at all", spo2_pct=pl.lit(None, dtype=pl.Float64)),
    _some(kinds.KNOWN_MEMBER, _VISITS, "a fifth of the patients unknown", every=5, patient_key=UNKNOWN_KEY),
    _some(kinds.READABLE, "cleaned_er_visits", "a tenth of the triage levels lost", triage_level=None),
    Fault(kinds.QUARANTINED, "cleaned_vitals", "half of the records quarantined", _quarantined(as_duplicates=False)),
    Fault(kinds.DUPLICATED, "cleaned_vitals", "half of the records came twice", _quarantined(as_duplicates=True)),
    Fault(kinds.HAS_VITALS, _VISITS, "no vital signs landed", _none(_VITALS)),
    Fault(kinds.HAS_DIAGNOSIS, _VISITS, "no diagnoses landed", _none("cleaned_diagnoses")),
    Fault(kinds.HAS_MESSAGES, _VISITS, "no ADT messages landed", _none("cleaned_adt_events")),
    _some(
        kinds.QUANTILES,
        "forecast_arrivals_hourly",
        "the 10 % quantile is above the 90 % one",
        p10_count=pl.col("p90_count") + 1,
    ),
    _all(
        kinds.COHERENT,
        "forecast_arrivals_daily",
        "a day is rounded, its hours are not",
        expected_arrivals=pl.col("expected_arrivals").round() + 0.25,
    ),
    _first(
        kinds.AHEAD,
        "forecast_arrivals_daily",
        "a forecast of the day it was made at",
        target_date=pl.col("service_date"),
    ),
    _all(
        kinds.CALIBRATED,
        "kpi_forecast_accuracy",
        "intervals that are much too narrow",
        pit_80_pct=50.0,
        forecasts_count=10_000,
    ),
    _row(
        kinds.DRIFT,
        "kpi_forecast_drift",
        "four weeks over their limit",
        week_end_date=date(2099, 1, 4),
        hospital_id=ALL,
        is_drifting=True,
    ),
    _all(
        kinds.SKILL,
        "kpi_forecast_accuracy",
        "a regression shipped that the slot mean beats",
        method="regression",
        skill_pct=-5.0,
        forecasts_count=10_000,
        shipped_count=10_000,
    ),
    _row(
        kinds.SKILL,
        "kpi_wait_forecast_accuracy",
        "a simulation shipped that the same hour beats",
        wait_skill_pct=-5.0,
        forecasts_count=10_000,
        shipped_count=10_000,
    ),
    _row(
        kinds.ROSTER,
        "staffing_need_hourly",
        "less staff is needed than there is work for",
        needed_count=1,
        places_count=5,
        offered_load=9.0,
    ),
    Fault(kinds.SEEN_AGAIN, "dim_patient", "no visits landed", _none(_VISITS)),
    _some(kinds.CLOCK_ORDER, _VISITS, "a tenth left before they came", departure_at=pl.col("arrival_at") - _HOUR),
    _first(
        kinds.CLOCK_ORDER, _FLOW, "a segment ends before it starts", segment_end_at=pl.col("segment_start_at") - _HOUR
    ),
    _first(kinds.NOT_IN_FUTURE, _VITALS, "a measurement in ten years", measured_at=pl.col("measured_at") + 3650 * _DAY),
    Fault(
        kinds.AFTER_BIRTH,
        _VISITS,
        "a tenth not yet born",
        _with("dim_patient", _where(_PLACE % 10 == 0, {"birth_date": date(2100, 1, 1)})),
    ),
    Fault(kinds.BEFORE_DEATH, "dim_patient", "the dead come again", _died),
    _some(kinds.WITHIN_VISIT, _VITALS, "measured a week after the visit", measured_at=pl.col("measured_at") - 7 * _DAY),
    Fault(kinds.SEX_FITS, _VISITS, "pregnant men", _others_sex),
    Fault(kinds.AGE_FITS, _VISITS, "eighty years old in pediatrics", _everybody_old),
    Fault(kinds.ONE_PLACE, "dim_patient", "one patient in all beds", _with(_FLOW, {"patient_key": 1})),
    Fault(kinds.ONE_IN_BED, "dim_department", "all patients in one bed", _with(_FLOW, {"bed_id": "B1"})),
    Fault(
        kinds.ONE_PATIENT,
        "dim_patient",
        "another patient comes ten years later, under the same number",
        _with("cleaned_er_visits", _where(_PLACE == 0, _LATER)),
    ),
    Fault(kinds.ONE_BIRTH, "dim_patient", "a fifth born on two days", _two_births),
    _some(kinds.PRESSURES, _VITALS, "a tenth of the pressures swapped", systolic_mmhg=pl.col("diastolic_mmhg") - 1),
    _all(
        kinds.BLOOD_MIX,
        "kpi_blood_groups",
        "everybody has the rarest group",
        share_pct=50.0,
        known_patient_count=10_000,
    ),
    _all(
        kinds.TRIAGE_MIX,
        "kpi_triage_mix",
        "everybody is level 1",
        share_of_triaged_pct=90.0,
        triaged_visit_count=10_000,
    ),
    _some(kinds.DAYLIGHT, "cleaned_er_visits", "a tenth in the hour that is skipped", quality_codes="missing_hour"),
    _some(
        kinds.CLOCK_READING,
        "cleaned_er_visits",
        "a tenth with a clock that two formats read",
        quality_codes="clock_ambiguous",
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
