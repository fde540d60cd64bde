"""Metrics: that they are what the tables hold, whatever is being written or broken, and who may read them."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import requests
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from hospital_assets.access import monitoring as access
from hospital_assets.access.gateway import app_at
from hospital_assets.access.monitoring import TOKEN_FILE, Metrics, metrics_at
from hospital_assets.access.serving import Address, ServingError
from hospital_assets.access.users import users_file
from hospital_assets.alerts.outbox import Outbox, Signal, outbox_file
from hospital_assets.alerts.settings import NotifierSettings
from hospital_assets.automation.build import BuildReport
from hospital_assets.automation.presence import watch_lock
from hospital_assets.checks.findings import newest_results
from hospital_assets.checks.table_checks import every_kind
from hospital_assets.cli import main
from hospital_assets.landing.profile import SUBJECTS, UNRECOGNISED
from hospital_assets.landing.registry import load_profiles
from hospital_assets.live.copies import copy_file, publish_copy
from hospital_assets.operations import metrics as module
from hospital_assets.operations.metrics import METRICS, Exposition, Value, collect
from hospital_assets.operations.monitoring import RULES, alert_rules, grafana_dashboard
from hospital_assets.recovery.snapshots import snapshots_folder
from hospital_assets.reports.quality import as_json, gather
from hospital_assets.settings import Settings
from hospital_assets.warehouse.database import open_warehouse
from hospital_assets.warehouse.loads import ledger_copy
from hospital_assets_tests.dashboards import published, running, serve
from hospital_assets_tests.helpers import query, warehouse_copy
from hospital_assets_tests.processes import until

DECLARED = {metric.name: metric for metric in METRICS}
NOW = datetime(2026, 3, 13, 12, tzinfo=UTC)


def values(settings: Settings, *certificates: Path) -> dict[tuple[str, ...], float]:
    """Metric and labels -> value."""
    return {(value.metric, *value.labels): float(value.value) for value in collect(settings, certificates)}


def of(found: dict[tuple[str, ...], float], name: str) -> dict[tuple[str, ...], float]:
    return {tuple(labels): value for (metric, *labels), value in found.items() if metric == name}


def parsed(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def unreadable(found: dict[tuple[str, ...], float]) -> set[str]:
    return {part for (part,), value in of(found, "hospital_part_readable").items() if not value}


@pytest.fixture(scope="module")
def shown(built: tuple[Settings, BuildReport], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A built network with publications; not to be changed."""
    return published(built[0], tmp_path_factory.mktemp("metrics") / "data", ("executive",))


# Values ------------------------------------------------------------------------------------------------


def test_files_and_runs_are_those_of_the_ledger_and_of_dagster(built: tuple[Settings, BuildReport]) -> None:
    settings, _ = built
    found = values(settings)
    assert not unreadable(found)
    ledger = query(
        settings, "select subject, state, count(*), max(first_seen_at) from raw.raw_landed_files group by all"
    )
    assert of(found, "hospital_landed_files") == {(subject, state): n for subject, state, n, _ in ledger.iter_rows()}
    loaded = query(
        settings, "select subject, count(distinct source_file) from raw.loaded_files where is_complete group by all"
    )
    stated = of(found, "hospital_loaded_files")
    assert {key: n for key, n in stated.items() if n} == {(subject,): n for subject, n in loaded.iter_rows()}
    newest = dict(ledger.group_by("subject").agg(pl.col("max(first_seen_at)").max()).iter_rows())
    assert of(found, "hospital_feed_landed_timestamp_seconds") == {
        (subject,): pytest.approx(at.timestamp()) for subject, at in newest.items()
    }
    assert set(of(found, "hospital_waiting_files").values()) == {0}
    assert not of(found, "hospital_feed_waiting_timestamp_seconds")
    runs = of(found, "hospital_runs")
    assert runs["success",] == 1 and sum(runs.values()) == 1
    ((_, ended),) = of(found, "hospital_run_success_timestamp_seconds").items()
    assert timedelta(0) < datetime.now(UTC) - datetime.fromtimestamp(ended, UTC) < timedelta(days=1)


def test_quarantine_is_that_of_the_tables(built: tuple[Settings, BuildReport]) -> None:
    found = values(built[0])
    for name, which in (
        ("hospital_quarantined_records", "not is_duplicate"),
        ("hospital_duplicate_records", "is_duplicate"),
    ):
        counted = query(
            built[0],
            " union all ".join(f"select '{s}', count(*) from cleaned.quarantine_{s} where {which}" for s in SUBJECTS),
        )
        assert of(found, name) == {(subject,): n for subject, n in counted.iter_rows()}
        assert sum(of(found, name).values()) > 0


def test_checks_are_those_last_evaluated(built: tuple[Settings, BuildReport], tmp_path: Path) -> None:
    settings = warehouse_copy(built[0], tmp_path / "data")
    assert not of(values(settings), "hospital_checks")
    with open_warehouse(settings.warehouse_file) as warehouse:
        results = newest_results(warehouse, every_kind())
        settings.reports.mkdir()
        settings.gathered_quality.write_text(as_json(gather(warehouse, load_profiles(None), NOW)))
    found = values(settings)
    counted = of(found, "hospital_checks")
    by_status = {status.lower(): n for status, n in results["status"].value_counts().iter_rows()}
    for status in ("passed", "failed", "error", "notapplicable"):
        assert counted["error", status] + counted["warn", status] == by_status.get(status, 0)
    assert of(found, "hospital_checks_timestamp_seconds")[()] == settings.gathered_quality.stat().st_mtime


def test_alerts_are_counted_in_tens_and_the_oldest_message_is_known(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    wants_all = NotifierSettings(name="duty", kind="log")
    with contextlib.closing(Outbox(outbox_file(settings), [wants_all])) as outbox:
        signals = [Signal("r", f"s{n}", NOW, True, "critical", "x") for n in range(11)]
        outbox.record([*signals, Signal("r", "t", NOW, True, "warning", "x")], NOW)
        sent, *_ = outbox.due(datetime.now(UTC))
        outbox.delivered(sent, datetime.now(UTC))
    found = values(settings)
    assert of(found, "hospital_alerts_open") == {("critical",): 20, ("error",): 0, ("warning",): 10}
    assert of(found, "hospital_alert_messages") == {("sent",): 10, ("waiting",): 20, ("given_up",): 0}
    assert time.time() - of(found, "hospital_alert_message_waiting_timestamp_seconds")[()] < 600


def test_forecasts_are_those_of_the_newest_month_and_of_the_method_that_shipped_most(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    rows = [
        ("2026-01-01", "H1", "day", "all", "regression", 30, 0.5, 70.0),
        ("2026-02-01", "H1", "day", "all", "regression", 10, 0.9, 80.0),
        ("2026-02-01", "H1", "day", "all", "slot_mean", 18, 1.1, 75.0),
        ("2026-02-01", "H1", "day", "1", "regression", 99, 7.0, 1.0),
        ("2026-03-01", "H1", "day", "all", "prior", 0, 3.0, 2.0),
        ("2026-02-01", "H1", "hour", "all", "regression", 10, None, 82.0),
    ]
    with open_warehouse(settings.warehouse_file) as warehouse:
        columns = "period_month date, hospital_id varchar, grain varchar, horizon_band varchar, method varchar, "
        connection = warehouse.connection
        connection.execute(
            f"create table forecasts.kpi_forecast_accuracy ({columns} shipped_count bigint, "
            "mase double, pit_80_pct double)"
        )
        connection.executemany("insert into forecasts.kpi_forecast_accuracy values (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        connection.execute(
            "create table forecasts.kpi_wait_forecast_accuracy as select date '2026-02-01' as period_month, "
            "'H1' as hospital_id, 'all' as horizon_band, 'same_hour' as method, 5 as shipped_count, "
            "71.5 as inside_80_pct"
        )
        publish_copy(warehouse, "forecast_accuracy")
    found = values(settings)
    assert of(found, "hospital_forecast_mase_ratio") == {("arrivals_day", "H1"): 1.1}
    assert of(found, "hospital_forecast_coverage_ratio") == {
        ("arrivals_day", "H1"): 0.75,
        ("arrivals_hour", "H1"): 0.82,
        ("waits", "H1"): 0.715,
    }


def test_a_file_that_no_run_has_seen_waits(built: tuple[Settings, BuildReport], tmp_path: Path) -> None:
    source, _ = built
    settings = replace(source, data_dir=tmp_path)
    shutil.copytree(source.landing, settings.landing, copy_function=shutil.copy2)
    settings.warehouse_file.parent.mkdir()
    shutil.copyfile(ledger_copy(source.warehouse_file), ledger_copy(settings.warehouse_file))
    before = values(settings)
    vitals = next((settings.landing / "native" / "vitals").iterdir())
    (vitals.parent / f"late-{vitals.name}").write_bytes(vitals.read_bytes())
    (settings.landing / "nobody").mkdir()
    (settings.landing / "nobody" / "x.bin").write_bytes(b"x")
    found = values(settings)
    assert of(found, "hospital_landed_files")["vitals", "new"] == 1 and ("vitals", "new") not in before
    waiting = of(found, "hospital_waiting_files")
    assert {subject for (subject,), n in waiting.items() if n} >= {"vitals"} and sum(waiting.values()) == 2
    assert time.time() - of(found, "hospital_feed_waiting_timestamp_seconds")["vitals",] < 600
    # A file that has changed is another one.
    vitals.write_bytes(vitals.read_bytes() + b"\n")
    assert of(values(settings), "hospital_landed_files")["vitals", "new"] == 2


def test_snapshots_publications_watchers_and_certificates(shown: Settings, tmp_path: Path) -> None:
    settings = replace(shown, data_dir=tmp_path)
    shutil.copytree(shown.data_dir / "published", tmp_path / "published")
    found = values(settings)
    assert not of(found, "hospital_snapshot_timestamp_seconds")
    assert of(found, "hospital_publications")[()] == len(list((tmp_path / "published").iterdir())) > 0
    assert of(found, "hospital_publication_timestamp_seconds")[()] == NOW.timestamp()
    snapshots_folder(settings).mkdir()
    for day in (1, 2):
        (snapshots_folder(settings) / f"2026030{day}T000000000000Z.duckdb").touch()
    assert (
        of(values(settings), "hospital_snapshot_timestamp_seconds")[()] == datetime(2026, 3, 2, tzinfo=UTC).timestamp()
    )
    assert of(values(settings), "hospital_watching")[()] == 0
    with watch_lock(settings) as is_the_only_one:
        assert is_the_only_one and of(values(settings), "hospital_watching")[()] == 1
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    for days in (5, 100):
        made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-days", str(days)]
        out = ["-out", str(tmp_path / f"{days}.pem"), "-keyout", str(tmp_path / "k")]
        subprocess.run([*made, *out], check=True, capture_output=True)
    found = values(settings, tmp_path / "100.pem", tmp_path / "5.pem")
    assert 4 < (of(found, "hospital_certificate_expiry_timestamp_seconds")[()] - time.time()) / 86_400 <= 5
    assert unreadable(values(settings, tmp_path / "absent.pem")) == {"certificates"}


# Whatever happens --------------------------------------------------------------------------------------


def test_an_empty_directory_has_metrics_and_stays_empty(tmp_path: Path) -> None:
    found = values(Settings(tmp_path))
    assert not unreadable(found) and of(found, "hospital_warehouse_size_bytes")[()] == 0
    assert list(tmp_path.iterdir()) == []


BROKEN: dict[str, tuple[Callable[[Settings], Path], str]] = {
    "ledger": (lambda s: ledger_copy(s.warehouse_file), "files"),
    "quarantined": (lambda s: copy_file(s.warehouse_file, "quarantined"), "quarantine"),
    "accuracy": (lambda s: copy_file(s.warehouse_file, "forecast_accuracy"), "forecasts"),
    "quality": (lambda s: s.gathered_quality, "checks"),
    "outbox": (outbox_file, "alerts"),
    "history": (lambda s: s.dagster_home / "history" / "runs.db", "runs"),
    "pointer": (lambda s: s.data_dir / "published" / "admin" / "current.json", "publications"),
}


@pytest.mark.parametrize("content", [b"", b"no such thing at all", b"PAR1" + b"\0" * 200 + b"PAR1", b"{}", b"[1]"])
@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_said_and_the_rest_is_there(
    what: str, content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place, part = BROKEN[what]
    settings = Settings(tmp_path)
    file = place(settings)
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    found = values(settings)
    # Nothing is what nobody has gathered yet, in this one.
    assert unreadable(found) == (set() if (what, content) == ("quality", b"{}") else {part})
    assert {part for (part,) in of(found, "hospital_part_readable")} == {*module._PARTS, "certificates"}
    assert of(found, "hospital_disk_free_bytes") and file.read_bytes() == content
    assert content.decode(errors="replace") not in caplog.text or len(content) < 4
    Exposition(settings).text()


_HOLDS = """
import sys, time
from pathlib import Path
from hospital_assets.warehouse.database import open_warehouse
with open_warehouse(Path(sys.argv[1])) as warehouse, warehouse.transaction() as connection:
    connection.execute("create table held as select range from range(1000000)")
    print("held", flush=True)
    sys.stdin.read()
"""


def test_metrics_are_read_while_a_writer_has_the_warehouse(shown: Settings) -> None:
    free = values(shown)
    assert not of(free, "hospital_warehouse_held")
    # As the command is called, by which it is known.
    command = [sys.executable, "-c", _HOLDS, str(shown.warehouse_file), "build"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None and writer.stdin is not None
        assert writer.stdout.readline() == "held\n"
        started = time.process_time()
        held = values(shown)
        # It computes a little, and does not wait: locks are waited for with pauses of 50 ms and more.
        assert time.process_time() - started < 5
        assert of(held, "hospital_warehouse_held") == {("build",): 1}
        assert 0 <= time.time() - of(held, "hospital_warehouse_held_timestamp_seconds")[()] < 600
        assert of(held, "hospital_warehouse_waited_for")[()] == 0
        changing = {"hospital_collect", "hospital_warehouse", "hospital_disk", "hospital_collected"}
        assert {k: v for k, v in held.items() if not k[0].startswith(tuple(changing))} == {
            k: v for k, v in free.items() if not k[0].startswith(tuple(changing))
        }
        other = _HOLDS.replace("create table held", "create table other")
        command = [sys.executable, "-c", other, str(shown.warehouse_file)]
        waiter = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        until(lambda: of(values(shown), "hospital_warehouse_waited_for")[()], waiter)
        writer.stdin.close()
    assert waiter.wait(timeout=120) == 0
    after = values(shown)
    assert not of(after, "hospital_warehouse_held") and of(after, "hospital_warehouse_waited_for")[()] == 0


def test_no_scrape_makes_a_writer_or_a_watcher_give_up(tmp_path: Path) -> None:
    settings, stop = Settings(tmp_path), threading.Event()

    def scrape() -> None:
        while not stop.is_set():
            list(module._storage(settings))
            list(module._presence(settings))

    thread = threading.Thread(target=scrape)
    with open_warehouse(settings.warehouse_file), watch_lock(settings):
        thread.start()
    try:
        for _ in range(20):
            with open_warehouse(settings.warehouse_file, wait_seconds=5), watch_lock(settings) as is_the_only_one:
                assert is_the_only_one
    finally:
        stop.set()
        thread.join()


def test_a_writer_of_the_outbox_goes_on_while_metrics_are_read(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    with contextlib.closing(Outbox(outbox_file(settings))) as outbox:
        outbox._connection.execute("begin immediate")
        assert not unreadable(values(settings))
        outbox._connection.execute("commit")
        with contextlib.closing(sqlite3.connect(f"file:{outbox_file(settings)}?mode=ro", uri=True)) as reader:
            assert reader.execute("select count(*) from alerts").fetchall() == [(0,)]
            outbox.record([Signal("r", "s", NOW, True, "critical", "x")], NOW)


# Text --------------------------------------------------------------------------------------------------


@hypothesis_settings(max_examples=50)
@given(hostile=st.text(min_size=1, max_size=30))
def test_hostile_labels_stay_labels(hostile: str) -> None:
    text = _exposed(Value("hospital_forecast_mase_ratio", 1.5, ("waits", hostile)))
    wanted = ("hospital_forecast_mase_ratio", (("hospital", hostile), ("target", "waits")))
    assert parsed(text)[wanted] == 1.5
    assert len(text.decode().split("\n")) == len(
        _exposed(Value("hospital_forecast_mase_ratio", 1, ("w", "H1"))).split(b"\n")
    )


def _exposed(value: Value) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "collect", lambda *_: iter([value]))
        return Exposition(Settings(Path("nowhere"))).text()


def test_a_hostile_name_of_a_hospital_and_of_a_file(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    name = 'H1"} 1\n# HELP evil \\'
    copy_file(settings.warehouse_file, "forecast_accuracy").parent.mkdir(parents=True)
    pl.DataFrame({"target": ["waits"], "hospital_id": [name], "mase": [None], "inside_80_pct": [50.0]}).cast(
        {"mase": pl.Float64}
    ).write_parquet(copy_file(settings.warehouse_file, "forecast_accuracy"))
    (tmp_path / "landing" / "Doe, Jane").mkdir(parents=True)
    (tmp_path / "landing" / "Doe, Jane" / "4711 Doe.csv").write_text("x")
    text = Exposition(settings).text()
    found = parsed(text)
    assert found["hospital_forecast_coverage_ratio", (("hospital", name), ("target", "waits"))] == 0.5
    assert "evil" not in {key for key, _ in found} and b"Doe" not in text
    assert found["hospital_landed_files", (("state", "new"), ("subject", UNRECOGNISED))] == 1


def test_every_metric_is_declared_once_and_named_as_prometheus_names_it(built: tuple[Settings, BuildReport]) -> None:
    assert len(DECLARED) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"hospital_[a-z_]+", metric.name) and metric.help.endswith(".")
        assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket", "_created"))
        assert not {"user", "path", "patient", "job", "instance"} & set(metric.labels)
    exposition = Exposition(built[0])
    exposition.observe("overview", "2xx", 0.3)
    text = exposition.text().decode()
    assert "_created" not in text
    for family in text_string_to_metric_families(text):
        declared = DECLARED[family.name]
        assert (declared.kind, declared.help) == (family.type, family.documentation)
        assert all(set(sample.labels) - {"le"} == set(declared.labels) for sample in family.samples)
    promtool = shutil.which("promtool")
    if promtool is not None:
        linted = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True)
        assert (linted.returncode, linted.stdout, linted.stderr) == (0, "", "")


def test_no_identifier_of_the_data_occurs(built: tuple[Settings, BuildReport], shown: Settings) -> None:
    settings, _ = built
    identifiers = set()
    for table, columns in {
        "raw_patients": ("patient_id", "first_name", "last_name", "phone", "street", "zip"),
        "raw_er_visits": ("visit_id", "patient_id"),
        "raw_adt_events": ("message_id", "bed_id"),
        "raw_doctors": ("doctor_id", "last_name", "npi"),
        "raw_vitals": ("observation_id",),
        "raw_landed_files": ("source_file", "file_sha256"),
    }.items():
        for column in columns:
            found = query(settings, f"select distinct {column}::varchar from raw.{table} where {column} is not null")
            identifiers |= {text for text in found.to_series() if len(text) > 2}
    assert len(identifiers) > 5_000
    for place in (settings, shown):
        text = Exposition(place).text().decode()
        labels = set(re.findall(r'="((?:[^"\\]|\\.)*)"', text))
        words = set(re.findall(r"[\w./@-]+", re.sub(r"^# (HELP|TYPE).*$", "", text, flags=re.MULTILINE)))
        assert len(labels) > 20 and not identifiers & (labels | words)
        assert str(place.data_dir) not in text


def test_an_answer_is_given_again_for_a_while(tmp_path: Path) -> None:
    exposition = Exposition(Settings(tmp_path))
    first = exposition.text()
    assert exposition.text() is first and exposition.text(kept_seconds=0) is not first


# The command -------------------------------------------------------------------------------------------


def test_the_textfile_is_replaced_whole_and_readable_by_node_exporter(
    shown: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--data-dir", str(shown.data_dir), "metrics"]
    assert main(command) == 0
    printed = parsed(capsys.readouterr().out.encode())
    file = tmp_path / "hospital.prom"
    file.write_text("hospital_before 1\n")
    before = file.stat().st_ino
    assert main([*command, "--textfile", str(file)]) == 0
    assert capsys.readouterr().out == ""
    assert stat.S_IMODE(file.stat().st_mode) == 0o644 and file.stat().st_ino != before
    assert parsed(file.read_bytes()).keys() == printed.keys() and [path.name for path in tmp_path.iterdir()] == [
        file.name
    ]
    # One that fails in the middle leaves what was there.
    kept = file.read_bytes()
    monkeypatch.setattr(Path, "write_bytes", _no_room)
    assert main([*command, "--textfile", str(file)]) == 1
    assert file.read_bytes() == kept and len(list(tmp_path.iterdir())) == 1
    assert main([*command, "--textfile", str(tmp_path / "hospital.txt")]) == 2
    assert ".prom" in capsys.readouterr().err


def _no_room(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_without_the_extra_the_command_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "is_installed", lambda: False)
    assert main(["--data-dir", str(tmp_path), "metrics"]) == 2
    assert "hospital-assets[metrics]" in capsys.readouterr().err


def test_reading_metrics_loads_no_dagster() -> None:
    code = (
        "import sys; from pathlib import Path; from hospital_assets.operations.metrics import collect; "
        "from hospital_assets.settings import Settings; list(collect(Settings(Path('no-such-folder')))); "
        "print('dagster' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# Who may read ------------------------------------------------------------------------------------------


class Figures:
    """Stands for the metrics of a data directory."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def text(self) -> bytes:
        return b"hospital_info 1\n"

    def observe(self, page: str, status: str, seconds: float) -> None:
        assert seconds >= 0
        self.seen.append((page, status))


def get(address: str, path: str, method: str = "GET", **headers: str) -> requests.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.request(method, address + path, headers=named, timeout=60, allow_redirects=False)


def test_this_machine_reads_what_only_this_machine_reaches(shown: Settings) -> None:
    figures = Figures()
    with serve(shown, metrics=metrics_at(Address(), figures, {})) as running:
        answer = get(running.address, "/metrics")
        assert (answer.status_code, answer.content) == (200, b"hospital_info 1\n")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert answer.headers["cache-control"] == "no-store"
        head = get(running.address, "/metrics", "HEAD")
        assert (head.status_code, head.content) == (200, b"")
        assert get(running.address, "/metrics", "POST").status_code == 405
        # Somebody asks through a proxy that nobody announced, or a page through a name of its own.
        for forwarded in ("forwarded", "via", "x_forwarded_for", "x_forwarded_host", "x_real_ip"):
            assert get(running.address, "/metrics", **{forwarded: "for=1.2.3.4"}).status_code == 401
        assert get(running.address, "/metrics", host="evil.example").status_code == 400
        # Looking at figures about the machine is no look at data.
        assert running.seen == []


@pytest.mark.parametrize("address", [Address("203.0.113.1"), Address(names=("ed.example.org",)), Address("0.0.0.0")])  # noqa: S104
def test_what_others_reach_needs_a_token(address: Address, shown: Settings) -> None:
    assert not metrics_at(address, Figures(), {}).is_open
    with serve(shown, metrics=metrics_at(address, Figures(), {})) as running:
        refused = get(running.address, "/metrics")
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert get(running.address, "/metrics", authorization="Bearer ").status_code == 401


def test_a_token_reads_metrics_and_a_new_one_needs_no_restart(shown: Settings, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("a" * 32 + "\n")
    file.chmod(0o600)
    with serve(shown, metrics=metrics_at(Address(), Figures(), {TOKEN_FILE: str(file)})) as running:
        assert get(running.address, "/metrics").status_code == 401
        for wrong in ("Bearer", "Bearer " + "a" * 31, "Basic " + "a" * 32, "Bearer " + "b" * 32, "Bearer ä"):
            assert (
                get(running.address, "/metrics", authorization=wrong.encode("latin-1").decode("latin-1")).status_code
                == 401
            )
        good = {"authorization": "Bearer " + "a" * 32}
        assert get(running.address, "/metrics", **good).status_code == 200
        assert get(running.address, "/metrics", x_forwarded_for="192.0.2.9", **good).status_code == 200
        file.write_text("b" * 40)
        assert get(running.address, "/metrics", **good).status_code == 401
        assert get(running.address, "/metrics", authorization="Bearer " + "b" * 40).status_code == 200
        file.unlink()
        assert get(running.address, "/metrics", authorization="Bearer " + "b" * 40).status_code == 401


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        ("short", 0o600, "32 characters"),
        ("a" * 40, 0o644, "chmod 600"),
        (None, 0, "cannot be read"),
        ("ä" * 40, 0o600, "read"),
    ],
)
def test_a_token_that_anybody_could_know_is_refused(content: str | None, mode: int, says: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    with pytest.raises(ServingError, match=says) as refused:
        metrics_at(Address(), Figures(), {TOKEN_FILE: str(file)})
    assert content is None or content not in str(refused.value)


def test_durations_are_noted_by_page_and_never_by_what_was_asked(shown: Settings) -> None:
    figures = Figures()
    with serve(shown, metrics=Metrics(figures)) as running:
        for path in ("/overview", "/overview.csv?figure=none", "/Doe-Jane", "/static/app.css", "/login", "/healthz"):
            get(running.address, path)
        with requests.get(running.address + "/live/events", timeout=60, stream=True):
            pass
    assert ("overview", "2xx") in figures.seen or ("overview", "5xx") in figures.seen
    assert {page for page, _ in figures.seen} == {"overview", "other", "login", "live/events"}
    assert ("other", "4xx") in figures.seen


# Alive and ready ---------------------------------------------------------------------------------------


def test_the_dashboard_says_whether_it_could_show_a_page(shown: Settings, tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    with serve(settings, "executive") as running:
        for method in ("GET", "HEAD"):
            assert get(running.address, "/healthz", method).status_code == 200
            assert get(running.address, "/readyz", method).status_code == 503
        shutil.copytree(shown.data_dir / "published", tmp_path / "published")
        for method in ("GET", "HEAD"):
            ready = get(running.address, "/readyz", method)
            assert (ready.status_code, ready.content) == (200, b"")
        assert get(running.address, "/readyz", host="evil.example").status_code == 400
        assert running.seen == []
        # What is not installed is not there.
        assert get(running.address, "/metrics").status_code == 404


def test_a_damaged_publication_is_not_ready_and_the_process_lives(shown: Settings, tmp_path: Path) -> None:
    shutil.copytree(shown.data_dir / "published", tmp_path / "published")
    for file in (tmp_path / "published").rglob("publication.duckdb"):
        file.write_bytes(file.read_bytes()[:1000])
    with serve(Settings(tmp_path), "executive") as running:
        assert get(running.address, "/readyz").status_code == 503
        assert get(running.address, "/healthz").status_code == 200


def test_the_gateway_says_so_too(shown: Settings, tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    figures = Figures()
    app = app_at(settings, Address(), metrics_at(Address(), figures, {}))
    with running(app) as address:
        assert get(address, "/healthz").status_code == 200
        assert get(address, "/readyz").status_code == 503
        shutil.copytree(shown.data_dir / "published", tmp_path / "published")
        assert get(address, "/readyz", "HEAD").status_code == 200
        assert get(address, "/metrics").content == b"hospital_info 1\n"
        assert get(address, "/v1/tables").status_code == 401
        assert get(address, "/v1/nothing").status_code == 404
        assert figures.seen == [("v1/tables", "4xx"), ("other", "4xx")]
        # Nobody could sign in any more.
        app.state.gate.users.close()
        users_file(settings).unlink()
        assert get(address, "/readyz").status_code == 503
        assert get(address, "/healthz").status_code == 200


# Rules, dashboard --------------------------------------------------------------------------------------

_NAME = re.compile(r"\bhospital_[a-z_]+\b")
_SELECTED = re.compile(r"(hospital_[a-z_]+)\{([^}]*)\}")


def expressions() -> list[str]:
    panels = json.loads(grafana_dashboard())["panels"]
    return [rule.when for rule in RULES] + [target["expr"] for panel in panels for target in panel.get("targets", [])]


def test_rules_and_dashboard_name_only_what_is_measured() -> None:
    for expression in expressions():
        for name in _NAME.findall(expression):
            metric = DECLARED.get(re.sub("_(bucket|count|sum)$", "", name))
            assert metric is not None, expression
            assert metric.name == name or metric.kind == "histogram", expression
        for name, selected in _SELECTED.findall(expression):
            labels = DECLARED[re.sub("_(bucket|count|sum)$", "", name)].labels
            assert set(re.findall(r"(\w+)\s*=", selected)) <= {*labels, "le"}, expression
    assert {rule["alert"] for rule in yaml.safe_load(alert_rules())["groups"][0]["rules"]} == {r.name for r in RULES}
    shown = {name for expression in expressions() for name in _NAME.findall(expression)}
    assert {metric.name for metric in METRICS} <= {re.sub("_bucket$", "", name) for name in shown}
    for rule in RULES:
        for label in re.findall(r"\$labels\.(\w+)", rule.summary):
            assert any(
                label in DECLARED[re.sub("_(bucket|count|sum)$", "", n)].labels for n in _NAME.findall(rule.when)
            )


#: Rule -> series in which it fires, and in which it does not: a value every 5 minutes, for over a day, from 0 on.
_OFTEN = "x400"
FIRES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "HospitalNotMeasured": ({}, {"hospital_collected_timestamp_seconds": f"0+300{_OFTEN}"}),
    "HospitalMetricsOld": (
        {"hospital_collected_timestamp_seconds": f"0{_OFTEN}"},
        {"hospital_collected_timestamp_seconds": f"0+300{_OFTEN}"},
    ),
    "HospitalPartUnreadable": (
        {'hospital_part_readable{part="files"}': f"0{_OFTEN}"},
        {'hospital_part_readable{part="files"}': f"1{_OFTEN}"},
    ),
    "HospitalFilesWait": (
        {'hospital_feed_waiting_timestamp_seconds{subject="vitals"}': f"0{_OFTEN}"},
        {'hospital_feed_waiting_timestamp_seconds{subject="vitals"}': f"0+300{_OFTEN}"},
    ),
    "HospitalNothingLands": (
        {'hospital_feed_landed_timestamp_seconds{subject="vitals"}': f"0{_OFTEN}"},
        {'hospital_feed_landed_timestamp_seconds{subject="doctors"}': f"0{_OFTEN}"},
    ),
    "HospitalRunsFail": (
        {'hospital_run_failure_timestamp_seconds{dagster_job="a"}': f"9{_OFTEN}"},
        {
            'hospital_run_failure_timestamp_seconds{dagster_job="a"}': f"9{_OFTEN}",
            'hospital_run_success_timestamp_seconds{dagster_job="a"}': f"10{_OFTEN}",
        },
    ),
    "HospitalRunsWait": (
        {'hospital_runs{status="queued"}': f"1{_OFTEN}"},
        {'hospital_runs{status="queued"}': " ".join(["1 0"] * 200)},
    ),
    "HospitalDaemonSilent": (
        {"hospital_daemon_heartbeat_timestamp_seconds": f"0{_OFTEN}"},
        {"hospital_daemon_heartbeat_timestamp_seconds": f"0+300{_OFTEN}"},
    ),
    "HospitalWarehouseHeld": (
        {"hospital_warehouse_waited_for": f"1{_OFTEN}", "hospital_warehouse_held_timestamp_seconds": f"0{_OFTEN}"},
        {"hospital_warehouse_waited_for": f"0{_OFTEN}", "hospital_warehouse_held_timestamp_seconds": f"0{_OFTEN}"},
    ),
    "HospitalChecksFail": (
        {'hospital_checks{severity="error",status="error"}': f"1{_OFTEN}"},
        {'hospital_checks{severity="warn",status="failed"}': f"5{_OFTEN}"},
    ),
    "HospitalMessagesWait": (
        {"hospital_alert_message_waiting_timestamp_seconds": f"0{_OFTEN}"},
        {"hospital_alert_message_waiting_timestamp_seconds": f"0+300{_OFTEN}"},
    ),
    "HospitalQuarantineGrows": (
        {'hospital_quarantined_records{subject="vitals"}': f"5+1{_OFTEN}"},
        {'hospital_quarantined_records{subject="vitals"}': f"5{_OFTEN}"},
    ),
    "HospitalPublicationsOld": (
        {"hospital_publication_timestamp_seconds": f"0{_OFTEN}"},
        {"hospital_publication_timestamp_seconds": f"0+300{_OFTEN}"},
    ),
    "HospitalForecastsWorse": (
        {'hospital_forecast_mase_ratio{target="waits",hospital="H1"}': f"1.3{_OFTEN}"},
        {'hospital_forecast_coverage_ratio{target="waits",hospital="H1"}': f"0.8{_OFTEN}"},
    ),
    "HospitalDiskFull": (
        {"hospital_disk_free_bytes": f"5000000000{_OFTEN}", "hospital_warehouse_size_bytes": f"3000000000{_OFTEN}"},
        {"hospital_disk_free_bytes": f"9000000000{_OFTEN}", "hospital_warehouse_size_bytes": f"3000000000{_OFTEN}"},
    ),
    "HospitalSnapshotOld": (
        {"hospital_snapshot_timestamp_seconds": f"-700000{_OFTEN}"},
        {"hospital_snapshot_timestamp_seconds": f"0{_OFTEN}"},
    ),
    "HospitalBackupOld": (
        {"hospital_backup_timestamp_seconds": f"-100000{_OFTEN}"},
        {"hospital_backups": f"2{_OFTEN}", "hospital_backup_timestamp_seconds": f"0{_OFTEN}"},
    ),
    "HospitalBackupUnverified": (
        {'hospital_backup_verified_timestamp_seconds{depth="content"}': f"-3000000{_OFTEN}"},
        {
            'hospital_backup_verified_timestamp_seconds{depth="content"}': f"-2000000{_OFTEN}",
            'hospital_backup_verified_timestamp_seconds{depth="digests"}': f"0{_OFTEN}",
        },
    ),
    "HospitalBackupDamaged": ({"hospital_backups_damaged": f"1{_OFTEN}"}, {"hospital_backups_damaged": f"0{_OFTEN}"}),
    "HospitalCertificateEnds": (
        {"hospital_certificate_expiry_timestamp_seconds": f"1000000{_OFTEN}"},
        {"hospital_certificate_expiry_timestamp_seconds": f"9000000{_OFTEN}"},
    ),
    "HospitalPagesFail": (
        {'hospital_request_duration_seconds_count{page="overview",status="5xx"}': f"0+9{_OFTEN}"},
        {'hospital_request_duration_seconds_count{page="overview",status="2xx"}': f"0+9{_OFTEN}"},
    ),
    "HospitalPagesSlow": (
        {
            'hospital_request_duration_seconds_bucket{page="overview",status="2xx",le="5"}': f"0{_OFTEN}",
            'hospital_request_duration_seconds_bucket{page="overview",status="2xx",le="30"}': f"0+9{_OFTEN}",
            'hospital_request_duration_seconds_bucket{page="overview",status="2xx",le="+Inf"}': f"0+9{_OFTEN}",
        },
        {
            'hospital_request_duration_seconds_bucket{page="overview",status="2xx",le="5"}': f"0+9{_OFTEN}",
            'hospital_request_duration_seconds_bucket{page="overview",status="2xx",le="30"}': f"0+9{_OFTEN}",
            'hospital_request_duration_seconds_bucket{page="overview",status="2xx",le="+Inf"}': f"0+9{_OFTEN}",
        },
    ),
}


def test_every_rule_can_fire_and_be_silent(tmp_path: Path) -> None:
    assert set(FIRES) == {rule.name for rule in RULES}
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian's package prometheus) is not installed: no rule was evaluated")
    (tmp_path / "rules.yml").write_text(alert_rules())
    ill, well = (
        {key: text for case in cases for key, text in case.items()} for cases in zip(*FIRES.values(), strict=True)
    )
    names = {rule.name for rule in RULES}
    tests = []
    for series, fires in ((ill, names - {"HospitalNotMeasured"}), (well, set()), ({}, {"HospitalNotMeasured"})):
        # Which fire, whatever their labels and words are.
        asked = 'count by (alertname) (ALERTS{alertstate="firing"})'
        found = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(fires)]
        tests.append(
            {
                "interval": "5m",
                "input_series": [{"series": key, "values": text} for key, text in series.items()],
                "promql_expr_test": [{"expr": asked, "eval_time": "1700m", "exp_samples": found}],
            }
        )
    (tmp_path / "tests.yml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "5m", "tests": tests})
    )
    checked = subprocess.run([promtool, "check", "rules", "rules.yml"], cwd=tmp_path, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    run = subprocess.run([promtool, "test", "rules", "tests.yml"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_dashboard_is_one_that_grafana_can_import() -> None:
    panels = json.loads(grafana_dashboard())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    taken = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(taken)) == len(taken) and max(x for x, _ in taken) < 24


def test_the_files_are_written_for_others_to_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data-dir", str(tmp_path / "data"), "deploy", "monitoring", "--into", str(tmp_path / "out")]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert {path.name for path in written} == {"prometheus-alerts.yml", "grafana-dashboard.json"}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in written)


def test_one_publication_that_opens_is_enough() -> None:
    assert access.any_opens([], print) is False
    assert access.any_opens(["a", "b"], lambda audience: 1 / (audience == "b")) is True
