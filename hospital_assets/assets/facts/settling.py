"""unsettled_days: service days whose stored facts no longer agree with what is known today.

Facts are stored by day, but what they say may depend on other days: a patient's record can land a
week after the visit, a discharge ends a stay that began earlier. A run refreshes the days it was
asked for; this table names the other days it touched, and `settle` refreshes them.
"""

from datetime import timedelta

import dagster as dg
import narwhals as nw

from hospital_assets.assets.declare import table
from hospital_assets.assets.dimensions.scd2 import key_at
from hospital_assets.assets.facts.bed_occupancy import department_hours, occupied
from hospital_assets.assets.facts.emergency_visits import ended, principal_conditions
from hospital_assets.assets.facts.patient_flow import cancelled_visits, of_their_patient
from hospital_assets.contracts import CONTRACTS
from hospital_assets.landing.registry import Profiles
from hospital_assets.warehouse.database import Period
from hospital_assets.warehouse.dialect import Frame, checkpoint

#: Occupied minutes that differ by less are the same, summed in another order.
_SAME_MINUTES = 1e-6


@dg.asset(**table("unsettled_days"))
def unsettled_days(
    context: dg.AssetExecutionContext,
    fact_emergency_visits: Frame,
    fact_vitals: Frame,
    fact_patient_flow: Frame,
    fact_bed_occupancy: Frame,
    cleaned_er_visits: Frame,
    cleaned_vitals: Frame,
    cleaned_adt_events: Frame,
    cleaned_diagnoses: Frame,
    dim_condition: Frame,
    dim_patient: Frame,
    dim_department: Frame,
    dim_hospital: Frame,
    dim_date: Frame,
    profiles: dg.ResourceParam[Profiles],
) -> Frame:
    """Days whose visits, patients or occupancy are not what they would be now."""
    moves = (
        of_their_patient(cleaned_adt_events, cleaned_adt_events)
        .select("service_date", "patient_id", stay_id=nw.col("visit_id"), segment_start_at=nw.col("event_at"))
        .unique(["stay_id", "segment_start_at"])
    )
    visits = of_their_patient(cleaned_er_visits, cleaned_adt_events)
    days = nw.concat(
        [
            moved(fact_emergency_visits, "visit_id", "fact_emergency_visits"),
            moved(fact_vitals, "observation_id", "fact_vitals"),
            other_patients(
                fact_emergency_visits, visits, dim_patient, ["visit_id"], "arrival_at", "fact_emergency_visits"
            ),
            other_patients(fact_vitals, cleaned_vitals, dim_patient, ["observation_id"], "measured_at", "fact_vitals"),
            other_patients(
                fact_patient_flow,
                moves,
                dim_patient,
                ["stay_id", "segment_start_at"],
                "stay_start_at",
                "fact_patient_flow",
            ),
            other_conditions(fact_emergency_visits, cleaned_diagnoses, dim_condition),
            other_ends(fact_emergency_visits, cleaned_er_visits, cleaned_adt_events, profiles),
            other_occupancy(fact_bed_occupancy, fact_patient_flow, dim_department, dim_hospital, dim_date),
        ],
        how="vertical",
    ).select(nw.col(*CONTRACTS["unsettled_days"].column_names))
    found = checkpoint(days.group_by("table_name", "unsettled_date").agg(nw.col("row_count").sum()))
    listed = found.select("unsettled_date").unique().sort("unsettled_date").collect("polars")
    # Sensors read this; the warehouse may be in use by then.
    context.add_output_metadata({"days": [str(day) for day in listed["unsettled_date"].to_list()]})
    return found


def moved(facts: Frame, key: str, name: str) -> Frame:
    """Days that hold something which another day holds too: a correction has moved it."""
    places = facts.group_by(key).agg(_places=nw.len()).filter(nw.col("_places") > 1)
    return _by_day(facts.join(places, on=key, how="semi"), name)


def other_patients(facts: Frame, cleaned: Frame, patients: Frame, row: list[str], at: str, name: str) -> Frame:
    """Days on which the stored patient key is not the one that holds now.

    Args:
        facts: a fact table with `patient_key` and the instant `at`.
        cleaned: its source, with the columns `row` and `patient_id`.
        patients: dim_patient.
        row: columns that identify a fact in both.
        at: instant of the facts as of which the patient is meant.
        name: the fact table.
    """
    stored = facts.select("service_date", *dict.fromkeys([*row, at]), _stored_key=nw.col("patient_key"))
    both = stored.join(cleaned.select("service_date", "patient_id", *row), on=["service_date", *row], how="inner")
    now = key_at(both, patients, natural="patient_id", at=at, key="patient_key")
    return _by_day(now.filter(nw.col("patient_key") != nw.col("_stored_key")), name)


def other_conditions(visits: Frame, diagnoses: Frame, conditions: Frame) -> Frame:
    """Days with visits whose stored condition is not the one that holds now.

    Only visits with a diagnosis that is dated on another day are looked at: a run over the visit's day
    has seen all others.
    """
    stored = visits.select("visit_id", "service_date", _stored_key=nw.col("condition_key"))
    elsewhere = (
        diagnoses.select("visit_id", _coded_date=nw.col("service_date"))
        .join(stored, on="visit_id", how="inner")
        .filter(nw.col("_coded_date") != nw.col("service_date"))
        .select("visit_id", "service_date", "_stored_key")
        .unique()
    )
    elsewhere = checkpoint(elsewhere)
    now = principal_conditions(diagnoses.join(elsewhere.select("visit_id"), on="visit_id", how="semi"), conditions)
    differs = elsewhere.join(now, on="visit_id", how="inner").filter(nw.col("condition_key") != nw.col("_stored_key"))
    return _by_day(differs, "fact_emergency_visits")


def other_ends(stored: Frame, visits: Frame, events: Frame, profiles: Profiles) -> Frame:
    """Days with visits whose stored end or cancellation is not the one that messages say now.

    Only visits with a message that is dated on another day are looked at, as for conditions.
    """
    known = stored.select("visit_id", "service_date", "is_cancelled", _stored_at=nw.col("departure_at"))
    elsewhere = checkpoint(
        events.select("visit_id", _told_date=nw.col("service_date"))
        .join(known, on="visit_id", how="inner")
        .filter(nw.col("_told_date") != nw.col("service_date"))
        .drop("_told_date")
        .unique()
    )
    told = checkpoint(events.join(elsewhere.select("visit_id"), on="visit_id", how="semi"))
    now = ended(visits.join(elsewhere, on=["visit_id", "service_date"], how="inner"), told, profiles).join(
        cancelled_visits(told).with_columns(_is_cancelled=nw.lit(True)), on="visit_id", how="left"
    )
    differs = nw.any_horizontal(
        nw.coalesce(nw.col("_is_cancelled"), nw.lit(False)) != nw.col("is_cancelled"),
        nw.col("departure_at").is_null() != nw.col("_stored_at").is_null(),
        nw.col("departure_at") != nw.col("_stored_at"),
        ignore_nulls=True,
    )
    return _by_day(now.filter(differs), "fact_emergency_visits")


def other_occupancy(stored: Frame, flow: Frame, departments: Frame, hospitals: Frame, dates: Frame) -> Frame:
    """Stored days on which a department's occupancy is not what the flow says now."""
    span = stored.select(_first=nw.col("service_date").min(), _last=nw.col("service_date").max()).collect("polars")
    first, last = span["_first"].item(), span["_last"].item()
    if first is None:
        return _by_day(stored, "fact_bed_occupancy")
    period = Period(first, last + timedelta(days=1))
    hours = checkpoint(department_hours(departments, hospitals, dates, period))
    now = occupied(hours, flow, departments, period).select(
        "department_id",
        "hour_start_at",
        *(
            nw.col(c).alias(f"_{c}")
            for c in (
                "department_key",
                "patients_at_start_count",
                "arrivals_count",
                "departures_count",
                "occupied_bed_minutes",
            )
        ),
    )
    both = stored.join(now, on=["department_id", "hour_start_at"], how="inner")
    differs = nw.any_horizontal(
        nw.col("department_key") != nw.col("_department_key"),
        nw.col("patients_at_start_count") != nw.col("_patients_at_start_count"),
        nw.col("arrivals_count") != nw.col("_arrivals_count"),
        nw.col("departures_count") != nw.col("_departures_count"),
        (nw.col("occupied_bed_minutes") - nw.col("_occupied_bed_minutes")).abs() > _SAME_MINUTES,
        ignore_nulls=True,
    )
    return _by_day(both.filter(differs), "fact_bed_occupancy")


def _by_day(rows: Frame, name: str) -> Frame:
    return (
        rows.group_by("service_date")
        .agg(row_count=nw.len())
        .with_columns(
            table_name=nw.lit(name), unsettled_date=nw.col("service_date"), row_count=nw.col("row_count").cast(nw.Int64)
        )
        .drop("service_date")
    )
