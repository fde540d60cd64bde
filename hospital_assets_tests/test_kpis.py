"""The golden cases of the KPI catalogue, on every engine; usual wrong answers must not come out."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from typing import Any

import narwhals as nw
import polars as pl
import pytest

from hospital_assets.assets.dimensions.persons import surviving
from hospital_assets.assets.facts.emergency_visits import measured
from hospital_assets.assets.facts.undelivered import undelivered
from hospital_assets.assets.kpis.chance import whole_days, with_funnel_limits
from hospital_assets.assets.kpis.crowding import (
    crowding,
    days_looked_at,
    edwin,
    nedocs,
    nedocs_level,
    on_days_with_patients,
    with_presence,
)
from hospital_assets.assets.kpis.emergency import (
    admitted_to,
    boarding,
    critical_waits,
    ecat,
    four_hour,
    lwbs,
    op18,
    seen_on_time,
    with_z_scores,
)
from hospital_assets.assets.kpis.occupancy import department_flow, occupancy, peaks
from hospital_assets.assets.kpis.people import with_chance_limits
from hospital_assets.assets.kpis.readmissions import inpatient_stays, readmissions
from hospital_assets.assets.kpis.returns import known_until, returns
from hospital_assets.assets.kpis.stays import before_noon, length_of_stay, overstays
from hospital_assets.checks.kinds import ADDS_UP
from hospital_assets.contracts import CONTRACTS
from hospital_assets.landing.profile import canonical_columns
from hospital_assets.landing.registry import load_profiles
from hospital_assets.measures.condition_groups import GROUPS
from hospital_assets.measures.natural_limits import BASELINE_POINTS, Assurance, Better, assurance, with_natural_limits
from hospital_assets.warehouse.dialect import Frame, checkpoint, explode_days, hash_keys, lazy
from hospital_assets_tests.engines import Engine
from hospital_assets_tests.helpers import checked
from hospital_assets_tests.test_transforms import VISIT_TYPES, at, collect, events

DAY = date(2026, 1, 1)


def clock(text: str | None) -> datetime | None:
    return None if text is None else at(f"2026-{text}")


def fact(name: str, arrival: str, departure: str | None = None, **values: Any) -> dict[str, Any]:
    """A visit as `measured` takes it; clocks as `01-01 10:00`."""
    clocks = {
        key: clock(values.pop(key, None))
        for key in ("triage_at", "provider_at", "decision_at", "handover_at", "room_at")
    }
    return {
        "visit_id": name,
        "arrival_at": clock(arrival),
        "departure_at": clock(departure),
        **clocks,
        "disposition": "home",
        "triage_level": 3,
        "birth_date": None,
        "age_at_extract_years": 40,
        "doctor_id": "D1",
        "doctor_key": 5,
        "triage_key": 13,
        "condition_key": 7,
        "arrival_local": clock(arrival).replace(tzinfo=None),  # type: ignore[union-attr]
        "_provider_local": None,
        "_departure_local": None,
        "is_cancelled": False,
        "arrival_mode": "walk_in",
        "hospital_id": "H1",
        "service_date": DAY,
        "quality_codes": "",
        "is_mental_health": False,
        "person_key": 1,
        "undelivered": "",
        **values,
    }


def visits(on: Engine, *rows: dict[str, Any]) -> Frame:
    frame = pl.DataFrame(list(rows), schema_overrides=VISIT_TYPES)
    days = pl.coalesce("departure_at", "arrival_at").dt.date().alias("period_date")
    return measured(on(frame.with_columns(days)))


def of(frame: Frame, **where: Any) -> dict[str, Any]:
    """The one row of the totals (or of `where`)."""
    found = collect(frame)
    for name, value in ({"hospital_id": "all"} | where).items():
        found = found.filter(pl.col(name) == value)
    assert found.height == 1, found
    return found.row(0, named=True)


def adds_up(name: str, frame: Frame) -> None:
    """The table's own conservation rule holds, and breaks when a count is changed."""
    contract = CONTRACTS[name]
    for spoiled, broken in (
        (frame, False),
        (frame.with_columns(population_count=nw.col("population_count") + 1), True),
    ):
        assert any(found.broken for found in checked(contract, spoiled, ADDS_UP)[ADDS_UP]) is broken


# G3 LWBS ------------------------------------------------------------------------------------------


def test_lwbs(on: Engine) -> None:
    rows = [fact(f"V{n}", "01-01 10:00", "01-01 12:00", provider_at="01-01 10:30") for n in range(7)]
    rows.append(fact("L", "01-01 10:00", "01-01 12:00", disposition="left_without_being_seen"))
    rows.append(
        fact("A", "01-01 10:00", "01-01 12:00", provider_at="01-01 10:30", disposition="against_medical_advice")
    )
    rows.append(fact("C", "01-01 10:00", is_cancelled=True, disposition="left_without_being_seen"))
    out = of(lwbs(visits(on, *rows)))
    assert (out["population_count"], out["numerator_count"], out["denominator_count"]) == (10, 1, 9)
    assert round(out["value_pct"], 2) == 11.11
    assert out["excluded_cancelled_count"] == 1
    adds_up("kpi_lwbs_daily", lwbs(visits(on, *rows)).select(*CONTRACTS["kpi_lwbs_daily"].column_names))


def test_lwbs_goes_by_what_happened_not_by_the_code(on: Engine) -> None:
    seen = {"provider_at": "01-01 10:30"}
    rows = [
        fact("a", "01-01 10:00", "01-01 12:00", disposition="eloped"),
        fact("b", "01-01 10:00", "01-01 12:00", disposition="against_medical_advice"),
        fact("c", "01-01 10:00", "01-01 12:00", disposition="left_without_being_seen", **seen),
        fact("d", "01-01 10:00", "01-01 12:00", disposition="eloped", **seen),
        fact("e", "01-01 10:00", "01-01 12:00", disposition="home", **seen),
        fact("f", "01-01 10:00", "01-01 12:00", disposition="home"),
    ]
    out = of(lwbs(visits(on, *rows)))
    assert (out["numerator_count"], out["denominator_count"]) == (2, 6)
    # Seen on that day, at a time that nobody knows.
    somewhen = fact("g", "01-01 10:00", "01-01 12:00", disposition="eloped", quality_codes="provider_time_unknown")
    out = of(lwbs(visits(on, *rows, somewhen)))
    assert (out["numerator_count"], out["denominator_count"]) == (2, 7)
    # A source without dispositions cannot be judged: no rate, not one of 0 %.
    none = [fact(f"n{n}", "01-01 10:00", "01-01 12:00", disposition=None, **seen) for n in range(3)]
    out = of(lwbs(visits(on, *none)))
    assert (out["numerator_count"], out["denominator_count"], out["excluded_unknown_count"]) == (0, 0, 3)
    assert out["value_pct"] is None
    end = nw.lit(at("2026-01-20 00:00")).cast(nw.Datetime("us", "UTC"))
    back = of(returns(visits(on, *none), end), variant="discharged")
    assert (back["denominator_count"], back["excluded_unknown_count"], back["value_pct"]) == (0, 3, None)


def test_a_provider_after_departure_is_no_wait(on: Engine) -> None:
    rows = [
        fact("a", "01-01 10:00", "01-01 11:00", provider_at="01-01 11:30"),
        fact("b", "01-01 10:00", "01-01 11:00", provider_at="01-01 11:00"),
        fact("c", "01-01 10:00", None, provider_at="01-01 11:30"),
    ]
    frame = collect(visits(on, *rows)).sort("visit_id")
    assert frame["wait_exclusion"].to_list() == ["after_departure", None, None]
    assert frame["wait_minutes"].to_list() == [None, 60.0, 90.0]


def test_an_ambulance_gone_before_the_clock_starts_is_within_four_hours(on: Engine) -> None:
    by_ambulance = {"arrival_mode": "ambulance", "handover_at": "01-01 10:20"}
    rows = [
        fact("a", "01-01 10:00", "01-01 10:10", **by_ambulance),
        fact("b", "01-01 10:00", "01-01 09:50", **by_ambulance),  # gone before it came
        fact("c", "01-01 10:00", "01-01 10:00"),
    ]
    assert collect(visits(on, *rows)).sort("visit_id")["four_hour_minutes"].to_list() == [0.0, None, 0.0]


# G4 OP-18 -----------------------------------------------------------------------------------------


def stay(name: str, minutes: int | None, **values: Any) -> dict[str, Any]:
    start = datetime(2026, 1, 1, 10)
    end = None if minutes is None else start + timedelta(minutes=minutes)
    return fact(name, "01-01 10:00", None if end is None else f"{end:%m-%d %H:%M}", **values)


def test_op18(on: Engine) -> None:
    rows = [
        stay("a", 120),
        stay("b", 180),
        stay("c", 200),
        stay("d", 300, disposition="transferred"),
        stay("e", 400, is_mental_health=True),
        stay("f", 240, disposition="admitted"),
        stay("g", 60, disposition="against_medical_advice"),
        stay("h", 30, disposition="expired"),
        stay("i", None),
    ]
    out = op18(visits(on, *rows))
    medians = {s: of(out, stratum=s)["median_minutes"] for s in ("all", "reported", "mental_health", "transferred")}
    assert medians == {"all": 200.0, "reported": 180.0, "mental_health": 400.0, "transferred": 300.0}
    reported = of(out, stratum="reported")
    assert reported["denominator_count"] == 3 and reported["population_count"] == 9
    assert reported["excluded_other_stratum_count"] == 2
    adds_up("kpi_op18", out.select(*CONTRACTS["kpi_op18"].column_names))


def test_op18_of_an_even_number_is_the_mean_of_the_middle_two(on: Engine) -> None:
    out = op18(visits(on, stay("a", 100), stay("b", 200), stay("c", 300), stay("d", 500)))
    assert of(out, stratum="reported")["median_minutes"] == 250.0


# G5 ECAT ------------------------------------------------------------------------------------------


def roomed(name: str, seconds: int, stay_minutes: int = 200, **values: Any) -> dict[str, Any]:
    start = datetime(2026, 1, 1, 10, tzinfo=UTC)
    row = fact(name, "01-01 10:00", **values)
    return row | {
        "room_at": start + timedelta(seconds=seconds),
        "departure_at": start + timedelta(minutes=stay_minutes),
    }


def boarded(name: str, minutes: int) -> dict[str, Any]:
    end = datetime(2026, 1, 1, 10, tzinfo=UTC) + timedelta(minutes=300)
    return roomed(name, 600, 300, disposition="admitted") | {"decision_at": end - timedelta(minutes=minutes)}


def test_ecat(on: Engine) -> None:
    rows = [
        roomed("E1", 3600),
        roomed("E2", 3659),
        roomed("E3", 3660),
        fact("E4", "01-01 10:00", "01-01 11:00", disposition="left_without_being_seen"),
        boarded("E5", 240),
        boarded("E6", 241),
        roomed("E7", 600, 481, disposition="observation"),
        roomed("E8", 600, 481),
        roomed("E9", 4500, 500),
        # Ends in the next year.
        roomed("E10", 9000)
        | {"arrival_at": at("2026-12-31 23:00"), "room_at": None, "departure_at": at("2027-01-01 01:00")},
        roomed("E11", 3660, 500, disposition="observation"),
    ]
    out = ecat(visits(on, *rows))
    year = of(out, stratum="all", period_year=2026)
    assert (year["numerator_count"], year["denominator_count"], year["value_pct"]) == (6, 10, 60.0)
    counts = [year[f"{part}_count"] for part in ("room", "left", "boarded", "long_stay")]
    assert counts == [3, 1, 1, 2]  # E9 is in two components and counts once
    assert of(out, stratum="all", period_year=2027)["denominator_count"] == 1


def test_ecat_strata(on: Engine) -> None:
    rows = [
        fact("a", "01-01 10:00", "01-01 11:00", age_at_extract_years=17),
        fact("b", "01-01 10:00", "01-01 11:00", age_at_extract_years=18),
        fact("c", "01-01 10:00", "01-01 11:00", age_at_extract_years=18, is_mental_health=True),
        fact("d", "01-01 10:00", "01-01 11:00", age_at_extract_years=None),
    ]
    out = collect(ecat(visits(on, *rows))).filter(pl.col("hospital_id") == "all")
    assert dict(out.select("stratum", "population_count").iter_rows()) == {
        "all": 4,
        "under_18": 1,
        "18_and_over": 1,
        "18_and_over_mental_health": 1,
    }


def test_ecat_z_scores(on: Engine) -> None:
    schema = {"period_year": 2026, "stratum": "all"}
    rates = pl.DataFrame(
        [
            {
                **schema,
                "hospital_id": name,
                "population_count": count,
                "excluded_cancelled_count": cancelled,
                "value_pct": value,
            }
            for name, count, cancelled, value in (
                ("A", 15_000, 0, 10.0),
                ("B", 20_500, 501, 20.0),
                ("C", 100, 0, 30.0),
                ("D", 20_000, 0, 50.0),
                ("E", 9_000, 0, 90.0),
                ("F", 9_000, 0, 90.0),
                ("all", 73_600, 501, 20.0),
            )
        ]
    )
    # E began on the second day of the year, F has not got beyond its last one.
    first, after = date(2026, 1, 1), date(2027, 1, 1)
    known = {**dict.fromkeys("ABCD", (first, after)), "E": (date(2026, 1, 2), after), "F": (first, date(2026, 12, 31))}
    spans = pl.DataFrame(
        [(name, *days) for name, days in known.items()], ["hospital_id", "first_date", "last_date"], orient="row"
    )
    out = collect(with_z_scores(on(rates), on(spans))).sort("hospital_id")
    scores = dict(out.select("hospital_id", "z_score").iter_rows())
    # The sample standard deviation: the population's would give 1.2247. D is alone in its band.
    assert [scores[name] for name in "ABC"] == [-1.0, 0.0, 1.0]
    assert {scores[name] for name in ("D", "E", "F", "all")} == {None}
    bands = dict(out.select("hospital_id", "volume_band").iter_rows())
    assert bands["B"] == "0-19999" and bands["D"] == "20000-39999"
    assert {bands[name] for name in ("E", "F", "all")} == {None}


# G6 four hours ------------------------------------------------------------------------------------


def test_four_hours(on: Engine) -> None:
    ambulance = {"arrival_mode": "ambulance"}
    rows = [
        fact("a", "01-01 10:00", "01-01 14:00"),
        fact("b", "01-01 10:00", "01-01 14:01"),
        fact("c", "01-01 10:00", "01-01 14:14", handover_at="01-01 10:40", **ambulance),
        fact("d", "01-01 10:00", "01-01 14:06", handover_at="01-01 10:05", **ambulance),
        fact("e", "01-01 23:00", "01-02 02:30"),
        fact("open", "01-01 10:00"),
        fact("reversed", "01-01 10:00", "01-01 09:00"),
    ]
    frame = visits(on, *rows)
    minutes = dict(collect(frame).select("visit_id", "four_hour_minutes").iter_rows())
    assert [minutes[name] for name in "abcde"] == [240.0, 241.0, 239.0, 241.0, 210.0]
    assert minutes["open"] is None and minutes["reversed"] is None
    out = collect(four_hour(frame)).filter(pl.col("hospital_id") == "all")
    assert out["numerator_count"].sum() * 100 / out["denominator_count"].sum() == 60.0
    # Counted on the day of departure.
    second = out.filter(pl.col("period_date") == date(2026, 1, 2))
    assert second["numerator_count"].to_list() == [1]
    assert out["excluded_open_count"].sum() == 1 and out["excluded_negative_count"].sum() == 1


def test_who_left_at_an_unknown_time_of_a_known_day_is_not_there(on: Engine) -> None:
    """Over, and without a length: left out by its own reason, never as still there; an open visit stays open."""
    by_day = {"quality_codes": "departure_time_unknown"}
    admitted = {"disposition": "admitted", "destination_department": "ICU", "decision_at": "01-01 12:00"}
    rows = [
        fact("timed", "01-01 10:00", "01-01 12:00", **{**admitted, "disposition": "home"}),
        fact("by_day", "01-01 10:00", **by_day, **admitted),
        fact("unsaid", "01-01 10:00", person_key=2, destination_department="ICU", disposition=None, **by_day),
        fact("open", "01-01 10:00", person_key=3, **admitted),
    ]
    frame = visits(on, *rows)
    end = nw.lit(at("2026-01-20 00:00")).cast(nw.Datetime("us", "UTC"))
    hours = collect(four_hour(frame)).filter(pl.col("hospital_id") == "all")
    found = {
        "four hours": {name: hours[name].sum() for name in hours.columns if name.endswith("_count")},
        "ecat": of(ecat(frame), stratum="all"),
        "returns": of(returns(frame, end), variant="discharged"),
        "boarding": of(boarding(frame.filter(nw.col("disposition") == "admitted")), destination_department="all"),
    }
    counts = {
        name: (row["denominator_count"], row["excluded_open_count"], row["excluded_untimed_count"])
        for name, row in found.items()
    }
    assert counts == {
        "four hours": (1, 1, 2),
        "ecat": (1, 1, 2),
        # Nor is the second visit of the person under way when the first ends.
        "returns": (1, 1, 2),
        "boarding": (0, 1, 1),
    }


def test_an_ambulance_without_a_handover_has_fifteen_minutes(on: Engine) -> None:
    frame = visits(on, fact("a", "01-01 10:00", "01-01 14:15", arrival_mode="ambulance"))
    assert collect(frame)["four_hour_minutes"].to_list() == [240.0]


# Boarding, targets --------------------------------------------------------------------------------


def test_boarding(on: Engine) -> None:
    admitted = {"disposition": "admitted", "destination_department": "ICU"}
    rows = [
        fact("a", "01-01 10:00", "01-01 16:00", decision_at="01-01 12:00", **admitted),
        fact("b", "01-01 10:00", "01-01 16:01", decision_at="01-01 12:00", **admitted),
        fact("c", "01-01 10:00", "01-01 16:00", **admitted),
        fact("d", "01-01 10:00", "01-01 11:00", decision_at="01-01 12:00", **admitted),
        fact("e", "01-01 10:00", decision_at="01-01 12:00", **admitted),
    ]
    out = of(boarding(visits(on, *rows)), destination_department="all")
    assert (out["denominator_count"], out["numerator_count"]) == (2, 1)
    assert out["boarding_sum_minutes"] == 481.0 and out["boarding_median_minutes"] == 240.5
    assert (out["excluded_open_count"], out["excluded_no_decision_count"], out["excluded_negative_count"]) == (1, 1, 1)


def test_who_boards_is_admitted_to_where_he_goes(on: Engine) -> None:
    departments = pl.DataFrame(
        {"department_key": [-1, 1, 2, 3], "department_name": ["Unknown", "Emergency", "ICU", "Surgery"]}
    )
    # Of each visit when it ended, and the segments of its stay.
    told: dict[str, tuple[str, list[tuple[str, int, str]]]] = {
        "ICU": ("01-01 12:00", [("emergency", 1, "01-01 10:00"), ("inpatient", 2, "01-01 12:00")]),
        "Surgery": (
            "01-01 18:00",
            [
                ("emergency", 1, "01-01 10:00"),
                ("inpatient", 1, "01-01 12:05"),
                ("inpatient", 1, "01-01 13:00"),
                ("inpatient", 3, "01-01 18:00"),
                ("inpatient", 2, "01-02 18:00"),
            ],
        ),
        # An admission that names no place.
        "from nowhere to ICU": ("01-01 18:00", [("inpatient", -1, "01-01 12:00"), ("inpatient", 2, "01-01 18:00")]),
        "unknown ward": ("01-01 12:00", [("inpatient", -1, "01-01 12:00"), ("inpatient", 2, "01-03 12:00")]),
        "still here": ("01-02 18:00", [("emergency", 1, "01-01 10:00"), ("inpatient", 1, "01-01 12:05")]),
    }
    segments = pl.DataFrame(
        [
            {
                "stay_id": visit,
                "stay_class": kind,
                "department_key": key,
                "segment_start_at": clock(at),
                "segment_number": n,
            }
            for visit, (_, moves) in told.items()
            for n, (kind, key, at) in enumerate(moves, 1)
        ]
    )
    ends = pl.DataFrame({"visit_id": list(told), "departure_at": [clock(left) for left, _ in told.values()]})
    found = collect(admitted_to(on(ends), on(segments), on(departments)))
    assert dict(found.select("visit_id", "destination_department").iter_rows()) == {
        "ICU": "ICU",
        "Surgery": "Surgery",
        "from nowhere to ICU": "ICU",
        "unknown ward": "unknown",
        "still here": "unknown",
    }


def test_seen_on_time_by_every_scale(on: Engine) -> None:
    scales = pl.DataFrame(
        [("ATS", 1, 0.0), ("ATS", 3, 30.0), ("Manchester", 1, 0.0), ("Manchester", 3, 60.0)],
        schema=["scale", "level", "target_minutes"],
        orient="row",
    ).with_columns(pl.col("level").cast(pl.Int64))
    rows = [
        fact("a", "01-01 10:00", provider_at="01-01 10:02", triage_level=1),
        fact("b", "01-01 10:00", provider_at="01-01 10:03", triage_level=1),
        fact("c", "01-01 10:00", provider_at="01-01 10:45", triage_level=3),
        fact("d", "01-01 10:00", triage_level=3),
        fact("e", "01-01 10:00", provider_at="01-01 10:01", triage_level=None),
    ]
    out = seen_on_time(visits(on, *rows), on(scales))
    for scale, seen in (("ATS", 1), ("Manchester", 2)):
        row = of(out, scale=scale, triage_group="all")
        assert (row["denominator_count"], row["numerator_count"]) == (3, seen)
        assert (row["excluded_no_wait_count"], row["excluded_untriaged_count"]) == (1, 1)
    assert of(out, scale="ATS", triage_group="3")["target_minutes"] == 30.0


# G13 critical waits -------------------------------------------------------------------------------


def test_critical_waits(on: Engine) -> None:
    two = {"triage_level": 2}
    rows = [
        fact("a", "01-01 11:00", provider_at="01-01 11:00", **two),
        fact("b", "01-01 11:00", provider_at="01-01 11:15", **two),
        fact("c", "01-01 11:00", provider_at="01-01 11:16", **two),
        fact("d", "01-01 11:00", "01-01 11:40", disposition="left_without_being_seen", **two),
        fact("e", "01-01 11:40", disposition=None, **two),
        fact("f", "01-01 11:50", disposition=None, **two),
        fact("g", "01-01 11:00", provider_at="01-01 12:00", triage_level=3),
    ]
    as_of = nw.lit(at("2026-01-01 12:00")).cast(nw.Datetime("us", "UTC"))
    out = of(critical_waits(visits(on, *rows), as_of))
    assert (out["numerator_count"], out["denominator_count"], out["value_pct"]) == (3, 5, 60.0)
    assert out["excluded_pending_count"] == 1
    late = ("seen_late_count", "left_late_count", "waiting_late_count")
    assert [out[name] for name in late] == [1, 1, 1]


@pytest.mark.parametrize(
    "visit",
    [
        # Seen: since when, nobody knows.
        fact("a", "01-01 10:00", disposition=None, quality_codes="provider_time_unknown"),
        fact("b", "01-01 10:00", "01-01 11:00", disposition="eloped", quality_codes="x;provider_time_unknown"),
        # Somebody has decided about them: the clock is missing.
        *(
            fact("c", "01-01 09:00", "01-01 12:00", disposition=disposition)
            for disposition in ("admitted", "home", "transferred", None)
        ),
    ],
    ids=lambda visit: f"{visit['disposition']}, {visit['quality_codes']}",
)
def test_a_missing_provider_clock_is_nobody_unseen(on: Engine, visit: dict[str, Any]) -> None:
    as_of = nw.lit(at("2026-01-01 12:00")).cast(nw.Datetime("us", "UTC"))
    out = of(critical_waits(visits(on, visit | {"triage_level": 2}), as_of))
    assert (out["excluded_invalid_count"], out["denominator_count"], out["value_pct"]) == (1, 0, None)


# 72-hour returns ----------------------------------------------------------------------------------


def test_returns(on: Engine) -> None:
    rows = [
        fact("a", "01-01 10:00", "01-01 12:00"),
        fact("b", "01-04 12:00", "01-04 14:00", disposition="admitted"),  # 72 h later
        fact("c", "01-01 10:00", "01-01 12:00", person_key=2),
        fact("d", "01-04 12:01", "01-04 14:00", person_key=2),  # a minute too late
        fact("e", "01-01 10:00", "01-01 12:00", person_key=3, disposition="eloped"),
        fact("f", "01-02 10:00", "01-02 12:00", person_key=3),
        fact("g", "01-01 10:00", "01-01 12:00", person_key=None),
        fact("h", "01-01 11:00", "01-01 13:00", person_key=None),  # nobody is not the same
        fact("i", "01-19 10:00", "01-19 12:00", person_key=4),
    ]
    end = nw.lit(at("2026-01-20 00:00")).cast(nw.Datetime("us", "UTC"))
    out = returns(visits(on, *rows), end)
    found = {v: of(out, variant=v) for v in ("discharged", "with_left", "return_admitted")}
    counts = {v: (r["numerator_count"], r["denominator_count"]) for v, r in found.items()}
    assert counts == {"discharged": (1, 4), "with_left": (2, 5), "return_admitted": (1, 4)}
    assert found["discharged"]["excluded_unknown_patient_count"] == 2
    assert found["discharged"]["excluded_run_out_count"] == 1
    adds_up("kpi_returns", out.select(*CONTRACTS["kpi_returns"].column_names))


def test_returns_are_known_until_the_first_hospital_has_no_more_days() -> None:
    zones = ["America/Los_Angeles", "America/New_York"]
    noon = at("2026-01-20 12:00")
    assert known_until(noon, date(2026, 1, 19), zones) == at("2026-01-20 05:00")
    assert known_until(at("2026-01-19 12:00"), date(2026, 1, 19), zones) == at("2026-01-19 12:00")
    assert known_until(noon, None, zones) == known_until(noon, date(2026, 1, 19), []) == noon


def test_the_first_arrival_after_departure_decides(on: Engine) -> None:
    end = nw.lit(at("2026-01-20 00:00")).cast(nw.Datetime("us", "UTC"))

    def counts(*rows: tuple[str, str | None]) -> tuple[int, int, int]:
        made = (fact(f"v{n}", *clocks) for n, clocks in enumerate(rows))
        out = of(returns(visits(on, *made), end), variant="discharged")
        return out["numerator_count"], out["denominator_count"], out["excluded_overlapping_count"]

    first, next_day = ("01-01 10:00", "01-01 14:00"), ("01-02 09:00", "01-02 11:00")
    assert counts(first, ("01-01 10:05", "01-01 10:30"), next_day) == (1, 2, 1)
    assert counts(first, first, next_day) == (1, 2, 1)  # registered twice
    assert counts(first, ("01-01 13:00", "01-01 16:00"), next_day) == (1, 2, 1)
    # What begins as the other ends is the same episode; a minute later it is a return.
    assert counts(first, ("01-01 14:00", "01-01 16:00")) == (0, 1, 1)
    assert counts(first, ("01-01 14:01", "01-01 16:00")) == (1, 2, 0)
    assert counts(first, ("01-01 14:00", "01-01 14:00")) == (0, 1, 1)
    # An open record is under way for three days, not for ever.
    assert counts(("01-01 09:00", None), first, next_day) == (0, 0, 2)
    assert counts(("01-01 09:00", None), ("01-10 10:00", "01-10 12:00"), ("01-11 09:00", "01-11 10:00")) == (1, 2, 0)


# G12 crowding -------------------------------------------------------------------------------------


def test_nedocs_and_edwin(on: Engine) -> None:
    state = pl.DataFrame(
        {
            "ed_patients_count": [30, 25],
            "ed_bed_count": [20, 25],
            "boarders_count": [8, 5],
            "hospital_bed_count": [200, 0],
            "ventilated_count": [2, 0],
            "longest_boarding_hours": [4.0, 0.0],
            "last_door_to_bed_hours": [2.0, 0.0],
            "attendings_count": [0, 3],
            # ESI 1:1 2:4 3:10 4:8 5:2, each as 6 - level.
            "triage_weight_sum": [0, 1 * 5 + 4 * 4 + 10 * 3 + 8 * 2 + 2 * 1],
        }
    )
    out = collect(on(state).with_columns(n=nedocs(), e=edwin()).with_columns(level=nedocs_level("n")))
    assert round(out["n"][0], 1) == 174.5 and out["level"][0] == "severely_overcrowded"
    assert out["n"][1] is None and out["e"][0] is None
    assert round(out["e"][1], 2) == 1.15  # unreversed it would be 1.35


def test_crowding_counts_who_is_there_at_the_hour(on: Engine) -> None:
    hours = [at("2026-01-01 10:00"), at("2026-01-01 11:00")]
    beds = pl.DataFrame(
        [
            {
                "service_date": DAY,
                "hospital_id": "H1",
                "department_name": name,
                "hour_start_at": hour,
                "bed_capacity": count,
            }
            for hour in hours
            for name, count in (("Emergency", 4), ("ICU", 10))
        ],
        schema_overrides={"hour_start_at": pl.Datetime("us", "UTC")},
    )
    none = {"room_at": None, "decision_at": None, "ventilated_at": None, "disposition": "home", "undelivered": ""}
    present = pl.DataFrame(
        [
            {
                **none,
                "hospital_id": "H1",
                "arrival_at": at("2026-01-01 09:00"),
                "departure_at": at("2026-01-01 10:00"),
                "triage_level": 1,
            },  # gone at ten
            {
                **none,
                "hospital_id": "H1",
                "arrival_at": at("2026-01-01 09:30"),
                "departure_at": None,
                "triage_level": 2,
                "room_at": at("2026-01-01 10:00"),
                "decision_at": at("2026-01-01 10:30"),
                "disposition": "admitted",
            },
            {
                **none,
                "hospital_id": "H1",
                "arrival_at": at("2026-01-01 10:01"),
                "departure_at": at("2026-01-01 12:00"),
                "triage_level": None,
            },
        ],
        schema_overrides={
            name: pl.Datetime("us", "UTC")
            for name in ("arrival_at", "departure_at", "room_at", "decision_at", "ventilated_at")
        },
    )
    present = present.with_columns(_until_at=pl.coalesce("departure_at", pl.col("arrival_at").dt.offset_by("72h")))
    # Two shifts of one doctor, one of another, and one that is over.
    shifts = pl.DataFrame(
        {
            "hospital_id": ["H1"] * 4,
            "doctor_key": [5, 5, -1, 6],
            "shift_id": ["a", "b", "c", "d"],
            "shift_start_at": [hours[0], hours[0] - timedelta(hours=1), hours[0], hours[0] - timedelta(hours=1)],
            "shift_end_at": [hours[1], hours[1], hours[1], hours[0]],
        },
        schema_overrides={"shift_start_at": pl.Datetime("us", "UTC"), "shift_end_at": pl.Datetime("us", "UTC")},
    )
    out = collect(crowding(on(beds), on(present), on(shifts))).sort("hour_start_at")
    assert out["ed_patients_count"].to_list() == [1, 2]
    assert out["boarders_count"].to_list() == [0, 1]
    assert out["longest_boarding_hours"].to_list() == [0.0, 0.5]
    assert out["last_door_to_bed_hours"].to_list() == [0.5, 0.5]
    assert out["attendings_count"].to_list() == [2, 0]
    assert out["triage_weight_sum"].to_list() == [4, 4]
    assert out["hospital_bed_count"].to_list() == [10, 10]


def test_a_known_departure_is_never_cut(on: Engine) -> None:
    """A boarder of 70 hours counts, on days on which nobody else came, too."""
    visit = pl.DataFrame(
        {
            "undelivered": ["", ""],
            "hospital_id": ["H1", "H1"],
            "service_date": [date(2026, 1, 5), date(2026, 1, 20)],
            "arrival_at": [at("2026-01-05 16:00"), at("2026-01-20 16:00")],
            "departure_at": [at("2026-01-09 20:00"), None],
            "decision_at": [at("2026-01-05 18:00"), None],
            "room_at": [None, None],
            "ventilated_at": [None, None],
            "is_open": [False, True],
            "disposition": ["admitted", None],
            "triage_level": [3, 3],
        },
        schema_overrides={
            name: pl.Datetime("us", "UTC")
            for name in ("arrival_at", "departure_at", "decision_at", "room_at", "ventilated_at")
        },
    )
    period = days_looked_at(on(visit), at("2026-02-01 12:00"), date(2026, 1, 31))
    assert (period.first, period.end) == (date(2026, 1, 5), date(2026, 1, 25))
    assert days_looked_at(on(visit), at("2026-01-22 12:00"), date(2026, 1, 21)).end == date(2026, 1, 22)
    hours = [at("2026-01-05 00:00") + timedelta(hours=n) for n in range(24 * 19)]
    beds = pl.DataFrame(
        {
            "service_date": [hour.date() for hour in hours for _ in range(2)],
            "hospital_id": "H1",
            "department_name": ["Emergency", "ICU"] * len(hours),
            "hour_start_at": [hour for hour in hours for _ in range(2)],
            "bed_capacity": 10,
        },
        schema_overrides={"hour_start_at": pl.Datetime("us", "UTC")},
    )
    none = pl.DataFrame(
        schema={
            "hospital_id": pl.String,
            "doctor_key": pl.Int64,
            "shift_id": pl.String,
            "shift_start_at": pl.Datetime("us", "UTC"),
            "shift_end_at": pl.Datetime("us", "UTC"),
        }
    )
    present = checkpoint(with_presence(on(visit), period))
    looked_at = checkpoint(on_days_with_patients(on(beds), present))
    out = collect(crowding(looked_at, present, on(none))).sort("hour_start_at")
    days = out["service_date"].unique().sort().to_list()
    assert days == [date(2026, 1, day) for day in (5, 6, 7, 8, 9, 20, 21, 22, 23)]
    (row,) = out.filter(pl.col("hour_start_at") == at("2026-01-08 16:00")).iter_rows(named=True)
    assert (row["boarders_count"], row["longest_boarding_hours"]) == (1, 70.0)
    assert row["nedocs_score"] == pytest.approx(85.8 / 10 + 600 / 10 + 0.93 * 70 - 20)
    counted = out.filter(pl.col("ed_patients_count") > 0)
    # 17:00 on the 5th until 20:00 on the 9th, and three days of the open record.
    assert counted.height == 100 + 72


def test_a_source_that_does_not_deliver_an_input_is_not_judged(on: Engine) -> None:
    """The figure is null, not 0 %, and who is left out stands in it by reason; other hospitals are judged."""
    seen = {"provider_at": "01-01 10:30", "triage_level": 2}
    lacking = "er_visits.room_time;er_visits.provider_time;diagnoses"
    both = visits(
        on,
        fact("a", "01-01 10:00", "01-01 12:00", **seen),
        fact("b", "01-01 10:00", "01-01 20:00", hospital_id="H2", undelivered=lacking, **seen),
    )
    for frame, figure, where in (
        (ecat(both), "value_pct", {"stratum": "all"}),
        (critical_waits(both, AS_OF), "value_pct", {}),
        (op18(both), "median_minutes", {"stratum": "reported"}),
    ):
        judged, left_out, pooled = (of(frame, **where, hospital_id=name) for name in ("H1", "H2", "all"))
        assert judged[figure] is not None and judged["excluded_undelivered_count"] == 0
        assert left_out[figure] is None and left_out["excluded_undelivered_count"] == 1
        assert pooled[figure] == judged[figure] and pooled["population_count"] == 2
    ends = collect(stays(on, ("01-01 10:00", "01-03 10:00")))
    row = of(before_noon(on(ends.with_columns(undelivered=pl.lit("adt_events.discharge_disposition")))))
    assert (row["value_pct"], row["excluded_undelivered_count"]) == (None, 1)
    stay = inpatients("P1 a H1 01-01 01-05 01 0 0 HF").with_columns(undelivered=pl.lit("diagnoses"))
    row = of(readmissions(on(stay), DATA_END))
    assert (row["value_pct"], row["excluded_undelivered_count"]) == (None, 1)


def test_what_sources_lack_is_what_their_profiles_say() -> None:
    profiles = load_profiles(None)
    frame = lazy(pl.DataFrame({"source_profile": list(profiles)})).with_columns(lacks=undelivered(profiles))
    lacking = dict(collect(frame).select("source_profile", "lacks").iter_rows())
    assert lacking["native"] == ""
    assert lacking["er-log-csv"].split(";") == [
        "adt_events.discharge_disposition",
        "diagnoses",
        "er_visits.decision_time",
        "er_visits.room_time",
        "er_visits.triage_time",
        "procedures",
        "vitals",
    ]
    assert "er_visits.departure_time" in lacking["er-visits-csv"]
    for contract in CONTRACTS.values():
        for need in contract.needs:
            subject, _, column = need.partition(".")
            assert not column or column in canonical_columns(subject), need
        if contract.needs and "population_count" in contract.column_names:
            assert "excluded_undelivered_count" in contract.column_names, contract.name


# G7 length of stay, overstays, noon ---------------------------------------------------------------


def stays(on: Engine, *rows: tuple[str, str | None], stay_class: str = "inpatient") -> Frame:
    frame = pl.DataFrame(
        [
            {
                "hospital_id": "H1",
                "stay_class": stay_class,
                "department_name": "ICU",
                "service_date": DAY,
                "discharge_disposition": "home",
                "undelivered": "",
                "stay_start_at": clock(start),
                "stay_end_at": clock(end),
            }
            for start, end in rows
        ],
        schema_overrides={name: pl.Datetime("us", "UTC") for name in ("stay_start_at", "stay_end_at")},
    ).with_columns(
        segment_start_at=pl.col("stay_start_at"),
        segment_end_at=pl.col("stay_end_at"),
        start_local=pl.col("stay_start_at").dt.replace_time_zone(None),
        end_local=pl.col("stay_end_at").dt.replace_time_zone(None),
        length_of_stay_hours=(pl.col("stay_end_at") - pl.col("stay_start_at")).dt.total_minutes() / 60,
    )
    return on(frame.with_columns(segment_hours="length_of_stay_hours"))


AS_OF = nw.lit(at("2026-01-31 00:00")).cast(nw.Datetime("us", "UTC"))


def test_length_of_stay(on: Engine) -> None:
    frame = stays(
        on,
        ("01-01 23:50", "01-02 00:10"),
        ("01-01 08:00", "01-01 20:00"),
        ("01-01 00:00", "01-05 00:00"),
        ("01-01 00:00", None),
    )
    # The whole of January; a minute longer, and nobody believes it.
    lapsed = of(length_of_stay(stays(on, ("01-01 00:00", None)), AS_OF + timedelta(minutes=1)))
    assert (lapsed["excluded_lapsed_count"], lapsed["excluded_open_count"]) == (1, 0)
    assert lapsed["open_days_so_far_average"] is None
    out = of(length_of_stay(frame, AS_OF))
    assert round(out["los_hcup_days_average"], 3) == 1.667
    assert out["los_min1_days_average"] == 2.0
    assert out["los_hours_median"] == 12.0
    assert (out["denominator_count"], out["excluded_open_count"]) == (3, 1)  # not 8.75 with now()
    assert out["open_days_so_far_average"] == 30.0
    none = of(length_of_stay(stays(on, ("01-01 00:00", None)), AS_OF))
    averages = ("los_hcup_days_average", "los_min1_days_average", "los_hours_average", "los_hours_median")
    assert [none[name] for name in averages] == [None] * 4  # nothing to average is null, not NaN
    assert out["los_hcup_days_sum"] == 5 and none["los_hcup_days_sum"] == 0
    assert of(length_of_stay(stays(on, ("01-01 00:00", "01-02 00:00")), AS_OF))["open_days_so_far_average"] is None
    short = of(length_of_stay(stays(on, ("01-01 23:50", "01-02 00:10")), AS_OF))
    assert round(short["los_hours_average"], 3) == 0.333
    assert short["los_hcup_days_average"] == 1.0


def test_overstays(on: Engine) -> None:
    rows = (
        ("01-01 00:00", "01-03 02:00"),
        ("01-01 00:00", "01-03 02:01"),
        ("01-28 12:00", None),
        ("01-30 00:00", None),
    )
    # Fifty hours in an ICU say nothing; three weeks do.
    inside = (*rows, ("01-01 00:00", "01-22 00:00"), ("01-01 00:00", "01-22 00:01"))
    of_inpatients = of(overstays(stays(on, *inside), AS_OF), department_name="all")
    assert (of_inpatients["population_count"], of_inpatients["numerator_count"]) == (6, 1)
    frame = stays(on, *rows, stay_class="emergency")
    out = of(overstays(frame, AS_OF), department_name="all")
    assert (out["population_count"], out["numerator_count"]) == (4, 2)
    assert out["open_numerator_count"] == 1


def test_discharged_before_noon(on: Engine) -> None:
    frame = stays(on, ("01-01 00:00", "01-02 11:59"), ("01-01 00:00", "01-02 12:00"), ("01-01 00:00", None))
    out = collect(before_noon(frame)).filter(pl.col("hospital_id") == "all")
    assert out["numerator_count"].sum() == 1 and out["denominator_count"].sum() == 2
    assert out["excluded_open_count"].sum() == 1


def test_a_trend_has_the_days_that_are_over_and_landed(on: Engine) -> None:
    """The day in progress is a part of one, and where nobody came only who stayed over night leaves."""
    march = [date(2026, 3, n) for n in range(1, 7)]
    came = {"H1": [march[0], march[1], march[1], march[3]], "H2": march[2:4]}
    days = pl.DataFrame(
        [(place, day) for place in came for day in came[place]], ["hospital_id", "service_date"], orient="row"
    )
    values = pl.DataFrame({"hospital_id": ["H1"] * 6 + ["H2"] * 6, "period_date": march * 2, "value": [1.0] * 12})
    found = {
        (last.day, place): kept["period_date"].dt.day().sort().to_list()
        for last in march[2:4]
        for (place,), kept in collect(whole_days(on(values), on(days), last))
        .partition_by("hospital_id", as_dict=True)
        .items()
    }
    assert found == {(3, "H1"): [1, 2], (3, "H2"): [3], (4, "H1"): [1, 2, 4], (4, "H2"): [3, 4]}


def test_a_discharge_of_which_the_day_is_known_alone_is_neither_before_noon_nor_after(on: Engine) -> None:
    """It counts as of the last moment of its day for who is there; the hour is nobody's knowledge."""
    frame = collect(stays(on, ("01-01 00:00", "01-02 09:00"), ("01-01 00:00", "01-02 23:59"), ("01-01 00:00", None)))
    by_day = pl.col("end_local").dt.hour() == 23
    out = collect(before_noon(on(frame.with_columns(segment_hours=pl.when(~by_day).then("segment_hours")))))
    of_all = out.filter(pl.col("hospital_id") == "all").select(pl.col("^.*_count$").sum()).row(0, named=True)
    assert (of_all["numerator_count"], of_all["denominator_count"]) == (1, 1)
    assert (of_all["excluded_untimed_count"], of_all["excluded_open_count"]) == (1, 1)


# G9 occupancy, G17 Little's law -------------------------------------------------------------------

TENTH = date(2026, 1, 10)


def segments(on: Engine, *rows: tuple[str, str | None]) -> Frame:
    """Segments of 10 January, cut at its midnights."""
    low, high = at("2026-01-10 00:00"), at("2026-01-11 00:00")
    cut = []
    for start, end in rows:
        begins, ends = clock(start), clock(end)
        assert begins is not None
        lasts = ends is None or ends > high
        cut.append(
            {
                "service_date": TENTH,
                "hospital_id": "H1",
                "department_id": "D",
                "department_name": "ICU",
                "from_at": max(begins, low),
                "until_at": high if lasts or ends is None else ends,
                "starts": int(begins >= low),
                "ends": int(not lasts),
                "is_eve": False,
                "lapses": 0,
                "lasts": int(lasts),
            }
        )
    return on(
        pl.DataFrame(cut, schema_overrides={"from_at": pl.Datetime("us", "UTC"), "until_at": pl.Datetime("us", "UTC")})
    )


def hours_of(on: Engine, occupied_hours: float, beds: int = 2) -> Frame:
    each = occupied_hours * 60 / 24
    return on(
        pl.DataFrame(
            [
                {
                    "service_date": TENTH,
                    "hospital_id": "H1",
                    "department_id": "D",
                    "department_name": "ICU",
                    "bed_capacity": beds,
                    "occupied_bed_minutes": each,
                    "hour_start_at": at("2026-01-10 00:00") + timedelta(hours=hour),
                    "hour_minutes": 60.0,
                    "staffed_bed_minutes": beds * 60.0,
                }
                for hour in range(24)
            ],
            schema_overrides={"hour_start_at": pl.Datetime("us", "UTC")},
        )
    )


G9 = (("01-09 08:00", "01-10 12:00"), ("01-10 06:00", "01-10 20:00"), ("01-10 22:00", "01-11 04:00"))


def test_occupancy(on: Engine) -> None:
    (row,) = collect(occupancy(hours_of(on, 28.0), segments(on, *G9))).iter_rows(named=True)
    assert round(row["time_weighted_pct"], 2) == 58.33  # not 3 patients in 2 beds, 150 %
    assert (row["midnight_patients_count"], row["midnight_pct"]) == (1, 50.0)
    assert (row["peak_patients_count"], row["peak_pct"]) == (2, 100.0)


def test_a_bed_handed_over_is_one_bed(on: Engine) -> None:
    swapped = segments(on, ("01-09 08:00", "01-10 12:00"), ("01-10 12:00", "01-10 20:00"))
    assert collect(peaks(swapped))["peak_patients_count"].to_list() == [1]


def test_littles_law(on: Engine) -> None:
    (row,) = collect(department_flow(hours_of(on, 28.0), segments(on, *G9))).iter_rows(named=True)
    assert round(row["mean_census_count"], 4) == 1.1667
    assert row["patient_hours"] == 28.0
    assert row["patients_per_hour"] * row["mean_hours_per_patient"] == pytest.approx(row["mean_census_count"])
    assert (row["inflow_count"], row["outflow_count"], row["patients_count"]) == (2, 2, 3)
    assert row["turnover_per_bed"] == 1.0 and row["turnover_interval_hours"] == 10.0
    assert row["is_bottleneck"] is False


def test_days_of_a_span(on: Engine) -> None:
    frame = pl.DataFrame({"a": [DAY, DAY, DAY], "b": [DAY, date(2026, 1, 3), date(2025, 1, 1)]})
    found = collect(explode_days(on(frame), "a", "b", "day")).sort("b", "day")
    assert found["day"].to_list() == [DAY, DAY, date(2026, 1, 2), date(2026, 1, 3)]


# G10 readmissions, G22 merges ---------------------------------------------------------------------

G10 = """
P1 a H1 01-01 01-05 01 0 0 HF
P1 b H1 01-20 01-25 01 0 0 HF
P2 a H1 01-01 01-05 01 0 0 CH
P2 b H1 01-15 01-16 01 1 0 CH
P2 c H1 01-22 01-25 01 0 0 SE
P3 a H1 01-03 01-06 02 0 0 MI
P3 b H2 01-06 01-10 01 0 0 MI
P3 c H1 01-30 02-02 01 0 0 HF
P4 a H1 01-02 01-08 20 0 0 SE
P5 a H1 01-07 01-09 07 0 0 CO
P5 b H1 01-12 01-14 01 0 0 CO
P6 a H1 01-08 01-10 01 0 0 PN
P6 b H1 01-10 01-13 01 0 0 PN
P7 a H1 01-08 01-10 01 0 0 HF
P7 b H1 02-09 02-11 01 0 0 HF
P8 a H1 01-08 01-10 01 0 0 HF
P8 b H1 02-10 02-11 01 0 0 HF
P9 a H1 03-20 03-25 01 0 0 HF
P10 a H1 03-28 - - 0 0 HF
P11 a H1 01-01 01-03 01 0 0 UT
P11 b H1 01-08 01-10 01 0 0 UT
P11 c H1 01-15 01-18 01 0 0 UT
P12 a H1 01-05 01-09 01 0 1 CT
"""
DISPOSITION = {"01": "home", "02": "transferred", "07": "against_medical_advice", "20": "expired", "-": None}
DATA_END = nw.lit(date(2026, 3, 31)).cast(nw.Date)


def inpatients(text: str) -> pl.DataFrame:
    def day(text: str) -> date | None:
        return None if text == "-" else date(2026, int(text[:2]), int(text[3:]))

    rows = []
    for line in text.strip().splitlines():
        person, name, hospital, start, end, how, planned, cancer, diagnosis = line.split()
        started = day(start)
        assert started is not None
        rows.append(
            {
                "stay_id": person + name,
                "person_key": int(person[1:]),
                "hospital_id": hospital,
                "admitted_at": datetime.combine(started, datetime.min.time(), UTC),
                "discharged_at": None if day(end) is None else datetime.combine(day(end), datetime.min.time(), UTC),
                "admitted_date": started,
                "discharged_date": day(end),
                "disposition": DISPOSITION[how],
                "diagnosis": diagnosis,
                "undelivered": "",
                "is_planned": planned == "1",
                "is_cancer_medical": cancer == "1",
            }
        )
    instants = {name: pl.Datetime("us", "UTC") for name in ("admitted_at", "discharged_at")}
    return pl.DataFrame(rows, schema_overrides={**instants, "discharged_date": pl.Date}).with_columns(
        _until_at=pl.coalesce("discharged_at", pl.col("admitted_at").dt.offset_by("30d"))
    )


def readmitted(on: Engine, rows: pl.DataFrame) -> tuple[int, int]:
    out = collect(readmissions(on(rows), DATA_END)).filter(pl.col("hospital_id") == "all")
    return int(out["numerator_count"].sum()), int(out["denominator_count"].sum())


def test_readmissions(on: Engine) -> None:
    assert readmitted(on, inpatients(G10)) == (6, 16)  # 37.5 %, not 10 of 23
    assert readmitted(on, inpatients(G10).reverse()) == (6, 16)
    frame = readmissions(on(inpatients(G10)), DATA_END)
    adds_up("kpi_readmissions", frame.select(*CONTRACTS["kpi_readmissions"].column_names))
    out = collect(frame).filter(pl.col("hospital_id") == "all")
    left_out = {
        name: out[f"excluded_{name}_count"].sum()
        for name in ("open", "expired", "against_advice", "transferred", "continued", "cancer", "run_out")
    }
    assert left_out == dict.fromkeys(left_out, 1)


def test_the_first_stay_after_discharge_decides(on: Engine) -> None:
    nested = "P1 a H1 01-01 01-10 01 0 0 HF\nP1 b H1 01-03 01-04 01 0 0 HF\nP1 c H1 01-15 01-17 01 0 0 HF"
    assert readmitted(on, inpatients(nested)) == (1, 2)  # the nested one is part of the first
    out = collect(readmissions(on(inpatients(nested)), DATA_END)).filter(pl.col("hospital_id") == "all")
    assert out["excluded_overlapping_count"].sum() == 1
    overlapping = "P1 a H1 01-01 01-10 01 0 0 HF\nP1 b H1 01-09 01-12 01 0 0 HF\nP1 c H1 01-15 01-17 01 0 0 HF"
    assert readmitted(on, inpatients(overlapping)) == (1, 2)
    twice = "P1 a H1 01-01 01-10 01 0 0 HF\nP1 b H1 01-01 01-10 01 0 0 HF\nP1 c H1 01-15 01-17 01 0 0 HF"
    assert readmitted(on, inpatients(twice)) == (1, 2)
    # Somebody who never left hides nothing for ever.
    left_open = "P1 a H1 01-01 - - 0 0 HF\nP1 b H1 02-10 02-12 01 0 0 HF\nP1 c H1 02-15 02-17 01 0 0 HF"
    assert readmitted(on, inpatients(left_open)) == (1, 2)


def test_stays_without_codes_are_not_of_one_condition(on: Engine) -> None:
    same_day = "P1 a H1 01-01 01-05 01 0 0 X\nP1 b H1 01-05 01-09 01 0 0 X"
    assert readmitted(on, inpatients(same_day)) == (0, 1)
    uncoded = inpatients(same_day).with_columns(diagnosis=pl.lit(None, dtype=pl.String))
    assert readmitted(on, uncoded) == (1, 2)


CODES = {"Z5111": 10, "C509": 10, "D259": 10, "D059": 10, "D473": 10, "I509": 10, "1749": 9, "2189": 9}


def coded_stays(on: Engine, *rows: tuple[str, str, str, str | None]) -> pl.DataFrame:
    """Stays of one patient as `inpatient_stays` makes them: name, start, end, principal code; no ED visit at all."""
    instants = {
        name: pl.Datetime("us", "UTC")
        for name in ("stay_start_at", "stay_end_at", "segment_start_at", "segment_end_at")
    }
    flow = pl.DataFrame(
        [
            {
                "stay_id": name,
                "stay_class": "inpatient",
                "patient_key": 1,
                "hospital_key": 1,
                "discharge_disposition": "home",
                "undelivered": "",
                "stay_start_at": clock(start),
                "stay_end_at": clock(end),
                "segment_start_at": clock(start),
                "segment_end_at": clock(end),
            }
            for name, start, end, _ in rows
        ],
        schema_overrides=instants,
    )
    keys = {code: place for place, code in enumerate(CODES)}
    principal = pl.DataFrame(
        [{"visit_id": name, "condition_key": keys[code]} for name, _, _, code in rows if code],
        schema={"visit_id": pl.String, "condition_key": pl.Int64},
    )
    conditions = pl.DataFrame(
        [{"condition_key": keys[code], "icd_code": code, "icd_version": version} for code, version in CODES.items()]
    )
    hospitals = pl.DataFrame({"hospital_key": [1], "hospital_id": ["H1"], "time_zone": ["America/Chicago"]})
    procedures = pl.DataFrame(schema={"visit_id": pl.String, "procedure_code": pl.String})
    made = inpatient_stays(on(flow), on(principal), on(procedures), on(hospitals), on(conditions))
    return collect(made.with_columns(person_key=nw.lit(1)))


def test_a_stay_has_its_own_diagnoses(on: Engine) -> None:
    chemotherapy = coded_stays(
        on, ("a", "01-01 10:00", "01-05 10:00", "I509"), ("b", "01-14 10:00", "01-15 10:00", "Z5111")
    )
    assert readmitted(on, chemotherapy) == (0, 2)
    unplanned = coded_stays(
        on, ("a", "01-01 10:00", "01-05 10:00", "I509"), ("b", "01-14 10:00", "01-15 10:00", "I509")
    )
    assert readmitted(on, unplanned) == (1, 2)
    cancer = coded_stays(
        on, *((code, f"01-0{n} 10:00", f"01-0{n} 12:00", code) for n, code in enumerate(CODES, start=1))
    )
    is_cancer = dict(cancer.select("stay_id", "is_cancer_medical").iter_rows())
    assert is_cancer == {code: code in ("C509", "D059", "D473", "1749") for code in CODES}  # not D25.9, a myoma
    uncoded = coded_stays(on, ("a", "01-01 10:00", "01-05 10:00", None), ("b", "01-05 12:00", "01-15 10:00", None))
    assert readmitted(on, uncoded) == (1, 2)


def test_an_unknown_patient_is_never_readmitted(on: Engine) -> None:
    rows = inpatients(G10).with_columns(person_key=pl.lit(None, dtype=pl.Int64))
    assert readmitted(on, rows) == (0, 0)


def merges(*pairs: tuple[str, str, str]) -> pl.DataFrame:
    """A40 messages: moment, number merged away, surviving number."""
    rows = events([(f"M{n}", "A40", when) for n, (when, _, _) in enumerate(pairs)])
    return rows.with_columns(
        prior_patient_id=pl.Series([old for _, old, _ in pairs], dtype=pl.String),
        patient_id=pl.Series([new for _, _, new in pairs], dtype=pl.String),
    )


def persons(on: Engine, numbers: list[str], *pairs: tuple[str, str, str]) -> dict[str, int]:
    patients = hash_keys(on(pl.DataFrame({"patient_id": numbers})), {"patient_durable_key": ["patient_id"]})
    found = collect(surviving(patients, on(merges(*pairs))))
    names = collect(patients)
    joined = names.join(found, on="patient_durable_key")
    return dict(joined.select("patient_id", "person_key").iter_rows())


def key_of_number(on: Engine, number: str) -> int:
    keyed = hash_keys(on(pl.DataFrame({"patient_id": [number]})), {"patient_durable_key": ["patient_id"]})
    return int(collect(keyed)["patient_durable_key"][0])


def test_merged_numbers_are_one_person(on: Engine) -> None:
    found = persons(on, ["P100", "P200", "P300"], ("26 10:00", "P200", "P100"))
    assert found["P200"] == found["P100"] != found["P300"]
    chained = persons(on, ["A", "B", "C"], ("01 11:00", "B", "C"), ("01 10:00", "A", "B"))
    assert len(set(chained.values())) == 1 and chained["A"] == chained["C"]
    again = persons(on, ["A", "B", "C"], ("01 10:00", "A", "B"), ("01 11:00", "A", "C"))
    assert set(again.values()) == {key_of_number(on, "C")}, "a later merge takes no earlier one back"
    undone = persons(on, ["A", "B", "C"], ("01 10:00", "A", "B"), ("01 11:00", "B", "A"), ("01 09:00", "C", "B"))
    assert set(undone.values()) == {key_of_number(on, "A")}, "the latest merge of a circle decides who survives"
    circle = [("01 12:00", "A", "B"), ("01 11:00", "B", "C"), ("01 10:00", "C", "A"), ("01 09:00", "D", "C")]
    assert set(persons(on, ["A", "B", "C", "D"], *circle).values()) == {key_of_number(on, "B")}
    long = [(f"01 10:{n:02}", f"N{n}", f"N{n + 1}") for n in range(7)]
    assert len(set(persons(on, [f"N{n}" for n in range(8)], *long).values())) == 1

    rows = inpatients("P100 a H1 01-01 01-05 01 0 0 HF\nP200 a H1 01-20 01-25 01 0 0 HF")
    assert readmitted(on, rows) == (0, 2)
    of_persons = rows.with_columns(person_key=pl.lit(found["P100"]))
    assert readmitted(on, of_persons) == (1, 2)


# G15 workload, chance -----------------------------------------------------------------------------


def doctors(*rows: tuple[int, int, float]) -> pl.DataFrame:
    return pl.DataFrame(
        [(key, 1, count, hours) for key, count, hours in rows],
        schema=["doctor_key", "hospital_key", "visit_count", "shift_hours"],
        orient="row",
    ).with_columns(pl.col("shift_hours").cast(pl.Float64))


def test_workload_is_per_hour(on: Engine) -> None:
    out = collect(with_chance_limits(on(doctors((1, 16, 8.0), (2, 10, 4.0), (-1, 3, 0.0))))).sort("doctor_key")
    rate = {r["doctor_key"]: r["visit_count"] / r["shift_hours"] for r in out.iter_rows(named=True) if r["shift_hours"]}
    assert rate == {1: 2.0, 2: 2.5}  # D2 is busier, with fewer patients
    expected = dict(out.select("doctor_key", "expected_visit_count").iter_rows())
    assert expected[1] == pytest.approx(26 * 8 / 12) and expected[-1] is None
    assert out.filter(pl.col("doctor_key") > 0)["is_outside"].to_list() == [False, False]
    # Who has no hours says nothing about the others.
    out = collect(with_chance_limits(on(doctors((1, 16, 8.0), (2, 10, 4.0), (3, 90, 0.0))))).sort("doctor_key")
    assert out["expected_visit_count"].to_list() == [pytest.approx(26 * 8 / 12), pytest.approx(26 * 4 / 12), None]


def test_twenty_doctors_between_228_and_281_visits_are_noise(on: Engine) -> None:
    counts = [281, 228, *([250] * 16), 245, 246]
    out = collect(with_chance_limits(on(doctors(*((n + 1, c, 0.0) for n, c in enumerate(counts))))))
    assert sum(counts) == 5000
    assert out["expected_visit_count"].to_list() == [250.0] * 20
    assert not out["is_outside"].any()
    far = collect(with_chance_limits(on(doctors((1, 320, 0.0), (2, 180, 0.0)))))
    assert far["is_outside"].to_list() == [True, True]


def test_natural_limits(on: Engine) -> None:
    out = series_on(on, [10.0, 12.0] * 6)
    # Moving ranges 2, 2, 2, ...: mean 2; mean 11; limits 11 -+ 5.32.
    assert out["centre"].unique().to_list() == [11.0]
    assert out["upper_limit"][0] == pytest.approx(16.32)
    assert out["lower_limit"][0] == pytest.approx(5.68)
    assert not out["is_outside"].any() and not out["is_run"].any()
    assert out["baseline_first_date"].unique().to_list() == [DAY]
    assert out["baseline_last_date"].unique().to_list() == [DAY + timedelta(days=11)]
    few = series_on(on, [10.0, 12.0] * 5 + [60.0])
    assert few["upper_limit"].null_count() == 11 and not few["is_outside"].any()


def series_on(
    on: Engine, values: list[float], points: int = BASELINE_POINTS, baselines_from: tuple[date, ...] = ()
) -> pl.DataFrame:
    days = [DAY + timedelta(days=n) for n in range(len(values))]
    frame = pl.DataFrame({"metric": "m", "hospital_id": "H1", "period_date": days, "value": values})
    return collect(with_natural_limits(on(frame), baselines_from=baselines_from, baseline_points=points)).sort(
        "period_date"
    )


BASE = [52.0, 48, 55, 50, 47, 53, 49, 51, 54, 46, 50, 52, 48, 53, 51]


@pytest.mark.parametrize(
    ("values", "points", "centre", "limits", "signals"),
    [
        (BASE, 15, 50.6, (39.39, 61.81), {}),
        # Its moving ranges of 29 are no chance: without screening 32.07 to 72.73.
        ([*BASE[:7], 78.0, *BASE[8:]], 15, 52.4, (36.44, 68.36), {"is_outside": [8]}),
        (
            [*BASE, 60, 58, 45, 51, 52, 53, 54, 55, 52, 51, 49, 63],
            15,
            50.6,
            (39.39, 61.81),
            {"is_outside": [27], "is_run": [*range(19, 26)]},
        ),
        # Limits from what is to be told apart see nothing of it outside; fixed ones do.
        ([*BASE, *(v + 8 for v in BASE)], 30, 54.6, (42.95, 66.25), {"is_run": [*range(4, 25)]}),
        (
            [*BASE, *(v + 8 for v in BASE)],
            15,
            50.6,
            (39.39, 61.81),
            {"is_outside": [18, 24], "is_run": [*range(14, 31)], "is_two_of_three": [21, 23, 27, 29, 30]},
        ),
        ([*BASE, *range(47, 54)], 15, 50.6, (39.39, 61.81), {"is_trend": [*range(16, 23)]}),
        ([*BASE, *range(47, 53)], 15, 50.6, (39.39, 61.81), {}),
        ([*BASE, 60, 59, 51], 15, 50.6, (39.39, 61.81), {"is_two_of_three": [16, 17]}),
    ],
)
def test_limits_and_signals_of_known_series(
    on: Engine,
    values: list[float],
    points: int,
    centre: float,
    limits: tuple[float, float],
    signals: dict[str, list[int]],
) -> None:
    out = series_on(on, [float(v) for v in values], points)
    assert out["centre"][0] == pytest.approx(centre)
    assert (out["lower_limit"][0], out["upper_limit"][0]) == pytest.approx(limits, abs=0.005)
    for rule in ("is_outside", "is_run", "is_trend", "is_two_of_three"):
        assert [i + 1 for i, hit in enumerate(out[rule]) if hit] == signals.get(rule, []), rule
    hit = [i + 1 for i, way in enumerate(out["signal_direction"]) if way]
    assert hit == sorted({at for found in signals.values() for at in found})


def test_limits_are_set_anew_from_a_stated_day_only(on: Engine) -> None:
    values = [*BASE, *BASE, *(v + 8 for v in BASE)]
    kept = series_on(on, values)
    assert kept["centre"].n_unique() == 1 and kept["is_run"][-1]
    start = DAY + timedelta(days=30)
    anew = series_on(on, values, baselines_from=(start,))
    assert anew["centre"].unique().sort().to_list() == pytest.approx([kept["centre"][0], 58.6])
    assert not anew["is_run"].any() and not anew["is_outside"].any()
    assert anew["baseline_first_date"].unique().sort().to_list() == [DAY, start]


@pytest.mark.parametrize(
    ("target", "better", "says"),
    [
        (65.0, "lower", "met"),
        (35.0, "lower", "missed"),
        (50.0, "lower", "either"),
        (65.0, "higher", "missed"),
        (35.0, "higher", "met"),
        (50.0, "higher", "either"),
        (50.0, "neither", None),
        (None, "lower", None),
    ],
)
def test_a_target_beyond_the_limits_is_always_or_never_met(
    target: float | None, better: Better, says: Assurance | None
) -> None:
    assert assurance(target, 39.39, 61.81, better) == says


def test_funnel_limits_of_many_hospitals_allow_for_how_much_they_differ(on: Engine) -> None:
    n = [52, 61, 18, 95, 33, 74, 12, 120, 40, 66, 29, 88]
    d = [400, 520, 210, 610, 300, 455, 150, 980, 260, 700, 190, 505]
    rate = pl.DataFrame({"hospital_id": [f"H{i:02}" for i in range(12)], "n": n, "d": d, "p": d})
    out = collect(with_funnel_limits({"m": on(rate)})).sort("hospital_id")
    assert out["centre_pct"][0] == pytest.approx(13.0303, abs=5e-5)
    assert out["dispersion"].unique().to_list() == pytest.approx([2.33465], abs=5e-6)
    # By hand: sin(asin(sqrt(p)) -+ 3 sqrt(1 / 4n + tau squared)) squared, with tau squared 0.00090193.
    middle = math.asin(math.sqrt(688 / 5280))
    reach = 3 * math.sqrt(1 / (4 * 505) + 0.00090193)
    assert out["lower_limit_pct"][11] == pytest.approx(100 * math.sin(middle - reach) ** 2, abs=0.01)
    assert out["upper_limit_pct"][11] == pytest.approx(100 * math.sin(middle + reach) ** 2, abs=0.01)
    # Chance alone would have called the last one an outlier (8.54 to 17.52 %).
    assert not out["is_outside"].any()
    nine = collect(with_funnel_limits({"m": on(rate[:9])})).sort("hospital_id")
    assert nine["dispersion"].null_count() == 9
    alike = rate.with_columns(n=pl.col("d") // 10)
    even = collect(with_funnel_limits({"m": on(alike)})).sort("hospital_id")
    # Less than by chance is no less than chance.
    assert even["upper_limit_pct"][11] == pytest.approx(
        100 * math.sin(math.asin(math.sqrt(even["centre_pct"][0] / 100)) + 3 / math.sqrt(4 * 505)) ** 2, abs=1e-4
    )


def test_funnel_limits(on: Engine) -> None:
    rate = pl.DataFrame(
        {
            "hospital_id": ["A", "B", "C", "all"],
            "n": [10, 2, 40, 52],
            "d": [100, 20, 100, 220],
            "p": [110, 20, 100, 230],
        }
    )
    out = collect(with_funnel_limits({"m": on(rate)})).sort("hospital_id")
    assert out["hospital_id"].to_list() == ["A", "B", "C"]
    assert out["centre_pct"].unique().round(3).to_list() == [23.636]
    # 10 % of 100 is a finding where 10 % of 20 is none.
    assert out["is_outside"].to_list() == [True, False, True]
    assert out["excluded_count"].to_list() == [10, 0, 0]


# The catalogue ------------------------------------------------------------------------------------


def test_every_kpi_says_what_it_means() -> None:
    for contract in CONTRACTS.values():
        if contract.layer != "kpis" or contract.name in EXPLAINED_BY:
            continue
        assert contract.measures, contract.name
        for measure in contract.measures:
            assert measure.definition.endswith(".") and measure.source and measure.population
            assert measure.name in contract.description


#: Daily tables whose figures another table explains.
EXPLAINED_BY = {
    "kpi_arrivals_hourly": "kpi_peak_hours",
    "kpi_conditions_daily": "kpi_conditions",
    "kpi_triage_mix_daily": "kpi_triage_mix",
    "kpi_physician_workload_daily": "kpi_physician_workload",
}


def test_each_code_is_in_one_group() -> None:
    assert all(first <= last for first, last, _ in GROUPS)
    names = [name for *_, name in GROUPS]
    assert len(set(names)) == len(names)
