"""Transforms on hand-written frames, on every engine; the usual wrong answers must not come out."""

from __future__ import annotations

import math
import random
import statistics
from datetime import UTC, date, datetime, timedelta
from typing import Any

import narwhals as nw
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from hospital_assets.assets.cleaned.er_visits import of_first_patient
from hospital_assets.assets.cleaned.rules import DEPARTMENT_UNKNOWN
from hospital_assets.assets.dedupe import newest_of_each
from hospital_assets.assets.dimensions.patients import dim_patient
from hospital_assets.assets.dimensions.scd2 import changes_only, key_at, versions
from hospital_assets.assets.facts import doctor_shifts
from hospital_assets.assets.facts.emergency_visits import measured, other_ends
from hospital_assets.assets.facts.patient_flow import cancelled_visits, folded, visit_ends
from hospital_assets.assets.facts.stale_partitions import UNDECIDED, by_day, overtaken
from hospital_assets.assets.kpis.arrivals import arrivals_by_hour
from hospital_assets.assets.kpis.people import age_band
from hospital_assets.contracts import CONTRACTS
from hospital_assets.landing.registry import Profiles, load_profiles
from hospital_assets.measures.age import age_in_years
from hospital_assets.measures.news2 import points, scores
from hospital_assets.warehouse.database import Period
from hospital_assets.warehouse.dialect import (
    Frame,
    checkpoint,
    exact_mean,
    exact_median,
    exact_quantile,
    exact_sum,
    explode_hours,
    hash_keys,
    hours_between,
    json_fields,
    lazy,
    local_clocks,
    minutes_between,
    parse_dates,
    parse_numbers,
    parse_wall_clocks,
    resolve_instants,
)
from hospital_assets.warehouse.errors import WarehouseError
from hospital_assets_tests.engines import ENGINES, Engine
from hospital_assets_tests.oracle import Oracle


def collect(frame: Frame) -> pl.DataFrame:
    native: pl.DataFrame = frame.collect("polars").to_native()
    zoned = [n for n, t in native.schema.items() if isinstance(t, pl.Datetime) and t.time_zone]
    return native.with_columns(pl.col(n).dt.convert_time_zone("UTC") for n in zoned)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# Arithmetic ---------------------------------------------------------------------------------------


def test_figures_are_the_same_to_the_last_digit(on: Engine) -> None:
    drawn = random.Random(3)
    spans = [timedelta(microseconds=drawn.randrange(10**10)) for _ in range(500)]
    start, groups = at("2026-03-01T10:00:00"), [*(n % 7 for n in range(500)), 0]
    frame = on(
        pl.DataFrame({"group": groups, "end": [*(start + span for span in spans), None]}).with_columns(start=start)
    )
    taken = collect(frame.select("group", minutes=minutes_between("start", "end"), hours=hours_between("start", "end")))
    microseconds = [span // timedelta(microseconds=1) for span in spans]
    exact = sorted((each / 60_000_000, each / 3_600_000_000) for each in microseconds)
    assert sorted(taken.drop_nulls().select("minutes", "hours").rows()) == exact

    figures = {
        "total": exact_sum("minutes"),
        "mean": exact_mean("minutes"),
        "median": exact_median("minutes"),
        "p90": exact_quantile("minutes", 0.9),
    }
    found = collect(on(taken).group_by("group").agg(**figures).sort("group"))
    for group, *row in found.rows():
        of_group = sorted(taken.filter(pl.col("group") == group)["minutes"].drop_nulls())
        total = sum(math.floor(value * 1e9 + 0.5) for value in of_group) / 1e9
        place = 0.9 * (len(of_group) - 1)
        below, above = of_group[int(place)], of_group[int(place) + 1]
        wanted = [statistics.median(of_group), below + (above - below) * (place - int(place))]
        assert row == [total, total / len(of_group), *(math.floor(value * 1e9 + 0.5) / 1e9 for value in wanted)]


def test_halves_are_rounded_up_on_every_engine(on: Engine) -> None:
    frame = on(pl.DataFrame({"value": [0.5e-9, 1.5e-9, 2.5e-9]}))
    assert collect(frame.select(exact_sum("value"))).item() == 6e-9


@pytest.mark.parametrize("on", ENGINES.values(), ids=ENGINES)
def test_what_cannot_be_computed_quotes_no_value(on: Engine) -> None:
    numbers = on(pl.DataFrame({"spo2_pct": ["97", "Erika Mustermann 4711"]})).with_columns(
        nw.col("spo2_pct").cast(nw.Int64)
    )
    with pytest.raises(WarehouseError) as refused:
        checkpoint(numbers)
    assert "could not be computed" in str(refused.value)
    assert "Mustermann" not in str(refused.value)
    assert "4711" not in str(refused.value)


def test_json_with_numbers_that_are_none_is_read_alike(on: Engine) -> None:
    texts = [
        '{"a": NaN, "b": -Infinity, "c": "x, NaN, y"}',
        '{"a": "he said \\": NaN, ok", "b": 1.50}',
        '{"a":Infinity,"b":[NaN,1],"c":null}',
        None,
    ]
    frame = on(pl.DataFrame({"place": range(4), "record": texts}))
    read = collect(json_fields(frame, "record", {name: f"$.{name}" for name in "ac"}).sort("place")).select("a", "c")
    assert read.rows() == [("NaN", "x, NaN, y"), ('he said ": NaN, ok', None), ("Infinity", None), (None, None)]


# Text and time ------------------------------------------------------------------------------------

CLOCKS = [
    ("2026-01-01 10:00:00", datetime(2026, 1, 1, 10), None),
    ("2026-01-01T05:03:00-06:00", datetime(2026, 1, 1, 5, 3), -360),
    ("2026-01-01T05:03:00.250Z", datetime(2026, 1, 1, 5, 3, 0, 250_000), 0),
    ("2026-01-01 05:03+0530", datetime(2026, 1, 1, 5, 3), 330),
    ("01/15/2026 09:13", datetime(2026, 1, 15, 9, 13), None),
    (" 2026-01-15 ", datetime(2026, 1, 15), None),
    ("2026-02-30 10:00:00", None, None),
    ("yesterday", None, None),
    # What DuckDB's own cast would read as ten in the morning, 1970, the next day, or UTC.
    ("2026-01-05 10:00 PM", None, None),
    ("epoch", None, None),
    ("infinity", None, None),
    ("2026-01-05 24:00:00", None, None),
    ("2026-01-05T24:00:00", None, None),
    ("2026-01-05T10:00:00 UTC", None, None),
    ("2026-01-05T10:00:60", None, None),
    ("2026-01-05T10:00:00.1234567", datetime(2026, 1, 5, 10, 0, 0, 123_456), None),
    ("2026-01-05 10:00:00 +01:00", datetime(2026, 1, 5, 10), 60),
    # An offset can only stand behind a time of day.
    ("2026-01-05-05:00", None, None),
    ("01-05-2026", None, None),
    ("01/05/2026 10:30-05:00", datetime(2026, 1, 5, 10, 30), -300),
    ("20260105T103000Z", datetime(2026, 1, 5, 10, 30), 0),
    (" 20260105T103000-05:00 ", datetime(2026, 1, 5, 10, 30), -300),
    ("20260105103000+0530", datetime(2026, 1, 5, 10, 30), 330),
    ("20260105T103000", datetime(2026, 1, 5, 10, 30), None),
    ("20260105-0500", None, None),
    ("", None, None),
    (None, None, None),
]


def test_wall_clocks_and_their_offsets(on: Engine) -> None:
    frame = pl.DataFrame({"t": [text for text, *_ in CLOCKS]}, schema={"t": pl.String})
    formats = ["%m/%d/%Y %H:%M", "%Y%m%dT%H%M%S", "%Y%m%d%H%M%S"]
    read = collect(parse_wall_clocks(on(frame), {"c": "t"}, formats))
    assert read["c"].to_list() == [clock for _, clock, _ in CLOCKS]
    assert read["c_offset_minutes"].to_list() == [offset for *_, offset in CLOCKS]


#: Format -> texts of one clock each: T is a letter like any other, but for ISO 8601.
LETTERS = {
    "%d-%b-%Y %H:%M": ("05-OCT-2026 08:10", "05-Oct-2026 08:10", "05-oct-2026 08:10"),
    "%d %B %Y %H:%M": ("05 OCTOBER 2026 08:10", "05 October 2026 08:10"),
    "%d-%b-%y %I:%M %p": ("05-OCT-26 08:10 AM", "05-Oct-26 08:10 am"),
    "%d/%m/%YT%H:%M": ("05/10/2026T08:10", "2026-10-05T08:10"),
    "%Y%m%dT%H%M%S": ("20261005T081000",),
}


@pytest.mark.parametrize("known", LETTERS)
def test_a_letter_t_in_a_clock_is_read_as_it_is_written(known: str, on: Engine) -> None:
    frame = pl.DataFrame({"t": LETTERS[known]})
    read = collect(parse_wall_clocks(on(frame), {"c": "t"}, [known]))
    assert read["c"].to_list() == [datetime(2026, 10, 5, 8, 10)] * frame.height


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.none() | st.text(max_size=30), min_size=1, max_size=20))
def test_no_text_makes_the_parsers_fail(texts: list[str | None]) -> None:
    clean = [None if t is None else t.encode("utf-8", "ignore").decode().replace("\x00", "") for t in texts]
    frame = pl.DataFrame({"t": clean}, schema={"t": pl.String})
    for engine in ENGINES.values():
        parsed = parse_wall_clocks(engine(frame), {"c": "t"}, ["%m/%d/%Y %H:%M"])
        parsed = parse_numbers(parsed, {"n": "t"})
        assert collect(parse_dates(parsed, {"d": "t"})).height == len(texts)


def test_numbers_json_and_keys_are_the_same_on_both_engines() -> None:
    frame = pl.DataFrame(
        {
            "n": ["1", " 2.5 ", "nan", "inf", "x", None, "-4"],
            "j": ['{"a":{"b":1.5}}', "{}", None, '{"a":null}', '{"a":{"b":"7"}}', "{}", "{}"],
        }
    )
    results = []
    for engine in ENGINES.values():
        out = parse_numbers(engine(frame), {"x": "n"})
        out = json_fields(out, "j", {"b": "$.a.b", "c": "$.a.c"})
        results.append(collect(hash_keys(out, {"k": ["n", "j"]})))
    assert_frame_equal(*results)
    assert results[0]["x"].to_list() == [1.0, 2.5, None, None, None, None, -4.0]
    assert results[0]["b"].to_list() == ["1.5", None, None, None, "7", None, None]


G8 = [
    # local start, local end, offset needed for the end, minutes (G8: 45, 20, 540)
    ("2026-11-01 01:30:00-05:00", "2026-11-01 01:15:00-06:00", 45.0),
    ("2026-03-08 01:50:00", "2026-03-08 03:10:00", 20.0),
    ("2026-10-31 22:00:00", "2026-11-01 06:00:00", 540.0),
]


@pytest.mark.parametrize(("start", "end", "minutes"), G8)
def test_durations_across_daylight_saving(on: Engine, start: str, end: str, minutes: float) -> None:
    frame = on(pl.DataFrame({"s": [start], "e": [end], "z": ["America/Chicago"]}))
    frame = parse_wall_clocks(frame, {"a": "s", "b": "e"})
    read = collect(resolve_instants(frame, {"from": "a", "until": "b"}, "z"))
    assert (read["until"] - read["from"]).dt.total_minutes().item() == minutes


def test_hours_that_happen_twice_or_never(on: Engine) -> None:
    clocks = ["2026-11-01 01:30:00", "2026-03-08 02:30:00", "2026-07-01 12:00:00"]
    frame = on(pl.DataFrame({"t": clocks * 2, "z": ["America/Chicago"] * 3 + ["America/Phoenix"] * 3}))
    frame = resolve_instants(parse_wall_clocks(frame, {"c": "t"}), {"i": "c"}, "z")
    read = collect(local_clocks(frame, {"back": "i"}, "z")).sort("z", "t")
    gaps = read.filter(pl.col("i_is_missing"))
    assert gaps["t"].to_list() == ["2026-03-08 02:30:00"]
    twice = read.filter(pl.col("i") != pl.col("i_second"))
    assert twice["i"].to_list() == [at("2026-11-01 06:30")]
    assert twice["i_second"].to_list() == [at("2026-11-01 07:30")]


def test_hours_of_an_interval(on: Engine) -> None:
    frame = pl.DataFrame(
        {
            "s": [at("2026-01-01 10:30"), at("2026-01-01 10:00"), at("2026-01-01 10:00")],
            "e": [at("2026-01-01 12:00"), at("2026-01-01 10:00"), at("2026-01-01 11:00")],
        }
    )
    hours = collect(explode_hours(on(frame), "s", "e", "h")).sort("s", "h")
    assert hours["h"].to_list() == [at("2026-01-01 10:00"), at("2026-01-01 10:00"), at("2026-01-01 11:00")]


# Waits (G1) ---------------------------------------------------------------------------------------


def visit(name: str, arrival: str, triage: str | None, provider: str | None, **other: object) -> dict:  # type: ignore[type-arg]
    def clock(text: str | None) -> datetime | None:
        return None if text is None else at(f"2026-01-{text}")

    return {
        "visit_id": name,
        "arrival_at": clock(arrival),
        "triage_at": clock(triage),
        "provider_at": clock(provider),
        "decision_at": None,
        "departure_at": None,
        "disposition": None,
        "triage_level": 3,
        "birth_date": None,
        "age_at_extract_years": None,
        "doctor_id": "D1",
        "doctor_key": 5,
        "triage_key": 13,
        "condition_key": 7,
        "arrival_local": datetime(2026, 1, 1),
        "service_date": date(2026, 1, 1),
        "quality_codes": "",
        "_provider_local": None,
        "_departure_local": None,
        "is_cancelled": False,
        "arrival_mode": "walk_in",
        "handover_at": None,
        "room_at": None,
        **other,
    }


VISIT_TYPES = {
    name: pl.Datetime("us", "UTC")
    for name in ("arrival_at", "triage_at", "provider_at", "decision_at", "departure_at", "handover_at", "room_at")
} | {
    "birth_date": pl.Date,
    "age_at_extract_years": pl.Int64,
    "disposition": pl.String,
    "_provider_local": pl.Datetime("us"),
    "_departure_local": pl.Datetime("us"),
}


def test_waits_by_the_fields_definition(on: Engine) -> None:
    visits = pl.DataFrame(
        [
            visit("V1", "01 10:00", None, "01 10:20"),
            visit("V2", "01 23:50", None, "02 00:35"),
            visit("V3", "01 11:00", "01 10:58", "01 11:30"),
            visit("V4", "01 11:00", None, None, disposition="left_without_being_seen", doctor_id=None),
            visit("V5", "01 10:00", None, "01 09:55"),
        ],
        schema_overrides=VISIT_TYPES,
    )
    out = collect(measured(on(visits))).sort("visit_id")
    assert out["wait_minutes"].to_list() == [20.0, 45.0, 32.0, None, None]
    assert round(out["wait_minutes"].mean(), 2) == 32.33  # type: ignore[arg-type]
    assert out["wait_exclusion"].to_list() == [None, None, None, "no_provider", "negative"]
    assert out["is_lwbs"].to_list() == [False, False, False, True, False]
    assert out["doctor_key"].to_list() == [5, 5, 5, -2, 5]


def test_treatment_is_not_the_whole_stay(on: Engine) -> None:
    visits = pl.DataFrame(
        [
            visit(
                "V1",
                "01 10:00",
                None,
                "01 10:30",
                decision_at=at("2026-01-01 12:00"),
                departure_at=at("2026-01-01 13:00"),
            ),
            visit("V2", "01 10:00", None, "01 10:30", departure_at=at("2026-01-01 09:00")),
        ],
        schema_overrides=VISIT_TYPES,
    )
    out = collect(measured(on(visits))).sort("visit_id")
    assert out["treatment_minutes"].to_list() == [90.0, None]
    assert out["los_minutes"].to_list() == [180.0, None]


# NEWS2 (G11) --------------------------------------------------------------------------------------


def observation(**values: object) -> dict[str, object]:
    normal = {
        "respiratory_rate_per_min": 16.0,
        "spo2_pct": 98.0,
        "is_on_oxygen": False,
        "systolic_mmhg": 120.0,
        "heart_rate_bpm": 70.0,
        "consciousness": "A",
        "temperature_c": 37.0,
        "spo2_scale": 1,
        "age_years": 40,
    }
    return {**normal, **values}


NEWS2 = [
    # values -> score, red parameter, response, missing
    (
        observation(
            respiratory_rate_per_min=22.0, spo2_pct=95.0, systolic_mmhg=105.0, heart_rate_bpm=112.0, temperature_c=38.5
        ),
        7,
        False,
        "emergency",
        0,
    ),
    (observation(spo2_pct=97.0, is_on_oxygen=True), 2, False, "low", 0),
    (observation(spo2_pct=97.0, is_on_oxygen=True, spo2_scale=2), 5, True, "urgent", 0),
    (observation(respiratory_rate_per_min=25.0), 3, True, "urgent_ward_review", 0),
    (observation(temperature_c=36.04), 1, False, "low", 0),
    (observation(temperature_c=36.05), 0, False, "low", 0),
    (observation(temperature_c=35.0), 3, True, "urgent_ward_review", 0),
    (observation(temperature_c=39.1), 2, False, "low", 0),
    (observation(spo2_pct=None), None, False, None, 1),
    (observation(spo2_pct=None, consciousness="V"), None, True, "urgent_ward_review", 1),
    (observation(age_years=15, respiratory_rate_per_min=40.0), None, None, None, 0),
    (observation(age_years=None), None, None, None, 0),
    (observation(spo2_pct=93.0, spo2_scale=2), 0, False, "low", 0),
    (observation(systolic_mmhg=220.0), 3, True, "urgent_ward_review", 0),
    (observation(heart_rate_bpm=40.0, respiratory_rate_per_min=8.0), 6, True, "urgent", 0),
]


def test_news2(on: Engine) -> None:
    rows = pl.DataFrame([{"n": n, **values} for n, (values, *_) in enumerate(NEWS2)])
    out = collect(on(rows).with_columns(**points()).with_columns(**scores())).sort("n")
    for row, (_, score, red, response, missing) in zip(out.iter_rows(named=True), NEWS2, strict=True):
        said = (row["news2_score"], row["has_news2_red_parameter"], row["news2_response"])
        assert said == (score, red, response), row["n"]
        assert row["news2_missing_count"] == missing


# Ages (G14), SCD2 (G20) ---------------------------------------------------------------------------


def test_age_is_completed_years(on: Engine) -> None:
    rows = pl.DataFrame(
        {
            "n": [0, 1, 2, 3, 4],
            "born": [date(2000, 3, 1), date(2000, 3, 1), None, date(2027, 1, 1), date(2024, 2, 29)],
            "on": [
                datetime(2001, 3, 1, 0, 5),
                datetime(2001, 2, 28),
                datetime(2026, 1, 1),
                datetime(2026, 1, 1),
                datetime(2025, 2, 28),
            ],
            "extract": [None, None, 77, None, None],
        },
        schema_overrides={"extract": pl.Int64},
    )
    out = collect(on(rows).with_columns(a=age_in_years("born", "on", "extract"))).sort("n")
    assert out["a"].to_list() == [1, 0, 77, None, 0]


def test_age_bands_do_not_overlap(on: Engine) -> None:
    ages = pl.DataFrame({"a": [0, 1, 17, 18, 89, 90, 104, None]}, schema={"a": pl.Int64})
    out = collect(on(ages).with_columns(b=age_band("a")))
    assert out["b"].to_list() == ["00-00", "01-04", "15-17", "18-24", "85-89", "90+", "90+", None]


def test_a_visit_moved_across_midnight_is_on_one_day(on: Engine) -> None:
    rows = [
        # visit, service day, recorded
        ("V1", date(2026, 1, 5), at("2026-01-05T00:10")),
        ("V1", date(2026, 1, 4), at("2026-01-07T09:00")),  # corrected to before midnight
        ("V2", date(2026, 1, 5), at("2026-01-05T10:00")),
        ("V3", date(2026, 1, 4), None),
        ("V3", date(2026, 1, 5), at("2026-01-05T10:00")),  # what says when it was written wins
    ]
    visits = on(
        pl.DataFrame(
            [(*row, "f.csv", place, 1) for place, row in enumerate(rows)],
            schema={
                "visit_id": pl.String,
                "service_date": pl.Date,
                "recorded_at": pl.Datetime("us", "UTC"),
                "source_file": pl.String,
                "source_line": pl.Int64,
                "source_part": pl.Int64,
            },
            orient="row",
        )
    )

    def of(first: int, end: int) -> list[tuple[str, int]]:
        period = Period(date(2026, 1, first), date(2026, 1, end))
        found = collect(newest_of_each(visits, ["visit_id"], period))
        return sorted((row["visit_id"], row["service_date"].day) for row in found.rows(named=True))

    assert of(4, 5) == [("V1", 4)]
    assert of(5, 6) == [("V2", 5), ("V3", 5)]
    assert of(4, 6) == [("V1", 4), ("V2", 5), ("V3", 5)]


@pytest.mark.parametrize(("source", "kept"), [("native", ["P1", "P1", "P4", "P5"]), ("fhir-r4", None)])
def test_a_number_used_again_stays_the_first_patients(on: Engine, source: str, kept: list[str] | None) -> None:
    rows = [
        # visit, patient, service day, recorded
        ("V1", "P2", date(2026, 3, 1), at("2026-03-01T10:00")),
        ("V1", "P1", date(2026, 1, 1), at("2026-01-01T10:00")),
        ("V1", "P1", date(2026, 1, 2), at("2026-03-02T10:00")),  # corrected, long after
        ("V2", "P3", date(2026, 1, 2), None),
        ("V2", "P4", date(2026, 1, 1), None),  # its day tells
        ("V3", "P5", date(2026, 1, 1), None),
    ]
    visits = pl.DataFrame(
        [(*row, "p", "f.csv", place, 1) for place, row in enumerate(rows)],
        schema={
            "visit_id": pl.String,
            "patient_id": pl.String,
            "service_date": pl.Date,
            "recorded_at": pl.Datetime("us", "UTC"),
            "source_profile": pl.String,
            "source_file": pl.String,
            "source_line": pl.Int64,
            "source_part": pl.Int64,
        },
        orient="row",
    )
    events = pl.DataFrame(schema={"event_type": pl.String, "visit_id": pl.String})
    profiles = Profiles({"p": load_profiles(None)[source]})
    found = collect(of_first_patient(on(visits), on(events), profiles))["patient_id"].to_list()
    assert sorted(found) == (sorted(visits["patient_id"]) if kept is None else kept)


def test_a_late_version_splits_a_row_and_facts_find_it(on: Engine) -> None:
    # A holds from 1 January, C from 1 March; B, from 1 February, is delivered last.
    rows = pl.DataFrame(
        {
            "p": ["P"] * 4,
            "v": ["A", "C", "B", "B"],
            "since": [at("2026-01-01"), at("2026-03-01"), at("2026-02-01"), at("2026-02-15")],
            "k": [1, 3, 2, 4],
        }
    )
    changed = changes_only(on(rows), "p", "since", ["v"])
    dimension = versions(changed, "p", "since")
    out = collect(dimension).sort("since")
    assert out["v"].to_list() == ["A", "B", "C"]  # the repetition of B is not a version
    assert out["valid_to_at"].to_list()[:2] == out["valid_from_at"].to_list()[1:]
    assert out["is_current"].to_list() == [False, False, True]
    # One of each: found, at the edge of two versions, unknown, without a moment, without a member.
    facts = pl.DataFrame(
        {
            "id": ["a", "b", "c", "d", "e"],
            "p": ["P", "P", "Q", "P", None],
            "t": [at("2026-02-10"), at("2026-03-01"), at("2026-02-10"), None, at("2026-02-10")],
        }
    )
    found = collect(key_at(on(facts), on(out), natural="p", at="t", key="k", also=["v"])).sort("id")
    assert found["k"].to_list() == [2, 3, -1, -1, -1]
    assert found["v"].to_list() == ["B", "C", None, None, None]


# Patient flow (G21) -------------------------------------------------------------------------------

G21 = [
    ("M1", "A04", "01 10:00"),
    ("M2", "A01", "01 12:00"),
    ("M3", "A02", "01 13:00"),
    ("M4", "A12", "01 13:30"),
    ("M5", "A03", "02 09:00"),
    ("M6", "A13", "02 09:30"),
    ("M7", "A03", "03 11:00"),
]


def events(rows: list[tuple[str, str, str]]) -> pl.DataFrame:
    contract = CONTRACTS["cleaned_adt_events"]
    return pl.DataFrame(
        [
            {
                **dict.fromkeys(contract.column_names),
                "service_date": date(2026, 1, 1),
                "message_id": m,
                "event_type": kind,
                "visit_id": "V",
                "patient_id": "P",
                "hospital_id": "H1",
                "department_name": "Surgery" if kind != "A04" else "Emergency",
                "event_at": at(f"2026-01-{when}"),
                "recorded_at": at(f"2026-01-{when}"),
                "visit_start_at": at("2026-01-01 10:00"),
                "discharge_disposition": "home",
                "source_line": 1,
                "source_part": 1,
            }
            for m, kind, when in rows
        ],
        schema=contract.polars_schema,
    )


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(G21))
def test_events_fold_to_one_stay_in_any_order(order: list[tuple[str, str, str]]) -> None:
    out = collect(folded(lazy(events(order)))).sort("segment_number")
    inpatient = out.filter(pl.col("stay_class") == "inpatient")
    assert inpatient.height == 1
    assert inpatient["length_of_stay_hours"].to_list() == [47.0]  # not 21 h from the first discharge
    emergency = out.filter(pl.col("stay_class") == "emergency")
    assert emergency["segment_hours"].to_list() == [2.0]


def test_folding_on_duckdb_gives_the_same() -> None:
    names = ["segment_number", "segment_start_at", "segment_end_at", "length_of_stay_hours"]
    both = [collect(folded(engine(events(G21)))).select(names).sort(names) for engine in ENGINES.values()]
    assert_frame_equal(*both)


def test_a_cancelled_registration_is_no_stay(on: Engine) -> None:
    cancelled = [*G21[:1], ("M9", "A11", "01 10:05")]
    assert collect(folded(on(events(cancelled)))).is_empty()
    assert collect(cancelled_visits(on(events(cancelled))))["visit_id"].to_list() == ["V"]
    again = [*cancelled, ("N1", "A04", "01 10:20"), ("N2", "A03", "01 11:20")]
    out = collect(folded(on(events(again))))
    assert out["length_of_stay_hours"].to_list() == [1.0]  # from the second registration
    assert collect(cancelled_visits(on(events(again)))).is_empty()


def test_a_cancellation_is_of_all_that_was_written_before_it(on: Engine) -> None:
    told = [("M1", "A04", "01 10:00"), ("M2", "A02", "01 20:30"), ("M3", "A11", "01 10:00"), ("M4", "A04", "01 10:00")]
    written = events(told).with_columns(
        recorded_at=pl.Series([None, at("2026-01-01 20:30"), at("2026-01-01 21:00"), at("2026-01-01 21:10")])
    )
    before = on(written.head(3))
    assert collect(folded(before)).is_empty()
    assert collect(cancelled_visits(before))["visit_id"].to_list() == ["V"]
    assert collect(folded(on(written)))["message_id"].to_list() == ["M4"]
    assert collect(cancelled_visits(on(written))).is_empty()
    # As FHIR has it: what a cancelled encounter says is written in one moment.
    at_once = on(events(told[:3]).with_columns(recorded_at=pl.lit(at("2026-01-01 21:00"))))
    assert collect(folded(at_once)).is_empty()


@pytest.mark.parametrize(
    ("told", "left"),
    [
        ([("A04", "01 10:00", "Emergency"), ("A06", "01 12:00", "Surgery")], "01 12:00"),
        # A boarder is admitted where he is, and leaves with the transfer or the discharge.
        ([("A04", "01 10:00", "Emergency"), ("A06", "01 12:00", "Emergency")], None),
        (
            [
                ("A04", "01 10:00", "Emergency"),
                ("A06", "01 12:00", None),
                ("A02", "01 15:00", "Surgery"),
                ("A02", "02 15:00", "Medicine"),
            ],
            "01 15:00",
        ),
        ([("A04", "01 10:00", "Emergency"), ("A06", "01 12:00", "Emergency"), ("A03", "01 18:00", None)], "01 18:00"),
        # What was taken back has not happened.
        (
            [
                ("A04", "01 10:00", "Emergency"),
                ("A06", "01 12:00", "Emergency"),
                ("A02", "01 15:00", "Surgery"),
                ("A12", "01 15:10", "Emergency"),
            ],
            None,
        ),
        ([("A04", "01 10:00", "Emergency"), ("A06", "01 12:00", "Surgery"), ("A07", "01 12:10", "Emergency")], None),
        ([("A04", "01 10:00", "Emergency"), ("A03", "01 12:00", None)], "01 12:00"),
        # A ward that nobody knows is another place than the emergency department, unless nobody knows that either.
        ([("A04", "01 10:00", "Emergency"), ("A06", "01 12:00", "?"), ("A03", "06 11:00", "?")], "01 12:00"),
        ([("A04", "01 10:00", "Emergency"), ("A06", "01 12:00", None), ("A02", "01 15:00", "?")], "01 15:00"),
        ([("A04", "01 10:00", "?"), ("A06", "01 12:00", "?"), ("A03", "01 18:00", None)], "01 18:00"),
        ([("A04", "01 10:00", "?"), ("A06", "01 12:00", "?"), ("A02", "01 15:00", "Surgery")], "01 15:00"),
        # Who is not admitted may be anywhere.
        ([("A04", "01 10:00", "Emergency"), ("A02", "01 11:00", "?"), ("A03", "01 12:00", None)], "01 12:00"),
    ],
)
def test_when_emergency_visits_end(told: list[tuple[str, str, str | None]], left: str | None, on: Engine) -> None:
    """`?` is a place that is stated, and none of the known departments."""
    places = [place for *_, place in told]
    rows = events([(f"M{n}", kind, when) for n, (kind, when, _) in enumerate(told)]).with_columns(
        department_name=pl.Series([None if place == "?" else place for place in places], dtype=pl.String),
        quality_codes=pl.Series([DEPARTMENT_UNKNOWN.name if place == "?" else "" for place in places]),
    )
    found = collect(visit_ends(on(rows)))["left_at"].to_list()
    assert found == [at(f"2026-01-{left}") if left else None]


def test_a_message_of_another_day_makes_the_day_of_its_visit_stale(on: Engine) -> None:
    day, next_day = date(2026, 1, 1), date(2026, 1, 2)
    told = [("A04", "01 23:00", "Emergency", day), ("A06", "02 01:00", "Surgery", next_day)]
    rows = events([(f"M{n}", kind, when) for n, (kind, when, *_) in enumerate(told)]).with_columns(
        department_name=pl.Series([place for _, _, place, _ in told]),
        service_date=pl.Series([dated for *_, dated in told]),
        source_profile=pl.lit("hl7v2-adt"),
    )
    contract = CONTRACTS["cleaned_er_visits"]
    visits = pl.DataFrame(
        [{**dict.fromkeys(contract.column_names), "visit_id": "V", "service_date": day, "source_profile": "hl7v2-adt"}],
        schema=contract.polars_schema,
    )
    stored = pl.DataFrame(
        {"visit_id": ["V"], "service_date": [day], "is_cancelled": [False], "departure_at": [None], "is_open": [True]},
        schema_overrides={"departure_at": contract.polars_schema["departure_at"]},
    ).with_columns(disposition=pl.lit(None, dtype=pl.String))

    def stale(stored: pl.DataFrame, rows: pl.DataFrame) -> list[date]:
        return collect(other_ends(on(stored), on(visits), on(rows), load_profiles(None)))["service_date"].to_list()

    assert stale(stored, rows) == [day]
    assert stale(stored, rows.head(1)) == []
    ended_then = stored.with_columns(departure_at=rows["event_at"][1], is_open=False, disposition=pl.lit("admitted"))
    assert stale(ended_then, rows) == []
    assert stale(ended_then.with_columns(disposition=pl.lit("home")), rows) == [day]
    cancelled = rows.with_columns(event_type=pl.Series(["A04", "A11"]), department_name=pl.lit("Emergency"))
    assert stale(stored, cancelled) == [day]


def test_a_shift_that_a_correction_has_moved_makes_its_old_day_stale(on: Engine) -> None:
    days = [date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 2)]
    stored = on(pl.DataFrame({"shift_id": ["S", "S", "T"], "service_date": days}))
    (moved,) = doctor_shifts.OTHER_DAYS
    rows = moved.rows({"fact_doctor_shifts": stored, "cleaned_doctor_shifts": stored}, load_profiles(None))
    named = collect(by_day(rows, "fact_doctor_shifts")).sort("stale_date")
    assert named.select("table_name", "stale_date", "row_count").rows() == [
        ("fact_doctor_shifts", days[0], 1),
        ("fact_doctor_shifts", days[1], 1),
    ]


@pytest.mark.parametrize(
    ("made", "now", "is_stale"),
    [
        ("02 10:00", "02 11:59", False),
        ("02 10:00", "02 12:00", True),
        ("02 12:30", "03 11:59", False),
        ("02 12:30", "03 12:00", True),
        # 72 hours after the day has ended everywhere nobody of it is there.
        ("04 12:30", "09 00:00", True),
        ("05 12:00", "09 00:00", False),
    ],
)
def test_a_day_is_stale_while_time_alone_may_change_it(on: Engine, made: str, now: str, is_stale: bool) -> None:
    as_of_at, at = (datetime.strptime(f"2026-03-{text}+0000", "%Y-%m-%d %H:%M%z") for text in (made, now))
    rows = [(hospital, date(2026, 3, 1), as_of_at, waiting, 0) for hospital, waiting in (("H1", 1), ("H2", 0))]
    kpi = pl.DataFrame(rows, ["hospital_id", "service_date", "as_of_at", "waiting", "pending"], orient="row")
    found = collect(overtaken(on(kpi), ("waiting", "pending"), at))
    assert found["hospital_id"].to_list() == ["H1"] * is_stale


def test_every_kpi_of_a_moment_is_looked_at_again() -> None:
    of_a_moment = {name for name, table in CONTRACTS.items() if table.partitioned and "as_of_at" in table.column_names}
    assert of_a_moment == set(UNDECIDED)
    assert all(set(counts) <= set(CONTRACTS[name].column_names) for name, counts in UNDECIDED.items())


def departments(rows: list[tuple[str, str, str]], on: Engine) -> list[str]:
    """Event types of the moves that stand, in order."""
    out = collect(folded(on(events(rows)))).sort("segment_number")
    return [text[5:16] for text in out["segment_start_at"].dt.to_string("%Y-%m-%d %H:%M")]


def test_each_cancellation_takes_back_the_last_transfer_before_it(on: Engine) -> None:
    base = [("M1", "A04", "01 10:00"), ("M2", "A02", "01 11:00"), ("M3", "A02", "01 12:00")]
    one = [*base, ("M4", "A12", "01 12:30")]
    assert departments(one, on) == ["01-01 10:00", "01-01 11:00"]
    both = [*one, ("M5", "A12", "01 12:40")]
    assert departments(both, on) == ["01-01 10:00"]
    # One cancellation too many, and then a transfer that stands.
    after = [*both, ("M6", "A12", "01 12:50"), ("M7", "A02", "01 13:00")]
    assert departments(after, on) == ["01-01 10:00", "01-01 13:00"]


def test_a_cancelled_discharge_cancels_its_corrections_too(on: Engine) -> None:
    rows = [("M1", "A04", "01 10:00"), ("M2", "A03", "01 12:00"), ("M3", "A03", "01 12:05"), ("M4", "A13", "01 12:30")]
    out = collect(folded(on(events(rows))))
    assert out["is_open"].to_list() == [True] and out["length_of_stay_hours"].to_list() == [None]


def said(told: list[tuple[str, str, str]]) -> pl.DataFrame:
    """Events by what they are, when it happened, and when it was written."""
    rows = events([(f"M{n}", kind, when) for n, (kind, when, _) in enumerate(told)])
    return rows.with_columns(recorded_at=pl.Series([at(f"2026-01-{when}") for *_, when in told]))


def test_a_cancellation_leaves_what_was_written_after_it(on: Engine) -> None:
    """Also what happened before the moment that the cancellation was written."""
    discharged = [
        ("A01", "01 08:00", "01 08:00"),
        ("A03", "01 09:00", "01 09:00"),
        ("A13", "01 15:00", "01 15:00"),
        ("A03", "01 14:30", "01 15:05"),
    ]
    out = collect(folded(on(said(discharged))))
    assert out["stay_end_at"].to_list() == [at("2026-01-01 14:30")]
    assert collect(folded(on(said(discharged[:3]))))["is_open"].to_list() == [True]
    # The transfer of 12:00 was none; the other one took place before that was known.
    moved = [
        ("A01", "01 08:00", "01 08:00"),
        ("A02", "01 12:00", "01 12:00"),
        ("A12", "01 13:00", "01 13:00"),
        ("A02", "01 12:30", "01 13:05"),
    ]
    starts = collect(folded(on(said(moved)))).sort("segment_number")["segment_start_at"].to_list()
    assert starts == [at("2026-01-01 08:00"), at("2026-01-01 12:30")]
    # A cancellation may say when what it cancels happened.
    at_its_time = [*moved[:2], ("A02", "01 14:00", "01 14:00"), ("A12", "01 12:00", "01 14:10")]
    starts = collect(folded(on(said(at_its_time)))).sort("segment_number")["segment_start_at"].to_list()
    assert starts == [at("2026-01-01 08:00"), at("2026-01-01 12:00")]


ADMITTED = [("A04", "01 10:00", "01 10:00"), ("A01", "01 12:00", "01 12:00"), ("A02", "01 12:10", "01 12:10")]
NOT_ADMITTED = [*ADMITTED, ("A11", "01 12:00", "01 12:30")]


@pytest.mark.parametrize(
    ("told", "stays"),
    [
        # Of a visit that was registered and then admitted, the admission is cancelled.
        (NOT_ADMITTED, {("emergency", "01 10:00")}),
        ([*NOT_ADMITTED, ("A01", "01 13:00", "01 13:00")], {("emergency", "01 10:00"), ("inpatient", "01 13:00")}),
        (
            [*NOT_ADMITTED, ("A01", "01 13:00", "01 13:00"), ("A11", "01 13:00", "01 13:10")],
            {("emergency", "01 10:00")},
        ),
        # And then the registration.
        ([*NOT_ADMITTED, ("A11", "01 10:00", "01 12:40")], set()),
        (
            [*NOT_ADMITTED, ("A11", "01 10:00", "01 12:40"), ("A04", "01 12:45", "01 12:45")],
            {("emergency", "01 12:45")},
        ),
        # What is registered twice is registered once.
        ([ADMITTED[0], ("A04", "01 10:00", "01 10:20"), ("A11", "01 10:30", "01 10:30")], set()),
        ([*ADMITTED, ("A01", "01 12:00", "01 12:20"), ("A11", "01 12:30", "01 12:30")], {("emergency", "01 10:00")}),
        # What is of no registration goes with the visit.
        ([("A02", "01 09:00", "01 09:00"), ADMITTED[0], ("A11", "01 10:30", "01 10:30")], set()),
        # A cancellation without anything to cancel.
        ([("A11", "01 09:00", "01 09:00"), ADMITTED[0]], {("emergency", "01 10:00")}),
        (
            [
                ("A11", "01 09:00", "01 09:00"),
                ("A06", "01 09:30", "01 09:30"),
                ADMITTED[0],
                ("A11", "01 10:30", "01 10:30"),
            ],
            set(),
        ),
    ],
)
def test_a_cancellation_is_of_the_last_registration_or_admission(
    told: list[tuple[str, str, str]], stays: set[tuple[str, str]], on: Engine
) -> None:
    rows = on(said(told))
    found = collect(folded(rows)).select("stay_class", pl.col("stay_start_at").dt.strftime("%d %H:%M"))
    assert set(found.rows()) == stays
    assert collect(cancelled_visits(rows)).height == (0 if stays else 1)


def test_any_messages_make_the_stays_that_the_oracle_reads_in_them(on: Engine) -> None:
    rng = random.Random(11)
    kinds = ["A01", "A02", "A03", "A04"] * 2 + ["A06", "A07", "A11", "A11", "A12", "A13"]
    visits = []
    for visit in range(150):
        hours = [(rng.choice(kinds), rng.randint(0, 20), rng.randint(0, 3)) for _ in range(rng.randint(1, 9))]
        told = [(kind, f"01 {hour:02}:00", f"01 {hour + later:02}:{visit % 60:02}") for kind, hour, later in hours]
        name = pl.lit(f"V{visit}-")
        visits.append(said(told).with_columns(visit_id=name, message_id=name + pl.col("message_id")))
    rows = pl.concat(visits)
    others = ("departments", "doctors", "doctor_shifts", "er_visits", "diagnoses")
    oracle = Oracle({f"cleaned_{name}": [] for name in others} | {"cleaned_adt_events": rows.to_dicts()})
    segments = collect(folded(on(rows))).with_columns(_place=pl.col("department_name").fill_null("Unknown"))
    found = {
        (*key, *of_stay.sort("segment_number").select("_place", "segment_start_at", "segment_end_at").iter_rows())
        for key, of_stay in segments.group_by("stay_id", "stay_class")
    }
    assert found == {(stay["stay_id"], stay["stay_class"], *stay["segments"]) for stay in oracle.stays}


@settings(max_examples=60, deadline=None)
@given(kinds=st.lists(st.sampled_from(["A04", "A01", "A02", "A03", "A11", "A12", "A13"]), max_size=8), data=st.data())
def test_any_order_and_repetition_of_any_messages_gives_the_same(kinds: list[str], data: st.DataObject) -> None:
    rows = [(f"M{n}", kind, f"01 {10 + n}:00") for n, kind in enumerate(kinds)]
    names = ["segment_number", "stay_class", "segment_start_at", "segment_end_at", "is_open"]

    def fold(given_rows: list[tuple[str, str, str]]) -> pl.DataFrame:
        frame = events(given_rows).unique("message_id")  # as cleaned_adt_events are
        return collect(folded(lazy(frame))).select(names).sort(names)

    shuffled = data.draw(st.permutations(rows + rows[: len(rows) // 2]))
    out = fold(rows)
    assert_frame_equal(out, fold(shuffled))
    assert out["segment_end_at"].is_null().sum() <= 1
    ends = out.filter(pl.col("segment_end_at").is_not_null())
    assert (ends["segment_end_at"] >= ends["segment_start_at"]).all()


# Peak hours (G16) ---------------------------------------------------------------------------------


def test_arrivals_are_divided_by_hours_that_existed(on: Engine) -> None:
    days = [date(2026, 11, 1), date(2026, 3, 8)]
    data = pl.DataFrame(
        {
            "service_date": days,
            "hospital_id": ["H1"] * 2,
            "time_zone": ["America/Chicago"] * 2,
            "iso_weekday_number": [7, 7],
        }
    )
    visits = (
        data.join(pl.DataFrame({"n": range(6)}), how="cross")
        .filter(pl.col("service_date") == days[0])
        .with_columns(arrival_local=datetime(2026, 11, 1, 1, 20))
    )
    # One connection for both frames: derive the days from the visits' engine.
    out = collect(arrivals_by_hour(lazy(visits), lazy(data)))
    hour = {(r["service_date"], r["hour_of_day"]): r for r in out.iter_rows(named=True)}
    repeated = hour[days[0], 1]
    assert (repeated["arrivals_count"], repeated["existing_hours_count"]) == (6, 2)  # 3.0 an hour
    assert hour[days[1], 2]["existing_hours_count"] == 0
    by_day = out.group_by("service_date").agg(pl.col("existing_hours_count").sum())
    assert dict(by_day.iter_rows()) == {days[0]: 25, days[1]: 23}


def test_what_a_record_does_not_state_is_as_an_earlier_one_stated_it(on: Engine) -> None:
    born = date(1940, 1, 2)
    whole = {"sex": "female", "birth_date": born, "zip_code": "60601", "unstated": ""}
    silent = {"sex": "unknown", "unstated": "birth_date;sex;zip_code"}
    moved = {"sex": "unknown", "zip_code": "60602", "unstated": "birth_date;sex"}
    deleted = {"sex": "unknown", "unstated": "zip_code;sex"}
    # The second patient is unknown first, the third comes from a source whose records are whole.
    told = {"P1": [whole, silent, moved, deleted, silent], "P2": [silent, whole], "P3": [whole, {"sex": "unknown"}]}
    lines = [
        {"patient_id": patient, "recorded_at": at(f"2026-03-0{number + 1}"), "service_date": date(2026, 3, number + 1)}
        | {"source_file": patient, "source_line": number, "source_part": 1}
        | version
        for patient, records in told.items()
        for number, version in enumerate(records)
    ]
    landed = pl.DataFrame(lines, schema=CONTRACTS["cleaned_patients"].polars_schema)
    transform: Any = dim_patient.op.compute_fn.decorated_fn  # type: ignore[union-attr]
    found = collect(transform(on(landed))).filter(pl.col("patient_id") != "unknown")
    names = ["birth_date", "sex", "zip_code"]

    def stored(patient: str) -> list[tuple[object, ...]]:
        return found.filter(pl.col("patient_id") == patient).sort("version_number").select(names).rows()

    first = (born, "female", "60601")
    assert stored("P1") == [first, (born, "female", "60602"), (None, "female", "60602")]
    assert stored("P2") == [(None, "unknown", None), first]
    assert stored("P3") == [first, (None, "unknown", None)]

    # Where the first record lands last, facts of the second notice by its key that the person has an age.
    late = collect(transform(on(landed.filter(~((pl.col("source_file") == "P1") & (pl.col("source_line") == 0))))))
    keys = [
        frame.filter((pl.col("patient_id") == "P1") & (pl.col("zip_code") == "60602")).sort("version_number")
        for frame in (late, found)
    ]
    assert keys[0]["patient_key"][0] != keys[1]["patient_key"][0]


def test_a_version_of_a_patient_that_landed_on_two_days_is_one(on: Engine) -> None:
    """Outside the covered days a record stands on a day of its file; of two at one moment the later day's counts."""
    written = datetime(2026, 2, 28, 20, 41, tzinfo=UTC)
    rows = [
        {"patient_id": "P1", "recorded_at": written, "service_date": date(2026, 3, day), "insurer": insurer}
        for day, insurer in ((1, "old"), (2, "new"))
    ] + [{"patient_id": "P1", "recorded_at": written + timedelta(days=9), "service_date": date(2026, 3, 9)}]
    place = {"source_file": "f", "source_part": 1, "sex": "female"}
    lines = [row | place | {"source_line": line} for line, row in enumerate(rows)]
    landed = pl.DataFrame(lines, schema=CONTRACTS["cleaned_patients"].polars_schema)
    transform: Any = dim_patient.op.compute_fn.decorated_fn  # type: ignore[union-attr]
    found = collect(transform(on(landed))).filter(pl.col("patient_id") == "P1").sort("version_number")
    assert found["insurer"].to_list() == ["new", None]
    assert found["patient_key"].n_unique() == 2 and found["valid_from_at"].n_unique() == 2
