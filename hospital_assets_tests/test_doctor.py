"""The doctor's looks outwards, each by a planted fault: ports that others have, sources that do not answer, clocks."""

from __future__ import annotations

import importlib.metadata
import os
import socket
import subprocess
import sys
import threading
import time
import zoneinfo
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hospital_assets.automation import history
from hospital_assets.cli import main
from hospital_assets.contracts import CONTRACTS
from hospital_assets.landing.profile import Export, Source
from hospital_assets.operations import doctor, ports
from hospital_assets.operations.services import SERVICES, Service
from hospital_assets.settings import (
    BackupSettings,
    EngineSettings,
    MirrorSettings,
    Settings,
    StaffingSettings,
    write_settings,
)
from hospital_assets.sources.memory import Pulled, open_memory
from hospital_assets.sources.reach import Reached, apart, reach
from hospital_assets.warehouse.database import open_warehouse
from hospital_assets.warehouse.dialect import lazy
from hospital_assets_tests.postgresql import postgresql_server
from hospital_assets_tests.processes import free_port, hospital, until
from hospital_assets_tests.s3 import s3_server
from hospital_assets_tests.sftp import sftp_server

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
PLANTED = "planted-secret"


def now() -> datetime:
    return datetime.now(UTC)


def found(
    settings: Settings, subject: str, *also_ports: int, clock: Callable[[], datetime] = now, **asked: bool
) -> str:
    """What the doctor says of a subject, a line each: level, what, remedy."""
    findings = doctor.examine(settings, EngineSettings(), clock, (), also_ports, **asked)
    return "\n".join(f"{f.level}: {f.what} | {f.remedy}" for f in findings if f.subject == subject)


# Ports ---------------------------------------------------------------------------------------------------


@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A directory whose services listen at ports that are free, whatever else runs on this machine."""
    moved = tuple(
        replace(service, answers=service.answers.replace(str(service.port), str(free_port())))
        for service in SERVICES
        if service.port
    )
    monkeypatch.setattr("hospital_assets.operations.services.SERVICES", moved)
    settings = Settings(tmp_path / "data", dagster_url=f"http://localhost:{moved[0].port}")
    settings.data_dir.mkdir(mode=0o700)
    return settings


def service(name: str) -> Service:
    from hospital_assets.operations import services

    return next(each for each in services.SERVICES if each.name == name)


def test_ports_that_are_free_are_said_to_be(quiet: Settings) -> None:
    said = found(quiet, "ports")
    assert said.startswith("ok: ") and said.count(" is free") == 4
    assert all(f"{each.port} (hospital-{each.name}) is free" for each in SERVICES if each.port)


@contextmanager
def listening(host: str, port: int) -> Iterator[None]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, dualstack_ipv6=host == "::"):
        yield


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])  # noqa: S104
def test_a_port_that_somebody_has_is_said_with_whom(quiet: Settings, host: str) -> None:
    port = service("dashboard").port
    with listening(host, port or 0):
        said = found(quiet, "ports")
    wrong = next(line for line in said.splitlines() if line.startswith("warning"))
    assert f"{port} (hospital-dashboard) is taken by " in wrong and f"(process {os.getpid()} of " in wrong
    assert "--port" in wrong and said.count("is free") == 3


def test_who_listens_elsewhere_is_not_in_the_way(quiet: Settings) -> None:
    with listening("127.0.0.2", service("dashboard").port or 0), listening("::1", service("gateway").port or 0):
        assert found(quiet, "ports").count("is free") == 4


def test_a_port_of_the_settings_and_one_of_the_command_are_looked_at(quiet: Settings) -> None:
    dagster, mine = free_port(), free_port()
    with listening("127.0.0.1", dagster), listening("127.0.0.1", mine):
        said = found(replace(quiet, dagster_url=f"http://localhost:{dagster}"), "ports", mine)
    assert f"{dagster} (hospital-webserver) is taken" in said and f"{mine} (--port) is taken" in said
    assert f"{service('webserver').port} " not in said
    # An address behind a proxy says nothing of where the webserver listens.
    said = found(replace(quiet, dagster_url="https://ed.example.org:8443/dagster"), "ports")
    assert "8443" not in said and f"{service('webserver').port} (hospital-webserver) is free" in said


def test_a_port_that_only_root_may_have_is_said(quiet: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket.bind

    class Refusing(socket.socket):
        def bind(self, address: object) -> None:
            if address == ("127.0.0.1", 443):
                raise PermissionError(13, "Permission denied")
            real(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "socket", Refusing)
    assert "warning: this user may not listen at 443 (--port)" in found(quiet, "ports", 443)


def test_a_service_of_ours_is_at_work_and_one_of_another_directory_is_in_the_way(
    quiet: Settings, tmp_path: Path
) -> None:
    def started(data_dir: Path, port: int | None) -> subprocess.Popen[bytes]:
        # What it is follows from its command line, wherever its code comes from.
        program = tmp_path / f"{data_dir.name}-bin" / "hospital"
        program.parent.mkdir()
        program.write_text(
            "import socket, sys, time\n"
            f"server = socket.create_server(('127.0.0.1', {port}))\n"
            "print('listening', flush=True)\n"
            "time.sleep(600)\n"
        )
        environment = {**os.environ, "HOSPITAL_DATA_DIR": str(data_dir)}
        command = [sys.executable, str(program), "dashboard", "--password", PLANTED]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"listening\n"
        return process

    ours = started(quiet.data_dir, service("dashboard").port)
    other = started(tmp_path / "other", service("gateway").port)
    try:
        said = found(quiet, "ports")
    finally:
        for process in (ours, other):
            process.kill()
            process.communicate()
    assert f"{service('dashboard').port} (hospital-dashboard): hospital dashboard is at work" in said
    assert f"(hospital-gateway) is taken by hospital dashboard (process {other.pid} of " in said
    # Its command line may hold a secret.
    assert PLANTED not in said


def test_a_process_that_cannot_be_seen_is_said_to_be_its_users(
    quiet: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening("127.0.0.1", service("hl7").port or 0):
        # As for another user's: the folder of its files cannot be read.
        real = Path.iterdir
        monkeypatch.setattr(Path, "iterdir", lambda self: denied() if self.name == "fd" else real(self))
        said = found(quiet, "ports")
    assert "(hospital-hl7) is taken by a process of user " in said and "cannot be seen from here" in said


def denied() -> Iterator[Path]:
    raise PermissionError(13, "Permission denied")


def test_dev_says_who_has_its_port(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    with listening("127.0.0.1", port):
        assert main(["--data-dir", str(tmp_path), "dev", "--port", str(port), "--dashboard-port", "0"]) == 2
    assert f"(process {os.getpid()} of " in capsys.readouterr().err


@pytest.mark.parametrize("command", [["dev"], ["dashboard"], ["listen", "hl7"], ["dagster", "webserver"], ["doctor"]])
@pytest.mark.parametrize("port", ["99999", "-1", "abc", "٣"])
def test_a_port_is_a_port(command: list[str], port: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--data-dir", str(tmp_path), *command, f"--port={port}"])
    assert ended.value.code == 2 and "a port is a number up to 65535" in capsys.readouterr().err


def test_dev_needs_two_ports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = str(free_port())
    assert main(["--data-dir", str(tmp_path), "dev", "--port", port, "--dashboard-port", port]) == 2
    assert f"cannot share port {port}" in capsys.readouterr().err


@pytest.mark.slow
def test_what_dev_has_started_ends_with_it_even_when_it_is_killed(tmp_path: Path) -> None:
    command = hospital(tmp_path / "d", "dev", "--port", str(free_port()), "--dashboard-port", "0")
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as dev:
        assert dev.stdout is not None
        assert any("ready:" in line for line in iter(dev.stdout.readline, ""))
        listed = Path(f"/proc/{dev.pid}/task/{dev.pid}/children").read_text().split()
        dev.kill()
    assert len(listed) == 3
    until(lambda: not any(Path(f"/proc/{child}").exists() for child in listed))


def test_no_process_is_known_of_a_port_that_is_free() -> None:
    port = free_port()
    assert ports.state_of(port) == "free" and ports.listener_at(port) is None


# Sources ------------------------------------------------------------------------------------------------


class _Told(BaseHTTPRequestHandler):
    """An HTTP server whose clock is off by what its class says."""

    off = timedelta(0)
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_HEAD(self) -> None:
        self.do_GET()

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string((timestamp or time.time()) + self.off.total_seconds())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def server(off: timedelta = timedelta(0), status: int = 200) -> Iterator[str]:
    handler = type("Handler", (_Told,), {"off": off, "status": status})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_address[1]}"
        found.shutdown()


def fhir(url: str) -> Source:
    return Source(fhir=Export(url=url))


def look(source: Source, environment: dict[str, str] | None = None, seconds: float = 20) -> Reached:
    return reach({"it": source}, now, environment or {}, seconds)["it"]


def test_a_folder_that_is_not_mounted_is_said(tmp_path: Path) -> None:
    assert look(Source(address=tmp_path.as_uri())) == Reached()
    assert "mount it" in look(Source(address=(tmp_path / "share").as_uri())).problem


def test_a_fhir_server_answers_with_its_clock() -> None:
    with server() as url:
        assert look(fhir(url)) == Reached(ahead=timedelta(0))
    with server(timedelta(minutes=7)) as url:
        ahead = look(fhir(url)).ahead
    assert ahead is not None and timedelta(minutes=6, seconds=50) < ahead <= timedelta(minutes=7)
    with server(status=404) as url:
        assert "correct the profile" in look(fhir(url)).problem
    with server(status=503) as url:
        # It has too much to do; it is there.
        assert look(fhir(url)) == Reached()
    assert "cannot be reached" in look(fhir(f"http://127.0.0.1:{free_port()}")).problem


def test_a_server_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        found = look(fhir(f"http://127.0.0.1:{silent.getsockname()[1]}"), seconds=0.5)
        assert time.monotonic() - started < 5
    assert "does not answer within" in found.problem


def test_a_bucket_is_listed_and_its_clock_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore", reason="obstore is not installed (extra object-store)")
    with s3_server(monkeypatch, "there"):
        environment = dict(os.environ)
        assert look(Source(address="s3://there/a"), environment).problem == ""
        ahead = look(Source(address="s3://there/a"), environment).ahead
        assert ahead is not None and abs(ahead) < timedelta(seconds=5)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://ada:{PLANTED}@127.0.0.1:{free_port()}")
        wrong = look(Source(address="s3://there/a"), dict(os.environ))
    assert wrong.problem and PLANTED not in wrong.problem


def test_an_sftp_server_lists_or_says_why_not(tmp_path: Path) -> None:
    with sftp_server(tmp_path) as (address, given, environment):
        (given / "a.csv").write_text("a")
        assert look(Source(address=address), environment) == Reached()
        wrong = look(Source(address=address), environment | {"HOSPITAL_SFTP_KEY": str(tmp_path / "absent")})
    assert "is not there" in wrong.problem
    assert "cannot be reached" in look(Source(address=address), environment).problem


@pytest.mark.slow
def test_a_database_tells_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("adbc_driver_postgresql", reason="adbc-driver-postgresql is not installed (extra postgres)")
    source = Source(database="THERE_URL", queries={"hospitals": {"sql": "select 1", "is_full": True}})
    with postgresql_server() as there:
        assert look(source, {"THERE_URL": there.dsn()}) == Reached(ahead=timedelta(0))
        # Asked by somebody whose clock is three minutes behind.
        late = reach({"it": source}, lambda: now() - timedelta(minutes=3), {"THERE_URL": there.dsn()})["it"].ahead
        assert late is not None and timedelta(minutes=2, seconds=50) < late <= timedelta(minutes=3)
        wrong = look(source, {"THERE_URL": there.dsn(f"nobody&password={PLANTED}")})
    assert wrong.problem and PLANTED not in wrong.problem
    assert "set THERE_URL" in look(source).problem


PROFILE = """
name = "{name}"
description = "A system elsewhere."
time_zone = "America/Chicago"
[source]
{source}
[subjects.hospitals]
files = ["*.csv"]
columns = {{ hospital_id = "id", hospital_name = "name", time_zone = "zone" }}
"""


def write_profile(settings: Settings, name: str, source: str) -> None:
    settings.profiles_folder.mkdir(exist_ok=True)
    (settings.profiles_folder / f"{name}.toml").write_text(PROFILE.format(name=name, source=source))


def test_the_doctor_asks_sources_when_it_is_told_to(
    quiet: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert found(quiet, "sources", asks_sources=True) == "ok: no profile names an address | "
    (tmp_path / "share").mkdir()
    with server(timedelta(seconds=-30)) as slow, server(timedelta(hours=1)) as fast:
        for name, source in {
            "share": f'address = "{(tmp_path / "share").as_uri()}"',
            "gone": f'address = "{(tmp_path / "gone").as_uri()}"',
            "slow": f'fhir = {{ url = "{slow}" }}',
            "fast": f'fhir = {{ url = "{fast}" }}',
        }.items():
            write_profile(quiet, name, source)
        said = found(quiet, "sources", asks_sources=True)
        assert main(["--data-dir", str(quiet.data_dir), "doctor", "--sources"]) == 1
    assert "ok: share answers | " in said
    assert "error: gone: the folder is not there; mount it" in said and "`hospital pull gone`" in said
    assert "warning: slow answers; its clock is " in said and " s behind this machine's | set both by NTP" in said
    assert "error: fast answers; its clock is 60 min ahead of this machine's" in said
    assert "ERROR    sources: gone: " in capsys.readouterr().out


def test_without_asking_the_newest_failure_is_said(quiet: Settings) -> None:
    for name in ("clarity", "lab"):
        write_profile(quiet, name, 'address = "file:///mnt/share"')
    assert found(quiet, "sources").startswith("ok: 2 had no failure")
    with open_memory(quiet) as memory:
        memory.looked("lab", Pulled(reason="the folder is not there; mount it"), NOW)
    said = found(quiet, "sources")
    assert "warning: lab: the folder is not there; mount it | `hospital sources`" in said
    assert "ok: 1 had no failure" in said


@pytest.mark.parametrize(
    ("name", "lacks", "is_said"),
    [
        ("warehouse", os.W_OK, True),
        ("warehouse/hospital.duckdb", os.W_OK, True),
        ("warehouse/landed_files.parquet", os.R_OK, True),
        # It is replaced, not written.
        ("warehouse/landed_files.parquet", os.W_OK, False),
        # What others put there is theirs.
        ("landing/native", os.W_OK, False),
        ("policy.toml", os.W_OK, False),
    ],
)
def test_what_this_user_may_not_use_is_said(
    quiet: Settings, monkeypatch: pytest.MonkeyPatch, name: str, lacks: int, is_said: bool
) -> None:
    path, allowed = quiet.data_dir / name, os.access
    path.parent.mkdir(exist_ok=True, mode=0o700)
    path.touch(0o600) if path.suffix else path.mkdir(0o700)
    monkeypatch.setattr(os, "access", lambda asked, mode: not (asked == path and mode & lacks) and allowed(asked, mode))
    said = found(quiet, "directory")
    assert (f"error: 1 files and folders cannot be read and written by this user: {path}" in said) == is_said


def test_a_profile_that_cannot_be_used_is_named(quiet: Settings) -> None:
    write_profile(quiet, "broken", 'address = "nowhere"')
    assert "broken.toml" in found(quiet, "configuration").splitlines()[0]
    assert found(quiet, "configuration").startswith("error")
    assert "ok: policy, alerts can be read" in found(quiet, "configuration")


# Clocks and time zones ----------------------------------------------------------------------------------

moments = st.integers(-100_000, 100_000).map(lambda seconds: NOW + timedelta(seconds=seconds))


@given(moments, st.integers(0, 100), st.integers(-100_000, 100_000), st.booleans())
def test_a_clock_is_never_said_to_be_further_off_than_it_is(
    before: datetime, took: int, off: int, is_coarse: bool
) -> None:
    for answered in (0, took // 2, took):
        true = before + timedelta(seconds=answered, milliseconds=700) + timedelta(seconds=off)
        after = before + timedelta(seconds=took + 1)
        width = timedelta(seconds=1) if is_coarse else timedelta(0)
        told = true.replace(microsecond=0) if is_coarse else true
        ahead = apart(told, before, after, width).total_seconds()
        assert (0 <= ahead <= off) if off > 0 else (off <= ahead <= 0)
        # Nor much nearer than it is: by what the answer took, and how coarse it is.
        assert abs(off - ahead) <= took + 3


@pytest.mark.slow
def test_the_clock_of_dagsters_database_is_compared(quiet: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dagster_postgres", reason="dagster-postgres is not installed")
    with postgresql_server() as there:
        monkeypatch.setenv(history.POSTGRES_URL, there.dsn().replace("postgresql://", "postgresql+psycopg2://"))
        quiet.dagster_home.mkdir()
        assert found(quiet, "Dagster's history") == "ok: 0 runs; the clocks agree | "
        said = found(quiet, "Dagster's history", clock=lambda: now() + timedelta(minutes=10))
    assert "error: 0 runs; its database's clock is 10 min behind this machine's" in said


def test_time_zones_are_those_that_duckdb_knows(quiet: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    right = found(quiet, "time zones", clock=lambda: NOW)
    assert right == "ok: this machine and DuckDB agree on all | "
    real = zoneinfo.ZoneInfo
    monkeypatch.setattr(zoneinfo, "ZoneInfo", lambda name: real("UTC" if name == "America/Chicago" else name))
    said = found(quiet, "time zones", clock=lambda: NOW)
    assert said.startswith("warning: this machine knows 1 otherwise than DuckDB: America/Chicago") and "tzdata" in said

    def missing(name: str) -> zoneinfo.ZoneInfo:
        raise zoneinfo.ZoneInfoNotFoundError(name)

    monkeypatch.setattr(zoneinfo, "ZoneInfo", missing)
    assert found(quiet, "time zones", clock=lambda: NOW).startswith("error: there are no time zones")


# Packages -----------------------------------------------------------------------------------------------


def test_a_python_and_an_extra_that_do_not_fit_are_said(quiet: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.9.2")
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1" if name == "pyrage" else real(name))
    said = found(quiet, "packages")
    assert said.startswith("error: Python is 3.9.2, not >=3.11") and "pyrage is 0.1, not " in said


def test_what_is_configured_and_not_installed_is_said(quiet: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(quiet, "extras").startswith("ok")
    monkeypatch.setattr(doctor, "find_spec", lambda _: None)
    assert found(quiet, "extras").startswith("ok")
    write_profile(quiet, "bucket", 'address = "s3://there/a"')
    write_profile(quiet, "server", 'address = "sftp://u@there/a"')
    configured = replace(quiet, mirror=MirrorSettings("mirror"), backup=BackupSettings("/mnt", ("age1abc",)))
    said = found(configured, "extras")
    assert said.endswith("pip install 'hospital-assets[backup,delta,object-store,sftp]'") and said.startswith("error")


# The warehouse ------------------------------------------------------------------------------------------


def test_a_warehouse_that_is_waited_for_long_is_said(quiet: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from hospital_assets.warehouse import database

    write_settings(quiet)
    quiet.warehouse_file.parent.mkdir()
    with database.open_warehouse(quiet.warehouse_file):
        assert found(quiet, "warehouse").startswith("ok: in use by ")
        monkeypatch.setattr(database, "is_waited_for", lambda _: True)
        assert found(quiet, "warehouse").startswith("ok: in use by ")
        said = found(quiet, "warehouse", clock=lambda: now() + timedelta(hours=2))
    assert said.startswith("warning: in use by ") and "another process waits for it" in said


def test_hospitals_that_only_the_settings_know_are_said(quiet: Settings) -> None:
    contract = CONTRACTS["dim_hospital"]
    rows = [{"hospital_key": key, "hospital_id": name} for key, name in ((0, "unknown"), (1, "H1"))]
    with open_warehouse(quiet.warehouse_file) as warehouse:
        warehouse.replace(contract, lazy(pl.DataFrame(rows, schema=contract.polars_schema)))
    staffing = StaffingSettings(hours_a_week=(("h1", 560),))
    named = replace(quiet, holiday_calendars=(("H1", "DE"), ("H9", "DE")), staffing=staffing)
    said = found(named, "warehouse")
    assert "not in the data: holidays.H9, staffing.hours_a_week.h1 | name them as they are there: H1" in said
    assert found(quiet, "warehouse").startswith("ok") and "not in the data" not in found(quiet, "warehouse")


def test_hospitals_without_public_holidays_are_said(quiet: Settings) -> None:
    contract = CONTRACTS["dim_hospital"]
    zones = {"H1": "US/Central", "H2": "Etc/UTC", "H3": "CET", "H4": "UTC", "H5": None}
    rows = [
        {"hospital_key": n, "hospital_id": name, "time_zone": zone} for n, (name, zone) in enumerate(zones.items(), 1)
    ]
    with open_warehouse(quiet.warehouse_file) as warehouse:
        warehouse.replace(contract, lazy(pl.DataFrame(rows, schema=contract.polars_schema)))
    said = found(replace(quiet, holiday_calendars=(("H3", "DE"), ("H4", "none"))), "warehouse")
    assert 'of public holidays at H2: forecasts have none | `holidays = { H2 = "US-WI" }`' in said
    assert "public holidays at H2, H3, H4:" in found(quiet, "warehouse")
