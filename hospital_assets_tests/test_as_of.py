"""As of a moment: what had been seen by then, the directory's own configuration, and the same figures again."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import polars as pl
import pytest

from hospital_assets import landing
from hospital_assets.access.audit import AuditLog
from hospital_assets.alerts.settings import load_alert_settings
from hospital_assets.automation.build import BuildReport
from hospital_assets.automation.history import POSTGRES_URL
from hospital_assets.cli import main
from hospital_assets.clock import hospital_now
from hospital_assets.definitions import build_definitions
from hospital_assets.publishing.policy import POLICY_FILE, load_policy
from hospital_assets.recovery.as_of import AsOfError, build_as_of, prepare_as_of
from hospital_assets.settings import MirrorSettings, Settings, load_settings
from hospital_assets.warehouse.loads import ledger_copy
from hospital_assets_tests.helpers import copy_of, query, run, tables

PROFILE = (
    (files(landing) / "profiles" / "native.toml")
    .read_text(encoding="utf-8")
    .replace('name = "native"', 'name = "klinik"')
)
CONFIGURATION = {
    "hospital.toml": "first_service_date = 2026-03-05\nlast_service_date = 2026-03-06\n",
    "policy.toml": POLICY_FILE.read_text(encoding="utf-8").replace("keep_days = 14 ", "keep_days = 30 "),
    "alerts.toml": "waiting_minutes = 7\n",
    "profiles/klinik.toml": PROFILE,
    "warehouse/profiles/klinik.toml": PROFILE,
    "simulated_clock.json": json.dumps({"wall_epoch_seconds": 0.0, "epoch_seconds": 1772755200.0, "speed": 0.0}),
}


def looked(settings: Settings) -> pl.DataFrame:
    """The ledger of what has landed, as a directory's own settings make it."""
    zone = build_definitions(settings).resources["landing"].without_warehouse()
    with contextlib.closing(zone.connection):
        found: pl.DataFrame = zone.discover()
        return found


@pytest.fixture
def own(tmp_path: Path) -> Settings:
    """A directory with all configuration of its own and a file of its own source, which was seen once."""
    folder = tmp_path / "own"
    for name, text in {**CONFIGURATION, "landing/klinik/doctors/d.csv": "doctor_id,hospital_id\nD1,H1\n"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    settings = load_settings(folder)
    looked(settings).write_parquet(ledger_copy(settings.warehouse_file))
    return settings


def test_the_configuration_is_all_that_a_directory_holds_of_it(own: Settings) -> None:
    assert {str(path.relative_to(own.data_dir)) for path in own.configuration} == {
        name.removesuffix("/klinik.toml") for name in CONFIGURATION
    }


def test_own_configuration_is_found_as_of_a_moment(own: Settings, tmp_path: Path) -> None:
    into = tmp_path / "then"

    def build(then: Settings) -> list[str]:
        (state,) = looked(then)["state"]
        return [] if state == "ready" else [f"the file is {state}"]

    made = build_as_of(own, datetime.now(UTC), into, build)
    assert made.failures == () and (made.files, made.later) == (1, 0)
    for name, text in CONFIGURATION.items():
        if name != "simulated_clock.json":
            # Limits of alerts come along, but nobody is notified.
            nobody = "notify = []\n" if name == "alerts.toml" else ""
            assert (into / name).read_text() == nobody + text, name
    then = load_settings(into)
    assert then == made.settings
    assert load_policy(then).retention.keep_days == 30
    assert load_alert_settings(then).waiting_minutes == 7
    assert hospital_now(then) == hospital_now(own)
    with contextlib.closing(AuditLog(own)) as log:
        assert [entry["outcome"] for entry in log.entries("action = 'export'").to_dicts()] == ["allowed"] * 2


def test_a_build_that_fails_is_audited_as_failed(own: Settings, tmp_path: Path) -> None:
    made = build_as_of(own, datetime.now(UTC), tmp_path / "then", lambda then: ["a step"])
    assert made.failures == ("a step",)
    with contextlib.closing(AuditLog(own)) as log:
        ended = log.entries("action = 'export'").to_dicts()[-1]
    assert (ended["outcome"], ended["reason"]) == ("failed", "1 steps of the build failed")


def test_only_what_had_been_seen_and_is_unchanged_is_taken(own: Settings, tmp_path: Path) -> None:
    (own.landing / "klinik" / "doctors" / "later.csv").write_text("doctor_id,hospital_id\nD2,H1\n")
    known = looked(own)
    moments = {n: datetime(2026, 3, 6, hour, tzinfo=UTC) for n, hour in (("d.csv", 8), ("later.csv", 9))}
    known = known.with_columns(first_seen_at=pl.col("source_file").str.split("/").list.last().replace_strict(moments))
    known.write_parquet(ledger_copy(own.warehouse_file))
    made = prepare_as_of(own, datetime(2026, 3, 6, 8, 30, tzinfo=UTC), tmp_path / "then")
    assert (made.files, made.later) == (1, 1)
    assert [path.name for path in made.settings.landing.rglob("*.csv")] == ["d.csv"]
    with pytest.raises(AsOfError, match="not empty"):
        prepare_as_of(own, moments["later.csv"], tmp_path / "then")
    with pytest.raises(AsOfError, match="the first was at 2026-03-06 08:00"):
        prepare_as_of(own, datetime(2026, 3, 6, 7, tzinfo=UTC), tmp_path / "early")
    (own.landing / "klinik" / "doctors" / "d.csv").write_text("doctor_id,hospital_id\nD1,H2\nD3,H2\n")
    with pytest.raises(AsOfError, match=r"1 landed files are not what they were .*klinik/doctors/d\.csv"):
        prepare_as_of(own, moments["later.csv"], tmp_path / "changed")


def test_a_file_that_was_overwritten_later_is_named(
    own: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = looked(own)
    before = known["first_seen_at"].item()
    (own.landing / "klinik" / "doctors" / "d.csv").write_text("doctor_id,hospital_id\nD1,H2\nD3,H2\n")
    zone = build_definitions(own).resources["landing"].without_warehouse()
    with contextlib.closing(zone.connection):
        again = zone.discover(known)
    assert again["first_seen_at"].item() > before == again["name_first_seen_at"].item()
    again.write_parquet(ledger_copy(own.warehouse_file))
    into = tmp_path / "then"
    assert main(["--data-dir", str(own.data_dir), "as-of", before.isoformat(), "--into", str(into)]) == 2
    assert "klinik/doctors/d.csv" in capsys.readouterr().err and not into.exists()
    # What is in it now is known as of now.
    assert prepare_as_of(own, datetime.now(UTC), into).files == 1


def test_nobody_is_notified_of_the_past(own: Settings, tmp_path: Path) -> None:
    own.alerts_file.write_text(
        'waiting_minutes = 7\n[[notify]]\nname = "ward"\nkind = "log"\n[vitals.spo2_pct]\nlow = 80\n'
        '[[notify]]\nname = "other"\nkind = "file"\n'
    )
    then = load_alert_settings(prepare_as_of(own, datetime.now(UTC), tmp_path / "then").settings)
    assert then.notify == [] and then.vitals["spo2_pct"].low == 80 and then.waiting_minutes == 7
    own.alerts_file.write_text('notify = [{ name = "ward", kind = "log" }]\n')
    with pytest.raises(AsOfError, match=r"alerts\.toml: write \[\[notify\]\] as a table"):
        prepare_as_of(own, datetime.now(UTC), tmp_path / "other")


def test_the_mirror_of_today_is_not_written_to(own: Settings, tmp_path: Path) -> None:
    """Neither when it is built, nor by what is run in the directory later."""
    own.settings_file.write_text(
        'first_service_date = 2026-03-06\n[mirror]\naddress = "s3://b/f"\nkept_days = 3\n[staffing]\nrest_hours = 12\n'
    )
    then = prepare_as_of(load_settings(own.data_dir), datetime.now(UTC), tmp_path / "then").settings
    assert then.mirror == MirrorSettings()
    read = load_settings(then.data_dir)
    assert read.mirror == MirrorSettings() and read.staffing.rest_hours == 12
    own.settings_file.write_text('mirror = { address = "s3://b/f" }\n')
    with pytest.raises(AsOfError, match=r"hospital\.toml: write \[mirror\] as a table"):
        prepare_as_of(load_settings(own.data_dir), datetime.now(UTC), tmp_path / "other")


@pytest.mark.parametrize("variable", ["HOSPITAL_LAKE", POSTGRES_URL])
def test_the_lake_and_the_history_of_today_are_not_written_to(
    variable: str, own: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "lake"))
    command = ["--data-dir", str(own.data_dir), "as-of", "2026-03-06T12:00", "--into", str(tmp_path / "then")]
    assert main(command) == 2
    assert variable in capsys.readouterr().err and not (tmp_path / "then").exists()


def seen(settings: Settings) -> datetime:
    """The moment after the last look."""
    found = query(settings, "select max(first_seen_at) from raw.raw_landed_files").item()
    assert isinstance(found, datetime)
    return found.replace(tzinfo=UTC)


@pytest.mark.nightly
def test_a_past_figure_is_made_again_as_it_was_known(built: tuple[Settings, BuildReport], tmp_path: Path) -> None:
    network, _ = built
    settings = copy_of(network, tmp_path / "now")
    assert run(settings).succeeded
    before, moment = dict(tables(settings)), seen(settings)
    first = settings.first_service_date
    visit, patient, hospital = query(
        settings,
        "select visit_id, patient_id, e.hospital_id from facts.fact_emergency_visits v "
        "join cleaned.cleaned_er_visits e using (visit_id) join dimensions.dim_condition using "
        f"(condition_key) where v.service_date = '{first}' and icd_code <> 'A419' "
        "order by visit_id limit 1",
    ).row(0)
    # A correction that comes late changes a figure and the patient's history.
    (settings.landing / "native" / "diagnoses" / "late.csv").write_text(
        "diagnosis_id,visit_id,patient_id,hospital_id,encounter_date,sequence,icd_code,"
        "icd_version,description,recorded_at\n"
        f"late-1,{visit},{patient},{hospital},{first},1,A41.9,10,Sepsis,2026-06-01 00:00:00\n"
    )
    assert run(settings, first=first, last=first).succeeded
    after = dict(tables(settings))
    assert after["kpi_conditions"] != before["kpi_conditions"]
    into = tmp_path / "then"
    assert main(["--data-dir", str(settings.data_dir), "as-of", moment.isoformat(), "--into", str(into)]) == 0
    then = dict(tables(replace(settings, data_dir=into)))
    assert then == before
    with contextlib.closing(AuditLog(settings)) as log:
        begun, ended = log.entries("action = 'export'").to_dicts()
    assert moment.isoformat() in begun["statement"] and ended["outcome"] == "allowed"
