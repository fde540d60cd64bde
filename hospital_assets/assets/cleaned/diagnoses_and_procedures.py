"""Diagnoses and procedures: codes in one form and of a named system, one row per code of a visit."""

from __future__ import annotations

import dagster as dg
import narwhals as nw

from hospital_assets.assets.cleaned.rules import (
    HOSPITAL_UNKNOWN,
    PLACEHOLDER,
    Rule,
    codes,
    first_broken,
    identity,
    is_blank,
    mapped,
    placeholders,
    read_clocks,
    read_numbers,
    split,
    text,
    with_hospital,
)
from hospital_assets.assets.declare import cleaned_and_quarantined
from hospital_assets.assets.dedupe import SUPERSEDED, newest_only
from hospital_assets.contracts import PARTITION_COLUMN, RECORD_PLACE
from hospital_assets.contracts.cleaned import CODE_SYSTEMS, RECORD_STATUSES
from hospital_assets.landing.registry import Profiles
from hospital_assets.warehouse.dialect import Frame, resolve_instants

VISIT_ID_MISSING = Rule("visit_id_missing", "A code needs the visit it belongs to.", "quarantine")
PATIENT_ID_MISSING = Rule("patient_id_missing", "A code needs a patient.", "quarantine")
CODE_INVALID = Rule("code_invalid", "The code is not letters and digits of the length its system has.", "quarantine")
NOT_ICD = Rule("not_icd", "The code is of another system than ICD: kept, without an ICD chapter or group.", "flag")
SEQUENCE_DERIVED = Rule(
    "sequence_derived", "The source states no rank; the order of the records stands for it.", "flag"
)
SEQUENCE_INVALID = Rule("sequence_invalid", "The rank is not a whole number from 1.", "quarantine")
RANK_CONFLICT = Rule(
    "rank_conflict", "Another code of the visit was recorded at the same time with the same rank; both stand.", "flag"
)
VERSION_INVALID = Rule("icd_version_invalid", "Neither a code system is stated nor ICD version 9 or 10.", "quarantine")
WITHDRAWN = Rule(
    "withdrawn",
    "The newest version of the record says that it was wrong.",
    "quarantine",
    "FHIR Condition.verificationStatus, Procedure.status; HL7 table 0206",
)
PROCEDURE_ID_MISSING = Rule("procedure_id_missing", "A procedure record needs an identifier.", "quarantine")
PERFORMED_AT_UNREADABLE = Rule("performed_at_unreadable", "The time of the procedure cannot be read.", "flag")

DIAGNOSIS_RULES = (
    VISIT_ID_MISSING,
    PATIENT_ID_MISSING,
    HOSPITAL_UNKNOWN,
    CODE_INVALID,
    SEQUENCE_INVALID,
    VERSION_INVALID,
    WITHDRAWN,
    PLACEHOLDER,
    NOT_ICD,
    SEQUENCE_DERIVED,
    RANK_CONFLICT,
)
PROCEDURE_RULES = (
    PROCEDURE_ID_MISSING,
    VISIT_ID_MISSING,
    PATIENT_ID_MISSING,
    HOSPITAL_UNKNOWN,
    CODE_INVALID,
    WITHDRAWN,
    PLACEHOLDER,
    PERFORMED_AT_UNREADABLE,
)


#: Code systems as messages name them (HL7 table 0396; FHIR terminology URIs).
CODE_SYSTEM_NAMES = {
    "I10": "ICD-10-CM",
    "I10C": "ICD-10-CM",
    "ICD10": "ICD-10-CM",
    "ICD-10": "ICD-10-CM",
    "http://hl7.org/fhir/sid/icd-10-cm": "ICD-10-CM",
    "http://hl7.org/fhir/sid/icd-10": "ICD-10-CM",
    "I9": "ICD-9-CM",
    "I9C": "ICD-9-CM",
    "ICD9": "ICD-9-CM",
    "ICD-9": "ICD-9-CM",
    "http://hl7.org/fhir/sid/icd-9-cm": "ICD-9-CM",
    "I10P": "ICD-10-PCS",
    "http://www.cms.gov/Medicare/Coding/ICD10": "ICD-10-PCS",
    "SCT": "SNOMED CT",
    "SNM": "SNOMED CT",
    "SNOMED": "SNOMED CT",
    "SNOMED-CT": "SNOMED CT",
    "http://snomed.info/sct": "SNOMED CT",
    "C4": "CPT",
    "CPT4": "CPT",
    "http://www.ama-assn.org/go/cpt": "CPT",
    "HCPCS": "HCPCS",
    "https://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets": "HCPCS",
}
#: Code system -> ICD version; and what a code of it looks like.
ICD_VERSIONS = {"ICD-9-CM": 9, "ICD-10-CM": 10}
_PATTERNS = {
    "ICD-9-CM": r"^[A-Z0-9]{3,8}$",
    "ICD-10-CM": r"^[A-Z0-9]{3,8}$",
    "ICD-10-PCS": r"^[A-Z0-9]{3,7}$",
    "SNOMED CT": r"^[0-9]{6,18}$",
}
_OTHER_PATTERN = r"^[A-Z0-9-]{2,18}$"


@dg.multi_asset(**cleaned_and_quarantined("diagnoses"))
def diagnoses(
    raw_diagnoses: Frame, cleaned_hospitals: Frame, profiles: dg.ResourceParam[Profiles]
) -> tuple[Frame, Frame]:
    """Diagnoses, validated and split."""
    return split(
        validate_diagnoses(raw_diagnoses, cleaned_hospitals, profiles), raw_diagnoses, "diagnoses", DIAGNOSIS_RULES
    )


@dg.multi_asset(**cleaned_and_quarantined("procedures"))
def procedures(
    raw_procedures: Frame, cleaned_hospitals: Frame, profiles: dg.ResourceParam[Profiles]
) -> tuple[Frame, Frame]:
    """Procedures, validated and split."""
    return split(
        validate_procedures(raw_procedures, cleaned_hospitals, profiles), raw_procedures, "procedures", PROCEDURE_RULES
    )


def validate_diagnoses(raw: Frame, hospitals: Frame, profiles: Profiles) -> Frame:
    """Every raw diagnosis with its cleaned columns and the rule it broke."""
    frame = _with_recorded_at(raw, hospitals, profiles, "diagnoses", {})
    frame = read_numbers(frame, profiles, "diagnoses", {"_sequence": "sequence", "_version": "icd_version"})
    sequence = nw.col("_sequence")
    frame = _with_visit(frame, profiles).with_columns(
        diagnosis_id=identity(profiles, "diagnosis_id"),
        icd_code=_code("icd_code"),
        description=text("description"),
        _is_ranked=~is_blank("sequence"),
        sequence=nw.when((sequence >= 1) & (sequence.floor() == sequence)).then(sequence.cast(nw.Int64)),
        code_system=nw.coalesce(
            _code_system(profiles),
            *(
                nw.when(nw.col("_version") == float(version)).then(nw.lit(system))
                for system, version in ICD_VERSIONS.items()
            ),
        ),
    )
    frame = frame.with_columns(
        icd_version=nw.when(nw.col("code_system").is_in(list(ICD_VERSIONS)))
        .then(
            nw.col("code_system").replace_strict(
                list(ICD_VERSIONS), list(ICD_VERSIONS.values()), default=0, return_dtype=nw.Int64
            )
        )
        .otherwise(nw.lit(0))
    )
    frame = _ranked_by_record(frame).with_columns(
        rule=first_broken(
            (VISIT_ID_MISSING, nw.col("visit_id").is_null()),
            (PATIENT_ID_MISSING, nw.col("patient_id").is_null()),
            (HOSPITAL_UNKNOWN, nw.col("time_zone").is_null()),
            (VERSION_INVALID, nw.col("code_system").is_null()),
            (CODE_INVALID, _is_no_code("icd_code")),
            (SEQUENCE_INVALID, nw.col("sequence").is_null()),
        )
    )
    # Of an id that the source gave the newest version counts, whatever its code or rank was before; without ids, of a
    # code. Of those written at one moment a withdrawal counts first, then the lowest rank.
    frame = _with_withdrawal(frame, profiles).with_columns(
        _own_id=nw.coalesce(nw.col("diagnosis_id"), nw.concat_str("visit_id", "icd_code")),
        _lower_rank=-nw.col("sequence"),
    )
    frame = newest_only(frame, ["visit_id", "_own_id"], "recorded_at", "_is_withdrawn", "_lower_rank")
    frame = _without_withdrawn(frame)
    frame = newest_only(frame, ["visit_id", "sequence", "icd_version", "icd_code"], "recorded_at")
    frame = _one_rank(frame)
    return frame.with_columns(
        quality_codes=codes(
            placeholders("_recorded"),
            (NOT_ICD, nw.col("icd_version") == 0),
            (SEQUENCE_DERIVED, ~nw.col("_is_ranked")),
            (RANK_CONFLICT, nw.col("_shares_rank")),
        )
    )


def _one_rank(frame: Frame) -> Frame:
    """Let a code that was recorded later replace others of its rank; of those recorded together all stand.

    Args:
        frame: diagnoses without repetitions of a code, with their `rule`.
    """
    rank = [*([PARTITION_COLUMN] if PARTITION_COLUMN in frame.columns else []), "visit_id", "sequence", "_is_sound"]
    frame = frame.with_columns(_is_sound=nw.col("rule").is_null()).with_columns(
        _newest=nw.col("recorded_at").max().over(*rank)
    )
    is_newest = nw.coalesce(nw.col("recorded_at") == nw.col("_newest"), nw.col("_newest").is_null())
    frame = frame.with_columns(_is_newest=is_newest).with_columns(
        _newest_count=nw.col("_is_newest").cast(nw.Int64).sum().over(*rank)
    )
    return frame.with_columns(
        rule=nw.when(nw.col("_is_sound") & ~nw.col("_is_newest")).then(nw.lit(SUPERSEDED)).otherwise(nw.col("rule")),
        _shares_rank=nw.col("_is_sound") & nw.col("_is_newest") & (nw.col("_newest_count") > 1),
    ).drop("_is_sound", "_newest", "_is_newest", "_newest_count")


def _with_withdrawal(frame: Frame, profiles: Profiles) -> Frame:
    """Add `_is_withdrawn`: 1 where a record takes back what it is a version of, else 0."""
    status = mapped(profiles, "record_status", domain=RECORD_STATUSES)
    return frame.with_columns(_is_withdrawn=nw.coalesce((status == "withdrawn").cast(nw.Int32), nw.lit(0)))


def _without_withdrawn(frame: Frame) -> Frame:
    """Quarantine what is withdrawn; its older versions are quarantined already."""
    is_withdrawn = nw.col("rule").is_null() & (nw.col("_is_withdrawn") == 1)
    return frame.with_columns(rule=nw.when(is_withdrawn).then(nw.lit(WITHDRAWN.name)).otherwise(nw.col("rule")))


def _ranked_by_record(frame: Frame) -> Frame:
    """Give diagnoses without a stated rank one: each code of a visit in the order first recorded.

    Of those recorded at one moment the order in their files counts. Repeated records of a code share its rank, so that
    they are repetitions of each other.
    """
    order = ["_has_recorded", "recorded_at", *RECORD_PLACE]
    visit = ["service_date", "visit_id", "_is_ranked"]
    dated = frame.with_columns(_has_recorded=(~nw.col("recorded_at").is_null()).cast(nw.Int32))
    placed = dated.with_columns(_place=nw.col("source_line").cum_count().over(*visit, order_by=order)).with_columns(
        _first=nw.col("_place").min().over(*visit, "icd_code")
    )
    counted = placed.with_columns(_is_new=(nw.col("_place") == nw.col("_first")).cast(nw.Int64)).with_columns(
        _rank=nw.col("_is_new").cum_sum().over(*visit, order_by=order)
    )
    return (
        counted.with_columns(_rank=nw.col("_rank").min().over(*visit, "icd_code"))
        .with_columns(
            sequence=nw.when(nw.col("_is_ranked")).then(nw.col("sequence")).otherwise(nw.col("_rank").cast(nw.Int64))
        )
        .drop("_has_recorded", "_place", "_first", "_is_new", "_rank")
    )


def validate_procedures(raw: Frame, hospitals: Frame, profiles: Profiles) -> Frame:
    """Every raw procedure with its cleaned columns and the rule it broke."""
    frame = raw.rename({"performed_at": "performed_at_text"})
    frame = _with_recorded_at(frame, hospitals, profiles, "procedures", {"performed_at": "performed_at_text"})
    frame = _with_visit(frame, profiles).with_columns(
        procedure_id=identity(profiles, "procedure_id"),
        procedure_code=_code("procedure_code"),
        code_system=nw.coalesce(_code_system(profiles), nw.lit("ICD-10-PCS")),
        description=text("description"),
        quality_codes=codes(
            (
                PERFORMED_AT_UNREADABLE,
                nw.col("performed_at").is_null()
                & ~text("performed_at_text").is_null()
                & ~nw.col("_performed_at_is_placeholder"),
            ),
            placeholders("_performed_at", "_recorded"),
        ),
    )
    frame = frame.with_columns(
        rule=first_broken(
            (PROCEDURE_ID_MISSING, nw.col("procedure_id").is_null()),
            (VISIT_ID_MISSING, nw.col("visit_id").is_null()),
            (PATIENT_ID_MISSING, nw.col("patient_id").is_null()),
            (HOSPITAL_UNKNOWN, nw.col("time_zone").is_null()),
            (CODE_INVALID, _is_no_code("procedure_code")),
        )
    )
    frame = newest_only(_with_withdrawal(frame, profiles), ["procedure_id"], "recorded_at", "_is_withdrawn")
    return _without_withdrawn(frame)


def _with_recorded_at(raw: Frame, hospitals: Frame, profiles: Profiles, subject: str, clocks: dict[str, str]) -> Frame:
    """Zone, `recorded_at` and other instants of a diagnosis or procedure."""
    frame = with_hospital(raw, hospitals, profiles)
    frame = read_clocks(
        frame,
        profiles,
        subject,
        {"_recorded": "recorded_at"} | {f"_{out}": src for out, src in clocks.items()},
        suffix="_text",
    ).drop("recorded_at")
    return resolve_instants(frame, {"recorded_at": "_recorded"} | {out: f"_{out}" for out in clocks}, "time_zone")


def _with_visit(frame: Frame, profiles: Profiles) -> Frame:
    return frame.with_columns(visit_id=identity(profiles, "visit_id"), patient_id=identity(profiles, "patient_id"))


def _code(column: str) -> nw.Expr:
    return text(column).str.to_uppercase().str.replace_all(".", "", literal=True)


def _code_system(profiles: Profiles) -> nw.Expr:
    """The stated code system under our name; `other` for one we do not know, null for none."""
    return nw.coalesce(
        mapped(profiles, "code_system", domain=CODE_SYSTEMS, standard=CODE_SYSTEM_NAMES),
        nw.when(~is_blank("code_system")).then(nw.lit("other")),
    )


def _is_no_code(column: str) -> nw.Expr:
    """Whether a code does not look like one of its system."""
    code, system = nw.col(column), nw.col("code_system")
    fits = nw.any_horizontal(
        ~system.is_in(list(_PATTERNS)) & code.str.contains(_OTHER_PATTERN),
        *((system == name) & code.str.contains(pattern) for name, pattern in _PATTERNS.items()),
        ignore_nulls=True,
    )
    return code.is_null() | ~fits
