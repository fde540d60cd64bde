"""Arrivals of the two days (by hour) and two weeks (by day) after each as-of day of a run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import dagster as dg
import polars as pl

from hospital_assets.assets.declare import all_days, several_tables
from hospital_assets.assets.resources import ClockResource
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.forecasts import QUANTILE_COLUMNS, SUM_OF_HOSPITALS
from hospital_assets.contracts.kpis import ALL
from hospital_assets.warehouse.io_manager import period_of

if TYPE_CHECKING:
    from hospital_assets.forecasting.counts import Array
    from hospital_assets.forecasting.network import HospitalForecast, Network, Total
    from hospital_assets.forecasting.series import Forecast, Series

_TABLES = ("forecast_arrivals_hourly", "forecast_arrivals_daily", "forecast_models")


@dg.multi_asset(**several_tables("forecast_arrivals", *_TABLES), ins=all_days("kpi_arrivals_hourly"))
def forecast_arrivals(
    context: dg.AssetExecutionContext,
    kpi_arrivals_hourly: pl.DataFrame,
    dim_hospital: pl.DataFrame,
    clock: ClockResource,
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Forecasts from the end of each of the run's days that are over at the hospital."""
    period = period_of(context)
    assert period is not None  # noqa: S101  (the assets are partitioned)
    days = kpi_arrivals_hourly.filter(pl.col("service_date").is_between(period.first, period.end, closed="left"))
    as_of = sorted(days["service_date"].unique().to_list())
    made = forecasts(kpi_arrivals_hourly, dim_hospital, as_of, clock.now(), clock.holiday_calendars)
    return made.hourly, made.daily, made.models


@dataclass(frozen=True)
class Made:
    """The rows of the three tables."""

    hourly: pl.DataFrame
    daily: pl.DataFrame
    models: pl.DataFrame


def forecasts(
    arrivals: pl.DataFrame, hospitals: pl.DataFrame, as_of: Sequence[date], now: datetime, calendars: Mapping[str, str]
) -> Made:
    """Forecasts of all hospitals from each of some as-of days.

    Args:
        arrivals: kpi_arrivals_hourly, of any days; what lies after an as-of day is not used for it.
        hospitals: dim_hospital.
        as_of: the as-of days.
        now: the hospital's time; a day that is not over there is no as-of day.
        calendars: hospital -> whose holidays it keeps, where the settings name them.
    """
    rows = _Rows()
    known = _series(arrivals, hospitals, now, calendars)
    if known and as_of:
        from hospital_assets.forecasting.network import Network

        network = Network(known)
        for day in as_of:
            rows.add(day, network, {one.hospital_id: one for one in known})
    return rows.made()


def _series(
    arrivals: pl.DataFrame, hospitals: pl.DataFrame, now: datetime, calendars: Mapping[str, str]
) -> "list[Series]":
    """Each hospital's arrivals up to its last day that is over."""
    from hospital_assets.forecasting.series import series_of

    found = []
    by_hospital = {
        hospital_id: rows.sort("service_date", "hour_of_day")
        for (hospital_id,), rows in arrivals.partition_by("hospital_id", as_dict=True).items()
    }
    members = hospitals.filter(pl.col("hospital_key") > 0, pl.col("time_zone").is_not_null()).sort("hospital_id")
    for member in members.iter_rows(named=True):
        name, zone = member["hospital_id"], member["time_zone"]
        today = now.astimezone(ZoneInfo(zone)).date()
        rows = by_hospital.get(name, arrivals.clear()).filter(pl.col("service_date") < today)
        if rows.is_empty():
            continue
        counts = rows["arrivals_count"].cast(pl.Float64).to_numpy().reshape(-1, 24)
        days = rows["service_date"].gather_every(24).to_list()
        made = series_of(
            name,
            dict(zip(days, counts, strict=True)),
            zone,
            days[-1],
            calendars.get(name, ""),
            member["state"] or "",
            member["annual_ed_visits_band"],
        )
        found += [made] if made is not None else []
    return found


@dataclass(frozen=True)
class _Rows:
    """Rows that are gathered as-of day by as-of day."""

    hourly: list[dict[str, Any]] = field(default_factory=list)
    daily: list[dict[str, Any]] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)

    def add(self, as_of: date, network: "Network", series: "Mapping[str, Series]") -> None:
        """Forecasts from one as-of day."""
        from hospital_assets.forecasting.calendar import calendar_version
        from hospital_assets.forecasting.network import holiday_names
        from hospital_assets.forecasting.series import DAYS_AHEAD

        hospitals = network.hospitals(as_of)
        existing = {}
        for one in hospitals:
            own = series[one.hospital_id]
            after = own.index(as_of) + 1
            hours = own.hours[after : after + DAYS_AHEAD]
            existing[one.hospital_id] = hours
            names = holiday_names(own, as_of)
            for made in one.rivals:
                stated = {"hospital_id": one.hospital_id, "method": made.method, "is_shipped": made is one.shipped}
                self._distributions(as_of, stated, made, hours, names)
            self.models.append(_model(as_of, one, own.calendar, calendar_version()))
        total = network.total(hospitals, as_of)
        if total is not None:
            self._total(as_of, total, list(existing.values()))

    def _total(self, as_of: date, total: "Total", existing: "Sequence[Array]") -> None:
        stated = {"hospital_id": ALL, "method": SUM_OF_HOSPITALS, "is_shipped": True}
        # An hour of all hospitals exists as long as it does where it lasts longest.
        hours = existing[0].copy()
        for other in existing[1:]:
            hours = hours.clip(min=other)
        self._distributions(as_of, stated, total, hours, {})

    def _distributions(
        self,
        as_of: date,
        stated: Mapping[str, Any],
        made: "Forecast | Total",
        hours: "Array",
        holidays: Mapping[date, str],
    ) -> None:
        """The rows of one method's forecast: of the hours of two days, and of two weeks' days."""
        from hospital_assets.forecasting.counts import quantiles
        from hospital_assets.forecasting.series import DAYS_OF

        stated = {**stated, "service_date": as_of}
        near = made.means[: DAYS_OF["hour"]].ravel()
        by_hour = quantiles(near, made.hour_dispersion)
        for n, mean in enumerate(near):
            target = as_of + timedelta(days=1 + n // 24)
            row = {**stated, "target_date": target, "hour_of_day": n % 24, "horizon_hours": n + 1}
            row |= {"existing_hours": float(hours[n // 24, n % 24]), "expected_arrivals": float(mean)}
            self.hourly.append(row | {"count_dispersion": made.hour_dispersion} | _of(by_hour[n]))
        of_days = made.means.sum(axis=1)
        by_day = quantiles(of_days, made.day_dispersion)
        for n, mean in enumerate(of_days):
            target = as_of + timedelta(days=1 + n)
            row = {**stated, "target_date": target, "horizon_days": n + 1}
            row |= {"existing_hours": float(hours[n].sum()), "expected_arrivals": float(mean)}
            row |= {"holiday_name": holidays.get(target), "count_dispersion": made.day_dispersion}
            self.daily.append(row | _of(by_day[n]))

    def made(self) -> Made:
        """The rows as tables."""
        tables = zip(_TABLES, (self.hourly, self.daily, self.models), strict=True)
        return Made(*(pl.DataFrame(rows, schema=CONTRACTS[name].polars_schema) for name, rows in tables))


def _of(levels: Iterable[Any]) -> dict[str, int]:
    """The quantiles of one row."""
    return dict(zip(QUANTILE_COLUMNS, map(int, levels), strict=True))


def _model(as_of: date, one: "HospitalForecast", calendar: str, version: str) -> dict[str, Any]:
    shipped = one.shipped
    row: dict[str, Any] = {
        "service_date": as_of,
        "hospital_id": one.hospital_id,
        "method": one.method,
        "training_days_count": shipped.training_days,
        "training_to_date": shipped.training_to,
        "level_factor": shipped.level,
        "holiday_calendar": calendar,
        "calendar_version": version,
    }
    for grain in ("hour", "day"):
        found = one.verdicts[grain] if one.verdicts is not None else None
        skill = None if found is None or found.skill is None else 100.0 * found.skill
        row |= {f"{grain}_origins_count": found.origins if found is not None else 0, f"{grain}_skill_pct": skill}
        row |= {f"is_{grain}_gate_passed": found.is_passed if found is not None else None}
    return row
