"""What BI tools are told: the figures are right, every name leads somewhere, and no role meets another's columns."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pytest

from hospital_assets.automation.build import BuildReport
from hospital_assets.cli import main
from hospital_assets.contracts import CONTRACTS
from hospital_assets.publishing.policy import Policy, shipped_policy
from hospital_assets.publishing.publications import PublicationError
from hospital_assets.publishing.semantic import ADDITIVE, Figure, Model, rows_of, semantic_model
from hospital_assets.publishing.targets import powerbi, superset
from hospital_assets.settings import Settings
from hospital_assets_tests.conftest import shared
from hospital_assets_tests.helpers import query
from hospital_assets_tests.powerbi_rules import mistakes, syntax, tables

POLICY = shipped_policy()
ROLES = tuple(POLICY.roles)
#: KPI tables that no tool may add up: figures of a whole period or of a moment, ranks, limits, medians, and arrivals
#: once more.
NOT_ADDITIVE = {
    "kpi_waits",
    "kpi_waits_rolling",
    "kpi_peak_hours",
    "kpi_conditions",
    "kpi_condition_groups",
    "kpi_procedures",
    "kpi_trends",
    "kpi_units",
    "kpi_triage_mix",
    "kpi_physician_workload",
    "kpi_blood_groups",
    "kpi_demographics",
    "kpi_op18",
    "kpi_ecat",
    "kpi_crowding_hourly",
    "kpi_overstays",
    "kpi_staffing_hourly",
}


def manifest_of(role: str, policy: Policy = POLICY) -> dict[str, Any]:
    """What a publication's manifest says, by the policy alone."""
    cells = policy.small_cells
    protected = {**cells.suppress, **cells.rounded} if policy.roles[role].small_cells == "protect" else {}
    held: dict[str, Any] = {}
    for contract in policy.tables_of(role):
        dropped = protected[contract.name].drop if contract.name in protected else ()
        masks = {column.name: policy.mask_of(role, contract.name, column) for column in contract.columns}
        columns = {n: {"mask": str(m)} for n, m in masks.items() if m.kind != "drop" and n not in dropped}
        held[contract.qualified_name] = {"columns": columns}
    audience = f"{role}-H1" if policy.roles[role].rows == "own_hospital" else role
    how = {name: {"suppressed_rows": 1} if name in cells.suppress else {"rounded_to": 5} for name in protected}
    return {"audience": audience, "role": role, "tables": held, "small_cells": {"tables": how}}


def model_of(role: str) -> Model:
    return semantic_model(manifest_of(role))


def figure(model: Model, name: str) -> Figure:
    (found,) = (f for table in model.tables for f in table.figures if f.sums.name == name)
    return found


# Figures


def test_every_kpi_table_adds_up_or_is_known_not_to() -> None:
    kpis = {contract.name for contract in CONTRACTS.values() if contract.layer == "kpis"}
    assert {*ADDITIVE} | NOT_ADDITIVE == kpis
    assert not {*ADDITIVE} & NOT_ADDITIVE


@pytest.mark.parametrize("name", ADDITIVE)
def test_what_is_said_of_a_table_fits_its_contract(name: str) -> None:
    contract, how = CONTRACTS[name], ADDITIVE[name]
    # Occupancy is by the department's identifier, and its name says which row pools.
    assert {*how.pooled, *filter(None, [how.choose])} <= {*contract.key, "department_name"}
    for sums in how.sums:
        assert {sums.numerator, *filter(None, [sums.denominator])} <= {*contract.column_names}
    if how.choose:
        # Only one value at a time: so the key says that rows count the same visits again.
        assert how.choose not in how.pooled


#: Day, hospital, minutes, visits with a wait, of them within the target (bi tools add up rows, never averages).
GOLDEN = ((1, "H1", 100, 10, 9), (1, "H2", 900, 30, 12), (2, "H1", 40, 4, 4), (2, "H2", 600, 20, 15))


@pytest.fixture
def golden() -> duckdb.DuckDBPyConnection:
    """The golden rows as two KPI tables, with the rows that pool them."""
    values = ", ".join(f"({day}, '{hospital}', {m}, {n}, {t})" for day, hospital, m, n, t in GOLDEN)
    connection = duckdb.connect()
    connection.execute("create schema admin")
    connection.execute(f"create table landed as from (values {values}) t(day, hospital, minutes, waits, in_target)")
    pooled = (
        "date '2026-01-01' + day as service_date, coalesce(hospital, 'all') as hospital_id, "
        "coalesce(department, 'all') as department_name, coalesce(level, 'all') as triage_group"
    )
    rows = "(select *, 'Emergency' as department, '3' as level from landed)"
    connection.execute(
        f"create table admin.kpi_waits_daily as select {pooled}, sum(waits) as visit_count, sum(waits) as wait_count, "
        f"sum(minutes) as wait_sum_minutes from {rows} group by day, cube (hospital, department, level)"
    )
    connection.execute(
        "create table admin.kpi_four_hour_daily as select service_date, service_date as period_date, hospital_id, "
        "n as denominator_count, t as numerator_count, 0 as over_12_hours_count from (select date '2026-01-01' + day "
        "as service_date, coalesce(hospital, 'all') as hospital_id, sum(waits) as n, sum(in_target) as t "
        "from landed group by day, cube (hospital))"
    )
    return connection


@pytest.mark.parametrize(
    ("table", "name", "value"),
    [
        ("kpi_waits_daily", "Registered visits", 64),
        ("kpi_waits_daily", "Average wait", 25.625),
        ("kpi_waits_daily", "Average wait (n)", 64),
        ("kpi_four_hour_daily", "Four-hour standard", 0.625),
        ("kpi_four_hour_daily", "Four-hour standard (n)", 64),
    ],
)
def test_golden_figures(golden: duckdb.DuckDBPyConnection, table: str, name: str, value: float) -> None:
    model = model_of("admin")
    rows, whole = rows_of(model.table(table), model.role), f"admin.{table}"
    assert golden.execute(f"select {superset.sql(figure(model, name), whole)} from ({rows})").fetchone() == (value,)


def test_a_plain_sum_over_all_rows_would_be_eight_times_the_truth(golden: duckdb.DuckDBPyConnection) -> None:
    assert golden.execute("select sum(wait_count) from admin.kpi_waits_daily").fetchone() == (8 * 64,)


@pytest.mark.nightly
@pytest.mark.parametrize("name", [name for name, how in ADDITIVE.items() if how.pooled])
def test_the_kept_rows_of_a_day_add_up_to_its_total(built: tuple[Settings, BuildReport], name: str) -> None:
    table = model_of("admin").table(name)
    columns = sorted({n for f in table.figures for n in (f.sums.numerator, f.sums.denominator) if n})
    rest = [column for column in CONTRACTS[name].key if column not in ADDITIVE[name].pooled]
    sums = ", ".join(f"round(sum({column})::double, 6) as {column}" for column in columns)
    parts, total = (
        query(built[0], f"select {', '.join(rest)}, {sums} from ({rows}) group by {', '.join(rest)} order by all")
        for rows in (
            rows_of(table, "kpis"),
            f"from kpis.{name} where " + " and ".join(f"{column} = 'all'" for column in ADDITIVE[name].pooled),
        )
    )
    assert parts.height > 0
    assert parts.equals(total)


def test_figures_are_sums_over_sums_and_say_what_of() -> None:
    model = model_of("admin")
    wait = figure(model, "Average wait")
    assert powerbi.dax(wait, model.table("kpi_waits_daily")) == (
        "DIVIDE(SUM('Waits daily'[Wait sum minutes]), SUM('Waits daily'[Wait count]))"
    )
    assert "Sum of `wait_sum_minutes` over the sum of `wait_count`." in wait.description
    assert "earlier of triage and registration" in wait.description
    stage = figure(model, "Average time of a stage")
    assert powerbi.dax(stage, model.table("kpi_stages_daily")).startswith("IF(HASONEVALUE('Stages daily'[Stage]), ")
    beds = figure(model, "Occupancy")
    assert beds.is_guarded, "beds of unknown number have no staffed minutes, so their patients' do not count either"


def test_of_rounded_counts_the_totals_of_each_hospital_are_loaded() -> None:
    shown, rounded = (model_of(role).table("kpi_waits_daily") for role in ("admin", "analyst"))
    assert [(kept.column, kept.is_equal) for kept in shown.kept] == [
        ("hospital_id", False),
        ("department_name", False),
        ("triage_group", False),
    ]
    assert [(kept.column, kept.is_equal) for kept in rounded.kept] == [
        ("hospital_id", False),
        ("department_name", True),
        ("triage_group", True),
    ]
    assert {c.source for c in shown.columns} - {c.source for c in rounded.columns} == {
        "department_name",
        "triage_group",
    }
    # Rounded parts add up to what is published; parts of which some are left out do not.
    manifest = manifest_of("analyst")
    assert {"kpi_arrivals_hourly", "kpi_pathways_daily"} <= {t.contract.name for t in semantic_model(manifest).tables}
    manifest["small_cells"]["tables"]["kpi_pathways_daily"] = {"rounded_to": 5, "suppressed_rows": 7}
    assert "kpi_pathways_daily" not in {t.contract.name for t in semantic_model(manifest).tables}


def test_a_figure_counts_rows_that_have_both_parts() -> None:
    found = figure(model_of("analyst"), "Average wait")
    rows = "(values (100.0, 10), (null, 5)) t(wait_sum_minutes, wait_count)"
    assert duckdb.execute(f"select {superset.sql(found, '')} from {rows}").fetchall() == [(10.0,)]


def test_patients_per_shift_hour_are_those_of_doctors_with_shifts() -> None:
    """Doctor 2 saw somebody after a night, doctor 3 has no shifts, and nobody knows who saw five more."""
    model, connection = model_of("admin"), duckdb.connect()
    rows = "(1, 1, 6, 8.0), (1, 2, 4, 10.0), (2, 2, 2, 0.0), (1, 3, 9, 0.0), (1, -1, 5, 4.0)"
    connection.execute(f"create table w as from (values {rows}) t(service_date, doctor_key, visit_count, shift_hours)")
    found = figure(model, "New patients per shift hour")
    shown = superset.sql(found, "w")
    assert connection.execute(f"select {shown} from w").fetchone() == (12 / 18,)
    # Who has shifts does not depend on the days that are chosen.
    assert connection.execute(f"select {shown} from w where service_date = 1").fetchone() == (10 / 18,)
    t = "'Physician workload daily'"
    assert powerbi.dax(found, model.table("kpi_physician_workload_daily")) == (
        f"CALCULATE(DIVIDE(SUM({t}[Visit count]), SUM({t}[Shift hours])), FILTER(VALUES({t}[Doctor key]), "
        f"AND({t}[Doctor key] > 0, CALCULATE(SUM({t}[Shift hours]), ALLEXCEPT({t}, {t}[Doctor key])) > 0)))"
    )


def test_occupancy_is_of_one_department_or_of_all_inpatient_ones() -> None:
    model, connection = model_of("admin"), duckdb.connect()
    rows = "('ICU', 10, 20), ('Surgery', 20, 40), ('all inpatient', 30, 60), ('Emergency', 50, 50)"
    columns = "department_name, occupied_bed_minutes, staffed_bed_minutes"
    connection.execute(f"create table kpi_occupancy_daily as from (values {rows}) t({columns})")
    shown = superset.sql(figure(model, "Occupancy"), "")
    assert model.table("kpi_occupancy_daily").kept == ()
    assert connection.execute(f"select {shown} from kpi_occupancy_daily").fetchone() == (None,)
    beds = f"select department_name, {shown} from kpi_occupancy_daily group by 1 order by 1"
    (er, *others) = connection.execute(beds).fetchall()
    assert er == ("Emergency", 1.0) and others == [("ICU", 0.5), ("Surgery", 0.5), ("all inpatient", 0.5)]


# Joins


@pytest.mark.parametrize("role", ROLES)
def test_there_is_one_way_from_a_row_to_another(role: str) -> None:
    model = model_of(role)
    active = [(r.table, r.to_table) for r in model.relationships if r.is_active]
    assert len(active) == len({*active})
    assert not {table for table, _ in active} & {to_table for _, to_table in active}
    assert all(r.to_table.startswith("dim_") for r in model.relationships)


def test_joins_are_those_of_the_contracts() -> None:
    found = {(r.table, r.column): f"{r.to_table}.{r.to_column}" for r in model_of("admin").relationships}
    for contract in CONTRACTS.values():
        for column in contract.columns:
            if contract.layer in ("dimensions", "facts") and column.references:
                assert found[contract.name, column.name] == column.references
    assert found["kpi_waits_daily", "hospital_id"] == "dim_hospital.hospital_id"
    days = {r.column for r in model_of("admin").relationships if r.table == "kpi_four_hour_daily" and r.is_active}
    assert days == {"period_date", "hospital_id"}, "the standard is about the day of departure"


# Who sees what


@pytest.mark.parametrize("role", ROLES)
def test_a_project_names_nothing_that_the_publication_lacks(role: str) -> None:
    manifest = manifest_of(role)
    held = {name.split(".")[1]: {*table["columns"]} for name, table in manifest["tables"].items()}
    model = semantic_model(manifest)
    for table in model.tables:
        assert {column.source for column in table.columns} <= held[table.contract.name]
        assert {kept.column for kept in table.kept} <= held[table.contract.name]
    files = powerbi.render(model)
    loaded = {name for text in files.values() for name in re.findall(r'PublishedTable\("\w+", "(\w+)"\)', text)}
    assert loaded == {table.contract.name for table in model.tables} <= {*held}
    # Descriptions speak of other tables; of a person's data they name nothing that is not there.
    seen = {column for columns in held.values() for column in columns}
    hidden = {
        column.name
        for contract in CONTRACTS.values()
        for column in contract.columns
        if column.privacy in ("direct_identifier", "quasi_identifier", "free_text") and column.name not in seen
    } - {"record", "payload", "description", "statement", "actor", "client"}  # words of descriptions, too
    assert (role == "admin") or {"street", "phone", "npi"} <= hidden
    everything = "\n".join([*files.values(), *superset.render(model).values()])
    assert [name for name in sorted(hidden) if re.search(rf"\b{name}\b", everything)] == []


# Power BI


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("source", [powerbi.DEFAULT_SOURCE, "postgresql://db.example:6432/hospital"])
def test_every_name_of_a_project_leads_somewhere(role: str, source: str) -> None:
    files = powerbi.render(model_of(role), source)
    assert mistakes(files) == []
    assert files == powerbi.render(model_of(role), source), "the same bytes again"
    assert len([path for path in files if path.endswith("visual.json")]) == 8


def _replaced(files: Mapping[str, str], place: str, old: str, new: str) -> dict[str, str]:
    changed = {path: text.replace(old, new) if place in path else text for path, text in files.items()}
    assert changed != files
    return changed


@pytest.mark.parametrize(
    ("place", "old", "new", "found"),
    [
        (
            "Waits daily",
            "SUM('Waits daily'[Visit count])",
            "SUM('Waits daily'[Guests])",
            "there is no 'Waits daily'[Gu",
        ),
        (
            "Waits daily",
            "SUM('Waits daily'[Visit count])",
            "SUM('Waits daily'[Visit count]",
            "it ends too soon|list ind",
        ),
        ("Waits daily", "measure 'Average wait' =", "measure VISITS =", "measures: 'visits' is there 2 times"),
        ("Waits daily", "column 'Wait count'", "column 'VISIT COUNT'", "'visit count' is there 2 times"),
        ("Waits daily", "sourceColumn: visit_count", "sourceColumn: wait_median_minutes", "does not add up"),
        ("Waits daily", "sourceColumn: visit_count", "sourceColumn: value_pct", "does not add up"),
        ("visuals/visits/", '"Property": "Visits"', '"Property": "Guests"', "there is no measure Guests"),
        ("visuals/funnel/", '"visualType": "scatterChart"', '"visualType": "carrd"', "carrd with"),
        ("model.tmdl", "ref table Hospital", "ref table Clinic", "refers to ['Clinic', 'Hospital']"),
        ("relationships.tmdl", "Hospital.'Hospital ID'", "Hospital.'Hospital IDs'", "there is no Hospital."),
        ("Date.tmdl", "sortByColumn: 'Month number'", "sortByColumn: 'Month No'", "is sorted by Month No"),
    ],
)
def test_a_planted_fault_is_found(place: str, old: str, new: str, found: str) -> None:
    spoilt = _replaced(powerbi.render(model_of("admin")), place, old, new)
    assert any(part in mistake for mistake in mistakes(spoilt) for part in found.split("|"))


@pytest.mark.parametrize("dax", ["DIVIDE(SUM('A'[b]),, SUM('A'[c]))", "SUMM('A'[b])", "SUM('A'[b]))", "SUM()", "1 +"])
def test_an_expression_that_is_none_is_found(dax: str) -> None:
    assert syntax(dax)
    assert not syntax("IF(HASONEVALUE(A[b]), DIVIDE(CALCULATE(SUM(A[b]), NOT ISBLANK('A x'[c])), SUM('A x'[c])))")


def test_names_with_quotes_and_spaces_are_quoted() -> None:
    files = powerbi.render(model_of("admin"))
    assert {"Door to bed"} & {*tables(files)} == set()
    assert "measure '72-hour returns' = " in files["hospital-admin.SemanticModel/definition/tables/Returns.tmdl"]


@pytest.mark.parametrize("source", ["mysql://db/x", "postgresql://db", "postgresql:///hospital"])
def test_a_source_that_is_none_is_refused(source: str) -> None:
    with pytest.raises(PublicationError, match="postgresql://SERVER/DATABASE"):
        powerbi.render(model_of("admin"), source)


def test_a_doctor_reads_the_own_folder_or_schema() -> None:
    files = powerbi.render(model_of("doctor"), "/data/published/")
    text = files["hospital-doctor-H1.SemanticModel/definition/expressions.tmdl"]
    assert text.startswith('expression Folder = "/data/published/doctor-H1" meta [')
    files = powerbi.render(model_of("doctor"), "postgresql://db.example:6432/hospital")
    text = files["hospital-doctor-H1.SemanticModel/definition/expressions.tmdl"]
    assert 'expression Server = "db.example:6432"' in text and '[Schema = "doctor", Item = name]' in text


@pytest.mark.parametrize("role", ROLES)
def test_the_json_files_fit_their_published_schemas(role: str) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema to check against the schemas")
    referencing = pytest.importorskip("referencing")
    draft = pytest.importorskip("referencing.jsonschema").DRAFT7
    root = shared("json-schemas")  # github.com/microsoft/json-schemas

    def retrieve(uri: str) -> Any:
        path = root / uri.split("/json-schemas/")[1]
        contents = json.loads(path.read_text(encoding="utf-8-sig"))
        return referencing.Resource.from_contents(contents, default_specification=draft)

    registry = referencing.Registry(retrieve=retrieve)
    checked = 0
    for path, text in powerbi.render(model_of(role)).items():
        if path.endswith((".json", ".pbip", ".pbir", ".pbism", ".platform")):
            found = json.loads(text)
            problems = jsonschema.Draft7Validator({"$ref": found["$schema"]}, registry=registry).iter_errors(found)
            assert [f"{path}: {problem.message}" for problem in problems] == []
            checked += 1
    assert checked > 12


# Superset


@pytest.mark.parametrize("role", ROLES)
def test_a_dataset_of_superset_is_a_query_with_metrics(role: str) -> None:
    model = model_of(role)
    files = superset.render(model)
    assert files == superset.render(model)
    datasets = {path: json.loads(text) for path, text in files.items() if "/datasets/" in path}
    assert len(datasets) == sum(bool(table.figures) for table in model.tables) > 10
    (database,) = (json.loads(text) for path, text in files.items() if "/databases/" in path)
    connection = duckdb.connect()
    connection.execute(f"create schema {model.role}")
    for dataset in datasets.values():
        assert dataset["database_uuid"] == database["uuid"]
        name = dataset["table_name"].split()[0]
        columns = ", ".join(f"{c.name} {c.duckdb_type}" for c in CONTRACTS[name].columns)
        connection.execute(f"create table {model.role}.{name} ({columns})")
        metrics = ", ".join(metric["expression"] for metric in dataset["metrics"])
        assert connection.execute(f"select {metrics} from ({dataset['sql']})").fetchall()


# The command


def _published(folder: Path, *roles: str) -> Path:
    """A data directory with the manifests of publications, which is all that the command reads."""
    for role in roles:
        manifest = manifest_of(role) | {"published_at": "2026-03-14T09:00:00+00:00", "claim": {}, "rows": {}}
        version = folder / "published" / manifest["audience"] / "20260314T090000000000Z"
        version.mkdir(parents=True)
        (version / "manifest.json").write_text(json.dumps(manifest))
        (version.parent / "current.json").write_text(json.dumps({"version": version.name}))
    return folder


def test_the_command_writes_a_project_for_each_publication(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOSPITAL_DATA_DIR", str(_published(tmp_path / "data", "admin", "executive", "doctor")))
    out = tmp_path / "out"
    assert main(["deploy", "powerbi", "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["admin", "doctor-H1", "executive"]
    assert (out / "executive" / "hospital-executive.pbip").read_bytes() == powerbi.render(model_of("executive"))[
        "hospital-executive.pbip"
    ].encode()
    assert "no data" in capsys.readouterr().out
    assert main(["deploy", "superset", "--role", "executive", "--out", str(tmp_path / "datasets")]) == 0
    assert [path.name for path in (tmp_path / "datasets").iterdir()] == ["executive"]


def test_the_command_overwrites_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOSPITAL_DATA_DIR", str(_published(tmp_path / "data", "executive")))
    command = ["deploy", "powerbi", "--out", str(tmp_path / "out")]
    assert (main(command), main(command)) == (0, 2)
    assert "is not empty; name another folder" in capsys.readouterr().err
    assert main(["deploy", "powerbi", "--role", "analyst", "--out", str(tmp_path / "none")]) == 2
    assert "run `hospital publish`" in capsys.readouterr().err
