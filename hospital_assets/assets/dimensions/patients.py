"""dim_patient: people over time."""

from __future__ import annotations

import dagster as dg
import narwhals as nw

from hospital_assets.assets.cleaned.patients import ATTRIBUTES
from hospital_assets.assets.declare import table
from hospital_assets.assets.dedupe import newest_of_each
from hospital_assets.assets.dimensions.members import with_special_members
from hospital_assets.assets.dimensions.scd2 import BEGINNING, END_OF_TIME, changes_only, versions
from hospital_assets.contracts import RECORD_PLACE
from hospital_assets.contracts.dimensions import UNKNOWN_KEY
from hospital_assets.warehouse.dialect import Frame, checkpoint, hash_keys

UNKNOWN_PATIENT = {
    "patient_key": UNKNOWN_KEY,
    "patient_durable_key": UNKNOWN_KEY,
    "patient_id": "unknown",
    "sex": "unknown",
    "race": "unknown",
    "ethnicity": "unknown",
    "valid_from_at": BEGINNING,
    "valid_to_at": END_OF_TIME,
    "is_current": True,
    "version_number": 0,
}


@dg.asset(**table("dim_patient"))
def dim_patient(cleaned_patients: Frame) -> Frame:
    """Patients as of each change of their record."""
    # What lies outside the covered days stands on a day of its file, so that a version may have landed on two.
    landed = newest_of_each(carried(cleaned_patients), ["patient_id", "recorded_at"])
    # A new version starts when one of the attributes changes (SCD2).
    changed = changes_only(landed, "patient_id", "recorded_at", ATTRIBUTES)
    dated = (
        versions(changed, "patient_id", "recorded_at")
        .with_columns(
            _version=nw.concat_str(
                nw.col("recorded_at").dt.to_string("%Y-%m-%dT%H:%M:%S"),
                nw.col("recorded_at").dt.microsecond().cast(nw.String),
                separator=".",
            )
        )
        .with_columns(
            # An age may come from an earlier record. Should that land later, the version has another key, by which
            # facts notice that what they say is no longer so.
            _version=nw.when(nw.col("unstated") != "")
            .then(
                nw.concat_str(
                    "_version",
                    nw.col("birth_date").dt.to_string("%Y-%m-%d"),
                    nw.col("age_at_extract_years").cast(nw.String),
                    separator="|",
                    ignore_nulls=True,
                )
            )
            .otherwise(nw.col("_version"))
        )
    )
    keyed = hash_keys(dated, {"patient_key": ["patient_id", "_version"], "patient_durable_key": ["patient_id"]})
    return with_special_members(checkpoint(keyed), "dim_patient", cleaned_patients, [UNKNOWN_PATIENT])


def carried(versions: Frame) -> Frame:
    """Versions in which what a record leaves unstated is as the newest earlier one stated it, of whatever day.

    Args:
        versions: cleaned_patients of all days, with `unstated`.
    """
    # In most sources a record is whole, and windows over all versions are work.
    if versions.filter(nw.col("unstated") != "").head(1).collect("polars").is_empty():
        return versions
    order = ["recorded_at", "service_date", *RECORD_PLACE]
    listed = nw.concat_str(nw.lit(";"), "unstated", nw.lit(";"))

    def forward(value: nw.Expr) -> nw.Expr:
        return value.fill_null(strategy="forward").over("patient_id", order_by=order)

    stated, none = {}, {}
    for name in ATTRIBUTES:
        is_stated = ~nw.coalesce(listed.str.contains(f";{name};", literal=True), nw.lit(False))
        stated[f"_stated_{name}"] = nw.when(is_stated).then(nw.col(name))
        none[f"_none_{name}"] = nw.when(is_stated).then(nw.col(name).is_null())
    names = versions.columns
    filled = versions.with_columns(**stated, **none).with_columns(forward(nw.col(name)) for name in (*stated, *none))
    return filled.with_columns(
        # What nobody has stated yet is what the cleaned record says for want of it.
        nw.when(nw.col(f"_none_{name}").is_null())
        .then(nw.col(name))
        .otherwise(nw.when(~nw.col(f"_none_{name}")).then(nw.col(f"_stated_{name}")))
        .alias(name)
        for name in ATTRIBUTES
    ).select(*names)
