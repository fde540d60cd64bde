"""The kinds of checks, as data: the question each asks, its family (Kahn) and its severity.

Families (Kahn et al., eGEMs 2016; as the OHDSI Data Quality Dashboard uses them): conformance asks
whether data has its form, completeness whether it is there, plausibility whether it can be believed.
A kind is one asset check per table; its single checks are in `quality.dq_results`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dagster import AssetCheckSeverity

Family = Literal["conformance", "completeness", "plausibility"]
_ERROR, _WARN = AssetCheckSeverity.ERROR, AssetCheckSeverity.WARN


@dataclass(frozen=True)
class Kind:
    """One kind of check.

    Attributes:
        family: Kahn's.
        blocking: whether a failure stops what depends on the table, in that run.
    """

    name: str
    family: Family
    description: str
    severity: AssetCheckSeverity = _ERROR
    blocking: bool = False


COLUMNS = Kind("columns", "conformance", "The stored columns and types are those of the contract.", blocking=True)
KEY = Kind("key", "conformance", "The key is complete and identifies one row.", blocking=True)
REQUIRED = Kind("required", "completeness", "Columns that must have a value have one.", blocking=True)
VALUES = Kind("values", "conformance", "Values lie in the domain the contract gives them.")
PLAUSIBLE = Kind("plausible", "plausibility", "Values lie where they usually do.", _WARN)
ADDS_UP = Kind(
    "adds_up", "conformance", "Parts make up their whole in every row: a population is its n and all exclusions."
)
REFERENCES = Kind("references", "conformance", "Every reference finds its row in the table it points to.")

TEXT_TRIMMED = Kind("text_trimmed", "conformance", "Cleaned texts have no blanks around them.")
SERVICE_DAY = Kind("service_day", "conformance", "The service day is the local day of the event that gives it.")
DATE_KEY = Kind("date_key", "conformance", "Date keys name the day of their clock.")
LOCAL_TIME = Kind("local_time", "conformance", "Wall clocks show their instant in the hospital's zone.")
FLAG_AGREES = Kind("flag_agrees", "conformance", "Flags agree with the columns they sum up.")
SCORE_AGREES = Kind("score_agrees", "conformance", "Scores exist exactly where they may be given.")
DURATION_AGREES = Kind("duration_agrees", "conformance", "Durations are those of their clocks.")
VERSIONS = Kind("versions", "conformance", "Versions of a member have no gaps and no overlaps.")
ONE_CURRENT = Kind("one_current", "conformance", "Each member has one current version.")
CLOCK_READING = Kind(
    "clock_reading", "conformance", "Clocks state a time of day, and can be read in one way only.", _WARN
)
UNIT = Kind("unit", "conformance", "No value looks as if it were in another unit.", _WARN)

NEVER_EMPTY = Kind("never_empty", "completeness", "Columns that may lack values do not lack all of them.", _WARN)
KNOWN_MEMBER = Kind("known_member", "completeness", "Few facts point to the unknown member of a dimension.", _WARN)
READABLE = Kind("readable", "completeness", "Few landed values became missing by cleaning.", _WARN)
QUARANTINED = Kind("quarantined", "completeness", "Few landed records are quarantined.", _WARN)
DUPLICATED = Kind("duplicated", "completeness", "Few landed records are repetitions.", _WARN)
HAS_VITALS = Kind("has_vitals", "completeness", "Most visits have vital signs.", _WARN)
HAS_DIAGNOSIS = Kind("has_diagnosis", "completeness", "Most closed visits have a diagnosis.", _WARN)
HAS_MESSAGES = Kind("has_messages", "completeness", "Most visits have ADT messages.", _WARN)
SEEN_AGAIN = Kind("has_visits", "completeness", "Most patients on record have a visit.", _WARN)

QUANTILES = Kind("quantiles", "conformance", "Quantiles of a forecast rise, and lie about its mean.")
COHERENT = Kind("coherent", "conformance", "Means add up: hours to days, hospitals to all of them.")
AHEAD = Kind("ahead", "conformance", "A forecast is of days after the one it was made at, once per day.")
CALIBRATED = Kind("calibrated", "plausibility", "Intervals hold as much as they promise, and nothing leans.", _WARN)
DRIFT = Kind("drift", "plausibility", "Forecasts have not become worse than they were.", _WARN)
SKILL = Kind("skill", "plausibility", "What ships is not worse than the rule it replaces.", _WARN)
ROSTER = Kind(
    "roster", "conformance", "A suggested roster keeps to its hours and the least staff; the need covers the load."
)

ENDS = Kind("ends", "completeness", "Nothing is open for longer than it can last.", _WARN)

CLOCK_ORDER = Kind("clock_order", "plausibility", "Clocks of one visit follow each other.", _WARN)
NOT_IN_FUTURE = Kind("not_in_future", "plausibility", "Nothing happened after now.")
AFTER_BIRTH = Kind("after_birth", "plausibility", "Nobody comes before being born.", _WARN)
BEFORE_DEATH = Kind("before_death", "plausibility", "Nobody comes after having died.", _WARN)
WITHIN_VISIT = Kind("within_visit", "plausibility", "Measurements lie within their visit, a day around it.", _WARN)
SEX_FITS = Kind("sex_fits", "plausibility", "Diagnoses fit the sex of the patient.", _WARN)
AGE_FITS = Kind("age_fits", "plausibility", "Departments and diagnoses fit the age.", _WARN)
ONE_PLACE = Kind("one_place", "plausibility", "Nobody is in two hospitals' beds at once.", _WARN)
ONE_IN_BED = Kind("one_in_bed", "plausibility", "No ward bed holds two patients at once.", _WARN)
ONE_PATIENT = Kind("one_patient", "plausibility", "A visit number is one patient's, whatever the day.", _WARN)
ONE_BIRTH = Kind("one_birth", "plausibility", "Nobody was born on two days.", _WARN)
PRESSURES = Kind("pressures", "plausibility", "Systolic pressure exceeds diastolic.", _WARN)
BLOOD_MIX = Kind("blood_mix", "plausibility", "Blood groups are about as frequent as in the population.", _WARN)
TRIAGE_MIX = Kind("triage_mix", "plausibility", "Triage levels are about as frequent as published.", _WARN)
DAYLIGHT = Kind("daylight", "plausibility", "Few clocks lie in an hour that daylight saving skips or repeats.", _WARN)

#: What contracts ask, and all of them.
CONTRACT_KINDS = (COLUMNS, KEY, REQUIRED, VALUES, PLAUSIBLE, ADDS_UP, REFERENCES)
KINDS = (
    *CONTRACT_KINDS,
    TEXT_TRIMMED,
    SERVICE_DAY,
    DATE_KEY,
    LOCAL_TIME,
    FLAG_AGREES,
    SCORE_AGREES,
    DURATION_AGREES,
    VERSIONS,
    ONE_CURRENT,
    UNIT,
    NEVER_EMPTY,
    KNOWN_MEMBER,
    CLOCK_READING,
    READABLE,
    QUARANTINED,
    DUPLICATED,
    HAS_VITALS,
    HAS_DIAGNOSIS,
    HAS_MESSAGES,
    SEEN_AGAIN,
    QUANTILES,
    COHERENT,
    AHEAD,
    CALIBRATED,
    SKILL,
    DRIFT,
    ROSTER,
    ENDS,
    CLOCK_ORDER,
    NOT_IN_FUTURE,
    AFTER_BIRTH,
    BEFORE_DEATH,
    WITHIN_VISIT,
    SEX_FITS,
    AGE_FITS,
    ONE_PLACE,
    ONE_IN_BED,
    ONE_PATIENT,
    ONE_BIRTH,
    PRESSURES,
    BLOOD_MIX,
    TRIAGE_MIX,
    DAYLIGHT,
)
