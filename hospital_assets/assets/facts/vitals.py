"""fact_vitals: observation sets with their NEWS2 score."""

import dagster as dg
import narwhals as nw

from hospital_assets.assets.cleaned.vitals import is_timed
from hospital_assets.assets.declare import all_days, table
from hospital_assets.assets.dedupe import newest_of_each
from hospital_assets.assets.dimensions.calendar import date_key, time_key
from hospital_assets.assets.dimensions.members import key_of
from hospital_assets.assets.dimensions.scd2 import key_at
from hospital_assets.assets.facts.other_days import OtherDays, moved, other_patients
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.kpis import ALL
from hospital_assets.measures.age import age_in_years
from hospital_assets.measures.news2 import points, scores
from hospital_assets.measures.observations import is_around
from hospital_assets.warehouse.dialect import Frame
from hospital_assets.warehouse.io_manager import period_of


@dg.asset(**table("fact_vitals"), ins=all_days("cleaned_vitals"))
def fact_vitals(
    context: dg.AssetExecutionContext, cleaned_vitals: Frame, dim_patient: Frame, dim_hospital: Frame
) -> Frame:
    """Vital signs keyed to the patient as of the measurement, and scored."""
    newest = newest_of_each(cleaned_vitals, ["observation_id"], period_of(context))
    frame = scored(newest, dim_patient)
    frame = key_of(frame, dim_hospital, natural="hospital_id", key="hospital_key")
    return frame.with_columns(
        measured_date_key=date_key("measured_local"), measured_time_key=time_key("measured_local")
    ).select(CONTRACTS["fact_vitals"].column_names)


def scored(observations: Frame, patients: Frame) -> Frame:
    """Observation sets with the patient as of the measurement, the age then, and NEWS2.

    Args:
        patients: dim_patient, or what live alerts know of it.
    """
    frame = key_at(
        observations,
        patients,
        natural="patient_id",
        at="measured_at",
        key="patient_key",
        also=["birth_date", "age_at_extract_years"],
    ).with_columns(
        age_years=age_in_years("birth_date", "measured_local", "age_at_extract_years"),
        spo2_scale=nw.coalesce(nw.col("spo2_scale"), nw.lit(1)),
    )
    # Parameters of unknown times are no set: none of them counts.
    of_one_time = {name: nw.when(is_timed()).then(parameter) for name, parameter in points().items()}
    return frame.with_columns(**of_one_time).with_columns(**scores())


def other_observations(stored: Frame, observations: Frame, visits: Frame) -> Frame:
    """Days whose visits have other observation sets on other days than the KPIs of the day have seen.

    Args:
        stored: kpi_news2_daily; what it counts of other days stands for all KPIs of observations.
    """
    elsewhere = (
        visits.select("visit_id", "service_date", "arrival_at")
        .join(
            observations.filter(is_timed()).select(
                "visit_id", "measured_at", "news2_score", _measured_date=nw.col("service_date")
            ),
            on="visit_id",
            how="inner",
        )
        .filter(nw.col("_measured_date") != nw.col("service_date"), is_around())
    )
    now = elsewhere.select("service_date", _count=nw.lit(1), _score=nw.coalesce(nw.col("news2_score"), nw.lit(0)))
    seen = stored.filter(nw.col("hospital_id") == ALL, nw.col("department_name") == ALL).select(
        "service_date", _count=-nw.col("other_days_count"), _score=-nw.col("other_days_score_sum")
    )
    as_whole = [nw.col(name).cast(nw.Int64) for name in ("_count", "_score")]
    changes = nw.concat([frame.select("service_date", *as_whole) for frame in (now, seen)], how="vertical")
    return (
        changes.group_by("service_date")
        .agg(nw.col("_count").sum(), nw.col("_score").sum())
        .filter((nw.col("_count") != 0) | (nw.col("_score") != 0))
    )


OTHER_DAYS = (
    OtherDays(
        "kpi_news2_daily",
        ("fact_vitals", "fact_emergency_visits"),
        lambda t, _: other_observations(t["kpi_news2_daily"], t["fact_vitals"], t["fact_emergency_visits"]),
    ),
    OtherDays("fact_vitals", ("cleaned_vitals",), lambda t, _: moved(t["fact_vitals"], "observation_id")),
    OtherDays(
        "fact_vitals",
        ("cleaned_vitals", "dim_patient"),
        lambda t, _: other_patients(
            t["fact_vitals"], t["cleaned_vitals"], t["dim_patient"], ["observation_id"], "measured_at"
        ),
    ),
)
