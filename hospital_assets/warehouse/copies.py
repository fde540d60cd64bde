"""Small copies of tables that have to be read while a run has the warehouse locked.

Belongs here: what live alerts need to know about patients, hospitals and beds, as Parquet beside the
warehouse. Written when a run has committed one of their tables; replaced in one step.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from hospital_assets.contracts import CONTRACTS
from hospital_assets.warehouse.database import Warehouse
from hospital_assets.warehouse.dialect import literal

#: Copy -> the tables it is made from, and how.
_COPIES: dict[str, tuple[tuple[str, ...], str]] = {
    "hospitals": (
        ("cleaned_hospitals",),
        "select hospital_id, hospital_name, time_zone from cleaned.cleaned_hospitals",
    ),
    "patients": (
        ("dim_patient",),
        "select patient_id, patient_key, birth_date, age_at_extract_years, valid_from_at, "
        "valid_to_at from dimensions.dim_patient",
    ),
    # One row per open stay: where the patient is now, and what that department holds.
    "open_stays": (
        ("fact_patient_flow", "dim_department"),
        """
        select f.stay_id, f.stay_class, f.stay_start_at, c.hospital_id, c.department_id,
               c.department_name, c.bed_capacity
        from facts.fact_patient_flow f
        join dimensions.dim_department d on d.department_key = f.department_key
        join dimensions.dim_department c on c.department_id = d.department_id and c.is_current
        where f.is_open and f.segment_end_at is null
        """,
    ),
}

COPIED_TABLES = frozenset(table for tables, _ in _COPIES.values() for table in tables)


def publish_copies(warehouse: Warehouse) -> None:
    """Write every copy whose tables are there."""
    folder = _folder(warehouse.file)
    folder.mkdir(exist_ok=True)
    for name, (tables, query) in _COPIES.items():
        if all(warehouse.exists(CONTRACTS[table]) for table in tables):
            temporary = folder / f"{name}.tmp"
            warehouse.connection.execute(
                f"copy ({query}) to {literal(str(temporary))} (format parquet)"
            )
            temporary.replace(folder / f"{name}.parquet")


def read_copy(warehouse_file: Path, name: str) -> pl.DataFrame | None:
    """A copy as last written, or None before the first time."""
    try:
        return pl.read_parquet(_folder(warehouse_file) / f"{name}.parquet")
    except FileNotFoundError:
        return None


def _folder(warehouse_file: Path) -> Path:
    return warehouse_file.with_name("live")
