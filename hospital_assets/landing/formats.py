"""Formats that are laid out as JSON lines before they are read.

A *normaliser* turns the lines of a landed file into JSON lines: one JSON object for each record, in
whatever shape profiles find handy. It streams: an iterator of lines in, an iterator of lines out, so
that a file of any size is read in bounded memory. Besides its own fields an object may carry

- `@line`: the first physical line of the record in the landed file (else the line it stands on),
- `@record`: the record verbatim (else the JSON line itself),
- `@problem`: why the record could not be read, one of the raw contract's problems.

Belongs here: which format has which normaliser. Each normaliser is a module of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

ANY_KIND = "any"
#: Lines of a landed file, line ends included -> JSON texts, one a record, without line ends.
Lines = Callable[[Iterator[str]], Iterator[str]]


class Normaliser(NamedTuple):
    """How a format becomes JSON lines.

    Attributes:
        lines: the function.
        version: raised when its output changes, so that kept copies are not used any more.
        is_numbered: every object is sound and carries `@line`, so nobody has to count the lines or to
            look whether they are JSON; that halves the time of reading.
        variant: which of the record's fields the objects have, where not all.
        kind_path: JSON path of what says of which kind a record is; a subject that takes only some
            kinds then reads only those.
        kind: the kind of a line, or `any` where the text would have to be parsed to know.
    """

    lines: Lines
    version: int
    is_numbered: bool = False
    variant: str = ""
    kind_path: str = ""
    kind: Callable[[str], str] = lambda line: ANY_KIND


def normaliser(name: str, names: frozenset[str] = frozenset()) -> Normaliser | None:
    """The normaliser of a profile's `format`; None for formats that are read as they are.

    Args:
        names: source names that the profile uses; a normaliser may leave out the rest of a record.

    Raises:
        NotImplementedError: the format is in the vocabulary, but nothing reads it yet.
    """
    # Imported where needed: a source that never sends HL7 should not pay for its parser.
    match name:
        case "csv" | "jsonl":
            return None
        case "hl7v2":
            from hospital_assets.landing.hl7v2 import named_fields, normalised

            wanted = named_fields(names) if names else None
            listed = ",".join(sorted(wanted or ()))
            return Normaliser(
                lambda lines: normalised(lines, getattr(lines, "encoding", "utf-8"), wanted),
                version=3,
                is_numbered=True,
                variant=f"-{hashlib.sha256(listed.encode()).hexdigest()[:8]}" if wanted else "",
            )
        case "fhir":
            from hospital_assets.landing import fhir

            return Normaliser(fhir.json_lines, fhir.VERSION, kind_path="$.resourceType", kind=fhir.resource_type)
        case _:
            raise NotImplementedError(f"nothing reads files of the format '{name}' yet")
