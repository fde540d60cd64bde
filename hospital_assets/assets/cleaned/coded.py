"""Diagnoses and procedures: codes in one form, one row per code of a visit."""

from __future__ import annotations

import dagster as dg
import narwhals as nw

from hospital_assets.assets.cleaned.rules import (
    Rule,
    codes,
    first_broken,
    newest_only,
    read_clocks,
    split,
    text,
)
from hospital_assets.assets.declare import cleaned_and_quarantined
from hospital_assets.warehouse.dialect import (
    Frame,
    parse_numbers,
    resolve_instants,
)

VISIT_ID_MISSING = Rule("visit_id_missing", "A code needs the visit it belongs to.", "quarantine")
PATIENT_ID_MISSING = Rule("patient_id_missing", "A code needs a patient.", "quarantine")
HOSPITAL_UNKNOWN = Rule(
    "hospital_unknown", "The hospital is not one of the network's hospitals.", "quarantine"
)
CODE_INVALID = Rule(
    "code_invalid", "The code is not letters and digits of the length its system has.", "quarantine"
)
SEQUENCE_INVALID = Rule("sequence_invalid", "The rank is not a whole number from 1.", "quarantine")
VERSION_INVALID = Rule("icd_version_invalid", "The ICD version is not 9 or 10.", "quarantine")
PROCEDURE_ID_MISSING = Rule(
    "procedure_id_missing", "A procedure record needs an identifier.", "quarantine"
)
PERFORMED_AT_UNREADABLE = Rule(
    "performed_at_unreadable", "The time of the procedure cannot be read.", "flag"
)

DIAGNOSIS_RULES = (
    VISIT_ID_MISSING, PATIENT_ID_MISSING, HOSPITAL_UNKNOWN, CODE_INVALID, SEQUENCE_INVALID,
    VERSION_INVALID,
)  # fmt: skip
PROCEDURE_RULES = (
    PROCEDURE_ID_MISSING, VISIT_ID_MISSING, PATIENT_ID_MISSING, HOSPITAL_UNKNOWN, CODE_INVALID,
    PERFORMED_AT_UNREADABLE,
)  # fmt: skip


@dg.multi_asset(**cleaned_and_quarantined("diagnoses"))
def diagnoses(raw_diagnoses: Frame, cleaned_hospitals: Frame) -> tuple[Frame, Frame]:
    """Diagnoses, judged and split."""
    return split(
        judge_diagnoses(raw_diagnoses, cleaned_hospitals),
        raw_diagnoses,
        "diagnoses",
        DIAGNOSIS_RULES,
    )


@dg.multi_asset(**cleaned_and_quarantined("procedures"))
def procedures(raw_procedures: Frame, cleaned_hospitals: Frame) -> tuple[Frame, Frame]:
    """Procedures, judged and split."""
    return split(
        judge_procedures(raw_procedures, cleaned_hospitals),
        raw_procedures,
        "procedures",
        PROCEDURE_RULES,
    )


def judge_diagnoses(raw: Frame, hospitals: Frame) -> Frame:
    """Every raw diagnosis with its cleaned columns and the rule it broke."""
    frame = _with_recorded_at(raw, hospitals, "diagnoses", {})
    frame = parse_numbers(frame, {"_sequence": "sequence", "_version": "icd_version"})
    sequence = nw.col("_sequence")
    frame = _with_visit(frame).with_columns(
        diagnosis_id=text("diagnosis_id"),
        icd_code=_code("icd_code"),
        description=text("description"),
        sequence=nw.when((sequence >= 1) & (sequence.floor() == sequence)).then(
            sequence.cast(nw.Int64)
        ),
        icd_version=nw.when(nw.col("_version").is_in([9.0, 10.0])).then(
            nw.col("_version").cast(nw.Int64)
        ),
        quality_codes=nw.lit(""),
    )
    frame = frame.with_columns(
        rule=first_broken(
            (VISIT_ID_MISSING, nw.col("visit_id").is_null()),
            (PATIENT_ID_MISSING, nw.col("patient_id").is_null()),
            (HOSPITAL_UNKNOWN, nw.col("time_zone").is_null()),
            (CODE_INVALID, _is_no_code("icd_code", r"^[A-Z0-9]{3,8}$")),
            (SEQUENCE_INVALID, nw.col("sequence").is_null()),
            (VERSION_INVALID, nw.col("icd_version").is_null()),
        )
    )
    return newest_only(frame, ["visit_id", "sequence"], "recorded_at")


def judge_procedures(raw: Frame, hospitals: Frame) -> Frame:
    """Every raw procedure with its cleaned columns and the rule it broke."""
    frame = raw.rename({"performed_at": "performed_at_text"})
    frame = _with_recorded_at(frame, hospitals, "procedures", {"performed_at": "performed_at_text"})
    frame = _with_visit(frame).with_columns(
        procedure_id=text("procedure_id"),
        procedure_code=_code("procedure_code"),
        description=text("description"),
        quality_codes=codes(
            (
                PERFORMED_AT_UNREADABLE,
                nw.col("performed_at").is_null() & ~text("performed_at_text").is_null(),
            )
        ),
    )
    frame = frame.with_columns(
        rule=first_broken(
            (PROCEDURE_ID_MISSING, nw.col("procedure_id").is_null()),
            (VISIT_ID_MISSING, nw.col("visit_id").is_null()),
            (PATIENT_ID_MISSING, nw.col("patient_id").is_null()),
            (HOSPITAL_UNKNOWN, nw.col("time_zone").is_null()),
            (CODE_INVALID, _is_no_code("procedure_code", r"^[A-Z0-9]{3,7}$")),
        )
    )
    return newest_only(frame, ["procedure_id"], "recorded_at")


def _with_recorded_at(raw: Frame, hospitals: Frame, subject: str, clocks: dict[str, str]) -> Frame:
    """Zone, `recorded_at` and other instants of a coded record."""
    frame = raw.with_columns(hospital_id=text("hospital_id")).join(
        hospitals.select("hospital_id", "time_zone"), on="hospital_id", how="left"
    )
    frame = read_clocks(
        frame,
        subject,
        {"_recorded": "recorded_at"} | {f"_{out}": src for out, src in clocks.items()},
        suffix="_text",
    ).drop("recorded_at")
    return resolve_instants(
        frame, {"recorded_at": "_recorded"} | {out: f"_{out}" for out in clocks}, "time_zone"
    )


def _with_visit(frame: Frame) -> Frame:
    return frame.with_columns(visit_id=text("visit_id"), patient_id=text("patient_id"))


def _code(column: str) -> nw.Expr:
    return text(column).str.to_uppercase().str.replace_all(".", "", literal=True)


def _is_no_code(column: str, pattern: str) -> nw.Expr:
    return nw.col(column).is_null() | ~nw.col(column).str.contains(pattern)
