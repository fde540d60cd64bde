"""Contracts of the forecasts. `service_date` is the as-of day: the last local day that was over when it was made.

Each hospital has a row for each method that was tried, so that skill can be shown later; `is_shipped` marks the one
that readers get. `all` in `hospital_id` is the sum of what ships at the hospitals.
"""

from __future__ import annotations

from hospital_assets.contracts.kpis import ALL
from hospital_assets.contracts.table import Measure, Table, column
from hospital_assets.measures.triage import TRIAGE_GROUPS

#: How a hospital was forecast; the last two where it has less than 14, and less than 3, days of history.
METHODS = ("regression", "boosted_trees", "slot_mean", "network_profile", "prior")
#: How `all` was.
SUM_OF_HOSPITALS = "sum_of_hospitals"
#: Numbers that are not exceeded with a probability of 2.5 to 97.5 %, rising.
QUANTILE_COLUMNS = ("p025_count", "p10_count", "p25_count", "p50_count", "p75_count", "p90_count", "p975_count")
#: Grain -> name and last hour (day) of each horizon band.
BANDS = {
    "hour": (("hours 1-6", 6), ("hours 7-24", 24), ("hours 25-48", 48)),
    "day": (("days 1-2", 2), ("days 3-7", 7), ("days 8-14", 14)),
}

EXPECTED_ARRIVALS = Measure(
    "Expected arrivals",
    "Mean of the forecast, and the numbers of arrivals that are not exceeded with a probability of 2.5 to 97.5 %. "
    "Regression: ridge Poisson regression on hour, weekday, public holidays, season and trend, times the level of the "
    "last ten weeks. Slot mean: mean of the same hour of the week over eight weeks. Both have negative "
    "binomial intervals.",
    "arrivals",
    "arrivals that were not cancelled, by local day and hour (kpi_arrivals_hourly), up to the as-of day",
    "Rostami-Tabar, Browell and Svetunkov 2023 (count regression on the calendar); Hyndman and Athanasopoulos 2021",
    exclusions="arrivals known by their day only, of totals of days, too; days on which nothing was delivered; as-of "
    "days that are not over; of all, those on which a hospital is not known that was the day before.",
    variants="the regression ships where it beat the slot mean in the last 28 forecasts that are over, by hours and by "
    "days, or where there are less than eight weeks of history; boosted trees, where a hospital asks for them, if they "
    "beat what would ship without them likewise. It knows no event that is not in the calendar.",
)
FORECAST_ACCURACY = Measure(
    "Forecast accuracy",
    "Errors of the medians and means, CRPS, and the share of randomised PIT values within the middle 50, 80 and 95 %.",
    "arrivals",
    "stored forecasts of hours and days that are over, of this month and the two or three before",
    "Gneiting and Raftery 2007; Czado, Gneiting and Held 2009; Hyndman and Koehler 2006",
    variants="coverage is that of the randomised PIT, which is the nominal one for a perfect forecast; the share of "
    "counts within closed intervals is larger. The floor of MASE is what is left where all rates are known.",
)

EXPECTED_BY_TRIAGE = Measure(
    "Expected arrivals by triage level",
    "The forecast of arrivals, times the share of the level among those who came in the same local hour in the last "
    "year; hours with few arrivals lean to the share of the whole day.",
    "arrivals",
    "arrivals that were not cancelled, by local day, hour and triage level, up to the as-of day",
    "thinning of a mixed Poisson count",
    exclusions="as those of the forecast of arrivals.",
    variants="means add up over the levels to the forecast that ships; a level's quantiles are those of a count with "
    "the same dispersion.",
)
#: Driver -> the same in words, in the order in which it is taken into account.
DRIVERS = {
    "usual_day": "usual day",
    "weekday": "weekday",
    "season": "season",
    "trend": "trend",
    "holiday": "public holidays",
    "level": "level of the last ten weeks",
}
FORECAST_DRIVERS = Measure(
    "Drivers of the forecast",
    "The arrivals of a usual day, and what weekday, season, trend, public holidays and the level of the last ten weeks "
    "multiply them by, one after the other.",
    "factor",
    "the forecast that ships; the mean of eight weeks knows the weekday only",
    "terms of the regression (log-linear)",
    variants="the factors of a day multiply to its forecast, what they add sums to it; what a driver adds depends on "
    "those before it.",
)

FORECAST_DRIFT = Measure(
    "Forecast drift",
    "CRPS of the forecasts that shipped over what it is in the mean where they are the truth, by week; the mean of "
    "four weeks against the mean and three standard deviations of up to 26 weeks before them.",
    "1",
    "totals of days, one and two days ahead, of weeks that are over",
    "Gneiting and Raftery 2007 (CRPS); Shewhart limits by moving ranges",
    exclusions="weeks of which a day was not forecast, or nothing was delivered.",
    variants="no limit with less than 8 weeks before; looks for worse, not for better.",
)

#: How waits are forecast, and what pages call it.
SAME_HOUR, QUEUE = "same_hour", "queue_simulation"
WAIT_METHODS = {SAME_HOUR: "the same hour of the last 28 days", QUEUE: "the queue, simulated with the known roster"}
#: Why waits are forecast by the method that ships -> the same in words.
WAIT_REASONS = {
    "better": "over the last 28 forecasts whose day has passed, the simulation was better",
    "not_better": "over the last 28 forecasts whose day has passed, the simulation was not clearly better",
    "too_few_forecasts": "fewer than 14 past forecasts can be compared",
    "not_simulated": "the roster of the two days was not known, or too little of the queue to simulate it",
}
#: A mean wait of an hour over this is long (local).
LONG_WAIT_MINUTES = 60
DOCTOR, NURSE = "doctor", "nurse"
#: Rosters that are compared, and what pages call them: that of the last seven days; the one suggested from the
#: forecast; what the same programme makes of the mean week of eight weeks.
ROSTERS = {"present": "present", "suggested": "suggested", "by_shape": "without the forecast"}
#: How the search for a roster ended -> the same in words.
OUTCOMES = {
    "suggested": "a roster is suggested",
    "time_limit": "a roster is suggested, the best found within the time limit",
    "no_gain": "the present roster does as well as any that was found",
    "infeasible": "the rules of [staffing] in hospital.toml cannot be kept with these hours",
    "solver_missing": "no roster is suggested: pip install 'hospital-assets[staffing]'",
    "no_queue": "no roster is suggested: there is hardly ever a queue",
    "no_roster": "no roster is suggested: no shifts are known on some of the last seven days",
    "too_few_visits": "no roster is suggested: there are too few days or visits to learn from",
}

EXPECTED_WAIT = Measure(
    "Expected wait",
    "Median, 10th and 90th percentile of the mean door-to-provider wait of those who come in a local hour, and how "
    "often it is over an hour. Same hour: of the last 28 days. Queue simulation: of two days simulated event by event "
    "from the forecast arrivals, the roster that was known, and treatment, patience, triage mix and patients per "
    "doctor of eight weeks.",
    "min",
    "visits with a valid wait, by local hour of arrival, up to the as-of day",
    "local",
    clock="as door-to-provider wait.",
    exclusions="hours with a wait on fewer than half of the days, or in fewer than half of the simulations; who left "
    "unseen.",
    variants="the simulation ships where it beat the same hour in the last 28 forecasts that are over, by the errors "
    "of medians and by the pinball loss of 90th percentiles (forecast_wait_methods). It needs a roster that differs "
    "from day to day; with the same one every day it does not do better two days ahead.",
)
WAIT_ACCURACY = Measure(
    "Accuracy of expected waits",
    "Errors of the medians, pinball losses of the percentiles, and the share of hours whose mean wait lay between the "
    "10th and the 90th.",
    "min",
    "stored forecasts of hours that are over and in which somebody was seen, of this month and the two or three before",
    "Koenker and Bassett 1978 (pinball loss)",
    clock="as door-to-provider wait.",
    exclusions="waits that had not ended at the end of the day after.",
    variants="the skill compares the hours that both methods forecast; negative where the same hour was better.",
)
BEDS_FORECAST = Measure(
    "Beds needed",
    "Those who are in by the chance that they still are (Kaplan-Meier survival of the department's stays of 180 days, "
    "by how long each has been in), and those to come by the mean admissions of the same hour of the week over eight "
    "weeks and the chance to be there still: mean of the day, the numbers of patients that at a moment of "
    "the day are not exceeded with a probability of 10 to 90 %, and the chance of more than the staffed beds.",
    "patients",
    "inpatient departments with admissions for a week or more, up to the as-of day",
    "Kaplan and Meier 1958; infinite-server queue",
    exclusions="as-of days that arrivals at the hospital are not forecast from; stays that nobody ended and that count "
    "as over (beds).",
    variants="demand is not cut at the beds there are. Patients of the emergency department who wait for a bed are not "
    "distinguished from others to come; admissions do not follow the forecast of arrivals.",
)
STAFF_NEEDED = Measure(
    "Staff needed",
    "Doctors: the fewest with whom the share of patients that [staffing] asks for is seen in time (Erlang C), at the "
    "offered load of the hour on a day that only one in ten exceeds. Nurses: patients there by triage level over the "
    "patients per nurse, rounded up, and the fixed posts.",
    "doctors, nurses",
    "emergency departments, hours of the week after each Sunday",
    "Green, Kolesar and Whitt 2007 (offered load); ratios: RCN and RCEM 2020, and the NICE draft of 2015, which was "
    "withdrawn",
    exclusions="hospitals with less than 14 days or 100 visits to learn from; boarders, who need nurses, too.",
    variants="a need, no gap, of nurses: no roster of nurses is landed.",
)
ROSTER_COMPARED = Measure(
    "Rosters compared",
    "Mean and 90th percentile of the wait for a doctor, left unseen, and seen within the target of the triage level, "
    "by the present and the suggested roster, on the same simulated patients; means and the middle 80 % of the weeks "
    "simulated. The suggested roster is the integer programme's that saves most waiting with the same doctors' hours.",
    "min, %",
    "simulated weeks after each Sunday",
    "event simulation with arrivals as forecast; treatment, patience, triage mix and patients per doctor of the last "
    "eight weeks",
    exclusions="who left unseen has no wait, and was not seen within the target.",
    variants="what the roster by shape gains does not rest on the forecast. A suggestion: it changes nothing.",
)


class Forecast(Table, layer="forecasts"):
    """A row of forecasts."""


class Distribution(
    Forecast,
    partitioned=True,
    columns=f"""
        hospital_id method existing_hours expected_arrivals count_dispersion {" ".join(QUANTILE_COLUMNS)} is_shipped
    """,
):
    """A forecast distribution of arrivals."""

    service_date = column("The as-of day: nothing after it was used.")
    hospital_id = column("`all`: the sum of what ships.", references="")
    method = column(isin=[*METHODS, SUM_OF_HOSPITALS])


class ForecastArrivalsHourly(
    Distribution,
    name="forecast_arrivals_hourly",
    grain="one as-of day, hospital, local hour of the two days ahead, and method",
    key=("service_date", "hospital_id", "target_date", "hour_of_day", "method"),
    columns="horizon_hours",
    measures=[EXPECTED_ARRIVALS],
):
    """Arrivals expected in each local hour of the next two days."""

    hour_of_day = column(ge=0, le=23)
    existing_hours = column("0 when clocks go forward, 2 when they go back.", ge=0, le=2)


class ForecastArrivalsDaily(
    Distribution,
    name="forecast_arrivals_daily",
    grain="one as-of day, hospital, local day of the two weeks ahead, and method",
    key=("service_date", "hospital_id", "target_date", "method"),
    columns="horizon_days holiday_name",
    measures=[EXPECTED_ARRIVALS],
):
    """Arrivals expected on each local day of the next two weeks."""

    existing_hours = column("Of all hospitals, where it is their sum.")


class TriageDistribution(
    Forecast,
    partitioned=True,
    columns=f"""
        hospital_id triage_group existing_hours expected_arrivals count_dispersion {" ".join(QUANTILE_COLUMNS)}
    """,
    measures=[EXPECTED_BY_TRIAGE],
):
    """A forecast distribution of the arrivals of a triage level."""

    service_date = column("The as-of day: nothing after it was used.")
    hospital_id = column("`all`: the sum of the hospitals.", references="")
    triage_group = column("Triage level, or `untriaged`.", isin=TRIAGE_GROUPS)


class ForecastTriageHourly(
    TriageDistribution,
    name="forecast_triage_hourly",
    grain="one as-of day, hospital, local hour of the two days ahead, and triage level",
    key=("service_date", "hospital_id", "target_date", "hour_of_day", "triage_group"),
    columns="horizon_hours",
):
    """Arrivals of each triage level expected in each local hour of the next two days."""

    hour_of_day = column(ge=0, le=23)
    existing_hours = column("0 when clocks go forward, 2 when they go back.", ge=0, le=2)


class ForecastTriageDaily(
    TriageDistribution,
    name="forecast_triage_daily",
    grain="one as-of day, hospital, local day of the two weeks ahead, and triage level",
    key=("service_date", "hospital_id", "target_date", "triage_group"),
    columns="horizon_days",
):
    """Arrivals of each triage level expected on each local day of the next two weeks."""

    existing_hours = column("Of all hospitals, where it is their sum.")


class ForecastDrivers(
    Forecast,
    name="forecast_drivers",
    grain="one as-of day, hospital, local day of the two weeks ahead, and driver",
    key=("service_date", "hospital_id", "target_date", "driver"),
    columns="driver_rank factor added_arrivals",
    measures=[FORECAST_DRIVERS],
    partitioned=True,
):
    """What moves the forecast of each day away from the usual day; drivers that move nothing have no row."""

    hospital_id = column("`all`: all hospitals.", references="")
    driver = column(isin=[*DRIVERS])


class ForecastModels(
    Forecast,
    name="forecast_models",
    grain="one as-of day and hospital",
    key=("service_date", "hospital_id"),
    columns="""
        method training_days_count training_to_date level_factor holiday_calendar calendar_version
        hour_origins_count hour_skill_pct is_hour_gate_passed day_origins_count day_skill_pct is_day_gate_passed
    """,
    partitioned=True,
):
    """Which method ships at each hospital, what it was learned from, and what the gate found."""

    method = column("The one that ships.", isin=METHODS)


class KpiForecastAccuracy(
    Forecast,
    name="kpi_forecast_accuracy",
    grain="one month of forecast days, hospital, grain, horizon band and method",
    key=("period_month", "hospital_id", "grain", "horizon_band", "method"),
    columns="""
        forecasts_count shipped_count arrivals_count mae mase floor_mase bias bias_error pinball_10 pinball_50
        pinball_90 crps pit_50_pct pit_80_pct pit_95_pct skill_pct
    """,
    measures=[FORECAST_ACCURACY],
):
    """How good the stored forecasts were."""

    hospital_id = column("`all`: the sum of what shipped.", references="")
    horizon_band = column("`all`: pooled.", isin=[ALL, *(name for bands in BANDS.values() for name, _ in bands)])
    method = column(isin=[*METHODS, SUM_OF_HOSPITALS])
    arrivals_count = column("That came in the hours or days forecast, each counted once per forecast.")


class KpiForecastDrift(
    Forecast,
    name="kpi_forecast_drift",
    grain="one week and hospital",
    key=("week_end_date", "hospital_id"),
    columns="""
        forecasts_count crps expected_crps crps_ratio recent_ratio baseline_weeks_count limit_ratio is_drifting
    """,
    measures=[FORECAST_DRIFT],
):
    """Whether forecasts have become worse than they were."""

    hospital_id = column("`all`: the sum of what shipped.", references="")


class ForecastWaitsHourly(
    Forecast,
    name="forecast_waits_hourly",
    grain="one as-of day, hospital, local hour of the two days ahead, and method",
    key=("service_date", "hospital_id", "target_date", "hour_of_day", "method"),
    columns="""
        horizon_hours days_count expected_arrivals
        mean_wait_p10_minutes mean_wait_p50_minutes mean_wait_p90_minutes over_60_pct within_target_pct
    """,
    measures=[EXPECTED_WAIT],
    partitioned=True,
):
    """Waits of those who come in each local hour of the next two days, as a band, by each method.

    Join `forecast_wait_methods` on as-of day, hospital and method for the one that readers get.
    """

    hour_of_day = column(ge=0, le=23)
    method = column(
        "`same_hour`: as in the same hour of the last 28 days; `queue_simulation`: from forecast arrivals and the "
        "known roster.",
        isin=[*WAIT_METHODS],
    )


class ForecastWaitMethods(
    Forecast,
    name="forecast_wait_methods",
    grain="one as-of day and hospital",
    key=("service_date", "hospital_id"),
    columns="""
        method method_reason origins_count median_skill_pct high_skill_pct is_median_gate_passed is_high_gate_passed
    """,
    measures=[EXPECTED_WAIT],
    partitioned=True,
):
    """By which method waits are forecast at each hospital, and why."""

    method = column("The one that ships.", isin=[*WAIT_METHODS])
    method_reason = column(isin=[*WAIT_REASONS])


class KpiWaitForecastAccuracy(
    Forecast,
    name="kpi_wait_forecast_accuracy",
    grain="one month of forecast days, hospital, horizon band and method",
    key=("period_month", "hospital_id", "horizon_band", "method"),
    columns="""
        forecasts_count shipped_count wait_mean_minutes wait_mae_minutes wait_bias_minutes
        wait_pinball_10_minutes wait_pinball_50_minutes wait_pinball_90_minutes inside_80_pct
        compared_count wait_skill_pct
    """,
    measures=[WAIT_ACCURACY],
):
    """How good the stored forecasts of waits were."""

    horizon_band = column("`all`: pooled.", isin=[ALL, *(name for name, _ in BANDS["hour"])])
    method = column(isin=[*WAIT_METHODS])
    wait_mean_minutes = column("Mean of the hours' mean waits that came.")


class ForecastBedsDaily(
    Forecast,
    name="forecast_beds_daily",
    grain="one as-of day, hospital, inpatient department and local day of the week ahead",
    key=("service_date", "hospital_id", "department_name", "target_date"),
    columns="""
        horizon_days expected_patients patients_in patients_to_come patients_p10_count patients_p50_count
        patients_p90_count bed_capacity over_capacity_pct
    """,
    measures=[BEDS_FORECAST],
    partitioned=True,
):
    """Patients expected in each inpatient department on each of the next seven days."""

    hospital_id = column("`all`: all hospitals.", references="")
    department_name = column("`all inpatient`: all of the hospital.")


class StaffingNeedHourly(
    Forecast,
    name="staffing_need_hourly",
    grain="one as-of day (Sundays), hospital, local hour of the week ahead, and role",
    key=("service_date", "hospital_id", "target_date", "hour_of_day", "staff_role"),
    columns="""
        expected_arrivals offered_load places_count needed_count least_count present_count suggested_count gap_count
    """,
    measures=[STAFF_NEEDED],
    partitioned=True,
):
    """Doctors and nurses needed in each hour of the week ahead, beside those who are on."""

    hour_of_day = column(ge=0, le=23)
    places_count = column("Of doctors.")
    least_count = column("Of doctors.")
    present_count = column("Of doctors, in the middle of the hour.")


class StaffingShiftsSuggested(
    Forecast,
    name="staffing_shifts_suggested",
    grain="one as-of day (Sundays), hospital, day and hour of start, and length; present or suggested",
    key=("service_date", "hospital_id", "target_date", "hour_of_day", "shift_hours"),
    columns="present_count suggested_count change_count",
    measures=[ROSTER_COMPARED],
    partitioned=True,
):
    """Doctors' shifts of the week ahead as suggested, beside those of the week before; empty without a suggestion."""

    hour_of_day = column("In which the shift starts, rounded; halves down, and likewise its end.", ge=0, le=23)
    shift_hours = column("Between both.", gt=0)
    present_count = column(nullable=False)
    suggested_count = column(nullable=False)


class KpiStaffingComparison(
    Forecast,
    name="kpi_staffing_comparison",
    grain="one as-of day (Sundays), hospital and roster",
    key=("service_date", "hospital_id", "roster"),
    columns="""
        suggestion_outcome places_count budget_hours doctor_hours moved_hours replicates_count
        wait_mean_minutes wait_mean_low_minutes wait_mean_high_minutes
        wait_p90_minutes wait_p90_low_minutes wait_p90_high_minutes
        unseen_pct unseen_low_pct unseen_high_pct
        within_target_pct within_target_low_pct within_target_high_pct
        better_weeks_pct
    """,
    measures=[ROSTER_COMPARED],
    partitioned=True,
):
    """How the present and the suggested roster do in the week ahead, simulated; and why none is suggested."""

    roster = column(
        "`present`: of the last seven days; `suggested`: from the forecast; `by_shape`: likewise from the mean week of "
        "eight weeks.",
        isin=[*ROSTERS],
    )
    suggestion_outcome = column(isin=[*OUTCOMES])
    doctor_hours = column("Of the present roster as it was worked; suggested shifts are of whole hours.")
    wait_p90_minutes = column("Mean of the simulated weeks.")


class KpiStaffingRealised(
    Forecast,
    name="kpi_staffing_realised",
    grain="one last day of a week (Sundays), hospital and roster",
    key=("service_date", "hospital_id", "roster"),
    columns="""
        places_count doctor_hours arrivals_count wait_mean_minutes wait_p90_minutes unseen_pct within_target_pct
    """,
    measures=[ROSTER_COMPARED],
    partitioned=True,
):
    """What the suggestion of the Sunday before would have done with the patients who came, beside the roster worked."""

    roster = column("`present`: as it was worked; `suggested`: as it was suggested.", isin=["present", "suggested"])
    arrivals_count = column("Of the week.")


TABLES = (
    ForecastArrivalsHourly,
    ForecastArrivalsDaily,
    ForecastTriageHourly,
    ForecastTriageDaily,
    ForecastDrivers,
    ForecastModels,
    KpiForecastAccuracy,
    KpiForecastDrift,
    ForecastWaitsHourly,
    ForecastWaitMethods,
    KpiWaitForecastAccuracy,
    ForecastBedsDaily,
    StaffingNeedHourly,
    StaffingShiftsSuggested,
    KpiStaffingComparison,
    KpiStaffingRealised,
)
