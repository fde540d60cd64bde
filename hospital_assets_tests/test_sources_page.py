"""The walks of docs/sources.md, run as they stand there: only the address is another."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hospital_assets.settings import Settings
from hospital_assets_tests.helpers import query
from hospital_assets_tests.mariadb import mariadb_server
from hospital_assets_tests.postgresql import postgresql_server
from hospital_assets_tests.s3 import s3_server
from hospital_assets_tests.sftp import sftp_server

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "sources.md").read_text(encoding="utf-8")
(WALKS,) = re.findall(r"^## In ten minutes$(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
(SAMPLE,) = re.findall(r"```csv\n(.*?)```", WALKS, re.DOTALL)
#: Files of other shapes, as they stand above the commands that read them.
TEXTS = dict(re.findall(r"^### ([^\n]+)\n(?:(?!^###).)*?```text\n(.*?)```", WALKS, re.MULTILINE | re.DOTALL))
COMMANDS = dict(re.findall(r"^### (.+?)$.*?```sh\n(.*?)```", WALKS, re.MULTILINE | re.DOTALL))
TABLE = (
    "create table ed_visits (visit_id varchar(9), patient_id varchar(9), hospital_id varchar(9), "
    "arrival_time timestamp, triage_level int, provider_time timestamp null, departure_time timestamp, "
    "disposition varchar(99), chief_complaint varchar(99), updated_at timestamp(6) default current_timestamp(6))"
)


def rows() -> list[str]:
    """Statements that insert the page's visits."""
    quoted = [[f"'{value}'" if value else "null" for value in row] for row in csv.reader(SAMPLE.splitlines()[1:])]
    columns = SAMPLE.splitlines()[0]
    return [f"insert into ed_visits ({columns}) values ({', '.join(row)})" for row in quoted]


# What each walk is given: the address on the page, and the one that there is.


def share(folder: Path, _: ExitStack, __: pytest.MonkeyPatch) -> tuple[str, str]:
    (folder / "share").mkdir()
    (folder / "share" / "visits.csv").write_text(SAMPLE)
    return "/mnt/eastside", f"{folder}/share"


def archive(folder: Path, _: ExitStack, __: pytest.MonkeyPatch) -> tuple[str, str]:
    (folder / "share").mkdir()
    with zipfile.ZipFile(folder / "share" / "march.zip", "w") as packed:
        packed.writestr("visits.csv", SAMPLE)
    return "/mnt/eastside", f"{folder}/share"


def fixed_width(folder: Path, _: ExitStack, __: pytest.MonkeyPatch) -> tuple[str, str]:
    (folder / "visits.txt").write_text(TEXTS["A file of fixed width"])
    return "visits.txt", "visits.txt"


def two_rows(folder: Path, _: ExitStack, __: pytest.MonkeyPatch) -> tuple[str, str]:
    (folder / "visits.csv").write_text(TEXTS["A header over two rows"])
    return "visits.csv", "visits.csv"


def bucket(_: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    pytest.importorskip("obstore", reason="obstore is not installed (extra object-store)")
    import obstore.store

    stack.enter_context(s3_server(monkeypatch, "exports"))
    store = obstore.store.from_url("s3://exports/ed", client_options={"allow_http": True})
    obstore.put(store, "visits.csv", SAMPLE.encode())
    return "s3://hospital-exports/ed", "s3://exports/ed"


def server(folder: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    (folder / "server").mkdir()
    address, given, environment = stack.enter_context(sftp_server(folder / "server"))
    (given / "visits.csv").write_text(SAMPLE)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return "sftp://reader@sftp.example.org:22/exports", address


def postgres(_: Path, stack: ExitStack, __: pytest.MonkeyPatch) -> tuple[str, str]:
    dbapi = pytest.importorskip("adbc_driver_postgresql.dbapi", reason="it is not installed (extra postgres)")
    url = stack.enter_context(postgresql_server()).dsn()
    with dbapi.connect(url) as connection:
        for statement in (TABLE, *rows()):
            with connection.cursor() as cursor:
                cursor.execute(statement)
        connection.commit()
    return "postgresql://reader@db.example.org/reporting", url


def mariadb(_: Path, stack: ExitStack, __: pytest.MonkeyPatch) -> tuple[str, str]:
    arrow_odbc = pytest.importorskip("arrow_odbc", reason="arrow-odbc is not installed (extra odbc)")
    url = stack.enter_context(mariadb_server())
    connection = arrow_odbc.connect(url)
    for statement in (TABLE, *rows()):
        connection.execute(statement)
    return "Driver={MariaDB Unicode};Server=db.example.org;Database=reporting;UID=reader", url


def workbook(folder: Path, _: ExitStack, __: pytest.MonkeyPatch) -> tuple[str, str]:
    openpyxl: Any = pytest.importorskip("openpyxl", reason="openpyxl is not installed")
    book = openpyxl.Workbook()
    for row in csv.reader(SAMPLE.splitlines()):
        book.active.append(row)
    book.save(folder / "visits.xlsx")
    return "visits.xlsx", "visits.xlsx"


GIVEN: dict[str, Callable[[Path, ExitStack, pytest.MonkeyPatch], tuple[str, str]]] = {
    "A mounted share": share,
    "A bucket": bucket,
    "An SFTP server": server,
    "A PostgreSQL database": postgres,
    "A MariaDB database": mariadb,
    "A workbook": workbook,
    "A zip archive": archive,
    "A file of fixed width": fixed_width,
    "A header over two rows": two_rows,
}


def test_every_walk_of_the_page_is_run() -> None:
    assert list(COMMANDS) == list(GIVEN)


@pytest.mark.slow
@pytest.mark.slow_as("A mounted share", "An SFTP server", "A PostgreSQL database")
@pytest.mark.parametrize("kind", GIVEN)
def test_a_walk_ends_with_kpis(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "visits.csv").write_text(SAMPLE)
    with ExitStack() as stack:
        on_page, here = GIVEN[kind](tmp_path, stack, monkeypatch)
        assert on_page in COMMANDS[kind]
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        environment.pop("HOSPITAL_DATA_DIR", None)
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", COMMANDS[kind].replace(on_page, here)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert ran.returncode == 0, (ran.stdout[-3000:], ran.stderr[-3000:])
    assert "eastside" in ran.stdout.splitlines()[-2] and "correct" not in ran.stdout, ran.stdout
    found = query(Settings(tmp_path / "data"), "select visit_id from facts.fact_emergency_visits")
    assert sorted(found["visit_id"]) == ["eastside:V1", "eastside:V2", "eastside:V3"]
