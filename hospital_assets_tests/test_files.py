"""Files are replaced whole or not at all; mistakes in TOML are found at their line."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from itertools import repeat
from pathlib import Path

import pytest

from hospital_assets.cli import main
from hospital_assets.files import (
    in_transaction,
    is_unfinished,
    make_folder,
    open_to_others,
    replace_bytes,
    replace_text,
    replacing,
    room_beside,
)
from hospital_assets.toml_text import line_of


def test_what_is_made_is_the_owners_whatever_the_umask(tmp_path: Path) -> None:
    """The command, not the library: it is where a process begins."""
    data = tmp_path / "data"
    script = (
        "import os, sys; os.umask(0); from hospital_assets.cli import main; "
        "main(['--data-dir', sys.argv[1], 'users', 'add', 'ann', 'analyst']); "
        "main(['--data-dir', sys.argv[1], 'alerts', 'test'])"
    )
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config")}
    subprocess.run(
        [sys.executable, "-c", script, str(data)], input=b"a long password\n", env=environment, check=True, timeout=120
    )
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"users.db", "audit.db", "outbox.sqlite"} <= {path.name for path in made}
    assert list(open_to_others(data)) == [] and list(open_to_others(tmp_path / "config")) == []


def test_what_is_open_to_others_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "landing").mkdir(mode=0o700)
    (tmp_path / "landing" / "wide.csv").touch(mode=0o600)
    (tmp_path / "landing" / "link").symlink_to("wide.csv")
    assert list(open_to_others(tmp_path)) == []
    (tmp_path / "landing" / "wide.csv").chmod(0o640)
    assert list(open_to_others(tmp_path)) == [tmp_path / "landing" / "wide.csv"]
    assert main(["--data-dir", str(tmp_path), "status"]) == 0
    shown = "".join(capsys.readouterr().out.split())
    assert "landing/wide.csv" in shown and "chmod-Rgo=" in shown


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    replace_text(path, "before\n")
    with replacing(path) as temporary:
        temporary.write_text("after\n", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "before\n"
        assert temporary.name.startswith(".") and temporary.name.endswith(".tmp")
    assert path.read_bytes() == b"after\n" and list(path.parent.iterdir()) == [path]


def test_a_room_is_gone_afterwards_and_that_of_a_killed_process_with_the_next(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from hospital_assets.files import room_beside\n"
        "with room_beside(Path(sys.argv[1])) as room:\n"
        "    (room / 'half').write_bytes(b'x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "folder")], check=False)
    assert killed.returncode < 0 and len(list(tmp_path.rglob("half"))) == 1
    with pytest.raises(OSError, match="full"), room_beside(tmp_path / "folder") as room:
        assert not list(tmp_path.rglob("half")) and is_unfinished(room.name)
        (room / "half").touch()
        raise OSError("full")
    assert not list(tmp_path.iterdir())


def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    replace_bytes(path, b"before")
    with pytest.raises(OSError, match="full"), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise OSError("the disk is full")
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_permissions_hold_from_the_first_byte_on(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    with replacing(path, mode=0o600) as temporary:
        assert temporary.stat().st_mode & 0o777 == 0o600 and temporary.stat().st_size == 0
        temporary.write_text("x", encoding="utf-8")
    assert path.stat().st_mode & 0o777 == 0o600


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 60)
    with replacing(path) as first:
        with replacing(path) as second:
            second.write_text("second", encoding="utf-8")
            first.write_text("first", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "second"
    assert path.read_text(encoding="utf-8") == "first" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_removed_by_the_next_one_on_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = (
        "import os, sys; from pathlib import Path; from hospital_assets.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", write, str(tmp_path / "a")], check=False)
    (left,) = tmp_path.iterdir()
    others = left.with_name(left.name.replace(f".{left.name.split('.')[2].split('-')[0]}-", ".00000000-"))
    others.touch()
    ours = left.with_name(left.name.replace(left.name.split("-")[1], str(os.getppid())))
    ours.touch()
    replace_text(tmp_path / "b", "x")
    assert {path for path in tmp_path.iterdir() if path.name.startswith(".")} == {others, ours}
    # A container that is started again is another machine: days later none is writing any more.
    os.utime(others, (0, 0))
    now = time.time()
    for days in (1, 3):
        monkeypatch.setattr("hospital_assets.files._SWEPT", set())
        monkeypatch.setattr(time, "time", repeat(now + days * 86_400).__next__)
        replace_text(tmp_path / "b", "x")
        assert others.exists() is (days == 1) and ours.exists()


def test_a_durable_file_is_flushed_before_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("flush"), fsync(handle)))
    monkeypatch.setattr(Path, "replace", lambda path, target: (done.append("rename"), replace(path, target))[1])
    replace_text(tmp_path / "plain", "x")
    assert done == ["rename"]
    done.clear()
    replace_text(tmp_path / "durable", "x", is_durable=True)
    assert done == ["flush", "rename", "flush"]
    done.clear()
    make_folder(tmp_path / "a" / "b", is_durable=True)
    assert done == ["flush", "flush"]


TEXT = """\
top = 1

[table."quoted.name"]
key = 1
dotted.key = { inline = 2 }

[[list]]
x = 1
[[list]]
x = 2
"""


@pytest.mark.parametrize(
    ("where", "line"),
    [
        (("top",), 1),
        (("table", "quoted.name", "key"), 4),
        (("table", "quoted.name", "dotted", "key", "inline"), 5),
        (("list", 0, "x"), 8),
        (("list", 1, "x"), 10),
        (("table", "quoted.name", "missing"), 3),
        (("nowhere",), 1),
    ],
)
def test_the_line_of_a_key_or_of_the_nearest_around_it(where: tuple[str | int, ...], line: int) -> None:
    assert line_of(TEXT, where) == line


def test_a_transaction_that_cannot_be_stored_leaves_none_open() -> None:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("pragma foreign_keys = on")
        connection.execute("create table visits (id integer primary key)")
        connection.execute("create table sets (visit references visits deferrable initially deferred)")
        with pytest.raises(sqlite3.IntegrityError), in_transaction(connection):
            connection.execute("insert into sets values (1)")  # found out at the commit
        assert not connection.in_transaction
        with in_transaction(connection):
            connection.execute("insert into visits values (1)")
