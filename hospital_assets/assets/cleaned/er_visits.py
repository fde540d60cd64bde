"""Emergency visits: clocks in UTC, codes in the house's spelling, one row per visit."""

from collections.abc import Sequence

import dagster as dg
import narwhals as nw

from hospital_assets.assets.cleaned.rules import (
    CLOCK_AMBIGUOUS,
    DEPARTMENT_MAPPED,
    DEPARTMENT_UNKNOWN,
    HOSPITAL_UNKNOWN,
    OUTSIDE_PERIOD,
    PLACEHOLDER,
    Rule,
    clock_doubts,
    codes,
    completed,
    derived_clocks,
    first_broken,
    has_code,
    identity,
    in_future,
    in_order,
    is_blank,
    is_one_of,
    is_unstated,
    mapped,
    outside_period,
    placeholders,
    read_clocks,
    read_numbers,
    sources_of,
    split,
    text,
    with_hospital,
)
from hospital_assets.assets.declare import all_days, cleaned_and_quarantined, days_around
from hospital_assets.assets.dedupe import newest_only
from hospital_assets.assets.merges import with_person
from hospital_assets.assets.resources import ClockResource
from hospital_assets.contracts import PARTITION_COLUMN, RECORD_PLACE
from hospital_assets.contracts.cleaned import ARRIVAL_MODES, DEPARTMENTS, DISPOSITIONS
from hospital_assets.landing.clocks import is_day
from hospital_assets.landing.profile import VISIT_CLOCKS as CLOCKS
from hospital_assets.landing.registry import Profiles
from hospital_assets.warehouse.database import Period
from hospital_assets.warehouse.dialect import Frame, checkpoint, local_clocks, resolve_instants
from hospital_assets.warehouse.io_manager import days_of_run

VISIT_ID_MISSING = Rule("visit_id_missing", "A visit needs a visit number.", "quarantine")
PATIENT_ID_MISSING = Rule("patient_id_missing", "A visit needs a patient.", "quarantine")
ARRIVAL_MISSING = Rule("arrival_missing", "The arrival is missing or unreadable.", "quarantine")
ARRIVAL_TIME_UNKNOWN = Rule(
    "arrival_time_unknown",
    "The arrival is a date without a time of day: an unknown time, not midnight. The visit counts on its day; its "
    "hour and what is measured from the arrival are null.",
    "flag",
)
DEPARTURE_TIME_UNKNOWN = Rule(
    "departure_time_unknown",
    "The departure is a date without a time of day: an unknown time, not midnight; or there is none, and the visit's "
    "status says that it is over. What is measured until the departure is null.",
    "flag",
    "FHIR Encounter.status",
)
PROVIDER_TIME_UNKNOWN = Rule(
    "provider_time_unknown",
    "There is no time of the first provider contact, and the visit's status says that there was one, or its clock is a "
    "date without a time of day. Nobody waits; what is measured from or to the contact is null.",
    "flag",
    "FHIR Encounter.status",
)
ARRIVAL_IN_FUTURE = Rule(
    "arrival_in_future", "The arrival is later than its record (by more than its profile allows).", "quarantine"
)
VISIT_ID_CONFLICT = Rule(
    "visit_id_conflict",
    "The visit number belongs to another patient, who was recorded under it earlier on the same day; of several days, "
    "facts know the patient of the first record. Numbers that a message merged (A40), or between which it moved the "
    "visit (A45), are one patient.",
    "quarantine",
)
PART_OF_VISIT = Rule(
    "part_of_visit",
    "The record is a part of another emergency visit, which stands in another record.",
    "duplicate",
    "FHIR Encounter.partOf",
)
TRIAGE_LEVEL_INVALID = Rule("triage_level_invalid", "The triage level is not 1 to 5.", "flag")
ARRIVAL_MODE_UNKNOWN = Rule("arrival_mode_unknown", "The arrival mode is not known.", "flag")
DISPOSITION_UNKNOWN = Rule("disposition_unknown", "The disposition code is not known.", "flag")
CLOCK_DERIVED = Rule(
    "clock_derived", "A clock is not the source's own: its profile computes it as another clock plus minutes.", "flag"
)
CLOCK_UNREADABLE = Rule("clock_unreadable", "A clock other than arrival cannot be read.", "flag")
VISIT_CANCELLED = Rule(
    "visit_cancelled",
    "The visit's status says that its registration was cancelled, or an error. Nobody waits.",
    "flag",
    "FHIR Encounter.status",
)
CLOCK_WITHOUT_TIME = Rule(
    "clock_without_time",
    "A clock between arrival and departure is a date without a time of day: an unknown time, not midnight; it is not "
    "used.",
    "flag",
)
PROVIDER_BEFORE_ARRIVAL = Rule(
    "provider_before_arrival",
    "First provider contact precedes both arrival and triage.",
    "flag",
    "METEOR 745735: negative waits are invalid",
)
DEPARTURE_BEFORE_ARRIVAL = Rule("departure_before_arrival", "Departure precedes arrival.", "flag", "AIHW NEAT: LOS < 0")
AMBIGUOUS_HOUR = Rule(
    "ambiguous_hour",
    "A clock lies in the hour that happened twice; the reading that keeps the visit's clocks in "
    "order was taken: of each in turn, from arrival to departure, the first that is not before one of those before it; "
    "the first one where both or neither are.",
    "flag",
)
MISSING_HOUR = Rule("missing_hour", "A clock lies in the hour that was skipped.", "flag")

RULES = (
    VISIT_ID_MISSING,
    PATIENT_ID_MISSING,
    HOSPITAL_UNKNOWN,
    ARRIVAL_MISSING,
    ARRIVAL_IN_FUTURE,
    OUTSIDE_PERIOD,
    VISIT_ID_CONFLICT,
    PART_OF_VISIT,
    DEPARTMENT_MAPPED,
    DEPARTMENT_UNKNOWN,
    TRIAGE_LEVEL_INVALID,
    ARRIVAL_MODE_UNKNOWN,
    DISPOSITION_UNKNOWN,
    CLOCK_DERIVED,
    CLOCK_UNREADABLE,
    PLACEHOLDER,
    ARRIVAL_TIME_UNKNOWN,
    DEPARTURE_TIME_UNKNOWN,
    PROVIDER_TIME_UNKNOWN,
    VISIT_CANCELLED,
    CLOCK_WITHOUT_TIME,
    CLOCK_AMBIGUOUS,
    PROVIDER_BEFORE_ARRIVAL,
    DEPARTURE_BEFORE_ARRIVAL,
    AMBIGUOUS_HOUR,
    MISSING_HOUR,
)


#: Statuses (FHIR R4, encounter-status) of a patient who has been seen, of a visit that is over, of one that is none.
SEEN, OVER, CANCELLED = ("in-progress", "onleave"), ("finished",), ("cancelled", "entered-in-error")

#: A visit's records that are dated on other days than it: an arrival corrected across midnight.
DAYS_AROUND = 2


@dg.multi_asset(
    **cleaned_and_quarantined("er_visits"),
    ins=days_around("raw_er_visits", before=DAYS_AROUND, after=DAYS_AROUND) | all_days("cleaned_adt_events"),
)
def er_visits(
    context: dg.AssetExecutionContext,
    raw_er_visits: Frame,
    cleaned_hospitals: Frame,
    cleaned_adt_events: Frame,
    profiles: dg.ResourceParam[Profiles],
    clock: ClockResource,
) -> tuple[Frame, Frame]:
    """Emergency visits, validated and split."""
    period = days_of_run(context)
    validated = validate_er_visits(raw_er_visits, cleaned_hospitals, profiles, clock.service_days, cleaned_adt_events)
    return split(validated.filter(period.holds()), raw_er_visits.filter(period.holds()), "er_visits", RULES)


def validate_er_visits(
    raw: Frame, hospitals: Frame, profiles: Profiles, period: Period | None = None, events: Frame | None = None
) -> Frame:
    """Every raw record with its cleaned columns, its quality codes, and the rule it broke.

    Args:
        raw: raw_er_visits, also of days around those that are asked for.
        period: the service days; None: not known, and no visit lies outside of them.
        events: cleaned_adt_events of all days, which merge numbers and move visits; None: not known.
    """
    known = raw.with_columns(_patient=identity(profiles, "patient_id"), _visit=identity(profiles, "visit_id"))
    raw = _with_holder(known, "_patient", "_visit", events, profiles)
    thing = ["hospital_id", "_person", "visit_id"]
    # What states no arrival of its own, nor any earlier record of its day, is a visit of no day.
    raw = completed(raw, profiles, "er_visits", thing, of_its_day=["arrival_time"])
    frame = with_hospital(raw, hospitals, profiles)
    frame = read_clocks(
        frame, profiles, "er_visits", {f"_{clock}": f"{clock}_time" for clock in CLOCKS} | {"_recorded": "recorded_at"}
    )
    frame, doubts = clock_doubts(frame, profiles, "er_visits", {f"_{clock}": f"{clock}_time" for clock in CLOCKS})
    # Before anything compares them.
    frame = frame.with_columns(
        _is_doubtful=nw.any_horizontal(*doubts, ignore_nulls=True),
        **{f"_{clock}_is_day": ~nw.col(f"_{clock}").is_null() & is_day(f"{clock}_time") for clock in CLOCKS},
    ).with_columns(**{f"_{clock}": nw.when(~nw.col(f"_{clock}_is_day")).then(nw.col(f"_{clock}")) for clock in CLOCKS})
    frame = frame.rename({"recorded_at": "_recorded_text"})
    frame = resolve_instants(
        frame, {f"{clock}_at": f"_{clock}" for clock in CLOCKS} | {"recorded_at": "_recorded"}, "time_zone"
    )
    frame = frame.with_columns(_level_text=nw.coalesce(mapped(profiles, "triage_level"), nw.col("triage_level")))
    frame = read_numbers(frame, profiles, "er_visits", {"_triage_level": "_level_text"})

    is_ambiguous = [nw.col(f"{clock}_at") != nw.col(f"{clock}_at_second") for clock in CLOCKS]
    frame = frame.with_columns(
        _has_ambiguous=nw.any_horizontal(*is_ambiguous, ignore_nulls=True),
        _has_missing=nw.any_horizontal(*(nw.col(f"{clock}_at_is_missing") for clock in CLOCKS), ignore_nulls=True),
    )
    frame = in_order(frame, [f"{clock}_at" for clock in CLOCKS])
    frame = local_clocks(frame, {"arrival_local": "arrival_at"}, "time_zone")

    level = nw.col("_triage_level")
    valid_level = level.is_in([1.0, 2.0, 3.0, 4.0, 5.0])
    frame = frame.with_columns(
        visit_id=identity(profiles, "visit_id"),
        patient_id=identity(profiles, "patient_id"),
        doctor_id=identity(profiles, "doctor_id"),
        chief_complaint=text("chief_complaint"),
        _landed_department=text("department"),
        department_name=mapped(profiles, "department", domain=DEPARTMENTS),
        _landed_mode=text("arrival_mode"),
        arrival_mode=nw.coalesce(mapped(profiles, "arrival_mode", domain=ARRIVAL_MODES), nw.lit("unknown")),
        _landed_disposition=text("disposition"),
        disposition=mapped(profiles, "disposition", domain=DISPOSITIONS),
        _status=mapped(profiles, "visit_status", domain=(*SEEN, *OVER, *CANCELLED)),
        _landed_level=text("triage_level"),
        triage_level=nw.when(valid_level).then(level.cast(nw.Int64)),
    )
    unreadable = [
        nw.when(nw.col(f"{clock}_at").is_null()).then(
            ~is_unstated(f"{clock}_time") & ~nw.col(f"_{clock}_is_placeholder") & ~nw.col(f"_{clock}_is_day")
        )
        for clock in CLOCKS[1:]
    ]
    frame = frame.with_columns(
        rule=first_broken(
            (VISIT_ID_MISSING, nw.col("visit_id").is_null()),
            (PATIENT_ID_MISSING, nw.col("patient_id").is_null()),
            (PART_OF_VISIT, ~identity(profiles, "part_of_visit_id").is_null()),
            (HOSPITAL_UNKNOWN, nw.col("time_zone").is_null()),
            (ARRIVAL_MISSING, nw.col("arrival_at").is_null() & ~nw.col("_arrival_is_day")),
            (ARRIVAL_IN_FUTURE, in_future(profiles, "arrival_at", "recorded_at")),
            (OUTSIDE_PERIOD, outside_period(period, "arrival_local")),
        ),
        quality_codes=codes(
            (DEPARTMENT_MAPPED, nw.col("department_name") != nw.col("_landed_department")),
            (DEPARTMENT_UNKNOWN, nw.col("department_name").is_null() & ~nw.col("_landed_department").is_null()),
            (TRIAGE_LEVEL_INVALID, nw.col("triage_level").is_null() & ~nw.col("_landed_level").is_null()),
            (
                ARRIVAL_MODE_UNKNOWN,
                (nw.col("arrival_mode") == "unknown") & (nw.col("_landed_mode").str.to_lowercase() != "unknown"),
            ),
            (DISPOSITION_UNKNOWN, nw.col("disposition").is_null() & ~nw.col("_landed_disposition").is_null()),
            (CLOCK_DERIVED, nw.any_horizontal(*_derived_clocks(profiles), ignore_nulls=True)),
            (CLOCK_UNREADABLE, nw.any_horizontal(*unreadable, ignore_nulls=True)),
            placeholders(*(f"_{clock}" for clock in CLOCKS), "_recorded"),
            (ARRIVAL_TIME_UNKNOWN, nw.col("_arrival_is_day")),
            (DEPARTURE_TIME_UNKNOWN, _is_without_time("departure", OVER)),
            (PROVIDER_TIME_UNKNOWN, _is_without_time("provider", SEEN)),
            (VISIT_CANCELLED, nw.col("_status").is_in(CANCELLED)),
            (
                CLOCK_WITHOUT_TIME,
                nw.any_horizontal(*(nw.col(f"_{clock}_is_day") for clock in CLOCKS[1:-1]), ignore_nulls=True),
            ),
            (CLOCK_AMBIGUOUS, nw.col("_is_doubtful")),
            (
                PROVIDER_BEFORE_ARRIVAL,
                (nw.col("provider_at") < nw.col("arrival_at"))
                & (nw.col("triage_at").is_null() | (nw.col("provider_at") < nw.col("triage_at"))),
            ),
            (DEPARTURE_BEFORE_ARRIVAL, nw.col("departure_at") < nw.col("arrival_at")),
            (AMBIGUOUS_HOUR, nw.col("_has_ambiguous")),
            (MISSING_HOUR, nw.col("_has_missing")),
        ),
    )
    # Within the day, as repetitions are: what a record is does not depend on which days a run covers.
    is_sound, day = nw.col("rule").is_null(), [PARTITION_COLUMN] if PARTITION_COLUMN in frame.columns else []
    frame = frame.with_columns(_sound=is_sound).with_columns(_is_others=is_others(["visit_id", "_sound", *day]))
    frame = frame.with_columns(
        rule=nw.when(nw.col("_sound") & nw.col("_is_others"))
        .then(nw.lit(VISIT_ID_CONFLICT.name))
        .otherwise(nw.col("rule"))
    )
    return newest_only(frame, ["visit_id"], "recorded_at")


def of_first_patient(visits: Frame, events: Frame, profiles: Profiles) -> Frame:
    """Visits, without those whose number was another patient's on another day, before.

    A visit has one number (PV1-19), and everything else about it is found by that; a source that begins its numbers
    anew needs a profile that composes them with what makes them one, such as the year.

    Args:
        visits: cleaned_er_visits of all days, or all of some numbers.
        events: cleaned_adt_events of all days.
    """
    contested = of_several_patients(visits)
    # Hardly any source does that, and every step of a plan costs.
    if contested.head(1).collect("polars").is_empty():
        return visits
    held = _with_holder(contested, "patient_id", "visit_id", events, profiles)
    others = held.with_columns(_is_others=is_others(["visit_id"], PARTITION_COLUMN)).filter(nw.col("_is_others"))
    return visits.join(checkpoint(others), on=list(RECORD_PLACE), how="anti")


def of_several_patients(visits: Frame) -> Frame:
    """Visits whose number stands beside several patient numbers, with what tells whose it is."""
    visits = visits.select("visit_id", "patient_id", "recorded_at", PARTITION_COLUMN, *RECORD_PLACE, "source_profile")
    patients = visits.group_by("visit_id").agg(_least=nw.col("patient_id").min(), _most=nw.col("patient_id").max())
    return checkpoint(visits.join(patients.filter(nw.col("_least") != nw.col("_most")), on="visit_id", how="semi"))


def _with_holder(records: Frame, patient: str, visit: str, events: Frame | None, profiles: Profiles) -> Frame:
    """Add `_person`, whose a visit's number is; see `with_person`."""
    # The id of a FHIR resource is never given again: whoever its newest version names has been the patient all along.
    is_resource = nw.col("source_profile").is_in(sources_of(profiles, "er_visits", lambda spec: spec.format == "fhir"))
    return with_person(records, patient, visit, events).with_columns(
        _person=nw.when(is_resource).then(nw.lit("subject")).otherwise(nw.col("_person"))
    )


def is_others(number: Sequence[str], *then: str) -> nw.Expr:
    """Whether a number is not its record's `_person`'s: it is the one's for whom it was recorded first.

    Args:
        number: columns that identify it, and within which records are compared.
        then: columns by which, ascending, records that were written at one moment follow each other.
    """
    first = nw.col("_person").first().over(*number, order_by=["recorded_at", *then, *RECORD_PLACE])
    return nw.col("_person") != first


def is_seen() -> nw.Expr:
    """Whether a provider has seen the patient: at a known time (`provider_at`), or at one that nobody knows."""
    return ~nw.col("provider_at").is_null() | has_code(PROVIDER_TIME_UNKNOWN)


def _is_without_time(clock: str, statuses: Sequence[str]) -> nw.Expr:
    """Whether something has happened, and nobody knows when: only its day is known, or that the visit has a status."""
    has_status = nw.coalesce(nw.col("_status").is_in(statuses), nw.lit(False))
    return nw.col(f"_{clock}_is_day") | (has_status & nw.col(f"{clock}_at").is_null())


def _derived_clocks(profiles: Profiles) -> list[nw.Expr]:
    """For each clock, whether it is there and its source's profile has computed it."""
    return [nw.lit(False)] + [
        nw.when(is_one_of("source_profile", names)).then(~is_blank(column))
        for column, names in derived_clocks(profiles, "er_visits").items()
    ]
