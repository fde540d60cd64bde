"""Waits of the two days after each as-of day of a run: as in the same hour of four weeks, and as simulated."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from hospital_assets.assets.declare import all_days, table
from hospital_assets.assets.forecasts.staffing import DAYS_READ, Known, departments_known, of_days, targets
from hospital_assets.clock import end_of_day
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.forecasts import LONG_WAIT_MINUTES, QUEUE, SAME_HOUR
from hospital_assets.contracts.kpis import ALL
from hospital_assets.measures.triage import WAIT_TARGETS_MINUTES
from hospital_assets.warehouse.dialect import Frame
from hospital_assets.workers import spread

if TYPE_CHECKING:
    from hospital_assets.forecasting.simulate import Care, Shift
    from hospital_assets.forecasting.waits import Ahead, Bands

_DAYS = 28
#: Days with a wait in the hour, below which there is no band.
LEAST_DAYS = 14
_QUANTILES = {"mean_wait_p10_minutes": 0.1, "mean_wait_p50_minutes": 0.5, "mean_wait_p90_minutes": 0.9}
#: What is learned of a department is learned anew on Sundays.
_WEEK = 7
_DAYS_AHEAD = 2


@dg.asset(**table("forecast_waits_hourly"), ins=all_days("fact_emergency_visits", "fact_doctor_shifts"))
def forecast_waits_hourly(
    forecast_arrivals_hourly: pl.DataFrame,
    forecast_arrivals_daily: pl.DataFrame,
    fact_emergency_visits: Frame,
    fact_doctor_shifts: Frame,
    fact_doctor_shifts_ahead: Frame,
    dim_department: pl.DataFrame,
    dim_hospital: pl.DataFrame,
) -> pl.DataFrame:
    """Waits by the hour of the days that arrivals are forecast of, by each method."""
    made = forecast_arrivals_hourly["service_date"].unique().sort().to_list()
    if not made:
        return pl.DataFrame(schema=CONTRACTS["forecast_waits_hourly"].polars_schema)
    # What is learned on a Sunday holds for the six days after it.
    first, last = made[0] - timedelta(days=DAYS_READ + _WEEK), made[-1]
    visits = of_days(fact_emergency_visits, first, last)
    until = last + timedelta(days=_DAYS_AHEAD + 1)
    shifts = pl.concat(
        of_days(frame.select(*CONTRACTS["fact_doctor_shifts"].column_names), first, until)
        for frame in (fact_doctor_shifts, fact_doctor_shifts_ahead)
    )
    rows = simulated_waits(
        forecast_arrivals_hourly, forecast_arrivals_daily, visits, shifts, dim_department, dim_hospital, spread
    )
    return pl.concat([waits(forecast_arrivals_hourly, visits, dim_hospital), rows]).sort(
        CONTRACTS["forecast_waits_hourly"].key
    )


def waits(arrivals: pl.DataFrame, visits: pl.DataFrame, hospitals: pl.DataFrame) -> pl.DataFrame:
    """Bands of the mean wait of an hour, by as-of day, hospital and hour ahead: as in the same hour of four weeks.

    Args:
        visits: fact_emergency_visits; what was not known on an as-of day is not used for it.
    """
    ahead = arrivals.filter(pl.col("is_shipped"), pl.col("hospital_id") != ALL, pl.col("existing_hours") > 0).select(
        "service_date", "hospital_id", "target_date", "hour_of_day", "horizon_hours", "expected_arrivals"
    )
    places = hospitals.filter(pl.col("time_zone").is_not_null()).select("hospital_key", "hospital_id", "time_zone")
    # In one order, however they are stored: sums of floats differ in their last digits.
    order = ["arrival_local", "provider_at", "wait_minutes", "triage_level"]
    by_visit = (
        visits.filter(
            ~pl.col("is_cancelled"), pl.col("wait_minutes").is_not_null(), pl.col("arrival_local").is_not_null()
        )
        .select("service_date", "hospital_key", *order)
        .join(places, on="hospital_key")
        .sort("hospital_key", *order)
        .with_columns(
            hour_of_day=pl.col("arrival_local").dt.hour().cast(pl.Int64),
            _within=(
                pl.col("wait_minutes") <= pl.col("triage_level").replace_strict(WAIT_TARGETS_MINUTES, default=None)
            ).cast(pl.Float64),
        )
    )
    found = [_of_hours(by_visit, places, as_of) for as_of in ahead["service_date"].unique().sort()]
    contract = CONTRACTS["forecast_waits_hourly"]
    if not found:
        return pl.DataFrame(schema=contract.polars_schema)
    rows = ahead.join(pl.concat(found), on=["service_date", "hospital_id", "hour_of_day"])
    return (
        rows.with_columns(method=pl.lit(SAME_HOUR))
        .select(contract.column_names)
        .cast(contract.polars_schema)
        .sort(contract.key)
    )


def _of_hours(visits: pl.DataFrame, places: pl.DataFrame, as_of: date) -> pl.DataFrame:
    """What is known at the end of a day of each hour of the day at each hospital."""
    over = [end_of_day(as_of, zone) for zone in places["time_zone"]]
    ends = places.select("hospital_id", _end=pl.Series(over, dtype=pl.Datetime("us", "UTC")))
    known = visits.filter(pl.col("service_date").is_between(as_of - timedelta(days=_DAYS), as_of, closed="right")).join(
        ends, on="hospital_id"
    )
    known = known.filter(pl.col("provider_at").dt.epoch("us") < pl.col("_end").dt.epoch("us"))
    hours = known.group_by("hospital_id", "hour_of_day", "service_date", maintain_order=True).agg(
        _wait=pl.col("wait_minutes").mean(), _within=pl.col("_within").sum(), _assessed=pl.col("_within").count()
    )
    assessed = pl.col("_assessed").sum()
    return (
        hours.group_by("hospital_id", "hour_of_day", maintain_order=True)
        .agg(
            days_count=pl.len(),
            **{name: pl.col("_wait").quantile(level, "linear") for name, level in _QUANTILES.items()},
            over_60_pct=100.0 * (pl.col("_wait") > LONG_WAIT_MINUTES).mean(),
            within_target_pct=pl.when(assessed > 0).then(100.0 * pl.col("_within").sum() / assessed),
        )
        .filter(pl.col("days_count") >= LEAST_DAYS)
        .with_columns(service_date=pl.lit(as_of))
    )


def simulated_waits(
    hourly: pl.DataFrame,
    daily: pl.DataFrame,
    visits: pl.DataFrame,
    shifts: pl.DataFrame,
    departments: pl.DataFrame,
    hospitals: pl.DataFrame,
    mapped: "Callable[[Callable[[Ahead], Bands], list[Ahead]], Iterable[Bands]]" = map,
) -> pl.DataFrame:
    """The same bands from simulations of the queue, where the roster of both days was known on the as-of day.

    Args:
        daily: forecast_arrivals_daily, of the same as-of days.
        visits: fact_emergency_visits; of this and the next, what was not known on an as-of day is not used for it.
        shifts: fact_doctor_shifts and fact_doctor_shifts_ahead; `recorded_at` is since when each is known.
        mapped: how days are simulated, one by one or at the same time.
    """
    from hospital_assets.forecasting.waits import simulated

    ships = pl.col("is_shipped") & (pl.col("hospital_id") != ALL)
    of_day = daily.filter(ships, pl.col("horizon_days") == 1)
    dispersion = {(day, name): a for day, name, a in of_day["service_date", "hospital_id", "count_dispersion"].rows()}
    learned: dict[tuple[str, date], tuple[Care, int] | None] = {}
    asked = [
        found
        for known in departments_known(hourly.filter(ships), visits, shifts, departments, hospitals)
        if (known.as_of, known.hospital_id) in dispersion
        and (found := _asked(known, dispersion[known.as_of, known.hospital_id], learned)) is not None
    ]
    made = mapped(partial(simulated, limit=LONG_WAIT_MINUTES / 60), [one.ahead for one in asked])
    rows = [row for one, bands in zip(asked, made, strict=True) for row in _rows(one, bands)]
    contract = CONTRACTS["forecast_waits_hourly"]
    return pl.DataFrame(rows, schema=contract.polars_schema)


@dataclass(frozen=True)
class _Asked:
    """A hospital on an as-of day, what is to be simulated, and of how many days its patients are known."""

    known: Known
    ahead: "Ahead"
    days: int


def _asked(
    known: Known, day_dispersion: float, learned: "dict[tuple[str, date], tuple[Care, int] | None]"
) -> _Asked | None:
    """What is to be simulated for one hospital and as-of day; None where it cannot be."""
    import numpy as np

    from hospital_assets.forecasting.learned import came
    from hospital_assets.forecasting.waits import HOURS_AHEAD, HOURS_BEFORE, Ahead

    known = replace(known, ahead=known.ahead.sort("target_date", "hour_of_day"))
    rates = known.ahead["expected_arrivals"].to_numpy()
    planned = _planned(known)
    if planned is None or len(rates) != HOURS_AHEAD:
        return None
    sunday = known.as_of - timedelta(days=known.as_of.isoweekday() % _WEEK)
    if (known.hospital_id, sunday) not in learned:
        learned[known.hospital_id, sunday] = _learned(known, sunday)
    found = learned[known.hospital_id, sunday]
    if found is None:
        return None
    care, days = found
    end = end_of_day(known.as_of, known.time_zone).timestamp() / 3600
    before = came(known.seen(_DAYS_AHEAD), care, end - HOURS_BEFORE, end, np.random.default_rng(known.seed))
    return _Asked(known, Ahead(rates, day_dispersion, care, before.moved(-HOURS_BEFORE), planned, known.seed), days)


def _rows(asked: _Asked, made: "Bands") -> Iterator[dict[str, Any]]:
    """The hours that there are, and in which somebody comes."""
    import numpy as np

    for n, hour in enumerate(asked.known.ahead.iter_rows(named=True)):
        if hour["existing_hours"] > 0 and not np.isnan(made.over[n]):
            yield asked.known.row(
                target_date=hour["target_date"],
                hour_of_day=hour["hour_of_day"],
                horizon_hours=hour["horizon_hours"],
                method=QUEUE,
                days_count=asked.days,
                expected_arrivals=hour["expected_arrivals"],
                **{name: float(60 * wait) for name, wait in zip(_QUANTILES, made.quantiles[n], strict=True)},
                over_60_pct=float(100 * made.over[n]),
                within_target_pct=float(100 * made.within[n]),
            )


def _planned(known: Known) -> "list[Shift] | None":
    """The roster of the two days, as it was known on the as-of day: hours of the clock from its end; None where not.

    And that of the day after them, by which those are seen who still wait then; where it is not known, it is as on the
    same weekday before.
    """
    from hospital_assets.forecasting.waits import is_rostered

    end = pl.lit(end_of_day(known.as_of, known.time_zone))
    shifts = known.shifts.filter(pl.col("recorded_at") < end)
    hours_of = dict(shifts.group_by("service_date").agg(pl.col("shift_hours").sum()).iter_rows())
    past = [hours for when, hours in hours_of.items() if 0 <= (known.as_of - when).days < _DAYS]
    *coming, after = [hours_of.get(known.as_of + timedelta(days=n), 0.0) for n in range(1, _DAYS_AHEAD + 2)]
    usual = sum(past) / len(past) if past else 0.0
    if not is_rostered(coming, usual):
        return None
    day, last = pl.col("service_date"), known.as_of + timedelta(days=_DAYS_AHEAD)
    back = timedelta(0) if is_rostered([after], usual) else timedelta(weeks=1)
    near = pl.concat(
        [
            shifts.filter(day.is_between(known.as_of - timedelta(days=1), last)).with_columns(
                _later=pl.lit(timedelta(0))
            ),
            shifts.filter(day == last + timedelta(days=1) - back).with_columns(_later=pl.lit(back)),
        ]
    ).select(
        (
            pl.col(name).dt.convert_time_zone(known.time_zone).dt.replace_time_zone(None) - known.end + pl.col("_later")
        ).dt.total_minutes()
        / 60
        for name in ("shift_start_at", "shift_end_at")
    )
    return sorted(near.rows())


def _learned(known: Known, day: date) -> "tuple[Care, int] | None":
    """What patients were like up to a day, and of how many days; None where there is too little to say."""
    from hospital_assets.forecasting.learned import care_of, places_per_doctor

    then = replace(known, as_of=day)
    seen = then.seen()
    places = places_per_doctor(seen, *then.spans())
    care = None if places is None else care_of(seen, places, targets())
    if care is None:
        return None
    of_days_read = pl.col("service_date").is_between(day - timedelta(days=DAYS_READ), day, closed="right")
    return care, known.visits.filter(of_days_read)["service_date"].n_unique()
