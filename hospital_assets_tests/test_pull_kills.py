"""`hospital pull` is killed again and again while its sources go on changing: nothing is lost, nothing comes twice.

A bucket, an SFTP server and a database change all the time: objects and files are added, replaced and renamed, rows
written in transactions that stay open. What was pulled with kills must come to the same warehouse as what a clean
directory pulls at once. The same, because an old name of a renamed object, an older version of a row and a row in the
overlap of two looks may lie in the landing folder besides: the tables from `cleaned` on, without the columns that say
from which file and line a record came, and without the repetitions that cleaning has sorted out.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import duckdb
import polars as pl
import pytest

from hospital_assets.assets.cleaned.rules import DUPLICATE, SUPERSEDED
from hospital_assets.contracts import CONTRACTS
from hospital_assets.files import is_locked
from hospital_assets.settings import Settings, write_settings
from hospital_assets.sources.memory import memory_file, open_memory
from hospital_assets_tests.helpers import query, run
from hospital_assets_tests.postgresql import postgresql_server
from hospital_assets_tests.processes import QUIET, hospital, started
from hospital_assets_tests.s3 import s3_server
from hospital_assets_tests.sftp import sftp_server

FIRST = date(2026, 3, 5)
COLUMNS = ("visit", "patient", "hospital", "arrival", "level", "departure", "outcome", "complaint", "written")
PROFILE = """
name = "{name}"
description = "A hospital whose exports never rest."
time_zone = "America/Chicago"
[source]
{source}
[subjects.hospitals]
files = ["visits/*.*"]
required = ["hospital_id"]
constants = {{ time_zone = "America/Chicago" }}
derived = {{ hospital_name = ["=Hospital", "hospital"] }}
columns = {{ hospital_id = "hospital" }}
[subjects.departments]
files = ["visits/*.*"]
required = ["hospital_id"]
constants = {{ department_name = "Emergency", effective_date = "1900-01-01" }}
derived = {{ department_id = ["hospital", "=Emergency"] }}
columns = {{ hospital_id = "hospital" }}
[subjects.patients]
files = ["visits/*.*"]
date = "recorded_at"
columns = {{ patient_id = "patient", recorded_at = "arrival" }}
[subjects.er_visits]
files = ["visits/*.*"]
date = "arrival_time"
constants = {{ department = "Emergency" }}
[subjects.er_visits.columns]
visit_id = "visit"
patient_id = "patient"
hospital_id = "hospital"
arrival_time = "arrival"
triage_level = "level"
departure_time = "departure"
disposition = "outcome"
chief_complaint = "complaint"
recorded_at = "written"
"""
QUERY = """database = "CLARITY_URL"
[source.queries.er_visits]
sql = "select * from visits where updated_at >= :since and updated_at < :until"
overlap_minutes = 1
"""
#: Which file and line a record came from: what came twice may come from either.
PLACES = {"source_file", "source_line", "source_part"}


@dataclass
class Registrar:
    """Writes visits, and corrects them later: a corrected one is written later than all before."""

    rng: random.Random
    visits: int = 0
    moments: int = 0

    def row(self, number: int | None = None) -> dict[str, str]:
        """A new visit, or another version of a known one; what decides about its day never changes."""
        if number is None:
            number = self.visits = self.visits + 1
        self.moments += 1
        arrival = datetime(2026, 3, 5) + timedelta(minutes=number * 7 % 4000)
        return {
            "visit": f"V{number}",
            "patient": f"P{number % 97}",
            "hospital": f"H{number % 3}",
            "arrival": f"{arrival:%Y-%m-%d %H:%M:%S}",
            "level": str(self.rng.randint(1, 5)),
            "departure": f"{arrival + timedelta(minutes=self.rng.randint(20, 300)):%Y-%m-%d %H:%M:%S}",
            "outcome": self.rng.choice(["home", "admitted"]),
            "complaint": self.rng.choice(["Fever", "Chest pain", "x" * 400]),
            "written": f"{datetime(2026, 3, 9) + timedelta(seconds=self.moments):%Y-%m-%d %H:%M:%S}",
        }

    def corrected(self, row: dict[str, str]) -> dict[str, str]:
        """The same visit, written anew."""
        return self.row(int(row["visit"][1:]))


class Shelf(Protocol):
    """Where files are kept for others."""

    def put(self, key: str, body: bytes) -> None: ...

    def move(self, old: str, new: str) -> None: ...


@dataclass
class Bucket:
    """Objects: each is there whole, or not at all."""

    store: Any

    def put(self, key: str, body: bytes) -> None:
        self.store.put(key, body)

    def move(self, old: str, new: str) -> None:
        self.store.rename(old, new)


@dataclass
class Folder:
    """Files of a server: some are renamed into their place, others grow there."""

    folder: Path
    rng: random.Random

    def put(self, key: str, body: bytes) -> None:
        path = self.folder / key
        path.parent.mkdir(exist_ok=True)
        if self.rng.random() < 0.5:
            part = path.with_name(f"{path.name}.part")
            part.write_bytes(body)
            part.replace(path)
            return
        with path.open("wb", buffering=0) as file:
            file.write(body[: len(body) // 2])
            time.sleep(self.rng.random() / 3)
            file.write(body[len(body) // 2 :])

    def move(self, old: str, new: str) -> None:
        (self.folder / old).rename(self.folder / new)


@dataclass
class Files:
    """Files of visits on a shelf, which change; an old name is never used again."""

    shelf: Shelf
    registrar: Registrar
    rng: random.Random
    rows: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    renamed: set[str] = field(default_factory=set)
    #: What was ever there: name -> SHA-256 of each version.
    ever: dict[str, list[str]] = field(default_factory=dict)

    def change(self) -> None:
        """Add a file, or replace or rename one."""
        lasting = sorted(set(self.rows) - self.renamed)
        act = self.rng.choice(["add", "add", "replace", "rename"]) if lasting else "add"
        if act == "add":
            self._put(f"visits/{len(self.ever):05}.csv", [self.registrar.row() for _ in range(self.rng.randint(1, 60))])
            return
        key = self.rng.choice(lasting)
        if act == "replace":
            kept = [self.registrar.corrected(r) if self.rng.random() < 0.3 else r for r in self.rows[key]]
            self._put(key, [*kept, self.registrar.row()])
            return
        # Some names sort before all that are known.
        new = f"visits/{self.rng.choice('-z')}{key.removeprefix('visits/')}"
        self.rows[new], self.ever[new] = self.rows.pop(key), self.ever[key]
        self.renamed.add(new)
        self.shelf.move(key, new)

    def bodies(self) -> dict[str, bytes]:
        """What is there now."""
        return {key: _csv(rows) for key, rows in self.rows.items()}

    def end(self) -> None:
        """Nothing is open."""

    def _put(self, key: str, rows: list[dict[str, str]]) -> None:
        self.rows[key] = rows
        self.ever.setdefault(key, []).append(hashlib.sha256(_csv(rows)).hexdigest())
        self.shelf.put(key, _csv(rows))


def _csv(rows: list[dict[str, str]]) -> bytes:
    return "\n".join([",".join(COLUMNS), *(",".join(row.values()) for row in rows), ""]).encode()


@dataclass
class Rows:
    """Rows of a database, written at once or in a transaction that stays open; each way has rows of its own."""

    quick: Any
    slow: Any
    registrar: Registrar
    rng: random.Random
    known: dict[str, dict[str, dict[str, str]]] = field(default_factory=lambda: {"quick": {}, "slow": {}})
    left_open: int = 0

    def change(self) -> None:
        """Insert rows and update one."""
        name = self.rng.choice(list(self.known))
        connection = getattr(self, name)
        with connection.cursor() as cursor:
            for _ in range(self.rng.randint(1, 20)):
                row = self.registrar.row()
                cursor.execute(f"insert into visits values ({_texts(row.values())})")
                self.known[name][row["visit"]] = row
            row = self.registrar.corrected(self.rng.choice(list(self.known[name].values())))
            to = ", ".join(f"{column} = {_texts([value])}" for column, value in row.items())
            which = f"where visit = {_texts([row['visit']])}"
            cursor.execute(f"update visits set {to}, updated_at = clock_timestamp() {which}")
            self.known[name][row["visit"]] = row
        if name == "quick":
            connection.commit()
        elif self.left_open:
            self.left_open -= 1
        else:
            connection.commit()
            # Of these changes, one in two belongs to it.
            self.left_open = self.rng.randint(0, 30)

    def end(self) -> None:
        """Commit what is open."""
        self.slow.commit()


def _texts(values: Any) -> str:
    return ", ".join(f"'{value}'" for value in values)


@contextmanager
def going_on(sources: list[Files | Rows], pause: float) -> Iterator[None]:
    """The sources change, each in a thread of its own, until the block ends; then nothing is open."""
    over, failed = threading.Event(), []

    def go_on(source: Files | Rows) -> None:
        try:
            while not over.wait(pause):
                source.change()
            source.end()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=go_on, args=[source]) for source in sources]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    if failed:
        raise failed[0]


def directory(folder: Path, places: dict[str, str]) -> Settings:
    """A data directory with these profiles."""
    settings = Settings(folder, first_service_date=FIRST, last_service_date=FIRST + timedelta(days=2))
    settings.profiles_folder.mkdir(parents=True)
    write_settings(settings)
    for name, source in places.items():
        (settings.profiles_folder / f"{name}.toml").write_text(PROFILE.format(name=name, source=source))
    return settings


def said(settings: Settings, *words: str) -> str:
    done = subprocess.run(hospital(settings.data_dir, *words), capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def kill_one(settings: Settings, rng: random.Random, names: list[str]) -> bool:
    """Start a pull and kill it at some moment of its work; whether it was still at work."""
    lock = memory_file(settings).with_suffix(".lock")
    with started(hospital(settings.data_dir, "pull", *names), **QUIET) as process:
        while process.poll() is None and not is_locked(lock):
            time.sleep(0.01)
        # Moments soon after the beginning are the busiest.
        time.sleep(4 * rng.random() ** 3)
    assert process.returncode in (0, -signal.SIGKILL)
    return process.returncode != 0


@pytest.mark.parametrize(
    "kills", [pytest.param(6, marks=pytest.mark.slow), pytest.param(50, marks=pytest.mark.torture)]
)
def test_kills_lose_nothing_and_bring_nothing_twice(
    kills: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("obstore", reason="obstore is not installed (extra object-store)")
    dbapi = pytest.importorskip("adbc_driver_postgresql.dbapi", reason="it is not installed (extra postgres)")
    import obstore.store

    seed = int(os.environ.get("HOSPITAL_TEST_SEED", 0)) or random.SystemRandom().randrange(1, 10**6)
    print(f"HOSPITAL_TEST_SEED={seed}")  # noqa: T201
    rng = random.Random(seed)
    with ExitStack() as stack:
        stack.enter_context(s3_server(monkeypatch, "bucket"))
        (tmp_path / "server").mkdir()
        address, folder, environment = stack.enter_context(sftp_server(tmp_path / "server"))
        url = stack.enter_context(postgresql_server()).dsn()
        for name, value in {**environment, "CLARITY_URL": url}.items():
            monkeypatch.setenv(name, value)
        quick, slow = (stack.enter_context(dbapi.connect(url)) for _ in range(2))
        with quick.cursor() as cursor:
            columns = ", ".join(f"{name} text" for name in COLUMNS)
            cursor.execute(f"create table visits ({columns}, updated_at timestamptz default clock_timestamp())")
        quick.commit()
        store = obstore.store.from_url("s3://bucket/in", client_options={"allow_http": True})
        rngs = [random.Random(rng.random()) for _ in range(3)]
        files = {
            "bucket": Files(Bucket(store), Registrar(rngs[0]), rngs[0]),
            "server": Files(Folder(folder, rngs[1]), Registrar(rngs[1]), rngs[1]),
        }
        rows = Rows(quick, slow, Registrar(rngs[2]), rngs[2])
        sources: list[Files | Rows] = [*files.values(), rows]
        for source in sources:
            for _ in range(60):
                source.change()
        places = {"bucket": 'address = "s3://bucket/in"', "server": f'address = "{address}"', "database": QUERY}
        settings = directory(tmp_path / "data", places)
        done = 0
        # However long it takes, there are some hundred files in the end.
        with going_on(sources, kills / 80):
            while done < kills:
                done += kill_one(settings, rng, rng.sample(sorted(places), len(places)))
        print(said(settings, "pull", "--all"))  # noqa: T201
        assert "bucket: 0 brought, 0 changed, 0 still" in said(settings, "pull", "--all", "bucket")
        assert "server: 0 brought, 0 changed, 0 still" in said(settings, "pull", "server")
        clean = directory(tmp_path / "clean", places)
        said(clean, "pull")
    final = {f"{name}/{key}": body for name, one in files.items() for key, body in one.bodies().items()}
    ever = {f"{name}/{key}": known for name, one in files.items() for key, known in one.ever.items()}
    visits = {name: {row["visit"] for rows in one.rows.values() for row in rows} for name, one in files.items()}
    visits["database"] = {*rows.known["quick"], *rows.known["slow"]}
    for one in (settings, clean):
        assert_all_is_accounted_for(one, final, ever)
        report = run(one)
        assert report.succeeded, report
        assert_each_is_loaded_once(one, visits)
    assert differing(settings, clean) == []


def assert_all_is_accounted_for(settings: Settings, final: dict[str, bytes], ever: dict[str, list[str]]) -> None:
    """Every object is here as it is there now; what else is here was there once; nothing is half done or forgotten."""
    landed = {p.relative_to(settings.landing).as_posix(): p for p in settings.landing.rglob("*") if p.is_file()}
    files = {name: path for name, path in landed.items() if not name.startswith("database/")}
    assert {name: files[name].read_bytes() for name in final if name in files} == final
    strange = [n for n, p in files.items() if hashlib.sha256(p.read_bytes()).hexdigest() not in ever.get(n, ())]
    assert not strange
    with open_memory(settings) as memory:
        noted = {f"{name}/{key}" for name in ("bucket", "server", "database") for key in memory.known(name)}
        looks = [memory.look(name) for name in ("bucket", "server", "database")]
    # What had landed, and one who was killed could not note, is noted by the next, unless it has another name since.
    assert noted <= set(landed) and not (set(landed) - noted) & set(final)
    assert all(look is not None and not (look.waiting or look.refused or look.reason) for look in looks), looks
    assert not list(memory_file(settings).parent.glob(".query-*"))


def assert_each_is_loaded_once(settings: Settings, visits: dict[str, set[str]]) -> None:
    """The ledger has every file once, and of every row there is one visit."""
    landed = sorted(p.relative_to(settings.landing).as_posix() for p in settings.landing.rglob("*") if p.is_file())
    ledger = query(settings, "select source_file, file_sha256, subject, state from raw.raw_landed_files")
    assert sorted(set(ledger["source_file"])) == landed and len(ledger) == 4 * len(landed)
    # The other name of a file that was renamed is known as such, and not loaded.
    counts = ledger.group_by("file_sha256", "subject").agg((pl.col("state") == "ready").sum().alias("loaded"))
    assert set(counts["loaded"]) == {1} and set(ledger["state"]) <= {"ready", "duplicate"}
    found = query(settings, "select source_profile, visit_id from cleaned.cleaned_er_visits")
    ids = {name: sorted(v for n, v in found.iter_rows() if n == name) for name in visits}
    assert ids == {name: sorted(f"{name}:{visit}" for visit in each) for name, each in visits.items()}


def differing(one: Settings, other: Settings) -> list[str]:
    """The tables from `cleaned` on that differ in more than where a record came from and what was sorted out."""
    found = []
    with duckdb.connect() as connection:
        for name, settings in (("a", one), ("b", other)):
            connection.execute(f"attach '{settings.warehouse_file}' as {name} (read_only)")
        for contract in CONTRACTS.values():
            if contract.layer == "raw":
                continue
            names = [c.name for c in contract.columns if c.name not in PLACES]
            only = f"where rule not in ('{DUPLICATE.name}', '{SUPERSEDED.name}')" if "rule" in names else ""
            rows = [f"(select {', '.join(names)} from {side}.{contract.qualified_name} {only})" for side in "ab"]
            for left, right in (rows, rows[::-1]):
                more = connection.sql(f"{left} except all {right}").fetchall()
                if more:
                    found.append(f"{contract.name}: {len(more)} rows only in one, as {more[0]}")
    return found
