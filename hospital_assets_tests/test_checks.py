"""The checks prove themselves: silent on clean tables, and each notices the fault it is for."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import dagster as dg
import duckdb
import pandera.polars as pa
import polars as pl
import pytest

from hospital_assets.automation.build import BuildError, BuildReport, check
from hospital_assets.automation.instance import dagster_instance
from hospital_assets.checks.accounting import conservation, landed_count, population_count, reconciled
from hospital_assets.checks.contract_checks import contract_rules
from hospital_assets.checks.declared import resolved_rules
from hospital_assets.checks.faults import FAULTS, prove, sound_tables
from hospital_assets.checks.findings import Finding, newest_results
from hospital_assets.checks.kinds import KINDS, NOT_IN_FUTURE, VALUES
from hospital_assets.checks.rules import _by_pandera, of_pandera, run_rules
from hospital_assets.checks.table_checks import every_kind, kinds_of
from hospital_assets.contracts import CONTRACTS
from hospital_assets.definitions import build_definitions
from hospital_assets.landing.registry import load_profiles
from hospital_assets.reports.quality import as_page, gather
from hospital_assets.settings import Settings, write_settings
from hospital_assets.simulator import simulate
from hospital_assets.warehouse.database import open_warehouse
from hospital_assets.warehouse.dialect import lazy
from hospital_assets_tests.helpers import copy_of, run
from hospital_assets_tests.processes import hospital

FIRST, LAST = date(2026, 3, 6), date(2026, 3, 9)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, BuildReport]:
    """Four clean days of a tenth of the network, with the day that has 23 hours."""
    settings = Settings(tmp_path_factory.mktemp("clean"), FIRST, LAST)
    simulate(settings.landing, settings.ground_truth, start=FIRST, days=4, scale=0.1, seed=11, clean=True)
    write_settings(settings)
    return settings, run(settings)


def test_clean_data_raises_nothing(clean: tuple[Settings, BuildReport]) -> None:
    settings, report = clean
    assert report.failures == [] and report.failed_checks == [] and report.warnings == []
    with open_warehouse(settings.warehouse_file) as warehouse:
        results = newest_results(warehouse, every_kind())
    assert results.filter(pl.col("status").is_in(["Failed", "Error"])).is_empty()
    # The figures that the suite is to reach.
    assert results.height >= 1_500
    kinds = {kind.name for kind in KINDS}
    assert set(results["kind"]) == kinds and len(kinds) >= 32
    assert set(results["family"]) == {"conformance", "completeness", "plausibility"}
    # All apply, but those that need more patients, deaths, forecasts, weeks or confusion than four days have.
    applied = set(results.filter(pl.col("status") != "NotApplicable")["kind"])
    assert kinds - applied <= {
        *("blood_mix", "triage_mix", "before_death", "one_patient", "calibrated", "skill", "drift", "roster")
    }


def test_every_fault_is_noticed(clean: tuple[Settings, BuildReport]) -> None:
    settings, _ = clean
    assert {fault.kind for fault in FAULTS} == set(KINDS)
    with open_warehouse(settings.warehouse_file) as warehouse:
        matrix = prove(sound_tables(warehouse), datetime(2026, 3, 10, 12, tzinfo=UTC))
    missed = matrix.filter(~pl.col("is_caught")).select("kind", "fault").rows()
    assert missed == []


def test_status() -> None:
    assert Finding("r", "c", 0, 0).status == "NotApplicable"
    assert Finding("r", "c", 100, 1).status == "Failed"
    assert Finding("r", "c", 100, 1, 1.0).status == "Passed"
    assert Finding("r", "c", 1000, 11, 1.0).status == "Failed"
    assert Finding("r", "c", 0, 0, 0.0, "cannot").status == "Error"


def test_alerts_of_the_platform_go_by_the_wall_clock() -> None:
    """A directory's days may be over for months when a run over it fails."""
    alerts = pl.DataFrame(
        {"hospital_key": [-1, 5], "observed_at": [datetime(2026, 3, 10, tzinfo=UTC)] * 2}
    ).with_columns(pl.col("observed_at").dt.cast_time_unit("us"))
    (rule,) = (
        rule
        for rule in resolved_rules(CONTRACTS["fact_alerts"], datetime(2026, 3, 1, tzinfo=UTC))
        if (rule.kind, rule.column) == (NOT_IN_FUTURE, "observed_at")
    )
    _, (platform,) = run_rules([rule], lazy(alerts.head(1)))
    _, (hospital,) = run_rules([rule], lazy(alerts.tail(1)))
    assert (platform.status, hospital.status) == ("NotApplicable", "Failed")


def test_no_table_may_hold_nan() -> None:
    checked = 0
    for contract in CONTRACTS.values():
        if any(column.dtype == pl.Float64() for column in contract.columns):
            assert VALUES in kinds_of(contract), contract.name
            checked += 1
    assert checked > 20
    spoiled = pl.DataFrame({"arrivals_per_hour": [1.0, None, float("nan"), float("inf")]})
    rule = next(rule for rule in contract_rules(CONTRACTS["kpi_peak_hours"]) if rule.kind is VALUES)
    rows, (found,) = run_rules([rule], lazy(spoiled))
    assert (rows, found.broken) == (4, 2)


def test_accounting_notices_its_faults() -> None:
    raw = pl.DataFrame({"source_file": ["f"] * 4, "source_line": [1, 2, 3, 4], "source_part": [1] * 4})
    cleaned, quarantined = raw.head(2), raw.tail(2).with_columns(is_duplicate=pl.Series([True, False]))

    def passed(kept: pl.DataFrame) -> bool:
        return conservation("t", lazy(raw), lazy(kept), lazy(quarantined)).passed

    assert passed(cleaned)
    assert not passed(cleaned.head(1))  # a record has disappeared
    assert not passed(pl.concat([cleaned.head(1), cleaned.head(1)]))  # one lost, one twice
    assert not passed(raw.head(3))  # one is in two places

    ledger = pl.DataFrame({"source_file": ["f"], "subject": ["hospitals"], "state": ["ready"], "row_count": [4]})
    assert landed_count("raw_hospitals", "hospitals", lazy(raw), ledger).passed
    assert not landed_count("raw_hospitals", "hospitals", lazy(raw.head(3)), ledger).passed

    rates = pl.DataFrame({"hospital_id": ["H1", "all"], "population_count": [4, 4]})
    assert population_count("kpi_lwbs_daily", lazy(rates), lazy(raw)).passed
    assert not population_count("kpi_lwbs_daily", lazy(rates), lazy(raw.head(3))).passed


def test_occupancy_must_reconcile() -> None:
    days = [date(2026, 1, 1), date(2026, 1, 2)]
    flow = pl.DataFrame(
        {
            "service_date": days,
            "department_id": ["D"] * 2,
            "patient_hours": [10.0, 20.0],
            "inflow_count": [3, 2],
            "outflow_count": [1, 2],
            "lapsed_count": [0, 1],
        }
    )
    occupancy = pl.DataFrame(
        {
            "service_date": days,
            "department_id": ["D"] * 2,
            "occupied_bed_minutes": [600.0, 1200.0],
            "midnight_patients_count": [5, 4],
            "came_at_midnight_count": [0, 0],
        }
    )

    def passed(**columns: pl.Series) -> bool:
        return reconciled(lazy(occupancy.with_columns(**columns)), lazy(flow)).passed

    assert passed()
    assert not passed(occupied_bed_minutes=pl.Series([600.0, 1201.0]))
    assert not passed(midnight_patients_count=pl.Series([5, 5]))  # 5 + 2 - 2 - 1 is 4
    wrong = reconciled(lazy(occupancy.with_columns(occupied_bed_minutes=pl.Series([600.0, 1201.0]))), lazy(flow))
    assert wrong.description == "1 department-days on which bed-minutes by the hour are not those by the stay"


@pytest.mark.nightly
def test_check_builds_nothing_and_exits_by_severity(clean: tuple[Settings, BuildReport], tmp_path: Path) -> None:
    settings, _ = clean
    shutil.copytree(settings.data_dir, tmp_path, dirs_exist_ok=True)
    junit, said = tmp_path / "junit.xml", tmp_path / "said.json"

    def check(*options: str) -> subprocess.CompletedProcess[str]:
        command = hospital(tmp_path, "check", "--junit", str(junit), "--json", str(said), *options)
        return subprocess.run(command, capture_output=True, text=True)

    with open_warehouse(tmp_path / "warehouse" / "hospital.duckdb") as warehouse:
        warehouse.connection.execute("update facts.fact_emergency_visits set los_minutes = 1e6 where rowid = 0")
    warned = check()
    assert warned.returncode == 1, warned.stdout  # a duration that is not that of its clocks
    found = json.loads(said.read_text())
    broken = {(c["table"], c["name"]) for c in found["checks"] if not c["passed"]}
    assert broken == {("fact_emergency_visits", "duration_agrees"), ("fact_emergency_visits", "plausible")}
    suite = ElementTree.parse(junit).getroot()  # noqa: S314  (we have just written it)
    assert (suite.attrib["failures"], suite.attrib["skipped"]) == ("1", "1")
    assert check("--fail-on", "never").returncode == 0


def test_the_quality_page_says_what_is_wrong_and_names_nobody(built: tuple[Settings, BuildReport]) -> None:
    settings, _ = built
    with open_warehouse(settings.warehouse_file) as warehouse:
        quality = gather(warehouse, load_profiles(None), datetime(2026, 3, 13, 12, tzinfo=UTC))
        page = as_page(quality)
        hospitals = [
            hospital
            for (hospital,) in warehouse.connection.execute(
                "select hospital_id from cleaned.cleaned_hospitals"
            ).fetchall()
        ]
        secrets = warehouse.connection.execute(
            "select visit_id from cleaned.cleaned_er_visits union "
            "select patient_id from cleaned.cleaned_patients union "
            "select phone from cleaned.cleaned_patients where phone is not null union "
            "select street from cleaned.cleaned_patients where street is not null"
        ).fetchall()
    assert "<script" not in page and "http" not in page  # nothing comes from elsewhere
    for said in (
        "Score by layer and family",
        "Records in quarantine",
        "Reconciliation",
        "Freshness",
        "History",
        "The hospital is not one of the network",
        "@page",
    ):
        assert said in page, said
    by_hospital = quality.quarantine_by_hospital
    assert by_hospital["records"].sum() == quality.quarantine["records"].sum() > 0
    assert {"not stated or unknown"} < set(by_hospital["hospital"]) <= {*hospitals, "not stated or unknown"}
    words = set(re.findall(r"[\w.+-]+", page.replace("<wbr>", "")))
    assert len(secrets) > 2_000
    assert not [value for (value,) in secrets if value in words or (" " in value and value in page)]


def test_the_quality_page_is_an_asset(built: tuple[Settings, BuildReport], tmp_path: Path) -> None:
    settings, _ = built
    other = copy_of(settings, tmp_path)
    shutil.copytree(settings.warehouse_file.parent, other.warehouse_file.parent)
    done = build_definitions(other).resolve_job_def("quality_page").execute_in_process()
    (event,) = done.asset_materializations_for_node("quality_report")
    page = (other.reports / "quality.html").read_text()
    assert event.metadata["sha256"].value == hashlib.sha256(page.encode()).hexdigest()
    assert event.metadata["quarantined_records"].value > 0
    assert "Quarantine by hospital" in page


# The engine's count of a constraint is Pandera's ----------------------------------------------------

NAN, INFINITE = float("nan"), float("inf")
CONSTRAINTS: dict[str, tuple[pa.Check, list[Any]]] = {
    "greater_than": (pa.Check.greater_than(0), [1.0, 0.0, -0.0, -1.0, NAN, INFINITE, -INFINITE, None]),
    "greater_than_or_equal_to": (pa.Check.greater_than_or_equal_to(0), [1.0, 0.0, -0.0, -1e-9, NAN, INFINITE, None]),
    "less_than": (pa.Check.less_than(300), [299.9, 300.0, 301.0, NAN, INFINITE, -INFINITE, None]),
    "less_than_or_equal_to": (pa.Check.less_than_or_equal_to(5), [5, 6, 4, None]),
    "in_range": (pa.Check.in_range(30, 43), [29.9, 30.0, 43.0, 43.1, NAN, None]),
    "isin": (pa.Check.isin(["A", "it's"]), ["A", "a", "it's", " A", "", None]),
    "str_matches": (
        pa.Check.str_matches("^[A-Z0-9-]{2,18}$"),
        ["A1", "A", "", "A1\n", "a1", "ÄÖ", "A1 B", "-" * 19, None],
    ),
}


@pytest.mark.parametrize("engine", ["duckdb", "polars"])
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_the_engine_counts_what_pandera_finds(name: str, engine: str) -> None:
    check, values = CONSTRAINTS[name]
    frame = pl.DataFrame({"value": values})
    column = replace(CONTRACTS["cleaned_vitals"].columns[0], name="value", dtype=frame["value"].dtype, duckdb_type="")
    native = duckdb.connect().from_arrow(frame.to_arrow()) if engine == "duckdb" else frame
    rule = of_pandera(VALUES, "", column, check)
    assert rule.broken is not None
    # Without Pandera's word.
    rows, (found,) = run_rules([replace(rule, check=None)], lazy(native))
    assert (rows, found.broken) == (len(values), _by_pandera(column, check, lazy(native)))


def test_every_constraint_of_the_contracts_is_counted_by_the_engine() -> None:
    used = {
        str(check.name) for contract in CONTRACTS.values() for column in contract.columns for check in column.checks
    }
    assert used <= set(CONSTRAINTS)


def test_a_constraint_the_engine_does_not_know_is_put_to_pandera() -> None:
    column = replace(CONTRACTS["cleaned_vitals"].columns[0], name="value", dtype=pl.String(), duckdb_type="VARCHAR")
    check = pa.Check.str_endswith("!")
    rule, frame = of_pandera(VALUES, "", column, check), lazy(pl.DataFrame({"value": ["a!", "b", None]}))
    assert rule.broken is None
    rows, (found,) = run_rules([rule], frame)
    assert (rows, found.rows, found.broken) == (3, 3, 1)


def test_one_table_is_checked_for_one_day(clean: tuple[Settings, BuildReport]) -> None:
    settings, _ = clean
    report = check(build_definitions(settings), settings, first=FIRST, last=FIRST, table="fact_doctor_shifts")
    assert {found.table for found in report.checks} == {"fact_doctor_shifts"} and report.succeeded
    assert {"key", "values", "local_time"} & {found.name for found in report.checks}
    with pytest.raises(BuildError, match="no table 'nosuch'"):
        check(build_definitions(settings), settings, table="nosuch")


def test_a_single_check_of_a_step_is_evaluated_alone(clean: tuple[Settings, BuildReport]) -> None:
    settings, _ = clean
    job = build_definitions(settings).resolve_job_def("all_checks")
    names = {"dim_doctor": "key", "raw_landed_files": "feeds_fresh"}
    keys = [dg.AssetCheckKey(dg.AssetKey(table), name) for table, name in names.items()]
    with dagster_instance(settings) as instance:
        result = job.get_subset(asset_check_selection=set(keys)).execute_in_process(instance=instance)
    found = [(e.asset_key, e.check_name) for e in result.get_asset_check_evaluations()]
    assert sorted(found) == sorted((key.asset_key, key.name) for key in keys)
