"""Patients: versions of each record, codes in one spelling; ages never become birth dates."""

from __future__ import annotations

import dagster as dg
import narwhals as nw

from hospital_assets.assets.cleaned.rules import (
    PLACEHOLDER,
    Rule,
    codes,
    first_broken,
    identity,
    mapped,
    placeholders,
    read_clocks,
    read_dates,
    read_numbers,
    split,
    text,
)
from hospital_assets.assets.declare import cleaned_and_quarantined
from hospital_assets.assets.dedupe import newest_only
from hospital_assets.contracts.cleaned import BLOOD_GROUPS, SEXES
from hospital_assets.landing.registry import Profiles
from hospital_assets.measures.thresholds import MAXIMUM_AGE_YEARS
from hospital_assets.warehouse.dialect import Frame, local_clocks, resolve_instants

PATIENT_ID_MISSING = Rule("patient_id_missing", "A patient record needs a number.", "quarantine")
RECORDED_AT_MISSING = Rule("recorded_at_missing", "A patient record must say when it was written.", "quarantine")
BIRTH_DATE_UNREADABLE = Rule("birth_date_unreadable", "The birth date cannot be read.", "flag")
BIRTH_DATE_IN_FUTURE = Rule(
    "birth_date_in_future", "The birth date is after the record was written; it is not used.", "flag"
)
AGE_OUT_OF_RANGE = Rule("age_out_of_range", f"The age is below 0 or above {MAXIMUM_AGE_YEARS}; it is not used.", "flag")
SEX_MAPPED = Rule("sex_mapped", "The spelling of the sex was translated.", "correct")
BLOOD_GROUP_MAPPED = Rule("blood_group_mapped", "The spelling of the blood group was translated.", "correct")
BLOOD_GROUP_UNKNOWN = Rule("blood_group_unknown", "No such blood group exists.", "flag")

RULES = (
    PATIENT_ID_MISSING,
    RECORDED_AT_MISSING,
    BIRTH_DATE_UNREADABLE,
    PLACEHOLDER,
    BIRTH_DATE_IN_FUTURE,
    AGE_OUT_OF_RANGE,
    SEX_MAPPED,
    BLOOD_GROUP_MAPPED,
    BLOOD_GROUP_UNKNOWN,
)


@dg.multi_asset(**cleaned_and_quarantined("patients"))
def patients(raw_patients: Frame, profiles: dg.ResourceParam[Profiles]) -> tuple[Frame, Frame]:
    """Patients, validated and split."""
    return split(validate_patients(raw_patients, profiles), raw_patients, "patients", RULES)


def validate_patients(raw: Frame, profiles: Profiles) -> Frame:
    """Every raw record with its cleaned columns, its quality codes, and the rule it broke.

    The EHR is the network's, not one hospital's: a `recorded_at` without an offset is read in the
    profile's own time zone.
    """
    frame = read_clocks(raw, profiles, "patients", {"_recorded": "recorded_at"})
    frame = frame.drop("recorded_at").with_columns(
        _zone=nw.col("source_profile").replace_strict(
            list(profiles), [profile.time_zone for profile in profiles.values()], default=None, return_dtype=nw.String
        )
    )
    frame = resolve_instants(frame, {"recorded_at": "_recorded"}, "_zone")
    frame = read_dates(frame, profiles, "patients", {"_birth_date": "birth_date"})
    frame = read_numbers(frame, profiles, "patients", {"_age": "age_years"})
    valid_age = (nw.col("_age") >= 0) & (nw.col("_age") <= MAXIMUM_AGE_YEARS)
    frame = local_clocks(frame, {"_recorded_local": "recorded_at"}, "_zone")
    recorded_on = nw.col("_recorded_local").dt.date()
    frame = frame.with_columns(
        patient_id=identity(profiles, "patient_id"),
        _landed_birth_date=text("birth_date"),
        birth_date=nw.when(nw.col("_birth_date") <= recorded_on).then(nw.col("_birth_date")),
        age_at_extract_years=nw.when(valid_age).then(nw.col("_age").floor().cast(nw.Int64)),
        _landed_sex=text("sex"),
        sex=nw.coalesce(mapped(profiles, "sex", domain=SEXES), nw.lit("unknown")),
        race=nw.coalesce(mapped(profiles, "race"), text("race"), nw.lit("unknown")),
        ethnicity=nw.coalesce(mapped(profiles, "ethnicity"), text("ethnicity"), nw.lit("unknown")),
        _landed_group=text("blood_group"),
        blood_group=mapped(profiles, "blood_group", domain=BLOOD_GROUPS),
        zip_code=text("zip"),
        **{
            name: text(name)
            for name in (
                "first_name",
                "last_name",
                "street",
                "city",
                "state",
                "phone",
                "insurer",
                "pre_existing_condition",
            )
        },
    )
    frame = frame.with_columns(
        rule=first_broken(
            (PATIENT_ID_MISSING, nw.col("patient_id").is_null()), (RECORDED_AT_MISSING, nw.col("recorded_at").is_null())
        ),
        quality_codes=codes(
            (
                BIRTH_DATE_UNREADABLE,
                nw.col("_birth_date").is_null()
                & ~nw.col("_landed_birth_date").is_null()
                & ~nw.col("_birth_date_is_placeholder"),
            ),
            placeholders("_birth_date", "_recorded"),
            (BIRTH_DATE_IN_FUTURE, nw.col("_birth_date") > recorded_on),
            (AGE_OUT_OF_RANGE, ~valid_age),
            (SEX_MAPPED, nw.col("sex") != nw.col("_landed_sex")),
            (BLOOD_GROUP_MAPPED, nw.col("blood_group") != nw.col("_landed_group")),
            (
                BLOOD_GROUP_UNKNOWN,
                nw.col("blood_group").is_null()
                & ~nw.col("_landed_group").is_null()
                & (nw.col("_landed_group").str.to_lowercase() != "unknown"),
            ),
        ),
    )
    return newest_only(frame, ["patient_id", "recorded_at"], "recorded_at")
