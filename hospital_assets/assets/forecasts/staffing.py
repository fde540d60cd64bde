"""What each emergency department needs in the coming week, and the roster that is suggested for it; on Sundays."""

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import narwhals as nw
import polars as pl

from hospital_assets.assets.declare import all_days, several_tables, table
from hospital_assets.assets.kpis.occupancy import EMERGENCY
from hospital_assets.assets.resources import ClockResource
from hospital_assets.clock import end_of_day
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.dimensions import UNKNOWN_KEY
from hospital_assets.contracts.forecasts import DOCTOR, NURSE, OUTCOMES
from hospital_assets.contracts.kpis import ALL
from hospital_assets.measures.triage import WAIT_TARGETS_MINUTES
from hospital_assets.settings import StaffingSettings
from hospital_assets.warehouse.dialect import Frame
from hospital_assets.workers import spread

if TYPE_CHECKING:
    from hospital_assets.forecasting.counts import Array
    from hospital_assets.forecasting.learned import Visits
    from hospital_assets.forecasting.simulate import Care, Shift
    from hospital_assets.forecasting.staffing import Department, Plan

_TABLES = ("staffing_need_hourly", "staffing_shifts_suggested", "kpi_staffing_comparison")
#: Weeks of rosters begin on Monday: suggestions are made from the end of the day before.
_LAST_WEEKDAY = 7
_WEEK = 7
#: Days before the as-of day of which visits, arrivals and doctors are read: enough for rare levels, and like today.
DAYS_READ = 56
#: Doctors who were on in so many days can be on in the next week.
_HEADCOUNT_DAYS = 28
_LEAST_DAYS = 14
#: Of the replicates, the middle so many percent lie between low and high.
_MIDDLE_PCT = 80
_CLOCKS = {
    "arrival": "arrival_at",
    "triage": "triage_at",
    "provider": "provider_at",
    "decision": "decision_at",
    "departure": "departure_at",
}


@dg.multi_asset(
    **several_tables("staffing", *_TABLES),
    ins=all_days("kpi_arrivals_hourly", "fact_emergency_visits", "fact_doctor_shifts"),
)
def staffing(
    context: dg.AssetExecutionContext,
    forecast_arrivals_daily: pl.DataFrame,
    kpi_arrivals_hourly: Frame,
    fact_emergency_visits: Frame,
    fact_doctor_shifts: Frame,
    dim_department: pl.DataFrame,
    dim_hospital: pl.DataFrame,
    clock: ClockResource,
    rostering: dg.ResourceParam[StaffingSettings],
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Needs and suggestions from the end of each Sunday of the run that was forecast from."""
    ahead = forecast_arrivals_daily.filter(
        pl.col("is_shipped"),
        pl.col("hospital_id") != ALL,
        pl.col("horizon_days") <= _WEEK,
        pl.col("service_date").dt.weekday() == _LAST_WEEKDAY,
    )
    first, last = ahead["service_date"].min(), ahead["service_date"].max()
    if not isinstance(first, date) or not isinstance(last, date):
        made = Made.empty()
    else:
        first -= timedelta(days=DAYS_READ)
        arrivals, visits, shifts = (
            of_days(frame, first, last) for frame in (kpi_arrivals_hourly, fact_emergency_visits, fact_doctor_shifts)
        )
        made = suggestions(ahead, arrivals, visits, shifts, dim_department, dim_hospital, rostering, spread)
    for name in _TABLES:
        context.add_output_metadata({"outcomes": made.outcomes}, output_name=name)
    return made.need, made.shifts, made.comparison


def of_days(frame: Frame, first: date, last: date) -> pl.DataFrame:
    """The rows of some days (inclusive)."""
    day = nw.col("service_date")
    found: pl.DataFrame = frame.filter(day >= nw.lit(first), day <= nw.lit(last)).collect("polars").to_native()
    return found


@dataclass(frozen=True)
class Made:
    """The rows of the three tables, and how often each search for a roster ended how."""

    need: pl.DataFrame
    shifts: pl.DataFrame
    comparison: pl.DataFrame
    outcomes: dict[str, int]

    @classmethod
    def empty(cls) -> "Made":
        """No rows."""
        return _Rows().made()


@dataclass(frozen=True)
class _Rows:
    """Rows that are gathered hospital by hospital."""

    need: list[dict[str, Any]] = field(default_factory=list)
    shifts: list[dict[str, Any]] = field(default_factory=list)
    comparison: list[dict[str, Any]] = field(default_factory=list)

    def made(self) -> "Made":
        """The rows as tables."""
        need, shifts, comparison = (
            pl.DataFrame(rows, schema=CONTRACTS[name].polars_schema)
            for name, rows in zip(_TABLES, (self.need, self.shifts, self.comparison), strict=True)
        )
        ended = (
            comparison.filter(pl.col("roster") == "present")["suggestion_outcome"]
            .value_counts()
            .sort("suggestion_outcome")
        )
        return Made(need, shifts, comparison, {OUTCOMES[name]: count for name, count in ended.iter_rows()})


def suggestions(
    ahead: pl.DataFrame,
    arrivals: pl.DataFrame,
    visits: pl.DataFrame,
    shifts: pl.DataFrame,
    departments: pl.DataFrame,
    hospitals: pl.DataFrame,
    rules: StaffingSettings,
    mapped: "Callable[[Callable[[Department], Plan], list[Department]], Iterable[Plan]]" = map,
) -> "Made":
    """Needs, suggested shifts and their comparison, of each as-of day and hospital that was forecast.

    Args:
        ahead: the rows of forecast_arrivals_daily that ship, of the seven days after each as-of day.
        arrivals: kpi_arrivals_hourly; of this and the next two, what lies after an as-of day is not used for it.
        mapped: how the departments are planned, one by one or at the same time.
    """
    from hospital_assets.forecasting.staffing import plan

    asked = [
        _asked(known, rules) for known in departments_known(ahead, visits, shifts, departments, hospitals, arrivals)
    ]
    plans = iter(mapped(plan, [one.department for one in asked if one.department is not None]))
    rows = _Rows()
    for one in asked:
        rows.need.extend(one.nurses)
        if one.department is None:
            rows.comparison.append(one.known.nothing(one.outcome))
            continue
        made = next(plans)
        rows.need.extend(_doctors(one.known, one.department, made))
        rows.shifts.extend(_shifts(one.known, made))
        rows.comparison.extend(_comparison(one.known, one.department, made))
    return rows.made()


def departments_known(
    ahead: pl.DataFrame,
    visits: pl.DataFrame,
    shifts: pl.DataFrame,
    departments: pl.DataFrame,
    hospitals: pl.DataFrame,
    arrivals: pl.DataFrame | None = None,
) -> "Iterator[Known]":
    """What is known on each as-of day (`service_date`) at each hospital of some rows."""
    emergency = departments.filter(pl.col("department_name") == EMERGENCY)["department_key"].unique()
    shifts = shifts.filter(pl.col("department_key").is_in(emergency.implode()))
    members = {member["hospital_id"]: member for member in hospitals.iter_rows(named=True)}
    own = {
        name: (_in_hours(visits.filter(of_hospital, ~pl.col("is_cancelled"))), shifts.filter(of_hospital))
        for name in ahead["hospital_id"].unique()
        for of_hospital in (pl.col("hospital_key") == members[name]["hospital_key"],)
    }
    for (as_of, hospital_id), rows in sorted(ahead.partition_by("service_date", "hospital_id", as_dict=True).items()):
        yield Known(
            as_of,
            hospital_id,
            members[hospital_id]["time_zone"],
            rows.sort("target_date"),
            pl.DataFrame() if arrivals is None else arrivals.filter(pl.col("hospital_id") == hospital_id),
            *own[hospital_id],
        )


def _in_hours(visits: pl.DataFrame) -> pl.DataFrame:
    """Visits with their clocks in hours (NaN where there is none), `level` and `unseen`."""
    hours = {name: (pl.col(at).dt.epoch("us") / 3.6e9).fill_null(float("nan")) for name, at in _CLOCKS.items()}
    # In one order, however they are stored: what is drawn depends on it.
    return visits.sort(*_CLOCKS.values(), "triage_level").select(
        "service_date",
        **hours,
        level=pl.col("triage_level").fill_null(0).cast(pl.Int64),
        unseen=pl.col("is_lwbs").fill_null(False),
    )


@dataclass(frozen=True)
class _Asked:
    """A hospital on an as-of day: what nurses it needs, and the department to plan or why there is none."""

    known: "Known"
    nurses: list[dict[str, Any]]
    department: "Department | None"
    outcome: str = ""


def _asked(known: "Known", rules: StaffingSettings) -> _Asked:
    from hospital_assets.forecasting.learned import care_of, places_per_doctor
    from hospital_assets.forecasting.staffing import spread_over_hours

    history, visits, worked = known.history(), known.seen(), known.worked()
    places = places_per_doctor(visits, *known.spans())
    care = care_of(visits, places or 1, targets())
    if history is None or care is None:
        return _Asked(known, [], None, "too_few_visits")
    nurses = _nurses(known, spread_over_hours(known.day_means, history).ravel(), care, visits, rules)
    if not worked or places is None:
        return _Asked(known, nurses, None, "no_queue" if worked else "no_roster")
    return _Asked(known, nurses, known.department(history, care, worked, rules))


@dataclass(frozen=True)
class Known:
    """What is known of a hospital on an as-of day; its frames may hold more, which is not used.

    Attributes:
        ahead: what is forecast of the days after it.
        visits: see `_in_hours`.
    """

    as_of: date
    hospital_id: str
    time_zone: str
    ahead: pl.DataFrame
    arrivals: pl.DataFrame
    visits: pl.DataFrame
    shifts: pl.DataFrame

    @property
    def end(self) -> datetime:
        """The end of the as-of day, on the hospital's clock."""
        return datetime.combine(self.as_of + timedelta(days=1), datetime.min.time())

    @property
    def seed(self) -> int:
        """The same day and hospital is always simulated with the same random numbers."""
        return zlib.crc32(f"{self.as_of.isoformat()} {self.hospital_id}".encode())

    @property
    def day_means(self) -> "Array":
        """What is forecast of the seven days."""
        found: Array = self.ahead["expected_arrivals"].to_numpy()
        return found

    def history(self) -> "Array | None":
        """Arrivals of the last weeks, days x 24; None where there are too few days."""
        from hospital_assets.forecasting.series import series_of

        rows = self.arrivals.filter(self._within(DAYS_READ)).sort("service_date", "hour_of_day")
        counts = rows["arrivals_count"].cast(pl.Float64).to_numpy().reshape(-1, 24)
        days = rows["service_date"].gather_every(24).to_list()
        made = series_of(self.hospital_id, dict(zip(days, counts, strict=True)), self.time_zone, self.as_of, "none")
        return made.counts if made is not None and len(made.counts) >= _LEAST_DAYS else None

    def seen(self, days: int = DAYS_READ) -> "Visits":
        """Visits of the last days, as they were known at the end of the as-of day; times in hours."""
        import numpy as np

        from hospital_assets.forecasting.learned import Visits

        rows = self.visits.filter(self._within(days))
        end = end_of_day(self.as_of, self.time_zone).timestamp() / 3600
        clock = {name: rows[name].to_numpy() for name in _CLOCKS}
        # What happened later was not known then.
        known = {name: np.where(hours < end, hours, np.nan) for name, hours in clock.items()}
        return Visits(
            known["arrival"],
            known["triage"],
            known["provider"],
            np.where(np.isnan(known["decision"]), known["departure"], known["decision"]),
            known["departure"],
            rows["level"].to_numpy(),
            rows["unseen"].to_numpy() & ~np.isnan(known["departure"]),
        )

    def spans(self) -> "tuple[Array, Array]":
        """Begin and end of the shifts of the last weeks, in hours of the same clock."""
        rows = self.shifts.filter(self._within(DAYS_READ))
        begin, end = ((rows[name].dt.epoch("us") / 3.6e9).to_numpy() for name in ("shift_start_at", "shift_end_at"))
        return begin, end

    def worked(self) -> "list[Shift]":
        """The shifts that began in the last seven days, at hours of that week.

        Empty where there is none on some day: then the roster was not delivered.
        """
        rows = self.shifts.filter(self._within(_WEEK))
        if rows["service_date"].n_unique() < _WEEK:
            return []
        since = pl.col("shift_start_at").dt.convert_time_zone(self.time_zone).dt.replace_time_zone(None) - (
            self.end - timedelta(days=_WEEK)
        )
        begin = since.dt.total_minutes() / 60
        return sorted(rows.select(begin, end=begin + pl.col("shift_hours")).rows())

    def doctors(self) -> int:
        """How many worked in the last weeks; 0 where it is not known."""
        keys = self.shifts.filter(self._within(_HEADCOUNT_DAYS))["doctor_key"]
        return 0 if (keys == UNKNOWN_KEY).any() else keys.n_unique()

    def department(
        self, history: "Array", care: "Care", worked: "list[Shift]", rules: StaffingSettings
    ) -> "Department":
        """The department as the search for a roster takes it."""
        from hospital_assets.forecasting.shifts import Rules
        from hospital_assets.forecasting.simulate import hours_on
        from hospital_assets.forecasting.staffing import Department, Target

        return Department(
            history,
            self.day_means,
            float(self.ahead["count_dispersion"][0]),
            care,
            worked,
            Rules(
                rules.shift_starts,
                rules.shift_hours,
                rules.least_doctors,
                rules.most_doctors,
                rules.distinct_starts,
                rules.rest_hours,
                self.doctors(),
            ),
            dict(rules.hours_a_week).get(self.hospital_id, hours_on(worked)),
            Target(rules.target_pct / 100, rules.target_minutes / 60),
            self.seed,
        )

    def row(self, **values: Any) -> dict[str, Any]:
        """A row of this as-of day and hospital."""
        return {"service_date": self.as_of, "hospital_id": self.hospital_id, **values}

    def hour(self, hour: int) -> dict[str, Any]:
        """The day and hour of an hour of the week ahead."""
        return {"target_date": self.as_of + timedelta(days=1 + hour // 24), "hour_of_day": hour % 24}

    def nothing(self, outcome: str) -> dict[str, Any]:
        """The row of a hospital without a comparison, and why there is none."""
        return self.row(roster="present", suggestion_outcome=outcome, replicates_count=0)

    def _within(self, days: int) -> pl.Expr:
        return pl.col("service_date").is_between(self.as_of - timedelta(days=days), self.as_of, closed="right")


def targets() -> "Array":
    """The longest wait for a doctor by triage level, in hours."""
    import numpy as np

    return np.array(list(WAIT_TARGETS_MINUTES.values())) / 60


def _nurses(
    known: "Known", rates: "Array", care: "Care", visits: "Visits", rules: StaffingSettings
) -> list[dict[str, Any]]:
    from hospital_assets.forecasting.learned import stays_by_level
    from hospital_assets.forecasting.staffing import nurses_needed

    present, needed = nurses_needed(
        rates, care.shares, stays_by_level(visits), rules.patients_per_nurse, rules.fixed_nurses
    )
    return [
        known.row(
            **known.hour(hour),
            staff_role=NURSE,
            expected_arrivals=float(rates[hour]),
            offered_load=float(present[hour]),
            needed_count=int(needed[hour]),
        )
        for hour in range(len(rates))
    ]


def _doctors(known: "Known", department: "Department", made: "Plan") -> list[dict[str, Any]]:
    import numpy as np

    from hospital_assets.forecasting.learned import there_at
    from hospital_assets.forecasting.shifts import coverage

    hours = len(department.rates)
    # Shifts that go on beyond the week are on in its first hours.
    middles = np.arange(0.5, 2 * hours)
    present = there_at(middles, *np.array(department.worked).T).reshape(2, hours).sum(axis=0)
    suggested = coverage(made.rosters["suggested"], hours) if "suggested" in made.rosters else None
    needed = department.needed()
    return [
        known.row(
            **known.hour(hour),
            staff_role=DOCTOR,
            expected_arrivals=float(department.rates[hour]),
            offered_load=float(department.planned_load[hour]),
            places_count=department.care.places,
            needed_count=int(needed[hour]),
            least_count=department.rules.least,
            present_count=int(present[hour]),
            suggested_count=None if suggested is None else int(suggested[hour]),
            gap_count=int(needed[hour] - present[hour]),
        )
        for hour in range(hours)
    ]


def _shifts(known: "Known", made: "Plan") -> list[dict[str, Any]]:
    present, suggested = made.rosters["present"], made.rosters.get("suggested")
    if suggested is None:
        return []
    return [
        known.row(
            **known.hour(start),
            shift_hours=float(length),
            present_count=present.get((start, length), 0),
            suggested_count=suggested.get((start, length), 0),
            change_count=suggested.get((start, length), 0) - present.get((start, length), 0),
        )
        for start, length in sorted({*present, *suggested})
    ]


def _comparison(known: "Known", department: "Department", made: "Plan") -> list[dict[str, Any]]:
    """A row for each roster: what the simulated weeks were like, on average and in the middle of them."""
    import numpy as np

    from hospital_assets.forecasting.shifts import hours_moved, hours_of
    from hospital_assets.forecasting.simulate import MEASURES, hours_on

    present, before = made.rosters["present"], made.results["present"]
    low, high = 50 - _MIDDLE_PCT / 2, 50 + _MIDDLE_PCT / 2
    found = []
    for name, results in made.results.items():
        roster = made.rosters[name]
        measures: dict[str, float | None] = {}
        for number, measure in enumerate(MEASURES):
            stem, unit = measure.rsplit("_", 1)
            values = results[:, number]
            measures[measure] = float(values.mean())
            measures[f"{stem}_low_{unit}"], measures[f"{stem}_high_{unit}"] = map(
                float, np.percentile(values, (low, high))
            )
        is_known = not np.isnan(results).any()
        found.append(
            known.row(
                roster=name,
                suggestion_outcome=made.outcome,
                places_count=department.care.places,
                budget_hours=float(department.budget),
                doctor_hours=hours_on(department.worked) if name == "present" else float(hours_of(roster)),
                moved_hours=float(hours_moved(present, roster, len(department.rates))),
                replicates_count=len(results),
                **{measure: value if is_known else None for measure, value in measures.items()},
                better_weeks_pct=None if name == "present" else float(100 * (results[:, 0] < before[:, 0]).mean()),
            )
        )
    return found


@dg.asset(
    **table("kpi_staffing_realised"),
    ins=all_days("staffing_shifts_suggested", "fact_emergency_visits", "fact_doctor_shifts"),
)
def kpi_staffing_realised(
    staffing_shifts_suggested: pl.DataFrame,
    forecast_arrivals_daily: pl.DataFrame,
    fact_emergency_visits: Frame,
    fact_doctor_shifts: Frame,
    dim_department: pl.DataFrame,
    dim_hospital: pl.DataFrame,
) -> pl.DataFrame:
    """What the suggestions of the Sunday before would have done, on each Sunday of the run that was forecast from."""
    over = weeks_over(staffing_shifts_suggested, forecast_arrivals_daily)
    first, last = over["service_date"].min(), over["service_date"].max()
    if not isinstance(first, date) or not isinstance(last, date):
        return pl.DataFrame(schema=CONTRACTS["kpi_staffing_realised"].polars_schema)
    first -= timedelta(days=DAYS_READ)
    visits, shifts = (of_days(frame, first, last) for frame in (fact_emergency_visits, fact_doctor_shifts))
    return realised(over, visits, shifts, dim_department, dim_hospital)


def weeks_over(suggested: pl.DataFrame, daily: pl.DataFrame) -> pl.DataFrame:
    """Suggested shifts by the last day of their week, where that day is over at the hospital and was delivered.

    Args:
        suggested: staffing_shifts_suggested.
        daily: forecast_arrivals_daily, of the last days that are asked for.
    """
    by_end = suggested.with_columns(pl.col("service_date").dt.offset_by(f"{_WEEK}d"))
    return by_end.join(daily, on=["service_date", "hospital_id"], how="semi")


def realised(
    over: pl.DataFrame, visits: pl.DataFrame, shifts: pl.DataFrame, departments: pl.DataFrame, hospitals: pl.DataFrame
) -> pl.DataFrame:
    """The roster that was worked and the one that was suggested, both simulated on the patients who came.

    Args:
        over: see `weeks_over`.
        visits: fact_emergency_visits; of this and the next, what lies after that day is not used.
    """
    found = departments_known(over, visits, shifts, departments, hospitals)
    rows = [row for known in found for row in _realised(known)]
    return pl.DataFrame(rows, schema=CONTRACTS["kpi_staffing_realised"].polars_schema)


def _realised(known: Known) -> list[dict[str, Any]]:
    import numpy as np

    from hospital_assets.forecasting.learned import came, care_of, places_per_doctor
    from hospital_assets.forecasting.simulate import MEASURES, around, hours_on, measured, placed, waits

    visits, worked = known.seen(), known.worked()
    places = places_per_doctor(visits, *known.spans())
    care = care_of(visits, places or 1, targets())
    if places is None or care is None or not worked:
        return []
    week = _WEEK * 24
    sunday_before = known.as_of - timedelta(days=_WEEK)
    begin = end_of_day(sunday_before, known.time_zone).timestamp() / 3600
    patients = came(visits, care, begin - 24, begin + week, np.random.default_rng(known.seed))
    planned = {
        (((day - sunday_before).days - 1) * 24 + hour, int(length)): count
        for day, hour, length, count in known.ahead.select(
            "target_date", "hour_of_day", "shift_hours", "suggested_count"
        ).iter_rows()
    }
    last_week = replace(known, as_of=sunday_before).worked()
    before = [(start - week, end - week) for start, end in last_week]
    rows = []
    for name, roster in (("present", worked), ("suggested", placed(planned))):
        # Hours since the day before Monday: the queue that there was on Monday morning is there.
        waited = waits(patients, around(before, roster, week), places)
        measures = measured(patients, waited, care, 24, 24 + week)
        rows.append(
            known.row(
                roster=name,
                places_count=places,
                doctor_hours=hours_on(roster),
                arrivals_count=int((patients.arrival >= 24).sum()),
                **{measure: float(value) for measure, value in zip(MEASURES, measures, strict=True)},
            )
        )
    return [] if any(np.isnan(row["wait_mean_minutes"]) for row in rows) else rows
