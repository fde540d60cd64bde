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
import gzip
import hashlib
import hmac
import json
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from hospital_assets.access.audit import Event, audited, system_actor
from hospital_assets.alerts.outbox import Outbox, outbox_file
from hospital_assets.alerts.settings import load_alert_settings
from hospital_assets.contracts import CONTRACTS
from hospital_assets.files import read_state, replace_text, replacing
from hospital_assets.landing.registry import load_profiles
from hospital_assets.publishing.pseudonyms import SecretKey
from hospital_assets.publishing.publications import published_audiences, published_folder
from hospital_assets.publishing.targets.postgres import DSN_VARIABLE
from hospital_assets.recovery.backup import backups, note_erasure, staging_folder
from hospital_assets.recovery.mirror import assert_deletable, delete_mirror, mirror_to_search
from hospital_assets.recovery.objects import BackupError
from hospital_assets.recovery.records import entries_of, lines_of, without_records
from hospital_assets.recovery.snapshots import snapshots_folder
from hospital_assets.recovery.spellings import GZIP, Finder, as_utf8, like, pieces, unpack
from hospital_assets.settings import EngineSettings, Settings, SettingsError
from hospital_assets.warehouse.database import Warehouse, open_warehouse
from hospital_assets.warehouse.dialect import literal, quoted

#: Columns by which a record says whose it is.
_RECORD_COLUMNS = ("patient_id", "prior_patient_id")
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
#: A shorter number of a source of a namespace could be any other value of a record.
_SHORTEST_BARE = 5


class EraseError(ValueError):
    """A person cannot be erased; nothing was changed, or nothing more."""


@dataclass(frozen=True)
class Person:
    """Everything a person is called.

    Attributes:
        record_numbers: of the person, merged ones included.
        visit_numbers: of all visits under any of them.
        references: what FHIR resources call the person and the visits, as in `Patient/17`.
    """

    record_numbers: tuple[str, ...]
    visit_numbers: tuple[str, ...]
    references: tuple[str, ...] = ()

    def __or__(self, other: Person) -> Person:
        """Everything that either is called."""
        return Person(
            tuple(sorted({*self.record_numbers, *other.record_numbers})),
            tuple(sorted({*self.visit_numbers, *other.visit_numbers})),
            tuple(sorted({*self.references, *other.references})),
        )

    @property
    def pattern(self) -> Finder:
        """Finds any of the numbers or references where it is not part of a longer one."""
        return self.within("")

    def within(self, namespace: str) -> Finder:
        """Finds them as a source of a namespace writes them: `mimic:17` is 17 there."""
        numbers = (*self.record_numbers, *self.visit_numbers)
        if namespace:
            start = f"{namespace}:"
            own = (name.removeprefix(start) for name in numbers if name.startswith(start))
            numbers = (*numbers, *(name for name in own if len(name) >= _SHORTEST_BARE))
        return Finder(numbers, self.references)


@dataclass(frozen=True)
class Erasure:
    """An erasure that can be done: it may have been begun before, and interrupted.

    Attributes:
        person: who.
        hashed: a keyed hash of the record number it was first asked for, which stands in the audit.
        was_published: whether there was a publication, so that there is to be one again.
        was_begun: whether it was begun before.
    """

    person: Person
    hashed: str
    was_published: bool
    was_begun: bool = False


@dataclass(frozen=True)
class Erased:
    """The result of an erasure.

    Attributes:
        stripped: what was taken out of landed files, this time.
        alerts: how many rows of alerts were deleted.
        failures: what failed when everything was built anew.
        left: where the person still is.
        unsearched: files that could not be searched whole.
    """

    stripped: tuple[Stripped, ...]
    alerts: int
    failures: tuple[str, ...]
    left: tuple[str, ...]
    unsearched: tuple[str, ...] = ()

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return not (self.failures or self.left)


@dataclass(frozen=True)
class Stripped:
    """The records removed from a landed file.

    Attributes:
        file: below the landing folder.
        records: how many.
    """

    file: str
    records: int


def plan_erasure(settings: Settings, record_number: str, key: SecretKey) -> Erasure:
    """Find the person of a record number, and whether their erasure was started before; changes nothing.

    Args:
        settings: the data directory.
        record_number: any of the person's.
        key: of pseudonyms; the number is hashed under a key made of it.

    Raises:
        EraseError: nobody has the number, or nothing was ever built.
        WarehouseError: the mirror cannot be reached.
    """
    assert_deletable(settings)
    begun = next((e for e in _begun(settings) if record_number in e.person.record_numbers), None)
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
            finder = person.pattern
            if not any(finder.search(text) for _, text in _landed(settings)):
                raise
        hashed = hmac.new(key.derived("erased"), record_number.encode(), hashlib.sha256).hexdigest()[:16]
        begun = Erasure(person, hashed, bool(published_audiences(settings.data_dir)))
    elif settings.warehouse_file.exists():
        # More of the person may have landed since.
        with contextlib.suppress(EraseError), open_warehouse(settings.warehouse_file) as warehouse:
            begun = replace(begun, person=begun.person | find_person(warehouse, record_number))
    return replace(begun, person=with_references(settings, begun.person))


def erase_person(settings: Settings, erasure: Erasure, rebuild: Callable[[bool], Sequence[str]]) -> Erased:
    """Remove a person from everything in a data directory, and look for what is left; audited.

    What was interrupted is done from the start again, with what the person was called then.

    Args:
        settings: the data directory.
        erasure: as `plan_erasure` found it.
        rebuild: rebuilds every table, and publishes if asked to; returns what failed.

    Raises:
        EraseError: a landed file holds the person in a way that cannot be taken out; nothing was changed.
        AuditError: it cannot be audited; then nothing is changed.
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
        erased = Erased(tuple(stripped), alerts, failures, search.left, search.unsearched)
        ending.row_count = sum(file.records for file in stripped)
        ending.failure = "; ".join([*(f"left in {place}" for place in search.left), *reasons])
        if erased.is_done:
            note.unlink()
    return erased


def _notes_folder(settings: Settings) -> Path:
    """The folder of running erasures: a file for each person, from the first change until the search finds nothing."""
    return settings.data_dir / "erasures"


def _begun(settings: Settings) -> Iterator[Erasure]:
    """Erasures that were begun and are not done."""
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
        if contract.layer not in ("raw", "cleaned") or not warehouse.exists(contract):
            continue
        for record in set(_RECORD_COLUMNS) & names:
            if "visit_id" in names:
                visits |= {
                    v
                    for (v,) in connection.execute(
                        f"select distinct visit_id from {contract.qualified_name} "
                        f"where {record} in (select unnest(?)) and visit_id is not null",
                        [[record_number, *numbers]],
                    ).fetchall()
                }
    if not numbers and not visits:
        raise EraseError("nobody has this record number; nothing was changed")
    return Person(tuple(sorted({record_number, *numbers})), tuple(sorted(visits)))


def with_references(settings: Settings, person: Person) -> Person:
    """The person with what the landed FHIR resources call them and their visits.

    An observation names its patient by reference; it is the person's all the same.
    """
    references = set(person.references)
    while True:
        known = replace(person, references=tuple(sorted(references)))
        pattern, before = known.pattern, len(references)
        for _, text in _landed(settings):
            if b'"resourceType"' not in text or not pattern.search(text):
                continue
            pieces = entries_of(text)
            for start, end in pieces or lines_of(text, is_csv=False):
                if not pattern.search(text, start, end):
                    continue
                # A line may be a bundle, too.
                inner = entries_of(text[start:end]) if not pieces else None
                for first, last in inner or [(0, end - start)]:
                    piece = text[start + first : start + last]
                    if pattern.search(piece):
                        references |= _names_of(piece)
        if len(references) == before:
            return known


def _names_of(piece: bytes) -> set[str]:
    """What other resources call a patient or an encounter."""
    with contextlib.suppress(ValueError):
        parsed = json.loads(piece)
        if isinstance(parsed, dict):
            resource = parsed.get("resource", parsed)
            kind = resource.get("resourceType") if isinstance(resource, dict) else None
            if kind in ("Patient", "Encounter"):
                named = [f"{kind}/{resource['id']}"] if resource.get("id") else []
                url = parsed.get("fullUrl")
                return {*named, *([url] if isinstance(url, str) and url else [])}
    return set()


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


def _landed(settings: Settings) -> Iterator[tuple[Path, bytes]]:
    """Every landed file with its text, unpacked and in UTF-8; of a torn one what can be unpacked."""
    for path in _files(settings.landing):
        data = _bytes_of(path, settings)
        if data is None:
            continue
        unpacked, _ = unpack(data)
        yield path, as_utf8(data if unpacked is None else unpacked)


def strip_landing(settings: Settings, person: Person) -> list[Stripped]:
    """Take the person's records out of the landed files; every other record stays as it is.

    All files are made ready before the first is replaced. A torn file, or one larger than may be loaded, is left alone,
    since nothing of it was ever loaded: the search names it.

    Raises:
        EraseError: a file names the person in a way that cannot be taken out record by record.
    """
    for unfinished in _files(settings.landing):
        if unfinished.name.startswith(".") and unfinished.name.endswith(_UNFINISHED):
            unfinished.unlink()
    ready: list[tuple[Path, Path, int]] = []
    stubborn = []
    finder_of = _finders(settings, person)
    try:
        for path in _files(settings.landing):
            below = path.relative_to(settings.landing)
            pattern = finder_of(path)
            data = _bytes_of(path, settings)
            if data is None or not any(pattern.search(piece.data) for piece in pieces(data)):
                continue
            unpacked, is_whole = unpack(data)
            if not is_whole:
                continue
            text = data if unpacked is None else unpacked
            kept, taken = without_records(as_utf8(text), pattern, is_csv=".csv" in path.name.lower())
            is_other = unpacked is not None and not data.startswith(GZIP)
            if kept is None or not taken or pattern.search(kept) or is_other:
                stubborn.append(str(below))
                continue
            kept = like(text, kept)
            temporary = path.with_name(f".{path.name}{_UNFINISHED}")
            with replacing(temporary, mode=stat.S_IMODE(path.stat().st_mode)) as made:
                made.write_bytes(kept if unpacked is None else gzip.compress(kept, mtime=0))
            ready.append((path, temporary, taken))
        if stubborn:
            raise EraseError(
                "these files hold the person together with others in one record, or in a form that has "
                "no records, so take the person out of them yourself, then try again; nothing was "
                f"changed: {', '.join(stubborn[:10])}"
            )
    except BaseException:
        for _, temporary, _ in ready:
            temporary.unlink(missing_ok=True)
        raise
    for path, temporary, _ in ready:
        temporary.replace(path)
    return [Stripped(str(p.relative_to(settings.landing)), taken) for p, _, taken in ready]


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
    linked = [
        str(Path(root, name))
        for root, folders, names in os.walk(settings.data_dir)
        for name in (*folders, *names)
        if Path(root, name).is_symlink()
    ]
    return [
        *named,
        *(f"what the link {path} leads to" for path in linked[:10]),
        "the audit, which is append-only: it holds who asked for whom before, and a keyed hash of the number",
        "copies of backups, `as-of` folders, publications that were handed out or deployed elsewhere (Snowflake), "
        "messages that were sent, and what a broker (Kafka, NATS), a database or an object store still holds for "
        "sources",
        *(["old versions of objects that the mirror's bucket keeps"] if "://" in settings.mirror_root else []),
        "the simulator's ground truth, outside the directory, and a mirror that the settings named before",
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


def delete_derived_files(settings: Settings) -> list[str]:
    """Delete every file that was derived from landed ones; returns what was deleted."""
    gone = []
    for folder in _derived(settings):
        if folder.exists():
            gone.append(folder.name)
            shutil.rmtree(folder)
    delete_mirror(settings)
    return gone


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
    """

    left: tuple[str, ...]
    unsearched: tuple[str, ...]


def find_traces(warehouse: Warehouse, settings: Settings, person: Person) -> Search:
    """Where the person still is: tables and columns of the warehouse, landed and other files; each is read once.

    Every text of every table is searched, and every byte of every other file, unpacked: members of archives, Parquet,
    publications, databases of others. Not the audit, and the notes of erasures.
    """
    left = [
        f"{table}.{column} ({count} rows)" for table, column, count in _rows_with(warehouse.connection, person.pattern)
    ]
    torn = []
    finder_of = _finders(settings, person)
    searched = [(path, path.relative_to(settings.data_dir)) for path in _files(settings.data_dir)]
    with mirror_to_search(settings) as outside:
        if outside is not None:
            searched += [(path, Path("mirror", path.relative_to(outside))) for path in _files(outside)]
        for path, below in searched:
            if below.parts[0] in ("audit", _notes_folder(settings).name) or path == settings.warehouse_file:
                continue
            places, is_whole = _places_in(path, finder_of(path), settings)
            left += [str(below) + (f" ({where})" if where else "") for where in places]
            torn += [] if is_whole else [str(below)]
    return Search(tuple(left), tuple(torn))


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
        "and (data_type in ('VARCHAR', 'JSON', 'VARIANT') or data_type like '%[]' or data_type like 'STRUCT%')"
    ).fetchall()
    for schema, table, column in columns:
        ((count,),) = connection.execute(
            f"select count(*) from {quoted(schema)}.{quoted(table)} where regexp_matches({quoted(column)}::varchar, ?)",
            [searched.sql],
        ).fetchall()
        if count:
            yield f"{schema}.{table}", column, count
