"""`hospital profiles`: drafting a profile from a sample, and trying it; and the tutorial, run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from hospital_assets.automation.presence import watch_lock
from hospital_assets.cli import main
from hospital_assets.landing.profile import ProfileError, parse_profile
from hospital_assets.landing.registry import keep_profiles, load_profiles
from hospital_assets.settings import Settings, load_settings, write_settings
from hospital_assets.sources.draft import draft_profile
from hospital_assets.sources.dry_run import try_profile
from hospital_assets_tests.helpers import query

TUTORIAL = Path(__file__).parents[1] / "docs" / "bring-your-own.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TUTORIAL.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tutorial's file, and a data directory beside it."""
    monkeypatch.setenv("HOSPITAL_DATA_DIR", str(tmp_path / "data" / "klinik"))
    path = tmp_path / "notaufnahme_2026-03.csv"
    path.write_text(blocks("csv")[0], encoding="cp1252")
    return path


@pytest.mark.nightly
def test_a_draft_reads_a_file_nobody_has_seen(sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profiles", "new", "klinik", str(sample), "--time-zone", "Europe/Berlin"]) == 0
    profiles = load_profiles(sample.parent / "data" / "klinik" / "profiles")
    profile = profiles["klinik"]
    visits = profile.subjects["er_visits"]
    assert (visits.delimiter, visits.encoding) == (";", "cp1252")
    assert profile.timestamp_formats == ("%d.%m.%Y %H:%M",)
    assert visits.columns["provider_time"] == "Arztkontakt"
    assert profile.subjects["patients"].formats == {"birth_date": ("%d.%m.%Y",)}
    assert profile.code_maps["triage_level"]["sehr dringend"] == "2"
    assert 'what disposition "gegen Rat" means' in capsys.readouterr().out
    (patients, trial) = sorted(try_profile(profiles, "klinik", sample), key=lambda t: t.subject != "patients")
    assert (trial.records, trial.clean, trial.quarantined) == (10, 9, {"arrival_missing": 1})
    assert trial.unknown_codes == {"disposition": {"gegen Rat": 1}}
    assert trial.columns["visit_id"] == "Fallnummer" and trial.unused == ()
    assert patients.flagged["sex_mapped"] == 9
    # Nobody's draft is written over, and nothing of a record is said.
    assert main(["profiles", "new", "klinik", str(sample)]) == 2
    assert main(["profiles", "test", "klinik", str(sample)]) == 0
    said = capsys.readouterr().out
    assert "9 clean, 1 quarantined" in said and "F1001" not in said and "Brustschmerz" not in said


def test_the_tutorials_mistake_is_named_as_it_says(sample: Path) -> None:
    text = draft_profile("klinik", sample, "Europe/Berlin").text
    with pytest.raises(ProfileError) as raised:
        parse_profile(text.replace("\narrival_time =", "\narival_time ="), "klinik.toml")
    said = str(raised.value).partition(";")[0]
    assert f"`{said}`" in " ".join(TUTORIAL.read_text(encoding="utf-8").split())


PLACE = """[[subjects.hospitals.rows]]
hospital_id = "H1"
hospital_name = "One"
time_zone = "UTC"
"""
TINY = f"""name = "tiny"
description = "one file, one subject"
time_zone = "UTC"
{PLACE}[subjects.er_visits]
files = ["*.csv"]
date = "arrival_time"
[subjects.er_visits.columns]
visit_id = "visit"
patient_id = "patient"
hospital_id = "hospital"
arrival_time = "at"
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Settings:
    """A directory with a profile of its own, and a file of that source."""
    settings = Settings(tmp_path / "data", date(2026, 1, 1), date(2026, 1, 2))
    settings.profiles_folder.mkdir(parents=True)
    (settings.profiles_folder / "tiny.toml").write_text(TINY)
    (settings.landing / "tiny").mkdir(parents=True)
    (settings.landing / "tiny" / "a.csv").write_text("visit,patient,hospital,at\nV1,P1,H1,2026-01-01 10:00:00\n")
    return settings


def test_a_profile_without_hospitals_is_tried_all_the_same(tiny: Settings) -> None:
    (tiny.profiles_folder / "tiny.toml").write_text(TINY.replace(PLACE, ""))
    (trial,) = try_profile(load_profiles(tiny.profiles_folder), "tiny", tiny.landing / "tiny" / "a.csv")
    assert (trial.records, trial.quarantined) == (1, {"hospital_unknown": 1})


def spoil(folder: Path, how: str) -> None:
    """Make the profile `tiny` of a folder one that cannot be used."""
    file = folder / "tiny.toml"
    text = file.read_text()
    file.unlink()
    if how == "link":
        file.symlink_to(folder / "elsewhere.toml")
    elif how == "folder":
        file.mkdir()
    else:
        file.write_bytes({"toml": b"x = =\n", "name": b"", "latin-1": b"# M\xfcnchen\n"}[how] + text.encode())
    if how == "name":
        file.write_text(text.replace('"tiny"', '"other"'))


def remove(file: Path) -> None:
    if file.is_dir():
        file.rmdir()
    else:
        file.unlink()


@pytest.mark.parametrize("how", ["toml", "name", "latin-1", "link", "folder"])
def test_a_profile_that_cannot_be_used_stays_as_files_were_read_with_it(tiny: Settings, how: str) -> None:
    folder = tiny.profiles_folder
    # An editor's own link leads nowhere, and is no profile.
    (folder / ".#tiny.toml").symlink_to("somebody@somewhere")
    sound = load_profiles(folder)
    assert not sound.unusable
    spoil(folder, how)
    never_used = load_profiles(folder)
    assert "tiny" not in never_used and "native" in never_used and "tiny.toml" in never_used.unusable["tiny"]
    keep_profiles(folder, never_used)
    assert not tiny.kept_profiles_folder.exists()
    remove(folder / "tiny.toml")
    (folder / "tiny.toml").write_text(TINY)
    keep_profiles(folder, sound)
    spoil(folder, how)
    found = load_profiles(folder)
    assert found["tiny"] == sound["tiny"]
    assert [fault.endswith("files are read as before") for fault in found.faults()] == [True]
    with pytest.raises(ProfileError, match=r"tiny\.toml"):
        found.named("tiny")
    # What can be used, and what is gone, is as it is.
    keep_profiles(folder, found)
    assert load_profiles(folder)["tiny"] == sound["tiny"]
    remove(folder / "tiny.toml")
    gone = load_profiles(folder)
    assert "tiny" not in gone and not gone.unusable
    keep_profiles(folder, gone)
    assert not any(tiny.kept_profiles_folder.iterdir())


def test_profiles_of_a_folder_that_cannot_be_read_stay_in_force(
    tiny: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, read, listed = tiny.profiles_folder, Path.read_bytes, Path.iterdir
    keep_profiles(folder, sound := load_profiles(folder))

    def refused(path: Path, how: Callable[[Path], Any]) -> Any:
        if folder in (path, path.parent):
            raise PermissionError(13, "Permission denied")
        return how(path)

    monkeypatch.setattr(Path, "read_bytes", lambda path: refused(path, read))
    monkeypatch.setattr(Path, "iterdir", lambda path: refused(path, listed))
    found = load_profiles(folder)
    assert found["tiny"] == sound["tiny"] and "Permission denied" in found.unusable["tiny"]
    keep_profiles(folder, found)
    assert load_profiles(folder)["tiny"] == sound["tiny"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["toml", "latin-1"])
def test_what_is_stored_of_a_source_stays_while_its_profile_is_corrected(
    tiny: Settings, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_settings(tiny)
    command = ["--data-dir", str(tiny.data_dir), "build", "--select", "group:raw"]
    visits = "select visit_id from raw.raw_er_visits order by 1"
    assert main(command) == 0
    spoil(tiny.profiles_folder, how)
    (tiny.landing / "tiny" / "b.csv").write_text("visit,patient,hospital,at\nV2,P2,H1,2026-01-01 11:00:00\n")
    capsys.readouterr()
    assert main(command) == 0
    assert query(tiny, visits)["visit_id"].to_list() == ["V1", "V2"]
    assert "files are read as before" in capsys.readouterr().out
    assert main(["--data-dir", str(tiny.data_dir), "status"]) == 0
    assert "tiny.toml" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stated", "is_built", "at", "then"),
    [
        ("", False, "2026-03-05", ("2026-03-05", "2026-03-05", "daily")),
        ("first_service_date = 2026-01-01", True, "2026-03-05", None),
        ("first_service_date = 2026-01-01", True, "2025-12-30", ("2025-12-30", None, "daily")),
        ("first_service_date = 2026-01-01\nlast_service_date = 2026-06-30", True, "2026-03-05", None),
        (
            "first_service_date = 2026-01-01\nlast_service_date = 2026-01-31",
            *(True, "2026-03-05", ("2026-01-01", "2026-03-05", "daily")),
        ),
        # A visit of another century is a mistake, or the table of days would have to be another.
        ("first_service_date = 2026-01-01\nlast_service_date = 2026-01-31", True, "2062-03-05", None),
        ("first_service_date = 2026-01-01", True, "1926-03-05", None),
        (
            "first_service_date = 2026-01-01\nlast_service_date = 2026-01-31",
            *(False, "2062-03-05", ("2026-01-01", "2062-03-05", "yearly")),
        ),
    ],
)
def test_an_import_takes_no_service_day_away(
    tiny: Settings,
    stated: str,
    is_built: bool,
    at: str,
    then: tuple[str, str | None, str] | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # What another source has landed is not what was imported.
    (tiny.landing / "tiny" / "a.csv").unlink()
    if stated:
        tiny.settings_file.write_text(f"# ours\n{stated}\n")
        other = tiny.profiles_folder / "other.toml"
        other.write_text(TINY.replace('"tiny"', '"other"'))
        (tiny.landing / "other").mkdir()
        (tiny.landing / "other" / "o.csv").write_text("visit,patient,hospital,at\nV7,P1,H1,2041-01-01 10:00:00\n")
    if is_built:
        tiny.warehouse_file.parent.mkdir()
        tiny.warehouse_file.touch()
    file = tiny.data_dir.parent / "given.csv"
    file.write_text(f"visit,patient,hospital,at\nV1,P1,H1,{at} 10:00:00\n")
    with watch_lock(tiny):
        assert main(["--data-dir", str(tiny.data_dir), "import", "tiny", str(file)]) == 0
    # The watcher began with the days of before.
    assert ("start again" in capsys.readouterr().err) == (then is not None)
    found = load_settings(tiny.data_dir)
    if then is None:
        assert tiny.settings_file.read_text() == f"# ours\n{stated}\n"
        return
    last = str(found.last_service_date) if found.last_service_date else None
    assert (str(found.first_service_date), last, found.partitions) == then


def test_a_draft_of_other_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSPITAL_DATA_DIR", str(tmp_path / "data"))
    waits = tmp_path / "er_visits_data.csv"
    waits.write_text(
        "visit_id,patient_id,doctor_id,arrival_time,triage_level,wait_time_minutes,department_routed\n"
        "V1,P1,D1,2025-01-15 09:13:00,2,14,Trauma\nV2,P2,D1,2025-01-15 09:20:00,3,30,Cardiology\n"
    )
    spec = draft_profile("waits", waits).profile.subjects["er_visits"]
    assert spec.derived["provider_time"].plus_minutes == "wait_time_minutes"  # type: ignore[union-attr]
    assert spec.named >= {"arrival_time", "wait_time_minutes"}
    vitals = tmp_path / "monitor.jsonl"
    vitals.write_text(json.dumps({"patient": {"id": "P1"}, "timestamp": "2026-01-01T10:00:00Z", "hr": 80, "SpO2": 97}))
    drafted = draft_profile("monitor", vitals)
    assert drafted.subjects == ("vitals",)
    assert drafted.profile.subjects["vitals"].payload["spo2"].column == "$.SpO2"
    # Nothing is recognised: a skeleton, and the names that could be it.
    (tmp_path / "x.csv").write_text("a,b\n1,2026-03-02 10:00\n")
    skeleton = draft_profile("x", tmp_path / "x.csv")
    assert skeleton.subjects == ("er_visits",)
    assert "no arrival was understood: fill in arrival_time below (candidates: b)" in skeleton.doubts[0]
    assert '# arrival_time = "?"' in skeleton.text and '# patient_id = "?"' in skeleton.text
    (tmp_path / "y.csv").write_text("1,2\n3,4\n")
    with pytest.raises(ValueError, match="deliver the file with column names"):
        draft_profile("y", tmp_path / "y.csv")


def test_profiles_are_listed_and_shown(sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = load_profiles(None)
    assert not found.unusable
    assert main(["profiles", "list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in found)
    assert main(["profiles", "show", "synthea-csv"]) == 0
    assert 'name = "synthea-csv"' in capsys.readouterr().out
    assert main(["profiles", "show", "nobody"]) == 2
    assert main(["profiles", "test", "synthea-csv", str(sample)]) == 2
    assert "takes no file called so; it takes" in capsys.readouterr().err


@pytest.mark.nightly
def test_every_command_of_the_tutorial_runs(sample: Path) -> None:
    folder = sample.parent
    script = "set -e\n" + "\n".join(blocks("sh")[:5])
    tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    package = str(Path(__file__).parents[1])
    ran = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": tools, "PYTHONPATH": package},
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "arrival_missing" in ran.stdout
    settings = load_settings(folder / "data" / "klinik")
    visits = query(
        settings,
        "select count(*), count(wait_minutes), count(*) filter (is_critical), "
        "count(*) filter (disposition = 'against_medical_advice'), min(visit_id) "
        "from facts.fact_emergency_visits",
    )
    assert visits.row(0) == (9, 9, 3, 1, "klinik:F1001")
    four_hours = query(
        settings,
        "select sum(denominator_count), sum(numerator_count) from kpis.kpi_four_hour_daily "
        "where hospital_id = 'klinik:1'",
    )
    assert four_hours.row(0) == (9, 7)
