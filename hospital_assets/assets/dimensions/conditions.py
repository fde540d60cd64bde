"""dim_condition: diagnosis codes seen, with the chapter of their classification."""

from __future__ import annotations

import dagster as dg
import narwhals as nw

from hospital_assets.assets.declare import table
from hospital_assets.assets.dimensions.members import with_special_members
from hospital_assets.contracts.dimensions import NOT_YET_KEY, UNKNOWN_KEY
from hospital_assets.measures.condition_groups import GROUPS, MENTAL_HEALTH, MENTAL_HEALTH_CODES, UNMAPPED, is_in_ranges
from hospital_assets.warehouse.dialect import Frame, checkpoint, hash_keys

#: ICD version -> (first and last three-character category, chapter title). ICD-10-CM and
#: ICD-9-CM tabular lists (CDC/NCHS and CMS, public domain).
CHAPTERS: dict[int, list[tuple[str, str, str]]] = {
    10: [
        ("A00", "B99", "Certain infectious and parasitic diseases"),
        ("C00", "D49", "Neoplasms"),
        ("D50", "D89", "Diseases of the blood and blood-forming organs and immune mechanism"),
        ("E00", "E89", "Endocrine, nutritional and metabolic diseases"),
        ("F01", "F99", "Mental, behavioral and neurodevelopmental disorders"),
        ("G00", "G99", "Diseases of the nervous system"),
        ("H00", "H59", "Diseases of the eye and adnexa"),
        ("H60", "H95", "Diseases of the ear and mastoid process"),
        ("I00", "I99", "Diseases of the circulatory system"),
        ("J00", "J99", "Diseases of the respiratory system"),
        ("K00", "K95", "Diseases of the digestive system"),
        ("L00", "L99", "Diseases of the skin and subcutaneous tissue"),
        ("M00", "M99", "Diseases of the musculoskeletal system and connective tissue"),
        ("N00", "N99", "Diseases of the genitourinary system"),
        ("O00", "O9A", "Pregnancy, childbirth and the puerperium"),
        ("P00", "P96", "Certain conditions originating in the perinatal period"),
        ("Q00", "Q99", "Congenital malformations and chromosomal abnormalities"),
        ("R00", "R99", "Symptoms, signs and abnormal findings"),
        ("S00", "T88", "Injury, poisoning and other consequences of external causes"),
        ("U00", "U85", "Codes for special purposes"),
        ("V00", "Y99", "External causes of morbidity"),
        ("Z00", "Z99", "Factors influencing health status and contact with health services"),
    ],
    9: [
        ("001", "139", "Infectious and parasitic diseases"),
        ("140", "239", "Neoplasms"),
        ("240", "279", "Endocrine, nutritional and metabolic diseases, immunity disorders"),
        ("280", "289", "Diseases of the blood and blood-forming organs"),
        ("290", "319", "Mental disorders"),
        ("320", "389", "Diseases of the nervous system and sense organs"),
        ("390", "459", "Diseases of the circulatory system"),
        ("460", "519", "Diseases of the respiratory system"),
        ("520", "579", "Diseases of the digestive system"),
        ("580", "629", "Diseases of the genitourinary system"),
        ("630", "679", "Complications of pregnancy, childbirth and the puerperium"),
        ("680", "709", "Diseases of the skin and subcutaneous tissue"),
        ("710", "739", "Diseases of the musculoskeletal system and connective tissue"),
        ("740", "759", "Congenital anomalies"),
        ("760", "779", "Certain conditions originating in the perinatal period"),
        ("780", "799", "Symptoms, signs and ill-defined conditions"),
        ("800", "999", "Injury and poisoning"),
        ("E00", "E99", "External causes of injury and poisoning"),
        ("V01", "V91", "Factors influencing health status and contact with health services"),
    ],
}

_SPECIAL = {
    "icd_version": 0,
    "code_system": "none",
    "chapter_code": UNMAPPED,
    "chapter_name": UNMAPPED,
    "condition_group": UNMAPPED,
    "is_mental_health": False,
}
UNKNOWN_CONDITION = {"condition_key": UNKNOWN_KEY, "icd_code": "unknown", **_SPECIAL}
NOT_CODED_YET = {"condition_key": NOT_YET_KEY, "icd_code": "not_coded", **_SPECIAL, "condition_group": "not_coded"}


@dg.asset(**table("dim_condition"))
def dim_condition(cleaned_diagnoses: Frame) -> Frame:
    """Every code any diagnosis has, once."""
    codes = (
        cleaned_diagnoses.group_by("icd_version", "icd_code")
        .agg(condition_name=nw.col("description").min(), code_system=nw.col("code_system").min())
        .with_columns(_version=nw.col("icd_version").cast(nw.String), _category=nw.col("icd_code").str.slice(0, 3))
    )
    in_chapters = [
        (
            (nw.col("icd_version") == version) & (nw.col("_category") >= first) & (nw.col("_category") <= last),
            f"{first}-{last}",
            title,
        )
        for version, chapters in CHAPTERS.items()
        for first, last, title in chapters
    ]
    codes = codes.with_columns(
        chapter_code=nw.coalesce(
            *(nw.when(holds).then(nw.lit(code)) for holds, code, _ in in_chapters), nw.lit(UNMAPPED)
        ),
        chapter_name=nw.coalesce(
            *(nw.when(holds).then(nw.lit(title)) for holds, _, title in in_chapters), nw.lit(UNMAPPED)
        ),
        condition_group=nw.coalesce(
            *(
                nw.when(
                    (nw.col("icd_version") == 10) & (nw.col("_category") >= first) & (nw.col("_category") <= last)
                ).then(nw.lit(group))
                for first, last, group in GROUPS
            ),
            nw.lit(UNMAPPED),
        ),
        is_mental_health=nw.col("icd_code").is_in(MENTAL_HEALTH_CODES) | is_in_ranges(MENTAL_HEALTH),
    )
    keyed = checkpoint(hash_keys(codes, {"condition_key": ["_version", "icd_code"]}))
    return with_special_members(keyed, "dim_condition", cleaned_diagnoses, [UNKNOWN_CONDITION, NOT_CODED_YET])
