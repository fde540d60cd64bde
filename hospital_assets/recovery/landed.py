"""What a landed file holds of a person, and the file without it.

A record goes where its source's own reader says that it is the person's. The number in somebody else's record changes
nothing and is reported. What nobody can tell stops an erasure. The file without the records is read again, and every
other one must be there word for word.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path

import duckdb
import polars as pl

from hospital_assets.landing.content import FAILURES, open_landed
from hospital_assets.landing.csv_records import records_of
from hospital_assets.landing.headers import with_line_feeds, with_one_header
from hospital_assets.landing.profile import Profile, Subject
from hospital_assets.landing.registry import Profiles
from hospital_assets.landing.workbooks import csv_content, table_kind
from hospital_assets.recovery.records import Record, Text, taken_apart
from hospital_assets.recovery.spellings import GZIP, Finder, decoded, pieces, unpack
from hospital_assets.recovery.whose import Person, Said, Source, said_in_objects, said_in_table, source_of
from hospital_assets.settings import Settings
from hospital_assets.warehouse.errors import heed_interruption

#: What stops an erasure, in words.
_NOT_KNOWN = "nothing says whose its records are"
_NOT_READ = "it cannot be read"
_NOT_WRITTEN = "a workbook is not written anew: take the rows out of it, or deliver it as CSV"
_NOT_ALONE = "without the person, its other records would not be what they are"


@dataclass(frozen=True)
class Holding:
    """What a landed file holds of a person.

    Attributes:
        file: below the landing folder.
        kept: the file without them; None where there are none.
        unclear: what stops an erasure.
        mentions: lines of what is somebody else's, in which the person's number stands, too.
        mentioned: which of the person's names stand there.
        shared: numbers of the person's visits that records of others have, too.
        person: what the person's records call their visits, and what refers to those.
    """

    file: str
    records: int = 0
    kept: bytes | None = field(default=None, repr=False)
    unclear: tuple[str, ...] = ()
    mentions: tuple[int, ...] = ()
    mentioned: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()
    person: Person = field(default_factory=Person)


@dataclass(frozen=True)
class _Opened:
    """A landed file that may hold the person.

    Attributes:
        named: finds the person's names in it, as wholes.
        text: its records.
        source: how they are read.
        written: the file without some records; None where that cannot be done.
        why_not: why it could not be done, in words.
    """

    named: Finder
    is_named: bool
    text: Text
    source: Source
    written: Callable[[AbstractSet[Record]], bytes | None]
    why_not: str = _NOT_ALONE


@dataclass(frozen=True)
class _Unread:
    """One that cannot be taken apart, why not, and whether a name of the person stands in it."""

    is_named: bool
    why: str


@dataclass(frozen=True)
class LandedSearch:
    """A search for a person in landed files; `shared` are numbers of their visits that records of others have, too."""

    person: Person
    settings: Settings
    profiles: Profiles
    connection: duckdb.DuckDBPyConnection
    shared: frozenset[str] = frozenset()

    def holding(self, path: Path) -> Holding | None:
        """What a file holds of the person; None where that is nothing.

        Of a torn file, and one that is larger than may be loaded, nothing was ever loaded.
        """
        if path.stat().st_size > 1_000_000 * self.settings.limits.megabytes:
            return None
        below = str(path.relative_to(self.settings.landing))
        folder, _, inside = below.partition("/")
        profile = self.profiles.get(folder)
        # A profile that is gone leaves its records in a namespace of their own.
        namespace = folder if profile is None else profile.identity_namespace
        opened = (self._text if table_kind(path) is None else self._table)(path, profile, inside, namespace)
        if opened is None:
            return None
        if isinstance(opened, _Unread):
            return Holding(below, unclear=(opened.why,)) if opened.is_named else None
        try:
            found = self._sorted(opened, namespace)
            kept = opened.written(found.theirs) if found.theirs else None
        except FAILURES as error:
            heed_interruption(error)
            return Holding(below, unclear=(_NOT_READ,)) if opened.is_named else None
        unclear = [f"line {opened.text.line_of(place)}" for place in sorted(found.unclear)]
        if found.theirs and kept is None:
            unclear.append(opened.why_not)
        lines = tuple(dict.fromkeys(opened.text.line_of(place) for place in sorted(found.mentions)))
        held = Holding(
            below,
            len(found.theirs),
            kept,
            tuple(unclear),
            lines,
            frozenset(found.mentioned),
            found.shared,
            found.person,
        )
        return held if held.records or held.unclear or held.mentions else None

    def _text(self, path: Path, profile: Profile | None, inside: str, namespace: str) -> _Opened | _Unread | None:
        """A file of text, or one that is packed."""
        with open_landed(path) as landed:
            data = landed.read()
        feeds = [] if profile is None else profile.feeds(inside)
        fixed_width = next((feed.spec.fixed_width for feed in feeds if feed.spec.fixed_width), None)
        named = replace(self.person.within(namespace), fixed_width=fixed_width)
        sought = replace(self.person.anywhere_in(namespace), fixed_width=fixed_width)
        found = [piece.data for piece in pieces(data)]
        is_named = any(map(named.search, found))
        unpacked, is_whole = unpack(data)
        if not is_whole or not (is_named or any(map(sought.search, found))):
            return None
        if unpacked is not None and not data.startswith(GZIP):
            return _Unread(is_named, _NOT_KNOWN)
        landed_text = data if unpacked is None else unpacked
        try:
            text, codec, mark = decoded(landed_text, feeds[0].spec.encoding if feeds else None)
        except UnicodeError:
            return _Unread(is_named, _NOT_READ)
        source = None if profile is None or text.lstrip().startswith("<") else source_of(profile, inside, text)
        if source is None:
            return _Unread(is_named, _NOT_KNOWN)
        taken = taken_apart(text, source.spec)

        def written(gone: AbstractSet[Record]) -> bytes | None:
            kept = taken.without(gone)
            if not _is_all_but(taken, gone, kept, source.spec):
                return None
            made = mark + kept.encode(codec)
            return made if unpacked is None else gzip.compress(made, mtime=0)

        return _Opened(named, is_named, taken, source, written)

    def _table(self, path: Path, profile: Profile | None, inside: str, namespace: str) -> _Opened | _Unread | None:
        """A workbook or a Parquet file."""
        named = self.person.within(namespace)
        feeds = [] if profile is None else profile.feeds(inside)
        try:
            content = csv_content(path, feeds[0].spec if feeds else Subject(), self.settings.limits)
        except FAILURES:
            with open_landed(path) as landed:
                return _Unread(any(named.search(piece.data) for piece in pieces(landed.read())), _NOT_READ)
        text = with_line_feeds(content.text)
        is_named = named.search(text.encode())
        source = None if profile is None else source_of(profile, inside, text)
        if source is None or source.spec.format != "csv":
            return _Unread(is_named, _NOT_KNOWN)
        # The names of a header over several rows are joined already.
        spec = source.spec.model_copy(update={"header_line": source.spec.names_line, "header_rows": 1})
        source = replace(source, spec=spec)
        taken = taken_apart(text, spec, is_exported=True)
        if content.encoding != "parquet":
            return _Opened(named, is_named, taken, source, lambda gone: None, _NOT_WRITTEN)
        return _Opened(named, is_named, taken, source, lambda gone: _without_rows(path, taken, gone, spec))

    def _sorted(self, opened: _Opened, namespace: str) -> _Sorted:
        """The records of a file by whose they are."""
        taken, source, known = opened.text, opened.source, opened.source.known(self.person)
        named = opened.named
        texts = {record: taken.of(record).encode("utf-8", "replace") for record in taken.records}
        said: Mapping[Record, Said]
        if source.spec.format == "csv":
            rows = _rows(taken.text, source.spec)
            said = {**said_in_table(taken, source, rows), **_cut_off(taken, rows, source)}
        else:
            sought = self.person.anywhere_in(namespace)
            asked = [record for record, text in texts.items() if sought.search(text) or named.search(text)]
            said = said_in_objects(taken, asked, source, self.person, self.connection)
        found = _Sorted(self.person)
        for record, text in texts.items():
            one = said.get(record, Said())
            is_theirs = one.is_of(known, self.shared) if record.is_distinct else False
            if is_theirs:
                found.theirs.add(record)
                found.add(one)
            elif is_theirs is None:
                found.unclear.append(record.start)
            elif one.people and one.visits & known.visits:
                found.shared |= one.visits & known.visits
                found.mention(record.start, text)
            elif named.search(text):
                # What names nobody, though others of its kind do, may be anybody's.
                is_nobodys = not one.people if source.spec.format != "fhir" else record not in said
                if (is_nobodys and source.readings and named.is_value_in(text)) or not record.is_distinct:
                    found.unclear.append(record.start)
                else:
                    found.mention(record.start, text)
        for place, outside in taken.outside(found.theirs):
            text = outside.encode("utf-8", "replace")
            if named.is_value_in(text):
                found.unclear.append(place)
            elif named.search(text):
                found.mention(place, text)
        return found


class _Sorted:
    """Records of a file by whose they are."""

    def __init__(self, person: Person) -> None:
        self._names = person.each()
        self.theirs: set[Record] = set()
        self.unclear: list[int] = []
        self.mentions: list[int] = []
        self.mentioned: set[str] = set()
        self.shared: frozenset[str] = frozenset()
        self.person = Person()

    def add(self, said: Said) -> None:
        """Take in what a record of the person's is called."""
        self.person |= Person((), tuple(said.visits), tuple(said.aliases))

    def mention(self, place: int, text: bytes) -> None:
        """Take in where the person's number stands in what is somebody else's."""
        self.mentions.append(place)
        self.mentioned |= {name for name, finder in self._names.items() if finder.search(text)}


def _rows(text: str, spec: Subject) -> pl.DataFrame:
    """The rows of a table as its reader has them."""
    return records_of(with_one_header(text, spec) if spec.header_rows > 1 else text, spec)


def _cut_off(taken: Text, rows: pl.DataFrame, source: Source) -> Mapping[Record, Said]:
    """Whom a last row names that was cut off: by the cells before the cut, which are whole."""
    last = next((record for record in taken.records if record.is_last and record.is_distinct), None)
    broken = rows.filter(pl.col("@problem").is_not_null())["@line"]
    if last is None or source.spec.fixed_width is not None or taken.line_of(last.start) not in broken:
        return {}
    names = [name for name in rows.columns if not name.startswith("@")]
    cells = next(csv.reader(io.StringIO(taken.of(last)), delimiter=source.spec.delimiter), [])[:-1]
    if len(cells) >= len(names):
        return {}
    whole: dict[str, Sequence[object]] = {name: [cell or None] for name, cell in zip(names, cells, strict=False)}
    whole |= {name: [None] for name in names[len(cells) :]}
    row = pl.DataFrame(whole, schema=dict.fromkeys(names, pl.String)).with_columns(
        pl.lit(taken.line_of(last.start), dtype=pl.Int64).alias("@line"),
        pl.lit(None, dtype=pl.String).alias("@problem"),
        pl.lit(None, dtype=pl.String).alias("@record"),
    )
    return said_in_table(taken, source, row)


def _is_all_but(taken: Text, gone: AbstractSet[Record], kept: str, spec: Subject) -> bool:
    """Whether a text, read again, has every record but some, word for word."""
    again = taken_apart(kept, spec)
    if [taken.whole(one) for one in taken.records if one not in gone] != [again.whole(one) for one in again.records]:
        return False
    if spec.format != "csv":
        return True
    lines = {taken.line_of(record.start) for record in gone}
    before, after = _rows(taken.text, spec), _rows(kept, spec)
    before = before.filter(~pl.col("@line").is_in(list(lines)))
    # A stretch between columns of fixed width is one only where something stands in it.
    names = list(spec.fixed_width.columns) if spec.fixed_width else [n for n in before.columns if not n.startswith("@")]
    wanted = [pl.col(name).replace("", None) for name in names] + [pl.col("@problem")]
    return set(names) <= set(after.columns) and before.select(wanted).equals(after.select(wanted))


def _without_rows(path: Path, taken: Text, gone: AbstractSet[Record], spec: Subject) -> bytes | None:
    """A Parquet file with the rows that stay, under the same schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    reader, places, before = csv.reader(io.StringIO(taken.text), delimiter=spec.delimiter), {}, 0
    for number, _ in enumerate(reader):
        places[before + 1] = number - 1
        before = reader.line_num
    without = {places[taken.line_of(record.start)] for record in gone}
    with open_landed(path) as landed:
        data = landed.read()
    table = pq.read_table(io.BytesIO(data))
    if table.num_rows != len(places) - 1:
        return None
    kept = table.take([row for row in range(table.num_rows) if row not in without])
    for place, column in enumerate(kept.schema):
        if pa.types.is_dictionary(column.type):
            # A dictionary would keep what only the rows that go hold.
            values = pa.array(kept.column(place).to_pylist(), column.type)
            kept = kept.set_column(place, column, values)
    found = pq.ParquetFile(io.BytesIO(data)).metadata
    codec = found.row_group(0).column(0).compression if found.num_row_groups and found.num_columns else "ZSTD"
    made = io.BytesIO()
    pq.write_table(kept, made, compression="NONE" if codec == "UNCOMPRESSED" else codec)
    made.seek(0)
    return made.getvalue() if pq.read_table(made).equals(kept, check_metadata=True) else None
