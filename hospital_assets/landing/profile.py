"""Source profiles: declarations of how the files of a source become our subjects.

A profile is a TOML file in `profiles/` and nothing else: the next source is a file of
declarations, not code. Files land in `landing/<profile name>/`. Belongs here: the vocabulary of a
profile and its validation. Does not: reading files.
"""

from __future__ import annotations

import functools
import re
import tomllib
from importlib import resources
from typing import Literal
from zoneinfo import available_timezones

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from hospital_assets.contracts import CONTRACTS
from hospital_assets.contracts.raw import DatedRecord, LandedRecord

#: What can be landed, in the order it is needed: dates are read in the hospitals' time zones.
SUBJECTS = (
    "hospitals",
    "departments",
    "doctors",
    "doctor_shifts",
    "patients",
    "er_visits",
    "vitals",
    "adt_events",
    "diagnoses",
    "procedures",
)
_BOOKKEEPING = frozenset(DatedRecord.to_schema().columns) | frozenset(
    LandedRecord.to_schema().columns
)


class ProfileError(ValueError):
    """A profile declares something that does not exist or cannot be."""


def canonical_columns(subject: str) -> list[str]:
    """The columns a source may fill for a subject."""
    return [name for name in CONTRACTS[f"raw_{subject}"].column_names if name not in _BOOKKEEPING]


class _Declaration(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Join(_Declaration):
    """Companion files whose records complete those of the main files."""

    files: tuple[str, ...]
    on: str
    columns: dict[str, str]


class Parameter(_Declaration):
    """A vital sign in a flat column; `unit` is UCUM, or absent where it must be inferred."""

    column: str
    unit: str | None = None


class DateLookup(_Declaration):
    """Take the service day from the visit a record belongs to."""

    subject: Literal["er_visits"]
    on: str


class Subject(_Declaration):
    """How the files of one subject are found and read.

    Attributes:
        files: glob patterns below `landing/<profile>/`.
        format: `csv`, or `jsonl` (one JSON object a line).
        delimiter: of CSV.
        columns: our column -> the source's name, or names in order of preference. For jsonl, a
            JSON path. Empty means the source uses our names.
        required: our columns without which a file is refused.
        constants: our column -> value for all records.
        derived: our column -> source columns joined by `-`; `@line` is the line number.
        payload: vital sign -> flat column and unit, for sources without a nested payload.
        date: our column that dates a record; absent for undated subjects.
        date_from: look the day up in the visit instead.
        join: companion files.
        rows: records declared right here (a source without master data).
    """

    files: tuple[str, ...] = ()
    format: Literal["csv", "jsonl"] = "csv"
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    columns: dict[str, str | tuple[str, ...]] = {}
    required: tuple[str, ...] = ()
    constants: dict[str, str] = {}
    derived: dict[str, tuple[str, ...]] = {}
    payload: dict[str, Parameter] = {}
    date: str | None = None
    date_from: DateLookup | None = None
    join: Join | None = None
    rows: tuple[dict[str, str], ...] = ()

    def source_names(self, column: str) -> tuple[str, ...]:
        """The names under which the source may deliver one of our columns."""
        declared = self.columns.get(column)
        if declared is None:
            return () if self.columns else (column,)
        return (declared,) if isinstance(declared, str) else declared

    def field(self, name: str) -> str:
        """The column of a file, or the field of its JSON objects, that a source name is in."""
        return name if self.format == "csv" else re.split(r"[.\[]", name.removeprefix("$."))[0]


class Profile(_Declaration):
    """One source: its files, codes, formats and time zone.

    Attributes:
        name: also the folder below `landing/`.
        description: what the source is.
        time_zone: IANA zone of clocks that belong to no hospital.
        dates_shifted: dates were moved for de-identification; nothing is "in the future" then.
        timestamp_formats: strptime formats beyond ISO 8601.
        subjects: what it delivers.
        code_maps: our column -> landed code -> our code; case and blanks do not matter.
    """

    name: str
    description: str
    time_zone: str
    dates_shifted: bool = False
    timestamp_formats: tuple[str, ...] = ()
    subjects: dict[str, Subject]
    code_maps: dict[str, dict[str, str]] = {}

    @field_validator("time_zone")
    @classmethod
    def _is_a_zone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError(f"'{value}' is not an IANA time zone, as in America/Chicago")
        return value

    @model_validator(mode="after")
    def _names_exist(self) -> Profile:
        for subject, spec in self.subjects.items():
            if subject not in SUBJECTS:
                raise ValueError(f"subjects.{subject}: no such subject; one of {SUBJECTS}")
            known = set(canonical_columns(subject))
            named = {*spec.columns, *spec.constants, *spec.derived, *spec.required}
            named |= set(spec.join.columns if spec.join else ())
            named |= {column for row in spec.rows for column in row}
            named |= {spec.date} if spec.date else set()
            for column in sorted(named - known):
                raise ValueError(
                    f"subjects.{subject}: '{column}' is not a column of raw_{subject}; "
                    f"it has {', '.join(sorted(known))}"
                )
            dated = CONTRACTS[f"raw_{subject}"].partitioned
            if dated and not (spec.date or spec.date_from):
                raise ValueError(f"subjects.{subject}: needs `date` or `date_from`")
        return self


@functools.cache
def available_profiles() -> tuple[str, ...]:
    """Names of the profiles that ship with the package."""
    folder = resources.files("hospital_assets.landing") / "profiles"
    return tuple(
        sorted(
            entry.name.removesuffix(".toml")
            for entry in folder.iterdir()
            if entry.name.endswith(".toml")
        )
    )


@functools.cache
def load_profile(name: str) -> Profile:
    """A profile by name.

    Raises:
        ProfileError: there is no such profile, or it declares something wrong; says where.
    """
    file = resources.files("hospital_assets.landing") / "profiles" / f"{name}.toml"
    if not file.is_file():
        raise ProfileError(f"no profile '{name}'; there are: {', '.join(available_profiles())}")
    return parse_profile(file.read_text(encoding="utf-8"), f"{name}.toml")


def parse_profile(text: str, file: str) -> Profile:
    """A profile from TOML text; `file` is named in errors.

    Raises:
        ProfileError: not TOML, or a declaration is wrong; names file, key and reason.
    """
    try:
        return Profile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{file}: not valid TOML: {error}") from error
    except ValidationError as error:
        said = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'profile'}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False)
        )
        raise ProfileError(f"{file}: {said}") from error
