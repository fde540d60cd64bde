"""A first draft of a source profile, from a sample of what the source sends.

Columns are matched to ours by their names (see `synonyms.toml`) and by the look of
their values; whatever is a guess is said so in a comment. Pure functions of text. A draft is made to be
read, corrected and tried with `hospital profiles test`, not to be trusted.
"""

from __future__ import annotations

import csv
import difflib
import io
import itertools
import json
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib import resources
from pathlib import Path

from hospital_assets.landing.content import as_json_lines, read_content
from hospital_assets.landing.profile import Profile, parse_profile

#: How many records are looked at.
_SAMPLE = 2000
#: How alike two names must be (0 to 1) to mean the same.
_ALIKE = 0.84

_WORDS = tomllib.loads(resources.files(__package__).joinpath("synonyms.toml").read_text(encoding="utf-8"))
#: Subject -> our column -> how sources call it.
SYNONYMS: Mapping[str, Mapping[str, Sequence[str]]] = _WORDS["columns"]
#: Vital sign -> how sources call its column, and the unit where its numbers say nothing else.
VITAL_SIGNS: Mapping[str, tuple[Sequence[str], str | None]] = {
    name: (stated["names"], stated.get("unit")) for name, stated in _WORDS["vital_signs"].items()
}
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
_FORMATS = [
    f"{day}{gap}{time}"
    for day in ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y%m%d")
    for gap, time in ((" ", "%H:%M:%S"), (" ", "%H:%M"), (" ", "%I:%M %p"), ("", "%H%M%S"))
]
_DATE_FORMATS = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%Y/%m/%d", "%Y%m%d")


@dataclass
class Draft:
    """A drafted profile.

    Attributes:
        text: TOML with comments; it parses.
        profile: what it says.
        subjects: what the file was taken for.
        doubts: what somebody should look at, in words.
    """

    text: str
    profile: Profile
    subjects: tuple[str, ...]
    doubts: list[str] = field(default_factory=list)


class DraftError(ValueError):
    """Nothing could be made of the sample; says why and what to do."""


@dataclass(frozen=True)
class _Sample:
    """Some records of a file: source name -> values that are not blank."""

    values: Mapping[str, Sequence[str]]
    format: str
    delimiter: str
    encoding: str


def draft_profile(name: str, path: Path, time_zone: str = "America/New_York") -> Draft:
    """Infer a profile from a sample file.

    Args:
        name: of the profile, and of its landing folder.
        path: a CSV file with a header, or JSON objects.
        time_zone: IANA zone of the hospital's clocks; nothing in a file tells it.

    Raises:
        DraftError: the file has no header or no columns that look like anything we know.
        UnreadableError: the bytes are no text.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise DraftError(f"'{name}' cannot be a folder's name: lower-case letters, digits, hyphens")
    sample = _sampled(path)
    matched = {subject: _matches(sample, subject) for subject in SYNONYMS}
    subjects = _subjects(matched, sample)
    if not subjects:
        raise DraftError(
            f"{path.name}: its columns ({', '.join(sample.values)}) look like no subject's; a visit "
            "needs a patient and an arrival, a patient a number and a sex, vital signs a patient and "
            "a time. Write the profile by hand, see docs/bring-your-own.md"
        )
    doubts: list[str] = []
    body = [_subject(s, matched[s], sample, path, subjects, doubts) for s in subjects]
    formats = _timestamp_formats(sample, [matched[s] for s in subjects], doubts)
    maps = _code_maps(sample, {c: n for s in subjects for c, n in matched[s].items()}, doubts)
    head = [
        f"# Drafted from {path.name}; read it, correct it, and try it: hospital profiles test {name} FILE",
        *(f"# LOOK: {doubt}" for doubt in doubts),
        f'name = "{name}"',
        f'description = "Drafted from {path.name}."',
        f'time_zone = "{time_zone}"  # of the clocks in the files',
        *([f"timestamp_formats = {_toml(formats)}"] if formats else []),
        "",
        *_hospitals(sample, matched[subjects[0]], path, time_zone, "er_visits" in subjects),
    ]
    text = "\n".join([*head, *itertools.chain.from_iterable(body), *maps]).rstrip() + "\n"
    return Draft(text, parse_profile(text, f"{name}.toml"), subjects, doubts)


# Looking at the sample ----------------------------------------------------------------------------


def _sampled(path: Path) -> _Sample:
    content = read_content(path.resolve())
    if content.text.lstrip()[:1] in ("{", "["):
        lines = as_json_lines(content.text).splitlines()[:_SAMPLE]
        values: dict[str, list[str]] = {}
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            for place, value in _flat(record, "$"):
                values.setdefault(place, []).append(value)
        return _Sample(values, "jsonl", ",", content.encoding)
    lines = content.text.splitlines()[: _SAMPLE + 1]
    if not lines:
        raise DraftError(f"{path.name} is empty")
    delimiter = max(",;\t|", key=lambda mark: min(line.count(mark) for line in lines[:20] if line))
    rows = list(csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter))
    header = rows[0]
    if len(header) < 2 or any(re.fullmatch(r"[\d.,:/ -]*", name) for name in header):
        raise DraftError(f"{path.name}: line 1 is no header; deliver the file with column names")
    columns = {
        name: [row[n].strip() for row in rows[1:] if len(row) == len(header) and row[n].strip()]
        for n, name in enumerate(header)
    }
    return _Sample(columns, "csv", delimiter, content.encoding)


def _flat(value: object, place: str) -> Iterable[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            key = name if re.fullmatch(r"\w+", name) else f'"{name}"'
            yield from _flat(inner, f"{place}.{key}")
    elif isinstance(value, (str, int, float)) and str(value).strip():
        yield place, str(value).strip()


def _words(name: str) -> str:
    """A column's name as words: `PatientID`, `patient_id` and `$.patient.id` are `patient id`."""
    name = name.removeprefix("$.")
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    plain = name.lower()
    for letter, written in (("ä", "ae"), ("ö", "oe"), ("ü", "ue"), ("ß", "ss")):
        plain = plain.replace(letter, written)
    return " ".join(re.findall(r"[a-z0-9]+", plain))


def _likeness(name: str, synonyms: Sequence[str]) -> float:
    words = _words(name)
    squeezed = words.replace(" ", "")
    best = 0.0
    for place, synonym in enumerate(synonyms):
        if squeezed == synonym.replace(" ", ""):
            return 1.0 - place / 1000
        ratio = difflib.SequenceMatcher(None, squeezed, synonym.replace(" ", "")).ratio()
        best = max(best, ratio * 0.95)
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
    if column.endswith(("_time", "_at")) or column in ("encounter_date", "birth_date"):
        return _share(some, lambda v: bool(_reads_as(v))) > 0.8
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


def _reads_as(value: str) -> list[str]:
    """The formats a text can be read by; `iso` for ISO 8601."""
    try:
        datetime.fromisoformat(value)
    except ValueError:
        pass
    else:
        return ["iso"] if not value.isdigit() else []
    found = []
    for known in (*_FORMATS, *_DATE_FORMATS):
        try:
            datetime.strptime(value, known)
        except ValueError:
            continue
        found.append(known)
    return found


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


def _files(path: Path) -> str:
    """A pattern for files like this one: digits are dates or counts."""
    stem = re.sub(r"[\d_.-]*\d[\d_.-]*", "*", path.name.split(".")[0]).rstrip("*_-")
    return _toml([f"{stem}*{''.join(path.suffixes[:1])}*"])


def _reading(sample: _Sample) -> list[str]:
    lines = [] if sample.format == "csv" else [f'format = "{sample.format}"']
    if sample.delimiter != ",":
        lines.append(f"delimiter = {_toml(sample.delimiter)}")
    if _has_decimal_commas(sample):
        lines.append('decimal = ","')
    if sample.encoding == "latin-1":
        lines.append('encoding = "cp1252"  # not UTF-8; Windows, most likely')
    return lines


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
    subject: str, columns: Mapping[str, str], sample: _Sample, path: Path, subjects: Sequence[str], doubts: list[str]
) -> list[str]:
    """The lines that declare a subject; what was guessed is added to `doubts`."""
    declared = _Declared(dict(columns), doubts=doubts)
    if subject != "patients" and "hospital_id" not in columns:
        declared.constants["hospital_id"] = "1"
    if complete := _COMPLETED.get(subject):
        complete(declared, sample)
    columns = declared.columns
    clock = _CLOCKS[subject]
    is_undated = clock not in columns or columns[clock] == "@landed_at"
    required = [c for c in _ESSENTIAL[subject] if c in columns and c != "sex"]
    birth = _formats_of(sample.values.get(columns.get("birth_date", ""), ()))
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
    if birth and birth != ["iso"]:
        lines.append(f"formats = {_table({'birth_date': _toml(birth[:1])})}")
    if unused:
        lines.append("# Nothing was made of these; name them under `columns`, or leave them here.")
        lines.append(f"unused = {_toml(unused)}")
    return [*lines, f"[subjects.{subject}.columns]", *_column_lines(subject, columns, sample), *declared.tables, ""]


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
    return [name for name in sample.values if name not in taken]


def _complete_patients(declared: _Declared, sample: _Sample) -> None:
    if "recorded_at" not in declared.columns:
        arrival = _matches(sample, "er_visits").get("arrival_time")
        declared.columns["recorded_at"] = arrival or "@landed_at"


def _complete_visits(declared: _Declared, sample: _Sample) -> None:
    columns = declared.columns
    if "department" not in columns:
        declared.constants["department"] = "Emergency"
    if "visit_id" not in columns:
        declared.derived["visit_id"] = _toml([columns["patient_id"], columns["arrival_time"]])
        declared.doubts.append("no visit number was found; patient and arrival together stand for it")
    waits = [name for name, values in sample.values.items() if _is_wait(name, values)]
    if waits and "provider_time" not in columns:
        sum_of = {"at": _toml(columns["arrival_time"]), "plus_minutes": _toml(waits[0])}
        declared.derived["provider_time"] = _table(sum_of)
        declared.doubts.append(f"'{waits[0]}' is taken for minutes from arrival to the first provider")
    # Of two deliveries of a visit the later one counts.
    columns.setdefault("recorded_at", "@landed_at")


def _is_wait(name: str, values: Sequence[str]) -> bool:
    """Whether a column holds minutes that somebody waited."""
    is_named_so = bool({"wait", "waiting", "wartezeit"} & set(_words(name).split()))
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


def _formats_of(values: Sequence[str]) -> list[str]:
    """Formats that read all of some texts, the likeliest first."""
    some = values[:_SAMPLE]
    if not some:
        return []
    read: Counter[str] = Counter()
    for value in some:
        read.update(_reads_as(value))
    return [known for known, count in read.most_common() if count >= 0.9 * len(some)]


def _timestamp_formats(sample: _Sample, matched: Sequence[Mapping[str, str]], doubts: list[str]) -> list[str]:
    """Formats of the clocks beyond ISO 8601; months and days that could be swapped are a doubt."""
    found: list[str] = []
    for columns in matched:
        for column, source in columns.items():
            if not column.endswith(("_time", "_at")):
                continue
            formats = _formats_of(sample.values.get(source, ()))
            if not formats or formats[0] == "iso":
                continue
            fits = [known for known in formats if known not in _DATE_FORMATS] or formats
            if fits[0] not in found:
                found.append(fits[0])
            if len(fits) > 1:
                said = f"clocks as in '{source}' fit {' and '.join(fits[:2])}; the first is taken"
                if said not in doubts:
                    doubts.append(said)
    return found


def _code_maps(sample: _Sample, columns: Mapping[str, str], doubts: list[str]) -> list[str]:
    lines: list[str] = []
    for column, meanings in _CODES.items():
        values = sample.values.get(columns.get(column, ""), ())
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
