"""Schema drift: how the columns of a feed's files differ from its profile and from each other.

Pure functions of the ledger. A changed feed never stops the others: what is new is kept word for word in
`record`, what is missing is null, what is required and missing keeps its file from being loaded; each is reported here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from hospital_assets.landing.profile import Profile, Subject, canonical_columns
from hospital_assets.landing.registry import Profiles

Verdict = Literal["new", "alias", "missing", "blocked", "retyped", "reordered"]

ADVICE: dict[Verdict, str] = {
    "new": "kept in `record`; to adopt it, add a nullable column to the contract and name it in the "
    "profile: history shows null, new rows carry it",
    "alias": "read as the column it is an alias of; nothing to do",
    "missing": "files of this feed used to have it; its values are null. Ask the source, or name its "
    "new name in the profile",
    "blocked": "the file was not loaded: it lacks a required column. Correct the delivery, or name the "
    "column's new name in the profile",
    "retyped": "its values look different from what files of this feed usually hold (numbers, times or "
    "words); what cannot be read is quarantined. Ask the source, or name the format in the profile",
    "reordered": "columns are read by name; nothing to do",
}
#: What values look like, by the first that fits; else they are text.
_LOOKS = {
    "number": re.compile(r"[+-]?\d+([.,]\d+)?"),
    "time": re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ]\d{1,2}:\d{2}.*)?"),
}
_FEWEST_VALUES = 10
#: Verdicts that somebody should look at.
NOTEWORTHY: tuple[Verdict, ...] = ("new", "missing", "blocked", "retyped")


@dataclass(frozen=True)
class Drift:
    """One column that changed, in the files that have it so.

    Attributes:
        column: as landed (`new`), or ours.
        first_file: the first of them by name.
    """

    profile: str
    subject: str
    column: str
    verdict: Verdict
    files: int
    first_file: str

    def as_row(self) -> dict[str, Any]:
        """As people read it, with what to do."""
        shown = {"subject": self.subject, "column": self.column, "verdict": self.verdict, "files": self.files}
        return {**shown, "first_file": self.first_file, "what_to_do": ADVICE[self.verdict]}


def drifts(ledger: pl.DataFrame, profiles: Profiles) -> list[Drift]:
    """What changed in the columns of CSV feeds, and in the fields of JSON feeds.

    JSON leaves out what has no value, so a field that is not there says nothing: of JSON feeds, new and
    retyped fields are named.
    """
    headed = ledger.filter(pl.col("columns").is_not_null(), pl.col("state").is_in(["ready", "missing_column"]))
    headers = (
        headed.group_by("source_profile", "subject", "columns", "column_kinds", "state")
        .agg(pl.len().alias("files"), pl.col("source_file").min())
        .sort("source_profile", "subject", "source_file")
    )
    found: list[Drift] = []
    for (profile, subject), group in headers.group_by("source_profile", "subject", maintain_order=True):
        declared = profiles.get(str(profile))
        if declared is None:
            continue
        layouts: dict[str, tuple[Subject, list[str]]] = {}
        for source_file in group["source_file"]:
            for feed in declared.feeds(source_file.partition("/")[2]):
                if feed.subject == subject:
                    of_layout = layouts.setdefault(feed.spec.model_dump_json(), (feed.spec, []))
                    of_layout[1].append(source_file)
        for spec, files in layouts.values():
            headed = group.filter(pl.col("source_file").is_in(files))
            found += _of_feed(declared, str(subject), spec, headed)
    return found


def _of_feed(declared: Profile, subject: str, spec: Subject, headers: pl.DataFrame) -> list[Drift]:
    names = {
        column: tuple(spec.field(name) for name in spec.source_names(column)) for column in canonical_columns(subject)
    }
    usual, usual_kinds = _usual_order(headers), _usual_kinds(headers)
    landed_names = {name for header in headers["columns"] for name in header.split(",")}
    ever = {column for column, aliases in names.items() if landed_names & set(aliases)}
    #: (column, verdict) -> how many files, and the first of them.
    found: dict[tuple[str, Verdict], tuple[int, str]] = {}
    for row in headers.iter_rows(named=True):
        header = row["columns"].split(",")
        known = declared.known_columns(row["source_file"].partition("/")[2])
        verdicts: list[tuple[str, Verdict]] = [(landed, "new") for landed in header if landed not in known]
        verdicts += [
            (landed, "retyped")
            for landed, kind in _kinds(row).items()
            if kind and kind != usual_kinds[landed] and landed in known
        ]
        if spec.format == "csv":
            verdicts += _of_header(spec, header, names, ever)
            if [name for name in header if name in usual] != [name for name in usual if name in header]:
                verdicts.append(("", "reordered"))
        for key in verdicts:
            before, first = found.get(key, (0, row["source_file"]))
            found[key] = (before + row["files"], min(first, row["source_file"]))
    return [
        Drift(declared.name, subject, column, verdict, files, file)
        for (column, verdict), (files, file) in sorted(found.items())
    ]


def _of_header(
    spec: Subject, header: Sequence[str], names: Mapping[str, tuple[str, ...]], ever: Collection[str]
) -> list[tuple[str, Verdict]]:
    """Our columns that a CSV header delivers under another name, or not at all.

    Args:
        names: our column -> the names a source may give it, the usual one first.
        ever: our columns that any file of the feed has delivered.
    """
    verdicts: list[tuple[str, Verdict]] = []
    for column, aliases in names.items():
        present = [alias for alias in aliases if alias in header]
        if present and present[0] != aliases[0]:
            verdicts.append((column, "alias"))
        elif aliases and not present and column not in spec.constants:
            if column in spec.required and column not in spec.derived:
                verdicts.append((column, "blocked"))
            elif column in ever:
                verdicts.append((column, "missing"))
    return verdicts


def kinds_of(columns: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The kind of each column's values: `number`, `time`, `text`, or `` where they disagree.

    A tenth of them may be dirt; a handful of values says nothing.

    Args:
        columns: name -> values of a sample, as landed.
    """
    kinds = {}
    for name, landed in columns.items():
        values = [value.strip() for value in landed if value.strip()]
        counts = Counter(
            next((kind for kind, looks in _LOOKS.items() if looks.fullmatch(value)), "text") for value in values
        )
        kind, count = counts.most_common(1)[0] if values else ("", 0)
        kinds[name] = kind if count >= max(_FEWEST_VALUES, 0.9 * len(values)) else ""
    return kinds


def _kinds(row: Mapping[str, str]) -> dict[str, str]:
    columns, kinds = row["columns"].split(","), (row["column_kinds"] or "").split(",")
    # A column with a comma in its name makes one more of the names; old ledgers have no kinds.
    return dict(zip(columns, kinds, strict=True)) if len(columns) == len(kinds) else {}


def _usual_kinds(headers: pl.DataFrame) -> dict[str, str]:
    """Column -> what most files hold in it."""
    counts: dict[str, Counter[str]] = {}
    for row in headers.iter_rows(named=True):
        for column, kind in _kinds(row).items():
            counts.setdefault(column, Counter())[kind] += row["files"] if kind else 0
    return {c: max(sorted(found), key=found.__getitem__) for c, found in counts.items()}


def _usual_order(headers: pl.DataFrame) -> list[str]:
    counts: Counter[str] = Counter()
    for columns, files in headers.select("columns", "files").iter_rows():
        counts[columns] += files
    return max(sorted(counts), key=counts.__getitem__).split(",")
