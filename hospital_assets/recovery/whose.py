"""Whose a landed record is, as the reader of its source has it: by the columns that say so, never by any other text.

Belongs here: persons, and which of the records of a text name them. Files are `landed`.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import polars as pl

from hospital_assets.landing import fhir, hl7v2
from hospital_assets.landing.content import with_escapes
from hospital_assets.landing.csv_records import to_canonical
from hospital_assets.landing.headers import csv_columns, with_line_feeds
from hospital_assets.landing.hl7v2 import FRAME_START
from hospital_assets.landing.json_records import checked_lines
from hospital_assets.landing.json_sql import json_query
from hospital_assets.landing.profile import ELEMENT, OTHER_RECORDS, Profile, Subject, canonical_columns
from hospital_assets.recovery.records import Record, Text
from hospital_assets.recovery.spellings import Finder

#: Columns by which a record says whose it is.
PERSON_COLUMNS, VISIT_COLUMNS = ("patient_id", "prior_patient_id"), ("visit_id",)
#: The number that a subject's records have themselves: in any other record its column may mean another thing.
_OWN = {"patients": "patient_id", "er_visits": "visit_id", "adt_events": "visit_id"}
#: A shorter number of a source of a namespace could be any other value of a record.
_SHORTEST_BARE = 5
#: Kinds of FHIR resources that are a person or a visit, and how others refer to one by what it is called elsewhere.
_KINDS, _BY_IDENTIFIER = ("Patient", "Encounter"), "?identifier="


@dataclass(frozen=True)
class Person:
    """Everything a person is called.

    Attributes:
        record_numbers: of the person, merged ones included.
        visit_numbers: of all visits under any of them.
        references: what FHIR resources call the person and the visits, behind their namespace, as in
            `fhir-r4:Patient/17`.
    """

    record_numbers: tuple[str, ...] = ()
    visit_numbers: tuple[str, ...] = ()
    references: tuple[str, ...] = ()

    def __or__(self, other: Person) -> Person:
        """Everything that either is called."""
        return Person(
            tuple(sorted({*self.record_numbers, *other.record_numbers})),
            tuple(sorted({*self.visit_numbers, *other.visit_numbers})),
            tuple(sorted({*self.references, *other.references})),
        )

    def without(self, names: AbstractSet[str]) -> Person:
        """The person without some of the names."""
        listed = (self.record_numbers, self.visit_numbers, self.references)
        return Person(*(tuple(name for name in of_kind if name not in names) for of_kind in listed))

    @property
    def pattern(self) -> Finder:
        """Finds any of the numbers or references where it is not part of a longer one."""
        return Finder((*self.record_numbers, *self.visit_numbers), tuple(map(_plain, self.references)))

    def each(self) -> dict[str, Finder]:
        """What finds each of the names alone."""
        numbers = {name: Finder((name,)) for name in (*self.record_numbers, *self.visit_numbers)}
        return numbers | {name: Finder((), (_plain(name),)) for name in self.references}

    def within(self, namespace: str) -> Finder:
        """Finds them as a source of a namespace writes them: `mimic:17` is 17 there."""
        numbers = (*self.record_numbers, *self.visit_numbers)
        bare = (name for name in _bare(numbers, namespace) if not namespace or len(name) >= _SHORTEST_BARE)
        return Finder(tuple(dict.fromkeys((*numbers, *bare))), self._referred(namespace))

    def _referred(self, namespace: str) -> tuple[str, ...]:
        return tuple(_plain(name) for name in self.references if name.startswith(f"{namespace}:"))

    def anywhere_in(self, namespace: str) -> Finder:
        """Finds whatever could be theirs, and more: short numbers, and the last part of those that are composed."""
        numbers = _bare((*self.record_numbers, *self.visit_numbers), namespace)
        parts = {part for name in numbers for part in (name, name.rpartition("-")[2]) if part.strip("-_ ")}
        parts |= {ref.rpartition("|")[2] for ref in self.references if _BY_IDENTIFIER in ref}
        return Finder(tuple(sorted(parts)), self._referred(namespace))


def _plain(reference: str) -> str:
    """A reference without its namespace."""
    return reference.split(":", 1)[-1]


def _bare(numbers: Iterable[str], namespace: str) -> tuple[str, ...]:
    """Numbers of a namespace as its sources write them."""
    start = f"{namespace}:" if namespace else ""
    return tuple(name.removeprefix(start) for name in numbers if name.startswith(start))


@dataclass(frozen=True)
class Said:
    """Whom a record names, as the whole network knows them.

    Attributes:
        people: numbers, and references to patients.
        visits: numbers.
        encounters: references to visits.
        aliases: what others call it, where it is a FHIR patient or encounter itself.
    """

    people: frozenset[str] = frozenset()
    visits: frozenset[str] = frozenset()
    encounters: frozenset[str] = frozenset()
    aliases: frozenset[str] = frozenset()

    def is_of(self, known: Said, shared: AbstractSet[str] = frozenset()) -> bool | None:
        """Whether a record is of a person; None where it is, or may be, of somebody else as well.

        Args:
            known: all that the person is called.
            shared: numbers of visits that records of others have, too.
        """
        if self.people:
            own = bool(self.people & known.people)
            return None if own and self.people - known.people else own
        visits = self.visits & known.visits
        if visits and self.visits <= shared:
            return None
        return bool(visits or (self.encounters | self.aliases) & known.encounters)


@dataclass(frozen=True)
class Reading:
    """What of a record says whose it is, as a subject reads it.

    Attributes:
        spec: its declaration, of which the rest was left out.
        columns: our columns.
    """

    subject: str
    spec: Subject
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """How the records of a file are read.

    Attributes:
        readings: what says whose they are; none of reference data.
        namespace: of the source's numbers.
        is_by_id: whether a patient's number is the id of a FHIR resource.
    """

    spec: Subject
    readings: tuple[Reading, ...]
    namespace: str
    is_by_id: bool = False

    def known(self, person: Person) -> Said:
        """All that records of this source can call a person: a visit may have the number that a patient has."""
        references = {*person.references}
        if self.is_by_id:
            references |= {self.referred(f"Patient/{name}") for name in _bare(person.record_numbers, self.namespace)}
            references |= {self.referred(f"Encounter/{name}") for name in _bare(person.visit_numbers, self.namespace)}
        return Said(
            frozenset({*person.record_numbers, *references}), frozenset(person.visit_numbers), frozenset(references)
        )

    def named(self, number: str) -> str:
        """A number as the whole network knows it."""
        return f"{self.namespace}:{number}" if self.namespace else number

    def referred(self, reference: str) -> str:
        """A reference as the whole network knows it."""
        return f"{self.namespace}:{reference}"


def source_of(profile: Profile, inside: str, text: str) -> Source | None:
    """How a file of a source is read; None where nothing says what its records are."""
    feeds = [feed for feed in profile.feeds(inside) if feed.subject != OTHER_RECORDS]
    if feeds:
        readings = [
            one for feed in feeds for one in (_readings if feed.is_main else _readings_beside)(feed.subject, feed.spec)
        ]
        return _source(profile, feeds[0].spec, readings)
    # A file that no subject takes may have columns that mean the same in those that one does.
    start = text.lstrip(f"\ufeff{FRAME_START} \t\r\n")
    layouts = [(subject, spec) for subject, one in profile.subjects.items() for spec in one.layouts if spec.files]
    if start.startswith(("{", "[")):
        layouts = [(subject, spec) for subject, spec in layouts if spec.format in ("jsonl", "fhir")]
    elif start.startswith(("MSH", "FHS", "BHS")):
        layouts = [(subject, spec) for subject, spec in layouts if spec.format == "hl7v2"]
    else:
        layouts = [(subject, spec) for subject, spec in layouts if _has_columns(text, subject, spec)]
    if not layouts:
        return None
    first = layouts[0][1]
    readings = [
        one
        for subject, spec in layouts
        if (spec.format, spec.delimiter, spec.names_line) == (first.format, first.delimiter, first.names_line)
        for one in _readings(subject, spec, is_its_own=False)
    ]
    return _source(profile, first, readings)


def _source(profile: Profile, spec: Subject, readings: Iterable[Reading]) -> Source:
    patients = profile.subjects.get("patients")
    is_by_id = spec.format == "fhir" and patients is not None and patients.source_names("patient_id") == ("$.id",)
    return Source(spec, tuple(readings), profile.identity_namespace, is_by_id)


def _has_columns(text: str, subject: str, spec: Subject) -> bool:
    """Whether a table has a column by which records of a subject refer to a person."""
    if spec.format != "csv" or spec.fixed_width is not None or spec.names_line > 1:
        return False
    header = csv_columns(with_line_feeds(text.split("\n", 1)[0]), spec.delimiter)
    readings = _readings(subject, spec, is_its_own=False)
    return any(set(one.spec.source_names(name)) & set(header) for one in readings for name in one.columns)


def _known_columns(subject: str) -> list[str]:
    return [name for name in (*PERSON_COLUMNS, *VISIT_COLUMNS) if name in canonical_columns(subject)]


def _readings(subject: str, spec: Subject, *, is_its_own: bool = True) -> Iterator[Reading]:
    """What of a subject's records says whose they are.

    A column by which other records refer to a person or visit does so in every record of the file; the number that a
    record has itself (the id of a patient, of a visit) is one of those records only that the subject takes.
    """
    own = _OWN.get(subject)
    if own is not None and is_its_own:
        yield Reading(subject, _only(spec, where=spec.where), (own,))
    # What a FHIR resource refers to may be anything, of which the type tells.
    if (others := tuple(name for name in _known_columns(subject) if name != own)) and spec.format != "fhir":
        yield Reading(subject, _only(spec), others)


def _readings_beside(subject: str, spec: Subject) -> Iterator[Reading]:
    """The same of companions, which have the main file's column under a name of their own."""
    assert spec.join is not None  # noqa: S101  (only companions are read beside)
    keys = {
        name: spec.join.companion_key for name in _known_columns(subject) if spec.join.on in spec.source_names(name)
    }
    keys |= {name: source for name, source in spec.join.columns.items() if name in _known_columns(subject)}
    if keys:
        yield Reading(subject, _only(spec, columns=keys, derived={}, constants={}), tuple(keys))


def _only(spec: Subject, **kept: Any) -> Subject:
    """A declaration without all that has nothing to do with whose its records are."""
    listed = [spec.source_names(name) for name in (*PERSON_COLUMNS, *VISIT_COLUMNS)]
    is_of_elements = any(name.startswith(ELEMENT) for names in listed for name in names)
    only: dict[str, Any] = {
        "format": "csv" if spec.format == "csv" else "jsonl",
        "where": {},
        "each": spec.each if is_of_elements else None,
        "is_element_itself": spec.is_element_itself and is_of_elements,
        "observations": None,
        "events": (),
        "join": None,
        "payload": {},
        "limits": {},
        "lookups": (),
    }
    return spec.model_copy(update={**only, **kept})


def said_in_table(text: Text, source: Source, frame: pl.DataFrame) -> Mapping[Record, Said]:
    """Whom the rows of a table name; of rows that are broken, nobody."""
    at = {text.line_of(record.start): record for record in text.records}
    found = [
        made.select(
            pl.col("source_line").alias("place"),
            pl.lit(name in VISIT_COLUMNS).alias("is_visit"),
            pl.col(name).str.strip_chars().alias("value"),
        )
        for reading in source.readings
        for made in [to_canonical(frame, reading.subject, reading.spec, "")]
        for name in reading.columns
    ]
    return {at[place]: said for place, said in _said(found, source).items() if place in at}


def _said(found: Sequence[pl.DataFrame], source: Source) -> dict[int, Said]:
    """By place, whom values name."""
    if not found:
        return {}
    values = pl.concat(found).filter(pl.col("value").fill_null("") != "").unique()
    people: dict[int, set[str]] = {}
    visits: dict[int, set[str]] = {}
    for place, is_visit, value in values.iter_rows():
        (visits if is_visit else people).setdefault(place, set()).add(source.named(value))
    return {
        place: Said(frozenset(people.get(place, ())), frozenset(visits.get(place, ()))) for place in {*people, *visits}
    }


def said_in_objects(
    text: Text, records: Sequence[Record], source: Source, person: Person, connection: duckdb.DuckDBPyConnection
) -> Mapping[Record, Said]:
    """Whom JSON records, FHIR resources and HL7 v2 messages name; of what is broken, nobody.

    Args:
        person: who is looked for; a reference that does not say to what it leads may be to them.
    """
    pieces = [text.of(record) for record in records]
    lines = [
        (place, line)
        for place, record in enumerate(records)
        for line in _lines(text.whole(record), source, is_last=record.is_last)
    ]
    landed = pl.DataFrame(lines, schema={"place": pl.Int64, "record": pl.String}, orient="row")
    connection.register("landed_records", landed.to_arrow())
    checked = checked_lines(
        "select '' as source_file, cast(null as date) as _fallback, cast(null as varchar) as landed_at, "
        "place as source_line, record from landed_records"
    )
    found = []
    for reading in source.readings:
        query = json_query(reading.columns, reading.spec, checked).sql
        for name in reading.columns:
            made = connection.sql(f"select source_line as place, trim({name}) as value from ({query})").pl()
            found.append(made.with_columns(pl.lit(name in VISIT_COLUMNS).alias("is_visit")))
    said = _said([one.select("place", "is_visit", "value") for one in found], source)
    if source.spec.format == "fhir":
        known = source.known(person).encounters
        for place, line in lines:
            resource, entry = _parsed(line), _parsed(pieces[place])
            if not isinstance(resource, dict) or "@problem" in resource:
                continue
            one = _with_references(said.get(place, Said()), resource, source, known)
            url = entry.get("fullUrl") if isinstance(entry, dict) else None
            if one.aliases and isinstance(url, str) and url:
                one = replace(one, aliases=one.aliases | {source.referred(url)})
            said[place] = one
    return {records[place]: one for place, one in said.items()}


def _lines(piece: str, source: Source, *, is_last: bool) -> list[str]:
    """A record as JSON lines: one for each merge of a message, for a resource and what it contains.

    Of a last one that was cut off, what stands before.
    """
    if source.spec.format == "hl7v2":
        return list(hl7v2.normalised(re.split(r"\r\n|\r|\n", piece)))
    whole = piece
    while is_last and "," in whole and _parsed(piece) is None:
        whole = whole.rpartition(",")[0]
        piece = f"{whole}}}"
    if source.spec.format == "fhir":
        parsed = _parsed(piece)
        is_entry = isinstance(parsed, dict) and "resourceType" not in parsed
        return list(fhir.json_lines(iter([f'{{"resourceType":"Bundle","entry":[{piece}]}}' if is_entry else piece])))
    return [with_escapes(piece.strip())]


def _parsed(text: str) -> Any:
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(text, strict=False)
    return None


def _with_references(said: Said, resource: Mapping[str, Any], source: Source, known: AbstractSet[str]) -> Said:
    """Whom a FHIR resource names by references as well, and what it is called."""
    kind, identity = resource.get("resourceType"), resource.get("id")
    found = {"Patient": set(said.people), "Encounter": set(said.encounters)}
    aliases = set(said.aliases)
    if kind == "Deleted" and resource.get("type") in _KINDS:
        found[resource["type"]].add(source.referred(f"{resource['type']}/{identity}"))
    if kind in _KINDS:
        listed = resource.get("identifier")
        names = [f"{kind}/{identity}", *_by_identifier((kind,), listed)]
        aliases |= {source.referred(name) for name in names}
    for role, names in _references(resource):
        for name in names:
            leads_to = next((one for one in _KINDS if name.startswith((f"{one}/", f"{one}{_BY_IDENTIFIER}"))), "")
            reference = source.referred(name)
            # What leads to a thing of any kind counts only where that is known.
            if reference in known or (leads_to and (_BY_IDENTIFIER not in name or role in ("subject", "patient"))):
                found[leads_to or "Patient"].add(reference)
    return Said(frozenset(found["Patient"]), said.visits, frozenset(found["Encounter"]), frozenset(aliases))


def _references(value: Any, role: str = "") -> Iterator[tuple[str, list[str]]]:
    """What a resource refers to: as what, and by which names (`Patient/17`, `Patient?identifier=system|value`)."""
    if isinstance(value, list):
        for each in value:
            yield from _references(each, role)
    elif isinstance(value, dict):
        reference, identifier = value.get("reference"), value.get("identifier")
        if isinstance(reference, str):
            whole = reference.partition("/_history/")[0]
            # The address of the server does not matter.
            found = re.search(rf"(?:^|/)((?:{'|'.join(_KINDS)})(?:/[^/?]+|\{_BY_IDENTIFIER}.+))$", whole)
            yield role, [found[1] if found else whole]
        if role and isinstance(identifier, dict):
            yield role, _by_identifier(_KINDS, [identifier])
        for name, each in value.items():
            yield from _references(each, name)


def _by_identifier(kinds: Sequence[str], identifiers: Any) -> list[str]:
    """How others refer to what has some identifiers; one without a system could be anybody's."""
    return [
        f"{kind}{_BY_IDENTIFIER}{one['system']}|{one['value']}"
        for kind in kinds
        for one in (identifiers if isinstance(identifiers, list) else [])
        if isinstance(one, dict) and one.get("system") and one.get("value")
    ]
