"""dim_patient: people over time."""

from __future__ import annotations

import dagster as dg
import narwhals as nw

from hospital_assets.assets.declare import table
from hospital_assets.assets.dedupe import newest_of_each
from hospital_assets.assets.dimensions.members import with_special_members
from hospital_assets.assets.dimensions.scd2 import BEGINNING, END_OF_TIME, changes_only, versions
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.dimensions import UNKNOWN_KEY
from hospital_assets.warehouse.dialect import Frame, checkpoint, hash_keys

_COLUMNS = CONTRACTS["dim_patient"].column_names
#: A new version starts when one of these changes (SCD2); all of them are kept over time.
ATTRIBUTES = [name for name in CONTRACTS["cleaned_patients"].column_names if name in _COLUMNS and name != "patient_id"]

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
    landed = newest_of_each(cleaned_patients, ["patient_id", "recorded_at"])
    changed = changes_only(landed, "patient_id", "recorded_at", ATTRIBUTES)
    dated = versions(changed, "patient_id", "recorded_at").with_columns(
        _version=nw.concat_str(
            nw.col("recorded_at").dt.to_string("%Y-%m-%dT%H:%M:%S"),
            nw.col("recorded_at").dt.microsecond().cast(nw.String),
            separator=".",
        )
    )
    keyed = hash_keys(dated, {"patient_key": ["patient_id", "_version"], "patient_durable_key": ["patient_id"]})
    return with_special_members(checkpoint(keyed), "dim_patient", cleaned_patients, [UNKNOWN_PATIENT])
