"""Source profiles: declarations of how the files of a source become our subjects.

A profile is a TOML file and nothing else: the next source is a file of declarations, not code. Files
land in `landing/<profile name>/`. Belongs here: the vocabulary of a profile and its validation. Does
not: which profiles there are (`registry`), reading landed files.

A *source name* is how a profile points into a landed record: a CSV column; for all other formats a
JSON path (`$.patient.id`), or `$each.code` for a path within one element of the list named by
`each`. A path may pick the elements of a list by what they hold: `$.name[use=official].family`,
`[use!=old]`, `[code=home|snf]`, `[type[*].coding[*].code=ATND]`; `[code={disposition}]` stands for the codes of that
code map, `[code={observations}]` for those of vital signs. `[by period.start]` puts them in the order of a clock (ISO
8601), those without one first: `$.location[status!=planned][by period.start][0]` is the first, `[-1]` the last. The
record itself may be picked, too: `$[status=triaged].statusHistory` is that of a triaged one. ` | ` between paths joins
what they hold, as in `$.identifier.system | $.identifier.value`; what is absent is left out, but without the last there
is nothing.
Everywhere, `@line` is the line of the record, `@part` counts the rows made from one record, `@landed_at` is when the
file was delivered, and in `derived` `=text` is the text itself.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Collection, Iterator, Sequence
from datetime import date
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import available_timezones

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from hospital_assets.addresses import is_protected
from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.raw import FEED_OF, DatedRecord, LandedRecord
from hospital_assets.toml_text import line_of

_FEED_OF = {table.contract().name.removeprefix("raw_"): feed for table, feed in FEED_OF.items()}
#: Everything that has a raw table of landed records.
LANDED = tuple(_FEED_OF)
#: Of these, what has service days; the rest is reference data.
DATED = frozenset(subject for subject in LANDED if CONTRACTS[f"raw_{subject}"].partitioned)
#: What is cleaned, in that order.
SUBJECTS = tuple(subject for subject in LANDED if f"cleaned_{subject}" in CONTRACTS)
#: Records that no subject takes, kept word for word.
OTHER_RECORDS = "other_records"
#: Files that no profile takes: somebody has to record them.
UNRECOGNISED = "unknown"
#: Feed -> the subjects whose files its sensor watches for.
FEEDS = {
    feed: tuple(subject for subject in (*LANDED, UNRECOGNISED) if _FEED_OF.get(subject, "extracts") == feed)
    for feed in dict.fromkeys(FEED_OF.values())
}

#: Columns whose landed codes `code_maps` may translate.
CODED = (
    "arrival_mode",
    "blood_group",
    "code_system",
    "consciousness",
    "department",
    "department_name",
    "discharge_disposition",
    "disposition",
    "ethnicity",
    "event_type",
    "gcs",
    "on_oxygen",
    "pain",
    "patient_class",
    "race",
    "record_status",
    "sex",
    "spo2_scale",
    "triage_level",
    "visit_status",
)
#: Vital signs that a payload may hold; those of the second line stand without a unit.
MEASURED = ("heart_rate", "respiratory_rate", "spo2", "systolic_bp", "diastolic_bp", "temperature")
SCORED = ("consciousness", "on_oxygen", "spo2_scale", "gcs", "pain")

_BOOKKEEPING = frozenset(DatedRecord.to_schema().columns) | frozenset(LandedRecord.to_schema().columns)
#: Parts of a file's record that every format has.
PSEUDO = ("@line", "@part", "@landed_at")
ELEMENT = "$each"
#: Between the paths of a token, as in FHIR's search: `$.identifier.system | $.identifier.value` is `system|value`.
JOINED = " | "
#: What SQL clients, exports of databases, spreadsheets and data frames write for want of a value.
NULLS = ("NULL", "null", "\\N", "NaN", "nan", "<NA>", "#N/A")


@functools.cache
def time_zones() -> frozenset[str]:
    """The IANA time zones that this Python knows; it looks for them on disk, once."""
    return frozenset(available_timezones())


class ProfileError(ValueError):
    """A profile declares something that does not exist or cannot be."""


def delivers(spec: Subject, subject: str) -> set[str]:
    """Our columns, and vital signs, that a declaration can fill at all."""
    if spec.rows and not spec.files:
        return {column for row in spec.rows for column in row}
    filled = {
        column
        for column in canonical_columns(subject)
        if spec.source_names(column) and spec.source_names(column) != ("",)
    }
    filled |= {*spec.constants, *spec.derived, *spec.defaults}
    filled |= {lookup.column for lookup in spec.lookups}
    filled |= {name for event in spec.events for name in (*event.constants, *event.columns)}
    filled |= {"event_type", "event_at"} if spec.events else set()
    filled |= set(spec.join.columns) if spec.join else set()
    if subject == "vitals":
        long = set(spec.observations.gathered.values()) if spec.observations else set()
        named = {*spec.payload, *long}
        filled |= {"observation_id"} if spec.is_set_by_time else set()
        filled |= named or ({*MEASURED, *SCORED} if "payload" in filled else set())
    return filled - set(spec.unavailable)


def canonical_columns(subject: str) -> list[str]:
    """The columns a source may fill for a subject."""
    return [name for name in CONTRACTS[f"raw_{subject}"].column_names if name not in _BOOKKEEPING]


#: Clocks of a visit, in the order in which they are reached: each lands as `<clock>_time`.
VISIT_CLOCKS = tuple(name.removesuffix("_time") for name in canonical_columns("er_visits") if name.endswith("_time"))


class _Declaration(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Join(_Declaration):
    """Companion files whose records complete those of the main files.

    Attributes:
        files: glob patterns of the companions.
        on: source column of the main files.
        key: source column of the companions that has the same values; default `on`.
        columns: our column -> source column of the companion.
        is_lookup: companions have records of their own and are only looked up in; else a companion
            record without a main one is kept, as `unmatched_join`.
    """

    files: tuple[str, ...]
    on: str
    key: str | None = None
    columns: dict[str, str]
    is_lookup: bool = False

    @property
    def companion_key(self) -> str:
        """The column of the companions."""
        return self.key or self.on


class Parameter(_Declaration):
    """A vital sign in a flat column; `unit` is UCUM, or absent where it must be inferred.

    Attributes:
        column: source name of the value.
        unit: UCUM unit of all its values.
    """

    column: str
    unit: str | None = None


class DateLookup(_Declaration):
    """Take the service day from the visit a record belongs to.

    Attributes:
        subject: where to look.
        on: our column that both have.
    """

    subject: Literal["er_visits"]
    on: str


class DateAndTime(_Declaration):
    """A clock that the source states as a date and a time of day, in two columns.

    They are read as one text with a blank between, by the formats of the clock (as in `%d.%m.%Y %H:%M`); a date
    that is written with midnight, as spreadsheets do, counts as the date. Without a time the text is a date.

    Attributes:
        date: source name of the date.
        time: source name of the time of day.
    """

    date: str
    time: str


class Sum(_Declaration):
    """A clock that the source states as another clock and minutes from there.

    The other clock is read by the formats of the profile, and the minutes are added to its instant: they are
    minutes on a day on which the clocks change, too.

    Attributes:
        at: source name of the clock, or its date and time.
        plus_minutes: source name of the minutes, which may have a fraction.
    """

    at: str | DateAndTime
    plus_minutes: str

    @property
    def named(self) -> frozenset[str]:
        """The source names that it uses."""
        at = {self.at} if isinstance(self.at, str) else {self.at.date, self.at.time}
        return frozenset({*at, self.plus_minutes})


#: What a derived column is made of.
Derived = tuple[str | tuple[str, ...], ...] | Sum | DateAndTime


class Limits(_Declaration):
    """What values of a source can be; a record outside is quarantined (`outside_limits`).

    Attributes:
        at_least: smallest number.
        at_most: largest number.
    """

    at_least: float | None = None
    at_most: float | None = None


class Versions(_Declaration):
    """How versions of a record are known, for lookups: the newest counts, in whatever file it landed.

    Attributes:
        id: source name of the record's own id, the same in all its versions.
        written: source names of when the version was written, in order of preference.
        status: source name of its status, for `withdrawn` of a lookup.
        corrected: statuses that correct: they count before others written at the same moment.
    """

    id: str
    written: tuple[str, ...]
    status: str | None = None
    corrected: tuple[str, ...] = ()


class Lookup(_Declaration):
    """Fill one of our columns from another kind of record of the same source.

    Attributes:
        column: our column to fill where the record itself leaves it empty.
        on: our column that points at the other record; where it is the same as `column`, what is
            found takes the place of the pointer.
        files: glob patterns of the files that hold the other records; default the subject's own.
        where: as for the subject; of what may change from version to version say `withdrawn`.
        withdrawn: statuses (case does not matter) of what says nothing; they count before others written at the same
            moment. Needs the profile's `versions`.
        each: JSON path of a list; each of its elements is looked at.
        key: source name of what `on` must equal, or several of which one must.
        value: source name, or names in order of preference, of what is taken; the smallest of several.
        pattern: regular expression for the key; what its first group matches is compared.
        value_pattern: the same for the value.
        among: what is found counts only if it is the `$.id` of a record that has these; as `where`.
        is_chain: what is found is itself looked up, until it leads no further; a circle finds nothing.
    """

    column: str
    on: str
    files: tuple[str, ...] = ()
    where: dict[str, tuple[str, ...]] = {}
    withdrawn: tuple[str, ...] = ()
    each: str | None = None
    key: str | tuple[str, ...]
    value: str | tuple[str, ...]
    pattern: str | None = None
    value_pattern: str | None = None
    among: dict[str, tuple[str, ...]] = {}
    is_chain: bool = False

    @property
    def keys(self) -> dict[str, str]:
        """Columns of `spec` that what points is compared with -> their source names."""
        names = (self.key,) if isinstance(self.key, str) else self.key
        return {f"key_{place}": name for place, name in enumerate(names)}

    def spec(self, subject: Subject, versions: Versions | None) -> LookedAt:
        """The records looked at as a declaration, of the columns `keys` and `value`, and those that tell versions."""
        patterns = {**dict.fromkeys(self.keys, self.pattern), "value": self.value_pattern}
        version: dict[str, str | tuple[str, ...]] = {}
        if versions is not None:
            version = {"id": versions.id, "written": versions.written, "status": versions.status or ()}
        return LookedAt(
            files=self.files or subject.files,
            format=subject.format,
            encoding=subject.encoding,
            where=self.where,
            each=self.each,
            columns={**self.keys, "value": self.value, **version},
            patterns={name: pattern for name, pattern in patterns.items() if pattern},
        )


class Event(_Declaration):
    """One ADT event that a record describes, as an admission and a discharge in one row.

    The first event that a record has is made in any case, later ones where they have a time. The
    message id is that of the record and the event type.

    Attributes:
        event_type: HL7 trigger event, as in A01.
        event_at: source name of its time.
        where: as for the subject.
        constants: our column -> value, in addition to those of the subject.
        columns: our column -> source names, instead of those of the subject.
        each: JSON path of a list; each element that has a time makes an event of its own.
        from_element: the first element that does; elements count from 1.
    """

    event_type: str
    event_at: str
    where: dict[str, tuple[str, ...]] = {}
    constants: dict[str, str] = {}
    columns: dict[str, str | tuple[str, ...]] = {}
    each: str | None = None
    from_element: int = Field(default=1, ge=1)

    @property
    def named(self) -> frozenset[str]:
        """Every source name that the declaration uses."""
        columns = ((names,) if isinstance(names, str) else names for names in self.columns.values())
        return frozenset({self.event_at, *self.where, *(n for names in columns for n in names)})


class Observations(_Declaration):
    """Vital signs in long form (a record or a list element for each), gathered into sets.

    Only what has one of the codes is gathered; of several codes of a vital sign the first of `codes` counts. The
    records stay together, word for word, in `record`. The newest version of each observation counts, in whatever file
    it landed, and a withdrawn one is none.

    Unless the subject says what its `observation_id` is, a set is what a patient has at one time, however both are
    written, in whatever files. What is known by its day alone is of a time of its own: of such a day a set is what one
    record holds.

    Attributes:
        by: source names that together identify a set within a file.
        id: source name of an observation's own id; without one, the set and the code say which observation it is.
        status: source name of its status.
        withdrawn: statuses (case does not matter) that take a value back, or say that there is none.
        corrected: statuses that correct: they count before others written at the same moment.
        written: source names of when the version was written, in order of preference; default that of `recorded_at`.
        comparator: source name of what stands before the value where it is no exact one, as in `<`.
        code: source name of the code.
        value: source name, or names in order of preference, of the value.
        unit: source name, or names in order of preference, of the unit (UCUM, ISO/IEEE 11073); the first one that is a
            known unit of the vital sign counts.
        codes: landed code, as in LOINC 8867-4 -> vital sign, as in heart_rate.
        flags: landed code, as in LOINC 3151-8 -> what is true where its value is above 0, as in
            on_oxygen, and false where it is 0.
    """

    by: tuple[str, ...]
    code: str
    value: str | tuple[str, ...]
    unit: str | tuple[str, ...] | None = None
    id: str | None = None
    status: str | None = None
    withdrawn: tuple[str, ...] = ()
    corrected: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    comparator: str | None = None
    codes: dict[str, str]
    flags: dict[str, str] = {}

    @property
    def gathered(self) -> dict[str, str]:
        """Every landed code that is gathered -> the vital sign it stands for."""
        return {**self.codes, **self.flags}

    @property
    def named(self) -> frozenset[str]:
        """Every source name that the declaration uses."""
        single = (self.code, self.id, self.status, self.comparator)
        several = (*self.by, *self.values, *self.units.values(), *self.written)
        return frozenset({*several, *(name for name in single if name)})

    @property
    def values(self) -> tuple[str, ...]:
        """Source names of the value, in order of preference."""
        return (self.value,) if isinstance(self.value, str) else self.value

    @property
    def units(self) -> dict[str, str]:
        """What payloads call each name of the unit -> its source name, in order of preference."""
        names = (self.unit,) if isinstance(self.unit, str) else self.unit or ()
        return {f"unit_{place}" if place > 1 else "unit": name for place, name in enumerate(names, 1)}


class Place(_Declaration):
    """Where a column stands in lines of fixed width.

    Attributes:
        start: its first character; a line begins with 1. Characters count, whatever the encoding; not bytes.
        width: how many characters it has.
        trim: whether blanks around a value are not part of it.
    """

    start: int = Field(ge=1)
    width: int = Field(ge=1)
    trim: bool = True


class FixedWidth(_Declaration):
    """Lines whose columns stand at fixed places, instead of CSV.

    What stands where no column is declared is kept in the record, under its place, as in `9-12`. Lines of blanks are
    no records.

    Attributes:
        columns: source name -> its place.
        first_line: the line of the first record; titles above it are not read.
        is_stripped: blanks at the ends of lines were left out, so that a line may end early. Else one that ends before
            the last column does is quarantined.
    """

    columns: dict[str, Place] = Field(min_length=1)
    first_line: int = Field(default=1, ge=1)
    is_stripped: bool = False

    @property
    def end(self) -> int:
        """The last character of the last column."""
        return max(column.start + column.width - 1 for column in self.columns.values())


class Subject(_Declaration):
    """How the files of one subject are found and read.

    Attributes:
        files: glob patterns below `landing/<profile>/`.
        format: `csv`, `jsonl` (one JSON object a line, or one JSON text), `hl7v2`, or `fhir`.
        delimiter: of CSV.
        header_line: of CSV, the (first) line with the column names; titles above it are not read.
        header_rows: of CSV, over how many rows the names stand: `Vital signs` over `HR` is the column
            `Vital signs HR`. In all but the lowest, an empty cell belongs to the name on its left; of a workbook,
            merged cells say what does.
        fixed_width: where the columns stand in files that have no delimiter.
        sheet: of a workbook that is delivered instead of CSV, the sheet; default the first that is shown and not empty.
        decimal: the decimal mark of its numbers. Thousands must not be grouped.
        encoding: of the files, where the bytes do not tell: UTF-8 and UTF-16 are recognised,
            anything else is read as Latin-1 unless this names the encoding, as in cp1252.
        where: source name -> values; the subject takes only records that have one of them in each
            (case and blanks around do not matter); `*` is any text, and a value that begins with `!`
            is one that a record must not have. What no subject takes is kept in `raw_other_records`.
        each: JSON path of a list; each of its elements makes a row.
        is_element_itself: the record is an element, too, behind those of its list.
        defaults: our column -> value for records that state none.
        patterns: our column -> regular expression; what its first group matches is the value.
        lookups: our columns that other records of the source fill; a text names one of the profile's `lookups`.
        columns: our column -> source name, or names in order of preference. Empty means the source
            uses our names.
        required: our columns without which a CSV file is refused.
        constants: our column -> value for all records.
        derived: our column -> source names (or lists of them, in order of preference) and texts
            joined by `-`, or a date and a time, or a clock plus minutes.
        formats: our column -> strptime formats of its clocks or dates, instead of the profile's.
        limits: our column -> what its numbers can be.
        payload: vital sign -> flat column and unit, for sources without a nested payload.
        observations: vital signs in long form.
        events: ADT events that one record describes.
        date: our column that dates a record; absent for undated subjects.
        date_from: look the day up in the visit; `date` then is for records whose visit is unknown.
        is_undated: the records have no clock; all stand on the first service day.
        is_partial: a record states only what it knows; what it lacks is what earlier records of the
            same visit or patient delivered (er_visits, patients).
        unavailable: our columns that the source cannot deliver; nobody is warned that they are empty.
        unused: source names that are known and not needed; nobody is warned that they are there.
        join: companion files.
        rows: records declared right here (a source without reference data).
        also: further declarations of the subject, for files of another layout; a file is read by the
            first that takes it.
    """

    files: tuple[str, ...] = ()
    format: Literal["csv", "jsonl", "hl7v2", "fhir"] = "csv"
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    sheet: str | None = None
    header_line: int = Field(default=1, ge=1)
    header_rows: int = Field(default=1, ge=1, le=5)
    fixed_width: FixedWidth | None = None
    decimal: Literal[".", ","] = "."
    encoding: str | None = None
    where: dict[str, tuple[str, ...]] = {}
    each: str | None = None
    is_element_itself: bool = False
    columns: dict[str, str | tuple[str, ...]] = {}
    defaults: dict[str, str] = {}
    patterns: dict[str, str] = {}
    lookups: tuple[Lookup, ...] = ()
    required: tuple[str, ...] = ()
    constants: dict[str, str] = {}
    derived: dict[str, Derived] = {}
    formats: dict[str, tuple[str, ...]] = {}
    limits: dict[str, Limits] = {}
    payload: dict[str, Parameter] = {}
    observations: Observations | None = None
    events: tuple[Event, ...] = ()
    date: str | None = None
    date_from: DateLookup | None = None
    is_undated: bool = False
    is_partial: bool = False
    unavailable: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    join: Join | None = None
    rows: tuple[dict[str, str], ...] = ()
    also: tuple[Subject, ...] = ()

    @property
    def names_line(self) -> int:
        """The last line of the header; below are records."""
        return self.header_line + self.header_rows - 1

    @property
    def layouts(self) -> tuple[Subject, ...]:
        """This declaration and its alternatives, one for each layout of the subject's files."""
        return (self, *self.also)

    @property
    def join_is_lookup(self) -> bool:
        """Whether it only looks up in its companions."""
        return self.join is not None and self.join.is_lookup

    def takes_file(self, path: PurePosixPath) -> bool:
        """Whether a path below the profile's folder is one of its files."""
        return any(path.match(pattern) for pattern in self.files)

    def joins_file(self, path: PurePosixPath) -> bool:
        """Whether a path below the profile's folder is one of its companions."""
        return self.join is not None and any(path.match(p) for p in self.join.files)

    def source_names(self, column: str) -> tuple[str, ...]:
        """The names under which the source may deliver one of our columns."""
        declared = self.columns.get(column)
        if declared is None:
            return () if self.columns else (column,)
        return (declared,) if isinstance(declared, str) else declared

    def field(self, name: str) -> str:
        """The column of a file, or the field of its JSON objects, that a source name is in."""
        if self.format == "csv":
            return name
        path = self.each if self.each and name.startswith(ELEMENT) else name
        return re.split(r"[.\[]", re.sub(r"^\$(\[.*?=[^\]]*\])*\.?", "", path))[0].strip('"')

    @property
    def is_set_by_time(self) -> bool:
        """Whether a set of its observations is what a patient has at one time: it does not say itself what a set is."""
        named = self.source_names("observation_id") or {"observation_id"} & {*self.derived, *self.constants}
        return self.observations is not None and not named

    @property
    def is_selective(self) -> bool:
        """Whether it may leave records of its files to others."""
        events = bool(self.events) and all(event.where for event in self.events)
        return bool(self.where or self.each or self.observations or events)

    @functools.cached_property
    def named(self) -> frozenset[str]:
        """Every source name that the declaration uses."""
        names = {name for column in self.columns for name in self.source_names(column)}
        for parts in self.derived.values():
            names |= _parts_of(parts)
        names |= {parameter.column for parameter in self.payload.values()} | set(self.where)
        if self.join is not None:
            names.add(self.join.on)
        if self.observations is not None:
            names |= self.observations.named
        for event in self.events:
            names |= event.named
        return frozenset(n for n in names if n not in PSEUDO and not n.startswith("="))

    def of_event(self, event: Event) -> Subject:
        """The declaration as it reads for one of its events."""
        return self.model_copy(
            update={
                "columns": {**self.columns, **event.columns, "event_at": event.event_at},
                "constants": {**self.constants, "event_type": event.event_type, **event.constants},
                "events": (),
            }
        )


def _parts_of(parts: Derived) -> set[str]:
    """Every source name that a derived column uses."""
    if isinstance(parts, Sum):
        return set(parts.named)
    if isinstance(parts, DateAndTime):
        return {parts.date, parts.time}
    return {name for part in parts for name in ((part,) if isinstance(part, str) else part)}


def lacking_of(spec: Subject, column: str, header: Collection[str]) -> list[str]:
    """Source names that a derived column of a CSV file needs and the header does not have.

    Of names in order of preference one is enough.
    """
    parts = spec.derived[column]
    needed = [(name,) for name in sorted(_parts_of(parts))] if isinstance(parts, Sum | DateAndTime) else parts
    return [
        " or ".join(names)
        for part in needed
        for names in [(part,) if isinstance(part, str) else part]
        if not any(name in header or name in PSEUDO or name.startswith("=") for name in names)
    ]


def _telling(where: dict[str, tuple[str, ...]]) -> list[str]:
    """Source names that say what kind a record is: those compared with codes, not with any text."""
    return [name for name, values in where.items() if any(value[:1] not in ("!", "*") for value in values)]


#: How the files of a declaration are taken apart, whoever takes what of their records.
_LAYOUT = ("files", "format", "delimiter", "sheet", "header_line", "header_rows", "fixed_width", "encoding")


class LookedAt(Subject):
    """The records that a lookup looks at, also those whose list is empty. Made by `Lookup.spec`, never declared."""


class Rest(Subject):
    """The records of a file that no subject takes. Made by `Profile.rest`, never declared.

    Attributes:
        takers: the subjects that the file feeds.
        kinds: source names that say what kind a record is.
    """

    takers: tuple[Subject, ...]
    kinds: tuple[str, ...]


class Feed(BaseModel):
    """A subject that a file feeds.

    Attributes:
        subject: the subject, or `other_records`.
        spec: how it reads the file.
        is_main: whether as a main file (else as a companion).
    """

    subject: str
    spec: Subject
    is_main: bool


#: What addresses begin with: object stores, SFTP servers, folders of this machine or a mounted share.
ADDRESSES = ("s3", "az", "abfss", "gs", "sftp", "file")


#: A column's name that is put into a statement.
_Column = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_$#]*$")]


class Query(_Declaration):
    """What a database is asked for a subject. Its rows land as Parquet files, where `files` of the subject takes them.

    Attributes:
        sql: a select. `:since` and `:until` are moments: of its last look (less the overlap), and of the database's
            clock now, as in `where updated_at >= :since and updated_at < :until`. Its columns are named by the
            subject's `columns`, as those of a file.
        first: the day from which the first look asks.
        overlap_minutes: how much earlier each look begins again: longer than any transaction that writes stays open.
            Repeated records count once.
        is_full: everything at each look, for reference data; there is no `:since`. It lands only where it has changed,
            and what has vanished goes.
        deleted_days: a row that was written within so many days and is not in the database any more counts as deleted;
            default: no row does. Asks hourly for the keys of these days.
        key: columns that identify a row, as the query names them, for `deleted_days`.
        written: the column that `:since` is compared with, as the query names it, for `deleted_days`. It only grows.
        most_deleted_percent: of these rows; more are not believed to be deleted at once, nor, below 100, is it believed
            that an `is_full` query that had rows has none.
        most_rows: more are refused.
        most_megabytes: as they come from the database, before they are written; more are refused.
        seconds: how long the database may take.
    """

    sql: str
    first: date = date(2000, 1, 1)
    overlap_minutes: int = Field(default=60, ge=0)
    is_full: bool = False
    deleted_days: int | None = Field(default=None, gt=0)
    key: tuple[_Column, ...] = ()
    written: _Column | None = None
    most_deleted_percent: int = Field(default=10, ge=0, le=100)
    most_rows: int = Field(default=5_000_000, gt=0)
    most_megabytes: int = Field(default=4_000, gt=0)
    seconds: int = Field(default=600, gt=0)

    @model_validator(mode="after")
    def _knows_what_is_deleted(self) -> Query:
        if self.deleted_days is None and (self.key or self.written):
            raise ValueError("`key` and `written` are for deleted rows: say of how many `deleted_days`")
        if self.deleted_days is not None and self.is_full:
            raise ValueError("what vanishes from an `is_full` query goes anyway: leave `deleted_days` out")
        if self.deleted_days is not None and not (self.key and self.written):
            raise ValueError("`deleted_days` wants the `key` of a row, and when it was `written`")
        return self


class Export(_Declaration):
    """A FHIR server that is asked for bulk exports (`$export`). Its NDJSON files land where `files` takes them.

    Attributes:
        url: the server's base address, as in `https://ehr.example.org/fhir`. Never a password: who asks is said below.
        group: id of the Group whose patients are exported; default all that the server has.
        types: types of resources, as in `["Patient", "Encounter"]`; default all that the server exports.
        client_id: as the server's owner has registered this client (SMART backend services); without one, no token is
            asked for.
        key: the environment variable that names the file with the client's private key, as in `EHR_KEY_FILE`: PEM or a
            JSON Web Key, RSA (RS384) or EC on P-384 (ES384).
        key_id: the key's `kid`, as the server's owner knows it; a JSON Web Key may say it itself.
        scope: what the token is asked for.
        every_minutes: from one export to the next.
        hours: how long the server may prepare an export; then it is called off.
        most_megabytes: of all files of an export; more are not brought.
    """

    url: str
    group: str | None = Field(default=None, pattern=r"^[A-Za-z0-9.-]{1,64}$")
    types: tuple[str, ...] = ()
    client_id: str | None = None
    key: str | None = None
    key_id: str | None = None
    scope: str = "system/*.rs"
    every_minutes: int = Field(default=60, gt=0)
    hours: int = Field(default=24, gt=0)
    most_megabytes: int = Field(default=20_000, gt=0)

    @field_validator("url")
    @classmethod
    def _is_safe(cls, value: str) -> str:
        if not is_protected(value):
            raise ValueError("an address begins with https://, as in https://ehr.example.org/fhir")
        parts = urlsplit(value)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("an address holds no login and no options")
        return value.rstrip("/")

    @field_validator("types")
    @classmethod
    def _are_types(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [name for name in value if not re.fullmatch("[A-Z][A-Za-z]+", name)]:
            raise ValueError(f"'{wrong[0]}' is no type of resource, as in Patient")
        return value

    @field_validator("key")
    @classmethod
    def _is_a_variable(cls, value: str) -> str:
        return _variable(value, "the file with the private key, as in EHR_KEY_FILE; never a key")

    @model_validator(mode="after")
    def _has_both(self) -> Export:
        if (self.client_id is None) != (self.key is None):
            raise ValueError("client_id and key belong together")
        return self


def _variable(value: str, what: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError(f"name the environment variable that holds {what}")
    return value


class Source(_Declaration):
    """A folder, a database or a FHIR server elsewhere from which `hospital pull` brings what is new.

    Attributes:
        address: of a folder, as in `s3://bucket/prefix`, `az://container/prefix`, `gs://bucket/prefix`,
            `sftp://user@host:22/folder`, `file:///mnt/share`. Below it, paths are those below the profile's landing
            folder: what `files` of a subject takes is brought. Never a password: credentials come from the environment.
        archives: below an address: glob patterns of archives (.zip, .tar, .tar.gz, .tar.bz2, .tar.xz), as in `*.zip`.
            The files in them land in a folder that is called as the archive, where `files` takes them.
        database: the environment variable that holds a database's URL or ODBC connection string, as in `CLARITY_URL`.
        queries: of a database: subject -> what is asked.
        fhir: a FHIR server, and what it is asked for.
    """

    address: str | None = None
    archives: tuple[str, ...] = ()
    database: str | None = None
    queries: dict[str, Query] = {}
    fhir: Export | None = None

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return self.address or (f"database in {self.database}" if self.fhir is None else self.fhir.url)

    @property
    def kind(self) -> str:
        """What kind of source it is."""
        if self.fhir is not None:
            return "fhir"
        return "postgres" if self.address is None else urlsplit(self.address).scheme

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        begins = f"an address begins with {', '.join(f'{scheme}://' for scheme in ADDRESSES)}, as in s3://bucket/prefix"
        try:
            parts = urlsplit(value)
            # A password with a slash ends what comes before the path, and what is left of it looks like a port.
            is_cut = parts.port is not None and (parts.scheme != "sftp" or ("@" in parts.path and not parts.username))
        except ValueError:  # its text quotes the address
            raise ValueError(f"{begins}, and holds no password") from None
        if parts.scheme not in ADDRESSES or not (parts.path if parts.scheme == "file" else parts.netloc):
            raise ValueError(begins)
        if is_cut or parts.password or parts.query or parts.fragment:
            raise ValueError("an address holds no password and no options: credentials come from the environment")
        return value

    @field_validator("database")
    @classmethod
    def _is_a_variable(cls, value: str) -> str:
        return _variable(value, "the URL, as in CLARITY_URL; never a URL")

    @model_validator(mode="after")
    def _is_one_of_all(self) -> Source:
        named = [place for place in (self.address, self.database, self.fhir) if place is not None]
        if len(named) != 1 or (self.database is None) == bool(self.queries):
            raise ValueError("name an address, or a database and its queries, or a FHIR server")
        if self.archives and self.address is None:
            raise ValueError("archives lie at an address")
        return self

    def takes_archive(self, inside: str) -> bool:
        """Whether a path below the address is one of its archives."""
        return any(PurePosixPath(inside).match(pattern) for pattern in self.archives)


class Profile(_Declaration):
    """One source: its files, codes, formats and time zone.

    Attributes:
        name: also the folder below `landing/`.
        description: what the source is.
        time_zone: IANA zone of clocks that belong to no hospital.
        namespace: whose numbers its identifiers are. Equal numbers of two namespaces are two things
            (patients, visits, hospitals, doctors); of one namespace they are the same. Equal means
            character by character: `a1` and `A1` are two, as identifiers in HL7 FHIR are. Default: the
            profile's name; state one where several sources share a master index, and "" for ours.
        dates_shifted: dates were moved for de-identification; nothing is "in the future" then.
        latest_after_written_minutes: how long after it was written a record may say that something
            happened; what lies later is in the future and is quarantined.
        timestamp_formats: strptime formats beyond ISO 8601, or `excel` (days as spreadsheets count
            them), `epoch_s`, `epoch_ms` (since 1970 in UTC). A text that two of them read as two
            moments is flagged (`clock_ambiguous`), and so is ISO 8601 with a day that could be the month
            where all of them have day or month first: name `%Y-%m-%d %H:%M:%S`, too, if the source
            writes both. `%y` is two digits, 69 to 99 of the last century, the others of this one
            (POSIX): no good for births.
        placeholders: texts that stand for no clock, date or identifier, beside 9999-12-31, 1900-01-01, 1753-01-01 and
            0001-01-01, and what databases, data frames and spreadsheets write for none (NULL, NaN, #N/A); case and
            blanks around do not matter.
        ignored: kinds of records (as in `raw_other_records`, `*` for any text) that no subject
            needs: they are stored without a warning.
        source: where new files are brought from; default: they are put into the landing folder.
        subjects: what it delivers.
        code_maps: our column -> landed code -> our code; case and blanks do not matter. Or our column -> another one
            whose codes it shares, as in `discharge_disposition = "disposition"`.
        expressions: name -> a regular expression, or the beginning of source names; `subjects` and `lookups` may say
            `{name}` instead.
        lookups: name -> a lookup that several subjects have.
        versions: how lookups know versions of a record; default: each record is one of its own.
    """

    name: str
    description: str
    time_zone: str
    namespace: str | None = None
    dates_shifted: bool = False
    latest_after_written_minutes: int = Field(default=1440, ge=0)
    timestamp_formats: tuple[str, ...] = ()
    placeholders: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    source: Source | None = None
    subjects: dict[str, Subject]
    code_maps: dict[str, dict[str, str]] = {}
    expressions: dict[str, str] = {}
    lookups: dict[str, Lookup] = {}
    versions: Versions | None = None

    @field_validator("time_zone")
    @classmethod
    def _is_a_zone(cls, value: str) -> str:
        if value not in time_zones():
            raise ValueError(f"'{value}' is not an IANA time zone, as in America/Chicago")
        return value

    @property
    def identity_namespace(self) -> str:
        """The namespace of its identifiers; empty for the network's own."""
        return self.name if self.namespace is None else self.namespace

    def known_columns(self, inside: str) -> set[str]:
        """Columns (of JSON: fields) of a file that something uses, or that are declared as not needed."""
        known: set[str] = set()
        for feed in self.feeds(inside):
            spec = feed.spec
            if not feed.is_main and spec.join is not None:
                known |= {spec.join.companion_key, *spec.join.columns.values()}
            elif feed.subject != OTHER_RECORDS:
                names = {*spec.named, *spec.unused}
                for column in canonical_columns(feed.subject):
                    names |= set(spec.source_names(column))
                known |= {spec.field(name) for name in names}
        return known

    def feeds(self, inside: str) -> list[Feed]:
        """What a file feeds, by its path below the profile's folder."""
        path = PurePosixPath(inside)
        found = []
        for subject in SUBJECTS:
            layouts = self.subjects[subject].layouts if subject in self.subjects else ()
            main = [spec for spec in layouts if spec.takes_file(path)]
            joined = [spec for spec in layouts if spec.joins_file(path)]
            found += [Feed(subject=subject, spec=spec, is_main=bool(main)) for spec in (main or joined)[:1]]
        takers = [feed for feed in found if feed.is_main or not feed.spec.join_is_lookup]
        if takers and all(feed.is_main and feed.spec.is_selective for feed in takers):
            rest = self.rest([feed.spec for feed in takers])
            found.append(Feed(subject=OTHER_RECORDS, spec=rest, is_main=True))
        return found

    def names_of(self, format_: str) -> frozenset[str]:
        """Every source name that it uses of files of a format, whichever subject does."""
        specs = [spec for declared in self.subjects.values() for spec in declared.layouts if spec.format == format_]
        return frozenset().union(*(spec.named for spec in specs))

    def rest(self, takers: Sequence[Subject]) -> Rest:
        """How to read what some declarations leave of their files."""
        kinds = dict.fromkeys(
            name
            for spec in takers
            for name in (
                *_telling(spec.where),
                *(name for event in spec.events for name in _telling(event.where)),
                *([_any_code(spec.observations.code)] if spec.observations and not spec.each else []),
                *(
                    [_any_code(spec.observations.code.replace(ELEMENT, "$", 1))]
                    if spec.observations and spec.is_element_itself
                    else []
                ),
            )
        )
        clocks: dict[str, None] = {}
        for spec in takers:
            names = spec.source_names(spec.date) if spec.date else ()
            names += tuple(event.event_at for event in spec.events if event.each is None)
            clocks |= dict.fromkeys(name for name in names if not name.startswith(ELEMENT))
        return Rest(
            **{name: getattr(takers[0], name) for name in _LAYOUT},
            columns={"occurred_at": tuple(clocks)},
            date="occurred_at",
            takers=tuple(takers),
            kinds=tuple(kinds),
        )


# Reading ------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def parse_profile(text: str, file: str) -> Profile:
    """A profile from TOML text; `file` is named in errors.

    Raises:
        ProfileError: not TOML, or a declaration is wrong; names file, line, key and reason.
    """
    declared: dict[str, Any] = {}
    try:
        declared = tomllib.loads(text)
        profile = Profile.model_validate(_spelled_out(declared))
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{file}: not valid TOML: {error}") from error
    except ValidationError as error:
        problems = [
            (tuple(problem["loc"]), _in_words(problem))
            for problem in error.errors(include_input=False, include_url=False)
        ]
    else:
        problems = list(_mistakes(profile))
        if not problems:
            return profile
    places = dict.fromkeys((_declared_at(declared, where), what) for where, what in problems)
    message = "\n".join(
        f"{file}:{line_of(text, where)}: {'.'.join(map(str, where)) or 'profile'}: {what}" for where, what in places
    )
    raise ProfileError(message)


def _declared_at(declared: dict[str, Any], where: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """The place of a declaration: of a lookup that a subject names, that below the profile's `lookups`."""
    if where[0:1] != ("subjects",) or where[2:3] != ("lookups",):
        return where
    named = declared["subjects"][where[1]]["lookups"]
    place = where[3] if len(where) > 3 else None
    name = named[place] if isinstance(named, list) and isinstance(place, int) else None
    return ("lookups", name, *where[4:]) if isinstance(name, str) and name in declared.get("lookups", {}) else where


def _any_code(path: str) -> str:
    """A path to whatever code there is: what nobody takes has none of those that a path picks."""
    return re.sub(r"\[[^\]]*=[^\]]*\|[^\]]*\]", "", path)


#: The codes of a code map in a path, as in `[code={disposition}]`.
_CODES = re.compile(r"(?<==)\{(\w+)\}(?=\])")


def _spelled_out(declared: dict[str, Any]) -> dict[str, Any]:
    """A profile's declarations with what they name in place: shared code maps and lookups, codes, expressions."""
    maps = declared.get("code_maps", {})
    if isinstance(maps, dict):
        maps = {name: maps.get(table, table) if isinstance(table, str) else table for name, table in maps.items()}
        declared = {**declared, "code_maps": maps}
    tables = {name: "|".join(table) for name, table in dict(maps).items() if isinstance(table, dict)}
    expressions = {f"{{{name}}}": str(text) for name, text in dict(declared.get("expressions", {})).items()}
    lookups = dict(declared.get("lookups", {}))

    def filled(value: Any, own: dict[str, str]) -> Any:
        if isinstance(value, str):
            for name, text in expressions.items():
                value = value.replace(name, text)
            return _CODES.sub(lambda named: own.get(named[1], named[0]), value)
        if isinstance(value, list):
            return [filled(each, own) for each in value]
        if not isinstance(value, dict):
            return value
        if isinstance(long := value.get("observations"), dict):
            own = {**own, "observations": "|".join([*long.get("codes", {}), *long.get("flags", {})])}
        if isinstance(named := value.get("lookups"), list):
            value = {**value, "lookups": [lookups.get(each, each) if isinstance(each, str) else each for each in named]}
        return {filled(name, own): filled(each, own) for name, each in value.items()}

    return {**declared, "subjects": filled(declared.get("subjects"), tables)} if "subjects" in declared else declared


def _in_words(problem: Any) -> str:
    """A validation problem, described so that somebody who never saw Pydantic can correct it."""
    if problem["type"] == "extra_forbidden":
        return "there is no such key here; see the reference in docs/bring-your-own.md"
    if problem["type"] == "missing":
        return "this key is missing"
    if problem["type"] == "model_type" and "lookups" in problem["loc"]:
        return "this is neither a lookup nor the name of one in `[lookups]`"
    return str(problem["msg"]).removeprefix("Value error, ")


#: Where a declaration is wrong, below the subject, and what to do.
_Mistakes = Iterator[tuple[tuple[str | int, ...], str]]


def _mistakes(profile: Profile) -> _Mistakes:
    """What types alone do not catch: where, and what to do."""
    for column in profile.code_maps:
        if column not in CODED:
            yield ("code_maps", column), f"only codes are translated, of {', '.join(CODED)}"
    for subject, spec in profile.subjects.items():
        at = ("subjects", subject)
        if subject not in SUBJECTS:
            yield at, f"there is no such subject; there are {', '.join(SUBJECTS)}"
            continue
        for place, layout in enumerate(spec.layouts):
            here = at if place == 0 else (*at, "also", place - 1)
            yield from ((here + where, what) for where, what in _mistakes_of(subject, layout))
            for number, lookup in enumerate(layout.lookups):
                if lookup.withdrawn and (profile.versions is None or profile.versions.status is None):
                    yield (*here, "lookups", number, "withdrawn"), "needs `versions` of the profile, with a `status`"
            if place and (layout.also or layout.formats or layout.rows):
                yield here, "`also`, `formats` and `rows` belong to the subject's first declaration"


def _mistakes_of(subject: str, spec: Subject) -> _Mistakes:
    """The mistakes in one declaration of a subject."""
    yield from _unknown_columns(subject, spec)
    if subject in DATED and spec.files and not (spec.date or spec.date_from or spec.is_undated):
        yield (), "say which column dates its records (`date`, `date_from` or `is_undated`)"
    yield from _misplaced_names(spec)
    yield from _our_names(subject, spec)
    yield from _wrong_patterns(spec)
    yield from _unfit_for_format(spec)
    yield from _misplaced_observations(subject, spec)
    for name in spec.fixed_width.columns if spec.fixed_width else ():
        if name.startswith(("@", "$", "=")) or re.fullmatch(r"\d+-\d*", name):
            yield ("fixed_width", "columns", name), "a column's name begins with no @, $ or =, and is no place as 9-12"
    if spec.events and (subject != "adt_events" or not spec.columns):
        yield ("events",), "they belong to adt_events, and need its `columns`"
    if spec.events and not {"message_id"} & {*spec.columns, *spec.derived}:
        yield ("events",), "they need a `message_id`, as in derived = { message_id = [...] }"


def _unknown_columns(subject: str, spec: Subject) -> _Mistakes:
    """Our columns that the subject does not have."""
    known = canonical_columns(subject)
    named: dict[tuple[str | int, ...], str] = {
        **{
            (part, name): name
            for part in ("columns", "constants", "defaults", "derived", "formats", "limits", "patterns")
            for name in getattr(spec, part)
        },
        **{
            (part, place): name
            for part in ("required", "unavailable")
            for place, name in enumerate(getattr(spec, part))
        },
        **{("join", "columns", name): name for name in (spec.join.columns if spec.join else ())},
        **{("rows", place, name): name for place, row in enumerate(spec.rows) for name in row},
        **{
            ("events", place, "constants", name): name
            for place, event in enumerate(spec.events)
            for name in (*event.constants, *event.columns)
        },
        **{
            ("lookups", place, part): getattr(lookup, part)
            for place, lookup in enumerate(spec.lookups)
            for part in ("column", "on")
        },
        **({("date",): spec.date} if spec.date else {}),
    }
    for where, name in named.items():
        if name not in known:
            yield where, f"'{name}' is not a column of raw_{subject}; it has {', '.join(known)}"


def _misplaced_names(spec: Subject) -> _Mistakes:
    """Source names that the format cannot have: paths in CSV, columns in JSON, elements of no list."""
    for name in sorted(spec.named):
        is_path = name.startswith("$")
        if unknown := _CODES.search(name):
            yield _place_of(spec, name), f"'{unknown[1]}' is no code map of this profile"
        if spec.fixed_width is not None and name not in spec.fixed_width.columns:
            known = ", ".join(spec.fixed_width.columns)
            yield _place_of(spec, name), f"'{name}' has no place in `fixed_width`; it has {known}"
        elif spec.format == "csv" and is_path:
            yield _place_of(spec, name), f"'{name}' is a JSON path; CSV files have column names"
        if spec.format != "csv" and not is_path:
            yield _place_of(spec, name), f"'{name}' must be a JSON path, as in $.{name}"
        if name.startswith(ELEMENT) and spec.each is None and not _is_of_event(spec, name):
            yield _place_of(spec, name), f"'{name}' needs `each`, the list it is an element of"


def _our_names(subject: str, spec: Subject) -> _Mistakes:
    """Our names in `derived` where the source has another name for the column."""
    ours = set(canonical_columns(subject)) - {name for c in spec.columns for name in spec.source_names(c)}
    for column, parts in spec.derived.items():
        for name in sorted(_parts_of(parts) & ours):
            if named := spec.source_names(name):
                yield ("derived", column), f"'{name}' is our name; here it is called {' or '.join(named)}"
            elif name in spec.derived:
                yield ("derived", column), f"'{name}' is our name, and derived itself; name columns of the source"


def _wrong_patterns(spec: Subject) -> _Mistakes:
    """Regular expressions that are none, or match no value."""
    patterns: dict[tuple[str | int, ...], str | None] = {
        **{("patterns", name): pattern for name, pattern in spec.patterns.items()},
        **{
            ("lookups", place, part): getattr(lookup, part)
            for place, lookup in enumerate(spec.lookups)
            for part in ("pattern", "value_pattern")
        },
    }
    for where, pattern in patterns.items():
        if pattern is not None and (wrong := _wrong_pattern(pattern)):
            yield where, wrong


def _unfit_for_format(spec: Subject) -> _Mistakes:
    """Keys that go with the other format, or not with each other."""
    is_csv = spec.format == "csv"
    checks: tuple[tuple[bool, tuple[str | int, ...], str], ...] = (
        (bool(spec.lookups) and is_csv, ("lookups",), "CSV files are completed with `join`"),
        (
            spec.is_element_itself and spec.each is None,
            ("is_element_itself",),
            "needs `each`, the list whose elements the record is like",
        ),
        (bool(spec.each) and is_csv, ("each",), "CSV records hold no lists"),
        (spec.join is not None and not is_csv, ("join",), "only CSV files are joined"),
        (
            spec.join is not None and spec.is_selective and not spec.join.is_lookup,
            ("join", "is_lookup"),
            "must be true where only some records of the files are taken",
        ),
        (
            any(name.startswith(ELEMENT) for name in spec.where),
            ("where",),
            "whole records are taken or left; `each` takes all elements of its list",
        ),
        (spec.fixed_width is not None and not is_csv, ("fixed_width",), "only files in the place of CSV have it"),
        (spec.fixed_width is not None and spec.join is not None, ("join",), "files of fixed width are not joined"),
        (
            spec.fixed_width is not None and (spec.names_line > 1 or spec.delimiter != "," or spec.sheet is not None),
            ("fixed_width",),
            "it has no header, delimiter or sheet; `fixed_width.first_line` says where the records begin",
        ),
        (
            spec.encoding is not None and not _is_encoding(spec.encoding),
            ("encoding",),
            f"'{spec.encoding}' is not an encoding that Python knows, as in cp1252",
        ),
    )
    yield from ((where, what) for is_wrong, where, what in checks if is_wrong)


def _misplaced_observations(subject: str, spec: Subject) -> _Mistakes:
    """Vital signs of another subject, or that there are not."""
    if (spec.payload or spec.observations) and subject != "vitals":
        yield ("observations" if spec.observations else "payload",), "only vitals have them"
    vital_signs: dict[tuple[str | int, ...], str] = {("payload", name): name for name in spec.payload}
    if spec.observations:
        vital_signs |= {("observations", "codes", code): name for code, name in spec.observations.gathered.items()}
    for where, name in vital_signs.items():
        if name not in (*MEASURED, *SCORED):
            yield where, f"'{name}' is not a vital sign; there are {', '.join((*MEASURED, *SCORED))}"


def _place_of(spec: Subject, name: str) -> tuple[str | int, ...]:
    """Where a declaration uses a source name."""
    for column in spec.columns:
        if name in spec.source_names(column):
            return ("columns", column)
    for column, parts in spec.derived.items():
        if name in _parts_of(parts):
            return ("derived", column)
    for vital_sign, parameter in spec.payload.items():
        if name == parameter.column:
            return ("payload", vital_sign)
    if name in spec.where:
        return ("where", name)
    for place, event in enumerate(spec.events):
        if name in event.named:
            return ("events", place)
    long = spec.observations
    if long is not None:
        for key in ("code", "value", "unit", "by", "id", "status", "written", "comparator"):
            names = getattr(long, key)
            if name == names or (isinstance(names, tuple) and name in names):
                return ("observations", key)
    return ("join", "on")


def _is_of_event(spec: Subject, name: str) -> bool:
    """Whether a source name belongs to an event that makes one of each element."""
    return any(event.each is not None and name in event.named for event in spec.events)


def _wrong_pattern(pattern: str) -> str | None:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        return f"not a regular expression: {error}"
    return None if groups else "needs a group, in parentheses, that matches the value"


def _is_encoding(name: str) -> bool:
    import codecs

    try:
        codecs.lookup(name)
    except LookupError:
        return False
    return True
