"""What we lean on in the private modules of others: it is there, it is called, and it answers as stock does.

One entry for each private name. A failure here says what of ours breaks with a new version of Dagster or
Narwhals; it is no bug of the table or page under test elsewhere.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from hospital_assets.automation.event_log import HospitalEventLogStorage

EVENT_LOG = "dagster._core.storage.event_log"
STOCK = f"{EVENT_LOG}.sqlite.sqlite_event_log:SqliteEventLogStorage"
SQL = f"{EVENT_LOG}.sql_event_log:SqlEventLogStorage"
RUNS = "dagster._core.storage.runs"
SCHEDULES = "dagster._core.storage.schedules"
EXPRESSIONS = "narwhals._spark_like.expr:SparkLikeExpr"
INTERVALS = "narwhals._spark_like.expr_dt:SparkLikeExprDateTimeNamespace"

STOPS = "after a clock was ahead no sensor looks until that time"
#: Private name -> its parameters, and what of ours breaks when it goes or changes.
FUNCTIONS = {
    f"{STOCK}.__init__": ("self, base_dir, inst_data", "dagster.yaml cannot make the event log"),
    f"{STOCK}._connect": ("self, shard", "connections are no longer kept: a build opens one per event"),
    f"{STOCK}._initdb": ("self, engine, for_index_shard", "a fresh event log gets no tables"),
    f"{STOCK}.path_for_shard": ("self, run_id", "a deleted run's file is written on"),
    f"{STOCK}.conn_string_for_shard": ("self, shard_name", "no connection can be kept"),
    f"{STOCK}.run_connection": ("self, run_id", "batches of events do not reach their run"),
    f"{STOCK}.index_connection": ("self", "checks over a range are not stored"),
    f"{SQL}.index_transaction": ("self", "batches of events do not reach the index of assets"),
    f"{SQL}._event_to_row": ("self, event", "batches of events cannot be written"),
    f"{SQL}._store_asset_event": ("self, conn, event, event_id", "batched events do not reach their asset"),
    f"{SQL}._store_asset_event_tags": ("self, conn, events, event_ids", "batched events lose their tags"),
    f"{STOCK}.store_event": ("self, event", "events are stored one by one again"),
    f"{STOCK}.has_table": ("self, table_name", "each event of a check asks for a table again"),
    f"{SQL}.has_asset_key_col": ("self, column_name", "each record of an asset looks at its columns again"),
    f"{SQL}.store_asset_check_event": ("self, event, event_id", "outcomes of checks are not stored"),
    f"{SQL}._store_asset_check_evaluation_planned": ("self, event, event_id", "planning a check is slow again"),
    f"{SQL}._update_asset_check_evaluation": ("self, event, event_id", "days of a checked range stay planned"),
    f"{SQL}._store_runless_asset_check_evaluation": (
        "self, event, event_id",
        "`hospital watch` fails at the 2nd check",
    ),
    f"{RUNS}.sqlite:SqliteRunStorage.__init__": ("self, conn_string, inst_data", "dagster.yaml cannot make it"),
    f"{RUNS}.sqlite:SqliteRunStorage.connect": ("self", "each look at runs opens their file"),
    f"{RUNS}.sqlite:SqliteRunStorage.from_local": ("base_dir, inst_data", "dagster.yaml cannot make it"),
    f"{RUNS}:SqlRunStorage.has_built_index": ("self, migration_name", "each look at runs asks for migrations"),
    f"{RUNS}:SqlRunStorage.has_run_stats_index_cols": ("self", "each look at runs asks for columns"),
    f"{SCHEDULES}.sqlite:SqliteScheduleStorage.__init__": ("self, conn_string, inst_data", "as for runs"),
    f"{SCHEDULES}.sqlite:SqliteScheduleStorage.connect": ("self", "each tick opens the file five times"),
    f"{SCHEDULES}.sqlite:SqliteScheduleStorage.from_local": ("base_dir, inst_data", "as for runs"),
    f"{SCHEDULES}:SqlScheduleStorage.has_built_index": ("self, migration_name", "each tick asks for migrations"),
    f"{SCHEDULES}:SqlScheduleStorage._has_instigators_table": ("self, conn", "each tick asks for tables"),
    f"{SCHEDULES}:SqlScheduleStorage.get_instigator_state": ("self, origin_id, selector_id", STOPS),
    f"{SCHEDULES}:SqlScheduleStorage.all_instigator_state": (
        "self, repository_origin_id, repository_selector_id, instigator_type, instigator_statuses",
        STOPS,
    ),
    f"{SCHEDULES}:SqlScheduleStorage.get_ticks": (
        "self, origin_id, selector_id, before, after, limit, statuses",
        STOPS,
    ),
    "dagster._serdes:serialize_value": ("val, whitelist_map, json_kwargs", "checks over a range are not stored"),
    f"{EXPRESSIONS}.__init__": (
        "self, call, window_function, evaluate_output_names, alias_output_names, version, implementation",
        "expressions on Spark are made otherwise: see spark/dialect.py",
    ),
    f"{EXPRESSIONS}._with_elementwise": ("self, call, expression_args", "durations cannot be computed on Spark"),
    f"{EXPRESSIONS}._first": ("self, expr, order_by", "first values in an order cannot be computed on Spark"),
    f"{INTERVALS}.total_microseconds": (
        "not implemented",
        "when Narwhals has it on Spark, ours in spark/dialect.py can go",
    ),
}

#: Module: table -> the columns that we write and read.
COLUMNS = {
    "SqlEventLogStorageTable": {"id", "asset_key", "dagster_event_type", "partition"},
    "AssetCheckExecutionsTable": {
        "id",
        "asset_key",
        "check_name",
        "run_id",
        "partition",
        "execution_status",
        "evaluation_event",
        "evaluation_event_timestamp",
        "evaluation_event_storage_id",
        "materialization_event_storage_id",
    },
}

DAYS = dg.StaticPartitionsDefinition([f"2026-01-0{n}" for n in range(1, 5)])
RANGE = {"dagster/asset_partition_range_start": "2026-01-01", "dagster/asset_partition_range_end": "2026-01-04"}
ASSET = dg.AssetKey("vitals")
CHECK = dg.AssetCheckKey(ASSET, "fits")


@dg.asset(partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
def vitals() -> dg.MaterializeResult:  # type: ignore[type-arg]
    return dg.MaterializeResult(metadata={"rows": 7})


@dg.asset_check(asset=vitals, partitions_def=DAYS)
def fits() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True, metadata={"finding": "none"})


def found(name: str) -> Any:
    """What stands at a name, in a module loaded afresh: ours replaces a few things in the loaded one."""
    module, _, path = name.partition(":")
    loaded = importlib.import_module(module)
    if module.startswith("narwhals"):
        spec = importlib.util.spec_from_file_location("fresh", str(loaded.__file__))
        assert spec is not None and spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
    return functools.reduce(getattr, path.split("."), loaded)


# It is there, with this signature ---------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_is_there_with_this_signature(name: str) -> None:
    parameters, breaks = FUNCTIONS[name]
    try:
        actual = ", ".join(inspect.signature(found(name)).parameters)
    except AttributeError:
        actual = "gone"
    except ValueError:
        actual = "not implemented"
    assert actual == parameters, f"{name} is not what it was: {breaks}"


@pytest.mark.parametrize("table", COLUMNS)
def test_a_table_of_the_event_log_has_the_columns_we_use(table: str) -> None:
    actual = set(found(f"{EVENT_LOG}.schema:{table}").c.keys())
    assert actual >= COLUMNS[table], f"{table} lacks {COLUMNS[table] - actual}: HospitalEventLogStorage cannot write it"


def test_a_check_is_planned_succeeded_or_failed() -> None:
    status = found("dagster._core.storage.asset_check_execution_record:AssetCheckExecutionRecordStatus")
    assert [status[name].value for name in ("PLANNED", "SUCCEEDED", "FAILED")] == ["PLANNED", "SUCCEEDED", "FAILED"]


def test_a_configured_class_knows_its_configuration() -> None:
    data = found("dagster._serdes:ConfigurableClassData")("module", "Class", "{}\n")
    assert (data.module_name, data.class_name) == ("module", "Class"), "dagster.yaml cannot name our event log"


@pytest.mark.parametrize("attribute", ["_db_lock", "_initialized_dbs"])
def test_the_event_log_guards_its_connections(attribute: str, tmp_path: Path) -> None:
    with instance_of(EVENT_LOG, "SqliteEventLogStorage", tmp_path, stock=True) as instance:
        assert hasattr(instance.event_log_storage, attribute), f"{attribute} is gone: HospitalEventLogStorage._connect"


@pytest.mark.parametrize("group", ["ASSET_EVENTS", "ASSET_CHECK_EVENTS", "EVENT_TYPE_TO_PIPELINE_RUN_STATUS"])
def test_dagster_says_what_it_indexes(group: str) -> None:
    assert found(f"dagster._core.events:{group}"), (
        f"{group} is gone: HospitalEventLogStorage does not know what to index"
    )


def test_a_relation_knows_its_connection() -> None:
    connection = duckdb.connect()
    assert connection.sql("select 1")._con is connection, "dialect.checkpoint cannot make its table"


# A public act reaches the override --------------------------------------------------------------------

ACTS: dict[str, tuple[str, ...]] = {
    "a run over a range": (
        "_connect",
        "_initdb",
        "store_event",
        "has_table",
        "has_asset_key_col",
        "store_asset_check_event",
        "_event_to_row",
        "_store_asset_event",
        "_store_asset_event_tags",
        "_store_asset_check_evaluation_planned",
        "_update_asset_check_evaluation",
    ),
    "a report without a run": ("_store_runless_asset_check_evaluation",),
}


@pytest.mark.parametrize("act", ACTS)
def test_a_public_act_reaches_what_we_override(act: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: set[str] = set()
    for name in ACTS[act]:
        monkeypatch.setattr(HospitalEventLogStorage, name, noted(name, called))
    with instance_of("hospital_assets.automation.event_log", "HospitalEventLogStorage", tmp_path) as instance:
        if act == "a run over a range":
            assert dg.materialize([vitals, fits], instance=instance, tags=RANGE).success
        else:
            report(instance)
    missed = set(ACTS[act]) - called
    assert not missed, f"Dagster no longer calls {sorted(missed)} for {act}: the override does nothing"


def noted(name: str, called: set[str]) -> Callable[..., Any]:
    """The method as it is, which also says that it was called."""
    method = getattr(HospitalEventLogStorage, name)

    @functools.wraps(method)
    def call(*args: Any, **options: Any) -> Any:
        called.add(name)
        return method(*args, **options)

    return call


# The same run gives the same answers on stock storage --------------------------------------------------


@pytest.mark.slow
def test_the_same_runs_answer_as_on_stock_storage(tmp_path: Path) -> None:
    with instance_of(EVENT_LOG, "SqliteEventLogStorage", tmp_path / "stock", stock=True) as instance:
        stock = answers(instance)
    with instance_of("hospital_assets.automation.event_log", "HospitalEventLogStorage", tmp_path / "ours") as instance:
        ours = answers(instance)
    for question, answer in stock.items():
        assert ours[question] == answer, f"our event log answers otherwise than Dagster's: {question}"


def answers(instance: dg.DagsterInstance) -> dict[str, Any]:
    """What people and the UI ask, after a run over a range, one over a day and a report without a run."""
    run = dg.materialize([vitals, fits], instance=instance, tags=RANGE)
    day = dg.materialize([vitals, fits], instance=instance, partition_key="2026-01-02")
    instance.report_runless_asset_event(dg.AssetMaterialization(ASSET, partition="2026-01-03", metadata={"rows": 8}))
    latest = instance.get_latest_materialization_event(ASSET)
    assert latest is not None and latest.asset_materialization is not None
    newest = instance.fetch_materializations(ASSET, limit=100).records
    statuses = instance.get_status_by_partition(ASSET, DAYS.get_partition_keys(), DAYS)
    assert statuses is not None
    kinds = {
        name: [entry.get_dagster_event().event_type_value for entry in instance.all_logs(run_id) if entry.dagster_event]
        for name, run_id in (("range", run.run_id), ("day", day.run_id))
    }
    return {
        "which days are materialised": sorted(instance.get_materialized_partitions(ASSET)),
        "how each day stands": {key: status and status.value for key, status in statuses.items()},
        "what was materialised, newest first": [(record.partition_key, rows_of(record)) for record in newest],
        "the latest materialisation": (latest.asset_materialization.partition, latest.run_id),
        "whether the asset is known": instance.has_asset_key(ASSET),
        "the events of each run": {name: sorted(found) for name, found in kinds.items()},
        "how the runs ended": sorted(run.status.value for run in instance.get_runs()),
        "the check of a day": [
            (entry.get_dagster_event().asset_check_evaluation_data.passed,)
            for entry in instance.all_logs(day.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
        ],
    }


def test_the_newest_record_of_an_asset_is_never_an_older_one(tmp_path: Path) -> None:
    """They are remembered: what writes to the log, here or in another process, is seen at once."""
    ours = ("hospital_assets.automation.event_log", "HospitalEventLogStorage", tmp_path)
    with instance_of(*ours) as instance, instance_of(*ours) as another:

        def newest() -> list[list[str | None]]:
            """What both say of the days, one after the other."""
            return [
                [
                    record.asset_entry.last_materialization_record
                    and record.asset_entry.last_materialization_record.partition_key
                    for record in each.get_asset_records([ASSET, dg.AssetKey("unknown")])
                ]
                for each in (instance, another)
            ]

        assert newest() == [[], []]
        dg.materialize([vitals, fits], instance=instance, partition_key="2026-01-02")
        assert newest() == [["2026-01-02"]] * 2
        for teller, day in ((another, "2026-01-03"), (instance, "2026-01-01"), (another, "2026-01-04")):
            teller.report_runless_asset_event(dg.AssetMaterialization(ASSET, partition=day))
            # Without a run: stored by and by, and read from memory by whoever did not write it.
            assert newest()[instance is not teller] == [day]
            teller.event_log_storage.dispose()
            assert newest() == [[day]] * 2
        another.wipe_assets([ASSET])
        assert newest() == [[], []]


def rows_of(record: dg.EventLogRecord) -> Any:
    assert record.asset_materialization is not None
    return record.asset_materialization.metadata["rows"].value


# What makes the overrides worth it: when one of these fails, Dagster does it by itself, and ours can go ----


@pytest.mark.slow
def test_stock_storage_still_leaves_the_days_of_a_checked_range_planned(tmp_path: Path) -> None:
    statuses = {}
    for kind, module, name in (
        ("stock", EVENT_LOG, "SqliteEventLogStorage"),
        ("ours", "hospital_assets.automation.event_log", "HospitalEventLogStorage"),
    ):
        with instance_of(module, name, tmp_path / kind, stock=kind == "stock") as instance:
            dg.materialize([vitals, fits], instance=instance, tags=RANGE)
            infos = instance.event_log_storage.get_asset_check_partition_info([CHECK])
            statuses[kind] = [info.latest_execution_status.value for info in infos if info.partition_key]
    assert statuses["ours"] == ["SUCCEEDED"] * 4
    assert "PLANNED" in statuses["stock"], "Dagster counts a range's check for its days: drop our overrides of it"


@pytest.mark.slow
def test_stock_storage_still_takes_one_outcome_without_a_run(tmp_path: Path) -> None:
    with instance_of("hospital_assets.automation.event_log", "HospitalEventLogStorage", tmp_path / "ours") as instance:
        report(instance)
        report(instance)  # the newest counts
    with instance_of(EVENT_LOG, "SqliteEventLogStorage", tmp_path / "stock", stock=True) as instance:
        report(instance)
        with pytest.raises(Exception, match="UNIQUE constraint failed"):
            report(instance)


def report(instance: dg.DagsterInstance) -> None:
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(asset_key=ASSET, check_name="fits", passed=True, partition="2026-01-01")
    )


@contextmanager
def instance_of(module: str, name: str, home: Path, *, stock: bool = False) -> Iterator[dg.DagsterInstance]:
    """An instance on an event log; `stock` where that wants to know its folder."""
    home.mkdir(parents=True, exist_ok=True)
    config = f"{{base_dir: {home / 'history' / 'runs'}}}" if stock else "{}"
    (home / "dagster.yaml").write_text(
        f"event_log_storage:\n  module: {module}\n  class: {name}\n  config: {config}\ntelemetry:\n  enabled: false\n"
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DAGSTER_HOME", str(home))
        with dg.DagsterInstance.from_config(str(home)) as instance:
            yield instance
