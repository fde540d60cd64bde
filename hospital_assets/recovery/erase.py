"""Removing a person from a data directory, and proving it.

The records are taken out of the landed files, because whatever is built comes from them; what was derived from them
(the warehouse, snapshots, publications, the lake, the mirror, pages) is thrown away as files, so that nothing stays in
free blocks, and built anew. Then everything is searched for the person's numbers.

A person is every record number that merges made one, and every visit under any of them. Once records are gone,
nothing but a note knows whose they were: it is written before the first file changes, and deleted when nothing of
the person is found any more, so that an erasure that was interrupted anywhere can be run again to its end. The audit
is append-only: it keeps that somebody was erased, by a keyed hash of the number, and what was asked before.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from hospital_assets.access.audit import Event, audited, system_actor
from hospital_assets.alerts.outbox import Outbox, outbox_file
from hospital_assets.alerts.settings import load_alert_settings
from hospital_assets.contracts import CONTRACTS
from hospital_assets.files import links_below, read_state, replace_text, replacing, version_of
from hospital_assets.landing.content import is_finished
from hospital_assets.landing.registry import load_profiles
from hospital_assets.publishing.pseudonyms import SecretKey
from hospital_assets.publishing.publications import published_audiences, published_folder
from hospital_assets.publishing.targets.postgres import DSN_VARIABLE
from hospital_assets.recovery.backup import backups, note_erasure, staging_folder
from hospital_assets.recovery.landed import Holding, LandedSearch
from hospital_assets.recovery.mirror import assert_deletable, delete_mirror, mirror_to_search
from hospital_assets.recovery.objects import BackupError
from hospital_assets.recovery.snapshots import snapshots_folder
from hospital_assets.recovery.spellings import Finder, pieces
from hospital_assets.recovery.whose import PERSON_COLUMNS, VISIT_COLUMNS, Person
from hospital_assets.settings import EngineSettings, Settings, SettingsError
from hospital_assets.warehouse.database import Warehouse, open_warehouse, scratch_connection
from hospital_assets.warehouse.dialect import literal, quoted

#: Variables that name a place outside the data directory, and what of a person can be there.
OUTSIDE: Mapping[str, str] = {
    "HOSPITAL_LAKE": "the lake",
    "HOSPITAL_DAGSTER_POSTGRES_URL": "Dagster's history in PostgreSQL",
    "DAGSTER_HOME": "Dagster's history and logs, where they are elsewhere",
    DSN_VARIABLE: "publications in PostgreSQL",
    "HOSPITAL_SPARK_MASTER": "what the Spark cluster keeps while it works",
    "HOSPITAL_AUDIT_ANCHORS": "anchors of the audit, which name nobody",
}
_UNFINISHED = ".erasing"
#: Who writes into a file now and then, as a listener does, has written by then.
_QUIET_SECONDS = 30.0


@dataclass(frozen=True)
class _Ready:
    """A landed file, and the one without the person that takes its place."""

    path: Path
    version: tuple[int, ...]
    temporary: Path
    records: int

    def is_changing(self) -> bool:
        """Whether it was replaced or written to, or somebody has it open; where nobody can tell, its time says."""
        if version_of(self.path) != self.version:
            return True
        return time.time() - self.path.stat().st_mtime < _QUIET_SECONDS and not is_finished(self.path)


class EraseError(ValueError):
    """A person cannot be erased; nothing was changed, or nothing more."""


@dataclass(frozen=True)
class Erasure:
    """An erasure that can be done: it may have been begun before, and interrupted.

    Attributes:
        hashed: a keyed hash of the record number it was first asked for, which stands in the audit.
        was_published: whether there was a publication, so that there is to be one again.
    """

    person: Person
    hashed: str
    was_published: bool
    was_begun: bool = False


@dataclass(frozen=True)
class Erased:
    """The result of an erasure.

    Attributes:
        alerts: how many rows of alerts were deleted.
        failures: what failed when everything was built anew.
        unsearched: files that could not be searched whole.
        mentions: landed files in which others' records hold the person's number, with the first lines.
    """

    stripped: tuple[Stripped, ...]
    alerts: int
    failures: tuple[str, ...]
    left: tuple[str, ...]
    unsearched: tuple[str, ...] = ()
    mentions: tuple[str, ...] = ()

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return not (self.failures or self.left)


@dataclass(frozen=True)
class Stripped:
    """The records removed from a landed file, which is called by its path below the landing folder."""

    file: str
    records: int


def plan_erasure(settings: Settings, record_number: str, key: SecretKey) -> Erasure:
    """Find the person of a record number, and whether their erasure was started before; changes nothing.

    Args:
        record_number: any of the person's.
        key: of pseudonyms; the number is hashed under a key made of it.

    Raises:
        EraseError: nobody has the number, or nothing was ever built.
        WarehouseError: the mirror cannot be reached.
    """
    assert_deletable(settings)
    begun = next((e for e in begun_erasures(settings) if record_number in e.person.record_numbers), None)
    if linked := [folder for folder in (*_derived(settings), settings.landing) if folder.is_symlink()]:
        raise EraseError(f"{linked[0]} is a link, which erasing does not follow; nothing was changed")
    if begun is None and not settings.warehouse_file.exists():
        raise EraseError(f"{settings.warehouse_file} is missing: run `hospital build` first")
    if begun is None:
        try:
            with open_warehouse(settings.warehouse_file) as warehouse:
                person = find_person(warehouse, record_number)
        except EraseError:
            # Gone from the tables, or never in them, but not from what has landed.
            person = Person((record_number,), ())
            if not any(held.records for _, _, held in _held(settings, person)):
                raise
        hashed = hmac.new(key.derived("erased"), record_number.encode(), hashlib.sha256).hexdigest()[:16]
        begun = Erasure(person, hashed, bool(published_audiences(settings.data_dir)))
    elif settings.warehouse_file.exists():
        # More of the person may have landed since.
        with contextlib.suppress(EraseError), open_warehouse(settings.warehouse_file) as warehouse:
            begun = replace(begun, person=begun.person | find_person(warehouse, record_number))
    return replace(begun, person=as_landed(settings, begun.person))


def erase_person(settings: Settings, erasure: Erasure, rebuild: Callable[[bool], Sequence[str]]) -> Erased:
    """Remove a person from everything in a data directory, and look for what is left; audited.

    What was interrupted is done from the start again, with what the person was called then.

    Args:
        rebuild: rebuilds every table, and publishes if asked to; returns what failed.

    Raises:
        EraseError: a landed file holds the person in a way that cannot be taken out; nothing was changed.
    """
    person = erasure.person
    with audited(settings, Event(system_actor(), "erase", statement=f"person {erasure.hashed}")) as ending:
        note = _write_note(settings, erasure)
        try:
            stripped = strip_landing(settings, person)
        except EraseError:
            if not erasure.was_begun:
                note.unlink()
            raise
        strip_ground_truth(settings, person)
        alerts = delete_alerts(settings, person)
        delete_derived_files(settings)
        failures = tuple(rebuild(erasure.was_published))
        reasons = ["the build failed"][: len(failures)]
        with open_warehouse(settings.warehouse_file) as warehouse:
            search = find_traces(warehouse, settings, person)
        try:
            note_erasure(settings, erasure.hashed, datetime.now(UTC))
        except OSError as error:
            reasons.append("it could not be noted beside the backups")
            failures = (*failures, f"{reasons[-1]}: {error.strerror}")
        erased = Erased(tuple(stripped), alerts, failures, search.left, search.unsearched, search.mentions)
        ending.row_count = sum(file.records for file in stripped)
        ending.failure = "; ".join([*(f"left in {place}" for place in search.left), *reasons])
        if erased.is_done:
            note.unlink()
    return erased


def _notes_folder(settings: Settings) -> Path:
    """The folder of running erasures: a file for each person, from the first change until the search finds nothing."""
    return settings.data_dir / "erasures"


def begun_erasures(settings: Settings) -> Iterator[Erasure]:
    """Erasures that were begun and are not done.

    Raises:
        StateError: a note of one is damaged.
    """
    for note in sorted(_notes_folder(settings).glob("*.json")):
        noted = read_state(note, "an erasure is not finished; restore the note or erase the person anew", "person")
        names = {name: tuple(listed) for name, listed in noted["person"].items()}
        yield Erasure(Person(**names), note.stem, noted["was_published"], was_begun=True)


def _write_note(settings: Settings, erasure: Erasure) -> Path:
    """Write down who is to be erased, on disk when this returns."""
    folder = _notes_folder(settings)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    note = folder / f"{erasure.hashed}.json"
    noted = {"person": asdict(erasure.person), "was_published": erasure.was_published}
    replace_text(note, json.dumps(noted), is_durable=True, mode=0o600)
    return note


def find_person(warehouse: Warehouse, record_number: str) -> Person:
    """Find the person of a record number.

    Raises:
        EraseError: nobody is.
    """
    connection = warehouse.connection
    numbers: set[str] = set()
    # A build that was interrupted has left some tables out.
    if all(warehouse.exists(CONTRACTS[name]) for name in ("dim_patient", "dim_person")):
        numbers = {
            n
            for (n,) in connection.execute(
                "select distinct p.patient_id from dimensions.dim_patient p "
                "join dimensions.dim_person d using (patient_durable_key) where d.person_key in ("
                "select d.person_key from dimensions.dim_patient p "
                "join dimensions.dim_person d using (patient_durable_key) where p.patient_id = ?) "
                "and p.patient_key > 0",
                [record_number],
            ).fetchall()
        }
    visits: set[str] = set()
    for contract in CONTRACTS.values():
        names = set(contract.column_names)
        if contract.layer != "cleaned" or "visit_id" not in names or not warehouse.exists(contract):
            continue
        for column in set(PERSON_COLUMNS) & names:
            visits |= {
                v
                for (v,) in connection.execute(
                    f"select distinct visit_id from {contract.qualified_name} "
                    f"where {column} in (select unnest(?)) and visit_id is not null",
                    [[record_number, *numbers]],
                ).fetchall()
            }
    if not numbers and not visits:
        raise EraseError("nobody has this record number; nothing was changed")
    return Person(tuple(sorted({record_number, *numbers})), tuple(sorted(visits)))


def as_landed(settings: Settings, person: Person) -> Person:
    """The person with what landed records of theirs call their visits, and what FHIR resources call either.

    An observation names its patient by reference; it is the person's all the same.
    """
    while True:
        known = person
        for _, _, held in _held(settings, known):
            person |= held.person
        if person == known:
            return person


def _held(
    settings: Settings, person: Person, shared: frozenset[str] = frozenset()
) -> Iterator[tuple[Path, tuple[int, ...], Holding]]:
    """Every landed file that holds something of a person, and its version that was read; see `LandedSearch`."""
    with landed_search(settings, person, shared) as search:
        for path in _files(settings.landing):
            version = version_of(path)
            if (held := search.holding(path)) is not None:
                yield path, version, held


@contextlib.contextmanager
def landed_search(settings: Settings, person: Person, shared: frozenset[str] = frozenset()) -> Iterator[LandedSearch]:
    """What looks for a person in landed files, while it is needed."""
    with contextlib.closing(scratch_connection(memory_limit="1GB")) as connection:
        yield LandedSearch(person, settings, load_profiles(settings.profiles_folder), connection, shared)


def _files(folder: Path) -> Iterator[Path]:
    """The regular files of a folder; no link is followed out of it."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        for path in (Path(root, name) for name in sorted(names)):
            with contextlib.suppress(OSError):
                if stat.S_ISREG(path.lstat().st_mode):
                    yield path


def _finders(settings: Settings, person: Person) -> Callable[[Path], Finder]:
    """What finds the person in a file: in a landed one as its source writes numbers."""
    profiles = load_profiles(settings.profiles_folder)
    by_source = {name: person.within(profile.identity_namespace) for name, profile in profiles.items()}
    anywhere = person.pattern

    def of(path: Path) -> Finder:
        if not path.is_relative_to(settings.landing):
            return anywhere
        source, *inside = path.relative_to(settings.landing).parts
        if source not in profiles:
            return anywhere
        feeds = profiles[source].feeds("/".join(inside)) if inside else []
        fixed_width = next((feed.spec.fixed_width for feed in feeds if feed.spec.fixed_width), None)
        return replace(by_source[source], fixed_width=fixed_width) if fixed_width else by_source[source]

    return of


def _bytes_of(path: Path, settings: Settings) -> bytes | None:
    """A file's bytes; None where it is larger than a landed one may be, of which nothing was ever loaded."""
    return path.read_bytes() if path.stat().st_size <= 1_000_000 * settings.limits.megabytes else None


def strip_landing(settings: Settings, person: Person) -> list[Stripped]:
    """Take the person's records out of the landed files; every other record stays as it is.

    All files are made ready before the first is replaced. A torn file, or one larger than may be loaded, is left alone,
    since nothing of it was ever loaded: the search names it.

    Raises:
        EraseError: of some records nobody can tell whether they are the person's, or they cannot be taken out alone.
    """
    for unfinished in _files(settings.landing):
        if unfinished.name.startswith(".") and unfinished.name.endswith(_UNFINISHED):
            unfinished.unlink()
    ready: list[_Ready] = []
    try:
        unclear, shared = _make_ready(settings, person, frozenset(), ready)
        if shared:
            for one in ready:
                one.temporary.unlink()
            ready.clear()
            unclear, _ = _make_ready(settings, person, shared, ready)
        if unclear:
            raise EraseError(
                "of what stands here nobody can tell whether it is the person's alone, or it cannot be taken out, so "
                "take the person out yourself, correct it, or move the file away, then try again; nothing was changed: "
                f"{'; '.join(unclear[:10])}{f'; and {len(unclear) - 10} more' if unclear[10:] else ''}"
            )
        if changing := [one.path for one in ready if one.is_changing()]:
            names = ", ".join(str(path.relative_to(settings.landing)) for path in changing[:10])
            raise EraseError(
                f"somebody is writing what the person would be taken out of ({names}): run this again in a minute, or "
                "stop who writes; nothing was changed"
            )
    except BaseException:
        for one in ready:
            one.temporary.unlink(missing_ok=True)
        raise
    for one in ready:
        one.temporary.replace(one.path)
    return [Stripped(str(one.path.relative_to(settings.landing)), one.records) for one in ready]


def strip_ground_truth(settings: Settings, person: Person) -> None:
    """Take rows that name the person out of what the simulator noted of the records it made."""
    for path in _files(settings.ground_truth):
        if path.suffix == ".parquet" and _places_in(path, person.pattern, settings)[0]:
            rows = f"from read_parquet({literal(str(path))}) t where not regexp_matches(t::varchar, ?)"
            with replacing(path, is_durable=True) as temporary, contextlib.closing(scratch_connection()) as connection:
                connection.execute(f"copy ({rows}) to {literal(str(temporary))} (format parquet)", [person.pattern.sql])


def _make_ready(
    settings: Settings, person: Person, shared: frozenset[str], ready: list[_Ready]
) -> tuple[list[str], frozenset[str]]:
    """Write files without the person's records beside them; returns what nobody can tell, and visits of others too."""
    unclear: list[str] = []
    of_others: frozenset[str] = frozenset()
    for path, version, held in _held(settings, person, shared):
        unclear += [f"{held.file} ({why})" for why in held.unclear]
        of_others |= held.shared
        if held.kept is None or unclear:
            continue
        temporary = path.with_name(f".{path.name}{_UNFINISHED}")
        with replacing(temporary, mode=stat.S_IMODE(path.stat().st_mode)) as made:
            made.write_bytes(held.kept)
        ready.append(_Ready(path, version, temporary, held.records))
    return unclear, of_others


def _derived(settings: Settings) -> tuple[Path, ...]:
    """Folders of what was made from landed files."""
    return (
        settings.warehouse_file.parent,
        snapshots_folder(settings),
        staging_folder(settings),
        published_folder(settings.data_dir),
        settings.reports,
        Path(EngineSettings().lake_of(settings)),
        settings.streamed_vitals,
    )


def not_reached(settings: Settings, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Places that erasing neither changes nor searches, in words; what is configured is named."""
    named = [f"{what} ({name})" for name, what in OUTSIDE.items() if environment.get(name)]
    try:
        notifiers = [n.name for n in load_alert_settings(settings).notify if n.kind in ("webhook", "apprise")]
    except SettingsError:
        notifiers = ["of alerts.toml, which cannot be read"]
    named += [f"messages sent to the notifier {name} (alerts.toml)" for name in notifiers]
    named += _backups_that_hold(settings)
    linked = list(links_below(settings.data_dir))
    return [
        *named,
        *(f"what the link {path} leads to" for path in linked[:10]),
        "the audit, which is append-only: it holds who asked for whom before, and a keyed hash of the number",
        "copies of backups, `as-of` folders, publications that were handed out or deployed elsewhere (Snowflake), "
        "messages that were sent, and what a broker (Kafka, NATS), a database or an object store still holds for "
        "sources",
        *(["old versions of objects that the mirror's bucket keeps"] if "://" in settings.mirror_root else []),
        "a mirror that the settings named before",
    ]


def _backups_that_hold(settings: Settings) -> list[str]:
    """The backups made so far, which hold whoever is erased now until they are deleted."""
    folder = settings.backup.folder
    if not folder:
        return ["backups: hospital.toml names no folder of them ([backup])"]
    try:
        names = [backup.name for backup in backups(Path(folder))]
    except (BackupError, OSError):
        return [f"backups in {folder}, which cannot be listed now"]
    if not names:
        return []
    return [
        f"the backups {', '.join(names)} in {folder}: they hold the person until newer ones take their place (of "
        f"{settings.backup.keep} that are kept; after this, `hospital backup create --keep 1` leaves none of them). "
        "Whoever restores one of them erases the person again"
    ]


def delete_derived_files(settings: Settings) -> None:
    """Delete every file that was derived from landed ones."""
    for folder in _derived(settings):
        if folder.exists():
            shutil.rmtree(folder)
    delete_mirror(settings)


def delete_alerts(settings: Settings, person: Person) -> int:
    """Delete alerts and what they were about where they concern the person; returns how many."""
    file = outbox_file(settings)
    if not file.exists():
        return 0
    pattern = person.pattern
    # One that an older version wrote may lack a table.
    Outbox(file).close()
    with contextlib.closing(sqlite3.connect(file, timeout=30)) as connection:
        connection.execute("pragma secure_delete = on")
        connection.create_function("is_theirs", 1, lambda value: pattern.search(str(value or "").encode()))
        deleted = 0
        # Messages go first: they know their alert by its id alone.
        for table, condition in (
            ("deliveries", "alert_id in (select alert_id from alerts where is_theirs(subject))"),
            ("silences", "is_theirs(alert_key)"),
            ("signals", "is_theirs(alert_key)"),
            ("alerts", "is_theirs(subject)"),
            ("visits", "is_theirs(visit_id)"),
        ):
            deleted += connection.execute(f"delete from {table} where {condition}").rowcount
        connection.commit()
        connection.execute("vacuum")
        connection.execute("pragma wal_checkpoint(truncate)")
    return deleted


@dataclass(frozen=True)
class Search:
    """What a search of the whole directory found.

    Attributes:
        left: where the person still is.
        unsearched: files that are torn, too large or under a password, so that not all of them could be searched.
        mentions: landed files in which others' records hold one of the numbers, with the first lines.
    """

    left: tuple[str, ...]
    unsearched: tuple[str, ...]
    mentions: tuple[str, ...] = ()


def find_traces(warehouse: Warehouse, settings: Settings, person: Person) -> Search:
    """Where the person still is: tables and columns of the warehouse, landed and other files; each is read once.

    Every text of every table is searched, and every byte of every other file, unpacked: members of archives, Parquet,
    publications, databases of others. Not the audit, and the notes of erasures. Landed records of others that hold one
    of the numbers are mentions; of what was built from them, only the columns that say whose a record is are searched
    for that number.
    """
    left, torn, mentions = [], [], []
    mentioned: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()
    finder_of = _finders(settings, person)
    with landed_search(settings, person) as search:
        for path in _files(settings.landing):
            below = path.relative_to(settings.data_dir)
            places, is_whole = _places_in(path, finder_of(path), settings)
            torn += [] if is_whole else [str(below)]
            held = search.holding(path) if is_whole else None
            if held is not None and not held.records and not held.unclear and "its name" not in places:
                mentions.append(f"{below} ({_lines_in_words(held.mentions)})")
                mentioned |= held.mentioned
                shared |= held.shared
            elif places or held is not None:
                left += [str(below) + (f" ({where})" if where else "") for where in places or [""]]
    derived = person.without(mentioned).pattern
    left += [
        f"{table}.{column} ({count} rows)"
        for table, column, count in (
            *_rows_with(warehouse.connection, derived),
            *_rows_of(warehouse.connection, PERSON_COLUMNS, mentioned & {*person.record_numbers}),
            *_rows_of(warehouse.connection, VISIT_COLUMNS, (mentioned - shared) & {*person.visit_numbers}),
        )
    ]
    folders = [folder.resolve() for folder in _derived(settings)]
    folders += [Path(settings.mirror_root)] if settings.mirror_root and "://" not in settings.mirror_root else []
    searched = [(path, path.relative_to(settings.data_dir)) for path in _files(settings.data_dir)]
    with mirror_to_search(settings) as outside:
        if outside is not None:
            searched += [(path, Path("mirror", path.relative_to(outside))) for path in _files(outside)]
        for path, below in searched:
            if below.parts[0] in ("audit", _notes_folder(settings).name) or path == settings.warehouse_file:
                continue
            if path.is_relative_to(settings.landing):
                continue
            # What lies elsewhere is the mirror's.
            is_derived = not path.is_relative_to(settings.data_dir) or any(map(path.resolve().is_relative_to, folders))
            places, is_whole = _places_in(path, derived if is_derived else person.pattern, settings)
            left += [str(below) + (f" ({where})" if where else "") for where in places]
            torn += [] if is_whole else [str(below)]
    return Search(tuple(left), tuple(torn), tuple(mentions))


def _lines_in_words(lines: Sequence[int]) -> str:
    """The first of some lines."""
    listed = ", ".join(map(str, lines[:3]))
    return (
        f"line {listed}" if len(lines) == 1 else f"lines {listed}{f' and {len(lines) - 3} more' if lines[3:] else ''}"
    )


def _rows_of(
    connection: duckdb.DuckDBPyConnection, of: Sequence[str], names: AbstractSet[str]
) -> Iterator[tuple[str, str, int]]:
    """Table, column and number of rows that have one of the names in columns that say whose they are."""
    columns = connection.execute(
        "select schema_name, table_name, column_name from duckdb_columns() "
        "where not internal and database_name = current_database() and column_name in (select unnest(?))",
        [list(of)],
    ).fetchall()
    return _counted(connection, columns if names else [], "{} in (select unnest(?))", sorted(names))


def _places_in(path: Path, searched: Finder, settings: Settings) -> tuple[list[str], bool]:
    """Where in a file any of the names is, once each; and whether all of it could be searched."""
    found = ["its name"] if searched.search(str(path.name).encode(errors="replace")) else []
    is_whole = True
    try:
        if path.suffix == ".parquet":
            with contextlib.closing(duckdb.connect()) as connection:
                ((count,),) = connection.execute(
                    f"select count(*) from read_parquet({literal(str(path))}) t where regexp_matches(t::varchar, ?)",
                    [searched.sql],
                ).fetchall()
            return found + ([f"{count} rows"] if count else []), True
        if path.suffix == ".duckdb":
            with contextlib.closing(duckdb.connect(str(path), read_only=True)) as connection:
                return [*found, *(f"{table}.{column}" for table, column, _ in _rows_with(connection, searched))], True
    except duckdb.Error:
        # Torn, or not what it is called: its bytes are searched.
        is_whole = False
    data = _bytes_of(path, settings)
    if data is None:
        return found, False
    inside = set()
    for piece in pieces(data):
        is_whole &= piece.is_whole
        if searched.search(piece.data):
            inside.add(piece.inside)
    return [*found, *sorted(inside)], is_whole


def _rows_with(connection: duckdb.DuckDBPyConnection, searched: Finder) -> Iterator[tuple[str, str, int]]:
    """Table, column and number of rows in which any of the names is."""
    columns = connection.execute(
        "select schema_name, table_name, column_name from duckdb_columns() "
        "where not internal and database_name = current_database() "
        "and (data_type in ('VARCHAR', 'JSON') or data_type like '%[]' or data_type like 'STRUCT%')"
    ).fetchall()
    return _counted(connection, columns, "regexp_matches({}::varchar, ?)", searched.sql)


def _counted(
    connection: duckdb.DuckDBPyConnection, columns: Sequence[tuple[str, str, str]], condition: str, value: object
) -> Iterator[tuple[str, str, int]]:
    """Table, column and number of rows where a condition holds of a column, where there are any."""
    for schema, table, column in columns:
        asked = f"select count(*) from {quoted(schema)}.{quoted(table)} where {condition.format(quoted(column))}"
        ((count,),) = connection.execute(asked, [value]).fetchall()
        if count:
            yield f"{schema}.{table}", column, count
