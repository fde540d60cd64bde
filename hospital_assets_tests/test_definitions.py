"""What Dagster sees: governance of every asset, a snapshot of the graph, generated documents."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Collection
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from hospital_assets.alerts.settings import load_alert_settings
from hospital_assets.assets.facts.other_days import REFERENCE_DATA, OtherDays
from hospital_assets.assets.facts.stale_partitions import DECLARED
from hospital_assets.automation.build import layers_of
from hospital_assets.automation.loading import without_days
from hospital_assets.automation.schedules import daily_batch_schedule
from hospital_assets.cli.pages import generated_documents
from hospital_assets.contracts import CONTRACTS
from hospital_assets.definitions import build_definitions
from hospital_assets.landing.profile import ProfileError, parse_profile
from hospital_assets.landing.registry import load_profiles
from hospital_assets.landing.zone import LandingResource
from hospital_assets.partitions import latest_day, service_periods
from hospital_assets.publishing.policy import POLICY_FILE, load_policy
from hospital_assets.settings import (
    Settings,
    SettingsError,
    data_dir_from_environment,
    engine_from_environment,
    load_settings,
    write_settings,
)
from hospital_assets.warehouse.io_manager import WarehouseResource

SNAPSHOT = Path(__file__).parent / "graph.json"
DEFINITIONS = build_definitions(Settings(Path("nowhere")))
GRAPH = DEFINITIONS.resolve_asset_graph()
ASSETS = sorted(GRAPH.get_all_asset_keys())
#: Assets that are files, not tables.
FILES = [key for key in ASSETS if GRAPH.get(key).group_name in ("reports", "publications")]
TABLES = [key for key in ASSETS if key not in FILES]


@pytest.mark.parametrize("key", FILES, ids=lambda k: k.path[-1])
def test_every_file_is_governed(key: dg.AssetKey) -> None:
    node = GRAPH.get(key)
    assert node.owners and all(owner.startswith("team:") for owner in node.owners)
    assert node.kinds and node.description and node.parent_keys


@pytest.mark.parametrize("key", TABLES, ids=lambda k: k.path[-1])
def test_every_asset_is_governed(key: dg.AssetKey) -> None:
    node = GRAPH.get(key)
    contract = CONTRACTS[key.path[-1]]
    assert node.owners and all(owner.startswith("team:") for owner in node.owners)
    assert node.kinds
    assert node.group_name == contract.layer
    assert node.description == contract.description
    assert node.metadata["dagster/table_name"] == contract.qualified_name
    schema = node.metadata["dagster/column_schema"]
    assert [column.name for column in schema.columns] == contract.column_names
    assert all(column.description for column in schema.columns)
    assert GRAPH.get_check_keys_for_assets({key})
    assert (node.partitions_def is not None) == contract.partitioned


def test_dagster_loads_all_of_them() -> None:
    """As a code location does: names of steps must not be those of jobs."""
    DEFINITIONS.get_repository_def().load_all_definitions()


def test_every_contract_has_an_asset() -> None:
    assert {key.path[-1] for key in TABLES} == set(CONTRACTS)


def test_a_check_has_the_partitions_of_its_asset() -> None:
    for key in GRAPH.asset_check_keys:
        assert GRAPH.get(key).partitions_def == GRAPH.get(key.asset_key).partitions_def, key


@pytest.mark.nightly
def test_definitions_are_those_of_their_settings(tmp_path: Path) -> None:
    """Side by side in one process, whatever the environment names."""
    of_2020 = Settings(tmp_path / "a", date(2020, 1, 1), date(2020, 1, 3))
    years = Settings(tmp_path / "b", date(2100, 5, 5), date(2102, 3, 3), "yearly")
    graphs = {settings: build_definitions(settings).resolve_asset_graph() for settings in (of_2020, years)}
    wanted = {of_2020: ["2020-01-01", "2020-01-02", "2020-01-03"], years: ["2100-01-01", "2101-01-01", "2102-01-01"]}
    for settings, keys in wanted.items():
        nodes = [graphs[settings].get(dg.AssetKey(name)) for name, table in CONTRACTS.items() if table.partitioned]
        nodes += [node for node in graphs[settings].asset_check_nodes if node.partitions_def is not None]
        assert len(nodes) > 100
        for node in nodes:
            assert node.partitions_def is not None and node.partitions_def.get_partition_keys() == keys, node.key
            if node.key in graphs[settings].get_all_asset_keys():
                assert node.backfill_policy == dg.BackfillPolicy.single_run()


def undeclared(declared: Collection[OtherDays]) -> set[tuple[str, str]]:
    """Facts (and the KPIs that ever declare any), with the inputs they read of other days without saying so."""
    found = set()
    looked_at = {name for name, contract in CONTRACTS.items() if contract.layer == "facts" and contract.partitioned}
    for name in looked_at | {other.fact for other in DECLARED}:
        fact = dg.AssetKey(name)
        said = {table for other in declared if other.fact == name for table in other.inputs} | REFERENCE_DATA
        for parent in GRAPH.get(fact).parent_keys:
            is_of_its_day = (
                GRAPH.get(parent).is_partitioned
                and GRAPH.get_partition_mapping(fact, parent) == dg.TimeWindowPartitionMapping()
            )
            if not is_of_its_day and parent.path[-1] not in said:
                found.add((name, parent.path[-1]))
    return found


def test_a_fact_declares_what_it_reads_of_other_days() -> None:
    assert undeclared(DECLARED) == set()
    for left_out in DECLARED:
        others = [other for other in DECLARED if other.fact != left_out.fact]
        assert {name for name, _ in undeclared(others)} == {left_out.fact}
    for other in DECLARED:
        assert {dg.AssetKey(name) for name in other.inputs} <= GRAPH.get(dg.AssetKey(other.fact)).parent_keys


def test_a_declaration_reads_only_what_it_names() -> None:
    sneaky = OtherDays("fact_vitals", ("cleaned_vitals",), lambda tables, _: tables["dim_patient"])
    with pytest.raises(KeyError, match="dim_patient"):
        sneaky.rows(dict.fromkeys(["fact_vitals", "cleaned_vitals", "dim_patient"]), load_profiles(None))  # type: ignore[arg-type]


@pytest.mark.slow
def test_importing_the_definitions_builds_nothing() -> None:
    code = (
        "import gc, dagster as dg, hospital_assets.definitions; "
        "print([o for o in gc.get_objects() if isinstance(o, (dg.Definitions, dg.PartitionsDefinition))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_references_point_at_existing_columns() -> None:
    for contract in CONTRACTS.values():
        assert set(contract.key) <= set(contract.column_names), contract.name
        for column in contract.columns:
            assert column.description.endswith("."), f"{contract.name}.{column.name}"
            if column.references:
                table, _, name = column.references.partition(".")
                assert name in CONTRACTS[table].column_names


def graph_snapshot() -> dict[str, object]:
    return {
        key.path[-1]: {
            "group": GRAPH.get(key).group_name,
            "parents": sorted(parent.path[-1] for parent in GRAPH.get(key).parent_keys),
            "checks": sorted(check.name for check in GRAPH.get_check_keys_for_assets({key})),
        }
        for key in sorted(GRAPH.get_all_asset_keys())
    }


def test_the_graph_is_as_recorded() -> None:
    """A changed graph is fine when meant: delete graph.json and run this test twice."""
    current = json.dumps(graph_snapshot(), indent=1) + "\n"
    if not SNAPSHOT.exists():
        SNAPSHOT.write_text(current)
        pytest.fail("graph.json was missing and has been written; look at it and commit it")
    assert json.loads(SNAPSHOT.read_text()) == json.loads(current)


def test_generated_documents_are_up_to_date() -> None:
    docs = Path(__file__).parents[1] / "docs"
    paths = {docs / name: text for name, text in generated_documents().items()}
    left = set((docs / "data-dictionary").iterdir()) - set(paths)
    assert not left, f"nothing writes {left} any more: delete it"
    stale = [path.name for path, text in paths.items() if not path.exists() or path.read_text() != text]
    assert stale == [], "run `make docs`"


@pytest.mark.slow
def test_importing_the_definitions_pulls_in_nothing_heavy() -> None:
    code = (
        "import sys, hospital_assets.definitions; "
        "print([m for m in ('pandas', 'pyspark', 'faker', 'sqlglot', 'dagster_webserver', 'rich') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_profiles_that_ship_are_valid() -> None:
    shipped = load_profiles(None)
    assert "native" in shipped and not shipped.unusable
    assert all(profile.name == name for name, profile in shipped.items())


HEAD = 'name = "x"\ndescription = "x"\ntime_zone = "UTC"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name = ", "not valid TOML"),
        ('name = "x"\ndescription = "x"\ntime_zone = "Chicago"\n[subjects]\n', "IANA time zone"),
        (HEAD + "[subjects.beds]\n", "no such subject"),
        (HEAD + '[subjects.vitals]\nfiles = ["a"]\ncolour = 1\n', "colour"),
        (HEAD + '[subjects.vitals.columns]\nheart = "hr"\n', "'heart' is not a column of raw_vitals"),
        (HEAD + '[subjects.vitals]\nfiles = ["a"]\n', "say which column dates"),
    ],
)
def test_a_wrong_profile_says_where(text: str, says: str) -> None:
    with pytest.raises(ProfileError, match="mine.toml") as raised:
        parse_profile(text, "mine.toml")
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("first_service_date = 'x'", "must be a date"),
        ("colour = 1", "unknown key 'colour'"),
        ('forecast_challengers = ["crystal_ball"]', "knows boosted_trees, not 'crystal_ball'"),
        ("forecast_challengers = 1", r'as in forecast_challengers = \["boosted_trees"\]'),
        ("baselines_from = 2026-03-01", "must be a list"),
        ("baselines_from = ['2026-03-01']", "must be days"),
        ("partitions = 'hourly'", "daily, monthly or yearly"),
        ("first_service_date = 2026-02-01\nlast_service_date = 2026-01-01", "is before"),
        ("=", "not valid TOML"),
        ("last_service_date = 9999-12-31", "must lie between 1900-01-01 and 2999-12-31"),
        ("first_service_date = 0001-01-01", "must lie between"),
        ('mirror = { address = "mirror " }', "a folder of its own"),
        ('mirror = { address = "published/mirror" }', "a folder of its own"),
        ('mirror = { address = "warehouse" }', "a folder of its own"),
        ('mirror = { address = "s3://bucket/a*" }', "'mirror.address' s3://bucket/a. cannot be used"),
    ],
)
def test_wrong_settings_say_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "hospital.toml").write_text(text)
    with pytest.raises(SettingsError, match=says):
        load_settings(tmp_path)


@pytest.mark.parametrize("name", ["a*", "a?", "[x]", "a\\b", "a%20b"])
def test_a_place_that_databases_would_look_for_elsewhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with pytest.raises(SettingsError, match="the data directory .* cannot be used"):
        load_settings(tmp_path / name / "data")
    monkeypatch.setenv("HOSPITAL_LAKE", f"s3://bucket/{name}")
    with pytest.raises(SettingsError, match="HOSPITAL_LAKE .* cannot be used"):
        engine_from_environment()


def test_a_data_directory_that_is_named_by_nothing_is_that_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("", "data"):
        monkeypatch.setenv("HOSPITAL_DATA_DIR", name)
        assert data_dir_from_environment() == Path("data").resolve()


CONFIGURATION: dict[str, Callable[[Settings], object]] = {
    "hospital.toml": lambda settings: load_settings(settings.data_dir),
    "policy.toml": load_policy,
    "alerts.toml": load_alert_settings,
}


@pytest.mark.parametrize("name", CONFIGURATION)
def test_a_file_of_the_configuration_that_is_no_text_is_said_with_its_line(tmp_path: Path, name: str) -> None:
    settings, load, file = Settings(tmp_path), CONFIGURATION[name], tmp_path / name
    by_default = load(settings)
    file.write_bytes(b"\n# M\xfcnchen\n")
    with pytest.raises(ValueError, match=rf"{name}:2: a character is not in UTF-8"):
        load(settings)
    file.unlink()
    # As by default, nobody would know that it is not there.
    file.symlink_to(tmp_path / "not mounted")
    with pytest.raises(ValueError, match="a link to a file that is not there"):
        load(settings)
    text = POLICY_FILE.read_text(encoding="utf-8") if name == "policy.toml" else ""
    (tmp_path / "not mounted").write_text(text, encoding="utf-8-sig")
    assert load(settings) == by_default


def test_settings_survive_the_round_trip(tmp_path: Path) -> None:
    settings = Settings(tmp_path, partitions="yearly")
    write_settings(settings)
    assert load_settings(tmp_path) == settings


def test_an_open_ended_directory_has_the_day_that_it_is_anywhere(tmp_path: Path) -> None:
    first = date(2026, 1, 1)
    periods = service_periods(Settings(tmp_path, first_service_date=first))
    # Half past ten in the evening of Greenwich is the next day in Berlin.
    evening = datetime(2026, 3, 1, 22, 30, tzinfo=UTC)
    keys = periods.get_partition_keys(current_time=evening)
    assert (keys[0], keys[-1]) == ("2026-01-01", "2026-03-02")
    assert latest_day(evening) == date(2026, 3, 2)
    warehouse = WarehouseResource(database=str(tmp_path / "w.duckdb"))
    landing = LandingResource(
        warehouse=warehouse, landing=str(tmp_path), profiles=str(tmp_path), first_service_date=first.isoformat()
    )
    before = latest_day(datetime.now(UTC))
    zone = landing.without_warehouse()
    zone.connection.close()
    assert before <= zone.last <= latest_day(datetime.now(UTC))


def test_files_of_days_to_come_change_the_roster_ahead() -> None:
    assert without_days(GRAPH, ["vitals"]) == [dg.AssetKey("raw_landed_files")]
    found = {key.to_user_string() for key in without_days(GRAPH, ["doctor_shifts"])}
    assert found == {"raw_landed_files", "raw_doctor_shifts_ahead", "fact_doctor_shifts_ahead"}
    assert {"raw_doctors", "dim_doctor"} < {key.to_user_string() for key in without_days(GRAPH, ["doctors"])}


def test_the_daily_batch_takes_the_day_that_is_over_everywhere() -> None:
    settings = Settings(Path("nowhere"))
    first = settings.first_service_date
    schedule = daily_batch_schedule(settings)
    hour = int(schedule.cron_schedule.split()[1])  # type: ignore[union-attr]
    tick = datetime(first.year, first.month, first.day, hour, 30, tzinfo=UTC) + timedelta(days=1)
    assert tick.astimezone(ZoneInfo("Etc/GMT+12")).date() > first
    request = schedule(dg.build_schedule_context(scheduled_execution_time=tick))
    assert request.partition_key == first.isoformat()


def test_a_step_is_of_the_layer_of_its_tables_or_a_check() -> None:
    definitions = DEFINITIONS
    layers = layers_of(definitions)
    assert {layers[name] for name in ("raw_vitals", "vitals", "fact_vitals", "kpi_waits_daily")} == {
        "raw",
        "cleaned",
        "facts",
        "kpis",
    }
    steps = {node.name for node in definitions.resolve_job_def("full_refresh").graph.nodes}
    checks = {check.op.name for check in definitions.asset_checks or () if isinstance(check, dg.AssetChecksDefinition)}
    # Nothing in a circle: Dagster would make several steps of one, each of which reads every table.
    assert steps - set(layers) <= checks
    assert not checks & set(layers)


def test_a_single_check_can_be_asked_for() -> None:
    """In the UI, where a step of several checks has to say that it can give some of them."""
    for definition in DEFINITIONS.asset_checks or ():
        assert isinstance(definition, dg.AssetChecksDefinition)
        assert definition.can_subset or len(definition.check_keys) == 1, definition.op.name
