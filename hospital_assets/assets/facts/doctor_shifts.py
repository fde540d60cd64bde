"""fact_doctor_shifts: hours doctors were on shift; fact_doctor_shifts_ahead: those planned for days to come."""

import dagster as dg
import narwhals as nw

from hospital_assets.assets.cleaned.reference_data import validate_doctor_shifts
from hospital_assets.assets.declare import all_days, table
from hospital_assets.assets.dedupe import newest_of_each
from hospital_assets.assets.dimensions.calendar import date_key
from hospital_assets.assets.dimensions.members import key_of
from hospital_assets.assets.dimensions.scd2 import key_at
from hospital_assets.assets.facts.other_days import OtherDays, moved
from hospital_assets.contracts import CONTRACTS
from hospital_assets.landing.registry import Profiles
from hospital_assets.warehouse.dialect import Frame, hours_between, local_clocks
from hospital_assets.warehouse.io_manager import period_of


@dg.asset(**table("fact_doctor_shifts"), ins=all_days("cleaned_doctor_shifts"))
def fact_doctor_shifts(
    context: dg.AssetExecutionContext,
    cleaned_doctor_shifts: Frame,
    dim_doctor: Frame,
    dim_hospital: Frame,
    dim_department: Frame,
) -> Frame:
    """Shifts keyed to doctor, hospital and department, with their hours."""
    shifts = newest_of_each(cleaned_doctor_shifts, ["shift_id"], period_of(context))
    return keyed(shifts, dim_doctor, dim_hospital, dim_department)


@dg.asset(**table("fact_doctor_shifts_ahead"), ins=all_days("cleaned_doctor_shifts"))
def fact_doctor_shifts_ahead(
    raw_doctor_shifts_ahead: Frame,
    cleaned_hospitals: Frame,
    cleaned_doctor_shifts: Frame,
    dim_doctor: Frame,
    dim_hospital: Frame,
    dim_department: Frame,
    profiles: dg.ResourceParam[Profiles],
) -> Frame:
    """The roster of the days after the last service day, keyed as the shifts that have come."""
    shifts = planned(raw_doctor_shifts_ahead, cleaned_doctor_shifts, cleaned_hospitals, profiles)
    return keyed(shifts, dim_doctor, dim_hospital, dim_department)


def planned(raw: Frame, loaded: Frame, hospitals: Frame, profiles: Profiles) -> Frame:
    """Sound shifts of days that have not come, with the columns of cleaned_doctor_shifts.

    Args:
        raw: raw_doctor_shifts_ahead; what is not sound is quarantined when its day has come.
        loaded: cleaned_doctor_shifts; a shift that was moved to a day that has come is not ahead any more.
    """
    sound = validate_doctor_shifts(raw, hospitals, profiles).filter(nw.col("rule").is_null())
    written = loaded.group_by("shift_id").agg(_written=nw.col("recorded_at").max())
    is_moved = (nw.col("_written") > nw.col("recorded_at")).fill_null(False)
    return sound.join(written, on="shift_id", how="left").filter(~is_moved).drop("_written")


def keyed(shifts: Frame, doctors: Frame, hospitals: Frame, departments: Frame) -> Frame:
    """Cleaned shifts with the keys of dim_doctor, dim_hospital and dim_department, and their hours."""
    frame = key_of(shifts, doctors.select("doctor_id", "doctor_key"), natural="doctor_id", key="doctor_key")
    frame = frame.join(hospitals.select("hospital_id", "hospital_key", "time_zone"), on="hospital_id", how="left")
    # Where a shift is worked decides, not where the doctor belongs; that stands in where the department is not given.
    own = doctors.select("doctor_id", _own_department_id=nw.col("department_id"))
    frame = frame.join(own, on="doctor_id", how="left").with_columns(
        department_id=nw.coalesce("department_id", "_own_department_id")
    )
    frame = key_at(frame, departments, natural="department_id", at="shift_start_at", key="department_key")
    frame = local_clocks(frame, {"_start_local": "shift_start_at"}, "time_zone")
    return frame.with_columns(
        start_date_key=date_key("_start_local"), shift_hours=hours_between("shift_start_at", "shift_end_at")
    ).select(CONTRACTS["fact_doctor_shifts"].column_names)


OTHER_DAYS = (
    OtherDays(
        "fact_doctor_shifts", ("cleaned_doctor_shifts",), lambda t, _: moved(t["fact_doctor_shifts"], "shift_id")
    ),
)
