"""The tables of staffing: what they hold, that nothing later changes them, and what turns their checks red."""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from hospital_assets.assets.forecasts.staffing import Made, realised, suggestions, weeks_over
from hospital_assets.checks.table_checks import check_table
from hospital_assets.cli import main, rosters
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.forecasts import OUTCOMES
from hospital_assets.forecasting import simulate
from hospital_assets.settings import Settings, StaffingSettings
from hospital_assets.warehouse.database import Period, open_warehouse
from hospital_assets.warehouse.dialect import lazy
from hospital_assets_tests.helpers import DECLARED_KINDS

#: A Sunday, eight weeks of history before it and a week after it.
AS_OF = date(2026, 6, 28)
FIRST = AS_OF - timedelta(days=55)
DAYS = 63
#: An earlier Sunday.
OLDER = AS_OF - timedelta(days=14)
ZONE = "America/Chicago"
RULES = StaffingSettings(shift_starts=tuple(range(0, 24, 2)), shift_hours=(8,), most_doctors=5)
#: Three shifts of eight hours, two doctors each.
STARTS = (7, 15, 23)


def tables(places: int = 5) -> dict[str, pl.DataFrame]:
    """What `suggestions` reads, of one hospital whose evenings are busy, and whose doctors have so many places."""
    rng = np.random.default_rng(4)
    shape = np.where((np.arange(24) >= 11) & (np.arange(24) < 22), 4.6, 1.0)
    levels = np.array([0.02, 0.15, 0.43, 0.3, 0.1])
    care = simulate.Care(
        levels, (rng.gamma(4, 0.45, 300),) * 5, np.full(5, 0.15), np.full(5, 0.1), places, np.full(5, 0.5)
    )
    came = simulate.drawn(rng, np.tile(shape, DAYS), care)
    starts = np.array([24 * day + hour for day in range(-1, DAYS) for hour in STARTS for _ in range(2)])
    waited = simulate.waits(came, [(start, start + 8) for start in starts], places)
    at, leaves = came.arrival, np.isnan(waited)
    provider = at + waited
    gone = np.where(leaves, at + came.patience, provider + came.treatment)
    counts = np.bincount(at.astype(int), minlength=DAYS * 24).reshape(-1, 24)
    midnight = datetime(FIRST.year, FIRST.month, FIRST.day, 5, tzinfo=UTC)
    n = len(at)
    starts = starts[starts >= 0]

    def clock(hours: np.ndarray) -> pl.Series:
        micros = pl.Series(np.nan_to_num(hours * 3.6e9, nan=-1).astype(np.int64))
        begin = int(midnight.timestamp() * 1e6)
        return pl.select(pl.when(micros >= 0).then(micros + begin)).to_series().cast(pl.Datetime("us", "UTC"))

    def days_of(hours: np.ndarray) -> list[date]:
        return [FIRST + timedelta(days=int(hour // 24)) for hour in hours]

    visits = {
        "service_date": days_of(at),
        "hospital_key": [1] * n,
        "is_cancelled": [False] * n,
        "arrival_at": clock(at),
        "triage_at": clock(came.triage),
        "provider_at": clock(provider),
        "decision_at": clock(np.where(leaves, np.nan, gone)),
        "departure_at": clock(gone),
        "is_lwbs": leaves,
        "triage_level": came.level + 1,
    }
    shifts = {
        "service_date": days_of(starts),
        "hospital_key": [1] * len(starts),
        "department_key": [7] * len(starts),
        "doctor_key": [1 + number % 12 for number in range(len(starts))],
        "shift_start_at": clock(starts),
        "shift_end_at": clock(starts + 8),
        "shift_hours": [8.0] * len(starts),
    }
    arrivals = [
        (FIRST + timedelta(days=day), "H1", hour, int(count))
        for day, row in enumerate(counts)
        for hour, count in enumerate(row)
    ]
    ahead = {
        "service_date": [AS_OF] * 7,
        "hospital_id": ["H1"] * 7,
        "target_date": [AS_OF + timedelta(days=n) for n in range(1, 8)],
        "expected_arrivals": [float(shape.sum())] * 7,
        "count_dispersion": [0.005] * 7,
    }
    return {
        "ahead": pl.DataFrame(ahead),
        "arrivals": pl.DataFrame(
            arrivals, schema=["service_date", "hospital_id", "hour_of_day", "arrivals_count"], orient="row"
        ),
        "visits": pl.DataFrame(visits),
        "shifts": pl.DataFrame(shifts),
        "departments": pl.DataFrame({"department_key": [7, 8], "department_name": ["Emergency", "Surgery"]}),
        "hospitals": pl.DataFrame({"hospital_id": ["H1"], "hospital_key": [1], "time_zone": [ZONE]}),
    }


@pytest.fixture(scope="module")
def made() -> Made:
    return suggestions(**tables(), rules=RULES)


def outcome_of(found: Made) -> str:
    assert found.need.is_empty() or set(found.need["staff_role"]) == {"nurse"}
    assert found.shifts.is_empty()
    (outcome,) = found.comparison["suggestion_outcome"]
    assert found.outcomes == {OUTCOMES[outcome]: 1}
    return str(outcome)


def test_rows_are_as_the_contracts_have_them(made: Made) -> None:
    names = ("staffing_need_hourly", "staffing_shifts_suggested", "kpi_staffing_comparison")
    for name, frame in zip(names, (made.need, made.shifts, made.comparison), strict=True):
        contract = CONTRACTS[name]
        contract.schema.validate(frame)
        assert frame.columns == contract.column_names and not frame.select(contract.key).is_duplicated().any()
    assert made.need.group_by("staff_role").len().sort("staff_role")["len"].to_list() == [168, 168]
    assert made.outcomes == {OUTCOMES["suggested"]: 1}


def test_the_suggestion_follows_the_evening(made: Made) -> None:
    rows = {row["roster"]: row for row in made.comparison.iter_rows(named=True)}
    present, suggested = rows["present"], rows["suggested"]
    assert present["doctor_hours"] == present["budget_hours"] == 336 and present["moved_hours"] == 0
    assert suggested["doctor_hours"] <= 336 and suggested["moved_hours"] > 0
    assert suggested["wait_mean_minutes"] < present["wait_mean_minutes"] and suggested["better_weeks_pct"] > 80
    assert suggested["wait_mean_low_minutes"] < suggested["wait_mean_minutes"] < suggested["wait_mean_high_minutes"]
    doctors = made.need.filter(pl.col("staff_role") == "doctor")
    assert doctors["present_count"].unique().to_list() == [2] and doctors["suggested_count"].min() == 1
    # Present and suggested shifts of the same hours, each start once.
    hours = made.shifts.select((pl.col("shift_hours") * pl.col("suggested_count")).sum()).item()
    assert hours == suggested["doctor_hours"] == doctors["suggested_count"].sum()
    first = made.shifts.filter(pl.col("present_count") > 0, target_date=AS_OF + timedelta(days=1))
    assert first["hour_of_day"].to_list() == list(STARTS)


def test_shifts_of_broken_hours_count_as_they_are(made: Made) -> None:
    """42 shifts of eight and a half hours: 357, not 336 or 378; in the middle of each hour two doctors are on."""
    read = tables()
    half = pl.duration(minutes=30)
    broken = read["shifts"].with_columns(pl.col("shift_end_at") + half, shift_hours=pl.lit(8.5))
    found = suggestions(**read | {"shifts": broken}, rules=RULES)
    rows = {row["roster"]: row for row in found.comparison.iter_rows(named=True)}
    assert rows["present"]["doctor_hours"] == rows["present"]["budget_hours"] == 357
    assert 336 < rows["suggested"]["doctor_hours"] <= 357
    assert found.need.filter(staff_role="doctor")["present_count"].unique().to_list() == [2]
    present = found.shifts.filter(pl.col("present_count") > 0)
    assert present["shift_hours"].unique().to_list() == [8] and present["present_count"].sum() == 42
    sunday = read["ahead"].with_columns(pl.col("service_date").dt.offset_by("7d"))
    over = weeks_over(found.shifts, sunday)
    worked, suggested = realised(over, read["visits"], broken, read["departments"], read["hospitals"]).sort("roster")[
        "doctor_hours"
    ]
    assert (worked, suggested) == (357, rows["suggested"]["doctor_hours"])


def test_nurses_are_needed_by_ratio(made: Made) -> None:
    nurses = made.need.filter(pl.col("staff_role") == "nurse")
    assert nurses["needed_count"].min() >= RULES.fixed_nurses + 1 and nurses["present_count"].is_null().all()
    evening = nurses.filter(pl.col("hour_of_day") == 19)["needed_count"].mean()
    assert evening > nurses.filter(pl.col("hour_of_day") == 6)["needed_count"].mean()


def test_later_records_change_nothing(made: Made) -> None:
    """Rows of later days, and clocks of visits that went on after the as-of day."""
    read = tables()
    later = pl.col("service_date") > AS_OF
    midnight = datetime(2026, 6, 29, 5, tzinfo=UTC)
    altered = read | {
        "arrivals": read["arrivals"].with_columns(
            arrivals_count=pl.when(later).then(pl.col("arrivals_count") * 9 + 1).otherwise("arrivals_count")
        ),
        "visits": read["visits"].with_columns(
            departure_at=pl.when(pl.col("departure_at") >= midnight)
            .then(pl.col("departure_at").dt.offset_by("30h"))
            .otherwise("departure_at"),
            triage_level=pl.when(later).then(1).otherwise("triage_level"),
        ),
        "shifts": read["shifts"].filter(~later),
    }
    again = suggestions(**altered, rules=RULES)
    for before, after in zip(vars(made).values(), vars(again).values(), strict=True):
        if isinstance(before, pl.DataFrame):
            assert_frame_equal(before, after, check_exact=True)
    backwards = {name: frame.reverse() for name, frame in read.items()}
    assert_frame_equal(suggestions(**backwards, rules=RULES).comparison, made.comparison, check_exact=True)
    fewer = read | {"visits": read["visits"].filter(pl.col("service_date") != AS_OF)}
    assert not suggestions(**fewer, rules=RULES).comparison.equals(made.comparison)


def test_why_there_is_no_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    read = tables()
    assert outcome_of(suggestions(**read | {"visits": read["visits"].clear()}, rules=RULES)) == "too_few_visits"
    gap = pl.col("service_date") != AS_OF - timedelta(days=2)
    assert outcome_of(suggestions(**read | {"shifts": read["shifts"].filter(gap)}, rules=RULES)) == "no_roster"
    elsewhere = read["shifts"].with_columns(department_key=pl.lit(8, dtype=pl.Int64))
    assert outcome_of(suggestions(**read | {"shifts": elsewhere}, rules=RULES)) == "no_roster"
    assert outcome_of(suggestions(**tables(places=20), rules=RULES)) == "no_queue"
    scarce = suggestions(**read, rules=StaffingSettings(hours_a_week=(("H1", 100),)))
    assert scarce.comparison["suggestion_outcome"].to_list() == ["infeasible"] and scarce.shifts.is_empty()
    monkeypatch.setitem(sys.modules, "highspy", None)
    without = suggestions(**read, rules=RULES)
    assert without.comparison["suggestion_outcome"].to_list() == ["solver_missing"] and without.shifts.is_empty()
    assert without.need["suggested_count"].is_null().all() and without.comparison["wait_mean_minutes"][0] > 0
    assert "pip install 'hospital-assets[staffing]'" in next(iter(without.outcomes))


def test_nothing_ahead_gives_empty_tables() -> None:
    read = tables()
    found = suggestions(**read | {"ahead": read["ahead"].clear()}, rules=RULES)
    assert found.need.is_empty() and found.shifts.schema == CONTRACTS["staffing_shifts_suggested"].polars_schema


def test_checks_pass_and_each_planted_fault_turns_one_red(made: Made) -> None:
    sound = {
        "staffing_need_hourly": made.need,
        "staffing_shifts_suggested": made.shifts,
        "kpi_staffing_comparison": made.comparison,
    }

    def statuses(tables: dict[str, pl.DataFrame]) -> dict[tuple[str, str], set[str]]:
        frames = {name: lazy(frame) for name, frame in tables.items()}
        now = datetime(2026, 7, 1, tzinfo=UTC)
        return {
            (table, kind.name): {finding.status for finding in findings}
            for table in frames
            for kind, findings in check_table(CONTRACTS[table], frames, now, kinds=DECLARED_KINDS)
        }

    assert {"Passed"} == set().union(*statuses(sound).values())
    need, shift, compared = sound
    faults = {
        (need, "roster"): {"needed_count": pl.lit(1, pl.Int64), "offered_load": pl.lit(9.0)},
        (need, "ahead"): {"target_date": pl.col("service_date")},
        (shift, "ahead"): {"target_date": pl.col("service_date")},
        (compared, "roster"): {"doctor_hours": pl.col("budget_hours") + 8},
    }
    for (table, kind), columns in faults.items():
        spoiled = sound | {table: sound[table].with_columns(**columns)}
        assert "Failed" in statuses(spoiled)[table, kind], (table, kind)
    fewer = sound | {need: made.need.with_columns(suggested_count=pl.col("least_count") - 1)}
    assert "Failed" in statuses(fewer)[need, "roster"]
    lost = sound | {shift: made.shifts.head(5)}
    assert "Failed" in statuses(lost)[compared, "roster"]


def test_what_came_is_seen_by_both_rosters(made: Made) -> None:
    read = tables()
    sunday = read["ahead"].with_columns(pl.col("service_date").dt.offset_by("7d"))
    over = weeks_over(made.shifts, sunday)
    names = ("visits", "shifts", "departments", "hospitals")
    found = realised(over, *(read[name] for name in names))
    CONTRACTS["kpi_staffing_realised"].schema.validate(found)
    worked, suggested = found.sort("roster").iter_rows(named=True)
    assert worked["service_date"] == AS_OF + timedelta(days=7) and worked["doctor_hours"] == 336
    assert worked["arrivals_count"] == read["visits"].filter(pl.col("service_date") > AS_OF).height
    # The roster that was worked does in the simulation as it did.
    seen = read["visits"].filter(pl.col("service_date") > AS_OF, pl.col("provider_at").is_not_null())
    really = (seen["provider_at"] - seen["arrival_at"]).dt.total_seconds().mean() / 60
    assert worked["wait_mean_minutes"] == pytest.approx(really, rel=0.1)
    assert suggested["wait_mean_minutes"] < worked["wait_mean_minutes"]
    assert_frame_equal(realised(over, *(read[name].reverse() for name in names)), found, check_exact=True)
    # A last day that is not over, or was not delivered at this hospital, is forecast from nowhere or elsewhere.
    for others in (read["ahead"], sunday.with_columns(hospital_id=pl.lit("H2"))):
        assert weeks_over(made.shifts, others).is_empty()
    gone = read | {"shifts": read["shifts"].filter(pl.col("service_date") <= AS_OF)}
    assert realised(over, *(gone[name] for name in names)).is_empty()


# The command --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data_dir(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with nothing but what the command reads."""
    settings = Settings(tmp_path_factory.mktemp("staffing"))
    hospital = {"hospital_key": [1], "hospital_id": ["H1"], "time_zone": [ZONE]}
    directory = pl.DataFrame(
        hospital | {name: [None] for name in CONTRACTS["dim_hospital"].column_names if name not in hospital}
    ).cast(CONTRACTS["dim_hospital"].polars_schema)
    # Of another hospital nothing is known since.
    before = made.comparison.with_columns(service_date=OLDER, hospital_id=pl.lit("H2"))
    stored = {
        "dim_hospital": directory.select(CONTRACTS["dim_hospital"].column_names),
        "staffing_shifts_suggested": made.shifts,
        "kpi_staffing_comparison": pl.concat([before, made.comparison]),
    }
    with open_warehouse(settings.warehouse_file) as warehouse:
        for name, frame in stored.items():
            weeks = Period(OLDER, AS_OF + timedelta(days=1)) if CONTRACTS[name].partitioned else None
            warehouse.replace(CONTRACTS[name], lazy(frame), weeks)
    return settings.data_dir


def test_the_command_shows_both_rosters_and_writes_the_suggested_one(
    data_dir: Path, made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "roster.csv", tmp_path / "roster.ics"]
    arguments = ["--data-dir", str(data_dir), "staffing", "--csv", str(files[0]), "--ics", str(files[1])]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    suggested = made.comparison.row(by_predicate=pl.col("roster") == "suggested", named=True)
    assert f"{suggested['wait_mean_minutes']:.1f} ({suggested['wait_mean_low_minutes']:.1f} to " in said
    assert "it changes nothing" in said and "without the forecast" in said
    table = pl.read_csv(files[0])
    assert table["suggested"].to_list() == made.shifts["suggested_count"].to_list()
    assert table.filter(start="07:00")["present"].to_list() == [2] * 7
    calendar = files[1].read_bytes().decode()
    assert calendar.count("BEGIN:VEVENT") == made.shifts.filter(pl.col("suggested_count") > 0).height
    before = files[1].read_bytes()
    main(arguments)
    assert files[1].read_bytes() == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--hospital", "H9"], "no hospital is called 'H9'; there are H1, H2"),
        (["--as-of", "2026-06-21"], "nothing was suggested on 2026-06-21; the newest is of 2026-06-28"),
    ],
)
def test_what_was_not_suggested_is_named(
    data_dir: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data-dir", str(data_dir), "staffing", *options]) == 2
    assert said in capsys.readouterr().err


def test_the_newest_suggestion_of_a_hospital_may_be_older(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, week in ((["--hospital", "H2"], OLDER), ([], AS_OF)):
        assert main(["--data-dir", str(data_dir), "staffing", *options]) == 0
        assert f"The week after {week}" in capsys.readouterr().out


def test_a_calendar_is_one_by_the_standard() -> None:
    shift = {
        "service_date": date(2026, 3, 1),
        "hospital_id": "H, 1",
        "target_date": date(2026, 3, 7),
        "hour_of_day": 23,
        "shift_hours": 8.0,
        "present_count": 1,
        "suggested_count": 2,
        "change_count": 1,
    }
    text = rosters.as_calendar([shift, shift | {"suggested_count": 0}], {"H, 1": ZONE})
    lines = text.split("\r\n")
    assert lines[0] == "BEGIN:VCALENDAR" and lines[-2:] == ["END:VCALENDAR", ""] and "\n" not in "".join(lines)
    assert all(len(line.encode()) <= 75 for line in lines) and text.count("BEGIN:VEVENT") == 1
    unfolded = text.replace("\r\n ", "").split("\r\n")
    # 23:00 in Chicago before the change of clocks on the 8th is 05:00 UTC; eight hours are eight hours.
    assert "DTSTART:20260308T050000Z" in unfolded and "DTEND:20260308T130000Z" in unfolded
    assert "SUMMARY:H\\, 1: 2 doctors\\, 23:00\\, 8 h" in unfolded
    assert "STATUS:TENTATIVE" in unfolded and "DTSTAMP:20260302T000000Z" in unfolded


def test_long_lines_are_folded_between_characters() -> None:
    line = "SUMMARY:" + "\u00e9" * 100
    parts = rosters.folded(line).split("\r\n")
    assert [len(part.encode()) <= 75 for part in parts] == [True] * len(parts) and len(parts) == 3
    assert parts[0] + "".join(part[1:] for part in parts[1:]) == line
    assert rosters.escaped("a;b\\c\nd") == "a\\;b\\\\c\\nd"
