"""Vital signs: one unit per parameter, values outside what a body can have flagged by value."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg
import narwhals as nw

from hospital_assets.assets.cleaned.rules import (
    DUPLICATE,
    HOSPITAL_UNKNOWN,
    OUTSIDE_PERIOD,
    PLACEHOLDER,
    SUPERSEDED,
    Rule,
    at_the_latest,
    codes,
    day_end,
    first_broken,
    has_code,
    identity,
    in_future,
    is_blank,
    is_one_of,
    layouts_of,
    mapped,
    outside_period,
    placeholders,
    read_clocks,
    read_numbers,
    sources_of,
    split,
    text,
    translated,
    with_hospital,
)
from hospital_assets.assets.declare import cleaned_and_quarantined
from hospital_assets.assets.dedupe import newest_only
from hospital_assets.assets.resources import ClockResource
from hospital_assets.contracts import PARTITION_COLUMN, RECORD_PLACE
from hospital_assets.landing.clocks import is_day
from hospital_assets.landing.profile import Subject
from hospital_assets.landing.registry import Profiles
from hospital_assets.warehouse.database import Period
from hospital_assets.warehouse.dialect import Frame, divided, json_fields, json_rows, local_clocks, resolve_instants

OBSERVATION_ID_MISSING = Rule("observation_id_missing", "An observation set needs an identifier.", "quarantine")
PATIENT_ID_MISSING = Rule("patient_id_missing", "A measurement needs a patient.", "quarantine")
MEASURED_AT_MISSING = Rule("measured_at_missing", "The time of measurement is missing or unreadable.", "quarantine")
MEASURED_IN_FUTURE = Rule(
    "measured_in_future",
    "The time of measurement is later than its record (by more than its profile allows).",
    "quarantine",
)
MEASURED_AT_ASSUMED = Rule(
    "measured_at_assumed",
    "The source has no time of measurement; its profile names the clock that stands for it.",
    "flag",
)
MEASURED_TIME_UNKNOWN = Rule(
    "measured_time_unknown",
    "The measurement is dated without a time of day: an unknown time, not midnight. It stands at the latest moment it "
    "can have been (the end of that day, or when its record was written that day), makes no set with others and has no "
    "NEWS2; no KPI counts it, and it raises and ends no alert.",
    "flag",
    "HL7 v2 chapter 2A, DTM: precision",
)
FAHRENHEIT_CONVERTED = Rule("fahrenheit_converted", "The temperature was sent in degrees Fahrenheit.", "correct")
FAHRENHEIT_INFERRED = Rule(
    "fahrenheit_inferred",
    "The temperature has no unit, or says Celsius, but lies within 70 to 120: Fahrenheit.",
    "correct",
    "MIMIC-IV concepts: Fahrenheit only within 70-120",
)
CELSIUS_INFERRED = Rule(
    "celsius_inferred",
    "The temperature says Fahrenheit or has no unit, but lies within 10 to 50: Celsius.",
    "correct",
    "MIMIC-IV concepts: 10-50 is Celsius",
)
SPO2_FRACTION = Rule("spo2_fraction", "The oxygen saturation was sent as a fraction and multiplied by 100.", "correct")
PRESSURES_SWAPPED = Rule("diastolic_above_systolic", "The diastolic pressure exceeds the systolic one.", "flag")
VALUE_INEXACT = Rule(
    "value_inexact",
    "A value is stated with a comparator (as in <70) or as a range: kept in inexact_values, used for nothing.",
    "flag",
    "FHIR Quantity.comparator; HL7 v2 data type SN",
)
UNIT_CONVERTED = Rule("unit_converted", "A value was sent in another unit and converted.", "correct", "UCUM")
UNIT_UNKNOWN = Rule(
    "unit_unknown", "A value's unit cannot be converted: kept in inexact_values, used for nothing.", "flag", "UCUM"
)
MERGED = Rule(
    "merged_into_set",
    "The record holds some vital signs, or versions of them, of a set that stands in another row: they are in it.",
    "duplicate",
)
WITHDRAWN = Rule(
    "withdrawn",
    "The source has withdrawn every value of the set, or has none.",
    "quarantine",
    "HL7 table 0085; FHIR observation-status",
)
VALUE_UNREADABLE = Rule("value_unreadable", "A measured value is not a number and is not used.", "flag")
STATED_ZERO = Rule(
    "stated_zero",
    "A heart rate, respiratory rate, oxygen saturation or systolic pressure of 0: the patient has none, or the sensor "
    "is off. No figure uses it; an alert is raised.",
    "flag",
)
CONSCIOUSNESS_UNKNOWN = Rule(
    "consciousness_unknown", "The level of consciousness is no word that is known or mapped; it is not used.", "flag"
)
ON_OXYGEN_UNKNOWN = Rule(
    "on_oxygen_unknown", "Whether oxygen is given is no word that is known or mapped; it is not used.", "flag"
)
SCORE_INVALID = Rule(
    "score_invalid",
    "The GCS is not 3 to 15, or the SpO2 scale not 1 or 2; it is not used.",
    "flag",
    "Teasdale 1974; NEWS2",
)
PAIN_NOT_NUMERIC = Rule("pain_not_numeric", "The pain score is words or outside 0 to 10.", "flag")
MISSING_HOUR = Rule("missing_hour", "Measured in the hour that was skipped.", "flag")
AMBIGUOUS_HOUR = Rule("ambiguous_hour", "Measured in the hour that happened twice, without an offset.", "flag")

#: Parameter in the payload -> cleaned column and the open interval a value must lie in
#: (MIMIC-IV concepts, measurement/vitalsign.sql).
HARD_BOUNDS = {
    "heart_rate": ("heart_rate_bpm", 0, 300),
    "respiratory_rate": ("respiratory_rate_per_min", 0, 70),
    "spo2": ("spo2_pct", 0, 100.0001),
    "systolic_bp": ("systolic_mmhg", 0, 400),
    "diastolic_bp": ("diastolic_mmhg", 0, 300),
    "temperature": ("temperature_c", 9.9999, 50.0001),
}
#: Nobody lives without these.
_VITAL = ("heart_rate", "respiratory_rate", "spo2", "systolic_bp")
OUT_OF_BOUNDS = {
    parameter: Rule(
        f"{parameter}_out_of_bounds",
        f"The {parameter.replace('_', ' ')} is beyond what a body can have; the value is not used.",
        "flag",
        "MIMIC-IV concepts, vitalsign",
    )
    for parameter in HARD_BOUNDS
}

RULES = (
    OBSERVATION_ID_MISSING,
    PATIENT_ID_MISSING,
    HOSPITAL_UNKNOWN,
    MEASURED_AT_MISSING,
    MEASURED_IN_FUTURE,
    OUTSIDE_PERIOD,
    PLACEHOLDER,
    MEASURED_AT_ASSUMED,
    MEASURED_TIME_UNKNOWN,
    FAHRENHEIT_CONVERTED,
    FAHRENHEIT_INFERRED,
    CELSIUS_INFERRED,
    SPO2_FRACTION,
    PRESSURES_SWAPPED,
    VALUE_INEXACT,
    UNIT_CONVERTED,
    UNIT_UNKNOWN,
    MERGED,
    WITHDRAWN,
    VALUE_UNREADABLE,
    STATED_ZERO,
    CONSCIOUSNESS_UNKNOWN,
    ON_OXYGEN_UNKNOWN,
    SCORE_INVALID,
    PAIN_NOT_NUMERIC,
    MISSING_HOUR,
    AMBIGUOUS_HOUR,
    *OUT_OF_BOUNDS.values(),
)

#: ACVPU letters, and the words that sources write for them; a profile's `code_maps` come first.
_CONSCIOUSNESS = {
    "A": "A",
    "ALERT": "A",
    "C": "C",
    "CONFUSED": "C",
    "CONFUSION": "C",
    "NEW CONFUSION": "C",
    "V": "V",
    "VOICE": "V",
    "VERBAL": "V",
    "P": "P",
    "PAIN": "P",
    "U": "U",
    "UNRESPONSIVE": "U",
}
#: What sources write for breathing oxygen, and for room air.
_ON_OXYGEN = {
    **dict.fromkeys(("TRUE", "T", "YES", "Y", "1", "1.0", "OXYGEN", "O2", "SUPPLEMENTAL OXYGEN"), "true"),
    **dict.fromkeys(("FALSE", "F", "NO", "N", "0", "0.0", "AIR", "ROOM AIR", "RA"), "false"),
}
# Units of ISO/IEEE 11073-10101 (MDC) are known by name and by number: 4 << 16, as of their partition, and their code.
_FAHRENHEIT_UNITS = ["[DEGF]", "F", "DEGF", "°F", "MDC_DIM_FAHR", "266560"]
_FAHRENHEIT_UNITS += ["° F", "ºF", "℉", "DEG F", "DEGREES F", "DEGREE FAHRENHEIT", "DEGREES FAHRENHEIT", "FAHRENHEIT"]
_CELSIUS_UNITS = ["CEL", "C", "DEGC", "°C", "MDC_DIM_DEGC", "268192"]
_CELSIUS_UNITS += ["° C", "ºC", "℃", "DEG C", "DEGREES C", "DEGREE CELSIUS", "DEGREES CELSIUS", "CELSIUS"]
_KELVIN_UNITS = ["K", "MDC_DIM_X_KELVIN", "MDC_DIM_KELVIN", "266528"]
_PER_MINUTE = {
    **dict.fromkeys(("/MIN", "1/MIN", "MIN-1", "BPM", "{BEATS}/MIN", "BEATS/MIN", "{BEAT}/MIN", "BEAT/MIN"), 1.0),
    **dict.fromkeys(("{BREATHS}/MIN", "BREATHS/MIN", "{BREATH}/MIN", "{COUNTS}/MIN", "{RESP}/MIN"), 1.0),
    **dict.fromkeys(("RPM", "BR/MIN", "PER MINUTE", "/MINUTE", "BEATS/MINUTE", "BREATHS/MINUTE"), 1.0),
    **dict.fromkeys(("BEATS PER MINUTE", "BREATHS PER MINUTE", "BREATH/MIN", "RESP/MIN", "INSP/MIN"), 1.0),
    **dict.fromkeys(("MDC_DIM_PER_MIN", "264672", "MDC_DIM_BEAT_PER_MIN", "264864"), 1.0),
    **dict.fromkeys(("MDC_DIM_PULS_PER_MIN", "264896", "MDC_DIM_RESP_PER_MIN", "264928"), 1.0),
    **dict.fromkeys(("HZ", "/S", "1/S", "S-1", "MDC_DIM_HZ", "MDC_DIM_X_HZ", "264640"), 60.0),
    **dict.fromkeys(("/H", "1/H", "H-1"), 1 / 60),
}
# A conventional millimetre of mercury is 133.322387415 Pa (UCUM m[Hg]).
_PRESSURE = {
    **dict.fromkeys(("MM[HG]", "MMHG", "MM HG", "MM(HG)", "MDC_DIM_MMHG", "266016"), 1.0),
    **dict.fromkeys(("KPA", "MDC_DIM_KILO_PASCAL", "265987"), 1000 / 133.322387415),
    **dict.fromkeys(
        ("HPA", "MDC_DIM_HECTO_PASCAL", "265986", "MBAR", "MDC_DIM_MILLI_BAR", "266098"), 100 / 133.322387415
    ),
    **dict.fromkeys(("PA", "MDC_DIM_X_PASCAL", "265984"), 1 / 133.322387415),
    "CM[HG]": 10.0,
    "M[HG]": 1000.0,
    **dict.fromkeys(("CM[H2O]", "CMH2O", "MDC_DIM_CM_H2O", "266048"), 98.0665 / 133.322387415),
}
_SATURATION = {
    **dict.fromkeys(("%", "PERCENT", "%{SATURATION}", "% SATURATION", "MDC_DIM_PERCENT", "262688"), 1.0),
    **dict.fromkeys(("PCT", "%O2", "% O2"), 1.0),
    # Fractions are recognised by their size; see `spo2_fraction`.
    **dict.fromkeys(("1", "MOL/MOL", "{FRACTION}", "{RATIO}"), 1.0),
    **dict.fromkeys(("[PPTH]", "MDC_DIM_PARTS_PER_THOUSAND", "262720"), 0.1),
}
#: Parameter -> unit in capitals (UCUM's, and those that senders write for it) -> how many of ours one is. A table and
#: no library of units (pint, ucumvert): the conversion runs inside the engines, and they know only numbers.
UNITS = {
    "heart_rate": _PER_MINUTE,
    "respiratory_rate": _PER_MINUTE,
    "spo2": _SATURATION,
    "systolic_bp": _PRESSURE,
    "diastolic_bp": _PRESSURE,
}
_TEMPERATURE_UNITS = [*_FAHRENHEIT_UNITS, *_CELSIUS_UNITS, *_KELVIN_UNITS]
_KNOWN_UNITS = {**{parameter: list(units) for parameter, units in UNITS.items()}, "temperature": _TEMPERATURE_UNITS}
#: What stands before or in a number that is none exactly.
_INEXACT = r"^\s*(?:[<>~≤≥]|ad|sa)\s*=?\s*\d|^\s*\d+(?:\.\d+)?\s*[-:/+]\s*\d*(?:\.\d+)?\s*$"


@dg.multi_asset(**cleaned_and_quarantined("vitals"))
def vitals(
    raw_vitals: Frame, cleaned_hospitals: Frame, profiles: dg.ResourceParam[Profiles], clock: ClockResource
) -> tuple[Frame, Frame]:
    """Vital signs, validated and split."""
    validated = validate_vitals(raw_vitals, cleaned_hospitals, profiles, clock.service_days)
    return split(validated, raw_vitals, "vitals", RULES)


def validate_vitals(raw: Frame, hospitals: Frame, profiles: Profiles, period: Period | None = None) -> Frame:
    """Every raw record with its cleaned columns, its quality codes, and the rule it broke; `period` as for visits."""
    frame = with_hospital(raw, hospitals, profiles)
    frame = frame.with_columns(_is_day=nw.coalesce(is_day("measured_at"), nw.lit(False)))
    gathered = sources_of(profiles, "vitals", _is_gathered)
    frame = _with_texts(frame, profiles, gathered)
    frame = _with_mapped(frame, profiles)
    frame = read_clocks(frame, profiles, "vitals", {"_measured": "measured_at", "_recorded": "recorded_at"})
    frame = frame.with_columns(**day_end("_measured")).drop("measured_at", "recorded_at")
    frame = resolve_instants(
        frame, {"measured_at": "_measured", "_day_end_at": "_day_end", "recorded_at": "_recorded"}, "time_zone"
    ).with_columns(measured_at=at_the_latest("measured_at"))
    frame = local_clocks(frame, {"measured_local": "measured_at"}, "time_zone")
    frame = read_numbers(
        frame,
        profiles,
        "vitals",
        {f"_{parameter}_number": f"_{parameter}_text" for parameter in HARD_BOUNDS}
        | {"_spo2_scale": "_spo2_scale_text", "_gcs": "_gcs_text", "_pain": "_pain_text"},
    )
    frame = _in_one_unit(frame)

    raw_pain = nw.col("_pain")
    unreadable = nw.any_horizontal(
        *(
            ~nw.col(f"_{name}_text").is_null() & nw.col(f"_{name}_number").is_null() & ~_is_inexact(name)
            for name in HARD_BOUNDS
        ),
        *(~nw.col(f"_{name}_text").is_null() & nw.col(f"_{name}").is_null() for name in ("spo2_scale", "gcs")),
        ignore_nulls=True,
    )
    frame = frame.with_columns(
        **{
            column: nw.when((nw.col(f"_{parameter}") > low) & (nw.col(f"_{parameter}") < high)).then(
                nw.col(f"_{parameter}")
            )
            for parameter, (column, low, high) in HARD_BOUNDS.items()
        },
        **{
            f"_{parameter}_is_out": ~((nw.col(f"_{parameter}") > low) & (nw.col(f"_{parameter}") < high))
            for parameter, (_, low, high) in HARD_BOUNDS.items()
        },
        observation_id=identity(profiles, "observation_id"),
        visit_id=identity(profiles, "visit_id"),
        patient_id=identity(profiles, "patient_id"),
        device_id=text("device_id"),
        inexact_values=_inexact_values(),
        consciousness=translated("_consciousness", _CONSCIOUSNESS),
        is_on_oxygen=translated("_on_oxygen", _ON_OXYGEN) == "true",
        spo2_scale=nw.when(nw.col("_spo2_scale").is_in([1.0, 2.0])).then(nw.col("_spo2_scale").cast(nw.Int64)),
        gcs_score=nw.when((nw.col("_gcs") >= 3) & (nw.col("_gcs") <= 15)).then(nw.col("_gcs").cast(nw.Int64)),
        pain_score=nw.when((raw_pain >= 0) & (raw_pain <= 10) & (raw_pain.floor() == raw_pain)).then(
            raw_pain.cast(nw.Int64)
        ),
    )
    invalid = (
        nw.col(column).is_null() & ~nw.col(number).is_null()
        for column, number in (("spo2_scale", "_spo2_scale"), ("gcs_score", "_gcs"))
    )
    frame = frame.with_columns(
        rule=first_broken(
            (OBSERVATION_ID_MISSING, nw.col("observation_id").is_null()),
            (PATIENT_ID_MISSING, nw.col("patient_id").is_null()),
            (HOSPITAL_UNKNOWN, nw.col("time_zone").is_null()),
            (MEASURED_AT_MISSING, nw.col("measured_at").is_null()),
            (MEASURED_IN_FUTURE, in_future(profiles, "measured_at", "recorded_at")),
            (OUTSIDE_PERIOD, outside_period(period, "measured_local")),
            (WITHDRAWN, nw.col("_is_withdrawn")),
        ),
        quality_codes=codes(
            placeholders("_measured", "_recorded"),
            (MEASURED_AT_ASSUMED, ~is_blank("measured_at_source")),
            (MEASURED_TIME_UNKNOWN, nw.col("_is_day")),
            (FAHRENHEIT_CONVERTED, nw.col("_is_fahrenheit")),
            (FAHRENHEIT_INFERRED, nw.col("_is_inferred_fahrenheit")),
            (CELSIUS_INFERRED, nw.col("_is_inferred_celsius")),
            (SPO2_FRACTION, nw.col("_is_fraction")),
            (PRESSURES_SWAPPED, nw.col("diastolic_mmhg") > nw.col("systolic_mmhg")),
            (VALUE_INEXACT, nw.any_horizontal(*map(_is_inexact, HARD_BOUNDS), ignore_nulls=True)),
            (UNIT_CONVERTED, _any_of("is_converted")),
            (UNIT_UNKNOWN, _any_of("is_foreign")),
            (VALUE_UNREADABLE, unreadable),
            (STATED_ZERO, nw.any_horizontal(*(nw.col(f"_{name}") == 0 for name in _VITAL), ignore_nulls=True)),
            (CONSCIOUSNESS_UNKNOWN, nw.col("consciousness").is_null() & ~is_blank("_consciousness")),
            (ON_OXYGEN_UNKNOWN, nw.col("is_on_oxygen").is_null() & ~is_blank("_on_oxygen")),
            (SCORE_INVALID, nw.any_horizontal(*invalid, ignore_nulls=True)),
            (PAIN_NOT_NUMERIC, nw.col("pain_score").is_null() & ~is_blank("_pain_text")),
            (AMBIGUOUS_HOUR, ~nw.col("_is_day") & (nw.col("measured_at") != nw.col("measured_at_second"))),
            (MISSING_HOUR, ~nw.col("_is_day") & nw.col("measured_at_is_missing")),
            *((rule, nw.col(f"_{parameter}_is_out")) for parameter, rule in OUT_OF_BOUNDS.items()),
        ),
    )
    frame = newest_only(frame, ["observation_id"], "recorded_at")
    # What another row of the set holds, too, is no repetition of it.
    is_part = nw.col("source_profile").is_in(gathered) & nw.col("rule").is_in([DUPLICATE.name, SUPERSEDED.name])
    return frame.with_columns(rule=nw.when(is_part).then(nw.lit(MERGED.name)).otherwise(nw.col("rule")))


# Texts of the payload -------------------------------------------------------------------------------


def _is_gathered(spec: Subject) -> bool:
    """Whether a source sends observations one by one, in versions."""
    return any(own.observations is not None for own in spec.layouts)


def _is_set_by_time(spec: Subject) -> bool:
    """Whether a set of a source is what a patient has at one time."""
    return any(own.is_set_by_time for own in spec.layouts)


def is_timed() -> nw.Expr:
    """Whether the time of cleaned vital signs is known, and not their day alone."""
    return ~has_code(MEASURED_TIME_UNKNOWN)


#: Column of a text -> where a payload of a whole set has it.
_TEXTS = {
    **{f"_{parameter}_text": f"$.{parameter}.value" for parameter in HARD_BOUNDS},
    **{f"_{parameter}_unit": f"$.{parameter}.unit" for parameter in HARD_BOUNDS},
    "_consciousness": "$.consciousness",
    "_on_oxygen": "$.on_oxygen",
    "_spo2_scale_text": "$.spo2_scale",
    "_gcs_text": "$.gcs",
    "_pain_text": "$.pain",
}
_SET = ("source_profile", PARTITION_COLUMN, "observation_id")
#: What observations share that are of a patient at one time, or of a day of which no time is known.
_AT = ("source_profile", "patient_id", "_stated_at", "_is_day")
#: A place in a payload is the line of its message, times this, and its part of it.
_PARTS = 1_000_000


def _with_texts(frame: Frame, profiles: Profiles, gathered: Sequence[str]) -> Frame:
    """The texts of each vital sign in place of the payload, and `_is_withdrawn`: a set without any value.

    Every record of a set that is gathered from single observations has the texts of the whole set.
    """
    is_gathered = nw.col("source_profile").is_in(gathered)
    # First of all, so that the payload is not carried through what follows.
    whole = json_fields(frame.filter(~is_gathered), "payload", _TEXTS).with_columns(_is_withdrawn=nw.lit(False))
    single = _with_sets(frame.filter(is_gathered), profiles)
    sets = single.drop("payload").join(_newest_texts(single, profiles), on=list(_SET), how="left")
    sets = sets.with_columns(
        _is_withdrawn=nw.col("_count").is_null(),
        # A correction need not repeat to which visit it belongs, nor by which device it was measured.
        **{name: text(name).max().over(*_SET) for name in ("visit_id", "device_id")},
    )
    names = [name for name in frame.columns if name != "payload"] + [*_TEXTS, "_is_withdrawn"]
    return nw.concat([whole.select(*names), sets.select(*names)], how="vertical")


def _with_sets(records: Frame, profiles: Profiles) -> Frame:
    """Give the records of a patient at one time one `observation_id`, and add `_stated_at`, that time.

    Records may write the patient and the time in several ways; the first of what they make of them, as texts, stands
    for all.
    """
    records = read_clocks(records, profiles, "vitals", {"_stated": "measured_at"})
    records = resolve_instants(records, {"_stated_at": "_stated"}, "time_zone")
    is_known = ~nw.col("_is_day") & ~identity(profiles, "patient_id").is_null() & ~nw.col("_stated_at").is_null()
    by_time = nw.col("source_profile").is_in(sources_of(profiles, "vitals", _is_set_by_time))
    of_all = nw.col("observation_id").min().over(PARTITION_COLUMN, *_AT)
    return records.with_columns(
        observation_id=nw.when(by_time & is_known).then(of_all).otherwise(nw.col("observation_id"))
    )


def _newest_texts(records: Frame, profiles: Profiles) -> Frame:
    """The texts of each set of observations: of each the newest version, without what is withdrawn.

    Returns:
        the columns of `_SET`, a text for each of `_TEXTS`, and `_count`: how many values; only sets that have any.
    """
    declared = [long for _, layout in layouts_of(profiles, "vitals") if (long := layout.observations) is not None]
    units = list(dict.fromkeys(["unit", *(part for long in declared for part in long.units)]))
    parts = ("sign", "code", "value", *units, "written", "place", "id", "status", "comparator")
    names = dict.fromkeys((*_SET, *RECORD_PLACE, *_AT, "time_zone", "recorded_at", "payload"))
    each = json_rows(records.select(*names), "payload", "observations", parts)
    each = each.with_columns(_written_text=nw.coalesce("written", "recorded_at"), unit=_first_known(units))
    each = read_clocks(each, profiles, "vitals", {"_written": "_written_text"}, suffix="_text")
    each = resolve_instants(each, {"_written_at": "_written"}, "time_zone")
    each = each.with_columns(
        _is_withdrawn=_has_status(profiles, "withdrawn"),
        _is_corrected=_has_status(profiles, "corrected"),
        _rank=_rank_of_code(profiles),
        _has_written=(~nw.col("_written_at").is_null()).cast(nw.Int32),
        _version=nw.coalesce(nw.concat_str(nw.lit("id:"), nw.col("id")), "observation_id"),
    ).with_columns(
        _weight=nw.col("_is_withdrawn").cast(nw.Int32) * 2 + nw.col("_is_corrected").cast(nw.Int32),
        # Of repetitions in one message the first counts; where messages stand in files says nothing.
        _place=-(nw.col("place").cast(nw.Int64) % _PARTS),
    )
    # An observation without an id that states no value is no version of another.
    each = each.filter(nw.col("_is_withdrawn") | ~nw.col("id").is_null() | ~nw.col("value").is_null())
    each = _without_taken_back_by_day(each)
    newest_first = ["_has_written", "_written_at", "_weight", "_place", "value", "unit"]
    each = (
        each.with_columns(
            _newer_count=nw.col("source_line")
            .cum_count(reverse=True)
            .over("source_profile", PARTITION_COLUMN, "_version", "code", order_by=newest_first)
        )
        .filter(nw.col("_newer_count") == 1, ~nw.col("_is_withdrawn"), ~nw.col("value").is_null())
        .with_columns(_turn=nw.col("source_line").cum_count().over(*_SET, "sign", order_by=["_rank", "_version"]))
        .filter(nw.col("_turn") == 1)
    )
    stated = nw.concat_str(
        nw.coalesce(nw.when(~is_blank("comparator")).then(nw.col("comparator")), nw.lit("")), nw.col("value")
    )
    each = each.with_columns(_stated=stated)

    def of(sign: str, column: str) -> nw.Expr:
        return nw.when(nw.col("sign") == sign).then(nw.col(column))

    signs = {
        **{f"_{sign}_text": (sign, "_stated") for sign in (*HARD_BOUNDS, "spo2_scale", "gcs", "pain")},
        **{f"_{sign}_unit": (sign, "unit") for sign in HARD_BOUNDS},
        "_consciousness": ("consciousness", "_stated"),
        "_on_oxygen": ("on_oxygen", "_stated"),
    }
    each = each.with_columns(**{out: of(*found) for out, found in signs.items()})
    return each.group_by(*_SET).agg(nw.len().alias("_count"), *(nw.col(out).max() for out in signs))


def _without_taken_back_by_day(each: Frame) -> Frame:
    """Observations without those of a day alone that a later one of that day takes back or corrects.

    Nothing but its day and its code says which one is meant, so that it is all that were written before.
    """
    of_day = nw.col("_is_day") & nw.col("id").is_null()
    taken_back = (
        each.filter(of_day, nw.col("_weight") > 0)
        .group_by(*_AT, "code")
        .agg(_taken_back_at=nw.col("_written_at").max())
    )
    is_left = nw.coalesce(of_day & (nw.col("_written_at") < nw.col("_taken_back_at")), nw.lit(False))
    return each.join(taken_back, on=[*_AT, "code"], how="left").filter(~is_left).drop("_taken_back_at")


def _first_known(units: Sequence[str]) -> nw.Expr:
    """Of the names that an observation has of its unit the first that is known, else the first."""

    def is_known(unit: str) -> nw.Expr:
        said = nw.col(unit).str.strip_chars().str.to_uppercase()
        known = ((nw.col("sign") == sign) & said.is_in(names) for sign, names in _KNOWN_UNITS.items())
        return nw.any_horizontal(*known, ignore_nulls=True)

    has_others = ~nw.coalesce(*(nw.col(unit) for unit in units[1:]), nw.lit(None, dtype=nw.String)).is_null()
    # Most senders name it once; that name need not be compared with all that are known.
    known = nw.coalesce(*(nw.when(is_known(unit)).then(nw.col(unit)) for unit in units), *map(nw.col, units))
    return nw.when(has_others).then(known).otherwise(nw.col(units[0]))


def _has_status(profiles: Profiles, kind: str) -> nw.Expr:
    """Whether an observation has one of the statuses that its source's profile names as `kind`."""
    status = nw.col("status").str.strip_chars().str.to_uppercase()
    found = [
        (nw.col("source_profile") == name) & status.is_in([stated.upper() for stated in getattr(long, kind)])
        for name, layout in layouts_of(profiles, "vitals")
        if (long := layout.observations) is not None
    ]
    return nw.coalesce(nw.any_horizontal(*found, nw.lit(False), ignore_nulls=True), nw.lit(False))


def _rank_of_code(profiles: Profiles) -> nw.Expr:
    """The place of an observation's code among those its source's profile lists."""
    ranks = [
        nw.when(nw.col("source_profile") == name).then(
            nw.col("code").replace_strict(
                list(places), list(places.values()), default=len(places), return_dtype=nw.Int64
            )
        )
        for name, layout in layouts_of(profiles, "vitals")
        if layout.observations is not None
        for places in [{code.strip().upper(): place for place, code in enumerate(layout.observations.gathered)}]
    ]
    return nw.coalesce(*ranks, nw.lit(0))


# Values ---------------------------------------------------------------------------------------------


def _is_inexact(parameter: str) -> nw.Expr:
    return nw.col(f"_{parameter}_number").is_null() & nw.coalesce(
        nw.col(f"_{parameter}_text").str.contains(_INEXACT), nw.lit(False)
    )


def _any_of(kind: str) -> nw.Expr:
    return nw.any_horizontal(*(nw.col(f"_{parameter}_{kind}") for parameter in HARD_BOUNDS), ignore_nulls=True)


def _inexact_values() -> nw.Expr:
    """What a set states that is no number in a known unit, as in `spo2 <70 %; heart_rate 80 foo`; null for nothing."""
    kept = nw.concat_str(
        *(
            nw.when(_is_inexact(parameter) | nw.col(f"_{parameter}_is_foreign")).then(
                nw.concat_str(
                    nw.lit(parameter),
                    nw.col(f"_{parameter}_text"),
                    nw.col(f"_{parameter}_unit"),
                    separator=" ",
                    ignore_nulls=True,
                )
            )
            for parameter in HARD_BOUNDS
        ),
        separator="; ",
        ignore_nulls=True,
    )
    return nw.when(kept != "").then(kept)


#: Vital sign whose codes a profile may map -> the column of its text.
_CODED_SIGNS = {
    "consciousness": "_consciousness",
    "on_oxygen": "_on_oxygen",
    "spo2_scale": "_spo2_scale_text",
    "gcs": "_gcs_text",
    "pain": "_pain_text",
}


def _with_mapped(frame: Frame, profiles: Profiles) -> Frame:
    """Texts of scores and states by the code maps of their profiles."""
    wanted = {
        text: mapped(profiles, sign, landed=text)
        for sign, text in _CODED_SIGNS.items()
        if any(sign in profile.code_maps for profile in profiles.values())
    }
    if not wanted:
        return frame
    return frame.with_columns(**{text: nw.coalesce(expr, nw.col(text)) for text, expr in wanted.items()})


def _in_one_unit(frame: Frame) -> Frame:
    """Every measured value in its parameter's unit, and how it got there.

    Adds `_<parameter>` (null where the unit cannot be converted), `_<parameter>_is_converted` and
    `_<parameter>_is_foreign`; needs `_<parameter>_number` and `_<parameter>_unit`.
    """
    frame = frame.with_columns(
        **{
            f"_{parameter}_unit": nw.when(~is_blank(f"_{parameter}_unit")).then(
                nw.col(f"_{parameter}_unit").str.strip_chars()
            )
            for parameter in HARD_BOUNDS
        }
    ).with_columns(
        **{f"_{parameter}_said": nw.col(f"_{parameter}_unit").str.to_uppercase() for parameter in HARD_BOUNDS}
    )
    frame = frame.with_columns(
        **{
            f"_{parameter}_factor": nw.coalesce(
                nw.when(nw.col(f"_{parameter}_said").is_null()).then(nw.lit(1.0)),
                *(
                    nw.when(is_one_of(f"_{parameter}_said", [unit for unit, of in units.items() if of == factor])).then(
                        nw.lit(factor)
                    )
                    for factor in dict.fromkeys(units.values())
                ),
            )
            for parameter, units in UNITS.items()
        },
        _temperature_factor=nw.when(
            nw.col("_temperature_said").is_null() | is_one_of("_temperature_said", _TEMPERATURE_UNITS)
        ).then(nw.lit(1.0)),
    )
    values: dict[str, nw.Expr] = {}
    for p in HARD_BOUNDS:
        number, factor = nw.col(f"_{p}_number"), nw.col(f"_{p}_factor")
        values |= {
            f"_{p}": nw.when(factor == 1.0).then(number).otherwise((number * factor).round(1)),
            f"_{p}_is_foreign": factor.is_null() & ~number.is_null(),
            f"_{p}_is_converted": (factor != 1.0) & ~number.is_null(),
        }
    frame = frame.with_columns(**values)
    is_kelvin = nw.coalesce(is_one_of("_temperature_said", _KELVIN_UNITS), nw.lit(False))
    frame = frame.with_columns(
        _temperature=nw.when(is_kelvin)
        .then((nw.col("_temperature") - 273.15).round(1))
        .otherwise(nw.col("_temperature")),
        _temperature_is_converted=is_kelvin & ~nw.col("_temperature").is_null(),
        _says_celsius=nw.coalesce(is_one_of("_temperature_said", _CELSIUS_UNITS), nw.lit(False)) | is_kelvin,
        _says_fahrenheit=nw.coalesce(is_one_of("_temperature_said", _FAHRENHEIT_UNITS), nw.lit(False)),
    )
    value = nw.col("_temperature")
    fits_fahrenheit = (value >= 70) & (value <= 120)
    fits_celsius = (value >= 10) & (value <= 50)
    frame = frame.with_columns(
        _is_fahrenheit=nw.col("_says_fahrenheit") & ~fits_celsius,
        _is_inferred_fahrenheit=~nw.col("_says_fahrenheit") & fits_fahrenheit,
        _is_inferred_celsius=~nw.col("_says_celsius") & fits_celsius,
        _is_fraction=(nw.col("_spo2") > 0) & (nw.col("_spo2") <= 1),
    )
    return frame.with_columns(
        # To a tenth of a degree, as charted: 98.6 degrees Fahrenheit is 37.0, not 36.99999.
        _temperature=nw.when(nw.col("_is_fahrenheit") | nw.col("_is_inferred_fahrenheit"))
        .then(divided(value - 32, 1.8).round(1))
        .otherwise(value),
        _spo2=nw.when(nw.col("_is_fraction")).then((nw.col("_spo2") * 100).round(1)).otherwise(nw.col("_spo2")),
    )
