"""Clinical groups of diagnosis codes, as data: each ICD-10-CM category belongs to one.

In the manner of HCUP's CCSR (AHRQ, public domain), which has about 530 categories and lets a fifth of
the codes belong to several; these are blocks of ICD-10-CM, cut finer where emergency departments look.
ICD-9 codes are in no group and show as `Unmapped`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import narwhals as nw

UNMAPPED = "Unmapped"

#: First and last three-character category (inclusive), group. The first that fits counts.
GROUPS: tuple[tuple[str, str, str], ...] = (
    ("A00", "A09", "Intestinal infection"),
    ("A15", "A19", "Tuberculosis"),
    ("A40", "A41", "Sepsis"),
    ("A20", "A79", "Other bacterial infection"),
    ("B15", "B19", "Viral hepatitis"),
    ("B20", "B20", "HIV"),
    ("A80", "B34", "Viral infection"),
    ("B35", "B49", "Fungal infection"),
    ("B50", "B99", "Parasitic and other infection"),
    ("C00", "C14", "Head and neck cancer"),
    ("C15", "C26", "Digestive cancer"),
    ("C30", "C39", "Respiratory cancer"),
    ("C43", "C44", "Skin cancer"),
    ("C50", "C50", "Breast cancer"),
    ("C51", "C58", "Female genital cancer"),
    ("C60", "C63", "Male genital cancer"),
    ("C64", "C68", "Urinary cancer"),
    ("C81", "C96", "Cancer of blood and lymph"),
    ("C00", "C80", "Other and secondary cancer"),
    ("D00", "D49", "Benign and uncertain neoplasm"),
    ("D50", "D64", "Anemia"),
    ("D65", "D69", "Coagulation disorder"),
    ("D70", "D77", "Disease of white blood cells and spleen"),
    ("D80", "D89", "Immune disorder"),
    ("E00", "E07", "Thyroid disorder"),
    ("E08", "E13", "Diabetes mellitus"),
    ("E15", "E36", "Other endocrine disorder"),
    ("E40", "E68", "Nutritional disorder and obesity"),
    ("E86", "E87", "Fluid and electrolyte disorder"),
    ("E70", "E89", "Other metabolic disorder"),
    ("F01", "F09", "Neurocognitive disorder"),
    ("F10", "F10", "Alcohol-related disorder"),
    ("F11", "F19", "Other substance-related disorder"),
    ("F20", "F29", "Schizophrenia and psychotic disorder"),
    ("F30", "F39", "Mood disorder"),
    ("F40", "F48", "Anxiety and stress-related disorder"),
    ("F50", "F99", "Other mental disorder"),
    ("G00", "G09", "Infection of the nervous system"),
    ("G20", "G37", "Movement and degenerative neurological disorder"),
    ("G40", "G40", "Epilepsy"),
    ("G43", "G44", "Migraine and headache"),
    ("G45", "G46", "Transient cerebral ischemia"),
    ("G47", "G99", "Other neurological disorder"),
    ("H00", "H59", "Eye disorder"),
    ("H60", "H95", "Ear disorder"),
    ("I10", "I16", "Hypertension"),
    ("I21", "I22", "Acute myocardial infarction"),
    ("I20", "I25", "Other coronary disease"),
    ("I26", "I26", "Pulmonary embolism"),
    ("I44", "I49", "Cardiac dysrhythmia"),
    ("I50", "I50", "Heart failure"),
    ("I60", "I69", "Stroke and cerebrovascular disease"),
    ("I70", "I79", "Arterial disease"),
    ("I80", "I89", "Disease of veins and lymph vessels"),
    ("I00", "I99", "Other heart disease"),
    ("J00", "J06", "Acute upper respiratory infection"),
    ("J09", "J11", "Influenza"),
    ("J12", "J18", "Pneumonia"),
    ("J20", "J22", "Acute bronchitis and bronchiolitis"),
    ("J40", "J44", "Chronic obstructive pulmonary disease"),
    ("J45", "J45", "Asthma"),
    ("J90", "J94", "Pleural disease and pneumothorax"),
    ("J96", "J96", "Respiratory failure"),
    ("J00", "J99", "Other respiratory disease"),
    ("K00", "K14", "Disease of mouth and teeth"),
    ("K20", "K31", "Disease of esophagus, stomach and duodenum"),
    ("K35", "K38", "Appendicitis"),
    ("K40", "K46", "Hernia"),
    ("K50", "K52", "Noninfectious enteritis and colitis"),
    ("K56", "K56", "Intestinal obstruction"),
    ("K55", "K68", "Other intestinal and peritoneal disease"),
    ("K70", "K77", "Liver disease"),
    ("K80", "K83", "Biliary disease"),
    ("K85", "K86", "Pancreatic disease"),
    ("K92", "K92", "Gastrointestinal hemorrhage"),
    ("K00", "K95", "Other digestive disease"),
    ("L00", "L08", "Skin infection"),
    ("L50", "L54", "Urticaria and erythema"),
    ("L00", "L99", "Other skin disorder"),
    ("M00", "M25", "Joint disorder"),
    ("M40", "M54", "Back and spine disorder"),
    ("M60", "M79", "Soft tissue disorder"),
    ("M00", "M99", "Other musculoskeletal disorder"),
    ("N17", "N19", "Kidney failure"),
    ("N20", "N23", "Urinary stone"),
    ("N30", "N39", "Urinary tract infection and bladder disorder"),
    ("N00", "N29", "Other kidney disorder"),
    ("N40", "N53", "Male genital disorder"),
    ("N60", "N98", "Breast and female genital disorder"),
    ("N00", "N99", "Other genitourinary disorder"),
    ("O00", "O08", "Early pregnancy loss"),
    ("O10", "O16", "Hypertension in pregnancy"),
    ("O80", "O82", "Delivery"),
    ("O00", "O9A", "Other complication of pregnancy and birth"),
    ("P00", "P96", "Perinatal condition"),
    ("Q00", "Q99", "Congenital malformation"),
    ("R07", "R07", "Chest pain"),
    ("R00", "R09", "Other circulatory and respiratory symptom"),
    ("R10", "R10", "Abdominal pain"),
    ("R11", "R19", "Other digestive symptom"),
    ("R40", "R49", "Symptom of cognition, behavior and speech"),
    ("R50", "R50", "Fever"),
    ("R51", "R52", "Headache and pain"),
    ("R55", "R55", "Syncope"),
    ("R56", "R56", "Convulsions"),
    ("R00", "R99", "Other symptom and abnormal finding"),
    ("S00", "S09", "Head injury"),
    ("S10", "S39", "Injury of neck and trunk"),
    ("S40", "S69", "Injury of arm and hand"),
    ("S70", "S99", "Injury of leg and foot"),
    ("T07", "T14", "Multiple and unspecified injury"),
    ("T15", "T19", "Foreign body"),
    ("T20", "T34", "Burn and frostbite"),
    ("T36", "T50", "Poisoning by drugs"),
    ("T51", "T65", "Toxic effect"),
    ("T66", "T78", "Allergy and other external effect"),
    ("T79", "T88", "Complication of injury or care"),
    ("U07", "U09", "COVID-19"),
    ("V00", "Y99", "External cause"),
    ("Z00", "Z99", "Contact with health services"),
)

#: ICD version -> ranges of categories that are mental disorders; substance use (F10-F19, 303-305) is
#: not one in CMS's measures.
MENTAL_HEALTH: dict[int, tuple[tuple[str, str], ...]] = {
    10: (("F01", "F09"), ("F20", "F99")),
    9: (("290", "302"), ("306", "319")),
}
#: And whole codes: suicidal ideation is a symptom by chapter, a mental-health visit by nature.
MENTAL_HEALTH_CODES = ("R45851", "V6284")
#: ICD version -> ranges of categories that are cancer: malignant, in situ, or of uncertain behavior (CMS HWR, CCS 11
#: to 44). Benign neoplasms are not.
CANCER: dict[int, tuple[tuple[str, str], ...]] = {
    10: (("C00", "C96"), ("D00", "D09"), ("D37", "D49")),
    9: (("140", "209"), ("230", "239")),
}


def is_in_ranges(ranges: Mapping[int, Sequence[tuple[str, str]]]) -> nw.Expr:
    """Whether the category of `icd_code`, by `icd_version`, lies in ranges of categories (inclusive)."""
    category = nw.col("icd_code").str.slice(0, 3)
    return nw.any_horizontal(
        *(
            (nw.col("icd_version") == version) & (category >= first) & (category <= last)
            for version, those in ranges.items()
            for first, last in those
        ),
        ignore_nulls=True,
    )
