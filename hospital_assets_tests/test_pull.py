"""Sources elsewhere: every version of every object lands once and whole, whatever happens; names lead nowhere else."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from hospital_assets.cli import main
from hospital_assets.files import is_locked, locked
from hospital_assets.landing.listing import shown
from hospital_assets.landing.profile import Profile, ProfileError, parse_profile
from hospital_assets.landing.registry import load_profiles
from hospital_assets.landing.zone import _version
from hospital_assets.settings import FileLimits, Settings
from hospital_assets.sources import by_hand, memory, remote
from hospital_assets.sources.memory import Pulled, open_memory
from hospital_assets.sources.pull import pull
from hospital_assets.sources.remote import (
    SFTP_HOSTS,
    SFTP_KEY,
    ChangedError,
    Entry,
    Remote,
    RemoteError,
    UnlistedError,
    open_remote,
)
from hospital_assets_tests.buckets import azure_server, google_server
from hospital_assets_tests.processes import QUIET, hospital, started
from hospital_assets_tests.s3 import s3_server
from hospital_assets_tests.sftp import sftp_server

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PROFILE = """
name = "there"
description = "A hospital elsewhere."
time_zone = "America/Chicago"
{source}
[subjects.hospitals]
files = ["hospitals/*.csv", "*.csv"]
columns = {{ hospital_id = "id", hospital_name = "name", time_zone = "zone" }}
"""


def profile_at(address: str) -> Profile:
    return parse_profile(PROFILE.format(source=f'[source]\naddress = "{address}"'), "there.toml")


@dataclass
class Shelf:
    """A source in memory."""

    is_atomic: bool = True
    is_ordered: bool = True
    files: dict[str, bytes] = field(default_factory=dict)
    broken: dict[str, BaseException] = field(default_factory=dict)
    listed: int = 0
    read: list[str] = field(default_factory=list)

    def entries(self, prefix: str = "", after: str = "") -> Iterator[Entry]:
        for key in sorted(self.files):
            if not self.is_ordered or (key > after and key.startswith(prefix)):
                self.listed += 1
                yield Entry(key, len(self.files[key]), str(hash(self.files[key])))

    def chunks(self, entry: Entry) -> Iterator[bytes]:
        self.read.append(entry.key)
        body = self.files[entry.key]
        yield body[: len(body) // 2]
        if entry.key in self.broken:
            raise self.broken[entry.key]
        yield body[len(body) // 2 :]

    @contextlib.contextmanager
    def __call__(self, _: str) -> Iterator[Remote]:
        yield self


def brought(
    settings: Settings, shelf: Callable[[str], contextlib.AbstractContextManager[Remote]], at: datetime = NOW
) -> Pulled:
    return pull(settings, profile_at("s3://bucket"), lambda: at, lambda _: None, remote=shelf)


def landed(settings: Settings) -> dict[str, bytes]:
    folder = settings.landing / "there"
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_each_version_lands_once_and_whole(tmp_path: Path) -> None:
    settings, shelf = Settings(tmp_path), Shelf(files={"a.csv": b"id\n1\n", "hospitals/b.csv": b"id\n2\n"})
    done = brought(settings, shelf)
    assert (done.brought, done.changed, done.succeeded) == (2, 0, True)
    assert landed(settings) == shelf.files
    assert brought(settings, shelf) == Pulled()
    shelf.files |= {"c.csv": b"id\n3\n"}
    assert brought(settings, shelf).brought == 1 and shelf.read == ["a.csv", "hospitals/b.csv", "c.csv"]
    # One that changed sorts before what is known: it is found when all is listed, an hour later at most.
    shelf.files["a.csv"] = b"id\n1\n9\n"
    assert brought(settings, shelf) == Pulled()
    later = brought(settings, shelf, NOW + timedelta(hours=1))
    assert (later.brought, later.changed) == (0, 1) and landed(settings) == shelf.files


def test_what_is_old_is_not_listed_again(tmp_path: Path) -> None:
    settings, shelf = Settings(tmp_path), Shelf(files={f"{n:03}.csv": b"id\n" for n in range(200)})
    assert brought(settings, shelf).brought == 200
    shelf.listed = 0
    shelf.files["200.csv"] = b"id\n"
    assert brought(settings, shelf).brought == 1 and shelf.listed == 1


MESSAGES = """
name = "there"
description = "A hospital that sends messages."
time_zone = "America/Chicago"
[source]
address = "s3://bucket"
[subjects.hospitals]
files = ["hospitals*.csv"]
columns = { hospital_id = "id", hospital_name = "name", time_zone = "zone" }
[subjects.departments]
files = ["*.txt"]
columns = { department_name = "name" }
[subjects.doctors]
files = ["*.hl7", "*.er7"]
columns = { doctor_id = "id" }
"""


@pytest.mark.parametrize("start", ["2026", "m", "x"])
def test_new_files_come_at_once_whatever_lies_beside_them(tmp_path: Path, start: str) -> None:
    settings, profile = Settings(tmp_path), parse_profile(MESSAGES, "there.toml")
    shelf = Shelf(
        files={f"{start}{n:03}.hl7": b"MSH" for n in range(200)} | {"hospitals.csv": b"id\n", "o.txt": b"x\n"}
    )

    def look() -> int:
        shelf.listed = 0
        return pull(settings, profile, lambda: NOW, lambda _: None, remote=shelf).brought

    assert look() == 202
    assert look() == 0 and (shelf.listed < 10 or start == "x")
    for name in (f"{start}200.hl7", f"{start}201.er7", "hospitals2.csv", "o2.txt"):
        shelf.files[name] = name.encode()
        assert look() == 1 and (shelf.listed < 10 or start == "x"), name


def test_a_file_that_fails_stops_no_other_and_is_tried_again(tmp_path: Path) -> None:
    settings, shelf = Settings(tmp_path), Shelf(files=dict.fromkeys(("a.csv", "b.csv", "c.csv", "d.csv"), b"id\n1\n"))
    shelf.broken = {
        "a.csv": RemoteError("no"),
        "b.csv": OSError(28, "No space left on device"),
        "c.csv": ChangedError(),
    }
    done = brought(settings, shelf)
    assert (done.brought, done.waiting, sorted(done.failed)) == (1, 1, ["a.csv", "b.csv"]) and not done.succeeded
    assert set(landed(settings)) == {"d.csv"} and not list(settings.landing.rglob(".*"))
    shelf.broken = {}
    assert brought(settings, shelf).brought == 3 and landed(settings) == shelf.files


def test_what_nobody_expected_of_a_source_stops_no_other_and_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(tmp_path)
    settings.profiles_folder.mkdir()
    for name in ("bad", "good"):
        (tmp_path / f"{name}_at").mkdir()
        profile = PROFILE.format(source=f'[source]\naddress = "file://{tmp_path}/{name}_at"').replace(
            '"there"', f'"{name}"'
        )
        (settings.profiles_folder / f"{name}.toml").write_text(profile)
    (tmp_path / "good_at" / "a.csv").write_bytes(b"id\n1\n")
    entries = remote._Folder.entries

    def broken(self: remote._Folder, *arguments: str) -> Iterator[Entry]:
        if "bad" in str(self._folder):
            raise IndexError("Mustermann")
        return entries(self, *arguments)

    monkeypatch.setattr(remote._Folder, "entries", broken)
    assert main(["--data-dir", str(tmp_path), "pull"]) == 1
    out = capsys.readouterr().out
    assert "stopped  it stopped (IndexError)" in out and "Mustermann" not in out and "good: 1 brought" in out
    with open_memory(settings) as known:
        assert (look := known.look("bad")) is not None and "IndexError" in look.reason


def test_a_folder_that_cannot_be_read_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be read is brought; that something cannot is said until it can."""
    there, settings = tmp_path / "there", Settings(tmp_path / "data")
    for name in ("hospitals/a.csv", "closed/b.csv", "z/c.csv"):
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_bytes(b"id\n1\n")
    iterdir = Path.iterdir

    def closed(self: Path) -> Iterator[Path]:
        if self.name == "closed":
            raise PermissionError(13, "Permission denied")
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", closed)
    profile = profile_at(f"file://{there}")
    for number in range(2):
        at = NOW + timedelta(minutes=number)
        done = pull(settings, profile, lambda at=at: at, lambda _: None)
        assert done.reason.startswith("a folder in it cannot be read (Permission denied)")
    assert set(landed(settings)) == {"hospitals/a.csv", "z/c.csv"} and done.brought == 2
    monkeypatch.undo()
    assert pull(settings, profile, lambda: NOW + timedelta(minutes=2), lambda _: None).succeeded


def test_a_name_that_is_not_utf_8_stops_no_other(tmp_path: Path) -> None:
    folder, settings = tmp_path / "there", Settings(tmp_path / "data")
    folder.mkdir()
    odd = Path(os.fsdecode(bytes(folder / "b") + b"\xe9.csv"))
    for path in (folder / "a.csv", odd, folder / "c.csv"):
        path.write_text("id\n1\n")

    def look() -> Pulled:
        return pull(settings, profile_at(folder.as_uri()), lambda: NOW, lambda _: None)

    done = look()
    assert (done.brought, done.reason, list(done.refused)) == (2, "", ["b\\xe9.csv"])
    assert set(landed(settings)) == {"a.csv", "c.csv"} and look() == Pulled()
    with open_memory(settings) as memory:
        assert list(memory.refused("there")) == ["b\\xe9.csv"]
    odd.unlink()
    look()
    with open_memory(settings) as memory:
        assert not memory.refused("there")


def test_what_cannot_be_listed_stops_nothing_beside_it(tmp_path: Path) -> None:
    class Broken(Shelf):
        def entries(self, prefix: str = "", after: str = "") -> Iterator[Entry]:
            yield from (entry for entry in super().entries(prefix, after) if prefix)
            if not prefix:
                raise UnlistedError("a name in it is none")

    settings = Settings(tmp_path)
    shelf = Broken(files={"hospitals/b.csv": b"id\n1\n", "a.csv": b"id\n2\n"})
    for count in (1, 0):
        done = brought(settings, shelf)
        assert (done.brought, done.reason) == (count, "a name in it is none") and set(landed(settings)) == {
            "hospitals/b.csv"
        }


def test_a_folder_of_a_server_that_is_not_given_or_has_gone_stops_no_other() -> None:
    pytest.importorskip("paramiko", reason="paramiko is not installed (extra sftp)")
    tree: dict[str, list[str] | OSError | UnicodeError] = {
        "/x/": ["a/", "b/", "c/", "d.csv"],
        "/x/a/": ["e.csv"],
        "/x/b/": PermissionError(13, "Permission denied"),
        "/x/c/": FileNotFoundError(2, "No such file"),
    }

    class Client:
        def listdir_attr(self, path: str) -> list[SimpleNamespace]:
            if isinstance(found := tree[path], Exception):
                raise found
            modes = {True: stat.S_IFDIR, False: stat.S_IFREG}
            return [
                SimpleNamespace(filename=n.rstrip("/"), st_mode=modes[n.endswith("/")], st_size=1, st_mtime=1)
                for n in found
            ]

    listed: list[str] = []
    with pytest.raises(RemoteError, match="does not give it"):
        listed.extend(entry.key for entry in remote._Sftp(Client(), "/x").entries())
    assert sorted(listed) == ["a/e.csv", "d.csv"]
    tree["/x/b/"] = UnicodeDecodeError("utf-8", b"Jos\xe9.csv", 3, 4, "invalid continuation byte")
    listed.clear()
    with pytest.raises(RemoteError, match="not UTF-8") as error:
        listed.extend(entry.key for entry in remote._Sftp(Client(), "/x").entries())
    assert sorted(listed) == ["a/e.csv", "d.csv"] and "Jos" not in str(error.value)
    tree["/x/b/"] = []
    assert [entry.key for entry in remote._Sftp(Client(), "/x").entries()] == ["d.csv", "a/e.csv"]
    tree["/x/"] = FileNotFoundError(2, "No such file")
    with pytest.raises(ChangedError):
        list(remote._Sftp(Client(), "/x").entries())


def test_a_file_that_failed_in_a_look_that_was_killed_is_tried_at_the_next(tmp_path: Path) -> None:
    """Those after it were brought: what comes after what is known would pass it by."""
    settings, shelf = Settings(tmp_path), Shelf(files={"a.csv": b"id\n"})
    brought(settings, shelf)
    shelf.files |= {"b.csv": b"id\n", "c.csv": b"id\n", "d.csv": b"id\n"}
    shelf.broken = {"b.csv": RemoteError("no"), "d.csv": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        brought(settings, shelf)
    shelf.broken = {}
    assert brought(settings, shelf).brought == 2 and landed(settings) == shelf.files


def test_a_changed_object_is_found_when_all_is_listed(tmp_path: Path) -> None:
    settings, shelf = Settings(tmp_path), Shelf(files={"a.csv": b"id\n", "b.csv": b"id\n"})
    brought(settings, shelf)
    shelf.files["a.csv"] = b"id\n1\n"
    assert brought(settings, shelf) == Pulled()
    done = pull(settings, profile_at("s3://bucket"), lambda: NOW, lambda _: None, remote=shelf, lists_all=True)
    assert done.changed == 1 and landed(settings) == shelf.files


def test_what_one_who_was_killed_has_only_just_seen_is_not_whole_yet(tmp_path: Path) -> None:
    settings, shelf = Settings(tmp_path), Shelf(is_atomic=False, is_ordered=False, files={"a.csv": b"id\n"})

    def killed(_: float) -> None:
        raise KeyboardInterrupt

    def look(at: datetime, sleep: Callable[[float], None]) -> Pulled:
        return pull(settings, profile_at("file:///there"), lambda: at, sleep, remote=shelf)

    with pytest.raises(KeyboardInterrupt):
        look(NOW, killed)
    with pytest.raises(KeyboardInterrupt):
        look(NOW + timedelta(seconds=1), killed)
    assert not landed(settings)
    assert look(NOW + timedelta(seconds=3), killed).brought == 1
    # How far behind it is, is told from the beginning of a look that left nothing.
    with open_memory(settings) as memory:
        found = memory.look("there")
    assert found is not None and found.complete_at == NOW + timedelta(seconds=3)


def test_what_failed_is_said_with_what_to_do(tmp_path: Path) -> None:
    settings, shelf = Settings(tmp_path), Shelf(files=dict.fromkeys(("a.csv", "b.csv", "c.csv"), b"id\n"))
    shelf.broken = {"a.csv": RemoteError("let this program read it"), "b.csv": RemoteError("no")}
    brought(settings, shelf)
    with open_memory(settings) as memory:
        found = memory.look("there")
    assert found is not None and found.reason == "'a.csv': let this program read it (1 more failed)"
    assert found.complete_at is None and found.brought == 1


def test_a_file_that_fails_at_a_short_look_is_tried_at_the_next(tmp_path: Path) -> None:
    settings, shelf = Settings(tmp_path), Shelf(files={"a.csv": b"id\n"})
    assert brought(settings, shelf).brought == 1
    shelf.files |= {"b.csv": b"id\n", "c.csv": b"id\n"}
    shelf.broken = {"b.csv": RemoteError("no")}
    assert brought(settings, shelf).brought == 1 and "b.csv" not in landed(settings)
    shelf.broken = {}
    assert brought(settings, shelf).brought == 1 and landed(settings) == shelf.files


def test_what_may_still_be_written_is_brought_when_two_looks_agree(tmp_path: Path) -> None:
    settings, shelf = (
        Settings(tmp_path),
        Shelf(is_atomic=False, is_ordered=False, files={"a.csv": b"id\n", "b.csv": b"id\n"}),
    )

    def goes_on(_: float) -> None:
        shelf.files["b.csv"] += b"1\n"

    done = pull(settings, profile_at("file:///there"), lambda: NOW, goes_on, remote=shelf)
    assert (done.brought, done.waiting) == (1, 1) and set(landed(settings)) == {"a.csv"}
    done = brought(settings, shelf)
    assert (done.brought, done.waiting) == (1, 0) and landed(settings) == shelf.files


def test_what_was_seen_is_noted_at_once_also_where_listing_breaks_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, shelf = Settings(tmp_path), Shelf(is_atomic=False, is_ordered=False)
    shelf.files = {f"{n:03}.csv": b"id\n" for n in range(200)}
    commits: list[str] = []

    class Counted(memory.Memory):
        def __init__(self, file: Path) -> None:
            super().__init__(file)
            self._connection.set_trace_callback(commits.append)

    monkeypatch.setattr(memory, "Memory", Counted)
    entries = Shelf.entries

    def broken(self: Shelf, prefix: str = "", after: str = "") -> Iterator[Entry]:
        yield from entries(self, prefix, after)
        raise RemoteError("it broke off")

    monkeypatch.setattr(Shelf, "entries", broken)
    assert brought(settings, shelf).reason == "it broke off"
    with open_memory(settings) as known:
        assert len(known.known("there")) == 200
    written = [one for one in commits if one.lstrip().lower().startswith(("insert", "begin"))]
    assert sum(one.startswith("begin") for one in written) == 1 and written.count("begin immediate") == 1


HOSTILE = [
    "../out.csv",
    "a/../../out.csv",
    "/etc/out.csv",
    "a//b.csv",
    "./a.csv",
    ".hidden.csv",
    ".git/config.csv",
    "a\nb.csv",
    "a\x00b.csv",
    "a\u202eb.csv",
    f"{'x' * 300}.csv",
    f"{'ä' * 120}.csv",
    "link/a.csv",
    "file.csv/a.csv",
]


@pytest.mark.parametrize("key", HOSTILE, ids=range(len(HOSTILE)))
def test_no_name_leads_out_of_the_landing_folder(tmp_path: Path, key: str) -> None:
    settings = Settings(tmp_path / "data")
    folder, outside = settings.landing / "there", tmp_path / "outside"
    folder.mkdir(parents=True)
    outside.mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "file.csv").write_text("id\n")
    shelf = Shelf(files={key: b"id\n1\n", "good.csv": b"id\n2\n"})
    narrow = profile_at("s3://bucket")
    of_all = narrow.subjects["hospitals"].model_copy(update={"files": ("**",)})
    wide = narrow.model_copy(update={"subjects": {"hospitals": of_all}})
    done = pull(settings, wide, lambda: NOW, lambda _: None, remote=shelf)
    assert set(done.refused) == {shown(key)} and done.brought == 1 and done.succeeded
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} >= {"good.csv"} and not list(outside.iterdir())
    assert not [p for p in tmp_path.rglob("*out.csv") if p.is_file()]
    # It is told once, and shown for as long as it is there.
    assert not pull(settings, wide, lambda: NOW, lambda _: None, remote=shelf).refused
    with open_memory(settings) as memory:
        look = memory.look("there")
    assert look is not None and look.refused == 1
    del shelf.files[key]
    pull(settings, wide, lambda: NOW, lambda _: None, remote=shelf, lists_all=True)
    with open_memory(settings) as memory:
        assert not memory.refused("there")


def test_what_no_subject_reads_and_what_is_too_large_stays_where_it_is(tmp_path: Path) -> None:
    settings = replace(Settings(tmp_path), limits=FileLimits(megabytes=1))
    shelf = Shelf(
        files={"big.csv": bytes(1_000_001), "a.pdf": b"", "b.csv.part": b"", "folder/": b"", "ok.csv": b"id\n"}
    )
    done = brought(settings, shelf)
    assert (done.brought, done.other, list(done.refused)) == (1, 3, ["big.csv"]) and set(landed(settings)) == {"ok.csv"}
    assert "most_file_megabytes" in done.refused["big.csv"]
    # Once the limit is raised it comes, when everything is listed the next time.
    assert brought(replace(settings, limits=FileLimits(megabytes=2)), shelf, NOW + timedelta(hours=1)).brought == 1


def test_what_stood_in_the_way_of_a_file_keeps_it_away_no_longer_than_it_stands_there(tmp_path: Path) -> None:
    settings, shelf = Settings(tmp_path), Shelf(files={"a.csv": b"id\n1\n"}, is_atomic=False, is_ordered=False)
    place = settings.landing / "there" / "a.csv"
    place.parent.mkdir(parents=True)
    place.symlink_to(tmp_path / "elsewhere")
    assert set(brought(settings, shelf).refused) == {"a.csv"} and not brought(settings, shelf).refused
    place.unlink()
    assert brought(settings, shelf).brought == 1 and landed(settings) == shelf.files


def test_a_clock_that_was_ahead_stops_no_look(tmp_path: Path) -> None:
    settings, shelf = Settings(tmp_path), Shelf(files={"b.csv": b"id\n1\n"})
    assert brought(settings, shelf, NOW + timedelta(days=400)).brought == 1
    shelf.files["a.csv"] = b"id\n2\n"
    assert brought(settings, shelf).brought == 1


def test_a_look_that_has_to_end_goes_on_the_next_time(tmp_path: Path) -> None:
    settings, shelf = Settings(tmp_path), Shelf(files={f"{n}.csv": b"id\n" for n in range(9)})
    asked = iter([False, False, False, *[True] * 99])
    first = pull(settings, profile_at("s3://b"), lambda: NOW, lambda _: None, lambda: next(asked), shelf)
    assert 0 < first.brought < 9
    assert brought(settings, shelf).brought == 9 - first.brought and landed(settings) == shelf.files


def test_files_by_hand_come_while_nobody_else_brings_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, file = Settings(tmp_path / "data"), tmp_path / "a.csv"
    file.write_text("id\n")

    def copied(source: Path, target: Path) -> None:
        assert is_locked(memory.pull_lock(settings))
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr(by_hand.shutil, "copyfile", copied)
    assert by_hand.import_files(settings, profile_at("s3://b"), file, NOW).used == ["a.csv"]
    assert landed(settings) == {"a.csv": b"id\n"} and not is_locked(memory.pull_lock(settings))


def test_a_long_list_without_news_is_gone_through_to_its_end(tmp_path: Path) -> None:
    """It would begin anew at each look, and never be complete."""
    settings, shelf = Settings(tmp_path), Shelf(files={f"{n}.csv": b"id\n" for n in range(9)} | {"a.txt": b""})
    assert brought(settings, shelf).brought == 9
    later = NOW + timedelta(hours=2)
    done = pull(settings, profile_at("s3://b"), lambda: later, lambda _: None, lambda: True, shelf)
    with open_memory(settings) as memory:
        look = memory.look("there")
    assert done.succeeded and look is not None and look.complete_at == later


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s3://key:secret@bucket", "no password"),
        ("sftp://u:secret@host/x", "no password"),
        ("sftp://u:se/cret@host/x", "no password"),
        ("sftp://u:12/secret@host/x", "no password"),
        ("sftp://u:[se/cret@host/x", "no password"),
        ("s3://key:sec/ret@bucket", "no password"),
        ("s3://key:12/secret@bucket", "no password"),
        ("az://c?sig=secret", "no password and no options"),
        ("ftp://host/x", "an address begins with"),
        ("s3://", "an address begins with"),
        ("folder", "an address begins with"),
    ],
)
def test_an_address_says_where_and_never_who(address: str, said: str) -> None:
    with pytest.raises(ProfileError, match=said) as raised:
        profile_at(address)
    assert not re.search("secret|se/cret|sec/ret|cret@|key:", str(raised.value))


def test_another_address_reads_no_file_anew(tmp_path: Path) -> None:
    from types import SimpleNamespace

    zone = SimpleNamespace(limits=FileLimits(), first=NOW.date(), last=NOW.date(), is_open_ended=False)
    versions = {_version(profile_at(address), zone) for address in ("s3://a", "s3://b")}  # type: ignore[arg-type]
    assert len(versions) == 1


def folder_of(there: Path, data: Path) -> Settings:
    return folder_at(f"file://{there}", data)


def folder_at(address: str, data: Path) -> Settings:
    settings = Settings(data)
    settings.profiles_folder.mkdir(parents=True)
    text = PROFILE.format(source=f'[source]\naddress = "{address}"')
    (settings.profiles_folder / "there.toml").write_text(text)
    return settings


def test_the_commands_bring_a_folder_and_show_how_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    there = tmp_path / "there"
    settings = folder_of(there, tmp_path / "data")
    command = ["--data-dir", str(settings.data_dir)]
    assert main([*command, "pull"]) == 1
    assert "the folder is not there" in capsys.readouterr().out
    (there / "hospitals").mkdir(parents=True)
    (there / "hospitals" / "a.csv").write_text("id,name,zone\nH1,One,America/Chicago\n")
    (there / "secret").symlink_to("/etc/passwd")
    (there / "hospitals" / ("x" * 210 + ".csv")).write_text("id\n")
    assert main([*command, "sources"]) == 0
    assert "never" in capsys.readouterr().out
    assert main([*command, "pull", "there"]) == 0
    assert "there: 1 brought, 0 changed, 0 still being written, 0 not read" in capsys.readouterr().out
    assert main([*command, "sources"]) == 0
    shown = capsys.readouterr().out
    assert "there" in shown and " s ago" in shown and "hospital pull" in shown
    assert "refused  there: 'hospitals/xxx" in shown and "is longer than 200 bytes; rename it" in shown
    # Dagster knows what came, as from its sensor; while its daemon lives, nobody has to run the command.
    import dagster as dg
    from dagster._daemon.types import DaemonHeartbeat

    from hospital_assets.automation.instance import dagster_instance

    with dagster_instance(settings) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(["sources", "there"]))
        assert event is not None and event.asset_materialization is not None
        assert event.asset_materialization.metadata["files_brought"].value == 1
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), "SENSOR", "one", []))
    assert main([*command, "sources"]) == 0
    assert re.search(r"│ (now|in \d+ s) ", capsys.readouterr().out)
    assert main([*command, "pull", "nowhere"]) == 2
    assert "no profile 'nowhere'" in capsys.readouterr().err


def test_without_an_address_the_command_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data-dir", str(tmp_path), "pull"]) == 2
    assert "no profile names an address" in capsys.readouterr().err
    assert main(["--data-dir", str(tmp_path), "sources"]) == 0
    assert "nothing has landed yet" in capsys.readouterr().out


def test_the_sensor_brings_what_is_new_and_lineage_begins_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dagster as dg

    from hospital_assets.automation import sensors
    from hospital_assets.definitions import build_definitions

    monkeypatch.setattr(time, "sleep", lambda _: None)
    there = tmp_path / "there"
    there.mkdir()
    settings = folder_of(there, tmp_path / "data")
    (there / "a.csv").write_text("id\n")
    graph = build_definitions(settings).resolve_asset_graph()
    key = dg.AssetKey(["sources", "there"])
    assert graph.get(key).child_keys == {dg.AssetKey("raw_landed_files")} and not graph.get(key).is_executable
    with dg.DagsterInstance.ephemeral() as instance:
        monkeypatch.setattr(sensors, "kept_instance", lambda _: instance)

        def tick() -> str:
            ended = sensors.sources_sensor(settings)(dg.build_sensor_context(instance))
            assert isinstance(ended, dg.SkipReason)
            return str(ended.skip_message)

        # A tick that waited for somebody else's look would keep a thread of the code server.
        with locked(memory.pull_lock(settings)):
            assert "another program brings files" in tick() and landed(settings) == {}
        assert tick() == "there: 1 brought, 0 changed, 0 still being written"
        assert set(landed(settings)) == {"a.csv"}
        event = instance.get_latest_materialization_event(key)
        assert event is not None and event.asset_materialization is not None
        assert event.asset_materialization.metadata["files_brought"].value == 1
        assert tick() == "there: 0 brought, 0 changed, 0 still being written"
        (settings.profiles_folder / "there.toml").unlink()
        assert tick() == "no profile names an address"


def test_a_source_that_takes_all_the_time_leaves_some_to_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dagster as dg

    from hospital_assets.automation import sensors

    settings, now, was_over = folder_of(tmp_path, tmp_path / "data"), [1000.0], {}
    text = (settings.profiles_folder / "there.toml").read_text()
    (settings.profiles_folder / "later.toml").write_text(text.replace('"there"', '"later"'))

    def pulled(_: Settings, profile: Profile, *others: Any) -> Pulled:
        *_, until = others
        was_over[profile.name] = until()
        now[0] += 40
        assert until()
        return Pulled()

    monkeypatch.setattr(sensors, "pull", pulled)
    monkeypatch.setattr(sensors, "report_brought", lambda *_: None)
    monkeypatch.setattr(sensors, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=None))
    with dg.DagsterInstance.ephemeral() as instance:
        monkeypatch.setattr(sensors, "kept_instance", lambda _: instance)
        sensors.sources_sensor(settings)(dg.build_sensor_context(instance))
    assert was_over == {"there": False, "later": False}


@pytest.mark.nightly
def test_pulls_that_are_killed_bring_everything_once(tmp_path: Path) -> None:
    """`kill -9` at random moments, files that change and are added meanwhile: in the end, all of them, whole."""
    rng, there = random.Random(1), tmp_path / "there"
    there.mkdir()
    settings = folder_of(there, tmp_path / "data")
    command = hospital(settings.data_dir, "pull")
    for n in range(20):
        for m in range(20):
            (there / f"{n}_{m}.csv").write_bytes(rng.randbytes(rng.randrange(200_000)))
        if n:
            (there / f"{n - 1}_0.csv").write_bytes(rng.randbytes(99))
        with started(command, **QUIET) as process, contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0 + 3.0 * rng.random())
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert landed(settings) == {p.name: p.read_bytes() for p in there.iterdir()}
    assert process.returncode in (0, -signal.SIGKILL)


# Object stores and servers ------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, bytes], None]]:
    """An S3 server of this machine; gives a function that puts an object."""
    pytest.importorskip("obstore", reason="obstore is not installed (extra object-store)")
    import obstore
    import obstore.store

    with s3_server(monkeypatch, "bucket"):
        store = obstore.store.from_url("s3://bucket/in", client_options={"allow_http": True})
        yield lambda key, body: obstore.put(store, key, body) and None


@pytest.fixture(params=["s3", "az", "abfss", "gs"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Callable[[str, bytes], object]]]:
    """A folder of an object store of this machine, of each kind, and a function that puts an object there."""
    pytest.importorskip("obstore", reason="obstore is not installed (extra object-store)")
    import obstore
    import obstore.store
    import requests

    kind, folder = request.param, tmp_path_factory.mktemp("store")
    address = f"{kind}://bucket/in"
    if kind == "s3":
        yield address, request.getfixturevalue("bucket")
    elif kind == "gs":
        with google_server(monkeypatch, "bucket", folder) as where:

            def put(key: str, body: bytes) -> None:
                named = f"{where}/upload/storage/v1/b/bucket/o?uploadType=media&name=in/{key}"
                requests.post(named, data=body, timeout=60).raise_for_status()

            yield address, put
    else:
        with azure_server(monkeypatch, "bucket", folder):
            there = obstore.store.from_url(address, client_options={"allow_http": True})
            yield address, lambda key, body: obstore.put(there, key, body)


@pytest.mark.slow
def test_a_bucket_is_brought(
    store: tuple[str, Callable[[str, bytes], object]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address, bucket = store
    settings, profile = Settings(tmp_path), profile_at(address)

    def look(at: datetime = NOW) -> Pulled:
        return pull(settings, profile, lambda: at, lambda _: None)

    bodies = {f"hospitals/{n:03}.csv": os.urandom(3 * n) for n in range(60)} | {"large.csv": os.urandom(9_000_000)}
    for key, body in bodies.items():
        bucket(key, body)
    bucket("notes.txt", b"not ours")
    done = look()
    assert (done.brought, done.other, done.succeeded) == (61, 1, True) and landed(settings) == bodies
    bucket("hospitals/000.csv", b"corrected")
    bucket("zz.csv", b"new")
    assert look().brought == 1
    assert look(NOW + timedelta(hours=2)).changed == 1
    assert landed(settings) == bodies | {"hospitals/000.csv": b"corrected", "zz.csv": b"new"}
    # Nothing that is kept holds who asked.
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"planted-" not in path.read_bytes(), path
    assert "planted-" not in caplog.text
    elsewhere = pull(settings, profile_at(address.replace("bucket", "elsewhere")), lambda: NOW, lambda _: None)
    assert elsewhere.reason and "planted-" not in elsewhere.reason and not elsewhere.succeeded


@pytest.mark.slow
def test_keys_that_are_no_paths_stop_nothing_beside_them(
    bucket: Callable[[str, bytes], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_key(method: str, key: str, body: bytes | None = None) -> None:
        """As it is: clients of HTTP and of buckets take such keys for paths."""
        server = http.client.HTTPConnection(urlsplit(os.environ["AWS_ENDPOINT_URL"]).netloc)
        with contextlib.closing(server):
            server.request(method, f"/bucket/{key}", body, {"Authorization": "AWS planted-key-id:signature"})
            assert server.getresponse().status < 300

    settings = Settings(tmp_path)
    for key in ("a.csv", "hospitals/b.csv", "z/c.csv"):
        bucket(key, b"id\n1\n")
    for key in ("in/folder//", "in/m//b.csv", "in/n/o/./x.csv"):
        by_key("PUT", key, b"id\n2\n")
    for count in (3, 0):
        done = pull(settings, profile_at("s3://bucket/in"), lambda: NOW, lambda _: None)
        assert done.brought == count and "rename" in done.reason and "x.csv" not in done.reason
    # Where it stands beside the folders, they are listed one by one.
    by_key("PUT", "in/../x.csv", b"id\n2\n")
    bucket("hospitals/d.csv", b"id\n3\n")
    assert pull(settings, profile_at("s3://bucket/in"), lambda: NOW, lambda _: None).brought == 1
    for key in ("in/folder//", "in/m//b.csv", "in/n/o/./x.csv", "in/../x.csv"):
        by_key("DELETE", key)
    assert pull(settings, profile_at("s3://bucket/in"), lambda: NOW, lambda _: None).succeeded


@pytest.mark.slow
def test_a_bucket_that_is_not_there_is_said_in_words(bucket: object, tmp_path: Path) -> None:
    done = pull(Settings(tmp_path), profile_at("s3://elsewhere/in"), lambda: NOW, lambda _: None)
    assert done.reason and "planted-" not in done.reason and "\n" not in done.reason and not done.succeeded


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path, dict[str, str]]]:
    with sftp_server(tmp_path) as found:
        yield found


#: Looks at a source; says how many files came, seconds and CPU seconds, without the start of Python.
MEASURED = """
import sys, time
from datetime import UTC, datetime
from pathlib import Path
import obstore.store, paramiko
from hospital_assets.landing.registry import load_profiles
from hospital_assets.settings import Settings
from hospital_assets.sources.pull import pull
settings = Settings(Path(sys.argv[1]))
profile = load_profiles(settings.profiles_folder)["there"]
begun, cpu = time.monotonic(), time.process_time()
done = pull(settings, profile, lambda: datetime.now(UTC), time.sleep, lists_all=sys.argv[2] == "all")
print(done.brought, time.monotonic() - begun, time.process_time() - cpu)
"""


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["bucket", "server"])
def test_ten_thousand_objects(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """All come, and looks that find nothing new are told with what they cost; in a process without the server."""
    found = request.getfixturevalue(kind)
    environment, address = dict(os.environ), "s3://bucket/in"
    if kind == "server":
        address, folder, entry = found
        environment |= entry
    for n in range(10_000):
        body = b"id\n%d\n" % n
        found(f"{n:05}.csv", body) if kind == "bucket" else (folder / f"{n:05}.csv").write_bytes(body)
    settings = folder_at(address, tmp_path / "data")
    looks = {"the first look": ("all", 10_000), "nothing new": ("", 0), "nothing new, all listed": ("all", 0)}
    for what, (listed, count) in looks.items():
        command = [sys.executable, "-c", MEASURED, str(settings.data_dir), listed]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        brought_count, seconds, cpu = done.stdout.split()
        load = os.getloadavg()[0]
        print(f"{kind}, {what}: {float(seconds):.1f} s, {float(cpu):.2f} CPU s, load {load:.1f}")  # noqa: T201
        assert int(brought_count) == count
    assert len(landed(settings)) == 10_000


@pytest.mark.slow
def test_a_server_is_brought_and_must_be_known(server: tuple[str, Path, dict[str, str]], tmp_path: Path) -> None:
    address, folder, environment = server
    settings = Settings(tmp_path / "data")

    def look(**changed: str) -> Pulled:
        return pull(
            settings,
            profile_at(address),
            lambda: NOW,
            lambda _: None,
            remote=lambda where: open_remote(where, environment | changed),
        )

    bodies = {"a.csv": b"id\n1\n", "hospitals/b.csv": os.urandom(3_000_000)}
    for key, body in bodies.items():
        (folder / key).parent.mkdir(exist_ok=True)
        (folder / key).write_bytes(body)
    (folder / "passwd.csv").symlink_to("/etc/passwd")
    done = look()
    assert (done.brought, done.reason) == (2, "") and landed(settings) == bodies
    (folder / "a.csv").write_bytes(b"id\n1\n2\n")
    assert look().changed == 1 and landed(settings)["a.csv"] == b"id\n1\n2\n"
    (tmp_path / "nobody").write_text("")
    assert "the server's key is not known: ssh-keyscan" in look(**{SFTP_HOSTS: str(tmp_path / "nobody")}).reason
    other = (tmp_path / "known").read_text().split()[0]
    import paramiko

    stranger = paramiko.ECDSAKey.generate()
    (tmp_path / "other").write_text(f"{other} {stranger.get_name()} {stranger.get_base64()}\n")
    assert "has another key" in look(**{SFTP_HOSTS: str(tmp_path / "other")}).reason
    stranger.write_private_key_file(str(tmp_path / "stranger"))
    assert "does not let this user in" in look(**{SFTP_KEY: str(tmp_path / "stranger")}).reason
    assert "is not there" in look(**{SFTP_KEY: str(tmp_path / "missing")}).reason


def test_a_server_that_never_answers_is_given_up_in_a_few_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("paramiko", reason="paramiko is not installed (extra sftp)")
    (tmp_path / "known").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"sftp://asker@127.0.0.1:{silent.getsockname()[1]}/in"
        with (
            pytest.raises(RemoteError, match="cannot be reached"),
            open_remote(address, {SFTP_HOSTS: str(tmp_path / "known")}, 1),
        ):
            pass
    assert not caplog.text


def test_shipped_profiles_name_no_address() -> None:
    assert not [name for name, profile in load_profiles(None).items() if profile.source is not None]
