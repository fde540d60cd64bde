"""Archives: the files in them land whole and once, in a folder that is called as the archive, and lead nowhere else."""

from __future__ import annotations

import errno
import gzip
import io
import os
import random
import shutil
import signal
import stat
import struct
import subprocess
import tarfile
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as of_hypothesis
from hypothesis import strategies as st

from hospital_assets.cli import main
from hospital_assets.files import is_locked, is_unfinished
from hospital_assets.landing.archives import Contents, unpack
from hospital_assets.landing.content import UnreadableError
from hospital_assets.landing.profile import Profile, ProfileError, parse_profile
from hospital_assets.landing.registry import Profiles
from hospital_assets.settings import FileLimits, Settings
from hospital_assets.sources.memory import Pulled, memory_file, open_memory
from hospital_assets.sources.pull import pull
from hospital_assets.warehouse.database import scratch_connection
from hospital_assets_tests.helpers import zone_in
from hospital_assets_tests.processes import hospital, started
from hospital_assets_tests.test_pull import NOW, Shelf

PROFILE = """
name = "there"
description = "A hospital that packs its exports."
time_zone = "America/Chicago"
[source]
address = "{address}"
archives = ["*.zip", "*.tar", "*.tgz", "old/*.tar.*"]
[subjects.hospitals]
files = [{files}]
columns = {{ hospital_id = "id", hospital_name = "name", time_zone = "zone" }}
"""
HEAD = b"id,name,zone\n"
LINE = b"H%d,Name,America/Chicago\n"
FILES = {"a.csv": HEAD + LINE % 1, "more/b.csv": HEAD + LINE % 2}
BESIDE = {"README.txt": b"read me", "__MACOSX/._a.csv": b"\0", "inner.zip": b"PK"}


def profile_at(address: str = "s3://bucket", files: str = '"*.csv"') -> Profile:
    return parse_profile(PROFILE.format(address=address, files=files), "there.toml")


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return made.getvalue()


def tarred(files: Mapping[str, bytes | tarfile.TarInfo], mode: str = "w") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            if isinstance(data, bytes):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
            else:
                archive.addfile(data)
    return made.getvalue()


KINDS: dict[str, Callable[[Mapping[str, bytes]], bytes]] = {
    "zip": zipped,
    "zip-stored": lambda files: zipped(files, zipfile.ZIP_STORED),
    "zip-bzip2": lambda files: zipped(files, zipfile.ZIP_BZIP2),
    "zip-lzma": lambda files: zipped(files, zipfile.ZIP_LZMA),
    **{f"tar{mode}": lambda files, mode=mode: tarred(files, f"w{mode}") for mode in ("", ":gz", ":bz2", ":xz")},
}


def unpacked(data: bytes, folder: Path, files: str = '"*.csv"') -> Contents:
    """The contents of an archive; what is in the folder is what they say."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "archive").write_bytes(data)
    contents = unpack(folder / "archive", folder / "room" / "files", profile_at(files=files), "x.zip", FileLimits())
    inside = folder / "room" / "files"
    assert {p.relative_to(inside).as_posix() for p in inside.rglob("*") if not p.is_dir()} == set(contents.files)
    return contents


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_unpacked_and_what_is_left_is_named(kind: str, tmp_path: Path) -> None:
    contents = unpacked(KINDS[kind]({f"./{name}": data for name, data in (FILES | BESIDE).items()}), tmp_path)
    assert {name: (tmp_path / "room" / "files" / name).read_bytes() for name in contents.files} == FILES
    assert contents.left["README.txt"] == "no subject of the profile 'there' takes it"
    assert "hides it" in contents.left["__MACOSX/._a.csv"] and "archive in an archive" in contents.left["inner.zip"]
    assert set(contents.left) == set(BESIDE)


def test_folders_are_none_of_the_files_as_windows_has_them(tmp_path: Path) -> None:
    contents = unpacked(zipped({"march\\": b"", "march\\a.csv": HEAD, "empty/": b""}), tmp_path)
    assert set(contents.files) == {"march/a.csv"} and not contents.left


# What is refused before a byte is written ---------------------------------------------------------------


def link(kind: bytes) -> tarfile.TarInfo:
    entry = tarfile.TarInfo("link.csv")
    entry.type, entry.linkname = kind, "/etc/passwd"
    return entry


def zip_with(change: Callable[[zipfile.ZipInfo], None]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        entry = zipfile.ZipInfo("a.csv")
        change(entry)
        archive.writestr(entry, HEAD)
    return made.getvalue()


def encrypted(data: bytes) -> bytes:
    """A zip whose entries say that they are encrypted, as their directory has it."""
    place = data.index(b"PK\x01\x02") + 8
    return data[:place] + b"\x01\x00" + data[place + 2 :]


def of_method(data: bytes, method: int) -> bytes:
    place = data.index(b"PK\x01\x02") + 10
    return data[:place] + struct.pack("<H", method) + data[place + 2 :]


def zipped_twice() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.csv", HEAD)
        archive.writestr("a.csv", HEAD + LINE % 1)
    return made.getvalue()


def large_header() -> bytes:
    """A tar that says its first extended header has 7 GB."""
    entry = tarfile.TarInfo("././@PaxHeader")
    entry.type, entry.size = tarfile.XHDTYPE, 7_000_000_000
    return entry.tobuf(tarfile.GNU_FORMAT) + bytes(20 * 512)


def sparse() -> bytes:
    entry = tarfile.TarInfo("a.csv")
    entry.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.size": "9",
        "GNU.sparse.map": "0,9",
    }
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(entry)
    return made.getvalue()


SOUND = zipped(FILES)
SOUND_TAR = tarred(FILES)
REFUSED: dict[str, tuple[bytes, str]] = {
    "up": (zipped({"../a.csv": b"", "b.csv": b""}), "lead out"),
    "up inside": (tarred({"x/../../a.csv": b""}), "lead out"),
    "up with their separator": (zipped({"..\\a.csv": b""}), "lead out"),
    "endless": (tarred({"a/" * 500_000 + "b.csv": b""}), "a path of over 1,000 characters"),
    "absolute": (tarred({"/etc/a.csv": b""}), "lead out"),
    "a drive": (zipped({"C:\\a.csv": b""}), "lead out"),
    "symbolic link": (tarred({"": link(tarfile.SYMTYPE)}), "a link, a device"),
    "hard link": (tarred({"": link(tarfile.LNKTYPE)}), "a link, a device"),
    "device": (tarred({"": link(tarfile.CHRTYPE)}), "a link, a device"),
    "pipe": (tarred({"": link(tarfile.FIFOTYPE)}), "a link, a device"),
    "unknown": (tarred({"": link(b"Z")}), "a link, a device"),
    "sparse": (sparse(), "a link, a device"),
    "link in a zip": (zip_with(lambda entry: setattr(entry, "external_attr", stat.S_IFLNK << 16)), "a link, a device"),
    "twice": (zipped_twice(), "two files of one name"),
    "twice in a tar": (tarred({"a.csv": HEAD, "./a.csv": HEAD}), "two files of one name"),
    "twice but for capitals": (zipped({"a.csv": b"", "A.csv": b""}), "two files of one name"),
    "twice but for how it is composed": (zipped({"\xe4.csv": b"", "a\u0308.csv": b""}), "two files of one name"),
    "file and folder": (zipped({"a.csv": b"", "a.csv/b.csv": b""}), "two files of one name"),
    "encrypted": (encrypted(SOUND), "protected by a password"),
    "another method": (of_method(SOUND, 9), "by a method that is not read"),
    "bomb": (zipped({"a.csv": bytes(200_000_000)}), "most_file_ratio"),
    "bomb in a tar": (tarred({"a.csv": bytes(70_000_000)}, "w:gz"), "most_file_ratio"),
    "empty": (zipped({}), "holds no files"),
    "empty tar": (tarred({}), "holds no files"),
    "cut off": (SOUND[:-9], "cut off or damaged"),
    "tar cut off": (SOUND_TAR[:700], "cut off or damaged"),
    "tar cut off between two": (SOUND_TAR[:1024], "cut off or damaged"),
    "packed and cut off": (gzip.compress(SOUND_TAR)[:-20], "cut off or damaged"),
    "damaged header": (SOUND_TAR[:1024] + b"x" + SOUND_TAR[1025:], "cut off or damaged"),
    "large header": (large_header(), "cut off or damaged"),
    "damaged": (SOUND.replace(b"PK\x05\x06", b"PK\x05\x07"), "cut off or damaged"),
    "damaged content": (zipped(FILES, zipfile.ZIP_STORED).replace(b"H1,Name", b"H9,Name"), "cut off or damaged"),
    "no archive": (b"id,name\n", "cut off or damaged"),
    "no bytes": (b"", "cut off or damaged"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_says_why_and_unpacks_nothing(kind: str, tmp_path: Path) -> None:
    data, said = REFUSED[kind]
    (tmp_path / "archive").write_bytes(data)
    with pytest.raises(UnreadableError, match=said):
        unpack(tmp_path / "archive", tmp_path / "room" / "files", profile_at(), "x.zip", FileLimits())
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    # What shows only while it is read leaves what its caller throws away, below the folder.
    assert left <= {"archive", "unpacked.tar", *({"a.csv"} if kind == "damaged content" else ())}


def test_a_bomb_costs_no_memory_and_no_disk(tmp_path: Path) -> None:
    """A zip that lies about what it holds, and a packed tar, end soon behind the limit."""
    data = zipped({"a.csv": bytes(70_000_000)})
    lying = data.replace(struct.pack("<I", 70_000_000), struct.pack("<I", 1_000_000))
    with pytest.raises(UnreadableError, match="cut off or damaged"):
        unpacked(lying, tmp_path / "lying")
    with pytest.raises(UnreadableError, match="most_file_ratio"):
        unpacked(tarred({"a.csv": bytes(90_000_000)}, "w:bz2"), tmp_path / "bomb")
    sizes = [p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()]
    assert max(sizes) < 66_000_000


NAMES = st.lists(
    st.text(alphabet="aA.\\/:~ \x00\n\x7f\u202e\xe4\u0308-", max_size=9).map(lambda name: f"{name}.csv")
    | st.sampled_from(["../a.csv", "a/../b.csv", "/a.csv", "a.csv", "./b.csv", "x/c.csv", ".h/a.csv", "x" * 250, "."]),
    min_size=1,
    max_size=6,
    unique=True,
)


@of_hypothesis(max_examples=300, deadline=None)
@given(names=NAMES, is_tar=st.booleans())
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_whatever_the_names_nothing_leads_out_and_all_is_accounted_for(
    names: list[str], is_tar: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("names")
    try:
        contents = unpacked((tarred if is_tar else zipped)({name: b"%d" % len(name) for name in names}), folder)
        # An entry whose name ends with a slash is a folder.
        files = [name for name in names if not name.partition("\x00")[0].replace("\\", "/").endswith("/")]
        assert len(files) <= len(contents.files) + len(contents.left) <= len(names)
    except UnreadableError as error:
        assert "nothing of it was landed" in str(error) or "holds no files" in str(error)
        assert not [p for p in (folder / "room").rglob("*") if p.is_file()]
    finally:
        assert {p.name for p in folder.iterdir()} <= {"archive", "room"}
        shutil.rmtree(folder)


@of_hypothesis(max_examples=100, deadline=None)
@given(
    names=st.lists(
        st.from_regex(r"([a-z0-9 ]{1,5}/){0,3}[a-z0-9_-]{1,9}\.csv", fullmatch=True), min_size=1, unique=True
    ),
    kind=st.sampled_from(sorted(KINDS)),
)
def test_sound_names_are_all_unpacked(names: set[str], kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("sound")
    bodies = {name: name.encode() for name in names if not any(other.startswith(f"{name}/") for other in names)}
    try:
        contents = unpacked(KINDS[kind](bodies), folder)
        assert {name: (folder / "room" / "files" / name).read_bytes() for name in contents.files} == bodies
    finally:
        shutil.rmtree(folder)


@of_hypothesis(max_examples=300, deadline=None)
@given(data=st.data(), kind=st.sampled_from(sorted(KINDS)))
def test_a_damaged_archive_is_said_to_be_or_is_read_as_it_was(
    data: st.DataObject, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sound = bytearray(KINDS[kind](FILES))
    for _ in range(data.draw(st.integers(1, 3))):
        sound[data.draw(st.integers(0, len(sound) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(sound[: data.draw(st.integers(len(sound) // 2, len(sound)))])
    folder = tmp_path_factory.mktemp("damaged")
    try:
        contents = unpacked(cut, folder)
        bodies = [(folder / "room" / "files" / name).read_bytes() for name in contents.files]
        # Of the bytes of a plain tar, nothing has a sum.
        assert kind == "tar" or set(bodies) <= set(FILES.values())
    except UnreadableError as error:
        assert str(error)
    finally:
        shutil.rmtree(folder)


# Where the files land ---------------------------------------------------------------------------------


def brought(settings: Settings, shelf: Shelf, at: datetime = NOW, files: str = '"*.csv"') -> Pulled:
    return pull(settings, profile_at(files=files), lambda: at, lambda _: None, remote=shelf, lists_all=True)


def landed(settings: Settings) -> dict[str, bytes]:
    folder = settings.landing / "there"
    assert not [p for p in folder.rglob("*") if is_unfinished(p.name)]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def states(settings: Settings) -> dict[str, tuple[str, str]]:
    with closing(scratch_connection()) as connection:
        ledger = zone_in(settings.data_dir, connection, Profiles({"there": profile_at()})).discover()
        return {n: (state, why or "") for n, state, why in ledger.select("source_file", "state", "problem").iter_rows()}


def test_files_of_archives_land_beside_others_each_version_once(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    shelf = Shelf(files={"march.zip": zipped(FILES | BESIDE), "plain.csv": HEAD + LINE % 3, "old/x.tar.gz": b""})
    shelf.files["old/x.tar.gz"] = tarred({"c.csv": HEAD + LINE % 4}, "w:gz")
    done = brought(settings, shelf)
    assert (done.brought, done.changed, done.other, done.succeeded) == (4, 0, 3, True)
    assert landed(settings) == {
        "march.zip/a.csv": FILES["a.csv"],
        "march.zip/more/b.csv": FILES["more/b.csv"],
        "old/x.tar.gz/c.csv": HEAD + LINE % 4,
        "plain.csv": HEAD + LINE % 3,
    }
    assert {state for state, _ in states(settings).values()} == {"ready"} and len(states(settings)) == 4
    with open_memory(settings) as memory:
        assert {(archive, name) for archive, name, _ in memory.left("there")} == {
            ("march.zip", name) for name in BESIDE
        }
    before = {path: path.stat().st_mtime_ns for path in settings.landing.rglob("*") if path.is_file()}
    assert brought(settings, shelf) == Pulled()
    # Another archive with one file that changed, one that is new, one that is gone, and one as it was.
    shelf.files["march.zip"] = zipped({"a.csv": FILES["a.csv"], "new.csv": HEAD + LINE % 5})
    done = brought(settings, shelf)
    assert (done.brought, done.changed, done.removed) == (1, 0, 1)
    assert set(landed(settings)) == {"march.zip/a.csv", "march.zip/new.csv", "old/x.tar.gz/c.csv", "plain.csv"}
    shelf.files["march.zip"] = zipped({"a.csv": HEAD + LINE % 6, "new.csv": HEAD + LINE % 5})
    done = brought(settings, shelf)
    assert (done.brought, done.changed, done.removed) == (0, 1, 0)
    assert landed(settings)["march.zip/a.csv"] == HEAD + LINE % 6
    kept = settings.landing / "there" / "plain.csv"
    assert kept.stat().st_mtime_ns == before[kept]
    with open_memory(settings) as memory:
        assert memory.left("there") == [] and len(memory.known("there:march.zip")) == 2


def test_what_was_left_lands_once_the_profile_takes_it(tmp_path: Path) -> None:
    settings, shelf = Settings(tmp_path), Shelf(files={"march.zip": zipped(FILES | BESIDE)})
    assert brought(settings, shelf).other == 3
    assert brought(settings, shelf, files='"*.csv", "*.txt"').brought == 1
    assert landed(settings)["march.zip/README.txt"] == b"read me"
    assert shelf.read == ["march.zip"] * 2 and brought(settings, shelf, files='"*.csv", "*.txt"') == Pulled()


def test_who_was_erased_does_not_come_back_with_another_file_of_the_archive(tmp_path: Path) -> None:
    settings, shelf = Settings(tmp_path), Shelf(files={"march.zip": zipped(FILES)})
    brought(settings, shelf)
    erased = settings.landing / "there" / "march.zip" / "a.csv"
    erased.write_bytes(HEAD)
    (settings.landing / "there" / "march.zip" / "more" / "b.csv").unlink()
    shelf.files["march.zip"] = zipped(FILES | {"c.csv": HEAD + LINE % 7})
    assert brought(settings, shelf).brought == 1
    assert landed(settings) == {"march.zip/a.csv": HEAD, "march.zip/c.csv": HEAD + LINE % 7}


def test_a_bad_archive_stops_nothing_and_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings, shelf = Settings(tmp_path), Shelf(files={"a.zip": SOUND, "z.csv": HEAD + LINE % 9})
    shelf.files |= {f"bad {n}.zip": data for n, (data, _) in enumerate(REFUSED.values())}
    done = brought(settings, shelf)
    assert (done.brought, len(done.refused), done.succeeded) == (3, len(REFUSED), True)
    for key, (_, said) in zip(sorted(done.refused, key=lambda k: int(k[4:-4])), REFUSED.values(), strict=True):
        assert said in done.refused[key], (key, done.refused[key])
    whole = landed(settings)
    assert set(whole) == {"a.zip/a.csv", "a.zip/more/b.csv", "z.csv"}
    # A later version that is damaged leaves what is there.
    shelf.files = {"a.zip": SOUND[:-5]}
    assert set(brought(settings, shelf).refused) == {"a.zip"} and landed(settings) == whole
    shelf.files = {"a.zip": zipped({"a.csv": HEAD})}
    assert brought(settings, shelf).changed == 1
    (settings.profiles_folder).mkdir()
    (settings.profiles_folder / "there.toml").write_text(PROFILE.format(address="s3://bucket", files='"*.csv"'))
    assert main(["--data-dir", str(tmp_path), "sources"]) == 0
    assert "refused" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["march.zip", "march.zip/more", "march.zip/a.csv/x"])
def test_what_stands_where_a_file_would_is_neither_followed_nor_replaced(tmp_path: Path, place: str) -> None:
    settings, outside = Settings(tmp_path / "data"), tmp_path / "outside"
    outside.mkdir()
    there = settings.landing / "there" / place
    there.parent.mkdir(parents=True)
    there.mkdir() if place.endswith("x") else there.symlink_to(outside)
    done = brought(settings, Shelf(files={"march.zip": SOUND}))
    assert list(done.refused) == ["march.zip"] and "remove it" in done.refused["march.zip"]
    assert not list(outside.iterdir()) and not landed(settings)


def test_an_archive_in_the_landing_folder_itself_says_what_to_do(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    folder = settings.landing / "there"
    folder.mkdir(parents=True)
    for name, data in {"a.zip": SOUND, "b.tar.gz": b"x", "c.csv": HEAD + LINE % 1, "zip.csv": SOUND}.items():
        (folder / name).write_bytes(data)
    (folder / "tar.csv").write_bytes(SOUND_TAR)
    found = states(settings)
    assert found.pop("there/c.csv")[0] == "ready"
    assert all(state == "unreadable" and "hospital import" in why for state, why in found.values()) and len(found) == 4


def test_archives_lie_at_an_address() -> None:
    text = PROFILE.format(address="s3://b", files='"*.csv"').replace('address = "s3://b"', 'database = "URL"')
    text += '[source.queries.hospitals]\nsql = "select 1"\n'
    with pytest.raises(ProfileError, match="archives lie at an address"):
        parse_profile(text, "there.toml")


# By hand ----------------------------------------------------------------------------------------------


def test_import_unpacks_archives_and_says_what_it_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings, given_folder = Settings(tmp_path / "data"), tmp_path / "given"
    settings.profiles_folder.mkdir(parents=True)
    (settings.profiles_folder / "there.toml").write_text(PROFILE.format(address="s3://bucket", files='"*.csv"'))
    command = ["--data-dir", str(settings.data_dir), "import", "there"]
    (given_folder / "sub").mkdir(parents=True)
    (given_folder / "march.zip").write_bytes(zipped(FILES | BESIDE))
    assert main([*command, str(given_folder / "march.zip")]) == 0
    shown = capsys.readouterr().out
    assert "landed   march.zip/a.csv" in shown and "landed   march.zip/more/b.csv" in shown
    assert "not used march.zip/README.txt: no subject" in shown and "not used march.zip/inner.zip: an archive" in shown
    assert main(["--data-dir", str(settings.data_dir), "sources"]) == 0
    assert "left in its archive  there: 'march.zip/README.txt': no subject" in capsys.readouterr().out
    # Again, after somebody took a file away: by hand it comes back; what the archive lost goes.
    (settings.landing / "there" / "march.zip" / "a.csv").unlink()
    (given_folder / "march.zip").write_bytes(zipped({"a.csv": FILES["a.csv"]}))
    (given_folder / "sub" / "bad.tgz").write_bytes(SOUND_TAR[:600])
    (given_folder / "d.csv").write_bytes(HEAD + LINE % 8)
    assert main([*command, str(given_folder)]) == 1
    shown = capsys.readouterr()
    assert (
        "removed  march.zip/more/b.csv" in shown.out and "not loaded sub/bad.tgz: the archive is cut off" in shown.err
    )
    assert landed(settings) == {"march.zip/a.csv": FILES["a.csv"], "d.csv": HEAD + LINE % 8}


# Killed in the middle -----------------------------------------------------------------------------------


def versions(rng: random.Random, files: int) -> list[dict[str, bytes]]:
    """Two versions of what an archive holds; a third of the files differ, some are gone, some new."""
    first = {
        f"part{n % 7}/{n}.csv": HEAD + b"".join(LINE % rng.randrange(10**6) for _ in range(300)) for n in range(files)
    }
    second = {name: data + LINE % 1 if n % 3 == 0 else data for n, (name, data) in enumerate(first.items()) if n % 10}
    return [first, second | {f"new/{n}.csv": HEAD + LINE % n for n in range(20)}]


@pytest.mark.slow
def test_who_is_killed_leaves_nothing_half_and_the_next_one_ends_it(tmp_path: Path) -> None:
    """`kill -9` while an archive is downloaded, unpacked and landed: at first all or nothing, later each old or new."""
    seed = int(os.environ.get("HOSPITAL_TEST_SEED", 0)) or random.SystemRandom().randrange(1, 10**6)
    print(f"HOSPITAL_TEST_SEED={seed}")  # noqa: T201
    rng = random.Random(seed)
    there = tmp_path / "there"
    there.mkdir()
    first, second = versions(rng, 200)
    killed = {"first": 0, "second": 0}
    for turn in range(3):
        settings = Settings(tmp_path / f"data{turn}")
        settings.profiles_folder.mkdir(parents=True)
        text = PROFILE.format(address=f"file://{there}", files='"*.csv"')
        (settings.profiles_folder / "there.toml").write_text(text)
        pulling = hospital(settings.data_dir, "pull")
        folder = settings.landing / "there" / "march.tgz"

        def kill_one(
            pulling: list[str] = pulling, settings: Settings = settings, longest: float = (3.0, 0.5, 0.05)[turn]
        ) -> bool:
            room = settings.landing / "there"
            deadline = time.monotonic() + 60
            with started(pulling, stdout=subprocess.DEVNULL) as process:
                # Once it has made its room, it is at work: downloads, unpacks, lands.
                while process.poll() is None and time.monotonic() < deadline:
                    if room.is_dir() and any(is_unfinished(entry.name) for entry in room.iterdir()):
                        break
                    time.sleep(0.005)
                # At any time of its work, and once surely before its end, however fast the machine is.
                time.sleep(longest * rng.random())
            return process.returncode == -signal.SIGKILL

        def now(folder: Path = folder) -> dict[str, bytes]:
            return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

        (there / "march.tgz").write_bytes(tarred(first, "w:gz"))
        killed["first"] += kill_one()
        assert now() in ({}, first)
        assert not set(states(settings)) - {f"there/march.tgz/{name}" for name in first}
        assert subprocess.run(pulling, check=False, capture_output=True).returncode == 0
        assert now() == first
        (there / "march.tgz").write_bytes(tarred(second, "w:gz"))
        killed["second"] += kill_one()
        for name, data in now().items():
            assert data in (first.get(name), second.get(name)), name
        assert set(second) & set(first) <= set(now())
        assert subprocess.run(pulling, check=False, capture_output=True).returncode == 0
        assert now() == second
        assert not is_locked(memory_file(settings).with_suffix(".lock"))
        # Nothing of those who were killed is left.
        assert not [p for p in settings.landing.rglob("*") if is_unfinished(p.name)]
    assert b"there: 0 brought, 0 changed" in subprocess.run(pulling, check=False, capture_output=True).stdout
    assert killed["first"] and killed["second"], killed


def test_limits_of_an_archive_are_those_of_a_file(tmp_path: Path) -> None:
    settings = replace(Settings(tmp_path), limits=FileLimits(megabytes=1))
    rng = random.Random(1)
    shelf = Shelf(files={"a.zip": zipped({"a.csv": rng.randbytes(600_000), "b.csv": bytes(600_000)}), "b.csv": HEAD})
    done = brought(settings, shelf)
    assert done.brought == 1 and "most_file_megabytes" in done.refused["a.zip"]
    # It is not read again for nothing.
    later = NOW + timedelta(hours=1)
    assert pull(settings, profile_at(), lambda: later, lambda _: None, remote=shelf) == Pulled()
    raised = replace(settings, limits=FileLimits(megabytes=2))
    later += timedelta(hours=1)
    assert pull(raised, profile_at(), lambda: later, lambda _: None, remote=shelf).brought == 2


def test_a_refused_archive_is_looked_at_once_more_where_everything_is_asked_for(tmp_path: Path) -> None:
    settings, shelf = Settings(tmp_path), Shelf(files={"march.zip": SOUND})
    there = settings.landing / "there" / "march.zip" / "a.csv" / "x"
    there.mkdir(parents=True)
    for _ in range(2):
        assert list(brought(settings, shelf).refused) == ["march.zip"]
    there.rmdir()
    there.parent.rmdir()
    assert brought(settings, shelf).brought == 2


def full_disk(*_: object) -> Contents:
    raise OSError(errno.ENOSPC, "No space left on device", "march of Erika Mustermann.csv")


def test_a_full_disk_is_no_fault_of_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, shelf = Settings(tmp_path), Shelf(files={"march.zip": SOUND})
    with monkeypatch.context() as patched:
        patched.setattr("hospital_assets.sources.archives.unpack", full_disk)
        done = brought(settings, shelf)
    assert done.failed == {"march.zip": "No space left on device"} and not done.refused
    assert brought(settings, shelf).brought == 2


def test_the_newest_archive_of_a_bucket_is_found_without_listing_all(tmp_path: Path) -> None:
    settings = Settings(tmp_path)
    shelf = Shelf(files={f"2026-03-{n:02}.zip": zipped({"a.csv": HEAD + LINE % n}) for n in range(1, 4)})

    def look() -> Pulled:
        later = NOW + timedelta(minutes=1)
        return pull(settings, profile_at(), lambda: later, lambda _: None, remote=shelf)

    assert look().brought == 3
    shelf.listed = 0
    shelf.files["2026-03-09.zip"] = zipped({"a.csv": HEAD + LINE % 9})
    assert look().brought == 1 and shelf.listed == 1


def test_what_an_archive_lost_is_gone_from_the_ledger_as_a_file_that_was_deleted(tmp_path: Path) -> None:
    settings, shelf = Settings(tmp_path), Shelf(files={"march.zip": SOUND})
    brought(settings, shelf)
    shelf.files["march.zip"] = zipped({"a.csv": FILES["a.csv"]})
    brought(settings, shelf)
    assert set(states(settings)) == {"there/march.zip/a.csv"}
    assert not (settings.landing / "there" / "march.zip" / "more").exists()
