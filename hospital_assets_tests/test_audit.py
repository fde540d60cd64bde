"""The audit: append-only, chained, its end written down outside; whole under many writers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
import requests

from hospital_assets.access.anchors import Anchor
from hospital_assets.access.audit import (
    MOST_STATEMENT_CHARACTERS,
    AuditError,
    AuditLog,
    Event,
    about,
    make_key,
    note_key,
    record,
)
from hospital_assets.assets.resources import AuditResource
from hospital_assets.cli import main
from hospital_assets.contracts import CONTRACTS
from hospital_assets.publishing.pseudonyms import key_file, load_key
from hospital_assets.settings import Settings, SettingsError


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AuditLog:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOSPITAL_DATA_DIR", str(tmp_path / "data"))
    log = AuditLog(Settings(tmp_path / "data"))
    for number in range(10):
        log.append(
            Event(
                "ann",
                "query",
                "analyst",
                statement=f"select {number}",
                row_count=number,
                objects={"kpis.kpi_waits": ["wait_count"]},
            )
        )
    return log


def tampered(log: AuditLog, *statements: str) -> tuple[str, ...]:
    with contextlib.closing(sqlite3.connect(log.file)) as connection:
        for trigger in ("entries_are_not_changed", "entries_are_not_deleted"):
            connection.execute(f"drop trigger {trigger}")
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return log.verify().problems


def test_what_was_written_is_read_again(log: AuditLog) -> None:
    assert log.verify().problems == () and log.verify().entries == 10
    entries = log.entries("actor = ?", ("ann",))
    assert entries.height == 10 and entries["row_count"].to_list() == list(range(10))
    assert json.loads(entries["objects"][0]) == {"kpis.kpi_waits": ["wait_count"]}


def test_entries_cannot_be_changed_by_accident(log: AuditLog) -> None:
    with contextlib.closing(sqlite3.connect(log.file)) as connection:
        for statement in ("update entries set actor = 'bob'", "delete from entries"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(statement)


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("update entries set actor = 'bob' where sequence_number = 4", "entry 4 is not what"),
        ("update entries set objects = '{}' where sequence_number = 10", "entry 10 is not what"),
        ("update entries set occurred_at = '2020' where sequence_number = 1", "entry 1 is not what"),
        ("delete from entries where sequence_number = 5", "entries 5 to 5 are missing"),
        ("delete from entries where sequence_number > 7", "its end was cut off"),
        ("delete from entries", "its end was cut off"),
        ("update log set log_id = 'x'", "is missing, so"),
        (
            "update entries set sequence_number = case sequence_number when 3 then 4 else 3 end, "
            "mac = mac where sequence_number in (3, 4)",
            "is not what",
        ),
    ],
)
def test_tampering_shows(log: AuditLog, statement: str, says: str) -> None:
    if "case" in statement:
        statements = (
            "update entries set sequence_number = 99 where sequence_number = 3",
            "update entries set sequence_number = 3 where sequence_number = 4",
            "update entries set sequence_number = 4 where sequence_number = 99",
        )
    else:
        statements = (statement,)
    assert any(says in problem for problem in tampered(log, *statements))


def test_a_log_that_was_replaced_shows(log: AuditLog, tmp_path: Path) -> None:
    settings = Settings(tmp_path / "data")
    log.close()
    for path in log.file.parent.iterdir():
        path.unlink()
    fresh = AuditLog(settings)
    fresh.append(Event("ann", "query"))
    fresh.append(Event("ann", "query"))
    assert any("replaced" in problem for problem in fresh.verify().problems)


def own_anchor(log: AuditLog) -> Path:
    return log.anchors.file_of(log.log_id)


def cut(log: AuditLog, number: int) -> None:
    """Cut the log's end behind an entry, as somebody who can write the file does."""
    tampered(log, f"delete from entries where sequence_number > {number}")


def moved(settings: Settings) -> Settings:
    settings.data_dir.rename(settings.data_dir.with_name("moved"))
    return Settings(settings.data_dir.with_name("moved"))


def delete_log(settings: Settings) -> None:
    for path in (settings.data_dir / "audit").iterdir():
        path.unlink()


ATTACKS: dict[str, tuple[Callable[[AuditLog, Settings], object], str]] = {
    "last entry cut": (lambda log, _: cut(log, 9), "cut off"),
    "all entries cut": (lambda log, _: cut(log, 0), "cut off"),
    "anchor missing": (lambda log, _: own_anchor(log).unlink(), "missing"),
    "anchor empty": (lambda log, _: own_anchor(log).write_text(""), "not what was written"),
    "anchor no JSON object": (lambda log, _: own_anchor(log).write_text("[1]"), "not what was written"),
    "anchor edited": (
        lambda log, _: own_anchor(log).write_text(own_anchor(log).read_text().replace(": 10,", ": 3,")),
        "not what was written",
    ),
    "end and anchor cut": (lambda log, _: (cut(log, 9), own_anchor(log).unlink()), "cut off"),
    "log deleted": (lambda _, settings: delete_log(settings), "replaced"),
    "log and anchor deleted": (lambda log, settings: (delete_log(settings), own_anchor(log).unlink()), "replaced"),
    "witness edited": (
        lambda _, settings: (settings.data_dir / "access" / "audit-anchor.json").write_text("{}"),
        "not what was written",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("is_moved", [False, True])
def test_what_hides_entries_is_found_at_the_next_append(
    log: AuditLog, tmp_path: Path, attack: str, is_moved: bool
) -> None:
    settings = Settings(tmp_path / "data")
    act, words = ATTACKS[attack]
    act(log, settings)
    log.close()
    if is_moved:
        settings = moved(settings)
    with contextlib.closing(AuditLog(settings)) as found:
        assert any(words in problem for problem in found.verify().problems)
        found.append(Event("ann", "query"))
        found.append(Event("ann", "query"))
        finding = found.entries("action = 'audit'")
        assert finding.height == 1 and words in finding["reason"][0] and finding["outcome"][0] == "failed"
        # It stays found until somebody says why, and is found anew when that is cut off, too.
        assert any(words in problem for problem in found.verify().problems)
        found.accept("restored from a backup", "os:root")
        found.append(Event("ann", "query"))
        assert found.verify().problems == ()
        last = found.entries().height
        cut(found, last - 3)
        assert found.verify().problems


def test_an_old_anchor_is_found(log: AuditLog) -> None:
    old = own_anchor(log).read_bytes()
    log.append(Event("ann", "query"))
    own_anchor(log).write_bytes(old)
    assert any("is old" in problem for problem in log.verify().problems)
    log.append(Event("ann", "query"))
    assert log.entries("action = 'audit'").height == 1


def test_an_open_log_notices_a_cut(log: AuditLog) -> None:
    cut(log, 5)
    log.append(Event("ann", "query"))
    assert "cut off" in log.entries("action = 'audit'")["reason"][0]


def test_a_process_that_died_before_its_commit_has_hidden_nothing(
    log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce = log.anchors.announce

    def dies(anchor: Anchor) -> None:
        announce(anchor)
        raise sqlite3.OperationalError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(log.anchors, "announce", dies)
        with pytest.raises(AuditError):
            log.append(Event("ann", "query"))
    assert log.verify().problems == ()
    log.append(Event("ann", "query"))
    assert log.verify().problems == () and log.entries("action = 'audit'").height == 0


def test_two_folders_of_keys_take_turns(log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a gateway in a container, which is given the key by its environment."""
    monkeypatch.setenv("HOSPITAL_AUDIT_KEY", (tmp_path / "config" / "hospital_assets" / "audit.key").read_text())
    settings = Settings(tmp_path / "data")
    own = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "other")}
    with contextlib.closing(AuditLog(settings, own)) as other:
        for _ in range(2):
            other.append(Event("ann", "query"))
            log.append(Event("ann", "query"))
        assert log.verify().problems == () and other.verify().problems == ()
        other.append(Event("ann", "query"))
        cut(log, 13)
        log.append(Event("ann", "query"))
    assert "cut off" in log.entries("action = 'audit'")["reason"][0]


def test_a_renamed_directory_has_the_same_log(log: AuditLog, tmp_path: Path) -> None:
    log.close()
    with contextlib.closing(AuditLog(moved(Settings(tmp_path / "data")))) as log:
        assert log.verify().problems == ()
        log.append(Event("ann", "query"))
        assert log.verify().problems == () and log.entries("action = 'audit'").height == 0


def test_a_copy_says_that_it_is_one(log: AuditLog, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    with contextlib.closing(AuditLog(Settings(tmp_path / "copy"))) as copy:
        copy.append(Event("ann", "query"))
        assert "is a copy of" in copy.entries("action = 'audit'")["reason"][0]
        copy.accept("a copy to try things with", "os:root")
        assert copy.verify().problems == ()
    log.append(Event("ann", "query"))
    assert log.verify().problems == ()


def test_a_second_place_knows_when_all_else_is_gone(
    log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "elsewhere.jsonl"
    monkeypatch.setenv("HOSPITAL_AUDIT_ANCHORS", f"file:{place}")
    settings = Settings(tmp_path / "data")
    with contextlib.closing(AuditLog(settings)) as log:
        for _ in range(3):
            log.append(Event("ann", "query"))
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    shutil.rmtree(settings.data_dir)
    for path in (tmp_path / "config" / "hospital_assets").glob("audit-*"):
        path.unlink()
    with contextlib.closing(AuditLog(settings)) as log:
        assert any("replaced" in problem for problem in log.verify().problems)
        log.append(Event("ann", "query"))
        assert log.entries("action = 'audit'").height == 1
    counters = [json.loads(line)["counter"] for line in place.read_text().splitlines()]
    assert counters == sorted(set(counters)) and len(counters) == 4


def test_a_second_place_across_the_network(
    log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sent = []

    def post(url: str, *, allow_redirects: bool, **_: object) -> object:
        sent.append((url, allow_redirects))
        return type("Answer", (), {"status_code": 302})()

    monkeypatch.setattr(requests, "post", post)
    monkeypatch.setenv("HOSPITAL_AUDIT_ANCHORS", "https://anchors.example/secret, syslog:127.0.0.1:9")
    with contextlib.closing(AuditLog(Settings(tmp_path / "data"))) as log:
        log.append(Event("ann", "query"))
        log.append(Event("ann", "query"))
        assert log.verify().problems == ()
    assert sent == [("https://anchors.example/secret", False)]
    assert "second place" in caplog.text and "secret" not in caplog.text
    monkeypatch.setenv("HOSPITAL_AUDIT_ANCHORS", "carrier-pigeon")
    with pytest.raises(SettingsError, match="file:PATH"):
        AuditLog(Settings(tmp_path / "data"))


def test_another_key_does_not_verify(log: AuditLog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOSPITAL_AUDIT_KEY", "ab" * 32)
    other = AuditLog(Settings(tmp_path / "data"))
    assert len([problem for problem in other.verify().problems if problem.startswith("entry")]) == 10
    monkeypatch.setenv("HOSPITAL_AUDIT_KEY", "short")
    with pytest.raises(AuditError, match="64 hex digits"):
        AuditLog(Settings(tmp_path / "data"))


def test_long_statements_are_cut(log: AuditLog) -> None:
    log.append(Event("ann", "query", statement="x" * 100_000))
    last = log.entries().tail(1)
    assert len(last["statement"][0]) == MOST_STATEMENT_CHARACTERS
    assert log.verify().problems == ()


WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from hospital_assets.access.audit import AuditLog, Event
from hospital_assets.assets.resources import AuditResource
from hospital_assets.settings import Settings
log = AuditLog(Settings(Path(sys.argv[1])))
for n in range(25):
    log.append(Event("writer-" + sys.argv[2], "query", statement=str(n)))
"""


@pytest.mark.slow
def test_many_writers_make_one_chain(log: AuditLog, tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "data"), str(n)]) for n in range(3)]
    assert [writer.wait(timeout=300) for writer in writers] == [0, 0, 0]
    assert log.verify() == log.verify() and log.verify().problems == ()
    assert log.entries().height == 10 + 75


def test_the_audit_is_an_asset(log: AuditLog, tmp_path: Path) -> None:
    def entries(data_dir: Path) -> pl.DataFrame:
        return AuditResource(data_dir=str(data_dir)).entries().rename({"reason": "outcome_reason"})

    found = entries(tmp_path / "data")
    contract = CONTRACTS["fact_audit_events"]
    assert found.select(contract.column_names).schema == contract.polars_schema
    none = entries(tmp_path / "other")
    assert none.select(contract.column_names).schema == contract.polars_schema
    assert not (tmp_path / "other").exists()
    assert isinstance(found, pl.DataFrame)


def test_the_wall_clock_of_the_audit_is_not_the_hospitals() -> None:
    """Simulated days may be long over when somebody publishes them; that is no event in the future."""
    from hospital_assets.checks import kinds
    from hospital_assets.checks.declared import resolved_rules

    rules = resolved_rules(CONTRACTS["fact_audit_events"], datetime(2026, 3, 1, tzinfo=UTC))
    assert rules and all(rule.kind is not kinds.NOT_IN_FUTURE for rule in rules)


def test_the_command_lists_and_verifies(log: AuditLog, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--actor", "ann", "--table", "kpis.kpi_waits", "--last", "3"]) == 0
    assert "select 9" in capsys.readouterr().out
    assert main(["audit", "verify"]) == 0
    assert "10 entries, whole" in capsys.readouterr().out
    tampered(log, "update entries set actor = 'bob' where sequence_number = 4")
    assert main(["audit", "verify"]) == 1
    assert "entry 4" in capsys.readouterr().err
    assert main(["audit", "accept"]) == 2 and "--reason" in capsys.readouterr().err
    assert main(["audit", "accept", "--reason", "a drill"]) == 0


def test_the_list_says_what_each_entry_was_about(log: AuditLog, capsys: pytest.CaptureFixture[str]) -> None:
    for event in (
        Event("os:root", "user", statement="add ann"),
        Event("os:root", "restore", statement="fact_vitals 2026-03-01"),
        Event("os:root", "erase", statement="person 0123456789abcdef"),
        Event("os:root", "key", version="k1", statement="create the pseudonym key"),
        Event("os:root", "publish", audience="doctor-H1", version="20260301T000000", statement='{"policy_sha256": ""}'),
        Event("ann", "acknowledge", statement="acknowledge live.V000001"),
        Event("ann", "login", audience="analyst"),
    ):
        log.append(event)
    assert main(["audit", "--last", "7"]) == 0
    listed = capsys.readouterr().out
    for said in ("add ann", "fact_vitals 2026-03-01", "person 0123456789abcdef", "create the pseudonym key k1"):
        assert said in listed
    assert "doctor-H1 20260301T000000" in listed and "policy_sha256" not in listed
    assert [about(row) for row in log.entries().tail(2).to_dicts()] == ["acknowledge live.V000001", "analyst"]


def test_threads_of_a_server_share_a_log(log: AuditLog) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: log.append(Event("ann", "query", statement=str(n))), range(40)))
    assert log.verify().problems == () and log.verify().entries == 50


def test_a_key_that_cannot_be_audited_is_not_left_behind(
    log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> int:
        raise AuditError("the disk is full")

    settings = Settings(tmp_path / "data")
    monkeypatch.setattr(AuditLog, "append", broken)
    with pytest.raises(AuditError):
        make_key(settings, "os:root")
    assert not key_file().exists()


def test_what_cannot_be_audited_raises(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("a file where a folder should be")
    with pytest.raises((AuditError, OSError)):
        record(Settings(tmp_path), Event("ann", "query"))


def test_keys_that_are_made_or_changed_are_audited(
    log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(tmp_path / "data")
    assert main(["key", "create"]) == 0
    assert main(["key", "create"]) == 2
    made = load_key(settings).key_id
    assert not note_key(settings, made)
    # Nobody told us of this one.
    monkeypatch.setenv("HOSPITAL_PSEUDONYM_KEY", "cd" * 32)
    other = load_key(settings).key_id
    assert note_key(settings, other) and not note_key(settings, other)
    entries = log.entries("action = 'key'")
    assert entries["version"].to_list() == [made, "", other]
    assert entries["outcome"].to_list() == ["allowed", "refused", "allowed"]
    assert made in entries["statement"][2] and "cd" * 32 not in str(entries.to_dicts())
    assert log.verify().problems == ()
