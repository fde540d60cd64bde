"""Arrivals of the two days (by hour) and two weeks (by day) after each as-of day of a run, and what moves them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import dagster as dg
import narwhals as nw
import polars as pl

from hospital_assets.assets.declare import all_days, several_tables
from hospital_assets.assets.resources import ClockResource
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.forecasts import QUANTILE_COLUMNS, SUM_OF_HOSPITALS
from hospital_assets.contracts.kpis import ALL
from hospital_assets.measures.triage import TRIAGE_GROUPS, triage_group
from hospital_assets.settings import Challenger, SettingsError
from hospital_assets.warehouse.dialect import Frame
from hospital_assets.warehouse.io_manager import days_of_run

if TYPE_CHECKING:
    from hospital_assets.forecasting.counts import Array
    from hospital_assets.forecasting.network import HospitalForecast, Network
    from hospital_assets.forecasting.regression import Driver
    from hospital_assets.forecasting.series import Distribution, Grain, Series

_TABLES = (
    "forecast_arrivals_hourly",
    "forecast_arrivals_daily",
    "forecast_triage_hourly",
    "forecast_triage_daily",
    "forecast_drivers",
    "forecast_models",
)


@dg.multi_asset(
    **several_tables("forecast_arrivals", *_TABLES), ins=all_days("kpi_arrivals_hourly", "fact_emergency_visits")
)
def forecast_arrivals(
    context: dg.AssetExecutionContext,
    kpi_arrivals_hourly: pl.DataFrame,
    fact_emergency_visits: Frame,
    dim_hospital: pl.DataFrame,
    clock: ClockResource,
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Forecasts from the end of each of the run's days that are over at the hospital."""
    period = days_of_run(context)
    days = kpi_arrivals_hourly.filter(pl.col("service_date").is_between(period.first, period.end, closed="left"))
    as_of = sorted(days["service_date"].unique().to_list())
    triaged = triaged_by_hour(fact_emergency_visits, as_of)
    made = forecasts(
        kpi_arrivals_hourly, triaged, dim_hospital, as_of, clock.now(), clock.holiday_calendars, clock.challengers
    )
    hourly, daily, triage_hourly, triage_daily, drivers, models = (made[name] for name in _TABLES)
    return hourly, daily, triage_hourly, triage_daily, drivers, models


def triaged_by_hour(visits: Frame, as_of: Sequence[date]) -> pl.DataFrame:
    """Arrivals by day, hospital, hour and triage level that the shares of some as-of days are learned from.

    Args:
        as_of: rising.

    Returns:
        service_date, hospital_key, hour_of_day, triage_group, arrivals.
    """
    from hospital_assets.forecasting.acuity import SHARE_DAYS

    day = nw.col("service_date")
    first, last = (as_of[0] - timedelta(days=SHARE_DAYS), as_of[-1]) if as_of else (date.max, date.min)
    found: pl.DataFrame = (
        # Of an arrival known by its day only there is no hour.
        visits.filter(
            ~nw.col("is_cancelled"), ~nw.col("arrival_local").is_null(), day > nw.lit(first), day <= nw.lit(last)
        )
        .select(
            "service_date",
            "hospital_key",
            hour_of_day=nw.col("arrival_local").dt.hour().cast(nw.Int64),
            triage_group=triage_group(),
        )
        .group_by("service_date", "hospital_key", "hour_of_day", "triage_group")
        .agg(arrivals=nw.len())
        .collect("polars")
        .to_native()
    )
    return found


def forecasts(
    arrivals: pl.DataFrame,
    triaged: pl.DataFrame,
    hospitals: pl.DataFrame,
    as_of: Sequence[date],
    now: datetime,
    calendars: Mapping[str, str],
    challengers: Sequence[Challenger] = (),
) -> dict[str, pl.DataFrame]:
    """Forecasts of all hospitals from each of some as-of days: the tables by name.

    Args:
        arrivals: kpi_arrivals_hourly, of any days; what lies after an as-of day is not used for it.
        triaged: see `triaged_by_hour`.
        now: the hospital's time; a day that is not over there is no as-of day.
        calendars: hospital -> whose holidays it keeps, where the settings name them.

    Raises:
        SettingsError: a challenger is not installed.
    """
    rows = _Rows()
    known = _series(arrivals, hospitals, now, calendars)
    if known and as_of:
        from hospital_assets.forecasting import trees
        from hospital_assets.forecasting.network import Network

        if challengers and not trees.is_installed():
            raise SettingsError(
                "hospital.toml asks for forecast_challengers, which are not installed: pip install "
                "'hospital-assets[trees]'"
            )
        network = Network(known, challengers)
        by_id = {one.hospital_id: one for one in known}
        by_level = _by_level(triaged, hospitals, by_id)
        for day in as_of:
            rows.add(day, network, by_id, by_level)
    return rows.tables()


def _by_level(triaged: pl.DataFrame, hospitals: pl.DataFrame, series: "Mapping[str, Series]") -> "dict[str, Array]":
    """Hospital -> arrivals by day of its series, hour and triage level."""
    import numpy as np

    found = {name: np.zeros((*one.counts.shape, len(TRIAGE_GROUPS))) for name, one in series.items()}
    named = triaged.join(hospitals.select("hospital_key", "hospital_id"), on="hospital_key").with_columns(
        _level=pl.col("triage_group").replace_strict(
            {name: place for place, name in enumerate(TRIAGE_GROUPS)}, return_dtype=pl.Int64
        )
    )
    for (name,), rows in named.partition_by("hospital_id", as_dict=True).items():
        if (one := series.get(str(name))) is not None:
            here = rows.with_columns(_day=(pl.col("service_date") - one.first).dt.total_days()).filter(
                pl.col("_day").is_between(0, len(one.counts), closed="left")
            )
            found[one.hospital_id][here["_day"], here["hour_of_day"], here["_level"]] = here["arrivals"]
    return found


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
class _Expected:
    """What is expected in two weeks, with what its rows have in common.

    Attributes:
        as_of: the day before them.
        hours: days x 24, how long each exists.
        holidays: by day.
    """

    as_of: date
    labels: Mapping[str, Any]
    made: "Distribution"
    hours: "Array"
    holidays: Mapping[date, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Rows:
    """What is gathered as-of day by as-of day."""

    arrivals: list[_Expected] = field(default_factory=list)
    triage: list[_Expected] = field(default_factory=list)
    drivers: list[pl.DataFrame] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self, as_of: date, network: "Network", series: "Mapping[str, Series]", by_level: "Mapping[str, Array]"
    ) -> None:
        """Forecasts from one as-of day."""
        import numpy as np

        from hospital_assets.forecasting.acuity import shares
        from hospital_assets.forecasting.calendar import calendar_version
        from hospital_assets.forecasting.network import holiday_names
        from hospital_assets.forecasting.series import Distribution

        hospitals = network.hospitals(as_of)
        if not hospitals:
            return
        arrivals, triaged = [], []
        drivers: dict[str, dict[Driver, Array]] = {}
        for one in hospitals:
            own, shipped = series[one.hospital_id], one.shipped
            origin = own.index(as_of)
            hours, holidays = own.hours_ahead(origin), holiday_names(own, as_of)
            for made in one.rivals:
                labels = {"hospital_id": one.hospital_id, "method": made.method, "is_shipped": made is shipped}
                arrivals.append(_Expected(as_of, labels, made, hours, holidays))
            by_group = shipped.means[:, :, None] * shares(by_level[one.hospital_id][: origin + 1])
            for place, group in enumerate(TRIAGE_GROUPS):
                part = Distribution(by_group[:, :, place], shipped.hour_dispersion, shipped.day_dispersion)
                triaged.append(_Expected(as_of, {"hospital_id": one.hospital_id, "triage_group": group}, part, hours))
            drivers[one.hospital_id] = own.drivers(shipped, origin)
            self.models.append(_model(as_of, one, own.calendar, calendar_version()))
        self.arrivals.extend(arrivals)
        self.triage.extend(triaged)
        moved = _drivers(as_of, drivers)
        total = network.total(hospitals, as_of)
        self.drivers.append(moved if total is not None else moved.filter(pl.col("hospital_id") != ALL))
        if total is None:
            return
        # An hour of all hospitals exists as long as it does where it lasts longest.
        hours = np.max([of.hours for of in arrivals], axis=0)
        labels = {"hospital_id": ALL, "method": SUM_OF_HOSPITALS, "is_shipped": True}
        self.arrivals.append(_Expected(as_of, labels, total, hours))
        for group in TRIAGE_GROUPS:
            means = np.sum([of.made.means for of in triaged if of.labels["triage_group"] == group], axis=0)
            part = Distribution(means, total.hour_dispersion, total.day_dispersion)
            self.triage.append(_Expected(as_of, {"hospital_id": ALL, "triage_group": group}, part, hours))

    def tables(self) -> dict[str, pl.DataFrame]:
        """All rows, by table."""
        if not self.models:
            return {name: pl.DataFrame(schema=CONTRACTS[name].polars_schema) for name in _TABLES}
        found = {
            "forecast_arrivals_hourly": _distributions(self.arrivals, "hour"),
            "forecast_arrivals_daily": _distributions(self.arrivals, "day"),
            "forecast_triage_hourly": _distributions(self.triage, "hour"),
            "forecast_triage_daily": _distributions(self.triage, "day"),
            "forecast_drivers": pl.concat(self.drivers),
            "forecast_models": pl.DataFrame(self.models, schema=CONTRACTS["forecast_models"].polars_schema),
        }
        return {
            name: rows.select(CONTRACTS[name].column_names).cast(CONTRACTS[name].polars_schema)
            for name, rows in found.items()
        }


def _distributions(parts: Sequence[_Expected], grain: "Grain") -> pl.DataFrame:
    """Means and quantiles of the hours or days ahead, part by part."""
    import numpy as np

    from hospital_assets.forecasting.counts import quantiles
    from hospital_assets.forecasting.series import DAYS_OF

    days = DAYS_OF[grain]
    means, hours = np.stack([(part.made.means[:days], part.hours[:days]) for part in parts], axis=1)
    if grain == "day":
        means, hours = means.sum(axis=2), hours.sum(axis=2)
    steps = means[0].size
    spread = np.repeat([part.made.dispersion(grain) for part in parts], steps)
    levels = quantiles(means.ravel(), spread)
    step = np.tile(np.arange(steps), len(parts))
    ahead = [[part.as_of + timedelta(days=1 + n) for n in range(days)] for part in parts]
    names = [part.holidays.get(day) for part, ahead_of in zip(parts, ahead, strict=True) for day in ahead_of]
    of_day = pl.DataFrame(
        {
            "service_date": [part.as_of for part in parts for _ in range(days)],
            "target_date": [day for ahead_of in ahead for day in ahead_of],
            "holiday_name": pl.Series(names, dtype=pl.String),
        }
    )
    labels = pl.DataFrame([part.labels for part in parts])
    return pl.DataFrame(
        {
            "hour_of_day": step % 24,
            "horizon_hours": step + 1,
            "horizon_days": step + 1,
            "existing_hours": hours.ravel(),
            "expected_arrivals": means.ravel(),
            "count_dispersion": spread,
            **dict(zip(QUANTILE_COLUMNS, levels.T, strict=True)),
        }
    ).hstack(
        [*of_day[np.repeat(np.arange(len(of_day)), steps // days)], *labels[np.repeat(np.arange(len(labels)), steps)]]
    )


def _drivers(as_of: date, by_hospital: "Mapping[str, Mapping[Driver, Array]]") -> pl.DataFrame:
    """What moves each day's forecast away from the usual day, at each hospital and all of them."""
    import numpy as np

    from hospital_assets.forecasting.regression import DRIVERS

    names = [*by_hospital, ALL]
    reached: list[Array] = []
    for driver in DRIVERS:
        # A hospital without a driver is where it was.
        own = [of[driver] if driver in of else reached[-1][n] for n, of in enumerate(by_hospital.values())]
        reached.append(np.stack([*own, np.sum(own, axis=0)]))
    arrivals = np.stack(reached)
    usual = np.concatenate([np.zeros_like(arrivals[:1]), arrivals[:-1]])
    added = arrivals - usual
    factor = np.where(arrivals > 0, arrivals / np.where(usual > 0, usual, 1.0), 1.0)
    is_said = added != 0
    factor[0], is_said[0] = 1.0, True
    rank, name, day = np.nonzero(is_said)
    return pl.DataFrame(
        {
            "service_date": pl.repeat(as_of, len(day), eager=True),
            "hospital_id": np.array(names, dtype=object)[name],
            "target_date": [as_of + timedelta(days=1 + int(n)) for n in day],
            "driver": np.array(DRIVERS, dtype=object)[rank],
            "driver_rank": rank + 1,
            "factor": factor[is_said],
            "added_arrivals": added[is_said],
        }
    )


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
