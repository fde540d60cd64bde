"""Erasing a person: out of the landed files record by record, out of everything made of them, proved."""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from dagster._daemon.types import DaemonHeartbeat
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from hospital_assets.access.audit import AuditLog
from hospital_assets.automation.instance import dagster_instance
from hospital_assets.automation.presence import at_work, watch_lock
from hospital_assets.cli import main
from hospital_assets.publishing.pseudonyms import SecretKey
from hospital_assets.recovery import erase
from hospital_assets.recovery.erase import (
    EraseError,
    Erasure,
    Person,
    erase_person,
    find_person,
    find_traces,
    plan_erasure,
    strip_landing,
    with_references,
)
from hospital_assets.settings import Settings, write_settings
from hospital_assets.warehouse.database import open_warehouse
from hospital_assets_tests.helpers import query, run

PERSON = Person(("P7", "P8"), ("V1",))


def landed(tmp_path: Path, name: str, text: str | bytes) -> tuple[Settings, Path]:
    settings = Settings(tmp_path)
    path = settings.landing / "native" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return settings, path


@pytest.mark.parametrize(
    ("name", "text", "left", "records"),
    [
        ("a.csv", "id,x\nP7,1\nP70,2\nXP7,3\nP8,4\n", "id,x\nP70,2\nXP7,3\n", 2),
        ("a.csv", 'id,x\nP1,"a\nP7 b"\nP2,"c"\n', 'id,x\nP2,"c"\n', 1),
        ("a.jsonl", '{"p": "P7"}\n{"p": "P9", "v": "V1"}\n{"p": "P9"}\n', '{"p": "P9"}\n', 2),
        ("a.jsonl", '{"p": "P7"}\n{"p": "P9"}', '{"p": "P9"}', 1),
        ("a.csv", "id,x\r\nP7,1\r\nP9,2\r\n", "id,x\r\nP9,2\r\n", 1),
    ],
)
def test_records_are_taken_out_and_others_stay(tmp_path: Path, name: str, text: str, left: str, records: int) -> None:
    settings, path = landed(tmp_path, name, text)
    (done,) = strip_landing(settings, PERSON)
    assert done.records == records and path.read_bytes() == left.encode()
    assert strip_landing(settings, PERSON) == []


HEAD = "MSH|^~\\&|A|B"


@pytest.mark.parametrize(("end", "start"), [("\r", ""), ("\n", ""), ("\r\n", ""), ("\x1c\r", "\x0b")])
def test_messages_are_taken_out_of_a_batch(tmp_path: Path, end: str, start: str) -> None:
    own = [f"{start}{HEAD}|{n}\rPID|1||{n}\rOBX|1|||MSH of P70{end}" for n in ("P1", "P7", "P2", "P8")]
    batch = "FHS|^~\\&\rBHS|^~\\&\r{}BTS|{}|all\rFTS|1\r"
    settings, path = landed(tmp_path, "a.hl7", batch.format("".join(own), 4))
    (done,) = strip_landing(settings, PERSON)
    left = batch.format(own[0] + own[2], 2)
    assert done.records == 2 and path.read_bytes() == left.encode()


def entry(kind: str, number: str, **members: object) -> str:
    resource = {"resourceType": kind, "id": number, **members}
    return json.dumps({"fullUrl": f"urn:uuid:{kind}-{number}", "resource": resource}, indent=1)


def test_entries_are_taken_out_of_a_bundle_with_what_refers_to_them(tmp_path: Path) -> None:
    theirs = [
        entry("Patient", "17", identifier=[{"value": "P7"}]),
        entry("Encounter", "e-1", subject={"reference": "Patient/17"}),
        entry("Observation", "o", encounter={"reference": "urn:uuid:Encounter-e-1"}),
    ]
    others = [
        entry("Patient", "17-2", identifier=[{"value": "P70"}], name='Bj\u00f8rn, \\"x\\" ]}'),
        entry("Observation", "o2", subject={"reference": "Patient/17-2"}),
    ]
    both = [theirs[0], others[0], theirs[1], theirs[2], others[1]]
    text = '{ "resourceType": "Bundle", "type": "batch",\n "entry" : [ %s ] , "id": "x"}'
    settings, path = landed(tmp_path, "a.json", text % " ,\n".join(both))
    # Bulk export: what refers to the patient stands in a file of its own.
    lines = '{{"resourceType":"Observation","id":"{}","subject":{{"reference":"Patient/{}"}}}}\n'
    _, other = landed(tmp_path, "b.ndjson", lines.format("a", "17") + lines.format("b", "17-2"))
    person = with_references(settings, PERSON)
    assert set(person.references) == {"Patient/17", "urn:uuid:Patient-17", "Encounter/e-1", "urn:uuid:Encounter-e-1"}
    taken = {done.file: done.records for done in strip_landing(settings, person)}
    assert taken == {"native/a.json": 3, "native/b.ndjson": 1}
    assert path.read_text() == text % " ,\n".join(others)
    assert other.read_text() == lines.format("b", "17-2")
    assert strip_landing(settings, person) == []


@settings_of_hypothesis(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.text('aé"\\]}{,[ \n', max_size=6)), min_size=1, max_size=6),
    st.sampled_from(["[%s]", " [\n%s\n]\n", '{"resourceType":"Bundle","entry":[%s],"z":[1]}']),
    st.sampled_from([",", " ,\n"]),
)
def test_what_is_kept_of_an_array_is_kept_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, elements: list[tuple[bool, str]], text: str, separator: str
) -> None:
    said = [(own, json.dumps({"p": "P7" if own else "P70", "t": t})) for own, t in elements]
    settings, path = landed(tmp_path_factory.mktemp("array"), "a.json", text % separator.join(e for _, e in said))
    strip_landing(settings, PERSON)
    kept = [e for own, e in said if not own]
    if not any(own for own, _ in said) or kept:
        assert path.read_text() == text % separator.join(kept)
    assert len(json.loads(path.read_text())) == len(json.loads(text % separator.join(kept)))


def test_packed_files_stay_packed(tmp_path: Path) -> None:
    settings, path = landed(tmp_path, "a.csv.gz", gzip.compress(b"id\nP7\nP9\n"))
    strip_landing(settings, PERSON)
    assert gzip.decompress(path.read_bytes()) == b"id\nP9\n"


@pytest.mark.parametrize(
    "text",
    [
        '{\n "patients": [\n  "P7"\n ]\n}\n',
        '["P7"]',
        "<p>P7</p>",
        '{"resourceType": "Bundle", "total": "P7", "entry": [{"a": 1}]}',
        '{"resourceType": "Group", "x": "P7", "member": [{"reference": "Patient/other"}]}\n',
    ],
)
def test_what_is_not_one_record_per_line_stops_everything(tmp_path: Path, text: str) -> None:
    settings, odd = landed(tmp_path, "odd.json", text)
    _, plain = landed(tmp_path, "a.csv", "id\nP7\n")
    with pytest.raises(EraseError, match=r"native/odd\.json"):
        strip_landing(settings, PERSON)
    assert odd.read_bytes() == text.encode() and plain.read_text() == "id\nP7\n"
    assert len(list(settings.landing.rglob("*"))) == 3


KEY = SecretKey(b"0123456789abcdef" * 2)


class Killed(BaseException):
    """The process ends here."""


def killed(*_: object, **__: object) -> None:
    raise Killed


def killed_at_the_second_file(monkeypatch: pytest.MonkeyPatch) -> None:
    replace, replaced = Path.replace, []

    def replace_once(path: Path, target: Path) -> Path:
        if path.name.endswith(".erasing"):
            if replaced:
                raise Killed
            replaced.append(target)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", replace_once)


KILLS = {
    "before the first file": lambda patch: patch.setattr(erase, "strip_landing", killed),
    "at the second file": killed_at_the_second_file,
    "before alerts": lambda patch: patch.setattr(erase, "delete_alerts", killed),
    "before what was derived": lambda patch: patch.setattr(erase, "delete_derived_files", killed),
    "at the proof": lambda patch: patch.setattr(erase, "find_traces", killed),
}


@pytest.fixture
def known(tmp_path: Path) -> tuple[Settings, Erasure]:
    """A directory in which what refers to a person stands in another file than who that is."""
    patient = entry("Patient", "17", identifier=[{"value": "P7"}])
    settings, _ = landed(tmp_path / "data", "a.json", f"[{patient}]")
    line = '{"resourceType":"Observation","id":"o","subject":{"reference":"Patient/17"}}\n'
    landed(tmp_path / "data", "b.ndjson", line + line.replace("17", "18"))
    for folder in ("warehouse", "snapshots/x", "published/admin", "reports", "lake/facts", "live_vitals"):
        (settings.data_dir / folder).mkdir(parents=True)
        (settings.data_dir / folder / "part.json").write_text("P7")
    return settings, Erasure(with_references(settings, PERSON), "abc", was_published=True)


def built_anew(settings: Settings, calls: list[bool]) -> Callable[[bool], list[str]]:
    def rebuild(publishing: bool) -> list[str]:
        calls.append(publishing)
        with open_warehouse(settings.warehouse_file):
            return []

    return rebuild


@pytest.mark.parametrize("kill", [*KILLS, "while it builds"])
def test_an_erasure_that_was_interrupted_is_run_again_to_its_end(
    known: tuple[Settings, Erasure], monkeypatch: pytest.MonkeyPatch, kill: str
) -> None:
    settings, erasure = known
    published: list[bool] = []
    with monkeypatch.context() as patch:
        KILLS.get(kill, lambda _: None)(patch)
        with pytest.raises(Killed):
            erase_person(settings, erasure, killed if kill == "while it builds" else built_anew(settings, published))
    # Only the note knows, now, whose these are, and under any of their numbers.
    again = plan_erasure(settings, "P8", KEY)
    assert again.was_begun and again.was_published and again.hashed == erasure.hashed
    assert set(again.person.references) == {"Patient/17", "urn:uuid:Patient-17"}
    done = erase_person(settings, again, built_anew(settings, published))
    assert done.is_done and published[-1]
    left = "".join(path.read_text() for path in settings.landing.rglob("*") if path.is_file())
    assert "Patient/18" in left and "17" not in left and "P7" not in left
    assert not list(settings.data_dir.glob("erasures/*")) and not list(settings.landing.rglob(".*"))
    with contextlib.closing(AuditLog(settings)) as log:
        entries = log.entries("action = 'erase'")
    assert entries["outcome"].to_list() == ["allowed", "failed", "allowed", "allowed"]
    assert entries["statement"].unique().to_list() == ["person abc"]


def test_what_was_derived_is_gone_and_a_failed_build_is_not_the_end(known: tuple[Settings, Erasure]) -> None:
    settings, erasure = known
    failed = erase_person(settings, erasure, lambda publishing: ["a step"])
    assert not failed.is_done and failed.failures == ("a step",)
    assert not list(settings.data_dir.rglob("part.json"))
    with contextlib.closing(AuditLog(settings)) as log:
        ended = log.entries("action = 'erase'").to_dicts()[-1]
    assert (ended["outcome"], ended["reason"], ended["row_count"]) == ("failed", "the build failed", 2)
    note = next(settings.data_dir.glob("erasures/*.json"))
    assert note.stat().st_mode & 0o077 == 0
    assert erase_person(settings, plan_erasure(settings, "P7", KEY), built_anew(settings, [])).is_done


def test_a_lake_elsewhere_is_not_passed_over(
    known: tuple[Settings, Erasure], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, _ = known
    monkeypatch.setenv("HOSPITAL_LAKE", str(settings.data_dir.parent / "lake"))
    assert main(["--data-dir", str(settings.data_dir), "erase", "P7", "--yes"]) == 2
    assert "HOSPITAL_LAKE" in capsys.readouterr().err and list(settings.data_dir.rglob("part.json"))


def test_who_could_load_the_person_again_is_stopped_first(
    known: tuple[Settings, Erasure], capsys: pytest.CaptureFixture[str]
) -> None:
    settings, _ = known
    command = ["--data-dir", str(settings.data_dir), "erase", "P7", "--yes"]
    with watch_lock(settings) as is_ours:
        assert is_ours and main(command) == 2
    assert "hospital watch" in capsys.readouterr().err
    now = datetime.now(UTC)
    with dagster_instance(settings) as instance:
        instance.add_daemon_heartbeat(DaemonHeartbeat(now.timestamp(), "SENSOR", "here", None))
    assert main(command) == 2
    assert "Dagster's daemon" in capsys.readouterr().err and list(settings.data_dir.rglob("part.json"))
    assert at_work(settings, now + timedelta(minutes=2)) == []


def test_a_file_that_cannot_be_taken_apart_leaves_nothing_begun(known: tuple[Settings, Erasure]) -> None:
    settings, erasure = known
    landed(settings.data_dir, "odd.json", "<p>P7</p>")
    with pytest.raises(EraseError, match=r"native/odd\.json"):
        erase_person(settings, erasure, built_anew(settings, []))
    assert not list(settings.data_dir.glob("erasures/*")) and list(settings.data_dir.rglob("part.json"))
    with pytest.raises(EraseError, match="run `hospital build` first"):
        plan_erasure(settings, "P7", KEY)


@pytest.mark.slow
def test_a_person_is_gone_from_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hospital_assets.simulator import simulate

    first, last = date(2026, 3, 5), date(2026, 3, 6)
    settings = Settings(tmp_path / "data", first_service_date=first, last_service_date=last)
    simulate(settings.landing, tmp_path / "truth", start=first, days=2, scale=0.03, seed=7)
    write_settings(settings)
    monkeypatch.setenv("HOSPITAL_DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("HOSPITAL_PSEUDONYM_KEY", "ab" * 32)
    assert run(settings).succeeded
    assert main(["publish"]) == 0 and main(["snapshot"]) == 0
    (patient,) = query(
        settings,
        "select patient_id from facts.fact_emergency_visits join dimensions.dim_patient using "
        "(patient_key) where patient_key > 0 group by 1 order by count(*) desc, 1 limit 1",
    )["patient_id"]
    with open_warehouse(settings.warehouse_file) as warehouse:
        person = find_person(warehouse, patient)
        assert find_traces(warehouse, settings, person)  # they are everywhere
        visits = warehouse.connection.execute("select count(*) from facts.fact_emergency_visits")
        ((before,),) = visits.fetchall()
    assert main(["erase", "P-NOBODY"]) == 2
    assert main(["erase", patient]) == 0
    assert "Nothing was changed" in capsys.readouterr().out
    assert main(["erase", patient, "--yes"]) == 0
    assert "found nowhere any more" in capsys.readouterr().out
    with open_warehouse(settings.warehouse_file) as warehouse:
        assert find_traces(warehouse, settings, person) == []
        ((after,),) = warehouse.connection.execute("select count(*) from facts.fact_emergency_visits").fetchall()
    assert 0 < before - after <= len(person.visit_numbers)
    assert not (settings.data_dir / "snapshots").exists()
    with contextlib.closing(AuditLog(settings)) as log:
        entries = log.entries("action = 'erase'")
        assert entries["outcome"].to_list() == ["allowed"] * 2 and log.verify().problems == ()
        assert patient not in str(entries.to_dicts())
