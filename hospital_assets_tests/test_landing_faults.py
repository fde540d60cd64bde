"""One landed thing never stops a feed: faults of every kind, each beside a good file of its folder."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import socket
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import date
from pathlib import Path

import duckdb
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hospital_assets.contracts import CONTRACTS
from hospital_assets.landing.content import UnreadableError, sha256, why_unreadable
from hospital_assets.landing.csv_records import parse_csv
from hospital_assets.landing.worker import Worker
from hospital_assets.landing.zone import LandingZone
from hospital_assets.settings import FileLimits
from hospital_assets.warehouse.database import Period, scratch_connection
from hospital_assets.warehouse.errors import INTERRUPTED
from hospital_assets_tests.helpers import zone_in

LIMITS = FileLimits(megabytes=70, seconds=60)
HOSPITALS = "hospital_id,hospital_name,city,state,time_zone,trauma_level\nH1,One,Chicago,IL,America/Chicago,1\n"
HEAD = "visit_id,patient_id,hospital_id,arrival_time,chief_complaint"
VISIT = "V{0},P{0},H1,2026-03-06 10:00:00,{1}"
VITALS = {"observation_id": "O", "patient_id": "P1", "hospital_id": "H1", "measured_at": "2026-03-06T10:00:00-06:00"}
MESSAGE = (
    "MSH|^~\\&|A|H1|B|C|20260306100000||ADT^A01|{0}|P|2.5.1\rEVN|A01|20260306100000\r"
    "PID|1||{0}^^^H^MR||N\rPV1|1|I|W^R^B|||||||||||||||{0}\r"
)
RESOURCE = '{{"resourceType": "Patient", "id": "{0}"}}\n'

#: Writes a fault at a path.
Fault = Callable[[Path], object]


def csv(*lines: str, end: str = "\n") -> str:
    return end.join([HEAD, *lines]) + end


def text(content: str | bytes) -> Fault:
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


def vitals(**more: object) -> str:
    return json.dumps({**VITALS, **more}) + "\n"


def gzip_bomb(path: Path) -> None:
    """80 MB of blanks in 80 kB: under no limit but the ratio and the size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    path.write_bytes(b"".join([packer.compress(b" " * 1_000_000) for _ in range(80)]) + packer.flush())


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10**13)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):  # a socket's path has 108 bytes
        made.bind(path.name)


def device(path: Path) -> None:
    try:
        os.mknod(path, 0o020666, os.makedev(1, 5))  # /dev/zero: reading it never ends
    except PermissionError:  # not root
        os.mkfifo(path)


def loop(path: Path) -> None:
    path.mkdir()
    (path / "again").symlink_to(path)


def nested(opening: str, closing: str, times: int) -> str:
    return opening * times + "1" + closing * times


def renamed(name: str, content: str) -> Fault:
    return lambda path: (path.parent / name).write_text(content)


def odd_name(name: bytes) -> Fault:
    def write(path: Path) -> None:
        with open(os.path.join(os.fsencode(path.parent), name), "w") as file:  # noqa: PTH118, PTH123
            file.write(csv(VISIT.format(1, "x")))

    return write


def within_a_folder(path: Path) -> None:
    (path.parent / "content=5").mkdir(exist_ok=True)
    text(vitals())(path)


CSV: Mapping[str, Fault] = {
    "CR line ends": text(csv(VISIT.format(1, "x"), end="\r")),
    "three line ends": text(f"{HEAD}\r{VISIT.format(2, 'x')}\r\n{VISIT.format(3, 'x')}\n"),
    "field of 200,000 characters": text(csv(VISIT.format(4, '"' + "x" * 200_000 + '"'))),
    "opening quote without an end": text(csv(VISIT.format(5, '"fell'), *(VISIT.format(n, "x") for n in range(9)))),
    "quote within a field": text(csv(VISIT.format(6, 'a "b'))),
    "line breaks in a field": text(csv(VISIT.format(7, '"a\n\n\nb"'))),
    "NUL bytes": text(csv(VISIT.format(8, "a\0b"))),
    "only a header": text(HEAD),
    "no required column": text("a,b\n1,2\n"),
    "a column twice": text(HEAD + ",visit_id\n" + VISIT.format(9, "x") + ",W\n"),
    "a column twice, and its number": text(HEAD + ",visit_id_2,visit_id\n" + VISIT.format(9, "x") + ",W,W\n"),
    "columns called as ours": text(f"@sha,@line,@record,@problem,_sha,{HEAD}\n1,2,3,4,5,{VISIT.format(10, 'x')}\n"),
    "blank names of columns": text(f",,{HEAD}\n1,2,{VISIT.format(11, 'x')}\n"),
    "10,000 columns": text(f"{HEAD},{','.join(map(str, range(10_000)))}\n"),
    "two million commas": text(csv("," * 2_000_000)),
    "a million quotes": text(csv('"' * 1_000_001)),
    "200,000 blank lines": text(csv("\n" * 200_000, VISIT.format(12, "x"))),
    "ragged": text(csv("V1,P1", VISIT.format(13, "x"), "V1,P1,H1,x,y,z,z")),
    "semicolons": text(csv(VISIT.format(14, "x")).replace(",", ";")),
    "UTF-16 without a mark": text(csv(VISIT.format(15, "x")).encode("utf-16-le")),
    "UTF-16 cut off": text(csv(VISIT.format(16, "x")).encode("utf-16")[:-1]),
    "UTF-32": text(csv(VISIT.format(17, "x")).encode("utf-32")),
    "half a UTF-8 character": text(csv(VISIT.format(18, "é")).encode()[:-2]),
    "a zip file": text(b"PK\x03\x04" + bytes(200)),
    "a workbook of old": text(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(4000)),
    "random bytes": text(zlib.compress(b"x" * 9) * 400),
    "gzip cut off": text(gzip.compress(csv(VISIT.format(19, "x")).encode() * 99)[:-9]),
    "two bytes of gzip": text(b"\x1f\x8b"),
    "gzip with another tail": text(gzip.compress(csv(VISIT.format(20, "x")).encode()) + b"tail"),
    "gzip in gzip": text(gzip.compress(gzip.compress(csv(VISIT.format(21, "x")).encode()))),
    "gzip with a wrong sum": text(gzip.compress(csv(VISIT.format(22, "x")).encode())[:-8] + bytes(8)),
    "gzip bomb": gzip_bomb,
    "ten terabytes of nothing": sparse,
    "formula": text(csv(VISIT.format(23, "=1+cmd|' /C calc'!A0"))),
    "spreadsheet separator line": text("sep=;\n" + csv(VISIT.format(24, "x"))),
    "far years": text(
        csv(VISIT.format(25, "x").replace("2026", "9999"), VISIT.format(26, "x").replace("2026", "0000"))
    ),
    "clock of 10,000 digits": text(csv(VISIT.format(27, "x").replace("2026", "9" * 10_000))),
    "turned writing": text(csv(VISIT.format(28, "\u202e\ufeff\u0000"))),
    "named pipe": os.mkfifo,
    "socket": listening,
    "device": device,
    "dangling link": lambda path: path.symlink_to("nowhere.csv"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link out of the folder": lambda path: path.symlink_to("/etc/passwd"),
    "link to a good file": lambda path: path.symlink_to("good.csv"),
    "link to a folder": lambda path: path.symlink_to("/"),
    "link to a pipe of the system": lambda path: path.symlink_to("/dev/zero"),
    "folder with a file's name": lambda path: path.mkdir(),
    "folder with a loop": loop,
    "name that is not UTF-8": odd_name(b"latin-\xe9\xff.csv"),
    "name with a line feed": odd_name(b"line\nfeed.csv"),
    "name that steers a terminal": odd_name(b"esc\x1b[2J.csv"),
    "name of 255 bytes": renamed("n" * 251 + ".csv", csv(VISIT.format(29, "x"))),
    "name with markup": renamed("[red]*?{a,b}[0-9]'\";--.csv", csv(VISIT.format(30, "x"))),
}
JSON: Mapping[str, Fault] = {
    "array nested 5,000 deep": text(nested("[", "]", 5_000)),
    "array nested a million deep": text(nested("[", "]", 1_000_000)),
    "object nested 5,000 deep": text(nested('{"a":', "}", 5_000)),
    "object nested deep within an array": text("[" + nested('{"a":', "}", 5_000) + "]"),
    "value nested deep": text(vitals(vitals="@").replace('"@"', nested("[", "]", 100_000))),
    "lone surrogate in an array": text('[{"observation_id": "\\ud800", "patient_id": "P1", "hospital_id": "H1"}]'),
    "lone surrogate in a line": text(vitals().replace('"O"', '"\\ud800"')),
    "NUL in a text": text(vitals(device_id="a\0b")),
    "number of 100,000 digits": text(vitals(visit_id="@").replace('"@"', "9" * 100_000)),
    "number of 100,000 digits in an array": text("[" + vitals(visit_id="@").replace('"@"', "9" * 100_000) + "]"),
    "infinite numbers": text(vitals(vitals={"heart_rate": {"value": float("inf")}, "gcs": float("nan")})),
    "a key twice": text('{"patient_id": "P1", "patient_id": "P2", "hospital_id": "H1"}\n'),
    "empty key": text(vitals(**{"": 1, "$.a[0]": 2, "a.b": 3})),
    "100,000 keys": text(vitals(**{f"k{n}": n for n in range(100_000)})),
    "array cut off": text("[" + vitals()),
    "array of numbers": text("[1, 2, 3]"),
    "a text": text('"' + "x" * 1000 + '"'),
    "comment in front": text("// made by x\n" + vitals()),
    "line cut off": text(vitals()[:-20]),
    "5 MB on a line": text(vitals(note="x" * 5_000_000)),
    "Windows' mark and blank lines": text(b"\xef\xbb\xbf\r\n\r\n" + vitals().encode()),
    "vitals that are a number": text(vitals(vitals=5)),
    "name that is a pattern": renamed("a[*]?{x}.json", vitals(observation_id="A")),
    "name that says a partition": renamed("content=5.json", vitals(observation_id="B")),
    "folder that says a partition": lambda path: (
        (path.parent / "content=5").mkdir(exist_ok=True),
        text(vitals())(path),
    ),
}
HL7: Mapping[str, Fault] = {
    "no header": text("EVN|A01\rPID|1\r"),
    "only a header's name": text("MSH"),
    "delimiters that repeat": text("MSH|||||\rPID|1\r"),
    "delimiters that are letters": text("MSHAAAAA\rPIDA1\r"),
    "a million escapes": text(MESSAGE.format(1).replace("||N", "||" + "\\" * 1_000_000)),
    "a million repetitions": text(MESSAGE.format(2).replace("||N", "||" + "~" * 1_000_000)),
    "a million components": text(MESSAGE.format(3).replace("||N", "||" + "^" * 1_000_000)),
    "a million fields": text(MESSAGE.format(4) + "PID" + "|" * 1_000_000),
    "100,000 segments": text(MESSAGE.format(5) + "OBX|1|NM|8867-4||80\r" * 100_000),
    "frames without an end": text("\x0b" * 10_000 + MESSAGE.format(6)),
    "hexadecimal escapes": text(MESSAGE.format(7).replace("||N", "||\\X00FFD800\\\\X0\\")),
    "unknown character set": text(MESSAGE.format(8).replace("2.5.1", "2.5.1||||||KLINGON").encode("latin-1") + b"\xff"),
    "batch that lies": text("FHS|^~\\&\rBHS|^~\\&\r" + MESSAGE.format(9) + "BTS|99999999999999999999\rFTS|x\r"),
}
FHIR: Mapping[str, Fault] = {
    "resource nested 5,000 deep": text('{"resourceType": "Bundle", "entry": ' + nested("[", "]", 5_000) + "}"),
    "opened 100,000 times": text('{"resourceType":' * 100_000),
    "Bundle of Bundles": text(nested('{"resourceType": "Bundle", "entry": [{"resource": ', "}]}", 300)),
    "Bundle cut off": text('{"resourceType": "Bundle", "entry": [{"resource": {"resourceType": "Patient"'),
    "entry that is a number": text('{"resourceType": "Bundle", "entry": [1, null, "x", []]}'),
    "types of every kind": text('{"resourceType": 5}\n{"resourceType": null}\n{"resourceType": ["Patient"]}\n'),
    "lone surrogate in an address": text(
        '{"resourceType": "Bundle", "entry": [{"fullUrl": "urn:\\ud800", "resource": {"resourceType": "Patient"}}]}'
    ),
    "UTF-16 without a mark (FHIR)": text(RESOURCE.format(1).encode("utf-16-le")),
    "XML": text('<?xml version="1.0"?>\n<!DOCTYPE a [<!ENTITY a "&a;&a;">]>\n<Patient>&a;</Patient>\n'),
    "100,000 empty arrays": text("[]" * 100_000),
}
#: Landed under a name of their own.
NAMED = {
    "name that is not UTF-8": "latin-\\xe9\\xff.csv",
    "name with a line feed": "line\\u000afeed.csv",
    "name that steers a terminal": "esc\\u001b[2J.csv",
    "name of 255 bytes": "n" * 251 + ".csv",
    "name with markup": "[red]*?{a,b}[0-9]'\";--.csv",
    "name that is a pattern": "a[*]?{x}.json",
    "name that says a partition": "content=5.json",
}
#: Never opened: they have no content.
UNOPENED = {
    *("named pipe", "socket", "device", "dangling link", "link to itself", "link out of the folder"),
    *("link to a good file", "link to a folder", "link to a pipe of the system", "folder with a file's name"),
    *("folder with a loop", "ten terabytes of nothing"),
    *("name that is not UTF-8", "name with a line feed", "name that steers a terminal"),
}


def contents(faults: Mapping[str, Fault]) -> Mapping[str, Fault]:
    """Those that are in what a file holds."""
    return {kind: fault for kind, fault in faults.items() if kind not in UNOPENED and kind not in NAMED}


def packed(write: Fault) -> Fault:
    def fault(path: Path) -> None:
        write(path)
        path.write_bytes(gzip.compress(path.read_bytes(), 1))

    return fault


def also(faults: Mapping[str, Fault], others: Mapping[str, Fault]) -> Mapping[str, Fault]:
    """The faults of a format, what is wrong within a file once more in gzip, and what is wrong in another format."""
    return {
        **faults,
        **{f"{kind}, packed": packed(fault) for kind, fault in contents(faults).items()},
        **{f"{kind}, of another format": fault for kind, fault in contents(others).items()},
    }


#: Folder below the landing folder -> ending of names, a good file, faults.
FOLDERS: Mapping[str, tuple[str, str, Mapping[str, Fault]]] = {
    "native/er_visits": (".csv", csv(VISIT.format(99, "good")), also(CSV, HL7)),
    "native/vitals": (".json", vitals(observation_id="good"), also(JSON, FHIR)),
    "hl7v2-adt": (".hl7", MESSAGE.format("good"), also(HL7, CSV)),
    "fhir-r4": (".ndjson", RESOURCE.format("good"), also(FHIR, JSON)),
}
#: Folder -> the kinds that the fast tests try: those that nobody may open, and one of each thing that once stopped all.
FEW: Mapping[str, AbstractSet[str]] = {
    "native/er_visits": {*UNOPENED, "opening quote without an end", "field of 200,000 characters", "CR line ends"},
    "native/vitals": {"object nested 5,000 deep", "lone surrogate in an array"},
    "hl7v2-adt": {"frames without an end"},
    "fhir-r4": {"opened 100,000 times"},
}


def zone_of(folder: Path, connection: duckdb.DuckDBPyConnection) -> LandingZone:
    (folder / "landing" / "native" / "hospitals").mkdir(parents=True)
    (folder / "landing" / "native" / "hospitals" / "hospitals.csv").write_text(HOSPITALS)
    return replace(zone_in(folder, connection), limits=LIMITS)


@pytest.fixture(scope="module", params=["few", pytest.param("all", marks=pytest.mark.nightly)])
def landed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LandingZone, pl.DataFrame]]:
    with scratch_connection() as connection:
        zone = zone_of(tmp_path_factory.mktemp("faults"), connection)
        for folder, (ending, good, faults) in FOLDERS.items():
            place = zone.landing / folder
            place.mkdir(parents=True)
            (place / f"good{ending}").write_text(good)
            for kind, write in faults.items():
                if request.param == "all" or kind in FEW[folder]:
                    write(landing_place(place, kind, ending))
        yield zone, zone.discover()


def landing_place(folder: Path, kind: str, ending: str) -> Path:
    return folder / f"{kind.replace(' ', '-').replace(chr(39), '')}{ending}"


def name_of(folder: str, kind: str) -> str:
    return f"{folder}/{NAMED.get(kind, landing_place(Path(), kind, FOLDERS[folder][0]).name)}"


def test_every_fault_has_a_state_and_what_to_do(landed: tuple[LandingZone, pl.DataFrame]) -> None:
    _, ledger = landed
    tried = 0
    for folder, (_, _, faults) in FOLDERS.items():
        for kind in faults:
            rows = ledger.filter(pl.col("source_file") == name_of(folder, kind))
            tried += not rows.is_empty()
            for row in rows.rows(named=True):
                assert (row["problem"] is None) == (row["state"] in ("ready", "companion")), kind
                if kind in UNOPENED:
                    assert (row["state"], row["encoding"]) == ("unreadable", "not opened"), kind
                # A reader that is at its wit's end is one that does not expect what anybody may deliver.
                assert "makers of this program" not in (row["problem"] or ""), kind
    assert tried == sum(map(len, FEW.values())) or tried == sum(len(faults) for _, _, faults in FOLDERS.values()) >= 200


def test_every_good_file_beside_them_is_loaded(landed: tuple[LandingZone, pl.DataFrame]) -> None:
    zone, ledger = landed
    good = ledger.filter(pl.col("source_file").str.contains("/good\\."))
    assert set(good["source_file"]) == {f"{folder}/good{ending}" for folder, (ending, _, _) in FOLDERS.items()}
    assert set(good["state"]) == {"ready"} and (good["unreadable_count"] == 0).all()
    for subject in ledger.filter(pl.col("state") == "ready")["subject"].unique():
        period = Period(date(2026, 1, 1), date(2027, 1, 1)) if CONTRACTS[f"raw_{subject}"].partitioned else None
        raw = zone.read(subject, ledger, period).collect("polars").to_native()
        expected = ledger.filter(pl.col("subject") == subject, pl.col("state") == "ready")
        counts = dict(expected.select("source_file", "row_count").iter_rows())
        assert dict(raw.group_by("source_file").len().iter_rows()) == counts


def test_nothing_from_outside_the_folder_and_no_value_is_in_the_ledger(
    landed: tuple[LandingZone, pl.DataFrame],
) -> None:
    said = landed[1].write_json()
    assert "root:" not in said and "/bin/" not in said and "usr" not in said
    problems = " ".join(landed[1]["problem"].drop_nulls())
    assert "P1" not in problems and "fell" not in problems


def test_a_second_look_changes_nothing(landed: tuple[LandingZone, pl.DataFrame]) -> None:
    zone, ledger = landed
    assert zone.discover(ledger).equals(ledger)


# What one file may cost ---------------------------------------------------------------------------


def test_a_reader_that_takes_too_long_is_ended_and_the_next_request_is_answered() -> None:
    with Worker(FileLimits(seconds=1)) as worker:
        with pytest.raises(UnreadableError, match="most_file_seconds"):
            worker.run(time.sleep, 600)
        assert worker.run(len, "abc") == 3


def test_a_reader_that_takes_too_much_memory_is_ended() -> None:
    with Worker(FileLimits(memory_megabytes=600)) as worker, pytest.raises(UnreadableError, match="most_file_memory"):
        worker.run(str.ljust, "", 2_000_000_000)


def test_ctrl_c_does_not_end_the_reader() -> None:
    with Worker(LIMITS) as worker:
        worker.run(signal.raise_signal, signal.SIGINT)
        assert worker.run(len, "abc") == 3


def test_a_reader_that_dies_is_no_end_and_its_errors_quote_nothing() -> None:
    with Worker(LIMITS) as worker:
        with pytest.raises(UnreadableError, match="exit code 7"):
            worker.run(os._exit, 7)
        with pytest.raises(UnreadableError) as error:
            worker.run(int, "Erika Mustermann")
    assert "Erika" not in str(error.value) and error.value.__cause__ is None


@pytest.mark.nightly
def test_large_files_are_read_by_a_process_of_their_own_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    run = Worker.run
    monkeypatch.setattr(
        Worker, "run", lambda self, *request: (asked.append(request[0].__name__), run(self, *request))[1]
    )
    ledgers = []
    for most in (10**9, 10):
        monkeypatch.setattr("hospital_assets.landing.zone.most_bytes_here", lambda _, most=most: most)
        with scratch_connection() as connection:
            zone = zone_of(tmp_path / str(most), connection)
            for folder in ("native/er_visits", "hl7v2-adt"):
                ending, good, _ = FOLDERS[folder]
                place = zone.landing / folder
                place.mkdir(parents=True)
                (place / f"good{ending}").write_text(good)
            packed = zone.landing / "native" / "er_visits" / "packed.csv.gz"
            packed.write_bytes(gzip.compress(csv(VISIT.format(1, "x" * 2_000_000)).encode()))
            ledger = zone.discover()
            assert bool(asked) == (most == 10)
            assert set(ledger["state"]) == {"ready"}
            moments = ("first_seen_at", "name_first_seen_at", "file_modified_ns")
            ledgers.append(ledger.drop(*moments, "file_sha256", "file_bytes"))
    assert ledgers[0].equals(ledgers[1])
    assert set(asked) == {"verified", "made_ready"}


def test_raised_limits_take_effect_at_the_next_look(tmp_path: Path) -> None:
    with scratch_connection() as connection:
        zone = replace(zone_of(tmp_path, connection), limits=FileLimits(megabytes=1))
        place = zone.landing / "native" / "er_visits"
        place.mkdir()
        (place / "large.csv").write_text(csv(VISIT.format(1, "x" * 2_000_000)))
        (place / "packed.csv").write_bytes(gzip.compress(csv(VISIT.format(2, "x" * 2_000_000)).encode()))
        ledger = zone.discover()
        of_visits = pl.col("subject") == "er_visits"
        assert ledger.filter(of_visits)["state"].to_list() == ["unreadable"] * 2
        assert ledger.filter(of_visits)["problem"].str.contains("most_file_megabytes").all()
        again = replace(zone, limits=FileLimits()).discover(ledger)
        assert again.filter(of_visits)["state"].to_list() == ["ready"] * 2


def test_a_file_that_grows_for_ever_is_left_for_a_later_look(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Growing:
        def read(self, size: int) -> bytes:
            asked.append(size)
            return b"x" * size

    monkeypatch.setattr("hospital_assets.landing.content.open_landed", lambda _: contextlib.nullcontext(Growing()))
    sha256(Path("grows.csv"), 10)
    assert sum(asked) == 11


def test_files_that_fail_together_are_found_by_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = LandingZone._count

    def fails(self: LandingZone, profile: str, subject: str, ledger: pl.DataFrame, is_todo: pl.Expr) -> pl.DataFrame:
        if subject == "er_visits" and ledger.filter(is_todo)["source_file"].str.contains("bad").any():
            raise duckdb.InternalException("of Erika Mustermann")
        return count(self, profile, subject, ledger, is_todo)

    monkeypatch.setattr(LandingZone, "_count", fails)
    with scratch_connection() as connection:
        zone = zone_of(tmp_path, connection)
        place = zone.landing / "native" / "er_visits"
        place.mkdir()
        for n in range(6):
            (place / f"{n}{'-bad' * (n in (2, 5))}.csv").write_text(csv(VISIT.format(n, "x")))
        ledger = zone.discover().filter(pl.col("subject") == "er_visits")
    bad = ledger.filter(pl.col("state") == "unreadable")
    assert bad["source_file"].to_list() == ["native/er_visits/2-bad.csv", "native/er_visits/5-bad.csv"]
    assert ledger.filter(pl.col("state") == "ready")["row_count"].to_list() == [1] * 4
    assert "Erika" not in " ".join(bad["problem"])


@pytest.mark.parametrize("met_at", [1, 2])
def test_a_signal_is_no_fault_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, met_at: int) -> None:
    """DuckDB makes an ordinary error of one that meets it at work: at the first try of a group, or of a file alone."""
    looks: list[str] = []

    def met(self: LandingZone, profile: str, subject: str, *_: object) -> pl.DataFrame:
        looks.append(subject)
        raise RuntimeError(INTERRUPTED) if len(looks) == met_at else duckdb.InternalException("x")

    monkeypatch.setattr(LandingZone, "_count", met)
    with scratch_connection() as connection:
        zone = zone_of(tmp_path, connection)
        with pytest.raises(KeyboardInterrupt):
            zone.discover()
    assert len(looks) == met_at
    with pytest.raises(KeyboardInterrupt):
        why_unreadable(RuntimeError(INTERRUPTED))


# A quote that nobody closes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "lines", "left_out"),
    [
        ('a,b,c\n1,2,"cut\n2,3,ok\n3,4,ok\n', [3, 4], [2]),
        ('a,b,c\n1,2,"cut\n2,3,"ok"\n3,4,ok\n', [3, 4], [2]),  # the next quote does not close it
        ('a,b,c\n1,"x\ny",3\n2,3,"cut\n2,3,ok\n', [2, 5], [4]),
        ('a,b\n1,ok\n2,"cut', [2], [3]),  # as of a file that was cut off
        ('a,b\n1,laceration 3" long\n2,"say ""ah"""\n', [2, 3], []),  # no quote opens in the midst of a field
        ('a,b\n1,x\x0by\u2028z\n2,"cut\n3,ok\n', [2, 4], [3]),  # of what ends lines elsewhere, nothing ends a record
    ],
)
def test_an_unclosed_quote_takes_its_own_line_alone(text: str, lines: list[int], left_out: list[int]) -> None:
    rows = parse_csv(text, ",").select("@line", "@problem").rows()
    assert [line for line, problem in rows if problem is None] == lines
    assert [line for line, problem in rows if problem == "unclosed_quote"] == left_out
    assert len(rows) == len(lines) + len(left_out)


@given(st.lists(st.text('ab," ', max_size=6), min_size=1, max_size=8), st.data())
def test_one_unclosed_quote_loses_no_other_record(values: list[str], data: st.DataObject) -> None:
    before = [line(["name", "n"])] + [line([value, str(n)]) for n, value in enumerate(values)]
    at = data.draw(st.integers(1, len(before)))
    rows = parse_csv("".join([*before[:at], 'x,"cut\n', *before[at:]]), ",")
    read = rows.filter(pl.col("@problem").is_null()).select("name", "n").rows()
    assert set(read) == {(value or None, str(n)) for n, value in enumerate(values)}
    assert rows.filter(pl.col("@problem") == "unclosed_quote")["@record"].to_list() == ['x,"cut']


def line(fields: list[str]) -> str:
    return ",".join('"' + field.replace('"', '""') + '"' for field in fields) + "\n"
