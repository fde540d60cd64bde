"""Source profiles: the vocabulary, what is wrong said by line, and each built-in one end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from hospital_assets.assets.cleaned.vitals import validate_vitals
from hospital_assets.checks.accounting import unknown_kinds
from hospital_assets.landing.profile import ProfileError, Subject, parse_profile
from hospital_assets.landing.registry import load_profiles
from hospital_assets.landing.zone import LandingZone
from hospital_assets.sources.draft import draft_profile
from hospital_assets.warehouse.database import scratch_connection
from hospital_assets.warehouse.dialect import lazy
from hospital_assets_tests.helpers import zone_in

HEAD = 'name = "mine"\ndescription = "x"\ntime_zone = "America/Chicago"\n'
HOSPITAL = """
[[subjects.hospitals.rows]]
hospital_id = "H1"
hospital_name = "One"
time_zone = "America/Chicago"
"""

STAYS = (
    HEAD
    + HOSPITAL
    + """
[subjects.adt_events]
files = ["stays.*"]
date = "visit_start_at"
constants = { hospital_id = "H1" }
where = { "CLASS" = ["inpatient", "emergency"] }
derived = { message_id = ["ID"] }
[subjects.adt_events.columns]
visit_id = "ID"
patient_id = "WHO"
visit_start_at = "START"
[[subjects.adt_events.events]]
event_type = "A04"
event_at = "START"
where = { "CLASS" = ["emergency"] }
constants = { department = "Emergency" }
[[subjects.adt_events.events]]
event_type = "A01"
event_at = "START"
where = { "CLASS" = ["Inpatient"] }
[[subjects.adt_events.events]]
event_type = "A03"
event_at = "STOP"

[subjects.er_visits]
files = ["stays.*"]
date = "arrival_time"
where = { "CLASS" = ["emergency"] }
constants = { hospital_id = "H1" }
derived = { provider_time = { at = "START", plus_minutes = "WAIT" } }
limits = { triage_level = { at_least = 1, at_most = 5 } }
[subjects.er_visits.columns]
visit_id = "ID"
patient_id = "WHO"
arrival_time = "START"
triage_level = "ESI"
recorded_at = "@landed_at"
"""
)
ROWS = [
    {
        "ID": "1",
        "WHO": "P1",
        "CLASS": "emergency",
        "START": "2026-01-15 10:00:00",
        "STOP": "2026-01-15 14:00:00",
        "WAIT": "12.5",
        "ESI": "2",
    },
    {"ID": "2", "WHO": "P2", "CLASS": "inpatient", "START": "2026-01-15 11:00:00", "STOP": "", "WAIT": "", "ESI": ""},
    {"ID": "3", "WHO": "P3", "CLASS": "wellness", "START": "2026-01-16 11:00:00", "STOP": "", "WAIT": "", "ESI": ""},
    {"ID": "4", "WHO": "P4", "CLASS": "emergency ", "START": "", "STOP": "", "WAIT": "5", "ESI": "9"},
]
LAB = (
    HEAD
    + HOSPITAL
    + """
[subjects.vitals]
files = ["obs.*"]
date = "measured_at"
constants = { hospital_id = "H1" }
derived = { observation_id = ["WHO", "AT"] }
[subjects.vitals.columns]
patient_id = "WHO"
measured_at = "AT"
[subjects.vitals.observations]
by = ["WHO", "AT"]
code = "CODE"
value = "VALUE"
unit = ["UCUM", "UNIT"]
[subjects.vitals.observations.codes]
"8867-4" = "heart_rate"
"8310-5" = "temperature"
"72514-3" = "pain"
"""
)
VALUES = [
    {"WHO": "P1", "AT": "2026-01-15 10:00:00", "CODE": "8867-4", "VALUE": "80", "UNIT": "/min"},
    {"WHO": "P1", "AT": "2026-01-15 10:00:00", "CODE": "8310-5", "VALUE": "98.6", "UNIT": "[degF]"},
    {"WHO": "P1", "AT": "2026-01-15 10:00:00", "CODE": "8302-2", "VALUE": "170", "UNIT": "cm"},
    {"WHO": "P2", "AT": "2026-01-15 10:00:00", "CODE": "72514-3", "VALUE": "3", "UCUM": "{score}", "UNIT": "/10"},
    {"WHO": "P1", "AT": "2026-01-15 11:00:00", "CODE": "8867-4", "VALUE": "90", "UNIT": "/min"},
    {"WHO": "P1", "AT": "2026-01-15 10:00:00", "CODE": "8867-4", "VALUE": "81", "UNIT": "/min"},
]

Own = Callable[[str], None]


@pytest.fixture
def own(tmp_path: Path, zone: LandingZone) -> Own:
    """Puts a profile called `mine` into the data directory."""

    def write(text: str) -> None:
        (tmp_path / "profiles").mkdir(exist_ok=True)
        (tmp_path / "profiles" / "mine.toml").write_text(text)
        # A zone is made with its profiles; here they are written after it.
        object.__setattr__(zone, "profiles", load_profiles(tmp_path / "profiles"))

    return write


@pytest.fixture
def zone(tmp_path: Path) -> LandingZone:
    (tmp_path / "landing" / "mine").mkdir(parents=True)
    return zone_in(tmp_path, scratch_connection())


def as_json(profile: str) -> str:
    """The same profile for the same records as JSON lines."""
    columns = {key for row in (*ROWS, *VALUES) for key in row}
    for column in sorted(columns, key=len, reverse=True):
        profile = profile.replace(f'"{column}"', f'"$.{column}"')
    return profile.replace('files = ["', 'format = "jsonl"\nfiles = ["')


def land(zone: LandingZone, name: str, rows: list[dict[str, str]], kind: str) -> None:
    path = zone.landing / "mine" / f"{name}.{kind}"
    if kind == "csv":
        path.write_bytes(pl.DataFrame(rows).write_csv().replace('""', "").encode())
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def records(zone: LandingZone, subject: str, ledger: pl.DataFrame) -> pl.DataFrame:
    frame: pl.DataFrame = zone.read(subject, ledger).collect("polars").to_native()
    return frame.sort("source_line", "source_part")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_one_record_of_a_stay_is_its_events(zone: LandingZone, own: Own, kind: str) -> None:
    own(STAYS if kind == "csv" else as_json(STAYS))
    land(zone, "stays", ROWS, kind)
    ledger = zone.discover()
    events = records(zone, "adt_events", ledger)
    assert events.select("message_id", "event_type", "event_at", "department", "source_part").rows() == [
        ("1-A04", "A04", "2026-01-15 10:00:00", "Emergency", 1),
        ("1-A03", "A03", "2026-01-15 14:00:00", None, 3),
        ("2-A01", "A01", "2026-01-15 11:00:00", None, 2),
        # Without any time it still is an event, to be quarantined with the reason.
        ("4-A04", "A04", None if kind == "csv" else "", "Emergency", 1),
    ]
    visits = records(zone, "er_visits", ledger)
    assert visits["visit_id"].to_list() == ["1", "4"]
    assert visits["provider_time"].to_list() == ["2026-01-15 10:00:00 + 12.5 min", None]
    assert visits["problem"].to_list() == [None, "outside_limits"]
    assert visits["recorded_at"].str.ends_with("+00:00").all()
    # What nobody takes is kept, word for word, and dated by itself.
    (rest,) = records(zone, "other_records", ledger).rows(named=True)
    assert (rest["kind"], rest["source_profile"]) == ("wellness", "mine")
    assert rest["service_date"] == date(2026, 1, 16)
    assert json.loads(rest["record"])["ID"] == "3"
    counts = dict(ledger.select("subject", "row_count").iter_rows())
    assert counts == {"adt_events": 4, "er_visits": 2, "other_records": 1}


def test_a_kind_that_nobody_thought_of_is_named(zone: LandingZone, own: Own) -> None:
    own(STAYS)
    land(zone, "stays", ROWS, "csv")
    rest = zone.read("other_records", zone.discover())
    result = unknown_kinds(rest, {"mine": ("ambulatory",)})
    assert not result.passed and result.description == "mine wellness: 1"
    assert unknown_kinds(rest, {"mine": ("well*",)}).passed


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_long_observations_become_sets(zone: LandingZone, own: Own, kind: str) -> None:
    own(LAB if kind == "csv" else as_json(LAB))
    land(zone, "obs", VALUES, kind)
    ledger = zone.discover()
    sets = records(zone, "vitals", ledger)
    assert sets["observation_id"].to_list() == [
        "P1-2026-01-15 10:00:00",
        "P2-2026-01-15 10:00:00",
        "P1-2026-01-15 11:00:00",
    ]
    values = [
        [
            (one["sign"], one["value"], one.get("unit") or one.get("unit_2"))
            for one in json.loads(payload)["observations"]
        ]
        for payload in sets["payload"]
    ]
    assert values[0][:2] == [("heart_rate", "80", "/min"), ("temperature", "98.6", "[degF]")]
    assert values[1][0] == ("pain", "3", "{score}")
    assert [r["CODE"] for r in json.loads(sets["record"][0])] == ["8867-4", "8310-5", "8867-4"]
    assert records(zone, "other_records", ledger)["kind"].to_list() == ["8302-2"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_what_a_set_is_need_not_be_named(zone: LandingZone, own: Own, kind: str) -> None:
    unnamed = LAB.replace('derived = { observation_id = ["WHO", "AT"] }\n', "")
    own(unnamed if kind == "csv" else as_json(unnamed))
    spelled = [{**VALUES[1], "AT": "2026-01-15T10:00:00-06:00"}]
    # Of no time: two of one day, and one of them again.
    by_day = [{**VALUES[0], "AT": "2026-01-15", "VALUE": value} for value in ("70", "75", "75")]
    land(zone, "obs", [*VALUES[:5], *spelled, *by_day], kind)
    raw = records(zone, "vitals", zone.discover())
    ids = raw["observation_id"].to_list()
    assert ids[:4] == [
        "P1-2026-01-15 10:00:00",
        "P2-2026-01-15 10:00:00",
        "P1-2026-01-15 11:00:00",
        "P1-2026-01-15T10:00:00-06:00",
    ]
    assert len({*ids[4:]}) == 2 and all(name.startswith("P1-2026-01-15-") for name in ids[4:])
    hospitals = lazy(pl.DataFrame({"hospital_id": ["mine:H1"], "time_zone": ["America/Chicago"]}))
    found = validate_vitals(lazy(raw), hospitals, zone.profiles).collect("polars").to_native()
    sets = found.filter(pl.col("rule").is_null(), pl.col("patient_id").str.ends_with("P1"))
    assert sorted(sets.select("heart_rate_bpm", "temperature_c").rows(), key=str) == [
        (70, None),
        (75, None),
        (80, 37),
        (90, None),
    ]


def test_each_element_of_a_list_is_a_row(zone: LandingZone, own: Own) -> None:
    profile = LAB.replace('files = ["obs.*"]', 'format = "jsonl"\nfiles = ["obs.*"]\neach = "$.obx"')
    for name, path in {
        "WHO": "$.who",
        "AT": "$each.at",
        "CODE": "$each.code",
        "VALUE": "$each.v",
        "UCUM": "$each.ucum",
        "UNIT": "$each.u",
    }.items():
        profile = profile.replace(f'"{name}"', f'"{path}"')
    own(profile)
    message = {
        "who": "P1",
        "obx": [
            {"at": "2026-01-15 10:00:00", "code": "8867-4", "v": 80, "u": "/min"},
            {"at": "2026-01-15 10:00:00", "code": "8310-5", "v": 37, "u": "Cel"},
            {"at": "2026-01-15 11:00:00", "code": "8867-4", "v": 90, "u": "/min"},
            {"at": "2026-01-15 11:00:00", "code": "2339-0", "v": 90, "u": "mg/dL"},
        ],
    }
    others = [{"who": "P2", "obx": []}, {"who": "P3"}, {"who": "P4", "obx": [{"code": "x"}]}]
    text = "".join(json.dumps(m) + "\n" for m in (message, *others)) + "broken\n"
    (zone.landing / "mine" / "obs.jsonl").write_text(text)
    ledger = zone.discover()
    sets = records(zone, "vitals", ledger)
    assert sets.select("source_line", "source_part", "measured_at").rows() == [
        (1, 1, "2026-01-15 10:00:00"),
        (1, 3, "2026-01-15 11:00:00"),
    ]
    second = json.loads(sets["payload"][0])["observations"][1]
    assert (second["sign"], second["value"], second.get("unit"), second["unit_2"]) == ("temperature", "37", None, "Cel")
    assert json.loads(sets["record"][0]) == message
    rest = records(zone, "other_records", ledger)
    assert rest["source_line"].to_list() == [2, 3, 4, 5]
    assert rest["problem"].to_list() == [None, None, None, "unreadable_line"]


TRIMMED = (
    HEAD
    + HOSPITAL
    + """
[subjects.er_visits]
files = ["stays.*"]
date = "arrival_time"
where = { "CLASS" = ["!wellness"], "STOP" = ["*"] }
constants = { hospital_id = "H1" }
defaults = { triage_level = "3" }
patterns = { patient_id = "^P0*([0-9]+)$" }
derived = { chief_complaint = ["=seen", ["WAIT", "ESI"]] }
[subjects.er_visits.columns]
visit_id = "ID"
patient_id = "WHO"
arrival_time = "START"
triage_level = "ESI"
"""
)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_values_are_cut_out_and_filled_in_and_records_left_by_what_they_are_not(
    zone: LandingZone, own: Own, kind: str
) -> None:
    own(TRIMMED if kind == "csv" else as_json(TRIMMED))
    rows: list[dict[str, str | None]] = [
        {**ROWS[0], "WHO": "P007", "ESI": None},
        {**ROWS[0], "ID": "5", "WHO": "nobody", "WAIT": None},
        {**ROWS[0], "ID": "6", "CLASS": "Wellness"},
        {**ROWS[0], "ID": "7", "STOP": None},
        {**ROWS[0], "ID": "8", "CLASS": None},
    ]
    land(zone, "stays", rows, kind)  # type: ignore[arg-type]
    ledger = zone.discover()
    visits = records(zone, "er_visits", ledger)
    assert visits.select("visit_id", "patient_id", "triage_level", "chief_complaint").rows() == [
        ("1", "7", "3", "seen-12.5"),
        ("5", None, "2", "seen-2"),
        ("8", "1", "2", "seen-12.5"),
    ]
    rest = records(zone, "other_records", ledger)
    assert [json.loads(record)["ID"] for record in rest["record"]] == ["6", "7"]
    # What is compared with any text is no kind: it may be anything, a name for one.
    assert set(rest["kind"]) <= {None, ""}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_flag_is_whether_a_value_is_above_zero(zone: LandingZone, own: Own, kind: str) -> None:
    text = f'{LAB}[subjects.vitals.observations.flags]\n"3151-8" = "on_oxygen"\n'
    own(text if kind == "csv" else as_json(text))
    litres = ("2", "0", "", "some")
    rows = [{**VALUES[0], "WHO": f"P{n}", "CODE": "3151-8", "VALUE": v} for n, v in enumerate(litres)]
    land(zone, "obs", rows, kind)
    sets = records(zone, "vitals", zone.discover())
    found = [json.loads(payload)["observations"][0]["value"] for payload in sets["payload"]]
    assert found == ["true", "false", None, None]


FILLED_IN = (
    HEAD
    + HOSPITAL
    + """
[subjects.adt_events]
files = ["*.jsonl"]
format = "jsonl"
date = "visit_start_at"
where = { "$.kind" = ["stay"] }
derived = { message_id = ["$.id"] }
lookups = ["house", "ward"]
[subjects.adt_events.columns]
visit_id = "$.id"
patient_id = "$.who"
visit_start_at = "$.from"
department = "$.places[type=ward].code"
[[subjects.adt_events.events]]
event_type = "A01"
event_at = "$.from"
[[subjects.adt_events.events]]
event_type = "A02"
each = "$.places[type!=bed]"
from_element = 2
event_at = "$each.at"
columns = { department = "$each.code" }
[lookups.house]
column = "hospital_id"
on = "visit_id"
where = { "$.kind" = ["booking"] }
each = "$.stays"
key = ["$each.number", "$each.id"]
value = "$.house"
pattern = "#(.*)"
[lookups.ward]
column = "department"
on = "department"
where = { "$.kind" = ["ward"] }
key = "$.code"
value = ["$.names[use=old].text", "$.names[use=now].text"]
"""
)


def test_other_records_fill_in_and_lists_make_events(zone: LandingZone, own: Own) -> None:
    own(FILLED_IN)
    stay = {
        "kind": "stay",
        "id": "1",
        "who": "P1",
        "from": "2026-01-15 10:00:00",
        "places": [
            {"type": "bed", "code": "B", "at": "2026-01-15 10:30:00"},
            {"type": "ward", "code": "W1", "at": "2026-01-15 10:00:00"},
            {"code": "W2", "at": "2026-01-15 11:00:00"},
            {"type": "ward", "code": "W9"},
            {"type": "ward", "code": "W8", "at": "2026-01-15 12:00:00"},
        ],
    }
    others = [
        {"kind": "booking", "house": "H1", "stays": [{"id": "#0"}, {"id": "#1"}]},
        {"kind": "booking", "house": "H0", "stays": []},
        {"kind": "ward", "code": "W1", "names": [{"use": "now", "text": "Surgery"}]},
        {"kind": "ward", "code": "W2", "names": [{"use": "now", "text": "ICU"}, {"text": "?"}]},
    ]
    for name, rows in (("stays", [stay]), ("others", others)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (zone.landing / "mine" / f"{name}.jsonl").write_text(text)
    events = records(zone, "adt_events", zone.discover())
    assert events.select("message_id", "department", "event_at", "hospital_id").rows() == [
        ("1-A01", "Surgery", "2026-01-15 10:00:00", "H1"),
        ("1-A02-1", "ICU", "2026-01-15 11:00:00", "H1"),
        ("1-A02-3", "W8", "2026-01-15 12:00:00", "H1"),
    ]
    assert events["source_part"].n_unique() == 3


@pytest.mark.parametrize(
    ("text", "at", "says"),
    [
        (TRIMMED.replace("([0-9]+)", "[0-9]+"), "patterns = ", "needs a group"),
        (TRIMMED.replace("([0-9]+)", "([0-9]+"), "patterns = ", "not a regular expression"),
        (TRIMMED.replace("defaults = { t", "defaults = { T"), "defaults = ", "is not a column"),
        (FILLED_IN.replace('on = "department"', 'on = "ward"'), 'on = "ward"', "is not a column"),
        (FILLED_IN.replace('pattern = "#(.*)"', 'pattern = "#"'), 'pattern = "#"', "needs a group"),
        (FILLED_IN.replace('lookups = ["house"', 'lookups = ["home"'), "lookups = ", "neither a lookup nor the name"),
        (FILLED_IN.replace('each = "$.places[type!=bed]"\n', ""), "[[subjects.adt_events.events]]", "needs `each`"),
        (STAYS.replace('visit_id = "ID"', 'visit = "ID"', 1), 'visit = "ID"', "'visit' is not a"),
        (STAYS.replace("at_most", "most"), "limits = ", "there is no such key"),
        (STAYS.replace('event_type = "A03"', ""), "[[subjects.adt_events.events]]", "is missing"),
        (LAB.replace('"temperature"', '"fever"'), '"8310-5" = ', "'fever' is not a vital sign"),
        (
            FILLED_IN.replace("value = ", 'withdrawn = ["x"]\nvalue = ', 1),
            "withdrawn = ",
            "needs `versions` of the profile",
        ),
        (LAB.replace('"CODE"', '"$.code"'), 'code = "$.code"', "CSV files have column names"),
        (STAYS + '[code_maps.bed_id]\n"A" = "B"\n', "[code_maps", "only codes are translated"),
        (STAYS + '[code_maps]\nsex = "gender"\n', "sex = ", "valid dictionary"),
        (TRIMMED.replace("^P0*([0-9]+)$", "{digits}"), "patterns = ", "needs a group"),
        (HEAD + 'x = "y"\n[subjects]\n', 'x = "y"', "there is no such key"),
        (HEAD + HOSPITAL.replace("hospital_name", "nam"), "nam = ", "'nam' is not a column"),
        (LAB.replace('date = "measured_at"', ""), "[subjects.vitals]", "say which column dates"),
    ],
)
def test_a_mistake_is_named_by_its_line(text: str, at: str, says: str) -> None:
    line = max(n for n, content in enumerate(text.splitlines(), 1) if content.startswith(at))
    with pytest.raises(ProfileError) as raised:
        parse_profile(text, "mine.toml")
    assert f"mine.toml:{line}:" in str(raised.value)
    assert says in str(raised.value)


def test_code_maps_and_expressions_are_stated_once() -> None:
    text = STAYS.replace("date = ", 'patterns = { visit_id = "{digits}" }\ndate = ', 1)
    maps = '[code_maps]\ndischarge_disposition = "disposition"\n[code_maps.disposition]\n"01" = "home"\n'
    text = text.replace('"START"', '"{start}T"')
    profile = parse_profile(f"{text}{maps}[expressions]\ndigits = '([0-9]+)'\nstart = 'STAR'\n", "mine.toml")
    assert profile.code_maps["discharge_disposition"] == profile.code_maps["disposition"] == {"01": "home"}
    assert profile.subjects["adt_events"].patterns == {"visit_id": "([0-9]+)"}
    assert profile.subjects["adt_events"].columns == parse_profile(STAYS, "mine.toml").subjects["adt_events"].columns


def test_the_field_of_a_path_is_known_behind_what_it_picks() -> None:
    spec = Subject(format="jsonl")
    paths = ("$.a[by b.c][-1].d", "$[kind=x].a[by b.c]", "$[kinds[*].code=x].a.b", '$."a"[c=d]', "$.a")
    assert [spec.field(path) for path in paths] == ["a"] * len(paths)


def test_a_profile_of_the_data_directory_is_seen_as_it_is_now(zone: LandingZone, own: Own) -> None:
    land(zone, "stays", ROWS, "csv")
    (entry,) = (ledger := zone.discover()).rows(named=True)
    assert entry["state"] == "unrecognised" and "hospital profiles new" in entry["problem"]
    own(STAYS.replace("date = ", "dat = ", 1))
    (entry,) = zone.discover().rows(named=True)  # a broken one harms nobody else
    assert entry["state"] == "unrecognised" and "mine.toml:12" in entry["problem"]
    own(STAYS)
    ledger = zone.discover(ledger)
    assert set(ledger["state"]) == {"ready"}
    own(STAYS.replace('"wellness"', '"x"').replace('"inpatient", ', '"inpatient", "wellness", '))
    assert zone.discover(ledger)["row_count"].to_list() != ledger["row_count"].to_list()


LOOKED_UP = (
    HEAD
    + HOSPITAL
    + """
[subjects.diagnoses]
files = ["codes.csv"]
date = "encounter_date"
[subjects.diagnoses.columns]
visit_id = "VISIT"
icd_code = "CODE"
[subjects.diagnoses.join]
files = ["stays.csv"]
on = "VISIT"
key = "ID"
columns = { patient_id = "WHO", encounter_date = "START" }
is_lookup = true
"""
)


@pytest.mark.parametrize("first", ["codes", "stays"])
def test_what_is_looked_up_may_come_later(zone: LandingZone, own: Own, first: str) -> None:
    own(LOOKED_UP)
    codes = [{"VISIT": "2", "CODE": "J18"}, {"VISIT": "3", "CODE": "I10"}, {"VISIT": "9", "CODE": "X"}]
    files = {"codes": codes, "stays": ROWS}
    land(zone, first, files.pop(first), "csv")
    before = zone.discover()
    ((second, rows),) = files.items()
    land(zone, second, rows, "csv")
    ledger = zone.discover(before)
    read = records(zone, "diagnoses", ledger)
    # Nobody is invented, nobody is lost, and the days are those of the stays.
    assert read.select("visit_id", "patient_id", "service_date").rows() == [
        ("2", "P2", date(2026, 1, 15)),
        ("3", "P3", date(2026, 1, 16)),
        ("9", None, date(2026, 1, 15)),
    ]
    (dates,) = ledger.filter(pl.col("state") == "ready")["service_dates"].to_list()
    assert dates == [date(2026, 1, 15), date(2026, 1, 16)]
    none = pl.lit([], dtype=pl.List(pl.Date))
    loaded = {"loaded_dates": "service_dates", "loaded_row_count": "row_count"}
    published = before.with_columns(is_loaded=pl.lit(True), outdated_dates=none, **loaded)
    waits = {f.source_file: f.days for f in zone.waiting(ledger, published, ["diagnoses"])}
    assert waits["mine/codes.csv"][-2:] == (date(2026, 1, 15), date(2026, 1, 16))


COMMAS = """
name = "mine"
description = "Numbers as they are written in half of the world."
time_zone = "Europe/Berlin"
namespace = ""
[subjects.vitals]
files = ["*.csv"]
delimiter = ";"
decimal = ","
date = "measured_at"
limits = { device_id = { at_most = 9.5 } }
[subjects.vitals.derived]
observation_id = ["who", "@line"]
[subjects.vitals.columns]
patient_id = "who"
hospital_id = "where"
device_id = "device"
measured_at = "at"
[subjects.vitals.payload]
temperature = { column = "temp", unit = "Cel" }
heart_rate = { column = "pulse" }
"""


def test_numbers_may_have_decimal_commas(zone: LandingZone, own: Own) -> None:
    own(COMMAS)
    written = ["37,5", "37.5", "1.037,5", "38", ""]
    lines = [f"P{n};H1;9,4;2026-01-15 10:00;{text};80,5" for n, text in enumerate(written)]
    lines.append("P9;H1;9,6;2026-01-15 10:00;37;80")
    (zone.landing / "mine" / "v.csv").write_text("\n".join(["who;where;device;at;temp;pulse", *lines]))
    raw = records(zone, "vitals", zone.discover())
    assert raw["problem"].to_list() == [None] * 5 + ["outside_limits"]
    assert json.loads(raw["payload"][0])["temperature"]["value"] == "37,5"  # as it landed
    hospitals = pl.DataFrame({"hospital_id": ["H1"], "time_zone": ["Europe/Berlin"]})
    raw = raw.with_columns(source_profile=pl.lit("mine"), service_date=date(2026, 1, 15)).head(5)
    for of in (lazy, lambda frame: lazy(zone.connection.from_arrow(frame.to_arrow()))):
        validated = validate_vitals(of(raw), of(hospitals), zone.profiles).collect("polars").to_native()
        found = validated.sort("source_line")
        assert found["temperature_c"].to_list() == [37.5, 37.5, None, 38.0, None]
        assert found["heart_rate_bpm"].to_list() == [80.5] * 5
        is_doubted = found["quality_codes"].str.contains("value_unreadable")
        assert is_doubted.to_list() == [False, False, True, False, False]


def test_a_draft_sees_decimal_commas(tmp_path: Path) -> None:
    lines = ["patient;measured at;temperature;pulse", "P1;2026-01-15 10:00;37,5;80"]
    path = tmp_path / "vitals.csv"
    path.write_text("\n".join(lines))
    assert draft_profile("mine", path).profile.subjects["vitals"].decimal == ","
    path.write_text("\n".join(lines).replace(",", "."))
    assert draft_profile("mine", path).profile.subjects["vitals"].decimal == "."
