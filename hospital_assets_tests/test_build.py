"""The whole graph over a small dirty network, and over real MIMIC-IV-ED files."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import polars as pl
import pytest
from dagster._daemon.monitoring.run_monitoring import check_run_timeout

from hospital_assets.access.sandbox import run_query
from hospital_assets.access.users import User
from hospital_assets.automation.build import BuildError, BuildReport
from hospital_assets.automation.instance import dagster_instance
from hospital_assets.automation.own_runs import OF_COMMAND, run_lock
from hospital_assets.contracts import CONTRACTS
from hospital_assets.dashboard.serve import dashboard_of
from hospital_assets.definitions import build_definitions
from hospital_assets.files import StateError
from hospital_assets.landing.profile import SUBJECTS
from hospital_assets.publishing.publications import DATABASE, Publication, PublicationError, open_publication
from hospital_assets.settings import Settings, load_settings, write_settings
from hospital_assets.simulator.scoring import fates, precision, recall
from hospital_assets.warehouse.database import WarehouseLockedError, open_warehouse
from hospital_assets.warehouse.dialect import lazy
from hospital_assets_tests.helpers import checked, copy_of, query, run, tables
from hospital_assets_tests.processes import QUIET, hospital, started
from hospital_assets_tests.test_landing_faults import FOLDERS, UNOPENED


def test_every_table_is_built_and_no_error_check_fails(built: tuple[Settings, BuildReport]) -> None:
    _settings, report = built
    assert report.failures == []
    assert report.failed_checks == []
    assert set(report.rows) == set(CONTRACTS)
    empty = {name for name, rows in report.rows.items() if rows == 0}
    assert {n for n in empty if not n.startswith("quarantine_")} == {
        "fact_alerts",
        "fact_audit_events",
        "raw_other_records",
        "forecast_wait_methods",
        "kpi_forecast_drift",
        "forecast_waits_hourly",
        "kpi_staffing_realised",
        "kpi_wait_forecast_accuracy",
        "staffing_need_hourly",
        "staffing_shifts_suggested",
        "stale_partitions",
    }
    assert len(report.checks) > 250


def test_a_build_may_take_longer_than_what_a_daemon_runs(built: tuple[Settings, BuildReport]) -> None:
    with dagster_instance(built[0]) as instance:
        (run, *_) = instance.get_runs(dg.RunsFilter(tags=OF_COMMAND))
    long_ago: Any = SimpleNamespace(dagster_run=run, start_time=0.0)
    nothing_is_done_with: Any = None
    check_run_timeout(nothing_is_done_with, long_ago, logging.getLogger(), 7200.0)


def test_raw_is_cleaned_and_quarantined_and_duplicates(built: tuple[Settings, BuildReport]) -> None:
    _settings, report = built
    conserved = [check for check in report.checks if check.name == "conserved"]
    assert len(conserved) == 10
    assert all(check.passed for check in conserved)


def test_every_spoiled_record_ends_where_the_truth_expects(built: tuple[Settings, BuildReport]) -> None:
    settings, _ = built
    truth = pl.read_parquet(settings.ground_truth / "dirt.parquet").filter(pl.col("line").is_not_null())
    placed = pl.concat(
        [
            query(
                settings,
                f"select source_file as file, source_line as line, '{subject}' as subject, "
                f"case when is_duplicate then 'duplicate' else 'quarantine' end as fate, "
                f"rule as codes from cleaned.quarantine_{subject} union all "
                f"select source_file, source_line, '{subject}', 'kept', quality_codes "
                f"from cleaned.cleaned_{subject}",
            )
            for subject in ("er_visits", "patients", "vitals", "adt_events")
        ]
    )
    fates = truth.join(placed, on=["subject", "file", "line"], how="left").with_columns(
        # Monitors go on after the last midnight: what they measure then is left out, spoiled or not.
        pl.when(pl.col("codes") == "outside_service_period")
        .then(pl.lit("duplicate"))
        .when(pl.col("fate") != "kept")
        .then("fate")
        .when(pl.col("codes") == "")
        .then(pl.lit("keep"))
        .otherwise(pl.lit("marked"))
        .alias("fate")
    )
    assert fates.filter(pl.col("fate").is_null()).is_empty()  # nothing is lost
    fits = {
        "quarantine": ["quarantine"],
        # Of two equal records either may stand; a duplicate of a newer record is superseded.
        "duplicate": ["duplicate", "keep", "marked"],
        "correct": ["marked", "duplicate", "keep"],
        "flag": ["marked", "duplicate"],
        "keep": ["keep", "marked", "duplicate"],
    }
    wrong = fates.filter(
        ~pl.any_horizontal(
            (pl.col("expected") == expected) & pl.col("fate").is_in(allowed) for expected, allowed in fits.items()
        )
    )
    shown = wrong.group_by("subject", "kind", "expected", "fate").len().sort("subject", "kind")
    assert wrong.is_empty(), shown.rows()


def test_cleaning_is_measured(built: tuple[Settings, BuildReport]) -> None:
    settings, _ = built
    truth = pl.read_parquet(settings.ground_truth / "dirt.parquet")
    with open_warehouse(settings.warehouse_file) as warehouse:
        found = fates(warehouse)
    by_kind, by_rule = recall(truth, found), precision(truth, found)
    assert by_kind.height >= 30 and by_kind["lost"].sum() == 0
    assert by_kind.filter(pl.col("recall_pct") < 100).rows() == []
    assert by_rule.height >= 18 and by_rule.filter(pl.col("precision_pct") < 100).rows() == []
    # A record that was spoiled and reported as clean counts against the rules.
    unseen = found.with_columns(fate=pl.lit("kept"), codes=pl.lit(""))
    assert recall(truth, unseen).filter(expected="quarantine")["recall_pct"].max() == 0
    innocent = precision(truth.head(0), found)
    assert innocent["precision_pct"].max() == 0


def test_landed_values_become_what_they_truly_were(built: tuple[Settings, BuildReport]) -> None:
    settings, _ = built
    truth = pl.read_parquet(settings.ground_truth / "visits.parquet")
    cleaned = query(
        settings,
        "select visit_id, epoch(arrival_at)::bigint as arrival_at, department_name, quality_codes "
        # A record that another one corrects may stand on another day.
        "from cleaned.cleaned_er_visits "
        "qualify row_number() over (partition by visit_id order by recorded_at desc) = 1",
    )
    both = cleaned.join(truth, on="visit_id")
    assert both.height == cleaned.height  # no invented visit
    # A spoiled arrival is quarantined, never guessed: every arrival that stands is true.
    assert both.filter(pl.col("arrival_at") != pl.col("arrival")).is_empty()
    known = both.filter(pl.col("department_name").is_not_null())
    assert known.filter(pl.col("department_name") != pl.col("routed")).is_empty()


def test_temperatures_are_celsius_whatever_was_sent(built: tuple[Settings, BuildReport]) -> None:
    settings, _ = built
    odd = query(settings, "select count(*) from facts.fact_vitals where temperature_c not between 30 and 45")
    assert odd.item() == 0


def test_no_event_tells_about_a_person(built: tuple[Settings, BuildReport]) -> None:
    """Nothing that Dagster keeps of a build holds an identifier or a name."""
    settings, _ = built
    secrets = query(
        settings,
        "select patient_id as s from raw.raw_patients union select last_name from raw.raw_patients "
        "union select street from raw.raw_patients union select phone from raw.raw_patients "
        "union select visit_id from raw.raw_er_visits "
        "union select observation_id from raw.raw_vitals",
    )["s"].drop_nulls()
    kept = "".join(
        text
        for file in (settings.dagster_home / "history" / "runs").glob("*.db")
        for (text,) in sqlite3.connect(file).execute("select event from event_logs")
    )
    assert len(kept) > 100_000
    words = set(re.findall(r"[A-Za-z0-9-]+", kept))
    # Surnames that are also words of the house ("Day", "Page") prove nothing.
    identifiers = {secret for secret in secrets if any(c.isdigit() for c in secret)}
    assert len(identifiers) > 1000
    assert {secret for secret in identifiers if secret in words} == set()


@pytest.mark.nightly
def test_building_again_changes_nothing(built: tuple[Settings, BuildReport]) -> None:
    settings, _ = built
    before = dict(tables(settings))
    assert run(settings).succeeded
    assert dict(tables(settings)) == before


@pytest.mark.nightly
def test_a_code_dated_on_another_day_reaches_its_visit(built: tuple[Settings, BuildReport], tmp_path: Path) -> None:
    settings, _ = built
    other = copy_of(settings, tmp_path)
    shutil.copytree(settings.warehouse_file.parent, other.warehouse_file.parent)
    first = settings.first_service_date
    visit, patient, hospital, procedures = query(
        other,
        "select v.visit_id, e.patient_id, e.hospital_id, "
        "(select sum(procedure_count) from kpis.kpi_procedures where hospital_id = 'all') "
        "from facts.fact_emergency_visits v join cleaned.cleaned_er_visits e using (visit_id) "
        "join dimensions.dim_condition using (condition_key) "
        f"where v.service_date = '{first}' and icd_code <> 'A419' and condition_key > 0 "
        "order by visit_id limit 1",
    ).row(0)
    landed = query(
        other,
        f"select * from raw.raw_procedures where service_date = '{first}' and problem is null order by all limit 1",
    ).row(0, named=True)
    day = first + timedelta(days=3)
    # A code written three days later, dated on that day; and a procedure that moved to that day.
    (other.landing / "native" / "diagnoses" / "late.csv").write_text(
        "diagnosis_id,visit_id,patient_id,hospital_id,encounter_date,sequence,icd_code,"
        "icd_version,description,recorded_at\n"
        f"late-1,{visit},{patient},{hospital},{day},1,A41.9,10,Sepsis,2026-06-01 00:00:00\n"
    )
    (other.landing / "native" / "procedures" / "late.csv").write_text(
        "procedure_id,visit_id,patient_id,hospital_id,encounter_date,performed_at,"
        "procedure_code,description,recorded_at\n"
        + ",".join(landed[name] or "" for name in ("procedure_id", "visit_id", "patient_id", "hospital_id"))
        + f",{day},{day} 10:00:00,{landed['procedure_code']},x,2026-06-01 00:00:00\n"
    )
    report = run(other, first=day, last=day)
    assert report.succeeded, report.failures or report.failed_checks
    codes = query(
        other,
        "select icd_code from facts.fact_emergency_visits "
        f"join dimensions.dim_condition using (condition_key) where visit_id = '{visit}'",
    )
    assert codes["icd_code"].to_list() == ["A419"]
    counted = query(other, "select sum(procedure_count) from kpis.kpi_procedures where hospital_id = 'all'")
    assert counted.item() == procedures


@pytest.mark.nightly
def test_days_in_any_order_are_the_same_as_at_once(built: tuple[Settings, BuildReport], tmp_path: Path) -> None:
    settings, _ = built
    other = copy_of(settings, tmp_path)
    for first, last in ((3, 3), (0, 0), (6, 7), (1, 2), (4, 5)):
        day = settings.first_service_date
        report = run(other, first=day + timedelta(days=first), last=day + timedelta(days=last))
        assert report.succeeded, report.failures or report.failed_checks
    assert dict(tables(other)) == dict(tables(settings))


@pytest.mark.nightly
def test_a_killed_build_leaves_what_a_later_build_completes(
    built: tuple[Settings, BuildReport], tmp_path: Path
) -> None:
    settings, _ = built
    other = copy_of(settings, tmp_path)
    command = hospital(other.data_dir, "build")
    for seconds in (3, 5, 8, 12):
        with started(command, **QUIET) as process, contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    subprocess.run(command, check=True, capture_output=True)
    assert dict(tables(other)) == dict(tables(settings))


def test_bad_files_are_named_and_stop_nothing(network: Settings, tmp_path: Path) -> None:
    settings = copy_of(network, tmp_path)
    native = settings.landing / "native"
    (native / "vitals" / "cut.json.gz").write_bytes(b"\x1f\x8b\x08\x00broken")
    (native / "vitals" / "page.json").write_text("<html>\n<body>sign in</body>\n</html>\n")
    (native / "er_visits" / "lacks.csv").write_text("visit_id,patient_id\nV1,P1\n")
    (native / "er_visits" / "ragged.csv").write_text(
        "visit_id,patient_id,hospital_id,arrival_time\nVX1,P1,H1,2026-03-06 10:00:00\nVX2,P1\n"
    )
    (native / "er_visits" / "half.csv.tmp").write_text("still being written")
    (settings.landing / "stray.csv").write_text("a,b\n1,2\n")
    report = run(settings, select="*cleaned_er_visits")
    assert report.failures == [] and report.not_loaded == {"unreadable": 2, "missing_column": 1, "unrecognised": 1}
    ledger = query(settings, "select source_file, state, problem from raw.raw_landed_files")
    state = dict(ledger.select("source_file", "state").iter_rows())
    assert state["native/vitals/cut.json.gz"] == "unreadable"
    assert state["native/vitals/page.json"] == "unreadable"
    assert state["native/er_visits/lacks.csv"] == "missing_column"
    assert state["native/er_visits/ragged.csv"] == "ready"
    assert state["stray.csv"] == "unrecognised"
    assert "native/er_visits/half.csv.tmp" not in state
    problem = dict(ledger.select("source_file", "problem").iter_rows())
    assert "hospital_id" in problem["native/er_visits/lacks.csv"]
    assert "cut off" in problem["native/vitals/cut.json.gz"]
    quarantined = query(
        settings,
        "select source_line, rule from cleaned.quarantine_er_visits where source_file = 'native/er_visits/ragged.csv'",
    )
    assert quarantined.rows() == [(3, "wrong_field_count")]


def test_a_planted_fault_turns_a_check_red(network: Settings, tmp_path: Path) -> None:
    from hospital_assets.checks.accounting import conservation
    from hospital_assets.checks.kinds import CONTRACT_KINDS
    from hospital_assets.warehouse.dialect import lazy

    contract = CONTRACTS["fact_doctor_shifts"]
    sound = {
        "service_date": date(2026, 1, 1),
        "shift_id": "S1",
        "doctor_key": 1,
        "hospital_key": 1,
        "department_key": 1,
        "start_date_key": 1,
        "shift_start_at": None,
        "shift_end_at": None,
        "shift_hours": 8.0,
    }
    rows = [sound, {**sound, "shift_hours": -1.0}, {**sound, "shift_id": "S2", "shift_hours": 99.0}]
    frame = lazy(pl.DataFrame(rows, schema=contract.polars_schema))
    dimension = {
        "dim_doctor": "doctor_key",
        "dim_hospital": "hospital_key",
        "dim_department": "department_key",
        "dim_date": "date_key",
    }
    known = {t: lazy(pl.DataFrame({key: [1 if t != "dim_date" else 2]})) for t, key in dimension.items()}
    broken = {
        group.name: sum(finding.broken for finding in findings)
        for group, findings in checked(contract, frame, *CONTRACT_KINDS, **known).items()
    }
    assert broken == {"columns": 0, "key": 2, "required": 6, "values": 1, "plausible": 2, "references": 3}
    lines = pl.DataFrame(
        {"source_file": ["f"] * 2, "source_line": [1, 2], "source_part": [1] * 2, "is_duplicate": [False] * 2}
    )
    assert conservation("cleaned_vitals", lazy(lines), lazy(lines[:1]), lazy(lines[1:])).passed
    assert not conservation("cleaned_vitals", lazy(lines), lazy(lines[:1]), lazy(lines[:0])).passed
    assert not conservation("cleaned_vitals", lazy(lines), lazy(lines[:1]), lazy(lines[:1])).passed


@pytest.mark.nightly
def test_an_open_ended_directory_goes_up_to_now(tmp_path: Path) -> None:
    native = tmp_path / "landing" / "native"
    zones = {"H1": "Pacific/Auckland", "H2": "Pacific/Honolulu"}
    now = {hospital: datetime.now(ZoneInfo(zone)) for hospital, zone in zones.items()}
    arrived = now["H2"] - timedelta(hours=30)
    files = {
        "hospitals/a.csv": [
            "hospital_id,hospital_name,city,state,time_zone",
            *(f"{hospital},Name,,,{zone}" for hospital, zone in zones.items()),
        ],
        "departments/a.csv": [
            "department_id,hospital_id,department_name,bed_capacity,effective_date",
            "H2-ICU,H2,ICU,5,2020-01-01",
        ],
        "er_visits/a.csv": [
            "visit_id,patient_id,hospital_id,arrival_time,recorded_at",
            *(f"V-{h},P1,{h},{at:%Y-%m-%d %H:%M:%S},{at:%Y-%m-%d %H:%M:%S}" for h, at in now.items()),
        ],
        "adt_events/a.json": [
            json.dumps(
                {
                    "message_id": "M1",
                    "event_type": "A01",
                    "visit_id": "S1",
                    "patient_id": "P1",
                    "hospital_id": "H2",
                    "department": "ICU",
                    "event_at": arrived.isoformat(),
                    "visit_start_at": arrived.isoformat(),
                    "recorded_at": arrived.isoformat(),
                }
            )
        ],
    }
    for name, lines in files.items():
        (native / name).parent.mkdir(parents=True)
        (native / name).write_text("\n".join(lines) + "\n")
    settings = Settings(tmp_path, first_service_date=now["H2"].date() - timedelta(days=2))
    write_settings(settings)
    # Partitions are those of the process's data directory.
    built = subprocess.run(hospital(tmp_path, "build"), capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    found = query(settings, "select hospital_id, service_date from cleaned.cleaned_er_visits")
    assert dict(found.rows()) == {hospital: at.date() for hospital, at in now.items()}
    # Who is in bed is so until the hour ends, not until midnight.
    hours, last, minutes = query(
        settings,
        "select count(*) filter (where occupied_bed_minutes > 0), max(hour_start_at), "
        "sum(occupied_bed_minutes) from facts.fact_bed_occupancy",
    ).row(0)
    assert hours in (31, 32) and last <= datetime.now(UTC) < last + timedelta(hours=2)
    assert minutes == pytest.approx((last + timedelta(hours=1) - arrived).total_seconds() / 60)
    by_day = query(
        settings,
        "select occupied_bed_minutes - patient_hours * 60 from kpis.kpi_department_flow_daily "
        "join kpis.kpi_occupancy_daily using (service_date, department_id)",
    ).to_series()
    assert len(by_day) >= 2 and by_day.abs().max() < 0.01


@pytest.mark.parametrize(
    ("rebuild", "options", "says"),
    [
        (("fact_emergency_visits", "no_table"), {}, "no table 'no_table'"),
        (("raw_er_visits",), {"first": date(2026, 3, 6), "last": date(2026, 3, 6)}, "all days of raw_er_visits"),
        (("dim_date", "raw_er_visits"), {"select": "key:dim_date"}, "does not build raw_er_visits"),
        (("dim_date",), {"first": date(2031, 1, 1)}, "no service day"),
        (("dim_date",), {"select": "key:no_table"}, "no table matches"),
        (("raw_landed_files",), {}, "hospital upgrade"),
    ],
)
def test_no_table_is_dropped_that_the_build_does_not_make_whole_again(
    built: tuple[Settings, BuildReport], rebuild: Sequence[str], options: dict[str, Any], says: str
) -> None:
    settings, _ = built
    before = dict(tables(settings))
    with pytest.raises(BuildError, match=says):
        run(settings, rebuild=rebuild, **options)
    assert dict(tables(settings)) == before


def test_a_table_that_is_not_rebuilt_is_what_it_was(
    built: tuple[Settings, BuildReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = copy_of(built[0], tmp_path)
    shutil.copytree(built[0].warehouse_file.parent, settings.warehouse_file.parent)
    before = dict(tables(settings))

    def interrupted(*_: object) -> None:
        assert "raw_er_visits" not in query(settings, "select * from duckdb_tables()")["table_name"].to_list()
        raise KeyboardInterrupt

    def interrupted_anywhere(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hospital_assets.automation.build.execute", interrupted)
    for _ in range(2):
        with pytest.raises(BuildError, match="interrupted"):
            run(settings, rebuild=["raw_er_visits", "dim_date"])
        assert dict(tables(settings)) == before
    # As a killed one leaves them.
    for is_made in (False, True):
        with open_warehouse(settings.warehouse_file) as warehouse:
            warehouse.move_away(CONTRACTS["dim_date"])
            assert not warehouse.exists(CONTRACTS["dim_date"])
            if is_made:
                warehouse.replace(CONTRACTS["dim_date"], lazy(pl.DataFrame(schema=CONTRACTS["dim_date"].polars_schema)))
            warehouse.put_back(CONTRACTS["dim_date"])
            assert warehouse.exists(CONTRACTS["dim_date"])
    assert {name for name, _ in tables(settings)} == set(before)
    assert query(settings, "select * from dimensions.dim_date").is_empty()
    # The next build puts them back, whatever it builds, unless a rebuild may be at work.
    with open_warehouse(settings.warehouse_file) as warehouse:
        warehouse.move_away(CONTRACTS["dim_time"])
    monkeypatch.setattr("hospital_assets.automation.build.execute", interrupted_anywhere)
    with dagster_instance(settings) as instance, run_lock(settings, run_id := dg.DagsterRun("job").run_id):
        instance.add_run(dg.DagsterRun("job", run_id=run_id, status=dg.DagsterRunStatus.STARTED, tags=OF_COMMAND))
        for is_there in (False, True):
            with pytest.raises(BuildError, match="interrupted"):
                run(settings, select="key:raw_landed_files")
            assert ("dim_time" in query(settings, "select * from duckdb_tables()")["table_name"].to_list()) == is_there
            instance.report_run_canceled(instance.get_runs(dg.RunsFilter(run_ids=[run_id]))[0])
    assert dict(tables(settings))["dim_time"] == before["dim_time"]


@pytest.mark.slow
def test_a_table_that_is_rebuilt_is_made_of_all_its_days(built: tuple[Settings, BuildReport], tmp_path: Path) -> None:
    settings = copy_of(built[0], tmp_path)
    shutil.copytree(built[0].warehouse_file.parent, settings.warehouse_file.parent)
    before = query(settings, "select * from raw.raw_er_visits order by all")
    days = {"first": settings.first_service_date, "last": settings.last_service_date}
    report = run(settings, rebuild=["raw_er_visits"], select="key:raw_er_visits", **days)
    assert report.succeeded and query(settings, "select * from raw.raw_er_visits order by all").equals(before)


@pytest.mark.slow
def test_a_build_is_none_the_worse_for_who_takes_the_warehouse_at_its_end(
    built: tuple[Settings, BuildReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(*_: object) -> dict[str, int]:
        raise WarehouseLockedError("in use by hospital watch")

    settings = copy_of(built[0], tmp_path)
    monkeypatch.setattr("hospital_assets.automation.build._outside_period", taken)
    report = run(settings, select="key:raw_landed_files")
    assert report.succeeded and report.uncounted == "in use by hospital watch"


def test_nothing_landed_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="hospital simulate"):
        run(Settings(tmp_path))


@pytest.mark.nightly
def test_mimic_iv_ed_through_the_same_graph(mimic: Path, tmp_path: Path) -> None:
    # Processes of their own: partitions follow the data directory, once, at import.
    subprocess.run(hospital(tmp_path, "import", "mimic-iv-ed", str(mimic)), check=True, capture_output=True)
    settings = load_settings(tmp_path)
    assert settings.partitions == "yearly"
    subprocess.run(hospital(tmp_path, "build"), check=True, capture_output=True)
    landed = query(settings, "select source_file, count(*) from raw.raw_vitals group by 1")
    assert dict(landed.iter_rows()) == {
        "mimic-iv-ed/vitalsign.csv.gz": 1038,
        "mimic-iv-ed/triage.csv.gz": 222,  # without a clock: dated by the arrival, and marked
    }
    placed = query(
        settings,
        "select (select count(*) from cleaned.cleaned_vitals) + (select count(*) from cleaned.quarantine_vitals)",
    )
    assert placed.item() == 1038 + 222
    visits = query(settings, "select * from facts.fact_emergency_visits")
    assert visits.height == 222
    assert dict(visits["disposition"].value_counts().iter_rows()) == {
        "admitted": 150,
        "home": 60,
        "transferred": 5,
        "other": 2,
        "against_medical_advice": 2,
        "left_without_being_seen": 2,
        "eloped": 1,
    }
    assert dict(visits["triage_level"].value_counts().iter_rows()) == {1: 18, 2: 97, 3: 90, 4: 2, None: 15}
    los = visits["los_minutes"]
    assert (los.median(), los.max()) == (350.5, 4460.0)
    assert los.quantile(0.9, "linear") == pytest.approx(943, abs=0.5)
    assert visits["wait_minutes"].null_count() == 222  # no provider clock: unknown, not zero
    patients = query(
        settings, "select count(distinct patient_durable_key) from dimensions.dim_patient where patient_key > 0"
    )
    assert patients.item() == 64
    celsius = query(
        settings, "select count(*) from cleaned.cleaned_vitals where quality_codes like '%celsius_inferred%'"
    )
    assert celsius.item() == 36 + 1

    # What is odd in these real files is found and named, and no good row is condemned for it.
    quarantined = [query(settings, f"select count(*) from cleaned.quarantine_{subject}").item() for subject in SUBJECTS]
    assert sum(quarantined) == 0
    results = query(
        settings,
        "select distinct table_name, kind, column_name, violated_count from quality.dq_results "
        "where violated_count > 0",
    )
    found = {
        (table, kind, column): count
        for table, kind, column, count in results.iter_rows()
        if table in ("cleaned_vitals", "fact_vitals") and kind in ("plausible", "within_visit", "pressures")
    }
    assert found == {
        ("cleaned_vitals", "plausible", "spo2_pct"): 1,  # 10 %
        ("cleaned_vitals", "plausible", "systolic_mmhg"): 1,  # 11
        ("fact_vitals", "pressures", "systolic_mmhg"): 1,
        ("fact_vitals", "within_visit", "measured_at"): 3,  # 69 are outside, 66 by less than a day
    }
    codes = query(
        settings,
        "select code, count(*) as n from (select unnest(string_split(quality_codes, ';')) as code "
        "from cleaned.cleaned_vitals) where code <> '' group by code",
    )
    assert dict(codes.iter_rows()) == {
        "fahrenheit_inferred": 543 + 195,
        "celsius_inferred": 36 + 1,
        "diastolic_above_systolic": 1,
        "pain_not_numeric": 96 + 19,  # 94 texts, and 8.5 twice; of triage 12 texts, and 7 above 10
        "diastolic_bp_out_of_bounds": 1,  # 879, at triage
        "measured_at_assumed": 222,
    }
    # What MIMIC does not have is not asked for.
    missed = query(
        settings,
        "select distinct table_name, column_name from quality.dq_results "
        "where kind in ('never_empty', 'has_messages', 'known_member') and violated_count > 0 "
        "and status = 'Failed'",
    )
    assert missed.rows() == []
    icd = query(settings, "select icd_version, count(*) from cleaned.cleaned_diagnoses group by 1")
    assert dict(icd.iter_rows()) == {9: 249, 10: 296}
    assert (
        query(
            settings,
            "select count(*) from facts.fact_emergency_visits v where not exists "
            "(select 1 from cleaned.cleaned_diagnoses d where d.visit_id = v.visit_id)",
        ).item()
        == 1
    )


def test_a_late_file_reaches_its_day_through_the_sensor(built: tuple[Settings, BuildReport], tmp_path: Path) -> None:
    settings, _ = built
    other = copy_of(settings, tmp_path)
    shutil.copytree(settings.warehouse_file.parent, other.warehouse_file.parent)
    definitions = build_definitions(other)
    folder = other.landing / "native" / "vitals"
    day = settings.first_service_date + timedelta(days=2)
    sets = query(
        other,
        "select record from raw.raw_vitals r join facts.fact_vitals using (observation_id) "
        f"where r.service_date = '{day}' order by all limit 3",
    )["record"].to_list()
    late = [re.sub(r'"observation_id":"[^"]*"', f'"observation_id":"LATE-{n}"', text) for n, text in enumerate(sets)]
    count = f"select count(*) from facts.fact_vitals where service_date = '{day}'"
    others = f"select sum(hash(f)::hugeint) from facts.fact_vitals f where service_date <> '{day}'"
    before, before_others = query(other, count).item(), query(other, others).item()

    with dagster_instance(other) as instance:
        cursor: str | None = None

        def look() -> list[dg.RunRequest]:
            nonlocal cursor
            with dg.build_sensor_context(instance=instance, cursor=cursor, definitions=definitions) as context:
                found = definitions.resolve_sensor_def("vitals_files").evaluate_tick(context)
            cursor = found.cursor
            return list(found.run_requests or [])

        def run_it(request: dg.RunRequest) -> bool:
            job = definitions.resolve_job_def("refresh_vitals")
            return job.execute_in_process(
                instance=instance,
                partition_key=request.partition_key,
                tags={**request.tags, "dagster/run_key": request.run_key or ""},
                raise_on_error=False,
            ).success

        assert look() == []  # everything was built
        growing = folder / "growing.json"
        with growing.open("w") as file:
            file.write(late[0][:20])
            file.flush()
            assert look() == []  # it is being written
        growing.unlink()
        landed = folder / "late.json"
        landed.write_text("\n".join(late))
        os.utime(landed, (1_000_000_000, 1_000_000_000))
        (request,) = look()
        assert request.partition_key == day.isoformat()
        assert look() == []  # it was asked for
        assert run_it(request)
        assert look() == []  # it is loaded
        shutil.copyfile(landed, folder / "again.json")
        os.utime(folder / "again.json", (1_000_000_001, 1_000_000_001))
        (recorded,) = look()  # a copy is only written down
        assert recorded.partition_key is None and recorded.asset_selection is not None
    assert query(other, count).item() == before + 3
    assert query(other, others).item() == before_others


def refresh_killed(command: list[str], environment: Mapping[str, str], lines: int | None) -> bool:
    """Refresh, and kill it when it has printed more than some lines of its progress; whether it came to that.

    Work counts, not time: it is killed at the same places on any machine.
    """
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        said = ""
        for number, line in enumerate(process.stdout):
            said += line
            if lines is not None and number >= lines:
                process.kill()
                break
    assert process.returncode in (0, -signal.SIGKILL), said[-2000:]
    return process.returncode == -signal.SIGKILL


@pytest.mark.nightly
def test_files_in_any_order_with_kills_give_the_same_warehouse(
    built: tuple[Settings, BuildReport], tmp_path: Path
) -> None:
    """Shuffled, copied, torn and corrected files, with runs killed at random, end as one clean build."""
    settings, _ = built
    rng = random.Random(20260115)
    other = replace(settings, data_dir=tmp_path)
    shutil.copyfile(settings.settings_file, tmp_path / "hospital.toml")
    names = sorted(p.relative_to(settings.landing) for p in settings.landing.rglob("*.*"))
    reference = [n for n in names if n.parts[1] in ("hospitals", "departments", "doctors")]
    rest = [n for n in names if n not in reference]
    rng.shuffle(rest)

    def land(name: Path, cut: int | None = None, under: str | None = None) -> None:
        target = other.landing / name if under is None else other.landing / name.with_name(under)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        temporary.write_bytes((settings.landing / name).read_bytes()[:cut])
        temporary.replace(target)

    command = hospital(tmp_path, "refresh")
    for name in reference:
        land(name)
    batches = [rest[n::3] for n in range(3)]
    kills = 0
    for number, batch in enumerate(batches):
        torn = rng.sample(batch, 3)
        for name in batch:
            land(name, cut=(settings.landing / name).stat().st_size // 2 if name in torn else None)
        for lines in (rng.randrange(8), rng.randrange(8), None):
            kills += refresh_killed(command, os.environ, lines)
        for name in torn:
            land(name)  # the same name again, whole
        for name in rng.sample(batch, 3):
            if name not in torn:
                # Of equal files that are new together, the first by name is loaded.
                land(name, under=f"{name.name}.copy_{number}")
    assert kills == 2 * len(batches)
    subprocess.run(command, check=True, capture_output=True)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "no files wait" in done.stdout
    assert dict(tables(other)) == dict(tables(settings))
    ledger = query(other, "select source_file, subject, state from raw.raw_landed_files")
    landed = {p.relative_to(other.landing).as_posix() for p in other.landing.rglob("*.*")}
    assert set(ledger["source_file"]) == landed  # every file is accounted for
    assert ledger.filter(pl.col("state").is_in(["held", "quarantined"])).is_empty()


@pytest.mark.torture
def test_ten_thousand_small_files_with_fifty_kills(
    built: tuple[Settings, BuildReport], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Shuffled, copied, torn, late, of any year and mixed with garbage and what is no file, everything killed, and
    read meanwhile: as built at once, clean. So it is after runs that were cancelled, and after a person was erased.

    `TORTURE_FILES` and `TORTURE_ROUNDS` say how large; the last round of each ten is not killed.
    """
    settings, _ = built
    most, rounds = (int(os.environ.get(f"TORTURE_{name}", n)) for name, n in (("FILES", 1_000_000), ("ROUNDS", 60)))
    rng = random.Random(50)
    clean, other = (replace(settings, data_dir=tmp_path / name) for name in ("clean", "other"))
    names = sorted(p.relative_to(settings.landing) for p in settings.landing.rglob("*.*"))
    reference = {"hospitals", "departments", "doctors"}
    pieces: dict[Path, bytes] = {}
    for name in names:
        body = (settings.landing / name).read_bytes()
        if name.parts[1] in reference or name.suffix == ".gz" or body[:3] == b"\xef\xbb\xbf":
            pieces[name] = body
            continue
        lines = body.splitlines(keepends=True)
        head, lines = (lines[:1], lines[1:]) if name.suffix == ".csv" else ([], lines)
        step = 2 if name.parts[1] == "vitals" and "T18" not in name.name else 1
        for number, first in enumerate(range(0, len(lines), step)):
            small = name.with_name(f"{name.stem}_{number:05d}{name.suffix}")
            pieces[small] = b"".join([*head, *lines[first : first + step]])
    # Records that came twice would be copies of files here.
    pieces = {name: body for body, name in {b: n for n, b in reversed(pieces.items())}.items()}
    chosen = set(rng.sample(sorted(pieces), min(most, len(pieces))))
    pieces = {name: body for name, body in pieces.items() if name in chosen or name.parts[1] in reference}

    def land(where: Settings, name: Path, body: bytes) -> None:
        target = where.landing / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        temporary.write_bytes(body)
        if where is other:
            # As if the clock had jumped: any second from 1980 to 2038.
            moment = rng.choice([time.time(), rng.randrange(315_532_800, 2_145_916_800)])
            os.utime(temporary, (moment, moment))
        temporary.replace(target)

    for where in (clean, other):
        for name, body in pieces.items():
            if where is clean or name.parts[1] in reference:
                land(where, name, body)
        shutil.copyfile(settings.settings_file, where.data_dir / "hospital.toml")
    # Of some of the files only, some checks need not pass.
    assert not run(clean).failures

    rest = [name for name in pieces if name.parts[1] not in reference]
    rng.shuffle(rest)
    command = hospital(other.data_dir, "refresh")
    environment = {**os.environ, "HOSPITAL_PSEUDONYM_KEY": "ab" * 32, "PYTHONUNBUFFERED": "1"}

    def made(where: Settings) -> dict[str, str]:
        """Its tables, but for the audit: what was done is not the same."""
        return {name: content for name, content in tables(where) if name != "fact_audit_events"}

    def also_killed(*words: str, lines: int) -> bool:
        """Kill another command when it has said so much."""
        with subprocess.Popen(
            [*command[:-1], *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            assert process.stdout is not None
            # A watcher with nothing to do says nothing more.
            at_last = threading.Timer(60, process.kill)
            at_last.start()
            for _, _line in zip(range(lines), process.stdout, strict=False):
                pass
            at_last.cancel()
            process.kill()
        return process.returncode == -signal.SIGKILL

    def cancelled(lines: int) -> bool:
        """Interrupt a refresh, as whoever cancels its Dagster run does; whether it came to that, and said so."""
        with subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A shell that started the tests in the background has it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
        ) as process:
            assert process.stdout is not None
            output = [line for _, line in zip(range(lines), process.stdout, strict=False)]
            process.send_signal(signal.SIGINT)
            output.append(process.stdout.read())
        assert process.returncode in (0, 1, 2, 130, -signal.SIGINT), output[-2000:]
        assert "Traceback" not in "".join(output), output[-2000:]
        return "interrupted: " in "".join(output)

    hostile = [
        (folder, kind, fault)
        for folder, (_, _, faults) in FOLDERS.items()
        for kind, fault in faults.items()
        if kind in UNOPENED and not kind.startswith("name")
    ]
    kills, cancels, extra = 0, 0, 0
    readers = Readers(other)
    readers.start()
    request.addfinalizer(readers.stop)
    for number in range(rounds):
        batch = rest[number::rounds]
        torn = set(rng.sample(batch, len(batch) // 50))
        folder, _, fault = hostile[number * 7 % len(hostile)]
        odd = other.landing / folder / f"odd_{number}{FOLDERS[folder][0]}"
        odd.parent.mkdir(parents=True, exist_ok=True)
        fault(odd)
        for name in batch:
            body = pieces[name]
            land(other, name, body[: len(body) // 2] if name in torn else body)
            # (A copy that comes before its original is whole would be the original.)
            if rng.random() < 0.02 and name not in torn:
                land(other, name.with_name(f"zz_{number}_{name.name}"), body)
                extra += 1
            if rng.random() < 0.01:
                land(
                    other,
                    name.with_name(f"zz_page_{number}_{name.name}"),
                    b"<!DOCTYPE html>\n" + rng.randbytes(9).hex().encode(),
                )
                extra += 1
        kills += refresh_killed(command, environment, None if number % 10 == 9 else rng.randrange(8))
        cancels += cancelled(2 + rng.randrange(6))
        kills += also_killed(*rng.choice([("watch",), ("publish",), ("snapshot",), ("check",)]), lines=rng.randrange(4))
        for name in torn:
            land(other, name, pieces[name])
    subprocess.run(command, env=environment, check=True, capture_output=True)
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert "no files wait" in done.stdout
    assert made(other) == made(clean)
    ledger = query(other, "select source_file, state from raw.raw_landed_files")
    regular = (p for p in other.landing.rglob("*.*") if p.is_file() and not p.is_symlink())
    landed = {p.relative_to(other.landing).as_posix() for p in regular if not p.name.startswith("odd_")}
    assert {name for name in ledger["source_file"] if "/odd_" not in name} == landed
    assert ledger.filter(pl.col("state").is_in(["held", "quarantined"])).is_empty()

    def done_in_the_end(*words: str) -> str:
        """A command that is killed where it is, and then run to its end."""
        nonlocal kills
        for lines in (0, 1, 3):
            kills += also_killed(*words, lines=lines)
        ended = subprocess.run([*command[:-1], *words], env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, (words, ended.stdout[-2000:], ended.stderr[-2000:])
        return ended.stdout

    done_in_the_end("snapshot")
    for table in ("kpi_waits", "fact_emergency_visits"):
        done_in_the_end("history", "restore", table, "--as-of", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}")
    done_in_the_end("publish", "--role", "admin")
    assert made(other) == made(clean)
    # A link of folders stops an erasure.
    for odd in [path for folder in FOLDERS for path in (other.landing / folder).glob("odd_*")]:
        shutil.rmtree(odd) if odd.is_dir() and not odd.is_symlink() else odd.unlink()
    (person,) = query(clean, "select min(patient_id) from cleaned.cleaned_er_visits").row(0)
    done_in_the_end("erase", person, "--yes")
    subprocess.run(
        [*command[:-1], "erase", person, "--yes"],
        env={**environment, "HOSPITAL_DATA_DIR": str(clean.data_dir)},
        check=True,
        capture_output=True,
    )
    assert made(other) == made(clean)
    assert person not in str(query(other, "select record from raw.raw_er_visits")["record"].to_list())
    readers.stop()
    print(  # noqa: T201
        f"{len(pieces) + extra} files, {rounds} odd ones, {kills} kills, "
        f"{cancels} cancelled runs, {readers.looks} reads"
    )
    assert kills >= rounds and cancels and readers.looks > rounds and not readers.failures, readers.failures[:3]


#: Whatever is built meanwhile, a table that can be read is whole: all hospitals are the sum of the hospitals.
WHOLE = (
    "select sum(visit_count) filter (where hospital_id = 'all') is not distinct from "
    "sum(visit_count) filter (where hospital_id <> 'all') from kpis.kpi_waits "
    "where department_name = 'all' and triage_group = 'all'"
)


def holds_waits(publication: Publication) -> bool:
    """Whether it was made after a first refresh came as far as the table that is read."""
    return bool(publication.connection.sql("from duckdb_tables() where table_name = 'kpi_waits'").fetchall())


def read_the_board(settings: Settings) -> None:
    """As the dashboard does."""
    dashboard_of(settings, "admin", lambda _: None).board.page(User("root", "admin"))


def read_a_publication(settings: Settings) -> None:
    """As a page of the dashboard does."""
    with open_publication(settings.data_dir, "admin") as publication:
        if holds_waits(publication):
            assert publication.connection.sql(WHOLE).fetchall() == [(True,)]


def ask_the_gateway(settings: Settings) -> None:
    """As the gateway does: in a process of its own."""
    with open_publication(settings.data_dir, "admin") as publication:
        if not holds_waits(publication):
            return
        file = publication.path / DATABASE
    answer = run_query(file, WHOLE, "json")
    if answer.outcome == "allowed":
        assert json.loads(answer.body)["rows"] == [[True]]
    else:
        # Old versions are deleted, and erasing deletes all.
        assert not file.exists(), answer.reason


def keep_reading(settings: Settings, read: Callable[[Settings], None], ended: Event, looks: Queue[str]) -> None:
    """In a process of its own; tells of each read, and of what went wrong otherwise than in words."""
    while not ended.wait(0.5):
        failure = ""
        try:
            read(settings)
        except (PublicationError, StateError):
            pass  # nothing is published yet
        except Exception as error:
            failure = f"{read.__name__}: {type(error).__name__}: {error}"
        looks.put(failure)


class Readers:
    """Processes that read the newest publication and the live board again and again, while everything else happens.

    Attributes:
        looks: how often something was read.
        failures: what went wrong otherwise than in words.
    """

    def __init__(self, settings: Settings) -> None:
        context = multiprocessing.get_context("spawn")
        self.looks, self.failures = 0, list[str]()
        self._ended, self._looks = context.Event(), context.Queue()
        self._processes = [
            context.Process(target=keep_reading, args=(settings, read, self._ended, self._looks))
            for read in (read_the_board, read_a_publication, ask_the_gateway)
        ]
        self._collector = threading.Thread(target=self._collect, daemon=True)

    def start(self) -> None:
        """Begin reading."""
        for process in self._processes:
            process.start()
        self._collector.start()

    def _collect(self) -> None:
        while (failure := self._looks.get()) is not None:
            self.looks += 1
            self.failures += [failure] if failure else []

    def stop(self) -> None:
        """End it."""
        self._ended.set()
        for process in self._processes:
            process.join()
        self._looks.put(None)
        self._collector.join()


@pytest.mark.parametrize("select", ["group:", "fact_vital", "quality_report"])
def test_a_selection_of_nothing_is_refused_in_words(network: Settings, select: str) -> None:
    with pytest.raises(BuildError, match="no table matches"):
        run(network, select=select)
