"""What processes write about their work, as JSON where that is asked for."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hospital_assets.automation import watch
from hospital_assets.automation.loading import Step
from hospital_assets.automation.processes import command_of
from hospital_assets.cli import main
from hospital_assets.logs import LOG_FORMAT, JsonFormatter, is_json, start_logging, teller
from hospital_assets.settings import Settings, write_settings
from hospital_assets_tests.processes import free_port, hospital

SECRET = "Doe, Jane 4711"  # noqa: S105


def lines(code: str, form: str = "json") -> list[str]:
    """What a process writes on standard error."""
    environment = {**os.environ, LOG_FORMAT: form}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout == ""
    return done.stderr.splitlines()


@given(message=st.text(), name=st.text(min_size=1))
def test_a_record_is_one_line_whatever_it_holds(message: str, name: str) -> None:
    record = logging.LogRecord(name, logging.WARNING, "", 0, "%s", (message,), None)
    line = JsonFormatter().format(record)
    assert len(line.splitlines()) == 1
    found = json.loads(line)
    assert (found["message"], found["logger"], found["level"]) == (message, name, "WARNING")
    assert abs(datetime.fromisoformat(found["time"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert found["time"].endswith("+00:00")


def test_an_exception_is_its_kinds_and_places_without_its_text() -> None:
    code = f"""
import logging
from hospital_assets.logs import start_logging
start_logging()
def read():
    int({SECRET!r})
try:
    try:
        read()
    except ValueError as error:
        raise RuntimeError({SECRET!r}) from error
except RuntimeError:
    logging.getLogger("hospital.x").exception("it failed")
import warnings; warnings.warn("old")
import threading; thread = threading.Thread(target=read); thread.start(); thread.join()
read()
"""
    caught, warned, in_thread, ended = (json.loads(line) for line in lines(code))
    assert caught["message"] == "it failed"
    assert [cause["type"] for cause in caught["exception"]] == ["RuntimeError", "ValueError"]
    assert "read (<string>:6)" in caught["exception"][1]["at"]
    assert (warned["logger"], warned["level"]) == ("py.warnings", "WARNING")
    for last in (in_thread, ended):
        assert (last["level"], last["exception"][0]["type"]) == ("CRITICAL", "ValueError")
    assert SECRET not in json.dumps([caught, in_thread, ended])


def test_libraries_say_what_goes_wrong_and_ours_what_they_do() -> None:
    code = """
import logging
from hospital_assets.logs import start_logging, teller
start_logging(); start_logging()
logging.getLogger("other").info("no"); logging.getLogger("other").warning("yes")
teller("hospital.watch")("loaded")
"""
    assert [(r["logger"], r["message"]) for r in map(json.loads, lines(code))] == [
        ("other", "yes"),
        ("hospital.watch", "loaded"),
    ]


def test_in_a_process_of_dagster_s_only_our_records_are_ours() -> None:
    code = """
import logging
from hospital_assets.logs import start_logging
start_logging("hospital", "hospital_assets")
logging.getLogger("dagster").addHandler(logging.NullHandler())
logging.getLogger("dagster").warning("theirs"); logging.getLogger("hospital.landing").warning("ours")
"""
    assert [json.loads(line)["message"] for line in lines(code)] == ["ours"]


def test_people_get_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LOG_FORMAT, raising=False)
    assert not start_logging()
    teller("hospital.watch", lambda line: f"12:00 {line}")("loaded")
    teller("hospital.watch", to=sys.stderr)("aside")
    assert capsys.readouterr() == ("12:00 loaded\n", "aside\n")


@pytest.mark.parametrize(("form", "is_shown"), [("json", False), ("text", True)])
def test_a_landed_file_s_name_is_for_people_only(form: str, is_shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Intake:
        def step(self, *_: object) -> Step:
            return Step(False, [f"native/vitals/{SECRET}.json"], [])

    monkeypatch.setenv(LOG_FORMAT, form)
    said: list[str] = []
    watch._step(Intake(), [], said.append)  # type: ignore[arg-type]
    assert "quarantined" in said[0] and "native" in said[0] and (SECRET in said[0]) is is_shown


def test_why_a_command_failed_is_a_record(tmp_path: Path) -> None:
    code = f"from hospital_assets.cli import main; main(['--data-dir', {str(tmp_path)!r}, 'publish'])"
    (line,) = lines(code)
    assert json.loads(line)["level"] == "ERROR" and "hospital build" in json.loads(line)["message"]


def test_a_format_that_there_is_not_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv(LOG_FORMAT, "xml")
    with pytest.raises(ValueError, match="must be text or json, not 'xml'"):
        is_json()
    assert main(["--data-dir", str(tmp_path), "status"]) == 2
    assert "text or json" in capsys.readouterr().err


@pytest.mark.parametrize("process", ["code", "daemon", "webserver"])
def test_dagster_s_processes_are_asked_for_json_too(
    process: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOG_FORMAT, "json")
    command = command_of(process, Settings(tmp_path), tmp_path / "s")  # type: ignore[arg-type]
    assert command[command.index("--log-format") + 1] == "json"
    monkeypatch.setenv(LOG_FORMAT, "text")
    assert "--log-format" not in command_of(process, Settings(tmp_path), tmp_path / "s")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["dashboard", "serve"])
def test_a_web_application_says_where_it_is_as_json(command: str, tmp_path: Path) -> None:
    settings = Settings(tmp_path / "data")
    write_settings(settings)
    port = str(free_port())
    arguments = hospital(settings.data_dir, command, "--port", port)
    environment = {**os.environ, LOG_FORMAT: "json", "XDG_CONFIG_HOME": str(tmp_path / "keys")}
    with subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as served:
        assert served.stderr is not None
        said = []
        for line in served.stderr:
            said.append(json.loads(line))
            if port in said[-1]["message"]:
                break
        served.terminate()
        rest, _ = served.stderr.read(), served.wait(timeout=60)
    assert said[-1]["logger"] == ("hospital.dashboard" if command == "dashboard" else "hospital.gateway")
    assert all(json.loads(line) for line in rest.splitlines())
