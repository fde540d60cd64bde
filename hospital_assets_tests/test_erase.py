"""Erasing a person: out of the landed files record by record, out of everything made of them, proved."""

from __future__ import annotations

import contextlib
import gzip
from datetime import date
from pathlib import Path

import pytest

from hospital_assets.cli import main
from hospital_assets.governance.audit import AuditLog
from hospital_assets.governance.erase import EraseError, Person, find_person, prove, strip_landing
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
def test_records_are_taken_out_and_others_stay(
    tmp_path: Path, name: str, text: str, left: str, records: int
) -> None:
    settings, path = landed(tmp_path, name, text)
    (done,) = strip_landing(settings, PERSON)
    assert done.records == records and path.read_bytes() == left.encode()
    assert strip_landing(settings, PERSON) == []


def test_packed_files_stay_packed(tmp_path: Path) -> None:
    settings, path = landed(tmp_path, "a.csv.gz", gzip.compress(b"id\nP7\nP9\n"))
    strip_landing(settings, PERSON)
    assert gzip.decompress(path.read_bytes()) == b"id\nP9\n"


@pytest.mark.parametrize(
    "text",
    ['{\n "patients": [\n  "P7"\n ]\n}\n', '["P7"]', "MSH|^~\\&|\rPID|1||P7\r", "<p>P7</p>"],
)
def test_what_is_not_one_record_per_line_stops_everything(tmp_path: Path, text: str) -> None:
    settings, odd = landed(tmp_path, "odd.json", text)
    _, plain = landed(tmp_path, "a.csv", "id\nP7\n")
    with pytest.raises(EraseError, match=r"native/odd\.json"):
        strip_landing(settings, PERSON)
    assert odd.read_bytes() == text.encode() and plain.read_text() == "id\nP7\n"
    assert len(list(settings.landing.rglob("*"))) == 3


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
    assert main(["publish"]) == 0 and main(["keep"]) == 0
    (patient,) = query(
        settings,
        "select patient_id from facts.fact_emergency_visits join dimensions.dim_patient using "
        "(patient_key) where patient_key > 0 group by 1 order by count(*) desc, 1 limit 1",
    )["patient_id"]
    with open_warehouse(settings.warehouse_file) as warehouse:
        person = find_person(warehouse, patient)
        assert prove(warehouse, settings, person)  # they are everywhere
        visits = warehouse.connection.execute("select count(*) from facts.fact_emergency_visits")
        ((before,),) = visits.fetchall()
    assert main(["erase", "P-NOBODY"]) == 2
    assert main(["erase", patient]) == 0
    assert "Nothing was changed" in capsys.readouterr().out
    assert main(["erase", patient, "--yes"]) == 0
    assert "found nowhere any more" in capsys.readouterr().out
    with open_warehouse(settings.warehouse_file) as warehouse:
        assert prove(warehouse, settings, person) == []
        ((after,),) = warehouse.connection.execute(
            "select count(*) from facts.fact_emergency_visits"
        ).fetchall()
    assert 0 < before - after <= len(person.visit_numbers)
    assert not (settings.data_dir / "kept").exists()
    with contextlib.closing(AuditLog(settings)) as log:
        entries = log.entries("action = 'erase'")
        assert entries.height == 2 and log.verify().problems == ()
        assert patient not in str(entries.to_dicts())
