"""The declared checks: what a table's contract cannot say by itself.

A rule is an expression over the rows of one table; a relation compares tables. Thresholds are shares of
rows that may break a rule before it fails. Adding a check is adding a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import narwhals as nw

from hospital_assets.assets.cleaned.adt_events import EVENT_TIME_UNKNOWN
from hospital_assets.assets.cleaned.er_visits import (
    ARRIVAL_TIME_UNKNOWN,
    CLOCK_WITHOUT_TIME,
    DEPARTURE_TIME_UNKNOWN,
    is_others,
    of_several_patients,
)
from hospital_assets.assets.cleaned.rules import CLOCK_AMBIGUOUS, has_code
from hospital_assets.assets.dimensions.calendar import date_key
from hospital_assets.assets.dimensions.scd2 import END_OF_TIME
from hospital_assets.assets.merges import with_person
from hospital_assets.checks import kinds
from hospital_assets.checks.kinds import Kind
from hospital_assets.checks.rules import Rule
from hospital_assets.contracts import RECORD_PLACE, Contract
from hospital_assets.contracts.dimensions import UNKNOWN_KEY
from hospital_assets.contracts.forecasts import QUANTILE_COLUMNS
from hospital_assets.contracts.kpis import ALL
from hospital_assets.landing.profile import SUBJECTS
from hospital_assets.measures import news2, thresholds
from hospital_assets.measures.presence import segment_until, visit_until
from hospital_assets.measures.triage import CRITICAL_IN_WORDS, is_critical
from hospital_assets.warehouse.dialect import Frame, local_clocks, minutes_between

Frames = Mapping[str, Frame]


@dataclass(frozen=True)
class Relation:
    """A single check that compares tables.

    Attributes:
        description: the rule in words.
        needs: other tables it reads.
        rows: from all these tables (by name) to the rows it applies to, with a column `_broken`.
        threshold_pct: how many percent may break it.
        about: the raw table without which there is nothing to compare, where a source may lack it.
    """

    kind: Kind
    table: str
    column: str
    description: str
    needs: tuple[str, ...]
    rows: Callable[[Frames], Frame]
    threshold_pct: float = 0.0
    about: str = ""


def _has(column: str) -> nw.Expr:
    return ~nw.col(column).is_null()


def _order(table: str, first: str, last: str, threshold_pct: float = 1.0) -> Rule:
    """One clock not after another, where both are known."""
    return Rule(
        kinds.CLOCK_ORDER,
        table,
        last,
        f"not before {first}",
        nw.col(last) < nw.col(first),
        _has(first) & _has(last),
        threshold_pct,
    )


def _lasts(table: str, column: str, start: str, end: str, unit_minutes: float = 1.0) -> Rule:
    """A duration is the difference of its clocks."""
    differs = (nw.col(column) * unit_minutes - minutes_between(start, end)).abs() > 1e-3
    return Rule(
        kinds.DURATION_AGREES, table, column, f"{end} minus {start}", differs, _has(column) & _has(start) & _has(end)
    )


_FORECASTS = ("forecast_arrivals_hourly", "forecast_arrivals_daily")
_BY_TRIAGE = ("forecast_triage_hourly", "forecast_triage_daily")
_WAITS, _WAIT_QUANTILES = "forecast_waits_hourly", tuple(f"mean_wait_p{level}_minutes" for level in (10, 50, 90))
_BEDS, _BED_QUANTILES = "forecast_beds_daily", tuple(f"patients_p{level}_count" for level in (10, 50, 90))
_NEED, _SHIFTS, _COMPARED = "staffing_need_hourly", "staffing_shifts_suggested", "kpi_staffing_comparison"
_ACCURACY, _WAIT_ACCURACY = "kpi_forecast_accuracy", "kpi_wait_forecast_accuracy"
#: 80 % intervals are assessed from so many forecasts on, and may hold this much.
LEAST_FORECASTS, PIT_80_PCT = 1_000, (76.0, 84.0)
#: Three weeks of forecasts by the day.
_LEAST_OF_DAYS = 280
#: A forecast leans where its bias is beyond both two standard errors and this share of what came.
MOST_BIAS_PCT = 5.0


def _falls(names: tuple[str, ...]) -> nw.Expr:
    """Whether a value is below the one before it."""
    falling = (nw.col(after) < nw.col(before) for before, after in pairwise(names))
    return nw.any_horizontal(*falling, ignore_nulls=True)


_VISITS, _VITALS, _FLOW = "fact_emergency_visits", "fact_vitals", "fact_patient_flow"
_CODED = nw.col("quality_codes")

#: Table -> the wall clock whose day is its service day.
SERVICE_CLOCKS = {_VISITS: "arrival_local", "cleaned_er_visits": "arrival_local", "cleaned_vitals": "measured_local"}
#: Records from before the days that the directory covers stand on the commonest day of their file.
_OUTSIDE_PCT = 2.0

RULES: tuple[Rule, ...] = (
    *(
        Rule(kinds.QUANTILES, name, "p975_count", "quantiles rise", _falls(QUANTILE_COLUMNS))
        for name in (*_FORECASTS, *_BY_TRIAGE)
    ),
    *(
        Rule(
            kinds.QUANTILES,
            name,
            "expected_arrivals",
            "nobody where no hour exists",
            nw.col("expected_arrivals") > 0,
            nw.col("existing_hours") == 0,
        )
        for name in _FORECASTS
    ),
    *(
        Rule(kinds.AHEAD, name, "target_date", "after the as-of day", nw.col("target_date") <= nw.col("service_date"))
        for name in (*_FORECASTS, *_BY_TRIAGE, "forecast_drivers", _WAITS, _BEDS, _NEED, _SHIFTS)
    ),
    Rule(kinds.QUANTILES, _WAITS, "mean_wait_p90_minutes", "quantiles rise", _falls(_WAIT_QUANTILES)),
    Rule(kinds.QUANTILES, _BEDS, "patients_p90_count", "quantiles rise", _falls(_BED_QUANTILES)),
    Rule(
        kinds.ROSTER,
        _NEED,
        "needed_count",
        "covers the load",
        nw.col("needed_count") * nw.col("places_count") < nw.col("offered_load"),
    ),
    Rule(
        kinds.ROSTER,
        _NEED,
        "suggested_count",
        "the least staff at least",
        nw.col("suggested_count") < nw.col("least_count"),
    ),
    Rule(
        kinds.ROSTER,
        _COMPARED,
        "doctor_hours",
        "no more than the budget",
        nw.col("doctor_hours") > nw.col("budget_hours"),
        nw.col("roster") != "present",
    ),
    Rule(
        kinds.CALIBRATED,
        _ACCURACY,
        "pit_80_pct",
        f"{PIT_80_PCT[0]:g} to {PIT_80_PCT[1]:g} % from {LEAST_FORECASTS:,} forecasts on",
        (nw.col("pit_80_pct") < PIT_80_PCT[0]) | (nw.col("pit_80_pct") > PIT_80_PCT[1]),
        nw.col("forecasts_count") >= LEAST_FORECASTS,
    ),
    Rule(
        kinds.CALIBRATED,
        _ACCURACY,
        "bias",
        f"within two standard errors or {MOST_BIAS_PCT:g} % of what came",
        (nw.col("bias").abs() > 2 * nw.col("bias_error"))
        & (nw.col("bias").abs() * nw.col("forecasts_count") * 100.0 > nw.col("arrivals_count") * MOST_BIAS_PCT),
        _has("bias_error")
        & (nw.col("horizon_band") == ALL)
        & (nw.col("shipped_count") * 2 > nw.col("forecasts_count"))
        & (
            (nw.col("forecasts_count") >= LEAST_FORECASTS)
            | ((nw.col("grain") == "day") & (nw.col("forecasts_count") >= _LEAST_OF_DAYS))
        ),
    ),
    Rule(
        kinds.SKILL,
        _ACCURACY,
        "skill_pct",
        "not below 0 where the regression shipped",
        nw.col("skill_pct") < 0,
        _has("skill_pct")
        & (nw.col("method") == "regression")
        & (nw.col("shipped_count") * 2 > nw.col("forecasts_count"))
        & (nw.col("forecasts_count") >= LEAST_FORECASTS),
    ),
    Rule(
        kinds.SKILL,
        _WAIT_ACCURACY,
        "wait_skill_pct",
        "not below 0 where the simulation shipped",
        nw.col("wait_skill_pct") < 0,
        _has("wait_skill_pct")
        & (nw.col("shipped_count") * 2 > nw.col("forecasts_count"))
        & (nw.col("forecasts_count") >= LEAST_FORECASTS),
    ),
    *(
        _order(_VISITS, first, last)
        for first, last in (
            ("arrival_at", "departure_at"),
            ("triage_at", "departure_at"),
            ("triage_at", "provider_at"),
            ("arrival_at", "room_at"),
            ("arrival_at", "handover_at"),
            ("arrival_at", "decision_at"),
            ("provider_at", "departure_at"),
            ("decision_at", "departure_at"),
            ("room_at", "departure_at"),
            ("arrival_at", "provider_at"),
        )
    ),
    _order(_FLOW, "segment_start_at", "segment_end_at", 0.0),
    _order(_FLOW, "stay_start_at", "segment_start_at", 0.0),
    _order(_FLOW, "stay_start_at", "stay_end_at", 0.0),
    _order("fact_doctor_shifts", "shift_start_at", "shift_end_at", 0.0),
    _order("fact_alerts", "opened_at", "resolved_at", 0.0),
    _lasts(_VISITS, "los_minutes", "arrival_at", "departure_at"),
    _lasts(_VISITS, "room_minutes", "arrival_at", "room_at"),
    _lasts(_VISITS, "boarding_minutes", "decision_at", "departure_at"),
    _lasts(_FLOW, "segment_hours", "segment_start_at", "segment_end_at", 60.0),
    _lasts("fact_doctor_shifts", "shift_hours", "shift_start_at", "shift_end_at", 60.0),
    Rule(
        kinds.DATE_KEY,
        _VISITS,
        "arrival_date_key",
        "names the day of arrival_local",
        nw.col("arrival_date_key") != date_key("arrival_local"),
    ),
    Rule(
        kinds.DATE_KEY,
        "fact_bed_occupancy",
        "date_key",
        "names the day of hour_start_local",
        nw.col("date_key") != date_key("hour_start_local"),
    ),
    Rule(
        kinds.FLAG_AGREES,
        _VISITS,
        "is_open",
        "exactly where there is no departure, nor the day of one",
        nw.col("is_open") != (nw.col("departure_at").is_null() & ~has_code(DEPARTURE_TIME_UNKNOWN)),
    ),
    Rule(
        kinds.FLAG_AGREES,
        _VISITS,
        "is_critical",
        f"exactly at triage levels {CRITICAL_IN_WORDS}",
        nw.col("is_critical") != is_critical(),
    ),
    Rule(
        kinds.FLAG_AGREES,
        _VISITS,
        "wait_exclusion",
        "exactly where there is no wait",
        nw.col("wait_minutes").is_null() != _has("wait_exclusion"),
    ),
    Rule(
        kinds.FLAG_AGREES,
        _FLOW,
        "is_open",
        "exactly where the stay has no end",
        nw.col("is_open") != nw.col("stay_end_at").is_null(),
    ),
    Rule(
        kinds.SCORE_AGREES,
        _VITALS,
        "news2_score",
        "exactly for adults with all seven parameters",
        nw.col("news2_score").is_null()
        != (
            (nw.col("news2_missing_count") > 0)
            | nw.col("age_years").is_null()
            | nw.coalesce(~news2.applies(), nw.lit(False))
        ),
    ),
    Rule(
        kinds.SCORE_AGREES,
        _VITALS,
        "news2_response",
        f"emergency from {thresholds.NEWS2_EMERGENCY_SCORE} points on",
        (nw.col("news2_response") == "emergency") != (nw.col("news2_score") >= thresholds.NEWS2_EMERGENCY_SCORE),
        _has("news2_score"),
    ),
    Rule(
        kinds.UNIT,
        "cleaned_vitals",
        "temperature_c",
        "no Fahrenheit among Celsius",
        nw.col("temperature_c") > 45,
        _has("temperature_c"),
        0.2,
    ),
    Rule(
        kinds.UNIT,
        "cleaned_vitals",
        "spo2_pct",
        "no fraction among percents",
        nw.col("spo2_pct") <= 1,
        _has("spo2_pct"),
        0.2,
    ),
    Rule(
        kinds.UNIT,
        "cleaned_vitals",
        "systolic_mmhg",
        "no kPa among mmHg",
        nw.col("systolic_mmhg") < 30,
        _has("systolic_mmhg"),
        0.2,
    ),
    Rule(
        kinds.PRESSURES,
        _VITALS,
        "systolic_mmhg",
        "above diastolic_mmhg",
        nw.col("systolic_mmhg") <= nw.col("diastolic_mmhg"),
        _has("systolic_mmhg") & _has("diastolic_mmhg"),
        1.0,
    ),
    *(
        Rule(
            kinds.DAYLIGHT,
            table,
            "quality_codes",
            "no ambiguous or missing hour",
            _CODED.str.contains("ambiguous_hour") | _CODED.str.contains("missing_hour"),
            None,
            2.0,
        )
        for table in ("cleaned_er_visits", "cleaned_vitals")
    ),
    Rule(
        kinds.CLOCK_READING,
        "cleaned_er_visits",
        "quality_codes",
        "no clock that can be read in two ways, and none without a time of day",
        has_code(CLOCK_AMBIGUOUS, CLOCK_WITHOUT_TIME, ARRIVAL_TIME_UNKNOWN, DEPARTURE_TIME_UNKNOWN),
    ),
    Rule(
        kinds.CLOCK_READING,
        "cleaned_adt_events",
        "quality_codes",
        "no event that is a date without a time of day",
        has_code(EVENT_TIME_UNKNOWN),
    ),
    Rule(
        kinds.FLAG_AGREES,
        _VISITS,
        "arrival_at",
        "known, unless only its day is (arrival_time_unknown)",
        nw.col("arrival_at").is_null() & ~has_code(ARRIVAL_TIME_UNKNOWN),
    ),
    Rule(
        kinds.AGE_FITS,
        _VISITS,
        "age_years",
        f"at most {thresholds.MAXIMUM_AGE_YEARS}",
        nw.col("age_years") > thresholds.MAXIMUM_AGE_YEARS,
        _has("age_years"),
    ),
    Rule(
        kinds.BLOOD_MIX,
        "kpi_blood_groups",
        "share_pct",
        "within 5 points of the population",
        (nw.col("share_pct") - nw.col("reference_share_pct")).abs() > 5,
        (nw.col("hospital_id") == ALL) & (nw.col("known_patient_count") >= 500) & _has("share_pct"),
    ),
    *(
        Rule(
            kinds.TRIAGE_MIX,
            "kpi_triage_mix",
            "share_of_triaged_pct",
            f"level {level} within {low} to {high} %",
            (nw.col("share_of_triaged_pct") < low) | (nw.col("share_of_triaged_pct") > high),
            (nw.col("hospital_id") == ALL)
            & (nw.col("triage_group") == str(level))
            & (nw.col("triaged_visit_count") >= 500),
        )
        for level, (low, high) in enumerate(((0.3, 5), (8, 25), (33, 55), (20, 40), (4, 18)), start=1)
    ),
)


# Relations ----------------------------------------------------------------------------------------


def _shows_instant(local: str, instant: str, of: str, by: str) -> Callable[[Frames], Frame]:
    """Whether a wall clock is its instant in the zone of the row's hospital."""

    def rows(frames: Frames) -> Frame:
        zones = frames[of].select(by, "time_zone")
        frame = local_clocks(
            frames["_own"].select(by, local, instant).join(zones, on=by, how="inner"), {"_shown": instant}, "time_zone"
        )
        return frame.with_columns(_broken=nw.col(local) != nw.col("_shown"))

    return rows


def _quarantined(subject: str, *, as_duplicates: bool) -> Callable[[Frames], Frame]:
    def rows(frames: Frames) -> Frame:
        broken = nw.col("is_duplicate") if as_duplicates else ~nw.col("is_duplicate")
        kept = frames["_own"].select(_broken=nw.col("source_line") < 0)
        return nw.concat([kept, frames[f"quarantine_{subject}"].select(_broken=broken)], how="vertical")

    return rows


def _lost(landed: str, cleaned: str, raw: str) -> Callable[[Frames], Frame]:
    """Landed values that became missing although their record was kept."""

    def rows(frames: Frames) -> Frame:
        line = [*RECORD_PLACE]
        landed_values = frames[raw].filter(nw.coalesce(nw.col(landed).str.strip_chars(), nw.lit("")) != "")
        kept = frames["_own"].select(*line, _value=nw.col(cleaned))
        return (
            landed_values.select(*line)
            .join(kept, on=line, how="inner")
            .with_columns(_broken=nw.col("_value").is_null())
        )

    return rows


def _lacks(other: str, on: str = "visit_id") -> Callable[[Frames], Frame]:
    """Rows that have no row in another table."""

    def rows(frames: Frames) -> Frame:
        found = frames[other].select(on).unique().with_columns(_found=nw.lit(True))
        closed = frames["_own"].filter(~nw.col("is_cancelled"), ~nw.col("is_open"))
        return closed.select(on).join(found, on=on, how="left").with_columns(_broken=nw.col("_found").is_null())

    return rows


def _never_came(frames: Frames) -> Frame:
    seen = (
        frames[_VISITS]
        .select("patient_key")
        .unique()
        .join(frames["_own"].select("patient_key", "patient_durable_key"), on="patient_key")
        .select("patient_durable_key")
        .unique()
        .with_columns(_found=nw.lit(True))
    )
    people = frames["_own"].filter(nw.col("patient_key") > 0).select("patient_durable_key").unique()
    return people.join(seen, on="patient_durable_key", how="left").with_columns(_broken=nw.col("_found").is_null())


def _before_birth(frames: Frames) -> Frame:
    born = frames["dim_patient"].select("patient_key", "birth_date")
    return (
        frames["_own"]
        .select("patient_key", "arrival_local")
        .join(born, on="patient_key")
        .filter(_has("birth_date"))
        .with_columns(_broken=nw.col("arrival_local").dt.date() < nw.col("birth_date"))
    )


def _after_death(frames: Frames) -> Frame:
    people = frames["_own"].filter(nw.col("patient_key") > 0).select("patient_key", "patient_durable_key")
    visits = frames[_VISITS].join(people, on="patient_key")
    died = (
        visits.filter(nw.col("disposition") == "expired", _has("departure_at"))
        .group_by("patient_durable_key")
        .agg(_died_at=nw.col("departure_at").min())
    )
    return visits.join(died, on="patient_durable_key").with_columns(_broken=nw.col("arrival_at") > nw.col("_died_at"))


def _left_out(frames: Frames) -> Frame:
    """Visits whose number has several patients; those are left out of facts where it is the number of another's."""
    contested = of_several_patients(frames["cleaned_er_visits"])
    held = with_person(contested, "patient_id", "visit_id", frames["cleaned_adt_events"])
    counted = frames[_VISITS].select("visit_id", "service_date", _is_counted=nw.lit(True))
    held = held.with_columns(_is_others=is_others(["visit_id"], "service_date"))
    return held.join(counted, on=["visit_id", "service_date"], how="left").with_columns(
        _broken=nw.col("_is_counted").is_null() & nw.col("_is_others")
    )


def _outside_visit(frames: Frames) -> Frame:
    visits = frames[_VISITS].select("visit_id", "arrival_at", "departure_at")
    at = nw.col("measured_at")
    return (
        frames["_own"]
        .select("visit_id", "measured_at")
        .join(visits, on="visit_id")
        .with_columns(
            _broken=(at < nw.col("arrival_at").dt.offset_by("-1d"))
            | nw.coalesce(at > nw.col("departure_at").dt.offset_by("1d"), nw.lit(False))
        )
    )


def _wrong_sex(frames: Frames) -> Frame:
    sex = frames["dim_patient"].select("patient_key", "sex")
    codes = frames["dim_condition"].select("condition_key", "icd_version", "icd_code")
    rows = (
        frames["_own"]
        .select("patient_key", "condition_key")
        .join(sex, on="patient_key")
        .join(codes, on="condition_key")
        .filter(nw.col("icd_version") == 10, nw.col("sex").is_in(["male", "female"]))
    )
    code = nw.col("icd_code")
    female = code.str.starts_with("O")
    male = code.str.starts_with("C61") | code.str.starts_with("N40") | code.str.starts_with("N41")
    return rows.filter(female | male).with_columns(
        _broken=nw.when(female).then(nw.col("sex") == "male").otherwise(nw.col("sex") == "female")
    )


def _wrong_age(frames: Frames) -> Frame:
    names = frames["dim_department"].select("department_key", "department_name")
    rows = frames["_own"].filter(_has("age_years")).join(names, on="department_key")
    age, name = nw.col("age_years"), nw.col("department_name")
    return rows.filter(name.is_in(["Pediatrics", "Maternity"])).with_columns(
        _broken=nw.when(name == "Pediatrics").then(age >= 21).otherwise((age < 11) | (age > 60))
    )


def _overlapping(by: str, stays: Callable[[Frame], Frame]) -> Callable[[Frames], Frame]:
    """Whether something has begun before what stands before it has ended."""

    def rows(frames: Frames) -> Frame:
        return (
            stays(frames[_FLOW])
            .with_columns(_next=nw.col("_start").shift(-1).over(by, order_by=["_start", "_id"]))
            .with_columns(_broken=nw.coalesce(nw.col("_next") < nw.col("_end"), nw.lit(False)))
        )

    return rows


def _inpatient_stays(flow: Frame) -> Frame:
    inside = flow.filter(nw.col("stay_class") == "inpatient", nw.col("patient_key") > 0)
    return (
        inside.group_by("patient_key", "stay_id")
        .agg(_start=nw.col("stay_start_at").min(), _end=nw.col("stay_end_at").max())
        .with_columns(_id=nw.col("stay_id"))
    )


def _bed_segments(flow: Frame) -> Frame:
    inside = flow.filter(nw.col("stay_class") == "inpatient", _has("bed_id"))
    return inside.select(
        "bed_id", _start=nw.col("segment_start_at"), _end=nw.col("segment_end_at"), _id=nw.col("stay_id")
    )


def _born_twice(frames: Frames) -> Frame:
    births = frames["_own"].filter(nw.col("patient_key") > 0, _has("birth_date"))
    return (
        births.group_by("patient_durable_key")
        .agg(_days=nw.col("birth_date").n_unique())
        .with_columns(_broken=nw.col("_days") > 1)
    )


def _gaps(member: str) -> Callable[[Frames], Frame]:
    def rows(frames: Frames) -> Frame:
        following = nw.col("valid_from_at").shift(-1).over(member, order_by="valid_from_at")
        expected = nw.coalesce(nw.col("_following"), nw.lit(END_OF_TIME))
        return (
            frames["_own"]
            .select(member, "valid_from_at", "valid_to_at")
            .with_columns(_following=following)
            .with_columns(_broken=nw.col("valid_to_at") != expected)
        )

    return rows


def _currents(member: str) -> Callable[[Frames], Frame]:
    def rows(frames: Frames) -> Frame:
        return (
            frames["_own"]
            .group_by(member)
            .agg(_count=nw.col("is_current").cast(nw.Int64).sum())
            .with_columns(_broken=nw.col("_count") != 1)
        )

    return rows


#: Sums of so many means differ by rounding alone.
_SUMS_ALIKE = 1e-9


def _differ(one: str, other: str) -> nw.Expr:
    return (nw.col(one) - nw.col(other)).abs() > _SUMS_ALIKE * (1.0 + nw.col(one).abs())


def _hours_and_days(frames: Frames) -> Frame:
    """Days whose hours are forecast, too, by the same method."""
    key = ["service_date", "hospital_id", "target_date", "method"]
    hours = frames["forecast_arrivals_hourly"].group_by(key).agg(_sum=nw.col("expected_arrivals").sum())
    return frames["_own"].join(hours, on=key, how="inner").with_columns(_broken=_differ("expected_arrivals", "_sum"))


def _total_forecast(*at: str) -> Callable[[Frames], Frame]:
    """Rows of all hospitals against what ships at each."""

    def rows(frames: Frames) -> Frame:
        own, key = frames["_own"], ["service_date", *at]
        ships = nw.col("is_shipped") & (nw.col("hospital_id") != ALL)
        parts = own.filter(ships).group_by(key).agg(_sum=nw.col("expected_arrivals").sum())
        total = own.filter(nw.col("hospital_id") == ALL).join(parts, on=key, how="left")
        return total.with_columns(_broken=nw.coalesce(_differ("expected_arrivals", "_sum"), nw.lit(True)))

    return rows


def _parts_of_forecast(whole: str, value: str, *at: str) -> Callable[[Frames], Frame]:
    """What ships of arrivals, against the sum of its parts."""

    def rows(frames: Frames) -> Frame:
        key = ["service_date", "hospital_id", *at]
        parts = frames["_own"].group_by(key).agg(_sum=nw.col(value).sum())
        shipped = frames[whole].filter(nw.col("is_shipped")).join(parts, on=key, how="left")
        return shipped.with_columns(_broken=nw.coalesce(_differ("expected_arrivals", "_sum"), nw.lit(True)))

    return rows


def _drifting(frames: Frames) -> Frame:
    """The newest week of each hospital."""
    newest = nw.col("week_end_date") == nw.col("week_end_date").max().over("hospital_id")
    return frames["_own"].filter(newest, ~nw.col("is_drifting").is_null()).with_columns(_broken=nw.col("is_drifting"))


def _shipped_once(frames: Frames) -> Frame:
    """As-of days, hospitals and days ahead, each with what ships."""
    shipped = (
        frames["_own"]
        .with_columns(_ships=nw.col("is_shipped").cast(nw.Int64))
        .group_by("service_date", "hospital_id", "target_date")
        .agg(_ships=nw.col("_ships").sum())
    )
    return shipped.with_columns(_broken=nw.col("_ships") != 1)


def _hours_of_shifts(frames: Frames) -> Frame:
    """Rosters that are suggested, and the hours of their shifts."""
    key = ["service_date", "hospital_id"]
    hours = nw.col("shift_hours") * nw.col("suggested_count")
    shifts = frames[_SHIFTS].with_columns(_hours=hours).group_by(key).agg(_sum=nw.col("_hours").sum())
    suggested = frames["_own"].filter(nw.col("roster") == "suggested").join(shifts, on=key, how="left")
    return suggested.with_columns(_broken=nw.coalesce(_differ("doctor_hours", "_sum"), nw.lit(True)))


RELATIONS: tuple[Relation, ...] = (
    Relation(kinds.ROSTER, _COMPARED, "doctor_hours", "the sum of its shifts", (_SHIFTS,), _hours_of_shifts),
    Relation(
        kinds.COHERENT,
        "forecast_arrivals_daily",
        "expected_arrivals",
        "the sum of its hours, where those are forecast",
        ("forecast_arrivals_hourly",),
        _hours_and_days,
    ),
    *(
        Relation(kinds.COHERENT, name, "expected_arrivals", "`all` is the sum of what ships", (), _total_forecast(*by))
        for name, *by in (
            ("forecast_arrivals_hourly", "target_date", "hour_of_day"),
            ("forecast_arrivals_daily", "target_date"),
        )
    ),
    *(
        Relation(
            kinds.COHERENT, name, value, "parts sum to what ships", (whole,), _parts_of_forecast(whole, value, *by)
        )
        for name, value, whole, *by in (
            (_BY_TRIAGE[0], "expected_arrivals", _FORECASTS[0], "target_date", "hour_of_day"),
            (_BY_TRIAGE[1], "expected_arrivals", _FORECASTS[1], "target_date"),
            ("forecast_drivers", "added_arrivals", _FORECASTS[1], "target_date"),
        )
    ),
    Relation(
        kinds.DRIFT, "kpi_forecast_drift", "is_drifting", "within its limit in the last four weeks", (), _drifting
    ),
    Relation(kinds.AHEAD, "forecast_arrivals_daily", "is_shipped", "one ships per hospital and day", (), _shipped_once),
    Relation(
        kinds.LOCAL_TIME,
        _VISITS,
        "arrival_local",
        "arrival_at in the hospital's zone",
        ("dim_hospital",),
        _shows_instant("arrival_local", "arrival_at", "dim_hospital", "hospital_key"),
    ),
    Relation(
        kinds.LOCAL_TIME,
        "fact_bed_occupancy",
        "hour_start_local",
        "hour_start_at in the hospital's zone",
        ("dim_hospital",),
        _shows_instant("hour_start_local", "hour_start_at", "dim_hospital", "hospital_key"),
    ),
    Relation(
        kinds.LOCAL_TIME,
        "cleaned_vitals",
        "measured_local",
        "measured_at in the hospital's zone",
        ("cleaned_hospitals",),
        _shows_instant("measured_local", "measured_at", "cleaned_hospitals", "hospital_id"),
    ),
    *(
        Relation(
            kinds.QUARANTINED,
            f"cleaned_{subject}",
            "record",
            "kept, not quarantined",
            (f"quarantine_{subject}",),
            _quarantined(subject, as_duplicates=False),
            5.0,
        )
        for subject in SUBJECTS
    ),
    *(
        Relation(
            kinds.DUPLICATED,
            f"cleaned_{subject}",
            "record",
            "landed once",
            (f"quarantine_{subject}",),
            _quarantined(subject, as_duplicates=True),
            30.0,
        )
        for subject in SUBJECTS
        if subject != "er_visits"
    ),
    *(
        Relation(kinds.READABLE, table, cleaned, f"readable from {landed}", (raw,), _lost(landed, cleaned, raw), 2.0)
        for table, raw, landed, cleaned in (
            ("cleaned_er_visits", "raw_er_visits", "triage_level", "triage_level"),
            ("cleaned_er_visits", "raw_er_visits", "departure_time", "departure_at"),
            ("cleaned_er_visits", "raw_er_visits", "provider_time", "provider_at"),
            ("cleaned_er_visits", "raw_er_visits", "department", "department_name"),
            ("cleaned_er_visits", "raw_er_visits", "disposition", "disposition"),
            ("cleaned_patients", "raw_patients", "birth_date", "birth_date"),
            ("cleaned_patients", "raw_patients", "blood_group", "blood_group"),
            ("cleaned_adt_events", "raw_adt_events", "department", "department_name"),
        )
    ),
    Relation(
        kinds.HAS_VITALS, _VISITS, "visit_id", "has vital signs", (_VITALS,), _lacks(_VITALS), 35.0, about="raw_vitals"
    ),
    Relation(
        kinds.HAS_DIAGNOSIS,
        _VISITS,
        "visit_id",
        "has a diagnosis",
        ("cleaned_diagnoses",),
        _lacks("cleaned_diagnoses"),
        25.0,
        about="raw_diagnoses",
    ),
    Relation(
        kinds.HAS_MESSAGES,
        _VISITS,
        "visit_id",
        "has ADT messages",
        ("cleaned_adt_events",),
        _lacks("cleaned_adt_events"),
        5.0,
        about="raw_adt_events",
    ),
    Relation(kinds.SEEN_AGAIN, "dim_patient", "patient_id", "has a visit", (_VISITS,), _never_came, 25.0),
    Relation(
        kinds.AFTER_BIRTH, _VISITS, "arrival_local", "not before the birth date", ("dim_patient",), _before_birth, 0.1
    ),
    Relation(kinds.BEFORE_DEATH, "dim_patient", "arrival_at", "not after having died", (_VISITS,), _after_death, 1.0),
    Relation(
        kinds.WITHIN_VISIT, _VITALS, "measured_at", "within the visit, a day around it", (_VISITS,), _outside_visit, 1.0
    ),
    Relation(
        kinds.SEX_FITS,
        _VISITS,
        "condition_key",
        "a diagnosis that the sex can have",
        ("dim_patient", "dim_condition"),
        _wrong_sex,
        1.0,
    ),
    Relation(
        kinds.AGE_FITS, _VISITS, "department_key", "a department for the age", ("dim_department",), _wrong_age, 2.0
    ),
    Relation(
        kinds.ONE_PLACE,
        "dim_patient",
        "patient_key",
        "no two inpatient stays at once",
        (_FLOW,),
        _overlapping("patient_key", _inpatient_stays),
        0.5,
    ),
    Relation(
        kinds.ONE_IN_BED,
        "dim_department",
        "bed_id",
        "no two inpatients at once",
        (_FLOW,),
        _overlapping("bed_id", _bed_segments),
        0.5,
    ),
    Relation(
        kinds.ONE_PATIENT,
        "dim_patient",
        "patient_id",
        "no visit left out for having the number of another patient's earlier one",
        (_VISITS, "cleaned_er_visits", "cleaned_adt_events"),
        _left_out,
    ),
    Relation(kinds.ONE_BIRTH, "dim_patient", "birth_date", "one per person", (), _born_twice, 1.0),
    *(
        Relation(kind, table, member, description, (), rows(member))
        for table, member in (("dim_patient", "patient_id"), ("dim_department", "department_id"))
        for kind, description, rows in (
            (kinds.VERSIONS, "each version ends where the next begins", _gaps),
            (kinds.ONE_CURRENT, "one current version", _currents),
        )
    ),
)

#: Table -> until when an open row can be believed, the end it lacks, and the rule in words.
_OPEN: Mapping[str, tuple[nw.Expr, str, str]] = {
    _VISITS: (
        visit_until("arrival_at", "departure_at"),
        "departure_at",
        f"known {thresholds.LONGEST_PRESENCE_HOURS} hours after arrival",
    ),
    _FLOW: (
        segment_until("segment_start_at", "segment_end_at"),
        "segment_end_at",
        f"known {thresholds.LONGEST_PRESENCE_HOURS} hours after an emergency segment began, "
        f"{thresholds.LONGEST_OPEN_STAY_HOURS / 24:g} days after an inpatient one",
    ),
}
#: Nullable columns that may well be empty in every row: nothing is wrong, nothing was delivered, or the
#: case is rare.
MAY_BE_EMPTY = frozenset(
    {
        "bed_capacity",
        "wait_exclusion",
        "prior_patient_id",
        "resolved_at",
        "acknowledged_at",
        "open_minutes",
        "annual_ed_visits_band",
        "age_at_extract_years",
        "gcs_score",
        "pain_score",
        "inexact_values",
    }
)
#: Instants that lie ahead by their nature; the audit goes by the wall clock, not by the hospital's.
_AHEAD = ("valid_to_at", "shift_start_at", "shift_end_at", "recorded_at", "hour_start_at", "occurred_at")


def resolved_rules(contract: Contract, as_of: datetime, undeliverable: Collection[str] = ()) -> list[Rule]:
    """The rules of a table: those declared, and those that follow from its columns.

    Args:
        undeliverable: `table.column` that no source in use can fill; that it is there is not asked.
    """
    rules = [rule for rule in RULES if rule.table == contract.name]
    is_typed = contract.layer in ("cleaned", "dimensions", "facts")
    if contract.name.startswith("quarantine_") or not is_typed:
        return rules
    if clock := SERVICE_CLOCKS.get(contract.name):
        day = nw.col(clock).dt.date()
        # What lies beyond the covered days stands on the commonest day of its file, too.
        is_over = day < nw.lit(as_of.date()).cast(nw.Date)
        rules.append(
            Rule(
                kinds.SERVICE_DAY,
                contract.name,
                "service_date",
                f"the day of {clock}",
                nw.col("service_date") != day,
                is_over,
                _OUTSIDE_PCT,
            )
        )
    moment = nw.lit(as_of).cast(nw.Datetime("us", "UTC"))
    longest = _OPEN.get(contract.name)
    # Of a source that never says when a visit ended, all are open, and nothing is wrong with that.
    if longest and f"{contract.name}.{longest[1]}" not in undeliverable:
        until, end, description = longest
        rules.append(
            Rule(kinds.ENDS, contract.name, end, description, until < moment, nw.col("is_open") & nw.col(end).is_null())
        )
    tomorrow = moment.dt.offset_by("1d")
    for column in contract.columns:
        value = nw.col(column.name)
        if column.duckdb_type == "VARCHAR" and column.name not in ("record", "quality_codes"):
            rules.append(
                Rule(
                    kinds.TEXT_TRIMMED,
                    contract.name,
                    column.name,
                    "no blanks around it",
                    value != value.str.strip_chars(),
                    _has(column.name),
                )
            )
        is_asked = f"{contract.name}.{column.name}" not in undeliverable
        if column.nullable and column.name not in MAY_BE_EMPTY:
            # Only all of them is too many.
            rules.append(
                Rule(
                    kinds.NEVER_EMPTY,
                    contract.name,
                    column.name,
                    "not always missing",
                    value.is_null(),
                    threshold_pct=100.0 - 1e-6,
                    is_asked=is_asked,
                )
            )
        if column.references and contract.layer == "facts":
            rules.append(
                Rule(
                    kinds.KNOWN_MEMBER,
                    contract.name,
                    column.name,
                    "a known member",
                    value == UNKNOWN_KEY,
                    threshold_pct=10.0,
                    is_asked=is_asked,
                )
            )
        is_instant = column.duckdb_type == "TIMESTAMPTZ" and column.name not in _AHEAD
        if is_instant and contract.layer in ("cleaned", "facts"):
            rules.append(
                Rule(
                    kinds.NOT_IN_FUTURE,
                    contract.name,
                    column.name,
                    "not after tomorrow",
                    value > tomorrow,
                    _has(column.name) & _by_hospital_time(contract),
                )
            )
    return rules


def _by_hospital_time(contract: Contract) -> nw.Expr:
    """Which rows go by the hospital's clock: not the platform's own alerts, which come after its last day, too."""
    return nw.col("hospital_key") != UNKNOWN_KEY if contract.name == "fact_alerts" else nw.lit(True)


def relations_of(table: str) -> list[Relation]:
    """The relations of a table."""
    return [relation for relation in RELATIONS if relation.table == table]
