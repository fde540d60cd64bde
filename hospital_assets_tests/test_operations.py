"""What a hospital's IT runs: units of systemd, Dagster's processes one by one, and the doctor."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import dagster as dg
import pytest
import yaml

from hospital_assets.automation.build import BuildReport
from hospital_assets.automation.instance import dagster_instance
from hospital_assets.automation.processes import CODE_SOCKET, code_socket
from hospital_assets.cli import _parser, main
from hospital_assets.contracts import CONTRACTS
from hospital_assets.definitions import build_definitions
from hospital_assets.operations import doctor
from hospital_assets.operations.services import SERVICES, container_files, health_of, systemd_units, write_units
from hospital_assets.recovery.erase import Erasure, erase_person
from hospital_assets.recovery.whose import Person
from hospital_assets.settings import (
    BackupSettings,
    EngineSettings,
    IdentitySettings,
    MirrorSettings,
    Settings,
    SettingsError,
    write_settings,
)
from hospital_assets.warehouse.database import open_warehouse
from hospital_assets_tests.processes import free_port, hospital, started, until

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
OPTIONAL = tuple(service.name for service in SERVICES if service.is_optional)
PROGRAM = Path(sys.executable).with_name("hospital")


# Units -------------------------------------------------------------------------------------------------


def units(tmp_path: Path) -> dict[str, str]:
    return systemd_units(PROGRAM, tmp_path, "daemon", tmp_path / "keys", OPTIONAL)


def test_systemd_finds_no_fault_with_any_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not installed")
    written = write_units(units(tmp_path), tmp_path / "units")
    # Keys that it does not know are warnings: nothing may be said at all.
    verified = subprocess.run([analyze, "verify", *map(str, written)], capture_output=True, text=True)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    spoilt = tmp_path / "units" / "hospital-spoilt.service"
    spoilt.write_text(written[0].read_text().replace("ProtectSystem", "ProtectSystm"))
    assert "ProtectSystm" in subprocess.run([analyze, "verify", str(spoilt)], capture_output=True, text=True).stderr


def test_every_unit_runs_a_command_that_there_is_and_the_target_wants_it(tmp_path: Path) -> None:
    made = units(tmp_path)
    assert set(made) == {*(f"hospital-{service.name}.service" for service in SERVICES), "hospital.target"}
    for service in SERVICES:
        _parser().parse_args(service.command.split())
        assert f"ExecStart={PROGRAM} {service.command}\n" in made[f"hospital-{service.name}.service"]
        assert f"hospital-{service.name}.service" in made["hospital.target"]
        assert {f"hospital-{name}.service" for name in service.after} <= set(made)


def test_services_that_nobody_asked_for_are_not_installed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--data-dir", str(tmp_path / "data"), "deploy", "systemd", "--into", str(tmp_path / "units")]
    assert main([*command, "--with", "watch"]) == 0
    found = {path.name for path in (tmp_path / "units").iterdir()}
    assert "hospital-watch.service" in found and "hospital-hl7.service" not in found
    assert "systemctl enable" in capsys.readouterr().out


def test_what_lies_outside_the_data_directory_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(tmp_path / "data", mirror=MirrorSettings(str(tmp_path / "mirror")))
    write_settings(settings)
    mirror, lake = tmp_path / "mirror", tmp_path / "lake"

    def deployed(target: str, name: str) -> str:
        assert main(["--data-dir", str(settings.data_dir), "deploy", target, "--into", str(tmp_path / target)]) == 0
        return (tmp_path / target / name).read_text()

    monkeypatch.setenv("HOSPITAL_LAKE", str(lake))
    keys = "/var/lib/hospital-keys"
    for service in ("code", "dashboard"):
        unit = deployed("systemd", f"hospital-{service}.service")
        assert f"ReadWritePaths={settings.data_dir} {keys} -{mirror} -{lake}\n" in unit
    services = yaml.safe_load(deployed("containers", "compose.yaml"))["services"]
    assert {f"{mirror}:{mirror}", f"{lake}:{lake}"} <= set(services["code"]["volumes"])
    assert f"make {mirror} first" in capsys.readouterr().out
    # What lies inside is there already, and an object store is no folder.
    monkeypatch.setenv("HOSPITAL_LAKE", "s3://bucket/lake")
    write_settings(replace(settings, mirror=MirrorSettings("mirror")))
    assert f"ReadWritePaths={settings.data_dir} {keys}\n" in deployed("systemd", "hospital-code.service")


@pytest.mark.parametrize("name", ["with space", "100%", "two\nlines", 'quote"', "päth"])
def test_a_path_that_systemd_takes_for_something_else_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot stand in a unit"):
        systemd_units(PROGRAM, tmp_path / name, "daemon", tmp_path)


# Containers --------------------------------------------------------------------------------------------


def test_containers_run_what_units_run_and_nothing_more_than_they_need(tmp_path: Path) -> None:
    files = container_files(tmp_path, 10_001, tmp_path / "keys", OPTIONAL)
    compose = yaml.safe_load(files["compose.yaml"])
    assert list(compose["services"]) == [service.name for service in SERVICES]
    for service in SERVICES:
        made = compose["services"][service.name]
        assert made["command"] == service.command.split()
        assert made["read_only"] and made["cap_drop"] == ["ALL"] and made["user"] == "10001:10001"
        assert made["security_opt"] == ["no-new-privileges:true"]
        assert made["mem_limit"] == f"{service.memory_megabytes}m"
        assert f"{tmp_path}:/data" in made["volumes"] and f"{tmp_path / 'keys'}:/keys" in made["volumes"]
        assert ("healthcheck" in made) == bool(service.answers)
        # Whoever waits for another to be healthy would wait for ever for one without a check.
        assert all("healthcheck" in compose["services"][name] for name in made.get("depends_on", ()))
    assert "USER 10001:10001" in files["Containerfile"] and 'ENTRYPOINT ["hospital"]' in files["Containerfile"]
    with pytest.raises(SettingsError, match="do not run as root"):
        container_files(tmp_path, 0, tmp_path)


def test_services_are_asked_where_they_listen_by_default() -> None:
    for service in SERVICES:
        options = _parser().parse_args(service.command.split())
        if service.answers.startswith(("http", "tcp")):
            assert (
                f"127.0.0.1:{options.port}" in service.answers and getattr(options, "host", "127.0.0.1") == "127.0.0.1"
            )


def test_a_health_check_fails_exactly_where_nothing_answers(tmp_path: Path) -> None:
    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/healthz" else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with tempfile.TemporaryDirectory(prefix="hospital-") as folder, HTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        path, port, unused = Path(folder) / "code.sock", server.server_address[1], free_port()
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
            listening.listen()
            expected = {
                f"http://127.0.0.1:{port}/healthz": True,
                f"http://127.0.0.1:{port}/readyz": False,
                f"http://127.0.0.1:{unused}/healthz": False,
                f"tcp:127.0.0.1:{port}": True,
                f"tcp:127.0.0.1:{unused}": False,
                f"unix:{path}": True,
                f"unix:{path}.not": False,
            }
            for answers, is_well in expected.items():
                line = health_of(replace(SERVICES[0], answers=answers))
                asked = subprocess.run([sys.executable, "-c", line], capture_output=True)
                assert (asked.returncode == 0) is is_well, answers
        server.shutdown()


def test_deploy_containers_writes_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--data-dir", str(tmp_path / "data"), "deploy", "containers", "--into", str(tmp_path / "built")]
    assert main([*command, "--with", "watch"]) == 0
    assert {path.name for path in (tmp_path / "built").iterdir()} == {"Containerfile", "compose.yaml"}
    services = yaml.safe_load((tmp_path / "built" / "compose.yaml").read_text())["services"]
    assert "watch" in services and "hl7" not in services
    assert "belong to user 10001 alone" in capsys.readouterr().out
    assert main([*command, "--user", "0"]) == 2


# Dagster's processes -----------------------------------------------------------------------------------


def test_a_path_too_long_for_a_socket_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=CODE_SOCKET):
        code_socket(Settings(tmp_path / ("x" * 100)))
    monkeypatch.setenv(CODE_SOCKET, "/run/hospital-code/code.sock")
    assert code_socket(Settings(tmp_path / ("x" * 100))) == Path("/run/hospital-code/code.sock")


@pytest.mark.slow
def test_each_process_may_be_killed_and_started_again(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "data")
    write_settings(settings)
    folder = tempfile.TemporaryDirectory(prefix="hospital-")  # short, as the name of a socket must be
    at = Path(folder.name) / "code.sock"
    environment = {**os.environ, CODE_SOCKET: str(at)}
    port = free_port()

    def running(*words: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
        command = hospital(settings.data_dir, "dagster", *words)
        return started(command, env=environment, start_new_session=True)

    def answer(query: str) -> str:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/graphql",
            json.dumps({"query": query}).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as found:  # noqa: S310
                return str(found.read().decode())
        except OSError:
            return ""

    reloaded = 'mutation { reloadRepositoryLocation(repositoryLocationName: "hospital_assets") { __typename } }'
    healthy = "{ instance { daemonHealth { allDaemonStatuses { daemonType healthy } } } }"
    launched = (
        'mutation { launchRun(executionParams: { selector: { repositoryLocationName: "hospital_assets", '
        'repositoryName: "__repository__", jobName: "quality_page" } }) { __typename } }'
    )

    def statuses() -> set[dg.DagsterRunStatus]:
        with dagster_instance(settings) as instance:
            return {run.status for run in instance.get_runs(dg.RunsFilter(job_name="quality_page"))}

    known = "{ repositoriesOrError { ... on RepositoryConnection { nodes { sensors { name } } } } }"
    try:
        # A run waits for who has the warehouse.
        with running("webserver", "--port", str(port)), running("daemon"), open_warehouse(settings.warehouse_file):
            with running("code"):
                until(lambda: "vitals_files" in answer(known))
                until(lambda: '"healthy":true' in answer(healthy).replace(" ", ""))
                assert "LaunchRunSuccess" in answer(launched)
                until(lambda: statuses() == {dg.DagsterRunStatus.STARTED})
            # Killed: another takes its place at the same socket, which the killed one left behind.
            with running("code"):
                until(lambda: "WorkspaceLocationEntry" in answer(reloaded) and "vitals_files" in answer(known))
                # Its run would have held up all others for two hours.
                assert statuses() == {dg.DagsterRunStatus.FAILURE}
    finally:
        folder.cleanup()


# The doctor --------------------------------------------------------------------------------------------


@pytest.fixture
def sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A directory with nothing wrong but that nobody is at work and a test may run as root."""
    monkeypatch.setenv("HOSPITAL_PSEUDONYM_KEY_FILE", str(tmp_path / "key"))
    settings = Settings(tmp_path / "data")
    settings.data_dir.mkdir(mode=0o700)
    write_settings(settings)
    settings.settings_file.chmod(0o600)
    assert main(["--data-dir", str(settings.data_dir), "key", "create"]) == 0
    with open_warehouse(settings.warehouse_file):
        pass
    for path in settings.data_dir.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return settings


def found(settings: Settings, *certificates: Path) -> dict[str, list[doctor.Finding]]:
    by_subject: dict[str, list[doctor.Finding]] = {}
    for finding in doctor.examine(settings, EngineSettings(), lambda: NOW, certificates):
        by_subject.setdefault(finding.subject, []).append(finding)
    return by_subject


def test_nothing_is_wrong_with_a_sound_directory(sound: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    findings = [finding for of in found(sound).values() for finding in of]
    assert {f.subject for f in findings if f.level != "ok"} <= {"user", "at work", "clock", "backups"}
    assert all(finding.remedy for finding in findings if finding.level == "warning")
    assert main(["--data-dir", str(sound.data_dir), "doctor"]) == 0
    assert f"0 of {len(CONTRACTS)} tables" in capsys.readouterr().out


def write(name: str, text: str) -> Callable[[Settings], None]:
    return lambda settings: (settings.data_dir / name).write_text(text) and None  # type: ignore[func-returns-value]


def land_from_tomorrow(settings: Settings) -> None:
    path = settings.landing / "native" / "vitals" / "a.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    ahead = (NOW + timedelta(days=1)).timestamp()
    os.utime(path, (ahead, ahead))


def truncate(settings: Settings) -> None:
    settings.warehouse_file.write_bytes(settings.warehouse_file.read_bytes()[:5000])


def begin_an_erasure(settings: Settings) -> None:
    def cut_off(_: bool) -> list[str]:
        raise KeyboardInterrupt

    person = Person(("P-815",), (), ())
    with contextlib.suppress(KeyboardInterrupt):
        erase_person(settings, Erasure(person, "abc", was_published=False), cut_off)


FAULTS: dict[str, tuple[str, str, Callable[[Settings], object]]] = {
    "no directory": ("directory", "not there", lambda settings: shutil.rmtree(settings.data_dir)),
    "open to others": ("directory", "open to others", lambda settings: settings.data_dir.chmod(0o755)),
    "a policy that is none": ("configuration", "policy.toml", write("policy.toml", "version = ")),
    "alerts that are none": ("configuration", "alerts.toml", write("alerts.toml", "x = [")),
    "a file of tomorrow": ("clock", "1 landed files", land_from_tomorrow),
    "a key others can read": (
        "keys",
        "others can read",
        lambda settings: (settings.data_dir.parent / "key").chmod(0o644),
    ),
    "no key": ("keys", "no secret key", lambda settings: (settings.data_dir.parent / "key").unlink()),
    "an erasure that was cut off": ("erasures", "1 were begun and are not done: abc", begin_an_erasure),
    "a torn warehouse": ("warehouse", "hospital.duckdb", truncate),
    "no warehouse": ("warehouse", "nothing is built", lambda settings: settings.warehouse_file.unlink()),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named_with_a_remedy(fault: str, sound: Settings) -> None:
    subject, words, plant = FAULTS[fault]
    plant(sound)
    wrong = [finding for finding in found(sound)[subject] if finding.level != "ok"]
    assert any(words in finding.what for finding in wrong), wrong


def test_an_identity_provider_that_cannot_be_set_up_is_named(sound: Settings) -> None:
    identity = IdentitySettings("https://login.example.org", "dashboard", "https://ed.example.org", (("ED", "docter"),))
    wrong = [f for f in found(replace(sound, identity=identity))["configuration"] if f.level == "error"]
    assert len(wrong) == 1 and "identity.roles: 'ED' = 'docter'" in wrong[0].what
    right = replace(identity, roles=(("ED", "admin"),))
    assert "identity provider" in found(replace(sound, identity=right))["configuration"][0].what


def test_what_the_machine_lacks_is_named(sound: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0" if name == "duckdb" else real(name))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))  # type: ignore[attr-defined]
    monkeypatch.setattr(doctor, "_file_system", lambda _: "nfs4")
    wrong = {subject: of[0] for subject, of in found(sound).items() if of[0].level == "error"}
    assert set(wrong) == {"packages", "disk", "directory"}
    assert "duckdb is 1.0" in wrong["packages"].what and "nfs4" in wrong["directory"].what


def test_certificates_are_looked_at_before_they_end(sound: Settings, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    levels = {}
    for days in (5, 100):
        file = tmp_path / f"{days}.pem"
        made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-days", str(days)]
        subprocess.run([*made, "-out", str(file), "-keyout", str(tmp_path / "k")], check=True, capture_output=True)
        findings = doctor.examine(sound, EngineSettings(), lambda: datetime.now(UTC), (file,))
        levels[days] = next(finding.level for finding in findings if finding.subject == "certificates")
    assert levels == {5: "warning", 100: "ok"}
    (tmp_path / "none.pem").write_text("none")
    assert [f.level for f in found(sound, tmp_path / "none.pem", tmp_path / "absent")["certificates"]] == ["error"] * 2


def test_the_doctor_goes_on_where_a_look_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("postgresql://ada:planted-secret@db/dagster")

    monkeypatch.setattr(doctor, "_at_work", broken)
    found = {finding.subject: finding for finding in doctor.examine(Settings(tmp_path), EngineSettings(), lambda: NOW)}
    assert found["at work"].level == "error" and "RuntimeError" in found["at work"].what
    assert "planted" not in str(found.values()) and len(found) > 5


# The document ------------------------------------------------------------------------------------------

DOCS = Path(__file__).parents[1] / "docs"
DAY = (DOCS / "operations.md").read_text("utf-8").partition("## A day in operation")[2].partition("\n## ")[0]


def test_the_day_is_that_of_the_definitions(tmp_path: Path) -> None:
    settings = Settings(tmp_path, mirror=MirrorSettings("mirror"))
    definitions = build_definitions(settings)
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|", DAY, re.MULTILINE))
    for schedule in definitions.schedules or ():
        minute, hour, *_ = schedule.cron_schedule.split()
        when = f"minute {minute} of each hour" if hour == "*" else f"{hour}:{int(minute):02d}"
        assert f"`{schedule.job_name}`" in rows[when], schedule.name
    intervals = {sensor.name: sensor.minimum_interval_seconds for sensor in definitions.sensors or ()}
    stated = {
        "vitals_files": "every {} s, at once",
        "publications": "every {} s after a build",
        "sources": "every {} s",
    }
    for name, words in stated.items():
        assert any(when.startswith(words.format(intervals[name])) for when in rows), name


@pytest.mark.slow
def test_what_a_person_looks_at_in_the_morning_runs_and_changes_nothing(
    built: tuple[Settings, BuildReport],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    settings = replace(built[0], data_dir=tmp_path / "data", backup=BackupSettings(str(tmp_path / "backups")))
    shutil.copytree(built[0].data_dir, settings.data_dir, copy_function=shutil.copy2)
    write_settings(settings)
    assert main(["--data-dir", str(settings.data_dir), "backup", "create"]) == 0
    (block,) = re.findall("```sh\n(.*?)```", DAY, re.DOTALL)
    before = settings.warehouse_file.read_bytes()
    said = {}
    for line in block.splitlines():
        command = shlex.split(line, comments=True)
        capfd.readouterr()
        code = main(["--data-dir", str(settings.data_dir), *command[1:]])
        said[" ".join(command[1:])] = capfd.readouterr().out
        # The doctor and the checks say by it that something is wrong, which it may be on this machine.
        assert code in ((0, 1) if command[1] in ("doctor", "check") else (0,)), line
    assert settings.warehouse_file.read_bytes() == before
    assert "at work" in said["status"] and "warehouse" in said["doctor"] and "MB" in said["backup list"]
    assert len(said) == 7 and all(said.values())


def options_of(words: list[str]) -> tuple[list[str], set[str]]:
    """Of a command line, the commands that there are, and the options of the last."""
    parser, found = _parser(), []
    while words:
        choices = [a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        if not choices or words[0] not in choices[0]:
            break
        parser = choices[0][words[0]]
        found.append(words.pop(0))
    return found, {option for action in parser._actions for option in action.option_strings}


@pytest.mark.parametrize("name", ["operations.md", "monitoring.md", "incidents.md", "identity.md"])
def test_every_command_and_option_of_the_document_is_one_that_there_is(name: str) -> None:
    text = (DOCS / name).read_text("utf-8")
    blocks = re.findall("```.*?\n(.*?)```", text, re.DOTALL)
    inline = re.findall("`([^`]+)`", re.sub("```.*?```", "", text, flags=re.DOTALL))
    lines = [line for block in blocks for line in block.splitlines()] + [code.replace("\n", " ") for code in inline]
    commands = [found for line in lines for found in re.findall(r"(?:^|bin/|as_)hospital ([^#;&|\"]+)", line)]
    for command in commands:
        words = re.sub(r"^--data-dir \S+ ", "", command).split()
        if "/" in words[0]:  # several, as in `backup create|verify`
            continue
        found, options = options_of(words)
        assert found, f"{name}: hospital {command}"
        assert {word for word in words if word.startswith("--")} <= options, f"{name}: hospital {command}"
    assert len(commands) > 5
