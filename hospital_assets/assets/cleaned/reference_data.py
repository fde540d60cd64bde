"""Reference data: hospitals, departments over time, doctors, and the doctors' shifts."""

from __future__ import annotations

import dagster as dg
import narwhals as nw

from hospital_assets.assets.cleaned.rules import (
    DEPARTMENT_MAPPED,
    HOSPITAL_UNKNOWN,
    OUTSIDE_PERIOD,
    PLACEHOLDER,
    Rule,
    codes,
    first_broken,
    identity,
    mapped,
    outside_period,
    placeholders,
    read_clocks,
    read_dates,
    read_numbers,
    split,
    text,
    with_hospital,
)
from hospital_assets.assets.declare import cleaned_and_quarantined
from hospital_assets.assets.dedupe import newest_only
from hospital_assets.assets.resources import ClockResource
from hospital_assets.contracts.cleaned import DEPARTMENTS
from hospital_assets.landing.profile import time_zones
from hospital_assets.landing.registry import Profiles
from hospital_assets.warehouse.database import Period
from hospital_assets.warehouse.dialect import Frame, local_clocks, resolve_instants

HOSPITAL_ID_MISSING = Rule("hospital_id_missing", "A hospital needs an identifier.", "quarantine")
NAME_MISSING = Rule("name_missing", "It needs a name.", "quarantine")
TIME_ZONE_UNKNOWN = Rule("time_zone_unknown", "The time zone is not in the IANA database.", "quarantine")
DEPARTMENT_ID_MISSING = Rule("department_id_missing", "A department needs an identifier.", "quarantine")
CAPACITY_INVALID = Rule("capacity_invalid", "The bed capacity is not a whole number from 0.", "quarantine")
EFFECTIVE_DATE_MISSING = Rule("effective_date_missing", "The effective date is missing or unreadable.", "quarantine")
DOCTOR_ID_MISSING = Rule("doctor_id_missing", "A doctor needs an identifier.", "quarantine")
SHIFT_ID_MISSING = Rule("shift_id_missing", "A shift needs an identifier.", "quarantine")
SHIFT_TIMES_INVALID = Rule(
    "shift_times_invalid", "A shift's start or end is missing, or it ends before it starts.", "quarantine"
)
DOCTOR_NAME_MISSING = Rule("doctor_name_missing", "The doctor has no name; the number stands for it.", "flag")

HOSPITAL_RULES = (HOSPITAL_ID_MISSING, NAME_MISSING, TIME_ZONE_UNKNOWN)
DEPARTMENT_RULES = (
    DEPARTMENT_ID_MISSING,
    HOSPITAL_UNKNOWN,
    NAME_MISSING,
    CAPACITY_INVALID,
    EFFECTIVE_DATE_MISSING,
    DEPARTMENT_MAPPED,
)
DOCTOR_RULES = (DOCTOR_ID_MISSING, HOSPITAL_UNKNOWN, DOCTOR_NAME_MISSING, PLACEHOLDER)
SHIFT_RULES = (SHIFT_ID_MISSING, DOCTOR_ID_MISSING, HOSPITAL_UNKNOWN, SHIFT_TIMES_INVALID, OUTSIDE_PERIOD, PLACEHOLDER)


@dg.multi_asset(**cleaned_and_quarantined("hospitals"))
def hospitals(raw_hospitals: Frame, profiles: dg.ResourceParam[Profiles]) -> tuple[Frame, Frame]:
    """Hospitals, validated and split."""
    return split(validate_hospitals(raw_hospitals, profiles), raw_hospitals, "hospitals", HOSPITAL_RULES)


@dg.multi_asset(**cleaned_and_quarantined("departments"))
def departments(
    raw_departments: Frame, cleaned_hospitals: Frame, profiles: dg.ResourceParam[Profiles]
) -> tuple[Frame, Frame]:
    """Departments, validated and split."""
    return split(
        validate_departments(raw_departments, cleaned_hospitals, profiles),
        raw_departments,
        "departments",
        DEPARTMENT_RULES,
    )


@dg.multi_asset(**cleaned_and_quarantined("doctors"))
def doctors(raw_doctors: Frame, cleaned_hospitals: Frame, profiles: dg.ResourceParam[Profiles]) -> tuple[Frame, Frame]:
    """Doctors, validated and split."""
    return split(validate_doctors(raw_doctors, cleaned_hospitals, profiles), raw_doctors, "doctors", DOCTOR_RULES)


@dg.multi_asset(**cleaned_and_quarantined("doctor_shifts"))
def doctor_shifts(
    raw_doctor_shifts: Frame, cleaned_hospitals: Frame, profiles: dg.ResourceParam[Profiles], clock: ClockResource
) -> tuple[Frame, Frame]:
    """Doctor shifts, validated and split."""
    return split(
        validate_doctor_shifts(raw_doctor_shifts, cleaned_hospitals, profiles, clock.service_days),
        raw_doctor_shifts,
        "doctor_shifts",
        SHIFT_RULES,
    )


def validate_hospitals(raw: Frame, profiles: Profiles) -> Frame:
    """Every raw hospital with its cleaned columns and the rule it broke."""
    frame = read_numbers(raw, profiles, "hospitals", {"_level": "trauma_level"}).with_columns(
        hospital_id=identity(profiles, "hospital_id"),
        hospital_name=text("hospital_name"),
        city=text("city"),
        state=text("state"),
        time_zone=text("time_zone"),
        annual_ed_visits_band=text("annual_ed_visits_band"),
        trauma_level=nw.when(nw.col("_level").is_in([1.0, 2.0, 3.0, 4.0, 5.0])).then(nw.col("_level").cast(nw.Int64)),
        quality_codes=nw.lit(""),
    )
    frame = frame.with_columns(
        rule=first_broken(
            (HOSPITAL_ID_MISSING, nw.col("hospital_id").is_null()),
            (NAME_MISSING, nw.col("hospital_name").is_null()),
            (TIME_ZONE_UNKNOWN, nw.col("time_zone").is_null() | ~nw.col("time_zone").is_in(sorted(time_zones()))),
        )
    )
    return newest_only(frame, ["hospital_id"], "source_file")


def validate_departments(raw: Frame, hospitals: Frame, profiles: Profiles) -> Frame:
    """Every raw department version with its cleaned columns and the rule it broke."""
    frame = with_hospital(raw, hospitals, profiles)
    frame = read_dates(frame, profiles, "departments", {"_effective": "effective_date"}, from_the_beginning=True).drop(
        "effective_date"
    )
    frame = frame.with_columns(_beds_text=text("bed_capacity"))
    frame = read_numbers(frame, profiles, "departments", {"_beds": "bed_capacity", "_stay": "mean_stay_hours"})
    beds = nw.col("_beds")
    frame = frame.with_columns(
        department_id=identity(profiles, "department_id"),
        _landed_name=text("department_name"),
        department_name=mapped(profiles, "department_name", domain=DEPARTMENTS),
        bed_capacity=nw.when((beds >= 0) & (beds.floor() == beds)).then(beds.cast(nw.Int64)),
        mean_stay_hours=nw.when(nw.col("_stay") > 0).then(nw.col("_stay")),
        effective_date=nw.col("_effective"),
    ).with_columns(department_name=nw.coalesce(nw.col("department_name"), nw.col("_landed_name")))
    frame = frame.with_columns(
        quality_codes=codes((DEPARTMENT_MAPPED, nw.col("department_name") != nw.col("_landed_name"))),
        rule=first_broken(
            (DEPARTMENT_ID_MISSING, nw.col("department_id").is_null()),
            (HOSPITAL_UNKNOWN, nw.col("time_zone").is_null()),
            (NAME_MISSING, nw.col("department_name").is_null()),
            (CAPACITY_INVALID, nw.col("bed_capacity").is_null() & ~nw.col("_beds_text").is_null()),
            (EFFECTIVE_DATE_MISSING, nw.col("effective_date").is_null()),
        ),
    )
    return newest_only(frame, ["department_id", "effective_date"], "source_file")


def validate_doctors(raw: Frame, hospitals: Frame, profiles: Profiles) -> Frame:
    """Every raw doctor with its cleaned columns and the rule it broke."""
    frame = with_hospital(raw, hospitals, profiles)
    frame = read_dates(frame, profiles, "doctors", {"_hired": "hired_date"}).drop("hired_date")
    frame = frame.with_columns(
        doctor_id=identity(profiles, "doctor_id"),
        department_id=identity(profiles, "department_id"),
        full_name=nw.concat_str(
            text("first_name"), text("last_name"), separator=" ", ignore_nulls=True
        ).str.strip_chars(),
        _number=text("doctor_id"),
        specialty=text("specialty"),
        npi=text("npi"),
        hired_date=nw.col("_hired"),
    ).with_columns(_is_nameless=nw.col("full_name").is_null() | (nw.col("full_name") == ""))
    frame = frame.with_columns(
        full_name=nw.when(nw.col("_is_nameless")).then(nw.col("_number")).otherwise(nw.col("full_name")),
        quality_codes=codes((DOCTOR_NAME_MISSING, nw.col("_is_nameless")), placeholders("_hired")),
    )
    frame = frame.with_columns(
        rule=first_broken(
            (DOCTOR_ID_MISSING, nw.col("doctor_id").is_null()), (HOSPITAL_UNKNOWN, nw.col("time_zone").is_null())
        )
    )
    return newest_only(frame, ["doctor_id"], "source_file")


def validate_doctor_shifts(raw: Frame, hospitals: Frame, profiles: Profiles, period: Period | None = None) -> Frame:
    """Every raw shift with its cleaned columns and the rule it broke; `period` as for visits."""
    frame = with_hospital(raw, hospitals, profiles)
    frame = read_clocks(
        frame, profiles, "doctor_shifts", {"_start": "shift_start", "_end": "shift_end", "_recorded": "recorded_at"}
    ).drop("recorded_at")
    frame = resolve_instants(
        frame, {"shift_start_at": "_start", "shift_end_at": "_end", "recorded_at": "_recorded"}, "time_zone"
    )
    frame = local_clocks(frame, {"_start_local": "shift_start_at"}, "time_zone").with_columns(
        shift_id=identity(profiles, "shift_id"),
        doctor_id=identity(profiles, "doctor_id"),
        department_id=identity(profiles, "department_id"),
        quality_codes=codes(placeholders("_start", "_end", "_recorded")),
    )
    frame = frame.with_columns(
        rule=first_broken(
            (SHIFT_ID_MISSING, nw.col("shift_id").is_null()),
            (DOCTOR_ID_MISSING, nw.col("doctor_id").is_null()),
            (HOSPITAL_UNKNOWN, nw.col("time_zone").is_null()),
            (
                SHIFT_TIMES_INVALID,
                nw.col("shift_start_at").is_null()
                | nw.col("shift_end_at").is_null()
                | (nw.col("shift_end_at") <= nw.col("shift_start_at")),
            ),
            (OUTSIDE_PERIOD, outside_period(period, "_start_local")),
        )
    )
    return newest_only(frame, ["shift_id"], "recorded_at")
