"""A fuzzer over all readers: whatever bytes a file holds, a reader ends in records, or says why in words.

The same inputs every time, from small sound files that are cut, doubled, swapped and spoiled. A longer run by hand:
`HOSPITAL_FUZZ_ROUNDS=100000 python -m pytest hospital_assets_tests/test_landing_fuzz.py`, with another
`HOSPITAL_FUZZ_SEED` for other inputs.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from hospital_assets.landing.content import UnreadableError
from hospital_assets.landing.csv_records import csv_relation
from hospital_assets.landing.json_records import json_relation
from hospital_assets.landing.profile import Subject, canonical_columns
from hospital_assets.landing.records import LandedFile
from hospital_assets.landing.registry import load_profiles
from hospital_assets.landing.verify import verified
from hospital_assets.settings import FileLimits
from hospital_assets.warehouse.database import scratch_connection
from hospital_assets_tests.test_landing_faults import MESSAGE, RESOURCE, VISIT, csv, vitals

ROUNDS = int(os.environ.get("HOSPITAL_FUZZ_ROUNDS", "120"))
SEED = int(os.environ.get("HOSPITAL_FUZZ_SEED", "1"))
LIMITS = FileLimits(megabytes=100)
#: Of the processor. A small file takes milliseconds; a reader that takes this has met what it is not up to.
MOST_SECONDS = 30.0

BUNDLE = {
    "resourceType": "Bundle",
    "entry": [
        {"fullUrl": f"urn:uuid:{n}", "resource": {"resourceType": kind, "subject": {"reference": "urn:uuid:0"}}}
        for n, kind in enumerate(("Patient", "Encounter", "Observation"))
    ],
}
#: Profile, subject -> sound files.
SOUND: dict[tuple[str, str], list[bytes]] = {
    ("native", "er_visits"): [csv(*(VISIT.format(n, 'a "quoted", text\n') for n in range(4))).encode()],
    ("native", "vitals"): [
        (vitals(vitals={"heart_rate": {"value": 80.5, "unit": "/min"}}) * 3).encode(),
        json.dumps([json.loads(vitals(gcs=15))] * 2, indent=1).encode(),
    ],
    ("hl7v2-adt", "adt_events"): [
        (MESSAGE.format(1) + MESSAGE.format(2)).encode(),
        f"\x0b{MESSAGE.format(3)}\x1c\r".encode(),
        f"FHS|^~\\&\rBHS|^~\\&\r{MESSAGE.format(4)}BTS|1\rFTS|1\r".encode(),
    ],
    ("fhir-r4", "patients"): [
        (RESOURCE.format(1) + RESOURCE.format(2)).encode(),
        json.dumps(BUNDLE).encode(),
        json.dumps(BUNDLE, indent=2).encode(),
        json.dumps([BUNDLE, BUNDLE]).encode(),
    ],
}
#: What tends to trip a reader.
PIECES = [
    *(b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\r", b"\n", b"\r\n", b"\x0b", b"\x1c", b"\x85", b"\xe2\x80\xa8"),
    *(
        b'"',
        b"'",
        b"\\",
        b"\\u0000",
        b"\\ud800",
        b",",
        b";",
        b"|",
        b"^",
        b"~",
        b"&",
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b"null",
    ),
    *(b"NaN", b"-0", b"1e999", b"9" * 400, b"MSH|", b"@line", b"@record", b"\x1f\x8b", "é€𝄞".encode(), b"\xed\xa0\x80"),
]


def spoiled(content: bytes, rng: random.Random) -> bytes:
    """A file after some accidents."""
    for _ in range(rng.randint(1, 6)):
        place, other = sorted((rng.randint(0, len(content)), rng.randint(0, len(content))))
        match rng.randrange(7):
            case 0:
                content = content[:place]
            case 1:
                content = content[:place] + content[other:]
            case 2:
                content = content[:place] + content[place:other] * rng.choice((2, 2, 50)) + content[other:]
            case 3:
                content = (
                    content[:place] + bytes(rng.randrange(256) for _ in range(rng.randint(1, 4))) + content[place:]
                )
            case 4:
                content = content[:place] + rng.choice(PIECES) * rng.choice((1, 1, 2, 300)) + content[place:]
            case 5:
                content = content[other:] + content[:place]
            case _:
                text = content.decode("utf-8", "replace")
                content = text.encode(rng.choice(("utf-16", "utf-16-le", "utf-8-sig", "latin-1", "utf-32")), "replace")
        content = content[:200_000]
    return gzip.compress(content)[: rng.choice((-1, None))] if rng.random() < 0.1 else content


def records(
    connection: duckdb.DuckDBPyConnection,
    subject: str,
    spec: Subject,
    file: LandedFile,
    spool: Path,
    names: frozenset[str],
) -> int:
    """How many records a reader finds in a file: all columns are read."""
    if spec.format == "csv":
        found = csv_relation(connection, subject, spec, [file], [], spool)
    else:
        found = json_relation(connection, canonical_columns(subject), spec, [file], spool, named=names)
    return found.pl().height


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with scratch_connection() as opened:
        yield opened


@pytest.mark.parametrize(("profile_name", "subject"), SOUND)
def test_every_reader_gets_through_whatever_lands(
    tmp_path: Path, connection: duckdb.DuckDBPyConnection, profile_name: str, subject: str
) -> None:
    rng = random.Random(f"{SEED} {subject}")
    profile = load_profiles(None)[profile_name]
    spec = profile.subjects[subject]
    path = tmp_path / "file"
    outcomes = {"records": 0, "words": 0}
    for number in range(ROUNDS):
        content = spoiled(rng.choice(SOUND[profile_name, subject]), rng)
        path.write_bytes(content)
        started = time.process_time()
        try:
            found = verified(path, spec, LIMITS)
            if not found.is_blank:
                file = LandedFile(
                    path,
                    "file",
                    f"{number:064}",
                    is_plain=(found.encoding, found.compression) == ("utf-8", "none"),
                    is_packed=(found.encoding, found.compression) == ("utf-8", "gzip"),
                    limits=LIMITS,
                )
                records(connection, subject, spec, file, tmp_path / "spool", profile.names_of(spec.format))
            outcomes["records"] += 1
        except UnreadableError as error:
            assert str(error)
            outcomes["words"] += 1
        except BaseException as error:
            (kept := Path(tmp_path.parent / f"{subject}-{SEED}-{number}")).write_bytes(content)
            raise AssertionError(f"round {number} ended in {type(error).__name__}: {kept}") from error
        assert time.process_time() - started < MOST_SECONDS, f"round {number}"
    assert min(outcomes.values()) > 0 or profile_name in ("hl7v2-adt", "fhir-r4")
