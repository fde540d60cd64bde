"""Rules as data, and how a subject's records are validated by them.

Belongs here: what a rule is, and the tools every subject uses: mapping codes, splitting validated records into
cleaned and quarantined ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType
from typing import Literal

import narwhals as nw

from hospital_assets.assets import dedupe
from hospital_assets.contracts import CONTRACTS, PARTITION_COLUMN, RECORD_PLACE
from hospital_assets.landing.clocks import split_sums, with_point, without_sum_is_zero
from hospital_assets.landing.profile import NULLS, Subject, Sum, canonical_columns
from hospital_assets.landing.registry import Profiles
from hospital_assets.warehouse.database import Period
from hospital_assets.warehouse.dialect import (
    NUMBER_FORMATS,
    Frame,
    checkpoint,
    parse_dates,
    parse_numbers,
    parse_wall_clocks,
    resolve_instants,
)

Action = Literal["quarantine", "duplicate", "correct", "flag"]


@dataclass(frozen=True)
class Rule:
    """One cleaning rule.

    Attributes:
        name: stands in `rule` or `quality_codes`.
        description: the rule in words, for people.
        action: quarantine moves the record there; duplicate too, as a repetition; correct and flag
            keep it and leave a code.
        source: where the rule comes from.
    """

    name: str
    description: str
    action: Action
    source: str = ""


#: Rules of the reading itself; every subject has them.
READING_RULES = (
    Rule("unreadable_line", "The line is not a record of its file's format.", "quarantine"),
    Rule("wrong_field_count", "The line has more or fewer fields than the header.", "quarantine"),
    Rule("unclosed_quote", "The line opens a quote that no line closes.", "quarantine", "RFC 4180"),
    Rule("unmatched_join", "A companion record has no main record to belong to.", "quarantine"),
    Rule("outside_limits", "A number lies outside of what its source's profile says it can be.", "quarantine"),
)
PLACEHOLDER = Rule(
    "placeholder_date",
    "A clock or date is one that stands for none: 9999-12-31, 1900-01-01, 1753-01-01, 0001-01-01, 0000-00-00, or what "
    "the profile names (`placeholders`). It is not used.",
    "flag",
)
OUTSIDE_PERIOD = Rule(
    "outside_service_period",
    "The day of the event is none of the data directory's service days (first_service_date to last_service_date in "
    "hospital.toml): it is left out, and counted on no other day.",
    "quarantine",
)
HOSPITAL_UNKNOWN = Rule("hospital_unknown", "The hospital is not one of the network's hospitals.", "quarantine")
DEPARTMENT_MAPPED = Rule("department_mapped", "The department's spelling was translated.", "correct")
DEPARTMENT_UNKNOWN = Rule("department_unknown", "No such department is known.", "flag")
#: Days that programs write for want of one, beside those of the year 1, and the year from which on nothing ends.
_PLACEHOLDER_DAYS = (date(1753, 1, 1), date(1900, 1, 1))
_ENDLESS_YEAR = 9999
CLOCK_AMBIGUOUS = Rule(
    "clock_ambiguous",
    "A clock can be read in two ways: by two formats of its profile, or it is written as ISO 8601 in a source that "
    "writes day and month first, and its day could be the month (as spreadsheets leave it). The first reading counts.",
    "flag",
)
DUPLICATE = Rule(dedupe.DUPLICATE, "The same record was landed before.", "duplicate")
SUPERSEDED = Rule(dedupe.SUPERSEDED, "A newer record of the same thing was landed.", "duplicate")


def sources_of(profiles: Profiles, subject: str, declares: Callable[[Subject], bool]) -> list[str]:
    """Names of the profiles whose declaration of a subject is of a kind."""
    return [
        name
        for name, profile in profiles.items()
        if subject in profile.subjects and declares(profile.subjects[subject])
    ]


def layouts_of(profiles: Profiles, subject: str) -> Iterator[tuple[str, Subject]]:
    """Each way in which a source delivers a subject, with the name of its profile."""
    for name, profile in profiles.items():
        if subject in profile.subjects:
            yield from ((name, layout) for layout in profile.subjects[subject].layouts)


def has_code(*rules: Rule) -> nw.Expr:
    """Whether `quality_codes` names any of some rules."""
    codes_in = nw.col("quality_codes")
    named = (codes_in.str.contains(rule.name, literal=True) for rule in rules)
    return nw.coalesce(nw.any_horizontal(*named, ignore_nulls=True), nw.lit(False))


def read_clocks(frame: Frame, profiles: Profiles, subject: str, columns: Mapping[str, str], suffix: str = "") -> Frame:
    """Add wall clocks read by the formats of each record's source; see `parse_wall_clocks`, `without_placeholders`.

    A clock that a profile derives as a sum gets its minutes, too, for `resolve_instants` to add.

    Args:
        frame: records with `source_profile`.
        columns: new wall clock column -> text column.
        suffix: of text columns that were renamed out of the way.
    """
    summed = {f"{column}{suffix}" for column in derived_clocks(profiles, subject)}
    formats = _formats(profiles, subject, columns, suffix)
    frame, texts = split_sums(frame, columns, summed)
    frame = parse_wall_clocks(frame, texts, {texts[clock]: formats[text] for clock, text in columns.items()})
    frame = without_placeholders(frame, profiles, texts)
    sums = {f"{clock}_plus_minutes": f"{clock}_minutes" for clock, text in texts.items() if text != columns[clock]}
    return without_sum_is_zero(read_numbers(frame, profiles, subject, sums), sums) if sums else frame


def derived_clocks(profiles: Profiles, subject: str) -> dict[str, list[str]]:
    """Our columns that profiles derive as a clock plus minutes -> the profiles."""
    found: dict[str, list[str]] = {}
    for name, layout in layouts_of(profiles, subject):
        for column, how in layout.derived.items():
            if isinstance(how, Sum):
                found.setdefault(column, []).append(name)
    return found


def clock_doubts(
    frame: Frame, profiles: Profiles, subject: str, columns: Mapping[str, str]
) -> tuple[Frame, list[nw.Expr]]:
    """For each clock, whether its text can be read in two ways that are not the same moment.

    That is where several formats of its source read it, and where it is written as ISO 8601 although the source
    writes only day or month first: spreadsheets that take 02/03 for February leave such dates, with the two swapped.

    Args:
        frame: with the wall clocks, as `read_clocks` adds them.
        columns: wall clock column -> text column.
    """
    formats = _formats(profiles, subject, columns, "")
    doubts: list[nw.Expr] = []
    for clock, text in columns.items():
        written = {
            source: [f for f in known if f not in NUMBER_FORMATS] for source, known in formats[text].items() if known
        }
        rivals = {source: _rivals(known) for source, known in written.items()}
        for place in range(max(map(len, rivals.values()), default=0)):
            by_source = {source: (known[place],) for source, known in rivals.items() if place < len(known)}
            other = f"{clock}_read_{place}"
            frame = parse_wall_clocks(frame, {other: text}, {text: by_source})
            doubts.append(nw.col(other) != nw.col(clock))
        day_first = [
            source for source, known in written.items() if known and not any(f.startswith("%Y") for f in known)
        ]
        if day_first:
            local = nw.col(clock).dt
            could_be_swapped = (local.day() <= 12) & (local.day() != local.month())
            is_iso = nw.col(text).str.contains(r"^\s*\d{4}-")
            doubts.append(nw.when(is_one_of("source_profile", day_first)).then(is_iso & could_be_swapped))
    return frame, doubts or [nw.lit(False)]


def _rivals(formats: Sequence[str]) -> list[str]:
    """Those of some formats that may read one text as different days: they differ in the order of day and month."""
    shapes = [re.sub("%[dmyY]", "#", known.replace("%-", "%")) for known in formats]
    return [known for known, shape in zip(formats, shapes, strict=True) if shapes.count(shape) > 1]


def read_numbers(frame: Frame, profiles: Profiles, subject: str, columns: Mapping[str, str]) -> Frame:
    """Add numbers read by the decimal mark of each record's source; see `parse_numbers`."""
    with_comma = sources_of(profiles, subject, lambda spec: any(own.decimal == "," for own in spec.layouts))
    if not with_comma:
        return parse_numbers(frame, columns)
    has_comma = nw.col("source_profile").is_in(with_comma)
    return parse_numbers(
        frame.with_columns(
            **{
                f"{number}_pointed": nw.when(has_comma).then(with_point(nw.col(text))).otherwise(nw.col(text))
                for number, text in columns.items()
            }
        ),
        {number: f"{number}_pointed" for number in columns},
    ).drop([f"{number}_pointed" for number in columns])


def read_dates(
    frame: Frame, profiles: Profiles, subject: str, columns: Mapping[str, str], *, from_the_beginning: bool = False
) -> Frame:
    """Add dates read by the formats of each record's source; see `parse_dates`, `without_placeholders`.

    Args:
        frame: records with `source_profile`.
        columns: new date column -> text column.
        from_the_beginning: whether the dates say since when something holds: 1900-01-01 is since ever then.
    """
    frame = parse_dates(
        frame,
        columns,
        {
            text: {name: ("%Y-%m-%d", *own) for name, own in by_source.items()}
            for text, by_source in _formats(profiles, subject, columns).items()
        },
    )
    return frame if from_the_beginning else without_placeholders(frame, profiles, columns)


def without_placeholders(frame: Frame, profiles: Profiles, columns: Mapping[str, str]) -> Frame:
    """Make clocks and dates null that stand for none, and add `<column>_is_placeholder` for each.

    Args:
        frame: records with `source_profile`, the read columns and their texts.
        columns: read column -> text column.
    """
    own = _placeholders(profiles)

    def stands_for_none(read: str, text: str) -> nw.Expr:
        day = nw.col(read).dt.date()
        landed = nw.col(text).str.strip_chars().str.to_lowercase()
        return nw.any_horizontal(
            (day.dt.year() >= _ENDLESS_YEAR) | (day.dt.year() <= 1),
            *(day == nw.lit(none) for none in _PLACEHOLDER_DAYS),
            nw.col(text).str.starts_with("0000-00-00"),
            *((nw.col("source_profile") == name) & landed.is_in(texts) for name, texts in own.items()),
            ignore_nulls=True,
        )

    frame = frame.with_columns(
        **{f"{read}_is_placeholder": stands_for_none(read, text) for read, text in columns.items()}
    )
    return frame.with_columns(
        **{read: nw.when(~nw.col(f"{read}_is_placeholder")).then(nw.col(read)) for read in columns}
    )


def _placeholders(profiles: Profiles) -> dict[str, list[str]]:
    """Source -> texts that stand for none there, trimmed, in small letters."""
    return {
        name: [text.strip().lower() for text in profile.placeholders]
        for name, profile in profiles.items()
        if profile.placeholders
    }


def placeholders(*read: str) -> tuple[Rule, nw.Expr]:
    """The reason of clocks and dates that are null because they stood for none, for `codes`; see `read_clocks`."""
    return PLACEHOLDER, nw.any_horizontal(*(nw.col(f"{column}_is_placeholder") for column in read), ignore_nulls=True)


def _formats(
    profiles: Profiles, subject: str, columns: Mapping[str, str], suffix: str = ""
) -> dict[str, dict[str, tuple[str, ...]]]:
    """Text column -> source -> strptime formats beyond ISO 8601."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for text in columns.values():
        column = text.removesuffix(suffix)
        for name, profile in profiles.items():
            spec = profile.subjects.get(subject)
            own = spec.formats.get(column) if spec is not None else None
            formats = profile.timestamp_formats if own is None else own
            found.setdefault(text, {})[name] = formats
    return found


def outside_period(period: Period | None, local: str) -> nw.Expr:
    """Whether the wall clock `local` lies on none of the service days; never where nobody says which they are."""
    if period is None:
        return nw.lit(False)
    day = nw.col(local).dt.date()
    return (day < nw.lit(period.first)) | (day >= nw.lit(period.end))


def day_end(clock: str) -> dict[str, nw.Expr]:
    """The wall clock `_day_end`: the end of the day of another one that is known by its day alone (`_is_day`)."""
    return {
        "_day_end": nw.when(nw.col("_is_day")).then(nw.col(clock).dt.offset_by("1439m")),
        "_day_end_offset_minutes": nw.col(f"{clock}_offset_minutes"),
    }


def at_the_latest(at: str) -> nw.Expr:
    """The instant `at`; of what is known by its day alone (`_is_day`) the latest moment it can have been.

    That is `_day_end_at`, or `recorded_at` if it was written that day.
    """
    was_written_that_day = (nw.col("recorded_at") >= nw.col(at)) & (nw.col("recorded_at") <= nw.col("_day_end_at"))
    return (
        nw.when(~nw.col("_is_day"))
        .then(nw.col(at))
        .when(was_written_that_day)
        .then(nw.col("recorded_at"))
        .otherwise(nw.col("_day_end_at"))
    )


def in_future(profiles: Profiles, at: str, written: str) -> nw.Expr:
    """Whether something happened too long after its record was written, as its profile has it.

    Dates that were shifted for de-identification are never in the future.
    """
    by_grace: dict[int, list[str]] = {}
    for name, profile in profiles.items():
        if not profile.dates_shifted:
            by_grace.setdefault(profile.latest_after_written_minutes, []).append(name)
    return nw.any_horizontal(
        *(
            (nw.col(at) > nw.col(written).dt.offset_by(f"{minutes}m")) & is_one_of("source_profile", names)
            for minutes, names in sorted(by_grace.items())
        ),
        ignore_nulls=True,
    )


def first_broken(*conditions: tuple[Rule, nw.Expr]) -> nw.Expr:
    """The name of the first rule (in the order given) whose condition holds; null when none does."""
    return nw.coalesce(
        nw.col("problem"), *(nw.when(condition).then(nw.lit(rule.name)) for rule, condition in conditions)
    )


def codes(*conditions: tuple[Rule, nw.Expr]) -> nw.Expr:
    """Names of all rules whose condition holds, as `a;b`; empty when none does."""
    return nw.concat_str(
        *(nw.when(condition).then(nw.lit(rule.name)) for rule, condition in conditions),
        separator=";",
        ignore_nulls=True,
    )


# Comparisons one by one, because engines take a list or a map of constants apart for each row: five
# times as long, on DuckDB, where most values are among the first.


def is_one_of(column: str, values: Sequence[str]) -> nw.Expr:
    """Whether a text column is one of a few constants; null where it is null."""
    return nw.any_horizontal(*(nw.col(column) == value for value in values), ignore_nulls=False)


def translated(column: str, table: Mapping[str, str]) -> nw.Expr:
    """A text column translated; case and surrounding blanks do not matter, null where nothing fits.

    Args:
        table: text in capitals, trimmed -> what it means.
    """
    written = nw.col(column)
    in_capitals = written.str.strip_chars().str.to_uppercase()
    # What is written as we write it needs no trimming.
    meanings = dict.fromkeys(m for text, m in table.items() if text == m.upper())
    return nw.coalesce(
        *(nw.when(written == meaning).then(nw.lit(meaning)) for meaning in meanings),
        *(nw.when(in_capitals == text).then(nw.lit(m)) for text, m in table.items()),
    )


def mapped(
    profiles: Profiles,
    column: str,
    *,
    domain: Sequence[str] = (),
    standard: Mapping[str, str] = MappingProxyType({}),
    landed: str | None = None,
) -> nw.Expr:
    """A landed code translated by the code maps of the profiles; null where nothing fits.

    Case and surrounding blanks do not matter. A value that already is canonical (in `domain`, or
    the target of a map) stands for itself.

    Args:
        column: the text column, and what code maps call it.
        standard: landed code -> our code, as every source may say it; profiles come first.
        landed: the text column, where it is called otherwise.
    """
    by_table: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for profile in profiles.values():
        codes_of = {**standard, **profile.code_maps.get(column, {})}
        table = {meaning.strip().upper(): meaning for meaning in (*codes_of.values(), *domain)}
        table |= {landed.strip().upper(): meaning for landed, meaning in codes_of.items()}
        if table:
            by_table.setdefault(tuple(table.items()), []).append(profile.name)
    if not by_table:
        return nw.lit(None, dtype=nw.String)
    return nw.coalesce(
        *(
            nw.when(is_one_of("source_profile", names)).then(translated(landed or column, dict(table)))
            for table, names in by_table.items()
        )
    )


def is_silent(column: str) -> nw.Expr:
    """Whether a text column says nothing, not even that there is nothing."""
    text = nw.col(column).str.strip_chars()
    return text.is_null() | (text == "")


def is_blank(column: str) -> nw.Expr:
    """Whether a text column holds nothing, or HL7's null, which says that there is nothing."""
    return is_silent(column) | (nw.col(column).str.strip_chars() == '""')


def is_unstated(column: str) -> nw.Expr:
    """Whether an identifier or a clock is blank, or what programs write for want of one. People may be called Null."""
    written = nw.col(column).str.strip_chars()
    return is_blank(column) | nw.any_horizontal(*(written == null for null in NULLS), ignore_nulls=True)


def text(column: str) -> nw.Expr:
    """A text column without surrounding blanks; null when nothing is left."""
    return nw.when(~is_blank(column)).then(nw.col(column).str.strip_chars())


def completed(
    raw: Frame, profiles: Profiles, subject: str, thing: Sequence[str], of_its_day: Sequence[str] = ()
) -> Frame:
    """Complete the records of sources that state only what they know (`is_partial`).

    A value that a record does not state is that of the newest earlier record of the same thing that
    states it; HL7's null (`""`) states that there is none. What other sources say is left alone.

    Args:
        raw: raw records of the subject.
        thing: columns that identify what a record is about.
        of_its_day: columns that are completed from records of the same service day only.
    """
    partial = sources_of(profiles, subject, lambda spec: spec.is_partial)
    if not partial:
        return raw
    is_partial = nw.col("source_profile").is_in(partial)
    zones = [profiles[name].time_zone for name in partial]
    records = raw.filter(is_partial).with_columns(
        _written_text=nw.col("recorded_at"),
        _zone=nw.col("source_profile").replace_strict(partial, zones, default=None, return_dtype=nw.String),
    )
    records = read_clocks(records, profiles, subject, {"_written": "_written_text"}, suffix="_text")
    records = resolve_instants(records, {"_written_at": "_written"}, "_zone")
    order = ["_written_at", *RECORD_PLACE]
    stated = [name for name in canonical_columns(subject) if name not in (*thing, "recorded_at")]
    day = [PARTITION_COLUMN] if PARTITION_COLUMN in raw.columns else []
    records = records.with_columns(
        nw.col(name)
        .fill_null(strategy="forward")
        .over("source_profile", *thing, *(day if name in of_its_day else []), order_by=order)
        for name in stated
    )
    names = raw.columns
    return nw.concat([raw.filter(~is_partial).select(*names), records.select(*names)], how="vertical")


def in_order(frame: Frame, clocks: Sequence[str]) -> Frame:
    """Read clocks of a repeated hour so that they follow each other, each taking the first reading that does.

    Args:
        frame: with the instants `clocks` and their other readings `<clock>_second`.
        clocks: in the order in which they are reached.
    """
    # Step by step: what one clock is decides about the next.
    frame = frame.with_columns(_latest=nw.col(clocks[0]))
    for clock in clocks[1:]:
        first, second = nw.col(clock), nw.col(f"{clock}_second")
        is_second = (first < nw.col("_latest")) & (second >= nw.col("_latest"))
        frame = frame.with_columns(nw.when(is_second).then(second).otherwise(first).alias(clock)).with_columns(
            _latest=nw.max_horizontal("_latest", clock)
        )
    return frame.drop("_latest")


def identity(profiles: Profiles, column: str) -> nw.Expr:
    """An identifier as it is known in the whole network: `namespace:id`; null where none is stated.

    What stands for none (`is_unstated`, and what the profile names in `placeholders`) would be one patient otherwise.

    Numbers are given by sources, and the same number of two sources is two things. A source whose
    namespace is empty (`native`) keeps its numbers as they are; sources that share a namespace share
    their patients and visits. Merging numbers of one namespace is what A40 is for.
    """
    source = nw.col("source_profile")
    by_source = {
        name: f"{profile.identity_namespace}:" if profile.identity_namespace else ""
        for name, profile in profiles.items()
    }
    prefix = nw.coalesce(
        *(nw.when(source == name).then(nw.lit(prefix)) for name, prefix in by_source.items()),
        # A profile that is gone leaves its records in a namespace of their own.
        nw.concat_str(source, nw.lit(":")),
    )
    number = nw.col(column).str.strip_chars()
    stand_for_none = [
        (source == name) & (number.str.to_lowercase() == none)
        for name, texts in _placeholders(profiles).items()
        for none in texts
    ]
    is_none = nw.any_horizontal(is_unstated(column), *stand_for_none, ignore_nulls=True)
    return nw.when(~is_none).then(nw.concat_str(prefix, number, ignore_nulls=True))


def with_hospital(raw: Frame, hospitals: Frame, profiles: Profiles) -> Frame:
    """Records with their hospital's identifier in the network, and its time zone; null where it is unknown."""
    return raw.with_columns(hospital_id=identity(profiles, "hospital_id")).join(
        hospitals.select("hospital_id", "time_zone"), on="hospital_id", how="left"
    )


def split(validated: Frame, raw: Frame, subject: str, rules: Sequence[Rule]) -> tuple[Frame, Frame]:
    """Validated records as the subject's cleaned and quarantine tables.

    Args:
        validated: all raw records with `rule` (null = sound) and the cleaned columns.
        raw: the raw records, for the landed text of those quarantined.
        rules: every rule that may stand in `rule`.
    """
    cleaned = CONTRACTS[f"cleaned_{subject}"]
    quarantine = CONTRACTS[f"quarantine_{subject}"]
    known = {rule.name: rule for rule in (*READING_RULES, DUPLICATE, SUPERSEDED, *rules)}
    # Both tables come from one evaluation of the plan. The landed text, most of the bytes, joins
    # only the few records quarantined instead of going through every step.
    once = checkpoint(validated.select(nw.col(*dict.fromkeys(["rule", *cleaned.column_names]))))
    sound = once.filter(nw.col("rule").is_null()).select(nw.col(*cleaned.column_names))
    quarantined = (
        once.filter(~nw.col("rule").is_null())
        .join(raw.select(*RECORD_PLACE, "record"), on=list(RECORD_PLACE), how="left")
        .with_columns(
            reason=nw.col("rule").replace_strict(
                list(known), [rule.description for rule in known.values()], default=None, return_dtype=nw.String
            ),
            is_duplicate=nw.col("rule").is_in([rule.name for rule in known.values() if rule.action == "duplicate"]),
        )
        .select(nw.col(*quarantine.column_names))
    )
    return sound, quarantined
