"""Trying a source profile on files: what maps, what is missing, what would be quarantined, and why.

The files are read and validated by the very functions that build the tables, in memory; nothing is
stored, and no value of a record is shown but codes that no map knows.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import narwhals as nw
import polars as pl

from hospital_assets.assets.cleaned.subjects import VALIDATORS
from hospital_assets.contracts import CONTRACTS
from hospital_assets.landing.profile import (
    CODED,
    OTHER_RECORDS,
    SUBJECTS,
    Profile,
    Subject,
    canonical_columns,
    lacking_of,
)
from hospital_assets.landing.registry import Profiles
from hospital_assets.landing.zone import LandingZone
from hospital_assets.warehouse.database import scratch_connection
from hospital_assets.warehouse.dialect import Frame, checkpoint

#: Rules whose broken records are repetitions, not mistakes.
REPETITIONS = ("duplicate", "superseded")
#: How many unknown codes are named.
_MOST_CODES = 8


@dataclass(frozen=True)
class Trial:
    """What became of one file as records of one subject.

    Attributes:
        source_file: the file, relative to what was tried.
        state: as in raw_landed_files.
        clean: how many would be in the cleaned table.
        columns: our column -> what it is read from; `—` where the source has nothing.
        quarantined: rule -> records.
        flagged: quality code -> records.
        unknown_codes: our column -> landed codes that no map knows -> records.
        unused: columns of the file that nothing reads.
        lacking: our derived column -> source names it is made of that the file does not have.
    """

    source_file: str
    subject: str
    state: str
    problem: str | None
    records: int
    clean: int = 0
    columns: Mapping[str, str] = field(default_factory=dict)
    quarantined: Mapping[str, int] = field(default_factory=dict)
    flagged: Mapping[str, int] = field(default_factory=dict)
    unknown_codes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    unused: Sequence[str] = ()
    lacking: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def outcome(self) -> str:
        """What became of the records, in words."""
        if self.state != "ready":
            return f"{self.state}; nothing would be loaded"
        if self.subject == OTHER_RECORDS:
            return f"{self.records:,} records that no subject takes; kept word for word"
        repeated = sum(n for rule, n in self.quarantined.items() if rule in REPETITIONS)
        broken = sum(self.quarantined.values()) - repeated
        return f"{self.records:,} records: {self.clean:,} clean, {broken:,} quarantined, {repeated:,} repetitions"

    def remarks(self) -> list[tuple[str, str]]:
        """What somebody should look at: title and text."""
        missing = [column for column, source in self.columns.items() if source == "—"]
        remarks = {
            "missing (null, unless the profile names them)": ", ".join(missing),
            "quarantined by rule": _listed(self.quarantined),
            "kinds" if self.subject == OTHER_RECORDS else "kept, with a code": _listed(self.flagged),
            "columns nobody reads": ", ".join(self.unused),
            **{f"codes of {column} that no map knows": _listed(codes) for column, codes in self.unknown_codes.items()},
        }
        return [(title, text) for title, text in remarks.items() if text]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:20])


def try_profile(profiles: Profiles, name: str, path: Path) -> list[Trial]:
    """Read a file, or a folder of them, with a profile.

    For a single file, the files next to it that it needs are read, too: hospitals and companions.

    Raises:
        ProfileError: there is no such profile, or it is wrong.
        FileNotFoundError: there is no such file, or the profile takes none of this name.
    """
    profile = profiles.named(name)
    files = _files(profile, path)
    with tempfile.TemporaryDirectory() as folder, closing(scratch_connection()) as connection:
        zone = LandingZone(
            Path(folder) / "landing", Path(folder) / "spool", date(1900, 1, 1), date(2999, 12, 31), connection, profiles
        )
        for inside, file in files.items():
            landed = zone.landing / name / inside
            landed.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, landed)  # no link: those are not followed
        ledger = zone.discover()
        asked = {f"{name}/{inside}" for inside in files} if path.is_dir() else {f"{name}/{path.name}"}
        hospitals = _hospitals(zone, ledger)
        events = _events(zone, ledger, hospitals)
        return [
            trial
            for row in ledger.filter(pl.col("source_file").is_in(sorted(asked))).rows(named=True)
            if (trial := _trial(zone, profile, ledger, row, hospitals, events)) is not None
        ]


def _files(profile: Profile, path: Path) -> dict[str, Path]:
    """Files to read, by their path below the profile's folder."""
    if path.is_dir():
        found = {
            file.relative_to(path).as_posix(): file
            for file in sorted(path.rglob("*"))
            if file.is_file() and profile.feeds(file.relative_to(path).as_posix())
        }
    elif path.is_file():
        found = {path.name: path} if profile.feeds(path.name) else {}
        for beside in sorted(path.parent.iterdir()) if found else ():
            feeds = profile.feeds(beside.name) if beside.is_file() else []
            if any(not feed.is_main or feed.subject == "hospitals" for feed in feeds):
                found.setdefault(beside.name, beside)
    else:
        raise FileNotFoundError(f"there is no file or folder {path}")
    if not found:
        patterns = sorted({p for spec in profile.subjects.values() for p in spec.files})
        raise FileNotFoundError(f"the profile '{profile.name}' takes no file called so; it takes {', '.join(patterns)}")
    return found


def _trial(
    zone: LandingZone,
    profile: Profile,
    ledger: pl.DataFrame,
    row: Mapping[str, object],
    hospitals: Frame,
    events: Frame | None,
) -> Trial | None:
    subject, source_file = str(row["subject"]), str(row["source_file"])
    inside = source_file.partition("/")[2]
    if row["state"] == "companion":
        return None
    trial = Trial(
        inside,
        subject,
        str(row["state"]),
        None if row["problem"] is None else str(row["problem"]),
        int(str(row["row_count"])),
        unused=tuple(str(row["unknown_columns"] or "").split(",")) if row["unknown_columns"] else (),
    )
    if row["state"] != "ready" or subject not in (*SUBJECTS, OTHER_RECORDS):
        return trial
    raw = checkpoint(zone.read(subject, ledger).filter(nw.col("source_file") == source_file))
    if subject == OTHER_RECORDS:
        kinds = _counted(raw, "kind")
        return replace(trial, flagged=kinds)
    more = {"events": events} if subject == "er_visits" else {}
    validated = checkpoint(VALIDATORS[subject](raw, hospitals, zone.profiles, **more).select("rule", "quality_codes"))
    rules = _counted(validated.filter(~nw.col("rule").is_null()), "rule")
    codes: Counter[str] = Counter()
    sound = validated.filter(nw.col("rule").is_null())
    for listed, count in _counted(sound, "quality_codes").items():
        codes.update(dict.fromkeys(filter(None, listed.split(";")), count))
    header = tuple(str(row["columns"] or "").split(","))
    (spec,) = (feed.spec for feed in profile.feeds(inside) if feed.subject == subject)
    return replace(
        trial,
        clean=trial.records - sum(rules.values()),
        columns={c: read_from(spec, c, header) for c in canonical_columns(subject)},
        quarantined=rules,
        flagged=dict(codes),
        unknown_codes=_unknown_codes(raw, profile, subject),
        lacking={c: names for c in spec.derived if spec.format == "csv" and (names := lacking_of(spec, c, header))},
    )


def _hospitals(zone: LandingZone, ledger: pl.DataFrame) -> Frame:
    """cleaned_hospitals, as far as the files tried say."""
    validated = VALIDATORS["hospitals"](zone.read("hospitals", ledger), zone.read("hospitals", ledger), zone.profiles)
    return checkpoint(validated.filter(nw.col("rule").is_null()).select("hospital_id", "time_zone"))


def _events(zone: LandingZone, ledger: pl.DataFrame, hospitals: Frame) -> Frame | None:
    """cleaned_adt_events, as far as the files tried say; None where no visits are tried, which alone ask for them."""
    if "er_visits" not in ledger["subject"]:
        return None
    validated = VALIDATORS["adt_events"](zone.read("adt_events", ledger), hospitals, zone.profiles)
    return checkpoint(validated.filter(nw.col("rule").is_null()))


def read_from(spec: Subject, column: str, header: Sequence[str]) -> str:
    """What one of our columns is read from, in words.

    Args:
        header: the columns of the file; of formats other than CSV, they do not matter.
    """
    if column in spec.constants:
        return f"always {spec.constants[column]!r}"
    if column in spec.derived:
        return f"derived from {spec.derived[column]}"
    if spec.join is not None and column in spec.join.columns:
        return f"{spec.join.columns[column]} of {', '.join(spec.join.files)}"
    if column == "payload" and (spec.payload or spec.observations):
        return "the vital signs declared"
    if column in ("event_type", "event_at") and spec.events:
        return "the events declared"
    names = spec.source_names(column)
    found = [n for n in names if n in header or n.startswith("@") or spec.format != "csv"]
    looked_up = [key for lookup in spec.lookups if lookup.column == column for key in lookup.keys.values()]
    if found or looked_up:
        return " or ".join([*found, *(f"looked up by {key}" for key in looked_up)])
    if column in spec.defaults:
        return f"always {spec.defaults[column]!r}"
    return "— (not in this source)" if column in spec.unavailable else "—"


def _unknown_codes(raw: Frame, profile: Profile, subject: str) -> dict[str, dict[str, int]]:
    """Landed codes that neither are ours nor have a translation."""
    from hospital_assets.assets.cleaned import diagnoses_and_procedures
    from hospital_assets.contracts import cleaned

    ours = {
        "arrival_mode": cleaned.ARRIVAL_MODES,
        "blood_group": cleaned.BLOOD_GROUPS,
        "code_system": [*cleaned.CODE_SYSTEMS, *diagnoses_and_procedures.CODE_SYSTEM_NAMES],
        "department": cleaned.DEPARTMENTS,
        "department_name": cleaned.DEPARTMENTS,
        "discharge_disposition": cleaned.DISPOSITIONS,
        "disposition": cleaned.DISPOSITIONS,
        "event_type": cleaned.ADT_EVENT_TYPES,
        "sex": cleaned.SEXES,
        "triage_level": [str(level) for level in range(1, 6)],
    }
    found = {}
    for column in CODED:
        if column not in canonical_columns(subject) or column not in ours:
            continue
        if CONTRACTS[f"raw_{subject}"].column(column).privacy not in ("operational", "quasi_identifier"):
            continue
        translated = profile.code_maps.get(column, {})
        known = {code.strip().upper() for code in (*ours[column], *translated, *translated.values())}
        unknown = {
            code: count
            for code, count in _counted(raw, column).items()
            if code.strip() and code.strip().upper() not in known
        }
        if unknown:
            found[column] = dict(Counter(unknown).most_common(_MOST_CODES))
    return found


def _counted(frame: Frame, column: str) -> dict[str, int]:
    """How often each value stands in a column, the most frequent first; blanks count as empty text."""
    counts = (
        frame.with_columns(_value=nw.coalesce(nw.col(column), nw.lit("")))
        .group_by("_value")
        .agg(_count=nw.len())
        .collect("polars")
        .to_native()
    )
    return dict(counts.sort("_count", "_value", descending=[True, False]).iter_rows())
