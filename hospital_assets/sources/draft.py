"""A first draft of a source profile, from a sample of what the source sends.

Columns are matched to ours by their names (see `synonyms.toml`) and by the look of
their values; a comment marks whatever is a guess. Pure functions of text. A draft is made to be
read, corrected and tried with `hospital profiles test`, not to be trusted.
"""

from __future__ import annotations

import csv
import difflib
import functools
import io
import itertools
import json
import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from hospital_assets.landing.clocks import MIDNIGHT, NO_DAY
from hospital_assets.landing.content import as_json_lines
from hospital_assets.landing.headers import distinct, filled_to_the_right, joined_names, with_line_feeds
from hospital_assets.landing.profile import NULLS, VISIT_CLOCKS, Profile, Subject, parse_profile
from hospital_assets.landing.workbooks import csv_content
from hospital_assets.sources.readings import Reading, has_no_time, reading_of, readings
from hospital_assets.warehouse.dialect import NUMBER_FORMATS

#: How many records are looked at.
_SAMPLE = 2000
#: How many lines of titles may stand above a header.
_MOST_TITLES = 30
#: How alike two names must be (0 to 1) to mean the same.
_ALIKE = 0.84

_WORDS = tomllib.loads(resources.files(__package__).joinpath("synonyms.toml").read_text(encoding="utf-8"))
#: Subject -> our column -> how sources call it.
SYNONYMS: Mapping[str, Mapping[str, Sequence[str]]] = _WORDS["columns"]
#: Vital sign -> how sources call its column, and the unit where its numbers say nothing else.
VITAL_SIGNS: Mapping[str, tuple[Sequence[str], str | None]] = {
    name: (stated["names"], stated.get("unit")) for name, stated in _WORDS["vital_signs"].items()
}
#: Subject -> our column -> names that say little: taken where nothing else fits.
_WEAK: Mapping[str, Mapping[str, Sequence[str]]] = _WORDS["weak"]
#: Words that say whose a column is: `patient_gender` is a gender.
_QUALIFIERS = frozenset(_WORDS["words"]["qualifiers"])
_DATE_WORDS = frozenset(_WORDS["words"]["date"])
_TIME_WORDS = frozenset(_WORDS["words"]["time"])
_WAIT_WORDS: Sequence[str] = _WORDS["words"]["wait"]
#: Our column -> what landed codes of any source mean.
_CODES: Mapping[str, Mapping[str, str]] = {
    column: {code: meaning for meaning, codes in meanings.items() for code in codes}
    for column, meanings in _WORDS["codes"].items()
}
#: What a file of a subject cannot do without.
_ESSENTIAL = {
    "er_visits": ("patient_id", "arrival_time"),
    "patients": ("patient_id", "sex"),
    "vitals": ("patient_id", "measured_at"),
    "diagnoses": ("patient_id", "icd_code"),
    "adt_events": ("patient_id", "event_type", "event_at"),
}
_CLOCKS = {
    "er_visits": "arrival_time",
    "vitals": "measured_at",
    "diagnoses": "encounter_date",
    "adt_events": "visit_start_at",
    "patients": "recorded_at",
}


@dataclass
class Draft:
    """A drafted profile.

    Attributes:
        text: TOML with comments; it parses.
        subjects: what the file was taken for.
    """

    text: str
    profile: Profile
    subjects: tuple[str, ...]
    doubts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Sample:
    """Some records of a file: source name -> values that are not blank."""

    values: Mapping[str, Sequence[str]]
    format: str
    delimiter: str
    encoding: str
    header_line: int = 1
    header_rows: int = 1


def draft_profile(
    name: str, path: Path, time_zone: str = "America/New_York", database: str = "", sql: str = ""
) -> Draft:
    """Infer a profile from a sample file, or from the first rows of a query that were made one.

    Args:
        name: of the profile, and of its landing folder.
        path: a CSV file with a header, or JSON objects.
        time_zone: IANA zone of the hospital's clocks; nothing in a file tells it.
        database: of a query: the environment variable that has the database's URL.
        sql: of a query.

    Raises:
        ValueError: the file has no header or no columns that look like anything we know.
        UnreadableError: the bytes are no text.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise ValueError(f"'{name}' cannot be a folder's name: lower-case letters, digits, hyphens")
    sample = _sampled(path)
    is_american = time_zone.startswith(("America/", "US/", "Pacific/Honolulu"))
    matched = {subject: _matches(sample, subject) for subject in SYNONYMS}
    doubts: list[str] = []
    subjects = _subjects(matched, sample)
    if "er_visits" in subjects or not subjects or _looks_like_visits(matched, subjects, sample):
        _add_weak(matched["er_visits"], "er_visits", sample)
        joined = _joined_clocks(matched["er_visits"], sample, doubts)
        is_understood = "arrival_time" in {**matched["er_visits"], **joined} and "patient_id" in matched["er_visits"]
        # A list of patients that is one by its look stays one.
        if not is_understood:
            doubts.insert(0, _not_understood(matched["er_visits"], joined, sample))
        subjects = ("patients", "er_visits") if "patients" in subjects else ("er_visits",)
    else:
        joined = {}
    doubts += _identifier_doubts({c: n for s in subjects for c, n in matched[s].items()}, sample)
    if any(name == "" for name in sample.values):
        doubts.append("a column has no name (an index, as programs write it); it is not used")
    clocks = _readings(sample, [matched[s] for s in subjects], joined, doubts, is_american=is_american)
    formats = list(dict.fromkeys(f for reading in clocks.values() for f in reading.formats))
    body = [_subject(s, matched[s], sample, path, subjects, doubts, joined, is_american) for s in subjects]
    doctors = matched["er_visits"].get("doctor_id") if "er_visits" in subjects else None
    coded = {c: n for s in subjects for c, n in matched[s].items()}
    maps = _code_maps(sample, coded | (_vital_columns(sample) if "vitals" in subjects else {}), doubts)
    origin = "a query" if database else path.name
    head = [
        f"# Drafted from {origin}; read it, correct it, and try it: hospital profiles test {name} FILE",
        *(f"# LOOK: {doubt}" for doubt in doubts),
        f'name = "{name}"',
        f'description = "Drafted from {origin}."',
        f'time_zone = "{time_zone}"  # of the clocks in the files',
        *([f"timestamp_formats = {_toml(formats)}"] if formats else []),
        "",
        *(_query(subjects[-1], database, sql) if database else []),
        *_hospitals(sample, matched[subjects[0]], path, time_zone, "er_visits" in subjects),
        *(_doctors(doctors, matched["er_visits"].get("hospital_id"), sample, path) if doctors else []),
    ]
    text = "\n".join([*head, *itertools.chain.from_iterable(body), *maps]).rstrip() + "\n"
    return Draft(text, parse_profile(text, f"{name}.toml"), subjects, doubts)


# Looking at the sample ----------------------------------------------------------------------------


def _sampled(path: Path) -> _Sample:
    content = csv_content(path.resolve(), Subject(files=(path.name,), columns={}))
    if content.text.lstrip()[:1] in ("{", "["):
        lines = as_json_lines(content.text).splitlines()[:_SAMPLE]
        values: dict[str, list[str]] = {}
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            for inside, value in _flat(record, "$"):
                values.setdefault(inside, []).append(value)
        return _Sample(values, "jsonl", ",", content.encoding)
    lines = with_line_feeds(content.text).split("\n")[: _SAMPLE + _MOST_TITLES]
    if not any(line.strip() for line in lines):
        raise ValueError(f"{path.name} is empty")
    delimiter, place, width = max(((mark, *_header_of(lines, mark)) for mark in ",;\t|"), key=lambda found: found[2])
    if not width:
        delimiter = max(",;\t|", key=lambda mark: _header_of(lines, mark, header_rows=2)[1])
    rows, header_rows = _rows(lines, delimiter), 1
    of_two = _header_of(lines, delimiter, header_rows=2)
    place_of_two = _half_of(rows, place) if width else (of_two[0] if of_two[1] else None)
    if place_of_two is not None:
        place, header_rows = place_of_two, 2
        # What its names span, merged cells of a workbook say.
        spec = Subject(files=(path.name,), columns={}, delimiter=delimiter, header_line=place + 1, header_rows=2)
        lines = with_line_feeds(csv_content(path.resolve(), spec).text).split("\n")[: _SAMPLE + _MOST_TITLES]
        rows = _rows(lines, delimiter)
    rows = rows[place + header_rows - 1 :]
    header = rows[0] if rows else []
    if len(header) < 2 or _is_data(header):
        raise ValueError(
            f"{path.name}: no line among the first {_MOST_TITLES} is a header (column names, and below it as many "
            "values); deliver the file with column names, or write a profile with fixed_width where columns stand at "
            "fixed places (docs/sources.md)"
        )
    columns = {
        name: [row[n].strip() for row in rows[1:] if len(row) == len(header) and row[n].strip() not in ("", *NULLS)]
        for n, name in enumerate(distinct(header))
    }
    return _Sample(columns, "csv", delimiter, content.encoding, place + 1, header_rows)


def _rows(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter))


def _half_of(rows: Sequence[Sequence[str]], place: int) -> int | None:
    """Where the header begins that a row is one of two rows of; None where it is all of it."""
    header, below, next_row = (*rows[place : place + 3], [], [], [])[:3]
    above = rows[place - 1] if place else []
    names = [cell.strip() for cell in header if cell.strip()]
    fills = any(not cell.strip() and other.strip() for cell, other in zip(header, above, strict=False))
    is_repeated = len(set(names)) < len(names)
    if (fills or is_repeated) and len(above) == len(header) and sum(bool(cell.strip()) for cell in above) > 1:
        return place - 1
    # Records have figures; names have none.
    is_name = len(below) == len(header) and any(cell.strip() for cell in below) and not _is_data(below)
    return place if is_name and _is_data(next_row) else None


def _is_data(row: Sequence[str]) -> bool:
    """Whether a row holds values, not names: figures and dates."""
    return any(re.fullmatch(r"\s*[\d.,:/ +-]*\d[\d.,:/ +-]*\s*", cell) for cell in row)


def _header_of(lines: Sequence[str], delimiter: str, header_rows: int = 1) -> tuple[int, int]:
    """Where the header stands, as titles may be above it, and how sure that is.

    Returns:
        the place of its (first) line, and the number of its columns; 0 where there is no header.
    """
    rows = list(csv.reader(lines[: 2 * _MOST_TITLES], delimiter=delimiter))
    best = (0, 0)
    for place in range(min(len(rows), _MOST_TITLES)):
        header = rows[place : place + header_rows]
        if header_rows > 1 and (
            len({*map(len, header)}) > 1 or any(_is_data(part) or not any(part) for part in header)
        ):
            continue
        row = header[0] if header_rows == 1 else joined_names(filled_to_the_right(header))
        named = [cell for cell in row if cell.strip()]
        below = [o for o in rows[place + header_rows : place + header_rows + 10] if any(cell.strip() for cell in o)]
        fitting = sum(len(other) == len(row) for other in below)
        is_header = len(named) >= max(2, len(row) - 1) and not _is_data(row)
        if is_header and len(row) > best[1] and 2 * fitting >= len(below):
            best = (place, len(row))
    return best


def _flat(value: object, place: str) -> Iterable[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            key = name if re.fullmatch(r"\w+", name) else f'"{name}"'
            yield from _flat(inner, f"{place}.{key}")
    elif isinstance(value, (str, int, float)) and str(value).strip():
        yield place, str(value).strip()


@functools.lru_cache(maxsize=10_000)
def _words(name: str) -> str:
    """A column's name as words: `PatientID`, `patient_id` and `$.patient.id` are `patient id`."""
    name = name.removeprefix("$.")
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    plain = name.lower()
    for letter, written in (("ä", "ae"), ("ö", "oe"), ("ü", "ue"), ("ß", "ss"), ("ø", "oe"), ("å", "aa"), ("æ", "ae")):
        plain = plain.replace(letter, written)
    plain = unicodedata.normalize("NFKD", plain)
    return " ".join(re.findall(r"[a-z0-9]+", "".join(c for c in plain if not unicodedata.combining(c))))


def _unqualified(words: str) -> str:
    """Words without those before them that say whose the column is."""
    left = words.split()
    while len(left) > 1 and left[0] in _QUALIFIERS:
        left = left[1:]
    return " ".join(left)


def _likeness(name: str, synonyms: Sequence[str]) -> float:
    words = _words(name)
    squeezed = words.replace(" ", "")
    bare = _unqualified(words).replace(" ", "")
    best = 0.0
    for place, synonym in enumerate(synonyms):
        plain = _words(synonym).replace(" ", "")
        if squeezed == plain:
            return 1.0 - place / 1000
        if bare == plain:
            best = max(best, 0.965 - place / 10_000)
        elif len(plain) > 3:
            best = max(best, difflib.SequenceMatcher(None, squeezed, plain).ratio() * 0.95)
    return best


def _matches(sample: _Sample, subject: str) -> dict[str, str]:
    """Our column -> source name: the likeliest pairs first, each name used once."""
    pairs = sorted(
        (
            (_likeness(source, synonyms), column, source)
            for column, synonyms in SYNONYMS[subject].items()
            for source in sample.values
        ),
        key=lambda pair: (-pair[0], pair[1], pair[2]),
    )
    found: dict[str, str] = {}
    for likeness, column, source in pairs:
        if likeness < _ALIKE or column in found or source in found.values():
            continue
        if _looks_like(column, sample.values[source]):
            found[column] = source
    return found


def _looks_like(column: str, values: Sequence[str]) -> bool:
    """Whether values can be those of a column, whatever it is called."""
    some = values[:200]
    if not some:
        return True
    if column in ("encounter_date", "birth_date"):
        return _share(some, lambda v: bool(readings(v))) > 0.8
    if column.endswith(("_time", "_at")):
        return _share(some, lambda v: bool(readings(v))) > 0.6
    if column == "age_years":
        return _share(some, lambda v: 0 <= (-1 if (n := _number(v)) is None else n) < 200) > 0.8
    if column == "icd_code":
        return _share(some, lambda v: bool(re.fullmatch(r"[A-Za-z0-9][0-9A-Za-z.]{2,8}", v))) > 0.8
    if column in _CODES or column == "event_type":
        return len(set(some)) <= 25
    return True


def _share(values: Sequence[str], holds: Callable[[str], bool]) -> float:
    return sum(map(holds, values)) / len(values)


def _has_decimal_commas(sample: _Sample) -> bool:
    """Whether a column's numbers have a comma in them, and none a point."""
    numbers = [[v for v in values if re.fullmatch(r"-?\d+([.,]\d{1,2})?", v)] for values in sample.values.values()]
    fractions = [v for some in numbers for v in some if not v.lstrip("-").isdigit()]
    return bool(fractions) and all("," in v for v in fractions)


def _number(value: str) -> float | None:
    try:
        return float(value.replace(",", "."))
    except ValueError:
        return None


def _add_weak(found: dict[str, str], subject: str, sample: _Sample) -> None:
    """Take names that say little for columns that no other name fits."""
    for column, names in _WEAK[subject].items():
        for source, values in sample.values.items():
            fits = _likeness(source, names) > 0.95 and _looks_like(column, values)
            if column not in found and source not in found.values() and fits:
                found[column] = source


def _looks_like_visits(matched: Mapping[str, Mapping[str, str]], subjects: Sequence[str], sample: _Sample) -> bool:
    """Whether a file that was taken for patients alone has columns that only a visit has."""
    of_both = {"patient_id", "hospital_id", "recorded_at"}
    arrivals: dict[str, str] = {}
    _add_weak(arrivals, "er_visits", sample)
    clocks = sample.values[arrivals["arrival_time"]] if "arrival_time" in arrivals else ()
    has_clock = any(not has_no_time(known, value) for value in clocks[:50] for known in readings(value))
    has_wait = any(_is_wait(name, values) for name, values in sample.values.items())
    return subjects == ("patients",) and (has_clock or has_wait or bool(set(matched["er_visits"]) - of_both))


def _is_time_of_day(values: Sequence[str]) -> bool:
    times = r"((1899-12-3[01]|1900-01-0[01])[ T])?\d{1,2}[:.h]\d{2}(:\d{2}(\.\d+)?)?( ?[AaPp][Mm])?"
    return bool(values) and _share(values[:200], lambda v: bool(re.fullmatch(times, v))) > 0.8


def _is_date(values: Sequence[str]) -> bool:
    return (
        bool(values)
        and _share(values[:200], lambda v: any(has_no_time(k, v) for k in readings(v)) or v.endswith(" 00:00:00")) > 0.8
    )


def _joined_clocks(found: dict[str, str], sample: _Sample, doubts: list[str]) -> dict[str, tuple[str, str]]:
    """Clocks of a visit that stand in two columns: our column -> source names of its date and its time of day."""
    times = [name for name, values in sample.values.items() if _is_time_of_day(values)]
    dates = [name for name, values in sample.values.items() if _is_date(values)]
    joined: dict[str, tuple[str, str]] = {}
    for column in (f"{clock}_time" for clock in VISIT_CLOCKS):
        synonyms = (*SYNONYMS["er_visits"][column], *_WEAK["er_visits"].get(column, ()))
        if column in found and not _is_date(sample.values[found[column]]):
            continue
        alike = [(_likeness(time, synonyms), time) for time in times]
        likeness, time = max((pair for pair in alike if pair[0] >= _ALIKE), default=(0.0, ""))
        if not likeness:
            continue
        times.remove(time)
        own = {word for word in _words(time).split() if word not in _TIME_WORDS}
        date = next((d for d in dates if {w for w in _words(d).split() if w not in _DATE_WORDS} == own), None)
        if date is None and column in found:
            date = found[column]
        if date is None:
            date = joined["arrival_time"][0] if "arrival_time" in joined else dates[0] if len(dates) == 1 else None
            if date is not None and column != "arrival_time":
                doubts.append(
                    f"'{time}' has no date of its own; that of the arrival is taken, so that what is after midnight "
                    "comes out a day early and is flagged"
                )
        if date is not None:
            joined[column] = (date, time)
            found.pop(column, None)
    return joined


def _not_understood(found: Mapping[str, str], joined: Mapping[str, object], sample: _Sample) -> str:
    """What of a visit was not found, with the columns that could be it."""
    lacking = [c for c in ("patient_id", "arrival_time") if c not in found and c not in joined]
    used = {*found.values()}
    like_clocks = [
        n for n, values in sample.values.items() if n not in used and _looks_like("arrival_time", values[:50])
    ]
    rest = [n for n in sample.values if n and n not in used and n not in like_clocks]
    choices = {"patient_id": ("patient", rest), "arrival_time": ("arrival", like_clocks or rest)}
    return "; ".join(
        f"no {choices[column][0]} was understood: fill in {column} below"
        + (f" (candidates: {', '.join(choices[column][1][:8])})" if choices[column][1] else "")
        for column in lacking
    )


def _identifier_doubts(columns: Mapping[str, str], sample: _Sample) -> list[str]:
    """Identifiers of a sample that differ in case only: they are two."""
    doubts = []
    for column in ("patient_id", "visit_id", "doctor_id", "hospital_id"):
        values = set(sample.values.get(columns.get(column, ""), ()))
        if len({value.casefold() for value in values}) < len(values):
            doubts.append(f"identifiers in '{columns[column]}' differ in case only: they are different ones here")
    return doubts


def _readings(
    sample: _Sample,
    matched: Sequence[Mapping[str, str]],
    joined: Mapping[str, tuple[str, str]],
    doubts: list[str],
    *,
    is_american: bool,
) -> dict[str, Reading]:
    """How each column of clocks is written; what is doubtful about one is added to `doubts`."""
    columns = {
        source: sample.values.get(source, ())
        for found in matched
        for column, source in found.items()
        if column.endswith(("_time", "_at"))
    }
    for date, time in joined.values():
        days = [re.sub(MIDNIGHT, "", value) for value in sample.values[date]]
        times = [re.sub(NO_DAY, "", value) for value in sample.values[time]]
        columns[f"{date} {time}"] = [f"{d} {t}" for d, t in zip(days, times, strict=False)]
    found = {}
    choices: dict[tuple[str, ...], None] = {}
    for source, values in columns.items():
        if not values:
            continue
        reading = reading_of(values, source, is_american=is_american)
        found[source] = reading
        # The same doubt about each clock of a visit is one doubt.
        if reading.doubts and reading.formats not in choices:
            choices[reading.formats] = None
            doubts += [doubt for doubt in reading.doubts if doubt not in doubts]
        if reading.days > 0.5:
            doubts.append(
                f"'{source}' holds days without a time of day: unknown times, not midnight: visits count "
                "on their day, what is measured from or to such a clock is null; deliver it with the time"
            )
        counted = [known for known in reading.formats if known in NUMBER_FORMATS]
        if counted:
            doubts.append(f"'{source}' is taken for numbers of {_COUNTED[counted[0]]}")
    return found


#: What number formats count, in words.
_COUNTED = {
    "excel": "days, as spreadsheets store clocks (excel)",
    "epoch_s": "seconds since 1970 in UTC (epoch_s)",
    "epoch_ms": "milliseconds since 1970 in UTC (epoch_ms)",
}


def _subjects(matched: Mapping[str, Mapping[str, str]], sample: _Sample) -> tuple[str, ...]:
    """What a file holds: one subject, and patients where visits say who came."""
    fits = {subject: len(columns) for subject, columns in matched.items() if set(_ESSENTIAL[subject]) <= set(columns)}
    if "vitals" in fits and not _vital_columns(sample):
        del fits["vitals"]
    events = [s for s in ("vitals", "diagnoses", "adt_events", "er_visits") if s in fits]
    if "er_visits" in events:
        return ("patients", "er_visits") if "patients" in fits else ("er_visits",)
    if events:
        return (max(events, key=fits.__getitem__),)
    return ("patients",) if "patients" in fits else ()


def _vital_columns(sample: _Sample) -> dict[str, str]:
    return {
        vital_sign: source
        for vital_sign, (synonyms, _) in VITAL_SIGNS.items()
        for source in sample.values
        if _likeness(source, synonyms) > 0.95
    }


# Writing ------------------------------------------------------------------------------------------


def _toml(value: object) -> str:
    """A string or a list of strings as TOML; JSON is TOML there."""
    return json.dumps(value, ensure_ascii=False)


def _query(subject: str, database: str, sql: str) -> list[str]:
    since = [] if ":since" in sql else ["is_full = true  # all rows at each look; with `:since`, those that are new"]
    return [
        "[source]",
        f"database = {_toml(database)}",
        "",
        f"[source.queries.{subject}]",
        f"sql = {_toml(sql)}",
        *since,
        "",
    ]


def _files(path: Path) -> str:
    """A pattern for files like this one: digits are dates or counts, also behind a point."""
    ending = next((suffix for suffix in path.suffixes if not re.search(r"\d", suffix)), "")
    name = path.name[: path.name.index(ending)] if ending else path.name
    # What means something in a pattern is any letter.
    stem = re.sub(r"[\d_.-]*\d[\d_.-]*", "*", re.sub(r"[][*?]", "?", name)).rstrip("*_-")
    return _toml([f"{stem}*{ending}*" if ending else f"{stem}*"])


def _reading(sample: _Sample) -> list[str]:
    lines = [] if sample.format == "csv" else [f'format = "{sample.format}"']
    if sample.header_line > 1:
        lines.append(f"header_line = {sample.header_line}")
    if sample.header_rows > 1:
        lines.append(f"header_rows = {sample.header_rows}")
    if sample.delimiter != ",":
        lines.append(f"delimiter = {_toml(sample.delimiter)}")
    if _has_decimal_commas(sample):
        lines.append('decimal = ","')
    if sample.encoding == "latin-1":
        lines.append('encoding = "cp1252"  # not UTF-8; Windows, most likely')
    return lines


def _doctors(source: str, hospital: str | None, sample: _Sample, path: Path) -> list[str]:
    """The lines that take the doctors from the visits."""
    return [
        "# The visits are all that says which doctors there are; better is a list of them with names.",
        "[subjects.doctors]",
        f"files = {_files(path)}",
        *_reading(sample),
        f'where = {{ {_toml(source)} = ["*"] }}',
        *([] if hospital else ['constants = { hospital_id = "1" }']),
        'unavailable = ["department_id", "first_name", "last_name", "specialty", "npi", "hired_date"]',
        "[subjects.doctors.columns]",
        f"doctor_id = {_toml(source)}",
        *([f"hospital_id = {_toml(hospital)}"] if hospital else []),
        "",
    ]


def _hospitals(sample: _Sample, columns: Mapping[str, str], path: Path, zone: str, with_department: bool) -> list[str]:
    source = columns.get("hospital_id")
    if source is not None:
        name = _toml(["=Hospital", source])
        lines = [
            "# The file names its hospitals by number only; better is a list of them with names.",
            "[subjects.hospitals]",
            f"files = {_files(path)}",
            *_reading(sample),
            f'constants = {{ time_zone = "{zone}" }}',
            f"derived = {{ hospital_name = {name} }}",
            'unavailable = ["city", "state", "trauma_level", "annual_ed_visits_band"]',
            "[subjects.hospitals.columns]",
            f"hospital_id = {_toml(source)}",
            "",
        ]
        if with_department:
            department = _toml([source, "=Emergency"])
            lines += [
                "[subjects.departments]",
                f"files = {_files(path)}",
                *_reading(sample),
                'constants = { department_name = "Emergency", effective_date = "1900-01-01" }',
                f"derived = {{ department_id = {department} }}",
                'unavailable = ["bed_capacity", "mean_stay_hours"]',
                "[subjects.departments.columns]",
                f"hospital_id = {_toml(source)}",
                "",
            ]
        return lines
    lines = [
        "# Whose files these are.",
        "[[subjects.hospitals.rows]]",
        'hospital_id = "1"',
        'hospital_name = "Our hospital"',
        f'time_zone = "{zone}"',
        "",
    ]
    if with_department:
        lines += [
            '# The bed capacity, where known, makes occupancy a percentage: bed_capacity = "20"',
            "[subjects.departments]",
            "[[subjects.departments.rows]]",
            'department_id = "1-Emergency"',
            'hospital_id = "1"',
            'department_name = "Emergency"',
            'effective_date = "1900-01-01"',
            "",
        ]
    return lines


@dataclass
class _Declared:
    """What a draft declares of a subject so far.

    Attributes:
        columns: our column -> source name.
        constants: our column -> value.
        derived: our column -> TOML of what it is made of.
        tables: lines of further tables of the subject.
        doubts: what a person has to look at.
    """

    columns: dict[str, str]
    constants: dict[str, str] = field(default_factory=dict)
    derived: dict[str, str] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def _subject(
    subject: str,
    columns: Mapping[str, str],
    sample: _Sample,
    path: Path,
    subjects: Sequence[str],
    doubts: list[str],
    joined: Mapping[str, tuple[str, str]],
    is_american: bool,
) -> list[str]:
    """The lines that declare a subject; what was guessed is added to `doubts`."""
    declared = _Declared(dict(columns), doubts=doubts)
    if subject == "er_visits":
        for column, (date, time) in joined.items():
            declared.derived[column] = _table({"date": _toml(date), "time": _toml(time)})
    if subject != "patients" and "hospital_id" not in columns:
        declared.constants["hospital_id"] = "1"
    if complete := _COMPLETED.get(subject):
        complete(declared, sample)
    columns = declared.columns
    clock = _CLOCKS[subject]
    is_dated = clock in {**columns, **declared.derived} and columns.get(clock) != "@landed_at"
    # Without its clock a skeleton of visits is there to be filled in.
    is_undated = not is_dated and subject != "er_visits"
    required = [c for c in _ESSENTIAL[subject] if c in {**columns, **declared.derived} and c != "sex"]
    birth = reading_of(sample.values.get(columns.get("birth_date", ""), ()), "", is_american=is_american).formats
    unused = _unused(subject, declared, sample, subjects)
    lines = [
        f"[subjects.{subject}]",
        f"files = {_files(path)}",
        *_reading(sample),
        "is_undated = true" if is_undated else f'date = "{clock}"',
        f"required = {_toml(required)}",
    ]
    if declared.constants:
        lines.append(f"constants = {_table({name: _toml(value) for name, value in declared.constants.items()})}")
    if declared.derived:
        lines.append(f"derived = {_table(declared.derived)}")
    if birth:
        lines.append(f"formats = {_table({'birth_date': _toml(list(birth[:1]))})}")
    if unused:
        lines.append("# Nothing was made of these; name them under `columns`, or leave them here.")
        lines.append(f"unused = {_toml(unused)}")
    missing = [c for c in _SKELETON.get(subject, ()) if c not in {**columns, **declared.derived, **declared.constants}]
    return [
        *lines,
        f"[subjects.{subject}.columns]",
        *_column_lines(subject, columns, sample),
        *(f'# {column} = "?"' for column in missing),
        *declared.tables,
        "",
    ]


#: What a reader of a draft looks for first, found or not.
_SKELETON = {
    "er_visits": (
        "visit_id",
        "patient_id",
        "arrival_time",
        "triage_level",
        "provider_time",
        "departure_time",
        "disposition",
    )
}


def _table(values: Mapping[str, str]) -> str:
    """An inline table of TOML values."""
    return f"{{ {', '.join(f'{name} = {value}' for name, value in values.items())} }}"


def _column_lines(subject: str, columns: Mapping[str, str], sample: _Sample) -> list[str]:
    """A line for each of our columns that was found; those that only look alike are marked."""
    lines = []
    for column, synonyms in SYNONYMS[subject].items():
        if column in columns:
            source = columns[column]
            is_guess = source in sample.values and _likeness(source, synonyms) < 0.95
            lines.append(f"{column} = {_toml(source)}{'  # a guess' if is_guess else ''}")
    return lines


def _unused(subject: str, declared: _Declared, sample: _Sample, subjects: Sequence[str]) -> list[str]:
    """Source columns that neither this subject nor another one takes."""
    taken = {*declared.columns.values(), *_vital_columns(sample).values()}
    taken |= {s for s in sample.values if any(_toml(s) in text for text in declared.derived.values())}
    taken |= {source for other in subjects if other != subject for source in _matches(sample, other).values()}
    return [name for name in sample.values if name and name not in taken]


def _complete_patients(declared: _Declared, sample: _Sample) -> None:
    if "recorded_at" not in declared.columns:
        found = _matches(sample, "er_visits")
        _add_weak(found, "er_visits", sample)
        arrival = found.get("arrival_time")
        declared.columns["recorded_at"] = arrival or "@landed_at"


def _complete_visits(declared: _Declared, sample: _Sample) -> None:
    columns = declared.columns
    if "department" not in columns:
        declared.constants["department"] = "Emergency"
    arrival = [columns["arrival_time"]] if "arrival_time" in columns else []
    if "arrival_time" in declared.derived:
        arrival = list(tomllib.loads(f"x = {declared.derived['arrival_time']}")["x"].values())
    if "visit_id" not in columns and arrival and "patient_id" in columns:
        declared.derived["visit_id"] = _toml([columns["patient_id"], *arrival])
        declared.doubts.append("no visit number was found; patient and arrival together stand for it")
    waits = [name for name, values in sample.values.items() if _is_wait(name, values)]
    if waits and arrival and not {"provider_time"} & {*columns, *declared.derived}:
        at = _toml(arrival[0]) if len(arrival) == 1 else declared.derived["arrival_time"]
        declared.derived["provider_time"] = _table({"at": at, "plus_minutes": _toml(waits[0])})
        declared.doubts.append(f"'{waits[0]}' is taken for minutes from arrival to the first provider")
    # Of two deliveries of a visit the later one counts.
    columns.setdefault("recorded_at", "@landed_at")


def _is_wait(name: str, values: Sequence[str]) -> bool:
    """Whether a column holds minutes that somebody waited."""
    squeezed = _words(name).replace(" ", "")
    is_named_so = any(word in squeezed for word in _WAIT_WORDS)
    return is_named_so and bool(values) and _share(values[:200], lambda v: _number(v) is not None) > 0.8


def _complete_vitals(declared: _Declared, sample: _Sample) -> None:
    columns = declared.columns
    if "observation_id" not in columns:
        declared.derived["observation_id"] = _toml([columns["patient_id"], columns["measured_at"]])
    declared.tables.append("[subjects.vitals.payload]")
    for vital_sign, source in _vital_columns(sample).items():
        unit = VITAL_SIGNS[vital_sign][1]
        parameter = {"column": _toml(source), **({"unit": f'"{unit}"'} if unit else {})}
        declared.tables.append(f"{vital_sign} = {_table(parameter)}")


def _complete_diagnoses(declared: _Declared, _: _Sample) -> None:
    if "icd_version" not in declared.columns:
        declared.constants["icd_version"] = "10"
        declared.doubts.append("the codes are taken for ICD-10")


#: What a subject needs beyond the columns that were recognised.
_COMPLETED: Mapping[str, Callable[[_Declared, _Sample], None]] = {
    "patients": _complete_patients,
    "er_visits": _complete_visits,
    "vitals": _complete_vitals,
    "diagnoses": _complete_diagnoses,
}


def _code_maps(sample: _Sample, columns: Mapping[str, str], doubts: list[str]) -> list[str]:
    lines: list[str] = []
    for column, meanings in _CODES.items():
        values = sample.values.get(columns[column], ()) if column in columns else ()
        codes = [code for code, _ in Counter(values).most_common(40)]
        if column == "triage_level" and all(code in "12345" for code in codes):
            continue
        if not codes:
            continue
        lines.append(f"[code_maps.{column}]")
        for code in codes:
            meaning = meanings.get(code.lower()) or meanings.get(_words(code))
            if meaning is None and column == "department":
                # A department is known by standing on the right of a map.
                meaning = code
            if meaning is None:
                lines.append(f'# {_toml(code)} = "?"')
                doubts.append(f"what {column} {_toml(code)} means")
            else:
                lines.append(f"{_toml(code)} = {_toml(meaning)}")
        lines.append("")
    return lines
