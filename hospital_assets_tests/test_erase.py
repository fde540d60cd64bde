"""Erasing a person: out of the landed files record by record, out of everything made of them, proved."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import itertools
import json
import lzma
import multiprocessing
import os
import random
import re
import sqlite3
import sys
import zipfile
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import openpyxl
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dagster._daemon.types import DaemonHeartbeat
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from hospital_assets.access.audit import AuditLog
from hospital_assets.alerts.outbox import Outbox, Signal, outbox_file
from hospital_assets.alerts.settings import NotifierSettings
from hospital_assets.automation.instance import dagster_instance
from hospital_assets.automation.presence import at_work, watch_lock
from hospital_assets.cli import main
from hospital_assets.files import replace_bytes
from hospital_assets.landing.csv_records import parse_csv
from hospital_assets.publishing.pseudonyms import SecretKey
from hospital_assets.recovery import erase
from hospital_assets.recovery.erase import (
    EraseError,
    Erasure,
    Person,
    as_landed,
    delete_alerts,
    erase_person,
    find_person,
    find_traces,
    not_reached,
    plan_erasure,
    strip_landing,
)
from hospital_assets.recovery.landed import Holding, LandedSearch
from hospital_assets.settings import MirrorSettings, Settings, write_settings
from hospital_assets.warehouse.database import open_warehouse
from hospital_assets_tests.helpers import query, run

#: A source writes no namespace: `B-P7` is P7 of the assigning authority, or the sending facility, B.
PERSON = Person(("P7", "P8", "fhir-r4:17", "hl7v2-adt:B-P7", "hl7v2-adt:B-P8"), ("V1",))


def landed(tmp_path: Path, name: str, text: str | bytes) -> tuple[Settings, Path]:
    settings = Settings(tmp_path)
    path = settings.landing / (name if "/" in name else f"native/{name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return settings, path


@pytest.mark.parametrize(
    ("name", "text", "left", "records"),
    [
        ("a.csv", "patient_id,x\nP7,1\nP70,2\nXP7,3\nP8,4\n", "patient_id,x\nP70,2\nXP7,3\n", 2),
        ("a.csv", 'patient_id,x\nP7,"a\nb"\nP2,"c\nP7"\n', 'patient_id,x\nP2,"c\nP7"\n', 1),
        ("a.jsonl", '{"patient_id": "P7"}\n{"visit_id": "V1"}\n{"patient_id": "P9"}\n', '{"patient_id": "P9"}\n', 2),
        ("a.jsonl", '{"patient_id": "P7"}\n{"patient_id": "P9"}', '{"patient_id": "P9"}', 1),
        ("a.csv", "patient_id,x\r\nP7,1\r\nP9,2\r\n", "patient_id,x\r\nP9,2\r\n", 1),
    ],
)
def test_records_are_taken_out_and_others_stay(tmp_path: Path, name: str, text: str, left: str, records: int) -> None:
    settings, path = landed(tmp_path, name, text)
    (done,) = strip_landing(settings, PERSON)
    assert done.records == records and path.read_bytes() == left.encode()
    assert strip_landing(settings, PERSON) == []


FIXED = """
name = "old"
description = "x"
time_zone = "Europe/Berlin"
namespace = ""
[subjects.er_visits]
files = ["*.txt"]
date = "arrival_time"
[subjects.er_visits.fixed_width.columns]
who = { start = 1, width = 4 }
came = { start = 5, width = 16 }
case = { start = 21, width = 4 }
[subjects.er_visits.columns]
patient_id = "who"
arrival_time = "came"
visit_id = "case"
"""


@pytest.mark.parametrize("codec", ["utf-8", "utf-16", "cp1252"])
def test_lines_of_fixed_width_are_taken_out_by_their_columns(tmp_path: Path, codec: str) -> None:
    """A number that fills its column ends without a mark; one that goes over an edge is none."""
    settings = Settings(tmp_path)
    settings.profiles_folder.mkdir()
    (settings.profiles_folder / "old.toml").write_text(FIXED)
    people = {"1234": 1, "5123": 2, "  45": 3, "9999": 4}
    lines = [f"{who}2026-03-01 08:0{n}{n}234\u00e4\n" for who, n in people.items()]
    path = settings.landing / "old" / "a.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes("".join(lines).encode(codec))
    # 1234 is a patient, and the visit of line 1; 4234 is the visit of line 4, which is of somebody else.
    (stripped,) = strip_landing(settings, Person(("1234",), ("1234", "4234")))
    assert stripped.records == 1 and path.read_bytes() == "".join(lines).replace(lines[0], "").encode(codec)
    assert strip_landing(settings, Person(("1234",), ("1234", "4234"))) == []


HEAD = "MSH|^~\\&|A|B|||||ADT^A04"


@pytest.mark.parametrize(("end", "start"), [("\r", ""), ("\n", ""), ("\r\n", ""), ("\x1c\r", "\x0b")])
def test_messages_are_taken_out_of_a_batch(tmp_path: Path, end: str, start: str) -> None:
    own = [f"{start}{HEAD}|{n}\rPID|1||{n}\rOBX|1|||MSH of P70{end}" for n in ("P1", "P7", "P2", "P8")]
    batch = "FHS|^~\\&\rBHS|^~\\&\r{}BTS|{}|all\rFTS|1\r"
    settings, path = landed(tmp_path, "hl7v2-adt/a.hl7", batch.format("".join(own), 4))
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
    settings, path = landed(tmp_path, "fhir-r4/a.json", text % " ,\n".join(both))
    # Bulk export: what refers to the patient stands in a file of its own.
    lines = '{{"resourceType":"Observation","id":"{}","subject":{{"reference":"Patient/{}"}}}}\n'
    _, other = landed(tmp_path, "fhir-r4/b.ndjson", lines.format("a", "17") + lines.format("b", "17-2"))
    person = as_landed(settings, PERSON)
    assert set(person.references) == {
        f"fhir-r4:{name}" for name in ("Patient/17", "urn:uuid:Patient-17", "Encounter/e-1", "urn:uuid:Encounter-e-1")
    }
    taken = {done.file: done.records for done in strip_landing(settings, person)}
    assert taken == {"fhir-r4/a.json": 3, "fhir-r4/b.ndjson": 1}
    assert path.read_text() == text % " ,\n".join(others)
    assert other.read_text() == lines.format("b", "17-2")
    assert strip_landing(settings, person) == []


@settings_of_hypothesis(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.text('aé"\\]}{,[ \n', max_size=6)), min_size=1, max_size=6),
    st.sampled_from(["[%s]", " [\n%s\n]\n", '{"resourceType":"Bundle","entry":[%s],"z":[1]}']),
    st.sampled_from([",", " ,\n"]),
)
def test_what_is_kept_of_an_array_is_kept_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, elements: list[tuple[bool, str]], text: str, separator: str
) -> None:
    said = [(own, json.dumps({"patient_id": "P7" if own else "P70", "t": t})) for own, t in elements]
    settings, path = landed(tmp_path_factory.mktemp("array"), "a.json", text % separator.join(e for _, e in said))
    strip_landing(settings, PERSON)
    kept = [e for own, e in said if not own]
    if not any(own for own, _ in said) or kept:
        assert path.read_text() == text % separator.join(kept)
    assert len(json.loads(path.read_text())) == len(json.loads(text % separator.join(kept)))


def test_packed_files_stay_packed(tmp_path: Path) -> None:
    settings, path = landed(tmp_path, "a.csv.gz", gzip.compress(b"patient_id\nP7\nP9\n"))
    strip_landing(settings, PERSON)
    assert gzip.decompress(path.read_bytes()) == b"patient_id\nP9\n"


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
    _, plain = landed(tmp_path, "a.csv", "patient_id\nP7\n")
    with pytest.raises(EraseError, match=r"native/odd\.json"):
        strip_landing(settings, PERSON)
    assert odd.read_bytes() == text.encode() and plain.read_text() == "patient_id\nP7\n"
    assert len(list(settings.landing.rglob("*"))) == 3


ESCAPED = "".join(f"\\u{ord(c):04x}" for c in "P7")


@pytest.mark.parametrize("spelling", ["P7", ESCAPED, "P\\u0037", " P7 "])
@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be"])
def test_every_escape_and_encoding_is_taken_out(tmp_path: Path, spelling: str, codec: str) -> None:
    mark = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(codec, b"")
    others = '{"patient_id": "P70", "x": "\u00e9"}\n{"patient_id": "XP7"}\n'
    text = others.splitlines(keepends=True)
    text.insert(1, '{"patient_id": "' + spelling + '"}\n')
    settings, path = landed(tmp_path, "a.jsonl", mark + "".join(text).encode(codec))
    before = path.stat().st_mode
    (stripped,) = strip_landing(settings, PERSON)
    assert stripped.records == 1 and path.read_bytes() == mark + others.encode(codec)
    assert path.stat().st_mode == before


@pytest.mark.parametrize("spelling", ["p7", "P-7", "p 7", "P_7"])
def test_a_number_in_another_spelling_is_another_patients_and_a_mention(tmp_path: Path, spelling: str) -> None:
    """The tables know them as two patients: whoever knows that they are one erases both."""
    settings, _ = landed(tmp_path, "a.csv", f"patient_id,x\nP9,2\n{spelling},1\n")
    assert strip_landing(settings, PERSON) == []
    with open_warehouse(settings.warehouse_file) as warehouse:
        found = find_traces(warehouse, settings, PERSON)
    assert found.left == () and found.mentions == ("landing/native/a.csv (line 3)",)


def test_digits_alone_are_no_date() -> None:
    finder = Person(("20260301",), ()).pattern
    assert finder.search(b"x,20260301,y") and not finder.search(b"2026-03-01")
    assert Person(("12-345",), ()).pattern.search(b"|12345|")
    finder = Person(("mimic:1001", "mimic:20001", "other:30001"), ()).within("mimic")
    assert finder.search(b"20001") and not finder.search(b"1001") and not finder.search(b"30001")


def zipped(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return packed.getvalue()


PLACES: dict[str, bytes] = {
    "spool/a.txt": b"... P7 ...",
    "logs/a.log.gz": gzip.compress(b"x" * 99 + b" P7"),
    "logs/two.gz": gzip.compress(b"x ") + gzip.compress(b"P7"),
    "logs/a.bz2": bz2.compress(b"P7"),
    "logs/a.xz": lzma.compress(b"P7"),
    "dagster/a.zip": zipped(
        {"a.csv": b"x", "deep/b.zip": zipped({"c.json.gz": gzip.compress(b'{"patient_id": "\\u00507"}')})}
    ),
    "kept/utf16.csv": b"\xff\xfe" + "patient_id\nP7\n".encode("utf-16-le"),
    "kept/torn.gz": gzip.compress(b"P7 " + random.Random(1).randbytes(9_000))[:-500],
    "kept/torn.parquet": b"PAR1 P7",
    "kept/torn.duckdb": b"not DuckDB P7",
    "kept/P7.txt": b"",
}


@pytest.mark.parametrize("name", PLACES)
def test_the_search_reads_all_bytes_of_whatever_they_lie_in(tmp_path: Path, name: str) -> None:
    settings = Settings(tmp_path)
    replace_bytes(tmp_path / name, PLACES[name])
    replace_bytes(tmp_path / "kept" / "other", b"P70 XP7 nothing")
    with open_warehouse(settings.warehouse_file) as warehouse:
        found = find_traces(warehouse, settings, PERSON)
    (place,) = found.left
    assert place.startswith(name)
    assert found.unsearched == ((name,) if "torn" in name else ())


def test_the_search_reads_parquet_and_databases(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    (tmp_path / "lake").mkdir()
    pl.DataFrame({"a": [None, {"b": ["x", "p-7"]}]}).write_parquet(tmp_path / "lake" / "part.parquet")
    (tmp_path / "published").mkdir()
    with contextlib.closing(duckdb.connect(str(tmp_path / "published" / "publication.duckdb"))) as connection:
        connection.execute("create table t as select ['P7'] as a")
    with contextlib.closing(sqlite3.connect(tmp_path / "other.sqlite")) as other:
        other.execute("create table t (a)")
        other.execute("insert into t values ('V1')")
        other.commit()
    with open_warehouse(settings.warehouse_file) as warehouse:
        warehouse.connection.execute("create table facts.t as select {'a': 'P8'} as a")
        warehouse.connection.execute("checkpoint")
        assert sorted(find_traces(warehouse, settings, PERSON).left) == [
            "facts.t.a (1 rows)",
            "lake/part.parquet (1 rows)",
            "other.sqlite",
            "published/publication.duckdb (main.t.a)",
        ]


def test_members_of_archives_are_named_and_torn_files_stop_nothing(tmp_path: Path) -> None:
    settings, other = landed(tmp_path, "a.csv", "patient_id,x\nP7,1\n")
    landed(tmp_path, "torn.csv.gz", gzip.compress(b"patient_id,x\nP7,1\n" + random.Random(1).randbytes(9_000))[:-500])
    assert [stripped.file for stripped in strip_landing(settings, PERSON)] == ["native/a.csv"]
    assert other.read_text() == "patient_id,x\n"
    # Whatever its first line happens to be.
    landed(tmp_path, "b.zip", zipped({"a\rb.csv": b"patient_id\nP7\n"}))
    with pytest.raises(EraseError, match=r"native/b\.zip"):
        strip_landing(settings, PERSON)


def test_a_file_larger_than_may_be_loaded_is_named_and_stops_nothing(tmp_path: Path) -> None:
    settings, other = landed(tmp_path, "a.csv", "patient_id,x\nP7,1\n")
    huge = settings.landing / "native" / "huge.csv"
    huge.touch()
    os.truncate(huge, 10_000_000_000_000)  # ten terabytes of nothing
    assert [stripped.file for stripped in strip_landing(settings, PERSON)] == ["native/a.csv"]
    assert other.read_text() == "patient_id,x\n"
    with open_warehouse(settings.warehouse_file) as warehouse:
        found = find_traces(warehouse, settings, PERSON)
    assert found.left == () and found.unsearched == ("landing/native/huge.csv",)


def test_no_link_is_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.csv").write_text("patient_id,x\nP7,1\n")
    settings, _ = landed(tmp_path / "data", "a.csv", "patient_id,x\nP9,1\n")
    (settings.landing / "native" / "b.csv").symlink_to(outside / "a.csv")
    (settings.landing / "linked").symlink_to(outside)
    assert strip_landing(settings, PERSON) == []
    assert any("linked" in place for place in not_reached(settings, {}))
    assert "the lake (HOSPITAL_LAKE)" in not_reached(settings, {"HOSPITAL_LAKE": "s3://lake"})
    (settings.data_dir / "reports").symlink_to(outside)
    with pytest.raises(EraseError, match="is a link"):
        plan_erasure(settings, "P7", KEY)
    assert (outside / "a.csv").read_text() == "patient_id,x\nP7,1\n"


def test_who_is_gone_from_the_tables_is_found_in_what_landed(tmp_path: Path) -> None:
    settings, _ = landed(tmp_path, "a.csv", "patient_id,x\nP7,1\n")
    with open_warehouse(settings.warehouse_file):
        pass
    assert plan_erasure(settings, "P7", KEY).person.record_numbers == ("P7",)
    with pytest.raises(EraseError, match="nobody has"):
        plan_erasure(settings, "P6", KEY)


KEY = SecretKey(b"0123456789abcdef" * 2)


VISITS = "visit_id,patient_id,hospital_id,arrival_time,chief_complaint\n"


def visit(number: int, complaint: str, patient: str = "") -> str:
    return f"V{number},{patient or f'P{number}'},H1,2026-01-01 08:00:00,{complaint}\n"


@pytest.mark.parametrize(
    ("lines", "left"),
    [
        # A mark inside of a field means nothing, wherever it stands.
        (['3" long', "a", '5" and 6" and 7"', "b"], [0, 2, 3]),
        (["a", 'cut 3" long', "b"], [0, 2]),
        (["a", '"over, two\nlines"', '"x"'], [0, 2]),
        (['"P1, said\nP1"', "a", "b"], [0, 2]),
    ],
)
@pytest.mark.parametrize("name", ["native/er_visits/a.csv", "native/er_visits/a.csv.gz"])
def test_a_stray_quotation_mark_takes_nobody_along(
    tmp_path: Path, lines: list[str], left: list[int], name: str
) -> None:
    rows = [visit(number, complaint) for number, complaint in enumerate(lines)]
    pack, unpack = (gzip.compress, gzip.decompress) if name.endswith(".gz") else (bytes, bytes)
    settings, path = landed(tmp_path, name, pack((VISITS + "".join(rows)).encode()))
    assert [done.records for done in strip_landing(settings, Person(("P1",)))] == [1]
    assert unpack(path.read_bytes()).decode() == VISITS + "".join(rows[place] for place in left)


@pytest.mark.parametrize("person", ["P1", "P2", "P3"])
def test_a_mark_that_is_never_closed_swallows_rows_and_stops_everything(tmp_path: Path, person: str) -> None:
    rows = [visit(0, "a"), visit(1, '"cut 3 long'), visit(2, "b"), visit(3, '"deep" cut'), visit(4, "c")]
    settings, path = landed(tmp_path, "native/er_visits/a.csv", VISITS + "".join(rows))
    with pytest.raises(EraseError, match=r"er_visits/a\.csv \(line 3\)"):
        strip_landing(settings, Person((person,)))
    assert path.read_text() == VISITS + "".join(rows)
    assert strip_landing(settings, Person(("P0",)))[0].records == 1


def test_a_visit_that_has_the_number_of_a_patient_is_not_the_patients(tmp_path: Path) -> None:
    rows = [visit(0, "a", "P1"), visit(1, "b", "P2").replace("V1", "P1")]
    settings, path = landed(tmp_path, "native/er_visits/a.csv", VISITS + "".join(rows))
    assert [done.records for done in strip_landing(settings, Person(("P1",)))] == [1]
    assert path.read_text() == VISITS + rows[1]
    # Whose one is that names no patient, nobody can tell.
    path.write_text(VISITS + rows[1].replace("P2", ""))
    with pytest.raises(EraseError, match=r"line 2"):
        strip_landing(settings, Person(("P1",)))


@settings_of_hypothesis(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.text('a",\n\r|P1', max_size=8)), max_size=6),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
)
def test_whatever_is_written_the_reader_has_every_record_of_others(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, str]], end: str, is_ended: bool
) -> None:
    header = "visit_id,patient_id,chief_complaint"
    lines = [header, *(f"V{place},P{number},{text}" for place, (number, text) in enumerate(rows))]
    text = end.join(lines) + (end if is_ended else "")
    settings, path = landed(tmp_path_factory.mktemp("rows"), "native/er_visits/a.csv", text)

    def of_others() -> list[tuple[str, ...]]:
        read = parse_csv(path.read_bytes().decode(), ",").filter(pl.col("patient_id").ne_missing("P1"))
        return read.fill_null("").select("visit_id", "patient_id", "chief_complaint", "@problem").rows()

    before, theirs = of_others(), Person(("P1",))
    with contextlib.suppress(EraseError):
        strip_landing(settings, theirs)
        assert not [row for row in parse_csv(path.read_bytes().decode(), ",")["patient_id"] if row == "P1"]
    # One that was cut off in the middle may go, too.
    assert of_others() == before or of_others() == before[:-1]


def test_quoted_breaks_are_known_in_any_file_that_is_read_as_a_table(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    replace_bytes(settings.profiles_folder / "clinic.toml", CLINIC.encode())
    _, path = landed(tmp_path, "clinic/a.txt", 'case;who;came;why\n1;A1;x;"cut;\ndeep"\n2;A2;x;"fever"\n')
    assert strip_landing(settings, Person(("clinic:A1",)))[0].records == 1
    assert path.read_text() == 'case;who;came;why\n2;A2;x;"fever"\n'


CLINIC = """
name = "clinic"
description = "x"
time_zone = "Europe/Berlin"
[subjects.er_visits]
files = ["*.txt", "*.parquet", "*.xlsx"]
delimiter = ";"
date = "arrival_time"
[subjects.er_visits.columns]
visit_id = "case"
patient_id = "who"
arrival_time = "came"
chief_complaint = "why"
"""


def test_a_number_in_somebody_elses_record_is_a_mention_and_changes_nothing(tmp_path: Path) -> None:
    patients = "patient_id,recorded_at,zip,last_name\n44478,2026-01-01 08:00:00,1,A\n9,2026-01-01 08:00:00,44478,B\n"
    settings, path = landed(tmp_path, "native/patients/p.csv", patients)
    newborn = VISITS + visit(1, "newborn of 44478")
    _, visits = landed(tmp_path, "native/er_visits/v.csv", newborn + visit(2, "a", "44478"))
    _, vitals = landed(tmp_path, "native/vitals/v.json", '{"patient_id": "9", "vitals": {"note": "of 44478"}}\n')
    person = as_landed(settings, Person(("44478",)))
    assert person.visit_numbers == ("V2",)
    done = {one.file: one.records for one in strip_landing(settings, person)}
    assert done == {"native/patients/p.csv": 1, "native/er_visits/v.csv": 1}
    assert path.read_text() == "".join(patients.splitlines(keepends=True)[::2])
    assert visits.read_text() == newborn and "44478" in vitals.read_text()
    replace_bytes(settings.reports / "page.html", b"ZIP 44478")
    with open_warehouse(settings.warehouse_file) as warehouse:
        warehouse.connection.execute(
            "create table facts.t as select 'P1' as patient_id, '44478' as zip, 'V9' as visit_id"
        )
        found = find_traces(warehouse, settings, person)
        assert found.left == () and found.mentions == (
            "landing/native/er_visits/v.csv (line 2)",
            "landing/native/patients/p.csv (line 2)",
            "landing/native/vitals/v.json (line 1)",
        )
        # What says whose a row is, is no mention; nor is a number that nobody mentions.
        warehouse.connection.execute("insert into facts.t values ('44478', null, null), ('P1', null, 'V2')")
        found = find_traces(warehouse, settings, person)
    assert {"facts.t.patient_id (1 rows)", "facts.t.visit_id (1 rows)"} == {p for p in found.left if "facts" in p}


def test_what_is_nobodys_record_number_is_refused(tmp_path: Path) -> None:
    settings, _ = landed(
        tmp_path, "patients/p.csv", "patient_id,recorded_at,insurer\nP1,2026-01-01 08:00:00,Medicare\n"
    )
    with open_warehouse(settings.warehouse_file):
        pass
    with pytest.raises(EraseError, match="nobody has"):
        plan_erasure(settings, "Medicare", KEY)


@pytest.mark.parametrize(
    ("line", "is_theirs"),
    [('{"patient_id": "P1", "visit_id": "V1", "hosp', True), ("V1,P1,H1,2026", True), ("V1,P1", None), ("V1,P", False)],
)
def test_of_a_last_line_that_was_cut_off_what_stands_before_counts(
    tmp_path: Path, line: str, is_theirs: bool | None
) -> None:
    is_json = line.startswith("{")
    whole = '{"patient_id": "P2"}\n' if is_json else VISITS + visit(2, "a")
    settings, path = landed(tmp_path, f"native/{'vitals/a.json' if is_json else 'er_visits/a.csv'}", whole + line)
    if is_theirs is None:
        with pytest.raises(EraseError, match=r"er_visits/a\.csv \(line 3\)"):
            strip_landing(settings, Person(("P1",)))
    else:
        assert len(strip_landing(settings, Person(("P1",)))) == is_theirs
    assert path.read_text() == (whole if is_theirs else whole + line)


def test_a_record_of_two_people_stops_everything(tmp_path: Path) -> None:
    """A visit that was moved (A45) is of both; what it was called before stays with whom it is now."""
    moved = '{"message_id": "m", "event_type": "A45", "patient_id": "P9", "prior_patient_id": "P1", "visit_id": "V1"}\n'
    settings, path = landed(tmp_path, "native/adt_events/a.json", moved)
    for person in ("P1", "P9"):
        with pytest.raises(EraseError, match=r"adt_events/a\.json \(line 1\)"):
            strip_landing(settings, Person((person,)))
    assert strip_landing(settings, Person(("P1", "P9")))[0].records == 1 and path.read_text() == ""


def test_a_visit_of_two_people_takes_nobody_elses_records_along(tmp_path: Path) -> None:
    rows = VISITS + visit(1, "a") + visit(1, "b", "P9")
    settings, path = landed(tmp_path, "native/er_visits/a.csv", rows)
    person = as_landed(settings, Person(("P1",)))
    assert person.visit_numbers == ("V1",) and strip_landing(settings, person)[0].records == 1
    assert path.read_text() == VISITS + visit(1, "b", "P9")
    with open_warehouse(settings.warehouse_file) as warehouse:
        warehouse.connection.execute("create table facts.t as select 'P9' as patient_id, 'V1' as visit_id")
        warehouse.connection.execute("checkpoint")
        found = find_traces(warehouse, settings, person)
    assert found.left == () and found.mentions == ("landing/native/er_visits/a.csv (line 2)",)
    landed(tmp_path, "native/diagnoses/d.csv", "visit_id,patient_id,icd_code\nV1,,I10\n")
    with pytest.raises(EraseError, match=r"diagnoses/d\.csv \(line 2\)"):
        strip_landing(settings, person)


def adt(event: str, *people: str) -> str:
    """A message of people, each as `number^authority`."""
    groups = [f"PID|1||{'^^^'.join(one.split('^'))}^MR||Name\rPV1|1|E|ER\r" for one in people]
    return f"MSH|^~\\&|A|GENERAL|||20260101080000||ADT^{event}|{event}{len(people)}\rEVN||20260101080000\r" + "".join(
        groups
    )


@pytest.mark.parametrize(("start", "end"), [("", ""), ("\x0b", "\x1c\r")])
def test_patients_of_messages_are_known_by_the_number_that_the_profile_composes(
    tmp_path: Path, start: str, end: str
) -> None:
    messages = [
        adt("A01", "111111^H1"),
        adt("A01", "222222^H1"),
        adt("A17", "111111^H1", "222222^H1"),
        adt("A17", "222222^H1", "111111^H1"),
        adt("A01", "111111^H2"),
        adt("A01", "11111^H11"),
    ]
    framed = [f"{start}{message}{end}" for message in messages]
    settings, path = landed(tmp_path, "hl7v2-adt/a.hl7", "".join(framed))
    with open_warehouse(settings.warehouse_file):
        pass
    with pytest.raises(EraseError, match="nobody has"):
        plan_erasure(settings, "111111", KEY)
    person = plan_erasure(settings, "hl7v2-adt:H1-111111", KEY).person
    assert strip_landing(settings, person)[0].records == 3
    alone = messages[2].replace("PID|1||111111^^^H1^MR||Name\rPV1|1|E|ER\r", "")
    both = messages[3].replace("PID|1||111111^^^H1^MR||Name\rPV1|1|E|ER\r", "")
    kept = [messages[1], alone, both, messages[4], messages[5]]
    assert path.read_bytes().decode() == "".join(f"{start}{message}{end}" for message in kept)
    assert strip_landing(settings, person) == []


def test_a_merge_of_the_persons_own_numbers_goes_and_one_with_somebody_stops(tmp_path: Path) -> None:
    merge = adt("A40", "111111^H1") + "MRG|333333^^^H1^MR\r"
    settings, path = landed(tmp_path, "hl7v2-adt/a.hl7", merge + adt("A01", "222222^H1"))
    with pytest.raises(EraseError, match=r"a\.hl7 \(line 1\)"):
        strip_landing(settings, Person(("hl7v2-adt:H1-111111",)))
    person = Person(("hl7v2-adt:H1-111111", "hl7v2-adt:H1-333333"))
    assert strip_landing(settings, person)[0].records == 1
    assert path.read_bytes().decode() == adt("A01", "222222^H1")


def test_a_short_number_of_a_source_is_erased_there_and_nowhere_else(tmp_path: Path) -> None:
    header = "subject_id,stay_id,intime,gender,race\n"
    settings, path = landed(
        tmp_path, "mimic-iv-ed/edstays.csv", header + "17,900,2110-01-17,F,X\n18,17,2110-01-01,M,X\n"
    )
    _, triage = landed(tmp_path, "mimic-iv-ed/triage.csv", "subject_id,stay_id,acuity\n17,900,2\n18,17,3\n")
    # No subject takes it, but its columns mean the same.
    _, pyxis = landed(tmp_path, "mimic-iv-ed/pyxis.csv", "subject_id,stay_id,name\n17,900,a\n18,17,b\n")
    _, native = landed(tmp_path, "native/patients/p.csv", "patient_id,recorded_at\n17,2026-01-01 08:00:00\n")
    person = as_landed(settings, Person(("mimic-iv-ed:17",)))
    assert person.visit_numbers == ("mimic-iv-ed:900",)
    assert sum(one.records for one in strip_landing(settings, person)) == 3
    assert [p.read_text().count("\n") for p in (path, triage, pyxis, native)] == [2, 2, 2, 2]
    assert strip_landing(settings, person) == []


def test_a_reference_is_one_of_its_source_and_of_its_kind(tmp_path: Path) -> None:
    def observation(number: str, **more: object) -> str:
        return json.dumps({"resourceType": "Observation", "id": number, **more}) + "\n"

    patients = [
        {"resourceType": "Patient", "id": "17", "identifier": [{"system": "urn:s", "value": "x1"}]},
        {"resourceType": "Patient", "id": "18", "address": [{"postalCode": "17"}], "identifier": [{"value": "17"}]},
    ]
    of_nobody = [observation("17"), observation("c", subject={"reference": "Group/17"})]
    of_others = [*of_nobody, observation("d", subject={"reference": "Patient/18"}, note=[{"text": "see Patient/17."}])]
    theirs = [
        observation("a", subject={"reference": "https://ehr.example.org/fhir/Patient/17/_history/2"}),
        observation("b", subject={"identifier": {"system": "urn:s", "value": "x1"}}),
        observation("e", subject={"reference": "Patient?identifier=urn:s|x1"}),
    ]
    settings, path = landed(tmp_path, "fhir-r4/a.ndjson", "".join(json.dumps(one) + "\n" for one in patients))
    _, other = landed(tmp_path, "fhir-r4/b.ndjson", "".join([*theirs, *of_others]))
    person = as_landed(settings, Person(("fhir-r4:17",)))
    assert {one.file: one.records for one in strip_landing(settings, person)} == {
        "fhir-r4/a.ndjson": 1,
        "fhir-r4/b.ndjson": 3,
    }
    assert path.read_text() == json.dumps(patients[1]) + "\n" and other.read_text() == "".join(of_others)


def test_of_a_bundle_deletions_contained_resources_and_links_within_it_are_known(tmp_path: Path) -> None:
    def resource(kind: str, number: str, **members: object) -> dict[str, object]:
        return {"resourceType": kind, "id": number, **members}

    theirs: list[dict[str, object]] = [
        {"fullUrl": "urn:uuid:aaa", "resource": {"resourceType": "Patient", "active": True}},
        {"resource": resource("Observation", "a", subject={"reference": "urn:uuid:aaa"})},
        {"request": {"method": "DELETE", "url": "Patient/aaa"}},
        {
            "resource": resource(
                "Provenance", "p", target=[{"reference": "Observation/x"}, {"reference": "Patient/aaa"}]
            )
        },
        {"resource": resource("Encounter", "e", subject={"reference": "Patient/aaa"})},
        {"resource": resource("Condition", "k", encounter={"reference": "Encounter/e"})},
    ]
    others: list[dict[str, object]] = [
        {"resource": resource("Patient", "bbb", telecom=[{"value": "aaa"}])},
        {"resource": resource("Observation", "c", subject={"reference": "#s"}, contained=[resource("Patient", "s")])},
        {"request": {"method": "DELETE", "url": "Encounter/aaa"}},
        {"resource": resource("Organization", "aaa", name="aaa")},
    ]
    both = [one for pair in itertools.zip_longest(theirs, others) for one in pair if one is not None]
    settings, path = landed(tmp_path, "fhir-r4/a.json", json.dumps({"resourceType": "Bundle", "entry": both}, indent=2))
    person = as_landed(settings, Person(("fhir-r4:aaa",)))
    assert strip_landing(settings, person)[0].records == len(theirs)
    assert json.loads(path.read_text())["entry"] == others
    _, path = landed(tmp_path, "fhir-r4/b.ndjson", json.dumps({"resourceType": "Bundle", "entry": theirs}) + "\n")
    strip_landing(settings, person)
    assert json.loads(path.read_text())["entry"] == []
    landed(
        tmp_path,
        "fhir-r4/c.json",
        json.dumps(resource("Group", "g", member=[{"entity": {"reference": f"Patient/{n}"}} for n in ("aaa", "bbb")])),
    )
    with pytest.raises(EraseError, match=r"fhir-r4/c\.json \(line 1\)"):
        strip_landing(settings, person)


def parquet(rows: dict[str, list[Any]], **options: Any) -> bytes:
    written = io.BytesIO()
    pq.write_table(pa.table(rows, schema=SCHEMA), written, **options)
    return written.getvalue()


SCHEMA = pa.schema(
    [
        ("case", pa.int32()),
        ("who", pa.string()),
        ("came", pa.timestamp("ms", "UTC")),
        ("why", pa.dictionary(pa.int32(), pa.string())),
    ],
    metadata={"from": "there"},
)


@pytest.mark.parametrize(
    "options", [{"compression": "zstd"}, {"compression": "none", "use_dictionary": False}, {"row_group_size": 2}]
)
def test_rows_of_parquet_are_taken_out_under_the_same_schema(tmp_path: Path, options: dict[str, Any]) -> None:
    settings = Settings(tmp_path)
    replace_bytes(settings.profiles_folder / "clinic.toml", CLINIC.encode())
    at = datetime(2026, 1, 1, tzinfo=UTC)
    rows: dict[str, list[Any]] = {
        "case": [1, None, 2, 3, 4],
        "who": ["A1", None, "A2", "A1", "A3"],
        "came": [at, None, at, at, None],
        "why": ['cut\r\n3" long', None, 'two\nlines, "x"', None, "of A1"],
    }
    _, path = landed(tmp_path, "clinic/a.parquet", parquet(rows, **options))
    person = as_landed(settings, Person(("clinic:A1",)))
    assert set(person.visit_numbers) == {"clinic:1", "clinic:3"}
    assert strip_landing(settings, person)[0].records == 2
    left = pq.read_table(path)
    assert left.equals(pa.table({n: [v[1], v[2], v[4]] for n, v in rows.items()}, schema=SCHEMA), check_metadata=True)
    assert strip_landing(settings, person) == []
    everybody = Person(("clinic:A2", "clinic:A3"))
    assert strip_landing(settings, everybody)[0].records == 2 and pq.read_table(path).num_rows == 1


def test_what_cannot_be_written_anew_is_named_before_anything_changes(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    replace_bytes(settings.profiles_folder / "clinic.toml", CLINIC.encode())
    sheet = io.BytesIO()
    workbook = openpyxl.Workbook()
    for row in (["case", "who", "came", "why"], [1, "A0001", "x", "y"], [2, "A0002", "x", "of A0003"]):
        workbook.active.append(row)
    workbook.save(sheet)
    _, book = landed(tmp_path, "clinic/a.xlsx", sheet.getvalue())
    _, text = landed(tmp_path, "clinic/a.txt", "case;who;came;why\n1;A0001;x;y\n3;A0003;x;y\n")
    # Bytes that would fall apart into lines, and of which no row is named.
    _, nested = landed(tmp_path, "clinic/b.parquet", b"PAR1\nA0003\nA0001\nPAR1")
    before = {path: path.read_bytes() for path in (book, text, nested)}
    with pytest.raises(EraseError, match=r"a\.xlsx \(a workbook is not written anew.*b\.parquet \(it cannot be read\)"):
        strip_landing(settings, Person(("clinic:A0001",)))
    assert {path: path.read_bytes() for path in before} == before
    nested.unlink()
    assert strip_landing(settings, Person(("clinic:A0003",)))[0].file == "clinic/a.txt"
    assert book.read_bytes() == before[book]


def test_messages_about_the_person_go_with_their_alerts(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    at = datetime(2026, 3, 1, tzinfo=UTC)
    notifier = NotifierSettings(name="ward", kind="log")
    with contextlib.closing(Outbox(outbox_file(settings), [notifier])) as outbox:
        signals = [
            Signal("critical_vitals", v, at, True, "critical", "NEWS2 9", hospital_id="H1") for v in ("V1", "V10")
        ]
        outbox.record(signals, at)
    with contextlib.closing(sqlite3.connect(outbox_file(settings))) as connection:
        connection.execute(
            "insert into silences select alert_id, alert_key, null, null, null, '2026', 'x', 'x', '2026' from alerts"
        )
        connection.commit()
    # An alert, its signal, its message, its silence.
    assert delete_alerts(settings, PERSON) == 4
    with contextlib.closing(sqlite3.connect(outbox_file(settings))) as connection:
        for table in ("alerts", "signals", "deliveries", "silences"):
            assert connection.execute(f"select count(*) from {table}").fetchall() == [(1,)], table
        assert connection.execute("select count(*) from deliveries join alerts using (alert_id)").fetchall() == [(1,)]


class Killed(BaseException):
    """The process ends here."""


def written(settings: Settings) -> None:
    """Landed files of every format and spelling, and everything else that a data directory can hold."""
    resource = '{"resourceType": "Observation", "id": "o", "subject": {"reference": "Patient/17"}}'
    patient, other = (entry("Patient", i, identifier=[{"value": n}]) for i, n in (("17", "P7"), ("18", "P9")))
    message = f"{HEAD}|1\rPID|1||P7\r{HEAD}|2\rPID|1||P9\r"
    texts: dict[str, str | bytes] = {
        "a.csv": "patient_id,x\nP7,1\nP9,2\n",
        "utf16.csv": b"\xff\xfe" + "patient_id,x\nP7,1\nP9,2\n".encode("utf-16-le"),
        "a.csv.gz": gzip.compress(b"patient_id,x\nP7,1\nP9,2\n"),
        "a.jsonl": '{"patient_id": "\\u00507"}\n{"patient_id": "P9"}\n',
        "a.json": '[{"patient_id": "P7"}, {"patient_id": "P9"}]',
        "fhir-r4/bundle.json": f'{{"resourceType": "Bundle", "entry": [{patient}, {other}]}}',
        "fhir-r4/export.ndjson": resource + "\n" + resource.replace("17", "18") + "\n",
        "fhir-r4/export.ndjson.gz": gzip.compress((resource + "\n" + resource.replace("17", "18") + "\n").encode()),
        "hl7v2-adt/a.hl7": message,
    }
    for name, text in texts.items():
        landed(settings.data_dir, name, text)
    for folder in ("snapshots", "published/admin/v", "reports", "lake/facts/fact_vitals", "live_vitals"):
        replace_bytes(settings.data_dir / folder / "part.json", b"P7")
    pl.DataFrame({"a": ["P7"]}).write_parquet(settings.data_dir / "lake" / "facts" / "fact_vitals" / "0.parquet")
    for name, data in PLACES.items():
        replace_bytes(settings.data_dir / name, data)
    with open_warehouse(settings.warehouse_file) as warehouse:
        replace_bytes(warehouse.file.parent / "spool" / "m.hl7", message.encode())
        warehouse.connection.execute("create table facts.t as select 'P7' as a")
    with contextlib.closing(Outbox(outbox_file(settings))) as outbox:
        at = datetime(2026, 3, 1, tzinfo=UTC)
        outbox.record([Signal("critical_vitals", "V1", at, True, "critical", "NEWS2 9", hospital_id="H1")], at)


def test_of_every_format_and_a_lake_nothing_is_left_but_what_is_listed(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    written(settings)
    erased = erase_person(
        settings, Erasure(as_landed(settings, PERSON), "abc", was_published=True), built_anew(settings, [])
    )
    assert len(erased.stripped) == 9 and sum(file.records for file in erased.stripped) == 9 and erased.alerts > 0
    # Files that nobody made from landed ones are not ours to change: each is named.
    assert {place.partition(" ")[0] for place in erased.left} == set(PLACES)
    listed = {tmp_path / name for name in PLACES}
    spelled = re.compile(rb"(?i)(?<![a-z0-9])(p-?[78]|v1|\\u00507|patient/17)(?![a-z0-9])")
    for path in (p for p in tmp_path.rglob("*") if p.is_file() and p not in listed):
        below = path.relative_to(tmp_path).parts[0]
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data.replace(b"\0", b"")
        assert below in ("audit", "erasures") or not spelled.search(data), path


def test_every_place_that_a_variable_names_is_listed(tmp_path: Path) -> None:
    """A variable that is new is a place that erasing does not reach, or stands here."""
    no_places = {"HOSPITAL_DATA_DIR", "HOSPITAL_ENGINE", "HOSPITAL_IN_MEMORY_ROWS", "HOSPITAL_AUDIT_KEY"}
    no_places |= {f"HOSPITAL_SFTP_{name}" for name in ("KEY", "KNOWN_HOSTS", "PASSWORD")}
    no_places |= {"HOSPITAL_PSEUDONYM_KEY", "HOSPITAL_PSEUDONYM_KEY_FILE", "HOSPITAL_CODE_SOCKET"}
    no_places |= {"HOSPITAL_OIDC_CLIENT_SECRET", "HOSPITAL_OIDC_CLIENT_SECRET_FILE"}
    no_places |= {"HOSPITAL_METRICS_TOKEN_FILE", "HOSPITAL_LOG_FORMAT"}
    package = Path(erase.__file__).parents[1]
    named = {
        name
        for file in package.rglob("*.py")
        for name in re.findall(r"[\"`$](HOSPITAL_[A-Z_]+)", file.read_text("utf-8"))
    }
    assert named - no_places == {name for name in erase.OUTSIDE if name.startswith("HOSPITAL_")}
    places = not_reached(Settings(tmp_path), dict.fromkeys(erase.OUTSIDE, "x"))
    assert all(any(f"({name})" in place for place in places) for name in erase.OUTSIDE)
    (tmp_path / "alerts.toml").write_text('[[notify]]\nname = "ward"\nkind = "webhook"\nurl = "https://x.example"\n')
    assert any("ward" in place for place in not_reached(Settings(tmp_path), {}))


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
    settings, _ = landed(tmp_path / "data", "fhir-r4/a.json", f"[{patient}]")
    line = '{"resourceType":"Observation","id":"o","subject":{"reference":"Patient/17"}}\n'
    landed(tmp_path / "data", "fhir-r4/b.ndjson", line + line.replace("17", "18"))
    for folder in ("warehouse", "snapshots/x", "published/admin", "reports", "lake/facts", "live_vitals"):
        (settings.data_dir / folder).mkdir(parents=True)
        (settings.data_dir / folder / "part.json").write_text("P7")
    settings.ground_truth.mkdir()
    pl.DataFrame({"record_id": ["P7", "P9"], "seconds": [1, 2]}).write_parquet(settings.ground_truth / "dirt.parquet")
    return settings, Erasure(as_landed(settings, PERSON), "abc", was_published=True)


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
    assert set(again.person.references) == {"fhir-r4:Patient/17", "fhir-r4:urn:uuid:Patient-17"}
    done = erase_person(settings, again, built_anew(settings, published))
    assert done.is_done and published[-1]
    left = "".join(path.read_text() for path in settings.landing.rglob("*") if path.is_file())
    assert "Patient/18" in left and "17" not in left and "P7" not in left
    assert not list(settings.data_dir.glob("erasures/*")) and not list(settings.landing.rglob(".*"))
    with contextlib.closing(AuditLog(settings)) as log:
        entries = log.entries("action = 'erase'")
    assert entries["outcome"].to_list() == ["allowed", "failed", "allowed", "allowed"]
    assert entries["statement"].unique().to_list() == ["person abc"]


CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "open")


def erase_until(data: Path, last: int) -> None:
    """Erase P7 in a process that dies at a change of a file, counted as the interpreter tells them; 0 for none."""
    settings, seen = Settings(data), itertools.count(1)
    erasure = plan_erasure(settings, "P7", KEY)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES or (event == "open" and not (isinstance(arguments[2], int) and arguments[2] & 0o1103)):
            return
        if (event != "open" or str(data) in str(arguments[0])) and next(seen) == last:
            os._exit(9)

    sys.addaudithook(hook)
    os._exit(0 if erase_person(settings, erasure, built_anew(settings, [])).is_done else 1)


def erased_in_a_process(data: Path, last: int) -> int | None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=erase_until, args=(data, last))
    process.start()
    process.join(120)
    return process.exitcode


@pytest.mark.nightly
def test_an_erasure_killed_at_any_change_of_a_file_is_run_again_to_its_end(tmp_path: Path) -> None:
    killed_at = 0
    for number in itertools.count(1):
        data = tmp_path / str(number)
        settings, _ = landed(data, "a.csv", "patient_id,x\nP7,1\nP9,2\n")
        landed(data, "b.csv.gz", gzip.compress(b"patient_id,x\nP9,1\nP7,2\n"))
        for folder in ("snapshots/x", "published/admin", "reports"):
            replace_bytes(data / folder / "part.json", b"P7")
        with open_warehouse(settings.warehouse_file):
            pass
        died = erased_in_a_process(data, number)
        if died == 9:
            killed_at += 1
            try:
                plan_erasure(settings, "P7", KEY)
            except EraseError as error:
                # Killed after its last change: nobody is left to erase.
                assert "nobody has" in str(error)
            else:
                assert erased_in_a_process(data, 0) == 0
        else:
            assert died == 0
        left = {str(p.relative_to(settings.landing)): p.read_bytes() for p in settings.landing.rglob("*.*")}
        assert left["native/a.csv"] == b"patient_id,x\nP9,2\n" and len(left) == 2
        assert gzip.decompress(left["native/b.csv.gz"]) == b"patient_id,x\nP9,1\n"
        assert not list(data.rglob("part.json")) and not list(data.glob("erasures/*.json"))
        if died == 0:
            break
    assert killed_at > 10


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
    assert pl.read_parquet(settings.ground_truth / "dirt.parquet").rows() == [("P9", 2)]


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
    # Two minutes later, or of a clock that was ahead.
    assert at_work(settings, now + timedelta(minutes=2)) == at_work(settings, now - timedelta(days=9)) == []


def test_a_file_that_cannot_be_taken_apart_leaves_nothing_begun(known: tuple[Settings, Erasure]) -> None:
    settings, erasure = known
    landed(settings.data_dir, "odd.json", "<p>P7</p>")
    with pytest.raises(EraseError, match=r"native/odd\.json"):
        erase_person(settings, erasure, built_anew(settings, []))
    assert not list(settings.data_dir.glob("erasures/*")) and list(settings.data_dir.rglob("part.json"))
    with pytest.raises(EraseError, match="run `hospital build` first"):
        plan_erasure(settings, "P7", KEY)


@pytest.mark.parametrize("writes", ["a new version lands", "a listener writes on"])
def test_nobody_writes_into_a_file_that_is_replaced(
    known: tuple[Settings, Erasure], monkeypatch: pytest.MonkeyPatch, writes: str
) -> None:
    settings, erasure = known
    file = settings.landing / "fhir-r4" / "b.ndjson"
    before, holding = file.read_bytes(), LandedSearch.holding

    def read(search: LandedSearch, path: Path) -> Holding | None:
        held = holding(search, path)
        if path == file and writes == "a new version lands":
            replace_bytes(file, before + before)
        return held

    monkeypatch.setattr(LandedSearch, "holding", read)
    writer = file.open("ab") if writes == "a listener writes on" else contextlib.nullcontext()
    with writer, pytest.raises(EraseError, match=r"somebody is writing .*fhir-r4/b\.ndjson"):
        erase_person(settings, erasure, built_anew(settings, []))
    assert file.read_bytes().startswith(before) and list(settings.data_dir.rglob("part.json"))
    assert not list(settings.landing.rglob(".*"))


@pytest.mark.nightly
def test_a_person_is_gone_from_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hospital_assets.simulator import simulate

    first, last = date(2026, 3, 5), date(2026, 3, 6)
    mirrored = MirrorSettings(str(tmp_path / "mirror"))
    settings = Settings(tmp_path / "data", first_service_date=first, last_service_date=last, mirror=mirrored)
    simulate(settings.landing, settings.ground_truth, start=first, days=2, scale=0.03, seed=7)
    write_settings(settings)
    monkeypatch.setenv("HOSPITAL_DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("HOSPITAL_PSEUDONYM_KEY", "ab" * 32)
    assert run(settings).succeeded
    assert main(["publish"]) == 0 and main(["snapshot"]) == 0 and main(["mirror"]) == 0
    (patient,) = query(
        settings,
        "select patient_id from facts.fact_emergency_visits join dimensions.dim_patient using "
        "(patient_key) where patient_key > 0 group by 1 order by count(*) desc, 1 limit 1",
    )["patient_id"]
    with open_warehouse(settings.warehouse_file) as warehouse:
        person = find_person(warehouse, patient)
        left = find_traces(warehouse, settings, person).left  # they are everywhere
        assert any(place.startswith("mirror/dimensions/dim_patient/") for place in left)
        visits = warehouse.connection.execute("select count(*) from facts.fact_emergency_visits")
        ((before,),) = visits.fetchall()
    assert main(["erase", "P-NOBODY"]) == 2
    assert main(["erase", patient]) == 0
    assert "Nothing was changed" in capsys.readouterr().out
    assert main(["erase", patient, "--yes"]) == 0
    assert "found nowhere any more" in capsys.readouterr().out
    with open_warehouse(settings.warehouse_file) as warehouse:
        assert find_traces(warehouse, settings, person).left == ()
        ((after,),) = warehouse.connection.execute("select count(*) from facts.fact_emergency_visits").fetchall()
    assert 0 < before - after <= len(person.visit_numbers)
    assert not (settings.data_dir / "snapshots").exists()
    # Mirrored anew, with no version of before.
    assert main(["history", "list", "dim_patient"]) == 0
    assert capsys.readouterr().out.count("mirrored whole") == 1
    with contextlib.closing(AuditLog(settings)) as log:
        entries = log.entries("action = 'erase'")
        assert entries["outcome"].to_list() == ["allowed"] * 2 and log.verify().problems == ()
        assert patient not in str(entries.to_dicts())
