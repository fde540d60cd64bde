"""Beds, hours and days at their edges, on every engine: odd zones, moves from bed to bed, ends that nobody recorded."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from hospital_assets.assets.cleaned.adt_events import validate_adt_events
from hospital_assets.assets.cleaned.diagnoses_and_procedures import validate_diagnoses
from hospital_assets.assets.cleaned.er_visits import validate_er_visits
from hospital_assets.assets.cleaned.patients import validate_patients
from hospital_assets.assets.cleaned.reference_data import validate_departments, validate_doctor_shifts
from hospital_assets.assets.cleaned.rules import identity, in_order, read_clocks, read_dates
from hospital_assets.assets.cleaned.subjects import VALIDATORS
from hospital_assets.assets.cleaned.vitals import validate_vitals
from hospital_assets.assets.dimensions.calendar import calendar_days
from hospital_assets.assets.facts.bed_occupancy import department_hours, occupied
from hospital_assets.assets.facts.doctor_shifts import planned
from hospital_assets.assets.facts.patient_flow import ended_by_register, folded
from hospital_assets.assets.kpis.arrivals import arrivals_by_hour, peak_hours
from hospital_assets.assets.kpis.occupancy import department_flow, labelled_hours, occupancy, on_days
from hospital_assets.checks.accounting import reconciled
from hospital_assets.contracts import CONTRACTS
from hospital_assets.landing.registry import load_profiles
from hospital_assets.warehouse.database import Period
from hospital_assets.warehouse.dialect import checkpoint, lazy, resolve_instants
from hospital_assets_tests.engines import Engine
from hospital_assets_tests.test_transforms import at, collect, events

UTC_INSTANT = pl.Datetime("us", "UTC")
BEDS = 4


def instant(text: str, zone: str, fold: int = 0) -> datetime:
    """The instant of a wall clock: `2026-01-10 06:00`."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)


def hospital(zone: str, opened: datetime | None = None) -> tuple[pl.DataFrame, pl.DataFrame]:
    hospitals = pl.DataFrame({"hospital_id": ["H1"], "hospital_key": [1], "time_zone": [zone]})
    departments = pl.DataFrame(
        {
            "hospital_id": ["H1", "H1"],
            "department_id": ["ICU", "ED"],
            "department_key": [10, 11],
            "department_name": ["ICU", "Emergency"],
            "bed_capacity": [BEDS, 2],
            "first_effective_at": [opened or at("1900-01-01 00:00")] * 2,
            "valid_from_at": [at("1900-01-01 00:00")] * 2,
            "valid_to_at": [at("9999-12-31 00:00")] * 2,
        },
        schema_overrides=dict.fromkeys(("first_effective_at", "valid_from_at", "valid_to_at"), UTC_INSTANT),
    )
    return hospitals, departments


def segment(stay: str, start: datetime, end: datetime | None, number: int = 1, key: int = 10) -> dict[str, Any]:
    return {
        "stay_id": stay,
        "stay_class": "inpatient" if key == 10 else "emergency",
        "segment_number": number,
        "hospital_key": 1,
        "department_key": key,
        "segment_start_at": start,
        "segment_end_at": end,
    }


def days(
    on: Engine, zone: str, first: date, last: date, *rows: dict[str, Any]
) -> tuple[dict[date, dict[str, Any]], dict[date, dict[str, Any]], pl.DataFrame]:
    """Occupancy and flow of the ICU by day, and its hours; both tables must agree."""
    hospitals, departments = (on(frame) for frame in hospital(zone))
    dates = on(calendar_days((first - timedelta(days=5), last + timedelta(days=5))).drop_nulls("calendar_date"))
    flow = on(
        pl.DataFrame(list(rows), schema_overrides={"segment_start_at": UTC_INSTANT, "segment_end_at": UTC_INSTANT})
    )
    period = Period(first, last + timedelta(days=1))
    hours = checkpoint(occupied(department_hours(departments, hospitals, dates, period), flow, departments, period))
    labelled = checkpoint(labelled_hours(hours, departments))
    until = at(f"{last + timedelta(days=3)} 00:00")
    on_each = checkpoint(on_days(flow, departments, hospitals, period, until))
    beds, moves = occupancy(labelled, on_each), department_flow(labelled, on_each)
    checked = reconciled(lazy(collect(beds)), lazy(collect(moves)))
    assert checked.passed, checked.description
    of_icu = (
        {row["service_date"]: row for row in collect(frame).iter_rows(named=True) if row["department_id"] == "ICU"}
        for frame in (beds, moves)
    )
    return (*of_icu, collect(hours).filter(pl.col("department_id") == "ICU").sort("hour_start_at"))  # type: ignore[return-value]


ZONES = ("America/Chicago", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Adelaide", "Pacific/Chatham", "Europe/London")
DAY, NEXT = date(2026, 1, 10), date(2026, 1, 11)


@pytest.mark.parametrize("zone", ZONES)
def test_a_bed_that_is_full_all_day_has_the_minutes_of_that_day(on: Engine, zone: str) -> None:
    full = segment("a", instant("2026-01-10 00:00", zone), instant("2026-01-11 00:00", zone))
    beds, flow, hours = days(on, zone, date(2026, 1, 9), NEXT, full)
    assert [beds[day]["occupied_bed_minutes"] for day in beds if day == DAY] == [1440.0]
    assert beds[date(2026, 1, 9)]["occupied_bed_minutes"] == beds[NEXT]["occupied_bed_minutes"] == 0.0
    assert (flow[DAY]["inflow_count"], flow[DAY]["outflow_count"], flow[DAY]["patient_hours"]) == (1, 1, 24.0)
    assert hours.filter(pl.col("service_date") == DAY).height == 24
    assert set(hours["hour_start_local"].dt.minute().unique()) == {0}


#: Zone, day, its minutes, its hours of the clock.
CHANGES = (
    ("Australia/Lord_Howe", date(2026, 4, 5), 1470, 25),
    ("Australia/Lord_Howe", date(2026, 10, 4), 1410, 24),
    ("America/St_Johns", date(2026, 11, 1), 1500, 25),
    ("America/St_Johns", date(2026, 3, 8), 1380, 23),
    ("Europe/London", date(2026, 10, 25), 1500, 25),
    ("Australia/Adelaide", date(2026, 10, 4), 1380, 23),
    # From 3:45 back to 2:45: three quarters, a quarter and a whole hour.
    ("Pacific/Chatham", date(2026, 4, 5), 1500, 26),
)


@pytest.mark.fast_as("polars")
@pytest.mark.parametrize(("zone", "day", "minutes", "hours_of_day"), CHANGES)
def test_days_on_which_the_clock_changes(on: Engine, zone: str, day: date, minutes: int, hours_of_day: int) -> None:
    after = day + timedelta(days=1)
    full = segment("a", instant(f"{day} 00:00", zone), instant(f"{after} 00:00", zone))
    beds, flow, hours = days(on, zone, day - timedelta(days=1), after, full)
    assert {one: row["occupied_bed_minutes"] for one, row in beds.items()} == {
        day - timedelta(days=1): 0.0,
        day: float(minutes),
        after: 0.0,
    }
    assert beds[day]["staffed_bed_minutes"] == BEDS * minutes and beds[day]["time_weighted_pct"] == 100.0 / BEDS
    assert flow[day]["window_hours"] == minutes / 60
    assert hours.filter(pl.col("service_date") == day).height == hours_of_day


def test_arrivals_in_the_half_hours_that_lord_howe_repeats_and_skips(on: Engine) -> None:
    zone = "Australia/Lord_Howe"
    of_days = pl.DataFrame(
        {
            "service_date": [date(2026, 4, 5), date(2026, 10, 4)],
            "hospital_id": ["H1"] * 2,
            "time_zone": [zone] * 2,
            "iso_weekday_number": [7, 7],
        }
    )
    # Of the second visit the day is known alone: it came in none of its hours.
    visits = pl.DataFrame(
        {
            "service_date": [date(2026, 10, 4)] * 2,
            "hospital_id": ["H1"] * 2,
            "arrival_local": [datetime(2026, 10, 4, 2, 45), None],
        },
        schema_overrides={"arrival_local": pl.Datetime("us")},
    )
    out = collect(arrivals_by_hour(on(visits), on(of_days)))
    counts = {
        (row["service_date"].month, row["hour_of_day"]): (row["existing_hours_count"], row["arrivals_count"])
        for row in out.iter_rows(named=True)
    }
    assert counts[(4, 1)] == (2, 0) and counts[(4, 2)] == (1, 0)
    assert counts[(10, 1)] == (1, 0) and counts[(10, 2)] == (1, 1)
    assert [sum(column) for column in zip(*counts.values(), strict=True)] == [25 + 24, 1]


def test_moves_from_bed_to_bed_are_not_patients(on: Engine) -> None:
    zone = "America/Chicago"
    times = [instant(f"2026-01-10 {hour}:00", zone) for hour in ("06", "08", "10", "12")]
    moves = [segment("a", times[n], times[n + 1], n + 1) for n in range(3)]
    _, flow, hours = days(on, zone, DAY, DAY, *moves)
    row = flow[DAY]
    assert (row["patients_count"], row["inflow_count"], row["outflow_count"]) == (1, 1, 1)
    assert (row["mean_hours_per_patient"], row["turnover_per_bed"]) == (6.0, 1 / BEDS)
    assert (hours["arrivals_count"].sum(), hours["departures_count"].sum()) == (1, 1)
    # Out and back again is two; so is another patient in the same bed.
    back = [
        segment("a", times[0], times[1]),
        segment("a", times[1], times[2], 2, 11),
        segment("a", times[2], times[3], 3),
    ]
    _, flow, _ = days(on, zone, DAY, DAY, *back, segment("b", times[1], times[2]))
    assert (flow[DAY]["patients_count"], flow[DAY]["inflow_count"], flow[DAY]["outflow_count"]) == (3, 3, 3)


def test_who_comes_and_goes_at_one_moment_has_been_there(on: Engine) -> None:
    zone = "America/Chicago"
    noon, midnight = instant("2026-01-10 12:00", zone), instant("2026-01-11 00:00", zone)
    _, flow, hours = days(on, zone, DAY, NEXT, segment("a", noon, noon), segment("b", midnight, midnight))
    for day in (DAY, NEXT):
        row = flow[day]
        assert (row["patients_count"], row["inflow_count"], row["outflow_count"], row["patient_hours"]) == (
            1,
            1,
            1,
            0.0,
        )
    assert (hours["arrivals_count"].sum(), hours["departures_count"].sum()) == (2, 2)


@pytest.mark.fast_as("polars")
@pytest.mark.parametrize("zone", ZONES)
def test_the_census_at_midnight_is_half_open(on: Engine, zone: str) -> None:
    """At 24:00 sharp one comes, one goes, one stays: two are there, one of them an arrival of the next day."""
    midnight = instant(f"{NEXT} 00:00", zone)
    beds, moves, hours = days(
        on,
        zone,
        DAY,
        NEXT,
        segment("comes", midnight, instant(f"{NEXT} 08:00", zone)),
        segment("goes", instant(f"{DAY} 12:00", zone), midnight),
        segment("stays", instant(f"{DAY} 12:00", zone), instant(f"{NEXT} 12:00", zone)),
        segment("moment", midnight, midnight),
    )
    assert (beds[DAY]["midnight_patients_count"], beds[DAY]["came_at_midnight_count"]) == (2, 1)
    assert (beds[DAY]["peak_patients_count"], moves[DAY]["patients_count"], moves[DAY]["inflow_count"]) == (2, 2, 2)
    assert (moves[NEXT]["inflow_count"], moves[NEXT]["patients_count"]) == (2, 3)
    first = hours.filter(pl.col("service_date") == NEXT).row(0, named=True)
    assert first["patients_at_start_count"] == beds[DAY]["midnight_patients_count"]


def test_nobody_lies_in_a_bed_for_ever(on: Engine) -> None:
    zone = "America/Chicago"
    came = instant("2026-01-01 12:00", zone)
    beds, flow, _ = days(on, zone, date(2026, 1, 29), date(2026, 2, 2), segment("a", came, None))
    minutes = [beds[day]["occupied_bed_minutes"] for day in sorted(beds)]
    assert minutes == [1440.0, 1440.0, 720.0, 0.0, 0.0]  # thirty days, then no longer
    assert [flow[day]["lapsed_count"] for day in sorted(flow)] == [0, 0, 1, 0, 0]
    assert sum(row["outflow_count"] for row in flow.values()) == 0


def test_beds_count_from_the_day_a_department_opens(on: Engine) -> None:
    zone = "America/Chicago"
    hospitals, departments = (on(frame) for frame in hospital(zone, instant("2026-01-10 00:00", zone)))
    dates = on(calendar_days((date(2026, 1, 1), date(2026, 1, 20))).drop_nulls("calendar_date"))
    hours = collect(department_hours(departments, hospitals, dates, Period(date(2026, 1, 9), date(2026, 1, 11))))
    staffed = hours.filter(department_id="ICU").group_by("service_date").agg(pl.col("staffed_bed_minutes").sum())
    assert dict(staffed.iter_rows()) == {date(2026, 1, 9): 0.0, date(2026, 1, 10): BEDS * 1440.0}


def registered(visit_id: str, departure: str | None, disposition: str | None, codes: str = "") -> pl.DataFrame:
    contract = CONTRACTS["cleaned_er_visits"]
    values = {
        **dict.fromkeys(contract.column_names),
        "visit_id": visit_id,
        "departure_at": None if departure is None else at(f"2026-01-{departure}"),
        "disposition": disposition,
        "quality_codes": codes,
        "source_file": "f",
        "source_line": 1,
        "source_part": 1,
        "service_date": DAY,
        "recorded_at": at("2026-01-05 00:00"),
    }
    return pl.DataFrame([values], schema=contract.polars_schema)


def test_a_departure_by_day_ends_the_emergency_part_at_an_unknown_time(on: Engine) -> None:
    """The latest that it can have been is when its record was written, and never longer than a patient may be there."""
    register = on(registered("V", None, "home", "departure_time_unknown"))
    for came, ends in (("04 10:00", at("2026-01-05 00:00")), ("01 10:00", at("2026-01-04 10:00"))):
        frame = collect(ended_by_register(folded(on(events([("1", "A04", came)]))), register))
        assert frame["segment_end_at"].to_list() == frame["stay_end_at"].to_list() == [ends]
        assert frame["is_open"].to_list() == [False]
        assert frame["segment_hours"].to_list() == frame["length_of_stay_hours"].to_list() == [None]


@pytest.mark.fast_as("polars")
def test_the_registers_departure_ends_a_stay_that_messages_forgot(on: Engine) -> None:
    def ends(messages: list[tuple[str, str, str]], departure: str | None, disposition: str | None) -> list[Any]:
        register = on(registered("V", departure, disposition))
        frame = collect(ended_by_register(folded(on(events(messages))), register)).sort("segment_number")
        assert (frame["is_open"] == frame["stay_end_at"].is_null()).all()
        return frame["segment_end_at"].to_list()

    arrived = [("1", "A04", "01 10:00")]
    assert ends(arrived, "01 14:00", "home") == [at("2026-01-01 14:00")]
    assert ends(arrived, "01 14:00", "admitted") == [at("2026-01-01 14:00")]
    assert ends(arrived, None, None) == [None]
    assert ends(arrived, "01 09:00", "home") == [None]  # before it began: no end
    discharged = [*arrived, ("2", "A03", "01 13:00")]
    assert ends(discharged, "01 14:00", "home") == [at("2026-01-01 13:00")]  # the message knows
    inside = [*arrived, ("2", "A01", "01 12:00")]
    assert ends(inside, "01 14:00", "admitted") == [at("2026-01-01 12:00"), None]  # on the ward
    assert ends(inside, "03 14:00", "home") == [at("2026-01-01 12:00"), at("2026-01-03 14:00")]


# Repeated and skipped hours -----------------------------------------------------------------------

#: Zones whose clocks go by half an hour, at odd offsets, at midnight, or twice a year the other way round.
ODD_ZONES = (
    "America/Chicago",
    "Australia/Lord_Howe",
    "America/St_Johns",
    "Pacific/Chatham",
    "Asia/Kathmandu",
    "Africa/Casablanca",
    "America/Havana",
    "Europe/Dublin",
    "Asia/Beirut",
    "Antarctica/Troll",
)


def around_changes(zone: str, year: int) -> list[datetime]:
    """Wall clocks, every quarter of an hour, around each change of the zone's clock in a year."""
    tz, found = ZoneInfo(zone), []
    moment = datetime(year, 1, 1, tzinfo=ZoneInfo("UTC"))
    while moment.year == year:
        later = moment + timedelta(hours=1)
        if moment.astimezone(tz).utcoffset() != later.astimezone(tz).utcoffset():
            local = moment.astimezone(tz).replace(tzinfo=None, minute=0)
            found += [local + timedelta(minutes=15 * n) for n in range(-16, 24)]
        moment = later
    return found


def test_every_reading_of_a_wall_clock_is_that_of_the_zone(on: Engine) -> None:
    rows = [(zone, local) for zone in ODD_ZONES for local in around_changes(zone, 2026)]
    frame = pl.DataFrame(rows, schema={"z": pl.String, "c": pl.Datetime("us")}, orient="row").with_columns(
        c_offset_minutes=pl.lit(None, dtype=pl.Int32)
    )
    read = collect(resolve_instants(on(frame), {"i": "c"}, "z"))
    assert read.height == len(rows) > 400
    for zone, local, first, second, is_missing in read.select("z", "c", "i", "i_second", "i_is_missing").iter_rows():
        readings = [local.replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(ZoneInfo("UTC")) for fold in (0, 1)]
        exists = any(one.astimezone(ZoneInfo(zone)).replace(tzinfo=None) == local for one in readings)
        assert is_missing is not exists, (zone, local)
        # Of a skipped time there is one reading, by the old offset.
        assert [first, second] == (readings if exists else [readings[0]] * 2), (zone, local)


def test_clocks_of_true_visits_never_run_backwards(on: Engine) -> None:
    """Three instants in order around each change of odd zones: as read from their wall clocks, they are in order."""
    rows = []
    for zone in ODD_ZONES:
        for start in around_changes(zone, 2026)[::3]:
            came = start.replace(tzinfo=ZoneInfo(zone)).astimezone(ZoneInfo("UTC"))
            true = [came, came + timedelta(minutes=25), came + timedelta(minutes=70)]
            rows.append((zone, *(at.astimezone(ZoneInfo(zone)).replace(tzinfo=None) for at in true)))
    names = ("arrival", "provider", "departure")
    schema = {"z": pl.String, **dict.fromkeys(names, pl.Datetime("us"))}
    frame = pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        **{f"{name}_offset_minutes": pl.lit(None, dtype=pl.Int32) for name in names}
    )
    clocks = {f"{name}_at": name for name in names}
    read = collect(in_order(resolve_instants(on(frame), clocks, "z"), list(clocks)))
    assert read.height > 200
    for row in read.iter_rows(named=True):
        instants = [row[at] for at in clocks]
        assert instants == sorted(instants), row
        assert [at.astimezone(ZoneInfo(row["z"])).replace(tzinfo=None) for at in instants] == [row[n] for n in names]


@pytest.mark.parametrize(
    ("zone", "clocks", "minutes"),
    [
        ("America/Chicago", ("2026-11-01 00:50", "2026-11-01 01:50", "2026-11-01 01:10"), (60, 80)),
        ("America/Chicago", ("2026-11-01 01:50", "2026-11-01 01:10", "2026-11-01 01:20"), (20, 30)),
        ("America/Chicago", ("2026-11-01 01:10", "2026-11-01 01:20", "2026-11-01 01:30"), (10, 20)),
        ("America/Chicago", ("2026-11-01 01:50", "2026-11-01 01:55", "2026-11-01 02:10"), (5, 80)),
        ("Australia/Lord_Howe", ("2026-04-05 01:20", "2026-04-05 01:50", "2026-04-05 01:40"), (30, 50)),
    ],
)
def test_the_reading_that_keeps_all_clocks_in_order(
    on: Engine, zone: str, clocks: tuple[str, str, str], minutes: tuple[int, int]
) -> None:
    names = ("arrival", "provider", "departure")
    frame = pl.DataFrame(
        {"z": [zone], **{name: [datetime.fromisoformat(text)] for name, text in zip(names, clocks, strict=True)}},
        schema_overrides=dict.fromkeys(names, pl.Datetime("us")),
    ).with_columns(**{f"{name}_offset_minutes": pl.lit(None, dtype=pl.Int32) for name in names})
    read = in_order(resolve_instants(on(frame), {f"{n}_at": n for n in names}, "z"), [f"{n}_at" for n in names])
    (row,) = collect(read).iter_rows(named=True)
    waited, stayed = (row[f"{name}_at"] - row["arrival_at"] for name in names[1:])
    assert (waited, stayed) == tuple(timedelta(minutes=n) for n in minutes)


# Dates that stand for none ------------------------------------------------------------------------

NONE = (
    "9999-12-31",
    "9999-12-31 23:59:59",
    "1900-01-01",
    "19000101",
    "1753-01-01 00:00:00",
    "0001-01-01",
    "0000-00-00 00:00:00",
    "31.12.2099",
)


def test_dates_that_stand_for_none_are_null_with_a_reason(on: Engine) -> None:
    profiles = {
        "s": load_profiles(None)["hl7v2-adt"].model_copy(
            update={"placeholders": (" 31.12.2099 ",), "timestamp_formats": ("%Y%m%d", "%d.%m.%Y"), "subjects": {}}
        )
    }
    texts = [*NONE, "1900-01-02 00:00", "2026-01-01 10:00", "30.12.2099", "1752-12-31", ""]
    frame = pl.DataFrame({"t": texts, "n": range(len(texts)), "source_profile": "s"})
    for read, landed in ((read_clocks, frame), (read_dates, frame.filter(~pl.col("t").str.contains(":")))):
        out = collect(read(on(landed), profiles, "er_visits", {"c": "t"})).sort("n")
        assert out.filter(pl.col("c_is_placeholder"))["t"].to_list() == [t for t in NONE if t in landed["t"]], read
        assert out.filter("c_is_placeholder")["c"].drop_nulls().is_empty()
        assert out.filter(pl.col("t").is_in(["30.12.2099"]))["c"].null_count() == 0


def test_what_programs_write_for_no_number_is_no_patient(on: Engine) -> None:
    """Else all of them are one patient, who comes back every day."""
    profiles = {
        "s": load_profiles(None)["hl7v2-adt"].model_copy(update={"name": "s", "placeholders": ("0", "Unbekannt")}),
        "t": load_profiles(None)["hl7v2-adt"].model_copy(update={"name": "t"}),
    }
    texts = [
        "NULL",
        " null ",
        "\\N",
        "NaN",
        "<NA>",
        "#N/A",
        "",
        None,
        '""',
        "0",
        "unbekannt ",
        "Null",
        "NA",
        "N1",
        "00",
    ]
    frame = pl.DataFrame({"t": texts * 2, "n": range(len(texts) * 2), "source_profile": ["s"] * 15 + ["t"] * 15})
    out = collect(on(frame).with_columns(id=identity(profiles, "t"))).sort("n")
    assert out.filter(pl.col("id").is_not_null()).select("source_profile", "t").rows() == [
        *(("s", text) for text in ("Null", "NA", "N1", "00")),
        *(("t", text) for text in ("0", "unbekannt ", "Null", "NA", "N1", "00")),
    ]


def test_a_department_may_be_there_since_ever(on: Engine) -> None:
    """Profiles of sources that do not date their departments say so with 1900-01-01."""
    contract = CONTRACTS["raw_departments"]
    values = {
        "source_profile": "native",
        "source_file": "f",
        "source_line": 1,
        "source_part": 1,
        "department_id": "D",
        "hospital_id": "H1",
        "department_name": "ICU",
        "bed_capacity": "4",
        "effective_date": "1900-01-01",
    }
    schema = {name: dtype for name, dtype in contract.polars_schema.items() if name != "record"}
    raw = pl.DataFrame([{**dict.fromkeys(schema), **values}], schema=schema)
    hospitals = pl.DataFrame({"hospital_id": ["H1"], "time_zone": ["America/Chicago"]})
    (row,) = collect(validate_departments(on(raw), on(hospitals), load_profiles(None))).iter_rows(named=True)
    assert (row["rule"], row["effective_date"]) == (None, date(1900, 1, 1))


def test_a_placeholder_is_no_departure_and_no_birth(on: Engine) -> None:
    contract = CONTRACTS["raw_er_visits"]
    base = {
        **dict.fromkeys(contract.column_names),
        "source_profile": "native",
        "source_file": "f",
        "source_part": 1,
        "service_date": DAY,
        "hospital_id": "H1",
        "patient_id": "P",
        "arrival_time": "2026-01-10 10:00:00",
        "recorded_at": "2026-01-10 12:00:00",
    }
    rows = [
        {**base, "source_line": 1, "visit_id": "a", "departure_time": "9999-12-31 00:00:00"},
        {**base, "source_line": 2, "visit_id": "b", "departure_time": "soon"},
        {**base, "source_line": 3, "visit_id": "c", "departure_time": "2026-01-10 11:00:00"},
        {**base, "source_line": 4, "visit_id": "d", "arrival_time": "1900-01-01 00:00:00"},
        {**base, "source_line": 5, "visit_id": "e", "departure_time": "NULL", "part_of_visit_id": "NULL"},
        {**base, "source_line": 6, "visit_id": "f", "patient_id": "NULL"},
    ]
    schema = {name: dtype for name, dtype in contract.polars_schema.items() if name != "record"}
    raw = pl.DataFrame([{name: row[name] for name in schema} for row in rows], schema=schema)
    hospitals = pl.DataFrame({"hospital_id": ["H1"], "time_zone": ["America/Chicago"]})
    out = collect(validate_er_visits(on(raw), on(hospitals), load_profiles(None))).sort("source_line")
    assert out["departure_at"].is_null().to_list() == [True, True, False, True, True, True]
    codes = [(code or "").split("|") if "|" in (code or "") else [code] for code in out["quality_codes"]]
    assert "placeholder_date" in str(codes[0]) and "clock_unreadable" not in str(codes[0])
    assert "clock_unreadable" in str(codes[1]) and "placeholder_date" not in str(codes[1])
    assert not codes[4][0], codes[4]
    assert out["rule"].to_list() == [None, None, None, "arrival_missing", None, "patient_id_missing"]


def raw_rows(subject: str, rows: list[dict[str, object]]) -> pl.DataFrame:
    """Records of the source `native` as they land."""
    schema = {name: dtype for name, dtype in CONTRACTS[f"raw_{subject}"].polars_schema.items() if name != "record"}
    common = {
        "source_profile": "native",
        "source_file": "f",
        "source_part": 1,
        "service_date": DAY,
        "hospital_id": "H1",
    }
    common = {name: value for name, value in common.items() if name in schema}
    return pl.DataFrame(
        [{**dict.fromkeys(schema), **common, "source_line": line, **row} for line, row in enumerate(rows, 1)],
        schema=schema,
    )


def test_a_move_in_the_hour_that_happens_twice_follows_the_visit_s_start(on: Engine) -> None:
    told = {
        "visit_id": "V",
        "patient_id": "P",
        "visit_start_at": "2026-11-01 01:50:00",
        "recorded_at": "2026-11-01 04:00",
    }
    times = ("01:50:00", "01:15:00", "03:00:00", "00:30:00")
    rows = [{**told, "message_id": f"M{t}", "event_type": "A02", "event_at": f"2026-11-01 {t}"} for t in times]
    hospitals = pl.DataFrame({"hospital_id": ["H1"], "time_zone": ["America/Chicago"]})
    out = collect(validate_adt_events(on(raw_rows("adt_events", rows)), on(hospitals), load_profiles(None)))
    out = out.sort("source_line")
    assert out["event_at"].to_list()[:3] == [at("2026-11-01 06:50"), at("2026-11-01 07:15"), at("2026-11-01 09:00")]
    assert out["rule"].to_list() == [None, None, None, "event_before_visit"]


def test_a_newborn_s_birth_date_is_compared_with_the_day_where_its_record_was_written(on: Engine) -> None:
    profiles = load_profiles(None)
    native = {"native": profiles["native"].model_copy(update={"time_zone": "Pacific/Auckland"})}
    rows = [
        {"patient_id": name, "birth_date": "2026-01-12", "recorded_at": f"2026-01-{written}"}
        for name, written in (("A", "12 09:00:00"), ("B", "12 14:00:00"), ("C", "11 23:00:00"))
    ]
    out = collect(validate_patients(on(raw_rows("patients", rows)), type(profiles)(native))).sort("source_line")
    assert out["birth_date"].to_list() == [date(2026, 1, 12), date(2026, 1, 12), None]


#: Subject -> a sound record, and its clocks and dates: each is null, with a reason, where it stands for none.
PLACEHOLDERS: dict[str, tuple[dict[str, object], tuple[str, ...]]] = {
    "er_visits": (
        {"visit_id": "V", "patient_id": "P", "arrival_time": "2026-01-10 10:00"},
        ("triage_time", "provider_time", "departure_time", "recorded_at"),
    ),
    "vitals": ({"observation_id": "O", "patient_id": "P", "measured_at": "2026-01-10 10:00"}, ("recorded_at",)),
    "adt_events": (
        {
            "message_id": "M",
            "visit_id": "V",
            "patient_id": "P",
            "event_type": "A01",
            "event_at": "2026-01-10 10:00",
            "visit_start_at": "2026-01-10 10:00",
        },
        ("recorded_at",),
    ),
    "diagnoses": (
        {"visit_id": "V", "patient_id": "P", "sequence": "1", "icd_version": "10", "icd_code": "I10"},
        ("recorded_at",),
    ),
    "procedures": (
        {"procedure_id": "C", "visit_id": "V", "patient_id": "P", "procedure_code": "5A1935Z"},
        ("performed_at", "recorded_at"),
    ),
    "doctors": ({"doctor_id": "D", "last_name": "Who"}, ("hired_date",)),
    "doctor_shifts": (
        {"shift_id": "S", "doctor_id": "D", "shift_start": "2026-01-10 10:00", "shift_end": "2026-01-10 18:00"},
        ("recorded_at",),
    ),
    "patients": ({"patient_id": "P", "recorded_at": "2026-01-10 10:00"}, ("birth_date",)),
}


@pytest.mark.fast_as("polars")
@pytest.mark.parametrize("subject", PLACEHOLDERS)
def test_a_clock_that_stands_for_none_is_null_with_a_reason(on: Engine, subject: str) -> None:
    sound, clocks = PLACEHOLDERS[subject]
    hospitals = on(pl.DataFrame({"hospital_id": ["H1"], "time_zone": ["America/Chicago"]}))
    tried = [(clock, none) for clock in clocks for none in ("9999-12-31", "1900-01-01", "0001-01-01")]
    key = next(iter(sound))
    raw = raw_rows(subject, [{**sound, key: f"{sound[key]}{n}", clock: none} for n, (clock, none) in enumerate(tried)])
    out = collect(VALIDATORS[subject](on(raw), hospitals, load_profiles(None))).sort("source_line")
    assert out.height == len(tried)
    for (clock, none), row in zip(tried, out.iter_rows(named=True), strict=True):
        assert row["rule"] is None and "placeholder_date" in row["quality_codes"], (clock, none, row)
        assert "unreadable" not in row["quality_codes"]
        assert row[clock.replace("_time", "_at")] is None, (clock, none)


@pytest.mark.fast_as("polars")
def test_a_record_outside_the_service_days_counts_on_no_other_day(on: Engine) -> None:
    hospitals = on(pl.DataFrame({"hospital_id": ["H1"], "time_zone": ["America/Chicago"]}))
    days = Period(DAY, DAY + timedelta(days=2))
    # The first midnight, the last one, and a year before; 05:30 UTC is still the day before in Chicago.
    clocks = ["2026-01-09 23:59", "2026-01-10 00:00", "2026-01-11 23:59", "2026-01-12 00:00", "2025-01-10 10:00"]
    clocks += ["2026-01-10T05:30:00Z", "2026-01-12T05:30:00Z"]
    inside = [False, True, True, False, False, False, True]
    profiles = load_profiles(None)
    visits = raw_rows(
        "er_visits", [{"visit_id": str(n), "patient_id": "P", "arrival_time": c} for n, c in enumerate(clocks)]
    )
    sets = raw_rows(
        "vitals", [{"observation_id": str(n), "patient_id": "P", "measured_at": c} for n, c in enumerate(clocks)]
    )
    shifts = raw_rows(
        "doctor_shifts",
        [
            {"shift_id": str(n), "doctor_id": "D", "shift_start": c, "shift_end": "2026-02-01 00:00"}
            for n, c in enumerate(clocks)
        ],
    )
    for validate, raw in ((validate_er_visits, visits), (validate_vitals, sets), (validate_doctor_shifts, shifts)):
        out = collect(validate(on(raw), hospitals, profiles, days)).sort("source_line")
        assert out["rule"].to_list() == [None if good else "outside_service_period" for good in inside]
        # Where nobody says which the service days are, as for live alerts, none lies outside.
        assert collect(validate(on(raw), hospitals, profiles))["rule"].null_count() == len(clocks)


def test_a_roster_ahead_holds_sound_shifts_that_nobody_moved(on: Engine) -> None:
    hospitals = on(pl.DataFrame({"hospital_id": ["H1"], "time_zone": ["America/Chicago"]}))
    day, none = {"shift_start": "2026-01-11 07:00", "shift_end": "2026-01-11 15:00"}, {"doctor_id": None}
    day_after = {name: clock.replace("-11", "-12") for name, clock in day.items()}
    written = {name: f"2026-01-0{n} 08:00" for name, n in (("old", 3), ("new", 5))}
    told = [
        ("planned", day),
        ("moved", day),
        ("kept", day | {"recorded_at": written["new"]}),
        ("changed", day),
        ("changed", day_after | {"recorded_at": written["new"]}),
        ("nobody", day | none),
        ("backwards", day | {"shift_end": "2026-01-11 06:00"}),
    ]
    raw = raw_rows(
        "doctor_shifts",
        [{"shift_id": name, "doctor_id": "D", "recorded_at": written["old"]} | row for name, row in told],
    )
    at = [datetime(2026, 1, 4, 14, tzinfo=UTC), datetime(2026, 1, 4, 14, tzinfo=UTC), None]
    loaded = on(pl.DataFrame({"shift_id": ["moved", "kept", "planned"], "recorded_at": at}))
    found = collect(planned(on(raw), loaded, hospitals, load_profiles(None)))
    starts = dict(found.select("shift_id", pl.col("shift_start_at").dt.day()).iter_rows())
    assert starts == {"planned": 11, "kept": 11, "changed": 12}


def test_hours_in_which_nobody_came_count(on: Engine) -> None:
    """One arrival at ten on one of ten Mondays is a tenth of an arrival an hour; at nine somebody comes on four."""
    hospitals, _ = hospital("America/Chicago")
    dates = calendar_days((date(2025, 12, 1), date(2027, 5, 1))).drop_nulls("calendar_date")
    mondays = [date(2026, 1, 5) + timedelta(weeks=n) for n in range(10)]
    hourly = pl.DataFrame(
        [
            {
                "service_date": day,
                "hospital_id": "H1",
                "iso_weekday_number": day.isoweekday(),
                "hour_of_day": hour,
                "existing_hours_count": 1,
                "arrivals_count": int((day, hour) == (mondays[3], 10) or hour == 9),
            }
            for day in (mondays[0], mondays[3], mondays[7], mondays[9])
            for hour in range(24)
        ]
    )

    def rate(frame: pl.DataFrame) -> float:
        out = collect(peak_hours(on(frame), on(hospitals), on(dates), date(2027, 5, 1)))
        (found,) = out.filter(hospital_id="all", iso_weekday_number=1, hour_of_day=10)["arrivals_per_hour"]
        return float(found)

    assert rate(hourly) == 0.1
    # De-identified visits lie years apart: what is between is no day without patients.
    far = hourly.with_columns(pl.col("service_date").replace({mondays[9]: date(2027, 3, 1)}))
    assert rate(far) == 1 / 9


def test_hours_of_a_hospital_are_those_since_it_began_and_while_it_delivers(on: Engine) -> None:
    """H1 is there all along and has quiet days at the end, H2 joins after 60 days, H3 is silent for 40 of them."""
    one, _ = hospital("America/Chicago")
    places = pl.concat(
        [one.with_columns(hospital_key=pl.lit(n, pl.Int64), hospital_id=pl.lit(f"H{n}")) for n in (1, 2, 3)]
    )
    dates = calendar_days((date(2025, 12, 1), date(2026, 6, 1))).drop_nulls("calendar_date")
    days = [date(2026, 1, 5) + timedelta(days=n) for n in range(70)]
    comes = {"H1": {*days[:60]}, "H2": {*days[60:]}, "H3": {*days[:20], *days[60:]}}
    hourly = pl.DataFrame(
        [
            {
                "service_date": day,
                "hospital_id": name,
                "iso_weekday_number": day.isoweekday(),
                "hour_of_day": hour,
                "existing_hours_count": 1,
                "arrivals_count": 3 * int(day in came and hour == 10),
            }
            for name, came in comes.items()
            for day in days
            for hour in range(24)
        ]
    )

    def found(last: date) -> dict[Any, tuple[int, int]]:
        out = collect(peak_hours(on(hourly), on(places), on(dates), last)).filter(hour_of_day=10)
        return {
            name: (rows["existing_hours_count"].sum(), rows["arrivals_count"].sum())
            for (name,), rows in out.partition_by("hospital_id", as_dict=True).items()
        }

    assert found(days[-1]) == {"H1": (70, 180), "H2": (10, 30), "H3": (30, 90), "all": (110, 300)}
    # While the last day goes on, its hours are none yet.
    assert found(days[-2]) == {"H1": (69, 180), "H2": (9, 27), "H3": (29, 87), "all": (107, 294)}


def diagnosis(line: int, code: str, rank: str, written: str | None, file: str = "f") -> dict[str, Any]:
    return {
        **dict.fromkeys(CONTRACTS["raw_diagnoses"].column_names),
        "source_profile": "native",
        "source_file": file,
        "source_line": line,
        "source_part": 1,
        "service_date": DAY,
        "hospital_id": "H1",
        "patient_id": "P",
        "visit_id": "V",
        "icd_code": code,
        "icd_version": "10",
        "sequence": rank,
        "recorded_at": written,
    }


@pytest.mark.fast_as("polars")
def test_two_diagnoses_of_one_rank_both_stand(on: Engine) -> None:
    contract = CONTRACTS["raw_diagnoses"]
    schema = {name: dtype for name, dtype in contract.polars_schema.items() if name != "record"}
    hospitals = pl.DataFrame({"hospital_id": ["H1"], "time_zone": ["America/Chicago"]})
    early, late = "2026-01-10 10:00:00", "2026-01-10 12:00:00"

    def rules(*rows: dict[str, Any]) -> list[tuple[str, str | None, bool]]:
        raw = pl.DataFrame([{name: row[name] for name in schema} for row in rows], schema=schema)
        out = collect(validate_diagnoses(on(raw), on(hospitals), load_profiles(None)))
        found = out.sort("source_file", "source_line").select("icd_code", "rule", "quality_codes")
        return [(code, rule, "rank_conflict" in str(codes)) for code, rule, codes in found.iter_rows()]

    together = (diagnosis(1, "I50.9", "1", early), diagnosis(2, "J18.9", "1", early), diagnosis(3, "E11.9", "2", early))
    assert rules(*together) == [("I509", None, True), ("J189", None, True), ("E119", None, False)]
    # What is written later corrects; what is written again is a repetition.
    assert rules(diagnosis(1, "I50.9", "1", early), diagnosis(2, "J18.9", "1", late)) == [
        ("I509", "superseded", False),
        ("J189", None, False),
    ]
    assert rules(diagnosis(1, "I50.9", "1", early), diagnosis(2, "I50.9", "1", early)) == [
        ("I509", "duplicate", False),
        ("I509", None, False),
    ]
    undated = (diagnosis(1, "I50.9", "1", None), diagnosis(2, "J18.9", "1", None))
    assert rules(*undated) == [("I509", None, True), ("J189", None, True)]
