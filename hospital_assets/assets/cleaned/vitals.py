"""Vital signs: one unit per parameter, values outside what a body can have flagged by value."""

from __future__ import annotations

import dagster as dg
import narwhals as nw

from hospital_assets.assets.cleaned.rules import (
    Rule,
    codes,
    first_broken,
    identity,
    in_future,
    is_blank,
    is_one_of,
    mapped,
    read_clocks,
    read_numbers,
    split,
    text,
    translated,
)
from hospital_assets.assets.declare import cleaned_and_quarantined
from hospital_assets.assets.dedupe import newest_only
from hospital_assets.landing.registry import Profiles
from hospital_assets.warehouse.dialect import Frame, json_fields, local_clocks, resolve_instants

OBSERVATION_ID_MISSING = Rule("observation_id_missing", "An observation set needs an identifier.", "quarantine")
PATIENT_ID_MISSING = Rule("patient_id_missing", "A measurement needs a patient.", "quarantine")
HOSPITAL_UNKNOWN = Rule("hospital_unknown", "The hospital is not one of the network's hospitals.", "quarantine")
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
VALUE_UNREADABLE = Rule("value_unreadable", "A measured value is not a number and is not used.", "flag")
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
    MEASURED_AT_ASSUMED,
    FAHRENHEIT_CONVERTED,
    FAHRENHEIT_INFERRED,
    CELSIUS_INFERRED,
    SPO2_FRACTION,
    PRESSURES_SWAPPED,
    VALUE_UNREADABLE,
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
_FAHRENHEIT_UNITS = ["[DEGF]", "F", "DEGF", "°F", "MDC_DIM_FAHR"]
_CELSIUS_UNITS = ["CEL", "C", "DEGC", "°C", "MDC_DIM_DEGC"]


@dg.multi_asset(**cleaned_and_quarantined("vitals"))
def vitals(raw_vitals: Frame, cleaned_hospitals: Frame, profiles: dg.ResourceParam[Profiles]) -> tuple[Frame, Frame]:
    """Vital signs, validated and split."""
    return split(validate_vitals(raw_vitals, cleaned_hospitals, profiles), raw_vitals, "vitals", RULES)


def validate_vitals(raw: Frame, hospitals: Frame, profiles: Profiles) -> Frame:
    """Every raw record with its cleaned columns, its quality codes, and the rule it broke.

    Args:
        raw: raw_vitals.
        hospitals: cleaned_hospitals, for the time zones.
        profiles: the source profiles.
    """
    # First of all, so that the payload is not carried through what follows.
    frame = json_fields(
        raw,
        "payload",
        {
            **{f"_{parameter}_text": f"$.{parameter}.value" for parameter in HARD_BOUNDS},
            "_temperature_unit": "$.temperature.unit",
            "_consciousness": "$.consciousness",
            "_on_oxygen": "$.on_oxygen",
            "_spo2_scale_text": "$.spo2_scale",
            "_gcs_text": "$.gcs",
            "_pain_text": "$.pain",
        },
    ).drop("payload")
    frame = frame.with_columns(hospital_id=identity(profiles, "hospital_id")).join(
        hospitals.select("hospital_id", "time_zone"), on="hospital_id", how="left"
    )
    frame = _with_mapped(frame, profiles)
    frame = read_clocks(frame, profiles, "vitals", {"_measured": "measured_at", "_recorded": "recorded_at"}).drop(
        "measured_at", "recorded_at"
    )
    frame = resolve_instants(frame, {"measured_at": "_measured", "recorded_at": "_recorded"}, "time_zone")
    frame = local_clocks(frame, {"measured_local": "measured_at"}, "time_zone")
    frame = read_numbers(
        frame,
        profiles,
        "vitals",
        {f"_{parameter}": f"_{parameter}_text" for parameter in HARD_BOUNDS}
        | {"_spo2_scale": "_spo2_scale_text", "_gcs": "_gcs_text", "_pain": "_pain_text"},
    )
    frame = _in_one_unit(frame)

    raw_pain = nw.col("_pain")
    unreadable = nw.any_horizontal(
        *(
            ~nw.col(f"_{name}_text").is_null() & nw.col(f"_{name}").is_null()
            for name in (*HARD_BOUNDS, "spo2_scale", "gcs")
        ),
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
        ),
        quality_codes=codes(
            (MEASURED_AT_ASSUMED, ~is_blank("measured_at_source")),
            (FAHRENHEIT_CONVERTED, nw.col("_is_fahrenheit")),
            (FAHRENHEIT_INFERRED, nw.col("_is_inferred_fahrenheit")),
            (CELSIUS_INFERRED, nw.col("_is_inferred_celsius")),
            (SPO2_FRACTION, nw.col("_is_fraction")),
            (PRESSURES_SWAPPED, nw.col("diastolic_mmhg") > nw.col("systolic_mmhg")),
            (VALUE_UNREADABLE, unreadable),
            (CONSCIOUSNESS_UNKNOWN, nw.col("consciousness").is_null() & ~is_blank("_consciousness")),
            (ON_OXYGEN_UNKNOWN, nw.col("is_on_oxygen").is_null() & ~is_blank("_on_oxygen")),
            (SCORE_INVALID, nw.any_horizontal(*invalid, ignore_nulls=True)),
            (PAIN_NOT_NUMERIC, nw.col("pain_score").is_null() & ~is_blank("_pain_text")),
            (AMBIGUOUS_HOUR, nw.col("measured_at") != nw.col("measured_at_second")),
            (MISSING_HOUR, nw.col("measured_at_is_missing")),
            *((rule, nw.col(f"_{parameter}_is_out")) for parameter, rule in OUT_OF_BOUNDS.items()),
        ),
    )
    return newest_only(frame, ["observation_id"], "recorded_at")


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
    """Temperature in degrees Celsius and saturation in percent, with how they got there."""
    frame = frame.with_columns(_temperature_unit=nw.col("_temperature_unit").str.strip_chars().str.to_uppercase())
    value = nw.col("_temperature")
    says_fahrenheit = is_one_of("_temperature_unit", _FAHRENHEIT_UNITS)
    says_celsius = is_one_of("_temperature_unit", _CELSIUS_UNITS)
    fits_fahrenheit = (value >= 70) & (value <= 120)
    fits_celsius = (value >= 10) & (value <= 50)
    frame = frame.with_columns(
        _says_fahrenheit=nw.coalesce(says_fahrenheit, nw.lit(False)),
        _says_celsius=nw.coalesce(says_celsius, nw.lit(False)),
    ).with_columns(
        _is_fahrenheit=nw.col("_says_fahrenheit") & ~fits_celsius,
        _is_inferred_fahrenheit=~nw.col("_says_fahrenheit") & fits_fahrenheit,
        _is_inferred_celsius=~nw.col("_says_celsius") & fits_celsius,
        _is_fraction=(nw.col("_spo2") > 0) & (nw.col("_spo2") <= 1),
    )
    return frame.with_columns(
        # To a tenth of a degree, as charted: 98.6 degrees Fahrenheit is 37.0, not 36.99999.
        _temperature=nw.when(nw.col("_is_fahrenheit") | nw.col("_is_inferred_fahrenheit"))
        .then(((value - 32) / 1.8).round(1))
        .otherwise(value),
        _spo2=nw.when(nw.col("_is_fraction")).then((nw.col("_spo2") * 100).round(1)).otherwise(nw.col("_spo2")),
    )
