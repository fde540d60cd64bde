"""Golden cases of pathways, shifts and deterioration, on every engine."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import narwhals as nw
import polars as pl
import pytest

from hospital_assets.assets.facts.vitals import other_observations
from hospital_assets.assets.kpis import deterioration
from hospital_assets.assets.kpis.pathways import handovers, pathways, stages
from hospital_assets.assets.kpis.people import kpi_physician_workload, kpi_physician_workload_daily
from hospital_assets.assets.kpis.shifts import kpi_staffing_hourly, shift_patterns
from hospital_assets.assets.resources import ClockResource
from hospital_assets.checks.accounting import population_count
from hospital_assets.checks.kinds import ADDS_UP, COLUMNS, CONTRACT_KINDS, REFERENCES
from hospital_assets.contracts import CONTRACTS
from hospital_assets.measures.observations import MONITORING_MINUTES
from hospital_assets.warehouse.dialect import Frame
from hospital_assets_tests.engines import Engine
from hospital_assets_tests.helpers import checked
from hospital_assets_tests.test_transforms import collect

DAY = date(2026, 1, 1)
#: Later than everything.
NOW = datetime(2026, 1, 9, tzinfo=UTC)
#: The moment at which the day is over everywhere.
AFTER_DAY = ClockResource(data_dir="nowhere", first_service_date="2026-01-01", last_service_date="2026-01-01")
CLOCKS = ("arrival_at", "triage_at", "room_at", "provider_at", "decision_at", "departure_at", "handover_at")


def clock(text: str | None) -> datetime | None:
    """`10:00` on the day, `+10:00` on the next."""
    if text is None:
        return None
    hour, minute = map(int, text.lstrip("+").split(":"))
    return datetime(2026, 1, 2 if text[0] == "+" else 1, hour, minute, tzinfo=UTC)


def visit(name: str, arrival: str, departure: str | None = None, **values: Any) -> dict[str, Any]:
    clocks = {key: clock(values.pop(key, None)) for key in CLOCKS[1:]}
    return {
        "visit_id": name,
        "service_date": DAY,
        "hospital_id": "H1",
        "department_name": "Emergency",
        "hospital_key": 1,
        "department_key": 1,
        "triage_group": "3",
        "arrival_mode": "walk_in",
        "disposition": "home",
        "is_cancelled": False,
        "age_years": 40,
        "undelivered": "",
        "quality_codes": "",
        **clocks,
        "arrival_at": clock(arrival),
        "departure_at": clock(departure),
        "is_open": departure is None,
        **values,
    }


def frame_of(on: Engine, rows: list[dict[str, Any]], **types: Any) -> Frame:
    schema = {name: pl.Datetime("us", "UTC") for name in CLOCKS if name in rows[0]}
    return on(pl.DataFrame(rows, schema_overrides={**schema, **types}))


def visits(on: Engine, *rows: dict[str, Any]) -> Frame:
    return frame_of(on, list(rows), disposition=pl.String, age_years=pl.Int64)


def of(frame: Frame, **where: Any) -> dict[str, Any]:
    """The one row of the totals, but for `where`."""
    found = collect(frame)
    for name in ("hospital_id", "department_name", "triage_group", "news2_band"):
        if name in found.columns:
            found = found.filter(pl.col(name) == where.pop(name, "all"))
    for name, value in where.items():
        found = found.filter(pl.col(name) == value)
    assert found.height == 1, found
    return found.row(0, named=True)


def adds_up(name: str, frame: Frame) -> None:
    """Every rule of the contract holds (types are the warehouse's), and none that adds up holds by chance."""
    contract = CONTRACTS[name]
    stored = frame.select(*contract.column_names)
    of_values = [kind for kind in CONTRACT_KINDS if kind not in (COLUMNS, REFERENCES)]
    for kind, findings in checked(contract, stored, *of_values).items():
        broken = [found for found in findings if found.broken]
        assert not broken, (kind.name, broken)
    for whole in contract.adds_up:
        spoiled = stored.with_columns(**{whole: nw.col(whole) + 1})
        found = checked(contract, spoiled, ADDS_UP)[ADDS_UP]
        assert any(rule.broken for rule in found), whole


# Stages, pathways, handovers ------------------------------------------------------------------------


def test_stages_count_who_reached_them_and_time_those_with_both_clocks(on: Engine) -> None:
    out = stages(
        visits(
            on,
            visit("A", "10:00", "12:00", triage_at="10:05", room_at="10:25", provider_at="10:45", decision_at="11:30"),
            # Triage before registration: reached, but without minutes.
            visit("B", "10:00", "12:00", triage_at="09:50", room_at="10:10", provider_at="10:20"),
            visit("C", "10:00", "10:30", triage_at="10:15"),
            visit("D", "10:00"),
            visit("E", "10:00", triage_at="10:01", is_cancelled=True),
            visit("F", "10:00", triage_at="10:05", quality_codes="provider_time_unknown"),
        )
    )
    triage = of(out, stage="triage")
    assert (triage["population_count"], triage["excluded_cancelled_count"], triage["denominator_count"]) == (6, 1, 5)
    assert (triage["numerator_count"], triage["timed_count"], triage["untimed_count"]) == (4, 3, 1)
    assert (triage["stage_sum_minutes"], triage["stage_median_minutes"]) == (25.0, 5.0)
    assert triage["value_pct"] == 80.0
    # F was seen, at a time that nobody knows.
    provider = of(out, stage="provider")
    assert (provider["numerator_count"], provider["timed_count"], provider["untimed_count"]) == (3, 2, 1)
    departure = of(out, stage="departure")
    # B left without a decision on record.
    assert (departure["numerator_count"], departure["timed_count"]) == (3, 1)
    assert departure["stage_sum_minutes"] == pytest.approx(30)
    room = of(out, stage="room")
    assert (room["numerator_count"], room["stage_sum_minutes"]) == (2, 40.0)
    adds_up("kpi_stages_daily", out)


def test_pathways_add_up_to_the_visits_that_were_not_cancelled(on: Engine) -> None:
    rows = [
        visit("A", "10:00", "12:00"),
        visit("B", "10:00", "12:00"),
        visit("C", "10:00", "12:00", arrival_mode="ambulance", disposition="admitted"),
        visit("D", "10:00", disposition=None),
        visit("E", "10:00", is_cancelled=True),
        visit("F", "10:00", disposition=None, arrival_mode="other", is_open=False),
    ]
    out = collect(pathways(visits(on, *rows))).sort("visit_count", "disposition")
    assert out.select("arrival_mode", "disposition", "visit_count").rows() == [
        ("ambulance", "admitted", 1),
        ("walk_in", "still open", 1),
        ("other", "unknown", 1),
        ("walk_in", "home", 2),
    ]


def test_handovers_over_a_limit_are_longer_than_it(on: Engine) -> None:
    def came(name: str, handover: str | None, **values: Any) -> dict[str, Any]:
        return visit(name, "10:00", handover_at=handover, **{"arrival_mode": "ambulance", **values})

    out = handovers(
        visits(
            on,
            came("A", "10:15"),
            came("B", "10:16"),
            came("C", "10:31"),
            came("D", "11:01"),
            came("E", None),
            came("F", "09:59"),
            came("G", "10:59", is_cancelled=True),
            # Walked in: no ambulance waits.
            came("H", "10:59", arrival_mode="walk_in"),
        )
    )
    found = of(out)
    assert (found["population_count"], found["denominator_count"], found["numerator_count"]) == (7, 4, 3)
    assert (found["over_30_minutes_count"], found["over_60_minutes_count"]) == (2, 1)
    assert found["handover_sum_minutes"] == 15 + 16 + 31 + 61
    assert [found[f"excluded_{why}_count"] for why in ("cancelled", "no_handover", "negative")] == [1, 1, 1]
    adds_up("kpi_handovers_daily", out)


# Shifts ---------------------------------------------------------------------------------------------


def shift(name: str, doctor: int, start: str, hours: float, hospital: str = "H1") -> dict[str, Any]:
    begins = datetime.fromisoformat(f"2026-{start}").replace(tzinfo=UTC)
    return {
        "shift_id": name,
        "doctor_key": doctor,
        "hospital_id": hospital,
        "time_zone": "UTC",
        "service_date": begins.date(),
        "shift_start_at": begins,
        "shift_end_at": begins + timedelta(hours=hours),
        "shift_hours": hours,
    }


def test_rests_are_counted_by_the_shift_they_come_before(on: Engine) -> None:
    out = shift_patterns(
        on(
            pl.DataFrame(
                [
                    shift("1", 1, "01-01 21:00", 10),
                    # 14 h after a night, a night; then 11 h of rest, which is enough.
                    shift("2", 1, "01-02 21:00", 12),
                    shift("3", 1, "01-03 20:00", 4),
                    # 10.5 h of rest at another hospital.
                    shift("4", 1, "01-04 10:30", 8, "H2"),
                    shift("5", 2, "01-02 08:00", 11.5),
                    # The one before has not ended.
                    shift("6", 2, "01-02 12:00", 4),
                    # Unknown doctors: one key, and perhaps two people.
                    shift("7", -1, "01-05 08:00", 8),
                    shift("8", -1, "01-05 20:00", 8),
                ]
            )
        )
    )
    second = of(out, service_date=date(2026, 1, 2))
    assert (second["shifts_count"], second["long_shifts_count"], second["nights_count"]) == (3, 1, 1)
    assert (second["nights_after_night_count"], second["rests_count"], second["short_rests_count"]) == (1, 1, 0)
    assert (second["excluded_first_count"], second["excluded_overlapping_count"]) == (1, 1)
    assert of(out, service_date=date(2026, 1, 3))["short_rests_count"] == 0
    fourth = of(out, service_date=date(2026, 1, 4), hospital_id="H2")
    assert (fourth["rests_count"], fourth["short_rests_count"]) == (1, 1)
    unknown = of(out, service_date=date(2026, 1, 5))
    assert (unknown["rests_count"], unknown["excluded_first_count"]) == (0, 2)
    adds_up("kpi_shift_patterns_daily", out)


def test_rest_is_measured_from_the_last_end_of_all_earlier_shifts(on: Engine) -> None:
    """A shift may lie within an earlier one: the rest before the night is that after the long one, which ends last."""
    rows = [
        shift("day", 1, "01-01 08:00", 12),
        shift("within", 1, "01-01 09:00", 1),
        shift("night", 1, "01-01 22:00", 8),
        shift("within it", 1, "01-02 00:30", 2),
        shift("next night", 1, "01-02 21:00", 8),
    ]
    out = shift_patterns(on(pl.DataFrame(rows)))
    first, second = (of(out, service_date=date(2026, 1, day)) for day in (1, 2))
    assert (first["rests_count"], first["short_rests_count"], first["excluded_overlapping_count"]) == (1, 1, 1)
    assert (second["rests_count"], second["short_rests_count"], second["excluded_overlapping_count"]) == (1, 0, 1)
    assert (second["nights_count"], second["nights_after_night_count"]) == (1, 1)


def test_staff_stand_beside_the_arrivals_of_the_same_local_hour(on: Engine) -> None:
    arrivals = pl.DataFrame(
        {
            # The last day goes on.
            "service_date": [DAY, DAY, DAY + timedelta(days=1)],
            "hospital_id": ["H1"] * 3,
            "iso_weekday_number": [4, 4, 5],
            "hour_of_day": [9, 10, 9],
            "arrivals_count": [6, 3, 1],
            "existing_hours_count": [1] * 3,
        }
    )
    crowding = pl.DataFrame(
        {
            "service_date": [DAY],
            "hospital_id": ["H1"],
            # 9:00 in Chicago.
            "hour_start_at": [datetime(2026, 1, 1, 15, tzinfo=UTC)],
            "attendings_count": [2],
        }
    )
    hospitals = pl.DataFrame({"hospital_id": ["H1"], "time_zone": ["America/Chicago"]})
    out = kpi_staffing_hourly(on(arrivals), on(crowding), on(hospitals), clock=AFTER_DAY)
    nine, ten = collect(out).sort("hour_of_day").iter_rows(named=True)
    assert (nine["arrivals_count"], nine["attendings_sum_count"], nine["staffed_hours_count"]) == (6, 2, 1)
    assert (ten["arrivals_count"], ten["attendings_sum_count"], ten["staffed_hours_count"]) == (3, 0, 0)


def test_hours_of_doctors_are_those_worked_in_the_emergency_department(on: Engine) -> None:
    """Of two with a shift one is on a ward; tomorrow's shift is known, its patients are not."""
    tomorrow = DAY + timedelta(days=1)
    seen = {"service_date": DAY, "doctor_key": 1, "is_cancelled": False, "is_lwbs": False}
    shifts = pl.DataFrame(
        [(DAY, 1, 1, 8.0), (DAY, 2, 2, 160.0), (tomorrow, 1, 1, 12.0)],
        ["service_date", "doctor_key", "department_key", "shift_hours"],
        orient="row",
    )
    departments = pl.DataFrame({"department_key": [1, 2], "department_name": ["Emergency", "Surgery"]})
    daily = collect(kpi_physician_workload_daily(on(pl.DataFrame([seen] * 4)), on(shifts), on(departments)))
    assert daily.sort("service_date").rows() == [(DAY, 1, 4, 8.0), (tomorrow, 1, 0, 12.0)]
    doctors = pl.DataFrame({"doctor_key": [1, 2], "doctor_id": ["D1", "D2"], "hospital_key": [1, 1]})
    (only,) = collect(kpi_physician_workload(on(daily), on(doctors), clock=AFTER_DAY)).to_dicts()
    assert (only["doctor_key"], only["visits_per_shift_hour"], only["active_days_count"]) == (1, 0.5, 1)


# Deterioration --------------------------------------------------------------------------------------


def observed(name: str, at: str, score: int | None = 0, **values: Any) -> dict[str, Any]:
    """A set of visit `name`; without a score it lacks a parameter."""
    measured = clock(at)
    assert measured is not None
    response = None
    if score is not None:
        response = "emergency" if score >= 7 else "urgent" if score >= 5 else "low"
    return {
        "visit_id": name,
        "observation_id": f"{name} {at}",
        "measured_at": measured,
        "service_date": measured.date(),
        "age_years": 40,
        "news2_score": score,
        "news2_missing_count": 0 if score is not None else 1,
        "news2_response": response,
        "quality_codes": "",
        **values,
    }


BY_DAY = {"quality_codes": "unit_converted;measured_time_unknown"}


def told(
    on: Engine, came: list[dict[str, Any]], sets: list[dict[str, Any]], now: datetime = NOW
) -> tuple[Frame, Frame]:
    """Visits and their sets as the KPIs take them."""
    named = visits(on, *came).drop("hospital_id", "department_name")
    hospitals = on(pl.DataFrame({"hospital_key": [1], "hospital_id": ["H1"]}))
    departments = on(pl.DataFrame({"department_key": [1], "department_name": ["Emergency"]}))
    there = deterioration.present(named, hospitals, departments, nw.lit(now).cast(nw.Datetime("us", "UTC")))
    observations = on(
        pl.DataFrame(
            sets, schema_overrides={"news2_score": pl.Int64, "news2_response": pl.String, "age_years": pl.Int64}
        )
    )
    return there, deterioration.sets_of(there, observations)


def test_scores_stand_by_hour_of_the_visit(on: Engine) -> None:
    _, sets = told(
        on,
        [
            # Triage came first: hours count from there.
            visit("A", "10:00", "13:00", triage_at="09:50"),
            visit("B", "23:30", "+14:00"),
            visit("C", "10:00", "12:00", is_cancelled=True),
        ],
        [
            observed("A", "09:40", 1),
            observed("A", "09:55", 0),
            observed("A", "10:49", 2),
            observed("A", "10:50", 3, news2_response="urgent_ward_review"),
            observed("A", "11:00", None),
            # A red parameter without a whole score is no score.
            observed("A", "11:05", None, news2_response="urgent_ward_review"),
            observed("A", "11:10", 1, age_years=15, news2_score=None, news2_response=None),
            observed("A", "11:20", None, age_years=None, news2_missing_count=0),
            observed("A", "13:01", 5),
            observed("B", "+13:30", 9),
            observed("B", "+11:00", 6),
            observed("C", "10:10", 0),
            # Nobody's.
            observed("X", "10:10", 0),
            # Of no time.
            observed("B", "+11:01", None, **BY_DAY),
        ],
    )
    out = deterioration.news2_by_hour(sets)
    rows = {hour: of(out, hours_since_arrival=hour) for hour in (0, 1, 3, 11, 12)}
    assert sum(row["population_count"] for row in rows.values()) == 12
    first = rows[0]
    assert (first["denominator_count"], first["score_0_count"], first["score_1_to_4_count"]) == (2, 1, 1)
    assert (first["excluded_before_arrival_count"], first["excluded_cancelled_count"]) == (1, 1)
    second = rows[1]
    assert (second["denominator_count"], second["red_parameter_count"], second["score_sum"]) == (1, 1, 3)
    assert second["excluded_incomplete_count"] == 2
    # The two sets of the first hour are of one visit, sets that do not count of none.
    assert (first["scored_visit_count"], rows[3]["scored_visit_count"]) == (1, 0)
    assert (second["excluded_under_16_count"], second["excluded_unknown_age_count"]) == (1, 1)
    assert rows[3]["excluded_after_departure_count"] == 1
    assert rows[11]["score_5_to_6_count"] == 1 and rows[12]["score_7_or_more_count"] == 1
    adds_up("kpi_news2_daily", out)


def test_a_first_full_set_counts_within_each_limit(on: Engine) -> None:
    there, sets = told(
        on,
        [
            visit("on time", "10:00", "13:00"),
            visit("late", "10:00", "13:00"),
            visit("never", "10:00", "13:00"),
            visit("gone early", "10:00", "10:30"),
            visit("child", "10:00", "13:00", age_years=15),
            visit("ageless", "10:00", "13:00", age_years=None),
            visit("cancelled", "10:00", is_cancelled=True),
            # Arrived shortly before midnight, seen on the next day.
            visit("overnight", "23:50", "+03:00"),
        ],
        [
            observed("on time", "10:10", None),
            observed("on time", "10:15"),
            observed("late", "10:16"),
            observed("never", "10:05", None),
            observed("child", "10:05"),
            observed("overnight", "+00:50"),
        ],
    )
    out = deterioration.first_observations(there, sets)
    quick, slow = of(out, limit_minutes=15), of(out, limit_minutes=60)
    assert (quick["population_count"], quick["denominator_count"], quick["numerator_count"]) == (8, 5, 1)
    # Who left after half an hour had a quarter of one, but no hour.
    assert (quick["excluded_left_early_count"], quick["late_count"], quick["no_full_set_count"]) == (0, 2, 2)
    assert (slow["denominator_count"], slow["numerator_count"], slow["excluded_left_early_count"]) == (4, 3, 1)
    for row in (quick, slow):
        assert [row[f"excluded_{why}_count"] for why in ("cancelled", "under_16", "unknown_age")] == [1, 1, 1]
    adds_up("kpi_first_observations_daily", out)
    assert population_count("kpi_first_observations_daily", out, there).passed
    # One way of looking that is not whole is found, whatever the others say.
    short = nw.col("population_count") - (nw.col("limit_minutes") == 60).cast(nw.Int64)
    assert not population_count("kpi_first_observations_daily", out.with_columns(population_count=short), there).passed


def test_who_came_a_moment_ago_is_pending(on: Engine) -> None:
    now = datetime(2026, 1, 1, 10, 20, tzinfo=UTC)
    there, sets = told(on, [visit("V", "10:00")], [observed("V", "10:18", 8)], now)
    quick, slow = (of(deterioration.first_observations(there, sets), limit_minutes=limit) for limit in (15, 60))
    assert (quick["denominator_count"], quick["numerator_count"], slow["numerator_count"]) == (1, 0, 1)
    assert of(deterioration.news2_response(sets))["excluded_not_due_count"] == 1
    assert of(deterioration.observation_frequency(sets))["excluded_not_due_count"] == 1
    there, sets = told(on, [visit("V", "10:00")], [observed("W", "10:18", 8)], now)
    assert of(deterioration.first_observations(there, sets), limit_minutes=60)["excluded_not_due_count"] == 1


def test_the_response_is_counted_from_the_first_emergency_score(on: Engine) -> None:
    came = [
        visit("soon", "10:00", "13:00", provider_at="10:40"),
        visit("late", "10:00", "13:00", provider_at="10:41"),
        visit("before", "10:00", "13:00", provider_at="10:05"),
        visit("gone", "10:00", "10:30", disposition="eloped"),
        visit("left", "10:00", "11:00", disposition="left_without_being_seen"),
        visit("still", "10:00"),
        # Of those the clock is missing: seen at some time, and decided about by somebody.
        visit("somewhen", "10:00", quality_codes="provider_time_unknown"),
        visit("sent home", "10:00", "11:00"),
        visit("admitted", "10:00", "10:30", disposition="admitted"),
        visit("well", "10:00", "13:00", provider_at="12:00"),
        visit("ward", "10:00", "10:05", provider_at="10:20"),
        visit("cancelled", "10:00", "13:00", is_cancelled=True),
    ]
    sets = [observed(v["visit_id"], "10:10", 6 if v["visit_id"] == "well" else 7) for v in came]
    sets += [observed(v["visit_id"], "10:30", 12) for v in came[:2]]
    _, joined = told(on, came, sets, datetime(2026, 1, 1, 14, tzinfo=UTC))
    out = deterioration.news2_response(joined)
    found = of(out)
    # Scores of who felt well, or was gone by then, are none of these visits.
    assert (found["population_count"], found["denominator_count"], found["numerator_count"]) == (10, 4, 1)
    reasons = ("cancelled", "already_seen", "invalid", "left_early", "not_due")
    assert [found[f"excluded_{why}_count"] for why in reasons] == [1, 1, 3, 1, 0]
    assert (found["seen_count"], found["left_unseen_count"], found["waiting_count"]) == (2, 1, 1)
    assert found["response_sum_minutes"] == 30 + 31
    adds_up("kpi_news2_response_daily", out)


def test_repeat_intervals_are_held_against_the_frequency_of_their_score(on: Engine) -> None:
    came = [
        visit("A", "10:00", "+10:00"),
        visit("B", "10:00", "10:40"),
        visit("C", "10:00", "12:00"),
        visit("D", "10:00", "11:00", age_years=15),
    ]
    sets = [
        observed("A", "10:00", 7),
        # 30 minutes: on time. Then an hour and a minute for a 5: late.
        observed("A", "10:30", 5),
        observed("A", "11:31", 4),
        # Six hours for a 4: on time, though the next set is not full.
        observed("A", "17:31", None),
        observed("A", "17:40", 0),
        # 12 h for a 0 end after the departure of C (2 h), and B leaves before the hour is up.
        observed("B", "10:00", 6),
        observed("C", "10:00", 0),
        # An hour was up, and no set came.
        observed("C", "10:30", 3, news2_response="urgent_ward_review"),
        observed("D", "10:00", None, age_years=15),
        # On the ward already: not this department's.
        observed("C", "12:30", 9),
    ]
    _, joined = told(on, came, sets)
    out = deterioration.observation_frequency(joined)
    bands = {band: of(out, news2_band=band) for band in MONITORING_MINUTES}
    assert bands["score_7_or_more"]["numerator_count"] == bands["score_7_or_more"]["denominator_count"] == 1
    five = bands["score_5_to_6"]
    assert (five["late_count"], five["excluded_left_early_count"], five["numerator_count"]) == (1, 1, 0)
    assert bands["score_1_to_4"]["numerator_count"] == 1
    assert (bands["red_parameter"]["missed_count"], bands["red_parameter"]["denominator_count"]) == (1, 1)
    # C's 0 was repeated after half an hour; A's last was not, for 16 hours.
    assert (bands["score_0"]["numerator_count"], bands["score_0"]["missed_count"]) == (1, 1)
    total = of(out)
    assert (total["population_count"], total["denominator_count"], total["numerator_count"]) == (9, 6, 3)
    assert (total["excluded_incomplete_count"], total["excluded_under_16_count"]) == (1, 1)
    assert [total["scored_visit_count"], five["scored_visit_count"]] == [2, 1]
    assert total["interval_sum_minutes"] == 30 + 61 + 360 + 30
    adds_up("kpi_observation_frequency_daily", out)


def test_a_day_whose_sets_of_other_days_have_changed_is_stale(on: Engine) -> None:
    came = [visit("A", "23:30", "+02:00"), visit("B", "10:00", "12:00")]
    sets = [observed("A", "23:45", 1), observed("A", "+00:30", 3), observed("B", "10:10", 2)]

    def stale(stored: Frame, now: list[dict[str, Any]]) -> list[date]:
        there, _ = told(on, came, now)
        observations = on(pl.DataFrame(now, schema_overrides={"news2_score": pl.Int64}))
        return collect(other_observations(stored, observations, there))["service_date"].to_list()

    before = deterioration.news2_by_hour(told(on, came, sets[:1])[1])
    after = deterioration.news2_by_hour(told(on, came, sets)[1])
    assert stale(before, sets) == [DAY]
    assert stale(after, sets) == []
    assert stale(after, [sets[0], {**sets[1], "news2_score": 4}, sets[2]]) == [DAY]
    # One that was taken back.
    assert stale(after, sets[:1]) == [DAY]
    # One of no time.
    assert stale(after, [*sets, observed("A", "+00:40", None, **BY_DAY)]) == []


@pytest.mark.parametrize(("day", "first", "last"), [("06", 4, 10), ("03", 3, 7), ("12", 10, 12)])
def test_sets_are_looked_for_on_the_days_around(day: str, first: int, last: int) -> None:
    days = dg.DailyPartitionsDefinition("2026-01-03", end_date="2026-01-13")
    mapping = deterioration.deterioration.get_partition_mapping(dg.AssetKey("fact_vitals"))
    assert mapping is not None
    asked = days.empty_subset().with_partition_keys([f"2026-01-{day}"])
    found = mapping.get_upstream_mapped_partitions_result_for_partitions(asked, days, days)
    assert list(found.partitions_subset.get_partition_keys()) == [f"2026-01-{n:02}" for n in range(first, last + 1)]
