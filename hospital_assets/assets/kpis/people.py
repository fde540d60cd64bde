"""People: physician workload, blood groups of the patients seen, demographics."""

from __future__ import annotations

import itertools

import dagster as dg
import narwhals as nw

from hospital_assets.assets.declare import table
from hospital_assets.assets.kpis.occupancy import in_emergency
from hospital_assets.assets.kpis.totals import distinct_count, share_pct, with_totals
from hospital_assets.assets.resources import ClockResource
from hospital_assets.clock import last_whole_day
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.dimensions import NOT_YET_KEY
from hospital_assets.measures.poisson_limits import with_poisson_limits
from hospital_assets.warehouse.dialect import Frame, checkpoint, exact_sum

#: Share of the US population in percent (American Red Cross).
REFERENCE_BLOOD_MIX_PCT = {"O+": 38.0, "A+": 34.0, "B+": 9.0, "O-": 7.0, "A-": 6.0, "AB+": 3.0, "B-": 2.0, "AB-": 1.0}
#: Lower bounds of the age bands, in completed years (the last one is open: 90 and over pooled).
AGE_BANDS = (0, 1, 5, 15, 18, 25, 35, 45, 55, 65, 75, 85, 90)


@dg.asset(**table("kpi_physician_workload_daily"))
def kpi_physician_workload_daily(
    fact_emergency_visits: Frame, fact_doctor_shifts: Frame, dim_department: Frame
) -> Frame:
    """New patients and hours on shift in the emergency department, of each doctor and day."""
    seen = (
        fact_emergency_visits.filter(nw.col("doctor_key") != NOT_YET_KEY, ~nw.col("is_cancelled"), ~nw.col("is_lwbs"))
        .group_by("service_date", "doctor_key")
        .agg(visit_count=nw.len())
        .with_columns(shift_hours=nw.lit(0.0))
    )
    worked = (
        in_emergency(fact_doctor_shifts, dim_department)
        .group_by("service_date", "doctor_key")
        .agg(shift_hours=exact_sum("shift_hours"))
        .with_columns(visit_count=nw.lit(0))
    )
    columns = CONTRACTS["kpi_physician_workload_daily"].column_names
    both = nw.concat(
        [
            frame.select("service_date", "doctor_key", nw.col("visit_count").cast(nw.Int64), "shift_hours")
            for frame in (seen, worked)
        ],
        how="vertical",
    )
    return (
        both.group_by("service_date", "doctor_key")
        .agg(visit_count=nw.col("visit_count").sum(), shift_hours=exact_sum("shift_hours"))
        .select(nw.col(*columns))
    )


@dg.asset(**table("kpi_physician_workload"))
def kpi_physician_workload(kpi_physician_workload_daily: Frame, dim_doctor: Frame, clock: ClockResource) -> Frame:
    """New patients, shift hours, patients per shift hour, and what chance makes of them."""
    # Shifts are known ahead, patients are not.
    over = nw.col("service_date") <= nw.lit(last_whole_day(clock.now()))
    doctors = (
        kpi_physician_workload_daily.filter(over)
        .group_by("doctor_key")
        .agg(visit_count=nw.col("visit_count").sum(), shift_hours=exact_sum("shift_hours"), active_days_count=nw.len())
        .join(dim_doctor.select("doctor_key", "doctor_id", "hospital_key"), on="doctor_key", how="left")
        .with_columns(
            visits_per_shift_hour=nw.when(nw.col("shift_hours") > 0).then(nw.col("visit_count") / nw.col("shift_hours"))
        )
    )
    return with_chance_limits(checkpoint(doctors)).select(CONTRACTS["kpi_physician_workload"].column_names)


def with_chance_limits(doctors: Frame) -> Frame:
    """What each doctor would see at the hospital's rate, and three sigma of chance around it.

    Visits are counts (Poisson). Where nobody of a hospital has shifts, all doctors should see as
    many; a doctor without shifts among colleagues with them, or an unknown one, has no limits and is not compared.

    Args:
        doctors: doctor_key, hospital_key, visit_count, shift_hours.
    """
    known = nw.col("doctor_key") > 0
    on_shift = doctors.filter(known).group_by("hospital_key").agg(_all_hours=exact_sum("shift_hours"))
    doctors = doctors.join(on_shift, on="hospital_key", how="left")
    # Visits of doctors without hours are not what those with hours see in theirs.
    compared = known & ((nw.col("_all_hours") == 0) | (nw.col("shift_hours") > 0))
    totals = (
        doctors.filter(compared)
        .group_by("hospital_key")
        .agg(_visits=nw.col("visit_count").sum(), _hours=exact_sum("shift_hours"), _doctors=nw.len())
    )
    share = (
        nw.when(nw.col("_hours") > 0).then(nw.col("shift_hours") / nw.col("_hours")).otherwise(1.0 / nw.col("_doctors"))
    )
    frame = doctors.join(totals, on="hospital_key", how="left").with_columns(
        _expected=nw.when(compared).then(nw.col("_visits") * share)
    )
    return with_poisson_limits(
        frame.with_columns(expected_visit_count=nw.when(nw.col("_expected") > 0).then(nw.col("_expected")))
    )


@dg.asset(**table("kpi_blood_groups"))
def kpi_blood_groups(fact_emergency_visits: Frame, dim_patient: Frame, dim_person: Frame, dim_hospital: Frame) -> Frame:
    """Blood groups of the distinct patients seen, with the reference mix."""
    visits = _with_patients(fact_emergency_visits, dim_patient, dim_person, dim_hospital, ["blood_group"]).with_columns(
        blood_group=nw.coalesce(nw.col("blood_group"), nw.lit("unknown"))
    )
    counted = checkpoint(
        with_totals(
            visits,
            ("blood_group",),
            ("hospital_id",),
            {"patient_count": distinct_count("person_key"), "visit_count": nw.len()},
        )
    )
    is_known = nw.col("blood_group") != "unknown"
    return (
        counted.with_columns(_known=nw.when(is_known).then(nw.col("patient_count")).otherwise(nw.lit(0)))
        .with_columns(known_patient_count=nw.col("_known").sum().over("hospital_id"))
        .with_columns(
            share_pct=nw.when(is_known).then(share_pct("_known", "known_patient_count")),
            reference_share_pct=nw.col("blood_group").replace_strict(
                list(REFERENCE_BLOOD_MIX_PCT),
                list(REFERENCE_BLOOD_MIX_PCT.values()),
                default=None,
                return_dtype=nw.Float64,
            ),
        )
        .select(CONTRACTS["kpi_blood_groups"].column_names)
    )


@dg.asset(**table("kpi_demographics"))
def kpi_demographics(fact_emergency_visits: Frame, dim_patient: Frame, dim_person: Frame, dim_hospital: Frame) -> Frame:
    """Patients and visits by age band on the day of arrival, sex, race and ethnicity."""
    visits = checkpoint(
        _with_patients(
            fact_emergency_visits, dim_patient, dim_person, dim_hospital, ["sex", "race", "ethnicity"]
        ).with_columns(age_band=age_band("age_years"))
    )
    counted = checkpoint(
        nw.concat(
            [
                with_totals(
                    visits.with_columns(
                        characteristic=nw.lit(name), category=nw.coalesce(nw.col(name), nw.lit("unknown"))
                    ),
                    ("characteristic", "category"),
                    ("hospital_id",),
                    {"patient_count": distinct_count("person_key"), "visit_count": nw.len()},
                )
                for name in ("age_band", "sex", "race", "ethnicity")
            ],
            how="vertical",
        )
    )
    return (
        counted.with_columns(_all_visits=nw.col("visit_count").sum().over("hospital_id", "characteristic"))
        .with_columns(share_of_visits_pct=share_pct("visit_count", "_all_visits"))
        .select(CONTRACTS["kpi_demographics"].column_names)
    )


def age_band(column: str) -> nw.Expr:
    """The label of the age band an age in years falls into; null where the age is unknown."""
    bounds = [*AGE_BANDS, None]
    labels = []
    for low, high in itertools.pairwise(bounds):
        label = f"{low:02d}+" if high is None else f"{low:02d}-{high - 1:02d}"
        is_in = nw.col(column) >= low
        labels.append(nw.when(is_in if high is None else is_in & (nw.col(column) < high)).then(nw.lit(label)))
    return nw.coalesce(*labels)


def _with_patients(visits: Frame, patients: Frame, persons: Frame, hospitals: Frame, attributes: list[str]) -> Frame:
    """Visits with their hospital's id, the person (null: unknown), and attributes of the patient as of arrival."""
    return (
        visits.filter(~nw.col("is_cancelled"))
        .select("hospital_key", "patient_key", "age_years")
        .join(hospitals.select("hospital_key", "hospital_id"), on="hospital_key", how="left")
        .join(patients.select("patient_key", "patient_durable_key", *attributes), on="patient_key", how="left")
        .join(persons.select("patient_durable_key", "person_key"), on="patient_durable_key", how="left")
        .with_columns(person_key=nw.when(nw.col("patient_key") > 0).then(nw.col("person_key")))
    )
