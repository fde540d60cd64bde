"""Patients in each inpatient department on the seven days after each as-of day of a run, against its beds."""

import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import narwhals as nw
import polars as pl

from hospital_assets.assets.declare import all_days, table
from hospital_assets.assets.facts.bed_occupancy import department_stays
from hospital_assets.assets.kpis.occupancy import ALL_INPATIENT, EMERGENCY
from hospital_assets.clock import end_of_day
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.kpis import ALL
from hospital_assets.warehouse.dialect import Frame

if TYPE_CHECKING:
    from hospital_assets.forecasting.counts import Array

_DAYS_AHEAD = 7
#: Days before the as-of day whose stays say how long stays last, and whose admissions how many come.
_DAYS_OF_STAYS, _DAYS_OF_ADMISSIONS = 180, 56
_WEEK = 7
_HOUR, _DAY = 3_600, 86_400


@dg.asset(
    **table("forecast_beds_daily"),
    # Who is in may have come long ago.
    ins=all_days("fact_patient_flow"),
)
def forecast_beds_daily(
    forecast_arrivals_daily: pl.DataFrame, fact_patient_flow: Frame, dim_department: Frame, dim_hospital: pl.DataFrame
) -> pl.DataFrame:
    """Patients in inpatient departments, from the end of each day of the run that arrivals there are forecast from."""
    hospitals = (
        forecast_arrivals_daily.group_by("service_date").agg(pl.col("hospital_id").unique()).sort("service_date")
    )
    as_of = dict(hospitals.iter_rows())
    if not as_of:
        return pl.DataFrame(schema=CONTRACTS["forecast_beds_daily"].polars_schema)
    # A day more: hospitals' clocks differ. Older stays that go on are counted as over long before.
    since = nw.lit(min(as_of) - timedelta(days=_DAYS_OF_STAYS + 1))
    flow = fact_patient_flow.filter(nw.col("service_date") >= since, nw.col("service_date") <= nw.lit(max(as_of)))
    stays = department_stays(flow, dim_department).filter(nw.col("department_name") != EMERGENCY)
    departments = dim_department.collect("polars").to_native()
    return beds(as_of, stays.collect("polars").to_native(), departments, dim_hospital)


def beds(
    as_of: Mapping[date, Collection[str]], stays: pl.DataFrame, departments: pl.DataFrame, hospitals: pl.DataFrame
) -> pl.DataFrame:
    """Forecasts of all departments from each of some as-of days.

    Args:
        as_of: days, and the hospitals at which each is over and was delivered; `all` where no other is waited for.
        stays: of inpatient departments, as from `department_stays`; what comes after an as-of day is not used for it.
    """
    contract = CONTRACTS["forecast_beds_daily"]
    by_name = departments.partition_by("hospital_id", "department_name", as_dict=True)
    versions = {name: of.select("valid_from_at", "valid_to_at", "bed_capacity").rows() for name, of in by_name.items()}
    places = hospitals.filter(pl.col("time_zone").is_not_null()).select("hospital_key", "hospital_id", "time_zone")
    by_department = stays.join(places, on="hospital_key").partition_by(
        "hospital_id", "department_name", "time_zone", as_dict=True
    )
    clocks = {place: _Clocks.of(rows) for place, rows in sorted(by_department.items())}
    rows: list[dict[str, Any]] = []
    for day, known in as_of.items():
        pooled: dict[tuple[str, str], list[_Department]] = {}
        midnights = {
            zone: [end_of_day(day + timedelta(days=n), zone) for n in range(_DAYS_AHEAD)] for *_, zone in clocks
        }
        for (hospital, name, zone), of_department in clocks.items():
            if hospital not in known:
                continue
            there = [_beds_at(versions.get((hospital, name), []), midnight) for midnight in midnights[zone]]
            found = _department(of_department, midnights[zone][0], there)
            if found is not None:
                whose = (hospital, ALL) if ALL in known else (hospital,)
                for key in itertools.product(whose, (name, ALL_INPATIENT)):
                    pooled.setdefault(key, []).append(found)
        for (hospital_id, department), parts in pooled.items():
            stated = {"service_date": day, "hospital_id": hospital_id, "department_name": department}
            rows += [stated | row for row in _days(day, parts)]
    return pl.DataFrame(rows, schema=contract.polars_schema).sort(contract.key)


@dataclass(frozen=True)
class _Department:
    """What is expected of a department.

    Attributes:
        patients_in: of each day, the mean number of those who are in now.
        counts_in: of each day, the probabilities of their number; days x patients.
        patients_to_come: of each day, the mean number of those who are not.
        beds: that it has on each day; None where that is not known.
    """

    patients_in: "Array"
    counts_in: "Array"
    patients_to_come: "Array"
    beds: "list[int | None]"


@dataclass(frozen=True)
class _Clocks:
    """The stays of a department: begin, end (NaN: not known) and until when each counts as there, epoch seconds."""

    begin: "Array"
    end: "Array"
    until: "Array"

    @classmethod
    def of(cls, stays: pl.DataFrame) -> "_Clocks":
        """From rows of `department_stays`."""
        columns = ("segment_start_at", "segment_end_at", "_until_at")
        epoch = stays.select(pl.col(*columns).dt.epoch("us").cast(pl.Float64) / 1e6).fill_null(float("nan"))
        return cls(*(epoch[name].to_numpy() for name in columns))


def _beds_at(versions: "list[tuple[Any, ...]]", moment: datetime) -> int | None:
    """The beds of a department at a moment; None where they are not known."""
    return _together([beds for since, until, beds in versions if since <= moment < until])


def _together(beds: "list[int | None]") -> int | None:
    """Beds of several departments; None where there are none, or those of one are not known."""
    known = [number for number in beds if number is not None]
    return sum(known) if known and len(known) == len(beds) else None


def _department(stays: _Clocks, moment: datetime, beds: "list[int | None]") -> _Department | None:
    """What was known of a department at the end of a day; None where too little was."""
    import numpy as np

    from hospital_assets.forecasting.survival import come_and_there, count_of, kaplan_meier, still_there

    now = moment.timestamp()
    known = (stays.begin < now) & (stays.begin >= now - _DAYS_OF_STAYS * _DAY)
    begin, end, until = stays.begin[known], stays.end[known], stays.until[known]
    if not len(begin) or begin.min() > now - _WEEK * _DAY:
        return None
    # What ended later had not ended then; who is not counted as there any more has left at some time.
    has_ended = end <= now
    hours = np.floor(np.minimum(until, now) - begin) / _HOUR
    curve = kaplan_meier(hours, has_ended.astype(np.float64))
    if curve is None:
        return None
    ahead = np.arange(1.0, _DAYS_AHEAD * 24 + 1)
    those_in = still_there(curve, np.sort(hours[~has_ended & (until > now)]), ahead)
    coming = come_and_there(curve, _admissions(now - begin), ahead)
    chances = those_in.reshape(-1, _DAYS_AHEAD, 24).mean(axis=2)
    patients_to_come = coming.reshape(_DAYS_AHEAD, 24).mean(axis=1)
    return _Department(chances.sum(axis=0), count_of(chances), patients_to_come, beds)


def _admissions(ago: "Array") -> "Array":
    """Expected to come in each of the hours ahead: the mean of the same hour of whole weeks before.

    Args:
        ago: seconds since each came.
    """
    import numpy as np

    weeks = min(_DAYS_OF_ADMISSIONS, int(ago.max() // _DAY)) // _WEEK
    hours = (np.floor(ago) // _HOUR).astype(int)
    # Hour 0 ahead is that of a week ago.
    ahead = (_WEEK * 24 - 1 - hours[hours < weeks * _WEEK * 24]) % (_WEEK * 24)
    counts: Array = np.bincount(ahead, minlength=_WEEK * 24).astype(np.float64)
    return counts / weeks


def _days(day: date, parts: list[_Department]) -> Iterator[dict[str, Any]]:
    """The rows of some departments together: means and chances of all, which do not depend on each other."""
    import numpy as np

    from hospital_assets.forecasting.survival import census, quantiles

    those_in = np.sum([part.patients_in for part in parts], axis=0)
    coming = np.sum([part.patients_to_come for part in parts], axis=0)
    chances = census([part.counts_in for part in parts], coming)
    for n, found in enumerate(chances):
        p10, p50, p90 = quantiles(found, (0.1, 0.5, 0.9))
        beds = _together([part.beds[n] for part in parts])
        yield {
            "target_date": day + timedelta(days=n + 1),
            "horizon_days": n + 1,
            "expected_patients": round(float(those_in[n] + coming[n]), 9),
            "patients_in": round(float(those_in[n]), 9),
            "patients_to_come": round(float(coming[n]), 9),
            "patients_p10_count": p10,
            "patients_p50_count": p50,
            "patients_p90_count": p90,
            "bed_capacity": beds,
            "over_capacity_pct": None if not beds else round(100.0 * float(found[beds + 1 :].sum()), 9),
        }
