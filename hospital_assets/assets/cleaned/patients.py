"""Patients: versions of each record, codes in one spelling; ages never become birth dates."""

from __future__ import annotations

import dagster as dg
import narwhals as nw

from hospital_assets.assets.cleaned.rules import (
    PLACEHOLDER,
    Rule,
    codes,
    completed,
    first_broken,
    identity,
    is_silent,
    mapped,
    placeholders,
    read_clocks,
    read_dates,
    read_numbers,
    sources_of,
    split,
    text,
)
from hospital_assets.assets.declare import cleaned_and_quarantined
from hospital_assets.assets.dedupe import newest_only
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.cleaned import BLOOD_GROUPS, SEXES
from hospital_assets.landing.profile import canonical_columns
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

#: Cleaned column -> the landed one, where it is called otherwise.
_LANDED = {"age_at_extract_years": "age_years", "zip_code": "zip"}
#: What `dim_patient` keeps over time, and a record of a partial source (`is_partial`) may leave unstated.
ATTRIBUTES = [
    name
    for name in CONTRACTS["cleaned_patients"].column_names
    if name in CONTRACTS["dim_patient"].column_names and name != "patient_id"
]
#: Landed columns that are one thing, which is stated as a whole: of an old address no ZIP code stays with a new street.
_WHOLES = (("first_name", "last_name"), ("street", "city", "state", "zip"))


@dg.multi_asset(**cleaned_and_quarantined("patients"))
def patients(raw_patients: Frame, profiles: dg.ResourceParam[Profiles]) -> tuple[Frame, Frame]:
    """Patients, validated and split."""
    return split(validate_patients(raw_patients, profiles), raw_patients, "patients", RULES)


def validate_patients(raw: Frame, profiles: Profiles) -> Frame:
    """Every raw record with its cleaned columns, its quality codes, and the rule it broke.

    The EHR is the network's, not one hospital's: a `recorded_at` without an offset is read in the
    profile's own time zone. What a record of a partial source leaves out is named in `unstated`, for `dim_patient` to
    take from earlier records, of whatever days; only records of one moment are completed here, as one of them stands.
    """
    partial = sources_of(profiles, "patients", lambda spec: spec.is_partial)
    known = _whole(raw, partial).with_columns(_patient=identity(profiles, "patient_id"))
    moment = ["_patient", "_written_at"]
    raw = completed(known, profiles, "patients", moment, of_its_day=canonical_columns("patients"))
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
        unstated=_unstated(partial),
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


def _whole(raw: Frame, partial: list[str]) -> Frame:
    """Records of partial sources, in which the missing parts of a name or an address are stated as none (`""`)."""
    if not partial:
        return raw
    columns = {}
    for names in _WHOLES:
        is_stated = nw.any_horizontal(*(~is_silent(name) for name in names), ignore_nulls=True)
        is_whole = nw.col("source_profile").is_in(partial) & is_stated
        for name in names:
            columns[name] = nw.when(is_whole & is_silent(name)).then(nw.lit('""')).otherwise(nw.col(name))
    return raw.with_columns(**columns)


def _unstated(partial: list[str]) -> nw.Expr:
    """Names of the columns that a record of a partial source says nothing of, as `a;b`."""
    if not partial:
        return nw.lit("")
    is_partial = nw.col("source_profile").is_in(partial)
    return nw.concat_str(
        *(nw.when(is_partial & is_silent(_LANDED.get(name, name))).then(nw.lit(name)) for name in ATTRIBUTES),
        separator=";",
        ignore_nulls=True,
    )
