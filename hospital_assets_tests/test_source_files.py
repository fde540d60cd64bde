"""Files as hospitals and their spreadsheets really write them: each comes out right, or says what is wrong with it."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import polars as pl
import pytest

from hospital_assets.assets.cleaned.subjects import VALIDATORS
from hospital_assets.cli import main
from hospital_assets.landing.content import UnreadableError
from hospital_assets.landing.headers import distinct
from hospital_assets.landing.profile import Profile, ProfileError, parse_profile
from hospital_assets.landing.registry import Profiles, load_profiles, profile_text
from hospital_assets.landing.zone import LandingZone
from hospital_assets.sources.draft import draft_profile
from hospital_assets.sources.readings import readings
from hospital_assets.warehouse.database import scratch_connection
from hospital_assets.warehouse.dialect import lazy
from hospital_assets_tests.conftest import shared
from hospital_assets_tests.engines import DUCKDB_SLOW, ENGINES, Engine
from hospital_assets_tests.helpers import zone_in

HEAD = """
name = "mine"
description = "x"
time_zone = "Europe/Berlin"
"""
PLACE = """
[[subjects.hospitals.rows]]
hospital_id = "1"
hospital_name = "H"
time_zone = "Europe/Berlin"
[subjects.er_visits]
files = ["*"]
date = "arrival_time"
constants = { hospital_id = "1", department = "Emergency" }
"""
COLUMNS = """
[subjects.er_visits.columns]
visit_id = "id"
patient_id = "who"
recorded_at = "@landed_at"
"""


class Landed:
    """Files of one profile, landed, and what becomes of them on an engine."""

    def __init__(self, folder: Path, connection: duckdb.DuckDBPyConnection) -> None:
        self.folder, self.connection = folder, connection

    def zone(self, profile: str, files: dict[str, str | bytes]) -> LandingZone:
        found: Profile = parse_profile(profile, "mine.toml")
        for name, content in files.items():
            path = self.folder / "landing" / found.name / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        days = date(1900, 1, 1), date(2999, 12, 31)
        return zone_in(self.folder, self.connection, Profiles({found.name: found}), days)

    def validated(
        self,
        profile: str,
        files: dict[str, str | bytes],
        subject: str = "er_visits",
        on: Engine | None = None,
        others: Sequence[Profile] = (),
    ) -> pl.DataFrame:
        zone = self.zone(profile, files)
        profiles = Profiles({**zone.profiles, **{other.name: other for other in others}})
        ledger = zone.discover()
        raw = zone.read(subject, ledger).collect("polars").to_native()
        hospitals = VALIDATORS["hospitals"](
            zone.read("hospitals", ledger), zone.read("hospitals", ledger), zone.profiles
        )
        bring = on or lazy
        places = hospitals.select("hospital_id", "time_zone").collect("polars").to_native()
        found: pl.DataFrame = VALIDATORS[subject](bring(raw), bring(places), profiles).collect("polars").to_native()
        zoned = [n for n, t in found.schema.items() if isinstance(t, pl.Datetime) and t.time_zone]
        return found.with_columns(pl.col(n).dt.convert_time_zone("UTC") for n in zoned).sort("source_line")


@pytest.fixture
def landed(tmp_path: Path) -> Iterator[Landed]:
    with closing(scratch_connection()) as connection:
        yield Landed(tmp_path, connection)


@pytest.fixture(params=DUCKDB_SLOW)
def on(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def waits(found: pl.DataFrame) -> list[float | None]:
    return (
        found.select((pl.col("provider_at") - pl.col("arrival_at")).dt.total_microseconds() / 60e6)
        .to_series()
        .to_list()
    )


def codes(found: pl.DataFrame) -> list[set[str]]:
    return [set(filter(None, listed.split(";"))) for listed in found["quality_codes"]]


# --- clocks that are stated in pieces --------------------------------------------------------------

SUMMED = (
    HEAD
    + 'timestamp_formats = ["%d.%m.%Y %H:%M"]\n'
    + PLACE
    + 'derived = { provider_time = { at = "came", plus_minutes = "wait" } }\n'
    + COLUMNS
    + 'arrival_time = "came"\n'
)


def test_minutes_are_added_to_a_clock_read_by_the_profiles_formats(landed: Landed, on: Engine) -> None:
    lines = ["id,who,came,wait", "A,1,02.03.2026 00:10,20", "B,1,03.03.2026 01:03,69.25", "C,1,02.03.2026 02:00,"]
    # The wall clock goes from 02:00 to 03:00, and back.
    lines += [
        "D,1,29.03.2026 01:56,87",
        "E,1,25.10.2026 01:50,70",
        "F,1,02.03.2026 03:00,soon",
        "G,1,02.03.2026 4:00,-5",
    ]
    found = landed.validated(SUMMED, {"a.csv": "\n".join(lines)}, on=on)
    assert waits(found) == [20, 69.25, None, 87, 70, None, -5]
    assert found["arrival_at"][3] == utc("2026-03-29 00:56")
    derived = [{"clock_derived"}] * 2 + [set()] + [{"clock_derived"}] * 2
    assert codes(found)[:5] == derived
    assert "clock_unreadable" in codes(found)[5]
    assert "provider_before_arrival" in codes(found)[6]


def test_other_sources_keep_their_clocks(landed: Landed, on: Engine) -> None:
    """That one profile derives a clock changes nothing for a source that has it."""
    plain = SUMMED.replace("derived = { provider_time", "# ") + 'provider_time = "seen"\n'
    other = parse_profile(SUMMED.replace('name = "mine"', 'name = "other"'), "other.toml")
    lines = ["id,who,came,seen", "A,1,02.03.2026 00:10,02.03.2026 00:31"]
    found = landed.validated(plain, {"a.csv": "\n".join(lines)}, on=on, others=[other])
    assert waits(found) == [21]
    assert codes(found) == [set()]


def test_minutes_are_added_in_json_too(landed: Landed) -> None:
    spec = SUMMED.replace('"id"', '"$.id"').replace('"who"', '"$.who"').replace('"came"', '"$.at.came"')
    spec = spec.replace('"wait"', '"$.wait"').replace('date = "arr', 'format = "jsonl"\ndate = "arr')
    text = '{"id": "A", "who": "1", "at": {"came": "29.03.2026 01:56"}, "wait": 87}\n'
    found = landed.validated(spec, {"a.jsonl": text})
    assert waits(found) == [87]


SPLIT = (
    HEAD
    + 'timestamp_formats = ["%d.%m.%Y %H:%M"]\n'
    + PLACE
    + "[subjects.er_visits.derived]\n"
    + 'arrival_time = { date = "day", time = "at" }\n'
    + 'provider_time = { at = { date = "day", time = "at" }, plus_minutes = "wait" }\n'
    + COLUMNS
)


def test_a_date_and_a_time_are_one_clock(landed: Landed, on: Engine) -> None:
    lines = ["id,who,day,at,wait", "A,1,02.03.2026,08:15,5", "B,1,2026-07-02 00:00:00,1899-12-30 08:15:00,5"]
    lines += ["C,1,02.03.2026,,5", "D,1,,08:15,5"]
    found = landed.validated(SPLIT, {"a.csv": "\n".join(lines)}, on=on)
    assert found["arrival_at"].to_list()[:2] == [utc("2026-03-02 07:15"), utc("2026-07-02 06:15")]
    assert waits(found)[:2] == [5, 5]
    # A day is no midnight, whatever is added to it.
    assert found["rule"].to_list() == [None, None, "arrival_missing", "arrival_missing"]
    days = landed.zone(SPLIT, {}).discover()["service_dates"].to_list()
    assert date(2026, 3, 2) in days[0] and date(2026, 7, 2) in days[0]


def test_what_follows_a_date_is_a_time_and_no_offset(landed: Landed, on: Engine) -> None:
    """08:15 in Berlin was read as midnight with an offset of eight hours and a quarter."""
    files = shared("../cases/files")
    profile = (files / "date_times.toml").read_text()
    found = landed.validated(profile, {"date_times_min.csv": (files / "date_times_min.csv").read_bytes()}, on=on)
    assert found["arrival_at"].to_list() == [
        utc("2026-03-02 02:23"),
        utc("2026-07-02 06:15"),
        utc("2026-03-02 17:45"),
        utc("2026-03-02 22:59"),
    ]
    assert waits(found) == [17, 25, 15, 0]


@pytest.mark.parametrize(
    ("was", "becomes", "says"),
    [
        ('at = "came"', 'at = "arrival_time"', "'arrival_time' is our name; here it is called came"),
        ('at = "came"', 'at = "provider_time"', "'provider_time' is our name, and derived itself"),
        ('at = "came"', 'since = "came"', "derived.provider_time"),
    ],
)
def test_an_unusable_name_in_derived_is_named_by_its_line(was: str, becomes: str, says: str) -> None:
    text = SUMMED.replace(was, becomes)
    line = next(n for n, content in enumerate(text.splitlines(), 1) if content.startswith("derived"))
    with pytest.raises(ProfileError, match=says) as raised:
        parse_profile(text, "mine.toml")
    assert f"mine.toml:{line}:" in str(raised.value)


# --- readings of a text ------------------------------------------------------------------------------


def test_a_date_without_a_time_is_an_unknown_time(landed: Landed, on: Engine) -> None:
    profile = (
        HEAD
        + 'timestamp_formats = ["%d-%b-%Y", "%d.%m.%Y"]\n'
        + PLACE
        + COLUMNS
        + 'arrival_time = "came"\ndeparture_time = "gone"\n'
    )
    days = ["2026-03-02", "02-Mar-2026", "02.03.2026", "2026-03-02 00:00"]
    lines = [
        "id,who,came,gone",
        *(f"{n},1,{day},{day}" for n, day in enumerate(days)),
        "9,1,2026-03-02 09:00,yesterday",
    ]
    found = landed.validated(profile, {"a.csv": "\n".join(lines)}, on=on)
    assert found["rule"].to_list() == [None] * 5
    assert (
        found["arrival_at"].is_null().to_list()
        == found["arrival_local"].is_null().to_list()
        == [True] * 3 + [False] * 2
    )
    assert [str(day) for day in found["service_date"]] == ["2026-03-02"] * 5
    assert found["departure_at"].to_list() == [None, None, None, utc("2026-03-01 23:00"), None]
    by_day = {"arrival_time_unknown", "departure_time_unknown"}
    assert [by_day & found for found in codes(found)] == [by_day] * 3 + [set()] * 2
    assert "clock_unreadable" in codes(found)[4]


def test_days_of_arrival_are_not_midnight(landed: Landed, on: Engine) -> None:
    files = shared("../cases/files")
    profile = (
        HEAD
        + PLACE
        + COLUMNS.replace('"id"', '"Visit Number"').replace('"who"', '"Patient ID"')
        + 'arrival_time = "Arrival Time"\n'
    )
    found = landed.validated(profile, {"dateonly.csv": (files / "dateonly.csv").read_bytes()}, on=on)
    assert found["rule"].to_list() == [None] * 60
    assert found["arrival_at"].null_count() == 60
    assert all("arrival_time_unknown" in of for of in codes(found))


def test_a_text_that_can_be_read_in_two_ways_is_flagged(landed: Landed, on: Engine) -> None:
    """A list of formats is no licence to move a date to another month in silence."""
    profile = (
        HEAD
        + 'timestamp_formats = ["%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M"]\n'
        + PLACE
        + COLUMNS
        + 'arrival_time = "came"\n'
    )
    texts = ["02/03/2026 08:00", "13/03/2026 08:00", "03/13/2026 08:00", "03/03/2026 08:00"]
    # Behind the spreadsheet: what could be a month has become one, and ISO 8601.
    texts += ["2026-02-03 08:00:00", "2026-03-13 08:00:00", "2026-03-03 08:00:00"]
    lines = ["id,who,came", *(f"{n},1,{text}" for n, text in enumerate(texts))]
    found = landed.validated(profile, {"a.csv": "\n".join(lines)}, on=on)
    assert ["clock_ambiguous" in found for found in codes(found)] == [True, False, False, False, True, False, False]
    plain = profile.replace('["%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M"]', "[]")
    assert codes(landed.validated(plain, {"a.csv": "\n".join(lines)}, on=on))[4] == set()


def test_numbers_of_days_and_seconds_are_clocks(landed: Landed, on: Engine) -> None:
    profile = (
        HEAD + 'timestamp_formats = ["excel", "epoch_s", "epoch_ms"]\n' + PLACE + COLUMNS + 'arrival_time = "came"\n'
    )
    texts = ["46083.006944", "1772410200", "1772410200500", "46083", "17724"]
    lines = ["id,who,came", *(f"{n},1,{text}" for n, text in enumerate(texts))]
    found = landed.validated(profile, {"a.csv": "\n".join(lines)}, on=on)
    # Days are a wall clock, seconds an instant.
    assert found["arrival_at"].to_list()[:2] == [utc("2026-03-01 23:10"), utc("2026-03-02 00:10")]
    assert found["rule"].to_list() == [None] * 5
    assert ["arrival_time_unknown" in of for of in codes(found)] == [False] * 3 + [True] * 2


# --- drafts of profiles ------------------------------------------------------------------------------

#: Case -> how many of its visits are sound with the drafted profile, the first arrival, and what the draft says.
CASES: dict[str, tuple[int, str | None, str]] = {
    "wartezeit_2026-03.csv": (60, "2026-03-01 23:10", "minutes from arrival"),
    "dst-er_visits_data.csv": (2, "2025-03-09 00:56", "minutes from arrival"),
    "date_times_min.csv": (4, "2026-03-02 02:23", "has no date of its own"),
    "kaggle-like.csv": (2, "2020-03-20 07:47", "minutes from arrival"),
    "twelve_sec.csv": (60, "2026-03-01 23:10", ""),
    "epoch_s.csv": (60, "2026-03-02 00:10", "seconds since 1970"),
    "excel_serial.csv": (60, "2026-03-01 23:10", "days, as spreadsheets store clocks"),
    "excel_damaged_iso.csv": (58, None, "mixes readings"),
    "dateonly.csv": (60, None, "days without a time of day"),
    "pandas_index.csv": (60, "2026-03-01 23:10", "a column has no name"),
    "title_rows.csv": (60, "2026-03-01 23:10", ""),
    "urgences.csv": (60, "2026-03-01 23:10", "fit %d/%m/%Y %H:%M and %m/%d/%Y %H:%M"),
}


def test_every_case_is_here() -> None:
    there = {path.name for path in shared("../cases/files").iterdir()} - {"date_times.toml", "visits.xlsx"}
    assert there == set(CASES)


@pytest.mark.fast_as("urgences", "epoch_s")
@pytest.mark.parametrize("name", CASES)
def test_a_case_is_drafted_and_read(name: str, landed: Landed, on: Engine) -> None:
    path = shared("../cases/files") / name
    sound, first, says = CASES[name]
    draft = draft_profile("mine", path, "Europe/Berlin")
    assert "er_visits" in draft.subjects
    assert any(says in doubt for doubt in draft.doubts) if says else draft.doubts == []
    found = landed.validated(draft.text, {name: path.read_bytes()}, on=on)
    assert found["rule"].null_count() == sound
    if first is not None:
        assert found["arrival_at"][0] == utc(first)
    if name == "wartezeit_2026-03.csv":
        landed_waits = [float(line.split(";")[4]) for line in path.read_text().splitlines()[1:]]
        assert waits(found) == landed_waits
    if name == "kaggle-like.csv":
        assert waits(found) == [39, 27]
    if name == "excel_damaged_iso.csv":
        # Those whose day could be the month, and no other, are in doubt.
        assert sum("clock_ambiguous" in codes for codes in codes(found)) == 22


def test_minutes_after_the_change_of_clocks(landed: Landed, on: Engine) -> None:
    path = shared("../cases/files") / "dst-er_visits_data.csv"
    text = draft_profile("mine", path, "America/New_York").text
    assert waits(landed.validated(text, {path.name: path.read_bytes()}, on=on)) == [87, 38]


@pytest.mark.parametrize("mark", [",", "."])
def test_a_sum_of_clock_and_minutes_has_the_day_it_falls_on(landed: Landed, mark: str) -> None:
    profile = HEAD + 'timestamp_formats = ["%d.%m.%Y %H:%M"]\n' + PLACE + f'decimal = "{mark}"\ndelimiter = ";"\n'
    profile += 'derived = { arrival_time = { at = "came", plus_minutes = "wait" } }\n' + COLUMNS
    lines = ["id;who;came;wait"] + [f"A{day};1;0{day}.03.2026 23:50;20{mark}5" for day in (2, 3, 4)]
    found = landed.validated(profile, {"a.csv": "\n".join([*lines, f"B;1;02.03.2026 08:00;20{mark}5"])})
    assert found["service_date"].to_list() == [date(2026, 3, day) for day in (3, 4, 5, 2)]


#: Columns in the order of `WANTED`, as systems of a country name them.
HEADERS = {
    "English": "Encounter Number|MRN|Arrival Date/Time|Triage Category|"
    "First Seen|Departure Date/Time|Discharge Disposition",
    "English of a system": "CSN|Pt MRN|ED_ARRIVAL_DTTM|ESI_LEVEL|MD Seen Time|ED_DEPARTURE_TIME|ED Disposition",
    "ECDS": "EmergencyCareAttendanceIdentifier|LocalPatientIdentifier|EmergencyCareArrivalDate|EmergencyCareAcuity|"
    "EmergencyCareDateSeenForTreatment|EmergencyCareDepartureDate|EmergencyCareDischargeStatus",
    "Australian": "Episode Number|UR Number|Presentation date/time|Triage category (ATS)|"
    "Clinical care commencement time|Departure status time|Episode end status",
    "French": "N° de séjour|IPP|Date et heure d'arrivée|Niveau de tri|"
    "Prise en charge médicale|Date de sortie|Mode de sortie",
    "Spanish": "Número de episodio|Historia clínica|Fecha y hora de llegada|Nivel de triaje|"
    "Hora de atención|Fecha y hora de alta|Destino al alta",
    "German": "Fallnummer|Patienten-Nr.|Ankunftszeit|Triagestufe|"
    "Erster Arztkontakt|Entlassungszeitpunkt|Entlassungsgrund",
    "Danish": "KontaktID|CPR-nummer|Ankomsttidspunkt|Hastegrad|Lægekontakt|Afgangstidspunkt|Udskrevet til",
    "Dutch": "Bezoeknummer|Patiëntnummer|Aankomsttijd|Urgentie|Eerste artscontact|Vertrektijd|Ontslagbestemming",
    "Italian": "Numero accesso|Codice paziente|Data ora arrivo|Codice triage|Visita medica|Data ora dimissione|Esito",
    "Portuguese": "Número do atendimento|Prontuário|Data e hora de chegada|Classificação de risco|"
    "Hora do atendimento|Data e hora de saída|Desfecho",
}
WANTED = ["visit_id", "patient_id", "arrival_time", "triage_level", "provider_time", "departure_time", "disposition"]


@pytest.mark.parametrize("language", HEADERS)
def test_headers_of_many_languages_are_understood(language: str, tmp_path: Path) -> None:
    header = HEADERS[language].split("|")
    lines = [";".join(header)]
    lines += [
        f"{n};P{n};{d}.03.2026 08:00;3;{d}.03.2026 08:20;{d}.03.2026 10:00;x" for n, d in enumerate(range(13, 22))
    ]
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="latin-1")
    found = draft_profile("mine", tmp_path / "a.csv").profile.subjects["er_visits"].columns
    assert {column: found.get(column) for column in WANTED} == dict(zip(WANTED, header, strict=True))


def test_a_file_of_visits_is_never_patients_alone_in_silence(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("MRN,Sex,Age,Triage Category,Something\n1,M,30,3,x\n2,F,40,2,y\n")
    draft = draft_profile("mine", tmp_path / "a.csv")
    assert draft.subjects == ("patients", "er_visits")
    assert "no arrival was understood" in draft.doubts[0] and "Something" in draft.doubts[0]
    (tmp_path / "b.csv").write_text("MRN,Sex,DOB\n1,M,1980-01-01\n2,F,1990-01-01\n")
    assert draft_profile("mine", tmp_path / "b.csv").subjects == ("patients",)


def test_identifiers_that_differ_in_case_are_two(tmp_path: Path, landed: Landed) -> None:
    text = "visit_id,patient_id,arrival_time\nv1,p,2026-03-02 08:00\nV1,P,2026-03-02 09:00\n"
    (tmp_path / "a.csv").write_text(text)
    draft = draft_profile("mine", tmp_path / "a.csv")
    assert sum("differ in case only" in doubt for doubt in draft.doubts) == 2
    found = landed.validated(draft.text, {"a.csv": text})
    assert found["visit_id"].to_list() == ["mine:v1", "mine:V1"] and found["rule"].null_count() == 2


def test_a_column_that_is_there_twice_is_two(tmp_path: Path, landed: Landed) -> None:
    """Their values are not mixed in a draft, and a number that another column has is not taken."""
    lines = [f"{n},P{n},{d}/03/2026 08:00,x,y,2026-03-{d}" for n, d in enumerate(range(13, 22))]
    text = "\n".join(["visit_id,patient_id,Arrival,note,note_2,Arrival", *lines]) + "\n"
    (tmp_path / "a.csv").write_text(text)
    draft = draft_profile("mine", tmp_path / "a.csv")
    assert draft.profile.timestamp_formats == ("%d/%m/%Y %H:%M",)
    assert not any("without a time" in doubt for doubt in draft.doubts)
    assert landed.validated(draft.text, {"a.csv": text})["rule"].null_count() == 9
    assert distinct(["a", "b", "a"]) == ["a", "b", "a_2"]
    assert distinct(["a", "a_2", "a", "a"]) == ["a", "a_2", "a_3", "a_4"]
    assert distinct(["a", "a", "a_2"]) == ["a", "a_3", "a_2"]


def test_words_for_no_value_are_no_values_of_a_draft(tmp_path: Path) -> None:
    """Most visits of a sample may have no departure; its column is known by those that have one."""
    left = ["13/03/2026 09:00", *["NULL"] * 8]
    lines = [f"{n},P{n},{n + 13}/03/2026 08:00,NULL,{at}" for n, at in enumerate(left)]
    (tmp_path / "a.csv").write_text("\n".join(["visit_id,patient_id,arrival,triage_level,departure", *lines]) + "\n")
    draft = draft_profile("mine", tmp_path / "a.csv")
    assert draft.profile.subjects["er_visits"].columns["departure_time"] == "departure"
    assert not any("NULL" in doubt for doubt in draft.doubts)


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("visits [final].csv", ["visits [final].csv"]),
        ("what? (1).CSV", ["what? (2).CSV"]),
        ("export.2026-03-05.csv", ["export.2026-03-06.csv", "export.csv"]),
        ("notaufnahme_2026-03.csv.gz", ["notaufnahme_2026-04.csv"]),
        ("20260305.csv", ["20260306.csv.gz"]),
        ("VISITS.001", ["VISITS.002"]),
    ],
)
def test_a_draft_takes_its_own_file_and_the_next_one(name: str, others: list[str], tmp_path: Path) -> None:
    text = b"visit_id,patient_id,arrival\n1,P,2026-03-02 08:00\n2,Q,2026-03-02 09:00\n"
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    profile = draft_profile("mine", tmp_path / name).profile
    assert all(profile.feeds(each) for each in (name, *others)) and not profile.feeds("other.txt")


def test_iso_8601_that_is_not_read_is_not_drafted_as_if_it_were(tmp_path: Path) -> None:
    """Weeks and days of the year, and figures without marks, need a format: without one every clock would be lost."""
    for known in ("2026-W10-1", "2026-03-02T08"):
        assert readings(known) == (), known
    for known in ("20260302T080000Z", "20260302T080000+0100", "20260302T080000"):
        assert readings(known) == ("%Y%m%dT%H%M%S",), known
    assert readings("23/03/2026 08:00+01:00") == ("%d/%m/%Y %H:%M",)
    for known in ("2026-03-02", "2026-03-02T08:00Z", "2026-03-02 08:00:00.5", "2026-03-02T08:00:00+01:00"):
        assert readings(known) == ("iso",), known


# --- layouts and other kinds of files ------------------------------------------------------------------


def test_titles_and_blank_rows_are_no_visits(landed: Landed) -> None:
    profile = HEAD + PLACE + "header_line = 3\n" + COLUMNS + 'arrival_time = "came"\n'
    text = "Visits,,\nof March,,\nid,who,came\nA,1,2026-03-02 08:00\n,,\nB,1,2026-03-02 09:00\n,,\n"
    found = landed.validated(profile, {"a.csv": text})
    assert found["source_line"].to_list() == [4, 6]
    assert found["rule"].null_count() == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PK\x03\x04\x14\x00\x06\x00\x08\x00\x00\x00!\x00[Content_Types].xml", "Excel workbook"),
        (b"PK\x03\x04\x14\x00\x00\x00\x08\x00visits.csv", "zip archive"),
        (b"PAR1\x15\x04\x15\x10", "Parquet"),
        (b"<!DOCTYPE html><html><body>Please log in</body></html>", "HTML page"),
        (b"<?xml version='1.0'?><ClinicalDocument/>", "XML"),
        (b"%PDF-1.7\n", "PDF"),
    ],
)
def test_other_kinds_of_files_are_named_with_the_remedy(content: bytes, says: str, landed: Landed) -> None:
    zone = landed.zone(HEAD + PLACE + COLUMNS + 'arrival_time = "came"\n', {"a.csv": content})
    (row,) = zone.discover().filter(pl.col("subject") == "er_visits").rows(named=True)
    assert row["state"] == "unreadable" and says in row["problem"]
    path = landed.folder / "landing" / "mine" / "a.csv"
    with pytest.raises(UnreadableError, match=says):
        draft_profile("mine", path)


def test_a_workbook_is_drafted_from_like_csv() -> None:
    pytest.importorskip("python_calamine", reason="python-calamine is not installed (extra spreadsheets)")
    draft = draft_profile("mine", shared("../cases/files") / "visits.xlsx")
    assert "er_visits" in draft.subjects and "*.xlsx" in draft.text


def test_import_says_what_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOSPITAL_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "er_visits_data.csv").write_bytes(b"PAR1\x15\x04\x15\x10")
    assert main(["import", "er-visits-csv", str(tmp_path / "er_visits_data.csv")]) == 1
    said = capsys.readouterr()
    assert "landed" not in said.out and "Parquet" in said.err


def test_a_misspelt_name_in_derived_is_an_error_of_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOSPITAL_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "data" / "profiles").mkdir(parents=True)
    text = SUMMED.replace('plus_minutes = "wait"', 'plus_minutes = "wiat"')
    (tmp_path / "data" / "profiles" / "mine.toml").write_text(text)
    (tmp_path / "a.csv").write_text("id,who,came,wait\nA,1,02.03.2026 00:10,20\n")
    assert main(["profiles", "test", "mine", str(tmp_path / "a.csv")]) == 1
    line = next(n for n, content in enumerate(text.splitlines(), 1) if content.startswith("derived"))
    said = capsys.readouterr().err
    assert f"mine.toml:{line}: subjects.er_visits.derived.provider_time: the file has no column 'wiat'" in said


# --- codes of vital signs, doctors ---------------------------------------------------------------------


def test_codes_of_vital_signs_are_mapped_or_flagged(landed: Landed, on: Engine) -> None:
    profile = (
        HEAD
        + PLACE.replace("[subjects.er_visits]", "[subjects.vitals]")
        .replace("arrival_time", "measured_at")
        .replace(', department = "Emergency"', "")
        + 'derived = { observation_id = ["id", "@line"] }\n[subjects.vitals.columns]\npatient_id = "id"\n'
        + 'measured_at = "at"\nrecorded_at = "at"\n[subjects.vitals.payload]\nconsciousness = { column = "loc" }\n'
        + 'on_oxygen = { column = "o2" }\npain = { column = "pain" }\ngcs = { column = "gcs" }\n'
        + '[code_maps.consciousness]\n"0" = "A"\n"1" = "V"\nDrowsy = "V"\n[code_maps.pain]\nnone = "0"\n'
    )
    rows = ["0,Yes,none,15", "drowsy,0,3,2", "CVPU,perhaps,3,14", "Alert,room air,3,", ",,,"]
    lines = ["id,at,loc,o2,pain,gcs", *(f"{n},2026-03-02 08:0{n},{row}" for n, row in enumerate(rows))]
    found = landed.validated(profile, {"a.csv": "\n".join(lines)}, "vitals", on=on)
    assert found["consciousness"].to_list() == ["A", "V", None, "A", None]
    assert found["is_on_oxygen"].to_list() == [True, False, None, False, None]
    assert found["pain_score"].to_list() == [0, 3, 3, 3, None]
    assert codes(found) == [set(), {"score_invalid"}, {"consciousness_unknown", "on_oxygen_unknown"}, set(), set()]


def test_doctors_come_from_visits_without_names(landed: Landed) -> None:
    profile = load_profiles(None)["er-visits-csv"]
    text = profile_text(landed.folder, profile.name)
    lines = ["visit_id,patient_id,doctor_id,arrival_time,triage_level,wait_time_minutes,department_routed"]
    lines += [f"V{n},P1,D{n % 2},2026-03-02 08:0{n},3,10.3,General ER" for n in range(4)]
    lines += ["V9,P1,,2026-03-02 09:00,3,10,Trauma"]
    files: dict[str, str | bytes] = {"er_visits_data.csv": "\n".join(lines)}
    doctors = landed.validated(text, files, "doctors")
    assert doctors.filter(pl.col("rule").is_null())["full_name"].sort().to_list() == ["D0", "D1"]
    assert set(doctors["rule"].drop_nulls()) == {"duplicate"}
    visits = landed.validated(text, files)
    assert visits["department_name"].to_list() == ["Emergency"] * 4 + ["Trauma"]
    assert waits(visits) == pytest.approx([10.3] * 4 + [10])
